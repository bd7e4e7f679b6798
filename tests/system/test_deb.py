# SPDX-License-Identifier: MIT
"""The package as a file, and what it leaves behind in trees that are not booted: `make deb-check`.

The second half is what piuparts does: install, upgrade, remove, purge, and compare the whole tree each time.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from system.former import BLOCK, LINE, former_deb
from system.machines import REPOSITORY, BaseTree, in_tree, remove_tree

# What every installation of any package changes, and the users, which stay (see debian/postrm).
NOISE = (
    "etc/passwd", "etc/passwd-", "etc/group", "etc/group-", "etc/shadow", "etc/shadow-", "etc/gshadow",
    "etc/gshadow-", "etc/.pwd.lock", "etc/subuid", "etc/subgid", "etc/machine-id", "etc/resolv.conf",
    "etc/localtime", "etc/timezone",
    "var/lib/dpkg", "var/lib/apt", "var/cache", "var/log", "run", "tmp", "proc", "sys", "dev", "root",
    "var/lib/systemd/catalog/database", "var/lib/systemd/random-seed",
)  # fmt: skip
INCLUDE = "@include textgate"
CONFFILES = ("etc/textgate/redis.conf", "etc/pam.d/textgate", "etc/pam.d/textgate-api")


def snapshot(tree: Path) -> dict[str, str]:
    """Everything in a tree but the noise: path -> what it is."""
    found: dict[str, str] = {}
    for folder, folders, files in os.walk(tree):
        below = Path(folder).relative_to(tree)
        folders[:] = [name for name in folders if str(below / name) not in NOISE]
        for name in [*folders, *files]:
            path = Path(folder, name)
            key = str(below / name)
            if key in NOISE:
                continue
            status = path.lstat()
            what = f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid}"
            if path.is_symlink():
                what += f" -> {path.readlink()}"
            elif path.is_file():
                what += f" {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
            found[key] = what
    return found


def difference(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


@pytest.fixture
def tree(base: BaseTree) -> Iterator[Path]:
    path = base.copy("cycle")
    yield path
    remove_tree(path)


def apt(base: BaseTree, tree: Path, *arguments: str | Path) -> str:
    packages = [argument for argument in arguments if isinstance(argument, Path)]
    for package in packages:
        (tree / "root" / package.name).write_bytes(package.read_bytes())
    words = [f"/root/{word.name}" if isinstance(word, Path) else word for word in arguments]
    done = in_tree(tree, ["apt-get", "-q", "-y", "--no-install-recommends", *words], options=base.nspawn_options)
    return done.stdout + done.stderr


def test_same_sources_make_the_same_bytes(tmp_path: Path) -> None:
    surroundings = (
        ({"TZ": "UTC"}, 0o022),
        ({"TZ": "Pacific/Kiritimati", "LC_ALL": "C", "HOME": str(tmp_path), "CFLAGS": "-O0"}, 0o077),
    )
    made: list[Path] = []
    for number, (environment, umask) in enumerate(surroundings):
        done = subprocess.run(
            [REPOSITORY / "packaging" / "build-deb", tmp_path / ("deep/" * number) / "place"],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | environment,
            umask=umask,
        )
        made.append(Path(done.stdout.strip()))
    assert made[0].name == made[1].name
    assert made[0].read_bytes() == made[1].read_bytes()


def test_lintian_has_nothing_to_say(deb: Path) -> None:
    said = subprocess.run(
        ["lintian", "--allow-root", "--pedantic", "--display-info", deb],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (said.returncode, said.stdout) == (0, ""), said.stderr


def test_version_is_that_of_the_code(deb: Path) -> None:
    code = (REPOSITORY / "daemon" / "textgate" / "__init__.py").read_text()
    version = subprocess.run(
        ["dpkg-deb", "--field", deb, "Version"], check=True, capture_output=True, text=True
    ).stdout
    assert f'__version__ = "{version.strip()}"' in code


def test_cycle_leaves_conffiles_until_purge_and_then_nothing(
    base: BaseTree, tree: Path, deb: Path, tmp_path: Path
) -> None:
    before = snapshot(tree)
    apt(base, tree, "install", former_deb(deb, tmp_path))
    apt(base, tree, "install", deb)
    installed = snapshot(tree)
    assert block_is_whole(tree)
    for name in CONFFILES:
        assert LINE not in (tree / name).read_text()
    assert (tree / "etc/textgate/credentials/vault-key").stat().st_mode & 0o777 == 0o600

    apt(base, tree, "remove", "textgate")
    kept = difference(before, snapshot(tree))
    # Configuration and keys are no conffiles, but whoever removes a package may install it again.
    allowed = {
        *CONFFILES, "etc/textgate", "etc/textgate/textgate.toml", "etc/textgate/credentials",
        "etc/textgate/credentials/vault-key", "var/lib/textgate",
    }  # fmt: skip
    places = ("etc/systemd/system/", "var/lib/systemd/deb-systemd-helper", "var/lib/textgate/")
    others = {path for path in kept if path.startswith(places)}
    assert kept - others == allowed, kept - others - allowed
    assert installed.keys() > before.keys()

    apt(base, tree, "purge", "textgate")
    assert difference(before, snapshot(tree)) == set()


def block_is_whole(tree: Path) -> bool:
    """Whether PAM reads the block that the package ships."""
    return (tree / BLOCK).read_bytes() == (tree / "usr/share/textgate/textgate.pam").read_bytes()


def test_block_of_pam_lines_is_renewed_and_comes_back_with_each_installation(
    base: BaseTree, tree: Path, deb: Path
) -> None:
    apt(base, tree, "install", deb)
    block = tree / BLOCK
    service = tree / "etc/pam.d/login"
    before = service.read_bytes()
    in_tree(tree, ["textgate", "pam", "enable", "login", "--force"], options=base.nspawn_options)
    earlier = service.read_text().replace("auth substack textgate\nauth requisite pam_textgate.so require", INCLUDE)
    state = tree / "var/lib/textgate/pam/login.json"
    old, new = (base64.b64encode(text).decode() for text in (service.read_bytes(), earlier.encode()))
    service.write_text(earlier)
    state.write_text(state.read_text().replace(old, new))
    lines = [line for line in block.read_text().splitlines() if not line.endswith(("so start", "so finish"))]
    block.write_text("\n".join(lines).replace("so ask", "so ask echo") + "\n")
    apt(base, tree, "install", "--reinstall", deb)
    assert block.read_text().count("so ask echo") == 3
    assert block.read_text().replace(" echo", "") == (tree / "usr/share/textgate/textgate.pam").read_text()
    assert INCLUDE not in service.read_text()
    in_tree(tree, ["textgate", "pam", "disable", "login"], options=base.nspawn_options)
    assert service.read_bytes() == before

    block.unlink()
    apt(base, tree, "install", "--reinstall", deb)
    assert block_is_whole(tree)
    block.write_text("")
    apt(base, tree, "install", "--reinstall", deb)
    assert block_is_whole(tree)
    mine = block.read_text().replace("success=5", "success=3")
    block.write_text(mine)
    said = apt(base, tree, "install", "--reinstall", deb)
    assert "/etc/pam.d/textgate was changed by hand" in said
    assert block.read_text() == mine
    in_tree(tree, ["textgate", "pam", "repair"], options=base.nspawn_options)
    assert block_is_whole(tree)


def test_upgrade_asks_nothing_about_what_setup_has_changed(
    base: BaseTree, tree: Path, deb: Path, tmp_path: Path
) -> None:
    """With a question open dpkg ends with an error where nobody can answer, and unattended upgrades pass over it."""
    apt(base, tree, "install", former_deb(deb, tmp_path))
    config = tree / "etc/textgate/textgate.toml"
    config.write_text(config.read_text() + "# by setup\n")
    before = config.read_text()
    assert LINE in before
    said = apt(base, tree, "install", deb)
    assert "Configuration file" not in said
    assert config.read_text() == before
    assert LINE not in (tree / "usr/share/textgate/textgate.toml").read_text()


def test_links_of_the_installed_documents_lead_somewhere(deb: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", deb, tmp_path], check=True)
    place = tmp_path / "usr/share/doc/textgate"
    pages = sorted(place.rglob("*.md"))
    assert len(pages) > 8
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / target).resolve().exists(), f"{page.name}: {target}"


def test_purge_takes_what_came_later(base: BaseTree, tree: Path, deb: Path) -> None:
    before = snapshot(tree)
    apt(base, tree, "install", deb)
    later = (
        "etc/textgate/phones", "etc/textgate/.phones.lock", "etc/textgate/credentials/gatewayapi-key",
        "etc/credstore.encrypted/textgate.vault-key",
        "etc/systemd/system/textgated.service.d/50-encrypted-credentials.conf",
        "var/lib/textgate/redis/appendonlydir/appendonly.aof",
        "var/lib/textgate/pam/sshd.json",
    )  # fmt: skip
    for name in later:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("secret")
    apt(base, tree, "purge", "textgate")
    assert difference(before, snapshot(tree)) <= {"etc/credstore.encrypted"}


def test_removal_is_refused_where_pam_lines_would_stay(base: BaseTree, tree: Path, deb: Path) -> None:
    apt(base, tree, "install", deb)
    sudo = tree / "etc/pam.d/sudo"
    by_hand = sudo.read_text() + "auth include textgate\n"
    sudo.write_text(by_hand)
    said = in_tree(tree, ["apt-get", "-y", "remove", "textgate"], check=False, options=base.nspawn_options)
    assert said.status != 0
    assert "/etc/pam.d/sudo" in said.stdout + said.stderr
    assert sudo.read_text() == by_hand
    assert (tree / "usr/bin/textgate").exists()
