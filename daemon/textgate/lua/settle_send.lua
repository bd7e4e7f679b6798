-- How the text of a challenge ended. A refused one was never sent: it is given back to the send limits, and the code
-- that it was to replace, if that one was still good, goes on as it was, tries and end of life included.
-- In: source, challenge_id, send ('sent:...', 'unknown:...' or 'refused:...'), is_refused. Out: {'settled'} | {'gone'}
if arg.is_refused then drop(arg.challenge_id, UNANSWERED, OTHER_UNANSWERED, ALL_UNANSWERED) end
if redis.call('HGET', CHALLENGE, 'id') ~= arg.challenge_id then return {'gone'} end
redis.call('HSET', CHALLENGE, 'send', arg.send)
local former = arg.is_refused and redis.call('HGET', CHALLENGE, 'former')
if former then
    for place, value in ipairs(cjson.decode(former)) do
        local field = CHALLENGE_FIELDS[place]
        if value then redis.call('HSET', CHALLENGE, field, value) else redis.call('HDEL', CHALLENGE, field) end
    end
end
redis.call('HDEL', CHALLENGE, 'former')
return {'settled'}
