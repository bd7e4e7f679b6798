# SPDX-License-Identifier: MIT
"""What `textgate pam disable`, `pam confirm` and `pam status` do: the way out, on Python's own library alone.

Needs no configuration, no daemon, and none of textgate's libraries (tests/unit/test_layers.py holds that line): when
nobody gets in any more, one of those may be the reason.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from . import way_in
from .config import parse_config
from .doctor_doors import door_lines, door_rows, level_of, wishes_of
from .door_survey import Wishes, survey
from .errors import ExitCode, TextgateError
from .guard_faults import Level
from .pam_admin import PamAdmin
from .pam_dry_run import dry_run
from .pam_files import PamAdminError
from .pam_removal import PamRemoval
from .pam_status import moment, row_text, service_rows
from .transaction import FileChange


class Output(Protocol):
    """Where results go: lines for people, or one object with --json."""

    def say(self, text: str, *, has_lines: bool = False) -> None:
        """A line for a person, or several."""

    def result(self, data: Mapping[str, Any]) -> None:
        """The object."""


def disable(output: Output, admin: PamRemoval, service: str | None) -> None:
    """Take textgate's lines out of a service, or with None out of all of them or none. Raises TextgateError."""
    require_root()
    done = admin.disable_all() if service is None else {service: admin.disable(service)}
    for name, changes in done.items():  # all is done by now, should nobody read any more what is shown
        show(output, name, changes, "no longer guarded")
    admin.forget_formerly(service)
    if not done:
        output.say("textgate guards nothing.")
    tell_notes(output, admin)
    output.result({"services": [report(name, changes, None) for name, changes in done.items()]})


def confirm(output: Output, admin: PamAdmin, service: str | None) -> None:
    """Make a try firm, or with None all of them. Raises TextgateError."""
    require_root()
    names = [guard.service for guard in admin.pending()] if service is None else [service]
    confirmed = [name for name in names if admin.confirm(name)]
    tell_notes(output, admin)
    output.result({"confirmed": confirmed})
    output.say(f"confirmed: {', '.join(confirmed)}" if confirmed else "nothing is being tried")


def status(output: Output, admin: PamAdmin, config_path: str) -> ExitCode:
    """Show every guarded service, and every door that a password alone opens. FAILURE if something is wrong with one.

    config_path: says which doors are meant to be open. Raises TextgateError.
    """
    require_root()
    error = _recovered(admin)
    rows = service_rows(admin, empty_users=way_in.Logins().without_password(), try_lines=dry_run)
    doors = survey(admin, _wishes(config_path))
    tell_notes(output, admin)
    output.result({"services": rows, "doors": door_rows(doors, config_path)})
    if error:
        output.say(f"NOT SAFE: {error.message}")
        output.say(f"{'':12} -> {error.hint}")
    if not rows:
        output.say("No service asks for a code. Start with: textgate pam try sshd")
    for row in rows:
        output.say(row_text(row), has_lines=True)
    for line in door_lines(doors, config_path):
        output.say(line, has_lines=True)
    is_open = any(level_of(door, doors) is Level.FAILURE for door in doors)
    return ExitCode.FAILURE if error or is_open or any(row["faults"] for row in rows) else ExitCode.OK


def _wishes(config_path: str) -> Wishes:
    """What the configuration says of services; nothing, whatever it is that keeps it from being read."""
    try:
        return wishes_of(parse_config(Path(config_path).read_text(), config_path=config_path))
    except Exception:  # of a library as well
        return Wishes()


def run_nothing(_arguments: Sequence[str]) -> tuple[int, str]:
    """In place of programs: a system that is mounted somewhere has no sshd or systemd to be told."""
    return 1, ""


def _recovered(admin: PamAdmin) -> PamAdminError | None:
    """Why a change that was broken off could not be dealt with; None if it could, or there is none."""
    try:
        if admin.is_broken_off():
            admin.recover()
    except PamAdminError as error:
        return error
    return None


def require_root() -> None:
    """Raises TextgateError for everybody else."""
    if os.geteuid() != 0:
        raise TextgateError("only root may see and change who guards PAM services", hint="run it with sudo")


def tell_notes(output: Output, admin: PamAdmin) -> None:
    """What happened by the way."""
    for note in admin.notes:
        output.say(f"note: {note}")


def show(output: Output, service: str, changes: Sequence[FileChange], word: str) -> None:
    """A change for people."""
    for change in changes:
        output.say(change.diff().rstrip("\n"), has_lines=True)
    output.say(f"{service} is {word}." if changes else f"{service} was not guarded.")


def report(service: str, changes: Sequence[FileChange], confirm_by: int | None) -> dict[str, Any]:
    """A change for programs."""
    return {
        "service": service,
        "is_changed": bool(changes),
        "files": [change.path for change in changes],
        "diff": "".join(change.diff() for change in changes),
        "confirm_by": moment(confirm_by),
    }
