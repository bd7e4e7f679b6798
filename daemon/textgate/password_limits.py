# SPDX-License-Identifier: MIT
"""How often wrong passwords may be typed for one user and from one address, for the Python API.

Places are as for codes: an address that a right code of the user came from counts for itself, and all others, the
strangers, together. Strangers have a share of the user's hour, and so never shut the owner out of a known place. What
they type is counted in a fixed number of buckets, which a keyed hash chooses: nobody makes Redis grow by names and
addresses, and nobody who lacks the vault key can tell which names share a bucket. Those that do share its limit; a
known place has no bucket.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files

from .limits import HOUR_MS, Address, source_key
from .session import Session
from .store import Store, encode_user
from .vault import Vault

# In any hour, give or take the slice that is under way.
WRONG_PER_PLACE = 20  # for one user from one address
WRONG_BY_STRANGERS = 80  # for one user from all addresses that are not known together
WRONG_BY_KNOWN = 120  # for one user from all known addresses together
WRONG_PER_SOURCE = 200  # from one address, for all users to whom it is not known
WRONG_WITHOUT_SOURCE = 200  # for one user, where the program tells no address: then owner and strangers share it

SLICES, RING = 6, 8  # of an hour; those that are kept, more than what a window can touch
SLICE_MS = HOUR_MS // SLICES
KNOWN_MS = 90 * 24 * HOUR_MS  # as in lua/prelude.lua
KEPT_MS = 400 * 24 * HOUR_MS  # what has ended is told by the slices; this only cleans up

# One byte each, for each of RING slices. The most that all of them can take in Redis: CEILING_BYTES.
USER_BUCKETS, SOURCE_BUCKETS, PAIR_BUCKETS = 1 << 16, 1 << 16, 1 << 18
CEILING_BYTES = 8_000_000

PURPOSE = "api-password"


@dataclass(frozen=True)
class _Bucket:
    table: str
    number: int
    most: int


@dataclass(frozen=True)
class Count:
    """One password that counts as wrong. wait_ms: 0, or it was refused without being counted: how long to wait."""

    user_key: str | None
    source: str
    buckets: tuple[_Bucket, ...]
    counted_at_ms: int
    wait_ms: int = 0


class PasswordLimits:
    """Counts in Redis. Thread-safe. Raises StoreUnavailable."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self._known_script = store.script(_lua("password_room") + _lua("known_password"))
        self._strange_script = store.script(_lua("password_room") + _lua("strange_password"))
        self._vault = vault

    def take(self, session: Session, *, is_name: bool, now_ms: int) -> Count:
        """Count a password before it is looked at. is_name: whether what was typed can be somebody's name."""
        source = source_key(session.source)
        if is_name and source:
            known = Count(encode_user(session.user), source, (), now_ms)
            free_at_ms = self._at_known_place(known, 1)
            if free_at_ms >= 0:
                return _with_wait(known, free_at_ms)
        strange = Count(None, source, self._buckets(session.user, session.source), now_ms)
        return _with_wait(strange, self._in_buckets(strange, 1))

    def give_back(self, count: Count) -> None:
        """The password was right, or nobody knows."""
        if count.user_key is not None:
            self._at_known_place(count, -1)
        else:
            self._in_buckets(count, -1)

    def _at_known_place(self, count: Count, amount: int) -> int:
        kept = f"textgate:{{{count.user_key}}}"
        at_ms = count.counted_at_ms
        return int(
            self._known_script(
                [f"{kept}:known", f"{kept}:passwords"],
                [at_ms, count.source, at_ms // SLICE_MS, SLICES, SLICE_MS, WRONG_PER_PLACE, WRONG_BY_KNOWN, amount,
                 KNOWN_MS, KEPT_MS],
            )
        )  # fmt: skip

    def _in_buckets(self, count: Count, amount: int) -> int:
        chosen = [word for bucket in count.buckets for word in (bucket.number, bucket.most)]
        return int(
            self._strange_script(
                [f"textgate:passwords:{{api}}:{bucket.table}" for bucket in count.buckets],
                [count.counted_at_ms // SLICE_MS, SLICES, RING, SLICE_MS, amount, KEPT_MS, *chosen],
            )
        )

    def _buckets(self, untrusted_user: str, address: Address | None) -> tuple[_Bucket, ...]:
        """The name as typed, which may be a password in the wrong field, goes nowhere but into a keyed hash."""
        user = hashlib.sha256(untrusted_user.encode("utf-8", "surrogatepass")).hexdigest()
        source = source_key(address)
        if not source:
            return (self._bucket("user", f"{user}@", USER_BUCKETS, WRONG_WITHOUT_SOURCE),)
        return (
            self._bucket("user", user, USER_BUCKETS, WRONG_BY_STRANGERS),
            self._bucket("source", source, SOURCE_BUCKETS, WRONG_PER_SOURCE),
            self._bucket("pair", f"{user}@{source}", PAIR_BUCKETS, WRONG_PER_PLACE),
        )

    def _bucket(self, table: str, subject: str, count: int, most: int) -> _Bucket:
        tag = self._vault.tags(f"{table}:{subject}", purpose=PURPOSE)[0]
        return _Bucket(table, int(tag.rpartition(".")[2], 16) % count, most)


def _with_wait(count: Count, free_at_ms: int) -> Count:
    wait_ms = max(1, free_at_ms - count.counted_at_ms) if free_at_ms > 0 else 0
    return Count(count.user_key, count.source, count.buckets, count.counted_at_ms, wait_ms)


def _lua(name: str) -> str:
    return (files(__package__) / "lua" / f"{name}.lua").read_text()
