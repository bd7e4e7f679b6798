# SPDX-License-Identifier: MIT
"""The store on a real Redis: every limit at its edge, every step once, and every fault of Redis a denial.

Edges are told apart by one millisecond; time is an argument, so nothing here waits for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fakes import START_MS, decoy_of
from private_redis import PrivateRedis
from textgate.config import CodesConfig, LimitsConfig, StoreConfig
from textgate.errors import StoreUnavailable
from textgate.limits import BUCKET_PREFIX, DAY_MS, Budget, Rules, Scope, SendRow, build_rules
from textgate.store import BeginState, Begun, CheckState, Proposal, Store, Taken, encode_user

RULES = build_rules(CodesConfig(), LimitsConfig())
MINUTE_MS = 60_000
LIFE_MS = 300_000
IN_FLIGHT_MS = 15_000
KNOWN_MS = 90 * DAY_MS
TAG = "k1.0123456789abcdef"
ROOMY = replace(RULES, sends=(SendRow("day", DAY_MS, 10_000),), wrong_per_day=10_000, wrong_per_place=10_000)
STRANGER = "192.0.2.7"
COUNTERS = itertools.count(1)  # a verifier proposes the time


def proposal(
    challenge_id: str, counter: int, now_ms: int = START_MS, wall_ms: int = START_MS, rules: Rules = RULES
) -> Proposal:
    """What a verifier proposes, but for its proof, which the store doesn't look at."""
    return Proposal(challenge_id, counter, now_ms + rules.life_ms, wall_ms + rules.life_ms, "mac")


@dataclass
class Logins:
    """The store with the arguments that most tests don't care about filled in; its clock goes where it is told."""

    store: Store
    rules: Rules = RULES
    now_ms: int = START_MS
    source: str = ""
    _made: int = 0

    def begin(self, user: str = "alice", session: str = "s1", **changes: Any) -> Begun:
        self._made += 1
        now_ms = changes.get("now_ms", self.now_ms)
        wall_ms = changes.get("wall_ms", now_ms)
        arguments: dict[str, Any] = {
            "now_ms": self.now_ms,
            "wall_ms": wall_ms,
            "proposal": proposal(
                changes.pop("challenge_id", f"challenge-{self._made}"),
                changes.pop("counter", next(COUNTERS)),
                now_ms,
                wall_ms,
                changes.get("rules", self.rules),
            ),
            "phone_tags": [TAG],
            "rules": self.rules,
            "sealed": "sealed",
            "source": self.source,
        }
        begun = self.store.begin(user, session, **(arguments | changes))
        assert begun is not None
        return begun

    def take(self, user: str = "alice", session: str = "s1", **changes: Any) -> Taken:
        self._made += 1
        arguments: dict[str, Any] = {
            "now_ms": self.now_ms,
            "wall_ms": changes.get("now_ms", self.now_ms),
            "try_id": f"try-{self._made}",
            "phone_tags": [TAG],
            "rules": self.rules,
            "source": self.source,
        }
        return self.store.take_try(user, session, **(arguments | changes))

    def consume(self, challenge_id: str, user: str = "alice", session: str = "s1", **changes: Any) -> Taken:
        arguments: dict[str, Any] = {
            "now_ms": self.now_ms,
            "wall_ms": changes.get("now_ms", self.now_ms),
            "challenge_id": challenge_id,
            "try_id": f"try-{self._made}",  # of the last `take`
            "rules": self.rules,
            "source": self.source,
        }
        return self.store.consume(user, session, **(arguments | changes))

    def confirm_wrong(self, user: str = "alice", session: str = "s1") -> Taken:
        return self.store.confirm_wrong(user, session, now_ms=self.now_ms, rules=self.rules, source=self.source)

    def settle(self, challenge_id: str, send: str, user: str = "alice", session: str = "s1") -> None:
        is_refused = send.startswith("refused")
        self.store.settle_send(
            user, session, challenge_id=challenge_id, send=send, is_refused=is_refused, source=self.source
        )

    # --- Whole steps ---

    def guess_wrong(self, user: str = "alice", session: str = "s1") -> Taken:
        """One wrong code: taken and confirmed. Returns the last answer."""
        taken = self.take(user, session)
        return self.confirm_wrong(user, session) if taken.state is CheckState.TRY else taken

    def pass_through(self, user: str = "alice", session: str = "s1") -> None:
        """A right code, with whatever text it needs."""
        begun = self.begin(user, session)
        assert self.take(user, session).state is CheckState.TRY
        assert self.consume(begun.challenge_id, user, session).state is CheckState.PASS

    def guess_wrong_times(self, count: int, user: str = "alice") -> Taken:
        """So many wrong codes, each in a session of its own, with no regard to the limits on texts."""
        roomy = replace(self.rules, sends=ROOMY.sends)
        for _ in range(count):
            self._made += 1
            session = f"session-{self._made}"
            begun = self.begin(user, session, rules=roomy)
            assert begun.state is BeginState.NEW
            last = self.guess_wrong(user, session)
        return last

    def wait(self, ms: int) -> None:
        self.now_ms += ms


def _store(redis_server: PrivateRedis, timeout_s: float = 5.0, connections: int = 8) -> Store:
    return Store(StoreConfig(url=redis_server.url, timeout_s=timeout_s), connections=connections)


@pytest.fixture
def logins(redis_server: PrivateRedis) -> Iterator[Logins]:
    store = _store(redis_server)
    yield Logins(store)
    store.close()


# --- begin ---


def test_begin_makes_a_challenge_and_the_first_secret(logins: Logins) -> None:
    store = logins.store
    arguments: dict[str, Any] = {"now_ms": START_MS, "wall_ms": START_MS, "phone_tags": [TAG], "rules": RULES}
    arguments["proposal"] = proposal("c", 1)
    assert store.begin("alice", "s1", **arguments) is None  # no secret yet: nothing was made
    assert store.begin("alice", "s1", **arguments, sealed="sealed-1") == Begun(
        BeginState.NEW, "c", 1, "sealed-1", "pending"
    )


def test_begin_keeps_the_first_secret(logins: Logins) -> None:
    logins.begin(sealed="first")
    logins.wait(MINUTE_MS)
    assert logins.begin(session="s2", sealed="second").sealed == "first"


def test_begin_again_in_the_session_goes_on_with_the_live_challenge(logins: Logins) -> None:
    first = logins.begin()
    again = logins.begin()
    assert again == replace(first, state=BeginState.LIVE)


@pytest.mark.parametrize(
    ("after_ms", "state"),
    [(LIFE_MS - 1, BeginState.LIVE), (LIFE_MS, BeginState.NEW)],
    ids=["a millisecond before its end", "at its end"],
)
def test_begin_makes_a_new_challenge_once_the_old_one_has_expired(
    logins: Logins, after_ms: int, state: BeginState
) -> None:
    logins.begin()
    logins.wait(after_ms)
    assert logins.begin().state is state


def test_begin_anew_replaces_the_live_challenge(logins: Logins) -> None:
    first = logins.begin()
    logins.wait(MINUTE_MS)
    second = logins.begin(is_anew=True)
    assert second.state is BeginState.NEW
    assert second.counter == first.counter + 1
    assert logins.take().challenge_id == second.challenge_id
    assert logins.consume(first.challenge_id).state is CheckState.USED


def test_begin_anew_too_early_says_so_and_leaves_the_live_challenge(logins: Logins) -> None:
    first = logins.begin()
    again = logins.begin(is_anew=True)
    assert (again.state, again.row, again.is_live) == (BeginState.THROTTLED, "spacing", True)
    assert logins.take().challenge_id == first.challenge_id


def test_begin_in_another_session_has_a_challenge_of_its_own(logins: Logins) -> None:
    first = logins.begin(session="s1")
    logins.wait(MINUTE_MS)
    second = logins.begin(session="s2")
    assert second.state is BeginState.NEW
    assert logins.take(session="s1").challenge_id == first.challenge_id
    assert logins.take(session="s2").challenge_id == second.challenge_id


def test_begin_throttled_in_another_session_has_no_live_code(logins: Logins) -> None:
    logins.begin(session="s1")
    throttled = logins.begin(session="s2")
    assert (throttled.state, throttled.is_live) == (BeginState.THROTTLED, False)


def test_begin_after_a_refused_text_makes_a_new_challenge(logins: Logins) -> None:
    first = logins.begin()
    logins.settle(first.challenge_id, "refused:unreachable")
    assert logins.begin().state is BeginState.NEW


def test_begin_after_the_tries_are_spent_makes_a_new_challenge(logins: Logins) -> None:
    logins.begin()
    for _ in range(RULES.tries):
        logins.guess_wrong()
    logins.wait(MINUTE_MS)
    assert logins.begin().state is BeginState.NEW


def test_counter_only_goes_up(logins: Logins) -> None:
    logins.rules = ROOMY
    counters = []
    for number in range(30):
        begun = logins.begin(session=f"s{number % 3}", is_anew=True)
        counters.append(begun.counter)
        if number % 3 == 0:  # a used challenge gives its counter to nobody
            assert logins.take(session=f"s{number % 3}").counter == begun.counter
            assert logins.consume(begun.challenge_id, session=f"s{number % 3}").state is CheckState.PASS
        if number % 5 == 0:
            logins.settle(begun.challenge_id, "refused:busy", session=f"s{number % 3}")
    assert counters == sorted(set(counters))
    assert len(counters) == 30


@pytest.mark.parametrize("held", ["7", "1700000000000", str(2**53 - 2)])
def test_counter_that_was_used_is_never_taken_again(logins: Logins, redis_server: PrivateRedis, held: str) -> None:
    redis_server.client.hset("textgate:{alice}:hotp", mapping={"secret": "sealed", "counter": held})
    for counter in (int(held), int(held) - 1, 0, -5):
        begun = logins.begin(counter=counter)
        assert (begun.state, begun.counter) == (BeginState.COUNTER_USED, int(held))
    assert not redis_server.client.exists("textgate:{alice}:challenge:s1")
    begun = logins.begin(counter=int(held) + 1)
    assert (begun.state, begun.counter) == (BeginState.NEW, int(held) + 1)
    assert redis_server.client.hget("textgate:{alice}:hotp", "counter") == str(int(held) + 1)
    assert logins.take().counter == int(held) + 1


def test_counter_at_the_end_of_what_lua_can_count_is_a_denial(logins: Logins, redis_server: PrivateRedis) -> None:
    redis_server.client.hset("textgate:{alice}:hotp", mapping={"secret": "sealed", "counter": str(2**53 - 1)})
    with pytest.raises(StoreUnavailable):
        logins.begin(counter=2**53)


def test_secret_and_counter_live_and_die_together(logins: Logins, redis_server: PrivateRedis) -> None:
    begun = logins.begin()
    kept = {"secret": "sealed", "counter": str(begun.counter)}
    assert redis_server.client.hgetall("textgate:{alice}:hotp") == kept
    redis_server.client.delete("textgate:{alice}:hotp")
    assert logins.take().state is CheckState.NONE  # the code under way is dead
    logins.wait(MINUTE_MS)
    renewed = logins.begin(is_anew=True, sealed="another")
    assert (renewed.sealed, renewed.counter) == ("another", begun.counter + 1)


# --- The limits on texts, each at its edge ---


def _texts_at(logins: Logins, moments_ms: Sequence[int], *, is_answered: bool = False) -> None:
    """Texts at these moments after the start, each in a session of its own."""
    for number, moment in enumerate(moments_ms):
        logins.now_ms = START_MS + moment
        begun = logins.begin(session=f"text-{number}")
        assert begun.state is BeginState.NEW, (moment, begun)
        if is_answered:
            logins.take(session=f"text-{number}")
            assert logins.consume(begun.challenge_id, session=f"text-{number}").state is CheckState.PASS


SPACING = [0]
QUARTER = [0, 31_000, 62_000, 93_000, 124_000]
DAY = [number * 10 * MINUTE_MS for number in range(8)]  # what one place may have


@pytest.mark.parametrize(
    ("row", "source", "moments_ms", "free_ms"),
    [
        ("spacing", "", SPACING, 30_000),
        ("quarter_hour", "", QUARTER, 15 * MINUTE_MS),
        ("day", "", DAY, DAY_MS),
        ("spacing", STRANGER, SPACING, 30_000),
        ("quarter_hour", STRANGER, QUARTER, 15 * MINUTE_MS),
        ("day", STRANGER, DAY, DAY_MS),
    ],
)
def test_send_limit_holds_until_its_edge(
    logins: Logins, row: str, source: str, moments_ms: list[int], free_ms: int
) -> None:
    logins.source = source
    _texts_at(logins, moments_ms)
    for moment in (moments_ms[-1] + 1, free_ms - 1):
        logins.now_ms = START_MS + max(moment, moments_ms[-1])
        throttled = logins.begin(session="one more")
        if throttled.row == "spacing" and row != "spacing":
            continue  # both hold just after the last one; the longer is told
        assert (throttled.state, throttled.row) == (BeginState.THROTTLED, row)
        assert throttled.until_ms == START_MS + free_ms
    logins.now_ms = START_MS + free_ms
    assert logins.begin(session="one more").state is BeginState.NEW


def test_longest_wait_of_several_limits_is_told(logins: Logins) -> None:
    _texts_at(logins, QUARTER)
    throttled = logins.begin(session="one more")
    assert (throttled.row, throttled.until_ms) == ("quarter_hour", START_MS + 15 * MINUTE_MS)


def test_answered_text_frees_the_next_one_at_once(logins: Logins) -> None:
    _texts_at(logins, [0] * 50, is_answered=True)


def test_window_slides_so_that_no_turn_of_an_hour_doubles_a_limit(logins: Logins) -> None:
    _texts_at(logins, QUARTER)
    # Only the first one has left the window: one more, and no second.
    logins.now_ms = START_MS + 15 * MINUTE_MS
    assert logins.begin(session="x").state is BeginState.NEW
    logins.wait(30_000)
    throttled = logins.begin(session="y")
    assert (throttled.row, throttled.until_ms) == ("quarter_hour", START_MS + QUARTER[1] + 15 * MINUTE_MS)


def test_limit_of_zero_spacing_is_no_limit(logins: Logins) -> None:
    logins.rules = build_rules(CodesConfig(), LimitsConfig(send_spacing_s=0))
    _texts_at(logins, [0, 0, 0, 0, 0])


def test_limits_are_each_users_own(logins: Logins) -> None:
    _texts_at(logins, QUARTER)
    assert logins.begin("bob", "s1").state is BeginState.NEW


@pytest.mark.parametrize(
    ("send", "is_free"),
    [
        ("refused:unreachable", True),
        ("refused:busy", True),
        ("unknown:timeout", False),  # it may have gone out
        ("sent:accepted", False),
    ],
)
def test_only_a_refused_text_is_given_back(logins: Logins, send: str, is_free: bool) -> None:
    first = logins.begin()
    logins.settle(first.challenge_id, send)
    assert (logins.begin(session="s2").state is BeginState.NEW) is is_free
    assert logins.take(session="s1").send == send


def test_refused_new_text_leaves_the_former_code_as_it_was(logins: Logins) -> None:
    first = logins.begin()
    logins.guess_wrong()
    logins.wait(MINUTE_MS)
    second = logins.begin(is_anew=True)
    assert second.is_live
    logins.settle(second.challenge_id, "refused:unreachable")
    taken = logins.take()
    assert (taken.challenge_id, taken.counter, taken.tries_left) == (first.challenge_id, first.counter, 1)
    assert logins.consume(second.challenge_id).state is CheckState.USED
    logins.now_ms = START_MS + LIFE_MS - 1
    assert logins.consume(first.challenge_id).state is CheckState.PASS


@pytest.mark.parametrize(("after_ms", "state"), [(LIFE_MS - 1, CheckState.TRY), (LIFE_MS, CheckState.NONE)])
def test_former_code_gets_no_longer_life_from_a_refused_new_text(
    logins: Logins, after_ms: int, state: CheckState
) -> None:
    logins.begin()
    logins.wait(MINUTE_MS)
    logins.settle(logins.begin(is_anew=True).challenge_id, "refused:unreachable")
    logins.now_ms = START_MS + after_ms
    assert logins.take().state is state


@pytest.mark.parametrize("send", ["sent:accepted", "unknown:timeout"])
def test_former_code_is_dead_once_the_new_text_may_have_gone_out(logins: Logins, send: str) -> None:
    first = logins.begin()
    logins.wait(MINUTE_MS)
    second = logins.begin(is_anew=True)
    logins.settle(second.challenge_id, send)
    logins.settle(second.challenge_id, "refused:busy")  # said twice, it changes its mind
    assert logins.take().challenge_id == second.challenge_id
    assert logins.consume(first.challenge_id).state is CheckState.USED


def test_used_new_code_does_not_bring_the_former_one_back(logins: Logins) -> None:
    logins.begin()
    logins.wait(MINUTE_MS)
    second = logins.begin(is_anew=True)
    logins.take()
    assert logins.consume(second.challenge_id).state is CheckState.PASS
    logins.settle(second.challenge_id, "refused:timeout")
    assert logins.take().state is CheckState.NONE


def test_former_code_of_an_earlier_text_does_not_come_back(logins: Logins) -> None:
    """What the daemon left behind that died before it could say how a text ended."""
    logins.begin()
    logins.wait(MINUTE_MS)
    logins.begin(is_anew=True)
    for _ in range(3):
        logins.guess_wrong()
    logins.wait(MINUTE_MS)
    third = logins.begin()
    logins.settle(third.challenge_id, "refused:timeout")
    assert logins.take().challenge_id == third.challenge_id


def test_settle_for_a_challenge_that_was_replaced_changes_only_the_limits(logins: Logins) -> None:
    first = logins.begin()
    logins.wait(MINUTE_MS)
    logins.begin(is_anew=True)
    logins.settle(first.challenge_id, "refused:timeout")
    assert logins.take().send == "pending"


def test_settle_does_not_bring_a_used_challenge_back(logins: Logins, redis_server: PrivateRedis) -> None:
    first = logins.begin()
    logins.take()
    assert logins.consume(first.challenge_id).state is CheckState.PASS
    logins.settle(first.challenge_id, "sent:accepted")
    assert not redis_server.client.exists("textgate:{alice}:challenge:s1")
    assert logins.take().state is CheckState.NONE


# --- take_try and consume ---


def test_take_try_counts_down_and_ends_spent(logins: Logins) -> None:
    begun = logins.begin()
    for left in (2, 1, 0):
        taken = logins.take()
        assert (taken.state, taken.tries_left, taken.counter) == (CheckState.TRY, left, begun.counter)
    assert logins.take().state is CheckState.SPENT


def test_try_counts_as_wrong_before_anything_is_compared(logins: Logins) -> None:
    """A check that dies between taking and comparing has still used its try, its place in the row and in the day."""
    logins.rules = ROOMY
    logins.guess_wrong_times(4)
    logins.begin(session="s1")
    assert logins.take().state is CheckState.TRY  # the fifth, and no word of how it ended
    assert logins.begin(session="s2").state is BeginState.LOCKED


@pytest.mark.parametrize(
    ("after_ms", "state"),
    [(LIFE_MS - 1, CheckState.TRY), (LIFE_MS, CheckState.NONE), (LIFE_MS + 1, CheckState.NONE)],
)
def test_try_of_a_challenge_ends_with_its_life(logins: Logins, after_ms: int, state: CheckState) -> None:
    logins.begin()
    logins.wait(after_ms)
    assert logins.take().state is state


@pytest.mark.parametrize(("after_ms", "state"), [(LIFE_MS - 1, CheckState.PASS), (LIFE_MS, CheckState.USED)])
def test_consume_ends_with_the_life_of_the_challenge(logins: Logins, after_ms: int, state: CheckState) -> None:
    begun = logins.begin()
    logins.take()
    logins.wait(after_ms)
    assert logins.consume(begun.challenge_id).state is state


def test_challenge_is_consumed_once(logins: Logins) -> None:
    begun = logins.begin()
    logins.take()
    logins.take()
    assert logins.consume(begun.challenge_id).state is CheckState.PASS
    assert logins.consume(begun.challenge_id).state is CheckState.USED
    assert logins.take().state is CheckState.NONE


def test_challenge_of_another_session_is_not_there(logins: Logins) -> None:
    begun = logins.begin(session="s1")
    assert logins.take(session="s2").state is CheckState.NONE
    assert logins.consume(begun.challenge_id, session="s2").state is CheckState.USED


def test_challenge_of_another_user_is_not_there(logins: Logins) -> None:
    begun = logins.begin("alice", "s1")
    assert logins.take("bob", "s1").state is CheckState.NONE
    assert logins.consume(begun.challenge_id, "bob", "s1").state is CheckState.USED


def test_consume_needs_the_very_challenge(logins: Logins) -> None:
    logins.begin()
    logins.take()
    assert logins.consume("another").state is CheckState.USED
    assert logins.consume("").state is CheckState.USED


def test_consume_without_any_challenge_is_no_pass(logins: Logins) -> None:
    for challenge_id in ("", "challenge-1", "nil", "false", "0"):
        assert logins.consume(challenge_id).state is CheckState.USED


@pytest.mark.parametrize(
    ("stored", "offered", "state"),
    [
        (["k1.a"], ["k1.a"], CheckState.TRY),
        (["k1.a"], ["k1.b"], CheckState.NONE),  # the number changed
        (["k1.a"], ["k2.x", "k1.a"], CheckState.TRY),  # the vault has a new key; the old one is still there
        (["k2.x", "k1.a"], ["k1.a"], CheckState.NONE),  # today's tag is the one that is kept
        (["k1.a"], [], CheckState.NONE),
        (["k1.a"], [""], CheckState.NONE),
    ],
)
def test_changed_number_kills_the_challenge(
    logins: Logins, stored: list[str], offered: list[str], state: CheckState
) -> None:
    logins.begin(phone_tags=stored)
    assert logins.take(phone_tags=offered).state is state


def test_changed_number_gets_a_new_challenge_at_begin(logins: Logins) -> None:
    logins.begin(phone_tags=["k1.a"])
    logins.wait(MINUTE_MS)
    assert logins.begin(phone_tags=["k1.b"]).state is BeginState.NEW


def test_pass_takes_its_own_try_back_and_ends_the_row(logins: Logins) -> None:
    logins.rules = ROOMY
    logins.guess_wrong_times(4)
    logins.pass_through()
    logins.wait(MINUTE_MS)
    assert logins.guess_wrong_times(4).state is CheckState.WRONG  # four again, and no lockout
    assert logins.guess_wrong_times(1).state is CheckState.LOCKED


def test_consume_for_failmode_takes_only_its_own_try_back(logins: Logins) -> None:
    logins.rules = ROOMY
    logins.guess_wrong_times(4)
    begun = logins.begin(session="open")
    logins.take(session="open")
    opened = logins.consume(begun.challenge_id, session="open", is_right=False)
    assert opened.state is CheckState.PASS
    assert logins.guess_wrong_times(1).state is CheckState.LOCKED  # the four before it still count


def test_consume_for_failmode_makes_no_address_known(logins: Logins, redis_server: PrivateRedis) -> None:
    logins.source = STRANGER
    begun = logins.begin()
    logins.take()
    assert logins.consume(begun.challenge_id, is_right=False).state is CheckState.PASS
    assert not redis_server.client.exists("textgate:{alice}:known")


# --- Lockouts ---


def test_fifth_wrong_code_in_a_row_locks_out(logins: Logins) -> None:
    assert logins.guess_wrong_times(4).state is CheckState.WRONG
    locked = logins.guess_wrong_times(1)
    assert (locked.state, locked.until_ms) == (CheckState.LOCKED, logins.now_ms + 300_000)


@pytest.mark.parametrize(("after_ms", "is_locked"), [(0, True), (299_999, True), (300_000, False)])
def test_lockout_ends_at_its_edge(logins: Logins, after_ms: int, is_locked: bool) -> None:
    logins.rules = replace(ROOMY, life_ms=600_000)
    begun = logins.begin(session="other")
    logins.guess_wrong_times(5)
    logins.wait(after_ms)
    assert (logins.begin(session="new").state is BeginState.LOCKED) is is_locked
    assert (logins.take(session="other").state is CheckState.LOCKED) is is_locked
    assert (logins.consume(begun.challenge_id, session="other").state is CheckState.LOCKED) is is_locked


def test_lockout_that_comes_between_take_and_consume_wins(logins: Logins) -> None:
    """A rightly guessed code must not pass once the guesses beside it have locked the user out."""
    begun = logins.begin(session="right")
    logins.rules = replace(RULES, sends=ROOMY.sends)
    assert logins.take(session="right").state is CheckState.TRY  # counted: it is the first of the row
    try_id = f"try-{logins._made}"
    logins.guess_wrong_times(4)
    assert logins.consume(begun.challenge_id, session="right", try_id=try_id).state is CheckState.LOCKED
    logins.wait(299_999)
    assert logins.consume(begun.challenge_id, session="right", try_id=try_id).state is not CheckState.PASS


def test_lockouts_double_up_to_the_longest(logins: Logins) -> None:
    logins.rules = replace(ROOMY, lockout_ms=300_000, lockout_max_ms=7_000_000)
    lengths = []
    for _ in range(8):
        locked = logins.guess_wrong_times(5)
        lengths.append(locked.until_ms - logins.now_ms)
        logins.now_ms = locked.until_ms
    assert lengths == [300_000, 600_000, 1_200_000, 2_400_000, 4_800_000, 7_000_000, 7_000_000, 7_000_000]


def test_lockout_length_stays_sane_after_very_many(logins: Logins, redis_server: PrivateRedis) -> None:
    redis_server.client.hset("textgate:{alice}:at:here:guard", "level", 5000)
    assert logins.guess_wrong_times(5).until_ms == logins.now_ms + RULES.lockout_max_ms


def test_pass_makes_the_next_lockout_short_again(logins: Logins) -> None:
    logins.rules = ROOMY
    for _ in range(2):
        logins.now_ms = logins.guess_wrong_times(5).until_ms
    logins.pass_through()
    locked = logins.guess_wrong_times(5)
    assert locked.until_ms - logins.now_ms == 300_000


def test_lockout_of_one_user_is_not_anothers(logins: Logins) -> None:
    logins.guess_wrong_times(5)
    assert logins.begin("bob").state is BeginState.NEW
    assert logins.take("bob").state is CheckState.TRY


def test_wrong_codes_of_a_day_slide(logins: Logins) -> None:
    rules = replace(ROOMY, wrong_in_a_row=100, wrong_per_day=4)
    logins.rules = rules
    moments = [0, 1000, 2000, 3000]
    for moment in moments:
        logins.now_ms = START_MS + moment
        assert logins.guess_wrong_times(1).state is CheckState.WRONG
    for moment, until_ms in ((4000, DAY_MS), (DAY_MS - 1, DAY_MS)):
        logins.now_ms = START_MS + moment
        locked = logins.begin(session="new")
        assert (locked.state, locked.until_ms) == (BeginState.LOCKED, START_MS + until_ms)
    logins.now_ms = START_MS + DAY_MS  # the first one is a day old: one more, and then none until the second is
    assert logins.guess_wrong_times(1).state is CheckState.WRONG
    locked = logins.begin(session="new")
    assert (locked.state, locked.until_ms) == (BeginState.LOCKED, START_MS + 1000 + DAY_MS)


def test_wrong_codes_of_a_day_hold_at_the_check_too(logins: Logins) -> None:
    logins.rules = replace(ROOMY, wrong_in_a_row=100, wrong_per_day=4)
    logins.begin(session="other")
    logins.guess_wrong_times(4)
    assert logins.take(session="other").state is CheckState.LOCKED


def test_right_code_is_not_counted_in_the_day(logins: Logins) -> None:
    logins.rules = replace(ROOMY, wrong_in_a_row=100, wrong_per_day=2)
    for number in range(10):
        logins.pass_through(session=f"s{number}")
    assert logins.guess_wrong_times(1).state is CheckState.WRONG


# --- Checks under way ---


def test_checks_under_way_fill_the_row_for_others(logins: Logins) -> None:
    """Five guesses at once, none of them known yet: a sixth one waits."""
    logins.rules = ROOMY
    for number in range(6):
        logins.begin(session=f"s{number}")
    for number in range(5):
        assert logins.take(session=f"s{number}").state is CheckState.TRY
    waiting = logins.take(session="s5")
    assert (waiting.state, waiting.until_ms) == (CheckState.LOCKED, logins.now_ms + IN_FLIGHT_MS)


def test_right_code_among_checks_under_way_frees_the_row(logins: Logins) -> None:
    logins.rules = ROOMY
    begun = [logins.begin(session=f"s{number}") for number in range(6)]
    for number in range(5):
        logins.take(session=f"s{number}")
    assert logins.consume(begun[4].challenge_id, session="s4").state is CheckState.PASS
    assert logins.take(session="s5").state is CheckState.TRY


@pytest.mark.parametrize(
    ("after_ms", "until_ms"),
    [(IN_FLIGHT_MS - 1, IN_FLIGHT_MS), (IN_FLIGHT_MS, IN_FLIGHT_MS + 300_000)],
    ids=["they may still answer", "they have died: locked out"],
)
def test_checks_that_stay_silent_count_as_wrong(logins: Logins, after_ms: int, until_ms: int) -> None:
    logins.rules = ROOMY
    for number in range(6):
        logins.begin(session=f"s{number}")
    for number in range(5):
        logins.take(session=f"s{number}")
    logins.wait(after_ms)
    locked = logins.take(session="s5")
    assert (locked.state, locked.until_ms) == (CheckState.LOCKED, START_MS + until_ms)


# --- Known addresses and strangers ---


def test_stranger_locks_out_strangers_and_not_the_owner(logins: Logins) -> None:
    logins.source = STRANGER
    assert logins.guess_wrong_times(5).state is CheckState.LOCKED
    logins.source = "198.51.100.9"
    assert logins.begin(session="x").state is BeginState.LOCKED  # every stranger, not one address
    logins.source = ""
    assert logins.begin(session="sudo").state is BeginState.NEW


def test_right_code_of_a_stranger_who_became_known_meanwhile_takes_its_own_count_back(
    logins: Logins, redis_server: PrivateRedis
) -> None:
    logins.source = STRANGER
    begun = logins.begin()
    logins.take()
    redis_server.client.zadd("textgate:{alice}:known", {STRANGER: logins.now_ms})
    assert logins.consume(begun.challenge_id).state is CheckState.PASS
    assert redis_server.client.zcard("textgate:{alice}:strangers:wrong") == 0


def test_address_that_a_right_code_came_from_is_known(logins: Logins) -> None:
    logins.source = "192.0.2.1"
    logins.pass_through()
    logins.source = STRANGER
    logins.wait(MINUTE_MS)
    assert logins.guess_wrong_times(5).state is CheckState.LOCKED
    logins.source = "192.0.2.1"
    assert logins.begin(session="home").state is BeginState.NEW


@pytest.mark.parametrize(("after_ms", "is_known"), [(KNOWN_MS - 1, True), (KNOWN_MS, False)])
def test_known_address_is_forgotten_after_ninety_days(logins: Logins, after_ms: int, is_known: bool) -> None:
    logins.source = "192.0.2.1"
    logins.pass_through()
    logins.source = STRANGER
    logins.wait(after_ms)
    assert logins.guess_wrong_times(5).state is CheckState.LOCKED
    logins.source = "192.0.2.1"
    assert (logins.begin(session="home").state is BeginState.NEW) is is_known


def test_only_the_newest_addresses_are_kept(logins: Logins, redis_server: PrivateRedis) -> None:
    logins.rules = ROOMY
    for number in range(40):
        logins.source = f"192.0.2.{number}"
        logins.wait(1)
        logins.pass_through(session=f"s{number}")
    assert redis_server.client.zrange("textgate:{alice}:known", 0, -1) == [f"192.0.2.{n}" for n in range(8, 40)]


HOME, OFFICE = "192.0.2.1", "192.0.2.2"


def _known(logins: Logins, *places: str) -> None:
    for place in places:
        logins.source = place
        logins.pass_through(session=f"known-{place}")


def test_known_addresses_lock_out_apart_from_each_other(logins: Logins) -> None:
    _known(logins, HOME, OFFICE)
    logins.source = OFFICE
    assert logins.guess_wrong_times(5).state is CheckState.LOCKED
    for place in (HOME, STRANGER, ""):
        logins.source = place
        assert logins.begin(session=f"at-{place}").state is BeginState.NEW


def test_each_place_has_its_share_of_a_days_wrong_codes(logins: Logins) -> None:
    logins.rules = replace(ROOMY, wrong_in_a_row=100, wrong_per_day=7, wrong_per_place=3)
    _known(logins, HOME)
    for place in (HOME, STRANGER):
        logins.source = place
        logins.guess_wrong_times(3)
        refused = logins.begin(session="new")
        assert (refused.state, refused.row, refused.until_ms) == (
            BeginState.LOCKED,
            "wrong_per_day",
            START_MS + DAY_MS,
        )
    logins.source = ""
    assert logins.guess_wrong_times(1).state is CheckState.WRONG
    assert logins.begin(session="new").row == "wrong_per_day"  # all of them together stay within the day's


def test_all_places_together_stay_within_the_days_wrong_codes(logins: Logins) -> None:
    logins.rules = replace(ROOMY, wrong_in_a_row=100, wrong_per_day=7)
    logins.guess_wrong_times(6)
    logins.source = STRANGER
    logins.wait(1000)
    assert logins.guess_wrong_times(1).state is CheckState.WRONG  # the seventh of them all
    locked = logins.begin(session="new")
    assert (locked.state, locked.until_ms) == (BeginState.LOCKED, START_MS + DAY_MS)
    logins.now_ms = START_MS + DAY_MS
    assert logins.begin(session="new").state is BeginState.NEW


def test_each_place_has_its_share_of_a_days_texts(logins: Logins) -> None:
    logins.rules = replace(RULES, sends=(SendRow("day", DAY_MS, 3, most_in_all=5),))
    logins.source = STRANGER
    for number in range(3):
        assert logins.begin(session=f"x{number}").state is BeginState.NEW
    assert logins.begin(session="x3").row == "day"
    logins.source = ""
    for number in range(2):
        assert logins.begin(session=f"y{number}").state is BeginState.NEW
    throttled = logins.begin(session="y3")
    assert (throttled.row, throttled.until_ms) == ("day", START_MS + DAY_MS)


def test_unlock_ends_what_counts_at_every_place(logins: Logins) -> None:
    _known(logins, HOME, OFFICE)
    for place in (HOME, OFFICE, STRANGER, ""):
        logins.source = place
        logins.guess_wrong_times(5)
    logins.store.unlock("alice")
    for place in (HOME, OFFICE, STRANGER, ""):
        logins.source = place
        assert logins.begin(session=f"at-{place}").state is BeginState.NEW


def test_text_asked_for_by_a_stranger_is_forgiven_by_its_own_code(logins: Logins) -> None:
    logins.source = STRANGER
    logins.pass_through()  # from here on the address is known
    assert logins.begin(session="next").state is BeginState.NEW


def test_refused_text_is_given_back_whoever_asked(logins: Logins) -> None:
    logins.source = STRANGER
    logins.settle(logins.begin().challenge_id, "refused:dns")
    assert logins.begin(session="s2").state is BeginState.NEW


# --- Recovery codes ---


def _values(*tags: str) -> dict[str, str]:
    """What is kept beside these keyed hashes: the store doesn't know how it is made."""
    return {tag: f"value of {tag}" for tag in tags}


def _hashes(tags: Sequence[str]) -> list[str]:
    return [hashlib.sha1(value.encode()).hexdigest() for value in _values(*tags).values()]


def _recover(logins: Logins, tags: list[str], session: str = "s1", user: str = "alice") -> Taken:
    logins._made += 1
    return logins.store.take_recovery(
        user,
        session,
        now_ms=logins.now_ms,
        try_id=f"try-{logins._made}",
        recovery_tags=tags,
        recovery_hashes=_hashes(tags),
        rules=logins.rules,
        source=logins.source,
    )


def test_recovery_code_passes_once(logins: Logins) -> None:
    logins.store.set_recovery("alice", _values("k1.a", "k1.b", "k1.c"))
    passed = _recover(logins, ["k1.a"])
    assert (passed.state, passed.tries_left) == (CheckState.PASS, 2)
    assert (passed.tag, passed.value) == ("k1.a", "value of k1.a")
    assert logins.store.count_recovery("alice") == 2
    assert _recover(logins, ["k1.a"]).state is CheckState.WRONG


def test_recovery_code_with_another_value_is_void_and_counted(logins: Logins, redis_server: PrivateRedis) -> None:
    """One of an earlier version, of an earlier epoch, or one that somebody wrote into Redis."""
    for value in ("1700000000000", "", "value of k1.b"):
        redis_server.client.hset("textgate:{alice}:recovery", "k1.a", value)
        assert _recover(logins, ["k1.a"]).state is CheckState.VOID
    for _ in range(2):
        last = _recover(logins, ["k1.a"]).state
    assert last is CheckState.LOCKED
    assert logins.store.count_recovery("alice") == 1


def test_recovery_code_is_its_users_own(logins: Logins) -> None:
    logins.store.set_recovery("alice", _values("k1.a"))
    assert _recover(logins, ["k1.a"], user="bob").state is CheckState.WRONG
    assert logins.store.count_recovery("alice") == 1


def test_recovery_code_made_under_an_older_key_passes(logins: Logins) -> None:
    logins.store.set_recovery("alice", _values("k1.a"))
    assert _recover(logins, ["k2.x", "k1.a"]).state is CheckState.PASS


def test_recovery_ends_the_challenge_that_was_not_needed(logins: Logins) -> None:
    logins.store.set_recovery("alice", _values("k1.a"))
    logins.begin()
    assert _recover(logins, ["k1.a"]).state is CheckState.PASS
    assert logins.take().state is CheckState.NONE


def test_new_recovery_codes_make_the_former_ones_void(logins: Logins) -> None:
    logins.store.set_recovery("alice", _values("k1.a"))
    logins.store.set_recovery("alice", _values("k1.b"))
    assert _recover(logins, ["k1.a"]).state is CheckState.WRONG
    logins.store.set_recovery("alice", _values())
    assert logins.store.count_recovery("alice") == 0
    assert _recover(logins, ["k1.b"]).state is CheckState.WRONG


def test_wrong_recovery_codes_are_counted_and_lock_out(logins: Logins) -> None:
    logins.store.set_recovery("alice", _values("k1.a"))
    for _ in range(4):
        assert _recover(logins, ["k1.x"]).state is CheckState.WRONG
    assert _recover(logins, ["k1.x"]).state is CheckState.LOCKED
    assert _recover(logins, ["k1.a"]).state is CheckState.LOCKED  # the right one, too
    assert logins.store.count_recovery("alice") == 1


def test_wrong_texted_and_recovery_codes_fill_one_row(logins: Logins) -> None:
    logins.guess_wrong_times(3)
    assert _recover(logins, ["k1.x"]).state is CheckState.WRONG
    assert logins.guess_wrong_times(1).state is CheckState.LOCKED


def test_recovery_codes_stay_over_an_unlock(logins: Logins) -> None:
    logins.store.set_recovery("alice", _values("k1.a"))
    logins.store.unlock("alice")
    assert logins.store.count_recovery("alice") == 1


# --- unlock ---


@pytest.mark.parametrize("source", ["", STRANGER])
def test_unlock_ends_lockouts_and_forgets_counts(logins: Logins, source: str) -> None:
    logins.source = source
    logins.guess_wrong_times(5)
    logins.store.unlock("alice")
    assert logins.begin(session="new").state is BeginState.NEW
    locked = logins.guess_wrong_times(5)
    assert locked.until_ms - logins.now_ms == 300_000  # the first lockout again


def test_unlock_does_not_touch_secret_counter_and_challenges(logins: Logins) -> None:
    begun = logins.begin()
    logins.store.unlock("alice")
    taken = logins.take()
    assert (taken.challenge_id, taken.counter) == (begun.challenge_id, begun.counter)


def test_unlock_that_keeps_the_day_ends_lockouts_and_no_more(logins: Logins) -> None:
    for count in (5, logins.rules.wrong_per_place - 5):
        logins.guess_wrong_times(count)
        assert logins.begin(session="locked").state is BeginState.LOCKED
        logins.store.unlock("alice", is_day_forgotten=False)
    used_up = logins.begin(session="new")
    assert (used_up.state, used_up.row) == (BeginState.LOCKED, "wrong_per_day")
    logins.store.unlock("alice")
    assert logins.begin(session="new").state is BeginState.NEW


def test_unlock_of_a_user_who_never_came_is_nothing(logins: Logins) -> None:
    logins.store.unlock("nobody")


# --- A clock that was ahead, and has been set back ---

AHEAD_MS = 1000 * DAY_MS


def test_text_of_a_clock_that_was_ahead_holds_for_its_window_from_now(logins: Logins) -> None:
    logins.begin(now_ms=START_MS + AHEAD_MS)
    held = logins.begin(session="s2")
    assert (held.state, held.until_ms) == (BeginState.THROTTLED, START_MS + 30_000)
    logins.wait(30_000 - 1)
    assert logins.begin(session="s2").state is BeginState.THROTTLED
    logins.wait(1)
    assert logins.begin(session="s2").state is BeginState.NEW


def test_texts_of_a_clock_that_was_ahead_count_in_the_day(logins: Logins) -> None:
    """They are not forgotten: nobody gets a second day's texts by it."""
    logins.rules = replace(RULES, sends=(SendRow("day", DAY_MS, 2),))
    for session in ("s1", "s2"):
        assert logins.begin(session=session, now_ms=START_MS + AHEAD_MS).state is BeginState.NEW
    assert logins.begin(session="s3").until_ms == START_MS + DAY_MS
    logins.wait(DAY_MS)
    assert logins.begin(session="s3").state is BeginState.NEW


def test_wrong_codes_of_a_clock_that_was_ahead_count_for_a_day_from_now(logins: Logins) -> None:
    logins.rules = replace(RULES, wrong_in_a_row=100, sends=ROOMY.sends)
    logins.now_ms = START_MS + AHEAD_MS
    logins.guess_wrong_times(RULES.wrong_per_place)
    logins.now_ms = START_MS
    locked = logins.begin(session="new")
    assert (locked.state, locked.until_ms, locked.row) == (BeginState.LOCKED, START_MS + DAY_MS, "wrong_per_day")
    logins.wait(DAY_MS)
    assert logins.begin(session="new").state is BeginState.NEW


def test_lockout_of_a_clock_that_was_ahead_ends_after_the_longest_one(logins: Logins) -> None:
    logins.now_ms = START_MS + AHEAD_MS
    assert logins.guess_wrong_times(5).state is CheckState.LOCKED
    logins.now_ms = START_MS
    assert logins.begin(session="new").until_ms == START_MS + RULES.lockout_max_ms
    logins.wait(RULES.lockout_max_ms - 1)
    assert logins.take().state is CheckState.LOCKED
    logins.wait(1)
    assert logins.take().state is not CheckState.LOCKED


def test_checks_under_way_when_the_clock_is_set_back_are_waited_for_no_longer(logins: Logins) -> None:
    logins.now_ms = START_MS + AHEAD_MS
    logins.rules = replace(ROOMY, tries=5)
    logins.begin()
    for _ in range(5):
        assert logins.take().state is CheckState.TRY
    logins.now_ms = START_MS
    assert logins.begin(session="new").row == "under_way"
    logins.wait(IN_FLIGHT_MS)
    locked = logins.begin(session="new")
    assert (locked.row, locked.until_ms) == ("wrong_in_a_row", logins.now_ms + RULES.lockout_ms)


def test_code_does_not_live_on_when_the_clock_is_set_back(logins: Logins) -> None:
    begun = logins.begin(now_ms=START_MS + DAY_MS)
    taken = logins.take(now_ms=START_MS + DAY_MS)
    assert taken.state is CheckState.TRY
    assert logins.consume(begun.challenge_id).state is CheckState.USED
    assert logins.take().state is CheckState.NONE
    logins.wait(30_000)
    assert logins.begin().state is BeginState.THROTTLED
    logins.wait(30_000)
    assert logins.begin().state is BeginState.NEW


@pytest.mark.parametrize("life_s", [60, 600])
def test_code_outlives_a_clock_that_is_put_right_by_a_little(logins: Logins, life_s: int) -> None:
    logins.rules = build_rules(CodesConfig(life_s=life_s), LimitsConfig())
    begun = logins.begin(now_ms=START_MS + MINUTE_MS)
    assert logins.begin().state is BeginState.LIVE
    assert logins.take().state is CheckState.TRY
    assert logins.consume(begun.challenge_id).state is CheckState.PASS


def test_budget_that_a_clock_spent_ahead_of_now_has_room_after_a_window(logins: Logins) -> None:
    for _ in range(3):
        assert logins.store.charge([_budget()], now_ms=START_MS + AHEAD_MS) is None
    refused = logins.store.charge([_budget()], now_ms=START_MS)
    assert refused is not None
    assert MINUTE_MS < refused[1] - START_MS <= MINUTE_MS + MINUTE_MS // 12
    assert logins.store.charge([_budget()], now_ms=refused[1] - 1) is not None
    assert [logins.store.charge([_budget()], now_ms=refused[1]) for _ in range(3)] == [None] * 3


# --- Keys ---


def _fill(logins: Logins) -> None:
    """Everything that can be in a user's keys, for a user and a decoy, as owner and stranger."""
    decoy = decoy_of("nobody-here")
    logins.rules = ROOMY
    for source in ("", STRANGER):
        for user in ("alice", decoy):
            logins.source = source
            logins.begin(user, f"live-{source}")
            logins.guess_wrong(user, f"live-{source}")
            logins.guess_wrong_times(4, user)
            logins.store.unlock(user)
            logins.guess_wrong_times(2, user)
    logins.source = "192.0.2.1"
    logins.pass_through("bob")
    logins.store.set_recovery("bob", _values("k1.a"))
    logins.store.charge([Budget(Scope.HOST, "here", MINUTE_MS, 5, 1)], now_ms=logins.now_ms)
    logins.store.revoke_token("token", now_ms=START_MS, ends_at_ms=START_MS + 1000)
    logins.guess_wrong_times(5, "bob")


def test_every_key_has_a_life_but_secrets_and_recovery_codes(logins: Logins, redis_server: PrivateRedis) -> None:
    _fill(logins)
    lives = {key: redis_server.client.pttl(key) for key in redis_server.client.scan_iter(count=1000)}
    lives.pop("textgate:store", None)
    for_ever = {key for key, life_ms in lives.items() if life_ms == -1}
    decoy = decoy_of("nobody-here")
    users = {"textgate:{alice}:hotp", "textgate:{bob}:hotp", "textgate:{bob}:recovery"}
    assert for_ever == users | {"textgate:revoked"}  # what is in that one ends by the store's time
    assert 0 < lives[f"textgate:{{{decoy}}}:hotp"] <= 2 * DAY_MS
    for key, life_ms in lives.items():
        if ":challenge:" in key:
            assert LIFE_MS < life_ms <= LIFE_MS + MINUTE_MS, key
        if key.endswith((":wrong", ":unanswered", ":guard", ":known")):
            # Redis counts by its machine's clock: no jump of less than a year forgets anything of a user's.
            low, high = (DAY_MS, 2 * DAY_MS) if decoy in key else (399 * DAY_MS, 400 * DAY_MS)
            assert low < life_ms <= high, key


def test_all_keys_of_a_user_share_one_hash_tag(logins: Logins, redis_server: PrivateRedis) -> None:
    _fill(logins)
    keys = list(redis_server.client.scan_iter("textgate:{*"))
    assert {key[: key.index("}") + 1] for key in keys} == {
        "textgate:{alice}",
        "textgate:{bob}",
        f"textgate:{{{decoy_of('nobody-here')}}}",
    }


def test_nothing_but_textgates_keys_is_touched(logins: Logins, redis_server: PrivateRedis) -> None:
    redis_server.client.set("another", "program")
    _fill(logins)
    assert all(key.startswith("textgate:") for key in redis_server.client.scan_iter() if key != "another")
    assert redis_server.client.get("another") == "program"


def test_lockout_is_kept_as_long_as_it_lasts(logins: Logins, redis_server: PrivateRedis) -> None:
    """A long lockout, and the memory of how many there were, must not vanish with the key's life."""
    logins.rules = replace(ROOMY, lockout_ms=6 * DAY_MS, lockout_max_ms=7 * DAY_MS)
    locked = logins.guess_wrong_times(5)
    assert redis_server.client.pttl("textgate:{alice}:at:here:guard") > locked.until_ms - logins.now_ms
    logins.wait(7 * DAY_MS)
    assert logins.guess_wrong_times(5).until_ms == logins.now_ms + 7 * DAY_MS


def test_row_and_level_are_forgotten_two_days_after_the_last_wrong_code(logins: Logins) -> None:
    logins.rules = ROOMY
    logins.guess_wrong_times(4)
    logins.wait(2 * DAY_MS - 1)
    assert logins.guess_wrong_times(1).state is CheckState.LOCKED
    logins.wait(2 * DAY_MS)
    assert logins.guess_wrong_times(4).state is CheckState.WRONG
    assert logins.guess_wrong_times(1).until_ms == logins.now_ms + RULES.lockout_ms


@pytest.mark.parametrize("is_corrected", [False, True])
def test_budget_is_kept_as_long_as_it_counts(logins: Logins, redis_server: PrivateRedis, is_corrected: bool) -> None:
    budget = Budget(Scope.HOST, "here", DAY_MS, 3, 1)
    logins.store.charge([budget], now_ms=START_MS)
    if is_corrected:
        logins.store.adjust([(budget, 1)], charged_at_ms=START_MS)
    assert redis_server.client.pttl("textgate:budget:host:{here}") > 400 * DAY_MS + DAY_MS // 24
    logins.store.charge([replace(budget, scope=Scope.SOURCE)], now_ms=START_MS)
    assert 3 * DAY_MS < redis_server.client.pttl("textgate:budget:source:{here}") <= 4 * DAY_MS


HOSTILE = [
    "",
    " ",
    "}",
    "{",
    "{}",
    "%",
    "%7D",
    "alice}",
    "alice:hotp",
    "alice}:hotp",
    "~",
    decoy_of("x"),
    "a\nb",
    "a\0b",
    "*",
    "..",
    "/",
    "\\",
    "æøå",
    "a\u0301",
    "á",
    "Alice",
    "alice",
    "alice ",
    "x" * 4096,
    "x" * 4095,
    "\U0001f511" * 1024,
]


def test_hostile_names_never_share_a_key(logins: Logins, redis_server: PrivateRedis) -> None:
    begun = {}
    for number, name in enumerate(HOSTILE):
        answer = logins.begin(encode_user(name), "s1", challenge_id=f"of-{number}", sealed=f"secret-{number}")
        assert (answer.state, answer.sealed) == (BeginState.NEW, f"secret-{number}")
        begun[name] = answer
    for name, answer in begun.items():
        assert logins.take(encode_user(name)).challenge_id == answer.challenge_id
    assert len(list(redis_server.client.scan_iter("*:hotp", count=1000))) == len(HOSTILE)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.text(alphabet="{}%~:ab é\0\n"))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_encoding_is_one_to_one_and_plain(one: str, other: str) -> None:
    assert (encode_user(one) == encode_user(other)) is (one == other)
    for name in (one, other):
        assert not set(encode_user(name)) & set("{}:~ \n\0*?[]")
        assert not encode_user(name).startswith(BUCKET_PREFIX)


# --- Many at once ---


def _at_once(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """The answers of jobs that begin together, each on a thread of its own."""
    barrier = threading.Barrier(len(jobs))
    answers: list[Any] = [None] * len(jobs)

    def run(number: int) -> None:
        barrier.wait(30)
        answers[number] = jobs[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


def test_two_hundred_right_codes_at_once_pass_once(redis_server: PrivateRedis) -> None:
    store = _store(redis_server, timeout_s=30, connections=32)
    rules = replace(ROOMY, tries=1000, wrong_in_a_row=1000)
    logins = Logins(store, rules)
    begun = logins.begin()

    def check(number: int) -> CheckState:
        taken = store.take_try(
            "alice",
            "s1",
            now_ms=START_MS,
            wall_ms=START_MS,
            try_id=f"t{number}",
            phone_tags=[TAG],
            rules=rules,
            source="",
        )
        if taken.state is not CheckState.TRY:
            return taken.state
        return store.consume(
            "alice",
            "s1",
            now_ms=START_MS,
            wall_ms=START_MS,
            challenge_id=begun.challenge_id,
            try_id=f"t{number}",
            rules=rules,
        ).state

    states = _at_once([lambda number=number: check(number) for number in range(200)])  # type: ignore[misc]
    store.close()
    assert states.count(CheckState.PASS) == 1
    assert set(states) <= {CheckState.PASS, CheckState.USED, CheckState.NONE}


def test_guesses_from_many_sessions_at_once_never_outrun_the_limit(redis_server: PrivateRedis) -> None:
    """Fifty sessions guess at once. What is compared stays within the row, and each of it is counted."""
    store = _store(redis_server, timeout_s=30, connections=32)
    logins = Logins(store, ROOMY)
    for number in range(50):
        logins.begin(session=f"s{number}")

    def guess(number: int) -> tuple[CheckState, CheckState | None]:
        taken = store.take_try(
            "alice",
            f"s{number}",
            now_ms=START_MS,
            wall_ms=START_MS,
            try_id=f"t{number}",
            phone_tags=[TAG],
            rules=ROOMY,
            source="",
        )
        if taken.state is not CheckState.TRY:
            return taken.state, None
        return taken.state, store.confirm_wrong("alice", f"s{number}", now_ms=START_MS, rules=ROOMY).state

    answers = _at_once([lambda number=number: guess(number) for number in range(50)])  # type: ignore[misc]
    compared = [answer for answer in answers if answer[0] is CheckState.TRY]
    assert len(compared) == ROOMY.wrong_in_a_row
    assert redis_server.client.zcard("textgate:{alice}:at:here:wrong") == ROOMY.wrong_in_a_row
    assert logins.begin(session="late").state is BeginState.LOCKED
    store.close()


def test_begins_at_once_in_one_session_text_once(redis_server: PrivateRedis) -> None:
    store = _store(redis_server, timeout_s=30, connections=16)

    def begin(number: int) -> Begun | None:
        return store.begin(
            "alice",
            "s1",
            now_ms=START_MS,
            wall_ms=START_MS,
            proposal=proposal(f"c{number}", number + 1),
            phone_tags=[TAG],
            rules=RULES,
            sealed=f"secret-{number}",
        )

    answers = _at_once([lambda number=number: begin(number) for number in range(40)])  # type: ignore[misc]
    store.close()
    states = [answer.state for answer in answers]
    assert states.count(BeginState.NEW) == 1
    assert states.count(BeginState.LIVE) == 39
    assert len({(answer.challenge_id, answer.counter, answer.sealed) for answer in answers}) == 1


# --- Budgets that many users share ---


def _budget(most: int = 3, amount: int = 1, scope: Scope = Scope.HOST, subject: str = "here") -> Budget:
    return Budget(scope, subject, MINUTE_MS, most, amount)


def test_budget_is_charged_until_it_is_used_up(logins: Logins) -> None:
    store = logins.store
    assert [store.charge([_budget()], now_ms=START_MS) for _ in range(3)] == [None] * 3
    refused = store.charge([_budget()], now_ms=START_MS)
    assert refused is not None
    assert refused[0].scope is Scope.HOST


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    most=st.integers(1, 7),
    spent=st.lists(st.integers(0, 2 * MINUTE_MS), min_size=1, max_size=12),
    at=st.integers(0, 3 * MINUTE_MS),
)
def test_budget_has_room_exactly_when_it_says(logins: Logins, most: int, spent: list[int], at: int) -> None:
    logins._made += 1
    budget = _budget(most, subject=f"example-{logins._made}")
    for moment in sorted(spent):
        logins.store.charge([budget], now_ms=START_MS + moment)
    ask = replace(budget, amount=0)
    refused = logins.store.charge([ask], now_ms=START_MS + max(spent) + at)
    if refused is not None:
        free_at_ms = refused[1]
        assert logins.store.charge([ask], now_ms=free_at_ms - 1) is not None
        assert logins.store.charge([ask], now_ms=free_at_ms) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(most=st.integers(1, 5), asked=st.lists(st.integers(0, 3 * MINUTE_MS), min_size=1, max_size=25))
def test_budget_never_lets_more_than_its_most_through_in_any_window(
    logins: Logins, most: int, asked: list[int]
) -> None:
    logins._made += 1
    budget = _budget(most, subject=f"window-{logins._made}")
    paid = [at for at in sorted(asked) if logins.store.charge([budget], now_ms=START_MS + at) is None]
    for start in paid:
        assert sum(start <= at < start + MINUTE_MS for at in paid) <= most


def test_refused_text_takes_nothing_from_the_other_budgets(logins: Logins) -> None:
    roomy, tight = _budget(5, subject="roomy"), _budget(1, subject="tight")
    assert logins.store.charge([roomy, tight], now_ms=START_MS) is None
    for _ in range(10):
        refused = logins.store.charge([roomy, tight], now_ms=START_MS)
        assert refused is not None
        assert refused[0] == tight
    assert [logins.store.charge([roomy], now_ms=START_MS) for _ in range(4)] == [None] * 4
    assert logins.store.charge([roomy], now_ms=START_MS) is not None


def test_budget_paid_back_has_room_again(logins: Logins) -> None:
    assert logins.store.charge([_budget(1)], now_ms=START_MS) is None
    logins.store.adjust([(_budget(1), -1)], charged_at_ms=START_MS)
    assert logins.store.charge([_budget(1)], now_ms=START_MS) is None


def test_budget_never_goes_below_nothing(logins: Logins) -> None:
    logins.store.adjust([(_budget(1), -50)], charged_at_ms=START_MS)
    assert logins.store.charge([_budget(1)], now_ms=START_MS) is None
    assert logins.store.charge([_budget(1)], now_ms=START_MS) is not None


def test_budget_that_is_only_asked_is_not_charged(logins: Logins) -> None:
    for _ in range(20):
        assert logins.store.charge([_budget(1, amount=0)], now_ms=START_MS) is None
    assert logins.store.charge([_budget(1)], now_ms=START_MS) is None
    assert logins.store.charge([_budget(1, amount=0)], now_ms=START_MS) is not None


def test_budgets_differ_by_scope_and_subject(logins: Logins) -> None:
    for budget in (_budget(1), _budget(1, scope=Scope.SOURCE), _budget(1, subject="there"), _budget(1, subject="")):
        assert logins.store.charge([budget], now_ms=START_MS) is None
        assert logins.store.charge([budget], now_ms=START_MS) is not None


def test_texts_at_once_never_outrun_a_budget(redis_server: PrivateRedis) -> None:
    store = _store(redis_server, timeout_s=30, connections=16)
    budgets = [_budget(10), _budget(10_000, subject="roomy")]
    answers = _at_once([lambda: store.charge(budgets, now_ms=START_MS) for _ in range(40)])
    store.close()
    assert answers.count(None) == 10


# --- Faults of Redis ---


def _each_call(store: Store) -> dict[str, Callable[[], Any]]:
    """Every call of the store, by name, with arguments that would work."""
    common: dict[str, Any] = {"now_ms": START_MS, "rules": ROOMY}
    clocks: dict[str, Any] = {"wall_ms": START_MS}
    tags: dict[str, Any] = {"phone_tags": [TAG]}
    return {
        "begin": lambda: store.begin(
            "alice", "s9", proposal=proposal("c9", 10**9), sealed="x", **clocks, **tags, **common
        ),
        "settle_send": lambda: store.settle_send(
            "alice", "s1", challenge_id="challenge-1", send="refused:x", is_refused=True
        ),
        "take_try": lambda: store.take_try("alice", "s1", try_id="t", **clocks, **tags, **common),
        "consume": lambda: store.consume("alice", "s1", challenge_id="challenge-1", try_id="t", **clocks, **common),
        "confirm_wrong": lambda: store.confirm_wrong("alice", "s1", **common),
        "take_recovery": lambda: store.take_recovery(
            "alice", "s1", try_id="t", recovery_tags=["k1.a"], recovery_hashes=["x"], **common
        ),
        "set_recovery": lambda: store.set_recovery("alice", _values("k1.a")),
        "count_recovery": lambda: store.count_recovery("alice"),
        "unlock": lambda: store.unlock("alice"),
        "charge": lambda: store.charge([_budget()], now_ms=START_MS),
        "adjust": lambda: store.adjust([(_budget(), 1)], charged_at_ms=START_MS),
        "revoke_token": lambda: store.revoke_token("t", now_ms=START_MS, ends_at_ms=START_MS + 1000),
        "is_token_revoked": lambda: store.is_token_revoked("t"),
        "health": store.health,
    }


CALLS = sorted(_each_call(Store(StoreConfig(), connections=1)))
WRITES = sorted(set(CALLS) - {"health", "is_token_revoked", "count_recovery", "confirm_wrong"})


def _works(store: Store) -> bool:
    """A whole login, on a store that has been through a fault."""
    logins = Logins(store, ROOMY)
    logins.pass_through("carol", "after")
    return True


# redis-py leaves the socket of a failed connect to the garbage collector.
unclosed_allowed = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)


@unclosed_allowed
@pytest.mark.parametrize("call", CALLS)
def test_redis_that_is_away_is_store_unavailable(redis_server: PrivateRedis, call: str) -> None:
    store = _store(redis_server)
    redis_server.kill()
    with pytest.raises(StoreUnavailable):
        _each_call(store)[call]()
    redis_server.start()
    assert _works(store)
    store.close()


@unclosed_allowed
def test_redis_that_goes_away_between_two_calls_is_store_unavailable(redis_server: PrivateRedis) -> None:
    store = _store(redis_server)
    assert _works(store)
    redis_server.kill()
    with pytest.raises(StoreUnavailable):
        _works(store)
    redis_server.start()
    assert _works(store)
    store.close()


@pytest.mark.parametrize("call", ["begin", "take_try", "consume", "charge", "health"])
def test_redis_that_hangs_is_store_unavailable_in_time(redis_server: PrivateRedis, call: str) -> None:
    store = _store(redis_server, timeout_s=0.1)
    Logins(store, ROOMY).begin()
    redis_server.pause()
    with pytest.raises(StoreUnavailable):
        _each_call(store)[call]()
    redis_server.resume()
    redis_server.client.ping()
    patient = _store(redis_server)
    assert _works(patient)
    patient.close()
    store.close()


def test_answer_that_came_too_late_is_not_taken_for_the_next_one(redis_server: PrivateRedis) -> None:
    """After a timeout the connection is dropped: its late answer belongs to nobody (compare CVE-2023-28858)."""
    store = _store(redis_server, timeout_s=0.1, connections=1)
    logins = Logins(store, ROOMY)
    logins.begin("alice")
    redis_server.pause()
    with pytest.raises(StoreUnavailable):
        logins.take("alice")
    redis_server.resume()
    redis_server.client.ping()
    assert logins.begin("bob").state is BeginState.NEW
    assert logins.take("bob", "nothing here").state is CheckState.NONE
    store.close()


@pytest.mark.parametrize("call", WRITES)
def test_redis_that_is_read_only_is_store_unavailable(redis_server: PrivateRedis, call: str) -> None:
    store = _store(redis_server)
    Logins(store, ROOMY).begin()
    redis_server.set_readonly(True)
    with pytest.raises(StoreUnavailable):
        _each_call(store)[call]()
    redis_server.set_readonly(False)
    assert _works(store)
    store.close()


@pytest.mark.parametrize("call", ["begin", "charge", "set_recovery", "revoke_token"])
def test_full_redis_takes_nothing_new(redis_server: PrivateRedis, call: str) -> None:
    store = _store(redis_server)
    redis_server.set_full(True)
    with pytest.raises(StoreUnavailable):
        _each_call(store)[call]()
    redis_server.set_full(False)
    assert _works(store)
    store.close()


def test_full_redis_still_ends_logins_under_way(redis_server: PrivateRedis) -> None:
    store = _store(redis_server)
    logins = Logins(store, ROOMY)
    begun = logins.begin()
    redis_server.set_full(True)
    logins.settle(begun.challenge_id, "sent:accepted")
    assert logins.guess_wrong().state is CheckState.WRONG  # and counted: a full Redis frees nobody of the limits
    assert redis_server.client.zcard("textgate:{alice}:at:here:wrong") == 1
    assert logins.take().state is CheckState.TRY
    assert logins.consume(begun.challenge_id).state is CheckState.PASS
    store.close()


def test_redis_emptied_in_the_middle_of_a_login_is_a_denial(redis_server: PrivateRedis, logins: Logins) -> None:
    begun = logins.begin()
    redis_server.client.flushall()
    assert logins.take().state is CheckState.NONE
    assert logins.consume(begun.challenge_id).state is CheckState.USED
    assert _works(logins.store)


def test_redis_emptied_between_take_and_consume_is_a_denial(redis_server: PrivateRedis, logins: Logins) -> None:
    begun = logins.begin()
    assert logins.take().state is CheckState.TRY
    redis_server.client.flushall()
    assert logins.consume(begun.challenge_id).state is CheckState.USED


@pytest.mark.parametrize(
    ("key", "call"),
    [
        ("textgate:{alice}:hotp", "begin"),
        ("textgate:{alice}:challenge:s1", "take_try"),
        ("textgate:{alice}:challenge:s1", "consume"),
        ("textgate:{alice}:at:here:guard", "begin"),
        ("textgate:{alice}:at:here:guard", "take_try"),
        ("textgate:{alice}:at:here:guard", "consume"),
        ("textgate:{alice}:at:here:guard", "confirm_wrong"),
        ("textgate:{alice}:at:here:wrong", "take_try"),
        ("textgate:{alice}:unanswered", "begin"),
        ("textgate:{alice}:at:here:unanswered", "begin"),
        ("textgate:{alice}:recovery", "take_recovery"),
        ("textgate:{alice}:wrong", "take_try"),
        ("textgate:budget:host:{here}", "charge"),
    ],
)
def test_key_of_a_wrong_type_is_store_unavailable(redis_server: PrivateRedis, key: str, call: str) -> None:
    store = _store(redis_server)
    Logins(store, ROOMY).begin()
    redis_server.client.delete(key)
    redis_server.client.set(key, "not what it should be")
    with pytest.raises(StoreUnavailable):
        _each_call(store)[call]()
    assert _works(store)
    store.close()


@pytest.mark.parametrize(
    ("field", "value", "states"),
    [
        ("id", "", {CheckState.USED}),
        ("expires_at_ms", "soon", {CheckState.NONE}),
        ("tries_left", "many", {CheckState.SPENT}),
        ("phone_tag", "", {CheckState.NONE}),
    ],
)
def test_field_with_junk_is_a_denial(
    redis_server: PrivateRedis, logins: Logins, field: str, value: str, states: set[CheckState]
) -> None:
    begun = logins.begin()
    redis_server.client.hset("textgate:{alice}:challenge:s1", field, value)
    taken = logins.take()
    ended = logins.consume(begun.challenge_id) if taken.state is CheckState.TRY else taken
    assert ended.state in states


def test_field_that_is_not_utf8_is_store_unavailable(redis_server: PrivateRedis, logins: Logins) -> None:
    logins.begin()
    redis_server.client.hset("textgate:{alice}:hotp", "secret", b"\xff\xfe")
    with pytest.raises(StoreUnavailable):
        logins.take()


def test_challenge_survives_a_restart_of_redis(redis_server: PrivateRedis, logins: Logins) -> None:
    begun = logins.begin()
    logins.guess_wrong()
    redis_server.stop()
    redis_server.start()
    taken = logins.take()
    assert (taken.state, taken.tries_left) == (CheckState.TRY, 1)
    assert logins.consume(begun.challenge_id).state is CheckState.PASS


def test_used_challenge_stays_used_over_a_crash_of_redis(redis_server: PrivateRedis, logins: Logins) -> None:
    begun = logins.begin()
    logins.take()
    assert logins.consume(begun.challenge_id).state is CheckState.PASS
    redis_server.kill()
    redis_server.start()
    assert logins.consume(begun.challenge_id).state is CheckState.USED
    assert logins.take().state is CheckState.NONE
    logins.wait(MINUTE_MS)
    assert logins.begin(counter=begun.counter).state is BeginState.COUNTER_USED


def test_scripts_survive_being_flushed(redis_server: PrivateRedis, logins: Logins) -> None:
    begun = logins.begin()
    redis_server.client.script_flush()
    assert logins.take().state is CheckState.TRY
    redis_server.client.script_flush()
    assert logins.consume(begun.challenge_id).state is CheckState.PASS
    redis_server.client.script_flush()
    assert logins.store.charge([_budget()], now_ms=START_MS) is None
    redis_server.client.script_flush()
    logins.store.adjust([(_budget(), -1)], charged_at_ms=START_MS)


def test_more_calls_at_once_than_connections_wait_for_one(redis_server: PrivateRedis) -> None:
    store = _store(redis_server, timeout_s=30, connections=2)
    logins = Logins(store, ROOMY)
    logins.begin()
    answers = _at_once([store.health for _ in range(20)])
    assert len(answers) == 20
    assert None not in answers
    store.close()


class OddRedis:
    """A context manager: takes every script, writes the call down and gives this answer, or hangs up if it is empty.

    answer: {} in it is the call as it came.
    """

    def __init__(self, folder: Path, answer: bytes) -> None:
        self.calls: list[bytes] = []
        self.url = f"unix://{folder}/odd.sock"
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{folder}/odd.sock")
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        while call := connection.recv(65536):
            if b"EVALSHA" not in call:
                connection.sendall(b"+OK\r\n" * call.count(b"*"))  # what a client says of itself at first
                continue
            self.calls.append(call)
            if not self._answer:
                return
            connection.sendall(self._answer.replace(b"{}", call.replace(b"\r\n", b" ")))

    def __enter__(self) -> OddRedis:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.mark.parametrize("step", ["begin", "charge"])
def test_errors_say_nothing_of_what_was_asked(tmp_path: Path, step: str) -> None:
    with OddRedis(tmp_path, b"-ERR unknown command, with args beginning with: {}\r\n") as odd:
        store = Store(StoreConfig(url=odd.url), connections=1)
        with pytest.raises(StoreUnavailable) as caught:
            if step == "begin":
                Logins(store).begin()
            else:
                store.charge([_budget(subject="alice")], now_ms=START_MS)
        store.close()
    assert b"alice" in odd.calls[0]
    assert str(caught.value) == "redis: ResponseError"
    assert caught.value.__cause__ is None  # nor does a traceback
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_step_whose_answer_was_lost_is_not_taken_again(tmp_path: Path) -> None:
    with OddRedis(tmp_path, b"") as odd:
        store = Store(StoreConfig(url=odd.url), connections=1)
        with pytest.raises(StoreUnavailable):
            Logins(store).take()
        store.close()
    assert len(odd.calls) == 1


def test_unknown_answer_of_a_script_is_store_unavailable(logins: Logins, monkeypatch: pytest.MonkeyPatch) -> None:
    for answer in (None, [], ["pass"], ["pass", "x"], ["try"], ["TRY", "a"], "pass", 1, ["new", "a", "b", "c", "d"]):
        monkeypatch.setattr(logins.store, "_run", lambda *_args, answer=answer, **_more: answer)
        with pytest.raises(StoreUnavailable):
            logins.begin()
        with pytest.raises(StoreUnavailable):
            logins.take()
        if answer != ["pass"]:
            with pytest.raises(StoreUnavailable):
                logins.consume("x")
            with pytest.raises(StoreUnavailable):
                logins.confirm_wrong()


# --- Health and configuration ---


def test_health_tells_version_memory_and_durability(redis_server: PrivateRedis, logins: Logins) -> None:
    health = logins.store.health()
    assert health.version[:1].isdigit()
    assert health.used_memory_bytes > 0
    assert health.is_durable
    redis_server.client.config_set("appendonly", "no")
    assert not logins.store.health().is_durable
    redis_server.client.config_set("appendonly", "yes")


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:notaport",
        "redis://localhost:99999999",
        "redis://localhost/?db=abc",
        "redis://localhost/?nosuchoption=1",
        "unix:///run/x.sock?nosuchoption=1",
        "http://localhost",
    ],
)
def test_url_that_cannot_be_used_is_refused_when_the_store_is_made(url: str) -> None:
    with pytest.raises(ValueError, match="the URL can't be used") as caught:
        Store(StoreConfig(url=url), connections=1)
    assert "localhost" not in str(caught.value)


def test_revoked_token_is_remembered_for_its_life(redis_server: PrivateRedis, logins: Logins) -> None:
    store = logins.store
    assert not store.is_token_revoked("t1")
    store.revoke_token("t1", now_ms=START_MS, ends_at_ms=START_MS + 50_000)
    assert store.is_token_revoked("t1")
    assert not store.is_token_revoked("t2")
    store.revoke_token("t2", now_ms=START_MS + 49_999, ends_at_ms=START_MS + 90_000)
    assert store.is_token_revoked("t1")
    store.revoke_token("t3", now_ms=START_MS + 50_000, ends_at_ms=START_MS + 90_000)
    assert not store.is_token_revoked("t1")
    assert redis_server.client.pttl("textgate:revoked") == -1  # a jump of Redis' clock forgets none


def test_token_that_an_earlier_version_revoked_is_revoked(redis_server: PrivateRedis, logins: Logins) -> None:
    redis_server.client.set("textgate:revoked:t1", "1", px=50_000)
    assert logins.store.is_token_revoked("t1")
