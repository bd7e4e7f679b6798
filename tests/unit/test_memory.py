# SPDX-License-Identifier: MIT
"""The daemon keeps its memory to itself; each case in a process of its own, as none can be undone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "daemon"

TEMPLATE = """
import ctypes, resource, sys
sys.path.insert(0, {sources!r})
from textgate import memory
{before}
try:
    memory.keep_private()
except Exception as error:
    print(type(error).__name__, error)
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))  # PR_GET_DUMPABLE
"""


def _run(before: str = "") -> str:
    program = TEMPLATE.format(sources=str(SOURCES), before=before)
    return subprocess.check_output([sys.executable, "-B", "-c", program], text=True, timeout=20)


def test_process_writes_no_image_and_lets_nobody_read_it() -> None:
    assert _run() == "0 (0, 0)\n"


def test_sandbox_that_forbids_the_limit_does_not_matter() -> None:
    """As systemd's filter of @resources does: EPERM, which Python makes a ValueError of."""
    refuse = "def refuse(*_): raise ValueError\nmemory.resource.setrlimit = refuse"
    assert _run(refuse).startswith("0 ")


def test_kernel_that_refuses_is_an_error() -> None:
    refuse = """
import types
libc = types.SimpleNamespace(prctl=lambda *_: -1)
memory.ctypes = types.SimpleNamespace(CDLL=lambda *_, **__: libc, c_ulong=int, get_errno=lambda: 1)
"""
    said = _run(refuse)
    assert said.startswith("TextgateError the daemon's memory can't be kept private: Operation not permitted\n1 ")
