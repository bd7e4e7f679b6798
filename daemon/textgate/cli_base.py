# SPDX-License-Identifier: MIT
"""What every command of `textgate` shares: its options, its ways to say things, and its errors."""

from __future__ import annotations

import functools
import getpass
import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar, cast

import click

from . import admin_client, wiring
from .config import Config
from .errors import TextgateError, ThrottledError, UsageError
from .printable import printable, printable_json, printable_lines

F = TypeVar("F", bound=Callable[..., Any])


class LazyGroup(click.Group):
    """Loads a command's module when it is called or described: `textgate status` need not know how PAM is changed."""

    def __init__(self, *arguments: Any, modules: Mapping[str, str] | None = None, **options: Any) -> None:
        """modules: command -> module of this package that has it, under the command's name."""
        super().__init__(*arguments, **options)
        self._modules = dict(modules or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return sorted({*super().list_commands(ctx), *self._modules})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, None if there is none."""
        if cmd_name in self._modules:
            loaded: click.Command = getattr(
                importlib.import_module(f".{self._modules[cmd_name]}", __package__), cmd_name
            )
            return loaded
        return super().get_command(ctx, cmd_name)


# What the shell offers at TAB. Completion runs as whoever types, and says nothing that he can't see anyhow.


def complete_users(_context: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Names of root and of people, not of the system's own users."""
    from .accounts import names_of_people

    return sorted(name for name in names_of_people() if name.startswith(incomplete) and name.isprintable())


def complete_services(_context: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Names of PAM services that can ask for a code."""
    from .doors import UNSUITABLE
    from .pam_files import PamFiles

    try:
        names = set(PamFiles().names())
    except OSError:
        return []
    found = {name for name in names if not name.startswith("common-")} - {"other"} - UNSUITABLE.keys()
    return sorted(name for name in found if name.startswith(incomplete))


def tell(text: str, *, err: bool = False, nl: bool = True, has_lines: bool = False) -> None:
    """Write to the terminal. No command does so in any other way, so that nothing from outside commands it.

    has_lines: line feeds in the text are meant; else each is escaped, so that no name can begin a line of its own.
    """
    click.echo(printable_lines(text) if has_lines else printable(text), err=err, nl=nl)


def ask_hidden(prompt: str) -> str:
    """Ask on the terminal without showing what is typed."""
    return getpass.getpass(printable_lines(prompt))


class Context:
    """What the options before the command say."""

    def __init__(self, config_path: str, is_json: bool) -> None:
        self.config_path = config_path
        self.is_json = is_json

    @functools.cached_property
    def config(self) -> Config:
        """The configuration. Raises ConfigError."""
        return wiring.load_config(self.config_path)

    def ask_daemon(self, verb: str, **arguments: object) -> dict[str, Any]:
        """Call a verb of the admin socket."""
        return admin_client.call(self.config.daemon.admin_socket, verb, **arguments)

    def status(self, *, is_fresh: bool = False) -> dict[str, Any]:
        """The daemon's status. is_fresh: the gateway is asked now, which is root's. Raises DaemonUnavailable."""
        return self.ask_daemon("status", **({"fresh": True} if is_fresh else {}))

    def say(self, text: str, *, has_lines: bool = False) -> None:
        """A line for a person, or several (see `tell`); nothing with --json."""
        if not self.is_json:
            tell(text, has_lines=has_lines)

    def result(self, data: Mapping[str, Any]) -> None:
        """The result, with --json only."""
        if self.is_json:
            tell(printable_json(data))


def command(function: F) -> F:
    """Give a command --json behind its name too, and turn our exceptions into messages and exit codes."""

    @functools.wraps(function)
    def run(context: Context, *arguments: Any, is_json_here: bool, **options: Any) -> None:
        context.is_json = context.is_json or is_json_here
        try:
            function(context, *arguments, **options)
        except TextgateError as error:
            fail(context, error)
        except click.UsageError as error:
            if not context.is_json:
                raise
            path = click.get_current_context().command_path
            fail(context, UsageError(error.format_message(), hint=f"see: {path} --help"))

    untyped: Any = run  # click's types differ from release to release
    json_option = click.option("--json", "is_json_here", is_flag=True, help="print one JSON object instead of text")
    described: Any = json_option(click.pass_obj(untyped))
    return cast(F, described)


def fail(context: Context, error: TextgateError) -> NoReturn:
    """Say what happened and what to do, and end with the error's exit code."""
    if context.is_json:
        faults = list(getattr(error, "faults", []))
        report: dict[str, Any] = {"message": error.message, "hint": error.hint}
        report |= {"faults": faults} if faults else {}
        report |= {"wait_s": error.wait_s} if isinstance(error, ThrottledError) else {}
        tell(printable_json({"error": report}))
    else:
        faults = list(getattr(error, "faults", []))
        for line in [f"{getattr(error, 'path', '')}: {fault}" for fault in faults] or [error.message]:
            tell(f"textgate: error: {line}", err=True)
        if error.hint:
            tell(f"hint: {error.hint}", err=True, has_lines=True)
    sys.exit(error.exit_code)
