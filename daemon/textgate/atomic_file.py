# SPDX-License-Identifier: MIT
"""Writes files as a whole or not at all, and so that they are there after a power cut too.

Rules of this file:
- An unfinished copy is named `.NAME.textgate-XXXXXXXX`. No other name is ever taken for one: `.sudo.original` beside
  sudo is somebody's own. It is locked while it is written; one without a lock was left by a power cut, and the next
  change of that file removes it.
- Needs nothing but the standard library: the way back from a PAM change hangs on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path


def replace_file(
    path: Path, content: bytes, *, mode: int, group: int | None = None, judge: Callable[[], None] | None = None
) -> None:
    """Put new bytes in a file's place in one step; one that is there keeps owner, mode and attributes.

    mode, group: for a file that is not there yet. judge: called last; what it raises leaves all as it was.
    Raises OSError.
    """
    with _beside(path) as (temporary, handle):
        write_like(handle, content, path, mode=mode, group=group)
        if judge:
            judge()
        temporary.replace(path)
    sync_folder(path.parent)


def replace_own_file(path: Path, content: bytes) -> None:
    """As `replace_file`, for a file that is this process's alone (mode 0600): no owner or attribute is taken over.

    So it needs no right to change owners, which a daemon that is closed in hasn't got. Raises OSError.
    """
    with _beside(path) as (temporary, handle):
        _write(handle, content)
        temporary.replace(path)
    sync_folder(path.parent)


def create_file(path: Path, content: bytes, *, mode: int) -> None:
    """Make a file that is not there yet. Raises FileExistsError, having touched nothing, or another OSError."""
    with _beside(path) as (temporary, handle):
        os.fchmod(handle, mode)
        _write(handle, content)
        os.link(temporary, path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """What was renamed, made or removed in a folder is so after a power cut too (fsync(2)). Raises OSError."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_like(handle: int, content: bytes, path: Path, *, mode: int, group: int | None = None) -> None:
    """Fill a new file with bytes, owner, mode and attributes, which are those of the file at `path` if there is one.

    Raises OSError.
    """
    status = path.stat() if path.exists() else None
    if status:
        os.fchown(handle, status.st_uid, status.st_gid)
        _copy_attributes(path, handle)
    elif group is not None:
        os.fchown(handle, -1, group)
    os.fchmod(handle, stat.S_IMODE(status.st_mode) if status else mode)
    _write(handle, content)


def new_file(path: Path) -> int:
    """A descriptor of a file (mode 0600) that was not there before. Raises OSError."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def name_beside(path: Path, kind: str = "") -> Path:
    """A fresh name in the folder of a file, which tells that it is ours."""
    return path.with_name(f".{path.name}.textgate-{kind}{secrets.token_hex(4)}")


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, int]]:
    """A new file (mode 0600) in the same folder, and its descriptor; removed unless it was renamed."""
    _remove_unfinished(path)
    temporary = name_beside(path)
    handle = new_file(temporary)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield temporary, handle
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


def _remove_unfinished(path: Path) -> None:
    """Copies that a power cut left; one that is being written now is locked."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.textgate-[0-9a-f]{{8}}")
    for found in path.parent.iterdir():
        if ours.fullmatch(found.name):
            with contextlib.suppress(OSError):
                _remove_unlocked(found)


def _remove_unlocked(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(handle)
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
            path.unlink()
    finally:
        os.close(handle)


def _write(handle: int, content: bytes) -> None:
    with os.fdopen(handle, "wb", closefd=False) as file:
        file.write(content)
    os.fsync(handle)


def _copy_attributes(path: Path, handle: int) -> None:
    """Access lists and labels, where the file system has them."""
    with contextlib.suppress(OSError):
        for name in os.listxattr(path):
            with contextlib.suppress(OSError):
                os.setxattr(handle, name, os.getxattr(path, name))
