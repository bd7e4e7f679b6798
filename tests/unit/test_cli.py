# SPDX-License-Identifier: MIT
"""The command: what it prints, with and without --json, and how it ends. The daemon is played by a thread."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from manual import json_keys
from textgate import __version__, admin_client, doctor, pam_conversation, wiring
from textgate.cli import main
from textgate.finding import Finding
from textgate.guard_faults import Level
from textgate.pam_conversation import PamResult, Style
from textgate.secret import Secret
from textgate.vault import parse_keys

WITHIN_S = 20.0
NUMBER = "+45 20 12 34 56"
VAULT_KEY = "k1:" + "5a" * 32

STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "started_at": 0,
    "config": "/etc/textgate/textgate.toml",
    "counts": {"reply_pass": 7, "reply_ask": 9, "reply_deny": 2, "overload": 1},
    "store": {"is_up": True, "version": "7.0.15", "is_durable": True, "used_memory_bytes": 1},
    "gateway": {"is_up": True, "reason": "accepted", "credit": "25.00", "currency": "DKK", "clock_skew_s": 0.0},
}
SENT: dict[str, Any] = {
    "outcome": "sent",
    "reason": "accepted",
    "message_ids": [1],
    "phone": "•• 56",
    "cost": "0.30",
    "currency": "DKK",
    "duration_ms": 120,
    "is_known_number": True,
}
BEGUN: dict[str, Any] = {
    "session_id": "s1",
    "user": "alice",
    "text": "A login code was texted to your phone.",
    "phone": "•• 56",
    "is_known_number": True,
}


def _ok(result: dict[str, Any]) -> bytes:
    return json.dumps({"v": 1, "ok": True, "result": result}).encode() + b"\n"


def _no(kind: str, message: str, hint: str | None = None) -> bytes:
    error = {"kind": kind, "message": message, "hint": hint}
    return json.dumps({"v": 1, "ok": False, "error": error}).encode() + b"\n"


class Daemon:
    """Answers each request on its socket with the next line it was given, and keeps what it was asked."""

    def __init__(self, path: Path) -> None:
        self.answers: list[bytes] = []
        self.asked: list[dict[str, Any]] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rb") as lines:
                line = lines.readline()
                if not line:
                    return
                self.asked.append(json.loads(line))
                connection.sendall(self.answers.pop(0))

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waker:
            waker.connect(self._listener.getsockname())
        self._thread.join(WITHIN_S)
        self._listener.close()


Result = tuple[int, str, str]


class Desk:
    """A folder with a configuration, and the command that is told of it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._capsys, self._monkeypatch = folder, capsys, monkeypatch
        self.socket, self.phones, self.key = folder / "admin.sock", folder / "phones", folder / "keys" / "vault-key"
        self.config = folder / "textgate.toml"
        self.configure()

    def configure(self, more: str = "") -> None:
        self.config.write_text(
            f"""
            [daemon]
            admin_socket = "{self.socket}"
            [limits]
            allowed_countries = ["DK"]
            [gateway]
            key_file = "{self.folder}/gatewayapi-key"
            secret_file = "{self.folder}/gatewayapi-secret"
            [vault]
            key_file = "{self.key}"
            [phones]
            file = "{self.phones}"
            {more}
            """
        )

    def write_good(self) -> None:
        """All files that a good configuration names."""
        self.key.parent.mkdir(exist_ok=True)
        for path, content in (
            (self.folder / "gatewayapi-key", "the-key"),
            (self.folder / "gatewayapi-secret", "the-secret"),
            (self.key, VAULT_KEY),
            (self.phones, f"alice: {NUMBER}\n"),
        ):
            path.write_text(content)
            path.chmod(0o600)

    def run(self, *arguments: str, stdin: str = "") -> Result:
        """Exit code, standard output, standard error."""
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["--config", str(self.config), *arguments], prog_name="textgate")
        said = self._capsys.readouterr()
        code = ended.value.code
        return int(code) if isinstance(code, int) else 0 if code is None else 1, said.out, said.err


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return Desk(tmp_path, capsys, monkeypatch)


@pytest.fixture
def daemon(desk: Desk) -> Iterator[Daemon]:
    daemon = Daemon(desk.socket)
    yield daemon
    daemon.close()
    assert daemon.answers == []  # every answer was asked for


# --- Every command ---


def _commands(group: click.Group = main, *path: str) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command
        if isinstance(command, click.Group):
            yield from _commands(command, *path, name)
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(_commands()), ids=" ".join)
def test_every_command_has_help_and_json(desk: Desk, path: tuple[str, ...]) -> None:
    code, out, err = desk.run(*path, "--help")
    assert (code, err) == (0, "")
    assert "--json" in out
    assert "Usage: textgate " + " ".join(path) in out


def test_version_and_exit_codes_are_shown(desk: Desk) -> None:
    assert desk.run("--version")[:2] == (0, f"textgate {__version__}\n")
    help_text = " ".join(desk.run("--help")[1].split())
    for words in ("0 done", "1 failed", "2 usage", "3 configuration", "4 textgated can't be reached", "5 refused"):
        assert words in help_text


@pytest.mark.parametrize(
    "arguments", [["nosuch"], ["status", "--nosuch"], ["unlock"], ["send-test"], ["enrol", "alice"], ["keys", "x"]]
)
def test_wrong_usage_ends_with_two(desk: Desk, arguments: list[str]) -> None:
    code, out, err = desk.run(*arguments)
    assert (code, out) == (2, "")
    assert "Usage:" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pam", "disable"], "name a service, or say --all"),
        (["pam", "try", "sudo", "--confirm-within", "5"], "the time to confirm within must be from 30s to 24h"),
        (["log", "--since", "soon"], "--since can't be read"),
        (["send-test"], "no number was given"),
    ],
)
def test_arguments_that_make_no_sense_end_with_two_with_json_too(
    desk: Desk, arguments: list[str], message: str
) -> None:
    code, out, _err = desk.run(*arguments, "--json")
    assert code == 2
    assert json.loads(out)["error"]["message"] == message
    code, out, err = desk.run(*arguments)
    assert (code, out) == (2, "")
    assert message in err


# What a command asks and what a good answer is.
SIMPLE = [
    (["status"], "status", {}, STATUS),
    (["unlock", "alice"], "unlock", {"user": "alice"}, {"user": "alice"}),
    (["send-test", NUMBER], "send-test", {"number": NUMBER}, SENT),
    (["recovery", "alice"], "recovery", {"user": "alice"}, {"user": "alice", "codes": ["abcd-efgh-jkmn"]}),
]
SIMPLE_IDS = [arguments[0] for arguments, *_ in SIMPLE]


@pytest.mark.parametrize(("arguments", "verb", "sent", "result"), SIMPLE, ids=SIMPLE_IDS)
@pytest.mark.parametrize("place", ["before", "behind"])
def test_json_is_one_object_and_nothing_else(
    desk: Desk, daemon: Daemon, arguments: list[str], verb: str, sent: dict[str, Any], result: Any, place: str
) -> None:
    daemon.answers = [_ok(result)]
    code, out, err = desk.run(*(["--json", *arguments] if place == "before" else [*arguments, "--json"]))
    assert (code, err) == (0, "")
    assert json.loads(out) == result
    assert out.count("\n") == 1
    assert daemon.asked == [{"v": 1, "verb": verb} | sent]


@pytest.mark.parametrize(("arguments", "verb", "sent", "result"), SIMPLE, ids=SIMPLE_IDS)
@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [("refused", 5), ("usage", 2), ("store_away", 1), ("forbidden", 1), ("protocol", 1), ("failed", 1), ("new", 1)],
)
def test_error_of_the_daemon_is_shown_with_its_hint_and_exit_code(
    desk: Desk,
    daemon: Daemon,
    arguments: list[str],
    verb: str,
    sent: dict[str, Any],
    result: Any,
    kind: str,
    exit_code: int,
) -> None:
    daemon.answers = [_no(kind, "it broke", "mend it"), _no(kind, "it broke")]
    assert desk.run(*arguments) == (exit_code, "", "textgate: error: it broke\nhint: mend it\n")
    code, out, err = desk.run("--json", *arguments)
    assert (code, err) == (exit_code, "")
    assert json.loads(out) == {"error": {"message": "it broke", "hint": None}}


@pytest.mark.parametrize(("arguments", "verb", "sent", "result"), SIMPLE, ids=SIMPLE_IDS)
def test_daemon_that_is_away_ends_with_four(
    desk: Desk, arguments: list[str], verb: str, sent: dict[str, Any], result: Any
) -> None:
    code, out, err = desk.run(*arguments)
    assert (code, out) == (4, "")
    assert err == (
        f"textgate: error: textgated can't be reached at {desk.socket}: No such file or directory\n"
        "hint: is it running? systemctl status textgated\n"
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "textgated closed the connection"),
        (b"\n", "an answer that this command doesn't know"),
        (b"junk\n", "an answer that this command doesn't know"),
        (b"[]\n", "an answer that this command doesn't know"),
        (b'{"v": 2, "ok": true, "result": {}}\n', "an answer that this command doesn't know"),
        (b'{"v": 1, "ok": "yes", "result": {}}\n', "an answer that this command doesn't know"),
        (b'{"v": 1, "ok": false}\n', "an answer that this command doesn't know"),
        (b"\xff\n", "an answer that this command doesn't know"),
    ],
)
def test_answer_of_another_form_ends_with_four(desk: Desk, daemon: Daemon, answer: bytes, words: str) -> None:
    daemon.answers = [answer]
    code, out, err = desk.run("status")
    assert (code, out) == (4, "")
    assert words in err
    assert "Traceback" not in err


def test_daemon_that_does_not_answer_in_time_ends_with_four(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_client, "TIMEOUT_S", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(str(desk.socket))
        silent.listen()
        code, _, err = desk.run("status")
    assert code == 4
    assert "no answer in time" in err


def test_socket_of_root_says_so_to_others(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def __init__(self, *_arguments: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("textgate.admin_client.socket.socket", Closed)
    code, _, err = desk.run("status")
    assert code == 4
    assert err.endswith("permission denied\nhint: run it with sudo, or join the group textgate-admin\n")


@pytest.mark.parametrize("arguments", [["status"], ["check-config"], ["enrol", "alice", NUMBER], ["keys", "init"]])
def test_broken_configuration_ends_with_three_and_names_every_fault(desk: Desk, arguments: list[str]) -> None:
    desk.configure('[codes]\ndigits = 5\n[limit]\nx = 1\n[failmode]\nstore = "open"')
    code, out, err = desk.run(*arguments)
    assert (code, out) == (3, "")
    lines = err.splitlines()
    assert all(line.startswith(f"textgate: error: {desk.config}: ") for line in lines)
    for key in ("[codes] digits", "[limit]: no such section; did you mean limits?", "[failmode] store"):
        assert any(key in line for line in lines)
    code, out, err = desk.run("--json", *arguments)
    assert (code, err) == (3, "")
    assert len(json.loads(out)["error"]["faults"]) == len(lines)


def test_missing_configuration_ends_with_three(desk: Desk) -> None:
    desk.config.unlink()
    code, _, err = desk.run("status")
    assert code == 3
    assert err == f"textgate: error: {desk.config}: can't be read: No such file or directory\n"


# --- check-config ---


def test_check_config_is_content_with_good_files(desk: Desk) -> None:
    desk.write_good()
    assert desk.run("check-config") == (0, f"{desk.config}: ok; 1 user with a phone in {desk.phones}\n", "")
    code, out, _ = desk.run("check-config", "--json")
    assert code == 0
    assert tuple(json.loads(out)) == json_keys("check-config")
    assert json.loads(out) == {
        "config": str(desk.config),
        "is_ok": True,
        "faults": [],
        "warnings": [],
        "phone_count": 1,
    }


def test_check_config_names_every_fault_of_every_file(desk: Desk) -> None:
    desk.write_good()
    (desk.folder / "gatewayapi-key").unlink()
    desk.key.write_text("k1:short")
    desk.phones.write_text("alice: 12\nbob +4520123456\n")
    code, out, err = desk.run("check-config")
    assert (code, out) == (3, "")
    for words in ("gatewayapi-key: no such file", "vault-key: line 1", "phones: line 1", "phones: line 2"):
        assert words in err
    assert "4520123456" not in err
    code, out, err = desk.run("check-config", "--json")
    assert (code, err) == (3, "")
    assert json.loads(out)["is_ok"] is False
    assert len(json.loads(out)["faults"]) == 4


def test_check_config_looks_at_what_only_the_daemon_would_find(desk: Desk) -> None:
    desk.write_good()
    (desk.folder / "gatewayapi-secret").write_text("two words")
    desk.configure('[store]\nurl = "redis://localhost:notaport"')
    code, _, err = desk.run("check-config")
    assert code == 3
    assert "the gateway's secret is malformed" in err
    assert "[store] url" in err
    assert "two words" not in err


# --- status ---


def _status(**changes: dict[str, Any]) -> bytes:
    return _ok(STATUS | {name: STATUS[name] | values for name, values in changes.items()})


@pytest.mark.parametrize(
    ("answer", "exit_code", "words"),
    [
        (_status(), 0, ["7.0.15, durable", "ok, credit 25.00 DKK", "passed 7", "denied 2", "overloads 1"]),
        (
            _status(store={"noticed": "older", "noticed_at": int(time.time())}),
            0,
            ["Redis' data were older", "void"],
        ),
        (_status(store={"is_durable": False}), 0, ["NOT DURABLE: set appendonly yes"]),
        (_ok(STATUS | {"store": {"is_up": False, "error": "redis: TimeoutError"}}), 1, ["AWAY: redis: TimeoutError"]),
        (_status(gateway={"is_up": False, "reason": "credit"}), 1, ["NOT USABLE: credit"]),
        (_status(gateway={"is_up": None, "reason": "unsupported"}), 0, ["credit is not known"]),
        (_status(gateway={"currency": None}), 0, ["ok, credit 25.00"]),
    ],
)
def test_status_shows_what_works(desk: Desk, daemon: Daemon, answer: bytes, exit_code: int, words: list[str]) -> None:
    daemon.answers = [answer, answer]
    code, out, _ = desk.run("status")
    assert code == exit_code
    shown = re.sub(" +", " ", out)
    for word in words:
        assert word in shown
    assert desk.run("status", "--json")[0] == exit_code


def test_status_asks_the_gateway_anew_if_told_to_and_shows_how_old_its_word_is(desk: Desk, daemon: Daemon) -> None:
    daemon.answers = [_status(gateway={"credit_age_s": 42}), _status(gateway={"credit_age_s": 0})]
    assert "credit 25.00 DKK (42 s ago)" in desk.run("status")[1]
    assert "ago" not in desk.run("status", "--fresh")[1]
    assert [asked.get("fresh") for asked in daemon.asked] == [None, True]


# --- unlock ---


def test_unlock_says_where_the_day_still_counts(desk: Desk, daemon: Daemon) -> None:
    daemon.answers = [_ok({"user": "alice", "is_day_forgotten": is_forgotten}) for is_forgotten in (True, False)]
    assert desk.run("unlock", "alice")[1] == "alice is unlocked.\n"
    assert "still count" in desk.run("unlock", "alice")[1]


def test_command_that_comes_too_often_is_told_to_wait(desk: Desk, daemon: Daemon) -> None:
    error = {"kind": "throttled", "message": "too many requests: wait 9 seconds", "hint": "wait", "wait_s": 9}
    answer = json.dumps({"v": 1, "ok": False, "error": error}).encode() + b"\n"
    daemon.answers = [answer, answer]
    assert desk.run("unlock", "alice")[::2] == (5, "textgate: error: too many requests: wait 9 seconds\nhint: wait\n")
    assert json.loads(desk.run("unlock", "alice", "--json")[1])["error"]["wait_s"] == 9


# --- send-test ---


@pytest.mark.parametrize(
    ("changes", "out", "err"),
    [
        ({}, "sent to •• 56 in 120 ms, cost 0.30 DKK\n", ""),
        ({"cost": None, "currency": None}, "sent to •• 56 in 120 ms\n", ""),
        (
            {"outcome": "unknown", "reason": "timeout"},
            "may have been sent to •• 56: timeout; look at the phone\n",
            "",
        ),
        (
            {"is_known_number": False},
            "sent to •• 56 in 120 ms, cost 0.30 DKK\n",
            "warning: this number is in no range known to be in use; did the text arrive?\n",
        ),
    ],
)
def test_send_test_says_how_it_went(desk: Desk, daemon: Daemon, changes: dict[str, Any], out: str, err: str) -> None:
    daemon.answers = [_ok(SENT | changes)]
    assert desk.run("send-test", NUMBER) == (0, out, err)


# --- enrol ---

RIGHT = _ok({"is_proved": True, "text": ""})
WRONG = _ok({"is_proved": False, "text": "That code is not right."})


def test_enrol_writes_the_number_once_its_code_was_typed(desk: Desk, daemon: Daemon) -> None:
    daemon.answers = [_ok(BEGUN), RIGHT]
    code, out, err = desk.run("enrol", "alice", NUMBER, "--code-stdin", stdin="123456\n")
    assert (code, err) == (0, "")
    assert out == "A login code was texted to your phone (•• 56).\nalice is enrolled with •• 56.\n"
    assert desk.phones.read_text() == "alice: +4520123456\n"
    assert stat.S_IMODE(desk.phones.stat().st_mode) == 0o640
    assert daemon.asked == [
        {"v": 1, "verb": "prove-begin", "user": "alice", "number": NUMBER},
        {"v": 1, "verb": "prove-check", "user": "alice", "number": NUMBER, "session_id": "s1", "code": "123456"},
    ]


def test_enrol_asks_on_the_terminal_without_showing(
    desk: Desk, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.answers = [_ok(BEGUN), RIGHT]
    monkeypatch.setattr("getpass.getpass", lambda prompt: {"Code: ": "123456"}[prompt])
    code, out, _ = desk.run("enrol", "alice", NUMBER, "--json")
    assert code == 0
    assert tuple(json.loads(out)) == json_keys("enrol")
    assert json.loads(out) == {"user": "alice", "phone": "•• 56", "is_enrolled": True}


def test_enrol_gives_the_number_to_the_canonical_name(desk: Desk, daemon: Daemon) -> None:
    """Logins look the number up under the name that NSS gives, so that is where it must stand."""
    daemon.answers = [_ok(BEGUN), RIGHT]
    desk.run("enrol", "ALICE", NUMBER, "--code-stdin", stdin="123456\n")
    assert desk.phones.read_text() == "alice: +4520123456\n"


def test_enrol_allows_for_mistyping(desk: Desk, daemon: Daemon) -> None:
    daemon.answers = [_ok(BEGUN), WRONG, WRONG, RIGHT]
    code, out, _ = desk.run("enrol", "alice", NUMBER, "--code-stdin", stdin="1\n2\n3\n")
    assert code == 0
    assert out.count("That code is not right.") == 2
    assert desk.phones.exists()


@pytest.mark.parametrize(
    ("answers", "stdin", "words"),
    [
        ([WRONG] * 3, "1\n2\n3\n4\n", "the number was not proved: That code is not right"),
        ([WRONG], "1\n\n", "the number was not proved: That code is not right"),
        ([], "", "the number was not proved: no code was given"),
        ([], "\n", "the number was not proved: no code was given"),
        ([_no("store_away", "redis: ConnectionError")], "1\n", "redis: ConnectionError"),
        ([b""], "1\n", "closed the connection"),
    ],
)
def test_enrol_without_the_right_code_changes_nothing(
    desk: Desk, daemon: Daemon, answers: list[bytes], stdin: str, words: str
) -> None:
    desk.phones.write_text("bob: +4530123456\n")
    daemon.answers = [_ok(BEGUN), *answers]
    code, _, err = desk.run("enrol", "alice", NUMBER, "--code-stdin", stdin=stdin)
    assert code != 0
    assert words in err
    assert desk.phones.read_text() == "bob: +4530123456\n"


def test_enrol_that_gets_no_text_asks_for_no_code(desk: Desk, daemon: Daemon) -> None:
    daemon.answers = [_no("refused", "No login code was texted", "see: textgate status")]
    code, out, err = desk.run("enrol", "alice", NUMBER, "--code-stdin", stdin="123456\n")
    assert (code, out) == (5, "")
    assert err == "textgate: error: No login code was texted\nhint: see: textgate status\n"


def test_enrol_is_for_root(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    code, _, err = desk.run("enrol", "alice", NUMBER)
    assert code == 1
    assert err == "textgate: error: enrol changes the phones file, which is root's\nhint: run it with sudo\n"


def test_enrol_without_the_phones_file_says_so(desk: Desk) -> None:
    desk.configure('sources = ["gecos"]')
    code, _, err = desk.run("enrol", "alice", NUMBER)
    assert code == 1
    assert '"file" is not in [phones] sources' in err


@pytest.mark.parametrize("number", ["20123456", "+45 2012", "call me", ""])
def test_enrol_of_what_is_no_number_ends_with_two(desk: Desk, number: str) -> None:
    code, _, err = desk.run("enrol", "alice", number)
    assert code == 2
    assert err.startswith("textgate: error: the phone number ")
    assert 'hint: write it with + and the country code, such as "+45 12 34 56 78"' in err


# --- recovery ---


def test_recovery_prints_the_codes_for_paper(desk: Desk, daemon: Daemon) -> None:
    daemon.answers = [_ok({"user": "alice", "codes": ["abcd-efgh-jkmn", "1234-abcd-5678"]})]
    code, out, _ = desk.run("recovery", "alice")
    assert code == 0
    assert out == (
        "Recovery codes of alice. Print them; they are not shown again.\n\n    abcd-efgh-jkmn\n    1234-abcd-5678\n"
    )


# --- keys ---


def test_keys_init_makes_a_key_that_only_its_owner_can_read(desk: Desk) -> None:
    code, out, err = desk.run("keys", "init")
    assert (code, err) == (0, "")
    assert out == f"{desk.key}: made. Keep a copy in a safe place.\n"
    assert stat.S_IMODE(desk.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(desk.key.parent.stat().st_mode) == 0o700
    (key,) = parse_keys(Secret(desk.key.read_text()))
    assert key.name == "k1"
    assert desk.key.read_text().strip().partition(":")[2] not in out


@pytest.mark.parametrize("content", [VAULT_KEY, "", "not even a key"])
def test_keys_init_never_touches_what_is_there(desk: Desk, content: str) -> None:
    desk.key.parent.mkdir()
    desk.key.write_text(content)
    code, out, err = desk.run("keys", "init")
    assert (code, out) == (1, "")
    assert "there is a key already" in err
    assert "hint: keep it: without it every user's secret is lost" in err
    assert desk.key.read_text() == content


def test_keys_init_does_not_follow_a_link(desk: Desk) -> None:
    desk.key.parent.mkdir()
    desk.key.symlink_to(desk.folder / "elsewhere")
    assert desk.run("keys", "init")[0] == 1
    assert not (desk.folder / "elsewhere").exists()


def test_keys_init_leaves_no_half_a_key(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = desk.run("keys", "init")
    assert code == 3
    assert "can't be made: No space left on device" in err
    assert not desk.key.exists()


def test_keys_init_where_nothing_can_be_made_says_so(desk: Desk) -> None:
    desk.key.parent.write_text("a file, not a folder")
    code, _, err = desk.run("keys", "init")
    assert code != 0
    assert str(desk.key) in err
    assert "Traceback" not in err


def _resealed(key: str, **counts: int) -> bytes:
    return _ok({"current_key": key, "resealed": 0, "current": 0, "changed": 0, "unreadable": 0} | counts)


def test_keys_rotate_puts_a_new_key_first_and_seals_with_it(desk: Desk, daemon: Daemon) -> None:
    desk.write_good()
    daemon.answers = [_ok({"current_key": "k2"}), _resealed("k2", resealed=3, current=1)]
    code, out, err = desk.run("keys", "rotate")
    assert (code, err) == (0, "")
    assert "sealed with k2: 3 anew, 1 already; 0 can't be opened" in out
    assert [key.name for key in parse_keys(Secret(desk.key.read_text()))] == ["k2", "k1"]
    assert VAULT_KEY in desk.key.read_text()
    assert stat.S_IMODE(desk.key.stat().st_mode) == 0o600
    assert [asked["verb"] for asked in daemon.asked] == ["reload", "reseal"]
    assert list(desk.key.parent.iterdir()) == [desk.key]  # nothing left beside it


def test_keys_rotate_notices_a_daemon_that_has_its_key_from_elsewhere(desk: Desk, daemon: Daemon) -> None:
    desk.write_good()
    daemon.answers = [_ok({"current_key": "k1"})]
    code, _, err = desk.run("keys", "rotate")
    assert code == 1
    assert "does not seal with the new one yet" in err


@pytest.mark.parametrize("content", [None, "", "junk", b"\xff\xfe"])
def test_keys_rotate_leaves_a_file_at_fault_alone(desk: Desk, content: str | bytes | None) -> None:
    desk.key.parent.mkdir()
    if content is not None:
        desk.key.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = desk.key.read_bytes() if desk.key.exists() else None
    code, _, err = desk.run("keys", "rotate")
    assert code == 3
    assert err.startswith("textgate: error: ")
    assert (desk.key.read_bytes() if desk.key.exists() else None) == before


def test_keys_reseal_tells_what_cannot_be_opened(desk: Desk, daemon: Daemon) -> None:
    daemon.answers = [_resealed("k2", unreadable=1)]
    code, out, _ = desk.run("keys", "reseal")
    assert code == 1
    assert "1 can't be opened" in out


# --- login-test ---


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Plays PAM: asks these questions and ends so. Returns the answers it got."""

    def play(questions: list[tuple[Style, str]], code: int) -> list[Any]:
        answers: list[Any] = []

        def authenticate(_service: str, _user: str, converse: Any) -> PamResult:
            answers.extend(converse(style, text) for style, text in questions)
            return PamResult(code, "Success" if code == 0 else "Authentication failure")

        monkeypatch.setattr(pam_conversation, "authenticate", authenticate)
        monkeypatch.setattr(Path, "is_file", lambda _path: True)
        return answers

    return play


def test_login_test_asks_what_the_stack_asks(desk: Desk, stack: Callable[..., list[Any]]) -> None:
    answers = stack(
        [(Style.INFO, "A code was sent."), (Style.PROMPT_SHOWN, "Code: "), (Style.PROMPT_HIDDEN, "Again: ")], 0
    )
    code, out, err = desk.run("login-test", "alice", stdin="123456\n654321\n")
    assert (code, out) == (0, "sshd would let alice in.\n")
    assert err == "A code was sent.\nCode: Again: "
    assert answers == [None, "123456", "654321"]


def test_login_test_that_is_refused_ends_with_five(desk: Desk, stack: Callable[..., list[Any]]) -> None:
    stack([], 7)
    assert desk.run("login-test", "alice", "sudo") == (5, "sudo would refuse alice: Authentication failure\n", "")
    code, out, _ = desk.run("login-test", "alice", "--json")
    assert tuple(json.loads(out)) == json_keys("login-test")
    assert code == 5
    assert json.loads(out) == {
        "user": "alice",
        "service": "sshd",
        "is_success": False,
        "reason": "Authentication failure",
    }


def test_login_test_is_for_root(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert desk.run("login-test", "alice")[0] == 1


@pytest.mark.parametrize("service", ["nosuchservice", "../shadow", "/etc/passwd"])
def test_login_test_of_no_service_says_so(desk: Desk, service: str) -> None:
    code, _, err = desk.run("login-test", "alice", service)
    assert code == 1
    assert err == "textgate: error: there is no such PAM service\nhint: see: ls /etc/pam.d\n"


def test_terminal_of_another_encoding_is_no_reason_to_fail(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "textgate.cli", "--config", f"{tmp_path}/•.toml", "check-config"],
        capture_output=True,
        env={"PYTHONPATH": str(Path(wiring.__file__).parents[1]), "PYTHONIOENCODING": "latin-1", "LC_ALL": "C.UTF-8"},
        check=False,
    )
    assert done.returncode == 3
    assert b"?.toml: can't be read" in done.stderr


def test_check_config_warns_of_a_service_in_the_wrong_list(desk: Desk) -> None:
    """An earlier configuration: it is used, the service stays secure, and that is said."""
    desk.write_good()
    desk.configure('[failmode]\nstore = "safe"\nsafe_services = ["sudo"]')
    code, out, err = desk.run("check-config")
    assert code == 0
    assert "textgate: warning: [failmode] safe_services: sudo" in err
    code, out, err = desk.run("check-config", "--json")
    assert (code, err, len(json.loads(out)["warnings"])) == (0, "", 1)


@pytest.mark.parametrize(
    ("levels", "code", "worst"),
    [
        ([], 0, "ok"),
        (["OK", "OK"], 0, "ok"),
        (["OK", "WARNING"], 6, "warning"),
        (["FAILURE", "WARNING", "OK"], 1, "failure"),
    ],
)
def test_doctor_tells_programs_the_level_of_each_finding_and_the_worst(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, levels: list[str], code: int, worst: str
) -> None:
    """Monitoring can't go by the exit code: 1 is a failure here and a warning there."""
    findings = [Finding("redis", Level[name], "x") for name in levels]
    monkeypatch.setattr(doctor, "examine", lambda _machine: findings)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found, out, _ = desk.run("doctor", "--json")
    report = json.loads(out)
    assert (found, report["worst"]) == (code, worst)
    assert [one["level"] for one in report["findings"]] == [name.lower() for name in levels]


def test_doctor_that_can_not_look_tells_programs_an_error_and_no_level(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    code, out, _ = desk.run("doctor", "--json")
    assert (code, set(json.loads(out))) == (1, {"error"})
