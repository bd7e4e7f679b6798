-- SPDX-License-Identifier: MIT
-- A password typed where a right code of this user came from before: counted as wrong until it is known to be right.
-- KEYS: the user's known addresses, the counts of these. ARGV: now (ms), the address, the slice of now, how many slices
-- a window has, ms of a slice, the most from one address, the most from all that are known, amount (1, or -1 to take
-- one back), how long an address stays known (ms), when Redis may clean the counts up (ms).
-- Out: -1 for an address that is not known; 0 counted; else when to try again (ms).
local now, source, slice, slices, slice_ms = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local known_at = tonumber(redis.call('ZSCORE', KEYS[1], source) or '') or 0
local field = slice .. '@' .. source
if tonumber(ARGV[8]) < 0 then
    if tonumber(redis.call('HGET', KEYS[2], field) or '0') > 0 then redis.call('HINCRBY', KEYS[2], field, -1) end
    return 0
end
if known_at <= now - tonumber(ARGV[9]) then return -1 end

local ours, all = {}, {}
local flat = redis.call('HGETALL', KEYS[2])
for place = 1, #flat, 2 do
    local index, whose = string.match(flat[place], '^(%d+)@(.*)$')
    index = math.min(tonumber(index), slice) -- of a clock that was set back: it counts as of now
    if index < slice - slices then
        redis.call('HDEL', KEYS[2], flat[place])
    else
        local entry = {index, tonumber(flat[place + 1])}
        all[#all + 1] = entry
        if whose == source then ours[#ours + 1] = entry end
    end
end
local free_at = math.max(
    room_at(ours, tonumber(ARGV[6]), slices, slice_ms), room_at(all, tonumber(ARGV[7]), slices, slice_ms))
if free_at > 0 then return free_at end
redis.call('HINCRBY', KEYS[2], field, 1)
redis.call('PEXPIRE', KEYS[2], ARGV[10])
return 0
