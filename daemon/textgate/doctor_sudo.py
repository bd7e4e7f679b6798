# SPDX-License-Identifier: MIT
"""What `textgate doctor` says of sudo: where it asks nothing, whom it asks, and how long it remembers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .finding import Finding
from .guard_faults import Level
from .sudoers import MEMORY_USUAL_MIN
from .way_in import SUDO_PAIR

if TYPE_CHECKING:
    from .doctor import Machine


def check_sudo(machine: Machine) -> Iterator[Finding]:
    """All findings; none where sudo asks for no code."""
    if not set(SUDO_PAIR) & set(machine.guarded):
        return
    sudoers = machine.logins.sudoers
    for place in sudoers.unasked():
        message = f"{place} lets sudo ask nothing, and so no code either"
        yield Finding("sudo", Level.WARNING, message, _edit(place))
    for place, service in sudoers.services():
        if service not in machine.guarded:
            message = f"{place} has sudo ask the PAM service {service}, which asks for no code"
            yield Finding("sudo", Level.FAILURE, message, f"{_edit(place)}, or textgate pam try {service}")
    for place, words in sudoers.memories():
        yield Finding("sudo", Level.WARNING, f"{place} {words}", _edit(place))
    yield _usual_memory(machine)


def _edit(place: str) -> str:
    return f"visudo -f {place.rpartition(':')[0]}"


def _usual_memory(machine: Machine) -> Finding:
    """How long sudo asks nothing again, by its own word."""
    code, output = machine.run(["sudo", "-V"])
    match = re.search(r"[Tt]imestamp timeout: (-?[\d.]+)", output)
    if code != 0 or match is None:
        return Finding("sudo", Level.WARNING, "how long it asks nothing again can't be found out", "sudo -V")
    minutes = float(match[1])
    if minutes == 0:
        return Finding("sudo", Level.OK, "asks for a code each time")
    span = "for ever" if minutes < 0 else f"for {minutes:g} minutes"
    is_long = minutes < 0 or minutes > MEMORY_USUAL_MIN
    return Finding(
        "sudo", Level.WARNING if is_long else Level.OK, f"asks nothing again {span} after a code",
        "visudo: Defaults timestamp_timeout=0",
    )  # fmt: skip
