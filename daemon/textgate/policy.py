# SPDX-License-Identifier: MIT
"""The rules: who is refused, who needs no code, who must give one.

`decide` goes through `RULES` from the top and the first that applies wins; where none does, a code is
required. What can't be known is taken against the login: it never exempts, and it always includes. Bypass,
lockout and remembered sources are not here: they need the store. `apply_failmode` is the one place where
a failure can let anybody in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from .config import Config
from .session import Session


class Decision(Enum):
    """What becomes of a login."""

    REFUSE = "refuse"
    SKIP = "skip"
    REQUIRE = "require"


@dataclass(frozen=True)
class Verdict:
    """A decision and a fixed word for the journal that says which rule made it."""

    decision: Decision
    reason: str


class FailKind(Enum):
    """What is away; the value is the key in [failmode]."""

    STORE = "store"
    GATEWAY = "gateway"


@dataclass(frozen=True)
class Account:
    """A user as NSS knows him.

    name: the canonical one, which may differ from what was typed. groups: names, the primary group's too.
    has_unnamed_groups: he has groups of which only the number is known, for whatever reason.
    """

    name: str
    uid: int
    gid: int
    groups: frozenset[str]
    gecos: str = ""
    has_unnamed_groups: bool = False


# The rules. Each sees the login, the account and the configuration and says whether it applies.
Applies = Callable[[Session, Account, Config], bool]


def _is_refused_user(session: Session, account: Account, config: Config) -> bool:
    return bool({session.user, account.name} & set(config.refused.users))


def _is_refused_group(_session: Session, account: Account, config: Config) -> bool:
    return not account.groups.isdisjoint(config.refused.groups)


def _may_be_in_refused_group(_session: Session, account: Account, config: Config) -> bool:
    return account.has_unnamed_groups and bool(config.refused.groups)


def _is_exempt_user(_session: Session, account: Account, config: Config) -> bool:
    return account.name in config.exempt.users


def _is_exempt_group(_session: Session, account: Account, config: Config) -> bool:
    return not account.groups.isdisjoint(config.exempt.groups)


def _is_exempt_network(session: Session, _account: Account, config: Config) -> bool:
    source = session.source
    return source is not None and any(source in network for network in config.exempt.networks)


def _is_exempt_key(session: Session, _account: Account, config: Config) -> bool:
    return session.key_fingerprint is not None and session.key_fingerprint in config.exempt.key_fingerprints


def _is_not_required_user(session: Session, account: Account, config: Config) -> bool:
    required = config.required
    if not (required.users or required.groups):
        return False
    may_be_in_group = account.has_unnamed_groups and bool(required.groups)
    is_named = bool({session.user, account.name} & set(required.users))
    return not (is_named or may_be_in_group or not account.groups.isdisjoint(required.groups))


def _is_not_required_service(session: Session, _account: Account, config: Config) -> bool:
    # libpam turns service names into lower case; a capital in the configuration must not switch the code off.
    services = {service.lower() for service in config.required.services}
    return bool(services) and session.service.lower() not in services


RULES: tuple[tuple[Applies, Verdict], ...] = (
    # Refused outranks exempt.
    (_is_refused_user, Verdict(Decision.REFUSE, "refused_user")),
    (_is_refused_group, Verdict(Decision.REFUSE, "refused_group")),
    (_may_be_in_refused_group, Verdict(Decision.REFUSE, "groups_unknown")),
    (_is_exempt_user, Verdict(Decision.SKIP, "exempt_user")),
    (_is_exempt_group, Verdict(Decision.SKIP, "exempt_group")),
    (_is_exempt_network, Verdict(Decision.SKIP, "exempt_network")),
    (_is_exempt_key, Verdict(Decision.SKIP, "exempt_key")),
    (_is_not_required_user, Verdict(Decision.SKIP, "not_required")),
    (_is_not_required_service, Verdict(Decision.SKIP, "not_required")),
)


def names_groups(config: Config) -> bool:
    """Whether any of `RULES` asks for groups, so that an account must have them."""
    return bool(config.refused.groups or config.exempt.groups or config.required.groups)


def decide(session: Session, account: Account | None, config: Config) -> Verdict:
    """What the configuration says of a login: refuse it, let it in without a code, or require one.

    account: what NSS knows of the user, None if he is unknown: he is always refused.
    """
    if account is None:
        reason = "refused_user" if session.user in config.refused.users else "unknown_user"
        return Verdict(Decision.REFUSE, reason)
    for applies, verdict in RULES:
        if applies(session, account, config):
            return verdict
    return Verdict(Decision.REQUIRE, "required")


def apply_failmode(kind: FailKind, service: str, config: Config) -> Verdict:
    """What becomes of a login that needs a code when the store or the gateway is away.

    SKIP, which the caller raises an alert for, only if [failmode] says "safe" for this kind and names the
    service, those of the machine itself in a list of their own; REFUSE otherwise.
    Called only after `decide` has said REQUIRE: a refused user stays refused.
    """
    modes = {FailKind.STORE: config.failmode.store, FailKind.GATEWAY: config.failmode.gateway}
    if modes[kind] == "safe" and config.failmode.is_safe_in(service, config.services.ssh):
        return Verdict(Decision.SKIP, f"{kind.value}_failmode")
    return Verdict(Decision.REFUSE, f"{kind.value}_away")
