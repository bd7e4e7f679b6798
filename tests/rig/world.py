# SPDX-License-Identifier: MIT
"""A private world: this machine as a command sees it, with textgate installed, of which nothing stays behind.

The world is a set of namespaces (mounts, processes, host name, IPC, and the network if asked for). What the machine
has in /etc, /usr and /var shows through, what is written there goes to memory; /home, /root, /run and /tmp start
empty; the repository is there as it is, and writable. The first process of the world is this program itself: when
it ends, for whatever reason, the kernel ends all others, and the mounts go with the last of them.

This file runs under Debian's own Python, with its standard library alone.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

from . import kernel
from .people import ADMIN_GROUP, DAEMON_USER, HOST_NAME, KEPT, KEYS, PASSWORDS, PEOPLE, READY, WORLD, Person

REPOSITORY = Path(__file__).resolve().parents[2]
LAYERED = ("/etc", "/usr", "/var")
"""Shown as the machine has them; changes stay in the world."""
FRESH = {"/run": "0755", "/tmp": "1777", "/home": "0755", "/root": "0700", "/dev/shm": "1777"}
"""Empty at the start, with this mode."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
GRACE_S = 5
"""Time that the command has to end after SIGTERM or SIGHUP, before the kernel ends it."""
DROPPED = frozenset(
    [
        "DBUS_SESSION_BUS_ADDRESS",
        "LISTEN_FDNAMES",
        "LISTEN_FDS",
        "LISTEN_PID",
        "MAKEFLAGS",
        "MAKELEVEL",
        "MFLAGS",
        "NOTIFY_SOCKET",
        "SSH_AUTH_SOCK",
        "SSH_CLIENT",
        "SSH_CONNECTION",
        "SSH_TTY",
        "TMPDIR",
        "TMUX",
        "TMUX_PANE",
    ]
)
"""Variables that point to things outside the world; so do all that begin with SUDO_ and XDG_."""


class WorldError(Exception):
    """The world can't be made. `hint` is what to do about it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Options:
    """What to run and how. kept: variables to be moved out of the environment into files under KEPT."""

    command: tuple[str, ...]
    is_network_private: bool
    kept: tuple[str, ...]


def main(arguments: Sequence[str]) -> int:
    """Run a command in a new world; answers its exit status, 128 + n if signal n ended it."""
    options = _parse(arguments)
    try:
        return _enter(options)
    except WorldError as error:
        print(f"in-world: error: {error}\nhint: {error.hint}", file=sys.stderr)
        return 125  # as env, timeout and docker say "the command was not run"


def _parse(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(
        prog="in-world",
        description="Run a command in a private copy of this machine, with textgate installed; nothing stays behind.",
    )
    parser.add_argument("--private-network", action="store_true", help="give it a network of its own, with lo only")
    parser.add_argument(
        "--keep", metavar="NAME", action="append", default=[], help=f"move this variable into the file {KEPT}/NAME"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run, and its arguments")
    parsed = parser.parse_args(arguments)
    command = parsed.command[1:] if parsed.command[:1] == ["--"] else parsed.command
    if not command:
        parser.error("there is no command to run")
    return Options(tuple(command), parsed.private_network, tuple(parsed.keep))


# --- Outside: leave the machine's namespaces, start the world's first process, wait for it. ---


def _enter(options: Options) -> int:
    if os.geteuid() != 0:
        raise WorldError("only root can make a private world", "run it as root, such as: sudo make integration")
    kept = {name: value for name in options.kept if (value := os.environ.pop(name, None)) is not None}
    # Opened here, it keeps telling of the machine's mounts.
    with Path("/proc/self/mountinfo").open() as machine_mounts:
        _leave(options.is_network_private)
        first = os.fork()
        if first == 0:
            _run_first(options, kept, machine_mounts)
    return _wait_for(first)


def _leave(is_network_private: bool) -> None:
    network = kernel.CLONE_NEWNET if is_network_private else 0
    try:
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWPID | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC | network)
    except OSError as error:
        raise WorldError(
            f"this machine allows no new namespaces ({error.strerror})",
            "a container must be started with the capability SYS_ADMIN, such as: docker run --privileged",
        ) from None


def _wait_for(first: int) -> int:
    """Pass on requests to stop, leave the terminal's keys to the command, and answer the world's exit status."""

    def forward(number: int, _frame: FrameType | None) -> None:
        os.kill(first, number)

    _handle({signal.SIGTERM: forward, signal.SIGHUP: forward, signal.SIGINT: _ignore, signal.SIGQUIT: _ignore})
    return _exit_status(os.waitpid(first, 0)[1])


def _exit_status(wait_status: int) -> int:
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """A handler, not SIG_IGN: a program started later must find the signal as the system has it."""


def _handle(handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], None]]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


# --- Inside: the first process. It builds the world, runs the command, and buries the dead. ---


def _run_first(options: Options, kept: Mapping[str, str], machine_mounts: TextIO) -> None:
    """Never returns: what the outer process is must not run twice."""
    status = 125
    try:
        kernel.die_with_parent(signal.SIGKILL)
        _build(options.is_network_private, kept, machine_mounts)
        status = _run_command(options.command)
    except WorldError as error:
        print(f"in-world: error: {error}\nhint: {error.hint}", file=sys.stderr)
    except BaseException as error:  # whatever it is, this process ends here
        print(f"in-world: error: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run_command(command: Sequence[str]) -> int:
    """Run the command on this terminal, in this process group; answer its exit status when it ends."""
    # Descriptors that the caller handed over go on to the command; this program's own are closed at exec.
    child = subprocess.Popen(command, cwd=REPOSITORY, env=_environment(os.environ), close_fds=False)

    def stop(number: int, _frame: FrameType | None) -> None:
        os.kill(child.pid, number)
        signal.alarm(GRACE_S)

    def give_up(_number: int, _frame: FrameType | None) -> None:
        os._exit(128 + signal.SIGTERM)

    _handle({signal.SIGTERM: stop, signal.SIGHUP: stop, signal.SIGALRM: give_up,
             signal.SIGINT: _ignore, signal.SIGQUIT: _ignore})  # fmt: skip
    while True:
        pid, wait_status = os.wait()  # orphans of the world come here too
        if pid == child.pid:
            return _exit_status(wait_status)


def _environment(machine: Mapping[str, str]) -> dict[str, str]:
    """The command's environment: the machine's without what leads out of the world."""
    stays = {
        name: value
        for name, value in machine.items()
        if name not in DROPPED and not name.startswith(("SUDO_", "XDG_"))
    }
    own = {"HOME": "/root", "USER": "root", "LOGNAME": "root", "SHELL": "/bin/bash", "PATH": PATH,
           "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    return stays | own


def _build(is_network_private: bool, kept: Mapping[str, str], machine_mounts: TextIO) -> None:
    os.umask(0o022)
    resolver = "" if is_network_private else _read_or_empty("/etc/resolv.conf")
    _mount_all(machine_mounts)
    if is_network_private:
        kernel.loopback_up()
    socket.sethostname(HOST_NAME)
    _write("/etc/hostname", f"{HOST_NAME}\n")
    _write("/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {HOST_NAME}\n")
    _write("/etc/resolv.conf", resolver)
    _make_run()
    for name, value in kept.items():
        _write(str(KEPT / name), value, mode=0o600)
    _call(["make", "--silent", "-C", str(REPOSITORY), "install", "DESTDIR="])
    _make_people()
    READY.touch()


def _mount_all(machine_mounts: TextIO) -> None:
    repository = os.open(REPOSITORY, os.O_PATH | os.O_DIRECTORY)  # stays reachable when /home or /tmp is covered
    run_mounts = _run_mounts(machine_mounts)
    _make_private()
    for place, mode in FRESH.items():
        flags = kernel.MS_NOSUID | kernel.MS_NODEV
        kernel.mount("world", place, "tmpfs", flags, f"mode={mode}")
        if place == "/run" and _run_mounts(machine_mounts) != run_mounts:
            subprocess.run(["umount", "/run"], check=True)
            raise WorldError("mounts made here show on the machine", "run it where / is a mount point")
    layers = WORLD / "layers"
    for place in LAYERED:
        upper, work = layers / place[1:] / "upper", layers / place[1:] / "work"
        for directory in (upper, work):
            directory.mkdir(parents=True)
        upper.chmod(Path(place).stat().st_mode & 0o7777)
        _mount_layer(place, upper, work)
    REPOSITORY.mkdir(parents=True, exist_ok=True)
    kernel.mount(f"/proc/self/fd/{repository}", str(REPOSITORY), flags=kernel.MS_BIND | kernel.MS_REC)
    os.close(repository)
    os.chdir(REPOSITORY)
    kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    if Path("/dev/log").is_socket():  # a symbolic link into /run, as systemd has it, leads nowhere by now
        (WORLD / "nowhere").touch()
        kernel.mount(str(WORLD / "nowhere"), "/dev/log", flags=kernel.MS_BIND)


def _make_private() -> None:
    """No mount made from here on is passed on to the machine."""
    try:
        kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_PRIVATE)
    except OSError:
        # / is no mount point in a plain chroot. Whether that does harm, the first mount shows.
        return


def _run_mounts(machine_mounts: TextIO) -> list[str]:
    """The machine's own mounts on /run, as they are now."""
    machine_mounts.seek(0)
    return [line for line in machine_mounts if line.split()[4] == "/run"]


def _mount_layer(place: str, upper: Path, work: Path) -> None:
    try:
        kernel.mount("world", place, "overlay", 0, f"lowerdir={place},upperdir={upper},workdir={work}")
    except OSError as error:
        raise WorldError(
            f"no overlay can be mounted on {place} ({error.strerror})",
            "it takes the overlay module (modprobe overlay) and a root that is not itself made of stacked overlays",
        ) from None


def _make_run() -> None:
    """What sshd, sudo, login records and the daemon expect in /run, which tmpfiles.d makes at boot."""
    for place, mode in {"sshd": 0o755, "sudo": 0o711, "lock": 0o1777, "user": 0o755}.items():
        Path("/run", place).mkdir()
        Path("/run", place).chmod(mode)
    Path("/run/utmp").touch()
    WORLD.chmod(0o755)
    for private in (WORLD / "layers", KEYS, PASSWORDS, KEPT):
        private.mkdir(exist_ok=True)
        private.chmod(0o700)


def _make_people() -> None:
    for group in (ADMIN_GROUP, "sudo"):
        _call(["groupadd", "--force", "--system", group])
    if _call(["id", DAEMON_USER], is_failure_fine=True) != 0:
        _call(["useradd", "--system", "--user-group", "--home-dir", "/var/lib/textgate", "--no-create-home",
               "--shell", "/usr/sbin/nologin", DAEMON_USER])  # fmt: skip
    for place, mode in {"/run/textgate": 0o755, "/var/lib/textgate": 0o700}.items():
        Path(place).mkdir(exist_ok=True)
        Path(place).chmod(mode)
        _call(["chown", f"{DAEMON_USER}:{DAEMON_USER}", place])
    for person in PEOPLE:
        _make_person(person)
    _write("/etc/sudoers.d/zz-world", "Defaults lecture=never\n%sudo ALL=(ALL:ALL) ALL\n", mode=0o440)


def _make_person(person: Person) -> None:
    """An account with a home, a new password and a new ssh key; one of that name that the machine has is hidden."""
    _call(["userdel", "--force", person.name], is_failure_fine=True)
    _call(["useradd", "--create-home", "--shell", "/bin/bash", "--user-group",
           "--groups", ",".join(person.groups), person.name])  # fmt: skip
    password = new_password()
    _call(["chpasswd"], given=f"{person.name}:{password}\n")
    _write(str(PASSWORDS / person.name), password, mode=0o600)
    _call(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", person.name, "-f", str(person.key_path)])
    home = Path("/home", person.name)
    (home / ".ssh").mkdir(mode=0o700)
    (home / ".ssh/authorized_keys").write_text(person.key_path.with_suffix(".pub").read_text())
    (home / ".hushlogin").touch()
    _call(["chown", "--recursive", f"{person.name}:", str(home)])


def new_password() -> str:
    """A random password that is easy to read off and type, such as "bofu-kita-mero" (about 40 bits)."""
    syllables = [secrets.choice("bdfghkmnprstvz") + secrets.choice("aeiou") for _ in range(6)]
    return "-".join("".join(syllables[start : start + 2]) for start in (0, 2, 4))


def _call(command: Sequence[str], *, given: str | None = None, is_failure_fine: bool = False) -> int:
    """Run a step quietly; what it printed is shown when it fails."""
    done = subprocess.run(
        command, input=given or "", text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=_environment(os.environ), check=False,
    )  # fmt: skip
    if done.returncode != 0 and not is_failure_fine:
        message = f"`{' '.join(command)}` failed:\n{done.stdout}".rstrip()
        raise WorldError(message, "the lines above say what is missing")
    return done.returncode


def _read_or_empty(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _write(path: str, text: str, *, mode: int = 0o644) -> None:
    """Put a new file in the place of whatever is there, a symbolic link included."""
    Path(path).unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "w") as file:
        file.write(text)
