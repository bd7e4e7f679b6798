# SPDX-License-Identifier: MIT
"""The `textgate` command: for the people who run it. Every command takes --json; exit codes are in errors.py."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from . import __version__, wiring
from .cli_base import Context, LazyGroup, ask_hidden, command, complete_services, complete_users, tell
from .config import DEFAULT_PATH, cautions
from .errors import DirectoryError, ExitCode, RefusedError, TextgateError
from .printable import printable

EPILOG = """Exit codes: 0 done, 1 failed, 2 usage, 3 configuration or credentials, 4 textgated can't be reached,
5 refused (wrong code, throttled, not sent), 6 done with warnings (doctor)."""
ENROL_TRIES = 3


@click.group(
    cls=LazyGroup,
    modules={"credentials": "cli_credentials", "keys": "cli_credentials", "pam": "cli_pam", "setup": "cli_setup"},
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--config",
    "config_path",
    default=DEFAULT_PATH,
    type=click.Path(),
    metavar="FILE",
    show_default=True,
    help="configuration",
)
@click.option("--json", "is_json", is_flag=True, help="print one JSON object instead of text")
@click.version_option(__version__, prog_name="textgate", message="%(prog)s %(version)s")
@click.pass_context
def main(click_context: click.Context, config_path: str, is_json: bool) -> None:
    """Texted login codes for ssh, sudo, su and login: look after the service and its users."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a character that the terminal's encoding lacks is no reason to fail
            stream.reconfigure(errors="replace")
    click_context.obj = Context(config_path, is_json)


@main.command("check-config")
@command
def check_config(context: Context) -> None:
    """Check the configuration, the phones file and the credentials; report every fault at once."""
    from .directory import read_phones
    from .gateway import build_gateway

    config = context.config
    faults: list[str] = []
    phones: Any = None
    for check in (
        lambda: build_gateway(config.gateway, wiring.load_gateway_credentials(config, os.environ)),
        lambda: wiring.load_vault(config, os.environ),
        lambda: wiring.build_store(config, None),
    ):
        try:
            check()
        except TextgateError as error:
            faults.append(f"{error.message} ({error.hint})" if error.hint else error.message)
    if "file" in config.phones.sources:
        try:
            phones = read_phones(config.phones.file, config.phones.default_region)
            faults.extend(f"{config.phones.file}: {fault}" for fault in phones.faults)
        except DirectoryError as error:
            faults.append(error.message)
    user_count = len(phones.numbers) if phones else 0
    warnings = list(cautions(config))
    context.result(
        {
            "config": config.path,
            "is_ok": not faults,
            "faults": faults,
            "warnings": warnings,
            "phone_count": user_count,
        }
    )
    for warning in warnings:
        if not context.is_json:
            tell(f"textgate: warning: {warning}", err=True)
    for fault in faults:
        if not context.is_json:
            tell(f"textgate: error: {fault}", err=True)
    if faults:
        sys.exit(ExitCode.CONFIG)
    context.say(
        f"{config.path}: ok; {user_count} user{'' if user_count == 1 else 's'} with a phone in {config.phones.file}"
    )


@main.command()
@click.option("--fresh", "is_fresh", is_flag=True, help="ask the gateway now, and not at most once a minute (root)")
@command
def status(context: Context, is_fresh: bool) -> None:
    """Show whether textgated, Redis and the gateway work, and what was answered since the start."""
    result = context.status(is_fresh=is_fresh)
    context.result(result)
    if not context.is_json:
        _show_status(result)
    if not result["store"]["is_up"] or result["gateway"]["is_up"] is False:
        sys.exit(ExitCode.FAILURE)


def _show_status(result: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from .store_words import went_back

    store, gateway, counts = result["store"], result["gateway"], result["counts"]
    up_s = max(0, int(time.time()) - result["started_at"])
    durable = "durable" if store.get("is_durable") else "NOT DURABLE: set appendonly yes"
    rows = [
        ("textgated", f"{result['version']}, up for {up_s // 3600} h {up_s % 3600 // 60} min"),
        ("redis", f"{store['version']}, {durable}" if store["is_up"] else f"AWAY: {store['error']}"),
        *([("", told)] if (told := went_back(store, time.time())) else []),
        ("gateway", _gateway_words(gateway)),
        ("passed", str(counts.get("reply_pass", 0))),
        ("codes asked for", str(counts.get("reply_ask", 0))),
        ("without a code", str(counts.get("reply_skip", 0))),
        ("denied", str(counts.get("reply_deny", 0))),
        ("overloads", str(counts.get("overload", 0))),
    ]
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows:
        table.add_row(name, printable(value))
    # Without markup, highlights and emoji: "[red]" in a version is that and nothing else.
    Console(soft_wrap=True, markup=False, highlight=False, emoji=False).print(table)


def _gateway_words(gateway: Mapping[str, Any]) -> str:
    if gateway["is_up"] is None:
        return "its credit is not known; to prove that it works: textgate send-test"
    if not gateway["is_up"]:
        return f"NOT USABLE: {gateway['reason']}"
    age_s = gateway.get("credit_age_s", 0)
    return f"ok, credit {gateway['credit']} {gateway['currency'] or ''}".rstrip() + (
        f" ({age_s} s ago)" if age_s else ""
    )


@main.command()
@command
def doctor(context: Context) -> None:
    """Look at everything a login needs, and name the command that mends what is wrong.

    Exit code 0: all is well; 6: warnings only; 1: something would keep people out, or let somebody in.

    Most monitoring takes 1 for a warning and 6 for nothing that it knows. Let it read --json: "worst" is ok, warning
    or failure, each finding has its "level", and where doctor could not look there is "error" in their place.
    """
    from .doctor import Machine, examine
    from .guard_faults import Level

    if os.geteuid() != 0:
        raise TextgateError("doctor looks at files and sockets of root", hint="run it with sudo")
    findings = examine(Machine(context.config_path))
    worst = max((finding.level for finding in findings), default=Level.OK)
    context.result(
        {
            "worst": worst.name.lower(),
            "findings": [
                {
                    "check": finding.check,
                    "level": finding.level.name.lower(),
                    "message": finding.message,
                    "remedy": finding.remedy,
                    "service": finding.service,
                    "fault": finding.fault,
                }
                for finding in findings
            ],
        }
    )
    marks = {Level.OK: "ok     ", Level.WARNING: "warning", Level.FAILURE: "FAILURE"}
    for finding in findings:
        context.say(f"{marks[finding.level]}  {finding.check:12} {finding.message}")
        if finding.remedy and finding.level is not Level.OK:
            context.say(f"{'':23}-> {finding.remedy}")
    sys.exit({Level.OK: ExitCode.OK, Level.WARNING: ExitCode.WARNINGS, Level.FAILURE: ExitCode.FAILURE}[worst])


@main.command("send-test")
@click.argument("number", required=False)
@command
def send_test(context: Context, number: str | None) -> None:
    """Text a sentence without a code to NUMBER, to prove that the gateway works.

    Without NUMBER it is asked for: what is in a command line is seen by all users of the machine.
    """
    result = context.ask_daemon("send-test", number=_ask_number() if number is None else number)
    context.result(result)
    price = f", cost {result['cost']} {result['currency'] or ''}".rstrip() if result["cost"] else ""
    if result["outcome"] == "sent":
        context.say(f"sent to {result['phone']} in {result['duration_ms']} ms{price}")
    else:
        context.say(f"may have been sent to {result['phone']}: {result['reason']}; look at the phone")
    _warn_if_unknown(context, result)


@main.command()
@click.argument("user", shell_complete=complete_users)
@click.argument("number", required=False)
@click.option(
    "--code-stdin", is_flag=True, help="read the code from standard input instead of asking on the terminal"
)
@command
def enrol(context: Context, user: str, number: str | None, code_stdin: bool) -> None:
    """Give USER the phone NUMBER, after a code texted to it was typed here.

    NUMBER is written with + and the country code, in quotes if it has spaces: "+45 12 34 56 78". Without it, it is
    asked for: what is in a command line is seen by all users of the machine.
    """
    from .directory import set_phone
    from .msisdn import parse_msisdn

    if os.geteuid() != 0:
        raise TextgateError("enrol changes the phones file, which is root's", hint="run it with sudo")
    config = context.config
    if "file" not in config.phones.sources:
        raise TextgateError(
            'the phones file is not used: "file" is not in [phones] sources', hint="change the number there"
        )
    number = _ask_number() if number is None else number
    phone = parse_msisdn(number, config.phones.default_region)
    begun = context.ask_daemon("prove-begin", user=user, number=number)
    context.say(f"{begun['text'].rstrip('.')} ({begun['phone']}).")
    _warn_if_unknown(context, begun)
    prove_number(context, code_stdin, user=user, number=number, session_id=begun["session_id"])
    user = begun["user"]  # the name that logins go by, which may differ from what was typed
    set_phone(config.phones.file, user, phone)
    context.result({"user": user, "phone": phone.masked, "is_enrolled": True})
    context.say(f"{user} is enrolled with {phone.masked}.")


def prove_number(context: Context, code_stdin: bool, **arguments: object) -> None:
    """Ask for the texted code until it is right. Raises RefusedError after too many wrong ones."""
    text = "no code was given"
    for _ in range(ENROL_TRIES):
        code = sys.stdin.readline().strip() if code_stdin else ask_hidden("Code: ")
        if not code:
            break
        checked = context.ask_daemon("prove-check", code=code, **arguments)
        if checked["is_proved"]:
            return
        text = checked["text"].rstrip(".")
        context.say(checked["text"])
    raise RefusedError(f"the number was not proved: {text}", hint="nothing was changed; start again")


def _ask_number() -> str:
    """The number of a phone, from the terminal or the first line of standard input. Raises UsageError for none."""
    tell("Number: ", nl=False, err=True)
    number = sys.stdin.readline().strip()
    if not number:
        raise click.UsageError("no number was given")
    return number


def _warn_if_unknown(context: Context, result: Mapping[str, Any]) -> None:
    if not result["is_known_number"] and not context.is_json:
        tell("warning: this number is in no range known to be in use; did the text arrive?", err=True)


@main.command()
@click.argument("user", shell_complete=complete_users)
@command
def unlock(context: Context, user: str) -> None:
    """End USER's lockouts and, where root does it, forget the wrong codes and texts counted against them."""
    result = context.ask_daemon("unlock", user=user)
    context.result(result)
    context.say(f"{result['user']} is unlocked.")
    if not result.get("is_day_forgotten", True):
        context.say("The wrong codes and texts of the day still count. If these keep them out, root can unlock them.")


@main.command()
@click.argument("user", shell_complete=complete_users)
@command
def recovery(context: Context, user: str) -> None:
    """Make 10 recovery codes for USER, each good once in place of a texted one; former ones are void."""
    result = context.ask_daemon("recovery", user=user)
    context.result(result)
    context.say(f"Recovery codes of {result['user']}. Print them; they are not shown again.")
    context.say("")
    for code in result["codes"]:
        context.say(f"    {code}")


@main.command("login-test")
@click.argument("user", shell_complete=complete_users)
@click.argument("service", default="sshd", shell_complete=complete_services)
@command
def login_test(context: Context, user: str, service: str) -> None:
    """Run the PAM stack of SERVICE (default: sshd) for USER and ask its questions here.

    Nothing is opened and nobody is logged in; only the answer of the stack is shown.
    """
    from .pam_conversation import authenticate

    if os.geteuid() != 0:
        raise TextgateError("login-test runs the stack as sshd does, which is root", hint="run it with sudo")
    if not Path("/etc/pam.d", service).is_file() or "/" in service:
        raise TextgateError("there is no such PAM service", hint="see: ls /etc/pam.d")
    result = authenticate(service, user, _converse)
    context.result({"user": user, "service": service, "is_success": result.is_success, "reason": result.reason})
    if not result.is_success:
        context.say(f"{service} would refuse {user}: {result.reason}")
        sys.exit(ExitCode.REFUSED)
    context.say(f"{service} would let {user} in.")


def _converse(style: int, text: str) -> str | None:
    """A PAM conversation on the terminal; what PAM says goes to standard error, so that --json stays clean."""
    from .pam_conversation import Style

    if style == Style.PROMPT_HIDDEN:
        return ask_hidden(text) if sys.stdin.isatty() else _read_line(text)
    if style == Style.PROMPT_SHOWN:
        return _read_line(text)
    tell(text, err=True, has_lines=True)
    return None


def _read_line(prompt: str) -> str:
    tell(prompt, nl=False, err=True, has_lines=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


@main.command()
@click.option("-f", "--follow", is_flag=True, help="go on with new events as they come")
@click.option("--user", metavar="USER", shell_complete=complete_users, help="only events of USER")
@click.option("--since", metavar="TIME", help='such as "15m", "2h", "3d", "today" or "2026-11-24 10:30"')
@click.option(
    "--file", metavar="FILE", type=click.Path(), help="read this journal file instead of the machine's journal"
)
@command
def log(context: Context, follow: bool, user: str | None, since: str | None, file: str | None) -> None:
    """Show who tried what and how it ended, from systemd's journal. With --json, one object a line."""
    import datetime as dt

    from .journal_reader import parse_since, read_events

    start = parse_since(since, dt.datetime.now().astimezone()) if since else None
    try:
        for event in read_events(user=user, since=start, follow=follow, file=file):
            context.result(event)
            context.say(f"{event['TIME']} {event['MESSAGE']}")
    except KeyboardInterrupt:
        return
    except BrokenPipeError:  # `textgate log | head` has seen enough
        raise
    except OSError as error:
        raise TextgateError(f"the journal can't be read: {error.strerror}", hint="run it with sudo") from None


if __name__ == "__main__":
    main()
