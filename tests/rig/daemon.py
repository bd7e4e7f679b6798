# SPDX-License-Identifier: MIT
"""textgated as the package runs it: under its own user, with sockets that outlive it, and its events to look at.

The rig stands in for systemd: it holds the two listening sockets, so that a login may come while the daemon is
restarted, and hears the daemon's READY=1. What an administrator would write (configuration, phones, credentials)
is written by the functions named write_….
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .people import ADMIN_GROUP, DAEMON_USER, PEOPLE, Person, is_in_world
from .process import PROGRAM_PATH, TAIL_LINE_COUNT, Process, Program, RigError, run_as

PROGRAM = "/usr/sbin/textgated"
COMMAND = "/usr/bin/textgate"
CONFIG_PATH = Path("/etc/textgate/textgate.toml")
PHONES_PATH = Path("/etc/textgate/phones")
CREDENTIALS = Path("/etc/textgate/credentials")
AUTH_SOCKET = Path("/run/textgate/auth.sock")
ADMIN_SOCKET = Path("/run/textgate/admin.sock")
EVENT_WITHIN_S = 10.0

Values = Mapping[str, Mapping[str, object]]
"""Sections of the configuration, by name, with their keys."""


@dataclass(frozen=True)
class Event:
    """One line of the daemon's log. `event["user"]` is the journal's TEXTGATE_USER, "" if it isn't there."""

    kind: str
    message: str
    fields: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        return self.fields.get(f"TEXTGATE_{name.upper()}", "")

    def has(self, kind: str, wanted: Mapping[str, str]) -> bool:
        """Whether it is of this kind and has these values."""
        return self.kind == kind and all(self[name] == value for name, value in wanted.items())


class Daemon:
    """A context manager; `start`, `stop` and `kill` may follow each other as a test likes."""

    def __init__(self, *, is_socket_activated: bool = True, arguments: Sequence[str] = ()) -> None:
        """is_socket_activated: the rig makes the sockets; else the daemon does. arguments: for its command line."""
        self._is_socket_activated = is_socket_activated
        self._argv = (PROGRAM, *arguments)
        self._listeners: dict[str, socket.socket] = {}
        self._process: Process | None = None
        self._forgotten = 0

    @property
    def process(self) -> Process:
        """The running daemon, or the last one."""
        if self._process is None:
            raise RigError("textgated was not started")
        return self._process

    @property
    def is_running(self) -> bool:
        """Whether it is there."""
        return self._process is not None and self._process.is_running

    def start(self) -> Self:
        """Run it with what is configured now; ready when this returns."""
        if self._is_socket_activated and not self._listeners:
            self._listeners = {
                "auth": _listen(AUTH_SOCKET, 0o600, "root"),
                "admin": _listen(ADMIN_SOCKET, 0o660, ADMIN_GROUP),
            }
        self._forgotten = 0
        program = Program("textgated", self._argv, user=DAEMON_USER, listeners=self._listeners)
        self._process = Process.start(program)
        return self

    def stop(self) -> int:
        """SIGTERM; answers its exit code. Its sockets stay, as under systemd."""
        return self.process.stop()

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()

    def restart(self) -> None:
        """`stop`, `start`."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """It takes connections and answers nothing, until `resume`."""
        self.process.pause()

    def resume(self) -> None:
        """The end of `pause`."""
        self.process.resume()

    def reload(self) -> Event:
        """SIGHUP; answers the event that says how it went."""
        mark = len(self.process.lines)
        self.process.signal(signal.SIGHUP)
        return self._wait(mark, "service", {}, EVENT_WITHIN_S, lambda event: "reload" in event.message)

    def close(self) -> None:
        """End it and remove its sockets."""
        if self.is_running:
            self.stop()
        for listener in self._listeners.values():
            Path(listener.getsockname()).unlink(missing_ok=True)
            listener.close()
        self._listeners = {}

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_error: object) -> None:
        self.close()

    # --- Its log. ---

    @property
    def events(self) -> list[Event]:
        """All events since its start, or since `forget`, up to now."""
        self.process.catch_up()
        return list(_events(self.process.lines[self._forgotten :]))

    def find_events(self, kind: str, **wanted: str) -> list[Event]:
        """The events of a kind with these values, such as ("check", user="alice", result="pass")."""
        return [event for event in self.events if event.has(kind, wanted)]

    def wait_event(self, kind: str, *, within_s: float = EVENT_WITHIN_S, **wanted: str) -> Event:
        """The first such event, as soon as it is there. Raises RigError when it doesn't come."""
        return self._wait(self._forgotten, kind, wanted, within_s)

    def forget(self) -> None:
        """Let `events` and `wait_event` begin here: what was logged until now is past, however late it is read."""
        self.process.catch_up()
        self._forgotten = len(self.process.lines)

    def tail(self) -> str:
        """The last lines of its log, for the message of a failure."""
        lines = [] if self._process is None else self._process.lines[-TAIL_LINE_COUNT:]
        return "\n".join(f"    textgated: {_readable(line)}" for line in lines)

    def _wait(
        self, mark: int, kind: str, wanted: Mapping[str, str], within_s: float, accept: Any = lambda _event: True
    ) -> Event:
        def find() -> Event | None:
            found = (
                event for event in _events(self.process.lines[mark:]) if event.has(kind, wanted) and accept(event)
            )
            return next(found, None)

        return self.process.wait_for(find, within_s, f"event {kind} {dict(wanted)}")


def _events(lines: Sequence[str]) -> Iterator[Event]:
    for line in lines:
        with contextlib.suppress(ValueError):
            fields = json.loads(line)
            if isinstance(fields, dict) and "TEXTGATE_EVENT" in fields:
                yield Event(fields["TEXTGATE_EVENT"], fields.get("MESSAGE", ""), fields)


def _readable(line: str) -> str:
    """An event's kind and message; any other line as it is."""
    return next((f"{event.kind}: {event.message}" for event in _events([line])), line)


def _listen(path: Path, mode: int, group: str) -> socket.socket:
    """A socket as textgate's socket units make them."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    shutil.chown(path, "root", group)
    path.chmod(mode)
    listener.listen(1024)
    return listener


# --- What an administrator writes. ---


def write_config(gateway_url: str, values: Values | None = None) -> str:
    """Write /etc/textgate/textgate.toml; answers its text. values: go over the rig's own, section by section."""
    sections: dict[str, dict[str, object]] = {
        "gateway": {"url": gateway_url, "sender": "textgate"},
        "limits": {"allowed_countries": ["DK"]},
    }
    for section, keys in (values or {}).items():
        sections.setdefault(section, {}).update(keys)
    text = "".join(
        f"[{section}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in keys.items())
        for section, keys in sections.items()
    )
    _write(CONFIG_PATH, text, mode=0o644)
    return text


def write_phones(people: Sequence[Person] = PEOPLE, numbers: Mapping[str, str] | None = None) -> None:
    """Write /etc/textgate/phones. numbers: by name, in place of the people's own."""
    phones = {person.name: person.phone for person in people if person.phone is not None} | dict(numbers or {})
    text = "".join(f"{name}: {phone}\n" for name, phone in phones.items())
    _write(PHONES_PATH, text, mode=0o640, group=DAEMON_USER)


def write_credentials(key: str, secret: str, token: str | None = None) -> None:
    """Write what GatewayAPI gave the account, and a new vault key."""
    CREDENTIALS.mkdir(mode=0o700, exist_ok=True)
    shutil.chown(CREDENTIALS, DAEMON_USER, DAEMON_USER)
    write_credential("gatewayapi-key", key)
    write_credential("gatewayapi-secret", secret)
    if token is not None:
        write_credential("gatewayapi-token", token)
    write_vault_key()


def write_credential(name: str, value: str) -> None:
    """Write one credential, readable by the daemon alone."""
    _write(CREDENTIALS / name, f"{value}\n", mode=0o600, owner=DAEMON_USER)


def write_vault_key(name: str = "k1") -> None:
    """Write a vault key of 256 random bits in place of those that are there."""
    write_credential("vault-key", f"{name}:{secrets.token_hex(32)}")


def _write(path: Path, text: str, *, mode: int, owner: str = "root", group: str = "root") -> None:
    """Put a whole new file in the place of the old one."""
    if not is_in_world():
        raise RigError("configuration is changed in a private world only")
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    shutil.chown(new, owner, group)
    new.chmod(mode)
    new.replace(path)


def _toml(value: object) -> str:
    """A string, number, boolean or list of them as TOML, which writes these as JSON does."""
    return json.dumps(value, ensure_ascii=False)


# --- The command for people. ---


def textgate(*arguments: str, person: Person | None = None, given: str = "", within_s: float = 30) -> Answer:
    """Run `textgate --json …` and read its answer. person: who runs it; root if nobody."""
    front = [] if person is None else run_as(person.name)
    done = subprocess.run(
        [*front, COMMAND, "--json", *arguments],
        input=given, capture_output=True, text=True, timeout=within_s, cwd="/", check=False,
        env={"PATH": PROGRAM_PATH, "LANG": "C.UTF-8"},
    )  # fmt: skip
    return Answer(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Answer:
    """What a run of the command gave."""

    exit_code: int
    output: str
    error: str

    @property
    def data(self) -> Any:
        """The output as data. Raises RigError when it is no JSON."""
        try:
            return json.loads(self.output)
        except ValueError:
            raise RigError(f"no JSON: {self.output!r} {self.error!r}") from None
