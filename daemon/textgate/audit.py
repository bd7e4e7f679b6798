# SPDX-License-Identifier: MIT
"""Who tried what and how it ended -> the journal, or standard error where there is none.

Each event has a stable MESSAGE_ID and structured TEXTGATE_ fields. Values are fixed words, numbers, names that NSS
knows, addresses and masked numbers; whatever else reaches a field is cut and escaped here, in one place.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import threading
from collections.abc import Callable
from enum import Enum, IntEnum
from pathlib import Path
from typing import TextIO

from .printable import printable, printable_field

MESSAGE_MAX_LENGTH = 2000  # of the words alone, which are ours but for the faults of a configuration
IDENTIFIER = "textgated"

JOURNAL_SOCKET = "/run/systemd/journal/socket"
JOURNAL_WAIT_S = 0.2  # for a journal that doesn't read

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
    STORE = "5c8d6a0c1f4b4e0d9a7d2f3b6e81c010"


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
        shown = {name: printable_field(str(value)) for name, value in fields.items() if value is not None}
        entry |= {f"TEXTGATE_{name.upper()}": value for name, value in shown.items()}
        words = " ".join(f"{name}={_quoted(value)}" for name, value in shown.items())
        with contextlib.suppress(Exception):  # nowhere left to say it
            said = printable(message, most=MESSAGE_MAX_LENGTH)
            self._sink(f"{said} ({words})" if words else said, entry)


def _quoted(value: str) -> str:
    """A value within a message: in quotes if it has a blank, so that none can look like another field."""
    return f'"{value}"' if " " in value else value


class JournalSink:
    """Sends to systemd's journal with all fields, in its native form (systemd.io/JOURNAL_NATIVE_PROTOCOL).

    Not by systemd-python's `journal.send`: that waits for the journal with the interpreter's lock held, so that a
    journal that has stopped reading would stop every thread of the daemon, and with it every login.
    """

    def __init__(self, path: str = JOURNAL_SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)

    def __call__(self, message: str, entry: dict[str, str]) -> None:
        """Send one event. Raises OSError if the journal isn't there or doesn't read."""
        fields = {"MESSAGE": message, **entry}
        record = b"".join(_journal_field(name, value) for name, value in fields.items())
        try:
            self._socket.sendto(record, self._path)
        except BlockingIOError:
            select.select((), (self._socket,), (), JOURNAL_WAIT_S)
            self._socket.sendto(record, self._path)

    def close(self) -> None:
        """Close the socket; nothing can be sent afterwards."""
        self._socket.close()


def _journal_field(name: str, value: str) -> bytes:
    """One field; a line feed needs the long form."""
    data = value.encode("utf-8", "replace")
    if b"\n" in data:
        return b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
    return b"%b=%b\n" % (name.encode(), data)


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

    Raises ValueError when the journal is wanted and there is none.
    """
    is_there = Path(JOURNAL_SOCKET).is_socket()
    if wanted == "journal" and not is_there:
        raise ValueError("systemd's journal does not run here")
    if wanted == "journal" or (wanted == "auto" and is_there and "JOURNAL_STREAM" in environment):
        return JournalSink()
    return stream_sink(sys.stderr)
