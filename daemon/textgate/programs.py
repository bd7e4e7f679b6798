# SPDX-License-Identifier: MIT
"""Runs programs of the host: by lists of our own words, without a shell and without our environment.

Needs nothing but the standard library: the way back from a PAM change hangs on it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
TIMEOUT_S = 60
SYSTEMD = "/run/systemd/system"  # sd_booted(3)
NOT_FOUND, NOT_ENDED = 127, 124  # as a shell and timeout(1) have it


def has_systemd(root: str = "/") -> bool:
    """Whether systemd runs here. root: / but for tests."""
    return Path(root, SYSTEMD.lstrip("/")).is_dir()


def run_program(arguments: Sequence[str]) -> tuple[int, str]:
    """Exit status and output of a program. NOT_FOUND if there is none of that name, NOT_ENDED if it takes long."""
    status, output, _ = _run(arguments, None, subprocess.STDOUT)
    return status, output.decode(errors="replace")


def pipe_program(arguments: Sequence[str], data: bytes) -> tuple[int, bytes, str]:
    """Feed a program. Exit status as `run_program`'s, standard output, standard error."""
    return _run(arguments, data, subprocess.PIPE)


def _run(arguments: Sequence[str], data: bytes | None, stderr: int) -> tuple[int, bytes, str]:
    program = shutil.which(arguments[0], path=PATH)
    if program is None:
        return NOT_FOUND, b"", f"{arguments[0]}: not found"
    try:
        done = subprocess.run(  # noqa: S603  # a list of our own words, no shell
            [program, *arguments[1:]], stdin=subprocess.DEVNULL if data is None else None, input=data,
            stdout=subprocess.PIPE, stderr=stderr, timeout=TIMEOUT_S, check=False,
            env={"PATH": PATH, "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return NOT_ENDED, b"", f"{arguments[0]}: did not end in time"
    return done.returncode, done.stdout, (done.stderr or b"").decode(errors="replace")
