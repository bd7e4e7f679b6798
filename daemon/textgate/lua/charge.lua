-- SPDX-License-Identifier: MIT
-- Takes an amount from one budget, if it has that much left. The window slides: it is cut into slices, and a slice
-- counts until all of it is past. So no window's length of time, wherever it starts, ever holds more than `most`; and
-- what was spent counts for a window, and for at most one slice longer.
-- KEYS[1]: the budget, a hash of slices. ARGV: now_ms (the store's time), window_ms, most, amount, 1 to take it or 0 to
-- ask only, ms after which Redis may clean it up.
-- Out: 0 if there is room for the amount, else when to try again (ms).
local now, window_ms, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local amount, takes = tonumber(ARGV[4]), ARGV[5] == '1'
local slice = slice_at(now, window_ms)

local used, slices = 0, {}
local flat = redis.call('HGETALL', KEYS[1])
for place = 1, #flat, 2 do
    local index, spent = tonumber(flat[place]), tonumber(flat[place + 1])
    -- Of a clock that has been set back (one slice ahead is another login's): it counts as of now.
    if index > slice + 1 then
        if takes then
            redis.call('HDEL', KEYS[1], flat[place])
            redis.call('HINCRBY', KEYS[1], slice, spent)
        end
        index = slice
    end
    if index >= slice - SLICES then
        used = used + spent
        slices[#slices + 1] = {index, spent}
    elseif takes then
        redis.call('HDEL', KEYS[1], flat[place])
    end
end

local over = used + math.max(amount, 1) - most
if over > 0 then
    -- Room comes when enough of the oldest slices have left.
    table.sort(slices, function(one, other) return one[1] < other[1] end)
    local leaving = slice
    for _, entry in ipairs(slices) do
        if over <= 0 then break end
        leaving, over = entry[1], over - entry[2]
    end
    return math.ceil((leaving + SLICES + 1) * window_ms / SLICES)
end
if takes and amount > 0 then
    redis.call('HINCRBY', KEYS[1], slice, amount)
    redis.call('PEXPIRE', KEYS[1], ARGV[6])
end
return 0
