# SPDX-License-Identifier: MIT
"""Seals what Redis keeps: AES-256-GCM under a key that Redis never sees (NIST SP 800-38D).

A sealed record is bound to its user and its purpose, so that one copied to another user, or into another
field, does not open. A key file has one key per line, `NAME:64 HEX DIGITS`; the first one seals, all of
them open, which is how keys are changed without losing a login.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import itertools
import re
import secrets
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .errors import CredentialError, VaultError
from .memory import clear_registers
from .secret import Secret

KEY_BYTES = 32  # AES-256
NONCE_BYTES = 12  # 96 bits, the length GCM is made for (SP 800-38D §8.2)

_KEY_LINE = re.compile(r"([a-z0-9]{1,16}):([0-9a-f]{64})")


@dataclass(frozen=True)
class VaultKey:
    """One key and its name. The name stands in each record that the key sealed."""

    name: str
    aead: AESGCM = field(repr=False)
    mac_key: bytes = field(repr=False)


def new_key_line(name: str) -> Secret:
    """A line for a key file with a fresh random key. name: 1 to 16 lower-case letters and digits."""
    return Secret(f"{name}:{secrets.token_hex(KEY_BYTES)}")


def with_new_key(former: Secret) -> tuple[str, Secret]:
    """A key file's text with a fresh key before the others, and the name of that key.

    Raises CredentialError when the text is at fault.
    """
    names = {key.name for key in parse_keys(former)}
    name = next(f"k{number}" for number in itertools.count(1) if f"k{number}" not in names)
    return name, Secret(f"{new_key_line(name).reveal()}\n{former.reveal()}")


def parse_keys(text: Secret) -> tuple[VaultKey, ...]:
    """Read a key file. Raises CredentialError that names the line at fault and never quotes it."""
    keys: list[VaultKey] = []
    for number, line in enumerate(text.reveal().splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _KEY_LINE.fullmatch(line.strip())
        if match is None:
            raise CredentialError(
                f"vault-key: line {number} is not NAME:64 hex digits", hint="make a key with: textgate keys init"
            )
        if match[1] in {key.name for key in keys}:
            raise CredentialError(f"vault-key: line {number} names a key that an earlier line has")
        raw = bytes.fromhex(match[2])
        # A key of its own for tags: one key must not serve two algorithms (SP 800-57 part 1 §5.2).
        keys.append(VaultKey(match[1], AESGCM(raw), hmac.digest(raw, b"textgate tag key v1", hashlib.sha256)))
    if not keys:
        raise CredentialError("vault-key: holds no key", hint="make a key with: textgate keys init")
    return tuple(keys)


class Vault:
    """Seals, opens and tags under a set of keys. Thread-safe: nothing changes after it is made."""

    def __init__(self, keys: tuple[VaultKey, ...]) -> None:
        if not keys:
            raise ValueError("a vault needs a key")
        self._current = keys[0]
        self._keys = {key.name: key for key in keys}

    def seal(self, secret: Secret, *, user: str, purpose: str) -> str:
        """One secret as printable text `v1.KEY.NONCE.CIPHERTEXT`, bound to user and purpose."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = self._current.aead.encrypt(nonce, secret.reveal().encode(), _bound_to(user, purpose))
        clear_registers()
        return ".".join(("v1", self._current.name, _text(nonce), _text(sealed)))

    def open(self, record: str, *, user: str, purpose: str) -> Secret:
        """The secret in a record. Raises VaultError when the key is not here or the record isn't what was sealed."""
        parts = record.split(".")
        if len(parts) != 4 or parts[0] != "v1":
            raise VaultError("a sealed record is malformed")
        key = self._keys.get(parts[1])
        if key is None:
            raise VaultError(
                "a sealed record needs a key that is not in vault-key", hint="put the old key back into it"
            )
        try:
            opened = key.aead.decrypt(_bytes(parts[2]), _bytes(parts[3]), _bound_to(user, purpose))
            return Secret(opened.decode())
        except (InvalidTag, ValueError):
            raise VaultError(
                "a sealed record does not open: it was changed, moved, or sealed with another key of that name"
            ) from None
        finally:
            clear_registers()  # OpenSSL copied the key

    @property
    def current_key(self) -> str:
        """The name of the key that seals today."""
        return self._current.name

    def is_current(self, record: str) -> bool:
        """Whether the record was sealed under the key that seals today."""
        return record.split(".")[1:2] == [self._current.name]

    def derive_keys(self, purpose: str) -> tuple[bytes, ...]:
        """A key of 32 bytes for another use from each key, today's first; none of them tells of another."""
        return tuple(
            hmac.digest(key.mac_key, b"derive\0" + purpose.encode(), hashlib.sha256) for key in self._keys.values()
        )

    def tags(self, data: str, *, purpose: str) -> tuple[str, ...]:
        """Keyed fingerprints `KEY.HEX` of data, to recognise it without keeping it (HMAC-SHA-256, 128 bits).

        One for each key, today's first: that one is stored, and any of them is recognised.
        """
        message = purpose.encode() + b"\0" + data.encode()
        return tuple(
            f"{key.name}.{hmac.digest(key.mac_key, message, hashlib.sha256).hex()[:32]}"
            for key in self._keys.values()
        )

    def is_tag(self, untrusted_tag: str, data: str, *, purpose: str) -> bool:
        """Whether it is one of the `tags` of these data, in a time that tells nothing of where it differs."""
        given = untrusted_tag.encode("utf-8", "surrogatepass")
        return any(hmac.compare_digest(given, tag.encode()) for tag in self.tags(data, purpose=purpose))


def _bound_to(user: str, purpose: str) -> bytes:
    """Associated data; the zero byte can't be in a user's name, so no two pairs give the same bytes."""
    return b"textgate\0" + purpose.encode() + b"\0" + user.encode()


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None
    if _text(raw) != text:  # one record has one form: no padding, no stray bits
        raise ValueError("not our base64")
    return raw
