# SPDX-License-Identifier: MIT
"""The configuration: TOML text -> one frozen `Config`, or a report of every fault at once.

Each option is declared once, with its default, its check and its explanation; nothing else knows the
defaults. An unknown key is a fault: a mistyped limit must not be silently off. Lists that let people in
(`exempt`) let nobody in when empty, and an empty `required` means everybody.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from . import sms
from .errors import ConfigError
from .msisdn import is_region

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Parse = Callable[[Any], Any]
T = TypeVar("T")

_ONE, _HUNDRED = Decimal(1), Decimal(100)
MONEY_MAX = 1_000_000_000
DEFAULT_PATH = "/etc/textgate/textgate.toml"


# --- Checks: what one value may be. Each raises ValueError with a phrase that follows the key's name. ---


def integer(low: int, high: int) -> Parse:
    """A whole number from low to high (booleans are not numbers)."""

    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return parse


def seconds(low: float, high: float) -> Parse:
    """A time in seconds from low to high, whole or not."""

    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ValueError(f"must be a number of seconds from {low:g} to {high:g}")
        return float(value)

    return parse


def money(value: Any) -> Decimal:
    """An amount: a whole number, or a string such as "25.00" (TOML floats can't hold money exactly)."""
    if isinstance(value, int | str | Decimal) and not isinstance(value, bool):
        try:
            amount = Decimal(value)
        except InvalidOperation:
            amount = Decimal(-1)
        if amount.is_finite() and 0 <= amount <= MONEY_MAX:
            return amount
    raise ValueError(f'must be an amount such as 25 or "25.00", at most {MONEY_MAX}')


def choice(*words: str) -> Parse:
    """One of the given words."""

    def parse(value: Any) -> str:
        if value not in words:
            raise ValueError("must be one of " + ", ".join(f'"{word}"' for word in words))
        return str(value)

    return parse


def matching(pattern: str, what: str) -> Parse:
    """A string that the whole pattern matches; `what` completes "must be ..."."""
    compiled = re.compile(pattern)

    def parse(value: Any) -> str:
        if not isinstance(value, str) or not compiled.fullmatch(value):
            raise ValueError(f"must be {what}")
        return value

    return parse


def list_of(item: Parse) -> Parse:
    """A list whose every entry passes `item`; becomes a tuple."""

    def parse(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError("must be a list, such as [] or [...]")
        parsed = []
        for number, entry in enumerate(value, start=1):
            try:
                parsed.append(item(entry))
            except ValueError as error:
                raise ValueError(f"entry {number} {error}") from None
        return tuple(parsed)

    return parse


def network(value: Any) -> Network:
    """An address or a network in CIDR form, IPv4 or IPv6."""
    try:
        return ipaddress.ip_network(value if isinstance(value, str) else "", strict=True)
    except ValueError:
        raise ValueError('must be an address or network such as "192.0.2.0/24", without host bits') from None


def gateway_url(value: Any) -> str:
    """https://HOST, or http:// to this very machine for tests; no path, no user, no query."""
    match = _GATEWAY_URL.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 0 < int(match["port"] or 1) < 65536:
        raise ValueError('must be an address such as "https://gatewayapi.com" (https, no path)')
    if match["scheme"] == "http" and match["host"] not in ("127.0.0.1", "[::1]", "localhost"):
        raise ValueError("must be https, except to this very machine")
    return str(value).rstrip("/")


def store_url(value: Any) -> str:
    """A redis-py URL: unix:///path, redis:// or rediss://. A password belongs into a credential."""
    if not isinstance(value, str) or not re.fullmatch(r"(?:unix|rediss?)://[!-~]+", value):
        raise ValueError('must be a Redis URL such as "unix:///run/textgate-redis/redis.sock"')
    parts = urlsplit(value)
    if parts.password or "password" in parse_qs(parts.query, keep_blank_values=True):
        raise ValueError("must not hold a password; put it into the credential redis-password")
    return str(value)


def sender(value: Any) -> str:
    """A sender id: 3–11 letters, digits or spaces with a letter among them, or 3–15 digits (GSM 03.40)."""
    if isinstance(value, str) and (
        re.fullmatch(r"[0-9]{3,15}", value) or re.fullmatch(r"(?=.*[A-Za-z])[A-Za-z0-9 ]{3,11}", value)
    ):
        return value
    raise ValueError("must be 3 to 11 letters, digits and spaces, or 3 to 15 digits")


def country(value: Any) -> str:
    """A region that phone numbers can belong to, or "*"."""
    if isinstance(value, str) and (value == "*" or is_region(value)):
        return value
    raise ValueError('must be a country code of two capitals such as "DK" or "GB" (or "*" for all)')


def home_country(value: Any) -> str:
    """A region that phone numbers can belong to, or "" for none."""
    if isinstance(value, str) and (not value or is_region(value)):
        return value
    raise ValueError('must be a country code of two capitals such as "DK" or "GB"')


_GATEWAY_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::(?P<port>[0-9]{1,5}))?/?"
)
path = matching(r"/[^\0]*", "an absolute path")
name = matching(r"[^\s\0:/]{1,256}", "a name without spaces, colons and slashes")
group = matching(r"(?! )[^\0-\x1f\x7f:/]{1,256}(?<! )", "a name without colons and slashes")
service = matching(r"[!-.0-9;-@\[-~]{1,256}", 'a PAM service in lower case, such as "sshd"')
fingerprint = matching(r"SHA256:[A-Za-z0-9+/]{43}", 'a key fingerprint as ssh-keygen -l prints it, "SHA256:..."')


def option(default: T, parse: Parse, doc: str) -> T:
    """Declare one option. `doc` is what the manual says of it."""
    declared: T = field(default=default, metadata={"parse": parse, "doc": doc})
    return declared


# --- The sections. ---


@dataclass(frozen=True)
class DaemonConfig:
    """[daemon] How textgated listens and how much it takes on."""

    auth_socket: str = option("/run/textgate/auth.sock", path, "socket that the PAM helper calls")
    admin_socket: str = option("/run/textgate/admin.sock", path, "socket that the textgate command calls")
    admin_group: str = option("textgate-admin", group, "group that may use the admin socket, beside root")
    workers: int = option(16, integer(1, 1000), "requests worked on at the same time; none waits for the gateway")
    queue: int = option(256, integer(0, 10000), "requests that may wait for a worker; more are refused at once")
    read_timeout_s: float = option(2.0, seconds(0.1, 30), "time a peer has to send its request")
    stop_timeout_s: float = option(20.0, seconds(1, 300), "time a stop waits for logins under way")


@dataclass(frozen=True)
class StoreConfig:
    """[store] Where Redis is."""

    url: str = option("unix:///run/textgate-redis/redis.sock", store_url, "Redis, as a redis-py URL")
    timeout_s: float = option(2.0, seconds(0.05, 30), "longest wait for one answer of Redis")


@dataclass(frozen=True)
class GatewayConfig:
    """[gateway] How texts go out."""

    api: str = option("rest", choice("rest", "messaging"), "GatewayAPI's REST API, or its newer Messaging API")
    auth: str = option("oauth1", choice("oauth1", "token"), "signed requests (key and secret), or an API token")
    url: str = option("https://gatewayapi.com", gateway_url, "the platform; https://gatewayapi.eu for EU accounts")
    key_file: str = option("/etc/textgate/credentials/gatewayapi-key", path, "OAuth key, unless a systemd credential")
    secret_file: str = option(
        "/etc/textgate/credentials/gatewayapi-secret", path, "OAuth secret, unless a systemd credential"
    )
    token_file: str = option(
        "/etc/textgate/credentials/gatewayapi-token", path, "API token, unless a systemd credential"
    )
    sender: str = option("textgate", sender, "sender that the phone shows")
    text: str = option(
        "{code} is your login code for {host}. Do not share it.",
        matching(r"[^\0]{1,500}", "a text of 1 to 500 characters"),
        "the text; {code} is the code, {host} this machine's name, {service} what asked",
    )
    message_class: str = option("standard", choice("standard", "premium"), "GatewayAPI's message class")
    priority: str = option(
        "NORMAL", choice("BULK", "NORMAL", "URGENT", "VERY_URGENT"), "the urgent two need message_class premium"
    )
    connections: int = option(24, integer(1, 40), "texts sent at the same time; GatewayAPI takes 40 per address")
    connect_timeout_s: float = option(3.0, seconds(0.1, 30), "longest wait for a connection")
    read_timeout_s: float = option(8.0, seconds(0.1, 60), "longest wait for the next bytes of an answer")
    total_timeout_s: float = option(15.0, seconds(0.1, 120), "longest time for one text, retries included")
    send_wait_s: float = option(
        2.0, seconds(0, 8), "how long a login waits for the gateway before it asks for the code"
    )


@dataclass(frozen=True)
class CodesConfig:
    """[codes] The codes."""

    digits: int = option(6, integer(6, 8), "length of a code (RFC 4226 §5.3: at least 6)")
    life_s: int = option(300, integer(60, 600), "life of a code; NIST SP 800-63B §5.1.3.2 allows at most 600")
    tries: int = option(3, integer(1, 5), "wrong codes that one text survives")


@dataclass(frozen=True)
class LimitsConfig:
    """[limits] Against guessing and against bills."""

    wrong_in_a_row: int = option(5, integer(1, 100), "wrong codes in a row, over all sessions, before a lockout")
    lockout_s: int = option(300, integer(1, 86400), "first lockout; each further one lasts twice as long")
    lockout_max_s: int = option(86400, integer(1, 604800), "longest lockout")
    wrong_per_day: int = option(
        20, integer(1, 1000), "wrong codes of one user in any 24 hours; two fifths of them from one place"
    )
    send_spacing_s: int = option(30, integer(0, 3600), "time between two texts to one user while none was answered")
    sends_per_15_minutes: int = option(5, integer(1, 1000), "unanswered texts to one user in any 15 minutes")
    sends_per_day: int = option(
        20, integer(1, 10000), "unanswered texts to one user in any 24 hours; two fifths of them from one place"
    )
    sends_per_phone_per_day: int = option(100, integer(1, 100_000), "texts to one number in a day, over all users")
    sends_per_source_per_hour: int = option(300, integer(1, 1_000_000), "texts asked for from one address in an hour")
    sends_per_host_per_minute: int = option(120, integer(1, 1_000_000), "texts asked for by one machine in a minute")
    sends_per_country_per_day: int = option(2000, integer(1, 100_000_000), "texts to one country in a day")
    sends_per_day_in_all: int = option(2000, integer(1, 100_000_000), "texts in a day, of all that share the Redis")
    spend_per_day: Decimal = option(_HUNDRED, money, "money for texts in a day, in the account's currency")
    price_at_most: Decimal = option(
        _ONE, money, "what one text may cost at most; set aside before it goes out, until its price is known"
    )
    allowed_countries: tuple[str, ...] = option(
        (), list_of(country), 'countries that may be texted, such as ["DK", "SE"]; [] is none, ["*"] all'
    )

    def allows(self, country: str) -> bool:
        """Whether texts may go to a country (`Msisdn.country`)."""
        return "*" in self.allowed_countries or country in self.allowed_countries


@dataclass(frozen=True)
class RequiredConfig:
    """[required] Who must give a code where the PAM lines stand. Empty lists mean everybody, everywhere."""

    users: tuple[str, ...] = option((), list_of(name), "users who must give a code")
    groups: tuple[str, ...] = option((), list_of(group), "groups whose members must give a code")
    services: tuple[str, ...] = option((), list_of(service), "PAM services in which a code is asked for")


@dataclass(frozen=True)
class ExemptConfig:
    """[exempt] Who gets in without a code. Empty lists exempt nobody."""

    users: tuple[str, ...] = option((), list_of(name), "users who need no code")
    groups: tuple[str, ...] = option((), list_of(group), "groups whose members need no code")
    networks: tuple[Network, ...] = option((), list_of(network), "ssh clients' networks that need no code (CIDR)")
    key_fingerprints: tuple[str, ...] = option(
        (), list_of(fingerprint), "ssh keys that need no code, for automation such as Ansible, rsync, git"
    )


@dataclass(frozen=True)
class RefusedConfig:
    """[refused] Who never gets in through textgate, whatever they type; nothing is texted to them."""

    users: tuple[str, ...] = option((), list_of(name), "users who are always refused")
    groups: tuple[str, ...] = option((), list_of(group), "groups whose members are always refused")


@dataclass(frozen=True)
class PhonesConfig:
    """[phones] Where people's numbers come from."""

    sources: tuple[str, ...] = option(("file",), list_of(choice("file", "gecos")), "sources in order; first hit wins")
    file: str = option("/etc/textgate/phones", path, "the phones file")
    default_region: str = option("", home_country, "country of numbers without +")


@dataclass(frozen=True)
class ServicesConfig:
    """[services] Which PAM services are what."""

    ssh: tuple[str, ...] = option(("sshd",), list_of(service), "services whose SSH_ environment is sshd's own word")
    left_open: tuple[str, ...] = option(
        (), list_of(service), "services that a password alone may open; doctor does not warn of them"
    )


@dataclass(frozen=True)
class FailmodeConfig:
    """[failmode] What happens when a part of textgate is away; "safe" lets in without a code and raises an alert."""

    store: str = option("secure", choice("secure", "safe"), "nobody takes connections at Redis' address")
    gateway: str = option("secure", choice("secure", "safe"), "the gateway can't be reached, or breaks")
    safe_services: tuple[str, ...] = option(
        (), list_of(service), 'services of [services] ssh in which "safe" applies; in all others it stays secure'
    )
    safe_local_services: tuple[str, ...] = option(
        (),
        list_of(service),
        'services of the machine itself, such as "login", in which "safe" applies, although whoever uses them is '
        "on it already",
    )
    away_after_s: float = option(
        30.0, seconds(5, 3600), "how long nobody must have taken connections before Redis counts as away"
    )

    def is_safe_in(self, service: str, ssh_services: tuple[str, ...]) -> bool:
        """Whether "safe" applies in a PAM service. Each kind has a list of its own: see `cautions`."""
        return service in (self.safe_services if service in ssh_services else self.safe_local_services)


@dataclass(frozen=True)
class VaultConfig:
    """[vault] The key under which users' secrets are sealed."""

    key_file: str = option("/etc/textgate/credentials/vault-key", path, "vault keys, unless a systemd credential")


@dataclass(frozen=True)
class Config:
    """The whole configuration, checked. `path` is where it came from."""

    path: str
    daemon: DaemonConfig = DaemonConfig()
    store: StoreConfig = StoreConfig()
    gateway: GatewayConfig = GatewayConfig()
    codes: CodesConfig = CodesConfig()
    limits: LimitsConfig = LimitsConfig()
    required: RequiredConfig = RequiredConfig()
    exempt: ExemptConfig = ExemptConfig()
    refused: RefusedConfig = RefusedConfig()
    phones: PhonesConfig = PhonesConfig()
    services: ServicesConfig = ServicesConfig()
    failmode: FailmodeConfig = FailmodeConfig()
    vault: VaultConfig = VaultConfig()


SECTIONS: dict[str, type[Any]] = {
    declared.name: type(declared.default) for declared in dataclasses.fields(Config) if declared.name != "path"
}


def parse_config(text: str, *, config_path: str) -> Config:
    """Read a configuration.

    text: the file's TOML. config_path: its name for messages.
    Raises ConfigError with every fault found, each led by its [section] key, or the line for broken TOML.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(config_path, (_toml_fault(error),), hint="the file is TOML: https://toml.io") from None
    except (ValueError, RecursionError):  # numbers of thousands of digits, brackets in thousands of brackets
        raise ConfigError(config_path, ("not a sensible TOML file: a number or a nesting without end",)) from None
    return config_from_mapping(document, config_path=config_path)


def config_from_mapping(document: Mapping[str, Any], *, config_path: str) -> Config:
    """Check a configuration that is in memory.

    document: what the TOML file would hold, {"codes": {"tries": 2}, …}. config_path: its name for messages.
    Raises ConfigError with every fault found, each led by its [section] key.
    """
    faults = [f"[{key}]: no such section{_suggestion(key, SECTIONS)}" for key in document if key not in SECTIONS]
    sections: dict[str, Any] = {}
    for section, kind in SECTIONS.items():
        sections[section] = _read_section(section, kind, document.get(section, {}), faults)
    config = Config(path=config_path, **sections)
    # A key that is at fault already stands at its default there: a second fault of it would mislead.
    at_fault = {fault.partition(":")[0] for fault in faults}
    faults.extend(fault for fault in _cross_faults(config) if fault.partition(":")[0] not in at_fault)
    if faults:
        raise ConfigError(config_path, tuple(faults))
    return config


def _read_section(section: str, kind: type[Any], table: Any, faults: list[str]) -> Any:
    """One section's table -> its dataclass; faults are added to `faults` and the default stands in."""
    if not isinstance(table, dict):
        faults.append(f"[{section}]: must be a table, written as [{section}]")
        return kind()
    declared = {option_field.name: option_field for option_field in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in declared:
            faults.append(f"[{section}] {key}: no such key{_suggestion(key, declared)}")
            continue
        try:
            values[key] = declared[key].metadata["parse"](value)
        except ValueError as error:
            faults.append(f"[{section}] {key}: {error}")
    return kind(**values)


def _cross_faults(config: Config) -> Iterator[str]:
    """Faults that show only when several keys are read together."""
    gateway, limits = config.gateway, config.limits
    if gateway.api == "messaging" and gateway.auth == "oauth1":
        yield '[gateway] auth: must be "token" with api = "messaging", which knows no OAuth'
    is_dear = gateway.priority in ("URGENT", "VERY_URGENT")
    if gateway.api == "rest" and is_dear and gateway.message_class != "premium":
        yield '[gateway] priority: the urgent two need message_class = "premium"'
    if gateway.connect_timeout_s > gateway.total_timeout_s:
        yield "[gateway] connect_timeout_s: must not be longer than total_timeout_s"
    if gateway.total_timeout_s >= config.codes.life_s:
        yield "[gateway] total_timeout_s: must be shorter than [codes] life_s"
    if not limits.allowed_countries:
        yield '[limits] allowed_countries: name the countries that may be texted, such as ["DK"], or ["*"] for all'
    if limits.price_at_most > limits.spend_per_day:
        yield "[limits] spend_per_day: must not be less than price_at_most, or nothing could be texted"
    if limits.lockout_s > limits.lockout_max_s:
        yield "[limits] lockout_s: must not be longer than lockout_max_s"
    for fault in sms.template_faults(gateway.text, digits=config.codes.digits):
        yield f"[gateway] text: {fault}"
    if not config.phones.sources:
        yield '[phones] sources: must name at least one source, such as ["file"]'
    failmode = config.failmode
    if "safe" in (failmode.store, failmode.gateway) and not (failmode.safe_services or failmode.safe_local_services):
        yield '[failmode] safe_services: name the services in which "safe" applies'


def cautions(config: Config) -> tuple[str, ...]:
    """What is no fault, for a daemon that doesn't start lets nobody in, and yet not what somebody meant.

    Each is led by its [section] key, as a fault is.
    """
    failmode, found = config.failmode, []
    if "safe" not in (failmode.store, failmode.gateway):
        return ()
    ssh = config.services.ssh
    for key, other, names in (
        ("safe_services", "safe_local_services", [name for name in failmode.safe_services if name not in ssh]),
        ("safe_local_services", "safe_services", [name for name in failmode.safe_local_services if name in ssh]),
    ):
        if names:
            kind = "not in [services] ssh" if key == "safe_services" else "in [services] ssh"
            found.append(
                f"[failmode] {key}: {', '.join(names)}: {kind}, so it stays secure there; "
                f'name it in {other} if "safe" is meant'
            )
    return tuple(found)


def _suggestion(key: str, known: Any) -> str:
    """A "did you mean" for a mistyped name, or nothing."""
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _toml_fault(error: tomllib.TOMLDecodeError) -> str:
    """The decoder's words, which name line and column."""
    return f"not valid TOML: {str(error)[:1].lower()}{str(error)[1:]}"
