# SPDX-License-Identifier: MIT
"""Changes options in the text of a configuration and leaves every other line, comments included, as it is."""

from __future__ import annotations

import json
import re

Value = str | int | bool | list[str]


def set_option(text: str, section: str, key: str, value: Value) -> str:
    """The text with `key = value` in [section].

    A line that sets the key is replaced; one that shows its default as a comment (`#key = ...`) gets it below; else
    it goes to the top of the section, which is made at the end if there is none.
    """
    lines = text.split("\n")
    head = f"[{section}]"
    starts = [at for at, line in enumerate(lines) if line.split("#")[0].strip() == head]
    new = f"{key} = {toml_value(value)}"
    if not starts:
        return "\n".join([*lines, head, new, ""]) if lines[-1] else "\n".join([*lines[:-1], "", head, new, ""])
    first = starts[0] + 1
    end = next((at for at in range(first, len(lines)) if re.match(r"\s*\[", lines[at])), len(lines))
    for at in range(first, end):
        if re.match(rf"\s*{re.escape(key)}\s*=", lines[at]):
            last = _last_line(lines, at, end)
            return "\n".join([*lines[:at], new, *lines[last + 1 :]])
    for at in range(first, end):
        if re.match(rf"#\s?{re.escape(key)}\s*=", lines[at]):
            return "\n".join([*lines[: at + 1], new, *lines[at + 1 :]])
    return "\n".join([*lines[:first], new, *lines[first:]])


def _last_line(lines: list[str], at: int, end: int) -> int:
    """The last line of a value that starts at `at`: a list may go on over several."""
    depth = 0
    for number in range(at, end):
        bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", lines[number]).partition("#")[0]
        depth += bare.count("[") - bare.count("]")
        if depth <= 0:
            return number
    return at


def toml_value(value: Value) -> str:
    """A value as TOML writes it: as JSON does, whose strings, numbers and lists are TOML's too, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
