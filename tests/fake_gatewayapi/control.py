# SPDX-License-Identifier: MIT
"""The control interface: JSON over HTTP on a loopback port of its own, never on the API's.

One table holds every verb. It exists for the fake as a process; in Python use the object itself.
Who can reach the port can read the texts, which is what it is for.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import threading
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

from .faults import Fault, Predicate
from .model import AcceptedMessage, RecordedRequest
from .reports import ReportAttempt, Webhook
from .server import FakeGatewayAPI

WAIT_MAX_S = 60.0
BODY_MAX_BYTES = 1_000_000

Fields = Mapping[str, Any]
Verb = Callable[[FakeGatewayAPI, Fields], Any]


class NotThere(Exception):
    """No such path, fault or text."""


# --- verbs -----------------------------------------------------------------------------------


def _help(_fake: FakeGatewayAPI, _fields: Fields) -> Any:
    """This list."""
    return {f"{method} {path}": (verb.__doc__ or "").strip() for (method, path), verb in _VERBS.items()}


def _status(fake: FakeGatewayAPI, _fields: Fields) -> Any:
    """Addresses, counts, credit and clock."""
    return {
        "url": fake.url,
        "credit": str(fake.credit),
        "clock_offset_s": fake.clock_offset_s,
        "advanced_s": fake.advanced_s,
        "accepted_count": len(fake.accepted),
        "request_count": len(fake.requests),
        "open_connection_count": fake.open_connection_count,
        "tls_failures": fake.tls_failures,
    }


def _texts(fake: FakeGatewayAPI, fields: Fields) -> Any:
    """Accepted texts after the first `after`; waits `wait_s` seconds for one; `msisdn` selects."""
    after = min(int(fields.get("after", 0)), len(fake.accepted))  # fewer since a reset
    wait_s = min(float(fields.get("wait_s", 0)), WAIT_MAX_S)
    messages = fake.wait_for_more(after, wait_s)
    wanted = fields.get("msisdn")
    shown = [_text_body(m) for m in messages if wanted in {None, m.msisdn}]
    return {"texts": shown, "after": after + len(messages)}


def _code(fake: FakeGatewayAPI, fields: Fields) -> Any:
    """Code in the newest text to `msisdn`."""
    try:
        return {"code": fake.last_code(str(fields["msisdn"]))}
    except LookupError:
        raise NotThere("no text with a code") from None


def _requests(fake: FakeGatewayAPI, fields: Fields) -> Any:
    """Requests after the first `after`, bodies in base64."""
    after = min(int(fields.get("after", 0)), len(fake.requests))
    requests = fake.requests[after:]
    return {"requests": [_request_body(r) for r in requests], "after": after + len(requests)}


def _reports(fake: FakeGatewayAPI, _fields: Fields) -> Any:
    """Delivery reports posted so far, bodies in base64."""
    return {"reports": [_report_body(attempt) for attempt in fake.reports]}


def _inject(fake: FakeGatewayAPI, fields: Fields) -> Any:
    """Inject: kind, count (1; null: until removed), accept, options {}, method, path, msisdn."""
    options = fields.get("options", {})
    when = _predicate(fields)
    count = fields.get("count", 1)
    accept = fields.get("accept", False) is True
    return _fault_body(fake.inject(str(fields["kind"]), count, accept, when, **options))


def _fault(fake: FakeGatewayAPI, fields: Fields) -> Any:
    """One fault: what is left of it, how often it hit, whether it holds a request."""
    return _fault_body(_found(fake, fields))


def _release(fake: FakeGatewayAPI, fields: Fields) -> Any:
    """Let the requests go that a fault holds."""
    fault = _found(fake, fields)
    fault.release()
    return _fault_body(fault)


def _remove(fake: FakeGatewayAPI, fields: Fields) -> Any:
    """End one fault."""
    fault = _found(fake, fields)
    fake.remove(fault)
    return _fault_body(fault)


def _clear(fake: FakeGatewayAPI, _fields: Fields) -> Any:
    """End all faults."""
    fake.clear_faults()
    return {}


def _credit(fake: FakeGatewayAPI, fields: Fields) -> Any:
    """Set `credit`, a decimal as string."""
    fake.credit = Decimal(str(fields["credit"]))
    return {"credit": str(fake.credit)}


def _clock(fake: FakeGatewayAPI, fields: Fields) -> Any:
    """Set `offset_s`, by which the clock that checks signatures is off."""
    fake.clock_offset_s = float(fields["offset_s"])
    return {"offset_s": fake.clock_offset_s}


def _advance(fake: FakeGatewayAPI, fields: Fields) -> Any:
    """Move the life of texts by `seconds` and post what becomes due."""
    fake.advance(float(fields.get("seconds", 0)))
    return {"advanced_s": fake.advanced_s}


def _settings(fake: FakeGatewayAPI, fields: Fields) -> Any:
    """Change members of Settings."""
    known = {field.name: getattr(fake.settings, field.name) for field in dataclasses.fields(fake.settings)}
    changed: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in known:
            raise ValueError(f"no setting {name!r}")
        is_frozen = isinstance(known[name], frozenset) or name == "allowed_countries"
        changed[name] = (frozenset if is_frozen else set)(value) if isinstance(value, list) else value
    fake.settings = dataclasses.replace(fake.settings, **changed)
    return {"changed": sorted(changed)}


def _delivery(fake: FakeGatewayAPI, fields: Fields) -> Any:
    """How texts to `msisdn` (absent: to all others) end; members of Delivery."""
    rest = {name: value for name, value in fields.items() if name != "msisdn"}
    fake.set_delivery(fields.get("msisdn"), **rest)
    return {}


def _webhook(fake: FakeGatewayAPI, fields: Fields) -> Any:
    """Where REST reports go: url, secret. A null url ends it."""
    fake.webhook = _webhook_of(fields)
    return {}


def _mobile_webhook(fake: FakeGatewayAPI, fields: Fields) -> Any:
    """Where reports of the Messaging API go: url, secret. A null url ends it."""
    fake.mobile_webhook = _webhook_of(fields)
    return {}


def _reset(fake: FakeGatewayAPI, _fields: Fields) -> Any:
    """Back to how it was at the start."""
    fake.reset()
    return {}


_VERBS: dict[tuple[str, str], Verb] = {
    ("GET", "/"): _help,
    ("GET", "/status"): _status,
    ("GET", "/texts"): _texts,
    ("GET", "/code"): _code,
    ("GET", "/requests"): _requests,
    ("GET", "/reports"): _reports,
    ("POST", "/faults"): _inject,
    ("GET", "/faults/<id>"): _fault,
    ("POST", "/faults/<id>/release"): _release,
    ("DELETE", "/faults/<id>"): _remove,
    ("DELETE", "/faults"): _clear,
    ("POST", "/credit"): _credit,
    ("POST", "/clock"): _clock,
    ("POST", "/advance"): _advance,
    ("POST", "/settings"): _settings,
    ("POST", "/delivery"): _delivery,
    ("POST", "/webhook"): _webhook,
    ("POST", "/mobile-webhook"): _mobile_webhook,
    ("POST", "/reset"): _reset,
}


# --- helpers of the verbs --------------------------------------------------------------------


def _found(fake: FakeGatewayAPI, fields: Fields) -> Fault:
    fault = fake.find_fault(int(fields["id"]))
    if fault is None:
        raise NotThere("no such fault")
    return fault


def _predicate(fields: Fields) -> Predicate | None:
    """All of method, path and msisdn that are given must fit; msisdn is sought in the body."""
    method, path, msisdn = (fields.get(name) for name in ("method", "path", "msisdn"))
    if method is path is msisdn is None:
        return None

    def fits(request: RecordedRequest) -> bool:
        return (
            method in {None, request.method}
            and path in {None, request.path}
            and (msisdn is None or str(msisdn).encode() in request.body)
        )

    return fits


def _webhook_of(fields: Fields) -> Webhook | None:
    url = fields.get("url")
    return Webhook(str(url), str(fields.get("secret", ""))) if url else None


def _text_body(message: AcceptedMessage) -> dict[str, Any]:
    return {name: value for name, value in vars(message).items() if name != "fields"}


def _request_body(request: RecordedRequest) -> dict[str, Any]:
    return {**vars(request), "body": base64.b64encode(request.body).decode()}


def _report_body(attempt: ReportAttempt) -> dict[str, Any]:
    return {**vars(attempt), "body": base64.b64encode(attempt.body).decode()}


def _fault_body(fault: Fault) -> dict[str, Any]:
    return {
        "id": fault.id,
        "kind": fault.kind,
        "left": fault.left,
        "hit_count": fault.hit_count,
        "is_holding": fault.reached.is_set() and not fault.released.is_set(),
    }


# --- HTTP ------------------------------------------------------------------------------------


class ControlServer:
    """Serves the verbs for one fake. Use as a context manager, or `start()` and `stop()`."""

    def __init__(self, fake: FakeGatewayAPI, port: int = 0) -> None:
        handler = type("Handler", (_Handler,), {"fake": fake})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="fake-control", daemon=True
        )

    @property
    def url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> Self:
        """Answer from now on."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_error: object) -> None:
        self.stop()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeGatewayAPI
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Write no log: queries hold numbers."""

    def _answer(self) -> None:
        try:
            status, body = 200, self._result()
        except NotThere as error:
            status, body = 404, {"error": str(error)}
        except (ValueError, TypeError, InvalidOperation) as error:
            status, body = 400, {"error": str(error)}
        except KeyError as error:
            status, body = 400, {"error": f"missing {error.args[0]}"}
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _result(self) -> Any:
        # A web page that resolves its own name to 127.0.0.1 must not get at the texts.
        if (self.headers.get("Host") or "").rpartition(":")[0] not in {"127.0.0.1", "localhost"}:
            raise ValueError("ask by 127.0.0.1 or localhost")
        parts = urlsplit(self.path)
        fields: dict[str, Any] = dict(parse_qsl(parts.query))
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 <= length <= BODY_MAX_BYTES:
            raise ValueError("body too long")
        if length:
            body = json.loads(self.rfile.read(length))
            if not isinstance(body, dict):
                raise ValueError("the body must be an object")
            fields |= body
        match = re.fullmatch(r"(/faults/)([0-9]+)(/release)?", parts.path)
        path = f"{match[1]}<id>{match[3] or ''}" if match else parts.path
        if match:
            fields["id"] = match[2]
        verb = _VERBS.get((self.command, path))
        if verb is None:
            raise NotThere("no such verb, see GET /")
        return verb(self.fake, fields)
