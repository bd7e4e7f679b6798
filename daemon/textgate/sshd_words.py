# SPDX-License-Identifier: MIT
"""Cuts sshd's files into words exactly as sshd does (strdelim and argv_split in OpenSSH's misc.c, servconf.c).

What a setting is worth is asked of sshd itself (pam_sshd): this file only finds the cases to ask about, and the line
to name. Text in, words out.
"""

from __future__ import annotations

from collections.abc import Iterator

_BLANKS = " \t\r\n"
_ESCAPED = ("'", '"', "\\")


def lines_of(text: str) -> list[str]:
    """The lines of a file. Only a line feed ends one: form feeds and the like are letters."""
    return [line.lstrip(" \t\r") for line in text.split("\n")]


def keyword_of(line: str) -> tuple[str, str] | None:
    """Keyword in lower case, and what follows it; None for a line without any. Raises ValueError for a lost quote."""
    line = line.rstrip(_BLANKS + "\f")
    keyword, rest = next_word(line)
    if not keyword:
        keyword, rest = next_word(rest)
    return None if not keyword or keyword.startswith("#") else (keyword.lower(), rest)


def next_word(text: str) -> tuple[str, str]:
    """The word up to a blank, a quote or one `=`, and what follows; quotes are taken off, wherever they begin.

    Raises ValueError where a quote is not closed.
    """
    end = next((at for at, char in enumerate(text) if char in _BLANKS or char in '"='), None)
    if end is None:
        return text, ""
    if text[end] == '"':
        closing = text.find('"', end + 1)
        if closing < 0:
            raise ValueError("a quote is not closed")
        return text[:end] + text[end + 1 : closing], text[closing + 1 :].lstrip(_BLANKS)
    rest = text[end + 1 :].lstrip(_BLANKS)
    if text[end] != "=" and rest.startswith("="):
        rest = rest[1:].lstrip(_BLANKS)
    return text[:end], rest


def words_of(text: str) -> list[str]:
    """The words behind a keyword: both kinds of quotes, backslashes, and a comment at the end.

    Raises ValueError where a quote is not closed.
    """
    return list(_words(text))


def _words(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        if text[at] in " \t":
            at += 1
            continue
        if text[at] == "#":
            return
        word, at = _word(text, at)
        yield word


def _word(text: str, at: int) -> tuple[str, int]:
    """The word that begins at a place, and the place behind it."""
    word, quote = "", ""
    while at < len(text):
        char = text[at]
        following = text[at + 1 : at + 2]
        if char == "\\" and (following in _ESCAPED or (not quote and following == " ")) and following:
            at += 1
            word += following
        elif not quote and char in " \t":
            break
        elif not quote and char in "\"'":
            quote = char
        elif quote == char:
            quote = ""
        else:
            word += char
        at += 1
    if quote:
        raise ValueError("a quote is not closed")
    return word, at


def criteria_of(condition: str) -> list[tuple[str, str]]:
    """What a Match line asks for: criterion in lower case, and argument. Raises ValueError for a lost quote.

    As releases before 10 read it, and as 10 does; where they differ both are given.
    """
    found: dict[tuple[str, str], None] = {}
    words, rest = [], condition
    while rest and not rest.startswith("#"):
        word, rest = next_word(rest)
        words.append(word)
    for kind, argument in zip(words[::2], [*words[1::2], ""], strict=False):
        found[kind.lower(), argument] = None
    queue = words_of(condition)
    while queue:
        kind, equals, argument = queue.pop(0).partition("=")
        if not equals and kind.lower() not in ("all", "invalid-user"):
            argument = queue.pop(0) if queue else ""
        found[kind.lower(), argument] = None
    return list(found)
