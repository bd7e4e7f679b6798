# SPDX-License-Identifier: MIT
"""Which phone number belongs to which user: the phones file, GECOS, and the chain of both.

The phones file is in the manner of /etc/aliases, one `user: number` a line:

    # comments have a line of their own
    alice: +45 12 34 56 78

A line with a fault gives its user no number, and so do two lines for one user; the other lines stay good.
A source that names a user ends the search even if the number is no good: a later source, which the user may
be able to write, doesn't step in. No fault repeats what stands in a line.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .atomic_file import replace_file
from .config import PhonesConfig
from .errors import DirectoryError, MsisdnError
from .msisdn import Msisdn, parse_msisdn
from .policy import Account

MAX_BYTES = 1024 * 1024  # some 30 000 users
MAX_NAME_BYTES = 256
NEW_FILE_MODE = 0o640
READ_TRIES = 3
LOCK_WAIT_S = 5.0
LOCK_POLL_S = 0.02

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_BLANKS = " \t\r"

OnFault = Callable[[tuple[str, ...]], None]
Stamp = tuple[int, int, int, int, int]


# --- What the rest of textgate sees. ---


class Directory(Protocol):
    """Where numbers come from."""

    def lookup(self, user: str) -> Msisdn | None:
        """The number of a user (canonical name), or None. Raises DirectoryError if that can't be known."""


class Accounts(Protocol):
    """The part of `accounts.NssAccounts` that is needed here."""

    def lookup(self, user: str) -> Account | None:
        """The account of a user, or None."""


@dataclass(frozen=True)
class Hit:
    """A source knows the user; msisdn is None if it has no usable number for him."""

    msisdn: Msisdn | None


class Source(Protocol):
    """One place that numbers come from."""

    def find(self, user: str) -> Hit | None:
        """What this place says of a user, or None if it doesn't name him. Raises DirectoryError."""


def build_directory(phones: PhonesConfig, accounts: Accounts, *, on_fault: OnFault | None = None) -> ChainDirectory:
    """The directory that [phones] describes. on_fault: told each new set of faults of the phones file."""
    makers: dict[str, Callable[[], Source]] = {
        "file": lambda: FileDirectory(phones.file, phones.default_region, on_fault=on_fault),
        "gecos": lambda: GecosDirectory(accounts, phones.default_region),
    }
    return ChainDirectory(tuple(makers[source]() for source in phones.sources))


class ChainDirectory:
    """Several sources in order; the first that names a user is the only one that is asked for him.

    A source that can't be read ends the search too, with its DirectoryError.
    """

    def __init__(self, sources: tuple[Source, ...]) -> None:
        self._sources = sources

    def lookup(self, user: str) -> Msisdn | None:
        """The number of a user, or None. Raises DirectoryError."""
        for source in self._sources:
            hit = source.find(user)
            if hit is not None:
                return hit.msisdn
        return None


class FileDirectory:
    """The phones file, read again whenever it has changed; safe for threads.

    on_fault: called once per change of the file with every fault in it, each led by its line.
    trusted_uids: who may own the file; root and this process by default.
    """

    def __init__(
        self,
        path: str,
        default_region: str,
        *,
        on_fault: OnFault | None = None,
        trusted_uids: frozenset[int] | None = None,
    ) -> None:
        self._path = path
        self._default_region = default_region
        self._on_fault = on_fault
        self._trusted_uids = trusted_uids
        self._lock = threading.Lock()
        self._stamp: Stamp | None = None
        self._table = PhoneTable()

    def lookup(self, user: str) -> Msisdn | None:
        """The number of a user, or None if he has no good line of his own.

        Raises DirectoryError if the file is missing, can't be read, can be changed by others, or is too large.
        """
        hit = self.find(user)
        return hit.msisdn if hit else None

    def find(self, user: str) -> Hit | None:
        """As `lookup`, and tells a user without a usable number from one whom the file doesn't name."""
        table = self._current()
        if user in table.unusable:
            return Hit(None)
        return Hit(table.numbers[user]) if user in table.numbers else None

    def _current(self) -> PhoneTable:
        with self._lock:
            data, stamp = _read(self._path, self._trusted_uids, known=self._stamp)
            if data is None:
                return self._table
            table = parse_phones(data, self._default_region)
            self._table, self._stamp = table, stamp
        if table.faults and self._on_fault:
            self._on_fault(table.faults)
        return table


class GecosDirectory:
    """Numbers from the GECOS field of NSS: "full name,room,office phone,home phone,other".

    Off by default, and right only where people can't edit the field (chfn(1), CHFN_RESTRICT in login.defs(5)).
    The home phone (4th sub-field) counts, and the office phone (3rd) where that is empty; "other" never does.
    """

    def __init__(self, accounts: Accounts, default_region: str) -> None:
        self._accounts = accounts
        self._default_region = default_region

    def lookup(self, user: str) -> Msisdn | None:
        """The number of a user, or None. Raises what the accounts raise."""
        hit = self.find(user)
        return hit.msisdn if hit else None

    def find(self, user: str) -> Hit | None:
        """As `lookup`; a number that can't be used is a hit without a number."""
        account = self._accounts.lookup(user)
        if account is None:
            return None
        office, home = ([part.strip() for part in account.gecos.split(",")] + [""] * 4)[2:4]
        if not (home or office):
            return None
        try:
            return Hit(parse_msisdn(home or office, self._default_region))
        except MsisdnError:
            return Hit(None)


# --- The phones file: bytes -> table. ---


@dataclass(frozen=True)
class PhoneTable:
    """What a phones file says. unusable: users it names without a usable number. faults: "line 3: …"."""

    numbers: Mapping[str, Msisdn] = field(default_factory=dict)
    unusable: frozenset[str] = frozenset()
    faults: tuple[str, ...] = ()


def parse_phones(data: bytes, default_region: str) -> PhoneTable:
    """Read a phones file's bytes. Never raises: what can't be used is in `unusable` and `faults`."""
    numbers: dict[str, Msisdn] = {}
    first_lines: dict[str, int] = {}
    unusable: set[str] = set()
    faults: list[str] = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if is_comment(line):
            continue
        user = user_of(line)
        try:
            if user is not None and first_lines.setdefault(user, number) != number:
                raise ValueError(f"has the same user as line {first_lines[user]}; neither counts")
            name, msisdn = _parse_line(line, default_region)
            numbers[name] = msisdn
        except (ValueError, MsisdnError) as error:
            faults.append(f"line {number}: {error}")
            if user is not None:
                unusable.add(user)
                numbers.pop(user, None)
    return PhoneTable(numbers, frozenset(unusable), tuple(faults))


def read_phones(path: str, default_region: str, *, trusted_uids: frozenset[int] | None = None) -> PhoneTable:
    """Read the phones file once, for lists and checks. Raises DirectoryError as `FileDirectory.lookup` does."""
    data, _stamp = _read(path, trusted_uids)
    return parse_phones(data or b"", default_region)


def is_comment(line: bytes) -> bool:
    """Whether a line is blank or a comment."""
    stripped = line.strip(_BLANKS.encode())
    return not stripped or stripped.startswith(b"#")


def user_of(line: bytes) -> str | None:
    """The user whom a line is about, well formed or not: what stands before its first colon. None if nobody."""
    if is_comment(line):
        return None
    name, colon, _ = line.partition(b":")
    try:
        return name.decode().strip(_BLANKS) or None if colon else None
    except UnicodeDecodeError:
        return None


def _parse_line(line: bytes, default_region: str) -> tuple[str, Msisdn]:
    """A line -> user and number. Raises ValueError or MsisdnError that says what is wrong with it."""
    try:
        text = line.decode().rstrip(_BLANKS)
    except UnicodeDecodeError:
        text = None
    if text is None:
        raise ValueError("is not UTF-8 text")
    if text[0] == "\ufeff":
        raise ValueError("begins with a byte order mark; save the file as UTF-8 without one")
    if text[0] in _BLANKS:
        raise ValueError("begins with a blank; a line can't be continued")
    name, colon, number = text.partition(":")
    if not colon:
        raise ValueError("has no colon; write user: number")
    name = name.rstrip(_BLANKS)
    if not is_user_name(name):
        raise ValueError("has a user name that no user can have")
    return name, parse_msisdn(number, default_region)


def is_user_name(name: str) -> bool:
    """Whether a name can stand in the phones file: 1 to 256 bytes, printable, no blank, colon, slash, leading #."""
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        return False
    is_plain = name.isprintable() and not set(name) & {" ", ":", "/"}
    return 0 < size_bytes <= MAX_NAME_BYTES and is_plain and not name.startswith("#")


# --- The phones file: changing it. For the root command only. ---


def set_phone(path: str, user: str, msisdn: Msisdn, *, group: str = "textgate") -> None:
    """Give a user a number in the phones file, in place of any other; all other lines stay as they are.

    group: of a file that must be made first (mode 0640); without such a group it keeps the process's own.
    Raises DirectoryError if the file can't be read or changed, is a symbolic link, or changed meanwhile.
    """
    if not is_user_name(user):
        raise DirectoryError("the phones file can't hold this user name")

    def edit(lines: list[bytes]) -> list[bytes]:
        new = f"{user}: +{msisdn.reveal()}".encode()
        mine = [index for index, line in enumerate(lines) if user_of(line) == user]
        at = mine[0] if mine else len(lines)
        others = [line for index, line in enumerate(lines) if index not in mine]
        return [*others[:at], new, *others[at:]]

    with _locked(path):
        _change(path, edit, group=group, expect=(user, msisdn))


def remove_phone(path: str, user: str) -> bool:
    """Take every line of a user out of the phones file; False if there was none.

    Raises DirectoryError as `set_phone`, and if there is no phones file.
    """
    removed = False

    def edit(lines: list[bytes]) -> list[bytes]:
        nonlocal removed
        others = [line for line in lines if user_of(line) != user]
        removed = others != lines
        return others

    with _locked(path):
        _change(path, edit, group=None, expect=(user, None))
    return removed


def _change(
    path: str, edit: Callable[[list[bytes]], list[bytes]], *, group: str | None, expect: tuple[str, Msisdn | None]
) -> None:
    """Read the file, edit its lines, write it. group: None if the file must be there already.

    expect: user and number that the new file must say; looked at before it takes the old one's place.
    """
    status = _lstat(path)
    if status is not None and stat.S_ISLNK(status.st_mode):
        # Renaming over a link would leave its target, which somebody keeps elsewhere, silently behind.
        raise DirectoryError(f"{path}: is a symbolic link", hint="change the file that it points to")
    old, stamp = (b"", None) if status is None and group is not None else _read(path, None)
    lines = (old or b"").split(b"\n")
    if not lines[-1]:
        lines.pop()  # nothing follows the last line feed; where something does, it gets one
    new_lines = edit(lines)
    new = b"".join(line + b"\n" for line in new_lines)
    if len(new) > MAX_BYTES:
        raise DirectoryError(f"{path}: would be larger than {MAX_BYTES} bytes")
    user, msisdn = expect
    if parse_phones(new, "").numbers.get(user) != msisdn:
        raise DirectoryError(
            f"{path}: the number can't be written so that it reads the same", hint="check the number"
        )
    if new_lines != lines:
        _replace(path, new, stamp, group)


def _replace(path: str, data: bytes, stamp: Stamp | None, group: str | None) -> None:
    """Put new bytes in the file's place in one step, whole or not at all, with its owner, group and mode.

    stamp: what the old file looked like when it was read; None if there was none.
    """

    def judge() -> None:
        status = _lstat(path)
        if (status and _stamp(status)) != stamp:
            raise DirectoryError(f"{path}: was changed by somebody else meanwhile", hint="try again")

    gid = None
    with contextlib.suppress(KeyError):
        gid = grp.getgrnam(group or "").gr_gid
    try:
        replace_file(Path(path), data, mode=NEW_FILE_MODE, group=gid, judge=judge)
    except OSError as error:
        raise _cannot(f"{path}: can't be written", error) from None


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _cannot(what: str, error: OSError) -> DirectoryError:
    hint = "run it as root" if isinstance(error, PermissionError) else None
    return DirectoryError(f"{what}: {error.strerror}", hint=hint)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """Keep other `set_phone` and `remove_phone` out. Waits LOCK_WAIT_S, then raises DirectoryError.

    The lock is a file of its own, mode 0600: the folder itself can be opened, and so locked, by any user.
    """
    lock_path = Path(path).with_name(f".{Path(path).name}.lock")
    try:
        handle = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _cannot(f"{lock_path}: can't be made", error) from None
    try:
        _wait_for_lock(handle, path)
        yield
    finally:
        os.close(handle)


def _wait_for_lock(handle: int, path: str) -> None:
    deadline_at = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_at:
                raise DirectoryError(f"{path}: is being changed by another textgate", hint="try again") from None
            time.sleep(LOCK_POLL_S)
        else:
            return


# --- The phones file: reading it. ---


def _read(
    path: str, trusted_uids: frozenset[int] | None, *, known: Stamp | None = None
) -> tuple[bytes | None, Stamp]:
    """A file's bytes and its stamp; no bytes if the stamp is the known one. Raises DirectoryError.

    Symbolic links are followed, since configuration management likes to make them: what counts is who can
    change the bytes that are read, so the open file is judged and not its name.
    """
    owners = frozenset({0, os.geteuid()}) if trusted_uids is None else trusted_uids
    try:
        for _ in range(READ_TRIES):
            with open(path, "rb", opener=lambda name, _flags: os.open(name, _FLAGS)) as file:
                status = os.fstat(file.fileno())
                _check(path, status, owners)
                if _stamp(status) == known:
                    return None, known
                data = file.read(MAX_BYTES + 1)
                if _stamp(os.fstat(file.fileno())) == _stamp(status):  # else somebody was writing: half a number
                    break
        else:
            raise DirectoryError(f"{path}: is being written to", hint="write a new file and rename it")
    except OSError as error:
        hint = "make it, owned by root, mode 0640" if isinstance(error, FileNotFoundError) else None
        raise DirectoryError(f"{path}: can't be read: {error.strerror}", hint=hint) from None
    if len(data) > MAX_BYTES:
        raise DirectoryError(f"{path}: is larger than {MAX_BYTES} bytes")
    return data, _stamp(status)


def _check(path: str, status: os.stat_result, owners: frozenset[int]) -> None:
    """Raise DirectoryError unless an open file is a plain one that only a trusted owner can change."""
    if not stat.S_ISREG(status.st_mode):
        raise DirectoryError(f"{path}: is not a plain file")
    if status.st_uid not in owners:
        raise DirectoryError(f"{path}: belongs to another user", hint=f"chown root {path}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise DirectoryError(f"{path}: can be changed by other users", hint=f"chmod go-w {path}")


def _stamp(status: os.stat_result) -> Stamp:
    """What changes when a file is written to, replaced, or gets another owner or mode."""
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev, status.st_ctime_ns
