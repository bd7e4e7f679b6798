# SPDX-License-Identifier: MIT
"""What doctor says of [failmode]: the services in which a part that is away opens a door, and what was meant to."""

from __future__ import annotations

from collections.abc import Iterator

from .config import Config, cautions
from .finding import Finding
from .guard_faults import Level

_PARTS = {"store": "Redis", "gateway": "the gateway"}


def failmode_findings(config: Config) -> Iterator[Finding]:
    """Each kind that is "safe", with its services, and each service that is named in the wrong list."""
    failmode, ssh = config.failmode, config.services.ssh
    named = dict.fromkeys((*failmode.safe_services, *failmode.safe_local_services))
    opened = [service for service in named if failmode.is_safe_in(service, ssh)]
    local = [service for service in opened if service not in ssh]
    for kind, part in _PARTS.items():
        if getattr(failmode, kind) == "safe" and opened:
            message = f"when {part} is away, {', '.join(opened)} let in without a code"
            if local:
                message += f"; whoever has a shell here may bring that about in {', '.join(local)}"
            remedy = f'set [failmode] {kind} = "secure" in {config.path}'
            yield Finding("config", Level.WARNING, message, remedy)
    for caution in cautions(config):
        yield Finding("config", Level.WARNING, caution, f"edit {config.path}")
