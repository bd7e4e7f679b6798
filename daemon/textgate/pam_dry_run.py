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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import TextgateError
from .pam_block import BLOCK, HELPER
from .pam_conversation import Style, authenticate, set_credentials
from .pam_stack import Rule, is_ours, read_stack

FOREIGN = "/bin/true"  # what a helper must not be
RUN_DIR = "/run"
RIGHT, WRONG = "123456", "654321"
SERVICE, SOCKET = "dry-run", "auth.sock"
USER = "root"  # exists everywhere; nobody logs in


@dataclass(frozen=True)
class _Run:
    """One login.

    typed: at each prompt, None to give up there; a login that must pass asks for all of it, and no more.
    begin: what the daemon says of who logs in. helper: another program in its place.
    """

    typed: tuple[str | None, ...]
    must_pass: bool
    meaning: str  # what it would mean if it ended otherwise
    begin: str = "ask"
    helper: str = HELPER


# The right code is good once, as with the real daemon: a stack that checks it twice refuses it.
_RUNS: Sequence[_Run] = (
    _Run((), True, "who needs no code is refused, or asked for one", begin="skip"),
    _Run((RIGHT,), True, "a right code is refused"),
    _Run((WRONG, RIGHT), True, "a right code is refused after a wrong one"),
    _Run((WRONG, WRONG, RIGHT), True, "a right code is refused at the third try"),
    _Run((WRONG, WRONG, WRONG), False, "three wrong codes let in"),
    _Run((WRONG, WRONG, WRONG, RIGHT), False, "more than three tries are given"),
    _Run(("", "", ""), False, "empty answers let in"),
    _Run((None, RIGHT), False, "giving up at the prompt lets in, or is a try like others"),
    _Run((WRONG, None, RIGHT), False, "giving up at the second prompt lets in, or is a try like others"),
    _Run((WRONG, WRONG, None, RIGHT), False, "giving up at the third prompt lets in, or is a try like others"),
    _Run((RIGHT, RIGHT, RIGHT), False, "a helper that asks nobody lets in", helper=FOREIGN),
)
_NO_CREDENTIALS = "logins through sshd fail after a right code (pam_setcred)"


def dry_run(rules: Sequence[Rule] | None = None) -> tuple[str, ...]:
    """What is wrong with the lines as they are installed; empty if they work.

    rules: the stack of a service that has them; without it, the lines are run alone.
    Raises TextgateError when it can't be tried: no python-pam, no such file, no room in /run.
    """
    try:
        text = Path(BLOCK).read_text(errors="surrogateescape")  # as PamAdmin.read_pam
    except OSError as error:
        raise TextgateError(f"{BLOCK}: can't be read: {error.strerror}", hint="textgate pam repair") from None
    if HELPER not in text:
        raise TextgateError(f"{BLOCK}: does not call {HELPER}", hint="textgate pam repair")
    if rules is None:
        rules = read_stack("textgate", lambda _name: text)
    try:
        with tempfile.TemporaryDirectory(prefix="textgate-dry-run-", dir=RUN_DIR) as folder:
            return _run(rules, Path(folder))
    except OSError as error:
        raise TextgateError(f"the dry run could not be made: {error.strerror}", hint="run it with sudo") from None


def _run(rules: Sequence[Rule], folder: Path) -> tuple[str, ...]:
    faults = [run.meaning for run in _RUNS if _lets_in(run, rules, folder) is not run.must_pass]
    write_stand_in(rules, folder, HELPER)
    if not set_credentials(SERVICE, USER, confdir=str(folder / "pam.d")).is_success:
        faults.append(_NO_CREDENTIALS)
    return tuple(faults)


def _lets_in(run: _Run, rules: Sequence[Rule], folder: Path) -> bool:
    """Whether a login succeeds, with every prompt that it should have had."""
    confdir = write_stand_in(rules, folder, run.helper)
    answers = iter(run.typed)
    asked = 0

    def converse(style: Style, _text: str) -> str | None:
        nonlocal asked
        if style not in (Style.PROMPT_HIDDEN, Style.PROMPT_SHOWN):
            return None
        asked += 1
        return next(answers, None)

    with _PretendedDaemon(str(folder / SOCKET), run.begin).listening():
        result = authenticate(SERVICE, USER, converse, confdir=str(confdir), sets_credentials=run.must_pass)
    return result.is_success and (asked == len(run.typed) or not run.must_pass)


def write_stand_in(rules: Iterable[Rule], folder: Path, helper: str) -> Path:
    """Write the files of `stand_in` for libpam; answers their folder."""
    confdir = folder / "pam.d"
    confdir.mkdir(exist_ok=True)
    for name, lines in stand_in(rules, str(folder / SOCKET), confdir, helper).items():
        (confdir / name).write_text("\n".join(lines) + "\n")
    return confdir


def stand_in(
    rules: Iterable[Rule], socket_path: str, confdir: Path, helper: str = HELPER
) -> Mapping[str, Sequence[str]]:
    """Files for libpam, by name, SERVICE first: textgate's lines with another socket, and for each other module
    pam_permit, or pam_deny where that is what it is.
    """
    files: dict[str, list[str]] = {SERVICE: []}
    open_files = [SERVICE]
    for rule in rules:
        open_files = open_files[: rule.level + 1]
        lines = files[open_files[-1]]
        if rule.is_substack:
            name = f"{SERVICE}-{len(files)}"
            files[name] = []
            lines.append(f"auth substack {confdir / name}")  # Debian's libpam would look in /etc/pam.d
            open_files.append(name)
            continue
        control = " ".join(f"{answer}={action}" for answer, action in rule.actions.items())
        lines.append(f"auth [{control}] {_words(rule, socket_path, helper)}")
    return files


def _words(rule: Rule, socket_path: str, helper: str) -> str:
    """Module and arguments of a line that stands in for another."""
    if is_ours(rule):
        words = [f"[{word}]" if " " in word else word for word in rule.arguments]
        if HELPER in words:
            at = words.index(HELPER)
            # The last one counts: where the line names a socket itself, the run must not talk to that.
            options = [helper, *words[at + 1 : -1], "--socket", socket_path]
            words[at:-1] = options if helper == HELPER else [helper]
        return " ".join([rule.module, *words])
    name = rule.module.rpartition("/")[2]
    # pam_rootok would let in who runs this, and nothing would be tried.
    return "pam_deny.so" if name in ("pam_deny.so", "pam_rootok.so") else "pam_permit.so"


class _PretendedDaemon:
    """A socket whose other end says what it is told of who logs in, and knows a code that is right once."""

    def __init__(self, path: str, begin: str) -> None:
        self._path = path
        self._begin = begin
        self._is_used = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """As long as the `with` block runs."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(self._path)
            listener.listen()
            server = threading.Thread(target=self._serve, args=(listener,), daemon=True)
            server.start()
            try:
                yield
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                server.join()
                Path(self._path).unlink()

    def _serve(self, listener: socket.socket) -> None:
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
                connection.sendall(self._answer(request.split(b"\0")))

    def _answer(self, request: list[bytes]) -> bytes:
        if request[0] == b"textgate/1 begin":
            return self._begin.encode() + b"\n"
        if self._is_used or b"CODE=" + RIGHT.encode() not in request:
            return b"deny\nThat code is not right."
        self._is_used = True
        return b"pass\n"
