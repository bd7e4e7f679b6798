-- A recovery code: counted, looked up by its keyed hashes, and used up, all in one step. It counts only with the value
-- that the daemon asks for, by that value's SHA-1: a Redis that doesn't have the value can't make it up from that.
-- In: now_ms, source, try_id, recovery_tags, recovery_hashes, the rules.
-- Out: {'locked', until, limit} | {'wrong'} | {'void'}: there, but not with such a value | {'pass', left, tag, value}
local until_ms, limit = locked_until()
if until_ms > 0 then return {'locked', until_ms, limit} end
count_wrong()
local tag, value, is_void
for place, held in ipairs(redis.call('HMGET', RECOVERY, unpack(arg.recovery_tags))) do
    if held and has(arg.recovery_hashes, redis.sha1hex(held)) then
        tag, value = arg.recovery_tags[place], held
    elseif held then
        is_void = true
    end
end
if not tag then
    if number(redis.call('HGET', GUARD, 'row')) >= arg.wrong_in_a_row then return {'locked', lock(), 'wrong_in_a_row'} end
    return {is_void and 'void' or 'wrong'}
end
redis.call('HDEL', RECOVERY, tag)
redis.call('DEL', CHALLENGE) -- the text that was not needed
forgive()
return {'pass', redis.call('HLEN', RECOVERY), tag, value}
