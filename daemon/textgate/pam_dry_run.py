# SPDX-License-Identifier: MIT
"""Runs textgate's own PAM lines on this machine against a pretended daemon: is wrong refused, and right let in?

The lines of /etc/pam.d/textgate go into a service of their own for the time of the run, with the helper's socket
turned to a scripted one. Nothing is texted and no user is touched; it proves that libpam, the module, the helper,
Python and the jumps between the lines work here.
"""

from __future__ import annotations

import secrets
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import TextgateError
from .pam_conversation import Style, authenticate

BLOCK = "/etc/pam.d/textgate"
HELPER = "/usr/libexec/textgate/pam-helper"
RIGHT, WRONG = "123456", "654321"
USER = "root"  # exists everywhere; nobody logs in

# What is typed, whether the stack must let in, and what it would mean if it did otherwise.
_RUNS: Sequence[tuple[tuple[str | None, ...], bool, str]] = (
    ((RIGHT,), True, "a right code is refused"),
    ((WRONG, RIGHT), True, "a right code is refused after a wrong one"),
    ((WRONG, WRONG, WRONG), False, "three wrong codes let in"),
    (("", "", ""), False, "empty answers let in"),
    ((None,), False, "giving up at the prompt lets in"),
)


def dry_run() -> tuple[str, ...]:
    """What is wrong with the lines as they are installed; empty if they work.

    Raises TextgateError when it can't be tried: not root, no python-pam, no such file.
    """
    faults = []
    with _pretended_daemon() as socket_path, _service(socket_path) as service:
        for typed, must_pass, meaning in _RUNS:
            answers = iter(typed)

            def converse(style: Style, _text: str, answers: Iterator[str | None] = answers) -> str | None:
                return next(answers, None) if style in (Style.PROMPT_HIDDEN, Style.PROMPT_SHOWN) else None

            if authenticate(service, USER, converse).is_success is not must_pass:
                faults.append(meaning)
    return tuple(faults)


@contextmanager
def _service(socket_path: str) -> Iterator[str]:
    """A PAM service of the moment that has textgate's lines and nothing before them."""
    try:
        text = Path(BLOCK).read_text()
    except OSError as error:
        raise TextgateError(f"{BLOCK}: can't be read: {error.strerror}", hint="install the package again") from None
    if HELPER not in text:
        raise TextgateError(f"{BLOCK}: does not call {HELPER}", hint="install the package's file again")
    name = f"textgate-dry-run-{secrets.token_hex(4)}"
    path = Path("/etc/pam.d", name)
    try:
        path.write_text(text.replace(HELPER, f"{HELPER} --socket {socket_path}"))
        yield name
    except PermissionError:
        raise TextgateError("the dry run needs a PAM service of its own", hint="run it with sudo") from None
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _pretended_daemon() -> Iterator[str]:
    """A socket whose other end asks for a code and knows one that is right (PROTOCOL.md)."""
    with (
        tempfile.TemporaryDirectory(prefix="textgate-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
    ):
        path = str(Path(folder, "auth.sock"))
        listener.bind(path)
        listener.listen()
        server = threading.Thread(target=_serve, args=(listener,), daemon=True)
        server.start()
        try:
            yield path
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            server.join()


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # the run is over
            return
        with connection, suppress(OSError):
            connection.settimeout(5)
            request = b""
            while chunk := connection.recv(65536):
                request += chunk
            connection.sendall(_answer(request.split(b"\0")))


def _answer(request: list[bytes]) -> bytes:
    if request[0] == b"textgate/1 begin":
        return b"ask\n"
    return b"pass\n" if b"CODE=" + RIGHT.encode() in request else b"deny\nThat code is not right."
