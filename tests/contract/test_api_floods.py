# SPDX-License-Identifier: MIT
"""What nobody without a password can do to a program's logins: shut an owner out, fill Redis, flood the journal.

Redis is a real one. What has a ceiling is counted in bytes of it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from fakes import START_MS, VAULT, decoy_of
from private_redis import PrivateRedis
from textgate.audit_digest import WRITTEN
from textgate.client import AuthClient, PasswordsAway, StoreAway, Throttled, WrongPassword
from textgate.config import StoreConfig
from textgate.decoys import DECOYS
from textgate.limits import HOUR_MS, SOURCE_BUCKETS, bucket, budgets, source_key
from textgate.password_limits import (
    CEILING_BYTES,
    PAIR_BUCKETS,
    SLICE_MS,
    WRONG_BY_KNOWN,
    WRONG_BY_STRANGERS,
    WRONG_PER_PLACE,
    WRONG_PER_SOURCE,
    WRONG_WITHOUT_SOURCE,
    PasswordLimits,
)
from textgate.session import Session
from textgate.store import BeginState, Store

from .test_client import PASSWORD, SOURCE, World, world
from .test_store import Logins, logins, unclosed_allowed

__all__ = ["logins", "world"]  # fixtures

FLOOD = 100_000
ROUNDS = 30
ELSEWHERE = "203.0.113.9"


@pytest.fixture
def client(world: World) -> AuthClient:
    return world.client()


@pytest.fixture
def store(redis_server: PrivateRedis) -> Iterator[Store]:
    store = Store(StoreConfig(url=redis_server.url, timeout_s=30), connections=4)
    yield store
    store.close()


@pytest.fixture
def limits(store: Store) -> PasswordLimits:
    return PasswordLimits(store, VAULT)


def session(user: str, source: str | None) -> Session:
    return Session(user, "x", "", ipaddress.ip_address(source) if source else None, None, "s")


def wrong(client: AuthClient, user: str, source: str, times: int = 1) -> int:
    """So many wrong passwords. Returns how many of them were looked at."""
    looked_at = 0
    for _ in range(times):
        try:
            client.step_one(user, "wrong", source=source)
        except WrongPassword:
            looked_at += 1
        except Throttled:
            break
    return looked_at


# --- The owner ---


def test_strangers_never_shut_the_owner_out_of_a_known_place(world: World, client: AuthClient) -> None:
    """200 wrong passwords from ten networks made the owner wait for two hours."""
    world.log_in(client)
    for hour in range(3):
        world.clock.move_ms(HOUR_MS)
        looked_at = sum(wrong(client, "alice", f"198.51.{hour}.{network}", 20) for network in range(100))
        assert looked_at <= WRONG_BY_STRANGERS
        assert client.step_one("alice", PASSWORD, source=SOURCE)


def test_attacker_at_one_known_place_leaves_the_others(world: World, client: AuthClient) -> None:
    world.log_in(client)
    world.clock.move_ms(HOUR_MS)
    world.log_in(client, source="192.0.2.8")
    assert wrong(client, "alice", SOURCE, 100) == WRONG_PER_PLACE
    with pytest.raises(Throttled):
        client.step_one("alice", PASSWORD, source=SOURCE)
    world.clock.move_ms(60_000)
    assert client.step_one("alice", PASSWORD, source="192.0.2.8")


def test_known_places_have_a_limit_together(world: World, client: AuthClient) -> None:
    places = [f"192.0.2.{number}" for number in range(1, 9)]
    for place in places:
        world.log_in(client, source=place)
        world.clock.move_ms(24 * HOUR_MS)
    assert sum(wrong(client, "alice", place, 100) for place in places) == WRONG_BY_KNOWN


def test_place_that_is_known_to_one_user_is_a_stranger_to_another(world: World, client: AuthClient) -> None:
    world.log_in(client)
    for number in range(WRONG_BY_STRANGERS // WRONG_PER_PLACE):
        assert wrong(client, "bob", f"198.51.100.{number}", WRONG_PER_PLACE) == WRONG_PER_PLACE
    assert wrong(client, "bob", SOURCE) == 0


def test_wait_that_is_told_is_enough(world: World, client: AuthClient) -> None:
    wrong(client, "alice", ELSEWHERE, 100)
    with pytest.raises(Throttled) as told:
        client.step_one("alice", PASSWORD, source=ELSEWHERE)
    assert HOUR_MS / 1000 <= told.value.wait_s <= (HOUR_MS + SLICE_MS) / 1000
    world.clock.move_ms(round(told.value.wait_s * 1000) - 1)
    with pytest.raises(Throttled):
        client.step_one("alice", PASSWORD, source=ELSEWHERE)
    world.clock.move_ms(1)
    assert client.step_one("alice", PASSWORD, source=ELSEWHERE)


@pytest.mark.parametrize("is_known", [False, True])
def test_no_hour_ever_holds_more_than_the_limit(world: World, client: AuthClient, is_known: bool) -> None:
    if is_known:
        world.log_in(client, source=ELSEWHERE)
    moments: list[int] = []
    for _ in range(5 * 60):
        world.clock.move_ms(60_000)
        moments += [world.clock.now_ms()] * wrong(client, "alice", ELSEWHERE, 3)
    for first in moments:
        assert len([moment for moment in moments if first <= moment < first + HOUR_MS]) <= WRONG_PER_PLACE
    assert len(moments) >= 4 * WRONG_PER_PLACE  # and they do come back


def test_clock_that_was_ahead_frees_nobody_when_it_is_set_back(world: World, client: AuthClient) -> None:
    world.clock.move_ms(2 * HOUR_MS)
    wrong(client, "alice", ELSEWHERE, 100)
    world.clock.move_ms(-2 * HOUR_MS)
    assert wrong(client, "alice", ELSEWHERE) == 0
    world.clock.move_ms(HOUR_MS + SLICE_MS)
    assert wrong(client, "alice", ELSEWHERE) == 1  # nor does it wait until the clock gets there again


def test_full_bucket_of_others_keeps_no_owner_out_of_a_known_place(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if every name and every address shared its bucket with the attacker's."""
    client = world.client()
    world.log_in(client)
    vault = client._limits._vault
    monkeypatch.setattr(type(vault), "tags", lambda *_args, **_purpose: ("k1.00",))
    world.clock.move_ms(HOUR_MS)
    assert wrong(client, "mallory", ELSEWHERE, 100) == WRONG_PER_PLACE
    assert wrong(client, "alice", "198.51.100.1") == 0  # a stranger meets it
    monkeypatch.undo()
    assert client.step_one("alice", PASSWORD, source=SOURCE)


def test_buckets_go_by_the_vault_key(world: World) -> None:
    """Nobody can choose a name or an address that shares a bucket with somebody else's."""
    here, there = world.client()._limits, world.client(vault_key="k1:" + "cd" * 32)._limits
    address = ipaddress.ip_address(SOURCE)
    ours = [[one.number for one in here._buckets(f"user{number}", address)] for number in range(50)]
    theirs = [[one.number for one in there._buckets(f"user{number}", address)] for number in range(50)]
    assert not [pair for pair in zip(ours, theirs, strict=True) if pair[0] == pair[1]]
    assert len({tuple(numbers) for numbers in ours}) == 50


# --- Redis ---


def used_bytes(redis_server: PrivateRedis) -> int:
    """What all keys take with all that is in them."""
    client = redis_server.client
    return sum(client.memory_usage(key, samples=0) for key in client.scan_iter(count=1000))


@contextlib.contextmanager
def sent_together(limits: PasswordLimits, redis_server: PrivateRedis) -> Iterator[None]:
    """What goes into buckets is sent a thousand at a time, for speed, and not answered; nowhere is a known place."""
    sent: list[int] = []
    with redis_server.client.pipeline(transaction=False) as pipeline, pytest.MonkeyPatch.context() as patch:
        lua = files("textgate") / "lua"
        parts = [(lua / f"{name}.lua").read_text() for name in ("password_room", "strange_password")]
        sha = redis_server.client.script_load("#!lua\n" + "".join(parts))

        def send(keys: Sequence[str], arguments: Sequence[object]) -> int:
            pipeline.evalsha(sha, len(keys), *keys, *arguments)
            sent.append(1)
            if len(sent) % 1000 == 0:
                assert set(pipeline.execute()) <= {0}
            return 0

        patch.setattr(limits, "_known_script", lambda _keys, _arguments: -1)
        patch.setattr(limits, "_strange_script", send)
        yield
    assert len(sent) == FLOOD


def test_flood_of_names_and_addresses_has_a_ceiling_in_bytes(
    limits: PasswordLimits, redis_server: PrivateRedis
) -> None:
    """99,067 wrong names filled 64 MB. Each of these has a name, and an address, of its own."""
    limits.take(session("first", SOURCE), is_name=True, now_ms=START_MS)  # loads the scripts
    with sent_together(limits, redis_server):
        for number in range(FLOOD):
            at_ms = START_MS + number * 40  # spread over all slices of an hour
            source = str(ipaddress.ip_address((0x2001_0DB8 << 96) + (number << 64)))
            limits.take(session(f"user{number}", source), is_name=True, now_ms=at_ms)
    assert len(redis_server.client.keys("textgate:passwords:*")) == 3
    assert len(redis_server.client.keys()) <= 4  # and the record of the store
    assert used_bytes(redis_server) < CEILING_BYTES


def test_ceiling_holds_when_every_bucket_is_used(
    store: Store, redis_server: PrivateRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row of every table in every slice: there is nothing more to write."""
    numbers = itertools.count()

    class Vault:
        def tags(self, _data: str, *, purpose: str) -> tuple[str, ...]:
            return (f"k1.{next(numbers) // 3 * 128:x}",)

    limits = PasswordLimits(store, Vault())  # type: ignore[arg-type]
    for at in range(10):  # more than the ring has
        for _ in range(PAIR_BUCKETS // 128):
            limits.take(session("x", SOURCE), is_name=True, now_ms=START_MS + at * SLICE_MS)
    assert len(redis_server.client.keys("textgate:passwords:*")) == 3
    assert len(redis_server.client.keys()) <= 4  # and the record of the store
    assert 4_000_000 < used_bytes(redis_server) < CEILING_BYTES


def test_known_places_cost_a_bounded_number_of_fields(world: World, client: AuthClient) -> None:
    world.log_in(client)
    for _ in range(200):
        world.clock.move_ms(10 * 60_000)
        wrong(client, "alice", SOURCE)
    assert world.redis.client.hlen("textgate:{alice}:passwords") <= 8


def test_decoys_have_a_ceiling_in_bytes(logins: Logins, redis_server: PrivateRedis) -> None:
    """Names that nobody has, where PAM asks before the first factor: all of them share a fixed number of decoys."""
    names = {decoy_of(f"user{number}") for number in range(FLOOD)}
    assert DECOYS * 0.99 < len(names) <= DECOYS
    logins.source = ELSEWHERE
    for number in range(ROUNDS):
        decoy = decoy_of(f"user{number}")
        for _ in range(logins.rules.sends[-1].most):  # as often as a day lets strangers
            session_id = f"{logins.now_ms:032x}"
            assert logins.begin(decoy, session_id).state is BeginState.NEW
            logins.guess_wrong(decoy, session_id)
            logins.now_ms += 16 * 60_000
        logins.now_ms += 24 * HOUR_MS
    assert used_bytes(redis_server) / ROUNDS * DECOYS < 40_000_000


def test_budgets_of_strangers_addresses_have_a_ceiling(logins: Logins, redis_server: PrivateRedis) -> None:
    from textgate.config import LimitsConfig

    config = LimitsConfig(allowed_countries=("DK",))

    def of(number: int, *, is_stranger: bool) -> list[Any]:
        address = ipaddress.ip_address((0x2001_0DB8 << 96) + (number << 64))
        tag = VAULT.tags(source_key(address), purpose="source")[0]
        found = budgets(
            config, phone_tag=None, country="DK", source=address, source_tag=tag, host="h", is_stranger=is_stranger
        )
        return [one for one in found if one.scope.value == "source"]

    subjects = {one.subject for number in range(FLOOD) for one in of(number, is_stranger=True)}
    assert len(subjects) <= SOURCE_BUCKETS
    for number in range(1000):
        logins.store.charge(of(number, is_stranger=True), now_ms=logins.now_ms + number % 24 * HOUR_MS // 24)
    assert (used_bytes(redis_server)) / 1000 * SOURCE_BUCKETS < 4_000_000
    [known] = of(7, is_stranger=False)
    assert known.subject == "2001:db8:0:7::/64"  # not shared with strangers


def test_pages_tell_the_ceilings_as_they_are() -> None:
    root = Path(__file__).parents[2]
    kept, api = (root / "daemon/STORE.md").read_text(), (root / "docs/api.md").read_text()
    assert f"{DECOYS} decoys | 40 MB" in kept
    assert f"{SOURCE_BUCKETS} keys | 4 MB" in kept
    assert f"3 keys | {CEILING_BYTES // 1_000_000} MB" in kept
    assert f"at most {CEILING_BYTES // 1_000_000} MB" in api
    for most in (WRONG_PER_PLACE, WRONG_BY_STRANGERS, WRONG_BY_KNOWN, WRONG_PER_SOURCE, WRONG_WITHOUT_SOURCE):
        assert f"| {most} |" in api


def test_bucket_is_no_name_and_no_address() -> None:
    assert bucket("k1.ffffffff", 4096) == "~0fff"


# --- The journal ---


def test_flood_of_wrong_passwords_is_summed_up(world: World, client: AuthClient) -> None:
    for number in range(600):
        wrong(client, f"user{number}", SOURCE)
    assert len(world.journal.entries) <= 12
    world.log_in(client, source=ELSEWHERE)
    assert world.journal.find("check", result="pass")
    client.close()
    summed = [entry for entry in world.journal.entries if entry["times"]]
    assert sum(int(entry["times"]) for entry in summed) == 600 - 2 * 5
    assert all(entry["source"] == SOURCE for entry in summed)


# --- The journal while a part is away ---


def _broken_check(_user: str, _password: str) -> bool:
    raise OSError


@unclosed_allowed
@pytest.mark.parametrize("away", ["redis", "passwords"])
def test_tries_while_a_part_is_away_do_not_flood_the_journal(world: World, away: str) -> None:
    broken: dict[str, dict[str, Any]] = {
        "redis": {"store_url": "unix:///nonexistent/redis.sock"},
        "passwords": {"passwords": _broken_check},
    }
    client = world.client(**broken[away])
    for _ in range(10 * WRITTEN):
        with pytest.raises((StoreAway, PasswordsAway)):
            client.step_one("alice", "wrong", source=ELSEWHERE)
    assert len(world.journal.find("fault")) == WRITTEN
