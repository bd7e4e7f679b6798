# SPDX-License-Identifier: MIT
"""sudo's rules as sudo itself reads them (cvtsudoers(1)), and what we find in them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rig.sudoers_spellings import SPELLINGS, write


def values(node: Any, key: str) -> Iterator[Any]:
    """Every value of a key, however deep."""
    if isinstance(node, dict):
        yield from (value for name, value in node.items() if name == key)
    for one in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from values(one, key)


@pytest.mark.parametrize("name", list(SPELLINGS))
def test_sudo_reads_the_same(tmp_path: Path, name: str) -> None:
    files, places = SPELLINGS[name]
    write(tmp_path, files)
    said = subprocess.run(
        ["cvtsudoers", "-f", "json", str(tmp_path / "sudoers")], check=True, capture_output=True, text=True
    )
    rules = json.loads(said.stdout) if said.stdout.strip() else {}
    asks_nothing = False in values(rules, "authenticate") or any(values(rules, "exempt_group"))
    assert asks_nothing is bool(places)
