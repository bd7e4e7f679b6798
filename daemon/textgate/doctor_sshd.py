# SPDX-License-Identifier: MIT
"""What `textgate doctor` says of sshd: whether its settings ask for a code, whoever logs in from wherever."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .errors import TextgateError
from .finding import Finding
from .guard_faults import Level
from .pam_files import SSHD_SERVICES
from .pam_stack import FirstFactor
from .sshd_config import METHODS, effective, pam_service
from .sshd_running import listening
from .way_in import ssh_obstacles

if TYPE_CHECKING:
    from .doctor import Machine

GRACE_SPARE_S = 30  # beside the code's life, time to give the first factor
SSHD_USERS_MAX = 20  # of whom `sshd -T` is asked


def check_sshd(machine: Machine) -> Iterator[Finding]:
    """All findings; none where no service of sshd's asks for a code. Raises TextgateError."""
    found: dict[str, str] | None = None
    if not set(SSHD_SERVICES) & set(machine.guarded):
        found = effective(machine.pam.effective_sshd()) if machine.guarded else {}
        if pam_service(found) not in machine.guarded:
            return
    found = found or effective(machine.pam.effective_sshd())
    guard = machine.pam.guard("sshd")
    first_factor = guard.first_factor if guard else _first_factor_of(found.get("authenticationmethods", ""))
    verdict = machine.pam.judge_sshd(first_factor, list(machine.holders)[:SSHD_USERS_MAX])
    for fault in verdict.faults:
        yield Finding("sshd", Level.FAILURE, fault, "edit what is named, then: systemctl reload ssh")
    for fault in verdict.opened:
        yield Finding("sshd", Level.WARNING, f"some logins go without a code: {fault}", "take that line out")
    for place in verdict.unclear:
        told = f"nobody can tell whether a code is asked for: {place}"
        yield Finding("sshd", Level.WARNING, told, "write that line plainly, or take it out")
    if verdict.is_fine:
        yield Finding("sshd", Level.OK, f"asks for {found['authenticationmethods']}, and takes no password by itself")
    yield from _others(machine, first_factor)
    yield from _unlisted(machine, pam_service(found))
    obstacles = ssh_obstacles(
        machine.admins,
        first_factor,
        lambda user: effective(machine.pam.effective_sshd(user)),
        machine.config,
        machine.logins,
    )
    if obstacles:
        message = "no administrator with a phone can log in by ssh: " + "; ".join(obstacles)
        yield Finding("sshd", Level.FAILURE, message, "textgate enrol USER, of one who can")
    yield from _grace(machine, found.get("logingracetime", "0"))


def _others(machine: Machine, first_factor: FirstFactor) -> Iterator[Finding]:
    """Whether an sshd that runs beside Debian's lets in without a code."""
    running = listening(machine.at("/proc"), owners=machine.trusted_uids)
    for options in dict.fromkeys(map(tuple, running)):
        other = machine.pam.other_sshd(options)
        if other is None:
            continue
        try:
            verdict = other.judge_sshd(first_factor)
            faults = [*verdict.faults, *verdict.opened, *verdict.unclear]
        except TextgateError as error:
            faults = [f"{error.message}: {error.hint}"]
        if faults:
            told = f"another one runs here, by sshd {' '.join(options)}: {'; '.join(faults)}"
            yield Finding("sshd", Level.WARNING, told, "stop it, or give it the settings of the first one")


def _unlisted(machine: Machine, service: str) -> Iterator[Finding]:
    config = machine.config
    if service not in config.services.ssh:
        told = (
            f"its PAM service {service} is not in [services] ssh: addresses and keys of its logins are not believed"
        )
        yield Finding("sshd", Level.WARNING, told, f"edit [services] ssh in {config.path}")


def _first_factor_of(methods: str) -> FirstFactor:
    """What lines that were put in by hand ask for first."""
    return next((factor for factor, value in METHODS.items() if value == methods), FirstFactor.KEY)


def _grace(machine: Machine, grace: str) -> Iterator[Finding]:
    life_s = machine.config.codes.life_s
    if not grace.isdigit() or int(grace) == 0:
        return
    if int(grace) < life_s + GRACE_SPARE_S:
        yield Finding(
            "sshd", Level.WARNING, f"LoginGraceTime {grace} s ends a login before its code does ({life_s} s)",
            f"set LoginGraceTime {life_s + GRACE_SPARE_S} in a file of /etc/ssh/sshd_config.d/",
        )  # fmt: skip
    else:
        yield Finding("sshd", Level.OK, f"LoginGraceTime {grace} s is longer than a code lives")
