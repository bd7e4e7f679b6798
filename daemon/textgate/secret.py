# SPDX-License-Identifier: MIT
"""A value that must not show itself: `repr`, `str` and formatting give a fixed word."""

from __future__ import annotations

import hmac


class Secret:
    """Text to be kept out of logs and exceptions. `reveal()` is the one way to it, easy to search for."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself; pass it on at once, keep it nowhere."""
        return self._value

    def __repr__(self) -> str:
        return "<secret>"

    __str__ = __repr__

    def __format__(self, _format_spec: str) -> str:
        return "<secret>"

    def __eq__(self, other: object) -> bool:
        """Equal in constant time for texts of one length."""
        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    __hash__ = None  # type: ignore[assignment]  # a secret is no dictionary key

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a secret is not pickled")
