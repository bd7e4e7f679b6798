# SPDX-License-Identifier: MIT
"""Would an administrator still get in: by whose key, whose password, whose phone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from textgate.config import parse_config
from textgate.pam_stack import FirstFactor
from textgate.plain_files import read_plain
from textgate.policy import Account
from textgate.way_in import Logins, is_refused, ssh_obstacles

ALICE = Account("alice", 1000, 1000, frozenset({"alice", "sudo"}))
ANY = parse_config('[limits]\nallowed_countries = ["DK"]\n', config_path="x")
ROOT = Account("root", 0, 0, frozenset({"root"}))
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG alice@home\n"
USUAL = {"permitrootlogin": "prohibit-password", "authorizedkeyscommand": "none", "trustedusercakeys": "none"}


def said(**changes: str) -> Callable[[str], dict[str, str]]:
    """What `sshd -T` says of everybody."""
    return lambda _user: USUAL | changes


@pytest.fixture
def logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Logins:
    """alice has a home without keys, and a password."""
    (tmp_path / "home/.ssh").mkdir(parents=True)
    monkeypatch.setattr(Path, "expanduser", lambda self: tmp_path / "home" if str(self) == "~alice" else self)
    (tmp_path / "shadow").write_text("root:*:1::::::\nalice:$y$x:1::::::\nempty::1::::::\nlocked:!$y$x:1::::::\n")
    (tmp_path / "passwd").write_text(
        "root:x:0:0::/root:/bin/bash\nalice:x:1000:1000::/home/alice:/bin/bash\nbob:x:1001:1001::/:/usr/sbin/nologin\n"
        "sys:x:100:100::/:/bin/bash\nnobody:x:65534:65534::/:/bin/bash\nbroken\n"
    )
    return Logins(str(tmp_path / "shadow"), str(tmp_path / "passwd"), read_as=_read)  # nobody here is called alice


def _read(_user: str, path: Path, most_bytes: int) -> bytes:
    return read_plain(path, most_bytes)


def add_key(tmp_path: Path, text: str = KEY) -> None:
    (tmp_path / "home/.ssh/authorized_keys").write_text(text)


def test_passwords_of_shadow(logins: Logins) -> None:
    assert logins.has_password("alice")
    assert not logins.has_password("root")
    assert not logins.has_password("locked")
    assert logins.has_password("of-ldap")
    assert logins.without_password() == ["empty"]
    passwd = Path(logins.passwd_file)
    passwd.write_text(passwd.read_text() + "old::1002:1002::/home/old:/bin/bash\n")  # pam_unix takes it from here
    assert logins.without_password() == ["empty", "old"]
    assert Logins("/nonexistent").passwords() == {}


def test_people_are_those_with_a_shell_and_a_number_for_people(logins: Logins) -> None:
    assert logins.people() == ["alice", "root"]
    assert Logins(passwd_file="/nonexistent").people() == []


@pytest.mark.parametrize(
    ("text", "has_key"),
    [(KEY, True), (f'from="10.0.0.0/8",no-pty {KEY}', True), (f"# {KEY}", False), ("", False), ("nonsense\n", False),
     ("sk-ssh-ed25519@openssh.com AAAAGnNr alice\n", True), ("ecdsa-sha2-nistp256 AAAAE2Vj x\n", True)],
)  # fmt: skip
def test_keys_in_the_usual_place(logins: Logins, tmp_path: Path, text: str, has_key: bool) -> None:
    add_key(tmp_path, text)
    assert logins.has_key("alice") is has_key
    assert not logins.has_key("nobody-of-that-name")


UNREADABLE: dict[str, Callable[[Path], None]] = {
    "fifo": os.mkfifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
}


@pytest.mark.parametrize("name", list(UNREADABLE))
def test_keys_that_cannot_be_read_are_none_and_told(logins: Logins, tmp_path: Path, name: str) -> None:
    keys = tmp_path / "home/.ssh/authorized_keys"
    UNREADABLE[name](keys)
    assert ssh_obstacles([ALICE], FirstFactor.KEY, said(), ANY, logins) == [
        f"alice: has no ssh key ({keys}: is no plain file)"
    ]
    (tmp_path / "home/.ssh/authorized_keys2").write_text(KEY)
    assert ssh_obstacles([ALICE], FirstFactor.KEY, said(), ANY, logins) == []


def test_key_behind_much_else_counts_and_one_too_far_down_does_not(logins: Logins, tmp_path: Path) -> None:
    add_key(tmp_path, "#\n" * 500_000 + KEY)
    assert logins.has_key("alice")
    add_key(tmp_path, "#\n" * 600_000 + KEY)
    assert not logins.has_key("alice")


@pytest.mark.parametrize(
    ("first_factor", "has_key", "has_password", "is_open"),
    [
        (FirstFactor.KEY, True, False, True),
        (FirstFactor.KEY, False, True, False),
        (FirstFactor.PASSWORD, True, False, False),
        (FirstFactor.PASSWORD, False, True, True),
        (FirstFactor.ANY, True, False, True),
        (FirstFactor.ANY, False, True, True),
        (FirstFactor.ANY, False, False, False),
    ],
)
def test_administrator_needs_the_first_factor(
    logins: Logins, tmp_path: Path, first_factor: FirstFactor, has_key: bool, has_password: bool, is_open: bool
) -> None:
    if has_key:
        add_key(tmp_path)
    if not has_password:
        Path(logins.shadow_file).write_text("alice:!:1::::::\n")
    found = ssh_obstacles([ALICE], first_factor, said(), ANY, logins)
    assert (found == []) is is_open
    assert all(one.startswith("alice: has n") for one in found)


def test_keys_from_elsewhere_count(logins: Logins) -> None:
    for name in ("authorizedkeyscommand", "trustedusercakeys"):
        assert ssh_obstacles([ALICE], FirstFactor.KEY, said(**{name: "/usr/bin/x"}), ANY, logins) == []


def test_keys_count_where_sshd_reads_them(logins: Logins, tmp_path: Path) -> None:
    place = said(authorizedkeysfile=f"{tmp_path}/keys/%u.%%k %h/.ssh/other")
    add_key(tmp_path)  # in the usual place, which is not read
    assert ssh_obstacles([ALICE], FirstFactor.KEY, place, ANY, logins) == ["alice: has no ssh key"]
    (tmp_path / "home/.ssh/other").write_text(KEY)
    assert ssh_obstacles([ALICE], FirstFactor.KEY, place, ANY, logins) == []
    (tmp_path / "home/.ssh/other").unlink()
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/alice.%k").write_text(KEY)
    assert ssh_obstacles([ALICE], FirstFactor.KEY, place, ANY, logins) == []
    (found,) = ssh_obstacles([ALICE], FirstFactor.KEY, said(authorizedkeysfile="none"), ANY, logins)
    assert "has no ssh key" in found


def test_keys_that_sshd_does_not_take_from_somebody_do_not_count(logins: Logins, tmp_path: Path) -> None:
    """As by a Match block, which `sshd -T` tells for one user at a time."""
    add_key(tmp_path)

    def without_alice(user: str) -> dict[str, str]:
        return USUAL | {"pubkeyauthentication": "no" if user == "alice" else "yes"}

    (found,) = ssh_obstacles([ALICE], FirstFactor.KEY, without_alice, ANY, logins)
    assert "PubkeyAuthentication" in found
    assert ssh_obstacles([ALICE], FirstFactor.ANY, without_alice, ANY, logins) == []  # by password


def test_root_is_kept_out_where_a_code_is_asked_for(logins: Logins, tmp_path: Path) -> None:
    (found,) = ssh_obstacles([ROOT], FirstFactor.KEY, said(), ANY, logins)
    assert "PermitRootLogin prohibit-password" in found
    assert "has no ssh key" in ssh_obstacles([ROOT], FirstFactor.KEY, said(permitrootlogin="yes"), ANY, logins)[0]
    add_key(tmp_path)
    assert ssh_obstacles([ROOT, ALICE], FirstFactor.KEY, said(), ANY, logins) == []  # one who can is enough


@pytest.mark.parametrize(
    ("told", "keyword"),
    [
        ({"denyusers": "bob\nalice"}, "DenyUsers"),
        ({"allowusers": "bob\nroot"}, "AllowUsers"),
        ({"denygroups": "sudo"}, "DenyGroups"),
        ({"allowgroups": "ssh-users"}, "AllowGroups"),
        ({"allowgroups": "ssh-users\nsudo", "allowusers": "alice@192.0.2.1"}, None),
    ],
)
def test_administrator_whom_sshd_keeps_out_is_no_way_in(
    logins: Logins, tmp_path: Path, told: dict[str, str], keyword: str | None
) -> None:
    add_key(tmp_path)
    found = ssh_obstacles([ALICE], FirstFactor.ANY, said(**told), ANY, logins)
    assert found == ([f"alice: sshd keeps him out ({keyword})"] if keyword else [])


@pytest.mark.parametrize(
    ("lines", "whom"),
    [
        ('users = ["alice"]', {"alice"}),
        ('groups = ["sudo"]', {"alice"}),
        ('users = ["bob"]\ngroups = ["root"]', {"root"}),
    ],
)
def test_administrator_whom_textgate_refuses_is_no_way_in(
    logins: Logins, tmp_path: Path, lines: str, whom: set[str]
) -> None:
    """Exempt or not: [refused] goes first."""
    add_key(tmp_path)
    text = f'[limits]\nallowed_countries = ["DK"]\n[exempt]\nusers = ["alice", "root"]\n[refused]\n{lines}\n'
    config = parse_config(text, config_path="x")
    assert {one.name for one in (ALICE, ROOT) if is_refused(one, config)} == whom
    found = ssh_obstacles([ALICE], FirstFactor.KEY, said(), config, logins)
    assert found == (["alice: is refused by textgate itself ([refused])"] if "alice" in whom else [])


def test_groups_without_a_name_count_as_refused_ones() -> None:
    text = '[limits]\nallowed_countries = ["DK"]\n[refused]\ngroups = ["x"]\n'
    unnamed = Account("alice", 1000, 1000, frozenset({"sudo"}), has_unnamed_groups=True)
    assert is_refused(unnamed, parse_config(text, config_path="x"))
    assert not is_refused(unnamed, ANY)
