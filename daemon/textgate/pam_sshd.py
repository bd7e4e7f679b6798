# SPDX-License-Identifier: MIT
"""sshd as it is on this machine: its files, what `sshd -T` makes of them, and its reload.

Needs nothing but the standard library: the way back from a PAM change hangs on it.
"""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Iterator
from pathlib import Path

from . import sshd_config
from .pam_files import PamAdminError, PamFiles
from .pam_stack import FirstFactor
from .sshd_config import DROP_IN, Setting


class PamSshd(PamFiles):
    """What textgate asks of sshd."""

    def sshd_settings(self) -> list[Setting]:
        """Every setting of sshd's files in the order in which sshd reads them."""
        return list(self._settings_of(sshd_config.MAIN_FILE, "", 0))

    def _settings_of(self, path: str, condition: str, nesting: int) -> Iterator[Setting]:
        text = (self._bytes(path) or b"").decode(errors="replace")
        lines = ((f"{path}:{number}", line) for number, line in enumerate(text.splitlines(), start=1))
        for setting in sshd_config.read_settings(lines, condition=condition):
            yield setting
            if setting.keyword == "include" and nesting < 16:
                for pattern in setting.value.split():
                    whole = pattern if pattern.startswith("/") else f"/etc/ssh/{pattern}"
                    for found in sorted(glob.glob(str(self._at(whole)))):  # noqa: PTH207  # an absolute pattern
                        inner = "/" + str(Path(found).relative_to(self._root))
                        yield from self._settings_of(inner, setting.condition, nesting + 1)

    def effective_sshd(self, user: str = "root") -> str:
        """What `sshd -T` prints for a user's login from this machine. Raises PamAdminError."""
        self._make_privsep_folder()
        # All that a Match line can ask for: without its port, sshd refuses to look at one with LocalPort.
        login = f"user={user},host=localhost,addr=127.0.0.1,laddr=127.0.0.1,lport=22"
        status, output = self._run(["sshd", "-T", "-C", login])
        if status != 0:
            raise PamAdminError("sshd's effective settings can't be read", hint=last_line(output) or "see: sshd -T")
        return output

    def _check_sshd(self, first_factor: FirstFactor, *, is_forced: bool) -> None:
        """sshd takes its files, and they mean what they should. Raises PamAdminError."""
        self._make_privsep_folder()
        settings = self.sshd_settings()
        status, output = self._run(["sshd", "-t"])
        if status != 0:
            earlier = list(sshd_config.earlier_faults(settings, first_factor))
            in_the_way = f"\nsshd reads first: {'; '.join(earlier)}" if earlier else ""
            raise PamAdminError(
                "sshd does not take the new settings", hint=(last_line(output) or "see: sshd -t") + in_the_way
            )
        faults = list(sshd_config.effective_faults(self.effective_sshd(), first_factor, settings))
        if faults:
            raise PamAdminError(
                "sshd: " + "; ".join(faults),
                hint=f"take that line out; {DROP_IN} must be read, and before all that sets the same: "
                f"`Include /etc/ssh/sshd_config.d/*.conf` at the top of {sshd_config.MAIN_FILE}",
            )
        opened = [] if is_forced else list(sshd_config.match_faults(settings, first_factor))
        if opened:
            raise PamAdminError(
                "sshd: some logins would go without a code: " + "; ".join(opened),
                hint="take these lines out; or, if they are meant: "
                f"textgate pam try sshd --first-factor {first_factor.value} --force",
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
