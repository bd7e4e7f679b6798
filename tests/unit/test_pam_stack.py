# SPDX-License-Identifier: MIT
"""PAM stacks as text: what is read, who gets around textgate's lines, and how they are put in and out.

That the simulator does what libpam does is shown by tests/contract/test_pam_stack_against_libpam.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgate import pam_stack
from textgate.pam_stack import (
    ANSWERS,
    ASKING,
    BEGIN_MARK,
    END_MARK,
    KEPT_MARK,
    FirstFactor,
    Rule,
    StackError,
    asks_anybody,
    block_count,
    block_text,
    body_lines,
    has_block,
    has_mark,
    is_plain_common,
    lacks_require,
    lets_in_with_code,
    logical_lines,
    play,
    read_stack,
    ways_around,
    with_block,
    with_todays_block,
    without_block,
)

BLOCK = (Path(__file__).parents[2] / "pam_helper" / "textgate.pam").read_text()
COMMON = """\
auth [success=1 default=ignore] pam_unix.so nullok
auth requisite pam_deny.so
auth required pam_permit.so
auth optional pam_cap.so
"""
FILES = {
    "textgate": BLOCK,
    "common-auth": COMMON,
    "sudo": "#%PAM-1.0\nsession required pam_limits.so\n@include common-auth\n@include common-account\n",
    "common-account": "account required pam_permit.so\n",
    "su": "auth sufficient pam_rootok.so\n@include common-auth\n",
    "su-l": "auth\t\tinclude\t\tsu\naccount\t\tinclude\t\tsu\n",
    "login": "auth optional pam_faildelay.so delay=3000000\nauth requisite pam_nologin.so\n@include common-auth\n"
    "auth optional pam_group.so\n",
}


def rules_of(text: str, **others: str) -> list[Rule]:
    """The stack of a service with this text."""
    files = FILES | {"service": text} | others

    def read(name: str) -> str:
        if name not in files:
            raise StackError(f"{name}: can't be read")
        return files[name]

    return read_stack("service", read)


# --- Reading ---


def test_stack_is_read_in_the_order_of_libpam_with_includes_and_substacks() -> None:
    rules = rules_of("auth required a.so x\n@include two\nauth substack three\nauth required b.so\n",
                     two="account required c.so\nauth include three\n",
                     three="-auth optional d.so [with blanks] y\n")  # fmt: skip
    assert [(rule.module, rule.level, rule.is_substack) for rule in rules] == [
        ("a.so", 0, False), ("d.so", 0, False), ("three", 0, True), ("d.so", 1, False), ("b.so", 0, False),
    ]  # fmt: skip
    assert rules[1].arguments == ("with blanks", "y")
    assert rules[1].place == "/etc/pam.d/three:1"
    assert rules[4].place == "/etc/pam.d/service:4"


def test_comments_blank_lines_and_continued_lines() -> None:
    text = "# a comment\n\n  \t\nauth \\\n  required \\\n  a.so x\nb # the rest\n"
    assert list(logical_lines(text)) == [(4, "auth required a.so x"), (7, "b")]
    assert [number for number, _ in logical_lines("a\\\nb\n\nc # d\\ e\n")] == [1, 4]


@pytest.mark.parametrize(
    "text",
    [
        "auth required",  # no module
        "required pam_unix.so",
        "bogus required pam_unix.so",
        "auth perhaps pam_unix.so",
        "auth [success=0 default=ignore] pam_unix.so",  # no jump of no length
        "auth [success=-1] pam_unix.so",
        "auth [SUCCESS=1] pam_unix.so",  # libpam tells capitals apart here
        "auth [success=maybe] pam_unix.so",
        "auth [success] pam_unix.so",
        "auth [perfect=ok] pam_unix.so",
        "auth required pam_unix.so \\",  # the file ends in the middle of the line
        "auth required \\\n# comment\npam_unix.so",  # versions of libpam differ
        "auth required \\\n\npam_unix.so",
        "auth required pam_unix.so # goes on? \\\nauth required a.so \\ # x",
        "auth required pam_unix.so\r",
        "auth required pam_unix.so \x00",
        "auth required pam_unix.so \udcff",
        "auth required pam_unix.so " + "x" * 1000,
        "@include nowhere",
        "auth include nowhere",
        "@include service",  # itself
        "auth substack service",
    ],
)
def test_what_is_not_certain_is_an_error(text: str) -> None:
    with pytest.raises(StackError):
        rules_of(text)


def test_trailing_backslash_in_a_comment_does_not_go_on() -> None:
    with pytest.raises(StackError):
        rules_of("auth required a.so \\ # x\nauth required b.so\n")
    assert len(rules_of("# x \\\nauth required b.so\n")) == 1


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        rules_of(text)
    except StackError as error:
        assert error.message


# --- Who gets around ---


@pytest.mark.parametrize("service", ["sudo", "su", "login"])
@pytest.mark.parametrize("first_factor", list(FirstFactor))
def test_debians_services_have_no_way_around_with_the_lines_in(service: str, first_factor: FirstFactor) -> None:
    rules = rules_of(with_block(FILES[service], first_factor, service=service))
    assert ways_around(rules) == ()
    assert lets_in_with_code(rules)
    assert block_count(rules) == 1


def test_su_l_is_closed_by_way_of_su() -> None:
    rules = rules_of(FILES["su-l"], su=with_block(FILES["su"], FirstFactor.PASSWORD, service="su"))
    assert ways_around(rules) == ()
    assert has_block(rules)


@pytest.mark.parametrize("service", ["sudo", "su", "login"])
def test_a_stack_without_the_lines_is_a_way_around(service: str) -> None:
    assert ways_around(rules_of(FILES[service]))
    assert not has_block(rules_of(FILES[service]))


# Stacks from the threads of people who were let in without a code, and their like; each with the line that does it.
OPEN = {
    "sufficient above": ("auth sufficient pam_unix.so\n@include textgate\n", 1),
    "sufficient in what is included": ("@include loose\n@include textgate\n", None),
    "jump over all of it": (
        "auth [success=12 default=ignore] pam_unix.so\n@include textgate\nauth required pam_permit.so\n", 1,
    ),
    "jump off by one, to permit": ("auth [success=11 default=ignore] pam_unix.so\n@include textgate\n", 1),
    "done above": ("auth [success=done default=die] pam_unix.so\n@include textgate\n", 1),
    "first factor as sufficient": ("auth sufficient pam_textgate.so first-factor\n@include textgate\n", 1),
    "wheel is trusted": ("auth sufficient pam_wheel.so trust\n@include common-auth\n@include textgate\n", 1),
    "abort at the prompt goes on": (
        "auth [success=1 default=ignore] pam_textgate.so ask\n"
        "auth [success=1 default=ignore] pam_exec.so seteuid /usr/libexec/textgate/pam-helper check\n"
        "auth required pam_permit.so\n", 3,
    ),
    "broken off prompt jumps to the end": ("@include hasty\n", None),
    "optional block": ("auth required pam_unix.so\nauth optional pam_textgate.so ask\n", 1),
    "reset below": ("auth substack wrapped\nauth required pam_permit.so\n", None),
    "no block at all": ("auth required pam_permit.so\n", 1),
    "faillock's authsucc": (
        "auth required pam_faillock.so preauth\nauth sufficient pam_unix.so\n"
        "auth [default=die] pam_faillock.so authfail\nauth sufficient pam_faillock.so authsucc\n@include textgate\n",
        2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(OPEN))
def test_known_ways_around_are_found_and_named(name: str) -> None:
    text, line = OPEN[name]
    found = ways_around(
        rules_of(
            text,
            loose="auth sufficient pam_unix.so\nauth required pam_deny.so\n",
            hasty=BLOCK.replace("default=die]  pam_textgate.so ask", "default=8] pam_textgate.so ask", 1),
            wrapped=re.sub(r"(?m)^auth .*(pam_textgate.so (deny|finish))", r"auth [default=reset] \1", BLOCK),
        )
    )
    assert found
    if line is not None:
        assert f"/etc/pam.d/service:{line}" in found


def test_line_that_jumps_over_the_question_is_named_and_not_the_one_it_lands_on() -> None:
    rules = rules_of("auth [success=11 default=ignore] pam_unix.so\n@include textgate\n")
    assert ways_around(rules) == ("/etc/pam.d/service:1",)


def test_block_in_a_substack_refuses_all_the_same() -> None:
    """Its `die` ends the substack alone, and what follows still runs, but nothing can make good what was bad."""
    assert ways_around(rules_of("auth substack textgate\nauth required pam_permit.so\n")) == ()


@pytest.mark.parametrize(
    ("text", "is_open"),
    [
        ("@include textgate\n", True),
        ("auth requisite pam_deny.so\n@include textgate\n", False),
        ("@include textgate\nauth required pam_deny.so\n", False),
        ("auth [default=die] pam_unix.so\n@include textgate\n", False),
        ("auth required pam_unix.so\n", False),  # no question at all
    ],
)
def test_stack_that_lets_nobody_in_is_told_from_one_that_does(text: str, is_open: bool) -> None:
    assert lets_in_with_code(rules_of(text)) is is_open


@pytest.mark.parametrize(
    ("text", "is_asked"),
    [
        ("auth required pam_unix.so\n@include textgate\n", True),
        ("auth requisite pam_unix.so\n@include textgate\n", False),
        ("auth optional pam_unix.so\n@include textgate\n", True),
        ("auth required pam_env.so\n@include common-auth\n@include textgate\n", False),
        ("auth substack strict\n@include textgate\n", True),  # what ends a substack does not end the stack
        (
            "auth required pam_faillock.so preauth\nauth [success=1 default=ignore] pam_unix.so\n"
            "auth [default=die] pam_faillock.so authfail\n@include textgate\n",
            False,
        ),
        ("auth [success=1 default=ignore] pam_textgate.so first-factor\nauth requisite pam_unix.so\n" + BLOCK, False),
        ("auth [success=1 default=ignore] pam_textgate.so first-factor\nauth required pam_unix.so\n" + BLOCK, True),
        ("@include textgate\n", True),  # right below a key, which sshd has seen
    ],
)
def test_stack_that_asks_after_a_wrong_password_is_told(text: str, is_asked: bool) -> None:
    assert asks_anybody(rules_of(text, strict="auth requisite pam_unix.so\n")) is is_asked


@pytest.mark.parametrize("service", ["sudo", "su", "login"])
def test_debians_services_ask_nobody_after_a_wrong_password(service: str) -> None:
    text = with_block(FILES[service], FirstFactor.PASSWORD, service=service)
    assert not asks_anybody(rules_of(text))


def test_every_jump_of_the_block_matters() -> None:
    """One more or less, and a right code is refused, asked for again, or keyrings don't get the password back."""
    checks = [line for line in BLOCK.splitlines() if line.endswith(" check")]
    assert len(checks) == 3
    assert all(_is_good_at_try(number, BLOCK) for number in (1, 2, 3))
    for number, line in enumerate(checks, start=1):
        count = int(line.partition("success=")[2].split()[0])
        # The three lines differ in their jump alone.
        for other in {count - 1, count + 1} - {0}:
            changed = BLOCK.replace(line, line.replace(f"success={count}", f"success={other}"))
            assert not _is_good_at_try(number, changed), line


def _is_good_at_try(number: int, block: str) -> bool:
    """Whether a right code at this try lets in, after so many questions, and the password is put back."""
    met: list[str] = []

    def answer(_at: int, rule: Rule) -> str:
        verb = rule.arguments[-1] if rule.arguments else "permit"
        met.append(verb)
        if verb == "check":
            return "success" if met.count("check") == number else "auth_err"
        return {"begin": "system_err", "deny": "auth_err", "permit": "success"}.get(verb, "ignore")

    return play(rules_of(block), answer) == "success" and met.count("ask") == number and "restore" in met


def test_long_stack_is_searched_and_one_without_end_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ways_around(rules_of("auth optional pam_x.so\n" * 300 + "@include textgate\n")) == ()
    monkeypatch.setattr(pam_stack, "STATES_MAX", 50)
    with pytest.raises(StackError):
        ways_around(rules_of("auth optional pam_x.so\n" * 300 + "@include textgate\n"))


def test_answers_are_in_the_order_of_their_numbers() -> None:
    assert (ANSWERS[0], ANSWERS[7], ANSWERS[25], ANSWERS[29]) == ("success", "auth_err", "ignore", "bad_item")


# --- In and out ---


@pytest.mark.parametrize("service", ["sudo", "su", "login"])
@pytest.mark.parametrize("first_factor", list(FirstFactor))
def test_lines_go_in_and_out_again_without_a_trace(service: str, first_factor: FirstFactor) -> None:
    text = FILES[service]
    changed = with_block(text, first_factor, service=service)
    assert has_mark(changed)
    assert not has_mark(text)
    assert without_block(changed) == text
    # What an administrator adds meanwhile stays.
    assert without_block(f"auth required mine.so\n{changed}# mine\n") == f"auth required mine.so\n{text}# mine\n"


def test_lines_stand_behind_the_password_and_in_the_place_of_it_after_a_key() -> None:
    lines = with_block(FILES["sudo"], FirstFactor.PASSWORD, service="sudo").split("\n")
    at = lines.index("@include common-auth")
    assert lines[at + 1 : at + 5] == [BEGIN_MARK, *ASKING, END_MARK]
    lines = with_block(FILES["sudo"], FirstFactor.KEY, service="sshd").split("\n")
    at = lines.index(BEGIN_MARK)
    assert lines[at + 1] == f"{KEPT_MARK}@include common-auth"
    assert tuple(lines[at + 2 : at + 6]) == body_lines(FirstFactor.KEY)
    assert "@include common-auth" not in lines


def test_no_generated_stack_has_the_code_as_its_only_factor() -> None:
    for first_factor in FirstFactor:
        rules = rules_of(with_block(FILES["sudo"], first_factor, service="sudo"))
        first = next(at for at, rule in enumerate(rules) if rule.arguments[-1:] == ("begin",))
        assert any("pam_unix" in rule.module for rule in rules[:first])

        def wrong_password(_at: int, rule: Rule) -> str:
            if "pam_unix" in rule.module or "deny" in rule.module:
                return "auth_err"
            word = rule.arguments[-1] if rule.arguments else ""
            return "success" if word == "check" or "permit" in rule.module else "ignore"

        assert play(rules, wrong_password) != "success"


def test_service_without_common_auth_gets_them_behind_its_last_auth_line() -> None:
    text = "auth required a.so\nauth \\\n required b.so\nsession required c.so\n"
    lines = with_block(text, FirstFactor.PASSWORD, service="x").split("\n")
    assert lines[3] == BEGIN_MARK
    with pytest.raises(StackError) as caught:
        with_block("session required c.so\n", FirstFactor.PASSWORD, service="x")
    assert "pam_textgate.so require" in str(caught.value.hint)
    with pytest.raises(StackError) as caught:
        with_block(text, FirstFactor.KEY, service="sshd")
    assert "pam_unix.so" in str(caught.value.hint)


def test_lines_are_not_put_in_twice() -> None:
    once = with_block(FILES["sudo"], FirstFactor.PASSWORD, service="sudo")
    with pytest.raises(StackError):
        with_block(once, FirstFactor.PASSWORD, service="sudo")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(ASKING[0], f"{ASKING[0]}\nauth required mine.so"),
        lambda text: text.replace(ASKING[0], f"#{ASKING[0]}"),
        lambda text: text.replace(f"{ASKING[1]}\n", ""),
        lambda text: text.replace(END_MARK + "\n", ""),
        lambda text: text.replace(BEGIN_MARK + "\n", ""),
        lambda text: text + text,
    ],
)
def test_lines_that_were_changed_are_left_to_who_changed_them(change: object) -> None:
    assert callable(change)
    text = change(with_block(FILES["sudo"], FirstFactor.PASSWORD, service="sudo"))
    assert without_block(text) is None
    assert block_text(text)


@given(st.lists(st.sampled_from(["# x", "", "auth required a.so", "session required b.so", "@include common-auth"])))
def test_any_file_comes_back_as_it_was(lines: list[str]) -> None:
    text = "\n".join(lines)
    for first_factor in FirstFactor:
        try:
            changed = with_block(text, first_factor, service="x")
        except StackError:
            continue
        assert without_block(changed) == text


def former(text: str) -> str:
    """A file as an earlier version left it."""
    return text.replace("\n".join(ASKING), "@include textgate")


@pytest.mark.parametrize("first_factor", list(FirstFactor))
def test_lines_of_an_earlier_version_are_known_and_give_way_to_todays(first_factor: FirstFactor) -> None:
    today = with_block(FILES["sudo"], first_factor, service="sudo")
    assert former(today) != today
    assert without_block(former(today)) == FILES["sudo"]
    assert with_todays_block(f"# mine\n{former(today)}") == f"# mine\n{today}"
    assert with_todays_block(today) is None
    assert with_todays_block(FILES["sudo"]) is None
    assert with_todays_block(former(today).replace("@include textgate", "@include mine")) is None


@pytest.mark.parametrize("first_factor", list(FirstFactor))
def test_what_lacks_the_line_behind_the_block_is_told(first_factor: FirstFactor) -> None:
    today = with_block(FILES["sudo"], first_factor, service="sudo")
    assert not lacks_require(rules_of(today))
    assert lacks_require(rules_of(former(today)))
    assert not lacks_require(rules_of(FILES["sudo"]))  # which asks for nothing
    # Above the block it looks at nothing.
    assert lacks_require(rules_of(f"{ASKING[1]}\n{ASKING[0]}\n"))


FORMER_BLOCK = "".join(
    line for line in BLOCK.splitlines(keepends=True) if not line.endswith(("so start\n", "so finish\n"))
)


def test_line_behind_a_block_of_an_earlier_version_lets_nobody_in_and_is_seen_to() -> None:
    """Nothing in that block begins an attempt, so nothing can be proved."""
    text = with_block(FILES["sudo"], FirstFactor.PASSWORD, service="sudo")
    assert not lets_in_with_code(rules_of(text, textgate=FORMER_BLOCK))
    assert lets_in_with_code(rules_of(former(text), textgate=FORMER_BLOCK))


@pytest.mark.parametrize("block", ["", "auth required pam_permit.so\n", "auth sufficient pam_permit.so\n"])
def test_block_that_is_none_lets_nobody_in(block: str) -> None:
    text = with_block(FILES["sudo"], FirstFactor.PASSWORD, service="sudo") + "auth required pam_permit.so\n"
    assert ways_around(rules_of(text, textgate=block)) == ()
    assert ways_around(rules_of(former(text), textgate=block))


def test_common_auth_with_more_than_pam_unix_is_told() -> None:
    assert is_plain_common(rules_of(COMMON))
    assert not is_plain_common(rules_of(COMMON.replace("success=1", "success=2") + "auth sufficient pam_sss.so\n"))
    assert not is_plain_common(rules_of("auth required pam_permit.so\n"))
