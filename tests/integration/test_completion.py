# SPDX-License-Identifier: MIT
"""TAB in bash, zsh and fish: real shells on a terminal, with the scripts as they are installed."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = {"bash": "bash/textgate", "zsh": "zsh/_textgate", "fish": "fish/textgate.fish"}
WITHIN_S = 60  # for a machine that is busy; nothing here waits that long
READY = "ready-42> "

PAM_VERBS = {"confirm", "disable", "enable", "repair", "status", "try"}
PEOPLE = {"root"} | {entry.pw_name for entry in pwd.getpwall() if entry.pw_uid >= 1000} - {"nobody"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts, as the build makes them."""
    folder = tmp_path_factory.mktemp("completion")
    script = REPOSITORY / "packaging/completion/make_scripts.py"
    subprocess.run(["/usr/bin/python3", "-I", "-B", script, folder], check=True, timeout=60, cwd="/")
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A PATH with this textgate in front, and a home with nothing in it."""
    folder = tmp_path_factory.mktemp("shell")
    program = folder / "bin" / "textgate"
    program.parent.mkdir()
    program.write_text(
        f"#!/usr/bin/python3 -IB\nimport sys\nsys.path.insert(0, {str(REPOSITORY / 'daemon')!r})\n"
        "from textgate.cli import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    (home := folder / "home").mkdir()
    path = f"{program.parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": str(home), "TERM": "dumb", "LC_ALL": "C.UTF-8", "PS1": READY}


Shell = Callable[[str], str]


@pytest.fixture
def bash(made: Path, environment: dict[str, str], tmp_path: Path) -> Iterator[Shell]:
    """Type a line and TAB in bash; answers what the line has become."""
    rc = tmp_path / "rc"
    rc.write_text(f"source {made / SCRIPTS['bash']}\nPS1='{READY}'\nbind 'set bell-style none'\n")
    yield from on_terminal(["bash", "--noprofile", "--rcfile", str(rc), "-i"], environment, tmp_path)


@pytest.fixture
def zsh(made: Path, environment: dict[str, str], tmp_path: Path) -> Iterator[Shell]:
    """The same in zsh, which finds the script in its function path, as it does where it is installed."""
    (tmp_path / ".zshrc").write_text(
        f"fpath=({(made / SCRIPTS['zsh']).parent} $fpath)\nautoload -Uz compinit\ncompinit -u -d {tmp_path}/dump\n"
        f"PS1='{READY}'\nunsetopt zle_bracketed_paste prompt_cr prompt_sp beep\n"
    )
    yield from on_terminal(["zsh", "-d", "-i"], environment | {"ZDOTDIR": str(tmp_path)}, tmp_path)


def on_terminal(argv: list[str], environment: dict[str, str], folder: Path) -> Iterator[Shell]:
    """A shell on a terminal: a line is typed, then TAB, then a mark, and the line as it is then is echoed."""
    # A program that is put in front of a line shows what the shell made of it, without a word of the terminal's.
    shell = pexpect.spawn(
        argv[0], argv[1:], env={**os.environ, **environment}, encoding="utf-8", timeout=WITHIN_S, cwd=str(folder),
        dimensions=(50, 300),
    )  # fmt: skip
    try:
        shell.expect_exact(READY)

        def complete(line: str) -> str:
            shell.send(f"{line}\t")
            # What is typed behind TAB is read once the completion is done. Ctrl-A, Ctrl-E: begin and end of the line.
            shell.send("\x05END'\x01print_line '\r")
            shell.expect(r"line=<([^\r\n]*)END>\r?\n")
            assert shell.match is not None
            completed = str(shell.match[1])
            shell.expect_exact(READY)
            return completed

        shell.sendline("print_line() { printf 'li''ne=<%s>\\n' \"$1\"; }")
        shell.expect_exact(READY)
        yield complete
    finally:
        shell.close(force=True)


@pytest.fixture
def shell(request: pytest.FixtureRequest) -> Shell:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


both = pytest.mark.parametrize("shell", ["bash", "zsh"], indirect=True)


@both
@pytest.mark.parametrize(
    ("typed", "becomes"),
    [
        ("textgate doc", "textgate doctor "),
        ("textgate pam conf", "textgate pam confirm "),
        ("textgate keys rot", "textgate keys rotate "),
        ("textgate pam try --first", "textgate pam try --first-factor "),
        ("textgate pam try --first-factor pass", "textgate pam try --first-factor password "),
        ("textgate unlock roo", "textgate unlock root "),
        ("textgate log --user roo", "textgate log --user root "),
        ("textgate login-test root ssh", "textgate login-test root sshd "),
        ("textgate pam enable ssh", "textgate pam enable sshd "),
        ("textgate --config /etc/pam.d/ssh", "textgate --config /etc/pam.d/sshd "),
        ("textgate setup --answers /etc/pam.d/ssh", "textgate setup --answers /etc/pam.d/sshd "),
        ("textgate setup --number-file /etc/pam.d/ssh", "textgate setup --number-file /etc/pam.d/sshd "),
        ("textgate setup --user roo", "textgate setup --user root "),
        ("textgate setup --first-factor pass", "textgate setup --first-factor password "),
        ("textgate pam try common-a", "textgate pam try common-a"),
        ("textgate unlock nobod", "textgate unlock nobod"),
        ("textgate bogus", "textgate bogus"),
    ],
)
def test_tab_completes_a_word(shell: Shell, typed: str, becomes: str) -> None:
    assert shell(typed).rstrip() == becomes.rstrip()


@both
def test_first_tab_of_a_session_completes(shell: Shell) -> None:
    """zsh loads the script at that moment."""
    assert shell("textgate stat").rstrip() == "textgate status"


# --- What is offered where more than one word fits: each shell is asked for its list. ---


def offered_by_bash(line: str, made: Path, environment: dict[str, str]) -> set[str]:
    script = (
        f"source {made / SCRIPTS['bash']}; COMP_WORDS=({line}''); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1));"
        "$(complete -p textgate | sed 's/.*-F \\([^ ]*\\).*/\\1/') textgate; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    return run(["bash", "--norc", "--noprofile", "-c", script], environment)


def offered_by_fish(line: str, made: Path, environment: dict[str, str]) -> set[str]:
    script = f"source {made / SCRIPTS['fish']}; complete -C {line!r}"
    return {word.partition("\t")[0] for word in run(["fish", "--no-config", "-c", script], environment)}


def run(argv: list[str], environment: dict[str, str]) -> set[str]:
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, check=True, timeout=WITHIN_S, cwd="/"
    )
    assert done.stderr == ""
    return set(done.stdout.split("\n")) - {""}


@pytest.mark.parametrize("offered", [offered_by_bash, offered_by_fish])
def test_what_can_stand_there_is_offered(
    offered: Callable[[str, Path, dict[str, str]], set[str]], made: Path, environment: dict[str, str]
) -> None:
    assert offered("textgate pam ", made, environment) == PAM_VERBS
    assert {"setup", "doctor", "status", "enrol", "pam", "keys", "log"} <= offered("textgate ", made, environment)
    assert offered("textgate pam try --first-factor ", made, environment) == {"password", "key", "any"}
    assert offered("textgate recovery ", made, environment) == PEOPLE


@pytest.mark.parametrize("offered", [offered_by_bash, offered_by_fish])
def test_services_that_can_ask_for_a_code_are_offered(
    offered: Callable[[str, Path, dict[str, str]], set[str]], made: Path, environment: dict[str, str]
) -> None:
    services = offered("textgate pam try ", made, environment)
    folders = [path for path in (Path("/etc/pam.d"), Path("/usr/lib/pam.d")) if path.is_dir()]
    assert {"sshd", "su", "login"} <= services <= {path.name for folder in folders for path in folder.iterdir()}
    assert services.isdisjoint({"other", "textgate", "passwd", "chpasswd", "runuser", "cron"})
    assert not [name for name in services if name.startswith("common-")]


def test_files_are_offered_by_fish(made: Path, environment: dict[str, str]) -> None:
    assert "/etc/pam.d/sshd" in offered_by_fish("textgate --config /etc/pam.d/ss", made, environment)


def test_scripts_of_bash_and_fish_are_what_the_command_prints(made: Path, environment: dict[str, str]) -> None:
    for shell in ("bash", "fish"):
        printed = subprocess.run(
            ["textgate"], env=environment | {"_TEXTGATE_COMPLETE": f"{shell}_source"},
            capture_output=True, text=True, check=True, timeout=WITHIN_S,
        ).stdout  # fmt: skip
        assert (made / SCRIPTS[shell]).read_text() == printed.rstrip() + "\n"


def test_scripts_are_installed_where_the_shells_look() -> None:
    rules = (REPOSITORY / "packaging/install.mk").read_text()
    for target in (
        "/usr/share/bash-completion/completions", "/usr/share/zsh/vendor-completions",
        "/usr/share/fish/vendor_completions.d",
    ):  # fmt: skip
        assert re.search(rf"\$\(DESTDIR\){re.escape(target)}$", rules, re.MULTILINE), target
