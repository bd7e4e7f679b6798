# textgate: build, test and demonstrate. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
BUILD := build
VENV := $(BUILD)/venv
PY := $(VENV)/bin/python
export DEBIAN_FRONTEND := noninteractive
export PYTHONDONTWRITEBYTECODE := 1

# What the installed package depends on, and what the tests and the demo need on top. Debian's own packages, both releases.
RUNTIME_PACKAGES := python3 python3-click python3-cryptography python3-oauthlib python3-phonenumbers python3-pampy python3-pyotp \
	python3-redis python3-requests python3-requests-oauthlib python3-rich python3-systemd
DEMO_PACKAGES := gcc libc6-dev libpam0g-dev openssh-client openssh-server passwd redis-server sudo tmux util-linux procps
TEST_PACKAGES := chromium chromium-driver fish gdb groff-base iproute2 man-db mandoc pamtester python3-flask python3-selenium \
	python3-venv rsync systemd-journal-remote zsh

DEB_PACKAGES := build-essential debhelper dh-python dpkg-dev fakeroot libpam0g-dev pybuild-plugin-pyproject python3-all \
	python3-setuptools
SYSTEM_PACKAGES := debootstrap lintian systemd-container

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: apt-demo apt-test apt-deb apt-system venv
apt-demo:
	@packaging/ensure-packages $(RUNTIME_PACKAGES) $(DEMO_PACKAGES)
apt-test:
	@packaging/ensure-packages $(RUNTIME_PACKAGES) $(DEMO_PACKAGES) $(TEST_PACKAGES)
apt-deb:
	@packaging/ensure-packages $(RUNTIME_PACKAGES) $(DEB_PACKAGES)
apt-system: apt-deb
	@packaging/ensure-packages $(SYSTEM_PACKAGES)

$(VENV)/.ready: tests/requirements.txt
	/usr/bin/python3 -m venv --clear --system-site-packages $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@
venv: $(VENV)/.ready

include packaging/install.mk

# --- Tests ---

PYTEST := $(PY) -m pytest -q -p no:cacheprovider
WORLD := tests/rig/in-world --private-network --

.PHONY: test lint types unit contract integration fix
test: apt-test venv build-pam ## everything that a change must pass: lint, types, unit, contract, integration
	@$(MAKE) --no-print-directory lint types
	$(PYTEST) tests/unit tests/contract
	@$(MAKE) --no-print-directory integration

lint: venv ## ruff's checks and format
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: venv ## mypy, strict
	$(VENV)/bin/mypy

unit: venv ## unit tests: seconds
	$(PYTEST) tests/unit

contract: venv ## the store, the verifier and the gateway client against real Redis and the fake GatewayAPI
	$(PYTEST) tests/contract

integration: venv build-pam ## real sshd, sudo, su and PAM in a mount namespace of their own (root)
	$(WORLD) $(abspath $(PY)) -m pytest -q -p no:cacheprovider tests/integration

fix: venv ## let ruff mend what it can
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# --- The package ---

.PHONY: deb deb-check test-system
deb: apt-deb ## build the Debian package: build/deb
	@packaging/build-deb

deb-check: apt-system venv ## lintian, same bytes twice, install, upgrade, remove and purge in trees of both releases
	$(PYTEST) tests/system/test_deb.py

test-system: apt-system venv ## booted Debian 12 and 13 (root): the package, its units, setup, logins, roll back
	$(PYTEST) tests/system

# --- Looking closer ---

.PHONY: bench sim fuzz
bench: apt-test venv build-pam ## what textgate costs a login and a machine (root); BENCH=--quick: in a minute
	@packaging/ensure-packages libpam-oath libpam-google-authenticator
	PYTHONPATH=$(abspath tests) $(WORLD) $(abspath $(PY)) -m bench $(BENCH)

sim: venv ## attackers and ordinary days against the limits, in virtual time (build/sim)
	PYTHONPATH=daemon:tests $(PY) -m sim $(SIM_ARGS)

fuzz: venv ## feed junk to every parser for a minute (FUZZ="--seconds 600 --keep" for more)
	PYTHONPATH=daemon:tests $(PY) -m fuzz $(FUZZ)

.PHONY: clean
clean: ## remove everything that was built
	rm -rf $(BUILD)
