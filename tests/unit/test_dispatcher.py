# SPDX-License-Identifier: MIT
"""A bounded number of threads and places; what exceeds it is refused at once. And jobs at their time."""

from __future__ import annotations

import threading
import weakref

import pytest

from textgate.dispatcher import Alarms, Dispatcher

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


# --- No room for another thread ---


def _refuse_to_start(_thread: threading.Thread) -> None:
    """As where the machine, or a limit of the service, has no thread left."""
    raise RuntimeError("can't start new thread")


def test_job_without_a_thread_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher = Dispatcher(threads=2, waiting=0)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _refuse_to_start)
        for _ in range(5):
            assert dispatcher.submit(lambda: None) is None
    job = dispatcher.submit(lambda: "done")
    assert job is not None, "a place was lost by it"
    assert job.result(WITHIN_S) == "done"
    dispatcher.close()


def test_job_that_was_refused_is_not_done_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands in the pool's line by then; a text that was said to be refused must not go out after all."""
    gate, dispatcher = _Gate(), Dispatcher(threads=2, waiting=2)
    first = dispatcher.submit(gate.job)
    gate.wait_entered(1)
    is_done = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _refuse_to_start)
        assert dispatcher.submit(is_done.set) is None
    gate.open()
    assert first is not None
    assert first.result(WITHIN_S) == "done"
    last = dispatcher.submit(lambda: "last")  # behind it in the line
    assert last is not None
    assert last.result(WITHIN_S) == "last"
    dispatcher.close()
    assert not is_done.is_set()


# --- At their time ---


def test_alarms_run_in_the_order_of_their_times() -> None:
    alarms, done, ran = Alarms(), threading.Event(), list[int]()
    alarms.after(0.02, done.set)
    for number, wait_s in ((3, 0.01), (1, 0), (2, 0)):
        alarms.after(wait_s, lambda number=number: ran.append(number))  # type: ignore[misc]
    assert done.wait(WITHIN_S)
    assert ran == [1, 2, 3]
    alarms.close()


def test_alarm_that_breaks_keeps_no_other_from_its_time() -> None:
    alarms, done = Alarms(), threading.Event()

    def broken() -> None:
        raise ValueError("broken")

    alarms.after(0, broken)
    alarms.after(0, done.set)
    assert done.wait(WITHIN_S)
    alarms.close()


def test_alarms_hold_nothing_of_a_job_that_ran() -> None:
    """A job belongs to a login, and so to the parts that a reload has replaced since."""

    class Held:
        pass

    alarms, freed = Alarms(), threading.Event()
    held = Held()
    weakref.finalize(held, freed.set)
    alarms.after(0, lambda held=held: None)  # type: ignore[misc]
    del held
    assert freed.wait(WITHIN_S)
    alarms.close()


def test_closed_alarms_run_nothing_any_more() -> None:
    alarms, ran = Alarms(), threading.Event()
    alarms.after(WITHIN_S, ran.set)
    alarms.close()
    alarms.after(0, ran.set)
    assert not ran.is_set()
