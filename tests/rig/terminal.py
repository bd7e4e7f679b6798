# SPDX-License-Identifier: MIT
"""A program on a terminal of its own, as a person sees it: what it shows is waited for, what she types is sent.

Everything that was shown is kept, so that a failure can show the whole screen. Waiting ends with the text, with the
end of the program, or with a deadline; nothing sleeps.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from .people import Person
from .process import PROGRAM_PATH, run_as

WITHIN_S = 20.0
IDLE_LOOK_S = 0.002
CTRL_C, CTRL_D, CTRL_Z, CTRL_BACKSLASH = "\x03", "\x04", "\x1a", "\x1c"
ENTER = "\r"
ROWS, COLUMNS = 24, 120
# What a terminal obeys instead of showing it: CSI and OSC sequences, other escapes, backspace and bell.
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]|[\x07\x08]")


class ScreenError(AssertionError):
    """The terminal did not show what was waited for; the message shows what it did."""


class Terminal:
    """A context manager: at the end of the `with` block the terminal is closed and the program ended."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        user: str = "root",
        environment: Mapping[str, str] | None = None,
        log: Callable[[], str] | None = None,
        watch: Callable[[str], None] | None = None,
    ) -> None:
        """log: a server's last lines, for the message of a failure. watch: is told all that is shown, as it comes."""
        self.shown = ""
        self._argv = tuple(argv)
        self._unread = ""
        self._bytes = b""
        self._log = log
        self._watch = watch
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        home = "/root" if user == "root" else f"/home/{user}"
        own = {"PATH": PROGRAM_PATH, "HOME": home, "USER": user, "LOGNAME": user, "SHELL": "/bin/bash",
               "LANG": "C.UTF-8", "TERM": "dumb"}  # fmt: skip
        command = [*run_as(user, has_terminal=True), *argv]
        self._popen = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=own | dict(environment or {}), cwd=home
        )
        os.close(slave)

    # --- What a person does. ---

    def expect(self, text: str, *, within_s: float = WITHIN_S) -> str:
        """Wait until the text is shown, behind what was waited for before; answers what came before it."""
        return self.expect_match(re.escape(text), within_s=within_s, what=repr(text)).string_before

    def expect_match(self, pattern: str, *, within_s: float = WITHIN_S, what: str = "") -> Shown:
        """Like `expect` with a regular expression."""
        compiled = re.compile(pattern)
        deadline = time.monotonic() + within_s
        while (match := compiled.search(self._unread)) is None:
            wanted = what or repr(pattern)
            if not self._is_ready(deadline):
                raise self._failure(f"{wanted} was not shown within {within_s:g} s")
            if not self._read():
                raise self._failure(f"the program ended before {wanted} was shown")
        before, self._unread = self._unread[: match.start()], self._unread[match.end() :]
        return Shown(match, before)

    def expect_end(self, *, within_s: float = WITHIN_S) -> int:
        """Wait for the program's end; answers its exit status, -n for signal n."""
        deadline = time.monotonic() + within_s
        while True:
            if not self._is_ready(deadline):
                raise self._failure(f"the program did not end within {within_s:g} s")
            if not self._read():
                break
        try:
            return self._popen.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise self._failure(f"the program let go of its terminal and did not end within {within_s:g} s") from None

    def press(self, text: str) -> None:
        """Press these keys."""
        os.write(self._master, text.encode())

    def enter(self, text: str = "") -> None:
        """Type a line and press Enter."""
        self.press(text + ENTER)

    def interrupt(self, key: str = CTRL_C, *, within_s: float = WITHIN_S) -> None:
        """Press a key that sends a signal, as soon as the program in front waits for keys.

        People are never so quick, but a test is: ssh loses a signal that comes between its prompt and its read, and
        dash one that comes while it starts a program.
        """
        deadline = time.monotonic() + within_s
        while not self._is_waiting():
            if time.monotonic() > deadline:
                raise self._failure(f"the program did not come to rest within {within_s:g} s")
            select.select([self._master], [], [], IDLE_LOOK_S)
        self.press(key)

    def answer(self, prompt: str, text: str, *, within_s: float = WITHIN_S) -> None:
        """Wait for a prompt, then type a line."""
        self.expect(prompt, within_s=within_s)
        self.enter(text)

    def wait_for_more(self, deadline: float) -> bool:
        """Take what is shown next, whatever it is; False when there is no more. deadline: by time.monotonic()."""
        return self._is_ready(deadline) and self._read()

    @property
    def rest(self) -> str:
        """What was shown behind the last thing waited for."""
        return self._unread

    def close(self) -> int:
        """Hang up, as when the window is closed, and end the program; answers its exit status."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
        try:
            return self._popen.wait(2)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            return self._popen.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # --- The screen. ---

    def _is_waiting(self) -> bool:
        """Whether every process of the group in front sleeps (state S of proc(5))."""
        group = struct.unpack("i", fcntl.ioctl(self._master, termios.TIOCGPGRP, bytes(4)))[0]
        found = [fields for fields in _process_states() if fields[1] == group]
        return bool(found) and all(state == "S" for state, _ in found)

    def _is_ready(self, deadline: float) -> bool:
        return bool(select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))[0])

    def _read(self) -> bool:
        """Take what is there; False when nobody has the terminal open any more."""
        chunk = b""
        with contextlib.suppress(OSError):  # EIO: the last one closed it
            chunk = os.read(self._master, 65536)
        if not chunk:
            return False
        text, self._bytes = _decoded(self._bytes + chunk)
        plain = _CONTROL.sub("", text).replace("\r\n", "\n").replace("\r", "")
        self.shown += plain
        self._unread += plain
        if self._watch is not None:
            self._watch(plain)
        return True

    def _failure(self, message: str) -> ScreenError:
        screen = "\n".join(f"    | {line}" for line in self.shown.splitlines()) or "    | (nothing)"
        log = "" if self._log is None else f"\nthe server's log:\n{self._log()}"
        return ScreenError(f"{message}\n{' '.join(self._argv)}\n{screen}{log}")


class Shown:
    """A match on the screen, with what was shown before it."""

    def __init__(self, match: re.Match[str], before: str) -> None:
        self._match = match
        self.string_before = before

    def __getitem__(self, group: int | str) -> str:
        """A group of the match; "" if it took no part."""
        return self._match[group] or ""


def _process_states() -> Iterator[tuple[str, int]]:
    """State and process group of every process."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            state, _parent, group = path.read_text().rpartition(") ")[2].split()[:3]
            yield state, int(group)


def _decoded(raw: bytes) -> tuple[str, bytes]:
    """UTF-8 as far as it goes; a character or an escape sequence that was cut in two waits for its other half."""
    end = len(raw)
    escape = raw.rfind(b"\x1b", max(0, end - 32))
    if escape >= 0 and not _CONTROL.match(raw[escape:].decode(errors="replace")):
        end = escape
    if raw[:end].endswith(b"\r"):
        end -= 1
    for cut in range(min(3, end) + 1):
        with contextlib.suppress(UnicodeDecodeError):
            return raw[: end - cut].decode(), raw[end - cut :]
    return raw[:end].decode(errors="replace"), raw[end:]


def sudo(person: Person, *command: str, environment: Mapping[str, str] | None = None) -> Terminal:
    """sudo at this person's terminal; earlier answers to sudo count for nothing (-k)."""
    return Terminal(["sudo", "-k", *command], user=person.name, environment=environment)


def su(person: Person, target: Person, command: str) -> Terminal:
    """su from one person to another."""
    return Terminal(["su", target.name, "--command", command], user=person.name)
