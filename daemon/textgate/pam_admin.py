# SPDX-License-Identifier: MIT
"""Puts textgate's lines into services and takes them out again, without ever leaving half of it behind.

Rules of this file:
- A change is made by a transaction: all files of it or none, what is remembered included, and of all services at once
  where all are meant. Whatever breaks it off, the next command, the timer or the next start takes it back.
- A file that an administrator has changed since is never overwritten: textgate's lines alone are taken out of it, or,
  where they can't be told from his, nothing is done and he is told which lines they are.
- For sshd the order matters: its settings come first and the PAM file last, and the other way round on the way back.
  There is no moment in which a key or a password alone is asked for and a code alone lets in.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from . import sshd_config
from .errors import TextgateError
from .guard_faults import Subject, failures, faults_of
from .pam_files import PAM_DIR, SSHD_SERVICES, VENDOR_PAM_DIR, PamAdminError, check_name, check_service
from .pam_sshd import PamSshd, last_line
from .pam_stack import (
    FirstFactor,
    asks_anybody,
    block_text,
    body_lines,
    has_block,
    has_mark,
    is_plain_common,
    read_stack,
    with_block,
    without_block,
)
from .pam_state import Condition, Guard, PamState, not_written, told_of
from .sshd_config import DROP_IN
from .transaction import FileChange

REVERT_TIMER = "textgate-pam-revert.timer"


@dataclass(frozen=True)
class Reverted:
    """What became of a try. error: why it could not be taken back, and is to be tried again."""

    service: str
    is_confirmed: bool
    error: TextgateError | None = None


class PamAdmin(PamState, PamSshd):
    """Puts textgate's lines into services and takes them out, below `root`, which is / but for tests."""

    def asks_anybody(self, service: str) -> bool:
        """Whether codes are texted and asked for after a wrong password too; not where sshd wants a key before.

        Raises StackError or PamAdminError.
        """
        if not asks_anybody(self.rules(service)):
            return False
        return service not in SSHD_SERVICES or not self.sshd_proves_first()

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

    def _check_stack(self, service: str, text: str, first_factor: FirstFactor) -> None:
        """Nothing of `guard_faults` is wrong with the stack as it would be, nor with those that go through it."""
        is_after_key = first_factor is FirstFactor.KEY  # which sshd has asked for before it comes to PAM
        for name in sorted({service, *self.services_through(service)}, key=lambda one: (one != service, one)):
            rules = read_stack(name, lambda one: text if one == service else self.read_pam(one))
            found = failures(faults_of(Subject(name, rules, not is_after_key and asks_anybody(rules))))
            if found:
                through = "" if name == service else f", which goes through {service}"
                raise PamAdminError(
                    f"{name}{through}: with textgate's lines: " + "; ".join(fault.message for fault in found),
                    hint="\n".join(dict.fromkeys(fault.remedy for fault in found if fault.remedy)),
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
            self._write_guard(Guard(service, first_factor, changes, now_at, confirm_by), is_forced=is_forced)
            return changes

    def _write_guard(self, guard: Guard, *, is_forced: bool) -> None:
        """Write a service's files, what is remembered of it first. Raises PamAdminError, and all is as before."""
        changes = [self._remembering(guard), *guard.changes]
        try:
            with self._transactions().begin(changes) as transaction:
                if guard.confirm_by is not None:
                    self._start_timer()
                for change in changes:
                    transaction.apply(change.path)
                    if change.path == DROP_IN:
                        self._check_sshd(guard.first_factor, is_forced=is_forced)
                        self._reload_sshd()
                transaction.commit(is_told=True)
        except BaseException as error:
            self._stop_timer()
            if isinstance(error, OSError):
                raise self._broken_off(guard.service, error) from None
            raise

    def _broken_off(self, what: str, error: OSError) -> PamAdminError:
        """The error for files that can't be written; all is as before, unless that couldn't be written either."""
        if not self._transactions().is_open():
            return not_written(what, error)
        return PamAdminError(
            f"{what}: half of the change is left, and could not be taken back: {told_of(error)}",
            hint="as soon as the files can be written, the next textgate pam, or textgate's timer, takes it back",
        )

    def _mend(self, guard: Guard, first_factor: FirstFactor) -> bool:
        """Whether a service that was enabled before is to be enabled anew. What was broken off is taken back."""
        condition = self.condition(guard)
        if condition is Condition.HALF:
            self._take_out([guard.service])
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

    def disable(self, service: str) -> tuple[FileChange, ...]:
        """Take textgate's lines out: files that are as textgate left them get back the very bytes that they had.

        Works without what was remembered, too. Doing it twice changes nothing.
        Returns what was changed. Raises PamAdminError when the lines can't be told from an administrator's, or when
        they are not of `enable`'s making; then nothing was changed.
        """
        check_name(service)
        with self._alone():
            return self._take_out([service])[service]

    def disable_all(self) -> dict[str, tuple[FileChange, ...]]:
        """Take textgate's lines out of every service that has them, or, if that can't be done, out of none.

        Returns what was changed, by service. Raises PamAdminError as `disable`; then nothing was changed.
        """
        with self._alone():
            return self._take_out(self.with_lines())

    def recover(self) -> None:
        """Deal with a change that was broken off, as every other command does first. Raises PamAdminError."""
        with self._alone():
            pass

    def with_lines(self) -> list[str]:
        """The services that have lines or settings of textgate's making, or are remembered to have had them."""
        settings = (self._bytes(DROP_IN) or b"").decode(errors="replace")
        sshd = SSHD_SERVICES if settings.startswith(f"{sshd_config.FIRST_LINE}\n") else ()
        return sorted({*self.remembered(), *self.marked(), *sshd})

    def _take_out(self, services: Sequence[str]) -> dict[str, tuple[FileChange, ...]]:
        back = self._ways_back(services)
        forgotten = [one for service in services for one in self._forgetting(service, is_damaged=self._lost(service))]
        changes = [*(change for found in back.values() for change in found), *forgotten]
        if not changes:
            return back
        try:
            self._transactions().change(changes)
        except OSError as error:
            raise self._broken_off(", ".join(services), error) from None
        self._stop_timer()
        return back

    def _ways_back(self, services: Sequence[str]) -> dict[str, tuple[FileChange, ...]]:
        """What is to be done to the files of each service. Raises PamAdminError that names all obstacles."""
        found: dict[str, tuple[FileChange, ...]] = {}
        errors = []
        for service in services:
            try:
                found[service] = tuple(self._service_back(service))
            except PamAdminError as error:
                errors.append(error)
        if errors:
            nothing = "; nothing was changed" if len(services) > 1 else ""
            raise PamAdminError(
                "; ".join(error.message for error in errors) + nothing,
                hint="\n".join(error.hint for error in errors if error.hint) or None,
            )
        return found

    def _lost(self, service: str) -> bool:
        """Whether what was remembered of a service can't be read."""
        try:
            self.guard(service)
        except PamAdminError:
            return True
        return False

    def _service_back(self, service: str) -> list[FileChange]:
        guard = None if self._lost(service) else self.guard(service)
        paths = [f"{PAM_DIR}/{service}", *([DROP_IN] if service in SSHD_SERVICES else [])]
        known = {change.path: change for change in guard.changes} if guard else {}
        back = [one for path in paths for one in self._way_back(path, known.get(path), service)]
        if not back and not self._state(service).exists() and service in self.services():
            raise PamAdminError(
                f"{service} asks for a code by lines that `textgate pam` did not put in",
                hint=f"take them out by hand: grep -n textgate {PAM_DIR}/{service} {PAM_DIR}/common-auth; "
                "or pam-auth-update, if that put them in",
            )
        return back

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
        check_name(service)
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
                        self._take_out([guard.service])
                        done.append(Reverted(guard.service, False))
                except TextgateError as error:
                    if error.message != guard.fault:
                        done.append(Reverted(guard.service, False, error))
                        with contextlib.suppress(TextgateError):
                            self._remember(replace(guard, fault=error.message))
            self._stop_timer()
        return done

    # --- The timer ---

    def is_timer_running(self) -> bool:
        """Whether tries are looked after now."""
        return self._run(["systemctl", "is-active", "--quiet", REVERT_TIMER])[0] == 0

    def _start_timer(self) -> None:
        status, output = self._run(["systemctl", "enable", "--now", "--quiet", REVERT_TIMER])
        if status != 0:
            raise PamAdminError(
                "the timer that takes the try back can't be started: nothing was changed",
                hint=last_line(output) or f"see: systemctl status {REVERT_TIMER}",
            )

    def _stop_timer(self) -> None:
        """Nothing is being tried any more: the timer sleeps until the next time."""
        if not self.pending():
            self._run(["systemctl", "disable", "--now", "--quiet", REVERT_TIMER])

    # --- After a change ---

    def _tell(self, paths: Sequence[str]) -> None:
        """Let sshd read its files anew. That it can't is no reason to leave a way back half done."""
        if DROP_IN in paths:
            try:
                self._reload_sshd()
            except PamAdminError as error:
                self.notes.append(f"{error.message}, and goes on with what it read before: {error.hint}")
