# SPDX-License-Identifier: MIT
"""Puts the parts together: configuration -> everything that a login needs."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .accounts import NssAccounts
from .audit import Audit, Event, Priority
from .config import Config, parse_config
from .credentials import DIRECTORY_VARIABLE, load_credential
from .credstore import VAULT_KEY, Credstore
from .directory import build_directory
from .dispatcher import Alarms, Dispatcher
from .errors import ConfigError
from .gateway import Gateway, GatewayCredentials, build_gateway
from .pace import Pace
from .policy import names_groups
from .proofs import Proofs
from .secret import Secret
from .spent import Spent
from .store import Store
from .store_clock import StoreClock
from .store_upgrade import adopt_unproved
from .store_watch import StoreWatch, knock, started_mark
from .vault import Vault, parse_keys
from .verifier import Accounts, Clock, Directory, Unsent, Verifier

CONFIG_MAX_BYTES = 1 << 20
SENDS_WAITING = 256  # texts in line behind those being sent; more are refused at once


@dataclass(frozen=True)
class Services:
    """The parts of a running daemon. All of them are thread-safe."""

    config: Config
    store: Store
    gateway: Gateway
    sender: Dispatcher
    alarms: Alarms
    vault: Vault
    pace: Pace
    unsent: Unsent
    spent: Spent
    history: StoreClock
    verifier: Verifier
    watch: StoreWatch

    def close(self) -> None:
        """Finish the texts under way, write down what was seen of the store, then let go of gateway and store."""
        self.watch.close()
        self.sender.close()
        self.history.save()
        self.alarms.close()
        self.gateway.close()
        self.store.close()


@dataclass(frozen=True)
class Keys:
    """What is secret, for a program that has it at hand instead of in files.

    vault: the text of a vault-key file, lines `NAME:64 HEX DIGITS`, the first one seals. store_password: Redis'.
    """

    vault: Secret
    gateway: GatewayCredentials
    store_password: Secret | None = None


def load_config(path: str) -> Config:
    """Read and check the configuration. Raises ConfigError for whatever is wrong, a missing file included."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(CONFIG_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(path, (f"can't be read: {error.strerror}",)) from None
    if len(content) > CONFIG_MAX_BYTES:
        raise ConfigError(path, (f"is larger than {CONFIG_MAX_BYTES} bytes",))
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(path, (f"line {line} is not UTF-8",)) from None
    return parse_config(text, config_path=path)


def credential_files(config: Config) -> dict[str, str]:
    """The credentials that a configuration needs: names, as in LoadCredential=, and their plain files."""
    gateway = config.gateway
    of_gateway = (
        {"gatewayapi-token": gateway.token_file}
        if gateway.auth == "token"
        else {"gatewayapi-key": gateway.key_file, "gatewayapi-secret": gateway.secret_file}
    )
    return of_gateway | {VAULT_KEY: config.vault.key_file}


def load_gateway_credentials(config: Config, environ: Mapping[str, str]) -> GatewayCredentials:
    """What the chosen way of authentication needs. Raises CredentialError that names the file."""
    found = {
        name.removeprefix("gatewayapi-"): _load(name, path, environ)
        for name, path in credential_files(config).items()
        if name.startswith("gatewayapi-")
    }
    return GatewayCredentials(key=found.get("key"), secret=found.get("secret"), token=found.get("token"))


def load_vault(config: Config, environ: Mapping[str, str]) -> Vault:
    """The vault with its keys. Raises CredentialError."""
    return Vault(parse_keys(_load(VAULT_KEY, config.vault.key_file, environ)))


def load_keys(config: Config, environ: Mapping[str, str]) -> Keys:
    """The secrets, from systemd's credentials or their files. Raises CredentialError."""
    return Keys(
        vault=_load(VAULT_KEY, config.vault.key_file, environ),
        gateway=load_gateway_credentials(config, environ),
        store_password=_store_password(environ),
    )


def _load(name: str, path: str, environ: Mapping[str, str]) -> Secret:
    """A credential from systemd or its plain file; or, for root's own commands, opened as systemd would."""
    credstore = Credstore()
    if DIRECTORY_VARIABLE not in environ and credstore.keeps(name, path):
        return credstore.read(name)
    return load_credential(name, path, environ=environ)


def build_services(
    config: Config,
    audit: Audit,
    environ: Mapping[str, str],
    *,
    keys: Keys | None = None,
    former: Services | None = None,
    clock: Clock | None = None,
    accounts: Accounts | None = None,
    directory: Directory | None = None,
    seen_file: Path | None = None,
    is_daemon: bool = False,
) -> Services:
    """Make every part.

    seen_file: where what was seen of the store is kept; in memory alone without it. is_daemon: whether this process
    takes over what an earlier version left in the store.
    keys: in place of those of systemd and the files. former: what a reload replaces; its threads and what it learnt
    of the gateway go on. clock, accounts, directory: in place of the store's time, NSS and [phones].

    Connects to nothing: a daemon whose Redis is not up yet starts all the same and refuses until it is.
    Raises ConfigError or CredentialError.
    """
    keys = keys or load_keys(config, environ)
    vault = Vault(parse_keys(keys.vault))
    gateway = build_gateway(config.gateway, keys.gateway)
    store = build_store(config, keys.store_password)
    accounts = accounts or NssAccounts(with_groups=names_groups(config))
    directory = directory or build_directory(config.phones, accounts, on_fault=_fault_reporter(audit))
    sender = former.sender if former else Dispatcher(threads=config.gateway.connections, waiting=SENDS_WAITING)
    alarms = former.alarms if former else Alarms()
    pace = former.pace if former else Pace()
    unsent = former.unsent if former else Unsent()
    watch = _watch(config, store, audit)
    spent = former.spent if former else Spent()
    history = StoreClock(
        store,
        audit,
        path=seen_file,
        adopt=(lambda epoch: adopt_unproved(store, Proofs(vault), epoch)) if is_daemon else None,
        former=former.history if former else None,
    )
    verifier = Verifier(
        config=config,
        store=store,
        gateway=gateway,
        sender=sender,
        directory=directory,
        accounts=accounts,
        vault=vault,
        audit=audit,
        host=socket.gethostname().partition(".")[0] or "this host",
        clock=clock or history,
        alarm=alarms,
        pace=pace,
        unsent=unsent,
        history=history,
        spent=spent,
        is_store_away=watch.is_away,
    )
    if config.failmode.store == "safe":
        watch.start()
    return Services(config, store, gateway, sender, alarms, vault, pace, unsent, spent, history, verifier, watch)


def _watch(config: Config, store: Store, audit: Audit) -> StoreWatch:
    """What knows whether Redis is away, once it is started."""

    def on_change(is_away: bool) -> None:
        if is_away:
            audit.event(Event.FAULT, "[failmode] lets in: redis is away", priority=Priority.ALERT, reason="absent")
        else:
            audit.event(Event.SERVICE, "redis is no longer away", priority=Priority.NOTICE)

    return StoreWatch(
        lambda: knock(store.address, config.store.timeout_s),
        away_after_s=config.failmode.away_after_s,
        on_change=on_change,
        mark=lambda: started_mark(store.address),
    )


def build_store(config: Config, password: Secret | None) -> Store:
    """The store, connected to nothing yet. Raises ConfigError for a URL that can't be used."""
    connections = config.daemon.workers + config.gateway.connections + 1
    try:
        return Store(config.store, connections=connections, password=password)
    except ValueError:
        raise ConfigError(config.path, ("[store] url: has a part that redis-py doesn't know",)) from None


def _store_password(environ: Mapping[str, str]) -> Secret | None:
    """Redis' password, if systemd passed one; a file of its own is not looked for."""
    folder = environ.get(DIRECTORY_VARIABLE, "")
    if not folder or not (Path(folder) / "redis-password").exists():
        return None
    return load_credential("redis-password", "/nonexistent", environ=environ)


def _fault_reporter(audit: Audit) -> Callable[[tuple[str, ...]], None]:
    """What the phone directory calls with the faults of a changed phones file."""

    def report(faults: tuple[str, ...]) -> None:
        for fault in faults:
            audit.event(Event.FAULT, "phones file", priority=Priority.ERROR, reason=fault)

    return report
