# SPDX-License-Identifier: MIT
"""A bounded number of threads that send texts, so that a slow gateway can't take the daemon's workers with it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Dispatcher:
    """Runs jobs on at most `threads` threads, with at most `waiting` more in line; refuses what exceeds that."""

    def __init__(self, *, threads: int, waiting: int, name: str = "send") -> None:
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)
        self._places = threading.BoundedSemaphore(threads + waiting)

    def submit(self, job: Callable[[], T]) -> Future[T] | None:
        """Start a job or put it in line. None when there is no place, or when it has been closed."""
        if not self._places.acquire(blocking=False):
            return None
        try:
            future = self._pool.submit(job)
        except RuntimeError:  # closed
            self._places.release()
            return None
        future.add_done_callback(lambda _done: self._places.release())
        return future

    def close(self) -> None:
        """Finish every job that was taken on; take no more."""
        self._pool.shutdown(wait=True)
