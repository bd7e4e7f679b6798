# SPDX-License-Identifier: MIT
"""Changes several files as one: all of them or none, whatever ends the program in between.

    with Transactions("pam").begin(changes) as transaction:
        for change in changes:
            transaction.apply(change.path)
        transaction.commit()

Rules of this file:
- First the plan is on the disk (CHANGES_DIR/NAME.undo), then the new bytes of each file and a second name for its
  former ones, beside it; all of it synced. Only then is the first file changed, each by one rename or removal. So a
  full disk is met before anything is changed, and the way back needs no room.
- There is one rule for what was not finished: a plan that is still named NAME.undo is undone. The change becomes true
  by one step, which renames the plan to NAME.redo; what is left to do then, such as removals, is done to its end.
- Undoing gives a file the very inode that it had. One that somebody else has changed meanwhile is left as it is.
- No other file is ever removed than those that the plan names, and a damaged plan names none: it is put aside.
- Whoever uses this keeps others out by a lock of his own. Needs nothing but the standard library: the way back from a
  PAM change hangs on it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from .atomic_file import name_beside, new_file, sync_folder, write_like
from .errors import TextgateError

CHANGES_DIR = "/var/lib/textgate/changes"
VERSION = 1

# Where the changes of each name may be: a damaged plan must not make textgate write anywhere else.
PLACES: Mapping[str, tuple[str, ...]] = {
    "pam": (
        r"/etc/pam\.d/[A-Za-z0-9_][A-Za-z0-9._-]*",
        r"/etc/ssh/sshd_config\.d/00-textgate\.conf[a-z0-9.]*",
        r"/var/lib/textgate/pam/[A-Za-z0-9_][A-Za-z0-9._-]*",
        r"/var/lib/textgate/changes/remov(al|ed)",
    ),
    "credentials": (
        r"/etc/textgate/credentials/[a-z-]+",
        r"/etc/credstore\.encrypted/textgate\.[a-z-]+",
        r"/etc/systemd/system/textgated\.service\.d/50-encrypted-credentials\.conf",
    ),
}

Then = Callable[[Sequence[str]], None]


@dataclass(frozen=True)
class FileChange:
    """One file as it is and as it is to be; None where it doesn't exist. mode: for a file that is not there yet."""

    path: str
    before: bytes | None
    after: bytes | None
    mode: int = 0o644

    def diff(self) -> str:
        """The change as a unified diff."""
        old, new = (_lines(content) for content in (self.before, self.after))
        former, present = ("/dev/null" if content is None else self.path for content in (self.before, self.after))
        return "".join(difflib.unified_diff(old, new, former, present))

    def reversed(self) -> FileChange:
        """The way back."""
        return FileChange(self.path, self.after, self.before, self.mode)


class TransactionError(TextgateError):
    """The files are as before, or the message says which ones are not."""


@dataclass(frozen=True)
class _Step:
    """One file in a plan: digests of its content ("" for none), and the names beside it."""

    path: str
    before: str
    after: str
    new: str
    former: str


@dataclass(frozen=True)
class _Plan:
    steps: tuple[_Step, ...]
    removals: tuple[str, ...]

    def paths(self) -> list[str]:
        return [step.path for step in self.steps]


@dataclass(frozen=True)
class Recovered:
    """What became of a change that was broken off. left: files that somebody else has changed meanwhile."""

    is_done: bool
    paths: tuple[str, ...]
    left: tuple[str, ...] = ()


class Transactions:
    """The changes of one name, of which there is one at a time. root: / but for tests and live systems.

    then: called with the paths that were changed or put back, before the plan is forgotten: so that a service that
    reads them is told, come what may.
    """

    def __init__(self, name: str, root: str = "/", *, then: Then = lambda _paths: None) -> None:
        self._name = name
        self._root = Path(root)
        self._then = then

    def is_open(self) -> bool:
        """Whether a change was broken off, or is under way."""
        return any(os.path.lexists(self._plan(suffix)) for suffix in ("undo", "redo"))

    def change(self, changes: Sequence[FileChange]) -> None:
        """Make changes between which nothing else has to happen. Raises as `begin`, and nothing is changed."""
        with self.begin(changes) as transaction:
            for change in changes:
                transaction.apply(change.path)
            transaction.commit()

    def begin(self, changes: Sequence[FileChange], removals: Sequence[str] = ()) -> Transaction:
        """Put everything in its place beside the files; none of them is changed yet.

        removals: files that are overwritten and removed once the change is true. A change that was broken off is
        dealt with first, by `recover`. Raises OSError or TransactionError, having changed nothing.
        """
        self.recover()
        steps = tuple(self._step(change) for change in changes if change.before != change.after)
        plan = _Plan(steps, tuple(removals))
        transaction = Transaction(self, plan)
        try:
            self._at(CHANGES_DIR).mkdir(mode=0o700, parents=True, exist_ok=True)
            contents = {change.path: change for change in changes}
            for step in steps:
                self._at(step.path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._write_plan(plan)
            for step in steps:
                self._prepare(step, contents[step.path])
            for folder in {self._at(step.path).parent for step in steps}:
                sync_folder(folder)
        except BaseException:
            transaction.undo()
            raise
        return transaction

    def recover(self) -> Recovered | None:
        """Undo what was broken off before it was true, finish what was true; None if there is neither.

        Raises OSError, and it can be said again; or TransactionError for a damaged plan, which is put aside.
        """
        if os.path.lexists(self._plan("new")):  # of which nothing followed yet
            self._forget("new")
        for suffix, act in (("redo", self._finish), ("undo", self._undo)):
            plan = self._read(suffix)
            if plan is not None:
                return act(plan)
        return None

    def _write_plan(self, plan: _Plan) -> None:
        handle = new_file(self._plan("new"))
        try:
            write_like(handle, self._text(plan), self._plan("undo"), mode=0o600)
        finally:
            os.close(handle)
        self._plan("new").replace(self._plan("undo"))
        sync_folder(self._at(CHANGES_DIR))

    def _step(self, change: FileChange) -> _Step:
        target = Path(change.path)
        new, former = (str(name_beside(target, kind)) for kind in ("new-", "old-"))
        return _Step(
            change.path,
            _digest(change.before),
            _digest(change.after),
            "" if change.after is None else new,
            "" if change.before is None else former,
        )

    def _prepare(self, step: _Step, change: FileChange) -> None:
        """The new bytes and a name for the former ones, beside a file."""
        target = self._at(step.path)
        if change.after is not None:
            handle = new_file(self._at(step.new))
            try:
                write_like(handle, change.after, target, mode=change.mode)
            finally:
                os.close(handle)
        if step.former:
            self._keep(target, self._at(step.former))

    def _keep(self, target: Path, former: Path) -> None:
        try:
            os.link(target, former, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:  # a file system without links: a copy
            content = target.read_bytes()
            handle = new_file(former)
            try:
                write_like(handle, content, target, mode=0o600)
            finally:
                os.close(handle)

    def apply(self, step: _Step) -> None:
        """Change one file. Raises TransactionError if it is not what it was when the change was planned."""
        target = self._at(step.path)
        if self._digest_of(step.path) != step.before:
            raise TransactionError(f"{step.path}: was changed by somebody else meanwhile", hint="try again")
        if step.new:
            self._at(step.new).replace(target)
        else:
            target.unlink()
        sync_folder(target.parent)

    def commit(self, plan: _Plan, *, is_told: bool) -> None:
        """Make it true, and do what is left to do. Raises OSError, before which it may be true already."""
        self._plan("undo").replace(self._plan("redo"))
        sync_folder(self._at(CHANGES_DIR))
        self._finish(plan, is_told=is_told)

    def _finish(self, plan: _Plan, *, is_told: bool = False) -> Recovered:
        if not is_told:
            self._then(plan.paths())
        for path in plan.removals:
            self._wipe(self._at(path))
        self._clean(plan)
        self._forget("redo")
        return Recovered(True, tuple(plan.paths()))

    def _undo(self, plan: _Plan) -> Recovered:
        changed, left = False, []
        for step in reversed(plan.steps):
            present = self._digest_of(step.path)
            if present == step.before:
                continue
            if present != step.after or (step.before and not os.path.lexists(self._at(step.former))):
                left.append(step.path)
                continue
            changed = True
            if step.before:
                self._at(step.former).replace(self._at(step.path))
            else:
                self._at(step.path).unlink()
            sync_folder(self._at(step.path).parent)
        if changed:
            self._then(plan.paths())
        self._clean(plan)
        self._forget("undo")
        return Recovered(False, tuple(plan.paths()), tuple(left))

    def undo(self, plan: _Plan) -> None:
        """Put back what was changed. Raises OSError; then `recover` does it."""
        self._plan("new").unlink(missing_ok=True)
        if os.path.lexists(self._plan("undo")):
            self._undo(plan)

    # --- Parts ---

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _plan(self, suffix: str) -> Path:
        return self._at(f"{CHANGES_DIR}/{self._name}.{suffix}")

    def _clean(self, plan: _Plan) -> None:
        """Remove the names that the plan made beside its files."""
        folders = set()
        for step in plan.steps:
            for name in filter(None, (step.new, step.former)):
                if os.path.lexists(self._at(name)):
                    self._at(name).unlink()
                    folders.add(self._at(name).parent)
        for folder in folders:
            sync_folder(folder)

    def _forget(self, suffix: str) -> None:
        self._plan(suffix).unlink(missing_ok=True)
        sync_folder(self._at(CHANGES_DIR))

    def _wipe(self, path: Path) -> None:
        """Remove a secret. It is overwritten first, which helps as far as the file system writes in place."""
        try:
            with path.open("r+b") as file:
                file.write(b"\0" * os.fstat(file.fileno()).st_size)
                file.flush()
                os.fsync(file.fileno())
        except FileNotFoundError:
            return
        path.unlink()
        sync_folder(path.parent)

    def _digest_of(self, path: str) -> str:
        try:
            return _digest(self._at(path).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return ""

    def _text(self, plan: _Plan) -> bytes:
        kept = {"version": VERSION, "steps": [asdict(step) for step in plan.steps], "removals": plan.removals}
        return json.dumps(kept, indent=1).encode() + b"\n"

    def _read(self, suffix: str) -> _Plan | None:
        """A plan. Raises TransactionError for a damaged one, which is put aside."""
        path = self._plan(suffix)
        try:
            kept = json.loads(path.read_bytes())
            steps = tuple(_Step(**{key: str(value) for key, value in step.items()}) for step in kept["steps"])
            plan = _Plan(steps, tuple(str(one) for one in kept["removals"]))
            if all(map(self._is_known, plan.steps)) and all(map(self._is_place, plan.removals)):
                return plan
        except FileNotFoundError:
            return None
        except PermissionError:
            raise TransactionError(f"{path}: can't be read", hint="run it with sudo") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        raise TransactionError(
            f"{aside}: a change was broken off, and the plan of it is damaged",
            hint="look at what is there: textgate pam status; textgate doctor",
        )

    def _is_place(self, path: str) -> bool:
        return any(re.fullmatch(place, path) for place in PLACES[self._name])

    def _is_known(self, step: _Step) -> bool:
        beside = [(step.new, "new-"), (step.former, "old-")]
        return self._is_place(step.path) and all(
            not name or re.fullmatch(re.escape(_stem(step.path, kind)) + "[0-9a-f]{8}", name) for name, kind in beside
        )


class Transaction:
    """One change. Leaving its `with` without `commit` undoes it."""

    def __init__(self, owner: Transactions, plan: _Plan) -> None:
        self._owner = owner
        self._plan = plan
        self._is_over = False

    def apply(self, path: str) -> None:
        """Change one file; nothing for one that stays as it is. Raises OSError or TransactionError."""
        for step in self._plan.steps:
            if step.path == path:
                self._owner.apply(step)

    def commit(self, *, is_told: bool = False) -> None:
        """Make it true. Raises OSError; what was left to do then is done by `recover`.

        is_told: whoever reads the files knows of it already, and `then` need not be called.
        """
        self._is_over = True
        self._owner.commit(self._plan, is_told=is_told)

    def undo(self) -> None:
        """Put back what was changed. Raises OSError; `recover` does it then."""
        self._is_over = True
        self._owner.undo(self._plan)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_over:
            self.undo()


def _stem(path: str, kind: str) -> str:
    target = Path(path)
    return str(target.with_name(f".{target.name}.textgate-{kind}"))


def _digest(content: bytes | None) -> str:
    return "" if content is None else hashlib.sha256(content).hexdigest()


def _lines(content: bytes | None) -> list[str]:
    text = "" if content is None else content.decode(errors="replace")
    return [line if line.endswith("\n") else f"{line}\n" for line in text.splitlines(keepends=True)]
