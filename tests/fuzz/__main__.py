# SPDX-License-Identifier: MIT
"""`python -m fuzz`: run the targets side by side in time, each for its share; 1 if one of them found a fault.

    python -m fuzz [--seconds 60] [--keep] [TARGET…]

A fault's input lies in build/fuzz/ then, and the line to run it again is printed. --keep adds what reached something
new to the corpus.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from . import corpus_file

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build/fuzz"
TraceFunction = Callable[[FrameType, str, Any], Any]
TARGETS = tuple(sorted(path.stem for path in corpus_file.CORPUS.glob("*.txt")))
OURS = (str(ROOT / "daemon"), str(ROOT / "pam_helper"))
LIMITS = ("-rss_limit_mb=2048", "-timeout=10", "-max_len=4096")


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(
        prog="fuzz", description="Feed junk to everything that reads bytes from outside."
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(TARGETS)}; all if none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="add what reached something new to the corpus")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    chosen = options.targets or TARGETS
    share_s = max(1, options.seconds // len(chosen))
    faulty = []
    for target in chosen:
        if not fuzz(target, share_s):
            faulty.append(target)
        elif options.keep:
            keep(target)
    return 1 if faulty else 0


def fuzz(target: str, seconds: int) -> bool:
    """Run one target; False if it found a fault."""
    folder = BUILD / target
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, data in enumerate(corpus_file.read(target)):
        (folder / f"{number:04}").write_bytes(data)
    prefix = BUILD / f"fault-{target}-"
    done = _child(target, str(folder), f"-max_total_time={seconds}", f"-artifact_prefix={prefix}", *LIMITS)
    ran = re.findall(r"stat::number_of_executed_units: (\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    if done.returncode == 0 and ran:
        print(f"fuzz: {target}: {ran[-1]} inputs, {covered[-1] if covered else '?'} places reached, no fault")
        return True
    faults = sorted(BUILD.glob(f"fault-{target}-*"))
    print(done.stdout[-4000:] + done.stderr[-4000:], file=sys.stderr)
    print(f"fuzz: {target}: A FAULT; the input is in {', '.join(map(str, faults)) or 'no file'}", file=sys.stderr)
    return False


def keep(target: str) -> None:
    """Take over what the last run found: of its inputs, the shortest first, those that reach a line of ours anew."""
    reached: set[tuple[str, int]] = set()
    kept = []
    found = [path.read_bytes() for path in (BUILD / target).iterdir()]
    for data in sorted({*found, *corpus_file.read(target)}, key=lambda one: (len(one), one)):
        lines = lines_of(target, data)
        if not lines <= reached and len(data) <= corpus_file.INPUT_MAX_BYTES:
            reached |= lines
            kept.append(data)
    print(f"fuzz: {target}: {corpus_file.write(target, [*kept, *corpus_file.read(target)])} inputs are kept")


def lines_of(target: str, data: bytes) -> set[tuple[str, int]]:
    """The lines of ours that a target runs through with this input."""
    from .targets import TARGETS as RUN

    reached: set[tuple[str, int]] = set()

    def note(frame: FrameType, event: str, _argument: object) -> TraceFunction | None:
        name = frame.f_code.co_filename
        if not name.startswith(OURS):
            return None
        if event == "line":
            reached.add((name, frame.f_lineno))
        return note

    sys.settrace(note)
    try:
        RUN[target](data)
    finally:
        sys.settrace(None)
    return reached


def _child(target: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", "-m", "fuzz.child", target, *arguments, "-print_final_stats=1"],
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip


sys.exit(main())
