# SPDX-License-Identifier: MIT
"""`textgate setup`: from a fresh installation to a guarded service, asking for what it isn't told.

Every question can be answered beforehand, in a file (--answers) or by an option, for Ansible and the like; what is
answered is not asked. Each step looks first at what is done already, so that setup can be run again at any time.
Secrets and phone numbers are never arguments, since those are seen by every user of the machine: their options name
files.
"""

from __future__ import annotations

import os
import stat
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from . import cli_pam, service, wiring
from .administrators import phone_of
from .atomic_file import replace_file
from .cli_base import Context, ask_hidden, command, complete_users, tell
from .config import Config, parse_config
from .config_edit import Value, set_option
from .credstore import VAULT_KEY, Credstore, one_at_a_time
from .doctor_doors import suggestions, wishes_of
from .door_survey import survey
from .errors import ConfigError, CredentialError, RefusedError, TextgateError, UsageError
from .pam_admin import PamAdmin
from .pam_files import SSHD_SERVICES, check_service
from .pam_stack import FirstFactor
from .printable import printable
from .secret import Secret

TRIES = 3
ANSWERS_MAX_BYTES = 1 << 16
# What the gateway says of credentials that others would mend.
_WRONG_CREDENTIALS = ("credentials", "account")

T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """One thing that setup wants to know. is_secret: never on a command line; its option names a file."""

    kind: type
    help: str
    is_secret: bool = False


ANSWERS: Mapping[str, Answer] = {
    "gateway_key": Answer(str, "OAuth key of the GatewayAPI account", is_secret=True),
    "gateway_secret": Answer(str, "OAuth secret of the GatewayAPI account", is_secret=True),
    "gateway_token": Answer(str, "API token of the GatewayAPI account, in place of key and secret", is_secret=True),
    "encrypt_credentials": Answer(bool, "keep credentials encrypted with this machine's key, where it can"),
    "gateway_url": Answer(str, "address of GatewayAPI"),
    "sender": Answer(str, "sender that phones show"),
    "text": Answer(str, "the text, with {code}"),
    "default_region": Answer(str, "country of numbers written without +, such as DK"),
    "allowed_countries": Answer(list, "countries that may be texted"),
    "user": Answer(str, "who is enrolled first"),
    "number": Answer(str, "phone of that user", is_secret=True),
    "send_test": Answer(bool, "send a test text before the code"),
    "recovery_codes": Answer(bool, "make recovery codes for that user"),
    "services": Answer(list, "services to guard"),
    "first_factor": Answer(str, "what comes before the code in ssh: key, password, any"),
    "confirm_within": Answer(str, "how long services are tried, such as 5m"),
}


@dataclass
class Wizard:
    """One run. answers: what was given beforehand. can_ask: there is a person at a terminal."""

    context: Context
    answers: dict[str, Any]
    can_ask: bool
    done: dict[str, Any] = field(default_factory=dict)

    def answer(self, name: str, question: str, default: str | None = None) -> str:
        """One answer: the one given, a person's, or the default. Raises RefusedError where there is none."""
        if name in self.answers:
            given = self.answers[name]
            return " ".join(given) if isinstance(given, list) else str(given)
        if not self.can_ask:
            if default is None:
                raise RefusedError(f"setup needs {name}", hint=f"put {name} = ... into the file of --answers")
            return default
        shown = f" [{default}]" if default else ""
        for _ in range(TRIES):
            typed = self._read(f"{question}{shown}: ", is_hidden=ANSWERS[name].is_secret and name != "number")
            if typed or default is not None:
                return typed or default or ""
        raise RefusedError(f"no answer was given to: {question}", hint="run setup again; what is done is kept")

    def _read(self, prompt: str, *, is_hidden: bool) -> str:
        try:
            if is_hidden:
                return ask_hidden(prompt).strip()
            tell(prompt, nl=False, err=True)
            line = sys.stdin.readline()
        except (EOFError, UnicodeDecodeError):
            line = ""
        if not line:
            raise RefusedError("setup was broken off", hint="run it again; what is done is kept")
        return line.strip()

    def until_good(self, names: tuple[str, ...], step: Callable[[], T]) -> T:
        """Ask anew while a person's answers are at fault; faults of answers that were given are raised."""
        for _ in range(TRIES - 1):
            try:
                return step()
            except TextgateError as error:
                if not self.can_ask or any(name in self.answers for name in names):
                    raise
                for line in getattr(error, "faults", ()) or (error.message,):
                    tell(f"  {line}", err=True)
                if error.hint:
                    tell(f"  hint: {error.hint}", err=True)
        return step()

    def wants(self, name: str, question: str, *, default: bool) -> bool:
        """Yes or no."""
        if name in self.answers:
            return bool(self.answers[name])
        return click.confirm(printable(question), default=default, err=True) if self.can_ask else default


def _complete_first_factors(_context: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return [factor.value for factor in FirstFactor if factor.value.startswith(incomplete)]


COMPLETIONS = {"user": complete_users, "first_factor": _complete_first_factors}


def _answer_options(function: Any) -> Any:
    """An option for each answer: its value, or a file that holds it."""
    for name, answer in reversed(list(ANSWERS.items())):
        flag = "--" + name.replace("_", "-")
        if answer.is_secret:
            decorate = click.option(
                f"{flag}-file", name, metavar="FILE", type=click.Path(), help=f"holds the {answer.help}"
            )
        elif answer.kind is bool:
            decorate = click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=answer.help)
        elif answer.kind is list:
            decorate = click.option(flag, name, metavar="NAME,NAME", help=f"{answer.help}, with commas between them")
        else:
            decorate = click.option(flag, name, help=answer.help, shell_complete=COMPLETIONS.get(name))
        function = decorate(function)
    return function


@click.command()
@click.option(
    "--answers",
    "answers_path",
    metavar="FILE",
    type=click.Path(),
    help="TOML file, closed to others, with any of: " + ", ".join(ANSWERS),
)
@click.option(
    "--code-stdin", is_flag=True, help="read the code that proves the phone from standard input, ask nothing"
)
@click.option("--no-pam", is_flag=True, help="stop before any service is guarded")
@_answer_options
@command
def setup(context: Context, answers_path: str | None, code_stdin: bool, no_pam: bool, **given: Any) -> None:
    """Set textgate up: gateway, first user, recovery codes, and the services to guard.

    Asks for what it isn't told, and can be run again: what is done already is kept. Without a terminal it asks
    nothing and needs to be told.
    """
    if os.geteuid() != 0:
        raise TextgateError("setup changes files of root", hint="run it with sudo")
    in_file, in_options = read_answers(answers_path) if answers_path else {}, read_options(given)
    if not no_pam:
        _check_pam_answers(answers_path or "", in_file, in_options)
    wizard = Wizard(context, in_file | in_options, _can_ask(code_stdin))
    wizard.until_good(
        ("sender", "text", "default_region", "allowed_countries", "gateway_url"), lambda: _configure(wizard)
    )
    _connect(wizard)
    user = wizard.until_good(("user", "number"), lambda: _enrol(wizard, code_stdin))
    wizard.done["user"] = user
    if not no_pam:
        _guard_services(wizard)
    context.result(wizard.done)
    context.say("")
    context.say("Done. `textgate doctor` looks at everything; keep this session open until you have logged in anew.")


def _can_ask(code_stdin: bool) -> bool:
    """Whether there is a person at a terminal."""
    return sys.stdin.isatty() and not code_stdin


# --- What was answered beforehand ---


def read_answers(path: str) -> dict[str, Any]:
    """The file of answers. Raises ConfigError that names each fault, CredentialError if others can read it."""
    try:
        given = tomllib.loads(_read_private(path))
    except tomllib.TOMLDecodeError:
        raise ConfigError(path, ("is not valid TOML",)) from None
    faults = [f"{key}: no such answer" for key in given if key not in ANSWERS]
    for key, answer in ANSWERS.items():
        if key not in given:
            continue
        if not isinstance(given[key], answer.kind) or (answer.kind is list and not _is_list_of_words(given[key])):
            what = {str: "a text", bool: "true or false", list: "a list of texts"}[answer.kind]
            faults.append(f"{key}: must be {what}")
    if faults:
        raise ConfigError(path, tuple(faults), hint="the answers are: " + ", ".join(ANSWERS))
    return given


def _is_list_of_words(value: list[object]) -> bool:
    return all(isinstance(word, str) and word.strip() for word in value)


def read_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Answers from the options that were used. Raises ConfigError, or CredentialError for a file open to others."""
    answers: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if ANSWERS[name].is_secret:
            answers[name] = _read_private(value).strip()
        else:
            answers[name] = value.replace(",", " ").split() if ANSWERS[name].kind is list else value
    return answers


def _read_private(path: str) -> str:
    """A file that only its owner can read. Raises ConfigError or CredentialError."""
    try:
        with Path(path).open("rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and (status.st_mode & 0o077 or status.st_uid != os.geteuid()):
                raise CredentialError(f"{path}: is open to other users", hint=f"chown root {path}; chmod 0600 {path}")
            return file.read(ANSWERS_MAX_BYTES).decode()
    except OSError as error:
        raise ConfigError(path, (f"can't be read: {error.strerror}",)) from None
    except UnicodeDecodeError:
        raise ConfigError(path, ("is not UTF-8 text",)) from None


def _check_pam_answers(path: str, in_file: Mapping[str, Any], in_options: Mapping[str, Any]) -> None:
    """Look at what is of use only in the end, before anything is written, texted or enrolled.

    path: of the file of answers. Raises ConfigError for faults in the file, UsageError for those of options.
    """
    faults = dict(_pam_faults(in_file))
    if faults:
        raise ConfigError(
            path, tuple(f"{name}: {error.message}" for name, error in faults.items()), hint=_hint(faults)
        )
    faults = dict(_pam_faults(in_options))
    if faults:
        told = (f"--{name.replace('_', '-')}: {error.message}" for name, error in faults.items())
        raise UsageError("; ".join(told), hint=_hint(faults))


def _pam_faults(answers: Mapping[str, Any]) -> Iterator[tuple[str, TextgateError]]:
    """Name of each answer about services that can't be used, and why."""
    checks: Mapping[str, Callable[[Any], object]] = {
        "services": _check_services,
        "first_factor": _check_first_factor,
        "confirm_within": cli_pam.parse_span,
    }
    for name, check in checks.items():
        try:
            if name in answers:
                check(answers[name])
        except TextgateError as error:
            yield name, error


def _hint(faults: Mapping[str, TextgateError]) -> str | None:
    return next((error.hint for error in faults.values() if error.hint), None)


# --- Configuration ---


def _configure(wizard: Wizard) -> None:
    """Region, countries, sender, address -> textgate.toml; nothing is written unless all of it is right."""
    path = Path(wizard.context.config_path)
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(str(path), ("can't be read",), hint="install the package again") from None
    config = parse_config(text, config_path=str(path))
    changes = [(section, key, new) for section, key, new, old in _wanted(wizard, config) if new != old]
    for section, key, value in changes:
        text = set_option(text, section, key, value)
    parse_config(text, config_path=str(path))
    if changes:
        replace_file(path, text.encode(), mode=0o644)
    wizard.context.__dict__.pop("config", None)  # read it anew
    wizard.done["changed_options"] = [f"[{section}] {key}" for section, key, _ in changes]


def _wanted(wizard: Wizard, config: Config) -> list[tuple[str, str, Value, Value]]:
    """Section, key, value to be, value that is."""
    former_region, former_countries = config.phones.default_region, list(config.limits.allowed_countries)
    region = wizard.answer("default_region", "Country of phone numbers without +, two letters", former_region).upper()
    # Until a region was ever chosen, the countries are those of the example.
    known = former_countries if former_region or not region else [region]
    if region and region not in known and known != ["*"]:
        known = [*known, region]
    countries = wizard.answer("allowed_countries", "Countries that may be texted", " ".join(known))
    auth = "token" if "gateway_token" in wizard.answers else config.gateway.auth
    if "gateway_key" in wizard.answers:
        auth = "oauth1"
    return [
        ("phones", "default_region", region, former_region),
        ("limits", "allowed_countries", countries.replace(",", " ").upper().split(), former_countries),
        ("gateway", "sender", wizard.answer("sender", "Sender that phones show", config.gateway.sender),
         config.gateway.sender),
        ("gateway", "text", wizard.answers.get("text", config.gateway.text), config.gateway.text),
        ("gateway", "url", wizard.answer("gateway_url", "GatewayAPI's address", config.gateway.url),
         config.gateway.url),
        ("gateway", "auth", auth, config.gateway.auth),
    ]  # fmt: skip


# --- Credentials and daemon ---


def _connect(wizard: Wizard) -> None:
    """Credentials that work, and a daemon that runs with them. Asks anew for those that the gateway refuses."""
    credstore = Credstore()
    encrypt = _can_encrypt(wizard, credstore)
    is_anew = False
    for left in reversed(range(TRIES)):
        with one_at_a_time(Path(wizard.context.config.vault.key_file).parent):
            credstore.recover()
            former = _encrypted(wizard, credstore)
            _store_credentials(wizard, credstore, encrypt=encrypt, is_anew=is_anew)
            status = _start(wizard, credstore, _encrypted(wizard, credstore) - former)
        if not status["store"]["is_up"]:
            raise TextgateError("Redis can't be used", hint="systemctl status textgate-redis")
        gateway = status["gateway"]
        if gateway["is_up"] is not False:
            break
        given = any(name.startswith("gateway_") for name in wizard.answers)
        if gateway["reason"] not in _WRONG_CREDENTIALS or given or not wizard.can_ask or not left:
            raise TextgateError(
                f"GatewayAPI can't be used: {gateway['reason']}",
                hint="are key and secret right, and of this address? run setup again with others",
            )
        tell("  GatewayAPI does not know these credentials.", err=True)
        is_anew = True
    wizard.done["encrypted_credentials"] = sorted(_encrypted(wizard, credstore))
    if wizard.done["encrypted_credentials"]:
        wizard.context.say(
            "Credentials are kept encrypted and open on this machine only. Before you clone it, or change its "
            "machine-id, run: textgate credentials decrypt"
        )
    wizard.done["gateway"] = {"credit": gateway["credit"], "currency": gateway["currency"]}
    credit = f"; credit {gateway['credit']} {gateway['currency'] or ''}".rstrip() if gateway["credit"] else ""
    wizard.context.say(f"textgated, Redis and GatewayAPI work{credit}.")


def _encrypted(wizard: Wizard, credstore: Credstore) -> set[str]:
    files = wiring.credential_files(wizard.context.config)
    return {name for name, path in files.items() if credstore.keeps(name, path)}


def _can_encrypt(wizard: Wizard, credstore: Credstore) -> bool:
    """Whether credentials are to be encrypted and this host can do it. Raises CredentialError as `obstacle`."""
    obstacle = credstore.obstacle()
    if not wizard.answers.get("encrypt_credentials", True):
        return False
    if obstacle is not None:
        wizard.context.say(f"Credentials are kept in files of mode 0600; this host can't encrypt them: {obstacle}.")
    return obstacle is None


def _store_credentials(wizard: Wizard, credstore: Credstore, *, encrypt: bool, is_anew: bool) -> None:
    """Key and secret, or token; and a vault key, if there is none. encrypt: what is plain already, too."""
    from .vault import new_key_line

    for name, path in wiring.credential_files(wizard.context.config).items():
        if name == VAULT_KEY:
            if not _is_there(credstore, name, path):
                place = credstore.save(name, path, new_key_line("k1"), encrypt=encrypt)
                wizard.context.say(f"{place}: made. Keep a copy of the key in a safe place.")
            continue
        answer = name.replace("gatewayapi-", "gateway_")
        if answer in wizard.answers or is_anew or not _is_there(credstore, name, path):
            what = name.partition("-")[2]
            secret = _checked(wizard.answer(answer, f"GatewayAPI's {what} (is not shown)"))
            credstore.save(name, path, secret, encrypt=encrypt)
    if encrypt:
        for name, path in wiring.credential_files(wizard.context.config).items():
            credstore.encrypt(name, path)


def _is_there(credstore: Credstore, name: str, path: str) -> bool:
    """Whether a credential is kept already. One that doesn't open is not: it can be asked for anew.

    That is for the gateway's; a vault key that doesn't open has stopped setup before.
    """
    if not credstore.keeps(name, path):
        return Path(path).exists()
    try:
        credstore.read(name)
    except CredentialError as error:
        tell(f"  {error.message}", err=True)
        return False
    return True


def _checked(value: str) -> Secret:
    """Raises CredentialError for what is no key, secret or token."""
    if not value or any(not char.isprintable() or char == " " for char in value):
        raise CredentialError("a key, secret or token has no blanks and no control characters", hint="copy it again")
    return Secret(value)


def _start(wizard: Wizard, credstore: Credstore, fresh: set[str]) -> dict[str, Any]:
    """The status of a daemon that was started with what was written. Raises TextgateError.

    fresh: what was encrypted just now, and is put back into plain files if the daemon doesn't start with it.
    """
    context = wizard.context
    files = wiring.credential_files(context.config)
    try:
        status = service.start(context.status)
    except TextgateError as error:
        if not fresh:
            raise
        for name in fresh:
            credstore.decrypt(name, files[name])
        status = service.start(context.status)
        context.say(f"Credentials are kept in files of mode 0600; encrypted ones don't work here: {error.message}.")
    for name, path in files.items():
        credstore.drop_plain(name, path)
    return status


# --- The first user ---


def _enrol(wizard: Wizard, code_stdin: bool) -> str:
    """Enrol somebody with proof, so that the machine is never closed to all; then recovery codes."""
    from .cli import prove_number
    from .directory import set_phone
    from .msisdn import parse_msisdn

    context = wizard.context
    phones = context.config.phones
    user = wizard.answer("user", "User to enrol first", os.environ.get("SUDO_USER") or "root")
    known = phone_of(context.config, user)
    number = wizard.answers.get("number")
    if known is not None and (number is None or parse_msisdn(number, phones.default_region) == known):
        context.say(f"{user} has a phone already.")
        return user
    number = wizard.answer("number", f"Phone of {user}, such as +45 12 34 56 78")
    phone = parse_msisdn(number, phones.default_region)
    if wizard.wants("send_test", "Send a test text first?", default=False):
        context.ask_daemon("send-test", number=number)
    begun = context.ask_daemon("prove-begin", user=user, number=number)
    context.say(f"{begun['text'].rstrip('.')} ({begun['phone']}).")
    prove_number(context, code_stdin, user=user, number=number, session_id=begun["session_id"])
    user = str(begun["user"])
    set_phone(phones.file, user, phone)
    context.say(f"{user} is enrolled with {phone.masked}.")
    if wizard.wants("recovery_codes", "Make recovery codes, for the day the phone is lost?", default=True):
        made = context.ask_daemon("recovery", user=user)["codes"]
        wizard.done["recovery_codes"] = made
        context.say("Recovery codes, each good once. Print them; they are not shown again.")
        context.say("")
        for code in made:
            context.say(f"    {code}")
    return user


# --- Services ---


def _guard_services(wizard: Wizard) -> None:
    """`textgate pam try` for each service that is wanted."""
    names = wizard.until_good(("services",), lambda: _chosen_services(wizard))
    within = str(wizard.answers.get("confirm_within", cli_pam.CONFIRM_DEFAULT))
    wait_s = cli_pam.parse_span(within)
    factor = _first_factor(wizard) if set(names) & set(SSHD_SERVICES) else None
    rows: list[dict[str, Any]] = []
    wizard.done["services"] = rows
    for name in names:
        first_factor = factor if name in SSHD_SERVICES else "password"
        rows += [cli_pam.guard_service(wizard.context, name, first_factor, wait_s=wait_s, together_with=names)]
    if any(row["is_changed"] for row in rows):
        wizard.context.say("")
        wizard.context.say(
            f"Log in now in another window, with a code. What nobody logs in through, and `textgate pam confirm` "
            f"doesn't confirm, is taken back in {within}."
        )


def _chosen_services(wizard: Wizard) -> list[str]:
    default = ""
    if wizard.can_ask and "services" not in wizard.answers:
        suggested, others = suggestions(survey(PamAdmin(), wishes_of(wizard.context.config)))
        if others:
            tell(f"These ask for no code either: {', '.join(others)}.", err=True)
        default = " ".join(suggested)
    return _check_services(wizard.answer("services", "Services to guard (- for none)", default).split())


def _check_services(given: Sequence[str]) -> list[str]:
    """The services that are named, with commas too; none for "-". Raises PamAdminError or StackError."""
    admin = PamAdmin()
    names = " ".join(given).replace(",", " ").split()
    names = [] if names == ["-"] else names
    for name in names:
        check_service(name)
        admin.read_pam(name)
    return names


def _first_factor(wizard: Wizard) -> str:
    return wizard.until_good(
        ("first_factor",),
        lambda: _check_first_factor(
            wizard.answer("first_factor", "What comes before the code in ssh: key, password, any", "key")
        ),
    )


def _check_first_factor(given: str) -> str:
    """The word, if it is one of FirstFactor. Raises RefusedError."""
    if given not in {one.value for one in FirstFactor}:
        raise RefusedError("the first factor is key, password or any", hint="any: a key or a password, then the code")
    return given
