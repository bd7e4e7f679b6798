# SPDX-License-Identifier: MIT
"""Who tried what and how it ended -> the journal, or standard error where there is none.

Each event has a stable MESSAGE_ID and structured TEXTGATE_ fields. Values are fixed words, numbers, names that NSS
knows, addresses and masked numbers; whatever else reaches a field is cut and escaped here, in one place.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Any, TextIO

try:
    from systemd import journal as _journal
except ImportError:  # a virtual environment without libsystemd, or the empty folder of that name in the source tree
    _journal = None

VALUE_MAX_LENGTH = 256
IDENTIFIER = "textgated"

Sink = Callable[[str, dict[str, str]], None]


class Priority(IntEnum):
    """Levels of syslog (RFC 5424 §6.2.1)."""

    ALERT = 1
    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6
    DEBUG = 7


class Event(Enum):
    """What can be in the journal: its MESSAGE_ID, for `journalctl MESSAGE_ID=...`; never changed, never reused."""

    BEGIN = "5c8d6a0c1f4b4e0d9a7d2f3b6e81c001"
    SEND = "5c8d6a0c1f4b4e0d9a7d2f3b6e81c002"
    CHECK = "5c8d6a0c1f4b4e0d9a7d2f3b6e81c003"
    LOCKOUT = "5c8d6a0c1f4b4e0d9a7d2f3b6e81c004"
    FAIL_OPEN = "5c8d6a0c1f4b4e0d9a7d2f3b6e81c005"
    FAULT = "5c8d6a0c1f4b4e0d9a7d2f3b6e81c006"
    PROTOCOL = "5c8d6a0c1f4b4e0d9a7d2f3b6e81c007"
    OVERLOAD = "5c8d6a0c1f4b4e0d9a7d2f3b6e81c008"
    SERVICE = "5c8d6a0c1f4b4e0d9a7d2f3b6e81c009"
    ADMIN = "5c8d6a0c1f4b4e0d9a7d2f3b6e81c00a"
    BUDGET = "5c8d6a0c1f4b4e0d9a7d2f3b6e81c00b"


class Audit:
    """Writes events. Thread-safe, and never raises: a full journal must not turn into a crash of a login."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def event(self, event: Event, message: str, *, priority: Priority = Priority.INFO, **fields: object) -> None:
        """Write one event.

        message: fixed words of ours. fields: short names in lower case, e.g. user="alice" -> TEXTGATE_USER=alice;
        None is left out.
        """
        entry = {
            "MESSAGE_ID": event.value,
            "PRIORITY": str(int(priority)),
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            "TEXTGATE_EVENT": event.name.lower(),
        }
        shown = {name: printable(str(value)) for name, value in fields.items() if value is not None}
        entry |= {f"TEXTGATE_{name.upper()}": value for name, value in shown.items()}
        words = " ".join(f"{name}={_quoted(value)}" for name, value in shown.items())
        with contextlib.suppress(Exception):  # nowhere left to say it
            self._sink(f"{message} ({words})" if words else message, entry)


def printable(text: str) -> str:
    """Text made safe for a log line: plain printable characters, everything else escaped, and not too long."""
    escaped = "".join(c if c.isprintable() and c not in '\\"' else _escaped(c) for c in text)
    return escaped if len(escaped) <= VALUE_MAX_LENGTH else escaped[: VALUE_MAX_LENGTH - 3] + "..."


def _escaped(character: str) -> str:
    return '\\"' if character == '"' else character.encode("unicode_escape").decode()


def _quoted(value: str) -> str:
    """A value within a message: in quotes if it has a blank, so that none can look like another field."""
    return f'"{value}"' if " " in value else value


def journal_sink(message: str, entry: dict[str, str]) -> None:
    """Send to systemd's journal with all fields."""
    _journal.send(message, **entry)


def stream_sink(stream: TextIO) -> Sink:
    """One JSON object a line, to standard error for example."""
    lock = threading.Lock()

    def write(message: str, entry: dict[str, str]) -> None:
        line = json.dumps({"MESSAGE": message, **entry}, ensure_ascii=True)
        with lock:
            stream.write(line + "\n")
            stream.flush()

    return write


def choose_sink(wanted: str, environment: dict[str, str] | os._Environ[str]) -> Sink:
    """The sink for `--log auto|journal|stderr`; auto takes the journal where systemd connected stderr to it.

    Raises ValueError when the journal is wanted and python3-systemd is not there.
    """
    is_there: Any = _journal is not None and hasattr(_journal, "send")
    if wanted == "journal" and not is_there:
        raise ValueError("python3-systemd is not installed")
    if wanted == "journal" or (wanted == "auto" and is_there and "JOURNAL_STREAM" in environment):
        return journal_sink
    return stream_sink(sys.stderr)
