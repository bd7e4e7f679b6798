# SPDX-License-Identifier: MIT
"""Which sshds listen here, by what their titles say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from textgate.sshd_running import listening, options_of


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("/usr/sbin/sshd", []),
        ("/usr/sbin/sshd -D", ["-D"]),
        ("/usr/sbin/sshd -D -p 2222", ["-D", "-p", "2222"]),
        ("/usr/sbin/sshd -f /etc/ssh/a b -oPort=1", ["-f", "/etc/ssh/a b", "-oPort=1"]),
        ("sshd -o AuthenticationMethods publickey password -4",
         ["-o", "AuthenticationMethods publickey password", "-4"]),
    ],
)  # fmt: skip
def test_options_of_a_title(line: str, options: list[str]) -> None:
    assert options_of(f"sshd: {line} [listener] 0 of 10-100 startups") == options


def test_what_listens(tmp_path: Path) -> None:
    titles = {
        "1": "/sbin/init",
        "20": "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups",
        "21": "sshd: alice [priv]",
        "22": "sshd: /usr/sbin/sshd -p 1 [listener] 0 of 10-100 startups",
        "23": "sshd: /usr/sbin/sshd -p 2 [listener] 0 of 10-100 startups",
        "24": "",
    }
    for pid, title in titles.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_bytes(title.encode() + b"\0")
        (tmp_path / pid / "root").symlink_to("/proc" if pid == "22" else "/")  # 22 is in a container
    (tmp_path / "25").mkdir()  # it has ended meanwhile
    uid = os.getuid()
    assert list(listening(tmp_path, owners=[uid])) == [["-D"], ["-p", "2"]]
    assert list(listening(tmp_path, owners=[uid + 1])) == []
