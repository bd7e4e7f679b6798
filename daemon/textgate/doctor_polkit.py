# SPDX-License-Identifier: MIT
"""What `textgate doctor` says of polkit's rules: where it asks nothing for what comes to root.

Rules are programs, and nobody can tell for certain what they allow. Named are those of the administrator (/etc,
/usr/local, /run, and the key files of polkitd-pkla) that say yes and name an action that gives root, or look at
no action at all. Rules that packages bring are theirs to answer for.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .finding import Finding
from .guard_faults import Level
from .plain_files import read_plain

if TYPE_CHECKING:
    from .doctor import Machine

RULES = (
    "etc/polkit-1/rules.d/*.rules",
    "run/polkit-1/rules.d/*.rules",
    "usr/local/share/polkit-1/rules.d/*.rules",
    "etc/polkit-1/localauthority/*/*.pkla",
    "var/lib/polkit-1/localauthority/*/*.pkla",
)
_FILE_MAX_BYTES = 1 << 20
_ASKED_BY = frozenset({"polkit-1", "sudo", "sudo-i", "doas"})
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*|^[ \t]*#[^\n]*", re.DOTALL | re.MULTILINE)
_YES = re.compile(r"Result\s*\.\s*YES|[\"']yes[\"']|^[ \t]*Result\w*[ \t]*=[ \t]*yes", re.MULTILINE)
# Root by itself: a program or unit of one's own, another root shell, a package of one's own, a user.
_TO_ROOT = re.compile(
    r"org\.freedesktop\.(?:policykit|systemd1|machine1|packagekit|accounts|home1|portable1|import1|sysupdate1)"
    r"|org\.libvirt\.unix\.manage|org\.debian\.|org\.cockpit|io\.snapcraft|org\.freedesktop\.Flatpak"
    r"|Action[ \t]*=[ \t]*(?:\*|org\.\*|org\.freedesktop\.\*)",
    re.IGNORECASE,
)
_BY_ACTION = re.compile(r"\baction\s*\.\s*id\b|\baction\s*\[|^[ \t]*Action[ \t]*=", re.MULTILINE)


def check_polkit(machine: Machine) -> Iterator[Finding]:
    """All findings; none where nothing that gives root asks for a code."""
    if _ASKED_BY.isdisjoint(machine.guarded):
        return
    for path in (path for pattern in RULES for path in sorted(Path(machine.root).glob(pattern))):
        if _may_give_root(path):
            name = f"/{path.relative_to(machine.root)}"
            told = f"{name} may give root and ask nothing, and so no code either"
            yield Finding("polkit", Level.WARNING, told, f"look at what {name} says yes to; AUTH_ADMIN asks")


def _may_give_root(path: Path) -> bool:
    text = ""
    with contextlib.suppress(OSError):
        text = _COMMENT.sub("", read_plain(path, _FILE_MAX_BYTES).decode(errors="replace"))
    return bool(_YES.search(text)) and (bool(_TO_ROOT.search(text)) or not _BY_ACTION.search(text))
