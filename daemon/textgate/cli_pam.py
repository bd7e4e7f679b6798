# SPDX-License-Identifier: MIT
"""`textgate pam`: put textgate's lines into PAM services, try them, and take them out again."""

from __future__ import annotations

import datetime as dt
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .cli_base import Context, command
from .directory import read_phones
from .errors import DaemonUnavailable, ExitCode, TextgateError
from .pam_admin import REVERT_TIMER, SSHD_SERVICES, FileChange, Guard, PamAdmin, PamAdminError, run_command
from .pam_dry_run import dry_run
from .pam_stack import FirstFactor, StackError

ADMIN_GROUPS = ("sudo", "root", "wheel", "admin")
CONFIRM_DEFAULT = "5m"
CONFIRM_MIN_S, CONFIRM_MAX_S = 30, 86400

_SPAN = re.compile(r"(\d{1,5})(s|m|h)")

service_argument = click.argument("service")
first_factor_option = click.option(
    "--first-factor",
    type=click.Choice([factor.value for factor in FirstFactor]),
    help="what comes before the code: password, key (ssh only), or any of the two (ssh only); default: key for sshd, "
    "password for all others",
)
force_option = click.option(
    "--force",
    is_flag=True,
    help="go on although nobody who can become root has a proved phone, or the gateway is away",
)


@click.group()
def pam() -> None:
    """Guard PAM services (sshd, sudo, sudo-i, su, login, ...) with a code, and take it back."""


@pam.command()
@service_argument
@first_factor_option
@force_option
@command
def enable(context: Context, service: str, first_factor: str | None, force: bool) -> None:
    """Guard SERVICE for good. `try` is the careful way: it takes itself back."""
    guard_service(context, service, first_factor, force=force)


@pam.command("try")
@service_argument
@first_factor_option
@force_option
@click.option(
    "--confirm-within", default=CONFIRM_DEFAULT, show_default=True, metavar="TIME", help="such as 90s, 5m, 1h"
)
@command
def try_(context: Context, service: str, first_factor: str | None, force: bool, confirm_within: str) -> None:
    """Guard SERVICE, and take it back unless it is confirmed in time.

    It counts as confirmed when somebody has logged in through it with a code, or by `textgate pam confirm`. A reboot
    in between changes nothing of it. Keep this session open until then.
    """
    wait_s = parse_span(confirm_within)
    if not Path("/run/systemd/system").is_dir():
        raise PamAdminError("systemd does not run here, and its timer would take the lines back", hint="use enable")
    if guard_service(context, service, first_factor, force=force, confirm_by=int(time.time()) + wait_s):
        context.say(
            f"Log in now in another window. Unless somebody does, or you run `textgate pam confirm {service}`, "
            f"this is taken back in {confirm_within}."
        )


def guard_service(
    context: Context, service: str, factor: str | None, *, force: bool = False, confirm_by: int | None = None
) -> bool:
    """Check, write, and say what was done. False if the service was guarded already.

    factor: of FirstFactor, None for the service's usual one. confirm_by: Unix seconds when a try is taken back.
    """
    _require_root()
    admin = PamAdmin()
    first_factor = FirstFactor(factor or ("key" if service in SSHD_SERVICES else "password"))
    changes = admin.plan(service, first_factor) if admin.guard(service) is None else ()
    if not changes:
        context.result({"service": service, "is_changed": False})
        context.say(f"{service} is guarded already.")
        return False
    if not force:
        _require_way_in(context)
    faults = dry_run()
    if faults:
        raise PamAdminError("textgate's lines don't work here: " + "; ".join(faults), hint="see: textgate doctor")
    if confirm_by is not None:
        _start_timer()
    changed = admin.enable(service, first_factor, now_at=int(time.time()), confirm_by=confirm_by)
    _show(context, service, changed, "guarded", confirm_by)
    return True


def _require_way_in(context: Context) -> None:
    """Somebody who can become root has a phone, and texts go out. Raises PamAdminError."""
    if not enrolled_admins(context):
        raise PamAdminError(
            "nobody who can become root has a phone: the machine would be closed to its administrators",
            hint="enrol one of them first: textgate enrol USER",
        )
    status = context.ask_daemon("status")
    if not (status["store"]["is_up"] and status["gateway"]["is_up"]):
        raise PamAdminError("codes could not be texted or checked now", hint="see: textgate status")


def enrolled_admins(context: Context) -> list[str]:
    """Users with a phone who are root or in a group that may become root."""
    from .accounts import NssAccounts

    accounts = NssAccounts()
    numbers = read_phones(context.config.phones.file, context.config.phones.default_region).numbers
    found = []
    for user in numbers:
        account = accounts.lookup(user)
        if account is not None and (account.uid == 0 or not account.groups.isdisjoint(ADMIN_GROUPS)):
            found.append(user)
    return found


@pam.command()
@click.argument("service", required=False)
@click.option("--all", "is_all", is_flag=True, help="every service that textgate guards")
@command
def disable(context: Context, service: str | None, is_all: bool) -> None:
    """Take textgate's lines out of SERVICE: its files get back the very bytes that they had before."""
    _require_root()
    if (service is None) is not is_all:
        raise PamAdminError("name a service, or say --all", hint="see: textgate pam status")
    admin = PamAdmin()
    faults: list[TextgateError] = []
    for name in [guard.service for guard in admin.guards()] if service is None else [service]:
        try:
            changed = admin.disable(name)
        except TextgateError as error:
            faults.append(error)
            continue
        _show(context, name, changed, "no longer guarded", None)
    if not admin.pending():
        run_command(["systemctl", "disable", "--now", "--quiet", REVERT_TIMER])
    if faults:
        raise faults[0]


@pam.command()
@click.argument("service", required=False)
@command
def confirm(context: Context, service: str | None) -> None:
    """Make a try firm: of SERVICE, or of every service that is being tried."""
    _require_root()
    admin = PamAdmin()
    names = [guard.service for guard in admin.pending()] if service is None else [service]
    confirmed = [name for name in names if admin.confirm(name)]
    if not admin.pending():
        run_command(["systemctl", "disable", "--now", "--quiet", REVERT_TIMER])
    context.result({"confirmed": confirmed})
    context.say(f"confirmed: {', '.join(confirmed)}" if confirmed else "nothing is being tried")


@pam.command()
@command
def status(context: Context) -> None:
    """Show which services ask for a code, and whether anybody gets around it."""
    admin = PamAdmin()
    guards = {guard.service: guard for guard in admin.guards()}
    rows = [_row(admin, name, guards.get(name)) for name in sorted({*guards, *admin.services()})]
    context.result({"services": rows})
    if not rows:
        context.say("No service asks for a code. Start with: textgate pam try sshd")
    for row in rows:
        state = "guarded" if not row["faults"] else "NOT SAFE: " + "; ".join(row["faults"])
        tried = f", taken back at {row['confirm_by']} unless confirmed" if row["confirm_by"] else ""
        by_hand = "" if row["is_ours"] else ", lines put in by hand"
        context.say(f"{row['service']:12} {state}{tried}{by_hand}")
    if any(row["faults"] for row in rows):
        sys.exit(ExitCode.FAILURE)


def _row(admin: PamAdmin, name: str, guard: Guard | None) -> dict[str, Any]:
    try:
        faults = [f"{place} lets in without a code" for place in admin.ways_around(name)]
    except StackError as error:
        faults = [error.message]
    confirm_by = guard.confirm_by if guard else None
    return {
        "service": name,
        "is_ours": guard is not None,
        "first_factor": guard.first_factor.value if guard else None,
        "confirm_by": _moment(confirm_by) if confirm_by else None,
        "faults": faults,
    }


@pam.command("revert", hidden=True)
@click.option("--due", is_flag=True, required=True, help="what systemd's timer calls")
@command
def revert(context: Context, due: bool) -> None:
    """Take back the tries whose time is up, and confirm those that a login has proved."""
    del due
    _require_root()
    admin = PamAdmin()
    for guard, is_confirmed in admin.revert_due(int(time.time()), _passed_since(context)):
        context.say(
            f"{guard.service}: {'confirmed by a login' if is_confirmed else 'taken back, nobody confirmed it'}"
        )
    if not admin.pending():
        run_command(["systemctl", "disable", "--now", "--quiet", REVERT_TIMER])


def _passed_since(context: Context) -> Callable[[Guard], bool]:
    """Asks the daemon whether a right code was given in a service since its try began; an absent daemon says no."""

    def has_passed(guard: Guard) -> bool:
        try:
            passed_at = context.ask_daemon("last-pass", service=guard.service)["at"]
        except (DaemonUnavailable, TextgateError):
            return False
        return passed_at is not None and passed_at >= guard.started_at

    return has_passed


def parse_span(text: str) -> int:
    """ "90s", "5m", "1h" -> seconds, 30 to 86400. Raises PamAdminError."""
    match = _SPAN.fullmatch(text)
    found_s = int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]] if match else 0
    if not CONFIRM_MIN_S <= found_s <= CONFIRM_MAX_S:
        raise PamAdminError("--confirm-within can't be read", hint="write a time from 30s to 24h, such as 5m")
    return found_s


def _start_timer() -> None:
    code, output = run_command(["systemctl", "enable", "--now", "--quiet", REVERT_TIMER])
    if code != 0:
        raise PamAdminError(
            "the timer that takes the try back can't be started: nothing was changed",
            hint=output.strip()[:200] or f"see: systemctl status {REVERT_TIMER}",
        )


def _require_root() -> None:
    if os.geteuid() != 0:
        raise TextgateError("only root may change PAM services", hint="run it with sudo")


def _show(context: Context, service: str, changes: tuple[FileChange, ...], word: str, confirm_by: int | None) -> None:
    context.result(
        {
            "service": service,
            "is_changed": bool(changes),
            "files": [change.path for change in changes],
            "confirm_by": _moment(confirm_by) if confirm_by else None,
        }
    )
    for change in changes:
        context.say(change.diff().rstrip("\n"))
    context.say(f"{service} is {word}." if changes else f"{service} was not guarded by textgate.")


def _moment(at: int) -> str:
    return dt.datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")
