# SPDX-License-Identifier: MIT
"""How often the admin group may ask, which connection makes room, how old the credit may be, what is summed up."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from fakes import Journal
from textgate.admin_limits import (
    OF_ONE,
    OF_OTHERS,
    OF_ROOT,
    REQUESTS,
    REQUESTS_OF_ALL,
    UNLOCKS,
    UNLOCKS_OF_ONE,
    AdminLimits,
    Held,
    Rate,
    Rates,
    to_close,
)
from textgate.audit import Event, Priority
from textgate.audit_digest import KINDS, WINDOW_S, WRITTEN, Digest
from textgate.credit_cache import FAULT_KEPT_S, KEPT_S, CreditCache
from textgate.errors import ExitCode, ThrottledError
from textgate.gateway_outcomes import Credit, SendReason

MEMBER, OTHER = 1001, 1002


class Seconds:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


# --- Rates ---


def test_member_with_many_user_ids_gets_no_further(clock: Seconds) -> None:
    """Most users have 65,536 more in /etc/subuid: what is kept of them is small, and quickly looked at."""
    limits, taken = AdminLimits(clock), 0
    for uid in range(100_000, 110_000):
        try:
            limits.take_request(uid)
            taken += 1
        except ThrottledError:
            clock.now += 0.004
    assert taken <= REQUESTS_OF_ALL[1].most
    assert len(limits._rates._taken) <= 2 * (REQUESTS_OF_ALL[1].most + 1)
    limits.take_request(0)


def test_rate_slides(clock: Seconds) -> None:
    rates, wanted = Rates(clock), [("x", Rate(2, 10.0))]
    assert rates.wait_s(wanted) == 0
    clock.now += 4
    assert rates.wait_s(wanted) == 0
    assert rates.wait_s(wanted) == pytest.approx(6)
    clock.now += 6
    assert rates.wait_s(wanted) == 0
    assert rates.wait_s(wanted) == pytest.approx(4)


def test_what_is_refused_takes_nothing(clock: Seconds) -> None:
    rates, full, other = Rates(clock), ("x", Rate(1, 10.0)), ("y", Rate(1, 10.0))
    assert rates.wait_s([full]) == 0
    assert rates.wait_s([other, full]) == 10
    assert rates.wait_s([other]) == 0


def test_what_is_past_is_forgotten(clock: Seconds) -> None:
    rates = Rates(clock)
    for number in range(100):
        rates.wait_s([(f"user {number}", Rate(1, 10.0))])
    clock.now += 10
    rates.wait_s([("x", Rate(1, 10.0))])
    assert len(rates._taken) == 1


def _is_refused(action: Callable[[], None]) -> bool:
    try:
        action()
    except ThrottledError as error:
        assert 0 < error.wait_s <= UNLOCKS.window_s
        assert error.exit_code is ExitCode.REFUSED
        assert error.hint
        return True
    return False


def test_requests_are_counted_for_each_user_id_and_never_for_root(clock: Seconds) -> None:
    limits = AdminLimits(clock)
    refused = [_is_refused(lambda: limits.take_request(MEMBER)) for _ in range(REQUESTS[0].most + 1)]
    assert refused == [False] * REQUESTS[0].most + [True]
    assert not _is_refused(lambda: limits.take_request(OTHER))
    assert not any(_is_refused(lambda: limits.take_request(0)) for _ in range(1000))
    taken = 0
    for _ in range(60):
        clock.now += 1
        taken += sum(not _is_refused(lambda: limits.take_request(MEMBER)) for _ in range(20))
    assert taken <= REQUESTS[1].most


def test_user_is_unlocked_once_whoever_asks_and_all_of_them_so_often_a_day(clock: Seconds) -> None:
    limits = AdminLimits(clock)
    assert not _is_refused(lambda: limits.take_unlock(MEMBER, "alice"))
    assert _is_refused(lambda: limits.take_unlock(OTHER, "alice"))
    assert not _is_refused(lambda: limits.take_unlock(0, "alice"))
    assert not _is_refused(lambda: limits.take_unlock(OTHER, "bob"))
    clock.now += UNLOCKS_OF_ONE.window_s
    assert not _is_refused(lambda: limits.take_unlock(MEMBER, "alice"))
    others = [_is_refused(lambda user=f"user{n}": limits.take_unlock(MEMBER, user)) for n in range(UNLOCKS.most)]  # type: ignore[misc]
    assert others.count(False) == UNLOCKS.most - 3


def test_manual_and_protocol_have_the_numbers() -> None:
    root = Path(__file__).parents[2]
    protocol = (root / "daemon/PROTOCOL.md").read_text()
    manual = (root / "packaging/man/textgate.8.md").read_text()
    a_second, a_minute = (rate.most for rate in REQUESTS)
    minutes = round(UNLOCKS_OF_ONE.window_s / 60)
    assert f"{a_second} in a second, {a_minute} in a minute" in protocol
    assert f"{a_second} times a second and {a_minute} times a minute" in manual
    assert f"one user once in {minutes} minutes, all users {UNLOCKS.most} times in 24 hours" in protocol
    assert f"one user once in {minutes} minutes, and {UNLOCKS.most} times in 24 hours" in manual
    assert f"| connections of one user id at a time | {OF_ONE} |" in protocol
    assert f"| {OF_OTHERS}; root has {OF_ROOT} of its own |" in protocol
    assert f"first {WRITTEN} in {round(WINDOW_S / 60)} minutes" in protocol
    assert re.search(r"at most once a minute \(once in 10 s", protocol)
    assert (KEPT_S, FAULT_KEPT_S) == (60, 10)


# --- Connections ---


def _held(*uids: int, busy: frozenset[int] = frozenset()) -> list[Held]:
    """Connections in the order in which they came; busy: names of those that are being answered."""
    return [Held(name, uid, name in busy, float(name)) for name, uid in enumerate(uids)]


def test_there_is_room_until_there_is_none() -> None:
    assert to_close(_held(*[MEMBER] * (OF_ONE - 1)), MEMBER) is None
    assert to_close(_held(*range(1, OF_OTHERS)), 5000) is None
    assert to_close(_held(*[0] * (OF_ROOT - 1), *range(1, OF_OTHERS + 1)), 0) is None


def test_who_has_their_share_makes_room_themselves() -> None:
    closed = to_close(_held(OTHER, *[MEMBER] * OF_ONE), MEMBER)
    assert closed is not None
    assert (closed.uid, closed.name) == (MEMBER, 1)


def test_who_has_most_makes_room_for_somebody_else() -> None:
    greedy = [uid for uid in range(2000, 2000 + OF_OTHERS // OF_ONE) for _ in range(OF_ONE)]
    assert len(greedy) == OF_OTHERS
    closed = to_close([Held(99, 4000, False, -1.0), *_held(*greedy)[1:]], MEMBER)
    assert closed is not None
    assert closed.uid in greedy


def test_group_never_pushes_out_root_nor_root_the_group() -> None:
    held = _held(*[0] * OF_ROOT, *[1 + n for n in range(OF_OTHERS)])
    for uid in (0, MEMBER):
        closed = to_close(held, uid)
        assert closed is not None
        assert (closed.uid == 0) is (uid == 0)


def test_what_is_being_answered_is_not_closed() -> None:
    held = _held(*[MEMBER] * OF_ONE, busy=frozenset(range(OF_ONE - 1)))
    closed = to_close(held, MEMBER)
    assert closed is not None
    assert closed.name == OF_ONE - 1
    with pytest.raises(ThrottledError):
        to_close(_held(*[MEMBER] * OF_ONE, busy=frozenset(range(OF_ONE))), MEMBER)


# --- The credit ---


class Account:
    def __init__(self, *answers: Credit) -> None:
        self.answers, self.asked = list(answers), 0

    def credit(self) -> Credit:
        self.asked += 1
        return self.answers[min(self.asked, len(self.answers)) - 1]


GOOD = Credit(SendReason.ACCEPTED, amount=Decimal(25), currency="DKK")
AWAY, UNKNOWN = Credit(SendReason.UNREACHABLE), Credit(SendReason.UNSUPPORTED)


@pytest.mark.parametrize(("credit", "kept_s"), [(GOOD, KEPT_S), (UNKNOWN, KEPT_S), (AWAY, FAULT_KEPT_S)])
def test_credit_is_kept_for_a_while_with_its_age(clock: Seconds, credit: Credit, kept_s: float) -> None:
    cache, account = CreditCache(clock), Account(credit)
    assert cache.read(account) == (credit, 0)
    clock.now += kept_s - 1
    assert cache.read(account) == (credit, kept_s - 1)
    assert account.asked == 1
    clock.now += 1
    assert cache.read(account) == (credit, 0)
    assert account.asked == 2


def test_fresh_credit_is_asked_for(clock: Seconds) -> None:
    cache, account = CreditCache(clock), Account(AWAY, GOOD)
    cache.read(account)
    clock.now += 1
    assert cache.read(account, is_fresh=True) == (GOOD, 0)
    assert cache.read(account) == (GOOD, 0)


def test_credit_of_another_gateway_is_asked_for(clock: Seconds) -> None:
    cache, former, new = CreditCache(clock), Account(GOOD), Account(AWAY)
    cache.read(former)
    assert cache.read(new) == (AWAY, 0)


def test_many_who_ask_at_once_make_one_question(clock: Seconds) -> None:
    asked, go_on = threading.Event(), threading.Event()

    class Slow(Account):
        def credit(self) -> Credit:
            asked.set()
            go_on.wait(20)
            return super().credit()

    cache, account = CreditCache(clock), Slow(GOOD)
    threads = [threading.Thread(target=cache.read, args=(account,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    asked.wait(20)
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert account.asked == 1


# --- The journal ---


def test_digest_writes_the_first_and_counts_the_rest(clock: Seconds) -> None:
    journal, later = Journal(), []
    digest = Digest(journal.audit, lambda wait_s, job: later.append((wait_s, job)), clock)

    def refuse(uid: int) -> None:
        digest.event(Event.ADMIN, "verb refused", priority=Priority.WARNING, uid=uid, verb=None)

    for _ in range(240 + WRITTEN):
        refuse(MEMBER)
    refuse(OTHER)
    assert len(journal.entries) == WRITTEN + 1
    [(wait_s, job)] = later
    clock.now += wait_s
    job()
    summed = journal.entries[-1]
    assert (summed["times"], summed["uid"], summed.priority) == ("240", str(MEMBER), Priority.WARNING)
    assert summed.message.startswith("verb refused, again and again")
    refuse(MEMBER)
    assert len(journal.entries) == WRITTEN + 3  # a new window


def test_digest_keeps_a_bounded_number_of_kinds(clock: Seconds) -> None:
    journal = Journal()
    digest = Digest(journal.audit, lambda _wait_s, _job: None, clock)
    for number in range(10 * KINDS):
        digest.event(Event.BEGIN, "wrong password", source=f"192.0.2.{number}")
    assert len(journal.entries) <= KINDS + WRITTEN
    assert len(digest._kinds) <= KINDS + 1
    digest.flush()
    assert int(journal.entries[-1]["times"]) == 9 * KINDS - WRITTEN
    assert digest._kinds == {}


def test_digest_tells_nothing_where_nothing_was_left_out(clock: Seconds) -> None:
    journal = Journal()
    digest = Digest(journal.audit, lambda _wait_s, _job: None, clock)
    digest.event(Event.PROTOCOL, "peer refused", uid=1)
    digest.flush()
    assert len(journal.entries) == 1
