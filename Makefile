# What a person types. Everything else is cargo; the profile is the same for demo, tests and CI.

CARGO ?= cargo
BINARIES := -p storage_controller -p compute_ctl -p pgfleet
# Asked only by the targets that need it: CARGO_TARGET_DIR and cargo's configuration are respected.
TARGET = $$($(CARGO) metadata --format-version 1 --no-deps | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')

.PHONY: help build demo test lint measure-demo bench bench-quick bench-handover bench-agent plan-vs-configure chaos model simulate \
	failover fleet-sim

help:
	@echo 'make demo   install what is missing, build, show a rolling restart and a crash under load'
	@echo 'make test   install what is missing, run all tests'
	@echo 'make build  build the three programs'
	@echo 'make measure-demo RUNS=5   run the demo several times, write the medians to bench/results'
	@echo 'make bench  measure a leader with a large fleet in release builds, write bench/results/<scenario>.{json,md}; up to 60'
	@echo '            minutes and 2 GB of disk; SCENARIOS=accept,push picks some; SIZES=1000,5000 or RUNS=1 only print'
	@echo 'make bench-quick   the same with everything small, once, in the debug build: whether it works; about 3 minutes'
	@echo 'make bench-handover   measure changes of leader in release builds, write bench/results/handover.{json,md}; about 10'
	@echo '            minutes; SCENARIOS=planned,sigkill or RUNS=3 measure a part and only print it'
	@echo 'make bench-agent   measure what an agent costs in release builds, write bench/results/agent.{json,md}; about 10 minutes'
	@echo '            and 10 GB of disk; SCENARIOS=start,noop or RUNS=2 measure a part and only print it'
	@echo 'make plan-vs-configure PAIRS=200 SEED=1   compare what /plan says with what /configure does over random pairs of'
	@echo '            specs, write bench/results/plan_vs_configure.{json,md}'
	@echo 'make chaos RUNS=20 SEED=1   real processes under seeded faults and load, each run judged by its history; KEEP=dir keeps all'
	@echo '            histories and logs; RUNS=200 or more writes bench/results/chaos.{json,md}; JOBS=2 runs at once'
	@echo 'make model   explore every state of the models of leadership, and each rule switched off in turn, write'
	@echo '            bench/results/model.{json,md}; a few minutes and 2 GB of memory'
	@echo 'make simulate SECONDS=600 SEED=1   run seeded schedules of faults against the decisions in virtual time, write'
	@echo '            bench/results/simulation.{json,md}; SECONDS=0 shows the one schedule of SEED'
	@echo 'make failover KILLS=10   kill the primary of the controllers'"'"' database under load (Patroni, etcd), write'
	@echo '            bench/results/failover.{json,md}; about 10 minutes'
	@echo 'make fleet-sim AGENTS=20000   be that many agents, in a release build, until Ctrl-C; the log names their addresses'
	@echo 'make lint   formatting and clippy, warnings denied'

build:
	$(CARGO) build --locked $(BINARIES)

demo:
	@scripts/ensure-postgresql.sh
	@$(MAKE) --no-print-directory build
	@"$(TARGET)/debug/pgfleet" local demo

test:
	@scripts/ensure-postgresql.sh
	@# The system tests start these programs; built here, their compilation is seen and not a test's.
	$(CARGO) build --locked $(BINARIES) -p pgfleet-next-release -p pgfleet-fleet-sim
	$(CARGO) test --locked --workspace

lint:
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

measure-demo:
	@scripts/measure-demo.sh $(or $(RUNS),5)

# The tool starts the programs that lie beside it; they are built as the product is released.
bench-handover:
	@scripts/ensure-postgresql.sh
	$(CARGO) build --locked --release -p storage_controller -p pgfleet-bench
	PGFLEET_TEST_PROGRAMS="$(TARGET)/release" "$(TARGET)/release/handover" \
		$(if $(SCENARIOS),--scenarios $(SCENARIOS)) $(if $(RUNS),--runs $(RUNS))

# etcd is a floor; the script installs it without starting a service.
bench:
	@scripts/ensure-postgresql.sh
	@command -v etcd >/dev/null || scripts/ensure-patroni.sh >/dev/null
	$(CARGO) build --locked --release -p storage_controller -p pgfleet-bench -p pgfleet-fleet-sim
	PGFLEET_TEST_PROGRAMS="$(TARGET)/release" "$(TARGET)/release/fleet" \
		$(if $(SCENARIOS),--scenarios $(SCENARIOS)) $(if $(SIZES),--sizes $(SIZES)) $(if $(RUNS),--runs $(RUNS))

bench-quick:
	@scripts/ensure-postgresql.sh
	$(CARGO) build --locked $(BINARIES) -p pgfleet-bench -p pgfleet-fleet-sim
	PGFLEET_TEST_PROGRAMS="$(TARGET)/debug" "$(TARGET)/debug/fleet" --quick $(if $(SCENARIOS),--scenarios $(SCENARIOS))

bench-agent:
	@scripts/ensure-postgresql.sh
	$(CARGO) build --locked --release -p storage_controller -p compute_ctl -p pgfleet-bench
	PGFLEET_TEST_PROGRAMS="$(TARGET)/release" "$(TARGET)/release/agent" \
		$(if $(SCENARIOS),--scenarios $(SCENARIOS)) $(if $(RUNS),--runs $(RUNS))

# In the debug build: it compares and measures nothing.
plan-vs-configure:
	@scripts/ensure-postgresql.sh
	$(CARGO) build --locked $(BINARIES) -p pgfleet-bench
	PGFLEET_TEST_PROGRAMS="$(TARGET)/debug" "$(TARGET)/debug/plan_vs_configure" \
		--pairs $(or $(PAIRS),200) --seed $(or $(SEED),1)

# In the debug build, as the tests are: it measures nothing but gaps under faults.
chaos:
	@scripts/ensure-postgresql.sh
	@scripts/ensure-program.sh faketime faketime
	$(CARGO) build --locked $(BINARIES) -p pgfleet-chaos
	PGFLEET_TEST_PROGRAMS="$(TARGET)/debug" "$(TARGET)/debug/chaos" \
		--runs $(or $(RUNS),20) --seed $(or $(SEED),1) --jobs $(or $(JOBS),2) $(if $(KEEP),--keep "$(KEEP)")

# Optimised as its tests are; it needs no database and starts no program.
model:
	$(CARGO) build --locked -p pgfleet-model
	"$(TARGET)/debug/model"

# Schedules of faults against the product's own decisions in virtual time; SECONDS=0 shows the one schedule of SEED.
simulate:
	$(CARGO) run --locked --release -p pgfleet-simulation --bin simulate -- --seconds $(or $(SECONDS),600) \
		$(if $(SEED),--seed $(SEED)) --out bench/results

# In the debug build: the database's own failover takes seconds. Fewer than 10 kills are only printed.
failover:
	@scripts/ensure-postgresql.sh
	@scripts/ensure-patroni.sh
	$(CARGO) build --locked $(BINARIES) -p pgfleet-failover
	PGFLEET_TEST_PROGRAMS="$(TARGET)/debug" "$(TARGET)/debug/failover" --kills $(or $(KILLS),10)

# In the release build: what it costs is taken from what is measured against it.
fleet-sim:
	$(CARGO) build --locked --release -p pgfleet-fleet-sim
	@RUST_LOG=warn,pgfleet_fleet_sim=info "$(TARGET)/release/fleet_sim" --agents $(or $(AGENTS),20000)
