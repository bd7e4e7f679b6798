# SPDX-License-Identifier: MIT
"""Users through NSS: which names are asked for, what comes back, and what a broken NSS turns into."""

from __future__ import annotations

import grp
import os
import pwd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgate.accounts import AccountsError, NssAccounts, is_askable

ROOT = pwd.getpwuid(0)


def _entry(name: str = "alice", gid: int = 1000) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", 1000, gid, "Alice,,,+4520123456", "/home/alice", "/bin/sh"))


def _group(gid: int) -> grp.struct_group:
    names = {1000: "alice", 27: "sudo", 50: "staff"}
    if gid not in names:
        raise KeyError(gid)
    return grp.struct_group((names[gid], "x", gid, []))


def _nss(
    monkeypatch: pytest.MonkeyPatch, *, entry: pwd.struct_passwd | None = None, gids: tuple[int, ...] = ()
) -> None:
    """Stand in for NSS: one user and his groups."""
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: entry or _entry())
    monkeypatch.setattr(os, "getgrouplist", lambda _name, _gid: list(gids))
    monkeypatch.setattr(grp, "getgrgid", _group)


def test_lookup_finds_a_real_user() -> None:
    account = NssAccounts().lookup("root")
    assert account is not None
    assert (account.name, account.uid, account.gid, account.gecos) == ("root", 0, 0, ROOT.pw_gecos)
    assert grp.getgrgid(0).gr_name in account.groups
    assert account.has_unnamed_groups is False


def test_lookup_of_nobody_is_none() -> None:
    assert NssAccounts().lookup("no-such-user-here") is None


def test_lookup_has_primary_and_further_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    _nss(monkeypatch, gids=(27, 50))  # some systems leave the primary group out of the list
    account = NssAccounts().lookup("alice")
    assert account is not None
    assert account.groups == {"alice", "sudo", "staff"}
    assert account.has_unnamed_groups is False
    assert account.gecos == "Alice,,,+4520123456"


@pytest.mark.parametrize(("gid", "gids"), [(1000, (1000, 4000)), (4000, (4000, 27))])
def test_lookup_reports_groups_without_a_name(
    monkeypatch: pytest.MonkeyPatch, gid: int, gids: tuple[int, ...]
) -> None:
    _nss(monkeypatch, entry=_entry(gid=gid), gids=gids)
    account = NssAccounts().lookup("alice")
    assert account is not None
    assert account.has_unnamed_groups is True


def test_lookup_gives_the_canonical_name(monkeypatch: pytest.MonkeyPatch) -> None:
    _nss(monkeypatch, gids=(1000,))
    account = NssAccounts().lookup("ALICE")
    assert account is not None
    assert account.name == "alice"


@pytest.mark.parametrize("name", ["", "al/ice", "al\nice", "a" * 257])
def test_lookup_does_not_believe_an_odd_canonical_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _nss(monkeypatch, entry=_entry(name))
    assert NssAccounts().lookup("alice") is None


ODD = [
    "",
    "a" * 257,
    "æ" * 129,  # 258 bytes
    "al\0ice",
    "alice\0",
    "alice\n",
    "alice\r",
    "\x1b[2Jalice",
    "al\x7fice",
    "al\x85ice",  # a control character of ISO 6429
    "al/ice",
    "../alice",
    "alice:x",
    "al\N{ZERO WIDTH SPACE}ice",
    "alice\N{RIGHT-TO-LEFT OVERRIDE}",
    "al\N{LINE SEPARATOR}ice",
    "al\udc80ice",  # what undecodable bytes become
]


@pytest.mark.parametrize("name", ODD)
def test_odd_name_is_unknown_without_asking_nss(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def must_not_be_called(_name: str) -> pwd.struct_passwd:
        raise AssertionError("NSS was asked")

    monkeypatch.setattr(pwd, "getpwnam", must_not_be_called)
    assert NssAccounts().lookup(name) is None


@pytest.mark.parametrize(
    "name",
    ["a", "a" * 256, "æ" * 128, "alice.smith", "EXAMPLE\\alice", "alice@example.com", "o'neil", "john doe", "a$"],
)
def test_plausible_name_may_be_asked_for(name: str) -> None:
    assert is_askable(name)


@pytest.mark.parametrize("error", [OSError(5, "I/O error"), MemoryError(), ValueError("embedded null byte")])
@pytest.mark.parametrize(("module", "function"), [(pwd, "getpwnam"), (os, "getgrouplist"), (grp, "getgrgid")])
def test_broken_nss_is_an_error_and_not_an_unknown_user(
    monkeypatch: pytest.MonkeyPatch, module: object, function: str, error: Exception
) -> None:
    def broken(*_arguments: object) -> None:
        raise error

    _nss(monkeypatch, gids=(27,))
    monkeypatch.setattr(module, function, broken)
    with pytest.raises(AccountsError) as caught:
        NssAccounts().lookup("alice")
    assert "alice" not in caught.value.message


@given(st.text(max_size=300))
def test_lookup_survives_junk(junk: str) -> None:
    account = NssAccounts().lookup(junk)
    assert account is None or is_askable(account.name)
