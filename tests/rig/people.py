# SPDX-License-Identifier: MIT
"""Who lives in the private world, and where it keeps what tests and demo need to know of them.

The passwords are new in every world and are kept, like the ssh keys, in a directory that only root can enter.
The phone numbers begin as no Danish number does, so that they can belong to nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WORLD = Path("/run/textgate-world")
"""Exists, with `ready` in it, in a private world and nowhere else."""
READY = WORLD / "ready"
KEYS = WORLD / "keys"
PASSWORDS = WORLD / "passwords"
KEPT = WORLD / "kept"
HOST_NAME = "web1"

DAEMON_USER = "textgate"
ADMIN_GROUP = "textgate-admin"


@dataclass(frozen=True)
class Person:
    """One user. phone: as it is written in the phones file, or None for none."""

    name: str
    groups: tuple[str, ...]
    phone: str | None

    @property
    def password(self) -> str:
        """The password to this world's account. Raises FileNotFoundError outside a world."""
        return (PASSWORDS / self.name).read_text()

    @property
    def key_path(self) -> Path:
        """The private half of the ssh key that lets this person in."""
        return KEYS / self.name

    @property
    def msisdn(self) -> int:
        """The phone number as GatewayAPI writes it. Raises LookupError for somebody without one."""
        if self.phone is None:
            raise LookupError(f"{self.name} has no phone")
        return int("".join(filter(str.isdigit, self.phone)))


ALICE = Person("alice", groups=("sudo",), phone="+45 12 34 56 78")
BOB = Person("bob", groups=("sudo",), phone="+45 12 34 56 79")
CAROL = Person("carol", groups=("sudo",), phone=None)
DAVE = Person("dave", groups=(ADMIN_GROUP,), phone="+45 12 34 56 80")
PEOPLE = (ALICE, BOB, CAROL, DAVE)


def is_in_world() -> bool:
    """Whether this process runs in a private world, where files and users may be changed at will."""
    return READY.exists()
