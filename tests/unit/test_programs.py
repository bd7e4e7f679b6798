# SPDX-License-Identifier: MIT
"""Programs of the host: run without a shell and without our environment."""

from __future__ import annotations

import pytest

from textgate import programs
from textgate.programs import NOT_ENDED, NOT_FOUND, pipe_program, run_program


def test_programs_are_run_without_a_shell_and_without_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/evil.so")
    status, output = run_program(["env"])
    assert status == 0
    assert "evil" not in output
    assert run_program(["sh", "-c", "echo out; echo err >&2; exit 3"]) == (3, "out\nerr\n")
    assert run_program(["no-such-program"])[0] == 127


def test_program_that_is_fed_answers_by_two_ways() -> None:
    assert pipe_program(["sh", "-c", "cat; echo err >&2; exit 3"], b"in\xff") == (3, b"in\xff", "err\n")
    assert pipe_program(["no-such-program"], b"in")[0] == NOT_FOUND


def test_program_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "TIMEOUT_S", 0.05)
    assert run_program(["sleep", "600"])[0] == NOT_ENDED


def test_program_without_input_reads_nothing_of_ours() -> None:
    assert run_program(["cat"]) == (0, "")
