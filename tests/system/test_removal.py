# SPDX-License-Identifier: MIT
"""The package's removal where services are guarded: refused, failed, killed, and done; on booted machines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from system.doors import CODE, PASSWORD, PASSWORDS, Doors
from system.machines import Machine
from system.setting import Gateway
from system.test_pam_try import fingerprint, pam

SERVICES = ("sshd", "sudo", "sudo-i", "su", "login")
CHANGES = "/var/lib/textgate/changes"
INFO = "/var/lib/dpkg/info"
RESCUE = "/usr/libexec/textgate/rescue"


@pytest.fixture(scope="module")
def _doors(_machine: tuple[Machine, Gateway]) -> Doors:
    return Doors.prepare(*_machine)


@pytest.fixture
def doors(_doors: Doors, machine: Machine) -> Iterator[Doors]:
    """Everything is guarded when a test begins."""
    _doors.skip_texts()
    for service in SERVICES:
        pam(machine, "enable", service)
    yield _doors
    reinstall(machine)
    pam(machine, "disable", "--all")


def reinstall(machine: Machine) -> None:
    machine.run("dpkg --install /root/textgate_*.deb", within_s=300)
    machine.wait_until("textgate status", within_s=30)


def asks_for_a_code(doors: Doors) -> bool:
    """Whether sudo asks for one behind the password."""
    with doors.sudo() as login:
        login.answer(PASSWORD, PASSWORDS["alice"])
        if login.is_in():
            return False
    return True


def dpkg_state(machine: Machine) -> str:
    return machine.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", "textgate"], check=False).stdout


# --- Refused ---


def test_word_within_one_block_leaves_every_service_guarded(doors: Doors, machine: Machine) -> None:
    sshd = machine.read("/etc/pam.d/sshd")
    machine.write("/etc/pam.d/sshd", sshd.replace("requisite pam_unix.so", "requisite pam_unix.so nullok"))
    before = fingerprint(machine)
    removed = machine.run(["apt-get", "-q", "-y", "remove", "textgate"], check=False, within_s=300)
    assert removed.status == 100
    assert "/etc/pam.d/sshd: was changed within textgate's lines" in removed.stdout + removed.stderr
    assert fingerprint(machine) == before
    assert dpkg_state(machine) == "installed"
    assert machine.run("systemctl is-active textgated.service textgated.socket").stdout == "active\nactive\n"
    assert asks_for_a_code(doors)
    machine.write("/etc/pam.d/sshd", sshd)


def test_line_put_in_by_hand_leaves_every_service_guarded(doors: Doors, machine: Machine) -> None:
    machine.write("/etc/pam.d/cockpit", "auth required pam_unix.so\nauth include textgate\n")
    before = fingerprint(machine)
    removed = machine.run(["apt-get", "-q", "-y", "remove", "textgate"], check=False, within_s=300)
    assert removed.status == 100
    assert "/etc/pam.d/cockpit" in removed.stdout + removed.stderr
    assert fingerprint(machine) == before
    machine.run("rm /etc/pam.d/cockpit")


# --- Killed ---

KILL_BOTH = "kill -9 $PPID $$"
KILL_IN_RESCUE = """\
#!/usr/bin/python3 -IS
import os, sys
sys.path.append("/usr/lib/python3/dist-packages")
from textgate import rescue
from textgate.transaction import Transaction
apply, left = Transaction.apply, [{writes}]
def killed(self, path):
    if not left[0]:
        script = os.getppid()
        dpkg = int(open(f"/proc/{{script}}/stat").read().rpartition(")")[2].split()[1])
        for pid in (dpkg, script, os.getpid()):
            os.kill(pid, 9)
    left[0] -= 1
    apply(self, path)
Transaction.apply = killed
sys.exit(rescue.main(sys.argv[1:]))
"""
# Where dpkg and its script are killed: a sed program for a script, or how many files the removal has changed by then.
BEFORE_ITS_END: dict[str, tuple[str, str] | int] = {
    "at the beginning": ("prerm", f"2i {KILL_BOTH}"),
    "before the record": 0,
    "before the first file": 1,
    "after the first file": 2,
    "after the sixth file": 7,
    "after the last file": ("prerm", f"s/^    \\[ -z .*/    {KILL_BOTH}/"),
    "at the end": ("prerm", f"$a {KILL_BOTH}"),
}


def spoil(machine: Machine, where: tuple[str, str] | int) -> None:
    if isinstance(where, int):
        machine.write(RESCUE, KILL_IN_RESCUE.format(writes=where), mode=0o755)
    else:
        machine.run(["sed", "-i", where[1], f"{INFO}/textgate.{where[0]}"])


@pytest.mark.parametrize("moment", BEFORE_ITS_END)
def test_removal_whose_dpkg_is_killed_leaves_everything_guarded(doors: Doors, machine: Machine, moment: str) -> None:
    before = fingerprint(machine)
    machine.run(f"cp -a {INFO}/textgate.prerm {RESCUE} /root/")
    spoil(machine, BEFORE_ITS_END[moment])
    try:
        killed = machine.run(["dpkg", "--remove", "textgate"], check=False, within_s=120)
        assert killed.status in (-9, 137), killed.stdout + killed.stderr
        machine.wait_until(f'test -z "$(ls {CHANGES})"', within_s=30)
        assert fingerprint(machine) == before
        assert asks_for_a_code(doors)
    finally:
        machine.run(f"cp -a /root/textgate.prerm {INFO}/ && cp -a /root/rescue {RESCUE}")
    assert dpkg_state(machine) == "half-configured"
    reinstall(machine)
    assert fingerprint(machine) == before
    assert "changes" not in machine.run(["textgate", "doctor"], check=False).stdout


def test_removal_whose_script_is_killed_leaves_everything_guarded(doors: Doors, machine: Machine) -> None:
    """dpkg goes on, with `postinst abort-remove`."""
    before = fingerprint(machine)
    machine.run(f"cp -a {INFO}/textgate.prerm /root/ && systemctl stop textgate-recover.path")
    spoil(machine, ("prerm", "$a kill -9 $$"))
    try:
        assert machine.run(["dpkg", "--remove", "textgate"], check=False, within_s=120).status == 1
    finally:
        machine.run(f"cp -a /root/textgate.prerm {INFO}/ && systemctl start textgate-recover.path")
    assert fingerprint(machine) == before
    assert dpkg_state(machine) == "installed"


def test_power_cut_in_a_removal_leaves_everything_guarded(doors: Doors, machine: Machine) -> None:
    before = fingerprint(machine)
    machine.run(f"cp -a {INFO}/textgate.prerm /root/ && systemctl stop textgate-recover.path")
    spoil(machine, ("prerm", f"$a {KILL_BOTH}"))
    machine.run(["dpkg", "--remove", "textgate"], check=False, within_s=120)
    assert fingerprint(machine) != before
    machine.run(f"cp -a /root/textgate.prerm {INFO}/")
    machine.cut_power()
    machine.start()
    machine.wait_until(["test", "!", "-e", f"{CHANGES}/removal"], within_s=30)
    assert fingerprint(machine) == before
    machine.wait_until("textgate status", within_s=30)
    assert asks_for_a_code(doors)


def test_removal_that_is_killed_once_files_are_gone_lets_people_in_and_is_known(
    doors: Doors, machine: Machine
) -> None:
    before = fingerprint(machine)
    spoil(machine, ("postrm", f'2i [ "$1" != remove ] || {KILL_BOTH}'))
    killed = machine.run(["dpkg", "--remove", "textgate"], check=False, within_s=120)
    assert killed.status in (-9, 137)
    assert dpkg_state(machine) == "half-installed"
    assert not asks_for_a_code(doors)  # a line that names what is not there would refuse everybody
    reinstall(machine)
    assert fingerprint(machine) == before  # the removal never came to its end
    assert asks_for_a_code(doors)


# --- Done ---


def test_what_was_guarded_is_told_by_the_next_installation(doors: Doors, machine: Machine) -> None:
    machine.run(["apt-get", "-q", "-y", "remove", "textgate"], within_s=300)
    assert not asks_for_a_code(doors)
    assert machine.run("systemctl --failed --no-legend").stdout == ""
    said = machine.run("apt-get -q -y install /root/textgate_*.deb", within_s=300).stdout
    assert "before it was removed, it guarded: login, sshd, su, sudo, sudo-i" in said
    doctor = machine.run(["textgate", "doctor"], check=False)
    assert "guarded before the package was removed, and not now" in doctor.stdout
    machine.wait_until("textgate status", within_s=30)
    pam(machine, "enable", "sudo")
    assert "and not now: login, sshd, su, sudo-i" in machine.run(["textgate", "doctor"], check=False).stdout
    pam(machine, "disable", "--all")
    assert "and not now" not in machine.run(["textgate", "doctor"], check=False).stdout


def test_removal_without_any_library_and_without_python(doors: Doors, machine: Machine) -> None:
    """Last: what it is from 13 on, and then with Python itself gone."""
    libraries = "click redis requests requests_oauthlib oauthlib cryptography pyotp rich phonenumbers systemd"
    machine.run(
        "cd /usr/lib/python3/dist-packages && mkdir /root/away && for name in "
        + libraries
        + "; do mv $name /root/away; done"
    )
    machine.run(["dpkg", "--remove", "textgate"], within_s=120)
    assert not asks_for_a_code(doors)
    machine.run("mv /root/away/* /usr/lib/python3/dist-packages/ && rmdir /root/away")
    reinstall(machine)
    for service in ("sshd", "sudo"):
        pam(machine, "enable", service)
    machine.run("mv /usr/lib/python3/dist-packages/textgate/rescue.py /root/")
    removed = machine.run(["dpkg", "--remove", "textgate"], within_s=120)
    assert "taken out without it" in removed.stdout + removed.stderr
    assert not asks_for_a_code(doors)
    assert CODE not in machine.read("/etc/pam.d/sudo")
