# SPDX-License-Identifier: MIT
"""What guessing and texting may cost, on a real Redis: each limit at its edge, who pays, and what is said.

The edges of a user's own limits are in test_store.py. Here are those that many share, what an attacker at one place
leaves to the owner elsewhere, and the words and the journal's reason for each refusal.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import START_MS, FullSender
from private_redis import PrivateRedis
from sim.page import REFUSALS
from sim.world import World
from textgate import codes, texts
from textgate.config import LimitsConfig, StoreConfig
from textgate.gateway_outcomes import Outcome, SendReason
from textgate.limits import DAY_MS, HOUR_MS, MINUTE_MS, Budget, Scope, budgets
from textgate.protocol import Reply, Why, Word
from textgate.secret import Secret
from textgate.session import Session
from textgate.store import Store

OFFICE, HOME, AFAR = "192.0.2.1", "192.0.2.2", "198.51.100.1"
WRONG_FORM = "aaaabbbbcccc"  # the form of a recovery code, and none
CENT = Decimal("0.01")
REFUSED = (Outcome.REFUSED, SendReason.CREDIT)
SLICES = 24  # to a window, as lua/slices.lua has it

NewWorld = Callable[..., World]


@pytest.fixture
def new_world(redis_server: PrivateRedis) -> Iterator[NewWorld]:
    """Makes a world with alice and bob; its keyword arguments are options of [limits]."""

    def make(**limits: Any) -> World:
        world = World(redis_server, seed=1, limits=limits)
        for user in ("alice", "bob", "carol", "dave"):
            world.add_user(user)
        return world

    yield make


def _log_in(world: World, user: str = "alice", source: str | None = None) -> Reply:
    """A whole login with the right code."""
    session = world.session(user, source)
    begun = world.begin(session)
    if begun.why is not Why.CODE_SENT:
        return begun
    return world.check(session, world.gateway.texts[-1].code)


def _let_in(world: World, user: str, source: str | None) -> None:
    """A login that must succeed, so that its address is known."""
    assert _log_in(world, user, source).word is Word.PASS


# --- Every shared budget at its edge ---

SHARED = [
    ("sends_per_phone_per_day", Scope.PHONE, DAY_MS),
    ("sends_per_source_per_hour", Scope.SOURCE, HOUR_MS),
    ("sends_per_host_per_minute", Scope.HOST, MINUTE_MS),
    ("sends_per_country_per_day", Scope.COUNTRY, DAY_MS),
    ("sends_per_day_in_all", Scope.FLEET, DAY_MS),
    ("spend_per_day", Scope.MONEY, DAY_MS),
]


@pytest.mark.parametrize(("option", "scope", "window_ms"), SHARED)
def test_budget_holds_from_its_edge_to_its_end(
    new_world: NewWorld, option: str, scope: Scope, window_ms: int
) -> None:
    world = new_world(**{option: Decimal(3) if scope is Scope.MONEY else 3})
    world.gateway.price = Decimal(1)
    _let_in(world, "alice", OFFICE)  # strangers would have half
    world.clock.move_ms(2 * DAY_MS)
    for _ in range(3):
        _let_in(world, "alice", OFFICE)
    refused = _log_in(world, "alice", OFFICE)
    assert (refused.word, refused.why) == (Word.ASK, Why.THROTTLED)
    assert refused.text == texts.budget(scope, refused.wait_s)
    assert world.reason == f"budget_{scope.value}"
    wait_ms = round(refused.wait_s * 1000)
    assert window_ms <= wait_ms <= window_ms * (SLICES + 1) // SLICES
    world.clock.move_ms(wait_ms - 1)
    assert _log_in(world, "alice", OFFICE).why is Why.THROTTLED
    world.clock.move_ms(1)
    _let_in(world, "alice", OFFICE)


@pytest.mark.parametrize(
    ("option", "scope"), [(option, scope) for option, scope, _ in SHARED if scope not in (Scope.PHONE, Scope.SOURCE)]
)
def test_strangers_leave_half_of_what_all_share(new_world: NewWorld, option: str, scope: Scope) -> None:
    world = new_world(**{option: Decimal(6) if scope is Scope.MONEY else 6})
    world.gateway.price = Decimal(1)
    _let_in(world, "alice", OFFICE)
    world.clock.move_ms(2 * DAY_MS)
    for user in ("bob", "carol", "dave"):
        assert world.begin(world.session(user, AFAR)).why is Why.CODE_SENT
    refused = world.begin(world.session("alice", AFAR))
    assert (refused.why, world.reason) == (Why.THROTTLED, f"budget_{scope.value}")
    for _ in range(3):
        _let_in(world, "alice", OFFICE)
    assert _log_in(world, "alice", OFFICE).why is Why.THROTTLED  # all together stay within it


def test_local_logins_are_nobodys_address(new_world: NewWorld) -> None:
    world = new_world(sends_per_source_per_hour=1)
    for _ in range(5):
        _let_in(world, "alice", None)


def test_addresses_of_one_ipv6_customer_are_one(new_world: NewWorld) -> None:
    world = new_world(sends_per_source_per_hour=1)
    assert world.begin(world.session("alice", "2001:db8::1")).why is Why.CODE_SENT
    assert world.begin(world.session("bob", "2001:db8::ffff:2")).why is Why.THROTTLED
    assert world.begin(world.session("bob", "2001:db8:0:1::2")).why is Why.CODE_SENT


# --- Paid back, set aside, corrected ---


@pytest.mark.parametrize(("option", "scope", "window_ms"), SHARED)
def test_refused_text_is_paid_back_to_every_budget(
    new_world: NewWorld, option: str, scope: Scope, window_ms: int
) -> None:
    world = new_world(**{option: Decimal(1) if scope is Scope.MONEY else 1})
    world.gateway.end = REFUSED
    for _ in range(3):
        assert world.begin(world.session("alice", AFAR)).why is Why.NOT_SENT
    world.gateway.end = (Outcome.SENT, SendReason.ACCEPTED)
    assert world.begin(world.session("alice", AFAR)).why is Why.CODE_SENT


def test_text_for_which_there_is_no_place_is_paid_back(new_world: NewWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world = new_world(sends_per_day_in_all=2, spend_per_day=Decimal(2))
    with monkeypatch.context() as patch:
        patch.setattr(world.verifiers[0], "_sender", FullSender())
        for _ in range(3):
            assert world.begin(world.session("alice", None)).why is Why.BUSY
    _let_in(world, "alice", None)


def test_text_that_may_have_gone_out_is_paid(new_world: NewWorld) -> None:
    world = new_world(sends_per_day_in_all=1)
    world.gateway.end = (Outcome.UNKNOWN, SendReason.TIMEOUT)
    assert world.begin(world.session("alice", None)).why is Why.SEND_UNKNOWN
    assert world.begin(world.session("bob", None)).why is Why.THROTTLED


@pytest.mark.parametrize(
    ("price", "count"),
    [
        (CENT, 451),  # what is set aside for the last one must be there: 4.50 spent, 0.50 left
        (Decimal("0.50"), 10),
        (Decimal(2), 3),  # dearer than it may be: 4.00 are spent, 1.00 left, and the third costs 2.00
        (None, 10),  # the price was not told: what was set aside is taken for spent
    ],
)
def test_money_is_what_texts_really_cost(new_world: NewWorld, price: Decimal | None, count: int) -> None:
    roomy = {option: 10**6 for option, scope, _ in SHARED if scope is not Scope.MONEY}
    world = new_world(spend_per_day=Decimal(5), price_at_most=Decimal("0.50"), **roomy)
    world.gateway.price = price
    sent = 0
    while _log_in(world, "alice", None).word is Word.PASS:
        sent += 1
    assert sent == count
    assert world.reason == "budget_money"


def test_money_set_aside_for_texts_under_way_is_not_spent_twice(new_world: NewWorld) -> None:
    """While nobody knows what ten texts cost, they may cost all there is."""
    store, budget = new_world()._store, Budget(Scope.MONEY, "", DAY_MS, 10_000_000, 1_000_000)
    assert [store.charge([budget], now_ms=START_MS) for _ in range(10)] == [None] * 10
    assert store.charge([budget], now_ms=START_MS) is not None
    store.adjust([(budget, 40_000 - budget.amount)] * 10, charged_at_ms=START_MS)  # 0.04 each
    assert store.charge([budget], now_ms=START_MS) is None


# --- The window ---


@pytest.fixture(scope="module")
def store(redis_of_the_run: PrivateRedis) -> Iterator[Store]:
    store = Store(StoreConfig(url=redis_of_the_run.url, timeout_s=20), connections=40)
    yield store
    store.close()


_subjects = itertools.count()
WINDOW_MS = MINUTE_MS
SLICE_MS = WINDOW_MS // SLICES
QUIET: dict[str, Any] = {"deadline": None, "derandomize": True, "database": None}


@settings(max_examples=60, **QUIET)
@given(
    start_ms=st.integers(0, WINDOW_MS),
    gaps=st.lists(st.one_of(st.integers(0, 3), st.integers(0, WINDOW_MS), st.just(SLICE_MS)), max_size=40),
    most=st.integers(1, 12),
    amount=st.integers(1, 3),
)
def test_no_window_ever_holds_more_than_the_most(
    store: Store, start_ms: int, gaps: list[int], most: int, amount: int
) -> None:
    """Wherever a window's length of time begins. And no more than one slice longer than that does anything count."""
    budget = Budget(Scope.HOST, f"window-{next(_subjects)}", WINDOW_MS, max(most, amount), amount)
    now_ms = START_MS + start_ms
    taken: list[int] = []
    for gap in gaps:
        now_ms += gap
        refused = store.charge([budget], now_ms=now_ms)
        recent = amount * len([at for at in taken if at > now_ms - WINDOW_MS - SLICE_MS])
        if refused is None:
            taken.append(now_ms)
        else:
            assert recent + amount > budget.most
            assert now_ms < refused[1] <= now_ms + WINDOW_MS + SLICE_MS
    for at in taken:
        assert amount * len([other for other in taken if at - WINDOW_MS < other <= at]) <= budget.most


@settings(max_examples=40, **QUIET)
@given(gaps=st.lists(st.integers(0, WINDOW_MS // 2), min_size=1, max_size=20), most=st.integers(1, 5))
def test_room_comes_exactly_when_it_is_promised(store: Store, gaps: list[int], most: int) -> None:
    budget = Budget(Scope.HOST, f"room-{next(_subjects)}", WINDOW_MS, most, 1)
    asked = Budget(Scope.HOST, budget.subject, WINDOW_MS, most, 1, pays=False)
    now_ms = START_MS
    for gap in gaps:
        now_ms += gap
        store.charge([budget], now_ms=now_ms)
    refused = store.charge([asked], now_ms=now_ms)
    if refused is not None:
        assert store.charge([asked], now_ms=refused[1] - 1) is not None
        assert store.charge([asked], now_ms=refused[1]) is None


# --- At the same time ---


def _at_once(jobs: list[Callable[[], Any]]) -> list[Any]:
    answers: list[Any] = [None] * len(jobs)
    barrier = threading.Barrier(len(jobs))

    def run(at: int) -> None:
        barrier.wait()
        answers[at] = jobs[at]()

    threads = [threading.Thread(target=run, args=(at,)) for at in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_charges_at_once_never_take_more_than_there_is(store: Store) -> None:
    """Each of 40 texts is paid from three budgets, the tight one last; refused ones give back while others ask."""
    wide, middle, tight = (
        Budget(Scope.HOST, f"{name}-{next(_subjects)}", MINUTE_MS, most, 1)
        for name, most in (("wide", 1000), ("middle", 30), ("tight", 7))
    )
    answers = _at_once([lambda: store.charge([wide, middle, tight], now_ms=START_MS)] * 40)
    assert answers.count(None) <= tight.most
    left = [
        sum(store.charge([budget], now_ms=START_MS) is None for _ in range(budget.most + 1))
        for budget in (wide, middle, tight)
    ]
    assert left == [budget.most - answers.count(None) for budget in (wide, middle, tight)]  # nothing got lost


def test_texts_at_once_never_cost_more_than_the_budget(new_world: NewWorld) -> None:
    world = new_world(spend_per_day=Decimal(8), price_at_most=Decimal(1))
    world.gateway.price = Decimal("0.90")
    users = [f"user{number}" for number in range(30)]
    for user in users:
        world.add_user(user)
    sessions = [world.session(user, None) for user in users]
    _at_once([partial(world.begin, session) for session in sessions])
    assert 1 <= len(world.gateway.texts) * world.gateway.price <= 8


# --- What an attacker with the first factor leaves to the owner ---


def _attack(world: World, source: str | None) -> None:
    """Everything that counts against alice at one place, for a day: texts first, then wrong codes."""
    for _ in range(60):
        session = world.session("alice", source)
        world.begin(session)
        for _ in range(3):
            world.check(session, "no code")
        world.check(session, WRONG_FORM)
        world.clock.move_ms(20 * MINUTE_MS)


@pytest.mark.parametrize("owner_at", [None, OFFICE, HOME])
def test_attacker_from_afar_leaves_the_owner_where_he_always_is(new_world: NewWorld, owner_at: str | None) -> None:
    world = new_world()
    for place in (OFFICE, HOME):
        _let_in(world, "alice", place)
    _attack(world, AFAR)
    assert world.begin(world.session("alice", AFAR)).word is Word.DENY
    _let_in(world, "alice", owner_at)


@pytest.mark.parametrize("owner_at", [None, HOME, AFAR])
def test_attacker_at_the_owners_office_leaves_him_every_other_place(
    new_world: NewWorld, owner_at: str | None
) -> None:
    world = new_world()
    for place in (OFFICE, HOME):
        _let_in(world, "alice", place)
    _attack(world, OFFICE)
    assert world.begin(world.session("alice", OFFICE)).word is Word.DENY
    _let_in(world, "alice", owner_at)


@pytest.mark.parametrize("attacker_at", [AFAR, OFFICE])
def test_texts_asked_for_at_one_place_leave_some_for_every_other(new_world: NewWorld, attacker_at: str) -> None:
    world = new_world()
    for place in (OFFICE, HOME):
        _let_in(world, "alice", place)
    for _ in range(40):
        world.begin(world.session("alice", attacker_at))
        world.clock.move_ms(20 * MINUTE_MS)
    assert world.reason == "throttled_day"
    for free in (None, HOME):
        _let_in(world, "alice", free)


def test_attacker_at_two_places_leaves_a_third(new_world: NewWorld) -> None:
    world = new_world()
    for place in (OFFICE, HOME):
        _let_in(world, "alice", place)
    for _ in range(20):
        for place in (AFAR, OFFICE):
            session = world.session("alice", place)
            world.begin(session)
            world.check(session, WRONG_FORM)
        world.clock.move_ms(HOUR_MS)
    for place in (AFAR, OFFICE):
        assert world.begin(world.session("alice", place)).word is Word.DENY
    _let_in(world, "alice", HOME)
    _let_in(world, "alice", None)


def test_answered_texts_leave_the_owner_all_his_texts(new_world: NewWorld) -> None:
    roomy = {option: 10**6 for option, scope, _ in SHARED if scope is not Scope.MONEY}
    world = new_world(**roomy)
    for _ in range(100):
        _let_in(world, "alice", None)


# --- When no more may be texted, what was texted is still good ---


def _begin_and_hit_the_limit(world: World, kind: str) -> tuple[Session, str]:
    """A login with a code on its way, when nothing more may be texted."""
    session = world.session("alice", OFFICE)
    assert world.begin(session).why is Why.CODE_SENT
    code = world.gateway.texts[-1].code
    if kind != "spacing":
        world.clock.move_ms(31_000)
    if kind == "gateway":
        world.gateway.end = REFUSED
    return session, code


@pytest.mark.parametrize(
    ("kind", "limits"),
    [
        ("spacing", {}),
        ("quarter_hour", {"sends_per_15_minutes": 1}),
        ("day", {"sends_per_day": 1}),
        ("phone", {"sends_per_phone_per_day": 1}),
        ("source", {"sends_per_source_per_hour": 1}),
        ("country", {"sends_per_country_per_day": 1}),
        ("fleet", {"sends_per_day_in_all": 1}),
        ("money", {"spend_per_day": Decimal(1), "price_at_most": Decimal(1)}),
        ("gateway", {}),
    ],
)
@pytest.mark.parametrize("is_right", [True, False])
def test_code_already_texted_can_still_be_typed(
    new_world: NewWorld, kind: str, limits: dict[str, Any], is_right: bool
) -> None:
    world = new_world(**limits)
    session, code = _begin_and_hit_the_limit(world, kind)
    world.check(session, "no code")  # one of its tries
    refused = world.check(session, "")
    assert refused.word is Word.DENY
    assert "The last one is still good." in refused.text
    again = world.begin(session)
    assert (again.word, again.why) == (Word.ASK, Why.CODE_LIVE)
    assert len(world.gateway.texts) == 1
    if is_right:
        assert world.check(session, code).word is Word.PASS
    else:  # and it has no more tries than before
        assert [world.check(session, "no code").why for _ in range(2)] == [Why.WRONG, Why.TRIES_SPENT]


def test_code_on_its_way_is_not_brought_back_once_it_was_used(new_world: NewWorld) -> None:
    """The new text is refused only after the old code's login has passed elsewhere: nothing to go on with."""
    world = new_world()
    session = world.session("alice", OFFICE)
    world.begin(session)
    old = world.gateway.texts[-1].code
    assert world.check(session, old).word is Word.PASS
    world.gateway.end = REFUSED
    assert world.check(session, "").why is Why.NOT_SENT
    assert world.check(session, old).word is Word.DENY


def test_code_that_a_refused_text_was_to_replace_ends_when_it_would_have(new_world: NewWorld) -> None:
    world = new_world()
    session, code = _begin_and_hit_the_limit(world, "gateway")
    world.check(session, "")
    world.clock.move_ms(world.config.codes.life_s * 1000 - 31_000)
    assert world.check(session, code).why is Why.NONE_WAITING


# --- Decoys ---


def _pair(world: World) -> tuple[Reply, Reply]:
    """What somebody with a phone and somebody unknown are told, from one place."""
    return world.begin(world.session("bob", AFAR)), world.begin(world.session("nobody-here", AFAR))


@pytest.mark.parametrize(
    ("option", "scope"), [(option, scope) for option, scope, _ in SHARED if scope is not Scope.PHONE]
)
def test_unknown_user_is_told_of_a_budget_what_everybody_is(new_world: NewWorld, option: str, scope: Scope) -> None:
    world = new_world(**{option: Decimal(2) if scope is Scope.MONEY else 2})
    world.gateway.price = Decimal("0.60")  # after this there is something left for strangers, and not enough
    assert world.begin(world.session("alice", AFAR)).why is Why.CODE_SENT
    if scope is Scope.SOURCE:  # the only one that leaves strangers more than half
        assert world.begin(world.session("carol", AFAR)).why is Why.CODE_SENT
    known, unknown = _pair(world)
    assert known.text == texts.budget(scope, known.wait_s)
    assert (known.word, known.text, known.wait_s) == (unknown.word, unknown.text, unknown.wait_s)


def test_unknown_user_pays_from_his_address_alone(new_world: NewWorld) -> None:
    tight = {"sends_per_host_per_minute": 4, "sends_per_country_per_day": 4, "sends_per_day_in_all": 4}
    world = new_world(sends_per_source_per_hour=5, spend_per_day=Decimal(4), **tight)
    for number in range(5):
        assert world.begin(world.session(f"nobody-{number}", AFAR)).why is Why.CODE_SENT
    assert world.begin(world.session("nobody-5", AFAR)).why is Why.THROTTLED
    assert world.reason == "budget_source"
    assert not world.gateway.texts
    for user in ("alice", "bob"):  # half of each budget is for strangers, and all of that is left
        assert world.begin(world.session(user, OFFICE)).why is Why.CODE_SENT


@pytest.mark.parametrize(
    ("allowed", "region", "country"), [(("SE", "DK"), "", "SE"), (("*",), "DK", "DK"), (("*",), "", None)]
)
def test_unknown_user_is_taken_for_one_of_the_usual_country(
    new_world: NewWorld, allowed: tuple[str, ...], region: str, country: str | None
) -> None:
    world = new_world(allowed_countries=allowed)
    object.__setattr__(world.config.phones, "default_region", region)
    assert world.verifiers[0]._usual_country() == country


# --- Recovery codes ---


def _use_up(world: World, how: str, session: Session) -> None:
    if how == "gateway":
        world.gateway.end = REFUSED
    if how == "tries":
        world.begin(session)
        for _ in range(3):
            world.check(session, "no code")
    if how == "locked":
        for _ in range(5):
            world.check(session, WRONG_FORM)
    if how == "day":
        for _ in range(8):
            world.check(session, WRONG_FORM)
            world.clock.move_ms(16 * MINUTE_MS)
    if how in ("spacing", "budget"):
        assert world.begin(world.session("alice" if how == "spacing" else "bob", None)).why is Why.CODE_SENT


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ("spacing", Word.PASS),
        ("budget", Word.PASS),
        ("gateway", Word.PASS),
        ("tries", Word.PASS),
        ("locked", Word.DENY),
        ("day", Word.DENY),
    ],
)
def test_recovery_code_needs_no_text_and_heeds_every_lockout(new_world: NewWorld, how: str, word: Word) -> None:
    world = new_world(**({"sends_per_day_in_all": 1} if how == "budget" else {}))
    code = world.add_recovery_code("alice")
    session = world.session("alice", None)
    _use_up(world, how, session)
    world.begin(session)
    assert world.check(session, code).word is word
    if word is Word.DENY:
        world.clock.move_ms(DAY_MS)
        assert world.check(session, code).word is Word.PASS  # it was not used up


def test_recovery_code_passes_once_among_fifty_at_the_same_moment(new_world: NewWorld) -> None:
    world = new_world(wrong_in_a_row=100, wrong_per_day=1000)
    code = world.add_recovery_code("alice")
    sessions = [world.session("alice", None) for _ in range(50)]
    replies = _at_once([partial(world.check, session, code) for session in sessions])
    assert [reply.word for reply in replies].count(Word.PASS) == 1


# --- Words and reasons ---


def _refusals(new_world: NewWorld) -> Iterator[tuple[str, Reply, str]]:
    """Option, answer and the journal's reason, for every limit that there is."""
    world = new_world()
    session = world.session("alice", None)
    world.begin(session)
    yield "digits", world.check(session, "no code"), world.reason
    world.check(session, "no code")
    world.check(session, "no code")
    yield "tries", world.check(session, "no code"), world.reason
    world.clock.move_ms(world.config.codes.life_s * 1000)
    yield "life_s", world.check(session, "no code"), world.reason
    world.check(session, WRONG_FORM)
    yield "wrong_in_a_row", world.check(session, WRONG_FORM), world.reason
    yield "lockout_s", world.check(session, "no code"), world.reason

    world = new_world(lockout_s=86400)
    for _ in range(5):
        reply = world.check(world.session("alice", None), WRONG_FORM)
    yield "lockout_max_s", reply, world.reason

    world = new_world()
    for _ in range(8):
        world.check(world.session("alice", None), WRONG_FORM)
        world.clock.move_ms(11 * MINUTE_MS)
    yield "wrong_per_day", world.begin(world.session("alice", None)), world.reason

    for option, limits, spaced_ms in (
        ("send_spacing_s", {}, 0),
        ("sends_per_15_minutes", {"sends_per_15_minutes": 1}, 31_000),
        ("sends_per_day", {"sends_per_day": 1}, HOUR_MS),
    ):
        world = new_world(**limits)
        world.begin(world.session("alice", None))
        world.clock.move_ms(spaced_ms)
        yield option, world.begin(world.session("alice", None)), world.reason

    for option, scope, _ in SHARED:
        world = new_world(**{option: Decimal(1) if scope is Scope.MONEY else 1})
        _let_in(world, "alice", OFFICE)
        # To alice it is a known place by now, which has a budget of its own.
        reply = world.begin(world.session("nobody" if scope is Scope.SOURCE else "alice", OFFICE))
        yield option, reply, world.reason
        if scope is Scope.MONEY:
            yield "price_at_most", reply, world.reason

    world = new_world(allowed_countries=("SE",))
    yield "allowed_countries", world.begin(world.session("alice", None)), world.reason


def test_every_refusal_has_its_words_and_its_reason(new_world: NewWorld) -> None:
    """As docs/limits.md says. How long to wait depends on the moment, so the number of it is left out."""
    seen = {option: (reply.text, reason) for option, reply, reason in _refusals(new_world)}
    assert set(seen) == {refusal.option for refusal in REFUSALS}
    for refusal in REFUSALS:
        text, reason = seen[refusal.option]
        assert reason == refusal.reason, refusal.option
        assert text.partition("Wait")[0] == refusal.words.partition("Wait")[0], refusal.option


def test_limits_that_a_person_can_tell_apart_have_words_of_their_own() -> None:
    """A country, the fleet and its money are one to a person at a prompt: nothing goes out today."""
    words = {refusal.words.partition("Wait")[0]: set[str]() for refusal in REFUSALS}
    for refusal in REFUSALS:
        words[refusal.words.partition("Wait")[0]].add(refusal.reason)
    shared = {frozenset(reasons) for reasons in words.values() if len(reasons) > 1}
    assert shared == {frozenset({"budget_country", "budget_fleet", "budget_money"})}


def test_every_option_of_limits_is_explained() -> None:
    explained = {refusal.option for refusal in REFUSALS if refusal.section == "limits"}
    assert explained == set(LimitsConfig.__dataclass_fields__)


# --- The table itself ---


def test_text_is_paid_from_every_scope() -> None:
    found = budgets(LimitsConfig(), phone_tag="k1.x", country="DK", source=None, host="here", is_stranger=False)
    assert [budget.scope for budget in found] == [Scope.PHONE, Scope.HOST, Scope.COUNTRY, Scope.FLEET, Scope.MONEY]
    assert all(budget.pays for budget in found)


def test_strangers_pay_twice_and_their_own_budget_is_half() -> None:
    limits = LimitsConfig(sends_per_day_in_all=7, spend_per_day=Decimal(1), price_at_most=Decimal(1))
    found = budgets(limits, phone_tag="k1.x", country="DK", source=None, host="here", is_stranger=True)
    own = {budget.scope: budget for budget in found if budget.subject.endswith(":strangers")}
    assert set(own) == {Scope.HOST, Scope.COUNTRY, Scope.FLEET, Scope.MONEY}
    assert own[Scope.FLEET].most == 3
    assert own[Scope.MONEY].most == 1_000_000  # one text always has a place


def test_code_space_and_limits_give_the_promised_odds() -> None:
    """At most 1 in 50 000 a day for who has the first factor, wherever he is (RFC 4226 §7.3)."""
    limits, digits = LimitsConfig(), 6
    assert limits.wrong_per_day / 10**digits <= 1 / 50_000
    assert codes.hotp(Secret("A" * 32), 1, digits=digits).reveal().isdigit()
