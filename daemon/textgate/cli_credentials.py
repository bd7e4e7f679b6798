# SPDX-License-Identifier: MIT
"""`textgate credentials` and `textgate keys`: the machine's secrets, and the key that seals its users'."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from . import service, wiring
from .atomic_file import create_file, replace_file
from .cli_base import Context, command, complete_users
from .credentials import load_credential
from .credstore import VAULT_KEY, Credstore, one_at_a_time
from .errors import CredentialError, ExitCode, RefusedError, TextgateError


@click.group()
def credentials() -> None:
    """The secrets that textgated gets from systemd: of the gateway's account, and the vault key."""


@credentials.command("status")
@command
def credentials_status(context: Context) -> None:
    """Show how each credential is kept: encrypted, in a plain file, or not at all."""
    credstore = Credstore()
    rows = []
    for name, path in wiring.credential_files(context.config).items():
        is_encrypted = credstore.keeps(name, path)
        kept = "encrypted" if is_encrypted else "plain" if Path(path).exists() else "missing"
        rows.append({"name": name, "kept": kept, "path": str(credstore.path(name) if is_encrypted else path)})
    context.result({"credentials": rows})
    for row in rows:
        context.say(f"{row['name']}: {row['kept']}, {row['path']}")


@credentials.command("encrypt")
@command
def credentials_encrypt(context: Context) -> None:
    """Encrypt the credentials that lie in plain files, with the key of this machine (systemd-creds).

    textgated is started anew with them, and only then are the plain files removed. No login is lost.
    """
    credstore, files = Credstore(), wiring.credential_files(context.config)
    if (obstacle := credstore.obstacle()) is not None:
        raise RefusedError(f"this host can't encrypt: {obstacle}", hint="the files of mode 0600 can stay")
    with one_at_a_time(Path(context.config.vault.key_file).parent):
        credstore.recover()
        try:
            changed = credstore.encrypt_all(files, lambda: _restart_if_running(context))
        except TextgateError as error:
            raise RefusedError(f"{error.message}; the plain files are used as before", hint=error.hint) from None
    context.result({"encrypted": changed})
    for name in changed:
        context.say(f"{credstore.path(name)}: opens on this machine only.")
    if changed:
        context.say("Before you clone it, or change its machine-id, run: textgate credentials decrypt")
    else:
        context.say("There is nothing to encrypt.")


@credentials.command("decrypt")
@command
def credentials_decrypt(context: Context) -> None:
    """Put plain files back in the place of encrypted credentials: before a machine is cloned or its disk moves."""
    credstore, files = Credstore(), wiring.credential_files(context.config)
    with one_at_a_time(Path(context.config.vault.key_file).parent):
        credstore.recover()
        changed = credstore.decrypt_all(files, lambda: _restart_if_running(context))
    context.result({"decrypted": changed})
    for name in changed:
        context.say(f"{files[name]}: is a plain file of root again.")
    if not changed:
        context.say("There is nothing to decrypt.")


def _restart_if_running(context: Context) -> None:
    """What systemd hands over is that of the daemon's start. Raises TextgateError if it does not come back."""
    if service.is_running():
        service.restart(context.status)


# --- The vault key ---


@click.group()
def keys() -> None:
    """The key under which users' secrets are sealed."""


@keys.command("init")
@command
def keys_init(context: Context) -> None:
    """Make the vault key if there is none yet; an existing one is never touched."""
    from .vault import new_key_line

    path, credstore = Path(context.config.vault.key_file), Credstore()
    if credstore.keeps(VAULT_KEY, str(path)):
        raise _key_is_there(credstore.path(VAULT_KEY))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        create_file(path, f"{new_key_line('k1').reveal()}\n".encode(), mode=0o600)
    except FileExistsError:
        raise _key_is_there(path) from None
    except OSError as error:
        raise CredentialError(f"{path}: can't be made: {error.strerror}", hint="run it with sudo") from None
    context.result({"path": str(path), "is_made": True})
    context.say(f"{path}: made. Keep a copy in a safe place.")


def _key_is_there(path: Path) -> TextgateError:
    return TextgateError(f"{path}: there is a key already", hint="keep it: without it every user's secret is lost")


@keys.command("rotate")
@command
def keys_rotate(context: Context) -> None:
    """Make a new vault key, and seal every user's secret with it. No login is lost; the old key stays readable.

    Recovery codes made before need the old key too: keep it until new ones were printed. A rotation that was broken
    off is brought to its end, without a further key.
    """
    path, credstore = context.config.vault.key_file, Credstore()
    with one_at_a_time(Path(path).parent):
        credstore.recover()
        name = _add_key(context, credstore, path)
    sealing = context.ask_daemon("reload")["current_key"]
    if sealing != name and service.is_running():  # what systemd handed over is that of the start
        service.restart(context.status)
        sealing = context.ask_daemon("reload")["current_key"]
    if sealing != name:
        raise TextgateError(
            "textgated has its key from elsewhere and does not seal with the new one yet",
            hint="restart it, so that systemd hands the new file over, then run: textgate keys reseal",
        )
    _reseal(context)


def _add_key(context: Context, credstore: Credstore, path: str) -> str:
    """Put a new key before the others, unless a rotation that was broken off has done so. Answers its name."""
    from .vault import parse_keys, with_new_key

    is_encrypted = credstore.keeps(VAULT_KEY, path)
    former = credstore.read(VAULT_KEY) if is_encrypted else load_credential(VAULT_KEY, path, environ={})
    first = parse_keys(former)[0].name
    if _noted_key(path) == first:
        context.say(f"{path}: the key {first} is there already; a rotation that was broken off goes on.")
        return first
    name, changed = with_new_key(former)
    try:
        replace_file(_rotation_note(path), name.encode(), mode=0o600)
    except OSError as error:
        raise CredentialError(f"{path}: can't be changed: {error.strerror}", hint="run it with sudo") from None
    place = credstore.save(VAULT_KEY, path, changed, encrypt=False)
    context.say(f"{place}: the key {name} seals from now on; the former ones still open.")
    return name


def _rotation_note(path: str) -> Path:
    """The name of the key that is being changed to; there until all is sealed with it."""
    return Path(path).with_name(".rotation")


def _noted_key(path: str) -> str:
    try:
        return _rotation_note(path).read_text()
    except (OSError, UnicodeDecodeError):
        return ""


@keys.command("forget")
@click.argument("user", shell_complete=complete_users)
@command
def keys_forget(context: Context, user: str) -> None:
    """Let go of USER's secret, if its key is lost: the next text makes a new one. Codes under way die with it."""
    result = context.ask_daemon("forget", user=user)
    context.result(result)
    context.say(f"The secret of {result['user']} is forgotten; the next login makes a new one.")


@keys.command("reseal")
@command
def keys_reseal(context: Context) -> None:
    """Seal every user's secret with the key that stands first in the key file."""
    _reseal(context)


def _reseal(context: Context) -> None:
    result = context.ask_daemon("reseal")
    key_file = context.config.vault.key_file
    if _noted_key(key_file) == result["current_key"]:
        _rotation_note(key_file).unlink(missing_ok=True)
    context.result(result)
    context.say(
        f"sealed with {result['current_key']}: {result['resealed']} anew, {result['current']} already; "
        f"{result['unreadable']} can't be opened"
    )
    if result["unreadable"]:
        sys.exit(ExitCode.FAILURE)
