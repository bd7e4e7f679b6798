# SPDX-License-Identifier: MIT
"""Something on textgated's socket that is not textgated: answers as told, or not at all, or kills who asks."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from .daemon import AUTH_SOCKET

LIMIT_S = 30.0
"""For one connection; a helper has gone long before."""

Behaviour = Callable[[socket.socket, int], None]
"""What is done with a connection after the request was read, and who asked (the helper's process id)."""


def says(answer: bytes) -> Behaviour:
    """Send these bytes and close."""
    return lambda connection, _pid: connection.sendall(answer)


def hangs(connection: socket.socket, _pid: int) -> None:
    """Say nothing until the helper has gone."""
    poll = select.poll()
    poll.register(connection, 0)
    poll.poll(LIMIT_S * 1000)


def says_and_hangs(answer: bytes) -> Behaviour:
    """Send these bytes and never close."""

    def behave(connection: socket.socket, pid: int) -> None:
        connection.sendall(answer)
        hangs(connection, pid)

    return behave


def drips(answer: bytes, interval_s: float) -> Behaviour:
    """Send byte by byte until the helper has gone."""

    def behave(connection: socket.socket, _pid: int) -> None:
        poll = select.poll()
        poll.register(connection, 0)
        for byte in answer:
            connection.sendall(bytes([byte]))
            if poll.poll(interval_s * 1000):
                return

    return behave


def kills(number: signal.Signals, answer: bytes = b"") -> Behaviour:
    """End the helper by a signal, after a part of an answer."""

    def behave(connection: socket.socket, pid: int) -> None:
        connection.sendall(answer)
        os.kill(pid, number)
        hangs(connection, pid)  # so that it dies by the signal and not by the end of the stream

    return behave


class ScriptedDaemon:
    """A context manager. The n-th connection meets the n-th behaviour, those after the last one the last again."""

    def __init__(self, *behaviours: Behaviour, path: Path = AUTH_SOCKET) -> None:
        self.requests: list[bytes] = []
        self._behaviours = behaviours
        self._path = path
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._serve, name="scripted-daemon")

    def __enter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        self._listener.bind(str(self._path))
        self._path.chmod(0o600)
        self._listener.listen(64)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join(LIMIT_S)
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(LIMIT_S)
                pid = int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), "little")
                request = b""
                while chunk := connection.recv(65536):
                    request += chunk
                behave = self._behaviours[min(len(self.requests), len(self._behaviours) - 1)]
                self.requests.append(request)
                behave(connection, pid)
