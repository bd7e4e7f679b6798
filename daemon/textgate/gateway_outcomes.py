# SPDX-License-Identifier: MIT
"""What became of one text: GatewayAPI's answers -> `Reading` -> `SendResult`. Core: no I/O, no clock.

Three ends, and the difference between the last two decides whether a person waits for the phone: SENT (the
service said so), REFUSED (nothing went out), UNKNOWN (it may have gone out and been billed). A broken answer
after a success status is UNKNOWN, never REFUSED. Answers are foreign text: all that is kept of one is numbers,
and words that match a fixed pattern.
"""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC
from decimal import Decimal
from enum import Enum
from typing import Any, NoReturn


class Outcome(Enum):
    """Whether the text went out."""

    SENT = "sent"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class SendReason(Enum):
    """Why, as a fixed word for the journal and the metrics; stable."""

    ACCEPTED = "accepted"  # the service took the text
    # Refusals by the service.
    CREDIT = "credit"  # the account has no money left
    CLOCK = "clock"  # this machine's clock is off, so that the signature is too old or too new
    CREDENTIALS = "credentials"  # key, secret or token is wrong, or of the other platform
    REPLAY = "replay"  # the nonce was seen before, twice: something between repeats requests
    ACCOUNT = "account"  # the account may not do this, or is frozen
    CONFIGURATION = "configuration"  # sender, class, priority, address list: a setting here or there
    CONTENT = "content"  # the text is filtered
    COUNTRY = "country"  # the account may not text this country
    NUMBER = "number"  # this number can't be texted
    NUMBER_FOR_NOW = "number_for_now"  # this number can't be texted right now
    INVALID = "invalid"  # the service finds fault with the request and doesn't say where
    THROTTLED = "throttled"  # too many requests, or closed for maintenance
    SERVER_ERROR = "server_error"  # the service broke
    REDIRECT = "redirect"  # the service is elsewhere; no signed request is sent after it
    # Faults on the way.
    DNS = "dns"  # the service's name isn't found
    UNREACHABLE = "unreachable"  # no connection
    TLS = "tls"  # no trusted connection
    TIMEOUT = "timeout"  # a connection was taken, and no answer came within the read timeout
    DEADLINE = "deadline"  # no answer within the total time
    RESET = "reset"  # the connection broke before the answer was whole
    BAD_ANSWER = "bad_answer"  # an answer that can't be read
    # Ours.
    UNSUPPORTED = "unsupported"  # this account can't be asked for its balance (some on the Messaging API)
    SHORTAGE = "shortage"  # this machine lacks ports, descriptors, memory or time for a connection
    INTERNAL = "internal"  # a fault of textgate itself


# An administrator must act, for these don't pass by themselves.
ALERT_REASONS = frozenset(
    {
        SendReason.CREDIT,
        SendReason.CLOCK,
        SendReason.CREDENTIALS,
        SendReason.REPLAY,
        SendReason.ACCOUNT,
        SendReason.CONFIGURATION,
        SendReason.CONTENT,
        SendReason.REDIRECT,
        SendReason.TLS,
        SendReason.SHORTAGE,
        SendReason.INTERNAL,
    }
)


# What one text came to in this way, every other one would have. The rest is about one number, or may be.
_CONCERNS_ALL = frozenset(
    {
        SendReason.ACCEPTED,
        SendReason.CREDIT,
        SendReason.CLOCK,
        SendReason.CREDENTIALS,
        SendReason.ACCOUNT,
        SendReason.CONFIGURATION,
        SendReason.THROTTLED,
        SendReason.SERVER_ERROR,
        SendReason.REDIRECT,
        SendReason.DNS,
        SendReason.UNREACHABLE,
        SendReason.TLS,
        SendReason.TIMEOUT,
        SendReason.DEADLINE,
        SendReason.RESET,
        SendReason.BAD_ANSWER,
        SendReason.REPLAY,
        SendReason.SHORTAGE,
    }
)


class Retry(Enum):
    """Whether the same text may be tried again."""

    NEVER = "never"
    ONCE = "once"  # one repeat for this reason
    BACK_OFF = "back_off"  # as long as attempts and time last


@dataclass(frozen=True)
class SendResult:
    """What became of one text.

    message_ids: what the service calls it, kept for UNKNOWN too if it gave any. cost: of the whole text,
    None if not said. parts: SMS parts billed by country, such as (("DK", 1),). http_status, code
    ("0x0216") and incident (the service's UUID, for its support) are of the last attempt's answer.
    """

    outcome: Outcome
    reason: SendReason
    attempt_count: int
    duration_s: float
    message_ids: tuple[int | str, ...] = ()
    cost: Decimal | None = None
    currency: str | None = None
    parts: tuple[tuple[str, int], ...] = ()
    http_status: int | None = None
    code: str | None = None
    incident: str | None = None

    @property
    def is_alert(self) -> bool:
        """Whether an administrator must act."""
        return self.reason in ALERT_REASONS

    @property
    def concerns_all(self) -> bool:
        """Whether a text to any other number would have ended the same way."""
        # By their status alone, 400 and 403 are called the account's or the configuration's; but a code that isn't
        # listed may well say that it is the number.
        is_guess = self.http_status in (400, 403) and self.code not in _REASON_BY_CODE
        is_certain = not is_guess or self.reason is SendReason.CREDENTIALS
        return self.outcome is Outcome.SENT or (self.reason in _CONCERNS_ALL and is_certain)


@dataclass(frozen=True)
class Credit:
    """The account's balance. reason is ACCEPTED if it was read.

    clock_skew_s: by how much this machine's clock is ahead of the service's, exact to about a second;
    known whenever the service answered with a date, so for a refusal as well.
    """

    reason: SendReason
    amount: Decimal | None = None
    currency: str | None = None
    clock_skew_s: float | None = None
    http_status: int | None = None
    code: str | None = None
    incident: str | None = None

    @property
    def is_alert(self) -> bool:
        """Whether an administrator must act."""
        return self.reason in ALERT_REASONS


@dataclass(frozen=True)
class Reading:
    """What one attempt came to. retry_after_s: the wait that the service asks for."""

    outcome: Outcome
    reason: SendReason
    retry: Retry = Retry.NEVER
    retry_after_s: float = 0.0
    message_ids: tuple[int | str, ...] = ()
    cost: Decimal | None = None
    currency: str | None = None
    parts: tuple[tuple[str, int], ...] = ()
    http_status: int | None = None
    code: str | None = None
    incident: str | None = None

    def result(self, *, attempt_count: int, duration_s: float) -> SendResult:
        """The same as the end of the whole send."""
        return SendResult(
            outcome=self.outcome,
            reason=self.reason,
            attempt_count=attempt_count,
            duration_s=duration_s,
            message_ids=self.message_ids,
            cost=self.cost,
            currency=self.currency,
            parts=self.parts,
            http_status=self.http_status,
            code=self.code,
            incident=self.incident,
        )


# --- Tables: GatewayAPI's documents, docs/errors.rst; what isn't listed goes by its HTTP status. ---

_REASON_BY_CODE: Mapping[str, SendReason] = {
    "0x0210": SendReason.CREDENTIALS,  # invalid user name
    "0x0211": SendReason.CREDENTIALS,  # invalid password
    "0x0212": SendReason.CONFIGURATION,  # invalid IP address
    "0x0213": SendReason.CONFIGURATION,  # unauthorized IP address
    "0x0214": SendReason.NUMBER_FOR_NOW,  # temporary blacklist
    "0x0215": SendReason.NUMBER,  # blacklisted
    "0x0216": SendReason.CREDIT,
    "0x0217": SendReason.COUNTRY,
    "0x0218": SendReason.CONFIGURATION,  # unknown message class
    "0x021D": SendReason.ACCOUNT,  # SMS not enabled
    "0x021E": SendReason.CONFIGURATION,  # class not configured, in spite of its status 500
    "0x021F": SendReason.NUMBER,  # unauthorized operator
    "0x0220": SendReason.CONFIGURATION,  # OAuth: unsupported parameter
    "0x0221": SendReason.CONFIGURATION,  # OAuth: unsupported signature method
    "0x0222": SendReason.CONFIGURATION,  # OAuth: missing parameter
    "0x0223": SendReason.CREDENTIALS,  # invalid consumer key
    "0x0224": SendReason.CREDENTIALS,  # invalid signature
    "0x0225": SendReason.CLOCK,  # expired timestamp
    "0x0226": SendReason.REPLAY,  # used nonce
    "0x0229": SendReason.CREDENTIALS,  # invalid token
    "0x022A": SendReason.ACCOUNT,  # frozen
    "0x0310": SendReason.CONFIGURATION,  # recipient twice
    "0x0311": SendReason.CONFIGURATION,  # priority not available
    "0x0312": SendReason.CONTENT,
}
_REFUSING_STATUSES: Mapping[int, SendReason] = {
    301: SendReason.REDIRECT,
    302: SendReason.REDIRECT,
    307: SendReason.REDIRECT,
    308: SendReason.REDIRECT,
    400: SendReason.CONFIGURATION,
    401: SendReason.CREDENTIALS,
    403: SendReason.ACCOUNT,
    404: SendReason.CONFIGURATION,
    405: SendReason.CONFIGURATION,
    429: SendReason.THROTTLED,
}
_MESSAGING_STATUSES: Mapping[int, SendReason] = {**_REFUSING_STATUSES, 403: SendReason.CREDENTIALS}
_NOT_TOLD_STATUSES = (401, 403)
# The field that the Messaging API's 422 complains about: {"detail": [{"loc": ["body", FIELD], ...}]}.
_REASON_BY_FIELD: Mapping[str, SendReason] = {
    "recipient": SendReason.NUMBER,
    "sender": SendReason.CONFIGURATION,
    "priority": SendReason.CONFIGURATION,
    "expiration": SendReason.CONFIGURATION,
    "message": SendReason.CONTENT,
}
_RETRY_BY_REASON: Mapping[SendReason, Retry] = {
    SendReason.REPLAY: Retry.ONCE,
    SendReason.THROTTLED: Retry.BACK_OFF,
}

_CODE = re.compile(r"0[xX]([0-9A-Fa-f]{4})")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MESSAGE_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_COUNTRY = re.compile(r"[A-Z]{2}")
_CURRENCY = re.compile(r"[A-Z]{3}")
_AMOUNT = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,12})?")
_MAX_ID_COUNT = 10  # we ask for one; more than a few are not worth keeping
_MAX_PART_COUNT = 255  # the service's own limit
_MAX_HEADER_LENGTH = 64  # of a date or a number of seconds


# --- Answers to a send. ---


def read_rest_answer(status: int, body: bytes, *, retry_after_s: float | None = None) -> Reading:
    """POST /rest/mtsms: 200 {"ids": [421332671], "usage": {...}} is the success.

    body: at most what the transport lets through. retry_after_s: as of `parse_retry_after`.
    """
    document = parse_json(body)
    if not _is_success(status):
        return _read_refusal(status, document, retry_after_s, _REFUSING_STATUSES)
    given = document.get("ids")
    ids = _message_ids(given)
    is_plain = status == 200 and given == list(ids) and len(ids) == 1 and isinstance(ids[0], int)
    usage = document.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reading(
        *_verdict(is_plain),
        message_ids=ids,
        cost=_cost(usage.get("total_cost")),
        currency=_word(_CURRENCY, usage.get("currency")),
        parts=_parts(usage.get("countries")),
        http_status=status,
    )


def read_messaging_answer(status: int, body: bytes, *, retry_after_s: float | None = None) -> Reading:
    """POST /mobile/single: 202 {"msg_id": "01JNN6...", ...} is the success; it names no cost."""
    document = parse_json(body)
    if not _is_success(status):
        return _read_refusal(status, document, retry_after_s, _MESSAGING_STATUSES)
    ids = _message_ids([document.get("msg_id")])
    is_plain = status == 202 and len(ids) == 1 and isinstance(ids[0], str)
    return Reading(*_verdict(is_plain), message_ids=ids, http_status=status)


def _is_success(status: int) -> bool:
    return 200 <= status <= 299


def _verdict(is_plain: bool) -> tuple[Outcome, SendReason]:
    """The one place where a text counts as sent. An odd success may have been sent."""
    if is_plain:
        return Outcome.SENT, SendReason.ACCEPTED
    return Outcome.UNKNOWN, SendReason.BAD_ANSWER


def _read_refusal(
    status: int, document: Mapping[str, Any], retry_after_s: float | None, statuses: Mapping[int, SendReason]
) -> Reading:
    """An answer that isn't a success: by its status, refined by the code in its body."""
    code = _error_code(document)
    outcome, reason, retry = _judge(status, code, document, retry_after_s is not None, statuses)
    return Reading(
        outcome,
        reason,
        retry=retry,
        retry_after_s=retry_after_s or 0.0,
        http_status=status,
        code=code,
        incident=_word(_UUID, document.get("incident_uuid")),
    )


def _judge(
    status: int,
    code: str | None,
    document: Mapping[str, Any],
    has_retry_after: bool,
    statuses: Mapping[int, SendReason],
) -> tuple[Outcome, SendReason, Retry]:
    """Whatever isn't known to be a refusal may have been sent."""
    if status == 503 and has_retry_after:
        return Outcome.REFUSED, SendReason.THROTTLED, Retry.BACK_OFF
    if status == 500 and code == "0x021E":
        return Outcome.REFUSED, SendReason.CONFIGURATION, Retry.NEVER
    if status == 503:  # its limit of connections may look so
        return Outcome.UNKNOWN, SendReason.THROTTLED, Retry.NEVER
    if status >= 500:
        # The API's own 500, in JSON, most likely took nothing, so one repeat is worth its risk of a second, equal
        # text. Those of a proxy in front of it tell nothing.
        is_own = status == 500 and bool(document)
        return Outcome.UNKNOWN, SendReason.SERVER_ERROR, Retry.ONCE if is_own else Retry.NEVER
    if status == 408:
        return Outcome.UNKNOWN, SendReason.TIMEOUT, Retry.NEVER
    if status >= 400:
        reason = _REASON_BY_CODE.get(code or "") or _complained_field(status, document) or statuses.get(status)
        reason = reason or SendReason.INVALID
        return Outcome.REFUSED, reason, _RETRY_BY_REASON.get(reason, Retry.NEVER)
    if status in statuses:
        return Outcome.REFUSED, statuses[status], Retry.NEVER
    return Outcome.UNKNOWN, SendReason.BAD_ANSWER, Retry.NEVER


def _complained_field(status: int, document: Mapping[str, Any]) -> SendReason | None:
    """The reason behind a 422 of the Messaging API, from the first field it names that is known."""
    details = document.get("detail")
    if status != 422 or not isinstance(details, list):
        return None
    for detail in details[:_MAX_ID_COUNT]:
        location = detail.get("loc") if isinstance(detail, dict) else None
        for name in location[:_MAX_ID_COUNT] if isinstance(location, list) else ():
            if isinstance(name, str) and name in _REASON_BY_FIELD:
                return _REASON_BY_FIELD[name]
    return None


# --- The answer to a question for the balance. ---


def read_credit_answer(status: int, body: bytes, *, clock_skew_s: float | None) -> Credit:
    """GET /rest/me: 200 {"credit": 1234.56, "currency": "DKK", "id": 1}; credit may come as a string."""
    document = parse_json(body)
    if _is_success(status):
        amount = _amount(document.get("credit"))
        return Credit(
            SendReason.BAD_ANSWER if amount is None else SendReason.ACCEPTED,
            amount=amount,
            currency=_word(_CURRENCY, document.get("currency")),
            clock_skew_s=clock_skew_s,
            http_status=status,
        )
    reading = _read_refusal(status, document, None, _REFUSING_STATUSES)
    return Credit(
        reading.reason,
        clock_skew_s=clock_skew_s,
        http_status=status,
        code=reading.code,
        incident=reading.incident,
    )


def read_messaging_credit_answer(status: int, body: bytes, *, clock_skew_s: float | None) -> Credit:
    """As `read_credit_answer`, for a token of the Messaging API.

    It opens /rest/me for some accounts and not for others. 401 and 403 are no word on the token, which may send
    texts all the same: the balance is not known, and nothing else is.
    """
    credit = read_credit_answer(status, body, clock_skew_s=clock_skew_s)
    if status in _NOT_TOLD_STATUSES:
        return replace(credit, reason=SendReason.UNSUPPORTED)
    return credit


# --- Pieces of foreign text -> checked values, or None. ---


def parse_json(body: bytes) -> Mapping[str, Any]:
    """The body's JSON object, numbers with a fraction as Decimal; empty for anything that isn't one.

    RFC 8259 to the letter: UTF-8 without a byte order mark, and no NaN.
    """
    try:
        document = json.loads(body.decode("utf-8"), parse_float=Decimal, parse_constant=_refuse_constant)
    except (ValueError, ArithmeticError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def parse_date(value: str | None) -> float | None:
    """An HTTP date (RFC 9110 §5.6.7) as Unix seconds."""
    if value is None or len(value) > _MAX_HEADER_LENGTH:
        return None
    try:
        moment = email.utils.parsedate_to_datetime(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):  # the library lets out all of these
        return None


def parse_retry_after(value: str | None, *, now_at: float) -> float | None:
    """Retry-After (RFC 9110 §10.2.3) in seconds from now, never negative; None without a readable one.

    now_at: the service's idea of now, best from the same answer's Date.
    """
    value = (value or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    due_at = parse_date(value)
    return None if due_at is None else max(0.0, due_at - now_at)


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


def _word(pattern: re.Pattern[str], value: Any) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _error_code(document: Mapping[str, Any]) -> str | None:
    """The API's code in the spelling of its documents, "0x021E"; it is left out of some bodies."""
    value = document.get("code")
    match = _CODE.fullmatch(value) if isinstance(value, str) else None
    return f"0x{match[1].upper()}" if match else None


def _message_ids(values: Any) -> tuple[int | str, ...]:
    """The well-formed ids of a list."""
    if not isinstance(values, list):
        return ()
    return tuple(value for value in values[:_MAX_ID_COUNT] if _is_message_id(value))


def _is_message_id(value: Any) -> bool:
    if isinstance(value, str):
        return bool(_MESSAGE_ID.fullmatch(value))
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63


def _amount(value: Any) -> Decimal | None:
    """Money, as a number or as a string, of sensible size."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        return None
    if isinstance(value, Decimal):
        # An exponent such as 1e999999999 would be a gigabyte of digits in plain notation.
        value = f"{value:f}" if -12 <= value.as_tuple().exponent <= 12 else ""  # type: ignore[operator]
    written = str(value) if not isinstance(value, int) or abs(value) < 10**12 else ""
    return Decimal(written) if _AMOUNT.fullmatch(written) else None


def _cost(value: Any) -> Decimal | None:
    amount = _amount(value)
    return amount if amount is not None and amount >= 0 else None


def _parts(value: Any) -> tuple[tuple[str, int], ...]:
    """SMS parts by country; none if anything in it is odd, for half a bill is worse than no bill."""
    items = list(value.items())[: _MAX_ID_COUNT + 1] if isinstance(value, dict) else []
    is_sound = len(items) <= _MAX_ID_COUNT and all(
        _COUNTRY.fullmatch(country)
        and isinstance(count, int)
        and not isinstance(count, bool)
        and 0 < count <= _MAX_PART_COUNT
        for country, count in items
    )
    return tuple(items) if is_sound else ()
