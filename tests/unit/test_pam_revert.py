# SPDX-License-Identifier: MIT
"""What the timer runs: it needs nothing that can be broken, and says what it did."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from textgate import admin_client, pam_revert
from textgate.errors import DaemonUnavailable, TextgateError
from textgate.pam_admin import Reverted
from textgate.pam_removal import PamRemoval
from textgate.pam_revert import ADMIN_SOCKET, admin_socket, has_passed, main
from textgate.pam_stack import FirstFactor
from textgate.pam_state import Guard

GUARD = Guard("su", FirstFactor.PASSWORD, (), 1000, 1060)


class Admin(PamRemoval):
    """Plays what has become of the tries."""

    def __init__(self, *done: Reverted) -> None:
        super().__init__("/nonexistent")
        self.done = list(done)

    def services_through(self, service: str) -> list[str]:
        return [service, f"{service}-l"]

    def revert_due(self, now_at: int, passed_since: object) -> list[Reverted]:
        assert now_at > 1_700_000_000
        return self.done


@pytest.mark.parametrize(
    ("answers", "is_passed"),
    [
        ({"su": 1000.0}, True),
        ({"su": 999.9}, False),
        ({"su": None}, False),
        ({"su-l": 1001.5}, True),  # by way of su's lines
        ({}, False),
        ({"su": DaemonUnavailable("away")}, False),
        ({"su": TextgateError("broke")}, False),
        ({"su": RuntimeError("unheard of")}, False),
        ({"su": "yesterday"}, False),
        ({"su": DaemonUnavailable("away"), "su-l": 1000.0}, True),
    ],
)
def test_only_a_login_since_the_beginning_counts(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, object], is_passed: bool
) -> None:
    def call(path: str, verb: str, timeout_s: float, *, service: str) -> dict[str, object]:
        assert timeout_s < 10  # the others wait for the lock meanwhile
        assert (path, verb) == ("/x.sock", "last-pass")
        answer = answers.get(service)
        if isinstance(answer, Exception):
            raise answer
        return {"at": answer}

    monkeypatch.setattr(admin_client, "call", call)
    assert has_passed(Admin(), GUARD, "/x.sock") is is_passed


def test_stacks_that_cannot_be_read_are_no_login_and_no_hindrance(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreadable(Admin):
        def services_through(self, service: str) -> list[str]:
            raise TextgateError("can't be read")

    monkeypatch.setattr(admin_client, "call", lambda *_, service: {"at": 1000.0 if service == "su" else None})
    assert has_passed(Unreadable(), GUARD, "/x.sock")
    monkeypatch.setattr(admin_client, "call", lambda *_, service: {"at": None})
    assert not has_passed(Unreadable(), GUARD, "/x.sock")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('[daemon]\nadmin_socket = "/run/x.sock"\n', "/run/x.sock"),
        ("[daemon]\n", ADMIN_SOCKET),
        ("daemon = 3\n", ADMIN_SOCKET),
        ("[[[", ADMIN_SOCKET),
        (None, ADMIN_SOCKET),
    ],
)
def test_broken_configuration_does_not_stand_in_the_way(tmp_path: Path, text: str | None, path: str) -> None:
    file = tmp_path / "textgate.toml"
    if text is not None:
        file.write_text(text)
    assert admin_socket(str(file)) == path


def test_it_says_what_it_did(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pam_revert, "PamRemoval", lambda: Admin(Reverted("sshd", True), Reverted("sudo", False)))
    assert main() == 0
    assert capsys.readouterr().out == "<5>sshd: confirmed by a login\n<5>sudo: taken back, nobody confirmed it\n"
    fault = Reverted("su", False, TextgateError("is left alone", hint="by hand"))
    monkeypatch.setattr(pam_revert, "PamRemoval", lambda: Admin(fault))
    assert main() == 1
    assert capsys.readouterr().out == "<3>su: can't be taken back: is left alone (by hand)\n"


def test_it_loads_the_standard_library_alone() -> None:
    """A broken library of textgate's must not keep a change in place."""
    source = Path(pam_revert.__file__).parents[1]
    program = (
        f"import sys; sys.path.insert(0, {str(source)!r}); import textgate.pam_revert; "
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", program], capture_output=True, text=True, check=True
    )
    foreign = set(done.stdout.split()) - sys.stdlib_module_names - {"textgate", "__main__", "__mp_main__"}
    assert foreign == set()
