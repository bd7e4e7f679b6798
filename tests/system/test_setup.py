# SPDX-License-Identifier: MIT
"""`textgate setup` on booted machines: from an installed package to guarded services, unattended and by a person."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from system.doors import CODE, KEY, Doors, Login, sudo_to_code
from system.machines import BaseTree, Machine
from system.setting import ALICE, ALICE_MSISDN, KEYS, Gateway

ANSWERS = "/root/answers.toml"
NUMBER = f"+{ALICE_MSISDN}"
CREDENTIALS = "/etc/textgate/credentials"
CREDSTORE = "/etc/credstore.encrypted"


@pytest.fixture
def fresh(base: BaseTree, deb: Path) -> Iterator[tuple[Machine, Gateway]]:
    """The package is installed and nothing else; alice is an administrator with an ssh key."""
    with Machine.boot(base, "setup") as machine:
        gateway = Gateway.start(machine)
        machine.install(deb)
        machine.add_user(ALICE, password="alices-password", groups=["sudo"])
        machine.run(f"ssh-keygen -q -t ed25519 -N '' -f {KEY}")
        machine.run(
            f"install -d -m 0700 -o {ALICE} -g {ALICE} /home/{ALICE}/.ssh"
            f" && install -m 0600 -o {ALICE} -g {ALICE} {KEY}.pub /home/{ALICE}/.ssh/authorized_keys"
        )
        yield machine, gateway


def answers(gateway: Gateway, **others: object) -> str:
    given: dict[str, object] = {
        "gateway_key": KEYS["key"],
        "gateway_secret": KEYS["secret"],
        "gateway_url": gateway.url,
        "sender": "gate",
        "default_region": "DK",
        "allowed_countries": ["DK"],
        "user": ALICE,
        "number": NUMBER,
        "services": ["sshd", "sudo", "sudo-i"],
        "first_factor": "key",
        "confirm_within": "10m",
        **others,
    }
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in given.items() if value is not None)


def run_unattended(machine: Machine, gateway: Gateway, *words: str) -> str:
    """Setup with the code on standard input, as soon as it was texted; what it prints."""
    argv = ["textgate", "setup", "--answers", ANSWERS, "--code-stdin", *words]
    pipe = subprocess.PIPE
    process = machine.popen(argv, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT)
    former_count = len(gateway.texts(ALICE_MSISDN))
    deadline = time.monotonic() + 60
    while len(gateway.texts(ALICE_MSISDN)) == former_count and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    everything = machine.run("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' ' '").stdout
    for secret in (KEYS["key"], KEYS["secret"], NUMBER, ALICE_MSISDN):
        assert secret not in everything
    code = gateway.code(ALICE_MSISDN) if process.poll() is None else ""
    said, _ = process.communicate(f"{code}\n", timeout=120)
    assert process.returncode == 0, said
    return str(said)


def assert_nothing_is_open(machine: Machine) -> None:
    """No secret can be read by who isn't root or textgate, and none of the gateway's lies there in plain text."""
    assert machine.run(["ls", "-A", CREDENTIALS]).stdout == ""
    places = "/etc /var/lib/textgate /var/lib/systemd /var/log"
    assert machine.run(f"grep -rls -e {KEYS['secret']} {places} | grep -v fake-gatewayapi; true").stdout == ""
    modes = machine.run(f"stat -c '%a %U %n' {CREDENTIALS} {CREDSTORE} {CREDSTORE}/* /etc/textgate/phones").stdout
    for line in modes.splitlines():
        assert line.split()[0] in ("700", "600", "640"), line
    as_nobody = f"setpriv --reuid 65534 --clear-groups grep -rIls -e {KEYS['secret']} -e {ALICE_MSISDN}"
    found = machine.run(f"{as_nobody} /etc /var /run /usr/share/textgate /tmp; true").stdout
    assert found == ""


def test_unattended_setup_guards_the_machine_and_can_be_run_again(fresh: tuple[Machine, Gateway]) -> None:
    machine, gateway = fresh
    assert "pam_textgate" not in machine.run("cat /etc/pam.d/sshd /etc/pam.d/sudo /etc/pam.d/common-auth").stdout
    machine.write(ANSWERS, answers(gateway), mode=0o644)
    refused = machine.run(["textgate", "setup", "--answers", ANSWERS, "--code-stdin"], check=False)
    assert refused.status == 3
    assert "is open to other users" in refused.stderr
    machine.run(["chmod", "0600", ANSWERS])
    said = run_unattended(machine, gateway)
    assert "alice is enrolled with •• 01" in said
    assert said.count("\n    ") >= 10  # the recovery codes
    for service in ("sshd", "sudo", "sudo-i"):
        assert f"{service} is guarded" in said
    assert "asks for no code" not in said
    assert_nothing_is_open(machine)
    assert gateway.texts(ALICE_MSISDN)[0].split()[0].isdigit()

    doors = Doors(machine, gateway)
    with doors.ssh("publickey", "keyboard-interactive") as login:
        login.answer(CODE, doors.next_code())
        assert login.is_in()
    with sudo_to_code(doors) as login:
        login.answer(CODE, doors.next_code())
        assert login.is_in()

    before = machine.run("cat /etc/textgate/textgate.toml /etc/pam.d/sshd /etc/pam.d/sudo").stdout
    count = len(gateway.texts(ALICE_MSISDN))
    again = run_unattended(machine, gateway, "--json")
    done = json.loads(again)
    assert done["changed_options"] == []
    assert [row["is_changed"] for row in done["services"]] == [False, False, False]
    assert "recovery_codes" not in done
    assert len(gateway.texts(ALICE_MSISDN)) == count
    assert machine.run("cat /etc/textgate/textgate.toml /etc/pam.d/sshd /etc/pam.d/sudo").stdout == before
    health = machine.run(["textgate", "doctor", "--json"], check=False)
    assert health.status == 6, health.stdout  # root has no phone, and the sudo try is not confirmed yet or so
    assert not [row for row in json.loads(health.stdout)["findings"] if row["level"] == "failure"]


def test_setup_asks_a_person_and_asks_again_what_was_wrong(fresh: tuple[Machine, Gateway]) -> None:
    machine, gateway = fresh
    with Login(machine.spawn(["textgate", "setup"], within_s=60)) as wizard:
        wizard.answer("two letters", "Denmark")
        wizard.answer("may be texted", "DK")
        wizard.answer("Sender", "gate")
        wizard.answer("address", gateway.url)
        wizard.answer("two letters", "dk")  # the first one was none
        wizard.answer(r"may be texted \[DK\]", "")
        wizard.answer("Sender", "gate")
        wizard.answer("address", gateway.url)
        wizard.answer("key", KEYS["key"])
        wizard.answer("secret", "mistyped")
        wizard.expect("does not know these credentials")
        wizard.answer("key", KEYS["key"])
        wizard.answer("secret", KEYS["secret"])
        wizard.expect("GatewayAPI work")
        wizard.answer("first", ALICE)
        wizard.answer("Phone", "12")
        wizard.answer("first", ALICE)
        wizard.answer("Phone", "12 34 56 01")  # of the default region
        wizard.answer("test text", "n")
        wizard.expect("Code: ")
        wizard.say("000000")
        wizard.answer("Code: ", gateway.code(ALICE_MSISDN))
        wizard.expect("is enrolled")
        wizard.answer("recovery codes", "y")
        wizard.expect("not shown again")
        wizard.answer("Services", "sudo sudoo")
        wizard.expect("sudoo")
        wizard.answer("Services", "sudo sudo-i")
        wizard.expect("sudo-i is guarded")
        wizard.expect("taken back in 5m")
        wizard.expect("Done")
    told = machine.run(["textgate", "pam", "status"]).stdout
    assert told.count("guarded, password then code, taken back at") == 2
    assert_nothing_is_open(machine)


def test_setup_by_options_with_a_token_and_without_a_service(fresh: tuple[Machine, Gateway]) -> None:
    machine, gateway = fresh
    machine.write("/root/token", KEYS["token"] + "\n", mode=0o600)
    machine.write("/root/number", NUMBER + "\n", mode=0o600)
    left_out = dict.fromkeys(("gateway_key", "gateway_secret", "number", "services"))
    machine.write(ANSWERS, answers(gateway, **left_out), mode=0o600)
    said = run_unattended(
        machine, gateway, "--gateway-token-file", "/root/token", "--number-file", "/root/number",
        "--no-recovery-codes", "--services", "login,su", "--user", ALICE,
    )  # fmt: skip
    assert "recovery" not in said.lower()
    assert "login is guarded" in said
    assert "su is guarded" in said
    assert 'auth = "token"' in machine.read("/etc/textgate/textgate.toml")
    assert machine.exists(f"{CREDSTORE}/textgate.gatewayapi-token")
    assert not machine.exists(f"{CREDSTORE}/textgate.gatewayapi-key")
    assert_nothing_is_open(machine)
    machine.run(["textgate", "credentials", "decrypt"])
    assert machine.read(f"{CREDENTIALS}/gatewayapi-token") == KEYS["token"] + "\n"
    faults = {
        "gateway_url = 3": "must be a text",
        "user = [": "not valid TOML",
        "x = 1": "no such answer",
        'services = ["sudoo"]': "services: /etc/pam.d/sudoo: can't be read",
        'first_factor = "pin"': "first_factor: ",
        'confirm_within = "soon"': "confirm_within: ",
    }
    for wrong, told in faults.items():
        machine.write(ANSWERS, wrong, mode=0o600)
        refused = machine.run(["textgate", "setup", "--answers", ANSWERS], check=False)
        assert refused.status == 3
        assert told in refused.stderr
