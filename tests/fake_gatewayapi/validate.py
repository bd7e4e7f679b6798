# SPDX-License-Identifier: MIT
"""From foreign bytes to message drafts: JSON, form fields and the rules for each member.

Raises ApiError (REST) or MobileError (Messaging API); accepts nothing and knows no account.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .errors import ApiError, MobileError
from .model import MAX_VALIDITY_S, Draft
from .oauth1 import Pairs
from .texts import PART_MAX_COUNT

RECIPIENT_MAX_COUNT = 10_000
MOBILE_MAX_COUNT = 1_000
MOBILE_TEXT_MAX = 39_015  # 255 parts of 153
VALIDITY_MIN_S = 60  # less is raised to this
SENDER_MAX_CHARACTERS, SENDER_MAX_DIGITS = 11, 15
_MSISDN = re.compile(r"[1-9][0-9]{0,14}", re.ASCII)
_AUTH_FIELDS = frozenset({"token", "user", "password"})


def invalid(why: str) -> ApiError:
    """A schema error. It has no code: the documents name none, and clients must cope."""
    return ApiError(422, f"Invalid request: {why}")


def load_json(body: bytes) -> Any:
    """The value in a JSON body; ValueError for anything else, NaN and byte order marks included."""
    try:
        return json.loads(body.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def expand_form(pairs: Pairs) -> dict[str, Any]:
    """`recipients.0.msisdn=…` to nested members; numbers of the schema become integers."""
    root: dict[str, Any] = {}
    for name, value in pairs:
        if name.startswith("oauth_") or name in _AUTH_FIELDS:
            continue
        node = root
        *parents, last = name.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise invalid("fields contradict each other")
        is_number = last in {"sendtime", "validity_period", "max_parts"} and value.isdecimal()
        node[last] = int(value) if is_number else value
    return {name: _as_lists(value) for name, value in root.items()}


def rest_drafts(root: Any) -> list[Draft]:
    """Drafts of a REST body: one message object or a list of them."""
    objects = root if isinstance(root, list) else [root]
    if not objects:
        raise invalid("no messages")
    drafts = [_rest_draft(item) for item in objects]
    if len({draft.message_class for draft in drafts}) > 1:
        raise invalid("one class for the whole request")
    if len({draft.label for draft in drafts}) > 1:
        raise invalid("one label for the whole request")
    return drafts


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _as_lists(node: Any) -> Any:
    """A dictionary whose names are all numbers becomes the list it stands for."""
    if not isinstance(node, dict):
        return node
    values = {name: _as_lists(value) for name, value in node.items()}
    if values and all(name.isdecimal() for name in values):
        return [values[name] for name in sorted(values, key=int)]
    return values


# --- REST ------------------------------------------------------------------------------------


def _rest_draft(item: Any) -> Draft:
    if not isinstance(item, dict):
        raise invalid("a message must be an object")
    payload = _payload(item)
    recipients = _recipients(item, "" if payload is not None else _text(item))
    return Draft(
        recipients=recipients,
        sender=_sender(item),
        message_class=_string(item, "class") or "standard",
        priority=_string(item, "priority") or "NORMAL",
        sendtime=_integer(item, "sendtime", 0, 2**53),
        validity_period_s=_validity(item),
        encoding=_choice(item, "encoding", ("UTF8", "UCS2")),
        destaddr=_choice(item, "destaddr", ("MOBILE", "DISPLAY", "SIMCARD", "EXTUNIT")),
        userref=_string(item, "userref"),
        callback_url=_string(item, "callback_url"),
        label=_string(item, "label"),
        max_parts=_max_parts(item, payload),
        payload=payload,
        extra_details=_string(item, "extra_details"),
        fields=item,
    )


def _text(item: Mapping[str, Any]) -> str:
    text = _string(item, "message")
    if not text:
        raise invalid("message is required")
    return text


def _payload(item: Mapping[str, Any]) -> bytes | None:
    payload = _string(item, "payload")
    if payload is None:
        return None
    if "message" in item or "tags" in item:
        raise invalid("payload excludes message and tags")
    try:
        _string(item, "udh") and base64.b64decode(item["udh"], validate=True)
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise invalid("payload and udh must be base64") from None


def _recipients(item: Mapping[str, Any], text: str) -> tuple[tuple[str, str], ...]:
    """(msisdn, text with its tags filled in) for each recipient."""
    recipients = item.get("recipients")
    if not isinstance(recipients, list) or not recipients:
        raise invalid("recipients must be a non-empty array")
    if len(recipients) > RECIPIENT_MAX_COUNT:
        raise invalid("too many recipients")
    tags = _strings(item, "tags")
    pairs = []
    for recipient in recipients:
        if not isinstance(recipient, dict):
            raise invalid("a recipient must be an object")
        values = _strings(recipient, "tagvalues")
        if len(values) != len(tags):
            raise invalid("tagvalues must match tags")
        pairs.append((_msisdn(recipient.get("msisdn")), _filled(text, tags, values)))
    return tuple(pairs)


def _filled(text: str, tags: Sequence[str], values: Sequence[str]) -> str:
    for tag, value in zip(tags, values, strict=True):
        text = text.replace(tag, value)
    return text


def _msisdn(value: Any) -> str:
    """Digits with a country code; integer or string, never bool, + or leading zeros."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise invalid("msisdn must be an integer or a string")
    if _MSISDN.fullmatch(str(value)) is None:
        raise invalid("msisdn must be 1 to 15 digits")
    return str(value)


def _sender(item: Mapping[str, Any]) -> str:
    value = item.get("sender")
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise invalid("sender must be a string")
    sender = str(value)
    is_digits = sender.isascii() and sender.isdecimal()
    if len(sender) > (SENDER_MAX_DIGITS if is_digits else SENDER_MAX_CHARACTERS):
        raise invalid("sender is too long")
    return sender


def _validity(item: Mapping[str, Any]) -> int:
    value = _integer(item, "validity_period", 0, 2**53)
    return MAX_VALIDITY_S if value is None else max(VALIDITY_MIN_S, value)


def _max_parts(item: Mapping[str, Any], payload: bytes | None) -> int | None:
    value = _integer(item, "max_parts", 1, PART_MAX_COUNT)
    if value is not None and (payload is not None or item.get("tags")):
        raise invalid("max_parts excludes tags and payload")
    return value


def _string(item: Mapping[str, Any], name: str) -> str | None:
    value = item.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(f"{name} must be a string")
    return value


def _strings(item: Mapping[str, Any], name: str) -> list[str]:
    values = item.get(name) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise invalid(f"{name} must be an array of strings")
    return values


def _integer(item: Mapping[str, Any], name: str, least: int, most: int) -> int | None:
    value = item.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise invalid(f"{name} must be an integer from {least} to {most}")
    return value


def _choice(item: Mapping[str, Any], name: str, choices: Sequence[str]) -> str:
    """One of choices, the first by default."""
    value = _string(item, name)
    if value is not None and value not in choices:
        raise invalid(f"unknown {name}")
    return value or choices[0]


# --- Messaging API ---------------------------------------------------------------------------


def mobile_draft(item: Any, now: float, where: Sequence[str | int] = ("body",)) -> Draft:
    """Draft of one Messaging API object; every fault is listed in one 422."""
    faults: list[dict[str, object]] = []
    if not isinstance(item, dict):
        raise mobile_invalid([_fault(where, "Input should be an object", "model_type")])
    for name, (is_required, check, message, kind) in _MOBILE_FIELDS.items():
        if item.get(name) is None:
            if is_required:
                faults.append(_fault((*where, name), "Field required", "missing"))
        elif not check(item[name]):
            faults.append(_fault((*where, name), message, kind))
    validity_s = _expiration_s(item.get("expiration"), now)
    if validity_s is None:
        faults.append(_fault((*where, "expiration"), "Input should be a time", "value_error"))
    if faults or validity_s is None:
        raise mobile_invalid(faults)
    return Draft(
        recipients=((str(item["recipient"]), item["message"]),),
        sender=item["sender"],
        priority=item.get("priority") or "normal",
        validity_period_s=validity_s,
        userref=item.get("reference"),
        label=item.get("label"),
        fields=item,
    )


def mobile_drafts(root: Any, now: float) -> list[Draft]:
    """Drafts of `{"messages": […]}`, 1 to 1000 of them."""
    messages = root.get("messages") if isinstance(root, dict) else None
    if not isinstance(messages, list) or not 1 <= len(messages) <= MOBILE_MAX_COUNT:
        why = "List should have 1 to 1000 items"
        raise mobile_invalid([_fault(("body", "messages"), why, "list_length")])
    return [mobile_draft(m, now, ("body", "messages", i)) for i, m in enumerate(messages)]


def mobile_invalid(faults: Sequence[dict[str, object]]) -> MobileError:
    """The 422 of the Messaging API."""
    return MobileError(422, {"detail": list(faults)})


def mobile_bad_json() -> MobileError:
    """The 422 for a body that is no JSON."""
    return mobile_invalid([_fault(("body", 0), "JSON decode error", "json_invalid")])


def _fault(where: Sequence[str | int], message: str, kind: str) -> dict[str, object]:
    return {"loc": list(where), "msg": message, "type": kind}


def _is_text(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and least <= len(value) <= most


def _is_recipient(value: Any) -> bool:
    return type(value) is int and 1000 < value <= 999_999_999_999_999


# name -> (required, check, message, type)
_MOBILE_FIELDS: dict[str, tuple[bool, Callable[[Any], bool], str, str]] = {
    "sender": (True, _is_text(3, 18), "String should have 3 to 18 characters", "string_length"),
    "recipient": (True, _is_recipient, "Input should be a valid MSISDN", "int_type"),
    "message": (
        True,
        _is_text(1, MOBILE_TEXT_MAX),
        f"String should have 1 to {MOBILE_TEXT_MAX} characters",
        "string_length",
    ),
    "reference": (False, _is_text(0, 2**20), "Input should be a valid string", "string_type"),
    "priority": (
        False,
        lambda value: value in ("normal", "urgent"),
        "Input should be 'normal' or 'urgent'",
        "enum",
    ),
    "label": (False, _is_text(0, 128), "String should have at most 128 characters", "string_length"),
}
_DURATION = re.compile(r"P(?:(\d{1,3})D)?(?:T(?=\d)(?:(\d{1,5})H)?(?:(\d{1,6})M)?(?:(\d{1,7})S)?)?")


def _expiration_s(value: Any, now: float) -> int | None:
    """Seconds from now of an ISO duration, date-time, Unix time or offset; None if it is none."""
    if value is None:
        return MAX_VALIDITY_S
    seconds: float | None = None
    if type(value) is int:
        seconds = value if value <= MAX_VALIDITY_S else value - now
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value)) and value != "P":
        days, hours, minutes, rest = (int(group or 0) for group in match.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    elif isinstance(value, str):
        try:
            moment = datetime.datetime.fromisoformat(value)
        except ValueError:
            return None
        utc = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
        seconds = utc.timestamp() - now
    if seconds is None or not 0 < seconds <= MAX_VALIDITY_S:
        return None
    return max(1, round(seconds))
