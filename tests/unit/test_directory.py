# SPDX-License-Identifier: MIT
"""The phones file: who has a number by it, who hasn't, who may write it, and how it is changed."""

from __future__ import annotations

import fcntl
import grp
import os
import stat
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from textgate import atomic_file, directory
from textgate.config import PhonesConfig
from textgate.directory import (
    MAX_BYTES,
    ChainDirectory,
    FileDirectory,
    GecosDirectory,
    Hit,
    build_directory,
    parse_phones,
    read_phones,
    remove_phone,
    set_phone,
)
from textgate.errors import DirectoryError, MsisdnError
from textgate.msisdn import Msisdn
from textgate.policy import Account

ALICE, BOB = Msisdn("4520123456"), Msisdn("46701234567")
GOOD = b"# who may log in\n\nalice: +45 20 12 34 56\nbob:\t+46701234567\n"


@pytest.fixture
def phones(tmp_path: Path) -> Path:
    """A phones file as the package makes it, with two users."""
    path = tmp_path / "phones"
    _put(path, GOOD)
    return path


def _put(path: Path, content: bytes, mode: int = 0o640) -> None:
    path.write_bytes(content)
    path.chmod(mode)


def _named(tmp_path: Path) -> list[str]:
    return sorted(entry.name for entry in tmp_path.iterdir())


# --- Lines. ---


def test_good_lines_have_numbers() -> None:
    table = parse_phones(GOOD, "")
    assert (table.numbers, table.unusable, table.faults) == ({"alice": ALICE, "bob": BOB}, frozenset(), ())


@pytest.mark.parametrize(
    "line",
    [
        "alice: +45 20 12 34 56",
        "alice:+4520123456",
        "alice : +4520123456",
        "alice: +4520123456 \t",
        "alice: +4520123456\r",  # an editor from elsewhere
        "alice: 20123456",  # the default region
        "alice: 0045 20123456",
    ],
)
def test_line_is_read_with_any_blanks(line: str) -> None:
    table = parse_phones(line.encode(), "DK")
    assert (table.numbers, table.faults) == ({"alice": ALICE}, ())


@pytest.mark.parametrize(
    "user", ["alice", "a", "alice.b-c_d", "EXAMPLE\\alice", "alice@example.com", "æøå", "u" * 256]
)
def test_user_name_may_be_anything_that_nss_has(user: str) -> None:
    assert parse_phones(f"{user}: +4520123456".encode(), "").numbers == {user: ALICE}


FAULTY = [
    # line, user whom it leaves without a number, words of the fault
    (b"alice", None, "has no colon"),
    (b"alice +4520123456", None, "has no colon"),
    (b"alice= +4520123456", None, "has no colon"),
    (b": +4520123456", None, "user name"),
    (b" : +4520123456", None, "begins with a blank"),
    (b" alice: +4520123456", "alice", "begins with a blank"),  # aliases(5) would continue the line before
    (b"\talice: +4520123456", "alice", "begins with a blank"),
    (b"al ice: +4520123456", "al ice", "user name"),
    (b"al/ice: +4520123456", "al/ice", "user name"),
    (b"al\0ice: +4520123456", "al\0ice", "user name"),
    ("al\N{ZERO WIDTH SPACE}ice: +4520123456".encode(), "al\N{ZERO WIDTH SPACE}ice", "user name"),
    ("alice\N{NO-BREAK SPACE}: +4520123456".encode(), "alice\N{NO-BREAK SPACE}", "user name"),
    (b"u" * 257 + b": +4520123456", "u" * 257, "user name"),
    (b"alice:", "alice", "is empty"),
    (b"alice: ", "alice", "is empty"),
    (b"alice: +45 20 12 34", "alice", "too short"),
    (b"alice: +45 90 12 34 56", "alice", "premium-rate"),
    (b"alice: 20123456", "alice", "no country code"),
    (b"alice: +4520123456 # mobile", "alice", "letters"),
    (b"alice: +4520123456 #", "alice", "may hold only"),
    (b"alice: +4520123456, +4520123457", "alice", "may hold only"),
    (b"alice: bob", "alice", "letters"),
    (b"alice: +4520123456\rbob: +46701234567", "alice", "letters"),  # a lone CR ends no line
    (b"alice: +45201\xff23456", "alice", "is not UTF-8"),
    (b"al\xffice: +4520123456", None, "is not UTF-8"),
    (
        b"\xef\xbb\xbfalice: +4520123456",
        "\N{ZERO WIDTH NO-BREAK SPACE}alice",
        "begins with a byte order mark",
    ),  # a byte order mark
]


@pytest.mark.parametrize(("line", "user", "words"), FAULTY)
def test_faulty_line_gives_no_number_and_leaves_others_alone(line: bytes, user: str | None, words: str) -> None:
    table = parse_phones(b"carol: +4520123457\n" + line + b"\nbob: +46701234567\n", "")
    assert table.numbers == {"carol": Msisdn("4520123457"), "bob": BOB}
    assert table.unusable == (frozenset() if user is None else {user})
    (fault,) = table.faults
    assert fault.startswith("line 2: ")
    assert words in fault
    for part in ("20123456", "20 12 34", "alice", "carol"):  # a fault goes to the journal
        assert part not in fault


def test_every_fault_is_reported_at_once() -> None:
    faults = parse_phones(b"alice\nbob: +46701234567\n\ncarol: x\nbob: +46701234567", "").faults
    assert [fault.split(":")[0] for fault in faults] == ["line 1", "line 4", "line 5"]
    assert "same user as line 2" in faults[2]


@pytest.mark.parametrize(
    "content",
    [
        b"alice: +4520123456\nalice: +4520123456\n",  # even twice the same
        b"alice: +4520123456\nalice: +4520123457\nalice: +4520123458\n",
        b"alice: oops\nalice: +4520123456\n",  # the second doesn't mend the first
        b"alice: +4520123456\nalice: oops\n",
        b"alice: +4520123456\n alice: +4520123457\n",
        b"alice: +4520123456\nalice : +4520123457\n",
    ],
)
def test_user_on_two_lines_has_no_number(content: bytes) -> None:
    table = parse_phones(content, "")
    assert table.numbers == {}
    assert table.unusable == {"alice"}


@pytest.mark.parametrize(
    "content",
    [
        b"#alice: +4520123456\n",
        b"# alice: +4520123456\n",
        b"  # alice: +4520123456\n",
        b"#\ralice: +4520123456\n",
        b"#\x0balice: +4520123456\n",
        b"#\x0calice: +4520123456\n",
        "#\x85alice: +4520123456\n".encode(),
        "#\N{LINE SEPARATOR}alice: +4520123456\n".encode(),
        "#\N{PARAGRAPH SEPARATOR}alice: +4520123456\n".encode(),
        b"#\0\nalice2: +4520123456\nmalice: +4520123456\nAlice: +4520123456\nalic: +4520123456\n",
        b"bob: +46701234567 alice: +4520123456\n",
        b"bob:alice: +4520123456\n",
        "аlice: +4520123456\n".encode(),  # a Cyrillic a
        "alice: +4520123456\n".encode("utf-16"),
    ],
)
def test_hostile_neighbour_is_not_alice(content: bytes) -> None:
    table = parse_phones(content, "DK")
    assert "alice" not in table.numbers
    assert "alice" not in table.unusable


@given(st.binary(max_size=200))
def test_parse_survives_junk(junk: bytes) -> None:
    table = parse_phones(junk, "DK")
    assert not table.unusable & set(table.numbers)
    assert len(table.faults) <= junk.count(b"\n") + 1


_LINE = st.one_of(
    st.sampled_from([b"alice: +4520123456", b"alice: x", b"alice2: +4520123456", b"#alice: +4520123456", b"", b" "]),
    st.binary(max_size=30).map(lambda junk: junk.replace(b"\n", b"")),
)


@given(st.lists(_LINE, max_size=6))
def test_alice_has_a_number_only_by_one_line_of_her_own(lines: list[bytes]) -> None:
    hers = [line for line in lines if directory.user_of(line) == "alice"]
    table = parse_phones(b"\n".join(lines), "")
    assert ("alice" in table.numbers) is (hers == [b"alice: +4520123456"])


def test_table_shows_no_number() -> None:
    assert "20123456" not in repr(parse_phones(GOOD, ""))


# --- The file as a directory. ---


def test_lookup_finds_numbers(phones: Path) -> None:
    source = FileDirectory(str(phones), "")
    assert (source.lookup("alice"), source.lookup("bob"), source.lookup("carol")) == (ALICE, BOB, None)
    assert source.lookup("") is None


def test_lookup_uses_the_default_region(phones: Path) -> None:
    _put(phones, b"alice: 20123456\n")
    assert FileDirectory(str(phones), "DK").lookup("alice") == ALICE
    assert FileDirectory(str(phones), "").lookup("alice") is None


def _rewrite(path: Path) -> None:
    """The same inode and size, another number, as an editor writes."""
    path.write_bytes(GOOD.replace(b"34 56", b"34 57"))
    os.utime(path, ns=(1, 1))  # a clock that stands still for two writes must not hide the second


def _rename(path: Path) -> None:
    other = path.with_name("other")
    _put(other, GOOD.replace(b"34 56", b"34 57"))
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.rename(path)


@pytest.mark.parametrize("change", [_rewrite, _rename])
def test_lookup_sees_a_changed_file_at_once(phones: Path, change: Callable[[Path], None]) -> None:
    source = FileDirectory(str(phones), "")
    assert source.lookup("alice") == ALICE
    change(phones)
    assert source.lookup("alice") == Msisdn("4520123457")


def test_lookup_parses_an_unchanged_file_once(phones: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FileDirectory(str(phones), "")
    source.lookup("alice")
    monkeypatch.setattr(directory, "parse_phones", lambda *_: pytest.fail("parsed again"))
    assert source.lookup("alice") == ALICE


def test_faults_are_reported_once_per_change(phones: Path) -> None:
    reports: list[tuple[str, ...]] = []
    source = FileDirectory(str(phones), "", on_fault=reports.append)
    source.lookup("alice")
    assert reports == []  # nothing to say of a good file
    _put(phones, GOOD + b"carol: x\ndave\n")
    assert (source.lookup("alice"), source.lookup("carol")) == (ALICE, None)
    assert [[fault.split(":")[0] for fault in report] for report in reports] == [["line 5", "line 6"]]
    _put(phones, GOOD + b"carol: xy\n")
    source.lookup("alice")
    assert len(reports) == 2
    _put(phones, GOOD)
    source.lookup("alice")
    assert len(reports) == 2


def test_faults_need_no_listener(phones: Path) -> None:
    _put(phones, b"oops\n" + GOOD)
    assert FileDirectory(str(phones), "").lookup("alice") == ALICE


@pytest.mark.parametrize("mode", [0o660, 0o602, 0o620, 0o666, 0o642])
def test_file_that_others_can_write_is_refused(phones: Path, mode: int) -> None:
    phones.chmod(mode)
    with pytest.raises(DirectoryError, match="can be changed by other users") as caught:
        FileDirectory(str(phones), "").lookup("alice")
    assert caught.value.hint == f"chmod go-w {phones}"


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o644, 0o440])
def test_file_that_others_can_only_read_is_taken(phones: Path, mode: int) -> None:
    phones.chmod(mode)
    assert FileDirectory(str(phones), "").lookup("alice") == ALICE


def test_file_of_somebody_else_is_refused(phones: Path) -> None:
    with pytest.raises(DirectoryError, match="belongs to another user"):
        FileDirectory(str(phones), "", trusted_uids=frozenset({os.geteuid() + 1})).lookup("alice")


def test_file_that_turns_bad_no_longer_answers(phones: Path) -> None:
    """The table of before must not outlive the trust in the file."""
    source = FileDirectory(str(phones), "")
    assert source.lookup("alice") == ALICE
    phones.chmod(0o666)
    with pytest.raises(DirectoryError, match="can be changed"):
        source.lookup("alice")
    phones.unlink()
    with pytest.raises(DirectoryError, match="No such file") as caught:
        source.lookup("alice")
    assert caught.value.hint is not None
    _put(phones, b"")
    assert source.lookup("alice") is None


def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)  # a reader would wait for a writer
    for path, words in (
        (pipe, "is not a plain file"),
        (Path("/dev/null"), "is not a plain"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(DirectoryError, match=words):
            FileDirectory(str(path), "").lookup("alice")


def test_file_of_one_mebibyte_is_read_and_one_byte_more_is_not(phones: Path) -> None:
    filler = b"#" * (MAX_BYTES - len(GOOD))
    _put(phones, GOOD + filler)
    assert FileDirectory(str(phones), "").lookup("alice") == ALICE
    _put(phones, GOOD + filler + b"#")
    with pytest.raises(DirectoryError, match="larger than"):
        FileDirectory(str(phones), "").lookup("alice")


def test_link_is_judged_by_its_target(phones: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(phones)
    source = FileDirectory(str(link), "")
    assert source.lookup("alice") == ALICE
    phones.chmod(0o666)
    with pytest.raises(DirectoryError, match="can be changed"):
        source.lookup("alice")


def test_file_that_is_being_written_is_read_again(phones: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a number may be somebody else's number."""
    reads = 0
    true_stamp = directory._stamp

    def busy(status: os.stat_result) -> directory.Stamp:
        nonlocal reads
        reads += 1
        return (reads, 0, 0, 0, 0) if reads < limit else true_stamp(status)

    monkeypatch.setattr(directory, "_stamp", busy)
    limit = 4  # the writer is done before the second try ends
    assert FileDirectory(str(phones), "").lookup("alice") == ALICE
    reads, limit = 0, 1000
    with pytest.raises(DirectoryError, match="is being written to"):
        FileDirectory(str(phones), "").lookup("alice")


def test_threads_see_the_old_number_or_the_new_and_nothing_between(phones: Path) -> None:
    source = FileDirectory(str(phones), "")
    numbers = [ALICE, Msisdn("4520123457")]
    seen: list[set[Msisdn | None]] = [set() for _ in range(4)]
    is_done = threading.Event()

    def look(index: int) -> None:
        while not is_done.is_set():
            seen[index].add(source.lookup("alice"))

    threads = [threading.Thread(target=look, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(20):
        set_phone(str(phones), "alice", numbers[turn % 2])
    is_done.set()
    for thread in threads:
        thread.join()
    assert set().union(*seen) <= set(numbers)
    assert source.lookup("alice") == numbers[1]


def test_read_phones_gives_the_whole_table(phones: Path) -> None:
    _put(phones, GOOD + b"carol\n")
    table = read_phones(str(phones), "")
    assert list(table.numbers) == ["alice", "bob"]
    assert len(table.faults) == 1
    with pytest.raises(DirectoryError):
        read_phones(str(phones), "", trusted_uids=frozenset())


# --- GECOS and the chain. ---


class FakeAccounts:
    """NSS with one user, alice, of the given GECOS field."""

    def __init__(self, gecos: str = "") -> None:
        self.account = Account("alice", 1000, 1000, frozenset(), gecos)

    def lookup(self, user: str) -> Account | None:
        return self.account if user == "alice" else None


@pytest.mark.parametrize(
    ("gecos", "hit"),
    [
        ("", None),
        ("Alice", None),
        ("Alice,+4520123456", None),  # the room is no phone
        ("Alice,,+4520123456", Hit(ALICE)),  # office
        ("Alice,,,+4520123456", Hit(ALICE)),  # home
        ("Alice,,+4520123457,+4520123456,", Hit(ALICE)),  # home before office
        ("Alice,,+4520123457, ,", Hit(Msisdn("4520123457"))),
        ("Alice,,,,+4520123456", None),  # "other"
        ("Alice,,,20 12 34 56", Hit(ALICE)),  # the default region
        ("Alice,,,none", Hit(None)),
        ("Alice,,+4520123456,none", Hit(None)),  # a bad one is not passed over
        ("+4520123456", None),
    ],
)
def test_gecos_has_the_home_phone_or_else_the_office(gecos: str, hit: Hit | None) -> None:
    source = GecosDirectory(FakeAccounts(gecos), "DK")
    assert source.find("alice") == hit
    assert source.lookup("alice") == (hit.msisdn if hit else None)
    assert source.lookup("bob") is None


@given(st.text(max_size=60))
def test_gecos_survives_junk(junk: str) -> None:
    hit = GecosDirectory(FakeAccounts(junk), "DK").find("alice")
    assert hit is None or hit.msisdn is None or len(hit.msisdn.reveal()) >= 7


@pytest.mark.parametrize(
    ("sources", "content", "expected"),
    [
        (("file",), b"bob: +46701234567\n", None),  # GECOS is asked only where it is named
        (("file", "gecos"), b"bob: +46701234567\n", Msisdn("4520123457")),
        (("file", "gecos"), GOOD, ALICE),
        (("gecos", "file"), GOOD, Msisdn("4520123457")),
        (("file", "gecos"), b"alice: oops\n", None),  # named in the file: what she can edit doesn't step in
        (("file", "gecos"), b"alice: +4520123456\nalice: +4520123456\n", None),
        (("file", "gecos"), b"#alice: oops\n", Msisdn("4520123457")),
    ],
)
def test_first_source_that_names_the_user_wins(
    phones: Path, sources: tuple[str, ...], content: bytes, expected: Msisdn | None
) -> None:
    _put(phones, content)
    config = PhonesConfig(sources=sources, file=str(phones), default_region="DK")
    assert build_directory(config, FakeAccounts("Alice,,,20123457")).lookup("alice") == expected


def test_source_that_cannot_be_read_ends_the_search(tmp_path: Path) -> None:
    config = PhonesConfig(sources=("file", "gecos"), file=str(tmp_path / "missing"))
    with pytest.raises(DirectoryError):
        build_directory(config, FakeAccounts("Alice,,,+4520123457")).lookup("alice")


def test_chain_passes_faults_on(phones: Path) -> None:
    _put(phones, b"oops\n")
    reports: list[tuple[str, ...]] = []
    build_directory(PhonesConfig(file=str(phones)), FakeAccounts(), on_fault=reports.append).lookup("alice")
    assert len(reports) == 1


def test_chain_without_sources_knows_nobody() -> None:
    assert ChainDirectory(()).lookup("alice") is None


# --- Changing the file. ---


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"alice: +4520123456\n"),
        (b"# note\n\n", b"# note\n\nalice: +4520123456\n"),
        (b"alice: +45 99 99 99 99 \n", b"alice: +4520123456\n"),
        (b"bob:  +46701234567 \nalice: +4599999999\n# end\n", b"bob:  +46701234567 \nalice: +4520123456\n# end\n"),
        (b"bob: +46701234567", b"bob: +46701234567\nalice: +4520123456\n"),  # the last line gets its line feed
        (b"alice: +4599999999", b"alice: +4520123456\n"),
        (b"# a\r\nbob: x\r\n", b"# a\r\nbob: x\r\nalice: +4520123456\n"),  # others' faults are others'
        (b"\xff\xfe\nalice2: 1\n#alice: 2\n", b"\xff\xfe\nalice2: 1\n#alice: 2\nalice: +4520123456\n"),
        (b"alice: 1\nbob: 2\n alice: 3\nalice : 4\n", b"alice: +4520123456\nbob: 2\n"),  # one line remains of many
        (b"\n\nalice: +4520123456\n\n", b"\n\nalice: +4520123456\n\n"),
    ],
)
def test_set_changes_one_line_and_no_other_byte(phones: Path, before: bytes, after: bytes) -> None:
    _put(phones, before)
    set_phone(str(phones), "alice", ALICE)
    assert phones.read_bytes() == after
    assert FileDirectory(str(phones), "").lookup("alice") == ALICE


@pytest.mark.parametrize(
    ("before", "after", "removed"),
    [
        (GOOD, GOOD.replace(b"alice: +45 20 12 34 56\n", b""), True),
        (b"alice: 1\n# alice: 2\nalice2: 3\nalice: 4", b"# alice: 2\nalice2: 3\n", True),
        (b"alice: 1\n", b"", True),
        (b"bob: +46701234567", b"bob: +46701234567", False),  # not touched at all
        (b"", b"", False),
    ],
)
def test_remove_takes_every_line_of_the_user_and_no_other_byte(
    phones: Path, before: bytes, after: bytes, removed: bool
) -> None:
    _put(phones, before)
    assert remove_phone(str(phones), "alice") is removed
    assert phones.read_bytes() == after


def test_set_keeps_owner_group_and_mode(phones: Path) -> None:
    phones.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(phones, 0, 12345)
    before = phones.stat()
    set_phone(str(phones), "alice", BOB)
    after = phones.stat()
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert after.st_ino != before.st_ino  # a new file in one step, not the old one overwritten


def test_set_leaves_an_unchanged_file_alone(phones: Path) -> None:
    set_phone(str(phones), "alice", ALICE)
    before = phones.stat()
    set_phone(str(phones), "alice", ALICE)
    assert phones.stat().st_ino == before.st_ino


def test_set_makes_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "phones"
    own_group = grp.getgrgid(os.getegid())
    mask = os.umask(0o077)
    try:
        set_phone(str(path), "alice", ALICE, group=own_group.gr_name)
    finally:
        os.umask(mask)
    assert path.read_bytes() == b"alice: +4520123456\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_gid == own_group.gr_gid


def test_set_makes_a_missing_file_without_the_group(tmp_path: Path) -> None:
    set_phone(str(tmp_path / "phones"), "alice", ALICE, group="no-such-group-here")
    assert stat.S_IMODE((tmp_path / "phones").stat().st_mode) == 0o640


def test_set_leaves_nothing_but_the_file_and_its_lock(phones: Path, tmp_path: Path) -> None:
    set_phone(str(phones), "carol", ALICE)
    assert _named(tmp_path) == [".phones.lock", "phones"]
    assert stat.S_IMODE((tmp_path / ".phones.lock").stat().st_mode) == 0o600  # nobody else may hold it


def test_remove_needs_the_file(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match="No such file"):
        remove_phone(str(tmp_path / "phones"), "alice")
    assert not (tmp_path / "phones").exists()


@pytest.mark.parametrize(
    "user",
    ["", "al ice", "alice\n", "a\nbob: +4599999999", "a:b", "#alice", "a/b", "a\0", "u" * 257, "a\udc80", "\u200b"],
)
def test_set_refuses_user_name_that_would_not_be_read_back(phones: Path, user: str) -> None:
    with pytest.raises(DirectoryError, match="can't hold this user name"):
        set_phone(str(phones), user, ALICE)
    assert phones.read_bytes() == GOOD


def test_set_refuses_number_that_would_not_be_read_back(phones: Path) -> None:
    with pytest.raises(DirectoryError, match="reads the same") as caught:
        set_phone(str(phones), "alice", Msisdn("43061482"))  # an E.164 number with a trunk 0 in it
    assert "43061482" not in caught.value.message
    assert phones.read_bytes() == GOOD


def test_set_refuses_to_outgrow_the_limit(phones: Path) -> None:
    content = GOOD + b"#" * (MAX_BYTES - len(GOOD) - 1) + b"\n"
    _put(phones, content)
    with pytest.raises(DirectoryError, match="would be larger"):
        set_phone(str(phones), "carol", ALICE)
    assert phones.read_bytes() == content


def _change_alice(path: Path) -> None:
    set_phone(str(path), "alice", BOB)


def _remove_alice(path: Path) -> None:
    remove_phone(str(path), "alice")


BOTH = pytest.mark.parametrize("change", [_change_alice, _remove_alice])


@BOTH
def test_change_refuses_symbolic_link(phones: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    link = tmp_path / "link"
    for target in (phones, tmp_path / "missing"):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        with pytest.raises(DirectoryError, match="is a symbolic link"):
            change(link)
        assert link.is_symlink()
    assert phones.read_bytes() == GOOD
    assert not (tmp_path / "missing").exists()


@BOTH
def test_change_refuses_file_that_others_can_write(phones: Path, change: Callable[[Path], None]) -> None:
    phones.chmod(0o666)
    with pytest.raises(DirectoryError, match="can be changed by other users"):
        change(phones)
    assert phones.read_bytes() == GOOD


@BOTH
@pytest.mark.parametrize("meddle", [lambda path: _put(path, b"# mine\n"), Path.unlink, _rename])
def test_change_refuses_file_that_changed_meanwhile(
    phones: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    meddle: Callable[[Path], None],
) -> None:
    def fsync_late(_handle: int) -> None:  # an editor saves while the new file is being written
        meddle(phones)

    monkeypatch.setattr(os, "fsync", fsync_late)
    with pytest.raises(DirectoryError, match="changed by somebody else"):
        change(phones)
    assert not phones.exists() or b"46701234567\nbob" not in phones.read_bytes()
    assert [name for name in _named(phones.parent) if name.endswith(".new")] == []


def test_set_refuses_file_that_appeared_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "phones"
    monkeypatch.setattr(os, "fsync", lambda _handle: _put(path, GOOD))
    with pytest.raises(DirectoryError, match="changed by somebody else"):
        set_phone(str(path), "carol", ALICE)
    assert path.read_bytes() == GOOD


@pytest.mark.parametrize(
    ("module", "function", "hint"),
    [(os, "fsync", None), (os, "fchmod", "run it as root"), (atomic_file, "new_file", None)],
)
def test_failed_change_leaves_the_old_file(
    phones: Path, monkeypatch: pytest.MonkeyPatch, module: object, function: str, hint: str | None
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise PermissionError(1, "Operation not permitted") if hint else OSError(28, "No space left on device")

    monkeypatch.setattr(module, function, fail)
    with pytest.raises(DirectoryError, match="can't be written") as caught:
        set_phone(str(phones), "alice", BOB)
    assert caught.value.hint == hint
    assert phones.read_bytes() == GOOD
    assert [name for name in _named(phones.parent) if name.endswith(".new")] == []


def test_set_in_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match="can't be made"):
        set_phone(str(tmp_path / "missing" / "phones"), "alice", ALICE)


def test_lock_that_is_a_link_is_not_followed(phones: Path, tmp_path: Path) -> None:
    (tmp_path / ".phones.lock").symlink_to(tmp_path / "planted")
    with pytest.raises(DirectoryError, match="can't be made"):
        set_phone(str(phones), "alice", BOB)
    assert not (tmp_path / "planted").exists()


def test_change_gives_up_on_a_lock_that_is_held(
    phones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    clock = iter([0.0, 1.0, directory.LOCK_WAIT_S])
    fake_time = SimpleNamespace(monotonic=lambda: next(clock), sleep=naps.append)
    monkeypatch.setattr("textgate.directory.time", fake_time)
    with (tmp_path / ".phones.lock").open("wb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(DirectoryError, match="is being changed by another textgate"):
            set_phone(str(phones), "alice", BOB)
    assert naps == [directory.LOCK_POLL_S]
    assert phones.read_bytes() == GOOD


def test_changes_at_the_same_time_all_arrive(phones: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "LOCK_POLL_S", 0)
    users = [f"user{index}" for index in range(12)]
    threads = [threading.Thread(target=set_phone, args=(str(phones), user, ALICE)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(read_phones(str(phones), "").numbers) == {"alice", "bob", *users}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_LINE, max_size=5), st.booleans())
def test_set_and_remove_keep_every_other_line(phones: Path, lines: list[bytes], is_ended: bool) -> None:
    content = b"\n".join(lines) + (b"\n" if is_ended else b"")
    _put(phones, content)
    set_phone(str(phones), "alice", ALICE)
    assert read_phones(str(phones), "").numbers["alice"] == ALICE
    assert remove_phone(str(phones), "alice") is True
    others = [line for line in content.split(b"\n") if directory.user_of(line) != "alice"]
    assert phones.read_bytes().rstrip(b"\n") == b"\n".join(others).rstrip(b"\n")


def test_no_error_repeats_a_number(phones: Path) -> None:
    for path in (phones.with_name("missing"), phones.parent):
        with pytest.raises((DirectoryError, MsisdnError)) as caught:
            remove_phone(str(path), "alice")
        assert "20123456" not in "".join(traceback.format_exception(caught.value))
