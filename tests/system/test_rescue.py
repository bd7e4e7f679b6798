# SPDX-License-Identifier: MIT
"""Each command of "WHEN NOBODY GETS IN", textgate(8), from the broken state that it is for; on booted machines."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from system.doors import PASSWORD, PASSWORDS, Doors
from system.machines import Machine, in_tree
from system.setting import Gateway
from system.test_pam_try import fingerprint, pam, status
from textgate.entry import LIBRARIES

PACKAGES = "/usr/lib/python3/dist-packages"


@pytest.fixture(scope="module")
def _doors(_machine: tuple[Machine, Gateway]) -> Doors:
    return Doors.prepare(*_machine)


@pytest.fixture
def doors(_doors: Doors, machine: Machine) -> Iterator[Doors]:
    """sudo, login and sshd are guarded when a test begins; `before` is how it was before."""
    _doors.skip_texts()
    yield _doors
    pam(machine, "disable", "--all")


def guard(machine: Machine) -> str:
    """Guard three services; how the files were before."""
    before = fingerprint(machine)
    for service in ("sshd", "sudo", "login"):
        pam(machine, "enable", service)
    return before


def assert_sudo_takes_a_password(doors: Doors) -> None:
    with doors.sudo() as login:
        login.answer(PASSWORD, PASSWORDS["alice"])
        assert login.is_in()


def hide(machine: Machine, library: str) -> str:
    """Take a library away; the command that brings it back."""
    names = machine.run(
        f"cd {PACKAGES} && ls -d {library} {library}.py {library}.cpython-*.so 2>/dev/null", check=False
    )
    assert names.stdout.split(), library
    found = " ".join(names.stdout.split())
    machine.run(f"mkdir /root/away && cd {PACKAGES} && mv {found} /root/away/")
    return f"mv /root/away/* {PACKAGES}/ && rmdir /root/away"


def test_any_library_away(doors: Doors, machine: Machine) -> None:
    """One after the other: two commands get the way out, and every other says what is missing."""
    before = guard(machine)
    for library, package in LIBRARIES.items():
        back = hide(machine, library)
        try:
            rows = status(machine)
            assert set(rows) == {"sshd", "sudo", "login"}, library
            assert "sudo is no longer guarded" in pam(machine, "disable", "sudo").stdout
            if library not in ("pam", "systemd", "rich", "phonenumbers"):  # which few commands load
                done = machine.run(["textgate", "status"], check=False)
                assert done.status == 1
                assert done.stderr.startswith(f"textgate: error: the Python library {library} can't be loaded\n")
                assert f"apt install --reinstall {package}" in done.stderr
        finally:
            machine.run(back)
        pam(machine, "enable", "sudo")
    assert pam(machine, "disable", "--all").stdout.count("is no longer guarded") == 3
    assert fingerprint(machine) == before


CONFIG = "/etc/textgate/textgate.toml"
UNITS = "textgated.socket textgated-admin.socket textgated.service"
# What breaks it, and what mends it.
BROKEN = {
    "the daemon is dead": (f"systemctl stop {UNITS}", f"systemctl start {UNITS}"),
    "Redis is dead": ("systemctl stop textgate-redis", "systemctl start textgate-redis"),
    "the configuration is broken": (f"cp -a {CONFIG} /root/ && echo '[[[' >{CONFIG}", f"cp -a /root/*.toml {CONFIG}"),
    "the configuration is gone": ("mv /etc/textgate /root/", "mv /root/textgate /etc/"),
    "the block is deleted": ("mv /etc/pam.d/textgate /root/block", "mv /root/block /etc/pam.d/textgate"),
    "the helper is gone": (
        "mv /usr/libexec/textgate/pam-helper /root/",
        "mv /root/pam-helper /usr/libexec/textgate/",
    ),
    "what was remembered is gone": (
        "mv /var/lib/textgate/pam /root/",
        "rm -rf /var/lib/textgate/pam; mv /root/pam /var/lib/textgate/",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_way_out_at_the_console(doors: Doors, machine: Machine, what: str) -> None:
    before = guard(machine)
    breaks, mends = BROKEN[what]
    machine.run(breaks)
    try:
        pam(machine, "status", check=False)
        assert pam(machine, "disable", "--all").stdout.count("is no longer guarded") == 3
        assert_sudo_takes_a_password(doors)
    finally:
        machine.run(mends)
        machine.run("rm -f /var/lib/textgate/pam/*.json")
        machine.wait_until("textgate status", within_s=60)
    assert fingerprint(machine) == before


def test_way_out_at_the_console_without_python(doors: Doors, machine: Machine) -> None:
    before = guard(machine)
    machine.run("mv /usr/bin/python3 /root/")
    try:
        said = machine.run("sh /usr/libexec/textgate/disable-all").stdout
        assert "no service asks for a code now" in said
        assert_sudo_takes_a_password(doors)
    finally:
        machine.run("mv /root/python3 /usr/bin/")
    with doors.ssh("publickey") as login:
        assert login.is_in()
    machine.run("rm /etc/ssh/sshd_config.d/00-textgate.conf.disabled")
    pam(machine, "disable", "--all")
    assert fingerprint(machine) == before


def test_read_only_disk_is_told_and_a_remount_is_the_way(doors: Doors, machine: Machine) -> None:
    before = guard(machine)
    guarded = fingerprint(machine)
    machine.run("mount --bind /etc/pam.d /etc/pam.d && mount -o remount,bind,ro /etc/pam.d")
    try:
        done = pam(machine, "disable", "--all", check=False)
        assert done.status == 1
        assert "Read-only file system" in done.stderr
        assert fingerprint(machine) == guarded
        shell = machine.run("sh /usr/libexec/textgate/disable-all", check=False)
        assert shell.status == 1
        assert "can't be written; is the disk full or read-only?" in shell.stderr
        machine.run("mount -o remount,bind,rw /etc/pam.d; sh /usr/libexec/textgate/disable-all")
        assert_sudo_takes_a_password(doors)
    finally:
        machine.run("umount /etc/pam.d; rm -f /etc/ssh/sshd_config.d/00-textgate.conf.disabled", check=False)
    pam(machine, "disable", "--all")
    assert fingerprint(machine) == before


def test_single_user_mode_and_live_system(doors: Doors, machine: Machine) -> None:
    """The machine is off: as with init=/bin/bash (no systemd), and then from outside, as from a live system."""
    before = guard(machine)
    machine.power_off()
    done = in_tree(machine.tree, ["textgate", "pam", "disable", "--all"])
    assert done.stdout.count("is no longer guarded") == 3
    machine.start()
    machine.wait_until("textgate status", within_s=60)
    assert fingerprint(machine) == before

    for service in ("sshd", "sudo"):
        pam(machine, "enable", service)
    machine.power_off()
    outside = subprocess.run(
        [machine.tree / "usr/libexec/textgate/rescue", "pam", "disable", "--all", "--root", machine.tree],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert outside.stdout.count("is no longer guarded") == 2
    machine.start()
    machine.wait_until("textgate status", within_s=60)
    assert fingerprint(machine) == before

    for service in ("sshd", "sudo"):
        pam(machine, "enable", service)
    machine.power_off()
    script = machine.tree / "usr/libexec/textgate/disable-all"
    outside = subprocess.run(["sh", script, machine.tree], capture_output=True, text=True, check=True)
    assert "/etc/pam.d/sudo: asks for no code now" in outside.stdout
    machine.start()
    machine.wait_until("textgate status", within_s=60)
    with doors.ssh("publickey") as login:
        assert login.is_in()
    machine.run("rm /etc/ssh/sshd_config.d/00-textgate.conf.disabled")
    pam(machine, "disable", "--all")
    assert fingerprint(machine) == before
