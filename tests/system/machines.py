# SPDX-License-Identifier: MIT
"""Booted Debian machines for tests: base trees made by debootstrap, copies of them run by systemd-nspawn.

    base = BaseTree.of(RELEASES["bookworm"])     # a stock system; made once, kept in build/system/base between runs
    base.fetch_dependencies(deb)                 # so that apt can install the package without a network
    base = base.with_dependencies(deb)           # or: with all that it depends on installed, which is quicker later
    with Machine.boot(base, "mytest") as machine:    # a copy, booted, with a network of its own (loopback only)
        machine.install(deb)                         # apt-get install ./textgate_….deb, offline
        machine.run(["systemctl", "is-active", "ssh"])   # raises MachineError unless the exit status is 0
        machine.run("id; pwd", user="alice").stdout      # a string goes to sh -c
        machine.run(["false"], check=False).status
        machine.write("/etc/textgate/phones", "alice: +4512345678\n", mode=0o640)
        machine.read("/etc/hostname")
        machine.copy_in(host_file, "/opt/file")          # folders too
        machine.spawn(["ssh", "-tt", "alice@localhost"])     # a pexpect.spawn on a terminal of its own
        machine.reboot()                                 # in order; cut_power() and start() for the other way
    # the machine is gone here, with its tree

The fixtures in conftest.py do most of that. Rules of this file:
- The mirror comes from apt's own sources of the host; nothing here names one.
- A base tree is never booted nor changed once it is made: machines write to a layer of their own above it (overlayfs;
  a plain copy where there is none). What apt downloads is in a folder that all machines see, and none can write to.
- No machine outlives the process that booted it: systemd-nspawn gets SIGTERM when its parent ends, however it ends,
  and shuts the machine down.
- Nothing in a tree waits for the disk (--suppress-sync): a lost tree is made anew.
- Needs root, debootstrap and systemd-container. The host itself need not run systemd.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

REPOSITORY = Path(__file__).resolve().parents[2]
PLACE = REPOSITORY / "build" / "system"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_WITHIN_S = 120.0
END_WITHIN_S = 60.0
RUN_WITHIN_S = 120.0
KILLED_BY_NSPAWN = signal.SIGRTMIN + 4  # systemd(1): starts poweroff.target

# What a stock server has and the tests use, beside debootstrap's minbase.
INCLUDED = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "openssh-client",
    "sudo",
    "iproute2",
    "procps",
    "pamtester",
)
_BASE_VERSION = "1"  # another one makes the base trees anew
_ARCHIVES = "/var/cache/apt/archives"
_APT = ("-q", "-y", "--no-install-recommends")
_numbers = itertools.count(1)

Command = str | Sequence[str]


class MachineError(Exception):
    """A command failed or a machine did not do what was asked; the message ends with what was printed."""


@dataclass(frozen=True)
class Release:
    """One Debian release."""

    codename: str
    number: int


RELEASES = {release.codename: release for release in (Release("bookworm", 12), Release("trixie", 13))}


@dataclass(frozen=True)
class Completed:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


# --- Base trees ---


def debian_mirror() -> str:
    """The address of Debian's main archive, as the host's own apt knows it. Raises MachineError if it knows none."""
    lines = _host(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(ORIGIN)|$(RELEASE)|$(COMPONENT)|$(REPO_URI)",
            "Identifier: Packages",
        ]
    ).stdout.splitlines()
    for line in lines:
        origin, release, component, uri = line.split("|", 3)
        if origin == "Debian" and component == "main" and not set(release) & set("-/"):
            return uri
    raise MachineError("apt knows no archive of Debian\nhint: apt-get update")


@dataclass(frozen=True)
class BaseTree:
    """A release's file system, ready to be copied."""

    release: Release
    path: Path

    @classmethod
    def of(cls, release: Release) -> BaseTree:
        """The base tree of a release; made now (a minute or two) unless an earlier run did."""
        wanted = " ".join([_BASE_VERSION, release.codename, *INCLUDED])
        tree = cls(release, PLACE / "base" / release.codename)
        with _locked(f"base-{release.codename}"):
            if not tree._stamp.exists() or tree._stamp.read_text() != wanted:
                tree._make()
                tree._stamp.write_text(wanted)
        return tree

    @property
    def _stamp(self) -> Path:
        return self.path.with_suffix(".stamp")

    def _make(self) -> None:
        mirror = debian_mirror()
        self._stamp.unlink(missing_ok=True)
        remove_tree(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _host(
            [
                "debootstrap",
                "--variant=minbase",
                f"--include={','.join(INCLUDED)}",
                self.release.codename,
                str(self.path),
                mirror,
            ],
            within_s=1800,
        )
        (self.path / "etc/apt/sources.list").write_text(f"deb {mirror} {self.release.codename} main\n")
        (self.path / "etc/hostname").write_text("gate\n")
        (self.path / "etc/hosts").write_text("127.0.0.1 localhost gate\n::1 localhost\n")
        for key in (self.path / "etc/ssh").glob("ssh_host_*_key*"):  # keep them: making keys takes time at each boot
            key.chmod(0o600 if key.suffix != ".pub" else 0o644)
        (self.path / "etc/machine-id").write_text("")
        in_tree(self.path, ["apt-get", "-q", "update"], has_network=True)

    def fetch_dependencies(self, deb: Path) -> None:
        """Download all that the package needs for apt in machines, once for each set of dependencies."""
        self._fetch("satisfy", _dependencies(deb))

    def fetch(self, *packages: str) -> None:
        """Download packages of Debian, for `machine.run("apt-get install -y …")`."""
        self._fetch("install", *packages)

    def _fetch(self, *arguments: str) -> None:
        stamp = self._archives / f".{_digest(' '.join(arguments))}.fetched"
        with _locked(f"base-{self.release.codename}"):
            if not stamp.exists():
                (self._archives / "partial").mkdir(parents=True, exist_ok=True)
                in_tree(
                    self.path,
                    ["apt-get", *_APT, "--download-only", *arguments],
                    has_network=True,
                    options=["--volatile=overlay", f"--bind={self._archives}:{_ARCHIVES}"],
                )
                stamp.touch()

    @property
    def _archives(self) -> Path:
        return PLACE / "archives" / self.release.codename

    def with_dependencies(self, deb: Path) -> BaseTree:
        """Another base tree, in which all that the package depends on is installed, but not the package."""
        self.fetch_dependencies(deb)
        wanted = _dependencies(deb)
        tree = BaseTree(self.release, self.path.with_name(f"{self.release.codename}-{_digest(wanted)}"))
        with _locked(f"base-{self.release.codename}"):
            if not tree._stamp.exists() or tree._stamp.stat().st_mtime < self._stamp.stat().st_mtime:
                remove_tree(tree.path)
                _host(["cp", "-a", "--reflink=auto", str(self.path), str(tree.path)], within_s=600)
                in_tree(tree.path, ["apt-get", *_APT, "satisfy", wanted], options=self.nspawn_options)
                tree._stamp.write_text(wanted)
        return tree

    @property
    def nspawn_options(self) -> list[str]:
        """What systemd-nspawn needs for apt to find what was downloaded."""
        (self._archives / "partial").mkdir(parents=True, exist_ok=True)
        return [f"--bind-ro={self._archives}:{_ARCHIVES}"]

    def copy(self, name: str) -> Path:
        """A tree of one's own that starts as this one; `remove_tree` when it is done."""
        _remove_left_over()
        place = PLACE / "run" / f"{os.getpid()}-{next(_numbers)}-{name}"
        path = place / "root"
        for folder in (path, place / "upper", place / "work"):
            folder.mkdir(parents=True)
        layers = f"lowerdir={self.path},upperdir={place}/upper,workdir={place}/work"
        if _host(["mount", "-t", "overlay", "-o", layers, "overlay", str(path)], check=False).status != 0:
            path.rmdir()
            _host(["cp", "-a", "--reflink=auto", str(self.path), str(path)], within_s=600)
        return path


def in_tree(
    tree: Path, argv: Sequence[str], *, has_network: bool = False, options: Sequence[str] = (), check: bool = True
) -> Completed:
    """Run a command in a tree that is not booted. Services that packages want to start are not started there."""
    network = ["--resolv-conf=copy-host"] if has_network else ["--private-network", "--resolv-conf=off"]
    variables = {"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    settings = [f"--setenv={name}={value}" for name, value in variables.items()]
    return _host(
        [*_nspawn(tree), "--pipe", *network, *options, *settings, *argv],
        within_s=900,
        check=check,
    )


def _dependencies(deb: Path) -> str:
    return _host(["dpkg-deb", "--field", str(deb), "Depends"]).stdout.strip()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def remove_tree(path: Path) -> None:
    """Remove a tree that `copy` made, or any folder; nothing happens where there is none."""
    if path.is_mount():
        _host(["umount", "--lazy", str(path)])
    place = path.parent if path.name == "root" and path.parent.parent == PLACE / "run" else path
    if place.exists():
        _host(["rm", "-rf", "--one-file-system", str(place)], within_s=300)


def _remove_left_over() -> None:
    """Remove the trees of runs that were killed."""
    for place in (PLACE / "run").glob("*-*-*"):
        if not Path("/proc", place.name.partition("-")[0]).exists():
            remove_tree(place / "root")


def _nspawn(tree: Path) -> list[str]:
    """systemd-nspawn that ends with this process, and asks nothing of a systemd on the host."""
    return [
        "setpriv", "--pdeathsig", "TERM",
        "systemd-nspawn", "--quiet", "-D", str(tree), "--register=no", "--keep-unit",
        "--link-journal=no", "--timezone=off", "--suppress-sync=yes",
    ]  # fmt: skip


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    PLACE.mkdir(parents=True, exist_ok=True)
    with (PLACE / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# --- Machines ---


class Machine:
    """A booted machine. A context manager: at its end the machine is switched off and its tree removed."""

    def __init__(self, tree: Path, release: Release, *, nspawn_options: Sequence[str] = ()) -> None:
        self.tree = tree
        self.release = release
        self.console = tree.with_name("console")
        self._options = nspawn_options
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._console_file: IO[bytes] | None = None

    @classmethod
    def boot(cls, base: BaseTree, name: str, *, nspawn_options: Sequence[str] = ()) -> Self:
        """Copy the base tree and boot it."""
        machine = cls(base.copy(name), base.release, nspawn_options=[*base.nspawn_options, *nspawn_options])
        try:
            machine.start()
        except BaseException:
            machine.close()
            raise
        return machine

    def start(self) -> None:
        """Boot; returns when systemd has nothing left to start."""
        self._console_file = self.console.open("ab")
        self._nspawn = subprocess.Popen(
            [
                *_nspawn(self.tree),
                "--boot",
                "--console=pipe",
                "--private-network",
                "--hostname=gate",
                "--resolv-conf=off",
                *self._options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._console_file,
            stderr=self._console_file,
            start_new_session=True,
        )
        self._wait_for_boot(None)

    def _wait_for_boot(self, former_leader: int | None) -> None:
        deadline = time.monotonic() + BOOT_WITHIN_S
        while time.monotonic() < deadline:
            leader = self._find_leader()
            if leader is not None and leader != former_leader:
                state = self.run(["systemctl", "is-system-running", "--wait"], check=False, within_s=BOOT_WITHIN_S)
                if state.stdout.strip() in ("running", "degraded"):
                    return
            if self._nspawn is None or self._nspawn.poll() is not None:
                break
            time.sleep(0.1)
        raise MachineError(f"the machine did not come up\n{self._console_tail()}")

    def _find_leader(self) -> int | None:
        """The pid, on the host, of the machine's init."""
        if self._nspawn is None:
            return None
        for task in Path(f"/proc/{self._nspawn.pid}/task").glob("*"):
            with contextlib.suppress(OSError):
                for child in (task / "children").read_text().split():
                    lines = Path(f"/proc/{child}/status").read_text().splitlines()
                    pids = next(line for line in lines if line.startswith("NSpid:")).split()[1:]
                    if len(pids) > 1 and pids[-1] == "1":
                        return int(child)
        return None

    @property
    def leader(self) -> int:
        """The pid, on the host, of the machine's init. Raises MachineError when it is switched off."""
        leader = self._find_leader()
        if leader is None:
            raise MachineError(f"the machine is not running\n{self._console_tail()}")
        return leader

    def reboot(self) -> None:
        """Shut down in order and boot again."""
        self.power_off()
        self.start()

    def power_off(self) -> None:
        """Shut down in order."""
        if self._nspawn is None:
            return
        with contextlib.suppress(MachineError, ProcessLookupError):
            os.kill(self.leader, KILLED_BY_NSPAWN)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._nspawn.wait(END_WITHIN_S)
        self.cut_power()

    def cut_power(self) -> None:
        """End everything in the machine at once, as a power cut does. What was not synced may well be there yet."""
        if self._nspawn is not None:
            leader = self._find_leader()
            if leader is not None:
                os.kill(leader, signal.SIGKILL)  # with the first process of a namespace the kernel ends all others
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._nspawn.wait(END_WITHIN_S)
            self._nspawn.kill()
            self._nspawn.wait()
            self._nspawn = None
        if self._console_file is not None:
            self._console_file.close()
            self._console_file = None

    def close(self) -> None:
        """Switch off and remove the tree."""
        self.cut_power()
        remove_tree(self.tree)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- Commands and files inside ---

    def argv(self, command: Command, *, user: str | None = None, env: Mapping[str, str] | None = None) -> list[str]:
        """What runs a command in the machine, for a Popen of your own."""
        inner = ["sh", "-c", command] if isinstance(command, str) else list(command)
        if user is not None:
            inner = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--", *inner]
        home = "/root" if user in (None, "root") else f"/home/{user}"
        variables = {
            "PATH": PATH,
            "HOME": home,
            "LC_ALL": "C.UTF-8",
            "TERM": "xterm",
            "DEBIAN_FRONTEND": "noninteractive",
        }
        settings = [f"{name}={value}" for name, value in (variables | dict(env or {})).items()]
        enter = ["nsenter", "-t", str(self.leader), "-m", "-p", "-u", "-i", "-n", "-r", "-w", "--"]
        return [*enter, "env", "-i", *settings, *inner]

    def run(
        self,
        command: Command,
        *,
        user: str | None = None,
        stdin: str = "",
        check: bool = True,
        within_s: float = RUN_WITHIN_S,
        env: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a command as root, or as `user`. Raises MachineError unless its exit status is 0, or check is off.

        It runs in the machine's namespaces, but not as a child of its systemd and in no session.
        """
        return _host(self.argv(command, user=user, env=env), stdin=stdin, check=check, within_s=within_s)

    def popen(self, command: Command, *, user: str | None = None, **options: Any) -> subprocess.Popen[str]:
        """Start a command and don't wait for it; options as for subprocess.Popen. End it before the machine."""
        return subprocess.Popen(self.argv(command, user=user), text=True, **options)

    def spawn(self, command: Command, *, user: str | None = None, within_s: float = 30.0) -> Any:
        """A pexpect.spawn of a command on a terminal; within_s: its default timeout."""
        import pexpect

        argv = self.argv(command, user=user)
        return pexpect.spawn(argv[0], argv[1:], timeout=within_s, encoding="utf-8", echo=False, dimensions=(50, 200))

    def install(self, deb: Path, *, options: Sequence[str] = (), check: bool = True) -> Completed:
        """`apt-get install` of a package file; what it depends on must have been fetched (BaseTree.fetch…)."""
        inside = f"/root/{deb.name}"
        self.copy_in(deb, inside)
        return self.run(["apt-get", *_APT, *options, "install", inside], within_s=600, check=check)

    def write(self, path: str, content: str, *, mode: int = 0o644, owner: str = "root:root") -> None:
        """Write a file, in one step, with this mode and owner. Folders above it are made."""
        quoted = shlex.quote(path)
        self.run(
            f"mkdir -p $(dirname {quoted}) && umask 077 && cat >{quoted}.new && chown {owner} {quoted}.new"
            f" && chmod {mode:o} {quoted}.new && mv {quoted}.new {quoted}",
            stdin=content,
        )

    def read(self, path: str) -> str:
        """A file's text."""
        return self.run(["cat", "--", path]).stdout

    def exists(self, path: str) -> bool:
        """Whether there is something of that name."""
        return self.run(["test", "-e", path], check=False).status == 0

    def copy_in(self, source: Path, path: str) -> None:
        """Copy a file or folder of the host; it is root's there, without Python's byte code."""
        packed = subprocess.run(
            ["tar", "-C", str(source.parent), "--owner=0", "--group=0", "--exclude=__pycache__", "-c", source.name],
            check=True,
            capture_output=True,
        ).stdout
        quoted = shlex.quote(path)
        unpack = f"rm -rf {quoted}.in && mkdir -p {quoted}.in && tar -x -C {quoted}.in && rm -rf {quoted}"
        done = subprocess.run(
            self.argv(f"{unpack} && mv {quoted}.in/* {quoted} && rmdir {quoted}.in"),
            check=False,
            input=packed,
            capture_output=True,
        )
        if done.returncode != 0:
            raise MachineError(f"{path}: can't be copied in\n{done.stderr.decode()}")

    def wait_until(self, command: Command, *, within_s: float = 30.0, every_s: float = 0.2) -> Completed:
        """Run a command again and again until it succeeds. Raises MachineError after within_s."""
        deadline = time.monotonic() + within_s
        while True:
            done = self.run(command, check=False)
            if done.status == 0:
                return done
            if time.monotonic() > deadline:
                raise MachineError(f"not within {within_s:g} s: {command}\n{done.stdout}{done.stderr}")
            time.sleep(every_s)

    def journal(self, *options: str) -> str:
        """What journalctl prints."""
        return self.run(["journalctl", "--no-pager", "-q", *options]).stdout

    def property(self, unit: str, name: str) -> str:
        """One property of a unit, as systemctl shows it."""
        return self.run(["systemctl", "show", "--value", "-p", name, unit]).stdout.strip()

    def add_user(self, name: str, *, password: str, groups: Sequence[str] = ()) -> None:
        """An account with a home folder."""
        more = ["--groups", ",".join(groups)] if groups else []
        self.run(["useradd", "--create-home", "--shell", "/bin/bash", *more, name])
        self.run(["chpasswd"], stdin=f"{name}:{password}\n")

    def _console_tail(self) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self.console.read_text(errors="replace").splitlines()[-40:])
        return ""


def _host(argv: Sequence[str], *, stdin: str = "", check: bool = True, within_s: float = RUN_WITHIN_S) -> Completed:
    """Run a command on the host."""
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=within_s,
            check=False,
            start_new_session=True,  # a signal to a whole process group in there is not for this process
        )
    except subprocess.TimeoutExpired as error:
        raise MachineError(f"not done within {within_s:g} s: {shlex.join(argv)}\n{error.output!r}") from None
    if check and done.returncode != 0:
        shown = shlex.join(argv)
        raise MachineError(f"exit status {done.returncode}: {shown}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return Completed(done.returncode, done.stdout, done.stderr)
