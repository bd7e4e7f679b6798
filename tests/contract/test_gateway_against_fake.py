# SPDX-License-Identifier: MIT
"""The gateway on real sockets, against the fake service and servers that are worse than it.

A client can't see whether a text was accepted before things went wrong, so each fault comes both ways, and
each test looks at two things: what the gateway says, and how many texts were really accepted. What may
never happen: REFUSED although a text was accepted, or one `send` accepted twice (but for the one repeat
after the API's own 500).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from fake_gatewayapi import FakeGatewayAPI
from fake_gatewayapi.certs import TlsFiles, make_tls
from textgate import gateway_transport
from textgate.away import AWAY_REASONS
from textgate.config import GatewayConfig
from textgate.gateway import (
    GatewayCredentials,
    MessagingGateway,
    Outcome,
    RestGateway,
    SendReason,
    SendResult,
)
from textgate.gateway_transport import (
    ANSWER_MAX_BYTES,
    REUSE_WITHIN_S,
    DeadlineAdapter,
    TransportFault,
    tls_context,
)
from textgate.secret import Secret

R = SendReason
SENT, REFUSED, UNKNOWN = Outcome.SENT, Outcome.REFUSED, Outcome.UNKNOWN
HttpGateway = RestGateway | MessagingGateway

MSISDN = "4512345678"
TEXT = Secret("918273 is your login code for web1. Do not share it.")
CREDENTIALS = GatewayCredentials(Secret("test-key"), Secret("test-secret"), Secret("test-token"))
SHORT_S = 0.15  # a real time-out
PATIENCE_S = 5.0  # what must not be used up


@pytest.fixture
def fake() -> Iterator[FakeGatewayAPI]:
    with FakeGatewayAPI() as service:
        yield service


class Maker:
    """Makes gateways that never pause for real, and closes them."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self._made: list[HttpGateway] = []

    def __call__(
        self,
        url: str,
        kind: type[HttpGateway] = RestGateway,
        *,
        ca_file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> HttpGateway:
        defaults: dict[str, Any] = {"connect_timeout_s": PATIENCE_S, "read_timeout_s": PATIENCE_S}
        if kind is MessagingGateway:
            defaults |= {"api": "messaging", "auth": "token"}
        gateway = kind(
            GatewayConfig(**{"url": url, **defaults, **options}),
            CREDENTIALS,
            ca_file=None if ca_file is None else str(ca_file),
            clock=clock,
            sleep=self.pauses.append,
        )
        self._made.append(gateway)
        return gateway

    def close(self) -> None:
        for gateway in self._made:
            gateway.close()


@pytest.fixture
def make() -> Iterator[Maker]:
    maker = Maker()
    yield maker
    maker.close()


def send(gateway: HttpGateway) -> SendResult:
    return gateway.send(MSISDN, TEXT, validity_s=300, userref="attempt-1")


# --- the good way -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", ["oauth1", "token"])
@pytest.mark.parametrize("tls", [None, "trusted"])
def test_rest_send(tls: Any, auth: str, make: Maker) -> None:
    with FakeGatewayAPI(tls=tls) as fake:
        gateway = make(fake.url, auth=auth, ca_file=fake.ca_file if tls else None, sender="ACME")
        result = send(gateway)
        gateway.close()
        [message] = fake.accepted
    assert (result.outcome, result.message_ids, result.cost) == (SENT, (message.id,), Decimal("0.15"))
    assert (result.currency, result.parts) == ("DKK", (("DK", 1),))
    assert (message.msisdn, message.text, message.sender) == (MSISDN, TEXT.reveal(), "ACME")
    assert (message.validity_period_s, message.userref, message.max_parts) == (300, "attempt-1", 1)


def test_messaging_send(fake: FakeGatewayAPI, make: Maker) -> None:
    result = send(make(fake.url, MessagingGateway, priority="URGENT"))
    [message] = fake.accepted
    assert (result.outcome, result.message_ids) == (SENT, (message.id,))
    assert (message.msisdn, message.text, message.validity_period_s) == (MSISDN, TEXT.reveal(), 300)


@pytest.mark.parametrize("kind", [RestGateway, MessagingGateway])
def test_credit(fake: FakeGatewayAPI, make: Maker, kind: type[HttpGateway]) -> None:
    gateway = make(fake.url, kind)
    fake.credit = Decimal("12.50")
    credit = gateway.credit()
    assert (credit.reason, credit.amount, credit.currency) == (R.ACCEPTED, Decimal("12.5"), "DKK")
    assert credit.clock_skew_s is not None
    assert abs(credit.clock_skew_s) < 2
    fake.settings.credit_as_string = True
    assert gateway.credit().amount == Decimal("12.50")


def test_credit_with_a_wrong_clock_tells_by_how_much(fake: FakeGatewayAPI, make: Maker) -> None:
    fake.clock_offset_s = -3600  # so ours is an hour ahead
    credit = make(fake.url).credit()
    assert (credit.reason, credit.is_alert) == (R.CLOCK, True)
    assert credit.clock_skew_s == pytest.approx(3600, abs=2)


# --- refusals of the service itself -----------------------------------------------------------------------


@pytest.mark.parametrize("hours", [-1, 1])
def test_wrong_clock_is_refused_with_an_alert(hours: int, fake: FakeGatewayAPI, make: Maker) -> None:
    fake.clock_offset_s = hours * 3600
    result = send(make(fake.url))
    assert (result.outcome, result.reason, result.code) == (REFUSED, R.CLOCK, "0x0225")
    assert result.is_alert
    assert (len(fake.requests), len(fake.accepted)) == (1, 0)


def test_account_without_money_is_refused_with_an_alert(fake: FakeGatewayAPI, make: Maker) -> None:
    fake.credit = Decimal("0.14")
    result = send(make(fake.url))
    assert (result.outcome, result.reason, result.code, result.is_alert) == (REFUSED, R.CREDIT, "0x0216", True)
    assert result.incident is not None
    assert (len(fake.requests), len(fake.accepted)) == (1, 0)


WRONG_CREDENTIALS = [
    (RestGateway, "oauth1", "0x0223", {"key": Secret("other")}),
    (RestGateway, "oauth1", "0x0224", {"secret": Secret("other")}),
    (RestGateway, "token", "0x0229", {"token": Secret("other")}),
    (MessagingGateway, "token", None, {"token": Secret("other")}),
]


@pytest.mark.parametrize(("kind", "auth", "code", "changes"), WRONG_CREDENTIALS)
def test_wrong_credentials_are_refused_with_an_alert(
    kind: type[HttpGateway], auth: str, code: str | None, changes: dict[str, Secret], fake: FakeGatewayAPI
) -> None:
    api = "messaging" if kind is MessagingGateway else "rest"
    credentials = GatewayCredentials(**{**vars(CREDENTIALS), **changes})
    gateway = kind(GatewayConfig(api=api, url=fake.url, auth=auth), credentials)
    result = send(gateway)
    gateway.close()
    assert (result.outcome, result.reason, result.code) == (REFUSED, R.CREDENTIALS, code)
    assert result.is_alert
    assert (len(fake.requests), len(fake.accepted)) == (1, 0)


def test_priority_that_needs_a_class_is_refused(fake: FakeGatewayAPI, make: Maker) -> None:
    result = send(make(fake.url, priority="URGENT"))
    assert (result.outcome, result.reason, result.code) == (REFUSED, R.CONFIGURATION, "0x0311")


# --- faults of the transport, each with and without the text accepted first -------------------------------

UNKNOWN_FAULTS = [
    # kind, options, reason
    ("reset", {"at": "before-answer"}, R.RESET),
    ("reset", {"at": "mid-header"}, R.RESET),
    ("reset", {"at": "mid-body"}, R.RESET),
    ("close", {"at": "before-answer"}, R.RESET),
    ("close", {"at": "mid-body"}, R.RESET),
    ("truncated", {"how": "length"}, R.RESET),
    ("truncated", {"how": "chunked"}, R.RESET),
    ("malformed", {"what": "cut"}, R.BAD_ANSWER),
    ("malformed", {"what": "html"}, R.BAD_ANSWER),
    ("malformed", {"what": "empty"}, R.BAD_ANSWER),
    ("malformed", {"what": "wrong-type"}, R.BAD_ANSWER),
    ("malformed", {"what": "not-utf8"}, R.BAD_ANSWER),
    ("malformed", {"what": "bom"}, R.BAD_ANSWER),
    ("malformed", {"what": "nan"}, R.BAD_ANSWER),
    ("malformed", {"what": "deep"}, R.BAD_ANSWER),
    ("malformed", {"what": "huge-int"}, R.BAD_ANSWER),
    ("odd", {"what": "empty-ids"}, R.BAD_ANSWER),
    ("odd", {"what": "no-ids"}, R.BAD_ANSWER),
    ("odd", {"what": "string-ids"}, R.BAD_ANSWER),
    ("odd", {"what": "two-ids"}, R.BAD_ANSWER),
    ("odd", {"what": "204"}, R.BAD_ANSWER),
    ("odd", {"what": "202"}, R.BAD_ANSWER),
    ("502", {}, R.SERVER_ERROR),
    ("502", {"body": "json"}, R.SERVER_ERROR),
    ("503", {}, R.THROTTLED),
    ("504", {}, R.SERVER_ERROR),
    ("500", {"body": "html"}, R.SERVER_ERROR),
    ("500", {"body": "empty"}, R.SERVER_ERROR),
    ("oversize", {"what": "body"}, R.BAD_ANSWER),
    ("oversize", {"what": "headers"}, R.BAD_ANSWER),
    ("redirect", {"status": 303}, R.BAD_ANSWER),
]


@pytest.mark.parametrize(("kind", "options", "reason"), UNKNOWN_FAULTS)
@pytest.mark.parametrize("is_accepting", [False, True])
def test_fault_after_the_request_is_unknown_and_never_repeated(
    *, is_accepting: bool, kind: str, options: dict[str, Any], reason: SendReason, fake: FakeGatewayAPI, make: Maker
) -> None:
    fake.inject(kind, accept=is_accepting, **options)
    result = send(make(fake.url))
    assert (result.outcome, result.reason, result.attempt_count) == (UNKNOWN, reason, 1)
    assert (len(fake.requests), len(fake.accepted)) == (1, int(is_accepting))


@pytest.mark.parametrize("at", ["before-answer", "mid-header", "mid-body"])
@pytest.mark.parametrize("end", ["reset", "close"])
@pytest.mark.parametrize("is_accepting", [False, True])
def test_break_on_a_reused_connection_is_unknown_and_never_repeated(
    is_accepting: bool, end: str, at: str, fake: FakeGatewayAPI, make: Maker
) -> None:
    gateway = make(fake.url)
    assert send(gateway).outcome is SENT
    fake.inject(end, accept=is_accepting, at=at)
    result = send(gateway)
    assert (result.outcome, result.attempt_count) == (UNKNOWN, 1)
    assert (len(fake.requests), len(fake.accepted)) == (2, 1 + int(is_accepting))
    assert send(gateway).outcome is SENT  # and the gateway recovers


@pytest.mark.parametrize("kind", [RestGateway, MessagingGateway])
@pytest.mark.parametrize("is_accepting", [False, True])
def test_silence_is_unknown_after_the_read_timeout(
    is_accepting: bool, kind: type[HttpGateway], fake: FakeGatewayAPI, make: Maker
) -> None:
    fake.inject("delay", accept=is_accepting, seconds=None)
    result = send(make(fake.url, kind, read_timeout_s=SHORT_S))
    assert (result.outcome, result.reason, result.attempt_count) == (UNKNOWN, R.TIMEOUT, 1)
    assert SHORT_S <= result.duration_s < PATIENCE_S
    assert len(fake.accepted) == int(is_accepting)


def test_text_accepted_after_the_timeout_was_reported_unknown(fake: FakeGatewayAPI, make: Maker) -> None:
    fault = fake.inject("delay", seconds=None, then="process")
    result = send(make(fake.url, read_timeout_s=SHORT_S))
    assert (result.outcome, len(fake.accepted)) == (UNKNOWN, 0)
    fault.release()
    assert len(fake.wait_for_texts(1)) == 1


@pytest.mark.parametrize(
    ("kind", "options", "status"),
    [
        ("drip", {"interval_s": 0.02, "where": "all"}, None),  # headers and all: 20 times shorter than read_timeout_s
        ("drip", {"interval_s": 0.02, "where": "body"}, 200),
        ("oversize", {"what": "drip", "interval_s": 0.02}, 200),
        ("delay", {"where": "between", "seconds": None}, 200),
        ("delay", {"where": "before-read", "seconds": None}, None),
    ],
)
@pytest.mark.parametrize("is_accepting", [False, True])
def test_dripping_server_does_not_outlast_the_total_time(
    *, is_accepting: bool, kind: str, options: dict[str, Any], status: int | None, fake: FakeGatewayAPI, make: Maker
) -> None:
    fault = fake.inject(kind, accept=is_accepting, **options)
    result = send(make(fake.url, connect_timeout_s=0.3, read_timeout_s=0.4, total_timeout_s=0.3))
    assert (result.outcome, result.reason, result.http_status) == (UNKNOWN, R.DEADLINE, status)
    assert 0.3 <= result.duration_s < 1.5  # the drips would take from 1.8 s to for ever
    assert result.attempt_count == 1
    fault.release()


@pytest.mark.parametrize("is_accepting", [False, True])
def test_own_server_error_is_repeated_once_with_the_same_text(
    is_accepting: bool, fake: FakeGatewayAPI, make: Maker
) -> None:
    fake.inject("500", accept=is_accepting)
    result = send(make(fake.url))
    assert (result.outcome, result.attempt_count) == (SENT, 2)
    assert len(fake.accepted) == 1 + int(is_accepting)  # the price of the repeat
    assert {message.text for message in fake.accepted} == {TEXT.reveal()}


@pytest.mark.parametrize("is_accepting", [False, True])
def test_two_own_server_errors_are_unknown(is_accepting: bool, fake: FakeGatewayAPI, make: Maker) -> None:
    fake.inject("500", 5, accept=is_accepting)
    result = send(make(fake.url))
    assert (result.outcome, result.reason, result.attempt_count) == (UNKNOWN, R.SERVER_ERROR, 2)
    assert len(fake.accepted) == 2 * int(is_accepting)


def test_refused_repeat_after_a_server_error_is_unknown(fake: FakeGatewayAPI, make: Maker) -> None:
    fake.inject("500", accept=True)
    fake.inject("error", code="0x0214")
    result = send(make(fake.url))
    assert (result.outcome, result.reason, len(fake.accepted)) == (UNKNOWN, R.NUMBER_FOR_NOW, 1)


# --- refusals, injected -----------------------------------------------------------------------------------

REFUSING_FAULTS = [
    ("error", {"code": "0x0213"}, R.CONFIGURATION),
    ("error", {"code": "0x0215"}, R.NUMBER),
    ("error", {"code": "0x0217"}, R.COUNTRY),
    ("error", {"code": "0x022A"}, R.ACCOUNT),
    ("error", {"code": "0x021E"}, R.CONFIGURATION),  # a 500
    ("error", {"code": "0x0213", "omit": ("code",)}, R.ACCOUNT),
    ("error", {"code": "0x0213", "omit": ("variables",)}, R.CONFIGURATION),
    ("error", {"code": "0x0312"}, R.CONTENT),
    ("credit", {}, R.CREDIT),
    ("redirect", {"status": 301}, R.REDIRECT),
    ("redirect", {"status": 302}, R.REDIRECT),
    ("redirect", {"status": 307}, R.REDIRECT),
    ("redirect", {"status": 308}, R.REDIRECT),
]


@pytest.mark.parametrize(("kind", "options", "reason"), REFUSING_FAULTS)
def test_refusal_is_final(
    kind: str, options: dict[str, Any], reason: SendReason, fake: FakeGatewayAPI, make: Maker
) -> None:
    fake.inject(kind, **options)
    result = send(make(fake.url))
    assert (result.outcome, result.reason, result.attempt_count) == (REFUSED, reason, 1)
    assert (len(fake.requests), len(fake.accepted)) == (1, 0)


def test_replayed_nonce_is_repeated_once_with_a_fresh_one(fake: FakeGatewayAPI, make: Maker) -> None:
    fake.inject("replay")
    result = send(make(fake.url))
    assert (result.outcome, result.attempt_count, len(fake.accepted)) == (SENT, 2, 1)
    assert len({request.header("Authorization") for request in fake.requests}) == 2


@pytest.mark.parametrize("status", ["429", "503"])
@pytest.mark.parametrize(("retry_after", "pause_s"), [("2", 2.0), ("0", 0.3)])
def test_busy_service_is_waited_for(
    status: str, retry_after: str, pause_s: float, fake: FakeGatewayAPI, make: Maker
) -> None:
    fake.inject(status, retry_after=retry_after)
    result = send(make(fake.url))
    assert (result.outcome, result.attempt_count, len(fake.accepted)) == (SENT, 2, 1)
    assert make.pauses == [pause_s]


def test_busy_service_is_waited_for_by_date(fake: FakeGatewayAPI, make: Maker) -> None:
    fake.inject("503", retry_after="date")  # in a minute, by the service's own clock
    fake.clock_offset_s = 100  # which isn't ours
    result = send(make(fake.url, total_timeout_s=100))
    assert (result.outcome, make.pauses) == (SENT, [60.0])


@pytest.mark.parametrize("retry_after", ["16", "date"])
def test_busy_service_is_not_waited_for_beyond_the_total_time(
    retry_after: str, fake: FakeGatewayAPI, make: Maker
) -> None:
    fake.inject("429", retry_after=retry_after)
    result = send(make(fake.url, total_timeout_s=15))
    assert (result.outcome, result.reason, result.attempt_count) == (REFUSED, R.THROTTLED, 1)
    assert (make.pauses, len(fake.accepted)) == ([], 0)


def test_redirect_takes_no_credentials_elsewhere(fake: FakeGatewayAPI, make: Maker) -> None:
    with FakeGatewayAPI() as elsewhere:
        for status in (301, 302, 303, 307, 308):
            fake.inject("redirect", status=status, location=f"{elsewhere.url}/rest/mtsms")
            assert send(make(fake.url)).outcome is not SENT
        assert elsewhere.requests == []
    assert (len(fake.requests), len(fake.accepted)) == (5, 0)


# --- nothing sent, so tried again -------------------------------------------------------------------------


def test_closed_port_is_tried_three_times_and_refused(fake: FakeGatewayAPI, make: Maker) -> None:
    with fake.refusing():
        result = send(make(fake.url))
    assert (result.outcome, result.reason, result.attempt_count) == (REFUSED, R.UNREACHABLE, 3)
    assert (result.is_alert, make.pauses, fake.requests) == (False, [0.3, 1.0], [])


def test_port_that_opens_meanwhile_is_reached(fake: FakeGatewayAPI) -> None:
    fake.close_port()
    gateway = RestGateway(GatewayConfig(url=fake.url), CREDENTIALS, sleep=lambda _pause_s: fake.open_port())
    result = send(gateway)
    gateway.close()
    assert (result.outcome, result.attempt_count, len(fake.accepted)) == (SENT, 2, 1)


def test_kept_connection_that_the_service_closed_is_replaced(fake: FakeGatewayAPI, make: Maker) -> None:
    gateway = make(fake.url)
    send(gateway)
    with fake.refusing():  # cuts the kept connection
        wait_until(lambda: fake.open_connection_count == 0)
    result = send(gateway)
    assert (result.outcome, result.attempt_count, len(fake.accepted)) == (SENT, 1, 2)


def test_unknown_host_is_refused(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    look_ups: list[Any] = []

    def look_up(*arguments: Any, **_options: Any) -> Any:
        look_ups.append(arguments)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    result = send(make("https://gatewayapi.com"))
    assert (result.outcome, result.reason, result.attempt_count) == (REFUSED, R.DNS, 3)
    assert look_ups == [("gatewayapi.com", 443)] * 3


def answer_look_ups_with(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: found)


def test_second_address_is_tried_when_the_first_is_dead(
    fake: FakeGatewayAPI, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with full_server() as dead:
        answer_look_ups_with(monkeypatch, dead, ("127.0.0.1", fake.port))
        result = send(make(f"http://localhost:{fake.port}", connect_timeout_s=2 * SHORT_S))
    assert (result.outcome, result.attempt_count) == (SENT, 1)
    assert result.duration_s >= SHORT_S  # the dead one had its share of the time, and the next one the rest


def test_connect_timeout_is_shared_by_all_addresses(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    with full_server() as dead:
        answer_look_ups_with(monkeypatch, *[dead] * 5)
        result = send(make("http://localhost:8080", connect_timeout_s=SHORT_S))
    assert (result.outcome, result.reason, result.attempt_count) == (REFUSED, R.UNREACHABLE, 3)
    assert 3 * SHORT_S <= result.duration_s < 10 * SHORT_S  # and not 15, five times as long for each attempt


def test_connecting_does_not_outlast_the_total_time(make: Maker) -> None:
    with full_server() as (host, port):
        result = send(make(f"http://{host}:{port}", connect_timeout_s=PATIENCE_S, total_timeout_s=SHORT_S))
    assert (result.outcome, result.reason, result.attempt_count) == (REFUSED, R.DEADLINE, 1)
    assert result.duration_s < 2.0


def test_nothing_is_sent_after_a_look_up_that_took_too_long(
    fake: FakeGatewayAPI, make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]

    def look_up(*_arguments: Any, **_options: Any) -> Any:
        now[0] += 16
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", fake.port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    result = send(make(f"http://localhost:{fake.port}", clock=lambda: now[0], total_timeout_s=15))
    assert (result.outcome, result.reason, result.attempt_count) == (REFUSED, R.DEADLINE, 1)
    assert fake.requests == []


# --- TLS --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", ["self-signed", "wrong-name", "expired"])
def test_untrusted_server_gets_nothing(tls: Any, make: Maker) -> None:
    with FakeGatewayAPI(tls=tls) as fake:
        result = send(make(fake.url, ca_file=fake.ca_file))
        wait_until(lambda: fake.open_connection_count == 0)
        assert (result.outcome, result.reason, result.is_alert) == (REFUSED, R.TLS, True)
        assert (fake.requests, fake.accepted) == ([], [])


def test_authority_that_the_system_does_not_know_is_not_trusted(make: Maker) -> None:
    with FakeGatewayAPI(tls="trusted") as fake:
        result = send(make(fake.url))
        assert (result.outcome, result.reason, fake.requests) == (REFUSED, R.TLS, [])


def test_server_without_tls_gets_nothing(fake: FakeGatewayAPI, make: Maker) -> None:
    result = send(make(f"https://127.0.0.1:{fake.port}"))
    assert (result.outcome, result.reason, fake.accepted) == (REFUSED, R.TLS, [])


def test_stalled_handshake_is_not_sent(make: Maker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel connects, nobody answers
        port = silent.getsockname()[1]
        result = send(make(f"https://127.0.0.1:{port}", connect_timeout_s=SHORT_S))
    assert (result.outcome, result.reason, result.attempt_count) == (REFUSED, R.TIMEOUT, 3)
    assert 3 * SHORT_S <= result.duration_s < PATIENCE_S
    assert result.reason not in AWAY_REASONS  # it is there, and may leave the 41st connection waiting


def test_connection_closed_in_the_handshake_is_not_sent(make: Maker) -> None:
    """As the service does with the 41st connection of one address."""
    with FakeGatewayAPI(tls="trusted") as fake:
        fake.settings.connection_limit = 0
        result = send(make(fake.url, ca_file=fake.ca_file))
        assert fake.refused_connection_count == 3
    assert (result.outcome, result.reason, result.attempt_count) == (REFUSED, R.RESET, 3)
    assert result.is_alert is False
    assert result.reason not in AWAY_REASONS  # any user of this machine can open 40 connections


def test_tls_answers_drip_no_longer_either(make: Maker) -> None:
    with FakeGatewayAPI(tls="trusted") as fake:
        fake.inject("drip", accept=True, interval_s=0.02)
        gateway = make(fake.url, ca_file=fake.ca_file, connect_timeout_s=0.3, read_timeout_s=0.4, total_timeout_s=0.4)
        result = send(gateway)
        assert (result.outcome, result.reason, len(fake.accepted)) == (UNKNOWN, R.DEADLINE, 1)
        assert result.duration_s < 2.0


def test_trust_has_no_say_of_the_environment(make: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key_log = tmp_path / "keys"
    with FakeGatewayAPI(tls="trusted") as fake:
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.setenv(name, str(fake.ca_file))
        monkeypatch.setenv("SSLKEYLOGFILE", str(key_log))
        assert send(make(fake.url)).reason is R.TLS
        assert fake.requests == []
        assert send(make(fake.url, ca_file=fake.ca_file)).outcome is SENT
    assert not key_log.exists()


def test_proxies_and_netrc_have_no_say(
    fake: FakeGatewayAPI, make: Maker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password something\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert send(make(fake.url)).outcome is SENT


def test_tls_settings() -> None:
    context = tls_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_authorities_of_requests_stand_in_for_the_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gateway_transport, "SYSTEM_CA_FILE", str(tmp_path / "absent"))
    assert tls_context().cert_store_stats()["x509_ca"] > 0


# --- connections ------------------------------------------------------------------------------------------


@pytest.fixture
def openings(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """One entry for each connection opened."""
    opened: list[float] = []
    really_open = gateway_transport._Connection.open

    def note(connection: Any, deadline_at: float) -> None:
        opened.append(deadline_at)
        really_open(connection, deadline_at)

    monkeypatch.setattr(gateway_transport._Connection, "open", note)
    return opened


def test_connections_are_left_before_servers_leave_them() -> None:
    assert REUSE_WITHIN_S < 5  # Apache's KeepAliveTimeout, the shortest in common use


def test_connection_is_reused_while_fresh(fake: FakeGatewayAPI, make: Maker, openings: list[float]) -> None:
    now = [1000.0]
    gateway = make(fake.url, clock=lambda: now[0])
    for pause_s in (0, REUSE_WITHIN_S, REUSE_WITHIN_S):
        now[0] += pause_s
        assert send(gateway).outcome is SENT
    assert len(openings) == 1
    now[0] += REUSE_WITHIN_S + 0.01  # the service may be about to close it
    assert send(gateway).outcome is SENT
    assert len(openings) == 2
    wait_until(lambda: fake.open_connection_count == 1)


def test_connection_is_not_reused_for_another_address(fake: FakeGatewayAPI, openings: list[float]) -> None:
    adapter = DeadlineAdapter(connect_timeout_s=1, read_timeout_s=1, tls=tls_context())
    for host in ("127.0.0.1", "localhost", "localhost"):
        adapter.begin(time.monotonic() + 1)
        request = requests.Request("GET", f"http://{host}:{fake.port}/api/prices/list/sms/json").prepare()
        assert adapter.send(request).status_code == 200
    adapter.close()
    assert len(openings) == 2


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}", b"HTTP/1.0 200 OK\r\n\r\n{}"]
)
def test_connection_that_ends_with_its_answer_is_not_reused(
    answer: bytes, make: Maker, openings: list[float]
) -> None:
    with raw_server(lambda _attempt: [answer]) as url:
        gateway = make(url)
        assert [send(gateway).http_status for _ in range(2)] == [200, 200]
    assert len(openings) == 2


def test_connection_with_unasked_for_bytes_is_not_reused(make: Maker, openings: list[float]) -> None:
    """Else one text's answer would be taken for the next one's."""
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"ids":[1]}'
    surplus = threading.Event()

    def script(_attempt: int) -> Iterator[bytes]:
        yield answer
        surplus.wait(PATIENCE_S)
        yield answer.replace(b"[1]", b"[9]")

    with raw_server(script) as url:
        gateway = make(url)
        assert send(gateway).message_ids == (1,)
        surplus.set()
        wait_until(lambda: not gateway._connections._idle[0]._connection.is_quiet())  # type: ignore[union-attr]
        surplus.clear()
        assert send(gateway).message_ids == (1,)
        surplus.set()
    assert len(openings) == 2


def test_connection_with_surplus_inside_a_tls_record_is_not_reused(make: Maker, openings: list[float]) -> None:
    """The rest of the record waits in the TLS layer, where the socket doesn't show it."""
    tls = make_tls("trusted")
    record = OK + b'Content-Length: 11\r\n\r\n{"ids":[1]}' + b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1500
    over = threading.Event()

    def script(_attempt: int) -> Iterator[bytes]:
        yield record
        over.wait(PATIENCE_S)

    with raw_server(script, tls) as url:
        gateway = make(url, ca_file=tls.ca_file)
        assert [send(gateway).outcome for _ in range(2)] == [SENT, SENT]
        over.set()
    tls.remove()
    assert len(openings) == 2


@pytest.mark.parametrize("is_late", [False, True])
def test_request_that_never_left_is_known_not_to_be_sent_on_a_reused_connection(
    is_late: bool, fake: FakeGatewayAPI, openings: list[float]
) -> None:
    adapter = DeadlineAdapter(connect_timeout_s=1, read_timeout_s=1, tls=tls_context())
    request = requests.Request("GET", f"{fake.url}/api/prices/list/sms/json").prepare()
    adapter.begin(time.monotonic() + PATIENCE_S)
    adapter.send(request)
    assert adapter.has_sent
    if not is_late:
        request.headers["X-Unsendable"] = "\N{KEY}"
    adapter.begin(time.monotonic() + (0 if is_late else PATIENCE_S))
    with pytest.raises(TransportFault) as caught:
        adapter.send(request)
    assert caught.value.reason is (R.DEADLINE if is_late else R.INTERNAL)
    assert (caught.value.has_sent, adapter.has_sent, len(openings), len(fake.requests)) == (False, False, 1, 1)


@pytest.mark.parametrize(
    ("host", "port", "is_tls", "shown"),
    [
        ("gatewayapi.com", 443, True, b"gatewayapi.com"),
        ("gatewayapi.com", 8443, True, b"gatewayapi.com:8443"),
        ("gatewayapi.com", 80, True, b"gatewayapi.com:80"),
        ("localhost", 80, False, b"localhost"),
        ("localhost", 443, False, b"localhost:443"),
        ("::1", 8080, False, b"[::1]:8080"),
    ],
)
def test_host_header_is_the_one_that_is_signed(host: str, port: int, is_tls: bool, shown: bytes) -> None:
    """RFC 5849 §3.4.1.2: the scheme's own port is left out, every other one is not."""
    written: list[bytes] = []
    connection = gateway_transport._Connection(
        host,
        port,
        tls=tls_context() if is_tls else None,
        connect_timeout_s=1,
        read_timeout_s=1,
        clock=time.monotonic,
    )
    connection.sock = SimpleNamespace(sendall=written.append)
    connection.request("POST", "/rest/mtsms", body=b"{}")
    assert b"\r\nHost: " + shown + b"\r\n" in b"".join(written)


def test_texts_are_sent_side_by_side(fake: FakeGatewayAPI, make: Maker, openings: list[float]) -> None:
    gateway = make(fake.url)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _number: send(gateway), range(80)))
    assert {result.outcome for result in results} == {SENT}
    assert len({result.message_ids for result in results}) == 80
    assert len(fake.accepted) == 80
    assert len(openings) <= 8


def test_stale_connections_of_a_burst_are_closed(fake: FakeGatewayAPI, make: Maker) -> None:
    now = [1000.0]
    gateway = make(fake.url, clock=lambda: now[0])
    fault = fake.inject("delay", count=4, seconds=None, accept=True)
    with ThreadPoolExecutor(4) as pool:
        burst = [pool.submit(send, gateway) for _ in range(4)]
        wait_until(lambda: len(fake.accepted) == 4)
        fault.release()
        assert {sent.result().outcome for sent in burst} == {SENT}
    now[0] += REUSE_WITHIN_S + 1
    assert send(gateway).outcome is SENT
    wait_until(lambda: fake.open_connection_count == 1)


def test_close_closes_idle_and_busy_connections(fake: FakeGatewayAPI, make: Maker) -> None:
    gateway = make(fake.url)
    send(gateway)
    fault = fake.inject("delay", seconds=None, accept=True)
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(send, gateway)
        fault.wait_reached()
        gateway.close()
        fault.release()
        assert busy.result().outcome is SENT  # a text under way is not cut off
    wait_until(lambda: fake.open_connection_count == 0)


def test_connections_over_the_limit_never_count_as_sent(fake: FakeGatewayAPI, make: Maker) -> None:
    fake.settings.connection_limit = 0
    result = send(make(fake.url))
    assert result.outcome is not SENT
    assert fake.accepted == []


# --- servers that are worse than the fake -----------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\n"
RAW_ANSWERS = [
    # answer, reason, status
    (b"SSH-2.0-OpenSSH_9.2\r\n", R.BAD_ANSWER, None),
    (b"\r\n\r\n", R.BAD_ANSWER, None),
    (b'{"ids":[1]}', R.BAD_ANSWER, None),  # HTTP/0.9
    (b"HTTP/1.1 2OO OK\r\n\r\n", R.BAD_ANSWER, None),
    (b"HTTP/1.1 99 OK\r\n\r\n", R.BAD_ANSWER, None),
    (b"HTTP/1.1 " + b"2" * 100_000, R.BAD_ANSWER, None),
    (OK + b"X: y\r\n" * 200 + b"\r\n", R.BAD_ANSWER, None),  # more than a hundred headers
    (b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, R.BAD_ANSWER, None),
    (OK + b"Content-Length: 65537\r\n\r\n", R.BAD_ANSWER, 200),  # announced too long: not waited for
    (OK + b"Content-Length: 99999999999999999999\r\n\r\n", R.BAD_ANSWER, 200),  # no memory is set aside
    (OK + b'\r\n{"ids":[1]}' + b" " * 65_536, R.BAD_ANSWER, 200),  # a success but for its length
    (OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nabc", R.BAD_ANSWER, 200),
    (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", R.RESET, 200),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\nabc", R.RESET, 200),
    (OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 40_000, R.BAD_ANSWER, 200),
    (OK + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00", R.BAD_ANSWER, 200),
    (OK + b"Content-Length: 11\r\n\r\n", R.RESET, 200),
    (OK, R.BAD_ANSWER, 200),  # ends after the status line, so no body
]


@pytest.mark.parametrize(("answer", "reason", "status"), RAW_ANSWERS)
def test_answer_that_is_no_http_is_unknown(
    answer: bytes, reason: SendReason, status: int | None, make: Maker
) -> None:
    with raw_server(lambda _attempt: [answer]) as url:
        result = send(make(url))
    assert (result.outcome, result.reason, result.http_status) == (UNKNOWN, reason, status)
    assert result.attempt_count == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 500\r\n\r\n{", R.CREDENTIALS),  # cut, but clear enough
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 99999999\r\n\r\n", R.ACCOUNT),
    ],
)
def test_cut_refusal_is_a_refusal(answer: bytes, reason: SendReason, make: Maker) -> None:
    with raw_server(lambda _attempt: [answer]) as url:
        result = send(make(url))
    assert (result.outcome, result.reason, result.attempt_count) == (REFUSED, reason, 1)


def test_answer_after_100_continue_counts(make: Maker) -> None:
    answer = b'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"ids":[1]}'
    with raw_server(lambda _attempt: [answer]) as url:
        assert send(make(url)).outcome is SENT


def test_chunked_answer_counts(make: Maker) -> None:
    answer = OK + b'Transfer-Encoding: chunked\r\n\r\n6\r\n{"ids"\r\n5\r\n:[1]}\r\n0\r\n\r\n'
    with raw_server(lambda _attempt: [answer]) as url:
        assert send(make(url)).outcome is SENT


def test_endless_answer_is_read_to_the_cap_and_no_further(make: Maker) -> None:
    sent_bytes = [0]

    def script(_attempt: int) -> Iterator[bytes]:
        yield OK
        while True:
            yield b"X: " + b"y" * 60_000 + b"\r\n"
            sent_bytes[0] += 60_005

    with raw_server(script) as url:
        assert send(make(url)).reason is R.BAD_ANSWER
    assert sent_bytes[0] < ANSWER_MAX_BYTES + 16 * 2**20  # what the kernel's buffers take


def test_fault_holds_no_trace_of_the_request(fake: FakeGatewayAPI) -> None:
    adapter = DeadlineAdapter(connect_timeout_s=1, read_timeout_s=1, tls=tls_context())
    for kind in ("reset", "malformed"):
        fake.inject(kind, at="before-answer") if kind == "reset" else fake.inject("oversize", what="body")
        adapter.begin(time.monotonic() + 1)
        request = requests.Request("POST", f"{fake.url}/rest/mtsms", json={"message": TEXT.reveal()}).prepare()
        with pytest.raises(TransportFault) as caught:
            adapter.send(request)
        assert (caught.value.__cause__, caught.value.__context__) == (None, None)
        assert adapter.has_sent
    adapter.close()


# --- helpers ----------------------------------------------------------------------------------------------


def wait_until(is_so: Callable[[], bool]) -> None:
    """Yield to the fake's threads until something shows; fails after a while."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < give_up_at
        threading.Event().wait(0.002)


@contextlib.contextmanager
def full_server() -> Iterator[tuple[str, int]]:
    """Address of a server whose queue is full: the kernel drops what would connect, as a dead host does."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(2):  # Linux takes one more than the backlog says
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(address)
        yield address


@contextlib.contextmanager
def raw_server(script: Callable[[int], Any], tls: TlsFiles | None = None) -> Iterator[str]:
    """URL of a server that reads one request per connection and sends what `script` yields, then closes.

    script: given the connection's number, from 0.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if tls is not None:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    threads: list[threading.Thread] = []

    def answer(connection: socket.socket, attempt: int) -> None:
        with connection, contextlib.suppress(OSError):
            read_request(connection)
            for data in script(attempt):
                connection.sendall(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                if tls is not None:
                    connection = context.wrap_socket(connection, server_side=True)
                threads.append(threading.Thread(target=answer, args=(connection, len(threads) - 1), daemon=True))
                threads[-1].start()

    threads.append(threading.Thread(target=accept, daemon=True))
    threads[0].start()
    try:
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in threads:
            thread.join(PATIENCE_S)


def read_request(connection: socket.socket) -> None:
    """Headers and the body that they announce."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65_536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(65_536)
