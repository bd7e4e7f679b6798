# SPDX-License-Identifier: MIT
"""Puts textgate's lines into services and takes them out again, without ever leaving half of it behind.

What a change is made of is kept under STATE_DIR before anything is written: each file's bytes, former and new.
`disable` puts the former bytes back, and only while the files are still as textgate left them:
what an administrator has changed since is never overwritten. For sshd the order matters. Its settings come first and
the PAM file last, and the other way round on the way back, so that there is no moment in which a key or a password
alone is asked for and a code alone lets in.
"""

from __future__ import annotations

import base64
import difflib
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import TextgateError
from .pam_stack import BEGIN_MARK, FirstFactor, StackError, has_block, read_auth_rules, ways_around, with_block

STATE_DIR = "/var/lib/textgate/pam"
PAM_DIR = "/etc/pam.d"
SSHD_DROP_IN = "/etc/ssh/sshd_config.d/00-textgate.conf"  # sshd takes the first value it finds, so it comes first
SSHD_SERVICES = ("sshd",)
REVERT_TIMER = "textgate-pam-revert.timer"
SERVICE_MAX_LENGTH = 64

_METHODS = {
    FirstFactor.KEY: "publickey,keyboard-interactive:pam",
    FirstFactor.PASSWORD: "keyboard-interactive:pam",
    FirstFactor.ANY: "publickey,keyboard-interactive:pam keyboard-interactive:pam",
}


class PamAdminError(TextgateError):
    """A change was not made, or was taken back; the files are as they were before."""


@dataclass(frozen=True)
class FileChange:
    """One file as it is and as it is to be; None where it doesn't exist."""

    path: str
    before: bytes | None
    after: bytes | None

    def diff(self) -> str:
        """The change as a unified diff."""
        old, new = (_lines(content) for content in (self.before, self.after))
        return "".join(difflib.unified_diff(old, new, self.path, self.path))


@dataclass(frozen=True)
class Guard:
    """One service that textgate guards, as STATE_DIR remembers it.

    started_at: Unix seconds. confirm_by: when a try is taken back unless it is confirmed; None for a firm one.
    """

    service: str
    first_factor: FirstFactor
    changes: tuple[FileChange, ...]
    started_at: int
    confirm_by: int | None


class PamAdmin:
    """Works on the files below `root`, which is / but for tests. `run` runs a command: exit status and output."""

    def __init__(self, root: str = "/", run: Callable[[Sequence[str]], tuple[int, str]] | None = None) -> None:
        self._root = Path(root)
        self._run = run or run_command

    # --- What there is ---

    def read_pam(self, name: str) -> str:
        """Text of /etc/pam.d/NAME. Raises StackError."""
        path = self._at(PAM_DIR) / name
        if "/" in name.strip("/") or not name or name.startswith("."):
            path = self._root / name.lstrip("/")
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError):
            raise StackError(f"/etc/pam.d/{name}: can't be read", hint="see: ls /etc/pam.d") from None

    def services(self) -> list[str]:
        """The services that have textgate's lines, by whoever put them in."""
        found = []
        for path in sorted(self._at(PAM_DIR).iterdir()):
            try:
                if path.name != "textgate" and has_block(read_auth_rules(path.name, self.read_pam)):
                    found.append(path.name)
            except StackError:
                continue
        return found

    def ways_around(self, service: str) -> tuple[str, ...]:
        """Lines of a service that let in although textgate says no. Raises StackError."""
        return ways_around(read_auth_rules(service, self.read_pam))

    def guard(self, service: str) -> Guard | None:
        """What is remembered of a service; None if textgate did not put its lines in."""
        try:
            kept = json.loads(self._state(service).read_text())
            return Guard(
                service=kept["service"],
                first_factor=FirstFactor(kept["first_factor"]),
                changes=tuple(
                    FileChange(item["path"], _decoded(item["before"]), _decoded(item["after"]))
                    for item in kept["changes"]
                ),
                started_at=kept["started_at"],
                confirm_by=kept["confirm_by"],
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            raise PamAdminError(
                f"{self._state(service)}: can't be read", hint="compare the service's file with its package's by hand"
            ) from None

    def guards(self) -> Iterator[Guard]:
        """Everything that is remembered, by service."""
        folder = self._at(STATE_DIR)
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            guard = self.guard(path.stem)
            if guard is not None:
                yield guard

    # --- Changing it ---

    def plan(self, service: str, first_factor: FirstFactor) -> tuple[FileChange, ...]:
        """What `enable` would change, in the order of writing. Raises StackError or PamAdminError if it can't be."""
        check_service(service)
        if first_factor is not FirstFactor.PASSWORD and service not in SSHD_SERVICES:
            raise PamAdminError(
                f"{service} sees no ssh key: its first factor is the password", hint="use --first-factor password"
            )
        if (self._at(PAM_DIR) / service).is_symlink():
            raise PamAdminError(
                f"/etc/pam.d/{service}: is a symbolic link", hint="enable the service that it points to"
            )
        before = self.read_pam(service)
        after = with_block(before, first_factor, service=service)
        changes = [FileChange(f"{PAM_DIR}/{service}", before.encode(), after.encode())]
        if service in SSHD_SERVICES:
            drop_in = self._bytes(SSHD_DROP_IN)
            changes.insert(0, FileChange(SSHD_DROP_IN, drop_in, sshd_settings(first_factor).encode()))
        self._check_ways(service, after)
        return tuple(changes)

    def _check_ways(self, service: str, text: str) -> None:
        def read(name: str) -> str:
            return text if name == service else self.read_pam(name)

        rules = read_auth_rules(service, read)
        around = ways_around(rules)
        if around:
            raise PamAdminError(
                f"{service}: these lines would let in without a code: " + ", ".join(around),
                hint="put textgate's lines before them, or make them `required`",
            )
        if not has_block(rules):
            raise PamAdminError(f"{service}: textgate's lines would never be reached")

    def enable(
        self, service: str, first_factor: FirstFactor, *, now_at: int, confirm_by: int | None = None
    ) -> tuple[FileChange, ...]:
        """Guard a service. Nothing stays changed if anything of it fails.

        confirm_by: Unix seconds after which `revert_due` takes it back. Doing it twice changes nothing.
        Returns what was changed. Raises PamAdminError or StackError.
        """
        if self.guard(service) is not None:
            return ()
        changes = self.plan(service, first_factor)
        guard = Guard(service, first_factor, changes, now_at, confirm_by)
        self._remember(guard)
        written: list[FileChange] = []
        try:
            for change in changes:
                written.append(change)
                self._write(change.path, change.after)
                if change.path == SSHD_DROP_IN:
                    self._check_sshd(first_factor)
                    self._reload_sshd()
        except (OSError, TextgateError) as error:
            for change in reversed(written):
                self._write(change.path, change.before)
            if any(change.path == SSHD_DROP_IN for change in written):
                self._run(["systemctl", "reload", "ssh.service"])
            self._state(service).unlink(missing_ok=True)
            if isinstance(error, TextgateError):
                raise
            raise PamAdminError(f"{service}: can't be changed: {error.strerror}", hint="run it with sudo") from None
        return changes

    def disable(self, service: str) -> tuple[FileChange, ...]:
        """Put the former bytes back. Doing it twice changes nothing.

        Returns what was changed. Raises PamAdminError when a file has been changed since, or is guarded by hand.
        """
        guard = self.guard(service)
        if guard is None:
            if service in self.services():
                raise PamAdminError(
                    f"/etc/pam.d/{service}: has textgate's lines, and not from here",
                    hint="take the lines with textgate in them out by hand",
                )
            return ()
        for change in guard.changes:
            if self._bytes(change.path) not in (change.after, change.before):
                raise PamAdminError(
                    f"{change.path}: was changed since textgate wrote it, and is left alone",
                    hint=self._by_hand(change),
                )
        back = tuple(FileChange(change.path, self._bytes(change.path), change.before) for change in guard.changes)
        for change in reversed(back):
            self._write(change.path, change.after)
        if any(change.path == SSHD_DROP_IN for change in back):
            self._reload_sshd()
        self._state(service).unlink(missing_ok=True)
        return tuple(change for change in back if change.before != change.after)

    def _by_hand(self, change: FileChange) -> str:
        if change.path == SSHD_DROP_IN:
            return f"remove {SSHD_DROP_IN} and reload sshd"
        return f"take out the lines from `{BEGIN_MARK[:18]}` to `# textgate: end` by hand"

    def confirm(self, service: str) -> bool:
        """Make a try firm. False if there was none."""
        guard = self.guard(service)
        if guard is None or guard.confirm_by is None:
            return False
        self._remember(Guard(guard.service, guard.first_factor, guard.changes, guard.started_at, None))
        return True

    def pending(self) -> list[Guard]:
        """The tries that are neither confirmed nor taken back."""
        return [guard for guard in self.guards() if guard.confirm_by is not None]

    def revert_due(self, now_at: int, passed_since: Callable[[Guard], bool]) -> list[tuple[Guard, bool]]:
        """Confirm the tries that a login succeeded through, take back those whose time is up.

        Returns each with True for "confirmed", False for "taken back".
        """
        done = []
        for guard in self.pending():
            if passed_since(guard):
                self.confirm(guard.service)
                done.append((guard, True))
            elif guard.confirm_by is not None and now_at >= guard.confirm_by:
                self.disable(guard.service)
                done.append((guard, False))
        return done

    # --- sshd ---

    def _check_sshd(self, first_factor: FirstFactor) -> None:
        """sshd takes its files, and they mean what they should. Raises PamAdminError."""
        status, output = self._run(["sshd", "-t"])
        if status != 0:
            raise PamAdminError("sshd does not take the new settings", hint=_last_line(output) or "see: sshd -t")
        status, output = self._run(["sshd", "-T", "-C", "user=root,host=localhost,addr=127.0.0.1"])
        if status != 0:
            raise PamAdminError("sshd's effective settings can't be read", hint="see: sshd -T")
        for fault in sshd_faults(output, first_factor):
            raise PamAdminError(
                f"sshd: {fault}", hint="look for what overrides it: grep -ri match /etc/ssh/sshd_config*"
            )

    def _reload_sshd(self) -> None:
        status, _ = self._run(["systemctl", "is-active", "--quiet", "ssh.service"])
        if status != 0:
            return  # not running, or started anew for each connection: it reads its files at the next start
        status, output = self._run(["systemctl", "reload", "ssh.service"])
        if status != 0:
            raise PamAdminError("sshd could not be reloaded", hint=_last_line(output) or "see: systemctl status ssh")

    # --- Files ---

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _bytes(self, path: str) -> bytes | None:
        try:
            return self._at(path).read_bytes()
        except FileNotFoundError:
            return None

    def _state(self, service: str) -> Path:
        return self._at(STATE_DIR) / f"{check_service(service)}.json"

    def _remember(self, guard: Guard) -> None:
        kept = {
            "service": guard.service,
            "first_factor": guard.first_factor.value,
            "changes": [
                {"path": change.path, "before": _encoded(change.before), "after": _encoded(change.after)}
                for change in guard.changes
            ],
            "started_at": guard.started_at,
            "confirm_by": guard.confirm_by,
        }
        folder = self._at(STATE_DIR)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(self._state(guard.service), json.dumps(kept, indent=1).encode(), mode=0o600)

    def _write(self, path: str, content: bytes | None) -> None:
        target = self._at(path)
        if content is None:
            target.unlink(missing_ok=True)
            return
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(target, content, mode=0o644)


def sshd_settings(first_factor: FirstFactor) -> str:
    """The drop-in for sshd_config.d."""
    return f"""\
# Made by `textgate pam`; take it out with `textgate pam disable sshd`.
# The code is asked for by PAM, through keyboard-interactive. PasswordAuthentication would ask PAM a second time in a
# way that can't ask for a code.
UsePAM yes
KbdInteractiveAuthentication yes
PasswordAuthentication no
AuthenticationMethods {_METHODS[first_factor]}
"""


def sshd_faults(effective: str, first_factor: FirstFactor) -> Iterator[str]:
    """What is wrong in the output of `sshd -T` for logins with a code."""
    found: dict[str, str] = {}
    for line in effective.splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name.lower(), value.strip())
    wanted = {
        "usepam": "yes",
        "kbdinteractiveauthentication": "yes",
        "passwordauthentication": "no",
        "authenticationmethods": _METHODS[first_factor],
    }
    for name, value in wanted.items():
        if found.get(name, "") != value:
            yield f"{name} is not `{value}` in effect"


def check_service(service: str) -> str:
    """The name, if it can be a PAM service. Raises PamAdminError."""
    is_plain = 0 < len(service) <= SERVICE_MAX_LENGTH and all(
        c.isascii() and (c.isalnum() or c in "._-") for c in service
    )
    if not is_plain or service.startswith("."):
        raise PamAdminError("there is no such PAM service", hint="see: ls /etc/pam.d")
    if service.startswith("common-") or service in ("textgate", "other"):
        raise PamAdminError(
            f"{service} is no service of its own", hint="name a service such as sshd or sudo, or use pam-auth-update"
        )
    return service


def replace_file(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file as a whole or not at all; one that is there keeps its owner and mode. Raises OSError."""
    status = None
    if path.exists():
        status = path.stat()
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode) if status else mode)
            if status:
                os.fchown(file.fileno(), status.st_uid, status.st_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def run_command(arguments: Sequence[str]) -> tuple[int, str]:
    """Exit status and output of a command; 127 if there is none of that name."""
    program = shutil.which(arguments[0], path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        return 127, f"{arguments[0]}: not found"
    done = subprocess.run(  # noqa: S603  # a list of our own words, no shell
        [program, *arguments[1:]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def _lines(content: bytes | None) -> list[str]:
    return [] if content is None else content.decode(errors="replace").splitlines(keepends=True)


def _encoded(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def _decoded(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
