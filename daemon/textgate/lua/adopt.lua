-- SPDX-License-Identifier: MIT
-- Puts a proof beside what a version without proofs wrote, unless that has changed meanwhile.
-- KEYS[1]: a hash. ARGV: a field and what it must hold still, the field to be written and its value. Out: 1 or 0.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
return 1
