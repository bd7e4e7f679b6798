# SPDX-License-Identifier: MIT
"""The helper that pam_exec runs: hands what PAM knows to textgated, prints its text, exits with its answer.

    pam-helper [--socket PATH] [--deadline SECONDS] [--fail-open] begin|check

Rules of this file:
- It holds no policy. Exit 0 comes from two places: EXIT_STATUS (`skip` to begin, `pass` to check) and let_in()
  (--fail-open, and only where the daemon cannot be reached at all). Everything else, every exception included, is 1;
  wrong usage is 2.
- Exit 0 alone opens nothing: behind both places, and nowhere else, give_word() prints the line that pam_textgate.so
  waits for.
- Only modules that are compiled into the interpreter: `import socket` alone costs as much as the interpreter's start.
- One deadline for all of it. Bytes from outside are bounded, and only printable characters are printed: pam_exec
  overruns a buffer on a line that starts with NUL (linux-pam pull request 630), and the text ends on a terminal.
- A code is never logged or printed, and of what PAM hands over only a well-formed user and service name.

Installed beside `pam-helper` (launcher.c), which has Python import it: so Python takes the byte code instead of
compiling this file at each login. The bytes of the dialogue: daemon/PROTOCOL.md.
"""

import _socket
import errno
import posix
import sys
import time

DEFAULT_SOCKET = "/run/textgate/auth.sock"
DEFAULT_DEADLINE_S = 10.0
DEADLINE_MAX_S = 300.0

EXIT_STATUS = {
    "begin": {b"skip": 0, b"ask": 1, b"deny": 1},
    "check": {b"pass": 0, b"ask": 1, b"deny": 1},
}
USAGE = "usage: pam-helper [--socket PATH] [--deadline SECONDS] [--fail-open] begin|check"
AWAY_TEXT = "The code service does not answer. Ask your administrator."
LET_IN_TEXT = "The code service cannot be reached: no code is asked. This is logged."

PROOF_ENV = b"TEXTGATE_PROOF"  # this and the form of the line: as in pam_textgate.c
WORD_MARK = b"textgate-proof: "
WORD_BYTES_MAX = 1000

ENVIRON_NAMES = (
    b"PAM_USER", b"PAM_SERVICE", b"PAM_TTY", b"PAM_RHOST", b"PAM_RUSER", b"PAM_TYPE",
    b"SSH_CONNECTION", b"SSH_AUTH_INFO_0",
)  # fmt: skip
REQUEST_BYTES_MAX = 65536
ANSWER_BYTES_MAX = 8192
CODE_BYTES_MAX = 512  # PAM_MAX_RESP_SIZE, as in pam_textgate.c
TEXT_BYTES_MAX = 1024
TEXT_LINES_MAX = 12
PROC_BYTES_MAX = 1 << 20
READ_BYTES = 65536
POLL_S = 0.005
FD_MAX = 65536  # as pam_modutil_sanitize_helper_fds

# The only two that mean "nobody is there". No permission, no descriptors, no memory are faults here, and a full queue
# is a daemon that is busy, or kept busy by somebody: denied.
UNREACHABLE = (errno.ENOENT, errno.ECONNREFUSED)

# What sending ends in where the daemon has closed already.
CLOSED_EARLY = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)

JOURNAL_SOCKET = "/run/systemd/journal/socket"
SYSLOG_SOCKET = "/dev/log"
LOG_AUTH = 4
LOG_ALERT = 1
LOG_ERR = 3
LOG_WAIT_S = 0.5
FAIL_OPEN_MESSAGE_ID = "9d6f1c1e0c8b4f7c9a55e1f0a3b7d264"
NAME_CHARS = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-@"


def main(argv: list[str]) -> int:
    """The exit status for these arguments (without the program's name)."""
    options = parse(argv)
    if options is None:
        say(2, USAGE)
        return 2
    verb, path, deadline_s, is_fail_open = options
    try:
        return dialogue(verb, path, time.monotonic() + deadline_s, is_fail_open)
    except Exception as error:
        return refuse(verb, error)


def parse(argv: list[str]) -> tuple[str, str, float, bool] | None:
    """Verb, socket path, deadline in seconds, fail-open; None for anything that is not in USAGE."""
    verbs = []
    path = DEFAULT_SOCKET
    deadline_s = DEFAULT_DEADLINE_S
    is_fail_open = False
    words = iter(argv)
    for word in words:
        if word == "--fail-open":
            is_fail_open = True
        elif word == "--socket":
            path = next(words, "")
        elif word == "--deadline":
            try:
                deadline_s = float(next(words, ""))
            except ValueError:
                return None
        else:
            verbs.append(word)
    # Said this way round, the comparison also refuses "nan".
    is_good = len(verbs) == 1 and verbs[0] in EXIT_STATUS and path[:1] == "/" and 0 < deadline_s <= DEADLINE_MAX_S
    return (verbs[0], path, deadline_s, is_fail_open) if is_good else None


def dialogue(verb: str, path: str, until: float, is_fail_open: bool) -> int:
    """Asks the daemon, shows its text, returns the exit status. Raises OSError, ValueError if there is no answer."""
    fields = gather(verb, until)
    request = b"\0".join([b"textgate/1 " + verb.encode()] + [b"%b=%b" % field for field in fields.items()])
    if len(request) > REQUEST_BYTES_MAX:
        raise ValueError("request too long")
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        try:
            connect(connection, path, until)
        except OSError as error:
            if is_fail_open and error.errno in UNREACHABLE:
                return let_in(verb, fields)
            raise
        answer, is_orderly = converse(connection, request, until)
    finally:
        connection.close()
    status, text = judge(verb, answer)
    if status == 0 and not is_orderly:
        raise ValueError("yes to a request that was not read")
    say(1, text)
    if status == 0:
        give_word(fields, posix.environ.get(PROOF_ENV))
    return status


def gather(verb: str, until: float) -> dict[bytes, bytes]:
    """Every field of the request that is set, in the order of sending. Raises ValueError, OSError."""
    fields = pick(read("/proc/self/environ"))
    parent = posix.getppid()
    fields[b"PPID"] = b"%d" % parent
    try:  # noqa: SIM105 - contextlib is no built-in module
        fields[b"PPID"], fields[b"PPID_START"] = login_process(parent, is_ssh=fields.get(b"PAM_TTY") == b"ssh")
    except OSError:
        pass  # the daemon then refuses, since it can't tell this login from another
    if verb == "check":
        fields[b"CODE"] = read_code(0, until)
    return fields


def pick(untrusted_environ: bytes) -> dict[bytes, bytes]:
    """The fields among the NUL-ended NAME=value entries of an environment.

    pam_exec puts its environment first and the items behind it; in os.environ the former's PAM_USER would win.
    Raises ValueError where a name comes twice.
    """
    found: dict[bytes, bytes] = {}
    for entry in untrusted_environ.split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name in ENVIRON_NAMES:
            if name in found:
                raise ValueError("a name comes twice in the environment")
            found[name] = value
    return {name: found[name] for name in ENVIRON_NAMES if name in found}


def login_process(parent: int, *, is_ssh: bool) -> tuple[bytes, bytes]:
    """Pid and start (clock ticks after boot) of the process that lives as long as the login.

    That is the helper's parent, which runs PAM. But sshd forks a new one for each attempt in a connection, from the
    process that it has made for the connection and has made the leader of a session (setsid). Where the kernel does
    not show exactly this picture, the parent counts: it is never shared by two connections.
    Raises OSError, ValueError.
    """
    name, above, session, start = stat_fields(read(f"/proc/{parent}/stat"))
    if is_ssh and above == session != b"0":
        try:
            leader = stat_fields(read(f"/proc/{above.decode()}/stat"))
        except (OSError, ValueError):
            leader = (b"", b"", b"", b"")
        # A super server that starts sshd in its own session has another name, and serves several connections.
        if (leader[0], leader[2]) == (name, session) and int(leader[3]) <= int(start):
            return above, leader[3]
    return b"%d" % parent, start


def stat_fields(stat: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Name, parent, session and start of a process: fields 2, 4, 6 and 22 of /proc/PID/stat (proc(5)).

    Field 2, the program's name, may hold spaces and parentheses: count from the last closing one.
    Raises ValueError.
    """
    name, parenthesis, rest = stat.rpartition(b")")
    after_name = rest.split()
    if not parenthesis or len(after_name) < 20:
        raise ValueError("unknown form of /proc/PID/stat")
    above, session, start = after_name[1], after_name[3], after_name[19]
    if not (above.isdigit() and session.isdigit() and start.isdigit()):
        raise ValueError("unknown form of /proc/PID/stat")
    return name.partition(b"(")[2], above, session, start


def read(path: str) -> bytes:
    """All of a file in /proc. Raises OSError, ValueError if it is too long."""
    descriptor = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        content = b""
        while chunk := posix.read(descriptor, READ_BYTES):
            content += chunk
            if len(content) > PROC_BYTES_MAX:
                raise ValueError("file in /proc too long")
        return content
    finally:
        posix.close(descriptor)


def read_code(descriptor: int, until: float) -> bytes:
    """What was typed: the bytes up to the end or to a NUL (some pam_execs send one), without a last line feed.

    Raises OSError at the deadline, ValueError if it is too long.
    """
    posix.set_blocking(descriptor, False)
    typed = b""
    while b"\0" not in typed and len(typed) < CODE_BYTES_MAX + 2:
        try:
            chunk = posix.read(descriptor, CODE_BYTES_MAX + 2 - len(typed))
        except BlockingIOError:
            time.sleep(min(POLL_S, seconds_left(until)))
            continue
        if not chunk:
            break
        typed += chunk
    code = typed.partition(b"\0")[0].removesuffix(b"\n")
    if len(code) > CODE_BYTES_MAX:
        raise ValueError("answer of the person too long")
    return code


def seconds_left(until: float) -> float:
    """Seconds until the deadline. Raises TimeoutError (errno ETIMEDOUT) at its end."""
    left_s = until - time.monotonic()
    if left_s <= 0:
        raise TimeoutError(errno.ETIMEDOUT, "deadline")
    return left_s


def connect(connection: _socket.socket, path: str, until: float) -> None:
    """Connects to the daemon. Raises OSError, with ETIMEDOUT if there was no room for it until the deadline."""
    connection.setblocking(False)
    while True:
        try:
            connection.connect(path)
            return
        except BlockingIOError:  # the daemon's queue is full; the kernel has no way to wait for it with a time limit
            time.sleep(min(POLL_S, seconds_left(until)))


def converse(connection: _socket.socket, request: bytes, until: float) -> tuple[bytes, bool]:
    """Sends the request, ends it by half-close, returns the whole answer and whether all went in order.

    A daemon that has too much to do says so at once, reads nothing and closes: sending then fails, or the answer ends
    in a reset. It is an answer all the same, but can only be a refusal. Raises OSError, ValueError (too long).
    """
    is_orderly = True
    connection.settimeout(seconds_left(until))
    try:
        connection.sendall(request)
        connection.shutdown(_socket.SHUT_WR)
    except OSError as error:
        if error.errno not in CLOSED_EARLY:
            raise
        is_orderly = False
    answer = b""
    while True:
        connection.settimeout(seconds_left(until))
        try:
            chunk = connection.recv(ANSWER_BYTES_MAX)
        except ConnectionResetError:
            if not answer:
                raise
            return answer, False
        if not chunk:
            return answer, is_orderly
        answer += chunk
        if len(answer) > ANSWER_BYTES_MAX:
            raise ValueError("answer too long")


def judge(verb: str, untrusted_answer: bytes) -> tuple[int, str]:
    """Exit status and text of an answer: a word for this verb, a line feed, UTF-8. Raises ValueError."""
    word, line_feed, text = untrusted_answer.partition(b"\n")
    status = EXIT_STATUS[verb].get(word)
    if status is None or not line_feed or b"\0" in text:
        raise ValueError("unknown answer")
    return status, text.decode()


def printable(untrusted_text: str) -> str:
    """The text as lines without an empty one, at most TEXT_LINES_MAX and TEXT_BYTES_MAX, each ended by a line feed.

    str.isprintable leaves out controls (C0, C1), escape, bidi and invisible format characters, unpaired surrogates.
    """
    lines: list[str] = []
    left_bytes = TEXT_BYTES_MAX
    for untrusted_line in untrusted_text.split("\n"):
        line = "".join([char if char.isprintable() else "?" for char in untrusted_line]).strip()
        line = line.encode()[: left_bytes - 1].decode(errors="ignore")
        if line and len(lines) < TEXT_LINES_MAX:
            lines.append(line + "\n")
            left_bytes -= len(line.encode()) + 1
    return "".join(lines)


def say(descriptor: int, untrusted_text: str) -> None:
    """Writes the text, checked. Raises OSError."""
    left = printable(untrusted_text).encode()
    while left:
        left = left[posix.write(descriptor, left) :]


def give_word(fields: dict[bytes, bytes], untrusted_name: bytes | None) -> None:
    """Prints what proves to pam_textgate.so that this is a yes to this user, of a helper that ran to its end.

    untrusted_name: of the attempt, as its `start` made it; None where the PAM lines are of an earlier version, which
    ask for no word. Raises OSError, and ValueError where no word can be given in one line: then it is a no.
    """
    if untrusted_name is None:
        return
    word = WORD_MARK + b" ".join([untrusted_name, fields.get(b"PAM_SERVICE", b""), fields.get(b"PAM_USER", b"")])
    if len(word) > WORD_BYTES_MAX or not word.decode().isprintable():
        raise ValueError("a name that no word can be given for")
    left = word + b"\n"
    while left:
        left = left[posix.write(1, left) :]


def refuse(verb: str, error: Exception) -> int:
    """Says that something broke, and logs what: an errno or a fixed sentence of this file, nothing from outside."""
    reason = str(error) if type(error) is ValueError else type(error).__name__
    if isinstance(error, OSError) and error.errno:
        reason = errno.errorcode.get(error.errno, "OSError")
    log(LOG_ERR, f"{verb}: no usable answer from textgated: {reason}", {"TEXTGATE_EVENT": "helper_failed"})
    say(1, AWAY_TEXT)
    return 1


def let_in(verb: str, fields: dict[bytes, bytes]) -> int:
    """Lets in without a code, as the PAM line wants it, with an alert in the journal."""
    user = name_or_mark(fields.get(b"PAM_USER", b""))
    service = name_or_mark(fields.get(b"PAM_SERVICE", b""))
    log(
        LOG_ALERT,
        f"{verb}: textgated cannot be reached, --fail-open let {user} into {service} without a code",
        {
            "MESSAGE_ID": FAIL_OPEN_MESSAGE_ID,
            "TEXTGATE_EVENT": "fail_open",
            "TEXTGATE_USER": user,
            "TEXTGATE_SERVICE": service,
        },
    )
    say(1, LET_IN_TEXT)
    give_word(fields, posix.environ.get(PROOF_ENV))
    return 0


def name_or_mark(untrusted_name: bytes) -> str:
    """The name if it is a plain one of at most 64 characters, else "(unusual name)"."""
    is_plain = 0 < len(untrusted_name) <= 64 and not untrusted_name.translate(None, NAME_CHARS)
    return untrusted_name.decode() if is_plain else "(unusual name)"


def log(priority: int, message: str, fields: dict[str, str]) -> None:
    """One record to the journal, or to syslog where there is no journal. Never raises: logging decides nothing."""
    entries = {
        "MESSAGE": message,
        "PRIORITY": str(priority),
        "SYSLOG_FACILITY": str(LOG_AUTH),
        "SYSLOG_IDENTIFIER": "textgate-pam-helper",
        **fields,
    }
    record = "".join([f"{name}={value}\n" for name, value in entries.items()])
    line = f"<{LOG_AUTH * 8 + priority}>textgate-pam-helper[{posix.getpid()}]: {message}"
    for path, datagram in ((JOURNAL_SOCKET, record), (SYSLOG_SOCKET, line)):
        try:
            journal = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        except OSError:
            return
        try:
            journal.settimeout(LOG_WAIT_S)
            journal.connect(path)
            journal.sendall(datagram.encode())
            return
        except OSError:
            continue
        finally:
            journal.close()


def leave_memory_out_of_images() -> None:
    """What is typed gets into no core image of this process (core(5)); su leaves people's own limit on those.

    Never raises: no login hangs on it.
    """
    try:
        descriptor = posix.open("/proc/self/coredump_filter", posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            posix.write(descriptor, b"0")
        finally:
            posix.close(descriptor)
    except OSError:
        pass


def run() -> None:
    """Ends the process with the answer for sys.argv."""
    exit_status = 1
    try:
        posix.closerange(3, FD_MAX)
        leave_memory_out_of_images()
        exit_status = main(sys.argv[1:])
    except BaseException:
        pass  # a traceback would be shown to the person
    posix._exit(exit_status)  # nothing is buffered, and taking the interpreter down costs a tenth of its whole life


if __name__ == "__main__":
    run()
