# SPDX-License-Identifier: MIT
"""Builds the C programs of native/ into build/bench when they are older than their sources."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCES = Path(__file__).with_name("native")
BUILD = Path(__file__).resolve().parents[2] / "build" / "bench"
_FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror")
_LIBRARIES = ("-lpam", "-lpthread")


def program(name: str) -> str:
    """The path of a program, built. Raises CalledProcessError if it can't be."""
    source, target = SOURCES / f"{name}.c", BUILD / name
    newest = max(path.stat().st_mtime for path in SOURCES.iterdir())
    if not target.exists() or target.stat().st_mtime < newest:
        BUILD.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", *_FLAGS, "-o", str(target), str(source), *_LIBRARIES], check=True)
    return str(target)
