# SPDX-License-Identifier: MIT
"""Where textgated's CPU time goes under load, by py-spy (PyPI), which looks at the process from outside.

A run of its own, because being looked at slows the daemon down. Only the thread that holds the interpreter's lock is
counted: that lock is what all logins share. Time in the kernel, for sockets and files, is not in the shares.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .daemon_load import load
from .setting import Setting

RATE = 100  # samples a second
CONCURRENCY = 8
SECONDS, SECONDS_QUICK = 20.0, 8.0
FINISH_WITHIN_S = 30.0
TOP_COUNT = 30
_OURS = re.compile(r"(?P<function>[^;]+) \((?:[^;()]*/)?textgate/(?P<module>[a-z_]+)\.py(?::\d+)?\)")


def run(setting: Setting, *, is_quick: bool) -> dict[str, Any] | None:
    """Measure at CONCURRENCY logins; None where py-spy isn't installed."""
    py_spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if py_spy is None:
        return None
    seconds = SECONDS_QUICK if is_quick else SECONDS
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "stacks")
        argv = [py_spy, "record", "--gil", "--function", "--format", "raw", "--output", str(output),
                "--rate", str(RATE), "--duration", str(int(seconds) + 5), "--pid", str(setting.pids[0])]  # fmt: skip
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as watching:
            load(setting, delay_ms=0, concurrency=CONCURRENCY, seconds=seconds)
            watching.send_signal(signal.SIGINT)  # it writes what it has; before the end of its time if it is late
            watching.wait(FINISH_WITHIN_S)
        return summed_up(output.read_text().splitlines())


def summed_up(stacks: Sequence[str]) -> dict[str, Any]:
    """Lines of py-spy's raw form ("frame;frame;frame COUNT") -> shares in per cent.

    inclusive: a function of ours with all that it calls. own: the same without other functions of ours, so with the
    libraries that it calls.
    """
    inclusive: Counter[str] = Counter()
    own: Counter[str] = Counter()
    total = 0
    for line in stacks:
        stack, _, number = line.rpartition(" ")
        count = int(number)
        ours = [f"{found['module']} {found['function']}" for found in _OURS.finditer(stack)]
        total += count
        own[ours[-1] if ours else "(threads, queues, the interpreter)"] += count
        for name in set(ours):
            inclusive[name] += count
    return {
        "samples": total,
        "concurrency": CONCURRENCY,
        "inclusive": _shares(inclusive, total),
        "own": _shares(own, total),
    }


def _shares(counts: Counter[str], total: int) -> dict[str, float]:
    return {name: round(100 * count / total, 1) for name, count in counts.most_common(TOP_COUNT)}
