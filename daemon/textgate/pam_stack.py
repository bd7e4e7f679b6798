# SPDX-License-Identifier: MIT
"""PAM stacks as text: read them, put textgate's lines in, and find out whether anybody gets past those lines.

`ways_around` plays a stack through as libpam does (pam.conf(5), _pam_dispatch_aux in libpam) with every answer that
the other modules can give while textgate says no, and names the lines that let in all the same. No file is touched
here: `read` is a function that gives the text of a file below /etc/pam.d.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from .errors import TextgateError

BLOCK_NAME = "textgate"  # the file that is included
BEGIN_MARK = "# textgate: begin (made by `textgate pam`; take it out with `textgate pam disable`)"
END_MARK = "# textgate: end"
INCLUDES_MAX_DEPTH = 8
MODULES_MAX = 40  # of other modules' answers, that is; a longer stack is not played through but refused
FREE_MODULES_MAX = 9  # modules whose answers are tried in all combinations: 3 ** 9 runs

Read = Callable[[str], str]


class FirstFactor(Enum):
    """What comes before the code."""

    PASSWORD = "password"  # noqa: S105  # the name of a factor
    KEY = "key"
    ANY = "any"


class Answer(Enum):
    """What a module says, as far as it matters here."""

    SUCCESS = "success"
    IGNORE = "ignore"
    AUTH_ERR = "auth_err"


@dataclass(frozen=True)
class Rule:
    """One line of type auth. actions: answer -> ok, done, bad, die, ignore, reset or a number to jump."""

    actions: Mapping[str, str]
    module: str
    arguments: tuple[str, ...]
    place: str
    depth: int  # how many substacks it lies in


class StackError(TextgateError):
    """A PAM file can't be read or is in no known form."""


_KEYWORDS: Mapping[str, Mapping[str, str]] = {
    "required": {"success": "ok", "ignore": "ignore", "default": "bad"},
    "requisite": {"success": "ok", "ignore": "ignore", "default": "die"},
    "sufficient": {"success": "done", "default": "ignore"},
    "optional": {"success": "ok", "default": "ignore"},
}
_ACTION = re.compile(r"ok|done|bad|die|ignore|reset|[1-9][0-9]*")
_LINE = re.compile(r"-?(?P<type>\w+)\s+(?P<control>\[[^\]]*\]|\S+)\s+(?P<module>\S+)\s*(?P<arguments>.*)", re.DOTALL)
_INCLUDE = re.compile(r"@include\s+(?P<name>\S+)")


# --- Reading ---


def read_auth_rules(service: str, read: Read) -> list[Rule]:
    """The auth lines of a service in the order in which libpam runs them, includes and substacks opened up.

    Raises StackError for a file that can't be read, or a line that libpam would not take either.
    """
    return list(_rules_of(service, read, depth=0, nesting=0))


def _rules_of(name: str, read: Read, *, depth: int, nesting: int) -> Iterator[Rule]:
    if nesting > INCLUDES_MAX_DEPTH:
        raise StackError(f"/etc/pam.d/{name}: is included by itself")
    for number, line in logical_lines(read(name)):
        place = f"/etc/pam.d/{name}:{number}"
        include = _INCLUDE.fullmatch(line)
        if include:
            yield from _rules_of(include["name"], read, depth=depth, nesting=nesting + 1)
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise StackError(f"{place}: is in no form that PAM knows")
        if match["type"].lower() != "auth":
            continue
        control = match["control"]
        if control in ("include", "substack"):
            inner = depth + (control == "substack")
            yield from _rules_of(match["module"], read, depth=inner, nesting=nesting + 1)
            continue
        yield Rule(_actions(control, place), match["module"], tuple(match["arguments"].split()), place, depth)


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line that isn't empty or a comment; lines ending in a backslash are joined."""
    pending, started_at = "", 0
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.partition("#")[0].rstrip() if not pending else raw.rstrip()
        started_at = started_at or number
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        whole, pending = (pending + line).strip(), ""
        if whole:
            yield started_at, whole
        started_at = 0
    if pending.strip():
        yield started_at, pending.strip()


def _actions(control: str, place: str) -> Mapping[str, str]:
    if control in _KEYWORDS:
        return _KEYWORDS[control]
    if not control.startswith("["):
        raise StackError(f"{place}: has the unknown control {control!r}")
    actions = {}
    for pair in control[1:-1].split():
        answer, _, action = pair.partition("=")
        if not _ACTION.fullmatch(action):
            raise StackError(f"{place}: has an action that PAM doesn't know")
        actions[answer.lower()] = action
    return actions


# --- Playing a stack through ---


def ways_around(rules: list[Rule]) -> tuple[str, ...]:
    """Places of lines that let in while textgate says no, in order; empty if there is no way around it.

    pam_rootok may let in: it is how root becomes another user with su. A stack without textgate's lines is one
    big way around. Raises StackError for a stack that is too long to be played through.
    """
    others = [at for at, rule in enumerate(rules) if not _is_ours(rule) and not _is_helpless(rule)]
    if len(others) > MODULES_MAX:
        raise StackError("the stack is too long to be checked")
    # Beyond the free ones every module says yes, which is what a way around needs most of the time.
    free = others[:FREE_MODULES_MAX]
    found: dict[str, None] = {}
    for answers in itertools.product(Answer, repeat=len(free)):
        given = dict(zip(free, answers, strict=True))
        culprit = _play(rules, given)
        if culprit is not None:
            found[culprit] = None
    return tuple(found)


def _play(rules: list[Rule], given: Mapping[int, Answer]) -> str | None:
    """One run with textgate saying no: the place of the line that decided to let in, or None if nobody gets in."""
    is_positive: bool | None = None  # None: nothing decided yet
    decided_by = "the end of the stack"
    at = 0
    while at < len(rules):
        rule = rules[at]
        answer = _our_answer(rule) if _is_ours(rule) else given.get(at, _usual_answer(rule))
        action = rule.actions.get(answer.value, rule.actions.get("default", "bad"))
        if action.isdigit():
            at += int(action) + 1
            continue
        if action == "reset":
            is_positive = None
        elif action in ("bad", "die"):
            is_positive = False
        elif action in ("ok", "done") and is_positive is not False and answer is Answer.SUCCESS:
            is_positive, decided_by = True, rule.place
        if action == "die" or (action == "done" and is_positive):
            if rule.depth == 0:
                break
            at = _after_substack(rules, at)
            continue
        at += 1
    return decided_by if is_positive else None


def _after_substack(rules: list[Rule], at: int) -> int:
    depth = rules[at].depth
    while at < len(rules) and rules[at].depth >= depth:
        at += 1
    return at


def _is_ours(rule: Rule) -> bool:
    return _file_name(rule.module) == "pam_textgate.so" or any(
        argument.endswith("/textgate/pam-helper") for argument in rule.arguments
    )


def _our_answer(rule: Rule) -> Answer:
    """What textgate's own lines say when the answer is no: questions are asked, and everything else is refused."""
    verb = rule.arguments[0] if rule.arguments else ""
    return Answer.IGNORE if verb in ("ask", "restore", "first-factor") else Answer.AUTH_ERR


def _usual_answer(rule: Rule) -> Answer:
    return {"pam_deny.so": Answer.AUTH_ERR, "pam_rootok.so": Answer.AUTH_ERR}.get(
        _file_name(rule.module), Answer.SUCCESS
    )


def _is_helpless(rule: Rule) -> bool:
    """Modules that have one answer only."""
    return _file_name(rule.module) in ("pam_deny.so", "pam_permit.so", "pam_rootok.so")


def _file_name(module: str) -> str:
    return module.rpartition("/")[2]


def has_block(rules: list[Rule]) -> bool:
    """Whether textgate asks for a code in this stack."""
    return any(_is_ours(rule) and rule.arguments[:1] == ("ask",) for rule in rules)


# --- Putting the lines in ---


def block_lines(first_factor: FirstFactor) -> list[str]:
    """The lines that stand for textgate in a service's file, for each first factor."""
    inner = {
        FirstFactor.PASSWORD: ["@include textgate"],
        FirstFactor.KEY: ["@include textgate"],
        FirstFactor.ANY: [
            "auth [success=1 default=ignore] pam_textgate.so first-factor",
            "auth requisite pam_unix.so",
            "@include textgate",
        ],
    }[first_factor]
    return [BEGIN_MARK, *inner, END_MARK]


def with_block(text: str, first_factor: FirstFactor, *, service: str) -> str:
    """A service's file with textgate's lines behind its first factor.

    With PASSWORD they stand behind the last line that asks for something; with KEY and ANY they take the place of
    `@include common-auth`, since sshd has seen the key (which stays in the file as a comment).
    Raises StackError for a file that has the lines already, or no place for them; its hint has the lines to add.
    """
    if BEGIN_MARK in text.split("\n"):
        raise StackError(f"/etc/pam.d/{service}: has textgate's lines already")
    lines = text.split("\n")
    at = _place(lines)
    block = block_lines(first_factor)
    if at is None or (first_factor is not FirstFactor.PASSWORD and lines[at].split() != ["@include", "common-auth"]):
        raise StackError(
            f"/etc/pam.d/{service}: there is no `@include common-auth` to put textgate's lines behind",
            hint="put these lines in by hand, after the first factor:\n  " + "\n  ".join(block[1:-1]),
        )
    if first_factor is FirstFactor.PASSWORD:
        return "\n".join([*lines[: at + 1], *block, *lines[at + 1 :]])
    return "\n".join([*lines[:at], block[0], f"# {lines[at]}", *block[1:], *lines[at + 1 :]])


def _place(lines: list[str]) -> int | None:
    """Index of the line behind which the block goes: the last include of common-auth, else the last auth line."""
    included = [at for at, line in enumerate(lines) if line.split() == ["@include", "common-auth"]]
    if included:
        return included[-1]
    plain = [at for at, line in enumerate(lines) if re.match(r"-?auth\s", line) and not line.rstrip().endswith("\\")]
    return plain[-1] if plain else None
