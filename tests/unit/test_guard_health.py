# SPDX-License-Identifier: MIT
"""One list of faults: `pam try`, `pam status` and `doctor` say the same of a service, whatever is wrong with it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from textgate import admin_client, cli_pam, doctor, guard_faults, pam_commands, way_in
from textgate.cli import main
from textgate.finding import Finding
from textgate.guard_faults import FAULTS, Level
from textgate.pam_admin import PamAdmin
from textgate.pam_removal import PamRemoval
from textgate.pam_stack import BEGIN_MARK, END_MARK, FirstFactor
from textgate.pam_state import STATE_DIR
from textgate.policy import Account
from textgate.sudoers import Sudoers

BLOCK = (Path(__file__).parents[2] / "pam_helper" / "textgate.pam").read_text()
COMMON = (
    "auth [success=1 default=ignore] pam_unix.so nullok\nauth requisite pam_deny.so\nauth required pam_permit.so\n"
)
NOW = 1_700_000_000


class Bench:
    """A machine of files on which sudo is guarded, and the three that look at it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.empty: list[str] = []
        self.played: tuple[str, ...] = ()
        self.is_timer_on = True
        for name, text in {"textgate": BLOCK, "common-auth": COMMON, "sudo": "@include common-auth\n"}.items():
            self.write(f"etc/pam.d/{name}", text)
        self.write("usr/share/textgate/textgate.pam", BLOCK)
        self.config = self.write("textgate.toml", '[limits]\nallowed_countries = ["DK"]\n')
        self.admin = PamAdmin(str(root), self.run_command)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(cli_pam, "PamAdmin", lambda: self.admin)
        self.removal = PamRemoval(str(root), self.run_command)
        monkeypatch.setattr(cli_pam, "PamRemoval", lambda: self.removal)
        for module in (cli_pam, pam_commands):
            monkeypatch.setattr(module, "dry_run", lambda _rules=None: self.played)
        alice = Account("alice", 1000, 1000, frozenset({"sudo"}))
        monkeypatch.setattr(cli_pam, "enrolled_admins", lambda config: [alice])
        monkeypatch.setattr(
            admin_client, "call", lambda *_, **__: {"store": {"is_up": True}, "gateway": {"is_up": True}}
        )
        monkeypatch.setattr(way_in.Logins, "without_password", lambda _: self.empty)
        monkeypatch.setattr(Sudoers, "unasked", lambda _: [])

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def replace(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def run_command(self, arguments: Sequence[str]) -> tuple[int, str]:
        return (0 if self.is_timer_on or "revert" not in " ".join(arguments) else 3), ""

    def pam(self, *words: str) -> Result:
        return CliRunner().invoke(main, ["--config", str(self.config), "pam", *words])

    def status(self) -> dict[str, Any]:
        (row,) = json.loads(self.pam("status", "--json").output)["services"]
        return dict(row)

    def doctor(self) -> list[Finding]:
        machine = doctor.Machine(
            str(self.config), pam=self.admin, try_lines=lambda _rules: self.played, root=str(self.root)
        )
        return [one for one in doctor._pam(machine) if one.level is not Level.OK]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def _above(line: str) -> Callable[[Bench], object]:
    return lambda bench: bench.replace("etc/pam.d/sudo", "@include common-auth", f"{line}\n@include common-auth")


def _behind(line: str) -> Callable[[Bench], object]:
    return lambda bench: bench.replace("etc/pam.d/sudo", END_MARK, f"{END_MARK}\n{line}")


def _tried(bench: Bench) -> None:
    bench.admin.disable("sudo")
    bench.admin.enable("sudo", FirstFactor.PASSWORD, now_at=NOW, confirm_by=NOW + 60)
    bench.is_timer_on = False


def _not_taken_back(bench: Bench) -> None:
    path = bench.root / STATE_DIR.lstrip("/") / "sudo.json"
    path.write_text(path.read_text().replace('"fault": ""', '"fault": "no room"'))


# The fault that must be found -> how the service gets it.
BROKEN: dict[str, Callable[[Bench], object]] = {
    "block-gone": lambda b: b.write("etc/pam.d/sudo", "@include common-auth\n# new\n"),
    "way-around": _above("auth sufficient pam_x.so"),
    "nobody-gets-in": _above("auth requisite pam_deny.so"),
    "asks-anybody": lambda b: b.replace("etc/pam.d/sudo", "@include common-auth", "auth required pam_unix.so"),
    "two-codes": _behind("@include textgate"),
    "user-environment": _above("auth required pam_env.so user_readenv=1"),
    "no-seteuid": lambda b: b.replace("etc/pam.d/textgate", " seteuid", ""),
    "empty-password": lambda b: b.empty.append("guest"),
    "block-changed": lambda b: b.replace("etc/pam.d/textgate", "success=3", "success=2"),
    "dry-run": lambda b: setattr(b, "played", ("a right code is refused",)),
    "no-timer": _tried,
    "not-taken-back": _not_taken_back,
    "unreadable": lambda b: b.replace("etc/pam.d/sudo", BEGIN_MARK, f"nonsense\n{BEGIN_MARK}"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_three_commands_say_the_same(bench: Bench, name: str) -> None:
    bench.admin.enable("sudo", FirstFactor.PASSWORD, now_at=NOW)
    assert bench.status()["findings"] == bench.doctor() == []
    BROKEN[name](bench)
    row, found, tried = bench.status(), bench.doctor(), bench.pam("try", "sudo")
    assert name in [one["fault"] for one in row["findings"]]
    assert [one["fault"] for one in row["findings"]] == [one.fault for one in found]
    assert [f"sudo: {one['message']}" for one in row["findings"]] == [one.message for one in found]
    assert [one["remedy"] for one in row["findings"]] == [one.remedy for one in found]
    assert {one.service for one in found} == {"sudo"}
    assert bench.pam("status").exit_code == tried.exit_code == 1
    failed = [one for one in row["findings"] if one["level"] == "failure"]
    assert row["faults"] == [one["message"] for one in failed]
    for one in failed:
        assert one["message"] in tried.output
        assert one["remedy"] in tried.output


@pytest.mark.parametrize(
    ("argument", "is_read"),
    [("user_readenv=1", True), ("user_readenv=2", True), ("user_readenv=01", True), ("user_readenv=-1", True),
     ("user_readenv=1yes", True), ("user_readenv=0", False), ("user_readenv=yes", False), ("readenv=1", False)],
)  # fmt: skip
def test_numbers_by_which_pam_env_reads_users_own_files(bench: Bench, argument: str, is_read: bool) -> None:
    bench.admin.enable("sudo", FirstFactor.PASSWORD, now_at=NOW)
    _above(f"auth required pam_env.so {argument}")(bench)
    assert ("user-environment" in [one.fault for one in bench.doctor()]) is is_read


def test_lines_that_were_put_in_by_hand_are_looked_at_alike(bench: Bench) -> None:
    bench.write("etc/pam.d/sudo", "@include common-auth\n@include textgate\n@include textgate\n")
    assert bench.status()["faults"] == ["asks for more than one code"]
    assert [one.fault for one in bench.doctor()] == ["two-codes", "former-lines"]
    tried = bench.pam("try", "sudo", "--force")
    assert tried.exit_code == 1
    assert "asks for more than one code" in tried.output


def test_half_a_change_is_told_by_all_and_mended_by_the_next_try(bench: Bench) -> None:
    """The file was not written; enable begins with taking that back."""
    bench.admin.enable("sudo", FirstFactor.PASSWORD, now_at=NOW)
    bench.write("etc/pam.d/sudo", "@include common-auth\n")
    assert [one["fault"] for one in bench.status()["findings"]] == ["half-written"]
    assert [one.fault for one in bench.doctor()] == ["half-written"]
    done = bench.pam("enable", "sudo")
    assert done.exit_code == 0
    assert "a change was broken off in the middle" in done.output
    assert bench.status()["findings"] == []


@pytest.mark.parametrize("name", ["way-around", "nobody-gets-in", "asks-anybody", "user-environment", "dry-run",
                                  "empty-password", "no-seteuid", "block-changed"])  # fmt: skip
def test_what_a_guarded_service_must_not_have_is_refused_before(bench: Bench, name: str) -> None:
    BROKEN[name](bench)
    broken = (bench.root / "etc/pam.d/sudo").read_text()
    tried = bench.pam("enable", "sudo", "--force")
    assert tried.exit_code == 1
    kind = next(one for one in FAULTS if one.name == name)
    for words in kind.message.split("{")[0], kind.message.rpartition("}")[2]:
        assert words in tried.output
    assert (bench.root / "etc/pam.d/sudo").read_text() == broken


def test_warning_refuses_nothing_and_is_told_by_both(bench: Bench) -> None:
    bench.admin.enable("sudo", FirstFactor.PASSWORD, now_at=NOW)
    _behind("auth required pam_faillock.so authfail")(bench)
    assert [one["fault"] for one in bench.status()["findings"]] == ["counts-codes"]
    assert [(one.fault, one.level) for one in bench.doctor()] == [("counts-codes", Level.WARNING)]
    shown = bench.pam("status")
    assert shown.exit_code == 0
    assert "warning: /etc/pam.d/sudo:" in shown.output
    assert bench.pam("try", "sudo").exit_code == 0


def test_every_fault_is_tried_here_and_has_a_name_of_its_own() -> None:
    names = [kind.name for kind in FAULTS]
    assert len(set(names)) == len(names)
    assert set(names) == {*BROKEN, "half-written", "counts-codes", "former-lines", "not-confirmed"} - {"unreadable"}


def test_long_lists_of_names_are_cut() -> None:
    assert guard_faults.names(["a", "b"]) == "a, b"
    assert guard_faults.names(list("abcdefg")) == "a, b, c, d, e and 2 more"
