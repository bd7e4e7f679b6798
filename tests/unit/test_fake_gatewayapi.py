# SPDX-License-Identifier: MIT
"""The fake's door: signatures, nonces, clocks, tokens. Vectors first, then the real client library."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from requests_oauthlib import OAuth1Session

from fake_gatewayapi import ApiKey, FakeGatewayAPI
from fake_gatewayapi.client import (
    NOW,
    Answer,
    RawClient,
    ask,
    ask_plain,
    message,
    oauth_parameters,
    signed_header,
)
from fake_gatewayapi.errors import ApiError
from fake_gatewayapi.oauth1 import (
    NonceBook,
    SignedRequest,
    Verifier,
    base_string,
    base_uri,
    parse_header,
    query_pairs,
    signature,
)

OTHER_KEY = ApiKey("other-key", "other-secret", "other-token")
PATH = "/rest/mtsms"


@pytest.fixture
def fake() -> Iterator[FakeGatewayAPI]:
    """A fake whose clock stands at NOW."""
    with FakeGatewayAPI(clock=lambda: NOW, accounts={"olduser": "oldpassword"}) as server:
        yield server


def vector(nonce: str, timestamp: int) -> list[tuple[str, str]]:
    """OAuth parameters as in the published vectors."""
    return list(oauth_parameters(oauth_nonce=nonce, oauth_timestamp=timestamp).items())


# --- vectors, made with oauthlib 4.0.1 and by hand, equal -----------------------------------------


def test_base_string_matches_vector() -> None:
    uri = base_uri("https", "gatewayapi.com", PATH)
    pairs = vector("12345678901234567891700000000", 1_700_000_000)
    assert base_string("POST", uri, pairs) == (
        "POST&https%3A%2F%2Fgatewayapi.com%2Frest%2Fmtsms&oauth_consumer_key%3Dtest-key"
        "%26oauth_nonce%3D12345678901234567891700000000%26oauth_signature_method%3DHMAC-SHA1"
        "%26oauth_timestamp%3D1700000000%26oauth_version%3D1.0"
    )


@pytest.mark.parametrize(
    ("request_line", "secret", "nonce_and_timestamp", "expected"),
    [
        (
            "POST https://gatewayapi.com/rest/mtsms",
            "test-secret",
            ("12345678901234567891700000000", 1_700_000_000),
            "cmq363l3YhDJERxmsLvoFhpXoV8=",
        ),
        # a secret that needs encoding, and a port that stays
        (
            "POST http://127.0.0.1:8080/rest/mtsms",
            "s+e/c&r=t",
            ("n-2", 1_700_000_060),
            "5uLWoJR6kPHT1Iy3cQyzJ53I1bA=",
        ),
        # query parameters: sorted, UTF-8, a space as %20
        (
            "GET https://gatewayapi.com/rest/me?b=%C3%A6&a=1%202",
            "test-secret",
            ("n-3", 1_700_000_120),
            "vC2E/e8NOIdTTFeDv0SFSOApAak=",
        ),
    ],
)
def test_signature_matches_vector(
    request_line: str, secret: str, nonce_and_timestamp: tuple[str, int], expected: str
) -> None:
    method, url = request_line.split(" ")
    parts = urlsplit(url)
    pairs = [*query_pairs(parts.query), *vector(*nonce_and_timestamp)]
    base = base_string(method, base_uri(parts.scheme, parts.netloc, parts.path), pairs)
    assert signature(base, secret) == expected


def test_base_string_matches_rfc_5849() -> None:
    # RFC 5849 §3.4.1.1: a form body, an empty value, a name twice, reserved characters
    pairs = [
        *query_pairs("b5=%3D%253D&a3=a&c%40=&a2=r%20b"),
        *query_pairs("c2&a3=2+q"),
        *parse_header(
            'realm="Example", oauth_consumer_key="9djdj82h48djs9d2", oauth_token="kkk9d7dh3k39sjv7",'
            ' oauth_signature_method="HMAC-SHA1", oauth_timestamp="137131201", oauth_nonce="7d8f3e4a"'
        ),
    ]
    assert base_string("post", base_uri("http", "EXAMPLE.COM:80", "/request"), pairs) == (
        "POST&http%3A%2F%2Fexample.com%2Frequest&a2%3Dr%2520b%26a3%3D2%2520q%26a3%3Da%26b5%3D%253D%25253D"
        "%26c%2540%3D%26c2%3D%26oauth_consumer_key%3D9djdj82h48djs9d2%26oauth_nonce%3D7d8f3e4a"
        "%26oauth_signature_method%3DHMAC-SHA1%26oauth_timestamp%3D137131201%26oauth_token%3Dkkk9d7dh3k39sjv7"
    )


# --- the real client library ----------------------------------------------------------------------


@pytest.mark.parametrize("secret", ["test-secret", "s+e/c&r=t æ%"])
def test_real_client_is_accepted(secret: str) -> None:
    with (
        FakeGatewayAPI(keys=[ApiKey("a key", secret, "t")]) as server,
        OAuth1Session("a key", client_secret=secret) as session,
    ):
        session.trust_env = False
        sent = session.post(server.url + PATH, json=message(), timeout=10)
        assert (sent.status_code, sent.json()["ids"]) == (200, [server.accepted[0].id])
        balance = session.get(server.url + "/rest/me?b=%C3%A6&a=1%202", timeout=10)
        assert balance.json()["credit"] == 99.85
        assert server.texts_to(4512345678) == ["123456 is your code"]


def test_real_client_signs_form_fields(fake: FakeGatewayAPI) -> None:
    with OAuth1Session("test-key", client_secret="test-secret", timestamp=str(NOW)) as session:
        session.trust_env = False
        fields = {"message": "12 & æ", "recipients.0.msisdn": "4512345678", "validity_period": "300"}
        assert session.post(fake.url + PATH, data=fields, timeout=10).status_code == 200
    assert (fake.accepted[0].text, fake.accepted[0].validity) == ("12 & æ", 300)


def test_real_client_with_body_hash_is_refused_unless_lenient(fake: FakeGatewayAPI) -> None:
    def send() -> int:
        with OAuth1Session(
            "test-key", client_secret="test-secret", timestamp=str(NOW), force_include_body=True
        ) as session:
            session.trust_env = False
            status: int = session.post(fake.url + PATH, json=message(), timeout=10).status_code
            return status

    assert send() == 400
    assert fake.requests[-1].error_code == "0x0220"
    fake.settings.strict_body_hash = False
    assert send() == 200


# --- what a signature covers ----------------------------------------------------------------------


def send_signed_for(
    fake: FakeGatewayAPI, *, signed: str, method: str = "POST", secret: str = "test-secret"
) -> Answer:
    """Send to PATH what was signed for another URL, method or secret."""
    header = signed_header(method, signed, oauth_parameters(), secret)
    return ask_plain(fake, "POST", PATH, {"Authorization": header}, json.dumps(message()).encode())


def refusal(answer: Answer) -> tuple[int, str]:
    """Status and error code."""
    return answer.status, answer.json().get("code", "")


def test_untouched_request_is_accepted(fake: FakeGatewayAPI) -> None:
    assert send_signed_for(fake, signed=fake.url + PATH).status == 200
    assert [request.verdict for request in fake.requests] == ["accepted"]


@pytest.mark.parametrize("changed", ["method", "path", "query", "secret", "port", "host", "scheme"])
def test_changed_request_has_invalid_signature(fake: FakeGatewayAPI, changed: str) -> None:
    urls = {
        "path": fake.url + "/rest/mtsms/",
        "query": fake.url + PATH + "?a=1",
        "port": f"http://127.0.0.1:{fake.port + 1}{PATH}",
        "host": f"http://localhost:{fake.port}{PATH}",
        "scheme": fake.url.replace("http:", "https:") + PATH,
    }
    answer = send_signed_for(
        fake,
        signed=urls.get(changed, fake.url + PATH),
        method="PUT" if changed == "method" else "POST",
        secret="test-secret-" if changed == "secret" else "test-secret",
    )
    assert refusal(answer) == (401, "0x0224")
    assert (fake.accepted, fake.requests[0].verdict) == ([], "refused")


def test_key_swapped_after_signing_has_invalid_signature() -> None:
    with FakeGatewayAPI(clock=lambda: NOW, keys=[ApiKey("test-key", "test-secret", "t"), OTHER_KEY]) as server:
        header = signed_header("POST", server.url + PATH, oauth_parameters()).replace("test-key", "other-key")
        answer = ask_plain(server, "POST", PATH, {"Authorization": header}, json.dumps(message()).encode())
        assert refusal(answer) == (401, "0x0224")


def test_changed_json_body_is_still_accepted(fake: FakeGatewayAPI) -> None:
    # True of the real scheme: only TLS protects the text and the number.
    header = signed_header("POST", fake.url + PATH, oauth_parameters())
    body = json.dumps(message("another text", recipients=[{"msisdn": 4587654321}])).encode()
    headers = {"Authorization": header, "Content-Type": "application/json"}
    assert ask_plain(fake, "POST", PATH, headers, body).status == 200
    assert fake.texts_to(4587654321) == ["another text"]


def test_changed_form_body_has_invalid_signature(fake: FakeGatewayAPI) -> None:
    header = signed_header("POST", fake.url + PATH, oauth_parameters())
    headers = {"Authorization": header, "Content-Type": "application/x-www-form-urlencoded"}
    answer = ask_plain(fake, "POST", PATH, headers, b"message=hi&recipients.0.msisdn=4512345678")
    assert refusal(answer) == (401, "0x0224")


# --- replay and clock -----------------------------------------------------------------------------


def test_replay_is_refused(fake: FakeGatewayAPI) -> None:
    assert ask(fake, body=message(), oauth_nonce="n").status == 200
    assert refusal(ask(fake, body=message(), oauth_nonce="n")) == (401, "0x0226")
    assert len(fake.accepted) == 1


def test_two_simultaneous_copies_pass_once(fake: FakeGatewayAPI) -> None:
    answers: list[int] = []
    barrier = threading.Barrier(8)

    def send() -> None:
        with RawClient(fake) as client:
            barrier.wait(10)
            answers.append(client.ask(body=message(), oauth_nonce="same").status)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(answers) == [200] + [401] * 7
    assert len(fake.accepted) == 1


def test_nonce_is_spent_atomically() -> None:
    # A second spend starts in the middle of the first: it must wait, and then find the nonce used.
    book = NonceBook()
    results: list[bool] = []
    second = threading.Thread(target=lambda: results.append(book.spend("key", "n", NOW, 600)))

    class Interrupted(dict[tuple[str, str], float]):
        def __contains__(self, pair: object) -> bool:
            is_known = super().__contains__(pair)
            if threading.current_thread() is not second:
                second.start()
                second.join(0.1)
            return is_known

    book._seen_at = Interrupted()
    results.append(book.spend("key", "n", NOW, 600))
    second.join(10)
    assert sorted(results) == [False, True]


def test_refused_send_burns_its_nonce(fake: FakeGatewayAPI) -> None:
    assert ask(fake, body=[], oauth_nonce="n").status == 422
    assert refusal(ask(fake, body=message(), oauth_nonce="n")) == (401, "0x0226")


@pytest.mark.parametrize("spoiled", ["signature", "timestamp"])
def test_request_that_fails_to_authenticate_burns_no_nonce(fake: FakeGatewayAPI, spoiled: str) -> None:
    secret, stamp = ("wrong", NOW) if spoiled == "signature" else ("test-secret", NOW - 301)
    parameters = oauth_parameters(oauth_nonce="n", oauth_timestamp=stamp)
    header = signed_header("POST", fake.url + PATH, parameters, secret)
    assert ask_plain(fake, "POST", PATH, {"Authorization": header}).status == 401
    assert ask(fake, body=message(), oauth_nonce="n").status == 200


def test_nonce_is_remembered_for_twice_the_window() -> None:
    now = [float(NOW)]
    with FakeGatewayAPI(clock=lambda: now[0]) as server:
        assert ask(server, body=message(), oauth_nonce="n", oauth_timestamp=NOW + 300).status == 200
        now[0] += 600  # the stamp is good to the last second, and so is the memory
        assert refusal(ask(server, body=message(), oauth_nonce="n", oauth_timestamp=NOW + 300)) == (401, "0x0226")
        now[0] += 1
        assert ask(server, body=message(), oauth_nonce="n", oauth_timestamp=NOW + 601).status == 200


@pytest.mark.parametrize(
    ("offset_s", "status"),
    [(-301, 401), (-300, 200), (0, 200), (300, 200), (301, 401)],  # both edges of the window
)
def test_timestamp_window_has_both_edges(fake: FakeGatewayAPI, offset_s: int, status: int) -> None:
    answer = ask(fake, body=message(), oauth_timestamp=NOW + offset_s)
    assert answer.status == status
    assert answer.json().get("code") == (None if status == 200 else "0x0225")


def test_window_can_be_set(fake: FakeGatewayAPI) -> None:
    fake.settings.timestamp_window_s = 10
    assert refusal(ask(fake, body=message(), oauth_timestamp=NOW - 11)) == (401, "0x0225")


@pytest.mark.parametrize("stamp", ["1700000000.0", "-1700000000", " 1700000000", "١٧٠٠٠٠٠٠٠٠", "1e9", "x"])
def test_timestamp_must_be_whole_seconds(fake: FakeGatewayAPI, stamp: str) -> None:
    assert refusal(ask(fake, body=message(), oauth_timestamp=stamp)) == (401, "0x0225")


def test_clock_offset_expires_timestamps(fake: FakeGatewayAPI) -> None:
    fake.clock_offset_s = 3600
    assert refusal(ask(fake, body=message())) == (401, "0x0225")
    assert ask(fake, body=message(), oauth_timestamp=NOW + 3600).status == 200


# --- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code", "variables"),
    [
        ({"oauth_nonce": None}, "0x0222", ["oauth_nonce"]),
        ({"oauth_nonce": ""}, "0x0222", ["oauth_nonce"]),
        ({"oauth_consumer_key": None}, "0x0222", ["oauth_consumer_key"]),
        ({"oauth_timestamp": None}, "0x0222", ["oauth_timestamp"]),
        ({"oauth_signature_method": None}, "0x0222", ["oauth_signature_method"]),
        ({"oauth_signature_method": "PLAINTEXT"}, "0x0221", ["PLAINTEXT"]),
        ({"oauth_signature_method": "HMAC-SHA256"}, "0x0221", ["HMAC-SHA256"]),
        ({"oauth_version": "2.0"}, "0x0220", ["oauth_version"]),
        ({"oauth_colour": "red"}, "0x0220", ["oauth_colour"]),
        ({"oauth_token": "abc"}, "0x0220", ["oauth_token"]),
        ({"oauth_body_hash": "x"}, "0x0220", ["oauth_body_hash"]),
        ({"oauth_consumer_key": "nobody"}, "0x0223", None),
    ],
)
def test_bad_parameters_are_refused(
    fake: FakeGatewayAPI, changes: dict[str, Any], code: str, variables: list[str] | None
) -> None:
    answer = ask(fake, body=message(), **changes)
    assert answer.status == (401 if code == "0x0223" else 400)
    assert (answer.json()["code"], answer.json().get("variables")) == (code, variables)


@pytest.mark.parametrize("changes", [{"oauth_version": None}, {"oauth_token": ""}])
def test_optional_parameters_are_optional(fake: FakeGatewayAPI, changes: dict[str, Any]) -> None:
    assert ask(fake, body=message(), **changes).status == 200


def test_missing_signature_is_refused(fake: FakeGatewayAPI) -> None:
    header = 'OAuth oauth_consumer_key="test-key", oauth_nonce="n", oauth_signature_method="HMAC-SHA1", '
    answer = ask_plain(fake, "POST", PATH, {"Authorization": f'{header}oauth_timestamp="{NOW}"'})
    assert answer.json()["variables"] == ["oauth_signature"]


def test_repeated_parameter_is_refused(fake: FakeGatewayAPI) -> None:
    header = signed_header("POST", fake.url + PATH, oauth_parameters()) + ', oauth_nonce="again"'
    answer = ask_plain(fake, "POST", PATH, {"Authorization": header})
    assert refusal(answer) == (400, "0x0220")


def test_header_may_have_realm_any_order_and_no_spaces(fake: FakeGatewayAPI) -> None:
    words = signed_header("POST", fake.url + PATH, oauth_parameters()).removeprefix("OAuth ").split(", ")
    header = 'oauth realm="x, y",' + ",".join(reversed(words))
    assert ask_plain(fake, "POST", PATH, {"Authorization": header}, json.dumps(message()).encode()).status == 200


def query_signed(fake: FakeGatewayAPI, target: str) -> str:
    """Target with OAuth parameters in its query."""
    parameters = oauth_parameters()
    pairs = [*query_pairs(target.partition("?")[2]), *parameters.items()]
    base = base_string("GET", base_uri("http", f"127.0.0.1:{fake.port}", target.partition("?")[0]), pairs)
    parameters["oauth_signature"] = signature(base, "test-secret").replace("+", "%2B")
    joined = "&".join(f"{name}={value}" for name, value in parameters.items())
    return f"{target}{'&' if '?' in target else '?'}{joined}"


def test_query_may_hold_the_signature(fake: FakeGatewayAPI) -> None:
    assert ask_plain(fake, "GET", query_signed(fake, "/rest/me")).status == 200


def test_signature_in_two_places_is_refused(fake: FakeGatewayAPI) -> None:
    header = signed_header("GET", fake.url + "/rest/me", oauth_parameters())
    answer = ask_plain(fake, "GET", query_signed(fake, "/rest/me"), {"Authorization": header})
    assert refusal(answer) == (400, "")


@pytest.mark.parametrize(
    "header", ["OAuth", "OAuth ,", "OAuth x", 'OAuth a="b', "OAuth oauth_nonce=n", 'OAuth a="b"c="d"']
)
def test_junk_in_the_header_is_refused(fake: FakeGatewayAPI, header: str) -> None:
    assert ask_plain(fake, "GET", "/rest/me", {"Authorization": header}).status == 400


def test_verifier_asks_for_the_key_before_the_clock() -> None:
    request = SignedRequest("GET", "http", "h", "/", "", oauth_header='oauth_consumer_key="a"')
    with pytest.raises(ApiError) as caught:
        Verifier(lambda _key: None).verify(request, NOW, 300)
    assert caught.value.code == "0x0222"


# --- the other ways -------------------------------------------------------------------------------


def basic(user: str, password: str = "") -> str:
    """Value of `Authorization`."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("header", "target", "expected"),
    [
        ("Token test-token", "/rest/me", (200, "")),
        (basic("test-token"), "/rest/me", (200, "")),
        (None, "/rest/me?token=test-token", (200, "")),
        (basic("olduser", "oldpassword"), "/rest/me", (200, "")),
        (None, "/rest/me?user=olduser&password=oldpassword", (200, "")),
        ("Token wrong", "/rest/me", (401, "0x0229")),
        ("Token ", "/rest/me", (401, "0x0229")),
        (basic("wrong"), "/rest/me", (401, "0x0229")),
        (None, "/rest/me?token=wrong", (401, "0x0229")),
        (basic("nobody", "oldpassword"), "/rest/me", (401, "0x0210")),
        (basic("olduser", "wrong"), "/rest/me", (401, "0x0211")),
        (None, "/rest/me?user=olduser", (401, "0x0211")),
        ("Bearer test-token", "/rest/me", (401, "")),
        ("Basic !", "/rest/me", (401, "")),
        (None, "/rest/me", (401, "")),
    ],
)
def test_tokens_and_passwords(
    fake: FakeGatewayAPI, header: str | None, target: str, expected: tuple[int, str]
) -> None:
    answer = ask_plain(fake, "GET", target, {"Authorization": header} if header else {})
    assert refusal(answer) == expected


def test_no_credentials_get_a_body_without_code(fake: FakeGatewayAPI) -> None:
    assert set(ask_plain(fake, "GET", "/rest/me").json()) == {"incident_uuid", "message"}


def test_absolute_target_is_signed_like_any_other(fake: FakeGatewayAPI) -> None:
    url = f"{fake.url}/rest/me?a=1"
    header = signed_header("GET", url, oauth_parameters())
    assert ask_plain(fake, "GET", url, {"Authorization": header}).status == 200


def test_request_without_host_is_refused(fake: FakeGatewayAPI) -> None:
    with RawClient(fake) as client:
        client.socket.sendall(b"GET /rest/me HTTP/1.1\r\nAuthorization: Token test-token\r\n\r\n")
        assert client.receive().status == 400


def test_secrets_stay_out_of_repr() -> None:
    assert "test-secret" not in repr(ApiKey("test-key", "test-secret", "test-token"))
    assert "test-token" not in repr(ApiKey("test-key", "test-secret", "test-token"))
