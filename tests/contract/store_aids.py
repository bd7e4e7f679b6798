# SPDX-License-Identifier: MIT
"""Clocks to order, backups of a Redis, and a Redis that lies: what the tests of the store's history need."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import redis

from fakes import START_MS
from private_redis import PrivateRedis
from textgate.store_clock import Hands


@dataclass
class FakeHands:
    """The clocks of one machine. `pass_ms` is time that goes by; `jump_ms` sets the wall clock and nothing else."""

    boot: str = "boot-1"
    monotonic_ms: int = 1_000
    wall_ms: int = START_MS

    @property
    def hands(self) -> Hands:
        """As the store's clock takes them, of the boot that is now."""
        return Hands(self.boot, lambda: self.monotonic_ms, lambda: self.wall_ms)

    def pass_ms(self, by_ms: int) -> None:
        """Time goes by."""
        self.monotonic_ms += by_ms
        self.wall_ms += by_ms

    def jump_ms(self, by_ms: int) -> None:
        """The wall clock is set."""
        self.wall_ms += by_ms

    def reboot(self, name: str) -> None:
        """A new start of the machine: the monotonic clock starts anew."""
        self.boot, self.monotonic_ms = name, 0


class Backup:
    """All that a Redis holds at a moment, to be put back later."""

    def __init__(self, server: PrivateRedis) -> None:
        self._raw = redis.Redis(unix_socket_path=str(server.socket_path))
        self._kept = {key: (self._raw.pttl(key), self._raw.dump(key)) for key in self._raw.scan_iter(count=1000)}

    def put_back(self) -> None:
        """As if the server had been stopped, its files replaced, and started."""
        self._raw.flushall()
        for key, (life_ms, dump) in self._kept.items():
            self._raw.restore(key, max(0, life_ms), dump)
        self._raw.close()


Lie = Callable[[Mapping[str, Any], Any, Callable[[], Any]], Any]
"""Named arguments of a script, its true answer, and a way to ask again -> the answer that is given."""


class LyingRedis:
    """A context manager: a socket that hands every command on to a Redis, and may change a script's answer.

    lies: by the name of an argument that only that script has: `is_anew` is begin, `phone_tags` without it take_try.
    """

    def __init__(self, folder: Path, server: PrivateRedis) -> None:
        self.url = f"unix://{folder}/lying.sock"
        self.lies: dict[str, Lie] = {}
        self.server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{folder}/lying.sock")
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept)
        self._talks: list[threading.Thread] = []
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for talk in self._talks:
            talk.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            talk = threading.Thread(target=self._talk, args=(connection,))
            self._talks.append(talk)
            talk.start()

    def _talk(self, connection: socket.socket) -> None:
        client = redis.Redis(unix_socket_path=str(self.server.socket_path))
        with connection, connection.makefile("rb") as lines, contextlib.suppress(OSError):
            while head := lines.readline():
                words = []
                for _ in range(int(head[1:])):
                    size = int(lines.readline()[1:])
                    words.append(lines.read(size + 2)[:-2])
                connection.sendall(self._answer(client, words))
        client.close()

    def _answer(self, client: Any, words: list[bytes]) -> bytes:
        def ask() -> Any:
            connection = client.connection_pool.get_connection("_")
            try:
                connection.send_command(*words)
                return connection.read_response()
            finally:
                client.connection_pool.release(connection)

        try:
            answer = ask()
        except redis.ResponseError as error:
            text = str(error)
            return b"-%b\r\n" % (("NOSCRIPT " if type(error).__name__ == "NoScriptError" else "ERR ") + text).encode()
        if words[0].upper() == b"EVALSHA":
            with contextlib.suppress(ValueError):
                arguments = json.loads(words[-1])
                for name, lie in self.lies.items():
                    if isinstance(arguments, dict) and name in arguments:
                        return _encoded(lie(arguments, answer, ask))
            if b"tick" in self.lies_for(words):
                return _encoded(self.lies["tick"]({}, answer, ask))
        return _encoded(answer)

    def lies_for(self, words: list[bytes]) -> tuple[bytes, ...]:
        """What a script without named arguments is called."""
        return (b"tick",) if b"textgate:store" in words and "tick" in self.lies else ()


def _encoded(value: Any) -> bytes:
    """A value in the form in which Redis says it (RESP 2)."""
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, bool | int):
        return b":%d\r\n" % value
    if isinstance(value, list | tuple):
        return b"*%d\r\n" % len(value) + b"".join(map(_encoded, value))
    data = value if isinstance(value, bytes) else str(value).encode()
    return b"$%d\r\n%b\r\n" % (len(data), data)
