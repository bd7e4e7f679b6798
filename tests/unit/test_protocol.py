# SPDX-License-Identifier: MIT
"""The auth socket's bytes: what is a request, what is not, and how an answer looks."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from textgate import texts
from textgate.errors import ProtocolError
from textgate.protocol import (
    FIELDS,
    REPLY_TEXT_MAX_LENGTH,
    REQUEST_MAX_BYTES,
    Reply,
    Request,
    Verb,
    Word,
    format_reply,
    parse_request,
)


def _request(verb: str, fields: dict[str, str]) -> bytes:
    return "\0".join([f"textgate/1 {verb}", *(f"{name}={value}" for name, value in fields.items())]).encode()


def _reason(untrusted: bytes) -> str:
    with pytest.raises(ProtocolError) as caught:
        parse_request(untrusted)
    return caught.value.reason


FULL = {name: f"value of {name}" for name in sorted(FIELDS)}


def test_begin_with_every_field_is_read() -> None:
    request = parse_request(_request("begin", FULL))
    assert request.verb is Verb.BEGIN
    assert dict(request.fields) == FULL
    assert request.code is None


def test_check_has_the_code_apart_from_the_fields() -> None:
    request = parse_request(_request("check", FULL | {"CODE": "123456"}))
    assert request.verb is Verb.CHECK
    assert dict(request.fields) == FULL
    assert request.code is not None
    assert request.code.reveal() == "123456"
    assert "123456" not in repr(request)


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        ("", "an empty value is a value"),
        ("a=b=c", "only the first = parts"),
        ("two\nlines\r\n", "line feeds are allowed"),
        ("æøå \U0001f511", "UTF-8"),
        (" ", "a blank"),
    ],
)
def test_value_may_be_anything_but_nul(value: str, meaning: str) -> None:
    assert parse_request(_request("begin", {"PAM_USER": value})).fields["PAM_USER"] == value, meaning


def test_empty_code_is_a_code() -> None:
    code = parse_request(_request("check", {"CODE": ""})).code
    assert code is not None
    assert code.reveal() == ""


def test_fields_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        parse_request(_request("begin", FULL)).fields["PAM_USER"] = "root"  # type: ignore[index]


@pytest.mark.parametrize(
    ("untrusted", "reason"),
    [
        (b"", "version"),
        (b"\0", "version"),
        (b"begin", "version"),
        (b"textgate/2 begin", "version"),
        (b"textgate/1\0PAM_USER=a", "verb"),  # no verb at all
        (b"textgate/1 ", "verb"),
        (b"textgate/1 BEGIN", "verb"),
        (b"textgate/1 begin ", "verb"),  # exactly one blank, and nothing after the verb
        (b"textgate/1  begin", "verb"),
        (b"textgate/1 begin\n", "verb"),
        (b"textgate/1 pass", "verb"),  # a word of the answer
        (b" textgate/1 begin", "version"),
        (b"\xef\xbb\xbftextgate/1 begin", "version"),  # a byte order mark
        (b"textgate/1 begin\0", "field_form"),  # a NUL at the end begins a field
        (b"textgate/1 begin\0PAM_USER", "field_form"),
        (b"textgate/1 begin\0PAM_USER=a\0\0PPID=1", "field_form"),
        (b"textgate/1 begin\0=a", "field_unknown"),
        (b"textgate/1 begin\0LD_PRELOAD=/x", "field_unknown"),
        (b"textgate/1 begin\0pam_user=a", "field_unknown"),
        (b"textgate/1 begin\0PAM_USER =a", "field_unknown"),
        (b"textgate/1 begin\0PAM_USER=a\0PAM_USER=a", "field_twice"),  # even with one value
        (b"textgate/1 begin\0PAM_USER=alice\0PAM_USER=root", "field_twice"),
        (b"textgate/1 check\0CODE=1\0CODE=1", "field_twice"),
        (b"textgate/1 check\0PAM_USER=a", "code_missing"),
        (b"textgate/1 begin\0CODE=123456", "code_unexpected"),
        (b"textgate/1 begin\0CODE=", "code_unexpected"),  # even an empty one
        (b"textgate/1 begin\0PAM_USER=\xff", "not_utf8"),
        (b"textgate/1 begin\0PAM_USER=\xed\xa0\x80", "not_utf8"),  # a surrogate
        (b"textgate/1 begin\0PAM_USER=\xc0\x80", "not_utf8"),  # an overlong NUL
        (b"textgate/1 begin\0PAM_USER=\xc3", "not_utf8"),  # cut within a character
    ],
)
def test_request_that_breaks_a_rule_has_a_reason(untrusted: bytes, reason: str) -> None:
    assert _reason(untrusted) == reason


def test_request_may_have_exactly_the_longest_size() -> None:
    head = b"textgate/1 begin\0SSH_AUTH_INFO_0="
    longest = head + b"x" * (REQUEST_MAX_BYTES - len(head))
    assert len(parse_request(longest).fields["SSH_AUTH_INFO_0"]) == REQUEST_MAX_BYTES - len(head)
    assert _reason(longest + b"x") == "too_long"


def test_error_never_repeats_what_was_sent() -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_request(b"textgate/1 begin\0EVIL=\x1b[2J\0hunter2")
    assert "hunter2" not in repr(caught.value) + str(caught.value)
    assert "EVIL" not in repr(caught.value) + str(caught.value)


@given(st.binary())
@example(b"textgate/1 check\0CODE=\xe2\x80\xae")
def test_bytes_are_a_request_or_a_protocol_error(untrusted: bytes) -> None:
    for data in (untrusted, b"textgate/1 begin\0" + untrusted, b"textgate/1 check\0CODE=" + untrusted):
        try:
            assert isinstance(parse_request(data), Request)
        except ProtocolError as error:
            assert error.reason.replace("_", "").isalnum()


_VALUES = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), _VALUES), st.none() | _VALUES)
def test_request_says_what_was_put_into_it(fields: dict[str, str], code: str | None) -> None:
    verb = "begin" if code is None else "check"
    request = parse_request(_request(verb, fields if code is None else fields | {"CODE": code}))
    assert dict(request.fields) == fields
    assert (request.code.reveal() if request.code else None) == (code if code is not None else None)


# --- Answers ---


@pytest.mark.parametrize(
    ("reply", "raw"),
    [
        (Reply(Word.SKIP), b"skip\n"),
        (Reply(Word.PASS), b"pass\n"),
        (Reply(Word.ASK, texts.SENT), b"ask\n" + texts.SENT.encode()),
        (Reply(Word.DENY, "æ"), b"deny\n\xc3\xa6"),
    ],
)
def test_answer_is_word_line_feed_text(reply: Reply, raw: bytes) -> None:
    assert format_reply(reply) == raw


def test_answer_is_cut_to_its_longest_by_characters() -> None:
    exactly = "æ" * REPLY_TEXT_MAX_LENGTH
    assert format_reply(Reply(Word.DENY, exactly)).decode() == f"deny\n{exactly}"
    assert format_reply(Reply(Word.DENY, exactly + "x")).decode() == f"deny\n{exactly}"


def test_what_stays_in_the_process_is_not_sent() -> None:
    assert format_reply(Reply(Word.DENY, "no", wait_s=17.5)) == b"deny\nno"


@given(st.sampled_from(Word), st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_answer_can_be_read_back(word: Word, text: str) -> None:
    shown, _, rest = format_reply(Reply(word, text)).decode().partition("\n")
    assert (shown, rest) == (word.value, text[:REPLY_TEXT_MAX_LENGTH])
