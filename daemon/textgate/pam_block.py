# SPDX-License-Identifier: MIT
"""Compares /etc/pam.d/textgate with the block that was shipped, and puts the shipped one in its place.

Rules of this file:
- A line of the block does what it does by its control, its module and its arguments. All of that is compared, but for
  the few options that are an administrator's to choose: they are told, and kept.
- No file is touched here.
- Needs nothing but the standard library: the package's scripts call it while others may not be there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from .pam_stack import Rule, StackError, is_ours, logical_lines, read_stack, verb

BLOCK = "/etc/pam.d/textgate"
SHIPPED = "/usr/share/textgate/textgate.pam"
HELPER = "/usr/libexec/textgate/pam-helper"
FAIL_OPEN = "--fail-open"
_NEW_VERBS = ("start", "finish")  # that the blocks of earlier versions did not have

_Option = tuple[str, ...]  # one word, or a word and its value


@dataclass(frozen=True)
class _Line:
    """One line. key: what is compared. options: an administrator's own. number: in its file, from 1."""

    key: tuple[object, ...]
    options: tuple[_Option, ...]
    verb: str
    number: int
    text: str


@dataclass(frozen=True)
class Comparison:
    """How the installed block differs. faults: a sentence each. options: of the administrator's own, a sentence each.

    is_fail_open: whether some line lets in without a code where the daemon can't be reached.
    """

    faults: tuple[str, ...]
    options: tuple[str, ...] = ()
    is_fail_open: bool = False


def compare(shipped: str, installed: str) -> Comparison:
    """Every line that is missing, changed, moved, or none of the block's.

    Raises StackError if `shipped` is damaged.
    """
    wanted = _lines(shipped)
    try:
        found = _lines(installed)
    except StackError as error:
        return Comparison((error.message,))
    options = tuple(
        f"{BLOCK}:{line.number} has {' '.join(word for option in line.options for word in option)}"
        for line in found
        if line.options
    )
    is_fail_open = any((FAIL_OPEN,) in line.options for line in found)
    return Comparison(tuple(_differences(wanted, found)), options, is_fail_open)


def is_of_ours(shipped: str, installed: str) -> bool:
    """Whether nobody has changed more than options in it: it is today's block, or that of an earlier version."""
    return any(not compare(block, installed).faults for block in (shipped, _former(shipped)))


def repaired(shipped: str, installed: str) -> str:
    """The shipped block with those options of the installed one that are an administrator's to choose."""
    try:
        kept = _by_place(_lines(installed))
    except StackError:
        kept = {}
    options = {line.number: kept.get(place, ()) for place, line in _places(_lines(shipped))}
    lines = shipped.split("\n")
    return "\n".join(_with_options(line, options.get(number, ())) for number, line in enumerate(lines, start=1))


def _former(shipped: str) -> str:
    """The block as it was before there was a word to be given."""
    return "\n".join(line.text for line in _lines(shipped) if line.verb not in _NEW_VERBS)


# --- Reading a block ---


def _lines(text: str) -> list[_Line]:
    """The lines of a block. Raises StackError for one that PAM would not take."""
    return [_line(number, line) for number, line in logical_lines(text, BLOCK)]


def _line(number: int, text: str) -> _Line:
    def read(name: str) -> str:
        if name != "textgate":
            raise StackError(f"{BLOCK}:{number} takes in another file")
        return text

    try:
        rules = read_stack("textgate", read)
    except StackError as error:
        raise StackError(error.message.replace(f"{BLOCK}:1:", f"{BLOCK}:{number}:")) from None
    if len(rules) != 1:  # of another type than auth
        return _Line((text,), (), "", number, text)
    rule = rules[0]
    arguments, options = _without_options(rule)
    actions = tuple(sorted(rule.actions.items()))
    return _Line((actions, rule.module, arguments), options, _role(rule), number, text)


def _role(rule: Rule) -> str:
    if HELPER in rule.arguments:
        return next((word for word in rule.arguments if word in ("begin", "check")), "")
    return verb(rule) if is_ours(rule) else rule.module


def _is_path(value: str) -> bool:
    return value.startswith("/")


def _is_number(value: str) -> bool:
    return re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) is not None


# The options that are an administrator's to choose, with what their value must be; None for those without one.
_OF_HELPER: Mapping[str, Callable[[str], bool] | None] = {
    FAIL_OPEN: None, "--socket": _is_path, "--deadline": _is_number, "quiet_log": None,
}  # fmt: skip
_OF_MODULE: Mapping[str, tuple[str, ...]] = {"ask": ("prompt=", "echo", "noecho"), "deny": ("text=",)}


def _without_options(rule: Rule) -> tuple[tuple[str, ...], tuple[_Option, ...]]:
    """A line's arguments without those options, and the options."""
    if not is_ours(rule):
        return rule.arguments, ()
    if HELPER in rule.arguments:
        return _split_helper(rule.arguments)
    allowed = _OF_MODULE.get(verb(rule), ())
    options = [
        word
        for word in rule.arguments[1:]
        if any(word == one or (one[-1] == "=" and word.startswith(one)) for one in allowed)
    ]
    kept = tuple(word for word in rule.arguments if word not in options)
    return kept, tuple((word,) for word in options)


def _split_helper(arguments: Sequence[str]) -> tuple[tuple[str, ...], tuple[_Option, ...]]:
    kept: list[str] = []
    options: list[_Option] = []
    words = iter(arguments)
    for word in words:
        is_good = _OF_HELPER.get(word)
        # Behind the verb they would work, but nothing else that reads these lines looks there for the verb then.
        is_in_place = HELPER not in kept if word == "quiet_log" else kept[-1:] == [HELPER]
        if word not in _OF_HELPER or not is_in_place:
            kept.append(word)
        elif is_good is None:
            options.append((word,))
        else:
            value = next(words, "")
            if is_good(value):
                options.append((word, value))
            else:
                kept += [word, value]
    return tuple(kept), tuple(options)


# --- Comparing ---


def _differences(wanted: Sequence[_Line], found: Sequence[_Line]) -> Iterator[str]:
    matcher = SequenceMatcher(a=[line.key for line in wanted], b=[line.key for line in found], autojunk=False)
    changes = [code for code in matcher.get_opcodes() if code[0] != "equal"]
    missing = [line for _, low, high, _, _ in changes for line in wanted[low:high]]
    added = [line for _, _, _, low, high in changes for line in found[low:high]]
    for line in list(missing):
        moved = next((one for one in added if one.key == line.key), None)
        if moved is not None:
            yield f"{BLOCK}:{moved.number} is moved; it should be line {_place(wanted, line)} of the block"
            missing.remove(line)
            added.remove(moved)
    for line in list(missing):
        changed = next((one for one in added if one.verb == line.verb), None)
        if changed is not None:
            yield f"{BLOCK}:{changed.number} is changed; it should be: {' '.join(line.text.split())}"
            missing.remove(line)
            added.remove(changed)
    for line in missing:
        yield f"{BLOCK} lacks line {_place(wanted, line)} of the block: {' '.join(line.text.split())}"
    for line in added:
        yield f"{BLOCK}:{line.number} is no line of the block"


def _place(lines: Sequence[_Line], line: _Line) -> int:
    return lines.index(line) + 1


# --- Putting the options into the shipped block ---


def _places(lines: Iterable[_Line]) -> Iterator[tuple[tuple[str, int], _Line]]:
    """Each line with what it does, and the how manieth of those that do it."""
    seen: dict[str, int] = {}
    for line in lines:
        seen[line.verb] = seen.get(line.verb, 0) + 1
        yield (line.verb, seen[line.verb]), line


def _by_place(lines: Iterable[_Line]) -> dict[tuple[str, int], tuple[_Option, ...]]:
    return {place: line.options for place, line in _places(lines)}


def _with_options(line: str, options: Sequence[_Option]) -> str:
    for option in options:
        if option[0] not in _OF_HELPER:
            line = f"{line} {_written(option)}"
    for option in reversed(options):  # each goes before those that are there
        if option == ("quiet_log",):
            line = line.replace(" quiet ", f" quiet {_written(option)} ", 1)
        elif option[0] in _OF_HELPER:
            line = line.replace(f"{HELPER} ", f"{HELPER} {_written(option)} ", 1)
    return line


def _written(option: _Option) -> str:
    return " ".join(f"[{word}]" if " " in word else word for word in option)
