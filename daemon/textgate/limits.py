# SPDX-License-Identifier: MIT
"""Every limit on guessing and on sending, in two tables; the store's scripts apply them, each in one atomic step.

Times are whole milliseconds, money is whole millionths of the account's currency. `Rules` are the limits of one user,
which his login meets first; `budgets` are those that many users share, which a text must meet before it goes out.
"""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Decimal
from enum import Enum

from .config import CodesConfig, LimitsConfig

MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000
QUARTER_HOUR_MS = 900_000
MICROS = 1_000_000
PLACE_PERCENT = 40  # of what a user has in a day, for one place: two of them leave something to a third
SOURCE_BUCKETS = 4096  # for the addresses of strangers
IPV6_PREFIX = 64  # what one customer has; a single address is no limit to him

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


# --- One user ---


@dataclass(frozen=True)
class SendRow:
    """At most `most` unanswered texts to one user in any `window_ms`, asked for from one place.

    A text whose code was typed rightly no longer counts: that helps the owner of the phone and nobody else.
    most_in_all: the same from all places together; 0 for no such limit.
    """

    name: str
    window_ms: int
    most: int
    most_in_all: int = 0


@dataclass(frozen=True)
class Rules:
    """The limits of one user, as the scripts need them. The windows slide: no turn of a day doubles a limit.

    Places are the machine itself (sudo, su), each address that a right code came from, and all other addresses
    together, the strangers. Each has its row of wrong codes, its lockouts and its share of the day: an attacker at
    one place, or at two, leaves the owner something at another. wrong_per_place: that share, in any 24 hours.
    """

    life_ms: int
    tries: int
    wrong_in_a_row: int
    wrong_per_day: int
    wrong_per_place: int
    lockout_ms: int
    lockout_max_ms: int
    sends: tuple[SendRow, ...]

    def as_arguments(self) -> dict[str, object]:
        """The rules as the scripts' JSON arguments; the field names are the scripts' names."""
        return dict(self._arguments)

    @functools.cached_property
    def _arguments(self) -> dict[str, object]:
        return asdict(self)


def build_rules(codes: CodesConfig, limits: LimitsConfig) -> Rules:
    """Seconds and counts of the configuration -> Rules."""
    return Rules(
        life_ms=codes.life_s * 1000,
        tries=codes.tries,
        wrong_in_a_row=limits.wrong_in_a_row,
        wrong_per_day=limits.wrong_per_day,
        wrong_per_place=_share(limits.wrong_per_day),
        lockout_ms=limits.lockout_s * 1000,
        lockout_max_ms=limits.lockout_max_s * 1000,
        sends=(
            SendRow("spacing", limits.send_spacing_s * 1000, 1),
            SendRow("quarter_hour", QUARTER_HOUR_MS, limits.sends_per_15_minutes),
            SendRow("day", DAY_MS, _share(limits.sends_per_day), limits.sends_per_day),
        ),
    )


def _share(most: int) -> int:
    """What one place may have of what a user has in a day."""
    return max(1, most * PLACE_PERCENT // 100)


# --- Many users ---


class Scope(Enum):
    """What a budget is shared by; the value stands in the store's key and in the journal."""

    PHONE = "phone"
    SOURCE = "source"
    HOST = "host"
    COUNTRY = "country"
    FLEET = "fleet"
    MONEY = "money"


@dataclass(frozen=True)
class Budget:
    """At most `most` in any window_ms for one thing, such as one phone. amount: what a text takes of it.

    subject: which phone, address, host or country, in a form that may stand in a key; "" for the whole fleet.
    pays: False only asks whether there is room for the amount.
    """

    scope: Scope
    subject: str
    window_ms: int
    most: int
    amount: int
    pays: bool = True


@dataclass(frozen=True)
class _Row:
    scope: Scope
    window_ms: int
    option: str  # the key in [limits]


# What strangers (addresses that no right code came from) may use up half of: who holds many people's first factors
# can stop the texts to other strangers, and not those to people where they always log in.
_HALF_FOR_STRANGERS = (Scope.HOST, Scope.COUNTRY, Scope.FLEET, Scope.MONEY)

_SHARED = (
    _Row(Scope.PHONE, DAY_MS, "sends_per_phone_per_day"),
    _Row(Scope.SOURCE, HOUR_MS, "sends_per_source_per_hour"),
    _Row(Scope.HOST, MINUTE_MS, "sends_per_host_per_minute"),
    _Row(Scope.COUNTRY, DAY_MS, "sends_per_country_per_day"),
    _Row(Scope.FLEET, DAY_MS, "sends_per_day_in_all"),
    _Row(Scope.MONEY, DAY_MS, "spend_per_day"),
)


def budgets(
    limits: LimitsConfig,
    *,
    phone_tag: str | None,
    country: str | None,
    source: Address | None,
    source_tag: str = "",
    host: str,
    is_stranger: bool,
) -> tuple[Budget, ...]:
    """What a text has to be paid from.

    is_stranger: whether no right code ever came from there; strangers pay from a half of their own as well.
    source_tag: a keyed fingerprint of the address. By it strangers' addresses share a fixed number of budgets, since
    anybody can have any number of addresses.
    phone_tag: a keyed fingerprint of the number. Without one (a login to which nothing is sent) the shared budgets
    are only asked for what a text takes, so that it is told the same as everybody; its address pays, for somebody
    asked from there.
    """
    subjects = {
        Scope.PHONE: phone_tag,
        Scope.SOURCE: bucket(source_tag, SOURCE_BUCKETS)
        if is_stranger and source_tag
        else source_key(source) or None,
        Scope.HOST: host,
        Scope.COUNTRY: country,
        Scope.FLEET: "",
        Scope.MONEY: "",
    }
    is_real = phone_tag is not None
    found = []
    for row in _SHARED:
        subject = subjects[row.scope]
        if subject is None:
            continue
        is_money = row.scope is Scope.MONEY
        option = getattr(limits, row.option)
        most = micros(option) if is_money else option
        amount = micros(limits.price_at_most) if is_money else 1
        pays = is_real or row.scope is Scope.SOURCE
        found.append(Budget(row.scope, subject, row.window_ms, most, amount, pays))
        if is_stranger and row.scope in _HALF_FOR_STRANGERS:
            found.append(
                Budget(row.scope, f"{subject}:strangers", row.window_ms, max(most // 2, amount), amount, pays)
            )
    return tuple(found)


BUCKET_PREFIX = "~"  # starts no address, and no user's name as store.encode_user writes it


def bucket(tag: str, count: int) -> str:
    """One of `count` names for a keyed fingerprint `KEY.HEX`, such as "~0a3f"; no name and no address begins so."""
    return f"{BUCKET_PREFIX}{int(tag.rpartition('.')[2], 16) % count:04x}"


@functools.lru_cache(maxsize=256)  # prices and limits are few
def micros(amount: Decimal) -> int:
    """Money in millionths, rounded up."""
    return int((amount * MICROS).to_integral_value(rounding=ROUND_CEILING))


def source_key(source: Address | None) -> str:
    """The address, or for IPv6 its network of one customer (/64), as it stands in keys; "" for no address."""
    if source is None:
        return ""
    if isinstance(source, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((source, IPV6_PREFIX), strict=False))
    return str(source)
