# SPDX-License-Identifier: MIT
"""Logins of every kind, and then a search for every secret, code, number and password that was used in them.

The fixture `day` plays one day of a machine once: good logins and bad ones by ssh, sudo and su, recovery codes,
enrolment, a new vault key, faults. It keeps what could be seen of it, place by place; each test then searches one
place. Codes have eight digits here, so that none of them is in a place by chance.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import os
import pwd
import re
import resource
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType

import pytest

from fake_gatewayapi import FakeGatewayAPI
from rig.daemon import (
    ADMIN_SOCKET,
    AUTH_SOCKET,
    CONFIG_PATH,
    CREDENTIALS,
    PHONES_PATH,
    PROGRAM,
    Daemon,
    textgate,
    write_config,
    write_phones,
)
from rig.logins import HELPER, helper_line
from rig.pam import FirstFactor, pam_lines
from rig.people import ALICE, BOB, CAROL, DAEMON_USER, DAVE, PEOPLE, Person
from rig.phone import Phone, wrong_code
from rig.process import PROGRAM_PATH, run_as
from rig.prompts import CODE, ONE_ROUND, PROOF, PROVE, SU, SUDO, Way, refuse_to_answer, ssh_way
from rig.redis_server import SOCKET as REDIS_SOCKET
from rig.redis_server import RedisServer
from rig.sshd import Sshd
from rig.terminal import CTRL_D
from textgate.audit import Audit
from textgate.credentials import load_credential
from textgate.directory import set_phone
from textgate.gateway_transport import SYSTEM_CA_FILE
from textgate.memory import COREDUMP_FILTER
from textgate.msisdn import Msisdn, parse_msisdn
from textgate.protocol import Reply, Word, parse_request
from textgate.secret import Secret
from textgate.session import Session, build_session
from textgate.vault import Vault, parse_keys
from textgate.verifier import SECRET_PURPOSE
from textgate.wiring import Services, build_services, load_config

from .conftest import UNTHROTTLED, merged

DIGITS = 8
SETTINGS = merged(UNTHROTTLED, {"codes": {"digits": DIGITS}, "limits": {"wrong_in_a_row": 50, "wrong_per_day": 50}})
NOBODY = Person("nobody-of-this-name", groups=(), phone=None)
NEW_NUMBER, NEW_MSISDN = "+45 12 34 56 95", "4512345695"
ODD_NUMBER = "+45 12 34 56 9"  # one digit short, so refused
JOURNAL = Path("/run/systemd/journal/socket")
STOP_WITHIN_S = 10.0
LOOK_EVERY_S = 0.02


# --- What must not be found. ---


@dataclass
class Used:
    """Everything secret that was used, by what it is. A name may hold several: they are told apart by number."""

    values: dict[str, bytes] = field(default_factory=dict)

    def add(self, kind: str, value: str | bytes) -> None:
        """Note a secret, in the form in which people and programs write it."""
        raw = value.encode() if isinstance(value, str) else value
        if raw not in self.values.values():
            self.values[f"{kind} {sum(name.startswith(kind) for name in self.values) + 1}"] = raw

    def found_in(self, haystack: bytes) -> list[str]:
        """The names of those that are in it, whichever way they are written."""
        return [name for name, value in self.values.items() if any(is_in(form, haystack) for form in forms(value))]


def forms(value: bytes) -> set[bytes]:
    """A secret as it is, and as it looks in hex and base64."""
    encoded = {base64.b64encode(value).rstrip(b"="), base64.urlsafe_b64encode(value).rstrip(b"=")}
    return {value, value.hex().encode(), value.hex().upper().encode(), *encoded}


def is_in(value: bytes, haystack: bytes) -> bool:
    """Whether it is there; digits only where no further digits stand beside them, as in a longer number."""
    if not value.isdigit():
        return value in haystack
    at = -1
    while (at := haystack.find(value, at + 1)) >= 0:
        beside = haystack[max(0, at - 1) : at] + haystack[at + len(value) : at + len(value) + 1]
        if not re.search(rb"[0-9]", beside):
            return True
    return False


def test_search_finds_what_is_there() -> None:
    used = Used()
    used.add("code", "12345678")
    used.add("key", "5a" * 32)
    assert used.found_in(b"the code 12345678.") == ["code 1"]
    assert used.found_in(b"0123456789") == []
    assert used.found_in(base64.b64encode(b"5a" * 32)) == ["key 1"]
    assert used.found_in(b"12345678".hex().encode()) == ["code 1"]


# --- What can be seen from outside. ---


class Listener(threading.Thread):
    """Keeps all that comes on a socket, until `close`."""

    def __init__(self, source: socket.socket) -> None:
        super().__init__(daemon=True)
        self.received = bytearray()
        self._source = source
        self._has_ended, self._end = socket.socketpair()
        self.start()

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for handle in (self._source, self._has_ended):
                selector.register(handle, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._source in ready:
                    self.received += self._source.recv(1 << 20)
                elif self._has_ended in ready:  # and nothing is left to read
                    return

    def close(self) -> bytes:
        """All that came."""
        self._end.close()
        self.join(STOP_WITHIN_S)
        self._has_ended.close()
        self._source.close()
        return bytes(self.received)


class Watcher(threading.Thread):
    """Reads the command lines and environments of all processes, over and over; keeps what is new."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._has_ended = threading.Event()
        self._seen: set[bytes] = set()
        self.start()

    def run(self) -> None:
        while not self._has_ended.wait(LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        """Once over all processes."""
        for path in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "environ"):
                with contextlib.suppress(OSError):  # it has ended
                    self._seen.add((path / name).read_bytes())

    def close(self) -> bytes:
        """All that was seen."""
        self._has_ended.set()
        self.join(STOP_WITHIN_S)
        return b"\n".join(sorted(self._seen))


def monitor() -> Listener:
    """All that Redis is told from now on (MONITOR)."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(str(REDIS_SOCKET))
    connection.sendall(b"MONITOR\r\n")
    assert connection.recv(5) == b"+OK\r\n"
    return Listener(connection)


def journal() -> Listener:
    """All that is written to the journal's socket from now on; the daemon's own events go to its standard error."""
    JOURNAL.parent.mkdir(parents=True, exist_ok=True)
    source = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    source.bind(str(JOURNAL))
    JOURNAL.chmod(0o666)
    return Listener(source)


def memory_of(pid: int) -> bytes:
    """All of a process's memory that root can read, as a core image without any filter would have it."""
    parts = []
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            span, rights, _ = line.split(" ", 2)
            start, end = (int(at, 16) for at in span.split("-"))
            if rights[:2] != "rw":  # what was never written to holds no secret
                continue
            with contextlib.suppress(OSError, ValueError):
                memory.seek(start)
                parts.append(re.sub(rb"\0{64,}", b"\0", memory.read(end - start)))  # most of it is empty
    return b"\0".join(parts)


def core_image_of(pid: int) -> bytes:
    """A core image of a running process, as root takes one."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["/usr/bin/gcore", "-o", f"{folder}/core", str(pid)],
            check=True, capture_output=True, timeout=60, env={"PATH": PROGRAM_PATH},
        )  # fmt: skip
        return Path(f"{folder}/core.{pid}").read_bytes()


# --- The day. ---


@dataclass
class Day:
    """What was used, and what was seen, by place."""

    used: Used = field(default_factory=Used)
    places: dict[str, bytes] = field(default_factory=dict)


class Play:
    """The logins. Every code that goes through here is noted."""

    def __init__(self, day: Day, gateway: FakeGatewayAPI) -> None:
        self.used = day.used
        self._gateway = gateway
        self._phones = {person.name: Phone(gateway, person) for person in PEOPLE if person.phone}

    def code(self, person: Person) -> str:
        """The next code texted to somebody."""
        code = self._phones[person.name].next_code()
        self.used.add("code", code)
        return code

    def new_codes(self, person: Person) -> None:
        """From here on only texts that are yet to come."""
        phone = self._phones[person.name]
        phone.read_count = len(phone.texts)

    def wrong(self, code: str) -> str:
        """A wrong code, also not to be found."""
        wrong = wrong_code(code)
        self.used.add("wrong code", wrong)
        return wrong

    def log_in(self, way: Way, person: Person = ALICE, *, wrong_count: int = 0, is_anew: bool = False) -> None:
        """In at the end, after so many wrong codes, and with a new text if that is wanted."""
        self.new_codes(person)
        with way.start(person) as terminal:
            code = self.code(person)
            if is_anew:
                terminal.enter("")
                code = self.code(person)
                terminal.expect(CODE)
            for _ in range(wrong_count):
                terminal.enter(self.wrong(code))
                terminal.expect(CODE)
            terminal.enter(code)
            terminal.expect(PROOF)

    def fail(self, way: Way, person: Person, typed: Sequence[str]) -> None:
        """Refused whatever is typed."""
        with way.start(person) as terminal:
            for number, code in enumerate(typed):
                for form in {code, code.replace("-", "")}:
                    self.used.add("wrong code", form)
                terminal.enter(code)
                if number + 1 < len(typed):
                    terminal.expect(CODE)
            assert refuse_to_answer(terminal, CTRL_D) != 0
            assert PROOF not in terminal.shown

    def recover(self, way: Way, person: Person, code: str) -> None:
        """In with a recovery code."""
        self.new_codes(person)
        with way.start(person) as terminal:
            self.code(person)
            terminal.enter(code)
            terminal.expect(PROOF)

    def enrol(self, person: Person, number: str, msisdn: str) -> None:
        """`textgate enrol`, which asks for number and code."""
        process = subprocess.Popen(
            ["/usr/bin/textgate", "enrol", "--code-stdin", person.name], stdin=subprocess.PIPE, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        with process:
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            code = self._gateway_code(msisdn)
            process.stdin.write(f"{code}\n")
            process.stdin.close()
            assert "is enrolled with" in process.stdout.read()

    def _gateway_code(self, msisdn: str) -> str:
        seen = len(self._gateway.accepted)
        if not self._gateway.texts_to(msisdn):
            self._gateway.wait_for_texts(seen + 1, timeout=10)
        code = self._gateway.last_code(msisdn)
        self.used.add("code", code)
        return code

    def ask(self, path: Path, data: bytes) -> None:
        """Send something to a socket of the daemon and hear its answer out."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(10)
            peer.connect(str(path))
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(65536):
                pass


def good_logins(play: Play, ssh: Way) -> None:
    """Every way in: at once, after wrong codes, with a new text, at every program."""
    for way in (ssh, SUDO, SU):
        play.log_in(way)
        play.log_in(way, BOB, wrong_count=2)
        play.log_in(way, is_anew=True)


def recovery_logins(play: Play, ssh: Way) -> None:
    """In with recovery codes; those that are left are no less secret."""
    codes = textgate("recovery", "alice").data["codes"]
    for code in codes:
        play.used.add("recovery code", code)
        play.used.add("recovery code typed", code.replace("-", ""))
    play.recover(SUDO, ALICE, codes[0])
    play.recover(ssh, ALICE, codes[1].upper())


def bad_logins(play: Play, ssh: Way, sshd: Sshd) -> None:
    """Refused: wrong codes, no phone, nobody, too long, and what people type at the wrong prompt."""
    for way in (ssh, SUDO):
        play.fail(way, DAVE if way is ssh else BOB, ["73105284", "9120-5673", "55012384"])
    play.fail(ssh, CAROL, ["60213947", CAROL.password, "x" * 300 + "40917265"])
    with sshd.login(NOBODY, PROVE, has_key=False, options=ONE_ROUND) as terminal:
        terminal.answer("assword: ", ALICE.password)
        assert terminal.expect_end() != 0


def faults(play: Play, gateway: FakeGatewayAPI, redis: RedisServer) -> None:
    """What breaks on the way: the gateway, Redis, the daemon, records, keys, requests."""
    for kind in ("500", "reset", "malformed", "credit"):
        fault = gateway.inject(kind, count=None)
        play.fail(SUDO, BOB, ["81726354"] * 3)
        gateway.remove(fault)
    elsewhere = AUTH_SOCKET.rename(AUTH_SOCKET.with_suffix(".away"))
    play.fail(SUDO, BOB, ["17263548"] * 3)
    elsewhere.rename(AUTH_SOCKET)
    redis.set_readonly(True)
    play.fail(SUDO, BOB, ["91827364"] * 3)
    redis.set_readonly(False)
    key = "textgate:{bob}:hotp"
    kept = redis.client.hget(key, "secret")
    redis.client.hset(key, "secret", redis.client.hget("textgate:{alice}:hotp", "secret"))
    play.fail(SUDO, BOB, ["19283746"] * 3)
    redis.client.hset(key, "secret", kept)
    vault_key = CREDENTIALS / "vault-key"
    good = vault_key.read_bytes()
    for content in (good.replace(b":", b";"), good):
        vault_key.write_bytes(content)
        play.ask(ADMIN_SOCKET, b'{"v": 1, "verb": "reload"}\n')
    for request in (
        b"textgate/1 check\0PAM_USER=alice\0CODE=24681357\0CODE=24681357",
        b"textgate/1 begin\0PAM_USER=alice\0PAM_SERVICE=+45 12 34 56 78\0PPID=1\0PPID_START=1\0PAM_TYPE=auth",
        b"textgate/1 check\0PAM_USER=24681357\0PAM_SERVICE=sudo\0PPID=1\0PPID_START=1\0PAM_TYPE=auth\0CODE=24681357",
    ):
        play.ask(AUTH_SOCKET, request)
    for line in (
        b'{"v": 1, "verb": "send-test", "number": "%s"}' % ODD_NUMBER.encode(),
        b'{"v": 1, "verb": "prove-check", "user": "alice", "number": "%s", "session_id": "0", "code": "24681357"}'
        % NEW_NUMBER.encode(),
        b'{"v": 1, "verb": "24681357"}',
        b'["24681357"]',
    ):
        play.ask(ADMIN_SOCKET, line + b"\n")
    play.used.add("wrong code", "24681357")


@pytest.fixture(scope="module")
def day(
    running_daemon: Daemon, running_redis: RedisServer, running_gateway: FakeGatewayAPI, no_fail_delay: None
) -> Iterator[Day]:
    """Play it once, with a daemon that logs to the journal's socket."""
    redis, gateway = running_redis, running_gateway
    redis.recover()
    gateway.reset()
    running_daemon.close()
    write_config(gateway.url, SETTINGS)
    listeners = {"what Redis is told (MONITOR)": monitor(), "the journal": journal()}
    with Daemon(arguments=("--log", "journal")) as daemon:
        yield play_the_day(daemon, redis, gateway, listeners)
    JOURNAL.unlink()
    write_phones()
    write_config(gateway.url, UNTHROTTLED)
    running_daemon.start()


def play_the_day(daemon: Daemon, redis: RedisServer, gateway: FakeGatewayAPI, listeners: dict[str, Listener]) -> Day:
    """All that happens in it; answers what was seen."""
    day = Day()
    play = Play(day, gateway)
    for name in ("gatewayapi-key", "gatewayapi-secret", "gatewayapi-token"):
        day.used.add(name, (CREDENTIALS / name).read_text().strip())
    for person in PEOPLE:
        day.used.add("password", person.password)
        if person.phone:
            day.used.add("number", person.phone)
            day.used.add("number", str(person.msisdn))
            day.used.add("number", str(person.msisdn)[2:])
    for number in (NEW_NUMBER, NEW_MSISDN, NEW_MSISDN[2:], ODD_NUMBER):
        day.used.add("number", number)
    spied = Path("/tmp/spied")
    spied.mkdir(mode=0o700)
    spy = Path("/usr/local/sbin/spy")
    spy.write_text(f'#!/bin/sh\ncat /proc/$$/environ /proc/$$/cmdline >{spied}/$$.$(date +%N)\nexec "$@"\n')
    spy.chmod(0o755)
    watcher = Watcher()
    with contextlib.ExitStack() as stack:
        stack.enter_context(pam_lines("sudo", FirstFactor.PASSWORD))
        stack.enter_context(pam_lines("su", FirstFactor.PASSWORD))
        sshd = stack.enter_context(Sshd(FirstFactor.PASSWORD, ["LogLevel DEBUG3"]))
        ssh = ssh_way(sshd)
        with helper_line(before=f"{spy} "):
            good_logins(play, ssh)
            recovery_logins(play, ssh)
            bad_logins(play, ssh, sshd)
            faults(play, gateway, redis)
            play.enrol(CAROL, NEW_NUMBER, NEW_MSISDN)
        day.places["core images of the daemon"] = images_of_a_login(play, daemon, gateway)
        with stack_of_sessions(play, ssh) as inside:
            day.places["memory of those who are logged in"] = inside
        add_keys_and_secrets(day.used, redis)
        assert textgate("keys", "rotate").exit_code == 0
        play.log_in(SUDO)
        add_keys_and_secrets(day.used, redis)
        day.places["sshd's log"] = "\n".join(sshd.process.lines).encode()
    daemon.process.catch_up()
    day.places |= {name: listener.close() for name, listener in listeners.items()}
    day.places["the daemon's standard error"] = "\n".join(daemon.process.lines).encode()
    day.places["command lines and environments"] = watcher.close()
    day.places["what pam_exec gave the helper"] = b"\n".join(path.read_bytes() for path in spied.iterdir())
    folder = Path(redis.client.config_get("dir")["dir"])
    day.places["Redis' files"] = b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    day.places["Redis' memory"] = memory_of(redis.process.pid)
    day.places["the daemon's memory"] = memory_of(daemon.process.pid)
    day.places["core images of the daemon"] += core_image_of(daemon.process.pid)
    spy.unlink()
    return day


def images_of_a_login(play: Play, daemon: Daemon, gateway: FakeGatewayAPI) -> bytes:
    """Core images of the daemon while it waits for the gateway's answer, before the code is typed and after it."""
    play.new_codes(ALICE)
    held = gateway.inject("delay", accept=True)
    with SUDO.start(ALICE) as terminal:
        images = [core_image_of(daemon.process.pid)]
        gateway.remove(held)
        code = play.code(ALICE)
        images.append(core_image_of(daemon.process.pid))
        terminal.enter(code)
        terminal.expect(PROOF)
    return b"".join([*images, core_image_of(daemon.process.pid)])


@contextlib.contextmanager
def stack_of_sessions(play: Play, ssh: Way) -> Iterator[bytes]:
    """The memory of everything that runs in three sessions whose logins are over: sshd, sudo, su, their commands."""
    with contextlib.ExitStack() as stack:
        before = pids()
        for way in (ssh, SUDO, SU):
            play.new_codes(ALICE)
            terminal = stack.enter_context(way.start(ALICE, f"{PROVE}; exec cat"))
            terminal.enter(play.code(ALICE))
            terminal.expect(PROOF)
        theirs = {pid: name for pid, name in pids().items() if pid not in before and name != "ssh"}
        programs = {name.removesuffix("-session") for name in theirs.values()}  # OpenSSH 9.8 has a program for each
        assert {"sshd", "sudo", "su", "cat"} <= programs, theirs
        yield b"\n".join(f"### {name}\n".encode() + memory_of(pid) for pid, name in theirs.items())


def pids() -> dict[int, str]:
    """All processes, by id, with their names."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            found[int(path.name)] = (path / "comm").read_text().strip()
    return found


def add_keys_and_secrets(used: Used, redis: RedisServer) -> None:
    """Today's vault keys, and every user's secret, opened with them."""
    text = (CREDENTIALS / "vault-key").read_text()
    for line in text.split():
        used.add("vault key", line.partition(":")[2])
        used.add("vault key as bytes", bytes.fromhex(line.partition(":")[2]))
    vault = Vault(parse_keys(Secret(text)))
    for key in redis.client.scan_iter("textgate:{*}:hotp"):
        user = key.removeprefix("textgate:{").removesuffix("}:hotp")
        secret = vault.open(redis.client.hget(key, "secret"), user=user, purpose=SECRET_PURPOSE).reveal()
        used.add("user's secret", secret)
        used.add("user's secret as bytes", base64.b32decode(secret))


# --- The search. ---

# Where secrets must not be, each with something harmless that must: an empty place would hold no secret either.
PLACES = {
    "the journal": b"TEXTGATE_REASON=code\n",
    "the daemon's standard error": b"",
    "sshd's log": b"Postponed keyboard-interactive for alice",
    "command lines and environments": b"/usr/sbin/textgated",
    "what pam_exec gave the helper": b"PAM_USER=alice\0",
    "what Redis is told (MONITOR)": b"textgate:{alice}:hotp",
    "Redis' files": b"textgate:{alice}:hotp",
    "Redis' memory": b"textgate:{alice}:hotp",
    "memory of those who are logged in": b"alice",
    "core images of the daemon": b"python3\0",  # its name, beside its registers
}


@pytest.mark.parametrize("place", PLACES)
def test_no_secret_code_number_or_password_is_in(day: Day, place: str) -> None:
    assert PLACES[place] in day.places[place]
    assert day.used.found_in(day.places[place]) == []


def test_day_used_everything_that_is_searched_for(day: Day) -> None:
    kinds = {re.sub(r" \d+$", "", name) for name in day.used.values}
    assert kinds == {
        "gatewayapi-key", "gatewayapi-secret", "gatewayapi-token", "vault key", "vault key as bytes", "user's secret",
        "user's secret as bytes", "code", "wrong code", "recovery code", "recovery code typed", "number", "password",
    }  # fmt: skip
    assert all(len(value) >= DIGITS for value in day.used.values.values())


@pytest.mark.parametrize(
    "event",
    [
        "TEXTGATE_RESULT=pass",
        "TEXTGATE_REASON=recovery",
        "TEXTGATE_REASON=wrong",
        "TEXTGATE_REASON=unknown_user",
        "TEXTGATE_REASON=no_phone",
        "TEXTGATE_REASON=store_away",
        "TEXTGATE_REASON=server_error",
        "TEXTGATE_REASON=field_twice",
        "TEXTGATE_REASON=a sealed record does not open",
        "TEXTGATE_EVENT=helper_failed",
        "reload failed",
        "secrets sealed anew",
        "TEXTGATE_PHONE=•• 78",
    ],
)
def test_journal_that_is_searched_tells_of(day: Day, event: str) -> None:
    """So that what must not be in it could have been."""
    assert event.encode() in day.places["the journal"]


def test_search_of_memory_finds_the_key_that_is_there(day: Day) -> None:
    """The daemon must hold the vault key, and root can read it: what follows keeps all others out."""
    assert any(name.startswith("vault key as bytes") for name in day.used.found_in(day.places["the daemon's memory"]))


@pytest.mark.parametrize("form", [bytes, bytes.hex, lambda value: base64.b64encode(value).decode()])
def test_watcher_would_have_seen_a_secret_of_another_process(form: Callable[[bytes], bytes | str]) -> None:
    used = Used()
    used.add("code", "31415926")
    written = form(b"31415926")
    text = written.decode() if isinstance(written, bytes) else written
    for argv, environment in ([text], {}), ([], {"SECRET": text}):
        watcher = Watcher()
        with subprocess.Popen(
            ["/bin/sh", "-c", "echo; read -r _", *argv],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == b"\n"
            watcher.look()
            process.communicate(b"\n")
        assert used.found_in(watcher.close()) == ["code 1"]


# --- What Python itself would show. ---


def everything_of(root: object) -> Iterator[object]:
    """All objects that can be reached from one, but for modules, classes and what hangs on them."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, (type, ModuleType, FunctionType, BuiltinFunctionType)):
            continue
        seen.add(id(thing))
        yield thing
        if not isinstance(thing, (Secret, Msisdn)):  # they hide what they hold, as the search is to show
            waiting.extend(gc.get_referents(thing))


@pytest.fixture
def services(
    running_daemon: Daemon, running_redis: RedisServer, running_gateway: FakeGatewayAPI
) -> Iterator[tuple[Services, Used, list[BaseException]]]:
    """The daemon's parts in this process, after logins that ended in every way; and what was raised in them."""
    running_redis.recover()
    write_phones()
    write_config(running_gateway.url, SETTINGS)
    used = Used()
    for name in ("gatewayapi-key", "gatewayapi-secret", "vault-key"):
        used.add(name, load_credential(name, str(CREDENTIALS / name), environ={}).reveal())
    for person in (ALICE, BOB):
        used.add("number", str(person.msisdn))
    services = build_services(load_config(str(CONFIG_PATH)), Audit(lambda _text, _fields: None), {})
    raised: list[BaseException] = []
    yield services, used, raised
    services.close()
    write_config(running_gateway.url, UNTHROTTLED)


def a_session(user: str) -> Session:
    """A login of sudo."""
    fields = {"PAM_USER": user, "PAM_SERVICE": "sudo", "PPID": "1", "PPID_START": "1"}
    return build_session(fields, ("sshd",))


def test_objects_and_exceptions_show_no_secret(
    services: tuple[Services, Used, list[BaseException]], running_gateway: FakeGatewayAPI, running_redis: RedisServer
) -> None:
    parts, used, raised = services
    verifier, session = parts.verifier, a_session("alice")
    assert verifier.begin(session).word is Word.ASK
    code = running_gateway.last_code(str(ALICE.msisdn))
    used.add("code", code)
    used.add("wrong code", wrong_code(code))
    request = parse_request(f"textgate/1 check\0PAM_USER=alice\0CODE={code}".encode())
    attempt = verifier.resolve(session)
    kept = [request, request.code, session, attempt, verifier.check(session, Secret(wrong_code(code)))]
    redis = running_redis.client
    key = "textgate:{alice}:hotp"
    good = redis.hget(key, "secret")
    opened = parts.vault.open(good, user="alice", purpose=SECRET_PURPOSE)
    used.add("user's secret", opened.reveal())

    def spoil(secret: str) -> None:
        redis.hset(key, "secret", secret)

    breaks: list[tuple[Callable[[], object], Callable[[], object]]] = [
        (lambda: spoil(good[:-4] + "AAAA"), lambda: spoil(good)),
        (lambda: spoil("v1.k9." + good), lambda: spoil(good)),
        (lambda: spoil(opened.reveal()), lambda: spoil(good)),  # not even sealed
        (lambda: PHONES_PATH.chmod(0o666), lambda: PHONES_PATH.chmod(0o640)),
        (lambda: redis.set("textgate:{alice}:challenge:" + session.session_id, code), redis.flushall),
    ]
    for spoil_it, mend_it in breaks:
        spoil_it()
        for typed in (code, wrong_code(code)):
            note_raised(raised, lambda typed=typed: parts.verifier.check(session, Secret(typed)))  # type: ignore[misc]
        mend_it()
    for bad in (
        lambda: parse_keys(Secret((CREDENTIALS / "vault-key").read_text().replace(":", ";"))),
        lambda: parse_msisdn(f"{ALICE.phone}x", ""),
        lambda: Msisdn(str(ALICE.msisdn) * 2),
        lambda: parse_request(f"textgate/1 begin\0CODE={code}".encode()),
        lambda: parse_request(f"textgate/1 check\0CODE={code}\0{code}".encode()),
        lambda: set_phone(str(CREDENTIALS), "alice", Msisdn(str(ALICE.msisdn))),
    ):
        note_raised(raised, bad)
    assert len(raised) >= 10
    shown = [form for error in raised for form in forms_of(error)]
    shown += [form for thing in everything_of([parts, kept]) for form in shown_of(thing)]
    assert used.found_in("\n".join(shown).encode(errors="replace")) == []


def note_raised(raised: list[BaseException], action: Callable[[], object]) -> None:
    """Keep the exception of an action that must raise one, or deny."""
    try:
        result = action()
    except Exception as error:
        raised.append(error)
    else:
        assert isinstance(result, Reply) and result.word is Word.DENY


def forms_of(error: BaseException) -> Iterator[str]:
    """An exception and those behind it, in all the forms in which one gets into a log."""
    chain: BaseException | None = error
    yield "".join(traceback.format_exception(error))
    while chain is not None:
        yield from (repr(chain), str(chain), repr(chain.args))
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)


def shown_of(thing: object) -> Iterator[str]:
    """An object of ours, or of a library that we hand secrets to, as it shows itself."""
    if type(thing).__module__.partition(".")[0] in ("textgate", "redis", "requests_oauthlib", "oauthlib", "requests"):
        yield from (repr(thing), str(thing), f"{thing}")


# --- A crash. ---

CORES = Path("/tmp/cores")


@pytest.fixture
def cores(running_daemon: Daemon, running_gateway: FakeGatewayAPI) -> Iterator[Path]:
    """A folder that the daemon's user may write to, with a configuration; and nothing that keeps images small."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    filter_before = COREDUMP_FILTER.read_text()
    COREDUMP_FILTER.write_text("0x33")  # the kernel's own
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    CORES.mkdir(exist_ok=True)
    shutil.chown(CORES, DAEMON_USER, DAEMON_USER)
    own = {"daemon": {"auth_socket": str(CORES / "auth.sock"), "admin_socket": str(CORES / "admin.sock")}}
    write_config(running_gateway.url, merged(UNTHROTTLED, own))
    yield CORES
    write_config(running_gateway.url, UNTHROTTLED)
    shutil.rmtree(CORES)
    resource.setrlimit(resource.RLIMIT_CORE, before)
    COREDUMP_FILTER.write_text(f"0x{filter_before}")


@contextlib.contextmanager
def running(argv: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program of the daemon's user, in a folder of its own, once it says that it is ready."""
    path = folder / "notify.sock"
    with contextlib.ExitStack() as stack:
        notify = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        notify.bind(str(path))
        stack.callback(path.unlink)
        path.chmod(0o666)
        notify.settimeout(20)
        environment = {"PATH": os.defpath, "NOTIFY_SOCKET": str(path)}
        process = subprocess.Popen(
            [*run_as(DAEMON_USER), *argv], cwd=folder, env=environment, stderr=subprocess.DEVNULL
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        assert notify.recv(100).startswith(b"READY=1")
        yield process


def crash(process: subprocess.Popen[bytes], number: signal.Signals, folder: Path) -> tuple[bool, list[Path]]:
    """End it by a signal; answers whether the kernel says that it made an image, and the images that are there."""
    process.send_signal(number)
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None and ended.si_status == number
    return ended.si_code == os.CLD_DUMPED, [path for path in folder.iterdir() if path.name.startswith("core")]


READY = """
import os, signal, socket, sys
secret = "s3cret-" + "in-the-memory"
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
    s.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
"""
NUMBERS = [signal.SIGSEGV, signal.SIGABRT, signal.SIGQUIT, signal.SIGBUS]


def test_other_program_leaves_an_image_of_its_memory(cores: Path) -> None:
    """So that the test below fails for its own reason: this machine makes images."""
    with running(["/usr/bin/python3", "-I", "-c", READY], cores) as process:
        assert Path(f"/proc/{process.pid}/environ").stat().st_uid == pwd.getpwnam(DAEMON_USER).pw_uid
        has_image, images = crash(process, signal.SIGSEGV, cores)
    assert has_image
    for image in images:  # where the kernel writes files and doesn't hand images to a program
        assert b"s3cret-in-the-memory" in image.read_bytes()


# The daemon with some of the means taken away that keep its memory private.
WITHOUT = """
import resource, sys
from textgate import memory
from textgate.server import main
{}
sys.exit(main([]))
"""
LIMIT = "resource.setrlimit = lambda *_: None"
NOT_DUMPABLE = "memory.PR_SET_DUMPABLE = 8"  # PR_SET_KEEPCAPS, which changes nothing here
FILTER = "memory._leave_memory_out_of_images = lambda: None"


def without(*means: str) -> list[str]:
    """Its command line."""
    return ["/usr/bin/python3", "-I", "-c", WITHOUT.format("\n".join(means))]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)
def test_crash_of_the_daemon_leaves_no_image_of_its_memory(cores: Path, number: signal.Signals) -> None:
    with running([PROGRAM], cores) as process:
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert re.search(r"(?m)^Max core file size +0 +0 ", limits)
        assert crash(process, number, cores) == (False, [])


def test_crash_leaves_no_image_where_there_is_no_limit_either(cores: Path) -> None:
    """As where the kernel hands images to a program, which no limit stops."""
    with running(without(LIMIT), cores) as process:
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert re.search(r"(?m)^Max core file size +unlimited +unlimited ", limits)
        assert crash(process, signal.SIGSEGV, cores) == (False, [])


# --- Images that hold no memory. ---

Images = Callable[[subprocess.Popen[bytes], Path], list[bytes]]


def taken_by_root(process: subprocess.Popen[bytes], _folder: Path) -> list[bytes]:
    """Of a process that goes on running."""
    return [core_image_of(process.pid)]


def made_by_the_kernel(process: subprocess.Popen[bytes], folder: Path) -> list[bytes]:
    """In a crash; none where the kernel hands images to a program."""
    has_image, images = crash(process, signal.SIGSEGV, folder)
    assert has_image
    return [image.read_bytes() for image in images]


def keys_in(memory: bytes) -> list[str]:
    """Those of the secrets in it that the daemon holds for as long as it runs."""
    used = Used()
    for name in ("gatewayapi-key", "gatewayapi-secret"):
        used.add(name, (CREDENTIALS / name).read_text().strip())
    for line in (CREDENTIALS / "vault-key").read_text().split():
        used.add("vault key", bytes.fromhex(line.partition(":")[2]))
    return used.found_in(memory)


@pytest.mark.parametrize("images", [taken_by_root, made_by_the_kernel])
def test_filter_alone_keeps_the_daemons_keys_out_of_core_images(cores: Path, images: Images) -> None:
    with running(without(LIMIT, NOT_DUMPABLE), cores) as process:
        assert "vault key 1" in keys_in(memory_of(process.pid))
        assert [name for image in images(process, cores) for name in keys_in(image)] == []


@pytest.mark.parametrize("images", [taken_by_root, made_by_the_kernel])
def test_core_images_hold_the_daemons_keys_where_nothing_keeps_them_out(cores: Path, images: Images) -> None:
    """So that the searches of images could find them."""
    with running(without(LIMIT, NOT_DUMPABLE, FILTER), cores) as process:
        assert all("vault key 1" in keys_in(image) for image in images(process, cores))


def test_daemon_at_rest_has_nothing_in_its_registers(cores: Path) -> None:
    """Scripts for Redis are the last that it reads before it waits for logins."""
    with running([PROGRAM], cores) as process:
        assert b"redis.call" in memory_of(process.pid)
        assert b"redis.call" not in core_image_of(process.pid)


# A program whose thread copies a secret, in blocks of all sizes.
COPY = """
import os, signal, socket, sys
from textgate.dispatcher import Alarms, Dispatcher
from textgate.memory import clear_registers, keep_private
from textgate.secret import Secret
from textgate.vault import Vault, parse_keys
def copy():
    secret = memoryview(sys.argv[1].encode() * 200)
    for count in range(len(secret)):
        bytes(secret[:count])
def seal():
    vault = Vault(parse_keys(Secret("k1:" + (sys.argv[1] * 6)[:32].encode().hex())))
    return vault, vault.seal(Secret("x"), user="alice", purpose="hotp")
def done():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
keep_private()
{}
signal.pause()
"""


@pytest.mark.parametrize(
    "work",
    [
        "copy(); clear_registers(); done()",
        "pool = Dispatcher(threads=1, waiting=1); pool.submit(copy).result(); done()",
        "alarms = Alarms(); alarms.after(0, copy); alarms.after(0, done)",
        "kept = seal(); done()",
        "vault, record = seal(); vault.open(record, user='alice', purpose='hotp'); done()",
    ],
    ids=["the thread itself", "a job", "an alarm", "a key that sealed", "a key that opened"],
)
def test_thread_at_rest_has_nothing_of_its_work_in_its_registers(cores: Path, work: str) -> None:
    with running(["/usr/bin/python3", "-I", "-c", COPY.format(work), "s3cr3t"], cores) as process:
        assert b"s3cr3ts3cr3t" in memory_of(process.pid)
        assert b"s3cr3ts3cr3t" not in core_image_of(process.pid)


@contextlib.contextmanager
def gateway_behind_tls() -> Iterator[FakeGatewayAPI]:
    """One that is trusted, as the true one: what is sent is copied once more on its way."""
    authorities = Path(SYSTEM_CA_FILE)
    before = authorities.read_bytes()
    with FakeGatewayAPI(tls="trusted") as gateway:
        assert gateway.ca_file is not None
        authorities.write_bytes(before + Path(gateway.ca_file).read_bytes())
        yield gateway
    authorities.write_bytes(before)


def test_core_image_holds_no_number_or_code_while_the_gateway_takes_its_time(
    cores: Path, running_redis: RedisServer
) -> None:
    running_redis.recover()
    used = Used()
    used.add("number", str(ALICE.msisdn))
    with gateway_behind_tls() as gateway:
        CONFIG_PATH.write_text(re.sub(r"(?m)^url = .*", f'url = "{gateway.url}"', CONFIG_PATH.read_text()))
        held = gateway.inject("delay", accept=True)
        with running([PROGRAM], cores) as process, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as helper:
            helper.connect(str(cores / "auth.sock"))
            helper.sendall(b"textgate/1 begin\0PAM_USER=alice\0PAM_SERVICE=sudo\0PPID=1\0PPID_START=1\0PAM_TYPE=auth")
            helper.shutdown(socket.SHUT_WR)
            gateway.wait_for_texts(1, timeout=10)
            used.add("code", gateway.last_code(str(ALICE.msisdn)))
            assert used.found_in(memory_of(process.pid)) == list(used.values)
            assert used.found_in(core_image_of(process.pid)) == []
            gateway.remove(held)
            assert helper.recv(100).startswith(b"ask\n")


def test_core_image_of_the_helper_holds_no_code(cores: Path) -> None:
    path = cores / "auth.sock"
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(20)
        helper = stack.enter_context(
            subprocess.Popen(
                [HELPER, "--socket", str(path), "check"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
            )
        )
        assert helper.stdin is not None
        helper.stdin.write(b"24681357")
        helper.stdin.close()
        peer = stack.enter_context(listener.accept()[0])
        while b"24681357" not in peer.recv(65536):
            pass
        assert b"24681357" in memory_of(helper.pid)
        assert b"24681357" not in core_image_of(helper.pid)


# --- Its equals. ---

LOOK = """
import ctypes, os, sys
pid, seen = int(sys.argv[1]), []
for name in ("mem", "environ", "maps", "fd", "auxv"):
    try:
        path = f"/proc/{pid}/{name}"
        os.listdir(path) if name == "fd" else open(path, "rb").close()
        seen.append(name)
    except OSError:
        pass
if ctypes.CDLL(None).ptrace(16, pid, 0, 0) == 0:  # PTRACE_ATTACH
    seen.append("ptrace")
print(*seen)
"""


def test_other_processes_of_the_daemons_user_cannot_look_into_it(cores: Path) -> None:
    def seen(pid: int) -> set[str]:
        command = [*run_as(DAEMON_USER), "/usr/bin/python3", "-I", "-c", LOOK, str(pid)]
        return set(subprocess.check_output(command, text=True).split())

    with running([PROGRAM], cores) as process:
        assert seen(process.pid) == set()
    with running(["/usr/bin/python3", "-I", "-c", READY], cores) as process:
        assert {"mem", "environ", "fd"} <= seen(process.pid)
