# SPDX-License-Identifier: MIT
"""docs/limits.md: the parts of it that are made, and putting them in.

A made part stands between `<!-- made: NAME -->` and `<!-- end -->`; all else is written by hand.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from textgate import texts
from textgate.config import CodesConfig, LimitsConfig
from textgate.limits import Scope

from .report import table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "limits.md"


@dataclass(frozen=True)
class Refusal:
    """What one limit makes of a login. scope: what it counts for. reason: the journal's TEXTGATE_REASON."""

    section: str
    option: str
    scope: str
    reason: str
    words: str


_ONE_PLACE = "user, at one place"
REFUSALS: tuple[Refusal, ...] = (
    Refusal("codes", "digits", "challenge", "wrong", texts.WRONG),
    Refusal("codes", "tries", "challenge", "spent", texts.TRIES_SPENT),
    Refusal("codes", "life_s", "challenge", "none", texts.NONE_WAITING),
    Refusal("limits", "wrong_in_a_row", _ONE_PLACE, "locked", texts.locked(300, "wrong_in_a_row")),
    Refusal("limits", "lockout_s", _ONE_PLACE, "locked", texts.locked(300, "wrong_in_a_row")),
    Refusal("limits", "lockout_max_s", _ONE_PLACE, "locked", texts.locked(86400, "wrong_in_a_row")),
    Refusal("limits", "wrong_per_day", "user", "locked_wrong_per_day", texts.locked(86400, "wrong_per_day")),
    Refusal("limits", "send_spacing_s", _ONE_PLACE, "throttled_spacing", texts.throttled(30, "spacing")),
    Refusal(
        "limits", "sends_per_15_minutes", _ONE_PLACE, "throttled_quarter_hour", texts.throttled(900, "quarter_hour")
    ),
    Refusal("limits", "sends_per_day", "user", "throttled_day", texts.throttled(86400, "day")),
    Refusal("limits", "sends_per_phone_per_day", "phone", "budget_phone", texts.budget(Scope.PHONE, 3600)),
    Refusal("limits", "sends_per_source_per_hour", "address", "budget_source", texts.budget(Scope.SOURCE, 600)),
    Refusal("limits", "sends_per_host_per_minute", "host", "budget_host", texts.budget(Scope.HOST, 30)),
    Refusal("limits", "sends_per_country_per_day", "country", "budget_country", texts.budget(Scope.COUNTRY, 3600)),
    Refusal("limits", "sends_per_day_in_all", "fleet", "budget_fleet", texts.budget(Scope.FLEET, 3600)),
    Refusal("limits", "spend_per_day", "fleet, in money", "budget_money", texts.budget(Scope.MONEY, 3600)),
    Refusal("limits", "price_at_most", "fleet, in money", "budget_money", texts.budget(Scope.MONEY, 3600)),
    Refusal("limits", "allowed_countries", "country", "country_not_allowed", texts.SENT),
)


def options_table() -> str:
    """Every limit: its key, its default and what it is, as the configuration says."""
    sections = {"codes": CodesConfig, "limits": LimitsConfig}
    rows = []
    for refusal in REFUSALS:
        option = {field.name: field for field in dataclasses.fields(sections[refusal.section])}[refusal.option]
        key = f"`[{refusal.section}] {refusal.option}`"
        rows.append((key, _shown(option.default), refusal.scope, option.metadata["doc"]))
    return table(("key", "default", "counts for one", "what"), rows)


def refusals_table() -> str:
    """Every limit: what the person reads and what the journal says."""
    rows = [(f"`{refusal.option}`", f"`{refusal.reason}`", refusal.words) for refusal in REFUSALS]
    return table(("limit", "reason in the journal", "words at the prompt"), rows)


def _shown(default: object) -> str:
    if isinstance(default, Decimal):
        return f"{default:.2f}"
    return "none" if default == () else str(default)


def put_in(page: str, parts: Mapping[str, str]) -> str:
    """The page with its made parts replaced. Raises ValueError if one of them has no place in it."""
    for name, text in parts.items():
        pattern = re.compile(rf"(<!-- made: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(page):
            raise ValueError(f"the page has no place for {name}")
        page = pattern.sub(lambda match, text=text: f"{match[1]}{text}{match[2]}", page)  # type: ignore[misc]
    return page


def part(page: str, name: str) -> str:
    """A made part of the page as it stands there."""
    match = re.search(rf"<!-- made: {name} -->\n(.*?)<!-- end -->", page, re.DOTALL)
    if match is None:
        raise ValueError(f"the page has no place for {name}")
    return match[1]
