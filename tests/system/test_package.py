# SPDX-License-Identifier: MIT
"""The package on booted machines: installed on a stock system, upgraded under load, removed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from system.conftest import LOAD_PEOPLE, Boot, set_up
from system.former import LINE, VERSION, former_deb
from system.machines import BaseTree, Machine, Release
from system.setting import RESTART, Load, helper, log_in

LOGIN_FILES = (
    "find /etc/pam.d /etc/ssh /etc/sudoers* /etc/security -type f ! -path '/etc/pam.d/textgate*' -exec sha256sum {} +"
)
UNITS = ("textgated.service", "textgated.socket", "textgated-admin.socket", "textgate-redis.service")


@pytest.fixture(scope="module")
def installed(stock: BaseTree, deb: Path) -> Iterator[tuple[Machine, str]]:
    """A stock machine with the package on it and nothing else done; and its login files as they were before."""
    with Machine.boot(stock, "stock") as machine:
        before = machine.run(LOGIN_FILES).stdout
        machine.install(deb)
        yield machine, before


# --- Installed, not configured ---


def test_installing_changes_no_login(installed: tuple[Machine, str]) -> None:
    machine, before = installed
    assert machine.run(LOGIN_FILES).stdout == before
    assert "textgate" not in machine.read("/etc/pam.d/common-auth")


def test_installing_starts_nothing_and_fails_nothing(installed: tuple[Machine, str]) -> None:
    machine, _ = installed
    assert machine.run(["systemctl", "is-active", *UNITS], check=False).stdout.split() == ["inactive"] * len(UNITS)
    assert machine.run(["systemctl", "is-enabled", *UNITS]).stdout.split() == ["enabled"] * len(UNITS)
    assert machine.run("systemctl --failed --no-legend").stdout == ""
    machine.reboot()
    assert machine.run(["systemctl", "is-active", *UNITS], check=False).stdout.split() == ["inactive"] * len(UNITS)
    assert machine.run("systemctl --failed --no-legend").stdout == ""


def test_no_second_redis_is_started(installed: tuple[Machine, str]) -> None:
    machine, _ = installed
    assert machine.run("ls /usr/lib/systemd/system | grep -E '^(redis|valkey)'", check=False).stdout == ""
    assert machine.run("pgrep -l 'redis|valkey'", check=False).stdout == ""


def test_installing_makes_a_key_that_only_root_reads(installed: tuple[Machine, str]) -> None:
    machine, _ = installed
    assert machine.run("stat -c '%a %U' /etc/textgate/credentials/vault-key").stdout == "600 root\n"


def test_helper_and_library_are_compiled(installed: tuple[Machine, str]) -> None:
    machine, _ = installed
    for folder in ("/usr/libexec/textgate", "/usr/lib/python3/dist-packages/textgate"):
        assert machine.run(f"ls {folder}/__pycache__/*.pyc").stdout


def test_catalog_explains_every_event(installed: tuple[Machine, str], deb: Path) -> None:
    machine, _ = installed
    ids = machine.run(
        ["/usr/bin/python3", "-I", "-c", "from textgate.audit import Event\nfor event in Event: print(event.value)"]
    ).stdout.split()
    helpers = re.findall(r'MESSAGE_ID = "([0-9a-f]{32})"', machine.read("/usr/libexec/textgate/textgate_pam.py"))
    assert helpers
    for message_id in [*ids, *helpers]:
        assert "textgate" in machine.run(["journalctl", "--dump-catalog", message_id]).stdout
    own = set(re.findall(r"^-- ([0-9a-f]{32})$", machine.read("/usr/lib/systemd/catalog/textgate.catalog"), re.M))
    assert own == {*ids, *helpers}


def test_commands_say_what_to_do_where_nothing_is_configured(installed: tuple[Machine, str]) -> None:
    machine, _ = installed
    said = machine.run(["textgate", "status"], check=False)
    assert said.status == 4
    assert "hint:" in said.stderr


# --- Upgraded ---


def test_upgrade_under_load_loses_no_login_and_nothing_of_the_admin(boot: Boot, deb: Path, tmp_path: Path) -> None:
    machine = boot("upgrade")
    gateway = set_up(machine, former_deb(deb, tmp_path))
    # The administrator's own words, in a conffile that the new build changes as well, and in files of other packages.
    machine.write("/etc/textgate/redis.conf", machine.read("/etc/textgate/redis.conf") + "maxmemory 128mb\n")
    machine.write("/etc/pam.d/sudo", machine.read("/etc/pam.d/sudo") + "# by hand\n@include textgate\n")
    kept = {
        path: machine.read(path)
        for path in ("/etc/textgate/textgate.toml", "/etc/textgate/redis.conf", "/etc/pam.d/sudo")
    }
    secrets = machine.run("sha256sum /etc/textgate/credentials/* /etc/textgate/phones").stdout
    sockets = machine.run("stat -c '%i %n' /run/textgate/*.sock").stdout
    assert VERSION in machine.run(["textgate", "--version"]).stdout
    former_pid = machine.property("textgated.service", "MainPID")
    helper(machine, "begin", login=1)
    code = gateway.code("4512345601")

    with Load.start(machine, at_once=LOAD_PEOPLE) as load:
        machine.install(deb, options=["-o", "Dpkg::Options::=--force-confold"])  # what who is asked says, too
        result = load.result()
    assert result["failed"] == []
    assert result["passed"] > LOAD_PEOPLE

    assert helper(machine, "check", code, login=1).status == 0  # begun with the former build
    assert VERSION not in machine.run(["textgate", "--version"]).stdout
    assert machine.property("textgated.service", "MainPID") not in {"0", former_pid}
    assert {path: machine.read(path) for path in kept} == kept
    assert machine.run("sha256sum /etc/textgate/credentials/* /etc/textgate/phones").stdout == secrets
    assert machine.run("stat -c '%i %n' /run/textgate/*.sock").stdout == sockets  # never closed
    assert machine.exists("/var/lib/textgate/daemon/store-seen.json")  # which the unit of the new build alone allows
    assert LINE not in machine.read("/etc/pam.d/textgate")  # nobody had changed it, so it is the new one
    assert machine.run(["systemctl", "is-active", *UNITS]).stdout.split() == ["active"] * len(UNITS)


# --- Valkey ---


def test_valkey_takes_over_from_redis_and_gives_back(
    boot: Boot, base: BaseTree, stock: BaseTree, release: Release, deb: Path
) -> None:
    if release.number < 13:  # the release has none, and the package must do without
        assert "valkey" not in boot("none").run(["apt-cache", "search", "--names-only", "valkey"]).stdout
        return
    stock.fetch("valkey-tools", "redis-tools")
    machine = boot("valkey")
    gateway = set_up(machine, deb)
    helper(machine, "begin", login=1)
    code = gateway.code("4512345601")
    for add, drop in (("valkey-tools", "redis-tools"), ("redis-tools", "valkey-tools")):
        machine.run(["apt-get", "-q", "-y", "install", add, f"{drop}-"])
        machine.run(RESTART)
        running = machine.run(
            ["ps", "-o", "args=", "-p", machine.property("textgate-redis.service", "MainPID")]
        ).stdout
        assert running.startswith(add.partition("-")[0])
        assert log_in(machine, gateway, login=2).status == 0
        assert "CRITICAL" not in machine.journal("-b", "-u", "textgate-redis.service")
    # Begun under Redis, ended under Redis, through the files of both.
    assert helper(machine, "check", code, login=1).status == 0


# --- Removed ---


def test_removing_takes_the_pam_lines_out_first_and_says_so(boot: Boot, deb: Path) -> None:
    machine = boot("remove")
    gateway = set_up(machine, deb)
    former = machine.read("/etc/pam.d/sudo")
    machine.run(["usermod", "-aG", "sudo", "alice"])
    enabled = machine.run(["textgate", "pam", "enable", "sudo"], check=False)
    assert enabled.status == 0, enabled.stdout + enabled.stderr
    assert "textgate" in machine.read("/etc/pam.d/sudo")
    said = machine.run(["apt-get", "-q", "-y", "remove", "textgate"]).stdout
    assert "/etc/pam.d/sudo" in said
    assert machine.read("/etc/pam.d/sudo") == former
    assert machine.run("pgrep -l 'redis|textgated'", check=False).stdout == ""
    assert machine.run("ls /run/textgate", check=False).status != 0
    # Installed again, it goes on where it was.
    machine.install(deb)
    assert log_in(machine, gateway, login=1).status == 0
    machine.run(["apt-get", "-q", "-y", "purge", "textgate"])
    assert machine.run("ls -d /etc/textgate /var/lib/textgate /etc/pam.d/textgate", check=False).stdout == ""
    assert machine.run("systemctl --failed --no-legend").stdout == ""
    assert machine.run("systemctl list-unit-files --no-legend 'textgate*'", check=False).stdout == ""
