# SPDX-License-Identifier: MIT
"""Keys and secrets: from systemd's credential directory, else from a file that nobody else can read.

systemd guards its directory itself (and gives access by an ACL, which shows in the mode bits), so only the
fallback file is checked for owner and mode. No message holds anything of a content.
"""

from __future__ import annotations

import os
import pwd
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from .errors import CredentialError
from .secret import Secret

MAX_BYTES = 64 * 1024
DAEMON_USER = "textgate"
DIRECTORY_VARIABLE = "CREDENTIALS_DIRECTORY"  # systemd.exec(5)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
# Without O_NONBLOCK a named pipe in the file's place would hold the daemon up for ever.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def load_credential(
    name: str, fallback_path: str, *, environ: Mapping[str, str], trusted_uids: frozenset[int] | None = None
) -> Secret:
    """Read a credential: UTF-8 text, one line feed at its end dropped.

    name: as in LoadCredential=. fallback_path: read if systemd passed no credential of that name.
    environ: the process's environment. trusted_uids: who may own the file; by default root, this process's user and
    the daemon's, so that root's `textgate check-config` takes what the daemon takes.
    Raises CredentialError that names the file and what to do: missing, not a plain file, someone else's,
    open to others (more than 0600), larger than 64 KiB, not UTF-8, empty.
    """
    if not _NAME.fullmatch(name):
        raise CredentialError("a credential's name is letters, digits, dots, dashes and underscores")
    directory = environ.get(DIRECTORY_VARIABLE, "")
    if directory.startswith("/"):
        path = str(Path(directory) / name)
        content = _read(path, None)
        if content is not None and not content.strip():  # the unit's stand-in for a file that isn't there
            raise CredentialError(f"{name}: is not set: {fallback_path} is missing or empty", hint="textgate setup")
        if content is not None:
            return secret_of(path, content)
    owners = _usual_owners() if trusted_uids is None else trusted_uids
    content = _read(fallback_path, owners)
    if content is None:
        raise CredentialError(
            f"{fallback_path}: no such file",
            hint=f"make it (mode 0600), or set LoadCredential={name}:… for the service",
        )
    return secret_of(fallback_path, content)


def _usual_owners() -> frozenset[int]:
    try:
        return frozenset({0, os.geteuid(), pwd.getpwnam(DAEMON_USER).pw_uid})
    except KeyError:  # a program that uses the API, on a machine without the daemon
        return frozenset({0, os.geteuid()})


def _read(path: str, owners: frozenset[int] | None) -> bytes | None:
    """A file's bytes, or None if it isn't there. owners: who may own it, None for systemd's own files."""
    try:
        with open(path, "rb", opener=lambda name, _flags: os.open(name, _FLAGS)) as file:
            _check(path, os.fstat(file.fileno()), owners)
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CredentialError(f"{path}: can't be read: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise CredentialError(f"{path}: is larger than {MAX_BYTES} bytes", hint="is it the right file?")
    return content


def _check(path: str, status: os.stat_result, owners: frozenset[int] | None) -> None:
    """Raise CredentialError unless the open file is a plain one that only its trusted owner can reach.

    The open file is judged, not its name, so a symbolic link is as good as what it points to.
    """
    if not stat.S_ISREG(status.st_mode):
        raise CredentialError(f"{path}: is not a plain file")
    if owners is None:
        return
    if status.st_uid not in owners:
        raise CredentialError(f"{path}: belongs to another user", hint=f"chown root {path}")
    if status.st_mode & 0o077:
        raise CredentialError(f"{path}: is open to other users", hint=f"chmod 0600 {path}")


def secret_of(path: str, content: bytes) -> Secret:
    """The content as text, one line feed at its end dropped. Raises CredentialError that names the path.

    The decoder's own error would quote it, so it is cut off here.
    """
    try:
        text = content.decode().removesuffix("\n")
    except UnicodeDecodeError:
        text = None
    if text is None:
        raise CredentialError(f"{path}: is not UTF-8 text", hint="is it the right file?")
    if not text.strip():
        raise CredentialError(f"{path}: is empty", hint="put the key into it")
    return Secret(text)
