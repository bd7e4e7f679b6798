# SPDX-License-Identifier: MIT
"""How many SMS parts a text takes, and what is left of it when parts are capped.

3GPP TS 23.038 gives the alphabet, 160 or 153 septets a part, 70 or 67 UTF-16 units in UCS-2. No I/O.
"""

from __future__ import annotations

_ONE_SEPTET = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡"
    "ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_TWO_SEPTETS = frozenset("^{}\\[~]|€\f")
_LIMITS = {"UTF8": (160, 153), "UCS2": (70, 67)}
PART_MAX_COUNT = 255


def is_gsm(text: str) -> bool:
    """Whether each character is in the GSM alphabet."""
    return all(c in _ONE_SEPTET or c in _TWO_SEPTETS for c in text)


def part_count(text: str, encoding: str) -> int:
    """SMS parts of text; encoding is `UTF8` (meaning GSM-7) or `UCS2`. "" takes one part."""
    return len(_split(text, encoding))


def capped(text: str, encoding: str, max_parts: int | None) -> str:
    """The text that arrives when at most `max_parts` parts are sent."""
    parts = _split(text, encoding)
    return text if max_parts is None else "".join(parts[:max_parts])


def binary_part_count(payload_bytes: int) -> int:
    """SMS parts of a binary message: 140 bytes in one, 134 in each of several."""
    return 1 if payload_bytes <= 140 else -(-payload_bytes // 134)


def _width(character: str, encoding: str) -> int:
    if encoding == "UCS2":
        return 2 if ord(character) > 0xFFFF else 1
    # Outside the alphabet the service's doing is unknown; a replaced character counts one.
    return 2 if character in _TWO_SEPTETS else 1


def _split(text: str, encoding: str) -> list[str]:
    """Parts in order. A character of two units is never cut, which can cost a part."""
    whole, each = _LIMITS[encoding]
    if sum(_width(c, encoding) for c in text) <= whole:
        return [text]
    parts, used = [""], 0
    for character in text:
        width = _width(character, encoding)
        if used + width > each:
            parts.append("")
            used = 0
        parts[-1] += character
        used += width
    return parts
