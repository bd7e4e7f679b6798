# SPDX-License-Identifier: MIT
"""Logins to ask sshd about: for each Match block of its files one that is in it.

Which logins a block is for is sshd's to say. Here are only guesses, from the patterns of its line and from the people
of the machine; pam_sshd has sshd judge each of them.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .sshd_config import matches_pattern
from .sshd_words import criteria_of

GUESSES_MAX = 60  # of logins for one block
_WILD = ("x", "1", "")  # what a * may stand for


@dataclass(frozen=True)
class SshLogin:
    """All that a Match line can ask for. Without any of them sshd refuses to look at a line that does."""

    user: str = "root"
    host: str = "localhost"
    addr: str = "127.0.0.1"
    laddr: str = "127.0.0.1"
    lport: str = "22"
    rdomain: str = ""

    def words(self) -> str:
        """As after -C of sshd."""
        return (
            f"user={self.user},host={self.host},addr={self.addr},laddr={self.laddr},lport={self.lport},"
            f"rdomain={self.rdomain}"
        )

    @property
    def can_be_asked(self) -> bool:
        """Whether sshd can be told of it: a comma ends a value."""
        return not any("," in one for one in (self.user, self.host, self.addr, self.laddr, self.lport, self.rdomain))


# Somebody from elsewhere, of whom no file knows: addresses of RFC 5737, a name of RFC 2606.
STRANGER = SshLogin("textgate-nobody", "client.invalid", "192.0.2.1", "198.51.100.1")


Members = Callable[[Callable[[str], bool]], Iterable[str]]


def guesses(matches: Sequence[str], people: Sequence[str], members: Members) -> list[SshLogin]:
    """Logins that may be in the innermost of these Match blocks, the likeliest first, GUESSES_MAX of them at most.

    matches: what follows `Match` on each line, from the outermost. people: names of users. members: those of
    the groups whose names a function is for. Raises ValueError for a line that can't be read.
    """
    wanted: dict[str, list[str]] = {}
    for kind, argument in (pair for line in matches for pair in criteria_of(line)):
        field = _FIELDS.get(kind)
        if kind == "group":
            wanted.setdefault("user", []).extend([*members(_is_among(argument)), *people])
        elif field is not None:
            more = people if field == "user" else ()
            wanted.setdefault(field, []).extend([*_examples(argument), *more])
    usual = [STRANGER, SshLogin(), *(replace(STRANGER, user=user) for user in people)]
    found: dict[SshLogin, None] = {}
    for base in usual:
        fields = {field: list(dict.fromkeys([*values, getattr(base, field)])) for field, values in wanted.items()}
        for values in itertools.islice(itertools.product(*fields.values()), GUESSES_MAX):
            login = replace(base, **dict(zip(fields, values, strict=True)))
            if login.can_be_asked:
                found[login] = None
    return list(found)[:GUESSES_MAX]


_FIELDS = {
    "user": "user",
    "host": "host",
    "address": "addr",
    "localaddress": "laddr",
    "localport": "lport",
    "rdomain": "rdomain",
}


def _is_among(patterns: str) -> Callable[[str], bool]:
    return lambda name: any(matches_pattern(name, pattern) for pattern in patterns.split(","))


def _examples(patterns: str) -> Iterator[str]:
    """Values that a list of patterns may be for; those behind a ! are none."""
    for pattern in patterns.split(","):
        if not pattern or pattern.startswith("!"):
            continue
        try:
            network = ipaddress.ip_network(pattern, strict=False)
        except ValueError:
            yield from dict.fromkeys(pattern.replace("*", wild).replace("?", wild or "x") for wild in _WILD)
        else:
            yield from (str(network[0]), str(network[-1]))
