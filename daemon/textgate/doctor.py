# SPDX-License-Identifier: MIT
"""`textgate doctor`: every check, its finding, and the one command that mends it.

`CHECKS` lists them in the order in which they are shown. A check looks at the machine through `Machine`, changes
nothing, and yields findings; one that breaks is itself a finding, so that the rest is still seen.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from . import admin_client, wiring
from .accounts import NssAccounts
from .config import Config
from .directory import PhoneTable, read_phones
from .errors import ConfigError, TextgateError
from .pam_admin import SSHD_SERVICES, PamAdmin, run_command, sshd_faults
from .pam_dry_run import dry_run
from .pam_stack import FirstFactor, StackError, read_auth_rules

CLOCK_SKEW_WARN_S = 60.0  # the gateway refuses signatures that are some minutes off
GRACE_SPARE_S = 30  # beside the code's life, time to give the first factor
CREDIT_LOW = 5
ADMIN_GROUPS = ("sudo", "root", "wheel", "admin")


class Level(IntEnum):
    """How bad a finding is."""

    OK = 0
    WARNING = 1
    FAILURE = 2


@dataclass(frozen=True)
class Finding:
    """One line of the report. remedy: a command, or a setting with its file; None where there is nothing to mend."""

    check: str
    level: Level
    message: str
    remedy: str | None = None


@dataclass(frozen=True)
class Machine:
    """What the checks look at."""

    config_path: str
    pam: PamAdmin = field(default_factory=PamAdmin)
    run: Callable[[list[str]], tuple[int, str]] = run_command
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @cached_property
    def config(self) -> Config:
        """The configuration. Raises ConfigError."""
        return wiring.load_config(self.config_path)

    @cached_property
    def status(self) -> dict[str, Any]:
        """The daemon's own word. Raises DaemonUnavailable."""
        return admin_client.call(self.config.daemon.admin_socket, "status")

    @cached_property
    def phones(self) -> PhoneTable:
        """The phones file. Raises DirectoryError."""
        return read_phones(self.config.phones.file, self.config.phones.default_region)

    @cached_property
    def guarded(self) -> list[str]:
        """Services that ask for a code."""
        return self.pam.services()


Check = Callable[[Machine], Iterator[Finding]]


def examine(machine: Machine) -> list[Finding]:
    """All findings, in the order of CHECKS."""
    found: list[Finding] = []
    for name, check in CHECKS:
        try:
            found.extend(check(machine))
        except ConfigError as error:
            if name == "config":
                found.extend(Finding(name, Level.FAILURE, fault, f"edit {error.path}") for fault in error.faults)
        except TextgateError as error:
            found.append(Finding(name, Level.FAILURE, error.message, error.hint))
        except Exception as error:  # a check must not hide the others
            found.append(Finding(name, Level.FAILURE, f"the check itself failed: {type(error).__name__}"))
    return found


# --- The checks ---


def _config(machine: Machine) -> Iterator[Finding]:
    yield Finding("config", Level.OK, f"{machine.config.path} can be used")
    for kind in ("store", "gateway"):
        if getattr(machine.config.failmode, kind) == "safe":
            services = ", ".join(machine.config.failmode.safe_services)
            yield Finding(
                "config", Level.WARNING, f"when the {kind} is away, {services} let in without a code",
                f'set [failmode] {kind} = "secure"',
            )  # fmt: skip


def _credentials(machine: Machine) -> Iterator[Finding]:
    config = machine.config
    paths = [config.vault.key_file]
    gateway = config.gateway
    paths += [gateway.token_file] if gateway.auth == "token" else [gateway.key_file, gateway.secret_file]
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116  # mode and owner are what is wanted
        except FileNotFoundError:
            encrypted = Path("/etc/credstore.encrypted") / f"textgate.{Path(path).name}"
            if encrypted.exists():
                yield Finding("credentials", Level.OK, f"{encrypted} is there, encrypted")
            else:
                remedy = "textgate keys init" if path == config.vault.key_file else "textgate setup"
                yield Finding("credentials", Level.FAILURE, f"{path} is missing", remedy)
            continue
        if status.st_mode & 0o077:
            yield Finding("credentials", Level.FAILURE, f"{path} is open to others", f"chmod 0600 {path}")
        else:
            yield Finding("credentials", Level.OK, f"{path} is closed to others")


def _daemon(machine: Machine) -> Iterator[Finding]:
    for path, wanted in ((machine.config.daemon.auth_socket, 0o600), (machine.config.daemon.admin_socket, 0o660)):
        try:
            mode = stat.S_IMODE(os.stat(path).st_mode)  # noqa: PTH116
        except FileNotFoundError:
            yield Finding(
                "socket",
                Level.FAILURE,
                f"{path} is missing",
                "systemctl enable --now textgated.socket textgated-admin.socket",
            )
            continue
        if mode & ~wanted:
            yield Finding(
                "socket", Level.FAILURE, f"{path} is open to others ({mode:04o})", f"chmod {wanted:04o} {path}"
            )
        else:
            yield Finding("socket", Level.OK, f"{path} is there")
    yield Finding("daemon", Level.OK, f"textgated {machine.status['version']} answers")


def _redis(machine: Machine) -> Iterator[Finding]:
    store = machine.status["store"]
    if not store["is_up"]:
        yield Finding("redis", Level.FAILURE, f"can't be used: {store['error']}", "systemctl restart textgate-redis")
        return
    yield Finding("redis", Level.OK, f"{store['version']} answers")
    if not store["is_durable"]:
        yield Finding(
            "redis", Level.WARNING, "does not write each change down: a crash can bring used codes back",
            "set appendonly yes, appendfsync always",
        )  # fmt: skip


def _gateway(machine: Machine) -> Iterator[Finding]:
    gateway = machine.status["gateway"]
    if gateway["reason"] == "unsupported":
        yield Finding("gateway", Level.OK, "the Messaging API tells no balance", "textgate send-test")
        return
    if not gateway["is_up"]:
        yield Finding("gateway", Level.FAILURE, f"can't be used: {gateway['reason']}", "textgate send-test")
    else:
        yield Finding("gateway", Level.OK, "takes our credentials")
        credit = float(gateway["credit"])
        if credit < CREDIT_LOW:
            yield Finding(
                "credit", Level.FAILURE if credit <= 0 else Level.WARNING,
                f"only {gateway['credit']} {gateway['currency'] or ''} left".rstrip(),
                "top up the account at the gateway",
            )  # fmt: skip
        else:
            yield Finding("credit", Level.OK, f"{gateway['credit']} {gateway['currency'] or ''} left".rstrip())
    skew_s = gateway["clock_skew_s"]
    if skew_s is not None and abs(skew_s) > CLOCK_SKEW_WARN_S:
        yield Finding(
            "clock", Level.FAILURE, f"our clock is {abs(skew_s):.0f} s {'ahead' if skew_s > 0 else 'behind'}",
            "timedatectl set-ntp true",
        )  # fmt: skip
    elif skew_s is not None:
        yield Finding("clock", Level.OK, "agrees with the gateway's")


def _phones(machine: Machine) -> Iterator[Finding]:
    for fault in machine.phones.faults:
        yield Finding("phones", Level.FAILURE, fault, f"edit {machine.config.phones.file}")
    accounts = NssAccounts()
    admins = []
    for user in machine.phones.numbers:
        account = accounts.lookup(user)
        if account is None:
            yield Finding("phones", Level.WARNING, "a phone belongs to a user that this machine doesn't know")
        elif account.uid == 0 or not account.groups.isdisjoint(ADMIN_GROUPS):
            admins.append(user)
    for user in machine.config.required.users:
        if user not in machine.phones.numbers and "gecos" not in machine.config.phones.sources:
            yield Finding(
                "phones", Level.FAILURE, f"{user} must give a code and has no phone", f"textgate enrol {user}"
            )
    if not admins:
        yield Finding(
            "phones", Level.FAILURE if machine.guarded else Level.WARNING,
            "nobody who can become root has a phone", "textgate enrol USER",
        )  # fmt: skip
    else:
        yield Finding(
            "phones", Level.OK, f"{len(machine.phones.numbers)} users with a phone, {len(admins)} of them admins"
        )


def _pam(machine: Machine) -> Iterator[Finding]:
    if not machine.guarded:
        yield Finding("pam", Level.WARNING, "no service asks for a code", "textgate pam try sshd")
    for service in machine.guarded:
        try:
            around = machine.pam.ways_around(service)
            rules = read_auth_rules(service, machine.pam.read_pam)
        except StackError as error:
            yield Finding("pam", Level.FAILURE, f"{service}: {error.message}", error.hint)
            continue
        for place in around:
            yield Finding("pam", Level.FAILURE, f"{service}: {place} lets in without a code", f"edit {place}")
        modules = [rule.module.rpartition("/")[2] for rule in rules]
        if any(rule.module.endswith("pam_env.so") and "user_readenv=1" in rule.arguments for rule in rules):
            yield Finding(
                "pam", Level.FAILURE, f"{service}: pam_env lets users set their PAM environment before the code",
                f"take user_readenv=1 out of /etc/pam.d/{service}",
            )  # fmt: skip
        if "pam_faillock.so" in modules:
            yield Finding(
                "pam", Level.WARNING, f"{service}: pam_faillock may count a wrong code as a wrong password",
                "put its authfail line before textgate's lines",
            )  # fmt: skip
        if not around:
            yield Finding("pam", Level.OK, f"{service} asks for a code, and there is no way around it")
    for guard in machine.pam.pending():
        yield Finding(
            "pam",
            Level.WARNING,
            f"{guard.service} is being tried and not confirmed",
            f"textgate pam confirm {guard.service}",
        )
    if os.geteuid() == 0:
        for fault in dry_run():
            yield Finding(
                "pam", Level.FAILURE, f"a dry run of textgate's lines: {fault}", "install the package again"
            )


def _sshd(machine: Machine) -> Iterator[Finding]:
    services = [service for service in machine.guarded if service in SSHD_SERVICES]
    if not services:
        return
    code, output = machine.run(["sshd", "-T", "-C", "user=root,host=localhost,addr=127.0.0.1"])
    if code != 0:
        yield Finding("sshd", Level.FAILURE, "its settings can't be read", "sshd -t")
        return
    guard = machine.pam.guard("sshd")
    faults = list(sshd_faults(output, guard.first_factor if guard else FirstFactor.KEY))
    for fault in faults:
        is_method = fault.startswith("authenticationmethods")
        yield Finding(
            "sshd", Level.WARNING if is_method and guard is None else Level.FAILURE, fault, "sshd -T | grep -i auth"
        )
    if not faults:
        yield Finding("sshd", Level.OK, "asks PAM, and takes no password by itself")
    grace = re.search(r"^logingracetime (\d+)", output, re.MULTILINE)
    life_s = machine.config.codes.life_s
    if grace and 0 < int(grace[1]) < life_s + GRACE_SPARE_S:
        yield Finding(
            "sshd", Level.WARNING, f"LoginGraceTime {grace[1]} s is shorter than a code lives ({life_s} s)",
            f"set LoginGraceTime {life_s + GRACE_SPARE_S} in /etc/ssh/sshd_config.d/",
        )  # fmt: skip


def _sudo(machine: Machine) -> Iterator[Finding]:
    if not {"sudo", "sudo-i"} & set(machine.guarded):
        return
    for one, other in (("sudo", "sudo-i"), ("sudo-i", "sudo")):
        if one in machine.guarded and other not in machine.guarded:
            yield Finding(
                "sudo", Level.FAILURE, f"{one} asks for a code, {other} does not", f"textgate pam enable {other}"
            )
    code, output = machine.run(["sudo", "-V"])
    match = re.search(r"[Tt]imestamp timeout: ([\d.-]+)", output)
    minutes = float(match[1]) if code == 0 and match else 15.0
    if minutes != 0:
        span = "for ever" if minutes < 0 else f"for {minutes:g} minutes"
        yield Finding(
            "sudo", Level.WARNING if minutes < 0 or minutes > 15 else Level.OK,
            f"asks nothing again {span} after a login", "visudo: Defaults timestamp_timeout=0",
        )  # fmt: skip


CHECKS: tuple[tuple[str, Check], ...] = (
    ("config", _config),
    ("credentials", _credentials),
    ("daemon", _daemon),
    ("redis", _redis),
    ("gateway", _gateway),
    ("phones", _phones),
    ("pam", _pam),
    ("sshd", _sshd),
    ("sudo", _sudo),
)
