# SPDX-License-Identifier: MIT
"""The sentences at the prompt: plain, short, and true about time."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgate import texts
from textgate.config import CodesConfig, LimitsConfig
from textgate.limits import Scope, build_rules
from textgate.protocol import REPLY_TEXT_MAX_LENGTH

CONSTANTS = {name: value for name, value in vars(texts).items() if name.isupper() and not name.startswith("_")}
MADE = (
    {function.__name__: function(90.0) for function in (texts.locked, texts.throttled, texts.throttled_anew)}
    | {f"locked_{row}": texts.locked(90.0, row) for row in ("wrong_in_a_row", "wrong_per_day", "under_way")}
    | {
        f"throttled_{row.name}": texts.throttled(90.0, row.name)
        for row in build_rules(CodesConfig(), LimitsConfig()).sends
    }
    | {f"budget_{scope.value}": texts.budget(scope, 90.0) for scope in Scope}
)


@pytest.mark.parametrize("sentence", [*CONSTANTS.values(), *MADE.values()], ids=[*CONSTANTS, *MADE])
def test_sentence_is_plain_and_short(sentence: str) -> None:
    assert sentence.isascii()
    assert sentence.isprintable()
    assert len(sentence) < min(150, REPLY_TEXT_MAX_LENGTH)
    assert re.fullmatch(r"[A-Z].*\.", sentence)


@pytest.mark.parametrize("sentence", [*CONSTANTS.values(), *MADE.values()], ids=[*CONSTANTS, *MADE])
def test_sentence_tells_nothing_of_the_cause(sentence: str) -> None:
    assert not re.search(
        r"redis|gatewayapi|unknown|user name|no phone|number|country|credit", sentence, re.IGNORECASE
    )


@pytest.mark.parametrize(
    ("wait_s", "words"),
    [
        (0.0, "1 second"),
        (0.001, "1 second"),
        (1.0, "1 second"),
        (1.001, "2 seconds"),
        (59.0, "59 seconds"),
        (60.0, "60 seconds"),
        (60.001, "2 minutes"),
        (90.0, "2 minutes"),
        (120.0, "2 minutes"),
        (120.5, "3 minutes"),
        (3600.0, "60 minutes"),
        (3600.001, "2 hours"),
        (86400.0, "24 hours"),
    ],
)
def test_duration_is_in_words(wait_s: float, words: str) -> None:
    assert texts.duration(wait_s) == words


@given(st.floats(0, 700_000))
def test_duration_never_promises_too_much(wait_s: float) -> None:
    number, unit = texts.duration(wait_s).split(" ")
    told_s = int(number) * {"second": 1, "minute": 60, "hour": 3600}[unit.removesuffix("s")]
    assert told_s >= wait_s


def test_sentences_about_time_say_how_long() -> None:
    assert texts.locked(299.2) == "Too many wrong codes. Wait 5 minutes, or ask your administrator."
    assert "Wait 30 seconds and try again." in texts.throttled(29.1)
    assert texts.throttled_anew(10.0) == "A new login code can be texted in 10 seconds. The last one is still good."
