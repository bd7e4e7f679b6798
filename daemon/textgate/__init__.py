# SPDX-License-Identifier: MIT
"""textgate: a texted one-time code as the second factor of a Linux login.

Three layers, imports point down only (tests/unit/test_layers.py holds that line):

    shell     server, admin, verifier, dispatcher, wiring, client, service, doctor, way_in, administrators,
              store_words, doctor_failmode, doctor_sshd, doctor_sudo, doctor_block, doctor_changes, pam_status,
              doctor_doors, doctor_polkit, intake, pam_commands, cli*, pam_revert, rescue, entry,
              admin_desk, admin_limits, counts, credit_cache, password_limits: starts, wires
    adapters  store, store_clock, store_upgrade, seen, spent, proofs, gateway,
              gateway_transport, directory, accounts, credentials, credstore, vault, peercred, boot,
              audit, memory, admin_client, journal_reader, transaction, pam_files, pam_state, pam_sshd,
              pam_admin, pam_removal, pam_conversation, pam_dry_run, guard_health, door_survey, programs, atomic_file,
              plain_files, shortage, store_watch, redis_room, audit_digest, decoys,
              sshd_running, sudoers, pam_repair: one outside thing each
    core      everything else: decides, and touches nothing outside (no socket, file, clock, log or Redis)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import AuthClient

__all__ = ["AuthClient", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`textgate.AuthClient`, loaded when it is asked for: commands don't pay for it."""
    if name == "AuthClient":
        from .client import AuthClient

        return AuthClient
    raise AttributeError(name)
