# SPDX-License-Identifier: MIT
"""The units of the package on booted machines: how they start, what they may do, and what they come back from."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from system.conftest import LOAD_PEOPLE
from system.machines import Machine
from system.setting import ALICE, KEYS, RESTART, Gateway, Load, helper, log_in

UNITS = ("textgated.service", "textgated.socket", "textgated-admin.socket", "textgate-redis.service")
DROP_IN = "/run/systemd/system/textgated.service.d/test.conf"
EXPOSURE_AT_MOST = 1.2
STATE = "/var/lib/textgate/redis"
BACK_WITHIN_S = 60.0


@pytest.fixture(autouse=True)
def working(machine: Machine, gateway: Gateway) -> Iterator[None]:
    """Each test leaves a machine behind in which one can log in, without anybody's help."""
    yield
    encrypted = "/etc/systemd/system/textgated.service.d/50-encrypted-credentials.conf"
    machine.run(f"rm -rf {DROP_IN} {encrypted} /etc/credstore.encrypted && systemctl daemon-reload")
    for left_over in ("/var", "/mnt", STATE):
        machine.run(["umount", left_over], check=False)
    wait_until_all_run(machine)
    assert log_in(machine, gateway, login=9000).status == 0


def wait_until_all_run(machine: Machine) -> None:
    # One by one: is-active is content with any of several units.
    for unit in UNITS:
        machine.wait_until(["systemctl", "is-active", "-q", unit], within_s=BACK_WITHIN_S)


def main_pid(machine: Machine) -> str:
    pid = machine.property("textgated.service", "MainPID")
    assert pid != "0"
    return pid


# --- As installed ---


def test_units_run_and_let_in_with_the_texted_code(machine: Machine, gateway: Gateway) -> None:
    assert machine.run(["systemctl", "is-active", *UNITS]).stdout.split() == ["active"] * len(UNITS)
    asked = helper(machine, "begin", login=1)
    assert asked.status == 1  # "ask": never a success by itself
    wrong = helper(machine, "check", "000000", login=1)
    assert wrong.status == 1
    assert log_in(machine, gateway, login=2).status == 0
    assert machine.run("systemctl --failed --no-legend").stdout == ""


@pytest.mark.parametrize(
    ("path", "mode_and_owner"),
    [
        ("/run/textgate", "755 root:root"),
        ("/run/textgate/auth.sock", "600 root:root"),
        ("/run/textgate/admin.sock", "660 root:textgate-admin"),
        ("/run/textgate-redis", "2710 textgate-redis:textgate"),
        ("/run/textgate-redis/redis.sock", "660 textgate-redis:textgate"),
        (STATE, "700 textgate-redis:textgate-redis"),
        ("/etc/textgate/credentials", "700 root:root"),
        ("/etc/textgate/credentials/vault-key", "600 root:root"),
    ],
)
def test_files_belong_to_those_who_need_them(machine: Machine, path: str, mode_and_owner: str) -> None:
    assert machine.run(["stat", "-c", "%a %U:%G", path]).stdout.strip() == mode_and_owner


@pytest.mark.parametrize("unit", ["textgated.service", "textgate-redis.service"])
def test_exposure_is_low(machine: Machine, unit: str) -> None:
    shown = machine.run(["systemd-analyze", "security", "--no-pager", unit], check=False).stdout
    found = re.search(r"Overall exposure level for .*: ([0-9.]+)", shown)
    assert found is not None, shown
    assert float(found[1]) <= EXPOSURE_AT_MOST, shown


def test_daemon_stays_on_one_cpu(machine: Machine) -> None:
    shown = machine.run(["taskset", "-acp", main_pid(machine)]).stdout.splitlines()
    assert {line.rpartition(": ")[2].isdecimal() for line in shown} == {True}, shown


# The unit keeps the daemon's memory out of core images (core(5)), and so does the daemon where nobody else does.


def kinds_of_memory_in_images(machine: Machine) -> int:
    return int(machine.read(f"/proc/{main_pid(machine)}/coredump_filter"), 16)


def restart_with(machine: Machine, settings: str) -> None:
    machine.write(DROP_IN, f"[Service]\n{settings}\n")
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "restart", "textgated.service"])


def test_core_images_hold_no_memory_from_the_start(machine: Machine) -> None:
    assert kinds_of_memory_in_images(machine) == 0
    restart_with(machine, "ExecStartPre=/bin/sh -c 'read -r kinds </proc/self/coredump_filter && echo kinds $kinds'")
    machine.wait_until("journalctl -q -b -u textgated | grep -q 'kinds 00000000'")


def test_core_images_hold_no_memory_whatever_a_drop_in_says(machine: Machine) -> None:
    restart_with(machine, "CoredumpFilter=all")
    assert kinds_of_memory_in_images(machine) == 0


def test_redis_does_what_textgate_does_and_nothing_else(machine: Machine, gateway: Gateway) -> None:
    # A second user, for this test alone, sees whether anything of textgate's was refused.
    former = machine.read("/etc/textgate/redis.conf")
    machine.write("/etc/textgate/redis.conf", former + "user auditor on nopass ~* &* +@all\n")
    machine.run(RESTART)
    machine.run(["textgate", "status"])
    assert log_in(machine, gateway, login=10).status == 0
    assert helper(machine, "check", "000000", login=10).status == 1
    machine.run(["textgate", "unlock", "alice"])
    machine.run(["textgate", "recovery", "alice"])
    machine.run(["textgate", "keys", "reseal"])
    cli = ["redis-cli", "-s", "/run/textgate-redis/redis.sock"]
    log = machine.run([*cli, "--user", "auditor", "--pass", "x", "--no-auth-warning", "ACL", "LOG"]).stdout
    machine.write("/etc/textgate/redis.conf", former)
    machine.run(RESTART)
    assert log.strip() == "", log
    for command in ("FLUSHALL", "KEYS *", "CONFIG SET appendonly no", "SHUTDOWN NOSAVE", "EVAL 1 0", "GET x"):
        assert machine.run([*cli, *command.split()]).stdout.startswith("NOPERM"), command


def test_redis_keeps_what_it_promised_over_a_crash(machine: Machine, gateway: Gateway) -> None:
    helper(machine, "begin", login=20)
    code = gateway.code("4512345601")
    for is_right in (True, False):  # what was begun goes on; what was used up stays so
        machine.run(["kill", "-KILL", machine.property("textgate-redis.service", "MainPID")])
        machine.wait_until(["test", "-e", "/run/textgate-redis/redis.sock"])
        machine.wait_until(["redis-cli", "-s", "/run/textgate-redis/redis.sock", "-e", "PING"])
        assert (helper(machine, "check", code, login=20).status == 0) is is_right
    # With too few rights for its own file it would have lost some of that, and said so here.
    assert "CRITICAL" not in machine.journal("-b", "-u", "textgate-redis.service")


# --- Credentials ---


@pytest.fixture
def credentials(machine: Machine) -> Iterator[str]:
    """The folder of the credentials, which is as before afterwards."""
    folder = "/etc/textgate/credentials"
    former = machine.read("/etc/textgate/textgate.toml")
    machine.run(f"cp -a {folder} /root/kept")
    yield folder
    machine.run(f"rm -rf {folder} {DROP_IN} && mv /root/kept {folder} && systemctl daemon-reload")
    machine.write("/etc/textgate/textgate.toml", former)
    machine.run(RESTART)


def test_token_alone_is_enough_where_the_configuration_says_so(
    machine: Machine, gateway: Gateway, credentials: str
) -> None:
    former = machine.read("/etc/textgate/textgate.toml")
    machine.run(f"rm {credentials}/gatewayapi-*")
    machine.write(f"{credentials}/gatewayapi-token", KEYS["token"], mode=0o600)
    machine.write("/etc/textgate/textgate.toml", former.replace("[gateway]", '[gateway]\nauth = "token"'))
    machine.run(RESTART)
    assert log_in(machine, gateway, login=30).status == 0


def test_credentials_are_encrypted_and_put_back_and_no_login_is_lost(
    machine: Machine, gateway: Gateway, credentials: str
) -> None:
    before = machine.run(f"cat {credentials}/*").stdout
    with Load.start(machine, at_once=LOAD_PEOPLE) as load:
        done = machine.run(["textgate", "credentials", "encrypt"])
        result = load.result()
    assert result["failed"] == []
    assert "opens on this machine only" in done.stdout
    assert machine.run(["ls", "-A", credentials]).stdout == ""
    assert machine.run("grep -l system-test-secret -r /etc/[!f]* /var/lib/textgate; true").stdout == ""
    assert (
        machine.run(["textgate", "credentials", "status"]).stdout.count(": encrypted, /etc/credstore.encrypted/") == 3
    )
    # Sockets and all, as after a boot: their conditions look for the encrypted files too.
    machine.run(["systemctl", "stop", *UNITS])
    machine.run(["systemctl", "start", *UNITS])
    assert log_in(machine, gateway, login=40).status == 0
    assert machine.run(["textgate", "check-config"]).status == 0
    with Load.start(machine, at_once=LOAD_PEOPLE) as load:
        machine.run(["textgate", "credentials", "decrypt"])
        result = load.result()
    assert result["failed"] == []
    assert machine.run(f"cat {credentials}/*").stdout == before
    assert not machine.exists("/etc/systemd/system/textgated.service.d/50-encrypted-credentials.conf")
    assert log_in(machine, gateway, login=41).status == 0


@pytest.mark.parametrize("way", ["plain", "encrypted"])
def test_vault_key_is_rotated_and_no_login_is_lost(
    machine: Machine, gateway: Gateway, credentials: str, way: str
) -> None:
    if way == "encrypted":
        machine.run(["textgate", "credentials", "encrypt"])
    with Load.start(machine, at_once=LOAD_PEOPLE) as load:
        said = machine.run(["textgate", "keys", "rotate"]).stdout
        result = load.result()
    assert result["failed"] == []
    assert re.search(rf"(?m)^sealed with k[2-9]: {LOAD_PEOPLE + 1} anew, 0 already; 0 can't be opened$", said)
    assert machine.exists(f"{credentials}/vault-key") is (way == "plain")
    assert log_in(machine, gateway, login=42).status == 0
    # The fixture puts the former key back, which opens nothing that the new one sealed.
    machine.run(["textgate", "credentials", "decrypt"])
    machine.run(f"cp {credentials}/vault-key /root/kept/vault-key")


def test_clone_that_cannot_open_its_credentials_refuses_and_comes_back_as_the_manual_says(
    machine: Machine, gateway: Gateway, credentials: str
) -> None:
    machine.run(["textgate", "credentials", "encrypt"])
    encrypted = "/etc/credstore.encrypted/textgate.vault-key"
    machine.run(f"systemd-creds decrypt --name=vault-key {encrypted} > /root/copy")
    machine.run("cp -a /etc/machine-id /root/machine-id && echo 0123456789abcdef0123456789abcdef > /etc/machine-id")
    try:
        machine.run(RESTART, check=False)
        assert helper(machine, "begin", login=43).status != 0
        health = machine.run(["textgate", "doctor"], check=False)
        assert health.status == 1
        assert "does not open on this machine" in health.stdout
        machine.write(
            "/root/answers.toml", f'gateway_key = "{KEYS["key"]}"\ngateway_secret = "{KEYS["secret"]}"\n'
            f'user = "{ALICE}"\nservices = []\n', mode=0o600,
        )  # fmt: skip
        setup = ["textgate", "setup", "--answers", "/root/answers.toml"]
        refused = machine.run(setup, check=False)
        assert refused.status == 3
        assert "Put your copy of the key into" in refused.stderr
        machine.run(f"install -m 0600 /root/copy {credentials}/vault-key && rm {encrypted}")
        machine.run(setup)
        assert log_in(machine, gateway, login=44).status == 0
        assert machine.run(["ls", "-A", credentials]).stdout == ""
        machine.run(["textgate", "credentials", "decrypt"])
    finally:
        machine.run("cp -a /root/machine-id /etc/machine-id")


# --- Restarts ---


def test_restart_under_load_loses_no_login(machine: Machine) -> None:
    with Load.start(machine, at_once=LOAD_PEOPLE) as load:
        for _ in range(3):
            machine.run(["systemctl", "restart", "textgated.service"])
        result = load.result()
    assert result["failed"] == []
    assert result["passed"] > 2 * LOAD_PEOPLE


def test_restart_of_daemon_and_redis_under_load_loses_no_login(machine: Machine) -> None:
    with Load.start(machine, at_once=LOAD_PEOPLE) as load:
        for _ in range(3):
            machine.run(RESTART)
        result = load.result()
    assert result["failed"] == []
    assert result["passed"] > 2 * LOAD_PEOPLE


def test_login_starts_a_stopped_daemon(machine: Machine, gateway: Gateway) -> None:
    machine.run(["systemctl", "stop", "textgated.service"])
    assert log_in(machine, gateway, login=50).status == 0


def test_reload_keeps_the_daemon_and_a_faulty_file_keeps_the_old_one(machine: Machine, gateway: Gateway) -> None:
    pid, former = main_pid(machine), machine.read("/etc/textgate/textgate.toml")
    machine.write("/etc/textgate/textgate.toml", former + "\n[limits]\n")
    machine.run(["systemctl", "reload", "textgated"])
    machine.wait_until("journalctl -q -b -u textgated | grep -q 'reload failed'")
    answer = log_in(machine, gateway, login=60)
    machine.write("/etc/textgate/textgate.toml", former)
    machine.run(["systemctl", "reload", "textgated"])
    assert answer.status == 0
    assert main_pid(machine) == pid


def test_watchdog_ends_a_hung_daemon_and_the_next_login_works(machine: Machine, gateway: Gateway) -> None:
    pid = main_pid(machine)
    machine.run(["kill", "-STOP", pid])
    assert helper(machine, "begin", login=70).status == 1
    machine.wait_until(f'[ "$(systemctl show --value -p MainPID textgated)" != {pid} ]', within_s=40)
    machine.wait_until(["systemctl", "is-active", "-q", "textgated.service"])
    assert "watchdog" in machine.journal("-b", "-u", "textgated.service").lower()
    assert log_in(machine, gateway, login=71).status == 0


def test_faulty_configuration_refuses_until_it_is_mended(machine: Machine, gateway: Gateway) -> None:
    former = machine.read("/etc/textgate/textgate.toml")
    machine.write("/etc/textgate/textgate.toml", "no = toml = at all\n")
    # Without --no-block this would wait for a start that never comes.
    machine.run(["systemctl", "--no-block", "restart", "textgated.service"])
    refused = helper(machine, "begin", login=80)
    machine.write("/etc/textgate/textgate.toml", former)
    assert refused.status == 1
    # Nobody restarts anything: systemd tries again, and the sockets were there all the time.
    machine.wait_until(["systemctl", "is-active", "-q", "textgated.service"])
    assert log_in(machine, gateway, login=81).status == 0


# --- What runs out ---


def test_full_disk_refuses_and_recovers(machine: Machine, gateway: Gateway) -> None:
    machine.run(["systemctl", "stop", "textgated.service", "textgate-redis.service"])
    owner = machine.run(["stat", "-c", "uid=%u,gid=%g", STATE]).stdout.strip()
    machine.run(f"mount -t tmpfs -o size=2m,mode=700,{owner} tmpfs {STATE}")
    machine.run(RESTART)
    helper(machine, "begin", login=90)
    code = gateway.code("4512345601")
    machine.run(f"head -c 4M /dev/zero >{STATE}/filler", check=False)
    answers = [helper(machine, "check", code, login=90), helper(machine, "begin", login=91)]
    answers.append(helper(machine, "check", code, login=90))
    text_count = len(gateway.texts("4512345601"))
    machine.run(f"rm {STATE}/filler")
    assert [answer.status for answer in answers] == [1, 1, 1]
    machine.wait_until(["systemctl", "is-active", "-q", "textgate-redis.service"])
    machine.wait_until(["textgate", "status"])
    assert log_in(machine, gateway, login=92).status == 0
    assert len(gateway.texts("4512345601")) == text_count + 1
    machine.run(["systemctl", "stop", "textgated.service", "textgate-redis.service"])
    machine.run(["umount", STATE])
    machine.run(RESTART)


def test_reserve_of_room_brings_redis_back_on_a_full_disk(machine: Machine, gateway: Gateway) -> None:
    assert machine.run(["stat", "-c", "%s", f"{STATE}/reserve"]).stdout.strip() == str(32 << 20)
    machine.run(["systemctl", "stop", "textgated.service", "textgate-redis.service"])
    owner = machine.run(["stat", "-c", "uid=%u,gid=%g", STATE]).stdout.strip()
    machine.run(f"mount -t tmpfs -o size=160m,mode=700,{owner} tmpfs {STATE}")
    machine.run(RESTART)
    machine.run(["test", "-e", f"{STATE}/reserve"])
    machine.run(f"head -c 200M /dev/zero >{STATE}/filler", check=False)
    # Redis ends by the first write that is larger than what is left of its file's last block, and comes back in the
    # room that was put by.
    machine.wait_until(f"textgate recovery {ALICE} >/dev/null 2>&1; test ! -e {STATE}/reserve")
    machine.wait_until(["textgate", "status"])
    assert log_in(machine, gateway, login=96).status == 0
    said = machine.run(["textgate", "doctor"], check=False).stdout
    assert "reserve" in said
    machine.run(f"head -c 64M /dev/zero >>{STATE}/filler", check=False)  # on purpose: it takes that room as well
    machine.wait_until(f"textgate recovery {ALICE} >/dev/null 2>&1; textgate doctor | grep -q 'is full'")
    assert helper(machine, "begin", login=97).status == 1
    machine.run(["systemctl", "stop", "textgated.service", "textgate-redis.service"])
    machine.run(["umount", STATE])
    machine.run(RESTART)


def test_read_only_var_refuses_and_recovers(machine: Machine, gateway: Gateway) -> None:
    helper(machine, "begin", login=100)
    code = gateway.code("4512345601")
    machine.run(["systemctl", "stop", "textgated.service", "textgate-redis.service"])
    machine.run("mount --bind /var /mnt && mount -o remount,bind,ro /mnt && mount --bind /mnt /var")
    machine.run(RESTART, check=False)
    answers = [helper(machine, "check", code, login=100), helper(machine, "begin", login=101)]
    machine.run("umount /var /mnt")
    assert [answer.status for answer in answers] == [1, 1]
    wait_until_all_run(machine)
    assert helper(machine, "check", code, login=100).status == 0


def test_no_file_descriptors_refuses_and_recovers(machine: Machine, gateway: Gateway) -> None:
    helper(machine, "begin", login=110)
    code = gateway.code("4512345601")
    pid = main_pid(machine)
    prlimit = ["setpriv", "--reuid=textgate", "--regid=textgate", "--clear-groups", "prlimit", f"--pid={pid}"]
    machine.run([*prlimit, "--nofile=8:"])  # more are open already
    # One question: it waits for ten seconds, and after fifteen the watchdog would end this daemon, too.
    answer = helper(machine, "check", code, login=110)
    machine.run([*prlimit, "--nofile=1024:"])
    assert answer.status == 1
    assert log_in(machine, gateway, login=112).status == 0
    assert main_pid(machine) == pid
