# SPDX-License-Identifier: MIT
"""The account behind the API: money, ids, and every text it accepted. Thread-safe.

This is the one place where a text becomes accepted, all of a request's texts or none.
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from .countries import country_of
from .errors import coded
from .model import AcceptedMessage, Draft
from .texts import binary_part_count, capped, is_gsm, part_count

FIRST_ID = 2**31 - 6  # early tests meet ids that do not fit into 32 signed bits
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True)
class Receipt:
    """What one accepted request came to. messages: one per text, ids: one per message object."""

    ids: tuple[int | str, ...]
    messages: tuple[AcceptedMessage, ...]
    parts_by_country: dict[str, int]
    cost: Decimal


@dataclass
class Account:
    """Credit, counters and texts. `changed` is notified whenever a text is accepted."""

    credit: Decimal
    currency: str
    accepted: list[AcceptedMessage] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    _last_id: int = FIRST_ID

    def accept(self, drafts: Sequence[Draft], api: str, key: str, now: float) -> Receipt:
        """Bill and keep all drafts, or raise 0x0216 and keep none."""
        with self.changed:
            cost = sum((_cost(draft, self.currency) for draft in drafts), Decimal(0))
            if cost > self.credit:
                raise coded("0x0216")
            self.credit -= cost
            ids = tuple(self._new_id(api, now) for _ in drafts)
            messages = tuple(
                message
                for message_id, draft in zip(ids, drafts, strict=True)
                for message in _messages(message_id, draft, api, key, now)
            )
            self.accepted += messages
            self.changed.notify_all()
        parts = Counter[str]()
        for message in messages:
            parts[message.country] += message.part_count
        return Receipt(ids, messages, dict(parts), cost)

    def wait_for(self, count: int, timeout_s: float) -> list[AcceptedMessage]:
        """All texts as soon as there are `count`; raises TimeoutError."""
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.accepted) >= count, timeout_s):
                raise TimeoutError(f"{len(self.accepted)} of {count} texts after {timeout_s} s")
            return list(self.accepted)

    def wait_for_more(self, seen_count: int, timeout_s: float) -> list[AcceptedMessage]:
        """Texts after the first `seen_count`, as soon as there is one; [] if none comes in time."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.accepted) > seen_count, timeout_s)
            return self.accepted[seen_count:]

    def find(self, message_id: int) -> list[AcceptedMessage]:
        """The texts of one REST message object."""
        with self.changed:
            return [message for message in self.accepted if message.id == message_id]

    def _new_id(self, api: str, now: float) -> int | str:
        """Rising with gaps (REST), or a ULID-like string (Messaging API)."""
        if api == "mobile":
            return _ulid(now)
        self._last_id += 1 + self._last_id % 3
        return self._last_id


def parts_of(draft: Draft, text: str) -> int:
    """SMS parts of one text of this draft."""
    if draft.payload is not None:
        return binary_part_count(len(draft.payload))
    return part_count(capped(text, draft.encoding, draft.max_parts), draft.encoding)


def automatic_encoding(draft: Draft) -> str:
    """What the Messaging API chooses, which has no `encoding`."""
    return "UTF8" if all(is_gsm(text) for _, text in draft.recipients) else "UCS2"


def _cost(draft: Draft, currency: str) -> Decimal:
    return sum(
        (parts_of(draft, text) * country_of(msisdn).price(currency) for msisdn, text in draft.recipients),
        Decimal(0),
    )


def _messages(message_id: int | str, draft: Draft, api: str, key: str, now: float) -> list[AcceptedMessage]:
    return [
        AcceptedMessage(
            id=message_id,
            msisdn=msisdn,
            text=capped(text, draft.encoding, draft.max_parts),
            sender=draft.sender,
            userref=draft.userref,
            validity_period_s=draft.validity_period_s,
            message_class=draft.message_class,
            encoding=draft.encoding,
            max_parts=draft.max_parts,
            priority=draft.priority,
            sendtime=draft.sendtime,
            destaddr=draft.destaddr,
            callback_url=draft.callback_url,
            label=draft.label,
            part_count=parts_of(draft, text),
            country=country_of(msisdn).code,
            accepted_at=now,
            key=key,
            api=api,
            fields=draft.fields,
        )
        for msisdn, text in draft.recipients
    ]


def _ulid(now: float) -> str:
    value = (int(now * 1000) % 2**48) << 80 | secrets.randbits(80)
    return "".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))
