# SPDX-License-Identifier: MIT
"""Floods of wrong passwords against a program that uses the Python API: how long an owner waits, what Redis holds.

The limits and their scripts are the real ones, on a real Redis, in virtual time. A password is looked at or not; what
comes after a right one is the business of the other scenarios.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator
from dataclasses import dataclass

from fakes import VAULT, FakeClock
from private_redis import PrivateRedis
from textgate.config import StoreConfig
from textgate.limits import HOUR_MS, source_key
from textgate.password_limits import PasswordLimits
from textgate.session import Session
from textgate.store import Store

SEED = 9176
HOURS = 24
OFFICE, HOTEL = "192.0.2.20", "203.0.113.9"
TRIES_A_MINUTE = 30  # of the attacker, all networks together
LOGINS_A_DAY = 24  # of the owner, at the office and at the hotel


@dataclass(frozen=True)
class Flood:
    """One attacker's result. guesses_an_hour: the most passwords looked at in any hour. office, hotel: of the owner's
    right passwords, those that were looked at, and the longest wait (s) that one was told. keys, bytes: in Redis.
    """

    name: str
    tries: int
    guesses_an_hour: int
    office_passed: int
    office_wait_s: int
    hotel_passed: int
    hotel_wait_s: int
    logins: int
    key_count: int
    used_bytes: int


@dataclass(frozen=True)
class Scenario:
    """networks: how many /64s the attacker has; is_one_name: whether they try alice or ever new names."""

    name: str
    networks: int
    is_one_name: bool = True


SCENARIOS = (
    Scenario("one network at alice", 1),
    Scenario("10 networks at alice", 10),
    Scenario("1000 networks at alice", 1000),
    Scenario("40000 networks at ever new names", 40_000, is_one_name=False),
)


def play(server: PrivateRedis, scenario: Scenario) -> Flood:
    """A day of it; the owner tries once an hour at the office, a known place, and at a hotel, which is a new one."""
    server.client.flushall()
    clock, source = FakeClock(), random.Random(f"{SEED} {scenario.name}")
    store = Store(StoreConfig(url=server.url, timeout_s=30), connections=2)
    limits = PasswordLimits(store, VAULT)
    server.client.zadd("textgate:{alice}:known", {source_key(ipaddress.ip_address(OFFICE)): clock.now_ms()})
    looked_at: list[int] = []
    waits: dict[str, list[int]] = {OFFICE: [], HOTEL: []}
    tries = 0
    for minute in range(HOURS * 60):
        for session in _attack(scenario, minute, source):
            tries += 1
            count = limits.take(session, is_name=True, now_ms=clock.now_ms())
            if not count.wait_ms and scenario.is_one_name:
                looked_at.append(clock.now_ms())
        if minute % 60 == 59:
            for address, told in waits.items():
                told.append(_right(limits, clock, address))
        clock.move_ms(60_000)
    client = server.client
    used_bytes = sum(client.memory_usage(key, samples=0) for key in client.scan_iter(count=1000))
    key_count = len(client.keys("textgate:*password*")) + len(client.keys("textgate:*:known"))
    store.close()
    return Flood(
        scenario.name, tries, _most_in_an_hour(looked_at),
        waits[OFFICE].count(0), max(waits[OFFICE]) // 1000, waits[HOTEL].count(0), max(waits[HOTEL]) // 1000,
        LOGINS_A_DAY, key_count, used_bytes,
    )  # fmt: skip


def _attack(scenario: Scenario, minute: int, source: random.Random) -> Iterator[Session]:
    for number in range(TRIES_A_MINUTE):
        network = source.randrange(scenario.networks)
        name = "alice" if scenario.is_one_name else f"name{minute * TRIES_A_MINUTE + number}"
        yield _session(name, str(ipaddress.ip_address((0x2001_0DB8 << 96) + (network << 64))))


def _right(limits: PasswordLimits, clock: FakeClock, address: str) -> int:
    """The owner's right password. Returns 0, or how long it has to wait (ms)."""
    count = limits.take(_session("alice", address), is_name=True, now_ms=clock.now_ms())
    if not count.wait_ms:
        limits.give_back(count)
    return count.wait_ms


def _session(user: str, address: str) -> Session:
    return Session(user, "api", "", ipaddress.ip_address(address), None, "s")


def _most_in_an_hour(moments: list[int]) -> int:
    most, oldest = 0, 0
    for newest, at_ms in enumerate(moments):
        while moments[oldest] <= at_ms - HOUR_MS:
            oldest += 1
        most = max(most, newest - oldest + 1)
    return most
