# SPDX-License-Identifier: MIT
"""Runs the benchmarks in a private world (`make bench`) and writes build/bench/results.json and results.md."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from . import daemon_load, daemon_profile, login_path, machine, report, setting, silence
from .native import BUILD

PARTS: dict[str, Callable[..., dict[str, Any] | None]] = {
    "login_path": login_path.run,
    "daemon_load": daemon_load.run,
    "daemon_profile": daemon_profile.run,
    "silence": silence.run,
}


def main(arguments: list[str] | None = None) -> int:
    """0 whatever the numbers are."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure what textgate costs a login and a machine.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all if none is named")
    parser.add_argument("--quick", action="store_true", help="a minute in place of six: to see that it works")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    result: dict[str, Any] = {"is_quick": options.quick, "machine": machine.describe()}
    for name in options.parts or PARTS:
        print(f"bench: {name} ...", file=sys.stderr)
        with setting.running() as running:  # a fresh daemon and an empty Redis for each
            result[name] = PARTS[name](running, is_quick=options.quick)
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    text = report.tables(result)
    (BUILD / "results.md").write_text(text)
    print(text)
    return 0


sys.exit(main())
