# SPDX-License-Identifier: MIT
"""pam_helper/launcher.c as it is built: Python takes its place in time, or the answer is no."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "pam_helper"
LIMIT_S = 20  # for a process that hangs; nothing here waits that long
AWAY = b"The code service does not answer. Ask your administrator.\n"
NAME = "0123456789abcdef" * 2
ENV = {"PAM_USER": "alice", "PAM_SERVICE": "sshd", "PAM_TYPE": "auth", "TEXTGATE_PROOF": NAME}
NOBODY = ("--socket", "/none", "begin")


def build(folder: Path, python: str | None = None) -> Path:
    """The launcher below a folder, by the Makefile's own rules; python: of another one than Debian's."""
    flags = [] if python is None else [f'CPPFLAGS=-DPYTHON=\\"{python}\\"']
    subprocess.run(["make", "-s", "-C", SOURCE, f"BUILD={folder}", *flags, f"{folder}/pam-helper"], check=True)
    shutil.copy(SOURCE / "textgate_pam.py", folder)
    return folder / "pam-helper"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("helper"))


@pytest.fixture
def launcher(built: Path, tmp_path: Path) -> Path:
    shutil.copy(SOURCE / "textgate_pam.py", tmp_path)
    return Path(shutil.copy(built, tmp_path))


def run(*command: str | Path, env: dict[str, str] = ENV) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command, capture_output=True, env=env, stdin=subprocess.DEVNULL, timeout=LIMIT_S, check=False
    )


def answered(launcher: Path, answer: bytes) -> tuple[subprocess.CompletedProcess[bytes], int]:
    """What the helper makes of a daemon's answer, and the parent's process id that the daemon was told."""
    path, requests = launcher.with_name("auth.sock"), []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while chunk := connection.recv(65536):
                    requests.append(chunk)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        done = run(launcher, "--socket", path, "begin")
        thread.join(LIMIT_S)
    found = re.search(rb"\0PPID=(\d+)", b"".join(requests))
    assert found
    return done, int(found[1])


def test_python_takes_its_place_and_keeps_the_parent(launcher: Path) -> None:
    done, parent = answered(launcher, b"skip\nHello\n")
    assert (done.returncode, done.stdout) == (0, f"Hello\ntextgate-proof: {NAME} sshd alice\n".encode())
    assert (done.stderr, parent) == (b"", os.getpid())
    launcher.with_name("auth.sock").unlink()
    assert answered(launcher, b"ask\nOn its way\n")[0].stdout == b"On its way\n"


@pytest.mark.parametrize(
    "module", [None, "", "raise SystemExit(0)\n", "import none\n", "syntax error\n", "\0", "run = int\n"]
)
def test_no_sound_module_is_a_no(launcher: Path, module: str | None) -> None:
    helper = launcher.with_name("textgate_pam.py")
    helper.unlink() if module is None else helper.write_text(module)
    before = sorted(launcher.parent.iterdir())
    done = run(launcher, "begin")
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
    assert sorted(launcher.parent.iterdir()) == before


def test_byte_code_is_used_and_none_is_written(launcher: Path) -> None:
    helper = launcher.with_name("textgate_pam.py")
    assert run(launcher, *NOBODY).stdout == AWAY
    assert not (launcher.parent / "__pycache__").exists()
    subprocess.run(["/usr/bin/python3", "-m", "py_compile", helper], check=True, timeout=LIMIT_S)
    stat = helper.stat()
    helper.write_bytes(b"#" * stat.st_size)  # of the same size and age: only byte code can be what answers
    os.utime(helper, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert run(launcher, *NOBODY).stdout == AWAY


def test_nothing_of_python_is_taken_from_the_environment_or_the_current_folder(
    launcher: Path, tmp_path: Path
) -> None:
    for name in ("textgate_pam", "posix", "sys", "errno"):
        (tmp_path / "bad").mkdir(exist_ok=True)
        (tmp_path / "bad" / f"{name}.py").write_text("import os; os._exit(0)")
    bad = str(tmp_path / "bad")
    env = {**ENV, "PYTHONPATH": bad, "PYTHONHOME": bad, "PYTHONSTARTUP": f"{bad}/sys.py", "PYTHONINSPECT": "1"}
    done = subprocess.run([launcher, *NOBODY], env=env, cwd=bad, capture_output=True, timeout=LIMIT_S, check=False)
    assert (done.returncode, done.stdout) == (1, AWAY)


@pytest.mark.parametrize("name", ["pam-helper", "./pam-helper", "", "/pam-helper"])
def test_call_that_names_no_folder_is_a_no(launcher: Path, name: str) -> None:
    """Python would look for the module in whatever folder it was called from."""
    done = subprocess.run(
        [name, *NOBODY],
        executable=launcher,
        cwd=launcher.parent,
        env=ENV,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, AWAY)


def test_too_many_words_are_a_no(launcher: Path) -> None:
    assert run(launcher, *["begin"] * 15).returncode == 2  # the helper's own answer
    assert run(launcher, *["begin"] * 16).returncode == 1


# --- Another Python ---


@pytest.mark.parametrize("fault", ["missing", "folder", "not executable", "dangling", "empty", "loop"])
def test_python_that_cannot_be_started_is_a_no_with_a_sentence(tmp_path: Path, fault: str) -> None:
    python = tmp_path / "python3"
    if fault == "folder":
        python.mkdir()
    elif fault in ("dangling", "loop"):
        python.symlink_to("/nowhere" if fault == "dangling" else python)
    elif fault != "missing":
        python.write_text("" if fault == "empty" else "#!/bin/true\n")
        python.chmod(0o755 if fault == "empty" else 0o644)
    done = run(build(tmp_path, str(python)), "begin")
    assert (done.returncode, done.stdout, done.stderr) == (1, AWAY, b"")


@pytest.mark.parametrize("program", ["/bin/true", "/usr/bin/env", "/bin/echo"])
def test_python_that_is_another_program_gives_no_word(tmp_path: Path, program: str) -> None:
    """It may well end with 0; what PAM makes of that is shown in the tests of the module."""
    done = run(build(tmp_path, program), "begin")
    assert b"\ntextgate-proof: " not in b"\n" + done.stdout


def pauses(tmp_path: Path) -> Path:
    """A program that waits for ever, whatever its arguments are."""
    source, program = tmp_path / "pauses.c", tmp_path / "pauses"
    source.write_text("#include <unistd.h>\nint main(void) { for (;;) pause(); }\n")
    subprocess.run(["cc", "-o", program, source], check=True)
    return program


@pytest.mark.parametrize("hostile", ["plain", "alarm ignored", "alarm blocked"])
def test_python_that_hangs_ends_at_the_deadline(tmp_path: Path, hostile: str) -> None:
    launcher = build(tmp_path, str(pauses(tmp_path)))

    def prepare() -> None:
        if hostile == "alarm ignored":
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
        if hostile == "alarm blocked":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})

    began = time.monotonic()
    with subprocess.Popen([launcher, "--deadline", "0.1", "begin"], preexec_fn=prepare) as process:  # noqa: PLW1509
        assert process.wait(LIMIT_S) == -signal.SIGALRM
    assert 5 <= time.monotonic() - began < 10  # the helper's own deadline, rounded up, and the five seconds to spare


@pytest.mark.parametrize(
    ("words", "wanted_s"),
    [
        (["begin"], 15),
        (["--deadline", "300", "begin"], 306),
        (["--deadline", "2", "--deadline", "60", "begin"], 66),
        (["--deadline", "301", "begin"], 15),
        (["--deadline", "x", "begin"], 6),  # which the helper refuses
        (["--deadline", "-1", "begin"], 15),
        (["begin", "--deadline"], 15),
    ],
)
def test_deadline_is_that_of_the_line(tmp_path: Path, words: Sequence[str], wanted_s: int) -> None:
    program = tmp_path / "shows"
    (tmp_path / "shows.c").write_text(
        '#include <stdio.h>\n#include <unistd.h>\nint main(void) { printf("%u", alarm(0)); return 1; }\n'
    )
    subprocess.run(["cc", "-o", program, tmp_path / "shows.c"], check=True)
    left_s = int(run(build(tmp_path, str(program)), *words).stdout)
    assert wanted_s - 1 <= left_s <= wanted_s
