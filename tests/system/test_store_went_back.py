# SPDX-License-Identifier: MIT
"""A backup of Redis' files put back on a booted machine: noticed over a stop of both services, and told."""

from __future__ import annotations

import json

from system.machines import Machine
from system.setting import Gateway, log_in
from textgate.audit import Event

STATE, COPY = "/var/lib/textgate/redis", "/root/redis-copy"
SEEN = "/var/lib/textgate/daemon"
STOP, START = "systemctl stop textgated textgate-redis", "systemctl start textgated textgate-redis"
BACK_WITHIN_S = 60.0


def test_backup_of_redis_that_is_put_back_is_noticed_and_lets_nobody_in_again(
    machine: Machine, gateway: Gateway
) -> None:
    assert log_in(machine, gateway, login=7000).status == 0
    machine.run(f"{STOP} && rm -rf {COPY} && cp -a {STATE} {COPY} && {START}")
    assert log_in(machine, gateway, login=7001).status == 0
    assert machine.run(["stat", "-c", "%a %U:%G", SEEN]).stdout.strip() == "700 textgate:textgate"
    assert (
        machine.run(["stat", "-c", "%a %U:%G", f"{SEEN}/store-seen.json"]).stdout.strip() == "600 textgate:textgate"
    )
    machine.run(f"{STOP} && rm -rf {STATE}/* && cp -a {COPY}/. {STATE}/ && {START}")
    machine.wait_until(["sh", "-c", "textgate status --json | grep -q '\"older\"'"], within_s=BACK_WITHIN_S)
    assert log_in(machine, gateway, login=7002).status == 0
    status = json.loads(machine.run(["textgate", "status", "--json"]).stdout)
    assert status["store"]["noticed"] == "older"
    (entry,) = machine.journal("-b", "-o", "json", f"MESSAGE_ID={Event.STORE.value}").strip().splitlines()
    assert (json.loads(entry)["TEXTGATE_REASON"], json.loads(entry)["PRIORITY"]) == ("older", "1")
    assert "older than what textgated saw" in machine.journal("-b", "-x", f"MESSAGE_ID={Event.STORE.value}")
    machine.run(["rm", "-rf", COPY])
