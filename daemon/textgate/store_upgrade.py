# SPDX-License-Identifier: MIT
"""Takes over what an earlier version wrote without proofs: recovery codes, and codes under way.

Done once for a store, by the first daemon that meets it and has seen none before (`StoreClock.confirm`): at that
moment Redis is believed, as that version believed it at every login, and never again. So nobody loses a recovery code
by an upgrade.
"""

from __future__ import annotations

import contextlib

from .proofs import Bound, Proofs
from .store import Store


def adopt_unproved(store: Store, proofs: Proofs, epoch: int) -> None:
    """Give each of them its proof, unless that was done. Raises StoreUnavailable."""
    if store.is_adopted():
        return
    for user_key, _, codes in store.hashes("recovery"):
        for tag, made_at in codes.items():
            if made_at.isdigit():  # all that the earlier version kept
                value = proofs.of_recovery(user_key, tag, epoch)
                store.adopt(user_key, "recovery", unchanged=(tag, made_at), written=(tag, value))
    for user_key, session_id, fields in store.hashes("challenge:"):
        if "mac" in fields:
            continue
        with contextlib.suppress(KeyError, ValueError):  # one that is damaged stays dead
            bound = Bound(
                user_key=user_key,
                session_id=session_id,
                challenge_id=fields["id"],
                counter=int(fields["counter"]),
                phone_tag=fields["phone_tag"],
                expires_at_ms=int(fields["expires_at_ms"]),
                expires_wall_ms=0,
                epoch=epoch,
            )
            mac = proofs.of_challenge(bound)
            store.adopt(
                user_key, f"challenge:{session_id}", unchanged=("id", bound.challenge_id), written=("mac", mac)
            )
    store.note_adopted()
