-- SPDX-License-Identifier: MIT
-- Stands before every script. Names the keys and arguments, and holds the one rule on who is locked out.
-- ARGV[1] is a JSON object of named arguments; times are whole milliseconds since 1970 by the daemon's clock.
local HOTP, CHALLENGE, GUARD, WRONG, SENDS, UNANSWERED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local arg = cjson.decode(ARGV[1])
local now = arg.now_ms
local DAY_MS = 86400000
local KEEP_MS = 2 * DAY_MS   -- longer than any window and any default lockout
local IN_FLIGHT_MS = 15000   -- a check that took a try and said nothing for so long has died

local function number(value) return tonumber(value or '') or 0 end

local function has(list, value)
    for _, entry in ipairs(list) do
        if entry == value then return true end
    end
    return false
end

-- Keep a key of this user at least as long as what it guards.
local function keep(key, at_least_ms) redis.call('PEXPIRE', key, math.max(KEEP_MS, at_least_ms or 0)) end

-- Start a lockout, each twice as long as the one before. Returns its end.
local function lock()
    local level = redis.call('HINCRBY', GUARD, 'level', 1)
    local length_ms = math.min(arg.lockout_ms * 2 ^ math.min(level - 1, 40), arg.lockout_max_ms)
    redis.call('HSET', GUARD, 'locked_until_ms', now + length_ms, 'row', 0)
    keep(GUARD, 2 * length_ms)
    return now + length_ms
end

-- Until when the user is locked out; 0 if not. Counts in-flight checks as wrong ones until they are known.
local function locked_until()
    local until_ms = number(redis.call('HGET', GUARD, 'locked_until_ms'))
    if until_ms > now then return until_ms end
    redis.call('ZREMRANGEBYSCORE', WRONG, '-inf', now - DAY_MS)
    local count = redis.call('ZCARD', WRONG)
    if count >= arg.wrong_per_day then
        local freeing = redis.call('ZRANGE', WRONG, count - arg.wrong_per_day, count - arg.wrong_per_day, 'WITHSCORES')
        return number(freeing[2]) + DAY_MS + 1
    end
    if number(redis.call('HGET', GUARD, 'row')) >= arg.wrong_in_a_row then
        local silent_since = number(redis.call('HGET', GUARD, 'row_at_ms')) + IN_FLIGHT_MS
        if silent_since <= now then return lock() end
        return silent_since
    end
    return 0
end
