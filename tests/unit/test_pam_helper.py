# SPDX-License-Identifier: MIT
"""pam_helper/textgate_pam.py: against a scripted daemon, as a process of Debian's Python, and by its functions."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib.util
import os
import re
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

SOURCE = Path(__file__).resolve().parents[2] / "pam_helper"
SCRIPT = SOURCE / "textgate_pam.py"
LIMIT_S = 20  # for a process that hangs; nothing here waits that long
AWAY = "The code service does not answer. Ask your administrator.\n"
LET_IN = "The code service cannot be reached: no code is asked. This is logged.\n"
ENV = {"PAM_USER": "alice", "PAM_SERVICE": "sshd", "PAM_TYPE": "auth"}


def load() -> Any:
    spec = importlib.util.spec_from_file_location("textgate_pam", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


helper = load()

Behaviour = Callable[[socket.socket], None]


def hung_up(connection: socket.socket, wait_s: float) -> bool:
    """Waits until the helper has closed its end entirely (it has half-closed before); False if it is still there."""
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(wait_s * 1000))


class Daemon:
    """A Unix socket that reads one request to its end and then behaves as told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: list[bytes] = []
        self.behaviour: Behaviour = lambda connection: connection.sendall(b"deny\n")
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(8)
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def answers(self, answer: bytes) -> None:
        self.behaviour = lambda connection: connection.sendall(answer)

    def serve(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(LIMIT_S)
                request = b""
                while chunk := connection.recv(65536):
                    request += chunk
                if request == b"stop":
                    return
                self.requests.append(request)
                self.behaviour(connection)

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(str(self.path))
            last.sendall(b"stop")
        self.thread.join(LIMIT_S)
        self.listener.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    found = Daemon(tmp_path / "auth.sock")
    yield found
    found.close()


def run(
    *arguments: str | Path,
    typed: bytes = b"123456",
    env: dict[str, str] | None = None,
    shell_prefix: str = "",
) -> subprocess.CompletedProcess[str]:
    """Runs the helper with nothing but env in its environment."""
    argv: list[str | Path] = ["/usr/bin/python3", "-IS", SCRIPT, *arguments]
    if shell_prefix:
        argv = ["/bin/sh", "-c", f'{shell_prefix} exec "$@"', "sh", *argv]
    done = subprocess.run(
        argv, input=typed, capture_output=True, timeout=LIMIT_S, check=False, env=ENV if env is None else env
    )
    return subprocess.CompletedProcess(argv, done.returncode, done.stdout.decode(), done.stderr.decode())


def outcome(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr


# Answers

ANSWERS = [
    # verb, answer, exit status, what is printed
    ("begin", b"skip\n", 0, ""),
    ("begin", b"skip\nRemembered until noon.\n", 0, "Remembered until noon.\n"),
    ("begin", b"ask\nA code is on its way.\n", 1, "A code is on its way.\n"),
    ("begin", b"ask\nNo line feed at the end", 1, "No line feed at the end\n"),
    ("begin", b"deny\nNot now.", 1, "Not now.\n"),
    ("begin", b"deny\n", 1, ""),
    ("check", b"pass\n", 0, ""),
    ("check", b"pass\nWelcome.", 0, "Welcome.\n"),
    ("check", b"ask\nA new code is on its way.", 1, "A new code is on its way.\n"),
    ("check", b"deny\nWrong.\nTry again.\n", 1, "Wrong.\nTry again.\n"),
    # words of the other verb, near misses, pieces, junk
    ("begin", b"pass\n", 1, AWAY),
    ("check", b"skip\n", 1, AWAY),
    ("check", b"pass", 1, AWAY),
    ("begin", b"skip", 1, AWAY),
    ("check", b"pass \n", 1, AWAY),
    ("check", b" pass\n", 1, AWAY),
    ("check", b"pass\r\n", 1, AWAY),
    ("check", b"Pass\n", 1, AWAY),
    ("check", b"PASS\n", 1, AWAY),
    ("check", b"passed\n", 1, AWAY),
    ("check", b"pass\0\n", 1, AWAY),
    ("check", b"\0pass\n", 1, AWAY),
    ("check", b"\npass\n", 1, AWAY),
    ("check", b"\xef\xbb\xbfpass\n", 1, AWAY),
    ("check", b"deny pass\n", 1, AWAY),
    ("check", b"0\n", 1, AWAY),
    ("check", b"\n", 1, AWAY),
    ("check", b"", 1, AWAY),
    ("begin", b"", 1, AWAY),
    ("check", b"\xff\xfe\xfd\n", 1, AWAY),
    ("check", b"pass\n\xff", 1, AWAY),  # not UTF-8
    ("check", b"pass\n\xed\xa0\x80", 1, AWAY),  # a surrogate
    ("check", b"pass\n\0", 1, AWAY),
    ("check", b"deny\n\0leading NUL", 1, AWAY),
    ("check", b"deny\nline\n\0NUL at a line's start\n", 1, AWAY),
    ("check", b"pass\n" + b"x" * 8187, 0, "x" * 1023 + "\n"),  # 8192 bytes, the longest answer
    ("check", b"pass\n" + b"x" * 8188, 1, AWAY),
    ("begin", b"skip\n" + b"x" * 100_000, 1, AWAY),
]


@pytest.mark.parametrize(("verb", "answer", "status", "shown"), ANSWERS)
def test_exit_is_0_only_for_the_positive_word_of_the_verb(
    daemon: Daemon, verb: str, answer: bytes, status: int, shown: str
) -> None:
    daemon.answers(answer)
    assert outcome(run("--socket", daemon.path, verb)) == (status, shown, "")


@pytest.mark.parametrize("answer", [b"deny\n", b"ask\n", b"pass", b"", b"junk\n", b"\0", b"x" * 9000])
@pytest.mark.parametrize("verb", ["begin", "check"])
def test_fail_open_obeys_a_daemon_that_answers_anything(daemon: Daemon, verb: str, answer: bytes) -> None:
    daemon.answers(answer)
    assert run("--socket", daemon.path, "--fail-open", verb).returncode == 1


@given(answer=st.binary(max_size=64) | st.sampled_from([b"pass", b"skip", b"ask", b"deny"]).flatmap(
    lambda word: st.binary(max_size=24).map(lambda rest: word + rest)))  # fmt: skip
def test_judge_finds_success_only_in_the_exact_word(answer: bytes) -> None:
    for verb, word in (("begin", b"skip\n"), ("check", b"pass\n")):
        try:
            status, _ = helper.judge(verb, answer)
        except ValueError:
            continue
        assert (status == 0) == answer.startswith(word)
        assert status in (0, 1)


# Text for a terminal

TEXTS = [
    ("Kode på vej til •• 34. Grüße, 数字, 👍", "Kode på vej til •• 34. Grüße, 数字, 👍\n"),
    ("\x1b[2J\x1b]0;title\x07", "?[2J?]0;title?\n"),
    ("\x9b31m C1", "?31m C1\n"),
    ("\x00", "?\n"),
    ("bell\x07 backspace\x08 delete\x7f tab\t return\r", "bell? backspace? delete? tab? return?\n"),
    ("\u202eevil \u2066 \u200b \u2028 \u00ad \ufeff", "?evil ? ? ? ? ?\n"),
    ("\ue000 \U000e0041", "? ?\n"),  # private use, tag characters
    ("", ""),
    ("\n\n \n", ""),
    ("  one  \n\n two \n", "one\ntwo\n"),
    ("\n".join(str(number) for number in range(50)), "".join(f"{number}\n" for number in range(12))),
    ("x" * 5000, "x" * 1023 + "\n"),
    ("x" * 600 + "\n" + "y" * 600 + "\n" + "z", "x" * 600 + "\n" + "y" * 422 + "\n"),
    ("å" * 600, "å" * 511 + "\n"),  # two bytes each: cut between characters
]


@pytest.mark.parametrize(("text", "shown"), TEXTS)
def test_text_is_printed_without_what_a_terminal_would_obey(text: str, shown: str) -> None:
    assert helper.printable(text) == shown


def test_text_of_the_daemon_goes_through_that_check(daemon: Daemon) -> None:
    daemon.answers(b"deny\n\x1b[2J\xe2\x80\xaeblink\x07 \xc3\xa5\n")
    assert outcome(run("--socket", daemon.path, "check")) == (1, "?[2J?blink? å\n", "")


@given(st.text())
def test_printable_gives_short_lines_of_printable_characters(text: str) -> None:
    shown = helper.printable(text)
    assert len(shown.encode()) <= 1024
    assert shown == "" or shown.endswith("\n")
    for line in shown.split("\n")[:-1]:
        assert line.isprintable()
        assert line.strip()


# Requests


def parent_start_ticks() -> str:
    stat = Path("/proc/self/stat").read_text()
    return re.sub(r"^.*\) ", "", stat).split(" ")[19]


def test_begin_sends_exactly_the_fields_that_are_set(daemon: Daemon) -> None:
    env = {
        "SSH_AUTH_INFO_0": "publickey ssh-ed25519 AAAA\n",
        "PAM_TYPE": "auth",
        "PAM_RHOST": "2001:db8::7",
        "PAM_USER": "alice",
        "PAM_TTY": "/dev/pts/3",
        "PAM_RUSER": "",
        "PAM_SERVICE": "sshd",
        "SSH_CONNECTION": "192.0.2.7 40000 198.51.100.1 22",
        "PATH": "/bin",
        "PAM_USERS": "no field",
        "CODE": "000000",
        "PPID": "1",
        "PPID_START": "1",
    }
    run("--socket", daemon.path, "begin", env=env)
    assert daemon.requests == [
        b"textgate/1 begin"
        b"\0PAM_USER=alice"
        b"\0PAM_SERVICE=sshd"
        b"\0PAM_TTY=/dev/pts/3"
        b"\0PAM_RHOST=2001:db8::7"
        b"\0PAM_RUSER="
        b"\0PAM_TYPE=auth"
        b"\0SSH_CONNECTION=192.0.2.7 40000 198.51.100.1 22"
        b"\0SSH_AUTH_INFO_0=publickey ssh-ed25519 AAAA\n"
        + f"\0PPID={os.getpid()}\0PPID_START={parent_start_ticks()}".encode()
    ]


TYPED = [
    (b"123456", b"123456"),
    (b"123456\0", b"123456"),
    (b"123456\n", b"123456"),
    (b"123456\n\0", b"123456"),
    (b"123456\n\n", b"123456\n"),
    (b"123 456-\xc3\xa5", b"123 456-\xc3\xa5"),
    (b"123\x00456", b"123"),
    (b"\x00123456", b""),
    (b"", b""),
    (b"\0", b""),
    (b"\n", b""),
    (b"=1\x1b[2J", b"=1\x1b[2J"),
    (b"7" * 512, b"7" * 512),
    (b"7" * 512 + b"\n\0", b"7" * 512),
    (b"7" * 512 + b"\0" + b"8" * 100_000, b"7" * 512),
]


@pytest.mark.parametrize(("typed", "code"), TYPED, ids=range(len(TYPED)))
def test_check_sends_what_was_typed(daemon: Daemon, typed: bytes, code: bytes) -> None:
    run("--socket", daemon.path, "check", typed=typed)
    fields = f"\0PPID={os.getpid()}\0PPID_START={parent_start_ticks()}\0CODE=".encode()
    assert daemon.requests == [b"textgate/1 check\0PAM_USER=alice\0PAM_SERVICE=sshd\0PAM_TYPE=auth" + fields + code]


@pytest.mark.parametrize("typed", [b"7" * 513, b"7" * 513 + b"\0", b"7" * 512 + b"\n7", b"7" * 1_000_000])
def test_over_long_code_is_refused_without_asking(daemon: Daemon, typed: bytes) -> None:
    daemon.answers(b"pass\n")
    assert outcome(run("--socket", daemon.path, "check", typed=typed)) == (1, AWAY, "")
    assert daemon.requests == []


def test_request_has_room_for_64_kib_and_no_more(daemon: Daemon) -> None:
    daemon.answers(b"skip\n")
    run("--socket", daemon.path, "begin", env={**ENV, "SSH_AUTH_INFO_0": ""})
    room = 65536 - len(daemon.requests[0])
    fits = run("--socket", daemon.path, "begin", env={**ENV, "SSH_AUTH_INFO_0": "k" * room})
    assert outcome(fits) == (0, "", "")
    assert len(daemon.requests[1]) == 65536
    too_long = run("--socket", daemon.path, "begin", env={**ENV, "SSH_AUTH_INFO_0": "k" * (room + 1)})
    assert outcome(too_long) == (1, AWAY, "")
    assert len(daemon.requests) == 2


def test_environment_that_is_not_utf8_is_passed_as_it_is(daemon: Daemon) -> None:
    argv: list[str | Path] = ["/usr/bin/python3", "-IS", SCRIPT, "--socket", daemon.path, "begin"]
    subprocess.run(argv, env={b"PAM_USER": b"\xff\xc3"}, stdin=subprocess.DEVNULL, timeout=LIMIT_S, check=False)
    assert b"\0PAM_USER=\xff\xc3\0" in daemon.requests[0]


def test_name_that_comes_twice_in_the_environment_is_refused() -> None:
    # The PAM environment stands first and could be a user's own; the items of PAM come behind it.
    with pytest.raises(ValueError, match="twice"):
        helper.pick(b"PAM_USER=mallory\0PATH=/bin\0PAM_USER=alice\0")
    assert helper.pick(b"PATH=/bin\0PATH=/x\0\0PAM_USER=a=b\0PAM_TTY\0=x") == {b"PAM_USER": b"a=b", b"PAM_TTY": b""}


STAT_TAIL = b" S 1 " + b" ".join(b"%d" % number for number in range(5, 53))


@pytest.mark.parametrize(
    "name",
    [
        b"sshd",
        b"a b",
        b")",
        b"(",
        b"x) S 9 (y",
        b") S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19",
        b"\n",
        b"\xff",
    ],
)
def test_start_time_is_field_22_whatever_the_program_is_called(name: bytes) -> None:
    assert helper.stat_fields(b"77 (" + name + b")" + STAT_TAIL + b"\n") == (name, b"1", b"6", b"22")


@pytest.mark.parametrize(
    "stat",
    [
        b"",
        b"77",
        b"77 (x)",
        b"77 (x) S 1 2 3",
        b"77 (x)" + STAT_TAIL.replace(b"22", b"-2"),
        b"77 (x)" + STAT_TAIL.replace(b"S 1 ", b"S x "),
        b"77 (x)" + STAT_TAIL.replace(b" 6 ", b" -6 "),
    ],
)
def test_stat_of_unknown_form_is_refused(stat: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        helper.stat_fields(stat)


SSHD_TREE = {  # pid: name, parent, session, start; 30 asks, 20 is the connection's, 10 listens
    30: ("sshd", 20, 20, 3000),
    20: ("sshd", 10, 20, 2000),
    10: ("sshd", 1, 10, 1000),
}
OWN, CONNECTION = (b"30", b"3000"), (b"20", b"2000")
TREES = [
    ({}, CONNECTION),  # OpenSSH 9.2 of Debian 12
    ({30: ("sshd-session", 20, 20, 3000), 20: ("sshd-session", 10, 20, 2000)}, CONNECTION),  # 10.0 of Debian 13
    ({20: ("sshd", 1, 20, 2000)}, CONNECTION),  # a connection that outlives the listener, or a unit of its own
    ({30: ("sshd", 20, 20, 2000)}, CONNECTION),  # in the same tick
    ({30: ("sshd", 10, 30, 3000)}, OWN),  # PAM in the connection's process itself
    ({30: ("sshd", 20, 10, 3000), 20: ("sshd", 10, 10, 2000)}, OWN),  # sshd -d, which makes no session
    ({30: ("sshd", 20, 20, 3000), 20: ("xinetd", 1, 20, 500)}, OWN),  # started by a server for all of its connections
    ({30: ("sshd", 20, 0, 3000)}, OWN),  # a leader out of this pid namespace
    ({30: ("sshd", 0, 0, 3000)}, OWN),
    ({20: ("sshd", 10, 10, 2000)}, OWN),
    ({20: ("sshd", 10, 20, 3001)}, OWN),  # the number came round again: no child is older than its parent
    ({20: None}, OWN),
]


@pytest.mark.parametrize(("changes", "found"), TREES, ids=range(len(TREES)))
def test_login_by_ssh_is_told_by_the_process_of_its_connection(
    monkeypatch: pytest.MonkeyPatch, changes: dict[int, Any], found: tuple[bytes, bytes]
) -> None:
    tree = SSHD_TREE | changes

    def read(path: str) -> bytes:
        row = tree[int(path.split("/")[2])]
        if row is None:
            raise FileNotFoundError(errno.ENOENT, path)
        name, parent, session, start = row
        return f"0 ({name}) S {parent} 0 {session} {'0 ' * 15}{start} 0\n".encode()

    monkeypatch.setattr(helper, "read", read)
    assert helper.login_process(30, is_ssh=True) == found
    assert helper.login_process(30, is_ssh=False)[0] == OWN[0]


def test_start_time_of_a_parent_with_a_hostile_name(daemon: Daemon) -> None:
    libc = ctypes.CDLL(None)
    former = Path("/proc/self/comm").read_bytes().strip()
    libc.prctl(15, b"x) R 9 9 (y", 0, 0, 0)  # PR_SET_NAME
    try:
        assert b"(x) R 9 9 (y)" in Path("/proc/self/stat").read_bytes()
        run("--socket", daemon.path, "begin")
    finally:
        libc.prctl(15, former, 0, 0, 0)
    assert daemon.requests[0].split(b"\0")[-1] == f"PPID_START={parent_start_ticks()}".encode()


def test_start_time_is_left_out_where_proc_hides_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: str) -> bytes:
        if path == "/proc/self/environ":
            return b"PAM_USER=alice\0"
        raise FileNotFoundError(errno.ENOENT, path)

    monkeypatch.setattr(helper, "read", read)
    assert helper.gather("begin", time.monotonic() + LIMIT_S) == {
        b"PAM_USER": b"alice",
        b"PPID": str(os.getppid()).encode(),
    }


def test_file_in_proc_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="too long"):
        helper.read("/dev/zero")


# The deadline


def drip(connection: socket.socket) -> None:
    """A right answer, a byte at a time, that has no end."""
    for byte in b"pass\n" + b"x" * 8000:
        connection.sendall(bytes([byte]))
        if hung_up(connection, 0.02):
            return


def hang(connection: socket.socket) -> None:
    assert hung_up(connection, LIMIT_S)


def word_then_hang(connection: socket.socket) -> None:
    connection.sendall(b"pass\n")
    hang(connection)


@pytest.mark.parametrize("behaviour", [drip, hang, word_then_hang])
@pytest.mark.parametrize("fail_open", [[], ["--fail-open"]])
def test_slow_daemon_is_refused_at_the_deadline(daemon: Daemon, behaviour: Behaviour, fail_open: list[str]) -> None:
    daemon.behaviour = behaviour
    began_at = time.monotonic()
    done = run("--deadline", "0.25", "--socket", daemon.path, *fail_open, "check")
    assert outcome(done) == (1, AWAY, "")
    assert 0.25 <= time.monotonic() - began_at < 5


@pytest.mark.parametrize("fail_open", [[], ["--fail-open"]])
def test_daemon_that_takes_the_connection_and_never_reads_is_refused(tmp_path: Path, fail_open: list[str]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "auth.sock"))
        listener.listen(1)
        done = run("--deadline", "0.25", "--socket", tmp_path / "auth.sock", *fail_open, "begin")
    assert outcome(done) == (1, AWAY, "")


# Answers of a daemon that closes without having read


class EarlyDaemon:
    """A Unix socket whose one connection is answered and closed before the helper has sent all of its request."""

    def __init__(self, path: Path, answer: bytes, *, reads_bytes: int = 0) -> None:
        self.path = path
        self._answer = answer
        self._reads_bytes = reads_bytes
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.settimeout(LIMIT_S)
            if self._reads_bytes:
                connection.recv(self._reads_bytes)
            connection.sendall(self._answer)

    def __enter__(self) -> EarlyDaemon:
        return self

    def __exit__(self, *_error: object) -> None:
        self._thread.join(LIMIT_S)
        self._listener.close()


@pytest.mark.parametrize("reads_bytes", [0, 5])  # closing with bytes unread resets the peer (unix(7))
@pytest.mark.parametrize(
    ("verb", "answer", "shown"),
    [
        ("begin", b"deny\nToo many at once.", (1, "Too many at once.\n")),
        ("check", b"deny\nToo many at once.", (1, "Too many at once.\n")),
        ("begin", b"ask\nIt is there.", (1, "It is there.\n")),
        ("begin", b"skip\nCome in.", (1, AWAY)),  # a yes to a question that was not heard is none
        ("check", b"pass\nCome in.", (1, AWAY)),
        ("check", b"", (1, AWAY)),
    ],
)
def test_answer_of_a_daemon_that_did_not_read_can_only_refuse(
    tmp_path: Path, reads_bytes: int, verb: str, answer: bytes, shown: tuple[int, str]
) -> None:
    with EarlyDaemon(tmp_path / "auth.sock", answer, reads_bytes=reads_bytes) as daemon:
        # More than a socket holds unread, so that sending is still under way when the daemon closes.
        done = run("--socket", daemon.path, verb, env=ENV | {"SSH_AUTH_INFO_0": "k" * 60_000})
    assert outcome(done) == (*shown, "")


class ScriptedSocket:
    """A connection whose sendall and recv end as told; b"" from recv is the orderly end."""

    def __init__(self, sent: OSError | None, *received: bytes | OSError) -> None:
        self._sent = sent
        self._received = list(received)

    def settimeout(self, seconds: float) -> None:
        assert 0 < seconds <= LIMIT_S

    def sendall(self, _request: bytes) -> None:
        if self._sent is not None:
            raise self._sent

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_WR

    def recv(self, _size: int) -> bytes:
        found = self._received.pop(0)
        if isinstance(found, OSError):
            raise found
        return found


RESET = ConnectionResetError(errno.ECONNRESET, "reset")


@pytest.mark.parametrize(
    ("connection", "answer"),
    [
        (ScriptedSocket(None, b"pa", b"ss\n", b""), (b"pass\n", True)),
        (ScriptedSocket(BrokenPipeError(errno.EPIPE, ""), b"deny\nno", b""), (b"deny\nno", False)),
        (ScriptedSocket(RESET, b"deny\nno", b""), (b"deny\nno", False)),
        (ScriptedSocket(OSError(errno.ENOTCONN, ""), b"deny\nno", b""), (b"deny\nno", False)),
        (ScriptedSocket(None, b"deny\nno", RESET), (b"deny\nno", False)),
        (ScriptedSocket(BrokenPipeError(errno.EPIPE, ""), b"pass\n", RESET), (b"pass\n", False)),
    ],
)
def test_answer_is_read_whole_though_the_daemon_closed_early(
    connection: ScriptedSocket, answer: tuple[bytes, bool]
) -> None:
    assert helper.converse(connection, b"request", time.monotonic() + LIMIT_S) == answer


@pytest.mark.parametrize(
    "connection",
    [
        ScriptedSocket(None, RESET),  # nothing was said
        ScriptedSocket(BrokenPipeError(errno.EPIPE, ""), RESET),
        ScriptedSocket(OSError(errno.ENOBUFS, "")),  # a lack on this side is no early answer
        ScriptedSocket(TimeoutError(errno.ETIMEDOUT, "")),
        ScriptedSocket(None, b"pass\n", TimeoutError(errno.ETIMEDOUT, "")),
    ],
)
def test_broken_connection_without_an_answer_is_an_error(connection: ScriptedSocket) -> None:
    with pytest.raises(OSError):
        helper.converse(connection, b"request", time.monotonic() + LIMIT_S)


@pytest.mark.parametrize("fail_open", [[], ["--fail-open"]])
def test_code_that_never_comes_is_refused_at_the_deadline(tmp_path: Path, fail_open: list[str]) -> None:
    argv: list[str | Path] = [
        "/usr/bin/python3",
        "-IS",
        SCRIPT,
        "--deadline",
        "0.25",
        "--socket",
        tmp_path / "none",
        *fail_open,
        "check",
    ]
    reader, writer = os.pipe()
    try:
        done = subprocess.run(argv, stdin=reader, capture_output=True, env=ENV, timeout=LIMIT_S, check=False)
    finally:
        os.close(reader)
        os.close(writer)
    assert (done.returncode, done.stdout.decode()) == (1, AWAY)


def test_code_that_comes_in_pieces_is_put_together() -> None:
    reader, writer = os.pipe()
    later = threading.Timer(0.05, os.write, (writer, b"456\0"))
    try:
        os.write(writer, b"123")
        later.start()
        assert helper.read_code(reader, time.monotonic() + LIMIT_S) == b"123456"
    finally:
        later.join()
        os.close(reader)
        os.close(writer)


# Nobody there


def closed_socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(folder / "closed"))
    return folder / "closed"


@pytest.mark.parametrize("verb", ["begin", "check"])
@pytest.mark.parametrize("place", ["no folder", "no socket", "nobody listens"])
def test_missing_daemon_is_a_refusal_unless_the_line_fails_open(tmp_path: Path, verb: str, place: str) -> None:
    path = closed_socket(tmp_path) if place == "nobody listens" else tmp_path / place / "auth.sock"
    if place == "no socket":
        path.parent.mkdir()
    assert outcome(run("--socket", path, verb)) == (1, AWAY, "")
    assert outcome(run("--socket", path, "--fail-open", verb)) == (0, LET_IN, "")


def test_daemon_with_a_full_queue_is_waited_for_until_the_deadline(tmp_path: Path) -> None:
    path = str(tmp_path / "auth.sock")
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(path)
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                other = sockets.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                other.setblocking(False)
                other.connect(path)
        began_at = time.monotonic()
        assert outcome(run("--deadline", "0.25", "--socket", path, "begin")) == (1, AWAY, "")
        assert time.monotonic() - began_at >= 0.25
        # A queue that somebody can fill must not be a way in.
        assert outcome(run("--deadline", "0.25", "--socket", path, "--fail-open", "begin")) == (1, AWAY, "")


def test_helper_gets_in_line_when_the_queue_has_room_again(tmp_path: Path) -> None:
    path = str(tmp_path / "auth.sock")
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(path)
        listener.listen(0)
        first = sockets.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        first.connect(path)
        later = threading.Timer(0.05, lambda: sockets.enter_context(listener.accept()[0]))
        later.start()
        connection = sockets.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        helper.connect(connection, path, time.monotonic() + LIMIT_S)
        later.join()
        assert connection.getpeername() == path


@pytest.mark.parametrize("place", ["behind a file", "name too long", "not allowed"])
def test_fault_on_this_side_is_a_refusal_with_fail_open_too(tmp_path: Path, daemon: Daemon, place: str) -> None:
    daemon.answers(b"skip\n")
    (tmp_path / "file").touch()
    path = {"behind a file": tmp_path / "file" / "s", "name too long": tmp_path / ("x" * 200)}.get(place, daemon.path)
    # The program comes by standard input: who is not allowed may not get at its folder either.
    argv: list[str | Path] = ["/usr/bin/python3", "-IS", "-", "--socket", path, "--fail-open", "begin"]
    is_root = os.geteuid() == 0
    if place == "not allowed":
        daemon.path.chmod(0o000)
    with open(SCRIPT, "rb") as program:
        done = subprocess.run(
            argv,
            stdin=program,
            capture_output=True,
            env=ENV,
            timeout=LIMIT_S,
            check=False,
            user=65534 if is_root and place == "not allowed" else None,
        )
    daemon.path.chmod(0o600)
    assert (done.returncode, done.stdout.decode()) == (1, AWAY)


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EACCES, errno.EPERM]
)
def test_lack_of_means_is_a_refusal_with_fail_open_too(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], number: int
) -> None:
    def no_socket(*_: object) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(helper._socket, "socket", no_socket)
    assert helper.main(["--fail-open", "begin"]) == 1
    assert capfd.readouterr() == (AWAY, "")


# What is logged


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "journal"))
        listener.settimeout(LIMIT_S)
        monkeypatch.setattr(helper, "JOURNAL_SOCKET", str(tmp_path / "journal"))
        monkeypatch.setattr(helper, "SYSLOG_SOCKET", str(tmp_path / "none"))
        yield listener


def in_process(monkeypatch: pytest.MonkeyPatch, environ: bytes, *arguments: str) -> int:
    """main() with this environment and a typed code."""
    real_read = helper.read
    monkeypatch.setattr(helper, "read", lambda path: environ if path == "/proc/self/environ" else real_read(path))
    monkeypatch.setattr(helper, "read_code", lambda _descriptor, _until: b"424242")
    status = helper.main(list(arguments))
    assert isinstance(status, int)
    return status


def entries(listener: socket.socket) -> dict[str, str]:
    record = listener.recv(65536).decode()
    assert "424242" not in record
    return dict(line.split("=", 1) for line in record.removesuffix("\n").split("\n"))


def test_fail_open_is_an_alert_in_the_journal(monkeypatch: pytest.MonkeyPatch, journal: socket.socket) -> None:
    assert (
        in_process(monkeypatch, b"PAM_USER=alice\0PAM_SERVICE=sudo\0", "--socket", "/none", "--fail-open", "check")
        == 0
    )
    assert entries(journal) == {
        "MESSAGE": "check: textgated cannot be reached, --fail-open let alice into sudo without a code",
        "PRIORITY": "1",
        "SYSLOG_FACILITY": "4",
        "SYSLOG_IDENTIFIER": "textgate-pam-helper",
        "MESSAGE_ID": helper.FAIL_OPEN_MESSAGE_ID,
        "TEXTGATE_EVENT": "fail_open",
        "TEXTGATE_USER": "alice",
        "TEXTGATE_SERVICE": "sudo",
    }


@pytest.mark.parametrize(
    "name", [b"", b"a\nPRIORITY=7", b"a b", b"\xc3\xa5", b"\xff", b"a" * 65, b"\x1b[2J", b"a=b", b"%s", b"x;y"]
)
def test_unusual_name_is_not_put_into_the_journal(
    monkeypatch: pytest.MonkeyPatch, journal: socket.socket, name: bytes
) -> None:
    in_process(
        monkeypatch, b"PAM_USER=" + name + b"\0PAM_SERVICE=" + name, "--socket", "/none", "--fail-open", "begin"
    )
    found = entries(journal)
    assert (found["TEXTGATE_USER"], found["TEXTGATE_SERVICE"]) == ("(unusual name)", "(unusual name)")
    assert found["PRIORITY"] == "1"


def test_user_names_as_debian_and_directories_make_them_are_plain() -> None:
    for name in (b"alice", b"_apt", b"a.b-c_d", b"Alice@EXAMPLE.ORG", b"a" * 64):
        assert helper.name_or_mark(name) == name.decode()


@pytest.mark.parametrize(
    ("environ", "arguments", "reason"),
    [
        (b"PAM_USER=mallory\0PAM_USER=alice", ["begin"], "a name comes twice in the environment"),
        (b"SSH_AUTH_INFO_0=" + b"k" * 70_000, ["begin"], "request too long"),
        (b"PAM_USER=secret-name", ["--socket", "/none", "check"], "ENOENT"),
        (b"PAM_USER=secret-name", ["--socket", "/" + "x" * 200, "check"], "OSError"),
    ],
)
def test_failure_is_logged_with_a_reason_and_nothing_from_outside(
    monkeypatch: pytest.MonkeyPatch, journal: socket.socket, environ: bytes, arguments: list[str], reason: str
) -> None:
    assert in_process(monkeypatch, environ, *arguments) == 1
    found = entries(journal)
    assert found["MESSAGE"] == f"{arguments[-1]}: no usable answer from textgated: {reason}"
    assert (found["PRIORITY"], found["TEXTGATE_EVENT"]) == ("3", "helper_failed")
    assert "secret-name" not in str(found)


def test_bad_answer_is_logged_without_the_answer(
    monkeypatch: pytest.MonkeyPatch, journal: socket.socket, daemon: Daemon
) -> None:
    for answer, reason in ((b"junk-from-outside\n", "unknown answer"), (b"pass\n\xff", "UnicodeDecodeError")):
        daemon.answers(answer)
        assert in_process(monkeypatch, b"", "--socket", str(daemon.path), "check") == 1
        assert entries(journal)["MESSAGE"] == f"check: no usable answer from textgated: {reason}"


def test_good_answers_are_not_logged_by_the_helper(
    monkeypatch: pytest.MonkeyPatch, journal: socket.socket, daemon: Daemon
) -> None:
    for answer in (b"pass\n", b"deny\nno\n"):
        daemon.answers(answer)
        in_process(monkeypatch, b"", "--socket", str(daemon.path), "check")
    journal.setblocking(False)
    with pytest.raises(BlockingIOError):
        journal.recv(1)


def test_syslog_is_told_where_there_is_no_journal(monkeypatch: pytest.MonkeyPatch, journal: socket.socket) -> None:
    monkeypatch.setattr(helper, "SYSLOG_SOCKET", helper.JOURNAL_SOCKET)
    monkeypatch.setattr(helper, "JOURNAL_SOCKET", "/none")
    in_process(monkeypatch, b"PAM_USER=alice\0PAM_SERVICE=sudo\0", "--socket", "/none", "--fail-open", "begin")
    # auth.alert: facility 4, severity 1 (RFC 3164 §4.1.1)
    text = "begin: textgated cannot be reached, --fail-open let alice into sudo without a code"
    assert journal.recv(65536).decode() == f"<33>textgate-pam-helper[{os.getpid()}]: {text}"


def test_journal_that_takes_nothing_delays_but_does_not_decide(
    monkeypatch: pytest.MonkeyPatch, journal: socket.socket, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as flood, contextlib.suppress(BlockingIOError):
        flood.setblocking(False)
        flood.connect(helper.JOURNAL_SOCKET)
        while True:
            flood.send(b"x")
    monkeypatch.setattr(helper, "LOG_WAIT_S", 0.05)
    assert in_process(monkeypatch, b"", "--socket", "/none", "begin") == 1
    assert in_process(monkeypatch, b"", "--socket", "/none", "--fail-open", "begin") == 0


# Arguments


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--fail-open"],
        ["begin", "check"],
        ["begin", "begin"],
        ["Begin"],
        [""],
        ["skip"],
        ["--help"],
        ["begin", "--failopen"],
        ["begin", "--deadline"],
        ["--deadline", "begin"],
        ["begin", "--deadline", "0"],
        ["begin", "--deadline", "-1"],
        ["begin", "--deadline", "nan"],
        ["begin", "--deadline", "inf"],
        ["begin", "--deadline", "301"],
        ["begin", "--deadline", "ten"],
        ["begin", "--deadline=10"],
        ["begin", "--socket"],
        ["begin", "--socket", ""],
        ["begin", "--socket", "auth.sock"],
        ["begin", "--socket", "\0abstract"],
    ],
)
def test_wrong_usage_is_2_and_asks_nobody(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def nobody(*_: object) -> None:
        raise AssertionError("a socket was made")

    monkeypatch.setattr(helper, "connect", nobody)
    assert helper.main(arguments) == 2
    assert capfd.readouterr() == ("", helper.USAGE + "\n")


def test_wrong_usage_ends_the_process_with_2() -> None:
    assert run("--unknown", "begin").returncode == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--deadline", "5", "--socket", "/s", "--fail-open", "check"],
        ["check", "--fail-open", "--socket", "/s", "--deadline", "5"],
    ],
)
def test_options_stand_before_or_after_the_verb(arguments: list[str]) -> None:
    assert helper.parse(arguments) == ("check", "/s", 5.0, True)


def test_defaults() -> None:
    assert helper.parse(["begin"]) == ("begin", "/run/textgate/auth.sock", 10.0, False)


# The process


@pytest.mark.parametrize("end", ["pass", "deny", "missing", "let in", "usage"])
def test_only_modules_within_the_interpreter_are_imported(daemon: Daemon, end: str) -> None:
    arguments = ["--socket", str(daemon.path), "check"]
    if end in ("missing", "let in"):
        arguments[1] = "/none"
    if end == "let in":
        arguments.append("--fail-open")
    if end == "usage":
        arguments.append("--unknown")
    daemon.answers(b"pass\nV\xc3\xa6r s\xc3\xa5 god\n" if end == "pass" else b"deny\nNej\n")
    expected = {"pass": 0, "deny": 1, "missing": 1, "let in": 0, "usage": 2}[end]

    def imported(*argv: str | Path) -> set[str]:
        done = subprocess.run(
            ["/usr/bin/python3", "-X", "importtime", "-IS", *argv],
            input=b"1",
            capture_output=True,
            env=ENV,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode in (0, expected)
        return set(re.findall(r"import time:[^|]*\|[^|]*\| +(\S+)", done.stderr.decode()))

    new = imported(SCRIPT, *arguments) - imported("-c", "pass")
    assert new <= {"_socket", "posix", "sys", "errno", "time"}


def test_interpreter_has_these_modules_built_in() -> None:
    code = "import sys; print({'_socket', 'posix', 'sys', 'errno', 'time'} <= set(sys.builtin_module_names))"
    assert subprocess.check_output(["/usr/bin/python3", "-IS", "-c", code]) == b"True\n"


def test_inherited_descriptors_are_closed(daemon: Daemon) -> None:
    found: list[set[str]] = []

    def look(connection: socket.socket) -> None:
        pid = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4]
        found.append(set(os.listdir(f"/proc/{int.from_bytes(pid, 'little')}/fd")))
        connection.sendall(b"skip\n")

    daemon.behaviour = look
    with open("/etc/passwd", "rb") as first, open("/etc/group", "rb") as second:
        argv: list[str | Path] = ["/usr/bin/python3", "-IS", SCRIPT, "--socket", daemon.path, "begin"]
        descriptors = [first.fileno(), second.fileno(), 900]
        os.dup2(first.fileno(), 900)
        subprocess.run(argv, pass_fds=descriptors, env=ENV, stdin=subprocess.DEVNULL, timeout=LIMIT_S, check=False)
        os.close(900)
    assert found == [{"0", "1", "2", "3"}]  # 3 is the connection


def test_nothing_goes_into_core_images_once_it_asks_the_daemon(daemon: Daemon) -> None:
    found: list[str] = []

    def look(connection: socket.socket) -> None:
        pid = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4]
        found.append(Path(f"/proc/{int.from_bytes(pid, 'little')}/coredump_filter").read_text())
        connection.sendall(b"deny\n")

    daemon.behaviour = look
    run("--socket", daemon.path, "check", shell_prefix="echo 0x33 >/proc/self/coredump_filter;")
    assert found == ["00000000\n"]


def test_kernel_without_core_images_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(helper.posix, "open", refuse)
    helper.leave_memory_out_of_images()


@pytest.mark.parametrize("prefix", [">&-", ">/dev/full"])
def test_text_that_cannot_be_shown_is_a_refusal_without_a_traceback(daemon: Daemon, prefix: str) -> None:
    daemon.answers(b"pass\nWelcome.\n")
    done = run("--socket", daemon.path, "check", shell_prefix=f"exec {prefix};")
    assert outcome(done) == (1, "", "")


def test_closed_stdin_is_a_refusal(daemon: Daemon) -> None:
    daemon.answers(b"pass\n")
    # Descriptor 0 would then be the next file opened, so it must be seen that nothing of it is sent as a code.
    done = run("--socket", daemon.path, "check", shell_prefix="exec <&-;")
    assert done.returncode == 1
    assert daemon.requests == []


# The word


NAME = "0123456789abcdef" * 2
WORD = f"textgate-proof: {NAME} sshd alice\n"


@pytest.mark.parametrize(
    ("verb", "answer", "is_yes"),
    [
        ("begin", b"skip\nHello\n", True),
        ("begin", b"ask\nHello\n", False),
        ("begin", b"deny\nHello\n", False),
        ("begin", b"pass\nHello\n", False),
        ("begin", b"skip", False),
        ("begin", b"", False),
        ("check", b"pass\nHello\n", True),
        ("check", b"ask\nHello\n", False),
        ("check", b"deny\nHello\n", False),
        ("check", b"skip\nHello\n", False),
    ],
)
def test_word_is_given_behind_a_yes_of_the_daemon_and_nowhere_else(
    daemon: Daemon, verb: str, answer: bytes, is_yes: bool
) -> None:
    daemon.answers(answer)
    done = run("--socket", daemon.path, verb, env={**ENV, "TEXTGATE_PROOF": NAME})
    assert done.returncode == (0 if is_yes else 1)
    assert done.stdout == f"Hello\n{WORD}" if is_yes else "textgate-proof" not in done.stdout
    assert NAME.encode() not in b"".join(daemon.requests)


def test_lines_of_an_earlier_version_ask_for_no_word_and_get_none(daemon: Daemon) -> None:
    daemon.answers(b"skip\n")
    assert outcome(run("--socket", daemon.path, "begin")) == (0, "", "")


@pytest.mark.parametrize("verb", ["begin", "check"])
def test_word_is_given_by_fail_open_too(verb: str) -> None:
    done = run("--fail-open", "--socket", "/none", verb, env={**ENV, "TEXTGATE_PROOF": NAME})
    assert outcome(done) == (0, LET_IN + WORD, "")


@pytest.mark.parametrize("user", ["a\nb", "a\tb", "\x1b[2J", "x" * 1000, "\udcff"])
def test_name_that_no_word_can_be_given_for_is_a_refusal(daemon: Daemon, user: str) -> None:
    daemon.answers(b"skip\n")
    done = run("--socket", daemon.path, "begin", env={**ENV, "PAM_USER": user, "TEXTGATE_PROOF": NAME})
    assert outcome(done) == (1, AWAY, "")


@pytest.mark.parametrize("user", ["DOMAIN\\\\alice", "alice@example.org", "sør en"])
def test_unusual_names_of_people_get_their_word(daemon: Daemon, user: str) -> None:
    daemon.answers(b"skip\n")
    done = run("--socket", daemon.path, "begin", env={**ENV, "PAM_USER": user, "TEXTGATE_PROOF": NAME})
    assert outcome(done) == (0, f"textgate-proof: {NAME} sshd {user}\n", "")
