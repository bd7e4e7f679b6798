# SPDX-License-Identifier: MIT
"""Who can become root on this machine, and to whose phone a code may be texted: the one list of them.

`textgate pam try` and `enable`, `setup` and `doctor` all ask it. A phone counts wherever [phones] finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .accounts import NssAccounts
from .config import Config
from .directory import build_directory, read_phones
from .msisdn import Msisdn
from .policy import Account
from .way_in import Logins

ADMIN_GROUPS = frozenset({"sudo", "root", "wheel", "admin"})

Lookup = Callable[[str], Account | None]


@dataclass(frozen=True)
class Holder:
    """Somebody with a phone."""

    account: Account
    phone: Msisdn


@dataclass(frozen=True)
class _Accounts:
    """A function, in the form in which the directory wants accounts."""

    lookup: Lookup


def is_admin(account: Account) -> bool:
    """Whether somebody is root, or may become root by way of a group."""
    return account.uid == 0 or not account.groups.isdisjoint(ADMIN_GROUPS)


def phone_holders(config: Config, *, logins: Logins | None = None, lookup: Lookup | None = None) -> dict[str, Holder]:
    """Everybody whom this machine knows and whose phone a source of [phones] knows, by name.

    Those are looked for whom the phones file names, and the people of this machine.
    Raises DirectoryError, as for a phones file that is missing, or AccountsError.
    """
    phones, lookup = config.phones, lookup or NssAccounts().lookup
    named = read_phones(phones.file, phones.default_region).numbers if "file" in phones.sources else ()
    directory = build_directory(phones, _Accounts(lookup))
    accounts = (lookup(user) for user in dict.fromkeys([*named, *(logins or Logins()).people()]))
    found = ((account, directory.lookup(account.name)) for account in accounts if account is not None)
    return {account.name: Holder(account, phone) for account, phone in found if phone is not None}


def enrolled_admins(
    config: Config, holders: Mapping[str, Holder] | None = None, *, logins: Logins | None = None
) -> list[Account]:
    """The administrators to whose phone a code may be texted.

    holders: of `phone_holders`, where they are known already. Raises DirectoryError, or AccountsError.
    """
    if holders is None:
        if "file" in config.phones.sources and not Path(config.phones.file).exists():
            return []  # nobody's number can be known, and the daemon refuses everybody
        holders = phone_holders(config, logins=logins)
    return [
        one.account for one in holders.values() if is_admin(one.account) and config.limits.allows(one.phone.country)
    ]


def phone_of(config: Config, user: str) -> Msisdn | None:
    """The phone of one user by any source of [phones]; a phones file that is missing knows nobody.

    Raises DirectoryError, or AccountsError.
    """
    sources = tuple(one for one in config.phones.sources if one != "file" or Path(config.phones.file).exists())
    return build_directory(replace(config.phones, sources=sources), NssAccounts()).lookup(user)
