# SPDX-License-Identifier: MIT
"""The admin socket's connections: one thread reads them all, and a request gets a worker once it is there as a whole.

So a connection that says nothing, or says it drop by drop, keeps nobody waiting: it costs a descriptor, and makes
room when others come (`admin_limits.to_close`). Root has workers of its own, and what needs no worker (`last-pass`)
is answered where it is read, however long everything else takes.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import selectors
import socket
import threading
import time
from dataclasses import dataclass, field

from . import admin, memory
from .admin_limits import OF_OTHERS, OF_ROOT, Held, to_close
from .audit import Event, Priority
from .dispatcher import Dispatcher
from .errors import ThrottledError
from .peercred import PeerCred, peer_credentials
from .verifier import told, where

IDLE_TIMEOUT_S = 10.0  # a command sends its requests at once; a person thinks in the command, not on the socket
SEND_TIMEOUT_S = 2.0  # an answer fits into the socket's buffer, unless its peer reads none
REQUESTS_MAX = 100  # on one connection
ACCEPTS_A_ROUND = 64  # then it is the turn of those who are connected
ROOT_THREADS, OTHER_THREADS = 4, 2
PAUSE_S = 0.05  # without a descriptor left


@dataclass(eq=False)
class _Line:
    """One connection. due_at: when it is closed unless it has sent a whole request."""

    socket: socket.socket
    peer: PeerCred
    due_at: float
    received: bytearray = field(default_factory=bytearray)
    has_ended: bool = False  # the peer sends no more
    is_busy: bool = False
    count: int = 0


class AdminDesk:
    """Serves a listening socket until it is closed. `start` once, `close` once."""

    def __init__(self, listener: socket.socket, daemon: admin.Daemon) -> None:
        self._listener = listener
        self._daemon = daemon
        self._of_root = Dispatcher(threads=ROOT_THREADS, waiting=OF_ROOT, name="admin-root")
        self._of_others = Dispatcher(threads=OTHER_THREADS, waiting=OF_OTHERS, name="admin")
        self._lines: dict[int, _Line] = {}
        self._answered: collections.deque[tuple[_Line, bool]] = collections.deque()
        self._wake, self._waker = socket.socketpair()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="admin-desk", daemon=True)
        for end in (self._wake, self._waker):
            end.setblocking(False)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def close(self) -> None:
        """Answer what was asked already, then let go of everybody; the listener is closed first."""
        self._is_closing = True
        self._rouse()
        if self._thread.ident is not None:
            self._thread.join()
        self._of_root.close()
        self._of_others.close()
        self._listener.close()
        self._wake.close()
        self._waker.close()

    # --- On the desk's own thread ---

    def _run(self) -> None:
        with selectors.DefaultSelector() as self._selector:
            self._selector.register(self._wake, selectors.EVENT_READ, self._take_back)
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
            while not self._is_closing:
                memory.clear_registers()
                for key, _ in self._selector.select(self._left_s()):
                    with contextlib.suppress(KeyError, ValueError):  # closed by what came before it in this round
                        self._selector.get_key(key.fd).data()
                self._close_overdue()
            self._end()

    def _end(self) -> None:
        self._selector.unregister(self._listener)
        self._listener.close()
        for line in list(self._lines.values()):
            if not line.is_busy:
                self._read(line)  # what has come is answered
            line.has_ended = True
            if not line.is_busy and line.socket.fileno() >= 0:
                self._drop(line)
        while self._lines:
            self._selector.select()
            self._take_back()

    def _left_s(self) -> float | None:
        due_at = min((line.due_at for line in self._lines.values() if not line.is_busy), default=None)
        return None if due_at is None else max(0.0, due_at - time.monotonic())

    def _close_overdue(self) -> None:
        now = time.monotonic()
        for line in list(self._lines.values()):
            if not line.is_busy and line.due_at <= now:
                self._drop(line)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_ROUND):
            try:
                connection, _address = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._daemon.digest.event(
                    Event.FAULT, "can't accept", priority=Priority.ALERT, reason=error.strerror or "unknown"
                )
                time.sleep(PAUSE_S)
                return
            self._welcome(connection)

    def _welcome(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            peer = peer_credentials(connection)
            crowded = to_close([self._held(line) for line in self._lines.values()], peer.uid)
        except OSError:
            connection.close()
            return
        except ThrottledError as error:
            self._daemon.counts.add("admin_throttled")
            with connection, contextlib.suppress(OSError):
                connection.send(_wire(admin.error_answer(error)))
            return
        if crowded is not None:
            self._drop(self._lines[crowded.name])
        line = _Line(connection, peer, time.monotonic() + IDLE_TIMEOUT_S)
        self._lines[connection.fileno()] = line
        self._watch(line)

    @staticmethod
    def _held(line: _Line) -> Held:
        return Held(line.socket.fileno(), line.peer.uid, line.is_busy, line.due_at)

    def _watch(self, line: _Line) -> None:
        self._selector.register(line.socket, selectors.EVENT_READ, functools.partial(self._read, line))

    def _drop(self, line: _Line) -> None:
        del self._lines[line.socket.fileno()]
        with contextlib.suppress(KeyError):
            self._selector.unregister(line.socket)
        line.socket.close()

    def _read(self, line: _Line) -> None:
        try:
            chunk = line.socket.recv(admin.LINE_MAX_BYTES + 1 - len(line.received))
        except BlockingIOError:
            return
        except OSError:
            self._drop(line)
            return
        line.received += chunk
        line.has_ended = not chunk
        self._next(line)

    def _next(self, line: _Line) -> None:
        """Go on with what a connection has sent: a request, or wait for more of it."""
        end = line.received.find(b"\n") + 1
        if not end and (line.has_ended or len(line.received) > admin.LINE_MAX_BYTES):
            end = len(line.received)  # in no form, as it will be told
            if not end:
                self._drop(line)
                return
        if not end:
            return
        request = bytes(line.received[:end])
        del line.received[:end]
        line.is_busy = True
        line.count += 1
        with contextlib.suppress(KeyError):
            self._selector.unregister(line.socket)
        job = functools.partial(self._answer, line, request)
        if line.peer.uid == 0 and admin.is_instant(request):
            job()
        elif (self._of_root if line.peer.uid == 0 else self._of_others).submit(job) is None:
            self._answered.append((line, False))  # closed: there are as many places as connections
            self._rouse()

    def _take_back(self) -> None:
        """Go on with the connections whose request was answered."""
        with contextlib.suppress(BlockingIOError):
            self._wake.recv(4096)
        while self._answered:
            line, is_usable = self._answered.popleft()
            line.is_busy = False
            if not is_usable or line.count >= REQUESTS_MAX:
                self._drop(line)
                continue
            line.due_at = time.monotonic() + IDLE_TIMEOUT_S
            line.socket.setblocking(False)
            if not line.has_ended:
                self._watch(line)
            self._next(line)

    def _rouse(self) -> None:
        with contextlib.suppress(BlockingIOError):  # then it is awake already
            self._waker.send(b"\0")

    # --- On a worker's thread ---

    def _answer(self, line: _Line, request: bytes) -> None:
        is_usable = False
        try:
            answer, is_usable = admin.answer(request, line.peer, self._daemon)
            line.socket.settimeout(SEND_TIMEOUT_S)
            line.socket.sendall(_wire(answer))
        except OSError:
            is_usable = False
        except Exception as error:
            self._daemon.audit.event(
                Event.FAULT, "admin request failed", priority=Priority.ERROR, reason=told(error), at=where(error)
            )
        finally:
            self._answered.append((line, is_usable))
            self._rouse()


def _wire(answer: dict[str, object]) -> bytes:
    return json.dumps({"v": admin.VERSION} | answer).encode() + b"\n"
