# SPDX-License-Identifier: MIT
"""sshd as it is on this machine: its files, what `sshd -T` makes of them, and its reload.

Needs nothing but the standard library: the way back from a PAM change hangs on it.
"""

from __future__ import annotations

import contextlib
import copy
import glob
import itertools
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import sshd_config
from .accounts import group_members
from .pam_files import SSHD_SERVICES, PamAdminError, PamFiles
from .pam_stack import FirstFactor
from .sshd_cases import STRANGER, SshLogin, guesses
from .sshd_config import DROP_IN, SSH_DIR, Setting, effective, effective_faults, is_of_concern
from .sshd_words import criteria_of, lines_of

OPTIONS_FILE = "/etc/default/ssh"  # from which Debian's unit takes SSHD_OPTS
NESTING_MAX = 16  # as sshd's own SERVCONF_MAX_DEPTH
BLOCKS_MAX = 100  # of Match, of which sshd is asked
_UNASKED = frozenset({"-D", "-d", "-e", "-i", "-q", "-t", "-T", "-4", "-6"})  # options that change no setting
_MARK = "TEXTGATE_BLOCK_"  # names of variables of the environment
ASKED_MAX = 240  # logins of which sshd is asked which blocks they are in
_ASKED_OF_OTHERS = 4  # of these for a block that has no say in whether a code is asked for

Matches = tuple[str, ...]  # as in Setting: a Match block, and those that its file is included in


@dataclass(frozen=True)
class SshdVerdict:
    """What is wrong with sshd's settings for logins with a code.

    faults: of logins in general, or of a user. opened: Match blocks whose logins go without a code. unclear: what
    sshd could not be asked about; it may be fine, and nobody knows.
    """

    faults: tuple[str, ...] = ()
    opened: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()

    @property
    def is_fine(self) -> bool:
        """Whether everybody gives a code, as far as sshd says."""
        return not (self.faults or self.opened or self.unclear)


class PamSshd(PamFiles):
    """What textgate asks of sshd."""

    _started_with: Sequence[str] | None = None  # options, instead of the unit's

    def other_sshd(self, options: Sequence[str]) -> PamSshd | None:
        """The same for an sshd that was started with these options; None if they are those of Debian's unit."""
        words = [word for word in options if word not in _UNASKED]
        if words == self._sshd_options()[0]:
            return None
        other = copy.copy(self)
        other._started_with = words
        return other

    def sshd_settings(self) -> list[Setting]:
        """Every setting of sshd's files in the order in which sshd reads them. Raises PamAdminError."""
        return list(self._settings_of(self._sshd_options()[1], "", (), 0))

    def _settings_of(self, path: str, condition: str, matches: tuple[str, ...], nesting: int) -> Iterator[Setting]:
        text = (self._bytes(path) or b"").decode(errors="surrogateescape")
        if "\0" in text or nesting >= NESTING_MAX:
            yield Setting(path, "", "is no text, or includes itself", condition, matches, is_clear=False)
            return
        lines = ((f"{path}:{number}", line) for number, line in enumerate(lines_of(text), start=1))
        for setting in sshd_config.read_settings(lines, condition=condition, matches=matches):
            yield setting
            for pattern in setting.words if setting.keyword == "include" else ():
                if re.search(r"^~|\\|\[\[", pattern):  # Python's glob reads it otherwise than sshd's
                    yield replace(setting, is_clear=False)
                whole = pattern if pattern.startswith("/") else f"{SSH_DIR}/{pattern}"
                root = str(self._root).rstrip("/")
                for found in sorted(glob.glob(glob.escape(root) + whole), key=os.fsencode):  # noqa: PTH207  # absolute
                    inner = found.removeprefix(root)
                    yield from self._settings_of(inner, setting.condition, setting.matches, nesting + 1)

    def _sshd_options(self) -> tuple[list[str], str]:
        """Options that Debian's unit starts sshd with, as far as they change a setting, and the main file."""
        words: list[str] = []
        for line in (self._bytes(OPTIONS_FILE) or b"").decode(errors="surrogateescape").split("\n"):
            name, equals, value = line.strip().partition("=")
            if equals and name == "SSHD_OPTS":  # the last one counts; sshd gets its words, whatever is quoted
                words = value.strip().strip("\"'").split()
        if self._started_with is not None:
            words = list(self._started_with)
        options = [word for word in words if word not in _UNASKED]
        main_file = sshd_config.MAIN_FILE
        for at, word in enumerate(options):
            if word.startswith("-f"):
                main_file = word[2:] or "".join(options[at + 1 : at + 2]) or main_file
        return options, main_file

    def effective_sshd(self, login: SshLogin | str = "root") -> str:
        """What `sshd -T` prints for a login, or a user's login from this machine. Raises PamAdminError."""
        self._make_privsep_folder()
        asked = SshLogin(login) if isinstance(login, str) else login
        if not asked.can_be_asked:
            raise PamAdminError("sshd can't be asked about a user with a comma in the name", hint="see: sshd -T -C")
        status, output = self._run(["sshd", "-T", *self._sshd_options()[0], "-C", asked.words()])
        if status != 0:
            raise PamAdminError("sshd's effective settings can't be read", hint=last_line(output) or "see: sshd -T")
        return output

    def judge_sshd(
        self, first_factor: FirstFactor, users: Sequence[str] = (), *, planned: Collection[str] = ()
    ) -> SshdVerdict:
        """Ask sshd about logins in general, about these users, and about those in its Match blocks.

        planned: PAM services that are going to ask for a code. Raises PamAdminError.
        """
        settings = self.sshd_settings()
        guarded = {*planned, *self.services()}

        def ask(login: SshLogin) -> list[str]:
            return list(effective_faults(self.effective_sshd(login), first_factor, settings, guarded))

        faults = dict.fromkeys([*ask(SshLogin()), *ask(STRANGER)])
        for user in users:
            faults |= dict.fromkeys(f"{user}: {fault}" for fault in ask(SshLogin(user)) if fault not in faults)
        opened = dict.fromkeys(sshd_config.match_faults(settings, first_factor))
        told = {one.matches for one in settings if sshd_config.opens(one, first_factor)}
        unclear = [f"{one.place}: {one.value[:100]}" for one in settings if not one.is_clear]
        blocks = _blocks(settings)
        kinds = self._kinds_of_logins(blocks, settings, users)
        reported: set[tuple[Matches, str]] = set()
        for inside, login in sorted(kinds.items(), key=lambda one: len(one[0])):
            if not told.isdisjoint(inside):
                continue
            for fault in ask(login):
                if fault not in faults and not any((matches, fault) in reported for matches in inside):
                    block = blocks[_likeliest(inside, blocks, settings)]
                    reported.add((block.matches, fault))
                    opened[f"{block.place}: {fault}, for Match {block.condition}"] = None
        found = {matches for inside in kinds for matches in inside}
        unclear += [
            f"{block.place}: no login was found that is in Match {block.condition}"
            for matches, block in blocks.items()
            if matches not in found and _is_of_concern(matches, settings) and not _is_for_nobody(matches)
        ]
        return SshdVerdict(tuple(faults), tuple(opened), tuple(unclear))

    def sshd_proves_first(self) -> bool:
        """Whether sshd itself has asked for a first factor whenever it comes to PAM, whoever logs in from wherever.

        Raises PamAdminError.
        """
        return all(map(sshd_config.proves_first, self.sshd_answers()))

    def sshd_answers(self) -> Iterator[dict[str, str]]:
        """What sshd says of logins in general, and of each kind that its Match blocks make: keyword -> value.

        Raises PamAdminError.
        """
        settings = self.sshd_settings()
        kinds = self._kinds_of_logins(_blocks(settings), settings, ())
        yield from (effective(self.effective_sshd(login)) for login in (SshLogin(), STRANGER, *kinds.values()))

    def _kinds_of_logins(
        self, blocks: Mapping[Matches, Setting], settings: Sequence[Setting], users: Sequence[str]
    ) -> dict[frozenset[Matches], SshLogin]:
        """For each set of Match blocks that a login can be in at the same time, one login that sshd finds to be so.

        What sshd says of a login hangs on that set alone. Those in no block are left out.
        """
        logins = list(_candidates(blocks, settings, users))
        found: dict[frozenset[Matches], SshLogin] = {}
        if not logins:
            return found
        output = self.effective_sshd(STRANGER)
        keys = [line.partition(" ")[2] for line in output.splitlines() if line.lower().startswith("hostkey ")]
        lines = list(dict.fromkeys(line for matches in blocks for line in matches))
        with tempfile.TemporaryDirectory(prefix="textgate-sshd-") as folder:
            path = Path(folder, "sshd_config")
            for login in logins:
                met = self._lines_met(login, lines, keys, path)
                inside = frozenset(matches for matches in blocks if met.issuperset(matches))
                if inside:
                    found.setdefault(inside, login)
        return found

    def _lines_met(self, login: SshLogin, lines: Sequence[str], host_keys: Sequence[str], path: Path) -> set[str]:
        """The Match lines that sshd finds a login to meet. Each has a mark, in a file that has nothing else.

        AcceptEnv is the keyword of which sshd adds up the values of all blocks.
        """
        keys = "".join(f'HostKey "{key}"\n' for key in host_keys)
        content = keys + "".join(f"Match {line}\nAcceptEnv {_MARK}{number}\n" for number, line in enumerate(lines))
        path.write_text(content, encoding="utf-8", errors="surrogateescape")
        status, output = self._run(["sshd", "-T", "-f", str(path), "-C", login.words()])
        if status != 0 and len(lines) > 1:  # one that sshd can't read alone must not hide the others
            return {met for line in lines for met in self._lines_met(login, [line], host_keys, path)}
        marks = {line.partition(" ")[2] for line in output.splitlines() if line.lower().startswith("acceptenv ")}
        return {line for number, line in enumerate(lines) if status == 0 and f"{_MARK}{number}" in marks}

    def _check_sshd(self, first_factor: FirstFactor, *, is_forced: bool) -> None:
        """sshd takes its files, and they mean what they should. Raises PamAdminError."""
        self._make_privsep_folder()
        status, output = self._run(["sshd", "-t", *self._sshd_options()[0]])
        if status != 0:
            earlier = list(sshd_config.earlier_faults(self.sshd_settings(), first_factor))
            in_the_way = f"\nsshd reads first: {'; '.join(earlier)}" if earlier else ""
            raise PamAdminError(
                "sshd does not take the new settings", hint=(last_line(output) or "see: sshd -t") + in_the_way
            )
        found = self.judge_sshd(first_factor, planned=SSHD_SERVICES)
        if found.faults:
            raise PamAdminError(
                "sshd: " + "; ".join(found.faults),
                hint=f"take that line out; {DROP_IN} must be read, and before all that sets the same: "
                f"`Include /etc/ssh/sshd_config.d/*.conf` at the top of {sshd_config.MAIN_FILE}",
            )
        force = f"textgate pam try sshd --first-factor {first_factor.value} --force"
        if found.opened and not is_forced:
            raise PamAdminError(
                "sshd: some logins would go without a code: " + "; ".join(found.opened),
                hint=f"take these lines out; or, if they are meant: {force}",
            )
        if found.unclear and not is_forced:
            raise PamAdminError(
                "sshd: nobody can tell whether these ask for a code: " + "; ".join(found.unclear),
                hint=f"make these lines plain; or, if you know that they are right: {force}",
            )

    def _make_privsep_folder(self) -> None:
        """`sshd -t` wants the folder that its unit makes, and a stopped sshd has none."""
        with contextlib.suppress(OSError):
            self._at("/run/sshd").mkdir(mode=0o755, parents=True)

    def _reload_sshd(self) -> None:
        status, _ = self._run(["systemctl", "is-active", "--quiet", "ssh.service"])
        if status != 0:
            return  # not running, or started anew for each connection: it reads its files at the next start
        status, output = self._run(["systemctl", "reload", "ssh.service"])
        if status != 0:
            raise PamAdminError("sshd could not be reloaded", hint=last_line(output) or "see: systemctl status ssh")


def last_line(output: str) -> str:
    """The last words of a program."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def _blocks(settings: Sequence[Setting]) -> dict[Matches, Setting]:
    """Each Match block, by its first line, in the order of the files."""
    found: dict[Matches, Setting] = {}
    for one in settings:
        if one.keyword == "match":
            found.setdefault(one.matches, one)
    return found


def _candidates(
    blocks: Mapping[Matches, Setting], settings: Sequence[Setting], users: Sequence[str]
) -> Iterator[SshLogin]:
    """Logins to ask sshd about, ASKED_MAX at most: some for each block, those first that have a say."""
    queues: list[list[SshLogin]] = []
    for matches in sorted(blocks, key=lambda one: not _is_of_concern(one, settings))[:BLOCKS_MAX]:
        with contextlib.suppress(ValueError):  # it stays unclear
            logins = [] if _is_for_nobody(matches) else guesses(matches, users, group_members)
            queues.append(logins if _is_of_concern(matches, settings) else logins[:_ASKED_OF_OTHERS])
    in_turn = (login for round_ in itertools.zip_longest(*queues) for login in round_ if login is not None)
    return itertools.islice(dict.fromkeys(in_turn), ASKED_MAX)


def _is_for_nobody(matches: Matches) -> bool:
    """Whether a block is for names that no user has."""
    try:
        return any(kind == "invalid-user" for line in matches for kind, _ in criteria_of(line))
    except ValueError:
        return False


def _is_of_concern(matches: Matches, settings: Sequence[Setting]) -> bool:
    """Whether a line of a block, or of one within it, has a say in whether a code is asked for."""
    return any(one.matches[: len(matches)] == matches for one in settings if is_of_concern(one))


def _likeliest(
    inside: Collection[Matches], blocks: Mapping[Matches, Setting], settings: Sequence[Setting]
) -> Matches:
    """Which of these blocks makes a fault, as far as lines can tell: one that has a say, the innermost, the last."""
    order = list(blocks)
    return max(inside, key=lambda one: (_is_of_concern(one, settings), len(one), order.index(one)))
