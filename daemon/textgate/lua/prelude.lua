-- SPDX-License-Identifier: MIT
-- Stands before every script of a login. Names the keys and arguments, and holds the one rule on who is locked out.
-- ARGV[1] is a JSON object of named arguments; times are whole milliseconds. `now` is the store's time, which no jump of
-- a clock moves (tick.lua); `wall` is the clock of the daemon's machine, by which a code ends as well.
local HOTP, CHALLENGE, KNOWN, RECOVERY, ALL_WRONG, ALL_UNANSWERED = unpack(KEYS, 1, 6)
local arg = cjson.decode(ARGV[1])
local now, wall = arg.now_ms, arg.wall_ms
local DAY_MS = 86400000
local KEEP_MS = 2 * DAY_MS   -- a row and a level are forgotten so long after the last wrong code, or after twice the lockout
local TTL_MS = 400 * DAY_MS  -- Redis counts it by its machine's clock: no jump of less than that forgets anything
local IN_FLIGHT_MS = 15000   -- a check that took a try and said nothing for so long has died
local LONGEST_LIFE_MS = 660000 -- of a code, and a minute: what ends later than that is of a clock that was set back
local KNOWN_MS = 90 * DAY_MS -- how long an address stays known after a right code from it
local CHALLENGE_FIELDS = {'id', 'counter', 'expires_at_ms', 'tries_left', 'phone_tag', 'send', 'expires_wall_ms', 'mac'}
local is_decoy = string.find(HOTP, '{~', 1, true) -- of a name that NSS doesn't know: nobody can pass, anybody can make one

local function number(value) return tonumber(value or '') or 0 end

local function has(list, value)
    for _, entry in ipairs(list) do
        if entry == value then return true end
    end
    return false
end

-- Whether a code is alive by both clocks: whichever is further on ends it. One of an earlier version has no wall.
local function is_in_life(expires_at_ms, expires_wall_ms)
    local at, at_wall = number(expires_at_ms), number(expires_wall_ms)
    if at <= now or at > now + LONGEST_LIFE_MS then return false end
    return not expires_wall_ms or (at_wall > wall and at_wall <= wall + LONGEST_LIFE_MS)
end

-- Each place counts for itself: the machine (sudo, su), every address that a right code came from, and all addresses
-- that none came from, the strangers, together. No place may use up all of a day's wrong codes and texts: who has
-- stolen the first factor can lock out himself and those at the same place, and not the owner elsewhere.
local known_at = redis.call('ZSCORE', KNOWN, arg.source) -- never: not 0, for now may be 1970-01-02
local is_known = arg.source == '' or (known_at and number(known_at) > now - KNOWN_MS)
local OURS, OTHERS = is_known and 7 or 10, is_known and 10 or 7
local GUARD, WRONG, UNANSWERED = unpack(KEYS, OURS, OURS + 2)
local OTHER_WRONG, OTHER_UNANSWERED = KEYS[OTHERS + 1], KEYS[OTHERS + 2]

-- Let Redis clean a key up one day. What has ended is told by the times within.
local function keep(key) redis.call('PEXPIRE', key, is_decoy and KEEP_MS or TTL_MS) end

-- Keep GUARD's row and level as long as what they guard; then they are forgotten, by the store's time.
local function keep_guard(at_least_ms)
    redis.call('HSET', GUARD, 'kept_until_ms', now + math.max(KEEP_MS, at_least_ms))
    keep(GUARD)
end
local kept_until_ms = number(redis.call('HGET', GUARD, 'kept_until_ms'))
if kept_until_ms > 0 and kept_until_ms <= now then redis.call('DEL', GUARD) end

-- Write something down in logs, and take it out of them.
local function note(member, ...)
    for _, log in ipairs({...}) do
        redis.call('ZADD', log, now, member)
        keep(log)
    end
end
local function drop(member, ...)
    for _, log in ipairs({...}) do redis.call('ZREM', log, member) end
end

-- When a log (a sorted set by time) has room again under `most` entries in `window_ms`; 0 if it has room now.
-- A window of 0 is no limit: of two logins at once the later one may carry the earlier time.
local function room_at(log, most, window_ms)
    if window_ms <= 0 then return 0 end
    redis.call('ZREMRANGEBYSCORE', log, '-inf', now - DAY_MS)
    -- What a clock that has been set back wrote ahead of now counts as of now: nobody waits until it gets there again.
    for _, member in ipairs(redis.call('ZRANGE', log, '(' .. now, '+inf', 'BYSCORE')) do note(member, log) end
    local deciding = redis.call('ZREVRANGE', log, most - 1, most - 1, 'WITHSCORES')
    local free_at = deciding[2] and number(deciding[2]) + window_ms or 0
    return free_at > now and free_at or 0
end

-- Start a lockout, each twice as long as the one before. Returns its end.
local function lock()
    local level = redis.call('HINCRBY', GUARD, 'level', 1)
    local length_ms = math.min(arg.lockout_ms * 2 ^ math.min(level - 1, 40), arg.lockout_max_ms)
    redis.call('HSET', GUARD, 'locked_until_ms', now + length_ms, 'row', 0)
    keep_guard(2 * length_ms)
    return now + length_ms
end

-- A time of GUARD, but not later than this: that one is of a clock that has been set back, and is put right.
local function guarded(field, latest)
    local at = number(redis.call('HGET', GUARD, field))
    if at <= latest then return at end
    redis.call('HSET', GUARD, field, latest)
    return latest
end

-- Until when a full row of wrong codes locks out; it is past if it doesn't.
local function row_locked_until() return guarded('locked_until_ms', now + arg.lockout_max_ms) end

-- Until when the user is locked out, and by which limit; 0 if not. Counts checks under way as wrong ones until they
-- are known.
local function locked_until()
    local until_ms = row_locked_until()
    if until_ms > now then return until_ms, 'wrong_in_a_row' end
    until_ms = math.max(room_at(WRONG, arg.wrong_per_place, DAY_MS), room_at(ALL_WRONG, arg.wrong_per_day, DAY_MS))
    if until_ms > 0 then return until_ms, 'wrong_per_day' end
    if number(redis.call('HGET', GUARD, 'row')) >= arg.wrong_in_a_row then
        local silent_since = guarded('row_at_ms', now) + IN_FLIGHT_MS
        if silent_since <= now then return lock(), 'wrong_in_a_row' end
        return silent_since, 'under_way'
    end
    return 0, ''
end

-- Count one code as wrong, before it is looked at (RFC 4226 §7.3).
local function count_wrong()
    redis.call('HINCRBY', GUARD, 'row', 1)
    redis.call('HSET', GUARD, 'row_at_ms', now)
    keep_guard(arg.lockout_max_ms)
    note(arg.try_id, WRONG, ALL_WRONG)
end

-- Take that count back: nothing was compared after all.
local function withdraw()
    drop(arg.try_id, WRONG, ALL_WRONG)
    if number(redis.call('HGET', GUARD, 'row')) > 0 then redis.call('HINCRBY', GUARD, 'row', -1) end
end

-- Take it back and start anew: the code was right. Its address may have become known since the try was taken.
local function forgive()
    drop(arg.try_id, WRONG, OTHER_WRONG, ALL_WRONG)
    redis.call('HDEL', GUARD, 'row', 'row_at_ms', 'level')
    if arg.source ~= '' then
        redis.call('ZADD', KNOWN, now, arg.source)
        redis.call('ZREMRANGEBYRANK', KNOWN, 0, -33) -- the 32 newest
        keep(KNOWN)
    end
end
