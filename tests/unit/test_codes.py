# SPDX-License-Identifier: MIT
"""One-time codes: RFC 4226's own vectors, what people type, and the comparison."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgate.codes import TYPED_MAX_LENGTH, hotp, is_equal, new_id, new_recovery_code, new_secret, normalise
from textgate.secret import Secret

RFC_KEY = b"12345678901234567890"
RFC_SECRET = Secret(base64.b32encode(RFC_KEY).decode())

# RFC 4226 Appendix D: counter, truncated value in decimal, HOTP.
RFC_VECTORS = [
    (0, 1284755224, "755224"),
    (1, 1094287082, "287082"),
    (2, 137359152, "359152"),
    (3, 1726969429, "969429"),
    (4, 1640338314, "338314"),
    (5, 868254676, "254676"),
    (6, 1918287922, "287922"),
    (7, 82162583, "162583"),
    (8, 673399871, "399871"),
    (9, 645520489, "520489"),
]


@pytest.mark.parametrize(("counter", "_truncated", "code"), RFC_VECTORS)
def test_hotp_gives_the_codes_of_rfc_4226(counter: int, _truncated: int, code: str) -> None:
    assert hotp(RFC_SECRET, counter, digits=6).reveal() == code


@pytest.mark.parametrize(("counter", "truncated", "_code"), RFC_VECTORS)
@pytest.mark.parametrize("digits", [6, 7, 8])
def test_hotp_gives_the_last_digits_of_rfc_4226s_truncated_values(
    counter: int, truncated: int, _code: str, digits: int
) -> None:
    assert hotp(RFC_SECRET, counter, digits=digits).reveal() == f"{truncated % 10**digits:0{digits}d}"


def _rfc_hotp(key: bytes, counter: int, digits: int) -> str:
    """RFC 4226 §5.3 written down a second time, without a library."""
    digest = hmac.digest(key, counter.to_bytes(8, "big"), hashlib.sha1)
    offset = digest[-1] & 0xF
    truncated = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF
    return str(truncated % 10**digits).zfill(digits)


@given(st.binary(min_size=20, max_size=20), st.integers(0, 2**53), st.integers(6, 8))
def test_hotp_agrees_with_the_rfc_for_any_key_and_counter(key: bytes, counter: int, digits: int) -> None:
    code = hotp(Secret(base64.b32encode(key).decode()), counter, digits=digits).reveal()
    assert code == _rfc_hotp(key, counter, digits)
    assert len(code) == digits


def test_hotp_keeps_leading_zeros() -> None:
    counter = next(number for number in range(1000) if _rfc_hotp(RFC_KEY, number, 6).startswith("0"))
    code = hotp(RFC_SECRET, counter, digits=6).reveal()
    assert code.startswith("0")
    assert len(code) == 6


def test_hotp_refuses_a_negative_counter() -> None:
    with pytest.raises(ValueError, match=r"counter|integer|positive"):
        hotp(RFC_SECRET, -1, digits=6)


def test_code_does_not_show_itself() -> None:
    assert "755224" not in repr(hotp(RFC_SECRET, 0, digits=6))


def test_new_secret_has_160_bits_and_is_never_the_same() -> None:
    secrets = {new_secret().reveal() for _ in range(200)}
    assert len(secrets) == 200
    assert {len(base64.b32decode(secret)) for secret in secrets} == {20}


def test_new_id_has_128_bits_and_is_never_the_same() -> None:
    ids = {new_id() for _ in range(200)}
    assert len(ids) == 200
    assert {len(bytes.fromhex(one)) for one in ids} == {16}


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("123456", "123456"),
        ("123 456", "123456"),
        ("123-456", "123456"),
        (" 123456\r\n", "123456"),
        ("\t12 34-56", "123456"),
        ("123\u00a0456", "123456"),  # the no-break spaces of a phone's keyboard
        ("123\u202f456", "123456"),
        ("123\u2009456", "123456"),
        ("123\u2010456", "123456"),  # hyphens
        ("123\u2011456", "123456"),
        ("123\u2013456", "123456"),
        ("", ""),
        (" - \n", ""),  # Enter alone, with dirt
        ("0123456", "0123456"),  # zeros stay
        ("abc123", "abc123"),  # not a code, and so a wrong one
        ("\x00", "\x00"),
        ("1" * TYPED_MAX_LENGTH, "1" * TYPED_MAX_LENGTH),
        ("1 " * TYPED_MAX_LENGTH, "1" * TYPED_MAX_LENGTH),  # what counts is what is left
        ("1" * (TYPED_MAX_LENGTH + 1), "too long"),
        ("9" * 1_000_000, "too long"),
    ],
)
def test_normalise_takes_out_what_people_put_between_digits(typed: str, read: str) -> None:
    assert normalise(typed).reveal() == read


@given(st.text())
def test_normalise_takes_any_text_and_never_makes_it_longer(typed: str) -> None:
    read = normalise(typed).reveal()
    assert read == "too long" or len(read) <= min(len(typed), TYPED_MAX_LENGTH)


@pytest.mark.parametrize(
    ("typed", "is_right"),
    [
        ("755224", True),
        ("755225", False),  # one digit, at each end
        ("655224", False),
        ("75522", False),  # too short, too long
        ("7552240", False),
        ("", False),
        ("７５５２２４", False),  # full-width digits are other characters
        ("٧٥٥٢٢٤", False),
        ("755224\x00", False),
        ("too long", False),
    ],
)
def test_is_equal_takes_only_the_very_same_code(typed: str, is_right: bool) -> None:
    assert is_equal(Secret(typed), hotp(RFC_SECRET, 0, digits=6)) is is_right


def test_recovery_code_of_digits_alone_is_never_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would pass for a texted code, and never be accepted."""
    characters = iter("123456789123" + "a23456789123")
    monkeypatch.setattr("textgate.codes.secrets.choice", lambda _: next(characters))
    assert new_recovery_code().reveal() == "a234-5678-9123"
