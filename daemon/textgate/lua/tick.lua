-- SPDX-License-Identifier: MIT
-- The store's own time and its place in its own history (STORE.md, "Time" and "A store that went back").
-- The time goes on by what the monotonic clock of a machine says has passed since that machine last called. A machine
-- that starts anew has no such clock to compare: for the time before its first call the clock of Redis is believed,
-- and only forwards, and only for what no other machine's calls cover.
-- KEYS[1]: the record. ARGV: name of the caller's clock, its ms, an id for a record that isn't there; then what the
-- caller saw last: id ('' if nothing), epoch, mark, time; then its wall clock, for a Redis that doesn't tell its own.
-- Out: {time, id, epoch, mark, finding}; finding: '' | 'new' | 'older' | 'emptied' | 'other'
local MOST_CLOCKS = 64
local clock, clock_ms = 'clock:' .. ARGV[1], tonumber(ARGV[2])
local seen_id, seen_epoch, seen_mark, seen_at = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])

local told = redis.pcall('TIME')
local wall = told.err and tonumber(ARGV[8]) or tonumber(told[1]) * 1000 + math.floor(tonumber(told[2]) / 1000)

local flat, held = redis.call('HGETALL', KEYS[1]), {}
for place = 1, #flat, 2 do held[flat[place]] = flat[place + 1] end
local id, epoch, mark = held.id, tonumber(held.epoch or '0'), tonumber(held.mark or '0')
local at, last_wall = tonumber(held.at_ms or '0'), tonumber(held.wall_ms or '0')

local finding = ''
if not id then
    id, epoch, finding = ARGV[3], seen_epoch + 1, seen_id == '' and 'new' or 'emptied'
elseif epoch < seen_epoch then
    epoch, finding = seen_epoch + 1, 'older'
elseif seen_id ~= '' and epoch == seen_epoch and id ~= seen_id then
    epoch, finding = seen_epoch + 1, 'other'
elseif epoch == seen_epoch and mark < seen_mark then
    epoch, finding = seen_epoch + 1, 'older'
end
mark = math.max(mark, seen_mark) + 1

local then_ms, then_at = string.match(held[clock] or '', '^(%d+):(%d+)$')
if then_ms and tonumber(then_ms) <= clock_ms then
    at = math.max(at, tonumber(then_at) + clock_ms - tonumber(then_ms))
elseif at == 0 then
    at = wall
else
    at = at + math.max(0, wall - last_wall)
end
at = math.max(at, seen_at)
-- A clock that is behind (a machine without one of its own, before it has asked the network) leaves this as it is: else
-- the next start would take its way back to the right time for time that went by.
wall = math.max(wall, last_wall)

local function whole(value) return string.format('%.0f', value) end
redis.call('HSET', KEYS[1], 'id', id, 'epoch', whole(epoch), 'mark', whole(mark), 'at_ms', whole(at),
    'wall_ms', whole(wall), clock, whole(clock_ms) .. ':' .. whole(at))
local count, oldest, oldest_at = 0, nil, nil
for field, value in pairs(held) do
    if string.sub(field, 1, 6) == 'clock:' and field ~= clock then
        local other_at = tonumber(string.match(value, '^%d+:(%d+)$') or '') or 0
        count = count + 1
        if not oldest or other_at < oldest_at then oldest, oldest_at = field, other_at end
    end
end
if count >= MOST_CLOCKS then redis.call('HDEL', KEYS[1], oldest) end
return {at, id, epoch, mark, finding}
