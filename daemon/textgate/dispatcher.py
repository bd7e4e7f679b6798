# SPDX-License-Identifier: MIT
"""Threads: a bounded number of them for one kind of work, and one that calls back when a time has passed."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from .memory import clear_registers

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
        future: Future[T] = Future()
        try:
            self._pool.submit(_run, future, job)
        except RuntimeError:
            # Closed. Or there was no room for another thread, and then the job stands in line all the same: it is
            # taken back, unless one of the other threads has begun it already.
            if future.cancel():
                self._places.release()
                return None
        future.add_done_callback(lambda _done: self._places.release())
        return future

    def close(self) -> None:
        """Finish every job that was taken on; take no more."""
        self._pool.shutdown(wait=True)


def _run(future: Future[T], job: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = job()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
    clear_registers()


class Alarms:
    """Runs short jobs at their time, on one thread.

    A job that raises keeps none of the others from its time; what went wrong is its own to say.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()  # jobs of one moment keep their order
        self._changed = threading.Condition()
        self._is_closed = False
        # From the start: where there is no room for a thread, no login is to be the one that finds out.
        self._thread = threading.Thread(target=self._run, name="alarms", daemon=True)
        self._thread.start()

    def after(self, wait_s: float, job: Callable[[], None]) -> None:
        """Run a job in wait_s seconds; after `close`, never."""
        with self._changed:
            if self._is_closed:
                return
            heapq.heappush(self._due, (self._clock() + wait_s, next(self._numbers), job))
            if self._due[0][2] is job:
                self._changed.notify()

    def close(self) -> None:
        """Forget the jobs that are not due yet, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._due.clear()
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            clear_registers()  # at the start they are those of who started the thread
            with self._changed:
                while not self._is_closed and (not self._due or self._due[0][0] > self._clock()):
                    self._changed.wait(self._due[0][0] - self._clock() if self._due else None)
                if self._is_closed:
                    return
                job = heapq.heappop(self._due)[2]
            with contextlib.suppress(Exception):
                job()
            del job  # what it holds, such as the parts before a reload, must not wait for the next one
