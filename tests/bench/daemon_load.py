# SPDX-License-Identifier: MIT
"""How many logins textgated serves, how fast, at what price: a closed loop of begin and check through its socket.

Each login is of another user than all others under way, with an ssh connection of its own. The CPU time of daemon,
Redis and load generator is read at the edges of the measured seconds, each for itself.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from rig.daemon import AUTH_SOCKET

from .native import program
from .setting import GATEWAY_PORT, USER_COUNT, Setting

CONCURRENCY = (1, 8, 64)
DELAYS_MS = (50, 0)
WARM_UP_S = 1.0
SECONDS, SECONDS_QUICK = 10.0, 3.0
ROUNDS, ROUNDS_QUICK = 3, 1

# For 64 logins at the same time; the check's p99 and the rates with the slower gateway too.
BAR_LOGINS_PER_S = 400
BAR_CPU_MS = 2.0
BAR_CHECK_P99_MS = 20.0
BAR_REST_MIB = 60.0


def run(setting: Setting, *, is_quick: bool) -> dict[str, Any]:
    """Measure; answers the result for report.py. Each cell is the round with the median rate of logins."""
    rest_mib = memory_mib(setting, "VmRSS")
    load(setting, delay_ms=0, concurrency=1, seconds=1)
    first_mib = memory_mib(setting, "VmRSS")
    rounds, seconds = (ROUNDS_QUICK, SECONDS_QUICK) if is_quick else (ROUNDS, SECONDS)
    cells = [(delay_ms, concurrency) for delay_ms in DELAYS_MS for concurrency in CONCURRENCY]
    runs: dict[tuple[int, int], list[dict[str, Any]]] = {cell: [] for cell in cells}
    for _ in range(rounds):
        for delay_ms, concurrency in cells:
            found = load(setting, delay_ms=delay_ms, concurrency=concurrency, seconds=seconds)
            runs[delay_ms, concurrency].append(found)
    return {
        "rest_mib": rest_mib,
        "rest_after_first_logins_mib": first_mib,
        "rest_after_load_mib": memory_mib(setting, "VmRSS"),
        "peak_mib": memory_mib(setting, "VmHWM"),
        "seconds": seconds,
        "rounds": rounds,
        "bars": {
            "logins_per_s": BAR_LOGINS_PER_S,
            "cpu_ms": BAR_CPU_MS,
            "check_p99_ms": BAR_CHECK_P99_MS,
            "rest_mib": BAR_REST_MIB,
        },
        "cells": [
            {"gateway_ms": delay_ms, "concurrency": concurrency} | _middle(runs[delay_ms, concurrency])
            for delay_ms, concurrency in cells
        ],
    }


def load(setting: Setting, *, delay_ms: float, concurrency: int, seconds: float) -> dict[str, Any]:
    """One run of native/load.c. Raises RuntimeError if a login failed."""
    argv = [program("load"), str(AUTH_SOCKET), str(GATEWAY_PORT), str(delay_ms), str(concurrency), str(USER_COUNT),
            str(WARM_UP_S), str(seconds), *map(str, setting.pids)]  # fmt: skip
    found: dict[str, Any] = json.loads(subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout)
    if found["failures"] or not found["logins"]:
        raise RuntimeError(f"{found['failures']} logins failed, {found['logins']} did not: {found['first_failure']}")
    daemon_ms, redis_ms = found.pop("cpu_ms")
    per_login = {"daemon": daemon_ms, "redis": redis_ms, "load": found.pop("load_cpu_ms")}
    found["cpu_ms_per_login"] = {name: cpu_ms / found["logins"] for name, cpu_ms in per_login.items()}
    found["daemon_cores"] = daemon_ms / 1000 / found["elapsed_s"]
    return found


def memory_mib(setting: Setting, field: str) -> float:
    """A size in the daemon's /proc/PID/status: VmRSS now, VmHWM at most so far."""
    text = Path(f"/proc/{setting.pids[0]}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) / 1024 if found else float("nan")


def _middle(found: list[dict[str, Any]]) -> dict[str, Any]:
    ordered = sorted(found, key=lambda one: float(one["logins_per_s"]))
    rates = [one["logins_per_s"] for one in ordered]
    return ordered[(len(ordered) - 1) // 2] | {"logins_per_s_lowest": rates[0], "logins_per_s_highest": rates[-1]}
