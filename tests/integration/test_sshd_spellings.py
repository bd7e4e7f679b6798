# SPDX-License-Identifier: MIT
"""sshd's files in all the ways in which people may write them: what we make of them, and what sshd does."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.sshd_spellings import BOB, SPELLINGS, Spelling
from textgate.pam_admin import PamAdmin
from textgate.pam_sshd import OPTIONS_FILE, SshdVerdict
from textgate.pam_stack import FirstFactor
from textgate.sshd_cases import SshLogin
from textgate.sshd_config import DROP_IN, MAIN_FILE, drop_in_text, wanted

SSH = Path("/etc/ssh")


@pytest.fixture
def sshd_files(world: None) -> Iterator[None]:
    """/etc/ssh as a fresh installation and `textgate pam` have it."""
    kept = Path("/run/kept-ssh")
    options = Path(OPTIONS_FILE).read_text() if Path(OPTIONS_FILE).exists() else ""
    shutil.copytree(SSH, kept, symlinks=True)
    Path(MAIN_FILE).write_text("Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n")
    Path(DROP_IN).write_text(drop_in_text(FirstFactor.KEY))
    yield
    for name in ("sshd_config", "sshd_config.d", "extra", "other"):
        path = SSH / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.copytree(kept, SSH, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(kept)
    Path(OPTIONS_FILE).write_text(options)


def write(spelling: Spelling) -> None:
    for name, text in spelling.files.items():
        path = SSH / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    if spelling.options:
        Path(OPTIONS_FILE).write_text(f"SSHD_OPTS=\n{spelling.options}\n")


def is_open(login: SshLogin, options: str) -> bool:
    """Whether sshd itself says that a login goes without a code."""
    words = options.partition("=")[2].strip("'\"").replace("-4", "").split()
    said = subprocess.run(
        ["/usr/sbin/sshd", "-T", *words, "-C", login.words()], check=True, capture_output=True, text=True
    )
    lines = said.stdout.lower().splitlines()
    return any(f"{keyword} {value}" not in lines for keyword, value in wanted(FirstFactor.KEY).items())


@pytest.mark.parametrize("name", list(SPELLINGS))
def test_files_are_read_as_sshd_reads_them(sshd_files: None, name: str) -> None:
    spelling = SPELLINGS[name]
    write(spelling)
    Path("/run/sshd").mkdir(exist_ok=True)
    assert is_open(spelling.opens or BOB, spelling.options) is (spelling.opens is not None)  # what is so
    verdict = PamAdmin().judge_sshd(FirstFactor.KEY, planned=["sshd"])
    found = {kind: getattr(verdict, kind) for kind in ("faults", "opened", "unclear") if getattr(verdict, kind)}
    assert spelling.told in found or not found
    assert (verdict == SshdVerdict()) is (spelling.told == "")
    assert spelling.places in "\n".join(found.get(spelling.told, ()))
