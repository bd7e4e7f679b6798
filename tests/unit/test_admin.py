# SPDX-License-Identifier: MIT
"""The admin socket's lines: the verb table, who may call what, and what junk gets."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fakes import FakeGateway, Journal
from textgate import admin, admin_desk
from textgate.admin import LINE_MAX_BYTES, VERBS, parse_line
from textgate.admin_desk import REQUESTS_MAX, AdminDesk
from textgate.audit_digest import Digest
from textgate.config import Config, LimitsConfig
from textgate.counts import Counts
from textgate.errors import ProtocolError, StoreUnavailable, TextgateError, VaultError
from textgate.gateway_outcomes import Credit, Outcome, SendReason
from textgate.peercred import PeerCred
from textgate.protocol import Reply, Why, Word
from textgate.seen import Seen
from textgate.store import StoreHealth

WITHIN_S = 20.0
HEALTH = StoreHealth(version="7.0.15", is_durable=True, used_memory_bytes=1000)

# Written down a second time: who may call what is a promise.
MAY_CALL = {
    "status": ({"fresh"}, "group"),
    "unlock": ({"user"}, "group"),
    "send-test": ({"number"}, "root"),
    "prove-begin": ({"user", "number"}, "root"),
    "prove-check": ({"user", "number", "session_id", "code"}, "root"),
    "last-pass": ({"service"}, "root"),
    "recovery": ({"user"}, "root"),
    "reload": (set(), "root"),
    "forget": ({"user"}, "root"),
    "reseal": (set(), "root"),
}


class Verifier:
    """Answers as told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.reply = Reply(Word.ASK, "A login code was texted to your phone.", Why.CODE_SENT)
        self.attempts: list[Any] = []

    def canonical_user(self, user: str) -> str | None:
        return {"alice": "alice", "ALICE": "alice"}.get(user)

    def is_allowed_country(self, phone: Any) -> bool:
        return bool(phone.country == "DK")

    def begin_attempt(self, attempt: Any) -> Reply:
        self.attempts.append(attempt)
        return self.reply

    def check_attempt(self, attempt: Any, code: Any) -> Reply:
        self.attempts.append((attempt, code))
        return self.reply


class Store:
    def __init__(self) -> None:
        self.error: Exception | None = None
        self.unlocked: list[tuple[str, bool]] = []

    def health(self) -> StoreHealth:
        if self.error:
            raise self.error
        return HEALTH

    def unlock(self, user_key: str, *, is_day_forgotten: bool) -> None:
        if self.error:
            raise self.error
        self.unlocked.append((user_key, is_day_forgotten))


class Desk:
    """The admin side of a daemon, with one connection of a peer of this uid."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, uid: int = 0) -> None:
        self.journal, self.counts = Journal(), Counts()
        self.verifier, self.store, self.gateway = Verifier(), Store(), FakeGateway()
        self.reload_error: Exception | None = None
        config = Config(path="/etc/test.toml", limits=LimitsConfig(allowed_countries=("DK",)))
        self.seen = SimpleNamespace(seen=Seen())
        services: Any = SimpleNamespace(
            config=config,
            verifier=self.verifier,
            store=self.store,
            gateway=self.gateway,
            vault=SimpleNamespace(current_key="k1"),
            history=self.seen,
        )
        monkeypatch.setattr(admin_desk, "peer_credentials", lambda _connection: PeerCred(1, uid, 1000))
        audit = self.journal.audit
        self.digest = Digest(audit, lambda _wait_s, _job: None)
        self.daemon = admin.Daemon(lambda: services, self.counts, audit, self.digest, self._reload)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(b"\0textgate-test-%d" % id(self))
        listener.listen()
        listener.setblocking(False)
        self.near = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.near.settimeout(WITHIN_S)
        self.near.connect(listener.getsockname())
        self.lines = self.near.makefile("rb")
        self.desk = AdminDesk(listener, self.daemon)
        self.desk.start()

    def _reload(self) -> None:
        if self.reload_error:
            raise self.reload_error

    def raw(self, data: bytes) -> dict[str, Any]:
        self.near.sendall(data)
        return json.loads(self.lines.readline())  # type: ignore[no-any-return]

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        return self.raw(json.dumps({"v": 1, "verb": verb, **arguments}).encode() + b"\n")

    def has_ended(self) -> bool:
        return self.lines.readline() == b""

    def close(self) -> None:
        self.lines.close()
        self.near.close()
        self.desk.close()


@pytest.fixture
def desk_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Desk]]:
    desks: list[Desk] = []

    def make(uid: int) -> Desk:
        desks.append(Desk(monkeypatch, uid))
        return desks[-1]

    yield make
    for desk in desks:
        desk.close()


@pytest.fixture
def desk(desk_of: Callable[[int], Desk]) -> Desk:
    """Root's."""
    return desk_of(0)


# --- The table ---


def test_verbs_are_those_of_the_manual() -> None:
    table = {word: (set(verb.arguments), "root" if verb.is_root_only else "group") for word, verb in VERBS.items()}
    assert table == MAY_CALL


@pytest.mark.parametrize("verb", sorted(word for word, (_, who) in MAY_CALL.items() if who == "root"))
@pytest.mark.parametrize("uid", [1, 1000, 65534, 4294967295])
def test_verb_for_root_is_forbidden_to_others(desk_of: Callable[[int], Desk], verb: str, uid: int) -> None:
    desk = desk_of(uid)
    answer = desk.ask(verb, **dict.fromkeys(MAY_CALL[verb][0], "x"))
    assert answer["ok"] is False
    assert answer["error"] == {"kind": "forbidden", "message": f"{verb} is for root", "hint": "run it with sudo"}
    (refused,) = desk.journal.find("admin")
    assert (refused["verb"], refused["uid"], refused["reason"]) == (verb, str(uid), "not_root")
    assert desk.verifier.attempts == []
    assert desk.gateway.texts == []


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("verb", ["status", "unlock"])
def test_admin_group_may_call_the_other_verbs(desk_of: Callable[[int], Desk], verb: str, uid: int) -> None:
    desk = desk_of(uid)
    assert desk.ask(verb, **dict.fromkeys(MAY_CALL[verb][0] - {"fresh"}, "alice"))["ok"] is True
    noted = desk.journal.find("admin", verb=verb, uid=str(uid), result="ok")
    assert len(noted) == (0 if verb == "status" else 1)


# --- Lines ---


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\n", "not_json"),
        (b"status\n", "not_json"),
        (b'{"v": 1, "verb": "status"\n', "not_json"),
        (b'{"v": 1, "verb": "status"} {}\n', "not_json"),
        (b"\xff\n", "not_json"),
        (b"[" * 8000 + b"\n", "not_json"),
        (b"9" * 8000 + b"\n", "not_json"),  # more digits than Python turns into a number
        (b"[]\n", "version"),
        (b'"status"\n', "version"),
        (b"null\n", "version"),
        (b"{}\n", "version"),
        (b'{"verb": "status"}\n', "version"),
        (b'{"v": 2, "verb": "status"}\n', "version"),
        (b'{"v": "1", "verb": "status"}\n', "version"),
        (b'{"v": 1}\n', "verb"),
        (b'{"v": 1, "verb": "STATUS"}\n', "verb"),
        (b'{"v": 1, "verb": "__class__"}\n', "verb"),
        (b'{"v": 1, "verb": ["status"]}\n', "verb"),
        (b'{"v": 1, "verb": {}}\n', "verb"),
        (b'{"v": 1, "verb": "status", "user": "x"}\n', "arguments"),
        (b'{"v": 1, "verb": "unlock", "user": "x", "uid": 0}\n', "arguments"),
        (b'{"v": 1, "verb": "status"}', "too_long"),  # cut off: no line feed
        (b'{"v": 1, "verb": "status", "x": "' + b"x" * LINE_MAX_BYTES + b'"}\n', "too_long"),
    ],
)
def test_line_that_breaks_a_rule_has_a_reason(line: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_line(line)
    assert caught.value.reason == reason


def test_line_may_have_exactly_the_longest_size() -> None:
    head = b'{"v": 1, "verb": "unlock", "user": "'
    line = head + b"x" * (LINE_MAX_BYTES - len(head) - 3) + b'"}\n'
    assert len(line) == LINE_MAX_BYTES
    assert parse_line(line)[0] == "unlock"
    with pytest.raises(ProtocolError):
        parse_line(b" " + line)


@given(st.binary())
@example(b'{"v": 1, "verb": "status", "v": 1}')
def test_line_is_a_verb_or_a_protocol_error(junk: bytes) -> None:
    for line in (junk, junk + b"\n", b'{"v": 1, "verb": "unlock", "user": ' + junk + b"}\n"):
        try:
            word, arguments = parse_line(line)
        except ProtocolError:
            continue
        assert set(arguments) <= VERBS[word].arguments


def test_broken_line_is_answered_and_ends_the_connection(desk: Desk) -> None:
    answer = desk.raw(b"junk\n")
    assert answer["error"]["kind"] == "protocol"
    assert answer["error"]["hint"] == "is textgate of the same version as textgated?"
    assert desk.has_ended()
    assert desk.journal.find("protocol", reason="not_json")


def test_endless_line_is_answered_and_ends_the_connection(desk: Desk) -> None:
    assert desk.raw(b"x" * (LINE_MAX_BYTES + 1))["error"]["message"] == "request refused: too_long"
    assert desk.has_ended()


def test_several_requests_go_over_one_connection(desk: Desk) -> None:
    for _ in range(5):
        assert desk.ask("status")["ok"] is True
    assert desk.ask("unlock", user="nobody")["error"]["kind"] == "refused"  # a refusal doesn't end it
    assert desk.ask("status")["ok"] is True


def test_connection_ends_after_its_number_of_requests(desk: Desk) -> None:
    for _ in range(REQUESTS_MAX):
        assert desk.ask("unlock", user="alice")["ok"] is True
    assert desk.has_ended()


def test_silent_connection_ends(monkeypatch: pytest.MonkeyPatch, desk_of: Callable[[int], Desk]) -> None:
    monkeypatch.setattr(admin_desk, "IDLE_TIMEOUT_S", 0.05)
    assert desk_of(0).has_ended()


def test_answer_has_the_version(desk: Desk) -> None:
    assert desk.ask("status")["v"] == 1
    assert desk.raw(b"junk\n")["v"] == 1


# --- Arguments ---


@pytest.mark.parametrize("value", [None, 1, "", [], {}, True, "x" * 257, "\ud800", "a\udfffb"])
def test_argument_that_is_no_text_is_a_protocol_error(desk: Desk, value: object) -> None:
    answer = desk.ask("unlock", user=value)
    assert answer["error"]["message"] == "request refused: argument_user"
    assert desk.has_ended()


def test_missing_argument_is_a_protocol_error(desk: Desk) -> None:
    assert desk.ask("prove-check", user="alice", number="+4520123456", code="1")["error"]["message"] == (
        "request refused: argument_session_id"
    )


# --- What the verbs do ---


def test_status_shows_everything(desk: Desk) -> None:
    desk.counts.add("reply_pass")
    desk.counts.add("reply_pass")
    result = desk.ask("status")["result"]
    assert result["config"] == "/etc/test.toml"
    assert result["counts"] == {"reply_pass": 2}
    noticed = {"noticed": None, "noticed_at": None}
    health = {"version": "7.0.15", "is_durable": True, "used_memory_bytes": 1000}
    assert result["store"] == {"is_up": True, **health, **noticed}
    assert result["gateway"] == {
        "is_up": True,
        "reason": "accepted",
        "credit": "25.00",
        "currency": "DKK",
        "credit_age_s": 0,
        "clock_skew_s": 0.0,
    }


def test_status_tells_what_is_away(desk: Desk) -> None:
    desk.store.error = StoreUnavailable("redis: ConnectionError")
    desk.gateway.amount = None
    result = desk.ask("status")["result"]
    noticed = {"noticed": None, "noticed_at": None}
    assert result["store"] == {"is_up": False, "error": "redis: ConnectionError", **noticed}
    assert (result["gateway"]["is_up"], result["gateway"]["reason"]) == (False, "unreachable")


def test_status_tells_that_the_store_went_back(desk: Desk) -> None:
    desk.seen.seen = Seen("id", 2, 9, 9, noticed="older", noticed_at_s=1_700_000_000)
    result = desk.ask("status")["result"]
    assert (result["store"]["noticed"], result["store"]["noticed_at"]) == ("older", 1_700_000_000)


def test_status_does_not_call_an_api_down_that_cannot_be_asked(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk.gateway, "credit", lambda: Credit(SendReason.UNSUPPORTED))
    assert desk.ask("status")["result"]["gateway"]["is_up"] is None


def test_unlock_goes_by_the_canonical_name(desk: Desk) -> None:
    assert desk.ask("unlock", user="ALICE")["result"] == {"user": "alice", "is_day_forgotten": True}
    assert desk.store.unlocked == [("alice", True)]
    assert desk.journal.find("admin", user="alice", uid="0")


def test_unlock_while_redis_is_away_says_so(desk: Desk) -> None:
    desk.store.error = StoreUnavailable("redis: TimeoutError")
    assert desk.ask("unlock", user="alice")["error"] == {
        "kind": "store_away",
        "message": "redis: TimeoutError",
        "hint": None,
    }


def test_send_test_texts_a_sentence_without_a_code(desk: Desk) -> None:
    result = desk.ask("send-test", number="+45 20 12 34 56")["result"]
    (text,) = desk.gateway.texts
    assert text.msisdn == "4520123456"
    assert text.text.startswith("This is a test of login codes on ")
    assert not any(character.isdigit() for character in text.text.partition(" on ")[0])
    assert (result["outcome"], result["phone"], result["cost"], result["currency"]) == (
        "sent",
        "•• 56",
        "0.30",
        "DKK",
    )
    assert result["is_known_number"] is True
    assert "4520123456" not in desk.journal.text()


def test_send_test_of_unknown_end_is_told(desk: Desk) -> None:
    desk.gateway.always = (Outcome.UNKNOWN, SendReason.TIMEOUT)
    result = desk.ask("send-test", number="+4520123456")["result"]
    assert (result["outcome"], result["reason"]) == ("unknown", "timeout")


def test_send_test_that_was_refused_is_a_refusal(desk: Desk) -> None:
    desk.gateway.always = (Outcome.REFUSED, SendReason.CREDIT)
    error = desk.ask("send-test", number="+4520123456")["error"]
    assert (error["kind"], error["message"]) == ("refused", "the gateway did not send it: credit")


@pytest.mark.parametrize(
    ("number", "kind"), [("+46701234567", "refused"), ("20123456", "usage"), ("+45 2012 345x", "usage")]
)
def test_send_test_to_what_cannot_be_texted_is_refused(desk: Desk, number: str, kind: str) -> None:
    error = desk.ask("send-test", number=number)["error"]
    assert error["kind"] == kind
    assert number not in error["message"]
    assert desk.gateway.texts == []


def test_prove_begin_opens_an_attempt_of_its_own_session(desk: Desk) -> None:
    first = desk.ask("prove-begin", user="ALICE", number="+4520123456")["result"]
    second = desk.ask("prove-begin", user="alice", number="+4520123456")["result"]
    assert first["session_id"] != second["session_id"]
    assert (first["user"], first["phone"]) == ("alice", "•• 56")
    for attempt, result in zip(desk.verifier.attempts, (first, second), strict=True):
        assert attempt.session_id == f"prove-{result['session_id']}"
        assert (attempt.user, attempt.user_key, attempt.phone.reveal()) == ("alice", "alice", "4520123456")
        assert (attempt.may_recover, attempt.has_failmode) == (False, False)  # only the texted code proves a number


@pytest.mark.parametrize(
    "reply",
    [
        Reply(Word.DENY, "The login code could not be texted.", Why.NOT_SENT),
        Reply(Word.ASK, "No login code was texted.", Why.THROTTLED),
        Reply(Word.SKIP, "", Why.FAILED_OPEN),
        Reply(Word.DENY, "Too many wrong codes.", Why.LOCKED),
    ],
    ids=lambda reply: reply.why.value,
)
def test_prove_begin_without_a_text_is_a_refusal(desk: Desk, reply: Reply) -> None:
    desk.verifier.reply = reply
    error = desk.ask("prove-begin", user="alice", number="+4520123456")["error"]
    assert (error["kind"], error["message"]) == ("refused", reply.text.rstrip("."))


@pytest.mark.parametrize(
    ("reply", "is_proved"),
    [
        (Reply(Word.PASS), True),
        (Reply(Word.DENY, "That code is not right."), False),
        (Reply(Word.SKIP), False),  # a word of the other step proves nothing
        (Reply(Word.ASK), False),
    ],
)
def test_prove_check_takes_only_a_pass(desk: Desk, reply: Reply, is_proved: bool) -> None:
    desk.verifier.reply = reply
    result = desk.ask("prove-check", user="alice", number="+4520123456", session_id="abc", code="123456")["result"]
    assert result == {"is_proved": is_proved, "text": reply.text}
    ((attempt, code),) = desk.verifier.attempts
    assert (attempt.session_id, code.reveal()) == ("prove-abc", "123456")
    assert "123456" not in desk.journal.text()


def test_reload_tells_the_caller_what_is_at_fault(desk: Desk) -> None:
    assert desk.ask("reload")["result"] == {"current_key": "k1"}
    desk.reload_error = TextgateError("x.toml: [codes] digits: must be a whole number", hint="mend it")
    error = desk.ask("reload")["error"]
    assert (error["kind"], error["hint"]) == ("failed", "mend it")
    assert "[codes] digits" in error["message"]


def test_error_of_ours_is_an_answer_with_its_hint(desk: Desk) -> None:
    desk.store.error = VaultError("a sealed record needs a key", hint="put the old key back into it")
    error = desk.ask("unlock", user="alice")["error"]
    assert (error["kind"], error["hint"]) == ("failed", "put the old key back into it")


def test_counts_are_kept_over_threads() -> None:
    counts = Counts()

    def count() -> None:
        for _ in range(1000):
            counts.add("x")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN_S)
    assert counts.read() == {"x": 4000}
