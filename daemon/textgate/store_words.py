# SPDX-License-Identifier: MIT
"""What people are told of a store that went back: in `textgate status` and by doctor."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from .finding import Finding
from .guard_faults import Level

SHOWN_S = 14 * 86400  # so long status and doctor tell of it; by then the codes are made anew, or nobody had any
REMEDY = "textgate recovery USER, for everybody who had recovery codes"

_WHAT = {
    "older": "Redis' data were older than what textgated had seen",
    "elsewhere": "Redis' data were older than what another host had seen",
    "emptied": "Redis was emptied",
    "other": "Redis was another one than before",
}


def went_back(store: Mapping[str, Any], now_s: float) -> str | None:
    """One sentence, lower case without a full stop, of what a daemon's status says of its store; None for nothing."""
    what, at_s = _WHAT.get(str(store.get("noticed"))), store.get("noticed_at")
    if what is None or not isinstance(at_s, int) or now_s - at_s > SHOWN_S:
        return None
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(at_s))
    return f"{when}: {what}; recovery codes and tokens made before are void"


def history_findings(store: Mapping[str, Any], now_s: float) -> Iterator[Finding]:
    """A warning for a store that went back of late."""
    told = went_back(store, now_s)
    if told:
        yield Finding("redis", Level.WARNING, told, REMEDY)
