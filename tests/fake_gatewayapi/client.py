# SPDX-License-Identifier: MIT
"""A raw client for the fake's own tests: sends exact bytes, shows exactly what comes back.

It signs with `oauth1.py`; that file is proved by fixed vectors and by a foreign client first.
"""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from .oauth1 import base_string, base_uri, pct, query_pairs, signature
from .server import DEFAULT_KEY, FakeGatewayAPI

NOW = 1_700_000_000
MSISDN = "4512345678"
_nonces = itertools.count(1)


def message(text: str = "123456 is your code", **fields: Any) -> dict[str, Any]:
    """A message object for one number; `fields` adds and replaces members."""
    return {"message": text, "recipients": [{"msisdn": MSISDN}], "sender": "textgate", **fields}


def oauth_parameters(**changes: str | int | None) -> dict[str, str]:
    """OAuth parameters without signature, with a new nonce; None in `changes` leaves one out."""
    values: dict[str, str | int | None] = {
        "oauth_consumer_key": DEFAULT_KEY.key,
        "oauth_nonce": f"nonce-{next(_nonces)}",
        "oauth_signature_method": "HMAC-SHA1",
        "oauth_timestamp": NOW,
        "oauth_version": "1.0",
        **changes,
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def signed_header(method: str, url: str, parameters: Mapping[str, str], secret: str = DEFAULT_KEY.secret) -> str:
    """Value of `Authorization` for these parameters."""
    parts = urlsplit(url)
    pairs = [*query_pairs(parts.query), *parameters.items()]
    base = base_string(method, base_uri(parts.scheme, parts.netloc, parts.path), pairs)
    signed = {**parameters, "oauth_signature": signature(base, secret)}
    return "OAuth " + ", ".join(f'{name}="{pct(value)}"' for name, value in signed.items())


class Answer:
    """One answer as it came. status is 0 when not even a status line came."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.raw = raw
        self.status = int(lines[0].split(" ")[1]) if lines[0].startswith("HTTP/1.1 ") else 0
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}

    def json(self) -> Any:
        """The body's value."""
        return json.loads(self.body)


class RawClient:
    """One connection to the fake. Use as a context manager; every wait ends after ten seconds."""

    def __init__(self, fake: FakeGatewayAPI) -> None:
        self._fake = fake
        self.socket = socket.create_connection(("127.0.0.1", fake.port), timeout=10)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def send(self, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> None:
        """Send one request; Host and Content-Length are added unless given."""
        fields = {"Host": f"127.0.0.1:{self._fake.port}", "Content-Length": str(len(body)), **(headers or {})}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        self.socket.sendall("\r\n".join(lines).encode("latin-1") + body)

    def send_json(self, method: str = "POST", target: str = "/rest/mtsms", body: Any = None, **changes: Any) -> None:
        """Send one signed request with a JSON body; `changes` goes to `oauth_parameters`."""
        header = signed_header(method, self._fake.url + target, oauth_parameters(**changes))
        data = b"" if body is None else json.dumps(body).encode()
        self.send(method, target, {"Authorization": header, "Content-Type": "application/json"}, data)

    def ask(self, method: str = "POST", target: str = "/rest/mtsms", body: Any = None, **changes: Any) -> Answer:
        """`send_json`, then the answer."""
        self.send_json(method, target, body, **changes)
        return self.receive()

    def receive(self) -> Answer:
        """One whole answer; ConnectionError if the stream ends before."""
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        length = int(Answer(head + b"\r\n\r\n").headers.get("content-length", 0))
        while len(rest) < length:
            self._fill()
            rest = self._buffer.partition(b"\r\n\r\n")[2]
        self._buffer = rest[length:]
        return Answer(head + b"\r\n\r\n" + rest[:length])

    def receive_until_end(self) -> bytes:
        """Everything up to the end of the stream; ConnectionResetError for RST."""
        while part := self.socket.recv(65_536):
            self._buffer += part
        return self._buffer

    def receive_some(self) -> bytes:
        """What comes next, at least a byte."""
        self._fill()
        return self._buffer

    def _fill(self) -> None:
        part = self.socket.recv(65_536)
        if not part:
            raise ConnectionError("the stream ended early")
        self._buffer += part


def ask(
    fake: FakeGatewayAPI, method: str = "POST", target: str = "/rest/mtsms", body: Any = None, **changes: Any
) -> Answer:
    """One signed request on a connection of its own."""
    with RawClient(fake) as client:
        return client.ask(method, target, body, **changes)


def ask_plain(
    fake: FakeGatewayAPI, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Answer:
    """One request as given, unsigned, on a connection of its own."""
    with RawClient(fake) as client:
        client.send(method, target, headers, body)
        return client.receive()
