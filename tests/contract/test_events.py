# SPDX-License-Identifier: MIT
"""One decision, one event: what the journal says of each, in one table (verifier), and of requests and commands.

A text that goes out has an event of its own ("send"), whatever becomes of the login that asked for it.
"""

from __future__ import annotations

import json
import re
import select
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fakes import Entry, FakeGateway, FullSender, HeldSender, Journal
from private_redis import PrivateRedis
from textgate import admin, admin_desk, server
from textgate.audit import Event, Priority
from textgate.config import Config, DaemonConfig
from textgate.errors import MsisdnError, RefusedError, StoreUnavailable, TextgateError
from textgate.gateway_outcomes import Outcome, SendReason
from textgate.peercred import PeerCred
from textgate.protocol import Reply, Why, Word
from textgate.secret import Secret
from textgate.seen import Seen
from textgate.verifier import user_key
from textgate.wiring import Services

from .test_verifier import ALICE, Door, unclosed_allowed

Act = Callable[[Door], object]
REFUSED_CREDIT = (Outcome.REFUSED, SendReason.CREDIT)
REFUSED_AWAY = (Outcome.REFUSED, SendReason.UNREACHABLE)
RECOVERY = Secret("abcdefghjkmn")


@pytest.fixture
def door(redis_server: PrivateRedis) -> Iterator[Door]:
    door = Door(redis_server.url)
    yield door
    door.alarms.close()
    door.store.close()


@dataclass(frozen=True)
class Case:
    """What was before, what is done, and the one event that it gives: kind, result, reason, priority."""

    name: str
    before: Act
    action: Act
    kind: str
    result: str
    reason: str
    priority: Priority = Priority.INFO
    text_count: int = 0


def NOTHING(_door: Door) -> None:
    """No past."""


def _begin(user: str = "alice", session: str = "s1") -> Act:
    return lambda door: door.begin(user, session)


def _check(typed: str | Callable[[Door], str], user: str = "alice", session: str = "s1") -> Act:
    return lambda door: door.check(typed if isinstance(typed, str) else typed(door), user, session)


def _all(*acts: Act) -> Act:
    return lambda door: [act(door) for act in acts]


def _gateway(end: tuple[Outcome, SendReason]) -> Act:
    return lambda door: setattr(door.gateway, "always", end)


def _limit(**limits: object) -> Act:
    return lambda door: door.configure(limits=limits)


def _locked(door: Door) -> None:
    for session in ("s1", "s2"):
        door.clock.move_ms(60_000)
        door.begin(session=session)
        for _ in range(3):
            door.check(door.wrong(), session=session)


def _one_wrong_before_lockout(door: Door) -> None:
    door.configure(limits={"wrong_in_a_row": 1})
    door.begin()


def _recovery(door: Door) -> None:
    door.verifier.new_recovery(user_key("alice"), [RECOVERY])
    door.begin()


def _failmode(**kinds: str) -> Act:
    return lambda door: door.configure(failmode={"safe_services": ("sshd",), **kinds})


def _use(make: Callable[[], Any]) -> Act:
    return lambda door: door.use(make())


def _right(door: Door) -> str:
    return door.code()


def _wrong(door: Door) -> str:
    return door.wrong()


CASES = [
    Case("needs no code", NOTHING, _begin("exempt"), "begin", "skip", "exempt_user"),
    Case("code texted", NOTHING, _begin(), "begin", "ask", "required", text_count=1),
    Case("code is live", _begin(), _begin(), "begin", "ask", "live"),
    Case("unknown user", NOTHING, _begin("unknown"), "begin", "ask", "unknown_user"),
    Case("refused user", NOTHING, _begin("root"), "begin", "ask", "refused_user"),
    Case("no phone", NOTHING, _begin("nophone"), "begin", "ask", "no_phone"),
    Case("other country", NOTHING, _begin("carol"), "begin", "ask", "country_not_allowed"),
    Case("too soon", _begin(), _begin(session="s2"), "begin", "ask", "throttled_spacing", Priority.NOTICE),
    Case("locked out", _locked, _begin(session="s9"), "begin", "deny", "locked"),
    Case(
        "budget of the phone", _all(_limit(sends_per_phone_per_day=1, send_spacing_s=0), _begin()),
        _begin(session="s2"), "budget", "ask", "budget_phone", Priority.WARNING,
    ),
    Case(
        "budget of all", _all(_limit(sends_per_day_in_all=1, send_spacing_s=0), _begin()),
        _begin(session="s2"), "budget", "ask", "budget_fleet", Priority.ALERT,
    ),
    Case("too many texts waiting", _use(FullSender), _begin(), "overload", "deny", "", Priority.ERROR),
    Case("gateway is slow", _all(_use(HeldSender), lambda door: door.configure(gateway={"send_wait_s": 0.0})),
         _begin(), "begin", "ask", "send_pending"),
    Case("no credit", _gateway(REFUSED_CREDIT), _begin(), "begin", "deny", "credit", text_count=1),
    Case("no credit, unknown user", _all(_gateway(REFUSED_CREDIT), _begin()), _begin("unknown"),
         "begin", "deny", "unknown_user"),
    Case("gateway away", _gateway(REFUSED_AWAY), _begin(), "fault", "deny", "gateway_away", Priority.ERROR, 1),
    Case("gateway away, failmode", _all(_failmode(gateway="safe"), _gateway(REFUSED_AWAY)), _begin(),
         "fail_open", "pass", "gateway_failmode", Priority.ALERT, 1),
    Case("right code", _begin(), _check(_right), "check", "pass", "code"),
    Case("wrong code", _begin(), _check(_wrong), "check", "deny", "wrong", Priority.NOTICE),
    Case("junk", _begin(), _check("\x1b[2J"), "check", "deny", "wrong", Priority.NOTICE),
    Case("no tries left", _all(_begin(), *3 * [_check(_wrong)]), _check(_wrong),
         "check", "deny", "spent", Priority.NOTICE),
    Case("no code waiting", NOTHING, _check("123456"), "check", "deny", "none", Priority.NOTICE),
    Case("code used before", _all(_begin(), _check(_right)), _check(_right), "check", "deny", "none",
         Priority.NOTICE),
    Case("code of another session", _begin(), _check(_right, session="s2"), "check", "deny", "none",
         Priority.NOTICE),
    Case("code expired", _all(_begin(), lambda door: door.clock.move_ms(300_001)), _check(_right),
         "check", "deny", "none", Priority.NOTICE),
    Case("wrong code that locks out", _one_wrong_before_lockout, _check(_wrong),
         "lockout", "deny", "locked", Priority.WARNING),
    Case("right code in a lockout", _locked, _check(_right, session="s2"),
         "lockout", "deny", "locked", Priority.WARNING),
    Case("no phone, checked", _begin("nophone"), _check("123456", "nophone"), "check", "deny", "no_phone",
         Priority.NOTICE),
    Case("unknown user, checked", _begin("unknown"), _check("123456", "unknown"), "check", "deny", "unknown_user",
         Priority.NOTICE),
    Case("recovery code", _recovery, _check(RECOVERY.reveal()), "check", "pass", "recovery", Priority.NOTICE),
    Case("wrong recovery code", _begin(), _check("abcd-efgh-jkmn"), "check", "deny", "wrong", Priority.NOTICE),
    Case("new text", _all(_begin(), lambda door: door.clock.move_ms(60_000)), _check(""),
         "begin", "ask", "required", text_count=1),
    Case("new text too soon", _begin(), _check(""), "begin", "ask", "throttled_spacing", Priority.NOTICE),
    Case("new text in a lockout", _locked, _check("", session="s2"), "begin", "deny", "locked"),
    Case("failmode at the check", _all(_failmode(gateway="safe"),
         lambda door: door.configure(gateway={"send_wait_s": 0.0}), _use(HeldSender), _begin(),
         _gateway(REFUSED_AWAY), lambda door: door.sender.release()), _check("000000"),
         "fail_open", "pass", "gateway_failmode", Priority.ALERT),
]  # fmt: skip
AWAY_CASES = [
    Case("store away at the begin", NOTHING, _begin(), "fault", "deny", "store_away", Priority.ERROR),
    Case("store away at the check", NOTHING, _check("123456"), "fault", "deny", "store_away", Priority.ERROR),
    Case("store away, failmode", _failmode(store="safe"), _begin(), "fail_open", "pass", "store_failmode",
         Priority.ALERT),
    Case("store away, failmode, checked", _failmode(store="safe"), _check("1"), "fail_open", "pass",
         "store_failmode", Priority.ALERT),
    Case("store away, failmode, unknown user", _failmode(store="safe"), _begin("unknown"), "fault", "deny",
         "store_away", Priority.ERROR),
]  # fmt: skip


def _one_event(case: Case, door: Door) -> Entry:
    """Play a case; answers the one event beside those of texts."""
    case.before(door)
    door.journal.entries.clear()
    case.action(door)
    texts = door.journal.find("send")
    assert len(texts) == case.text_count
    (decision,) = [entry for entry in door.journal.entries if entry not in texts]
    assert (decision["event"], decision["result"], decision["reason"], decision.priority) == (
        case.kind, case.result, case.reason, case.priority,
    )  # fmt: skip
    return decision


def _is_in_form(entry: Entry) -> None:
    """Every field that a reader of the journal counts on; nothing that may not be there."""
    assert entry.fields["MESSAGE_ID"] == Event[entry["event"].upper()].value
    assert entry.fields["SYSLOG_IDENTIFIER"] == "textgated"
    assert entry["user"] and entry["service"] == "sshd"
    assert re.fullmatch(r"(•• \d\d)?", entry["phone"])
    assert not re.search(r"\d{6}", entry.message.replace(entry["message_ids"] or "-", ""))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_decision_gives_exactly_one_event(door: Door, case: Case) -> None:
    entry = _one_event(case, door)
    _is_in_form(entry)
    may_have_phone = entry["user"] == "alice"
    assert (entry["phone"] == f"•• {ALICE[-2:]}") is may_have_phone


@unclosed_allowed
@pytest.mark.parametrize("case", AWAY_CASES, ids=lambda case: case.name)
def test_decision_without_a_store_gives_exactly_one_event(door: Door, redis_server: PrivateRedis, case: Case) -> None:
    redis_server.stop()
    _is_in_form(_one_event(case, door))


def test_table_has_every_reason_that_the_steps_can_give() -> None:
    """Kinds of events, and results: none is forgotten."""
    cases = [*CASES, *AWAY_CASES]
    assert {case.kind for case in cases} == {"begin", "check", "lockout", "fail_open", "fault", "overload", "budget"}
    assert {case.result for case in cases} == {"skip", "ask", "deny", "pass"}


# --- Requests that never get as far as the verifier. ---

GOOD = {"PAM_USER": "root", "PAM_SERVICE": "sshd", "PAM_TYPE": "auth", "PPID": "1", "PPID_START": "1"}


def _request(verb: str = "begin", **changes: str | None) -> bytes:
    fields = {name: value for name, value in (GOOD | changes).items() if value is not None}
    return "\0".join([f"textgate/1 {verb}", *(f"{name}={value}" for name, value in fields.items())]).encode()


PROTOCOL_CASES = [
    ("too_long", b"x" * 65537),
    ("not_utf8", b"\xff"),
    ("version", b"textgate/2 begin"),
    ("verb", b"textgate/1 end"),
    ("field_form", _request() + b"\0x"),
    ("field_unknown", _request() + b"\0X=1"),
    ("field_twice", _request() + b"\0PPID=1"),
    ("code_missing", _request("check")),
    ("code_unexpected", _request(CODE="1")),
    ("pam_type", _request(PAM_TYPE="account")),
    ("no_user", _request(PAM_USER=None)),
    ("no_service", _request(PAM_SERVICE=None)),
    ("no_ppid", _request(PPID=None)),
    ("no_ppid_start", _request(PPID_START=None)),
    ("bad_service", _request(PAM_SERVICE="../shadow")),
    ("bad_ppid", _request(PPID="-1")),
    ("bad_ppid_start", _request(PPID_START="x")),
]


class Desk:
    """The daemon's own side of both sockets, in this process."""

    def __init__(self, folder: Path, services: Any) -> None:
        self.journal = Journal()
        listeners = server.Listeners(_listener(folder / "auth"), _listener(folder / "admin"), is_passed=True)
        config = DaemonConfig(workers=2, queue=2, read_timeout_s=0.2)
        self.server = server.Server(config, listeners, services, self.journal.audit, _keep)
        self.server._desk.start()
        self.folder = folder

    def ask(self, name: str, data: bytes, *, is_ended: bool = True) -> bytes:
        """What comes back from one connection."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(20)
            peer.connect(str(self.folder / name))
            peer.sendall(data)
            if is_ended:
                peer.shutdown(socket.SHUT_WR)
            if name == "auth":
                self.server._accept_login()
            while (wait_s := self.server._intake.wait_s()) is not None:  # as the main loop does
                select.select([self.server._intake], [], [], wait_s)
                self.server._intake.expire()
            answer = b""
            while chunk := peer.recv(65536):
                answer += chunk
            return answer

    def close(self) -> None:
        self.server._stop()


def _keep(former: Services) -> Services:
    """A reload that changes nothing."""
    return former


def _listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(10)
    listener.setblocking(False)
    return listener


class Verifier:
    """Fails as told."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def canonical_user(self, user: str) -> str | None:
        return user if user == "alice" else None

    def is_allowed_country(self, _phone: object) -> bool:
        return True

    def begin_attempt(self, _attempt: object) -> Reply:
        return Reply(Word.ASK, "texted", Why.CODE_SENT)

    def check_attempt(self, _attempt: object, _code: object) -> Reply:
        return Reply(Word.PASS, why=Why.RIGHT)

    def begin_later(self, _session: object, _later: object) -> None:
        if self.error:
            raise self.error

    def new_recovery(self, _key: str, _codes: object) -> None:
        """Made."""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    services = SimpleNamespace(
        config=Config(path="test"),
        verifier=Verifier(),
        vault=SimpleNamespace(current_key="k1", is_current=lambda _sealed: True),
        store=SimpleNamespace(
            unlock=lambda *_args, **_more: None,
            sealed_secrets=lambda: iter([("a", "b")]),
            health=lambda: (_ for _ in ()).throw(StoreUnavailable("redis: ConnectionError")),
        ),
        gateway=FakeGateway(),
        watch=SimpleNamespace(close=lambda: None),
        history=SimpleNamespace(seen=Seen()),
        close=lambda: None,
    )  # fmt: skip
    desk = Desk(tmp_path, services)
    yield desk
    desk.close()


def _only(desk: Desk) -> Entry:
    (entry,) = desk.journal.entries
    assert entry.fields["MESSAGE_ID"] == Event[entry["event"].upper()].value
    return entry


@pytest.mark.parametrize(("reason", "data"), PROTOCOL_CASES, ids=[reason for reason, _ in PROTOCOL_CASES])
def test_request_that_breaks_a_rule_gives_exactly_one_event(desk: Desk, reason: str, data: bytes) -> None:
    assert desk.ask("auth", data).startswith(b"deny\n")
    entry = _only(desk)
    assert (entry["event"], entry["reason"], entry.priority) == ("protocol", reason, Priority.WARNING)


def test_request_without_an_end_gives_exactly_one_event(desk: Desk) -> None:
    assert desk.ask("auth", _request(), is_ended=False).startswith(b"deny\n")
    assert _only(desk)["reason"] == "too_slow"


def test_table_of_requests_has_every_reason_of_the_protocol() -> None:
    text = (Path(__file__).parents[2] / "daemon/PROTOCOL.md").read_text()
    table = text[text.index("### What is refused") : text.index("### Session")]
    named = set(re.findall(r"`([a-z_0-9]+)`", "".join(re.findall(r"(?m)^\| (`.*?) \|", table))))
    tested_elsewhere = {"peer", "broken", "gone"}  # in test_server.py
    assert named == {reason for reason, _ in PROTOCOL_CASES} | {"too_slow"} | tested_elsewhere


@pytest.mark.parametrize("error", [TextgateError("the user database can't be read"), KeyError("secret")])
def test_login_that_breaks_gives_exactly_one_alert(desk: Desk, error: Exception) -> None:
    desk.server._services.verifier.error = error  # type: ignore[attr-defined]
    assert desk.ask("auth", _request()).startswith(b"deny\n")
    entry = _only(desk)
    assert (entry["event"], entry["result"], entry.priority) == ("fault", "deny", Priority.ALERT)
    assert "secret" not in entry.message


def test_login_without_a_worker_gives_exactly_one_event(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for dispatcher in ("_workers", "_checkers"):
        monkeypatch.setattr(desk.server, dispatcher, SimpleNamespace(submit=lambda _job: None, close=lambda: None))
    assert desk.ask("auth", _request()).startswith(b"deny\n")
    entry = _only(desk)
    assert (entry["event"], entry["result"], entry.priority) == ("overload", "deny", Priority.ERROR)


def test_peer_that_is_not_root_gives_exactly_one_event(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "peer_credentials", lambda _connection: PeerCred(1, 1000, 1000))
    assert desk.ask("auth", _request()).startswith(b"deny\n")
    entry = _only(desk)
    assert (entry["event"], entry["reason"], entry["uid"]) == ("protocol", "peer", "1000")


# --- Commands. ---


@dataclass(frozen=True)
class Command:
    """A line on the admin socket, from root unless said otherwise, and its one event."""

    line: dict[str, object]
    result: str
    fields: dict[str, str]
    uid: int = 0


COMMANDS = [
    Command({"verb": "last-pass", "service": "sshd"}, "", {"verb": "last-pass", "reason": "not_root"}, uid=1000),
    Command({"verb": "unlock", "user": "alice"}, "ok", {"verb": "unlock", "user": "alice"}),
    Command({"verb": "unlock", "user": "alice"}, "ok", {"verb": "unlock", "uid": "1000"}, uid=1000),
    Command({"verb": "unlock", "user": "nobody"}, "refused", {"verb": "unlock", "reason": "refused", "user": ""}),
    Command({"verb": "recovery", "user": "alice"}, "ok", {"verb": "recovery", "user": "alice"}),
    Command({"verb": "recovery", "user": "alice"}, "", {"verb": "recovery", "reason": "not_root"}, uid=1000),
    Command({"verb": "reseal"}, "ok", {"verb": "reseal", "resealed": "0", "current": "1", "unreadable": "0"}),
    Command({"verb": "send-test", "number": "12"}, "refused", {"verb": "send-test", "reason": "usage"}),
    Command({"verb": "prove-begin", "user": "alice", "number": f"+{ALICE}"}, "ok", {"user": "alice"}),
    Command(
        {"verb": "prove-check", "user": "alice", "number": f"+{ALICE}", "session_id": "x", "code": "1"}, "ok", {}
    ),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.line['verb']}-{command.result}")
def test_command_gives_exactly_one_event(desk: Desk, monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    monkeypatch.setattr(admin_desk, "peer_credentials", lambda _connection: PeerCred(1, command.uid, 1000))
    answer = json.loads(desk.ask("admin", json.dumps({"v": 1} | command.line).encode() + b"\n"))
    assert answer["ok"] is (command.result == "ok")
    entry = _only(desk)
    assert (entry["event"], entry["result"], entry["uid"]) == ("admin", command.result, str(command.uid))
    assert {name: entry[name] for name in command.fields} == command.fields
    assert ALICE not in entry.message and "tag" not in entry.message


@pytest.mark.parametrize("line", [{"verb": "status"}, {"verb": "last-pass", "service": "sshd"}])
def test_command_that_only_looks_gives_none(desk: Desk, line: dict[str, object]) -> None:
    """A timer calls them every few seconds while a service is tried."""
    assert json.loads(desk.ask("admin", json.dumps({"v": 1} | line).encode() + b"\n"))["ok"] is True
    assert desk.journal.entries == []


def test_every_kind_of_refusal_of_a_command_has_a_word() -> None:
    assert {admin._KINDS[error] for error in (RefusedError, MsisdnError, StoreUnavailable)} == {
        "refused", "usage", "store_away",
    }  # fmt: skip


@pytest.mark.parametrize("line", [b"junk\n", b'{"v": 1, "verb": "nosuch"}\n', b'{"v": 1, "verb": "unlock"}\n'])
def test_line_that_breaks_a_rule_gives_exactly_one_event(desk: Desk, line: bytes) -> None:
    desk.ask("admin", line)
    entry = _only(desk)
    assert (entry["event"], entry.priority) == ("protocol", Priority.WARNING)
    assert entry["reason"]


def test_reload_gives_one_event_of_the_service_and_one_of_the_command(desk: Desk) -> None:
    desk.ask("admin", b'{"v": 1, "verb": "reload"}\n')
    assert [(entry["event"], entry.message.partition(" ")[0]) for entry in desk.journal.entries] == [
        ("service", "reloaded"), ("admin", "verb"),
    ]  # fmt: skip


def test_events_of_many_threads_are_all_there(door: Door) -> None:
    threads = [threading.Thread(target=door.check, args=("123456", "alice", f"s{at}")) for at in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(door.journal.entries) == 20
