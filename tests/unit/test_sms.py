# SPDX-License-Identifier: MIT
"""A text fits one SMS, or its template is refused when the configuration is read."""

from __future__ import annotations

import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from textgate.sms import (
    HOST_MAX_LENGTH,
    ONE_PART_SEPTETS,
    SERVICE_MAX_LENGTH,
    render,
    septets,
    template_faults,
)

DEFAULT = "{code} is your login code for {host}. Do not share it."
EXTENDED = "^{}\\[~]|€\f"  # 3GPP TS 23.038 table 6.2.1.1: an escape and the character

# A busy machine is no fault of the code.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SIZES = [
    ("", 0),
    ("123456", 6),
    ("@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ", 31),  # the table's first two columns but for the escape
    ("¤¡ÄÖÑÜ§¿äöñüà", 13),
    (EXTENDED, 20),
    ("a" * 160, 160),
    ("a" * 158 + "€", 160),
    ("ç", None),  # only the capital is in the table
    ("`", None),
    ("\t", None),
    ("code 123456 \N{KEY}", None),
    ("\x1b", None),  # the escape itself is no character
    ("\u00a0", None),
]


@pytest.mark.parametrize(("text", "size"), SIZES)
def test_septets_counts_as_the_standard_does(text: str, size: int | None) -> None:
    assert septets(text) == size


def test_septets_knows_128_places_but_the_escape() -> None:
    one = [chr(point) for point in range(0x3000) if septets(chr(point)) == 1]
    two = [chr(point) for point in range(0x3000) if septets(chr(point)) == 2]
    assert len(one) == 127
    assert sorted(two) == sorted(EXTENDED)


@pytest.mark.parametrize("character", string.ascii_letters + string.digits + " .,:;!?'\"()/-+")
def test_septets_of_plain_characters_is_one(character: str) -> None:
    assert septets(character) == 1


@UNHURRIED
@given(st.text(), st.text())
def test_septets_of_two_texts_add_up(left: str, right: str) -> None:
    sizes = septets(left), septets(right)
    whole = septets(left + right)
    if None in sizes:
        assert whole is None
    else:
        assert whole == sum(size for size in sizes if size is not None)


def test_render_fills_in_all_three() -> None:
    text = render("{code} {host} {service}", code="012345", host="db-1.example.com", service="sshd")
    assert text == "012345 db-1.example.com sshd"


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("a" * 41, "a" * HOST_MAX_LENGTH),  # cut, so that the text can't outgrow its part
        ("web_1.example.com", "web_1.example.com"),
        ("evil\n999999 is your code", "evil999999isyourcode"),  # no line of its own
        ("http://x.test/", "httpx.test"),  # no link
        ("bücher.example", "bcher.example"),
        ("{code}", "code"),  # not filled in a second time
        ("٣", ""),  # a digit, but not one of ours
        ("", ""),
    ],
)
def test_render_strips_host(host: str, shown: str) -> None:
    assert render("{host}", code="1", host=host, service="") == shown


def test_render_cuts_service() -> None:
    assert render("{service}", code="1", host="", service="s" * 100) == "s" * SERVICE_MAX_LENGTH


@pytest.mark.parametrize(
    "template",
    [
        "{code} {user}",  # no such field
        "{code.__class__}",  # no way into objects
        "{code[0]}",
        "{0}",
        "{}",
        "{code!r}",
        "{code:>1000000000}",  # no gigabytes
        "{code:{host}}",
        "{code",
        "code}",
    ],
)
def test_template_with_other_braces_is_refused(template: str) -> None:
    with pytest.raises((KeyError, IndexError, ValueError)):
        render(template, code="123456", host="h", service="s")
    assert list(template_faults(template, digits=6)) == ["may hold {code}, {host} and {service} and no other braces"]


FAULTS = [
    (DEFAULT, 6, []),
    (DEFAULT, 8, []),
    ("{code}", 8, []),
    ("{{{code}}}", 6, []),  # written braces are two septets each
    ("your login code", 6, ["must hold {code} exactly once"]),
    ("{code} {code}", 6, ["must hold {code} exactly once"]),
    ("{code} \N{KEY}", 6, ["has a character that a plain SMS can't carry (GSM 7-bit)"]),
    ("{code}" + "x" * 154, 6, []),  # 160 exactly
    ("{code}" + "x" * 155, 6, ["can grow to 161 of 160 characters with a long host name; shorten it"]),
    ("{code}" + "x" * 154, 7, ["can grow to 161 of 160 characters with a long host name; shorten it"]),
    ("{code}" + "€" * 77, 6, []),
    ("{code}" + "€" * 78, 6, ["can grow to 162 of 160 characters with a long host name; shorten it"]),
    ("{code}{host}" + "x" * 114, 6, []),
    ("{code}{host}" + "x" * 115, 6, ["can grow to 161 of 160 characters with a long host name; shorten it"]),
    ("{code}{service}" + "x" * 138, 6, []),
    ("{code}{service}" + "x" * 139, 6, ["can grow to 161 of 160 characters with a long host name; shorten it"]),
    (
        "x" * 161,
        6,
        ["must hold {code} exactly once", "can grow to 161 of 160 characters with a long host name; shorten it"],
    ),
]


@pytest.mark.parametrize(("template", "digits", "faults"), FAULTS)
def test_template_faults(template: str, digits: int, faults: list[str]) -> None:
    assert list(template_faults(template, digits=digits)) == faults


@UNHURRIED
@given(
    template=st.text(alphabet=st.sampled_from("ab €é[ "), max_size=200),
    code=st.text(alphabet=string.digits, min_size=6, max_size=6),
    host=st.text(),
    service=st.text(),
)
def test_faultless_template_fits_one_sms_whatever_is_filled_in(
    template: str, code: str, host: str, service: str
) -> None:
    whole = template + "{code} {host} {service}"
    if not list(template_faults(whole, digits=6)):
        size = septets(render(whole, code=code, host=host, service=service))
        assert size is not None
        assert size <= ONE_PART_SEPTETS


@UNHURRIED
@given(st.text())
def test_template_faults_takes_any_text(template: str) -> None:
    assert all(isinstance(fault, str) for fault in template_faults(template, digits=6))
