# SPDX-License-Identifier: MIT
"""Which boot this is: by the unit, by the kernel, or made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from textgate.boot import FILE, VARIABLE, boot_id

ID = "0123456789abcdef" * 2
DASHED = "01234567-89ab-cdef-0123-456789abcdef"


def test_unit_says_which_boot_it_is() -> None:
    assert boot_id({VARIABLE: ID}, "/nonexistent") == ID


def test_kernel_says_which_boot_it_is(tmp_path: Path) -> None:
    file = tmp_path / "boot_id"
    file.write_text(f"{DASHED}\n")
    assert boot_id({}, str(file)) == boot_id({VARIABLE: ""}, str(file)) == ID


def test_this_machine_has_one_boot() -> None:
    assert boot_id({}) == boot_id({}) == Path(FILE).read_text().strip().replace("-", "")


@pytest.mark.parametrize("said", ["%b", "0" * 31, "0" * 33, "G" * 32, "-"])
def test_boot_that_nobody_can_tell_is_made_up_each_time(said: str) -> None:
    made_up = {boot_id({VARIABLE: said}, "/nonexistent") for _ in range(3)}
    assert len(made_up) == 3
    assert all(len(one) == 32 for one in made_up)


def test_file_that_is_no_text_is_no_boot(tmp_path: Path) -> None:
    file = tmp_path / "boot_id"
    file.write_bytes(b"\xff" * 32)
    assert len(boot_id({}, str(file))) == 32
