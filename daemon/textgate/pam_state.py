# SPDX-License-Identifier: MIT
"""What textgate remembers of the services that it guards, in STATE_DIR.

Rules of this file:
- One change at a time (a lock in STATE_DIR), and no signal in the middle of one.
- A change that was broken off is dealt with before anything else is done (transaction.py).
- A damaged file of what was remembered never makes textgate write anywhere else.
- Needs nothing but the standard library: the way back from a PAM change hangs on it.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from .pam_files import PAM_DIR, PamAdminError, PamFiles, is_service
from .pam_stack import FirstFactor
from .sshd_config import DROP_IN
from .transaction import FileChange, TransactionError, Transactions

STATE_DIR = "/var/lib/textgate/pam"
LOCK_WAIT_S = 20.0
LOCK_POLL_S = 0.05
VERSION = 1


class Condition(Enum):
    """How the files of a guarded service are, compared with what was written."""

    WHOLE = "whole"
    HALF = "half"  # some are as they were before: a change was broken off
    CHANGED = "changed"  # somebody has changed one since


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


class BusyError(PamAdminError):
    """Another command is at work."""


class PamState(PamFiles):
    """The services that are guarded, and the tries among them. notes: what people should hear of by the way."""

    def __init__(self, root: str = "/", run: Callable[[Sequence[str]], tuple[int, str]] | None = None) -> None:
        super().__init__(root, run)
        self.notes: list[str] = []

    def guard(self, service: str) -> Guard | None:
        """What is remembered of a service; None if nothing is. Raises PamAdminError if it can't be read."""
        path = self._state(service)
        try:
            kept = json.loads(path.read_bytes())
            guard = Guard(
                service=str(kept["service"]),
                first_factor=FirstFactor(kept["first_factor"]),
                changes=tuple(
                    FileChange(str(item["path"]), decoded(item["before"]), decoded(item["after"]))
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
            return sorted(path.stem for path in folder.iterdir() if path.suffix == ".json" and is_service(path.stem))
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

    def is_broken_off(self) -> bool:
        """Whether a change was broken off, or is under way."""
        return self._transactions().is_open()

    # --- Changing it ---

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One change at a time, no signal in the middle of it, and nothing left of one that was broken off.

        Raises PamAdminError.
        """
        folder = self._at(STATE_DIR)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise PamAdminError(
                f"{STATE_DIR}: can't be written, so there would be no way back: {error.strerror}",
                hint="nothing was changed; run it with sudo, on a disk with room\nif that can't be had: "
                "sh /usr/libexec/textgate/disable-all",
            ) from None
        try:
            _lock(handle)
            former = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
            try:
                self._recover()
                yield
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, former)
        finally:
            os.close(handle)

    def _recover(self) -> None:
        """Undo, or finish, what was broken off. Raises PamAdminError."""
        try:
            found = self._transactions().recover()
        except TransactionError as error:  # of what is left of it, people are told by status and doctor
            self.notes.append(f"{error.message}; {error.hint}")
            return
        except OSError as error:
            raise PamAdminError(
                f"a change that was broken off can't be taken back: {told_of(error)}",
                hint=f"{hint_for(error)}; see WHEN NOBODY GETS IN in textgate(8)",
            ) from None
        if found:
            what = "finished" if found.is_done else "taken back"
            self.notes.append(f"a change that was broken off is {what} now: {', '.join(found.paths)}")
            self.notes += [f"{path}: has been changed since, and is left as it is" for path in found.left]

    def _transactions(self) -> Transactions:
        return Transactions("pam", str(self._root), then=self._tell)

    def _tell(self, paths: Sequence[str]) -> None:
        """Let the services know whose files were changed."""

    def _state(self, service: str) -> Path:
        return self._at(STATE_DIR) / f"{service}.json"

    def _remember(self, guard: Guard) -> None:
        change = self._remembering(guard)
        try:
            self._transactions().change([change])
        except OSError as error:
            raise not_written(guard.service, error) from None

    def _remembering(self, guard: Guard) -> FileChange:
        """The change by which a service is remembered."""
        path = f"{STATE_DIR}/{guard.service}.json"
        return FileChange(path, self._bytes(path), kept_text(guard), 0o600)

    def _forgetting(self, service: str, *, is_damaged: bool) -> list[FileChange]:
        """The changes by which a service is forgotten; none if nothing is remembered."""
        path = f"{STATE_DIR}/{service}.json"
        content = self._bytes(path)
        if content is None:
            return []
        aside = f"{STATE_DIR}/{service}.damaged"  # the former bytes may still be readable to a person
        kept = [FileChange(aside, self._bytes(aside), content, 0o600)] if is_damaged else []
        return [*kept, FileChange(path, content, None, 0o600)]


def kept_text(guard: Guard) -> bytes:
    """What is remembered of a service, as it is written."""
    kept = {
        "version": VERSION,
        "service": guard.service,
        "first_factor": guard.first_factor.value,
        "changes": [
            {"path": change.path, "before": encoded(change.before), "after": encoded(change.after)}
            for change in guard.changes
        ],
        "started_at": guard.started_at,
        "confirm_by": guard.confirm_by,
        "fault": guard.fault,
    }
    return json.dumps(kept, indent=1).encode() + b"\n"


def _lock(handle: int) -> None:
    give_up_at = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > give_up_at:
                raise BusyError(
                    "another `textgate pam` is at work", hint="nothing was changed; try again when it is done"
                ) from None
            time.sleep(LOCK_POLL_S)


def not_written(service: str, error: OSError) -> PamAdminError:
    """The error for a file that could not be written."""
    return PamAdminError(f"{service}: can't be changed: {told_of(error)}", hint=hint_for(error))


def told_of(error: OSError) -> str:
    """The error, and the file that it is about."""
    path = error.filename2 or error.filename  # of a rename the second one is what was to be changed
    return f"{error.strerror}: {path}" if path else str(error.strerror)


def hint_for(error: OSError) -> str:
    """What to do about a file that can't be written."""
    if error.errno == errno.EPERM:  # root may write everything but this
        return "is the file immutable, or its folder? lsattr -d shows it, chattr -i ends it; then say the same again"
    if error.errno == errno.EBUSY:
        return "is the file mounted by itself? unmount it, or change it where it comes from; then say the same again"
    return "is the disk full or read-only? then say the same again; `textgate pam status` shows how it is now"


def encoded(content: bytes | None) -> str | None:
    """A file's content in JSON."""
    return None if content is None else base64.b64encode(content).decode()


def decoded(text: str | None) -> bytes | None:
    """The way back from `encoded`. Raises ValueError."""
    return None if text is None else base64.b64decode(text, validate=True)
