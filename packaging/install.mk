# SPDX-License-Identifier: MIT
# `make install`: every file of textgate to its place below DESTDIR, owned by whoever runs it (root, or a package builder).
# It starts nothing, makes no users and no keys, and never touches a configuration that is there already: that is for the
# package's scripts, or for an administrator (see README.md).

DESTDIR ?=
PYTHONDIR ?= /usr/lib/python3/dist-packages
BINDIR ?= /usr/bin
SBINDIR ?= /usr/sbin
SHAREDIR ?= /usr/share/textgate
DOCDIR ?= /usr/share/doc/textgate
SYSCONFDIR ?= /etc/textgate
UNITDIR ?= /usr/lib/systemd/system
MANDIR ?= /usr/share/man

PAM_BUILD := $(abspath $(BUILD))/pam

.PHONY: build-pam install install-python install-commands install-pam install-config install-docs
build-pam: ## build the PAM module
	@$(MAKE) --no-print-directory -C pam_helper BUILD=$(PAM_BUILD) all

# Both are made from the code, so whatever of it changes makes them anew. They need what the commands import.
DESCRIBED := $(wildcard daemon/textgate/*.py pam_helper/textgate.pam pam_helper/textgate_pam.py systemd/textgate.catalog)

.PHONY: man completion install-man install-completion
man: $(BUILD)/man/.made ## make the manual pages: build/man
$(BUILD)/man/.made: $(wildcard packaging/man/*) $(DESCRIBED)
	/usr/bin/python3 -I -B packaging/man/make_pages.py $(BUILD)/man
	touch $@

completion: $(BUILD)/completion/.made
$(BUILD)/completion/.made: packaging/completion/make_scripts.py $(DESCRIBED)
	/usr/bin/python3 -I -B packaging/completion/make_scripts.py $(BUILD)/completion
	touch $@

install: install-python install-commands install-pam install-config install-docs ## put everything into its place below DESTDIR

install-python:
	cd daemon && find textgate -type f \( -name '*.py' -o -name '*.lua' -o -name py.typed \) \
		-exec install -D -m 0644 {} $(DESTDIR)$(PYTHONDIR)/{} \;

install-commands:
	install -D -m 0755 packaging/bin/textgate $(DESTDIR)$(BINDIR)/textgate
	install -D -m 0755 packaging/bin/textgated $(DESTDIR)$(SBINDIR)/textgated
	install -D -m 0755 packaging/bin/rescue packaging/bin/disable-all -t $(DESTDIR)/usr/libexec/textgate

install-pam:
	@$(MAKE) --no-print-directory -C pam_helper BUILD=$(PAM_BUILD) DESTDIR=$(DESTDIR) install
	install -D -m 0644 packaging/pam-configs/textgate $(DESTDIR)/usr/share/pam-configs/textgate
	[ -e $(DESTDIR)/etc/pam.d/textgate-api ] || \
		install -D -m 0644 packaging/etc/pam.d/textgate-api $(DESTDIR)/etc/pam.d/textgate-api

install-config:
	install -d -m 0755 $(DESTDIR)$(SYSCONFDIR)
	install -d -m 0700 $(DESTDIR)$(SYSCONFDIR)/credentials
	for name in textgate.toml redis.conf; do \
		[ -e $(DESTDIR)$(SYSCONFDIR)/$$name ] || install -m 0644 packaging/etc/$$name $(DESTDIR)$(SYSCONFDIR)/$$name; done
	install -D -m 0755 packaging/bin/run-redis $(DESTDIR)/usr/libexec/textgate/run-redis
	install -D -m 0644 packaging/redis.conf packaging/redis.acl packaging/etc/textgate.toml -t $(DESTDIR)$(SHAREDIR)
	install -D -m 0644 systemd/*.service systemd/*.socket systemd/*.timer systemd/*.path -t $(DESTDIR)$(UNITDIR)
	install -D -m 0644 systemd/textgate.sysusers $(DESTDIR)/usr/lib/sysusers.d/textgate.conf
	install -D -m 0644 systemd/textgate.tmpfiles $(DESTDIR)/usr/lib/tmpfiles.d/textgate.conf
	install -D -m 0644 systemd/textgate.catalog $(DESTDIR)/usr/lib/systemd/catalog/textgate.catalog

install-man: man
	for page in $(BUILD)/man/*.[1-8]; do install -D -m 0644 $$page $(DESTDIR)$(MANDIR)/man$${page##*.}/$${page##*/}; done

install-completion: completion
	install -D -m 0644 $(BUILD)/completion/bash/textgate -t $(DESTDIR)/usr/share/bash-completion/completions
	install -D -m 0644 $(BUILD)/completion/zsh/_textgate -t $(DESTDIR)/usr/share/zsh/vendor-completions
	install -D -m 0644 $(BUILD)/completion/fish/textgate.fish -t $(DESTDIR)/usr/share/fish/vendor_completions.d

install-docs: install-man install-completion
	install -D -m 0644 README.md SECURITY.md NEWS.md CONTRIBUTING.md -t $(DESTDIR)$(DOCDIR)
	install -D -m 0644 docs/* -t $(DESTDIR)$(DOCDIR)/docs
	install -D -m 0644 daemon/PROTOCOL.md daemon/STORE.md -t $(DESTDIR)$(DOCDIR)/daemon
	install -D -m 0644 pam_helper/README.md -t $(DESTDIR)$(DOCDIR)/pam_helper
	cd examples && find login_page -type f -not -path '*/.*' -not -path '*/__pycache__/*' \
		-exec install -D -m 0644 {} $(DESTDIR)$(DOCDIR)/examples/{} \;

.PHONY: demo
demo: apt-demo build-pam ## log in by ssh and sudo with texted codes, in a private world (see README.md)
	@tests/demo/run

# The picture of a run for the README: a real transcript, drawn.
.PHONY: demo-svg
demo-svg: apt-demo build-pam ## draw a run of the demo into build/demo.svg
	tests/demo/run </dev/null | tee $(BUILD)/demo.txt
	/usr/bin/python3 -I -B tests/demo/transcript_svg.py <$(BUILD)/demo.txt >$(BUILD)/demo.svg
