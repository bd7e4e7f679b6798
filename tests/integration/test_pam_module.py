# SPDX-License-Identifier: MIT
"""pam_textgate.so and the block of PAM lines, in a real libpam with a real pam_exec.

A small PAM application (pam_aids/pam_drive.c) reads its services from a private folder and answers prompts as told,
hostile answers included; the machine's /etc/pam.d is never touched. A scripted program stands in for the helper. The
last part installs everything into a private mount namespace and types at a terminal, with pamtester.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pexpect
import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "pam_helper"
AIDS = Path(__file__).resolve().parent / "pam_aids"
BUILD = ROOT / "build" / "pam"
LIMIT_S = 20  # for one program that hangs; nothing here waits that long

SUCCESS, SERVICE_ERR, PERM_DENIED, AUTH_ERR, CONV_ERR = 0, 3, 6, 7, 19  # security/_pam_types.h
REFUSAL = "ERROR Access denied: no valid code was given."
PASSWORD = "OFF Password: "
CODE = "OFF Code: "


def compile_aid(source: str, target: str, *flags: str) -> Path:
    output = BUILD / target
    warnings = ["-std=c11", "-D_DEFAULT_SOURCE", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g"]
    subprocess.run(["cc", *warnings, "-o", output, AIDS / source, *flags], check=True, timeout=60)
    return output


@dataclass(frozen=True)
class Built:
    """What the compiler made."""

    module: Path
    asan_module: Path
    drive: Path
    fail: Path
    libasan: str


@pytest.fixture(scope="session")
def built() -> Built:
    subprocess.run(["make", "-s", "-C", SOURCE, f"BUILD={BUILD}", "all", "asan"], check=True, timeout=60)
    return Built(
        module=BUILD / "pam_textgate.so",
        asan_module=BUILD / "pam_textgate.asan.so",
        drive=compile_aid("pam_drive.c", "pam_drive", "-lpam"),
        fail=compile_aid("pam_fail.c", "pam_fail.so", "-shared", "-fPIC", "-ldl"),
        libasan=subprocess.check_output(["cc", "-print-file-name=libasan.so"], text=True).strip(),
    )


@dataclass(frozen=True)
class Run:
    """What the person saw, in order, and what each PAM call returned."""

    seen: list[str]
    results: list[tuple[str, int]]
    stderr: str

    @property
    def result(self) -> int:
        return self.results[-1][1]

    @property
    def prompts(self) -> list[str]:
        return [line for line in self.seen if line.startswith(("OFF ", "ON "))]


class Stack:
    """A folder of PAM services, a scripted helper, and files that tell what reached it."""

    def __init__(self, folder: Path, built: Built) -> None:
        self.built = built
        self.module = built.module
        self.services = folder / "pam.d"
        self.services.mkdir()
        self.state = folder / "helper"
        self.state.mkdir()
        self.helper = self.program("scripted-helper", self.HELPER.format(state=self.state))
        self.after = folder / "authtok-after"
        self.capture = self.program("capture", f"#!/bin/sh\ncat > {self.after}\n")

    # Runs step.N at its N-th call; no such step ends it with an error, as a crash would. Keeps what check read.
    # With a yes it gives its word, as the real one does; `trap - EXIT` in a step makes one that gives none.
    HELPER = """#!/bin/sh
trap '[ $? = 0 ] && echo "textgate-proof: $TEXTGATE_PROOF $PAM_SERVICE $PAM_USER"' EXIT
cd {state} || exit 3
count=0
[ -e calls ] && while read -r line; do count=$((count + 1)); done < calls
echo "$*" >> calls
[ "$1" = check ] && cat > typed.$count
. ./step.$count
"""

    def program(self, name: str, text: str) -> Path:
        path = self.services.parent / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def plan(self, *steps: str) -> None:
        """What the helper does: first for begin, then for each check."""
        for number, step in enumerate(steps):
            (self.state / f"step.{number}").write_text(step + "\n")

    @property
    def calls(self) -> list[str]:
        path = self.state / "calls"
        return path.read_text().split("\n")[:-1] if path.exists() else []

    def typed(self, call: int) -> bytes:
        return (self.state / f"typed.{call}").read_bytes().rstrip(b"\0")

    def write(self, *lines: str, service: str = "sshd") -> None:
        text = "\n".join(lines) + "\n"
        (self.services / service).write_text(text.replace("pam_textgate.so", str(self.module)))

    def write_block(self, *, helper: Path | str | None = None, service: str = "sshd") -> None:
        """A password, which leaves a PAM_AUTHTOK; the block as it is shipped; a module that wants the password."""
        block = (SOURCE / "textgate.pam").read_text()
        assert block.count("/usr/libexec/textgate/pam-helper ") == 4
        self.write(
            "auth optional pam_exec.so quiet expose_authtok /bin/true",
            block.replace("/usr/libexec/textgate/pam-helper", str(helper or self.helper)),
            f"auth optional pam_exec.so quiet expose_authtok {self.capture}",
            service=service,
        )

    def run(
        self,
        *answers: str,
        ops: str = "a",
        service: str = "sshd",
        options: list[str] | None = None,
        env: dict[str, str] | None = None,
    ) -> Run:
        argv: list[str | Path] = [self.built.drive, *(options or []), self.services, service, "root", ops, *answers]
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            check=False,
            env={**os.environ, **(env or {})},
        )
        assert done.returncode == 0, f"status {done.returncode}: {done.stdout}{done.stderr}"
        lines = done.stdout.split("\n")[:-1]
        results = [(line[0], int(line[2:])) for line in lines if re.fullmatch(r"[asce] \d+", line)]
        return Run([line for line in lines if not re.fullmatch(r"[asce] \d+", line)], results, done.stderr)


@pytest.fixture
def stack(tmp_path: Path, built: Built) -> Stack:
    return Stack(tmp_path, built)


# The block: ways in


def test_block_is_jumped_when_begin_says_no_code_is_needed(stack: Stack) -> None:
    stack.write_block()
    stack.plan("exit 0")
    run = stack.run("=password")
    assert (run.seen, run.result, stack.calls) == ([PASSWORD], SUCCESS, ["begin"])
    assert stack.after.read_bytes().rstrip(b"\0") == b"password"


@pytest.mark.parametrize("tries", [1, 2, 3])
def test_block_lets_in_on_a_right_code_at_each_try(stack: Stack, tries: int) -> None:
    stack.write_block()
    stack.plan("exit 1", *["exit 1"] * (tries - 1), "exit 0", "exit 1", "exit 1")
    run = stack.run("=password", *[f"=code{number}" for number in range(1, tries + 1)], "=too much")
    assert (run.seen, run.result) == ([PASSWORD, *[CODE] * tries], SUCCESS)
    assert stack.calls == ["begin", *["check"] * tries]
    assert [stack.typed(number) for number in range(1, tries + 1)] == [b"code%d" % n for n in range(1, tries + 1)]
    assert stack.after.read_bytes().rstrip(b"\0") == b"password"


def test_block_shows_what_the_helper_prints(stack: Stack) -> None:
    stack.write_block()
    stack.plan("echo on its way; exit 1", "echo wrong; echo try again; exit 1", "exit 0")
    run = stack.run("=password", "=1", "=2")
    assert run.seen == [PASSWORD, "INFO on its way", CODE, "INFO wrong", "INFO try again", CODE]


# The block: no way in


def test_block_denies_after_three_wrong_codes_with_a_sentence(stack: Stack) -> None:
    stack.write_block()
    stack.plan(*["exit 1"] * 4, "exit 0")
    run = stack.run("=password", "=1", "=2", "=3", "=4")
    assert (run.seen, run.result) == ([PASSWORD, CODE, CODE, CODE, REFUSAL], AUTH_ERR)
    assert len(stack.calls) == 4
    assert not stack.after.exists()


BEGIN_FAILURES = [
    "exit 1",
    "exit 2",
    "exit 25",  # PAM_IGNORE as an exit status
    "exit 255",
    "kill -KILL $$",
    "kill -SEGV $$",
    "kill -TERM $$",
    "exec /nonexistent/python3",
]


@pytest.mark.parametrize("end", BEGIN_FAILURES)
def test_block_asks_for_a_code_when_begin_ends_in_any_other_way(stack: Stack, end: str) -> None:
    stack.write_block()
    stack.plan(end, "exit 0")
    run = stack.run("=password", "=123")
    assert (run.prompts, run.result, stack.calls) == ([PASSWORD, CODE], SUCCESS, ["begin", "check"])


@pytest.mark.parametrize("end", BEGIN_FAILURES)
def test_block_denies_when_every_check_ends_in_any_other_way(stack: Stack, end: str) -> None:
    stack.write_block()
    stack.plan("exit 1", end, end, end)
    run = stack.run("=password", "=1", "=2", "=3")
    assert (run.prompts, run.result) == ([PASSWORD, CODE, CODE, CODE], AUTH_ERR)
    assert run.seen[-1] == REFUSAL


@pytest.mark.parametrize("fault", ["no file", "no interpreter", "not executable", "no program", "a folder"])
def test_block_denies_with_a_sentence_when_the_helper_cannot_run(stack: Stack, fault: str) -> None:
    helper = stack.program("broken", "#!/nonexistent/python3 -IS\n" if fault == "no interpreter" else "no program\n")
    if fault == "no file":
        helper.unlink()
    elif fault == "not executable":
        helper.chmod(0o644)
    elif fault == "a folder":
        helper = stack.state
    stack.write_block(helper=helper)
    run = stack.run("=password", "=1", "=2", "=3")
    assert (run.seen, run.result) == ([PASSWORD, CODE, CODE, CODE, REFUSAL], AUTH_ERR)


@pytest.mark.parametrize("abort", ["!null", "!nullarray", "!error", "!errorwithtext", "!again", "!ignore"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_block_denies_when_the_prompt_is_broken_off(stack: Stack, at: int, abort: str) -> None:
    stack.write_block()
    stack.plan("exit 1", *["exit 1"] * (at - 1), *["exit 0"] * 3)
    run = stack.run("=password", *["=wrong"] * (at - 1), *[abort] * 3)
    # Asked once more would mean that a broken off prompt counts as a try (three times Ctrl-C, then in).
    assert run.prompts == [PASSWORD, *[CODE] * at]
    assert (run.result, len(stack.calls)) == (CONV_ERR, at)
    assert not stack.after.exists()


def test_block_denies_without_a_conversation_function(stack: Stack) -> None:
    stack.write_block()
    stack.plan("exit 1", "exit 0")
    run = stack.run(options=["-c"])
    assert (run.seen, run.result, stack.calls) == ([], CONV_ERR, ["begin"])


def test_block_denies_over_long_answer_without_checking_it(stack: Stack) -> None:
    stack.write_block()
    stack.plan("exit 1", "exit 0")
    run = stack.run("=password", "!513")
    assert (run.result, stack.calls) == (AUTH_ERR, ["begin"])


def test_block_says_its_sentence_to_a_program_that_wants_silence(stack: Stack) -> None:
    """As sudo does: without it, nothing would tell the person why where Python is missing."""
    stack.write_block()
    stack.plan(*["exit 1"] * 4)
    run = stack.run("=password", "=1", "=2", "=3", ops="s")
    assert (run.seen, run.result) == ([PASSWORD, CODE, CODE, CODE, REFUSAL], AUTH_ERR)


# The block: what it does to PAM_AUTHTOK and to pam_setcred


def test_block_hands_on_an_empty_answer_and_asks_for_no_password(stack: Stack) -> None:
    stack.write_block()
    stack.plan("exit 1", "exit 1", "exit 0")
    run = stack.run("=password", "=", "=123")
    assert (run.prompts, run.result) == ([PASSWORD, CODE, CODE], SUCCESS)
    assert (stack.typed(1), stack.typed(2)) == (b"", b"123")


def test_block_unsets_authtok_again_where_there_was_none(stack: Stack) -> None:
    stack.write_block()
    (stack.services / "sshd").write_text("\n".join((stack.services / "sshd").read_text().split("\n")[1:]))
    stack.plan("exit 1", "exit 1", "exit 0")
    run = stack.run("=1", "=2", "=typed later")
    # The module after the block finds no password and asks for one itself.
    assert (run.prompts, run.result) == ([CODE, CODE, PASSWORD], SUCCESS)
    assert stack.after.read_bytes().rstrip(b"\0") == b"typed later"


def test_block_forgets_the_password_of_a_refused_attempt(stack: Stack) -> None:
    stack.write_block()
    stack.plan(*["exit 1"] * 4, "exit 1", "exit 0")
    run = stack.run("=old password", "=1", "=2", "=3", "=new password", "=4", ops="aa")
    assert run.results == [("a", AUTH_ERR), ("a", SUCCESS)]
    assert stack.after.read_bytes().rstrip(b"\0") == b"new password"


def test_block_forgets_the_password_of_a_broken_off_attempt(stack: Stack) -> None:
    stack.write_block()
    stack.plan("exit 1", "exit 1", "exit 1", "exit 0")
    run = stack.run("=old password", "=1", "!null", "=new password", "=4", ops="aa")
    assert run.results == [("a", CONV_ERR), ("a", SUCCESS)]
    assert stack.after.read_bytes().rstrip(b"\0") == b"new password"


def test_block_asks_again_for_a_code_in_a_second_attempt_after_success(stack: Stack) -> None:
    stack.write_block()
    stack.plan("exit 1", "exit 0", "exit 1", *["exit 1"] * 3)
    run = stack.run("=password", "=1", "=password", "=2", "=3", "=4", ops="aa")
    assert run.results == [("a", SUCCESS), ("a", AUTH_ERR)]


@pytest.mark.parametrize(
    ("steps", "answers"),
    [
        (["exit 0"], []),
        (["exit 1", "exit 0"], ["=1"]),
        (["exit 1", "exit 1", "exit 1", "exit 0"], ["=1", "=2", "=3"]),
    ],
)
def test_setcred_succeeds_after_each_way_in(stack: Stack, steps: list[str], answers: list[str]) -> None:
    stack.write_block()
    stack.plan(*steps)
    run = stack.run("=password", *answers, ops="ac")
    assert run.results == [("a", SUCCESS), ("c", SUCCESS)]


def test_setcred_succeeds_on_a_fresh_handle_and_runs_nothing(stack: Stack) -> None:
    stack.write_block()
    stack.plan("exit 1")
    run = stack.run(ops="c")
    assert (run.seen, run.results, stack.calls) == ([], [("c", SUCCESS)], [])


def test_setcred_after_a_refusal_does_not_let_in(stack: Stack) -> None:
    stack.write_block()
    stack.plan(*["exit 1"] * 4)
    run = stack.run("=password", "=1", "=2", "=3", ops="ac")
    assert run.results == [("a", AUTH_ERR), ("c", PERM_DENIED)]


@pytest.mark.parametrize("include", ["@include", "auth include", "auth substack"])
def test_block_works_by_include(stack: Stack, include: str) -> None:
    stack.write_block(service="block")
    (stack.services / "sshd").write_text(
        f"{include} {stack.services}/block\nauth requisite {stack.module} require\nauth required pam_permit.so\n"
    )
    stack.plan(*["exit 1"] * 4, "exit 1", "exit 0")
    run = stack.run("=password", "=1", "=2", "=3", "=password", "=4", ops="aa")
    assert run.results == [("a", AUTH_ERR), ("a", SUCCESS)]


def test_every_jump_of_the_block_lands_where_its_comment_says() -> None:
    lines = [line for line in (SOURCE / "textgate.pam").read_text().split("\n") if line.startswith("auth")]
    targets = {
        number: number + int(jump.group(1))
        for number, line in enumerate(lines)
        if (jump := re.search(r"success=(\d+)", line))
    }
    landing = {number: lines[target + 1].split()[-2:] for number, target in targets.items()}
    assert landing == {
        1: ["pam_textgate.so", "finish"],
        3: ["pam_textgate.so", "restore"],
        5: ["pam_textgate.so", "restore"],
        7: ["pam_textgate.so", "restore"],
    }
    assert len(lines) == 12


# The word: exit 0 alone is not enough


LINE = "textgate-proof: $TEXTGATE_PROOF $PAM_SERVICE $PAM_USER"
NO_WORDS = {
    "nothing": "",
    "the environment": "env",
    "another name": "echo textgate-proof: 00000000000000000000000000000000 $PAM_SERVICE $PAM_USER",
    "no name": "echo textgate-proof:  $PAM_SERVICE $PAM_USER",
    "another user": "echo textgate-proof: $TEXTGATE_PROOF $PAM_SERVICE nobody",
    "another service": "echo textgate-proof: $TEXTGATE_PROOF sudo $PAM_USER",
    "more than it": f"echo {LINE}x",
    "less than it": "echo textgate-proof: $TEXTGATE_PROOF $PAM_SERVICE roo",
    "not at the beginning": f"echo ' {LINE}'",
    "far too long": f"printf '%s %2000s' {LINE!r} x",
    "taken back": f"echo {LINE}; echo textgate-proof: no",
}


@pytest.mark.parametrize("said", NO_WORDS.values(), ids=NO_WORDS)
@pytest.mark.parametrize("verb", ["begin", "check"])
def test_block_refuses_a_yes_without_its_word(stack: Stack, verb: str, said: str) -> None:
    stack.write_block()
    lie = f"trap - EXIT; {said}\nexit 0"
    stack.plan(*(["exit 1"] if verb == "check" else []), lie)
    run = stack.run("=password", "=1")
    assert run.result == AUTH_ERR
    assert run.seen[-1] == "ERROR The code service does not answer. Ask your administrator."
    assert not stack.after.exists()


def test_word_is_shown_to_nobody_and_its_name_gets_into_no_session(stack: Stack) -> None:
    stack.write_block()
    stack.plan("exit 1", "echo Welcome.; exit 0")
    run = stack.run("=password", "=1", ops="ae")
    assert run.seen == [PASSWORD, CODE, "INFO Welcome."]
    assert run.results == [("a", SUCCESS), ("e", 0)]  # of the names in the PAM environment, none is ours


@pytest.mark.parametrize("end", ["three wrong", "broken off", "no word", "require"])
def test_every_refusal_gives_the_program_its_conversation_and_environment_back(stack: Stack, end: str) -> None:
    stack.write_block()
    if end == "require":
        block = (stack.services / "sshd").read_text().replace("finish", "require")
        (stack.services / "sshd").write_text(block)
    stack.plan(
        "exit 1", *{"no word": ["trap - EXIT; exit 0"], "require": ["trap - EXIT; exit 0"]}.get(end, ["exit 1"] * 3)
    )
    answers = ["!null"] if end == "broken off" else ["=1", "=2", "=3"]
    assert stack.run("=password", *answers, ops="ae").results[1] == ("e", 0)


def test_word_of_one_attempt_lets_nobody_in_at_the_next(stack: Stack) -> None:
    """sudo runs the block again on one handle."""
    stack.write_block()
    stack.plan("exit 0", f"trap - EXIT; cat {stack.state}/word; exit 0")
    keep = stack.helper.read_text().replace("echo", f"tee {stack.state}/word <<< ", 1)
    stack.program("scripted-helper", keep.replace("#!/bin/sh", "#!/bin/bash", 1))
    run = stack.run("=password", "=password", ops="aa")
    assert run.results == [("a", SUCCESS), ("a", AUTH_ERR)]


def test_require_takes_a_word_once(stack: Stack) -> None:
    stack.write_block(service="block")
    lines = [f"auth substack {stack.services}/block", "auth requisite pam_textgate.so require"]
    stack.write(*lines, "auth requisite pam_textgate.so require", "auth required pam_permit.so")
    stack.plan("exit 0")
    assert stack.run("=password").result == AUTH_ERR


@pytest.mark.parametrize("block", ["", "auth required pam_permit.so\n", "auth [default=done] pam_permit.so\n"])
def test_require_refuses_where_no_block_ran(stack: Stack, block: str) -> None:
    """And says so: nobody else has told the person, and the log, why."""
    (stack.services / "block").write_text(block)
    lines = [f"auth substack {stack.services}/block", "auth requisite pam_textgate.so require"]
    stack.write("auth required pam_permit.so", *lines)
    run = stack.run()
    assert (run.seen, run.result) == (["ERROR The code service does not answer. Ask your administrator."], AUTH_ERR)


def test_require_says_nothing_where_the_block_has_refused(stack: Stack) -> None:
    stack.write_block(service="block")
    lines = [f"auth substack {stack.services}/block", "auth requisite pam_textgate.so require"]
    stack.write("auth required pam_permit.so", *lines)
    stack.plan(*["exit 1"] * 4)
    run = stack.run("=password", "=1", "=2", "=3")
    assert (run.seen, run.result) == ([PASSWORD, CODE, CODE, CODE, REFUSAL], AUTH_ERR)


# The verbs one by one

HOSTILE = {
    "!null": CONV_ERR,
    "!nullarray": CONV_ERR,
    "!error": CONV_ERR,
    "!errorwithtext": CONV_ERR,
    "!again": CONV_ERR,
    "!ignore": CONV_ERR,
    "!512": SUCCESS,  # PAM_MAX_RESP_SIZE, the longest answer
    "!513": AUTH_ERR,
    "!1000000": AUTH_ERR,
    "!bytes": SUCCESS,  # control characters are the daemon's to refuse
    "=": SUCCESS,
    "=123456": SUCCESS,
    "=%s%n\x1b[2J": SUCCESS,
}


@pytest.mark.parametrize("kind", ["plain", "sanitised"])
@pytest.mark.parametrize("answer", HOSTILE)
def test_ask_takes_only_an_answer_of_good_form(stack: Stack, answer: str, kind: str) -> None:
    env = {}
    if kind == "sanitised":
        stack.module = stack.built.asan_module
        env = {"LD_PRELOAD": stack.built.libasan, "ASAN_OPTIONS": "detect_leaks=1:exitcode=99"}
    stack.write(
        "auth [ignore=ignore default=die] pam_textgate.so ask",
        "auth [ignore=ignore default=die] pam_textgate.so ask",
        "auth [ignore=ignore default=die] pam_textgate.so restore",
        "auth required pam_permit.so",
    )
    for answers in (["=1", answer], [answer, answer]):
        run = stack.run(*answers, ops="aca", env=env)
        assert run.results[0] == ("a", HOSTILE[answer])
        assert "Sanitizer" not in run.stderr
        assert "runtime error" not in run.stderr


def test_whole_block_is_clean_under_the_sanitisers(stack: Stack) -> None:
    stack.module = stack.built.asan_module
    stack.write_block()
    stack.plan("exit 1", "exit 1", "exit 1", "exit 0", *["exit 1"] * 4)
    env = {"LD_PRELOAD": stack.built.libasan, "ASAN_OPTIONS": "detect_leaks=1:exitcode=99"}
    run = stack.run("=password", "=1", "=", "=3", "=password", "=1", "=2", "=3", ops="aca", env=env)
    assert run.results == [("a", SUCCESS), ("c", SUCCESS), ("a", AUTH_ERR)]


def test_ask_puts_the_authtok_back_when_it_is_broken_off(stack: Stack) -> None:
    stack.write(
        "auth optional pam_exec.so quiet expose_authtok /bin/true",
        "auth optional pam_textgate.so ask",
        "auth optional pam_textgate.so ask",
        f"auth optional pam_exec.so quiet expose_authtok {stack.capture}",
    )
    stack.run("=password", "=code", "!null")
    assert stack.after.read_bytes().rstrip(b"\0") == b"password"


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ("", "OFF Code: "),
        ("noecho", "OFF Code: "),
        ("echo", "ON Code: "),
        ("[prompt=Texted code, or Enter for a new one: ]", "OFF Texted code, or Enter for a new one: "),
        ("prompt=%s%n%s echo", "ON %s%n%s"),  # never a format string
        ("prompt=", "OFF "),
    ],
)
def test_ask_shows_the_prompt_of_the_line(stack: Stack, options: str, shown: str) -> None:
    stack.write(f"auth [ignore=ignore default=die] pam_textgate.so ask {options}", "auth required pam_permit.so")
    assert stack.run("=1").seen == [shown]


def test_deny_says_the_sentence_of_the_line(stack: Stack) -> None:
    stack.write("auth requisite pam_textgate.so deny [text=No code%n, no entry.]")
    run = stack.run()
    assert (run.seen, run.result) == (["ERROR No code%n, no entry."], AUTH_ERR)


def test_deny_refuses_without_a_conversation_too(stack: Stack) -> None:
    stack.write("auth requisite pam_textgate.so deny", "auth required pam_permit.so")
    assert stack.run(options=["-c"]).result == AUTH_ERR


@pytest.mark.parametrize(
    "line",
    [
        "",
        "unknown",
        "Ask",
        "echo",
        "ask prompt",
        "ask Echo",
        "ask echo=1",
        "ask text=no",
        "ask ask",
        "restore echo",
        "start echo",
        "finish text=no",
        "require text=no",
        "deny prompt=no",
        "deny text",
        "first-factor sshd",
        "first-factor echo",
        "first-factor service=sshd unknown",
    ],
)
def test_unknown_words_in_the_line_are_an_error(stack: Stack, line: str) -> None:
    stack.write(f"auth [default=die success=ok ignore=ignore] pam_textgate.so {line}", "auth required pam_permit.so")
    run = stack.run("=1", options=["-t", "ssh", "-e", "SSH_AUTH_INFO_0=publickey ssh-ed25519 AAAA"])
    assert (run.seen, run.result) == ([], SERVICE_ERR)


def test_restore_without_an_ask_before_it_changes_nothing(stack: Stack) -> None:
    stack.write(
        "auth optional pam_exec.so quiet expose_authtok /bin/true",
        "auth [ignore=ignore default=die] pam_textgate.so restore",
        f"auth optional pam_exec.so quiet expose_authtok {stack.capture}",
    )
    assert stack.run("=password").result == SUCCESS
    assert stack.after.read_bytes().rstrip(b"\0") == b"password"


KEY = "SSH_AUTH_INFO_0=publickey ssh-ed25519 AAAAC3NzaC1lZDI1NTE5"


class FirstFactor(NamedTuple):
    """A login that reaches the line, and whether its password is skipped."""

    service: str
    options: str
    tty: str
    env: list[str]
    is_skipped: bool


FIRST_FACTOR = [
    FirstFactor("sshd", "", "ssh", [KEY], True),
    FirstFactor("sshd", "", "ssh", [KEY + "\n"], True),
    FirstFactor("sshd", "service=sshd", "ssh", [KEY], True),
    FirstFactor("sshd-test", "service=sshd service=sshd-test", "ssh", [KEY], True),
    FirstFactor("sshd", "service=sshd-test service=sshd", "ssh", [KEY], True),
    FirstFactor("sshd", "", "ssh", [], False),
    FirstFactor("sshd", "", "ssh", ["SSH_AUTH_INFO_0="], False),
    FirstFactor("sshd", "", "ssh", ["SSH_AUTH_INFO_0=publickey"], False),
    FirstFactor("sshd", "", "ssh", ["SSH_AUTH_INFO_0=publickeyx y"], False),
    FirstFactor("sshd", "", "ssh", ["SSH_AUTH_INFO_0=password\npublickey x"], False),
    FirstFactor("sshd", "", "ssh", ["SSH_AUTH_INFO_0=password"], False),
    FirstFactor("sshd", "", "ssh", ["SSH_AUTH_INFO_0=keyboard-interactive/pam"], False),
    FirstFactor("sshd", "", "ssh", ["SSH_AUTH_INFO_0= publickey x"], False),
    FirstFactor("sshd", "", "ssh", ["SSH_AUTH_INFO=publickey x"], False),
    FirstFactor("sshd", "", "pts/0", [KEY], False),
    FirstFactor("sshd", "", "", [KEY], False),
    FirstFactor("sudo", "", "ssh", [KEY], False),  # the environment is the user's own there
    FirstFactor("sudo", "service=sshd", "ssh", [KEY], False),
    FirstFactor("sshd", "service=ssh", "ssh", [KEY], False),
    FirstFactor("sshd-test", "", "ssh", [KEY], False),
]


@pytest.mark.parametrize("case", FIRST_FACTOR, ids=str)
def test_first_factor_believes_only_sshd_and_only_a_public_key(stack: Stack, case: FirstFactor) -> None:
    stack.write(
        f"auth [success=1 default=ignore] pam_textgate.so first-factor {case.options}",
        "auth requisite pam_deny.so",
        "auth required pam_permit.so",
        service=case.service,
    )
    run = stack.run(
        service=case.service, options=["-t", case.tty, *[word for value in case.env for word in ("-e", value)]]
    )
    assert run.result == (SUCCESS if case.is_skipped else AUTH_ERR)


def test_setcred_succeeds_on_a_fresh_handle_below_first_factor(stack: Stack) -> None:
    stack.write(
        "auth [success=1 default=ignore] pam_textgate.so first-factor",
        "auth requisite pam_unix.so",
        (SOURCE / "textgate.pam").read_text(),
    )
    for options in ([], ["-t", "ssh", "-e", KEY]):
        assert stack.run(ops="c", options=options).results == [("c", SUCCESS)]


def test_first_factor_needs_a_tty(stack: Stack) -> None:
    stack.write("auth sufficient pam_textgate.so first-factor", "auth requisite pam_deny.so")
    assert stack.run(options=["-e", KEY]).result == AUTH_ERR


# How often each is called on this way in; a smaller count would mean that the test strikes no more.
CALLS = {
    "pam_get_item": 5, "pam_set_item": 5, "pam_get_data": 5, "pam_set_data": 3, "pam_putenv": 2, "strdup": 1,
    "calloc": 3, "getrandom": 1,
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_nobody_gets_in_when_a_call_of_the_module_fails(stack: Stack, call: str, number: int) -> None:
    stack.write_block()
    stack.plan("exit 1", "exit 1", "exit 0")
    env = {"LD_PRELOAD": str(stack.built.fail), "PAM_FAIL": f"{call}:{number}"}
    run = stack.run("=password", "=1", "=2", env=env)
    has_failed = "injected" in run.stderr
    assert has_failed == (number <= CALLS[call])
    assert (run.result != SUCCESS) == has_failed
    assert stack.after.exists() != has_failed


@pytest.mark.parametrize("secret", ["password", "first-code", "second-code"])
def test_module_gives_no_memory_back_that_holds_what_was_typed(stack: Stack, secret: str) -> None:
    stack.write_block()
    stack.plan("exit 1", "exit 1", "exit 0")
    env = {"LD_PRELOAD": str(stack.built.fail), "PAM_WATCH": secret}
    run = stack.run("=password", "=first-code", "=second-code", env=env)
    assert (run.result, run.stderr) == (SUCCESS, "")


def test_module_offers_only_the_two_auth_functions(built: Built) -> None:
    for module in (built.module, built.asan_module):
        symbols = subprocess.check_output(["nm", "-D", "--defined-only", "--format=posix", module], text=True)
        names = {line.split()[0] for line in symbols.splitlines()}
        assert {name for name in names if not name.startswith("__")} == {"pam_sm_authenticate", "pam_sm_setcred"}


def test_module_needs_only_libpam_and_libc(built: Built) -> None:
    dynamic = subprocess.check_output(["readelf", "-d", built.module], text=True)
    assert set(re.findall(r"NEEDED.*\[(.*)\]", dynamic)) == {"libpam.so.0", "libc.so.6"}
    assert "BIND_NOW" in dynamic


# What is installed


def test_install_puts_each_file_where_pam_looks(tmp_path: Path) -> None:
    subprocess.run(
        ["make", "-s", "-C", SOURCE, f"BUILD={BUILD}", f"DESTDIR={tmp_path}", "install"], check=True, timeout=60
    )
    multiarch = subprocess.check_output(["cc", "-print-multiarch"], text=True).strip()
    modes = {
        str(path.relative_to(tmp_path)): path.stat().st_mode & 0o7777
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert modes == {
        f"usr/lib/{multiarch}/security/pam_textgate.so": 0o644,
        "usr/libexec/textgate/pam-helper": 0o755,
        "usr/libexec/textgate/textgate_pam.py": 0o644,
        "usr/share/textgate/textgate.pam": 0o644,
        "etc/pam.d/textgate": 0o644,
    }


# In a private mount namespace everything is at its real place: module, helper, sockets, /etc/pam.d, /dev/log.
NAMESPACE = """set -e
work=$1; shift
mount --make-rprivate /
mkdir -p $work/ns; mount -t tmpfs tmpfs $work/ns
for folder in etc usr; do
    mkdir -p $work/ns/$folder/u $work/ns/$folder/w
    mount -t overlay overlay -o lowerdir=/$folder,upperdir=$work/ns/$folder/u,workdir=$work/ns/$folder/w /$folder
done
make -s -C {source} BUILD={build} install
printf '%s\\n' 'auth substack textgate' 'auth requisite pam_textgate.so require' \\
    'account required pam_permit.so' > /etc/pam.d/pamtest
printf 'auth optional pam_textgate.so %s\\n' "ask secret-option" "secret-verb" "ask" > /etc/pam.d/faulty
# The whole of /dev but with a log of ours in it.
mkdir $work/ns/dev; mount -t tmpfs tmpfs $work/ns/dev
for node in null zero urandom tty; do touch $work/ns/dev/$node; mount --bind /dev/$node $work/ns/dev/$node; done
mkdir $work/ns/dev/pts; mount --bind /dev/pts $work/ns/dev/pts
touch $work/ns/dev/log; mount --bind $work/sockets/log $work/ns/dev/log
mount --rbind $work/ns/dev /dev
mount -t tmpfs tmpfs /run
mkdir /run/textgate; mount --bind $work/sockets /run/textgate
exec "$@"
"""


class Daemon:
    """A Unix socket that notes each request and gives the scripted answers in turn, then `deny`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: list[bytes] = []
        self.answers: list[bytes] = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(8)
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(LIMIT_S)
                request = b""
                while chunk := connection.recv(65536):
                    request += chunk
                if not request:
                    return
                self.requests.append(request)
                connection.sendall(self.answers.pop(0) if self.answers else b"deny\n")

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as last:
            last.connect(str(self.path))
        self.thread.join(LIMIT_S)
        self.listener.close()


class World:
    """A private namespace with the real helper, a scripted daemon and a listening /dev/log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sockets = folder / "sockets"
        self.sockets.mkdir()
        self.script = folder / "enter"
        self.script.write_text(NAMESPACE.format(source=SOURCE, build=BUILD))
        self.log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.log.bind(str(self.sockets / "log"))
        self.daemon = Daemon(self.sockets / "auth.sock")

    def close(self) -> None:
        self.daemon.close()
        self.log.close()

    def logged(self) -> list[bytes]:
        self.log.setblocking(False)
        records = []
        with contextlib.suppress(BlockingIOError):
            while True:
                records.append(self.log.recv(65536))
        return records

    def argv(self, *command: str) -> list[str]:
        rights = [] if os.geteuid() == 0 else ["--map-root-user"]
        return ["unshare", "--mount", *rights, "/bin/sh", str(self.script), str(self.folder), *command]

    def pamtester(self) -> pexpect.spawn[str]:
        program, *arguments = self.argv("pamtester", "pamtest", "root", "authenticate", "setcred")
        return pexpect.spawn(program, arguments, encoding="utf-8", timeout=LIMIT_S)


@pytest.fixture
def world(tmp_path: Path, built: Built) -> Iterator[World]:
    assert built.module.exists()
    assert shutil.which("pamtester")
    found = World(tmp_path)
    yield found
    found.close()


def test_installed_block_lets_in_at_the_third_try(world: World) -> None:
    world.daemon.answers = [
        b"ask\nA code is on its way.\n",
        b"ask\nA new code is on its way.\n",
        b"deny\nWrong.\n",
        b"pass\nWelcome.\n",
    ]
    person = world.pamtester()
    person.expect("A code is on its way.\r\nCode: ")
    person.sendline("")
    person.expect("A new code is on its way.\r\nCode: ")
    person.sendline("000 000")
    person.expect("Wrong.\r\nCode: ")
    person.sendline("123 456")
    person.expect("Welcome.")
    person.expect("successfully authenticated")
    person.expect("credential info has successfully been set")
    person.expect(pexpect.EOF)
    person.close()
    assert person.exitstatus == 0
    assert [request.split(b"\0")[0] for request in world.daemon.requests] == [
        b"textgate/1 begin",
        *[b"textgate/1 check"] * 3,
    ]
    assert [request.split(b"\0")[-1] for request in world.daemon.requests[1:]] == [
        b"CODE=",
        b"CODE=000 000",
        b"CODE=123 456",
    ]
    assert b"PAM_USER=root" in world.daemon.requests[0].split(b"\0")


def test_installed_block_jumps_for_one_who_needs_no_code(world: World) -> None:
    world.daemon.answers = [b"skip\n"]
    person = world.pamtester()
    person.expect("successfully authenticated")
    person.expect(pexpect.EOF)
    person.close()
    assert (person.exitstatus, len(world.daemon.requests)) == (0, 1)


@pytest.mark.parametrize("wrong", [b"deny\nWrong.\n", b"skip\n", b"", b"pass", b"\0pass\n", b"\0\0\0\n" * 2000])
def test_installed_block_denies_three_answers_that_are_not_pass(world: World, wrong: bytes) -> None:
    world.daemon.answers = [b"ask\n", wrong, wrong, wrong, b"pass\n"]
    person = world.pamtester()
    for _ in range(3):
        person.expect("Code: ")
        person.sendline("123456")
    person.expect("Access denied: no valid code was given.")
    person.expect(pexpect.EOF)
    person.close()
    assert (person.exitstatus, person.signalstatus) == (1, None)
    logged = b"".join(world.logged())
    assert b"pam-helper failed: exit code 1" in logged
    assert b"123456" not in logged


@pytest.mark.parametrize("key", ["\x03", "\x04"])
def test_installed_block_ends_at_ctrl_c_and_ctrl_d(world: World, key: str) -> None:
    world.daemon.answers = [b"ask\n", b"pass\n"]
    person = world.pamtester()
    person.expect("Code: ")
    person.send(key * 3)
    person.expect(pexpect.EOF)
    person.close()
    assert "successfully" not in str(person.before)
    assert (person.exitstatus, person.signalstatus) in ((1, None), (None, 2))
    assert len(world.daemon.requests) == 1


def test_log_tells_of_a_faulty_line_but_never_what_was_typed(world: World) -> None:
    # Without a terminal pamtester reads what is piped.
    argv = world.argv("pamtester", "faulty", "root", "authenticate")
    subprocess.run(argv, input=b"secret-answer\n", capture_output=True, timeout=LIMIT_S, check=False)
    records = [record for record in world.logged() if b"pam_textgate" in record]
    assert len([record for record in records if b"unknown option for the verb ask" in record]) == 1
    assert len([record for record in records if b"no known verb" in record]) == 1
    assert b"secret" not in b"".join(records)


def test_fail_open_is_told_to_syslog_where_there_is_no_journal(world: World) -> None:
    argv = world.argv("env", "PAM_USER=alice", "PAM_SERVICE=sudo", "/usr/libexec/textgate/pam-helper")
    done = subprocess.run(
        [*argv, "--fail-open", "--socket", "/run/nobody-here", "begin"],
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    (record,) = world.logged()
    assert record.startswith(b"<33>textgate-pam-helper[")  # auth.alert (RFC 3164: facility 4, severity 1)
    assert record.endswith(b"]: begin: textgated cannot be reached, --fail-open let alice into sudo without a code")


# The real helper below pam_exec


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    found = Daemon(tmp_path / "auth.sock")
    yield found
    found.close()


def installed_helper(stack: Stack) -> Path:
    """The real helper in a folder of its own: the launcher and what Python imports beside it."""
    folder = stack.state / "libexec"
    folder.mkdir()
    shutil.copy(SOURCE / "textgate_pam.py", folder)
    return Path(shutil.copy(BUILD / "pam-helper", folder))


def test_helper_gets_pam_items_and_the_ssh_environment(stack: Stack, daemon: Daemon) -> None:
    stack.write_block(helper=f"{installed_helper(stack)} --socket {daemon.path}")
    daemon.answers = [b"ask\n", b"pass\n"]
    connection = "SSH_CONNECTION=192.0.2.7 40000 198.51.100.1 22"
    run = stack.run("=password", "=123 456", options=["-t", "ssh", "-e", KEY, "-e", connection])
    assert run.result == SUCCESS
    begin, check = (request.split(b"\0") for request in daemon.requests)
    known = [
        b"PAM_USER=root",
        b"PAM_SERVICE=sshd",
        b"PAM_TTY=ssh",
        b"PAM_TYPE=auth",
        connection.encode(),
        KEY.encode(),
    ]
    assert begin[1:7] == check[1:7] == known
    assert begin[7:] == check[7:9]
    assert [field.partition(b"=")[0] for field in check[7:]] == [b"PPID", b"PPID_START", b"CODE"]
    assert check[-1] == b"CODE=123 456"


@pytest.mark.parametrize("name", ["PAM_USER", "PAM_SERVICE", "PAM_TTY", "PAM_TYPE"])
def test_helper_refuses_pam_environment_that_poses_as_a_pam_item(stack: Stack, daemon: Daemon, name: str) -> None:
    stack.write_block(helper=f"{installed_helper(stack)} --socket {daemon.path}")
    daemon.answers = [b"skip\n"]
    run = stack.run("=password", "=1", "=2", "=3", options=["-t", "ssh", "-e", f"{name}=mallory"])
    assert (run.result, daemon.requests) == (AUTH_ERR, [])
