# SPDX-License-Identifier: MIT
"""Stands between textgated and Redis and spoils one command at a time: held, its answer lost, late or replaced.

textgated writes a command in one piece and waits for its answer, so the script that is run is known by the names of
its arguments in those bytes.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Self

from .people import DAEMON_USER
from .redis_server import SOCKET

PATH = Path("/run/textgate-redis/proxy.sock")
URL = f"unix://{PATH}"
LIMIT_S = 30.0


class Script(Enum):
    """A script of the store: what its call holds, and what it doesn't."""

    BEGIN = (b"is_anew", b"\0")
    SETTLE_SEND = (b"is_refused", b"\0")
    TAKE_TRY = (b"try_id", b"is_right")
    CONSUME = (b"is_right", b"\0")

    def is_called_by(self, command: bytes) -> bool:
        """Whether these bytes run it."""
        has, lacks = self.value
        return has in command and lacks not in command


@dataclass(eq=False)
class Spoil:
    """What happens to the calls of a script (None: to every command). left: to how many of them; None to all.

    is_held: Redis gets it only after `release`. answer: None lets it through, b"" closes instead, else in its place.
    """

    script: Script | None
    left: int | None = 1
    is_held: bool = False
    delay_s: float = 0.0
    answer: bytes | None = None
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def meets(self, command: bytes) -> bool:
        """Whether it is for this command."""
        return self.script is None or self.script.is_called_by(command)

    def wait_reached(self) -> None:
        """Wait until a command is met. Raises TimeoutError."""
        if not self.reached.wait(LIMIT_S):
            raise TimeoutError("no such command came")

    def release(self) -> None:
        """Let a held one go on."""
        self.released.set()


class RedisProxy:
    """A context manager that listens on PATH."""

    def __init__(self) -> None:
        self._spoils: list[Spoil] = []
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []

    def spoil(
        self,
        script: Script | None,
        *,
        count: int | None = 1,
        is_held: bool = False,
        delay_s: float = 0.0,
        answer: bytes | None = None,
    ) -> Spoil:
        """Spoil the next `count` calls of a script; see `Spoil`."""
        spoil = Spoil(script, count, is_held, delay_s, answer)
        with self._lock:
            self._spoils.append(spoil)
        return spoil

    def clear(self) -> None:
        """Spoil nothing more."""
        with self._lock:
            spoils, self._spoils = self._spoils, []
        for spoil in spoils:
            spoil.release()

    def __enter__(self) -> Self:
        PATH.unlink(missing_ok=True)
        self._listener.bind(str(PATH))
        shutil.chown(PATH, DAEMON_USER)
        PATH.chmod(0o700)
        self._listener.listen(256)
        self._run(self._accept)
        return self

    def __exit__(self, *_error: object) -> None:
        self.clear()
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LIMIT_S)
        self._listener.close()
        PATH.unlink(missing_ok=True)

    def _run(self, function: Callable[[], None]) -> None:
        thread = threading.Thread(target=function, name="redis-proxy")
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            upstream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                upstream.connect(str(SOCKET))
            except OSError:
                upstream.close()
                client.close()
                continue
            with self._lock:
                self._open |= {client, upstream}
            _Link(self, client, upstream).start()

    def take(self, request: bytes) -> Spoil | None:
        """The spoil for a command, its count lowered."""
        with self._lock:
            spoil = next((spoil for spoil in self._spoils if spoil.meets(request)), None)
            if spoil is not None and spoil.left is not None:
                spoil.left -= 1
                if spoil.left == 0:
                    self._spoils.remove(spoil)
            return spoil

    def start_thread(self, function: Callable[[], None]) -> None:
        """Run a part of a link."""
        self._run(function)

    def forget(self, *connections: socket.socket) -> None:
        """Close the two ends of a link."""
        with self._lock:
            self._open -= set(connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


class _Link:
    """One connection of textgated and the one to Redis behind it."""

    def __init__(self, proxy: RedisProxy, client: socket.socket, upstream: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._upstream = upstream
        self._spoil: Spoil | None = None

    def start(self) -> None:
        self._proxy.start_thread(self._down)
        self._proxy.start_thread(self._up)

    def _up(self) -> None:
        with contextlib.suppress(OSError):
            while request := self._client.recv(1 << 20):
                self._spoil = self._proxy.take(request)
                if self._spoil is not None:
                    self._spoil.reached.set()
                    if self._spoil.is_held:
                        self._spoil.released.wait(LIMIT_S)
                self._upstream.sendall(request)
        with contextlib.suppress(OSError):
            self._upstream.shutdown(socket.SHUT_RDWR)

    def _down(self) -> None:
        with contextlib.suppress(OSError):
            while answer := self._upstream.recv(1 << 20):
                spoil, self._spoil = self._spoil, None
                if spoil is not None:
                    time.sleep(spoil.delay_s)
                    answer = answer if spoil.answer is None else spoil.answer
                if not answer:
                    break
                self._client.sendall(answer)
        self._proxy.forget(self._client, self._upstream)
