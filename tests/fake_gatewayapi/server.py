# SPDX-License-Identifier: MIT
"""The fake as one object: sockets, connections, clocks, and what tests ask it.

Listens on loopback only. Each connection has a thread; nothing waits in a way that `stop()` cannot
end. Faults are injected here, around `api.py`, before a route is even looked for.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .account import Account
from .api import Api, plausible_success
from .auth import Authenticator
from .certs import TlsFiles, TlsKind, make_tls
from .delivery import Delivery, Network
from .faults import Answer, Close, Context, Drip, Fault, FaultBoard, Flood, Hold, Predicate, Reset, Script, Send, Step
from .model import AcceptedMessage, ApiKey, RecordedRequest, Settings
from .reports import ReportAttempt, Reporter, Webhook
from .wire import BadRequest, Reader, Response, head_of, read_body, read_head

DEFAULT_KEY = ApiKey("test-key", "test-secret", "test-token")
_RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with time 0
# A code on its own, or in two groups; not part of a word, host name or number.
_CODE = re.compile(r"(?<![\w.-])(\d{6,8}|\d{3,4}[ -]\d{3,4}|\d{4,5})(?![\w-])")
_JOIN_S = 5.0


class FakeGatewayAPI:
    """GatewayAPI on 127.0.0.1. Use as a context manager, or `start()` and `stop()`.

    clock: Unix seconds now; signatures are checked by `clock() + clock_offset_s`, texts live by
    `clock() + advanced_s`. credit: Decimal in currency DKK or EUR. port: 0 takes a free one.
    tls: None for HTTP, or a kind or files of `certs.py`. reports: "virtual" (posted by `advance`)
    or "wall" (posted by a thread as time passes). accounts: old user names with passwords.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        keys: Sequence[ApiKey] = (DEFAULT_KEY,),
        *,
        credit: Decimal = Decimal("100.00"),
        currency: str = "DKK",
        port: int = 0,
        tls: TlsFiles | TlsKind | None = None,
        settings: Settings | None = None,
        reports: str = "virtual",
        accounts: Mapping[str, str] | None = None,
    ) -> None:
        self.keys = tuple(keys)
        self.settings = settings or Settings()
        self.clock_offset_s: float = 0
        self.advanced_s: float = 0
        self.network = Network()
        self.tls_failures: list[str] = []
        self.refused_connection_count = 0
        self._clock = clock
        self._first_credit = credit
        self._account = Account(credit, currency)
        self._authenticator = Authenticator(self.keys, accounts or {})
        self._reporter = Reporter(self.network, lambda: self.settings, self.life_now, reports == "wall")
        self._faults = FaultBoard()
        self._requests: list[RecordedRequest] = []
        self._lock = threading.Lock()
        self._open: dict[socket.socket, str] = {}
        self._threads: set[threading.Thread] = set()
        self._port = port
        self._listener: socket.socket | None = None
        self._accepter: threading.Thread | None = None
        self._tls = tls
        self._tls_files: TlsFiles | None = None
        self._tls_context: ssl.SSLContext | None = None
        self._api = Api(
            self._authenticator,
            self._account,
            self.network,
            settings=lambda: self.settings,
            life_now=self.life_now,
            on_accept=self._reporter.enqueue,
            on_cancel=self._reporter.cancel,
        )

    # --- life --------------------------------------------------------------------------------

    def start(self) -> Self:
        """Bind and listen; the port answers when this returns."""
        if self._tls is not None:
            self._tls_files = make_tls(self._tls) if isinstance(self._tls, str) else self._tls
            self._tls_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls_context.load_cert_chain(self._tls_files.cert_file, self._tls_files.key_file)
            self._api.scheme = "https"
        self._listener = self._bound()
        self.open_port()
        self._reporter.start()
        return self

    def stop(self) -> None:
        """Let go of everything held, close all connections and wait for their threads."""
        self._faults.clear()
        self.close_port()
        self._reporter.stop()
        with self._lock:
            threads = list(self._threads)
        deadline = time.monotonic() + _JOIN_S
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._tls_files is not None and isinstance(self._tls, str):
            self._tls_files.remove()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def close_port(self) -> None:
        """Refuse connections, and cut the open ones. The port number stays ours."""
        if self._accepter is not None and self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            self._accepter.join(_JOIN_S)
            self._listener.close()
            self._accepter = None
            self._listener = self._bound()  # bound but not listening: refused, and nobody's else
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                # The plain shutdown: that of SSLSocket would pull the TLS state from under its thread.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def open_port(self) -> None:
        """Accept connections (again)."""
        if self._accepter is not None or self._listener is None:
            return
        self._listener.listen(128)
        self._accepter = threading.Thread(
            target=self._accept_all, args=(self._listener,), name="fake-accept", daemon=True
        )
        self._accepter.start()

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """The port is closed inside the `with` block."""
        self.close_port()
        try:
            yield
        finally:
            self.open_port()

    # --- addresses ---------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The port that answers."""
        return self._port

    @property
    def url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        return f"{self._api.scheme}://127.0.0.1:{self.port}"

    @property
    def ca_file(self) -> Path:
        """PEM of the authority a client should trust; only with TLS, once started."""
        if self._tls_files is None:
            raise ValueError("no TLS here")
        return self._tls_files.ca_file

    # --- clocks ------------------------------------------------------------------------------

    def auth_now(self) -> float:
        """The time that signatures are checked by."""
        return self._clock() + self.clock_offset_s

    def life_now(self) -> float:
        """The time that texts and reports live by."""
        return self._clock() + self.advanced_s

    def advance(self, seconds: float = 0) -> None:
        """Move the life of texts on, and post every report that becomes due, in order."""
        self._reporter.advance(seconds, self._move)

    # --- what arrived ------------------------------------------------------------------------

    @property
    def requests(self) -> list[RecordedRequest]:
        """All requests in order of arrival, faulted ones too."""
        with self._lock:
            return list(self._requests)

    @property
    def accepted(self) -> list[AcceptedMessage]:
        """All accepted texts, one entry per number, in order."""
        with self._account.changed:
            return list(self._account.accepted)

    def texts_to(self, msisdn: str | int) -> list[str]:
        """The texts that a number got, in order."""
        return [message.text for message in self.accepted if message.msisdn == str(msisdn)]

    def wait_for_more(self, seen_count: int, timeout: float) -> list[AcceptedMessage]:
        """Texts after the first `seen_count`, as soon as there is one; [] after `timeout` seconds."""
        return self._account.wait_for_more(seen_count, timeout)

    def wait_for_texts(self, count: int = 1, timeout: float = 10) -> list[AcceptedMessage]:
        """All accepted texts as soon as there are `count`; raises TimeoutError (seconds)."""
        return self._account.wait_for(count, timeout)

    def last_code(self, msisdn: str | int, pattern: re.Pattern[str] = _CODE) -> str:
        """Digits of the code in the newest text to a number; LookupError if there is none."""
        texts = self.texts_to(msisdn)
        match = pattern.search(texts[-1]) if texts else None
        if match is None:
            raise LookupError("no text with a code for this number")
        return re.sub(r"\D", "", match[1])

    @property
    def reports(self) -> list[ReportAttempt]:
        """All delivery reports that were posted, or not for a reason, in order."""
        return self._reporter.attempts

    @property
    def open_connection_count(self) -> int:
        """Connections open now."""
        with self._lock:
            return len(self._open)

    # --- what tests change -------------------------------------------------------------------

    @property
    def credit(self) -> Decimal:
        """Money left on the account; may be set."""
        return self._account.credit

    @credit.setter
    def credit(self, amount: Decimal) -> None:
        with self._account.changed:
            self._account.credit = amount

    @property
    def webhook(self) -> Webhook | None:
        """Where REST reports go when a message names no callback_url."""
        return self._reporter.webhook

    @webhook.setter
    def webhook(self, webhook: Webhook | None) -> None:
        self._reporter.webhook = webhook

    @property
    def mobile_webhook(self) -> Webhook | None:
        """Where the Messaging API's reports go."""
        return self._reporter.mobile_webhook

    @mobile_webhook.setter
    def mobile_webhook(self, webhook: Webhook | None) -> None:
        self._reporter.mobile_webhook = webhook

    def set_delivery(self, msisdn: str | int | None = None, **delivery: Any) -> None:
        """How texts to a number (None: to all others) end; members of `Delivery`."""
        number = None if msisdn is None else str(msisdn)
        self.network.set_delivery(number, Delivery(**delivery))

    def inject(
        self,
        kind: str,
        count: int | None = 1,
        accept: bool = False,
        when: Predicate | None = None,
        **options: Any,
    ) -> Fault:
        """Put a fault in force for the next `count` requests (None: until removed).

        accept: let the API accept the text first. when: only requests it is true for.
        kind and options: see KINDS in `faults.py`. "refuse" closes the port until removed, since
        connections that nobody accepts cannot be counted.
        """
        fault = Fault(kind, count, when, accept, options)
        self._faults.add(fault)
        if kind == "refuse":
            self.close_port()
        return fault

    def remove(self, fault: Fault) -> None:
        """End a fault and release what it holds."""
        self._faults.remove(fault)
        if fault.kind == "refuse":
            self.open_port()

    def find_fault(self, fault_id: int) -> Fault | None:
        """An injected fault by its id."""
        return self._faults.find(fault_id)

    def clear_faults(self) -> None:
        """End all faults, release what they hold, open the port."""
        self._faults.clear()
        self.open_port()

    def reset(self) -> None:
        """Back to how it was at the start, ids still rising."""
        self.clear_faults()
        with self._account.changed:
            self._account.accepted.clear()
            self._account.credit = self._first_credit
            self._account.changed.notify_all()
        with self._lock:
            self._requests.clear()
        self.settings = Settings()
        self.clock_offset_s = self.advanced_s = 0
        self.network.clear()
        self._reporter.clear()
        self._authenticator.oauth1.nonces.clear()

    # --- connections -------------------------------------------------------------------------

    def _move(self, seconds: float) -> None:
        self.advanced_s += seconds

    def _bound(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        return listener

    def _accept_all(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, address = listener.accept()
            except OSError:  # closed by close_port
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._admit(connection, address[0])

    def _admit(self, connection: socket.socket, peer: str) -> None:
        """Start a thread for the connection, unless its address has too many."""
        with self._lock:
            is_full = Counter(self._open.values())[peer] >= self.settings.connection_limit
            if not is_full:
                connection = self._wrapped(connection)
                self._open[connection] = peer
                thread = threading.Thread(
                    target=self._run, args=(connection, peer), name="fake-connection", daemon=True
                )
                self._threads.add(thread)
        if is_full:
            self.refused_connection_count += 1
            _turn_away(connection, self.settings.over_limit, self.auth_now())
        else:
            thread.start()

    def _wrapped(self, connection: socket.socket) -> socket.socket:
        """The connection, under TLS if there is any; the handshake is left to its thread."""
        if self._tls_context is None:
            return connection
        return self._tls_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def _run(self, connection: socket.socket, peer: str) -> None:
        try:
            if isinstance(connection, ssl.SSLSocket):
                connection.do_handshake()
            self._serve(connection, peer)
        except ssl.SSLError as error:
            with self._lock:
                self.tls_failures.append(error.reason or "unknown")
        except OSError:
            pass  # the client went away, or stop() cut the connection
        finally:
            connection.close()
            with self._lock:
                del self._open[connection]
                self._threads.discard(threading.current_thread())

    def _serve(self, connection: socket.socket, peer: str) -> None:
        """Requests one after the other until one side has enough."""
        reader = Reader(connection)
        is_open = True
        while is_open and reader.has_more():
            early = self._faults.take_before_read()
            if early is not None:
                _hold(early, early.hold_s)
            try:
                request = self._receive(connection, reader, peer)
            except EOFError:
                return
            except BadRequest as error:
                self._note_unreadable(peer)
                body = str(error).encode()
                response = Response(400, body, (("Content-Type", "text/plain"),))
                connection.sendall(head_of(response, True, self.auth_now()) + body)
                return
            is_open = self._answer(connection, request, early or self._faults.take(request))

    def _receive(self, connection: socket.socket, reader: Reader, peer: str) -> RecordedRequest:
        head = read_head(reader)
        if (head.header("Expect") or "").lower() == "100-continue":
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = read_body(reader, head)
        request = RecordedRequest(
            head.raw_line,
            head.method,
            head.target,
            head.version,
            head.headers,
            body,
            arrived_at=self.auth_now(),
            peer=peer,
        )
        with self._lock:
            self._requests.append(request)
        return request

    def _note_unreadable(self, peer: str) -> None:
        request = RecordedRequest("", "", "", "", [], arrived_at=self.auth_now(), peer=peer)
        request.verdict, request.status = "unreadable", 400
        with self._lock:
            self._requests.append(request)

    def _answer(self, connection: socket.socket, request: RecordedRequest, fault: Fault | None) -> bool:
        """Answer one request; whether the connection stays open."""
        if fault is None:
            return self._play(connection, request, None, [Answer()])
        request.fault = fault.kind
        if fault.is_accepting:
            response = self._api.handle(request, self.auth_now())
            request.status = response.status
        else:
            response = plausible_success(request.path, self._account.currency)
        context = Context(response, fault.is_accepting, self.auth_now(), request.path, self._port)
        return self._play(connection, request, fault, fault.script(context))

    def _play(self, connection: socket.socket, request: RecordedRequest, fault: Fault | None, script: Script) -> bool:
        for step in script:
            if isinstance(step, Answer):
                self._send_answer(connection, request, step)
            elif isinstance(step, Close):
                return False
            elif isinstance(step, Reset):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
                return False
            elif fault is not None:
                _PLAYERS[type(step)](connection, fault, step)
        return request.is_kept_alive

    def _send_answer(self, connection: socket.socket, request: RecordedRequest, step: Answer) -> None:
        now = self.auth_now() + step.clock_shift_s
        response = self._api.handle(request, now)
        request.status = response.status
        connection.sendall(head_of(response, not request.is_kept_alive, now) + response.body)


def _hold(fault: Fault, seconds: float | None) -> None:
    fault.reached.set()
    fault.released.wait(seconds)


def _send(connection: socket.socket, _fault: Fault, step: Send) -> None:
    connection.sendall(step.data)


def _play_hold(_connection: socket.socket, fault: Fault, step: Hold) -> None:
    _hold(fault, step.seconds)


def _play_drip(connection: socket.socket, fault: Fault, step: Drip) -> None:
    for byte in step.data:
        _hold(fault, step.interval_s)
        connection.sendall(bytes((byte,)))


def _play_flood(connection: socket.socket, fault: Fault, step: Flood) -> None:
    sent_bytes = 0
    while step.total_bytes is None or sent_bytes < step.total_bytes:
        if fault.released.wait(step.interval_s) if step.interval_s else fault.released.is_set():
            return
        rest = len(step.chunk) if step.total_bytes is None else step.total_bytes - sent_bytes
        connection.sendall(step.chunk[:rest])
        sent_bytes += len(step.chunk)


_PLAYERS: dict[type[Step], Callable[[socket.socket, Fault, Any], None]] = {
    Send: _send,
    Hold: _play_hold,
    Drip: _play_drip,
    Flood: _play_flood,
}


def _turn_away(connection: socket.socket, how: str, now: float) -> None:
    """End a connection that is one too many: close, reset, 429 or 503."""
    with contextlib.suppress(OSError):
        if how == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        elif how != "close":
            body = b"Too many connections\n"
            response = Response(int(how), body, (("Content-Type", "text/plain"),))
            connection.sendall(head_of(response, True, now) + body)
            connection.shutdown(socket.SHUT_WR)
        connection.close()
