-- SPDX-License-Identifier: MIT
-- Corrects what was taken from one budget, by more or by less, in the window in which it was taken.
-- KEYS[1]: the budget. ARGV: the time of the charge in ms, window_ms, difference. Out: what that window then holds.
local index, difference = math.floor(tonumber(ARGV[1]) / tonumber(ARGV[2])), tonumber(ARGV[3])
local held = tonumber(redis.call('HGET', KEYS[1], index) or '0')
local then_held = math.max(0, held + difference)
redis.call('HSET', KEYS[1], index, then_held)
redis.call('PEXPIRE', KEYS[1], 2 * tonumber(ARGV[2]))
return then_held
