# SPDX-License-Identifier: MIT
"""The room of Redis' files, as doctor tells of it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from textgate.guard_faults import Level
from textgate.redis_room import RESERVE, Room, findings, look

PLENTY = Room(free_bytes=10 << 30, free_files=100_000, shared=(), has_quotas=False, has_reserve=True)


def test_room_for_all_is_well() -> None:
    (finding,) = findings(PLENTY)
    assert (finding.check, finding.level) == ("redis", Level.OK)


@pytest.mark.parametrize(
    ("room", "level", "words"),
    [
        (replace(PLENTY, free_bytes=1 << 20), Level.FAILURE, "is full"),
        (replace(PLENTY, free_bytes=0), Level.FAILURE, "is full"),
        (replace(PLENTY, free_bytes=100 << 20), Level.WARNING, "only 100 MB"),
        (replace(PLENTY, free_files=0), Level.FAILURE, "no more files"),
        (replace(PLENTY, has_reserve=False), Level.WARNING, "reserve"),
        (replace(PLENTY, shared=("/home", "/tmp")), Level.OK, "users can fill"),
    ],
)
def test_each_fault_is_told_with_what_mends_it(room: Room, level: Level, words: str) -> None:
    (finding,) = findings(room)
    assert (finding.level, words in finding.message, bool(finding.remedy)) == (level, True, True)


def test_shared_file_system_is_a_warning_where_a_full_one_may_open_a_door() -> None:
    (finding,) = findings(replace(PLENTY, shared=("/home",)), is_safe=True)
    assert finding.level is Level.WARNING


@pytest.mark.parametrize(
    "room", [replace(PLENTY, free_files=None), replace(PLENTY, shared=("/home",), has_quotas=True)]
)
def test_uncounted_files_and_quotas_are_no_fault(room: Room) -> None:
    assert [finding.level for finding in findings(room)] == [Level.OK]


def test_look_finds_what_shares_the_file_system(tmp_path: Path) -> None:
    folder, home = tmp_path / "redis", tmp_path / "home"
    assert look(folder) is None
    folder.mkdir()
    home.mkdir()
    (folder / RESERVE).touch()
    room = look(folder, places=(home, tmp_path / "missing", Path("/proc")), mounts="")
    assert room is not None
    assert (room.shared, room.has_reserve, room.has_quotas) == ((str(home),), True, False)
    assert room.free_bytes > 0


@pytest.mark.parametrize(("options", "has_quotas"), [("rw,usrquota", True), ("rw,prjquota", True), ("rw", False)])
def test_quotas_are_seen_in_the_mounts(options: str, has_quotas: bool, tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = f"36 35 {number} / / rw - ext4 /dev/x {options}\n36 35 0:99 / /b rw - x y quota\n"
    room = look(tmp_path, places=(), mounts=mounts)
    assert room is not None
    assert room.has_quotas is has_quotas
