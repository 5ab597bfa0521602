# The targets that people and CI use. `make demo` needs Rust and nothing else; `make test` sets up the rest itself.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CARGO ?= cargo
# Where cargo builds; the tests start the programs from there.
TARGET_DIR := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
export CROSS_CONFIG := $(CURDIR)/cross.toml

.PHONY: demo setup test lint bench soak soak-modbus soak-fuzz soak-buffer soak-agent soak-fleet soak-uplink soak-opcua soak-opcua-recovery soak-skab soak-demo deb test-deb test-arm test-board reproducible audit help
.DEFAULT_GOAL := help

help: ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

demo: ## the main job on simulated devices, a bundled model and an embedded broker
	$(CARGO) run --profile demo --quiet --locked -p millrace-agent --bin millrace -- demo

setup: ## what the tests need: Debian packages, a Python environment in .venv
	tests/setup.sh

test: setup ## unit, property and end-to-end tests
	$(CARGO) build --locked --workspace --bins
	MILLRACE_TEST_PYTHON="$(CURDIR)/.venv/bin/python" MILLRACE_BIN="$(TARGET_DIR)/debug/millrace" \
		$(CARGO) test --locked --workspace

lint: ## format, clippy, licences and sources of crates, links of the documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D rustdoc::broken_intra_doc_links" $(CARGO) doc --locked --workspace --no-deps --quiet
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny --locked check --hide-inclusion-graph bans licenses sources; \
	else echo "cargo-deny is not installed: licences and sources were not checked (cargo install cargo-deny)"; fi

audit: ## known vulnerabilities of the crates, by the database of RustSec, which is fetched; fails where it cannot be
	CARGO="$(CARGO)" tests/audit.sh

bench: ## criterion benches, the buffer's life and backlogs (needs 12 GB of disk), the uplink, Modbus, OPC UA, the loads of the design (needs mosquitto)
	$(CARGO) bench --locked -p millrace-bench --bench buffer
	$(CARGO) run --release --quiet --locked -p millrace-bench --bin millrace-buffer-load
	$(CARGO) run --release --quiet --locked -p millrace-bench --no-default-features --features uplink --bin millrace-uplink-load
	$(CARGO) bench --locked -p millrace-bench --bench modbus_rival
	$(CARGO) build --release --locked -p millrace-agent --bin millrace
	MILLRACE_BIN="$(TARGET_DIR)/release/millrace" \
		$(CARGO) run --release --quiet --locked -p millrace-bench --bin millrace-modbus-load
	MILLRACE_BIN="$(TARGET_DIR)/release/millrace" \
		$(CARGO) run --release --quiet --locked -p millrace-bench --bin millrace-opcua-load
	MILLRACE_BIN="$(TARGET_DIR)/release/millrace" \
		$(CARGO) run --release --quiet --locked -p millrace-bench --bin millrace-load

# Data that may not be in the repository: in a checkout beside them they are found.
soak-skab: export MILLRACE_SKAB := $(or $(MILLRACE_SKAB),$(wildcard $(CURDIR)/../shared/data/skab))

# One seed repeats a run: make soak MILLRACE_SEED=7 (tests/README.md). Without one it is drawn, and printed with the figures.
soak-%: export MILLRACE_SEED := $(or $(MILLRACE_SEED),$(shell od -An -N4 -tu4 /dev/urandom | tr -d ' '))

soak: soak-modbus soak-fuzz soak-buffer soak-agent soak-fleet soak-uplink soak-opcua-recovery soak-opcua soak-skab soak-demo ## the fault tests with their full figures, then the demo for an hour

soak-modbus: ## a million exchanges with Modbus devices that do everything wrong
	@echo "MILLRACE_SEED=$(MILLRACE_SEED)"
	MILLRACE_EXCHANGES=340000 MILLRACE_PTY_EXCHANGES=2000 \
		$(CARGO) test --release --locked -p millrace-drivers --test modbus_adversarial -- --nocapture

soak-fuzz: ## ten minutes of cargo-fuzz for each target; where it or nightly is missing, of mutations of the corpus
	@echo "MILLRACE_SEED=$(MILLRACE_SEED)"
	@if $(CARGO) +nightly fuzz --version >/dev/null 2>&1; then \
		export CARGO_PROFILE_RELEASE_LTO=off; for target in rtu mbap address tape model bundle; do \
			mkdir -p "$(TARGET_DIR)/fuzz-corpus/$$target"; seeds=; max=600; \
			case $$target in model) seeds=inference/tests/zoo max=30000;; bundle) max=6000;; esac; \
			$(CARGO) +nightly fuzz run --features libfuzzer --target-dir "$(TARGET_DIR)/fuzz" "$$target" \
				"$(TARGET_DIR)/fuzz-corpus/$$target" "fuzz/corpus/$$target" $$seeds -- \
				-max_total_time=$(or $(FUZZ_SECONDS),600) -seed=$(MILLRACE_SEED) -max_len=$$max -timeout=20 -rss_limit_mb=2048; \
		done; \
	else \
		echo "cargo-fuzz or a nightly compiler is missing (cargo install cargo-fuzz; rustup toolchain install nightly):"; \
		echo "the corpus is mutated without them, blindly"; \
		MILLRACE_FUZZ_SECONDS=$(or $(FUZZ_SECONDS),600) $(CARGO) test --release --locked -p millrace-fuzz -- --nocapture; \
	fi

soak-buffer: ## kill -9, power cuts, damage, failing disks, random sequences
	@echo "MILLRACE_SEED=$(MILLRACE_SEED)"
	MILLRACE_KILL_ROUNDS=500 MILLRACE_CUTS=500 MILLRACE_DAMAGE_ROUNDS=1000 MILLRACE_FAULT_STRIDE=1 MILLRACE_MODEL_SEED=$(MILLRACE_SEED) MILLRACE_MODEL_CASES=2000 MILLRACE_RECHUNK_ROUNDS=200 \
		$(CARGO) test --release --locked -p millrace-buffer --test kill --test power_cut --test damage --test full_disk \
		--test model --test uplinks --test panic --test rechunk -- --nocapture

soak-agent: setup ## kill -9 of the agent, its ledger against the subscriber's count
	$(CARGO) build --locked --workspace --bins
	MILLRACE_AGENT_KILLS=500 MILLRACE_TEST_PYTHON="$(CURDIR)/.venv/bin/python" MILLRACE_BIN="$(TARGET_DIR)/debug/millrace" \
		$(CARGO) test --locked -p millrace-tests --test it store:: -- --nocapture

soak-uplink: setup ## 30,000 messages through a broker that does everything wrong, over hundreds of cuts: session, session with store, agent
	@echo "MILLRACE_SEED=$(MILLRACE_SEED)"
	MILLRACE_FAULT_MESSAGES=30000 $(CARGO) test --release --locked -p millrace-uplink --test it faults:: -- --nocapture
	MILLRACE_FAULT_MESSAGES=30000 $(CARGO) test --release --locked -p millrace-agent faulty_broker -- --nocapture
	$(CARGO) build --locked --workspace --bins
	MILLRACE_FAULT_AGENT_MESSAGES=2000 MILLRACE_TEST_PYTHON="$(CURDIR)/.venv/bin/python" MILLRACE_BIN="$(TARGET_DIR)/debug/millrace" \
		$(CARGO) test --locked -p millrace-tests --test it faults:: -- --nocapture

soak-fleet: setup ## 20 agents that are switched on at one moment, against one bootstrap service and one mosquitto
	$(CARGO) build --locked --workspace --bins
	MILLRACE_FLEET=20 MILLRACE_TEST_PYTHON="$(CURDIR)/.venv/bin/python" MILLRACE_BIN="$(TARGET_DIR)/debug/millrace" \
		$(CARGO) test --locked -p millrace-tests --test it bootstrap::fleet -- --nocapture

soak-opcua-recovery: setup ## nine troubles of two foreign OPC UA servers, with history and without, at full length; 10,000 items
	MILLRACE_OPCUA_FULL=1 MILLRACE_TEST_PYTHON="$(CURDIR)/.venv/bin/python" \
		$(CARGO) test --locked -p millrace-drivers --features sim --test opcua -- --nocapture --test-threads=4 comes_back:: items::

soak-opcua: ## two hours with an OPC UA server that is restarted each minute: flat memory, one session, nothing lost
	@echo "MILLRACE_SEED=$(MILLRACE_SEED)"
	MILLRACE_CHURN_SECONDS=7200 MILLRACE_CHURN_EVERY=60 \
		$(CARGO) test --release --locked -p millrace-drivers --test opcua_churn -- --nocapture

soak-skab: setup ## 16 experiments of the Skoltech benchmark over Modbus through 16 models; MILLRACE_SKAB names their folder
	$(CARGO) build --release --locked -p millrace-agent --bin millrace
	MILLRACE_TEST_PYTHON="$(CURDIR)/.venv/bin/python" MILLRACE_BIN="$(TARGET_DIR)/release/millrace" \
		$(CARGO) test --locked -p millrace-tests --test it skab:: -- --nocapture
	$(CARGO) test --locked -p millrace-inference --test it skab:: -- --nocapture

soak-demo: ## the demo for an hour: outages, faults, the verdict at the end
	$(CARGO) run --profile demo --quiet --locked -p millrace-agent --bin millrace -- demo --seconds $(or $(SOAK_SECONDS),3600)

deb: ## the Debian packages for amd64, arm64 and armhf, in target/debian: make deb ARCHES="amd64 armhf"; fetches Debian's Rust for the three
	packaging/deb/build.sh $(ARCHES)

test-deb: ## life of a package in a Debian 12 root, as root: install to purge, claims, images: make test-deb DEB=FILE PREVIOUS=OLDER-FILE
	[ -x "$(TARGET_DIR)/deb-venv/bin/python" ] || python3 -m venv "$(TARGET_DIR)/deb-venv"
	"$(TARGET_DIR)/deb-venv/bin/pip" install --quiet --disable-pip-version-check -r tests/deb/requirements.txt
	MILLRACE_SBOM_PYTHON="$(TARGET_DIR)/deb-venv/bin/python" tests/deb/life.sh "$(or $(DEB),$(lastword $(sort $(wildcard $(TARGET_DIR)/debian/millrace_*_amd64.deb))),no-package.deb)" "$(TARGET_DIR)/deb-roots"

test-arm: setup ## the programs for ARM beside the one for amd64, under qemu-user, from what `make deb` made: make test-arm ARCHES=armhf
	MILLRACE_TEST_PYTHON="$(CURDIR)/.venv/bin/python" tests/deb/arm.sh \
		$(foreach arch,amd64 $(or $(ARCHES),arm64 armhf),"$(or $(lastword $(sort $(wildcard $(TARGET_DIR)/debian/millrace_*_$(arch).deb))),no-package-for-$(arch).deb)")

test-board: setup ## the package for arm64 on a whole emulated board with systemd, as root: claim, serial meter, stick, watchdog: make test-board DEB=FILE
	MILLRACE_TEST_PYTHON="$(CURDIR)/.venv/bin/python" tests/deb/board.sh \
		"$(or $(DEB),$(lastword $(sort $(wildcard $(TARGET_DIR)/debian/millrace_*_arm64.deb))),no-package-for-arm64.deb)" "$(TARGET_DIR)/deb-roots"

reproducible: ## two builds in two places: the same bytes; one and a package that is there: make reproducible DEB=FILE
	packaging/reproducible/check.sh $(if $(DEB),--against "$(DEB)")
