# SPDX-License-Identifier: MIT
"""The way out, from the command line: `textgate pam disable`, `pam status` and `pam confirm`, and what dpkg calls.

Rules of this file:
- Python and its standard library are enough. The command `textgate` comes here first for these three, so that they do
  not hang on what may be broken: a library, the configuration, the daemon, Redis, /etc/textgate.
- /usr/libexec/textgate/rescue starts it without anything that is set up for Python on this machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TextIO

from . import pam_commands
from .config import DEFAULT_PATH
from .errors import ExitCode, RefusedError, TextgateError, UsageError
from .pam_files import PamAdminError
from .pam_removal import PamRemoval
from .printable import printable, printable_json, printable_lines

COMMANDS = ("disable", "status", "confirm")
_GLOBAL_OPTIONS = {"--json": 1, "--config": 2}  # how many words each of them is


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see: {self.prog} --help")


class _Output:
    """As cli_base.Context, without click."""

    def __init__(self, is_json: bool) -> None:
        self.is_json = is_json

    def say(self, text: str, *, has_lines: bool = False) -> None:
        if not self.is_json:
            tell(text, has_lines=has_lines)

    def result(self, data: Mapping[str, Any]) -> None:
        if self.is_json:
            tell(printable_json(data))

    def fail(self, error: TextgateError) -> ExitCode:
        if self.is_json:
            self.result({"error": {"message": error.message, "hint": error.hint}})
        else:
            tell(f"textgate: error: {error.message}", sys.stderr)
            if error.hint:
                tell(f"hint: {error.hint}", sys.stderr, has_lines=True)
        return error.exit_code


def tell(text: str, stream: TextIO | None = None, *, has_lines: bool = False) -> None:
    """Write to the terminal, where nothing from outside can command it. stream: standard output if None."""
    print(printable_lines(text) if has_lines else printable(text), file=stream)


def is_for(words: Sequence[str]) -> bool:
    """Whether a command line of `textgate` is one of those that must always work; help is not."""
    rest = list(words)
    while rest and (rest[0] in _GLOBAL_OPTIONS or rest[0].startswith("--config=")):
        del rest[: _GLOBAL_OPTIONS.get(rest[0], 1)]
    return rest[:1] == ["pam"] and rest[1:2] != [] and rest[1] in COMMANDS and not {"-h", "--help"} & set(rest)


def main(words: Sequence[str]) -> int:
    """Run one of them, or a verb of dpkg's. Answers the exit code. words: those behind the program's name."""
    for stream in (sys.stdout, sys.stderr):  # a character that the terminal's encoding lacks is no reason to fail
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
    output = _Output("--json" in words)
    try:
        options = build_parser().parse_args(list(words))
        return _run(output, options)
    except TextgateError as error:
        return output.fail(error)
    except BrokenPipeError:  # whoever reads has seen enough; all is done by then
        sys.stdout = None
        return ExitCode.FAILURE


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = _Parser(prog="textgate", allow_abbrev=False)
    _add_json(parser, False)
    parser.add_argument("--config", default=DEFAULT_PATH, help=argparse.SUPPRESS)  # not needed, and may be broken
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="pam")
    for verb in ("remove", "resume", "formerly"):
        verbs.add_parser(verb)
    commands = verbs.add_parser("pam").add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        command = commands.add_parser(name, allow_abbrev=False)
        _add_json(command, argparse.SUPPRESS)
        command.add_argument("--root", default="/", metavar="FOLDER", help="a system that is mounted there")
        if name != "status":
            command.add_argument("service", nargs="?")
        if name == "disable":
            command.add_argument("--all", action="store_true", dest="is_all")
    return parser


def _add_json(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument("--json", action="store_true", dest="is_json", default=default)


def _run(output: _Output, options: argparse.Namespace) -> int:
    if options.verb != "pam":
        return _VERBS[options.verb]()
    admin = PamRemoval(options.root, pam_commands.run_nothing if options.root != "/" else None)
    if options.command == "status":
        return pam_commands.status(output, admin, f"{options.root.rstrip('/')}{options.config}")
    if options.command == "confirm":
        pam_commands.confirm(output, admin, options.service)
        return ExitCode.OK
    if (options.service is None) is not options.is_all:
        raise UsageError("name a service, or say --all", hint="see: textgate pam disable --help")
    pam_commands.disable(output, admin, options.service)
    return ExitCode.OK


# --- What dpkg calls, by packaging/debian ---


def _remove() -> int:
    """Before the package's files go. Exit code REFUSED: nothing was changed, and the package must stay."""
    removal = PamRemoval()
    try:
        files = removal.set_aside()
    except PamAdminError as error:
        raise RefusedError(error.message, hint=error.hint) from None
    if files:
        tell(f"textgate: these files asked for codes, and do no longer: {' '.join(files)}")
    _tell(removal.notes)
    return ExitCode.OK


def _resume() -> int:
    """After a removal that failed: what it took out goes back."""
    removal = PamRemoval()
    if removal.is_suspended() or removal.is_broken_off():
        files = removal.resume()
        if files:
            tell(f"textgate: these files ask for codes again: {' '.join(files)}")
        _tell(removal.notes)
    return ExitCode.OK


def _formerly() -> int:
    """What was guarded when the package was removed."""
    names = PamRemoval().formerly_guarded()
    if names:
        tell(f"textgate: before it was removed, it guarded: {', '.join(names)}")
        tell("textgate: nothing asks for codes there now; guard each again with: textgate pam try SERVICE")
    return ExitCode.OK


def _tell(notes: Sequence[str]) -> None:
    for note in notes:
        tell(f"textgate: note: {note}")


_VERBS = {"remove": _remove, "resume": _resume, "formerly": _formerly}
