# SPDX-License-Identifier: MIT
"""sudo and su: whose password and whose phone, which of their services, and what sudo remembers."""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_gatewayapi import FakeGatewayAPI
from rig.daemon import Daemon
from rig.pam import BLOCK, FirstFactor, pam_lines
from rig.people import ALICE, BOB
from rig.phone import Phone, wrong_code
from rig.process import run_as
from rig.prompts import ANY_PROMPT, CODE, PROOF, PROVE, all_shown
from rig.terminal import CTRL_D, Terminal, su, sudo

from .conftest import PhoneOf

pytestmark = pytest.mark.usefixtures("no_fail_delay")

ASKED_FOR_PASSWORD = "[sudo] password for alice: \n"
SENT = "A login code was texted to your phone.\n"
DENIED = "Access denied: no valid code was given.\n"


@pytest.fixture
def sudo_i_lines(daemon: Daemon) -> Iterator[str]:
    """`sudo -i` is a service of its own; it asks for the password and then a code."""
    with pam_lines("sudo-i", FirstFactor.PASSWORD) as lines:
        yield lines


# --- sudo. ---


@pytest.mark.usefixtures("sudo_lines")
def test_password_and_code_make_root_by_sudo(daemon: Daemon, phone: Phone) -> None:
    with sudo(ALICE, "id", "-un") as terminal:
        terminal.answer("password for alice: ", ALICE.password)
        terminal.answer(CODE, phone.next_code())
        assert all_shown(terminal) == f"{ASKED_FOR_PASSWORD}{SENT}{CODE}\nroot\n"
        assert terminal.expect_end() == 0
    passed = daemon.wait_event("check", result="pass")
    assert (passed["user"], passed["service"], passed["source"]) == ("alice", "sudo", "")


@pytest.mark.usefixtures("sudo_lines")
def test_wrong_codes_and_wrong_passwords_make_nobody_root_by_sudo(daemon: Daemon, phone: Phone) -> None:
    with sudo(ALICE, "sh", "-c", PROVE) as terminal:
        terminal.answer("password for alice: ", ALICE.password)
        terminal.expect(CODE)
        code = phone.next_code()
        for _ in range(2):
            terminal.enter(wrong_code(code))
            terminal.expect(f"That code is not right.\n{CODE}")
        terminal.enter(wrong_code(code))
        terminal.expect(f"Too many wrong codes for this text. Log in again to get a new one.\n{DENIED}")
        for _ in range(2):  # sudo's own three attempts, the first factor anew in each
            terminal.answer("password for alice: ", f"not-{ALICE.password}")
        assert terminal.expect_end() == 1
        assert terminal.rest.endswith("sudo: 3 incorrect password attempts\n")
    assert daemon.find_events("check", result="pass") == []
    assert len(phone.texts) == 1


@pytest.mark.usefixtures("sudo_lines")
def test_sudo_asks_the_one_who_types_it_whatever_user_the_command_is_for(
    daemon: Daemon, phone: Phone, phone_of: PhoneOf
) -> None:
    with sudo(ALICE, "-u", BOB.name, "id", "-un") as terminal:
        terminal.answer("password for alice: ", ALICE.password)
        terminal.answer(CODE, phone.next_code())
        terminal.expect("bob\n")
    assert phone_of(BOB).texts == []
    assert daemon.wait_event("check", result="pass")["user"] == "alice"


@pytest.mark.usefixtures("sudo_lines", "sudo_i_lines")
def test_login_shell_of_sudo_is_a_service_of_its_own_and_guarded_too(daemon: Daemon, phone: Phone) -> None:
    with sudo(ALICE, "-i", "echo", "wrong") as terminal:
        terminal.answer("password for alice: ", ALICE.password)
        terminal.answer(CODE, wrong_code(phone.next_code()))
        terminal.expect(CODE)
    with sudo(ALICE, "-i", "id", "-un") as terminal:
        terminal.answer("password for alice: ", ALICE.password)
        terminal.answer(CODE, phone.next_code())
        terminal.expect("root\n")
    assert daemon.wait_event("check", result="pass")["service"] == "sudo-i"


@pytest.mark.usefixtures("sudo_lines")
@pytest.mark.parametrize("verb", ["-l", "-v"])
def test_sudo_asks_also_where_it_runs_no_command(phone: Phone, verb: str) -> None:
    with Terminal(["sh", "-c", f"sudo -k; sudo {verb}"], user=ALICE.name) as terminal:
        terminal.answer("password for alice: ", ALICE.password)
        terminal.answer(CODE, phone.next_code())
        assert terminal.expect_end() == 0


@pytest.mark.usefixtures("sudo_lines")
def test_sudo_remembers_a_success_on_its_terminal_until_it_is_told_to_forget(
    phone: Phone, gateway: FakeGatewayAPI
) -> None:
    script = "sudo -k; sudo echo first; sudo echo second; sudo -k; sudo -n echo third; sudo echo fourth"
    with Terminal(["sh", "-c", script], user=ALICE.name) as terminal:
        terminal.answer("password for alice: ", ALICE.password)
        terminal.answer(CODE, phone.next_code())
        terminal.expect("\nfirst\nsecond\nsudo: a password is required\n")
        assert len(gateway.accepted) == 1
        with Terminal(["sudo", "-n", "echo", "elsewhere"], user=ALICE.name) as other:
            assert all_shown(other) == "sudo: a password is required\n"
        terminal.answer("password for alice: ", ALICE.password)
        terminal.answer(CODE, phone.next_code())
        terminal.expect("\nfourth\n")
    assert len(gateway.accepted) == 2


@pytest.mark.usefixtures("sudo_lines")
def test_sudo_remembers_nothing_of_a_login_that_got_no_further_than_the_password(phone: Phone) -> None:
    with Terminal(["sh", "-c", "sudo -k; sudo echo first; sudo -n echo second"], user=ALICE.name) as terminal:
        terminal.answer("password for alice: ", ALICE.password)
        terminal.expect(CODE)
        terminal.press(CTRL_D)
        terminal.expect("sudo: a password is required\nsudo: a password is required\n")
        assert terminal.expect_end() == 1
    assert len(phone.texts) == 1


@pytest.mark.usefixtures("sudo_lines")
def test_sudo_without_a_terminal_is_refused(daemon: Daemon) -> None:
    done = subprocess.run(
        [*run_as(ALICE.name), "sudo", "-k", "-S", "sh", "-c", PROVE],
        input=f"{ALICE.password}\n", capture_output=True, text=True, timeout=30, check=False, cwd="/",
    )  # fmt: skip
    assert done.returncode == 1
    assert PROOF not in done.stdout
    assert done.stderr.count(CODE) == 1
    assert daemon.find_events("check", result="pass") == []


@pytest.mark.usefixtures("sudo_lines")
def test_output_of_the_command_of_sudo_holds_nothing_but_its_own(phone: Phone) -> None:
    with Terminal(["sh", "-c", "sudo -k echo data >out"], user=ALICE.name) as terminal:
        terminal.expect_match(ANY_PROMPT)
        terminal.enter(ALICE.password)
        code = phone.next_code()
        terminal.answer(CODE, wrong_code(code))
        terminal.answer(CODE, code)
        assert terminal.expect_end() == 0
    assert Path("/home/alice/out").read_text() == "data\n"


@pytest.mark.usefixtures("sudo_lines")
def test_what_stands_behind_the_block_in_sudo_gets_the_password_and_not_the_code(
    phone: Phone, tmp_path: Path
) -> None:
    kept = tmp_path / "hash"
    (script := tmp_path / "keep").write_text(f"#!/bin/sh\ntr -d '\\000' | sha256sum >{kept}\n")
    script.chmod(0o755)
    service = Path("/etc/pam.d/sudo")
    block = f"{BLOCK}\n"
    assert block in service.read_text()
    line = f"auth required pam_exec.so quiet seteuid expose_authtok {script}\n"
    service.write_text(service.read_text().replace(block, block + line))
    with sudo(ALICE, "sh", "-c", PROVE) as terminal:
        terminal.answer("password for alice: ", ALICE.password)
        terminal.answer(CODE, phone.next_code())
        terminal.expect(PROOF)
    assert kept.read_text().split()[0] == hashlib.sha256(ALICE.password.encode()).hexdigest()


@pytest.mark.usefixtures("sudo_lines")
def test_wrong_codes_are_no_wrong_passwords_to_faillock(phone: Phone, tmp_path: Path) -> None:
    """pam_faillock that locks out at the first wrong password: wrong codes don't, and a wrong password does."""
    service = Path("/etc/pam.d/sudo")
    faillock = f"pam_faillock.so deny=1 dir={tmp_path}"
    lines = f"""\
auth requisite {faillock} preauth
auth [success=1 default=ignore] pam_unix.so nodelay
auth [default=die] {faillock} authfail
auth required {faillock} authsucc
"""
    service.write_text(service.read_text().replace("@include common-auth\n", lines))
    with sudo(ALICE, "sh", "-c", PROVE) as terminal:
        terminal.answer("password for alice: ", ALICE.password)
        code = phone.next_code()
        for _ in range(3):
            terminal.answer(CODE, wrong_code(code))
        terminal.answer("password for alice: ", ALICE.password)
        terminal.answer(CODE, phone.next_code())
        terminal.expect(PROOF)
    with sudo(ALICE, "sh", "-c", PROVE) as terminal:
        terminal.answer("password for alice: ", f"not-{ALICE.password}")
        assert terminal.expect_end() == 1  # sudo's other two attempts don't get as far as a prompt
        assert terminal.shown.count("password for alice: ") == 1
    assert len(phone.texts) == 2


@pytest.mark.usefixtures("sudo_lines")
def test_command_of_sudo_inherits_no_descriptor_and_no_secret(phone: Phone) -> None:
    with sudo(ALICE, "sh", "-c", "ls -x /proc/self/fd; env; echo end-$((6*7))") as terminal:
        terminal.answer("password for alice: ", ALICE.password)
        code = phone.next_code()
        terminal.answer(CODE, code)
        shown = terminal.expect("end-42")
    assert shown.split("\n")[1].split() == ["0", "1", "2", "3"]  # 3: the folder that ls reads
    names = set(re.findall(r"(?m)^(\w+)=", shown))
    assert "SUDO_USER" in names
    assert names.isdisjoint({"CODE", "PAM_USER", "PAM_SERVICE", "PAM_TYPE", "PAM_AUTHTOK"})
    assert code not in shown


# --- su. ---


@pytest.mark.usefixtures("su_lines")
@pytest.mark.parametrize(("dash", "service"), [((), "su"), (("-",), "su-l")])
def test_su_asks_for_the_password_and_the_phone_of_the_target(
    daemon: Daemon, phone: Phone, phone_of: PhoneOf, dash: tuple[str, ...], service: str
) -> None:
    with Terminal(["su", *dash, ALICE.name, "--command", "id -un"], user=BOB.name) as terminal:
        terminal.answer("Password: ", ALICE.password)
        terminal.answer(CODE, phone.next_code())
        assert all_shown(terminal) == f"Password: \n{SENT}{CODE}\nalice\n"
    assert phone_of(BOB).texts == []
    passed = daemon.wait_event("check", result="pass")
    assert (passed["user"], passed["service"]) == ("alice", service)


@pytest.mark.usefixtures("su_lines")
def test_three_wrong_codes_end_su(daemon: Daemon, phone: Phone) -> None:
    with su(BOB, ALICE, PROVE) as terminal:
        terminal.answer("Password: ", ALICE.password)
        code = phone.next_code()
        for _ in range(3):
            terminal.answer(CODE, wrong_code(code))
        assert terminal.expect_end() == 1
        assert terminal.rest.endswith(f"{DENIED}su: Authentication failure\n")
    assert daemon.find_events("check", result="pass") == []


@pytest.mark.usefixtures("su_lines")
def test_su_to_root_needs_a_code_of_root_who_has_no_phone(daemon: Daemon, gateway: FakeGatewayAPI) -> None:
    subprocess.run(["chpasswd"], input="root:open-sesame\n", text=True, check=True)
    with Terminal(["su", "--command", PROVE], user=BOB.name) as terminal:
        terminal.answer("Password: ", "open-sesame")
        for _ in range(3):
            terminal.answer(CODE, "000000")
        assert terminal.expect_end() == 1
        assert PROOF not in terminal.shown
    assert gateway.requests == []
    assert daemon.find_events("check", user="root", reason="no_phone")


@pytest.mark.usefixtures("su_lines", "sudo_lines")
@pytest.mark.parametrize("argv", [["su", ALICE.name, "--command", PROVE], ["sudo", "-k", "sh", "-c", PROVE]])
def test_root_is_asked_nothing(daemon: Daemon, gateway: FakeGatewayAPI, argv: list[str]) -> None:
    with Terminal(argv) as terminal:
        assert all_shown(terminal) == PROOF
    assert daemon.events == []
    assert gateway.requests == []


@pytest.mark.usefixtures("su_lines")
def test_wrong_password_in_su_gets_no_text(daemon: Daemon, gateway: FakeGatewayAPI) -> None:
    with su(BOB, ALICE, PROVE) as terminal:
        terminal.expect_match(ANY_PROMPT)
        terminal.enter(BOB.password)  # his own, which counts for nothing
        assert terminal.expect_end() == 1
        assert terminal.shown == "Password: \nsu: Authentication failure\n"
    assert daemon.events == []
    assert gateway.requests == []
