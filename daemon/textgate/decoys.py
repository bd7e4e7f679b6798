# SPDX-License-Identifier: MIT
"""Stand-ins in the store for names that nobody has.

There is a fixed number of them: whoever asks for ever new names makes Redis grow no further, and meets limits that
other such names used up. A keyed hash chooses, so nobody who lacks the vault key can tell which names share one.
"""

from __future__ import annotations

import hashlib

from .limits import bucket
from .vault import Vault

DECOYS = 8192
PURPOSE = "decoy"


def decoy_key(untrusted_user: str, vault: Vault) -> str:
    """The part of a key for a name that NSS doesn't know: "~" and four hex digits, and so never a user's."""
    typed = hashlib.sha256(untrusted_user.encode("utf-8", "surrogatepass")).hexdigest()
    return bucket(vault.tags(typed, purpose=PURPOSE)[0], DECOYS)
