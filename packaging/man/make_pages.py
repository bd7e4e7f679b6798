#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The manual pages: prose of this folder (NAME.N.md) and tables out of the code -> man(7) source in a folder.

    make_pages.py FOLDER

Rules of this file:
- What the code knows is taken from the code: commands and options, configuration keys with their defaults and bounds,
  exit codes, events, the PAM lines, sshd's settings. A prose file says `@commands` and the like on a line of its own;
  `DIRECTIVES` lists them all. A command or key that no prose file mentions is added by `@commands` or `@sections`.
- The prose is a small part of Markdown: see `Page`. An unknown directive or value is an error, not a gap in the page.
- The same sources make the same bytes: the date is that of the changelog, and nothing of the machine is asked.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from decimal import Decimal
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
# A library of the same name that is installed must not describe another version than this one.
sys.path[:0] = [str(REPOSITORY / "daemon"), str(REPOSITORY / "pam_helper")]

import click  # noqa: E402

from textgate import (  # noqa: E402
    __version__,
    cli,
    cli_setup,
    codes,
    config,
    directory,
    doors,
    pam_admin,
    pam_block,
    pam_state,
    server,
    sshd_config,
    transaction,
)
from textgate.audit import Event  # noqa: E402
from textgate.errors import ExitCode  # noqa: E402
from textgate.pam_stack import FirstFactor, body_lines  # noqa: E402

textgate_pam: Any = importlib.import_module("textgate_pam")  # the PAM helper, which is no package

WIDTH = 78  # of a line of the result: mandoc's lint says 80
CHANGELOGS = ("packaging/debian/changelog", "debian/changelog")  # the second where a package is being built

EXIT_WORDS = {
    ExitCode.OK: "Done.",
    ExitCode.FAILURE: "Something broke, or something that was looked at is not as it should be.",
    ExitCode.USAGE: "The command line can't be used, a phone number in it included.",
    ExitCode.CONFIG: "The configuration or a credential can't be used.",
    ExitCode.DAEMON_AWAY: "textgated can't be reached.",
    ExitCode.REFUSED: "It was understood and refused: a wrong code, too many texts, a text that was not sent.",
    ExitCode.WARNINGS: "Done, with warnings (`textgate doctor`).",
}


# --- What the code says, as lines of the prose's markup ---


def plain(text: str) -> str:
    """Words of the code as markup: its backticks stay, stars are stars."""
    return text.replace("\\", "\\\\").replace("*", "\\*")


def sentence(words: str) -> str:
    """A phrase as a sentence. The name of a program keeps its small letter."""
    words = words.strip()
    is_program = words.split(maxsplit=1)[0] in ("ssh", "sshd", "sudo", "su", "textgate", "textgated")
    first = words[:1] if is_program else words[:1].upper()
    return first + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


def walk_commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Each command that people see, as "pam try"."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        if isinstance(command, click.Group):
            yield from walk_commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


COMMANDS = dict(walk_commands(cli.main))
OPTIONS_SHOWN = 4  # in a command's heading; more are only listed below it
COMMON_OPTIONS = ("--json",)  # of each command; described once


def own_options(command: click.Command) -> list[click.Option]:
    """A command's options without those that each command has."""
    return [
        param
        for param in command.params
        if isinstance(param, click.Option) and not param.hidden and not set(param.opts) & set(COMMON_OPTIONS)
    ]


def option_words(option: click.Option) -> str:
    """An option as it is typed: "**--user** *USER*"."""
    names = ", ".join(f"**{name}**" for name in [*option.opts, *option.secondary_opts])
    if option.is_flag:
        return names
    if isinstance(option.type, click.Choice):
        return f"{names} *{'|'.join(option.type.choices)}*"
    return f"{names} *{option.metavar or (option.name or '').upper()}*"


def option_items(options: list[click.Option]) -> Iterator[str]:
    for option in options:
        default = f" (default: `{option.default}`)" if option.show_default is True else ""
        yield option_words(option)
        yield f":   {sentence(plain(option.help or '') + default)}"
        yield ""


def command_lines(name: str) -> Iterator[str]:
    """One command: how it is typed, what it does, its options."""
    command = COMMANDS[name]
    words, options = [f"textgate {name}"], own_options(command)
    if len(options) > OPTIONS_SHOWN:
        words.append("[options]")
    else:
        words += [f"[{option_words(option).replace('*', '')}]" for option in options]
    for param in command.params:
        if isinstance(param, click.Argument):
            word = (param.name or "").upper()
            words.append(word if param.required else f"[{word}]")
    yield "### " + " ".join(words)
    yield ""
    yield from plain(inspect.cleandoc(command.help or "")).split("\n")
    yield ""
    yield from option_items(options)


def commands(page: Page, *_: str) -> Iterator[str]:
    """Every command that the page does not name itself by `@command`."""
    for name in COMMANDS:
        if name not in page.named("command"):
            yield from command_lines(name)


def global_options(_page: Page) -> Iterator[str]:
    options = [param for param in cli.main.params if isinstance(param, click.Option)]
    for option in options:
        if "--version" not in option.opts:
            yield from option_items([option])
    yield from ("**--version**", ":   Show the version and end.", "")
    yield from ("**-h**, **--help**", ":   Show help and end; also behind a command.", "")


def answers(_page: Page) -> Iterator[str]:
    """What can stand in the file for `textgate setup`."""
    kinds = {str: "a text", bool: "true or false", list: "a list of texts"}
    for name, answer in cli_setup.ANSWERS.items():
        yield from (f"**{name}**, {kinds[answer.kind]}", f":   {sentence(plain(answer.help))}", "")


def daemon_options(_page: Page) -> Iterator[str]:
    """textgated's options, from its parser (which keeps them in an attribute that argparse calls its own)."""
    parser = server.build_parser()
    for action in parser._actions:
        names = ", ".join(f"**{name}**" for name in action.option_strings)
        metavar = action.metavar or "|".join(action.choices or ())
        yield f"{names} *{metavar}*" if metavar else names
        yield f":   {sentence(plain((action.help or '') % vars(action)))}"
        yield ""


def toml(value: Any) -> str:
    """A default as it is written in TOML."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(toml(item) for item in value)}]"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, Decimal):
        return f"{value}"
    return f"{value:g}"


def bounds(parse: Callable[[Any], Any]) -> str:
    """What a value may be, in the words in which the check refuses one that it is not."""
    junk = object()
    words = entry = ""
    try:
        parse(junk)
    except ValueError as error:
        words = str(error)
    try:
        parse([junk])
    except ValueError as error:
        entry = str(error)
    words = words.removeprefix("must be ")
    if entry.startswith("entry 1 must be "):
        return f"a list; each entry {entry.removeprefix('entry 1 must be ')}"
    return words


def section_lines(name: str) -> Iterator[str]:
    """One section of the configuration: what it is about and each of its keys."""
    section = config.SECTIONS[name]
    yield f"### [{name}]"
    yield ""
    yield plain((section.__doc__ or "").partition("] ")[2])
    yield ""
    for option in dataclasses.fields(section):
        yield f"**{option.name}** = `{toml(option.default)}`"
        yield f":   {sentence(plain(option.metadata['doc']))}"
        yield f"    Allowed: {plain(bounds(option.metadata['parse']))}."
        yield ""


def sections(page: Page, *_: str) -> Iterator[str]:
    """Every section that the page does not name itself by `@section`."""
    for name in config.SECTIONS:
        if name not in page.named("section"):
            yield from section_lines(name)


def exit_codes(_page: Page, *names: str) -> Iterator[str]:
    for code in ExitCode:
        if not names or code.name in names:
            yield from (f"**{code.value}**", f":   {EXIT_WORDS[code]}", "")


def subjects() -> dict[str, str]:
    """MESSAGE_ID -> subject, from the journal's catalog."""
    text = (REPOSITORY / "systemd/textgate.catalog").read_text()
    return dict(re.findall(r"^-- ([0-9a-f]{32})\nSubject: (.+)$", text, re.MULTILINE))


def events(_page: Page) -> Iterator[str]:
    known = subjects()
    for event in Event:
        yield from (f"**{event.name.lower()}**, `{event.value}`", f":   {sentence(plain(known[event.value]))}", "")


def pam_lines(_page: Page) -> Iterator[str]:
    text = (REPOSITORY / "pam_helper/textgate.pam").read_text()
    yield from (f"    {line}" for line in text.split("\n") if line and not line.startswith("#"))


def sshd_settings(_page: Page, first_factor: str) -> Iterator[str]:
    lines = sshd_config.drop_in_text(FirstFactor(first_factor)).splitlines()
    yield from (f"    {line}" for line in lines if not line.startswith("#"))


def service_lines(_page: Page, first_factor: str) -> Iterator[str]:
    yield from (f"    {line}" for line in body_lines(FirstFactor(first_factor)))


def door_lines(_page: Page, which: str) -> Iterator[str]:
    """The services that lead to a shell or to root: those that can ask for a code, and those that can't."""
    for service in doors.DOORS:
        if service.leads is not doors.Leads.NOTHING and service.can_ask is (which == "guarded"):
            where = "root" if service.leads is doors.Leads.ROOT else "a shell"
            shown = ", ".join(f"`{name}`" for name in service.names)
            reason = f"; {plain(service.why)}" if service.why else ""
            yield from (f"- {shown}: {where}, {plain(service.what)}{reason}", "")


def needs_none(_page: Page) -> Iterator[str]:
    """The services that lead to neither, and why."""
    for service in doors.DOORS:
        if service.leads is doors.Leads.NOTHING:
            yield from (f"- {', '.join(f'`{name}`' for name in service.names)}: {plain(service.why)}", "")


DIRECTIVES: dict[str, Callable[..., Iterator[str]]] = {
    "command": lambda _page, *words: command_lines(" ".join(words)),
    "commands": commands,
    "global-options": global_options,
    "answers": answers,
    "daemon-options": daemon_options,
    "section": lambda _page, name: section_lines(name),
    "sections": sections,
    "exit-codes": exit_codes,
    "events": events,
    "pam-lines": pam_lines,
    "sshd-settings": sshd_settings,
    "service-lines": service_lines,
    "needs-none": needs_none,
    "doors": door_lines,
}

# Single values, written as {{name}}.
VALUES = {
    "config_path": config.DEFAULT_PATH,
    "auth_socket": config.DaemonConfig().auth_socket,
    "admin_socket": config.DaemonConfig().admin_socket,
    "admin_group": config.DaemonConfig().admin_group,
    "code_life_s": str(config.CodesConfig().life_s),
    "grace_s": str(config.CodesConfig().life_s + 30),
    "send_spacing_s": str(config.LimitsConfig().send_spacing_s),
    "recovery_count": str(codes.RECOVERY_COUNT),
    "phones_max_bytes": str(directory.MAX_BYTES // 1024**2) + " MiB",
    "helper_socket": textgate_pam.DEFAULT_SOCKET,
    "helper_deadline": f"{textgate_pam.DEFAULT_DEADLINE_S:g}",
    "helper_deadline_max": f"{textgate_pam.DEADLINE_MAX_S:g}",
    "helper_away_text": textgate_pam.AWAY_TEXT,
    "helper_let_in_text": textgate_pam.LET_IN_TEXT,
    "fail_open_id": textgate_pam.FAIL_OPEN_MESSAGE_ID,
    "drop_in": sshd_config.DROP_IN,
    "block_shipped": pam_block.SHIPPED,
    "state_dir": pam_state.STATE_DIR,
    "changes_dir": transaction.CHANGES_DIR,
    "revert_timer": pam_admin.REVERT_TIMER,
}


# --- Markup -> roff ---


class Page:
    """One prose file.

    Its first line is "# name(section): what it is". Then: "## heading", "### sub-heading", paragraphs, "- " lists of
    one paragraph each, code indented by four blanks, and pairs of a line with a term and a line ":   " with what it
    means (its further lines are indented by four blanks). Within a line: `literal`, **bold**, *italic*, name(8), and
    a backslash before a star that is one.
    """

    def __init__(self, text: str) -> None:
        title, _, self._body = text.partition("\n")
        match = re.fullmatch(r"# (?P<name>[\w.-]+)\((?P<section>\d)\): (?P<what>.+)", title)
        if match is None:
            raise ValueError(f"not a title: {title}")
        self.name, self.section, self.what = match["name"], match["section"], match["what"]

    @property
    def file_name(self) -> str:
        """Where man(1) looks for it."""
        return f"{self.name}.{self.section}"

    def named(self, directive: str) -> set[str]:
        """The arguments of one directive, each time that it is used in the page."""
        return set(re.findall(rf"^@{directive} (.+)$", self._body, re.MULTILINE))

    def expanded(self) -> list[str]:
        """The page's lines with every directive and value put in."""
        lines: list[str] = []
        for line in self._body.split("\n"):
            if line.startswith("@"):
                name, *arguments = line[1:].split()
                lines += ["", *DIRECTIVES[name](self, *arguments), ""]
            else:
                lines.append(re.sub(r"\{\{(\w+)\}\}", lambda match: VALUES[match[1]], line))
        return lines

    def roff(self, date: str) -> str:
        """The whole page as man(7) source. date: YYYY-MM-DD."""
        head = [
            f'.\\" Made by packaging/man/make_pages.py from {self.file_name}.md and the code.',
            f'.TH {self.name} {self.section} {date} "textgate {__version__}" "textgate manual"',
            ".SH NAME",
            f"{self.name} \\- {self.what}",
        ]
        return "\n".join([*head, *render(self.expanded())]) + "\n"


def render(lines: list[str]) -> Iterator[str]:
    """Expanded lines -> roff."""
    is_after_heading = True
    for block in blocks_of(lines):
        first = block[0]
        if first.startswith("#"):
            marks, _, text = first.partition(" ")
            yield f".{'SH' if marks == '##' else 'SS'} {heading(text)}"
            is_after_heading = True
            continue
        if first.startswith("    "):
            yield from ([] if is_after_heading else [".PP"])
            yield from (".RS 4n", ".EX", *(literal_line(line[4:]) for line in block), ".EE", ".RE")
        elif first.startswith("- "):
            yield from (".IP \\(bu 2", *filled(joined([first[2:], *block[1:]])))
        elif len(block) > 1 and block[1].startswith(":   "):
            yield from (".TP", *protect([inline(first)]), *filled(joined([block[1][4:], *block[2:]])))
        else:
            if not is_after_heading:
                yield ".PP"
            yield from filled(joined(block))
        is_after_heading = False


def blocks_of(lines: list[str]) -> Iterator[list[str]]:
    """Runs of lines that belong together. Code keeps the empty lines in it; list items are blocks of their own."""
    block: list[str] = []

    def is_code(candidate: list[str]) -> bool:
        return bool(candidate) and candidate[0].startswith("    ")

    for line in [*lines, "", "#end"]:
        ends = (not line and not is_code(block)) or (is_code(block) and line and not line.startswith("    "))
        ends = ends or (bool(block) and line.startswith(("#", "- ")))
        if ends and block:
            while block and not block[-1]:
                block.pop()
            yield block
            block = []
        if line or block:
            block.append(line)


def joined(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines)


def heading(text: str) -> str:
    """A heading's argument: its quotes belong to roff."""
    return f'"{escaped(text, is_literal=True)}"' if " " in text else escaped(text, is_literal=True)


def literal_line(line: str) -> str:
    """A line of an example."""
    return protect([escaped(line, is_literal=True)])[0] if line else "\\&"


def filled(text: str) -> list[str]:
    """A paragraph, broken into lines at blanks."""
    return protect(textwrap.wrap(inline(text), WIDTH, break_long_words=False, break_on_hyphens=False))


def protect(lines: list[str]) -> list[str]:
    """Lines that roff does not take for requests."""
    return [f"\\&{line}" if line.startswith((".", "'")) else line for line in lines]


_INLINE = re.compile(
    r"\\(?P<literal>[\\*])|`(?P<code>[^`]+)`|\*\*(?P<bold>.+?)\*\*|\*(?P<italic>[^*\s][^*]*)\*"
    r"|(?P<page>\b[a-zA-Z][\w.-]*)\((?P<number>[1-8])\)|(?P<text>.)"
)


def inline(text: str) -> str:
    """A paragraph's words with their fonts."""
    parts = []
    for match in _INLINE.finditer(text):
        if match["code"] or match["bold"]:
            parts.append(f"\\fB{escaped(match['code'] or match['bold'], is_literal=True)}\\fR")
        elif match["italic"]:
            parts.append(f"\\fI{escaped(match['italic'], is_literal=True)}\\fR")
        elif match["page"]:
            parts.append(f"\\fB{escaped(match['page'], is_literal=True)}\\fR({match['number']})")
        else:
            parts.append(escaped(match["literal"] or match["text"], is_literal=False))
    return "".join(parts)


# groff_char(7): what these print as, unescaped, is another character.
_LITERAL = {"-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"}


def escaped(text: str, *, is_literal: bool) -> str:
    """Text in which roff finds nothing to do. is_literal: typed, or read by a machine, so each character counts."""
    return "".join(_escape(character, is_literal) for character in text)


def _escape(character: str, is_literal: bool) -> str:
    if character == "\\":
        return "\\e"
    if is_literal and character in _LITERAL:
        return _LITERAL[character]
    return character if character.isascii() else f"\\[u{ord(character):04X}]"


# --- The command ---


def date_of_changelog() -> str:
    """The day of the newest entry of the package's changelog, YYYY-MM-DD."""
    path = next(REPOSITORY / name for name in CHANGELOGS if (REPOSITORY / name).exists())
    match = re.search(r"^ -- .*>  (.+)$", path.read_text(), re.MULTILINE)
    if match is None:
        raise ValueError(f"{path}: has no date")
    return parsedate_to_datetime(match[1]).date().isoformat()


def read_pages() -> list[Page]:
    """Every page of this folder."""
    return [Page(path.read_text()) for path in sorted(HERE.glob("*.[0-9].md"))]


def main() -> None:
    """Write every page."""
    parser = argparse.ArgumentParser(description="Make the manual pages.")
    parser.add_argument("folder", type=Path, help="where they are written")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for page in read_pages():
        (folder / page.file_name).write_text(page.roff(date_of_changelog()))


if __name__ == "__main__":
    main()
