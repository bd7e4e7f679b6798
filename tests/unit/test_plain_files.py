# SPDX-License-Identifier: MIT
"""Files that a user may have made into something else: nothing waits, nothing grows, nothing is opened unseen."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import pwd
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from textgate import plain_files
from textgate.plain_files import read_as, read_plain

MOST = 1000
ME = pwd.getpwuid(os.geteuid()).pw_name
IS_ROOT = os.geteuid() == 0


def by_ourselves(path: Path) -> bytes:
    return read_plain(path, MOST)


def by_its_owner(path: Path) -> bytes:
    return read_as(ME, path, MOST)


READERS = pytest.mark.parametrize("read", [by_ourselves, by_its_owner])


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


UNUSABLE: dict[str, tuple[Callable[[Path], None], int]] = {
    "fifo": (_fifo, errno.EINVAL),
    "socket": (_socket, errno.EINVAL),
    "folder": (Path.mkdir, errno.EINVAL),
    "endless device": (_link("/dev/zero"), errno.EINVAL),
    "terminal": (_link("/dev/tty"), errno.EINVAL),
    "nowhere": (_link("/nonexistent"), errno.ENOENT),
    "itself": (_link("keys"), errno.ELOOP),
    "below a file": (_link("/etc/passwd/keys"), errno.ENOTDIR),
}


@READERS
@pytest.mark.parametrize("name", list(UNUSABLE))
def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path, read: Callable[[Path], bytes], name: str) -> None:
    make, code = UNUSABLE[name]
    make(tmp_path / "keys")
    with pytest.raises(OSError, match=r".+") as caught:
        read(tmp_path / "keys")
    assert caught.value.errno == code


def test_nothing_but_plain_files_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a device can do something: a watchdog starts, a tape goes back."""
    opened: list[int] = []
    real = os.open

    def note(path: str, flags: int, *rest: int) -> int:
        opened.append(flags)
        return real(path, flags, *rest)

    (tmp_path / "keys").symlink_to("/dev/null")
    monkeypatch.setattr(os, "open", note)
    with pytest.raises(OSError, match="no plain file"):
        read_plain(tmp_path / "keys", MOST)
    assert opened == [os.O_PATH | os.O_CLOEXEC]


@READERS
@pytest.mark.parametrize("size", [0, 1, MOST, MOST + 1, 10**6])
def test_no_more_is_read_than_is_wanted(tmp_path: Path, read: Callable[[Path], bytes], size: int) -> None:
    (tmp_path / "keys").write_bytes(b"0\n" * size)
    (tmp_path / "link").symlink_to("keys")  # sshd follows links, too
    assert read(tmp_path / "link") == (b"0\n" * size)[:MOST]


@READERS
def test_file_with_a_hole_of_a_terabyte_costs_nothing(tmp_path: Path, read: Callable[[Path], bytes]) -> None:
    with (tmp_path / "keys").open("wb") as file:
        file.truncate(1 << 40)
    assert read(tmp_path / "keys") == bytes(MOST)


def test_file_is_read_without_proc_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def no_proc(path: str, flags: int, *rest: int) -> int:
        if str(path).startswith("/proc/"):
            raise FileNotFoundError(errno.ENOENT, "no such file")
        return real(path, flags, *rest)

    (tmp_path / "keys").write_text("key")
    (tmp_path / "other").write_text("other")
    monkeypatch.setattr(os, "open", no_proc)
    assert read_plain(tmp_path / "keys", MOST) == b"key"
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    with pytest.raises(OSError, match="replaced"):
        read_plain(tmp_path / "keys", MOST)


def test_file_that_does_not_come_in_time_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("key")
    with pytest.raises(TimeoutError):
        read_as(ME, tmp_path / "keys", MOST, within_s=0.0)


@pytest.mark.parametrize("said", ["", "key", "x\nkey", "-1\nkey", "0"])
def test_reader_that_says_something_else_has_read_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    reader = tmp_path / "reader"
    reader.write_text(f"#!/bin/sh\nprintf '{said}'\n")
    reader.chmod(0o755)
    monkeypatch.setattr(plain_files, "PYTHON", str(reader))
    with pytest.raises(OSError, match="can't be read"):
        read_as(ME, tmp_path / "keys", MOST)


def test_reader_that_says_too_much_is_not_heard_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = tmp_path / "reader"
    reader.write_text("#!/bin/sh\necho 0\nexec yes\n")
    reader.chmod(0o755)
    monkeypatch.setattr(plain_files, "PYTHON", str(reader))
    assert read_as(ME, tmp_path / "keys", MOST) == b"y\n" * (MOST // 2)


SAYS_WHAT_IT_HOLDS = """\
#!/usr/bin/python3 -IS
import os
words = open("/proc/self/stat").read().rpartition(")")[2].split()
print(0)
print("session", int(words[3]) == os.getpid(), "terminal", words[4])
try:
    os.open("/dev/tty", os.O_RDWR)
except OSError:
    print("no terminal")
"""


def test_reader_has_no_terminal_into_which_it_could_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the user's process, who can take it over; and root's terminal takes what is typed by ioctl (TIOCSTI)."""
    reader = tmp_path / "reader"
    reader.write_text(SAYS_WHAT_IT_HOLDS)
    reader.chmod(0o755)
    monkeypatch.setattr(plain_files, "PYTHON", str(reader))
    pid, terminal = pty.fork()
    if pid == 0:  # the child has a terminal, as root has
        try:
            os.write(1, read_as(ME, tmp_path / "keys", 1000))
        finally:
            os._exit(0)
    said = b""
    with contextlib.suppress(OSError):  # a terminal that nobody has open any more
        while chunk := os.read(terminal, 1000):
            said += chunk
    os.close(terminal)
    os.waitpid(pid, 0)
    assert said.decode().split("\r\n")[:2] == ["session True terminal 0", "no terminal"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(not IS_ROOT, reason="only root can become others")
def test_user_s_file_is_read_with_the_user_s_rights(open_folder: Path) -> None:
    """sshd reads it so, too: a link to somebody else's file is no key, whoever could read it for them."""
    mine = open_folder / "mine"
    mine.write_text("key")
    assert read_as("nobody", mine, MOST) == b"key"
    mine.chmod(0o600)
    with pytest.raises(PermissionError):
        read_as("nobody", mine, MOST)
    os.chown(mine, pwd.getpwnam("nobody").pw_uid, -1)
    assert read_as("nobody", mine, MOST) == b"key"
    (open_folder / "shadow").symlink_to("/etc/shadow")
    with pytest.raises(PermissionError):
        read_as("nobody", open_folder / "shadow", MOST)


@pytest.mark.skipif(not IS_ROOT, reason="only root can become others")
def test_nobody_reads_for_a_user_whom_the_machine_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="knows"):
        read_as("no-such-user", tmp_path, MOST)
