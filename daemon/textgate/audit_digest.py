# SPDX-License-Identifier: MIT
"""Events that somebody can bring about over and over: the first few are written, the rest are counted and told once.

systemd's journal drops what a unit writes too fast, whoever brought it about, and rotates old entries away. So what
is not the end of a login goes through here: commands that were refused, requests that break a rule, peers that may
not call, wrong passwords of programs. What a login ended with never does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from .audit import Audit, Event, Priority

WRITTEN = 5  # of one kind in a window
WINDOW_S = 300.0
KINDS = 256  # that are kept apart at the same time; further ones are counted together, by event and message alone

Later = Callable[[float, Callable[[], None]], object]


@dataclass
class _Kind:
    began_at: float
    event: Event
    message: str
    priority: Priority
    fields: dict[str, str]
    written: int = 0
    counted: int = 0


class Digest:
    """Writes to an Audit. Thread-safe, and never raises."""

    def __init__(self, audit: Audit, later: Later, clock: Callable[[], float] = time.monotonic) -> None:
        """later: calls a job after so many seconds; what was counted is told then, at the latest."""
        self._audit = audit
        self._later = later
        self._clock = clock
        self._kinds: dict[tuple[object, ...], _Kind] = {}
        self._lock = threading.Lock()

    def event(self, event: Event, message: str, *, priority: Priority = Priority.INFO, **fields: object) -> None:
        """As `Audit.event`. Events are of one kind when all that is said here is the same."""
        said = {name: str(value) for name, value in fields.items() if value is not None}
        self.flush(only_ended=True)
        with self._lock:
            kind = self._kind(event, message, priority, said)
            kind.written += 1
            if kind.written > WRITTEN:
                kind.counted += 1
                if kind.counted == 1:
                    self._later(WINDOW_S, self._flush_ended)
                return
        self._audit.event(event, message, priority=priority, **said)

    def _kind(self, event: Event, message: str, priority: Priority, said: dict[str, str]) -> _Kind:
        key: tuple[object, ...] = (event, message, priority, *sorted(said.items()))
        if key not in self._kinds and len(self._kinds) >= KINDS:
            key, said = (event, message, priority), {}
        return self._kinds.setdefault(key, _Kind(self._clock(), event, message, priority, said))

    def _flush_ended(self) -> None:
        self.flush(only_ended=True)

    def flush(self, *, only_ended: bool = False) -> None:
        """Tell what was counted. only_ended: of the windows that are over."""
        before = self._clock() - WINDOW_S
        with self._lock:
            ended = [key for key, kind in self._kinds.items() if not only_ended or kind.began_at <= before]
            told = [kind for kind in map(self._kinds.pop, ended) if kind.counted]
        for kind in told:
            self._audit.event(
                kind.event, f"{kind.message}, again and again",
                priority=kind.priority, **kind.fields, times=kind.counted,
            )  # fmt: skip
