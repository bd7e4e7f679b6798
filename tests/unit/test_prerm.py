# SPDX-License-Identifier: MIT
"""Which PAM files the package's removal finds: what it overlooks refuses everybody once the helper is gone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

PRERM = Path(__file__).parents[2] / "packaging/debian/prerm"


def guarded_files(folder: Path) -> list[str]:
    """Names that the script's own function prints, for a folder in place of /etc/pam.d."""
    script = PRERM.read_text().replace("/etc/pam.d", str(folder))
    function = script[script.index("guarded_files()") : script.index("\n}\n") + 3]
    done = subprocess.run(["sh", "-ec", f"{function}guarded_files"], check=True, capture_output=True, text=True)
    return sorted(Path(line).name for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    ("line", "is_guarded"),
    [
        ("@include textgate", True),
        ("@include /etc/pam.d/textgate", True),
        ("auth include textgate", True),
        ("auth\tsubstack\ttextgate # mine", True),
        ("auth requisite pam_textgate.so ask", True),
        ("auth required /usr/lib/security/pam_textgate.so ask", True),
        ("auth required pam_exec.so quiet /usr/libexec/textgate/pam-helper begin", True),
        ("#@include textgate", False),
        ("@include textgate-api", False),
        ("@include common-auth", False),
        ("auth required pam_exec.so /opt/mytextgate", False),
    ],
)
def test_removal_finds_every_file_that_needs_the_package(tmp_path: Path, line: str, is_guarded: bool) -> None:
    (tmp_path / "textgate").write_text("auth requisite pam_textgate.so deny\n")
    (tmp_path / "sudo").write_text(f"#%PAM-1.0\n{line}\n")
    assert guarded_files(tmp_path) == (["sudo"] if is_guarded else [])


def test_copies_that_no_service_reads_do_not_hold_up_the_removal(tmp_path: Path) -> None:
    for name in ("sudo~", "sudo.dpkg-old", "sshd.dpkg-dist", "sudo.bak"):
        (tmp_path / name).write_text("@include textgate\n")
    assert guarded_files(tmp_path) == ["sudo.bak"]  # which `textgate pam disable --all` looks at too
