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
TEST_PACKAGES := python3-venv pamtester rsync iproute2

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

.PHONY: apt-demo apt-test venv
apt-demo:
	@packaging/ensure-packages $(RUNTIME_PACKAGES) $(DEMO_PACKAGES)
apt-test:
	@packaging/ensure-packages $(RUNTIME_PACKAGES) $(DEMO_PACKAGES) $(TEST_PACKAGES)

$(VENV)/.ready: tests/requirements.txt
	/usr/bin/python3 -m venv --clear --system-site-packages $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@
venv: $(VENV)/.ready

include packaging/install.mk
