# SPDX-License-Identifier: MIT
"""Sends one text through GatewayAPI, by its REST API (OAuth 1.0a or token) or its Messaging API (token).

The service knows no idempotency key, so this file decides when the same text may be tried again:
  - only if nothing went out, or the service answered that it took nothing (the tables of gateway_outcomes);
  - each attempt is signed afresh, for a repeated nonce is refused (0x0226) and would hide what became of the first;
  - no layer below repeats anything, and no redirect is followed: a signed request goes where it was signed for.
`send` answers with a value whatever the outside does. Nothing it returns, raises or logs holds text, number or key.
"""

from __future__ import annotations

import itertools
import logging
import re
import ssl
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

import requests
from oauthlib.oauth1 import Client
from requests.auth import AuthBase
from requests_oauthlib import OAuth1

from . import __version__, sms
from .config import GatewayConfig
from .errors import CredentialError, TextgateError
from .gateway_outcomes import (
    Credit,
    Outcome,
    Reading,
    Retry,
    SendReason,
    SendResult,
    parse_date,
    parse_retry_after,
    read_credit_answer,
    read_messaging_answer,
    read_messaging_credit_answer,
    read_rest_answer,
)
from .gateway_transport import DeadlineAdapter, TransportFault, tls_context
from .secret import Secret
from .shortage import local_shortage

__all__ = [
    "Credit",
    "Gateway",
    "GatewayCredentials",
    "MessagingGateway",
    "Outcome",
    "RestGateway",
    "SendReason",
    "SendResult",
    "build_gateway",
]

MAX_ATTEMPTS = 3
BACK_OFF_S = (0.3, 1.0)  # before the second and the third attempt
MIN_VALIDITY_S = 60  # the service makes a shorter one 60 anyway
MAX_VALIDITY_S = 432_000  # five days, the Messaging API's limit
VENDOR_HOSTS = ("gatewayapi.com", "gatewayapi.eu")  # their Messaging API lives on messaging.HOST

# At level DEBUG these write headers, keys and bodies; a debugging root logger must not make them.
for _name in ("oauthlib", "requests_oauthlib", "requests", "urllib3"):
    logging.getLogger(_name).setLevel(logging.WARNING)

# No compression: an answer is small, and a bomb would be, too.
_HEADERS = {"User-Agent": f"textgate/{__version__}", "Accept": "application/json", "Accept-Encoding": "identity"}

# What would be said of the service, and may be this machine's own fault.
_WITHOUT_AN_ANSWER = (SendReason.UNREACHABLE, SendReason.TIMEOUT)

_MSISDN = re.compile(r"[1-9][0-9]{4,14}")
_USERREF = re.compile(r"[0-9A-Za-z._:-]{1,64}")
_CREDENTIAL = re.compile(r"[!-~]{1,512}")


class Gateway(Protocol):
    """The one thing that the verifier needs, and what status and doctor ask."""

    def send(self, msisdn: str, text: Secret, *, validity_s: int, userref: str) -> SendResult:
        """Send one text to one number; a value whatever the outside does, within the total timeout (and the
        time of one name look-up). Thread-safe.

        msisdn: E.164 digits. text: fits one SMS. validity_s: how long the network may keep trying; below 60
        counts as 60. userref: 1 to 64 of letters, digits and ._:- for the service's records; no name, no code.
        """

    def credit(self) -> Credit:
        """The account's balance, and how far this machine's clock is off. Thread-safe."""

    def close(self) -> None:
        """Close all connections."""


@dataclass(frozen=True)
class GatewayCredentials:
    """One key set of GatewayAPI's dashboard: key and secret for OAuth 1.0a, token for the rest."""

    key: Secret | None = None
    secret: Secret | None = None
    token: Secret | None = None


def build_gateway(config: GatewayConfig, credentials: GatewayCredentials) -> Gateway:
    """The gateway that the configuration names.

    Raises CredentialError for missing or malformed credentials, TextgateError if the CA file can't be read.
    """
    kind = MessagingGateway if config.api == "messaging" else RestGateway
    return kind(config, credentials)


class _HttpGateway(ABC):
    """What both APIs share: sessions, attempts, deadline. A subclass gives address, body and reading."""

    _path: str

    def __init__(
        self,
        config: GatewayConfig,
        credentials: GatewayCredentials,
        *,
        ca_file: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        shortage: Callable[[], str | None] = local_shortage,
    ) -> None:
        self._config = config
        self._base_url = self._platform(config.url)
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._shortage = shortage
        self._auth = _authentication(config, credentials)
        self._connections = _ConnectionPool(tls=_trust(ca_file), config=config, clock=clock)

    def send(self, msisdn: str, text: Secret, *, validity_s: int, userref: str) -> SendResult:
        """See `Gateway.send`."""
        started_at = self._clock()
        deadline_at = started_at + self._config.total_timeout_s
        reading, attempt_count = _input_fault(msisdn, text, userref), 0
        if reading is None:
            payload = self._payload(int(msisdn), text.reveal(), _clamped(validity_s), userref)
            reading, attempt_count = self._try(payload, deadline_at)
        return reading.result(attempt_count=attempt_count, duration_s=self._clock() - started_at)

    def credit(self) -> Credit:
        """See `Gateway.credit`."""
        started_at = self._wall_clock()
        # The newer API has no such question of its own: it is the platform that is asked, by either API.
        address = self._config.url + "/rest/me"
        exchanged = self._exchange("GET", address, None, self._clock() + self._config.total_timeout_s)
        if isinstance(exchanged, TransportFault):
            return Credit(exchanged.reason, http_status=exchanged.status)
        date_at = parse_date(exchanged.date)
        # The service's date is of some moment between request and answer, and cut to whole seconds.
        middle_at = (started_at + self._wall_clock()) / 2
        skew_s = None if date_at is None else middle_at - (date_at + 0.5)
        return self._read_credit(exchanged.status, exchanged.body, skew_s)

    def close(self) -> None:
        """See `Gateway.close`."""
        self._connections.close()

    @staticmethod
    def _platform(url: str) -> str:
        """The API's base address for the configured one."""
        return url

    @staticmethod
    def _read_credit(status: int, body: bytes, skew_s: float | None) -> Credit:
        """What the answer to a question for the balance means."""
        return read_credit_answer(status, body, clock_skew_s=skew_s)

    @abstractmethod
    def _payload(self, msisdn: int, text: str, validity_s: int, userref: str) -> dict[str, Any]:
        """The request's body."""

    @abstractmethod
    def _read_answer(self, status: int, body: bytes, retry_after_s: float | None) -> Reading:
        """What an answer of this API means."""

    def _try(self, payload: Mapping[str, Any], deadline_at: float) -> tuple[Reading, int]:
        """Attempts until one of them, their number or the time is final; with how many there were."""
        repeated: set[SendReason] = set()
        may_be_sent = False
        former: SendReason | None = None
        for attempt_count in itertools.count(1):
            reading = self._attempt(payload, deadline_at)
            if former is not None and reading.reason is SendReason.DEADLINE:
                reading = replace(reading, reason=former)  # there was no time left to find out anything else
            former = reading.reason
            may_be_sent = may_be_sent or reading.outcome is Outcome.UNKNOWN
            if reading.retry is Retry.NEVER or reading.reason in repeated or attempt_count == MAX_ATTEMPTS:
                break
            if reading.retry is Retry.ONCE:
                repeated.add(reading.reason)
            pause_s = max(BACK_OFF_S[attempt_count - 1], reading.retry_after_s)
            if self._clock() + pause_s >= deadline_at:
                break
            self._sleep(pause_s)
        if may_be_sent and reading.outcome is Outcome.REFUSED:
            # The last attempt was refused, but an earlier one may have got through.
            reading = replace(reading, outcome=Outcome.UNKNOWN)
        if reading.reason in _WITHOUT_AN_ANSWER and self._shortage() is not None:
            reading = replace(reading, reason=SendReason.SHORTAGE)
        return reading, attempt_count

    def _attempt(self, payload: Mapping[str, Any], deadline_at: float) -> Reading:
        """One signed request and what came of it."""
        exchanged = self._exchange("POST", self._base_url + self._path, payload, deadline_at)
        if isinstance(exchanged, TransportFault):
            return self._read_fault(exchanged)
        return self._read(exchanged)

    def _read(self, answer: _Answer) -> Reading:
        now_at = parse_date(answer.date)
        retry_after_s = parse_retry_after(answer.retry_after, now_at=self._wall_clock() if now_at is None else now_at)
        return self._read_answer(answer.status, answer.body, retry_after_s)

    def _read_fault(self, fault: TransportFault) -> Reading:
        """A broken exchange. A refusing status counts even if its answer was cut."""
        if not fault.has_sent:
            retry = Retry.NEVER if fault.reason is SendReason.INTERNAL else Retry.BACK_OFF
            return Reading(Outcome.REFUSED, fault.reason, retry=retry)
        if fault.status is not None:
            reading = self._read_answer(fault.status, b"", None)
            if reading.outcome is Outcome.REFUSED:
                return replace(reading, retry=Retry.NEVER)
        return Reading(Outcome.UNKNOWN, fault.reason, http_status=fault.status)

    def _exchange(
        self, method: str, address: str, payload: Mapping[str, Any] | None, deadline_at: float
    ) -> _Answer | TransportFault:
        """One exchange on a connection of its own. Anything unexpected becomes an INTERNAL fault."""
        with self._connections.borrow() as adapter:
            adapter.begin(deadline_at)
            try:
                # No Session of requests: it would add environment, cookies and redirects, all unwanted here.
                request = requests.PreparedRequest()
                request.prepare(method, address, headers=_HEADERS, json=payload, auth=self._auth)
                response = adapter.send(request)
                return _Answer(
                    response.status_code,
                    response.content,
                    response.headers.get("Date"),
                    response.headers.get("Retry-After"),
                )
            except TransportFault as fault:
                return fault.with_traceback(None)  # its frames hold the request
            except Exception:  # its message may quote headers: it goes no further
                return TransportFault(SendReason.INTERNAL, has_sent=adapter.has_sent)


class RestGateway(_HttpGateway):
    """POST /rest/mtsms."""

    _path = "/rest/mtsms"

    def _payload(self, msisdn: int, text: str, validity_s: int, userref: str) -> dict[str, Any]:
        return {
            "message": text,
            "sender": self._config.sender,
            "recipients": [{"msisdn": msisdn}],
            "class": self._config.message_class,
            "priority": self._config.priority,
            "validity_period": validity_s,
            "max_parts": 1,
            "encoding": "UTF8",
            "userref": userref,
        }

    def _read_answer(self, status: int, body: bytes, retry_after_s: float | None) -> Reading:
        return read_rest_answer(status, body, retry_after_s=retry_after_s)


class MessagingGateway(_HttpGateway):
    """POST /mobile/single, on a host of its own. It has no classes, and chooses the encoding itself."""

    _path = "/mobile/single"

    @staticmethod
    def _read_credit(status: int, body: bytes, skew_s: float | None) -> Credit:
        return read_messaging_credit_answer(status, body, clock_skew_s=skew_s)

    @staticmethod
    def _platform(url: str) -> str:
        host = urlsplit(url).hostname
        return f"https://messaging.{host}" if host in VENDOR_HOSTS else url

    def _payload(self, msisdn: int, text: str, validity_s: int, userref: str) -> dict[str, Any]:
        is_urgent = self._config.priority in ("URGENT", "VERY_URGENT")
        return {
            "sender": self._config.sender,
            "recipient": msisdn,
            "message": text,
            "reference": userref,
            "expiration": validity_s,
            "priority": "urgent" if is_urgent else "normal",
        }

    def _read_answer(self, status: int, body: bytes, retry_after_s: float | None) -> Reading:
        return read_messaging_answer(status, body, retry_after_s=retry_after_s)


class _Answer(NamedTuple):
    """What is looked at of an HTTP answer; all of it is foreign."""

    status: int
    body: bytes
    date: str | None
    retry_after: str | None


class _ConnectionPool:
    """Adapters, which hold a connection each, for one borrower at a time.

    The last one given back is borrowed first, so under light load a few connections stay warm. The number
    of borrowers, hence of connections, is the caller's to bound ([gateway] connections).
    """

    def __init__(self, *, tls: ssl.SSLContext, config: GatewayConfig, clock: Callable[[], float]) -> None:
        self._tls = tls
        self._config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: list[DeadlineAdapter] = []
        self._is_closed = False

    @contextmanager
    def borrow(self) -> Iterator[DeadlineAdapter]:
        """An adapter for one exchange."""
        with self._lock:
            adapter = self._idle.pop() if self._idle else None
        adapter = adapter or self._new_adapter()
        try:
            yield adapter
        finally:
            with self._lock:
                for other in self._idle:
                    other.close_if_stale()
                self._idle.append(adapter)
                if self._is_closed:
                    adapter.close()

    def close(self) -> None:
        """Close all connections: idle ones now, the others after their exchange."""
        with self._lock:
            self._is_closed = True
            for adapter in self._idle:
                adapter.close()

    def _new_adapter(self) -> DeadlineAdapter:
        return DeadlineAdapter(
            connect_timeout_s=self._config.connect_timeout_s,
            read_timeout_s=self._config.read_timeout_s,
            tls=self._tls,
            clock=self._clock,
        )


class _TokenAuth(AuthBase):
    """`Authorization: Token ...` (the word is Token, not Bearer)."""

    def __init__(self, token: Secret) -> None:
        self._token = token

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Token {self._token.reveal()}"
        return request


def _authentication(config: GatewayConfig, credentials: GatewayCredentials) -> AuthBase:
    """What signs or marks a request; stateless, so shared by all sessions. Raises CredentialError."""
    if config.auth == "token":
        return _TokenAuth(_usable(credentials.token, "token"))
    key, secret = _usable(credentials.key, "key"), _usable(credentials.secret, "secret")
    # HMAC-SHA1 over method, address and OAuth parameters: RFC 5849 leaves a JSON body unsigned, TLS guards it.
    oauth: AuthBase = OAuth1(key.reveal(), client_secret=secret.reveal(), client_class=_QuietClient)
    return oauth


class _QuietClient(Client):  # type: ignore[misc]  # oauthlib has no types
    """oauthlib's own would show the key in its `repr`."""

    def __repr__(self) -> str:
        return "<oauth client>"


def _usable(credential: Secret | None, name: str) -> Secret:
    """The credential, if it can go into a header. Raises CredentialError."""
    if credential is None:
        raise CredentialError(f"the gateway's {name} is missing", hint="textgate setup stores it")
    if not _CREDENTIAL.fullmatch(credential.reveal()):
        raise CredentialError(
            f"the gateway's {name} is malformed", hint="it is one line of printable characters without spaces"
        )
    return credential


def _trust(ca_file: str | None) -> ssl.SSLContext:
    try:
        return tls_context(ca_file)
    except OSError:
        raise TextgateError(
            "the list of trusted certificate authorities can't be read", hint="apt install ca-certificates"
        ) from None


def _input_fault(msisdn: str, text: Secret, userref: str) -> Reading | None:
    """What the caller got wrong, before anything is sent; None if nothing."""
    if not _MSISDN.fullmatch(msisdn):
        return Reading(Outcome.REFUSED, SendReason.NUMBER)
    size = sms.septets(text.reveal())
    if size is None or not 0 < size <= sms.ONE_PART_SEPTETS:
        return Reading(Outcome.REFUSED, SendReason.CONTENT)
    if not _USERREF.fullmatch(userref):
        return Reading(Outcome.REFUSED, SendReason.INTERNAL)
    return None


def _clamped(validity_s: int) -> int:
    return max(MIN_VALIDITY_S, min(validity_s, MAX_VALIDITY_S))
