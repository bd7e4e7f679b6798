# SPDX-License-Identifier: MIT
"""Who a user is, as NSS says (passwd, LDAP through sssd, winbind, …).

A name comes from a login prompt, so it is looked at before NSS sees it. Python tells "no such user" and "the
server behind NSS is away" apart only where the C library raises something else than "not found"; both refuse
the login. Groups are the weak spot: a directory server that is away makes groups vanish without an error.
A group that can't be named is therefore reported (`has_unnamed_groups`) and counts against the login. One
that NSS leaves out can't be seen, so "[required] groups" should name local groups, or be left empty.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable

from .errors import TextgateError
from .policy import Account

FIRST_UID, NOBODY_UID = 1000, 65534
MAX_NAME_BYTES = 256  # the longest that Linux tools take (LOGIN_NAME_MAX, limits.h)


class AccountsError(TextgateError):
    """NSS broke while it was asked for a user; whether he exists is not known."""


class NssAccounts:
    """Looks up users through NSS. Any thread may use it; each call may wait for a server.

    with_groups: False where no rule names a group: then nobody's groups are asked for, which is the dear part
    (Debian's `group: files systemd` looks into some fifty places), and every account is without any.
    """

    def __init__(self, *, with_groups: bool = True) -> None:
        self._with_groups = with_groups

    def lookup(self, user: str) -> Account | None:
        """The account of a user, under its canonical name, or None if there is none.

        user: untrusted. Names that no account can have are unknown without asking NSS.
        Raises AccountsError if NSS fails in a way that can be told from "unknown".
        """
        if not is_askable(user):
            return None
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            return None
        except (OSError, MemoryError, ValueError):
            raise AccountsError("the user database can't be read") from None
        if not is_askable(entry.pw_name):
            return None
        groups, has_unnamed_groups = _groups(entry) if self._with_groups else (frozenset[str](), False)
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, groups, entry.pw_gecos, has_unnamed_groups)


def names_of_people() -> frozenset[str]:
    """Root and the users that are persons (login.defs(5): UID_MIN), as far as NSS lists them: not for rules."""
    return frozenset(
        entry.pw_name
        for entry in pwd.getpwall()
        if entry.pw_uid == 0 or (entry.pw_uid >= FIRST_UID and entry.pw_uid != NOBODY_UID)
    )


def group_members(is_wanted: Callable[[str], bool]) -> list[str]:
    """Users of the groups of these names, the primary ones' too, as far as NSS lists them: not for rules."""
    groups = [entry for entry in grp.getgrall() if is_wanted(entry.gr_name)]
    gids = {entry.gr_gid for entry in groups}
    primary = (entry.pw_name for entry in pwd.getpwall() if entry.pw_gid in gids)
    return list(dict.fromkeys([*(name for entry in groups for name in entry.gr_mem), *primary]))


def is_askable(user: str) -> bool:
    """Whether NSS may be asked for a name: 1 to 256 bytes of UTF-8, printable, no slash and no colon.

    Backends build paths, file lines and queries from names; these are the characters that end one.
    """
    try:
        size_bytes = len(user.encode())
    except UnicodeEncodeError:  # a lone surrogate: bytes that were not UTF-8
        return False
    return 0 < size_bytes <= MAX_NAME_BYTES and user.isprintable() and not set(user) & {"/", ":"}


def _groups(entry: pwd.struct_passwd) -> tuple[frozenset[str], bool]:
    """The names of a user's groups, and whether there are any without a name."""
    try:
        gids = {entry.pw_gid, *os.getgrouplist(entry.pw_name, entry.pw_gid)}
        named = {_group_name(gid) for gid in gids}
    except (OSError, MemoryError, ValueError):
        raise AccountsError("the group database can't be read") from None
    return frozenset(name for name in named if name is not None), None in named


def _group_name(gid: int) -> str | None:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return None
