# SPDX-License-Identifier: MIT
"""Puts textgate's lines into services and takes them out again, without ever leaving half of it behind.

Rules of this file:
- What a change is made of is on the disk under STATE_DIR, former and new bytes of each file, before anything else is
  written. So whatever breaks a change off, `disable` knows the way back.
- One change at a time (a lock in STATE_DIR), and no signal in the middle of one.
- A file that an administrator has changed since is never overwritten: textgate's lines alone are taken out of it, or,
  where they can't be told from his, nothing is done and he is told which lines they are.
- For sshd the order matters: its settings come first and the PAM file last, and the other way round on the way back.
  There is no moment in which a key or a password alone is asked for and a code alone lets in.
"""

from __future__ import annotations

import base64
import contextlib
import difflib
import fcntl
import glob
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from . import sshd_config
from .atomic_file import replace_file, sync_folder
from .errors import TextgateError
from .pam_stack import (
    FirstFactor,
    Rule,
    StackError,
    asks_anybody,
    block_count,
    block_text,
    body_lines,
    has_block,
    has_mark,
    is_plain_common,
    lets_in_with_code,
    read_stack,
    ways_around,
    with_block,
    without_block,
)
from .programs import run_program
from .sshd_config import DROP_IN, Setting

STATE_DIR = "/var/lib/textgate/pam"
PAM_DIR = "/etc/pam.d"
VENDOR_PAM_DIR = "/usr/lib/pam.d"  # where libpam looks next
SSHD_SERVICES = ("sshd",)
REVERT_TIMER = "textgate-pam-revert.timer"
SERVICE_MAX_LENGTH = 64
LOCK_WAIT_S = 20.0
LOCK_POLL_S = 0.05
FILES_MAX_BYTES = 1 << 20
VERSION = 1
ASKS_ANYBODY_HINT = (
    "a `required` line, or a `substack`, above textgate's lines does not end the stack: "
    "make it `requisite`, or `include`"
)

# Services that can't ask for a code, and why.
_NOBODY = "it authenticates nobody"
_ONE_PROMPT = "it can ask for one password and no more"
_AS_USER = "it runs as the user, who can't reach textgate's socket"
UNSUITABLE: Mapping[str, str] = (
    dict.fromkeys(["atd", "chpasswd", "cron", "crond", "newusers", "passwd", "runuser", "runuser-l"], _NOBODY)
    | dict.fromkeys(["systemd-user", "cups", "gdm-launch-environment", "sddm-greeter", "lightdm-greeter"], _NOBODY)
    | dict.fromkeys(["dovecot", "imap", "pop3", "smtp", "openvpn", "ppp", "samba", "vsftpd", "proftpd"], _ONE_PROMPT)
    | dict.fromkeys(["xrdp-sesman", "saslauthd", "exim4", "polkit-1", "textgate-api"], _ONE_PROMPT)
    | dict.fromkeys(["i3lock", "kde", "physlock", "swaylock", "vlock", "xlock", "xscreensaver"], _AS_USER)
)


class PamAdminError(TextgateError):
    """A change was not made, or was taken back; the message says how the files are now."""


class Condition(Enum):
    """How the files of a guarded service are, compared with what was written."""

    WHOLE = "whole"
    HALF = "half"  # some are as they were before: a change was broken off
    CHANGED = "changed"  # somebody has changed one since


@dataclass(frozen=True)
class FileChange:
    """One file as it is and as it is to be; None where it doesn't exist."""

    path: str
    before: bytes | None
    after: bytes | None

    def diff(self) -> str:
        """The change as a unified diff."""
        old, new = (_lines(content) for content in (self.before, self.after))
        former, present = ("/dev/null" if content is None else self.path for content in (self.before, self.after))
        return "".join(difflib.unified_diff(old, new, former, present))


@dataclass(frozen=True)
class Guard:
    """One service that textgate guards, as STATE_DIR remembers it.

    changes: in the order of writing. started_at: Unix seconds. confirm_by: when a try is taken back unless it is
    confirmed; None for a firm one. fault: why taking it back failed, "" if it did not.
    """

    service: str
    first_factor: FirstFactor
    changes: tuple[FileChange, ...]
    started_at: int
    confirm_by: int | None
    fault: str = ""

    def is_due(self, now_at: int) -> bool:
        """Whether a try's time is up; it is, too, when the clock is before its beginning, and says nothing."""
        return self.confirm_by is not None and not self.started_at <= now_at < self.confirm_by


@dataclass(frozen=True)
class Reverted:
    """What became of a try. error: why it could not be taken back, and is to be tried again."""

    service: str
    is_confirmed: bool
    error: TextgateError | None = None


class PamAdmin:
    """Works on the files below `root`, which is / but for tests. `run` runs a command: exit status and output."""

    def __init__(self, root: str = "/", run: Callable[[Sequence[str]], tuple[int, str]] | None = None) -> None:
        self._root = Path(root)
        self._run = run or run_program

    # --- What there is ---

    def read_pam(self, name: str) -> str:
        """The text that libpam reads for a name: of /etc/pam.d, or else of /usr/lib/pam.d.

        Raises StackError if there is no such file, PamAdminError if it can't be read.
        """
        paths = [name] if name.startswith("/") else [f"{PAM_DIR}/{name}", f"{VENDOR_PAM_DIR}/{name}"]
        for path in paths:
            content = self._bytes(path)
            if content is not None:
                return content.decode(errors="surrogateescape")  # comments may be in any encoding
        raise StackError(f"{paths[0]}: can't be read", hint=f"see: ls {PAM_DIR}")

    def rules(self, service: str) -> list[Rule]:
        """The auth stack of a service. Raises StackError."""
        return read_stack(service, self.read_pam)

    def services(self) -> list[str]:
        """The services that have textgate's lines, by whoever put them in, and by way of other files too."""
        return [name for name, rules in self._stacks() if has_block(rules)]

    def services_through(self, service: str) -> list[str]:
        """The services whose stack goes through the file of this one: itself, and su-l for su."""
        return [name for name, _ in self._stacks() if service in self._files_of(name)]

    def _files_of(self, service: str) -> set[str]:
        """Names of the files that a service's stack is read from. Raises StackError."""
        names: set[str] = set()

        def read(name: str) -> str:
            names.add(name.removeprefix(f"{PAM_DIR}/"))
            return self.read_pam(name)

        read_stack(service, read)
        return names

    def _stacks(self) -> Iterator[tuple[str, list[Rule]]]:
        """Every service whose files can be read."""
        names = {
            path.name
            for folder in (PAM_DIR, VENDOR_PAM_DIR)
            if self._at(folder).is_dir()
            for path in self._at(folder).iterdir()
            if _is_service(path.name)
        }
        for name in sorted(names):
            with contextlib.suppress(StackError, PamAdminError):
                yield name, self.rules(name)

    def ways_around(self, service: str) -> tuple[str, ...]:
        """Lines of a service that let in although textgate says no. Raises StackError."""
        return ways_around(self.rules(service))

    def asks_anybody(self, service: str) -> bool:
        """Whether codes are texted and asked for after a wrong password too; not where sshd wants a key before.

        Raises StackError or PamAdminError.
        """
        if not asks_anybody(self.rules(service)):
            return False
        return service not in SSHD_SERVICES or not sshd_config.proves_first(
            sshd_config.effective(self.effective_sshd())
        )

    def guard(self, service: str) -> Guard | None:
        """What is remembered of a service; None if nothing is. Raises PamAdminError if it can't be read."""
        path = self._state(service)
        try:
            kept = json.loads(path.read_bytes())
            guard = Guard(
                service=str(kept["service"]),
                first_factor=FirstFactor(kept["first_factor"]),
                changes=tuple(
                    FileChange(str(item["path"]), _decoded(item["before"]), _decoded(item["after"]))
                    for item in kept["changes"]
                ),
                started_at=int(kept["started_at"]),
                confirm_by=None if kept["confirm_by"] is None else int(kept["confirm_by"]),
                fault=str(kept["fault"]),
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            raise PamAdminError(f"{path}: can't be read", hint="run it with sudo") from None
        except (OSError, ValueError, KeyError, TypeError):
            guard = None
        # A damaged file must not make textgate write anywhere else.
        paths = [change.path for change in guard.changes] if guard else []
        if guard is None or guard.service != service or not {*paths} <= {f"{PAM_DIR}/{service}", DROP_IN}:
            raise PamAdminError(
                f"{path}: is damaged, what {service}'s files were before is not known any more",
                hint=f"textgate pam disable {service} takes textgate's lines out all the same",
            )
        return guard

    def remembered(self) -> list[str]:
        """The services that something is remembered of, readable or not."""
        folder = self._at(STATE_DIR)
        try:
            return sorted(path.stem for path in folder.iterdir() if path.suffix == ".json" and _is_service(path.stem))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except PermissionError:
            raise PamAdminError(f"{folder}: can't be read", hint="run it with sudo") from None

    def guards(self) -> list[Guard]:
        """All that is remembered and can be read, by service."""
        found = []
        for service in self.remembered():
            with contextlib.suppress(PamAdminError):
                guard = self.guard(service)
                if guard is not None:
                    found.append(guard)
        return found

    def pending(self) -> list[Guard]:
        """The tries that are neither confirmed nor taken back."""
        return [guard for guard in self.guards() if guard.confirm_by is not None]

    def condition(self, guard: Guard) -> Condition:
        """How a service's files are now."""
        are = [(self._bytes(change.path), change) for change in guard.changes]
        if all(content == change.after for content, change in are):
            return Condition.WHOLE
        if all(content in (change.after, change.before) for content, change in are):
            return Condition.HALF
        return Condition.CHANGED

    def marked(self) -> list[str]:
        """The services with lines of textgate's making in a file of their own; a link has none."""
        found = []
        for path in sorted(self._at(PAM_DIR).iterdir()) if self._at(PAM_DIR).is_dir() else ():
            with contextlib.suppress(PamAdminError):  # a folder, say: what can't be read was not written by `enable`
                content = self._bytes(f"{PAM_DIR}/{path.name}") or b""
                if _is_service(path.name) and not path.is_symlink() and has_mark(content.decode(errors="replace")):
                    found.append(path.name)
        return found

    # --- Changing it ---

    def plan(self, service: str, first_factor: FirstFactor) -> tuple[FileChange, ...]:
        """What `enable` would change, in the order of writing. Raises StackError or PamAdminError if it can't be.

        Where a change was broken off, its rests count as put back, which is what `enable` does first.
        """
        check_service(service)
        is_sshd = service in SSHD_SERVICES
        if first_factor is not FirstFactor.PASSWORD and not is_sshd:
            raise PamAdminError(
                f"{service} sees no ssh key: its first factor is the password", hint="use --first-factor password"
            )
        path = f"{PAM_DIR}/{service}"
        for name in [path, DROP_IN] if is_sshd else [path]:
            if self._at(name).is_symlink():
                raise PamAdminError(
                    f"{name}: is a symbolic link, and is left alone",
                    hint="put a file in its place, or the lines into the file that it points to, by hand:\n  "
                    + "\n  ".join(body_lines(first_factor)),
                )
        content, before = self._without_rests(service)
        if has_block(self.planned_rules(service, before)):
            raise PamAdminError(
                f"{service} asks for a code already, by lines that `textgate pam` did not put in",
                hint=f"textgate pam status; look for textgate in {path} and in the files that it includes",
            )
        if first_factor is FirstFactor.ANY and not is_plain_common(self.rules("common-auth")):
            raise PamAdminError(
                "common-auth checks passwords by more than pam_unix, which `any` does not cover",
                hint=f"use --first-factor key or password, or write the lines into {path} by hand: "
                "see /usr/share/doc/textgate/pam_helper/README.md",
            )
        after = with_block(before, first_factor, service=service)
        self._check_stack(service, after, first_factor)
        changes = [FileChange(path, content, after.encode(errors="surrogateescape"))]
        if is_sshd:
            drop_in = sshd_config.drop_in_text(first_factor).encode()
            changes.insert(0, FileChange(DROP_IN, self._bytes(DROP_IN), drop_in))
        return tuple(changes)

    def _without_rests(self, service: str) -> tuple[bytes | None, str]:
        """A service's file in /etc/pam.d, None for none, and what libpam reads for it: without a broken off change.

        Raises StackError or PamAdminError.
        """
        path, guard = f"{PAM_DIR}/{service}", self.guard(service)
        is_half = guard is not None and self.condition(guard) is Condition.HALF
        known = {change.path: change.before for change in guard.changes} if guard and is_half else {}
        before = known.get(path, self._bytes(path))
        if before is not None:
            return before, before.decode(errors="surrogateescape")
        return None, self.read_pam(f"{VENDOR_PAM_DIR}/{service}" if path in known else service)

    def planned_rules(self, service: str, text: str) -> list[Rule]:
        """The stack of a service as it would be with this text for its own file. Raises StackError."""
        return read_stack(service, lambda name: text if name == service else self.read_pam(name))

    def _check_stack(self, service: str, text: str, first_factor: FirstFactor) -> None:
        """Nobody gets around the lines, a right code gets through them, and nobody is asked twice or without need."""
        rules = self.planned_rules(service, text)
        around = ways_around(rules)
        if around:
            raise PamAdminError(
                f"{service}: these lines would let in without a code: " + ", ".join(around),
                hint="a `sufficient` line, or a jump, above textgate's lines ends the stack before them: "
                "make it `requisite`, or put it below",
            )
        if first_factor is not FirstFactor.KEY and asks_anybody(rules):
            raise PamAdminError(
                f"{service}: codes would be texted, and asked for, after a wrong password too",
                hint=ASKS_ANYBODY_HINT,
            )
        if not lets_in_with_code(rules):
            raise PamAdminError(
                f"{service}: nobody would be let in, not with a right code either",
                hint="the lines of type auth above or below refuse everybody; see: textgate login-test",
            )
        for name in self.services_through(service):
            through = read_stack(name, lambda one: text if one == service else self.read_pam(one))
            if block_count(through) > 1:
                raise PamAdminError(
                    f"{name} goes through {service} and would ask for two codes",
                    hint=f"textgate pam disable {name}",
                )

    def enable(
        self,
        service: str,
        first_factor: FirstFactor,
        *,
        now_at: int,
        confirm_by: int | None = None,
        is_forced: bool = False,
    ) -> tuple[FileChange, ...]:
        """Guard a service. Nothing stays changed if anything of it fails.

        confirm_by: Unix seconds after which `revert_due` takes it back. is_forced: Match blocks of sshd that go
        without a code are left to go. Doing it twice changes nothing.
        Returns what was changed. Raises PamAdminError or StackError.
        """
        check_service(service)
        with self._alone():
            guard = self.guard(service)
            if guard is not None and not self._mend(guard, first_factor):
                return ()
            changes = self.plan(service, first_factor)
            self._remember(Guard(service, first_factor, changes, now_at, confirm_by))
            try:
                if confirm_by is not None:
                    self._start_timer()
                for change in changes:
                    self._write(change.path, change.after)
                    if change.path == DROP_IN:
                        self._check_sshd(first_factor, is_forced=is_forced)
                        self._reload_sshd()
            except BaseException as error:
                self._roll_back(service, changes)
                if isinstance(error, OSError):
                    raise _not_written(service, error) from None
                raise
            return changes

    def _mend(self, guard: Guard, first_factor: FirstFactor) -> bool:
        """Whether a service that was enabled before is to be enabled anew. What was broken off is taken back."""
        condition = self.condition(guard)
        if condition is Condition.HALF:
            self._take_out(guard.service)
            return True
        if condition is Condition.CHANGED and not has_block(self.rules(guard.service)):
            raise PamAdminError(
                f"{PAM_DIR}/{guard.service}: was changed since textgate wrote it, and asks for no code any more",
                hint=f"textgate pam disable {guard.service}, then enable it anew; your changes stay",
            )
        if guard.first_factor is not first_factor:
            raise PamAdminError(
                f"{guard.service} is guarded with the first factor {guard.first_factor.value}",
                hint=f"textgate pam disable {guard.service}, then enable it anew",
            )
        return False

    def _roll_back(self, service: str, changes: tuple[FileChange, ...]) -> None:
        """Put back what a change that failed has written. Raises PamAdminError if that fails too."""
        try:
            for change in reversed(changes):
                if self._bytes(change.path) != change.before:
                    self._write(change.path, change.before)
            if any(change.path == DROP_IN for change in changes):
                with contextlib.suppress(PamAdminError):
                    self._reload_sshd()
            self._forget(service)
        except OSError as error:
            raise PamAdminError(
                f"{service}: half of the change is left, and could not be taken back: {error.strerror}",
                hint=f"textgate pam disable {service}, as soon as the files can be written",
            ) from None

    def disable(self, service: str) -> tuple[FileChange, ...]:
        """Take textgate's lines out: files that are as textgate left them get back the very bytes that they had.

        Works without what was remembered, too. Doing it twice changes nothing.
        Returns what was changed. Raises PamAdminError when the lines can't be told from an administrator's, or when
        they are not of `enable`'s making; then nothing was changed.
        """
        _check_name(service)
        with self._alone():
            return self._take_out(service)

    def _take_out(self, service: str) -> tuple[FileChange, ...]:
        try:
            guard = self.guard(service)
        except PamAdminError:
            guard = None
        remembered = guard.changes if guard else ()
        paths = [f"{PAM_DIR}/{service}", *([DROP_IN] if service in SSHD_SERVICES else [])]
        known = {change.path: change for change in remembered}
        is_remembered = self._state(service).exists()
        back = [one for path in paths for one in self._way_back(path, known.get(path), service)]
        if not back and not is_remembered:
            if service in self.services():
                raise PamAdminError(
                    f"{service} asks for a code by lines that `textgate pam` did not put in",
                    hint=f"take them out by hand: grep -n textgate {PAM_DIR}/{service} {PAM_DIR}/common-auth; "
                    "or pam-auth-update, if that put them in",
                )
            return ()
        try:
            for change in back:
                self._write(change.path, change.after)
            for path in paths:
                self._remove_rests(path)
            if service in SSHD_SERVICES:
                self._reload_sshd()
            self._forget(service, is_damaged=guard is None)
        except OSError as error:
            raise _not_written(service, error) from None
        return tuple(back)

    def _way_back(self, path: str, known: FileChange | None, service: str) -> list[FileChange]:
        """What is to be done to one file. Raises PamAdminError."""
        content = self._bytes(path)
        if content is None or (known and content == known.before):
            return []
        text = content.decode("utf-8", errors="surrogateescape")
        is_of_ours = text.startswith(f"{sshd_config.FIRST_LINE}\n") if path == DROP_IN else has_mark(text)
        if self._at(path).is_symlink() and (known or is_of_ours):
            raise PamAdminError(f"{path}: is a symbolic link by now, and is left alone", hint=f"ls -l {path}")
        if known and content == known.after:
            return [FileChange(path, content, known.before)]
        if not is_of_ours:
            return []
        if path == DROP_IN:
            aside = self._free_name(f"{path}.changed")  # sshd reads *.conf alone
            keep = [] if known is None else [FileChange(aside, None, content)]
            return [*keep, FileChange(path, content, known.before if known else None)]
        cleaned = without_block(text)
        if cleaned is None:
            raise PamAdminError(
                f"{path}: was changed within textgate's lines, and is left alone",
                hint=f"take out by hand what is textgate's of these lines, and then: textgate pam disable {service}\n"
                + block_text(text),
            )
        return [FileChange(path, content, cleaned.encode("utf-8", errors="surrogateescape"))]

    def _free_name(self, path: str) -> str:
        names = [path, *(f"{path}.{number}" for number in range(2, 100))]
        return next((name for name in names if not os.path.lexists(self._at(name))), names[-1])

    def confirm(self, service: str) -> bool:
        """Make a try firm. False if there was none. Raises PamAdminError."""
        _check_name(service)
        with self._alone():
            return self._confirm(self.guard(service))

    def _confirm(self, guard: Guard | None) -> bool:
        if guard is None or guard.confirm_by is None:
            return False
        if self.condition(guard) is Condition.HALF:
            raise PamAdminError(
                f"{guard.service}: the change was broken off in the middle",
                hint=f"textgate pam disable {guard.service}",
            )
        self._remember(replace(guard, confirm_by=None, fault=""))
        self._stop_timer()
        return True

    def revert_due(self, now_at: int, passed_since: Callable[[Guard], bool]) -> list[Reverted]:
        """Confirm the tries that a login succeeded through, take back those whose time is up; what the timer calls.

        passed_since: whether a right code was given through a service's lines since its try began.
        A try that can't be taken back stays pending; its error is told once.
        """
        done = []
        with self._alone():
            for guard in self.pending():
                try:
                    if self.condition(guard) is not Condition.HALF and passed_since(guard):
                        self._confirm(guard)
                        done.append(Reverted(guard.service, True))
                    elif guard.is_due(now_at):
                        self._take_out(guard.service)
                        done.append(Reverted(guard.service, False))
                except TextgateError as error:
                    if error.message != guard.fault:
                        done.append(Reverted(guard.service, False, error))
                        with contextlib.suppress(TextgateError):
                            self._remember(replace(guard, fault=error.message))
            self._stop_timer()
        return done

    # --- sshd ---

    def sshd_settings(self) -> list[Setting]:
        """Every setting of sshd's files in the order in which sshd reads them."""
        return list(self._settings_of(sshd_config.MAIN_FILE, "", 0))

    def _settings_of(self, path: str, condition: str, nesting: int) -> Iterator[Setting]:
        text = (self._bytes(path) or b"").decode(errors="replace")
        lines = ((f"{path}:{number}", line) for number, line in enumerate(text.splitlines(), start=1))
        for setting in sshd_config.read_settings(lines, condition=condition):
            yield setting
            if setting.keyword == "include" and nesting < 16:
                for pattern in setting.value.split():
                    whole = pattern if pattern.startswith("/") else f"/etc/ssh/{pattern}"
                    for found in sorted(glob.glob(str(self._at(whole)))):  # noqa: PTH207  # an absolute pattern
                        inner = "/" + str(Path(found).relative_to(self._root))
                        yield from self._settings_of(inner, setting.condition, nesting + 1)

    def effective_sshd(self, user: str = "root") -> str:
        """What `sshd -T` prints for a user's login from this machine. Raises PamAdminError."""
        self._make_privsep_folder()
        # All that a Match line can ask for: without its port, sshd refuses to look at one with LocalPort.
        login = f"user={user},host=localhost,addr=127.0.0.1,laddr=127.0.0.1,lport=22"
        status, output = self._run(["sshd", "-T", "-C", login])
        if status != 0:
            raise PamAdminError("sshd's effective settings can't be read", hint=_last_line(output) or "see: sshd -T")
        return output

    def _check_sshd(self, first_factor: FirstFactor, *, is_forced: bool) -> None:
        """sshd takes its files, and they mean what they should. Raises PamAdminError."""
        self._make_privsep_folder()
        settings = self.sshd_settings()
        status, output = self._run(["sshd", "-t"])
        if status != 0:
            earlier = list(sshd_config.earlier_faults(settings, first_factor))
            in_the_way = f"\nsshd reads first: {'; '.join(earlier)}" if earlier else ""
            raise PamAdminError(
                "sshd does not take the new settings", hint=(_last_line(output) or "see: sshd -t") + in_the_way
            )
        faults = list(sshd_config.effective_faults(self.effective_sshd(), first_factor, settings))
        if faults:
            raise PamAdminError(
                "sshd: " + "; ".join(faults),
                hint=f"take that line out; {DROP_IN} must be read, and before all that sets the same: "
                f"`Include /etc/ssh/sshd_config.d/*.conf` at the top of {sshd_config.MAIN_FILE}",
            )
        opened = [] if is_forced else list(sshd_config.match_faults(settings, first_factor))
        if opened:
            raise PamAdminError(
                "sshd: some logins would go without a code: " + "; ".join(opened),
                hint="take these lines out; or, if they are meant: "
                f"textgate pam try sshd --first-factor {first_factor.value} --force",
            )

    def _make_privsep_folder(self) -> None:
        """`sshd -t` wants the folder that its unit makes, and a stopped sshd has none."""
        with contextlib.suppress(OSError):
            self._at("/run/sshd").mkdir(mode=0o755, parents=True)

    def _reload_sshd(self) -> None:
        status, _ = self._run(["systemctl", "is-active", "--quiet", "ssh.service"])
        if status != 0:
            return  # not running, or started anew for each connection: it reads its files at the next start
        status, output = self._run(["systemctl", "reload", "ssh.service"])
        if status != 0:
            raise PamAdminError("sshd could not be reloaded", hint=_last_line(output) or "see: systemctl status ssh")

    # --- The timer ---

    def is_timer_running(self) -> bool:
        """Whether tries are looked after now."""
        return self._run(["systemctl", "is-active", "--quiet", REVERT_TIMER])[0] == 0

    def _start_timer(self) -> None:
        status, output = self._run(["systemctl", "enable", "--now", "--quiet", REVERT_TIMER])
        if status != 0:
            raise PamAdminError(
                "the timer that takes the try back can't be started: nothing was changed",
                hint=_last_line(output) or f"see: systemctl status {REVERT_TIMER}",
            )

    def _stop_timer(self) -> None:
        """Nothing is being tried any more: the timer sleeps until the next time."""
        if not self.pending():
            self._run(["systemctl", "disable", "--now", "--quiet", REVERT_TIMER])

    # --- Files ---

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One change at a time, and no signal in the middle of it. Raises PamAdminError."""
        folder = self._at(STATE_DIR)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise PamAdminError(
                f"{STATE_DIR}: can't be written, so there would be no way back: {error.strerror}",
                hint="nothing was changed; run it with sudo, on a disk with room",
            ) from None
        try:
            _lock(handle)
            former = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
            try:
                yield
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, former)
        finally:
            os.close(handle)

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _bytes(self, path: str) -> bytes | None:
        """A file's content, None if there is none. Raises PamAdminError."""
        try:
            with self._at(path).open("rb") as file:
                content = file.read(FILES_MAX_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise PamAdminError(f"{path}: can't be read: {error.strerror}", hint="run it with sudo") from None
        if len(content) > FILES_MAX_BYTES:
            raise PamAdminError(f"{path}: is too large to be a configuration")
        return content

    def _state(self, service: str) -> Path:
        return self._at(STATE_DIR) / f"{service}.json"

    def _remember(self, guard: Guard) -> None:
        kept = {
            "version": VERSION,
            "service": guard.service,
            "first_factor": guard.first_factor.value,
            "changes": [
                {"path": change.path, "before": _encoded(change.before), "after": _encoded(change.after)}
                for change in guard.changes
            ],
            "started_at": guard.started_at,
            "confirm_by": guard.confirm_by,
            "fault": guard.fault,
        }
        try:
            replace_file(self._state(guard.service), json.dumps(kept, indent=1).encode() + b"\n", mode=0o600)
        except OSError as error:
            raise _not_written(guard.service, error) from None

    def _forget(self, service: str, *, is_damaged: bool = False) -> None:
        path = self._state(service)
        if is_damaged and path.exists():
            path.replace(path.with_suffix(".damaged"))  # the former bytes may still be readable to a person
        path.unlink(missing_ok=True)
        sync_folder(path.parent)
        self._stop_timer()

    def _remove_rests(self, path: str) -> None:
        """Unfinished copies that a power cut left beside a file."""
        target = self._at(path)
        for rest in target.parent.glob(f".{target.name}.????????") if target.parent.is_dir() else ():
            rest.unlink(missing_ok=True)

    def _write(self, path: str, content: bytes | None) -> None:
        target = self._at(path)
        if content is None:
            target.unlink(missing_ok=True)
            sync_folder(target.parent)
            return
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(target, content, mode=0o644)


def check_service(service: str) -> str:
    """The name, if it is a PAM service that can ask for a code. Raises PamAdminError."""
    _check_name(service)
    if service.startswith("common-") or service in ("textgate", "other"):
        raise PamAdminError(
            f"{service} is no service of its own", hint="name a service such as sshd or sudo, or use pam-auth-update"
        )
    if service in UNSUITABLE:
        raise PamAdminError(f"{service} can't ask for a code: {UNSUITABLE[service]}", hint="leave it as it is")
    return service


def _check_name(service: str) -> None:
    if not _is_service(service) and service != "textgate":
        raise PamAdminError("there is no such PAM service", hint=f"see: ls {PAM_DIR}")


def _is_service(name: str) -> bool:
    return (
        len(name) <= SERVICE_MAX_LENGTH
        and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) is not None
        and name != "textgate"
        and not name.endswith("~")
        and ".dpkg-" not in name
    )


def _lock(handle: int) -> None:
    give_up_at = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > give_up_at:
                raise PamAdminError(
                    "another `textgate pam` is at work", hint="nothing was changed; try again when it is done"
                ) from None
            time.sleep(LOCK_POLL_S)


def _not_written(service: str, error: OSError) -> PamAdminError:
    return PamAdminError(
        f"{service}: can't be changed: {error.strerror}",
        hint="is the disk full or read-only? then say the same again; `textgate pam status` shows how it is now",
    )


def _lines(content: bytes | None) -> list[str]:
    text = "" if content is None else content.decode(errors="replace")
    return [line if line.endswith("\n") else f"{line}\n" for line in text.splitlines(keepends=True)]


def _encoded(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def _decoded(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
