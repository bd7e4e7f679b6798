# SPDX-License-Identifier: MIT
"""The corpus of the fuzz targets, run once without a fuzzer: what it found stays found."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fuzz import corpus_file, targets
from fuzz.targets import TARGETS, helper
from textgate import admin, client, session
from textgate.msisdn import Msisdn
from textgate.protocol import Request, parse_request
from textgate.session import build_session

CASES = [(target, data) for target in TARGETS for data in corpus_file.read(target)]


@pytest.mark.parametrize(("target", "data"), CASES, ids=[f"{target}-{data[:20]!r}" for target, data in CASES])
def test_target_holds_for_an_input_of_the_corpus(target: str, data: bytes) -> None:
    TARGETS[target](data)


def test_every_target_has_a_corpus_and_every_corpus_a_target() -> None:
    assert {path.stem for path in corpus_file.CORPUS.iterdir()} == set(TARGETS)
    for target in TARGETS:
        assert 1 <= len(corpus_file.read(target)) <= corpus_file.INPUTS_MAX


def test_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in corpus_file.CORPUS.iterdir()) < 64 * 1024


def _prefix_is_enough(verb: str, answer: bytes) -> tuple[int, str]:
    return (0 if answer.startswith((b"pass", b"skip")) else 1), answer.decode(errors="replace")


# What each target is there to find, put in on purpose.
FAULTS: list[tuple[str, Any, str, Any]] = [
    ("helper_answer", helper, "judge", _prefix_is_enough),
    ("helper_answer", helper, "printable", lambda text: text),
    ("helper_input", helper, "pick", lambda environ: {b"PAM_USER": environ}),
    ("opaque_ids", client, "_opened", lambda _sealer, text: {"user": text}),
    ("admin_socket", admin, "_SURROGATE", re.compile("(?!)")),
    ("number", Msisdn, "__str__", lambda self: self.reveal()),
]


@pytest.mark.parametrize(("target", "place", "name", "fault"), FAULTS, ids=[f"{row[0]}-{row[2]}" for row in FAULTS])
def test_target_finds_a_fault(
    monkeypatch: pytest.MonkeyPatch, target: str, place: Any, name: str, fault: Any
) -> None:
    monkeypatch.setattr(place, name, fault)
    with pytest.raises((AssertionError, UnicodeError)):
        for data in corpus_file.read(target):
            TARGETS[target](data)


def test_target_of_the_auth_socket_finds_a_lost_field(monkeypatch: pytest.MonkeyPatch) -> None:
    def losing(data: bytes) -> Request:
        return parse_request(data.replace(b"\0PPID=100", b""))

    monkeypatch.setattr(targets, "parse_request", losing)
    with pytest.raises(AssertionError):
        for data in corpus_file.read("auth_socket"):
            TARGETS["auth_socket"](data)


def test_target_of_the_session_finds_a_peer_that_is_believed_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def believing(fields: dict[str, str], _services: tuple[str, ...]) -> session.Session:
        return build_session(fields, (fields["PAM_SERVICE"],))

    monkeypatch.setattr(targets, "build_session", believing)
    with pytest.raises(AssertionError):
        TARGETS["session"](b"\x00192.0.2.1 1 192.0.2.2 2\x00alice\x00sudo\x00ssh")
