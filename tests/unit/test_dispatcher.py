# SPDX-License-Identifier: MIT
"""A bounded number of threads and places; what exceeds it is refused at once."""

from __future__ import annotations

import threading

import pytest

from textgate.dispatcher import Dispatcher

WITHIN_S = 20.0


class _Gate:
    """A job that stands until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self._open = threading.Event()

    def job(self) -> str:
        self.entered.release()
        assert self._open.wait(WITHIN_S)
        return "done"

    def wait_entered(self, count: int) -> None:
        for _ in range(count):
            assert self.entered.acquire(timeout=WITHIN_S)

    def open(self) -> None:
        self._open.set()


@pytest.mark.parametrize(("threads", "waiting"), [(1, 0), (1, 1), (2, 3)])
def test_dispatcher_takes_threads_and_waiting_and_refuses_the_next(threads: int, waiting: int) -> None:
    gate, dispatcher = _Gate(), Dispatcher(threads=threads, waiting=waiting)
    taken = [dispatcher.submit(gate.job) for _ in range(threads + waiting)]
    gate.wait_entered(threads)
    assert None not in taken
    assert dispatcher.submit(gate.job) is None
    assert not gate.entered.acquire(blocking=False)  # and no more of them run than threads
    gate.open()
    assert [future.result(WITHIN_S) for future in taken if future] == ["done"] * (threads + waiting)
    dispatcher.close()


def test_place_is_free_again_after_a_job() -> None:
    dispatcher = Dispatcher(threads=1, waiting=0)
    for number in range(5):
        freed = threading.Event()
        future = dispatcher.submit(lambda number=number: number)  # type: ignore[misc]
        assert future is not None
        future.add_done_callback(lambda _done, freed=freed: freed.set())  # type: ignore[misc]
        assert future.result(WITHIN_S) == number
        assert freed.wait(WITHIN_S)
    dispatcher.close()


def test_place_is_free_again_after_a_job_that_broke() -> None:
    dispatcher = Dispatcher(threads=1, waiting=0)

    def broken() -> None:
        raise ValueError("broken")

    for _ in range(3):
        freed = threading.Event()
        future = dispatcher.submit(broken)
        assert future is not None
        future.add_done_callback(lambda _done, freed=freed: freed.set())  # type: ignore[misc]
        assert isinstance(future.exception(WITHIN_S), ValueError)
        assert freed.wait(WITHIN_S)
    dispatcher.close()


def test_close_finishes_what_was_taken_on_and_takes_no_more() -> None:
    gate, dispatcher = _Gate(), Dispatcher(threads=1, waiting=2)
    taken = [dispatcher.submit(gate.job) for _ in range(3)]
    gate.wait_entered(1)
    closer = threading.Thread(target=dispatcher.close)
    closer.start()
    gate.open()
    closer.join(WITHIN_S)
    assert [future.result(0) for future in taken if future] == ["done"] * 3
    assert dispatcher.submit(gate.job) is None
    assert dispatcher.submit(gate.job) is None


def test_threads_are_named_for_what_they_do() -> None:
    dispatcher = Dispatcher(threads=1, waiting=0, name="login")
    future = dispatcher.submit(lambda: threading.current_thread().name)
    assert future is not None
    assert future.result(WITHIN_S).startswith("login")
    dispatcher.close()
