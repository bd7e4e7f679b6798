# SPDX-License-Identifier: MIT
"""Every check of `textgate doctor`, on a healthy machine of files and with one thing wrong in it."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fake_systemd_creds import FakeSystemdCreds
from manual import json_keys
from textgate import doctor
from textgate.cli import main
from textgate.credstore import DROP_IN, PLAIN_FOLDER, Credstore
from textgate.doctor import Machine, examine
from textgate.errors import TextgateError
from textgate.finding import Finding
from textgate.guard_faults import Level
from textgate.pam_admin import PamAdmin
from textgate.pam_stack import END_MARK, FirstFactor
from textgate.pam_state import STATE_DIR
from textgate.plain_files import read_plain
from textgate.policy import Account
from textgate.sshd_config import wanted
from textgate.sudoers import Sudoers
from textgate.way_in import Logins

BLOCK = (Path(__file__).parents[2] / "pam_helper" / "textgate.pam").read_text()
COMMON = (
    "auth [success=1 default=ignore] pam_unix.so nullok\nauth requisite pam_deny.so\nauth required pam_permit.so\n"
)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG alice@home\n"
NOW = 1_700_000_000
CREDENTIALS = ("key", "secret", "token")
STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "store": {"is_up": True, "version": "7.0.15", "is_durable": True, "used_memory_bytes": 1},
    "gateway": {"is_up": True, "reason": "accepted", "credit": "25.00", "currency": "DKK", "clock_skew_s": 0.4},
}

RESTART = "systemctl restart textgated textgate-redis"


class Redis:
    """Answers each line with the next answer."""

    def __init__(self, path: Path) -> None:
        self.answer = b"-NOPERM this user has no permissions to run the 'keys' command\r\n"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rb") as lines:
                if not lines.readline():
                    return
                connection.sendall(self.answer)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waker:
            waker.connect(self._listener.getsockname())
        self._thread.join(20)
        self._listener.close()


class Ward:
    """A healthy machine: sshd, sudo and sudo-i are guarded, alice is an administrator with a phone and a key."""

    def __init__(self, root: Path, redis: Redis) -> None:
        self.root, self.redis = root, redis
        self.status: dict[str, Any] | None = json.loads(json.dumps(STATUS))
        self.effective = {**wanted(FirstFactor.KEY), "logingracetime": "600", "permitrootlogin": "no"}
        self.in_blocks, self.of_blocks = {"x"}, dict[str, str]()
        self.sudo_version = "Sudo version 1.9\nAuthentication timestamp timeout: 0.0 minutes\n"
        self.dry_run_faults: tuple[str, ...] = ()
        self.is_timer_on = True
        self.accounts = {
            "alice": Account("alice", 1000, 1000, frozenset({"alice", "sudo"})),
            "bob": Account("bob", 1001, 1001, frozenset({"bob", "staff"})),
        }
        self.options: dict[str, str] = {}
        for name, text in {
            "etc/pam.d/textgate": BLOCK,
            "usr/share/textgate/textgate.pam": BLOCK,
            "etc/pam.d/common-auth": COMMON,
            "etc/pam.d/sshd": "@include common-auth\n",
            "etc/pam.d/sudo": "@include common-auth\n",
            "etc/pam.d/sudo-i": "@include common-auth\n",
            "etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\n",
            "usr/bin/sudo": "",
            "usr/libexec/textgate/pam-helper": "",
            "usr/libexec/textgate/textgate_pam.py": "",
            "usr/lib/x/security/pam_textgate.so": "",
            "shadow": "alice:$y$x:1::::::\n",
            "passwd": "alice:x:1000:1000::/home/alice:/bin/bash\n",
            "home/.ssh/authorized_keys": KEY,
            "etc/textgate/credentials/gatewayapi-key": "k",
            "etc/textgate/credentials/gatewayapi-secret": "s",
            "etc/textgate/credentials/gatewayapi-token": "t",
            "etc/textgate/credentials/vault-key": "k1:" + "5a" * 32,
            "phones": "alice: +4520123456\n",
        }.items():
            self.write(name, text, mode=0o600 if "/credentials/" in name else 0o644)
        (root / "usr/libexec/textgate/pam-helper").chmod(0o755)
        (root / "phones").chmod(0o640)
        for name, mode in (("auth.sock", 0o600), ("admin.sock", 0o660)):
            self.write(name, "", mode=mode)
        (root / "redis.sock").chmod(0o660)
        self.creds = FakeSystemdCreds()
        self.credstore = Credstore(str(root), run=self.run, pipe=self.creds.pipe)
        self.admin = PamAdmin(str(root), self.run)
        for service, factor in (("sshd", "key"), ("sudo", "password"), ("sudo-i", "password")):
            self.admin.enable(service, FirstFactor(factor), now_at=NOW)

    def write(self, name: str, text: str, *, mode: int = 0o644) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def listens(self, line: str, *, root: str = "/") -> None:
        """An sshd that was started by this line."""
        self.write("proc/77/cmdline", f"sshd: {line} [listener] 0 of 10-100 startups\0")
        (self.root / "proc/77/root").symlink_to(root)

    def run(self, arguments: Sequence[str]) -> tuple[int, str]:
        line = " ".join(arguments)
        if line.startswith("sshd -T") and "UsePAM=no" in line:
            return 0, "".join(f"{key} {value}\n" for key, value in (self.effective | {"usepam": "no"}).items())
        if line.startswith("sshd -T -f"):  # whether a login is in a Match block
            marks = re.findall(r"^AcceptEnv (\S+)", Path(arguments[3]).read_text(), re.MULTILINE)
            is_in = any(f"user={user}," in line for user in self.in_blocks)
            return 0, "".join(f"acceptenv {mark}\n" for mark in marks if is_in)
        if line.startswith("sshd -T") and any(f"user={user}," in line for user in self.in_blocks):
            return 0, "".join(f"{key} {value}\n" for key, value in (self.effective | self.of_blocks).items())
        if line.startswith("sshd -T"):
            return 0, "".join(f"{key} {value}\n" for key, value in self.effective.items())
        if line.startswith("systemctl cat"):
            drop_in = self.root / DROP_IN.lstrip("/")
            return 0, drop_in.read_text() if drop_in.exists() else ""
        if line == "sudo -V":
            return 0, self.sudo_version
        if "is-active" in line and "revert" in line:
            return (0 if self.is_timer_on else 3), ""
        return 0, ""

    def encrypt(self, name: str, *, drop_plain: bool = True) -> None:
        plain = f"{self.root}{PLAIN_FOLDER}/{name}"
        assert self.credstore.encrypt(name, plain)
        if drop_plain:
            self.credstore.drop_plain(name, plain)

    def configure(self) -> Path:
        """The configuration; `options` are lines by section."""
        sections = {
            "limits": 'allowed_countries = ["DK"]',
            "gateway": "\n".join(
                f'{name}_file = "{self.root}{PLAIN_FOLDER}/gatewayapi-{name}"' for name in CREDENTIALS
            ),
            "phones": f'file = "{self.root}/phones"',
            "store": f'url = "unix://{self.root}/redis.sock"',
            "vault": f'key_file = "{self.root}{PLAIN_FOLDER}/vault-key"',
            "daemon": f'auth_socket = "{self.root}/auth.sock"\nadmin_socket = "{self.root}/admin.sock"',
        }
        for section, line in self.options.items():
            sections[section] = f"{sections.get(section, '')}\n{line}"
        text = "".join(f"[{section}]\n{lines}\n" for section, lines in sections.items())
        return self.write("etc/textgate/textgate.toml", text)

    def machine(self) -> Machine:
        uids = frozenset({os.getuid()})
        machine = Machine(
            str(self.configure()),
            pam=self.admin,
            run=self.run,
            logins=Logins(
                f"{self.root}/shadow",
                f"{self.root}/passwd",
                Sudoers((f"{self.root}/sudoers",)),
                lambda _user, path, most_bytes: read_plain(path, most_bytes),  # nobody here is called alice
            ),
            lookup=self.accounts.get,
            try_lines=lambda _rules: self.dry_run_faults,
            credstore=self.credstore,
            root=str(self.root),
            trusted_uids=uids,
        )
        machine.__dict__["status"] = self.status
        return machine

    def findings(self) -> list[Finding]:
        return examine(self.machine())

    def worst(self, check: str) -> Finding:
        """The worst finding of a check; there must be one."""
        return max((one for one in self.findings() if one.check == check), key=lambda one: one.level)


@pytest.fixture
def ward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ward]:
    monkeypatch.setattr(Path, "expanduser", lambda self: tmp_path / "home" if str(self) == "~alice" else self)
    redis = Redis(tmp_path / "redis.sock")
    yield Ward(tmp_path, redis)
    redis.close()


def test_healthy_machine_has_no_complaint(ward: Ward) -> None:
    findings = ward.findings()
    assert {one.level for one in findings} == {Level.OK}, [one for one in findings if one.level is not Level.OK]
    assert {one.check for one in findings} == {
        "config", "credentials", "files", "socket", "daemon", "redis", "gateway", "credit", "clock", "phones",
        "block", "pam", "doors", "sshd", "sudo",
    }  # fmt: skip


def _set(ward: Ward, **changes: Any) -> None:
    """Changes to the daemon's status: store_is_up=False, gateway_credit="0"."""
    assert ward.status is not None
    for name, value in changes.items():
        part, _, key = name.partition("_")
        ward.status[part][key] = value


def _replace(ward: Ward, name: str, old: str, new: str) -> None:
    path = ward.root / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def _tried(ward: Ward) -> None:
    ward.admin.disable("sudo")
    ward.admin.enable("sudo", FirstFactor.PASSWORD, now_at=NOW, confirm_by=NOW + 60)


def _untimed(ward: Ward) -> None:
    _tried(ward)
    ward.is_timer_on = False


def _above(ward: Ward, line: str) -> None:
    _replace(ward, "etc/pam.d/sudo", "@include common-auth", f"{line}\n@include common-auth")


def _half(ward: Ward) -> None:
    (ward.root / "etc/ssh/sshd_config.d/00-textgate.conf").unlink()


def _damaged(ward: Ward) -> None:
    (ward.root / STATE_DIR.lstrip("/") / "sudo.json").write_text("{")


def _two_people(ward: Ward) -> None:
    ward.write("passwd", "alice:x:1000:1000::/:/bin/bash\nbob:x:1001:1001::/:/bin/bash\n")


def _staff_required(ward: Ward) -> None:
    _two_people(ward)
    ward.options["required"] = 'groups = ["staff"]'


def _token_gone(ward: Ward) -> None:
    (ward.root / "etc/textgate/credentials/gatewayapi-token").unlink()
    ward.options["gateway"] = 'auth = "token"'


def _cloned(ward: Ward) -> None:
    ward.encrypt("vault-key")
    ward.creds.machine = "a clone"


def _not_loaded(ward: Ward) -> None:
    ward.encrypt("vault-key")
    (ward.root / DROP_IN.lstrip("/")).unlink()


def _nobody_can(ward: Ward) -> None:
    (ward.root / "home/.ssh/authorized_keys").unlink()


def _endless_keys(ward: Ward) -> None:
    _nobody_can(ward)
    (ward.root / "home/.ssh/authorized_keys").symlink_to("/dev/zero")


def _waiting_keys(ward: Ward) -> None:
    _nobody_can(ward)
    os.mkfifo(ward.root / "home/.ssh/authorized_keys")


# What is done to the machine, the check that must notice, how bad it is, and what is said and advised.
Change = Callable[[Ward], object]
FAULTS: dict[str, tuple[Change, str, Level, str, str]] = {
    "config, unknown key": (lambda w: w.options.update(codes="digts = 6"), "config", Level.FAILURE, "digts", "edit"),
    "config, open to be written": (
        lambda w: w.write("etc/textgate/other", "").parent.chmod(0o777),
        "config", Level.FAILURE, "can be written by others", "chmod go-w",
    ),
    "config, fails open": (
        lambda w: w.options.update(failmode='gateway = "safe"\nsafe_services = ["sshd"]'),
        "config", Level.WARNING, "let in without a code", "secure",
    ),
    "config, fails open where the attacker has a shell": (
        lambda w: w.options.update(failmode='gateway = "safe"\nsafe_local_services = ["sudo"]'),
        "config", Level.WARNING, "bring that about in sudo", "secure",
    ),
    "config, was to fail open in an earlier version": (
        lambda w: w.options.update(failmode='gateway = "safe"\nsafe_services = ["sudo"]'),
        "config", Level.WARNING, "so it stays secure there; name it in safe_local_services", "edit",
    ),
    "credential missing": (
        lambda w: (w.root / "etc/textgate/credentials/gatewayapi-secret").unlink(),
        "credentials", Level.FAILURE, "gatewayapi-secret is missing", "textgate setup",
    ),
    "credential of the other way": (
        _token_gone,
        "credentials", Level.FAILURE, "gatewayapi-token is missing", "textgate setup",
    ),
    "vault key missing": (
        lambda w: (w.root / "etc/textgate/credentials/vault-key").unlink(),
        "credentials", Level.FAILURE, "vault-key is missing", "textgate keys init",
    ),
    "credential open": (
        lambda w: (w.root / "etc/textgate/credentials/gatewayapi-key").chmod(0o640),
        "credentials", Level.FAILURE, "is open to others", "chmod 0600",
    ),
    "credential in both forms": (
        lambda w: w.encrypt("vault-key", drop_plain=False),
        "credentials", Level.WARNING, "in plain text too", "textgate credentials encrypt",
    ),
    "encrypted credential of another machine": (
        _cloned,
        "credentials", Level.FAILURE, "does not open on this machine", "textgate setup",
    ),
    "encrypted credential that nobody loads": (
        _not_loaded,
        "credentials", Level.FAILURE, "is not what textgated.service loads", "systemctl cat",
    ),
    "helper missing": (
        lambda w: (w.root / "usr/libexec/textgate/textgate_pam.py").unlink(),
        "files", Level.FAILURE, "textgate_pam.py is missing", "--reinstall",
    ),
    "module missing": (
        lambda w: (w.root / "usr/lib/x/security/pam_textgate.so").unlink(),
        "files", Level.FAILURE, "pam_textgate.so is missing", "--reinstall",
    ),
    "helper that can't be run": (
        lambda w: (w.root / "usr/libexec/textgate/pam-helper").chmod(0o644),
        "files", Level.FAILURE, "can't be run", "chmod 0755",
    ),
    "lines that others can write": (
        lambda w: (w.root / "etc/pam.d/textgate").chmod(0o666),
        "files", Level.FAILURE, "can be written by others", "chmod go-w /etc/pam.d/textgate",
    ),
    "folder that others can write": (
        lambda w: (w.root / "usr/libexec/textgate").chmod(0o777),
        "files", Level.FAILURE, "/usr/libexec/textgate can be written", "chmod go-w",
    ),
    "socket missing": (
        lambda w: (w.root / "auth.sock").unlink(), "socket", Level.FAILURE, "is missing", "systemctl enable --now",
    ),
    "socket open": (
        lambda w: (w.root / "auth.sock").chmod(0o666), "socket", Level.FAILURE, "open to others (0666)", "chmod 0600",
    ),
    "daemon away": (
        lambda w: setattr(w, "status", None),
        "daemon", Level.FAILURE, "does not answer", "systemctl restart textgated",
    ),
    "redis away": (
        lambda w: _set(w, store_is_up=False, store_error="no connection"),
        "redis", Level.FAILURE, "no connection", RESTART,
    ),
    "redis forgets": (
        lambda w: _set(w, store_is_durable=False), "redis", Level.WARNING, "write each change", "appendfsync always",
    ),
    "redis went back": (
        lambda w: _set(w, store_noticed="older", store_noticed_at=int(time.time()) - 60),
        "redis", Level.WARNING, "older than what textgated had seen", "textgate recovery USER",
    ),
    "redis lets do anything": (
        lambda w: setattr(w.redis, "answer", b"*0\r\n"), "redis", Level.WARNING, "any command", RESTART,
    ),
    "redis open": (
        lambda w: (w.root / "redis.sock").chmod(0o666), "redis", Level.FAILURE, "open to others", "chmod 0660",
    ),
    "gateway away": (
        lambda w: _set(w, gateway_is_up=False, gateway_reason="unreachable"),
        "gateway", Level.FAILURE, "unreachable", "textgate send-test",
    ),
    "gateway refuses us": (
        lambda w: _set(w, gateway_is_up=False, gateway_reason="credentials"),
        "gateway", Level.FAILURE, "credentials", "textgate setup",
    ),
    "credit low": (lambda w: _set(w, gateway_credit="4.99"), "credit", Level.WARNING, "only 4.99 DKK", "top up"),
    "credit gone": (lambda w: _set(w, gateway_credit="0.00"), "credit", Level.FAILURE, "only 0.00 DKK", "top up"),
    "clock ahead": (
        lambda w: _set(w, gateway_clock_skew_s=90.0), "clock", Level.FAILURE, "90 s ahead of", "timedatectl",
    ),
    "clock behind": (
        lambda w: _set(w, gateway_clock_skew_s=-61.0), "clock", Level.FAILURE, "61 s behind", "timedatectl",
    ),
    "phone mistyped": (
        lambda w: w.write("phones", "alice: +4520123456\nbob 12\n", mode=0o640),
        "phones", Level.FAILURE, "line 2", "edit",
    ),
    "phone of a stranger": (
        lambda w: w.write("phones", "alice: +4520123456\ngone: +4520123457\n", mode=0o640),
        "phones", Level.WARNING, "gone", "edit",
    ),
    "no administrator": (
        lambda w: w.write("phones", "bob: +4520123457\n", mode=0o640),
        "phones", Level.FAILURE, "nobody who can become root", "textgate enrol",
    ),
    "phone in another country": (
        lambda w: w.write("phones", "alice: +46701234567\n", mode=0o640),
        "phones", Level.FAILURE, "may not be texted: alice", "allowed_countries",
    ),
    "administrator's phone in another country": (
        lambda w: w.write("phones", "alice: +46701234567\n", mode=0o640),
        "phones", Level.FAILURE, "nobody who can become root", "textgate enrol",
    ),
    "every administrator refused": (
        lambda w: w.options.update(refused='groups = ["sudo"]'),
        "phones", Level.FAILURE, "refuses every administrator with a phone: alice", "edit [refused]",
    ),
    "administrator refused, in ssh": (
        lambda w: w.options.update(refused='users = ["alice"]'),
        "sshd", Level.FAILURE, "alice: is refused by textgate itself", "textgate enrol",
    ),
    "sshd keeps every administrator out": (
        lambda w: w.effective.update(allowgroups="ssh-users"),
        "sshd", Level.FAILURE, "alice: sshd keeps him out (AllowGroups)", "textgate enrol",
    ),
    "phones gone": (lambda w: (w.root / "phones").unlink(), "phones", Level.FAILURE, "phones", ""),
    "required, no phone": (
        lambda w: w.options.update(required='users = ["bob"]'),
        "phones", Level.FAILURE, "have no phone: bob", "textgate enrol bob",
    ),
    "required by group, no phone": (
        _staff_required,
        "phones", Level.FAILURE, "have no phone: bob", "textgate enrol bob",
    ),
    "person without a phone": (_two_people, "phones", Level.WARNING, "refused where a code", "textgate enrol bob"),
    "sufficient above": (
        lambda w: _above(w, "auth sufficient pam_x.so"),
        "pam", Level.FAILURE, "sudo: /etc/pam.d/sudo:1 lets in without a code", "edit /etc/pam.d/sudo",
    ),
    "nobody gets in": (
        lambda w: _above(w, "auth requisite pam_deny.so"),
        "pam", Level.FAILURE, "not even with a right code", "textgate pam disable sudo",
    ),
    "codes after a wrong password": (
        lambda w: w.write("etc/pam.d/login", "auth required pam_unix.so\n@include textgate\n"),
        "pam", Level.FAILURE, "login: texts and asks for codes after a wrong password", "`requisite`, or `include`",
    ),
    "two codes": (
        lambda w: w.write("etc/pam.d/common-auth", COMMON + "auth include textgate\n"),
        "pam", Level.FAILURE, "more than one code", "textgate pam disable",
    ),
    "environment of users": (
        lambda w: _above(w, "auth required pam_env.so user_readenv=1"),
        "pam", Level.FAILURE, "users' own environment", "take user_readenv out",
    ),
    "faillock behind": (
        lambda w: _replace(w, "etc/pam.d/sudo", END_MARK, f"{END_MARK}\nauth required pam_faillock.so authfail"),
        "pam", Level.WARNING, "as a wrong password", "above textgate's lines",
    ),
    "helper as whoever calls": (
        lambda w: w.write("etc/pam.d/textgate", BLOCK.replace(" seteuid", "", 1)),
        "pam", Level.FAILURE, "sudo: /etc/pam.d/textgate:", "put seteuid back",
    ),
    "empty password": (
        lambda w: w.write("shadow", "alice:$y$x:1::::::\nguest::1::::::\n"),
        "pam", Level.FAILURE, "an empty password, so a code alone lets them in: guest", "passwd --lock guest",
    ),
    "try pending": (_tried, "pam", Level.WARNING, "being tried", "textgate pam confirm sudo"),
    "try without a timer": (_untimed, "pam", Level.FAILURE, "no timer", "textgate pam disable sudo"),
    "broken off": (_half, "pam", Level.FAILURE, "broken off", "textgate pam disable sshd"),
    "lines lost": (
        lambda w: w.write("etc/pam.d/sudo", "@include common-auth\n# new\n"),
        "pam", Level.FAILURE, "asks for no code any more", "textgate pam disable sudo",
    ),
    "state damaged": (_damaged, "pam", Level.FAILURE, "is damaged", "textgate pam disable sudo"),
    "dry run fails": (
        lambda w: setattr(w, "dry_run_faults", ("a right code is refused",)),
        "pam", Level.FAILURE, "a right code is refused", "--reinstall",
    ),
    "sshd takes passwords": (
        lambda w: w.effective.update(passwordauthentication="yes"),
        "sshd", Level.FAILURE, "passwordauthentication is `yes`", "systemctl reload ssh",
    ),
    "sshd asks for a key alone": (
        lambda w: w.effective.update(authenticationmethods="publickey"),
        "sshd", Level.FAILURE, "authenticationmethods", "systemctl reload ssh",
    ),
    "match block": (
        lambda w: w.write("etc/ssh/sshd_config.d/zz.conf", "Match User x\nAuthenticationMethods publickey\n"),
        "sshd", Level.WARNING, "zz.conf:2", "take that line out",
    ),
    "grace too short": (
        lambda w: w.effective.update(logingracetime="120"),
        "sshd", Level.WARNING, "LoginGraceTime 120", "LoginGraceTime 330",
    ),
    "block that sshd reads otherwise than we": (
        lambda w: (
            w.of_blocks.update(passwordauthentication="yes"),
            w.write("etc/ssh/sshd_config.d/zz.conf", "Match User x\nPasswordAuthentication no\n"),
        ),
        "sshd", Level.WARNING, "zz.conf:1: passwordauthentication is `yes`", "take that line out",
    ),
    "block of another PAM service": (
        lambda w: (
            w.of_blocks.update(pamservicename="ssh2"),
            w.write("etc/ssh/sshd_config.d/zz.conf", "Match User x\nPAMServiceName ssh2\n"),
        ),
        "sshd", Level.WARNING, "zz.conf:1: its PAM service is ssh2", "take that line out",
    ),
    "block that nobody is found in": (
        lambda w: w.write("etc/ssh/sshd_config.d/zz.conf", "Match Group y\nInclude x.conf\n"),
        "sshd", Level.WARNING, "no login was found that is in Match Group y", "write that line plainly",
    ),
    "other PAM service of sshd": (
        lambda w: w.effective.update(pamservicename="ssh2"),
        "sshd", Level.FAILURE, "its PAM service is ssh2", "systemctl reload ssh",
    ),
    "sshd beside the first one": (
        lambda w: w.listens("/usr/sbin/sshd -D -p 2222 -f /etc/ssh/other -o UsePAM=no"),
        "sshd", Level.WARNING, "by sshd -D -p 2222 -f /etc/ssh/other -o UsePAM=no: usepam is `no`", "stop it",
    ),
    "keys that never end": (_endless_keys, "sshd", Level.FAILURE, "keys: is no plain file", "textgate enrol"),
    "keys that never begin": (_waiting_keys, "sshd", Level.FAILURE, "keys: is no plain file", "textgate enrol"),
    "no administrator with a key": (_nobody_can, "sshd", Level.FAILURE, "alice: has no ssh key", "textgate enrol"),
    "sudo -i forgotten": (
        lambda w: w.admin.disable("sudo-i"),
        "doors", Level.FAILURE, "sudo-i gives root for a password alone", "textgate pam try sudo-i",
    ),
    "sudo asks nothing": (
        lambda w: w.write("sudoers", "x ALL=(ALL) NOPASSWD: ALL\n"), "sudo", Level.WARNING, "sudoers:1", "visudo -f",
    ),
    "sudo asks a service without a code": (
        lambda w: w.write("sudoers", "Defaults pam_service=open\n"),
        "sudo", Level.FAILURE, "sudoers:1 has sudo ask the PAM service open", "visudo -f",
    ),
    "sudo remembers alice for ever": (
        lambda w: w.write("sudoers", "Defaults:alice timestamp_timeout=-1\n"),
        "sudo", Level.WARNING, "sudoers:1 asks nothing again", "visudo -f",
    ),
    "sudo remembers for ever": (
        lambda w: setattr(w, "sudo_version", "Authentication timestamp timeout: -1.0 minutes\n"),
        "sudo", Level.WARNING, "for ever", "timestamp_timeout=0",
    ),
    "sudo says nothing": (
        lambda w: setattr(w, "sudo_version", ""), "sudo", Level.WARNING, "can't be found out", "sudo -V",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(FAULTS))
def test_fault_is_found_with_its_remedy_and_nothing_else_gets_worse(ward: Ward, name: str) -> None:
    change, check, level, words, remedy = FAULTS[name]
    change(ward)
    found = ward.worst(check)
    assert found.level is level
    said = [one for one in ward.findings() if one.check == check and one.level is level]
    assert any(words in one.message and remedy in (one.remedy or "") for one in said), said
    assert "5a5a" not in str(said)


def test_sshd_as_the_unit_starts_it_and_one_of_a_container_are_no_fault(ward: Ward) -> None:
    ward.listens("/usr/sbin/sshd -D")
    assert ward.worst("sshd").level is Level.OK
    (ward.root / "proc/77/root").unlink()
    ward.listens("/usr/sbin/sshd -D -o UsePAM=no", root="/proc")
    assert ward.worst("sshd").level is Level.OK


def test_faillock_above_the_lines_is_no_fault(ward: Ward) -> None:
    _above(ward, "auth [success=ignore default=ignore] pam_faillock.so authfail")
    found = [one for one in ward.findings() if "pam_faillock" in one.message]
    assert [one.level for one in found] == [Level.OK]


def test_usual_span_of_sudo_is_told_and_no_fault(ward: Ward) -> None:
    ward.sudo_version = "Authentication timestamp timeout: 15.0 minutes\n"
    assert ward.worst("sudo") == Finding(
        "sudo", Level.OK, "asks nothing again for 15 minutes after a code", "visudo: Defaults timestamp_timeout=0"
    )


def test_gateway_that_cannot_be_asked_is_no_fault(ward: Ward) -> None:
    _set(ward, gateway_is_up=None, gateway_reason="unsupported", gateway_credit=None, gateway_clock_skew_s=None)
    findings = ward.findings()
    assert max(one.level for one in findings) is Level.OK
    assert not {"credit", "clock"} & {one.check for one in findings}


def test_encrypted_credential_is_one(ward: Ward) -> None:
    ward.encrypt("vault-key")
    assert ward.worst("credentials").level is Level.OK
    assert "is kept encrypted" in "".join(one.message for one in ward.findings() if one.check == "credentials")


def test_exempt_people_need_no_phone(ward: Ward) -> None:
    _two_people(ward)
    ward.options["exempt"] = 'users = ["bob"]'
    assert ward.worst("phones").level is Level.OK


def test_phones_file_is_not_missed_where_numbers_come_from_elsewhere(ward: Ward) -> None:
    (ward.root / "phones").unlink()
    ward.options["phones"] = 'sources = ["gecos"]'
    ward.accounts["alice"] = replace(ward.accounts["alice"], gecos="Alice,,,+45 20 12 34 56")
    assert [one for one in ward.findings() if one.level is not Level.OK] == []


def test_redis_with_a_password_or_elsewhere_is_not_tried(ward: Ward) -> None:
    ward.redis.answer = b"-NOAUTH Authentication required.\r\n"
    assert ward.worst("redis").level is Level.OK
    ward.options["store"] = ""
    assert ward.worst("redis").level is Level.OK


def test_nothing_guarded_is_a_warning_and_asks_nothing_of_sshd_and_sudo(ward: Ward) -> None:
    for service in ("sshd", "sudo", "sudo-i"):
        ward.admin.disable(service)
    findings = ward.findings()
    assert ward.worst("pam") == Finding("pam", Level.WARNING, "no service asks for a code", "textgate pam try sshd")
    assert not {"sshd", "sudo"} & {one.check for one in findings}


def test_daemon_that_is_away_is_told_once(ward: Ward) -> None:
    ward.status = None
    findings = ward.findings()
    assert [one.check for one in findings if one.level is not Level.OK] == ["daemon"]


def test_doors_that_may_be_left_open_are_no_finding_of_a_broken_configuration(ward: Ward) -> None:
    """left_open can't be read then. What gives root is told all the same."""
    for name in ("login", "su"):
        ward.write(f"etc/pam.d/{name}", "@include common-auth\n")
        ward.write(f"usr/bin/{name}", "")
    assert ward.worst("doors").level is Level.WARNING
    ward.options["codes"] = "digts = 6"
    assert [one for one in ward.findings() if one.check == "doors" and one.level is not Level.OK] == []
    ward.admin.disable("sudo-i")
    assert ward.worst("doors").level is Level.FAILURE


def test_broken_configuration_is_told_once(ward: Ward) -> None:
    ward.options["codes"] = "digits = 99"
    findings = ward.findings()
    assert [one.check for one in findings if one.level is Level.FAILURE] == ["config"]
    assert "pam" in {one.check for one in findings}  # which needs none


def test_check_that_breaks_does_not_hide_the_others(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_machine: Machine) -> Iterator[Finding]:
        raise RuntimeError("secret text")
        yield

    def refused(_machine: Machine) -> Iterator[Finding]:
        yield Finding("b", Level.OK, "before")
        raise TextgateError("broke", hint="mend")

    monkeypatch.setattr(doctor, "CHECKS", (("a", broken), ("b", refused), ("c", doctor._config)))
    assert ward.findings()[:3] == [
        Finding("a", Level.FAILURE, "the check itself failed: RuntimeError"),
        Finding("b", Level.OK, "before"),
        Finding("b", Level.FAILURE, "broke", "mend"),
    ]
    assert ward.findings()[3].check == "config"


@pytest.mark.parametrize(
    ("levels", "status"), [((Level.OK,), 0), ((Level.OK, Level.WARNING), 6), ((Level.WARNING, Level.FAILURE), 1)]
)
def test_exit_status_and_json_tell_the_worst(
    monkeypatch: pytest.MonkeyPatch, levels: tuple[Level, ...], status: int
) -> None:
    findings = [Finding("x", level, f"it is {level.name}", "mend it") for level in levels]
    monkeypatch.setattr(doctor, "examine", lambda machine: findings)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    shown = CliRunner().invoke(main, ["doctor"])
    assert shown.exit_code == status
    assert shown.output.count("-> mend it") == len([level for level in levels if level is not Level.OK])
    told = CliRunner().invoke(main, ["doctor", "--json"])
    assert told.exit_code == status
    report = json.loads(told.output)
    assert json_keys("doctor") == ("worst", "ok", "warning", "failure", "findings", *report["findings"][0])
    assert report["worst"] == levels[-1].name.lower()
    assert [row["level"] for row in report["findings"]] == [level.name.lower() for level in levels]


def test_doctor_is_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """To anybody else it would tell of a daemon that does not answer, and of keys that are missing."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    told = CliRunner().invoke(main, ["doctor", "--json"])
    assert told.exit_code == 1
    assert json.loads(told.output)["error"]["hint"] == "run it with sudo"
