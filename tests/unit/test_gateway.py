# SPDX-License-Identifier: MIT
"""What each answer of the service means, when the same text is tried again, and that nothing leaks.

The answers come from the `responses` library, which stands in for requests' own transport adapter; what
ours does on real sockets is tested in tests/contract/test_gateway_against_fake.py.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import pickle
import re
import traceback
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any
from urllib.parse import quote, unquote

import pytest
import responses
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from requests.adapters import HTTPAdapter

from textgate import gateway as gateway_module
from textgate.config import GatewayConfig
from textgate.errors import CredentialError, TextgateError
from textgate.gateway import (
    Gateway,
    GatewayCredentials,
    MessagingGateway,
    RestGateway,
    build_gateway,
)
from textgate.gateway_outcomes import (
    Outcome,
    Retry,
    SendReason,
    SendResult,
    parse_date,
    parse_json,
    parse_retry_after,
    read_credit_answer,
    read_messaging_answer,
    read_rest_answer,
)
from textgate.gateway_transport import TransportFault
from textgate.secret import Secret

R = SendReason
SENT, REFUSED, UNKNOWN = Outcome.SENT, Outcome.REFUSED, Outcome.UNKNOWN

MSISDN = "4512345678"
CODE = "918273"
TEXT = Secret(f"{CODE} is your login code for web1. Do not share it.")
KEY, SECRET, TOKEN = "key-abcdef", "s+e/c&r=t-abcdef", "token-abcdef"
CREDENTIALS = GatewayCredentials(Secret(KEY), Secret(SECRET), Secret(TOKEN))
REST_URL = "https://gatewayapi.com/rest/mtsms"
ME_URL = "https://gatewayapi.com/rest/me"
MESSAGING_URL = "https://messaging.gatewayapi.com/mobile/single"
NOW_AT = 1_700_000_000.0
NOW_DATE = "Tue, 14 Nov 2023 22:13:20 GMT"
UUID = "d8127429-fa0c-4316-b1f2-e610c3958f43"

# The example of the service's documents.
SUCCESS = {"ids": [421332671], "usage": {"countries": {"DK": 1}, "currency": "DKK", "total_cost": 0.30}}
MESSAGING_SUCCESS = {"msg_id": "01JNN6Z0000000000000000000", "recipient": 4512345678, "reference": None}
HTML = "<html><body><h1>502</h1></body></html>"


# A busy machine is no fault of the code.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


class FakeTime:
    """A clock that moves only when somebody sleeps, and remembers for how long."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, pause_s: float) -> None:
        self.pauses.append(pause_s)
        self.now += pause_s


class PlainAdapter(HTTPAdapter):  # type: ignore[misc, unused-ignore]
    """requests' own adapter, as `responses` needs it, in the place of ours."""

    def __init__(self, **_options: object) -> None:
        super().__init__()
        self.has_sent = False

    def begin(self, _deadline_at: float) -> None:
        self.has_sent = False

    def close_if_stale(self) -> None:
        pass


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[responses.RequestsMock]:
    """The service; answers are queued with `service.add`, the last one repeats."""
    monkeypatch.setattr(gateway_module, "DeadlineAdapter", PlainAdapter)
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture
def fake_time() -> FakeTime:
    return FakeTime()


def rest(fake_time: FakeTime, **options: Any) -> RestGateway:
    return RestGateway(
        GatewayConfig(**options),
        CREDENTIALS,
        clock=fake_time.clock,
        wall_clock=lambda: NOW_AT,
        sleep=fake_time.sleep,
    )


def messaging(fake_time: FakeTime, **options: Any) -> MessagingGateway:
    return MessagingGateway(
        GatewayConfig(api="messaging", auth="token", **options),
        CREDENTIALS,
        clock=fake_time.clock,
        wall_clock=lambda: NOW_AT,
        sleep=fake_time.sleep,
    )


def send(gateway: Gateway, **changes: Any) -> SendResult:
    given: dict[str, Any] = {"msisdn": MSISDN, "text": TEXT, "validity_s": 300, "userref": "attempt-1"} | changes
    return gateway.send(given.pop("msisdn"), given.pop("text"), **given)


def error(code: str | None = None, **more: Any) -> str:
    """An error body; `code` is left out of some."""
    body = {"incident_uuid": UUID, "message": "Something about %1", "variables": [MSISDN], **more}
    return json.dumps(body if code is None else {"code": code, **body})


def sent_bodies(service: responses.RequestsMock) -> list[Any]:
    return [json.loads(call.request.body or b"") for call in service.calls]


# --- what an answer means ---------------------------------------------------------------------------------

REFUSALS = [
    # status, body, reason, whether an administrator must act
    (401, error("0x0210"), R.CREDENTIALS, True),
    (401, error("0x0211"), R.CREDENTIALS, True),
    (401, error("0x0212"), R.CONFIGURATION, True),  # address list
    (403, error("0x0213"), R.CONFIGURATION, True),
    (403, error("0x0214"), R.NUMBER_FOR_NOW, False),
    (403, error("0x0215"), R.NUMBER, False),
    (403, error("0x0216"), R.CREDIT, True),
    (403, error("0x0217"), R.COUNTRY, False),
    (422, error("0x0218"), R.CONFIGURATION, True),
    (403, error("0x021D"), R.ACCOUNT, True),
    (500, error("0x021E"), R.CONFIGURATION, True),  # in spite of the 500
    (403, error("0x021F"), R.NUMBER, False),
    (400, error("0x0220"), R.CONFIGURATION, True),
    (400, error("0x0221"), R.CONFIGURATION, True),
    (400, error("0x0222"), R.CONFIGURATION, True),
    (401, error("0x0223"), R.CREDENTIALS, True),
    (401, error("0x0224"), R.CREDENTIALS, True),
    (401, error("0x0225"), R.CLOCK, True),
    (401, error("0x0229"), R.CREDENTIALS, True),
    (403, error("0x022A"), R.ACCOUNT, True),
    (422, error("0x0310"), R.CONFIGURATION, True),
    (422, error("0x0311"), R.CONFIGURATION, True),
    (422, error("0x0312"), R.CONTENT, True),  # the text comes from the configuration
    # Codes that nobody lists, and bodies without one: by status.
    (422, error("0x0308"), R.INVALID, False),
    (403, error("0x0299"), R.ACCOUNT, True),
    (400, error(), R.CONFIGURATION, True),
    (401, error(), R.CREDENTIALS, True),
    (403, error(), R.ACCOUNT, True),
    (404, error(), R.CONFIGURATION, True),
    (405, HTML, R.CONFIGURATION, True),
    (410, error(), R.INVALID, False),
    (413, HTML, R.INVALID, False),
    (422, error(), R.INVALID, False),
    # Bodies that can't be used.
    (401, "", R.CREDENTIALS, True),
    (403, HTML, R.ACCOUNT, True),
    (403, b"\xff\xfe", R.ACCOUNT, True),
    (403, '{"code": 534}', R.ACCOUNT, True),  # 0x0216 as a number is not how it is written
    (403, '{"code": "0x02160"}', R.ACCOUNT, True),
    (403, '{"code": "0x0216\\n"}', R.ACCOUNT, True),
    (403, '["0x0216"]', R.ACCOUNT, True),
    (403, "[" * 60_000, R.ACCOUNT, True),
    # No request is sent elsewhere.
    (301, "", R.REDIRECT, True),
    (302, "", R.REDIRECT, True),
    (307, HTML, R.REDIRECT, True),
    (308, "", R.REDIRECT, True),
]


@pytest.mark.parametrize(("status", "body", "reason", "is_alert"), REFUSALS)
def test_rest_refusal_is_final(
    *,
    status: int,
    body: str | bytes,
    reason: SendReason,
    is_alert: bool,
    service: responses.RequestsMock,
    fake_time: FakeTime,
) -> None:
    service.add("POST", REST_URL, status=status, body=body)
    result = send(rest(fake_time))
    assert (result.outcome, result.reason, result.is_alert) == (REFUSED, reason, is_alert)
    assert (result.attempt_count, result.http_status) == (1, status)
    assert (result.message_ids, result.cost, fake_time.pauses) == ((), None, [])
    assert len(service.calls) == 1


def test_refusal_tells_code_and_incident(service: responses.RequestsMock, fake_time: FakeTime) -> None:
    service.add("POST", REST_URL, status=403, body=error("0x021d"))
    result = send(rest(fake_time))
    assert (result.code, result.incident) == ("0x021D", UUID)


@pytest.mark.parametrize("incident", ["x" * 36, UUID + "\n", f"{UUID} {MSISDN}", 7, None, [UUID]])
def test_refusal_keeps_no_incident_that_is_not_a_uuid(
    incident: object, service: responses.RequestsMock, fake_time: FakeTime
) -> None:
    service.add("POST", REST_URL, status=403, body=error("0x0216", incident_uuid=incident))
    assert send(rest(fake_time)).incident is None


ODD_SUCCESSES = [
    # status, body, ids that are kept all the same
    (200, "", ()),
    (200, '{"ids": [1', ()),
    (200, HTML, ()),
    (200, "null", ()),
    (200, '"ids"', ()),
    (200, "[1]", ()),
    (200, b'\xef\xbb\xbf{"ids": [1]}', ()),  # byte order mark
    (200, '{"ids": [1]}'.encode("utf-16"), ()),
    (200, b'{"ids": [1], "note": "\xff"}', ()),
    (200, '{"ids": [NaN]}', ()),
    (200, '{"ids": [1], "usage": {"total_cost": NaN}}', ()),
    (200, '{"ids": [1], "x": ' + "[" * 30_000 + "]" * 30_000 + "}", ()),
    (200, '{"ids": [' + "9" * 10_000 + "]}", ()),
    (200, '{"ids": [1e9999999999999999999999]}', ()),
    (200, "{}", ()),
    (200, '{"ids": []}', ()),
    (200, '{"ids": null}', ()),
    (200, '{"ids": 1}', ()),
    (200, '{"ids": {"0": 1}}', ()),
    (200, '{"ids": [1, 2]}', (1, 2)),
    (200, '{"ids": [1, null]}', (1,)),
    (200, '{"ids": ["421332671"]}', ("421332671",)),
    (200, '{"ids": ["4213 32671"]}', ()),
    (200, '{"ids": [true]}', ()),
    (200, '{"ids": [0]}', ()),
    (200, '{"ids": [-1]}', ()),
    (200, '{"ids": [1.0]}', ()),
    (200, '{"ids": [9223372036854775808]}', ()),  # 2**63
    (200, '{"code": "0x0216"}', ()),  # an error under a success status is no refusal
    (201, '{"ids": [1]}', (1,)),
    (202, '{"ids": [1]}', (1,)),
    (204, "", ()),
]


@pytest.mark.parametrize(("status", "body", "ids"), ODD_SUCCESSES)
def test_odd_success_is_unknown_and_not_repeated(
    status: int,
    body: str | bytes,
    ids: tuple[int | str, ...],
    service: responses.RequestsMock,
    fake_time: FakeTime,
) -> None:
    service.add("POST", REST_URL, status=status, body=body)
    result = send(rest(fake_time))
    assert (result.outcome, result.reason, result.message_ids) == (UNKNOWN, R.BAD_ANSWER, ids)
    assert (result.attempt_count, result.is_alert) == (1, False)


UNCLEAR = [
    # status, body, headers, reason
    (500, HTML, {}, R.SERVER_ERROR),
    (500, "", {}, R.SERVER_ERROR),
    (500, "[]", {}, R.SERVER_ERROR),
    (502, HTML, {}, R.SERVER_ERROR),
    (502, error("0x0216"), {}, R.SERVER_ERROR),  # a proxy's word counts for nothing
    (503, HTML, {}, R.THROTTLED),  # which may be its limit of connections from one address
    (503, error(), {}, R.THROTTLED),
    (503, HTML, {"Retry-After": "soon"}, R.THROTTLED),
    (504, HTML, {}, R.SERVER_ERROR),
    (504, HTML, {"Retry-After": "1"}, R.SERVER_ERROR),
    (599, "", {}, R.SERVER_ERROR),
    (999, "", {}, R.SERVER_ERROR),
    (408, HTML, {}, R.TIMEOUT),
    (303, "", {"Location": "https://elsewhere.example/"}, R.BAD_ANSWER),  # "done; see there"
    (300, "", {}, R.BAD_ANSWER),
    (304, "", {}, R.BAD_ANSWER),
    (102, "", {}, R.BAD_ANSWER),
]


@pytest.mark.parametrize(("status", "body", "headers", "reason"), UNCLEAR)
def test_unclear_answer_is_unknown_and_not_repeated(
    *,
    status: int,
    body: str,
    headers: dict[str, str],
    reason: SendReason,
    service: responses.RequestsMock,
    fake_time: FakeTime,
) -> None:
    service.add("POST", REST_URL, status=status, body=body, headers=headers)
    result = send(rest(fake_time))
    assert (result.outcome, result.reason, result.attempt_count) == (UNKNOWN, reason, 1)
    assert result.http_status == status


def test_success_tells_id_cost_and_parts(service: responses.RequestsMock, fake_time: FakeTime) -> None:
    service.add("POST", REST_URL, json=SUCCESS)
    assert send(rest(fake_time)) == SendResult(
        outcome=SENT,
        reason=R.ACCEPTED,
        attempt_count=1,
        duration_s=0.0,
        message_ids=(421332671,),
        cost=Decimal("0.3"),
        currency="DKK",
        parts=(("DK", 1),),
        http_status=200,
    )


def test_success_with_unknown_fields_is_a_success(service: responses.RequestsMock, fake_time: FakeTime) -> None:
    service.add("POST", REST_URL, json={**SUCCESS, "added_later": {"x": [1, {}]}})
    assert send(rest(fake_time)).outcome is SENT


def test_cost_is_exact(service: responses.RequestsMock, fake_time: FakeTime) -> None:
    body = '{"ids": [1], "usage": {"currency": "DKK", "total_cost": 0.1234567890123456789}}'
    service.add("POST", REST_URL, body=body)
    assert send(rest(fake_time)).cost is None  # 19 decimals are no price
    service.replace("POST", REST_URL, body=body.replace("3456789}", "}"))
    assert send(rest(fake_time)).cost == Decimal("0.123456789012")


@pytest.mark.parametrize(
    ("usage", "cost", "currency", "parts"),
    [
        ("null", None, None, ()),
        ("[]", None, None, ()),
        ('"DKK"', None, None, ()),
        ("{}", None, None, ()),
        ('{"total_cost": "0.30", "currency": "EUR"}', Decimal("0.30"), "EUR", ()),
        ('{"total_cost": 2}', Decimal(2), None, ()),
        ('{"total_cost": -0.3}', None, None, ()),
        ('{"total_cost": true}', None, None, ()),
        ('{"total_cost": [0.3]}', None, None, ()),
        ('{"total_cost": 1e999999999999}', None, None, ()),  # a terabyte in plain notation
        ('{"total_cost": 1e-999999}', None, None, ()),
        ('{"total_cost": 1e3}', Decimal(1000), None, ()),
        ('{"total_cost": 1e400}', None, None, ()),
        ('{"total_cost": 1000000000000}', None, None, ()),
        ('{"total_cost": "٣"}', None, None, ()),
        ('{"total_cost": "0.3\\n"}', None, None, ()),
        ('{"currency": "dkk"}', None, None, ()),
        ('{"currency": "DKK\\n"}', None, None, ()),
        ('{"currency": 208}', None, None, ()),
        ('{"countries": {"DK": 1, "SE": 2}}', None, None, (("DK", 1), ("SE", 2))),
        ('{"countries": {"DK": 255}}', None, None, (("DK", 255),)),
        ('{"countries": {"DK": 256}}', None, None, ()),
        ('{"countries": {"DK": 0}}', None, None, ()),
        ('{"countries": {"DK": true}}', None, None, ()),
        ('{"countries": {"DK": 1.5}}', None, None, ()),
        ('{"countries": {"DK": 1, "Denmark": 1}}', None, None, ()),
        ('{"countries": ["DK"]}', None, None, ()),
        (json.dumps({"countries": {f"A{chr(65 + i)}": 1 for i in range(11)}}), None, None, ()),
    ],
)
def test_odd_usage_does_not_turn_a_success_into_a_failure(
    *,
    usage: str,
    cost: Decimal | None,
    currency: str | None,
    parts: tuple[tuple[str, int], ...],
    service: responses.RequestsMock,
    fake_time: FakeTime,
) -> None:
    service.add("POST", REST_URL, body=f'{{"ids": [1], "usage": {usage}}}')
    result = send(rest(fake_time))
    assert (result.outcome, result.cost, result.currency, result.parts) == (SENT, cost, currency, parts)


def test_success_without_usage_is_a_success(service: responses.RequestsMock, fake_time: FakeTime) -> None:
    service.add("POST", REST_URL, json={"ids": [2**31 + 5]})
    result = send(rest(fake_time))
    assert (result.outcome, result.message_ids, result.cost) == (SENT, (2**31 + 5,), None)


MESSAGING_ANSWERS = [
    (202, json.dumps(MESSAGING_SUCCESS), SENT, R.ACCEPTED),
    (200, json.dumps(MESSAGING_SUCCESS), UNKNOWN, R.BAD_ANSWER),
    (202, "", UNKNOWN, R.BAD_ANSWER),
    (202, "[]", UNKNOWN, R.BAD_ANSWER),
    (202, '{"msg_id": null}', UNKNOWN, R.BAD_ANSWER),
    (202, '{"msg_id": 7}', UNKNOWN, R.BAD_ANSWER),
    (202, '{"msg_id": ""}', UNKNOWN, R.BAD_ANSWER),
    (202, '{"msg_id": "a b"}', UNKNOWN, R.BAD_ANSWER),
    (202, '{"responses": [{"msg_id": "01J"}]}', UNKNOWN, R.BAD_ANSWER),
    (401, '{"description": "Unauthorized", "detail": []}', REFUSED, R.CREDENTIALS),
    (403, '{"description": "Forbidden", "detail": []}', REFUSED, R.CREDENTIALS),
    (403, error("0x0216"), REFUSED, R.CREDIT),  # the REST API's error bodies occur here, too
    (422, '{"detail": [{"loc": ["body", "recipient"], "msg": "x", "type": "y"}]}', REFUSED, R.NUMBER),
    (422, '{"detail": [{"loc": ["body", "sender"]}]}', REFUSED, R.CONFIGURATION),
    (422, '{"detail": [{"loc": ["body", "message"]}]}', REFUSED, R.CONTENT),
    (422, '{"detail": [{"loc": ["body", "expiration", 0]}]}', REFUSED, R.CONFIGURATION),
    (422, '{"detail": [7, {"loc": 7}, {"loc": [7]}, {"loc": ["x", "recipient"]}]}', REFUSED, R.NUMBER),
    (422, '{"detail": [{"loc": ["body", "colour"]}]}', REFUSED, R.INVALID),
    (422, '{"detail": "recipient"}', REFUSED, R.INVALID),
    (404, '{"detail": [{"loc": ["recipient"]}]}', REFUSED, R.CONFIGURATION),
    (500, "Internal Server Error", UNKNOWN, R.SERVER_ERROR),
]


@pytest.mark.parametrize(("status", "body", "outcome", "reason"), MESSAGING_ANSWERS)
def test_messaging_answers(
    *,
    status: int,
    body: str,
    outcome: Outcome,
    reason: SendReason,
    service: responses.RequestsMock,
    fake_time: FakeTime,
) -> None:
    service.add("POST", MESSAGING_URL, status=status, body=body)
    result = send(messaging(fake_time))
    assert (result.outcome, result.reason, result.attempt_count) == (outcome, reason, 1)


def test_messaging_success_tells_its_id(service: responses.RequestsMock, fake_time: FakeTime) -> None:
    service.add("POST", MESSAGING_URL, status=202, json=MESSAGING_SUCCESS)
    assert send(messaging(fake_time)).message_ids == ("01JNN6Z0000000000000000000",)


@UNHURRIED
@given(status=st.integers(100, 999), body=st.binary(), wait_s=st.none() | st.floats(0, 10))
def test_any_answer_has_a_reading(status: int, body: bytes, wait_s: float | None) -> None:
    for read in (read_rest_answer, read_messaging_answer):
        reading = read(status, body, retry_after_s=wait_s)
        assert reading.outcome is not SENT
        # A success status alone must never turn into a refusal.
        assert reading.outcome is UNKNOWN or not 200 <= status <= 299


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KNOWN_NAMES = st.sampled_from(["ids", "usage", "code", "incident_uuid", "detail", "msg_id", "credit", "currency"])


@UNHURRIED
@given(status=st.sampled_from([200, 202, 204, 307, 401, 403, 422, 500, 503]), body=st.dictionaries(KNOWN_NAMES, JSON))
def test_any_json_has_a_reading(status: int, body: dict[str, Any]) -> None:
    raw = json.dumps(body).encode()
    for read in (read_rest_answer, read_messaging_answer):
        reading = read(status, raw)
        assert reading.outcome is not REFUSED or not 200 <= status <= 299
        assert reading.code is None or re.fullmatch(r"0x[0-9A-F]{4}", reading.code)
    read_credit_answer(status, raw, clock_skew_s=None)


# --- when the same text is tried again --------------------------------------------------------------------


def answers(service: responses.RequestsMock, *queue: dict[str, Any]) -> None:
    for answer in queue:
        service.add("POST", REST_URL, **answer)


ACCEPT: dict[str, Any] = {"json": SUCCESS}
BROKEN: dict[str, Any] = {"status": 500, "body": error()}
REPLAYED: dict[str, Any] = {"status": 401, "body": error("0x0226")}
NOT_SENT: dict[str, Any] = {"body": TransportFault(R.UNREACHABLE, has_sent=False)}
LOST: dict[str, Any] = {"body": TransportFault(R.RESET, has_sent=True)}


def busy(status: int, retry_after: str | None = None, **headers: str) -> dict[str, Any]:
    more = {} if retry_after is None else {"Retry-After": retry_after}
    return {"status": status, "body": HTML, "headers": headers | more}


RETRIES = [
    # answers, outcome, reason, attempts, pauses
    ([NOT_SENT, ACCEPT], SENT, R.ACCEPTED, 2, [0.3]),
    ([NOT_SENT, NOT_SENT, ACCEPT], SENT, R.ACCEPTED, 3, [0.3, 1.0]),
    ([NOT_SENT, NOT_SENT, NOT_SENT, ACCEPT], REFUSED, R.UNREACHABLE, 3, [0.3, 1.0]),  # three in all
    ([LOST, ACCEPT], UNKNOWN, R.RESET, 1, []),  # may have been sent: never again
    ([NOT_SENT, LOST, ACCEPT], UNKNOWN, R.RESET, 2, [0.3]),
    # The API's own 500: once, and from then on the text may be out.
    ([BROKEN, ACCEPT], SENT, R.ACCEPTED, 2, [0.3]),
    ([BROKEN, BROKEN, ACCEPT], UNKNOWN, R.SERVER_ERROR, 2, [0.3]),
    ([BROKEN, {"status": 403, "body": error("0x0214")}], UNKNOWN, R.NUMBER_FOR_NOW, 2, [0.3]),
    ([BROKEN, {"status": 403, "body": error("0x0216")}], UNKNOWN, R.CREDIT, 2, [0.3]),
    ([BROKEN, NOT_SENT, NOT_SENT], UNKNOWN, R.UNREACHABLE, 3, [0.3, 1.0]),
    ([NOT_SENT, BROKEN, BROKEN, ACCEPT], UNKNOWN, R.SERVER_ERROR, 3, [0.3, 1.0]),
    # A nonce said to be used: once more with a new one.
    ([REPLAYED, ACCEPT], SENT, R.ACCEPTED, 2, [0.3]),
    ([REPLAYED, REPLAYED, ACCEPT], REFUSED, R.REPLAY, 2, [0.3]),
    ([REPLAYED, BROKEN, ACCEPT], SENT, R.ACCEPTED, 3, [0.3, 1.0]),
    ([REPLAYED, NOT_SENT, REPLAYED, ACCEPT], REFUSED, R.REPLAY, 3, [0.3, 1.0]),
    # Too busy.
    ([busy(429), ACCEPT], SENT, R.ACCEPTED, 2, [0.3]),
    ([busy(429, "2"), ACCEPT], SENT, R.ACCEPTED, 2, [2.0]),
    ([busy(429, "0"), ACCEPT], SENT, R.ACCEPTED, 2, [0.3]),  # not at once
    ([busy(429, "2"), busy(503, "3"), ACCEPT], SENT, R.ACCEPTED, 3, [2.0, 3.0]),
    ([busy(503, "2"), busy(503, "2"), busy(503, "2"), ACCEPT], REFUSED, R.THROTTLED, 3, [2.0, 2.0]),
    ([busy(429, "14.9"), ACCEPT], SENT, R.ACCEPTED, 2, [0.3]),  # unreadable, as if it weren't there
    ([busy(429, "14"), ACCEPT], SENT, R.ACCEPTED, 2, [14.0]),
    ([busy(429, "15"), ACCEPT], REFUSED, R.THROTTLED, 1, []),  # past the total time: not waited for
    ([busy(503, "9999999999"), ACCEPT], UNKNOWN, R.THROTTLED, 1, []),  # 317 years are no number of seconds
    ([busy(503, "999999999"), ACCEPT], REFUSED, R.THROTTLED, 1, []),
    ([busy(429, "-1"), ACCEPT], SENT, R.ACCEPTED, 2, [0.3]),
    ([busy(503, "Tue, 14 Nov 2023 22:13:25 GMT"), ACCEPT], SENT, R.ACCEPTED, 2, [5.0]),  # by our clock
    (
        [busy(503, "Tue, 14 Nov 2023 22:13:25 GMT", Date="Tue, 14 Nov 2023 22:13:23 GMT"), ACCEPT],
        SENT,
        R.ACCEPTED,
        2,
        [2.0],
    ),
    ([busy(503, "Tue, 14 Nov 2023 20:00:00 GMT"), ACCEPT], SENT, R.ACCEPTED, 2, [0.3]),  # long over
    ([busy(503, "Sun, 14 Nov 2123 20:00:00 GMT"), ACCEPT], REFUSED, R.THROTTLED, 1, []),
    ([{"status": 429, "body": error("0x0216")}, ACCEPT], REFUSED, R.CREDIT, 1, []),
]


@pytest.mark.parametrize(("queue", "outcome", "reason", "attempt_count", "pauses"), RETRIES)
def test_retries(
    *,
    queue: list[dict[str, Any]],
    outcome: Outcome,
    reason: SendReason,
    attempt_count: int,
    pauses: list[float],
    service: responses.RequestsMock,
    fake_time: FakeTime,
) -> None:
    answers(service, *queue)
    result = send(rest(fake_time))
    assert (result.outcome, result.reason, result.attempt_count) == (outcome, reason, attempt_count)
    assert fake_time.pauses == pauses
    assert result.duration_s == pytest.approx(sum(pauses))
    assert len(service.calls) == attempt_count
    assert len({call.request.body for call in service.calls}) == 1  # the same text, to the byte


def test_retry_must_fit_into_the_total_time(service: responses.RequestsMock, fake_time: FakeTime) -> None:
    answers(service, NOT_SENT, ACCEPT)
    assert send(rest(fake_time, total_timeout_s=0.3)).attempt_count == 1
    assert send(rest(fake_time, total_timeout_s=0.31)).outcome is SENT


def test_attempts_share_one_deadline(
    service: responses.RequestsMock, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines: list[float] = []
    monkeypatch.setattr(PlainAdapter, "begin", lambda _self, deadline_at: deadlines.append(deadline_at))
    answers(service, NOT_SENT, NOT_SENT, ACCEPT)
    send(rest(fake_time))
    assert deadlines == [1015.0] * 3


FAULTS = [
    # fault, outcome, reason, attempts
    (TransportFault(R.DNS, has_sent=False), REFUSED, R.DNS, 3),
    (TransportFault(R.TLS, has_sent=False), REFUSED, R.TLS, 3),
    (TransportFault(R.DEADLINE, has_sent=False), REFUSED, R.DEADLINE, 3),
    (TransportFault(R.INTERNAL, has_sent=False), REFUSED, R.INTERNAL, 1),
    (TransportFault(R.TIMEOUT, has_sent=True), UNKNOWN, R.TIMEOUT, 1),
    (TransportFault(R.DEADLINE, has_sent=True), UNKNOWN, R.DEADLINE, 1),
    (TransportFault(R.BAD_ANSWER, has_sent=True), UNKNOWN, R.BAD_ANSWER, 1),
    # Cut after the status line: a success or a 5xx stays open, a refusal is one.
    (TransportFault(R.RESET, has_sent=True, status=200), UNKNOWN, R.RESET, 1),
    (TransportFault(R.RESET, has_sent=True, status=500), UNKNOWN, R.RESET, 1),
    (TransportFault(R.RESET, has_sent=True, status=503), UNKNOWN, R.RESET, 1),
    (TransportFault(R.RESET, has_sent=True, status=401), REFUSED, R.CREDENTIALS, 1),
    (TransportFault(R.TIMEOUT, has_sent=True, status=429), REFUSED, R.THROTTLED, 1),
    # Ours.
    (RuntimeError("boom"), REFUSED, R.INTERNAL, 1),
]


@pytest.mark.parametrize(("fault", "outcome", "reason", "attempt_count"), FAULTS)
def test_faults(
    *,
    fault: Exception,
    outcome: Outcome,
    reason: SendReason,
    attempt_count: int,
    service: responses.RequestsMock,
    fake_time: FakeTime,
) -> None:
    service.add("POST", REST_URL, body=fault)
    result = send(rest(fake_time))
    assert (result.outcome, result.reason, result.attempt_count) == (outcome, reason, attempt_count)
    assert result.is_alert == (reason in (R.TLS, R.INTERNAL, R.CREDENTIALS))


def test_internal_error_after_the_request_went_out_is_unknown(
    service: responses.RequestsMock, fake_time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PlainAdapter, "begin", lambda self, _deadline_at: setattr(self, "has_sent", True))
    service.add("POST", REST_URL, body=RuntimeError("boom"))
    result = send(rest(fake_time))
    assert (result.outcome, result.reason, result.is_alert) == (UNKNOWN, R.INTERNAL, True)


# --- what goes out ----------------------------------------------------------------------------------------


def test_rest_request(service: responses.RequestsMock, fake_time: FakeTime) -> None:
    answers(service, ACCEPT)
    send(rest(fake_time, sender="ACME login", message_class="premium", priority="URGENT"))
    assert sent_bodies(service) == [
        {
            "message": TEXT.reveal(),
            "sender": "ACME login",
            "recipients": [{"msisdn": 4512345678}],
            "class": "premium",
            "priority": "URGENT",
            "validity_period": 300,
            "max_parts": 1,
            "encoding": "UTF8",
            "userref": "attempt-1",
        }
    ]


def test_requests_say_who_they_are_and_ask_for_no_compression(
    service: responses.RequestsMock, fake_time: FakeTime
) -> None:
    answers(service, ACCEPT)
    send(rest(fake_time))
    headers = headers_of(service.calls[0])
    del headers["Authorization"]
    assert headers.pop("User-Agent").startswith("textgate/")
    del headers["Content-Length"]
    assert headers == {
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
    }


@pytest.mark.parametrize(
    ("priority", "shown"),
    [("BULK", "normal"), ("NORMAL", "normal"), ("URGENT", "urgent"), ("VERY_URGENT", "urgent")],
)
def test_messaging_request(priority: str, shown: str, service: responses.RequestsMock, fake_time: FakeTime) -> None:
    service.add("POST", MESSAGING_URL, status=202, json=MESSAGING_SUCCESS)
    send(messaging(fake_time, priority=priority))
    assert sent_bodies(service) == [
        {
            "sender": "textgate",
            "recipient": 4512345678,
            "message": TEXT.reveal(),
            "reference": "attempt-1",
            "expiration": 300,
            "priority": shown,
        }
    ]
    assert authorization(service.calls[0]) == f"Token {TOKEN}"


@pytest.mark.parametrize(
    ("validity_s", "shown"),
    [(-5, 60), (0, 60), (59, 60), (60, 60), (61, 61), (432_000, 432_000), (432_001, 432_000)],
)
def test_validity_is_never_under_a_minute_nor_over_five_days(
    validity_s: int, shown: int, service: responses.RequestsMock, fake_time: FakeTime
) -> None:
    answers(service, ACCEPT)
    service.add("POST", MESSAGING_URL, status=202, json=MESSAGING_SUCCESS)
    send(rest(fake_time), validity_s=validity_s)
    send(messaging(fake_time), validity_s=validity_s)
    bodies = sent_bodies(service)
    assert (bodies[0]["validity_period"], bodies[1]["expiration"]) == (shown, shown)


WRONG_INPUTS = [
    ({"msisdn": "+4512345678"}, R.NUMBER),
    ({"msisdn": "04512345678"}, R.NUMBER),
    ({"msisdn": "4512345678\n"}, R.NUMBER),
    ({"msisdn": "٤٥١٢٣٤٥٦٧٨"}, R.NUMBER),
    ({"msisdn": "1234567890123456"}, R.NUMBER),  # 16 digits
    ({"msisdn": "1234"}, R.NUMBER),
    ({"msisdn": ""}, R.NUMBER),
    ({"text": Secret("")}, R.CONTENT),
    ({"text": Secret("x" * 161)}, R.CONTENT),  # a second part
    ({"text": Secret("123456 \N{KEY}")}, R.CONTENT),
    ({"userref": ""}, R.INTERNAL),
    ({"userref": "x" * 65}, R.INTERNAL),
    ({"userref": "user name"}, R.INTERNAL),
    ({"userref": "a\n"}, R.INTERNAL),
]


@pytest.mark.parametrize(("changes", "reason"), WRONG_INPUTS)
def test_wrong_input_is_refused_and_nothing_sent(
    changes: dict[str, Any], reason: SendReason, service: responses.RequestsMock, fake_time: FakeTime
) -> None:
    answers(service, ACCEPT)
    result = send(rest(fake_time), **changes)
    assert (result.outcome, result.reason, result.attempt_count) == (REFUSED, reason, 0)
    assert len(service.calls) == 0


def test_longest_text_and_number_are_sent(service: responses.RequestsMock, fake_time: FakeTime) -> None:
    answers(service, ACCEPT)
    result = send(rest(fake_time), msisdn="1" * 15, text=Secret("x" * 158 + "€"), userref="x" * 64)
    assert result.outcome is SENT


ADDRESSES = [
    # configured, for REST, for the Messaging API
    ("https://gatewayapi.com", "https://gatewayapi.com", "https://messaging.gatewayapi.com"),
    ("https://gatewayapi.eu", "https://gatewayapi.eu", "https://messaging.gatewayapi.eu"),
    ("https://GatewayAPI.eu", "https://gatewayapi.eu", "https://messaging.gatewayapi.eu"),
    ("https://messaging.gatewayapi.com", "https://messaging.gatewayapi.com", "https://messaging.gatewayapi.com"),
    ("http://127.0.0.1:8080", "http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ("https://gatewayapi.com.example", "https://gatewayapi.com.example", "https://gatewayapi.com.example"),
]


@pytest.mark.parametrize(("url", "rest_url", "messaging_url"), ADDRESSES)
def test_addresses(
    url: str, rest_url: str, messaging_url: str, service: responses.RequestsMock, fake_time: FakeTime
) -> None:
    service.add("POST", f"{rest_url}/rest/mtsms", json=SUCCESS)
    service.add("POST", f"{messaging_url}/mobile/single", status=202, json=MESSAGING_SUCCESS)
    assert send(rest(fake_time, url=url)).outcome is SENT
    assert send(messaging(fake_time, url=url)).outcome is SENT


def test_redirect_is_not_followed(service: responses.RequestsMock, fake_time: FakeTime) -> None:
    service.add("POST", "https://elsewhere.example/rest/mtsms", json=SUCCESS)
    service.add("GET", "https://elsewhere.example/rest/mtsms", json=SUCCESS)
    for status in (301, 302, 303, 307, 308):
        service.add("POST", REST_URL, status=status, headers={"Location": "https://elsewhere.example/rest/mtsms"})
    for _ in range(5):
        assert send(rest(fake_time)).outcome is not SENT
    assert {call.request.url for call in service.calls} == {REST_URL}


# --- how it is signed -------------------------------------------------------------------------------------


def headers_of(call: responses.Call) -> dict[str, str]:
    """A request's headers; requests-oauthlib leaves names and values as bytes."""
    words = [
        part if isinstance(part, str) else part.decode() for pair in call.request.headers.items() for part in pair
    ]
    return dict(zip(words[::2], words[1::2], strict=True))


def authorization(call: responses.Call) -> str:
    """The header that proves who sends."""
    return headers_of(call)["Authorization"]


def oauth_fields(call: responses.Call) -> dict[str, str]:
    """The fields of an OAuth header, written from RFC 5849 §3.5.1."""
    header = authorization(call)
    assert header.startswith("OAuth ")
    fields = dict(item.strip().split("=", 1) for item in header[6:].split(","))
    return {name: unquote(value.strip('"')) for name, value in fields.items()}


def signature(method: str, url: str, fields: dict[str, str], secret: str) -> str:
    """HMAC-SHA1 of RFC 5849 §3.4.2, by hand: the client's library must not vouch for itself."""
    pairs = sorted((quote(n, "~"), quote(v, "~")) for n, v in fields.items() if n != "oauth_signature")
    parameters = "&".join(f"{name}={value}" for name, value in pairs)
    base = "&".join(quote(part, "~") for part in (method, url, parameters))
    mac = hmac.new(f"{quote(secret, '~')}&".encode(), base.encode(), hashlib.sha1)
    return base64.b64encode(mac.digest()).decode()


def test_signature_by_hand_agrees_with_known_vectors() -> None:
    fields = {
        "oauth_consumer_key": "test-key",
        "oauth_nonce": "12345678901234567891700000000",
        "oauth_signature_method": "HMAC-SHA1",
        "oauth_timestamp": "1700000000",
        "oauth_version": "1.0",
    }
    assert signature("POST", REST_URL, fields, "test-secret") == "cmq363l3YhDJERxmsLvoFhpXoV8="
    fields |= {"oauth_nonce": "n-2", "oauth_timestamp": "1700000060"}
    url = "http://127.0.0.1:8080/rest/mtsms"
    assert signature("POST", url, fields, "s+e/c&r=t") == "5uLWoJR6kPHT1Iy3cQyzJ53I1bA="


def test_request_is_signed_with_key_and_secret(service: responses.RequestsMock, fake_time: FakeTime) -> None:
    answers(service, ACCEPT)
    send(rest(fake_time))
    fields = oauth_fields(service.calls[0])
    assert fields["oauth_consumer_key"] == KEY
    assert fields["oauth_signature_method"] == "HMAC-SHA1"
    assert fields["oauth_signature"] == signature("POST", REST_URL, fields, SECRET)
    assert set(fields) == {
        "oauth_consumer_key",
        "oauth_nonce",
        "oauth_signature",
        "oauth_signature_method",
        "oauth_timestamp",
        "oauth_version",
    }


def test_each_attempt_is_signed_afresh(service: responses.RequestsMock, fake_time: FakeTime) -> None:
    answers(service, NOT_SENT, REPLAYED, ACCEPT)
    gateway = rest(fake_time)
    assert send(gateway).attempt_count == 3
    send(gateway)
    headers = [oauth_fields(call) for call in service.calls]
    assert len(headers) == 4
    assert len({fields["oauth_nonce"] for fields in headers}) == 4
    assert len({fields["oauth_signature"] for fields in headers}) == 4


def test_rest_takes_a_token(service: responses.RequestsMock, fake_time: FakeTime) -> None:
    answers(service, ACCEPT)
    assert send(rest(fake_time, auth="token")).outcome is SENT
    assert authorization(service.calls[0]) == f"Token {TOKEN}"


# --- making one -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, RestGateway),
        ({"auth": "token"}, RestGateway),
        ({"api": "messaging", "auth": "token"}, MessagingGateway),
    ],
)
def test_build_gateway(options: dict[str, Any], kind: type[object]) -> None:
    gateway = build_gateway(GatewayConfig(**options), CREDENTIALS)
    assert type(gateway) is kind
    gateway.close()


BAD_CREDENTIALS = [
    ("oauth1", replace(CREDENTIALS, key=None), "key"),
    ("oauth1", replace(CREDENTIALS, secret=None), "secret"),
    ("token", replace(CREDENTIALS, token=None), "token"),
    ("oauth1", replace(CREDENTIALS, key=Secret("")), "key"),
    ("oauth1", replace(CREDENTIALS, secret=Secret("hush\n")), "secret"),
    ("oauth1", replace(CREDENTIALS, key=Secret("hush hush")), "key"),
    ("token", replace(CREDENTIALS, token=Secret("hush\r\nX-Evil: 1")), "token"),
    ("token", replace(CREDENTIALS, token=Secret("hush\u00e9")), "token"),
    ("token", replace(CREDENTIALS, token=Secret("h" * 513)), "token"),
]


@pytest.mark.parametrize(("auth", "credentials", "name"), BAD_CREDENTIALS)
def test_credentials_that_cannot_be_used_are_refused_at_once(
    auth: str, credentials: GatewayCredentials, name: str
) -> None:
    with pytest.raises(CredentialError) as caught:
        build_gateway(GatewayConfig(auth=auth), credentials)
    assert f"gateway's {name} is" in caught.value.message
    assert "hush" not in "".join(traceback.format_exception(caught.value)).lower().replace("hush hush", "")


def test_credentials_that_are_not_needed_may_be_missing() -> None:
    build_gateway(GatewayConfig(), replace(CREDENTIALS, token=None)).close()
    build_gateway(GatewayConfig(auth="token"), GatewayCredentials(token=Secret(TOKEN))).close()


@pytest.mark.parametrize("content", [None, "", "no certificate\n"])
def test_unusable_list_of_authorities_is_an_error(content: str | None, tmp_path: Any) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_text(content)
    with pytest.raises(TextgateError, match="certificate authorities"):
        RestGateway(GatewayConfig(), CREDENTIALS, ca_file=str(ca_file))


# --- the balance ------------------------------------------------------------------------------------------

CREDIT_ANSWERS = [
    # status, body, reason, amount, currency
    (200, '{"credit": 1234.56, "currency": "DKK", "id": 1}', R.ACCEPTED, Decimal("1234.56"), "DKK"),
    (200, '{"credit": "1234.56", "currency": "EUR"}', R.ACCEPTED, Decimal("1234.56"), "EUR"),
    (200, '{"credit": 0}', R.ACCEPTED, Decimal(0), None),
    (200, '{"credit": -3.5, "currency": "DKK"}', R.ACCEPTED, Decimal("-3.5"), "DKK"),  # overdrawn
    (200, "{}", R.BAD_ANSWER, None, None),
    (200, "", R.BAD_ANSWER, None, None),
    (200, '{"credit": null}', R.BAD_ANSWER, None, None),
    (200, '{"credit": true}', R.BAD_ANSWER, None, None),
    (200, '{"credit": "lots"}', R.BAD_ANSWER, None, None),
    (200, '{"credit": "1e9"}', R.BAD_ANSWER, None, None),
    (401, error("0x0225"), R.CLOCK, None, None),
    (401, error("0x0223"), R.CREDENTIALS, None, None),
    (403, error("0x022A"), R.ACCOUNT, None, None),
    (500, error(), R.SERVER_ERROR, None, None),
    (503, HTML, R.THROTTLED, None, None),
    (302, "", R.REDIRECT, None, None),
]


@pytest.mark.parametrize(("status", "body", "reason", "amount", "currency"), CREDIT_ANSWERS)
def test_credit(
    *,
    status: int,
    body: str,
    reason: SendReason,
    amount: Decimal | None,
    currency: str | None,
    service: responses.RequestsMock,
    fake_time: FakeTime,
) -> None:
    service.add("GET", ME_URL, status=status, body=body, headers={"Date": NOW_DATE})
    credit = rest(fake_time).credit()
    assert (credit.reason, credit.amount, credit.currency) == (reason, amount, currency)
    assert credit.http_status == status
    assert credit.is_alert == (reason in (R.CLOCK, R.CREDENTIALS, R.ACCOUNT, R.REDIRECT))
    assert len(service.calls) == 1  # asking again is up to the person who asks
    assert service.calls[0].request.body is None


@pytest.mark.parametrize(
    ("date", "skew_s"),
    [
        (NOW_DATE, -0.5),  # cut to whole seconds, so half a second more is likeliest
        ("Tue, 14 Nov 2023 21:13:20 GMT", 3599.5),  # ours is an hour ahead
        ("Tue, 14 Nov 2023 23:13:20 GMT", -3600.5),
        ("yesterday", None),
        ("Tue, 14 Nov 99999 22:13:20 GMT", None),
        ("Tue, 14 Nov 99999999999999999999 22:13:20 GMT", None),
        (None, None),
    ],
)
@pytest.mark.parametrize("status", [200, 401])
def test_credit_tells_how_far_the_clock_is_off(
    status: int, date: str | None, skew_s: float | None, service: responses.RequestsMock, fake_time: FakeTime
) -> None:
    headers = {} if date is None else {"Date": date}
    service.add("GET", ME_URL, status=status, body='{"credit": 1}', headers=headers)
    assert rest(fake_time).credit().clock_skew_s == skew_s


@pytest.mark.parametrize("has_sent", [False, True])
def test_credit_without_an_answer(has_sent: bool, service: responses.RequestsMock, fake_time: FakeTime) -> None:
    service.add("GET", ME_URL, body=TransportFault(R.TIMEOUT, has_sent=has_sent))
    credit = rest(fake_time).credit()
    assert (credit.reason, credit.amount, credit.clock_skew_s) == (R.TIMEOUT, None, None)


def test_credit_is_signed(service: responses.RequestsMock, fake_time: FakeTime) -> None:
    service.add("GET", ME_URL, json={"credit": 1})
    rest(fake_time).credit()
    fields = oauth_fields(service.calls[0])
    assert fields["oauth_signature"] == signature("GET", ME_URL, fields, SECRET)


def test_messaging_account_is_asked_on_the_platform_with_its_token(
    service: responses.RequestsMock, fake_time: FakeTime
) -> None:
    service.add("GET", ME_URL, json={"credit": "12.50", "currency": "DKK"})
    credit = messaging(fake_time).credit()
    assert (credit.reason, credit.amount, credit.currency) == (R.ACCEPTED, Decimal("12.50"), "DKK")
    assert service.calls[0].request.headers["Authorization"] == f"Token {TOKEN}"


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("body", [b"", b'{"code": "0x0229"}', b'{"description": "Forbidden", "detail": []}'])
def test_messaging_account_that_tells_no_balance_is_not_called_wrong(
    status: int, body: bytes, service: responses.RequestsMock, fake_time: FakeTime
) -> None:
    service.add("GET", ME_URL, status=status, body=body)
    credit = messaging(fake_time).credit()
    assert (credit.reason, credit.amount, credit.is_alert) == (R.UNSUPPORTED, None, False)


def test_messaging_account_that_breaks_is_told_as_such(service: responses.RequestsMock, fake_time: FakeTime) -> None:
    service.add("GET", ME_URL, status=500)
    assert messaging(fake_time).credit().reason is R.SERVER_ERROR


# --- pieces -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        (None, None),
        ("", None),
        ("0", 0.0),
        (" 7 ", 7.0),
        ("000000007", 7.0),
        ("-7", None),
        ("7.5", None),
        ("7 s", None),
        ("٣", None),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60.0),
        ("Tuesday, 14-Nov-23 22:14:20 GMT", 60.0),  # the two old forms of RFC 9110 §5.6.7
        ("Tue Nov 14 22:14:20 2023", 60.0),
        ("Tue, 14 Nov 2023 22:12:20 GMT", 0.0),
        ("Tue, 99 Nov 2023 22:14:20 GMT", None),
        ("x" * 10_000, None),
    ],
)
def test_parse_retry_after(value: str | None, wait_s: float | None) -> None:
    assert parse_retry_after(value, now_at=NOW_AT) == wait_s


@UNHURRIED
@given(st.text())
def test_parse_date_and_retry_after_take_any_text(value: str) -> None:
    parse_date(value)
    wait_s = parse_retry_after(value, now_at=NOW_AT)
    assert wait_s is None or wait_s >= 0


@UNHURRIED
@given(st.binary())
def test_parse_json_takes_any_bytes(body: bytes) -> None:
    assert isinstance(parse_json(body), dict)


def test_only_what_passes_is_no_alert() -> None:
    passing = {reason for reason in R if not SendResult(REFUSED, reason, 1, 0.0).is_alert}
    assert passing == {
        R.ACCEPTED,
        R.COUNTRY,
        R.NUMBER,
        R.NUMBER_FOR_NOW,
        R.INVALID,
        R.THROTTLED,
        R.SERVER_ERROR,
        R.DNS,
        R.UNREACHABLE,
        R.TIMEOUT,
        R.DEADLINE,
        R.RESET,
        R.BAD_ANSWER,
        R.UNSUPPORTED,
    }


def test_reading_becomes_a_result_field_by_field() -> None:
    reading = read_rest_answer(200, json.dumps(SUCCESS).encode())
    result = reading.result(attempt_count=2, duration_s=1.5)
    assert (result.attempt_count, result.duration_s) == (2, 1.5)
    names = set(reading.__dataclass_fields__) - {"retry", "retry_after_s"}
    assert {name: getattr(result, name) for name in names} == {name: getattr(reading, name) for name in names}
    assert reading.retry is Retry.NEVER


# --- nothing leaks ----------------------------------------------------------------------------------------

PRIVATE = (CODE, MSISDN, KEY, SECRET, TOKEN, quote(SECRET, ""), "oauth_signature=", "Token ")


def assert_private(shown: str) -> None:
    assert [word for word in PRIVATE if word in shown] == []


LEAKY = [
    {"status": 403, "body": error("0x0215", message=f"MSISDN {MSISDN} blacklisted {TEXT.reveal()}")},
    {"status": 403, "body": json.dumps({"code": TEXT.reveal(), "incident_uuid": SECRET})},
    {"status": 200, "body": json.dumps({"ids": [TEXT.reveal()], "usage": {"currency": SECRET}})},
    {"status": 422, "body": json.dumps({"detail": [{"loc": [SECRET], "msg": MSISDN}]})},
    {"body": RuntimeError(f"{SECRET} {MSISDN} {TEXT.reveal()}")},
    {"body": TransportFault(R.RESET, has_sent=True)},
    ACCEPT,
]


@pytest.mark.parametrize("answer", LEAKY)
@pytest.mark.parametrize("auth", ["oauth1", "token"])
def test_nothing_private_is_returned_or_logged(
    *,
    auth: str,
    answer: dict[str, Any],
    service: responses.RequestsMock,
    fake_time: FakeTime,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers(service, answer)
    gateway = rest(fake_time, auth=auth)
    with caplog.at_level(logging.DEBUG):  # the root logger's: a debugging program
        result = send(gateway)
    assert_private(repr(result) + str(result) + repr(gateway) + repr(vars(gateway)) + repr(CREDENTIALS))
    assert_private(caplog.text)
    output = capsys.readouterr()
    assert_private(output.out + output.err)


@pytest.mark.parametrize(
    "name", ["oauthlib.oauth1.rfc5849", "requests_oauthlib.oauth1_auth", "urllib3.connectionpool"]
)
def test_libraries_do_not_log_at_debug_level(name: str) -> None:
    assert not logging.getLogger(name).isEnabledFor(logging.DEBUG)
    assert logging.getLogger(name).isEnabledFor(logging.WARNING)


def test_credentials_cannot_be_pickled() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(CREDENTIALS)


def test_transport_fault_tells_a_word_and_nothing_else() -> None:
    fault = TransportFault(R.RESET, has_sent=True, status=200)
    assert (str(fault), fault.__cause__, fault.__context__) == ("reset", None, None)
