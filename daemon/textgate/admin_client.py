# SPDX-License-Identifier: MIT
"""The other end of the admin socket: one verb, one answer (PROTOCOL.md)."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

from .errors import (
    DaemonUnavailable,
    MsisdnError,
    RefusedError,
    StoreUnavailable,
    TextgateError,
    ThrottledError,
)

VERSION = 1
TIMEOUT_S = 30.0  # a test text may take the gateway's whole deadline
ANSWER_MAX_BYTES = 1 << 20

_ERRORS: dict[str, type[TextgateError]] = {
    "refused": RefusedError,
    "usage": MsisdnError,
    "store_away": StoreUnavailable,
}


def call(socket_path: str, verb: str, timeout_s: float | None = None, /, **arguments: object) -> dict[str, Any]:
    """Ask the daemon.

    timeout_s: longest wait for its answer, TIMEOUT_S if None.
    Returns the verb's result. Raises DaemonUnavailable when it can't be reached or doesn't answer in form,
    RefusedError when it says no (ThrottledError for "not yet"), another TextgateError when something broke there.
    """
    timeout_s = TIMEOUT_S if timeout_s is None else timeout_s
    line = json.dumps({"v": VERSION, "verb": verb} | arguments).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            # Waits in the kernel's line where the socket's is full, each in turn. Without waiting there, as Python's
            # own time limit does it, a flood of connections would let nobody else in.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout_s))
            connection.connect(socket_path)
            connection.settimeout(timeout_s)
            connection.sendall(line)
            with connection.makefile("rb") as lines:
                answer = lines.readline(ANSWER_MAX_BYTES)
    except PermissionError:
        raise DaemonUnavailable(
            f"{socket_path}: permission denied", hint="run it with sudo, or join the group textgate-admin"
        ) from None
    except OSError as error:
        raise DaemonUnavailable(
            f"textgated can't be reached at {socket_path}: {error.strerror or 'no answer in time'}",
            hint="is it running? systemctl status textgated",
        ) from None
    return _read(answer)


def _timeval(seconds: float) -> bytes:
    """As setsockopt takes a time (socket(7), SO_SNDTIMEO). Not 0, which is for ever."""
    return struct.pack("@ll", int(seconds), max(1, int(seconds % 1 * 1_000_000)))


def _read(answer: bytes) -> dict[str, Any]:
    if not answer:
        raise DaemonUnavailable("textgated closed the connection", hint="see: journalctl -u textgated")
    try:
        reply = json.loads(answer)
        if reply["v"] != VERSION:
            raise ValueError("version")
        if reply["ok"] is True and isinstance(reply["result"], dict):
            return reply["result"]
        error = reply["error"]
        kind, message, hint = error["kind"], error["message"], error["hint"]
        wait_s = float(error.get("wait_s", 0))
        if not (isinstance(kind, str) and isinstance(message, str) and isinstance(hint, str | None)):
            raise ValueError("error")
    except (ValueError, KeyError, TypeError):
        raise DaemonUnavailable(
            "textgated gave an answer that this command doesn't know",
            hint="restart textgated after an upgrade: systemctl restart textgated",
        ) from None
    if kind == "throttled":
        raise ThrottledError(message, wait_s=wait_s, hint=hint)
    raise _ERRORS.get(kind, TextgateError)(message, hint=hint)
