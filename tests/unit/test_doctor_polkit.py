# SPDX-License-Identifier: MIT
"""polkit's rules that give root and ask nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from textgate.doctor import Machine
from textgate.doctor_polkit import check_polkit

RULE = "polkit.addRule(function(action, subject) {{ if ({}) return {}; }});\n"
EXEC = 'action.id == "org.freedesktop.policykit.exec"'


def examine(root: Path, guarded: str = "sudo") -> list[str]:
    machine = Machine("x", root=str(root))
    machine.__dict__["guarded"] = [guarded]
    return [one.message for one in check_polkit(machine)]


@pytest.mark.parametrize(
    ("name", "text", "is_told"),
    [
        ("etc/polkit-1/rules.d/1.rules", RULE.format(EXEC, "polkit.Result.YES"), True),
        ("etc/polkit-1/rules.d/1.rules", RULE.format(EXEC, "'yes'"), True),
        ("usr/local/share/polkit-1/rules.d/1.rules",
         RULE.format('subject.isInGroup("sudo")', "polkit.Result.YES"), True),
        ("etc/polkit-1/rules.d/1.rules",
         RULE.format('action.id.indexOf("org.freedesktop.systemd1.") == 0', "polkit.Result.YES"), True),
        ("etc/polkit-1/rules.d/1.rules", RULE.format(EXEC, "polkit.Result.AUTH_ADMIN"), False),
        ("etc/polkit-1/rules.d/1.rules", "// " + RULE.format(EXEC, "polkit.Result.YES"), False),
        ("etc/polkit-1/rules.d/1.rules",
         RULE.format('action.id == "org.freedesktop.NetworkManager.wifi.scan"', "polkit.Result.YES"), False),
        ("etc/polkit-1/rules.d/1.bak", RULE.format(EXEC, "polkit.Result.YES"), False),  # polkit leaves it out
        ("usr/share/polkit-1/rules.d/1.rules", RULE.format(EXEC, "polkit.Result.YES"), False),  # of a package
        ("etc/polkit-1/localauthority/50-local.d/a.pkla",
         "[a]\nIdentity=unix-group:sudo\nAction=*\nResultAny=yes\n", True),
        ("etc/polkit-1/localauthority/50-local.d/a.pkla",
         "[a]\nIdentity=unix-group:sudo\nAction=org.freedesktop.NetworkManager.*\nResultAny=yes\n", False),
    ],
)  # fmt: skip
def test_rules_that_ask_nothing(tmp_path: Path, name: str, text: str, is_told: bool) -> None:
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(text)
    assert [message.split()[0] for message in examine(tmp_path)] == ([f"/{name}"] if is_told else [])
    assert examine(tmp_path, guarded="sshd") == []
