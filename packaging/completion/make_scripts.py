#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Completion scripts of the textgate command for bash, zsh and fish -> a folder, named as they are installed.

    make_scripts.py FOLDER

They are click's, and the same as `_TEXTGATE_COMPLETE=bash_source textgate` prints. What can stand where is not in
them: a script asks the command itself at each TAB, so it never knows other options than the installed command does.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "daemon"))

from click.shell_completion import get_completion_class

from textgate import cli

FILES = {"bash": "bash/textgate", "zsh": "zsh/_textgate", "fish": "fish/textgate.fish"}

# Debian 12's click ends zsh's script in this line. A script out of zsh's function path is run at the first TAB as a
# function, which must then complete as well: by the line alone the first TAB would do nothing. Later clicks know it.
_ZSH_END = "compdef _textgate_completion textgate;"
_ZSH_END_IN_PATH = """\
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _textgate_completion "$@"
else
    compdef _textgate_completion textgate
fi"""


def script(shell: str) -> str:
    """The script for one shell, ended by one line feed."""
    completion = get_completion_class(shell)
    if completion is None:
        raise ValueError(f"click does not know {shell}")
    source = completion(cli.main, {}, "textgate", "_TEXTGATE_COMPLETE").source().rstrip()
    if shell == "zsh" and "loadautofunc" not in source:
        if not source.endswith(_ZSH_END):
            raise ValueError("click's script for zsh ends in a way that is not known here")
        source = source.removesuffix(_ZSH_END) + _ZSH_END_IN_PATH
    return source + "\n"


def main() -> None:
    """Write every script."""
    parser = argparse.ArgumentParser(description="Make the completion scripts.")
    parser.add_argument("folder", type=Path, help="where they are written")
    folder = parser.parse_args().folder
    for shell, name in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script(shell))


if __name__ == "__main__":
    main()
