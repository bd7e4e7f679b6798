# SPDX-License-Identifier: MIT
"""What lets somebody in carries a proof that only the vault key can make: Redis' word alone is worth nothing.

Each proof is a keyed fingerprint (`Vault.tags`) with a purpose of its own, made when a thing is handed to Redis and
looked at again when Redis hands it back. It binds whose it is, what it is, when it ends and in which epoch of the
store it was made (store_clock.py): a thing of an earlier epoch, of another session or of another user proves nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass

from .vault import Vault

_CHALLENGE, _SEND, _RECOVERY = "challenge", "send", "recovery-value"


@dataclass(frozen=True)
class Bound:
    """All that a code is good for: one user, session, number and counter, until two ends (ms), in one epoch."""

    user_key: str
    session_id: str
    challenge_id: str
    counter: int
    phone_tag: str
    expires_at_ms: int
    expires_wall_ms: int
    epoch: int


class Proofs:
    """Makes and checks them. Thread-safe."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def of_challenge(self, bound: Bound) -> str:
        """The proof that is kept beside a challenge."""
        return self._vault.tags(_text(*astuple(bound)), purpose=_CHALLENGE)[0]

    def is_challenge(self, bound: Bound, untrusted_mac: str) -> bool:
        """Whether this very challenge was made here."""
        return self._vault.is_tag(untrusted_mac, _text(*astuple(bound)), purpose=_CHALLENGE)

    def sign_send(self, challenge_id: str, send: str) -> str:
        """How a text ended, `OUTCOME:REASON`, with the proof behind a `#`."""
        return f"{send}#{self._vault.tags(_text(challenge_id, send), purpose=_SEND)[0]}"

    def read_send(self, challenge_id: str, untrusted_send: str) -> tuple[str, bool]:
        """How the text of a challenge ended, and whether it is proved. Unproved it may choose words, and no more."""
        send, _, mac = untrusted_send.partition("#")
        return send, self._vault.is_tag(mac, _text(challenge_id, send), purpose=_SEND)

    def of_recovery(self, user_key: str, tag: str, epoch: int) -> str:
        """The value that is kept beside the keyed hash of a recovery code."""
        return self._vault.tags(_text(user_key, tag, epoch), purpose=_RECOVERY)[0]

    def is_recovery(self, user_key: str, tag: str, epoch: int, untrusted_value: str) -> bool:
        """Whether this recovery code was made for this user, in this epoch."""
        return self._vault.is_tag(untrusted_value, _text(user_key, tag, epoch), purpose=_RECOVERY)

    def recovery_hashes(self, user_key: str, tags: tuple[str, ...], epoch: int) -> tuple[str, ...]:
        """SHA-1 sums of the values that Redis may hold beside these hashes: enough to know one, not to make one up.

        SHA-1 because Redis' scripts have it; nothing here hangs on collisions.
        """
        values = [value for tag in tags for value in self._vault.tags(_text(user_key, tag, epoch), purpose=_RECOVERY)]
        return tuple(hashlib.sha1(value.encode(), usedforsecurity=False).hexdigest() for value in values)


def _text(*parts: str | int) -> str:
    """Parts as one text, in a form in which no two lists of parts look alike."""
    return json.dumps(parts)
