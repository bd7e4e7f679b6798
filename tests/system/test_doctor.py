# SPDX-License-Identifier: MIT
"""`textgate doctor` on booted machines: a healthy one, and one with something wrong in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rig.sshd_spellings import SPELLINGS
from system.doors import PASSWORD, PASSWORDS, Doors
from system.machines import Machine, Release
from system.setting import ALICE, Gateway

SERVICES = ("sshd", "sudo", "sudo-i")


@pytest.fixture(scope="module")
def _doors(_machine: tuple[Machine, Gateway]) -> Iterator[Doors]:
    """alice and root have phones; the people of the load are none that log in."""
    machine, gateway = _machine
    doors = Doors.prepare(machine, gateway)
    machine.run("for n in $(getent passwd | grep -o '^load[0-9]*'); do userdel $n; done")
    machine.run("sed -i '/^load/d' /etc/textgate/phones")
    machine.run('printf \'[services]\\nleft_open = ["login", "su", "su-l"]\\n\' >>/etc/textgate/textgate.toml')
    machine.run("echo 'LoginGraceTime 10m' >/etc/ssh/sshd_config.d/grace.conf && systemctl reload ssh")
    for service in SERVICES:
        machine.run(["textgate", "pam", "enable", service])
    yield doors


@pytest.fixture
def machine(_machine: tuple[Machine, Gateway], _doors: Doors) -> Machine:
    return _machine[0]


def examine(machine: Machine) -> tuple[int, list[dict[str, Any]]]:
    """Exit status, and all findings that are not "ok"."""
    done = machine.run(["textgate", "doctor", "--json"], check=False)
    report = json.loads(done.stdout)
    return done.status, [row for row in report["findings"] if row["level"] != "ok"]


def test_healthy_machine(machine: Machine) -> None:
    assert examine(machine) == (0, [])
    shown = machine.run(["textgate", "doctor"]).stdout
    for words in (
        "closed to others", "what PAM runs is root's alone", "textgated 0.", "writes each change to the disk",
        "no others", "takes our credentials", "left", "agrees with the gateway's", "2 users with a phone",
        "sshd asks for a code, and none of its lines lets in without one", "takes no password by itself",
        "login gives a shell for a password alone (on the console), as [services] left_open says",
        "LoginGraceTime 600", "asks nothing again for 15 minutes",
    ):  # fmt: skip
        assert words in shown, words


# What is done, how it is undone, the check that notices, and its level.
BROKEN = {
    "daemon": (
        "systemctl stop textgated.service textgated.socket textgated-admin.socket",
        "systemctl start textgated.socket textgated-admin.socket textgated.service",
        {"socket", "daemon"},
        "failure",
    ),
    "redis": ("systemctl stop textgate-redis", "systemctl start textgate-redis", {"redis"}, "failure"),
    "gateway": ("systemctl stop fake-gatewayapi", "systemctl start fake-gatewayapi", {"gateway"}, "failure"),
    "credential": (
        "chmod 0644 /etc/textgate/credentials/vault-key",
        "chmod 0600 /etc/textgate/credentials/vault-key",
        {"credentials"},
        "failure",
    ),
    "block": (
        "sed -i 's/success=5/success=4/' /etc/pam.d/textgate",
        "textgate pam repair",
        {"block", "pam"},
        "failure",
    ),
    "block cut off": ("truncate -s 2000 /etc/pam.d/textgate", "textgate pam repair", {"block", "pam"}, "failure"),
    "lines of an earlier version": (
        "printf '@include common-auth\\n@include textgate\\n' >/etc/pam.d/by-hand",
        "rm /etc/pam.d/by-hand",
        {"pam"},
        "warning",
    ),
    "module": (
        "cd /usr/lib/*/security && mv pam_textgate.so away.so",
        "cd /usr/lib/*/security && mv away.so pam_textgate.so",
        {"files", "pam"},
        "failure",
    ),
    "order": (
        "sed -i '1i auth sufficient pam_permit.so' /etc/pam.d/sudo",
        "sed -i 1d /etc/pam.d/sudo",
        {"pam"},
        "failure",
    ),
    "sshd": (
        "echo 'PasswordAuthentication yes' >/etc/ssh/sshd_config.d/00-a.conf",
        "rm /etc/ssh/sshd_config.d/00-a.conf",
        {"sshd"},
        "failure",
    ),
    "lists": (
        "echo 'AllowGroups ssh-users' >/etc/ssh/sshd_config.d/00-a.conf",
        "rm /etc/ssh/sshd_config.d/00-a.conf",
        {"sshd"},
        "failure",
    ),
    "keys that never begin": (
        f"cd ~{ALICE}/.ssh && mv authorized_keys kept && mkfifo authorized_keys",
        f"cd ~{ALICE}/.ssh && mv kept authorized_keys",
        {"sshd"},
        "failure",
    ),
    "keys that never end": (
        f"cd ~{ALICE}/.ssh && mv authorized_keys kept && ln -s /dev/zero authorized_keys",
        f"cd ~{ALICE}/.ssh && mv kept authorized_keys",
        {"sshd"},
        "failure",
    ),
    "keys of somebody else": (
        f"cd ~{ALICE}/.ssh && mv authorized_keys /root/kept && ln -s /root/kept authorized_keys",
        f"cd ~{ALICE}/.ssh && rm authorized_keys && mv /root/kept authorized_keys",
        {"sshd"},
        "failure",
    ),
    "wrong password": (
        "printf 'auth required pam_unix.so\\nauth substack textgate\\nauth requisite pam_textgate.so require\\n' "
        ">/etc/pam.d/by-hand",
        "rm /etc/pam.d/by-hand",
        {"pam"},
        "failure",
    ),
    "grace": (
        "echo 'LoginGraceTime 60' >/etc/ssh/sshd_config.d/00-a.conf",
        "rm /etc/ssh/sshd_config.d/00-a.conf",
        {"sshd"},
        "warning",
    ),
    "sudo": (
        "echo 'Defaults timestamp_timeout=-1' >/etc/sudoers.d/a",
        "rm /etc/sudoers.d/a",
        {"sudo"},
        "warning",
    ),
    "nopasswd": (
        "echo 'alice ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/a",
        "rm /etc/sudoers.d/a",
        {"sudo"},
        "warning",
    ),
    "person": ("useradd -s /bin/bash carol", "userdel carol", {"phones"}, "warning"),
    "door": (
        "printf '@include common-auth\\n' >/etc/pam.d/frontdoor",
        "rm /etc/pam.d/frontdoor",
        {"doors"},
        "warning",
    ),
    "rule for a number": (
        "echo '#1000 ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/a",
        "rm /etc/sudoers.d/a",
        {"sudo"},
        "warning",
    ),
    "other PAM service of sudo": (
        "echo 'Defaults pam_service=open' >/etc/sudoers.d/a",
        "rm /etc/sudoers.d/a",
        {"sudo"},
        "failure",
    ),
    "second sshd": (
        "/usr/sbin/sshd -p 2222 -o PidFile=/run/second.pid -o UsePAM=no -o PasswordAuthentication=yes; "
        "until pgrep -f '^sshd: .*2222.*listener' >/run/second; do sleep 0.1; done",
        "kill $(cat /run/second)",
        {"sshd"},
        "warning",
    ),
    "half of sudo": ("textgate pam disable sudo-i", "textgate pam enable sudo-i", {"doors"}, "failure"),
    "try": ("textgate pam try login", "textgate pam disable login", {"pam"}, "warning"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_what_is_broken_is_found(machine: Machine, name: str) -> None:
    breaks, mends, checks, level = BROKEN[name]
    machine.run(breaks)
    try:
        status, found = examine(machine)
        assert {row["check"] for row in found} == checks
        assert {row["level"] for row in found} == {level}
        assert status == {"warning": 6, "failure": 1}[level]
        assert all(row["remedy"] for row in found)
    finally:
        machine.run(mends)
        machine.wait_until("textgate status", within_s=30)


def test_program_whose_file_is_gone_lets_in_by_a_password(_doors: Doors) -> None:
    """PAM goes by `other` then; `sudo -i` is one such program."""
    machine = _doors.machine
    machine.run("mv /etc/pam.d/sudo-i /root/sudo-i")
    try:
        with _doors.sudo(is_login=True) as login:
            login.answer(PASSWORD, PASSWORDS[ALICE])
            assert login.is_in()  # without a code
        _, found = examine(machine)
        assert [row["level"] for row in found if row["fault"] == "door-open"] == ["failure"]
    finally:
        machine.run("mv /root/sudo-i /etc/pam.d/sudo-i")
    assert examine(machine) == (0, [])


def test_empty_password_in_passwd_itself_is_found(machine: Machine) -> None:
    machine.run("useradd -s /bin/bash old && sed -i 's/^old:x:/old::/' /etc/passwd")
    try:
        _, found = examine(machine)
        assert {row["service"] for row in found if row["fault"] == "empty-password"} == {"sudo", "sudo-i"}
    finally:
        machine.run("userdel old")


def test_sshd_s_files_are_read_as_sshd_reads_them(machine: Machine) -> None:
    """All rows are looked at, so that one run shows all that are misread."""
    machine.run("useradd -s /usr/sbin/nologin bob; cp -a /etc/ssh /root/ssh; cp /etc/default/ssh /root/default-ssh")
    misread = {}
    for name, spelling in SPELLINGS.items():
        for file, text in spelling.files.items():
            machine.run(["mkdir", "-p", str(Path("/etc/ssh", file).parent)])
            machine.write(f"/etc/ssh/{file}", text)
        machine.write("/etc/default/ssh", spelling.options)
        is_taken = machine.run("sshd -t", check=False).status == 0  # OpenSSH 10 has fewer former names
        _, found = examine(machine)
        told = [(row["level"], row["message"]) for row in found if row["check"] == "sshd"]
        level = "failure" if spelling.told == "faults" else "warning"
        if not is_taken:
            is_right = any(level == "failure" and "can't be read" in message for level, message in told)
        elif spelling.told:
            is_right = any((one, spelling.places in message) == (level, True) for one, message in told)
        else:
            is_right = told == []
        if not is_right:
            misread[name] = (is_taken, told)
        machine.run("rm -r /etc/ssh && cp -a /root/ssh /etc/ssh && cp /root/default-ssh /etc/default/ssh")
    machine.run("userdel bob")
    assert misread == {}


def test_pam_service_of_sshd_is_the_one_that_is_looked_at(machine: Machine, release: Release) -> None:
    """OpenSSH 10 can be told to use another one; earlier releases know no such keyword."""
    setting = "/etc/ssh/sshd_config.d/zz.conf"
    try:
        machine.write(setting, "PAMServiceName other-sshd\n")
        if machine.run("sshd -t", check=False).status != 0:
            assert release.codename == "bookworm"
            return
        for text, level in (
            ("PAMServiceName other-sshd\n", "failure"),
            (
                "Match User alice\nPAMServiceName sshd\nMatch User alice,deploy\nPAMServiceName other-sshd\n",
                "warning",
            ),
            ('Match User deploy\n"PAMServiceName"=other-sshd\n'.replace('"=', '" '), "warning"),
        ):
            machine.write(setting, text)
            machine.write("/etc/pam.d/other-sshd", "@include common-auth\n")
            _, found = examine(machine)
            told = [row["level"] for row in found if "its PAM service is other-sshd" in row["message"]]
            assert told == [level], found
            machine.run("cp /etc/pam.d/sshd /etc/pam.d/other-sshd")  # with textgate's lines
            _, found = examine(machine)
            assert not [row for row in found if "which does not ask for a code" in row["message"]]
    finally:
        machine.run(f"rm -f {setting} /etc/pam.d/other-sshd")


def test_broken_configuration_is_told_with_its_line(machine: Machine) -> None:
    machine.run("sed -i.bak '1i nonsense = 1' /etc/textgate/textgate.toml")
    try:
        _, found = examine(machine)
        assert [(row["check"], "nonsense" in row["message"]) for row in found] == [("config", True)]
    finally:
        machine.run("mv /etc/textgate/textgate.toml.bak /etc/textgate/textgate.toml")


def test_who_is_not_root_is_told_to_be(machine: Machine) -> None:
    done = machine.run(["textgate", "doctor"], user=ALICE, check=False)
    assert done.status == 1
    assert "Traceback" not in done.stderr
