# SPDX-License-Identifier: MIT
"""Phone numbers: what a person typed -> `Msisdn`, or a report of what is wrong with it.

The number itself never appears in a message, a `repr` or a log; `reveal()` is the one way to it. Debian's
metadata is years old, so a number that is merely unknown to it is taken (the texted code proves the number);
an impossible one is refused. The phonenumbers library is loaded at the first use (10 ms and 1.3 MiB; the
metadata of a country is loaded when a number of it comes by), so commands without numbers don't pay for it.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

from .errors import MsisdnError

MAX_DIGITS = 15  # ITU-T E.164 §6.2.1, country code included
MAX_INPUT_LENGTH = 64  # far above any way of writing 15 digits
UNKNOWN_COUNTRY = "ZZ"  # ISO 3166 leaves it free; the library's own word for "no region"

_HINT = 'write it with + and the country code, such as "+45 12 34 56 78"'
_DIGITS = re.compile(r"[1-9][0-9]{6,14}")  # the shortest possible numbers have 7 digits, such as +290 2xxx
_WRITTEN = re.compile(r"\+?[0-9 ()./-]*")


@dataclass(frozen=True, slots=True, repr=False)
class Msisdn:
    """A full number: country code and number, digits only, 7 to 15 of them (E.164), shown only masked.

    Raises MsisdnError if it is given anything else. Made of checked digits, as the store keeps them; what
    a person typed goes through `parse_msisdn`.
    """

    _digits: str

    def __post_init__(self) -> None:
        if not _DIGITS.fullmatch(self._digits):
            raise MsisdnError("the phone number is not 7 to 15 digits", hint=_HINT)

    def reveal(self) -> str:
        """The digits, without +; for the gateway, the phones file and keyed hashes only."""
        return self._digits

    @property
    def masked(self) -> str:
        """The last two digits behind dots, for people: "•• 34"."""
        return f"•• {self._digits[-2:]}"

    @property
    def country(self) -> str:
        """Where the number belongs: "DK"; "001" for a network without a country; "ZZ" where nobody can tell.

        Several countries share a code (+1, +7, +44, …). A number that no one of them is known to use is "ZZ"
        and not the largest of them: the list of allowed countries is there to keep dear ones out.
        """
        return _country_of(self._digits)

    @property
    def is_known(self) -> bool:
        """Whether the number lies in a range that was in use when the metadata were made."""
        number = _read(self._digits)
        return number is not None and bool(_library().is_valid_number(number))

    def __repr__(self) -> str:
        return f"<msisdn {self.masked}>"

    def __str__(self) -> str:
        return self.masked

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a phone number is not pickled")


def is_region(code: str) -> bool:
    """Whether numbers can belong to a country of this code ("DK", "GB"; ISO 3166-1, two capitals)."""
    return code in _library().SUPPORTED_REGIONS


def parse_msisdn(untrusted: str, default_region: str) -> Msisdn:
    """Read a phone number as people write it: digits with blanks, dashes, dots, slashes, brackets, a leading +.

    default_region: country of numbers without +, such as "DK"; "" if there is none.
    Raises MsisdnError that says what is wrong and how to write it. A number that is possible but unknown is
    taken, with `is_known` False.
    """
    written = _checked(untrusted.strip(" \t"))
    del untrusted
    if not (written.startswith("+") or default_region):
        raise _refusal("has no country code")
    library = _library()
    try:
        number = library.parse(written, default_region or None)
    except library.NumberParseException as error:
        raise _refusal(_PARSE_FAULTS.get(error.error_type, "can't be used")) from None
    fault = _fault(number)
    if fault:
        raise _refusal(fault)
    # The library takes what it calls E.164 apart again by other rules than the written form, in rare cases
    # to another number. One number must not have two readings, so such a one is refused.
    digits = _e164(number)
    if _e164(_read(digits)) != digits:
        raise _refusal("can be read in more than one way")
    return Msisdn(digits)


def _checked(written: str) -> str:
    """The same text, once every character of it belongs into a phone number."""
    if not written:
        raise _refusal("is empty")
    if len(written) > MAX_INPUT_LENGTH:
        raise _refusal("is too long")
    if any(c.isnumeric() and not c.isascii() for c in written):
        raise _refusal("has digits other than 0 to 9")  # the library would take them; a person may misread them
    if any(c.isalpha() for c in written):
        raise _refusal("has letters in it")
    if not _WRITTEN.fullmatch(written):
        raise _refusal("may hold only digits, blanks, dashes, dots, slashes, brackets and a leading +")
    return written


def _fault(number: Any) -> str | None:
    """Why a number that could be read can't be used, or None."""
    library = _library()
    fault = _POSSIBLE_FAULTS.get(library.is_possible_number_with_reason(number), "can't be used")
    if fault:
        return fault
    if len(_e164(number)) > MAX_DIGITS:
        return f"has more than {MAX_DIGITS} digits"
    if library.number_type(number) == library.PhoneNumberType.PREMIUM_RATE:
        return "is a premium-rate number"  # each text to it would cost whatever its owner likes
    return None


# The two tables are the library's own lists of reasons (NumberParseException, ValidationResult), by number.
_PARSE_FAULTS = {
    0: "has a country code that does not exist",
    1: "has too few digits",
    2: "is too short",
    3: "is too short",
    4: "is too long",
}
_POSSIBLE_FAULTS = {
    0: None,
    1: "has a country code that does not exist",
    2: "is too short for its country",
    3: "is too long for its country",
    4: "has no area code",
    5: "has a number of digits that its country does not use",
}


def _refusal(fault: str) -> MsisdnError:
    return MsisdnError(f"the phone number {fault}", hint=_HINT)


@functools.lru_cache(maxsize=4096)  # asked twice at each login, and dear
def _country_of(digits: str) -> str:
    number = _read(digits)
    return (number and _library().region_code_for_number(number)) or UNKNOWN_COUNTRY


def _read(digits: str) -> Any:
    """The library's reading of an E.164 number, or None where it has none."""
    library = _library()
    try:
        return library.parse(f"+{digits}", None)
    except library.NumberParseException:
        return None


def _e164(number: Any) -> str:
    """The digits of a number as the library read it; "" for None."""
    library = _library()
    return str(library.format_number(number, library.PhoneNumberFormat.E164))[1:] if number else ""


def _library() -> Any:
    """The phonenumbers library, loaded at the first use."""
    from phonenumbers import phonenumberutil

    return phonenumberutil
