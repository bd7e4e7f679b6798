# SPDX-License-Identifier: MIT
"""What was seen of the store, in its file: whole or not at all, and whatever is in it is no surprise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from textgate.errors import TextgateError
from textgate.seen import NAME, Seen, file_in, read_seen, write_seen

SEEN = Seen("id", 3, 17, 1_700_000_000_000, noticed="older", noticed_at_s=1_700_000_000, used=("k1.ab", "k1.cd"))


def test_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / NAME
    write_seen(path, SEEN)
    assert read_seen(path) == SEEN
    assert path.stat().st_mode & 0o777 == 0o600


def test_file_is_replaced_without_the_right_to_change_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit's filter of system calls takes it away."""

    def refuse(*_arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    for call in ("chown", "fchown", "setxattr"):
        monkeypatch.setattr(f"os.{call}", refuse)
    for seen in (Seen(), SEEN):
        write_seen(tmp_path / NAME, seen)
    assert read_seen(tmp_path / NAME) == SEEN
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_file_that_is_not_there_yet_is_a_first_start(tmp_path: Path) -> None:
    assert read_seen(tmp_path / NAME) == Seen()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "junk",
        "[]",
        "{}",
        '{"version": 2}',
        json.dumps({"version": 1}),
        json.dumps({"version": 1, "used": [], "epoch": "1"}),
        json.dumps({"version": 1, "used": [], "epoch": -1}),
        json.dumps({"version": 1, "used": [], "epoch": True}),
        json.dumps({"version": 1, "used": [], "mark": 2**53}),
        json.dumps({"version": 1, "used": [1]}),
        json.dumps({"version": 1, "used": [], "nosuch": 1}),
        "[" * 100_000,
        "\udcff",
    ],
)
def test_damaged_file_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / NAME
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(TextgateError, match="is damaged"):
        read_seen(path)


def test_file_that_cannot_be_read_or_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(TextgateError, match="can't be read"):
        read_seen(tmp_path)
    with pytest.raises(TextgateError, match="can't be written"):
        write_seen(tmp_path / "nowhere" / NAME, SEEN)


@pytest.mark.parametrize(
    ("folder", "path"), [("", None), ("/var/lib/x", Path("/var/lib/x") / NAME), ("/a:/b", Path("/a") / NAME)]
)
def test_file_lies_in_the_folder_of_the_service(folder: str, path: Path | None) -> None:
    assert file_in({"STATE_DIRECTORY": folder}) == path
    assert file_in({}) is None
