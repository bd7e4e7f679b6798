# SPDX-License-Identifier: MIT
"""Results -> tables in Markdown, which a terminal shows as well, and JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from .passwords import Flood
from .scenarios import Attack, Ordinary

_ATTACK_HEADS = ("attack", "days", "guesses a day", "odds of a hit a day", "hits (expected)", "texts a day",
                 "money a day", "owner let in")  # fmt: skip
_ORDINARY_HEADS = ("who", "days", "logins", "in at once", "in after a wait", "refused", "mostly for", "texts a day",
                   "money a day")  # fmt: skip


def attack_table(rows: Sequence[Attack]) -> str:
    """What attackers get. The values a day are the most in any 24 hours."""
    return table(
        _ATTACK_HEADS,
        [
            (
                row.name,
                row.days,
                row.guesses_a_day or "-",
                f"1 in {row.odds_a_day}" if row.odds_a_day else "-",
                f"{row.hits} ({row.expected_hits:g})" if row.guesses_a_day else "-",
                row.texts_a_day,
                row.money_a_day,
                f"{row.owner_passed} of {row.owner_logins}" if row.owner_logins else "-",
            )
            for row in rows
        ],
    )


def ordinary_table(rows: Sequence[Ordinary]) -> str:
    """How people's logins go."""
    return table(
        _ORDINARY_HEADS,
        [
            (
                row.name,
                row.days,
                row.logins,
                f"{100 * row.at_once / row.logins:.1f} %",
                f"{100 * row.waited / row.logins:.1f} %",
                f"{100 * row.refused / row.logins:.1f} %",
                row.cause or "-",
                row.texts_a_day,
                row.money_a_day,
            )
            for row in rows
        ],
    )


def flood_table(rows: Sequence[Flood]) -> str:
    """What floods of wrong passwords come to."""
    return table(
        ("attack", "tries", "guesses an hour", "owner at the office", "owner at a new place", "keys", "in Redis"),
        [
            (
                row.name,
                row.tries,
                row.guesses_an_hour or "-",
                _looked_at(row.office_passed, row.logins, row.office_wait_s),
                _looked_at(row.hotel_passed, row.logins, row.hotel_wait_s),
                row.key_count,
                f"{math.ceil(row.used_bytes / 1_000_000)} MB",
            )
            for row in rows
        ],
    )


def _looked_at(passed: int, logins: int, wait_s: int) -> str:
    return f"{passed} of {logins}" + (f", waits up to {wait_s // 60} min" if wait_s else "")


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table whose columns line up."""
    cells = [list(heads), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def as_json(rows: Sequence[Attack] | Sequence[Ordinary] | Sequence[Flood]) -> list[dict[str, Any]]:
    """The rows as JSON can hold them; money as a string."""
    return [{key: _plain(value) for key, value in asdict(row).items()} for row in rows]


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Decimal) else value
