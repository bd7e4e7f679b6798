# SPDX-License-Identifier: MIT
"""One HTTP exchange under one deadline, as a transport adapter for requests.

The adapter that comes with requests can't promise what a login needs, so this one stands in for it:
  - it knows for certain whether a byte of the request went out; an error before that may be tried again,
    an error after it must not be (the text may have been sent);
  - its deadline holds for connection, handshake, request, headers and body together: before every read the
    socket's timeout shrinks to what is left, so a server that drips bytes gains nothing by it. Only the name
    look-up can't be cut short; it is libc's, bounded by resolv.conf, and nothing is sent if it ends too late;
  - it caps headers and body, never repeats a request, and lets no variable of the environment (proxies,
    CA bundles, key logs) have a say.
Not for several threads at once: every thread works with an adapter of its own.
"""

from __future__ import annotations

import errno
import http.client
import io
import select
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import DEFAULT_CA_BUNDLE_PATH, BaseAdapter

from .away import AWAY_ERRNOS, is_absence
from .gateway_outcomes import SendReason
from .memory import clear_registers

SYSTEM_CA_FILE = "/etc/ssl/certs/ca-certificates.crt"  # Debian's ca-certificates
BODY_MAX_BYTES = 64 * 1024  # answers are a few hundred bytes
ANSWER_MAX_BYTES = BODY_MAX_BYTES + 64 * 1024  # status line, headers and chunk marks included
# A server may close an idle connection at the very moment a request is written to it; then nobody can tell
# whether the text went out. Servers' patience starts at 5 s (Apache), so connections are left before that.
REUSE_WITHIN_S = 3.0
_CUT_HANDSHAKES = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)  # no judgement on trust
# A wait that ends so much later than it was to is no word on the other end: this machine had no time for us.
LATE_S = 1.0
_BROKEN_OFF = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, *AWAY_ERRNOS})
_KEPT_HEADERS = ("Date", "Retry-After", "Content-Type")  # no Location: there is nothing to follow


class TransportFault(Exception):
    """The exchange broke. has_sent: a byte of the request may be out; status: of a cut answer, if it had one."""

    def __init__(self, reason: SendReason, *, has_sent: bool, status: int | None = None) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.has_sent = has_sent
        self.status = status


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """TLS 1.2 or newer, certificate and name checked against ca_file, by default the system's CAs.

    Made once and shared, as reading the CAs takes milliseconds. Not ssl.create_default_context, which
    writes session keys to a file that SSLKEYLOGFILE names. Raises OSError if the file can't be read or used.
    """
    if ca_file is None:
        ca_file = SYSTEM_CA_FILE if Path(SYSTEM_CA_FILE).exists() else DEFAULT_CA_BUNDLE_PATH
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(ca_file)
    return context


class DeadlineAdapter(BaseAdapter):
    """Holds at most one open connection. `begin` comes before each request; `has_sent` is about the last one."""

    def __init__(
        self,
        *,
        connect_timeout_s: float,
        read_timeout_s: float,
        tls: ssl.SSLContext,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.has_sent = False
        self._deadline_at = 0.0
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._tls = tls
        self._clock = clock
        self._connection: _Connection | None = None
        self._idle_since_at = 0.0

    def begin(self, deadline_at: float) -> None:
        """The next request must be over at deadline_at, by the adapter's clock."""
        self.has_sent = False
        self._deadline_at = deadline_at

    def send(self, request: requests.PreparedRequest, *_options: Any, **_named_options: Any) -> requests.Response:
        """One exchange: PreparedRequest -> Response with its whole body. Raises TransportFault.

        requests' options (time-outs, trust, proxies) change nothing here: all of that is fixed at the start.
        """
        connection = self._connection_to(request.url or "")
        is_reusable = False
        try:
            response, body = connection.exchange(request, self._deadline_at)
            is_reusable = not response.will_close
        finally:
            self.has_sent = connection.has_sent
            if is_reusable:
                self._connection, self._idle_since_at = connection, self._clock()
            else:
                self._connection = None
                connection.close()
        return _as_requests_response(request, response, body)

    def close(self) -> None:
        """Close the open connection, if there is one. The adapter stays usable."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close_if_stale(self) -> None:
        """Close the open connection if it has idled too long to be used again.

        Cheap, as it is asked of every idle connection after each exchange: no look at the socket here.
        """
        if self._connection is not None and not self._is_young():
            self.close()

    def _is_young(self) -> bool:
        return self._clock() - self._idle_since_at <= REUSE_WITHIN_S

    def _is_fresh(self, connection: _Connection) -> bool:
        return self._is_young() and connection.is_quiet()

    def _connection_to(self, url: str) -> _Connection:
        """The kept connection if it goes there and is fresh, else a new one, open."""
        parts = urlsplit(url)
        is_tls = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if is_tls else 80)
        kept = self._connection
        if kept is not None and kept.goes_to(host, port, is_tls) and self._is_fresh(kept):
            return kept
        self.close()
        connection = _Connection(
            host,
            port,
            tls=self._tls if is_tls else None,
            connect_timeout_s=self._connect_timeout_s,
            read_timeout_s=self._read_timeout_s,
            clock=self._clock,
        )
        connection.open(self._deadline_at)
        return connection


class _Connection(http.client.HTTPConnection):
    """One connection. What http.client reads and writes goes through a `_Wire`."""

    auto_open = 0  # never connect behind our back
    debuglevel = 0  # it would print headers

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None,
        connect_timeout_s: float,
        read_timeout_s: float,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(host, port)
        self.default_port = 80 if tls is None else 443  # else Host gets a port that the signature doesn't have
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._clock = clock
        self._wire: _Wire | None = None

    def goes_to(self, host: str, port: int, is_tls: bool) -> bool:
        return (self.host, self.port, self._tls is not None) == (host, port, is_tls)

    def is_quiet(self) -> bool:
        """Whether nothing came since the last answer: neither an end of stream nor unasked-for bytes."""
        return self._wire is not None and self._wire.is_quiet()

    @property
    def has_sent(self) -> bool:
        """Whether a byte of the last request may be out."""
        return self._wire is not None and self._wire.has_sent

    def open(self, deadline_at: float) -> None:
        """Look up, connect, shake hands. Raises TransportFault; nothing of a request is out then."""
        try:
            self._wire = _Wire(self._dial(deadline_at), self._clock, self._read_timeout_s)
        except socket.gaierror:
            raise TransportFault(SendReason.DNS, has_sent=False) from None
        except _NotOpened as fault:
            is_late = self._clock() >= deadline_at
            raise TransportFault(SendReason.DEADLINE if is_late else fault.reason, has_sent=False) from None
        except (OSError, ValueError):
            raise TransportFault(SendReason.SHORTAGE, has_sent=False) from None
        self.sock = self._wire

    def exchange(
        self, request: requests.PreparedRequest, deadline_at: float
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Write the request, read the whole answer. Raises TransportFault."""
        if self._wire is not None:
            self._wire.start(deadline_at)
        status: int | None = None
        try:
            self.request(request.method or "", request.path_url, body=request.body, headers=dict(request.headers))
            with self.getresponse() as response:
                status = response.status
                return response, _read_body(response)
        except TimeoutError:
            is_ours = self._wire is not None and self._wire.is_overdue()
            reason = SendReason.SHORTAGE if is_ours else SendReason.TIMEOUT
            reason = SendReason.DEADLINE if self._clock() >= deadline_at else reason
        except (http.client.IncompleteRead, *_CUT_HANDSHAKES):
            reason = SendReason.RESET
        except OSError as error:
            reason = _break_reason(error)
        except (http.client.HTTPException, ValueError, _TooLong):
            reason = SendReason.BAD_ANSWER if self.has_sent else SendReason.INTERNAL
        raise TransportFault(reason, has_sent=self.has_sent, status=status)

    def _dial(self, deadline_at: float) -> socket.socket:
        """A connected socket, TLS and all. Each address gets its share of the time, so that a dead one
        (IPv6 without a route, for one) leaves time for the next."""
        addresses = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        give_up_at = min(deadline_at, self._clock() + self._connect_timeout_s)
        found: set[SendReason] = set()
        for left, (family, kind, protocol, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
            wait_s = (give_up_at - self._clock()) / left
            began_at = self._clock()
            try:
                return self._connected(socket.socket(family, kind, protocol), address, wait_s, deadline_at)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT:  # this machine has no IPv6
                    continue
                longest_s = wait_s + (self._connect_timeout_s if self._tls else 0)
                is_overdue = self._clock() - began_at > max(0.0, longest_s) + LATE_S
                found.add(SendReason.SHORTAGE if is_overdue else _no_connection_reason(error))
        raise _NotOpened(next((reason for reason in _WORST_FIRST if reason in found), SendReason.SHORTAGE))

    def _connected(self, sock: socket.socket, address: Any, wait_s: float, deadline_at: float) -> socket.socket:
        """The socket connected, TLS and all, or closed. Raises OSError."""
        try:
            sock.settimeout(_positive(wait_s))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return self._shake_hands(sock, deadline_at)
        except ssl.SSLError as error:
            sock.close()
            if not isinstance(error, _CUT_HANDSHAKES):
                raise _NotOpened(SendReason.TLS) from None  # no other address of the host's is tried
            raise
        except OSError:
            sock.close()
            raise

    def _shake_hands(self, sock: socket.socket, deadline_at: float) -> socket.socket:
        if self._tls is None:
            return sock
        # Python holds one handshake to one timeout, however many packets it takes.
        sock.settimeout(min(self._connect_timeout_s, _positive(deadline_at - self._clock())))
        try:
            return self._tls.wrap_socket(sock, server_hostname=self.host)
        except TimeoutError:
            raise _Silence from None


class _Silence(OSError):
    """The other end took the connection, so it is there; but the handshake did not end in time."""


class _NotOpened(Exception):
    """No connection, and why."""

    def __init__(self, reason: SendReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


# Of several addresses the one that says least for the service being away decides.
_WORST_FIRST = (SendReason.SHORTAGE, SendReason.RESET, SendReason.TIMEOUT, SendReason.UNREACHABLE)


def _no_connection_reason(error: OSError) -> SendReason:
    """Why an address could not be connected to: the service is away by a positive list (away.py), else it is us."""
    if isinstance(error, _Silence):
        return SendReason.TIMEOUT
    if isinstance(error, TimeoutError) or is_absence(error):
        return SendReason.UNREACHABLE
    is_cut = isinstance(error, _CUT_HANDSHAKES) or error.errno in _BROKEN_OFF
    return SendReason.RESET if is_cut else SendReason.SHORTAGE


def _break_reason(error: OSError) -> SendReason:
    """Why an exchange broke. http.client's word for an answer that never began has no number."""
    if isinstance(error, ssl.SSLError):
        return SendReason.TLS
    is_broken_off = isinstance(error, ConnectionError) or error.errno in _BROKEN_OFF
    return SendReason.RESET if is_broken_off else SendReason.SHORTAGE


class _TooLong(Exception):
    """The answer is longer than any real one."""


class _Wire:
    """A connected socket as http.client sees it: every read and write under the deadline, reads counted."""

    def __init__(self, sock: socket.socket, clock: Callable[[], float], read_timeout_s: float) -> None:
        self._sock = sock
        self._clock = clock
        self._read_timeout_s = read_timeout_s
        self._deadline_at = 0.0
        self._read_bytes = 0
        self._armed_until_at = 0.0
        self.has_sent = False

    def start(self, deadline_at: float) -> None:
        """A new exchange begins."""
        self._deadline_at = deadline_at
        self._read_bytes = 0
        self.has_sent = False

    def is_quiet(self) -> bool:
        """Whether there is nothing to read, an end of the stream included."""
        if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
            return False
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return not poll.poll(0)

    def sendall(self, data: bytes) -> None:
        self._arm()
        self.has_sent = True  # before the call: an error in it may leave a part sent
        self._sock.sendall(data)
        clear_registers()  # the answer may be long in coming

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_WireReader(self, self._sock))

    def close(self) -> None:
        self._sock.close()

    def before_read(self) -> None:
        """Let the next read last no longer than allowed."""
        self._arm()

    def after_read(self, count: int) -> None:
        """Count what came. Raises _TooLong."""
        self._read_bytes += count
        if self._read_bytes > ANSWER_MAX_BYTES:
            raise _TooLong

    def is_overdue(self) -> bool:
        """Whether the last wait should have been over for a while: the time was lost here."""
        return self._clock() > self._armed_until_at + LATE_S

    def _arm(self) -> None:
        now_at = self._clock()
        wait_s = min(self._read_timeout_s, _positive(self._deadline_at - now_at))
        self._armed_until_at = now_at + wait_s
        self._sock.settimeout(wait_s)


class _WireReader(io.RawIOBase):
    """The reading side. Holds a reference of its own, as http.client closes the socket before it has read all."""

    def __init__(self, wire: _Wire, sock: socket.socket) -> None:
        super().__init__()
        self._wire = wire
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._wire.before_read()
        count = self._raw.readinto(buffer) or 0
        self._wire.after_read(count)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _positive(remaining_s: float) -> float:
    """remaining_s if there is any. Raises TimeoutError; a timeout of 0 would mean "don't wait", not "too late"."""
    if remaining_s <= 0:
        raise TimeoutError
    return remaining_s


def _read_body(response: http.client.HTTPResponse) -> bytes:
    """The whole body. Raises _TooLong, or IncompleteRead for one shorter than announced."""
    if (response.length or 0) > BODY_MAX_BYTES:
        raise _TooLong
    body = response.read(BODY_MAX_BYTES + 1)
    if len(body) > BODY_MAX_BYTES:
        raise _TooLong
    if response.length:  # what is still owed
        raise http.client.IncompleteRead(b"", response.length)
    return body


def _as_requests_response(
    request: requests.PreparedRequest, response: http.client.HTTPResponse, body: bytes
) -> requests.Response:
    answer = requests.Response()
    answer.status_code = response.status
    answer.request = request
    answer.url = request.url or ""
    answer.raw = io.BytesIO(body)
    for name in _KEPT_HEADERS:
        if (value := response.headers.get(name)) is not None:
            answer.headers[name] = value
    return answer
