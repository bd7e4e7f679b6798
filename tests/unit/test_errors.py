# SPDX-License-Identifier: MIT
"""The exception tree: exit codes that scripts rely on, and messages a person can use."""

from __future__ import annotations

import inspect

import pytest

from textgate import errors
from textgate.errors import ConfigError, ExitCode, ProtocolError, TextgateError


def _tree() -> list[type[TextgateError]]:
    return [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, TextgateError)]


def test_exit_codes_are_those_of_the_manual() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0,
        "FAILURE": 1,
        "USAGE": 2,
        "CONFIG": 3,
        "DAEMON_AWAY": 4,
        "REFUSED": 5,
        "WARNINGS": 6,
    }


def test_no_error_ends_as_a_success() -> None:
    assert all(kind.exit_code != ExitCode.OK for kind in _tree())


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        ("ConfigError", 3),
        ("CredentialError", 3),
        ("MsisdnError", 2),
        ("DaemonUnavailable", 4),
        ("RefusedError", 5),
        ("StoreUnavailable", 1),
        ("DirectoryError", 1),
        ("VaultError", 1),
        ("ProtocolError", 1),
        ("TextgateError", 1),
    ],
)
def test_each_kind_has_its_exit_code(kind: str, exit_code: int) -> None:
    assert getattr(errors, kind).exit_code == exit_code
    assert issubclass(getattr(errors, kind), TextgateError)


def test_error_has_message_and_hint() -> None:
    error = TextgateError("it broke", hint="mend it")
    assert (str(error), error.message, error.hint) == ("it broke", "it broke", "mend it")
    assert TextgateError("it broke").hint is None


def test_configuration_error_names_file_and_every_fault() -> None:
    error = ConfigError("/etc/x.toml", ("[a] b: no", "[c] d: no"))
    assert str(error) == "/etc/x.toml: [a] b: no; [c] d: no"
    assert error.faults == ("[a] b: no", "[c] d: no")


def test_protocol_error_has_a_fixed_word() -> None:
    assert ProtocolError("too_slow").reason == "too_slow"
    assert str(ProtocolError("too_slow")) == "request refused: too_slow"
