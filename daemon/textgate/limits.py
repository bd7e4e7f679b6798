# SPDX-License-Identifier: MIT
"""The limits on guessing and on sending, as the store's scripts apply them; times in whole milliseconds.

The windows of a user slide: they look back from now, so that no turn of a day or an hour doubles a limit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from .config import CodesConfig, LimitsConfig

DAY_MS = 86_400_000
QUARTER_HOUR_MS = 900_000


@dataclass(frozen=True)
class SendRow:
    """At most `most` texts to one user in any `window_ms`.

    is_forgiving: a text whose code was typed rightly no longer counts. Only an answered text is forgiven, so this
    helps the owner of the phone and nobody else.
    """

    name: str
    window_ms: int
    most: int
    is_forgiving: bool


@dataclass(frozen=True)
class Rules:
    """What the scripts need to know of the configuration."""

    life_ms: int
    tries: int
    wrong_in_a_row: int
    wrong_per_day: int
    lockout_ms: int
    lockout_max_ms: int
    sends: tuple[SendRow, ...]

    def as_arguments(self) -> dict[str, object]:
        """The rules as the scripts' JSON arguments; the field names are the scripts' names."""
        return asdict(self)


def build_rules(codes: CodesConfig, limits: LimitsConfig) -> Rules:
    """Seconds and counts of the configuration -> Rules."""
    return Rules(
        life_ms=codes.life_s * 1000,
        tries=codes.tries,
        wrong_in_a_row=limits.wrong_in_a_row,
        wrong_per_day=limits.wrong_per_day,
        lockout_ms=limits.lockout_s * 1000,
        lockout_max_ms=limits.lockout_max_s * 1000,
        sends=(
            SendRow("spacing", limits.send_spacing_s * 1000, 1, is_forgiving=True),
            SendRow("quarter_hour", QUARTER_HOUR_MS, limits.sends_per_15_minutes, is_forgiving=True),
            SendRow("day", DAY_MS, limits.sends_per_day, is_forgiving=False),
        ),
    )
