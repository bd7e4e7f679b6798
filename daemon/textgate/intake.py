# SPDX-License-Identifier: MIT
"""Reads requests from the auth socket on the main thread, none of which can keep another one waiting.

A helper sends its whole request at once, so most are read as soon as they are accepted. A peer that sends nothing,
or drips, takes no worker: it waits here until it has said all, its time is over, or there are so many like it that
the one that has waited longest has to go. Workers get whole requests only.
"""

from __future__ import annotations

import select
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .errors import ProtocolError
from .protocol import REQUEST_MAX_BYTES

UNFINISHED_MAX = 512  # connections that have not said all; each holds at most REQUEST_MAX_BYTES


@dataclass
class _Unfinished:
    """A connection that is being read."""

    connection: socket.socket
    accepted_at: float
    received: bytearray = field(default_factory=bytearray)


class Intake:
    """Not for several threads. Its `fileno` is readable when `read` has something to do."""

    def __init__(
        self,
        *,
        timeout_s: float,
        on_request: Callable[[socket.socket, bytes, float], None],
        on_fault: Callable[[socket.socket, ProtocolError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """timeout_s: how long a peer may take for all of its request.

        on_request: gets a connection with its request and when it was accepted. on_fault: gets one whose peer broke a
        rule: too_slow, too_long, broken. Either has the connection from then on.
        """
        self._timeout_s = timeout_s
        self._on_request = on_request
        self._on_fault = on_fault
        self._clock = clock
        self._selector = selectors.EpollSelector()
        self._unfinished: dict[int, _Unfinished] = {}  # by descriptor, in the order in which they were accepted

    def fileno(self) -> int:
        """For a selector."""
        return self._selector.fileno()

    def add(self, connection: socket.socket) -> None:
        """Read what a new connection has to say."""
        connection.setblocking(False)
        one = _Unfinished(connection, self._clock())
        if self._read(one):
            return
        while len(self._unfinished) >= UNFINISHED_MAX:
            self._end(next(iter(self._unfinished.values())), "too_slow")
        self._unfinished[connection.fileno()] = one
        self._selector.register(connection, selectors.EVENT_READ)

    def read(self) -> None:
        """Read from all connections that have something to say."""
        for key, _ in self._selector.select(0):
            one = self._unfinished.get(key.fd)
            if one is not None:
                self._read(one, is_known=True)

    def expire(self) -> None:
        """End the connections whose time is over."""
        too_old_at = self._clock() - self._timeout_s
        for one in list(self._unfinished.values()):
            if one.accepted_at > too_old_at:
                return
            self._end(one, "too_slow")

    def wait_s(self) -> float | None:
        """How long until `expire` has something to do; None while nobody is waited for."""
        oldest = next(iter(self._unfinished.values()), None)
        return None if oldest is None else max(0.0, oldest.accepted_at + self._timeout_s - self._clock())

    def finish(self) -> None:
        """Read to the end what was begun, each within its time; then no connection is left here."""
        while (left_s := self.wait_s()) is not None:
            select.select([self._selector], [], [], left_s)
            self.read()
            self.expire()
        self._selector.close()

    def _read(self, one: _Unfinished, *, is_known: bool = False) -> bool:
        """Read what is there; True when the connection is no longer ours."""
        while True:
            try:
                chunk = one.connection.recv(REQUEST_MAX_BYTES + 1 - len(one.received))
            except BlockingIOError:
                return False
            except OSError:
                return self._hand_over(one, "broken", is_known=is_known)
            if not chunk:
                return self._hand_over(one, None, is_known=is_known)
            one.received += chunk
            if len(one.received) > REQUEST_MAX_BYTES:
                return self._hand_over(one, "too_long", is_known=is_known)

    def _end(self, one: _Unfinished, reason: str) -> None:
        self._hand_over(one, reason, is_known=True)

    def _hand_over(self, one: _Unfinished, reason: str | None, *, is_known: bool) -> bool:
        if is_known:
            del self._unfinished[one.connection.fileno()]
            self._selector.unregister(one.connection)
        if reason is None:
            self._on_request(one.connection, bytes(one.received), one.accepted_at)
        else:
            self._on_fault(one.connection, ProtocolError(reason))
        return True
