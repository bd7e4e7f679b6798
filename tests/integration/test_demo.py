# SPDX-License-Identifier: MIT
"""`make demo`, played and at a terminal, and that its last line is not said when it isn't so."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from demo import outside
from demo.transcript_svg import picture
from rig.terminal import ScreenError, Terminal

pytestmark = pytest.mark.usefixtures("world")

ROOT = Path(__file__).resolve().parents[2]
RUN = "tests/demo/run"
LIMIT_S = 120
PROVED = (
    "demo: proved: key + texted code → ssh login; password + texted code → sudo root; a wrong code was refused "
    "(2 texts sent, nothing left behind)"
)
REAL = {"GATEWAYAPI_KEY": "key-4711", "GATEWAYAPI_SECRET": "secret-4712", "PHONE": "+45 12 34 56 78"}


def play(root: Path = ROOT, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The demo without a terminal."""
    return subprocess.run(
        [root / RUN], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S, check=False,
        env=os.environ | (environment or {}),
    )  # fmt: skip


def texted_code(terminal: Terminal, number: int) -> str:
    """The code of the n-th text that the phone beside the login shows (drawn again with each new one)."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        codes = list(dict.fromkeys(re.findall(r"(\d{6}) is your", terminal.shown)))
        if len(codes) >= number:
            return str(codes[number - 1])
        terminal.wait_for_more(deadline)
    raise TimeoutError


def test_demo_plays_by_itself_where_no_terminal_is() -> None:
    done = play()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == PROVED
    assert all(character.isprintable() or character == "\n" for character in done.stdout)
    assert len(set(re.findall(r"│ (\d{6}) is your login code", done.stdout))) == 2
    assert "\nroot\n" in done.stdout


def test_demo_lets_a_person_log_in_at_a_terminal() -> None:
    with Terminal([str(ROOT / RUN)], environment={"TERM": "xterm"}) as terminal:
        terminal.expect("$ ssh alice", within_s=LIMIT_S)
        terminal.expect("Code:")
        terminal.enter("000000")
        terminal.expect("not right")
        terminal.expect("Code:")
        terminal.enter(texted_code(terminal, 1))
        terminal.expect("web1:~$")
        terminal.enter("sudo whoami")
        terminal.expect("for alice:")
        terminal.enter(re.findall(r"\b\w{4}-\w{4}-\w{4}\b", terminal.shown)[0])
        terminal.expect("Code:")
        terminal.enter(texted_code(terminal, 2))
        terminal.expect("root")
        terminal.expect("web1:~$")  # sudo drops what is typed before
        terminal.enter("exit")
        assert terminal.expect_end() == 0
        assert PROVED in terminal.shown


def test_demo_that_a_person_leaves_early_says_what_did_not_happen() -> None:
    with Terminal([str(ROOT / RUN)], environment={"TERM": "xterm"}) as terminal:
        terminal.expect("Code:", within_s=LIMIT_S)
        assert interrupt_until_it_ends(terminal) == 1
        assert "demo: failed: this did not happen: key + texted code → ssh login" in terminal.shown


def interrupt_until_it_ends(terminal: Terminal) -> int:
    """Ctrl-C as a person would press it; ssh can lose one that comes between its prompt and its read."""
    for _ in range(9):
        terminal.interrupt()
        with contextlib.suppress(ScreenError):
            return terminal.expect_end(within_s=3)
    terminal.interrupt()
    return terminal.expect_end()


@pytest.mark.parametrize("broken", ["int main(void) { return 0; }\n", "int main(void) { return 1; }\n"])
def test_demo_fails_with_a_helper_that_says_yes_or_no_to_everybody(broken: str, tmp_path: Path) -> None:
    for part in ("build/pam", "daemon", "docs", "examples", "packaging", "pam_helper", "systemd", "tests"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (ROOT / "Makefile", *ROOT.glob("*.md")):
        shutil.copy(file, tmp_path)
    (tmp_path / "pam_helper/launcher.c").write_text(broken)
    done = play(tmp_path)
    assert done.returncode == 1
    assert "demo: proved" not in done.stdout
    assert done.stderr.startswith("demo: failed: ")


def test_demo_with_real_texts_needs_a_terminal_and_shows_no_secret() -> None:
    done = play(environment=REAL)
    assert done.returncode == 2
    assert "a person must type the code" in done.stderr
    assert not any(value in done.stdout + done.stderr for value in REAL.values())


def test_demo_with_half_of_the_credentials_names_the_other_half() -> None:
    done = play(environment={"GATEWAYAPI_KEY": "key-4711"})
    assert done.returncode == 2
    assert "GATEWAYAPI_SECRET and PHONE not set" in done.stderr


def test_demo_notices_what_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded = tmp_path / "guarded"
    guarded.mkdir()
    monkeypatch.setattr(outside, "GUARDED", (str(guarded), str(tmp_path / "absent")))
    before = outside.look_around()
    assert outside.differences(before, outside.look_around()) == []
    (tmp_path / "absent").touch()
    (guarded / "file").touch()
    assert outside.differences(before, outside.look_around()) == [str(guarded), str(tmp_path / "absent")]


def test_picture_of_a_transcript_is_always_the_same_and_escapes_what_it_shows() -> None:
    transcript = (
        "$ ssh alice@127.0.0.1\n   ╭─ <phone> ─╮\nCode: 123456      ← a & b\ndemo: proved: " + "x " * 80 + "\n"
    )
    assert picture(transcript) == picture(transcript)
    assert "╭─ &lt;phone&gt; ─╮" in picture(transcript)
    assert "← a &amp; b" in picture(transcript)
    with pytest.raises(ValueError, match="control characters"):
        picture("\x1b[1mbold\x1b[0m")
