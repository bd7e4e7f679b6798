# SPDX-License-Identifier: MIT
"""One program run by the rig: started, waited for, heard, stopped, each by its own id.

A thread reads what the program prints and what it says to its notify socket (sd_notify(3)), and sees its end through
a pidfd. Whoever waits is woken by that thread: nothing here polls or sleeps.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from .people import WORLD

T = TypeVar("T")

READY_WITHIN_S = 20.0
STOP_WITHIN_S = 20.0
TAIL_LINE_COUNT = 40
PROGRAM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_marks = itertools.count()
_RUN_AS = str(Path(__file__).with_name("run_as.py"))
_PYTHON = os.path.realpath(sys.executable)  # goes on when a test takes away the name python3


class RigError(Exception):
    """A program did not do what the rig needs; the message ends with the program's last lines."""


@dataclass(frozen=True)
class Program:
    """What to run. user: None for root. listeners: sockets to hand over as systemd does, by name."""

    name: str
    argv: tuple[str, ...]
    user: str | None = None
    groups: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    listeners: Mapping[str, socket.socket] | None = None


class Process:
    """A running program. Make it with `Process.start`; end it with `stop` or `kill`, which may be called twice."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.lines: list[str] = []
        self.notices: list[str] = []
        self._changed = threading.Condition()
        self._exit_code: int | None = None
        self._notify_path = WORLD / "notify" / f"{program.name}.sock"
        self._notify = _notify_socket(self._notify_path)
        self._popen = self._spawn()
        os.set_blocking(self._stdout, False)
        self._pidfd = os.pidfd_open(self.pid)
        self._reader = threading.Thread(target=self._read, name=f"rig-{program.name}", daemon=True)
        self._reader.start()

    @classmethod
    def start(cls, program: Program, *, is_notifying: bool = True) -> Self:
        """Run a program and wait until it says READY=1, if it is one that does. Raises RigError when it doesn't."""
        process = cls(program)
        if is_notifying:
            try:
                process.wait_for(lambda: "READY=1" in process.notices or None, READY_WITHIN_S, "readiness")
            except BaseException:
                process.kill()
                raise
        return process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        with self._changed:
            return self._exit_code is None

    def wait_for(self, find: Callable[[], T | None], within_s: float, what: str) -> T:
        """The first answer of `find` that isn't None; asked again whenever the program says something.

        Raises RigError, naming `what` was waited for, when the time is over or the program ended without it.
        """
        deadline = time.monotonic() + within_s
        with self._changed:
            while (found := find()) is None:
                left_s = deadline - time.monotonic()
                if self._exit_code is not None:
                    raise RigError(f"{self.program.name} ended ({self._exit_code}) before {what}\n{self._tail()}")
                if left_s <= 0:
                    raise RigError(f"{self.program.name}: no {what} within {within_s:g} s\n{self._tail()}")
                self._changed.wait(left_s)
            return found

    def wait(self, within_s: float = STOP_WITHIN_S) -> int:
        """Its exit code once it has ended; -n for signal n. Raises RigError when it goes on running."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._exit_code is not None, within_s):
                raise RigError(f"{self.program.name} did not end within {within_s:g} s\n{self._tail()}")
            code = self._exit_code
        self._reader.join()
        return -1 if code is None else code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when the program has ended (a pidfd never hits somebody else)."""
        with self._changed, contextlib.suppress(ProcessLookupError):
            if self._exit_code is None:
                signal.pidfd_send_signal(self._pidfd, number)

    def stop(self) -> int:
        """SIGTERM, then its exit code; SIGKILL and RigError when that is not enough."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            return self.wait()
        except RigError:
            self.kill()
            raise

    def kill(self) -> int:
        """SIGKILL, then its exit code."""
        self.signal(signal.SIGKILL)
        return self.wait()

    def pause(self) -> None:
        """Stop it where it is (SIGSTOP): its sockets stay open and nothing answers. Returns once it stands still."""
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self.signal(signal.SIGCONT)

    def catch_up(self, within_s: float = READY_WITHIN_S) -> None:
        """Wait until all that it has printed so far is in `lines`."""
        mark = f"X_RIG_MARK={next(_marks)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker, contextlib.suppress(OSError):
            speaker.sendto(mark.encode(), str(self._notify_path))  # heard in its turn, by the thread that listens
            with self._changed:
                self._changed.wait_for(lambda: mark in self.notices or self._exit_code is not None, within_s)

    def tail(self) -> str:
        """Its last lines, for a message about a failure."""
        with self._changed:
            return self._tail()

    # --- The thread that listens. ---

    def _spawn(self) -> subprocess.Popen[bytes]:
        program = self.program
        environment = {"PATH": PROGRAM_PATH, "LANG": "C.UTF-8", "NOTIFY_SOCKET": str(self._notify_path)}
        environment |= program.environment or {}
        argv, handed_over = _with_run_as(program)
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=handed_over,
            env=environment,
            cwd="/",
            start_new_session=True,
        )

    @property
    def _stdout(self) -> int:
        if self._popen.stdout is None:
            raise RigError("no pipe")
        return self._popen.stdout.fileno()

    def _read(self) -> None:
        rest = b""
        with selectors.DefaultSelector() as selector:
            for handle in (self._stdout, self._notify.fileno(), self._pidfd):
                selector.register(handle, selectors.EVENT_READ)
            has_ended = False
            while not has_ended:
                ready = {key.fd for key, _ in selector.select()}
                has_ended = self._pidfd in ready
                notices = self._read_notices()
                rest = self._read_output(selector, rest)
                # Behind the output, so that whoever sees a notice also sees what was printed before it.
                with self._changed:
                    self.notices.extend(notices)
                    self._changed.notify_all()
        exit_code = self._popen.wait()
        with self._changed:
            if rest:
                self.lines.append(rest.decode(errors="replace"))
            self._exit_code = exit_code
            self._changed.notify_all()
        self._close()

    def _read_output(self, selector: selectors.BaseSelector, rest: bytes) -> bytes:
        """Take what was printed; answers the begin of a line whose end is not there yet."""
        while True:
            try:
                chunk = os.read(self._stdout, 65536)
            except BlockingIOError:
                return rest
            if not chunk:
                with contextlib.suppress(KeyError):
                    selector.unregister(self._stdout)
                return rest
            *whole, rest = (rest + chunk).split(b"\n")
            with self._changed:
                self.lines.extend(line.decode(errors="replace") for line in whole)
                self._changed.notify_all()

    def _read_notices(self) -> list[str]:
        notices: list[str] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                notices += self._notify.recv(8192).decode(errors="replace").splitlines()
        return notices

    def _close(self) -> None:
        os.close(self._pidfd)
        self._notify.close()
        self._notify_path.unlink(missing_ok=True)
        if self._popen.stdout is not None:
            self._popen.stdout.close()

    def _tail(self) -> str:
        shown = self.lines[-TAIL_LINE_COUNT:]
        return "\n".join(f"    {self.program.name}: {line}" for line in shown) or "    (it printed nothing)"


def _notify_socket(path: Path) -> socket.socket:
    """A socket as systemd's, that a program of any user may write to."""
    path.parent.mkdir(mode=0o755, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    listener.bind(str(path))
    path.chmod(0o666)
    return listener


def _with_run_as(program: Program) -> tuple[Sequence[str], tuple[int, ...]]:
    """The command line with the change of user and the sockets put before it, and the descriptors it needs."""
    listeners = program.listeners or {}
    if program.user is None and not listeners:
        return program.argv, ()
    descriptors = tuple(listener.fileno() for listener in listeners.values())
    front = run_as(program.user or "root", program.groups, descriptors=descriptors, names=tuple(listeners))
    return [*front, *program.argv], descriptors


def run_as(
    user: str,
    groups: Sequence[str] = (),
    *,
    descriptors: Sequence[int] = (),
    names: Sequence[str] = (),
    has_terminal: bool = False,
) -> list[str]:
    """What to put before a command line so that it runs as `user`; see run_as.py."""
    front = [_PYTHON, "-I", "-S", "-B", _RUN_AS, user, ",".join(groups)]
    return [*front, ",".join(map(str, descriptors)), ":".join(names), "terminal" if has_terminal else "-"]
