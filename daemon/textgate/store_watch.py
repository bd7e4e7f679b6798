# SPDX-License-Identifier: MIT
"""Watches whether anybody takes connections at Redis' address, where [failmode] lets in when nobody does.

Redis is away when no look has found it for `away_after_s`, and this machine was short of nothing at any of them.
One that has just ended is not: systemd starts it again within a second, and somebody may have brought its end about.
One that takes connections and does not answer, or answers with an error, is there: nobody is let in for it.
Runs only with [failmode] store = "safe".
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from enum import Enum

from .away import is_absence
from .shortage import disk_shortage, local_shortage

LOOK_EVERY_S = 1.0
STALE_S = 10.0  # a look that is older than this says nothing: the thread had no time, or is gone
OWN_DATA = "/var/lib/textgate/redis"  # of textgate's own Redis; where it isn't used, the folder isn't there

# A Unix socket's path, or host and port.
Address = str | tuple[str, int]


class Knock(Enum):
    """What one look found."""

    THERE = "there"
    NOBODY = "nobody"
    UNCLEAR = "unclear"  # an error that says nothing of Redis


def knock(address: Address, timeout_s: float) -> Knock:
    """Connect once. A host on the network that answers nothing in timeout_s is not there."""
    faults: tuple[BaseException, ...]
    try:
        if isinstance(address, str):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as ours:
                ours.settimeout(timeout_s)
                ours.connect(address)
        else:
            socket.create_connection(address, timeout_s, all_errors=True).close()
        return Knock.THERE
    except OSError as error:  # of a Unix socket, or of the look-up of a name
        faults = (error,)
    except ExceptionGroup as errors:  # one for each address that the host has
        faults = errors.exceptions
    is_remote = not isinstance(address, str)  # a Unix socket keeps nobody waiting unless somebody holds it
    is_nobody = all(is_absence(fault) or (is_remote and isinstance(fault, TimeoutError)) for fault in faults)
    return Knock.NOBODY if is_nobody else Knock.UNCLEAR


class StoreWatch:
    """Knows since when Redis is away. Thread-safe."""

    def __init__(
        self,
        look: Callable[[], Knock],
        *,
        away_after_s: float,
        shortage: Callable[[], str | None] = lambda: disk_shortage(OWN_DATA) or local_shortage(),
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[bool], None] = lambda _is_away: None,
    ) -> None:
        """on_change: is told when Redis begins to count as away, and when it no longer does."""
        self._look = look
        self._away_after_s = away_after_s
        self._shortage = shortage
        self._clock = clock
        self._on_change = on_change
        self._missed: tuple[float, float] | None = None  # first and last look of a row that found nobody
        self._was_away = False
        self._ended = threading.Event()

    def start(self) -> None:
        """Look each second from now on. Where there is no room for a thread, Redis never counts as away."""
        with contextlib.suppress(RuntimeError):
            threading.Thread(target=self._run, name="store-watch", daemon=True).start()

    def close(self) -> None:
        """Look no more; from now on Redis counts as there."""
        self._ended.set()

    def look(self) -> None:
        """One look."""
        missed = self._missed
        is_nobody = self._look() is Knock.NOBODY and self._shortage() is None
        now_at = self._clock()
        is_row = missed is not None and now_at - missed[1] <= STALE_S
        self._missed = (missed[0] if missed is not None and is_row else now_at, now_at) if is_nobody else None
        is_away = self.is_away()
        if is_away is not self._was_away:
            self._was_away = is_away
            self._on_change(is_away)

    def is_away(self) -> bool:
        """Whether nobody took a connection for `away_after_s` up to now."""
        missed = self._missed  # replaced as a whole
        if missed is None or self._ended.is_set() or self._clock() - missed[1] > STALE_S:
            return False
        return missed[1] - missed[0] >= self._away_after_s

    def _run(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            try:
                self.look()
            except Exception:  # nobody is let in for what went wrong here
                self._missed = None
