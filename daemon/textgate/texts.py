# SPDX-License-Identifier: MIT
"""Every sentence that a person at a login prompt can see. Each says what happened, then what to do.

They say the same to known and unknown users, and nothing of the cause that an attacker could use;
the journal has the cause.
"""

from __future__ import annotations

import math

from .limits import Scope

SENT = "A login code was texted to your phone."
ON_ITS_WAY = "A login code is on its way to your phone."
STILL_GOOD = "The login code texted to you before is still good. Press Enter alone for a new one."
SENT_ANEW = "A new login code was texted to your phone. Only the newest one counts."
ON_ITS_WAY_ANEW = "A new login code is on its way to your phone. Only the newest one counts."
NOT_SENT = "The login code could not be texted. Try again later, or ask your administrator."
NOT_SENT_ANEW = "The new login code could not be texted. The last one is still good."
WRONG = "That code is not right."
NONE_WAITING = "No login code is waiting for you: it was used, or has expired. Log in again to get a new one."
TRIES_SPENT = "Too many wrong codes for this text. Log in again to get a new one."
STORE_AWAY = "Login codes can't be made or checked at the moment. Try again later, or ask your administrator."
BUSY = "Too many people are logging in at this moment. Try again in a minute."
INTERNAL = "The login code service failed. Ask your administrator."


def locked(wait_s: float, row: str = "") -> str:
    """For a user who is locked out for wait_s more seconds. row: the limit on wrong codes that does it."""
    return f"{_LOCKED_WORDS.get(row, 'Too many wrong codes')}. Wait {duration(wait_s)}, or ask your administrator."


def throttled(wait_s: float, row: str = "") -> str:
    """For a user to whom nothing may be texted for wait_s more seconds. row: the limit on texts that does it."""
    cause = _THROTTLED_WORDS.get(row, "there were too many in a short time")
    return f"No login code was texted: {cause}. Wait {duration(wait_s)} and try again."


def budget(scope: Scope, wait_s: float) -> str:
    """When a budget that many users share is used up, until wait_s seconds from now."""
    return f"No login code was texted: {_BUDGET_WORDS[scope]}. Wait {duration(wait_s)}, or ask your administrator."


# By the names of the limits, as the store gives them.
_LOCKED_WORDS = {
    "wrong_in_a_row": "Too many wrong codes in a row",
    "wrong_per_day": "Too many wrong codes in a day",
    "under_way": "Too many codes are being checked at this moment",
}
_THROTTLED_WORDS = {
    "spacing": "another one was a moment ago",
    "quarter_hour": "there were too many in a quarter of an hour",
    "day": "there were too many in a day",
}
_BUDGET_WORDS = {
    Scope.PHONE: "too many went to this phone",
    Scope.SOURCE: "too many were asked for from your address",
    Scope.HOST: "too many people are logging in here",
    Scope.COUNTRY: "too many went out today",
    Scope.FLEET: "too many went out today",
    Scope.MONEY: "too many went out today",
}


def throttled_anew(wait_s: float) -> str:
    """For a user who asks for a new text too early, while the last code still works."""
    return f"A new login code can be texted in {duration(wait_s)}. The last one is still good."


def duration(wait_s: float) -> str:
    """A time in words, rounded up so that it never promises too much: 0.2 -> "1 second", 90 -> "2 minutes"."""
    for unit_s, unit in ((3600, "hour"), (60, "minute")):
        if wait_s > unit_s:
            return _count(math.ceil(wait_s / unit_s), unit)
    return _count(max(1, math.ceil(wait_s)), "second")


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"
