# SPDX-License-Identifier: MIT
"""`textgate credentials`: encrypted and back; plain files go when a daemon runs without them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fake_systemd_creds import FakeSystemdCreds
from textgate import admin_client, cli_credentials, service
from textgate.cli import main
from textgate.credstore import PLAIN_FOLDER, Credstore
from textgate.errors import DaemonUnavailable, TextgateError

SECRETS = {"gatewayapi-key": "the-key", "gatewayapi-secret": "the-secret", "vault-key": "k1:" + "5a" * 32}


class Desk:
    """A machine in a folder with plain credentials, and a daemon that systemd runs."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = Path(f"{root}{PLAIN_FOLDER}")
        self.folder.mkdir(parents=True)
        for name, secret in SECRETS.items():
            self.write(name, secret)
        (root / "run/systemd/system").mkdir(parents=True)
        self.config = root / "textgate.toml"
        self.config.write_text(
            '[limits]\nallowed_countries = ["DK"]\n[gateway]\n'
            f'key_file = "{self.folder}/gatewayapi-key"\nsecret_file = "{self.folder}/gatewayapi-secret"\n'
            f'[vault]\nkey_file = "{self.folder}/vault-key"\n'
        )
        self.creds = FakeSystemdCreds()
        self.store = Credstore(str(root), run=lambda _: (0, ""), pipe=self.creds.pipe)
        self.seen: list[tuple[list[str], list[str]]] = []  # at each restart: plain files, encrypted ones
        self.answers: list[dict[str, Any]] = []
        monkeypatch.setattr(cli_credentials, "Credstore", lambda: self.store)
        monkeypatch.setattr(service, "is_running", lambda: True)
        monkeypatch.setattr(service, "restart", self.restart)
        monkeypatch.setattr(admin_client, "call", lambda *_, **__: self.answers.pop(0))

    def write(self, name: str, secret: str) -> None:
        (self.folder / name).write_text(f"{secret}\n")
        (self.folder / name).chmod(0o600)

    def restart(self, _status: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        self.seen.append((self.plain, self.encrypted))
        return {}

    @property
    def plain(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    @property
    def encrypted(self) -> list[str]:
        return [name for name in SECRETS if self.store.has(name)]

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(main, ["--config", str(self.config), *words])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, monkeypatch)


def test_encrypt_removes_plain_files_only_after_the_daemon_runs_with_encrypted_ones(desk: Desk) -> None:
    done = desk.run("credentials", "encrypt")
    assert done.exit_code == 0, done.output
    assert desk.seen == [(list(SECRETS), list(SECRETS))]
    assert (desk.plain, desk.encrypted) == ([], list(SECRETS))
    assert not [secret for secret in SECRETS.values() if secret in done.output]
    assert "machine-id" in done.output
    again = desk.run("credentials", "encrypt")
    assert again.output == "There is nothing to encrypt.\n"


def test_encrypt_goes_back_if_the_daemon_does_not_take_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def restart(_status: object) -> dict[str, Any]:
        desk.seen.append((desk.plain, desk.encrypted))
        if desk.encrypted:
            raise DaemonUnavailable("textgated does not answer")
        return {}

    monkeypatch.setattr(service, "restart", restart)
    done = desk.run("credentials", "encrypt")
    assert done.exit_code == 5
    assert "textgated does not answer; the plain files are used as before" in done.output
    assert (desk.plain, desk.encrypted) == (list(SECRETS), [])
    assert desk.seen[-1] == (list(SECRETS), [])  # and it was started with them


def test_encrypt_that_fails_half_way_leaves_no_half(desk: Desk) -> None:
    (desk.folder / "vault-key").chmod(0o644)
    done = desk.run("credentials", "encrypt")
    assert done.exit_code == 5
    assert "vault-key: is open to other users" in done.output
    assert (desk.plain, desk.encrypted) == (list(SECRETS), [])


def test_what_was_encrypted_before_stays_so_when_the_rest_fails(desk: Desk) -> None:
    assert desk.run("credentials", "encrypt").exit_code == 0
    desk.write("gatewayapi-key", "another")
    done = desk.run("credentials", "encrypt")
    assert done.exit_code == 5
    assert "differs" in done.output
    assert desk.encrypted == list(SECRETS)


def test_host_that_cannot_encrypt_is_left_as_it_is(desk: Desk) -> None:
    desk.creds.is_able = False
    done = desk.run("credentials", "encrypt")
    assert done.exit_code == 5
    assert "this host can't encrypt" in done.output
    assert (desk.plain, desk.encrypted, desk.seen) == (list(SECRETS), [], [])


def test_decrypt_restores_the_files_and_restarts(desk: Desk) -> None:
    desk.run("credentials", "encrypt")
    done = desk.run("credentials", "decrypt")
    assert done.exit_code == 0, done.output
    assert {name: (desk.folder / name).read_text() for name in SECRETS} == {n: f"{s}\n" for n, s in SECRETS.items()}
    assert desk.encrypted == []
    assert desk.seen[-1] == (list(SECRETS), [])
    assert desk.run("credentials", "decrypt").output == "There is nothing to decrypt.\n"


def test_status_tells_how_each_is_kept(desk: Desk) -> None:
    desk.store.encrypt("gatewayapi-key", str(desk.folder / "gatewayapi-key"))
    (desk.folder / "gatewayapi-secret").unlink()
    told = json.loads(desk.run("credentials", "status", "--json").stdout)["credentials"]
    assert {row["name"]: row["kept"] for row in told} == {
        "gatewayapi-key": "encrypted", "gatewayapi-secret": "missing", "vault-key": "plain",
    }  # fmt: skip


def test_vault_key_is_not_made_anew_beside_an_encrypted_one(desk: Desk) -> None:
    desk.run("credentials", "encrypt")
    done = desk.run("keys", "init")
    assert done.exit_code == 1
    assert "there is a key already" in done.output
    assert desk.plain == []


def test_rotate_of_an_encrypted_key_restarts_the_daemon_and_seals_anew(desk: Desk) -> None:
    desk.run("credentials", "encrypt")
    sealed = {"current_key": "k2", "resealed": 3, "current": 0, "changed": 0, "unreadable": 0}
    desk.answers = [{"current_key": "k1"}, {"current_key": "k2"}, sealed]
    done = desk.run("keys", "rotate")
    assert done.exit_code == 0, done.output
    assert "sealed with k2: 3 anew" in done.output
    lines = desk.store.read("vault-key").reveal().splitlines()
    assert lines[0].startswith("k2:")
    assert lines[1:] == [SECRETS["vault-key"]]
    assert len(desk.seen) == 2
    assert desk.plain == []


def test_rotate_that_cannot_be_encrypted_changes_nothing(desk: Desk) -> None:
    desk.run("credentials", "encrypt")
    before = desk.store.path("vault-key").read_bytes()
    desk.creds.is_able = False
    assert desk.run("keys", "rotate").exit_code == 3
    assert desk.store.path("vault-key").read_bytes() == before
    assert len(desk.seen) == 1


def test_daemon_that_does_not_come_back_after_a_rotation_is_told(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def restart(_status: object) -> dict[str, Any]:
        raise TextgateError("textgated can't be started", hint="journalctl -u textgated")

    monkeypatch.setattr(service, "restart", restart)
    desk.answers = [{"current_key": "k1"}]
    done = desk.run("keys", "rotate")
    assert done.exit_code == 1
    assert "can't be started" in done.output
    assert (desk.folder / "vault-key").read_text().splitlines()[1] == SECRETS["vault-key"]
