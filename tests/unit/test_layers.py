# SPDX-License-Identifier: MIT
"""Imports point down only: shell over adapters over core. The core touches nothing outside."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import textgate

PACKAGE = Path(textgate.__file__).parent

_MODULES = {
    "core": "away pace printable errors secret codes msisdn sms texts limits policy protocol session config "
    "gateway_outcomes pam_stack config_edit sshd_config sshd_words sshd_cases guard_faults finding doors "
    "pam_block",
    "adapters": "pam_repair audit_digest decoys sshd_running sudoers "
    "store store_clock store_upgrade seen spent proofs "
    "gateway gateway_transport directory accounts credentials credstore vault peercred boot audit "
    "pam_conversation admin_client journal_reader memory transaction pam_files pam_state pam_sshd pam_admin "
    "pam_removal pam_dry_run guard_health door_survey atomic_file programs plain_files shortage store_watch "
    "redis_room",
    "shell": "store_words doctor_failmode doctor_sshd doctor_sudo intake admin_desk admin_limits counts credit_cache "
    "doctor_block doctor_polkit password_limits "
    "dispatcher verifier wiring admin server client doctor way_in administrators pam_revert pam_status "
    "doctor_doors pam_commands rescue entry doctor_changes "
    "service cli cli_base cli_pam cli_setup cli_credentials",
}
LAYERS = {layer: frozenset(modules.split()) for layer, modules in _MODULES.items()}
ORDER = list(LAYERS)
LAYER_OF = {module: layer for layer, modules in LAYERS.items() for module in modules}

# Ways out of the process, or to something that changes by itself. Randomness for codes is the one that core has.
_OUTSIDE = """
    asyncio ctypes fcntl grp http io logging multiprocessing os pathlib pwd random redis requests requests_oauthlib
    select selectors shutil signal socket ssl subprocess sys syslog systemd tempfile threading time urllib.request
    click rich pam cryptography
"""
OUTSIDE = frozenset(_OUTSIDE.split())
OUTSIDE_CALLS = frozenset({"open", "print", "input", "exec", "eval", "__import__"})


def _modules() -> list[str]:
    return sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def _tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(), module)


def _at_load(module: str) -> list[ast.AST]:
    """The statements of a module that are run when it is loaded, but for imports that are for type checkers only."""
    return [
        node
        for node in _tree(module).body
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
        and not isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]


def _inner_imports(module: str, nodes: Iterable[ast.AST] | None = None) -> Iterator[str]:
    """The modules of textgate that a module imports: in these statements, or wherever in it they stand."""
    found = (inner for node in nodes for inner in ast.walk(node)) if nodes is not None else ast.walk(_tree(module))
    for node in found:
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            if node.module:
                yield node.module.partition(".")[0]
            else:
                yield from (name.name for name in node.names if name.name != "__version__")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "textgate":
            yield (node.module or "").partition(".")[2] or "?"
        elif isinstance(node, ast.Import):
            yield from (name.name.partition(".")[2] for name in node.names if name.name.startswith("textgate."))


def _outer_imports(module: str) -> Iterator[str]:
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def test_every_module_has_a_layer() -> None:
    assert set(_modules()) == set(LAYER_OF)


@pytest.mark.parametrize("module", _modules())
def test_imports_point_down(module: str) -> None:
    own = ORDER.index(LAYER_OF[module])
    above = {name for name in _inner_imports(module) if ORDER.index(LAYER_OF[name]) > own}
    assert not above


@pytest.mark.parametrize("module", sorted(LAYERS["core"]))
def test_core_touches_nothing_outside(module: str) -> None:
    outer = {name for name in _outer_imports(module) if name in OUTSIDE or name.partition(".")[0] in OUTSIDE}
    called = {
        node.func.id
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not outer
    assert not called & OUTSIDE_CALLS


@pytest.mark.parametrize(
    ("outer", "owners"),
    [
        ("redis", {"store"}),
        ("requests", {"gateway", "gateway_transport"}),
        ("systemd", {"journal_reader", "server"}),
        ("cryptography", {"client", "vault"}),
        ("pwd", {"accounts", "credentials", "journal_reader", "plain_files"}),
        ("subprocess", {"programs", "plain_files"}),
        ("pickle", set()),
    ],
)
def test_each_outside_thing_has_its_adapter(outer: str, owners: set[str]) -> None:
    users = {name for name in _modules() if any(i.partition(".")[0] == outer for i in _outer_imports(name))}
    assert users <= owners


STDLIB_ONLY = ("rescue", "entry", "pam_commands", "pam_revert", "pam_removal", "transaction", "credstore")


@pytest.mark.parametrize("module", STDLIB_ONLY)
def test_way_out_needs_python_alone(module: str) -> None:
    """Without any other library, and with nothing that is set up for Python on a machine (-I -S)."""
    code = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); import textgate.{module}; print(*sys.modules)"
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-S", "-B", "-c", code], capture_output=True, text=True, check=True
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()} - {"textgate", "__main__"}
    assert not loaded - sys.stdlib_module_names


@pytest.mark.parametrize("module", STDLIB_ONLY)
def test_way_out_loads_nothing_later_either(module: str) -> None:
    """But for what starts the rest."""
    seen, waiting = set(), [module]
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            later = {"cli", "server"} if one == "entry" else set()
            waiting += [name for name in _inner_imports(one) if name not in later]
            outer = {name.partition(".")[0] for name in _outer_imports(one)}
            assert outer <= sys.stdlib_module_names | LAZY.get(one, set()), one


# What is loaded where it is needed, and is only a fault in `pam status` if it is not there.
LAZY = {"msisdn": {"phonenumbers"}, "pam_conversation": {"pam"}}


def test_imports_have_no_cycle() -> None:
    """Those that are run when a module is loaded; one within a function may go back to who called it."""
    edges = {module: set(_inner_imports(module, _at_load(module))) for module in _modules()}
    while leaves := {module for module, below in edges.items() if not below}:
        edges = {module: below - leaves for module, below in edges.items() if module not in leaves}
    assert not edges


def test_no_module_uses_a_shell() -> None:
    keywords = [
        f"{module}:{node.value.lineno}"
        for module in _modules()
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.keyword) and node.arg == "shell"
    ]
    calls = [
        f"{module}:{node.lineno}"
        for module in _modules()
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.Attribute) and node.attr in ("system", "popen", "getoutput", "getstatusoutput")
    ]
    assert not keywords + calls


def test_no_module_asserts_on_its_input() -> None:
    """`python -O` drops assert, and with it what it kept out."""
    assert not [
        f"{module}:{node.lineno}"
        for module in _modules()
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.Assert)
    ]


def test_every_file_begins_with_its_licence_and_rules() -> None:
    for path in PACKAGE.glob("*.py"):
        lines = path.read_text().splitlines()
        assert lines[0] == "# SPDX-License-Identifier: MIT", path.name
        assert lines[1].startswith('"""'), path.name
    for path in (PACKAGE / "lua").glob("*.lua"):
        assert "--" in path.read_text().splitlines()[0], path.name
