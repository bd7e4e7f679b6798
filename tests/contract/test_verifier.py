# SPDX-License-Identifier: MIT
"""The two steps of a login on a real Redis: who gets in, who doesn't, and that nobody can tell the difference early.

Clock, gateway, users, phones and threads are fakes; store and vault are the real ones.
"""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from fakes import (
    DirectSender,
    FakeAccounts,
    FakeClock,
    FakeDirectory,
    FakeGateway,
    FullSender,
    HeldSender,
    Journal,
    decoy_of,
)
from private_redis import PrivateRedis
from textgate import codes, texts
from textgate.accounts import AccountsError
from textgate.away import AWAY_STATES
from textgate.config import Config, LimitsConfig, StoreConfig
from textgate.decoys import decoy_key
from textgate.dispatcher import Alarms, Dispatcher
from textgate.errors import DirectoryError, StoreUnavailable, VaultError
from textgate.gateway_outcomes import Outcome, SendReason, read_rest_answer
from textgate.limits import Scope
from textgate.msisdn import Msisdn
from textgate.pace import Pace
from textgate.policy import Account
from textgate.protocol import Reply, Why, Word
from textgate.secret import Secret
from textgate.session import Session
from textgate.spent import Spent
from textgate.store import Store
from textgate.store_clock import StoreClock
from textgate.vault import Vault, new_key_line, parse_keys
from textgate.verifier import (
    RECOVERY_PURPOSE,
    SECRET_PURPOSE,
    Unsent,
    Verifier,
    user_key,
)

ALICE, BOB, CAROL = "4520123456", "4530123456", "4915112345678"  # Carol's is German
LIFE_MS = 300_000
MINUTE_MS = 60_000

ASK_SENT = Reply(Word.ASK, texts.SENT)
DENY_WRONG = Reply(Word.DENY, texts.WRONG)
PASS, SKIP = Reply(Word.PASS), Reply(Word.SKIP)
LOCKED_5, LOCKED_4 = (texts.locked(wait_s, "wrong_in_a_row") for wait_s in (300, 240))
SENT = (Outcome.SENT, SendReason.ACCEPTED)
REFUSED_AWAY = (Outcome.REFUSED, SendReason.UNREACHABLE)
UNKNOWN_AWAY = (Outcome.UNKNOWN, SendReason.SERVER_ERROR)
REFUSED_CREDIT = (Outcome.REFUSED, SendReason.CREDIT)

# redis-py leaves the socket of a failed connect to the garbage collector.
unclosed_allowed = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)


def _config(**sections: dict[str, Any]) -> Config:
    base = Config(path="test", limits=LimitsConfig(allowed_countries=("DK",)))
    changed = {name: replace(getattr(base, name), **values) for name, values in sections.items()}
    return replace(base, **changed)


def _account(name: str, uid: int) -> Account:
    return Account(name, uid, uid, frozenset({name}))


class Door:
    """Everything a login meets. `configure` is a reload: state stays, rules change."""

    def __init__(self, url: str) -> None:
        self.clock: Any = FakeClock()
        self.history: StoreClock | None = None
        self.spent = Spent()
        self.gateway = FakeGateway()
        self.sender: Any = DirectSender()
        self.alarms = Alarms()
        self.journal = Journal()
        self.pauses: list[float] = []
        self.pace = Pace()
        self.unsent = Unsent()
        self.is_store_away = True
        self.key_lines = [new_key_line("k1").reveal()]
        names = ("alice", "bob", "carol", "nophone", "root", "exempt")
        self.accounts = FakeAccounts({name: _account(name, 1000 + at) for at, name in enumerate(names)})
        self.directory = FakeDirectory(
            {
                "alice": Msisdn(ALICE),
                "bob": Msisdn(BOB),
                "carol": Msisdn(CAROL),
                "root": Msisdn(ALICE),
                "exempt": Msisdn(BOB),
            }
        )
        self.store = Store(StoreConfig(url=url, timeout_s=5), connections=8)
        self.config = _config()
        self.configure(refused={"users": ("root",)}, exempt={"users": ("exempt",)})

    def configure(self, **sections: dict[str, Any]) -> None:
        """Change the configuration, as a reload does."""
        for name, values in sections.items():
            self.config = replace(self.config, **{name: replace(getattr(self.config, name), **values)})
        self.build()

    def build(self) -> None:
        self.vault = Vault(parse_keys(Secret("\n".join(self.key_lines))))
        self.verifier = Verifier(
            config=self.config,
            store=self.store,
            gateway=self.gateway,
            sender=self.sender,
            directory=self.directory,
            accounts=self.accounts,
            vault=self.vault,
            audit=self.journal.audit,
            host="here",
            clock=self.clock,
            alarm=self.alarms,
            pace=self.pace,
            unsent=self.unsent,
            history=self.history,
            spent=self.spent,
            pause=self.pauses.append,
            is_store_away=lambda: self.is_store_away,
        )

    def use(self, sender: Any) -> None:
        self.sender = sender
        self.build()

    def session(
        self, user: str = "alice", session: str = "s1", service: str = "sshd", source: str | None = None
    ) -> Session:
        address = ipaddress.ip_address(source) if source else None
        return Session(user, service, "ssh", address, None, session)

    def begin(self, user: str = "alice", session: str = "s1", **more: Any) -> Reply:
        return self.verifier.begin(self.session(user, session, **more))

    def check(self, code: str, user: str = "alice", session: str = "s1", **more: Any) -> Reply:
        return self.verifier.check(self.session(user, session, **more), Secret(code))

    def code(self, msisdn: str = ALICE) -> str:
        """The code in the newest text to a number."""
        return self.gateway.codes_to(msisdn)[-1]

    def wrong(self, msisdn: str = ALICE) -> str:
        """A code that was never texted to a number."""
        sent = {*self.gateway.codes_to(msisdn), ""}
        return next(code for code in (f"{number:06d}" for number in range(100)) if code not in sent)

    def expected_code(self, key: str) -> str:
        """The code that the store's challenge stands for, made with the vault as the verifier does."""
        kept = self.store._redis.hgetall(f"textgate:{{{key}}}:hotp")
        secret = self.vault.open(kept["secret"], user=key, purpose=SECRET_PURPOSE)
        return codes.hotp(secret, int(kept["counter"]), digits=self.config.codes.digits).reveal()

    def is_throttled(self, user: str = "alice") -> bool:
        return self.begin(user, "another").why is Why.THROTTLED


@pytest.fixture
def door(redis_server: PrivateRedis) -> Iterator[Door]:
    door = Door(redis_server.url)
    store = door.store
    yield door
    door.alarms.close()
    door.store.close()
    store.close()


# --- The right code ---


def test_right_code_lets_in(door: Door) -> None:
    assert door.begin() == ASK_SENT
    assert door.check(door.code()) == PASS


def test_text_goes_to_the_users_phone_with_code_and_life(door: Door) -> None:
    door.begin(service="sudo")
    (text,) = door.gateway.texts
    assert (text.msisdn, text.validity_s) == (ALICE, 300)
    assert text.text == f"{text.code} is your login code for here. Do not share it."
    assert len(text.code) == 6
    assert text.code.isdigit()
    assert len(text.userref) == 32
    assert text.code not in text.userref


@pytest.mark.parametrize("digits", [6, 7, 8])
def test_code_has_the_configured_length(door: Door, digits: int) -> None:
    door.configure(codes={"digits": digits})
    door.begin()
    assert len(door.code()) == digits
    assert door.check(door.code()) == PASS


@pytest.mark.parametrize("typed", ["{0} {1}", "{0}-{1}", " {0}{1}\n", "{0}\u00a0{1}"])
def test_code_may_be_typed_with_blanks_and_dashes(door: Door, typed: str) -> None:
    door.begin()
    code = door.code()
    assert door.check(typed.format(code[:3], code[3:])) == PASS


def test_code_is_another_each_time(door: Door) -> None:
    for number in range(12):
        door.begin(session=f"s{number}")
        assert door.check(door.code(), session=f"s{number}") == PASS
    sent = door.gateway.codes_to(ALICE)
    assert len(sent) == 12
    assert len(set(sent)) > 8


def test_begin_again_texts_nothing_and_the_code_stays_good(door: Door) -> None:
    door.begin()
    assert door.begin() == Reply(Word.ASK, texts.STILL_GOOD)
    assert len(door.gateway.texts) == 1
    assert door.check(door.code()) == PASS


def test_right_code_after_wrong_ones_lets_in(door: Door) -> None:
    door.begin()
    assert door.check(door.wrong()) == DENY_WRONG
    assert door.check(door.wrong()) == DENY_WRONG
    assert door.check(door.code()) == PASS


def test_right_code_frees_the_next_text_at_once(door: Door) -> None:
    for number in range(8):
        assert door.begin(session=f"s{number}") == ASK_SENT
        assert door.check(door.code(), session=f"s{number}") == PASS


# --- Wrong ones ---


def test_used_code_is_refused(door: Door) -> None:
    door.begin()
    assert door.check(door.code()) == PASS
    assert door.check(door.code()) == Reply(Word.DENY, texts.NONE_WAITING)


@pytest.mark.parametrize(
    ("after_ms", "reply"), [(LIFE_MS - 1, PASS), (LIFE_MS, Reply(Word.DENY, texts.NONE_WAITING))]
)
def test_code_is_good_to_the_end_of_its_life(door: Door, after_ms: int, reply: Reply) -> None:
    door.begin()
    door.clock.move_ms(after_ms)
    assert door.check(door.code()) == reply


def test_code_of_another_session_is_refused(door: Door) -> None:
    door.begin(session="s1")
    first = door.code()
    door.clock.move_ms(MINUTE_MS)
    door.begin(session="s2")
    assert door.check(first, session="s2") == DENY_WRONG
    assert door.check(first, session="s1") == PASS


def test_code_for_a_session_without_a_text_is_refused(door: Door) -> None:
    door.begin(session="s1")
    assert door.check(door.code(), session="s2") == Reply(Word.DENY, texts.NONE_WAITING)


def test_code_of_another_user_is_refused(door: Door) -> None:
    door.begin("alice")
    door.begin("bob")
    assert door.check(door.code(ALICE), "bob") == DENY_WRONG
    assert door.check(door.code(BOB), "alice") == DENY_WRONG
    assert door.check(door.code(BOB), "bob") == PASS


def test_code_before_any_text_is_refused(door: Door) -> None:
    assert door.check("123456") == Reply(Word.DENY, texts.NONE_WAITING)


def test_three_wrong_codes_spend_the_text(door: Door) -> None:
    door.begin()
    assert door.check(door.wrong()) == DENY_WRONG
    assert door.check(door.wrong()) == DENY_WRONG
    assert door.check(door.wrong()) == Reply(Word.DENY, texts.TRIES_SPENT)
    assert door.check(door.code()) == Reply(Word.DENY, texts.TRIES_SPENT)


@pytest.mark.parametrize(
    "typed",
    [
        "1",
        "12345",
        "1234567",
        "x" * 1_000_000,
        "pass",
        "../../etc",
        "%s%n",
        "\u0661\u0662\u0663\u0664\u0665\u0666",
        "\0",
    ],
)
def test_junk_is_a_wrong_code_and_is_counted(door: Door, typed: str) -> None:
    door.begin()
    assert door.check(typed) == DENY_WRONG
    assert door.check(door.wrong()) == DENY_WRONG
    assert door.check(door.wrong()) == Reply(Word.DENY, texts.TRIES_SPENT)


def test_old_code_is_refused_after_a_new_text(door: Door) -> None:
    door.begin()
    old = door.code()
    door.clock.move_ms(MINUTE_MS)
    assert door.check("") == Reply(Word.DENY, texts.SENT_ANEW)
    assert door.code() != old
    assert door.check(old) == DENY_WRONG
    assert door.check(door.code()) == PASS


@pytest.mark.parametrize("typed", ["", " ", "-\n"])
def test_empty_answer_asks_for_a_new_text_and_lets_nobody_in(door: Door, typed: str) -> None:
    door.begin()
    door.clock.move_ms(30_000)
    assert door.check(typed) == Reply(Word.DENY, texts.SENT_ANEW)
    assert len(door.gateway.texts) == 2


def test_empty_answer_too_early_says_when_and_leaves_the_code_good(door: Door) -> None:
    door.begin()
    door.clock.move_ms(10_000)
    assert door.check("") == Reply(Word.DENY, texts.throttled_anew(20))
    assert door.check(door.code()) == PASS


def test_new_text_that_is_refused_leaves_the_old_code_good(door: Door) -> None:
    door.begin()
    old = door.code()
    door.clock.move_ms(MINUTE_MS)
    door.gateway.ends = [REFUSED_CREDIT]
    assert door.check("") == Reply(Word.DENY, texts.NOT_SENT_ANEW)
    assert door.check(old) == PASS


def test_empty_answer_without_a_text_before_sends_one(door: Door) -> None:
    assert door.check("") == Reply(Word.DENY, texts.SENT_ANEW)
    assert door.check(door.code()) == PASS


def test_too_many_texts_are_throttled_with_the_time_to_wait(door: Door) -> None:
    door.begin(session="s1")
    door.clock.move_ms(10_000)
    assert door.begin(session="s2") == Reply(Word.ASK, texts.throttled(20, "spacing"))
    assert len(door.gateway.texts) == 1
    assert door.check(door.code(), session="s2") == Reply(Word.DENY, texts.NONE_WAITING)
    assert door.check(door.code(), session="s1") == PASS  # the old code can still be typed


# --- Lockout ---


def _lock(door: Door, user: str = "alice", **more: Any) -> Reply:
    """Five wrong codes, to two texts; a minute has passed since when this returns."""
    reply = Reply(Word.DENY)
    for session, count in (("lock-1", 3), ("lock-2", 2)):
        door.begin(user, session, **more)
        for _ in range(count):
            reply = door.check(door.wrong(), user, session, **more)
        door.clock.move_ms(MINUTE_MS)
    return reply


def test_five_wrong_codes_lock_out_and_say_how_long(door: Door) -> None:
    assert _lock(door) == Reply(Word.DENY, LOCKED_5)
    sent = len(door.gateway.texts)
    assert door.begin(session="new") == Reply(Word.DENY, LOCKED_4)
    assert door.check("123456", session="new") == Reply(Word.DENY, LOCKED_4)
    assert door.check("", session="new") == Reply(Word.DENY, LOCKED_4)
    assert len(door.gateway.texts) == sent
    (lockout, *_) = door.journal.find("lockout")
    assert (lockout["user"], lockout["result"], lockout.priority) == ("alice", "deny", 4)


def test_right_code_during_a_lockout_is_refused(door: Door) -> None:
    door.configure(codes={"life_s": 600})
    door.begin(session="good")
    good = door.code()
    door.clock.move_ms(MINUTE_MS)
    _lock(door)
    assert door.check(good, session="good").text == LOCKED_4
    door.clock.move_ms(240_000 - 1)
    assert door.check(good, session="good").word is Word.DENY


def test_lockout_ends_by_itself(door: Door) -> None:
    _lock(door)
    door.clock.move_ms(300_000)
    assert door.begin(session="new") == ASK_SENT
    assert door.check(door.code(), session="new") == PASS


def test_unlock_ends_it_at_once(door: Door) -> None:
    _lock(door)
    door.store.unlock(user_key("alice"))
    assert door.begin(session="new") == ASK_SENT
    assert door.check(door.code(), session="new") == PASS


def test_lockout_between_the_steps_is_seen_at_the_check(door: Door) -> None:
    door.configure(codes={"life_s": 600})
    door.begin(session="good")
    door.store.unlock(user_key("alice"))
    _lock(door)
    assert door.check(door.gateway.codes_to(ALICE)[0], session="good").word is Word.DENY


def test_thief_from_elsewhere_does_not_lock_out_the_owner_at_home(door: Door) -> None:
    door.begin(session="home", source="192.0.2.1")
    assert door.check(door.code(), session="home", source="192.0.2.1") == PASS
    assert _lock(door, source="198.51.100.66").text == LOCKED_5
    assert door.begin(session="thief", source="198.51.100.66").word is Word.DENY
    assert door.begin(session="again", source="192.0.2.1") == ASK_SENT
    assert door.check(door.code(), session="again", source="192.0.2.1") == PASS


# --- What comes between the comparison and the use of a code ---


def _just_before_consume(door: Door, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen after a code was found right and before it is used up, once."""
    consume = door.store.consume

    def interrupted(*arguments: Any, **more: Any) -> Any:
        monkeypatch.setattr(door.store, "consume", consume)
        happens()
        return consume(*arguments, **more)

    monkeypatch.setattr(door.store, "consume", interrupted)


def test_lockout_that_comes_while_a_right_code_is_compared_wins(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    door.begin(session="right")
    right = door.code()
    door.clock.move_ms(MINUTE_MS)
    _just_before_consume(door, monkeypatch, lambda: _lock(door))
    reply = door.check(right, session="right")
    assert (reply.word, reply.why) == (Word.DENY, Why.LOCKED)
    assert not door.journal.find("check", result="pass")


def test_code_that_was_used_meanwhile_is_refused(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    door.begin()
    code = door.code()
    _just_before_consume(door, monkeypatch, lambda: door.check(code))
    assert door.check(code) == Reply(Word.DENY, texts.NONE_WAITING)
    assert len(door.journal.find("check", result="pass")) == 1


def test_new_text_that_was_asked_for_meanwhile_makes_the_old_code_useless(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.begin()
    old = door.code()
    door.clock.move_ms(MINUTE_MS)
    _just_before_consume(door, monkeypatch, lambda: door.check(""))
    assert door.check(old) == Reply(Word.DENY, texts.NONE_WAITING)


def test_right_code_typed_by_many_at_once_lets_in_once(door: Door) -> None:
    door.configure(limits={"wrong_in_a_row": 100}, codes={"tries": 5})
    door.begin()
    code = door.code()
    barrier, replies = threading.Barrier(20), []

    def check() -> None:
        barrier.wait(20)
        replies.append(door.check(code).word)

    threads = [threading.Thread(target=check) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (replies.count(Word.PASS), replies.count(Word.DENY)) == (1, 19)


# --- Who can't pass ---

CANT_PASS = ["unknown", "root", "nophone", "carol"]


@pytest.mark.parametrize("user", CANT_PASS)
def test_nothing_is_sent_to_who_cannot_pass(door: Door, user: str) -> None:
    assert door.begin(user) == ASK_SENT
    door.clock.move_ms(MINUTE_MS)
    assert door.check("", user) == Reply(Word.DENY, texts.SENT_ANEW)
    assert door.gateway.texts == []


@pytest.mark.parametrize("user", CANT_PASS)
def test_right_code_of_a_pretended_text_does_not_let_in(door: Door, user: str) -> None:
    door.begin(user)
    key = decoy_key(user, door.vault) if user == "unknown" else user_key(user)
    assert door.check(door.expected_code(key), user) == DENY_WRONG


def test_expected_code_is_what_lets_an_ordinary_user_in(door: Door) -> None:
    """So that the test above fails for its own reason."""
    door.begin("alice")
    assert door.check(door.expected_code(user_key("alice")), "alice") == PASS


@pytest.mark.parametrize("user", CANT_PASS)
def test_journal_says_why_somebody_cannot_pass(door: Door, user: str) -> None:
    door.begin(user)
    reasons = {
        "unknown": "unknown_user",
        "root": "refused_user",
        "nophone": "no_phone",
        "carol": "country_not_allowed",
    }
    (begun,) = door.journal.find("begin")
    assert begun["reason"] == reasons[user]
    assert begun["user"] == ("(unknown)" if user == "unknown" else user)
    door.check("123456", user)
    assert door.journal.find("check")[-1]["reason"] == reasons[user]


def test_name_of_an_unknown_user_is_written_nowhere(door: Door, redis_server: PrivateRedis) -> None:
    """People type passwords at the user prompt."""
    door.begin("hunter2")
    door.check("123456", "hunter2")
    assert "hunter2" not in door.journal.text()
    assert not any("hunter2" in key for key in redis_server.client.scan_iter())


def test_pretended_text_takes_as_long_as_the_last_real_one(door: Door) -> None:
    door.begin("unknown")
    [before_any] = door.pauses
    assert 0.08 <= before_any <= 0.16
    door.begin("alice")
    door.begin("unknown2")
    assert door.pauses == [before_any, 0.25]  # test_pace.py: and as several did


Ends = list[tuple[Outcome, SendReason]]


def _transcript(door: Door, user: str, ends: Ends, *, is_held: bool) -> list[tuple[Word, str]]:
    """What a user sees: a text, wrong codes to its end, a new text, wrong codes to the lockout, and after."""
    seen: list[Reply] = []

    def step(action: Callable[[], Reply], wait_ms: int = 0) -> None:
        seen.append(action())
        if is_held:
            door.sender.release()
        door.clock.move_ms(wait_ms)

    def check(typed: str | None = None) -> Callable[[], Reply]:
        return lambda: door.check(door.wrong() if typed is None else typed, user)

    door.gateway.always = ends[0]
    step(lambda: door.begin(user))
    step(lambda: door.begin(user), 1000)
    step(check(""), 1000)
    for _ in range(4):
        step(check())
    step(check(""), 1000)
    step(lambda: door.begin(user), MINUTE_MS)
    step(lambda: door.begin(user), MINUTE_MS)
    step(check(""), 1000)
    step(check(""), MINUTE_MS)
    step(check("not a code"))
    step(check("abcd-efgh-jkmn"))
    for _ in range(3):
        step(check())
    step(check(""))
    step(lambda: door.begin(user, "another"), 10_000)
    step(lambda: door.begin(user, "another"), 300_000)
    step(lambda: door.begin(user, "another"))
    step(check())
    return [(reply.word, reply.text) for reply in seen]


@pytest.mark.parametrize("is_held", [False, True], ids=["the gateway is quick", "the gateway is slow"])
@pytest.mark.parametrize(
    "end",
    [
        SENT,
        REFUSED_CREDIT,
        REFUSED_AWAY,
        UNKNOWN_AWAY,
        (Outcome.REFUSED, SendReason.CREDENTIALS),
        (Outcome.REFUSED, SendReason.TIMEOUT),
        (Outcome.UNKNOWN, SendReason.BAD_ANSWER),
        (Outcome.UNKNOWN, SendReason.RESET),
    ],
    ids=lambda end: f"{end[0].value}-{end[1].value}",
)
def test_who_cannot_pass_sees_what_everybody_sees(
    redis_server: PrivateRedis, end: tuple[Outcome, SendReason], is_held: bool
) -> None:
    transcripts = {}
    pace = Pace()
    for user in ("alice", *CANT_PASS):  # the real one first: how its text goes is what is pretended to the others
        redis_server.client.flushall()
        door = Door(redis_server.url)
        door.pace = pace
        door.configure(gateway={"send_wait_s": 0.0 if is_held else 2.0})
        door.use(HeldSender() if is_held else DirectSender())
        transcripts[user] = _transcript(door, user, [end], is_held=is_held)
        assert Word.PASS not in {word for word, _ in transcripts[user]}
        door.alarms.close()
        door.store.close()
    for user in CANT_PASS:
        assert transcripts[user] == transcripts["alice"], user


NUMBER_ENDS = [
    SendReason.NUMBER,
    SendReason.NUMBER_FOR_NOW,
    SendReason.COUNTRY,
    SendReason.CONTENT,
    SendReason.INVALID,
    SendReason.INTERNAL,
]


@pytest.mark.parametrize("user", CANT_PASS)
@pytest.mark.parametrize("reason", NUMBER_ENDS)
def test_what_is_about_one_number_is_not_pretended_of_another(door: Door, reason: SendReason, user: str) -> None:
    """Else an account without a phone would read "could not be texted" where a real one reads "texted"."""
    door.gateway.ends = [(Outcome.REFUSED, reason)]
    assert door.begin("bob") == Reply(Word.DENY, texts.NOT_SENT)
    assert door.begin(user) == ASK_SENT
    assert door.begin("alice") == ASK_SENT


@pytest.mark.parametrize(
    ("status", "code", "is_pretended"),
    [(403, "0x022A", True), (403, None, False), (403, "0x0299", False), (400, "0x0221", True), (400, None, False)],
)
def test_refusal_of_a_code_that_nobody_knows_is_not_pretended(
    status: int, code: str | None, is_pretended: bool
) -> None:
    pace = Pace()
    body = json.dumps({"code": code} if code else {}).encode()
    pace.note(read_rest_answer(status, body).result(attempt_count=1, duration_s=0.1))
    assert (pace.read().outcome is Outcome.REFUSED) is is_pretended


def test_transcript_has_all_that_can_be_seen(door: Door) -> None:
    """So that the test above compares what it should."""
    seen = {text for _, text in _transcript(door, "alice", [SENT], is_held=False)}
    assert {texts.SENT, texts.STILL_GOOD, texts.WRONG, texts.TRIES_SPENT, texts.SENT_ANEW} <= seen
    assert any(text.startswith("Too many wrong codes in a row. Wait") for text in seen)
    assert any(text.startswith("A new login code can be texted in") for text in seen)


def test_directory_is_asked_for_everybody_alike(door: Door) -> None:
    door.begin("alice")
    door.begin("unknown")
    door.begin("root")
    assert door.directory.asked == ["alice", "", "root"]
    door.directory.is_broken = True
    for user in ("alice", *CANT_PASS):
        with pytest.raises(DirectoryError):
            door.begin(user)
        with pytest.raises(DirectoryError):
            door.check("123456", user)


def test_broken_user_database_is_an_error_for_everybody(door: Door) -> None:
    door.accounts.is_broken = True
    for user in ("alice", "unknown", "exempt"):
        with pytest.raises(AccountsError):
            door.begin(user)
        with pytest.raises(AccountsError):
            door.check("123456", user)


@pytest.mark.parametrize("user", ["", " ", "}", "~", "a\nb", "%", "x" * 4096, "\ud800", "alice\0", decoy_of("x")])
def test_hostile_unknown_name_is_treated_as_any_other(door: Door, user: str) -> None:
    assert door.begin(user) == ASK_SENT
    assert door.check("123456", user) == DENY_WRONG
    assert door.gateway.texts == []


def test_name_with_another_spelling_goes_by_the_canonical_one(door: Door) -> None:
    """NSS may know one user by several spellings: they share one lockout and one challenge."""
    door.accounts.accounts["ALICE"] = door.accounts.accounts["alice"]
    door.begin("ALICE")
    assert door.check(door.code(), "alice") == PASS


# --- Who needs no code ---


def test_exempt_user_is_let_in_and_it_is_noted(door: Door) -> None:
    assert door.begin("exempt") == SKIP
    assert door.gateway.texts == []
    (entry,) = door.journal.find("begin")
    assert (entry["user"], entry["result"], entry["reason"]) == ("exempt", "skip", "exempt_user")


def test_exempt_user_gets_in_while_phones_cannot_be_read(door: Door) -> None:
    door.directory.is_broken = True
    assert door.begin("exempt") == SKIP


@unclosed_allowed
def test_exempt_user_gets_in_while_redis_is_away(door: Door) -> None:
    door.store = _away()
    door.build()
    assert door.begin("exempt") == SKIP


def test_check_of_an_exempt_user_needs_the_right_code(door: Door) -> None:
    """The exemption speaks at the first step only; an answer is compared like any other."""
    assert door.check("123456", "exempt").word is Word.DENY
    door.check("", "exempt")
    assert door.check(door.wrong(BOB), "exempt").word is Word.DENY


# --- What changes between the steps ---


def test_user_refused_by_a_reload_between_the_steps_stays_out(door: Door) -> None:
    door.begin()
    door.configure(refused={"users": ("alice",)})
    assert door.check(door.code()).word is Word.DENY


def test_user_gone_between_the_steps_stays_out(door: Door) -> None:
    door.begin()
    del door.accounts.accounts["alice"]
    assert door.check(door.code()).word is Word.DENY


def test_country_taken_from_the_list_between_the_steps_stays_out(door: Door) -> None:
    door.begin()
    door.configure(limits={"allowed_countries": ("SE",)})
    assert door.check(door.code()).word is Word.DENY


def test_lower_limit_after_a_reload_counts_at_once(door: Door) -> None:
    door.begin()
    door.check(door.wrong())
    door.configure(limits={"wrong_in_a_row": 2})
    assert door.check(door.wrong()).text == LOCKED_5


@pytest.mark.parametrize("phone", [None, Msisdn(BOB), Msisdn(CAROL)], ids=["taken away", "another", "a foreign one"])
def test_code_is_dead_once_the_phone_changed(door: Door, phone: Msisdn | None) -> None:
    door.begin()
    if phone is None:
        del door.directory.phones["alice"]
    else:
        door.directory.phones["alice"] = phone
    assert door.check(door.code()) == Reply(Word.DENY, texts.NONE_WAITING)


def test_phone_that_changed_back_makes_the_code_good_again(door: Door) -> None:
    door.begin()
    door.directory.phones["alice"] = Msisdn(BOB)
    assert door.check(door.code()).word is Word.DENY
    door.directory.phones["alice"] = Msisdn(ALICE)
    assert door.check(door.code()) == PASS


def test_code_is_good_after_a_new_vault_key_came_first(door: Door) -> None:
    door.begin()
    door.key_lines.insert(0, new_key_line("k2").reveal())
    door.build()
    assert door.check(door.code()) == PASS
    door.begin(session="next")
    assert door.check(door.code(), session="next") == PASS


def test_lost_vault_key_is_an_error_and_nobody_gets_in(door: Door) -> None:
    door.begin()
    door.key_lines = [new_key_line("k9").reveal()]
    door.build()
    assert door.check(door.code()) == Reply(Word.DENY, texts.NONE_WAITING)  # its number's fingerprint is unknown, too
    door.clock.move_ms(MINUTE_MS)
    with pytest.raises(VaultError, match="needs a key that is not in vault-key"):
        door.begin(session="new")


def test_secret_copied_from_another_user_does_not_open(door: Door, redis_server: PrivateRedis) -> None:
    """Who can write to Redis can't make a known secret another user's."""
    door.begin("bob")
    door.begin("alice")
    bobs = redis_server.client.hgetall("textgate:{bob}:hotp")
    redis_server.client.hset("textgate:{alice}:hotp", mapping=bobs)
    with pytest.raises(VaultError, match="does not open"):
        door.check(door.code(BOB), "alice")


# --- How the text ends ---

# How the gateway ends, what begin says, whether the text counts against the limits.
OUTCOMES = [
    (SENT, ASK_SENT, True),
    ((Outcome.UNKNOWN, SendReason.BAD_ANSWER), Reply(Word.ASK, texts.ON_ITS_WAY), True),
    (UNKNOWN_AWAY, Reply(Word.ASK, texts.ON_ITS_WAY), True),
    ((Outcome.UNKNOWN, SendReason.INTERNAL), Reply(Word.ASK, texts.ON_ITS_WAY), True),
    *(
        ((Outcome.REFUSED, reason), Reply(Word.DENY, texts.NOT_SENT), False)
        for reason in SendReason
        if reason not in (SendReason.ACCEPTED, SendReason.UNSUPPORTED)
    ),
]


@pytest.mark.parametrize(
    ("end", "reply", "is_charged"), OUTCOMES, ids=[f"{end[0].value}-{end[1].value}" for end, _, _ in OUTCOMES]
)
def test_end_of_the_text_is_told_and_charged(
    door: Door, end: tuple[Outcome, SendReason], reply: Reply, is_charged: bool
) -> None:
    door.gateway.always = end
    assert door.begin() == reply
    assert door.is_throttled() is is_charged


@pytest.mark.parametrize("end", [UNKNOWN_AWAY, (Outcome.UNKNOWN, SendReason.BAD_ANSWER)])
def test_text_of_unknown_end_may_have_come(door: Door, end: tuple[Outcome, SendReason]) -> None:
    door.gateway.always = end
    door.begin()
    assert door.check(door.wrong()) == DENY_WRONG
    assert door.check(door.code()) == PASS


@pytest.mark.parametrize("end", [REFUSED_CREDIT, REFUSED_AWAY])
def test_text_refused_after_the_wait_is_told_at_the_check(door: Door, end: tuple[Outcome, SendReason]) -> None:
    door.configure(gateway={"send_wait_s": 0.0})
    held = HeldSender()
    door.use(held)
    door.gateway.always = end
    assert door.begin() == Reply(Word.ASK, texts.ON_ITS_WAY)
    held.release()
    assert door.check("123456") == Reply(Word.DENY, texts.NOT_SENT)
    assert not door.is_throttled()


def test_text_accepted_after_the_wait_is_good(door: Door) -> None:
    door.configure(gateway={"send_wait_s": 0.0})
    held = HeldSender()
    door.use(held)
    assert door.begin() == Reply(Word.ASK, texts.ON_ITS_WAY)
    assert door.begin() == Reply(Word.ASK, texts.STILL_GOOD)
    held.release()
    assert door.check(door.code()) == PASS


def test_new_text_after_the_wait_is_on_its_way(door: Door) -> None:
    door.begin()
    door.clock.move_ms(MINUTE_MS)
    door.configure(gateway={"send_wait_s": 0.0})
    door.use(HeldSender())
    assert door.check("") == Reply(Word.DENY, texts.ON_ITS_WAY_ANEW)


def test_refused_text_can_be_asked_for_again_at_once(door: Door) -> None:
    door.gateway.ends = [REFUSED_AWAY]
    assert door.begin() == Reply(Word.DENY, texts.NOT_SENT)
    assert door.begin() == ASK_SENT
    assert door.check(door.code()) == PASS


def test_code_of_a_refused_text_that_came_all_the_same_is_good(door: Door) -> None:
    """The gateway said no and sent it: the code is right, and used up as any other."""
    door.gateway.ends = [REFUSED_CREDIT]
    door.begin()
    assert door.check(door.code()) == PASS
    assert door.check(door.code()).word is Word.DENY


def test_gateway_that_raises_is_an_alert_and_no_crash(door: Door) -> None:
    door.gateway.error = RuntimeError("hunter2")
    assert door.begin() == Reply(Word.ASK, texts.ON_ITS_WAY)
    (alert,) = door.journal.alerts
    assert (alert["event"], alert["reason"]) == ("fault", "RuntimeError")
    assert "hunter2" not in door.journal.text()
    assert door.is_throttled()  # nobody knows whether it went out


@pytest.mark.parametrize("user", ["alice", "unknown"])
def test_too_many_texts_waiting_is_told_and_not_charged(door: Door, user: str) -> None:
    door.use(FullSender())
    assert door.begin(user) == Reply(Word.DENY, texts.BUSY)
    door.use(DirectSender())
    assert door.begin(user) == ASK_SENT
    assert door.journal.find("overload")


def test_sender_that_is_closed_refuses(door: Door) -> None:
    dispatcher = Dispatcher(threads=1, waiting=0)
    dispatcher.close()
    door.use(dispatcher)
    assert door.begin() == Reply(Word.DENY, texts.BUSY)


@unclosed_allowed
def test_store_that_goes_away_while_the_text_is_under_way_is_noted(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = _away()
    monkeypatch.setattr(door.store, "settle_send", away.settle_send)
    door.gateway.ends = [UNKNOWN_AWAY]
    assert door.begin() == Reply(Word.ASK, texts.ON_ITS_WAY)  # the text may be out
    (fault,) = door.journal.find("fault")
    assert fault["reason"].startswith("redis: ")


def _cut(door: Door, monkeypatch: pytest.MonkeyPatch, step: str, *, is_lost: bool) -> None:
    """Redis goes away before this step of the store, or its answer to it is lost."""
    real = getattr(door.store, step)

    def away(*arguments: Any, **more: Any) -> Any:
        if is_lost:
            real(*arguments, **more)
        raise StoreUnavailable("redis: ConnectionError")

    monkeypatch.setattr(door.store, step, away)


STORE_AWAY = Reply(Word.DENY, texts.STORE_AWAY)
CUTS = [("charge", False), ("charge", True), ("begin", True)]


@pytest.mark.parametrize(("step", "is_lost"), CUTS)
@pytest.mark.parametrize("user", ["alice", "nophone", "root", "no-such-user"])
def test_code_that_was_never_texted_is_not_called_good(
    door: Door, monkeypatch: pytest.MonkeyPatch, user: str, step: str, is_lost: bool
) -> None:
    door.begin(user, "s0")  # there is a secret
    door.clock.move_ms(MINUTE_MS)
    with monkeypatch.context() as patch:
        _cut(door, patch, step, is_lost=is_lost)
        assert door.begin(user) == STORE_AWAY
        if step == "charge":
            assert door.begin(user) == STORE_AWAY
    count = len(door.gateway.texts)
    assert door.begin(user) == ASK_SENT  # at once: nothing was texted that would have to be waited for
    assert len(door.gateway.texts) == count + (user == "alice")
    assert door.begin(user) == Reply(Word.ASK, texts.STILL_GOOD)
    assert door.begin(user, "s2").why is Why.THROTTLED
    if user == "alice":
        assert door.check(door.code()) == PASS


@pytest.mark.parametrize(("step", "is_lost"), CUTS)
def test_code_that_was_never_texted_holds_up_no_other_login(
    door: Door, monkeypatch: pytest.MonkeyPatch, step: str, is_lost: bool
) -> None:
    door.begin(session="s0")
    door.clock.move_ms(MINUTE_MS)
    with monkeypatch.context() as patch:
        _cut(door, patch, step, is_lost=is_lost)
        door.begin()
    assert door.begin(session="s2") == ASK_SENT
    assert door.check(door.code(), session="s2") == PASS


@pytest.mark.parametrize(("step", "is_lost"), CUTS)
def test_new_code_that_was_never_texted_leaves_the_old_one_good(
    door: Door, monkeypatch: pytest.MonkeyPatch, step: str, is_lost: bool
) -> None:
    door.begin()
    code = door.code()
    door.clock.move_ms(MINUTE_MS)
    with monkeypatch.context() as patch:
        _cut(door, patch, step, is_lost=is_lost)
        assert door.check("") == STORE_AWAY
    assert door.begin() == Reply(Word.ASK, texts.STILL_GOOD)
    assert door.check(code) == PASS


def test_guess_at_a_code_that_was_never_texted_is_told_so_and_counted(
    door: Door, monkeypatch: pytest.MonkeyPatch, redis_server: PrivateRedis
) -> None:
    with monkeypatch.context() as patch:
        _cut(door, patch, "charge", is_lost=False)
        door.begin()
    assert door.check("123456") == Reply(Word.DENY, texts.NOT_SENT)
    assert redis_server.client.zcard("textgate:{alice}:wrong") == 1
    assert door.check("") == Reply(Word.DENY, texts.SENT_ANEW)
    assert door.check(door.code()) == PASS


def test_code_that_was_never_texted_stays_so_while_the_store_cannot_be_told(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        _cut(door, patch, "charge", is_lost=False)
        _cut(door, patch, "settle_send", is_lost=False)
        for _ in range(2):
            assert door.begin() == STORE_AWAY
            assert door.check("123456") == STORE_AWAY
    door.configure()  # a reload in between
    assert door.begin() == ASK_SENT


def test_code_whose_secret_does_not_open_is_not_called_good(door: Door, redis_server: PrivateRedis) -> None:
    door.begin("bob")
    door.begin("alice")
    door.clock.move_ms(MINUTE_MS)
    redis_server.client.hset("textgate:{alice}:hotp", mapping=redis_server.client.hgetall("textgate:{bob}:hotp"))
    for _ in range(2):
        with pytest.raises(VaultError, match="does not open"):
            door.begin(session="s2")


def test_codes_that_were_never_texted_are_remembered_up_to_a_number(door: Door) -> None:
    unsent = Unsent()
    for number in range(Unsent.MOST + 2):
        unsent.add(f"id{number}", door.verifier.resolve(door.session("alice" if number % 2 else "bob")))
    kept = {challenge_id for user in ("alice", "bob") for challenge_id, _, _ in unsent.of_user(user_key(user))}
    assert kept == {f"id{number}" for number in range(2, Unsent.MOST + 2)}
    unsent.forget("id2")
    unsent.forget("id2")
    assert len(unsent.of_user("bob")) == Unsent.MOST // 2 - 1


# --- Shared budgets ---


@pytest.mark.parametrize(
    ("option", "scope"),
    [
        ("sends_per_phone_per_day", Scope.PHONE),
        ("sends_per_source_per_hour", Scope.SOURCE),
        ("sends_per_host_per_minute", Scope.HOST),
        ("sends_per_country_per_day", Scope.COUNTRY),
        ("sends_per_day_in_all", Scope.FLEET),
    ],
)
def test_shared_budget_that_is_used_up_stops_texts(door: Door, option: str, scope: Scope) -> None:
    door.configure(limits={option: 2})
    door.directory.phones["bob"] = Msisdn(ALICE)  # two users, one phone
    source = "192.0.2.1" if scope is Scope.SOURCE else None  # strangers have half of what many share
    for number in range(2):
        user = ("alice", "bob")[number]
        assert door.begin(user, f"s{number}", source=source) == ASK_SENT
        assert door.check(door.code(), user, f"s{number}", source=source) == PASS
    # To alice and bob the address is a known place by now, which has a budget of its own.
    last = "unknown" if scope is Scope.SOURCE else "alice"
    refused = door.begin(last, "over", source=source)
    assert (refused.word, refused.why) == (Word.ASK, Why.THROTTLED)
    assert refused.text.startswith("No login code was texted: ")
    assert len(door.gateway.texts) == 2
    (entry,) = door.journal.find("budget")
    assert entry["reason"] == f"budget_{scope.value}"
    door.clock.move_ms(2 * 86_400_000)
    assert door.begin(last, "later", source=source) == ASK_SENT


@pytest.mark.parametrize("is_known", [True, False])
def test_address_has_a_budget_as_a_known_place_and_one_as_a_stranger(door: Door, is_known: bool) -> None:
    """That of strangers is shared with other addresses, so that ever new ones do not fill the store."""
    door.configure(limits={"sends_per_source_per_hour": 2, "send_spacing_s": 0})
    source = "192.0.2.1"
    if is_known:
        assert door.begin("alice", "s", source=source) == ASK_SENT
        assert door.check(door.code(), "alice", "s", source=source) == PASS
        door.clock.move_ms(2 * 86_400_000)
    replies = [door.begin("alice", f"s{number}", source=source).why for number in range(3)]
    assert replies == [Why.CODE_SENT, Why.CODE_SENT, Why.THROTTLED]
    keys = door.store._redis.keys("textgate:budget:source:*")
    assert len([key for key in keys if key.endswith(f"{{{source}}}")]) == is_known
    assert len([key for key in keys if "{%7E" in key]) <= 1


def test_money_is_set_aside_and_corrected_by_the_price(door: Door) -> None:
    """Set aside at 1.00 a text, of which 0.30 is then the price: after three there is 0.10 left."""
    door.configure(limits={"spend_per_day": Decimal("1.80"), "price_at_most": Decimal("1.00")})
    for number in range(3):
        assert door.begin(session=f"s{number}") == ASK_SENT
        assert door.check(door.code(), session=f"s{number}") == PASS
    refused = door.begin(session="over")
    assert refused.why is Why.THROTTLED
    (entry,) = door.journal.find("budget")
    assert (entry["reason"], entry.priority) == ("budget_money", 1)


@pytest.mark.parametrize("end", [REFUSED_CREDIT, REFUSED_AWAY])
def test_refused_text_costs_no_budget(door: Door, end: tuple[Outcome, SendReason]) -> None:
    door.configure(limits={"sends_per_day_in_all": 1, "spend_per_day": Decimal(1)})
    door.gateway.ends = [end] * 5
    for _ in range(5):
        assert door.begin() == Reply(Word.DENY, texts.NOT_SENT)
    assert door.begin() == ASK_SENT


def test_budget_used_up_is_not_charged_to_the_user(door: Door) -> None:
    door.configure(limits={"sends_per_host_per_minute": 1})
    door.begin("bob")
    for _ in range(10):
        assert door.begin().why is Why.THROTTLED
    door.clock.move_ms(2 * MINUTE_MS)
    assert door.begin() == ASK_SENT


@pytest.mark.parametrize("user", ["alice", *CANT_PASS])
def test_budget_used_up_is_told_to_everybody(door: Door, user: str) -> None:
    door.configure(limits={"sends_per_host_per_minute": 1})
    door.begin("bob")
    refused = door.begin(user)
    assert (refused.word, refused.text) == (Word.ASK, texts.budget(Scope.HOST, refused.wait_s))


def test_pretended_texts_cost_nothing_but_their_address(door: Door) -> None:
    door.configure(limits={"sends_per_day_in_all": 1, "sends_per_host_per_minute": 1, "sends_per_source_per_hour": 3})
    for number in range(3):
        assert door.begin(f"unknown-{number}", source="192.0.2.1") == ASK_SENT
    assert door.begin("unknown-4", source="192.0.2.1").why is Why.THROTTLED
    assert door.begin("alice", source="192.0.2.2") == ASK_SENT


# --- Recovery codes ---


def _give_recovery_code(door: Door, user: str) -> str:
    code = codes.new_recovery_code()
    door.verifier.new_recovery(user_key(user), [code])
    return code.reveal()


def test_recovery_code_lets_in_once(door: Door) -> None:
    code = _give_recovery_code(door, "alice")
    door.begin()
    assert door.check(code) == PASS
    assert door.check(code, session="s2").word is Word.DENY
    (entry,) = door.journal.find("check", result="pass")
    assert (entry["reason"], entry["codes_left"]) == ("recovery", "0")


@pytest.mark.parametrize("spell", [str.upper, lambda code: code.replace("-", " "), lambda code: f" {code}\n"])
def test_recovery_code_may_be_typed_as_people_do(door: Door, spell: Callable[[str], str]) -> None:
    code = _give_recovery_code(door, "alice")
    assert door.check(spell(code)) == PASS


def test_recovery_code_needs_no_phone(door: Door) -> None:
    code = _give_recovery_code(door, "nophone")
    door.begin("nophone")
    assert door.check(code, "nophone") == PASS


def test_recovery_code_lets_in_while_phones_cannot_be_read(door: Door) -> None:
    code, of_root = _give_recovery_code(door, "alice"), _give_recovery_code(door, "root")
    door.begin()
    texted = door.code()
    door.directory.is_broken = True
    assert door.check(of_root, "root") == DENY_WRONG  # refused all the same
    assert door.check(codes.new_recovery_code().reveal()) == DENY_WRONG
    with pytest.raises(DirectoryError):
        door.check(texted)
    assert door.check(code) == PASS
    assert door.check(code) == DENY_WRONG


@pytest.mark.parametrize("user", ["root", "unknown"])
def test_recovery_code_of_a_refused_user_does_not_let_in(door: Door, user: str) -> None:
    code = _give_recovery_code(door, user)
    assert door.check(code, user) == DENY_WRONG


def test_recovery_code_of_another_user_does_not_let_in(door: Door) -> None:
    code = _give_recovery_code(door, "alice")
    assert door.check(code, "bob") == DENY_WRONG
    assert door.check(code, "alice") == PASS


def test_recovery_code_is_kept_as_a_keyed_hash_for_its_purpose(door: Door, redis_server: PrivateRedis) -> None:
    code = _give_recovery_code(door, "alice")
    kept = str(redis_server.client.hgetall("textgate:{alice}:recovery"))
    bare = code.replace("-", "")
    assert code not in kept
    assert bare not in kept
    assert door.vault.tags(f"alice:{bare}", purpose=RECOVERY_PURPOSE)[0] in kept


def test_wrong_recovery_codes_lock_out(door: Door) -> None:
    right = _give_recovery_code(door, "alice")
    for _ in range(4):
        assert door.check(codes.new_recovery_code().reveal()) == DENY_WRONG
    assert door.check(codes.new_recovery_code().reveal()).text == LOCKED_5
    assert door.check(right).text == LOCKED_5


# --- When a part is away ---


def _away() -> Store:
    """A store whose Redis isn't there."""
    return Store(StoreConfig(url="unix:///nonexistent/textgate/redis.sock", timeout_s=1), connections=2)


MATRIX = [
    # [failmode] of the kind, service of the login, whether it is let in
    ("secure", "sshd", False),
    ("secure", "sudo", False),
    ("safe", "sudo", False),  # not named
    ("safe", "sshd", True),
    ("safe", "SSHD", False),  # not that one
]


@unclosed_allowed
@pytest.mark.parametrize("step", ["begin", "check", "empty"])
@pytest.mark.parametrize(("mode", "service", "is_let_in"), MATRIX)
def test_store_away_lets_in_only_where_the_failmode_says_so(
    door: Door, mode: str, service: str, is_let_in: bool, step: str
) -> None:
    door.store = _away()
    door.configure(failmode={"store": mode, "safe_services": ("sshd",)})
    steps = {
        "begin": lambda: door.begin(service=service),
        "check": lambda: door.check("123456", service=service),
        "empty": lambda: door.check("", service=service),
    }
    word = Word.SKIP if step == "begin" else Word.PASS
    assert steps[step]() == (Reply(word) if is_let_in else Reply(Word.DENY, texts.STORE_AWAY))
    opened = door.journal.find("fail_open")
    assert len(opened) == int(is_let_in)
    assert [entry.priority for entry in opened] == [1] * len(opened)
    assert bool(door.journal.find("fault")) is not is_let_in


@unclosed_allowed
def test_store_that_has_just_gone_lets_nobody_in(door: Door) -> None:
    door.store = _away()
    door.configure(failmode={"store": "safe", "safe_services": ("sshd",)})
    door.is_store_away = False  # the watch has not missed it for long enough
    assert door.begin() == Reply(Word.DENY, texts.STORE_AWAY)
    assert door.check("123456") == Reply(Word.DENY, texts.STORE_AWAY)
    assert not door.journal.find("fail_open")


@unclosed_allowed
@pytest.mark.parametrize("user", CANT_PASS)
@pytest.mark.parametrize("kind", ["store", "gateway"])
def test_who_cannot_pass_is_never_let_in_by_a_failmode(door: Door, kind: str, user: str) -> None:
    door.configure(failmode={kind: "safe", "safe_services": ("sshd",)})
    if kind == "store":
        door.store = _away()
        door.build()
    else:
        door.gateway.always = REFUSED_AWAY
        door.begin("alice")  # the pretended ones go as the last real one
        door.journal.entries.clear()
    assert door.begin(user).word is Word.DENY
    assert door.check("123456", user).word is Word.DENY
    assert door.check("", user).word is Word.DENY
    assert not door.journal.find("fail_open")


@pytest.mark.parametrize(("mode", "service", "is_let_in"), MATRIX)
def test_gateway_away_at_begin_lets_in_only_where_the_failmode_says_so(
    door: Door, mode: str, service: str, is_let_in: bool
) -> None:
    door.configure(failmode={"gateway": mode, "safe_services": ("sshd",)})
    door.gateway.always = REFUSED_AWAY
    assert door.begin(service=service) == (SKIP if is_let_in else Reply(Word.DENY, texts.NOT_SENT))
    assert len(door.journal.find("fail_open")) == int(is_let_in)


@pytest.mark.parametrize("end", [REFUSED_AWAY, UNKNOWN_AWAY])
@pytest.mark.parametrize(("mode", "service", "is_let_in"), MATRIX)
def test_gateway_away_after_the_wait_lets_in_at_the_check_only_where_the_failmode_says_so(
    door: Door, mode: str, service: str, is_let_in: bool, end: tuple[Outcome, SendReason]
) -> None:
    door.configure(failmode={"gateway": mode, "safe_services": ("sshd",)}, gateway={"send_wait_s": 0.0})
    held = HeldSender()
    door.use(held)
    door.gateway.always = end
    assert door.begin(service=service) == Reply(Word.ASK, texts.ON_ITS_WAY)
    held.release()
    reply = door.check(door.wrong(), service=service)
    words = texts.NOT_SENT if end[0] is Outcome.REFUSED else texts.WRONG
    assert reply == (PASS if is_let_in else Reply(Word.DENY, words))
    assert len(door.journal.find("fail_open")) == int(is_let_in)


def test_gateway_away_lets_in_once_for_each_text(door: Door) -> None:
    door.configure(failmode={"gateway": "safe", "safe_services": ("sshd",)}, gateway={"send_wait_s": 0.0})
    held = HeldSender()
    door.use(held)
    door.gateway.always = UNKNOWN_AWAY
    door.begin()
    held.release()
    assert door.check("123456") == PASS
    assert door.check("123456").word is Word.DENY


def test_gateway_away_for_long_does_not_lock_out_who_is_let_in(door: Door) -> None:
    door.configure(failmode={"gateway": "safe", "safe_services": ("sshd",)}, gateway={"send_wait_s": 0.0})
    held = HeldSender()
    door.use(held)
    door.gateway.always = REFUSED_AWAY
    for number in range(25):
        assert door.begin(session=f"s{number}") == Reply(Word.ASK, texts.ON_ITS_WAY)
        held.release()
        assert door.check("none came", session=f"s{number}") == PASS


def test_gateway_away_does_not_open_a_locked_door(door: Door) -> None:
    door.configure(codes={"life_s": 600})
    door.configure(failmode={"gateway": "safe", "safe_services": ("sshd",)}, gateway={"send_wait_s": 0.0})
    held = HeldSender()
    door.use(held)
    door.gateway.always = UNKNOWN_AWAY
    door.begin(session="good")
    held.release()
    door.clock.move_ms(MINUTE_MS)
    door.use(DirectSender())
    door.configure(gateway={"send_wait_s": 2.0})
    door.gateway.always = SENT
    _lock(door)
    assert door.check("123456", session="good").text == LOCKED_4


@pytest.mark.parametrize("comes_between", ["a lockout", "another check", "a new text"])
def test_gateway_away_lets_nobody_in_by_a_text_that_is_over(
    door: Door, monkeypatch: pytest.MonkeyPatch, comes_between: str
) -> None:
    door.configure(codes={"life_s": 600})
    door.configure(failmode={"gateway": "safe", "safe_services": ("sshd",)}, gateway={"send_wait_s": 0.0})
    held = HeldSender()
    door.use(held)
    door.gateway.always = UNKNOWN_AWAY
    door.begin(session="s1")
    held.release()
    door.clock.move_ms(MINUTE_MS)
    door.use(DirectSender())
    door.configure(gateway={"send_wait_s": 2.0})
    door.gateway.always = SENT
    steps: dict[str, Callable[[], object]] = {
        "a lockout": lambda: _lock(door),
        "another check": lambda: door.check("none came", session="s1"),
        "a new text": lambda: door.check("", session="s1"),
    }
    _just_before_consume(door, monkeypatch, steps[comes_between])
    assert door.check("none came", session="s1").word is Word.DENY
    assert len(door.journal.find("fail_open")) == int(comes_between == "another check")


# The positive list; test_failmode_table.py has what each error becomes.
AWAY = (SendReason.UNREACHABLE, SendReason.SERVER_ERROR)


@pytest.mark.parametrize("reason", AWAY)
@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.UNKNOWN])
def test_gateway_is_away_in_whichever_way_it_is(door: Door, outcome: Outcome, reason: SendReason) -> None:
    door.configure(failmode={"gateway": "safe", "safe_services": ("sshd",)})
    door.gateway.always = (outcome, reason)
    begun = door.begin()
    assert begun == (SKIP if outcome is Outcome.REFUSED else Reply(Word.ASK, texts.ON_ITS_WAY))
    assert begun == SKIP or door.check("none came") == PASS


@pytest.mark.parametrize("reason", [reason for reason in SendReason if reason not in AWAY])
@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.UNKNOWN])
def test_end_that_somebody_could_bring_about_opens_no_door(door: Door, outcome: Outcome, reason: SendReason) -> None:
    door.configure(failmode={"gateway": "safe", "safe_services": ("sshd",)})
    door.gateway.always = (outcome, reason)
    assert door.begin().word is not Word.SKIP
    assert door.check("123456").word is Word.DENY
    assert f"{outcome.value}:{reason.value}" not in AWAY_STATES


def test_used_up_budget_opens_no_door(door: Door) -> None:
    door.configure(
        failmode={"gateway": "safe", "store": "safe", "safe_services": ("sshd",)},
        limits={"sends_per_day_in_all": 1},
    )
    door.begin("bob")
    assert door.begin().word is Word.ASK
    assert door.check("123456").word is Word.DENY


def test_too_many_texts_waiting_opens_no_door(door: Door) -> None:
    door.configure(failmode={"gateway": "safe", "store": "safe", "safe_services": ("sshd",)})
    door.use(FullSender())
    assert door.begin() == Reply(Word.DENY, texts.BUSY)
    assert door.check("123456").word is Word.DENY


def test_fail_open_is_an_alert_with_user_service_and_cause(door: Door) -> None:
    door.configure(failmode={"gateway": "safe", "safe_services": ("sshd",)})
    door.gateway.always = REFUSED_AWAY
    door.begin()
    (alert,) = door.journal.find("fail_open")
    assert alert in door.journal.alerts
    assert (alert["user"], alert["service"], alert["reason"]) == ("alice", "sshd", "gateway_failmode")
    assert alert["cause"] == "unreachable"


def test_text_that_goes_out_again_ends_the_failmode(door: Door) -> None:
    door.configure(failmode={"gateway": "safe", "safe_services": ("sshd",)})
    door.gateway.ends = [REFUSED_AWAY]
    assert door.begin() == SKIP
    assert door.begin(session="s2") == ASK_SENT
    assert door.check(door.wrong(), session="s2") == DENY_WRONG


# --- Nothing leaks ---


@pytest.mark.parametrize("end", [SENT, REFUSED_AWAY, UNKNOWN_AWAY])
def test_no_code_secret_or_number_gets_into_the_journal(
    door: Door, redis_server: PrivateRedis, end: tuple[Outcome, SendReason]
) -> None:
    door.gateway.always = end
    door.begin(source="192.0.2.1")
    door.check(door.wrong(), source="192.0.2.1")
    typed = "918273"
    door.check(typed, source="192.0.2.1")
    door.check(door.code(), source="192.0.2.1")
    journal = door.journal.text()
    sealed = redis_server.client.hget("textgate:{alice}:hotp", "secret")
    for secret in (*door.gateway.codes_to(ALICE), typed, ALICE, sealed, *door.key_lines):
        assert secret not in journal
    assert "•• 56" in journal


def test_no_code_or_number_gets_into_redis(door: Door, redis_server: PrivateRedis) -> None:
    door.begin()
    held = []
    for key in redis_server.client.scan_iter():
        kind = redis_server.client.type(key)
        read = {"hash": redis_server.client.hgetall, "string": redis_server.client.get}
        held.append(f"{key} {read[kind](key) if kind in read else redis_server.client.zrange(key, 0, -1)}")
    everything = " ".join(held)
    assert door.code() not in everything
    assert ALICE not in everything
