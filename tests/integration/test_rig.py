# SPDX-License-Identifier: MIT
"""The rig itself: a world hides the machine and leaves nothing behind, and what the rig starts, it also ends.

The world that these tests run in plays the machine; the worlds that they make are worlds inside of it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rig.daemon import Daemon, textgate
from rig.pam import BLOCK, PAM_DIRECTORY, FirstFactor, pam_lines
from rig.people import ALICE, BOB, CAROL, HOST_NAME, KEPT, PEOPLE, Person, is_in_world
from rig.phone import Phone, wrong_code
from rig.process import Process, Program, RigError, run_as
from rig.redis_server import RedisServer
from rig.sshd import Sshd
from rig.terminal import CTRL_Z, ScreenError, Terminal, su, sudo
from rig.world import new_password

pytestmark = pytest.mark.usefixtures("world")

IN_WORLD = Path(__file__).resolve().parents[1] / "rig/in-world"
SHELL = "/bin/sh"
LIMIT_S = 60


def run_in_world(
    script: str, *options: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a new world inside this one."""
    return subprocess.run(
        [IN_WORLD, *options, "--", SHELL, "-euc", script],
        capture_output=True, text=True, timeout=LIMIT_S, check=False, env=os.environ | (environment or {}),
    )  # fmt: skip


def processes() -> dict[int, str]:
    """All processes that can be seen here, those of worlds inside included, but kernel threads and ourselves."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it ended meanwhile
                continue
            found[int(entry.name)] = b" ".join(words).decode(errors="replace")
    return {pid: line for pid, line in found.items() if line and pid != os.getpid()}


def files(*roots: str) -> dict[str, str]:
    """Every file below the roots: kind, mode, owner, and a hash of what is in it."""
    found = {}
    for root in roots:
        for path in [Path(root), *Path(root).rglob("*")]:
            status = path.lstat()
            content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else ""
            digest = hashlib.sha256(content if isinstance(content, bytes) else str(content).encode()).hexdigest()
            found[str(path)] = f"{status.st_mode:o} {status.st_uid} {status.st_gid} {digest}"
    return found


# --- The world. ---


def test_world_has_its_own_people_and_no_homes_of_the_machine() -> None:
    assert {entry.name for entry in Path("/home").iterdir()} == {person.name for person in PEOPLE}
    assert all(pwd.getpwnam(person.name).pw_dir == f"/home/{person.name}" for person in PEOPLE)
    assert socket.gethostname() == HOST_NAME


def test_world_with_a_private_network_reaches_nothing_but_itself() -> None:
    with socket.socket() as probe, pytest.raises(OSError) as refused:
        probe.connect(("192.0.2.1", 443))  # TEST-NET-1 (RFC 5737)
    assert refused.value.errno == errno.ENETUNREACH
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())


def test_world_leaves_files_mounts_and_names_as_they_were() -> None:
    seen = (
        "/etc",
        "/home",
        "/root",
        "/run",
        "/usr/bin",
        "/usr/libexec",
        "/usr/lib/python3/dist-packages/textgate",
        "/var/lib/textgate",
    )
    before = (files(*seen), Path("/proc/self/mountinfo").read_text(), socket.gethostname(), PEOPLE[0].password)
    done = run_in_world(
        "for place in etc usr var home root tmp run dev/shm etc/pam.d usr/bin; do echo x >/$place/left-behind; done\n"
        "chmod 0 /etc/shadow; chown alice /etc/hosts; rm /etc/passwd /usr/bin/textgate; mount -t tmpfs x /mnt\n"
        "echo changed >/etc/hostname; echo changed >/proc/sys/kernel/hostname; echo done"
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert (
        files(*seen),
        Path("/proc/self/mountinfo").read_text(),
        socket.gethostname(),
        PEOPLE[0].password,
    ) == before
    assert not Path("/tmp/left-behind").exists()


def test_worlds_processes_end_with_its_command() -> None:
    done = run_in_world("setsid sleep 86391 & setsid sh -c 'trap \"\" TERM HUP; sleep 86391; :' & echo started")
    assert done.stdout == "started\n"
    assert [line for line in processes().values() if "86391" in line] == []


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 128 + signal.SIGTERM)]
)
def test_world_answers_exit_status_of_its_command(script: str, status: int) -> None:
    assert run_in_world(script).returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_world_ends_with_the_process_that_made_it(number: signal.Signals) -> None:
    world = subprocess.Popen(
        [IN_WORLD, "--", SHELL, "-c", "echo up; sleep 86392; :"], stdout=subprocess.PIPE, text=True
    )
    assert world.stdout is not None
    with world.stdout:
        assert world.stdout.readline() == "up\n"
        world.send_signal(number)
        world.wait(LIMIT_S)
        assert world.stdout.read() == ""  # the last one who could write has gone
    assert [line for line in processes().values() if "86392" in line] == []


def test_ctrl_c_ends_the_command_and_the_world() -> None:
    with Terminal([str(IN_WORLD), "--", SHELL, "-c", "echo up; exec sleep 86393"]) as terminal:
        terminal.expect("up\n", within_s=LIMIT_S)
        terminal.interrupt()
        assert terminal.expect_end() == 128 + signal.SIGINT
    assert [line for line in processes().values() if "86393" in line] == []


def test_shell_in_a_world_has_job_control() -> None:
    with Terminal([str(IN_WORLD), "--", "bash", "--norc", "-i"], environment={"PS1": "> "}) as terminal:
        terminal.expect("> ", within_s=LIMIT_S)
        terminal.enter("sh -c 'echo is $((1+1)) in front; exec sleep 86394'")
        terminal.expect("is 2 in front")
        terminal.interrupt(CTRL_Z)
        terminal.expect("Stopped")
        terminal.enter("disown -a; exit 5")
        assert terminal.expect_end() == 5


def test_world_keeps_a_secret_out_of_the_environment() -> None:
    done = run_in_world(
        f"stat -c '%a %U' {KEPT}/TOKEN; cat {KEPT}/TOKEN; env; tr '\\0' '\\n' </proc/1/cmdline; ls {KEPT}",
        "--keep", "TOKEN", "--keep", "ABSENT", environment={"TOKEN": "9f8e7d"},
    )  # fmt: skip
    assert done.stdout.startswith("600 root\n9f8e7d")
    assert done.stdout.count("9f8e7d") == 1
    assert done.stdout.endswith("TOKEN\n")
    assert "ABSENT\n" not in done.stdout.rpartition("TOKEN")[2]


def test_world_drops_variables_that_lead_out_of_it() -> None:
    leading = {"XDG_RUNTIME_DIR": "/run/user/0", "SUDO_USER": "x", "TMUX": "x", "TMPDIR": "/x", "NOTIFY_SOCKET": "/x"}
    done = run_in_world("env", environment={**leading, "STAYS": "1"})
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert "STAYS" in names
    assert names.isdisjoint(leading)


def test_only_root_makes_a_world(tmp_path: Path) -> None:
    copy = Path("/var/tmp/tests/rig")  # where alice can read it, wherever the repository is
    shutil.copytree(IN_WORLD.parent, copy)
    done = subprocess.run(
        [*run_as(ALICE.name), str(copy / "in-world"), "true"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    shutil.rmtree(copy.parent)
    assert done.returncode == 125
    assert done.stderr.splitlines() == [
        "in-world: error: only root can make a private world",
        "hint: run it as root, such as: sudo make integration",
    ]


def test_outside_a_world_the_tests_fail_and_say_what_to_do() -> None:
    hide = 'mount -t tmpfs hidden /run/textgate-world && exec "$@"'
    pytest_argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(IN_WORLD.parents[2]),
        f"{__file__}::test_passwords_differ",
    ]
    done = subprocess.run(
        ["unshare", "--mount", SHELL, "-c", hide, SHELL, *pytest_argv],
        cwd=IN_WORLD.parents[2], capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "hint: make integration" in done.stdout
    assert "1 error" in done.stdout
    assert is_in_world()


def test_passwords_differ() -> None:
    assert len({new_password() for _ in range(50)} | {person.password for person in PEOPLE}) == 50 + len(PEOPLE)


# --- Programs. ---


def test_program_that_ends_before_it_is_ready_is_reported_with_its_last_words() -> None:
    with pytest.raises(RigError, match=r"(?s)ended \(3\) before readiness.*no such luck"):
        Process.start(Program("luckless", (SHELL, "-c", "echo no such luck >&2; exit 3")))


def test_process_hears_lines_notices_and_end() -> None:
    script = """import os, socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.connect(os.environ["NOTIFY_SOCKET"])
    print("first", flush=True)
    notify.send(b"READY=1\\nSTATUS=fine")
    print("last", end="")"""
    process = Process.start(Program("speaker", ("/usr/bin/python3", "-c", script), user=BOB.name))
    assert process.wait() == 0
    assert process.lines == ["first", "last"]
    assert process.notices == ["READY=1", "STATUS=fine"]
    assert process.stop() == 0  # once more does no harm


def test_paused_process_is_stopped_in_order() -> None:
    process = Process(Program("sleeper", ("/bin/sleep", "86395")))
    process.pause()
    assert "State:\tT" in Path(f"/proc/{process.pid}/status").read_text()
    assert process.stop() == -signal.SIGTERM


def test_redis_keeps_its_data_over_a_crash(redis_server: RedisServer) -> None:
    redis_server.client.set("kept", "1")
    redis_server.kill()
    redis_server.start()
    assert redis_server.client.get("kept") == "1"


def test_redis_refuses_writes_when_told_to(redis_server: RedisServer) -> None:
    for refuse in (redis_server.set_readonly, redis_server.set_full):
        refuse(True)
        with pytest.raises(Exception, match=r"read only replica|maxmemory"):
            redis_server.client.set("a", "1")
        refuse(False)
        assert redis_server.client.set("a", "1")


def test_daemon_runs_as_its_own_user_on_sockets_that_outlive_it(daemon: Daemon) -> None:
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    uid = pwd.getpwnam("textgate").pw_uid
    assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in status
    first = daemon.process.pid
    daemon.restart()
    assert daemon.process.pid != first
    assert textgate("status").exit_code == 0


def test_daemon_makes_its_own_sockets_where_nobody_passes_any(daemon: Daemon) -> None:
    daemon.close()
    with Daemon(is_socket_activated=False):
        assert textgate("status").exit_code == 0


def test_pam_lines_are_taken_out_again() -> None:
    before = files(str(PAM_DIRECTORY))
    with pam_lines("sudo", FirstFactor.PASSWORD) as lines:
        assert BLOCK in lines
        assert (PAM_DIRECTORY / "sudo").read_text() == lines
    assert files(str(PAM_DIRECTORY)) == before


def test_screen_of_a_failure_is_in_its_message() -> None:
    with (
        Terminal(["echo", "something else"]) as terminal,
        pytest.raises(ScreenError, match=r"(?s)ended before 'hello'.*\| something else"),
    ):
        terminal.expect("hello")


# --- All of it together. ---


def test_key_and_code_let_alice_in_by_ssh(sshd: Sshd, daemon: Daemon, phone: Phone) -> None:
    with sshd.login(ALICE, "id", "-un") as terminal:
        terminal.expect("Code: ")
        terminal.enter(phone.next_code())
        terminal.expect("alice\n")
        assert terminal.expect_end() == 0
    assert daemon.wait_event("check", user="alice", service="sshd")["result"] == "pass"


def test_wrong_code_keeps_alice_out(sshd: Sshd, daemon: Daemon, phone: Phone) -> None:
    with sshd.login(ALICE, "id", "-un") as terminal:
        terminal.expect("Code: ")
        terminal.enter(wrong_code(phone.next_code()))
        terminal.expect("Code: ")
        terminal.interrupt()
        assert terminal.expect_end() != 0
    assert daemon.find_events("check", user="alice", result="pass") == []


def test_password_and_code_make_bob_root_by_sudo_and_alice_by_su(
    daemon: Daemon, sudo_lines: str, su_lines: str, phone_of: Callable[[Person], Phone]
) -> None:
    with sudo(BOB, "whoami") as terminal:
        terminal.answer("password for bob: ", BOB.password)
        terminal.answer("Code: ", phone_of(BOB).next_code())
        terminal.expect("root\n")
        assert terminal.expect_end() == 0
    with su(BOB, ALICE, "whoami") as terminal:
        terminal.answer("Password: ", ALICE.password)
        terminal.answer("Code: ", phone_of(ALICE).next_code())
        terminal.expect("alice\n")
        assert terminal.expect_end() == 0


def test_somebody_without_a_phone_is_texted_nothing(sshd: Sshd, daemon: Daemon, phone: Phone) -> None:
    with sshd.login(CAROL, "true") as terminal:
        terminal.answer("Code: ", "123456")
        terminal.expect("Code: ")
    assert phone.texts == []
    assert daemon.wait_event("check", user="carol")["reason"] == "no_phone"
