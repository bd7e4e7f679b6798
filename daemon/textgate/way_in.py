# SPDX-License-Identifier: MIT
"""Would an administrator still get in, once a service asks for codes? What would close a machine to all of them.

Looks at accounts, phones, passwords and keys; changes nothing.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .config import Config
from .pam_stack import FirstFactor
from .plain_files import read_as
from .policy import Account, Decision, decide
from .session import Session
from .sshd_config import kept_out_by
from .sudoers import Sudoers

PEOPLE_MIN_UID, PEOPLE_MAX_UID = 1000, 59999  # UID_MIN of login.defs(5); Debian Policy 9.2.2
SUDO_PAIR = {"sudo": "sudo-i", "sudo-i": "sudo"}  # `sudo -i` is a service of its own
KEYS_FILE_MAX_BYTES = 1 << 20  # of which a key is looked for
KEYS_FILES = ".ssh/authorized_keys .ssh/authorized_keys2"  # sshd's default
_KEY_LINE = re.compile(r"(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[^\s]+ AAAA", re.ASCII)


@dataclass(frozen=True)
class Logins:
    """Files that say who can log in how; others than the system's in tests."""

    shadow_file: str = "/etc/shadow"
    passwd_file: str = "/etc/passwd"  # noqa: S105  # a file without passwords
    sudoers: Sudoers = field(default=Sudoers())
    read_as: Callable[[str, Path, int], bytes] = field(default=read_as)

    def passwords(self) -> dict[str, str]:
        """User -> password field of shadow(5), or of passwd(5) where it stands there; nothing of unreadable files."""
        found: dict[str, str] = {}
        for file, elsewhere in ((self.shadow_file, None), (self.passwd_file, "x")):
            with contextlib.suppress(OSError):
                rows = [line.split(":") for line in Path(file).read_text(errors="replace").splitlines()]
                found |= {row[0]: row[1] for row in rows if len(row) > 1 and row[1] != elsewhere}
        return found

    def people(self) -> list[str]:
        """Users of the local files who can have a session: root, and those with a number for people and a shell."""
        with contextlib.suppress(OSError):
            rows = [line.split(":") for line in Path(self.passwd_file).read_text(errors="replace").splitlines()]
            return sorted(
                row[0]
                for row in rows
                if len(row) == 7
                and row[2].isdigit()
                and (int(row[2]) == 0 or PEOPLE_MIN_UID <= int(row[2]) <= PEOPLE_MAX_UID)
                and not row[6].endswith(("/nologin", "/false"))
            )
        return []

    def has_password(self, user: str) -> bool:
        """Whether a password can let the user in. One who is not of this file (LDAP) is believed to have one."""
        return not self.passwords().get(user, "$").startswith(("!", "*"))

    def without_password(self) -> list[str]:
        """Users whose password is empty."""
        return sorted(user for user, password in self.passwords().items() if password == "")

    def has_key(self, user: str, places: str = KEYS_FILES) -> bool:
        """Whether there is an ssh key by which the user can log in. places: of sshd's AuthorizedKeysFile."""
        return self.keys_obstacle(user, places) is None

    def keys_obstacle(self, user: str, places: str = KEYS_FILES) -> str | None:
        """Why there is no ssh key by which the user can log in; None if there is one. A file is theirs to make."""
        unreadable = []
        for name in places.split():
            try:
                path = _keys_file(user, name)
                text = self.read_as(user, path, KEYS_FILE_MAX_BYTES).decode(errors="replace")
            except (FileNotFoundError, NotADirectoryError, RuntimeError):
                continue
            except OSError as error:
                unreadable.append(f"{path}: {error.strerror}")
                continue
            if any(_KEY_LINE.search(line) for line in text.splitlines() if not line.strip().startswith("#")):
                return None
        return "has no ssh key" + (f" ({'; '.join(unreadable)})" if unreadable else "")


def _keys_file(user: str, name: str) -> Path:
    """One word of AuthorizedKeysFile (sshd_config(5)) -> path. Raises RuntimeError for a user without a home."""
    home = Path(f"~{user}").expanduser()
    tokens = {"%%": "%", "%h": str(home), "%u": user}
    return home / re.sub("%[%hu]", lambda token: tokens[token[0]], name)  # an absolute one stays as it is


def is_refused(account: Account, config: Config) -> bool:
    """Whether [refused] keeps somebody out, so that no code of his is right, in whatever service."""
    session = Session(account.name, "", "", None, None, "")
    return decide(session, account, config).decision is Decision.REFUSE


def ssh_obstacles(
    admins: Sequence[Account],
    first_factor: FirstFactor,
    effective: Callable[[str], Mapping[str, str]],
    config: Config,
    logins: Logins | None = None,
) -> list[str]:
    """Why no administrator with a phone could log in by ssh; empty if one can.

    effective: what `sshd -T` says of a user, as `sshd_config.effective` reads it. It is asked until somebody can log
    in.
    """
    logins = logins or Logins()
    reasons = []
    for account in admins:
        if is_refused(account, config):
            reasons.append(f"{account.name}: is refused by textgate itself ([refused])")
            continue
        reason = _ssh_obstacle(account, first_factor, effective(account.name), logins)
        if reason is None:
            return []
        reasons.append(f"{account.name}: {reason}")
    return reasons


def root_is_shut_out(effective: Mapping[str, str]) -> bool:
    """Whether sshd keeps root out where a code is asked for. effective: what `sshd -T` says, keyword -> value."""
    # By what it calls prohibit-password, root comes in with a key alone: PAM gets something else than was typed.
    return effective.get("permitrootlogin") != "yes"


def _ssh_obstacle(
    account: Account, first_factor: FirstFactor, effective: Mapping[str, str], logins: Logins
) -> str | None:
    if account.uid == 0 and root_is_shut_out(effective):
        return f"PermitRootLogin {effective.get('permitrootlogin', 'no')} keeps root out where a code is asked for"
    keyword = kept_out_by(effective, account.name, account.groups)
    if keyword is not None:
        return f"sshd keeps him out ({keyword})"
    has_other_keys = any(
        effective.get(name, "none") != "none" for name in ("authorizedkeyscommand", "trustedusercakeys")
    )
    takes_keys = effective.get("pubkeyauthentication") != "no"
    places = effective.get("authorizedkeysfile", KEYS_FILES)
    no_key = None if has_other_keys else logins.keys_obstacle(account.name, places)
    if not takes_keys:
        no_key = "sshd takes no key from him (PubkeyAuthentication)"
    if first_factor is FirstFactor.KEY and no_key:
        return no_key
    if first_factor is FirstFactor.PASSWORD and not logins.has_password(account.name):
        return "has no password"
    if first_factor is FirstFactor.ANY and no_key and not logins.has_password(account.name):
        return f"{no_key}, and has no password"
    return None
