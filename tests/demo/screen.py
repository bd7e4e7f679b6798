# SPDX-License-Identifier: MIT
"""What the demo shows: plain lines, dimmed remarks, texts in boxes. Colours only where a terminal is."""

from __future__ import annotations

import os
import sys
import textwrap

WIDTH = 88
BOX_WIDTH = 46
_STYLES = {"dim": "2", "bold": "1", "text": "36", "good": "32", "bad": "31"}


def say(text: str = "", style: str = "") -> None:
    """One or more lines. style: dim, bold, text, good or bad."""
    sys.stdout.write(painted(text, style) + "\n")
    sys.stdout.flush()


def painted(text: str, style: str) -> str:
    """Text with its style, line by line; as it is where nobody would see colours."""
    if not style or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return "\n".join(f"\x1b[{_STYLES[style]}m{line}\x1b[0m" if line else line for line in text.split("\n"))


def box(title: str, text: str) -> str:
    """A text on the right-hand side, as a phone shows it."""
    inner = BOX_WIDTH - 4
    rows = [row for line in text.splitlines() for row in textwrap.wrap(line, inner) or [""]]
    lines = [
        f"╭─ {title} {'─' * (BOX_WIDTH - len(title) - 5)}╮",
        *(f"│ {row.ljust(inner)} │" for row in rows),
        f"╰{'─' * (BOX_WIDTH - 2)}╯",
    ]
    return "\n".join(" " * (WIDTH - BOX_WIDTH) + line for line in lines)


def introduction(*, port: int, password: str, phone: str, is_real: bool) -> str:
    """What a person reads before she logs in herself, at most 60 columns wide."""
    where = f"Texts go to your phone, {phone}." if is_real else "Her phone is beside this."
    return f"""\
textgate: a code texted to your phone is the second step.

You are about to log in as alice, with her ssh key.
{where}

  1. Type the code of the text.
     (Try a wrong one first: it is refused.)
  2. Become root:           sudo whoami
     Alice's password is    {password}
     and there comes another code.
  3. End the demo:          exit

$ ssh alice@127.0.0.1 -p {port}
"""
