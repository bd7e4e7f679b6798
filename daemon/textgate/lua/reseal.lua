-- SPDX-License-Identifier: MIT
-- Puts a secret sealed with another key in the place of the same one, unless it has changed meanwhile.
-- KEYS[1]: a user's :hotp. ARGV: the record as it was, the record to be. Out: 1 if replaced, else 0.
if redis.call('HGET', KEYS[1], 'secret') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'secret', ARGV[2])
return 1
