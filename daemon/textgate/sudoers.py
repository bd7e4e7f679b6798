# SPDX-License-Identifier: MIT
"""Reads sudoers(5): the lines by which sudo asks nothing, asks another PAM service, or remembers too much.

Rules of this file:
- Files are read as sudo's own parser (toke.l) reads them: lines that go on behind a backslash, `#1000` as a user and
  no comment, every form of include. Where that is in doubt a line counts: a warning too many is better than a door
  that nobody sees.
- Needs nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .plain_files import read_plain

USUAL_SERVICES = ("sudo", "sudo-i")
MEMORY_USUAL_MIN = 15.0  # sudo's own timestamp_timeout
FILE_MAX_BYTES = 1 << 20
FILES_MAX = 1000
_COMMENT = re.compile(r"#(?![0-9-]|include(?:dir)?[ \t]).*")  # behind # a number is a uid or a gid
_INCLUDE = re.compile(r"[@#]include(?P<dir>dir)?[ \t]+(?:\"(?P<quoted>[^\"]+)\"|(?P<plain>(?:\\.|[^ \t\\])+))")
_UNASKED = re.compile(r"\bNOPASSWD[ \t]*:|^Defaults\b.*(?:![ \t]*authenticate\b|(?<!!)\bexempt_group\b)")
_SERVICE = re.compile(r"\bpam_(?:login_|askpass_)?service[ \t]*\+?=[ \t]*\"?(?P<name>[^ \t\",]+)")
_MEMORY = re.compile(r"\btimestamp_timeout[ \t]*\+?=[ \t]*\"?(?P<minutes>-?[0-9.]+)")
_SHARED = re.compile(r"\btimestamp_type[ \t]*\+?=[ \t]*\"?global\b")


@dataclass(frozen=True)
class Line:
    """A whole line of sudoers. place: "/etc/sudoers:3", where it begins."""

    place: str
    text: str


@dataclass(frozen=True)
class Sudoers:
    """sudo's rules. files: where it begins to read, or folders of such files; others than the system's in tests."""

    files: Sequence[str] = field(default=("/etc/sudoers",))

    def unasked(self) -> list[str]:
        """Places of the lines by which sudo asks PAM nothing, and so no code either."""
        return [line.place for line in self.lines() if _UNASKED.search(line.text)]

    def services(self) -> list[tuple[str, str]]:
        """Place and name of each PAM service that sudo asks in the place of its own."""
        return [
            (line.place, found["name"].lower())  # as libpam makes it
            for line in self.lines()
            if line.text.startswith("Defaults")
            for found in _SERVICE.finditer(line.text)
            if found["name"].lower() not in USUAL_SERVICES
        ]

    def memories(self) -> list[tuple[str, str]]:
        """Place and words of each line by which a code counts for longer, or in more places, than sudo has it."""
        found = []
        for line in self.lines():
            if not line.text.startswith("Defaults"):
                continue
            if _SHARED.search(line.text):
                found.append((line.place, "counts a code in every session of a user"))
            for match in _MEMORY.finditer(line.text):
                with contextlib.suppress(ValueError):
                    if not 0 <= float(match["minutes"]) <= MEMORY_USUAL_MIN:
                        found.append((line.place, f"asks nothing again for {match['minutes']} minutes after a code"))
        return found

    def lines(self) -> Iterator[Line]:
        """Every line of every file that sudo reads."""
        seen: set[Path] = set()
        for name in self.files:
            yield from _lines(Path(name), seen)


def _lines(path: Path, seen: set[Path]) -> Iterator[Line]:
    """Those of a file or a folder, and of what it includes. What can't be read has none."""
    if path.is_dir():
        for one in sorted(path.iterdir()):
            if "." not in one.name and not one.name.endswith("~") and not one.is_dir():  # sudo leaves these out
                yield from _lines(one, seen)
        return
    if path in seen or len(seen) >= FILES_MAX:
        return
    seen.add(path)
    text = ""
    with contextlib.suppress(OSError):
        text = read_plain(path, FILE_MAX_BYTES).decode(errors="replace")
    for number, line in _whole_lines(text):
        included = _INCLUDE.match(line)
        if included is None:
            yield Line(f"{path}:{number}", line)
            continue
        name = included["quoted"] or re.sub(r"\\(.)", r"\1", included["plain"])
        yield from _lines(path.parent / name.replace("%h", _host_name()), seen)


def _whole_lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line, with those that it goes on with."""
    pending, started_at = "", 0
    for number, raw in enumerate(text.split("\n"), start=1):
        started_at = started_at if pending else number
        line = pending + _COMMENT.sub("", raw.rstrip("\r"))
        if line.endswith("\\"):
            pending = line[:-1] + " "
            continue
        pending = ""
        if line.strip():
            yield started_at, line.strip()


def _host_name() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/hostname").read_text(encoding="utf-8").strip().partition(".")[0]
    return ""
