# SPDX-License-Identifier: MIT
"""The dry run with the installed module, helper and Python: the real block has no fault, and damaged ones are found.

Each of these changes refuses a right code, at once or at a later try, or asks once more than it should.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.people import is_in_world
from textgate.pam_block import BLOCK, HELPER
from textgate.pam_dry_run import dry_run
from textgate.pam_stack import FirstFactor, read_stack, with_block

SHIPPED = Path(__file__).parents[2].joinpath("pam_helper/textgate.pam").read_text()
LINES = [line for line in SHIPPED.splitlines() if line.startswith("auth")]


def changed(number: int, old: str, new: str) -> list[str]:
    assert old in LINES[number - 1]
    return [*LINES[: number - 1], LINES[number - 1].replace(old, new), *LINES[number:]]


REFUSING = {
    "start is gone": LINES[1:],
    "begin is gone": [LINES[0], *LINES[2:]],
    "finish is gone": [*LINES[:10], *LINES[11:]],  # begin's jump leads to permit, and past it with what is behind
    "permit is gone": LINES[:-1],
    "first jump too short": changed(4, "success=5", "success=3"),
    **{
        f"{number}: default={action}": changed(number, "default=ignore", f"default={action}")
        for number in (4, 6)
        for action in ("done", "die", "bad")
    },
    **{f"5: ignore={action}": changed(5, "ignore=ignore", f"ignore={action}") for action in ("done", "die", "bad")},
    "helper is silent": changed(4, " stdout", ""),
    "code is not handed over": changed(8, " expose_authtok", ""),
    "deny comes too early": [*LINES[:4], LINES[8], *LINES[4:8], *LINES[9:]],
    "one try fewer": [*LINES[:6], *LINES[8:]],
}


@pytest.fixture
def block() -> Iterator[Path]:
    assert is_in_world()
    yield Path(BLOCK)
    Path(BLOCK).write_text(SHIPPED)


@pytest.mark.parametrize("service", [None, "sudo", "su", "login", "sshd"])
def test_shipped_block_has_no_fault_alone_and_in_debians_services(block: Path, service: str | None) -> None:
    def read(name: str) -> str:
        text = Path("/etc/pam.d", name).read_text()
        first_factor = FirstFactor.KEY if name == "sshd" else FirstFactor.PASSWORD
        return with_block(text, first_factor, service=name) if name == service else text

    assert dry_run(None if service is None else read_stack(service, read)) == ()


@pytest.mark.parametrize("lines", REFUSING.values(), ids=REFUSING)
def test_block_that_refuses_a_right_code_is_found(block: Path, lines: list[str]) -> None:
    block.write_text("\n".join(lines) + "\n")
    text = "auth required pam_permit.so\nauth substack textgate\nauth requisite pam_textgate.so require\n"
    rules = read_stack("x", lambda name: text if name == "x" else block.read_text())
    assert dry_run(rules) or dry_run()


def test_helper_that_is_another_program_is_found(block: Path, tmp_path: Path) -> None:
    helper, kept = Path(HELPER), tmp_path / "kept"
    shutil.copy(helper, kept)
    try:
        helper.unlink()
        helper.symlink_to("/bin/true")
        assert "a right code is refused" in dry_run()
    finally:
        helper.unlink()
        shutil.copy(kept, helper)
    assert dry_run() == ()
