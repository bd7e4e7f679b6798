# SPDX-License-Identifier: MIT
"""What a removal of the package takes out of PAM: all or nothing, and back again unless it comes to its end."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from kill_points import kill_points, moment
from pam_world import NOW, SSHD, SUDO, Commands, Tree, assert_no_door_is_open, enable_all, make_root, place, tree
from textgate import pam_revert
from textgate.pam_files import PamAdminError
from textgate.pam_removal import DPKG_LOCK, RECORD, REMOVED, PamRemoval
from textgate.pam_stack import FirstFactor

__all__ = ["place"]

COMMON_LINE = "auth include textgate\n"
FILES = ["/etc/pam.d/login", "/etc/pam.d/sshd", "/etc/pam.d/sudo"]


class Profiles(Commands):
    """Plays pam-auth-update as well."""

    is_stubborn = False

    def __call__(self, arguments: Sequence[str]) -> tuple[int, str]:
        if "pam-auth-update" not in arguments:
            return super().__call__(arguments)
        moment()
        path = self.root / "etc/pam.d/common-auth"
        text = path.read_text()
        if "--remove" in arguments and not self.is_stubborn:
            path.write_text(text.replace(COMMON_LINE, ""))
        if "--enable" in arguments and COMMON_LINE not in text:
            path.write_text(text + COMMON_LINE)
        return 0, ""


def removal(root: Path) -> PamRemoval:
    return PamRemoval(str(root), Profiles(root))


def put_profile_in(root: Path) -> None:
    path = root / "etc/pam.d/common-auth"
    path.write_text(path.read_text() + COMMON_LINE)


def without_record(found: Tree) -> Tree:
    return {name: what for name, what in found.items() if not name.endswith(("changes/removal", "changes/removed"))}


def test_removal_takes_all_out_and_what_fails_puts_all_back(place: Path) -> None:
    before = tree(make_root(place, lambda _: None))
    shutil.rmtree(place / "first")
    root = make_root(place, enable_all)
    guarded = tree(root)
    assert removal(root).set_aside() == FILES
    assert without_record(tree(root)) == before
    assert sorted(removal(root).resume()) == [*FILES, "/etc/ssh/sshd_config.d/00-textgate.conf"]
    assert tree(root) == guarded
    assert removal(root).resume() == []


@pytest.mark.parametrize("spoil", ["a word in sshd's block", "a line by hand", "a profile that stays"])
def test_removal_that_cannot_clean_one_file_changes_none(place: Path, spoil: str) -> None:
    root = make_root(place, enable_all)
    sshd = root / "etc/pam.d/sshd"
    admin = removal(root)
    if spoil == "a word in sshd's block":
        sshd.write_text(sshd.read_text().replace("requisite pam_unix.so", "requisite pam_unix.so nullok"))
    elif spoil == "a line by hand":
        (root / "etc/pam.d/cockpit").write_text(SUDO + "auth include textgate\n")
    else:
        put_profile_in(root)
        commands = Profiles(root)
        commands.is_stubborn = True
        admin = PamRemoval(str(root), commands)
    guarded = tree(root)
    with pytest.raises(PamAdminError) as caught:
        admin.set_aside()
    assert caught.value.hint
    assert tree(root) == guarded
    assert not admin.is_suspended()


def test_profile_goes_and_comes_back(place: Path) -> None:
    root = make_root(place, lambda _: None)
    put_profile_in(root)
    guarded = tree(root)
    assert removal(root).set_aside() == ["/etc/pam.d/common-auth"]
    assert COMMON_LINE not in (root / "etc/pam.d/common-auth").read_text()
    removal(root).resume()
    assert tree(root) == guarded


def test_removal_of_what_guards_nothing_leaves_nothing(place: Path) -> None:
    root = make_root(place, lambda _: None)
    shutil.rmtree(root / "var/lib/textgate")
    assert removal(root).set_aside() == []
    assert not (root / "var/lib/textgate").exists()


@pytest.mark.parametrize("command", ["remove", "disable --all"])
def test_immutable_file_is_named_and_all_stay_guarded(place: Path, command: str) -> None:
    root = make_root(place, enable_all)
    path = root / "etc/pam.d/sudo"
    if subprocess.run(["chattr", "+i", path], capture_output=True, check=False).returncode != 0:
        pytest.skip("this file system has no immutable files")
    try:
        guarded = tree(root)
        with pytest.raises(PamAdminError, match=r"Operation not permitted: .*/etc/pam\.d/sudo\b") as caught:
            removal(root).set_aside() if command == "remove" else removal(root).disable_all()
        assert "chattr -i" in (caught.value.hint or "")
        assert tree(root) == guarded
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


@pytest.mark.parametrize("is_remembered", [True, False])
def test_settings_of_sshd_do_not_outlive_lines_that_were_taken_out_by_hand(place: Path, is_remembered: bool) -> None:
    root = make_root(place, enable_all)
    for name, text in (("sshd", SSHD), ("sudo", SUDO), ("login", SUDO)):
        (root / f"etc/pam.d/{name}").write_text(text)
    if not is_remembered:
        shutil.rmtree(root / "var/lib/textgate")
    removal(root).set_aside()
    assert not list((root / "etc/ssh/sshd_config.d").iterdir())
    assert removal(root).remembered() == []


@pytest.mark.parametrize("has_profile", [False, True])
def test_killed_at_any_moment_all_is_guarded_again_or_the_removal_was_certain(place: Path, has_profile: bool) -> None:
    root = make_root(place, enable_all)
    if has_profile:
        put_profile_in(root)
    guarded = tree(root)
    copy = place / "copy"
    shutil.copytree(root, copy)
    for number in kill_points(lambda: removal(copy).set_aside()):
        if not has_profile:  # whose own file pam-auth-update, and what plays it here, writes in its own way
            assert_no_door_is_open(copy)
        removal(copy).recover()
        removal(copy).resume()
        assert tree(copy) == guarded, number
        shutil.rmtree(copy)
        shutil.copytree(root, copy)
    assert removal(copy).is_suspended()
    again = place / "again"
    shutil.copytree(copy, again)
    for number in kill_points(lambda: removal(again).resume()):
        removal(again).resume()
        assert tree(again) == guarded, number
        shutil.rmtree(again)
        shutil.copytree(copy, again)


def test_what_was_changed_since_is_not_overwritten(place: Path) -> None:
    root = make_root(place, enable_all)
    removal(root).set_aside()
    sudo = root / "etc/pam.d/sudo"
    sudo.write_text("# mine\n" + sudo.read_text())
    assert removal(root).resume() != []
    assert sudo.read_text() == "# mine\n" + SUDO
    assert "textgate" in (root / "etc/pam.d/login").read_text()
    assert removal(root).remembered() == ["login", "sshd", "sudo"]  # of which `pam status` tells


def test_what_was_guarded_is_known_after_the_removal(place: Path) -> None:
    root = make_root(place, enable_all)
    removal(root).set_aside()
    (root / RECORD.lstrip("/")).rename(root / REMOVED.lstrip("/"))
    assert removal(root).formerly_guarded() == ["login", "sshd", "sudo"]
    assert removal(root).resume() == []
    removal(root).enable("sudo", FirstFactor.PASSWORD, now_at=NOW)
    assert removal(root).formerly_guarded() == ["login", "sshd"]
    removal(root).forget_formerly("sshd")
    assert removal(root).formerly_guarded() == ["login"]
    removal(root).forget_formerly(None)
    assert removal(root).formerly_guarded() == []
    assert not (root / REMOVED.lstrip("/")).exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"changes": [{"path": "/etc/shadow"}]}'])
def test_damaged_record_writes_nowhere(place: Path, content: bytes) -> None:
    root = make_root(place, enable_all)
    guarded = tree(root)
    (root / RECORD.lstrip("/")).write_bytes(content)
    assert removal(root).resume() == []
    assert tree(root) == guarded


def test_record_never_leads_to_another_file(place: Path) -> None:
    root = make_root(place, enable_all)
    (root / "etc/shadow").write_text("secret")
    (root / RECORD.lstrip("/")).write_text(
        '{"has_profile": false, "changes": [{"path": "/etc/shadow", "before": "bWluZQ==", "after": "c2VjcmV0",'
        ' "mode": 384}]}'
    )
    assert removal(root).resume() == []
    assert (root / "etc/shadow").read_text() == "secret"


# --- What systemd runs, where dpkg is gone ---


def suspended(place: Path) -> Path:
    root = make_root(place, enable_all)
    for name in ("usr/bin/textgate", "usr/libexec/textgate/pam-helper", "usr/share/doc/textgate/README.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    (root / "usr/share/doc/textgate/README.md").unlink()  # as path-exclude= of dpkg has it
    info = root / "var/lib/dpkg/info/textgate.list"
    info.parent.mkdir(parents=True)
    info.write_text("/.\n/usr/bin/textgate\n/usr/libexec/textgate/pam-helper\n/usr/share/doc/textgate/README.md\n")
    (root / DPKG_LOCK.lstrip("/")).write_text("")
    removal(root).set_aside()
    return root


def slept(waits: list[float]) -> float:
    return sum(waits)


def test_lines_go_back_once_dpkg_is_gone(place: Path) -> None:
    root = suspended(place)
    waits: list[float] = []
    pam_revert.settle_removal(removal(root), waits.append)
    assert not removal(root).is_suspended()
    assert "textgate" in (root / "etc/pam.d/sudo").read_text()
    assert waits == []


def test_lines_do_not_go_back_while_dpkg_is_at_work(place: Path) -> None:
    root = suspended(place)
    child = os.fork()
    if child == 0:  # a lock of this process itself would not count
        handle = os.open(root / DPKG_LOCK.lstrip("/"), os.O_RDWR)
        fcntl.lockf(handle, fcntl.LOCK_EX)
        signal.pause()
    try:
        while not removal(root).is_dpkg_at_work():
            os.sched_yield()
        waits: list[float] = []
        pam_revert.settle_removal(removal(root), waits.append)
        assert slept(waits) > 30
        assert removal(root).is_suspended()
        assert "textgate" not in (root / "etc/pam.d/sudo").read_text()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


@pytest.mark.parametrize("name", ["usr/libexec/textgate/pam-helper", "etc/pam.d/textgate"])
def test_lines_do_not_go_back_where_a_file_of_the_package_is_gone(place: Path, name: str) -> None:
    root = suspended(place)
    (root / name).unlink()
    waits: list[float] = []
    pam_revert.settle_removal(removal(root), waits.append)
    assert slept(waits) > 0
    assert removal(root).is_suspended()
    assert "textgate" not in (root / "etc/pam.d/sudo").read_text()
