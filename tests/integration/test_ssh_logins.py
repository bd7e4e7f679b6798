# SPDX-License-Identifier: MIT
"""Logins by a real sshd: each first factor with a code behind it, several tries, several rounds in a connection."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from fake_gatewayapi import FakeGatewayAPI
from rig.daemon import Daemon
from rig.pam import BLOCK, FirstFactor
from rig.people import ALICE, BOB, CAROL
from rig.phone import Phone, wrong_code
from rig.prompts import AS_PEOPLE_SEE_IT, CODE, ONE_ROUND, PROOF, PROVE, all_shown
from rig.sshd import Sshd
from rig.terminal import Terminal

from .conftest import Configure, StartSshd

pytestmark = pytest.mark.usefixtures("no_fail_delay")

TO_ALICE = "(alice@127.0.0.1) "
PASSWORD = f"{TO_ALICE}Password: "
SENT = "A login code was texted to your phone.\n"


@pytest.mark.parametrize(
    ("first_factor", "has_key", "before_the_code"),
    [
        (FirstFactor.KEY, True, ""),
        (FirstFactor.PASSWORD, False, f"{PASSWORD}\n"),
        (FirstFactor.ANY, True, ""),
        (FirstFactor.ANY, False, f"{PASSWORD}\n"),
    ],
    ids=["key", "password", "any, with the key", "any, with the password"],
)
def test_first_factor_and_code_let_in_and_nothing_else_is_asked(
    start_sshd: StartSshd, phone: Phone, first_factor: FirstFactor, has_key: bool, before_the_code: str
) -> None:
    sshd = start_sshd(first_factor)
    with sshd.login(ALICE, PROVE, has_key=has_key, options=AS_PEOPLE_SEE_IT) as terminal:
        if not has_key:
            terminal.answer("Password: ", ALICE.password)
        terminal.answer(CODE, phone.next_code())
        assert all_shown(terminal) == f"{before_the_code}{TO_ALICE}{SENT}{CODE}\n{PROOF}"
        assert terminal.expect_end() == 0
    assert len(phone.texts) == 1


@pytest.mark.parametrize("wrong_count", [1, 2])
def test_right_code_lets_in_at_a_later_try_of_the_same_conversation(
    sshd: Sshd, phone: Phone, gateway: FakeGatewayAPI, wrong_count: int
) -> None:
    with sshd.login(ALICE, PROVE, options=AS_PEOPLE_SEE_IT) as terminal:
        terminal.expect(CODE)
        code = phone.next_code()
        for _ in range(wrong_count):
            terminal.enter(wrong_code(code))
            terminal.expect(f"{TO_ALICE}That code is not right.\n{CODE}")
        terminal.enter(code)
        assert all_shown(terminal).endswith(f"{CODE}\n{PROOF}")
    assert len(gateway.accepted) == 1


def test_code_may_be_typed_with_the_blanks_and_dashes_that_people_read_into_it(sshd: Sshd, phone: Phone) -> None:
    with sshd.login(ALICE, PROVE) as terminal:
        terminal.expect(CODE)
        code = phone.next_code()
        terminal.enter(f" {code[:3]} - {code[3:]} ")
        terminal.expect(PROOF)


def test_three_wrong_codes_are_refused_with_a_reason_and_the_next_login_works(
    sshd: Sshd, daemon: Daemon, phone: Phone
) -> None:
    with sshd.login(ALICE, PROVE, options=ONE_ROUND) as terminal:
        code = phone.next_code()
        for _ in range(3):
            terminal.answer(CODE, wrong_code(code))
        assert all_shown(terminal) == (
            f"{TO_ALICE}{SENT}{CODE}\n"
            + f"{TO_ALICE}That code is not right.\n{CODE}\n" * 2
            + "Too many wrong codes for this text. Log in again to get a new one.\n"
            "Access denied: no valid code was given.\n\n"
            "alice@127.0.0.1: Permission denied (keyboard-interactive).\n"
        )
        assert terminal.expect_end() == 255
    assert daemon.find_events("check", result="pass") == []
    with sshd.login(ALICE, PROVE) as terminal:
        terminal.answer(CODE, phone.next_code())
        terminal.expect(PROOF)


def test_number_of_password_prompts_of_the_client_is_how_often_it_begins_anew(sshd: Sshd, phone: Phone) -> None:
    with sshd.login(ALICE, PROVE, options=("NumberOfPasswordPrompts=2",)) as terminal:
        for _ in range(4):
            terminal.answer(CODE, "")  # asks for a new text each time, and counts as no wrong code
        terminal.answer(CODE, "")
        terminal.answer(CODE, "")
        assert terminal.expect_end() == 255
        assert terminal.shown.count(CODE) == 6


def test_wrong_password_then_the_right_one_then_the_code_in_one_connection(
    start_sshd: StartSshd, daemon: Daemon, phone: Phone, gateway: FakeGatewayAPI
) -> None:
    sshd = start_sshd(FirstFactor.PASSWORD)
    with sshd.login(ALICE, PROVE, has_key=False, options=AS_PEOPLE_SEE_IT) as terminal:
        terminal.answer("Password: ", f"not-{ALICE.password}")
        terminal.expect("Password: ")
        assert gateway.requests == []
        assert daemon.find_events("begin") == []
        terminal.enter(ALICE.password)
        terminal.answer(CODE, phone.next_code())
        assert all_shown(terminal) == f"{PASSWORD}\n{PASSWORD}\n{TO_ALICE}{SENT}{CODE}\n{PROOF}"
        assert terminal.expect_end() == 0
    assert len(gateway.accepted) == 1


def test_password_after_a_failed_round_of_codes_still_needs_a_code(
    start_sshd: StartSshd, phone: Phone, gateway: FakeGatewayAPI
) -> None:
    sshd = start_sshd(FirstFactor.PASSWORD)
    with sshd.login(ALICE, PROVE, has_key=False) as terminal:
        terminal.answer("Password: ", ALICE.password)
        first = phone.next_code()
        for _ in range(3):
            terminal.answer(CODE, wrong_code(first))
        terminal.answer("Password: ", ALICE.password)
        terminal.answer(CODE, first)  # of a text whose tries are spent
        terminal.expect("That code is not right.")
        terminal.answer(CODE, phone.next_code())
        terminal.expect(PROOF)
    assert len(gateway.accepted) == 2


@pytest.mark.parametrize("first_factor", [FirstFactor.KEY, FirstFactor.ANY])
def test_key_stays_the_first_factor_when_a_round_of_codes_failed(
    start_sshd: StartSshd, phone: Phone, first_factor: FirstFactor
) -> None:
    with start_sshd(first_factor).login(ALICE, PROVE) as terminal:
        first = phone.next_code()
        for _ in range(3):
            terminal.answer(CODE, wrong_code(first))
        terminal.answer(CODE, phone.next_code())
        terminal.expect(PROOF)
        assert "assword" not in terminal.shown


def test_new_round_in_a_connection_goes_on_with_a_code_that_is_still_good(
    start_sshd: StartSshd, configure: Configure, phone: Phone, gateway: FakeGatewayAPI
) -> None:
    configure({"codes": {"tries": 5}})
    with start_sshd(FirstFactor.KEY).login(ALICE, PROVE) as terminal:
        code = phone.next_code()
        for _ in range(3):
            terminal.answer(CODE, wrong_code(code))
        terminal.expect("The login code texted to you before is still good. Press Enter alone for a new one.")
        terminal.answer(CODE, code)
        terminal.expect(PROOF)
    assert len(gateway.accepted) == 1


def test_password_is_not_asked_for_nor_enough_where_only_a_key_will_do(
    sshd: Sshd, daemon: Daemon, gateway: FakeGatewayAPI
) -> None:
    with sshd.login(ALICE, PROVE, has_key=False) as terminal:
        assert all_shown(terminal) == "alice@127.0.0.1: Permission denied (publickey).\n"
    assert daemon.find_events("begin") == []
    assert gateway.requests == []


def test_key_of_somebody_else_is_no_first_factor(
    start_sshd: StartSshd, daemon: Daemon, gateway: FakeGatewayAPI
) -> None:
    sshd = start_sshd(FirstFactor.ANY)
    argv = [word.replace("bob@", "alice@") for word in sshd.ssh_argv(BOB, PROVE, options=ONE_ROUND)]
    assert f"IdentityFile={BOB.key_path}" in argv
    with Terminal(argv) as terminal:
        terminal.answer("Password: ", f"not-{ALICE.password}")
        assert terminal.expect_end() == 255
    assert daemon.find_events("begin") == []
    assert gateway.requests == []


def test_password_prompt_does_not_take_a_code_for_a_password(
    start_sshd: StartSshd, phone: Phone, gateway: FakeGatewayAPI
) -> None:
    sshd = start_sshd(FirstFactor.PASSWORD)
    with sshd.login(ALICE, PROVE, has_key=False) as first, sshd.login(ALICE, PROVE, has_key=False) as second:
        first.answer("Password: ", ALICE.password)
        first.expect(CODE)
        second.answer("Password: ", phone.next_code())
        second.expect("Password: ")
    assert len(gateway.accepted) == 1


# --- What the session gets, and what it does not. ---


def test_session_inherits_no_descriptor_and_no_secret(sshd: Sshd, phone: Phone) -> None:
    look = "ls /proc/self/fd; env"
    with sshd.login(ALICE, look) as terminal:
        code = phone.next_code()
        terminal.answer(CODE, code)
        terminal.expect("\n")
        shown = terminal.expect("SHELL=") + terminal.rest
        assert terminal.expect_end() == 0
        shown += terminal.rest
    assert shown.split("\n")[:5][:4] == ["0", "1", "2", "3"]  # 3: the folder that ls reads
    assert not re.search(r"\n[4-9]\d*\n", shown)
    names = set(re.findall(r"(?m)^(\w+)=", "SHELL=" + shown.partition("3\n")[2]))
    assert names.isdisjoint({"CODE", "PAM_USER", "PAM_SERVICE", "PAM_TYPE", "PAM_AUTHTOK"})
    assert code not in shown


def test_person_gets_a_shell_on_a_terminal(sshd: Sshd, phone: Phone) -> None:
    with sshd.login(ALICE) as terminal:
        terminal.answer(CODE, phone.next_code())
        terminal.answer("$ ", "tty && exit 3")
        terminal.expect_match(r"/dev/pts/\d+\n")
        assert terminal.expect_end() == 3


def test_what_stands_behind_the_block_gets_the_password_and_not_the_code(
    start_sshd: StartSshd, phone: Phone, tmp_path: Path
) -> None:
    kept = tmp_path / "hash"
    (script := tmp_path / "keep").write_text(f"#!/bin/sh\ntr -d '\\000' | sha256sum >{kept}\n")
    script.chmod(0o755)
    sshd = start_sshd(FirstFactor.PASSWORD)
    service = Path("/etc/pam.d/sshd")
    block = f"{BLOCK}\n"
    assert block in service.read_text()
    line = f"auth required pam_exec.so quiet seteuid expose_authtok {script}\n"
    service.write_text(service.read_text().replace(block, block + line))
    with sshd.login(ALICE, PROVE, has_key=False) as terminal:
        terminal.answer("Password: ", ALICE.password)
        code = phone.next_code()
        terminal.answer(CODE, wrong_code(code))
        terminal.answer(CODE, code)
        terminal.expect(PROOF)
    assert kept.read_text().split()[0] == hashlib.sha256(ALICE.password.encode()).hexdigest()


# --- Broken off. ---


def test_connection_that_is_closed_at_the_prompt_leads_to_nothing(
    start_sshd: StartSshd, daemon: Daemon, phone: Phone, tmp_path: Path
) -> None:
    sshd = start_sshd(FirstFactor.PASSWORD)
    tmp_path.chmod(0o777)
    with sshd.login(ALICE, f"touch {tmp_path}/was-in", has_key=False) as terminal:
        terminal.answer("Password: ", ALICE.password)
        terminal.expect(CODE)
    closed = "Connection closed by authenticating user"
    sshd.process.wait_for(
        lambda: any(closed in line for line in sshd.process.lines) or None, 10, "the end of the connection"
    )
    with sshd.login(ALICE, PROVE, has_key=False) as terminal:
        terminal.answer("Password: ", ALICE.password)
        phone.next_code()
        terminal.answer(CODE, phone.next_code())
        terminal.expect(PROOF)
    assert len(daemon.find_events("check")) == 1
    assert not (tmp_path / "was-in").exists()


def test_somebody_without_a_phone_is_asked_like_everybody_and_never_gets_in(
    sshd: Sshd, daemon: Daemon, gateway: FakeGatewayAPI
) -> None:
    with sshd.login(CAROL, PROVE, options=ONE_ROUND) as terminal:
        for typed in ("000000", "", "123456"):
            terminal.answer(CODE, typed)
        assert terminal.expect_end() == 255
    assert gateway.requests == []
    assert {event["reason"] for event in daemon.find_events("check", user="carol")} == {"no_phone"}
