# SPDX-License-Identifier: MIT
"""Writes files as a whole or not at all, and so that they are there after a power cut too.

Needs nothing but the standard library: the way back from a PAM change hangs on it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
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
        status = path.stat() if path.exists() else None
        if status:
            os.fchown(handle, status.st_uid, status.st_gid)
            _copy_attributes(path, handle)
        elif group is not None:
            os.fchown(handle, -1, group)
        os.fchmod(handle, stat.S_IMODE(status.st_mode) if status else mode)
        _write(handle, content)
        if judge:
            judge()
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


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[tuple[Path, int]]:
    """A new file (mode 0600) in the same folder, and its descriptor; removed unless it was renamed."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        yield temporary, handle
    finally:
        os.close(handle)
        temporary.unlink(missing_ok=True)


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
