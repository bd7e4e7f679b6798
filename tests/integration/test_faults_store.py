# SPDX-License-Identifier: MIT
"""Redis is away, hung, emptied, read-only, full, slow, restarted, or loses an answer while people log in.

In each case: nobody gets in, not even with the right code, unless Redis itself says that it passes; everybody is told
in time that codes can't be checked; and when Redis is well again the next code is taken, with nothing else restarted.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from rig import kernel
from rig.daemon import Daemon, Event, Values
from rig.logins import DOORS, GUESSES, SENT, Doors
from rig.people import ALICE, CAROL
from rig.phone import Phone
from rig.redis_proxy import RedisProxy, Script
from rig.redis_server import RedisServer
from textgate import texts

Configure = Callable[[Values], Event]
TIMEOUT_S = 0.5
"""[store] timeout_s where a test has to wait for its end; 2 s by default."""


# --- Away, read-only: each refuses at once. ---

Act = Callable[[RedisServer], object]
AWAY: dict[str, tuple[Act, Act]] = {
    "stopped": (RedisServer.stop, RedisServer.start),
    "killed": (RedisServer.kill, RedisServer.start),
    "read-only": (lambda server: server.set_readonly(True), lambda server: server.set_readonly(False)),
    "asks for a password": (lambda server: password(server, "other"), lambda server: password(server, "")),
}


def password(server: RedisServer, word: str) -> None:
    """Ask for a password that textgated doesn't have; "" for none. The test's own connection stays."""
    server.client.config_set("requirepass", word)
    server.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@pytest.mark.parametrize(
    ("door", "kind"),
    [
        *((door, kind) for door in ("ssh", "sudo") for kind in ("stopped", "read-only")),
        *(("pam", kind) for kind in AWAY),
    ],
)
def test_store_that_is_away_refuses_the_right_code_and_takes_it_later(
    *, door: str, kind: str, redis_server: RedisServer, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    break_it, mend_it = AWAY[kind]
    login = doors.open(door)
    login.expect(SENT)
    code = phone.next_code()
    break_it(redis_server)
    doors.keep_out(door, texts.STORE_AWAY, texts.STORE_AWAY)
    login.try_code(code, texts.STORE_AWAY)
    daemon.wait_event("fault", user="alice", reason="store_away", result="deny")
    mend_it(redis_server)
    login.type(code)
    login.expect_in()
    assert len(phone.texts) == 1
    doors.log_in(door, phone)


@pytest.mark.parametrize("door", ["ssh", "sudo"])
@pytest.mark.parametrize("is_crash", [False, True])
def test_code_works_over_a_restart_of_the_store(
    *, door: str, is_crash: bool, redis_server: RedisServer, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    login = doors.open(door)
    login.expect(SENT)
    login.try_code(GUESSES[0], texts.WRONG)
    redis_server.kill() if is_crash else redis_server.stop()
    redis_server.start()
    login.try_code(GUESSES[1], texts.WRONG)  # and so do the tries that were used up: this was the second of three
    login.type(phone.next_code())
    login.expect_in()


# --- Hung, slow. ---


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_hung_store_is_given_up_in_time(
    *, door: str, configure: Configure, redis_server: RedisServer, doors: Doors, phone: Phone
) -> None:
    configure({"store": {"timeout_s": TIMEOUT_S}})
    login = doors.open(door)
    login.expect(SENT)
    code = phone.next_code()
    redis_server.pause()
    began_at = time.monotonic()
    login.try_code(code, texts.STORE_AWAY, within_s=TIMEOUT_S + 2)
    assert time.monotonic() - began_at >= TIMEOUT_S
    doors.keep_out(door, texts.STORE_AWAY, texts.STORE_AWAY, within_s=TIMEOUT_S + 2)
    redis_server.resume()
    login.type(code)  # what Redis had in its ears it does now, and counts a try: there were three
    login.expect_in()
    doors.log_in(door, phone)


def test_hung_store_is_given_up_in_time_by_default(redis_server: RedisServer, daemon: Daemon, doors: Doors) -> None:
    redis_server.pause()
    began_at = time.monotonic()
    doors.open("ssh").expect(texts.STORE_AWAY, within_s=4)
    assert time.monotonic() - began_at >= 2
    redis_server.resume()


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_slow_store_only_slows_down(door: str, redis_proxy: RedisProxy, doors: Doors, phone: Phone) -> None:
    redis_proxy.spoil(None, count=None, delay_s=0.1)
    doors.log_in(door, phone)


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_store_slower_than_its_timeout_is_away(
    *, door: str, redis_proxy: RedisProxy, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    redis_proxy.spoil(Script.BEGIN, delay_s=1.2)
    doors.open(door).expect(texts.STORE_AWAY)
    doors.log_in(door, phone)


# --- Emptied. ---


@pytest.mark.parametrize("door", DOORS)
def test_emptied_store_knows_no_code(
    *, door: str, redis_server: RedisServer, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    login = doors.open(door)
    login.expect(SENT)
    code = phone.next_code()
    redis_server.flush()
    login.try_code(code, texts.NONE_WAITING)
    login.try_code(code, texts.NONE_WAITING)
    login.type(code)
    login.expect_out(texts.NONE_WAITING)
    doors.log_in(door, phone)


def test_emptied_store_makes_new_secrets_so_that_old_codes_stay_dead(
    redis_server: RedisServer, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    login = doors.open("ssh")
    login.expect(SENT)
    old = phone.next_code()
    redis_server.flush()
    again = doors.open("sudo")  # the counter is at its first value again
    again.expect(SENT)
    again.try_code(old, texts.WRONG)
    again.type(phone.next_code())
    again.expect_in()


def test_scripts_that_the_store_forgot_are_loaded_again(
    redis_server: RedisServer, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    login = doors.open("ssh")
    login.expect(SENT)
    redis_server.client.script_flush()
    login.type(phone.next_code())
    login.expect_in()


# --- Full. ---


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_store_without_memory_starts_nothing_and_ends_what_it_knows(
    *, door: str, redis_server: RedisServer, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    login = doors.open(door)
    login.expect(SENT)
    code = phone.next_code()
    redis_server.set_full(True)
    doors.keep_out(door, texts.STORE_AWAY, texts.NONE_WAITING)
    login.try_code(GUESSES[0], texts.WRONG)
    login.type(code)
    login.expect_in()
    redis_server.set_full(False)
    doors.log_in(door, phone)


SMALL = Path("/mnt/small")


@pytest.fixture
def small_disk(running_redis: RedisServer, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """Redis as it is packaged, on a disk of its own that can be filled."""
    SMALL.mkdir(exist_ok=True)
    kernel.mount("small", str(SMALL), "tmpfs", 0, "size=1m")
    running_redis.stop()
    monkeypatch.setattr(tempfile, "tempdir", str(SMALL))
    try:
        with RedisServer() as server:
            yield server
    finally:
        subprocess.run(["umount", SMALL], check=True)
        running_redis.start()


def fill() -> Path:
    """Take all that is left on the small disk."""
    ballast = SMALL / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    return ballast


def use_up(client: redis.Redis) -> None:
    """Make Redis find that the disk is full: what is left of the last page of its log is written to."""
    with contextlib.suppress(redis.RedisError, OSError):
        for number in range(100):
            client.set(f"ballast:{number}", "x" * 100)


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_full_disk_ends_redis_and_lets_nobody_in(
    door: str, small_disk: RedisServer, doors: Doors, phone: Phone
) -> None:
    login = doors.open(door)
    login.expect(SENT)
    code = phone.next_code()
    ballast = fill()
    use_up(small_disk.client)
    assert small_disk.process.wait() == 1  # appendfsync always: rather no Redis than one that forgets
    login.try_code(code, texts.STORE_AWAY)
    doors.keep_out(door, texts.STORE_AWAY, texts.STORE_AWAY)
    ballast.unlink()
    small_disk.start()  # as systemd does
    login.type(code)
    login.expect_in()
    doors.log_in(door, phone)


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_full_disk_makes_a_less_careful_redis_refuse(
    door: str, small_disk: RedisServer, doors: Doors, phone: Phone
) -> None:
    small_disk.client.config_set("appendfsync", "everysec")
    login = doors.open(door)
    login.expect(SENT)
    code = phone.next_code()
    ballast = fill()
    use_up(small_disk.client)
    with pytest.raises(redis.ResponseError, match="MISCONF"):
        small_disk.client.set("one", "more")
    login.try_code(code, texts.STORE_AWAY)
    doors.keep_out(door, texts.STORE_AWAY, texts.STORE_AWAY)
    ballast.unlink()
    small_disk.process.wait_for(lambda: small_disk.client.info()["aof_last_write_status"] == "ok" or None, 5, "")
    login.type(code)
    login.expect_in()
    doors.log_in(door, phone)


# --- Answers that are lost, and answers that are none. ---


@pytest.mark.parametrize("door", ["ssh", "sudo"])
@pytest.mark.parametrize(
    ("script", "then"),
    [(Script.TAKE_TRY, None), (Script.CONSUME, texts.NONE_WAITING)],  # None: the code is still good
)
def test_right_code_whose_answer_was_lost_passes_at_most_once(
    *, door: str, script: Script, then: str | None, redis_proxy: RedisProxy, doors: Doors, phone: Phone
) -> None:
    doors.log_in("pam", phone)  # loads the scripts
    login = doors.open(door)
    login.expect(SENT)
    code = phone.next_code()
    redis_proxy.spoil(script, answer=b"")
    login.try_code(code, texts.STORE_AWAY)
    login.type(code)
    if then is None:
        login.expect_in()
    else:
        login.expect(then)
    doors.log_in(door, phone)


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_begin_whose_answer_was_lost_texts_nothing(
    door: str, redis_proxy: RedisProxy, doors: Doors, phone: Phone
) -> None:
    doors.log_in("pam", phone)
    redis_proxy.spoil(Script.BEGIN, answer=b"")
    login = doors.open(door)
    login.expect(texts.STORE_AWAY)
    login.try_code(GUESSES[0], texts.NOT_SENT)
    assert len(phone.texts) == 1
    doors.log_in(door, phone)


@pytest.mark.parametrize(
    "answer",
    [
        b"$4\r\npass\r\n",  # a word in the place of a list
        b"*0\r\n",
        b"*1\r\n$4\r\nPASS\r\n",
        b"*1\r\n:1\r\n",
        b"*2\r\n$4\r\npass\r\n$1\r\n1\r\n",
        b"*1\r\n*1\r\n$4\r\npass\r\n",
        b"+OK\r\n",
        b":1\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"-ERR unknown command\r\n",
        b"-NOAUTH Authentication required.\r\n",
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-MOVED 3999 127.0.0.1:1\r\n",
        b"*1\r\n$4\r\n\xff\xfe\xfd\xfc\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_junk_from_the_store_is_a_refusal_of_the_right_code(
    answer: bytes, redis_proxy: RedisProxy, doors: Doors, phone: Phone
) -> None:
    doors.log_in("pam", phone)
    login = doors.open("pam")
    login.expect(SENT)
    redis_proxy.spoil(Script.CONSUME, answer=answer)
    login.try_code(phone.next_code(), texts.STORE_AWAY)
    redis_proxy.spoil(Script.TAKE_TRY, answer=answer)
    login.try_code(GUESSES[0], texts.STORE_AWAY)
    redis_proxy.spoil(Script.BEGIN, answer=answer)
    doors.open("pam").expect(texts.STORE_AWAY)
    doors.log_in("pam", phone)


# --- [failmode] ---

SAFE: dict[str, object] = {
    "store": "safe",
    "safe_services": ["sshd"],
    "safe_local_services": ["sudo"],
    "away_after_s": 5,
}


def wait_until_away(daemon: Daemon) -> None:
    """Redis has taken no connection for as long as [failmode] asks for."""
    daemon.wait_event("fault", reason="absent", within_s=20)


def test_failmode_safe_lets_in_where_it_is_named_and_nowhere_else(
    *, configure: Configure, redis_server: RedisServer, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    configure({"failmode": {**SAFE, "safe_services": []}})
    redis_server.stop()
    doors.keep_out("sudo", texts.STORE_AWAY, texts.STORE_AWAY)  # it may be back in a second
    wait_until_away(daemon)
    doors.open("sudo").expect_in()
    event = daemon.wait_event("fail_open", user="alice", service="sudo", result="pass", reason="store_failmode")
    assert event.fields["PRIORITY"] == "1"
    assert len(daemon.find_events("fail_open")) == 1
    doors.keep_out("ssh", texts.STORE_AWAY, texts.STORE_AWAY)
    login = doors.open("sudo", CAROL)  # no phone: she could not get in if all were well
    login.expect(texts.STORE_AWAY)
    login.try_code(GUESSES[0], texts.STORE_AWAY)
    assert len(daemon.find_events("fail_open")) == 1
    redis_server.start()
    doors.log_in("sudo", phone)
    assert len(daemon.find_events("fail_open")) == 1


@pytest.mark.parametrize("kind", ["read-only", "asks for a password"])
def test_failmode_safe_is_not_for_a_store_that_is_there(
    *, kind: str, configure: Configure, redis_server: RedisServer, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    configure({"failmode": SAFE})
    break_it, mend_it = AWAY[kind]
    break_it(redis_server)
    for door in ("ssh", "sudo"):
        doors.keep_out(door, texts.STORE_AWAY, texts.STORE_AWAY)
    assert daemon.find_events("fail_open") == []
    mend_it(redis_server)
    doors.log_in("sudo", phone)


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_failmode_safe_lets_in_mid_login_whatever_is_typed(
    *, door: str, configure: Configure, redis_server: RedisServer, daemon: Daemon, doors: Doors
) -> None:
    configure({"failmode": SAFE})
    login = doors.open(door)
    login.expect(SENT)
    redis_server.stop()
    login.try_code(GUESSES[0], texts.STORE_AWAY)
    wait_until_away(daemon)
    login.type(GUESSES[1])
    login.expect_in()
    assert daemon.wait_event("fail_open", user="alice").fields["PRIORITY"] == "1"


def test_failmode_safe_is_not_for_refused_users(
    configure: Configure, redis_server: RedisServer, daemon: Daemon, doors: Doors
) -> None:
    configure({"failmode": SAFE, "refused": {"users": [ALICE.name]}})
    redis_server.stop()
    wait_until_away(daemon)
    doors.keep_out("sudo", texts.STORE_AWAY, texts.STORE_AWAY)
    assert daemon.find_events("fail_open") == []
