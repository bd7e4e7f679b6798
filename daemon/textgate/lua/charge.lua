-- SPDX-License-Identifier: MIT
-- Takes an amount from one budget, if it has that much left. The window slides: what was spent in the window before
-- counts for the part of it that still lies within one window's length from now.
-- KEYS[1]: the budget. ARGV: now_ms, window_ms, most, amount (0 only asks). Out: 0 if taken, else when to try again (ms).
local now, window_ms, most, amount = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local index = math.floor(now / window_ms)
local current = tonumber(redis.call('HGET', KEYS[1], index) or '0')
local former = tonumber(redis.call('HGET', KEYS[1], index - 1) or '0')
local used = current + former * (1 - (now % window_ms) / window_ms)
local left = most - math.max(amount, 1)
if used > left then
    -- Room comes when enough of the spent has slid out: in this window of the former one's, or in the next of this one's.
    local start, sliding, staying = index * window_ms, former, current
    if current > left then start, sliding, staying = start + window_ms, current, 0 end
    return start + math.ceil(window_ms * math.min(1, 1 - (left - staying) / sliding))
end
if amount > 0 then
    redis.call('HINCRBY', KEYS[1], index, amount)
    redis.call('HDEL', KEYS[1], index - 2, index - 3)
    redis.call('PEXPIRE', KEYS[1], 2 * window_ms)
end
return 0
