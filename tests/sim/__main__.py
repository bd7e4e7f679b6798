# SPDX-License-Identifier: MIT
"""Plays the scenarios, prints their tables and writes build/sim/results.json and results.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

from private_redis import PrivateRedis
from textgate.config import parse_config

from . import page, passwords, report
from .passwords import Flood
from .scenarios import ATTACKS, ORDINARY, Attack, Ordinary, Play, Row, Setting

BUILD = Path(__file__).resolve().parents[2] / "build" / "sim"
DAYS = 30


def main(arguments: list[str] | None = None) -> int:
    """0 whatever the numbers are; tests/contract/test_sim.py judges them."""
    parser = argparse.ArgumentParser(prog="sim", description="Play attackers and ordinary days against the limits.")
    parser.add_argument("--days", type=int, default=DAYS, help=f"length of the longest scenarios (default: {DAYS})")
    parser.add_argument(
        "--limit", action="append", default=[], metavar="KEY=VALUE", help="a key of [limits] other than its default"
    )
    parser.add_argument("--write", action="store_true", help=f"put the tables into {page.PAGE.name}, too")
    options = parser.parse_args(arguments)
    limits = read_limits(options.limit)
    with PrivateRedis() as server:
        setting = Setting(server, options.days, limits)
        attacks, ordinary = play(ATTACKS, setting), play(ORDINARY, setting)
        floods = [passwords.play(server, scenario) for scenario in passwords.SCENARIOS]
    text = f"{tables(attacks, ordinary)}\n{report.flood_table(floods)}"
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "results.md").write_text(text)
    result = {"days": options.days, "limits": options.limit, "attacks": report.as_json(attacks),
              "ordinary": report.as_json(ordinary), "passwords": report.as_json(floods)}  # fmt: skip
    (BUILD / "results.json").write_text(json.dumps(result, indent=1) + "\n")
    print(text)
    if options.write:
        write_page(attacks, ordinary, floods)
    return 0


def play(scenarios: tuple[Play[Row], ...], setting: Setting) -> list[Row]:
    """The results of all of them; how long each took goes to standard error."""
    rows = []
    for scenario in scenarios:
        begun_at = time.monotonic()
        rows.append(scenario(setting))
        print(f"sim: {time.monotonic() - begun_at:5.1f} s  {rows[-1].name}", file=sys.stderr)
    return rows


def tables(attacks: list[Attack], ordinary: list[Ordinary]) -> str:
    """Both tables, for a terminal."""
    return f"{report.attack_table(attacks)}\n{report.ordinary_table(ordinary)}"


def write_page(attacks: list[Attack], ordinary: list[Ordinary], floods: list[Flood]) -> None:
    """Put all made parts into docs/limits.md."""
    parts = {
        "options": page.options_table(),
        "refusals": page.refusals_table(),
        "attacks": report.attack_table(attacks),
        "ordinary": report.ordinary_table(ordinary),
        "passwords": report.flood_table(floods),
    }
    page.PAGE.write_text(page.put_in(page.PAGE.read_text(), parts))


def read_limits(assignments: list[str]) -> dict[str, Any]:
    """`KEY=VALUE` words -> checked options of [limits]. Raises ConfigError for one that can't be."""
    lines = "\n".join(assignments)
    config = parse_config(f'[limits]\nallowed_countries = ["DK"]\n{lines}\n', config_path="--limit")
    return {key: getattr(config.limits, key) for key in tomllib.loads(lines)}


if __name__ == "__main__":
    sys.exit(main())
