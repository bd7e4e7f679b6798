# SPDX-License-Identifier: MIT
"""The auth socket's dialogue: bytes <-> Request and Reply. No socket here; PROTOCOL.md has the exact bytes.

Whatever is not exactly a request is a ProtocolError, which the server answers with `deny`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from .errors import ProtocolError
from .secret import Secret

REQUEST_MAX_BYTES = 65536  # SSH_AUTH_INFO_0 with certificates is long
REPLY_TEXT_MAX_LENGTH = 1024
VERSION = "textgate/1"

FIELDS = frozenset(
    (
        "PAM_USER",
        "PAM_SERVICE",
        "PAM_TTY",
        "PAM_RHOST",
        "PAM_RUSER",
        "PAM_TYPE",
        "SSH_CONNECTION",
        "SSH_AUTH_INFO_0",
        "PPID",
        "PPID_START",
    )
)
CODE_FIELD = "CODE"


class Verb(Enum):
    """What is asked."""

    BEGIN = "begin"
    CHECK = "check"


class Word(Enum):
    """What is answered. Only SKIP (to begin) and PASS (to check) let anybody in."""

    SKIP = "skip"
    ASK = "ask"
    PASS = "pass"  # noqa: S105  # a word of the protocol
    DENY = "deny"


class Why(Enum):
    """What is behind an answer, for callers in the same process; it is not sent."""

    NO_CODE_NEEDED = "no_code_needed"
    CODE_SENT = "code_sent"
    CODE_ON_ITS_WAY = "code_on_its_way"
    SEND_UNKNOWN = "send_unknown"
    CODE_LIVE = "code_live"
    RIGHT = "right"
    FAILED_OPEN = "failed_open"
    WRONG = "wrong"
    NONE_WAITING = "none_waiting"
    TRIES_SPENT = "tries_spent"
    LOCKED = "locked"
    THROTTLED = "throttled"
    NOT_SENT = "not_sent"
    BUSY = "busy"
    STORE_AWAY = "store_away"
    FAILED = "failed"


@dataclass(frozen=True)
class Request:
    """One request. `code` is what was typed, there for CHECK only; fields hold all the rest."""

    verb: Verb
    fields: Mapping[str, str]
    code: Secret | None


@dataclass(frozen=True)
class Reply:
    """One answer: the word, and the text for the person ("" for none).

    why and wait_s (seconds until it makes sense to try again, 0 if unknown) stay in this process.
    """

    word: Word
    text: str = ""
    why: Why = field(default=Why.FAILED, compare=False)
    wait_s: float = field(default=0.0, compare=False)


def parse_request(untrusted: bytes) -> Request:
    """Bytes of one whole request -> Request.

    Raises ProtocolError with a fixed reason: too_long, not_utf8, version, verb, field_form, field_unknown,
    field_twice, code_missing, code_unexpected.
    """
    if len(untrusted) > REQUEST_MAX_BYTES:
        raise ProtocolError("too_long")
    try:
        head, *rest = untrusted.decode("utf-8").split("\0")
    except UnicodeDecodeError:
        raise ProtocolError("not_utf8") from None
    version, _, word = head.partition(" ")
    if version != VERSION:
        raise ProtocolError("version")
    try:
        verb = Verb(word)
    except ValueError:
        raise ProtocolError("verb") from None
    fields = _parse_fields(rest)
    code = fields.pop(CODE_FIELD, None)
    if (code is None) == (verb is Verb.CHECK):
        raise ProtocolError("code_missing" if code is None else "code_unexpected")
    return Request(verb, MappingProxyType(fields), None if code is None else Secret(code))


def _parse_fields(parts: list[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals:
            raise ProtocolError("field_form")
        if name not in FIELDS and name != CODE_FIELD:
            raise ProtocolError("field_unknown")
        if name in fields:
            raise ProtocolError("field_twice")
        fields[name] = value
    return fields


def format_reply(reply: Reply) -> bytes:
    """Reply -> bytes: the word, a line feed, the text in UTF-8, cut to its longest."""
    return f"{reply.word.value}\n{reply.text[:REPLY_TEXT_MAX_LENGTH]}".encode()
