# SPDX-License-Identifier: MIT
"""The store's time on a real Redis, with clocks to order.

Redis' own clock can't be moved; that its record of when it was last asked lies elsewhere looks the same to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from contract.store_aids import FakeHands
from contract.test_store import Logins
from contract.test_verifier import unclosed_allowed
from fakes import Journal
from private_redis import PrivateRedis
from textgate.config import CodesConfig, LimitsConfig, StoreConfig
from textgate.errors import StoreUnavailable
from textgate.limits import DAY_MS, SendRow, build_rules
from textgate.store import BeginState, CheckState, Store
from textgate.store_clock import TICK_EVERY_MS, StoreClock

MINUTE_MS, SLACK_MS = 60_000, 20_000
LATER_MS = 61_000  # than the least time between two texts
RECORD = "textgate:store"
JUMPS = [-400 * DAY_MS, -DAY_MS, -301_000, -1, 1, 301_000, DAY_MS, 400 * DAY_MS]


@pytest.fixture
def store(redis_server: PrivateRedis) -> Iterator[Store]:
    redis_server.client.flushall()
    store = Store(StoreConfig(url=redis_server.url, timeout_s=5), connections=8)
    yield store
    store.close()
    redis_server.client.flushall()


def jump_redis(server: PrivateRedis, by_ms: int) -> None:
    """The clock of Redis' machine is set."""
    server.client.hincrby(RECORD, "wall_ms", -by_ms)


# --- Time ---


def test_time_starts_with_the_clock_of_redis(store: Store, redis_server: PrivateRedis) -> None:
    hands = FakeHands(wall_ms=1)
    seconds, _ = redis_server.client.time()
    now_ms = StoreClock(store, Journal().audit, hands=hands.hands).now_ms()
    assert abs(now_ms - seconds * 1000) < MINUTE_MS


def test_time_goes_by_as_it_does_and_not_as_clocks_say(store: Store, redis_server: PrivateRedis) -> None:
    hands = FakeHands()
    clock = StoreClock(store, Journal().audit, hands=hands.hands)
    start_ms = clock.now_ms()
    for by_ms in JUMPS:
        hands.jump_ms(by_ms)
        jump_redis(redis_server, by_ms)
        assert clock.now_ms() == start_ms
        clock.confirm()
        assert clock.now_ms() == start_ms
    hands.pass_ms(DAY_MS)
    assert clock.now_ms() == start_ms + DAY_MS


def test_time_goes_on_over_a_restart_of_the_daemon(store: Store, redis_server: PrivateRedis) -> None:
    hands = FakeHands()
    start_ms = StoreClock(store, Journal().audit, hands=hands.hands).now_ms()
    hands.pass_ms(7_000)
    hands.jump_ms(DAY_MS)
    jump_redis(redis_server, DAY_MS)
    assert StoreClock(store, Journal().audit, hands=hands.hands).now_ms() == start_ms + 7_000


def test_time_off_is_told_by_the_clock_of_redis_and_never_backwards(store: Store, redis_server: PrivateRedis) -> None:
    hands = FakeHands()
    clock = StoreClock(store, Journal().audit, hands=hands.hands)
    start_ms = clock.now_ms()
    hands.reboot("boot-2")
    jump_redis(redis_server, 2 * DAY_MS)
    at_ms = StoreClock(store, Journal().audit, hands=hands.hands).now_ms()
    assert 0 <= at_ms - start_ms - 2 * DAY_MS < MINUTE_MS
    hands.reboot("boot-3")
    jump_redis(redis_server, -2 * DAY_MS)
    assert 0 <= StoreClock(store, Journal().audit, hands=hands.hands).now_ms() - at_ms < MINUTE_MS


def test_way_back_of_a_clock_that_was_never_set_is_no_time_that_went_by(
    store: Store, redis_server: PrivateRedis
) -> None:
    """A machine without a clock of its own: at its start it is 1970, and at the next one it is right at once."""
    hands = FakeHands()
    start_ms = StoreClock(store, Journal().audit, hands=hands.hands).now_ms()
    jump_redis(redis_server, -50 * 365 * DAY_MS)
    hands.reboot("boot-2")
    clock = StoreClock(store, Journal().audit, hands=hands.hands)
    clock.confirm()
    clock.confirm()
    jump_redis(redis_server, 50 * 365 * DAY_MS)
    hands.reboot("boot-3")
    assert StoreClock(store, Journal().audit, hands=hands.hands).now_ms() - start_ms < MINUTE_MS


def test_before_clocks_were_ever_set_strangers_are_strangers(store: Store) -> None:
    logins = Logins(store, now_ms=DAY_MS, source="192.0.2.7")
    assert logins.begin().is_stranger


@unclosed_allowed
def test_time_goes_on_while_redis_is_away(store: Store, redis_server: PrivateRedis) -> None:
    hands = FakeHands()
    clock = StoreClock(store, Journal().audit, hands=hands.hands)
    start_ms = clock.now_ms()
    redis_server.kill()
    hands.pass_ms(TICK_EVERY_MS)
    assert clock.now_ms() == start_ms + TICK_EVERY_MS
    with pytest.raises(StoreUnavailable):
        clock.confirm()
    redis_server.start()


@unclosed_allowed
def test_time_is_unknown_until_redis_was_reached(store: Store, redis_server: PrivateRedis) -> None:
    redis_server.kill()
    clock = StoreClock(store, Journal().audit, hands=FakeHands().hands)
    for ask in (clock.now_ms, clock.epoch, clock.confirm):
        with pytest.raises(StoreUnavailable):
            ask()
    redis_server.start()
    assert clock.now_ms() > 0


def test_many_starts_of_machines_leave_a_bounded_record(store: Store, redis_server: PrivateRedis) -> None:
    hands = FakeHands()
    for number in range(100):
        hands.reboot(f"boot-{number}")
        clock = StoreClock(store, Journal().audit, hands=hands.hands)
        clock.now_ms()
    assert redis_server.client.hlen(RECORD) <= 64 + 6
    start_ms = clock.now_ms()
    hands.pass_ms(5)
    assert StoreClock(store, Journal().audit, hands=hands.hands).now_ms() == start_ms + 5  # the newest one stays


def test_redis_that_does_not_tell_its_time_is_no_hindrance(store: Store, redis_server: PrivateRedis) -> None:
    redis_server.client.execute_command("ACL", "SETUSER", "default", "-time")
    try:
        hands = FakeHands()
        assert StoreClock(store, Journal().audit, hands=hands.hands).now_ms() == hands.wall_ms
    finally:
        redis_server.client.execute_command("ACL", "SETUSER", "default", "+time")


steps = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.sampled_from([1, 4_999, 5_000, MINUTE_MS, 301_000, DAY_MS // 2])),
        st.tuples(st.just("jump"), st.integers(0, 1), st.sampled_from(JUMPS)),
        st.tuples(st.just("jump_redis"), st.sampled_from(JUMPS)),
        st.tuples(st.just("restart"), st.integers(0, 1)),
        st.tuples(st.just("reboot"), st.integers(0, 1)),
        st.tuples(st.just("guess"), st.integers(0, 1)),
        st.tuples(st.just("text"), st.integers(0, 1)),
        st.tuples(st.just("look"), st.integers(0, 1)),
    ),
    min_size=5,
    max_size=60,
)
FEW = replace(
    build_rules(CodesConfig(tries=5), LimitsConfig(wrong_per_day=4, wrong_in_a_row=100)),
    wrong_per_place=4,
    sends=(SendRow("day", DAY_MS, 3),),
)


@given(steps)
@example([("text", 0), ("pass", 301_000), ("jump", 0, -301_000), ("look", 0)])
@example([("text", 0), ("jump", 0, 301_000), ("look", 0), ("jump", 0, -301_000), ("look", 0)])
@example(
    [("text", 0), *[("guess", 0)] * 4, ("jump", 0, DAY_MS), ("jump_redis", DAY_MS), ("restart", 0), ("guess", 0)]
)
@example([("text", 0), *[("guess", 0)] * 4, ("jump_redis", DAY_MS), ("reboot", 1), ("text", 1), ("guess", 1)])
@example([*[("text", 0)] * 3, ("pass", DAY_MS // 2), ("jump_redis", DAY_MS), ("reboot", 0), ("text", 0)])
@settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_jump_of_a_clock_forgets_a_count_or_wakes_what_has_ended(
    store: Store, redis_server: PrivateRedis, steps: list[Any]
) -> None:
    """Two hosts share a Redis; clocks of all three machines jump, daemons and hosts are started anew.

    In real time, which the test alone knows: at most four wrong codes and three texts in any 24 hours, every code
    ends after its life, and one that was refused as ended stays so. The other host is up while one is started anew.
    SLACK_MS: for the time that this test takes itself, which the clock of Redis shows.
    """
    redis_server.client.flushall()
    hosts = [FakeHands("boot-a", 5_000), FakeHands("boot-b", 900_000_000, wall_ms=1_700_000_000_000 + DAY_MS)]
    clocks = [StoreClock(store, Journal().audit, hands=host.hands) for host in hosts]
    rooms = [Logins(store, FEW), Logins(store, FEW)]
    real_ms, counter = 0, 1
    guesses: list[int] = []
    texted: list[int] = []
    ended: set[str] = set()
    made: dict[str, int] = {}
    last_ms = [0, 0]
    for number, (name, *arguments) in enumerate(steps):
        host = arguments[0] if name not in ("pass", "jump_redis") else 0
        if name == "pass":
            real_ms += arguments[0]
            for one in hosts:
                one.pass_ms(arguments[0])
        elif name == "jump":
            hosts[host].jump_ms(arguments[1])
        elif name == "jump_redis":
            jump_redis(redis_server, arguments[0])
            for clock in clocks:  # a host that is up looks every half a minute
                clock.confirm()
        elif name in ("restart", "reboot"):
            clocks[1 - host].confirm()
            if name == "reboot":
                hosts[host].reboot(f"boot-{number}")
            clocks[host] = StoreClock(store, Journal().audit, hands=hosts[host].hands)
        now_ms, wall_ms = clocks[host].now_ms(), hosts[host].wall_ms
        assert now_ms >= last_ms[host], "the store's time went back"
        assert now_ms >= last_ms[1 - host] - SLACK_MS, "the hosts do not agree"
        last_ms[host] = now_ms
        common: dict[str, Any] = {"now_ms": now_ms, "wall_ms": wall_ms, "session": f"s{host}"}
        if name == "text":
            counter += 1
            begun = rooms[host].begin(is_anew=True, counter=counter, challenge_id=f"c{number}", **common)
            if begun.state is BeginState.NEW:
                texted.append(real_ms)
                made[begun.challenge_id] = real_ms
            assert sum(at > real_ms - DAY_MS + SLACK_MS for at in texted) <= 3, "a text was forgotten"
        elif name in ("guess", "look"):
            taken = rooms[host].take(**common)
            if taken.state is CheckState.TRY:
                guesses.append(real_ms)
                assert taken.challenge_id not in ended, "a code woke up"
                assert real_ms - made[taken.challenge_id] < FEW.life_ms, "a code outlived its life"
            elif taken.state is CheckState.NONE:
                ended |= {challenge_id for challenge_id in made if steps[int(challenge_id[1:])][1] == host}
            assert sum(at > real_ms - DAY_MS + SLACK_MS for at in guesses) <= 4, "a wrong code was forgotten"
