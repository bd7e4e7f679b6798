# SPDX-License-Identifier: MIT
"""Whether the files of textgate's own Redis have room, and who else can use it up.

Redis ends itself when it can't write what it promised to keep: then nobody logs in with a code. A file that run-redis
keeps as a reserve and gives up when the room ends carries it over a disk that fills up by accident; whoever fills it
on purpose fills that room as well, and only a file system of its own, or quotas, keep them from it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .finding import Finding
from .guard_faults import Level
from .shortage import INODES_MIN, ROOM_MIN_BYTES

DATA = "/var/lib/textgate/redis"
RESERVE = "reserve"
ROOM_LOW_BYTES = 512 << 20  # twice what Redis may hold (maxmemory): a rewrite of its file needs as much again
USERS_PLACES = ("/home", "/tmp", "/var/tmp", "/dev/shm", "/var/mail", "/var/spool/cron")  # noqa: S108  # looked at only
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class Room:
    """A file system.

    free_bytes, free_files: what users may take; None where files aren't counted. shared: places of users' on it.
    """

    free_bytes: int
    free_files: int | None
    shared: tuple[str, ...]
    has_quotas: bool
    has_reserve: bool


def look(
    folder: Path, *, places: Sequence[Path] = tuple(map(Path, USERS_PLACES)), mounts: str | None = None
) -> Room | None:
    """The room of a folder, None where there is none. mounts: /proc/self/mountinfo. Raises OSError."""
    try:
        device = folder.stat().st_dev
    except FileNotFoundError:
        return None
    status = os.statvfs(folder)
    listed = Path("/proc/self/mountinfo").read_text() if mounts is None else mounts
    return Room(
        free_bytes=status.f_bavail * status.f_frsize,
        free_files=status.f_favail if status.f_files > 0 else None,
        shared=tuple(str(place) for place in places if _device(place) == device),
        has_quotas=_has_quotas(listed, device),
        has_reserve=(folder / RESERVE).exists(),
    )


def findings(room: Room, *, is_safe: bool = False) -> Iterator[Finding]:
    """What doctor says of it. is_safe: [failmode] lets in where Redis is away.

    That users share the file system is how most machines are set up: it is a warning only where they gain by it.
    """
    clear = f"make room there: df {DATA}"
    faults = []
    if room.free_bytes < ROOM_MIN_BYTES:
        faults.append((Level.FAILURE, f"the file system of {DATA} is full: logins with a code end", clear))
    elif room.free_bytes < ROOM_LOW_BYTES:
        faults.append((Level.WARNING, f"only {room.free_bytes // MEBIBYTE} MB are free where {DATA} lies", clear))
    if room.free_files is not None and room.free_files < INODES_MIN:
        faults.append((Level.FAILURE, f"no more files fit where {DATA} lies", f"remove some: df -i {DATA}"))
    if not room.has_reserve:
        message = f"there is no {DATA}/{RESERVE}: its file system was full, or has never had much room"
        faults.append((Level.WARNING, message, "make room there, then: systemctl restart textgate-redis"))
    if room.shared and not room.has_quotas:
        message = f"users can fill the file system of {DATA}, so that nobody logs in: {', '.join(room.shared)}"
        remedy = f"give {DATA} a file system of its own, or users quotas: see REDIS in textgated(8)"
        faults.append((Level.WARNING if is_safe else Level.OK, message, remedy))
    for level, message, remedy in faults:
        yield Finding("redis", level, message, remedy)
    if not faults:
        yield Finding("redis", Level.OK, f"{room.free_bytes // MEBIBYTE} MB are free for its files")


def _device(place: Path) -> int | None:
    with contextlib.suppress(OSError):
        return place.stat().st_dev
    return None


def _has_quotas(mountinfo: str, device: int) -> bool:
    """Whether a file system counts what each user takes (proc_pid_mountinfo(5))."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in mountinfo.splitlines():
        words = line.split()
        if (
            len(words) > 3
            and words[2] == wanted
            and {"usrquota", "quota", "prjquota", "uquota", "pquota"}
            & {option.partition("=")[0] for option in words[-1].split(",")}
        ):
            return True
    return False
