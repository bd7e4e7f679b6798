# SPDX-License-Identifier: MIT
"""How often a member of the admin group may ask for what. Root is never made to wait.

The counts are this process's own and end with it. No limit on guessing hangs on them: whoever unlocks a user without
being root ends lockouts and leaves every count alone (`Store.unlock`).
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from .errors import ThrottledError
from .texts import duration


@dataclass(frozen=True)
class Rate:
    """At most `most` in any window_s seconds."""

    most: int
    window_s: float


REQUESTS = (Rate(10, 1.0), Rate(60, 60.0))  # of one user id, whatever they ask for
# Of all of them together: a member may have 65,536 further user ids (subuid(5)), and each is one that is counted.
REQUESTS_OF_ALL = (Rate(40, 1.0), Rate(600, 60.0))
UNLOCKS_OF_ONE = Rate(1, 300.0)  # unlocks of one user, by whichever members of the group
UNLOCKS = Rate(50, 86_400.0)  # unlocks by the group in all

ASK_ROOT = "wait, or ask root, who has no such limit"


class Rates:
    """Counts what was taken, by subject. Thread-safe. What is refused is not counted."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._taken: dict[tuple[str, Rate], deque[float]] = {}
        self._lock = threading.Lock()

    def wait_s(self, wanted: list[tuple[str, Rate]]) -> float:
        """Take one of each, or none. Returns 0, or in how many seconds there is room for all of them."""
        now = self._clock()
        with self._lock:
            self._forget(now)
            wait_s = max((self._free_at(key) - now for key in wanted), default=0.0)
            if wait_s > 0:
                return wait_s
            for key in wanted:
                self._taken.setdefault(key, deque()).append(now)
        return 0.0

    def _forget(self, now: float) -> None:
        """Drop what is past, so that what is kept is bounded by what the rates let happen."""
        for key, moments in list(self._taken.items()):
            while moments and moments[0] <= now - key[1].window_s:
                moments.popleft()
            if not moments:
                del self._taken[key]

    def _free_at(self, key: tuple[str, Rate]) -> float:
        moments, rate = self._taken.get(key, ()), key[1]
        return moments[-rate.most] + rate.window_s if len(moments) >= rate.most else 0.0


class AdminLimits:
    """What the admin socket asks before it does something for a user id. Raises ThrottledError for "not yet"."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._rates = Rates(clock)

    def take_request(self, uid: int) -> None:
        """Any request."""
        of_one = [(f"uid {uid}", rate) for rate in REQUESTS]
        self._take(uid, [*of_one, *(("all", rate) for rate in REQUESTS_OF_ALL)], "too many requests")

    def take_unlock(self, uid: int, user: str) -> None:
        """An unlock of a user who exists."""
        wanted = [(f"user {user}", UNLOCKS_OF_ONE), ("unlocks", UNLOCKS)]
        self._take(uid, wanted, "that user, or too many others, were unlocked a short time ago")

    def _take(self, uid: int, wanted: list[tuple[str, Rate]], cause: str) -> None:
        wait_s = 0.0 if uid == 0 else self._rates.wait_s(wanted)
        if wait_s > 0:
            raise ThrottledError(f"{cause}: wait {duration(wait_s)}", wait_s=wait_s, hint=ASK_ROOT)


# --- Connections ---

OF_ROOT, OF_OTHERS, OF_ONE = 32, 16, 4  # connections that are open at the same time; OF_ONE: of one of the others


@dataclass(frozen=True)
class Held:
    """One open connection. is_busy: a request of it is being answered. idle_since: seconds of a clock."""

    name: int
    uid: int
    is_busy: bool
    idle_since: float


def to_close(held: list[Held], uid: int) -> Held | None:
    """Which connection has to make room for a new one of this user id; None if there is room as it is.

    It is the one that has been idle for longest: of the same user id where that has its share, else of the one of the
    others who has most. So nobody's connections push out those of somebody with fewer. Raises ThrottledError when
    every one that could make room is being answered.
    """
    rivals = [one for one in held if (one.uid == 0) == (uid == 0)]
    own = [one for one in rivals if one.uid == uid]
    if uid != 0 and len(own) >= OF_ONE:
        rivals = own
    elif len(rivals) < (OF_ROOT if uid == 0 else OF_OTHERS):
        return None
    elif uid != 0:
        greediest = Counter(one.uid for one in rivals).most_common(1)[0][0]
        rivals = [one for one in rivals if one.uid == greediest]
    idle = [one for one in rivals if not one.is_busy]
    if not idle:
        raise ThrottledError("too many commands at once", wait_s=1.0, hint="try again in a moment")
    return min(idle, key=lambda one: one.idle_since)
