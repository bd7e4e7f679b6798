# SPDX-License-Identifier: MIT
"""`textgate setup`: from a fresh installation to a guarded service, asking for what it isn't told.

Every question can be answered beforehand in a file (--answers), for Ansible and the like; what stands there is not
asked. Each step looks first at what is done already, so that setup can be run again at any time. Secrets and phone
numbers are never arguments: those are seen by every user of the machine.
"""

from __future__ import annotations

import getpass
import os
import stat
import sys
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from .cli_base import Context, command
from .config import parse_config
from .config_edit import Value, set_option
from .errors import ConfigError, CredentialError, DaemonUnavailable, RefusedError, TextgateError
from .pam_admin import replace_file, run_command

START_WAIT_S = 20.0
TRIES = 3

# What may stand in the file of answers, and what each is.
ANSWERS = {
    "gateway_key": str,
    "gateway_secret": str,
    "gateway_token": str,
    "gateway_url": str,
    "sender": str,
    "default_region": str,
    "allowed_countries": list,
    "user": str,
    "number": str,
    "services": list,
    "first_factor": str,
    "confirm_within": str,
    "send_test": bool,
    "recovery_codes": bool,
}


@dataclass
class Wizard:
    """One run. answers: what was given beforehand. can_ask: there is a person at a terminal."""

    context: Context
    answers: dict[str, Any]
    can_ask: bool
    done: dict[str, Any] = field(default_factory=dict)

    def answer(self, name: str, question: str, default: str | None = None, *, is_secret: bool = False) -> str:
        """One answer: from the file, from the person, or the default. Raises RefusedError where there is none."""
        if name in self.answers:
            return str(self.answers[name])
        if not self.can_ask:
            if default is None:
                raise RefusedError(f"setup needs {name}", hint=f"put {name} = ... into the file of answers")
            return default
        shown = f" [{default}]" if default else ""
        prompt = f"{question}{shown}: "
        typed = (getpass.getpass(prompt) if is_secret else input(prompt)).strip()
        return typed or default or self.answer(name, question, default, is_secret=is_secret)

    def wants(self, name: str, question: str, *, default: bool) -> bool:
        """Yes or no."""
        if name in self.answers:
            return bool(self.answers[name])
        if not self.can_ask:
            return default
        return click.confirm(question, default=default, err=True)


@click.command()
@click.option("--answers", "answers_path", metavar="FILE", help="TOML file (mode 0600) with answers; see textgate(8)")
@click.option("--code-stdin", is_flag=True, help="read the code that proves the first phone from standard input")
@click.option("--no-pam", is_flag=True, help="stop before any service is guarded")
@command
def setup(context: Context, answers_path: str | None, code_stdin: bool, no_pam: bool) -> None:
    """Set textgate up: gateway, first user, recovery codes, and the services to guard.

    Asks for what it isn't told, and can be run again: what is done already is kept.
    """
    if os.geteuid() != 0:
        raise TextgateError("setup changes files of root", hint="run it with sudo")
    wizard = Wizard(
        context, read_answers(answers_path) if answers_path else {}, sys.stdin.isatty() and not code_stdin
    )
    _configuration(wizard)
    _credentials(wizard)
    _start(wizard)
    _first_user(wizard, code_stdin)
    if not no_pam:
        _services(wizard)
    context.result(wizard.done)
    context.say(
        "\nDone. `textgate doctor` looks at everything; keep this session open until you have logged in anew."
    )


def read_answers(path: str) -> dict[str, Any]:
    """The file of answers. Raises ConfigError that names each fault, CredentialError if others can read it."""
    try:
        with Path(path).open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise CredentialError(f"{path}: is open to other users", hint=f"chmod 0600 {path}")
            given = tomllib.load(file)
    except OSError as error:
        raise ConfigError(path, (f"can't be read: {error.strerror}",)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        raise ConfigError(path, ("is not valid TOML",)) from None
    faults = [f"{key}: no such answer" for key in given if key not in ANSWERS]
    faults += [
        f"{key}: must be a {kind.__name__}"
        for key, kind in ANSWERS.items()
        if not isinstance(given.get(key, kind()), kind)
    ]
    if faults:
        raise ConfigError(path, tuple(faults), hint="the answers are: " + ", ".join(ANSWERS))
    return given


def _configuration(wizard: Wizard) -> None:
    """Sender, region and countries -> textgate.toml."""
    path = Path(wizard.context.config_path)
    text = path.read_text()
    config = parse_config(text, config_path=str(path))
    changes: list[tuple[str, str, Value]] = []
    region = wizard.answer(
        "default_region", "Country of numbers without + (two capitals)", config.phones.default_region
    )
    countries = wizard.answers.get("allowed_countries")
    if countries is None:
        known = sorted({*config.limits.allowed_countries, *([region] if region else [])})
        typed = wizard.answer("allowed_countries_", "Countries that may be texted", " ".join(known))
        countries = typed.replace(",", " ").split()
    sender = wizard.answer("sender", "Sender that phones show", config.gateway.sender)
    url = wizard.answer("gateway_url", "GatewayAPI's address", config.gateway.url)
    auth = "token" if "gateway_token" in wizard.answers else config.gateway.auth
    wanted: list[tuple[str, str, Value, Value]] = [
        ("phones", "default_region", region, config.phones.default_region),
        ("limits", "allowed_countries", list(countries), list(config.limits.allowed_countries)),
        ("gateway", "sender", sender, config.gateway.sender),
        ("gateway", "url", url, config.gateway.url),
        ("gateway", "auth", auth, config.gateway.auth),
    ]
    changes = [(section, key, new) for section, key, new, old in wanted if new != old]
    for section, key, value in changes:
        text = set_option(text, section, key, value)
    parse_config(text, config_path=str(path))  # raises with every fault before anything is written
    if changes:
        replace_file(path, text.encode(), mode=0o644)
    wizard.context.__dict__.pop("config", None)  # read it anew
    wizard.done["changed_options"] = [f"[{section}] {key}" for section, key, _ in changes]


def _credentials(wizard: Wizard) -> None:
    """Key and secret, or token, into files of their own; and a vault key, if there is none."""
    gateway = wizard.context.config.gateway
    wanted = (
        [("gateway_token", gateway.token_file)]
        if gateway.auth == "token"
        else [("gateway_key", gateway.key_file), ("gateway_secret", gateway.secret_file)]
    )
    for name, path in wanted:
        if name not in wizard.answers and Path(path).exists():
            continue
        value = wizard.answer(name, f"GatewayAPI's {name.partition('_')[2]} (not shown)", is_secret=True)
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(Path(path), value.encode() + b"\n", mode=0o600)
    vault = Path(wizard.context.config.vault.key_file)
    if not vault.exists():
        from .vault import new_key_line

        replace_file(vault, new_key_line("k1").reveal().encode() + b"\n", mode=0o600)
        wizard.context.say(f"{vault}: made. Keep a copy in a safe place.")


def _start(wizard: Wizard) -> None:
    """(Re)start the daemon with what was written, and wait until it answers."""
    context = wizard.context
    if Path("/run/systemd/system").is_dir():
        run_command(["systemctl", "enable", "--now", "--quiet", "textgated.socket", "textgated-admin.socket"])
        code, output = run_command(["systemctl", "restart", "textgated.service"])
        if code != 0:
            raise TextgateError("textgated can't be started", hint=output.strip()[:200] or "journalctl -u textgated")
    give_up_at = time.monotonic() + START_WAIT_S
    while True:
        try:
            status = context.ask_daemon("status")
            break
        except DaemonUnavailable:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.2)
    if not status["store"]["is_up"]:
        raise TextgateError("Redis can't be used", hint="systemctl status textgate-redis")
    gateway = status["gateway"]
    if not gateway["is_up"] and gateway["reason"] != "unsupported":
        raise TextgateError(
            f"GatewayAPI can't be used: {gateway['reason']}",
            hint="are key and secret right? run setup again with new ones",
        )
    wizard.done["gateway"] = {"credit": gateway["credit"], "currency": gateway["currency"]}
    context.say(
        f"textgated, Redis and GatewayAPI work; credit {gateway['credit']} {gateway['currency'] or ''}".rstrip()
    )


def _first_user(wizard: Wizard, code_stdin: bool) -> None:
    """Enrol somebody with proof, so that the machine is never closed to all; then recovery codes."""
    from .cli import prove_number
    from .directory import read_phones, set_phone
    from .msisdn import parse_msisdn

    context = wizard.context
    config = context.config
    user = wizard.answer("user", "User to enrol first", os.environ.get("SUDO_USER") or "root")
    phones_file = Path(config.phones.file)
    known = read_phones(config.phones.file, config.phones.default_region).numbers if phones_file.exists() else {}
    if user in known and "number" not in wizard.answers:
        context.say(f"{user} has a phone already.")
        wizard.done["user"] = user
        return
    number = wizard.answer("number", f"Phone of {user}, such as +45 12 34 56 78")
    phone = parse_msisdn(number, config.phones.default_region)
    if wizard.wants("send_test", "Send a test text first?", default=False):
        context.ask_daemon("send-test", number=number)
    begun = context.ask_daemon("prove-begin", user=user, number=number)
    context.say(f"{begun['text'].rstrip('.')} ({begun['phone']}).")
    prove_number(context, code_stdin, user=user, number=number, session_id=begun["session_id"])
    set_phone(config.phones.file, user, phone)
    wizard.done["user"] = user
    context.say(f"{user} is enrolled with {phone.masked}.")
    if wizard.wants("recovery_codes", "Make recovery codes, for the day the phone is lost?", default=True):
        made = context.ask_daemon("recovery", user=user)["codes"]
        wizard.done["recovery_codes"] = made
        context.say("Recovery codes, each good once. Print them; they are not shown again.\n")
        for code in made:
            context.say(f"    {code}")


def _services(wizard: Wizard) -> None:
    """`textgate pam try` for each service that is wanted."""
    from .cli_pam import CONFIRM_DEFAULT, guard_service, parse_span
    from .pam_admin import SSHD_SERVICES

    chosen = wizard.answers.get("services")
    if chosen is None:
        chosen = wizard.answer("services_", "Services to guard", "sshd sudo sudo-i" if wizard.can_ask else "").split()
    within = str(wizard.answers.get("confirm_within", CONFIRM_DEFAULT))
    factor = wizard.answers.get("first_factor")
    if factor is None and set(chosen) & set(SSHD_SERVICES):
        factor = wizard.answer("first_factor_", "First factor of ssh (key, password, any)", "key")
    wizard.done["services"] = []
    for service in chosen:
        guard_service(
            wizard.context,
            service,
            factor if service in SSHD_SERVICES else "password",
            confirm_by=int(time.time()) + parse_span(within),
        )
        wizard.done["services"].append(service)
    if chosen:
        wizard.context.say(
            f"\nLog in now in another window, with a code. What nobody logs in through, or `textgate pam confirm` "
            f"doesn't confirm, is taken back in {within}."
        )
