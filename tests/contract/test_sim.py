# SPDX-License-Identifier: MIT
"""What `make sim` finds is what is promised, and what docs/limits.md says."""

from __future__ import annotations

from decimal import Decimal

import pytest

from private_redis import PrivateRedis
from sim import page, passwords, report
from sim.__main__ import DAYS, play, read_limits
from sim.scenarios import ATTACKS, ORDINARY, Attack, Ordinary, Setting
from sim.world import Actor, World, most_in_a_day
from textgate.config import LimitsConfig
from textgate.errors import ConfigError
from textgate.limits import DAY_MS
from textgate.password_limits import CEILING_BYTES, WRONG_BY_STRANGERS

LIMITS = LimitsConfig()


@pytest.fixture(scope="module")
def setting(redis_of_the_run: PrivateRedis) -> Setting:
    return Setting(redis_of_the_run, DAYS, {})


@pytest.fixture(scope="module")
def attacks(setting: Setting) -> dict[str, Attack]:
    return {row.name: row for row in play(ATTACKS, setting)}


@pytest.fixture(scope="module")
def ordinary(setting: Setting) -> dict[str, Ordinary]:
    return {row.name: row for row in play(ORDINARY, setting)}


def test_attacker_has_at_most_one_in_fifty_thousand_a_day(attacks: dict[str, Attack]) -> None:
    guessing = [row for name, row in attacks.items() if row.guesses and "2-digit" not in name]
    assert len(guessing) == 7
    for row in guessing:
        assert row.odds_a_day is not None
        assert row.odds_a_day >= 50_000
        assert row.hits == 0
        assert row.guesses >= 30 * 2  # he did try


def test_guesses_hit_as_often_as_arithmetic_says(attacks: dict[str, Attack]) -> None:
    (row,) = [row for name, row in attacks.items() if "2-digit" in name]
    assert row.expected_hits > 8
    assert abs(row.hits - row.expected_hits) <= 3 * row.expected_hits**0.5


@pytest.mark.parametrize(
    ("name", "is_let_in"),
    [
        ("lock out from afar; owner at his office", True),
        ("lock out from afar; owner at sudo", True),
        ("lock out from his office; owner at ever new addresses", True),
        ("lock out from his office and afar; owner at home", True),
        # What can't be helped: nothing tells them apart.
        ("lock out from afar; owner at ever new addresses", False),
        ("lock out from his office; owner there, too", False),
    ],
)
def test_owner_gets_in_wherever_the_attacker_is_not(attacks: dict[str, Attack], name: str, is_let_in: bool) -> None:
    row = attacks[name]
    assert row.owner_logins == 28
    assert row.owner_passed == (28 if is_let_in else 0)


def test_texts_for_stolen_accounts_stay_within_half_of_the_budget(attacks: dict[str, Attack]) -> None:
    (row,) = [row for name, row in attacks.items() if name.startswith("ask for texts")]
    assert 0 < row.money_a_day <= LIMITS.spend_per_day / 2
    assert row.texts_a_day <= LIMITS.sends_per_day_in_all / 2
    assert row.owner_passed == row.owner_logins


def test_attacker_gets_few_texts_for_one_account(attacks: dict[str, Attack]) -> None:
    for name, row in attacks.items():
        if "accounts" not in name and "users" not in name:
            assert row.texts_a_day <= LIMITS.sends_per_day


def test_ordinary_days_see_no_false_refusals(ordinary: dict[str, Ordinary]) -> None:
    """At most 1 in 200, of whom most mistyped three times."""
    rows = [row for name, row in ordinary.items() if not name.startswith("gateway away")]
    assert len(rows) == 4
    for row in rows:
        assert row.refused <= row.logins / 200


def test_people_with_recovery_codes_get_in_while_the_gateway_is_away(ordinary: dict[str, Ordinary]) -> None:
    for name, row in ordinary.items():
        if name.startswith("gateway away"):
            assert set(row.cause.split("_")) & {"gateway", "send"}
            assert row.logins / 2 < row.at_once < row.logins


def test_page_quotes_what_the_sim_prints(attacks: dict[str, Attack], ordinary: dict[str, Ordinary]) -> None:
    text = page.PAGE.read_text()
    assert page.part(text, "attacks") == report.attack_table(list(attacks.values()))
    assert page.part(text, "ordinary") == report.ordinary_table(list(ordinary.values()))


def test_floods_of_wrong_passwords_keep_no_owner_from_a_known_place(redis_of_the_run: PrivateRedis) -> None:
    floods = [passwords.play(redis_of_the_run, scenario) for scenario in passwords.SCENARIOS]
    for flood in floods:
        assert (flood.office_passed, flood.office_wait_s) == (flood.logins, 0), flood.name
        assert flood.guesses_an_hour <= WRONG_BY_STRANGERS
        assert flood.used_bytes < CEILING_BYTES
        assert flood.key_count <= 5
    one, ten, _many, names = floods
    assert (one.hotel_passed, names.hotel_passed) == (24, 24)
    assert ten.hotel_passed == 0  # what can't be helped: nothing tells them apart
    assert page.part(page.PAGE.read_text(), "passwords") == report.flood_table(floods)


def test_page_explains_every_limit_as_it_is() -> None:
    text = page.PAGE.read_text()
    assert page.part(text, "options") == page.options_table()
    assert page.part(text, "refusals") == page.refusals_table()


def test_same_seed_same_story(redis_of_the_run: PrivateRedis) -> None:
    setting = Setting(redis_of_the_run, 2, {})
    assert [scenario(setting) for scenario in ATTACKS[:5]] == [scenario(setting) for scenario in ATTACKS[:5]]


def test_put_in_replaces_a_part_and_nothing_else() -> None:
    before = "a\n<!-- made: x -->\nold\n<!-- end -->\nb\n<!-- made: y -->\n<!-- end -->\n"
    after = page.put_in(before, {"x": "new\n"})
    assert after == before.replace("old\n", "new\n")
    assert page.part(after, "x") == "new\n"
    with pytest.raises(ValueError, match="no place for z"):
        page.put_in(before, {"z": ""})
    with pytest.raises(ValueError, match="no place for z"):
        page.part(before, "z")


def test_limits_may_be_given_by_hand() -> None:
    assert read_limits(["sends_per_day=7", 'spend_per_day="1.50"']) == {
        "sends_per_day": 7,
        "spend_per_day": Decimal("1.50"),
    }
    with pytest.raises(ConfigError, match="did you mean sends_per_day"):
        read_limits(["sends_a_day=7"])


@pytest.mark.parametrize(
    ("moments", "most"), [([], 0), ([5], 1), ([0, DAY_MS - 1], 2), ([0, DAY_MS], 1), ([0, 1, 2, DAY_MS + 1], 3)]
)
def test_most_in_a_day_slides(moments: list[int], most: int) -> None:
    assert most_in_a_day(moments) == most


def test_actors_act_in_the_order_of_time(redis_of_the_run: PrivateRedis) -> None:
    world = World(redis_of_the_run, seed=1)
    seen: list[tuple[str, int]] = []
    start = world.clock.now_ms()

    def act(name: str, waits: list[float]) -> Actor:
        for wait_s in waits:
            seen.append((name, world.clock.now_ms() - start))
            yield wait_s

    world.join("a", act("a", [2, 2]))
    world.join("b", act("b", [3, 0.5]), at_ms=start + 500)
    world.run(start + 10_000)
    assert seen == [("a", 0), ("b", 500), ("a", 2000), ("b", 3500)]
    assert world.clock.now_ms() == start + 10_000
