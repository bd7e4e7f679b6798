# SPDX-License-Identifier: MIT
"""What the daemon has counted since its start, for `textgate status` and for a PAM change that is being tried."""

from __future__ import annotations

import threading
import time
from collections import Counter


class Counts:
    """How often what happened since the start. Thread-safe."""

    def __init__(self) -> None:
        self._counter: Counter[str] = Counter()
        self._passed_at: dict[str, float] = {}
        self._lock = threading.Lock()
        self.started_at = time.time()

    def add(self, name: str) -> None:
        """Count one."""
        with self._lock:
            self._counter[name] += 1

    def note_pass(self, service: str) -> None:
        """Remember that a right code was given in a PAM service just now."""
        with self._lock:
            self._passed_at[service] = time.time()

    def passed_at(self, service: str) -> float | None:
        """Unix time of the last right code in a service since the start; None if there was none."""
        with self._lock:
            return self._passed_at.get(service)

    def read(self) -> dict[str, int]:
        """All counts, by name."""
        with self._lock:
            return dict(sorted(self._counter.items()))
