# SPDX-License-Identifier: MIT
"""What the removal of the package does to guarded services: it takes the lines out, and puts them back if it fails.

Rules of this file:
- All files are looked at first. Where one can't be cleaned, nothing is changed, and the package stays.
- What is taken out is on the disk before (RECORD), with the bytes of each file. Unless the removal comes to its end,
  these bytes go back: by dpkg's next step (`postinst abort-remove`), or, where dpkg itself was killed, by textgate's
  timer, the next start, or the next installation.
- After its end the record stays as REMOVED: an administrator who installs the package again hears what was guarded.
- Lines are never put back while dpkg is at work on the package, or where one of the package's files is missing: they
  would refuse everybody.
- Needs nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import struct
from collections.abc import Iterator, Sequence

from .pam_admin import PamAdmin
from .pam_files import PAM_DIR, SSHD_SERVICES, PamAdminError, is_service
from .pam_state import STATE_DIR, decoded, encoded, hint_for, not_written, told_of
from .sshd_config import DROP_IN
from .transaction import CHANGES_DIR, PLACES, FileChange, TransactionError

RECORD = f"{CHANGES_DIR}/removal"
REMOVED = f"{CHANGES_DIR}/removed"
COMMON_AUTH = f"{PAM_DIR}/common-auth"
DPKG_LOCK = "/var/lib/dpkg/lock"
DPKG_LISTS = ("/var/lib/dpkg/info/textgate.list", "/var/lib/dpkg/info/textgate:*.list")
_PROFILES = ("env", "DEBIAN_FRONTEND=noninteractive", "pam-auth-update", "--package")

# Without the package's files, a line of one of these forms refuses everybody. prerm has the same rule.
_LIVE = re.compile(
    r"^[^#\n]*(?:(?:include|substack)[ \t]+(?:/etc/pam\.d/)?textgate(?:[ \t]|$)|pam_textgate\.so|/libexec/textgate/)",
    re.MULTILINE,
)
# What of the package a guarded login needs; documents may be missing (dpkg's path-exclude).
_NEEDED = re.compile(r"(?:/usr)?/(?:lib|libexec|bin|sbin)/.*")


class PamRemoval(PamAdmin):
    """Takes all lines out for a removal, and puts them back."""

    def set_aside(self) -> list[str]:
        """Take all lines out. Answers the files that they were in.

        Raises PamAdminError where that can't be done; then all is guarded as before.
        """
        is_live = any(self._is_live(one) for one in self._pam_paths())
        if not (is_live or self.with_lines() or self.is_suspended() or self.is_broken_off()):
            self._take_profile_out(has_profile=False)
            return []
        self.resume()  # of a removal before this one
        with self._alone():
            back = self._ways_back(self.with_lines())
            changes = [change for found in back.values() for change in found]
            changes += [one for name in back for one in self._forgetting(name, is_damaged=self._lost(name))]
            has_profile = self._is_live(COMMON_AUTH)
            self._require_none_left({change.path: change.after for change in changes})
            if not changes and not has_profile:
                return []
            try:
                self._write_record(RECORD, changes, has_profile=has_profile)
                self._take_profile_out(has_profile=has_profile)
                self._transactions().change(changes)
            except (OSError, TransactionError, PamAdminError) as error:
                raise self._taken_back(error) from None
        self._stop_timer()
        in_pam = [change.path for change in changes if change.path.startswith(PAM_DIR)]
        return sorted({*in_pam, *([COMMON_AUTH] if has_profile else [])})

    def resume(self) -> list[str]:
        """Put back what a removal took out that did not come to its end. Answers the files. Raises PamAdminError."""
        with self._alone():
            record = self._record(RECORD)
            if record is None:
                return []
            changes, has_profile = record
            try:
                return self._put_back(changes, has_profile=has_profile)
            except OSError as error:
                raise PamAdminError(
                    f"what a removal took out can't be put back: {told_of(error)}", hint=hint_for(error)
                ) from None

    def is_suspended(self) -> bool:
        """Whether a removal has taken lines out and has not come to its end."""
        return os.path.lexists(self._at(RECORD))

    def is_dpkg_at_work(self) -> bool:
        """Whether dpkg is installing or removing something."""
        try:
            handle = os.open(self._at(DPKG_LOCK), os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:  # struct flock: type, whence, start, length, pid
            asked = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            return bool(struct.unpack("hhqqi0q", fcntl.fcntl(handle, fcntl.F_GETLK, asked))[0] != fcntl.F_UNLCK)
        except OSError:
            return True
        finally:
            os.close(handle)

    def is_whole(self) -> bool:
        """Whether the package's files that a guarded login needs are all there."""
        lists = [path for one in DPKG_LISTS for path in self._at("/").glob(one.lstrip("/"))]
        names = {name for path in lists for name in path.read_text(errors="surrogateescape").splitlines()}
        needed = [name for name in names if _NEEDED.fullmatch(name)] + [f"{PAM_DIR}/textgate"]  # which postinst makes
        return bool(names) and all(os.path.lexists(self._at(name)) for name in needed)

    def formerly_guarded(self) -> list[str]:
        """The services that were guarded when the package was removed, and are not now."""
        found = self._record(REMOVED)
        names = {_service_of(change.path) for change in found[0]} if found else set()
        return sorted(name for name in names - set(self.services()) if name)

    def forget_formerly(self, service: str | None) -> None:
        """Don't speak of a service any more that was guarded once, or with None of none. Raises PamAdminError."""
        found = self._record(REMOVED)
        if found is None:
            return
        left = [] if service is None else [one for one in found[0] if _service_of(one.path) not in ("", service)]
        with self._alone():
            try:
                if left:
                    self._write_record(REMOVED, left, has_profile=False)
                else:
                    self._at(REMOVED).unlink(missing_ok=True)
            except OSError as error:
                raise not_written(service or "what was guarded", error) from None

    # --- Parts ---

    def _is_live(self, path: str) -> bool:
        return _LIVE.search((self._bytes(path) or b"").decode(errors="replace")) is not None

    def _require_none_left(self, after: dict[str, bytes | None]) -> None:
        """Raise PamAdminError if a file would still name what is about to be removed."""
        left = [path for path in self._pam_paths() if path != COMMON_AUTH and self._stays_live(path, after)]
        if left:
            raise PamAdminError(
                f"these files ask for codes by lines that `textgate pam` did not put in: {', '.join(left)}; "
                "nothing was changed, and without textgate nobody could log in by them",
                hint="take the lines of textgate out of these files, then remove the package again",
            )

    def _stays_live(self, path: str, after: dict[str, bytes | None]) -> bool:
        content = after[path] if path in after else self._bytes(path)
        return _LIVE.search((content or b"").decode(errors="replace")) is not None

    def _pam_paths(self) -> Iterator[str]:
        folder = self._at(PAM_DIR)
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if is_service(path.name) and path.is_file():
                yield f"{PAM_DIR}/{path.name}"

    def _take_profile_out(self, *, has_profile: bool) -> None:
        """Out of common-auth, if it is there, and out of what pam-auth-update knows."""
        self._run([*_PROFILES, "--remove", "textgate"])
        if has_profile and self._is_live(COMMON_AUTH):
            raise PamAdminError(
                f"{COMMON_AUTH}: was changed by hand, and pam-auth-update leaves textgate's line in it",
                hint=f"take the line of textgate out of {COMMON_AUTH}, then remove the package again",
            )

    def _taken_back(self, error: OSError | TransactionError | PamAdminError) -> PamAdminError:
        """The error of a removal that is off; everything is as before when it is raised, if the disk lets it be."""
        if isinstance(error, OSError):
            error = not_written("textgate's lines", error)
        message, hint = error.message, error.hint
        with contextlib.suppress(OSError, TransactionError):
            record = self._record(RECORD)
            if record:
                self._put_back(record[0], has_profile=record[1])
        return PamAdminError(f"{message}; textgate goes on asking for codes", hint=hint)

    def _put_back(self, changes: Sequence[FileChange], *, has_profile: bool) -> list[str]:
        if has_profile and not self._is_live(COMMON_AUTH):
            self._run([*_PROFILES, "--enable", "textgate"])
        else:
            self._run(_PROFILES)
        back = [
            change.reversed()
            for change in reversed(changes)
            if change.before != change.after and self._bytes(change.path) == change.after
        ]
        done = [*back, FileChange(RECORD, self._bytes(RECORD), None, 0o600)]
        self._transactions().change(done)
        if self.pending():
            with contextlib.suppress(PamAdminError):
                self._start_timer()
        return [change.path for change in back if not change.path.startswith(STATE_DIR)]

    def _write_record(self, path: str, changes: Sequence[FileChange], *, has_profile: bool) -> None:
        kept = {
            "version": 1,
            "has_profile": has_profile,
            "changes": [
                {"path": one.path, "before": encoded(one.before), "after": encoded(one.after), "mode": one.mode}
                for one in changes
            ],
        }
        change = FileChange(path, self._bytes(path), json.dumps(kept, indent=1).encode() + b"\n", 0o600)
        self._transactions().change([change])

    def _record(self, path: str) -> tuple[list[FileChange], bool] | None:
        """What a removal took out; None if there is no record, or none that can be read."""
        content = self._bytes(path)
        if content is None:
            return None
        try:
            kept = json.loads(content)
            changes = [
                FileChange(str(one["path"]), decoded(one["before"]), decoded(one["after"]), int(one["mode"]))
                for one in kept["changes"]
            ]
            has_profile = bool(kept["has_profile"])
        except (ValueError, KeyError, TypeError):
            changes, has_profile = [], False
        # A damaged file must not make textgate write anywhere else.
        known = [one for one in changes if any(re.fullmatch(place, one.path) for place in PLACES["pam"])]
        return (known, has_profile) if known == changes else ([], has_profile)


def _service_of(path: str) -> str:
    """The service that a file of a record belongs to; "" for none."""
    if path == DROP_IN:
        return SSHD_SERVICES[0]
    return path.rpartition("/")[2] if path.startswith(f"{PAM_DIR}/") else ""
