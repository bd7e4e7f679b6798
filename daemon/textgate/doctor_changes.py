# SPDX-License-Identifier: MIT
"""doctor's check for changes that did not come to their end, and for guards that a removal took along."""

from __future__ import annotations

from collections.abc import Iterator

from .finding import Finding
from .guard_faults import Level
from .pam_removal import REMOVED, PamRemoval


def check_changes(removal: PamRemoval) -> Iterator[Finding]:
    """Raises PamAdminError."""
    if removal.is_broken_off():
        yield Finding(
            "changes",
            Level.FAILURE,
            "a change of PAM files was broken off, and is not taken back yet",
            "textgate pam status  # any textgate pam takes it back, and tells what stands in the way",
        )
    if removal.is_suspended():
        yield Finding(
            "changes",
            Level.FAILURE,
            "a removal of the package has taken services out of guard, and did not come to its end",
            "install the package again, or remove it again; or: /usr/libexec/textgate/rescue resume",
        )
    names = removal.formerly_guarded()
    if names:
        yield Finding(
            "changes",
            Level.WARNING,
            f"guarded before the package was removed, and not now: {', '.join(names)}",
            f"textgate pam try SERVICE for each; or, if that is meant: rm {REMOVED}",
        )
