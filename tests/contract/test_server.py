# SPDX-License-Identifier: MIT
"""textgated as a process: its sockets, its signals, its limits, and what it says when it can't start.

Run as root on a private Redis and a GatewayAPI on loopback. The users are those that every Linux has.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from fake_gatewayapi import ApiKey, FakeGatewayAPI
from private_redis import PrivateRedis
from textgate import texts
from textgate.audit import Priority
from textgate.cli import main as command
from textgate.config import Config
from textgate.protocol import REQUEST_MAX_BYTES
from textgate.session import LOGIN_TEST_TTY

SOURCES = Path(__file__).parents[2] / "daemon"
WITHIN_S = 20.0
NOBODY_UID = 65534
USER, PHONE = "daemon", "4520123456"
OTHER_USER, OTHER_PHONE = "bin", "4530123456"
API_KEY = ApiKey("the-key", "the-secret", "the-token")
VAULT_KEY = "k1:" + "5a" * 32
NO_CREDENTIALS = {"gatewayapi-key", "gatewayapi-secret", "vault-key"}

Answer = tuple[str, str]


# --- The peer's side ---


def fields(user: str = USER, service: str = "sshd", port: int = 50000, **changes: str) -> dict[str, str]:
    """What the helper sends for an ssh login; `port` tells one session from another."""
    base = {
        "PAM_USER": user,
        "PAM_SERVICE": service,
        "PAM_TTY": "ssh",
        "PAM_TYPE": "auth",
        "SSH_CONNECTION": f"192.0.2.1 {port} 192.0.2.2 22",
        "PPID": "100",
        "PPID_START": "1000",
    }
    return base | changes


def request(verb: str, values: Mapping[str, str]) -> bytes:
    return "\0".join([f"textgate/1 {verb}", *(f"{name}={value}" for name, value in values.items())]).encode()


class Peer:
    """One connection to a socket of the daemon."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(WITHIN_S)
        self.socket.connect(str(path))

    def send(self, data: bytes) -> Self:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it was answered before all was sent
            self.socket.sendall(data)
        return self

    def end(self) -> Self:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        return self

    def answer(self) -> Answer:
        """Everything up to the end, as word and text."""
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := self.socket.recv(65536):
                received += chunk
        self.socket.close()
        word, _, text = received.decode().partition("\n")
        return word, text

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


# --- The daemon ---


@dataclass
class Place:
    """A folder with all that a daemon needs, and what the daemon is told of it."""

    folder: Path
    redis_url: str
    gateway_url: str

    def __post_init__(self) -> None:
        self.folder.chmod(0o755)
        self.auth, self.admin = self.folder / "auth.sock", self.folder / "admin.sock"
        self.config, self.phones = self.folder / "textgate.toml", self.folder / "phones"
        for name, value in (
            ("gatewayapi-key", API_KEY.key),
            ("gatewayapi-secret", API_KEY.secret),
            ("vault-key", VAULT_KEY),
        ):
            self.write(name, value + "\n", 0o600)
        self.write("phones", f"{USER}: +{PHONE}\n{OTHER_USER}: +{OTHER_PHONE}\n", 0o640)
        self.configure()

    def write(self, name: str, content: str, mode: int = 0o644) -> Path:
        path = self.folder / name
        path.write_text(content)
        path.chmod(mode)
        return path

    def configure(self, **sections: Mapping[str, object]) -> None:
        """Write the configuration: this place's defaults, with these changes."""
        values: dict[str, dict[str, object]] = {
            "daemon": {
                "auth_socket": str(self.auth),
                "admin_socket": str(self.admin),
                "admin_group": "daemon",
                "workers": 8,
                "queue": 8,
                "read_timeout_s": 5,
            },
            "store": {"url": self.redis_url},
            "gateway": {
                "url": self.gateway_url,
                "key_file": str(self.folder / "gatewayapi-key"),
                "secret_file": str(self.folder / "gatewayapi-secret"),
            },
            "vault": {"key_file": str(self.folder / "vault-key")},
            "phones": {"file": str(self.phones)},
            "limits": {"allowed_countries": ["DK"], "send_spacing_s": 0, "sends_per_15_minutes": 100},
        }
        for section, changes in sections.items():
            values.setdefault(section, {}).update(changes)
        lines = []
        for section, keys in values.items():
            lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
        self.write("textgate.toml", "\n".join(lines) + "\n")

    def run(self, **more: Any) -> Textgated:
        return Textgated(self, **more)

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The `textgate` command."""
        return subprocess.run(
            [sys.executable, "-m", "textgate.cli", "--config", str(self.config), *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=WITHIN_S,
            stdin=subprocess.DEVNULL,
            env=_environment(environment),
        )


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    return {"PATH": os.defpath, "PYTHONPATH": str(SOURCES), "PYTHONDONTWRITEBYTECODE": "1", **more}


PASS_SOCKETS = textwrap.dedent("""
    # Does what systemd does (sd_listen_fds(3)): sockets from 3 on, their names, and whom they are for.
    import os, sys
    names, descriptors, argv = sys.argv[1], [int(n) for n in sys.argv[2].split(",")], sys.argv[3:]
    moved = [os.dup(n) for n in descriptors]
    moved = [os.dup2(n, 100 + at) for at, n in enumerate(moved)]
    for at, n in enumerate(moved):
        os.dup2(n, 3 + at, inheritable=True)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(moved)), LISTEN_FDNAMES=names)
    os.execv(argv[0], argv)
""")


class Textgated:
    """A context manager: started and ready inside, ended after. One thread hears its journal, one its notices."""

    def __init__(
        self,
        place: Place,
        *,
        environment: Mapping[str, str] | None = None,
        listeners: Mapping[str, socket.socket] | None = None,
        is_ready: bool = True,
    ) -> None:
        self.place = place
        self.events: list[dict[str, str]] = []
        self.notices: list[str] = []
        self.lines: list[str] = []
        self._is_ready = is_ready
        self._changed = threading.Condition()
        self._has_ended = False
        self._notify_path = place.folder / f"notify-{id(self)}.sock"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(self._notify_path))
        argv = [sys.executable, "-m", "textgate.server", "--config", str(place.config), "--log", "stderr"]
        descriptors = [listener.fileno() for listener in (listeners or {}).values()]
        if listeners:
            argv = [
                sys.executable,
                "-c",
                PASS_SOCKETS,
                ":".join(listeners),
                ",".join(str(descriptor) for descriptor in descriptors),
                *argv,
            ]
        self.process = subprocess.Popen(
            argv,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=_environment({"NOTIFY_SOCKET": str(self._notify_path), **(environment or {})}),
            pass_fds=descriptors,
            start_new_session=True,
        )
        self._threads = [threading.Thread(target=job) for job in (self._hear_journal, self._hear_notices)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        if self._is_ready:
            try:
                self.wait(lambda: "READY=1" in self.notices, "readiness")
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.exit_code()
        self._notify_path.unlink(missing_ok=True)

    # --- What it says ---

    def _hear_journal(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line)
                if line.startswith("{"):
                    self.events.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", str(self._notify_path))

    def _hear_notices(self) -> None:
        while notice := self._notify.recv(4096):
            with self._changed:
                self.notices.extend(notice.decode().splitlines())
                self._changed.notify_all()

    def wait(self, found: Callable[[], Any], what: str) -> Any:
        """Until something is so; asked again whenever the daemon says something."""
        with self._changed:
            result = self._changed.wait_for(lambda: found() or self._has_ended, WITHIN_S)
            if not result or not found():
                raise AssertionError(f"no {what}:\n" + "".join(self.lines[-20:]))
            return found()

    def find(self, event: str, **wanted: str) -> list[dict[str, str]]:
        """The events of a kind with these values."""
        return [
            entry
            for entry in list(self.events)
            if entry["TEXTGATE_EVENT"] == event
            and all(entry.get(f"TEXTGATE_{name.upper()}") == value for name, value in wanted.items())
        ]

    def wait_event(self, event: str, count: int = 1, **wanted: str) -> dict[str, str]:
        found: list[dict[str, str]] = self.wait(
            lambda: self.find(event, **wanted) if len(self.find(event, **wanted)) >= count else None,
            f"event {event} {wanted}",
        )
        return found[count - 1]

    def said(self, words: str) -> bool:
        return any(words in entry["MESSAGE"] for entry in list(self.events))

    def text(self) -> str:
        return "".join(self.lines)

    # --- What it is told ---

    def ask(self, verb: str, values: Mapping[str, str] | None = None, **more: Any) -> Answer:
        return self.start(verb, values, **more).answer()

    def ask_until_free(self, **more: Any) -> Answer:
        """`begin`, again and again while what is in line is worked off."""
        for _ in range(10_000):
            answer = self.ask("begin", **more)
            if answer != ("deny", texts.BUSY):
                break
        return answer

    def start(self, verb: str, values: Mapping[str, str] | None = None, **more: Any) -> Peer:
        """Send a whole request and don't wait for the answer."""
        return self.raw(request(verb, fields(**more) if values is None else values))

    def raw(self, data: bytes) -> Peer:
        return Peer(self.place.auth).send(data).end()

    def check(self, code: str, **more: Any) -> Answer:
        return self.ask("check", fields(**more) | {"CODE": code})

    def admin(self, verb: str, **arguments: object) -> dict[str, Any]:
        with Peer(self.place.admin) as peer:
            peer.send(json.dumps({"v": 1, "verb": verb, **arguments}).encode() + b"\n").end()
            return json.loads(peer.socket.makefile("rb").readline())  # type: ignore[no-any-return]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_code(self) -> int:
        code = self.process.wait(WITHIN_S)
        for thread in self._threads:
            thread.join(WITHIN_S)
        self._notify.close()
        if self.process.stderr is not None:
            self.process.stderr.close()
        return code


@pytest.fixture(scope="module")
def gateway_of_the_run() -> Iterator[FakeGatewayAPI]:
    with FakeGatewayAPI(keys=[API_KEY]) as gateway:
        yield gateway


@pytest.fixture
def gateway(gateway_of_the_run: FakeGatewayAPI) -> Iterator[FakeGatewayAPI]:
    yield gateway_of_the_run
    gateway_of_the_run.clear_faults()
    gateway_of_the_run.reset()


@pytest.fixture
def place(redis_server: PrivateRedis, gateway: FakeGatewayAPI) -> Iterator[Place]:
    # Not pytest's folder, which nobody but root can enter: here other users must get as far as the sockets.
    with tempfile.TemporaryDirectory(prefix="textgate-test-") as folder:
        yield Place(Path(folder), redis_server.url, gateway.url)


@pytest.fixture(scope="module")
def shared_place(
    tmp_path_factory: pytest.TempPathFactory, redis_of_the_run: PrivateRedis, gateway_of_the_run: FakeGatewayAPI
) -> Place:
    place = Place(tmp_path_factory.mktemp("shared"), redis_of_the_run.url, gateway_of_the_run.url)
    place.configure(daemon={"read_timeout_s": 0.3})
    return place


@pytest.fixture(scope="module")
def shared(shared_place: Place) -> Iterator[Textgated]:
    """One daemon for the tests that leave it as it was."""
    with shared_place.run() as daemon:
        yield daemon


@pytest.fixture
def daemon(shared: Textgated, redis_server: PrivateRedis, gateway: FakeGatewayAPI) -> Textgated:
    """The shared daemon with an empty Redis and a gateway without faults."""
    return shared


@contextlib.contextmanager
def held_gateway(gateway: FakeGatewayAPI) -> Iterator[Callable[[], None]]:
    """The gateway takes a request and answers when told to; the texts count as accepted."""
    fault = gateway.inject("delay", count=None, accept=True)

    def wait_reached() -> None:
        fault.wait_reached(WITHIN_S)

    try:
        yield wait_reached
    finally:
        gateway.remove(fault)


SLOW = {"gateway": {"send_wait_s": 8}}


# --- A login ---


def test_login_over_the_socket(daemon: Textgated, gateway: FakeGatewayAPI) -> None:
    assert daemon.ask("begin") == ("ask", texts.SENT)
    code = gateway.last_code(PHONE)
    assert daemon.check("000000" if code != "000000" else "000001") == ("deny", texts.WRONG)
    assert daemon.check(code) == ("pass", "")
    assert daemon.check(code) == ("deny", texts.NONE_WAITING)
    assert code not in daemon.text()
    assert PHONE not in daemon.text()


def test_code_is_good_for_its_session_only(daemon: Textgated, gateway: FakeGatewayAPI) -> None:
    daemon.ask("begin", port=50001)
    first = gateway.last_code(PHONE)
    daemon.ask("begin", port=50002)
    assert daemon.check(first, port=50002)[0] == "deny"
    assert daemon.check(first, user=OTHER_USER, port=50001)[0] == "deny"
    assert daemon.check(first, port=50001) == ("pass", "")


def test_code_is_good_for_its_connection_and_not_for_the_next_from_the_same_port(
    daemon: Textgated, gateway: FakeGatewayAPI
) -> None:
    connection = fields(PPID="200", PPID_START="2000")
    daemon.ask("begin", connection)
    code = gateway.last_code(PHONE)
    for other in ({"PPID": "201"}, {"PPID_START": "2001"}):
        daemon.ask("begin", connection | other)
        assert daemon.ask("check", connection | other | {"CODE": code})[0] == "deny"
    assert daemon.ask("check", connection | {"CODE": code}) == ("pass", "")


def test_helper_that_is_replaced_during_a_login_lets_nobody_in_with_its_code(
    daemon: Textgated, gateway: FakeGatewayAPI
) -> None:
    """A former helper names the process of the attempt, the present one that of the connection."""
    attempt, connection = fields(PPID="300"), fields(PPID="200")
    for before, after in ((attempt, connection), (connection, attempt)):
        daemon.ask("begin", before)
        code = gateway.last_code(PHONE)
        assert daemon.ask("check", after | {"CODE": code})[0] == "deny"
    assert daemon.ask("check", connection | {"CODE": code}) == ("pass", "")  # of one helper, all is as ever


def test_sudo_goes_by_its_parent_and_not_by_what_it_calls_ssh(daemon: Textgated, gateway: FakeGatewayAPI) -> None:
    sudo = fields(service="sudo", PAM_TTY="/dev/pts/1")
    daemon.ask("begin", sudo)
    code = gateway.last_code(PHONE)
    assert daemon.ask("check", sudo | {"CODE": code, "PPID": "101"})[0] == "deny"
    assert daemon.ask("check", sudo | {"CODE": code, "PPID_START": "1001"})[0] == "deny"
    assert daemon.ask("check", sudo | {"CODE": code, "SSH_CONNECTION": "192.0.2.9 1 192.0.2.2 22"}) == ("pass", "")


def test_unknown_user_sees_what_everybody_sees(daemon: Textgated, gateway: FakeGatewayAPI) -> None:
    assert daemon.ask("begin", user="nosuchuser") == ("ask", texts.SENT)
    assert daemon.check("123456", user="nosuchuser") == ("deny", texts.WRONG)
    assert gateway.accepted == []
    assert "nosuchuser" not in daemon.text()


def test_many_logins_at_once_are_all_answered(daemon: Textgated, gateway: FakeGatewayAPI) -> None:
    barrier = threading.Barrier(12)
    answers: list[Answer] = []

    def log_in(number: int) -> None:
        barrier.wait(WITHIN_S)
        answers.append(daemon.ask("begin", port=51000 + number // 3))

    threads = [threading.Thread(target=log_in, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN_S)
    assert [word for word, _ in answers] == ["ask"] * 12
    assert len(gateway.accepted) == 4  # one for each session


# --- Enrolment ---


def test_enrolment_proves_the_number_before_it_counts(place: Place, gateway: FakeGatewayAPI) -> None:
    number = {"user": "mail", "number": "+45 40 12 34 56"}
    with place.run() as daemon:
        begun = daemon.admin("prove-begin", **number)["result"]
        assert (begun["user"], begun["phone"], begun["text"]) == ("mail", "•• 56", texts.SENT)
        code = gateway.last_code("4540123456")
        proof = number | {"session_id": begun["session_id"]}
        wrong = daemon.admin("prove-check", **proof, code="12345x")["result"]
        assert wrong == {"is_proved": False, "text": texts.WRONG}
        other = number | {"number": f"+{PHONE}", "session_id": begun["session_id"], "code": code}
        assert daemon.admin("prove-check", **other)["result"]["is_proved"] is False  # proves no other number
        assert daemon.admin("prove-check", **(proof | {"user": "news"}), code=code)["result"]["is_proved"] is False
        assert daemon.admin("prove-check", **proof, code=code)["result"]["is_proved"] is True
        assert daemon.admin("prove-check", **proof, code=code)["result"]["is_proved"] is False  # once
        assert place.phones.read_text().count("4012") == 0  # the daemon writes nothing; the command does
        assert "4540123456" not in daemon.text()
        assert code not in daemon.text()


def test_enrolment_has_the_limits_of_a_login(place: Place, gateway: FakeGatewayAPI) -> None:
    place.configure(limits={"sends_per_15_minutes": 3, "wrong_in_a_row": 3})
    with place.run() as daemon:
        number = {"user": "mail", "number": "+4540123456"}
        for _ in range(3):
            begun = daemon.admin("prove-begin", **number)["result"]
        throttled = daemon.admin("prove-begin", **number)["error"]
        assert throttled["kind"] == "refused"
        assert throttled["message"].startswith("No login code was texted")
        assert len(gateway.accepted) == 3
        for _ in range(3):
            last = daemon.admin("prove-check", **number, session_id=begun["session_id"], code="wrong")["result"]
        assert last["text"].startswith("Too many wrong codes in a row")
        right = gateway.last_code("4540123456")
        assert not daemon.admin("prove-check", **number, session_id=begun["session_id"], code=right)["result"][
            "is_proved"
        ]
        daemon.admin("unlock", user="mail")
        assert daemon.admin("prove-begin", **number)["ok"] is True


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"user": "nosuchuser"}, "refused", "no such user on this machine"),
        ({"number": "+46701234567"}, "refused", "texts to SE are not allowed"),
        ({"number": "12"}, "usage", "the phone number has no country code"),
        ({"number": "+1"}, "usage", "the phone number"),
        ({"user": "\ud800"}, "protocol", "request refused: argument_user"),
        ({"number": "x" * 65}, "protocol", "request refused: argument_number"),
        ({"user": ""}, "protocol", "request refused: argument_user"),
        ({"user": ["mail"]}, "protocol", "request refused: argument_user"),
        ({"more": "x"}, "protocol", "request refused: arguments"),
    ],
)
def test_enrolment_of_what_cannot_be_is_refused(
    daemon: Textgated, gateway: FakeGatewayAPI, changes: dict[str, Any], kind: str, words: str
) -> None:
    arguments: dict[str, Any] = {"user": "mail", "number": "+4540123456"} | changes
    error = daemon.admin("prove-begin", **arguments)["error"]
    assert error["kind"] == kind
    assert words in error["message"]
    assert gateway.accepted == []


def test_gateway_that_refuses_is_told_at_enrolment(daemon: Textgated, gateway: FakeGatewayAPI) -> None:
    gateway.inject("credit", count=None)
    error = daemon.admin("prove-begin", user="mail", number="+4540123456")["error"]
    assert (error["kind"], error["message"]) == ("refused", texts.NOT_SENT.rstrip("."))
    error = daemon.admin("send-test", number="+4540123456")["error"]
    assert error["kind"] == "refused"
    assert "credit" in error["message"]


def test_recovery_codes_are_shown_once_and_let_in_once(daemon: Textgated) -> None:
    made = daemon.admin("recovery", user=USER)["result"]
    assert made["user"] == USER
    assert len(set(made["codes"])) == 10
    assert daemon.check(made["codes"][3]) == ("pass", "")
    assert daemon.check(made["codes"][3])[0] == "deny"
    assert daemon.check(made["codes"][4], user=OTHER_USER)[0] == "deny"
    assert not any(code in daemon.text() for code in made["codes"])


# --- Requests that break a rule ---

BROKEN = [
    (b"", "version"),
    (b"GET / HTTP/1.1\r\n\r\n", "version"),
    (b"\xff\xfe\x00", "not_utf8"),
    (b"textgate/2 begin", "version"),
    (b"textgate/1 open", "verb"),
    (b"textgate/1 begin", "no_user"),
    (b"textgate/1 begin\0", "field_form"),
    (b"textgate/1 begin\0PAM_USER=a\0PAM_USER=root", "field_twice"),
    (b"textgate/1 begin\0HOME=/", "field_unknown"),
    (request("check", fields()), "code_missing"),
    (request("begin", fields() | {"CODE": "123456"}), "code_unexpected"),
    (request("begin", fields() | {"PAM_TYPE": "account"}), "pam_type"),
    (request("begin", {k: v for k, v in fields().items() if k != "PAM_TYPE"}), "pam_type"),
    (request("check", fields() | {"CODE": "1", "PAM_TYPE": "open_session"}), "pam_type"),
    (request("begin", fields() | {"PAM_SERVICE": "../x"}), "bad_service"),
    (request("begin", fields() | {"PPID": "0"}), "bad_ppid"),
    (request("begin", {k: v for k, v in fields().items() if k != "PPID_START"}), "no_ppid_start"),
    (b"x" * (REQUEST_MAX_BYTES + 1), "too_long"),
    (b"\0" * (REQUEST_MAX_BYTES * 3), "too_long"),
]


@pytest.mark.parametrize(("data", "reason"), BROKEN, ids=[f"{at}-{reason}" for at, (_, reason) in enumerate(BROKEN)])
def test_request_that_breaks_a_rule_is_denied_with_a_sentence(
    daemon: Textgated, gateway: FakeGatewayAPI, data: bytes, reason: str
) -> None:
    before = len(daemon.find("protocol", reason=reason))
    with Peer(daemon.place.auth) as peer:
        assert peer.send(data).end().answer() == ("deny", texts.INTERNAL)
    daemon.wait_event("protocol", before + 1, reason=reason)
    assert gateway.accepted == []


@pytest.mark.parametrize("sent", [b"", b"textgate/1 begin", request("begin", fields())])
def test_peer_that_does_not_end_its_request_is_denied(daemon: Textgated, sent: bytes) -> None:
    before = len(daemon.find("protocol", reason="too_slow"))
    with Peer(daemon.place.auth) as peer:
        assert peer.send(sent).answer() == ("deny", texts.INTERNAL)
    daemon.wait_event("protocol", before + 1, reason="too_slow")


def test_peer_that_sends_drop_by_drop_does_not_get_more_time(daemon: Textgated) -> None:
    """The time is for the whole request: a byte now and then must not keep a worker for ever."""
    before = len(daemon.find("protocol", reason="too_slow"))
    stopped = threading.Event()

    def drip(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not stopped.wait(0.02):
                connection.send(b"x")

    with Peer(daemon.place.auth) as peer:
        dripper = threading.Thread(target=drip, args=(peer.socket,))
        dripper.start()
        daemon.wait_event("protocol", before + 1, reason="too_slow")
        stopped.set()
        dripper.join(WITHIN_S)


def test_peer_that_goes_away_leaves_the_daemon_well(daemon: Textgated) -> None:
    for _ in range(30):
        with Peer(daemon.place.auth) as peer:
            peer.send(b"textgate/1 begin")
        Peer(daemon.place.auth).close()
    assert daemon.ask_until_free() == ("ask", texts.SENT)


def test_denials_are_counted(daemon: Textgated) -> None:
    before = daemon.admin("status")["result"]["counts"]
    daemon.raw(b"junk").answer()
    daemon.ask("begin")
    daemon.check("wrong")
    after = daemon.admin("status")["result"]["counts"]
    grown = {name: after[name] - before.get(name, 0) for name in ("protocol_error", "reply_deny", "reply_ask")}
    assert grown == {"protocol_error": 1, "reply_deny": 2, "reply_ask": 1}


# --- Who may call ---

AS_NOBODY = textwrap.dedent("""
    # Speaks to a socket as another user: path, groups, then the bytes on standard input.
    import os, socket, sys
    groups = [int(n) for n in sys.argv[2].split(",") if n]
    os.setgroups(groups); os.setgid(groups[0] if groups else 65534); os.setuid(65534)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(20)
        connection.connect(sys.argv[1])
        try:
            connection.sendall(sys.stdin.buffer.read())
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was answered before all was sent
        while chunk := connection.recv(65536):
            sys.stdout.buffer.write(chunk)
""")


def as_nobody(path: Path, data: bytes, groups: Sequence[int] = ()) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-I", "-S", "-c", AS_NOBODY, str(path), ",".join(str(group) for group in groups)]
    return subprocess.run(argv, input=data, capture_output=True, check=False, timeout=WITHIN_S, cwd="/")


def test_sockets_have_their_modes(daemon: Textgated) -> None:
    auth, admin = daemon.place.auth.stat(), daemon.place.admin.stat()
    assert stat.S_ISSOCK(auth.st_mode)
    assert (stat.S_IMODE(auth.st_mode), auth.st_uid) == (0o600, 0)
    assert (stat.S_IMODE(admin.st_mode), admin.st_uid, admin.st_gid) == (0o660, 0, 1)  # the group of `configure`


def test_other_users_cannot_even_connect(place: Place) -> None:
    with place.run():
        for path in (place.auth, place.admin):
            done = as_nobody(path, request("begin", fields()))
            assert b"PermissionError" in done.stderr
            assert done.stdout == b""


def test_peer_that_is_not_root_is_denied_whatever_the_mode(place: Place, gateway: FakeGatewayAPI) -> None:
    with place.run() as daemon:
        place.auth.chmod(0o666)
        done = as_nobody(place.auth, request("begin", fields()))
        assert done.stdout.decode() == f"deny\n{texts.INTERNAL}"
        assert daemon.wait_event("protocol", reason="peer")["TEXTGATE_UID"] == str(NOBODY_UID)
        assert gateway.accepted == []
        daemon.ask("begin")
        code = gateway.last_code(PHONE)
        done = as_nobody(place.auth, request("check", fields() | {"CODE": code}))
        assert done.stdout.startswith(b"deny\n")
        assert daemon.check(code) == ("pass", "")  # nothing of it was used up


def test_admin_group_may_do_what_the_table_says_and_no_more(place: Place, gateway: FakeGatewayAPI) -> None:
    def ask(verb: str, **arguments: str) -> dict[str, Any]:
        line = json.dumps({"v": 1, "verb": verb, **arguments}).encode() + b"\n"
        return json.loads(as_nobody(place.admin, line, groups=[1]).stdout)  # type: ignore[no-any-return]

    with place.run() as daemon:
        assert ask("status")["ok"] is True
        assert ask("unlock", user=USER)["ok"] is True
        for verb, arguments in (
            ("send-test", {"number": f"+{PHONE}"}),
            ("prove-begin", {"user": USER, "number": f"+{PHONE}"}),
            ("prove-check", {"user": USER, "number": f"+{PHONE}", "session_id": "x", "code": "1"}),
            ("recovery", {"user": USER}),
        ):
            answer = ask(verb, **arguments)
            assert (answer["ok"], answer["error"]["kind"]) == (False, "forbidden"), verb
            assert daemon.wait_event("admin", verb=verb)["TEXTGATE_REASON"] == "not_root"
        assert gateway.accepted == []


# --- Load ---


def test_overload_is_an_honest_denial_at_once(place: Place, redis_server: PrivateRedis) -> None:
    """One worker waits for Redis, one waits in line: the next one is told at once, and the two get answers."""
    place.configure(daemon={"workers": 1, "queue": 1}, store={"timeout_s": 20})
    with place.run() as daemon:
        redis_server.pause()
        first = daemon.start("begin", port=50001)
        second = daemon.start("begin", port=50002)
        for number in range(20):
            assert daemon.ask("begin", port=50003 + number) == ("deny", texts.BUSY)
        redis_server.resume()
        assert first.answer() == ("ask", texts.SENT)
        assert second.answer() == ("ask", texts.SENT)
        assert daemon.admin("status")["result"]["counts"]["overload"] == 20
        assert daemon.ask_until_free(port=50099)[0] == "ask"


def test_logins_that_wait_for_the_gateway_keep_no_worker(place: Place, gateway: FakeGatewayAPI) -> None:
    place.configure(daemon={"workers": 1, "queue": 8}, **SLOW)
    with place.run() as daemon, held_gateway(gateway) as wait_reached:
        waiting = []
        for number in range(5):
            waiting.append(daemon.start("begin", port=50001 + number))
            wait_reached()
            assert daemon.check("123456", port=60000) == ("deny", texts.NONE_WAITING)  # the worker is free
        gateway.clear_faults()
        assert [peer.answer() for peer in waiting] == [("ask", texts.SENT)] * 5


@pytest.mark.parametrize(
    ("verb", "line"), [("check", "check"), ("begin", "begin"), ("checks", "begin"), ("", "begin")]
)
def test_code_that_was_typed_is_not_kept_waiting_by_logins_that_begin(verb: str, line: str) -> None:
    """Unit of the server: each kind has workers of its own."""
    from textgate import server as server_module

    taken: list[str] = []

    class Line:
        def __init__(self, name: str) -> None:
            self.name = name

        def submit(self, _job: object) -> object:
            taken.append(self.name)
            return object()

    server: Any = object.__new__(server_module.Server)
    server._workers, server._checkers = Line("begin"), Line("check")
    server._take_request(None, request(verb, fields()), 0.0)
    assert taken == [line]


# --- Peers that say nothing, or not all ---


def test_thousand_idle_connections_keep_nobody_out(place: Place, gateway: FakeGatewayAPI) -> None:
    """A helper that is broken, or sshd under a flood: they are root's, and take no worker all the same."""
    place.configure(daemon={"read_timeout_s": 30})
    with place.run() as daemon, contextlib.ExitStack() as held:
        idle = [held.enter_context(Peer(place.auth)) for _ in range(500)]
        idle += [held.enter_context(Peer(place.auth)).send(b"textgate/1 begin\0PAM_") for _ in range(500)]
        began_at = time.monotonic()
        assert daemon.ask("begin") == ("ask", texts.SENT)
        assert daemon.check(gateway.last_code(PHONE)) == ("pass", "")
        assert time.monotonic() - began_at < 5
        assert idle[0].answer() == ("deny", texts.INTERNAL)  # the oldest had to go
        assert idle[-1].send(b"USER=").end().answer() == ("deny", texts.INTERNAL)  # and the newest was heard out
        daemon.wait_event("protocol", reason="no_user")


def test_stop_hears_out_who_is_in_the_middle_of_a_request(place: Place) -> None:
    place.configure(daemon={"read_timeout_s": 10})
    with place.run() as daemon:
        whole = request("begin", fields())
        peer = Peer(place.auth).send(whole[:20])
        assert daemon.ask("begin", port=50002)[0] == "ask"  # so the first one is accepted
        daemon.signal(signal.SIGTERM)
        daemon.wait(lambda: daemon.said("stopping"), "the stop")
        assert peer.send(whole[20:]).end().answer() == ("ask", texts.SENT)


def test_request_whose_helper_has_gone_texts_nobody(
    place: Place, gateway: FakeGatewayAPI, redis_server: PrivateRedis
) -> None:
    place.configure(daemon={"workers": 1, "queue": 1}, store={"timeout_s": 20})
    with place.run() as daemon:
        redis_server.pause()
        first = daemon.start("begin", port=50001)
        daemon.start("begin", port=50002).close()
        redis_server.resume()
        assert first.answer() == ("ask", texts.SENT)
        daemon.wait_event("protocol", reason="gone")
        assert len(gateway.accepted) == 1


def test_daemon_without_a_free_descriptor_recovers(place: Place) -> None:
    with place.run() as daemon:
        assert daemon.ask("begin")[0] == "ask"
        used = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
        limit = used + 6
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        peers = [Peer(place.auth) for _ in range(40)]
        daemon.wait(lambda: daemon.said("can't accept"), "complaint")
        for peer in peers:
            peer.close()
        assert daemon.ask_until_free(port=50001)[0] == "ask"  # under the same limit


def test_redis_that_is_not_there_yet_is_a_denial_until_it_is(place: Place, redis_server: PrivateRedis) -> None:
    redis_server.stop()
    with place.run() as daemon:
        assert daemon.ask("begin") == ("deny", texts.STORE_AWAY)
        assert daemon.check("123456") == ("deny", texts.STORE_AWAY)
        assert daemon.admin("status")["result"]["store"]["is_up"] is False
        redis_server.start()
        assert daemon.ask("begin") == ("ask", texts.SENT)


def test_login_by_failmode_is_no_right_code(place: Place, redis_server: PrivateRedis) -> None:
    """`textgate pam try` would take it for a proof that codes work."""
    place.configure(failmode={"store": "safe", "safe_services": ["sshd"], "away_after_s": 5})
    with place.run() as daemon:
        redis_server.stop()
        try:
            assert daemon.check("123456") == ("deny", texts.STORE_AWAY)  # it may be back in a second
            daemon.wait_event("fault", reason="absent")
            assert daemon.check("123456") == ("pass", "")
        finally:
            redis_server.start()
        assert daemon.admin("last-pass", service="sshd")["result"] == {"at": None}


def test_right_code_of_a_login_is_told_and_that_of_a_login_test_is_not(place: Place, gateway: FakeGatewayAPI) -> None:
    """It would make a try of `textgate pam` firm that keeps everybody out."""
    with place.run() as daemon:
        for tty, is_told in ((LOGIN_TEST_TTY, False), ("", True)):
            assert daemon.ask("begin", service="sudo", PAM_TTY=tty) == ("ask", texts.SENT)
            assert daemon.check(gateway.last_code(PHONE), service="sudo", PAM_TTY=tty) == ("pass", "")
            assert (daemon.admin("last-pass", service="sudo")["result"]["at"] is not None) is is_told
        assert daemon.admin("last-pass", service="sshd")["result"] == {"at": None}


# --- Stop, start, reload ---


def test_sigterm_finishes_the_login_under_way(place: Place, gateway: FakeGatewayAPI) -> None:
    place.configure(**SLOW)
    with place.run() as daemon, held_gateway(gateway) as wait_reached:
        under_way = daemon.start("begin")
        wait_reached()
        daemon.signal(signal.SIGTERM)
        stopping = daemon.wait_event("service", under_way="1")
        assert stopping["MESSAGE"].startswith("stopping")
        daemon.signal(signal.SIGTERM)  # a second one cuts nothing off
        gateway.clear_faults()
        assert under_way.answer() == ("ask", texts.SENT)
        assert daemon.exit_code() == 0
    assert daemon.notices[-1] == "STOPPING=1"
    assert not place.auth.exists()
    assert not place.admin.exists()
    with place.run() as daemon:
        assert daemon.check(gateway.last_code(PHONE)) == ("pass", "")


def test_stop_does_not_wait_for_ever(place: Place, gateway: FakeGatewayAPI) -> None:
    place.configure(daemon={"stop_timeout_s": 1}, **SLOW)
    with place.run() as daemon, held_gateway(gateway) as wait_reached:
        under_way = daemon.start("begin")
        wait_reached()
        daemon.signal(signal.SIGTERM)
        assert daemon.exit_code() == 1
        assert under_way.answer()[0] != "ask"


def test_stop_does_not_wait_for_commands_that_ask_nothing(place: Place) -> None:
    place.configure(daemon={"stop_timeout_s": 5})
    with place.run() as daemon, contextlib.ExitStack() as stack:
        for _ in range(8):  # twice as many as are served at the same time
            stack.enter_context(Peer(place.admin))
        asking = stack.enter_context(Peer(place.admin))
        asking.send(b'{"v": 1, "verb": "last-pass", "service": "sshd"}\n')
        daemon.ask("begin")  # whoever came before is in line by now
        daemon.signal(signal.SIGTERM)
        assert json.loads(asking.socket.makefile("rb").readline())["ok"] is True
        assert daemon.exit_code() == 0


def test_sigint_stops_in_order(place: Place) -> None:
    with place.run() as daemon:
        daemon.signal(signal.SIGINT)
        assert daemon.exit_code() == 0
        assert daemon.said("stopped")


def test_dead_socket_is_replaced(place: Place) -> None:
    with place.run() as daemon:
        daemon.process.kill()
        daemon.exit_code()
    assert place.auth.exists()
    with place.run() as daemon:
        assert daemon.ask("begin")[0] == "ask"


def test_second_daemon_refuses_and_the_first_goes_on(place: Place) -> None:
    with place.run() as first:
        with place.run(is_ready=False) as second:
            assert second.exit_code() == 1
            assert f"textgated: error: {place.auth}: another textgated listens here\n" in second.lines
            assert "hint: stop it first\n" in second.lines
        assert first.ask("begin")[0] == "ask"


def test_file_in_the_sockets_place_is_not_removed(place: Place) -> None:
    place.write("auth.sock", "precious")
    with place.run(is_ready=False) as daemon:
        assert daemon.exit_code() == 1
    assert "can't listen" in daemon.text()
    assert place.auth.read_text() == "precious"


def test_missing_folder_of_a_socket_is_said(place: Place) -> None:
    place.configure(daemon={"auth_socket": str(place.folder / "nowhere" / "auth.sock")})
    with place.run(is_ready=False) as daemon:
        assert daemon.exit_code() == 1
    assert "nowhere/auth.sock: can't listen: No such file or directory" in daemon.text()


def test_reload_takes_a_good_file_over(place: Place, gateway: FakeGatewayAPI) -> None:
    with place.run() as daemon:
        daemon.ask("begin")
        place.configure(codes={"digits": 8}, refused={"users": [OTHER_USER]})
        daemon.signal(signal.SIGHUP)
        daemon.wait(lambda: daemon.said("reloaded"), "reload")
        assert daemon.check(gateway.last_code(PHONE))[0] == "deny"  # six digits no longer make a code
        daemon.ask("begin", port=50001)
        code = gateway.last_code(PHONE)
        assert len(code) == 8
        assert daemon.check(code, port=50001) == ("pass", "")
        daemon.ask("begin", user=OTHER_USER)
        assert gateway.texts_to(OTHER_PHONE) == []
        reloading = [n.partition("=")[0] for n in daemon.notices if n.startswith(("RELOADING", "MONOTONIC", "READY"))]
        assert reloading == ["READY", "RELOADING", "MONOTONIC_USEC", "READY"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda place: place.configure(limits={"wrong_in_a_row": 0}),
            "[limits] wrong_in_a_row: must be a whole number",
        ),
        (lambda place: place.config.write_text("[limits\n"), "not valid TOML"),
        (lambda place: place.config.unlink(), "can't be read: No such file or directory"),
        (lambda place: place.configure(store={"url": "redis://localhost/?nosuch=1"}), "[store] url"),
        (lambda place: place.configure(store={"url": "redis://localhost:notaport"}), "[store] url"),
        (lambda place: (place.folder / "vault-key").write_text("nothing good\n"), "vault-key: line 1 is not"),
        (lambda place: (place.folder / "gatewayapi-key").unlink(), "gatewayapi-key: no such file"),
    ],
    ids=["a bad value", "bad TOML", "no file", "a bad URL", "a bad port", "a bad vault key", "a missing credential"],
)
def test_reload_of_a_bad_file_keeps_the_old_one_and_says_why(
    place: Place, gateway: FakeGatewayAPI, spoil: Callable[[Place], Any], words: str
) -> None:
    with place.run() as daemon:
        daemon.ask("begin")
        spoil(place)
        daemon.signal(signal.SIGHUP)
        failed = daemon.wait(
            lambda: [entry for entry in list(daemon.events) if entry["MESSAGE"].startswith("reload failed")],
            "complaint",
        )
        assert words in failed[0]["TEXTGATE_REASON"]
        assert failed[0]["PRIORITY"] == "3"
        assert daemon.check(gateway.last_code(PHONE)) == ("pass", "")
        daemon.wait(lambda: daemon.notices.count("READY=1") == 2, "readiness")


def test_reload_does_not_cut_a_login_off(place: Place, gateway: FakeGatewayAPI) -> None:
    place.configure(**SLOW)
    with place.run() as daemon:
        with held_gateway(gateway) as wait_reached:
            under_way = daemon.start("begin")
            wait_reached()
            daemon.signal(signal.SIGHUP)
            daemon.wait(lambda: daemon.said("reloaded"), "reload")
            gateway.clear_faults()
            assert under_way.answer() == ("ask", texts.SENT)
        assert daemon.check(gateway.last_code(PHONE)) == ("pass", "")


def connections_to_gateway(daemon: Textgated, gateway: FakeGatewayAPI) -> int:
    """Those that the daemon has open, busy or idle."""
    port, of_daemon = int(gateway.url.rpartition(":")[2]), Path(f"/proc/{daemon.process.pid}")
    own = set()
    for link in (of_daemon / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            own.add(str(link.readlink()))
    rows = [line.split() for line in (of_daemon / "net" / "tcp").read_text().splitlines()[1:]]
    return sum(int(row[2].rpartition(":")[2], 16) == port and f"socket:[{row[9]}]" in own for row in rows)


def test_reload_leaves_no_idle_connection_to_the_gateway(place: Place, gateway: FakeGatewayAPI) -> None:
    """The service takes 40 from one address: those of before and after would not fit in together."""
    place.configure(**SLOW)  # the former parts are in use for as long
    with place.run() as daemon:
        daemon.ask("begin")
        assert connections_to_gateway(daemon, gateway) == 1
        daemon.signal(signal.SIGHUP)
        daemon.wait(lambda: daemon.said("reloaded"), "reload")
        assert connections_to_gateway(daemon, gateway) == 0
        assert daemon.check(gateway.last_code(PHONE)) == ("pass", "")


def test_reload_lets_go_of_the_connections_to_redis(
    place: Place, gateway: FakeGatewayAPI, redis_server: PrivateRedis
) -> None:
    def connections() -> set[str]:
        return {client["id"] for client in redis_server.client.client_list()}

    place.configure(gateway={"send_wait_s": 0})
    before = connections()
    with place.run() as daemon:
        daemon.ask("begin")
        former = connections() - before
        assert former
        daemon.signal(signal.SIGHUP)
        daemon.wait(lambda: daemon.said("reloaded"), "reload")
        for _ in range(1000):  # Redis hears of it when it hears of it
            daemon.ask("begin")
            if not former & connections():
                break
        assert not former & connections()


def test_changed_phone_needs_no_reload(place: Place, gateway: FakeGatewayAPI) -> None:
    with place.run() as daemon:
        daemon.ask("begin")
        place.write("phones", f"{USER}: +{OTHER_PHONE}\n", 0o640)
        assert daemon.check(gateway.last_code(PHONE))[0] == "deny"
        daemon.ask("begin", port=50001)
        assert daemon.check(gateway.last_code(OTHER_PHONE), port=50001) == ("pass", "")


# --- systemd ---


def test_watchdog_is_fed(place: Place) -> None:
    with place.run(environment={"WATCHDOG_USEC": "100000"}) as daemon:
        daemon.wait(lambda: daemon.notices.count("WATCHDOG=1") >= 3, "signs of life")


@pytest.mark.parametrize(
    "environment", [{}, {"WATCHDOG_USEC": "junk"}, {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}]
)
def test_watchdog_of_nobody_or_somebody_else_is_left_alone(place: Place, environment: dict[str, str]) -> None:
    with place.run(environment=environment) as daemon:
        assert daemon.ask("begin")[0] == "ask"
        daemon.signal(signal.SIGTERM)
        assert daemon.exit_code() == 0
    assert "WATCHDOG=1" not in daemon.notices


def _listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(16)
    return listener


def test_passed_sockets_are_served_and_outlive_the_daemon(place: Place, gateway: FakeGatewayAPI) -> None:
    with _listener(place.auth) as auth, _listener(place.admin) as admin:
        listeners = {"admin": admin, "auth": auth}  # names count, not the order
        with place.run(listeners=listeners) as daemon:
            assert daemon.ask("begin") == ("ask", texts.SENT)
            assert daemon.admin("status")["ok"] is True
            daemon.signal(signal.SIGTERM)
            assert daemon.exit_code() == 0
        assert place.auth.exists()
        code = gateway.last_code(PHONE)
        between = Peer(place.auth).send(request("check", fields() | {"CODE": code})).end()  # nobody serves it yet
        with place.run(listeners=listeners):
            assert between.answer() == ("pass", "")


@pytest.mark.parametrize("names", [("auth",), ("auth", "other"), ("x", "y"), ("auth", "auth2", "admin")])
def test_passed_sockets_of_other_names_are_refused(place: Place, names: tuple[str, ...]) -> None:
    with contextlib.ExitStack() as stack:
        listeners = {name: stack.enter_context(_listener(place.folder / f"{name}.sock")) for name in names}
        daemon = stack.enter_context(place.run(listeners=listeners, is_ready=False))
        assert daemon.exit_code() == 1
    assert "systemd passed other sockets than auth and admin" in daemon.text()
    assert "FileDescriptorName=" in daemon.text()


# --- When it can't start ---

FAULTS = [
    # what is wrong, exit code, what the message must name
    (lambda place: place.config.unlink(), 3, ["textgate.toml", "can't be read: No such file or directory"]),
    (lambda place: place.config.write_bytes(b"[limits]\n\xff"), 3, ["textgate.toml", "line 2 is not UTF-8"]),
    (lambda place: place.config.write_text("[limits]\nx = 1 2\n"), 3, ["textgate.toml", "not valid TOML", "line 2"]),
    (lambda place: place.configure(limit={"x": 1}), 3, ["textgate.toml", "[limit]", "did you mean limits?"]),
    (lambda place: place.configure(codes={"digits": 5}), 3, ["textgate.toml", "[codes] digits"]),
    (lambda place: place.configure(gateway={"send_wait_s": 9}), 3, ["textgate.toml", "[gateway] send_wait_s"]),
    (lambda place: (place.folder / "vault-key").unlink(), 3, ["vault-key: no such file"]),
    (lambda place: (place.folder / "vault-key").chmod(0o644), 3, ["vault-key: is open to other users"]),
    (lambda place: (place.folder / "vault-key").write_text("k1:short"), 3, ["vault-key: line 1"]),
    (lambda place: (place.folder / "gatewayapi-key").unlink(), 3, ["gatewayapi-key: no such file"]),
    (lambda place: (place.folder / "gatewayapi-secret").write_text("\n"), 3, ["gatewayapi-secret: is empty"]),
    (lambda place: (place.folder / "gatewayapi-key").write_text("two words"), 3, ["gateway's key is malformed"]),
    (lambda place: place.configure(store={"url": "redis://localhost:notaport"}), 3, ["textgate.toml", "[store] url"]),
    (
        lambda place: place.configure(codes={"digits": 5}, limits={"lockout_s": -1}),
        3,
        ["[codes] digits", "[limits] lockout_s"],  # every fault at once
    ),
]
FAULT_IDS = [f"{at}-{names[-1]}" for at, (_, _, names) in enumerate(FAULTS)]


@pytest.mark.parametrize(("spoil", "exit_code", "names"), FAULTS, ids=FAULT_IDS)
def test_daemon_that_cannot_start_says_what_and_where(
    place: Place, spoil: Callable[[Place], Any], exit_code: int, names: list[str]
) -> None:
    spoil(place)
    with place.run(is_ready=False) as daemon:
        assert daemon.exit_code() == exit_code
    told = [line for line in daemon.lines if line.startswith("textgated: error: ")]
    assert told
    for name in names:
        assert name in "".join(told)
    assert daemon.find("service")[0]["PRIORITY"] == "1"
    assert "Traceback" not in daemon.text()
    assert "5a5a" not in daemon.text()
    assert "READY=1" not in daemon.notices
    assert not place.auth.exists()


@pytest.mark.parametrize(("spoil", "exit_code", "names"), FAULTS, ids=FAULT_IDS)
def test_command_finds_the_same_faults(
    place: Place,
    spoil: Callable[[Place], Any],
    exit_code: int,
    names: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(place)
    with pytest.raises(SystemExit) as ended:
        command(["--config", str(place.config), "check-config"])
    said = capsys.readouterr()
    assert ended.value.code == exit_code
    for name in names:
        assert name in said.err
    assert all(line.startswith(("textgate: error: ", "hint: ")) for line in said.err.splitlines())
    assert "5a5a" not in said.err + said.out


def test_command_speaks_to_the_daemon(place: Place, gateway: FakeGatewayAPI) -> None:
    assert place.command("check-config").returncode == 0
    away = place.command("status")
    assert away.returncode == 4
    assert "textgated can't be reached" in away.stderr
    with place.run():
        status = place.command("status", "--json")
        assert status.returncode == 0
        assert json.loads(status.stdout)["store"]["is_up"] is True
        sent = place.command("send-test", f"+{PHONE}")
        assert sent.returncode == 0
        assert PHONE not in sent.stdout
        assert len(gateway.accepted) == 1


def test_systemds_credentials_go_before_the_files(place: Place) -> None:
    folder = place.folder / "credentials"
    folder.mkdir(mode=0o700)
    for name in NO_CREDENTIALS:
        (place.folder / name).rename(folder / name)
    with place.run(environment={"CREDENTIALS_DIRECTORY": str(folder)}) as daemon:
        assert daemon.ask("begin") == ("ask", texts.SENT)


def test_password_of_redis_comes_from_a_credential(place: Place, redis_server: PrivateRedis) -> None:
    folder = place.folder / "credentials"
    folder.mkdir(mode=0o700)
    (folder / "redis-password").write_text("hunter2\n")
    redis_server.client.config_set("requirepass", "hunter2")
    try:
        with place.run(environment={"CREDENTIALS_DIRECTORY": str(folder)}) as daemon:
            assert daemon.ask("begin") == ("ask", texts.SENT)
        with place.run() as daemon:
            assert daemon.ask("begin") == ("deny", texts.STORE_AWAY)
    finally:
        redis_server.client.execute_command("AUTH", "hunter2")
        redis_server.client.config_set("requirepass", "")


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["--version"], 0, "textgated "),
        (["--help"], 0, "Exit codes: 0 ended, 1 failed, 2 usage, 3 configuration."),
        (["--nosuch"], 2, "unrecognized arguments"),
        (["--log", "nowhere"], 2, "invalid choice"),
    ],
)
def test_command_line(arguments: list[str], exit_code: int, words: str) -> None:
    argv = [sys.executable, "-m", "textgate.server", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=WITHIN_S, env=_environment({}))
    assert done.returncode == exit_code
    assert words in " ".join((done.stdout + done.stderr).split())


def test_request_that_waited_too_long_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unit of the server: its helper is about to give up, so nothing is texted any more."""
    from textgate import server as server_module

    counted: list[str] = []
    server: Any = object.__new__(server_module.Server)
    server.counts = type("Counts", (), {"add": staticmethod(counted.append)})
    server._digest = type("Digest", (), {"event": staticmethod(lambda *_args, **_fields: None)})
    reply = server._start(None, b"", time.monotonic() - server_module.STALE_S - 0.1)
    assert (reply.word.value, reply.text) == ("deny", texts.BUSY)
    assert counted == ["overload"]


def test_fault_that_nobody_foresaw_is_a_denial_with_an_alert() -> None:
    """Unit of the server: whatever a step raises, its peer gets an answer."""
    from textgate import server as server_module

    class Broken:
        def begin_later(self, _session: object, _later: object) -> None:
            raise ZeroDivisionError("secret")

    counted: list[str] = []
    events: list[dict[str, Any]] = []
    server: Any = object.__new__(server_module.Server)
    server.counts = type("Counts", (), {"add": staticmethod(counted.append)})
    server._audit = type("Audit", (), {"event": staticmethod(lambda *_args, **fields: events.append(fields))})
    server._config = Config(path="test").daemon
    server._boot_id = ""
    server._services = type("Services", (), {"config": Config(path="test"), "verifier": Broken()})
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reply = server._start(ours, request("begin", fields()), time.monotonic())
    assert (reply.word.value, reply.text, counted) == ("deny", texts.INTERNAL, ["fault"])
    assert (events[0]["priority"], events[0]["reason"]) == (Priority.ALERT, "ZeroDivisionError")


def test_daemon_that_is_stuck_is_not_healthy() -> None:
    from textgate import server as server_module

    server: Any = object.__new__(server_module.Server)
    server._lock = threading.Lock()
    for age_s, is_healthy in ((None, True), (server_module.STUCK_S - 5, True), (server_module.STUCK_S + 1, False)):
        server._under_way = {} if age_s is None else {1: time.monotonic() - age_s, 2: time.monotonic()}
        assert server._is_healthy() is is_healthy


def test_daemon_stays_on_one_cpu(place: Place) -> None:
    """However many there are: Python uses one at a time, and its threads would only wake each other across them."""
    with place.run() as daemon:
        daemon.ask("begin")
        tasks = Path(f"/proc/{daemon.process.pid}/task").iterdir()
        allowed = {frozenset(os.sched_getaffinity(int(task.name))) for task in tasks}
        assert allowed == {frozenset({max(os.sched_getaffinity(0))})}
