# SPDX-License-Identifier: MIT
"""Logins on booted machines through what `textgate pam` put in: ssh, sudo, sudo -i, su -, login, right and wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rig import from_port
from system.doors import CODE, PASSWORD, PASSWORDS, Doors, Login, login_to_code, su_to_code, sudo_to_code
from system.machines import Machine
from system.setting import ALICE, PLACE, Gateway

WRONG = "000000"
SERVICES = ("sudo", "sudo-i", "su", "login")


@pytest.fixture(scope="module")
def _doors(_machine: tuple[Machine, Gateway]) -> Iterator[Doors]:
    machine, gateway = _machine
    doors = Doors.prepare(machine, gateway)
    # Failures wait two seconds or more there; that is not what is looked at here.
    machine.run("sed -i 's/pam_unix.so nullok/pam_unix.so nullok nodelay/' /etc/pam.d/common-auth")
    machine.run("sed -i 's/^auth .*pam_faildelay/#&/' /etc/pam.d/login")
    machine.run("sed -i '/^LOGIN_RETRIES/d;/^FAIL_DELAY/d;/^LOGIN_TIMEOUT/d' /etc/login.defs")
    machine.run("printf 'LOGIN_RETRIES 1\\nFAIL_DELAY 0\\nLOGIN_TIMEOUT 15\\n' >>/etc/login.defs")
    machine.run("echo 'Defaults passwd_tries=1' >/etc/sudoers.d/one-try")
    for service in SERVICES:
        machine.run(["textgate", "pam", "enable", service])
    yield doors


@pytest.fixture
def doors(_doors: Doors, machine: Machine) -> Doors:
    machine.run(["textgate", "unlock", ALICE])
    machine.run(["textgate", "unlock", "root"])
    _doors.skip_texts()
    return _doors


@pytest.fixture(params=["key", "password", "any"])
def first_factor(request: pytest.FixtureRequest, doors: Doors, machine: Machine) -> Iterator[str]:
    """sshd, guarded with this first factor."""
    machine.run(["textgate", "pam", "enable", "sshd", "--first-factor", request.param])
    yield request.param
    machine.run(["textgate", "pam", "disable", "sshd"])


def ssh_key_to_code(doors: Doors) -> Login:
    return doors.ssh("publickey", "keyboard-interactive")


def ssh_password_to_code(doors: Doors) -> Login:
    login = doors.ssh("keyboard-interactive")
    login.answer(PASSWORD, PASSWORDS[ALICE])
    return login


SSH_WAYS = {
    "key": [ssh_key_to_code],
    "password": [ssh_password_to_code],
    "any": [ssh_key_to_code, ssh_password_to_code],
}


def test_ssh_lets_in_with_first_factor_and_code_and_with_nothing_less(doors: Doors, first_factor: str) -> None:
    for to_code in SSH_WAYS[first_factor]:
        with to_code(doors) as login:
            login.answer(CODE, WRONG)
            login.answer(CODE, doors.next_code())
            assert login.is_in()
    with doors.ssh("publickey") as login:  # the key alone
        assert login.is_out()
    with doors.ssh("password") as login:  # sshd's own password method
        assert login.is_out()
    sent_count = doors.text_count()
    with doors.ssh("keyboard-interactive") as login:  # no key, a wrong password
        if first_factor != "key":
            login.answer(PASSWORD, "wrong")
        assert login.is_out()
    with doors.ssh("publickey", "keyboard-interactive", user="root") as login:  # root has no key here
        assert login.is_out()
    assert doors.text_count() == sent_count


def test_ssh_refuses_three_wrong_codes(doors: Doors, first_factor: str) -> None:
    with SSH_WAYS[first_factor][0](doors) as login:
        for _ in range(3):
            login.answer(CODE, WRONG)
        assert login.is_out()


FROM_PORT = f"{PLACE}/from_port.py"


@pytest.mark.parametrize("first_factor", ["key", "password"], indirect=True)
def test_ssh_code_is_good_for_its_connection_and_not_for_the_next_from_the_same_port(
    doors: Doors, machine: Machine, first_factor: str
) -> None:
    machine.write(FROM_PORT, Path(from_port.__file__).read_text())
    methods = ["publickey", "keyboard-interactive"][first_factor == "password" :]

    def to_code() -> Login:
        login = doors.ssh(*methods, own=[f"ProxyCommand=python3 {FROM_PORT} 40022 127.0.0.1 22"])
        if first_factor == "password":
            login.answer(PASSWORD, PASSWORDS[ALICE])
        return login

    sent_count = doors.text_count()
    with to_code() as login:
        login.expect(CODE)
        code = doors.next_code()
    with to_code() as login:
        login.answer(CODE, code)
        login.expect("not right")
        # ssh that ends answers its prompt with nothing, for which one more text may have gone out.
        login.answer(CODE, [doors.next_code() for _ in range(doors.text_count() - sent_count - 1)][-1])
        assert login.is_in()
    # That the first one came from there as well is from_port's to see to: it binds the port, or fails.
    machine.wait_until("journalctl -u ssh | grep -q 'Accepted .* from 127.0.0.1 port 40022 '", within_s=30)


@pytest.mark.parametrize("first_factor", ["key", "password"], indirect=True)
def test_ssh_code_is_good_for_the_next_attempt_in_its_connection(
    doors: Doors, machine: Machine, first_factor: str
) -> None:
    """sshd runs PAM in a new process for each. An empty code asks for a new text; three of them end an attempt."""
    methods = ["publickey", "keyboard-interactive"][first_factor == "password" :]
    sent_count = doors.text_count()
    with doors.ssh(*methods, own=["NumberOfPasswordPrompts=2"]) as login:
        for attempt in ("first", "second"):
            if first_factor == "password":
                login.answer(PASSWORD, PASSWORDS[ALICE])
            for _ in range(3 if attempt == "first" else 0):
                login.answer(CODE, "")
        login.expect(CODE)
        login.say([doors.next_code() for _ in range(4)][-1])
        assert login.is_in()
    assert doors.text_count() == sent_count + 4


WAYS: dict[str, tuple[Callable[[Doors], Login], str]] = {
    "sudo": (sudo_to_code, ALICE),
    "sudo -i": (lambda doors: sudo_to_code(doors, is_login=True), ALICE),
    "su -": (su_to_code, "root"),
    "login": (login_to_code, ALICE),
}
ways = pytest.mark.parametrize("way", list(WAYS))


@ways
def test_right_code_lets_in_after_a_wrong_one(doors: Doors, way: str) -> None:
    to_code, phone = WAYS[way]
    with to_code(doors) as login:
        login.answer(CODE, WRONG)
        login.answer(CODE, doors.next_code(phone))
        if way == "login":
            login.say("echo in-$((6*7))")
        assert login.is_in()


@ways
def test_wrong_and_empty_codes_are_refused(doors: Doors, way: str) -> None:
    to_code, _ = WAYS[way]
    with to_code(doors) as login:
        login.answer(CODE, WRONG)
        login.answer(CODE, "")
        login.answer(CODE, "1' OR 1=1 --\\x00\x1b[2J")
        assert login.is_out(within_s=70)


@ways
@pytest.mark.parametrize("key", ["c", "d"])
def test_giving_up_at_the_prompt_is_refused(doors: Doors, way: str, key: str) -> None:
    to_code, _ = WAYS[way]
    with to_code(doors) as login:
        login.expect(CODE)
        login.press(key)
        assert login.is_out(within_s=70)


@ways
def test_wrong_password_lets_nobody_in_with_a_right_code(doors: Doors, way: str) -> None:
    """And nothing is texted for it."""
    doors_of = {
        "sudo": doors.sudo,
        "sudo -i": lambda: doors.sudo(is_login=True),
        "su -": doors.su,
        "login": doors.login,
    }
    _, phone = WAYS[way]
    before = doors.text_count(phone)
    with doors_of[way]() as login:
        login.answer(PASSWORD, "wrong")
        assert login.is_out(within_s=70)
    assert doors.text_count(phone) == before


def test_daemon_that_is_away_lets_nobody_in(doors: Doors, machine: Machine) -> None:
    stop = "systemctl stop textgated.service textgated.socket textgated-admin.socket"
    machine.run(stop)
    try:
        for to_code in (sudo_to_code, su_to_code):
            with to_code(doors) as login:
                for code in ("123456", WRONG, WRONG):
                    login.answer(CODE, code)
                assert login.is_out(within_s=70)
    finally:
        machine.run("systemctl start textgated.socket textgated-admin.socket textgated.service")
        machine.wait_until("textgate status", within_s=30)


def test_pam_auth_update_profile_asks_in_every_service_and_goes_again(doors: Doors, machine: Machine) -> None:
    changed = machine.read("/etc/pam.d/common-auth")
    before = changed.replace(" nodelay", "")  # pam-auth-update keeps its hands off changed files
    machine.write("/etc/pam.d/common-auth", before)
    for service in SERVICES:
        machine.run(["textgate", "pam", "disable", service])
    machine.run("pam-auth-update --enable textgate")
    try:
        told = machine.run(["textgate", "pam", "status"]).stdout
        for service in ("sudo", "su", "login"):
            assert f"{service:12} guarded, not put in by `textgate pam`" in told
        assert "NOT SAFE" not in told
        refused = machine.run(["textgate", "pam", "enable", "sudo"], check=False)
        assert "asks for a code already" in refused.stderr
        with sudo_to_code(doors) as login:
            login.answer(CODE, doors.next_code())
            assert login.is_in()
        with sudo_to_code(doors) as login:
            for _ in range(3):
                login.answer(CODE, WRONG)
            assert login.is_out(within_s=70)
    finally:
        machine.run("pam-auth-update --disable textgate")
        for service in SERVICES:
            machine.run(["textgate", "pam", "enable", service])
    assert machine.read("/etc/pam.d/common-auth") == before
    machine.write("/etc/pam.d/common-auth", changed)
