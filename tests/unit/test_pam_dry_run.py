# SPDX-License-Identifier: MIT
"""The dry run's files, its pretended daemon, and what it makes of what PAM answers; PAM itself is played here."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from textgate import pam_dry_run
from textgate.errors import TextgateError
from textgate.pam_block import HELPER
from textgate.pam_conversation import Converse, PamResult, Style
from textgate.pam_dry_run import FOREIGN, RIGHT, USER, dry_run, stand_in
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


@dataclass(frozen=True)
class Lines:
    """What is wrong with lines that are played. judge: their verdict, from that of the daemon."""

    judge: Callable[[bool], bool] = bool
    tries: int = 3
    stops_at_abort: bool = True
    takes_any_helper: bool = False
    asks_without_need: bool = False
    sets_credentials: bool = True


def play(monkeypatch: pytest.MonkeyPatch, lines: Lines, seen: list[str] | None = None) -> None:
    """PAM that does as the lines do."""

    def authenticate(
        service: str, user: str, converse: Converse, *, confdir: str, sets_credentials: bool
    ) -> PamResult:
        assert (service, user) == ("dry-run", USER)
        text = (Path(confdir) / service).read_text()
        if seen is not None:
            seen.append(text)
        found = re.search(rf"{HELPER} .*--socket (\S+) begin", text)
        if found is None:
            assert FOREIGN in text
            return PamResult(0 if lines.takes_any_helper else 7, "")
        said = ask(found[1], b"textgate/1 begin\0PAM_USER=root")
        assert converse(Style.INFO, "a text") is None
        has_passed = said == b"skip\n"
        for _ in range(0 if has_passed and not lines.asks_without_need else lines.tries):
            code = converse(Style.PROMPT_HIDDEN, "Code: ")
            if code is None and lines.stops_at_abort:
                break
            has_passed = ask(found[1], b"textgate/1 check\0CODE=" + (code or "").encode()).startswith(b"pass")
            if has_passed:
                break
        is_in = lines.judge(has_passed) and (lines.sets_credentials or not sets_credentials)
        return PamResult(0 if is_in else 7, "")

    def set_credentials(service: str, user: str, *, confdir: str) -> PamResult:
        assert HELPER in (Path(confdir) / service).read_text()
        return PamResult(0 if lines.sets_credentials else 7, "")

    monkeypatch.setattr(pam_dry_run, "authenticate", authenticate)
    monkeypatch.setattr(pam_dry_run, "set_credentials", set_credentials)


@pytest.mark.parametrize("given", [None, rules()], ids=["the lines alone", "a service"])
def test_lines_that_work_have_no_faults(
    monkeypatch: pytest.MonkeyPatch, place: Path, given: list[Rule] | None
) -> None:
    play(monkeypatch, Lines())
    assert dry_run(given) == ()
    assert list(place.iterdir()) == []


SKIP = "who needs no code is refused, or asked for one"
RIGHTS = tuple(f"a right code is refused{when}" for when in ("", " after a wrong one", " at the third try"))
GIVEN_UP = tuple(
    f"giving up at the {which}prompt lets in, or is a try like others" for which in ("", "second ", "third ")
)
CREDENTIALS = "logins through sshd fail after a right code (pam_setcred)"


@pytest.mark.parametrize(
    ("lines", "faults"),
    [
        (
            Lines(judge=lambda _: True),
            ("three wrong codes let in", "more than three tries are given", "empty answers let in", *GIVEN_UP),
        ),
        (Lines(judge=lambda _: False), (SKIP, *RIGHTS)),
        (Lines(tries=1), RIGHTS[1:]),
        (Lines(tries=2), RIGHTS[2:]),
        (Lines(tries=4), ("more than three tries are given",)),
        (Lines(stops_at_abort=False), GIVEN_UP[:2]),
        (Lines(takes_any_helper=True), ("a helper that asks nobody lets in",)),
        (Lines(asks_without_need=True), (SKIP,)),
        (Lines(sets_credentials=False), (SKIP, *RIGHTS, CREDENTIALS)),
    ],
)
def test_each_fault_is_told(monkeypatch: pytest.MonkeyPatch, lines: Lines, faults: Sequence[str]) -> None:
    play(monkeypatch, lines)
    assert set(dry_run()) == set(faults)


def test_right_code_is_good_once(tmp_path: Path) -> None:
    """As with the real daemon: lines that check it twice would refuse it."""
    path = str(tmp_path / "auth.sock")
    request = f"textgate/1 check\0CODE={RIGHT}".encode()
    with pam_dry_run._PretendedDaemon(path, "ask").listening():
        assert ask(path, b"textgate/1 begin\0PAM_USER=root") == b"ask\n"
        assert [ask(path, request)[:4] for _ in range(2)] == [b"pass", b"deny"]


def test_socket_of_the_line_is_not_asked(tmp_path: Path) -> None:
    text = BLOCK.read_text().replace(f"{HELPER} ", f"{HELPER} --socket /run/textgate/real.sock --deadline 3 ")
    rules = read_stack("textgate", lambda _: text)
    lines = [line for line in stand_in(rules, "/x.sock", tmp_path)["dry-run"] if HELPER in line]
    assert len(lines) == 4
    assert all(re.search(r"--deadline 3 --socket /x.sock (begin|check)$", line) for line in lines)


def test_service_is_run_with_its_own_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    play(monkeypatch, Lines(), seen)
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
    assert files["dry-run"][2] == "auth [ignore=ignore default=die] pam_textgate.so start"
    assert (
        files["dry-run"][3]
        == f"auth [success=8 default=ignore] pam_exec.so quiet stdout seteuid {HELPER} --socket /x.sock begin"
    )
    text = {name: "\n".join(lines) for name, lines in files.items()}
    again = read_stack("dry-run", lambda name: text[Path(name).name])
    assert [rule.actions for rule in again] == [rule.actions for rule in rules()]
    assert ways_around(again) == ()


def test_code_of_the_dry_run_is_no_secret_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket is the run's own, and only as long as it runs."""
    seen: list[str] = []
    play(monkeypatch, Lines(), seen)
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
    play(monkeypatch, Lines())
    assert dry_run() == ()


def test_no_room_for_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pam_dry_run, "RUN_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(TextgateError, match="could not be made"):
        dry_run()
