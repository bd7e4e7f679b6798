-- The code was wrong; it is counted already. Starts the lockout if this one filled the row.
-- In: now_ms, source, the rules. Out: {'wrong'} | {'locked', until, limit}
local until_ms = row_locked_until()
if until_ms > now then return {'locked', until_ms, 'wrong_in_a_row'} end
if number(redis.call('HGET', GUARD, 'row')) >= arg.wrong_in_a_row then return {'locked', lock(), 'wrong_in_a_row'} end
return {'wrong'}
