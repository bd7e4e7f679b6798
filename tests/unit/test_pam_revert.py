# SPDX-License-Identifier: MIT
"""What the timer asks the daemon while a PAM change is being tried."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from textgate import pam_revert
from textgate.pam_admin import LOCK_WAIT_S, Guard, PamAdmin
from textgate.pam_stack import FirstFactor

STARTED_AT = 1_700_000_000
SERVICES_AT_ONCE = 6  # sshd, sudo, sudo-i, login, su and su-l


class Admin:
    """The part of PamAdmin that is needed: which services go through another's file."""

    def services_through(self, service: str) -> list[str]:
        return [service]


def has_passed(path: Path) -> bool:
    guard = Guard("sshd", FirstFactor.KEY, (), STARTED_AT, STARTED_AT + 300)
    return pam_revert.has_passed(cast(PamAdmin, Admin()), guard, str(path))


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        yield listener


@pytest.mark.parametrize(
    ("at", "expected"),
    [(STARTED_AT, True), (STARTED_AT + 1.5, True), (STARTED_AT - 0.5, False), ("null", False), ('"soon"', False)],
)
def test_login_since_the_beginning_counts(tmp_path: Path, at: object, expected: bool) -> None:
    path = tmp_path / "admin.sock"

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b'{"v": 1, "ok": true, "result": {"at": %b}}\n' % str(at).encode())

    with listening(path) as listener:
        daemon = threading.Thread(target=answer, args=(listener,))
        daemon.start()
        assert has_passed(path) is expected
        daemon.join()


def test_daemon_that_is_away_is_no_login(tmp_path: Path) -> None:
    assert has_passed(tmp_path / "admin.sock") is False


def test_daemon_that_hangs_is_not_waited_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is held meanwhile: `textgate pam disable` has to get its turn."""
    waits: list[float | None] = []

    class Noting(socket.socket):
        def settimeout(self, value: float | None) -> None:
            waits.append(value)
            super().settimeout(0.01)

    path = tmp_path / "admin.sock"
    with listening(path):
        monkeypatch.setattr("textgate.admin_client.socket.socket", Noting)
        assert has_passed(path) is False
    (wait_s,) = waits
    assert wait_s is not None
    assert wait_s * SERVICES_AT_ONCE < LOCK_WAIT_S
