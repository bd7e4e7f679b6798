# SPDX-License-Identifier: MIT
"""Who can become root and has a phone, by whatever source: the one list of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from textgate.accounts import NssAccounts
from textgate.administrators import enrolled_admins, is_admin, phone_holders, phone_of
from textgate.config import parse_config
from textgate.msisdn import Msisdn
from textgate.policy import Account
from textgate.way_in import Logins

ALICE = Account("alice", 1000, 1000, frozenset({"alice", "sudo"}))
ROOT = Account("root", 0, 0, frozenset({"root"}))
WITH_PHONE = Account("alice", 1000, 1000, frozenset({"sudo"}), gecos="Alice,,,+45 20 12 34 56")


@pytest.fixture
def logins(tmp_path: Path) -> Logins:
    """root and alice are people of this machine."""
    passwd = tmp_path / "passwd"
    passwd.write_text("root:x:0:0::/root:/bin/bash\nalice:x:1000:1000::/home/alice:/bin/bash\n")
    return Logins(passwd_file=str(passwd))


def test_administrators_with_a_phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phones = tmp_path / "phones"
    phones.write_text("alice: +4520123456\nbob: +4520123457\ngone: +4520123458\n")
    accounts = {"alice": ALICE, "bob": Account("bob", 1001, 1001, frozenset({"bob"})), "gone": None}
    monkeypatch.setattr(NssAccounts, "lookup", lambda self, user: accounts.get(user))
    nobody_else = Logins(passwd_file="/nonexistent")
    text = f'[limits]\nallowed_countries = ["DK"]\n[phones]\nfile = "{phones}"\n'
    config = parse_config(text, config_path="x")
    phones.chmod(0o640)
    assert [account.name for account in enrolled_admins(config, logins=nobody_else)] == ["alice"]
    phones.write_text("alice: +46701234567\n")  # to where nothing may be texted, and so no code comes
    assert enrolled_admins(config, logins=nobody_else) == []
    phones.unlink()
    assert enrolled_admins(config, logins=nobody_else) == []
    assert is_admin(ROOT)
    assert not is_admin(Account("bob", 1001, 1001, frozenset({"bob", "audio"})))


def test_administrators_whose_number_is_in_gecos(logins: Logins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NssAccounts, "lookup", lambda self, user: WITH_PHONE if user == "alice" else ROOT)
    config = parse_config('[limits]\nallowed_countries = ["DK"]\n[phones]\nsources = ["gecos"]\n', config_path="x")
    assert [account.name for account in enrolled_admins(config, logins=logins)] == ["alice"]


def test_one_list_of_both_sources(logins: Logins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The phones file goes first; whom it names without a usable number has none."""
    phones = tmp_path / "phones"
    phones.write_text("root: +4520123457\n")
    phones.chmod(0o640)
    monkeypatch.setattr(NssAccounts, "lookup", lambda self, user: {"alice": WITH_PHONE, "root": ROOT}.get(user))
    text = f'[limits]\nallowed_countries = ["DK"]\n[phones]\nfile = "{phones}"\nsources = ["file", "gecos"]\n'
    config = parse_config(text, config_path="x")
    assert [account.name for account in enrolled_admins(config, logins=logins)] == ["root", "alice"]
    assert set(phone_holders(config, logins=logins)) == {"root", "alice"}
    assert phone_of(config, "alice") == Msisdn("4520123456")
    phones.write_text("alice: nonsense\n")
    assert enrolled_admins(config, logins=logins) == []
    assert phone_of(config, "alice") is None
