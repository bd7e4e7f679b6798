# SPDX-License-Identifier: MIT
"""The helper is killed, missing, broken, or has no means: PAM is left with no answer, and that is a refusal.

In each case nobody gets in, not even with the right code; the prompts come in time and the refusal is said; and when
the fault is over the next code typed, even in the same login, is taken.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rig.daemon import Daemon
from rig.logins import AWAY, DENIED, GUESSES, HELPER, SENT, STEP_S, Doors, helper_line
from rig.phone import Phone
from rig.redis_proxy import RedisProxy, Script
from rig.scripted_daemon import ScriptedDaemon, kills
from rig.terminal import ScreenError, Terminal
from textgate import texts

LAUNCHER = Path(HELPER)
MODULE = LAUNCHER.with_name("textgate_pam.py")
PYTHON = Path("/usr/bin/python3")
OTHER_SOCKET = Path("/run/textgate/other.sock")
NOTHING = ""
"""What a helper says that was not there to say anything: the person is asked, and told at the end."""


@contextlib.contextmanager
def spoiled(path: Path, spoil: Callable[[Path], None]) -> Iterator[None]:
    """Inside the `with` block the file is as `spoil` makes it; the good one lies beside it meanwhile."""
    kept = path.with_name(f"{path.name}.kept")
    path.rename(kept)
    try:
        spoil(path)
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        kept.rename(path)


def missing(_path: Path) -> None:
    pass


def dangling(path: Path) -> None:
    path.symlink_to("/nowhere")


def is_folder(path: Path) -> None:
    path.mkdir()


def holds(text: str, mode: int = 0o755) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(text)
        path.chmod(mode)

    return write


def not_executable(path: Path) -> None:
    path.write_bytes(path.with_name(f"{path.name}.kept").read_bytes())
    path.chmod(0o644)


def byte_code() -> Path:
    (found,) = (MODULE.parent / "__pycache__").glob("textgate_pam.*.pyc")
    return found


BROKEN: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "helper missing": lambda: spoiled(LAUNCHER, missing),
    "helper not executable": lambda: spoiled(LAUNCHER, not_executable),
    "helper empty": lambda: spoiled(LAUNCHER, holds("")),
    "helper a rest of itself": lambda: spoiled(LAUNCHER, holds("finally:\n    posix._exit(0)\n")),
    "helper a folder": lambda: spoiled(LAUNCHER, is_folder),
    "helper of no interpreter": lambda: spoiled(LAUNCHER, holds("#!/nowhere\n")),
    "module missing": lambda: spoiled(MODULE, missing),
    "module empty": lambda: spoiled(MODULE, holds("")),
    "module with a syntax error": lambda: spoiled(MODULE, holds("def run(:\n")),
    "module that raises": lambda: spoiled(MODULE, holds("raise RuntimeError('secret')\n")),
    "module that ends with 0": lambda: spoiled(MODULE, holds("raise SystemExit(0)\n")),
    "module that runs into nothing": lambda: spoiled(MODULE, holds("def run():\n    return 0\n")),
    "byte code cut": lambda: spoiled(byte_code(), cut),
    "python missing": lambda: spoiled(PYTHON, missing),
    "python dangling": lambda: spoiled(PYTHON, dangling),
    "python a folder": lambda: spoiled(PYTHON, is_folder),
    "python not executable": lambda: spoiled(PYTHON, holds("", 0o644)),
    "python that fails": lambda: spoiled(PYTHON, holds("#!/bin/sh\nexit 127\n")),
    "python that is killed": lambda: spoiled(PYTHON, holds("#!/bin/sh\nkill -SEGV $$\n")),
}


LAUNCHER_SPEAKS = ("python missing", "python dangling", "python a folder", "python not executable")
"""What the launcher itself has a sentence for."""
FOREIGN: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "helper that says yes": lambda: spoiled(LAUNCHER, holds("#!/bin/sh\nexit 0\n")),
    "helper that is another program": lambda: spoiled(LAUNCHER, lambda path: path.symlink_to("/bin/true")),
    "helper that shows its environment": lambda: spoiled(LAUNCHER, holds("#!/bin/sh\nenv\n")),
    "python that says yes": lambda: spoiled(PYTHON, lambda path: path.symlink_to("/bin/true")),
}


def cut(path: Path) -> None:
    """As a full disk leaves it, with a good head."""
    path.write_bytes(path.with_name(f"{path.name}.kept").read_bytes()[:200])


def test_files_of_the_helper_are_installed_as_these_tests_need_them() -> None:
    assert stat.S_IMODE(LAUNCHER.stat().st_mode) == 0o755
    assert LAUNCHER.read_bytes().startswith(b"\x7fELF")
    assert str(PYTHON).encode() in LAUNCHER.read_bytes()
    assert byte_code().stat().st_size > 1000


@pytest.mark.parametrize("name", BROKEN)
def test_broken_helper_is_a_refusal_of_the_right_code_too(
    name: str, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    sentence = AWAY if name in LAUNCHER_SPEAKS else NOTHING
    login = doors.open("pam")
    login.expect(SENT)
    code = phone.next_code()
    with BROKEN[name]():
        login.try_code(code, sentence)
        doors.keep_out("pam", sentence, sentence)
    login.type(code)
    login.expect_in()
    assert len(phone.texts) == 1
    doors.log_in("pam", phone)


@pytest.mark.parametrize("door", ["ssh", "sudo"])
@pytest.mark.parametrize("name", ["helper missing", "module with a syntax error", "python missing"])
def test_broken_helper_is_a_refusal_at_a_real_door(
    door: str, name: str, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    sentence = AWAY if name in LAUNCHER_SPEAKS else NOTHING
    login = doors.open(door)
    login.expect(SENT)
    code = phone.next_code()
    with BROKEN[name]():
        login.try_code(code, sentence)
        doors.keep_out(door, sentence, sentence)
    login.type(code)
    login.expect_in()
    doors.log_in(door, phone)


@pytest.mark.parametrize("door", ["ssh", "sudo", "pam"])
@pytest.mark.parametrize("name", FOREIGN)
def test_helper_that_says_yes_and_asked_nobody_lets_nobody_in(
    door: str, name: str, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    """Exit status 0 was enough once: to `begin`, so that nothing was asked, and to `check`."""
    login = doors.open(door)
    login.expect(SENT)
    with FOREIGN[name]():
        login.type(GUESSES[0])
        login.expect_out(None)
        doors.open(door).expect_out(None)
    assert AWAY in login.terminal.shown or door == "ssh"
    assert daemon.find_events("check") == []


def test_python_that_hangs_holds_the_login_until_the_deadline_only(
    daemon: Daemon, doors: Doors, tmp_path: Path
) -> None:
    source = tmp_path / "hangs.c"
    source.write_text("#include <unistd.h>\nint main(void) { for (;;) pause(); }\n")
    subprocess.run(["cc", "-o", tmp_path / "hangs", source], check=True)
    with helper_line("--deadline 0.1"), spoiled(PYTHON, lambda path: path.symlink_to(tmp_path / "hangs")):
        login = doors.open("pam")
        login.expect(NOTHING, within_s=10)
        login.type(GUESSES[0])
        login.expect(NOTHING, within_s=10)


# --- Killed. ---


@pytest.mark.parametrize(
    ("number", "answer"),
    [
        (signal.SIGKILL, b""),
        (signal.SIGKILL, b"pass"),
        (signal.SIGKILL, b"pass\n"),
        (signal.SIGKILL, b"skip\n"),
        (signal.SIGSEGV, b""),
        (signal.SIGTERM, b""),
        (signal.SIGALRM, b""),
    ],
)
def test_killed_helper_is_a_refusal(number: signal.Signals, answer: bytes, daemon: Daemon, doors: Doors) -> None:
    with (
        helper_line(f"--socket {OTHER_SOCKET}"),
        ScriptedDaemon(kills(number, answer), path=OTHER_SOCKET) as scripted,
    ):
        login = doors.open("pam")
        login.expect(NOTHING)
        login.type(GUESSES[0])
        login.expect(NOTHING)
        assert [request.split()[1].partition(b"\0")[0] for request in scripted.requests] == [b"begin", b"check"]


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_helper_killed_at_each_step_of_a_real_login(door: str, daemon: Daemon, doors: Doors, phone: Phone) -> None:
    with helper_line(f"--socket {OTHER_SOCKET}"), ScriptedDaemon(kills(signal.SIGKILL), path=OTHER_SOCKET):
        doors.keep_out(door, NOTHING, NOTHING)
    doors.log_in(door, phone)


def helper_pid() -> int:
    """The process id of the one helper that is running."""
    (found,) = [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and str(LAUNCHER.parent).encode() in _command_line(entry).split(b"\0")
    ]
    return found


def _command_line(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:  # it ended meanwhile
        return b""


@pytest.mark.parametrize("door", ["ssh", "sudo"])
def test_helper_killed_while_its_right_code_is_judged_lets_nobody_in(
    door: str, redis_proxy: RedisProxy, doors: Doors, phone: Phone
) -> None:
    login = doors.open(door)
    login.expect(SENT)
    code = phone.next_code()
    held = redis_proxy.spoil(Script.CONSUME, is_held=True)
    login.type(code)
    held.wait_reached()
    os.kill(helper_pid(), signal.SIGKILL)
    login.expect(NOTHING)
    held.release()
    login.try_code(code, texts.NONE_WAITING)  # it passed once, and nobody was there to hear it
    doors.log_in(door, phone)


# --- Without means. ---


@pytest.mark.parametrize(
    "limit",
    [
        "--nofile=0",
        "--nofile=3",  # no descriptor beside the three: the script itself can't be opened
        "--as=4000000",  # bytes: less than the interpreter
        "--as=12000000",
        "--data=100000",
        "--stack=4096",
    ],
)
def test_helper_without_means_is_a_refusal_of_the_right_code_too(
    limit: str, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    with helper_line(before=f"/usr/bin/prlimit --core=0 {limit} ", verb="check"):
        login = doors.open("pam")
        login.expect(SENT)
        code = phone.next_code()
        for _ in range(2):
            login.type(code)
            login.told()  # nothing, the helper's own sentence, or what the loader or Python says of its end
        login.type(code)
        login.expect_out(None)
        assert DENIED in login.terminal.rest
        assert daemon.find_events("check") == []
    with helper_line(before=f"/usr/bin/prlimit --core=0 {limit} ", verb="begin"):
        login = doors.open("pam")
        login.told()
        login.try_code(GUESSES[0], texts.NONE_WAITING)
    doors.log_in("pam", phone)


@pytest.mark.parametrize("most", range(3, 12))
def test_pam_program_short_of_descriptors_lets_nobody_in(
    most: int, daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    doors.log_in("pam", phone)  # writes the PAM file
    argv = ["prlimit", f"--nofile={most}", "pamtester", "door", "alice", "authenticate"]
    with Terminal(argv) as terminal:
        with contextlib.suppress(ScreenError):  # it ended before it could ask; if it hangs the next line fails
            for guess in GUESSES:
                terminal.answer("Code: ", guess, within_s=STEP_S)
        assert terminal.expect_end(within_s=STEP_S) != 0
        assert "successfully" not in terminal.shown


def test_sshd_without_descriptors_refuses_and_takes_the_right_code_later(
    daemon: Daemon, doors: Doors, phone: Phone
) -> None:
    login = doors.open("ssh")
    login.expect(SENT)
    code = phone.next_code()
    # libpam runs in a process of its own, the youngest below the listening one.
    pid = youngest(doors.sshd.process.pid)
    (soft,) = re.findall(r"^Max open files +(\d+)", Path(f"/proc/{pid}/limits").read_text(), re.MULTILINE)
    subprocess.run(["prlimit", "--pid", str(pid), "--nofile=3:"], check=True)
    login.try_code(code, NOTHING)
    subprocess.run(["prlimit", "--pid", str(pid), f"--nofile={soft}:"], check=True)
    login.type(code)
    login.expect_in()


def youngest(pid: int) -> int:
    """The last of root's processes below this one, child by child."""
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    children = [child for child in children if Path(f"/proc/{child}").stat().st_uid == 0]
    return youngest(children[-1]) if children else pid


# --- Without standard streams. ---


@pytest.fixture
def streams() -> Callable[[str], str]:
    """Makes a program that runs another one with these redirections; answers what to put before the helper."""

    def make(redirections: str) -> str:
        program = Path("/usr/local/bin/with-streams")
        program.write_text(f'#!/bin/sh\nexec "$@" {redirections}\n')
        program.chmod(0o755)
        return f"{program} "

    return make


@pytest.mark.parametrize(
    ("door", "redirections"),
    [("ssh", ">&-"), ("sudo", ">&-"), ("pam", ">/dev/full"), ("pam", ">&- 2>&-"), ("pam", "2>&-")],
)
def test_helper_that_cannot_speak_cannot_give_its_word(
    *, door: str, redirections: str, daemon: Daemon, streams: Callable[[str], str], doors: Doors, phone: Phone
) -> None:
    can_speak = redirections == "2>&-"
    with helper_line(before=streams(redirections)):
        login = doors.open(door)
        login.expect(SENT if can_speak else NOTHING)
        login.try_code(GUESSES[0], texts.WRONG if can_speak else NOTHING)
        login.type(phone.next_code())
        if can_speak:
            login.expect_in()
        else:
            login.expect(NOTHING)
    doors.log_in(door, phone)


@pytest.mark.parametrize(
    ("door", "redirections"),
    [("ssh", "<&-"), ("sudo", "<&-"), ("pam", "</dev/null"), ("pam", "<&- >&- 2>&-")],
)
def test_helper_that_cannot_read_the_code_refuses(
    *, door: str, redirections: str, daemon: Daemon, streams: Callable[[str], str], doors: Doors, phone: Phone
) -> None:
    sentences = {
        "<&-": AWAY,
        "</dev/null": texts.SENT_ANEW,  # an empty answer asks for a new text
        "<&- >&- 2>&-": NOTHING,
    }
    with helper_line(before=streams(redirections), verb="check"):
        login = doors.open(door)
        login.expect(SENT)
        code = phone.next_code()
        login.try_code(code, sentences[redirections])
        login.try_code(code, sentences[redirections])
        login.type(code)
        login.expect_out(sentences[redirections])
    doors.log_in(door, phone)
