# SPDX-License-Identifier: MIT
"""The scenarios: who plays, for how long, and what came of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

from private_redis import PrivateRedis
from textgate.gateway_outcomes import Outcome, SendReason
from textgate.limits import DAY_MS

from . import people
from .people import Loot, Person, Source, Tally, always, never_twice
from .world import MIDNIGHT_MS, PRICE, World, hours, most_in_a_day, new_world

SEED = 6238
OFFICE, HOME, EVIL = "192.0.2.20", "192.0.2.30", "198.51.100.66"
SMALL_DIGITS = 2  # a code space in which guesses hit often enough to be counted
SMALL_ACCOUNTS = 150
STOLEN_ACCOUNTS = 120


@dataclass(frozen=True)
class Attack:
    """One attacker's result. The `_a_day` values are the most in any 24 hours.

    odds_a_day: one in so many that a guess hits within a day; None where nothing was guessed. hits, expected_hits:
    what guessing brought, and what guesses / code space says. owner: the owners' logins meanwhile, passed and all.
    """

    name: str
    days: int
    guesses: int
    guesses_a_day: int
    odds_a_day: int | None
    hits: int
    expected_hits: float
    texts_a_day: int
    money_a_day: Decimal
    owner_passed: int
    owner_logins: int


@dataclass(frozen=True)
class Ordinary:
    """How people's logins went. waited: were told to wait for at most a minute, and got in then.

    cause: the journal's reason of most refusals. The `_a_day` values are the most in any 24 hours.
    """

    name: str
    days: int
    logins: int
    at_once: int
    waited: int
    refused: int
    cause: str
    texts_a_day: int
    money_a_day: Decimal


@dataclass(frozen=True)
class Setting:
    """What every scenario gets. limits: options of [limits] in place of the defaults."""

    server: PrivateRedis
    days: int
    limits: dict[str, Any]

    def world(self, name: str, **options: Any) -> AbstractContextManager[World]:
        """A fresh world for a scenario, always with the same random numbers."""
        limits = self.limits | options.pop("limits", {})
        return new_world(self.server, seed=random.Random(f"{SEED} {name}").getrandbits(32), limits=limits, **options)


Row = TypeVar("Row", Attack, Ordinary)
Play = Callable[[Setting], Row]


# --- Attackers ---


def _attack(
    world: World, name: str, days: int, *, actors: tuple[str, ...] = ("attacker",), digits: int = 6,
    hits: int = 0, owner: Tally | None = None,
) -> Attack:  # fmt: skip
    guesses = sorted(moment for actor in actors for moment in world.moments("guesses", actor))
    texts = sorted(moment for actor in actors for moment in world.moments("texts", actor))
    most = max((most_in_a_day(world.moments("guesses", actor)) for actor in actors), default=0)
    owner = owner or Tally()
    return Attack(
        name=name,
        days=days,
        guesses=len(guesses),
        guesses_a_day=most,
        odds_a_day=10**digits // most if most else None,
        hits=hits,
        expected_hits=round(len(guesses) / 10**digits, 5),
        texts_a_day=most_in_a_day(texts),
        money_a_day=most_in_a_day(texts) * PRICE,
        owner_passed=owner.at_once + owner.waited,
        owner_logins=owner.logins,
    )


def _guessing(name: str, *sources: Callable[[], Source], hosts: int = 1, is_member: bool = False) -> Play[Attack]:
    """Guessing at one account from each of the places, while its owner logs in four times a day at his office.

    is_member: of the admin group, who unlocks the account as often as may be.
    """

    def play(setting: Setting) -> Attack:
        loot, tally = Loot(), Tally()
        with setting.world(name, hosts=hosts) as world:
            owner = _owner_of(world, "alice")
            for address in (OFFICE, HOME):
                _let_in(world, owner, address)
            for source in sources:
                if hosts == 1:
                    world.join("attacker", people.guess(world, "alice", source(), loot))
                else:
                    world.join("attacker", people.guess_at_once(world, "alice", source(), loot, hosts=hosts))
            if is_member:
                world.join("attacker", people.unlock_for_ever(world, "alice"))
            people.plan_days(owner, tally, [always(OFFICE)] * 4, days=setting.days)
            world.run(MIDNIGHT_MS + setting.days * DAY_MS)
            return _attack(world, name, setting.days, hits=loot.hits, owner=tally)

    return play


def _small_space(setting: Setting) -> Attack:
    """The same attacker on many accounts, with codes of two digits: hits come, and as many as the odds say."""
    name = f"guess {SMALL_DIGITS}-digit codes of {SMALL_ACCOUNTS} users, one day each"
    loot = Loot()
    roomy = {"sends_per_source_per_hour": 10**6, "sends_per_host_per_minute": 10**6, "sends_per_day_in_all": 10**6,
             "sends_per_country_per_day": 10**6, "spend_per_day": Decimal(10**6)}  # fmt: skip
    with setting.world(name, digits=SMALL_DIGITS, limits=roomy) as world:
        names = [f"user{number}" for number in range(SMALL_ACCOUNTS)]
        for user in names:
            world.add_user(user)
            world.join(user, people.guess(world, user, always(EVIL), loot, digits=SMALL_DIGITS))
        world.run(world.clock.now_ms() + DAY_MS)
        return _attack(world, name, 1, actors=tuple(names), digits=SMALL_DIGITS, hits=loot.hits)


def _locking_out(
    name: str, attackers: Sequence[Callable[[], Source]], owner_from: Callable[[], Source]
) -> Play[Attack]:
    """Denying an owner his logins from each of the attackers' places, while he tries four times a day from his."""

    def play(setting: Setting) -> Attack:
        days, tally = min(setting.days, 7), Tally()
        with setting.world(name) as world:
            owner = _owner_of(world, "alice")
            for address in (OFFICE, HOME):
                _let_in(world, owner, address)
            for source in attackers:
                world.join("attacker", people.lock_out(world, "alice", source()))
            world.run(MIDNIGHT_MS + hours(8))
            people.plan_days(owner, tally, [owner_from()] * 4, days=days)
            world.run(MIDNIGHT_MS + days * DAY_MS)
            return _attack(world, name, days, owner=tally)

    return play


def _pumping(name: str, source: Callable[[], Source]) -> Play[Attack]:
    def play(setting: Setting) -> Attack:
        days, tally = 1, Tally()
        with setting.world(name) as world:
            owners = [_owner_of(world, f"owner{number}") for number in range(10)]
            for number, owner in enumerate(owners):
                _let_in(world, owner, f"192.0.2.{100 + number}")
            actors = tuple(f"stolen{number}" for number in range(STOLEN_ACCOUNTS))
            where = source()
            for actor in actors:
                world.add_user(actor)
                world.join(actor, people.pump(world, actor, where))
            for number, owner in enumerate(owners):
                people.plan_days(
                    owner, tally, [always(f"192.0.2.{100 + number}")] * 4 + [always(None)] * 4, days=days
                )
            world.run(MIDNIGHT_MS + days * DAY_MS)
            return _attack(world, name, days, actors=actors, owner=tally)

    return play


def _owner_of(world: World, name: str) -> Person:
    world.add_user(name)
    return Person(world, name, random.Random(world.random.getrandbits(32)))


def _let_in(world: World, owner: Person, address: str) -> None:
    """A login before the story begins, so that the address is a known one."""
    tally = Tally()
    while not tally.at_once:
        world.join("before", owner.log_in(tally, address))
        world.run(world.clock.now_ms() + hours(0.25))


def _afar() -> Source:
    return always(EVIL)


def _office() -> Source:
    return always(OFFICE)


def _home() -> Source:
    return always(HOME)


def _sudo() -> Source:
    return always(None)


def _travelling() -> Source:
    return never_twice("100.64")


ATTACKS: tuple[Play[Attack], ...] = (
    _guessing("guess from one address", _afar),
    _guessing("guess from ever new addresses", never_twice),
    _guessing("guess through 4 hosts, 15 guesses at a time", never_twice, hosts=4),
    _guessing("guess from the owner's office", _office),
    _guessing("guess from his office, his home and afar", _office, _home, _afar),
    _guessing("guess from afar, in the admin group, too", _afar, is_member=True),
    _guessing("guess from three places, in the admin group, too", _office, _home, _afar, is_member=True),
    _small_space,
    _locking_out("lock out from afar; owner at his office", [never_twice], _office),
    _locking_out("lock out from afar; owner at sudo", [never_twice], _sudo),
    _locking_out("lock out from afar; owner at ever new addresses", [never_twice], _travelling),
    _locking_out("lock out from his office; owner there, too", [_office], _office),
    _locking_out("lock out from his office; owner at ever new addresses", [_office], _travelling),
    _locking_out("lock out from his office and afar; owner at home", [_office, never_twice], _home),
    _pumping(f"ask for texts for {STOLEN_ACCOUNTS} stolen accounts", never_twice),
)


# --- Ordinary days ---


def _ordinary(world: World, name: str, days: int, tally: Tally) -> Ordinary:
    texts = sorted(text.at_ms for text in world.gateway.texts)
    cause = tally.causes.most_common(1)
    return Ordinary(
        name=name,
        days=days,
        logins=tally.logins,
        at_once=tally.at_once,
        waited=tally.waited,
        refused=tally.refused,
        cause=cause[0][0] if cause else "",
        texts_a_day=most_in_a_day(texts),
        money_a_day=most_in_a_day(texts) * PRICE,
    )


def _admin(setting: Setting) -> Ordinary:
    """40 logins a day on one server: 12 by ssh from two places, 28 sudo; one in ten right after another."""
    name, days, tally = "admin, 40 logins a day on one server", min(setting.days, 5), Tally()
    with setting.world(name) as world:
        admin = _owner_of(world, "admin")
        places = [always(OFFICE)] * 8 + [always(HOME)] * 4 + [always(None)] * 28
        admin.random.shuffle(places)
        people.plan_days(admin, tally, places, days=days, together=0.1)
        world.run(MIDNIGHT_MS + days * DAY_MS)
        return _ordinary(world, name, days, tally)


def _users(setting: Setting) -> Ordinary:
    """People who log in now and then, half of it sudo."""
    name, days, tally = "20 users, 6 logins a day each", min(setting.days, 5), Tally()
    with setting.world(name) as world:
        for number in range(20):
            user = _owner_of(world, f"user{number}")
            places = [always(f"192.0.2.{100 + number}")] * 3 + [always(None)] * 3
            people.plan_days(user, tally, places, days=days, together=0.1)
        world.run(MIDNIGHT_MS + days * DAY_MS)
        return _ordinary(world, name, days, tally)


def _office_at_nine(setting: Setting) -> Ordinary:
    """50 people behind one address; between 8:50 and 9:10 each logs in twice by ssh and once by sudo."""
    name, days, tally = "office of 50 behind one address at 9 o'clock", min(setting.days, 5), Tally()
    with setting.world(name) as world:
        for number in range(50):
            user = _owner_of(world, f"user{number}")
            places = [always(OFFICE), always(OFFICE), always(None)]
            people.plan_days(user, tally, places, days=days, between=(8.83, 9.17))
        world.run(MIDNIGHT_MS + days * DAY_MS)
        return _ordinary(world, name, days, tally)


def _fleet(setting: Setting) -> Ordinary:
    """1000 servers on one Redis, 100 people with 15 logins a day each, anywhere."""
    name, days, tally = "fleet of 1000 servers, 100 people, 15 logins a day each", 1, Tally()
    with setting.world(name, hosts=1000) as world:
        for number in range(100):
            user = _owner_of(world, f"user{number}")
            places = [always(f"192.0.2.{100 + number}")] * 8 + [always(None)] * 7
            people.plan_days(user, tally, places, days=days, together=0.05, hosts=1000)
        world.run(MIDNIGHT_MS + days * DAY_MS)
        return _ordinary(world, name, days, tally)


def _outage(end: tuple[Outcome, SendReason], name: str) -> Play[Ordinary]:
    """The gateway is away from 9:00 to 10:00; half of the people have recovery codes at hand."""

    def play(setting: Setting) -> Ordinary:
        days, tally = 1, Tally()
        with setting.world(name) as world:
            people.gateway_fails(world, end, at_ms=MIDNIGHT_MS + hours(9), lasts_ms=hours(1))
            for number in range(40):
                user = _owner_of(world, f"user{number}")
                if number % 2:
                    user.recovery_codes.append(world.add_recovery_code(user.name))
                people.plan_days(user, tally, [always(f"192.0.2.{100 + number}")] * 2, days=days, between=(9, 11))
            world.run(MIDNIGHT_MS + days * DAY_MS)
            return _ordinary(world, name, days, tally)

    return play


ORDINARY: tuple[Play[Ordinary], ...] = (
    _users,
    _admin,
    _office_at_nine,
    _fleet,
    _outage((Outcome.REFUSED, SendReason.UNREACHABLE), "gateway away for an hour of two, refuses at once"),
    _outage((Outcome.UNKNOWN, SendReason.TIMEOUT), "gateway away for an hour of two, answers nothing"),
)
