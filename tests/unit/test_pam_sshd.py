# SPDX-License-Identifier: MIT
"""What is asked of sshd about its Match blocks, and how often. The sshd here knows blocks for users alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from textgate.pam_admin import PamAdmin
from textgate.pam_sshd import ASKED_MAX
from textgate.pam_stack import FirstFactor
from textgate.sshd_config import DROP_IN, MAIN_FILE, drop_in_text, wanted

GOOD: Mapping[str, str] = {**wanted(FirstFactor.KEY), "pamservicename": "sshd"}


class Sshd:
    """Says of a user what the first block that the user is in sets. blocks: users -> settings."""

    def __init__(self, root: Path, blocks: Mapping[str, Mapping[str, str]]) -> None:
        self.blocks, self.runs = blocks, 0
        self.admin = PamAdmin(str(root), self.run)
        lines = [f"Match User {users}\n{_text(settings)}" for users, settings in blocks.items()]
        for path, text in ((MAIN_FILE, "".join(lines)), (DROP_IN, drop_in_text(FirstFactor.KEY))):
            whole = root / path.lstrip("/")
            whole.parent.mkdir(parents=True, exist_ok=True)
            whole.write_text(text)

    def run(self, arguments: Sequence[str]) -> tuple[int, str]:
        if arguments[:2] != ["sshd", "-T"]:
            return 0, ""
        self.runs += 1
        (user,) = re.findall(r"user=([^,]*),", arguments[-1])
        if arguments[2] == "-f":
            found = re.findall(r"^Match User (\S+)\nAcceptEnv (\S+)", Path(arguments[3]).read_text(), re.MULTILINE)
            return 0, "".join(f"acceptenv {mark}\n" for users, mark in found if user in users.split(","))
        settings = dict(GOOD)
        for users, changes in reversed(list(self.blocks.items())):
            settings |= changes if user in users.split(",") else {}
        return 0, "".join(f"{keyword} {value}\n" for keyword, value in settings.items())


def _text(settings: Mapping[str, str]) -> str:
    return "".join(f"{keyword} {value}\n" for keyword, value in settings.items())


def test_block_that_another_one_hides_for_some_is_found(tmp_path: Path) -> None:
    """alice, the first who is in the second block, is in the first one, too; bob goes without a code."""
    blocks = {"alice": {"pamservicename": "sshd"}, "alice,bob": {"pamservicename": "open"}}
    verdict = Sshd(tmp_path, blocks).admin.judge_sshd(FirstFactor.KEY, planned=["sshd"])
    (told,) = verdict.opened
    assert told.startswith(f"{MAIN_FILE}:3: its PAM service is open")
    assert not verdict.unclear


def test_passwords_of_a_block_that_another_one_hides_are_seen(tmp_path: Path) -> None:
    blocks = {"alice": {"passwordauthentication": "no"}, "alice,bob": {"passwordauthentication": "yes"}}
    answers = list(Sshd(tmp_path, blocks).admin.sshd_answers())
    assert {one["passwordauthentication"] for one in answers} == {"yes", "no"}


@pytest.mark.parametrize("keyword", ["x11forwarding", "passwordauthentication"])
def test_many_blocks_take_no_longer_than_the_limit(tmp_path: Path, keyword: str) -> None:
    sshd = Sshd(tmp_path, {f"!u{number}": {keyword: "no"} for number in range(50)})  # nobody is in any of them
    people = [f"p{number}" for number in range(20)]
    verdict = sshd.admin.judge_sshd(FirstFactor.KEY, people, planned=["sshd"])
    assert sshd.runs <= ASKED_MAX + len(people) + 3
    assert len(verdict.unclear) == (50 if keyword == "passwordauthentication" else 0)  # said, and not passed over


def test_all_of_many_blocks_are_found(tmp_path: Path) -> None:
    sshd = Sshd(tmp_path, {f"u{number}": {"pamservicename": "open"} for number in range(50)})
    verdict = sshd.admin.judge_sshd(FirstFactor.KEY, planned=["sshd"])
    assert (len(verdict.opened), verdict.unclear) == (50, ())
