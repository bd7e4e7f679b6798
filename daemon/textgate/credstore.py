# SPDX-License-Identifier: MIT
"""Credentials that lie on the disk encrypted, by systemd-creds(1), and the drop-in by which textgated gets them.

Rules of this file:
- Encrypted with the key of this machine, /var/lib/systemd/credential.secret: a copy of the file opens nowhere else.
  systemd removes that key as soon as it is used under another machine-id, so a clone with a machine-id of its own
  opens nothing; people are told so before, and what to do then.
- A TPM is not used unasked, since a new board or a change of firmware would lock everybody out; whoever wants it
  encrypts by hand, and such a file is read and never replaced.
- Only the unit's own credentials: those whose plain file is where textgated.service looks for it.
- What is encrypted was opened again before it is written. Files, drop-in and plain files change together, or not at
  all (transaction.py); the drop-in comes after the files it names, and goes before them. So the daemon can start at
  every moment, with what it had or with what it gets.
- Nothing secret is ever an argument of a program, or in a file that is not encrypted.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from .atomic_file import replace_file, sync_folder
from .credentials import MAX_BYTES, load_credential, secret_of
from .errors import CredentialError, TextgateError
from .printable import printable
from .programs import NOT_FOUND, has_systemd, pipe_program, run_program
from .secret import Secret
from .transaction import FileChange, TransactionError, Transactions

FOLDER = "/etc/credstore.encrypted"  # systemd.exec(5)
PLAIN_FOLDER = "/etc/textgate/credentials"  # as in textgated.service
UNIT = "textgated.service"
DROP_IN = f"/etc/systemd/system/{UNIT}.d/50-encrypted-credentials.conf"
ROOT_HINT = "run it with sudo"
VAULT_KEY = "vault-key"
NAMES = ("gatewayapi-key", "gatewayapi-secret", "gatewayapi-token", VAULT_KEY)

_HEAD = """\
# Kept by `textgate credentials`: what textgated gets from encrypted files in place of plain ones.
[Service]
"""
_BY_HOST = bytes.fromhex("5a1c6a86df9d4096b1d5a65e0862f19a")  # how a file begins that the host's key alone opens
_KEY_FOLDER = "/var/lib/systemd"
_SAID_MAX_LENGTH = 200
_NO_KEY_HINT = (
    "was it encrypted on another machine, or under another machine-id? Put your copy of the key into "
    f"{PLAIN_FOLDER}/{VAULT_KEY} (mode 0600) and remove {{}}; without a copy remove it all the same: "
    "recovery codes are lost then, and `textgate keys forget` mends each user"
)

Run = Callable[[Sequence[str]], tuple[int, str]]
Pipe = Callable[[Sequence[str], bytes], tuple[int, bytes, str]]


class CredentialsBusyError(CredentialError):
    """Another command is changing credentials."""


class Credstore:
    """The encrypted credentials of a machine. root: / but for tests."""

    def __init__(self, root: str = "/", *, run: Run = run_program, pipe: Pipe = pipe_program) -> None:
        self._root = Path(root)
        self._run = run
        self._pipe = pipe

    def path(self, name: str) -> Path:
        """Where an encrypted credential lies."""
        return self._at(f"{FOLDER}/textgate.{name}")

    def has(self, name: str) -> bool:
        """Whether a credential is kept encrypted; False for who can't look."""
        return os.path.exists(self.path(name))  # noqa: PTH110  # Path.exists raises PermissionError

    def takes(self, name: str, plain_path: str) -> bool:
        """Whether a credential can be kept here: no program but the unit's daemon would find it."""
        return name in NAMES and Path(plain_path) == self._at(f"{PLAIN_FOLDER}/{name}")

    def keeps(self, name: str, plain_path: str) -> bool:
        """Whether a credential is kept here, in the place of that plain file."""
        return self.takes(name, plain_path) and self.has(name)

    def obstacle(self) -> str | None:
        """Why this host can't encrypt, found out by trying it; None if it can. Raises CredentialError as `write`."""
        self._require_vault_key()
        if not has_systemd(str(self._root)):
            return "systemd does not run here"
        _, kind = self._run(["stat", "--file-system", "--format=%T", _KEY_FOLDER])
        if kind.strip() in ("tmpfs", "ramfs"):  # systemd-creds takes it, where it is told to use the host's key
            return f"the host's key would be gone with the next start: {_KEY_FOLDER} is in memory"
        probe = Secret(secrets.token_hex(16))
        try:
            self._require_open("probe", self._seal("probe", probe), probe)
        except CredentialError as error:
            return error.message
        return None

    def read(self, name: str) -> Secret:
        """A credential. Raises CredentialError if it isn't here, or can't be opened on this machine."""
        path = self.path(name)
        try:
            with path.open("rb") as file:
                sealed = file.read(2 * MAX_BYTES)
        except OSError as error:
            raise CredentialError(f"{path}: can't be read: {error.strerror}", hint=ROOT_HINT) from None
        status, opened, said = self._unseal(name, sealed)
        if status != 0:
            raise CredentialError(
                f"{path}: does not open on this machine: {_told(status, said)}",
                hint="was it encrypted on another one, or under another machine-id? run: textgate setup",
            )
        return secret_of(str(path), opened)

    def write(self, name: str, secret: Secret) -> None:
        """Put a credential in the place of its former version, if there is one, and let textgated have it.

        The daemon has it from its next start on. Raises CredentialError, having changed nothing, where the host can't
        encrypt, the former version was encrypted by more than the host's key, the vault key does not open, or the
        file can't be written.
        """
        self._require_vault_key()
        path = self.path(name)
        if path.exists() and not self._is_by_host(path):
            raise CredentialError(
                f"{path}: was encrypted by hand, with more than this host's key",
                hint=f"put the new one there likewise: systemd-creds encrypt --name={name} ...",
            )
        self._change([self._sealed(name, secret)], {*self._kept(), name})

    # --- With the plain file beside it ---

    def save(self, name: str, plain_path: str, secret: Secret, *, encrypt: bool) -> Path:
        """Keep a credential: encrypted if it is so already or is to be, else in a plain file of mode 0600.

        Answers where it lies. Raises CredentialError.
        """
        if self.takes(name, plain_path) and (encrypt or self.has(name)):
            self.write(name, secret)
            self.drop_plain(name, plain_path)
            return self.path(name)
        return self._write_plain(plain_path, secret)

    def encrypt(self, name: str, plain_path: str) -> bool:
        """Encrypt what lies in a plain file, which stays until `drop_plain`. False if there is nothing to encrypt.

        Raises CredentialError, also where both are there and differ: nobody knows then which one is right.
        """
        plain = Path(plain_path)
        if not self.takes(name, plain_path) or not plain.exists():
            return False
        if self.has(name):
            self._require_same(name, plain)
            self._change([], self._kept())  # an earlier version may have left the drop-in behind
        else:
            self.write(name, load_credential(name, str(plain), environ={}))
        return True

    def encrypt_all(self, files: Mapping[str, str], restart: Callable[[], None]) -> list[str]:
        """Encrypt what lies in plain files, see the daemon take it, and remove them: all of it or nothing.

        files: name -> path. restart: raises TextgateError where the daemon does not come back.
        Answers the names. Raises CredentialError as `encrypt`, or what `restart` raised.
        """
        self._require_vault_key()
        plain = {name: Path(path) for name, path in files.items() if self.takes(name, path) and Path(path).exists()}
        for name, path in plain.items():
            if self.has(name):
                self._require_same(name, path)
        fresh = [name for name in plain if not self.has(name)]
        sealed = [self._sealed(name, load_credential(name, str(plain[name]), environ={})) for name in fresh]
        if plain:
            removals = [f"{PLAIN_FOLDER}/{name}" for name in plain]
            self._change(sealed, {*self._kept(), *fresh}, removals=removals, restart=restart)
        return list(plain)

    def decrypt(self, name: str, plain_path: str) -> bool:
        """Put the plain file in the place of the encrypted one. False if there is none. Raises CredentialError."""
        return self.decrypt_all({name: plain_path}, lambda: None) != []

    def decrypt_all(self, files: Mapping[str, str], restart: Callable[[], None]) -> list[str]:
        """Put plain files in the place of the encrypted ones, and see the daemon take them: all of it or nothing.

        As `encrypt_all`.
        """
        kept = {name: Path(path) for name, path in files.items() if self.keeps(name, path)}
        plain = []
        for name, path in kept.items():
            if path.exists():
                self._require_same(name, path)
            else:
                text = f"{self.read(name).reveal()}\n".encode()
                plain.append(FileChange(f"{PLAIN_FOLDER}/{name}", None, text, 0o600))
        if kept:
            gone = [FileChange(self._logical(name), self.path(name).read_bytes(), None, 0o600) for name in kept]
            self._change(plain, set(self._kept()) - set(kept), then=gone, restart=restart)
        return list(kept)

    def drop_plain(self, name: str, plain_path: str) -> None:
        """Remove the plain file of what is kept encrypted; nothing where there is none. Raises CredentialError.

        It is overwritten first, which helps as far as the file system writes in place.
        """
        plain = Path(plain_path)
        if not self.keeps(name, plain_path) or not plain.exists():
            return
        try:
            with plain.open("r+b") as file:
                file.write(b"\0" * os.fstat(file.fileno()).st_size)
                file.flush()
                os.fsync(file.fileno())
            plain.unlink()
            sync_folder(plain.parent)
        except OSError as error:
            raise CredentialError(f"{plain}: can't be removed: {error.strerror}", hint=ROOT_HINT) from None

    # --- What the unit knows ---

    def is_loaded(self, name: str) -> bool:
        """Whether the unit names the encrypted file, in this or in another drop-in. Needs systemd."""
        _, text = self._run(["systemctl", "cat", "--no-pager", UNIT])
        last = None
        for line in text.splitlines():
            if match := re.fullmatch(rf"LoadCredential(Encrypted)?={re.escape(name)}(:.*)?", line.strip()):
                last = match
        return bool(last and last[1] and last[2] == f":{FOLDER}/textgate.{name}")

    # --- Parts ---

    def _at(self, path: str) -> Path:
        return Path(self._root, path.lstrip("/"))

    def _kept(self) -> list[str]:
        return [name for name in NAMES if self.has(name)]

    def _require_vault_key(self) -> None:
        """Raise CredentialError if the vault key is there and does not open: that is to be dealt with first.

        What is encrypted beside it, with the new key that this host makes then, would let a daemon start without it.
        """
        if self.has(VAULT_KEY):
            try:
                self.read(VAULT_KEY)
            except CredentialError as error:
                raise CredentialError(error.message, hint=_NO_KEY_HINT.format(self.path(VAULT_KEY))) from None

    def _write_plain(self, plain_path: str, secret: Secret) -> Path:
        path = Path(plain_path)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, f"{secret.reveal()}\n".encode(), mode=0o600)
            path.chmod(0o600)  # a former one may have been open to others
        except OSError as error:
            raise CredentialError(f"{path}: can't be written: {error.strerror}", hint=ROOT_HINT) from None
        return path

    def _require_same(self, name: str, plain: Path) -> None:
        if load_credential(name, str(plain), environ={}).reveal() != self.read(name).reveal():
            raise CredentialError(
                f"{plain}: differs from the encrypted {self.path(name)}, which is the one that textgated uses",
                hint="remove the one that is wrong",
            )

    def _is_by_host(self, path: Path) -> bool:
        try:
            with path.open("rb") as file:
                head = base64.b64decode(file.read(24))
        except (OSError, binascii.Error):
            return False
        return head.startswith(_BY_HOST)

    def _seal(self, name: str, secret: Secret) -> bytes:
        arguments = ["systemd-creds", "encrypt", "--with-key=host", f"--name={name}", "-", "-"]
        status, sealed, said = self._pipe(arguments, f"{secret.reveal()}\n".encode())
        if status != 0 or not sealed:
            raise CredentialError(f"{name}: can't be encrypted on this host: {_told(status, said)}")
        return sealed

    def _unseal(self, name: str, sealed: bytes) -> tuple[int, bytes, str]:
        return self._pipe(["systemd-creds", "decrypt", f"--name={name}", "-", "-"], sealed)

    def _require_open(self, name: str, sealed: bytes, expected: Secret) -> None:
        """Raise CredentialError unless this opens to what was sealed: the only copy may hang on it."""
        status, opened, said = self._unseal(name, sealed)
        if status != 0 or opened != f"{expected.reveal()}\n".encode():
            raise CredentialError(f"{name}: what was encrypted does not open again: {_told(status, said)}")

    # --- All of it or nothing ---

    def is_broken_off(self) -> bool:
        """Whether a change was broken off, or is under way."""
        return self._transactions().is_open()

    def recover(self) -> None:
        """Undo, or finish, a change that was broken off. Raises CredentialError."""
        try:
            self._transactions().recover()
        except OSError as error:
            raise _cannot_change(error) from None
        except TransactionError as error:
            raise CredentialError(error.message, hint=error.hint) from None

    def _change(
        self,
        changes: Sequence[FileChange],
        kept: Collection[str],
        *,
        then: Sequence[FileChange] = (),
        removals: Sequence[str] = (),
        restart: Callable[[], None] = lambda: None,
    ) -> None:
        """Change files, the drop-in for the names that are kept encrypted, and further files, in this order.

        removals: plain files that go when all is well. restart: of the daemon; if it raises, all is put back, and it
        is called again. Raises CredentialError, or what `restart` raised.
        """
        drop_in = self._drop_in(kept)
        everything = [*changes, drop_in, *then]
        try:
            for folder in (FOLDER, PLAIN_FOLDER):
                self._at(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._transactions().begin(everything, removals) as transaction:
                for change in everything:
                    transaction.apply(change.path)
                    if change is drop_in and change.before != change.after:
                        self._reload_units()
                try:
                    restart()
                except TextgateError:
                    transaction.undo()
                    with contextlib.suppress(TextgateError):
                        restart()
                    raise
                transaction.commit(is_told=True)
        except OSError as error:
            raise _cannot_change(error) from None
        except TransactionError as error:
            raise CredentialError(error.message, hint=error.hint) from None

    def _transactions(self) -> Transactions:
        return Transactions("credentials", str(self._root), then=self._tell)

    def _tell(self, paths: Sequence[str]) -> None:
        """systemd reads the drop-in that came back; that it can't is no reason to leave a way back half done."""
        if DROP_IN in paths:
            with contextlib.suppress(CredentialError):
                self._reload_units()

    def _sealed(self, name: str, secret: Secret) -> FileChange:
        """The change by which a credential is kept encrypted. Raises CredentialError if it would not open again."""
        path = self.path(name)
        sealed = self._seal(name, secret)
        self._require_open(name, sealed, secret)
        return FileChange(self._logical(name), path.read_bytes() if path.exists() else None, sealed, 0o600)

    def _logical(self, name: str) -> str:
        return f"{FOLDER}/textgate.{name}"

    def _drop_in(self, kept: Collection[str]) -> FileChange:
        path = self._at(DROP_IN)
        lines = [f"LoadCredentialEncrypted={name}:{self._logical(name)}\n" for name in NAMES if name in kept]
        content = (_HEAD + "".join(lines)).encode() if lines else None
        return FileChange(DROP_IN, path.read_bytes() if path.exists() else None, content)

    def _reload_units(self) -> None:
        if has_systemd(str(self._root)):
            status, output = self._run(["systemctl", "daemon-reload"])
            if status != 0:
                raise CredentialError(f"systemd does not take {self._at(DROP_IN)}: {_told(status, output)}")


def _cannot_change(error: OSError) -> CredentialError:
    path = f"{error.filename}: " if error.filename else ""
    return CredentialError(f"{path}credentials can't be changed: {error.strerror}", hint=ROOT_HINT)


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep other commands from changing credentials meanwhile. Raises CredentialError if one is at it.

    folder: that of the plain files, which root alone can open.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CredentialError(f"{folder}: can't be opened: {error.strerror}", hint=ROOT_HINT) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CredentialsBusyError("another textgate is changing credentials", hint="try again") from None
        yield
    finally:
        os.close(handle)


def _told(status: int, said: str) -> str:
    """The last words of a program, which quotes nothing of what it was fed."""
    if status == NOT_FOUND:
        return "there is no systemd-creds"
    words = printable((said.strip().splitlines() or [""])[-1])
    return words[-_SAID_MAX_LENGTH:] or f"exit status {status}"
