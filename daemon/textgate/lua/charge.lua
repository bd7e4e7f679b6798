-- SPDX-License-Identifier: MIT
-- Takes an amount from one budget, if it has that much left. The window slides: what was spent in the window before
-- counts for the part of it that still lies within one window's length from now.
-- KEYS[1]: the budget. ARGV: now_ms, window_ms, most, amount (0 only asks). Out: 0 if taken, else when to try again (ms).
local now, window_ms, most, amount = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local index = math.floor(now / window_ms)
local current = tonumber(redis.call('HGET', KEYS[1], index) or '0')
local former = tonumber(redis.call('HGET', KEYS[1], index - 1) or '0')
local used = current + former * (1 - (now % window_ms) / window_ms)
if used + math.max(amount, 1) > most then return (index + 1) * window_ms end
if amount > 0 then
    redis.call('HINCRBY', KEYS[1], index, amount)
    redis.call('HDEL', KEYS[1], index - 2, index - 3)
    redis.call('PEXPIRE', KEYS[1], 2 * window_ms)
end
return 0
