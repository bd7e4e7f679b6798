# SPDX-License-Identifier: MIT
"""What systemd's timer runs while a PAM change is being tried: confirm it, take it back, or wait.

The way back must not hang on anything that can break: this needs Python and its standard library, no configuration,
no daemon, and none of textgate's other libraries. A daemon that doesn't answer is a login that didn't happen.
"""

from __future__ import annotations

import contextlib
import sys
import time
import tomllib
from pathlib import Path

from . import admin_client
from .pam_admin import PamAdmin
from .pam_state import Guard
from .printable import printable

CONFIG_PATH = "/etc/textgate/textgate.toml"
ADMIN_SOCKET = "/run/textgate/admin.sock"
WAIT_S = 2.0  # for a daemon that hangs; a whole round keeps `textgate pam disable` waiting, which waits LOCK_WAIT_S


def main() -> int:
    """Entry point. Exit status: 0 for all that was to be done, 1 if a try could not be taken back."""
    admin = PamAdmin()
    socket_path = admin_socket(CONFIG_PATH)
    has_failed = False
    for reverted in admin.revert_due(int(time.time()), lambda guard: has_passed(admin, guard, socket_path)):
        if reverted.error:
            has_failed = True
            hint = f" ({reverted.error.hint})" if reverted.error.hint else ""
            _say(3, f"{reverted.service}: can't be taken back: {reverted.error.message}{hint}")
        else:
            what = "confirmed by a login" if reverted.is_confirmed else "taken back, nobody confirmed it"
            _say(5, f"{reverted.service}: {what}")
    return 1 if has_failed else 0


def _say(priority: int, text: str) -> None:
    print(f"<{priority}>{printable(text)}")  # noqa: T201  # with the priority that journald reads


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
