# SPDX-License-Identifier: MIT
"""A Redis that was taken over, or something in its place, says what it likes: it lets nobody in by its word alone.

Each lie is told on the wire, by a real server with its answers changed. docs/threat-model.md has the list.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contract.store_aids import Backup, LyingRedis
from contract.test_verifier import ALICE, Door
from private_redis import PrivateRedis
from textgate import codes
from textgate.config import StoreConfig
from textgate.errors import StoreUnsound, VaultError
from textgate.gateway_outcomes import Outcome, SendReason
from textgate.protocol import Word
from textgate.store import Store
from textgate.store_clock import StoreClock
from textgate.verifier import user_key

HOUR_MS = 3_600_000
AWAY = (Outcome.REFUSED, SendReason.UNREACHABLE)


@pytest.fixture
def liar(redis_server: PrivateRedis, tmp_path: Path) -> Iterator[LyingRedis]:
    with LyingRedis(tmp_path, redis_server) as lying:
        yield lying


@pytest.fixture
def door(redis_server: PrivateRedis, liar: LyingRedis) -> Iterator[Door]:
    door = Door(redis_server.url)
    door.store.close()
    door.store = Store(StoreConfig(url=liar.url, timeout_s=5), connections=4)
    door.history = StoreClock(door.store, door.journal.audit)
    door.build()
    yield door
    door.alarms.close()
    door.store.close()


def _is_alert(door: Door, reason: str) -> bool:
    return any(entry["reason"] == reason and entry["event"] == "store" for entry in door.journal.alerts)


def _fail_safe(door: Door) -> None:
    door.configure(failmode={"store": "safe", "gateway": "safe", "safe_services": ("sshd",)})


def test_door_without_a_lie_opens(door: Door) -> None:
    """So that the refusals below are the lies' doing."""
    door.begin()
    assert door.check(door.code()).word is Word.PASS
    code = codes.new_recovery_code()
    door.verifier.new_recovery(user_key("alice"), [code])
    assert door.check(code.reveal(), session="s2").word is Word.PASS


# --- Recovery codes ---


@pytest.mark.parametrize(
    "answer",
    [["pass", 9], ["pass"], ["pass", 9, "", ""], ["pass", 9, "k1.00", "k1.00"], ["pass", 9, None, None]],
    ids=repr,
)
@pytest.mark.parametrize("is_safe", [False, True])
def test_pass_without_a_proof_opens_nothing(door: Door, liar: LyingRedis, answer: list[Any], is_safe: bool) -> None:
    if is_safe:
        _fail_safe(door)
    liar.lies["recovery_tags"] = lambda *_: answer
    assert door.check("aaaa-bbbb-cccc").word is Word.DENY
    assert [entry for entry in door.journal.alerts if entry["event"] == "store"]


def test_pass_for_the_very_hash_that_was_asked_opens_nothing(door: Door, liar: LyingRedis) -> None:
    """Redis learns the hash, and the sum of the value, of whatever is typed."""
    liar.lies["recovery_tags"] = lambda asked, *_: ["pass", 9, asked["recovery_tags"][0], asked["recovery_hashes"][0]]
    assert door.check("aaaa-bbbb-cccc").word is Word.DENY
    assert _is_alert(door, "recovery_not_ours")


def test_recovery_code_of_somebody_else_opens_nothing(door: Door, liar: LyingRedis) -> None:
    code = codes.new_recovery_code()
    door.verifier.new_recovery(user_key("bob"), [code])
    ((tag, value),) = liar.server.client.hgetall("textgate:{bob}:recovery").items()
    liar.lies["recovery_tags"] = lambda *_: ["pass", 9, tag, value]
    assert door.check(code.reveal()).word is Word.DENY


def test_value_of_another_code_of_the_same_user_opens_nothing(door: Door, liar: LyingRedis) -> None:
    mine, other = codes.new_recovery_code(), codes.new_recovery_code()
    door.verifier.new_recovery(user_key("alice"), [other])
    (value,) = liar.server.client.hvals("textgate:{alice}:recovery")
    liar.lies["recovery_tags"] = lambda asked, *_: ["pass", 9, asked["recovery_tags"][0], value]
    assert door.check(mine.reveal()).word is Word.DENY


def test_recovery_code_that_was_used_does_not_come_back(door: Door, liar: LyingRedis) -> None:
    code = codes.new_recovery_code()
    door.verifier.new_recovery(user_key("alice"), [code])
    kept = liar.server.client.hgetall("textgate:{alice}:recovery")
    assert door.check(code.reveal()).word is Word.PASS
    liar.server.client.hset("textgate:{alice}:recovery", mapping=kept)
    assert door.check(code.reveal(), session="s2").word is Word.DENY


# --- Texted codes ---


def _seen_before(door: Door) -> tuple[str, int]:
    """A code that was texted once and seen by others, and its counter."""
    door.begin(session="seen")
    counter = int(door.store._redis.hget("textgate:{alice}:hotp", "counter"))
    door.clock.move_ms(HOUR_MS)
    return door.code(), counter


def test_counter_that_was_texted_before_opens_nothing(door: Door, liar: LyingRedis) -> None:
    code, counter = _seen_before(door)
    door.begin()
    assert door.code() != code
    liar.lies["try_id"] = lambda asked, answer, _ask: (
        [*answer[:2], counter, *answer[3:]] if "phone_tags" in asked else answer
    )
    assert door.check(code).word is Word.DENY
    assert _is_alert(door, "code_not_ours")


def test_store_put_back_in_time_texts_no_code_twice(door: Door, liar: LyingRedis) -> None:
    """Its counter falls, and nobody notices: the daemon's own time is in every code."""
    backup = Backup(liar.server)
    texted: list[str] = []
    for _ in range(3):
        door.begin(session=f"s{len(texted)}")
        texted.append(door.code())
        door.clock.move_ms(HOUR_MS)
    backup.put_back()
    for _ in range(3):
        door.begin(session=f"s{len(texted)}")
        texted.append(door.code())
        door.clock.move_ms(HOUR_MS)
    assert len(set(texted)) == 6


@pytest.mark.parametrize(("user", "session"), [("alice", "s2"), ("bob", "s1"), ("bob", "s2")])
def test_challenge_moved_to_another_login_opens_nothing(
    door: Door, liar: LyingRedis, user: str, session: str
) -> None:
    door.begin()
    code = door.code()
    client = liar.server.client
    client.copy("textgate:{alice}:challenge:s1", f"textgate:{{{user}}}:challenge:{session}", replace=True)
    if user == "bob":
        client.copy("textgate:{alice}:hotp", "textgate:{bob}:hotp", replace=True)
    try:
        assert door.check(code, user, session).word is Word.DENY
    except VaultError:  # the secret doesn't even open; the server makes a denial of it
        assert user == "bob"


@pytest.mark.parametrize("field", ["expires_at_ms", "expires_wall_ms", "id", "counter", "phone_tag"])
def test_challenge_changed_in_redis_opens_nothing(door: Door, liar: LyingRedis, field: str) -> None:
    door.begin()
    key = "textgate:{alice}:challenge:s1"
    value = liar.server.client.hget(key, field)
    liar.server.client.hset(key, field, int(value) + 60_000 if value.isdigit() else value + "0")
    assert door.check(door.code()).word is Word.DENY


def test_code_that_has_ended_opens_nothing_whatever_redis_says(door: Door, liar: LyingRedis) -> None:
    door.begin()
    alive: list[Any] = []

    def keep(asked: Any, answer: Any, _ask: Any) -> Any:
        if "phone_tags" in asked:
            alive.append(answer)
        return answer

    liar.lies["try_id"] = keep
    door.check(door.wrong())
    door.clock.move_ms(300_000)
    liar.lies["try_id"] = lambda asked, answer, _ask: alive[0] if "phone_tags" in asked else ["pass"]
    assert door.check(door.code()).word is Word.DENY


def test_code_opens_once_however_often_redis_says_pass(door: Door, liar: LyingRedis) -> None:
    door.begin()
    key = "textgate:{alice}:challenge:s1"
    kept = liar.server.client.hgetall(key)
    assert door.check(door.code()).word is Word.PASS
    liar.server.client.hset(key, mapping=kept)
    assert door.check(door.code()).word is Word.DENY


def test_text_is_worth_its_tries_however_many_redis_gives(door: Door, liar: LyingRedis) -> None:
    """The limits in a day are Redis' to keep; the tries of a text are this daemon's as well."""
    door.begin()
    right = door.code()
    key = "textgate:{alice}:challenge:s1"
    for _ in range(door.config.codes.tries):
        door.check(door.wrong())
        liar.server.client.hset(key, "tries_left", 3)
        door.store.unlock("alice")
    assert door.check(right).word is Word.DENY


def test_secret_of_somebody_else_opens_nothing(door: Door, liar: LyingRedis) -> None:
    door.begin("bob", "s9")
    door.begin()
    bobs = liar.server.client.hget("textgate:{bob}:hotp", "secret")
    liar.server.client.hset("textgate:{alice}:hotp", "secret", bobs)
    with pytest.raises(VaultError):
        door.check(door.code(ALICE))


@pytest.mark.parametrize("place", [1, 2])
def test_challenge_that_was_not_asked_for_is_not_texted(door: Door, liar: LyingRedis, place: int) -> None:
    _fail_safe(door)

    def other(_asked: Any, answer: list[Any], _ask: Any) -> list[Any]:
        if answer[0] == b"new":
            answer[place] = b"another" if place == 1 else 7
        return answer

    liar.lies["is_anew"] = other
    assert door.begin().word is Word.DENY
    assert door.gateway.texts == []


# --- [failmode] ---


@pytest.mark.parametrize("send", ["refused:unreachable", "refused:unreachable#k1." + "0" * 32, "unknown:timeout"])
def test_text_that_redis_alone_calls_failed_opens_nothing(door: Door, liar: LyingRedis, send: str) -> None:
    _fail_safe(door)
    door.begin()
    liar.server.client.hset("textgate:{alice}:challenge:s1", "send", send)
    assert door.check(door.wrong()).word is Word.DENY


def test_failed_text_of_another_login_opens_nothing(door: Door, liar: LyingRedis) -> None:
    _fail_safe(door)
    door.gateway.always = (Outcome.UNKNOWN, SendReason.TIMEOUT)
    door.begin(session="s2")
    failed = liar.server.client.hget("textgate:{alice}:challenge:s2", "send")
    assert failed.startswith("unknown:timeout#")
    door.gateway.always = (Outcome.SENT, SendReason.ACCEPTED)
    door.clock.move_ms(HOUR_MS)
    door.begin()
    liar.server.client.hset("textgate:{alice}:challenge:s1", "send", failed)
    assert door.check(door.wrong()).word is Word.DENY


@pytest.mark.parametrize("script", ["is_anew", "try_id", "recovery_tags"])
def test_junk_is_not_away(door: Door, liar: LyingRedis, script: str) -> None:
    """A Redis that answers something else is none that was away: no [failmode] speaks for it."""
    door.begin()
    _fail_safe(door)
    liar.lies[script] = lambda *_: ["what", 1]
    typed = "aaaa-bbbb-cccc" if script == "recovery_tags" else door.code()
    reply = door.begin(session="s2") if script == "is_anew" else door.check(typed)
    assert reply.word is Word.DENY


# --- Its own history ---


def test_history_that_runs_backwards_is_not_believed(door: Door, liar: LyingRedis) -> None:
    assert door.history is not None
    door.history.confirm()
    door.history.confirm()
    last: list[Any] = []

    def keep(_asked: Any, answer: Any, _ask: Any) -> Any:
        last.append(answer)
        return answer

    liar.lies["tick"] = keep
    door.history.confirm()
    for changed in (
        last[0],  # the very same again
        [last[0][0], last[0][1], last[0][2] - 1, 10**6, b""],  # an earlier epoch
        [last[0][0], b"another", last[0][2], 10**6, b""],  # another store
        [1, last[0][1], last[0][2], 10**6, b""],  # an earlier time
        [2**53, last[0][1], last[0][2], 10**6, b""],
        ["x"],
        None,
    ):
        liar.lies["tick"] = lambda *_, changed=changed: changed
        with pytest.raises(StoreUnsound):
            door.history.confirm()
