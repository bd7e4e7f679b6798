-- SPDX-License-Identifier: MIT
-- A password typed anywhere else: counted in buckets, of which there is a fixed number, so that no flood of names and
-- addresses makes Redis grow. It is refused only if one of its buckets is full.
-- A bucket is one byte. 128 of them are a row, which begins with the slice of time that it counts; rows of slices that
-- are past are written over. So a table has 128 * rows bytes for each slice, and a ring of slices of that.
-- KEYS: the tables. ARGV: the slice of now, how many slices a window has, slices in the ring, ms of a slice, amount (1,
-- or -1 to take one back), when Redis may clean a table up (ms); then for each table: bucket, most.
-- Out: 0 counted; else when to try again (ms).
local slice, slices, ring, slice_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local amount = tonumber(ARGV[5])
local ROW = 128
local EMPTY = string.rep('\0', ROW)

-- The counts of a row in a slice. What a clock ahead of ours wrote counts as of now.
local function row_of(key, index, row)
    local stamp, counts = string.match(redis.call('HGET', key, index % ring .. ':' .. row) or '', '^(%d+):(.*)$')
    if not stamp or #counts ~= ROW or tonumber(stamp) < index then return EMPTY, false end
    return counts, tonumber(stamp) > slice
end

local function write(key, index, row, counts)
    redis.call('HSET', key, index % ring .. ':' .. row, string.format('%.0f:', index) .. counts)
end

local taken, free_at = {}, 0
for place, key in ipairs(KEYS) do
    local bucket, most = tonumber(ARGV[5 + 2 * place]), tonumber(ARGV[6 + 2 * place])
    local row, at = math.floor(bucket / ROW), bucket % ROW + 1
    if amount > 0 then
        local entries = {}
        for index = slice - slices, slice do
            local counts, is_ahead = row_of(key, index, row)
            if is_ahead then write(key, index, row, counts) end
            if string.byte(counts, at) > 0 then entries[#entries + 1] = {index, string.byte(counts, at)} end
        end
        free_at = math.max(free_at, room_at(entries, most, slices, slice_ms))
    end
    taken[place] = {key, row, at}
end
if free_at > 0 then return free_at end

for _, bucket in ipairs(taken) do
    local key, row, at = unpack(bucket)
    local counts = row_of(key, slice, row)
    local count = math.min(255, math.max(0, string.byte(counts, at) + amount))
    write(key, slice, row, string.sub(counts, 1, at - 1) .. string.char(count) .. string.sub(counts, at + 1))
    redis.call('PEXPIRE', key, ARGV[6])
end
return 0
