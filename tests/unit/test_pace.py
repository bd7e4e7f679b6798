# SPDX-License-Identifier: MIT
"""A text that is pretended takes a time as real ones do: never the same one twice, never one that none had."""

from __future__ import annotations

import pytest

from textgate.gateway_outcomes import Outcome, SendReason, SendResult
from textgate.pace import KEPT, Pace

SENT = (Outcome.SENT, SendReason.ACCEPTED)
AWAY = (Outcome.REFUSED, SendReason.UNREACHABLE)


def _note(pace: Pace, end: tuple[Outcome, SendReason], *durations_s: float) -> None:
    for duration_s in durations_s:
        pace.note(SendResult(*end, attempt_count=1, duration_s=duration_s))


def _read(pace: Pace, times: int = 200) -> list[float]:
    return [pace.read().duration_s for _ in range(times)]


@pytest.mark.parametrize("durations_s", [(), (0.1, 0.2, 0.3)], ids=["after a start", "after some texts"])
def test_no_time_comes_again(durations_s: tuple[float, ...]) -> None:
    pace = Pace()
    _note(pace, SENT, *durations_s)
    seen = _read(pace)
    lowest, highest = (0.1, 0.3) if durations_s else (0.08, 0.16)
    assert all(lowest <= duration_s <= highest for duration_s in seen)
    assert len({round(duration_s, 3) for duration_s in seen}) > 20


def test_times_of_another_end_or_of_long_ago_do_not_count() -> None:
    pace = Pace()
    _note(pace, SENT, 5.0, 6.0)
    _note(pace, AWAY, 1.3, 1.31)
    assert (pace.read().outcome, pace.read().reason) == AWAY
    assert all(1.3 <= duration_s <= 1.31 for duration_s in _read(pace))
    _note(pace, AWAY, *[0.5] * KEPT)
    assert set(_read(pace)) == {0.5}
