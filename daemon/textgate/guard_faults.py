# SPDX-License-Identifier: MIT
"""Every fault that a guarded service can have: its name, how bad it is, its sentence, and what mends it.

This is the one list of them. `textgate pam try` and `enable`, `pam status` and `doctor` all ask it, so that none of
them calls safe what another one calls broken. A new fault is a row of FAULTS. No file is touched here: a `Subject` is
all that is known of a service, as it is or as it is about to be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from .pam_stack import Rule, block_count, has_block, is_ours, lacks_require, lets_in_with_code, verb, ways_around

_NAMES_MAX = 5  # in one sentence

_Words = Mapping[str, str]


class Level(IntEnum):
    """How bad a finding is."""

    OK = 0
    WARNING = 1
    FAILURE = 2


@dataclass(frozen=True)
class Fault:
    """One fault of one service. name: of FAULTS, for programs; it never changes. message: without the service."""

    name: str
    level: Level
    message: str
    remedy: str | None


@dataclass(frozen=True)
class Remembered:
    """What textgate knows of a service that it was told to guard.

    is_half: a change was broken off. is_tried: it is taken back unless it is confirmed. revert_error: why that
    failed.
    """

    is_half: bool = False
    is_tried: bool = False
    has_timer: bool = True
    revert_error: str = ""


@dataclass(frozen=True)
class Subject:
    """One service. rules: its auth stack.

    asks_anybody: whether a code is asked for after a wrong password too, which for sshd its settings say as well.
    empty_users: those whose password is empty. dry_run: what a dry run of the stack found.
    is_block_changed: whether textgate's own lines are others than those that were shipped.
    remembered: None where textgate put no lines in, and for a stack that is only planned.
    """

    service: str
    rules: Sequence[Rule]
    asks_anybody: bool = False
    empty_users: Sequence[str] = ()
    dry_run: Sequence[str] = ()
    is_block_changed: bool = False
    remembered: Remembered | None = None


def faults_of(subject: Subject) -> list[Fault]:
    """All faults of a service, in the order of FAULTS. Raises StackError for a stack too long to be checked."""
    found: list[Fault] = []
    for kind in FAULTS:
        for words in kind.find(subject):
            filled = {"service": subject.service, **words}
            found.append(
                Fault(kind.name, kind.level, kind.message.format_map(filled), kind.remedy.format_map(filled))
            )
        if found and kind.is_last:
            break
    return found


def failures(faults: Iterable[Fault]) -> list[Fault]:
    """Those that let somebody in, or keep everybody out."""
    return [fault for fault in faults if fault.level is Level.FAILURE]


def takes_empty_passwords(rules: Sequence[Rule]) -> bool:
    """Whether a stack lets in a user with an empty password (nullok of pam_unix)."""
    return any(rule.module.endswith("pam_unix.so") and "nullok" in rule.arguments for rule in rules)


def names(users: Sequence[str]) -> str:
    """Some of them, with commas."""
    rest = len(users) - _NAMES_MAX
    return ", ".join(users[:_NAMES_MAX]) + (f" and {rest} more" if rest > 0 else "")


# --- Finding them: what fills the braces of a fault's sentence and remedy, once for each time it is there ---


def _if(is_there: bool, **words: str) -> Iterator[_Words]:
    if is_there:
        yield words


def _at(rule: Rule | None) -> Iterator[_Words]:
    if rule is not None:
        yield {"place": rule.place}


def _ways_around(subject: Subject) -> Iterator[_Words]:
    for place in ways_around(subject.rules):
        yield {"place": place, "file": place.partition(":")[0]}


def _user_environment(subject: Subject) -> Iterator[_Words]:
    for rule in subject.rules[: _first_of_ours(subject.rules)]:
        if rule.module.endswith("pam_env.so") and any(map(_reads_users_own, rule.arguments)):
            yield {"place": rule.place}


def _reads_users_own(argument: str) -> bool:
    """Whether an argument of pam_env means users' own files: a number that atoi(3) finds to be none but 0."""
    name, _, value = argument.partition("=")
    number = re.match(r"[ \t]*[-+]?([0-9]+)", value)
    return name == "user_readenv" and number is not None and int(number[1]) != 0


def _first_of_ours(rules: Sequence[Rule]) -> int:
    return next((at for at, rule in enumerate(rules) if is_ours(rule)), len(rules))


def _real_user(subject: Subject) -> Iterator[_Words]:
    helpers = (rule for rule in subject.rules if is_ours(rule) and verb(rule) in ("begin", "check"))
    return _at(next((rule for rule in helpers if "seteuid" not in rule.arguments), None))


def counts_wrong_passwords(rule: Rule) -> bool:
    """Whether a line is the one by which pam_faillock counts."""
    return rule.module.endswith("pam_faillock.so") and "authfail" in rule.arguments


def _counts_codes(subject: Subject) -> Iterator[_Words]:
    for rule in subject.rules[_first_of_ours(subject.rules) :]:
        if counts_wrong_passwords(rule):
            yield {"place": rule.place}


def _empty_passwords(subject: Subject) -> Iterator[_Words]:
    users = subject.empty_users
    if users and takes_empty_passwords(subject.rules):
        yield {"users": names(users), "first": users[0]}


def _is_half(subject: Subject) -> bool:
    return subject.remembered is not None and subject.remembered.is_half


def _is_tried(subject: Subject) -> bool:
    return subject.remembered is not None and subject.remembered.is_tried


def _revert_error(subject: Subject) -> str:
    return subject.remembered.revert_error if subject.remembered else ""


@dataclass(frozen=True)
class _Kind:
    """A row of FAULTS. message, remedy: with what `find` gives, and the service, in braces.

    is_last: where it is found, the rows below it have nothing to add.
    """

    name: str
    level: Level
    message: str
    remedy: str
    find: Callable[[Subject], Iterable[_Words]]
    is_last: bool = False


_DISABLE = "textgate pam disable {service}"

FAULTS: Sequence[_Kind] = (
    _Kind(
        "half-written", Level.FAILURE, "a change was broken off in the middle", _DISABLE,
        lambda one: _if(_is_half(one)), is_last=True,
    ),
    _Kind(
        "block-gone", Level.FAILURE, "was guarded, and asks for no code any more", _DISABLE,
        lambda one: _if(not has_block(one.rules)), is_last=True,
    ),
    _Kind(
        "way-around", Level.FAILURE, "{place} lets in without a code",
        "edit {file}: a `sufficient` line, or a jump, above textgate's lines ends the stack before them: make it "
        "`requisite`, or put it below",
        _ways_around,
    ),
    _Kind(
        "nobody-gets-in", Level.FAILURE, "lets nobody in, not even with a right code",
        "textgate pam disable {service}; lines of type auth above or below textgate's refuse everybody",
        lambda one: _if(not lets_in_with_code(one.rules)),
    ),
    _Kind(
        "asks-anybody", Level.FAILURE, "texts and asks for codes after a wrong password too",
        "edit /etc/pam.d/{service}: a `required` line, or a `substack`, above textgate's lines does not end the "
        "stack: make it `requisite`, or `include`",
        lambda one: _if(one.asks_anybody),
    ),
    _Kind(
        "two-codes", Level.FAILURE, "asks for more than one code", _DISABLE,
        lambda one: _if(block_count(one.rules) > 1),
    ),
    _Kind(
        "user-environment", Level.FAILURE, "{place} reads users' own environment before the code",
        "take user_readenv out of {place}", _user_environment,
    ),
    _Kind(
        "no-seteuid", Level.FAILURE,
        "{place} runs the helper as the real user of whoever called, who could stop or kill it",
        "put seteuid back into {place}", _real_user,
    ),
    _Kind(
        "empty-password", Level.FAILURE, "these users have an empty password, so a code alone lets them in: {users}",
        "passwd --lock {first}", _empty_passwords,
    ),
    _Kind(
        "block-changed", Level.FAILURE, "asks by lines in /etc/pam.d/textgate that are not those that were shipped",
        "textgate pam repair", lambda one: _if(one.is_block_changed),
    ),
    _Kind(
        "former-lines", Level.WARNING,
        "has textgate's lines of an earlier version: nothing behind them notices a damaged /etc/pam.d/textgate",
        "textgate pam repair", lambda one: _if(lacks_require(one.rules)),
    ),
    _Kind(
        "dry-run", Level.FAILURE, "a dry run of its lines: {error}",
        "textgate pam repair; then, if it stays: apt install --reinstall textgate",
        lambda one: ({"error": error} for error in one.dry_run),
    ),
    _Kind(
        "counts-codes", Level.WARNING, "{place} may count a wrong code as a wrong password, and lock the account",
        "put {place} above textgate's lines", _counts_codes,
    ),
    _Kind(
        "not-confirmed", Level.WARNING, "is being tried and not confirmed", "textgate pam confirm {service}",
        lambda one: _if(_is_tried(one)),
    ),
    _Kind(
        "no-timer", Level.FAILURE, "is being tried, and no timer takes it back", _DISABLE,
        lambda one: _if(_is_tried(one) and one.remembered is not None and not one.remembered.has_timer),
    ),
    _Kind(
        "not-taken-back", Level.FAILURE, "could not be taken back: {error}", _DISABLE,
        lambda one: _if(bool(_revert_error(one)), error=_revert_error(one)),
    ),
)  # fmt: skip
