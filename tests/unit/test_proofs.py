# SPDX-License-Identifier: MIT
"""A proof is good for exactly what it was made for."""

from __future__ import annotations

from dataclasses import fields, replace
from hashlib import sha1
from typing import Any

import pytest

from textgate.proofs import Bound, Proofs
from textgate.secret import Secret
from textgate.vault import Vault, parse_keys

OLD, NEW = "k1:" + "5a" * 32, "k2:" + "a5" * 32
BOUND = Bound("alice", "s1", "c1", 7, "k1.aa", 1000, 2000, 1)


def _proofs(*lines: str) -> Proofs:
    return Proofs(Vault(parse_keys(Secret("\n".join(lines)))))


@pytest.mark.parametrize("name", [field.name for field in fields(Bound)])
def test_challenge_that_differs_in_anything_is_not_proved(name: str) -> None:
    proofs = _proofs(OLD)
    mac = proofs.of_challenge(BOUND)
    value = getattr(BOUND, name)
    changed: dict[str, Any] = {name: value + 1 if isinstance(value, int) else value + "1"}
    other = replace(BOUND, **changed)
    assert proofs.is_challenge(BOUND, mac)
    assert not proofs.is_challenge(other, mac)


def test_parts_do_not_run_into_each_other() -> None:
    proofs = _proofs(OLD)
    mac = proofs.of_challenge(replace(BOUND, user_key="ab", session_id="c"))
    assert not proofs.is_challenge(replace(BOUND, user_key="a", session_id="bc"), mac)


@pytest.mark.parametrize("junk", ["", "k1", "k1.", "k1." + "0" * 32, "\udcff", "ü"])
def test_junk_proves_nothing(junk: str) -> None:
    proofs = _proofs(OLD)
    assert not proofs.is_challenge(BOUND, junk)
    assert not proofs.is_recovery("alice", "k1.x", 1, junk)
    assert proofs.read_send("c1", f"refused:unreachable#{junk}") == ("refused:unreachable", False)


def test_proof_outlives_a_change_of_keys_and_ends_with_its_key() -> None:
    mac = _proofs(OLD).of_challenge(BOUND)
    assert _proofs(NEW, OLD).is_challenge(BOUND, mac)
    assert not _proofs(NEW).is_challenge(BOUND, mac)


def test_end_of_a_text_is_proved_for_its_challenge_alone() -> None:
    proofs = _proofs(OLD)
    signed = proofs.sign_send("c1", "refused:unreachable")
    assert signed.startswith("refused:unreachable#")
    assert proofs.read_send("c1", signed) == ("refused:unreachable", True)
    assert proofs.read_send("c2", signed) == ("refused:unreachable", False)
    assert proofs.read_send("c1", signed.replace("unreachable", "timeout")) == ("refused:timeout", False)
    assert proofs.read_send("c1", "pending") == ("pending", False)


def test_recovery_value_is_for_user_code_and_epoch_and_known_by_its_sum() -> None:
    proofs = _proofs(NEW, OLD)
    value = _proofs(OLD).of_recovery("alice", "k1.x", 3)
    assert proofs.is_recovery("alice", "k1.x", 3, value)
    for user, tag, epoch in (("bob", "k1.x", 3), ("alice", "k1.y", 3), ("alice", "k1.x", 4)):
        assert not proofs.is_recovery(user, tag, epoch, value)
    assert sha1(value.encode()).hexdigest() in proofs.recovery_hashes("alice", ("k2.z", "k1.x"), 3)
    assert sha1(value.encode()).hexdigest() not in proofs.recovery_hashes("alice", ("k2.z", "k1.x"), 4)


def test_purposes_are_kept_apart() -> None:
    proofs = _proofs(OLD)
    value = proofs.of_recovery("alice", "c1", 1)
    assert proofs.read_send("alice", f"c1#{value}") == ("c1", False)
