# SPDX-License-Identifier: MIT
"""The exception tree and the exit codes of the commands.

A refusal is a value, an exception means that something broke. No message here may carry a code, a secret,
a full phone number or text that came from outside unchecked. Messages are lower case without a full stop;
`hint` says what to do next.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What `textgate` and `textgated` answer to the shell; stable, documented in the README."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    CONFIG = 3
    DAEMON_AWAY = 4
    REFUSED = 5
    WARNINGS = 6


class TextgateError(Exception):
    """Something broke. `hint` is the next step for the person who reads it, or None."""

    exit_code: ExitCode = ExitCode.FAILURE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(TextgateError):
    """The configuration can't be used. `faults` names every fault found, each with its key or line."""

    exit_code = ExitCode.CONFIG

    def __init__(self, path: str, faults: tuple[str, ...], *, hint: str | None = None) -> None:
        super().__init__(f"{path}: " + "; ".join(faults), hint=hint)
        self.path = path
        self.faults = faults


class CredentialError(TextgateError):
    """A key or secret is missing, unreadable, malformed, or readable by others."""

    exit_code = ExitCode.CONFIG


class ProtocolError(TextgateError):
    """The peer on a socket sent what the protocol doesn't allow. `reason` is a fixed word for the journal."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"request refused: {reason}")
        self.reason = reason


class UsageError(TextgateError):
    """The command line can't be used."""

    exit_code = ExitCode.USAGE


class StoreUnavailable(TextgateError):
    """Redis can't be reached, is read-only, is full, or answered in a way that can't be used.

    is_absent: nobody takes connections at its address (away.py), the only fault for which [failmode] may let in.
    """

    def __init__(self, message: str, *, hint: str | None = None, is_absent: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.is_absent = is_absent


class StoreUnsound(StoreUnavailable):
    """What answers is not the Redis that textgate left: it is not away, so no [failmode] speaks for it."""


class DirectoryError(TextgateError):
    """The phone directory can't be read or changed."""


class MsisdnError(TextgateError):
    """A phone number can't be used. The message never repeats the number."""

    exit_code = ExitCode.USAGE


class VaultError(TextgateError):
    """A sealed record can't be opened: wrong or missing key, or the record was changed or moved."""


class DaemonUnavailable(TextgateError):
    """The command could not reach textgated."""

    exit_code = ExitCode.DAEMON_AWAY


class RefusedError(TextgateError):
    """The daemon understood and said no (wrong code, throttled, gateway refused)."""

    exit_code = ExitCode.REFUSED


class ThrottledError(RefusedError):
    """The daemon said "not yet": it makes sense to ask again in wait_s seconds."""

    def __init__(self, message: str, *, wait_s: float, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.wait_s = wait_s
