# SPDX-License-Identifier: MIT
"""The daemon keeps its memory to itself; each case in a process of its own, as none can be undone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "daemon"

TEMPLATE = """
import ctypes, resource, sys
sys.path.insert(0, {sources!r})
from textgate import memory
memory.COREDUMP_FILTER.write_text("0x33")  # the kernel's own, whatever this test was started with
{before}
try:
    memory.keep_private()
except Exception as error:
    print(type(error).__name__, error)
is_dumpable = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)  # PR_GET_DUMPABLE
print(is_dumpable, resource.getrlimit(resource.RLIMIT_CORE), int(open("/proc/self/coredump_filter").read(), 16))
"""


def _run(before: str = "") -> str:
    program = TEMPLATE.format(sources=str(SOURCES), before=before)
    return subprocess.check_output([sys.executable, "-B", "-c", program], text=True, timeout=20)


def test_process_writes_no_image_and_lets_nobody_read_it() -> None:
    assert _run() == "0 (0, 0) 0\n"


def test_sandbox_that_forbids_the_limit_does_not_matter() -> None:
    """As systemd's filter of @resources does: EPERM, which Python makes a ValueError of."""
    refuse = "def refuse(*_): raise ValueError\nmemory.resource.setrlimit = refuse"
    said = _run(refuse)
    assert said.startswith("0 ")
    assert said.endswith(" 0\n")


def test_kernel_that_refuses_is_an_error() -> None:
    """And the filter was set before: a process that is not dumpable can't set its own any more."""
    refuse = """
import types
libc = types.SimpleNamespace(prctl=lambda *_: -1)
memory.ctypes = types.SimpleNamespace(CDLL=lambda *_, **__: libc, c_ulong=int, get_errno=lambda: 1)
"""
    said = _run(refuse)
    assert said.startswith("TextgateError the daemon's memory can't be kept private: Operation not permitted\n1 ")
    assert said.endswith(" 0\n")


# The file in /proc as one that can't be written to.
READ_ONLY = """
class Filter:
    def write_text(self, text): raise OSError(30, "Read-only file system")
    def read_text(self): {}
    def __str__(self): return "the filter"
memory.COREDUMP_FILTER = Filter()
"""


def test_filter_that_cannot_be_set_does_not_matter_where_it_is_set() -> None:
    assert _run(READ_ONLY.format("return '00000000\\n'")).startswith("0 (0, 0) ")


def test_kernel_that_makes_no_core_images_has_no_filter() -> None:
    assert _run(READ_ONLY.format("raise FileNotFoundError(2, 'No such file')")).startswith("0 (0, 0) ")


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        ("return '00000033\\n'", "the filter stays 0x33"),
        ("raise OSError(13, 'Permission denied')", "[Errno 13] Permission denied"),
        ("return ''", "invalid literal for int() with base 16: ''"),
    ],
)
def test_filter_that_cannot_be_set_is_an_error_elsewhere(read: str, reason: str) -> None:
    said = _run(READ_ONLY.format(read))
    assert said.startswith(f"TextgateError the daemon's memory can't be kept private: {reason}\n1 ")
