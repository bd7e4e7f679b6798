# SPDX-License-Identifier: MIT
"""Whether this machine is short of what a connection takes, so that a part only seems to be away.

Asked when a part could not be reached, before anything is made of that. What can't be tried counts as short.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable

WAIT_S = 1.0  # for what takes a millisecond; longer is a machine under such a load that nothing is to be trusted
ROOM_MIN_BYTES = 16 << 20  # on a file system: below that Redis is about to end for want of room, or has
INODES_MIN = 64


def local_shortage(clock: Callable[[], float] = time.monotonic) -> str | None:
    """A fixed word for what is short: "files", "ports", "threads" or "time"; None where all is well."""
    began_at = clock()
    for word, is_there in _PROBES:
        try:
            is_well = is_there()
        except (OSError, RuntimeError, MemoryError):
            is_well = False
        if not is_well:
            return word
    return "time" if clock() - began_at > WAIT_S else None


def _has_files() -> bool:
    with open(os.devnull, "rb"):  # noqa: PTH123  # a plain descriptor
        pass
    return True


def _has_ports() -> bool:
    """A connection to this very machine: it takes two ports, two descriptors and some memory of the kernel's."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        listener.settimeout(WAIT_S)
        # Bound to no address first, as one to the outside is: ports that are taken on all addresses are missed.
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as ours:
            ours.settimeout(WAIT_S)
            ours.connect(listener.getsockname())
            theirs, _ = listener.accept()
            with theirs:
                theirs.settimeout(WAIT_S)
                ours.sendall(b"?")
                return theirs.recv(1) == b"?"


def _has_threads() -> bool:
    ran = threading.Event()
    thread = threading.Thread(target=ran.set, name="shortage", daemon=True)
    thread.start()
    return ran.wait(WAIT_S)


_PROBES: tuple[tuple[str, Callable[[], bool]], ...] = (
    ("files", _has_files),
    ("ports", _has_ports),
    ("threads", _has_threads),
)


def disk_shortage(folder: str) -> str | None:
    """The word "disk" where a file system has next to no room left for users, or none for new files, else None.

    None, too, where there is no such folder. Room that is kept for root's services doesn't count: whoever fills the
    rest is at it.
    """
    try:
        status = os.statvfs(folder)
    except FileNotFoundError:
        return None
    except OSError:
        return "disk"
    is_full = status.f_bavail * status.f_frsize < ROOM_MIN_BYTES
    has_no_inodes = status.f_files > 0 and status.f_favail < INODES_MIN  # some file systems don't count them
    return "disk" if is_full or has_no_inodes else None
