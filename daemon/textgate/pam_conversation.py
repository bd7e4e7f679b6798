# SPDX-License-Identifier: MIT
"""Runs a PAM stack and asks its questions, through python-pam's binding of libpam.

python-pam's own `authenticate` answers every prompt with one password, which is no conversation; its structures and
functions are used here with a conversation that asks the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import CDLL, POINTER, byref, c_char, c_char_p, c_int, c_size_t, c_void_p, cast, memmove, sizeof
from ctypes.util import find_library
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from .errors import TextgateError
from .session import LOGIN_TEST_TTY


class Style(IntEnum):
    """What a message wants (pam_conv(3))."""

    PROMPT_HIDDEN = 1
    PROMPT_SHOWN = 2
    ERROR = 3
    INFO = 4


PAM_SUCCESS = 0
PAM_ESTABLISH_CRED = 2
PAM_CONV_ERR = 19

# Gets style and text of a message; returns the answer to a prompt, or None to give up.
Converse = Callable[[Style, str], str | None]


@dataclass(frozen=True)
class PamResult:
    """How the stack ended. code: as in pam_return(5); reason: libpam's words for it."""

    code: int
    reason: str

    @property
    def is_success(self) -> bool:
        """Whether the stack let in."""
        return self.code == PAM_SUCCESS


def authenticate(
    service: str, user: str, converse: Converse, *, confdir: str | None = None, sets_credentials: bool = False
) -> PamResult:
    """Run the auth stack of a service for a user.

    confdir: a folder that libpam reads in the place of /etc/pam.d. sets_credentials: whether pam_setcred follows a
    success, as in every login; its result counts then.
    Raises TextgateError when python-pam isn't installed or the stack can't be started.
    """
    calls = ["pam_authenticate", *(["pam_setcred"] if sets_credentials else [])]
    return _run(calls, service, user, converse, confdir)


def set_credentials(service: str, user: str, *, confdir: str) -> PamResult:
    """Run pam_setcred alone, as sshd does: on a handle that has seen no authentication. Raises as `authenticate`."""
    return _run(["pam_setcred"], service, user, lambda _style, _text: None, confdir)


def _run(calls: Sequence[str], service: str, user: str, converse: Converse, confdir: str | None) -> PamResult:
    """Calls functions of libpam on one handle until one of them fails."""
    try:
        from pam import __internals as pam
    except ImportError:
        raise TextgateError("python-pam is not installed", hint="apt install python3-pampy") from None
    libpam = pam.PamAuthenticator()
    handle = pam.PamHandle()

    @pam.conv_func  # type: ignore[untyped-decorator]
    def conversation(count: int, messages: Any, responses: Any, _data: Any) -> int:
        try:
            answers = [_answer(messages[index].contents, converse) for index in range(count)]
        except (EOFError, KeyboardInterrupt, OSError, ValueError):  # ctypes would make a success of what gets out
            return PAM_CONV_ERR
        if any(is_needed and answer is None for is_needed, answer in answers):
            return PAM_CONV_ERR
        responses[0] = _responses(libpam.libc, pam.PamResponse, [answer for _, answer in answers])
        return PAM_SUCCESS

    conv = pam.PamConv(conversation, None)
    names = (service.encode(), user.encode())
    if confdir is None:
        code = libpam.pam_start(*names, byref(conv), byref(handle))
    else:
        code = _start_confdir(pam)(*names, byref(conv), confdir.encode(), byref(handle))
    if code != PAM_SUCCESS:
        raise TextgateError(f"the PAM service can't be started (code {code})", hint="see: ls /etc/pam.d")
    libpam.pam_set_item(handle, pam.PAM_TTY, c_char_p(LOGIN_TEST_TTY.encode()))  # nobody is to take it for a login
    flags = {"pam_authenticate": 0, "pam_setcred": PAM_ESTABLISH_CRED}
    for call in calls:
        code = getattr(libpam, call)(handle, flags[call])
        if code != PAM_SUCCESS:
            break
    reason = libpam.pam_strerror(handle, code).decode(errors="replace")
    libpam.pam_end(handle, code)
    return PamResult(code, reason)


def _start_confdir(pam: Any) -> Any:
    """pam_start_confdir(3), which python-pam has no binding for."""
    start = CDLL(find_library("pam")).pam_start_confdir
    start.restype = c_int
    start.argtypes = [c_char_p, c_char_p, POINTER(pam.PamConv), c_char_p, POINTER(pam.PamHandle)]
    return start


def _answer(message: Any, converse: Converse) -> tuple[bool, str | None]:
    """Whether a message wants an answer, and the answer."""
    style = Style(message.msg_style)
    answer = converse(style, (message.msg or b"").decode(errors="replace"))
    return style in (Style.PROMPT_HIDDEN, Style.PROMPT_SHOWN), answer


def _responses(libc: Any, response_type: Any, answers: list[str | None]) -> Any:
    """Answers in memory that libpam's modules will free (pam_conv(3))."""
    libc.calloc.restype = c_void_p
    libc.calloc.argtypes = [c_size_t, c_size_t]
    block = libc.calloc(len(answers), sizeof(response_type))
    response = cast(block, POINTER(response_type))
    for index, answer in enumerate(answers):
        if answer is not None:
            data = answer.encode()
            copy = libc.calloc(len(data) + 1, sizeof(c_char))
            memmove(copy, data, len(data))
            response[index].resp = copy
    return response
