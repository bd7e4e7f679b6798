# SPDX-License-Identifier: MIT
"""Phone numbers: what is taken, what is refused and why, and that a number never shows itself."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers import phonenumberutil

from textgate import msisdn
from textgate.errors import ExitCode, MsisdnError
from textgate.msisdn import Msisdn, parse_msisdn

TAKEN = [
    # written, default region, digits
    ("+45 12 34 56 78", "", "4512345678"),  # the example of the phones file
    ("+4520123456", "", "4520123456"),
    ("20 12 34 56", "DK", "4520123456"),  # without +, by the default region
    ("+46 70 123 45 67", "DK", "46701234567"),  # + outranks the default region
    ("0045 20 12 34 56", "DK", "4520123456"),  # 00 is how Denmark dials abroad
    ("070-123 45 67", "SE", "46701234567"),  # Sweden's trunk 0 is not part of the number
    ("+44 (0)20 7946 0018", "", "442079460018"),  # a trunk 0 in brackets
    ("+39 06 1234 5678", "", "390612345678"),  # Italy keeps its 0
    ("+1 (212) 555-0100", "", "12125550100"),
    ("+1.212.555.0100", "", "12125550100"),
    ("089/1234567", "DE", "49891234567"),
    (" \t+45 20123456\t ", "", "4520123456"),
    ("+290 2158", "", "2902158"),  # 7 digits, the fewest
    ("+49 1 2345 6789 0123", "", "491234567890123"),  # 15 digits, the most
]


@pytest.mark.parametrize(("written", "region", "digits"), TAKEN)
def test_parse_takes_number(written: str, region: str, digits: str) -> None:
    assert parse_msisdn(written, region).reveal() == digits


REFUSED = [
    # written, default region, word of the message
    ("", "DK", "is empty"),
    (" \t ", "DK", "is empty"),
    ("20 12 34 56", "", "has no country code"),
    ("0045 20 12 34 56", "", "has no country code"),  # nobody says from where 00 is dialled
    ("+45 12 34 56", "", "too short"),  # one pair short
    ("+45 12 34 56 78 9", "", "too long"),  # one digit long
    ("112", "DK", "too short"),  # an emergency number, in its country or out of it
    ("+", "DK", "too few digits"),
    ("+-", "DK", "too few digits"),
    ("00", "DK", "too short"),
    ("+4", "DK", "too few digits"),
    ("+999 12 34 56 78", "", "country code that does not exist"),
    ("12345678", "XX", "country code that does not exist"),  # no such default region
    ("+503 43 69 357 18", "", "number of digits that its country does not use"),
    ("+51 881418", "", "no area code"),
    ("+49 1234567890123456", "", "too long"),  # 16 digits of a number alone
    ("+49 12345678901234", "", "more than 15 digits"),  # one above E.164's limit, though Germany allows it
    ("+49 1234", "", "not 7 to 15 digits"),  # Germany knows such, E.164 with 6 digits is nobody's mobile
    ("+43 0061482", "", "more than one way"),  # its E.164 form reads back as another number
    ("+45 90 12 34 56", "", "premium-rate"),
    ("+1 900 555 0100", "", "premium-rate"),
    ("+45 2012345O", "", "letters"),  # capital O for zero
    ("1-800-FLOWERS", "US", "letters"),
    ("+45 20 12 34 56 ext 5", "", "letters"),
    ("tel:+4520123456", "", "letters"),
    ("+45 20 12 34 ٥٦", "", "digits other than 0 to 9"),  # Arabic-Indic
    ("+45 20 12 34 5\N{FULLWIDTH DIGIT SIX}", "", "digits other than 0 to 9"),  # NFKC would fold it
    ("+45 20 12 34 5²", "", "digits other than 0 to 9"),  # superscript two
    ("+45 20 12 34 5\N{CIRCLED DIGIT SIX}", "", "digits other than 0 to 9"),
    ("\N{FULLWIDTH PLUS SIGN}4520123456", "DK", "may hold only"),
    ("+45\t20123456", "", "may hold only"),
    ("+45\N{NO-BREAK SPACE}20123456", "", "may hold only"),
    ("+45\N{RIGHT-TO-LEFT OVERRIDE}20123456", "", "may hold only"),
    ("+45 20 12 34 56 # mobile", "", "letters"),
    ("+45 20 12 34 56 #", "", "may hold only"),
    ("+45 20 12 34 56, +45 20 12 34 57", "", "may hold only"),  # two numbers
    ("+45 20 12 34 56;5", "", "may hold only"),  # an extension
    ("++4520123456", "", "may hold only"),
    ("45+20123456", "DK", "may hold only"),
    ("+4520123456\n", "", "may hold only"),
    ("+45201\x0023456", "", "may hold only"),
    ("+45" + "1" * 62, "", "is too long"),  # 65 characters
]


@pytest.mark.parametrize(("written", "region", "words"), REFUSED)
def test_parse_refuses_number_and_never_repeats_it(written: str, region: str, words: str) -> None:
    with pytest.raises(MsisdnError) as caught:
        parse_msisdn(written, region)
    assert words in caught.value.message
    assert caught.value.hint is not None
    assert "+45 12 34 56 78" in caught.value.hint
    assert caught.value.exit_code is ExitCode.USAGE
    shown = "".join(traceback.format_exception(caught.value, chain=True))
    if len(written.strip()) > 3:
        assert written.strip() not in shown.replace("+45 12 34 56 78", "")


def test_parse_takes_64_characters_and_not_65() -> None:
    assert parse_msisdn("+4520123456".ljust(64, "-"), "").reveal() == "4520123456"
    with pytest.raises(MsisdnError, match="too long"):
        parse_msisdn("+4520123456".ljust(65, "-"), "")


@pytest.mark.parametrize(
    ("written", "is_known", "country"),
    [
        ("+45 20 12 34 56", True, "DK"),
        ("+45 12 34 56 78", False, "DK"),  # possible, but no Danish number begins with 1
        ("+1 212 555 0100", True, "US"),
        ("+1 876 555 0100", True, "JM"),  # the same country code, another bill
        ("+1 200 555 0100", False, "ZZ"),  # +1 and nobody's: not to be taken for the US
        ("+7 701 123 4567", True, "KZ"),
        ("+44 7624 123456", True, "IM"),
        ("+882 13 300 000", True, "001"),  # a network without a country
    ],
)
def test_msisdn_knows_country(written: str, is_known: bool, country: str) -> None:
    number = parse_msisdn(written, "")
    assert (number.is_known, number.country) == (is_known, country)


@pytest.mark.parametrize("digits", ["9991234567", "2100000000"])
def test_msisdn_with_unassigned_country_code_is_unknown(digits: str) -> None:
    assert (Msisdn(digits).is_known, Msisdn(digits).country) == (False, "ZZ")


@pytest.mark.parametrize(
    "digits",
    ["", "+4520123456", "0452012345", "123456", "1" * 16, "4520123456\n", "45 20123456", "٤٥٢٠١٢٣٤٥٦", "45201234x6"],
)
def test_msisdn_refuses_what_is_not_e164(digits: str) -> None:
    with pytest.raises(MsisdnError) as caught:
        Msisdn(digits)
    assert caught.value.message == "the phone number is not 7 to 15 digits"


@pytest.mark.parametrize("digits", ["1234567", "1" * 15])  # shortest and longest
def test_msisdn_takes_e164(digits: str) -> None:
    assert Msisdn(digits).reveal() == digits


def test_msisdn_shows_only_its_mask() -> None:
    number = Msisdn("4520123456")
    assert number.masked == str(number) == f"{number}" == "•• 56"
    assert repr(number) == "<msisdn •• 56>"
    for shown in (f"{number!r}", f"{[number]}", f"{ ({'a': number}) }", "%s %r" % (number, number)):  # noqa: UP031
        assert "201234" not in shown
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(number)
    with pytest.raises(TypeError):
        json.dumps(number)
    with pytest.raises(TypeError):
        copy.copy(number)


def test_msisdn_compares_by_number_and_stays_as_it_is() -> None:
    assert Msisdn("4520123456") == Msisdn("4520123456") != Msisdn("4520123457")
    assert len({Msisdn("4520123456"), Msisdn("4520123456")}) == 1
    with pytest.raises((AttributeError, TypeError)):
        Msisdn("4520123456")._digits = "1"  # type: ignore[misc]


def test_fault_tables_name_every_reason_of_the_library() -> None:
    """The tables go by number; the library's own names say that the numbers mean what we think."""
    error, result = phonenumberutil.NumberParseException, phonenumberutil.ValidationResult
    assert {
        error.INVALID_COUNTRY_CODE: "has a country code that does not exist",
        error.NOT_A_NUMBER: "has too few digits",
        error.TOO_SHORT_AFTER_IDD: "is too short",
        error.TOO_SHORT_NSN: "is too short",
        error.TOO_LONG: "is too long",
    } == msisdn._PARSE_FAULTS
    assert {
        result.IS_POSSIBLE: None,
        result.INVALID_COUNTRY_CODE: "has a country code that does not exist",
        result.TOO_SHORT: "is too short for its country",
        result.TOO_LONG: "is too long for its country",
        result.IS_POSSIBLE_LOCAL_ONLY: "has no area code",
        result.INVALID_LENGTH: "has a number of digits that its country does not use",
    } == msisdn._POSSIBLE_FAULTS


def test_reason_that_a_newer_library_adds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phonenumberutil, "is_possible_number_with_reason", lambda _number: 99)
    with pytest.raises(MsisdnError, match="can't be used"):
        parse_msisdn("+4520123456", "")


def test_module_loads_without_the_library() -> None:
    """Commands that need no number don't wait for it."""
    code = "import sys, textgate.msisdn; sys.exit('phonenumbers' in sys.modules)"
    source = Path(msisdn.__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(source)}, timeout=30)


@given(st.text(max_size=80), st.sampled_from(["", "DK", "US", "XX"]))
def test_parse_survives_junk(junk: str, region: str) -> None:
    _parse_or_refuse(junk, region)


@given(st.from_regex(r"\+?[0-9 ()./-]{0,24}", fullmatch=True), st.sampled_from(["", "DK", "DE", "MX"]))
def test_what_is_taken_reads_back_as_itself(written: str, region: str) -> None:
    _parse_or_refuse(written, region)


def _parse_or_refuse(text: str, region: str) -> None:
    """Either a refusal in fixed words, or a number whose E.164 form is the same number."""
    try:
        number = parse_msisdn(text, region)
    except MsisdnError as error:
        words = {*msisdn._PARSE_FAULTS.values(), *filter(None, msisdn._POSSIBLE_FAULTS.values())}
        others = ("empty", "letters", "digits", "may hold only", "no country", "too long", "one way", "premium")
        assert error.message.removeprefix("the phone number ") in words or any(o in error.message for o in others)
        return
    digits = number.reveal()
    assert digits.isascii()
    assert digits.isdigit()
    assert 7 <= len(digits) <= 15
    assert parse_msisdn(f"+{digits}", "") == number
    assert number.country == "001" or (len(number.country) == 2 and number.country.isupper())
