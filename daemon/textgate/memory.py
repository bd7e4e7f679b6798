# SPDX-License-Identifier: MIT
"""Keeps this process's memory to itself: out of core images, whoever makes them, and away from its equals.

The daemon's memory holds the vault key and the gateway's secret for as long as it runs, and some codes of logins that
are over. What keeps it private:

- "not dumpable" (prctl(2)): a crash makes no image, and processes of the same user can't trace this one. A core limit
  of 0 alone would not keep an image from a program that the kernel pipes images to;
- no memory is put into an image (coredump_filter, core(5)): also not into one that root takes of the running daemon,
  as gcore(1) obeys the filter, too;
- what is left in an image are the threads' registers, so a thread that comes to rest clears them.

Root can read the memory all the same, but not by the usual tools unless they are told to.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from pathlib import Path

from .errors import TextgateError

PR_SET_DUMPABLE = 4  # <linux/prctl.h>
COREDUMP_FILTER = Path("/proc/self/coredump_filter")
# With each of these counts, memcpy uses all the vector registers that it uses for any, where they have 16, 32 or 64
# bytes; with the last one it goes in rounds.
_ZEROS = tuple(bytearray(count) for count in (100, 200, 400, 1000))


def keep_private() -> None:
    """Put no memory into core images from now on, and let no process of the same user trace or read this one.

    Raises TextgateError when the kernel refuses: then secrets had better not be loaded.
    """
    _leave_memory_out_of_images()  # first: the file is root's in a process that is not dumpable
    _refuse_to_be_dumped()


def clear_registers() -> None:
    """Put zeros where this thread's last copies went through: the vector registers, which an image always has.

    A copy stays there until another one of its size comes, which in a thread that waits for work may be hours later;
    the vault's key was found in most images. Takes a quarter of a microsecond.
    """
    for zeros in _ZEROS:
        bytes(zeros)


def _leave_memory_out_of_images() -> None:
    """Of all kinds of mappings none goes into an image, those of threads and libraries yet to come included."""
    try:
        with contextlib.suppress(OSError):  # who started it may have set it, and may not let it be changed
            COREDUMP_FILTER.write_text("0")
        kinds = int(COREDUMP_FILTER.read_text(), 16)
    except FileNotFoundError:  # a kernel that makes no core images
        return
    except (OSError, ValueError) as error:
        raise _not_private(str(error), f"can {COREDUMP_FILTER} be read?") from error
    if kinds != 0:
        raise _not_private(f"{COREDUMP_FILTER} stays {kinds:#x}", "under systemd, CoredumpFilter=0 sets it")


def _refuse_to_be_dumped() -> None:
    """Neither a crash nor an equal gets at the memory."""
    with contextlib.suppress(ValueError, OSError):  # a sandbox forbids it; one that does has a limit of its own
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0) != 0:
        raise _not_private(os.strerror(ctypes.get_errno()), "does a sandbox forbid prctl?")


def _not_private(reason: str, hint: str) -> TextgateError:
    return TextgateError(f"the daemon's memory can't be kept private: {reason}", hint=hint)
