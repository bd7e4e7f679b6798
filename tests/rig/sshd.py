# SPDX-License-Identifier: MIT
"""A real sshd on a free port of loopback, with its own configuration and host key, and ssh clients that know it."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from .pam import FirstFactor, pam_lines
from .people import Person
from .process import Process, Program, RigError
from .terminal import Terminal

PROGRAM = "/usr/sbin/sshd"
HOST = "127.0.0.1"
_PENALTIES_SINCE = (9, 8)  # OpenSSH 9.8 turns away addresses that failed often; here all logins have one address


class Sshd:
    """A context manager. `first_factor` decides AuthenticationMethods and the lines in /etc/pam.d/sshd."""

    def __init__(self, first_factor: FirstFactor = FirstFactor.KEY, settings: Sequence[str] = ()) -> None:
        """settings: lines of sshd_config that go before the rig's own; sshd takes the first of each key."""
        self.first_factor = first_factor
        self.port = 0
        self._settings = tuple(settings)
        self._stack = contextlib.ExitStack()
        self._directory = Path()
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The running server. Raises RigError when it is stopped."""
        if self._process is None:
            raise RigError("sshd is not running")
        return self._process

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._directory = Path(tempfile.mkdtemp(prefix="rig-sshd-"))
            stack.callback(shutil.rmtree, self._directory)
            stack.enter_context(pam_lines("sshd", self.first_factor))
            self.port = free_port()
            self._make_host_key()
            (self._directory / "sshd_config").write_text(self._config())
            argv = (PROGRAM, "-D", "-e", "-f", str(self._directory / "sshd_config"))
            self._process = Process.start(Program("sshd", argv))
            stack.callback(self._process.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()
        self._process = None

    def make_known_to_clients(self, person: Person) -> None:
        """From now on a plain `ssh PERSON@127.0.0.1 -p PORT` of root knows the host's key and the person's."""
        text = f"""\
Host {HOST}
    IdentityFile {person.key_path}
    IdentitiesOnly yes
    UserKnownHostsFile {self._directory / "known_hosts"}
    StrictHostKeyChecking yes
"""
        folder = Path("/root/.ssh")
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "config").write_text(text)

    def ssh_argv(self, person: Person, *command: str, has_key: bool = True, options: Sequence[str] = ()) -> list[str]:
        """The command line of an ssh client for this server. options: as after -o."""
        known_hosts = self._directory / "known_hosts"
        own = [f"UserKnownHostsFile={known_hosts}", "StrictHostKeyChecking=yes", "IdentitiesOnly=yes",
               "IdentityAgent=none", f"IdentityFile={person.key_path if has_key else 'none'}", "LogLevel=ERROR",
               f"PubkeyAuthentication={'yes' if has_key else 'no'}", "ConnectTimeout=10"]  # fmt: skip
        words = [word for option in (*options, *own) for word in ("-o", option)]
        return ["ssh", "-F", "none", *words, "-p", str(self.port), f"{person.name}@{HOST}", *command]

    def login(self, person: Person, *command: str, has_key: bool = True, options: Sequence[str] = ()) -> Terminal:
        """An ssh client on a terminal of its own, at the point where it begins to connect."""
        return Terminal(self.ssh_argv(person, *command, has_key=has_key, options=options), log=self.process.tail)

    def _make_host_key(self) -> None:
        key = self._directory / "host_key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        public = key.with_suffix(".pub").read_text()
        (self._directory / "known_hosts").write_text(f"[{HOST}]:{self.port} {public}")

    def _config(self) -> str:
        settings = [
            *self._settings,
            f"ListenAddress {HOST}:{self.port}",
            f"HostKey {self._directory / 'host_key'}",
            "PidFile none",
            "UsePAM yes",
            "KbdInteractiveAuthentication yes",
            "PasswordAuthentication no",
            f"AuthenticationMethods {self.first_factor.sshd_methods}",
            "PermitRootLogin no",
            "UseDNS no",
            "PrintMotd no",
            "PrintLastLog no",
            "MaxStartups 500",
            "LogLevel VERBOSE",
            "Subsystem sftp internal-sftp",
        ]
        if openssh_version() >= _PENALTIES_SINCE:
            settings.append("PerSourcePenalties no")
        return "\n".join(settings) + "\n"


def openssh_version() -> tuple[int, int]:
    """Such as (9, 2)."""
    said = subprocess.run(["ssh", "-V"], check=True, stderr=subprocess.PIPE, text=True).stderr
    found = re.match(r"OpenSSH_(\d+)\.(\d+)", said)
    if found is None:
        raise RigError("ssh -V names no version")
    return int(found[1]), int(found[2])


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
