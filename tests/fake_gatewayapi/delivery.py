# SPDX-License-Identifier: MIT
"""What happens to a text after it was accepted: states with times, as plain values.

All transitions live here; this file posts nothing and knows no clock.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from .model import AcceptedMessage

WAITING = frozenset({"SCHEDULED", "BUFFERED"})


@dataclass(frozen=True)
class Stage:
    """One state: so many seconds after the send (or after the validity ended), code and wording."""

    after_s: float
    status: str
    code: str | None = None
    error: str | None = None
    is_after_validity: bool = False


_BUFFERED = Stage(0, "BUFFERED")
_ENROUTE = Stage(1, "ENROUTE")
PLANS: dict[str, tuple[Stage, ...]] = {
    "delivered": (_BUFFERED, _ENROUTE, Stage(3, "DELIVERED")),
    "undeliverable": (
        _BUFFERED,
        _ENROUTE,
        Stage(3, "UNDELIVERABLE", "0x1010", "Unknown Subscriber"),
    ),
    "rejected": (_BUFFERED, _ENROUTE, Stage(2, "REJECTED", "0x1905", "Unsupported sender")),
    "expired": (_BUFFERED, _ENROUTE, Stage(0, "EXPIRED", is_after_validity=True)),
    "skipped": (_BUFFERED, Stage(1, "SKIPPED")),
    "accepted": (_BUFFERED, _ENROUTE, Stage(3, "ACCEPTED")),
    "late": (_BUFFERED, _ENROUTE, Stage(60, "DELIVERED", is_after_validity=True)),
    "stuck": (_BUFFERED, _ENROUTE),
}

SIGNATURES = ("good", "bad", "none", "hs512", "wrong-secret", "absent")


@dataclass(frozen=True)
class Delivery:
    """How texts to a number end and how the reports about it are spoiled.

    plan: a name in PLANS. signature: one of SIGNATURES. body_differs: the unsigned body claims
    something else than the signed claims.
    """

    plan: str = "delivered"
    is_twice: bool = False
    is_out_of_order: bool = False
    is_id_unknown: bool = False
    signature: str = "good"
    body_differs: bool = False

    def __post_init__(self) -> None:
        if self.plan not in PLANS:
            raise ValueError(f"no plan {self.plan!r}, only {', '.join(PLANS)}")
        if self.signature not in SIGNATURES:
            raise ValueError(f"no signature {self.signature!r}, only {', '.join(SIGNATURES)}")


Event = tuple[float, Stage]


class Network:
    """Which number gets which delivery, and what was cancelled. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_msisdn: dict[str | None, Delivery] = {None: Delivery()}
        self._cancelled_at: dict[int | str, float] = {}

    def set_delivery(self, msisdn: str | None, delivery: Delivery) -> None:
        """From now on texts to msisdn (None: to every other number) go this way."""
        with self._lock:
            self._by_msisdn[msisdn] = delivery

    def delivery_of(self, msisdn: str) -> Delivery:
        """What holds for this number."""
        with self._lock:
            return self._by_msisdn.get(msisdn, self._by_msisdn[None])

    def cancel(self, message: AcceptedMessage, now: float) -> bool:
        """Whether it was still waiting for its `sendtime`, uncancelled; it is cancelled then."""
        with self._lock:
            is_waiting = message.sendtime is not None and now < message.sendtime
            if not is_waiting or message.id in self._cancelled_at:
                return False
            self._cancelled_at[message.id] = now
            return True

    def timeline(self, message: AcceptedMessage) -> list[Event]:
        """(Unix seconds, stage) of all states, past and future, in order."""
        sent_at = max(message.accepted_at, message.sendtime or 0)
        stages = PLANS[self.delivery_of(message.msisdn).plan]
        events = [(_stage_at(stage, sent_at, message.validity_period_s), stage) for stage in stages]
        if sent_at > message.accepted_at:
            events.insert(0, (message.accepted_at, Stage(0, "SCHEDULED")))
        with self._lock:
            cancelled_at = self._cancelled_at.get(message.id)
        if cancelled_at is not None:
            events = [event for event in events if event[0] <= cancelled_at]
            events.append((cancelled_at, Stage(0, "DELETED")))
        return events

    def state(self, message: AcceptedMessage, now: float) -> Event:
        """The newest event that is not in the future."""
        return [event for event in self.timeline(message) if event[0] <= now][-1]

    def sent_at(self, message: AcceptedMessage) -> float | None:
        """When it left the queue, None if it never will."""
        return next((at for at, s in self.timeline(message) if s.status not in WAITING), None)

    def clear(self) -> None:
        """Forget all deliveries and cancellations."""
        with self._lock:
            self._by_msisdn = {None: Delivery()}
            self._cancelled_at.clear()


def _stage_at(stage: Stage, sent_at: float, validity_s: int) -> float:
    return sent_at + stage.after_s + (validity_s if stage.is_after_validity else 0)
