# SPDX-License-Identifier: MIT
"""What doctor says of /etc/pam.d/textgate itself: is it the block that was shipped, and what is set in it by hand?"""

from __future__ import annotations

from collections.abc import Iterator

from .finding import Finding
from .guard_faults import Level
from .pam_block import BLOCK, FAIL_OPEN
from .pam_files import PamFiles

REMEDY = "textgate pam repair"
_SHOWN = "block"


def block_findings(files: PamFiles) -> Iterator[Finding]:
    """Each line that is not as it was shipped, and the options of the administrator's own. Raises PamAdminError."""
    found = files.block()
    for fault in found.faults:
        yield Finding(_SHOWN, Level.FAILURE, fault, REMEDY, fault="block-changed")
    for option in found.options:
        yield Finding(_SHOWN, Level.OK, option)
    if found.is_fail_open:
        message = f"{BLOCK} has {FAIL_OPEN}: whoever knows a password gets in without a code while textgated is away"
        yield Finding(_SHOWN, Level.WARNING, message, f"take {FAIL_OPEN} out of {BLOCK}")
    if not found.faults:
        yield Finding(
            _SHOWN, Level.OK, f"{BLOCK} is as it was shipped" + (", but for options" if found.options else "")
        )
