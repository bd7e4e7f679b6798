# SPDX-License-Identifier: MIT
"""The gateway's credit, asked for at most once a minute, however many people want to know.

Each question is a signed request to the vendor, which has limits of its own and may take seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .gateway_outcomes import Credit, SendReason

KEPT_S = 60.0
FAULT_KEPT_S = 10.0  # what was mended should show soon


class Account(Protocol):
    """What tells the credit."""

    def credit(self) -> Credit:
        """The account's balance, asked of the vendor."""


@dataclass(frozen=True)
class _Known:
    account: Account
    credit: Credit
    asked_at: float


class CreditCache:
    """The last answer and its age. Thread-safe; one thread asks at a time, the others wait for its answer."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: _Known | None = None
        self._asking = threading.Lock()

    def read(self, account: Account, *, is_fresh: bool = False) -> tuple[Credit, float]:
        """The credit, and how many seconds ago it was asked for.

        is_fresh: an answer to a question from now on. A gateway of after a reload is asked again, for its credentials
        may be others.
        """
        wanted_at = self._clock()
        with self._asking:
            known = self._known
            if known is None or known.account is not account or not self._is_good(known, wanted_at, is_fresh):
                known = self._known = _Known(account, account.credit(), self._clock())
        return known.credit, max(0.0, self._clock() - known.asked_at)

    def _is_good(self, known: _Known, wanted_at: float, is_fresh: bool) -> bool:
        if is_fresh:
            return known.asked_at >= wanted_at  # answered while this one waited
        has_answer = known.credit.amount is not None or known.credit.reason is SendReason.UNSUPPORTED
        return self._clock() - known.asked_at < (KEPT_S if has_answer else FAULT_KEPT_S)
