# SPDX-License-Identifier: MIT
"""This process's own count: no text is worth more tries than it has, and no code lets in twice."""

from __future__ import annotations

import pytest

from textgate import spent as module
from textgate.spent import KEPT_MS, Spent


def test_challenge_has_its_tries_and_no_more() -> None:
    spent = Spent()
    assert [spent.take("c1", most=3, now_ms=at) for at in range(5)] == [True, True, True, False, False]
    assert spent.take("c2", most=3, now_ms=5)


def test_code_is_used_once_and_tried_no_more() -> None:
    spent = Spent()
    assert spent.take("c1", most=3, now_ms=0)
    assert [spent.use("c1", now_ms=0), spent.use("c1", now_ms=0), spent.use("c1", now_ms=1)] == [True, False, False]
    assert not spent.take("c1", most=3, now_ms=2)
    assert spent.use("c2", now_ms=2)


@pytest.mark.parametrize(("after_ms", "is_known"), [(KEPT_MS - 1, True), (KEPT_MS, False)])
def test_challenge_is_remembered_for_longer_than_a_code_lives(after_ms: int, is_known: bool) -> None:
    spent = Spent()
    spent.use("c1", now_ms=0)
    assert spent.take("c1", most=3, now_ms=after_ms) is not is_known


def test_memory_is_bounded_and_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_MOST", 2)
    spent = Spent()
    for name in ("c1", "c2", "c3"):
        spent.use(name, now_ms=0)
    assert not spent.use("c3", now_ms=0)
    assert spent.use("c1", now_ms=0)
