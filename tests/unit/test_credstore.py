# SPDX-License-Identifier: MIT
"""Credentials kept encrypted: nothing is lost, whatever breaks a change off, and the unit gets what is kept."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from fake_systemd_creds import FakeSystemdCreds
from textgate import atomic_file
from textgate.credstore import DROP_IN, FOLDER, NAMES, PLAIN_FOLDER, Credstore, one_at_a_time
from textgate.errors import CredentialError
from textgate.secret import Secret

NAME = "vault-key"
UNIT_LINE = f"LoadCredential={NAME}:{PLAIN_FOLDER}/{NAME}"


class Host:
    """A machine in a folder, with systemd and its systemd-creds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.creds = FakeSystemdCreds()
        self.commands: list[str] = []
        self.reload_status = 0
        self.file_system = "ext2/ext3"
        (root / "run/systemd/system").mkdir(parents=True)
        (root / PLAIN_FOLDER.lstrip("/")).mkdir(parents=True)
        self.store = Credstore(str(root), run=self.run, pipe=self.creds.pipe)

    def run(self, arguments: Sequence[str]) -> tuple[int, str]:
        line = " ".join(arguments)
        self.commands.append(line)
        if line.startswith("stat"):
            assert line.endswith(" /var/lib/systemd")
            return 0, f"{self.file_system}\n"
        if line.startswith("systemctl cat"):
            return 0, f"[Service]\n{UNIT_LINE}\n" + (self.drop_in or "")
        return self.reload_status, "no bus"

    @property
    def drop_in(self) -> str | None:
        path = self.root / DROP_IN.lstrip("/")
        return path.read_text() if path.exists() else None

    def plain(self, name: str = NAME) -> Path:
        return self.root / f"{PLAIN_FOLDER}/{name}".lstrip("/")

    def write_plain(self, text: str, name: str = NAME) -> Path:
        self.plain(name).write_text(text)
        self.plain(name).chmod(0o600)
        return self.plain(name)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_written_credential_opens_and_the_unit_gets_it(host: Host) -> None:
    host.store.write(NAME, Secret("k1:abc"))
    assert host.store.read(NAME).reveal() == "k1:abc"
    assert host.drop_in is not None
    assert host.drop_in.splitlines()[1:] == [
        "[Service]",
        f"LoadCredentialEncrypted={NAME}:{FOLDER}/textgate.{NAME}",
    ]
    assert host.commands == ["systemctl daemon-reload"]
    assert host.store.is_loaded(NAME)
    assert b"k1:abc" not in host.store.path(NAME).read_bytes()
    assert stat.S_IMODE(host.store.path(NAME).stat().st_mode) == 0o600
    assert stat.S_IMODE(host.store.path(NAME).parent.stat().st_mode) == 0o700


def test_secret_is_never_an_argument(host: Host) -> None:
    host.store.write(NAME, Secret("k1:abc"))
    host.store.read(NAME)
    assert not [word for call in host.creds.calls for word in call if "abc" in word]


def test_only_the_units_own_files_can_be_kept_encrypted(host: Host) -> None:
    assert all(host.store.takes(name, str(host.plain(name))) for name in NAMES)
    assert not host.store.takes(NAME, "/srv/keys/vault-key")
    assert not host.store.takes(NAME, str(host.plain("gatewayapi-key")))
    assert not host.store.takes("redis-password", str(host.plain("redis-password")))
    with_plain = host.root / "elsewhere"
    with_plain.write_text("k1:abc")
    assert not host.store.encrypt(NAME, str(with_plain))
    assert host.store.save(NAME, str(with_plain), Secret("new"), encrypt=True) == with_plain
    assert with_plain.read_text() == "new\n"


@pytest.mark.parametrize("lack", ["systemd", "a key", "a key that opens", "a key that lasts"])
def test_host_that_cannot_encrypt_says_why(host: Host, lack: str) -> None:
    assert host.store.obstacle() is None
    if lack == "systemd":
        (host.root / "run/systemd/system").rmdir()
    elif lack == "a key that lasts":
        host.file_system = "tmpfs"
    elif lack == "a key":
        host.creds.is_able = False
    else:
        host.creds.loses_bytes = True
    told = {
        "a key that lasts": "gone with the next start",
        "systemd": "systemd does not run",
        "a key": "No encryption key",
        "a key that opens": "does not open again",
    }
    assert told[lack] in str(host.store.obstacle())


def test_host_without_systemd_creds_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    monkeypatch.setattr("textgate.programs.PATH", str(tmp_path))
    assert "there is no systemd-creds" in str(Credstore(str(tmp_path)).obstacle())


def test_encrypting_leaves_the_plain_file_until_it_is_dropped(host: Host) -> None:
    plain = host.write_plain("k1:abc\n")
    assert host.store.encrypt(NAME, str(plain))
    assert plain.read_text() == "k1:abc\n"
    assert host.store.read(NAME).reveal() == "k1:abc"
    assert host.store.encrypt(NAME, str(plain))  # again, as after a change that was broken off
    host.store.drop_plain(NAME, str(plain))
    assert not plain.exists()
    assert not host.store.encrypt(NAME, str(plain))


def test_plain_file_is_overwritten_before_it_is_removed(host: Host) -> None:
    plain = host.write_plain("k1:abc\n")
    host.store.encrypt(NAME, str(plain))
    link = host.root / "link"
    os.link(plain, link)
    host.store.drop_plain(NAME, str(plain))
    assert link.read_bytes() == b"\0" * 7


def test_plain_file_elsewhere_is_never_dropped(host: Host) -> None:
    """It may be another key of that name: the encrypted one is a left-over that this configuration doesn't use."""
    host.store.write(NAME, Secret("k1:abc"))
    elsewhere = host.root / "vault-key"
    elsewhere.write_text("k1:other\n")
    host.store.drop_plain(NAME, str(elsewhere))
    assert elsewhere.read_text() == "k1:other\n"


def test_plain_file_of_what_is_not_encrypted_is_never_dropped(host: Host) -> None:
    plain = host.write_plain("k1:abc\n")
    host.store.drop_plain(NAME, str(plain))
    assert plain.read_text() == "k1:abc\n"


def test_drop_in_that_was_lost_is_made_again(host: Host) -> None:
    plain = host.write_plain("k1:abc\n")
    host.store.encrypt(NAME, str(plain))
    (host.root / DROP_IN.lstrip("/")).unlink()
    assert not host.store.is_loaded(NAME)
    assert host.store.encrypt(NAME, str(plain))
    assert host.store.is_loaded(NAME)


def test_decrypting_restores_the_plain_file_and_the_unit(host: Host) -> None:
    for name in NAMES[:2]:
        host.store.encrypt(name, str(host.write_plain(f"of {name}\n", name)))
        host.store.drop_plain(name, str(host.plain(name)))
    assert host.store.decrypt(NAMES[0], str(host.plain(NAMES[0])))
    assert host.plain(NAMES[0]).read_text() == f"of {NAMES[0]}\n"
    assert stat.S_IMODE(host.plain(NAMES[0]).stat().st_mode) == 0o600
    assert not host.store.has(NAMES[0])
    assert NAMES[0] not in (host.drop_in or "")
    assert NAMES[1] in (host.drop_in or "")
    assert host.store.decrypt(NAMES[1], str(host.plain(NAMES[1])))
    assert host.drop_in is None
    assert not host.store.decrypt(NAMES[1], str(host.plain(NAMES[1])))


@pytest.mark.parametrize("way", ["encrypt", "decrypt"])
def test_two_that_differ_are_both_left_alone(host: Host, way: str) -> None:
    plain = host.write_plain("k1:abc\n")
    host.store.encrypt(NAME, str(plain))
    host.write_plain("k1:other\n")
    with pytest.raises(CredentialError, match="differs"):
        getattr(host.store, way)(NAME, str(plain))
    assert plain.read_text() == "k1:other\n"
    assert host.store.read(NAME).reveal() == "k1:abc"


def test_saved_credential_stays_encrypted_once_it_is(host: Host) -> None:
    plain = str(host.plain())
    assert host.store.save(NAME, plain, Secret("one"), encrypt=False) == host.plain()
    assert host.store.save(NAME, plain, Secret("two"), encrypt=True) == host.store.path(NAME)
    assert not host.plain().exists()
    assert host.store.save(NAME, plain, Secret("three"), encrypt=False) == host.store.path(NAME)
    assert host.store.read(NAME).reveal() == "three"
    assert not host.plain().exists()


def test_saved_plain_file_is_closed_to_others(host: Host) -> None:
    host.write_plain("old").chmod(0o644)
    host.store.save(NAME, str(host.plain()), Secret("new"), encrypt=False)
    assert stat.S_IMODE(host.plain().stat().st_mode) == 0o600


def test_file_that_was_encrypted_by_hand_is_read_and_never_replaced(host: Host) -> None:
    host.store.write(NAMES[0], Secret("k1:abc"))
    path = host.store.path(NAMES[0])
    by_tpm = base64.encodebytes(bytes(16) + base64.b64decode(path.read_bytes()))
    path.write_bytes(by_tpm)
    with pytest.raises(CredentialError, match="encrypted by hand"):
        host.store.write(NAMES[0], Secret("k1:new"))
    assert path.read_bytes() == by_tpm


def test_file_of_another_machine_is_an_error_and_can_be_replaced(host: Host) -> None:
    name = "gatewayapi-key"
    host.store.write(name, Secret("abc"))
    host.creds.machine = "a clone"
    with pytest.raises(CredentialError, match="does not open on this machine") as caught:
        host.store.read(name)
    assert "\x1b" not in str(caught.value)
    assert "machine-id" in str(caught.value.hint)
    host.store.write(name, Secret("new"))
    assert host.store.read(name).reveal() == "new"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_encrypted_beside_a_vault_key_that_does_not_open(host: Host, name: str) -> None:
    host.store.write("vault-key", Secret("k1:abc"))
    before = host.store.path("vault-key").read_bytes()
    host.creds.machine = "a clone"
    host.creds.calls.clear()
    for change in (lambda: host.store.write(name, Secret("new")), host.store.obstacle):
        with pytest.raises(CredentialError, match="does not open on this machine") as caught:
            change()
        assert "Put your copy of the key into" in str(caught.value.hint)
    assert not [call for call in host.creds.calls if "encrypt" in call]
    assert host.store.path("vault-key").read_bytes() == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda host: setattr(host.creds, "is_able", False),
        lambda host: setattr(host.creds, "loses_bytes", True),
    ],
)
def test_what_cannot_be_opened_again_is_not_written(host: Host, spoil: Callable[[Host], None]) -> None:
    host.store.write(NAME, Secret("k1:abc"))
    before = host.store.path(NAME).read_bytes()
    spoil(host)
    with pytest.raises(CredentialError):
        host.store.write(NAME, Secret("k1:new"))
    assert host.store.path(NAME).read_bytes() == before


@pytest.mark.parametrize("full", ["credentials.undo", f"textgate.{NAME}", "50-encrypted-credentials.conf"])
def test_full_disk_loses_nothing(host: Host, monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    plain = host.write_plain("k1:abc\n")
    real = atomic_file.write_like

    def write(handle: int, content: bytes, path: Path, *, mode: int) -> None:
        if path.name == full:
            raise OSError(28, "No space left on device")
        real(handle, content, path, mode=mode)

    with monkeypatch.context() as patch:
        patch.setattr("textgate.transaction.write_like", write)
        with pytest.raises(CredentialError, match="No space left"):
            host.store.encrypt(NAME, str(plain))
    assert plain.read_text() == "k1:abc\n"
    assert not host.store.has(NAME)
    assert host.drop_in is None  # the unit goes on with the plain file
    assert not host.store.is_broken_off()


def test_systemd_that_does_not_take_the_drop_in_is_told(host: Host) -> None:
    host.reload_status = 1
    with pytest.raises(CredentialError, match="no bus"):
        host.store.write(NAME, Secret("k1:abc"))
    assert not host.store.has(NAME)
    assert host.drop_in is None


@pytest.mark.parametrize(
    ("lines", "is_loaded"),
    [
        ("", False),
        (f"LoadCredentialEncrypted={NAME}:{FOLDER}/textgate.{NAME}\n", True),
        (f"LoadCredentialEncrypted={NAME}:/elsewhere\n", False),
        (f"LoadCredentialEncrypted={NAME}:{FOLDER}/textgate.{NAME}\n{UNIT_LINE}\n", False),  # the last one counts
        (f"LoadCredentialEncrypted=x{NAME}:{FOLDER}/textgate.{NAME}\n", False),
    ],
)
def test_what_the_unit_loads_is_read_from_systemd(tmp_path: Path, lines: str, is_loaded: bool) -> None:
    store = Credstore(str(tmp_path), run=lambda _: (0, f"{UNIT_LINE}\n{lines}"))
    assert store.is_loaded(NAME) is is_loaded


def test_one_change_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "credentials"
    with one_at_a_time(folder), pytest.raises(CredentialError, match="another textgate"), one_at_a_time(folder):
        raise AssertionError("two at once")
    with one_at_a_time(folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_missing_credential_is_an_error(host: Host) -> None:
    assert not host.store.has(NAME)
    with pytest.raises(CredentialError, match="can't be read"):
        host.store.read(NAME)
