# SPDX-License-Identifier: MIT
"""Machines for the tests in this folder, on both Debian releases; `-k bookworm` or `-k trixie` selects one.

release    the Debian release; tests that depend on it run once for each
deb        the package file, built from this tree (or TEXTGATE_DEB, a path)
stock      base tree: a stock system, and what apt needs to install the package is downloaded
base       base tree: the same with the package's dependencies installed
boot       boot("name") -> Machine from `base`; boot("name", stock) from another tree. Gone at the end of the test
machine    one Machine for all tests of a file: the package is installed and configured, alice has a phone
gateway    the fake GatewayAPI in `machine`
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from system.machines import RELEASES, REPOSITORY, BaseTree, Machine, MachineError, Release
from system.setting import ALICE, Gateway, add_load_users, configure

Boot = Callable[..., Machine]
LOAD_PEOPLE = 50


@pytest.fixture(scope="session")
def deb() -> Path:
    given = os.environ.get("TEXTGATE_DEB")
    if given:
        return Path(given).absolute()
    built = subprocess.run([REPOSITORY / "packaging" / "build-deb"], check=False, capture_output=True, text=True)
    if built.returncode != 0:
        pytest.fail(f"the package can't be built\n{built.stderr}", pytrace=False)
    return Path(built.stdout.strip())


@pytest.fixture(scope="session", params=list(RELEASES.values()), ids=list(RELEASES))
def release(request: pytest.FixtureRequest) -> Release:
    found: Release = request.param
    return found


@pytest.fixture(scope="session")
def stock(release: Release, deb: Path) -> BaseTree:
    tree = BaseTree.of(release)
    tree.fetch_dependencies(deb)
    return tree


@pytest.fixture(scope="session")
def base(stock: BaseTree, deb: Path) -> BaseTree:
    return stock.with_dependencies(deb)


@pytest.fixture
def boot(base: BaseTree) -> Iterator[Boot]:
    with contextlib.ExitStack() as machines:

        def start(name: str, tree: BaseTree | None = None) -> Machine:
            return machines.enter_context(Machine.boot(tree or base, name))

        yield start


def set_up(machine: Machine, deb: Path) -> Gateway:
    """Install and configure the package in a machine of `base`; alice and the people of the load have phones."""
    gateway = Gateway.start(machine)
    machine.install(deb)
    machine.add_user(ALICE, password="alices-password")
    configure(machine, gateway)
    add_load_users(machine, LOAD_PEOPLE)
    return gateway


@pytest.fixture(scope="module")
def _machine(base: BaseTree, deb: Path) -> Iterator[tuple[Machine, Gateway]]:
    with Machine.boot(base, "module") as machine:
        yield machine, set_up(machine, deb)


@pytest.fixture
def machine(_machine: tuple[Machine, Gateway]) -> Machine:
    return _machine[0]


@pytest.fixture
def gateway(_machine: tuple[Machine, Gateway]) -> Gateway:
    return _machine[1]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the machine's journal with each failure; it is gone with the machine."""
    report = yield
    found = getattr(item, "funcargs", {}).get("machine")
    if report.failed and isinstance(found, Machine):
        with contextlib.suppress(MachineError):
            report.sections.append(("journal of the machine", found.journal("-n", "60")))
    return report
