# SPDX-License-Identifier: MIT
"""One line of what `textgate doctor` says; every check yields these."""

from __future__ import annotations

from dataclasses import dataclass

from .guard_faults import Fault, Level


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    remedy: a command, or a setting with its file; None where there is nothing to mend. service, fault: the PAM
    service that it is about, and the name of what is wrong with it; for programs, None where there is none.
    """

    check: str
    level: Level
    message: str
    remedy: str | None = None
    service: str | None = None
    fault: str | None = None

    @classmethod
    def of_fault(cls, service: str, fault: Fault) -> Finding:
        """A fault of a guarded service."""
        return cls("pam", fault.level, f"{service}: {fault.message}", fault.remedy, service, fault.name)
