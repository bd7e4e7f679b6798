# SPDX-License-Identifier: MIT
"""/etc/pam.d/textgate beside the shipped block: what is a fault, what is an administrator's choice, how it is mended.

Every change of one line is a case of tests/contract/test_pam_block.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from textgate.errors import TextgateError
from textgate.pam_block import HELPER, Comparison, compare, is_of_ours, repaired

SHIPPED = (Path(__file__).parents[2] / "pam_helper/textgate.pam").read_text()
LINES = [line for line in SHIPPED.splitlines() if line.startswith("auth")]
FORMER = "\n".join(line for line in LINES if not line.endswith(("start", "finish")))


def text(*lines: str) -> str:
    return "\n".join(lines) + "\n"


PLAIN = text("# mine", *(" ".join(line.split()) for line in LINES))


@pytest.mark.parametrize("installed", [SHIPPED, text(*LINES), PLAIN])
def test_comments_and_blanks_make_no_difference(installed: str) -> None:
    assert compare(SHIPPED, installed) == Comparison(())
    assert is_of_ours(SHIPPED, installed)


@pytest.mark.parametrize(
    ("installed", "fault"),
    [
        ("", "/etc/pam.d/textgate lacks line 1 of the block: auth [ignore=ignore default=die] pam_textgate.so start"),
        (text(*LINES[1:]), "lacks line 1 of the block"),
        (text(*LINES[:-1]), "lacks line 12 of the block: auth required pam_permit.so"),
        (text(*LINES, "auth required pam_permit.so"), "/etc/pam.d/textgate:13 is no line of the block"),
        (text(*LINES, "session required pam_x.so"), "/etc/pam.d/textgate:13 is no line of the block"),
        (
            text(*LINES).replace("success=5", "success=3", 1),
            "textgate:4 is changed; it should be: auth [success=5",
        ),
        (text(*LINES[:9], LINES[10], LINES[9], LINES[11]), "is moved; it should be line 1"),
        (text(*LINES).replace(" seteuid", "", 1), "/etc/pam.d/textgate:2 is changed"),
        (text(*LINES).replace("so ask", "so ask echo=1", 1), "/etc/pam.d/textgate:3 is changed"),
        (text(*LINES).replace("check", "check --fail-open", 1), "/etc/pam.d/textgate:4 is changed"),
        (text(*LINES).replace(HELPER, f"{HELPER} --socket auth.sock", 1), "/etc/pam.d/textgate:2 is changed"),
        (text(*LINES).replace(HELPER, f"{HELPER} --deadline", 1), "/etc/pam.d/textgate:2 is changed"),
        (text("@include sudo"), "/etc/pam.d/textgate:1 takes in another file"),
        (text("auth nonsense"), "/etc/pam.d/textgate:1: is in no form that PAM knows"),
        (text("auth required \\"), "can't be read with certainty"),
    ],
)
def test_each_kind_of_fault_is_told_with_its_place(installed: str, fault: str) -> None:
    found = compare(SHIPPED, installed)
    assert any(fault in one for one in found.faults), found
    assert not is_of_ours(SHIPPED, installed)


CHOSEN = text(
    *(
        line.replace("so ask", "so ask [prompt=Texted code: ] echo")
        .replace("so deny", "so deny [text=No entry.]")
        .replace(f"{HELPER} ", f"{HELPER} --deadline 20 --fail-open --socket /run/x.sock ")
        .replace(" quiet ", " quiet quiet_log ")
        for line in LINES
    )
)


def test_options_of_an_administrator_are_told_and_are_no_fault() -> None:
    found = compare(SHIPPED, CHOSEN)
    assert found.faults == ()
    assert found.is_fail_open
    assert len(found.options) == 8
    assert f"{found.options[0]}" == (
        "/etc/pam.d/textgate:2 has quiet_log --deadline 20 --fail-open --socket /run/x.sock"
    )
    assert found.options[1] == "/etc/pam.d/textgate:3 has prompt=Texted code:  echo"
    assert is_of_ours(SHIPPED, CHOSEN)


def test_repair_keeps_them_whatever_else_is_wrong() -> None:
    for damage in (("success=5", "success=3"), ("requisite", "optional"), ("default=die", "default=ignore")):
        mended = repaired(SHIPPED, CHOSEN.replace(*damage))
        assert compare(SHIPPED, mended).faults == ()
        assert [one.partition(" ")[2] for one in compare(SHIPPED, mended).options] == [
            one.partition(" ")[2] for one in compare(SHIPPED, CHOSEN).options
        ]
    assert repaired(SHIPPED, SHIPPED) == repaired(SHIPPED, "") == repaired(SHIPPED, "nonsense") == SHIPPED


def test_block_of_an_earlier_version_is_known_and_its_options_are_carried_over() -> None:
    chosen = FORMER.replace("so ask", "so ask echo")
    assert compare(SHIPPED, chosen).faults
    assert is_of_ours(SHIPPED, chosen)
    mended = compare(SHIPPED, repaired(SHIPPED, chosen))
    assert (mended.faults, len(mended.options)) == ((), 3)
    assert not is_of_ours(SHIPPED, chosen.replace("success=5", "success=3"))


def test_damaged_shipped_block_is_an_error() -> None:
    with pytest.raises(TextgateError):
        compare("auth nonsense\n", SHIPPED)
