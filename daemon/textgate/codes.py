# SPDX-License-Identifier: MIT
"""One-time codes: make, read what was typed, compare (RFC 4226). The counter and the secret come from outside."""

from __future__ import annotations

import hmac
import secrets

import pyotp

from .secret import Secret

SECRET_BITS = 160  # RFC 4226 §4 R6 asks for 128 bits and recommends 160
TYPED_MAX_LENGTH = 64  # longer than any code or recovery code with its dashes

RECOVERY_LENGTH = 12  # of 32 characters each: 60 bits, far beyond what the limits let anybody guess
RECOVERY_COUNT = 10
_RECOVERY_ALPHABET = "abcdefghjkmnpqrstvwxyz0123456789"  # no i, l, o, u

# What people put between digits when they copy a code from a phone.
_SEPARATORS = str.maketrans("", "", " -\t\r\n\u00a0\u2009\u202f\u2010\u2011\u2013")


def new_secret() -> Secret:
    """A fresh shared secret: 160 random bits as 32 characters of base32 (RFC 4226 §4 R6, §7.5)."""
    return Secret(pyotp.random_base32(SECRET_BITS // 5))


def new_id() -> str:
    """A random id that nobody can guess: 128 bits in hex."""
    return secrets.token_hex(16)


def hotp(secret: Secret, counter: int, *, digits: int) -> Secret:
    """The code of one counter value: `digits` decimal digits with leading zeros (RFC 4226 §5.3).

    counter: 0 or more, and never twice for one secret. digits: 6 to 8.
    Raises ValueError for a negative counter.
    """
    return Secret(pyotp.HOTP(secret.reveal(), digits=digits).at(counter))


def new_recovery_code() -> Secret:
    """A single-use code for a person without a phone: three groups of four, 60 random bits, no look-alikes."""
    text = ""
    while not is_recovery_form(Secret(text)):  # one of digits alone would pass for a texted code
        text = "".join(secrets.choice(_RECOVERY_ALPHABET) for _ in range(RECOVERY_LENGTH))
    return Secret("-".join(text[at : at + 4] for at in range(0, RECOVERY_LENGTH, 4)))


def is_recovery_form(typed: Secret) -> bool:
    """Whether something normalised has the form of a recovery code and not of a texted one."""
    text = typed.reveal()
    return len(text) == RECOVERY_LENGTH and set(text) <= set(_RECOVERY_ALPHABET) and not text.isdigit()


def normalise(untrusted_typed: str) -> Secret:
    """What was typed in lower case, without the spaces and dashes people put in; empty if there was nothing else.

    Something too long to be a code becomes a text that equals no code, so that it is counted as a wrong one.
    """
    typed = untrusted_typed.translate(_SEPARATORS).lower()
    return Secret(typed if len(typed) <= TYPED_MAX_LENGTH else "too long")


def is_equal(typed: Secret, expected: Secret) -> bool:
    """Whether two codes are the same, in a time that tells nothing of where they differ (RFC 4226 §7.2)."""
    return hmac.compare_digest(typed.reveal().encode(), expected.reveal().encode())
