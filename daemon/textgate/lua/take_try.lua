-- Count first, compare second: takes a try of the challenge and counts it as wrong until `consume` says otherwise
-- (RFC 4226 §7.3). In: now_ms, wall_ms, source, try_id, phone_tags, the rules.
-- Out: {'locked', until, limit} | {'none'} | {'spent', send}
--    | {'try', id, counter, sealed, tries_left, send, phone_tag, expires_at_ms, expires_wall_ms, mac}
local until_ms, limit = locked_until()
if until_ms > 0 then return {'locked', until_ms, limit} end

local found = redis.call('HMGET', CHALLENGE, unpack(CHALLENGE_FIELDS))
if not found[1] then return {'none'} end
if not is_in_life(found[3], found[7]) then
    redis.call('DEL', CHALLENGE) -- told as ended once, it stays so, whatever clocks say next
    return {'none'}
end
if not has(arg.phone_tags, found[5]) then return {'none'} end
if number(found[4]) <= 0 then return {'spent', found[6]} end
local sealed = redis.call('HGET', HOTP, 'secret')
if not sealed then return {'none'} end

local tries_left = redis.call('HINCRBY', CHALLENGE, 'tries_left', -1)
count_wrong()
return {'try', found[1], number(found[2]), sealed, tries_left, found[6], found[5], number(found[3]), number(found[7]),
    found[8] or ''}
