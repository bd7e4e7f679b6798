# SPDX-License-Identifier: MIT
"""Watches whether anybody takes connections at Redis' address, where [failmode] lets in when nobody does.

Redis is away when no look has found it for `away_after_s`, and this machine was short of nothing at any of them.
One that has just ended is not: systemd starts it again within a second, and somebody may have brought its end about.
One that takes connections and does not answer, or answers with an error, is there: nobody is let in for it. Nor is
anybody for one on this machine that is silent: a user's flood of connections keeps its line full. One that was
started between two looks is not away either, though neither found it: who fills its disk at the right moments can end
it each time it is asked something.
Runs only with [failmode] store = "safe".
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

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
    """Connect once. A host on the network that answers nothing in timeout_s is not there; this machine always is."""
    faults: list[tuple[Any, OSError | None]] = []
    if isinstance(address, str):
        faults.append((address, _fault_at(socket.AF_UNIX, address, timeout_s)))
    else:
        try:
            found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
        except OSError:
            return Knock.UNCLEAR
        # Each address that the host has, but no further than one that takes the connection.
        for family, _kind, _protocol, _name, one in found:
            faults.append((one, _fault_at(family, one, timeout_s)))
            if faults[-1][1] is None:
                break
    if any(fault is None for _, fault in faults):
        return Knock.THERE
    return Knock.NOBODY if all(_is_nobody(one, fault) for one, fault in faults) else Knock.UNCLEAR


def _fault_at(family: int, address: Any, timeout_s: float) -> OSError | None:
    """What keeps us from a connection to one address; None if nothing does."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as ours:
            ours.settimeout(timeout_s)
            ours.connect(address)
    except OSError as error:
        return error
    return None


def _is_nobody(address: Any, fault: OSError | None) -> bool:
    is_silence = isinstance(fault, TimeoutError) and fault.errno in (None, errno.ETIMEDOUT)
    return is_absence(fault) or (is_silence and not _is_of_this_machine(address))


def _is_of_this_machine(address: Any) -> bool:
    """Whether a socket's address is this machine's own; also where that can't be told."""
    if isinstance(address, str):
        return True
    ip = ipaddress.ip_address(address[0].partition("%")[0])
    if ip.is_loopback:
        return True
    try:
        with socket.socket(socket.AF_INET if ip.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as ours:
            ours.connect(address)  # sends nothing; the kernel talks to its own address from that very address
            return ipaddress.ip_address(ours.getsockname()[0].partition("%")[0]) == ip
    except OSError as error:
        return not is_absence(error)  # without a way there it is none of ours


def started_mark(address: Address) -> object:
    """What changes whenever Redis is started, as far as it can be seen: the file of its Unix socket."""
    if not isinstance(address, str):
        return None
    try:
        status = os.lstat(address)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns


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
        mark: Callable[[], object] = lambda: None,
    ) -> None:
        """on_change: is told when Redis begins to count as away, and when it no longer does.

        mark: gives something else whenever Redis was started in between. May raise, which is no word on Redis.
        """
        self._look = look
        self._away_after_s = away_after_s
        self._shortage = shortage
        self._clock = clock
        self._on_change = on_change
        self._mark = mark
        self._marked: object = None
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
        former, self._marked = self._marked, self._mark()
        is_row = missed is not None and now_at - missed[1] <= STALE_S and self._marked == former
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
