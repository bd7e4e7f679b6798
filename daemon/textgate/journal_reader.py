# SPDX-License-Identifier: MIT
"""Reads textgate's events back from systemd's journal, oldest first.

Anybody can write to the journal under any name, so only entries are taken that the journal itself says are of root,
of the daemon's own user or of its unit (`_UID`, `_SYSTEMD_UNIT`: fields that no writer can set). All is made safe for
a terminal.
"""

from __future__ import annotations

import datetime as dt
import errno
import os
import pwd
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .audit import IDENTIFIER
from .errors import TextgateError, UsageError
from .printable import printable, printable_field

HELPER_IDENTIFIER = "textgate-pam-helper"
DAEMON_USER = "textgate"
DAEMON_UNIT = "textgated.service"  # in a journal of another machine the user may have another number
MACHINE_JOURNALS = ("var/log/journal/*/system.journal", "run/log/journal/*/system.journal")  # below /
WAIT_S = 1.0  # then Ctrl-C is heard, if it came at an awkward moment

_SPAN = re.compile(r"(\d{1,6})\s*([smhdw])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_since(text: str, now: dt.datetime) -> dt.datetime:
    """A time to start from: "15m", "2h", "3d" (ago), "today", "yesterday", or "2026-11-24", "2026-11-24 10:30".

    now: the present, aware. Returns an aware time. Raises UsageError for anything else.
    """
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"today": midnight, "yesterday": midnight - dt.timedelta(days=1), "now": now}
    if text in named:
        return named[text]
    span = _SPAN.fullmatch(text.removesuffix(" ago"))
    try:
        if span:
            return now - dt.timedelta(seconds=int(span[1]) * _UNIT_S[span[2]])
        found = dt.datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise UsageError(
            "--since can't be read", hint='write "15m", "2h", "3d", "today", "2026-11-24" or "2026-11-24 10:30"'
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=now.tzinfo)


def read_events(
    *, user: str | None = None, since: dt.datetime | None = None, follow: bool = False, file: str | None = None
) -> Iterator[dict[str, str]]:
    """Events as TEXTGATE_ fields with MESSAGE, PRIORITY and TIME (ISO 8601, local); those of `user` only, if given.

    follow: go on with new ones as they come. file: a journal file in place of the machine's journal. Raises
    TextgateError when there is no journal to read, OSError when it can't be read.
    """
    journal = _journal()
    if not file:
        _require_readable()
    reader = journal.Reader(files=[file]) if file else journal.Reader()
    for identifier in (IDENTIFIER, HELPER_IDENTIFIER):
        reader.add_match(SYSLOG_IDENTIFIER=identifier)
    reader.add_conjunction()
    for uid in sorted(_trusted_uids()):
        reader.add_match(_UID=str(uid))
    reader.add_disjunction()
    reader.add_match(_SYSTEMD_UNIT=DAEMON_UNIT)
    if user:
        reader.add_conjunction()
        reader.add_match(TEXTGATE_USER=printable_field(user))  # as the daemon writes it
    if since:
        reader.seek_realtime(max(0.0, since.timestamp()))
    else:
        reader.seek_head()
    while True:
        for entry in reader:
            yield _event(entry)
        if not follow:
            return
        reader.wait(WAIT_S)


def _event(entry: Mapping[str, Any]) -> dict[str, str]:
    """One entry -> its fields that are textgate's."""
    shown = {name: _plain(value) for name, value in entry.items() if name.startswith("TEXTGATE_")}
    moment = entry.get("__REALTIME_TIMESTAMP")
    when = moment.astimezone().isoformat(timespec="seconds") if isinstance(moment, dt.datetime) else ""
    message, priority = _plain(entry.get("MESSAGE", "")), _plain(entry.get("PRIORITY", ""))
    return {"TIME": when, "MESSAGE": message, "PRIORITY": priority} | shown


def _plain(value: object) -> str:
    """A field as one line of printable characters. The daemon's own need nothing: they were written so."""
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return printable(text)


def _require_readable() -> None:
    """Raises PermissionError where the machine's journal is another's: its reader would only show nothing."""
    found = [path for pattern in MACHINE_JOURNALS for path in Path("/").glob(pattern)]
    if found and not any(os.access(path, os.R_OK) for path in found):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _trusted_uids() -> set[int]:
    try:
        return {0, pwd.getpwnam(DAEMON_USER).pw_uid}
    except KeyError:
        return {0}


def _journal() -> Any:
    try:
        from systemd import journal
    except ImportError:
        journal = None
    if not hasattr(journal, "Reader"):
        raise TextgateError("python3-systemd is not installed", hint="apt install python3-systemd")
    return journal
