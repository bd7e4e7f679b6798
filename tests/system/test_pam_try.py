# SPDX-License-Identifier: MIT
"""`textgate pam` on booted machines: what is tried is taken back unless somebody gets in by it, whatever happens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from system.doors import CODE, PASSWORD, PASSWORDS, Doors, Login, sudo_to_code
from system.machines import Completed, Machine
from system.setting import ALICE, Gateway

DROP_IN = "/etc/ssh/sshd_config.d/00-textgate.conf"
STATE = "/var/lib/textgate/pam"
TIMER = "textgate-pam-revert.timer"
SHORT = "30s"  # the shortest that a try takes
TAKEN_BACK_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def _doors(_machine: tuple[Machine, Gateway]) -> Doors:
    return Doors.prepare(*_machine)


@pytest.fixture
def doors(_doors: Doors, machine: Machine) -> Iterator[Doors]:
    """Nothing is guarded when a test begins, and everything is as it was when it ends."""
    before = fingerprint(machine)
    _doors.skip_texts()
    yield _doors
    machine.run("umount /etc/pam.d 2>/dev/null", check=False)
    pam(machine, "disable", "--all")
    assert fingerprint(machine) == before
    assert_timer_sleeps(machine)


def fingerprint(machine: Machine) -> str:
    """Of every file of PAM and sshd, modes and owners included."""
    listing = "cd /etc && find pam.d ssh -printf '%p %m %U %G %l\\n' -type f -exec sha256sum {} + | sort"
    return hashlib.sha256(machine.run(listing).stdout.encode()).hexdigest()


def pam(machine: Machine, *words: str, check: bool = True) -> Completed:
    return machine.run(["textgate", "pam", *words], check=check)


def status(machine: Machine) -> dict[str, dict[str, Any]]:
    """Rows of `pam status`, by service."""
    rows = json.loads(pam(machine, "status", "--json", check=False).stdout)["services"]
    return {row["service"]: row for row in rows}


def assert_timer_sleeps(machine: Machine) -> None:
    assert machine.run(["systemctl", "is-enabled", TIMER], check=False).stdout.strip() == "disabled"
    machine.wait_until(f"! systemctl is-active -q {TIMER}", within_s=10)


def wait_taken_back(machine: Machine, *services: str) -> None:
    files = " ".join(f"{STATE}/{service}.json" for service in services)
    machine.wait_until(f"for f in {files}; do test ! -e $f || exit 1; done", within_s=TAKEN_BACK_WITHIN_S)


# --- Taken back ---


def test_tries_that_nobody_confirms_are_taken_back_while_a_session_is_open(doors: Doors, machine: Machine) -> None:
    """All the same if the daemon is away, its configuration lost and its libraries are broken when the time is up."""
    before = fingerprint(machine)
    with doors.ssh("publickey", command="cat") as session:
        for service in ("sshd", "sudo"):
            said = pam(machine, "try", service, "--confirm-within", SHORT).stdout
            assert "+auth substack textgate" in said
            assert f"{service} is guarded" in said
        assert fingerprint(machine) != before
        assert machine.run(["systemctl", "is-enabled", TIMER]).stdout.strip() == "enabled"
        rows = status(machine)
        assert rows["sshd"]["first_factor"] == "key"
        assert rows["sshd"]["confirm_by"]
        assert rows["sshd"]["faults"] == rows["sudo"]["faults"] == []
        with doors.ssh("publickey", "keyboard-interactive") as login:
            login.expect(CODE)
        with doors.ssh("publickey") as login:
            assert login.is_out()
        machine.run("systemctl stop textgated.service textgated.socket textgated-admin.socket")
        machine.run(
            "cd /usr/lib/python3/dist-packages && mv redis redis.away && mv click click.away"
            " && mv /etc/textgate/textgate.toml /etc/textgate/away.toml"
        )
        try:
            wait_taken_back(machine, "sshd", "sudo")
        finally:
            machine.run(
                "cd /usr/lib/python3/dist-packages && mv redis.away redis && mv click.away click"
                " && mv /etc/textgate/away.toml /etc/textgate/textgate.toml"
                " && systemctl start textgated.socket textgated-admin.socket textgated.service"
            )
        assert fingerprint(machine) == before
        session.say("still-here")
        session.expect("still-here")
    assert_timer_sleeps(machine)
    assert "taken back, nobody confirmed it" in machine.journal("-u", "textgate-pam-revert.service")
    with doors.ssh("publickey") as login:
        assert login.is_in()


def test_reboot_in_the_middle_of_a_try_does_not_keep_it(doors: Doors, machine: Machine) -> None:
    before = fingerprint(machine)
    pam(machine, "try", "sshd", "--confirm-within", SHORT)
    pam(machine, "try", "login", "--confirm-within", "1h")
    machine.cut_power()
    machine.start()
    wait_taken_back(machine, "sshd")
    rows = status(machine)
    assert set(rows) == {"login"}  # whose time is not up
    assert rows["login"]["faults"] == []
    assert machine.run(["systemctl", "is-active", TIMER]).stdout.strip() == "active"
    pam(machine, "disable", "login")
    assert fingerprint(machine) == before


def test_upgrade_in_the_middle_of_a_try_neither_keeps_nor_ends_it(doors: Doors, machine: Machine) -> None:
    pam(machine, "try", "sudo", "--confirm-within", SHORT)
    pam(machine, "try", "login", "--confirm-within", "1h")
    machine.run("dpkg --install /root/textgate_*.deb", within_s=300)
    assert machine.run(["systemctl", "is-enabled", TIMER]).stdout.strip() == "enabled"
    wait_taken_back(machine, "sudo")
    rows = status(machine)
    assert set(rows) == {"login"}
    assert rows["login"]["confirm_by"]
    assert rows["login"]["faults"] == []


# --- Confirmed ---


def test_login_with_a_code_confirms_a_try(doors: Doors, machine: Machine) -> None:
    pam(machine, "try", "sshd", "--confirm-within", SHORT)
    pam(machine, "try", "sudo", "--confirm-within", "1h")
    with doors.ssh("publickey", "keyboard-interactive") as login:
        login.answer(CODE, "000000")
        login.answer(CODE, doors.next_code())
        assert login.is_in()
    machine.wait_until("textgate pam status | grep -q '^sshd .*guarded, key then code$'", within_s=20)
    assert status(machine)["sudo"]["confirm_by"]  # it is for its own service that a login speaks
    with sudo_to_code(doors) as login:
        login.answer(CODE, doors.next_code())
        assert login.is_in()
    machine.wait_until(f"! systemctl is-active -q {TIMER}", within_s=20)
    assert {name: row["confirm_by"] for name, row in status(machine).items()} == {"sshd": None, "sudo": None}
    assert_timer_sleeps(machine)


def test_login_without_a_code_confirms_nothing(doors: Doors, machine: Machine) -> None:
    pam(machine, "try", "sudo", "--confirm-within", "1h")
    with sudo_to_code(doors) as login:
        login.answer(CODE, "")
        assert login.is_out()
    since = machine.run(["date", "+%s"]).stdout.strip()
    machine.wait_until(
        f"test $(journalctl -q -u textgate-pam-revert --since @{since} -o cat | grep -c Finished) -ge 1", within_s=30
    )
    assert status(machine)["sudo"]["confirm_by"]


def test_login_test_confirms_nothing(doors: Doors, machine: Machine) -> None:
    """It proves the stack, and not that sudo or sshd let anybody in."""
    pam(machine, "try", "sudo", "--confirm-within", "1h")
    since = machine.run(["date", "+%s"]).stdout.strip()
    with Login(machine.spawn(["textgate", "login-test", ALICE, "sudo"])) as test:
        test.answer(PASSWORD, PASSWORDS[ALICE])
        test.answer(CODE, doors.next_code())
        test.expect("sudo would let alice in")
    machine.wait_until(
        f"test $(journalctl -q -u textgate-pam-revert --since @{since} -o cat | grep -c Finished) -ge 2", within_s=30
    )
    assert status(machine)["sudo"]["confirm_by"]


def test_confirm_makes_a_try_firm(doors: Doors, machine: Machine) -> None:
    pam(machine, "try", "su", "--confirm-within", SHORT)
    assert "confirmed: su" in pam(machine, "confirm").stdout
    assert_timer_sleeps(machine)
    assert status(machine)["su"]["confirm_by"] is None
    assert "su is guarded already" in pam(machine, "enable", "su").stdout
    assert set(status(machine)) == {"su", "su-l"}


# --- Broken off, in the way, changed meanwhile ---

KILLED = """\
import os, sys
sys.argv = ["textgate", "pam", "enable", "sshd"]
from textgate.transaction import Transaction
apply, left = Transaction.apply, [{writes}]
def killed(self, path):
    if not left[0]:
        os.kill(os.getpid(), 9)
    left[0] -= 1
    apply(self, path)
Transaction.apply = killed
from textgate.cli import main
main()
"""


@pytest.mark.parametrize("writes", [0, 1, 2])
@pytest.mark.parametrize("next_command", ["", "pam status", "pam enable sshd"])
def test_what_was_killed_in_the_middle_is_taken_back(
    doors: Doors, machine: Machine, writes: int, next_command: str
) -> None:
    """By the next command, and by systemd if there is none."""
    before = fingerprint(machine)
    since = machine.run(["date", "+%s"]).stdout.strip()
    if next_command:
        machine.run("systemctl stop textgate-recover.path")
    try:
        killed = machine.run(["/usr/bin/python3", "-I", "-B", "-c", KILLED.format(writes=writes)], check=False)
        assert killed.status in (-9, 137)
        if next_command:
            assert fingerprint(machine) != before  # copies beside the files are there in any case
            assert "was broken off" in machine.run(["textgate", "doctor"], check=False).stdout
            said = machine.run(["textgate", *next_command.split()]).stdout
            assert "a change that was broken off is taken back now" in said
        else:
            said = f"journalctl -q -u textgate-pam-revert --since @{since} | grep -q 'is taken back now'"
            machine.wait_until(f'test -z "$(ls /var/lib/textgate/changes)" && {said}', within_s=20)
        if next_command != "pam enable sshd":
            assert fingerprint(machine) == before
            assert status(machine) == {}
        else:
            assert status(machine)["sshd"]["faults"] == []
    finally:
        machine.run("systemctl start textgate-recover.path")


def test_read_only_etc_is_told_and_nothing_is_left(doors: Doors, machine: Machine) -> None:
    machine.run("mount --bind /etc/pam.d /etc/pam.d && mount -o remount,bind,ro /etc/pam.d")
    before = fingerprint(machine)
    done = pam(machine, "try", "sshd", check=False)
    assert done.status == 1
    assert "Read-only file system" in done.stderr
    assert fingerprint(machine) == before
    assert status(machine) == {}
    assert_timer_sleeps(machine)


def test_admins_changes_stay_when_a_try_is_taken_back(doors: Doors, machine: Machine) -> None:
    pam(machine, "try", "sudo", "--confirm-within", "1h")
    former = machine.read("/etc/pam.d/sudo")
    line = "session optional pam_umask.so  # mine"
    machine.write("/etc/pam.d/sudo", former.replace("#%PAM-1.0\n", f"#%PAM-1.0\n{line}\n"))
    assert status(machine)["sudo"]["is_changed"]
    pam(machine, "disable", "sudo")
    left = machine.read("/etc/pam.d/sudo")
    assert line in left
    assert "textgate" not in left
    machine.write("/etc/pam.d/sudo", left.replace(f"{line}\n", ""))


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("/etc/ssh/sshd_config.d/00-aaa.conf", "PasswordAuthentication yes\n", "00-aaa.conf:1"),
        (
            "/etc/ssh/sshd_config.d/zz.conf",
            "Match User alice\n  PasswordAuthentication yes\n",
            "zz.conf:2: passwordauthentication yes",
        ),
        (
            "/etc/ssh/sshd_config.d/zz.conf",
            "Match Group sudo\n  AuthenticationMethods publickey\n",
            "zz.conf:2: authenticationmethods publickey",
        ),
    ],
)
def test_sshd_that_would_not_ask_is_refused_and_rolled_back(
    doors: Doors, machine: Machine, path: str, text: str, told: str
) -> None:
    machine.write(path, text)
    before = fingerprint(machine)
    try:
        done = pam(machine, "enable", "sshd", check=False)
        assert done.status == 1
        assert told in done.stderr
        assert fingerprint(machine) == before
        assert status(machine) == {}
        with doors.ssh("publickey") as login:
            assert login.is_in()
    finally:
        machine.run(["rm", path])


def test_match_block_for_a_port_does_not_stand_in_the_way(doors: Doors, machine: Machine) -> None:
    machine.write("/etc/ssh/sshd_config.d/zz.conf", "Match LocalPort 2222\n  X11Forwarding no\n")
    try:
        pam(machine, "enable", "sshd")
        pam(machine, "disable", "sshd")
    finally:
        machine.run(["rm", "/etc/ssh/sshd_config.d/zz.conf"])


def test_two_commands_at_once_make_one_change(doors: Doors, machine: Machine) -> None:
    one = "textgate pam enable login 2>&1"
    both = machine.run(f"{one} >/run/one & {one} >/run/two; wait; cat /run/one /run/two").stdout
    assert both.count("+auth substack textgate") == 1
    assert both.count("login is guarded already") == 1
    assert machine.read("/etc/pam.d/login").count("auth substack textgate") == 1


def test_what_would_close_the_machine_to_its_administrators_is_refused(doors: Doors, machine: Machine) -> None:
    phones = machine.read("/etc/textgate/phones")
    keys = f"/home/{ALICE}/.ssh/authorized_keys"
    try:
        machine.run("sed -i '/^alice:/d;/^root:/d' /etc/textgate/phones")
        done = pam(machine, "enable", "sudo", check=False)
        assert "nobody who can become root has a phone" in done.stderr
        machine.write("/etc/textgate/phones", phones, mode=0o640, owner="root:textgate")
        machine.run(["mv", keys, f"{keys}.away"])
        done = pam(machine, "enable", "sshd", check=False)
        assert "alice: has no ssh key" in done.stderr
        assert "root: PermitRootLogin" in done.stderr
        machine.run(["mv", f"{keys}.away", keys])
        machine.run(["systemctl", "stop", "fake-gatewayapi"])
        done = pam(machine, "enable", "sudo", check=False)
        assert "codes could not be texted or checked" in done.stderr
    finally:
        machine.run(f"systemctl start fake-gatewayapi; test -e {keys} || mv {keys}.away {keys}")
        machine.write("/etc/textgate/phones", phones, mode=0o640, owner="root:textgate")
        machine.wait_until("textgate status", within_s=30)
    assert status(machine) == {}


def test_sudo_pair_and_targets_phone_are_pointed_out(doors: Doors, machine: Machine) -> None:
    assert "sudo-i gives root for a password alone" in pam(machine, "enable", "sudo").stdout
    doctor = machine.run(["textgate", "doctor"], check=False)
    assert doctor.status == 1
    assert "FAILURE  doors        sudo-i gives root for a password alone (with `sudo -i`)" in doctor.stdout
    said = pam(machine, "enable", "su").stdout
    assert "so are su-l, by way of su" in said


def test_removal_of_the_package_takes_the_lines_out_first_and_says_so(doors: Doors, machine: Machine) -> None:
    """Last: the package is gone for a while."""
    before = fingerprint(machine)
    for service in ("sshd", "sudo", "login"):
        pam(machine, "enable", service)
    removed = machine.run(["apt-get", "-q", "-y", "remove", "textgate"], within_s=300)
    assert "/etc/pam.d/sshd" in removed.stdout
    assert "these files asked for codes, and do no longer" in removed.stdout
    assert fingerprint(machine) == before
    with doors.ssh("publickey") as login:
        assert login.is_in()
    with doors.sudo() as login:
        login.answer(PASSWORD, PASSWORDS[ALICE])
        assert login.is_in()
    machine.run("apt-get -q -y install /root/textgate_*.deb", within_s=300)
    machine.wait_until("textgate status", within_s=30)


def test_removal_of_the_package_takes_the_profile_out_of_common_auth(doors: Doors, machine: Machine) -> None:
    before = fingerprint(machine)
    machine.run("pam-auth-update --enable textgate")
    assert "textgate" in machine.read("/etc/pam.d/common-auth")
    machine.run(["apt-get", "-q", "-y", "remove", "textgate"], within_s=300)
    assert "textgate" not in machine.read("/etc/pam.d/common-auth")
    machine.run("apt-get -q -y install /root/textgate_*.deb", within_s=300)
    machine.wait_until("textgate status", within_s=30)
    assert fingerprint(machine) == before
