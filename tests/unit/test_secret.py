# SPDX-License-Identifier: MIT
"""A secret shows itself to nobody who doesn't ask for it by name."""

from __future__ import annotations

import copy
import json
import pickle
import traceback

import pytest

from textgate.secret import Secret

WORD = "hunter2-hunter2"


def test_secret_reveals_its_text_when_asked() -> None:
    assert Secret(WORD).reveal() == WORD


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        "{}".format,
        "{!r}".format,
        "{:>40}".format,  # a width must not bring the text out
        "{0:s}".format,
        lambda secret: f"{secret}",
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031
        lambda secret: str([secret]),
        lambda secret: str({"key": secret}),
        lambda secret: "".join(traceback.format_exception(ValueError(secret))),
    ],
)
def test_secret_does_not_show_itself(show: object) -> None:
    shown = show(Secret(WORD))  # type: ignore[operator]
    assert "<secret>" in shown
    assert WORD not in shown


def test_secret_is_neither_pickled_nor_copied_nor_serialised() -> None:
    for leave in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps):
        with pytest.raises(TypeError):
            leave(Secret(WORD))


def test_secret_has_no_dictionary_of_attributes() -> None:
    with pytest.raises(TypeError):
        vars(Secret(WORD))


@pytest.mark.parametrize(
    ("other", "is_equal"),
    [
        (Secret(WORD), True),
        (Secret(WORD + " "), False),
        (Secret(""), False),
        (Secret("hunter2-hunteR2"), False),
        (Secret("æøå"), False),  # outside ASCII
        (WORD, False),  # plain text is no secret, even the same
        (None, False),
    ],
)
def test_secret_equals_only_the_same_secret(other: object, is_equal: bool) -> None:
    assert (Secret(WORD) == other) is is_equal


def test_secret_is_no_dictionary_key() -> None:
    with pytest.raises(TypeError):
        hash(Secret(WORD))
