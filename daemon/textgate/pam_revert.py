# SPDX-License-Identifier: MIT
"""What systemd runs while a PAM change is being tried: confirm it, take it back, or wait.

A path unit runs it too, where a change was broken off: what a command that was killed has left half is taken back or
finished, and so is what a removal of the package took out, if dpkg was killed before its end.

The way back must not hang on anything that can break: this needs Python and its standard library, no configuration,
no daemon, and none of textgate's other libraries. A daemon that doesn't answer is a login that didn't happen.
"""

from __future__ import annotations

import contextlib
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

from . import admin_client
from .credstore import PLAIN_FOLDER, CredentialsBusyError, Credstore, one_at_a_time
from .errors import TextgateError
from .pam_admin import PamAdmin, Reverted
from .pam_removal import PamRemoval
from .pam_state import BusyError, Guard
from .printable import printable

CONFIG_PATH = "/etc/textgate/textgate.toml"
ADMIN_SOCKET = "/run/textgate/admin.sock"
AGAIN_S = 5.0  # before what failed is tried again
DPKG_POLL_S, DPKG_ROUNDS = 0.5, 120
WAIT_S = 2.0  # for a daemon that hangs; a whole round keeps `textgate pam disable` waiting, which waits LOCK_WAIT_S


def main(sleep: Callable[[float], None] = time.sleep) -> int:
    """Entry point. Exit status: 0 for all that was to be done, 1 if something could not be taken back.

    sleep: waits. What can't be dealt with yet is tried again: systemd starts this anew as long as it is there.
    """
    admin = PamRemoval()
    socket_path = admin_socket(CONFIG_PATH)
    has_failed = False
    try:
        for reverted in admin.revert_due(int(time.time()), lambda guard: has_passed(admin, guard, socket_path)):
            has_failed = _tell(reverted) or has_failed
        _settle_credentials()
        settle_removal(admin, sleep)
    except BusyError:
        return 0
    except TextgateError as error:
        has_failed = True
        _say(3, f"{error.message}{_hint(error)}")
        sleep(AGAIN_S)
    for note in admin.notes:
        _say(5, note)
    return 1 if has_failed else 0


def _tell(reverted: Reverted) -> bool:
    """Say what became of a try. Answers whether it failed."""
    if reverted.error:
        _say(3, f"{reverted.service}: can't be taken back: {reverted.error.message}{_hint(reverted.error)}")
        return True
    what = "confirmed by a login" if reverted.is_confirmed else "taken back, nobody confirmed it"
    _say(5, f"{reverted.service}: {what}")
    return False


def _say(priority: int, text: str) -> None:
    print(f"<{priority}>{printable(text)}")  # noqa: T201  # with the priority that journald reads


def _hint(error: TextgateError) -> str:
    return f" ({error.hint})" if error.hint else ""


def _settle_credentials() -> None:
    """Undo, or finish, a change of credentials that was broken off. Raises CredentialError."""
    credstore = Credstore()
    if credstore.is_broken_off():
        with contextlib.suppress(CredentialsBusyError), one_at_a_time(Path(PLAIN_FOLDER)):
            credstore.recover()


def settle_removal(admin: PamRemoval, sleep: Callable[[float], None]) -> None:
    """Put back what a removal took out whose dpkg is gone. Raises PamAdminError.

    Lines that name files which are not there refuse everybody. So nothing goes back while dpkg is at work, or where
    it has begun to remove files; then it is dpkg that has to end the removal, or to install the package again.
    """
    for _ in range(DPKG_ROUNDS):
        if not admin.is_suspended():
            return
        if not admin.is_dpkg_at_work():
            break
        sleep(DPKG_POLL_S)
    else:
        return  # until the next round
    if not admin.is_whole():
        sleep(AGAIN_S)
        return
    files = admin.resume()
    if files:
        _say(4, f"the package was not removed after all: these files ask for codes again: {', '.join(files)}")


def admin_socket(config_path: str) -> str:
    """Where the daemon listens: as the configuration says, or the usual place if that can't be read."""
    try:
        with Path(config_path).open("rb") as file:
            return str(tomllib.load(file)["daemon"]["admin_socket"])
    except (OSError, ValueError, KeyError, TypeError):
        return ADMIN_SOCKET


def has_passed(admin: PamAdmin, guard: Guard, socket_path: str) -> bool:
    """Whether a right code was given through a service's lines since its try began."""
    services = {guard.service}
    with contextlib.suppress(Exception):  # as below
        services.update(admin.services_through(guard.service))
    for service in services:
        try:
            passed_at = admin_client.call(socket_path, "last-pass", WAIT_S, service=service)["at"]
            if passed_at is not None and float(passed_at) >= guard.started_at:
                return True
        except Exception:  # noqa: S112  # whatever it is, it is no login
            continue
    return False


if __name__ == "__main__":
    sys.exit(main())
