# SPDX-License-Identifier: MIT
"""The values the fake speaks of: keys, settings, message drafts, accepted texts, recorded requests.

Texts, numbers and secrets stay out of `repr`, so that a failing test prints none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .wire import Request

MAX_VALIDITY_S = 432_000  # five days, the Messaging API's maximum


@dataclass(frozen=True)
class ApiKey:
    """One set as the dashboard shows it: key and secret for OAuth1, token for everything else."""

    key: str
    secret: str = field(repr=False)
    token: str = field(repr=False)


@dataclass
class Settings:
    """What a test may change at any time. Where the service's doing is unknown, both are offered."""

    timestamp_window_s: float = 300  # not published
    strict_body_hash: bool = True  # refuse `oauth_body_hash`; False compares it
    bad_json_status: int = 400  # or 422: two documents disagree
    credit_as_string: bool = False
    extra_field: bool = False  # an unknown member in each successful answer
    connection_limit: int = 40  # open connections per address
    over_limit: str = "close"  # or "reset", "429", "503": the connection over the limit
    report_lag_s: float = 0  # from sent to known by GET
    report_timeout_s: float = 15  # patience with a webhook
    report_retry_factor: float = 1  # scales the times between tries
    allowed_countries: frozenset[str] | None = None  # None: all (0x0217)
    blacklisted: set[str] = field(default_factory=set)  # msisdns, 0x0215
    temporarily_blacklisted: set[str] = field(default_factory=set)  # msisdns, 0x0214
    allowed_link_hosts: set[str] = field(default_factory=set)  # other links: 0x0312
    blocked_words: set[str] = field(default_factory=set)  # 0x0312
    message_classes: frozenset[str] = frozenset({"standard", "premium"})  # other known: 0x021E


@dataclass(frozen=True)
class Draft:
    """One message object of a request, checked but not yet accepted.

    recipients: (msisdn, text for it). fields: the members as sent.
    """

    recipients: tuple[tuple[str, str], ...] = field(repr=False)
    sender: str = ""
    message_class: str = "standard"
    priority: str = "NORMAL"
    sendtime: int | None = None
    validity_period_s: int = MAX_VALIDITY_S
    encoding: str = "UTF8"
    destaddr: str = "MOBILE"
    userref: str | None = None
    callback_url: str | None = None
    label: str | None = None
    max_parts: int | None = None
    payload: bytes | None = field(default=None, repr=False)
    extra_details: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class AcceptedMessage:
    """One text that was accepted for one number. Several of one message object share `id`.

    id: integer of REST, string of the Messaging API. text: what the phone shows (`max_parts` cuts).
    accepted_at, sendtime: Unix seconds. userref: also the Messaging API's `reference`.
    """

    id: int | str
    msisdn: str = field(repr=False)
    text: str = field(repr=False)
    sender: str
    userref: str | None
    validity_period_s: int
    message_class: str
    encoding: str
    max_parts: int | None
    priority: str
    sendtime: int | None
    destaddr: str
    callback_url: str | None
    label: str | None
    part_count: int
    country: str
    accepted_at: float
    key: str
    api: str  # "rest" or "mobile"
    fields: Mapping[str, Any] = field(repr=False)

    @property
    def validity(self) -> int:
        """`validity_period_s` by its short name."""
        return self.validity_period_s


@dataclass
class RecordedRequest(Request):
    """A request and what became of it.

    verdict: "accepted" (texts will go out), "refused", "ok" (another good answer), "nothing" (a
    fault came first), "unreadable". fault: kind of the injected fault that shaped the answer.
    """

    arrived_at: float = 0
    peer: str = ""
    verdict: str = "nothing"
    status: int | None = None
    error_code: str = ""
    fault: str | None = None
    message_ids: tuple[int | str, ...] = ()
