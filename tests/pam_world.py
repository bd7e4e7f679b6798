# SPDX-License-Identifier: MIT
"""A machine's PAM and sshd files in a folder in memory, of which tests make a thousand copies; sshd is played."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from kill_points import moment
from textgate.pam_admin import PamAdmin
from textgate.pam_stack import FirstFactor, Rule, is_ours, play, verb
from textgate.sshd_config import DROP_IN, METHODS

BLOCK = (Path(__file__).parents[1] / "pam_helper" / "textgate.pam").read_text()
COMMON = "auth [success=1 default=ignore] pam_unix.so\nauth requisite pam_deny.so\nauth required pam_permit.so\n"
SUDO = "#%PAM-1.0\nsession required pam_limits.so\n@include common-auth\n"
SSHD = "# PAM of sshd\n@include common-auth\naccount required pam_nologin.so\n"
NOW = 1_700_000_000
SERVICES = ("sshd", "sudo", "login")

Work = Callable[[PamAdmin], object]
Tree = dict[str, tuple[bytes, int]]


class Commands:
    """Plays sshd and systemctl."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, arguments: Sequence[str]) -> tuple[int, str]:
        moment()
        if list(arguments[:2]) != ["sshd", "-T"]:
            return 0, ""
        lines = (self.root / DROP_IN.lstrip("/")).read_text().splitlines()
        methods = next(line for line in lines if line.startswith("AuthenticationMethods"))
        return 0, f"usepam yes\nkbdinteractiveauthentication yes\npasswordauthentication no\n{methods.lower()}\n"


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in memory: a thousand trees are made in it."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def admin_of(root: Path) -> PamAdmin:
    return PamAdmin(str(root), Commands(root))


def make_root(place: Path, prepare: Work) -> Path:
    root = place / "first"
    for name, text in {
        "textgate": BLOCK, "common-auth": COMMON, "sudo": SUDO, "sshd": SSHD, "login": SUDO,
    }.items():  # fmt: skip
        path = root / "etc/pam.d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "etc/ssh/sshd_config.d").mkdir(parents=True)
    (root / "run/sshd").mkdir(parents=True)
    (root / "etc/ssh/sshd_config").write_text("Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n")
    for folder in ("pam", "changes"):
        (root / "var/lib/textgate" / folder).mkdir(parents=True)
    prepare(admin_of(root))
    return root


def tree(root: Path) -> Tree:
    """Every file, but for the lock."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mode)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def enable_all(admin: PamAdmin) -> None:
    admin.enable("sshd", FirstFactor.KEY, now_at=NOW)
    admin.enable("sudo", FirstFactor.PASSWORD, now_at=NOW)
    admin.enable("login", FirstFactor.PASSWORD, now_at=NOW, confirm_by=NOW + 60)


def is_let_in_by_a_code_alone(rules: Sequence[Rule]) -> bool:
    """Whether a right code lets in where no key, no password and nothing else was shown."""
    ours = {"begin": "system_err", "ask": "ignore", "check": "success", "deny": "auth_err", "restore": "ignore"}

    def answer(_at: int, rule: Rule) -> str:
        if is_ours(rule):
            return ours.get(verb(rule), "ignore")
        return "success" if rule.module == "pam_permit.so" else "auth_err"

    return play(rules, answer) == "success"


def assert_no_door_is_open(root: Path) -> None:
    """Each stack can be read, and none lets in by a code alone; sshd's settings are whole, or not there."""
    admin = admin_of(root)
    for service in SERVICES:
        assert not is_let_in_by_a_code_alone(admin.rules(service)), service
    drop_in = root / DROP_IN.lstrip("/")
    if drop_in.exists():
        methods = [line for line in drop_in.read_text().splitlines() if line.startswith("AuthenticationMethods ")]
        assert [line.partition(" ")[2] for line in methods] in [[one] for one in METHODS.values()]
