# SPDX-License-Identifier: MIT
"""A hostile user name on its way through textgate, place by place: no shell, no path, no log line, no prompt sees it.

What real programs make of the same names is in tests/integration/test_silence.py.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest

from fakes import Journal, decoy_of
from hostile import CANARY, NAMES
from textgate import admin, cli, pam_conversation, sms, texts
from textgate.accounts import MAX_NAME_BYTES, NssAccounts
from textgate.audit import Audit, Event, stream_sink
from textgate.audit_digest import Digest
from textgate.config import Config
from textgate.counts import Counts
from textgate.directory import parse_phones, set_phone
from textgate.errors import DirectoryError, ProtocolError, RefusedError
from textgate.msisdn import Msisdn
from textgate.pam_conversation import PamResult
from textgate.peercred import PeerCred
from textgate.policy import decide
from textgate.printable import FIELD_MAX_LENGTH
from textgate.protocol import parse_request
from textgate.session import build_session
from textgate.store import encode_user
from textgate.verifier import user_key

ROOT = Path(__file__).parents[2]
HELPER = ROOT / "pam_helper"
SOURCES = [*(ROOT / "daemon/textgate").glob("*.py"), HELPER / "textgate_pam.py"]
NUMBER = "4512345678"

names = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)


@pytest.fixture(scope="module")
def helper() -> Iterator[Any]:
    """The helper's module, as it is imported beside `pam-helper`."""
    sys.path.insert(0, str(HELPER))
    try:
        yield importlib.import_module("textgate_pam")
    finally:
        sys.path.remove(str(HELPER))


def fields(name: str) -> dict[str, str]:
    return {"PAM_USER": name, "PAM_SERVICE": "sudo", "PPID": "1", "PPID_START": "1", "PAM_TYPE": "auth"}


# --- From PAM to the daemon. ---


@names
def test_name_stays_in_its_field_of_the_request(helper: Any, name: str) -> None:
    """An environment can't hold NUL, nor more than it has; all else comes through as it was typed."""
    raw = name.partition("\0")[0].encode("utf-8", "surrogatepass")
    found = helper.pick(b"\0".join([b"PAM_SERVICE=sudo", b"PAM_USER=" + raw, b"PAM_TYPE=auth", b""]))
    assert found == {b"PAM_USER": raw, b"PAM_SERVICE": b"sudo", b"PAM_TYPE": b"auth"}
    request = b"textgate/1 begin\0" + b"\0".join(b"%b=%b" % field for field in found.items())
    if name == NAMES["surrogate"]:
        with pytest.raises(ProtocolError, match="not_utf8"):
            parse_request(request)
        return
    assert parse_request(request).fields == {
        "PAM_USER": name.partition("\0")[0], "PAM_SERVICE": "sudo", "PAM_TYPE": "auth",
    }  # fmt: skip


@names
def test_helper_logs_a_plain_name_or_none(helper: Any, name: str) -> None:
    shown = helper.name_or_mark(name.encode("utf-8", "surrogatepass"))
    assert shown in (name, "(unusual name)")
    assert re.fullmatch(r"[A-Za-z0-9._@-]{1,64}|\(unusual name\)", shown)


@names
def test_session_does_not_show_the_name_that_was_typed(name: str) -> None:
    if not name:
        with pytest.raises(ProtocolError, match="no_user"):
            build_session(fields(name), ("sshd",))
        return
    session = build_session(fields(name), ("sshd",))
    assert session.user == name
    assert repr(session) == repr(build_session(fields("somebody"), ("sshd",)))


# --- Who is it. ---


@names
def test_name_is_nobody_and_nss_is_asked_for_harmless_ones_only(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked: list[str] = []

    def getpwnam(user: str) -> pwd.struct_passwd:
        asked.append(user)
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwnam", getpwnam)
    assert NssAccounts().lookup(name) is None
    assert asked in ([], [name])
    if asked:
        assert name.isprintable() and not set(name) & set("/:\n\0") and len(name.encode()) <= MAX_NAME_BYTES


@names
def test_name_is_refused_whatever_the_lists_say(name: str) -> None:
    session = build_session(fields(name or "x"), ("sshd",))
    assert decide(session, None, Config(path="test")).reason == "unknown_user"


# --- Where it could be written. ---


@names
def test_name_in_a_key_of_redis_is_plain_and_its_own(name: str) -> None:
    assert re.fullmatch(r"~[0-9a-f]{4}", decoy_of(name))
    with contextlib.suppress(UnicodeEncodeError):  # NSS gives no name that isn't text
        assert re.fullmatch(r"[A-Za-z0-9_.%-]*", user_key(name))
        assert unquote(encode_user(name)) == name


def test_names_have_keys_of_their_own() -> None:
    usable = [name for name in NAMES.values() if name != NAMES["surrogate"]]
    assert len({user_key(name) for name in usable}) == len(usable)
    assert len({decoy_of(name) for name in NAMES.values()}) == len(NAMES)
    assert not {user_key(name) for name in usable} & {decoy_of(name) for name in NAMES.values()}


@names
def test_name_in_the_journal_is_one_escaped_value(name: str) -> None:
    stream, journal = io.StringIO(), Journal()
    for audit in (journal.audit, Audit(stream_sink(stream))):
        audit.event(Event.CHECK, "login refused", user=name, result="deny")
    (entry,) = journal.entries
    assert set(entry.fields) == {
        "MESSAGE_ID", "PRIORITY", "SYSLOG_IDENTIFIER", "TEXTGATE_EVENT", "TEXTGATE_USER", "TEXTGATE_RESULT",
    }  # fmt: skip
    assert entry["user"].isprintable() and len(entry["user"]) <= FIELD_MAX_LENGTH
    assert entry.message.isprintable() and entry.message.endswith(" result=deny)")
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().rstrip("\n").isprintable()


@names
def test_name_gets_no_number_of_anybody_in_the_phones_file(name: str) -> None:
    name = name.replace("\n", "\r")  # a line feed begins another line: no name has it there
    line = f"{name}: +4587654321\n".encode("utf-8", "surrogatepass")
    table = parse_phones(f"alice: +{NUMBER}\n".encode() + line, "")
    assert table.numbers.get("alice") in (Msisdn(NUMBER), None)
    assert set(table.numbers) <= {"alice", name, name.strip()}
    assert all(fault.isprintable() for fault in table.faults)


@names
def test_name_is_written_to_the_phones_file_as_one_line_or_not_at_all(tmp_path: Path, name: str) -> None:
    phones = tmp_path / "phones"
    phones.write_text(f"alice: +{NUMBER}\n")
    phones.chmod(0o640)
    try:
        set_phone(str(phones), name, Msisdn("4587654321"))
    except DirectoryError as error:
        assert str(error).isprintable() and (len(name) < 3 or name not in str(error))
        assert phones.read_text() == f"alice: +{NUMBER}\n"
    else:
        assert phones.read_text() == f"alice: +{NUMBER}\n{name}: +4587654321\n"
    assert {path.name for path in tmp_path.iterdir()} <= {"phones", ".phones.lock"}


@names
def test_name_in_the_place_of_a_host_or_service_adds_nothing_to_a_text(name: str) -> None:
    text = sms.render("{code} for {service} on {host}", code="123456", host=name, service=name)
    assert re.fullmatch(r"123456 for [A-Za-z0-9._-]{0,16} on [A-Za-z0-9._-]{0,40}", text)


@names
def test_command_refuses_the_name_without_repeating_it(name: str) -> None:
    journal = Journal()
    unlocked: list[str] = []
    services: Any = SimpleNamespace(
        verifier=SimpleNamespace(canonical_user=lambda user: None),
        store=SimpleNamespace(unlock=unlocked.append),
    )
    daemon = admin.Daemon(
        lambda: services, Counts(), journal.audit, Digest(journal.audit, lambda *_later: None), lambda: None
    )
    call = admin.Call({"user": name}, PeerCred(1, 0, 0), daemon)
    with pytest.raises((RefusedError, ProtocolError)) as refused:
        admin.VERBS["unlock"].handler(call)
    assert str(refused.value) in ("no such user on this machine", "request refused: argument_user")
    assert unlocked == []
    assert journal.entries == []


@names
def test_login_test_shows_the_name_escaped(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """An administrator may have copied it from somewhere."""
    asked = []

    def authenticate(service: str, user: str, _converse: object) -> PamResult:
        asked.append((service, user))
        return PamResult(7, "Authentication failure")

    monkeypatch.setattr(pam_conversation, "authenticate", authenticate)
    monkeypatch.setattr(Path, "is_file", lambda _path: True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        cli.main(["login-test", "--", name, "sudo"])
    assert asked == [("sudo", name)]
    assert out.getvalue().rstrip("\n").isprintable()


# --- Where it can't get at all. ---


def test_no_sentence_for_people_takes_a_name() -> None:
    """So that known and unknown users are told the same, and no prompt holds what was typed."""
    for _, function in inspect.getmembers(texts, inspect.isfunction):
        assert not {"user", "name", "account", "session"} & set(inspect.signature(function).parameters)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_program_of_ours_starts_a_shell(path: Path) -> None:
    forbidden = {"system", "popen", "spawnl", "spawnlp", "getoutput", "getstatusoutput", "eval", "exec"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            assert called not in forbidden, f"{path.name}:{node.lineno}"
            shells = [word for word in node.keywords if word.arg == "shell"]
            assert not shells, f"{path.name}:{node.lineno}"


def called_in(name: str) -> tuple[str, set[str]]:
    """A source in C without its comments, and what it calls."""
    source = re.sub(r"/\*.*?\*/", "", (HELPER / name).read_text(), flags=re.DOTALL)
    return source, set(re.findall(r"\b([a-z_]+)\s*\(", source))


def test_module_in_c_neither_asks_for_the_name_nor_opens_or_runs_anything() -> None:
    source, called = called_in("pam_textgate.c")
    assert "pam_get_user" not in called
    assert source.count("PAM_USER") == 1 and "pam_get_item(pamh, PAM_USER, &user)" in source  # compared, no more
    assert not called & {"system", "popen", "open", "fopen", "execv", "execve", "execl", "fork", "sprintf", "strcpy"}


def test_launcher_runs_one_program_and_opens_nothing() -> None:
    source, called = called_in("launcher.c")
    assert source.count("execv(PYTHON, words)") == 1
    assert not called & {"system", "popen", "open", "fopen", "execve", "execl", "execvp", "fork", "getenv", "sprintf"}


def test_lines_of_pam_hold_nothing_that_pam_would_fill_in() -> None:
    for line in (HELPER / "textgate.pam").read_text().splitlines():
        assert line.startswith("#") or not set(line) & set("$%`")


def test_canary_would_be_seen(tmp_path: Path) -> None:
    """So that the names above would do what they should not."""
    for kind in ("substitution", "backquotes", "second command", "pipe"):
        name = NAMES[kind].replace(CANARY, str(tmp_path / kind.replace(" ", "-")))
        subprocess.run(["/bin/sh", "-c", f"echo {name}"], check=True, stdout=subprocess.DEVNULL)
    assert len(list(tmp_path.iterdir())) == 4
