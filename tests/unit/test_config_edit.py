# SPDX-License-Identifier: MIT
"""Options are changed in a text, and nothing else is."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgate.config_edit import Value, set_option, toml_value

SHIPPED = (Path(__file__).parents[2] / "packaging/etc/textgate.toml").read_text()


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("gateway", "sender", "gate"),
        ("gateway", "text", 'say "{code}" \\ ok\n'),
        ("gateway", "api", "messaging"),
        ("limits", "allowed_countries", ["DK", "SE"]),
        ("phones", "default_region", "SE"),
        ("daemon", "workers", 3),
        ("new_section", "key", True),
    ],
)
def test_shipped_file_takes_an_option_and_keeps_its_comments(section: str, key: str, value: Value) -> None:
    changed = set_option(SHIPPED, section, key, value)
    assert tomllib.loads(changed)[section][key] == value
    assert [line for line in SHIPPED.splitlines() if line not in changed.splitlines()] in (
        [], ['allowed_countries = ["DK"]'],
    )  # fmt: skip
    assert set_option(changed, section, key, value) == changed


def test_option_stands_below_the_comment_that_shows_it() -> None:
    lines = set_option(SHIPPED, "gateway", "sender", "gate").splitlines()
    at = lines.index('sender = "gate"')
    assert lines[at - 1].startswith("#sender")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a]\nk = 1\n[b]\nk = 2\n", '[a]\nk = "x"\n[b]\nk = 2\n'),
        ("[b]\nk = 2\n", '[b]\nk = 2\n\n[a]\nk = "x"\n'),
        ("", '\n[a]\nk = "x"\n'),
        ('[a] # why\nk = [\n  "1", # ]\n  "]",\n]\nother = 1\n', '[a] # why\nk = "x"\nother = 1\n'),
        ("[a]\n# k = 1\nkk = 2\n", '[a]\n# k = 1\nk = "x"\nkk = 2\n'),
        ("[a]\nkk = 2", '[a]\nk = "x"\nkk = 2'),
        ("[a]\n  k=1  # spare\n", '[a]\nk = "x"\n'),
    ],
)
def test_rows(text: str, expected: str) -> None:
    assert set_option(text, "a", "k", "x") == expected
    assert tomllib.loads(expected)["a"]["k"] == "x"


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_is_a_toml_value(text: str) -> None:
    assert tomllib.loads(f"k = {toml_value(text)}\n")["k"] == text
