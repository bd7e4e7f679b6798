# SPDX-License-Identifier: MIT
"""textgated as a service of systemd: starting it, and knowing that it answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .errors import DaemonUnavailable, TextgateError
from .programs import has_systemd, run_program

UNITS = ("textgated.socket", "textgated-admin.socket", "textgated.service")
START_WAIT_S = 20.0
START_POLL_S = 0.2


def is_running() -> bool:
    """Whether systemd runs textgated."""
    return has_systemd() and run_program(["systemctl", "is-active", "--quiet", UNITS[-1]])[0] == 0


def start(status: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Enable textgated, start it anew with what was configured, and wait for its status.

    status: asks the daemon. Without systemd it is up to others to start it. Raises TextgateError.
    """
    if has_systemd():
        # A daemon that failed for want of its credentials starts at once.
        run_program(["systemctl", "reset-failed", "--quiet", *UNITS])
        _systemctl("enable", "--now", "--quiet", *UNITS)
    return restart(status)


def restart(status: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Let systemd hand over anew what the daemon has from it, and wait for its status. No login is lost.

    Raises TextgateError.
    """
    if has_systemd():
        _systemctl("restart", UNITS[-1])
    give_up_at = time.monotonic() + START_WAIT_S
    while True:
        try:
            return status()
        except DaemonUnavailable:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(START_POLL_S)


def _systemctl(*words: str) -> None:
    status, output = run_program(["systemctl", *words])
    if status != 0:
        raise TextgateError("textgated can't be started", hint=output.strip()[-200:] or "journalctl -u textgated")
