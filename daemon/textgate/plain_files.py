# SPDX-License-Identifier: MIT
"""Reads files that somebody else may have put there: a fifo, a device, a link to either, a file without an end.

Rules of this file:
- A file is looked at before it is opened, since opening alone can wait for ever (a fifo) or do something (a watchdog,
  a tape). Symbolic links are followed, as sshd follows them: what they point to is what is looked at.
- Of a user's own file, the user's rights decide, in a process of its own: what sshd can't read there is no key, and
  root reads nothing on a user's behalf. That process has a deadline, for homes on servers and in user space. It is
  the user's, who can take it over (ptrace): it has no terminal of root's to type into (TIOCSTI), and no
  descriptor but its own two pipes.
- It is one file of the standard library alone: `read_as` feeds it to a Python that knows nothing of textgate.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import select
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PYTHON = "/usr/bin/python3"  # Debian's, which every user can run
WITHIN_S = 5.0
_CHUNK_BYTES = 65536


def read_plain(path: str | os.PathLike[str], most_bytes: int) -> bytes:
    """The first most_bytes of a plain file, or all of it. Raises OSError, for what is no plain file too."""
    found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        status = os.fstat(found)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no plain file", os.fspath(path))
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            handle = os.open(f"/proc/self/fd/{found}", flags)
        except FileNotFoundError:  # no /proc, as in a change of root on a live system
            handle = os.open(path, flags)
    finally:
        os.close(found)
    with os.fdopen(handle, "rb") as file:
        if not os.path.samestat(status, os.fstat(handle)):
            raise OSError(errno.EBUSY, "was replaced meanwhile", os.fspath(path))
        return file.read(most_bytes)


def read_as(user: str, path: str | os.PathLike[str], most_bytes: int, within_s: float = WITHIN_S) -> bytes:
    """The first most_bytes of a plain file that this user may read. Raises OSError, for a missed deadline too.

    Without root's rights it is read with our own.
    """
    reader = subprocess.Popen(  # noqa: S603  # a fixed program; the path is an argument, and no shell sees it
        [PYTHON, "-IS", "-", os.fspath(path), str(most_bytes)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/", env={},
        start_new_session=True, **_rights_of(user),
    )  # fmt: skip
    try:
        return _result(reader, os.fspath(path), most_bytes, time.monotonic() + within_s)
    finally:
        reader.kill()
        for pipe in (reader.stdin, reader.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel is left to it
            reader.wait(1)


def _rights_of(user: str) -> dict[str, Any]:
    """Arguments of Popen. Raises OSError for a user whom nobody knows."""
    if os.geteuid() != 0:
        return {}
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        raise OSError(errno.ENOENT, "has no owner whom this machine knows") from None
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}


def _result(reader: subprocess.Popen[bytes], path: str, most_bytes: int, until: float) -> bytes:
    """What the process says: "0" and the file's bytes, or the number of an error and its words."""
    if reader.stdin is None or reader.stdout is None:
        raise OSError(errno.EIO, "can't be read", path)
    with contextlib.suppress(BrokenPipeError):
        reader.stdin.write(Path(__file__).read_bytes())
        reader.stdin.close()
    said = b""
    while len(said) <= most_bytes + _CHUNK_BYTES:
        ready, _, _ = select.select([reader.stdout], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise OSError(errno.ETIMEDOUT, "could not be read in time", path)
        chunk = os.read(reader.stdout.fileno(), _CHUNK_BYTES)
        if not chunk:
            break
        said += chunk
    number, line_feed, content = said.partition(b"\n")
    if not line_feed or not number.isdigit():
        raise OSError(errno.EIO, "can't be read", path)
    if number != b"0":
        code = int(number[:5])
        raise OSError(code, {errno.EINVAL: "is no plain file"}.get(code, os.strerror(code)), path)
    return content[:most_bytes]


def _tell(path: str, most_bytes: int) -> None:
    """What the process of `read_as` does."""
    try:
        number, content = 0, read_plain(path, most_bytes)
    except OSError as error:
        number, content = error.errno or errno.EIO, b""
    with os.fdopen(1, "wb") as out:
        out.write(b"%d\n%b" % (number, content))


if __name__ == "__main__":
    _tell(sys.argv[1], int(sys.argv[2]))
