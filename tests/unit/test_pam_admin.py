# SPDX-License-Identifier: MIT
"""textgate's lines into files and out again, in a folder that stands for /, with sshd and systemctl played."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from textgate import pam_files, pam_state
from textgate.doors import UNSUITABLE
from textgate.errors import TextgateError
from textgate.pam_admin import REVERT_TIMER, PamAdmin
from textgate.pam_files import PamAdminError, check_service
from textgate.pam_stack import BEGIN_MARK, FirstFactor, StackError
from textgate.pam_state import STATE_DIR, Condition, Guard
from textgate.sshd_config import DROP_IN
from textgate.transaction import FileChange, Transaction

BLOCK = (Path(__file__).parents[2] / "pam_helper" / "textgate.pam").read_text()
COMMON = "auth [success=1 default=ignore] pam_unix.so\nauth requisite pam_deny.so\nauth required pam_permit.so\n"
SUDO = "#%PAM-1.0\nsession required pam_limits.so\n@include common-auth\n"
SSHD = "# PAM of sshd\n@include common-auth\naccount required pam_nologin.so\n"
SU = "auth sufficient pam_rootok.so\n@include common-auth\n"
NOW = 1_700_000_000
STATUS_OF_SSHD_T = {
    "usepam": "yes",
    "kbdinteractiveauthentication": "yes",
    "passwordauthentication": "no",
    "permitrootlogin": "prohibit-password",
}


class Commands:
    """Plays sshd and systemctl; keeps what was asked, and what the drop-in was at that moment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        self.answers: dict[str, tuple[int, str]] = {}
        self.effective: dict[str, str] = {}
        self.is_timer_on = False

    def __call__(self, arguments: Sequence[str]) -> tuple[int, str]:
        line = " ".join(arguments)
        self.asked.append(line)
        for beginning, answer in self.answers.items():
            if line.startswith(beginning):
                return answer
        if line.startswith("sshd -T"):
            return 0, "".join(f"{key} {value}\n" for key, value in self.settings().items())
        if line.endswith(REVERT_TIMER) and line.split()[1] in ("enable", "disable"):
            self.is_timer_on = line.split()[1] == "enable"
        if line.startswith("systemctl is-active --quiet textgate-pam-revert"):
            return (0 if self.is_timer_on else 3), ""
        return 0, ""

    def settings(self) -> dict[str, str]:
        drop_in = self.root / DROP_IN.lstrip("/")
        methods = [line for line in drop_in.read_text().splitlines() if line.startswith("AuthenticationMethods")]
        return STATUS_OF_SSHD_T | {"authenticationmethods": methods[0].partition(" ")[2]} | self.effective


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in {
        "textgate": BLOCK, "common-auth": COMMON, "sudo": SUDO, "sudo-i": SUDO, "sshd": SSHD, "su": SU,
        "su-l": "auth include su\n", "login": SUDO, "common-account": "",
    }.items():  # fmt: skip
        path = tmp_path / "etc/pam.d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "etc/ssh/sshd_config.d").mkdir(parents=True)
    (tmp_path / "etc/ssh/sshd_config").write_text("Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n")
    return tmp_path


@pytest.fixture
def commands(root: Path) -> Commands:
    return Commands(root)


@pytest.fixture
def admin(root: Path, commands: Commands) -> PamAdmin:
    return PamAdmin(str(root), commands)


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below etc, with its mode."""
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mode)
        for path in sorted((root / "etc").rglob("*"))
        if path.is_file()
    }


def pam_file(root: Path, service: str) -> Path:
    return root / "etc/pam.d" / service


def state_file(root: Path, service: str) -> Path:
    return root / STATE_DIR.lstrip("/") / f"{service}.json"


def enable(admin: PamAdmin, service: str = "sudo", **options: object) -> tuple[FileChange, ...]:
    first_factor = FirstFactor.KEY if service == "sshd" else FirstFactor.PASSWORD
    return admin.enable(service, first_factor, now_at=NOW, **options)  # type: ignore[arg-type]


# --- In and out ---


@pytest.mark.parametrize("service", ["sudo", "sudo-i", "su", "login", "sshd"])
def test_disable_puts_back_the_very_bytes(admin: PamAdmin, root: Path, service: str) -> None:
    pam_file(root, service).chmod(0o604)
    before = snapshot(root)
    changes = enable(admin, service)
    assert [change.path for change in changes][-1] == f"/etc/pam.d/{service}"
    assert snapshot(root) != before
    assert stat.S_IMODE(pam_file(root, service).stat().st_mode) == 0o604
    assert service in admin.services()
    assert admin.ways_around(service) == ()
    guard = admin.guard(service)
    assert guard is not None
    assert admin.condition(guard) is Condition.WHOLE
    back = admin.disable(service)
    assert {change.path for change in back} == {change.path for change in changes}
    assert snapshot(root) == before
    assert admin.remembered() == []


def test_twice_is_once(admin: PamAdmin, root: Path) -> None:
    assert enable(admin)
    once = snapshot(root)
    assert enable(admin) == ()
    assert snapshot(root) == once
    assert admin.disable("sudo")
    assert admin.disable("sudo") == ()


def test_diff_shows_what_is_changed(admin: PamAdmin) -> None:
    (change,) = enable(admin)
    assert "+auth substack textgate" in change.diff()
    assert "--- /etc/pam.d/sudo" in change.diff()
    assert "/dev/null" in FileChange("/x", None, b"a").diff()


def test_state_is_closed_to_others(admin: PamAdmin, root: Path) -> None:
    enable(admin)
    assert stat.S_IMODE(state_file(root, "sudo").stat().st_mode) == 0o600
    assert stat.S_IMODE(state_file(root, "sudo").parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("first_factor", list(FirstFactor))
def test_sshd_gets_its_settings_first_and_loses_them_last(
    admin: PamAdmin, root: Path, monkeypatch: pytest.MonkeyPatch, first_factor: FirstFactor
) -> None:
    written: list[str] = []
    write = Transaction.apply

    def noted(self: Transaction, path: str) -> None:
        written.append(path)
        write(self, path)

    monkeypatch.setattr(Transaction, "apply", noted)
    state = f"{STATE_DIR}/sshd.json"
    admin.enable("sshd", first_factor, now_at=NOW)
    assert written == [state, DROP_IN, "/etc/pam.d/sshd"]
    admin.disable("sshd")
    assert written[3:] == ["/etc/pam.d/sshd", DROP_IN, state]


def test_sshd_is_checked_and_reloaded(admin: PamAdmin, commands: Commands) -> None:
    enable(admin, "sshd")
    tests = [line.split(" -C")[0] for line in commands.asked]
    assert tests[:5] == [
        "sshd -t",
        "sshd -T",
        "sshd -T",
        "systemctl is-active --quiet ssh.service",
        "systemctl reload ssh.service",
    ]


def test_sshd_is_told_all_that_a_match_line_may_ask_for(admin: PamAdmin, commands: Commands) -> None:
    """With `Match LocalPort` in its files and no lport in the question, sshd answers with an error."""
    enable(admin, "sshd")
    asked = [line.partition(" -C ")[2] for line in commands.asked if line.startswith("sshd -T")]
    assert {pair.partition("=")[2] for one in asked for pair in one.split(",")} >= {"root", "localhost", "192.0.2.1"}
    for one in asked:
        told = [pair.partition("=")[0] for pair in one.split(",")]
        assert told == ["user", "host", "addr", "laddr", "lport", "rdomain"]


def test_sshd_that_does_not_run_is_not_reloaded(admin: PamAdmin, commands: Commands) -> None:
    commands.answers["systemctl is-active --quiet ssh.service"] = (3, "")
    enable(admin, "sshd")
    admin.disable("sshd")
    assert "systemctl reload ssh.service" not in commands.asked


def test_service_of_the_vendor_gets_a_file_of_its_own_and_loses_it(admin: PamAdmin, root: Path) -> None:
    vendor = root / "usr/lib/pam.d/cockpit"
    vendor.parent.mkdir(parents=True)
    vendor.write_text(SUDO)
    before = snapshot(root)
    enable(admin, "cockpit")
    assert "auth substack textgate" in pam_file(root, "cockpit").read_text()
    assert admin.services() == ["cockpit"]
    admin.disable("cockpit")
    assert snapshot(root) == before


def test_no_copy_is_left_and_no_file_of_an_administrators_is_taken_for_one(admin: PamAdmin, root: Path) -> None:
    names = [".sudo.original", ".sudo.20261101", ".sudo.abcdefgh", ".sudo.textgate", ".sudo.textgate-old"]
    for name in names:
        pam_file(root, name).write_text(SUDO)
    enable(admin)
    admin.disable("sudo")
    assert sorted(path.name for path in (root / "etc/pam.d").glob(".*")) == sorted(names)


# --- Refused ---


@pytest.mark.parametrize(
    "service", ["", "../sshd", "a/b", ".hidden", "x" * 65, "a b", "ssh\n", "common-auth", "textgate", "other"]
)
def test_what_is_no_service_is_refused(service: str) -> None:
    with pytest.raises(PamAdminError):
        check_service(service)


def test_service_by_which_programs_check_passwords_is_not_guarded() -> None:
    """Its file says why: textgate.AuthClient asks for the code itself."""
    with pytest.raises(PamAdminError, match="ask for the code themselves"):
        check_service("textgate-api")


@pytest.mark.parametrize("service", sorted(UNSUITABLE))
def test_services_that_cannot_ask_are_refused_with_the_reason(admin: PamAdmin, service: str) -> None:
    with pytest.raises(PamAdminError, match=UNSUITABLE[service]):
        enable(admin, service)


@pytest.mark.parametrize(
    ("service", "text", "words"),
    [
        ("sudo", "auth sufficient pam_unix.so\n@include common-auth\n", "/etc/pam.d/sudo:1"),
        ("sudo", "auth requisite pam_deny.so\n@include common-auth\n", "lets nobody in"),
        ("sudo", "auth required pam_unix.so\n", "after a wrong password too"),
        ("sudo", "session required pam_limits.so\n", "no auth line"),
        ("sudo", "nonsense\n", "no form that PAM knows"),
        ("sudo", "@include common-auth\n@include textgate\n", "asks for a code already"),
        ("sshd", "auth required pam_unix.so\n", "line `@include common-auth`"),
    ],
)
def test_file_that_the_lines_do_not_fit_into_is_left_alone(
    admin: PamAdmin, root: Path, service: str, text: str, words: str
) -> None:
    pam_file(root, service).write_text(text)
    before = snapshot(root)
    with pytest.raises(TextgateError) as caught:
        enable(admin, service)
    assert words in caught.value.message
    assert caught.value.hint
    assert snapshot(root) == before
    assert admin.remembered() == []


def test_service_that_asks_by_way_of_common_auth_is_not_made_to_ask_twice(admin: PamAdmin, root: Path) -> None:
    pam_file(root, "common-auth").write_text(COMMON + "auth include textgate\n")
    with pytest.raises(PamAdminError, match="asks for a code already"):
        enable(admin)
    with pytest.raises(PamAdminError, match="did not put in"):
        admin.disable("sudo")


def test_su_and_su_l_do_not_ask_twice(admin: PamAdmin) -> None:
    enable(admin, "su-l")
    with pytest.raises(PamAdminError, match="more than one code"):
        enable(admin, "su")
    admin.disable("su-l")
    enable(admin, "su")
    assert admin.services() == ["su", "su-l"]
    assert admin.services_through("su") == ["su", "su-l"]
    with pytest.raises(PamAdminError, match="asks for a code already"):
        enable(admin, "su-l")


def test_symbolic_links_are_left_alone(admin: PamAdmin, root: Path) -> None:
    pam_file(root, "sudo").rename(root / "elsewhere")
    pam_file(root, "sudo").symlink_to(root / "elsewhere")
    with pytest.raises(PamAdminError, match="symbolic link"):
        enable(admin)
    (root / DROP_IN.lstrip("/")).symlink_to("/dev/null")
    with pytest.raises(PamAdminError, match="symbolic link"):
        enable(admin, "sshd")


def test_key_is_no_first_factor_but_of_sshd(admin: PamAdmin) -> None:
    with pytest.raises(PamAdminError, match="sees no ssh key"):
        admin.enable("sudo", FirstFactor.KEY, now_at=NOW)


def test_any_needs_passwords_that_pam_unix_knows(admin: PamAdmin, root: Path) -> None:
    pam_file(root, "common-auth").write_text("auth sufficient pam_sss.so\n" + COMMON)
    with pytest.raises(PamAdminError, match="more than pam_unix"):
        admin.enable("sshd", FirstFactor.ANY, now_at=NOW)
    assert enable(admin, "sshd")  # by key, the password line is a net only


def test_other_first_factor_is_not_changed_behind_the_back(admin: PamAdmin) -> None:
    enable(admin, "sshd")
    with pytest.raises(PamAdminError, match="with the first factor key"):
        admin.enable("sshd", FirstFactor.PASSWORD, now_at=NOW)


# --- sshd that doesn't play along ---


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"sshd -t": (255, "bad configuration option: x\n")}, "does not take"),
        ({"sshd -T": (1, "no hostkeys\n")}, "can't be read"),
        ({"systemctl reload ssh.service": (1, "Job failed\n")}, "could not be reloaded"),
    ],
)
def test_sshd_that_refuses_gets_everything_back(
    admin: PamAdmin, root: Path, commands: Commands, answer: dict[str, tuple[int, str]], words: str
) -> None:
    before = snapshot(root)
    commands.answers |= answer
    with pytest.raises(PamAdminError, match=words):
        enable(admin, "sshd", confirm_by=NOW + 60)
    assert snapshot(root) == before
    assert admin.remembered() == []
    assert not commands.is_timer_on


def test_line_that_makes_sshd_refuse_the_settings_is_named(admin: PamAdmin, root: Path, commands: Commands) -> None:
    """sshd's own words are of AuthenticationMethods, and name neither a file nor what is the matter."""
    (root / "etc/ssh/sshd_config.d/00-aaa.conf").write_text("ChallengeResponseAuthentication no\n")
    (root / "etc/ssh/sshd_config.d/zz.conf").write_text("PasswordAuthentication yes\nPubkeyAuthentication no\n")
    commands.answers["sshd -t"] = (255, "AuthenticationMethods cannot be satisfied\n")
    with pytest.raises(PamAdminError, match="does not take") as caught:
        enable(admin, "sshd")
    assert caught.value.hint == (
        "AuthenticationMethods cannot be satisfied\nsshd reads first: "
        "/etc/ssh/sshd_config.d/00-aaa.conf:1: kbdinteractiveauthentication no; "
        "/etc/ssh/sshd_config.d/zz.conf:2: pubkeyauthentication no"
    )


@pytest.mark.parametrize(
    "keyword", ["usepam", "kbdinteractiveauthentication", "passwordauthentication", "authenticationmethods"]
)
def test_setting_that_something_else_overrides_is_named(
    admin: PamAdmin, root: Path, commands: Commands, keyword: str
) -> None:
    (root / "etc/ssh/sshd_config.d/00-aaa.conf").write_text(f"\n{keyword.upper()} other\n")
    before = snapshot(root)
    commands.effective = {keyword: "other"}
    with pytest.raises(PamAdminError, match=r"00-aaa\.conf:2"):
        enable(admin, "sshd")
    assert snapshot(root) == before


def test_match_block_that_goes_without_a_code_is_refused_unless_forced(admin: PamAdmin, root: Path) -> None:
    main = root / "etc/ssh/sshd_config"
    main.write_text(main.read_text() + "Match User backup\n  AuthenticationMethods publickey\n")
    with pytest.raises(PamAdminError, match="sshd_config:4"):
        enable(admin, "sshd")
    assert enable(admin, "sshd", is_forced=True)


# --- What breaks in the middle ---


def test_disk_that_takes_no_more_is_met_before_anything_is_changed(
    admin: PamAdmin, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the copies it is that it has no room for."""
    before = snapshot(root)
    for number in range(100):
        left = [number]
        sync = os.fsync

        def full(handle: int, left: list[int] = left, sync: Callable[[int], None] = sync) -> None:
            left[0] -= stat.S_ISREG(os.fstat(handle).st_mode)
            if left[0] == -1:
                raise OSError(28, "No space left on device")
            sync(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            try:
                enable(admin, "sshd", confirm_by=NOW + 60)
            except PamAdminError as error:
                assert "No space left" in error.message
                assert snapshot(root) == before
                assert admin.remembered() == []
        if left[0] >= 0:  # all that there is to sync was synced
            break
    assert number >= 4  # the plan, and three files
    assert admin.services() == ["sshd"]


def test_way_back_that_is_barred_is_told_and_stays_known(
    admin: PamAdmin, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(root)
    replace = Path.replace

    def once(self: Path, target: Path) -> Path:
        if target.name == "sshd" or "-old-" in self.name:
            raise OSError(30, "Read-only file system")
        return replace(self, target)

    drop_in = root / DROP_IN.lstrip("/")
    drop_in.write_text("# mine\n")
    before = snapshot(root)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", once)
        with pytest.raises(PamAdminError, match="half of the change is left"):
            enable(admin, "sshd")
        with pytest.raises(PamAdminError, match="can't be taken back: Read-only"):
            admin.disable("sshd")
    assert drop_in.read_text() != "# mine\n"
    assert admin.disable("sudo") == ()  # any command will do
    assert snapshot(root) == before
    assert admin.remembered() == []


def test_state_that_cannot_be_written_is_known_before_anything_is_changed(
    admin: PamAdmin, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "var/lib/textgate").mkdir(parents=True)
    (root / "var/lib/textgate/pam").write_text("in the way")
    before = snapshot(root)
    with pytest.raises(PamAdminError, match="no way back"):
        enable(admin)
    assert snapshot(root) == before


def test_signal_in_the_middle_waits_for_the_end(admin: PamAdmin, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Transaction.apply

    def interrupted(self: Transaction, path: str) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # to nobody that another test left
        write(self, path)

    monkeypatch.setattr(Transaction, "apply", interrupted)
    with pytest.raises(KeyboardInterrupt):
        enable(admin)
    guard = admin.guard("sudo")
    assert guard is not None
    assert admin.condition(guard) is Condition.WHOLE


def test_two_at_once_make_one_change(admin: PamAdmin, root: Path) -> None:
    done: list[tuple[FileChange, ...]] = []
    threads = [threading.Thread(target=lambda: done.append(enable(admin))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(changes) for changes in done) == [0] * 7 + [1]
    assert pam_file(root, "sudo").read_text().count(BEGIN_MARK) == 1


def test_other_command_that_holds_on_is_told(admin: PamAdmin, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enable(admin)
    monkeypatch.setattr(pam_state, "LOCK_WAIT_S", 0.0)
    handle = os.open(root / STATE_DIR.lstrip("/") / ".lock", os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(PamAdminError, match="another"):
            admin.disable("sudo")
    finally:
        os.close(handle)


# --- All at once ---


def test_all_are_taken_out_or_none(admin: PamAdmin, root: Path) -> None:
    before = snapshot(root)
    for service in ("sshd", "sudo", "su", "login"):
        enable(admin, service)
    guarded = snapshot(root)
    path = pam_file(root, "sshd")
    ours = path.read_text()
    path.write_text(ours.replace("requisite pam_unix.so", "requisite pam_unix.so nullok"))
    with pytest.raises(PamAdminError, match=r"sshd: was changed within .*nothing was changed"):
        admin.disable_all()
    path.write_text(ours)
    assert snapshot(root) == guarded
    assert set(admin.disable_all()) == {"sshd", "sudo", "su", "login"}
    assert snapshot(root) == before
    assert admin.disable_all() == {}


# --- What an administrator has changed since ---


@pytest.mark.parametrize("service", ["sudo", "sshd"])
def test_changes_around_the_lines_stay(admin: PamAdmin, root: Path, service: str) -> None:
    path = pam_file(root, service)
    before = path.read_text()
    enable(admin, service)
    path.write_text("session optional mine.so\n" + path.read_text() + "session optional mine2.so\n")
    guard = admin.guard(service)
    assert guard is not None
    assert admin.condition(guard) is Condition.CHANGED
    assert enable(admin, service) == ()
    admin.disable(service)
    assert path.read_text() == f"session optional mine.so\n{before}session optional mine2.so\n"
    assert admin.remembered() == []


def test_changes_within_the_lines_are_left_and_explained(admin: PamAdmin, root: Path) -> None:
    enable(admin)
    path = pam_file(root, "sudo")
    path.write_text(
        path.read_text().replace("auth substack textgate", "auth substack textgate\nauth required mine.so")
    )
    before = snapshot(root)
    with pytest.raises(PamAdminError) as caught:
        admin.disable("sudo")
    assert "auth required mine.so" in str(caught.value.hint)
    assert snapshot(root) == before
    assert admin.remembered() == ["sudo"]


def test_file_that_a_package_replaced_is_let_go(admin: PamAdmin, root: Path) -> None:
    enable(admin)
    pam_file(root, "sudo").write_text(SUDO + "# new version\n")
    with pytest.raises(PamAdminError, match="asks for no code any more"):
        enable(admin)
    assert admin.disable("sudo") == ()
    assert pam_file(root, "sudo").read_text() == SUDO + "# new version\n"
    assert admin.remembered() == []


def test_changed_settings_of_sshd_are_kept_aside(admin: PamAdmin, root: Path) -> None:
    enable(admin, "sshd")
    drop_in = root / DROP_IN.lstrip("/")
    drop_in.write_text(drop_in.read_text() + "MaxAuthTries 3\n")
    admin.disable("sshd")
    assert not drop_in.exists()
    aside = drop_in.with_name(drop_in.name + ".changed")
    assert aside.read_text().endswith("MaxAuthTries 3\n")
    assert pam_file(root, "sshd").read_text() == SSHD


def test_settings_file_that_was_there_before_comes_back(admin: PamAdmin, root: Path) -> None:
    drop_in = root / DROP_IN.lstrip("/")
    drop_in.write_text("# mine\n")
    enable(admin, "sshd")
    admin.disable("sshd")
    assert drop_in.read_text() == "# mine\n"


def test_file_that_became_a_symbolic_link_is_left_alone(admin: PamAdmin, root: Path) -> None:
    enable(admin)
    path = pam_file(root, "sudo")
    path.rename(root / "elsewhere")
    path.symlink_to(root / "elsewhere")
    with pytest.raises(PamAdminError, match="symbolic link"):
        admin.disable("sudo")


def test_link_to_a_guarded_file_is_no_guarded_file_of_its_own(admin: PamAdmin, root: Path) -> None:
    pam_file(root, "doas").symlink_to("sudo")
    pam_file(root, "elsewhere").symlink_to(root / "etc/pam.d/login")
    before = snapshot(root)
    enable(admin)
    assert admin.marked() == ["sudo"]
    assert admin.disable("elsewhere") == ()  # nothing of ours behind it
    with pytest.raises(PamAdminError, match="symbolic link"):
        admin.disable("doas")
    admin.disable("sudo")
    assert admin.disable("doas") == ()
    assert snapshot(root) == before


# --- State that is lost or damaged ---


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"service": "sudo"}', b"\xff", None])
def test_lines_come_out_without_what_was_remembered(admin: PamAdmin, root: Path, content: bytes | None) -> None:
    before = snapshot(root)
    for service in ("sudo", "sshd"):
        enable(admin, service)
        if content is None:
            state_file(root, service).unlink()
        else:
            state_file(root, service).write_bytes(content)
            with pytest.raises(PamAdminError, match="damaged"):
                admin.guard(service)
    assert admin.guards() == []
    assert admin.marked() == ["sshd", "sudo"]
    for service in ("sudo", "sshd"):
        assert admin.disable(service)
    assert snapshot(root) == before
    assert admin.remembered() == []


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept["changes"][0].update(path="/etc/shadow"),
        lambda kept: kept["changes"][0].update(path="/etc/pam.d/../shadow"),
        lambda kept: kept.update(service="login"),
        lambda kept: kept["changes"][0].update(before="not base64!"),
        lambda kept: kept.update(first_factor="none"),
        lambda kept: kept.update(confirm_by="soon"),
    ],
)
def test_damaged_state_writes_nowhere_else(
    admin: PamAdmin, root: Path, change: Callable[[dict[str, object]], None]
) -> None:
    (root / "etc/shadow").write_text("secret")
    before = snapshot(root)
    enable(admin)
    kept = json.loads(state_file(root, "sudo").read_text())
    change(kept)
    state_file(root, "sudo").write_text(json.dumps(kept))
    with pytest.raises(PamAdminError, match="damaged"):
        admin.guard("sudo")
    admin.disable("sudo")
    assert snapshot(root) == before


def test_lines_put_in_by_hand_are_left_and_explained(admin: PamAdmin, root: Path) -> None:
    pam_file(root, "sudo").write_text(SUDO + "@include textgate\n")
    with pytest.raises(PamAdminError, match="did not put in") as caught:
        admin.disable("sudo")
    assert "grep" in str(caught.value.hint)


# --- Tries ---


def never(_guard: Guard) -> bool:
    return False


def always(_guard: Guard) -> bool:
    return True


def test_try_starts_the_timer_before_it_writes_and_confirm_stops_it(
    admin: PamAdmin, root: Path, commands: Commands
) -> None:
    enable(admin, confirm_by=NOW + 60)
    assert commands.asked[0] == f"systemctl enable --now --quiet {REVERT_TIMER}"
    assert [guard.service for guard in admin.pending()] == ["sudo"]
    assert admin.confirm("sudo")
    assert not admin.confirm("sudo")
    assert admin.pending() == []
    assert not commands.is_timer_on
    assert "auth substack textgate" in pam_file(root, "sudo").read_text()


def test_try_without_a_timer_changes_nothing(admin: PamAdmin, root: Path, commands: Commands) -> None:
    before = snapshot(root)
    commands.answers["systemctl enable"] = (1, "Failed to connect to bus\n")
    with pytest.raises(PamAdminError, match="timer"):
        enable(admin, confirm_by=NOW + 60)
    assert snapshot(root) == before
    assert admin.remembered() == []


def test_firm_change_needs_no_timer(admin: PamAdmin, commands: Commands) -> None:
    commands.answers["systemctl"] = (1, "no systemd here")
    assert enable(admin)
    assert not any("enable" in line for line in commands.asked)


@pytest.mark.parametrize(
    ("now_at", "is_back"), [(NOW, False), (NOW + 59, False), (NOW + 60, True), (NOW + 10**6, True), (NOW - 1, True)]
)
def test_try_is_taken_back_when_its_time_is_up_or_the_clock_says_nothing(
    admin: PamAdmin, root: Path, commands: Commands, now_at: int, is_back: bool
) -> None:
    before = snapshot(root)
    enable(admin, confirm_by=NOW + 60)
    done = admin.revert_due(now_at, never)
    assert [one.service for one in done] == (["sudo"] if is_back else [])
    assert (snapshot(root) == before) is is_back
    assert commands.is_timer_on is not is_back


@pytest.mark.parametrize("now_at", [NOW, NOW + 60])
def test_login_confirms_a_try(admin: PamAdmin, commands: Commands, now_at: int) -> None:
    enable(admin, confirm_by=NOW + 60)
    (done,) = admin.revert_due(now_at, always)
    assert done.is_confirmed
    assert admin.pending() == []
    assert admin.services() == ["sudo"]
    assert not commands.is_timer_on


def test_login_does_not_confirm_what_an_earlier_version_left_half(admin: PamAdmin, root: Path) -> None:
    before = snapshot(root)
    changes = enable(admin, "sshd", confirm_by=NOW + 60)
    pam_file(root, "sshd").write_bytes(changes[-1].before or b"")
    guard = admin.guard("sshd")
    assert guard is not None
    assert admin.condition(guard) is Condition.HALF
    with pytest.raises(PamAdminError, match="broken off"):
        admin.confirm("sshd")
    assert admin.revert_due(NOW + 1, always) == []
    (done,) = admin.revert_due(NOW + 60, always)
    assert not done.is_confirmed
    assert snapshot(root) == before


def test_what_an_earlier_version_left_half_is_done_by_enable(admin: PamAdmin, root: Path) -> None:
    changes = enable(admin, "sshd")
    pam_file(root, "sshd").write_bytes(changes[-1].before or b"")
    assert enable(admin, "sshd")
    guard = admin.guard("sshd")
    assert guard is not None
    assert admin.condition(guard) is Condition.WHOLE


def test_tries_have_their_own_times(admin: PamAdmin, commands: Commands) -> None:
    enable(admin, "sudo", confirm_by=NOW + 60)
    enable(admin, "login", confirm_by=NOW + 120)
    enable(admin, "su")
    admin.revert_due(NOW + 60, never)
    assert admin.services() == ["login", "su", "su-l"]
    assert commands.is_timer_on
    admin.revert_due(NOW + 120, never)
    assert admin.services() == ["su", "su-l"]
    assert not commands.is_timer_on


def test_try_that_cannot_be_taken_back_is_told_once_and_tried_again(admin: PamAdmin, root: Path) -> None:
    enable(admin, confirm_by=NOW + 60)
    enable(admin, "login", confirm_by=NOW + 60)
    path = pam_file(root, "sudo")
    ours = path.read_text()
    path.write_text(ours.replace("auth substack textgate", "#auth substack textgate"))
    done = {one.service: one.error for one in admin.revert_due(NOW + 60, never)}
    assert done["login"] is None  # one doesn't hold up the other
    assert done["sudo"] is not None
    assert admin.revert_due(NOW + 65, never) == []
    guard = admin.guard("sudo")
    assert guard is not None
    assert "left alone" in guard.fault
    path.write_text(ours)
    assert [one.error for one in admin.revert_due(NOW + 70, never)] == [None]


def test_damaged_try_does_not_hold_up_others(admin: PamAdmin, root: Path) -> None:
    enable(admin, "sudo", confirm_by=NOW + 60)
    enable(admin, "login", confirm_by=NOW + 60)
    state_file(root, "login").write_text("{")
    assert [one.service for one in admin.revert_due(NOW + 60, never)] == ["sudo"]


def test_what_is_no_file_of_pam_beside_the_services_is_no_service(admin: PamAdmin, root: Path) -> None:
    (root / "etc/pam.d/backup").mkdir()
    (root / "etc/pam.d/backup.tar").write_bytes(bytes(pam_files.FILES_MAX_BYTES + 1))
    enable(admin)
    assert admin.services() == admin.marked() == ["sudo"]
    assert admin.services_through("sudo") == ["sudo"]


def test_comments_may_be_in_any_encoding(admin: PamAdmin, root: Path) -> None:
    pam_file(root, "sudo").write_bytes(SUDO.encode() + b"# caf\xe9\n")
    pam_file(root, "common-auth").write_bytes(b"# caf\xe9\n" + COMMON.encode())
    before = snapshot(root)
    enable(admin)
    assert b"# caf\xe9\n" in pam_file(root, "sudo").read_bytes()
    assert "sudo" in admin.services()
    admin.disable("sudo")
    assert snapshot(root) == before


def test_stack_that_cannot_be_read_is_an_error(admin: PamAdmin, root: Path) -> None:
    pam_file(root, "sudo").write_bytes(b"auth required pam_\xff.so\n")
    with pytest.raises(StackError):
        admin.rules("sudo")
    with pytest.raises(StackError):
        admin.read_pam("nowhere")
    assert "sudo" not in admin.services()
