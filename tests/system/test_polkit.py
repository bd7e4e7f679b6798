# SPDX-License-Identifier: MIT
"""polkit on booted machines: a door to root beside sudo, first as Debian ships it, then guarded.

The text agent asks on the terminal: that of `systemd-run`, of `run0` where there is one, and pkttyagent for `pkexec`,
whose own agent is refused by polkitd itself in these releases.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from system.conftest import set_up
from system.doors import CODE, PASSWORD, PASSWORDS, Doors, Login
from system.machines import BaseTree, Machine, Release
from system.setting import ALICE, Gateway

PROOF = "/run/polkit-proof"
VENDOR, OWN = "/usr/lib/pam.d/polkit-1", "/etc/pam.d/polkit-1"
PACKAGES = ("polkitd", "pkexec")
WRITES_PROOF = f"sh -c 'id -un >{PROOF}'"


@pytest.fixture(scope="module")
def _doors(base: BaseTree, deb: Any) -> Iterator[Doors]:
    """sshd, sudo and sudo-i are guarded, polkitd is installed; alice may become root, and has a phone."""
    base.fetch(*PACKAGES)
    with Machine.boot(base, "polkit") as machine:
        gateway: Gateway = set_up(machine, deb)
        machine.run(["apt-get", "-q", "-y", "--no-install-recommends", "install", *PACKAGES], within_s=300)
        machine.run("systemctl start polkit")
        doors = Doors.prepare(machine, gateway)
        for service in ("sudo", "sudo-i"):
            machine.run(["textgate", "pam", "enable", service])
        yield doors


def forget(machine: Machine) -> None:
    """polkit asks anew, and nobody has been through it. Restarts one after the other are too many for systemd."""
    machine.run(f"rm -f {PROOF}; systemctl reset-failed polkit; systemctl restart polkit")


@pytest.fixture
def doors(_doors: Doors) -> Iterator[Doors]:
    """Nobody has been through polkit, and it asks each time."""
    forget(_doors.machine)
    _doors.skip_texts()
    yield _doors
    _doors.machine.run(["textgate", "pam", "disable", "polkit-1"])


@pytest.fixture
def machine(doors: Doors) -> Machine:
    return doors.machine


def commands(release: Release) -> list[str]:
    """What asks polkit on a terminal."""
    with_agent = (
        "ready=$(mktemp -u); mkfifo $ready; pkttyagent --process $$ --notify-fd 3 3>$ready & cat $ready; "
        f"pkexec --disable-internal-agent {WRITES_PROOF}"
    )
    found = [f"systemd-run --wait --quiet {WRITES_PROOF}", with_agent]
    return [*found, f"run0 {WRITES_PROOF}"] if release.number >= 13 else found


def at_password(doors: Doors, command: str) -> Login:
    """alice in an ssh session of her own, at the agent's question for her password."""
    login = doors.ssh("publickey", command=f"{command}; echo ended; kill %1 2>/dev/null")
    login.expect("AUTHENTICATING")
    return login


def became_root(machine: Machine) -> bool:
    return machine.exists(PROOF) and machine.read(PROOF) == "root\n"


def doors_of(machine: Machine) -> dict[str, dict[str, Any]]:
    report = json.loads(machine.run(["textgate", "pam", "status", "--json"], check=False).stdout)
    return {row["service"]: row for row in report["doors"]}


def findings(machine: Machine) -> list[dict[str, Any]]:
    report = json.loads(machine.run(["textgate", "doctor", "--json"], check=False).stdout)
    return [row for row in report["findings"] if row["check"] == "doors"]


def test_unguarded_polkit_is_a_way_around_sudo_and_is_told(doors: Doors, machine: Machine, release: Release) -> None:
    for command in commands(release):
        forget(machine)
        with at_password(doors, command) as login:
            login.answer(PASSWORD, PASSWORDS[ALICE])
            login.expect("ended")
        assert became_root(machine), command
    assert doors.text_count() == 0
    (found,) = [row for row in findings(machine) if row["service"] == "polkit-1"]
    assert (found["level"], found["fault"]) == ("failure", "door-open")
    assert found["remedy"] == "textgate pam try polkit-1"
    row = doors_of(machine)["polkit-1"]
    assert (row["leads_to"], row["state"], row["level"]) == ("root", "open", "failure")
    shown = machine.run(["textgate", "pam", "status"], check=False)
    assert shown.status == 1
    assert "polkit-1     gives root for a password alone" in shown.stdout


def test_guarded_polkit_asks_the_text_agent_for_the_code(doors: Doors, machine: Machine, release: Release) -> None:
    had = machine.exists(OWN)
    assert machine.exists(VENDOR) or had
    machine.run(["textgate", "pam", "try", "polkit-1", "--confirm-within", "1h"])
    assert "auth substack textgate" in machine.read(OWN)
    for command in commands(release):
        forget(machine)
        with at_password(doors, command) as login:
            login.answer(PASSWORD, PASSWORDS[ALICE])
            shown = login.expect(CODE)
            assert "texted" in shown
            assert not machine.exists(PROOF)
            login.say(doors.next_code())
            login.expect("ended")
        assert became_root(machine), command
    machine.wait_until("textgate pam status | grep -q '^polkit-1 .*guarded, password then code$'", within_s=20)
    assert [row for row in findings(machine) if row["service"] == "polkit-1"] == []
    assert doors_of(machine)["polkit-1"]["state"] == "guarded"
    machine.run(["textgate", "pam", "disable", "polkit-1"])
    assert machine.exists(OWN) is had


def test_guarded_polkit_refuses_wrong_codes_and_whoever_gives_up(
    doors: Doors, machine: Machine, release: Release
) -> None:
    machine.run(["textgate", "pam", "enable", "polkit-1"])
    for command in commands(release):
        with at_password(doors, command) as login:
            login.answer(PASSWORD, PASSWORDS[ALICE])
            for _ in range(3):
                login.answer(CODE, "000000")
            login.expect("ended")
        machine.run(["textgate", "unlock", ALICE])
        with at_password(doors, command) as login:
            login.answer(PASSWORD, PASSWORDS[ALICE])
            login.expect(CODE)
            login.press("c")
        text_count = doors.text_count()
        with at_password(doors, command) as login:
            login.answer(PASSWORD, "not-alices-password")
            login.expect("ended")
        assert doors.text_count() == text_count  # no code for whoever does not know the password
    assert not machine.exists(PROOF)


def test_try_of_sudo_points_at_polkit(doors: Doors, machine: Machine) -> None:
    machine.run(["textgate", "pam", "disable", "sudo"])
    said = machine.run(["textgate", "pam", "enable", "sudo"]).stdout
    assert "polkit-1 gives root for a password alone" in said
    assert "textgate pam try polkit-1" in said
