# SPDX-License-Identifier: MIT
"""The demo as the machine sees it: a world is made and goes, and nothing else may have changed.

The last line is computed: from what the world reports on a pipe, and from a look at the machine before and after.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

IN_WORLD = Path(__file__).resolve().parents[1] / "rig/in-world"
NO_WORLD = 125  # in-world's exit status when it could not run the command
REAL = ("GATEWAYAPI_KEY", "GATEWAYAPI_SECRET", "PHONE")
"""With all three set, texts go out for real."""
GUARDED = ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/pam.d", "/etc/ssh", "/etc/textgate", "/run/textgate",
           "/run/textgate-redis", "/run/textgate-world", "/usr/bin/textgate", "/usr/sbin/textgated",
           "/usr/libexec/textgate", "/usr/lib/python3/dist-packages/textgate", "/var/lib/textgate")  # fmt: skip
"""What the demo changes in its world, and must not change outside of it."""


@dataclass(frozen=True)
class Report:
    """What the world said of itself. missed: a step that did not come out as it should, None if all did."""

    proved: tuple[str, ...] = ()
    text_count: int = 0
    missed: str | None = "it ended before its last step"
    facts: Mapping[str, Any] = field(default_factory=dict)


def main() -> int:
    """Play it; 0 if everything was proved, 1 if something was missed, 2 if it can't be played here."""
    is_real = any(os.environ.get(name) for name in REAL)
    fault = _fault(is_real)
    if fault is not None:
        print(f"demo: error: {fault[0]}\nhint: {fault[1]}", file=sys.stderr)
        return 2
    before = look_around()
    report = _play(is_real)
    traces = differences(before, look_around())
    if report.missed is None and not traces:
        texts = f"{report.text_count} text{'' if report.text_count == 1 else 's'} sent"
        print(f"demo: proved: {'; '.join(report.proved)} ({texts}, nothing left behind)")
        return 0
    missed = report.missed or f"something was left behind: {', '.join(traces)}"
    print(f"demo: failed: {missed}", file=sys.stderr)
    return 1


def _fault(is_real: bool) -> tuple[str, str] | None:
    """Why it can't be played, with what to do; None if it can."""
    if os.geteuid() != 0:
        return "the demo needs root, for a private world of its own", "sudo make demo"
    if not is_real:
        return None
    unset = [name for name in REAL if not os.environ.get(name)]
    if unset:
        return (
            f"{' and '.join(unset)} not set",
            f"to text for real set {', '.join(REAL)}; to use the fake, none of them",
        )
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return (
            "with real texts a person must type the code from the phone, and there is no terminal",
            "run it at a terminal, or without GATEWAYAPI_KEY to see it play by itself",
        )
    return None


def _play(is_real: bool) -> Report:
    """Run the world; its report comes through a pipe, because nothing else of it remains."""
    reading, writing = os.pipe()
    keep = [word for name in REAL for word in ("--keep", name)]
    network = [] if is_real else ["--private-network"]
    inside = ["/usr/bin/python3", "-I", "-B", str(Path(__file__).with_name("inside.py")), str(writing)]
    world = subprocess.Popen([str(IN_WORLD), *network, *keep, "--", *inside], pass_fds=(writing,))
    os.close(writing)
    _leave_signals_to(world)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    if world.wait() == NO_WORLD:
        return Report(missed="no private world could be made here, for the reason above")
    try:
        facts = json.loads(said)
    except ValueError:
        return Report()
    return Report(tuple(facts["proved"]), facts["text_count"], facts["missed"], facts)


def _leave_signals_to(world: subprocess.Popen[bytes]) -> None:
    """Whatever asks us to stop, the world stops first, so that the last line is said when all is over."""

    def forward(number: int, _frame: FrameType | None) -> None:
        world.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
    signal.signal(signal.SIGINT, lambda _number, _frame: None)  # the world had the same key press


# --- The machine before and after. ---


def look_around() -> dict[str, object]:
    """What must be the same afterwards: mounts, processes in other namespaces, guarded files."""
    return {
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "processes": frozenset(_foreign_processes()),
        **{path: _state(Path(path)) for path in GUARDED},
    }


def _state(path: Path) -> object:
    """Kind, time of change and size of a file, or of everything in a folder."""
    try:
        status = path.lstat()
    except OSError:
        return None
    own = (status.st_mode, status.st_uid, status.st_gid, status.st_size, status.st_mtime_ns, status.st_ino)
    below = sorted(path.iterdir()) if path.is_dir() and not path.is_symlink() else []
    return own, tuple((entry.name, _state(entry)) for entry in below)


def _foreign_processes() -> set[str]:
    """Namespaces of processes other than ours that something runs in."""
    own = os.readlink("/proc/self/ns/pid")
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.add(os.readlink(entry / "ns/pid"))
            except OSError:  # it ended meanwhile, or is none of ours
                continue
    return found - {own}


def differences(before: Mapping[str, object], after: Mapping[str, object]) -> list[str]:
    """The names of what changed; processes that ended are no trace."""
    new_processes = after["processes"] - before["processes"]  # type: ignore[operator]
    changed = [name for name in before if name != "processes" and before[name] != after[name]]
    return changed + (["processes"] if new_processes else [])
