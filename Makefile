# TallyMQ: `make run` runs it, `make test` checks it, `make help` lists the rest.
# Both work on a bare machine with Go, git and make: scripts/setup.sh does the rest.

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LINT := go tool -modfile=tools/go.mod golangci-lint
# Each package under test starts servers of its own and waits for their disks, so
# more of them at once than this make tests slow, not quick.
TEST_PARALLEL ?= 2
# The limit of one package's tests: a hang ends with every goroutine's stack.
TEST_TIMEOUT ?= 8m
FUZZ_TIME ?= 10s

.DEFAULT_GOAL := help
.PHONY: help setup setup-test build run test test-faults lint fmt bench fuzz clean
# The order of prerequisites is the order in which they are done, whatever -j says.
.NOTPARALLEL:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## install what is missing to build and run: redis-server, PostgreSQL, Go modules
	@scripts/setup.sh

setup-test:
	@scripts/setup.sh test

build: ## build bin/tallymq
	@CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-X main.version=$(VERSION)' -o bin/tallymq ./cmd/tallymq

# exec: signals reach the program itself, and its exit status is make's.
run: setup build ## set up, build and run, with private servers, on port 3010; PORT=4000 moves it
	@exec bin/tallymq dev

test: setup-test lint ## set up, lint and run every test, with the race detector
	@# Watermill's own restart test races with itself, so it is built without the detector.
	go test -timeout $(TEST_TIMEOUT) -run '^TestWatermillSuiteReconnect$$' ./infra/redis
	CGO_ENABLED=1 go test -race -timeout $(TEST_TIMEOUT) -p $(TEST_PARALLEL) ./...

test-faults: setup-test ## the fault tests of delivery in full: 20 rounds under SIGKILL
	TALLYMQ_FAULT_ROUNDS=20 CGO_ENABLED=1 go test -race -count=1 -v -timeout 30m -run '^TestFault' ./cmd/tallymq

lint: ## check the code as .golangci.yml says; the first run builds the linter
	$(LINT) run ./...

fmt: ## format the code, mend what the linter can mend, and list the rest
	$(LINT) run --fix ./...

bench: setup build ## measure the service on this machine
	@exec bin/tallymq bench

fuzz: ## run every fuzz target for a while; FUZZ_TIME=1m makes it longer
	@grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | while IFS=: read -r file target; do \
		echo "$${file%/*} $${target#func }"; \
		go test -run '^$$' -fuzz "^$${target#func }\$$" -fuzztime $(FUZZ_TIME) "$${file%/*}" || exit 1; \
	done

clean: ## remove what was built; data under .tallymq stay
	@rm -rf bin
