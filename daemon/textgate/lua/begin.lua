-- A challenge for one session: the live one, or a new one if the limits allow a text.
-- In: now_ms, wall_ms, source, challenge_id, counter, expires_at_ms, expires_wall_ms, mac (the daemon's proof of these),
--    sealed ('' if none at hand), phone_tags, is_anew, the rules.
-- Out: {'locked', until, limit} | {'live', id, counter, sealed, send} | {'throttled', until, row, live} | {'need_secret'}
--    | {'counter_used', the last one} | {'new', id, counter, sealed, live, stranger}
-- live: whether the session's last code still works; in 'new', whether it does again if this text is refused.
-- stranger: whether the login comes from an address that no right code came from.
local until_ms, limit = locked_until()
if until_ms > 0 then return {'locked', until_ms, limit} end

local found = redis.call('HMGET', CHALLENGE, unpack(CHALLENGE_FIELDS))
local id, counter, send = found[1], found[2], found[6]
local is_alive = id and is_in_life(found[3], found[7])
if id and not is_alive then redis.call('DEL', CHALLENGE) end -- what has ended stays so, whatever clocks say next
local is_live = is_alive and number(found[4]) > 0 and has(arg.phone_tags, found[5])
    and string.sub(send, 1, 7) ~= 'refused'
if is_live and not arg.is_anew then
    return {'live', id, number(counter), redis.call('HGET', HOTP, 'secret') or '', send}
end

local free_at, held_by = 0, ''
for _, row in ipairs(arg.sends) do
    local row_free_at = room_at(UNANSWERED, row.most, row.window_ms)
    if row.most_in_all > 0 then
        row_free_at = math.max(row_free_at, room_at(ALL_UNANSWERED, row.most_in_all, row.window_ms))
    end
    if row_free_at > free_at then free_at, held_by = row_free_at, row.name end
end
if free_at > 0 then return {'throttled', free_at, held_by, is_live and 1 or 0} end

local sealed = redis.call('HGET', HOTP, 'secret')
if not sealed and arg.sealed == '' then return {'need_secret'} end
-- The counter only ever goes up and lives in the same key as the secret: neither can be lost without the other. The
-- daemon proposes the time, so that none comes twice after a backup was put back either.
local last_counter = number(redis.call('HGET', HOTP, 'counter'))
if last_counter >= 2 ^ 53 - 1 then return redis.error_reply('ERR the counter is at its end') end
if arg.counter <= last_counter then return {'counter_used', last_counter} end
counter = arg.counter
sealed = sealed or arg.sealed
redis.call('HSET', HOTP, 'secret', sealed, 'counter', string.format('%.0f', counter))
if is_decoy then keep(HOTP) end
redis.call('DEL', CHALLENGE)
if is_live then redis.call('HSET', CHALLENGE, 'former', cjson.encode(found)) end
redis.call('HSET', CHALLENGE, 'id', arg.challenge_id, 'counter', string.format('%.0f', counter),
    'expires_at_ms', arg.expires_at_ms, 'tries_left', arg.tries, 'phone_tag', arg.phone_tags[1], 'send', 'pending',
    'expires_wall_ms', arg.expires_wall_ms, 'mac', arg.mac)
redis.call('PEXPIRE', CHALLENGE, arg.life_ms + 60000)
note(arg.challenge_id, UNANSWERED, ALL_UNANSWERED)
return {'new', arg.challenge_id, counter, sealed, is_live and 1 or 0, is_known and 0 or 1}
