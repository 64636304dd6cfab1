# `make help` lists the targets. The tests need a PostgreSQL; scripts/ensure-server.sh
# finds one or gets one.

GO ?= go
TESTFLAGS ?=

# Those whose tests are fast or need a server; test/legacy and examples have targets
# of their own.
MODULES := test cmd/bootlock . bench
PACKAGES = $(patsubst %,./%/...,$(MODULES))

# golangci-lint's own advice is not to let go.mod know it. Built once, kept by version.
LINT_VERSION := v2.15.0
LINT_DIR := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/bootlock/golangci-lint-$(LINT_VERSION)
LINT := $(LINT_DIR)/golangci-lint
ACTIONLINT := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

.DEFAULT_GOAL := help
# Those that have a rule: one that were only listed here would pass as done.
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

server: ## see to it that there is a PostgreSQL to test on
	@scripts/ensure-server.sh

# Tests wait more than they compute, so that more of them than cores can go on at once.
# Packages do not, for each of the large ones does that by itself, and fleets of processes
# beside fleets of processes are more than a slow machine can start.
PARALLEL := -p 1 -parallel 4

# The root's own test would run the module test a second time.
test: server ## run all tests
	$(GO) test -short -timeout 25m $(PARALLEL) $(TESTFLAGS) $(PACKAGES)

test-race: server ## run all tests with the race detector
	$(GO) test -short -race -timeout 30m $(TESTFLAGS) $(PACKAGES)

test-matrix: ## the promises on PostgreSQL 13 to 18, every driver and mode, direct and through PgBouncer; VERSIONS="13 18"
	scripts/test-matrix.sh $(VERSIONS)

test-examples: server ## run the tests of the examples and of their race harness
	cd examples && $(GO) test -timeout 25m $(TESTFLAGS) ./...

simulate: ## run 100,000 schedules of fleets and faults on a fake server and clock; SCHEDULES=n, SEED=n
	$(GO) test -C test/simulation -run TestSchedules -count=1 -v -timeout 2h -schedules $${SCHEDULES:-100000} -seed $${SEED:-1000000}

soak: ## eight processes, a server and faults of all kinds for a minute; SOAK=10m
	BOOTLOCK_SOAK=$${SOAK:-1m} $(GO) test -C test/soak -run TestSoak -count=1 -v -timeout 0

fuzz: server ## look for inputs that break something, 10 s for each target; FUZZTIME=1m
	GO="$(GO)" scripts/fuzz.sh

mutants: server ## break the code on purpose, in one place at a time, and see which test notices; ONLY=regexp, SAMPLE=n
	$(GO) run -C test ./mutants -only '$(ONLY)' -sample $(or $(SAMPLE),0)

mutants-short: ## a dozen of those that tests without a server notice, a minute
	$(GO) run -C test ./mutants -list fast -sample $(or $(SAMPLE),12)

race: server ## race real migration libraries with and without the guard, 25 minutes
	cd examples && $(GO) run ./race

race-short: server ## the same in two minutes
	cd examples && $(GO) run ./race -short

vet: ## run go vet, for every system the command is for
	set -e; for dir in $(MODULES) examples; do $(GO) vet -C $$dir ./...; done
	cd test/legacy && GOWORK=off $(GO) vet ./...
	cd cmd/bootlock && GOOS=darwin $(GO) vet ./... && GOOS=windows $(GO) vet ./...

$(LINT):
	GOBIN=$(LINT_DIR) GOFLAGS= $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

lint: $(LINT) ## run the linters of .golangci.yml
	set -e; for dir in $(MODULES) examples; do (cd $$dir && $(LINT) run ./...); done
	cd test/legacy && GOWORK=off $(LINT) run ./...
	GOWORK=off $(GO) run $(ACTIONLINT)
	shellcheck scripts/*.sh .ci/run

demo: server ## see the race without the guard, and none with it
	$(GO) run ./cmd/bootlock demo $${BOOTLOCK_TEST_DSN:+--dsn "$$BOOTLOCK_TEST_DSN"}

bench: server ## compare starts and locks with the peers, as tables, an hour; ONLY=regexp, ROUNDS=n, FOR=60s
	$(GO) run ./bench $(if $(ONLY),-only '$(ONLY)') $(if $(ROUNDS),-rounds $(ROUNDS)) $(if $(FOR),-for $(FOR))

tidy: ## run go mod tidy in every module
	scripts/tidy.sh

deps: ## check that users get nothing but the standard library and this module
	scripts/check-deps.sh

release: ## test, tag and push VERSION=v1.2.3; REHEARSE=1 pushes nothing
	scripts/release.sh "$(VERSION)"

# The certificates of this machine: without any, TLS to a server can't be checked.
image: ## build the command's Docker image from dist/, as bootlock:VERSION
	rm -rf dist/image && mkdir -p dist/image
	cp dist/bootlock_$(VERSION)_linux_$$($(GO) env GOARCH)/bootlock dist/image/
	cp /etc/ssl/certs/ca-certificates.crt dist/image/
	docker build --quiet --build-arg BINARY=bootlock --tag bootlock:$(VERSION) --file Dockerfile dist/image
