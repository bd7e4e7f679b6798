# SPDX-License-Identifier: MIT
"""The limits as the store's scripts get them."""

from __future__ import annotations

import json

from textgate.config import CodesConfig, LimitsConfig
from textgate.limits import DAY_MS, Rules, SendRow, build_rules


def test_rules_are_the_configuration_in_milliseconds() -> None:
    codes = CodesConfig(life_s=61, tries=2)
    limits = LimitsConfig(
        wrong_in_a_row=4,
        lockout_s=7,
        lockout_max_s=77,
        wrong_per_day=9,
        send_spacing_s=11,
        sends_per_15_minutes=3,
        sends_per_day=13,
    )
    assert build_rules(codes, limits) == Rules(
        life_ms=61_000,
        tries=2,
        wrong_in_a_row=4,
        wrong_per_day=9,
        wrong_per_place=3,  # two fifths, rounded down
        lockout_ms=7_000,
        lockout_max_ms=77_000,
        sends=(
            SendRow("spacing", 11_000, 1),
            SendRow("quarter_hour", 15 * 60 * 1000, 3),
            SendRow("day", 24 * 60 * 60 * 1000, 5, most_in_all=13),
        ),
    )


def test_default_rules_are_the_documented_ones() -> None:
    rules = build_rules(CodesConfig(), LimitsConfig())
    assert (rules.life_ms, rules.tries) == (300_000, 3)
    assert (rules.wrong_in_a_row, rules.wrong_per_day, rules.wrong_per_place) == (5, 20, 8)
    assert (rules.lockout_ms, rules.lockout_max_ms) == (300_000, DAY_MS)
    assert [(row.window_ms, row.most, row.most_in_all) for row in rules.sends] == [
        (30_000, 1, 0),
        (900_000, 5, 0),
        (DAY_MS, 8, 20),
    ]


def test_one_place_never_has_less_than_one() -> None:
    rules = build_rules(CodesConfig(), LimitsConfig(wrong_per_day=1, sends_per_day=2))
    assert (rules.wrong_per_place, rules.sends[-1].most) == (1, 1)


def test_two_places_leave_something_to_a_third() -> None:
    rules = build_rules(CodesConfig(), LimitsConfig())
    assert 2 * rules.wrong_per_place < rules.wrong_per_day
    assert 2 * rules.sends[-1].most < rules.sends[-1].most_in_all


def test_arguments_are_json_with_the_scripts_names() -> None:
    arguments = json.loads(json.dumps(build_rules(CodesConfig(), LimitsConfig()).as_arguments()))
    assert set(arguments) == {
        "life_ms",
        "tries",
        "wrong_in_a_row",
        "wrong_per_day",
        "wrong_per_place",
        "lockout_ms",
        "lockout_max_ms",
        "sends",
    }
    assert set(arguments["sends"][0]) == {"name", "window_ms", "most", "most_in_all"}
