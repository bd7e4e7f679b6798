# SPDX-License-Identifier: MIT
"""Kills a piece of work at every moment at which it has touched, or is about to touch, the disk or another program.

    for number in kill_points(lambda: work(make_place())): ...

`work` runs in a child process each time: the first is killed at the first moment, the next at the second, until one
comes to its end. Between two of them the caller looks at what was left. Moments: opening to write, renaming, linking,
removing, making folders, changing modes and owners, syncing, starting a program (Python audit events, os.fsync).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator

_EVENTS = frozenset(
    {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.truncate"}
    | {"os.symlink", "os.setxattr", "subprocess.Popen"}
)
_MOMENTS_MAX = 2000
_tick: list[Callable[[], None]] = []


def moment() -> None:
    """For what stands in for a program: here one would be started."""
    for tick in _tick:
        tick()


def kill_points(work: Callable[[], object], limit: int = _MOMENTS_MAX) -> Iterator[int]:
    """The number of each moment at which `work` was killed just now. Raises AssertionError if `work` fails."""
    for number in range(limit):
        status = _in_child(number, work)
        if status == 0:
            return
        assert status == -signal.SIGKILL, f"moment {number}: ended with {status}"
        yield number
    raise AssertionError("it does not come to an end")


def _in_child(number: int, work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _arm(number)
            work()
            status = 0
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _arm(number: int) -> None:
    """In the child, which is not seen again: count, and kill it when the number is reached."""
    left = [number]

    def tick() -> None:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        is_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if is_write or event in _EVENTS:
            tick()

    os.fsync = lambda _handle: tick()  # type: ignore[assignment]  # nothing here outlives a power cut anyhow
    _tick.append(tick)
    sys.addaudithook(hear)
