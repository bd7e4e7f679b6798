# SPDX-License-Identifier: MIT
"""`textgate doctor`: every check, its finding, and the one command that mends it.

`CHECKS` lists them in the order in which they are shown. A check looks at the machine through `Machine`, changes
nothing, and yields findings; one that breaks is itself a finding, so that the rest is still seen.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from . import admin_client, doctor_block, redis_room, wiring
from .accounts import NssAccounts
from .administrators import Holder, enrolled_admins, phone_holders
from .config import Config, StoreConfig
from .credstore import VAULT_KEY, Credstore
from .directory import PhoneTable, read_phones
from .doctor_changes import check_changes
from .doctor_doors import door_findings, wishes_of
from .doctor_failmode import failmode_findings
from .doctor_polkit import check_polkit
from .doctor_sshd import check_sshd
from .doctor_sudo import check_sudo
from .door_survey import survey
from .errors import ConfigError, CredentialError, DaemonUnavailable, TextgateError
from .finding import Finding
from .guard_faults import Level, counts_wrong_passwords, failures, names
from .guard_health import guarded_services, health
from .pam_admin import PamAdmin
from .pam_dry_run import dry_run
from .pam_files import REINSTALL
from .pam_removal import PamRemoval
from .pam_stack import Rule, is_ours
from .policy import Account
from .programs import run_program
from .store_words import history_findings
from .way_in import Logins, is_refused

CLOCK_SKEW_WARN_S = 60.0  # the gateway refuses signatures that are some minutes off
CREDIT_LOW = 5
REDIS_REMEDY = "systemctl restart textgated textgate-redis"  # in this order no login is lost
REDIS_TIMEOUT_S = 2.0

# What the package installs for PAM; whoever can write them can let himself in.
PAM_PARTS = ("/etc/pam.d/textgate", "/usr/libexec/textgate/pam-helper", "/usr/libexec/textgate/textgate_pam.py")
MODULE_GLOB = "/usr/lib/*/security/pam_textgate.so"


@dataclass(frozen=True)
class Machine:
    """What the checks look at. root: / but for tests."""

    config_path: str
    pam: PamAdmin = field(default_factory=PamAdmin)
    run: Callable[[Sequence[str]], tuple[int, str]] = run_program
    logins: Logins = field(default_factory=Logins)
    lookup: Callable[[str], Account | None] = field(default_factory=lambda: NssAccounts().lookup)
    try_lines: Callable[[Sequence[Rule] | None], tuple[str, ...]] = dry_run
    credstore: Credstore = field(default_factory=Credstore)
    root: str = "/"
    trusted_uids: frozenset[int] = frozenset({0})

    @cached_property
    def config(self) -> Config:
        """The configuration. Raises ConfigError."""
        return wiring.load_config(self.config_path)

    @cached_property
    def status(self) -> dict[str, Any] | None:
        """The daemon's own word; None where it is away, which the check of the daemon tells."""
        try:
            return admin_client.call(self.config.daemon.admin_socket, "status", fresh=True)
        except DaemonUnavailable:
            return None

    @cached_property
    def phones(self) -> PhoneTable:
        """The phones file, if it is one of the sources. Raises DirectoryError."""
        if "file" not in self.config.phones.sources:
            return PhoneTable()
        return read_phones(self.config.phones.file, self.config.phones.default_region)

    @cached_property
    def holders(self) -> dict[str, Holder]:
        """The users with a phone whom this machine knows. Raises DirectoryError, or AccountsError."""
        return phone_holders(self.config, logins=self.logins, lookup=self.lookup)

    @cached_property
    def unreachable(self) -> list[str]:
        """The users to whose country no text may go."""
        return [user for user, one in self.holders.items() if not self.config.limits.allows(one.phone.country)]

    @cached_property
    def admins(self) -> list[Account]:
        """The administrators to whose phone a code may be texted."""
        return enrolled_admins(self.config, self.holders)

    @cached_property
    def guarded(self) -> list[str]:
        """Services that ask for a code."""
        return self.pam.services()

    def at(self, path: str) -> Path:
        """A file of the machine."""
        return Path(self.root, path.lstrip("/"))


Check = Callable[[Machine], Iterator[Finding]]


def examine(machine: Machine) -> list[Finding]:
    """All findings, in the order of CHECKS."""
    found: list[Finding] = []
    for name, check in CHECKS:
        try:
            found.extend(check(machine))
        except ConfigError as error:
            if name == "config":  # the others would only say it again
                found.extend(Finding(name, Level.FAILURE, fault, f"edit {error.path}") for fault in error.faults)
        except TextgateError as error:
            found.append(Finding(name, Level.FAILURE, error.message, error.hint))
        except Exception as error:  # a check must not hide the others
            found.append(Finding(name, Level.FAILURE, f"the check itself failed: {type(error).__name__}"))
    return found


# --- Configuration and files ---


def _config(machine: Machine) -> Iterator[Finding]:
    config = machine.config
    yield Finding("config", Level.OK, f"{config.path} can be used")
    yield from _writable_by_others("config", machine, [config.path])
    yield from failmode_findings(config)


def _credentials(machine: Machine) -> Iterator[Finding]:
    credstore = machine.credstore
    for name, path in wiring.credential_files(machine.config).items():
        plain = Path(path)
        if credstore.keeps(name, path):
            yield _encrypted_credential(machine, name)
            if plain.exists():
                told = f"{path} is there encrypted, and in plain text too"
                yield Finding("credentials", Level.WARNING, told, "textgate credentials encrypt")
        elif not plain.exists():
            remedy = "textgate keys init" if name == VAULT_KEY else "textgate setup"
            yield Finding("credentials", Level.FAILURE, f"{path} is missing", remedy)
        elif plain.stat().st_mode & 0o077:
            yield Finding("credentials", Level.FAILURE, f"{path} is open to others", f"chmod 0600 {path}")
        else:
            yield Finding("credentials", Level.OK, f"{path} is closed to others")


def _encrypted_credential(machine: Machine, name: str) -> Finding:
    path = machine.credstore.path(name)
    try:
        machine.credstore.read(name)
    except CredentialError as error:
        remedy = f"textgate setup, or put a plain file in the place of {path}"
        return Finding("credentials", Level.FAILURE, error.message, remedy)
    if not machine.credstore.is_loaded(name):
        told = f"{path} is not what textgated.service loads"
        return Finding("credentials", Level.FAILURE, told, "systemctl cat textgated.service")
    return Finding("credentials", Level.OK, f"{name} is kept encrypted, and opens on this machine")


def _files(machine: Machine) -> Iterator[Finding]:
    modules = [f"/{path.relative_to(machine.root)}" for path in Path(machine.root).glob(MODULE_GLOB.lstrip("/"))]
    reinstall = "apt install --reinstall textgate"
    for path in PAM_PARTS:
        if not machine.at(path).exists():
            yield Finding("files", Level.FAILURE, f"{path} is missing", reinstall)
    if not modules:
        yield Finding("files", Level.FAILURE, f"{MODULE_GLOB} is missing", reinstall)
    if not os.access(machine.at(PAM_PARTS[1]), os.X_OK):
        yield Finding("files", Level.FAILURE, f"{PAM_PARTS[1]} can't be run", f"chmod 0755 {PAM_PARTS[1]}")
    faults = list(_writable_by_others("files", machine, [*PAM_PARTS, *modules]))
    yield from faults
    if not faults:
        yield Finding("files", Level.OK, "what PAM runs is root's alone to write")


def _writable_by_others(check: str, machine: Machine, paths: Sequence[str]) -> Iterator[Finding]:
    """Files, or the folders that they are in, that others than root can change."""
    for path in paths:
        for name in (path, str(Path(path).parent)):
            real = Path(name) if name.startswith(machine.root) else machine.at(name)
            with contextlib.suppress(FileNotFoundError):
                status = real.stat()
                if status.st_uid not in machine.trusted_uids:
                    yield Finding(check, Level.FAILURE, f"{name} does not belong to root", f"chown root: {name}")
                elif status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
                    yield Finding(check, Level.FAILURE, f"{name} can be written by others", f"chmod go-w {name}")


# --- Daemon, Redis, gateway ---


def _daemon(machine: Machine) -> Iterator[Finding]:
    daemon = machine.config.daemon
    for path, widest in ((daemon.auth_socket, 0o600), (daemon.admin_socket, 0o660)):
        try:
            status = Path(path).stat()
        except FileNotFoundError:
            remedy = "systemctl enable --now textgated.socket textgated-admin.socket"
            yield Finding("socket", Level.FAILURE, f"{path} is missing", remedy)
            continue
        mode = stat.S_IMODE(status.st_mode)
        if mode & ~widest:
            message = f"{path} is open to others ({mode:04o})"
            yield Finding("socket", Level.FAILURE, message, f"chmod {widest:04o} {path}")
        else:
            yield Finding("socket", Level.OK, f"{path} is there")
    if machine.status is None:
        yield Finding(
            "daemon", Level.FAILURE, "textgated does not answer: codes are neither texted nor checked",
            "systemctl restart textgated; journalctl -u textgated",
        )  # fmt: skip
    else:
        yield Finding("daemon", Level.OK, f"textgated {machine.status['version']} answers")


def _redis(machine: Machine) -> Iterator[Finding]:
    if machine.status is None:
        return
    store = machine.status["store"]
    if not store["is_up"]:
        yield Finding("redis", Level.FAILURE, f"can't be used: {store['error']}", REDIS_REMEDY)
        return
    yield Finding("redis", Level.OK, f"{store['version']} answers")
    yield from history_findings(store, time.time())
    if store["is_durable"]:
        yield Finding("redis", Level.OK, "writes each change to the disk")
    else:
        yield Finding(
            "redis", Level.WARNING, "does not write each change down: a crash can bring used codes back",
            "set `appendonly yes` and `appendfsync always` in its configuration",
        )  # fmt: skip
    yield from _redis_rights(machine)
    room = redis_room.look(machine.at(redis_room.DATA)) if machine.config.store.url == StoreConfig().url else None
    if room is not None:
        yield from redis_room.findings(room, is_safe=machine.config.failmode.store == "safe")


def _redis_rights(machine: Machine) -> Iterator[Finding]:
    """Whether whoever reaches its socket may do more than textgate does, and who reaches it."""
    url = machine.config.store.url
    if not url.startswith("unix://"):
        return
    path = "/" + url.removeprefix("unix://").partition("?")[0].rpartition("@")[2].lstrip("/")
    mode = stat.S_IMODE(Path(path).stat().st_mode)
    if mode & 0o007:
        yield Finding("redis", Level.FAILURE, f"{path} is open to others ({mode:04o})", f"chmod 0660 {path}")
    answer = _ask_redis(path, "KEYS textgate-doctor:*")
    if answer.startswith("-NOPERM"):
        yield Finding("redis", Level.OK, "allows the commands that textgate uses and no others")
    elif not answer.startswith("-NOAUTH"):
        yield Finding("redis", Level.WARNING, "allows whoever reaches its socket any command", REDIS_REMEDY)


def _ask_redis(path: str, line: str) -> str:
    """The first line of the answer to one command, as Redis writes it; "" where there is none."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(REDIS_TIMEOUT_S)
        connection.connect(path)
        connection.sendall(f"{line}\r\n".encode())
        with connection.makefile("rb") as lines:
            return lines.readline(200).decode(errors="replace").strip()
    return ""


def _gateway(machine: Machine) -> Iterator[Finding]:
    if machine.status is None:
        return
    gateway = machine.status["gateway"]
    if gateway["is_up"] is None:
        yield Finding("gateway", Level.OK, "its credit is not known; `textgate send-test` proves that it works")
    elif not gateway["is_up"]:
        remedy = {"credentials": "textgate setup", "clock": "timedatectl set-ntp true"}
        yield Finding(
            "gateway", Level.FAILURE, f"can't be used: {gateway['reason']}",
            remedy.get(gateway["reason"], "textgate send-test"),
        )  # fmt: skip
    else:
        yield Finding("gateway", Level.OK, "answers, and takes our credentials")
        yield _credit(gateway)
    skew_s = gateway["clock_skew_s"]
    if skew_s is None:
        return
    if abs(skew_s) > CLOCK_SKEW_WARN_S:
        direction = "ahead of" if skew_s > 0 else "behind"
        message = f"ours is {abs(skew_s):.0f} s {direction} the gateway's"
        yield Finding("clock", Level.FAILURE, message, "timedatectl set-ntp true")
    else:
        yield Finding("clock", Level.OK, "agrees with the gateway's")


def _credit(gateway: Mapping[str, Any]) -> Finding:
    amount = f"{gateway['credit']} {gateway['currency'] or ''}".rstrip()
    credit = float(gateway["credit"])
    if credit < CREDIT_LOW:
        level = Level.FAILURE if credit <= 0 else Level.WARNING
        return Finding("credit", level, f"only {amount} left", "top up the account at the gateway")
    return Finding("credit", Level.OK, f"{amount} left")


# --- People ---


def _phones(machine: Machine) -> Iterator[Finding]:
    config = machine.config
    for fault in machine.phones.faults:
        yield Finding("phones", Level.FAILURE, fault, f"edit {config.phones.file}")
    unknown = [user for user in machine.phones.numbers if machine.lookup(user) is None]
    if unknown:
        message = f"phones of users whom this machine doesn't know: {names(unknown)}"
        yield Finding("phones", Level.WARNING, message, f"edit {config.phones.file}")
    if machine.unreachable:
        message = f"phones in countries that may not be texted: {names(machine.unreachable)}"
        yield Finding("phones", Level.FAILURE, message, f"edit [limits] allowed_countries in {config.path}")
    level = Level.FAILURE if machine.guarded else Level.WARNING
    refused = [one.name for one in machine.admins if is_refused(one, config)]
    if refused and len(refused) == len(machine.admins):
        message = f"textgate refuses every administrator with a phone: {names(refused)}"
        yield Finding("phones", level, message, f"edit [refused] in {config.path}")
    elif machine.admins:
        count = len(machine.holders)
        message = (
            f"{count} user{'' if count == 1 else 's'} with a phone, {len(machine.admins)} of them may become root"
        )
        yield Finding("phones", Level.OK, message)
    else:
        yield Finding("phones", level, "nobody who can become root has a phone", "textgate enrol USER")
    yield from _without_phone(machine)


def _without_phone(machine: Machine) -> Iterator[Finding]:
    """People of whom a code is asked and who can't get one."""
    config = machine.config
    required = config.required
    missing = [user for user in machine.logins.people() if user not in machine.holders]
    accounts = {user: machine.lookup(user) for user in {*missing, *required.users}}
    named, others = [], []
    for user, account in sorted(accounts.items()):
        if account is None or user in machine.holders or _is_exempt(account, config):
            continue
        if user in required.users or not account.groups.isdisjoint(required.groups):
            named.append(user)
        elif not (required.users or required.groups):
            others.append(user)
    if named:
        message = f"must give a code and have no phone: {names(named)}"
        yield Finding("phones", Level.FAILURE, message, f"textgate enrol {named[0]}")
    if others and machine.guarded:
        message = f"have no phone and are refused where a code is asked for: {names(others)}"
        yield Finding("phones", Level.WARNING, message, f"textgate enrol {others[0]}")


def _is_exempt(account: Account, config: Config) -> bool:
    exempt = config.exempt
    return account.name in exempt.users or not account.groups.isdisjoint(exempt.groups)


# --- PAM ---


def _pam(machine: Machine) -> Iterator[Finding]:
    services = guarded_services(machine.pam)
    if not services:
        yield Finding("pam", Level.WARNING, "no service asks for a code", "textgate pam try sshd")
    for fault in () if services else machine.try_lines(None):
        message = f"a dry run of textgate's lines: {fault}"
        yield Finding("pam", Level.FAILURE, message, f"{doctor_block.REMEDY}; then, if it stays: {REINSTALL}")
    empty = machine.logins.without_password()
    for service in services:
        found = health(machine.pam, service, empty_users=empty, try_lines=machine.try_lines)
        yield from (Finding.of_fault(service, fault) for fault in found)
        if not failures(found):
            told = f"{service} asks for a code, and none of its lines lets in without one"
            yield Finding("pam", Level.OK, told, service=service)
            yield from _faillock(machine, service)


def _doors(machine: Machine) -> Iterator[Finding]:
    try:
        config = machine.config
    except ConfigError:  # which another check tells
        config = None
    for finding in door_findings(survey(machine.pam, wishes_of(config)), machine.config_path):
        if config is not None or finding.level is Level.FAILURE:  # nobody knows what was left open on purpose
            yield finding


def _faillock(machine: Machine, service: str) -> Iterator[Finding]:
    rules = machine.pam.rules(service)
    first = next((at for at, rule in enumerate(rules) if is_ours(rule)), len(rules))
    if any(map(counts_wrong_passwords, rules[:first])):
        told = f"{service}: pam_faillock counts wrong passwords, and no wrong codes"
        yield Finding("pam", Level.OK, told, service=service)


CHECKS: tuple[tuple[str, Check], ...] = (
    ("config", _config),
    ("credentials", _credentials),
    ("files", _files),
    ("daemon", _daemon),
    ("redis", _redis),
    ("gateway", _gateway),
    ("phones", _phones),
    ("block", lambda machine: doctor_block.block_findings(machine.pam)),
    ("pam", _pam),
    ("changes", lambda machine: check_changes(PamRemoval(machine.root, machine.run))),
    ("doors", _doors),
    ("sshd", check_sshd),
    ("sudo", check_sudo),
    ("polkit", check_polkit),
)
