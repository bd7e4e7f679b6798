# SPDX-License-Identifier: MIT
"""When Redis counts as away: nobody takes a connection, for long enough, on a machine that is short of nothing."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from textgate import store_watch
from textgate.store_watch import LOOK_EVERY_S, STALE_S, Knock, StoreWatch, knock, started_mark

AFTER_S = 30.0


class Scene:
    """A watch whose time and findings the test decides."""

    def __init__(self) -> None:
        self.now_at = 1000.0
        self.found = Knock.NOBODY
        self.short: str | None = None
        self.told: list[bool] = []
        self.mark: Callable[[], object] = lambda: None
        self.watch = StoreWatch(
            lambda: self.found,
            away_after_s=AFTER_S,
            shortage=lambda: self.short,
            clock=lambda: self.now_at,
            on_change=self.told.append,
            mark=lambda: self.mark(),  # noqa: PLW0108  # tests replace it
        )

    def look_for(self, span_s: float) -> bool:
        """Look each second for so long; whether Redis is away then."""
        for _ in range(round(span_s / LOOK_EVERY_S)):
            self.now_at += LOOK_EVERY_S
            self.watch.look()
        return self.watch.is_away()


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_nobody_for_long_is_away_and_told_once(scene: Scene) -> None:
    assert scene.look_for(AFTER_S) is False
    assert scene.look_for(1) is True
    assert scene.look_for(60) is True
    assert scene.told == [True]


@pytest.mark.parametrize("found", [Knock.THERE, Knock.UNCLEAR])
def test_one_look_that_finds_anything_else_starts_anew(scene: Scene, found: Knock) -> None:
    """A Redis that is brought to its end again and again comes back each time."""
    scene.look_for(AFTER_S + 1)
    scene.found = found
    assert scene.look_for(1) is False
    scene.found = Knock.NOBODY
    assert scene.look_for(AFTER_S) is False
    assert scene.look_for(1) is True
    assert scene.told == [True, False, True]


@pytest.mark.parametrize("short", ["disk", "ports", "files", "threads", "time"])
def test_shortage_is_never_away(scene: Scene, short: str) -> None:
    scene.short = short
    assert scene.look_for(10 * AFTER_S) is False
    scene.short = None
    assert scene.look_for(AFTER_S) is False  # nor is what it left behind
    scene.short = short
    assert scene.look_for(1) is False
    assert scene.told == []


def test_watch_that_had_no_time_says_nothing(scene: Scene) -> None:
    scene.look_for(AFTER_S + 1)
    scene.now_at += STALE_S + 1
    assert scene.watch.is_away() is False
    scene.watch.look()
    assert scene.watch.is_away() is False  # what lies between was not seen


def test_closed_watch_and_one_that_never_looked_say_nothing(scene: Scene) -> None:
    assert scene.watch.is_away() is False
    scene.look_for(AFTER_S + 1)
    scene.watch.close()
    assert scene.watch.is_away() is False


def test_watch_without_room_for_a_thread_says_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_room)
    scene.watch.start()
    assert scene.watch.is_away() is False


# --- One look ---


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.bind(str(tmp_path / "redis.sock"))
        yield made


def test_unix_socket_is_there_gone_or_refused(tmp_path: Path, listener: socket.socket) -> None:
    path = str(tmp_path / "redis.sock")
    assert knock(path, 1.0) is Knock.NOBODY  # ECONNREFUSED: bound, and nobody listens
    listener.listen()
    assert knock(path, 1.0) is Knock.THERE
    (tmp_path / "redis.sock").unlink()
    assert knock(path, 1.0) is Knock.NOBODY  # ENOENT


def test_unix_socket_that_is_held_is_not_gone(tmp_path: Path, listener: socket.socket) -> None:
    """A stopped Redis, and enough connections to fill its line: any member of its group could do that."""
    listener.listen(0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
        first.connect(str(tmp_path / "redis.sock"))
        assert knock(str(tmp_path / "redis.sock"), 0.05) is Knock.UNCLEAR


def test_port_is_there_or_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        assert knock(listener.getsockname(), 1.0) is Knock.NOBODY
        listener.listen()
        assert knock(listener.getsockname(), 1.0) is Knock.THERE


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (OSError(errno.ECONNREFUSED, ""), Knock.NOBODY),
        (OSError(errno.EHOSTUNREACH, ""), Knock.NOBODY),
        (OSError(errno.ENETUNREACH, ""), Knock.NOBODY),
        (TimeoutError(), Knock.NOBODY),
        (OSError(errno.EADDRNOTAVAIL, ""), Knock.UNCLEAR),
        (OSError(errno.EMFILE, ""), Knock.UNCLEAR),
        (OSError(errno.ENFILE, ""), Knock.UNCLEAR),
        (OSError(errno.ENOBUFS, ""), Knock.UNCLEAR),
        (OSError(errno.ENOMEM, ""), Knock.UNCLEAR),
        (OSError(errno.EAGAIN, ""), Knock.UNCLEAR),
        (OSError(errno.EPERM, ""), Knock.UNCLEAR),
        (OSError(errno.ECONNRESET, ""), Knock.UNCLEAR),
        (socket.gaierror(socket.EAI_AGAIN, ""), Knock.UNCLEAR),
    ],
)
@pytest.mark.parametrize("other", [None, OSError(errno.ECONNREFUSED, "")])
def test_each_error_of_a_host_on_the_network(
    error: OSError, found: Knock, other: OSError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several addresses each must say that nobody is there."""
    faults = [error, *([other] if other else [])]
    found_at = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"192.0.2.{at}", 6379)) for at in range(len(faults))]
    if isinstance(error, socket.gaierror):
        monkeypatch.setattr(socket, "getaddrinfo", _raiser(error))
    else:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: found_at)
    monkeypatch.setattr(store_watch, "_fault_at", lambda *_arguments: faults.pop(0))
    assert knock(("redis.example", 6379), 1.0) is found


def _raiser(error: Exception) -> Callable[..., object]:
    def fail(*_arguments: object, **_options: object) -> object:
        raise error

    return fail


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_silence_of_this_machine_is_not_away(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any user can keep the line of a port full by connecting again and again."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as held, contextlib.ExitStack() as line:
        address = held.getsockname()
        for _ in range(2):
            ours = line.enter_context(socket.socket())
            ours.setblocking(False)
            ours.connect_ex(address)
        assert knock(address, 0.2) is Knock.UNCLEAR
    monkeypatch.setattr(store_watch, "_fault_at", lambda *_arguments: TimeoutError())
    assert knock((host, 6379), 1.0) is Knock.UNCLEAR


def test_redis_that_was_started_between_two_looks_is_not_away(scene: Scene, tmp_path: Path) -> None:
    """Who fills its disk for a moment ends it at each step of a login, and both looks find nobody and room enough."""
    path = tmp_path / "redis.sock"
    scene.mark = lambda: started_mark(str(path))
    for _ in range(3):
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as started:
            started.bind(str(path))
        assert scene.look_for(AFTER_S) is False
    path.unlink()
    assert scene.look_for(AFTER_S) is False
    assert scene.look_for(1) is True


def test_mark_that_cannot_be_read_says_nothing_of_redis(scene: Scene) -> None:
    scene.look_for(AFTER_S + 1)
    assert started_mark(("redis.example", 6379)) is None
    scene.mark = _raiser(PermissionError(errno.EACCES, ""))
    with pytest.raises(PermissionError):
        scene.look_for(1)
