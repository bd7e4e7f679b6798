# SPDX-License-Identifier: MIT
"""Every command of `textgate pam` is killed at every moment: its files are then as before or as after, never half."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from kill_points import kill_points
from pam_world import NOW, SSHD, Commands, Work, admin_of, assert_no_door_is_open, enable_all, make_root, place, tree
from textgate.pam_admin import PamAdmin
from textgate.pam_files import PamAdminError
from textgate.pam_stack import FirstFactor, has_block
from textgate.pam_state import Guard
from textgate.sshd_config import DROP_IN

__all__ = ["place"]


def enable(service: str, factor: FirstFactor = FirstFactor.PASSWORD, confirm_by: int | None = None) -> Work:
    return lambda admin: admin.enable(service, factor, now_at=NOW, confirm_by=confirm_by)


def nothing(_admin: PamAdmin) -> None:
    pass


def never(_guard: Guard) -> bool:
    return False


COMMANDS: dict[str, tuple[Work, Work]] = {
    "enable sudo": (nothing, enable("sudo")),
    "enable sshd, key": (nothing, enable("sshd", FirstFactor.KEY)),
    "enable sshd, password": (nothing, enable("sshd", FirstFactor.PASSWORD)),
    "enable sshd, any": (nothing, enable("sshd", FirstFactor.ANY)),
    "try sshd": (nothing, enable("sshd", FirstFactor.KEY, confirm_by=NOW + 60)),
    "confirm": (enable_all, lambda admin: admin.confirm("login")),
    "disable sshd": (enable_all, lambda admin: admin.disable("sshd")),
    "disable --all": (enable_all, lambda admin: admin.disable_all()),
    "the timer takes back": (enable_all, lambda admin: admin.revert_due(NOW + 60, never)),
    "the timer confirms": (enable_all, lambda admin: admin.revert_due(NOW + 1, lambda _guard: True)),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_moment_it_is_as_before_or_as_after(place: Path, name: str) -> None:
    prepare, work = COMMANDS[name]
    root = make_root(place, prepare)
    before = tree(root)
    copy = place / "copy"
    shutil.copytree(root, copy)
    work(admin_of(copy))
    after = tree(copy)
    assert after != before

    def work_on_copy() -> None:
        work(admin_of(copy))

    shutil.rmtree(copy)
    shutil.copytree(root, copy)
    seen = set()
    for number in kill_points(work_on_copy):
        assert_no_door_is_open(copy)
        admin_of(copy).recover()
        left = tree(copy)
        assert left in (before, after), f"moment {number}: {sorted(left.items() ^ before.items())}"
        seen.add(left == after)
        shutil.rmtree(copy)
        shutil.copytree(root, copy)
    assert False in seen
    assert tree(copy) == after


@pytest.mark.parametrize("name", ["enable sudo", "disable sshd"])
def test_way_back_that_is_killed_too_is_gone_on_with(place: Path, name: str) -> None:
    prepare, work = COMMANDS[name]
    root = make_root(place, prepare)
    before = tree(root)
    copy, again = place / "copy", place / "again"
    shutil.copytree(root, copy)
    shutil.copytree(root, again)
    for _ in kill_points(lambda: work(admin_of(copy))):
        shutil.rmtree(again)
        shutil.copytree(copy, again)
        for _ in kill_points(lambda: admin_of(again).recover()):
            assert_no_door_is_open(again)
            left_over = place / "left-over"
            shutil.copytree(again, left_over)
            admin_of(left_over).recover()
            left = tree(left_over)
            if left != before:
                work(admin_of(place / "first"))
                assert left == tree(place / "first")
                shutil.rmtree(root)
                make_root(place, prepare)
            shutil.rmtree(left_over)
            shutil.rmtree(again)
            shutil.copytree(copy, again)
        shutil.rmtree(copy)
        shutil.copytree(root, copy)


def test_what_was_changed_since_it_was_broken_off_is_left(place: Path) -> None:
    """An administrator's edit between the kill and the next command; the other files go back all the same."""
    root = make_root(place, nothing)
    copy = place / "copy"
    shutil.copytree(root, copy)
    for _ in kill_points(lambda: enable("sshd", FirstFactor.KEY)(admin_of(copy))):
        path = copy / "etc/pam.d/sshd"
        if "textgate" in path.read_text():
            path.write_text("# mine\n" + path.read_text())
            admin = admin_of(copy)
            admin.recover()
            if not (copy / DROP_IN.lstrip("/")).exists():
                assert path.read_text().startswith("# mine\n")
                assert has_block(admin.rules("sshd"))
                assert any("/etc/pam.d/sshd: has been changed since" in note for note in admin.notes)
                assert admin.marked() == ["sshd"]
                assert admin.disable("sshd")
                assert path.read_text() == "# mine\n" + SSHD
                return
        shutil.rmtree(copy)
        shutil.copytree(root, copy)
    raise AssertionError("the moment between the last file and the end did not come")


def test_plan_that_is_damaged_is_put_aside_and_writes_nowhere(place: Path) -> None:
    root = make_root(place, enable_all)
    (root / "etc/shadow").write_text("secret")
    before = tree(root)
    for text in (
        b"", b"{", b"[]", b'{"steps": [{}], "removals": []}', b"\xff",
        b'{"steps": [{"path": "/etc/shadow", "before": "", "after": "x", "new": "", "former": ""}], "removals": []}',
        b'{"steps": [{"path": "/etc/pam.d/../shadow", "before": "", "after": "", "new": "", "former": ""}],'
        b' "removals": []}',
        b'{"steps": [{"path": "/etc/pam.d/sudo", "before": "", "after": "", "new": "/etc/pam.d/.sudo.original",'
        b' "former": ""}], "removals": []}',
        b'{"steps": [], "removals": ["/etc/shadow"]}',
    ):  # fmt: skip
        for suffix in ("undo", "redo"):
            plan = root / f"var/lib/textgate/changes/pam.{suffix}"
            plan.write_bytes(text)
            admin = admin_of(root)
            admin.recover()
            assert any("damaged" in note for note in admin.notes)
            plan.with_suffix(".damaged").unlink()
            assert tree(root) == before


def test_way_back_needs_no_room(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_root(place, enable_all)
    before = tree(root)
    copy = place / "copy"
    shutil.copytree(root, copy)
    for _ in kill_points(lambda: admin_of(copy).disable_all()):
        with monkeypatch.context() as patch:

            def full(*_: object) -> int:
                raise OSError(28, "No space left on device")

            patch.setattr(os, "write", full)
            patch.setattr("textgate.transaction.new_file", full)
            admin_of(copy).recover()
        if tree(copy) != before:
            assert admin_of(copy).with_lines() == []
        shutil.rmtree(copy)
        shutil.copytree(root, copy)


def test_change_that_is_broken_off_holds_up_no_other_for_good(place: Path) -> None:
    """sshd that can't be reloaded is told, and the files go back."""
    root = make_root(place, nothing)
    before = tree(root)
    copy = place / "copy"
    shutil.copytree(root, copy)

    class Stubborn(Commands):
        def __call__(self, arguments: Sequence[str]) -> tuple[int, str]:
            return (1, "Job failed\n") if "reload" in arguments else super().__call__(arguments)

    with pytest.raises(PamAdminError, match="could not be reloaded"):
        PamAdmin(str(copy), Stubborn(copy)).enable("sshd", FirstFactor.KEY, now_at=NOW)
    assert tree(copy) == before
