# SPDX-License-Identifier: MIT
"""Stand-ins for what the verifier needs from outside: clock, gateway, users, phones, sending threads, journal.

Each keeps the contract of what it stands for; tests/contract/test_fakes.py holds both to it. Nothing here waits by
the clock: what must come later is held until a test lets it go.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from decimal import Decimal

from textgate.accounts import AccountsError
from textgate.audit import Audit, Priority
from textgate.decoys import decoy_key
from textgate.errors import DirectoryError
from textgate.gateway_outcomes import Credit, Outcome, SendReason, SendResult
from textgate.msisdn import Msisdn
from textgate.policy import Account
from textgate.secret import Secret
from textgate.vault import Vault, parse_keys

START_MS = 1_700_000_000_000  # some time in November 2023, in whole milliseconds


VAULT = Vault(parse_keys(Secret("k1:" + "5a" * 32)))


def decoy_of(name: str) -> str:
    """The decoy of a name under VAULT."""
    return decoy_key(name, VAULT)


class FakeClock:
    """Time that stands still until it is moved."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self._now_ms = now_ms
        self._wall_ahead_ms = 0

    def now_ms(self) -> int:
        """The store's time in ms."""
        return self._now_ms

    def wall_ms(self) -> int:
        """Milliseconds since 1970: the same, but for `jump_ms`."""
        return self._now_ms + self._wall_ahead_ms

    def jump_ms(self, by_ms: int) -> None:
        """Set the machine's clock ahead (back, if negative), while no time goes by."""
        self._wall_ahead_ms += by_ms

    def move_ms(self, by_ms: int) -> None:
        """Go on by so many milliseconds (back, if negative)."""
        self._now_ms += by_ms

    def move_to_ms(self, at_ms: int) -> None:
        """Go to a moment."""
        self._now_ms = at_ms


@dataclass(frozen=True)
class FakeText:
    """One text that the fake gateway was given."""

    msisdn: str
    text: str
    validity_s: int
    userref: str

    @property
    def code(self) -> str:
        """The digits at the start of the default template."""
        return self.text.partition(" ")[0]


SENT = (Outcome.SENT, SendReason.ACCEPTED)


@dataclass
class FakeGateway:
    """Takes every text, or ends it as `ends` says; its credit is as set."""

    ends: list[tuple[Outcome, SendReason]] = field(default_factory=list)  # used up from the front
    always: tuple[Outcome, SendReason] = SENT
    texts: list[FakeText] = field(default_factory=list)
    amount: Decimal | None = Decimal("25.00")
    error: Exception | None = None
    is_closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, msisdn: str, text: Secret, *, validity_s: int, userref: str) -> SendResult:
        """Note the text and end as told. Raises only what `error` holds, which a real gateway never does."""
        with self._lock:
            if self.error is not None:
                raise self.error
            outcome, reason = self.ends.pop(0) if self.ends else self.always
            self.texts.append(FakeText(msisdn, text.reveal(), validity_s, userref))
        return SendResult(outcome, reason, attempt_count=1, duration_s=0.25, cost=Decimal("0.30"), currency="DKK")

    def credit(self) -> Credit:
        """What is on the account."""
        if self.amount is None:
            return Credit(SendReason.UNREACHABLE)
        return Credit(SendReason.ACCEPTED, amount=self.amount, currency="DKK", clock_skew_s=0.0, http_status=200)

    def close(self) -> None:
        """Note that it was closed."""
        self.is_closed = True

    def codes_to(self, msisdn: str) -> list[str]:
        """The codes that went to a number, in order."""
        with self._lock:
            return [text.code for text in self.texts if text.msisdn == msisdn]


@dataclass
class FakeAccounts:
    """The users of the machine; `is_broken` as when NSS can't tell."""

    accounts: dict[str, Account] = field(default_factory=dict)
    is_broken: bool = False

    def lookup(self, user: str) -> Account | None:
        """The account, or None for an unknown user."""
        if self.is_broken:
            raise AccountsError("the user database can't be read")
        return self.accounts.get(user)


@dataclass
class FakeDirectory:
    """Whose phone has which number; `is_broken` as when the phones file can't be read."""

    phones: dict[str, Msisdn] = field(default_factory=dict)
    is_broken: bool = False
    asked: list[str] = field(default_factory=list)

    def lookup(self, user: str) -> Msisdn | None:
        """The number, or None."""
        self.asked.append(user)
        if self.is_broken:
            raise DirectoryError("the phones file can't be read")
        return self.phones.get(user)


class DirectSender:
    """Runs each job at once, on the caller's thread."""

    def submit(self, job: Callable[[], SendResult]) -> Future[SendResult] | None:
        """A future that is done, with the job's result or its exception."""
        future: Future[SendResult] = Future()
        try:
            future.set_result(job())
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Nothing is under way."""


class NoAlarm:
    """For senders that have their answer at once: no time is ever up."""

    def after(self, wait_s: float, job: Callable[[], None]) -> None:
        """Forget the job."""


class HeldSender:
    """Takes jobs and runs none until `release`: the gateway that is slower than a person waits."""

    def __init__(self) -> None:
        self._held: list[tuple[Future[SendResult], Callable[[], SendResult]]] = []

    def submit(self, job: Callable[[], SendResult]) -> Future[SendResult] | None:
        """A future that is not done."""
        future: Future[SendResult] = Future()
        self._held.append((future, job))
        return future

    def release(self) -> None:
        """Run all that was taken, in order, on the caller's thread."""
        held, self._held = self._held, []
        for future, job in held:
            future.set_result(job())

    def close(self) -> None:
        """What is held ends first."""
        self.release()


class FullSender:
    """Has no place for any job."""

    def submit(self, _job: Callable[[], SendResult]) -> Future[SendResult] | None:
        """None."""
        return None

    def close(self) -> None:
        """Nothing is under way."""


@dataclass(frozen=True)
class Entry:
    """One event of the journal. `entry["user"]` is TEXTGATE_USER, "" where it isn't there."""

    message: str
    fields: dict[str, str]

    def __getitem__(self, name: str) -> str:
        return self.fields.get(f"TEXTGATE_{name.upper()}", "")

    @property
    def priority(self) -> int:
        """Its level (RFC 5424)."""
        return int(self.fields["PRIORITY"])


class Journal:
    """A sink that keeps what it is told, and the Audit that writes to it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.audit = Audit(lambda message, fields: self.entries.append(Entry(message, dict(fields))))

    def find(self, event: str, **wanted: str) -> list[Entry]:
        """The events of a kind with these values, in order."""
        return [
            entry
            for entry in self.entries
            if entry["event"] == event and all(entry[name] == value for name, value in wanted.items())
        ]

    @property
    def alerts(self) -> list[Entry]:
        """The events that call an administrator."""
        return [entry for entry in self.entries if entry.priority == Priority.ALERT]

    def text(self) -> str:
        """All of it as one text, for "this must not be in it"."""
        return "\n".join(f"{entry.message} {entry.fields}" for entry in self.entries)
