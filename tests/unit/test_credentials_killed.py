# SPDX-License-Identifier: MIT
"""Commands that change credentials and phones are killed at every moment: no secret is lost, nothing is half done."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fake_systemd_creds import FakeSystemdCreds
from kill_points import kill_points, moment
from pam_world import place, tree
from textgate import admin_client, cli_credentials, service
from textgate.cli import main
from textgate.credstore import DROP_IN, FOLDER, PLAIN_FOLDER, Credstore
from textgate.directory import read_phones, set_phone
from textgate.errors import TextgateError
from textgate.msisdn import Msisdn
from textgate.secret import Secret

__all__ = ["place"]

SECRETS = {"gatewayapi-key": "the-key", "gatewayapi-secret": "the-secret", "vault-key": "k1:" + "5a" * 32}


def run(_arguments: Sequence[str]) -> tuple[int, str]:
    moment()
    return 0, ""


def store(root: Path) -> Credstore:
    creds = FakeSystemdCreds()

    def pipe(arguments: Sequence[str], data: bytes) -> tuple[int, bytes, str]:
        moment()
        return creds.pipe(arguments, data)

    return Credstore(str(root), run=run, pipe=pipe)


def plain_files(root: Path) -> dict[str, str]:
    return {name: f"{root}{PLAIN_FOLDER}/{name}" for name in SECRETS}


def make_root(place: Path, *, is_encrypted: bool) -> Path:
    root = place / "first"
    for folder in (
        PLAIN_FOLDER,
        FOLDER,
        "/run/systemd/system",
        "/var/lib/textgate/changes",
        str(Path(DROP_IN).parent),
    ):
        Path(f"{root}{folder}").mkdir(parents=True)
    for name, path in plain_files(root).items():
        Path(path).write_text(f"{SECRETS[name]}\n")
        Path(path).chmod(0o600)
    if is_encrypted:
        store(root).encrypt_all(plain_files(root), lambda: None)
    return root


def assert_daemon_can_start(root: Path) -> None:
    """Each credential is where the unit looks for it: in the drop-in's encrypted file, or else in the plain one."""
    drop_in = Path(f"{root}{DROP_IN}")
    named = re.findall(r"^LoadCredentialEncrypted=([a-z-]+):", drop_in.read_text() if drop_in.exists() else "", re.M)
    for name, secret in SECRETS.items():
        if name in named:
            assert store(root).read(name).reveal() == secret, name
        else:
            assert Path(plain_files(root)[name]).read_text() == f"{secret}\n", name


def restart() -> None:
    moment()


def refuse() -> None:
    moment()
    raise TextgateError("textgated can't be started")


COMMANDS: dict[str, tuple[bool, Callable[[Path], object]]] = {
    "encrypt": (False, lambda root: store(root).encrypt_all(plain_files(root), restart)),
    "decrypt": (True, lambda root: store(root).decrypt_all(plain_files(root), restart)),
    "save": (False, lambda root: store(root).write("gatewayapi-key", Secret("the-key"))),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_moment_it_is_as_before_or_as_after(place: Path, name: str) -> None:
    is_encrypted, work = COMMANDS[name]
    root = make_root(place, is_encrypted=is_encrypted)
    before = tree(root)
    copy = place / "copy"
    shutil.copytree(root, copy)
    work(copy)
    after = tree(copy)
    assert after != before
    shutil.rmtree(copy)
    shutil.copytree(root, copy)
    for number in kill_points(lambda: work(copy)):
        assert_daemon_can_start(copy)
        store(copy).recover()
        assert tree(copy) in (before, after), number
        shutil.rmtree(copy)
        shutil.copytree(root, copy)
    assert tree(copy) == after


@pytest.mark.parametrize("name", ["encrypt", "decrypt"])
def test_daemon_that_does_not_come_back_gets_what_it_had(place: Path, name: str) -> None:
    root = make_root(place, is_encrypted=name == "decrypt")
    before = tree(root)
    change = store(root).encrypt_all if name == "encrypt" else store(root).decrypt_all
    with pytest.raises(TextgateError, match="can't be started"):
        change(plain_files(root), refuse)
    assert tree(root) == before


def test_no_secret_is_in_a_plan(place: Path) -> None:
    root = make_root(place, is_encrypted=True)
    copy = place / "copy"
    shutil.copytree(root, copy)
    seen = 0
    for _ in kill_points(lambda: store(copy).decrypt_all(plain_files(copy), restart)):
        for path in Path(f"{copy}/var/lib/textgate/changes").iterdir():
            seen += 1
            assert path.stat().st_mode & 0o077 == 0
            assert not [secret for secret in SECRETS.values() if secret in path.read_text()]
        shutil.rmtree(copy)
        shutil.copytree(root, copy)
    assert seen > 5


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_rotation_that_was_killed_is_finished_by_the_next_and_makes_no_further_key(
    place: Path, monkeypatch: pytest.MonkeyPatch, is_encrypted: bool
) -> None:
    root = make_root(place, is_encrypted=is_encrypted)
    copy = place / "copy"
    path = plain_files(copy)["vault-key"]

    def first_key() -> str:
        credstore = store(copy)
        text = credstore.read("vault-key").reveal() if credstore.has("vault-key") else Path(path).read_text()
        return text.partition(":")[0]

    def call(_socket: str, verb: str, **_arguments: object) -> dict[str, Any]:
        moment()
        if verb == "reseal":
            (copy / "sealed").write_text(first_key())
            return {"current_key": first_key(), "resealed": 1, "current": 0, "changed": 0, "unreadable": 0}
        return {"current_key": first_key()}

    monkeypatch.setattr(cli_credentials, "Credstore", lambda: store(copy))
    monkeypatch.setattr(service, "is_running", lambda: False)
    monkeypatch.setattr(admin_client, "call", call)
    config = place / "textgate.toml"
    lines = [f'[vault]\nkey_file = "{path}"', '[limits]\nallowed_countries = ["DK"]']
    config.write_text("\n".join(lines))

    def rotate() -> None:
        done = CliRunner().invoke(main, ["--config", str(config), "keys", "rotate"])
        assert done.exit_code == 0, done.output

    shutil.copytree(root, copy)
    was_gone_on_with = False
    for _ in kill_points(rotate):
        if first_key() == "k1":
            assert store(copy).has("vault-key") is is_encrypted
        rotate()
        is_over = (copy / "sealed").read_text() == "k2"
        text = store(copy).read("vault-key").reveal() if is_encrypted else Path(path).read_text()
        assert is_over, text
        assert [line.partition(":")[0] for line in text.split()] == ["k2", "k1"]
        assert not Path(path).with_name(".rotation").exists()
        was_gone_on_with = True
        shutil.rmtree(copy)
        shutil.copytree(root, copy)
    assert was_gone_on_with


def test_phones_are_as_before_or_as_after_and_no_number_is_left_beside_them(place: Path) -> None:
    """`textgate enrol` changes one file."""
    phones = place / "phones"
    before = b"alice: +4512345601\n# mine\n"
    bob = Msisdn("4512345602")
    seen = set()

    def enrol() -> None:
        set_phone(str(phones), "bob", bob)

    phones.write_bytes(before)
    for _ in kill_points(enrol):
        left = phones.read_bytes()
        assert left == before or read_phones(str(phones), "").numbers["bob"] == bob
        seen.add(left == before)
        enrol()
        assert {path.name for path in place.iterdir()} == {"phones", ".phones.lock"}
        phones.write_bytes(before)
    assert seen == {True, False}
