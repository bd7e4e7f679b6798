# SPDX-License-Identifier: MIT
"""A fleet of servers on one Redis, with people who do things in virtual time.

Verifier, Store, Vault and Lua scripts are the real ones. What they take from outside is not: time stands still
between two actions, texts end in a list, and random numbers come from a seed.
"""

from __future__ import annotations

import contextlib
import heapq
import ipaddress
import itertools
import random
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from unittest import mock

from fakes import START_MS, DirectSender, FakeAccounts, FakeClock, FakeDirectory, NoAlarm
from private_redis import PrivateRedis
from textgate import codes
from textgate.admin_limits import AdminLimits
from textgate.audit import Audit
from textgate.config import CodesConfig, Config, LimitsConfig, StoreConfig
from textgate.errors import ThrottledError
from textgate.gateway_outcomes import Outcome, SendReason, SendResult
from textgate.limits import DAY_MS, HOUR_MS
from textgate.msisdn import Msisdn
from textgate.policy import Account
from textgate.protocol import Reply
from textgate.secret import Secret
from textgate.session import Session
from textgate.store import Store
from textgate.vault import Vault, parse_keys
from textgate.verifier import Verifier, user_key

PRICE = Decimal("0.05")
MEMBER_UID = 1000  # of the admin group
BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
MIDNIGHT_MS = START_MS - START_MS % DAY_MS + DAY_MS

Actor = Generator[float, None, None]  # yields seconds to wait


@dataclass(frozen=True)
class Text:
    """One text that went out: when, by whose doing, to whom, with which code."""

    at_ms: int
    actor: str
    msisdn: str
    code: str


@dataclass
class Gateway:
    """Takes every text at a price, or ends it as `end` says; `texts` are those that went out."""

    world: World
    price: Decimal | None = PRICE
    end: tuple[Outcome, SendReason] = (Outcome.SENT, SendReason.ACCEPTED)
    texts: list[Text] = field(default_factory=list)

    def send(self, msisdn: str, text: Secret, *, validity_s: int, userref: str) -> SendResult:
        """As a real one."""
        outcome, reason = self.end
        if outcome is Outcome.SENT:
            code = text.reveal().partition(" ")[0]
            self.texts.append(Text(self.world.clock.now_ms(), self.world.actor, msisdn, code))
        return SendResult(
            outcome,
            reason,
            attempt_count=1,
            duration_s=0.2,
            cost=self.price if outcome is Outcome.SENT else None,
            currency="EUR",
        )


class World:
    """Servers, users and their phones. `actor` is who acts at the moment, for what is counted."""

    def __init__(
        self,
        server: PrivateRedis,
        *,
        seed: int,
        limits: Mapping[str, object] | None = None,
        digits: int = 6,
        hosts: int = 1,
        store: Store | None = None,
    ) -> None:
        """limits: options of [limits] that differ from the defaults. digits: fewer than 6 so that guesses hit."""
        server.client.flushall()
        self.random = random.Random(seed)
        self.clock = FakeClock(MIDNIGHT_MS)
        self.gateway = Gateway(self)
        self.actor = ""
        self.guesses: list[tuple[int, str]] = []  # when, and by whose doing, a code was compared
        self.reason = ""  # of the last event in the journal
        self._accounts = FakeAccounts()
        self._directory = FakeDirectory()
        self._store = store or Store(StoreConfig(url=server.url, timeout_s=30), connections=16)
        self._vault = Vault(parse_keys(Secret("k1:" + "5a" * 32)))
        self._ids = itertools.count()
        self._admin_limits = AdminLimits(lambda: self.clock.now_ms() / 1000)
        self._queue: list[tuple[int, int, str, Actor]] = []
        options = {"allowed_countries": ("DK",)} | dict(limits or {})
        self.config = Config(path="sim", codes=CodesConfig(digits=digits), limits=LimitsConfig(**options))  # type: ignore[arg-type]
        self.verifiers = [self._verifier(f"host{number}") for number in range(hosts)]

    def _verifier(self, host: str) -> Verifier:
        return Verifier(
            config=self.config,
            store=self._store,
            gateway=self.gateway,
            sender=DirectSender(),
            directory=self._directory,
            accounts=self._accounts,
            vault=self._vault,
            audit=Audit(self._write),
            host=host,
            clock=self.clock,
            alarm=NoAlarm(),
            pause=lambda _seconds: None,
        )

    def _write(self, _message: str, entry: Mapping[str, str]) -> None:
        if entry["TEXTGATE_EVENT"] != "send":
            self.reason = entry.get("TEXTGATE_REASON", "")

    # --- People ---

    def add_user(self, name: str) -> str:
        """A user with a phone of his own. Returns its number."""
        number = f"4520{len(self._accounts.accounts):06d}"
        self._accounts.accounts[name] = Account(name, 1000, 1000, frozenset({"users"}))
        self._directory.phones[name] = Msisdn(number)
        return number

    def add_recovery_code(self, name: str) -> str:
        """One recovery code for a user."""
        code = codes.new_recovery_code()
        self.verifiers[0].new_recovery(user_key(name), [code])
        return code.reveal()

    def unlock(self, name: str) -> None:
        """As a member of the admin group may, if it is not too soon."""
        with contextlib.suppress(ThrottledError):
            self._admin_limits.take_unlock(MEMBER_UID, name)
            self._store.unlock(user_key(name), is_day_forgotten=False)

    def last_code(self, msisdn: str) -> str:
        """The code in the newest text to a number."""
        return next(text.code for text in reversed(self.gateway.texts) if text.msisdn == msisdn)

    # --- Logins ---

    def session(self, user: str, source: str | None) -> Session:
        """A login of its own. source: None for sudo and su."""
        address = ipaddress.ip_address(source) if source else None
        return Session(user, "sshd" if source else "sudo", "", address, None, f"{next(self._ids):032x}")

    def begin(self, session: Session, host: int = 0) -> Reply:
        """The first step, on one of the servers."""
        return self.verifiers[host].begin(session)

    def check(self, session: Session, code: str, host: int = 0) -> Reply:
        """The second."""
        return self.verifiers[host].check(session, Secret(code))

    # --- Time ---

    def join(self, name: str, actor: Actor, *, at_ms: int | None = None) -> None:
        """Let somebody act from now or a later moment on."""
        start = self.clock.now_ms() if at_ms is None else at_ms
        heapq.heappush(self._queue, (start, next(self._ids), name, actor))

    def run(self, until_ms: int) -> None:
        """Let everybody act in the order of time, until the given moment."""
        while self._queue and self._queue[0][0] < until_ms:
            at_ms, _, name, actor = heapq.heappop(self._queue)
            self.clock.move_to_ms(max(at_ms, self.clock.now_ms()))
            self.actor = name
            try:
                wait_s = next(actor)
            except StopIteration:
                continue
            self.join(name, actor, at_ms=self.clock.now_ms() + max(1, round(wait_s * 1000)))
        self.clock.move_to_ms(until_ms)

    # --- What is measured ---

    def moments(self, of: str, actor: str) -> list[int]:
        """When an actor's guesses or texts were, in order."""
        pairs = self.guesses if of == "guesses" else [(text.at_ms, text.actor) for text in self.gateway.texts]
        return sorted(at_ms for at_ms, who in pairs if who == actor)


def most_in_a_day(moments: list[int]) -> int:
    """The most of them in any 24 hours."""
    most, oldest = 0, 0
    for newest, at_ms in enumerate(moments):
        while moments[oldest] <= at_ms - DAY_MS:
            oldest += 1
        most = max(most, newest - oldest + 1)
    return most


@contextmanager
def new_world(server: PrivateRedis, *, seed: int, **options: object) -> Iterator[World]:
    """A World whose secrets come from the seed and whose guesses are counted."""
    world = World(server, seed=seed, **options)  # type: ignore[arg-type]
    source = random.Random(seed + 1)

    def new_secret() -> Secret:
        return Secret("".join(source.choices(BASE32, k=32)))

    def new_id() -> str:
        return f"{source.getrandbits(128):032x}"

    compare: Callable[[Secret, Secret], bool] = codes.is_equal

    def is_equal(typed: Secret, expected: Secret) -> bool:
        world.guesses.append((world.clock.now_ms(), world.actor))
        return compare(typed, expected)

    with (
        mock.patch.object(codes, "new_secret", new_secret),
        mock.patch.object(codes, "new_id", new_id),
        mock.patch.object(codes, "is_equal", is_equal),
    ):
        yield world


def hours(count: float) -> int:
    """Hours in milliseconds."""
    return round(count * HOUR_MS)
