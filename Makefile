# `make help` lists the targets. The tests need a PostgreSQL; scripts/ensure-server.sh
# finds one or gets one.

GO ?= go
TESTFLAGS ?=

# test/legacy and examples have their own targets.
MODULES := test cmd/bootlock . bench
PACKAGES = $(patsubst %,./%/...,$(MODULES))

# golangci-lint advises against a requirement in go.mod. It is built once per version.
LINT_VERSION := v2.15.0
LINT_DIR := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/bootlock/golangci-lint-$(LINT_VERSION)
LINT := $(LINT_DIR)/golangci-lint
ACTIONLINT := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

.DEFAULT_GOAL := help
# Taken from the rules: a target without a rule would pass as done.
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

server: ## find a PostgreSQL to test on, or install one
	@scripts/ensure-server.sh

# Tests mostly wait, so more of them than cores can run at once. But one package at a
# time: each of the large ones starts fleets of processes, and a slow machine cannot
# start several fleets together.
PARALLEL := -p 1 -parallel 4

# The root's own test would run the module test a second time.
test: server ## run all tests
	$(GO) test -short -timeout 25m $(PARALLEL) $(TESTFLAGS) $(PACKAGES)

test-race: server ## run all tests with the race detector
	$(GO) test -short -race -timeout 30m $(TESTFLAGS) $(PACKAGES)

test-matrix: ## test PostgreSQL 13 to 18 with every driver and mode, direct and through PgBouncer; VERSIONS="13 18"
	scripts/test-matrix.sh $(VERSIONS)

test-examples: server ## run the tests of the examples and of the race
	cd examples && $(GO) test -timeout 25m $(TESTFLAGS) ./...

simulate: ## simulate 100,000 fleets with faults on a fake server and clock; SCHEDULES=n, SEED=n
	$(GO) test -C test/simulation -run TestSchedules -count=1 -v -timeout 2h -schedules $${SCHEDULES:-100000} -seed $${SEED:-1000000}

soak: ## run eight processes on a server with all kinds of faults for a minute; SOAK=10m
	BOOTLOCK_SOAK=$${SOAK:-1m} $(GO) test -C test/soak -run TestSoak -count=1 -v -timeout 0

fuzz: server ## run each fuzz target for 10 s; FUZZTIME=1m
	GO="$(GO)" scripts/fuzz.sh

mutants: server ## break the code on purpose, in one place at a time: a test must fail; ONLY=regexp, SAMPLE=n
	$(GO) run -C test ./mutants -only '$(ONLY)' -sample $(or $(SAMPLE),0)

mutants-short: ## the same for a dozen mutants that need no server, a minute
	$(GO) run -C test ./mutants -list fast -sample $(or $(SAMPLE),12)

race: server ## race real migration libraries with and without the guard, 25 minutes
	cd examples && $(GO) run ./race

race-short: server ## run a short race, two minutes
	cd examples && $(GO) run ./race -short

vet: ## run go vet, for every system that the command supports
	set -e; for dir in $(MODULES) examples; do $(GO) vet -C $$dir ./...; done
	cd test/legacy && GOWORK=off $(GO) vet ./...
	cd cmd/bootlock && GOOS=darwin $(GO) vet ./... && GOOS=windows $(GO) vet ./...

$(LINT):
	GOBIN=$(LINT_DIR) GOFLAGS= $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

lint: $(LINT) ## run golangci-lint, actionlint and shellcheck
	set -e; for dir in $(MODULES) examples; do (cd $$dir && $(LINT) run ./...); done
	cd test/legacy && GOWORK=off $(LINT) run ./...
	GOWORK=off $(GO) run $(ACTIONLINT)
	shellcheck scripts/*.sh .ci/run

demo: server ## show the race without the guard and with it
	$(GO) run ./cmd/bootlock demo $${BOOTLOCK_TEST_DSN:+--dsn "$$BOOTLOCK_TEST_DSN"}

bench: server ## print the tables of docs/figures.md, an hour; ONLY=regexp, ROUNDS=n, FOR=60s
	$(GO) run ./bench $(if $(ONLY),-only '$(ONLY)') $(if $(ROUNDS),-rounds $(ROUNDS)) $(if $(FOR),-for $(FOR))

tidy: ## run go mod tidy in every module
	scripts/tidy.sh

deps: ## check that users get nothing but the standard library and this module
	scripts/check-deps.sh

release: ## test, tag and push VERSION=v1.2.3; with REHEARSE=1, push nothing
	scripts/release.sh "$(VERSION)"

# With the certificates of this machine: TLS needs them to check the server.
image: ## build the Docker image bootlock:VERSION from dist/
	rm -rf dist/image && mkdir -p dist/image
	cp dist/bootlock_$(VERSION)_linux_$$($(GO) env GOARCH)/bootlock dist/image/
	cp /etc/ssl/certs/ca-certificates.crt dist/image/
	docker build --quiet --build-arg BINARY=bootlock --tag bootlock:$(VERSION) --file Dockerfile dist/image
