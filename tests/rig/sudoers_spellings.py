# SPDX-License-Identifier: MIT
"""Ways in which people may write sudo's rules, and the lines by which sudo asks nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from textgate.sudoers import Sudoers

# What is written -> the lines by which sudo asks nothing. `integration/test_sudoers.py` asks sudo itself about them.
SPELLINGS: Mapping[str, tuple[Mapping[str, str], list[str]]] = {
    "usual rules": ({"sudoers": "Defaults env_reset\n%sudo ALL=(ALL:ALL) ALL\n"}, []),
    "comment": ({"sudoers": "# x ALL=(ALL) NOPASSWD: ALL\nx ALL=ALL # NOPASSWD: ALL\n"}, []),
    "by name": ({"sudoers": "x ALL=(ALL) NOPASSWD:ALL\n"}, ["sudoers:1"]),
    "by number": ({"sudoers": "\n#1000 ALL=(ALL) NOPASSWD: ALL\n"}, ["sudoers:2"]),
    "by number of a group": ({"sudoers": "%#27 ALL=(ALL) NOPASSWD: ALL\n"}, ["sudoers:1"]),
    "blank before the colon": ({"sudoers": "x ALL = NOPASSWD : ALL\n"}, ["sudoers:1"]),
    "line that goes on": ({"sudoers": "x ALL = \\\n (root) \\\n NOPASSWD: ALL\n"}, ["sudoers:1"]),
    "line behind a comment with a backslash": ({"sudoers": "# y \\\nx ALL=NOPASSWD: ALL\n"}, ["sudoers:2"]),
    "for all": ({"sudoers": "Defaults !authenticate\n"}, ["sudoers:1"]),
    "for one": ({"sudoers": "Defaults:x env_reset, ! authenticate\n"}, ["sudoers:1"]),
    "line of Defaults that goes on": ({"sudoers": "Defaults env_reset, \\\n  !authenticate\n"}, ["sudoers:1"]),
    "exempt group": ({"sudoers": "Defaults exempt_group=sudo\n"}, ["sudoers:1"]),
    "no exempt group": ({"sudoers": "Defaults !exempt_group\n"}, []),
    "folder": (
        {"sudoers": "@includedir {}/d\n", "d/90-cloud": "x ALL=NOPASSWD:ALL\n", "d/old.bak": "x ALL=NOPASSWD:ALL\n"},
        ["d/90-cloud:1"],  # sudo leaves out names with a dot
    ),
    "folder, as it was written once": (
        {"sudoers": "#includedir {}/d\n", "d/a": "x ALL=NOPASSWD:ALL\n"},
        ["d/a:1"],
    ),
    "file": ({"sudoers": "@include {}/more\n", "more": "\nx ALL=NOPASSWD:ALL\n"}, ["more:2"]),
    "file beside it": ({"sudoers": "#include more\n", "more": "x ALL=NOPASSWD:ALL\n"}, ["more:1"]),
    "file in quotes": ({"sudoers": '@include "{}/a b"\n', "a b": "x ALL=NOPASSWD:ALL\n"}, ["a b:1"]),
    "file with a blank": ({"sudoers": "@include {}/a\\ b\n", "a b": "x ALL=NOPASSWD:ALL\n"}, ["a b:1"]),
    "folder that nothing includes": ({"sudoers": "\n", "d/a": "x ALL=NOPASSWD:ALL\n"}, []),
}


def write(folder: Path, files: Mapping[str, str]) -> Sudoers:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.replace("{}", str(folder)))
        path.chmod(0o440)
    return Sudoers((str(folder / "sudoers"),))
