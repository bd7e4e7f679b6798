# SPDX-License-Identifier: MIT
"""The dry run's files, its pretended daemon, and what it makes of what PAM answers; PAM itself is played here."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from textgate import pam_dry_run
from textgate.errors import TextgateError
from textgate.pam_conversation import Converse, PamResult, Style
from textgate.pam_dry_run import HELPER, RIGHT, USER, dry_run, stand_in
from textgate.pam_stack import Rule, read_stack, ways_around

BLOCK = Path(__file__).parents[2] / "pam_helper" / "textgate.pam"
FILES = {
    "sudo": "auth sufficient pam_rootok.so\nauth substack common\n@include textgate\nauth required pam_x.so [x y]\n",
    "common": "auth [success=1 default=ignore] pam_x.so\nauth requisite pam_deny.so\nauth required pam_permit.so\n",
    "textgate": BLOCK.read_text(),
}


def rules() -> list[Rule]:
    return read_stack("sudo", FILES.__getitem__)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pam_dry_run, "BLOCK", str(BLOCK))
    monkeypatch.setattr(pam_dry_run, "RUN_DIR", str(tmp_path))
    return tmp_path


def ask(path: str, request: bytes) -> bytes:
    """As the helper asks."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(100)


Judge = Callable[[bool], bool]


def play(monkeypatch: pytest.MonkeyPatch, judge: Judge, seen: list[str] | None = None) -> None:
    """PAM that asks three times as the lines do. judge: its verdict, from whether the daemon passed a code."""

    def authenticate(service: str, user: str, converse: Converse, *, confdir: str) -> PamResult:
        assert (service, user) == ("dry-run", USER)
        text = (Path(confdir) / service).read_text()
        if seen is not None:
            seen.append(text)
        found = re.search(r"--socket (\S+)", text)
        assert found
        assert ask(found[1], b"textgate/1 begin\0PAM_USER=root").startswith(b"ask\n")
        assert converse(Style.INFO, "a text") is None
        has_passed = False
        for _ in range(3):
            code = converse(Style.PROMPT_HIDDEN, "Code: ")
            if code is None:
                break
            has_passed = ask(found[1], b"textgate/1 check\0CODE=" + code.encode()).startswith(b"pass")
            if has_passed:
                break
        return PamResult(0 if judge(has_passed) else 7, "")

    monkeypatch.setattr(pam_dry_run, "authenticate", authenticate)


@pytest.mark.parametrize("given", [None, rules()], ids=["the lines alone", "a service"])
def test_lines_that_work_have_no_faults(
    monkeypatch: pytest.MonkeyPatch, place: Path, given: list[Rule] | None
) -> None:
    play(monkeypatch, lambda has_passed: has_passed)
    assert dry_run(given) == ()
    assert list(place.iterdir()) == []


def test_lines_that_let_everybody_in_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, lambda has_passed: True)
    assert dry_run() == ("three wrong codes let in", "empty answers let in", "giving up at the prompt lets in")


def test_lines_that_let_nobody_in_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, lambda has_passed: False)
    assert dry_run() == ("a right code is refused", "a right code is refused after a wrong one")


def test_service_is_run_with_its_own_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    play(monkeypatch, lambda has_passed: has_passed, seen)
    dry_run(rules())
    assert "auth substack" in seen[0]


def test_other_modules_are_stood_in_for_and_the_jumps_stay(tmp_path: Path) -> None:
    files = stand_in(rules(), "/x.sock", tmp_path)
    assert set(files) == {"dry-run", "dry-run-1"}
    assert files["dry-run"][0] == "auth [success=done new_authtok_reqd=done default=ignore] pam_deny.so"  # rootok
    assert files["dry-run"][1] == f"auth substack {tmp_path}/dry-run-1"
    assert files["dry-run-1"] == [
        "auth [success=1 default=ignore] pam_permit.so",
        "auth [success=ok new_authtok_reqd=ok ignore=ignore default=die] pam_deny.so",
        "auth [success=ok new_authtok_reqd=ok ignore=ignore default=bad] pam_permit.so",
    ]
    begin = files["dry-run"][2]
    assert (
        begin == f"auth [success=8 default=ignore] pam_exec.so quiet stdout seteuid {HELPER} --socket /x.sock begin"
    )
    text = {name: "\n".join(lines) for name, lines in files.items()}
    again = read_stack("dry-run", lambda name: text[Path(name).name])
    assert [rule.actions for rule in again] == [rule.actions for rule in rules()]
    assert ways_around(again) == ()


def test_code_of_the_dry_run_is_no_secret_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is the run's own, and only as long as it runs."""
    seen: list[str] = []
    play(monkeypatch, lambda has_passed: has_passed, seen)
    dry_run()
    found = re.search(r"--socket (\S+)", seen[0])
    assert found
    assert RIGHT not in seen[0]
    with pytest.raises(OSError, match=r"."):
        ask(found[1], b"x")


@pytest.mark.parametrize("text", [None, "auth required pam_permit.so\n"])
def test_lines_that_are_missing_or_not_ours_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    file = tmp_path / "textgate"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(pam_dry_run, "BLOCK", str(file))
    with pytest.raises(TextgateError, match="textgate"):
        dry_run()


def test_comments_may_be_in_any_encoding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "textgate"
    file.write_bytes(b"# caf\xe9\n" + BLOCK.read_bytes())
    monkeypatch.setattr(pam_dry_run, "BLOCK", str(file))
    play(monkeypatch, lambda has_passed: has_passed)
    assert dry_run() == ()


def test_no_room_for_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pam_dry_run, "RUN_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(TextgateError, match="could not be made"):
        dry_run()
