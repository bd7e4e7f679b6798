# SPDX-License-Identifier: MIT
"""Delivery reports: their bodies, their signatures, their retries. Posted to loopback only.

In virtual time nothing is posted but by `advance()`, in the caller's thread; in wall time a thread
posts what becomes due. Both take jobs from one heap ordered by due time.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import heapq
import hmac
import http.client
import ipaddress
import itertools
import json
import socket
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .countries import COUNTRIES
from .delivery import Delivery, Event, Network
from .model import AcceptedMessage, Settings

RETRY_AFTER_S = (60, 120, 360, 24 * 60, 2 * 3600, 12 * 3600)
# The Messaging API says only "growing delays up to 24 hours".
MOBILE_RETRY_AFTER_S = (10, 60, 300, 1800, 2 * 3600, 8 * 3600, 13 * 3600)
_PREFIXES = {country.code: country.prefix for country in COUNTRIES}


@dataclass(frozen=True)
class Webhook:
    """Where reports go; secret "" leaves them unsigned."""

    url: str
    secret: str = field(default="", repr=False)


@dataclass(frozen=True)
class ReportAttempt:
    """One report, posted or not. event: id and state of the text, without its number.

    status: of the answer, None without one; then error says why.
    """

    at: float
    url: str
    try_count: int
    event: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    status: int | None = None
    error: str = ""

    @property
    def is_done(self) -> bool:
        """Whether the webhook took it."""
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True)
class _Job:
    webhook: Webhook
    message: AcceptedMessage
    event: Event
    delivery: Delivery
    try_count: int = 1


# --- signatures ------------------------------------------------------------------------------


def jwt(claims: Mapping[str, Any], secret: str, signature: str = "good") -> str:
    """JWT of claims (RFC 7519). signature: see SIGNATURES in `delivery.py`; "good" is HS256."""
    algorithm = {"none": "none", "hs512": "HS512"}.get(signature, "HS256")
    head = _b64(json.dumps({"typ": "JWT", "alg": algorithm}, separators=(",", ":")).encode())
    signed = f"{head}.{_b64(json.dumps(claims, separators=(',', ':')).encode())}"
    if signature == "none":
        return f"{signed}."
    if signature == "wrong-secret":
        secret += " but another"
    digest_name = "sha512" if signature == "hs512" else "sha256"
    digest = hmac.new(secret.encode(), signed.encode(), digest_name).digest()
    if signature == "bad":
        digest = bytes((digest[0] ^ 1, *digest[1:]))
    return f"{signed}.{_b64(digest)}"


def mobile_signature(body: bytes, secret: str) -> str:
    """Value of the Messaging API's `Signature` header."""
    return f"v1={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# --- bodies ----------------------------------------------------------------------------------


def rest_payload(job: _Job) -> dict[str, Any]:
    """Members of a REST report."""
    at, stage = job.event
    message = job.message
    message_id = int(message.id) + 10**6 if job.delivery.is_id_unknown else message.id
    payload = {
        "id": message_id,
        "msisdn": int(message.msisdn),
        "time": int(at),
        "status": stage.status,
        "error": stage.error,
        "code": stage.code,
        "userref": message.userref,
    }
    if message.country in _PREFIXES:
        payload |= {"country_code": message.country, "country_prefix": _PREFIXES[message.country]}
    return payload


def mobile_payload(job: _Job) -> dict[str, Any]:
    """Members of a Messaging API report."""
    at, stage = job.event
    moment = datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat()
    message_id = f"{job.message.id}"[::-1] if job.delivery.is_id_unknown else job.message.id
    error = {"hex_code": stage.code, "details": stage.error} if stage.code else None
    return {
        "event_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{job.message.id} {stage.status}")),
        "timestamp": moment,
        "event_type": "message.status.sms",
        "event": {
            "msg_id": message_id,
            "recipient": int(job.message.msisdn),
            "reference": job.message.userref,
            "status": stage.status,
            "status_at": moment,
            "error": error,
        },
    }


def _rest_report(job: _Job) -> tuple[bytes, dict[str, str]]:
    """Body and headers; the claims repeat the whole body unless it is to differ."""
    payload = rest_payload(job)
    headers = {"Content-Type": "application/json"}
    secret, signature = job.webhook.secret, job.delivery.signature
    if secret and signature != "absent":
        claims = {**payload, "callback_url": job.message.callback_url, "api": "rest"}
        headers["X-Gwapi-Signature"] = jwt(claims, secret, signature)
    if job.delivery.body_differs:
        is_good = payload["status"] == "DELIVERED"
        payload["status"] = "UNDELIVERABLE" if is_good else "DELIVERED"
    return json.dumps(payload).encode(), headers


def _mobile_report(job: _Job) -> tuple[bytes, dict[str, str]]:
    payload = mobile_payload(job)
    body = json.dumps(payload).encode()
    headers = {"Content-Type": "application/json"}
    secret, signature = job.webhook.secret, job.delivery.signature
    if secret and signature != "absent":
        other = "" if signature == "good" else " but another"
        headers["Signature"] = mobile_signature(body, secret + other)
    return (body + b" " if job.delivery.body_differs else body), headers


# --- posting ---------------------------------------------------------------------------------


class Reporter:
    """Queues reports when texts are accepted and posts them when they are due."""

    def __init__(
        self,
        network: Network,
        settings: Callable[[], Settings],
        now: Callable[[], float],
        is_wall: bool,
    ) -> None:
        self.webhook: Webhook | None = None
        self.mobile_webhook: Webhook | None = None
        self._network = network
        self._settings = settings
        self._now = now
        self._is_wall = is_wall
        self._heap: list[tuple[float, int, _Job]] = []
        self._order = itertools.count()
        self._attempts: list[ReportAttempt] = []
        self._changed = threading.Condition()
        self._is_stopped = False
        self._connection: http.client.HTTPConnection | None = None
        self._thread: threading.Thread | None = None

    @property
    def attempts(self) -> list[ReportAttempt]:
        """All posts so far, in order."""
        with self._changed:
            return list(self._attempts)

    def enqueue(self, messages: Sequence[AcceptedMessage]) -> None:
        """Queue a report for each state that these texts will go through."""
        with self._changed:
            for message in messages:
                for due_at, job in self._jobs(message):
                    heapq.heappush(self._heap, (due_at, next(self._order), job))
            self._changed.notify_all()

    def cancel(self, messages: Sequence[AcceptedMessage]) -> None:
        """Drop the reports of what no longer happens to these texts, and queue DELETED."""
        with self._changed:
            for message in messages:
                timeline = self._network.timeline(message)
                keep = [e for e in self._heap if e[2].message is not message or e[2].event in timeline]
                self._heap[:] = keep
                webhook = self._target(message)
                if webhook is not None:
                    job = _Job(webhook, message, timeline[-1], self._network.delivery_of(message.msisdn))
                    self._heap.append((timeline[-1][0], next(self._order), job))
            heapq.heapify(self._heap)
            self._changed.notify_all()

    def advance(self, seconds: float, move: Callable[[float], None]) -> None:
        """Let `seconds` pass in steps from one due report to the next, posting each."""
        end_at = self._now() + seconds
        while (entry := self._pop(end_at)) is not None:
            move(max(0.0, entry[0] - self._now()))
            self._post(entry[2])
        move(max(0.0, end_at - self._now()))

    def start(self) -> None:
        """Post (again) from now on; in wall time by a thread."""
        self._is_stopped = False
        if self._is_wall:
            self._thread = threading.Thread(target=self._run, name="fake-reports", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Post nothing more, and cut a post that hangs."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
            connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join(5)

    def clear(self) -> None:
        """Forget webhooks, queue and history."""
        with self._changed:
            self.webhook = self.mobile_webhook = None
            self._heap.clear()
            self._attempts.clear()

    def _jobs(self, message: AcceptedMessage) -> list[tuple[float, _Job]]:
        webhook = self._target(message)
        if webhook is None:
            return []
        delivery = self._network.delivery_of(message.msisdn)
        events = self._network.timeline(message)
        stages = list(reversed(events)) if delivery.is_out_of_order else events
        pairs = zip((at for at, _ in events), stages, strict=True)
        jobs = [(due_at, _Job(webhook, message, event, delivery)) for due_at, event in pairs]
        return [job for job in jobs for _ in range(1 + delivery.is_twice)]

    def _target(self, message: AcceptedMessage) -> Webhook | None:
        if message.api == "mobile":
            return self.mobile_webhook
        if message.callback_url is None:
            return self.webhook
        return Webhook(message.callback_url, self.webhook.secret if self.webhook else "")

    def _pop(self, until: float) -> tuple[float, int, _Job] | None:
        with self._changed:
            if not self._heap or self._heap[0][0] > until:
                return None
            return heapq.heappop(self._heap)

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._is_stopped:
                    return
                due_at = self._heap[0][0] if self._heap else None
                wait_s = None if due_at is None else due_at - self._now()
                if wait_s is None or wait_s > 0:
                    self._changed.wait(wait_s)
                    continue
                job = heapq.heappop(self._heap)[2]
            self._post(job)

    def _post(self, job: _Job) -> None:
        is_mobile = job.message.api == "mobile"
        body, headers = (_mobile_report if is_mobile else _rest_report)(job)
        status, error = self._send(job.webhook.url, body, headers)
        attempt = ReportAttempt(
            self._now(),
            job.webhook.url,
            job.try_count,
            f"{job.message.id} {job.event[1].status}",
            body,
            headers,
            status,
            error,
        )
        retry_after_s = MOBILE_RETRY_AFTER_S if is_mobile else RETRY_AFTER_S
        with self._changed:
            self._attempts.append(attempt)
            if not attempt.is_done and error != "not loopback" and job.try_count <= len(retry_after_s):
                wait_s = retry_after_s[job.try_count - 1] * self._settings().report_retry_factor
                again = _Job(job.webhook, job.message, job.event, job.delivery, job.try_count + 1)
                heapq.heappush(self._heap, (attempt.at + wait_s, next(self._order), again))
            self._changed.notify_all()

    def _send(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int | None, str]:
        address = _loopback(url)
        if address is None:
            return None, "not loopback"
        connection = http.client.HTTPConnection(*address, timeout=self._settings().report_timeout_s)
        with self._changed:
            if self._is_stopped:
                return None, "stopped"
            self._connection = connection
        try:
            parts = urlsplit(url)
            target = parts.path or "/"
            connection.request("POST", f"{target}?{parts.query}" if parts.query else target, body, dict(headers))
            return connection.getresponse().status, ""
        except (OSError, http.client.HTTPException) as error:
            return None, type(error).__name__
        finally:
            connection.close()
            with self._changed:
                self._connection = None


def _loopback(url: str) -> tuple[str, int] | None:
    """Host and port of an http URL on this machine, None for every other."""
    try:
        parts = urlsplit(url)
        host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname or ""
        if parts.scheme != "http" or not ipaddress.ip_address(host).is_loopback:
            return None
        return host, parts.port or 80
    except ValueError:
        return None
