# SPDX-License-Identifier: MIT
"""When a part counts as away, for which [failmode] may let in: a positive list, and all else is a denial.

What a user of this machine can bring about is not on it: ports, descriptors, memory or threads that are used up, a
disk that is full, a load under which answers come late, a name that isn't found, a certificate or a clock that is
wrong, a limit of the other side's that whoever shares our address can fill. Nor is a part that takes connections and
then answers badly: it is there.
"""

from __future__ import annotations

import errno

from .gateway_outcomes import Outcome, SendReason

# Nobody takes a connection at that address. Each comes from the other end or from the way there; of those that come
# from this machine, ENOENT (no socket) and the two of the network take root's hand.
AWAY_ERRNOS = frozenset(
    {
        errno.ENOENT,
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
    }
)

# How a text ends where the gateway is away. Not RESET, THROTTLED and TIMEOUT: the gateway takes 40 connections from
# one address, and breaks off, puts off or leaves waiting what is more; any user can open them. So silence counts only
# where no connection was taken. Not DNS: a look-up fails where ports or descriptors are used up. Not TLS: a wrong
# clock does that. Not DEADLINE: our own time was used up.
AWAY_REASONS = frozenset({SendReason.UNREACHABLE, SendReason.SERVER_ERROR})

# The same as the store keeps it, `OUTCOME:REASON`.
AWAY_STATES = frozenset(
    f"{outcome.value}:{reason.value}" for outcome in (Outcome.REFUSED, Outcome.UNKNOWN) for reason in AWAY_REASONS
)


def is_absence(error: BaseException | None) -> bool:
    """Whether an error says that nobody takes a connection."""
    return isinstance(error, OSError) and error.errno in AWAY_ERRNOS
