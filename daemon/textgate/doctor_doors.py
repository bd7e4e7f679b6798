# SPDX-License-Identifier: MIT
"""What doctor, `pam status` and setup say of the doors of a machine, open and closed ones."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from .config import Config
from .door_survey import Wishes
from .doors import Door, State, message_of, open_doors, remedy_of
from .finding import Finding
from .guard_faults import Level

CONFIG_PATH = "/etc/textgate/textgate.toml"
_SHOWN = "doors"
SUGGESTED_SERVICES = ("sshd", "sudo", "sudo-i")  # and what else gives root for sudo's password


def wishes_of(config: Config | None) -> Wishes:
    """What a configuration says of services; None for one that can't be read, which says nothing."""
    return Wishes(config.services.left_open, config.required.services) if config else Wishes()


def level_of(door: Door, doors: Collection[Door]) -> Level:
    """How bad a door is. One that is open is a failure where it gives root for a password that sudo asks a code for.

    Where nothing is guarded, a door is as open as all others, and no finding.
    """
    guarded = [one for one in doors if one.state is State.GUARDED]
    if not guarded:
        return Level.OK
    if door.state is State.LEFT_OPEN:
        return Level.WARNING if door.is_root else Level.OK
    if door.state is not State.OPEN:
        return Level.OK
    return Level.FAILURE if door.is_root and any(one.is_root for one in guarded) else Level.WARNING


def door_findings(doors: Collection[Door], config_path: str = CONFIG_PATH) -> Iterator[Finding]:
    """Doctor's findings. Nothing where no service is guarded, which another check tells."""
    if not any(door.state is State.GUARDED for door in doors):
        return
    for door in open_doors(doors):
        yield Finding(
            _SHOWN, level_of(door, doors), message_of(door), remedy_of(door, config_path), door.name, "door-open"
        )
    left = [door for door in doors if door.state is State.LEFT_OPEN]
    for door in left:
        told = f"{message_of_left(door)}, as [services] left_open says"
        remedy = f"textgate pam try {door.name}, and take it out of [services] left_open" if door.is_root else None
        yield Finding(_SHOWN, level_of(door, doors), told, remedy, door.name, "door-left-open")
    if not left and not any(open_doors(doors)):
        yield Finding(_SHOWN, Level.OK, "every service that a password alone would open has textgate's lines")


def message_of_left(door: Door) -> str:
    """A door that was left open, in one sentence."""
    return message_of(Door(door.name, door.service, door.state))


def door_rows(doors: Collection[Door], config_path: str = CONFIG_PATH) -> list[dict[str, Any]]:
    """Every service for programs, as `pam status --json` prints it."""
    return [
        {
            "service": door.name,
            "leads_to": door.service.leads.value,
            "state": door.state.value,
            "level": level_of(door, doors).name.lower(),
            "message": message_of(door) if door.state is State.OPEN else None,
            "why": door.why or None,
            "remedy": remedy_of(door, config_path) if door.state is State.OPEN else None,
        }
        for door in doors
    ]


def door_lines(doors: Collection[Door], config_path: str = CONFIG_PATH) -> Iterator[str]:
    """Every service that is not guarded, for people: first those that a password alone opens."""
    opened = sorted(open_doors(doors), key=lambda door: (not door.is_root, door.name))
    if opened:
        yield "\nA password alone opens:"
    for door in opened:
        yield f"{door.name:12} {message_of(door).removeprefix(f'{door.name} ')}"
        yield f"{'':12} -> {remedy_of(door, config_path)}"
    rest = [door for door in doors if door.state in (State.LEFT_OPEN, State.CLOSED, State.NEEDS_NONE)]
    if rest:
        yield "\nNot guarded, and why:"
    reasons: dict[str, list[str]] = {}
    for door in rest:
        reasons.setdefault(door.why, []).append(door.name)
    for why, services in reasons.items():
        yield f"{', '.join(services)}: {why}"


def suggestions(doors: Collection[Door]) -> tuple[list[str], list[str]]:
    """The services that a machine should guard, and, in words, the other doors that a password alone opens."""
    there = [door for door in doors if door.state is not State.ABSENT]
    roots = [door.name for door in there if door.is_root]
    suggested = [name for name in SUGGESTED_SERVICES if any(door.name == name for door in there)]
    suggested += [name for name in roots if name not in suggested]
    others = [door for door in open_doors(there) if door.name not in suggested and door.service.can_ask]
    return suggested, [f"{door.name} ({door.service.what})" if door.service.what else door.name for door in others]
