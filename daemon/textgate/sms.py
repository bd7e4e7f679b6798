# SPDX-License-Identifier: MIT
"""The text of a message: its template, and what fits into one SMS (3GPP TS 23.038, GSM 7-bit).

A code always goes out in a single part: a second part costs a second time and may arrive late or never.
"""

from __future__ import annotations

import string
from collections.abc import Iterator

ONE_PART_SEPTETS = 160  # 140 octets of 8 bits are 160 septets of 7 (3GPP TS 23.038 §6.1.2.1.1)
HOST_MAX_LENGTH = 40  # a longer host name is cut, so that the text can't outgrow its part
SERVICE_MAX_LENGTH = 16

_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡"
    "ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENDED = frozenset("^{}\\[~]|€\f")  # an escape septet and the character's own
_FIELDS = ("code", "host", "service")


def septets(text: str) -> int | None:
    """Septets that the text takes in GSM 7-bit, or None when it can't be written in it."""
    total = 0
    for character in text:
        if character in _BASIC:
            total += 1
        elif character in _EXTENDED:
            total += 2
        else:
            return None
    return total


def template_faults(template: str, *, digits: int) -> Iterator[str]:
    """What is wrong with a template, each a phrase that follows its key; nothing if it can be used."""
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        longest = render(template, code="0" * digits, host="h" * HOST_MAX_LENGTH, service="s" * SERVICE_MAX_LENGTH)
    except (ValueError, KeyError, IndexError, AttributeError):
        yield "may hold {code}, {host} and {service} and no other braces"
        return
    if fields.count("code") != 1:
        yield "must hold {code} exactly once"
    size = septets(longest)
    if size is None:
        yield "has a character that a plain SMS can't carry (GSM 7-bit)"
    elif size > ONE_PART_SEPTETS:
        yield f"can grow to {size} of {ONE_PART_SEPTETS} characters with a long host name; shorten it"


def render(template: str, *, code: str, host: str, service: str) -> str:
    """Fill in a template. Host and service are cut to their longest and stripped to plain characters.

    Raises KeyError, IndexError or ValueError for a template with other fields than code, host, service.
    """
    for _, name, format_spec, conversion in string.Formatter().parse(template):
        if name is not None and (name not in _FIELDS or format_spec or conversion):
            raise KeyError(name)
    return template.format(code=code, host=_plain(host, HOST_MAX_LENGTH), service=_plain(service, SERVICE_MAX_LENGTH))


def _plain(name: str, longest: int) -> str:
    """Letters, digits, dot, dash and underscore of a name: what a host or PAM service is made of."""
    kept = "".join(c for c in name if c.isascii() and (c.isalnum() or c in ".-_"))
    return kept[:longest]
