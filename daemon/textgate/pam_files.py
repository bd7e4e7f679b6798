# SPDX-License-Identifier: MIT
"""Reads the PAM services of a machine: their files, their stacks, and which of them ask for a code.

Rules of this file:
- Nothing is changed here.
- Needs nothing but the standard library: the way back from a PAM change hangs on it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .doors import UNSUITABLE
from .errors import TextgateError
from .pam_block import BLOCK, SHIPPED, Comparison, compare
from .pam_stack import Rule, StackError, has_block, has_mark, read_stack, ways_around
from .plain_files import read_plain
from .programs import run_program

PAM_DIR = "/etc/pam.d"
VENDOR_PAM_DIR = "/usr/lib/pam.d"  # where libpam looks next
SSHD_SERVICES = ("sshd",)
SERVICE_MAX_LENGTH = 64
FILES_MAX_BYTES = 1 << 20
REINSTALL = "apt install --reinstall textgate"


class PamAdminError(TextgateError):
    """A change was not made, or was taken back; the message says how the files are now."""


class PamFiles:
    """Reads the files below `root`, which is / but for tests. `run` runs a command: exit status and output."""

    def __init__(self, root: str = "/", run: Callable[[Sequence[str]], tuple[int, str]] | None = None) -> None:
        self._root = Path(root)
        self._run = run or run_program

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

    def block(self) -> Comparison:
        """How textgate's own lines differ from those that were shipped. Raises PamAdminError."""
        content = self._bytes(BLOCK)
        if content is None:
            return Comparison((f"{BLOCK} is missing",))
        try:
            return compare(self._text(SHIPPED), content.decode(errors="surrogateescape"))
        except StackError as error:
            raise PamAdminError(f"{SHIPPED}: is damaged: {error.message}", hint=REINSTALL) from None

    def _text(self, path: str) -> str:
        """The text of a file of the package. Raises PamAdminError."""
        content = self._bytes(path)
        if content is None:
            raise PamAdminError(f"{path}: is missing", hint=REINSTALL)
        return content.decode(errors="surrogateescape")

    def services(self) -> list[str]:
        """The services that have textgate's lines, by whoever put them in, and by way of other files too."""
        return [name for name, rules in self._stacks() if has_block(rules)]

    def services_through(self, service: str) -> list[str]:
        """The services whose stack goes through the file of this one: itself, and su-l for su."""
        return [name for name, _ in self._stacks() if service in self.files_of(name)]

    def files_of(self, service: str) -> set[str]:
        """Names of the files that a service's stack is read from. Raises StackError."""
        names: set[str] = set()

        def read(name: str) -> str:
            names.add(name.removeprefix(f"{PAM_DIR}/"))
            return self.read_pam(name)

        read_stack(service, read)
        return names

    def names(self) -> list[str]:
        """Every file that could be a service, of both folders."""
        return sorted(
            {
                path.name
                for folder in (PAM_DIR, VENDOR_PAM_DIR)
                if self._at(folder).is_dir()
                for path in self._at(folder).iterdir()
                if is_service(path.name)
            }
        )

    def has_any(self, patterns: Sequence[str]) -> bool:
        """Whether there is a file of one of these patterns."""
        return any(next(self._root.glob(pattern.lstrip("/")), None) is not None for pattern in patterns)

    def _stacks(self) -> Iterator[tuple[str, list[Rule]]]:
        """Every service whose files can be read."""
        for name in self.names():
            with contextlib.suppress(StackError, PamAdminError):
                yield name, self.rules(name)

    def ways_around(self, service: str) -> tuple[str, ...]:
        """Lines of a service that let in although textgate says no. Raises StackError."""
        return ways_around(self.rules(service))

    def marked(self) -> list[str]:
        """The services with lines of textgate's making in a file of their own; a link has none."""
        found = []
        for path in sorted(self._at(PAM_DIR).iterdir()) if self._at(PAM_DIR).is_dir() else ():
            with contextlib.suppress(PamAdminError):  # a folder, say: what can't be read was not written by `enable`
                content = self._bytes(f"{PAM_DIR}/{path.name}") or b""
                if is_service(path.name) and not path.is_symlink() and has_mark(content.decode(errors="replace")):
                    found.append(path.name)
        return found

    def planned_rules(self, service: str, text: str) -> list[Rule]:
        """The stack of a service as it would be with this text for its own file. Raises StackError."""
        return read_stack(service, lambda name: text if name == service else self.read_pam(name))

    def _at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _bytes(self, path: str) -> bytes | None:
        """A file's content, None if there is none. Raises PamAdminError."""
        try:
            content = read_plain(self._at(path), FILES_MAX_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise PamAdminError(f"{path}: can't be read: {error.strerror}", hint="run it with sudo") from None
        if len(content) > FILES_MAX_BYTES:
            raise PamAdminError(f"{path}: is too large to be a configuration")
        return content


def check_service(service: str) -> str:
    """The name, if it is a PAM service that can ask for a code. Raises PamAdminError."""
    check_name(service)
    if service.startswith("common-") or service in ("textgate", "other"):
        raise PamAdminError(
            f"{service} is no service of its own", hint="name a service such as sshd or sudo, or use pam-auth-update"
        )
    if service in UNSUITABLE:
        raise PamAdminError(
            f"{service} can't ask for a code: {UNSUITABLE[service]}",
            hint="`textgate pam status` says of each service what can be done about it",
        )
    return service


def check_name(service: str) -> None:
    """Raises PamAdminError for what is no name of a service."""
    if not is_service(service) and service != "textgate":
        raise PamAdminError("there is no such PAM service", hint=f"see: ls {PAM_DIR}")


def is_service(name: str) -> bool:
    """Whether libpam's folder may have a service of this name; not for textgate's own lines, or dpkg's copies."""
    return (
        len(name) <= SERVICE_MAX_LENGTH
        and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) is not None
        and name != "textgate"
        and not name.endswith("~")
        and ".dpkg-" not in name
    )
