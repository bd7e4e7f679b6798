# SPDX-License-Identifier: MIT
"""Delivery reports of the fake: bodies, signatures and their spoiled kinds, retries, virtual time."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from fake_gatewayapi import FakeGatewayAPI, Webhook
from fake_gatewayapi.client import MSISDN, NOW, ask, ask_plain, message
from fake_gatewayapi.reports import RETRY_AFTER_S, jwt, mobile_signature

SECRET = "webhook-test-secret-32-bytes-long!"


class Hook:
    """A webhook on loopback. `status`: what it answers; None holds the answer back."""

    def __init__(self) -> None:
        self.status: int | None = 200
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self.arrived = threading.Event()
        self.released = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hook.posts.append((dict(self.headers), body))
                hook.arrived.set()
                if hook.status is None:
                    hook.released.wait(10)
                    return
                self.send_response(hook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/report?x=1"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        """Close the port."""
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def bodies(self) -> list[dict[str, Any]]:
        """Values of all bodies."""
        return [json.loads(body) for _, body in self.posts]

    def statuses(self) -> list[str]:
        """States reported, in order."""
        return [body["status"] for body in self.bodies()]


@pytest.fixture
def hook() -> Iterator[Hook]:
    """A webhook that answers 200."""
    server = Hook()
    yield server
    server.stop()


@pytest.fixture
def fake(hook: Hook) -> Iterator[FakeGatewayAPI]:
    """A fake in virtual time that reports to the hook, signed."""
    with FakeGatewayAPI(clock=lambda: NOW) as server:
        server.webhook = Webhook(hook.url, SECRET)
        server.mobile_webhook = Webhook(hook.url, "webhook-test-secret")
        yield server


def claims_of(token: str) -> dict[str, Any]:
    """Claims of a JWT, unchecked."""
    part = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


def is_signed_by(token: str, secret: str, algorithm: str = "HS256") -> bool:
    """An independent check, as a strict receiver would do it."""
    head, claims, signature = token.split(".")
    header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    digest_name = {"HS256": "sha256", "HS512": "sha512"}[algorithm]
    digest = hmac.new(secret.encode(), f"{head}.{claims}".encode(), digest_name).digest()
    expected = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return header["alg"] == algorithm and signature == expected


# --- vectors --------------------------------------------------------------------------------------


def test_jwt_matches_vector() -> None:
    claims = {
        "id": 1000001,
        "msisdn": 4587654321,
        "time": 1450000000,
        "status": "DELIVERED",
        "error": None,
        "code": None,
        "userref": "foobar",
    }
    assert jwt(claims, SECRET) == (
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJpZCI6MTAwMDAwMSwibXNpc2RuIjo0NTg3NjU0MzIxLCJ0aW1lIjoxNDUwMDAw"
        "MDAwLCJzdGF0dXMiOiJERUxJVkVSRUQiLCJlcnJvciI6bnVsbCwiY29kZSI6bnVsbCwidXNlcnJlZiI6ImZvb2JhciJ9."
        "3bUKRqqEygwBQFeijIAJJOGEj474YjNgJMPLIhq-Vos"
    )


def test_mobile_signature_matches_vector() -> None:
    body = b'{"event_id":"e1","timestamp":"2025-04-01T11:50:12+00:00","event_type":"message.status.sms","event":{}}'
    expected = "v1=b99047bfdb38e96ec7e2f340331f7f935bef762c57b0463f42cbaf4a83705cc0"
    assert mobile_signature(body, "webhook-test-secret") == expected


# --- REST -----------------------------------------------------------------------------------------


def test_each_state_is_reported_in_its_time(fake: FakeGatewayAPI, hook: Hook) -> None:
    message_id = ask(fake, body=message(userref="attempt-1")).json()["ids"][0]
    assert hook.posts == []
    fake.advance(0)
    assert hook.statuses() == ["BUFFERED"]
    fake.advance(2)
    assert hook.statuses() == ["BUFFERED", "ENROUTE"]
    fake.advance(10**6)
    assert hook.statuses() == ["BUFFERED", "ENROUTE", "DELIVERED"]
    assert hook.bodies()[-1] == {
        "id": message_id,
        "msisdn": int(MSISDN),
        "time": NOW + 3,
        "status": "DELIVERED",
        "error": None,
        "code": None,
        "userref": "attempt-1",
        "country_code": "DK",
        "country_prefix": 45,
    }
    assert [attempt.status for attempt in fake.reports] == [200, 200, 200]


def test_report_is_signed_and_claims_repeat_the_body(fake: FakeGatewayAPI, hook: Hook) -> None:
    ask(fake, body=message())
    fake.advance(10)
    for headers, body in hook.posts:
        token = headers["X-Gwapi-Signature"]
        assert is_signed_by(token, SECRET)
        assert json.loads(body).items() <= claims_of(token).items()


def test_webhook_without_secret_gets_no_signature(fake: FakeGatewayAPI, hook: Hook) -> None:
    fake.webhook = Webhook(hook.url)
    ask(fake, body=message())
    fake.advance(0)
    assert "X-Gwapi-Signature" not in hook.posts[0][0]


def test_each_number_has_its_reports(fake: FakeGatewayAPI, hook: Hook) -> None:
    ask(fake, body=message(recipients=[{"msisdn": 4511111111}, {"msisdn": 99922222222}]))
    fake.advance(10)
    assert sorted(body["msisdn"] for body in hook.bodies()) == [4511111111] * 3 + [99922222222] * 3
    assert "country_code" not in hook.bodies()[-1]  # a country the fake does not know


def test_callback_url_of_the_message_comes_first(fake: FakeGatewayAPI, hook: Hook) -> None:
    fake.webhook = Webhook("http://127.0.0.1:1/", SECRET)
    ask(fake, body=message(callback_url=hook.url))
    fake.advance(0)
    assert is_signed_by(hook.posts[0][0]["X-Gwapi-Signature"], SECRET)


def test_no_webhook_no_reports(fake: FakeGatewayAPI) -> None:
    fake.webhook = None
    ask(fake, body=message())
    fake.advance(10)
    assert fake.reports == []


@pytest.mark.parametrize(
    ("plan", "last", "code"),
    [
        ("undeliverable", "UNDELIVERABLE", "0x1010"),
        ("rejected", "REJECTED", "0x1905"),
        ("expired", "EXPIRED", None),
        ("skipped", "SKIPPED", None),
    ],
)
def test_bad_ends_are_reported(fake: FakeGatewayAPI, hook: Hook, plan: str, last: str, code: str | None) -> None:
    fake.set_delivery(plan=plan)
    ask(fake, body=message(validity_period=300))
    fake.advance(300)
    assert (hook.statuses()[-1], hook.bodies()[-1]["code"]) == (last, code)


def test_late_report_comes_after_the_code_expired(fake: FakeGatewayAPI, hook: Hook) -> None:
    fake.set_delivery(MSISDN, plan="late")
    ask(fake, body=message(validity_period=300))
    fake.advance(359)
    assert hook.statuses() == ["BUFFERED", "ENROUTE"]
    fake.advance(1)
    assert hook.bodies()[-1]["time"] == NOW + 360


def test_cancelled_message_is_reported_deleted(fake: FakeGatewayAPI, hook: Hook) -> None:
    message_id = ask(fake, body=message(sendtime=NOW + 100)).json()["ids"][0]
    fake.advance(10)
    ask(fake, "DELETE", f"/rest/mtsms/{message_id}")
    fake.advance(1000)
    assert hook.statuses() == ["SCHEDULED", "DELETED"]


# --- spoiled reports ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "statuses"),
    [
        ({"is_twice": True}, ["BUFFERED", "BUFFERED", "ENROUTE", "ENROUTE", "DELIVERED", "DELIVERED"]),
        ({"is_out_of_order": True}, ["DELIVERED", "ENROUTE", "BUFFERED"]),
    ],
)
def test_reports_may_repeat_and_overtake(
    fake: FakeGatewayAPI, hook: Hook, options: dict[str, bool], statuses: list[str]
) -> None:
    fake.set_delivery(**options)
    ask(fake, body=message())
    fake.advance(10)
    assert hook.statuses() == statuses


def test_report_may_be_for_an_unknown_id(fake: FakeGatewayAPI, hook: Hook) -> None:
    fake.set_delivery(is_id_unknown=True)
    message_id = ask(fake, body=message()).json()["ids"][0]
    fake.advance(0)
    headers, body = hook.posts[0]
    assert json.loads(body)["id"] == claims_of(headers["X-Gwapi-Signature"])["id"] != message_id


@pytest.mark.parametrize(
    ("kind", "algorithm", "good_for"),
    [
        ("bad", "HS256", None),
        ("hs512", "HS512", SECRET),  # a good signature of an algorithm that must not be taken
        ("wrong-secret", "HS256", SECRET + " but another"),
    ],
)
def test_signature_may_be_spoiled(
    fake: FakeGatewayAPI, hook: Hook, kind: str, algorithm: str, good_for: str | None
) -> None:
    fake.set_delivery(signature=kind)
    ask(fake, body=message())
    fake.advance(0)
    token = hook.posts[0][0]["X-Gwapi-Signature"]
    assert not is_signed_by(token, SECRET)
    assert good_for is None or is_signed_by(token, good_for, algorithm)


def test_signature_may_be_none_or_absent(fake: FakeGatewayAPI, hook: Hook) -> None:
    for kind in ("none", "absent"):
        fake.set_delivery(signature=kind)
        ask(fake, body=message())
        fake.advance(0)
    token = hook.posts[0][0]["X-Gwapi-Signature"]
    assert base64.urlsafe_b64decode(token.split(".")[0] + "==") == b'{"typ":"JWT","alg":"none"}'
    assert token.endswith(".")
    assert "X-Gwapi-Signature" not in hook.posts[-1][0]


def test_body_may_differ_from_the_claims(fake: FakeGatewayAPI, hook: Hook) -> None:
    fake.set_delivery(body_differs=True, plan="undeliverable")
    ask(fake, body=message())
    fake.advance(10)
    headers, body = hook.posts[-1]
    assert is_signed_by(headers["X-Gwapi-Signature"], SECRET)
    assert claims_of(headers["X-Gwapi-Signature"])["status"] == "UNDELIVERABLE"
    assert json.loads(body)["status"] == "DELIVERED"


# --- retries --------------------------------------------------------------------------------------


def test_failed_report_is_tried_six_times_more(fake: FakeGatewayAPI, hook: Hook) -> None:
    hook.status = 300
    fake.set_delivery(plan="skipped")
    ask(fake, body=message())
    fake.advance(10**6)
    tries = [attempt for attempt in fake.reports if attempt.event.endswith("BUFFERED")]
    waits = [round(b.at - a.at) for a, b in itertools.pairwise(tries)]
    assert waits == list(RETRY_AFTER_S) == [60, 120, 360, 1440, 7200, 43200]
    assert [attempt.try_count for attempt in tries] == [1, 2, 3, 4, 5, 6, 7]


def test_retries_stop_at_2xx_and_scale(fake: FakeGatewayAPI, hook: Hook) -> None:
    fake.settings.report_retry_factor = 0.1
    fake.set_delivery(plan="stuck")
    hook.status = 500
    ask(fake, body=message())
    fake.advance(0.5)
    hook.status = 204
    fake.advance(10**6)
    buffered = [attempt for attempt in fake.reports if attempt.event.endswith("BUFFERED")]
    assert [(attempt.at - NOW, attempt.status) for attempt in buffered] == [(0, 500), (6, 204)]


def test_closed_webhook_is_retried(fake: FakeGatewayAPI) -> None:
    fake.webhook = Webhook("http://127.0.0.1:1/", SECRET)
    ask(fake, body=message())
    fake.advance(59)
    fake.advance(1)
    first, *_, last = [attempt for attempt in fake.reports if attempt.event.endswith("BUFFERED")]
    assert (first.status, first.error, last.try_count) == (None, "ConnectionRefusedError", 2)


def test_silent_webhook_is_given_up(fake: FakeGatewayAPI, hook: Hook) -> None:
    hook.status = None
    fake.settings.report_timeout_s = 0.05
    ask(fake, body=message())
    fake.advance(0)
    assert (fake.reports[0].status, fake.reports[0].error) == (None, "TimeoutError")


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1/",
        "http://example.com/",
        "https://127.0.0.1/",
        "ftp://127.0.0.1/",
        "http://127.0.0.1.example.com/",
        "http://127.0.0.1:x/",
        "http://[::ffff:192.0.2.1]/",
        "",
        "junk",
    ],
)
def test_only_loopback_is_posted_to(fake: FakeGatewayAPI, url: str) -> None:
    ask(fake, body=message(callback_url=url))
    fake.advance(10**6)
    assert {(attempt.status, attempt.error) for attempt in fake.reports} == {(None, "not loopback")}
    assert len(fake.reports) == 3  # and none is retried


# --- wall time ------------------------------------------------------------------------------------


def test_wall_time_posts_by_itself(hook: Hook) -> None:
    with FakeGatewayAPI(clock=lambda: NOW, reports="wall") as server:
        server.webhook = Webhook(hook.url, SECRET)
        ask(server, body=message())
        assert hook.arrived.wait(10)
    assert hook.statuses() == ["BUFFERED"]


def test_stop_cuts_a_post_that_hangs(hook: Hook) -> None:
    hook.status = None
    with FakeGatewayAPI(clock=lambda: NOW, reports="wall") as server:
        server.webhook = Webhook(hook.url, SECRET)
        ask(server, body=message())
        assert hook.arrived.wait(10)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fake-")]


# --- Messaging API --------------------------------------------------------------------------------


def send_mobile(fake: FakeGatewayAPI) -> str:
    """Id of a new text."""
    body = {"sender": "textgate", "recipient": int(MSISDN), "message": "123456", "reference": "r"}
    headers = {"Authorization": "Token test-token"}
    return str(ask_plain(fake, "POST", "/mobile/single", headers, json.dumps(body).encode()).json()["msg_id"])


def test_mobile_report_is_as_documented(fake: FakeGatewayAPI, hook: Hook) -> None:
    fake.set_delivery(plan="rejected")
    message_id = send_mobile(fake)
    fake.advance(10)
    headers, raw = hook.posts[-1]
    body = json.loads(raw)
    assert set(body) == {"event_id", "timestamp", "event_type", "event"}
    assert (body["timestamp"], body["event_type"]) == ("2023-11-14T22:13:22+00:00", "message.status.sms")
    assert body["event"] == {
        "msg_id": message_id,
        "recipient": int(MSISDN),
        "reference": "r",
        "status": "REJECTED",
        "status_at": body["timestamp"],
        "error": {"hex_code": "0x1905", "details": "Unsupported sender"},
    }
    digest = hmac.new(b"webhook-test-secret", raw, hashlib.sha256).hexdigest()
    assert headers["Signature"] == f"v1={digest}"


def test_mobile_signature_may_be_spoiled(fake: FakeGatewayAPI, hook: Hook) -> None:
    for options in ({"signature": "wrong-secret"}, {"body_differs": True}, {"signature": "absent"}):
        fake.set_delivery(**options)
        send_mobile(fake)
        fake.advance(0)
    signatures = [(headers.get("Signature"), raw) for headers, raw in hook.posts[:2]]
    assert all(found != mobile_signature(raw, "webhook-test-secret") for found, raw in signatures)
    assert "Signature" not in hook.posts[-1][0]


def test_mobile_report_may_be_for_an_unknown_id(fake: FakeGatewayAPI, hook: Hook) -> None:
    fake.set_delivery(is_id_unknown=True)
    message_id = send_mobile(fake)
    fake.advance(0)
    assert hook.bodies()[0]["event"]["msg_id"] != message_id
