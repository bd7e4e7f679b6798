# SPDX-License-Identifier: MIT
"""The fakes keep the contract of what they stand for: the same tests run on each fake and on the real thing."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fakes
from fake_gatewayapi import ApiKey, FakeGatewayAPI
from private_redis import PrivateRedis
from textgate import verifier
from textgate.accounts import NssAccounts
from textgate.audit import Audit, Event, Priority
from textgate.config import GatewayConfig, StoreConfig
from textgate.directory import FileDirectory
from textgate.dispatcher import Dispatcher
from textgate.errors import DirectoryError, TextgateError
from textgate.gateway import GatewayCredentials, RestGateway
from textgate.gateway_outcomes import Outcome, SendReason, SendResult
from textgate.msisdn import Msisdn
from textgate.policy import Account
from textgate.secret import Secret
from textgate.store import Store
from textgate.store_clock import StoreClock

WITHIN_S = 20.0
PHONE = "4520123456"
TEXT = Secret("123456 is your login code for here. Do not share it.")
RESULT = SendResult(Outcome.SENT, SendReason.ACCEPTED, attempt_count=1, duration_s=0.0)


# --- Clock ---


@pytest.mark.parametrize("is_real", [True, False], ids=["real", "fake"])
def test_clock_is_in_whole_milliseconds_since_1970(redis_server: PrivateRedis, is_real: bool) -> None:
    store = Store(StoreConfig(url=redis_server.url), connections=1)
    clock = StoreClock(store, fakes.Journal().audit) if is_real else fakes.FakeClock()
    for now_ms in (clock.now_ms(), clock.wall_ms()):
        assert type(now_ms) is int
        assert 1_600_000_000_000 < now_ms <= time.time_ns() // 1_000_000 + 1000
    store.close()


def test_fake_clock_jumps_without_any_time_going_by() -> None:
    clock = fakes.FakeClock()
    clock.jump_ms(-5)
    assert (clock.now_ms(), clock.wall_ms()) == (fakes.START_MS, fakes.START_MS - 5)


def test_fake_clock_moves_only_when_it_is_moved() -> None:
    clock = fakes.FakeClock()
    assert clock.now_ms() == clock.now_ms() == fakes.START_MS
    clock.move_ms(250)
    assert clock.now_ms() == fakes.START_MS + 250
    clock.move_to_ms(7)
    assert clock.now_ms() == 7


# --- Gateway ---


@pytest.fixture(scope="module")
def api() -> Iterator[FakeGatewayAPI]:
    with FakeGatewayAPI(keys=[ApiKey("key", "secret", "token")]) as api:
        yield api


# How the service behaves, and how each gateway is told to.
ENDS: list[tuple[str, Callable[[FakeGatewayAPI], object], tuple[Outcome, SendReason]]] = [
    ("accepts", lambda _api: None, (Outcome.SENT, SendReason.ACCEPTED)),
    ("has no credit", lambda api: api.inject("credit"), (Outcome.REFUSED, SendReason.CREDIT)),
    (
        "breaks off after taking it",
        lambda api: api.inject("close", accept=True),
        (Outcome.UNKNOWN, SendReason.RESET),
    ),
    ("answers junk", lambda api: api.inject("malformed", accept=True), (Outcome.UNKNOWN, SendReason.BAD_ANSWER)),
]


@pytest.mark.parametrize("kind", ["real", "fake"])
@pytest.mark.parametrize(("name", "tell", "end"), ENDS, ids=[name for name, _, _ in ENDS])
def test_gateway_ends_with_a_value(
    api: FakeGatewayAPI,
    kind: str,
    name: str,
    tell: Callable[[FakeGatewayAPI], object],
    end: tuple[Outcome, SendReason],
) -> None:
    api.reset()
    if kind == "real":
        tell(api)
        gateway: Any = RestGateway(
            GatewayConfig(url=api.url), GatewayCredentials(key=Secret("key"), secret=Secret("secret"))
        )
    else:
        gateway = fakes.FakeGateway(ends=[end])
    result = gateway.send(PHONE, TEXT, validity_s=300, userref="0" * 32)
    assert (result.outcome, result.reason) == end
    assert result.attempt_count >= 1
    assert result.duration_s >= 0
    texts = api.texts_to(PHONE) if kind == "real" else [text.text for text in gateway.texts]
    if end[0] is not Outcome.REFUSED:
        assert texts == [TEXT.reveal()]
    if end[0] is Outcome.SENT:
        assert result.cost is not None
        assert result.currency == "DKK"
        credit = gateway.credit()
        assert credit.amount is not None
        assert credit.reason is SendReason.ACCEPTED
    gateway.close()


def test_fake_gateway_keeps_what_it_was_given() -> None:
    gateway = fakes.FakeGateway()
    gateway.send(PHONE, TEXT, validity_s=300, userref="abc")
    assert gateway.codes_to(PHONE) == ["123456"]
    assert gateway.codes_to("4530123456") == []
    (text,) = gateway.texts
    assert (text.validity_s, text.userref) == (300, "abc")


# --- Users and phones ---


@pytest.mark.parametrize(
    "accounts",
    [NssAccounts(), fakes.FakeAccounts({"root": Account("root", 0, 0, frozenset({"root"}))})],
    ids=["real", "fake"],
)
def test_accounts_know_users_by_name(accounts: verifier.Accounts) -> None:
    root = accounts.lookup("root")
    assert root is not None
    assert (root.name, root.uid, root.gid) == ("root", 0, 0)
    assert "root" in root.groups
    for unknown in ("nosuchuser-7", "", "ROOT", "root ", "\ud800"):
        assert accounts.lookup(unknown) is None


@pytest.mark.parametrize("kind", ["real", "fake"])
def test_directory_knows_numbers_by_user(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "phones"
    path.write_text(f"alice: +{PHONE}\n")
    path.chmod(0o640)
    directory: Any = FileDirectory(str(path), "") if kind == "real" else fakes.FakeDirectory({"alice": Msisdn(PHONE)})
    assert directory.lookup("alice") == Msisdn(PHONE)
    for unknown in ("bob", "", "ALICE"):
        assert directory.lookup(unknown) is None
    if kind == "real":
        path.unlink()
    else:
        directory.is_broken = True
    with pytest.raises(DirectoryError):
        directory.lookup("alice")
    with pytest.raises(DirectoryError):
        directory.lookup("bob")


def test_broken_accounts_are_an_error_of_ours() -> None:
    with pytest.raises(TextgateError):
        fakes.FakeAccounts(is_broken=True).lookup("root")


# --- Senders ---


def _senders() -> list[Any]:
    return [Dispatcher(threads=1, waiting=1), fakes.DirectSender(), fakes.HeldSender()]


@pytest.mark.parametrize("at", range(3), ids=["real", "direct", "held"])
def test_sender_runs_what_it_took_by_the_time_it_is_closed(at: int) -> None:
    sender = _senders()[at]
    future = sender.submit(lambda: RESULT)
    sender.close()
    assert future.result(0) is RESULT


def test_held_sender_runs_nothing_before_it_is_told() -> None:
    sender, ran = fakes.HeldSender(), []

    def job() -> SendResult:
        ran.append(1)
        return RESULT

    future = sender.submit(job)
    assert future is not None
    with pytest.raises(TimeoutError):
        future.result(timeout=0)
    assert not ran
    sender.release()
    assert future.result(0) is RESULT
    sender.release()
    assert len(ran) == 1


@pytest.mark.parametrize("at", range(2), ids=["real", "direct"])
def test_error_of_a_job_comes_out_of_its_future(at: int) -> None:
    def broken() -> SendResult:
        raise ValueError("broken")

    sender = _senders()[at]
    future = sender.submit(broken)
    assert isinstance(future.exception(WITHIN_S), ValueError)
    sender.close()


def test_full_sender_answers_as_a_full_dispatcher() -> None:
    opened = threading.Event()
    dispatcher = Dispatcher(threads=1, waiting=0)

    def wait() -> SendResult:
        opened.wait(WITHIN_S)
        return RESULT

    dispatcher.submit(wait)
    assert dispatcher.submit(lambda: RESULT) is None
    assert fakes.FullSender().submit(lambda: RESULT) is None
    opened.set()
    dispatcher.close()


# --- Journal, and the shape of all ---


def test_journal_keeps_events_as_they_are_written() -> None:
    journal = fakes.Journal()
    journal.audit.event(Event.CHECK, "right code", user="alice", result="pass")
    journal.audit.event(Event.FAIL_OPEN, "let in", priority=Priority.ALERT)
    assert isinstance(journal.audit, Audit)
    (entry,) = journal.find("check", user="alice")
    assert (entry["result"], entry["nothing"], entry.priority) == ("pass", "", 6)
    assert journal.find("check", user="bob") == []
    assert [alert["event"] for alert in journal.alerts] == ["fail_open"]
    assert "right code" in journal.text()


@pytest.mark.parametrize(
    ("protocol", "kinds"),
    [
        (verifier.Clock, [fakes.FakeClock, StoreClock]),
        (verifier.Accounts, [fakes.FakeAccounts, NssAccounts]),
        (verifier.Directory, [fakes.FakeDirectory, FileDirectory]),
        (verifier.Gateway, [fakes.FakeGateway, RestGateway]),
        (verifier.Sender, [fakes.DirectSender, fakes.HeldSender, fakes.FullSender, Dispatcher]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_fake_and_real_have_the_methods_that_the_verifier_calls(protocol: Any, kinds: list[Any]) -> None:
    wanted = [
        name for name, value in vars(protocol).items() if inspect.isfunction(value) and not name.startswith("_")
    ]
    assert wanted
    for kind in kinds:
        for name in wanted:
            parameters = list(inspect.signature(getattr(kind, name)).parameters.values())
            asked = list(inspect.signature(getattr(protocol, name)).parameters.values())
            assert [(p.kind) for p in parameters] == [(p.kind) for p in asked], (kind, name)
