-- SPDX-License-Identifier: MIT
-- Stands before every script of a login. Names the keys and arguments, and holds the one rule on who is locked out.
-- ARGV[1] is a JSON object of named arguments; times are whole milliseconds since 1970 by the daemon's clock.
local HOTP, CHALLENGE, KNOWN, RECOVERY = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local arg = cjson.decode(ARGV[1])
local now = arg.now_ms
local DAY_MS = 86400000
local KEEP_MS = 2 * DAY_MS   -- longer than any window and any default lockout
local IN_FLIGHT_MS = 15000   -- a check that took a try and said nothing for so long has died
local KNOWN_MS = 90 * DAY_MS -- how long an address stays known after a right code from it

local function number(value) return tonumber(value or '') or 0 end

local function has(list, value)
    for _, entry in ipairs(list) do
        if entry == value then return true end
    end
    return false
end

-- Logins at the machine itself (sudo, su) and from addresses that a right code came from count apart from those of
-- strangers, who may use up half of a day's wrong codes and texts: who has stolen the first factor can lock himself
-- out, and not the owner. All of them together stay within the day's limit.
local is_known = arg.source == '' or (arg.source ~= nil and number(redis.call('ZSCORE', KNOWN, arg.source)) > now - KNOWN_MS)
local OURS, OTHERS = is_known and 5 or 9, is_known and 9 or 5
local GUARD, WRONG, SENDS, UNANSWERED = KEYS[OURS], KEYS[OURS + 1], KEYS[OURS + 2], KEYS[OURS + 3]
local OTHER_WRONG, OTHER_SENDS, OTHER_UNANSWERED = KEYS[OTHERS + 1], KEYS[OTHERS + 2], KEYS[OTHERS + 3]

local function half(most) return is_known and most or math.max(1, math.floor(most / 2)) end

-- Keep a key of this user at least as long as what it guards.
local function keep(key, at_least_ms) redis.call('PEXPIRE', key, math.max(KEEP_MS, at_least_ms or 0)) end

-- When a log (a sorted set by time) has room again under `most` entries in `window_ms`; 0 if it has room now.
local function room_at(log, most, window_ms)
    redis.call('ZREMRANGEBYSCORE', log, '-inf', now - DAY_MS)
    local deciding = redis.call('ZREVRANGE', log, most - 1, most - 1, 'WITHSCORES')
    local free_at = deciding[2] and number(deciding[2]) + window_ms or 0
    return free_at > now and free_at or 0
end

-- The same for what both kinds of address may have together in a day.
local function shared_room_at(log, other_log, most)
    redis.call('ZREMRANGEBYSCORE', other_log, '-inf', now - DAY_MS)
    local left = most - redis.call('ZCARD', other_log)
    if left <= 0 then
        local oldest = redis.call('ZRANGE', other_log, -left, -left, 'WITHSCORES')
        return number(oldest[2]) + DAY_MS
    end
    return room_at(log, left, DAY_MS)
end

-- Start a lockout, each twice as long as the one before. Returns its end.
local function lock()
    local level = redis.call('HINCRBY', GUARD, 'level', 1)
    local length_ms = math.min(arg.lockout_ms * 2 ^ math.min(level - 1, 40), arg.lockout_max_ms)
    redis.call('HSET', GUARD, 'locked_until_ms', now + length_ms, 'row', 0)
    keep(GUARD, 2 * length_ms)
    return now + length_ms
end

-- Until when the user is locked out; 0 if not. Counts checks under way as wrong ones until they are known.
local function locked_until()
    local until_ms = number(redis.call('HGET', GUARD, 'locked_until_ms'))
    if until_ms > now then return until_ms end
    until_ms = math.max(room_at(WRONG, half(arg.wrong_per_day), DAY_MS),
        shared_room_at(WRONG, OTHER_WRONG, arg.wrong_per_day))
    if until_ms > 0 then return until_ms end
    if number(redis.call('HGET', GUARD, 'row')) >= arg.wrong_in_a_row then
        local silent_since = number(redis.call('HGET', GUARD, 'row_at_ms')) + IN_FLIGHT_MS
        if silent_since <= now then return lock() end
        return silent_since
    end
    return 0
end

-- Count one code as wrong, before it is looked at (RFC 4226 §7.3).
local function count_wrong()
    redis.call('HINCRBY', GUARD, 'row', 1)
    redis.call('HSET', GUARD, 'row_at_ms', now)
    keep(GUARD, arg.lockout_max_ms)
    redis.call('ZADD', WRONG, now, arg.try_id)
    keep(WRONG)
end

-- Take that count back: nothing was compared after all.
local function withdraw()
    redis.call('ZREM', WRONG, arg.try_id)
    if number(redis.call('HGET', GUARD, 'row')) > 0 then redis.call('HINCRBY', GUARD, 'row', -1) end
end

-- Take it back and start anew: the code was right.
local function forgive()
    redis.call('ZREM', WRONG, arg.try_id)
    redis.call('HDEL', GUARD, 'row', 'row_at_ms', 'level')
    if arg.source ~= '' then
        redis.call('ZADD', KNOWN, now, arg.source)
        redis.call('ZREMRANGEBYRANK', KNOWN, 0, -33) -- the 32 newest
        redis.call('PEXPIRE', KNOWN, KNOWN_MS)
    end
end
