# SPDX-License-Identifier: MIT
"""[failmode] safe, error by error: what each fault of Redis, of the way to the gateway and of this machine becomes.

The few that let in are a positive list (away.py), and all others a denial. Redis is a real one where it can be.
"""

from __future__ import annotations

import errno
import resource
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import redis

from fake_gatewayapi import FakeGatewayAPI
from private_redis import PrivateRedis
from textgate import gateway, store
from textgate.away import AWAY_REASONS
from textgate.config import GatewayConfig, StoreConfig
from textgate.errors import StoreUnavailable
from textgate.gateway import GatewayCredentials, RestGateway
from textgate.gateway_outcomes import SendReason as R
from textgate.gateway_outcomes import SendResult
from textgate.gateway_transport import DeadlineAdapter, TransportFault
from textgate.secret import Secret
from textgate.shortage import disk_shortage, local_shortage
from textgate.store import Store

CREDENTIALS = GatewayCredentials(key=Secret("key"), secret=Secret("secret"))

# --- Redis ---


def _fault(made: Store) -> StoreUnavailable:
    with pytest.raises(StoreUnavailable) as caught:
        made.count_recovery("alice")
    return caught.value


@contextmanager
def _store(url: str, connections: int = 2) -> Iterator[Store]:
    made = Store(StoreConfig(url=url, timeout_s=0.2), connections=connections)
    yield made
    made.close()


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
def test_redis_that_takes_no_connections_is_absent(redis_server: PrivateRedis) -> None:
    redis_server.kill()
    with _store(redis_server.url) as made:
        assert _fault(made).is_absent  # ECONNREFUSED
    redis_server.socket_path.unlink()
    with _store(redis_server.url) as made:
        assert _fault(made).is_absent  # ENOENT
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with _store(f"redis://127.0.0.1:{nobody.getsockname()[1]}") as made:
            assert _fault(made).is_absent


def _password(server: PrivateRedis) -> None:
    server.client.config_set("requirepass", "other")


REAL: dict[str, Callable[[PrivateRedis], object]] = {
    "-NOAUTH": _password,
    "-OOM": lambda server: server.client.config_set("maxmemory", 1),
    "-READONLY": lambda server: server.client.execute_command("REPLICAOF", "127.0.0.1", "1"),
    "-ERR max number of clients reached": lambda server: server.client.config_set("maxclients", 1),
    "hung": PrivateRedis.pause,
}


@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", REAL)
def test_real_redis_that_is_there_and_refuses_is_not_absent(name: str, redis_server: PrivateRedis) -> None:
    try:
        with _store(redis_server.url) as made, ExitStack() as stack:
            REAL[name](redis_server)
            if name.endswith("reached"):
                stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(redis_server.socket_path))
            with pytest.raises(StoreUnavailable) as caught:
                made.set_recovery("alice", {"tag": "value"})
                made.revoke_token("1", now_ms=1, ends_at_ms=1000)
            assert not caught.value.is_absent
    finally:
        redis_server.resume()
        redis_server.client.config_set("maxclients", 1000)
        redis_server.client.config_set("requirepass", "")


def test_pool_without_a_free_connection_is_not_absent(redis_server: PrivateRedis) -> None:
    with _store(redis_server.url, connections=1) as made:
        made.count_recovery("alice")
        held = made._redis.connection_pool.get_connection("_")
        assert not _fault(made).is_absent
        made._redis.connection_pool.release(held)


def _chained(cause: OSError) -> redis.ConnectionError:
    error = redis.ConnectionError("Error connecting")
    error.__cause__ = cause
    return error


SAID: list[tuple[Exception, bool]] = [
    *((_chained(OSError(number, "")), True) for number in (errno.ENOENT, errno.ECONNREFUSED, errno.EHOSTUNREACH)),
    *(
        (_chained(OSError(number, "")), False)
        for number in (
            errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EDQUOT,
            errno.EAGAIN, errno.EACCES, errno.EPERM, errno.ECONNRESET, errno.EPIPE, errno.EINTR, errno.EIO,
        )
    ),
    (_chained(ssl.SSLCertVerificationError("certificate is not yet valid")), False),
    (_chained(socket.gaierror(socket.EAI_AGAIN, "")), False),
    (redis.ConnectionError("No connection available."), False),
    (redis.ConnectionError("Connection closed by server."), False),
    (redis.TimeoutError("Timeout reading from socket"), False),
    (redis.TimeoutError("Timeout connecting to server"), True),  # the watch then says whether it is a host
    (redis.AuthenticationError("WRONGPASS"), False),
    (redis.BusyLoadingError("Redis is loading the dataset in memory"), False),
    (redis.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"), False),
    (redis.exceptions.OutOfMemoryError("OOM command not allowed") if hasattr(redis.exceptions, "OutOfMemoryError")
     else redis.ResponseError("OOM"), False),
    (redis.ReadOnlyError("READONLY"), False),
    (redis.exceptions.NoPermissionError("NOPERM"), False),
    (OSError(errno.ECONNREFUSED, ""), False),  # not from connecting
    (MemoryError(), False),
]  # fmt: skip


@pytest.mark.parametrize(("error", "is_absent"), SAID, ids=lambda value: repr(value)[:60])
def test_each_error_of_the_client(error: Exception, is_absent: bool) -> None:
    assert store._is_absent(error) is is_absent


# --- The way to the gateway ---


def _send(url: str, **options: Any) -> SendResult:
    made = RestGateway(GatewayConfig(url=url, **options), CREDENTIALS, sleep=lambda _pause_s: None)
    try:
        return made.send("4520123456", Secret("a text"), validity_s=300, userref="one")
    finally:
        made.close()


CONNECTING: list[tuple[BaseException, R]] = [
    *((OSError(number, ""), R.UNREACHABLE) for number in (
        errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN,
    )),
    (TimeoutError(errno.ETIMEDOUT, ""), R.UNREACHABLE),
    *((OSError(number, ""), R.SHORTAGE) for number in (
        errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EACCES,
        errno.EPERM, errno.EADDRINUSE, errno.EINVAL, errno.ENOSPC, errno.EDQUOT,
    )),
    *((OSError(number, ""), R.RESET) for number in (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED)),
    (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), R.RESET),
    (ssl.SSLCertVerificationError("certificate is not yet valid"), R.TLS),  # a clock that is wrong
    (ssl.SSLCertVerificationError("certificate has expired"), R.TLS),
    (ssl.SSLCertVerificationError("Hostname mismatch"), R.TLS),
    (ssl.SSLError(1, "wrong version number"), R.TLS),
    (MemoryError(), R.INTERNAL),
]  # fmt: skip
AWAY_WHEN_CONNECTING = {R.UNREACHABLE}


class Failing(socket.socket):
    """A socket that connects to nothing."""

    error: BaseException

    def connect(self, _address: Any) -> None:
        raise self.error


@pytest.mark.parametrize(("error", "reason"), CONNECTING, ids=lambda value: repr(value)[:60])
def test_each_error_of_connecting(error: BaseException, reason: R, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "local_shortage", lambda: None)
    monkeypatch.setattr(Failing, "error", error, raising=False)
    monkeypatch.setattr(socket, "socket", Failing)
    made = RestGateway(
        GatewayConfig(url="http://127.0.0.1:9"), CREDENTIALS, sleep=lambda _pause_s: None, shortage=lambda: None
    )
    result = made.send("4520123456", Secret("a text"), validity_s=300, userref="one")
    assert result.reason is reason
    assert (result.reason in AWAY_REASONS) is (reason in AWAY_WHEN_CONNECTING)


EXCHANGING: list[tuple[BaseException, R]] = [
    (ConnectionResetError(errno.ECONNRESET, ""), R.RESET),
    (BrokenPipeError(errno.EPIPE, ""), R.RESET),
    (ssl.SSLEOFError(8, "EOF"), R.RESET),
    (ssl.SSLError(1, "bad record mac"), R.TLS),
    (TimeoutError(), R.TIMEOUT),
    *((OSError(number, ""), R.SHORTAGE) for number in (errno.ENOBUFS, errno.ENOMEM, errno.EIO)),
]  # fmt: skip


@pytest.mark.parametrize(("error", "reason"), EXCHANGING, ids=lambda value: repr(value)[:60])
def test_each_error_of_an_exchange(error: BaseException, reason: R, monkeypatch: pytest.MonkeyPatch) -> None:
    def sendall(wire: Any, _data: bytes) -> None:
        wire._arm()
        raise error

    monkeypatch.setattr("textgate.gateway_transport._Wire.sendall", sendall)
    with FakeGatewayAPI() as fake:
        result = _send(fake.url)
    assert result.reason is reason
    assert result.reason not in AWAY_REASONS  # it took the connection


def test_one_address_that_we_are_short_for_outweighs_those_that_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in (1, 2)]
    errors = [OSError(errno.EADDRNOTAVAIL, ""), OSError(errno.ECONNREFUSED, "")] * 3

    class Mixed(socket.socket):
        def connect(self, _address: Any) -> None:
            raise errors.pop(0)

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: found)
    monkeypatch.setattr(socket, "socket", Mixed)
    made = RestGateway(
        GatewayConfig(url="http://127.0.0.1:9"), CREDENTIALS, sleep=lambda _pause_s: None, shortage=lambda: None
    )
    assert made.send("4520123456", Secret("a"), validity_s=300, userref="one").reason is R.SHORTAGE


def test_wait_that_ends_long_after_its_time_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without time for us: the answer may have been there for seconds."""
    now_at = [0.0]

    class Slow(socket.socket):
        def connect(self, _address: Any) -> None:
            now_at[0] += 8.0  # of a wait of 3 s
            raise TimeoutError

    monkeypatch.setattr(socket, "socket", Slow)
    made = RestGateway(
        GatewayConfig(url="http://127.0.0.1:9", total_timeout_s=100), CREDENTIALS,
        sleep=lambda _pause_s: None, shortage=lambda: None, clock=lambda: now_at[0],
    )  # fmt: skip
    assert made.send("4520123456", Secret("a"), validity_s=300, userref="one").reason is R.SHORTAGE


@pytest.mark.parametrize("short", [None, "ports"])
def test_gateway_is_only_away_on_a_machine_that_is_short_of_nothing(short: str | None) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        made = RestGateway(
            GatewayConfig(url=f"http://127.0.0.1:{nobody.getsockname()[1]}"), CREDENTIALS,
            sleep=lambda _pause_s: None, shortage=lambda: short,
        )  # fmt: skip
        result = made.send("4520123456", Secret("a"), validity_s=300, userref="one")
    assert result.reason is (R.UNREACHABLE if short is None else R.SHORTAGE)


@pytest.mark.parametrize("status", [500, 502, 504, 503, 429])
def test_limit_of_the_gateways_that_users_can_fill_is_not_away(status: int) -> None:
    """It counts connections by address, and says no by 429, 503 or a reset."""
    with FakeGatewayAPI() as fake:
        fake.inject(str(status), None)
        result = _send(fake.url)
    assert (result.reason in AWAY_REASONS) is (status in (500, 502, 504))


# --- The real thing: descriptors. Ports are in integration/test_failmode_attacks.py. ---


def test_no_descriptor_left_is_short_and_not_away() -> None:
    with socket.socket() as nobody, ExitStack() as stack:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        assert _send(url).reason is R.UNREACHABLE
        assert local_shortage() is None
        former = resource.getrlimit(resource.RLIMIT_NOFILE)
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, former)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, former[1]))
        with ExitStack() as held:
            with pytest.raises(OSError, match="Too many"):
                while True:
                    held.enter_context(open("/dev/null", "rb"))
            assert local_shortage() == "files"
            adapter = DeadlineAdapter(
                connect_timeout_s=1, read_timeout_s=1, tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            )
            with pytest.raises(TransportFault) as caught:
                adapter.begin(10**9)
                adapter._connection_to(url)
            assert caught.value.reason is R.SHORTAGE


def test_folder_that_is_not_there_is_no_shortage() -> None:
    assert disk_shortage("/nonexistent/textgate") is None
    assert disk_shortage("/proc") == "disk"  # a file system without any room
