# netweight: `make demo` runs the main job, `make test` the tests; both set everything up first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
RUNTIME ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-gpu fuzz bench bench-gpu results-comparison results-training results-families results-folklore results-heads results-variants export-tools conformance conformance-buf conformance-kserve perf-analyzer test-containers image-sizes lint lint-deploy lint-proto format published stubs lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

fuzz: $(STAMP) ## hostile bytes with random seeds until something is found (10 minutes; ARGS='--minutes 60')
	@$(BIN)/python -m tests.fuzz $(ARGS)

bench: $(STAMP) ## the server beside plain ONNX Runtime (10 minutes; ARGS=--quick: 3)
	@$(BIN)/python -m compare.bench $(ARGS)

bench-gpu: $(STAMP) ## on an NVIDIA GPU: parity, then the server beside the limit (out/bench-gpu)
	@$(BIN)/python -m compare.bench_gpu $(ARGS)

results-comparison: $(STAMP) ## the whole catalogue untrained, the digits' networks and variants trained -> docs/results (an hour, half an hour more where nothing is trained; 9 GB in out)
	@$(BIN)/python -m compare.catalogue $(ARGS)

results-families: $(STAMP) ## train, export, serve, compare every family on the digits -> docs/results (30 minutes)
	@$(BIN)/python -m compare.families $(ARGS)

results-training: results-families results-folklore ## both of these (an hour)

results-heads: $(STAMP) ## VGG-16 on the digits with lighter heads, fp32 and int8 -> docs/results (8 minutes)
	@$(BIN)/python -m compare.lighter_heads $(ARGS)

results-variants: $(STAMP) ## every variant of VGG-16, ResNet-50, MobileNetV2: bytes, accuracy, latency -> docs/results (15 minutes; after results-families)
	@$(BIN)/python -m export.variants_report $(ARGS)

results-folklore: $(STAMP) ## what is said about training, tried -> docs/results (30 minutes)
	@$(BIN)/python -m models.folklore $(ARGS)

export-tools: $(STAMP) ## the oldest and newest onnx, onnxscript, onnx-ir of pyproject.toml both export (1 minute)
	@$(BIN)/python -m tests.export_tools

conformance: $(STAMP) ## the conformance suite (ARGS='--server HOST:PORT': against another server)
	@$(BIN)/python -m pytest -q tests/conformance $(ARGS)

conformance-buf: $(STAMP) ## a client that is not Python, by reflection alone: buf curl
	@$(BIN)/python -m pytest -q -s tests/conformance/test_buf.py

KSERVE := out/tools/kserve
conformance-kserve: $(STAMP) ## KServe's client against our server (installs 0.5 GB into out/tools/kserve)
	@test -x $(KSERVE)/bin/python || $(PYTHON) -m venv $(KSERVE)
	@$(KSERVE)/bin/python -m pip install -qq --disable-pip-version-check kserve==0.21.0
	@$(BIN)/python -m tests.conformance.against $(KSERVE)/bin/python tests/conformance/kserve_client.py {}

# The last tritonclient whose perf_analyzer runs on Debian 12, and the CUDA library that it is linked with.
PERF := out/tools/perf_analyzer
perf-analyzer: $(STAMP) ## NVIDIA's perf_analyzer against our server (2 minutes; needs libb64)
	@ldconfig -p | grep -q libb64 || { echo "perf_analyzer needs libb64: apt-get install libb64-0d"; exit 1; }
	@test -d $(PERF) || { rm -rf $(PERF).new && mkdir -p $(PERF).new && $(BIN)/python -m pip download -qq --disable-pip-version-check --no-deps \
	    --dest $(PERF).new tritonclient==2.50.0 nvidia-cuda-runtime-cu12==12.9.79 && \
	  for wheel in $(PERF).new/*.whl; do $(BIN)/python -m zipfile -e $$wheel $(PERF).new; done && \
	  chmod +x $(PERF).new/*.data/data/bin/perf_analyzer && mv $(PERF).new $(PERF); }
	@LD_LIBRARY_PATH=$(PERF)/nvidia/cuda_runtime/lib $(BIN)/python -m tests.conformance.perf_analyzer $(PERF)/*.data/data/bin/perf_analyzer

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

lint: $(STAMP) lint-deploy lint-proto ## ruff, mypy strict, import contracts, stubs, protocol
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(MAKE) --no-print-directory stubs-check

lint-deploy: $(STAMP) ## Dockerfile, compose file, Prometheus' settings, dashboard: without an engine
	@deploy/tools/lint $(BIN)

# buf reads what protoc makes of proto/, the path being that of the stubs; its own messages name the files as they are.
DESCRIBE = $(BIN)/python -m grpc_tools.protoc -Iserver/pb=$(1)/proto --include_imports --include_source_info \
  --descriptor_set_out=$(1)/proto.binpb $(1)/proto/*.proto
NAMED = sed 's|^server/pb/|proto/|'
# The last release; before the first one, the protocol as it began.
AGAINST ?= $(shell git describe --tags --abbrev=0 2>/dev/null || git log --diff-filter=A --format=%H -- proto/inference.proto 2>/dev/null | tail -1)

lint-proto: $(STAMP) ## the protocol's style, and that no client breaks (AGAINST=a git ref; the last tag)
	@set -o pipefail; dir=$$(mktemp -d) && trap 'rm -rf $$dir' EXIT && mkdir $$dir/now $$dir/then && cp -r proto $$dir/now && \
	  $(call DESCRIBE,$$dir/now) && $(BIN)/buf lint --config proto/buf.yaml $$dir/now/proto.binpb | $(NAMED) && \
	  if [ -z "$(AGAINST)" ]; then echo "no git history: nothing to hold the protocol against; say AGAINST=a git ref"; else \
	  git archive $(AGAINST) proto | tar -x -C $$dir/then && $(call DESCRIBE,$$dir/then) && \
	  $(BIN)/buf breaking --config proto/buf.yaml $$dir/now/proto.binpb --against $$dir/then/proto.binpb | $(NAMED); fi

format: $(STAMP) ## format the code and mend what ruff can
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

PROTOC = $(BIN)/python -m grpc_tools.protoc -Iserver/pb=proto --python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) $(wildcard proto/*.proto)

published: $(STAMP) ## write models/published.json from torchvision's weight records
	@$(BIN)/python -m models.published

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
	@rm -rf out build dist .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
