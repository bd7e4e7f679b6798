# SPDX-License-Identifier: MIT
# `make install`: every file of textgate to its place below DESTDIR, owned by whoever runs it (root, or a package builder).
# It starts nothing, makes no users and no keys, and never touches a configuration that is there already: that is for the
# package's scripts, or for an administrator (see README.md).

DESTDIR ?=
PYTHONDIR ?= /usr/lib/python3/dist-packages
BINDIR ?= /usr/bin
SBINDIR ?= /usr/sbin
SYSCONFDIR ?= /etc/textgate
UNITDIR ?= /usr/lib/systemd/system

PAM_BUILD := $(abspath $(BUILD))/pam

.PHONY: build-pam install install-python install-pam install-config
build-pam: ## build the PAM module
	@$(MAKE) --no-print-directory -C pam_helper BUILD=$(PAM_BUILD) all

install: install-python install-pam install-config ## put everything into its place below DESTDIR

install-python:
	cd daemon && find textgate -type f \( -name '*.py' -o -name '*.lua' -o -name py.typed \) \
		-exec install -D -m 0644 {} $(DESTDIR)$(PYTHONDIR)/{} \;
	install -D -m 0755 packaging/bin/textgate $(DESTDIR)$(BINDIR)/textgate
	install -D -m 0755 packaging/bin/textgated $(DESTDIR)$(SBINDIR)/textgated

install-pam:
	@$(MAKE) --no-print-directory -C pam_helper BUILD=$(PAM_BUILD) DESTDIR=$(DESTDIR) install

install-config:
	install -d -m 0755 $(DESTDIR)$(SYSCONFDIR)
	install -d -m 0700 $(DESTDIR)$(SYSCONFDIR)/credentials
	[ -e $(DESTDIR)$(SYSCONFDIR)/textgate.toml ] || \
		install -m 0644 packaging/etc/textgate.toml $(DESTDIR)$(SYSCONFDIR)/textgate.toml
	set -- systemd/*.service systemd/*.socket; for unit; do \
		[ ! -e "$$unit" ] || install -D -m 0644 "$$unit" -t $(DESTDIR)$(UNITDIR); done
	[ ! -e systemd/textgate.sysusers ] || \
		install -D -m 0644 systemd/textgate.sysusers $(DESTDIR)/usr/lib/sysusers.d/textgate.conf
	[ ! -e systemd/textgate.tmpfiles ] || \
		install -D -m 0644 systemd/textgate.tmpfiles $(DESTDIR)/usr/lib/tmpfiles.d/textgate.conf

.PHONY: demo
demo: apt-demo build-pam ## log in by ssh and sudo with texted codes, in a private world (see README.md)
	@tests/demo/run

# The picture of a run for the README: a real transcript, drawn.
.PHONY: demo-svg
demo-svg: apt-demo build-pam ## draw a run of the demo into build/demo.svg
	tests/demo/run </dev/null | tee $(BUILD)/demo.txt
	/usr/bin/python3 -I -B tests/demo/transcript_svg.py <$(BUILD)/demo.txt >$(BUILD)/demo.svg
