# SPDX-License-Identifier: MIT
"""Puts textgate's own lines into order: the shipped block, and in services the lines of today's version.

Rules of this file:
- What an administrator may choose in the block is kept. What was there before lies in STATE_DIR then.
- The block comes first: behind that of an earlier version, today's lines in a service would refuse everybody.
- Services change all together or none, and what is remembered of them with them: `disable` gives back the very bytes
  that a file had before textgate.
- For the package (`is_careful`), nothing is written over that somebody has changed by hand.
- Needs nothing but the standard library, as pam_admin does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .errors import TextgateError
from .pam_admin import PamAdmin
from .pam_block import BLOCK, SHIPPED, is_of_ours, repaired
from .pam_files import PAM_DIR, PamAdminError
from .pam_stack import ASKING, FirstFactor, lacks_require, with_todays_block
from .pam_state import STATE_DIR, Guard
from .transaction import FileChange

FORMER = f"{STATE_DIR}/block.former"


@dataclass(frozen=True)
class Repaired:
    """What was done. left: what was not, a sentence each."""

    changes: tuple[FileChange, ...] = ()
    left: tuple[str, ...] = ()


class PamRepair(PamAdmin):
    """Mends textgate's lines below `root`, which is / but for tests."""

    def repair(self, *, is_careful: bool = False) -> Repaired:
        """Put the block back, and today's lines into services that have those of an earlier version.

        Raises PamAdminError; then the services are as before.
        """
        with self._alone():
            block, left = self._block_back(is_careful=is_careful)
            if block is not None:
                self._change(block)
            if left:
                return Repaired((), left)
            services, left = self._services_back(is_careful=is_careful)
            self._change(services)
            shown = [one for one in (*(block or ()), *services) if one.path.startswith(PAM_DIR)]
            return Repaired(tuple(shown), left)

    def _change(self, changes: Sequence[FileChange]) -> None:
        if not changes:
            return
        try:
            self._transactions().change(changes)
        except OSError as error:
            raise self._broken_off("textgate's lines", error) from None

    def _block_back(self, *, is_careful: bool) -> tuple[list[FileChange] | None, tuple[str, ...]]:
        """The changes that mend the block, None where there is nothing to mend; and why it is left as it is."""
        if not self.block().faults:
            return None, ()
        content = self._bytes(BLOCK)
        shipped, installed = self._text(SHIPPED), (content or b"").decode(errors="surrogateescape")
        if is_careful and installed.strip() and not is_of_ours(shipped, installed):
            return None, (f"{BLOCK} was changed by hand, and is left as it is; see: textgate doctor",)
        if self._at(BLOCK).is_symlink():
            raise PamAdminError(f"{BLOCK}: is a symbolic link, and is left alone", hint=f"ls -l {BLOCK}")
        after = repaired(shipped, installed).encode(errors="surrogateescape")
        kept = [FileChange(FORMER, self._bytes(FORMER), content, 0o600)] if content else []
        return [*kept, FileChange(BLOCK, content, after)], ()

    def _services_back(self, *, is_careful: bool) -> tuple[list[FileChange], tuple[str, ...]]:
        """The changes that bring services up to date, and which ones are left as they are."""
        changes: list[FileChange] = []
        left = []
        for service in self.marked():
            try:
                changes += self._renewal(service, is_careful=is_careful)
            except TextgateError as error:
                if not is_careful:
                    raise
                left.append(error.message)
        planned = {change.path for change in changes}
        for service, rules in self._stacks():
            if lacks_require(rules) and not planned & {f"{PAM_DIR}/{name}" for name in self.files_of(service)}:
                left.append(f"{service}: put this line behind textgate's: {ASKING[-1]}")
        return changes, tuple(left)

    def _renewal(self, service: str, *, is_careful: bool) -> list[FileChange]:
        """Today's lines in a service's file; none where it has them. Raises PamAdminError where that can't be."""
        path = f"{PAM_DIR}/{service}"
        content = self._bytes(path) or b""
        after = with_todays_block(content.decode(errors="surrogateescape"))
        if after is None:
            return []
        guard = None if self._lost(service) else self.guard(service)
        known = next((one for one in guard.changes if one.path == path), None) if guard else None
        is_unchanged = known is not None and content == known.after
        if is_careful and not is_unchanged:
            raise PamAdminError(f"{path} was changed by hand, and keeps the lines of an earlier version")
        self._check_stack(service, after, guard.first_factor if guard else FirstFactor.KEY)
        change = FileChange(path, content, after.encode(errors="surrogateescape"))
        remembered = [self._remembering(_with(guard, change))] if guard and is_unchanged else []
        return [*remembered, change]


def _with(guard: Guard, change: FileChange) -> Guard:
    """What is remembered of a service whose file has changed: what it was before textgate stays."""
    changes = tuple(replace(one, after=change.after) if one.path == change.path else one for one in guard.changes)
    return replace(guard, changes=changes)
