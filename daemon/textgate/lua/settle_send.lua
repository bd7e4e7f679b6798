-- How the text of a challenge ended. A refused one was never sent, so it is given back to the send limits.
-- In: challenge_id, send ('sent:...', 'unknown:...' or 'refused:...'), is_refused. Out: {'settled'} | {'gone'}
if arg.is_refused then
    for _, log in ipairs({SENDS, OTHER_SENDS, UNANSWERED, OTHER_UNANSWERED}) do
        redis.call('ZREM', log, arg.challenge_id)
    end
end
if redis.call('HGET', CHALLENGE, 'id') ~= arg.challenge_id then return {'gone'} end
redis.call('HSET', CHALLENGE, 'send', arg.send)
return {'settled'}
