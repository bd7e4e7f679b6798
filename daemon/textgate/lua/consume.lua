-- The code was right: use the challenge up, once. Only the caller that gets 'pass' may let in.
-- In: now_ms, source, challenge_id, try_id, is_right (false: let in without a code), the rules. Out: {'pass'} | {'locked', until} | {'used'}
local until_ms = number(redis.call('HGET', GUARD, 'locked_until_ms'))
if until_ms > now then return {'locked', until_ms} end
local found = redis.call('HMGET', CHALLENGE, 'id', 'expires_at_ms')
if found[1] ~= arg.challenge_id or number(found[2]) <= now then return {'used'} end
redis.call('DEL', CHALLENGE)
redis.call('ZREM', UNANSWERED, arg.challenge_id)
redis.call('ZREM', OTHER_UNANSWERED, arg.challenge_id)
if arg.is_right then forgive() else withdraw() end
return {'pass'}
