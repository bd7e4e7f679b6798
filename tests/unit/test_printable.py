# SPDX-License-Identifier: MIT
"""Nothing from outside commands a terminal, a journal or a reader of JSON: one function, and every edge uses it."""

from __future__ import annotations

import ast
import contextlib
import functools
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

import textgate
from textgate import (
    admin_client,
    cli,
    cli_base,
    credstore,
    doctor,
    journal_reader,
    pam_conversation,
    pam_revert,
    store,
    wiring,
)
from textgate.audit import Audit, Event, stream_sink
from textgate.errors import ConfigError, TextgateError
from textgate.finding import Finding
from textgate.guard_faults import Level
from textgate.pam_status import row_text
from textgate.printable import FIELD_MAX_LENGTH, printable, printable_field, printable_json, printable_lines

EVIL = {
    "clears the screen": "7.0\x1b[2J\x1b[H",
    "sets the title": "7.0\x1b]0;root\x07",
    "types an answer": "7.0\x1b[6n",
    "C1 control": "7.0\x9b31m",
    "delete and backspace": "7.0\x7f\x08\x08",
    "carriage return": "7.0\rok     ",
    "another line": "7.0\nok       all is well",
    "next line": "7.0\x85ok",
    "line separator": "7.0\u2028ok",
    "turned": "7.0\u202eko",
    "isolated": "7.0\u2066ok\u2069",
    "invisible": "7.0\u200b\ufeff",
    "tag": "7.0\U000e0041",
    "half a character": "7.0\udc9b",
    "NUL": "7.0\0",
}
MARKUP = "[red]7.0[/red] [b]x :skull:"
evil = pytest.mark.parametrize("untrusted", EVIL.values(), ids=EVIL.keys())


# --- The one function ---


@given(st.text(), st.sampled_from(["", "\n\t"]))
def test_result_prints_and_says_what_was_there(untrusted: str, keeps: str) -> None:
    shown = printable(untrusted, keeps=keeps)
    assert all(char.isprintable() or char in keeps for char in shown)
    if untrusted.isprintable():
        assert shown == untrusted


@given(st.text(), st.text())
def test_no_two_fields_look_the_same(one: str, other: str) -> None:
    shown = printable_field(one)
    assert shown.isprintable() and len(shown) <= FIELD_MAX_LENGTH
    assert (shown == printable_field(other)) is (one == other) or shown.endswith("...")


@given(st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.dictionaries(st.text(), inner)))
def test_json_prints_and_is_the_same_document(document: object) -> None:
    shown = printable_json(document)
    assert shown.isprintable()
    assert json.loads(shown) == document


def test_lines_keep_their_feeds_and_nothing_else() -> None:
    assert printable_lines("a\n\tb\r\x1bc") == "a\n\tb\\r\\x1bc"


# --- No other way out ---

TERMINAL_WAYS = {"echo", "secho", "print", "getpass", "prompt", "confirm"}
ALLOWED = {
    ("cli_base", "tell"), ("cli_base", "ask_hidden"), ("cli_setup", "wants"), ("pam_revert", "_say"),
    ("rescue", "tell"), ("server", "main"), ("cli", "_show_status"),
}  # fmt: skip


def _calls(tree: ast.AST, function: str = "") -> Iterator[tuple[str, str]]:
    for node in ast.iter_child_nodes(tree):
        inner = node.name if isinstance(node, ast.FunctionDef) else function
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            is_of_click = name not in ("confirm", "prompt") or ast.unparse(called).startswith("click.")
            if name in TERMINAL_WAYS and is_of_click:
                yield inner, ast.unparse(node)
            if name == "write" and ast.unparse(called).startswith("sys.std"):
                yield inner, ast.unparse(node)
        yield from _calls(node, inner)


def test_commands_write_to_the_terminal_in_one_place() -> None:
    package = Path(textgate.__file__).parent
    found = {
        (path.stem, function): call
        for path in package.rglob("*.py")
        for function, call in _calls(ast.parse(path.read_text()))
    }
    assert {place: call for place, call in found.items() if place not in ALLOWED} == {}
    for place in ALLOWED:
        assert "printable" in found[place] or place == ("cli", "_show_status"), place


# --- Each edge ---


def _said(action: Callable[[], object]) -> str:
    """Everything that an action writes, but for line feeds that end a line of ours."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(SystemExit):
        action()
    return out.getvalue() + err.getvalue()


def _is_harmless(said: str) -> bool:
    return bool(said) and said.replace("\n", "").isprintable() and not re.search(r"(?m)^ok", said)


def _status(version: str) -> dict[str, Any]:
    return {
        "version": version,
        "started_at": 0,
        "counts": {},
        "store": {"is_up": True, "version": version, "is_durable": True},
        "gateway": {"is_up": True, "credit": version, "currency": version, "reason": version},
    }


@evil
def test_status(untrusted: str) -> None:
    assert _is_harmless(_said(lambda: cli._show_status(_status(untrusted))))


def test_status_shows_markup_as_it_is() -> None:
    assert f"{MARKUP}, durable" in _said(lambda: cli._show_status(_status(MARKUP)))


@evil
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_doctor(untrusted: str, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    finding = Finding("redis", Level.FAILURE, f"{untrusted} answers", f"look at {untrusted}")
    monkeypatch.setattr(doctor, "examine", lambda _machine: [finding])
    monkeypatch.setattr("os.geteuid", lambda: 0)
    said = _said(lambda: cli.main(["doctor", *options]))
    assert _is_harmless(said)
    if options:
        assert json.loads(said)["findings"][0]["message"] == finding.message


@evil
@pytest.mark.parametrize("is_json", [False, True])
def test_error(untrusted: str, is_json: bool) -> None:
    """Such as one that quotes a key of the configuration, or what the daemon's answer says."""
    context = cli_base.Context("x", is_json)
    errors: tuple[TextgateError, ...] = (TextgateError(untrusted), ConfigError(untrusted, (untrusted, untrusted)))
    for error in errors:
        assert _is_harmless(_said(functools.partial(cli_base.fail, context, error)))


@evil
def test_answer_of_the_daemon(untrusted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_client, "call", lambda *_arguments, **_more: {"user": untrusted, "is_limited": False})
    monkeypatch.setattr(wiring, "load_config", lambda _path: _Config())
    for more in ([], ["--json"]):
        assert _is_harmless(_said(functools.partial(cli.main, ["unlock", "alice", *more])))


class _Config:
    class daemon:  # a section
        admin_socket = "/nowhere"


@evil
def test_what_pam_says(untrusted: str) -> None:
    said = _said(lambda: cli._converse(pam_conversation.Style.INFO, untrusted))
    assert said.replace("\n", "").isprintable()


@evil
def test_row_of_pam_status(untrusted: str) -> None:
    fault = {"level": "warning", "message": untrusted, "remedy": untrusted, "fault": "x"}
    row = {
        "service": "sshd", "faults": [untrusted], "first_factor": None, "confirm_by": None, "is_changed": False,
        "is_ours": True, "findings": [fault],
    }  # fmt: skip
    assert _is_harmless(_said(lambda: cli_base.tell(row_text(row), has_lines=True)))


@evil
def test_timer_that_takes_tries_back(untrusted: str) -> None:
    assert _is_harmless(_said(lambda: pam_revert._say(3, untrusted)))


@evil
def test_journal_of_the_daemon(untrusted: str) -> None:
    stream = io.StringIO()
    lines: list[tuple[str, dict[str, str]]] = []
    for sink in (stream_sink(stream), lambda message, entry: lines.append((message, entry))):
        Audit(sink).event(Event.FAULT, f"can't start: {untrusted}", reason=untrusted)
    assert stream.getvalue()[:-1].isprintable()
    assert lines[0][0].isprintable() and all(value.isprintable() for value in lines[0][1].values())


@evil
def test_entry_of_the_journal_that_is_shown(untrusted: str) -> None:
    """It may be of an earlier version, or of whoever could write there."""
    for value in (untrusted, untrusted.encode("utf-8", "surrogatepass")):
        event = journal_reader._event({"MESSAGE": value, "TEXTGATE_USER": value, "PRIORITY": value})
        assert all(field.isprintable() for field in event.values())


@evil
def test_words_of_another_program(untrusted: str) -> None:
    assert credstore._told(1, untrusted).isprintable()


@evil
def test_version_of_redis_in_the_status_of_the_daemon(untrusted: str) -> None:
    made = object.__new__(store.Store)
    made._redis = type("Redis", (), {"info": staticmethod(lambda: {"redis_version": untrusted * 50})})
    version = made.health().version
    assert version.isprintable() and len(version) <= 64


@evil
def test_names_that_the_shell_completes(untrusted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("textgate.accounts.names_of_people", lambda: frozenset({"alice", untrusted}))
    context = click.Context(cli.main)
    assert cli_base.complete_users(context, click.Option(["-x"]), "") == ["alice"]
