# SPDX-License-Identifier: MIT
"""The journal's events: stable ids, structured fields, and nothing that can forge a line."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgate import audit as audit_module
from textgate.audit import Audit, Event, JournalSink, Priority, choose_sink, stream_sink
from textgate.printable import FIELD_MAX_LENGTH, printable_field
from textgate.secret import Secret

# Written down a second time: people filter by these, so they may never change.
MESSAGE_IDS = {
    "BEGIN": "5c8d6a0c1f4b4e0d9a7d2f3b6e81c001",
    "SEND": "5c8d6a0c1f4b4e0d9a7d2f3b6e81c002",
    "CHECK": "5c8d6a0c1f4b4e0d9a7d2f3b6e81c003",
    "LOCKOUT": "5c8d6a0c1f4b4e0d9a7d2f3b6e81c004",
    "FAIL_OPEN": "5c8d6a0c1f4b4e0d9a7d2f3b6e81c005",
    "FAULT": "5c8d6a0c1f4b4e0d9a7d2f3b6e81c006",
    "PROTOCOL": "5c8d6a0c1f4b4e0d9a7d2f3b6e81c007",
    "OVERLOAD": "5c8d6a0c1f4b4e0d9a7d2f3b6e81c008",
    "SERVICE": "5c8d6a0c1f4b4e0d9a7d2f3b6e81c009",
    "ADMIN": "5c8d6a0c1f4b4e0d9a7d2f3b6e81c00a",
}


def _written(message: str = "said", **fields: Any) -> tuple[str, dict[str, str]]:
    written: list[tuple[str, dict[str, str]]] = []
    Audit(lambda text, entry: written.append((text, entry))).event(Event.CHECK, message, **fields)
    assert len(written) == 1
    return written[0]


def test_message_ids_never_change() -> None:
    assert {event.name: event.value for event in Event}.items() >= MESSAGE_IDS.items()
    assert len({event.value for event in Event}) == len(Event)
    assert all(len(bytes.fromhex(event.value)) == 16 for event in Event)


def test_priorities_are_syslogs() -> None:
    assert {level.name: level.value for level in Priority} == {
        "ALERT": 1,
        "ERROR": 3,
        "WARNING": 4,
        "NOTICE": 5,
        "INFO": 6,
        "DEBUG": 7,
    }


def test_event_has_message_and_structured_fields() -> None:
    message, entry = _written("right code", user="alice", result="pass", count=3, nothing=None)
    assert message == "right code (user=alice result=pass count=3)"
    assert entry == {
        "MESSAGE_ID": MESSAGE_IDS["CHECK"],
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "textgated",
        "TEXTGATE_EVENT": "check",
        "TEXTGATE_USER": "alice",
        "TEXTGATE_RESULT": "pass",
        "TEXTGATE_COUNT": "3",
    }


def test_event_without_fields_is_its_message() -> None:
    assert _written("ready")[0] == "ready"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("alice", "alice"),
        ("æøå", "æøå"),
        ("line\nTEXTGATE_RESULT=pass", "line\\nTEXTGATE_RESULT=pass"),  # no second line
        ("\r\t", "\\r\\t"),
        ("\x1b[2J", "\\x1b[2J"),  # no terminal escapes
        ("\x9b2J", "\\x9b2J"),
        ("\u202eecila", "\\u202eecila"),  # no turned writing direction
        ("a\\b", "a\\\\b"),
        ('say "x"', 'say \\"x\\"'),
        ("\ud800", "\\ud800"),
        ("\0", "\\x00"),
        ("x" * FIELD_MAX_LENGTH, "x" * FIELD_MAX_LENGTH),
        ("x" * (FIELD_MAX_LENGTH + 1), "x" * (FIELD_MAX_LENGTH - 3) + "..."),
    ],
)
def test_value_is_escaped_and_cut(value: str, shown: str) -> None:
    assert printable_field(value) == shown
    assert _written(user=value)[1]["TEXTGATE_USER"] == shown


@given(st.text())
def test_shown_value_is_printable_and_short(value: str) -> None:
    shown = printable_field(value)
    assert shown.isprintable()
    assert len(shown) <= FIELD_MAX_LENGTH


def test_value_with_a_blank_cannot_look_like_another_field() -> None:
    message, _ = _written("login refused", user='eve result=pass "x', result="deny")
    assert message == 'login refused (user="eve result=pass \\"x" result=deny)'


def test_secret_does_not_get_into_an_event() -> None:
    message, entry = _written(code=Secret("hunter2"))
    assert "hunter2" not in message + str(entry)


def test_audit_never_raises() -> None:
    def full(_message: str, _entry: dict[str, str]) -> None:
        raise OSError("no space left")

    Audit(full).event(Event.CHECK, "right code")


def test_stream_sink_writes_one_json_object_a_line() -> None:
    stream = io.StringIO()
    audit = Audit(stream_sink(stream))
    audit.event(Event.BEGIN, "one", user="æ\n")
    audit.event(Event.CHECK, "two")
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (first["MESSAGE"], first["TEXTGATE_USER"]) == ("one (user=æ\\n)", "æ\\n")
    assert second["TEXTGATE_EVENT"] == "check"
    assert stream.getvalue().isascii()


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[socket.socket]:
    """A journal's socket: datagrams of systemd's native form come out of it."""
    path = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(5)
        monkeypatch.setattr(audit_module, "JOURNAL_SOCKET", path)
        yield listener


@pytest.mark.parametrize(
    ("wanted", "environment", "is_journal"),
    [
        ("journal", {}, True),
        ("auto", {"JOURNAL_STREAM": "8:1"}, True),
        ("auto", {}, False),
        ("stderr", {"JOURNAL_STREAM": "8:1"}, False),
    ],
)
def test_sink_is_the_journal_where_systemd_connected_it(
    journal: socket.socket, wanted: str, environment: dict[str, str], is_journal: bool
) -> None:
    sink = choose_sink(wanted, environment)
    assert isinstance(sink, JournalSink) is is_journal
    if isinstance(sink, JournalSink):
        sink.close()


def test_sink_without_a_journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(audit_module, "JOURNAL_SOCKET", str(tmp_path / "none"))
    assert not isinstance(choose_sink("auto", {"JOURNAL_STREAM": "8:1"}), JournalSink)
    with pytest.raises(ValueError, match="journal does not run here"):
        choose_sink("journal", {})


def test_journal_gets_every_field_in_its_native_form(journal: socket.socket) -> None:
    with contextlib.closing(JournalSink(journal.getsockname())) as sink:
        sink("said", {"TEXTGATE_EVENT": "check", "TEXTGATE_REASON": "two\nlines"})
    assert journal.recv(65536) == (
        b"MESSAGE=said\nTEXTGATE_EVENT=check\nTEXTGATE_REASON\n\x09\0\0\0\0\0\0\0two\nlines\n"
    )


def test_journal_that_does_not_read_costs_the_event_and_not_the_login(journal: socket.socket) -> None:
    """And other threads go on meanwhile: the wait holds no lock of the interpreter."""
    sink = JournalSink(journal.getsockname())
    audit = Audit(sink)
    ticks: list[float] = []
    is_over = threading.Event()

    def tick() -> None:
        while not is_over.wait(0.01):
            ticks.append(time.monotonic())

    ticker = threading.Thread(target=tick)
    ticker.start()
    began_at = time.monotonic()
    while time.monotonic() - began_at < audit_module.JOURNAL_WAIT_S:  # until the queue is full, and once beyond
        audit.event(Event.CHECK, "right code")
    is_over.set()
    ticker.join()
    sink.close()
    gaps = [later - earlier for earlier, later in itertools.pairwise([began_at, *ticks])]
    assert len(ticks) > 1
    assert max(gaps) < audit_module.JOURNAL_WAIT_S
