# SPDX-License-Identifier: MIT
"""The configuration that is installed says of every key what the program does without it."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from decimal import Decimal
from pathlib import Path

from textgate.config import SECTIONS, Config, LimitsConfig, parse_config

DEFAULT_FILE = Path(__file__).resolve().parents[2] / "packaging/etc/textgate.toml"


def test_installed_config_is_the_defaults_plus_the_countries() -> None:
    config = parse_config(DEFAULT_FILE.read_text(), config_path="x")
    assert config == Config(path="x", limits=LimitsConfig(allowed_countries=("DK",)))


def test_installed_config_shows_each_key_with_its_default() -> None:
    uncommented = re.sub(r"(?m)^#(?=[a-z_0-9]+ = )", "", DEFAULT_FILE.read_text())
    shown = tomllib.loads(uncommented)
    shown["limits"]["allowed_countries"] = []
    assert shown == {
        section: {option.name: _as_toml(option.default) for option in dataclasses.fields(kind)}
        for section, kind in SECTIONS.items()
    }


def _as_toml(default: object) -> object:
    if isinstance(default, Decimal):
        return int(default) if default == int(default) else str(default)
    return list(default) if isinstance(default, tuple) else default
