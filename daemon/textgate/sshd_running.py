# SPDX-License-Identifier: MIT
"""The sshds that listen on this machine, with the options that they were started with.

Debian's unit starts one; who starts another, on another port and with a file of its own, opens a door of which the
files of the first one say nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

_TITLE, _LISTENS = "sshd: ", " [listener]"  # as sshd itself writes them over its arguments (setproctitle)


def listening(
    proc: str | os.PathLike[str] = "/proc", root: str = "/", owners: Collection[int] = (0,)
) -> Iterator[list[str]]:
    """The options of each. Those of containers are left out: their files are others.

    root: the folder that they must have as /. owners: uids whose processes count; anybody may call a process sshd.
    """
    ours = Path(root).stat()
    for folder in sorted(Path(proc).glob("[0-9]*")):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            title = (folder / "cmdline").read_bytes().rstrip(b"\0").decode(errors="surrogateescape")
            if not title.startswith(_TITLE) or _LISTENS not in title or folder.stat().st_uid not in owners:
                continue
            if os.path.samestat((folder / "root").stat(), ours):
                yield options_of(title)


def options_of(title: str) -> list[str]:
    """The options in a listener's title, which has lost where each of them ended: no value begins with a dash."""
    options: list[str] = []
    for word in title.removeprefix(_TITLE).partition(_LISTENS)[0].split()[1:]:
        is_more = options and not word.startswith("-") and not (options[-1].startswith("-") and len(options[-1]) == 2)
        if is_more:
            options[-1] += f" {word}"
        else:
            options.append(word)
    return options
