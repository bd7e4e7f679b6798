# SPDX-License-Identifier: MIT
"""What this process knows itself of the codes it has looked at: a second count beside the store's.

The store counts for all hosts and over restarts. This one holds where the store lies or has lost its memory: a code
that let somebody in does so once, and no text is worth more tries than it has. Bounded; an entry outlives the code.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

KEPT_MOST = 100_000  # at 150 logins a second, as many as live within KEPT_MS
KEPT_MS = 660_000  # as LONGEST_LIFE_MS in lua/prelude.lua


@dataclass
class _Spent:
    since_ms: int
    tries: int = 0
    is_used: bool = False


class Spent:
    """Thread-safe. Times are the store's."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Spent] = OrderedDict()  # by challenge, the oldest first
        self._lock = threading.Lock()

    def take(self, challenge_id: str, *, most: int, now_ms: int) -> bool:
        """Count a try of a challenge, before it is compared. False if it is one too many, or the code was used."""
        with self._lock:
            spent = self._of(challenge_id, now_ms)
            spent.tries += 1
            return spent.tries <= most and not spent.is_used

    def use(self, challenge_id: str, *, now_ms: int) -> bool:
        """Use a code up. True for the first that does."""
        with self._lock:
            spent = self._of(challenge_id, now_ms)
            is_first, spent.is_used = not spent.is_used, True
            return is_first

    def _of(self, challenge_id: str, now_ms: int) -> _Spent:
        while self._kept and (
            len(self._kept) >= KEPT_MOST or next(iter(self._kept.values())).since_ms <= now_ms - KEPT_MS
        ):
            self._kept.popitem(last=False)
        return self._kept.setdefault(challenge_id, _Spent(now_ms))
