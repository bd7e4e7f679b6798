# SPDX-License-Identifier: MIT
"""Who sshd keeps out by name or group: what we read from `sshd -T` against what sshd then does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rig.pam import FirstFactor
from rig.people import ALICE
from rig.sshd import PROGRAM
from textgate.accounts import NssAccounts
from textgate.sshd_config import effective, kept_out_by

from .conftest import StartSshd

pytestmark = pytest.mark.usefixtures("no_fail_delay")


@pytest.mark.parametrize(
    ("lines", "is_kept_out"),
    [
        (["AllowUsers bob al?ce"], False),
        (["AllowUsers bob", "AllowUsers al*"], False),
        (["AllowUsers bob"], True),
        (["AllowUsers ALICE"], True),
        (["AllowUsers !bob"], True),
        (["AllowUsers *@127.0.0.0/8"], False),
        (["DenyUsers !alice bob"], False),
        (["DenyUsers al*", "AllowUsers alice"], True),
        (["DenyUsers alice@*"], True),
        (["DenyUsers alice@192.0.2.1"], False),
        (["AllowGroups nobody s?do"], False),
        (["AllowGroups alice"], False),
        (['AllowGroups "sudo alice"'], True),
        (["AllowGroups !nobody"], True),
        (["DenyGroups su*"], True),
        (["AllowUsers alice", "AllowGroups nobody"], True),
        (["Match User alice", "AllowUsers bob", "Match all"], True),
        (["Match Group sudo", "AllowUsers alice", "Match all"], False),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, list) else "",
)
def test_sshd_keeps_out_whom_it_says(
    start_sshd: StartSshd, tmp_path: Path, lines: list[str], is_kept_out: bool
) -> None:
    config, key = tmp_path / "sshd_config", tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    config.write_text("\n".join([*lines, ""]))
    login = f"user={ALICE.name},host=localhost,addr=127.0.0.1,laddr=127.0.0.1,lport=22"
    argv = [PROGRAM, "-T", "-f", str(config), "-h", str(key), "-C", login]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    account = NssAccounts().lookup(ALICE.name)
    assert account is not None
    assert (kept_out_by(effective(said), account.name, account.groups) is not None) is is_kept_out

    sshd = start_sshd(FirstFactor.KEY, settings=lines)
    subprocess.run(sshd.ssh_argv(ALICE, "true", options=["BatchMode=yes"]), check=False, capture_output=True)

    def verdict() -> bool | None:
        log = sshd.process.tail()
        words = {"not allowed because": True, "Partial publickey for alice": False}
        return next((is_out for word, is_out in words.items() if word in log), None)

    assert sshd.process.wait_for(lambda: [found] if (found := verdict()) is not None else None, 20, "a verdict") == [
        is_kept_out
    ]
