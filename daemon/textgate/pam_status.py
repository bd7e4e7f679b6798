# SPDX-License-Identifier: MIT
"""What `textgate pam status` shows: each service that asks for a code or should, and what is wrong with it."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import TextgateError
from .guard_faults import Fault, failures
from .guard_health import TryLines, guarded_services, health
from .pam_admin import PamAdmin
from .pam_state import Condition, Guard
from .printable import printable


def service_rows(admin: PamAdmin, *, empty_users: Sequence[str], try_lines: TryLines) -> list[dict[str, Any]]:
    """Each service that asks for a code or should: who put the lines in, is it a try, what is wrong with it."""
    return [
        _row(admin, name, health(admin, name, empty_users=empty_users, try_lines=try_lines))
        for name in guarded_services(admin)
    ]


def _row(admin: PamAdmin, name: str, found: Sequence[Fault]) -> dict[str, Any]:
    guard: Guard | None = None
    condition = None
    with contextlib.suppress(TextgateError):  # which is among the faults
        guard = admin.guard(name)
        condition = admin.condition(guard) if guard else None
    failed = failures(found)
    return {
        "service": name,
        "is_ours": guard is not None,
        "is_changed": condition is Condition.CHANGED,
        "first_factor": guard.first_factor.value if guard else None,
        "confirm_by": moment(guard.confirm_by) if guard else None,
        "faults": [fault.message for fault in failed],
        "remedy": failed[0].remedy if failed else None,
        "findings": [fault_row(fault) for fault in found],
    }


def fault_row(fault: Fault) -> dict[str, Any]:
    """A fault for programs."""
    return {
        "fault": fault.name,
        "level": fault.level.name.lower(),
        "message": fault.message,
        "remedy": fault.remedy,
    }


def row_text(row: Mapping[str, Any]) -> str:
    """A row of `service_rows` for people."""
    text = f"{row['service']:12} " + (
        "NOT SAFE: " + printable("; ".join(row["faults"])) if row["faults"] else "guarded"
    )
    if row["first_factor"]:
        text += f", {row['first_factor']} then code"
    if row["confirm_by"]:
        text += f", taken back at {row['confirm_by']} unless confirmed"
    if row["is_changed"]:
        text += ", changed by hand since"
    if not row["is_ours"]:
        text += ", not put in by `textgate pam`"
    others = [one["message"] for one in row["findings"] if one["level"] == "warning" and not _is_shown(one)]
    text += "".join(f"\n{'':12} warning: {printable(message)}" for message in others)
    remedies = dict.fromkeys(one["remedy"] for one in row["findings"] if one["remedy"] and not _is_shown(one))
    return text + "".join(f"\n{'':12} -> {printable(remedy)}" for remedy in remedies)


def _is_shown(found: Mapping[str, Any]) -> bool:
    """Whether the line says it already: until when a try goes on."""
    return bool(found["fault"] == "not-confirmed")


def moment(at: int | None) -> str | None:
    """Unix seconds as local time, in the form of ISO 8601."""
    return None if at is None else dt.datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")
