# SPDX-License-Identifier: MIT
"""Puts textgate's block into the PAM files of the world, and takes it out again.

The three ways of a first factor are those of the manual: a key alone, a password alone, either of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

from .people import is_in_world
from .process import RigError

PAM_DIRECTORY = Path("/etc/pam.d")
BLOCK = "auth substack textgate\nauth requisite pam_textgate.so require"
COMMON = "@include common-auth"
_FIRST_FACTOR = """\
auth [success=1 default=ignore] pam_textgate.so first-factor
auth requisite pam_unix.so"""


class FirstFactor(Enum):
    """What comes before the code. The value: the PAM lines, and sshd's AuthenticationMethods."""

    KEY = (BLOCK, "publickey,keyboard-interactive:pam")
    PASSWORD = (f"{COMMON}\n{BLOCK}", "keyboard-interactive:pam")
    ANY = (f"{_FIRST_FACTOR}\n{BLOCK}", "publickey,keyboard-interactive:pam keyboard-interactive:pam")

    @property
    def pam_lines(self) -> str:
        """What takes the place of `@include common-auth`."""
        return self.value[0]

    @property
    def sshd_methods(self) -> str:
        """For AuthenticationMethods in sshd_config."""
        return self.value[1]


@contextlib.contextmanager
def pam_lines(service: str, first_factor: FirstFactor) -> Iterator[str]:
    """Inside the `with` block the service asks for a code; answers the file's text.

    Raises RigError when the file has no line to put it behind: then nothing would be tested.
    """
    if not is_in_world():
        raise RigError("PAM files are changed in a private world only")
    path = PAM_DIRECTORY / service
    before = path.read_text()
    lines = [line for line in before.splitlines() if line.strip() not in BLOCK.splitlines()]
    if lines.count(COMMON) != 1:
        raise RigError(f"{path}: {COMMON} is not there once")
    changed = "\n".join(first_factor.pam_lines if line == COMMON else line for line in lines) + "\n"
    _replace(path, changed)
    try:
        yield changed
    finally:
        _replace(path, before)


def _replace(path: Path, text: str) -> None:
    """In one step: a login that begins meanwhile finds the old file or the new one, never a half."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(path)
