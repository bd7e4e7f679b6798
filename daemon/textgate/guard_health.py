# SPDX-License-Identifier: MIT
"""How a guarded service is: all that `guard_faults` wants to know of it, read from this machine.

Needs nothing but the standard library, as pam_files does. What can't be read is a fault like others, and never hides
one that can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .errors import TextgateError
from .guard_faults import Fault, Level, Remembered, Subject, faults_of
from .pam_admin import PamAdmin
from .pam_stack import Rule
from .pam_state import Condition

TryLines = Callable[[Sequence[Rule]], Sequence[str]]


def guarded_services(admin: PamAdmin) -> list[str]:
    """Each service that asks for a code, or should. Raises PamAdminError if what is remembered can't be read."""
    return sorted({*admin.remembered(), *admin.marked(), *admin.services()})


def health(admin: PamAdmin, service: str, *, empty_users: Sequence[str], try_lines: TryLines) -> list[Fault]:
    """All faults of a service as it is now; empty if there are none.

    empty_users: those whose password is empty. try_lines: plays a stack on this machine, as `pam_dry_run.dry_run`.
    """
    found: list[Fault] = []
    remembered, asks_anybody = Remembered(), False
    try:
        remembered = _remembered(admin, service)
    except TextgateError as error:
        found.append(_unreadable(error))
    try:
        rules = admin.rules(service)
    except TextgateError as error:
        return [*found, _unreadable(error)]
    try:
        asks_anybody = admin.asks_anybody(service)
    except TextgateError as error:
        found.append(_unreadable(error))
    played: Sequence[str] = ()
    is_block_changed = False
    try:
        is_block_changed = bool(admin.block().faults)
    except TextgateError as error:
        found.append(_unreadable(error))
    try:
        played = () if remembered.is_half else try_lines(rules)
    except TextgateError as error:
        found.append(Fault("dry-run", Level.FAILURE, error.message, error.hint))
    try:
        found += faults_of(Subject(service, rules, asks_anybody, empty_users, played, is_block_changed, remembered))
    except TextgateError as error:
        found.append(_unreadable(error))
    return found


def _remembered(admin: PamAdmin, service: str) -> Remembered:
    guard = admin.guard(service)
    if guard is None:
        return Remembered()
    is_tried = guard.confirm_by is not None
    return Remembered(
        is_half=admin.condition(guard) is Condition.HALF,
        is_tried=is_tried,
        has_timer=not is_tried or admin.is_timer_running(),
        revert_error=guard.fault,
    )


def _unreadable(error: TextgateError) -> Fault:
    return Fault("unreadable", Level.FAILURE, error.message, error.hint)
