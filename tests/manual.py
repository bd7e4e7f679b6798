# SPDX-License-Identifier: MIT
"""What the manual says that commands print with --json, for tests that hold them to it."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "packaging/man/textgate.8.md"


def json_terms() -> dict[str, str]:
    """Command -> what the section JSON says of it."""
    section = PAGE.read_text().partition("\n## JSON\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^`([a-z -]+)`\n:   (.+)$", section, re.MULTILINE))


def json_keys(command: str) -> tuple[str, ...]:
    """The names that it says there, in their order."""
    return tuple(re.findall(r"`(\w+)`", json_terms()[command]))
