# SPDX-License-Identifier: MIT
"""What this host saw of the store, in a file that no copy of Redis' data holds.

One small JSON file, written as a whole by the daemon alone (systemd's StateDirectory=). It says nothing about
anybody: numbers, a random id, and keyed hashes of recovery codes that were used. Where it can't be read or written
the daemon goes on with what it has in memory; the store is then believed as at a first start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .atomic_file import replace_own_file
from .errors import TextgateError

NAME = "store-seen.json"
VERSION = 1
NUMBERS_END = 2**53  # no number here, or in the store's record, is so large: Lua counts exactly up to it
USED_MOST = 10_000  # recovery codes used in one epoch that are remembered here
_SIZE_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Seen:
    """The store as it was last seen (STORE.md, "A store that went back").

    store_id: "" before the first time. at_ms: the store's time. noticed: the finding that began this epoch, "" for
    none; noticed_at_s: when that was, by this machine's clock. used: tags of recovery codes used in this epoch.
    store_name: which one [store] url named (`Store.name`), "" for a file that does not say.
    """

    store_id: str = ""
    epoch: int = 0
    mark: int = 0
    at_ms: int = 0
    noticed: str = ""
    noticed_at_s: int = 0
    used: tuple[str, ...] = ()
    store_name: str = ""


def file_in(environ: Mapping[str, str]) -> Path | None:
    """The file in the folder that systemd made for this service; None where it made none."""
    folder = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(folder) / NAME if folder else None


def read_seen(path: Path) -> Seen:
    """What the file says; `Seen()` where there is none yet. Raises TextgateError where it can't be read or used."""
    try:
        with path.open("rb") as file:
            content = file.read(_SIZE_MAX_BYTES + 1)
    except FileNotFoundError:
        return Seen()
    except OSError as error:
        raise TextgateError(f"{path}: can't be read: {error.strerror}") from None
    try:
        return _parse(json.loads(content))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TextgateError(f"{path}: is damaged", hint=f"rm {path}, then: systemctl restart textgated") from None


def write_seen(path: Path, seen: Seen) -> None:
    """Put it into the file, and onto the disk. Raises TextgateError."""
    try:
        replace_own_file(path, json.dumps({"version": VERSION, **asdict(seen)}).encode())
    except OSError as error:
        raise TextgateError(f"{path}: can't be written: {error.strerror}") from None


def _parse(document: dict[str, Any]) -> Seen:
    if document.pop("version") != VERSION:
        raise ValueError("another version")
    seen = Seen(**{**document, "used": tuple(document["used"])})
    numbers = (seen.epoch, seen.mark, seen.at_ms, seen.noticed_at_s)
    texts = (seen.store_id, seen.noticed, seen.store_name, *seen.used)
    if not all(type(number) is int and 0 <= number < NUMBERS_END for number in numbers):
        raise ValueError("no number")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("no text")
    return seen
