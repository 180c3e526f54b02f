# One front door: people and CI call the same targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
export CARGO_TARGET_DIR ?= $(CURDIR)/target
# Rounds of `make soak`.
HELIX_CHAOS_ROUNDS ?= 50
# Turns of its conversations.
HELIX_CHAOS_TURNS ?= 2000
# Desktops in use at once, and for how many seconds.
HELIX_SOAK_DESKTOPS ?= 50
HELIX_SOAK_SECONDS ?= 600
# Worlds that the scheduler is simulated in.
HELIX_SIM_SEEDS ?= 100000
# Inputs of each property test of the gate (RFB) and of the front of RDP.
HELIX_FUZZ_CASES ?= 200000
# Times that it kills `helixctl provision`; each takes some seconds.
HELIX_PROVISION_KILLS ?= 200
# Times that it kills agentd on a host with five sessions; each takes a second or two.
HELIX_ADOPTION_KILLS ?= 1000
# Seconds of chaos in a fleet of three hosts.
HELIX_FLEET_SECONDS ?= 1800
# Times that a machine with server and NATS loses its power; each takes half a minute.
HELIX_POWER_CUTS ?= 100
# Seconds that NATS is away under three runners.
HELIX_OUTAGE_SECONDS ?= 60
# What `make kills` goes on to.
HELIX_KILLS ?= 10000
helixctl := $(CARGO_TARGET_DIR)/release/helixctl
# The programs of packages need nothing of a system, not even its C library, and nothing of where they were built is in them.
host = $(shell rustc -vV | sed -n 's/^host: //p')
cargo_home = $(or $(CARGO_HOME),$(HOME)/.cargo)
# The last one that fits counts.
remap = $(1)=$(CURDIR)=/helix $(1)=$(cargo_home)=/cargo $(1)=$(shell rustc --print sysroot)=/rust $(1)=$(CARGO_TARGET_DIR)=/target
package_flags = -C target-feature=+crt-static $(call remap,--remap-path-prefix)
install_options = --bin-dir $(CARGO_TARGET_DIR)/release $(if $(DESTDIR),--destdir $(DESTDIR)) --prefix $(or $(PREFIX),/usr)

.NOTPARALLEL: # set-up comes before what it makes possible; cargo and npm use every processor themselves
.PHONY: help build programs probe package install uninstall demo down test test-hosts check soak kills bench setup-test web

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: programs probe ## Build the pages, the programs (release) and the window for `helixctl doctor`

programs: web ## Build the pages and the programs alone: all that `make demo` needs
	$(CARGO) build --release --locked -p helixctl -p helix-server -p helix-agentd

# One profile for both: what it costs is its build.
probe: ## Build the window that `helixctl doctor` looks at, beside the programs; some minutes, once
	@$(CARGO) build --release --locked --manifest-path packaging/gpui-probe/Cargo.toml --target-dir $(CARGO_TARGET_DIR)/gpui-probe \
	  || { echo "make probe: when headers are missing: packaging/setup.sh build" >&2; exit 1; }
	@for profile in debug release; do \
	  install -D -C -m 755 $(CARGO_TARGET_DIR)/gpui-probe/release/helix-gpui-probe $(CARGO_TARGET_DIR)/$$profile/helix-gpui-probe; \
	done

# A build of its own: other flags make other programs.
package: web ## Build the packages: .deb, .rpm and .tar.zst of all programs, linked statically; says where they are
	@packaging/setup.sh package >&2
	RUSTFLAGS="$(package_flags)" CFLAGS="$(call remap,-ffile-prefix-map)" CARGO_PROFILE_RELEASE_DEBUG=false \
	  $(CARGO) build --release --locked --target $(host) -p helixctl -p helix-server -p helix-agentd
	@packaging/package.sh --static --bin-dir $(CARGO_TARGET_DIR)/$(host)/release --out $(CARGO_TARGET_DIR)/package

install: ## Install what was built on this machine, as root; starts nothing (DESTDIR, PREFIX, SLOTS)
	packaging/install.sh install $(install_options) $(if $(SLOTS),--slots $(SLOTS))

uninstall: ## Remove it again; settings, state and users stay
	packaging/install.sh uninstall $(install_options)

demo: ## Install what is missing, build, start everything, show a session's live desktop; returns with all running
	@packaging/demo.sh

down: ## End what `make demo` or `helixctl up` started (HELIX_STATE_DIR for another directory)
	@$(helixctl) down

test: setup-test web probe ## Install what is missing, build, run all tests
	cd web && npm test
	$(CARGO) build --locked --workspace
	$(CARGO) test --locked --workspace --no-fail-fast # all that fails is told, not the first suite alone
	@echo "make test: all tests passed"

check: web ## Formatting, lints, unit tests: what every commit passes
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) test --locked --workspace --lib --bins

test-hosts: setup-test web ## Boot real systemd hosts and run the host suites
	$(CARGO) build --locked --workspace
	HELIX_TEST_HOSTS=all $(CARGO) test --locked --workspace --test hosts

soak: setup-test web ## The long form of the tests of kills and of use
	$(CARGO) build --locked --workspace
	HELIX_SIM_SEEDS=$(HELIX_SIM_SEEDS) $(CARGO) test --locked --workspace --lib -- scheduler::tests::sim --nocapture
	HELIX_SIM_SEEDS=$(HELIX_SIM_SEEDS) $(CARGO) test --locked --workspace --test sim -- --nocapture
	HELIX_CHAOS_ROUNDS=$(HELIX_CHAOS_ROUNDS) $(CARGO) test --locked --workspace --test it -- nothing_is_lost_or_left --nocapture
	HELIX_CHAOS_TURNS=$(HELIX_CHAOS_TURNS) $(CARGO) test --locked --workspace --test it -- conversations_survive --nocapture
	HELIX_SOAK_DESKTOPS=$(HELIX_SOAK_DESKTOPS) HELIX_SOAK_SECONDS=$(HELIX_SOAK_SECONDS) \
	  $(CARGO) test --locked --workspace --test it -- desktops_in_use --nocapture
	$(CARGO) test --locked --workspace --test it -- --ignored --nocapture --test-threads 1
	PROPTEST_CASES=$(HELIX_FUZZ_CASES) $(CARGO) test --locked --workspace --lib -- gate:: rdp::front --nocapture
	HELIX_ADOPTION_KILLS=$(HELIX_ADOPTION_KILLS) HELIX_TEST_HOSTS_MINUTES=90 \
	  $(CARGO) test --locked --workspace --test hosts -- kills_of_agentd_lose_nothing --nocapture
	HELIX_OUTAGE_SECONDS=$(HELIX_OUTAGE_SECONDS) $(CARGO) test --locked --workspace --test it -- a_long_outage --nocapture
	HELIX_FLEET_SECONDS=$(HELIX_FLEET_SECONDS) HELIX_TEST_HOSTS_MINUTES=90 \
	  $(CARGO) test --locked --workspace --test hosts -- a_fleet_in_chaos --nocapture
	HELIX_POWER_CUTS=$(HELIX_POWER_CUTS) HELIX_TEST_HOSTS_MINUTES=180 \
	  $(CARGO) test --locked --workspace --test hosts -- power_cuts_lose_nothing --nocapture
	HELIX_PROVISION_KILLS=$(HELIX_PROVISION_KILLS) HELIX_TEST_HOSTS_MINUTES=90 \
	  $(CARGO) test --locked --workspace --test hosts -- a_killed_run_is_finished --nocapture

kills: setup-test web ## Kill all components, until the account has HELIX_KILLS; broken off, the next run goes on
	$(CARGO) build --locked --workspace --tests --bins
	CARGO=$(CARGO) tests/kills.sh $(HELIX_KILLS)

bench: web ## Measure against the peers; a report in Markdown on standard output
	packaging/setup.sh bench test-hosts >&2
	$(CARGO) build --release --locked -p helixctl -p helix-server -p helix-agentd -p helix-tests >&2
	$(CARGO) test --release --locked --no-run -p helix-tests --test hosts >&2
	$(CARGO_TARGET_DIR)/release/helix-bench
	HELIX_TEST_HOSTS=bench $(CARGO) test --release --locked -p helix-tests --test hosts -- \
	  bench:: --test-threads 1 --logfile $(CARGO_TARGET_DIR)/hosts-bench.log

# --- parts of the above

setup-test:
	packaging/setup.sh test test-hosts package ansible

# npm runs only when the lock file changed; the pages are built again only when their sources did.
web: web/dist/index.html

web/node_modules/.package-lock.json: web/package.json web/package-lock.json
	cd web && npm ci
	@touch $@

web/dist/index.html: web/node_modules/.package-lock.json web/build.mjs $(shell find web/src -type f 2>/dev/null)
	cd web && npm run build
	@touch $@
