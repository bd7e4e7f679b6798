# SPDX-License-Identifier: MIT
"""The way out on Python's own library alone, and what every other command says where a library is missing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import textgate
from pam_world import SSHD, SUDO, Commands, enable_all, make_root, place, tree
from textgate import entry, rescue
from textgate.entry import LIBRARIES
from textgate.pam_admin import PamAdmin

__all__ = ["place"]

SUBSTACK = "auth substack textgate"
REPOSITORY = Path(__file__).parents[2]
PACKAGE = Path(textgate.__file__).parent


def run(*words: str, config: str = "/nonexistent/textgate.toml") -> subprocess.CompletedProcess[str]:
    """The command as it is installed, by a Python that has no library but its own."""
    code = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); from textgate import entry;"
        f" sys.argv = ['textgate', '--config', {config!r}, *{list(words)!r}]; sys.exit(entry.main())"
    )
    return subprocess.run(
        ["/usr/bin/python3", "-I", "-S", "-B", "-c", code], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("words", "is_for"),
    [
        ("pam disable sudo", True),
        ("pam disable --all --json", True),
        ("pam status", True),
        ("pam confirm", True),
        ("--json pam status", True),
        ("--config /x --json pam disable --all", True),
        ("--config=/x pam confirm su", True),
        ("pam", False),
        ("pam enable sudo", False),
        ("pam try sudo", False),
        ("pam disable --help", False),
        ("status", False),
        ("--config pam disable", False),
        ("", False),
    ],
)
def test_three_commands_never_load_more(words: str, is_for: bool) -> None:
    assert rescue.is_for(words.split()) is is_for


def test_way_out_of_a_mounted_system_without_any_library(place: Path) -> None:
    root = make_root(place, enable_all)
    shown = run("pam", "status", "--root", str(root))
    assert "sudo" in shown.stdout
    assert "Traceback" not in shown.stderr
    done = run("pam", "disable", "--all", "--root", str(root), "--json")
    assert done.returncode == 0, done.stderr
    assert [row["service"] for row in json.loads(done.stdout)["services"]] == ["login", "sshd", "sudo"]
    assert (root / "etc/pam.d/sudo").read_text() == SUDO
    assert (root / "etc/pam.d/sshd").read_text() == SSHD
    assert run("pam", "disable", "--all", "--root", str(root)).stdout == "textgate guards nothing.\n"


def test_confirm_without_any_library(place: Path) -> None:
    root = make_root(place, enable_all)
    assert run("pam", "confirm", "--root", str(root)).stdout == "confirmed: login\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pam", "disable"], "name a service, or say --all"),
        (["pam", "disable", "sudo", "--all"], "name a service, or say --all"),
        (["pam", "status", "sudo"], "unrecognized arguments: sudo"),
        (["pam", "confirm", "--al"], "unrecognized arguments: --al"),
    ],
)
def test_command_line_that_cannot_be_read_is_told(words: list[str], told: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stderr.startswith(f"textgate: error: {told}\nhint: ")
    as_json = run(*words, "--json")
    assert json.loads(as_json.stdout)["error"]["message"].startswith(told)


def test_service_that_is_left_alone_is_told_in_full(place: Path) -> None:
    root = make_root(place, enable_all)
    path = root / "etc/pam.d/sudo"
    path.write_text(path.read_text().replace(SUBSTACK, f"{SUBSTACK}\nauth required mine.so"))
    done = run("pam", "disable", "--all", "--root", str(root))
    assert done.returncode == 1
    assert "was changed within textgate's lines" in done.stderr
    assert "nothing was changed" in done.stderr
    assert "auth required mine.so" in done.stderr
    assert run("pam", "disable", "login", "--root", str(root)).returncode == 0


def test_no_library_at_all_is_one_sentence() -> None:
    for words in (["status"], ["doctor"], ["pam", "enable", "sudo"], ["pam", "disable", "--help"]):
        done = run(*words)
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr == (
            "textgate: error: the Python library click can't be loaded\nhint: apt install --reinstall python3-click; "
            "textgate pam disable, pam status and pam confirm work without it\n"
        )
    assert json.loads(run("status", "--json").stdout)["error"]["message"].endswith("click can't be loaded")


BROKEN = {
    "is missing": "raise ModuleNotFoundError(name=__name__)\n",
    "lacks what it needs": "raise ImportError('libssl.so.3: cannot open shared object file')\n",
    "is of another release": "from os import nothing_of_this_name\n",
    "is half upgraded": "import os\nos.nothing_of_this_name\n",
    "is cut off": "def half(\n",
    "panics": "class PanicException(BaseException):\n    pass\nraise PanicException('no legacy provider')\n",
}
# Loaded by few commands, or by some other library: what loads it, in place of a command line.
LATER = {"rich": "cli._show_status({})", "phonenumbers": "msisdn.parse_msisdn('+4512345678', '')"}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("library", sorted(LIBRARIES.keys() - {"pam", "systemd"}))
def test_any_one_library_that_is_broken_is_named(tmp_path: Path, library: str, how: str) -> None:
    """In the surroundings of the tests, which have all of them, one is hidden by a file of its name."""
    (tmp_path / f"{library}.py").write_text(BROKEN[how])
    load = f"cli.main = lambda: {LATER[library]}" if library in LATER else ""
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(PACKAGE.parent)!r}]; from textgate import entry\n"
        + (f"from textgate import cli, msisdn\n{load}\n" if load else "")
        + "sys.argv = ['textgate', 'check-config']; sys.exit(entry.main())"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == 1
    assert f"the Python library {library} can't be loaded" in done.stderr, done.stderr
    assert LIBRARIES[library] in done.stderr


def test_fault_of_our_own_is_no_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("textgate.cli.main", broken)
    monkeypatch.setattr(sys, "argv", ["textgate", "status"])
    with pytest.raises(RuntimeError):
        entry.main()


def test_every_library_has_its_package() -> None:
    project = (REPOSITORY / "pyproject.toml").read_text()
    wanted = re.findall(r'^    "([a-z-]+)>=', project, re.MULTILINE)
    assert len(wanted) > 7
    assert {f"python3-{name}" for name in wanted} <= {*LIBRARIES.values()}


# --- Where Python is gone ---


def disable_all(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(REPOSITORY / "packaging/bin/disable-all"), *words], capture_output=True, text=True, check=False
    )


def test_shell_takes_everything_out(place: Path) -> None:
    before = make_root(place, lambda _: None)
    files = {name: (before / f"etc/pam.d/{name}").read_bytes() for name in ("sshd", "sudo", "login", "common-auth")}
    shutil.rmtree(before)
    root = make_root(place, enable_all)
    sudo = root / "etc/pam.d/sudo"
    sudo.chmod(0o604)
    done = disable_all(str(root))
    assert done.returncode == 0, done.stderr
    assert "/etc/pam.d/sudo: asks for no code now" in done.stdout
    assert {name: (root / f"etc/pam.d/{name}").read_bytes() for name in files} == files
    assert sudo.stat().st_mode & 0o777 == 0o604
    assert [path.name for path in (root / "etc/ssh/sshd_config.d").iterdir()] == ["00-textgate.conf.disabled"]
    assert not list((root / "etc/pam.d").glob(".*"))
    assert disable_all(f"{root}/").returncode == 0
    # Once Python is back, the rest is cleaned away.
    PamAdmin(str(root), Commands(root)).disable_all()
    assert PamAdmin(str(root), Commands(root)).with_lines() == []


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        ("auth substack textgate", "auth substack textgat", "#textgate: auth substack textgat\n"),
        (SUBSTACK, f"{SUBSTACK}\nauth required mine.so", "#textgate: auth required mine.so\n"),
        ("# textgate: end\n", "", ""),
        ("auth substack textgate\n", "", ""),
        ("auth substack textgate\nauth requisite pam_textgate.so require", "@include textgate", ""),
        ("auth requisite pam_unix.so\n", "# why\n", "# why\n"),
    ],
)
def test_shell_takes_out_what_was_changed(place: Path, old: str, new: str, left: str) -> None:
    root = make_root(place, enable_all)
    path = root / "etc/pam.d/sshd"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    done = disable_all(str(root))
    assert done.returncode == 0, done.stderr
    assert path.read_text() == SSHD.replace("@include common-auth\n", f"@include common-auth\n{left}")


def test_shell_names_what_it_can_not_take_out(place: Path) -> None:
    root = make_root(place, enable_all)
    path = root / "etc/pam.d/common-auth"
    path.write_text(path.read_text() + "auth include textgate\n")
    done = disable_all(str(root))
    assert done.returncode == 1
    assert "/etc/pam.d/common-auth:4:auth include textgate" in done.stderr
    assert (root / "etc/pam.d/sudo").read_text() == SUDO


def test_shell_keeps_a_change_that_was_broken_off_from_coming_back(place: Path) -> None:
    root = make_root(place, enable_all)
    changes = root / "var/lib/textgate/changes"
    for name in ("pam.undo", "removal"):
        (changes / name).write_text("{}")
    assert disable_all(str(root)).returncode == 0
    assert sorted(path.name for path in changes.iterdir()) == ["pam.undo.set-aside", "removal.set-aside"]


@pytest.mark.parametrize("obstacle", ["line by hand", "link", "immutable"])
def test_shell_changes_all_or_none_for_a_removal(place: Path, obstacle: str) -> None:
    """Python can't be run, and one file can't be cleaned: the package stays, and so do all its lines."""
    root = make_root(place, enable_all)
    sudo, settings = root / "etc/pam.d/sudo", root / "etc/ssh/sshd_config.d/00-textgate.conf"
    (root / "var/lib/textgate/changes/pam.undo").write_text("{}")
    if obstacle == "line by hand":
        (root / "etc/pam.d/vsftpd").write_text("auth include textgate\n")
    elif obstacle == "link":
        sudo.rename(root / "etc/sudo-of-another-package")
        sudo.symlink_to("../sudo-of-another-package")
    elif subprocess.run(["chattr", "+i", sudo], capture_output=True, check=False).returncode != 0:
        pytest.skip("this file system has no immutable files")
    try:
        before = tree(root)
        done = disable_all("--all-or-none", str(root))
        assert done.returncode == 1
        assert "nothing was changed" in done.stderr
        assert "asks for no code now" not in done.stdout
        assert tree(root) == before
        assert settings.exists()
    finally:
        subprocess.run(["chattr", "-i", sudo], capture_output=True, check=False)
    if obstacle == "immutable":
        assert disable_all("--all-or-none", str(root)).returncode == 0
        assert not [name for name in tree(root) if "textgate-kept" in name]
        assert sudo.read_text() == SUDO


def test_shell_has_the_marks_and_the_rule_of_the_others() -> None:
    from textgate.pam_stack import BEGIN_MARK, END_MARK
    from textgate.sshd_config import DROP_IN

    script = (REPOSITORY / "packaging/bin/disable-all").read_text()
    assert f"begin='{BEGIN_MARK}'" in script
    assert f"end='{END_MARK}'" in script
    assert DROP_IN in script
    rule = next(line for line in script.splitlines() if line.startswith("live="))[len("live=") :]
    assert rule in (REPOSITORY / "packaging/debian/prerm").read_text()


def test_shell_writes_a_full_disk_in_place(place: Path) -> None:
    """A small file system of its own: there is no room for a copy of a file, and the way out needs none."""
    disk = place / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["unshare", "--mount", "sh", "-euc", FULL_DISK, "sh", str(disk), str(make_root(place, enable_all)),
         str(REPOSITORY / "packaging/bin/disable-all")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "permission denied" in mounted.stderr.lower() or "not permitted" in mounted.stderr.lower():
        pytest.skip("no mounts here")
    assert mounted.returncode == 0, mounted.stdout + mounted.stderr
    assert "no service asks for a code now" in mounted.stdout
    assert "LEFT: 0" in mounted.stdout


FULL_DISK = """
mount -t tmpfs -o size=512k tmpfs "$1"
cp -a "$2/etc" "$2/var" "$1"
dd if=/dev/zero of="$1/fill" bs=4k 2>/dev/null || true
sh "$3" "$1"
echo "LEFT: $(grep -c textgate "$1/etc/pam.d/sudo")"
"""
