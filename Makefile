# What can be done here. `make` alone lists it; CI types the same words.
.DEFAULT_GOAL := help
SHELL := /bin/bash -o pipefail

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# How many tests run side by side: one for each of two cores. More only makes them wait for each other.
WORKERS := 2
# How many inputs each fuzz test of `make test-slow` tries; in `make test` it is 150.
FUZZ_EXAMPLES ?= 3000
PROTOC := $(BIN)/python -m grpc_tools.protoc -Iprotos \
	--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc
# Paths as protoc wants them, below protos/. Only these files define services.
MESSAGES = $(shell cd protos && find qrng_grpc -name '*.proto' | sort)
SERVICES = $(shell cd protos && grep -l '^service ' $(MESSAGES))

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: $(READY) ## Make the virtual environment and install everything into it

$(READY): requirements.lock pyproject.toml
	@echo "installing into $(VENV); the first time takes half a minute"
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

run: $(READY) ## Run a collector and a gateway on this machine's own randomness, until Ctrl-C
	@exec $(BIN)/qrng up --profile urandom

test: $(READY) ## Run the tests
	$(BIN)/pytest -q -n $(WORKERS)

test-slow: $(READY) ## Run the tests that take minutes: memory, chaos, longer fuzzing
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r tests/clients/requirements.lock
	QRNG_REQUIRE_CLIENTS=1 $(BIN)/pytest -q -m slow tests
	QRNG_FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/pytest -q --timeout 1800 tests/chaos/test_fuzz.py

test-clients: $(READY) ## Run other people's programs with ours: grpcurl, k6, Node, pollen
	@command -v pollen >/dev/null || { apt-get update -qq && apt-get install -qq -y --no-install-recommends pollen; } >/dev/null 2>&1 \
		|| echo "the Debian package pollen cannot be installed here; its test will be skipped"
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r tests/clients/requirements.lock
	cd tests/clients/node && npm ci --silent --no-audit --no-fund
	QRNG_REQUIRE_CLIENTS=1 $(BIN)/pytest -q tests/clients

check: lint types protos-check coverage ## Everything that must hold before a commit

lint: $(READY) ## Check style of Python and protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/buf lint

types: $(READY) ## Check types, strictly
	$(BIN)/mypy

coverage: $(READY) ## Run the tests and require 90 % of branches
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q -n $(WORKERS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

template: $(READY) ## Write the template of profiles anew, from the settings there are
	@new=$$(mktemp -d) && cd $$new && $(CURDIR)/$(BIN)/qrng profile new ./PROFILE >/dev/null \
		&& cp PROFILE/.env PROFILE/README.md $(CURDIR)/deployments/_template/ && rm -r $$new

protos: $(READY) ## Generate the stubs from protos/
	$(call generate,.)

protos-check: $(READY) ## Prove that the committed stubs are current and break no client of main
	@rm -rf build/stubs && mkdir -p build/stubs
	@$(call generate,build/stubs) >/dev/null 2>&1
	@for package in v1 compat; do \
		diff -r -x __pycache__ -x __init__.py build/stubs/qrng_grpc/$$package qrng_grpc/$$package \
			|| { echo "stale stubs: run 'make protos' and commit them"; exit 1; }; \
	done
	@if git rev-parse --quiet --verify main:buf.yaml >/dev/null; then \
		$(BIN)/buf breaking --against '.git#branch=main'; \
	else echo "no branch main here: compatibility not compared"; fi

bench: bench-ready ## Measure the gateway beside its peers, its parts, and ten minutes of load; forty minutes
	$(BIN)/python bench/compare.py

bench-quick: bench-ready ## Compare the gateway with its peers in two minutes
	$(BIN)/python bench/compare.py --quick

bench-publish: bench-ready ## Put what `make bench` found into docs/performance.md
	$(BIN)/python bench/report.py --publish

bench-ready: $(READY)
	@command -v grpc_cpp_plugin >/dev/null || { apt-get update -qq && apt-get install -qq -y --no-install-recommends \
		g++ pkg-config libgrpc++-dev libprotobuf-dev libssl-dev protobuf-compiler protobuf-compiler-grpc; } >/dev/null 2>&1 \
		|| echo "Debian's libgrpc++-dev and protobuf-compiler-grpc cannot be installed here"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r bench/requirements.lock \
		|| echo "matplotlib cannot be installed here; there will be no plots"

lock: $(READY) ## Resolve the dependencies anew, with hashes and without host names
	$(BIN)/uv pip compile pyproject.toml --quiet --universal --generate-hashes --no-header --no-annotate \
		--extra dev --python-version 3.11 --output-file requirements.lock
	$(BIN)/uv pip compile tests/clients/requirements.in --quiet --python-version 3.11 --universal --generate-hashes --no-header --no-annotate \
		--output-file tests/clients/requirements.lock
	$(BIN)/uv pip compile bench/requirements.in --quiet --python-version 3.11 --universal --generate-hashes --no-header --no-annotate \
		--output-file bench/requirements.lock
	cd tests/clients/node && npm run --silent lock

clean: ## Remove everything made here, except state and keys in var/
	rm -rf $(VENV) tests/clients/node/node_modules clients/examples/node/node_modules build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* htmlcov
	find . -name __pycache__ -prune -exec rm -rf {} +

define generate
$(PROTOC) --python_out=$(1) --mypy_out=$(1) $(MESSAGES) && $(PROTOC) --grpc_python_out=$(1) --mypy_grpc_out=$(1) $(SERVICES)
endef

.PHONY: help setup run test test-slow test-clients check lint types coverage template protos protos-check bench bench-quick bench-publish bench-ready lock clean
