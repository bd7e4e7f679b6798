# SPDX-License-Identifier: MIT
"""The block of PAM lines, damaged in every way that one line can be, in the machine's own libpam.

Nobody gets in without a code; and whatever is changed in it, `pam_block.compare` tells.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from textgate.pam_block import HELPER, compare
from textgate.pam_stack import ASKING

ROOT = Path(__file__).resolve().parents[2]
AIDS = Path(__file__).with_name("pam_aids")
SHIPPED = (ROOT / "pam_helper/textgate.pam").read_text()
LINES = [line for line in SHIPPED.splitlines() if line and not line.startswith("#")]
SUCCESS, PERM_DENIED, AUTH_ERR, CRASH = 0, 6, 7, 1000
KEYWORDS = ("required", "requisite", "sufficient", "optional")
ACTIONS = ("ok", "done", "die", "bad", "ignore", "reset", "1", "3", "5", "8", "9", "10", "11", "12", "13", "24")
VERBS = ("start", "ask", "deny", "restore", "finish", "require", "first-factor", "none")
TRAILING = ["auth optional pam_permit.so"] * 12
"""What stands behind in some service: a jump may land there."""


# --- Every change of one line ---


def mutations() -> Iterator[tuple[str, list[str]]]:
    """What was done, and the lines that came of it."""
    for at, line in enumerate(LINES):
        number = at + 1
        yield f"{number} dropped", LINES[:at] + LINES[at + 1 :]
        yield f"{number} twice", [*LINES[:at], line, *LINES[at:]]
        for other in range(at + 1, len(LINES)):
            swapped = [*LINES]
            swapped[at], swapped[other] = swapped[other], swapped[at]
            if swapped != LINES:
                yield f"{number} and {other + 1} swapped", swapped
        for what, changed in changes(line):
            yield f"{number}: {what}", [*LINES[:at], changed, *LINES[at + 1 :]]


def changes(line: str) -> Iterator[tuple[str, str]]:
    """A line with its control, its module, its verb or one of its words changed."""
    control = line.split("]", maxsplit=1)[0] + "]" if "[" in line else " ".join(line.split()[:2])
    for match in re.finditer(r"(\w+)=(\w+)(?=[ \]])", control):
        for action in ACTIONS:
            if action != match[2]:
                changed = f"{match[1]}={action}"
                yield changed, line[: match.start()] + changed + line[match.end() :]
    for keyword in KEYWORDS:
        if f"auth {keyword}" != control:
            yield keyword, f"auth {keyword} {line[len(control) :].strip()}"
    for module in ("pam_permit.so", "pam_deny.so", "pam_none.so"):
        if module not in line:
            yield module, re.sub(r"pam_(textgate|exec|permit)\.so", module, line)
    head, _, last = line.rpartition(" ")
    verbs = VERBS if "pam_textgate.so" in line else ("begin", "check", "none") if "pam_exec" in line else ()
    yield from ((verb, f"{head} {verb}") for verb in verbs if verb != last)
    for word in line.removeprefix(control).split():
        yield f"without {word}", re.sub(rf"\s{re.escape(word)}(?=\s|$)", "", line, count=1)


MUTATIONS = list(mutations())


def test_table_is_as_long_as_it_was() -> None:
    """So that a change of the block's form does not make the tests below look at nothing."""
    assert len(MUTATIONS) > 500
    assert len({"\n".join(lines) for _, lines in MUTATIONS}) > 490


@pytest.mark.parametrize(("what", "lines"), MUTATIONS, ids=[what for what, _ in MUTATIONS])
def test_every_change_is_told(what: str, lines: list[str]) -> None:
    assert compare(SHIPPED, "\n".join(lines)).faults, what


# --- In libpam ---


@dataclass(frozen=True)
class Case:
    """One login. block, service: the text of their files. typed: as pam_cases.c takes it."""

    block: str
    service: str
    typed: str


class Pam:
    """Runs cases in libpam."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self.module = folder / "pam" / "pam_textgate.so"
        subprocess.run(
            ["make", "-s", "-C", ROOT / "pam_helper", f"BUILD={folder}/pam", "CFLAGS=-O2", "all"], check=True
        )
        self.once, self.skip = folder / "once", folder / "skip"
        flags = [f'-DONCE="{self.once}"', f'-DSKIP="{self.skip}"']
        self._cases = self._compile("pam_cases.c", "-lpam")
        self.honest = self._compile("pam_word.c", *flags)

    def _compile(self, source: str, *flags: str) -> Path:
        program = self._folder / source.removesuffix(".c")
        command: list[str | Path] = [
            "cc",
            "-D_DEFAULT_SOURCE",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-o",
            program,
            AIDS / source,
        ]
        subprocess.run([*command, *flags], check=True)
        return program

    def run(self, cases: Sequence[Case], helper: Path | str, *, module: Path | None = None) -> list[int]:
        """What libpam answers to each. helper: what stands in for the helper."""
        asked = [self._write(case, str(helper), module or self.module) for case in cases]
        done = subprocess.run(
            [self._cases], input="\n".join(asked), capture_output=True, text=True, check=True, timeout=300
        )
        return [int(line) for line in done.stdout.split()]

    def _write(self, case: Case, helper: str, module: Path) -> str:
        folder = self._folder / "cases" / str(self._count)
        self._count += 1
        folder.mkdir(parents=True)
        for name, text in (("textgate", case.block), ("service", case.service)):
            here = text.replace("pam_textgate.so", str(module)).replace(HELPER, helper)
            here = re.sub(r"(substack|include)(\s+)textgate\b", rf"\1\2{folder}/textgate", here)
            (folder / name).write_text(here)
        return f"{folder} service {case.typed}"


@pytest.fixture(scope="module")
def pam(tmp_path_factory: pytest.TempPathFactory) -> Pam:
    return Pam(tmp_path_factory.mktemp("pam"))


def service(*behind: str, asking: Sequence[str] = ASKING) -> str:
    """A service with a first factor that was given, textgate's lines, and others behind them."""
    return "\n".join(["auth required pam_permit.so", *asking, *behind]) + "\n"


def test_shipped_block_lets_in_by_a_right_code_at_each_try_and_by_nothing_else(pam: Pam) -> None:
    for typed, wanted in {
        "right": SUCCESS,
        "wrong,right": SUCCESS,
        "wrong,wrong,right": SUCCESS,
        "wrong,wrong,wrong,right": AUTH_ERR,
        "wrong": AUTH_ERR,
    }.items():
        pam.once.touch()
        assert pam.run([Case(SHIPPED, service(), typed)], pam.honest) == [wanted]
    pam.skip.touch()
    assert pam.run([Case(SHIPPED, service(), "!")], pam.honest) == [SUCCESS]
    pam.skip.unlink()


HELPERS = {"honest": None, "foreign": "/bin/true", "missing": "/none/pam-helper", "says much": "/usr/bin/env"}


@pytest.mark.parametrize(
    ("helper", "typed", "behind"),
    [
        ("honest", "wrong", TRAILING),
        ("honest", "wrong,!", []),
        ("foreign", "!", TRAILING),
        ("missing", "!", []),
        ("says much", "!", []),
    ],
)
def test_no_changed_line_lets_in_without_a_code(pam: Pam, helper: str, typed: str, behind: list[str]) -> None:
    pam.once.unlink(missing_ok=True)
    cases = [Case("\n".join(lines) + "\n", service(*behind), typed) for _, lines in MUTATIONS]
    found = pam.run(cases, HELPERS[helper] or pam.honest)
    assert [what for (what, _), status in zip(MUTATIONS, found, strict=True) if status in (SUCCESS, CRASH)] == []


def test_lines_of_an_earlier_version_are_safe_from_a_foreign_helper_while_the_end_of_the_block_is_whole(
    pam: Pam,
) -> None:
    former = ["@include textgate"]
    assert pam.run([Case(SHIPPED, service(asking=former), "wrong")], "/bin/true") == [AUTH_ERR]
    # Why there is a line behind it now.
    assert pam.run([Case("", service(asking=former), "wrong")], pam.honest) == [SUCCESS]


@pytest.mark.parametrize(("helper", "step"), [("honest", 7), ("foreign", 1)])
def test_no_cut_of_the_block_lets_in(pam: Pam, helper: str, step: int) -> None:
    text = "\n".join(LINES) + "\n"
    cuts = range(0, len(text), step)
    found = pam.run([Case(text[:cut], service(*TRAILING), "wrong") for cut in cuts], HELPERS[helper] or pam.honest)
    assert [cut for cut, status in zip(cuts, found, strict=True) if status == SUCCESS] == []


@pytest.mark.parametrize("helper", ["honest", "foreign"])
def test_no_cut_behind_the_first_line_of_the_two_lets_in(pam: Pam, helper: str) -> None:
    """Where the file ends before that, the service is one without textgate: see `pam status`."""
    text = service()
    begin = text.index(ASKING[0])
    cuts = range(begin + 1, len(text))
    found = pam.run([Case(SHIPPED, text[:cut], "wrong") for cut in cuts], HELPERS[helper] or pam.honest)
    assert [text[begin:cut] for cut, status in zip(cuts, found, strict=True) if status == SUCCESS] == []
    assert pam.run([Case(SHIPPED, text[:begin], "wrong")], pam.honest) == [SUCCESS]


def test_no_cut_of_the_module_lets_in(pam: Pam, tmp_path: Path) -> None:
    """Nearly all are no library any more; those that only lack what is never loaded work as the whole one does."""
    whole = tmp_path / "whole.so"
    subprocess.run(["strip", "--strip-unneeded", "-o", whole, pam.module], check=True)
    content = whole.read_bytes()
    size = len(content)
    cuts = sorted({*range(0, size, 32), *range(size - 64, size)})
    modules = [tmp_path / f"{cut}.so" for cut in cuts]
    for cut, module in zip(cuts, modules, strict=True):
        module.write_bytes(content[:cut])
    found = [pam.run([Case(SHIPPED, service(), "wrong")], "/bin/true", module=module)[0] for module in modules]
    assert [cut for cut, status in zip(cuts, found, strict=True) if status == SUCCESS] == []
    assert pam.run([Case(SHIPPED, service(), "wrong")], "/bin/true", module=whole) == [AUTH_ERR]


@pytest.mark.parametrize("cut_file", ["pam-helper", "textgate_pam.py"])
def test_no_cut_of_the_helper_lets_in(pam: Pam, tmp_path: Path, cut_file: str) -> None:
    """Nobody answers at the socket: a helper that says yes has not asked."""
    launcher = tmp_path / "pam-helper"
    subprocess.run(["strip", "-o", launcher, pam.module.with_name("pam-helper")], check=True)
    source = (ROOT / "pam_helper/textgate_pam.py").read_bytes()
    (tmp_path / "textgate_pam.py").write_bytes(source)
    whole = {"pam-helper": launcher.read_bytes(), "textgate_pam.py": source}[cut_file]
    if cut_file == "pam-helper":
        cuts = sorted({*range(0, 1024, 8), *range(0, len(whole), 64), *range(len(whole) - 32, len(whole))})
    else:
        cuts = [match.end() for match in re.finditer(rb"\n(?=\n)", whole)]
    helpers = []
    for cut in cuts:
        folder = tmp_path / str(cut)
        folder.mkdir()
        for path in (launcher, tmp_path / "textgate_pam.py"):
            shutil.copy(path, folder)
        (folder / cut_file).write_bytes(whole[:cut])
        helpers.append(f"{folder}/pam-helper --socket {tmp_path}/none")
    # Once begin has been asked, the person gives up: what check makes of the cut file is the same.
    found = [pam.run([Case(SHIPPED, service(), "!")], helper)[0] for helper in helpers]
    assert [cut for cut, status in zip(cuts, found, strict=True) if status == SUCCESS] == []
    only_check = SHIPPED.replace(f"{HELPER} begin", "/bin/false begin")
    some = helpers[:: max(1, len(cuts) // 20)]
    found = [pam.run([Case(only_check, service(), "1,!")], helper)[0] for helper in some]
    assert SUCCESS not in found
