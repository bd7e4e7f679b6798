# SPDX-License-Identifier: MIT
"""What the documents claim, as far as it can be looked up: tests, files, commands, targets and numbers they name."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
from pathlib import Path

import click
import pytest

from textgate.cli import main
from textgate.config import CodesConfig, Config, GatewayConfig, LimitsConfig
from textgate.errors import ExitCode

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
CLAIMS = [ROOT / "docs/threat-model.md", ROOT / "docs/rfc4226.md"]
DOCUMENTS = sorted(
    {
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "daemon").glob("*.md"),
        *(ROOT / "pam_helper").glob("*.md"),
    }
)
PAGES = [*DOCUMENTS, *(ROOT / "packaging/man").glob("*")]
README = (ROOT / "README.md").read_text()

_CITED = re.compile(r"`([a-z_]+/test_[a-z0-9_]+\.py)::(test_[a-z0-9_]+)`")
_LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


@functools.cache
def _tests_in(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def _cited(document: Path) -> list[tuple[str, str]]:
    return _CITED.findall(document.read_text())


def _rows(document: Path) -> list[str]:
    """The table rows of a document, without heads and lines between."""
    lines = document.read_text().splitlines()
    heads = {at - 1 for at, line in enumerate(lines) if re.fullmatch(r"\|[ |-]+\|", line)}
    return [
        line
        for at, line in enumerate(lines)
        if line.startswith("|") and at not in heads and not re.fullmatch(r"\|[ |-]+\|", line)
    ]


# --- Tests that are named. ---


@pytest.mark.parametrize(
    ("file", "name"), sorted({pair for document in CLAIMS for pair in _cited(document)}), ids=lambda word: word
)
def test_test_that_a_document_names_is_there(file: str, name: str) -> None:
    assert name in _tests_in(file)


@pytest.mark.parametrize("document", CLAIMS, ids=lambda path: path.name)
def test_whatever_looks_like_a_test_is_named_in_full(document: Path) -> None:
    text = document.read_text()
    assert len(re.findall(r"\btest_\w+\.py\b", text)) == len(_cited(document)) >= 20
    assert len(re.findall(r"::", text.replace("`file::test`", ""))) == len(_cited(document))


def test_every_attacker_has_a_test_that_stops_him() -> None:
    text = (ROOT / "docs/threat-model.md").read_text()
    table = text[text.index("## Who attacks") : text.index("## What textgate can't stop")]
    rows = [row for row in _rows(ROOT / "docs/threat-model.md") if row in table]
    assert len(rows) >= 15
    for row in rows:
        assert _CITED.search(row), row


def test_every_recommendation_has_a_test_or_says_why_not() -> None:
    rows = _rows(ROOT / "docs/rfc4226.md")
    sections = {row.split("|")[1].split()[0].rstrip(",") for row in rows}
    assert {"7.1", "7.2", "7.3", "7.4", "7.5", "7.6"} <= sections
    for row in rows:
        assert _CITED.search(row) or "not needed" in row or "not used" in row, row


# --- Files, targets, commands. ---


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_document_lead_somewhere(document: Path) -> None:
    for target, _ in _LINK.findall(document.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_targets_that_a_document_names_are_there(document: Path) -> None:
    makefiles = [ROOT / "Makefile", *(ROOT / "packaging").glob("*.mk"), ROOT / "pam_helper/Makefile"]
    rules = "\n".join(path.read_text() for path in makefiles)
    there = {name for line in re.findall(r"(?m)^([A-Za-z][\w -]*):(?!=)", rules) for name in line.split()}
    named = set(re.findall(r"(?:`|&& |    )make ([a-z][a-z-]*)", document.read_text()))
    assert named <= there


def _commands(command: click.Command, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Every command below one, as words."""
    if not isinstance(command, click.Group):
        return {path}
    context = click.Context(command)
    found = {path}
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        found |= _commands(inner, (*path, name))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_that_a_page_names_are_there(page: Path) -> None:
    """In code spans and code blocks; what comes behind a group's name must be one of its commands."""
    commands = _commands(main)
    groups = {
        path for path in commands if any(len(other) > len(path) and other[: len(path)] == path for other in commands)
    }
    for words in re.findall(r"(?:`|^    (?:# |sudo )?)textgate ((?:[a-z-]+ ?)+)", page.read_text(), re.MULTILINE):
        path = tuple(words.split())
        first = path[:1]
        if first and not first[0].startswith("-"):
            assert first in commands, words
            if first in groups and len(path) > 1:
                assert path[:2] in commands, words


# --- Numbers. ---


def test_readme_has_the_exit_codes_of_the_command() -> None:
    listed = re.search(r"exit codes: (.*?)\. The manual", README, re.DOTALL | re.IGNORECASE)
    assert listed is not None
    assert {int(number) for number in re.findall(r"\b(\d) ", listed[1])} == {int(code) for code in ExitCode}


@pytest.mark.parametrize(
    ("words", "value", "wanted"),
    [
        ("up to three times in one conversation", CodesConfig().tries, 3),
        ("for five minutes, once", CodesConfig().life_s, 300),
        ("five wrong codes in a row lock out", LimitsConfig().wrong_in_a_row, 5),
        ("no user has more than 20 wrong codes in 24 hours", LimitsConfig().wrong_per_day, 20),
        ("OAuth 1.0a", GatewayConfig().auth, "oauth1"),
    ],
)
def test_readme_has_the_defaults(words: str, value: object, wanted: object) -> None:
    assert words in " ".join(README.split())
    assert value == wanted


def test_rfc_page_has_the_defaults() -> None:
    text = " ".join((ROOT / "docs/rfc4226.md").read_text().split())
    limits, codes = LimitsConfig(), CodesConfig()
    assert f"{codes.tries} for one text, {limits.wrong_in_a_row} in a row, {limits.wrong_per_day} in 24 hours" in text
    assert (limits.lockout_s, limits.lockout_max_s) == (300, 86400)
    assert "lockouts double, from 5 minutes to 24 hours" in text


def test_failmode_is_off_as_the_documents_say() -> None:
    assert (Config(path="x").failmode.store, Config(path="x").failmode.gateway) == ("secure", "secure")
    lines = (ROOT / "pam_helper/textgate.pam").read_text()
    assert "--fail-open" not in "".join(line for line in lines.splitlines() if not line.startswith("#"))


def test_gateway_address_in_the_documents_is_the_default() -> None:
    assert "gatewayapi.com" in GatewayConfig().url
    assert "https://gatewayapi.com" in README


def test_documents_have_no_trailing_blanks_and_no_unfinished_words() -> None:
    for document in [*DOCUMENTS, *CLAIMS]:
        for number, line in enumerate(document.read_text().splitlines(), start=1):
            assert line == line.rstrip(), f"{document.name}:{number}"
            assert not re.search(r"\b(TODO|FIXME|XXX|TBD)\b", line), f"{document.name}:{number}"


def test_search_for_names_would_find_a_wrong_one() -> None:
    assert "test_that_nobody_wrote" not in _tests_in("unit/test_docs.py")
    assert _CITED.findall("`unit/test_x.py::test_y`") == [("unit/test_x.py", "test_y")]


def test_makefile_runs_every_folder_of_tests() -> None:
    shown = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for folder in ("tests/unit", "tests/contract", "tests/integration"):
        assert folder in shown
