# SPDX-License-Identifier: MIT
"""One login at a time, through three doors, step by step: what a person is told, how long it takes, how it ends.

    ssh     a key, then the code, at a real sshd
    sudo    a password, then the code, at a real sudo
    pam     the code alone, at pamtester: the same block and helper without what lies around them, for many cases

Each step has a time limit: a login that hangs fails the test that waits for it. Nothing sleeps.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from .pam import BLOCK, COMMON, PAM_DIRECTORY, FirstFactor, pam_lines
from .people import ALICE, Person, is_in_world
from .phone import Phone
from .process import RigError
from .sshd import Sshd
from .terminal import ScreenError, Terminal, sudo

DOORS = ("ssh", "sudo", "pam")
HELPER = "/usr/libexec/textgate/pam-helper"
PROMPT = "Code: "
AWAY = "The code service does not answer. Ask your administrator."
"""The helper's own sentence."""
DENIED = "Access denied: no valid code was given."
"""The PAM module's."""
SENT = "A login code was texted to your phone."
STEP_S = 3.0
"""Time for a step in which nothing waits: this machine may be busy with other tests."""
GUESSES = ("000000", "111111", "222222")
_MARK = "you-are-in"
_SSH_PREFIX = re.compile(r"^\(\w+@[\d.]+\) ", re.MULTILINE)
_SUDOERS = Path("/etc/sudoers.d/zz-one-try")


class Login:
    """One login under way. `person` is who it is, `door` where."""

    def __init__(self, door: str, person: Person, terminal: Terminal) -> None:
        self.door = door
        self.person = person
        self.terminal = terminal

    def told(self, *, within_s: float = STEP_S) -> str:
        """Wait for the prompt; answers what the person is told before it."""
        shown = self.terminal.expect(PROMPT, within_s=within_s)
        return _SSH_PREFIX.sub("", shown).strip()

    def type(self, code: str) -> None:
        """Type a code."""
        self.terminal.enter(code)

    def expect(self, sentence: str, *, within_s: float = STEP_S) -> None:
        """The prompt comes in time, and before it the person is told exactly this."""
        if (told := self.told(within_s=within_s)) != sentence:
            raise ScreenError(f"{self.door}: told {told!r}, not {sentence!r}")

    def try_code(self, code: str, sentence: str, *, within_s: float = STEP_S) -> None:
        """Type a code that is refused with exactly this sentence, and be asked again."""
        self.type(code)
        self.expect(sentence, within_s=within_s)

    def expect_in(self, *, within_s: float = STEP_S) -> None:
        """The login succeeds."""
        status = self.terminal.expect_end(within_s=within_s)
        if status != 0 or not self._is_in:
            raise ScreenError(f"{self.door}: not in ({status})\n{self.terminal.shown}")

    def expect_out(self, sentence: str | None, *, within_s: float = STEP_S) -> None:
        """The login fails, and the last that the person is told is this (None: whatever it is).

        sshd drops what PAM says at the end of a login that fails.
        """
        status = self.terminal.expect_end(within_s=within_s)
        if status == 0 or self._is_in:
            raise ScreenError(f"{self.door}: LET IN ({status})\n{self.terminal.shown}")
        if sentence is None:
            return
        lines = (sentence, DENIED) if sentence else (DENIED,)
        wanted = {
            "ssh": ("alice@127.0.0.1: Permission denied (keyboard-interactive).".replace("alice", self.person.name),),
            "sudo": (*lines, "sudo: 1 incorrect password attempt"),
            "pam": (*lines, "pamtester: Authentication failure"),
        }[self.door]
        if (told := tuple(self.terminal.rest.strip().splitlines())) != wanted:
            raise ScreenError(f"{self.door}: told {told!r}, not {wanted!r}")

    @property
    def _is_in(self) -> bool:
        return _MARK in self.terminal.shown or "successfully authenticated" in self.terminal.shown


class Doors:
    """Opens logins; a context manager that closes what is still open and puts PAM files back."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._sshd: Sshd | None = None
        self._has_sudo = False

    def open(self, door: str, person: Person = ALICE) -> Login:
        """Begin a login, its first factor given already."""
        terminal = {"ssh": self._ssh, "sudo": self._sudo, "pam": self._pam}[door](person)
        return Login(door, person, self._stack.enter_context(terminal))

    def log_in(self, door: str, phone: Phone, *, within_s: float = STEP_S) -> None:
        """A login from begin to end that must succeed, as after a fault that is over."""
        phone.read_count = len(phone.texts)
        login = self.open(door, phone.person)
        login.expect(SENT, within_s=within_s)
        login.type(phone.next_code())
        login.expect_in(within_s=within_s)

    def keep_out(
        self, door: str, begin: str, check: str, *, codes: Sequence[str] = GUESSES, within_s: float = STEP_S
    ) -> None:
        """A login from begin to end that must fail: `begin` is said first, `check` after each code."""
        login = self.open(door)
        login.expect(begin, within_s=within_s)
        for code in codes[:-1]:
            login.try_code(code, check, within_s=within_s)
        login.type(codes[-1])
        login.expect_out(check, within_s=within_s)

    @property
    def sshd(self) -> Sshd:
        """The server behind the ssh door."""
        if self._sshd is None:
            self._sshd = self._stack.enter_context(Sshd(FirstFactor.KEY))
        return self._sshd

    def _ssh(self, person: Person) -> Terminal:
        return self.sshd.login(person, "echo", _MARK, options=["NumberOfPasswordPrompts=1"])

    def _sudo(self, person: Person) -> Terminal:
        if not self._has_sudo:
            self._has_sudo = True
            self._stack.enter_context(pam_lines("sudo", FirstFactor.PASSWORD))
            self._stack.enter_context(_without_delay())
            self._stack.enter_context(_one_try())
        terminal = sudo(person, "echo", _MARK)
        terminal.answer(f"password for {person.name}: ", person.password)
        return terminal

    def _pam(self, person: Person) -> Terminal:
        (PAM_DIRECTORY / "door").write_text(f"{BLOCK}\naccount required pam_permit.so\n")
        return Terminal(["pamtester", "door", person.name, "authenticate", "setcred"])

    def __enter__(self) -> Doors:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()


@contextlib.contextmanager
def helper_line(options: str = "", *, before: str = "", verb: str = "") -> Iterator[None]:
    """Inside the `with` block PAM runs the helper with these options, or by another program put before it.

    verb: only the lines of this verb are changed. A login reads the lines when it begins, and never again.
    """
    old, new = f" {HELPER} {verb}", f" {before}{HELPER} {options} {verb}"
    with _changed(PAM_DIRECTORY / "textgate", old, new, count={"": 4, "begin": 1, "check": 3}[verb]):
        yield


@contextlib.contextmanager
def _without_delay() -> Iterator[None]:
    """pam_unix makes each failure of a stack that it is in two seconds longer."""
    with _changed(PAM_DIRECTORY / COMMON.split()[-1], "pam_unix.so", "pam_unix.so nodelay", count=1):
        yield


@contextlib.contextmanager
def _one_try() -> Iterator[None]:
    """sudo asks for the password once and not three times."""
    _SUDOERS.write_text("Defaults passwd_tries=1\n")
    _SUDOERS.chmod(0o440)
    try:
        yield
    finally:
        _SUDOERS.unlink()


@contextlib.contextmanager
def _changed(path: Path, old: str, new: str, *, count: int) -> Iterator[None]:
    if not is_in_world():
        raise RigError("PAM files are changed in a private world only")
    before = path.read_text()
    lines = before.splitlines(keepends=True)
    hits = [number for number, line in enumerate(lines) if old in line and not line.startswith("#")]
    if len(hits) != count:
        raise RigError(f"{path}: {old!r} is there {len(hits)} times, not {count}")
    for number in hits:
        lines[number] = lines[number].replace(old, new)
    path.write_text("".join(lines))
    try:
        yield
    finally:
        path.write_text(before)
