# SPDX-License-Identifier: MIT
"""Files of the package that must agree with the code."""

from __future__ import annotations

import re
from pathlib import Path

from textgate.audit import Event

ROOT = Path(__file__).resolve().parents[2]
# What store.py calls outside of the scripts (redis-py's names for them), and what redis-py sends for it.
DIRECT = {"del", "hset", "hlen", "hgetall", "zrange", "zscore", "scan", "hget", "exists", "info"}
MACHINERY = {"ping", "script|load", "script|exists", "evalsha", "multi", "exec"}


def test_redis_allows_just_the_commands_that_are_used() -> None:
    rules = [line for line in (ROOT / "packaging/redis.acl").read_text().splitlines() if not line.startswith("#")]
    allowed = set(re.findall(r"\+(\S+)", " ".join(rules)))
    scripts = [path.read_text() for path in (ROOT / "daemon/textgate/lua").glob("*.lua")]
    in_scripts = {name.lower() for text in scripts for name in re.findall(r"redis\.p?call\(['\"](\w+)", text)}
    store = (ROOT / "daemon/textgate/store.py").read_text()
    in_store = set(re.findall(r"(?:_redis|pipeline)\.([a-z]+)\b", store)) - {"pipeline", "register_script", "execute"}
    in_store = {"del" if name == "delete" else name for name in in_store if not name.startswith("connection")}
    assert in_scripts
    assert in_store - MACHINERY == DIRECT
    assert allowed == in_scripts | DIRECT | MACHINERY


def test_every_event_is_in_the_catalog_once() -> None:
    entries = re.findall(r"^-- ([0-9a-f]{32})$", (ROOT / "systemd/textgate.catalog").read_text(), re.M)
    helper = re.findall(r'MESSAGE_ID = "([0-9a-f]{32})"', (ROOT / "pam_helper/textgate_pam.py").read_text())
    assert sorted(entries) == sorted([*(event.value for event in Event), *helper])
