# SPDX-License-Identifier: MIT
"""Files that are written as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from textgate.atomic_file import create_file, replace_file


def test_replaced_file_keeps_owner_mode_and_attributes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 1, 1)
    os.setxattr(path, "user.mark", b"x")
    former = path.stat()
    replace_file(path, b"new", mode=0o600)
    assert path.read_text() == "new"
    assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mode) == (
        former.st_uid, former.st_gid, former.st_mode,
    )  # fmt: skip
    assert os.getxattr(path, "user.mark") == b"x"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_file_that_was_not_there_has_the_given_mode(tmp_path: Path) -> None:
    replace_file(tmp_path / "file", b"new", mode=0o604)
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "file").stat().st_mode & 0o7777 == 0o604


def test_judge_has_the_last_word(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def refuse() -> None:
        assert path.read_text() == "old"
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        replace_file(path, b"new", mode=0o600, judge=refuse)
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_created_file_is_never_one_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    create_file(path, b"first", mode=0o640)
    with pytest.raises(FileExistsError):
        create_file(path, b"second", mode=0o640)
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o7777 == 0o640
    assert path.stat().st_nlink == 1
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("write", [replace_file, create_file])
def test_bytes_and_name_are_on_the_disk_before_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., None]
) -> None:
    """The bytes before the name, and the folder's own list of names after it."""
    path = tmp_path / "file"
    synced: list[tuple[str, bool]] = []

    def note(handle: int) -> None:
        synced.append(("folder" if Path(f"/proc/self/fd/{handle}").is_dir() else "file", path.exists()))

    monkeypatch.setattr(os, "fsync", note)
    write(path, b"new", mode=0o600)
    assert synced == [("file", False), ("folder", True)]


def test_file_that_cannot_be_replaced_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"new", mode=0o600)
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
