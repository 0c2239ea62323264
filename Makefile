# Every command works on a fresh Linux machine with Python 3.11 or 3.12 and make.
SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then echo $$p; break; fi; done)
BIN := .venv/bin
STAMP := .venv/.installed
PROTOS := $(shell find proto -name '*.proto' | sort)

.PHONY: help
help: ## Show every command
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(STAMP) ## Install everything into .venv

$(STAMP): requirements.lock pyproject.toml client/pyproject.toml
	@sh deploy/preflight.sh "$(PYTHON)"
	@test -x $(BIN)/python || { echo "==> making .venv with $(PYTHON)"; "$(PYTHON)" -m venv .venv; }
	@echo "==> installing the locked dependencies (about 350 MB to download the first time)"
	@$(BIN)/python -m pip install --disable-pip-version-check --no-deps --require-hashes --progress-bar on -r requirements.lock
	@echo "==> installing modelyard"
	@$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -q -e client -e .
	@touch $(STAMP)

.PHONY: demo
demo: install ## Install all, run the main job on real parts
	@$(BIN)/modelyard demo

.PHONY: up
up: install ## Run the platform in the foreground; Ctrl-C stops it
	@$(BIN)/modelyard up

.PHONY: test
test: install ## Run all tests, several at once; ARGS=tests/unit runs a part in one process
	@$(BIN)/python -m pytest $(or $(ARGS),-n auto)

IMAGE ?= modelyard
BASE ?= $(shell $(BIN)/python -c 'import sys; print("python:%d.%d-slim-bookworm" % sys.version_info[:2])' 2>/dev/null)
# The same sources make the same wheels, so that unchanged layers are taken from the cache.
PIP_WHEEL := SOURCE_DATE_EPOCH=315532800 $(BIN)/python -m pip wheel --disable-pip-version-check -q --no-deps
.PHONY: image
image: install ## Build the container image (IMAGE names it, BASE its base: Linux with the Python of .venv)
	@rm -rf build/image && mkdir -p build/image
	@echo "==> collecting the locked wheels"
	@$(PIP_WHEEL) --require-hashes -r deploy/docker/requirements.lock -w build/image/locked
	@$(PIP_WHEEL) --no-build-isolation . ./client -w build/image/own
	@echo "==> building $(IMAGE) on $(BASE)"
	@docker build -q -t $(IMAGE) --build-arg BASE=$(BASE) -f deploy/docker/Dockerfile build/image
	@rm -rf build/image

.PHONY: containers
containers: install ## Test the image, deploy/compose and the parts in containers (needs a Docker engine)
	@$(BIN)/python -m pytest -m containers tests/containers $(ARGS)

RUNS ?= 3
.PHONY: faults
faults: install ## Kill every part RUNS times under load, hurt all else once, prove every bill (SEED repeats it)
	@$(BIN)/python -m tests.fault.campaign --runs $(RUNS) $(if $(SEED),--seed $(SEED))

.PHONY: bench
bench: install ## Measure every mark; ARGS='--quick' or names of benchmarks
	@$(BIN)/python -m bench $(ARGS)

.PHONY: check
check: install ## Lint, types, import rules, contracts, generated code, migrations
	@$(BIN)/ruff check . && $(BIN)/ruff format --check -q .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/buf lint
	@sh deploy/breaking.sh
	@$(MAKE) -s check-proto
	@$(BIN)/python -m chassis.database.drift services.catalog services.deploy services.billing

# protoc finds its plugins on PATH; the output goes to a folder of its own, so that a failure leaves gen/ as it was.
PROTOC = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I proto --python_out=$$tmp \
	--grpc_python_out=$$tmp --mypy_out=quiet:$$tmp --mypy_grpc_out=quiet:$$tmp $(PROTOS)

.PHONY: check-proto
check-proto: install
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && $(PROTOC) && \
	diff -r -x __pycache__ $$tmp gen >/dev/null || { echo "gen/ is not what proto/ says; run 'make proto'"; exit 1; }

.PHONY: proto
proto: install ## Generate gen/ from proto/
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && $(PROTOC) && rm -rf gen && mkdir gen && cp -r $$tmp/. gen

.PHONY: lock
lock: ## Resolve requirements.lock anew (needs uv)
	@uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --no-emit-package modelyard-client -o requirements.lock
	@uv pip compile pyproject.toml --extra embedded -c requirements.lock --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --no-emit-package modelyard-client -o deploy/docker/requirements.lock

.PHONY: clean
clean: ## Remove .venv, caches and the platform's data in var/
	@rm -rf .venv var .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
