# SPDX-License-Identifier: MIT
"""sftp, scp, rsync, forwarded ports and scripts through an sshd that asks for a code; what passes is byte for byte.

The clients are those of people: each asks on its terminal, even where its input and output are something else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fake_gatewayapi import FakeGatewayAPI
from rig.daemon import Daemon
from rig.pam import FirstFactor
from rig.people import ALICE, BOB
from rig.phone import Phone, wrong_code
from rig.prompts import CODE, PROOF, PROVE, fingerprint
from rig.sshd import HOST, Sshd, free_port
from rig.terminal import CTRL_C, CTRL_D, Terminal

from .conftest import Configure, StartSshd

pytestmark = pytest.mark.usefixtures("no_fail_delay")

SIZE_BYTES = 1_000_003  # odd, and more than any buffer holds
UP = "debug1: Entering interactive session."  # what ssh says once shared connection and forwarded ports are open
AT_ONCE_S = 15.0  # an end that nobody waits for; LoginGraceTime, after which a hanging one would end, is 120 s


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    """A file of all kinds of bytes."""
    path = tmp_path / "sent"
    path.write_bytes(os.urandom(SIZE_BYTES - 3) + b"\r\n\0")
    return path


@pytest.fixture
def home() -> Iterator[Path]:
    """Alice's home; what a test leaves there is removed."""
    folder = Path("/home/alice")
    before = set(folder.iterdir())
    yield folder
    for path in set(folder.iterdir()) - before:
        path.unlink()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def options_of(sshd: Sshd) -> list[str]:
    """The ssh client's words without host, port and command, as scp, sftp and rsync pass them on."""
    argv = sshd.ssh_argv(ALICE)
    return argv[1 : argv.index("-p")]


def run_with_code(argv: Sequence[str], phone: Phone) -> str:
    """Run a client on a terminal, type one wrong code and the right one; answers what was shown behind that."""
    with Terminal(argv) as terminal:
        terminal.expect(CODE)
        code = phone.next_code()
        terminal.enter(wrong_code(code))
        terminal.answer(CODE, code)
        assert terminal.expect_end() == 0, terminal.shown
        return terminal.rest


# --- Files. ---


def test_sftp_carries_files_both_ways(sshd: Sshd, phone: Phone, payload: Path, home: Path, tmp_path: Path) -> None:
    back, batch = tmp_path / "back", tmp_path / "batch"
    batch.write_text(f"put {payload} there\nget there {back}\nbye\n")
    # A batch means BatchMode=yes, in which no code could be typed; the first value of an option counts.
    argv = ["sftp", "-o", "BatchMode=no", "-b", str(batch), "-P", str(sshd.port), *options_of(sshd), f"alice@{HOST}"]
    run_with_code(argv, phone)
    assert digest(home / "there") == digest(back) == digest(payload)


@pytest.mark.parametrize("protocol", ["-s", "-O"], ids=["sftp protocol", "old protocol"])
def test_scp_carries_files_both_ways(
    sshd: Sshd, phone: Phone, payload: Path, home: Path, tmp_path: Path, protocol: str
) -> None:
    argv = ["scp", protocol, "-q", "-P", str(sshd.port), *options_of(sshd)]
    run_with_code([*argv, str(payload), f"alice@{HOST}:there"], phone)
    run_with_code([*argv, f"alice@{HOST}:there", str(tmp_path / "back")], phone)
    assert digest(home / "there") == digest(tmp_path / "back") == digest(payload)


def test_rsync_carries_files_both_ways(sshd: Sshd, phone: Phone, payload: Path, home: Path, tmp_path: Path) -> None:
    shell = shlex.join(["ssh", *options_of(sshd), "-p", str(sshd.port)])
    run_with_code(["rsync", "-e", shell, str(payload), f"alice@{HOST}:there"], phone)
    run_with_code(["rsync", "-e", shell, f"alice@{HOST}:there", str(tmp_path / "back")], phone)
    assert digest(home / "there") == digest(tmp_path / "back") == digest(payload)


def test_bytes_pass_through_ssh_unchanged_and_nothing_is_added(
    sshd: Sshd, phone: Phone, payload: Path, tmp_path: Path
) -> None:
    out, error = tmp_path / "out", tmp_path / "error"
    script = f"{shlex.join(sshd.ssh_argv(ALICE, 'cat'))} <{payload} >{out} 2>{error}"
    run_with_code(["sh", "-c", script], phone)
    assert digest(out) == digest(payload)
    # The client shows its prompts on the terminal itself, and nothing else was said.
    assert error.read_text() == ""


def test_command_without_output_has_none(sshd: Sshd, phone: Phone, tmp_path: Path) -> None:
    script = f"{shlex.join(sshd.ssh_argv(ALICE, 'true'))} >{tmp_path}/out 2>{tmp_path}/error"
    run_with_code(["sh", "-c", script], phone)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "error").read_bytes() == b""


def test_program_that_asks_for_secrets_in_place_of_a_terminal_is_asked(
    sshd: Sshd, phone: Phone, tmp_path: Path
) -> None:
    """SSH_ASKPASS, as desktops set it: it gets the prompt with its text, and what it prints is the code."""
    fifo, asked, askpass = tmp_path / "fifo", tmp_path / "asked", tmp_path / "askpass"
    os.mkfifo(fifo)
    askpass.write_text(f'#!/bin/sh\nprintf %s "$1" >{asked}\nread -r code <{fifo}\necho "$code"\n')
    askpass.chmod(0o755)
    environment = {**os.environ, "SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force"}
    with subprocess.Popen(
        sshd.ssh_argv(ALICE, PROVE), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment, start_new_session=True, text=True,
    ) as client:  # fmt: skip
        code = phone.next_code()
        fifo.write_text(f"{code}\n")
        assert client.communicate(timeout=30) == ("in-42\n", "")
    assert asked.read_text() == f"(alice@{HOST}) A login code was texted to your phone.\nCode: "


# --- One login, many uses. ---


def test_connection_that_is_shared_asks_for_one_code_only(
    sshd: Sshd, phone: Phone, payload: Path, home: Path, tmp_path: Path, gateway: FakeGatewayAPI
) -> None:
    control = tmp_path / "control"
    argv = sshd.ssh_argv(ALICE, options=(f"ControlPath={control}", "LogLevel=DEBUG1"))
    to_there = [f"-oControlPath={control}", "-oBatchMode=yes"]
    with Terminal([argv[0], "-M", "-N", *argv[1:]]) as master:
        master.answer(CODE, phone.next_code())
        master.expect(UP)
        host = f"alice@{HOST}"
        said = subprocess.run(
            ["ssh", "-F", "none", *to_there, host, PROVE], capture_output=True, text=True, check=False, timeout=30
        )
        assert (said.returncode, said.stdout, said.stderr) == (0, "in-42\n", "")
        subprocess.run(["scp", "-q", "-F", "none", *to_there, payload, f"{host}:there"], check=True, timeout=30)
        shell = shlex.join(["ssh", "-F", "none", *to_there])
        subprocess.run(["rsync", "-e", shell, f"{host}:there", tmp_path / "back"], check=True, timeout=30)
        assert digest(tmp_path / "back") == digest(payload)
    assert len(gateway.accepted) == 1


# --- Ports. ---


class Echo:
    """A server on loopback that sends back what it gets, and counts who came."""

    def __init__(self) -> None:
        self.visitor_count = 0
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.visitor_count += 1
                with connection:
                    while data := connection.recv(65536):
                        connection.sendall(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


def send_through(port: int, data: bytes) -> bytes:
    """What comes back from a server behind this port. Raises ConnectionError where nobody listens."""
    with socket.create_connection((HOST, port), timeout=AT_ONCE_S) as client:

        def send() -> None:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        back = b"".join(iter(lambda: client.recv(65536), b""))
        sender.join()
    return back


def forwarding(sshd: Sshd, *words: str) -> list[str]:
    argv = sshd.ssh_argv(ALICE, options=("ExitOnForwardFailure=yes", "LogLevel=DEBUG1"))
    return [argv[0], *words, *argv[1:]]


def test_forwarded_port_carries_bytes_after_the_code_and_none_before(
    sshd: Sshd, phone: Phone, payload: Path, echo: Echo
) -> None:
    port = free_port()
    with Terminal(forwarding(sshd, "-N", "-L", f"{port}:{HOST}:{echo.port}")) as terminal:
        terminal.expect(CODE)
        with pytest.raises(ConnectionRefusedError):
            send_through(port, b"early")
        code = phone.next_code()
        terminal.enter(wrong_code(code))
        terminal.expect(CODE)
        with pytest.raises(ConnectionRefusedError):
            send_through(port, b"early")
        terminal.enter(code)
        terminal.expect(UP)
        assert send_through(port, payload.read_bytes()) == payload.read_bytes()
        terminal.press(CTRL_C)
        assert terminal.expect_end() != 0
    assert echo.visitor_count == 1


@pytest.mark.parametrize("words", [("-N", "-L"), ("-N", "-R"), ("-W",), ("-N", "-D")], ids=" ".join)
def test_nothing_is_forwarded_for_somebody_without_the_code(
    sshd: Sshd, daemon: Daemon, echo: Echo, words: tuple[str, ...]
) -> None:
    port = free_port()
    target = {
        "-L": f"{port}:{HOST}:{echo.port}",
        "-R": f"{port}:{HOST}:{echo.port}",
        "-W": f"{HOST}:{echo.port}",
        "-D": str(port),
    }
    argv = forwarding(sshd, *words, target[words[-1]])
    with Terminal([argv[0], "-o", "NumberOfPasswordPrompts=1", *argv[1:]]) as terminal:
        for _ in range(3):
            terminal.answer(CODE, "000000")
        assert terminal.expect_end() == 255
    with pytest.raises(ConnectionRefusedError):
        send_through(port, b"late")
    assert echo.visitor_count == 0
    assert daemon.find_events("check", result="pass") == []


# --- Nobody there to type a code. ---


def run_alone(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a client as cron would: without a terminal."""
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=AT_ONCE_S, check=False,
        start_new_session=True, env={"PATH": os.environ["PATH"], "HOME": "/root"},
    )  # fmt: skip


@pytest.mark.parametrize("tool", ["ssh", "scp", "sftp", "rsync"])
def test_batch_mode_ends_at_once_with_a_clear_answer_and_without_a_text(
    sshd: Sshd, daemon: Daemon, gateway: FakeGatewayAPI, payload: Path, tmp_path: Path, tool: str
) -> None:
    options = ["-o", "BatchMode=yes", *options_of(sshd)]
    batch = tmp_path / "batch"
    batch.write_text("bye\n")
    shell = shlex.join(["ssh", *options, "-p", str(sshd.port)])
    argv = {
        "ssh": ["ssh", *options, "-p", str(sshd.port), f"alice@{HOST}", PROVE],
        "scp": ["scp", *options, "-P", str(sshd.port), str(payload), f"alice@{HOST}:there"],
        "sftp": ["sftp", "-b", str(batch), *options, "-P", str(sshd.port), f"alice@{HOST}"],
        "rsync": ["rsync", "-e", shell, str(payload), f"alice@{HOST}:there"],
    }[tool]
    done = run_alone(argv)
    assert done.returncode == 255
    assert done.stdout == ""
    assert f"alice@{HOST}: Permission denied (keyboard-interactive)." in done.stderr
    assert gateway.requests == []
    assert daemon.find_events("begin") == []


def test_script_without_a_terminal_ends_at_once_and_costs_one_text_at_most(
    sshd: Sshd, configure: Configure, daemon: Daemon, gateway: FakeGatewayAPI
) -> None:
    """The client answers every prompt with nothing, which asks for a new text: the limits hold."""
    configure({"limits": {"send_spacing_s": 30}})
    done = run_alone(sshd.ssh_argv(ALICE, PROVE))
    assert (done.returncode, done.stdout) == (255, "")
    assert f"alice@{HOST}: Permission denied (keyboard-interactive)." in done.stderr
    assert len(gateway.accepted) == 1
    assert daemon.find_events("check", result="pass") == []


def test_exempt_key_lets_a_script_in_unless_its_client_rules_the_prompts_out(
    sshd: Sshd, configure: Configure, daemon: Daemon, gateway: FakeGatewayAPI
) -> None:
    """The login without a code still goes through keyboard-interactive, which BatchMode=yes switches off."""
    configure({"exempt": {"key_fingerprints": [fingerprint(ALICE)]}})
    done = run_alone(sshd.ssh_argv(ALICE, PROVE))
    assert (done.returncode, done.stdout, done.stderr) == (0, "in-42\n", "")
    assert daemon.wait_event("begin", result="skip")["reason"] == "exempt_key"
    done = run_alone(sshd.ssh_argv(ALICE, PROVE, options=("BatchMode=yes",)))
    assert (done.returncode, done.stdout) == (255, "")
    assert gateway.requests == []


def test_match_block_of_sshd_lets_an_account_for_scripts_in_by_its_key_in_batch_mode(
    start_sshd: StartSshd, daemon: Daemon, phone: Phone, tmp_path: Path
) -> None:
    """As the manual has it for Ansible and the like; everybody else is asked as before."""
    block = tmp_path / "scripts.conf"
    block.write_text("Match User bob\n    AuthenticationMethods publickey\n")
    sshd = start_sshd(FirstFactor.KEY, [f"Include {block}"])
    done = run_alone(sshd.ssh_argv(BOB, PROVE, options=("BatchMode=yes",)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "in-42\n", "")
    assert daemon.find_events("begin") == []
    with sshd.login(ALICE, PROVE) as terminal:
        terminal.answer(CODE, phone.next_code())
        terminal.expect(PROOF)


def test_prompt_on_a_terminal_that_is_given_up_ends_the_transfer(
    sshd: Sshd, daemon: Daemon, payload: Path, home: Path
) -> None:
    argv = ["scp", "-q", "-P", str(sshd.port), "-o", "NumberOfPasswordPrompts=1", *options_of(sshd)]
    with Terminal([*argv, str(payload), f"alice@{HOST}:there"]) as terminal:
        for _ in range(3):
            terminal.expect(CODE)
            terminal.press(CTRL_D)
        assert terminal.expect_end() == 255
    assert not (home / "there").exists()
    assert daemon.find_events("check", result="pass") == []
