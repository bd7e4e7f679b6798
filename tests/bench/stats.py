# SPDX-License-Identifier: MIT
"""Numbers that a noisy machine leaves standing: medians, deviations, ratios of paired differences. No I/O."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

RESAMPLES = 1000
SEED = 1  # the same interval for the same numbers


@dataclass(frozen=True)
class Ratio:
    """A number, such as a ratio, with the interval that holds 95 % of its resampled values."""

    value: float
    low: float
    high: float


def deviation(values: Sequence[float]) -> float:
    """The median absolute deviation from the median."""
    middle = median(values)
    return median(abs(value - middle) for value in values)


def paired_ratio(values: Sequence[float], unit: Sequence[float], base: Sequence[float]) -> Ratio:
    """How many times `unit` costs over `base` do `values` cost over it; all three hold one number for each round.

    Differences are taken within a round, so that what slows a whole round down falls out. Medians of them are
    divided; the interval comes from drawing rounds again (bootstrap, percentiles).
    """
    pairs = [(value - floor, one - floor) for value, one, floor in zip(values, unit, base, strict=True)]
    draw = random.Random(SEED)
    resampled = sorted(_ratio(draw.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    return Ratio(_ratio(pairs), resampled[RESAMPLES * 25 // 1000], resampled[RESAMPLES * 975 // 1000])


def middle_interval(values: Sequence[float]) -> Ratio:
    """The median and where it lies when the values are drawn again (bootstrap, percentiles)."""
    draw = random.Random(SEED)
    resampled = sorted(median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return Ratio(median(values), resampled[RESAMPLES * 25 // 1000], resampled[RESAMPLES * 975 // 1000])


def _ratio(pairs: Sequence[tuple[float, float]]) -> float:
    return median(ours for ours, _ in pairs) / median(unit for _, unit in pairs)
