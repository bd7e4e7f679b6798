# SPDX-License-Identifier: MIT
"""`textgate pam repair`: the shipped block comes back, services get today's lines, and `disable` undoes it all."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from textgate.pam_block import BLOCK, SHIPPED
from textgate.pam_files import PamAdminError
from textgate.pam_repair import FORMER, PamRepair
from textgate.pam_stack import ASKING, FirstFactor
from textgate.pam_state import STATE_DIR, Condition
from textgate.sshd_config import wanted

TODAY = (Path(__file__).parents[2] / "pam_helper/textgate.pam").read_text()
EARLIER = "".join(
    line for line in TODAY.splitlines(keepends=True) if not line.endswith(("so start\n", "so finish\n"))
)
COMMON = "auth [success=1 default=ignore] pam_unix.so\nauth requisite pam_deny.so\nauth required pam_permit.so\n"
SERVICES = {"sudo": FirstFactor.PASSWORD, "login": FirstFactor.PASSWORD, "sshd": FirstFactor.KEY}
NOW = 1_700_000_000


class Place:
    """Files of a machine that an earlier version left: its block, and services that it guards."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, text in {BLOCK: TODAY, SHIPPED: TODAY, "/etc/pam.d/common-auth": COMMON}.items():
            self.write(name, text)
        self.write("/etc/ssh/sshd_config", "Include /etc/ssh/sshd_config.d/*.conf\n")
        for name in SERVICES:
            self.write(f"/etc/pam.d/{name}", f"# {name}\n@include common-auth\nsession required pam_x.so\n")
        self.admin = PamRepair(str(root), self.run)
        self.before = self.files()
        for name, first_factor in SERVICES.items():
            self.admin.enable(name, first_factor, now_at=NOW)
        self.today = self.files()

    def run(self, arguments: Sequence[str]) -> tuple[int, str]:
        if arguments[:2] == ["sshd", "-T"]:
            return 0, "".join(f"{key} {value}\n" for key, value in wanted(FirstFactor.KEY).items())
        return 0 if arguments[0] != "systemctl" else 3, ""

    def write(self, name: str, text: str) -> None:
        path = self.root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def read(self, name: str) -> str:
        return (self.root / name.lstrip("/")).read_text()

    def files(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in sorted((self.root / "etc/pam.d").iterdir())}

    def make_earlier(self, *services: str) -> None:
        """As an earlier version left them, what it remembered included."""
        for service in services or SERVICES:
            guard = self.admin.guard(service)
            assert guard is not None
            state = self.root / STATE_DIR.lstrip("/") / f"{service}.json"
            path = f"/etc/pam.d/{service}"
            today = self.read(path)
            self.write(path, today.replace("\n".join(ASKING), "@include textgate"))
            old, new = (base64.b64encode(text.encode()).decode() for text in (today, self.read(path)))
            assert old in state.read_text()
            state.write_text(state.read_text().replace(old, new))
            kept = self.admin.guard(service)
            assert kept is not None
            assert self.admin.condition(kept) is Condition.WHOLE


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("is_careful", [False, True])
def test_nothing_to_do_changes_nothing(place: Place, is_careful: bool) -> None:
    assert place.admin.repair(is_careful=is_careful).changes == ()
    assert place.files() == place.today


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "changed"])
def test_block_comes_back_and_what_was_there_is_kept(place: Place, damage: str) -> None:
    changed = TODAY.replace("success=5", "success=3")
    damaged = {"missing": None, "empty": "", "cut": TODAY[:-700], "changed": changed}[damage]
    if damaged is None:
        (place.root / BLOCK.lstrip("/")).unlink()
    else:
        place.write(BLOCK, damaged)
    (change,) = place.admin.repair().changes
    assert (change.path, place.read(BLOCK)) == (BLOCK, TODAY)
    assert os.path.exists(place.root / FORMER.lstrip("/")) == bool(damaged)
    if damaged:
        assert place.read(FORMER) == damaged
    assert place.admin.repair().changes == ()


@pytest.mark.parametrize("text", ["", "\n", None, EARLIER, EARLIER.replace("so ask", "so ask echo")])
def test_package_installs_a_missing_block_and_renews_that_of_an_earlier_version(
    place: Place, text: str | None
) -> None:
    if text is None:
        (place.root / BLOCK.lstrip("/")).unlink()
    else:
        place.write(BLOCK, text)
    assert place.admin.repair(is_careful=True).left == ()
    assert place.admin.block().faults == ()
    assert len(place.admin.block().options) == (3 if text and "echo" in text else 0)


def test_package_leaves_a_block_that_was_changed_by_hand_and_the_services_behind_it(place: Place) -> None:
    """Today's line in a service, behind a block that gives no word, would refuse everybody."""
    place.make_earlier()
    mine = EARLIER.replace("success=5", "success=3")
    place.write(BLOCK, mine)
    before = place.files()
    done = place.admin.repair(is_careful=True)
    assert done.changes == ()
    assert "was changed by hand" in done.left[0]
    assert place.files() == before
    assert {change.path for change in place.admin.repair().changes} == {
        BLOCK, *(f"/etc/pam.d/{name}" for name in SERVICES),
    }  # fmt: skip


@pytest.mark.parametrize("is_careful", [False, True])
@pytest.mark.parametrize("block", [TODAY, EARLIER])
def test_services_of_an_earlier_version_get_todays_lines_and_go_back_to_their_first_bytes(
    place: Place, block: str, is_careful: bool
) -> None:
    place.make_earlier()
    place.write(BLOCK, block)
    assert place.admin.services() == sorted(SERVICES)
    done = place.admin.repair(is_careful=is_careful)
    assert done.left == ()
    assert place.files() == place.today
    for service in SERVICES:
        guard = place.admin.guard(service)
        assert guard is not None
        assert place.admin.condition(guard) is Condition.WHOLE
    place.admin.disable_all()
    assert place.files() == place.before


def test_lines_of_an_earlier_version_go_out_without_a_repair_too(place: Place) -> None:
    place.make_earlier()
    place.admin.disable_all()
    assert place.files() == place.before


def test_what_an_administrator_added_stays(place: Place) -> None:
    place.make_earlier()
    place.write("/etc/pam.d/sudo", "# mine\n" + place.read("/etc/pam.d/sudo"))
    done = place.admin.repair(is_careful=True)
    assert [change.path for change in done.changes] == ["/etc/pam.d/login", "/etc/pam.d/sshd"]
    assert "/etc/pam.d/sudo was changed by hand" in " ".join(done.left)
    (change,) = place.admin.repair().changes
    assert place.read("/etc/pam.d/sudo") == "# mine\n" + place.today["sudo"]
    assert change.path == "/etc/pam.d/sudo"
    place.admin.disable_all()
    assert place.files() == {**place.before, "sudo": "# mine\n" + place.before["sudo"]}


def test_lines_that_were_put_in_by_hand_are_told_the_line_that_they_lack(place: Place) -> None:
    place.write("/etc/pam.d/su", "@include common-auth\n@include textgate\n")
    place.write("/etc/pam.d/su-l", "auth include su\n")
    done = place.admin.repair()
    assert done.changes == ()
    assert done.left == tuple(
        f"{name}: put this line behind textgate's: auth requisite pam_textgate.so require" for name in ("su", "su-l")
    )


def test_either_all_services_change_or_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.make_earlier()
    before = place.files()
    count = 0
    replace = Path.replace

    def fail(path: Path, target: Path) -> Path:
        nonlocal count
        count += "pam.d" in str(target)
        if count == 2 and "pam.d" in str(target):
            raise OSError(28, "No space left on device")
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(PamAdminError):
            place.admin.repair()
    place.admin.recover()
    assert place.files() == before
    assert [place.admin.condition(guard) for guard in place.admin.guards()] == [Condition.WHOLE] * 3
    place.admin.repair()
    assert place.files() == place.today


@pytest.mark.parametrize("name", [SHIPPED, BLOCK])
def test_what_can_not_be_mended_is_an_error_that_says_why(place: Place, name: str) -> None:
    path = place.root / name.lstrip("/")
    path.unlink()
    if name == BLOCK:
        path.symlink_to("/nowhere/else")
    with pytest.raises(PamAdminError) as caught:
        place.admin.repair()
    assert caught.value.hint == ("apt install --reinstall textgate" if name == SHIPPED else f"ls -l {BLOCK}")
