# SPDX-License-Identifier: MIT
"""Which start of which machine this is: pids and start times of processes mean something in one boot only."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "TEXTGATE_BOOT_ID"  # set by the unit, in which all of /proc but the processes is hidden
FILE = "/proc/sys/kernel/random/boot_id"

_BOOT_ID = re.compile(r"[0-9a-f]{32}")


def boot_id(environ: Mapping[str, str], file: str = FILE) -> str:
    """32 hex digits that no other boot has, of this machine or of another (random(4)).

    Where nobody can tell it is made up, and with it the logins that are under way end when the daemon does.
    """
    said = environ.get(VARIABLE, "")
    try:
        said = said or Path(file).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        said = ""
    said = said.replace("-", "")
    return said if _BOOT_ID.fullmatch(said) else secrets.token_hex(16)
