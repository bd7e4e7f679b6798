# SPDX-License-Identifier: MIT
"""The manual pages: roff that man and mandoc take without a word, complete, true to the code, the same each time."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest

from manual import json_keys, json_terms
from textgate import cli, cli_setup, config, doors, server, sshd_config
from textgate.audit import Event
from textgate.errors import ExitCode
from textgate.pam_stack import ASKING, FirstFactor, body_lines

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "packaging/man/make_pages.py"
PAGES = [
    "textgate.8", "textgated.8", "textgate.toml.5", "textgate-phones.5", "pam_textgate.8", "textgate-pam-helper.8",
]  # fmt: skip
DATE = re.compile(r"\b20[0-9]{2}-[0-9]{2}-[0-9]{2}\b")


def make(folder: Path, **environment: str) -> Path:
    """Make all pages as the build does, in this environment."""
    path = {"PATH": os.environ["PATH"]}
    subprocess.run(["/usr/bin/python3", "-I", "-B", SCRIPT, folder], check=True, env=path | environment, timeout=60)
    return folder


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("man"))


@pytest.fixture(scope="session")
def shown(pages: Path) -> dict[str, str]:
    """Page -> what a person reads, each run of blanks as one."""
    return {name: " ".join(as_text(pages / name).split()) for name in PAGES}


def as_text(page: Path) -> str:
    """A page as man(1) shows it where nothing is broken into lines or hyphenated."""
    done = subprocess.run(
        ["man", "--no-hyphenation", "--no-justification", "-E", "UTF-8", "-P", "cat", "-l", page],
        capture_output=True, text=True, check=True, timeout=60,
        env={"PATH": os.environ["PATH"], "MANWIDTH": "1000", "LC_ALL": "C.UTF-8", "GROFF_NO_SGR": "1"},
    )  # fmt: skip
    return re.sub(r".\x08", "", done.stdout)


@cache
def make_pages() -> Any:
    """The generator itself, as a module."""
    spec = importlib.util.spec_from_file_location("make_pages", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_pages"] = module
    kept = list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = kept
    return module


def render(*lines: str) -> str:
    return "\n".join(make_pages().render(list(lines)))


# --- They are good roff. ---


def test_every_page_is_made_and_no_other(pages: Path) -> None:
    assert sorted(path.name for path in pages.iterdir()) == sorted(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_man_warns_of_nothing(pages: Path, name: str) -> None:
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", pages / name],
        capture_output=True, text=True, check=True, timeout=60,
        env={"PATH": os.environ["PATH"], "MANWIDTH": "80", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout


@pytest.mark.parametrize("name", PAGES)
def test_mandoc_warns_of_nothing(pages: Path, name: str) -> None:
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "style", pages / name], capture_output=True, text=True, check=False, timeout=60
    )
    # File names in small letters, and so are the titles: man(1) looks for what is written in SEE ALSO.
    findings = [line for line in done.stdout.splitlines() if "lower case character in document title" not in line]
    assert findings == []
    assert done.stderr == ""


@pytest.mark.parametrize("name", PAGES)
def test_page_has_a_name_line_that_whatis_can_read(pages: Path, name: str) -> None:
    done = subprocess.run(["lexgrog", pages / name], capture_output=True, text=True, check=True, timeout=60)
    assert f'"{name.rpartition(".")[0]} - ' in done.stdout


@pytest.mark.parametrize("name", PAGES)
def test_page_begins_and_ends_as_manual_pages_do(pages: Path, name: str) -> None:
    headings = re.findall(r'(?m)^\.SH "?([^"\n]+)"?$', (pages / name).read_text())
    assert headings[0] == "NAME"
    assert headings[-1] == "SEE ALSO"
    assert "DESCRIPTION" in headings


def test_pages_are_the_same_bytes_wherever_they_are_made(pages: Path, tmp_path: Path) -> None:
    again = make(tmp_path, TZ="Pacific/Kiritimati", LC_ALL="tr_TR.UTF-8", PYTHONHASHSEED="7", COLUMNS="40", HOME="/x")
    for name in PAGES:
        assert (again / name).read_bytes() == (pages / name).read_bytes()


@pytest.mark.parametrize("name", PAGES)
def test_only_date_is_that_of_the_changelog(pages: Path, name: str) -> None:
    changelog = (REPOSITORY / "packaging/debian/changelog").read_text()
    stamp = re.search(r"(?m)^ -- .*>  (.+)$", changelog)
    assert stamp is not None
    title = next(line for line in (pages / name).read_text().split("\n") if line.startswith(".TH"))
    assert DATE.findall(title) == [parsedate_to_datetime(stamp[1]).date().isoformat()]


# --- They are complete. ---


def walk(group: click.Group, *path: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from walk(command, *path, name)
        else:
            yield (*path, name), command


def test_hidden_commands_are_left_out() -> None:
    inner = click.Group("inner", commands={"shown": click.Command("shown"), "not": click.Command("not", hidden=True)})
    outer = click.Group(commands={"inner": inner, "gone": click.Command("gone", hidden=True)})
    assert [name for name, _ in make_pages().walk_commands(outer)] == ["inner shown"]


def test_every_command_is_described_with_its_options(shown: dict[str, str]) -> None:
    text = shown["textgate.8"]
    found = list(walk(cli.main))
    assert len(found) > 15
    for path, command in found:
        name = " ".join(("textgate", *path))
        assert command.hidden or f" {name} " in text, name
        assert not (command.hidden and name in text), name
        for param in () if command.hidden else command.params:
            is_option = isinstance(param, click.Option)
            for word in [*param.opts, *param.secondary_opts] if is_option else [(param.name or "").upper()]:
                assert word in text, (name, word)


def test_help_of_each_command_is_in_the_page(shown: dict[str, str]) -> None:
    for path, command in walk(cli.main):
        if not command.hidden:
            first = " ".join((command.help or "").split("\n\n")[0].split()).replace("`", "")
            assert first
            assert first in shown["textgate.8"], path


@pytest.mark.parametrize("section", config.SECTIONS)
def test_every_key_is_described_with_its_default_and_its_bounds(shown: dict[str, str], section: str) -> None:
    text = shown["textgate.toml.5"]
    kind = config.SECTIONS[section]
    start = text.index(f" [{section}] {(kind.__doc__ or '').partition('] ')[2]}")
    for option in dataclasses.fields(kind):
        default = make_pages().toml(option.default)
        doc = make_pages().sentence(option.metadata["doc"])
        entry = f"{option.name} = {default} {doc} Allowed: {make_pages().bounds(option.metadata['parse'])}."
        assert entry in text[start:], option.name


@pytest.mark.parametrize(
    ("section", "key", "words"),
    [
        ("codes", "digits", "a whole number from 6 to 8"),
        ("codes", "life_s", "a whole number from 60 to 600"),
        ("gateway", "api", 'one of "rest", "messaging"'),
        ("gateway", "total_timeout_s", "a number of seconds from 0.1 to 120"),
        ("exempt", "networks", 'a list; each entry an address or network such as "192.0.2.0/24", without host bits'),
        ("vault", "key_file", "an absolute path"),
    ],
)
def test_bounds_are_said_in_words(section: str, key: str, words: str) -> None:
    parse = {field.name: field for field in dataclasses.fields(config.SECTIONS[section])}[key].metadata["parse"]
    assert make_pages().bounds(parse) == words


def test_defaults_as_the_page_shows_them_are_the_defaults() -> None:
    """Written into a file as shown, they make the very same configuration."""
    lines = []
    for section, kind in config.SECTIONS.items():
        lines.append(f"[{section}]")
        for option in dataclasses.fields(kind):
            value = option.default if option.name != "allowed_countries" else ("DK",)
            lines.append(f"{option.name} = {make_pages().toml(value)}")
    parsed = config.parse_config("\n".join(lines), config_path="x")
    assert parsed == config.parse_config('[limits]\nallowed_countries = ["DK"]', config_path="x")


def test_every_exit_code_has_its_meaning(shown: dict[str, str]) -> None:
    for code in ExitCode:
        words = make_pages().EXIT_WORDS[code].replace("`", "")
        assert f" {code.value} {words}" in shown["textgate.8"]


def test_every_event_stands_with_its_number_and_what_the_catalog_says(shown: dict[str, str]) -> None:
    catalog = make_pages().subjects()
    for event in Event:
        subject = make_pages().sentence(catalog[event.value])
        assert f"{event.name.lower()}, {event.value} {subject}" in shown["textgated.8"]


def test_every_option_of_the_daemon_is_described(shown: dict[str, str]) -> None:
    usage = server.build_parser().format_help()
    options = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", usage))
    assert {"--config", "--log", "--version", "--help"} <= options
    for option in options:
        assert option in shown["textgated.8"], option


def test_every_option_of_the_helper_is_described(shown: dict[str, str]) -> None:
    helper = make_pages().textgate_pam
    text = shown["textgate-pam-helper.8"]
    for option in re.findall(r"--[a-z-]+", helper.USAGE):
        assert text.count(option) > 1, option
    for fact in (helper.DEFAULT_SOCKET, helper.AWAY_TEXT, helper.LET_IN_TEXT, helper.FAIL_OPEN_MESSAGE_ID):
        assert fact in text
    assert f"above 0 and up to {helper.DEADLINE_MAX_S:g}; {helper.DEFAULT_DEADLINE_S:g} by default" in text


def test_every_verb_of_the_module_is_described(shown: dict[str, str]) -> None:
    source = (REPOSITORY / "pam_helper/pam_textgate.c").read_text()
    verbs = re.findall(r'^    \{"([a-z-]+)", ', source, re.MULTILINE)
    assert len(verbs) == 7
    section = shown["pam_textgate.8"].partition(" VERBS ")[2].partition(" WHAT PEOPLE SEE ")[0]
    for verb in verbs:
        assert re.search(rf"(^| ){verb} (\[|[A-Z])", section), verb


def test_pam_lines_and_sshd_settings_are_the_real_ones(shown: dict[str, str]) -> None:
    text = shown["pam_textgate.8"]
    lines = (REPOSITORY / "pam_helper/textgate.pam").read_text().split("\n")
    assert " ".join(" ".join(line for line in lines if not line.startswith("#")).split()) in text
    for factor in FirstFactor:
        settings = [line for line in sshd_config.drop_in_text(factor).split("\n") if not line.startswith("#")]
        assert " ".join(settings).strip() in text
    assert " ".join(body_lines(FirstFactor.KEY)) in text
    for service, reason in doors.UNSUITABLE.items():
        assert service in text
        assert reason in text


@pytest.mark.parametrize(
    "path", [REPOSITORY / "packaging/man/pam_textgate.8.md", REPOSITORY / "pam_helper/README.md"]
)
def test_examples_of_services_have_todays_lines(path: Path) -> None:
    examples = [line.split() for line in path.read_text().split("\n") if line.startswith("    ")]
    assert ["@include", "textgate"] not in examples
    substack, require = ([*line.split()] for line in ASKING)
    at = [number for number, words in enumerate(examples) if words == substack]
    assert len(at) >= 3
    assert all(examples[number + 1] == require for number in at)


def test_every_command_has_its_json_described() -> None:
    assert set(json_terms()) == set(make_pages().COMMANDS)


def test_json_of_what_the_daemon_answers_is_that_of_the_protocol() -> None:
    protocol = (REPOSITORY / "daemon/PROTOCOL.md").read_text()
    results = dict(re.findall(r"^\| `([a-z-]+)` \|.*\| ([^|]+) \|$", protocol, re.MULTILINE))
    for command in ("status", "unlock", "recovery", "send-test", "keys reseal", "keys forget"):
        verb = command.removeprefix("keys ")
        assert json_keys(command) == tuple(re.findall(r"`(\w+)`", results[verb])), command


def test_every_answer_of_setup_is_described(shown: dict[str, str]) -> None:
    section = shown["textgate.8"].partition(" ANSWERS What stands")[2].partition(" KEYS ")[0]
    for name, answer in cli_setup.ANSWERS.items():
        words = {str: "a text", bool: "true or false", list: "a list of texts"}[answer.kind]
        assert f" {name}, {words} {make_pages().sentence(answer.help)}" in section, name


# --- What they say can be done. ---


def code_blocks(name: str) -> list[str]:
    """The examples of a page's prose."""
    lines = (REPOSITORY / "packaging/man" / f"{name}.md").read_text().split("\n")
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("    ") and not (blocks[-1] == [] and line.startswith("    Allowed")):
            blocks[-1].append(line[4:])
        elif line or not blocks[-1]:
            blocks.append([])
        else:
            blocks[-1].append("")
    return ["\n".join(block).strip("\n") for block in blocks if any(block)]


TOML_BLOCKS = [block for block in code_blocks("textgate.toml.5") if block.startswith("[")]


@pytest.mark.parametrize("text", TOML_BLOCKS, ids=range(len(TOML_BLOCKS)))
def test_examples_of_the_configuration_are_good_ones(text: str) -> None:
    document = tomllib.loads(text)
    document.setdefault("limits", {}).setdefault("allowed_countries", ["DK"])
    config.config_from_mapping(document, config_path="example")


def test_there_are_examples_of_the_configuration() -> None:
    assert len(TOML_BLOCKS) >= 6


def test_example_of_answers_is_a_good_one(tmp_path: Path) -> None:
    (text,) = (block for block in code_blocks("textgate.8") if block.startswith("# answers.toml"))
    path = tmp_path / "answers.toml"
    path.write_text(text)
    path.chmod(0o600)
    assert cli_setup.read_answers(str(path))["services"] == ["sshd", "sudo", "sudo-i"]


def commands_in(path: Path) -> Iterator[str]:
    """Each command line of textgate in a text: in examples (the comment behind it is not of it) and in backticks."""
    text = path.read_text()
    yield from (re.split(r" +#| +</", line)[0].strip() for line in re.findall(r"(?m)^    +(textgate .+)$", text))
    yield from (" ".join(words.split()) for words in re.findall(r"`(textgate [^`]+)`", text))


TEXTS = [
    *sorted((REPOSITORY / "packaging/man").glob("*.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    REPOSITORY / "README.md",
    REPOSITORY / "pam_helper/README.md",
]
USED = sorted({(path.name, line) for path in TEXTS for line in commands_in(path)})


@pytest.mark.parametrize(("name", "line"), USED, ids=[f"{name}: {line}" for name, line in USED])
def test_commands_in_the_documents_can_be_typed(name: str, line: str) -> None:
    """The command line takes them; or they are the beginning of one, such as `textgate pam`."""
    words = shlex.split(line)[1:]
    command: click.Command = cli.main
    context = click.Context(cli.main)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, words[0]
        command, words = found, words[1:]
    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    is_name_alone = not words and any(param.required for param in arguments)
    if not (is_name_alone or isinstance(command, click.Group) or words == ["…"]):
        command.make_context(command.name, words, parent=context)


@pytest.mark.parametrize("name", PAGES)
def test_pages_refer_to_pages_that_there_are(shown: dict[str, str], name: str) -> None:
    for title, section in re.findall(r"\b((?:pam_)?textgated?[\w.-]*)\((\d)\)", shown[name]):
        assert f"{title}.{section}" in PAGES


def test_units_and_commands_refer_to_pages_that_there_are() -> None:
    sources = [*(REPOSITORY / "systemd").iterdir(), *(REPOSITORY / "daemon/textgate").glob("*.py")]
    found = {
        f"{title}.{section}"
        for path in sources
        if path.is_file()
        for title, section in re.findall(r"\b((?:pam_)?textgated?[\w.-]*)\((\d)\)", path.read_text())
    }
    assert "textgated.8" in found
    assert found <= {*PAGES}


def test_files_of_the_documentation_that_pages_name_are_installed(shown: dict[str, str]) -> None:
    """They lie there as they lie in the source, and the package's own test follows their links."""
    install = (REPOSITORY / "packaging/install.mk").read_text()
    for text in shown.values():
        for name in re.findall(r"/usr/share/doc/textgate/([\w./-]+\w)", text):
            assert (REPOSITORY / name).is_file(), name
            assert f"$(DOCDIR)/{Path(name).parent}\n" in install, name


# --- The markup. ---


def test_what_roff_would_take_for_its_own_is_text() -> None:
    text = render("## A", "", ".TH is no request, \\n no escape, 'tis text", "", "    .EX", "    'x' ~ ^ - \\")
    assert text.split("\n") == [
        ".SH A",
        "\\&.TH is no request, \\en no escape, 'tis text",
        ".PP",
        ".RS 4n",
        ".EX",
        "\\&.EX",
        "\\(aqx\\(aq \\(ti \\(ha \\- \\e",
        ".EE",
        ".RE",
    ]


def test_line_that_is_broken_before_a_dot_is_no_request() -> None:
    text = render("## A", "", "x" * 77 + " .so /etc/shadow")
    assert "\n\\&.so" in text


def test_fonts_lists_and_other_pages() -> None:
    text = render("**--x** *FILE*", ":   Says `a-b` and", "    more, \\*as is\\*, see sudo(8).", "", "- one", "- two")
    assert text.split("\n") == [
        ".TP",
        "\\fB\\-\\-x\\fR \\fIFILE\\fR",
        "Says \\fBa\\-b\\fR and more, *as is*, see \\fBsudo\\fR(8).",
        ".IP \\(bu 2",
        "one",
        ".IP \\(bu 2",
        "two",
    ]


def test_characters_beyond_ascii_are_named_by_number() -> None:
    assert render("•• 34 §5") == "\\[u2022]\\[u2022] 34 \\[u00A7]5"


@pytest.mark.parametrize("line", ["@nothing", "@command nothing", "@section nothing", "{{nothing}}"])
def test_mistyped_directive_or_value_is_an_error(line: str) -> None:
    with pytest.raises(KeyError):
        make_pages().Page(f"# x(8): y\n{line}").expanded()


def test_command_or_section_that_no_prose_names_is_added() -> None:
    page = make_pages().Page("# x(8): y\n@command status\n@commands\n@section vault\n@sections\n")
    lines = page.expanded()
    for heading in ("### textgate status [--fresh]", "### textgate doctor", "### [vault]", "### [limits]"):
        assert lines.count(heading) == 1, heading
