# SPDX-License-Identifier: MIT
"""The conversation with libpam, at the level of the C structures; libpam's own part is played here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from ctypes import POINTER, Structure, c_void_p, pointer
from typing import Any

import pam
import pytest

from textgate.errors import TextgateError
from textgate.pam_conversation import PAM_CONV_ERR, PAM_SUCCESS, PamResult, Style, authenticate
from textgate.session import LOGIN_TEST_TTY

PAM_AUTH_ERR = 7
internals: Any = sys.modules["pam.__internals"]

Asked = list[tuple[Style, str]]


class _Libpam:
    """Plays libpam and a stack that shows `messages` and then decides by the answers."""

    def __init__(self, messages: list[tuple[int, bytes | None]], expected: list[bytes | None]) -> None:
        self.messages = messages
        self.expected = expected
        self.conversation_code: int | None = None
        self.answers: list[bytes | None] = []
        self.started_with: tuple[bytes, bytes] | None = None
        self.ended_with: int | None = None
        self.items: dict[int, bytes] = {}
        self.start_code = PAM_SUCCESS
        self.libc = internals.cdll.LoadLibrary(None)

    def pam_start(self, service: bytes, user: bytes, conv: Any, _handle: Any) -> int:
        self.started_with = (service, user)
        self._conv = conv._obj
        return self.start_code

    def pam_authenticate(self, _handle: Structure, _flags: int) -> int:
        count = len(self.messages)
        structures = [internals.PamMessage(style, text) for style, text in self.messages]
        messages = (POINTER(internals.PamMessage) * count)(*map(pointer, structures))
        responses = POINTER(internals.PamResponse)()
        self.conversation_code = self._conv.conv(count, messages, pointer(responses), None)
        if self.conversation_code != PAM_SUCCESS:
            assert not responses  # nothing was allocated, so a module has nothing to free
            return PAM_AUTH_ERR
        self.answers = [responses[index].resp for index in range(count)]
        self._free(responses, count)
        return PAM_SUCCESS if self.answers == self.expected else PAM_AUTH_ERR

    def pam_set_item(self, _handle: Structure, item: int, value: Any) -> int:
        self.items[item] = value.value
        return PAM_SUCCESS

    def pam_strerror(self, _handle: Structure, code: int) -> bytes:
        return b"Success" if code == PAM_SUCCESS else b"Authentication failure \xff"

    def pam_end(self, _handle: Structure, code: int) -> None:
        self.ended_with = code

    def _free(self, responses: Any, count: int) -> None:
        """As modules do: what free() refuses was not allocated by calloc(), and would end the process."""
        self.libc.free.argtypes = [c_void_p]
        block = internals.cast(responses, POINTER(c_void_p * 2))
        for index in range(count):
            self.libc.free(block[index][0])
        self.libc.free(internals.cast(responses, c_void_p))


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., _Libpam]:
    def with_stack(messages: list[tuple[int, bytes | None]], expected: list[bytes | None]) -> _Libpam:
        libpam = _Libpam(messages, expected)
        monkeypatch.setattr(internals, "PamAuthenticator", lambda: libpam)
        return libpam

    return with_stack


def test_questions_are_asked_and_answers_reach_the_stack(play: Callable[..., _Libpam]) -> None:
    asked: Asked = []
    libpam = play(
        [(4, b"A code was sent."), (1, b"Code: "), (2, "Navn på: ".encode())], [None, b"123456", "å".encode()]
    )

    def converse(style: Style, text: str) -> str | None:
        asked.append((style, text))
        return {"Code: ": "123456", "Navn på: ": "å"}.get(text)

    assert authenticate("sshd", "alice", converse) == PamResult(PAM_SUCCESS, "Success")
    assert asked == [
        (Style.INFO, "A code was sent."),
        (Style.PROMPT_HIDDEN, "Code: "),
        (Style.PROMPT_SHOWN, "Navn på: "),
    ]
    assert libpam.started_with == (b"sshd", b"alice")
    assert libpam.items == {internals.PAM_TTY: LOGIN_TEST_TTY.encode()}  # which is how the daemon knows it for a test
    assert libpam.ended_with == PAM_SUCCESS


def test_wrong_answer_is_a_refusal(play: Callable[..., _Libpam]) -> None:
    libpam = play([(1, b"Code: ")], [b"123456"])
    result = authenticate("sshd", "alice", lambda _style, _text: "654321")
    assert (result.code, result.is_success) == (PAM_AUTH_ERR, False)
    assert result.reason == "Authentication failure \ufffd"
    assert libpam.ended_with == PAM_AUTH_ERR


def test_empty_answer_is_an_answer(play: Callable[..., _Libpam]) -> None:
    libpam = play([(1, b"Code: ")], [b""])
    assert authenticate("sshd", "alice", lambda _style, _text: "").is_success
    assert libpam.answers == [b""]


@pytest.mark.parametrize(
    "error",
    [EOFError(), KeyboardInterrupt(), OSError("the terminal is gone"), UnicodeDecodeError("utf-8", b"", 0, 1, "x")],
    ids=lambda error: type(error).__name__,
)
def test_aborted_prompt_is_a_conversation_error(play: Callable[..., _Libpam], error: BaseException) -> None:
    def abort(_style: Style, _text: str) -> str:
        raise error

    libpam = play([(1, b"Code: ")], [None])
    assert not authenticate("sshd", "alice", abort).is_success
    assert libpam.conversation_code == PAM_CONV_ERR


def test_prompt_without_an_answer_is_a_conversation_error(play: Callable[..., _Libpam]) -> None:
    libpam = play([(1, b"Code: ")], [None])
    assert not authenticate("sshd", "alice", lambda _style, _text: None).is_success
    assert libpam.conversation_code == PAM_CONV_ERR


def test_unknown_message_style_is_a_conversation_error(play: Callable[..., _Libpam]) -> None:
    libpam = play([(7, b"binary prompt")], [None])
    assert not authenticate("sshd", "alice", lambda _style, _text: "yes").is_success
    assert libpam.conversation_code == PAM_CONV_ERR


def test_message_may_be_missing_or_not_utf8(play: Callable[..., _Libpam]) -> None:
    asked: list[str] = []
    play([(4, None), (3, b"\xff")], [None, None])
    assert authenticate("sshd", "alice", lambda _style, text: asked.append(text)).is_success
    assert asked == ["", "\ufffd"]


def test_stack_that_cannot_be_started_is_an_error(play: Callable[..., _Libpam]) -> None:
    play([], []).start_code = 4
    with pytest.raises(TextgateError, match="can't be started") as caught:
        authenticate("nosuch", "alice", lambda _style, _text: "x")
    assert caught.value.hint == "see: ls /etc/pam.d"


def test_missing_python_pam_says_which_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pam", None)
    with pytest.raises(TextgateError, match="python-pam is not installed") as caught:
        authenticate("sshd", "alice", lambda _style, _text: "x")
    assert caught.value.hint == "apt install python3-pampy"


def test_python_pam_is_the_one_with_the_structures_used_here() -> None:
    assert hasattr(pam, "PamAuthenticator")
    assert {"conv_func", "PamConv", "PamHandle", "PamMessage", "PamResponse"} <= set(vars(internals))
