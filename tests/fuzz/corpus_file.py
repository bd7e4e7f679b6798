# SPDX-License-Identifier: MIT
"""A corpus as a text file: one input a line, as a Python bytes literal, in order."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

CORPUS = Path(__file__).with_name("corpus")
INPUT_MAX_BYTES = 2000
INPUTS_MAX = 60  # for one target: what new code paths need, not every variation


def read(target: str) -> list[bytes]:
    """The inputs of a target. Raises ValueError for a line that is none."""
    inputs = []
    for line in (CORPUS / f"{target}.txt").read_text().splitlines():
        value = ast.literal_eval(line)
        if not isinstance(value, bytes):
            raise ValueError(f"{target}: a line is no bytes literal")
        inputs.append(value)
    return inputs


def write(target: str, inputs: Iterable[bytes]) -> int:
    """Replace them by these, the shortest of them; answers how many there are now."""
    usable = sorted({one for one in inputs if len(one) <= INPUT_MAX_BYTES}, key=lambda one: (len(one), one))
    (CORPUS / f"{target}.txt").write_text("".join(f"{one!r}\n" for one in sorted(usable[:INPUTS_MAX])))
    return min(len(usable), INPUTS_MAX)
