# SPDX-License-Identifier: MIT
"""Injected faults: each kind is a pure function from its options and an answer to a script.

A script is a list of steps that `server.py` plays on the socket. This file touches no socket. A
client cannot tell whether its text was accepted before a fault, so each fault comes both ways.
"""

from __future__ import annotations

import email.utils
import itertools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import CODES, error_body, sample
from .model import RecordedRequest
from .wire import Response, head_of

Predicate = Callable[[RecordedRequest], bool]
HTML = (("Content-Type", "text/html; charset=utf-8"),)
HUGE_S = 10**10


# --- steps -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Send:
    """Send these bytes."""

    data: bytes


@dataclass(frozen=True)
class Hold:
    """Wait so many seconds, None for ever; either way no longer than until the release."""

    seconds: float | None


@dataclass(frozen=True)
class Drip:
    """Send byte by byte with a pause before each; after the release without pauses."""

    data: bytes
    interval_s: float


@dataclass(frozen=True)
class Flood:
    """Send `chunk` again and again until `total_bytes` (None: no end) or until nobody listens."""

    chunk: bytes
    total_bytes: int | None
    interval_s: float = 0


@dataclass(frozen=True)
class Answer:
    """Let the API answer now, its clock off by so many seconds."""

    clock_shift_s: float = 0


@dataclass(frozen=True)
class Close:
    """Close the connection in order."""


@dataclass(frozen=True)
class Reset:
    """Close the connection with RST."""


Step = Send | Hold | Drip | Flood | Answer | Close | Reset
Script = list[Step]


@dataclass(frozen=True)
class Context:
    """What a fault may build on: the answer it spoils, the fake's time, path and port."""

    response: Response
    is_accepted: bool
    now: float
    path: str
    port: int

    def whole(self, response: Response) -> Script:
        """The script that sends this answer as it should be."""
        return [Send(head_of(response, False, self.now) + response.body)]

    def head(self, length: int | None = None) -> bytes:
        """Head of the answer that is to be spoiled, closing."""
        return head_of(self.response, True, self.now, length)

    def with_body(self, body: bytes, status: int = 200) -> Script:
        """The script for an answer of this status with another body, still called JSON."""
        return self.whole(Response(status, body))


# --- kinds -----------------------------------------------------------------------------------


def _delay(
    context: Context, seconds: float | None = None, where: str = "before-answer", then: str = "close"
) -> Script:
    """Hold `seconds` (None: until released). where: before-read, before-answer, between.

    Without accept: `then` "close" sends nothing, "process" accepts late, after the hold.
    """
    if where == "between":
        head = head_of(context.response, False, context.now)
        return [Send(head), Hold(seconds), Send(context.response.body)]
    if where == "before-read":  # the hold itself was played before this request was read
        return context.whole(context.response) if context.is_accepted else [Close()]
    if context.is_accepted:
        return [Hold(seconds), *context.whole(context.response)]
    return [Hold(seconds), Answer() if then == "process" else Close()]


def _drip(context: Context, interval_s: float = 1, where: str = "all") -> Script:
    """Send the answer byte by byte. where: all, body."""
    head = head_of(context.response, False, context.now)
    if where == "body":
        return [Send(head), Drip(context.response.body, interval_s)]
    return [Drip(head + context.response.body, interval_s)]


def _status(status: int, body: str) -> Callable[..., Script]:
    def script(context: Context, body: str = body, retry_after: str | int | None = None) -> Script:
        """Answer with this status. body: html, json, empty.

        retry_after: seconds, or "date" (in a minute), "0", "huge"; None leaves the header out.
        """
        type_of, data = _STATUS_BODIES[body]
        headers = type_of
        if retry_after is not None:
            headers = (*headers, ("Retry-After", _retry_after(str(retry_after), context.now)))
        return context.whole(Response(status, data(status), headers))

    return script


def _retry_after(wish: str, now: float) -> str:
    special = {"date": email.utils.formatdate(now + 60, usegmt=True), "huge": str(HUGE_S)}
    return special.get(wish, wish)


def _html_body(status: int) -> bytes:
    return f"<html><body><h1>{status}</h1><hr>nginx</body></html>\r\n".encode()


def _json_body(_status: int) -> bytes:
    return b'{"incident_uuid":"00000000-0000-4000-8000-000000000000","message":"Try again later"}'


_JSON = (("Content-Type", "application/json"),)
_STATUS_BODIES: dict[str, tuple[tuple[tuple[str, str], ...], Callable[[int], bytes]]] = {
    "html": (HTML, _html_body),
    "json": (_JSON, _json_body),
    "empty": ((), lambda _status: b""),
}


def _cut_points(context: Context) -> dict[str, bytes]:
    """What was sent before the connection breaks."""
    head, body = context.head(), context.response.body
    return {
        "before-answer": b"",
        "mid-header": head[: len(head) // 2],
        "mid-body": head + body[: len(body) // 2],
    }


def _broken(end: Step) -> Callable[..., Script]:
    def script(context: Context, at: str = "before-answer") -> Script:
        """Break the connection. at: before-answer, mid-header, mid-body."""
        return [Send(_cut_points(context)[at]), end]

    return script


_MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda _body: b'{"ids": [1',
    "html": lambda _body: b"<!doctype html><title>Welcome</title>",
    "empty": lambda _body: b"",
    "wrong-type": lambda _body: b'"ids"',
    "not-utf8": lambda body: body.replace(b'"', b'"\xff\xfe', 1),
    "bom": lambda body: b"\xef\xbb\xbf" + body,
    "nan": lambda _body: b'{"ids": [NaN], "usage": Infinity}',
    "deep": lambda _body: b"[" * 100_000 + b"]" * 100_000,
    "huge-int": lambda _body: b'{"ids": [' + b"9" * 10_000 + b"]}",
}


def _malformed(context: Context, what: str = "cut") -> Script:
    """200 with a body that cannot be used. what: a name in the table above."""
    return context.with_body(_MALFORMED[what](context.response.body))


def _truncated(context: Context, how: str = "length") -> Script:
    """Announce more than comes. how: length, chunked."""
    body = context.response.body
    if how == "length":
        return [Send(context.head(len(body) + 100) + body), Close()]
    head = context.head(-1)[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"
    return [Send(head + b"%x\r\n%b\r\n" % (len(body), body)), Close()]


_ODD: dict[str, tuple[int, bytes]] = {
    "empty-ids": (200, b'{"ids": [], "usage": {"countries": {}, "currency": "DKK", "total_cost": 0}}'),
    "no-ids": (200, b'{"usage": {"countries": {"DK": 1}, "currency": "DKK", "total_cost": 0.15}}'),
    "string-ids": (200, b'{"ids": ["421332671"]}'),
    "two-ids": (200, b'{"ids": [421332671, 421332672]}'),
    "204": (204, b""),
    "202": (202, b'{"msg_id": "01JNN6Z0000000000000000000", "recipient": 4512345678, "reference": null}'),
}


def _odd(context: Context, what: str = "empty-ids") -> Script:
    """A success that is not as documented. what: a name in the table above."""
    status, body = _ODD[what]
    return context.with_body(body, status)


def _error(context: Context, code: str = "0x0213", omit: tuple[str, ...] = ()) -> Script:
    """An error of the API by its code; `omit` leaves members out of the body."""
    error = sample(code)
    return context.whole(Response(error.status, error_body(error, omit), code=code))


def _credit(context: Context) -> Script:
    """Out of credit."""
    return _error(context, "0x0216")


def _replay(context: Context) -> Script:
    """Nonce said to be used."""
    return _error(context, "0x0226")


def _clock(_context: Context, seconds: float = 3600) -> Script:
    """The API checks signatures by a clock that is off by so many seconds."""
    return [Answer(clock_shift_s=seconds)]


def _oversize(context: Context, what: str = "body", size_bytes: int = 100_000_000, interval_s: float = 0.1) -> Script:
    """what: body (of size_bytes), headers (without end), drip (a body without end, slowly)."""
    if what == "headers":
        start = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        return [Send(start), Flood(b"X-Padding: " + b"p" * 1000 + b"\r\n", None), Close()]
    if what == "drip":
        head = context.head(-1)
        return [Send(head), Flood(b" ", None, interval_s), Close()]
    return [Send(context.head(size_bytes)), Flood(b" " * 65_536, size_bytes), Close()]


def _redirect(context: Context, status: int = 307, location: str | None = None) -> Script:
    """Send the client elsewhere; by default to another loopback address, same port and path."""
    target = location or f"http://127.0.0.2:{context.port}{context.path}"
    return context.whole(Response(status, b"", (("Location", target),)))


def _refuse(_context: Context) -> Script:
    """For a request that was on its way when the port was closed."""
    return [Close()]


KINDS: dict[str, Callable[..., Script]] = {
    "refuse": _refuse,
    "delay": _delay,
    "drip": _drip,
    "429": _status(429, "json"),
    "500": _status(500, "json"),
    "502": _status(502, "html"),
    "503": _status(503, "html"),
    "504": _status(504, "html"),
    "reset": _broken(Reset()),
    "close": _broken(Close()),
    "malformed": _malformed,
    "truncated": _truncated,
    "odd": _odd,
    "credit": _credit,
    "error": _error,
    "replay": _replay,
    "clock": _clock,
    "oversize": _oversize,
    "redirect": _redirect,
}
# option -> what it may say, so that a misspelt fault fails when injected and not in a thread.
_CHOICES: dict[tuple[str, str], tuple[Any, ...]] = {
    ("delay", "where"): ("before-read", "before-answer", "between"),
    ("delay", "then"): ("close", "process"),
    ("drip", "where"): ("all", "body"),
    **{(kind, "body"): tuple(_STATUS_BODIES) for kind in ("429", "500", "502", "503", "504")},
    **{(kind, "at"): ("before-answer", "mid-header", "mid-body") for kind in ("reset", "close")},
    ("malformed", "what"): tuple(_MALFORMED),
    ("truncated", "how"): ("length", "chunked"),
    ("odd", "what"): tuple(_ODD),
    ("error", "code"): tuple(CODES),
    ("oversize", "what"): ("body", "headers", "drip"),
    ("redirect", "status"): (301, 302, 303, 307, 308),
}


# --- injected faults -------------------------------------------------------------------------

_ids = itertools.count(1)


@dataclass(eq=False)
class Fault:
    """One injection. left: requests it still takes, None for all until removed.

    `reached` is set when a request is held; `release()` ends this and all later holds of it.
    """

    kind: str
    left: int | None
    when: Predicate | None
    is_accepting: bool
    options: Mapping[str, Any]
    id: int = field(default_factory=lambda: next(_ids))
    hit_count: int = 0
    reached: threading.Event = field(default_factory=threading.Event, repr=False)
    released: threading.Event = field(default_factory=threading.Event, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault {self.kind!r}, only {', '.join(KINDS)}")
        for name, value in self.options.items():
            choices = _CHOICES.get((self.kind, name))
            if choices is not None and value not in choices:
                raise ValueError(f"{self.kind}: {name} must be one of {choices}")
        if self.is_before_read and self.when is not None:
            raise ValueError("a request that is not read yet cannot be chosen by a predicate")
        if self.kind == "clock" and self.is_accepting:
            raise ValueError("a wrong clock refuses; it cannot accept first")
        probe = Context(Response(200, b"{}"), self.is_accepting, 0, "/", 0)
        self.script(probe)  # TypeError for an unknown option

    @property
    def is_before_read(self) -> bool:
        """Whether it acts before the request is read."""
        return self.kind == "delay" and self.options.get("where") == "before-read"

    @property
    def hold_s(self) -> float | None:
        """Seconds to hold before reading."""
        seconds: float | None = self.options.get("seconds")
        return seconds

    def script(self, context: Context) -> Script:
        """What to do on the socket."""
        return KINDS[self.kind](context, **self.options)

    def wait_reached(self, timeout_s: float = 10) -> None:
        """Wait until a request is held; raises TimeoutError."""
        if not self.reached.wait(timeout_s):
            raise TimeoutError(f"no request met fault {self.kind} in {timeout_s} s")

    def release(self) -> None:
        """Let held requests go on."""
        self.released.set()


class FaultBoard:
    """The faults in force, first injected first served. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: list[Fault] = []
        self._all: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Put a fault in force."""
        with self._lock:
            self._active.append(fault)
            self._all.append(fault)

    def find(self, fault_id: int) -> Fault | None:
        """A fault by its id, also one that is used up."""
        with self._lock:
            return next((fault for fault in self._all if fault.id == fault_id), None)

    def take_before_read(self) -> Fault | None:
        """The fault for a request of which nothing is known yet."""
        return self._take(lambda fault: fault.is_before_read)

    def take(self, request: RecordedRequest) -> Fault | None:
        """The fault for this request, its count lowered."""
        return self._take(lambda fault: not fault.is_before_read and (fault.when is None or fault.when(request)))

    def remove(self, fault: Fault) -> None:
        """Take no more requests and let the held ones go."""
        with self._lock:
            if fault in self._active:
                self._active.remove(fault)
        fault.release()

    def clear(self) -> None:
        """Remove all faults, and let everything go that is held."""
        with self._lock:
            faults, self._all = self._all, []
            self._active.clear()
        for fault in faults:
            fault.release()

    def _take(self, fits: Callable[[Fault], bool]) -> Fault | None:
        with self._lock:
            fault = next((fault for fault in self._active if fits(fault)), None)
            if fault is None:
                return None
            fault.hit_count += 1
            if fault.left is not None:
                fault.left -= 1
                if fault.left == 0:
                    self._active.remove(fault)
            return fault
