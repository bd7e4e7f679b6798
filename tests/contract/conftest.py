# SPDX-License-Identifier: MIT
"""What the tests against real Redis share: one server for the whole run, emptied and put right after each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from private_redis import PrivateRedis


@pytest.fixture(scope="session")
def redis_of_the_run() -> Iterator[PrivateRedis]:
    with PrivateRedis() as server:
        yield server


@pytest.fixture
def redis_server(redis_of_the_run: PrivateRedis) -> Iterator[PrivateRedis]:
    """A running, empty Redis; a test may break it in any way that `recover` undoes."""
    redis_of_the_run.clear()
    yield redis_of_the_run
    redis_of_the_run.recover()
