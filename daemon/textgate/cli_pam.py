# SPDX-License-Identifier: MIT
"""`textgate pam`: put textgate's lines into PAM services, try them, and take them out again."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Collection, Sequence
from typing import Any

import click

from . import pam_commands, way_in
from .administrators import enrolled_admins
from .cli_base import Context, command, complete_services
from .doctor_doors import wishes_of
from .door_survey import survey
from .doors import Leads, message_of, open_doors, service_of
from .errors import UsageError
from .guard_faults import Fault, Subject, failures, faults_of
from .guard_health import health
from .pam_admin import PamAdmin
from .pam_commands import report, require_root, show, tell_notes
from .pam_dry_run import dry_run
from .pam_files import SSHD_SERVICES, PamAdminError, check_service
from .pam_removal import PamRemoval
from .pam_repair import PamRepair
from .pam_stack import FirstFactor
from .pam_state import Condition
from .pam_status import moment
from .programs import has_systemd
from .sshd_config import effective

CONFIRM_DEFAULT = "5m"
CONFIRM_MIN_S, CONFIRM_MAX_S = 30, 86400

_SPAN = re.compile(r"(\d{1,5})(s|m|h)")
_UNITS = {"s": 1, "m": 60, "h": 3600}

service_argument = click.argument("service", shell_complete=complete_services)
first_factor_option = click.option(
    "--first-factor",
    type=click.Choice([factor.value for factor in FirstFactor]),
    help="what comes before the code: password, key (ssh only), or any of the two (ssh only); default: key for sshd, "
    "password for all others",
)
force_option = click.option(
    "--force",
    is_flag=True,
    help="go on although it looks as if no administrator could log in then, codes can't be texted or checked now, or "
    "Match blocks of sshd go without a code or can't be judged; nothing else is let pass",
)


root_option = click.option(
    "--root", default="/", metavar="FOLDER", help="of a system that is mounted there, and does not run"
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
    context.result(guard_service(context, service, first_factor, is_forced=force))


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
    done = guard_service(context, service, first_factor, is_forced=force, wait_s=wait_s)
    context.result(done)
    if done["is_changed"]:
        context.say(
            f"Log in now in another window. Unless somebody does, with a code, or you run `textgate pam confirm "
            f"{service}`, this is taken back in {confirm_within}. Keep this session open."
        )


def guard_service(
    context: Context,
    service: str,
    factor: str | None,
    *,
    is_forced: bool = False,
    wait_s: int | None = None,
    together_with: Collection[str] = (),
    admin: PamAdmin | None = None,
) -> dict[str, Any]:
    """Check, write, and say what was done.

    factor: of FirstFactor, None for the service's usual one. wait_s: a try's length; None for a firm one.
    together_with: services that the same command guards, of which no note says that they ask for no code.
    Raises TextgateError; then nothing was changed.
    """
    require_root()
    check_service(service)
    admin = admin or PamAdmin()
    first_factor = FirstFactor(factor or ("key" if service in SSHD_SERVICES else "password"))
    guard = admin.guard(service)
    is_half = guard is not None and admin.condition(guard) is Condition.HALF
    if not is_half and (guard is not None or service in admin.services()):
        _require_sound(admin, service)
    if guard is not None and not is_half:
        admin.enable(service, first_factor, now_at=int(time.time()))
        words = f"is being tried until {moment(guard.confirm_by)}; textgate pam confirm {service}"
        context.say(f"{service} {words if guard.confirm_by else 'is guarded already'}.")
        return report(service, (), guard.confirm_by)
    if wait_s is not None and not has_systemd():
        raise PamAdminError(
            "systemd does not run here, and its timer would take the lines back",
            hint=f"use textgate pam enable {service}",
        )
    if is_half:
        context.say(f"note: {service}: a change was broken off in the middle; it is taken back first")
    _check_all(context, admin, service, first_factor, is_forced=is_forced)
    now_at = int(time.time())
    confirm_by = None if wait_s is None else now_at + wait_s
    changes = admin.enable(service, first_factor, now_at=now_at, confirm_by=confirm_by, is_forced=is_forced)
    if not changes:  # another command was quicker
        context.say(f"{service} is guarded already.")
        return report(service, (), None)
    show(context, service, changes, "guarded")
    tell_notes(context, admin)
    for note in notes(context, admin, service, together_with):
        context.say(f"note: {note}")
    return report(service, changes, confirm_by)


def _check_all(
    context: Context,
    admin: PamAdmin,
    service: str,
    first_factor: FirstFactor,
    *,
    is_forced: bool,
) -> None:
    """Everything that can be known before a file is touched. Raises TextgateError.

    is_forced: nobody needs a way in. What lets people in without a code, or with nothing else, is never let pass.
    """
    after = admin.plan(service, first_factor)[-1].after or b""
    rules = admin.planned_rules(service, after.decode(errors="surrogateescape"))
    if not is_forced:
        _require_way_in(context, admin, service, first_factor)
    played = tuple(dict.fromkeys(dry_run() + dry_run(rules)))
    empty = way_in.Logins().without_password()
    _require_none(
        f"{service} would not be safe",
        failures(faults_of(Subject(service, rules, False, empty, played, bool(admin.block().faults)))),
    )


def _require_sound(admin: PamAdmin, service: str) -> None:
    """A service that asks for a code already has none of the faults of `guard_faults`. Raises PamAdminError."""
    found = health(admin, service, empty_users=way_in.Logins().without_password(), try_lines=dry_run)
    _require_none(f"{service} is guarded already, and is not safe", failures(found))


def _require_none(what: str, faults: Sequence[Fault]) -> None:
    """Raises PamAdminError if there are any."""
    if faults:
        messages = "; ".join(fault.message for fault in faults)
        remedies = dict.fromkeys(fault.remedy for fault in faults if fault.remedy)
        raise PamAdminError(f"{what}: {messages}", hint="\n".join(remedies) or None)


def _require_way_in(context: Context, admin: PamAdmin, service: str, first_factor: FirstFactor) -> None:
    """Somebody who can become root can log in with a code, and texts go out. Raises PamAdminError."""
    admins = enrolled_admins(context.config)
    if not admins:
        raise PamAdminError(
            "nobody who can become root has a phone: the machine would be closed to its administrators",
            hint="enrol one of them first: textgate enrol USER",
        )
    if all(way_in.is_refused(one, context.config) for one in admins):
        names = ", ".join(one.name for one in admins)
        raise PamAdminError(
            f"textgate refuses every administrator with a phone: {names}",
            hint=f"take one of them out of [refused] in {context.config_path}",
        )
    if service in SSHD_SERVICES:
        obstacles = way_in.ssh_obstacles(
            admins, first_factor, lambda user: effective(admin.effective_sshd(user)), context.config
        )
        if obstacles:
            raise PamAdminError(
                "no administrator with a phone could log in by ssh: " + "; ".join(obstacles),
                hint="enrol one who can, mend that, or choose another --first-factor",
            )
    status = context.status(is_fresh=True)
    # None is a gateway that can't be asked; whoever is enrolled had a text from it.
    if not status["store"]["is_up"] or status["gateway"]["is_up"] is False:
        raise PamAdminError("codes could not be texted or checked now", hint="see: textgate status")


def notes(context: Context, admin: PamAdmin, service: str, together_with: Collection[str] = ()) -> list[str]:
    """What is worth knowing once a service is guarded. together_with: services that are about to be, too."""
    found = []
    guarded = {*admin.services(), *together_with}
    doors = survey(admin, wishes_of(context.config))
    if service_of(service).leads is Leads.ROOT:
        found += [
            f"{message_of(door)}, and asks for no code yet: textgate pam try {door.name}"
            for door in open_doors(doors, root_only=True)
            if door.name not in guarded
        ]
    if service in way_in.SUDO_PAIR:
        sudoers = way_in.Logins().sudoers
        lines = sudoers.unasked()
        if lines:
            found.append(f"by these lines sudo asks nothing, and so no code either: {', '.join(lines)}")
        for place, name in sudoers.services():
            if name not in guarded:
                found.append(f"{place} has sudo ask the PAM service {name}, which asks for no code")
    if service in SSHD_SERVICES:
        settings = effective(admin.effective_sshd())
        if settings.get("permitrootlogin") != "no" and way_in.root_is_shut_out(settings):
            found.append(
                f"root can't log in by ssh any more, with a key and a right code either: PermitRootLogin "
                f"{settings.get('permitrootlogin')}; see SSH in pam_textgate(8)"
            )
    if service in ("su", "su-l") and "root" not in {account.name for account in enrolled_admins(context.config)}:
        found.append("su texts the code to the target's phone, and root has none: textgate enrol root")
    others = [name for name in admin.services_through(service) if name != service]
    if others:
        found.append(f"so are {', '.join(others)}, by way of {service}")
    return found


@pam.command()
@click.argument("service", required=False, shell_complete=complete_services)
@click.option("--all", "is_all", is_flag=True, help="every service that textgate guards: all of them, or none")
@root_option
@command
def disable(context: Context, service: str | None, is_all: bool, root: str) -> None:
    """Take textgate's lines out of SERVICE: its files get back the very bytes that they had before.

    Needs Python's own library alone: no configuration, no daemon, and none of textgate's libraries.
    """
    if (service is None) is not is_all:
        raise click.UsageError("name a service, or say --all")
    pam_commands.disable(context, _admin(root), service)


@pam.command()
@click.argument("service", required=False, shell_complete=complete_services)
@root_option
@command
def confirm(context: Context, service: str | None, root: str) -> None:
    """Make a try firm: of SERVICE, or of every service that is being tried."""
    pam_commands.confirm(context, _admin(root), service)


@pam.command()
@click.option("--package", is_flag=True, help="leave alone what was changed by hand; for the package's own scripts")
@command
def repair(context: Context, package: bool) -> None:
    """Put textgate's own lines into order: those of /etc/pam.d/textgate, and of services from an earlier version.

    Options that are yours to choose in /etc/pam.d/textgate stay: prompt=, echo, noecho, text=, --socket, --deadline,
    --fail-open, quiet_log. The former file is kept as /var/lib/textgate/pam/block.former.
    """
    require_root()
    admin = PamRepair()
    done = admin.repair(is_careful=package)
    tell_notes(context, admin)
    context.result(
        {"files": [{"path": one.path, "diff": one.diff()} for one in done.changes], "left": list(done.left)}
    )
    for change in done.changes:
        context.say(change.diff().rstrip("\n"), has_lines=True)
    for sentence in done.left:
        context.say(f"note: {sentence}")
    if done.changes:
        context.say(f"as shipped again: {', '.join(change.path for change in done.changes)}")
    elif not done.left:
        context.say("textgate's lines are as they should be.")


@pam.command()
@root_option
@command
def status(context: Context, root: str) -> None:
    """Show which services ask for a code, what is wrong with them, and which others a password alone opens."""
    sys.exit(pam_commands.status(context, _admin(root), context.config_path))


def _admin(root: str) -> PamRemoval:
    return PamRemoval() if root == "/" else PamRemoval(root, pam_commands.run_nothing)


def parse_span(text: str) -> int:
    """ "90s", "5m", "1h" -> seconds, 30 to 86400. Raises UsageError."""
    match = _SPAN.fullmatch(text)
    found_s = int(match[1]) * _UNITS[match[2]] if match else 0
    if not CONFIRM_MIN_S <= found_s <= CONFIRM_MAX_S:
        raise UsageError("the time to confirm within must be from 30s to 24h", hint="such as 90s, 5m, 1h")
    return found_s
