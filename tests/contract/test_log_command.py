# SPDX-License-Identifier: MIT
"""`textgate log` on real journal files: what it shows, of whom, from when, and that nobody can speak in its name.

The files are made by systemd-journal-remote from the journal's export format, with the fields that only journald
itself sets (`_UID`, `_SYSTEMD_UNIT`) chosen by the test.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import os
import pwd
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pytest
from click.testing import CliRunner

from textgate import journal_reader
from textgate.audit import Audit, Event, Priority
from textgate.cli import main
from textgate.errors import TextgateError
from textgate.journal_reader import DAEMON_UNIT, parse_since, read_events

REMOTE = "/lib/systemd/systemd-journal-remote"
SOURCES = Path(__file__).parents[2] / "daemon"
WITHIN_S = 20.0
START = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
BOOT_ID = "0123456789abcdef0123456789abcdef"
ROOT: Mapping[str, str] = {"_UID": "0"}
UNIT: Mapping[str, str] = {"_UID": "977", "_SYSTEMD_UNIT": DAEMON_UNIT}


class Writer:
    """A journal file that grows. One entry a second after START, unless told otherwise."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "test.journal"
        self._count = 0
        self._exported: list[bytes] = []

    def entry(self, trusted: Mapping[str, str] = UNIT, /, **fields: str) -> Self:
        """Add an entry as somebody writes it."""
        self._count += 1
        at = START + dt.timedelta(seconds=self._count)
        own = {
            "__REALTIME_TIMESTAMP": str(int(at.timestamp() * 1_000_000)),
            "__MONOTONIC_TIMESTAMP": str(self._count * 1_000_000),
            "_BOOT_ID": BOOT_ID,
        }
        self._exported.append(b"".join(_line(*pair) for pair in (own | dict(trusted) | fields).items()) + b"\n")
        return self

    def event(self, event: Event, message: str, *, trusted: Mapping[str, str] = UNIT, **more: Any) -> Self:
        """Add an event as the daemon writes it."""

        def sink(text: str, entry: dict[str, str]) -> None:
            self.entry(trusted, MESSAGE=text, **entry)

        Audit(sink).event(event, message, **more)
        return self

    def exported(self) -> bytes:
        """What was added since the last call, in the export format."""
        exported, self._exported = b"".join(self._exported), []
        return exported

    def write(self) -> str:
        """Make the file; answers its path."""
        subprocess.run([REMOTE, "-o", self.path, "-"], input=self.exported(), check=True, capture_output=True)
        return str(self.path)


def _line(name: str, value: str) -> bytes:
    """A field; one with a line feed is written with its length (systemd.io, Journal Export Formats)."""
    raw = value.encode()
    if b"\n" not in raw:
        return name.encode() + b"=" + raw + b"\n"
    return name.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"


@pytest.fixture
def journal(tmp_path: Path) -> Writer:
    return Writer(tmp_path)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "textgate.cli", *arguments]


def _environment() -> dict[str, str]:
    return {"PATH": os.defpath, "PYTHONPATH": str(SOURCES), "PYTHONDONTWRITEBYTECODE": "1", "TZ": "UTC"}


def _run(*arguments: str) -> tuple[int, str, str]:
    """`textgate log` in this process: exit code, output, errors."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        main(["log", *arguments], prog_name="textgate")
    assert isinstance(end.value.code, int)
    return end.value.code, out.getvalue(), err.getvalue()


def _log(journal: Writer, *arguments: str) -> str:
    """What `textgate log` prints of a file."""
    code, out, err = _run("--file", str(journal.path), *arguments)
    assert (code, err) == (0, "")
    return out


@pytest.fixture(autouse=True)
def time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times are shown in the reader's own zone."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def _a_day(journal: Writer) -> Writer:
    journal.event(Event.BEGIN, "code asked for", user="alice", service="sshd", phone="•• 78", result="ask")
    journal.event(Event.SEND, "text sent", user="alice", message_ids="17,18")
    journal.event(Event.CHECK, "login refused", user="bob", result="deny", reason="wrong", priority=Priority.NOTICE)
    journal.event(Event.CHECK, "right code", user="alice", result="pass", reason="code")
    journal.entry(
        ROOT, SYSLOG_IDENTIFIER="textgate-pam-helper", PRIORITY="3", MESSAGE="check: no answer",
        TEXTGATE_EVENT="helper_failed",
    )  # fmt: skip
    journal.write()
    return journal


# --- What it shows. ---


def test_events_are_shown_oldest_first_with_their_time(journal: Writer) -> None:
    assert _log(_a_day(journal)).splitlines() == [
        '2026-03-01T12:00:01+00:00 code asked for (user=alice service=sshd phone="•• 78" result=ask)',
        "2026-03-01T12:00:02+00:00 text sent (user=alice message_ids=17,18)",
        "2026-03-01T12:00:03+00:00 login refused (user=bob result=deny reason=wrong)",
        "2026-03-01T12:00:04+00:00 right code (user=alice result=pass reason=code)",
        "2026-03-01T12:00:05+00:00 check: no answer",
    ]


def test_json_has_one_object_a_line_with_every_field_of_ours(journal: Writer) -> None:
    first = json.loads(_log(_a_day(journal), "--json").splitlines()[0])
    assert first == {
        "TIME": "2026-03-01T12:00:01+00:00",
        "MESSAGE": 'code asked for (user=alice service=sshd phone="•• 78" result=ask)',
        "PRIORITY": "6",
        "TEXTGATE_EVENT": "begin",
        "TEXTGATE_USER": "alice",
        "TEXTGATE_SERVICE": "sshd",
        "TEXTGATE_PHONE": "•• 78",
        "TEXTGATE_RESULT": "ask",
    }


def test_user_shows_that_user_only(journal: Writer) -> None:
    assert [line.split()[1] for line in _log(_a_day(journal), "--user", "bob").splitlines()] == ["login"]
    assert _log(journal, "--user", "bo") == ""
    assert _log(journal, "--user", "*") == ""


def test_user_is_found_under_the_name_that_the_journal_has(journal: Writer) -> None:
    name = "DOMAIN\\eve"
    journal.event(Event.CHECK, "right code", user=name).write()
    assert "right code" in _log(journal, "--user", name)


@pytest.mark.parametrize(
    ("since", "count"),
    [
        ("2026-03-01 12:00:01", 5),
        ("2026-03-01T12:00:03", 3),
        ("2026-03-01T14:00:03+02:00", 3),  # its own time zone, and not the reader's
        ("2026-03-01T12:00:05.5", 0),
        ("2026-03-02", 0),
        ("2026-02-28", 5),
        ("1066-10-14", 5),  # before the journal's time
    ],
)
def test_since_shows_what_came_from_then_on(journal: Writer, since: str, count: int) -> None:
    assert len(_log(_a_day(journal), "--since", since).splitlines()) == count


def test_log_of_an_empty_journal_is_empty(journal: Writer) -> None:
    journal.entry(ROOT, SYSLOG_IDENTIFIER="cron", MESSAGE="nothing of ours").write()
    assert _log(journal) == ""
    assert _log(journal, "--json") == ""


def test_reader_that_has_seen_enough_ends_it_quietly(journal: Writer) -> None:
    for _ in range(2000):
        journal.event(Event.CHECK, "right code", user="alice", reason="x" * 200)
    journal.write()
    command = " ".join(_command("log", "--file", str(journal.path)))
    done = subprocess.run(
        ["/bin/sh", "-c", f"{command} | head -n 1"],
        env=_environment(), capture_output=True, text=True, timeout=WITHIN_S, check=False,
    )  # fmt: skip
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")


# --- Following. ---


@contextlib.contextmanager
def _following(journal: Writer, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], subprocess.Popen[bytes]]]:
    """`textgate log -f` on a file that grows, and the program that lets it grow."""
    with contextlib.ExitStack() as stack:
        remote = stack.enter_context(
            subprocess.Popen([REMOTE, "-o", journal.path, "-"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        )
        stack.callback(remote.kill)
        _grow(remote, journal)
        follower = stack.enter_context(
            subprocess.Popen(
                _command("log", "-f", "--file", str(journal.path), *arguments),
                env=_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(follower.kill)
        yield follower, remote


def _grow(remote: subprocess.Popen[bytes], journal: Writer) -> None:
    assert remote.stdin is not None
    remote.stdin.write(journal.exported())
    remote.stdin.flush()
    while not (journal.path.exists() and journal.path.stat().st_size):  # its first entry makes the file
        assert remote.poll() is None


def test_follow_shows_new_events_as_they_come(journal: Writer) -> None:
    journal.event(Event.CHECK, "right code", user="alice")
    with _following(journal, "--user", "alice") as (follower, remote):
        assert follower.stdout is not None
        assert follower.stdout.readline().endswith("right code (user=alice)\n")
        for number in (1, 2):
            journal.event(Event.CHECK, f"no. {number}", user="bob").event(Event.CHECK, f"no. {number}", user="alice")
            _grow(remote, journal)
            assert follower.stdout.readline().endswith(f"no. {number} (user=alice)\n")


def test_ctrl_c_ends_it_with_zero(journal: Writer) -> None:
    journal.event(Event.CHECK, "right code", user="alice")
    with _following(journal) as (follower, _):
        assert follower.stdout is not None and follower.stderr is not None
        follower.stdout.readline()
        follower.send_signal(2)
        assert follower.wait(WITHIN_S) == 0
        assert follower.stderr.read() == ""


# --- Nobody can speak in its name. ---

SAID = {"SYSLOG_IDENTIFIER": "textgated", "PRIORITY": "6", "TEXTGATE_EVENT": "check", "TEXTGATE_USER": "alice"}


@pytest.mark.parametrize(
    ("trusted", "is_shown"),
    [
        ({"_UID": "0"}, True),
        ({"_UID": "977", "_SYSTEMD_UNIT": "textgated.service"}, True),
        ({"_UID": "1000"}, False),
        ({"_UID": "65534"}, False),
        ({}, False),
        ({"_UID": "1000", "_SYSTEMD_UNIT": "user@1000.service"}, False),
        ({"_UID": "1000", "_SYSTEMD_USER_UNIT": "textgated.service"}, False),  # his own unit of that name
        ({"_UID": "1000", "SYSTEMD_UNIT": "textgated.service"}, False),  # without _ anybody can write it
        ({"_UID": "1000", "UID": "0"}, False),
        ({"_UID": "00"}, False),
    ],
)
@pytest.mark.parametrize("identifier", ["textgated", "textgate-pam-helper"])
def test_only_entries_of_root_and_of_the_daemon_are_shown(
    journal: Writer, trusted: dict[str, str], is_shown: bool, identifier: str
) -> None:
    journal.entry(trusted, MESSAGE="forged", **SAID | {"SYSLOG_IDENTIFIER": identifier}).write()
    for arguments in ((), ("--user", "alice"), ("--json",), ("--since", "2026-03-01")):
        assert ("forged" in _log(journal, *arguments)) is is_shown, arguments


def test_user_of_the_daemon_on_this_machine_is_known_by_name(
    journal: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = journal.entry({"_UID": "977"}, MESSAGE="by hand", **SAID).write()
    entry = pwd.struct_passwd(("textgate", "x", 977, 977, "", "/", ""))
    users = {"textgate": entry}
    monkeypatch.setattr(pwd, "getpwnam", lambda name: users[name])
    assert [event["MESSAGE"] for event in read_events(file=path)] == ["by hand"]
    users.clear()
    assert list(read_events(file=path)) == []


def test_entries_of_others_are_not_shown(journal: Writer) -> None:
    journal.entry(ROOT, MESSAGE="sudo", SYSLOG_IDENTIFIER="sudo", TEXTGATE_USER="alice").write()
    assert _log(journal) == _log(journal, "--user", "alice") == ""


@pytest.mark.parametrize(
    "hostile",
    ["\x1b[2J", "\x9b2J", "a\nright code (user=alice result=pass)", "\r", "\u202e", "\x00", "\x7f", "\x08\x08"],
    ids=ascii,
)
@pytest.mark.parametrize("is_json", [False, True])
def test_what_a_terminal_would_obey_is_escaped(journal: Writer, hostile: str, is_json: bool) -> None:
    """Root's processes may write anything; the daemon itself writes nothing of the kind."""
    fields = SAID | {"TEXTGATE_USER": f"x{hostile}y"}
    journal.entry(ROOT, MESSAGE=f"a{hostile}b", **fields).write()
    shown = _log(journal, *(["--json"] if is_json else []))
    assert shown.endswith("\n") and shown.count("\n") == 1
    assert shown[:-1].isprintable()
    if is_json:
        assert json.loads(shown)["TEXTGATE_USER"].isprintable()


# --- What can't be read. ---


def test_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    _is_refused("--file", str(tmp_path / "none"), words="the journal can't be read: No such file or directory")


def test_file_that_is_no_journal_is_said(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk" * 1000)
    _is_refused("--file", str(tmp_path / "junk"), words="the journal can't be read: ")


def test_journal_that_is_not_for_this_user_is_said_and_not_shown_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log/0123/system.journal"
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.setattr(journal_reader, "MACHINE_JOURNALS", (f"{tmp_path}/log/*/system.journal"[1:],))
    monkeypatch.setattr(os, "access", lambda *_: False)
    done = CliRunner().invoke(main, ["--config", "/nonexistent", "log", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.output)["error"] == {
        "message": "the journal can't be read: Permission denied", "hint": "run it with sudo",
    }  # fmt: skip


@pytest.mark.parametrize("since", ["", "soon", "-1h", "2026-13-01", "9" * 400, "999999w", "1y", "\x1b[2J"], ids=ascii)
def test_time_that_is_none_is_said_and_not_repeated(journal: Writer, since: str) -> None:
    _is_refused("--since", since or " ", words="--since can't be read", status=2)


def _is_refused(*arguments: str, words: str, status: int = 1) -> None:
    code, out, err = _run(*arguments)
    assert (code, out) == (status, "")
    assert err.startswith(f"textgate: error: {words}")
    assert err.replace("\n", "").isprintable()


NOW = dt.datetime(2026, 3, 1, 12, 30, tzinfo=dt.timezone(dt.timedelta(hours=2)))


@pytest.mark.parametrize(
    ("text", "ago"),
    [
        ("now", dt.timedelta()),
        ("30s", dt.timedelta(seconds=30)),
        ("15m", dt.timedelta(minutes=15)),
        ("2 h", dt.timedelta(hours=2)),
        ("3d ago", dt.timedelta(days=3)),
        ("1w", dt.timedelta(weeks=1)),
        ("today", dt.timedelta(hours=12, minutes=30)),
        ("yesterday", dt.timedelta(hours=36, minutes=30)),
        ("2026-03-01 12:00", dt.timedelta(minutes=30)),
        ("2026-03-01", dt.timedelta(hours=12, minutes=30)),
        ("2026-03-01T10:30Z", dt.timedelta()),
    ],
)
def test_times_are_read_as_people_write_them(text: str, ago: dt.timedelta) -> None:
    assert parse_since(text, NOW) == NOW - ago


@pytest.mark.parametrize("text", ["", "m", "1 month", "999999999d", "999999w"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(TextgateError, match="--since can't be read"):
        parse_since(text, NOW)
