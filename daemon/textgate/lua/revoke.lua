-- SPDX-License-Identifier: MIT
-- Remembers a revoked id until its end, by the store's time. Redis' own times to live go by the machine's clock, which
-- may jump. KEYS[1]: all revoked ids, by their end. ARGV: now in ms, the id, its end in ms. Out: 1
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[2])
return 1
