# SPDX-License-Identifier: MIT
"""The one way in which text from outside is made fit for a terminal, the journal, or JSON that is read on a terminal.

From outside is whatever textgate did not write itself: names, what Redis, the gateway, sshd, PAM and other programs
say, files, journal entries, and answers of the daemon to a command. Characters that don't print are escaped: controls
(ESC and the C1 codes, which command a terminal), bidi and other invisible format characters (which show one text as
another), line and paragraph separators, halves of characters.
"""

from __future__ import annotations

import json

FIELD_MAX_LENGTH = 256


def printable(untrusted: str, *, keeps: str = "", escapes: str = "", most: int | None = None) -> str:
    r"""The same text, with "\x1b" and the like where a character doesn't print.

    keeps: characters that may stay although they don't, such as "\n". escapes: printing ones that are to be escaped
    as well. most: longest result; what is longer ends in "...".
    """
    if not (untrusted.isprintable() and not escapes):
        untrusted = "".join(
            char if char in keeps or (char.isprintable() and char not in escapes) else _escaped(char)
            for char in untrusted
        )
    return untrusted if most is None or len(untrusted) <= most else untrusted[: most - 3] + "..."


def printable_field(untrusted: str) -> str:
    """For a field of the journal: one line, not too long, and no two texts look the same."""
    return printable(untrusted, escapes='\\"', most=FIELD_MAX_LENGTH)


def printable_lines(untrusted: str) -> str:
    """For text of several lines, such as a change of a file: line feeds and tabs stay."""
    return printable(untrusted, keeps="\n\t")


def printable_json(document: object) -> str:
    """One line of JSON that says exactly this and may be looked at: what doesn't print is written as \\uXXXX."""
    text = json.dumps(document, ensure_ascii=False)
    # Outside of strings JSON has printing characters only, so what is escaped here stands in a string.
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _escaped(character: str) -> str:
    return '\\"' if character == '"' else character.encode("unicode_escape").decode()
