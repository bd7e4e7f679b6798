-- A recovery code: counted, looked up by its keyed hashes, and used up, all in one step.
-- In: now_ms, source, try_id, recovery_tags, the rules. Out: {'locked', until, limit} | {'wrong'} | {'pass', left}
local until_ms, limit = locked_until()
if until_ms > 0 then return {'locked', until_ms, limit} end
count_wrong()
if redis.call('HDEL', RECOVERY, unpack(arg.recovery_tags)) == 0 then
    if number(redis.call('HGET', GUARD, 'row')) >= arg.wrong_in_a_row then return {'locked', lock(), 'wrong_in_a_row'} end
    return {'wrong'}
end
redis.call('DEL', CHALLENGE) -- the text that was not needed
forgive()
return {'pass', redis.call('HLEN', RECOVERY)}
