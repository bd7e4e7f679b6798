# SPDX-License-Identifier: MIT
"""Runs textgate's PAM lines on this machine against a pretended daemon: is wrong refused, and right let in?

libpam gets a folder of its own in the place of /etc/pam.d, with /etc/pam.d/textgate whose helper calls a scripted
socket. Nothing is texted, no user is touched, and nothing is written outside of /run. It proves that libpam, the
module, the helper, Python and the jumps between the lines work here, alone and as part of a service's stack, whose
other modules are stood in for by pam_permit.
"""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import TextgateError
from .pam_conversation import Style, authenticate
from .pam_stack import Rule, is_ours, read_stack

BLOCK = "/etc/pam.d/textgate"
HELPER = "/usr/libexec/textgate/pam-helper"
RUN_DIR = "/run"
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


def dry_run(rules: Sequence[Rule] | None = None) -> tuple[str, ...]:
    """What is wrong with the lines as they are installed; empty if they work.

    rules: the stack of a service that has them; without it, the lines are run alone.
    Raises TextgateError when it can't be tried: no python-pam, no such file, no room in /run.
    """
    try:
        text = Path(BLOCK).read_text(errors="surrogateescape")  # as PamAdmin.read_pam
    except OSError as error:
        raise TextgateError(f"{BLOCK}: can't be read: {error.strerror}", hint="install the package again") from None
    if HELPER not in text:
        raise TextgateError(f"{BLOCK}: does not call {HELPER}", hint="install the package's file again")
    if rules is None:
        rules = read_stack("textgate", lambda _name: text)
    try:
        with tempfile.TemporaryDirectory(prefix="textgate-dry-run-", dir=RUN_DIR) as folder:
            return _run(rules, Path(folder))
    except OSError as error:
        raise TextgateError(f"the dry run could not be made: {error.strerror}", hint="run it with sudo") from None


def _run(rules: Sequence[Rule], folder: Path) -> tuple[str, ...]:
    confdir = folder / "pam.d"
    confdir.mkdir()
    socket_path = str(folder / "auth.sock")
    for name, lines in stand_in(rules, socket_path, confdir).items():
        (confdir / name).write_text("\n".join(lines) + "\n")
    faults = []
    with _pretended_daemon(socket_path):
        for typed, must_pass, meaning in _RUNS:
            answers = iter(typed)

            def converse(style: Style, _text: str, answers: Iterator[str | None] = answers) -> str | None:
                return next(answers, None) if style in (Style.PROMPT_HIDDEN, Style.PROMPT_SHOWN) else None

            if authenticate("dry-run", USER, converse, confdir=str(confdir)).is_success is not must_pass:
                faults.append(meaning)
    return tuple(faults)


def stand_in(rules: Iterable[Rule], socket_path: str, confdir: Path) -> dict[str, list[str]]:
    """Files for libpam, by name, "dry-run" first: textgate's lines with another socket, and for each other module
    pam_permit, or pam_deny where that is what it is.
    """
    files: dict[str, list[str]] = {"dry-run": []}
    open_files = ["dry-run"]
    for rule in rules:
        open_files = open_files[: rule.level + 1]
        lines = files[open_files[-1]]
        if rule.is_substack:
            name = f"dry-run-{len(files)}"
            files[name] = []
            lines.append(f"auth substack {confdir / name}")  # Debian's libpam would look in /etc/pam.d
            open_files.append(name)
            continue
        control = " ".join(f"{answer}={action}" for answer, action in rule.actions.items())
        lines.append(f"auth [{control}] {_words(rule, socket_path)}")
    return files


def _words(rule: Rule, socket_path: str) -> str:
    """Module and arguments of a line that stands in for another."""
    if is_ours(rule):
        words = [f"[{word}]" if " " in word else word for word in rule.arguments]
        at = words.index(HELPER) + 1 if HELPER in words else 0
        words[at:at] = ["--socket", socket_path] if at else []
        return " ".join([rule.module, *words])
    name = rule.module.rpartition("/")[2]
    # pam_rootok would let in who runs this, and nothing would be tried.
    return "pam_deny.so" if name in ("pam_deny.so", "pam_rootok.so") else "pam_permit.so"


@contextmanager
def _pretended_daemon(path: str) -> Iterator[None]:
    """A socket whose other end asks for a code and knows one that is right (PROTOCOL.md)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        server = threading.Thread(target=_serve, args=(listener,), daemon=True)
        server.start()
        try:
            yield
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
