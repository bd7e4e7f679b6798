# SPDX-License-Identifier: MIT
"""sshd's files cut into words, and the logins that a Match line may be for. tests/integration asks sshd itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textgate.sshd_cases import GUESSES_MAX, STRANGER, SshLogin, guesses
from textgate.sshd_words import criteria_of, keyword_of, lines_of, next_word, words_of

LINES = [  # as `sshd -T` of OpenSSH 9.2 reads them
    ("Port 22", ("port", "22")),
    ("  Port\t22  ", ("port", "22")),
    ("Port=22", ("port", "22")),
    ("Port = 22", ("port", "22")),
    ("Port =22", ("port", "22")),
    ("Port==22", ("port", "=22")),
    ('"Port" 22', ("port", "22")),
    ('Po"rt" 22', ("port", "22")),
    ('Port"22"', ("port22", "")),
    ("'Port' 22", ("'port'", "22")),
    ("Port 22\r", ("port", "22")),
    ("Port 22 \f", ("port", "22")),
    ("Port\f22", ("port\f22", "")),
    ("#Port 22", None),
    ("", None),
    (" \t", None),
    ("Port # x", ("port", "# x")),
]


@pytest.mark.parametrize(("line", "found"), LINES)
def test_keyword_of_a_line(line: str, found: tuple[str, str] | None) -> None:
    assert keyword_of(line) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b\tc", ["a", "b", "c"]),
        ('"a b" c', ["a b", "c"]),
        ("'a \"b' c", ['a "b', "c"]),
        ('a"b c"d', ["ab cd"]),
        ("a\\ b", ["a b"]),
        ('"a\\ b"', ["a\\ b"]),
        ("\\\"a\\' \\\\b \\c", ["\"a'", "\\b", "\\c"]),
        ("a #b", ["a"]),
        ("a#b", ["a#b"]),
        ("#", []),
        ('"" b', ["", "b"]),
        ("a\\", ["a\\"]),
    ],
)
def test_words_behind_a_keyword(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@pytest.mark.parametrize("text", ['"a', "'a", 'a "', "a'b c"])
def test_lost_quotes_are_no_words(text: str) -> None:
    with pytest.raises(ValueError, match="quote"):
        words_of(text)


def test_keyword_with_a_lost_quote_is_none() -> None:
    with pytest.raises(ValueError, match="quote"):
        keyword_of('"Port 22')


def test_line_feeds_alone_end_lines() -> None:
    assert lines_of("a\n\tb\x0b\f\x85\u2028c\r\nd") == ["a", "b\x0b\f\x85\u2028c\r", "d"]


@given(st.text(alphabet="aA \t=\"'\\#\r\n\f*", max_size=30))
def test_junk_is_words_or_a_fault(text: str) -> None:
    for read in (keyword_of, next_word, words_of, criteria_of):
        try:
            read(text)
        except ValueError as error:
            assert "quote" in str(error)


@pytest.mark.parametrize(
    ("condition", "criteria"),
    [
        ("User bob", [("user", "bob")]),
        ("USER bob,al* Address 10.0.0.0/8", [("user", "bob,al*"), ("address", "10.0.0.0/8")]),
        ("User=bob", [("user", "bob")]),
        ("all", [("all", "")]),
        ("User bob # Group x", [("user", "bob")]),
        ('User "a b"', [("user", "a b")]),
        ("invalid-user", [("invalid-user", "")]),
    ],
)
def test_criteria_of_a_match_line(condition: str, criteria: list[tuple[str, str]]) -> None:
    assert criteria_of(condition) == criteria


def nobody(_is_wanted: Callable[[str], bool]) -> list[str]:
    return []


@pytest.mark.parametrize(
    ("matches", "field", "value"),
    [
        (("User bob",), "user", "bob"),
        (("User a?c*",), "user", "axcx"),
        (("User !alice,*",), "user", "alice"),  # sshd will say no, and yes to another
        (("Host *.example.org",), "host", "x.example.org"),
        (("Address 10.1.0.0/16",), "addr", "10.1.0.0"),
        (("Address 2001:db8::/32",), "addr", "2001:db8::"),
        (("Address 10.1.*",), "addr", "10.1.1"),
        (("LocalAddress 10.1.2.3",), "laddr", "10.1.2.3"),
        (("LocalPort 2222",), "lport", "2222"),
        (("RDomain blue",), "rdomain", "blue"),
        (("User bob", "Address 10.0.0.1"), "addr", "10.0.0.1"),
        (("User !bob",), "user", STRANGER.user),
        (("Version 10",), "user", STRANGER.user),
    ],
)
def test_logins_that_a_block_may_be_for(matches: tuple[str, ...], field: str, value: str) -> None:
    found = guesses(matches, ["alice"], nobody)
    assert value in {getattr(one, field) for one in found}
    assert len(found) <= GUESSES_MAX


def test_groups_are_asked_for_their_members() -> None:
    found = guesses(["Group web,!sudo"], [], lambda is_wanted: [name for name in ("web", "mail") if is_wanted(name)])
    assert found[0].user == "web"
    assert "mail" not in {one.user for one in found}


def test_more_guesses_than_enough_are_cut() -> None:
    line = "User " + ",".join(f"u{n}" for n in range(500))
    assert len(guesses([line, line.replace("User", "Host")], [], nobody)) == GUESSES_MAX


def test_comma_can_not_be_told_to_sshd() -> None:
    assert not SshLogin("a,b").can_be_asked
    assert "a,b" not in {one.user for one in guesses(["User x"], ["a,b"], nobody)}
