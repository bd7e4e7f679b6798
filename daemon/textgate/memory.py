# SPDX-License-Identifier: MIT
"""Keeps this process's memory to itself: no image of it is written when it crashes, and none is read by its equals.

The daemon's memory holds the vault key and the gateway's secret for as long as it runs. "Not dumpable" is what
counts: a core limit of 0 alone would not keep an image from a program that the kernel pipes images to (core(5)).
Root can read the memory all the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource

from .errors import TextgateError

PR_SET_DUMPABLE = 4  # <linux/prctl.h>


def keep_private() -> None:
    """Write no core image from now on, and let no process of the same user trace or read this one (prctl(2)).

    Raises TextgateError when the kernel refuses: then secrets had better not be loaded.
    """
    with contextlib.suppress(ValueError, OSError):  # a sandbox forbids it; one that does has a limit of its own
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise TextgateError(
            f"the daemon's memory can't be kept private: {reason}", hint="does a sandbox forbid prctl?"
        )
