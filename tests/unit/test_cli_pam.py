# SPDX-License-Identifier: MIT
"""`textgate pam` as it is typed: what is checked first, what is shown, and how it ends. Files are below a folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from manual import json_keys
from textgate import admin_client, cli_pam, pam_commands, way_in
from textgate.cli import main
from textgate.cli_base import Context
from textgate.errors import DaemonUnavailable, UsageError
from textgate.pam_admin import PamAdmin
from textgate.pam_removal import PamRemoval
from textgate.pam_repair import PamRepair
from textgate.pam_stack import FirstFactor, Rule
from textgate.pam_state import STATE_DIR
from textgate.policy import Account
from textgate.sshd_config import DROP_IN, wanted
from textgate.sudoers import Sudoers
from textgate.transaction import Transaction

BLOCK = (Path(__file__).parents[2] / "pam_helper" / "textgate.pam").read_text()
COMMON = """\
auth [success=1 default=ignore] pam_unix.so nullok
auth requisite pam_deny.so
auth required pam_permit.so
"""
ALICE = Account("alice", 1000, 1000, frozenset({"sudo"}))


class Desk:
    """A machine of files, and the command that is told of it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.admins = [ALICE]
        self.obstacles: list[str] = []
        self.empty: list[str] = []
        self.passwordless: list[str] = []
        self.sudo_services: list[tuple[str, str]] = []
        self.status: dict[str, Any] = {"store": {"is_up": True}, "gateway": {"is_up": True}}
        self.dry_runs: list[Sequence[Rule] | None] = []
        self.dry_run_faults: tuple[str, ...] = ()
        self.is_timer_on = False
        self.permit_root = "no"
        self.has_systemd = True
        for name, text in {"textgate": BLOCK, "common-auth": COMMON, "su-l": "auth include su\n"}.items():
            self.write(f"etc/pam.d/{name}", text)
        self.write("usr/share/textgate/textgate.pam", BLOCK)
        for name in ("sshd", "sudo", "sudo-i", "su", "login"):
            self.write(f"etc/pam.d/{name}", "@include common-auth\n")
        self.write("usr/bin/sudo", "")
        self.write("etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\n")
        config = self.write("textgate.toml", '[limits]\nallowed_countries = ["DK"]\n')
        self.base = ["--config", str(config)]
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(cli_pam, "PamAdmin", lambda: PamAdmin(str(root), self.run_command))
        monkeypatch.setattr(cli_pam, "PamRemoval", lambda: PamRemoval(str(root), self.run_command))
        monkeypatch.setattr(cli_pam, "PamRepair", lambda: PamRepair(str(root), self.run_command))
        for module in (cli_pam, pam_commands):
            monkeypatch.setattr(module, "dry_run", self.dry_run)
        monkeypatch.setattr(admin_client, "call", self.call)
        monkeypatch.setattr(cli_pam, "enrolled_admins", lambda config: self.admins)
        monkeypatch.setattr(way_in, "ssh_obstacles", lambda *_: self.obstacles)
        monkeypatch.setattr(way_in.Logins, "without_password", lambda _: self.empty)
        monkeypatch.setattr(Sudoers, "unasked", lambda _: self.passwordless)
        monkeypatch.setattr(Sudoers, "services", lambda _: self.sudo_services)
        is_dir = Path.is_dir
        monkeypatch.setattr(
            Path, "is_dir", lambda path: self.has_systemd if str(path) == "/run/systemd/system" else is_dir(path)
        )

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run_command(self, arguments: Sequence[str]) -> tuple[int, str]:
        line = " ".join(arguments)
        if line.startswith("sshd -T"):
            drop_in = self.root / DROP_IN.lstrip("/")
            methods = drop_in.read_text().split("AuthenticationMethods ")[1] if drop_in.exists() else "any"
            settings = {**wanted(FirstFactor.KEY), "authenticationmethods": methods.strip()}
            settings["permitrootlogin"] = self.permit_root
            return 0, "".join(f"{key} {value}\n" for key, value in settings.items())
        if "revert.timer" in line and arguments[1] in ("enable", "disable"):
            self.is_timer_on = arguments[1] == "enable"
        return (0 if self.is_timer_on or "revert" not in line else 3), ""

    def dry_run(self, rules: Sequence[Rule] | None = None) -> tuple[str, ...]:
        self.dry_runs.append(rules)
        return self.dry_run_faults

    def call(self, _path: str, verb: str, *_more: object, **_arguments: object) -> dict[str, Any]:
        assert verb == "status"
        if not self.status:
            raise DaemonUnavailable("textgated can't be reached", hint="start it")
        return self.status

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(main, [*self.base, "pam", *words])

    def rows(self) -> dict[str, dict[str, Any]]:
        return {row["service"]: row for row in json.loads(self.run("status", "--json").output)["services"]}

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted((self.root / "etc").rglob("*")) if path.is_file()}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(tmp_path, monkeypatch)


def test_enable_shows_the_diff_and_says_it_once(desk: Desk) -> None:
    done = desk.run("enable", "sudo")
    assert done.exit_code == 0
    assert "+auth substack textgate" in done.output
    assert "sudo is guarded." in done.output
    again = desk.run("enable", "sudo")
    assert again.exit_code == 0
    assert again.output == "sudo is guarded already.\n"


def test_enable_tries_the_lines_alone_and_the_resulting_stack(desk: Desk) -> None:
    desk.run("enable", "sudo")
    assert desk.dry_runs[0] is None
    assert desk.dry_runs[1] is not None
    assert desk.dry_runs[1][0].place == "/etc/pam.d/common-auth:1"


def test_usual_first_factors(desk: Desk) -> None:
    for service in ("sshd", "login"):
        assert desk.run("enable", service).exit_code == 0
    assert {name: row["first_factor"] for name, row in desk.rows().items()} == {"sshd": "key", "login": "password"}


@pytest.mark.parametrize("command", ["enable", "try"])
@pytest.mark.parametrize(
    ("change", "words", "is_forced"),
    [
        ({"admins": []}, "nobody who can become root has a phone", True),
        ({"obstacles": ["alice: has no ssh key"]}, "alice: has no ssh key", True),
        ({"status": {"store": {"is_up": False}, "gateway": {"is_up": True}}}, "could not be texted", True),
        ({"status": {"store": {"is_up": True}, "gateway": {"is_up": False}}}, "could not be texted", True),
        ({"status": {}}, "can't be reached", True),
        ({"dry_run_faults": ("three wrong codes let in",)}, "three wrong codes let in", False),
        ({"empty": ["guest"]}, "a code alone lets them in: guest", False),
    ],
)
def test_what_would_close_or_open_the_machine_is_refused_first(
    desk: Desk, command: str, change: dict[str, Any], words: str, is_forced: bool
) -> None:
    before = desk.files()
    for name, value in change.items():
        setattr(desk, name, value)
    words_for = ["sshd", "--first-factor", "password" if "empty" in change else "key"]
    refused = desk.run(command, *words_for)
    assert refused.exit_code != 0
    assert words in refused.output
    assert desk.files() == before
    forced = desk.run(command, *words_for, "--force")
    assert forced.exit_code == (0 if is_forced else 1)
    if not is_forced:
        assert words in forced.output
        assert desk.files() == before


def test_administrators_whom_textgate_refuses_are_no_way_in(desk: Desk) -> None:
    config = Path(desk.base[1])
    config.write_text(f'{config.read_text()}[refused]\nusers = ["alice"]\n')
    for service in ("sudo", "sshd"):
        refused = desk.run("enable", service)
        assert refused.exit_code == 1
        assert "textgate refuses every administrator with a phone: alice" in refused.output
        assert f"out of [refused] in {config}" in refused.output
    desk.admins.append(Account("bob", 1001, 1001, frozenset({"sudo"})))
    assert desk.run("enable", "sudo").exit_code == 0


def test_gateway_that_cannot_be_asked_is_taken_at_the_word_of_the_enrolment(desk: Desk) -> None:
    desk.status = {"store": {"is_up": True}, "gateway": {"is_up": None}}
    assert desk.run("enable", "sudo").exit_code == 0


def test_only_root_may(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for words in (["enable", "sudo"], ["try", "sudo"], ["disable", "sudo"], ["confirm"], ["status"]):
        refused = desk.run(*words)
        assert refused.exit_code == 1
        assert "only root" in refused.output


def test_try_says_what_to_do_and_until_when(desk: Desk) -> None:
    done = desk.run("try", "sshd", "--confirm-within", "90s")
    assert "taken back in 90s" in done.output
    assert desk.is_timer_on
    (guard,) = PamAdmin(str(desk.root), desk.run_command).pending()
    assert guard.confirm_by is not None
    assert 80 < guard.confirm_by - time.time() <= 90
    assert "is being tried until" in desk.run("enable", "sshd").output
    assert "is being tried until" in desk.run("try", "sshd").output
    assert "confirmed: sshd" in desk.run("confirm").output
    assert desk.run("confirm", "sshd").output == "nothing is being tried\n"
    assert not desk.is_timer_on


def test_try_without_systemd_is_refused(desk: Desk) -> None:
    desk.has_systemd = False
    refused = desk.run("try", "sudo")
    assert refused.exit_code == 1
    assert "systemd does not run here" in refused.output
    assert "textgate pam enable sudo" in refused.output
    assert desk.run("enable", "sudo").exit_code == 0


@pytest.mark.parametrize(("text", "span_s"), [("30s", 30), ("5m", 300), ("24h", 86400)])
def test_spans(text: str, span_s: int) -> None:
    assert cli_pam.parse_span(text) == span_s


@pytest.mark.parametrize("text", ["", "5", "29s", "25h", "-1m", "5 m", "1d", "99999999999s", "5m\n"])
def test_spans_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        cli_pam.parse_span(text)


def test_disable_of_one_and_of_all(desk: Desk) -> None:
    before = desk.files()
    for service in ("sshd", "sudo", "login"):
        desk.run("enable", service)
    assert "login is no longer guarded." in desk.run("disable", "login").output
    assert desk.run("disable", "login").output == "login was not guarded.\n"
    done = desk.run("disable", "--all", "--json")
    assert [row["service"] for row in json.loads(done.output)["services"]] == ["sshd", "sudo"]
    assert desk.files() == before
    assert desk.run("disable", "--all").output == "textgate guards nothing.\n"
    assert desk.run("disable").exit_code == 2
    assert desk.run("disable", "sudo", "--all").exit_code == 2


def test_disable_of_all_does_all_or_nothing_and_tells_why(desk: Desk) -> None:
    for service in ("login", "sudo", "su"):
        desk.run("enable", service)
    for service in ("login", "su"):
        path = desk.root / "etc/pam.d" / service
        path.write_text(path.read_text().replace("auth substack textgate", f"auth required mine-{service}.so"))
    before = desk.files()
    done = desk.run("disable", "--all")
    assert done.exit_code == 1
    assert desk.files() == before
    assert "nothing was changed" in done.output
    for service in ("login", "su"):
        assert f"/etc/pam.d/{service}: was changed within textgate's lines" in done.output
        assert f"auth required mine-{service}.so" in done.output
    assert desk.run("disable", "sudo").exit_code == 0


def test_disable_of_all_does_not_end_where_its_output_does(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `textgate pam disable --all | head -n 1`."""
    before = desk.files()
    for service in ("login", "sudo"):
        desk.run("enable", service)

    def closed(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(pam_commands, "show", closed)
    desk.run("disable", "--all")
    assert desk.files() == before


def test_disable_of_all_takes_out_what_was_forgotten_or_damaged(desk: Desk) -> None:
    before = desk.files()
    for service in ("login", "sudo"):
        desk.run("enable", service)
    state = desk.root / STATE_DIR.lstrip("/")
    (state / "login.json").unlink()
    (state / "sudo.json").write_text("{")
    assert desk.run("status").exit_code == 1
    assert desk.run("disable", "--all").exit_code == 0
    assert desk.files() == before


def test_status_of_nothing(desk: Desk) -> None:
    assert "Start with: textgate pam try sshd" in desk.run("status").output


def test_status_tells_who_put_lines_in_and_what_gets_around_them(desk: Desk) -> None:
    for service in ("sudo", "sudo-i", "su"):
        desk.run("enable", service)
    desk.write("etc/pam.d/login", "@include common-auth\n@include textgate\n")
    shown = desk.run("status")
    assert shown.exit_code == 0
    lines = {line.split()[0]: line for line in shown.output.splitlines()}
    assert lines["sudo"].split(maxsplit=1)[1] == "guarded, password then code"
    assert lines["su-l"].endswith("not put in by `textgate pam`")
    assert lines["login"].endswith("not put in by `textgate pam`")
    path = desk.root / "etc/pam.d/sudo"
    path.write_text("auth sufficient pam_x.so\n" + path.read_text())
    shown = desk.run("status")
    assert shown.exit_code == 1
    assert "NOT SAFE: /etc/pam.d/sudo:1 lets in without a code" in shown.output
    assert "changed by hand since" in shown.output


@pytest.mark.parametrize(
    "first",
    [
        "auth required pam_unix.so\n",
        "auth substack common-auth\n",
        "auth required pam_x.so\nauth optional pam_unix.so\n",
    ],
)
def test_status_tells_of_codes_that_are_texted_after_a_wrong_password(desk: Desk, first: str) -> None:
    desk.write("etc/pam.d/login", f"{first}@include textgate\n")
    row = desk.rows()["login"]
    assert row["faults"] == ["texts and asks for codes after a wrong password too"]
    assert row["remedy"].startswith("edit /etc/pam.d/login: ")
    assert "`requisite`, or `include`" in row["remedy"]
    assert desk.run("status").exit_code == 1
    desk.write(
        "etc/pam.d/login",
        first.replace("required", "requisite").replace("substack", "include") + "@include textgate\n",
    )
    assert desk.rows()["login"]["faults"] == []


@pytest.mark.parametrize(("methods", "is_told"), [("publickey,keyboard-interactive:pam", False), ("any", True)])
def test_sshd_may_leave_the_first_factor_to_a_key(desk: Desk, methods: str, is_told: bool) -> None:
    desk.write("etc/pam.d/sshd", "@include textgate\n")
    desk.write(DROP_IN.lstrip("/"), f"AuthenticationMethods {methods}\n")
    assert bool(desk.rows()["sshd"]["faults"]) is is_told


def test_status_tells_of_a_try_that_no_timer_takes_back(desk: Desk) -> None:
    desk.run("try", "sudo")
    assert desk.rows()["sudo"]["faults"] == []
    desk.is_timer_on = False
    assert desk.rows()["sudo"]["faults"] == ["is being tried, and no timer takes it back"]


def test_status_tells_of_a_try_that_could_not_be_taken_back(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.run("try", "sudo")

    apply = Transaction.apply

    def full(self: Transaction, path: str) -> None:
        if path.startswith("/etc/"):
            raise OSError(28, "No space left on device")
        apply(self, path)

    with monkeypatch.context() as patched:
        patched.setattr(Transaction, "apply", full)
        PamAdmin(str(desk.root), desk.run_command).revert_due(2_000_000_000, lambda guard: False)
    row = desk.rows()["sudo"]
    assert "could not be taken back: sudo: can't be changed: No space left on device" in row["faults"]
    assert row["remedy"] == "textgate pam disable sudo"


def test_half_of_a_change_is_told_and_enable_mends_it(desk: Desk) -> None:
    desk.run("enable", "sshd")
    (desk.root / DROP_IN.lstrip("/")).unlink()
    row = desk.rows()["sshd"]
    assert row["faults"] == ["a change was broken off in the middle"]
    assert row["remedy"] == "textgate pam disable sshd"
    assert desk.run("enable", "sshd").exit_code == 0
    assert desk.rows()["sshd"]["faults"] == []


@pytest.mark.parametrize("left", ["the PAM file", "sshd's settings"])
def test_what_is_left_of_a_change_hides_no_empty_password(desk: Desk, left: str) -> None:
    before = desk.files()
    desk.run("enable", "sshd", "--first-factor", "password")
    lost = "/etc/pam.d/sshd" if left == "sshd's settings" else DROP_IN
    path = desk.root / lost.lstrip("/")
    former = before.get(str(path))
    path.unlink()
    if former is not None:
        path.write_bytes(former)
    desk.empty = ["guest"]
    half = desk.files()
    for words in ([], ["--force"]):
        refused = desk.run("enable", "sshd", "--first-factor", "password", *words)
        assert refused.exit_code == 1
        assert "a code alone lets them in: guest" in refused.output
        assert desk.files() == half
    desk.empty = []
    assert desk.run("enable", "sshd", "--first-factor", "password").exit_code == 0
    assert desk.rows()["sshd"]["faults"] == []
    desk.run("disable", "sshd")
    assert desk.files() == before


def test_match_blocks_that_are_meant_take_the_command_that_the_hint_names(desk: Desk) -> None:
    desk.write("etc/ssh/sshd_config.d/zz.conf", "Match User deploy\n  AuthenticationMethods publickey\n")
    refused = desk.run("try", "sshd")
    assert refused.exit_code == 1
    command = "textgate pam try sshd --first-factor key --force"
    assert command in refused.output
    assert desk.run(*command.split()[2:]).exit_code == 0


def test_command_that_comes_second_says_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(_rules: Sequence[Rule] | None = None) -> tuple[str, ...]:
        PamAdmin(str(desk.root), desk.run_command).enable("sudo", FirstFactor.PASSWORD, now_at=1)
        return ()

    monkeypatch.setattr(cli_pam, "dry_run", slow)
    assert desk.run("enable", "sudo").output == "sudo is guarded already.\n"


@pytest.mark.parametrize(
    ("value", "is_told"), [("yes", False), ("no", False), ("without-password", True), ("forced-commands-only", True)]
)
def test_root_who_is_shut_out_is_told(desk: Desk, value: str, is_told: bool) -> None:
    desk.permit_root = value
    assert ("root can't log in by ssh any more" in desk.run("try", "sshd").output) is is_told


def test_notes(desk: Desk) -> None:
    desk.passwordless = ["/etc/sudoers.d/90-cloud:1"]
    desk.sudo_services = [("/etc/sudoers:2", "open"), ("/etc/sudoers:3", "sudo")]
    first = desk.run("enable", "sudo").output
    assert "note: sudo-i gives root for a password alone (with `sudo -i`), and asks for no code yet" in first
    assert "textgate pam try sudo-i" in first
    assert "/etc/sudoers.d/90-cloud:1" in first
    assert "/etc/sudoers:2 has sudo ask the PAM service open, which asks for no code" in first
    assert "/etc/sudoers:3" not in first
    assert "asks for no code yet" not in desk.run("enable", "sudo-i").output
    of_su = desk.run("enable", "su").output
    assert "root has none: textgate enrol root" in of_su
    assert "so are su-l, by way of su" in of_su


def test_no_note_on_a_service_that_the_same_command_guards(desk: Desk) -> None:
    context = Context(config_path=desk.base[1], is_json=False)
    admin = PamAdmin(str(desk.root), desk.run_command)
    admin.enable("sudo", FirstFactor.PASSWORD, now_at=1)
    assert cli_pam.notes(context, admin, "sudo", ["sudo", "sudo-i"]) == []
    (note,) = cli_pam.notes(context, admin, "sudo", ["sudo"])
    assert note.startswith("sudo-i gives root")


def test_json_is_one_object_with_the_diff(desk: Desk) -> None:
    done = json.loads(desk.run("enable", "sudo", "--json").output)
    assert tuple(done) == json_keys("pam try")
    report = json.loads(desk.run("status", "--json").output)
    assert ("services", *report["services"][0], "doors") == json_keys("pam status")
    assert tuple(report) == ("services", "doors")
    assert tuple(json.loads(desk.run("confirm", "--json").output)) == json_keys("pam confirm")
    assert done["service"] == "sudo"
    assert done["is_changed"] is True
    assert done["files"] == ["/etc/pam.d/sudo"]
    assert "+auth substack textgate" in done["diff"]
    again = json.loads(desk.run("enable", "sudo", "--json").output)
    assert again["is_changed"] is False
    (taken_out,) = json.loads(desk.run("disable", "--all", "--json").output)["services"]
    assert tuple(taken_out) == json_keys("pam try")
    refused = json.loads(desk.run("enable", "cron", "--json").output)
    assert "authenticates nobody" in refused["error"]["message"]
