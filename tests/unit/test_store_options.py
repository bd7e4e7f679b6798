# SPDX-License-Identifier: MIT
"""What the store asks of redis-py, in its versions of Debian 12 (4.3) and 13 (6.1)."""

from __future__ import annotations

import pytest
import redis

from textgate import store


class Telling:
    """A connection as of redis-py 5 and newer."""

    def __init__(self, db: int = 0, lib_name: str | None = "redis-py", lib_version: str | None = "6.1") -> None: ...


class Driven:
    """One of 8: None means no name, and leaving it out the usual one."""

    def __init__(self, db: int = 0, lib_name: object = ..., driver_info: object = ...) -> None: ...


class HalfDriven:
    """Between the two: None means the usual name."""

    def __init__(self, db: int = 0, lib_name: object = ..., driver_info: None = None) -> None: ...


class Silent:
    """One of 4.3, which says nothing of itself."""

    def __init__(self, db: int = 0) -> None: ...


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Telling, {"lib_name": None, "lib_version": None}),
        (HalfDriven, {"lib_name": None}),
        (Driven, {"driver_info": None}),
        (Silent, {}),
    ],
)
def test_client_does_not_tell_its_name(kind: type, options: dict[str, None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis.connection, "AbstractConnection", kind, raising=False)
    assert store._nameless() == options
