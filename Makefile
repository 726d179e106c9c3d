# netweight: `make demo` runs the main job, `make test` the tests; both set everything up first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
RUNTIME ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-gpu bench bench-gpu test-containers image-sizes lint lint-deploy format stubs lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv and install what requirements.lock says

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "netweight needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	@echo "installing into $(VENV) (1-3 minutes, about 2 GB with torch for the CPU)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint requirements.lock --editable '.[$(RUNTIME),train,compare,dev]'
	@touch $@

demo: $(STAMP) ## train, export, serve and compare four networks on the built-in digits
	@$(BIN)/netweight demo

test: $(STAMP) ## the tests that need neither a GPU nor containers
	@$(BIN)/python -m pytest -m 'not gpu and not slow and not container' $(ARGS)

test-slow: $(STAMP) ## the tests that take minutes
	@$(BIN)/python -m pytest -m slow $(ARGS)

test-gpu: $(STAMP) ## the tests that need an NVIDIA GPU
	@$(BIN)/python -m pytest -m gpu $(ARGS)

bench: $(STAMP) ## the server beside plain ONNX Runtime (10 minutes; ARGS=--quick: 3)
	@$(BIN)/python -m compare.bench $(ARGS)

bench-gpu: $(STAMP) ## on an NVIDIA GPU: parity, then the server beside the limit (out/bench-gpu)
	@$(BIN)/python -m compare.bench_gpu $(ARGS)

# An engine for the tests where the workplace brings one; elsewhere whatever `docker` reaches.
WORKSHOP := ../shared/tools/containers
ENGINE = if ! docker info >/dev/null 2>&1 && [ -x $(WORKSHOP) ]; then \
    $(WORKSHOP) up >/dev/null && eval "$$($(WORKSHOP) env)" && build='--network host'; fi; \
  docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1 || \
    { echo "this needs a container engine with compose v2: start Docker, or set DOCKER_HOST"; exit 1; }

test-containers: $(STAMP) ## the tests that bring the stack up on a container engine
	@$(ENGINE); $(BIN)/python -m pytest -m container $(ARGS)

image-sizes: ## build both images and print their sizes (the GPU's takes 3 GB of disk)
	@$(ENGINE); deploy/tools/image-sizes $$build

lint: $(STAMP) lint-deploy ## ruff, mypy strict, import contracts, stubs
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(MAKE) --no-print-directory stubs-check

lint-deploy: $(STAMP) ## Dockerfile, compose file, Prometheus' settings, dashboard: without an engine
	@deploy/tools/lint $(BIN)

format: $(STAMP) ## format the code and mend what ruff can
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

PROTOC = $(BIN)/python -m grpc_tools.protoc -Iserver/pb=proto --python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) $(wildcard proto/*.proto)

stubs: $(STAMP) ## generate server/pb from proto/
	@$(call PROTOC,.)

.PHONY: stubs-check
stubs-check: $(STAMP)
	@dir=$$(mktemp -d) && trap 'rm -rf $$dir' EXIT && $(call PROTOC,$$dir) && \
	  diff -r -x __pycache__ -x __init__.py $$dir/server/pb server/pb || { echo "server/pb is not what proto/ generates: make stubs"; exit 1; }

lock: $(STAMP) ## choose versions anew within pyproject.toml's bounds
	@$(BIN)/uv pip compile --quiet pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
	  --no-header --no-annotate --no-emit-index-url --output-file requirements.lock

clean: ## remove what demo and tests have written (not .venv)
	@rm -rf out build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
