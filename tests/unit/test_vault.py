# SPDX-License-Identifier: MIT
"""The vault opens what it sealed, for the user and purpose it was sealed for, and nothing else."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgate.errors import CredentialError, VaultError
from textgate.secret import Secret
from textgate.vault import Vault, new_key_line, parse_keys

WORD = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
KEY_1 = "k1:" + "11" * 32
KEY_2 = "k2:" + "22" * 32


def _vault(*lines: str) -> Vault:
    return Vault(parse_keys(Secret("\n".join(lines or (KEY_1,)))))


def _sealed(vault: Vault | None = None) -> str:
    return (vault or _vault()).seal(Secret(WORD), user="alice", purpose="hotp-secret")


def _open(record: str, vault: Vault | None = None, user: str = "alice", purpose: str = "hotp-secret") -> str:
    return (vault or _vault()).open(record, user=user, purpose=purpose).reveal()


def _flipped(text: str, index: int) -> str:
    """The text with one character replaced by another of base64's alphabet."""
    return text[:index] + ("A" if text[index] != "A" else "B") + text[index + 1 :]


def test_vault_opens_what_it_sealed() -> None:
    assert _open(_sealed()) == WORD


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.text(alphabet="ab%:~\n æ", max_size=20))
def test_vault_opens_any_text_for_any_user(word: str, user: str) -> None:
    vault = _vault()
    record = vault.seal(Secret(word), user=user, purpose="p")
    assert vault.open(record, user=user, purpose="p").reveal() == word
    assert record.isascii()
    assert record.isprintable()


def test_record_shows_nothing_of_what_it_seals() -> None:
    assert WORD not in _sealed()
    assert WORD[:8] not in _sealed()


def test_seal_takes_a_fresh_nonce_each_time() -> None:
    vault = _vault()
    nonces = {_sealed(vault).split(".")[2] for _ in range(500)}
    assert len(nonces) == 500


@pytest.mark.parametrize("user", ["bob", "", "alic", "alicee", "Alice", "alice\0"])
def test_open_refuses_the_record_of_another_user(user: str) -> None:
    with pytest.raises(VaultError):
        _open(_sealed(), user=user)


@pytest.mark.parametrize("purpose", ["phone", "", "hotp-secre", "hotp-secret\0alice"])
def test_open_refuses_the_record_of_another_purpose(purpose: str) -> None:
    with pytest.raises(VaultError):
        _open(_sealed(), purpose=purpose)


def test_open_refuses_a_pair_whose_parts_moved() -> None:
    vault = _vault()
    record = vault.seal(Secret(WORD), user="c", purpose="ab")
    with pytest.raises(VaultError):
        vault.open(record, user="bc", purpose="a")


def test_open_refuses_a_record_with_any_one_character_changed() -> None:
    record = _sealed()
    for index in range(len(record)):
        with pytest.raises(VaultError):
            _open(_flipped(record, index))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda parts: [*parts[:3], parts[3][:-4]],  # cut at the end
        lambda parts: [*parts[:3], parts[3][4:]],  # cut at the front
        lambda parts: [*parts[:3], parts[3] + "AAAA"],  # longer
        lambda parts: [*parts[:3], ""],
        lambda parts: [*parts[:2], "", parts[3]],  # no nonce
        lambda parts: [*parts[:2], "AAAA", parts[3]],  # a nonce that is too short
        lambda parts: [*parts[:2], "A" * 400, parts[3]],  # and one that is too long
        lambda parts: [parts[0], parts[1], parts[3], parts[2]],
        lambda parts: ["v2", *parts[1:]],
        lambda parts: [*parts, ""],
        lambda parts: parts[:3],
        lambda _parts: [""],
        lambda _parts: ["."] * 3,
        lambda parts: [*parts[:3], "æøå"],  # not ASCII
        lambda parts: [*parts[:3], parts[3] + "="],
        lambda parts: [*parts[:3], " " + parts[3]],
    ],
)
def test_open_refuses_a_malformed_record(spoil: Callable[[list[str]], list[str]]) -> None:
    with pytest.raises(VaultError):
        _open(".".join(spoil(_sealed().split("."))))


@given(st.text())
def test_open_answers_junk_with_a_vault_error_only(junk: str) -> None:
    with pytest.raises(VaultError):
        _open(junk)
    with pytest.raises(VaultError):
        _open("v1.k1." + junk)


def test_open_needs_the_key_that_sealed_and_says_so() -> None:
    with pytest.raises(VaultError, match="not in vault-key") as caught:
        _open(_sealed(), _vault(KEY_2))
    assert caught.value.hint == "put the old key back into it"


def test_open_refuses_another_key_of_the_same_name() -> None:
    with pytest.raises(VaultError, match="another key of that name"):
        _open(_sealed(), _vault("k1:" + "33" * 32))


def test_first_key_seals_and_all_of_them_open() -> None:
    rotated = _vault(KEY_2, KEY_1)
    old, new = _sealed(), _sealed(rotated)
    assert _open(old, rotated) == WORD
    assert _open(new, rotated) == WORD
    assert new.startswith("v1.k2.")
    assert (rotated.is_current(new), rotated.is_current(old)) == (True, False)
    with pytest.raises(VaultError):
        _open(new)  # without the new key


def test_record_relabelled_with_another_key_does_not_open() -> None:
    rotated = _vault(KEY_2, KEY_1)
    with pytest.raises(VaultError):
        _open(_sealed().replace("v1.k1.", "v1.k2."), rotated)


# --- Fingerprints ---


def test_tags_recognise_the_same_data_and_purpose_only() -> None:
    vault = _vault()
    assert vault.tags("alice:4512345678", purpose="phone") == vault.tags("alice:4512345678", purpose="phone")
    others = {
        vault.tags("alice:4512345679", purpose="phone"),
        vault.tags("bob:4512345678", purpose="phone"),
        vault.tags("alice:4512345678", purpose="other"),
        _vault("k1:" + "33" * 32).tags("alice:4512345678", purpose="phone"),
    }
    assert len(others) == 4
    assert vault.tags("alice:4512345678", purpose="phone") not in others


def test_tags_have_one_for_each_key_with_todays_first() -> None:
    before, after = _vault().tags("x", purpose="p"), _vault(KEY_2, KEY_1).tags("x", purpose="p")
    assert [tag.partition(".")[0] for tag in after] == ["k2", "k1"]
    assert before[0] == after[1]


def test_tags_do_not_show_the_number() -> None:
    assert "4512345678" not in "".join(_vault().tags("alice:4512345678", purpose="phone"))


# --- The key file ---


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "holds no key"),
        ("\n  \n# only a comment\n", "holds no key"),
        ("k1", "line 1 is not"),
        ("k1:" + "1" * 63, "line 1 is not"),  # one digit short, one too many
        ("k1:" + "1" * 65, "line 1 is not"),
        ("k1:" + "g" * 64, "line 1 is not"),
        ("K1:" + "1" * 64, "line 1 is not"),
        (":" + "1" * 64, "line 1 is not"),
        ("k" * 17 + ":" + "1" * 64, "line 1 is not"),
        ("1" * 64, "line 1 is not"),
        (f"{KEY_1}\n\n{KEY_2} x", "line 3 is not"),
        (f"{KEY_1}\n" + "k1:" + "3" * 64, "line 2 names a key that an earlier line has"),
    ],
)
def test_key_file_with_a_fault_names_the_line_and_quotes_nothing(text: str, fault: str) -> None:
    with pytest.raises(CredentialError) as caught:
        parse_keys(Secret(text))
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + str(caught.value.hint)
    assert fault in shown
    assert "111111" not in shown
    assert "gggggg" not in shown


def test_key_file_may_have_comments_blank_lines_and_blanks() -> None:
    assert [key.name for key in parse_keys(Secret(f"# keys\n\n  {KEY_1}  \r\n{KEY_2}\n"))] == ["k1", "k2"]


def test_new_key_line_is_a_key_file_and_never_the_same() -> None:
    lines = {new_key_line("k1").reveal() for _ in range(50)}
    assert len(lines) == 50
    assert all(len(parse_keys(Secret(line))) == 1 for line in lines)


def test_vault_without_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a key"):
        Vault(())


# --- Nothing shows ---


def test_nothing_of_key_or_secret_shows_in_a_repr_or_an_exception() -> None:
    keys = parse_keys(Secret(KEY_1))
    vault = Vault(keys)
    with pytest.raises(VaultError) as caught:
        vault.open(_sealed(), user="bob", purpose="hotp-secret")
    opened = vault.open(_sealed(), user="alice", purpose="hotp-secret")
    shown = [repr(keys), repr(vault), repr(opened), str(opened), repr(new_key_line("k1"))]
    shown += [repr(caught.value), str(caught.value), str(caught.value.hint), repr(caught.value.__dict__)]
    for secret in (WORD, "11" * 8, "\\x11\\x11", KEY_1, "bob"):
        assert not any(secret in text for text in shown)
    assert caught.value.__cause__ is None
