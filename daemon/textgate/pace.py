# SPDX-License-Identifier: MIT
"""How real texts went lately, so that a login to which nothing is sent takes as long and says the same.

What is said is what the last one came to. How long it takes lies between two of the last ones, chosen by chance: real
texts never take the very same time twice, so a time that came again would tell that nothing was sent.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from .gateway_outcomes import Outcome, SendReason, SendResult

KEPT = 4  # when the gateway becomes slower or faster, what is pretended follows within as many texts
# Before the first one: what an answer of the gateway may take.
_FIRST = tuple(
    SendResult(Outcome.SENT, SendReason.ACCEPTED, attempt_count=1, duration_s=duration_s)
    for duration_s in (0.08, 0.16)
)
_chance = secrets.SystemRandom()


class Pace:
    """Thread-safe."""

    def __init__(self) -> None:
        # One reference, replaced as a whole: readers on other threads see the old or the new one. All of one end.
        self._recent: tuple[SendResult, ...] = _FIRST

    def note(self, result: SendResult) -> None:
        """Remember a real text, unless how it ended is about its number: of nobody else's would be said the same."""
        if not result.concerns_all:
            return
        kept = SendResult(result.outcome, result.reason, result.attempt_count, result.duration_s)
        former = self._recent if self._recent is not _FIRST else ()
        alike = [one for one in former if (one.outcome, one.reason) == (kept.outcome, kept.reason)]
        self._recent = (*alike, kept)[-KEPT:]

    def read(self) -> SendResult:
        """Outcome and reason of the last real text, and a duration as such texts had."""
        recent = self._recent
        one, other = _chance.choice(recent), _chance.choice(recent)
        between_s = _chance.uniform(one.duration_s, other.duration_s)
        return replace(recent[-1], duration_s=between_s)
