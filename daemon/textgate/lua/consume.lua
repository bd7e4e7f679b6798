-- The code was right: use the challenge up, once. Only the caller that gets 'pass' may let in.
-- In: now_ms, wall_ms, source, challenge_id, try_id, is_right (false: let in without a code), the rules. Out: {'pass'} | {'locked', until, limit} | {'used'}
local until_ms = row_locked_until()
if until_ms > now then return {'locked', until_ms, 'wrong_in_a_row'} end
local found = redis.call('HMGET', CHALLENGE, 'id', 'expires_at_ms', 'expires_wall_ms')
if found[1] ~= arg.challenge_id then return {'used'} end
redis.call('DEL', CHALLENGE)
if not is_in_life(found[2], found[3]) then return {'used'} end
drop(arg.challenge_id, UNANSWERED, OTHER_UNANSWERED, ALL_UNANSWERED)
if arg.is_right then forgive() else withdraw() end
return {'pass'}
