# SPDX-License-Identifier: MIT
"""The daemon is dead, hung, killed, replaced by something else, overloaded or out of means while people log in.

In each case: nobody gets in, not even with the right code; everybody is told a sentence, its exact words; nothing
outlasts its deadline; and when the fault is over the next login works, with nothing restarted but what had died.
"""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fake_gatewayapi import FakeGatewayAPI
from rig.daemon import AUTH_SOCKET, CONFIG_PATH, Daemon, Event, Values
from rig.logins import AWAY, DOORS, GUESSES, SENT, STEP_S, Doors, helper_line
from rig.pam import BLOCK, PAM_DIRECTORY
from rig.people import ALICE, CAROL, DAEMON_USER
from rig.phone import Phone
from rig.process import run_as
from rig.redis_proxy import RedisProxy, Script
from rig.redis_server import RedisServer
from rig.scripted_daemon import Behaviour, ScriptedDaemon, drips, hangs, says, says_and_hangs
from rig.terminal import Terminal
from textgate import texts

DEADLINE_S = 0.5
"""--deadline in the PAM lines of tests in which the helper must wait for its end."""
WITHIN_S = DEADLINE_S + 2.0
OTHER_SOCKET = Path("/run/textgate/other.sock")
JOURNAL = Path("/run/systemd/journal/socket")
Configure = Callable[[Values], Event]


@pytest.fixture
def no_daemon(daemon: Daemon, doors: Doors) -> Iterator[Daemon]:
    """Nobody is there, and no socket; the daemon runs again at the end."""
    daemon.close()
    yield daemon
    if not daemon.is_running:
        daemon.start()


def dead_socket() -> None:
    """A socket as a daemon leaves it that was killed: a file, and nobody behind it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(AUTH_SOCKET))
    AUTH_SOCKET.chmod(0o600)


# --- Dead. ---


@pytest.mark.parametrize("is_socket_left", [False, True])
@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_without_a_daemon_everybody_is_told_and_nobody_gets_in(
    door: str, is_socket_left: bool, no_daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    if is_socket_left:
        dead_socket()
    doors.keep_out(door, AWAY, AWAY)
    assert phone.texts == []
    no_daemon.start()
    doors.log_in(door, phone)


@pytest.mark.parametrize("door", DOORS)
def test_right_code_is_refused_by_a_daemon_that_died_and_taken_by_the_next_one(
    door: str, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    login = doors.open(door)
    login.expect(SENT)
    code = phone.next_code()
    daemon.kill()
    daemon.close()
    login.try_code(code, AWAY)
    daemon.start()
    login.type(code)
    login.expect_in()


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_code_works_over_a_restart(door: str, daemon: Daemon, doors: Doors, phone: Phone) -> None:
    login = doors.open(door)
    login.expect(SENT)
    daemon.restart()
    login.type(phone.next_code())
    login.expect_in()


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_login_waits_in_the_socket_while_the_daemon_is_started_again(
    door: str, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    login = doors.open(door)
    login.expect(SENT)
    daemon.kill()
    login.type(phone.next_code())
    daemon.start()
    login.expect_in()


# --- Hung. ---


@pytest.fixture
def fresh_daemon(daemon: Daemon) -> Daemon:
    """One that has written nothing yet: of the same events in five minutes it writes the first few only."""
    daemon.restart()
    daemon.forget()
    return daemon


@pytest.mark.parametrize("door", DOORS)
def test_hung_daemon_is_given_up_at_the_deadline(door: str, fresh_daemon: Daemon, doors: Doors, phone: Phone) -> None:
    daemon = fresh_daemon
    with helper_line(f"--deadline {DEADLINE_S}"):
        daemon.pause()
        doors.keep_out(door, AWAY, AWAY, codes=GUESSES, within_s=WITHIN_S)
    daemon.resume()
    doors.log_in(door, phone)
    # What the helpers had asked that gave up was not done after all.
    assert len(phone.texts) == 1
    assert len(daemon.find_events("protocol", reason="gone")) == 4


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_right_code_that_a_hung_daemon_did_not_take_is_taken_later(
    door: str, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    with helper_line(f"--deadline {DEADLINE_S}"):
        login = doors.open(door)
        login.expect(SENT)
        code = phone.next_code()
        daemon.pause()
        began_at = time.monotonic()
        login.try_code(code, AWAY, within_s=WITHIN_S)
        assert time.monotonic() - began_at >= DEADLINE_S
        daemon.resume()
        login.type(code)
        login.expect_in()


# --- Killed at work. ---


@pytest.mark.parametrize("door", DOORS)
def test_daemon_killed_while_it_answers_begin(
    door: str, daemon: Daemon, gateway: FakeGatewayAPI, doors: Doors, phone: Phone
) -> None:
    fault = gateway.inject("delay")
    login = doors.open(door)
    fault.wait_reached()
    daemon.kill()
    login.expect(AWAY)
    daemon.start()
    login.try_code(GUESSES[0], texts.WRONG)  # the challenge was made; its text went nowhere
    gateway.clear_faults()
    doors.log_in(door, phone)


@pytest.mark.parametrize("script", [Script.TAKE_TRY, Script.CONSUME])
@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_daemon_killed_while_it_judges_the_right_code(
    *, door: str, script: Script, daemon: Daemon, redis_proxy: RedisProxy, doors: Doors, phone: Phone
) -> None:
    login = doors.open(door)
    login.expect(SENT)
    code = phone.next_code()
    held = redis_proxy.spoil(script, is_held=True)
    login.type(code)
    held.wait_reached()
    daemon.kill()
    login.expect(AWAY)
    held.release()
    daemon.start()
    login.type(code)
    if script is Script.TAKE_TRY:
        login.expect_in()  # the try that was lost was one of three
    else:
        # Redis had used the code up: it passed once, and nobody was there to hear it.
        login.expect(texts.NONE_WAITING)
        doors.log_in(door, phone)


# --- Somebody else on the socket. ---

JUNK: dict[str, Behaviour] = {
    "nothing": says(b""),
    "word without a line feed": says(b"pass"),
    "two words": says(b"pass skip\n"),
    "capitals": says(b"PASS\n"),
    "blank before": says(b" pass\n"),
    "carriage return": says(b"pass\r\n"),
    "NUL before": says(b"\0pass\n"),
    "NUL behind": says(b"pass\n\0"),
    "NUL lines": says(b"\0\0\0\n" * 500),
    "not UTF-8": says(b"pass\n\xff\xfe"),
    "too long": says(b"pass\n" + b"x" * 9000),
    "100 kB": says(b"pass\n" + b"x" * 100_000),
    "protocol of another time": says(b"textgate/2 pass\n"),
    "JSON": says(b'{"v": 2, "word": "pass"}\n'),
    "escape as the word": says(b"\x1b[2Jpass\n"),
}


@pytest.fixture
def other_socket(doors: Doors) -> Iterator[Path]:
    """Where the helper calls; textgated goes on elsewhere."""
    with helper_line(f"--socket {OTHER_SOCKET} --deadline {DEADLINE_S}"):
        yield OTHER_SOCKET


@pytest.mark.parametrize("answer", JUNK.values(), ids=JUNK)
def test_junk_from_the_socket_is_a_refusal(answer: Behaviour, other_socket: Path, doors: Doors) -> None:
    with ScriptedDaemon(answer, path=other_socket):
        doors.keep_out("pam", AWAY, AWAY)


@pytest.mark.parametrize("door", ["ssh", "sudo"])
@pytest.mark.parametrize("answer", [b"\0pass\n", b"pass\n" + b"x" * 9000])
def test_junk_from_the_socket_is_a_refusal_at_a_real_door(
    door: str, answer: bytes, no_daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    with ScriptedDaemon(says(answer)):
        doors.keep_out(door, AWAY, AWAY)
    no_daemon.start()
    doors.log_in(door, phone)


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_yes_to_the_other_question_is_a_refusal(door: str, other_socket: Path, doors: Doors) -> None:
    with ScriptedDaemon(says(b"pass\nIn."), says(b"skip\nIn."), path=other_socket):
        doors.keep_out(door, AWAY, AWAY)


def test_control_characters_of_the_socket_do_not_reach_the_terminal(other_socket: Path, doors: Doors) -> None:
    text = "\x1b[31mred\x1b]0;title\x07 \u202eright to left\x08\x9b1m\n\n\r\n\x1b[2Jend"
    with ScriptedDaemon(says(f"deny\n{text}".encode()), path=other_socket):
        doors.open("pam").expect("?[31mred?]0;title? ?right to left??1m\n?\n?[2Jend")


@pytest.mark.parametrize(
    "slow", [hangs, says_and_hangs(b"pass\n"), drips(b"pass\n" + b"x" * 50, 0.1)], ids=["silent", "open", "drip"]
)
def test_socket_that_never_comes_to_an_end_is_given_up(slow: Behaviour, other_socket: Path, doors: Doors) -> None:
    with ScriptedDaemon(slow, path=other_socket):
        doors.keep_out("pam", AWAY, AWAY, within_s=WITHIN_S)


# --- Permissions. ---


@pytest.mark.parametrize(("mode", "sentence"), [(0o600, AWAY), (0o666, texts.INTERNAL)])
def test_nobody_but_root_gets_an_answer_whatever_the_mode_of_the_socket(
    mode: int, sentence: str, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    (PAM_DIRECTORY / "alices").write_text(f"{BLOCK}\naccount required pam_permit.so\n")
    AUTH_SOCKET.chmod(mode)
    try:
        with Terminal(["pamtester", "alices", "alice", "authenticate"], user=ALICE.name) as terminal:
            for guess in GUESSES:
                assert terminal.expect("Code: ", within_s=STEP_S).strip() == sentence
                terminal.enter(guess)
            assert terminal.expect_end(within_s=STEP_S) != 0
            assert "successfully" not in terminal.shown
        assert phone.texts == []
        assert len(daemon.find_events("protocol", reason="peer")) == (4 if mode == 0o666 else 0)
        doors.log_in("ssh", phone)
    finally:
        AUTH_SOCKET.chmod(0o600)


# --- Too much to do. ---


@pytest.fixture
def small_daemon(daemon: Daemon, configure: Configure) -> Iterator[Daemon]:
    """One login at a time, and no line behind it."""
    configure({"daemon": {"workers": 1, "queue": 0}, "store": {"timeout_s": 30}})
    daemon.restart()
    yield daemon
    configure({})
    daemon.restart()


@pytest.mark.parametrize("door", DOORS)
def test_one_login_too_many_is_told_so_at_once(
    *, door: str, small_daemon: Daemon, redis_server: RedisServer, doors: Doors, phone: Phone
) -> None:
    """Two that wait for Redis take the two threads there are: one that begins, one that checks."""
    fields = b"\0PAM_USER=bob\0PAM_SERVICE=sudo\0PAM_TYPE=auth\0PPID=1\0PPID_START=1"
    with contextlib.ExitStack() as held:
        redis_server.pause()
        for request in (b"textgate/1 begin" + fields, b"textgate/1 check" + fields + b"\0CODE=1"):
            waiting = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            waiting.connect(str(AUTH_SOCKET))
            waiting.sendall(request)
            waiting.shutdown(socket.SHUT_WR)
        doors.keep_out(door, texts.BUSY, texts.BUSY)
        assert len(small_daemon.find_events("overload", result="deny")) == 4
        redis_server.resume()
    doors.log_in(door, phone)


def lowest_free_descriptor(pid: int) -> int:
    """The one that is given out next; a limit that is lower than it leaves none."""
    taken = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in range(len(taken) + 1) if number not in taken)


def limit_descriptors(pid: int, most: int) -> None:
    """As the daemon's own user: to change another's limits takes a capability that containers don't have."""
    argv = [*run_as(DAEMON_USER), "prlimit", "--pid", str(pid), f"--nofile={most}:"]
    subprocess.run(argv, check=True, capture_output=True)


@pytest.fixture
def descriptor_limit(fresh_daemon: Daemon) -> Iterator[Callable[[int], None]]:
    """Call it with how many more descriptors the daemon may have; all again at the end."""
    pid = fresh_daemon.process.pid
    (soft,) = re.findall(r"^Max open files +(\d+)", Path(f"/proc/{pid}/limits").read_text(), re.MULTILINE)
    yield lambda more: limit_descriptors(pid, lowest_free_descriptor(pid) + more)
    limit_descriptors(pid, int(soft))


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_daemon_without_descriptors_is_given_up_at_the_deadline(
    door: str, daemon: Daemon, descriptor_limit: Callable[[int], None], doors: Doors, phone: Phone
) -> None:
    with helper_line(f"--deadline {DEADLINE_S}"):
        login = doors.open(door)
        login.expect(SENT)
        code = phone.next_code()
        descriptor_limit(0)
        login.try_code(code, AWAY, within_s=WITHIN_S)
        daemon.wait_event("fault", reason="Too many open files")
        descriptor_limit(100)
        login.type(code)
        login.expect_in()
    doors.log_in(door, phone)


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_daemon_with_one_descriptor_left_says_that_it_failed(
    door: str, daemon: Daemon, descriptor_limit: Callable[[int], None], doors: Doors, phone: Phone
) -> None:
    login = doors.open(door)
    login.expect(SENT)
    descriptor_limit(1)  # enough to take a connection, and neither the users nor the phones can be read then
    login.try_code(phone.next_code(), texts.INTERNAL)
    descriptor_limit(100)
    doors.log_in(door, phone)


# --- A broken configuration. ---


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_login_goes_on_when_a_broken_configuration_is_loaded(
    door: str, daemon: Daemon, configure: Configure, doors: Doors, phone: Phone
) -> None:
    good = CONFIG_PATH.read_text()
    login = doors.open(door)
    login.expect(SENT)
    for broken in ("[limits\n", "[limits]\nallowed_countries = []\n", "[codes]\ndigits = 4\n", ""):
        CONFIG_PATH.write_text(broken)
        assert "the former configuration stays" in daemon.reload().message
    CONFIG_PATH.unlink()
    assert "the former configuration stays" in daemon.reload().message
    login.type(phone.next_code())
    login.expect_in()
    doors.log_in(door, phone)  # the daemon goes on with the old one
    CONFIG_PATH.write_text(good)
    assert daemon.reload().message.startswith("reloaded")
    doors.log_in(door, phone)


# --- --fail-open. ---


@pytest.fixture
def journal() -> Iterator[socket.socket]:
    """What the helper says to the journal."""
    JOURNAL.parent.mkdir(parents=True, exist_ok=True)
    JOURNAL.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(JOURNAL))
        listener.settimeout(STEP_S)
        yield listener
    JOURNAL.unlink()


def record(journal: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in journal.recv(65536).decode().splitlines())


FAIL_OPEN = "--fail-open"
LET_IN = "The code service cannot be reached: no code is asked. This is logged."


@pytest.mark.parametrize("is_socket_left", [False, True])
@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_fail_open_lets_in_with_an_alert_where_no_daemon_is(
    *, door: str, is_socket_left: bool, no_daemon: Daemon, doors: Doors, phone: Phone, journal: socket.socket
) -> None:
    if is_socket_left:
        dead_socket()
    with helper_line(FAIL_OPEN):
        login = doors.open(door)
        login.expect_in()
        assert door == "ssh" or LET_IN in login.terminal.shown  # sshd tells it on a terminal of a shell only
        found = record(journal)
        assert (found["TEXTGATE_EVENT"], found["PRIORITY"]) == ("fail_open", "1")
        assert (found["TEXTGATE_USER"], found["TEXTGATE_SERVICE"]) == ("alice", {"ssh": "sshd"}.get(door, door))
        no_daemon.start()
        doors.log_in(door, phone)  # and from then on a code is asked for again


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_fail_open_lets_in_with_an_alert_where_the_daemon_goes_mid_login(
    door: str, daemon: Daemon, doors: Doors, journal: socket.socket
) -> None:
    with helper_line(FAIL_OPEN):
        login = doors.open(door)
        login.expect(SENT)
        daemon.close()
        login.type("")
        login.expect_in()
        assert record(journal)["PRIORITY"] == "1"
        daemon.start()


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_fail_open_obeys_a_daemon_that_says_no(door: str, daemon: Daemon, doors: Doors, phone: Phone) -> None:
    with helper_line(FAIL_OPEN):
        login = doors.open(door, CAROL)  # she has no phone
        login.expect(SENT)
        for guess in GUESSES[:2]:
            login.try_code(guess, texts.WRONG)
        login.type(GUESSES[2])
        login.expect_out(texts.TRIES_SPENT)


@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [(hangs, AWAY), (says(b""), AWAY), (says(b"pass\n\0"), AWAY), (says(b"deny\nNo."), "No.")],
    ids=["hangs", "hangs up", "junk", "denies"],
)
def test_fail_open_refuses_where_somebody_is_there(
    behaviour: Behaviour, sentence: str, daemon: Daemon, doors: Doors
) -> None:
    options = f"{FAIL_OPEN} --socket {OTHER_SOCKET} --deadline {DEADLINE_S}"
    with helper_line(options), ScriptedDaemon(behaviour, path=OTHER_SOCKET):
        doors.keep_out("pam", sentence, sentence, within_s=WITHIN_S)


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_fail_open_refuses_where_the_daemon_hangs(door: str, daemon: Daemon, doors: Doors, phone: Phone) -> None:
    with helper_line(f"{FAIL_OPEN} --deadline {DEADLINE_S}"):
        daemon.pause()
        login = doors.open(door)
        login.expect(AWAY, within_s=WITHIN_S)
        login.try_code(GUESSES[0], AWAY, within_s=WITHIN_S)
    daemon.resume()
    doors.log_in(door, phone)
