# SPDX-License-Identifier: MIT
"""`pam_stack.play` and `ways_around` against the machine's own libpam, on stacks that a generator makes up.

Each stack is written twice: with modules that answer what their line says, for libpam, and as it would stand in
/etc/pam.d, for pam_stack. A wrong step of the simulator shows as a different answer.
"""

from __future__ import annotations

import itertools
import math
import random
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from textgate.pam_stack import (
    ANSWERS,
    Rule,
    StackError,
    is_ours,
    lets_in_with_code,
    openings,
    play,
    read_stack,
    verb,
    ways_around,
)

AIDS = Path(__file__).with_name("pam_aids")
BLOCK = Path(__file__).parents[2] / "pam_helper" / "textgate.pam"
NUMBER = {name: number for number, name in enumerate(ANSWERS)}  # PAM's return values are in this order
SERVICE = "main"
FOLDER = "FOLDER:"  # stands for the folder of the files: Debian's libpam takes includes from /etc/pam.d if not told

Files = dict[str, str]
Run = Callable[[Sequence[Files]], list[str]]


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module that answers what it is told."""
    module = tmp_path_factory.mktemp("pam") / "pam_stub.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", module, AIDS / "pam_stub.c"], check=True)
    return module


@pytest.fixture(scope="module")
def run_libpam(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What libpam answers for each set of files, as pam_stack names it."""
    program = tmp_path_factory.mktemp("pam") / "pam_batch"
    subprocess.run(["cc", "-Wall", "-Werror", "-o", program, AIDS / "pam_batch.c", "-lpam"], check=True)

    def run(stacks: Sequence[Files]) -> list[str]:
        folder = tmp_path_factory.mktemp("stacks")
        for number, files in enumerate(stacks):
            confdir = folder / str(number)
            confdir.mkdir()
            for name, text in files.items():
                (confdir / name).write_text(text.replace(FOLDER, f"{confdir}/"))
        asked = "".join(f"{folder}/{number} {SERVICE}\n" for number in range(len(stacks)))
        done = subprocess.run([program], input=asked, capture_output=True, text=True, check=True, timeout=300)
        return [ANSWERS[int(line)] for line in done.stdout.split()]

    return run


# --- Stacks ---


@dataclass
class Line:
    """A line of type auth: a module, an include, or another type's line. answer: what the module says."""

    control: str
    module: str
    answer: str = "success"


@dataclass
class Stack:
    """Files by name, each a list of lines."""

    files: dict[str, list[Line]] = field(default_factory=dict)

    def text(self, stub: Path) -> Files:
        """For libpam."""

        def written(line: Line) -> str:
            if line.control == "@include":
                return f"@include {FOLDER}{line.module}"
            if line.control in ("include", "substack"):
                return f"auth {line.control} {FOLDER}{line.module}"
            return f"auth {line.control} {stub} {NUMBER[line.answer]}"

        return {name: "".join(f"{written(line)}\n" for line in lines) for name, lines in self.files.items()}

    def plain(self) -> Files:
        """As it would stand in /etc/pam.d; the module's name and arguments are what pam_stack looks at."""

        def written(line: Line) -> str:
            return f"@include {line.module}" if line.control == "@include" else f"auth {line.control} {line.module}"

        return {name: "".join(f"{written(line)}\n" for line in lines) for name, lines in self.files.items()}


ACTIONS = ("ok", "done", "bad", "die", "ignore", "reset")


def random_control(rng: random.Random, answers: Sequence[str]) -> str:
    """A keyword, or actions for some answers."""
    if rng.random() < 0.5:
        return rng.choice(("required", "requisite", "sufficient", "optional"))
    named = rng.sample([*answers, "default"], rng.randint(1, 3))
    pairs = [f"{name}={rng.choice([*ACTIONS, str(rng.randint(1, 4))])}" for name in named]
    return f"[{' '.join(pairs)}]"


def random_stack(rng: random.Random, answers: Sequence[str] = ANSWERS, lines_max: int = 6) -> Stack:
    """Up to three files that include one another without a circle."""
    names = [SERVICE, "inner", "deeper"][: rng.randint(1, 3)]
    stack = Stack()
    for at, name in enumerate(names):
        stack.files[name] = []
        for _ in range(rng.randint(1, lines_max)):
            below = names[at + 1 :]
            if below and rng.random() < 0.35:
                line = Line(rng.choice(("@include", "include", "substack")), rng.choice(below))
            else:
                answer = rng.choice((*answers, *["success"] * len(answers)))
                line = Line(random_control(rng, answers), "pam_other.so", answer)
            stack.files[name].append(line)
    return stack


def read(files: Files) -> list[Rule]:
    """The rules of the service, from these files."""

    def text_of(name: str) -> str:
        name = name.removeprefix(FOLDER)
        if name not in files:
            raise StackError(f"{name}: no such file")
        return files[name]

    return read_stack(SERVICE, text_of)


# --- The simulator ---


def simulated(rules: Sequence[Rule]) -> str:
    """What pam_stack says of a stack of stubs."""
    return play(rules, lambda _at, rule: ANSWERS[int(rule.arguments[0])])


@pytest.mark.parametrize("seed", range(3))
def test_random_stacks_end_as_in_libpam(stub: Path, run_libpam: Run, seed: int) -> None:
    rng = random.Random(seed)
    few = ("success", "ignore", "auth_err", "new_authtok_reqd")  # answers that meet often; and all of them
    stacks = [random_stack(rng, few if number % 3 else ANSWERS) for number in range(800)]
    texts = [stack.text(stub) for stack in stacks]
    found = run_libpam(texts)
    for text, answer in zip(texts, found, strict=True):
        assert simulated(read(text)) == answer, text
    assert {"success", "perm_denied", "auth_err"} <= set(found)
    assert 0.1 < found.count("success") / len(found) < 0.9


def odd_writing(rng: random.Random, text: str) -> str:
    """The same lines as people write them: blanks, tabs, capitals, comments, continued lines, other types."""
    written = []
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        word, _, rest = rest.partition(" ") if not rest.startswith("[") else rest.partition("] ")
        if kind == "@include":
            written.append(f"{kind}{rng.choice((' ', '  ', chr(9)))}{word}")
            continue
        word = f"{word}]" if word.startswith("[") else rng.choice((word, word.upper()))
        word = word.replace("=", rng.choice(("=", " = ", "= ")))
        between = [rng.choice((" ", "  ", "\t", " \\\n  ")) for _ in range(2)]
        comment = rng.choice(("", "  # a remark", " #[", "")) if "\\" not in "".join(between) else ""
        auth = rng.choice(("auth", "AUTH", "-auth", "Auth"))
        written.append(f"{rng.choice(('', ' ', chr(9)))}{auth}{between[0]}{word}{between[1]}{rest}{comment}")
        if rng.random() < 0.3:
            written.append(
                rng.choice(("", "# auth sufficient pam_permit.so", "account required pam_deny.so", "  \t"))
            )
    return "\n".join(written) + rng.choice(("", "\n", "\n\n"))


@pytest.mark.parametrize("seed", range(2))
def test_lines_are_read_as_libpam_reads_them(stub: Path, run_libpam: Run, seed: int) -> None:
    rng = random.Random(1000 + seed)
    texts = [
        {name: odd_writing(rng, text) for name, text in random_stack(rng).text(stub).items()} for _ in range(800)
    ]
    found = run_libpam(texts)
    for text, answer in zip(texts, found, strict=True):
        assert simulated(read(text)) == answer, text


# --- Ways around ---


def block_lines(rng: random.Random) -> list[Line]:
    """The installed lines, or those of an earlier version, which asked for no word and had more ways around."""
    rows = [line.split(None, 1)[1] for line in BLOCK.read_text().splitlines() if line.startswith("auth")]
    lines = []
    for row in rows:
        control, _, module = row.partition("] ") if row.startswith("[") else row.partition(" ")
        lines.append(Line(f"{control}]" if row.startswith("[") else control, module.strip()))
    assert len(lines) == 12
    former = [line for line in lines if not line.module.endswith((" start", " finish"))]
    return rng.choice((lines, former, former))


def damaged(rng: random.Random, lines: list[Line]) -> list[Line]:
    """The block with one line changed, moved or lost."""
    at = rng.randrange(len(lines))
    line = lines[at]
    if rng.random() < 0.3:
        return [*lines[:at], *lines[at + 1 :]]
    if rng.random() < 0.4:
        extra = Line(random_control(rng, ("success", "ignore", "auth_err")), "pam_other.so")
        return [*lines[:at], extra, *lines[at:]]
    control = rng.choice(
        (f"[success={rng.randint(1, 9)} default=ignore]", random_control(rng, ("success", "ignore")))
    )
    return [*lines[:at], Line(control, line.module), *lines[at + 1 :]]


def guarded_stack(rng: random.Random) -> Stack:
    """A few lines of other modules around textgate's, which may be whole or not."""
    stack = random_stack(rng, ("success", "ignore", "auth_err"), lines_max=2)
    block = block_lines(rng) if rng.random() < 0.6 else damaged(rng, block_lines(rng))
    where = stack.files[rng.choice(list(stack.files))]
    at = rng.randint(0, len(where))
    where[at:at] = block
    return stack


# What textgate's lines say while the answer is no. Only what changes the way of a run: there are many runs.
NO: Mapping[str, tuple[str, ...]] = {
    "start": ("ignore",),
    "begin": ("system_err",),
    "ask": ("ignore", "conv_err"),
    "check": ("system_err",),
    "deny": ("auth_err",),
    "restore": ("ignore",),
    "finish": ("auth_err",),
}
FEW = ("success", "ignore", "auth_err")


def written(rules: Sequence[Rule], stub: Path, answers: Mapping[int, str]) -> Files:
    """The same stack for libpam, without includes. answers: index of a rule -> what its module says."""
    files: Files = {SERVICE: ""}
    names = [SERVICE]
    for at, rule in enumerate(rules):
        names = names[: rule.level + 1]
        if rule.is_substack:
            inner = f"sub{len(files)}"
            files[names[-1]] += f"auth substack {FOLDER}{inner}\n"
            files[inner] = ""
            names.append(inner)
            continue
        control = " ".join(f"{answer}={action}" for answer, action in rule.actions.items())
        files[names[-1]] += f"auth [{control}] {stub} {NUMBER[answers.get(at, 'auth_err')]}\n"
    return files


def runs(rng: random.Random, rules: Sequence[Rule], most: int = 40) -> list[dict[int, str]]:
    """Answers of all modules: every combination, or some if there are many."""
    choices = {at: NO[verb(rule)] if is_ours(rule) else FEW for at, rule in enumerate(rules) if not rule.is_substack}
    if math.prod(map(len, choices.values())) <= most:
        return [dict(zip(choices, answers, strict=True)) for answers in itertools.product(*choices.values())]
    return [{at: rng.choice(answers) for at, answers in choices.items()} for _ in range(most)]


@pytest.mark.parametrize("seed", range(2))
def test_no_run_of_libpam_gets_around_what_is_said_to_be_closed(stub: Path, run_libpam: Run, seed: int) -> None:
    rng = random.Random(2000 + seed)
    stacks = [read(guarded_stack(rng).plain()) for _ in range(100)]
    batches = [[written(rules, stub, answers) for answers in runs(rng, rules)] for rules in stacks]
    found = iter(run_libpam([text for batch in batches for text in batch]))
    opened_count = 0
    for rules, batch in zip(stacks, batches, strict=True):
        answers = [next(found) for _ in batch]
        if "success" in answers:
            opened_count += 1
            assert ways_around(rules), rules
    assert opened_count > 10
    assert sum(not ways_around(rules) for rules in stacks) > 20


def test_each_way_around_that_is_named_is_one_in_libpam(stub: Path, run_libpam: Run) -> None:
    """No false alarm: the run that is given with a way lets in, with textgate's lines saying no."""
    rng = random.Random(3000)
    stacks = [read(guarded_stack(rng).plain()) for _ in range(400)]
    named = [(rules, answers) for rules in stacks for answers in openings(rules).values()]
    for rules, answers in named:
        ours = {at: answer for at, answer in answers.items() if is_ours(rules[at])}
        assert all(answer != "success" or verb(rules[at]) == "first-factor" for at, answer in ours.items())
    found = run_libpam([written(rules, stub, answers) for rules, answers in named])
    assert set(found) == {"success"}
    assert len(found) > 100


def test_installed_lines_have_no_way_around_and_let_a_right_code_in() -> None:
    rules = read({SERVICE: BLOCK.read_text()})
    assert ways_around(rules) == ()
    assert lets_in_with_code(rules)
