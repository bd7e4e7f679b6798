# SPDX-License-Identifier: MIT
"""Each injected fault as a raw client sees it, with the text accepted before it and without."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from fake_gatewayapi import FakeGatewayAPI
from fake_gatewayapi.client import MSISDN, NOW, Answer, RawClient, ask, message
from fake_gatewayapi.faults import KINDS, Fault

HTML = "text/html; charset=utf-8"
JSON = "application/json"


@pytest.fixture
def fake() -> Iterator[FakeGatewayAPI]:
    """A fake whose clock stands at NOW."""
    with FakeGatewayAPI(clock=lambda: NOW) as server:
        yield server


@pytest.fixture(params=[False, True], ids=["not-accepted", "accepted"])
def accept(request: pytest.FixtureRequest) -> bool:
    """Whether the text is accepted before the fault."""
    return bool(request.param)


def check_accepted(fake: FakeGatewayAPI, accept: bool, kind: str) -> None:
    """The record says the same as the list of texts."""
    assert len(fake.accepted) == accept
    request = fake.requests[0]
    assert (request.fault, request.verdict) == (kind, "accepted" if accept else "nothing")


# --- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("429", {}, (429, JSON)),
        ("429", {"body": "html"}, (429, HTML)),
        ("500", {}, (500, JSON)),
        ("500", {"body": "html"}, (500, HTML)),
        ("502", {}, (502, HTML)),
        ("503", {}, (503, HTML)),
        ("503", {"body": "empty"}, (503, None)),
        ("504", {}, (504, HTML)),
    ],
)
def test_status_fault(
    fake: FakeGatewayAPI, accept: bool, kind: str, options: dict[str, Any], expected: tuple[int, str | None]
) -> None:
    fake.inject(kind, accept=accept, **options)
    answer = ask(fake, body=message())
    assert (answer.status, answer.headers.get("content-type")) == expected
    assert "retry-after" not in answer.headers
    check_accepted(fake, accept, kind)


@pytest.mark.parametrize(
    ("wish", "sent"),
    [
        (30, "30"),
        (0, "0"),
        ("huge", "10000000000"),
        ("date", "Tue, 14 Nov 2023 22:14:20 GMT"),  # a minute after NOW
        ("junk", "junk"),
    ],
)
def test_retry_after(fake: FakeGatewayAPI, wish: Any, sent: str) -> None:
    fake.inject("429", retry_after=wish)
    assert ask(fake, body=message()).headers["retry-after"] == sent


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("cut", lambda body: body == b'{"ids": [1'),
        ("html", lambda body: body.startswith(b"<!doctype")),
        ("empty", lambda body: body == b""),
        ("wrong-type", lambda body: json.loads(body) == "ids"),
        ("not-utf8", lambda body: b"\xff\xfe" in body),
        ("bom", lambda body: body.startswith(b"\xef\xbb\xbf{")),
        ("nan", lambda body: b"NaN" in body),
        ("deep", lambda body: body.count(b"[") == 100_000),
        ("huge-int", lambda body: b"9" * 10_000 in body),
    ],
)
def test_malformed_body(fake: FakeGatewayAPI, accept: bool, what: str, expected: Callable[[bytes], bool]) -> None:
    fake.inject("malformed", accept=accept, what=what)
    answer = ask(fake, body=message())
    assert (answer.status, answer.headers["content-type"]) == (200, JSON)
    assert expected(answer.body)
    check_accepted(fake, accept, "malformed")


@pytest.mark.parametrize(
    ("what", "status", "ids"),
    [
        ("empty-ids", 200, []),
        ("no-ids", 200, None),
        ("string-ids", 200, ["421332671"]),
        ("two-ids", 200, [421332671, 421332672]),
        ("202", 202, None),
    ],
)
def test_odd_success(fake: FakeGatewayAPI, accept: bool, what: str, status: int, ids: Any) -> None:
    fake.inject("odd", accept=accept, what=what)
    answer = ask(fake, body=message())
    assert (answer.status, answer.json().get("ids")) == (status, ids)
    check_accepted(fake, accept, "odd")


def test_odd_204_has_no_body(fake: FakeGatewayAPI, accept: bool) -> None:
    fake.inject("odd", accept=accept, what="204")
    answer = ask(fake, body=message())
    assert (answer.status, answer.body) == (204, b"")
    check_accepted(fake, accept, "odd")


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("credit", {}, (403, "0x0216")),
        ("replay", {}, (401, "0x0226")),
        ("error", {"code": "0x0213"}, (403, "0x0213")),
        ("error", {"code": "0x0217"}, (403, "0x0217")),
        ("error", {"code": "0x022A"}, (403, "0x022A")),
        ("error", {"code": "0x021E"}, (500, "0x021E")),
        ("error", {"code": "0x0213", "omit": ["code"]}, (403, None)),
    ],
)
def test_error_fault(
    fake: FakeGatewayAPI, accept: bool, kind: str, options: dict[str, Any], expected: tuple[int, str | None]
) -> None:
    fake.inject(kind, accept=accept, **options)
    answer = ask(fake, body=message())
    assert (answer.status, answer.json().get("code")) == expected
    check_accepted(fake, accept, kind)


def test_error_may_lack_variables(fake: FakeGatewayAPI) -> None:
    fake.inject("error", code="0x0217", omit=["variables"])
    assert set(ask(fake, body=message()).json()) == {"code", "message", "incident_uuid"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_goes_to_another_address(fake: FakeGatewayAPI, accept: bool, status: int) -> None:
    fake.inject("redirect", accept=accept, status=status)
    answer = ask(fake, body=message())
    assert (answer.status, answer.headers["location"]) == (status, f"http://127.0.0.2:{fake.port}/rest/mtsms")
    check_accepted(fake, accept, "redirect")


def test_redirect_goes_where_it_is_told(fake: FakeGatewayAPI) -> None:
    fake.inject("redirect", location="http://127.0.0.1:9/x")
    assert ask(fake, body=message()).headers["location"] == "http://127.0.0.1:9/x"


@pytest.mark.parametrize("seconds", [3600, -3600])
def test_clock_fault_expires_a_good_timestamp(fake: FakeGatewayAPI, seconds: int) -> None:
    fake.inject("clock", seconds=seconds)
    answer = ask(fake, body=message(), oauth_nonce="n")
    assert (answer.status, answer.json()["code"]) == (401, "0x0225")
    assert answer.headers["date"] == (
        "Tue, 14 Nov 2023 23:13:20 GMT" if seconds > 0 else "Tue, 14 Nov 2023 21:13:20 GMT"
    )
    assert ask(fake, body=message(), oauth_nonce="n").status == 200


def test_fault_without_accept_looks_like_a_success_of_the_same_api(fake: FakeGatewayAPI) -> None:
    fake.inject("drip", count=2, interval_s=0)
    assert ask(fake, body=message()).json()["ids"]
    answer = ask(fake, "POST", "/mobile/single")
    assert (answer.status, "msg_id" in answer.json()) == (202, True)
    assert fake.accepted == []


# --- broken connections ---------------------------------------------------------------------------


def send_and_watch(fake: FakeGatewayAPI) -> tuple[bytes, bool]:
    """Bytes that came for one send, and whether the end was a RST."""
    received = b""
    with RawClient(fake) as client:
        client.send_json(body=message())
        try:
            while part := client.socket.recv(65_536):
                received += part
        except ConnectionResetError:
            return received, True
    return received, False


@pytest.mark.parametrize("kind", ["reset", "close"])
def test_broken_before_the_answer(fake: FakeGatewayAPI, accept: bool, kind: str) -> None:
    fake.inject(kind, accept=accept)
    assert send_and_watch(fake) == (b"", kind == "reset")
    check_accepted(fake, accept, kind)


@pytest.mark.parametrize("at", ["mid-header", "mid-body"])
def test_closed_in_the_middle(fake: FakeGatewayAPI, accept: bool, at: str) -> None:
    fake.inject("close", accept=accept, at=at)
    received, was_reset = send_and_watch(fake)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (b"\r\n\r\n" in received) == (at == "mid-body")
    assert not was_reset
    answer = Answer(received)
    assert at == "mid-header" or 0 < len(answer.body) < int(answer.headers["content-length"])
    check_accepted(fake, accept, "close")


@pytest.mark.parametrize("at", ["mid-header", "mid-body"])
def test_reset_in_the_middle(fake: FakeGatewayAPI, accept: bool, at: str) -> None:
    # A RST may overtake the bytes before it, so only the end is certain.
    fake.inject("reset", accept=accept, at=at)
    received, was_reset = send_and_watch(fake)
    assert was_reset
    assert b"}" not in received
    check_accepted(fake, accept, "reset")


def test_truncated_by_length(fake: FakeGatewayAPI, accept: bool) -> None:
    fake.inject("truncated", accept=accept)
    received, was_reset = send_and_watch(fake)
    answer = Answer(received)
    assert not was_reset
    assert int(answer.headers["content-length"]) == len(answer.body) + 100
    assert "ids" in answer.json()  # what came is good JSON: only the length tells
    check_accepted(fake, accept, "truncated")


def test_truncated_chunks(fake: FakeGatewayAPI, accept: bool) -> None:
    fake.inject("truncated", accept=accept, how="chunked")
    answer = Answer(send_and_watch(fake)[0])
    assert answer.headers["transfer-encoding"] == "chunked"
    assert "content-length" not in answer.headers
    assert answer.body.endswith(b"}\r\n")  # one chunk, and no last chunk
    check_accepted(fake, accept, "truncated")


def test_refuse_closes_the_port_until_removed(fake: FakeGatewayAPI) -> None:
    with RawClient(fake) as client:
        assert client.ask(body=message()).status == 200
        fault = fake.inject("refuse", count=None)
        assert client.receive_until_end() == b""  # open connections are cut
    with pytest.raises(ConnectionRefusedError):
        RawClient(fake)
    port = fake.port
    fake.remove(fault)
    assert ask(fake, body=message()).status == 200
    assert fake.port == port


def test_refusing_is_a_block(fake: FakeGatewayAPI) -> None:
    for _ in range(3):
        with fake.refusing(), pytest.raises(ConnectionRefusedError):
            RawClient(fake)
    assert ask(fake, body=message()).status == 200


# --- slowness -------------------------------------------------------------------------------------


def test_delay_before_answer_holds_until_released(fake: FakeGatewayAPI) -> None:
    fault = fake.inject("delay", accept=True)
    with RawClient(fake) as client:
        client.send_json(body=message())
        fault.wait_reached()
        assert len(fake.accepted) == 1  # accepted although no answer came
        client.socket.settimeout(0)
        with pytest.raises(BlockingIOError):
            client.socket.recv(1)
        client.socket.settimeout(10)
        fault.release()
        assert client.receive().status == 200


def test_delay_without_accept_ends_without_an_answer(fake: FakeGatewayAPI) -> None:
    fault = fake.inject("delay")
    with RawClient(fake) as client:
        client.send_json(body=message())
        fault.wait_reached()
        fault.release()
        assert client.receive_until_end() == b""
    check_accepted(fake, False, "delay")


def test_delay_may_accept_late_when_the_client_is_gone(fake: FakeGatewayAPI) -> None:
    fault = fake.inject("delay", then="process")
    with RawClient(fake) as client:
        client.send_json(body=message())
        fault.wait_reached()
    assert fake.accepted == []
    fault.release()
    assert len(fake.wait_for_texts(1)) == 1


def test_delay_between_header_and_body(fake: FakeGatewayAPI, accept: bool) -> None:
    fault = fake.inject("delay", accept=accept, where="between")
    with RawClient(fake) as client:
        client.send_json(body=message())
        fault.wait_reached()
        assert client.receive_some().endswith(b"\r\n\r\n")
        fault.release()
        assert "ids" in client.receive().json()
    check_accepted(fake, accept, "delay")


def test_delay_before_read(fake: FakeGatewayAPI, accept: bool) -> None:
    fault = fake.inject("delay", accept=accept, where="before-read")
    with RawClient(fake) as client:
        client.send_json(body=message())
        fault.wait_reached()
        assert fake.requests == []
        fault.release()
        if accept:
            assert client.receive().status == 200
        else:
            assert client.receive_until_end() == b""
    check_accepted(fake, accept, "delay")


def test_delay_ends_by_itself(fake: FakeGatewayAPI) -> None:
    fake.inject("delay", accept=True, seconds=0.01)
    assert ask(fake, body=message()).status == 200


@pytest.mark.parametrize("where", ["all", "body"])
def test_drip_sends_byte_by_byte(fake: FakeGatewayAPI, accept: bool, where: str) -> None:
    fault = fake.inject("drip", accept=accept, interval_s=3600, where=where)
    with RawClient(fake) as client:
        client.send_json(body=message())
        fault.wait_reached()
        fault.release()
        assert "ids" in client.receive().json()
    check_accepted(fake, accept, "drip")


class CountedPauses(threading.Event):
    """Notes every pause instead of making it."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses_s: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses_s.append(timeout)
        return False


def test_drip_pauses_before_each_byte(fake: FakeGatewayAPI) -> None:
    fault = fake.inject("drip", interval_s=5)
    fault.released = pauses = CountedPauses()
    answer = ask(fake, body=message())
    assert pauses.pauses_s == [5] * len(answer.raw)


def test_oversize_body_is_as_long_as_it_says(fake: FakeGatewayAPI, accept: bool) -> None:
    fake.inject("oversize", accept=accept, size_bytes=200_001)
    answer = Answer(send_and_watch(fake)[0])
    assert (len(answer.body), answer.headers["content-length"]) == (200_001, "200001")
    check_accepted(fake, accept, "oversize")


@pytest.mark.parametrize("what", ["body", "headers", "drip"])
def test_oversize_has_no_near_end(fake: FakeGatewayAPI, accept: bool, what: str) -> None:
    fake.inject("oversize", accept=accept, what=what, interval_s=0.001)
    enough_bytes = 300 if what == "drip" else 5_000_000
    with RawClient(fake) as client:
        client.send_json(body=message())
        received = 0
        while received < enough_bytes:
            part = client.socket.recv(65_536)
            assert part
            received += len(part)
    check_accepted(fake, accept, "oversize")


# --- which requests -------------------------------------------------------------------------------


def test_fault_takes_the_next_n_requests(fake: FakeGatewayAPI) -> None:
    fault = fake.inject("503", count=2)
    assert [ask(fake, body=message()).status for _ in range(3)] == [503, 503, 200]
    assert (fault.hit_count, fault.left) == (2, 0)


def test_faults_are_served_in_order(fake: FakeGatewayAPI) -> None:
    fake.inject("503")
    fake.inject("429", count=2)
    fake.inject("500")
    assert [ask(fake, body=message()).status for _ in range(5)] == [503, 429, 429, 500, 200]


def test_fault_without_count_lasts_until_removed(fake: FakeGatewayAPI) -> None:
    fault = fake.inject("503", count=None)
    assert [ask(fake, body=message()).status for _ in range(3)] == [503] * 3
    fake.remove(fault)
    assert ask(fake, body=message()).status == 200


def test_fault_takes_what_its_predicate_says(fake: FakeGatewayAPI) -> None:
    fake.inject("503", when=lambda request: MSISDN.encode() in request.body)
    assert ask(fake, "GET", "/rest/me").status == 200
    assert ask(fake, body=message(recipients=[{"msisdn": 4599999999}])).status == 200
    assert ask(fake, body=message()).status == 503


def test_fault_comes_before_route_and_credentials(fake: FakeGatewayAPI) -> None:
    fake.inject("503", count=2)
    assert ask(fake, "GET", "/nowhere").status == 503
    assert ask(fake, body=message(), oauth_consumer_key="nobody", oauth_nonce="n").status == 503


def test_fault_without_accept_burns_no_nonce(fake: FakeGatewayAPI) -> None:
    fake.inject("503")
    assert ask(fake, body=message(), oauth_nonce="n").status == 503
    assert ask(fake, body=message(), oauth_nonce="n").status == 200


def test_resend_after_accept_and_fault_is_a_replay(fake: FakeGatewayAPI) -> None:
    fake.inject("reset", accept=True)
    with pytest.raises(ConnectionError):
        ask(fake, body=message(), oauth_nonce="n")
    answer = ask(fake, body=message(), oauth_nonce="n")
    assert (answer.json()["code"], len(fake.accepted)) == ("0x0226", 1)


def test_accept_before_fault_still_checks_the_request(fake: FakeGatewayAPI) -> None:
    fake.inject("503", accept=True)
    assert ask(fake, body=message(), oauth_consumer_key="nobody").status == 503
    assert fake.accepted == []
    assert (fake.requests[0].verdict, fake.requests[0].error_code) == ("refused", "0x0223")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("earthquake", {}),
        ("delay", {"where": "nowhere"}),
        ("delay", {"then": "what"}),
        ("delay", {"where": "before-read", "when": lambda _request: True}),
        ("429", {"body": "xml"}),
        ("reset", {"at": "the-end"}),
        ("malformed", {"what": "fine"}),
        ("truncated", {"how": "well"}),
        ("odd", {"what": "even"}),
        ("error", {"code": "0x9999"}),
        ("oversize", {"what": "me"}),
        ("redirect", {"status": 200}),
        ("clock", {"accept": True}),
    ],
)
def test_misspelt_fault_fails_when_injected(fake: FakeGatewayAPI, kind: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        fake.inject(kind, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_option_fails_when_injected(kind: str) -> None:
    with pytest.raises(TypeError):
        Fault(kind, 1, None, False, {"colour": "red"})


# --- limits and ends ------------------------------------------------------------------------------


def open_to_the_limit(fake: FakeGatewayAPI) -> list[RawClient]:
    """Clients on as many connections as one address may have, all served once."""
    clients = [RawClient(fake) for _ in range(fake.settings.connection_limit)]
    for client in clients:
        assert client.ask("GET", "/rest/me").status == 200
    return clients


def test_41st_connection_is_closed(fake: FakeGatewayAPI) -> None:
    clients = open_to_the_limit(fake)
    assert (len(clients), fake.open_connection_count) == (40, 40)
    with RawClient(fake) as one_too_many:
        assert one_too_many.receive_until_end() == b""
    assert fake.refused_connection_count == 1
    assert clients[0].ask(body=message()).status == 200
    for client in clients:
        client.socket.close()


@pytest.mark.parametrize("how", ["reset", "429", "503"])
def test_connection_over_the_limit_may_end_otherwise(fake: FakeGatewayAPI, how: str) -> None:
    fake.settings.connection_limit, fake.settings.over_limit = 1, how
    clients = open_to_the_limit(fake)
    if how == "reset":
        with pytest.raises(ConnectionResetError), RawClient(fake) as one_too_many:
            one_too_many.receive_until_end()  # the RST may come as early as connect()
    else:
        with RawClient(fake) as one_too_many:
            assert one_too_many.receive().status == int(how)
    clients[0].socket.close()


def test_stop_ends_all_that_is_held() -> None:
    server = FakeGatewayAPI(clock=lambda: NOW).start()
    faults = [
        server.inject("delay", accept=True),
        server.inject("delay", where="between"),
        server.inject("drip", interval_s=3600),
        server.inject("oversize", what="drip", interval_s=3600),
        server.inject("oversize", what="headers"),  # blocks, because nobody reads
    ]
    clients = [RawClient(server) for _ in range(6)]  # the last one is idle
    for client, fault in zip(clients, faults, strict=False):
        client.send_json(body=message())
        if fault.kind != "oversize":
            fault.wait_reached()
    server.stop()
    assert server.open_connection_count == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fake-")]
    for client in clients:
        client.socket.close()


def test_stopped_fake_can_start_again_on_its_port() -> None:
    server = FakeGatewayAPI(clock=lambda: NOW).start()
    port = server.port
    assert ask(server, body=message()).status == 200
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        RawClient(server)
    with server:
        assert server.port == port
        assert ask(server, body=message()).status == 200


def test_only_loopback_is_listened_on(fake: FakeGatewayAPI) -> None:
    assert fake.url == f"http://127.0.0.1:{fake.port}"
    with pytest.raises(OSError, match=r"refused"):
        socket.create_connection(("127.0.0.2", fake.port), timeout=10)


# --- TLS ------------------------------------------------------------------------------------------


def get_prices(server: FakeGatewayAPI, verify: str | bool) -> int:
    """GET the price list as a client of today would."""
    with requests.Session() as session:
        session.trust_env = False
        session.verify = verify
        return int(session.get(f"{server.url}/api/prices/list/sms/json", timeout=10).status_code)


def test_trusted_certificate_is_taken() -> None:
    with FakeGatewayAPI(tls="trusted") as server:
        assert server.url.startswith("https://")
        assert get_prices(server, str(server.ca_file)) == 200
        folder = server.ca_file.parent
    assert not folder.exists()


@pytest.mark.parametrize(
    ("kind", "why"),
    [("self-signed", "self.signed"), ("wrong-name", "not valid for"), ("expired", "has expired")],
)
def test_bad_certificate_is_refused_for_its_own_fault(kind: Any, why: str) -> None:
    with FakeGatewayAPI(tls=kind) as server:
        with pytest.raises(requests.exceptions.SSLError, match=why):
            get_prices(server, str(server.ca_file))
        assert server.requests == []


def test_trusted_certificate_is_refused_without_its_authority() -> None:
    with FakeGatewayAPI(tls="trusted") as server, pytest.raises(requests.exceptions.SSLError):
        get_prices(server, True)


def test_plain_text_to_tls_is_noted() -> None:
    with FakeGatewayAPI(tls="trusted") as server:
        with RawClient(server) as client:
            client.send("GET", "/rest/me")
            with contextlib.suppress(ConnectionResetError):  # what the server did not read makes a RST
                client.receive_until_end()
        assert server.tls_failures == ["HTTP_REQUEST"]
        assert server.requests == []


def test_faults_work_over_tls(accept: bool) -> None:
    with FakeGatewayAPI(tls="trusted") as server:
        server.inject("reset", accept=accept)
        with pytest.raises(requests.exceptions.ConnectionError):
            get_prices(server, str(server.ca_file))
        assert get_prices(server, str(server.ca_file)) == 200


def test_signature_is_checked_for_https() -> None:
    from requests_oauthlib import OAuth1Session

    with (
        FakeGatewayAPI(tls="trusted") as server,
        OAuth1Session("test-key", client_secret="test-secret") as session,
    ):
        session.trust_env = False
        session.verify = str(server.ca_file)
        assert session.post(f"{server.url}/rest/mtsms", json=message(), timeout=10).status_code == 200


def test_http_has_no_authority_file(fake: FakeGatewayAPI) -> None:
    with pytest.raises(ValueError, match="no TLS"):
        _ = fake.ca_file
