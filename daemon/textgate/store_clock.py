# SPDX-License-Identifier: MIT
"""The store's own time, and whether the store is the one that was left (STORE.md, "Time", "A store that went back").

Time: `now_ms` goes on by this machine's monotonic clock and never back, whatever happens to clocks of machines. Each
`confirm`, and `now_ms` now and then, is one step of lua/tick.lua, by which all hosts agree on it.
History: each step raises the store's mark. A store with a lower mark than was seen is an older copy; a new epoch
begins, in which nothing that was made before lets anybody in. So it does when the store was emptied or is another.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .audit import Audit, Event, Priority
from .boot import boot_id
from .errors import StoreUnavailable, StoreUnsound, TextgateError
from .seen import USED_MOST, Seen, read_seen, write_seen
from .store import Store

TICK_EVERY_MS = 5_000  # while there are logins; the daemon's pulse sees to it that hosts without any keep up
SAVE_EVERY_MS = 5_000
# No number of a store's record is beyond the ceiling, and none that is beyond half of it came there at once: what
# somebody has written there does not stay for ever in what was seen, once Redis is right again.
CEILING = 2**52
STRIDE_MOST = 2**36  # in ms two years

_MESSAGES = {
    "older": "the store is older than what was seen of it: recovery codes and codes under way are void",
    "emptied": "the store was emptied: recovery codes and codes under way are gone",
    "elsewhere": "another host found the store older: recovery codes and codes under way are void",
    "other": "the store is another one than before: recovery codes and codes under way are void",
}

Adopt = Callable[[int], None]


@dataclass(frozen=True)
class Hands:
    """The clocks of this machine. name: of this start of it, the same for all its processes."""

    name: str
    monotonic_ms: Callable[[], int]
    wall_ms: Callable[[], int]


def machine_hands(environ: Mapping[str, str]) -> Hands:
    """The real ones. The monotonic clock goes on while the machine sleeps."""
    space = "0"
    with contextlib.suppress(OSError):
        space = str(Path("/proc/self/ns/time").stat().st_ino)  # a container may have a monotonic clock of its own
    return Hands(
        name=f"{boot_id(environ)}.{space}",
        monotonic_ms=lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000,
        wall_ms=lambda: time.time_ns() // 1_000_000,
    )


class StoreClock:
    """Thread-safe. Connects to nothing before it is asked."""

    def __init__(
        self,
        store: Store,
        audit: Audit,
        *,
        hands: Hands | None = None,
        path: Path | None = None,
        adopt: Adopt | None = None,
        former: StoreClock | None = None,
    ) -> None:
        """path: the file of what was seen; None keeps it in memory. adopt: called with the epoch when
        nothing was seen before. former: what a reload replaces.
        """
        self._store = store
        self._audit = audit
        self._hands: Hands = hands or (former._hands if former else machine_hands(os.environ))
        self._path = path
        self._adopt = adopt
        self._lock = threading.Lock()  # guards what follows
        self._ticking = threading.Lock()  # of several that find the time old, one asks
        self._writing = threading.Lock()
        seen = former.seen if former else self._read()
        is_another = seen.store_name not in ("", store.name)
        self._seen = Seen(store_name=store.name) if is_another else replace(seen, store_name=store.name)
        if is_another:  # which root's configuration says, and no Redis: nothing went back, and nothing is void
            told = "[store] url names another store than before: it is believed as at a first start"
            audit.event(Event.SERVICE, told, priority=Priority.NOTICE, reason="another_url")
        # The store's time, and the monotonic one then.
        self._anchor: tuple[int, int] | None = former._anchor if former and not is_another else None
        self._ticked_at_ms = -TICK_EVERY_MS
        self._saved_at_ms = self._hands.monotonic_ms()
        self._is_failing = False  # whether the file could not be written last time

    # --- Time ---

    def now_ms(self) -> int:
        """The store's time in ms. Raises StoreUnavailable as long as the store has not been reached once."""
        if self._anchor is None:
            self.confirm()
        elif self._hands.monotonic_ms() - self._ticked_at_ms >= TICK_EVERY_MS and self._ticking.acquire(False):
            try:
                self.confirm()
            except StoreUnavailable:  # the time goes on without it
                self._ticked_at_ms = self._hands.monotonic_ms()
            finally:
                self._ticking.release()
        with self._lock:
            return self._local_ms()

    def wall_ms(self) -> int:
        """Milliseconds since 1970 by this machine's clock."""
        return self._hands.wall_ms()

    def _local_ms(self) -> int:
        if self._anchor is None:
            raise StoreUnavailable("the store has not been reached yet")
        at_ms, monotonic_ms = self._anchor
        return at_ms + max(0, self._hands.monotonic_ms() - monotonic_ms)

    # --- History ---

    @property
    def seen(self) -> Seen:
        """What was last seen of the store."""
        return self._seen

    def epoch(self) -> int:
        """The epoch as it was last seen. Raises StoreUnavailable as long as the store has not been reached once."""
        if self._anchor is None:
            return self.confirm()
        return self._seen.epoch

    def confirm(self) -> int:
        """Look at the store now and raise its mark. Returns its epoch.

        Raises StoreUnavailable; StoreUnsound for an answer that the script can't have given.
        """
        before = self._seen
        monotonic_ms = self._hands.monotonic_ms()
        at_ms, store_id, epoch, mark, finding = self._store.tick(
            self._hands.name, monotonic_ms, secrets.token_hex(16),
            before.store_id, before.epoch, before.mark, before.at_ms, self._hands.wall_ms(),
        )  # fmt: skip
        goes_on = epoch == before.epoch and mark > before.mark and store_id == before.store_id
        strides = ((before.epoch, epoch), (before.mark, mark), (before.at_ms, at_ms))
        goes_back = at_ms < before.at_ms or not (goes_on or epoch > before.epoch)
        if goes_back or not all(_is_stride(*one) for one in strides):
            raise StoreUnsound("the store told an older state than was seen")
        if not before.store_id and self._adopt is not None:
            self._adopt(epoch)  # before it is written down that the store was seen
        self._note(Seen(store_id, epoch, mark, at_ms, store_name=self._store.name), finding, monotonic_ms)
        return self._seen.epoch

    def _note(self, found: Seen, finding: str, monotonic_ms: int) -> None:
        """Take over what the store said, unless another thread has heard later things meanwhile."""
        with self._lock:
            local_ms = self._local_ms() if self._anchor else 0
            now_monotonic_ms = self._hands.monotonic_ms()
            told_ms = found.at_ms + now_monotonic_ms - monotonic_ms
            self._anchor = (max(local_ms, told_ms), now_monotonic_ms)
            self._ticked_at_ms = now_monotonic_ms
            is_new_epoch = found.epoch > self._seen.epoch
            if is_new_epoch and not finding and self._seen.store_id:
                finding = "elsewhere"
            if is_new_epoch and finding in _MESSAGES:
                self._seen = replace(found, noticed=finding, noticed_at_s=self._hands.wall_ms() // 1000)
            elif is_new_epoch:
                self._seen = found
            elif found.epoch == self._seen.epoch:
                mark, at_ms = max(found.mark, self._seen.mark), max(found.at_ms, self._seen.at_ms)
                self._seen = replace(self._seen, mark=mark, at_ms=at_ms)
        if is_new_epoch and finding in _MESSAGES:
            self._audit.event(
                Event.STORE, _MESSAGES[finding], priority=Priority.ALERT, reason=finding, epoch=found.epoch
            )
        if is_new_epoch or now_monotonic_ms - self._saved_at_ms >= SAVE_EVERY_MS:
            self.save()

    # --- Recovery codes that were used here ---

    def use_recovery(self, tag: str) -> bool:
        """Use a recovery code up on this host, in memory and on the disk. True for the first time in this epoch."""
        with self._lock:
            if tag in self._seen.used:
                return False
            self._seen = replace(self._seen, used=(*self._seen.used, tag)[-USED_MOST:])
        self.save()
        return True

    # --- The file ---

    def _read(self) -> Seen:
        try:
            return read_seen(self._path) if self._path else Seen()
        except TextgateError as error:
            self._audit.event(
                Event.FAULT, "what was seen of the store is lost", priority=Priority.ALERT, reason=error.message
            )
            return Seen()

    def save(self) -> None:
        """Write down what was seen. That it can't be is told once, and keeps nobody out."""
        if self._path is None or not self._seen.store_id:
            return
        fault = ""
        with self._writing:
            self._saved_at_ms = self._hands.monotonic_ms()
            try:
                write_seen(self._path, self._seen)
            except TextgateError as error:
                fault = error.message
            is_news, self._is_failing = bool(fault) and not self._is_failing, bool(fault)
        if is_news:
            told = "what was seen of the store is kept in memory only"
            self._audit.event(Event.FAULT, told, priority=Priority.ERROR, reason=fault)


def _is_stride(before: int, told: int) -> bool:
    """Whether a number of the store's record may have come from the one that was seen before."""
    return told < CEILING // 2 or (told < CEILING and told - before <= STRIDE_MOST)
