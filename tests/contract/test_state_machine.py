# SPDX-License-Identifier: MIT
"""Logins in any order, with crashes and other logins between any two steps, against real Redis and a reference model.

Every step of the store must answer as `reference_model.py` does. Apart from the model, and without looking into
Redis, `Ledger` holds what must never happen. Faults planted into the scripts show that either of the two finds them.
"""

from __future__ import annotations

import ipaddress
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from contract.reference_model import Model
from fakes import DirectSender, FakeAccounts, FakeClock, FakeDirectory, FakeGateway, NoAlarm
from private_redis import PrivateRedis
from textgate import store as store_module
from textgate.audit import Audit
from textgate.config import CodesConfig, Config, LimitsConfig, StoreConfig
from textgate.errors import StoreUnavailable
from textgate.gateway_outcomes import Outcome, SendReason
from textgate.limits import DAY_MS, build_rules
from textgate.msisdn import Msisdn
from textgate.policy import Account
from textgate.protocol import Reply, Why, Word
from textgate.secret import Secret
from textgate.session import Session
from textgate.store import BeginState, CheckState, Store
from textgate.vault import Vault, parse_keys
from textgate.verifier import NEVER_SENT, Unsent, Verifier, user_key

# Small limits, so that a few steps reach every edge.
LIMITS = LimitsConfig(
    wrong_in_a_row=2, lockout_s=60, lockout_max_s=7200, wrong_per_day=7, send_spacing_s=10, sends_per_15_minutes=3,
    sends_per_day=8, sends_per_phone_per_day=10**6, sends_per_source_per_hour=10**6, sends_per_host_per_minute=10**6,
    sends_per_country_per_day=10**6, sends_per_day_in_all=10**6, spend_per_day=Decimal(10**6),
    allowed_countries=("DK",),
)  # fmt: skip
CODES = CodesConfig(tries=2)
RULES = build_rules(CODES, LIMITS)
USERS = ("alice", "bob")
PHONES = ("4520123456", "4530123456", "4540123456")
HOME, AFAR, FARTHER = "192.0.2.1", "198.51.100.1", "198.51.100.2"
# Two at one place, two elsewhere, one of somebody else: (user, where from).
SESSIONS = (("alice", HOME), ("alice", HOME), ("alice", ""), ("alice", AFAR), ("alice", FARTHER), ("bob", HOME))
RECOVERY_CODES = ("abcdefghjkmn", "pqrstvwxyz01", "bcdfghjkmnpq")
ENDS = (
    (Outcome.SENT, SendReason.ACCEPTED),
    (Outcome.REFUSED, SendReason.CREDIT),
    (Outcome.REFUSED, SendReason.UNREACHABLE),
    (Outcome.UNKNOWN, SendReason.TIMEOUT),
)
STEPS = ("begin", "settle_send", "take_try", "consume", "confirm_wrong", "take_recovery", "charge", "adjust")


Log = dict[tuple[str, str], dict[str, int]]  # user and place -> id -> time


class DaemonCrash(BaseException):
    """The end of a daemon in the middle of a step."""


@dataclass(frozen=True)
class Step:
    """One call of the store, and what it answered."""

    name: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    answer: Any


class WatchedStore:
    """The real store. Writes down each step; crashes before a step, or lets others act after one, where told to."""

    def __init__(self, real: Store) -> None:
        self.real = real
        self.steps: list[Step] = []
        self.steps_left: int | None = None
        self.away_at: tuple[str, bool] | None = None  # a step without an answer, and whether it is done all the same
        self.meanwhile: Callable[[], None] | None = None

    def __getattr__(self, name: str) -> Any:
        step = getattr(self.real, name)
        return step if name not in STEPS else lambda *arguments, **options: self._take(step, name, arguments, options)

    def _take(self, step: Callable[..., Any], name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if self.steps_left is not None:
            if self.steps_left == 0:
                raise DaemonCrash
            self.steps_left -= 1
        is_away = self.away_at is not None and self.away_at[0] == name
        if self.away_at == (name, False):
            raise StoreUnavailable("away")
        answer = step(*arguments, **options)
        self.steps.append(Step(name, arguments, options, answer))
        if is_away:
            raise StoreUnavailable("its answer is lost")
        if name in ("take_try", "begin") and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return answer


@dataclass
class Ledger:
    """What happened, and what must never happen. Knows nothing of Redis, and of the limits only their numbers."""

    passes: Counter[str] = field(default_factory=Counter)  # by challenge
    current: dict[tuple[Any, ...], list[str]] = field(
        default_factory=dict
    )  # of user and session: the challenge, after the one it is to replace
    counters: set[tuple[str, int]] = field(default_factory=set)  # secret and counter of every challenge
    tries: dict[str, list[int]] = field(default_factory=dict)  # tries left after each try of a challenge
    known: set[tuple[str, str]] = field(default_factory=set)  # user and address of every pass
    locks: dict[tuple[str, str], int] = field(default_factory=dict)  # user and place, and until when
    wrong: Log = field(default_factory=dict)  # tries that didn't pass
    texts: Log = field(default_factory=dict)  # unanswered ones

    def note(self, step: Step) -> None:
        """Write a step down and judge it."""
        if step.name in ("charge", "adjust"):
            return
        user, source, now_ms = step.arguments[0], step.options["source"], step.options.get("now_ms", 0)
        place = (user, source if source == "" or (user, source) in self.known else "strangers")
        getattr(self, f"_note_{step.name}")(step, place, now_ms)
        if step.name != "settle_send" and step.answer is not None and step.answer.row == "wrong_in_a_row":
            self.locks[place] = step.answer.until_ms

    def _note_begin(self, step: Step, place: tuple[str, str], now_ms: int) -> None:
        begun = step.answer
        if begun is not None and begun.state is BeginState.NEW:
            assert (begun.sealed, begun.counter) not in self.counters, "a counter came twice"
            self.counters.add((begun.sealed, begun.counter))
            ids = self.current.setdefault(step.arguments[:2], [])
            ids[:] = [*(ids[-1:] if begun.is_live else []), begun.challenge_id]
            self.texts.setdefault(place, {})[begun.challenge_id] = now_ms
            for limit in RULES.sends:
                assert self._recent(self.texts, place, limit.window_ms, now_ms) <= limit.most, limit.name
                if limit.most_in_all:
                    assert self._recent(self.texts, place[0], limit.window_ms, now_ms) <= limit.most_in_all

    def _note_settle_send(self, step: Step, _place: tuple[str, str], _now_ms: int) -> None:
        if step.options["is_refused"]:
            challenge_id = step.options["challenge_id"]
            self._forget(self.texts, challenge_id)
            ids = self.current.get(step.arguments[:2], [])
            if ids[:-1] and ids[-1] == challenge_id:
                ids.pop()  # the one before goes on

    def _note_take_try(self, step: Step, place: tuple[str, str], now_ms: int) -> None:
        taken = step.answer
        if taken.state is CheckState.TRY:
            left = self.tries.setdefault(taken.challenge_id, [RULES.tries])
            assert taken.tries_left < left[-1], "a try came back"
            left.append(taken.tries_left)
            self._note_guess(step, place, now_ms)

    def _note_guess(self, step: Step, place: tuple[str, str], now_ms: int) -> None:
        assert now_ms >= self.locks.get(place, 0), "a guess while locked out"
        self.wrong.setdefault(place, {})[step.options["try_id"]] = now_ms
        assert self._recent(self.wrong, place, DAY_MS, now_ms) <= RULES.wrong_per_place
        assert self._recent(self.wrong, place[0], DAY_MS, now_ms) <= RULES.wrong_per_day

    def _note_consume(self, step: Step, place: tuple[str, str], now_ms: int) -> None:
        if step.answer.state is CheckState.PASS:
            challenge_id = step.options["challenge_id"]
            self.passes[challenge_id] += 1
            assert self.passes[challenge_id] == 1, "a challenge passed twice"
            assert self.current[step.arguments[:2]].pop() == challenge_id, "one that was replaced passed"
            self._forget(self.texts, challenge_id)
            self._note_pass(step, place, now_ms)

    def _note_pass(self, step: Step, place: tuple[str, str], now_ms: int) -> None:
        assert now_ms >= self.locks.get(place, 0), "a pass while locked out"
        self._forget(self.wrong, step.options["try_id"])
        if step.options["source"]:
            self.known.add((place[0], step.options["source"]))

    def _note_confirm_wrong(self, step: Step, place: tuple[str, str], now_ms: int) -> None:
        """Counted when it was taken."""

    def _note_take_recovery(self, step: Step, place: tuple[str, str], now_ms: int) -> None:
        if step.answer.state is CheckState.PASS:
            self._note_guess(step, place, now_ms)
            self._note_pass(step, place, now_ms)
        elif step.answer.state is CheckState.WRONG:
            self._note_guess(step, place, now_ms)

    def unlock(self, user: str) -> None:
        """An administrator's word: nothing counts any longer."""
        for log in (self.wrong, self.texts, self.locks):
            for place in [place for place in log if place[0] == user]:
                del log[place]

    def flush(self) -> None:
        """Redis was emptied. What passed and which counters were used stays."""
        for log in (self.known, self.locks, self.wrong, self.texts):
            log.clear()

    @staticmethod
    def _recent(log: Log, whose: tuple[str, str] | str, window: int, now: int) -> int:
        entries = [found for place, found in log.items() if whose in (place, place[0])]
        return sum(at > now - window for found in entries for at in found.values())

    @staticmethod
    def _forget(log: Log, member: str) -> None:
        for found in log.values():
            found.pop(member, None)


class Doors:
    """Two servers on one Redis, and everything a login there needs."""

    def __init__(self, server: PrivateRedis) -> None:
        server.client.flushall()
        self.server = server
        self.clock = FakeClock()
        self.gateway = FakeGateway()
        self.directory = FakeDirectory({user: Msisdn(PHONES[at]) for at, user in enumerate(USERS)})
        self.store = WatchedStore(Store(StoreConfig(url=server.url, timeout_s=20), connections=16))
        config = Config(path="test", codes=CODES, limits=LIMITS)
        vault = Vault(parse_keys(Secret("k1:" + "5a" * 32)))
        self.verifiers = [
            Verifier(
                config=config,
                store=self.store,  # type: ignore[arg-type]
                gateway=self.gateway,
                sender=DirectSender(),
                directory=self.directory,
                accounts=FakeAccounts({user: Account(user, 1000, 1000, frozenset()) for user in USERS}),
                vault=vault,
                audit=Audit(lambda _message, _fields: None),
                host=f"host{number}",
                clock=self.clock,
                alarm=NoAlarm(),
                pause=lambda _seconds: None,
            )
            for number in range(2)
        ]

    def session(self, at: int) -> Session:
        user, source = SESSIONS[at]
        address = ipaddress.ip_address(source) if source else None
        return Session(user, "sshd", "ssh", address, None, f"session{at}")

    def begin(self, at: int, host: int = 0) -> Reply:
        return self.verifiers[host].begin(self.session(at))

    def check(self, at: int, typed: str, host: int = 0) -> Reply:
        return self.verifiers[host].check(self.session(at), Secret(typed))

    def codes(self, at: int) -> list[str]:
        """The codes that were texted for a session, in order."""
        ids = {
            step.answer.challenge_id
            for step in list(self.store.steps)
            if step.name == "begin" and step.arguments[1] == f"session{at}" and step.answer is not None
        }
        return [text.code for text in list(self.gateway.texts) if text.userref in ids]

    def give_recovery_codes(self, user: str) -> dict[str, str]:
        """What is kept of a user's recovery codes, which are his from now on."""
        self.verifiers[0].new_recovery(user_key(user), [Secret(code) for code in RECOVERY_CODES])
        return dict(self.server.client.hgetall(f"textgate:{{{user}}}:recovery"))

    def close(self) -> None:
        self.store.real.close()


sessions = st.integers(0, len(SESSIONS) - 1)
hosts = st.integers(0, 1)
kinds = st.sampled_from(["right", "right", "wrong", "wrong", "former", "others", "empty"])
aways = st.tuples(st.sampled_from(["begin", "charge"]), st.booleans())
jumps = st.sampled_from([-DAY_MS, -400_000, -1, 1, 299_999, 300_000, DAY_MS, 50 * 365 * DAY_MS])
begins = st.sampled_from(["begin", "empty"])  # what has a text made
# What others do while a login is between two of its steps.
others = st.lists(
    st.one_of(
        st.tuples(st.just("check"), sessions, kinds, hosts),
        st.tuples(st.just("begin"), sessions, hosts),
        st.tuples(st.just("unlock"), st.sampled_from(USERS)),
        st.tuples(st.just("wait"), st.sampled_from([1, 15_000, 60_000, 300_000])),
        st.tuples(st.just("jump"), jumps),
        st.tuples(st.just("flush")),
    ),
    max_size=3,
)


class Logins(RuleBasedStateMachine):
    """Everything that can happen to logins, in any order."""

    server: ClassVar[PrivateRedis]
    has_model: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.doors = Doors(self.server)
        self.model = Model(RULES)
        self.ledger = Ledger()
        self.judged = 0
        self.excused: dict[str, int | None] = {}  # challenge that was never texted -> the host that knows it

    def teardown(self) -> None:
        self.doors.close()

    # --- What happens ---

    @rule(at=sessions, host=hosts, end=st.sampled_from(ENDS), meanwhile=others)
    def begin(self, at: int, host: int, end: tuple[Outcome, SendReason], meanwhile: list[Any]) -> None:
        self.doors.gateway.always = end
        self._let(meanwhile)
        self._act("begin", at, host)

    @rule(at=sessions, kind=kinds, host=hosts, meanwhile=others)
    def check(self, at: int, kind: str, host: int, meanwhile: list[Any]) -> None:
        self._let(meanwhile)
        self._act("check", at, kind, host)

    @rule(pair=st.sampled_from([(0, 1), (0, 0), (3, 4)]), kind=kinds, meanwhile=others)
    def two_at_one_place(self, pair: tuple[int, int], kind: str, meanwhile: list[Any]) -> None:
        """Two logins of a user at a place, or one twice: while the first is looked at, something else is typed."""
        self.doors.gateway.always = ENDS[0]
        for at in pair:
            self._act("begin", at, 0)
            self._act("wait", LIMITS.send_spacing_s * 1000)
        self._let([("check", pair[1], kind, 1), *meanwhile])
        self._act("check", pair[0], "right", 0)

    @rule(at=sessions, host=hosts, end=st.sampled_from(ENDS))
    def resend(self, at: int, host: int, end: tuple[Outcome, SendReason]) -> None:
        self.doors.gateway.always = end
        self._act("check", at, "empty", host)

    @rule(at=sessions, kind=kinds, host=hosts, steps_left=st.integers(0, 4), is_begin=st.booleans())
    def crash(self, at: int, kind: str, host: int, steps_left: int, is_begin: bool) -> None:
        """The daemon dies after so many steps of a login."""
        self.doors.store.steps_left = steps_left
        try:
            self._act("begin", at, host) if is_begin else self._act("check", at, kind, host)
        except DaemonCrash:
            self._excuse(None)
        finally:
            self.doors.store.steps_left = None

    @rule(at=sessions, host=hosts, away_at=aways, kind=begins)
    def store_away(self, at: int, host: int, away_at: tuple[str, bool], kind: str) -> None:
        """Redis goes away before a text is paid for, and is back when he begins again."""
        gateway, store = self.doors.gateway, self.doors.store
        gateway.always, store.meanwhile, store.away_at = ENDS[0], None, away_at
        count = len(gateway.texts)
        self._act("begin", at, host) if kind == "begin" else self._act("check", at, kind, host)
        assert len(gateway.texts) == count, "a text that was not paid for"
        store.away_at = None
        self._excuse(host)
        if self.doors.begin(at, host).why is Why.CODE_LIVE:
            called_good = store.steps[-1].answer.challenge_id
            is_excused = self.excused.get(called_good, host) != host
            assert is_excused or called_good in self._texted(), "called good, and never texted"

    @rule(at=sessions, code=st.sampled_from([*RECOVERY_CODES, "aaaabbbbcccc"]), host=hosts)
    def recover(self, at: int, code: str, host: int) -> None:
        reply = self.doors.check(at, code, host)
        assert reply.word in (Word.PASS, Word.DENY)
        assert reply.word is not Word.PASS or code in RECOVERY_CODES

    @rule(user=st.sampled_from(USERS))
    def give_recovery_codes(self, user: str) -> None:
        values = self.doors.give_recovery_codes(user)
        self._judge()
        self.model.set_recovery(user, values)

    @rule(user=st.sampled_from(USERS))
    def unlock(self, user: str) -> None:
        self._act("unlock", user)

    @rule(by_ms=st.sampled_from([1, 9_999, 10_000, 15_000, 60_000, 299_999, 300_000, 900_000, 7_200_000, DAY_MS]))
    def wait(self, by_ms: int) -> None:
        self._act("wait", by_ms)

    @rule(by_ms=jumps)
    def jump(self, by_ms: int) -> None:
        self._act("jump", by_ms)

    @rule(user=st.sampled_from(USERS), number=st.sampled_from(PHONES))
    def change_phone(self, user: str, number: str) -> None:
        self.doors.directory.phones[user] = Msisdn(number)

    @rule()
    def flush(self) -> None:
        self._act("flush")

    # --- How ---

    def _let(self, meanwhile: list[Any]) -> None:
        def act() -> None:
            for action in meanwhile:
                self._act(*action)

        self.doors.store.meanwhile = act

    def _act(self, name: str, *arguments: Any) -> None:
        getattr(self, f"_do_{name}")(*arguments)

    def _excuse(self, host: int | None) -> None:
        """What has no text now never had one, and this host alone knows it; None: the daemon that knew has died."""
        for challenge_id in self._opened() - self._texted():
            self.excused.setdefault(challenge_id, host)

    def _opened(self) -> set[str]:
        return {
            step.answer.challenge_id
            for step in self.doors.store.steps
            if step.name == "begin" and step.answer is not None and step.answer.state is BeginState.NEW
        }

    def _texted(self) -> set[str]:
        return {text.userref for text in self.doors.gateway.texts}

    def _do_begin(self, at: int, host: int) -> None:
        reply = self.doors.begin(at, host)
        assert reply.word in (Word.ASK, Word.DENY)

    def _do_check(self, at: int, kind: str, host: int) -> None:
        texted = self.doors.codes(at)
        typed = self._typed(at, kind)
        reply = self.doors.check(at, typed, host)
        assert reply.word in (Word.PASS, Word.DENY)
        if reply.word is Word.PASS:
            assert typed in texted, "a code that was never texted for this session"

    def _typed(self, at: int, kind: str) -> str:
        own = self.doors.codes(at)
        theirs = [code for other in range(len(SESSIONS)) if other != at for code in self.doors.codes(other)[-1:]]
        return {
            "right": own[-1] if own else "123456",
            "former": own[-2] if len(own) > 1 else "123456",
            "others": next((code for code in theirs if code not in own), "123456"),
            "wrong": next(code for code in ("123456", "654321") if code not in own[-1:]),
            "empty": "",
        }[kind]

    def _do_unlock(self, user: str) -> None:
        self.doors.store.real.unlock(user_key(user))
        self._judge()
        self.model.unlock(user)
        self.ledger.unlock(user)

    def _do_wait(self, by_ms: int) -> None:
        self.doors.clock.move_ms(by_ms)

    def _do_jump(self, by_ms: int) -> None:
        """The machine's clock is set; no time goes by."""
        self.doors.clock.jump_ms(by_ms)

    def _do_flush(self) -> None:
        self.server.client.flushall()
        self._judge()
        self.model = Model(RULES)
        self.ledger.flush()

    # --- What must hold ---

    @invariant()
    def steps_answer_as_the_model_does(self) -> None:
        self._judge()

    @invariant()
    def no_text_without_a_challenge(self) -> None:
        references = [text.userref for text in self.doors.gateway.texts]
        assert set(references) <= self._opened()
        assert len(set(references)) == len(references), "a challenge was texted twice"

    @invariant()
    def what_was_given_back_as_never_sent_never_was(self) -> None:
        given_back = {
            step.options["challenge_id"]
            for step in self.doors.store.steps
            if step.name == "settle_send" and step.options["send"] == NEVER_SENT
        }
        assert given_back.isdisjoint(self._texted())

    def _judge(self) -> None:
        """Look at every step since the last time."""
        steps = self.doors.store.steps
        while self.judged < len(steps):
            step = steps[self.judged]
            self.judged += 1
            self.ledger.note(step)
            if self.has_model and step.name not in ("charge", "adjust"):
                expected = getattr(self.model, step.name)(*step.arguments, **step.options)
                assert step.answer == expected, step.name


def _settings(examples: int, steps: int, **more: Any) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        derandomize=True,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        **more,
    )


@pytest.fixture
def machine(redis_server: PrivateRedis) -> Iterator[type[Logins]]:
    """A class of its own for each test, on the running Redis."""
    yield type("LoginsHere", (Logins,), {"server": redis_server})


def test_logins_in_any_order_keep_to_the_model(machine: type[Logins]) -> None:
    run_state_machine_as_test(machine, settings=_settings(80, 40))


# --- Planted faults ---

FAULTS = {
    "a lockout that consume doesn't see": (
        "consume",
        "if until_ms > now then",
        "if false then",
    ),
    "a try that is given back": (
        "take_try",
        "'tries_left', -1)",
        "'tries_left', 0) - 1",
    ),
    "a challenge that is consumed whatever its id": (
        "consume",
        "found[1] ~= arg.challenge_id or",
        "not found[1] or",
    ),
    "a challenge that is not deleted": (
        "consume",
        "redis.call('DEL', CHALLENGE)",
        "",
    ),
    "a counter that starts again": (
        "begin",
        "if arg.counter <= last_counter then",
        "if false then",
    ),
    "a wrong code that is not counted": (
        "take_try",
        "count_wrong()",
        "",
    ),
    "a text that is not counted": (
        "begin",
        "note(arg.challenge_id, UNANSWERED, ALL_UNANSWERED)",
        "",
    ),
}


@pytest.mark.parametrize("has_model", [True, False], ids=["by the model", "by the ledger"])
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(
    machine: type[Logins], monkeypatch: pytest.MonkeyPatch, fault: str, has_model: bool
) -> None:
    script, good, bad = FAULTS[fault]
    read = store_module._source

    def read_with_fault(name: str) -> str:
        text = read(name)
        if name == script:
            assert text.count(good) == 1
            text = text.replace(good, bad)
        return text

    monkeypatch.setattr(store_module, "_source", read_with_fault)
    machine.has_model = has_model
    with pytest.raises((AssertionError, KeyError)):
        run_state_machine_as_test(machine, settings=_settings(200, 30, phases=[Phase.generate]))


def test_forgetting_what_was_never_texted_is_found(machine: type[Logins], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unsent, "add", lambda *_: None)
    with pytest.raises(AssertionError, match="called good, and never texted"):
        run_state_machine_as_test(machine, settings=_settings(200, 30, phases=[Phase.generate]))


# --- At the same time ---


@pytest.mark.parametrize("seed", range(4))
def test_logins_at_the_same_time_keep_to_the_ledger(redis_server: PrivateRedis, seed: int) -> None:
    """Eight threads do what they like. Answers come in an order that nobody knows, so only the sums are judged."""
    doors = Doors(redis_server)
    for user in USERS:
        doors.give_recovery_codes(user)

    def work(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        for _ in range(60):
            at, host = chance.randrange(len(SESSIONS)), chance.randrange(2)
            match chance.choice(["begin", "right", "right", "wrong", "recover", "anew", "wait"]):
                case "begin":
                    doors.begin(at, host)
                case "right":
                    doors.check(at, (doors.codes(at) or ["123456"])[-1], host)
                case "wrong":
                    doors.check(at, f"{chance.randrange(10**6):06d}", host)
                case "recover":
                    doors.check(at, chance.choice(RECOVERY_CODES), host)
                case "anew":
                    doors.check(at, "", host)
                case "wait" if number == 0:
                    doors.clock.move_ms(chance.choice([1000, 11_000, 70_000, 3_600_000]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    doors.close()
    _judge_sums(doors.store.steps)


def _judge_sums(steps: list[Step]) -> None:
    begun = [step.answer for step in steps if step.name == "begin" and step.answer is not None]
    new = [answer for answer in begun if answer.state is BeginState.NEW]
    assert len({(answer.sealed, answer.counter) for answer in new}) == len(new) > 0
    tries: dict[str, list[int]] = {}
    taken = [step for step in steps if step.name == "take_try" and step.answer.state is CheckState.TRY]
    for step in taken:
        tries.setdefault(step.answer.challenge_id, []).append(step.answer.tries_left)
    for left in tries.values():
        assert sorted(left, reverse=True) == list(range(RULES.tries - 1, -1, -1))[: len(left)]  # each one once
    passed = [
        step for step in steps if step.name in ("consume", "take_recovery") and step.answer.state is CheckState.PASS
    ]
    assert max(Counter(step.options.get("challenge_id", step.options["try_id"]) for step in passed).values()) == 1
    assert sum(step.name == "take_recovery" for step in passed) <= len(USERS) * len(RECOVERY_CODES)
    rights = {step.options["try_id"] for step in passed}
    guesses = [
        step for step in steps
        if (step in taken or (step.name == "take_recovery" and step.answer.state is CheckState.WRONG))
        and step.options["try_id"] not in rights
    ]  # fmt: skip
    for user in USERS:
        moments = sorted(step.options["now_ms"] for step in guesses if step.arguments[0] == user)
        for at, moment in enumerate(moments):
            assert sum(moment - DAY_MS < other <= moment for other in moments[: at + 1]) <= RULES.wrong_per_day
