-- SPDX-License-Identifier: MIT
-- Corrects what was taken from one budget, by more or by less, in the slice of time in which it was taken.
-- KEYS[1]: the budget. ARGV: the time of the charge in ms, window_ms, difference, ms after which Redis may clean it up.
-- Out: what that slice then holds.
local window_ms, difference = tonumber(ARGV[2]), tonumber(ARGV[3])
local slice = slice_at(tonumber(ARGV[1]), window_ms)
local then_held = math.max(0, tonumber(redis.call('HGET', KEYS[1], slice) or '0') + difference)
redis.call('HSET', KEYS[1], slice, then_held)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return then_held
