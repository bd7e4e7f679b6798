# SPDX-License-Identifier: MIT
"""How long a command, or the timer that takes PAM changes back, waits for a daemon that hangs."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from textgate import admin_client, pam_revert
from textgate.errors import DaemonUnavailable
from textgate.pam_admin import PamAdmin
from textgate.pam_stack import FirstFactor
from textgate.pam_state import LOCK_WAIT_S, Guard

SERVICES_AT_ONCE = 6  # sshd, sudo, sudo-i, login, su and su-l


class Admin:
    """The part of PamAdmin that is needed: which services go through another's file."""

    def services_through(self, service: str) -> list[str]:
        return [service]


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[str]:
    """The socket of a daemon that takes connections and says nothing, as systemd's does while the daemon is down."""
    path = str(tmp_path / "admin.sock")
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listener:
        listener.bind(path)
        listener.listen()
        yield path


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The times that were to be waited; none of them passes."""
    noted: list[float | None] = []

    class Noting(socket.socket):
        def settimeout(self, value: float | None) -> None:
            noted.append(value)
            super().settimeout(0.01)

    monkeypatch.setattr("textgate.admin_client.socket.socket", Noting)
    return noted


@pytest.mark.parametrize(
    ("given", "waited_s"), [((), admin_client.TIMEOUT_S), ((None,), admin_client.TIMEOUT_S), ((0.5,), 0.5)]
)
def test_call_waits_as_long_as_it_is_told(
    hanging: str, waits: list[float | None], given: tuple[float | None, ...], waited_s: float
) -> None:
    with pytest.raises(DaemonUnavailable):
        admin_client.call(hanging, "status", *given)
    assert waits == [waited_s]


def test_timer_leaves_a_turn_to_those_who_take_the_lines_out(hanging: str, waits: list[float | None]) -> None:
    """It holds the lock while it asks, and `textgate pam disable` waits for that no longer than LOCK_WAIT_S."""
    guard = Guard("sshd", FirstFactor.KEY, (), 1_700_000_000, 1_700_000_300)
    assert pam_revert.has_passed(cast(PamAdmin, Admin()), guard, hanging) is False
    (wait_s,) = waits
    assert wait_s is not None
    assert wait_s * SERVICES_AT_ONCE < LOCK_WAIT_S
