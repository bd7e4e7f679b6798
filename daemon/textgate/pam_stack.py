# SPDX-License-Identifier: MIT
"""PAM stacks as text: read them, put textgate's lines in and out, and find out whether anybody gets past those lines.

`read_stack` reads what libpam reads (pam.conf(5)), `play` runs it as libpam's _pam_dispatch_aux does, and
`ways_around` plays it with every answer that the other modules can give while textgate says no. A line whose meaning
isn't certain is an error and never a guess. No file is touched here: `read` is a function that gives the text of a
file by the name that stands in an include.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from .errors import TextgateError

BLOCK_NAME = "textgate"  # the file that is included
BEGIN_MARK = "# textgate: begin (made by `textgate pam`; take it out with `textgate pam disable`)"
END_MARK = "# textgate: end"
KEPT_MARK = "#was: "  # a line that textgate's lines stand for, kept inside the block
COMMON = ("@include", "common-auth")
INCLUDES_MAX_DEPTH = 15  # PAM_SUBSTACK_MAX_LEVEL of libpam is 16
LINE_MAX_BYTES = 1000  # libpam of Debian 12 takes 1024
STATES_MAX = 200_000  # of a search; a stack that has more is refused, not trusted

Read = Callable[[str], str]


class FirstFactor(Enum):
    """What comes before the code."""

    PASSWORD = "password"  # noqa: S105  # the name of a factor
    KEY = "key"
    ANY = "any"


@dataclass(frozen=True)
class Rule:
    """One line of type auth, or the head of a substack.

    actions: answer -> ok, done, bad, die, ignore, reset or a number to jump; "default" is always there.
    level: how many substacks it lies in. place: "/etc/pam.d/sshd:4".
    """

    actions: Mapping[str, str]
    module: str
    arguments: tuple[str, ...]
    place: str
    level: int
    is_substack: bool = False

    def action(self, answer: str) -> str:
        """What libpam does when the module answers this."""
        return self.actions.get(answer, self.actions["default"])


class StackError(TextgateError):
    """A PAM file can't be read or is in no form that is known for certain."""


# Names of what modules answer (_pam_token_returns), without `incomplete`, which ends no run, and `conv_again`.
_ANSWERS = """
    success open_err symbol_err service_err system_err buf_err perm_denied auth_err cred_insufficient authinfo_unavail
    user_unknown maxtries new_authtok_reqd acct_expired session_err cred_unavail cred_expired cred_err no_module_data
    conv_err authtok_err authtok_recover_err authtok_lock_busy authtok_disable_aging try_again ignore abort
    authtok_expired module_unknown bad_item
"""
ANSWERS = tuple(_ANSWERS.split())
_NAMES = frozenset([*ANSWERS, "incomplete", "conv_again", "default"])
_KEYWORDS: Mapping[str, Mapping[str, str]] = {
    "required": {"success": "ok", "new_authtok_reqd": "ok", "ignore": "ignore", "default": "bad"},
    "requisite": {"success": "ok", "new_authtok_reqd": "ok", "ignore": "ignore", "default": "die"},
    "sufficient": {"success": "done", "new_authtok_reqd": "done", "default": "ignore"},
    "optional": {"success": "ok", "new_authtok_reqd": "ok", "default": "ignore"},
}
_TYPES = ("auth", "account", "password", "session")
_ACTION = re.compile(r"ok|done|bad|die|ignore|reset|[1-9][0-9]{0,2}")
_PAIR = re.compile(r"[ \t]*(?P<answer>[a-z_]+)[ \t]*=[ \t]*(?P<action>[a-z0-9]+)(?=[ \t]|$)")
_TOKEN = r"(?:\[(?:[^\]\\]|\\.)*\]|[^ \t\[][^ \t]*)"  # noqa: S105  # a word of a line
_LINE = re.compile(
    rf"(?P<type>-?[A-Za-z]+)[ \t]+(?P<control>{_TOKEN})[ \t]+(?P<module>{_TOKEN})(?P<arguments>(?:[ \t]+{_TOKEN})*)"
)
_ARGUMENT = re.compile(_TOKEN)
_INCLUDE = re.compile(r"@include[ \t]+(?P<name>[^ \t]+)")
_ODD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\udc80-\udcff]")  # the last: bytes that are no UTF-8


# --- Reading ---


def read_stack(service: str, read: Read) -> list[Rule]:
    """The auth lines of a service in the order in which libpam has them, includes and substacks opened up.

    Raises StackError for a file that can't be read, and for a line that libpam would not take, or that could mean
    different things to different versions of it.
    """
    return list(_rules_of(service, read, level=0, nesting=0))


def _rules_of(name: str, read: Read, *, level: int, nesting: int) -> Iterator[Rule]:
    place_of = name if name.startswith("/") else f"/etc/pam.d/{name}"
    if nesting > INCLUDES_MAX_DEPTH:
        raise StackError(f"{place_of}: is included by itself")
    for number, line in logical_lines(read(name), place_of):
        place = f"{place_of}:{number}"
        include = _INCLUDE.fullmatch(line)
        if include:
            yield from _rules_of(include["name"], read, level=level, nesting=nesting + 1)
            continue
        match = _LINE.fullmatch(line)
        kind = match["type"].lower().removeprefix("-") if match else ""
        if match is None or kind not in _TYPES:
            raise StackError(f"{place}: is in no form that PAM knows", hint="mend that line; see: man pam.conf")
        if kind != "auth":
            continue
        control = match["control"].lower()
        if control in ("include", "substack"):
            is_substack = control == "substack"
            if is_substack:
                yield Rule({"default": "ignore"}, match["module"], (), place, level, is_substack=True)
            yield from _rules_of(match["module"], read, level=level + is_substack, nesting=nesting + 1)
            continue
        arguments = tuple(word[1:-1] if word[0] == "[" else word for word in _ARGUMENT.findall(match["arguments"]))
        yield Rule(_actions(match["control"], place), match["module"].strip("[]"), arguments, place, level)


def logical_lines(text: str, place: str = "") -> Iterator[tuple[int, str]]:
    """Number and text of each line that isn't empty or a comment; lines ending in a backslash are joined.

    Raises StackError for what versions of libpam read differently: comments and blank lines inside a continued line,
    control characters, an end of file inside a line, very long lines.
    """
    pending: list[str] = []
    started_at = 0
    for number, raw in enumerate(text.split("\n"), start=1):
        line, hash_sign, _ = raw.partition("#")
        line = line.strip(" \t")
        goes_on = line.endswith("\\")
        if _ODD.search(line) or (hash_sign and (goes_on or pending)) or (pending and not line):
            raise StackError(f"{place}:{number}: can't be read with certainty", hint="write it as one plain line")
        if not line:
            continue
        started_at = number if not pending else started_at
        pending.append(line.removesuffix("\\").strip(" \t"))
        if goes_on:
            continue
        whole = " ".join(pending).strip()
        pending = []
        if len(whole.encode()) > LINE_MAX_BYTES:
            raise StackError(f"{place}:{started_at}: is too long for PAM")
        if whole:
            yield started_at, whole
    if pending:
        raise StackError(f"{place}:{started_at}: ends in the middle of a line")


def _actions(control: str, place: str) -> Mapping[str, str]:
    if control.lower() in _KEYWORDS:
        return _KEYWORDS[control.lower()]
    if not (control.startswith("[") and control.endswith("]")):
        raise StackError(f"{place}: has an unknown control", hint="mend that line; see: man pam.conf")
    inner, at = control[1:-1], 0
    actions: dict[str, str] = {}
    while inner[at:].strip(" \t"):
        pair = _PAIR.match(inner, at)
        if pair is None or pair["answer"] not in _NAMES or not _ACTION.fullmatch(pair["action"]):
            raise StackError(f"{place}: has a control that PAM doesn't know", hint="see: man pam.conf")
        if pair["answer"] == "default":  # the first one fills all that isn't named, so a second one has no effect
            actions.setdefault("default", pair["action"])
        else:
            actions[pair["answer"]] = pair["action"]
        at = pair.end()
    actions.setdefault("default", "bad")
    return actions


# --- Playing a stack through ---


@dataclass(frozen=True)
class _State:
    """Where a run is. verdict: None undecided, else whether it is good; status: "success" or what it is instead.

    entered: verdict and status at the entry of each substack, which `reset` goes back to.
    skipped_by: the line that went around textgate's question. decided_by: the line that made the verdict good.
    """

    at: int = 0
    verdict: bool | None = None
    status: str = "perm_denied"
    entered: tuple[tuple[bool | None, str], ...] = ((None, "perm_denied"),)
    skipped_by: str | None = None
    decided_by: str | None = None
    has_asked: bool = False


def play(rules: Sequence[Rule], answers: Callable[[int, Rule], str]) -> str:
    """What libpam answers if each module answers as given: "success", or the name of the failure."""
    state = _State()
    while (rule := _current(rules, state)) is not None:
        state = _step(rules, state, "success" if rule.is_substack else answers(state.at, rule))
    return _end(state)


def _end(state: _State) -> str:
    return "perm_denied" if state.status == "success" and state.verdict is not True else state.status


def _current(rules: Sequence[Rule], state: _State) -> Rule | None:
    return rules[state.at] if state.at < len(rules) else None


def _step(rules: Sequence[Rule], state: _State, answer: str) -> _State:
    """One line, as libpam does it."""
    rule = rules[state.at]
    if rule.is_substack:
        entered = (*state.entered[: rule.level + 1], (state.verdict, state.status))
        return replace(state, at=state.at + 1, entered=entered)
    state = replace(state, has_asked=state.has_asked or is_ask(rule))
    action = rule.action(answer)
    if action == "ignore":
        return replace(state, at=state.at + 1)
    if action == "reset":
        verdict, status = state.entered[rule.level]
        return replace(state, at=state.at + 1, verdict=verdict, status=status)
    if action in ("ok", "done"):
        if state.verdict is None or (state.verdict is True and state.status == "success"):
            decided_by = state.decided_by if state.verdict else rule.place
            state = replace(state, verdict=True, status=answer, decided_by=decided_by)
        is_decided = action == "done" and state.verdict is True
        return _leave(rules, state) if is_decided else replace(state, at=state.at + 1)
    if action in ("bad", "die"):
        if state.verdict is not False:
            state = replace(state, verdict=False, status="perm_denied" if answer == "ignore" else answer)
        return _leave(rules, state) if action == "die" else replace(state, at=state.at + 1)
    return _jump(rules, state, int(action))


def _jump(rules: Sequence[Rule], state: _State, count: int) -> _State:
    """Over the next lines of this level; a substack counts as one. A jump past the end makes the stack fail."""
    level, at = rules[state.at].level, state.at
    while count > 0 and at + 1 < len(rules) and rules[at + 1].level >= level:
        at += 1
        while at + 1 < len(rules) and rules[at + 1].level > level:
            at += 1
        count -= 1
    state = _over(rules, state, at)
    if count:
        return replace(state, at=at + 1, verdict=False, status="perm_denied")
    return replace(state, at=at + 1)


def _leave(rules: Sequence[Rule], state: _State) -> _State:
    """To the end of this substack, or of everything."""
    level, at = rules[state.at].level, state.at
    while at + 1 < len(rules) and rules[at + 1].level >= level:
        at += 1
    return replace(_over(rules, state, at), at=at + 1)


def _over(rules: Sequence[Rule], state: _State, last: int) -> _State:
    """Remembers the line, if it is the first to pass over textgate's question."""
    rule = rules[state.at]
    is_first = not (is_ours(rule) or state.has_asked or state.skipped_by)
    if is_first and any(map(is_ask, rules[state.at + 1 : last + 1])):
        return replace(state, skipped_by=rule.place)
    return state


# --- What can come of it ---

# What textgate's lines can answer. While the answer is no, whatever breaks included, `first-factor` alone says
# success: it knows the key, and no code.
_BROKEN = ("service_err", "system_err", "buf_err", "module_unknown")
_NO: Mapping[str, tuple[str, ...]] = {
    "start": ("ignore", *_BROKEN),
    "begin": ("system_err", "auth_err", "perm_denied", "ignore", *_BROKEN),
    "ask": ("ignore", "conv_err", "auth_err", *_BROKEN),
    "check": ("system_err", "auth_err", "perm_denied", "ignore", *_BROKEN),
    "deny": ("auth_err", "service_err", "module_unknown"),
    "restore": ("ignore", *_BROKEN),
    "finish": ("auth_err", *_BROKEN),  # the helper gives no word with a no
    "require": ("auth_err", *_BROKEN),
    "first-factor": ("success", "ignore", *_BROKEN),
}
_YES: Mapping[str, tuple[str, ...]] = {
    "start": ("ignore",),
    "begin": ("system_err",),
    "ask": ("ignore",),
    "check": ("success",),
    "deny": ("auth_err",),
    "restore": ("ignore",),
    "finish": ("ignore",),
    "require": ("ignore",),
    "first-factor": ("success", "ignore"),
}
_UNNAMED = dict.fromkeys(("finish", "require"), ("auth_err",))  # what they say to an attempt that no `start` began
# Modules with one answer. pam_rootok may let in: it is how root becomes another user with su.
_FIXED: Mapping[str, tuple[str, ...]] = {
    "pam_deny.so": ("auth_err",),
    "pam_permit.so": ("success",),
    "pam_rootok.so": ("auth_err",),
    "pam_faildelay.so": ("ignore",),
}


def ways_around(rules: Sequence[Rule]) -> tuple[str, ...]:
    """Places of the lines by which somebody is let in while textgate says no; empty if there is no way around it.

    Every answer of every other module is tried. A stack without textgate's lines is one big way around.
    Raises StackError for a stack that has too many states to be looked at.
    """
    return tuple(openings(rules))


def openings(rules: Sequence[Rule]) -> dict[str, dict[int, str]]:
    """As `ways_around`, each with a run that takes it: index of a rule -> what its module answers."""
    came_from = _search(rules, _NO)
    found: dict[str, dict[int, str]] = {}
    for state in came_from:
        if _current(rules, state) is None and _end(state) == "success":
            place = state.skipped_by or state.decided_by or "the end of the stack"
            found.setdefault(place, _run_to(state, came_from))
    return found


def opens_while_refused(rules: Sequence[Rule], known: Callable[[Rule], Sequence[str] | None]) -> bool:
    """Whether a run of a stack lets in while textgate says no, as `ways_around`.

    known: what the module of a line can answer, where it is more than "anything"; else None.
    """
    states = _search(rules, _NO, known)
    return any(_current(rules, one) is None and _end(one) == "success" for one in states)


def _run_to(state: _State, came_from: Mapping[_State, tuple[_State, str] | None]) -> dict[int, str]:
    answers = {}
    while (step := came_from[state]) is not None:
        state, answer = step
        answers[state.at] = answer
    return answers


def lets_in_with_code(rules: Sequence[Rule]) -> bool:
    """Whether a right code can let in at all, by way of textgate's question. Raises StackError as `ways_around`."""
    is_named = any(is_ours(rule) and verb(rule) == "start" for rule in rules)
    states = _search(rules, _YES if is_named else {**_YES, **_UNNAMED})
    return any(_current(rules, one) is None and _end(one) == "success" and one.has_asked for one in states)


def asks_anybody(rules: Sequence[Rule]) -> bool:
    """Whether textgate is asked even where every other module says no, as it is below a `required` line.

    PAM goes on behind such a line although the login is lost. Whoever knows a name could then have texts sent to its
    owner, and lock him out with wrong codes.
    """
    met = []

    def refuse(_at: int, rule: Rule) -> str:
        if is_ours(rule):
            met.append(verb(rule))
            return "ignore" if verb(rule) in ("first-factor", "start") else "system_err"
        return _FIXED.get(_file_name(rule.module), ("auth_err",))[0]

    play(rules, refuse)
    return "begin" in met


def _search(
    rules: Sequence[Rule],
    ours: Mapping[str, tuple[str, ...]],
    known: Callable[[Rule], Sequence[str] | None] = lambda _rule: None,
) -> dict[_State, tuple[_State, str] | None]:
    """Every state that a run can be in, with the state and the answer that it came from."""
    came_from: dict[_State, tuple[_State, str] | None] = {_State(): None}
    answers = [_distinct(rule, known(rule) or _possible(rule, ours)) for rule in rules]
    waiting = deque(came_from)
    while waiting:
        state = waiting.popleft()
        for answer in answers[state.at] if state.at < len(rules) else ():
            following = _step(rules, state, answer)
            # What it failed with makes no difference any more.
            if following.status not in ("success", "perm_denied"):
                following = replace(following, status="perm_denied")
            if following not in came_from:
                came_from[following] = (state, answer)
                waiting.append(following)
        if len(came_from) > STATES_MAX:
            raise StackError("the stack is too long to be checked")
    return came_from


def _distinct(rule: Rule, answers: Iterable[str]) -> list[str]:
    """One answer of each kind that makes a difference to a run."""
    kinds = {(rule.action(answer), answer if answer in ("success", "ignore") else ""): answer for answer in answers}
    return list(kinds.values())


def _possible(rule: Rule, ours: Mapping[str, tuple[str, ...]]) -> Iterable[str]:
    if rule.is_substack:
        return ("success",)
    if is_ours(rule):
        return ours.get(verb(rule), ("auth_err",))
    return _FIXED.get(_file_name(rule.module), ANSWERS)


def is_ours(rule: Rule) -> bool:
    """Whether a line is one of textgate's."""
    return not rule.is_substack and (_file_name(rule.module) == "pam_textgate.so" or _helper_at(rule) is not None)


def verb(rule: Rule) -> str:
    """What one of textgate's lines does, such as begin, ask, check, require; "" for none of them."""
    if _file_name(rule.module) == "pam_textgate.so":
        return rule.arguments[0] if rule.arguments else ""
    return rule.arguments[-1] if _helper_at(rule) is not None else ""


def is_ask(rule: Rule) -> bool:
    """Whether the line asks for a code."""
    return is_ours(rule) and verb(rule) == "ask"


def _helper_at(rule: Rule) -> int | None:
    if _file_name(rule.module) != "pam_exec.so":
        return None
    return next((at for at, word in enumerate(rule.arguments) if word.endswith("/textgate/pam-helper")), None)


def _file_name(module: str) -> str:
    return module.rpartition("/")[2]


def has_block(rules: Sequence[Rule]) -> bool:
    """Whether textgate asks for a code in this stack."""
    return any(map(is_ask, rules))


def lacks_require(rules: Sequence[Rule]) -> bool:
    """Whether nothing behind textgate's lines notices that their file is cut off: they are of an earlier version."""
    asked = [at for at, rule in enumerate(rules) if is_ours(rule) and verb(rule) == "begin"]
    return bool(asked) and not any(is_ours(rule) and verb(rule) == "require" for rule in rules[asked[-1] :])


def block_count(rules: Sequence[Rule]) -> int:
    """How many times textgate's lines are in this stack; more than one asks, and texts, more than once."""
    return sum(is_ours(rule) and verb(rule) == "begin" for rule in rules)


# --- Putting the lines in and out ---

# Nothing in the block's file can jump over the second line, or end the stack before it: it is a substack.
ASKING = (f"auth substack {BLOCK_NAME}", "auth requisite pam_textgate.so require")
_FORMER_ASKING = (f"@include {BLOCK_NAME}",)  # of earlier versions
_AFTER_KEY = (
    "auth [success=1 default=ignore] pam_textgate.so first-factor",
    "auth requisite pam_unix.so",
)
# For a key as well as for any: no change of sshd's AuthenticationMethods can make the code the only factor.
_BEFORE: Mapping[FirstFactor, tuple[str, ...]] = {
    FirstFactor.PASSWORD: (),
    FirstFactor.KEY: _AFTER_KEY,
    FirstFactor.ANY: _AFTER_KEY,
}
_BODIES = {first_factor: (*before, *ASKING) for first_factor, before in _BEFORE.items()}
_FORMER = {(*before, *_FORMER_ASKING): (*before, *ASKING) for before in _BEFORE.values()}  # -> today's
# What common-auth may be made of for `pam_unix` to say all that it says.
_PLAIN_COMMON = frozenset(["pam_unix.so", "pam_deny.so", "pam_permit.so", "pam_cap.so", "pam_faildelay.so"])


def body_lines(first_factor: FirstFactor) -> tuple[str, ...]:
    """The PAM lines that stand for textgate in a service's file."""
    return _BODIES[first_factor]


def with_block(text: str, first_factor: FirstFactor, *, service: str) -> str:
    """A service's file with textgate's lines behind its first factor.

    With PASSWORD they stand behind `@include common-auth`, or behind the last auth line; with KEY and ANY they take
    the place of `@include common-auth`, which stays in the file as a comment.
    Raises StackError for a file that has the lines already, or no place for them; its hint has the lines to add.
    """
    place = f"/etc/pam.d/{service}"
    lines = text.split("\n")
    if has_mark(text):
        raise StackError(f"{place}: has textgate's lines already", hint=f"textgate pam disable {service}")
    body = body_lines(first_factor)
    by_hand = "put these lines in by hand, in the place of the first factor:\n  " + "\n  ".join(body)
    included = [at for at, line in enumerate(lines) if tuple(line.partition("#")[0].split()) == COMMON]
    if first_factor is not FirstFactor.PASSWORD:
        if len(included) != 1:
            raise StackError(
                f"{place}: has no line `@include common-auth` that textgate's could replace", hint=by_hand
            )
        kept = included[0]
        block = [BEGIN_MARK, f"{KEPT_MARK}{lines[kept]}", *body, END_MARK]
        return "\n".join([*lines[:kept], *block, *lines[kept + 1 :]])
    at = included[-1] if included else _last_auth_line(lines)
    if at is None:
        by_hand = "put these lines in by hand, behind the first factor:\n  " + "\n  ".join(body)
        raise StackError(f"{place}: has no auth line to put textgate's behind", hint=by_hand)
    return "\n".join([*lines[: at + 1], BEGIN_MARK, *body, END_MARK, *lines[at + 1 :]])


def _last_auth_line(lines: list[str]) -> int | None:
    """Where the last line of type auth ends, continued lines included."""
    found, goes_on, is_auth = None, False, False
    for at, line in enumerate(lines):
        bare = line.partition("#")[0].strip(" \t")
        is_auth = is_auth if goes_on else re.match(r"-?auth[ \t]", bare, re.IGNORECASE) is not None
        goes_on = bare.endswith("\\")
        if is_auth and not goes_on:
            found = at
            is_auth = False
    return found


def has_mark(text: str) -> bool:
    """Whether a file has lines that `with_block` made, or what is left of them."""
    return any(line in (BEGIN_MARK, END_MARK) for line in text.split("\n"))


def without_block(text: str) -> str | None:
    """The file as it was before `with_block`; what else has changed in it since stays.

    None if it has no such lines, or if they were changed by hand, so that nobody can tell what belongs to them.
    """
    found = _block_in(text)
    if found is None:
        return None
    lines, first, last = found
    kept = [line.removeprefix(KEPT_MARK) for line in lines[first : first + 1] if line.startswith(KEPT_MARK)]
    return "\n".join([*lines[: first - 1], *kept, *lines[last + 1 :]])


def with_todays_block(text: str) -> str | None:
    """A file that has the lines of an earlier version, with today's in their place; what else is in it stays.

    None if it has no such lines, today's included.
    """
    found = _block_in(text)
    if found is None:
        return None
    lines, first, last = found
    first += lines[first].startswith(KEPT_MARK)
    body = _FORMER.get(tuple(lines[first:last]))
    return None if body is None else "\n".join([*lines[:first], *body, *lines[last:]])


def _block_in(text: str) -> tuple[list[str], int, int] | None:
    """A file's lines, where those between textgate's marks begin, and where the end mark is.

    None where they are not of `with_block`'s making, today's or an earlier one's.
    """
    lines = text.split("\n")
    marks = [at for at, line in enumerate(lines) if line in (BEGIN_MARK, END_MARK)]
    if len(marks) != 2 or lines[marks[0]] != BEGIN_MARK or lines[marks[1]] != END_MARK:
        return None
    first, last = marks[0] + 1, marks[1]
    body = tuple(lines[first + lines[first].startswith(KEPT_MARK) : last])
    return (lines, first, last) if body in _BODIES.values() or body in _FORMER else None


def block_text(text: str) -> str:
    """The lines from mark to mark, to be shown to who has to take them out by hand."""
    lines = text.split("\n")
    marks = [at for at, line in enumerate(lines) if line in (BEGIN_MARK, END_MARK)]
    return "\n".join(lines[marks[0] : marks[-1] + 1]) if marks else ""


def is_plain_common(rules: Sequence[Rule]) -> bool:
    """Whether common-auth checks passwords by pam_unix alone, so that the one line of `body_lines` says the same."""
    modules = {_file_name(rule.module) for rule in rules}
    return "pam_unix.so" in modules and modules <= _PLAIN_COMMON
