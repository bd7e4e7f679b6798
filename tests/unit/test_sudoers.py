# SPDX-License-Identifier: MIT
"""sudo's rules in all the ways in which people may write them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rig.sudoers_spellings import SPELLINGS, write
from textgate.sudoers import Sudoers


@pytest.mark.parametrize("name", list(SPELLINGS))
def test_sudo_that_asks_nothing_is_found(tmp_path: Path, name: str) -> None:
    files, places = SPELLINGS[name]
    assert write(tmp_path, files).unasked() == [f"{tmp_path}/{place}" for place in places]


def test_pam_services_that_are_not_its_own(tmp_path: Path) -> None:
    text = 'Defaults pam_service=Open, env_reset, pam_login_service = "open-i"\nDefaults:x pam_service=sudo\n'
    found = write(tmp_path, {"sudoers": text}).services()
    assert found == [(f"{tmp_path}/sudoers:1", "open"), (f"{tmp_path}/sudoers:1", "open-i")]


def test_what_is_remembered_for_long_or_for_other_sessions(tmp_path: Path) -> None:
    text = "Defaults timestamp_timeout=15\nDefaults:x timestamp_timeout=-1\nDefaults timestamp_type=global\n"
    found = write(tmp_path, {"sudoers": text}).memories()
    assert [place.rpartition(":")[2] for place, _ in found] == ["2", "3"]


def test_files_that_include_themselves_or_have_no_end(tmp_path: Path) -> None:
    rules = write(tmp_path, {"sudoers": "@include sudoers\n@include pipe\n@include zero\nx ALL=NOPASSWD:ALL\n"})
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert rules.unasked() == [f"{tmp_path}/sudoers:4"]
    assert Sudoers((str(tmp_path / "none"),)).unasked() == []
