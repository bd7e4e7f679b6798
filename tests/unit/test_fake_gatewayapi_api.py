# SPDX-License-Identifier: MIT
"""The fake behind its door: bodies, rules, money, and the life of messages; both products."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fake_gatewayapi import FakeGatewayAPI, Settings
from fake_gatewayapi.client import MSISDN, NOW, Answer, RawClient, ask, ask_plain, message
from fake_gatewayapi.errors import CODES, error_body, sample
from fake_gatewayapi.texts import capped, part_count

TOKEN = {"Authorization": "Token test-token"}
FORM = {**TOKEN, "Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def fake() -> Iterator[FakeGatewayAPI]:
    """A fake whose clock stands at NOW."""
    with FakeGatewayAPI(clock=lambda: NOW) as server:
        yield server


def refusal(answer: Answer) -> tuple[int, str]:
    """Status and error code."""
    return answer.status, answer.json().get("code", "")


def changed(**fields: Any) -> dict[str, Any]:
    """A good message with other members; None takes one out."""
    return {name: value for name, value in message(**fields).items() if value is not None}


# --- answers --------------------------------------------------------------------------------------


def test_success_body_is_as_documented(fake: FakeGatewayAPI) -> None:
    answer = ask(fake, body=message())
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "ids": [fake.accepted[0].id],
        "usage": {"countries": {"DK": 1}, "currency": "DKK", "total_cost": 0.15},
    }


def test_accepted_text_keeps_what_was_sent(fake: FakeGatewayAPI) -> None:
    fields: dict[str, Any] = {
        "userref": "attempt-1",
        "validity_period": 300,
        "max_parts": 1,
        "class": "premium",
        "priority": "URGENT",
        "encoding": "UTF8",
        "label": "login",
        "callback_url": "http://127.0.0.1:1/report",
    }
    ask(fake, body=message(**fields))
    text = fake.accepted[0]
    assert (text.msisdn, text.text, text.sender) == (MSISDN, "123456 is your code", "textgate")
    assert (text.userref, text.validity, text.max_parts) == ("attempt-1", 300, 1)
    assert (text.message_class, text.priority, text.encoding) == ("premium", "URGENT", "UTF8")
    assert (text.label, text.callback_url) == ("login", "http://127.0.0.1:1/report")
    assert (text.accepted_at, text.key, text.api) == (NOW, "test-key", "rest")


def test_number_and_text_stay_out_of_repr(fake: FakeGatewayAPI) -> None:
    ask(fake, body=message())
    shown = repr(fake.accepted) + repr(fake.requests)
    assert "123456" not in shown
    assert MSISDN not in shown


def test_ids_rise_and_outgrow_32_bits(fake: FakeGatewayAPI) -> None:
    ids = [ask(fake, body=message()).json()["ids"][0] for _ in range(5)]
    assert ids == sorted(set(ids))
    assert ids[0] < 2**31 < ids[-1]


def test_array_gives_one_id_for_each_message(fake: FakeGatewayAPI) -> None:
    two = message(recipients=[{"msisdn": 4512345678}, {"msisdn": "46701234567"}])
    answer = ask(fake, body=[two, message()]).json()
    assert len(answer["ids"]) == 2
    assert answer["usage"]["countries"] == {"DK": 2, "SE": 1}
    assert [text.id for text in fake.accepted] == [answer["ids"][0], answer["ids"][0], answer["ids"][1]]


def test_extra_details_list_the_parts(fake: FakeGatewayAPI) -> None:
    answer = ask(fake, body=message(extra_details="recipients_usage")).json()
    recipients = [{"country": "DK", "msisdn": 4512345678, "parts": 1}]
    assert answer["details"] == {"messages": [{"id": answer["ids"][0], "recipients": recipients}]}


def test_usage_counts_parts_and_lowers_credit(fake: FakeGatewayAPI) -> None:
    answer = ask(fake, body=message("x" * 161)).json()
    assert answer["usage"] == {"countries": {"DK": 2}, "currency": "DKK", "total_cost": 0.3}
    assert fake.credit == Decimal("99.70")


def test_currency_is_the_accounts() -> None:
    with FakeGatewayAPI(clock=lambda: NOW, credit=Decimal(1), currency="EUR") as server:
        assert ask(server, body=message()).json()["usage"]["total_cost"] == 0.0201
        assert ask(server, "GET", "/rest/me").json() == {"credit": 0.9799, "currency": "EUR", "id": 1}


def test_credit_may_be_a_string_and_fields_may_be_added(fake: FakeGatewayAPI) -> None:
    fake.settings.credit_as_string = True
    fake.settings.extra_field = True
    answer = ask(fake, "GET", "/rest/me").json()
    assert answer["credit"] == "100.00"
    assert "added_later" in answer
    assert "added_later" in ask(fake, body=message()).json()


def test_connection_is_kept_alive_unless_asked_otherwise(fake: FakeGatewayAPI) -> None:
    with RawClient(fake) as client:
        assert [client.ask(body=message()).status for _ in range(3)] == [200, 200, 200]
        client.send("GET", "/rest/me", {**TOKEN, "Connection": "close"})
        assert client.receive().headers["connection"] == "close"
        assert client.receive_until_end() == b""


def test_http_1_0_connection_ends_after_the_answer(fake: FakeGatewayAPI) -> None:
    with RawClient(fake) as client:
        client.socket.sendall(b"GET /rest/me HTTP/1.0\r\nHost: h\r\nAuthorization: Token test-token\r\n\r\n")
        assert client.receive_until_end().startswith(b"HTTP/1.1 200 OK\r\n")


def test_pipelined_requests_are_answered_in_order(fake: FakeGatewayAPI) -> None:
    with RawClient(fake) as client:
        client.send("GET", "/rest/me", TOKEN)
        client.send("GET", "/rest/nothing", TOKEN)
        assert (client.receive().status, client.receive().status) == (200, 404)


def test_chunked_body_and_expect_are_understood(fake: FakeGatewayAPI) -> None:
    data = json.dumps(message()).encode()
    head = "POST /rest/mtsms HTTP/1.1\r\nHost: h\r\nAuthorization: Token test-token\r\n"
    head += "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"5\r\n" + data[:5] + b"\r\n%x;x=y\r\n" % len(data[5:]) + data[5:] + b"\r\n0\r\n\r\n"
    with RawClient(fake) as client:
        client.socket.sendall(head.encode())
        assert client.receive().status == 100
        client.socket.sendall(chunks)
        assert client.receive().status == 200
    assert fake.requests[0].body == data


def test_request_is_recorded_as_it_came(fake: FakeGatewayAPI) -> None:
    ask_plain(fake, "GET", "/rest/me?x=%41", {**TOKEN, "X-Odd": " a  b "})
    request = fake.requests[0]
    assert request.raw_line == "GET /rest/me?x=%41 HTTP/1.1"
    assert request.header("x-odd") == "a  b"
    assert (request.arrived_at, request.peer) == (NOW, "127.0.0.1")
    assert (request.verdict, request.status, request.fault) == ("ok", 200, None)


@pytest.mark.parametrize(
    "junk",
    [
        b"\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/2.0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\n folded: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 300 + b"\r\n",
    ],
)
def test_junk_is_answered_400_and_closed(fake: FakeGatewayAPI, junk: bytes) -> None:
    with RawClient(fake) as client:
        client.socket.sendall(junk)
        assert client.receive().status == 400
    assert fake.requests[0].verdict == "unreadable"


def test_request_cut_short_is_not_recorded(fake: FakeGatewayAPI) -> None:
    with RawClient(fake) as client:
        client.send("POST", "/rest/mtsms", {"Content-Length": "100"}, b"half")
    ask(fake, body=message())
    assert len(fake.requests) == 1


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", CODES)
def test_error_body_is_as_documented(code: str) -> None:
    body = json.loads(error_body(sample(code)))
    assert uuid.UUID(body["incident_uuid"]).version == 4
    assert (body["code"], body["message"]) == (code, CODES[code][1])
    assert body.get("variables", []) == list(sample(code).variables)
    assert ("variables" in body) == ("%1" in body["message"])


def test_each_error_has_its_own_incident() -> None:
    bodies = [json.loads(error_body(sample("0x0216"))) for _ in range(2)]
    assert bodies[0]["incident_uuid"] != bodies[1]["incident_uuid"]


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("GET", "/", (404, "")),
        ("GET", "/rest/prices", (404, "")),
        ("POST", "/rest/mtsms/", (404, "")),
        ("PUT", "/rest/mtsms", (405, "")),
        ("POST", "/rest/me", (405, "")),
        ("POST", "/rest/mtsms/12", (405, "")),
        ("POST", "/rest/hlr", (403, "0x021A")),
        ("POST", "/rest/email", (403, "0x0219")),
        ("GET", "/rest/mtsms", (422, "")),
    ],
)
def test_other_routes(fake: FakeGatewayAPI, method: str, target: str, expected: tuple[int, str]) -> None:
    assert refusal(ask(fake, method, target)) == expected


def test_route_is_looked_up_before_credentials(fake: FakeGatewayAPI) -> None:
    assert ask_plain(fake, "GET", "/nowhere").status == 404


def test_credentials_are_asked_for_before_the_body_is_read(fake: FakeGatewayAPI) -> None:
    assert ask_plain(fake, "POST", "/rest/mtsms", {"Authorization": "Token no"}, b"{").status == 401


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"\xef\xbb\xbf{}", b'{"a": NaN}', b"[" * 100_000])
def test_bad_json_gets_the_status_that_was_set(fake: FakeGatewayAPI, status: int, body: bytes) -> None:
    fake.settings.bad_json_status = status
    assert refusal(ask_plain(fake, "POST", "/rest/mtsms", TOKEN, body)) == (status, "")


@pytest.mark.parametrize(
    "body",
    [
        "text",
        7,
        None,
        [],
        [[]],
        [None],
        changed(recipients=None),
        changed(recipients=[]),
        changed(recipients={}),
        changed(recipients=[4512345678]),
        changed(recipients=[{}]),
        changed(recipients=[{"msisdn": i} for i in range(1, 10_002)]),
        changed(message=None),
        changed(message=""),
        changed(message=5),
        changed(sender="a" * 12),
        changed(sender="1" * 16),
        changed(sender=10**15),
        changed(sender=True),
        changed(sender=["a"]),
        changed(validity_period="300"),
        changed(validity_period=-1),
        changed(validity_period=True),
        changed(validity_period=1.5),
        changed(sendtime="soon"),
        changed(encoding="GSM"),
        changed(destaddr="FRIDGE"),
        changed(userref=5),
        changed(callback_url=5),
        changed(max_parts=0),
        changed(max_parts=256),
        changed(max_parts=1, tags=["a"], recipients=[{"msisdn": 1, "tagvalues": ["b"]}]),
        changed(tags=["a"]),
        changed(tags=["a"], recipients=[{"msisdn": 1, "tagvalues": [5]}]),
        changed(payload="AAAA"),
        changed(message=None, payload="?"),
        changed(message=None, payload="AAAA", udh="?"),
        [message(), changed(message=None)],
        [message(), changed(**{"class": "premium"})],
        [message(), changed(label="x")],
    ],
)
def test_body_against_the_schema_is_refused_whole(fake: FakeGatewayAPI, body: Any) -> None:
    data = json.dumps(body).encode()
    assert refusal(ask_plain(fake, "POST", "/rest/mtsms", TOKEN, data)) == (422, "")
    assert (fake.accepted, fake.credit) == ([], Decimal("100.00"))


@pytest.mark.parametrize(
    "msisdn",
    [
        True,
        1.5,
        None,
        "",
        "+4512345678",
        "004512345678",
        "45 12345678",
        "1" * 16,
        10**15,
        0,
        -1,
        "٤٥",
        "4512345678\n",
    ],
)
def test_msisdn_must_be_up_to_15_digits(fake: FakeGatewayAPI, msisdn: Any) -> None:
    assert refusal(ask(fake, body=message(recipients=[{"msisdn": msisdn}]))) == (422, "")


@pytest.mark.parametrize("msisdn", [4512345678, "4512345678", "1" * 15, 10**15 - 1])
def test_msisdn_may_be_integer_or_string(fake: FakeGatewayAPI, msisdn: int | str) -> None:
    assert ask(fake, body=message(recipients=[{"msisdn": msisdn}])).status == 200
    assert fake.accepted[0].msisdn == str(msisdn)


@pytest.mark.parametrize("sender", ["a" * 11, "1" * 15, 10**14, None])
def test_sender_at_its_limit_is_accepted(fake: FakeGatewayAPI, sender: Any) -> None:
    assert ask(fake, body=changed(sender=sender)).status == 200


def test_most_recipients_are_accepted() -> None:
    with FakeGatewayAPI(clock=lambda: NOW, credit=Decimal(100_000)) as server:
        recipients = [{"msisdn": 4500000000 + i} for i in range(10_000)]
        assert ask(server, body=message(recipients=recipients)).status == 200
        assert len(server.accepted) == 10_000


@pytest.mark.parametrize(("asked_s", "kept_s"), [(0, 60), (59, 60), (60, 60), (61, 61)])
def test_short_validity_is_raised(fake: FakeGatewayAPI, asked_s: int, kept_s: int) -> None:
    ask(fake, body=message(validity_period=asked_s))
    assert fake.accepted[0].validity == kept_s


@pytest.mark.parametrize(
    ("fields", "expected", "variables"),
    [
        ({"class": "gold"}, (422, "0x0218"), ["gold"]),
        ({"class": "secret"}, (500, "0x021E"), ["secret", "DK"]),
        ({"priority": "URGENT"}, (422, "0x0311"), ["URGENT"]),
        ({"priority": "SOON"}, (422, "0x0311"), ["SOON"]),
        ({"recipients": [{"msisdn": 45}, {"msisdn": "45"}]}, (422, "0x0310"), ["45"]),
        ({"message": "see https://example.com/x"}, (422, "0x0312"), None),
        ({"message": "buy Bitcoin"}, (422, "0x0312"), None),
        ({"recipients": [{"msisdn": 46701234567}]}, (403, "0x0217"), ["SE"]),
        ({"recipients": [{"msisdn": 4511111111}]}, (403, "0x0214"), None),
        ({"recipients": [{"msisdn": 4522222222}]}, (403, "0x0215"), ["4522222222"]),
    ],
)
def test_business_rules(
    fake: FakeGatewayAPI, fields: dict[str, Any], expected: tuple[int, str], variables: list[str] | None
) -> None:
    fake.settings = Settings(
        allowed_countries=frozenset({"DK"}),
        temporarily_blacklisted={"4511111111"},
        blacklisted={"4522222222"},
        blocked_words={"bitcoin"},
        allowed_link_hosts={"example.org"},
    )
    answer = ask(fake, body=message(**fields))
    assert refusal(answer) == expected
    if variables is not None:
        assert answer.json()["variables"] == variables
    assert fake.accepted == []


def test_first_failing_rule_answers(fake: FakeGatewayAPI) -> None:
    # Everything wrong at once: peel the faults off in the documented order.
    fake.settings = Settings(allowed_countries=frozenset({"SE"}), blacklisted={MSISDN})
    fake.credit = Decimal(0)
    twice = [{"msisdn": MSISDN}, {"msisdn": MSISDN}]
    wrong: dict[str, Any] = {"message": "www.example.com", "class": "gold", "priority": "URGENT", "recipients": twice}
    seen = []
    for repair in (
        lambda: None,
        lambda: wrong.pop("class"),
        lambda: wrong.pop("priority"),
        lambda: wrong.update(recipients=[{"msisdn": MSISDN}]),
        lambda: wrong.update(message="hi"),
        lambda: setattr(fake.settings, "allowed_countries", None),
        fake.settings.blacklisted.clear,
    ):
        repair()
        seen.append(refusal(ask(fake, body=message(**wrong)))[1])
    assert seen == ["0x0218", "0x0311", "0x0310", "0x0312", "0x0217", "0x0215", "0x0216"]


def test_no_credit_is_refused_whole(fake: FakeGatewayAPI) -> None:
    fake.credit = Decimal("0.29")
    assert refusal(ask(fake, body=[message(), message()])) == (403, "0x0216")
    assert (fake.accepted, fake.credit) == ([], Decimal("0.29"))
    assert ask(fake, body=message()).status == 200


# --- texts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "encoding", "count"),
    [
        ("", "UTF8", 1),
        ("a" * 160, "UTF8", 1),
        ("a" * 161, "UTF8", 2),
        ("a" * 306, "UTF8", 2),
        ("a" * 307, "UTF8", 3),
        ("€" * 80, "UTF8", 1),
        ("€" * 81, "UTF8", 2),
        ("€" * 153, "UTF8", 3),  # 76 pairs a part: the pair is not split
        ("æ" * 70, "UCS2", 1),
        ("æ" * 71, "UCS2", 2),
        ("😀" * 35, "UCS2", 1),
        ("😀" * 36, "UCS2", 2),
    ],
)
def test_parts_of_a_text(text: str, encoding: str, count: int) -> None:
    assert part_count(text, encoding) == count


def test_max_parts_cuts_text_and_cost(fake: FakeGatewayAPI) -> None:
    answer = ask(fake, body=message("a" * 400, max_parts=2))
    assert answer.json()["usage"]["countries"] == {"DK": 2}
    assert fake.texts_to(MSISDN) == ["a" * 306]


@given(st.text(max_size=400), st.sampled_from(["UTF8", "UCS2"]), st.integers(1, 255))
def test_capped_text_is_a_start_within_its_parts(text: str, encoding: str, max_parts: int) -> None:
    short = capped(text, encoding, max_parts)
    assert text.startswith(short)
    assert part_count(short, encoding) <= max_parts
    assert short == text or part_count(text, encoding) > max_parts


def test_tags_are_filled_in(fake: FakeGatewayAPI) -> None:
    recipients = [
        {"msisdn": 4511111111, "tagvalues": ["Ann", "111111"]},
        {"msisdn": 4522222222, "tagvalues": ["Bo", "222222"]},
    ]
    ask(fake, body=message("%name%: %code%", tags=["%name%", "%code%"], recipients=recipients))
    assert (fake.texts_to(4511111111), fake.texts_to(4522222222)) == (["Ann: 111111"], ["Bo: 222222"])


def test_binary_message_is_billed_by_bytes(fake: FakeGatewayAPI) -> None:
    answer = ask(fake, body=changed(message=None, payload="A" * 188))  # 141 bytes
    assert answer.json()["usage"]["countries"] == {"DK": 2}


def test_form_fields_and_query_make_messages(fake: FakeGatewayAPI) -> None:
    form = b"message=hi&recipients.0.msisdn=4511111111&recipients.1.msisdn=4522222222&max_parts=1"
    assert ask_plain(fake, "POST", "/rest/mtsms", FORM, form).status == 200
    query = "/rest/mtsms?token=test-token&message=hi&recipients.0.msisdn=4533333333"
    assert ask_plain(fake, "GET", query).status == 200
    assert [text.msisdn for text in fake.accepted] == ["4511111111", "4522222222", "4533333333"]


@pytest.mark.parametrize("form", [b"message=hi", b"message=hi&message.x=1", b"recipients=4512345678&message=hi"])
def test_form_without_message_object_is_refused(fake: FakeGatewayAPI, form: bytes) -> None:
    assert ask_plain(fake, "POST", "/rest/mtsms", FORM, form).status == 422


@pytest.mark.parametrize("form", [b"\xff=1", b"a=%ff"])
def test_form_that_is_no_utf8_is_unreadable(fake: FakeGatewayAPI, form: bytes) -> None:
    assert ask_plain(fake, "POST", "/rest/mtsms", FORM, form).status == 400


# --- what tests ask -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("123456 is your code", "123456"),
        ("Your code: 12345678.", "12345678"),
        ("web-20240101: 123 456 until 12:30", "123456"),
        ("host1.example: 1234-5678", "12345678"),
        ("Code 012345 for alice, 5 min", "012345"),
    ],
)
def test_last_code_finds_the_code(fake: FakeGatewayAPI, text: str, code: str) -> None:
    ask(fake, body=message("999999 is older"))
    ask(fake, body=message(text))
    assert fake.last_code(MSISDN) == code


def test_last_code_without_text_or_code_says_so(fake: FakeGatewayAPI) -> None:
    ask(fake, body=message("no code here"))
    for msisdn in (MSISDN, "4599999999"):
        with pytest.raises(LookupError):
            fake.last_code(msisdn)


def test_wait_for_texts_wakes_up_when_one_arrives(fake: FakeGatewayAPI) -> None:
    got: list[int] = []
    waiter = threading.Thread(target=lambda: got.append(len(fake.wait_for_texts(2, timeout=10))))
    waiter.start()
    ask(fake, body=message())
    ask(fake, body=message())
    waiter.join(10)
    assert got == [2]


def test_wait_for_texts_gives_up(fake: FakeGatewayAPI) -> None:
    with pytest.raises(TimeoutError):
        fake.wait_for_texts(1, timeout=0.01)


def test_reset_forgets_all_but_keeps_ids_rising(fake: FakeGatewayAPI) -> None:
    first = ask(fake, body=message(), oauth_nonce="n").json()["ids"][0]
    fake.settings.credit_as_string = True
    fake.clock_offset_s = 3600
    fake.inject("reset", count=None)
    fake.reset()
    assert (fake.accepted, fake.requests, fake.credit) == ([], [], Decimal("100.00"))
    assert ask(fake, body=message(), oauth_nonce="n").json()["ids"][0] > first


# --- messages live on -----------------------------------------------------------------------------


def test_message_is_unknown_until_sent_then_an_array_of_one(fake: FakeGatewayAPI) -> None:
    message_id = ask(fake, body=message(userref="u")).json()["ids"][0]
    target = f"/rest/mtsms/{message_id}"
    assert refusal(ask(fake, "GET", target)) == (404, "")
    fake.advance(1)
    (found,) = ask(fake, "GET", target).json()
    assert (found["id"], found["message"], found["userref"]) == (message_id, "123456 is your code", "u")
    (recipient,) = found["recipients"]
    assert (recipient["dsnstatus"], recipient["senttime"]) == ("ENROUTE", NOW + 1.0)
    assert (recipient["msisdn"], recipient["country"], recipient["csms"]) == (4512345678, "DK", 1)
    fake.advance(2)
    (recipient,) = ask(fake, "GET", target).json()[0]["recipients"]
    assert (recipient["dsnstatus"], recipient["dsntime"], recipient["dsnerrorcode"]) == ("DELIVERED", NOW + 3.0, None)


def test_report_lag_hides_a_sent_message_longer(fake: FakeGatewayAPI) -> None:
    fake.settings.report_lag_s = 10
    target = f"/rest/mtsms/{ask(fake, body=message()).json()['ids'][0]}"
    fake.advance(10.5)
    assert ask(fake, "GET", target).status == 404
    fake.advance(0.5)
    assert ask(fake, "GET", target).status == 200


@pytest.mark.parametrize(
    ("plan", "after_s", "status", "code"),
    [
        ("undeliverable", 3, "UNDELIVERABLE", "0x1010"),
        ("rejected", 2, "REJECTED", "0x1905"),
        ("skipped", 1, "SKIPPED", None),
        ("accepted", 3, "ACCEPTED", None),
        ("expired", 299, "ENROUTE", None),
        ("expired", 300, "EXPIRED", None),
        ("late", 359, "ENROUTE", None),
        ("late", 360, "DELIVERED", None),  # a minute after the code expired
        ("stuck", 10**6, "ENROUTE", None),
    ],
)
def test_message_ends_as_planned(
    fake: FakeGatewayAPI, plan: str, after_s: int, status: str, code: str | None
) -> None:
    fake.set_delivery(MSISDN, plan=plan)
    message_id = ask(fake, body=message(validity_period=300)).json()["ids"][0]
    fake.advance(after_s)
    (recipient,) = ask(fake, "GET", f"/rest/mtsms/{message_id}").json()[0]["recipients"]
    assert (recipient["dsnstatus"], recipient["dsnerrorcode"]) == (status, code)


def test_unknown_plan_is_an_error(fake: FakeGatewayAPI) -> None:
    with pytest.raises(ValueError, match="no plan"):
        fake.set_delivery(plan="lost")
    with pytest.raises(ValueError, match="no signature"):
        fake.set_delivery(signature="fancy")


def test_scheduled_message_can_be_cancelled_once(fake: FakeGatewayAPI) -> None:
    message_id = ask(fake, body=message(sendtime=NOW + 100)).json()["ids"][0]
    target = f"/rest/mtsms/{message_id}"
    answer = ask(fake, "DELETE", target)
    assert (answer.status, answer.body, "content-length" in answer.headers) == (204, b"", False)
    assert ask(fake, "DELETE", target).status == 410
    fake.advance(1000)
    assert ask(fake, "GET", target).json()[0]["recipients"][0]["dsnstatus"] == "DELETED"


def test_sent_message_cannot_be_cancelled(fake: FakeGatewayAPI) -> None:
    now_id = ask(fake, body=message()).json()["ids"][0]
    later_id = ask(fake, body=message(sendtime=NOW + 100)).json()["ids"][0]
    fake.advance(100)
    for message_id in (now_id, later_id):
        assert ask(fake, "DELETE", f"/rest/mtsms/{message_id}").status == 410
    assert ask(fake, "DELETE", "/rest/mtsms/1").status == 404


def test_price_list_is_open(fake: FakeGatewayAPI) -> None:
    prices = ask_plain(fake, "GET", "/api/prices/list/sms/json").json()
    assert {"country": "DK", "country_name": "Denmark", "prefix": 45, "dkk": 0.15, "eur": 0.0201} in prices[
        "standard"
    ]
    assert any(row["prefix"] is None for row in prices["premium"])


# --- Messaging API --------------------------------------------------------------------------------


def mobile(fake: FakeGatewayAPI, body: Any, target: str = "/mobile/single") -> Answer:
    """POST with the token."""
    return ask_plain(fake, "POST", target, TOKEN, json.dumps(body).encode())


def single(**fields: Any) -> dict[str, Any]:
    """A good Messaging API object with other members; None takes one out."""
    body = {"sender": "textgate", "recipient": 4512345678, "message": "123456 is your code", **fields}
    return {name: value for name, value in body.items() if value is not None}


def test_mobile_single_answers_202(fake: FakeGatewayAPI) -> None:
    answer = mobile(fake, single(reference="r"))
    text = fake.accepted[0]
    assert answer.status == 202
    assert answer.json() == {"msg_id": text.id, "recipient": 4512345678, "reference": "r"}
    assert (len(str(text.id)), text.api, text.userref) == (26, "mobile", "r")
    assert fake.credit == Decimal("99.85")


def test_mobile_multi_answers_in_order(fake: FakeGatewayAPI) -> None:
    answer = mobile(fake, {"messages": [single(), single(recipient=46701234567)]}, "/mobile/multi")
    assert answer.status == 202
    assert [row["recipient"] for row in answer.json()["responses"]] == [4512345678, 46701234567]


def test_mobile_chooses_the_encoding(fake: FakeGatewayAPI) -> None:
    mobile(fake, single(message="код"))
    mobile(fake, single(message="code"))
    assert [text.encoding for text in fake.accepted] == ["UCS2", "UTF8"]


@pytest.mark.parametrize(
    ("headers", "status", "description"),
    [
        ({}, 401, "Unauthorized"),
        ({"Authorization": "Token wrong"}, 403, "Forbidden"),
        ({"Authorization": "Bearer test-token"}, 403, "Forbidden"),
        ({"Authorization": 'OAuth oauth_consumer_key="test-key"'}, 403, "Forbidden"),
    ],
)
def test_mobile_takes_the_token_header_only(
    fake: FakeGatewayAPI, headers: dict[str, str], status: int, description: str
) -> None:
    answer = ask_plain(fake, "POST", "/mobile/single?token=test-token", headers, json.dumps(single()).encode())
    assert (answer.status, answer.json()) == (status, {"description": description, "detail": []})


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"sender": None}, "sender"),
        ({"sender": "ab"}, "sender"),
        ({"sender": "a" * 19}, "sender"),
        ({"recipient": None}, "recipient"),
        ({"recipient": "4512345678"}, "recipient"),
        ({"recipient": 1000}, "recipient"),
        ({"recipient": 10**15}, "recipient"),
        ({"recipient": True}, "recipient"),
        ({"message": None}, "message"),
        ({"message": "a" * 39_016}, "message"),
        ({"reference": 5}, "reference"),
        ({"priority": "URGENT"}, "priority"),
        ({"label": "a" * 129}, "label"),
        ({"expiration": "soon"}, "expiration"),
        ({"expiration": "PT"}, "expiration"),
        ({"expiration": "P6D"}, "expiration"),
        ({"expiration": 0}, "expiration"),
        ({"expiration": NOW - 1}, "expiration"),
        ({"expiration": 1.5}, "expiration"),
    ],
)
def test_mobile_names_the_faulty_member(fake: FakeGatewayAPI, fields: dict[str, Any], where: str) -> None:
    answer = mobile(fake, single(**fields))
    assert answer.status == 422
    assert [detail["loc"] for detail in answer.json()["detail"]] == [["body", where]]
    assert set(answer.json()["detail"][0]) == {"loc", "msg", "type"}
    assert fake.accepted == []


@pytest.mark.parametrize(
    ("expiration", "validity_s"),
    [
        (None, 432_000),
        ("PT10M", 600),
        ("P1DT1H1M1S", 90_061),
        ("P5D", 432_000),
        (300, 300),
        (432_000, 432_000),
        (NOW + 300, 300),
        ("2023-11-14T22:18:20Z", 300),
        ("2023-11-14T23:18:20+01:00", 300),
    ],
)
def test_mobile_expiration_has_four_forms(fake: FakeGatewayAPI, expiration: Any, validity_s: int) -> None:
    assert mobile(fake, single(expiration=expiration)).status == 202
    assert fake.accepted[0].validity == validity_s


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ([], ["body", "messages"]),
        ({"messages": []}, ["body", "messages"]),
        ({"messages": [single()] * 1001}, ["body", "messages"]),
        ({"messages": [single(), 5]}, ["body", "messages", 1]),
        ({"messages": [single(), single(sender="a")]}, ["body", "messages", 1, "sender"]),
    ],
)
def test_mobile_multi_is_refused_whole(fake: FakeGatewayAPI, body: Any, where: list[Any]) -> None:
    answer = mobile(fake, body, "/mobile/multi")
    assert (answer.status, answer.json()["detail"][0]["loc"]) == (422, where)
    assert fake.accepted == []


def test_mobile_bad_json_is_422(fake: FakeGatewayAPI) -> None:
    answer = ask_plain(fake, "POST", "/mobile/single", TOKEN, b"{")
    assert (answer.status, answer.json()["detail"][0]["type"]) == (422, "json_invalid")


def test_mobile_out_of_credit_has_the_rest_body(fake: FakeGatewayAPI) -> None:
    fake.credit = Decimal(0)
    assert refusal(mobile(fake, single())) == (403, "0x0216")


@pytest.mark.parametrize("send", [ask, mobile])
@settings(deadline=None, max_examples=30)  # each example starts a server
@given(body=st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_junk_bodies_are_refused(send: Callable[..., Answer], body: Any) -> None:
    with FakeGatewayAPI(clock=lambda: NOW) as server:
        assert (
            send(server, body={"message": body, "recipients": body, "sender": body, "recipient": body}).status == 422
        )
        assert server.accepted == []
