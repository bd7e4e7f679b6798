# SPDX-License-Identifier: MIT
"""Looks at every PAM service of this machine: is it a door, is it guarded, does a password alone open it.

Needs nothing but the standard library, as pam_files does. A service whose file can't be read for certain counts as
open: libpam may read it otherwise.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .doors import (
    DOORS,
    NO_FILE,
    NOT_ASKED,
    Door,
    Leads,
    Service,
    State,
    opens_for_password,
    service_of,
    sshd_takes_passwords,
)
from .errors import TextgateError
from .pam_admin import PamAdmin
from .pam_files import SSHD_SERVICES
from .pam_stack import Rule, has_block

OTHER = "other"  # what libpam asks where a service has no auth lines of its own


@dataclass(frozen=True)
class Wishes:
    """What the configuration says of services.

    left_open: [services] left_open. asked_in: [required] services; empty for all of them.
    """

    left_open: Collection[str] = ()
    asked_in: Collection[str] = ()

    def asks_in(self, name: str) -> bool:
        """Whether a code is asked for in a service that has textgate's lines."""
        return not self.asked_in or name.lower() in {one.lower() for one in self.asked_in}


def survey(admin: PamAdmin, wishes: Wishes) -> list[Door]:
    """Every service of /etc/pam.d and /usr/lib/pam.d, and every other that a program here goes by, by name."""
    files = {name for name in admin.names() if not name.startswith("common-")}
    by_name = (service for service in DOORS if service.is_by_name and _is_there(admin, service))
    asked = {name for service in by_name for name in service.names}
    return [_door(admin, name, wishes, has_file=name in files) for name in sorted(files | asked)]


def _is_there(admin: PamAdmin, service: Service) -> bool:
    """Whether the program behind a service is installed, by a package or by hand."""
    by_hand = [path.replace("/usr/", "/usr/local/", 1) for path in service.programs if path.startswith("/usr/")]
    return not service.programs or admin.has_any([*service.programs, *by_hand])


def _door(admin: PamAdmin, name: str, wishes: Wishes, *, has_file: bool) -> Door:
    service = service_of(name)
    try:
        rules = _rules(admin, name) if has_file else admin.rules(OTHER) if service.has_pam else []
        state, why = _state(admin, name, service, rules, wishes)
        why = why or (NO_FILE if state is State.OPEN and not has_file and service.has_pam else "")
    except TextgateError as error:
        needs_none = service.leads is Leads.NOTHING
        state, why = (State.NEEDS_NONE, service.why) if needs_none else (State.OPEN, error.message)
    if state is State.OPEN and name.lower() in wishes.left_open:
        state, why = State.LEFT_OPEN, "[services] left_open"
    return Door(name, service, state, why, _guard_of(admin, name) if state is State.OPEN else "")


def _rules(admin: PamAdmin, name: str) -> list[Rule]:
    return admin.rules(name) or admin.rules(OTHER)


def _state(admin: PamAdmin, name: str, service: Service, rules: Sequence[Rule], wishes: Wishes) -> tuple[State, str]:
    """How a door is, and why. Raises TextgateError."""
    if has_block(rules):
        is_asked = wishes.asks_in(name) or service.leads is Leads.NOTHING
        return (State.GUARDED, "") if is_asked else (State.OPEN, NOT_ASKED)
    if service.leads is Leads.NOTHING:
        return State.NEEDS_NONE, service.why
    if not _is_there(admin, service):
        return State.ABSENT, "the program behind it is not installed"
    if not service.has_pam:
        return State.OPEN, ""
    if name in SSHD_SERVICES and not any(map(sshd_takes_passwords, admin.sshd_answers())):
        return State.CLOSED, "sshd takes no password alone"
    if not opens_for_password(rules):
        return State.CLOSED, "no administrator gets through it with a password alone"
    return State.OPEN, ""


def _guard_of(admin: PamAdmin, name: str) -> str:
    """The service to guard: another door that this one's lines come from, as su-l's come from su; or itself."""
    try:
        inside = sorted(admin.files_of(name) - {name})
    except TextgateError:
        return name
    return next((one for one in inside if service_of(one).leads in (Leads.ROOT, Leads.SHELL)), name)
