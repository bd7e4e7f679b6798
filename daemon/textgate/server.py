# SPDX-License-Identifier: MIT
"""textgated: listens on two Unix sockets, answers logins on bounded worker threads, starts, reloads and stops.

Every connection gets an answer: a request that breaks a rule, comes too late or finds no worker is a denial with
a sentence. The one broad `except` of the daemon is here, at the connection, and it denies.
"""

from __future__ import annotations

import argparse
import contextlib
import grp
import os
import select
import selectors
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import __version__, admin, memory, seen, texts, wiring
from .admin_desk import AdminDesk
from .audit import Audit, Event, Priority, choose_sink
from .audit_digest import Digest
from .boot import boot_id
from .config import DEFAULT_PATH, Config, DaemonConfig, cautions
from .counts import Counts
from .dispatcher import Dispatcher
from .errors import ExitCode, ProtocolError, StoreUnavailable, TextgateError
from .intake import Intake
from .peercred import peer_credentials
from .printable import printable_lines
from .protocol import REQUEST_MAX_BYTES, Reply, Verb, Why, Word, format_reply, parse_request
from .protocol import VERSION as PROTOCOL_VERSION
from .session import LOGIN_TEST_TTY, Session, build_session
from .verifier import Later, refusal_for, told, where
from .wiring import Services

try:
    from systemd import daemon as _systemd
except ImportError:  # without systemd there is nobody to notify and no socket is passed
    _systemd = None

BACKLOG = 1024
STALE_S = 8.0  # a helper waits 10 s by default; an answer that comes later than that reaches nobody
STUCK_S = 90.0  # longer than any deadline of a request: the watchdog may end a daemon that works on one for so long
PULSE_S = 30.0  # between two looks at the store while nobody logs in
SERVER_UIDS = frozenset({0})  # who may call the auth socket: PAM's helper runs as root


@dataclass(frozen=True)
class Listeners:
    """The two listening sockets. is_passed: systemd made them, so they outlive this process."""

    auth: socket.socket
    admin: socket.socket
    is_passed: bool


class Server:
    """Accepts on the main thread, works on `workers` others. `services` is replaced as a whole on a reload."""

    def __init__(
        self,
        config: DaemonConfig,
        listeners: Listeners,
        services: Services,
        audit: Audit,
        rebuild: Callable[[Services], Services],
    ) -> None:
        """rebuild: reads everything again for a reload, given the former parts; raises TextgateError for a fault."""
        self._config = config
        self._rebuild = rebuild
        self._reloading = threading.Lock()
        self._listeners = listeners
        self._services = services
        self._audit = audit
        # An eighth for those who begin, the rest for those who have typed a code and wait at the prompt: under load
        # the former must not take all of Python's time.
        begin_count = max(1, config.workers // 8)
        check_count = config.workers - begin_count
        self._workers = Dispatcher(threads=begin_count, waiting=config.queue + check_count, name="begin")
        self._checkers = Dispatcher(threads=max(1, check_count), waiting=config.queue, name="check")
        self._pulses = Dispatcher(threads=1, waiting=0, name="pulse")
        self._under_way: dict[int, float] = {}
        self._lock = threading.Lock()
        self._signals: list[int] = []
        self._intake = Intake(
            timeout_s=config.read_timeout_s, on_request=self._take_request, on_fault=self._refuse_request
        )
        self._boot_id = boot_id(os.environ)
        self.counts = Counts()
        self._digest = Digest(audit, self._later)
        for_admins = admin.Daemon(lambda: self._services, self.counts, audit, self._digest, self._reload)
        self._desk = AdminDesk(listeners.admin, for_admins)

    # --- The main loop ---

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; SIGHUP reloads."""
        with _wakeup_signals(self._signals) as wakeup, selectors.DefaultSelector() as selector:
            selector.register(wakeup, selectors.EVENT_READ, lambda: wakeup.recv(4096))
            selector.register(self._listeners.auth, selectors.EVENT_READ, self._accept_login)
            selector.register(self._intake, selectors.EVENT_READ, self._intake.read)
            self._desk.start()
            watchdog = _Watchdog(self._is_healthy)
            notify("READY=1")
            self._audit.event(Event.SERVICE, "ready", version=__version__)
            self._arm_pulse(0)
            while not self._stop_wanted():
                watchdog.feed()
                memory.clear_registers()
                waits = [wait_s for wait_s in (watchdog.interval_s, self._intake.wait_s()) if wait_s is not None]
                for key, _ in selector.select(min(waits, default=None)):
                    key.data()
                self._intake.expire()
        self._stop()

    def _arm_pulse(self, wait_s: float) -> None:
        """Have the store looked at in so many seconds, and again and again: see `StoreClock`.

        Also while nobody logs in: an administrator is to hear of a store that went back before a login meets it, and
        a clock that jumps meanwhile must not be taken for time that went by.
        """

        def beat() -> None:
            self._arm_pulse(PULSE_S)
            self._pulses.submit(self._pulse)

        self._services.alarms.after(wait_s, beat)

    def _pulse(self) -> None:
        with contextlib.suppress(StoreUnavailable):  # the next login tells it
            self._services.history.confirm()

    def _stop_wanted(self) -> bool:
        while self._signals:
            if self._signals.pop(0) != signal.SIGHUP:
                return True
            with contextlib.suppress(Exception):  # it is in the journal, and the daemon goes on with what it has
                self._reload()
        return False

    def _reload(self) -> None:
        """Replace the services by new ones. What is wrong with those is noted and raised, and nothing changes."""
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            with self._reloading:
                # Logins under way keep the services they began with, and those live as long as they are used.
                former, self._services = self._services, self._rebuild(self._services)
                # Its idle connections would count against what the gateway takes from one address. It can still send.
                former.gateway.close()
                former.watch.close()
            self._audit.event(Event.SERVICE, "reloaded", version=__version__)
        except Exception as error:
            self._audit.event(
                Event.SERVICE,
                "reload failed, the former configuration stays",
                priority=Priority.ERROR,
                reason=told(error),
                at=where(error),
            )
            raise
        finally:
            notify("READY=1")

    def _stop(self) -> None:
        """Finish what is under way; what still waits in a listening socket that systemd holds is served after."""
        notify("STOPPING=1")
        self._audit.event(Event.SERVICE, "stopping", under_way=len(self._under_way))
        if not self._listeners.is_passed:
            for listener in (self._listeners.auth, self._listeners.admin):
                with contextlib.suppress(OSError):
                    Path(listener.getsockname()).unlink()
        self._listeners.auth.close()
        ender = threading.Timer(self._config.stop_timeout_s, os._exit, (ExitCode.FAILURE,))
        ender.daemon = True
        ender.start()
        self._intake.finish()
        self._workers.close()
        self._checkers.close()
        self._pulses.close()
        self._desk.close()
        self._services.close()
        ender.cancel()
        self._digest.flush()
        self._audit.event(Event.SERVICE, "stopped")

    def _later(self, wait_s: float, job: Callable[[], None]) -> None:
        self._services.alarms.after(wait_s, job)

    def _is_healthy(self) -> bool:
        """Whether no request is worked on for longer than its deadlines allow."""
        with self._lock:
            oldest_at = min(self._under_way.values(), default=None)
        return oldest_at is None or time.monotonic() - oldest_at < STUCK_S

    # --- Logins ---

    def _accept_login(self) -> None:
        for connection in _accept_all(self._listeners.auth, self._on_accept_error):
            try:
                uid = peer_credentials(connection).uid
            except OSError:
                uid = -1
            if uid not in SERVER_UIDS:
                self.counts.add("peer_refused")
                self._digest.event(Event.PROTOCOL, "peer refused", priority=Priority.WARNING, reason="peer", uid=uid)
                _refuse_now(connection, texts.INTERNAL)
                continue
            self._intake.add(connection)

    def _take_request(self, connection: socket.socket, untrusted: bytes, accepted_at: float) -> None:
        """A peer has said all: give it to a worker."""
        workers = self._checkers if untrusted.startswith(_CHECK_HEAD) else self._workers
        if workers.submit(_bound(self._serve_login, connection, untrusted, accepted_at)) is None:
            self.counts.add("overload")
            self._digest.event(Event.OVERLOAD, "too many logins waiting", priority=Priority.ERROR, result="deny")
            _refuse_now(connection, texts.BUSY)

    def _refuse_request(self, connection: socket.socket, error: ProtocolError) -> None:
        """A peer did not come to the end of its request."""
        self._note_refusal(error)
        _refuse_now(connection, texts.INTERNAL)

    def _note_refusal(self, error: ProtocolError) -> None:
        self.counts.add("protocol_error")
        self._digest.event(Event.PROTOCOL, "request refused", priority=Priority.WARNING, reason=error.reason)

    def _on_accept_error(self, error: OSError) -> None:
        """No file descriptor left, for example. The peer waits in the backlog; the pause keeps the loop calm."""
        self._digest.event(Event.FAULT, "can't accept", priority=Priority.ALERT, reason=error.strerror or "unknown")
        time.sleep(0.05)

    def _serve_login(self, connection: socket.socket, untrusted: bytes, accepted_at: float) -> None:
        with self._lock:
            self._under_way[connection.fileno()] = time.monotonic()
        refusal = self._start(connection, untrusted, accepted_at)
        if refusal is not None:
            self._reply(connection, refusal)

    def _reply(self, connection: socket.socket, reply: Reply) -> None:
        """Answer a connection and be done with it; on whichever thread has the answer."""
        self.counts.add(f"reply_{reply.word.value}")
        with self._lock:
            self._under_way.pop(connection.fileno(), None)
        with connection, contextlib.suppress(OSError):  # the helper may have gone; its exit was a denial
            connection.settimeout(self._config.read_timeout_s)
            connection.sendall(format_reply(reply))

    def _start(self, connection: socket.socket, untrusted: bytes, accepted_at: float) -> Reply | None:
        """Begin to answer one request; None when the verifier will. Whatever breaks on the way is a denial."""
        if time.monotonic() - accepted_at > STALE_S:
            self.counts.add("overload")
            self._digest.event(Event.OVERLOAD, "request waited too long", priority=Priority.ERROR, result="deny")
            return Reply(Word.DENY, texts.BUSY)
        services = self._services
        try:
            if has_gone(connection):
                raise ProtocolError("gone")
            request = parse_request(untrusted)
            session = build_session(request.fields, services.config.services.ssh, self._boot_id)
            if request.fields.get("PAM_TYPE") != "auth":
                raise ProtocolError("pam_type")
            if request.verb is Verb.CHECK and request.code is not None:
                services.verifier.check_later(session, request.code, self._replier(connection, session))
            else:
                services.verifier.begin_later(session, self._replier(connection, session))
            return None
        except ProtocolError as error:
            self._note_refusal(error)
        except Exception as error:
            self.counts.add("fault")
            return refusal_for(error, self._audit)
        return Reply(Word.DENY, texts.INTERNAL)

    def _replier(self, connection: socket.socket, session: Session) -> Later:
        """What the verifier calls with the reply."""

        def answer(reply: Reply) -> None:
            # Not for [failmode], which passes without a code, nor for `textgate login-test`, which proves nothing of
            # sshd's settings and of what comes behind the stack.
            if reply.why is Why.RIGHT and session.tty != LOGIN_TEST_TTY:
                self.counts.note_pass(session.service)
            self._reply(connection, reply)

        return answer


def _bound(function: Callable[..., None], *arguments: Any) -> Callable[[], None]:
    return lambda: function(*arguments)


# --- Pieces ---


_CHECK_HEAD = f"{PROTOCOL_VERSION} {Verb.CHECK.value}\0".encode()


def has_gone(connection: socket.socket) -> bool:
    """Whether the peer has closed its end altogether, not only for writing: nobody will hear the answer.

    What a helper asked that gave up in the line must not text anybody, nor use up the code that is typed next.
    """
    poll = select.poll()
    poll.register(connection, 0)  # a hang-up is always told
    return bool(poll.poll(0))


def _accept_all(listener: socket.socket, on_error: Callable[[OSError], None]) -> Iterator[socket.socket]:
    """Every connection that waits on a non-blocking listener, without ever waiting for one."""
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        except ConnectionAbortedError:
            continue
        except OSError as error:
            on_error(error)
            return
        yield connection


def _refuse_now(connection: socket.socket, text: str) -> None:
    """Answer on the main thread without waiting. What the peer sent is read first: unread bytes would reset it."""
    with connection, contextlib.suppress(OSError):
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            connection.recv(REQUEST_MAX_BYTES)
        connection.send(format_reply(Reply(Word.DENY, text)))
        connection.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def _wakeup_signals(noted: list[int]) -> Iterator[socket.socket]:
    """A socket that becomes readable when SIGTERM, SIGINT or SIGHUP comes; its number is added to `noted`."""
    wakeup, writer = socket.socketpair()
    wakeup.setblocking(False)
    writer.setblocking(False)
    former_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    former = {number: signal.signal(number, lambda signum, _frame: noted.append(signum)) for number in handled}
    try:
        yield wakeup
    finally:
        for number, handler in former.items():
            # A second SIGTERM during the stop must not be lost on the default action, which would cut logins off.
            signal.signal(number, signal.SIG_IGN if number != signal.SIGINT else handler)
        signal.set_wakeup_fd(former_fd)
        wakeup.close()
        writer.close()


def notify(state: str) -> None:
    """Tell systemd about the state (sd_notify(3)); nothing happens where it doesn't listen.

    Without a file descriptor left it can't be told, and that must not end the logins under way. A watchdog that hears
    nothing for long does what it is for.
    """
    if _systemd is not None and hasattr(_systemd, "notify"):
        with contextlib.suppress(OSError):
            _systemd.notify(state)


class _Watchdog:
    """Feeds systemd's watchdog twice per period, as long as the daemon is healthy (sd_watchdog_enabled(3))."""

    def __init__(self, is_healthy: Callable[[], bool]) -> None:
        usec = os.environ.get("WATCHDOG_USEC", "")
        is_ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.interval_s = int(usec) / 2_000_000 if usec.isdigit() and is_ours and int(usec) > 0 else None
        self._is_healthy = is_healthy

    def feed(self) -> None:
        """One sign of life."""
        if self.interval_s is not None and self._is_healthy():
            notify("WATCHDOG=1")


# --- Start ---


def stay_on_one_cpu() -> None:
    """Let all threads to come run on one CPU, the last of those allowed.

    Python runs one thread at a time anyway; on several CPUs they wake each other across them, which under load costs
    as much again as the logins themselves (docs/performance.md). Where it isn't allowed, the unit does it instead.
    """
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def open_listeners(config: DaemonConfig) -> Listeners:
    """The sockets that systemd passed, named auth and admin; without any, sockets of our own.

    Raises TextgateError when only one was passed or one can't be made.
    """
    passed = _passed_sockets()
    if passed:
        if set(passed) != {"auth", "admin"}:
            raise TextgateError(
                "systemd passed other sockets than auth and admin", hint="set FileDescriptorName= in the socket units"
            )
        return Listeners(passed["auth"], passed["admin"], is_passed=True)
    return Listeners(
        _listen(config.auth_socket, 0o600, None),
        _listen(config.admin_socket, 0o660, config.admin_group),
        is_passed=False,
    )


def _passed_sockets() -> dict[str, socket.socket]:
    if _systemd is None or not hasattr(_systemd, "listen_fds_with_names"):
        return {}
    passed = {name: socket.socket(fileno=fd) for fd, name in _systemd.listen_fds_with_names().items()}
    for listener in passed.values():
        listener.setblocking(False)
    return passed


def _listen(path: str, mode: int, group: str | None) -> socket.socket:
    """A listening socket with exactly this mode, in the place of a dead one that may lie there."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    former_umask = os.umask(0o177)  # never open to others, not even before the chmod
    try:
        _remove_dead(path)
        listener.bind(path)
        if group is not None:
            with contextlib.suppress(KeyError, PermissionError):
                os.chown(path, -1, grp.getgrnam(group).gr_gid)
        Path(path).chmod(mode)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise TextgateError(
            f"{path}: can't listen: {error.strerror}", hint="is its folder there, and ours?"
        ) from None
    finally:
        os.umask(former_umask)
    listener.setblocking(False)
    return listener


def _remove_dead(path: str) -> None:
    """Remove a socket that nobody listens on. Raises TextgateError where somebody does."""
    try:
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(path) == 0:
            raise TextgateError(f"{path}: another textgated listens here", hint="stop it first")
    Path(path).unlink()


def build_parser() -> argparse.ArgumentParser:
    """The command line of `textgated`; its manual page is made from it."""
    parser = argparse.ArgumentParser(
        prog="textgated",
        description="Texts login codes and checks them, for PAM and the textgate command.",
        epilog="SIGHUP reloads the configuration and the phones, SIGTERM finishes logins under way and ends. "
        "Exit codes: 0 ended, 1 failed, 2 usage, 3 configuration.",
    )
    parser.add_argument("--config", default=DEFAULT_PATH, metavar="FILE", help="configuration (default: %(default)s)")
    parser.add_argument(
        "--log",
        default="auto",
        choices=("auto", "journal", "stderr"),
        help="where events go; auto is the journal under systemd, else standard error (default: %(default)s)",
    )
    parser.add_argument("--version", action="version", version=f"textgated {__version__}")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The `textgated` command."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        audit = Audit(choose_sink(options.log, os.environ))
    except ValueError as error:
        parser.error(str(error))
    try:
        _serve(options.config, audit)
    except TextgateError as error:
        audit.event(Event.SERVICE, f"can't start: {error}", priority=Priority.ALERT, hint=error.hint)
        print(printable_lines(f"textgated: error: {error}"), file=sys.stderr)  # noqa: T201
        if error.hint:
            print(printable_lines(f"hint: {error.hint}"), file=sys.stderr)  # noqa: T201
        return error.exit_code
    return ExitCode.OK


def _serve(config_path: str, audit: Audit) -> None:
    memory.keep_private()  # before there is anything to keep
    stay_on_one_cpu()
    config: Config = wiring.load_config(config_path)
    seen_file = seen.file_in(os.environ)
    services = wiring.build_services(config, audit, os.environ, seen_file=seen_file, is_daemon=True)
    listeners = open_listeners(config.daemon)

    _note_cautions(config, audit)

    def rebuild(former: Services) -> Services:
        services = wiring.build_services(
            wiring.load_config(config_path),
            audit,
            os.environ,
            former=former,
            seen_file=seen_file,
            is_daemon=True,
        )
        _note_cautions(services.config, audit)
        return services

    server = Server(config.daemon, listeners, services, audit, rebuild)
    del services  # a reload replaces them
    server.run()


def _note_cautions(config: Config, audit: Audit) -> None:
    for caution in cautions(config):
        audit.event(Event.SERVICE, "configuration", priority=Priority.WARNING, reason=caution)


if __name__ == "__main__":
    sys.exit(main())
