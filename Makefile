# Every target does the set-up it needs, in .venv; a changed pyproject.toml re-installs. Start with `make demo`.
#   make demo ARGS="--seeds 1 --framework pytorch"     PYTHON=python3.12 chooses the interpreter for a new .venv

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
JOBS ?= 2
FUZZ_ROUNDS ?= 10
SIM_SEEDS ?= 1000

# A demo with PyTorch needs one extra more than the default.
DEMO_STAMP := $(VENV)/.installed-demo$(if $(findstring pytorch,$(ARGS)),-torch)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help demo study test test-all e2e fuzz lint fix bench bench-peers docs cometbft clean
.DELETE_ON_ERROR:

help:
	@echo "make demo | study | test | test-all | e2e | fuzz | lint | fix | bench | bench-peers | docs | cometbft | clean"

demo: $(DEMO_STAMP)
	$(BIN)/swarm demo $(ARGS)

# Two organisations' agents carry out a study that a script starts: examples/heart/study.py.
study: $(VENV)/.installed-demo
	$(BIN)/python examples/heart/study.py $(ARGS)

test: $(VENV)/.installed-all
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow" $(ARGS)

test-all: $(VENV)/.installed-all
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

e2e: $(VENV)/.installed-all
	$(BIN)/python -m pytest -n $(JOBS) -m e2e $(ARGS)

# The property tests, and 10,000 simulated schedules (about an hour and a half), from other seeds each time; a failure prints the seed to
# repeat it with.
fuzz: $(VENV)/.installed-all
	@for round in $$(seq $(FUZZ_ROUNDS)); do \
	  seed=$$(od -An -N4 -tu4 /dev/urandom | tr -d ' '); echo "round $$round of $(FUZZ_ROUNDS), --hypothesis-seed=$$seed"; \
	  HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -q -n $(JOBS) -m hypothesis --timeout 1800 --hypothesis-seed=$$seed $(ARGS) || exit 1; \
	  SWARM_SIM_FIRST=$$seed SWARM_SIM_SEEDS=$(SIM_SEEDS) $(BIN)/python -m pytest -q -n $(JOBS) tests/simulator/test_swarm_fuzz.py || exit 1; done

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests

fix: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-all
	$(BIN)/swarm bench merge --dtype float32 --dtype float64 --dtype bfloat16 --dtype float16 --dtype int64
	$(BIN)/python benchmarks/transport.py
	for size in 0.25 10 100; do $(BIN)/swarm bench round --megabytes $$size || exit 1; done

# The same payloads through Flower, NVIDIA FLARE, p2pfl, hivemind and this project; the first time it fetches them, 7 GB
# of disk. ARGS="--only ours,hivemind --sizes 10 --markdown" as `benchmarks/peers/run.py --help` says.
bench-peers: $(VENV)/.installed-all
	$(BIN)/python benchmarks/peers/run.py $(ARGS)

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs $(ARGS)
	@echo "build/docs/index.html"

# The program that the CometBFT engine runs, as a Go module like any other; `swarm` finds it where this puts it.
cometbft:
	@command -v go >/dev/null || { echo "Go is not installed, which cometbft is built with: see https://go.dev/doc/install; without it the engine's tests are skipped" >&2; exit 1; }
	go install github.com/cometbft/cometbft/cmd/cometbft@v0.40.0
	@echo "$$(go env GOPATH)/bin/cometbft, version $$($$(go env GOPATH)/bin/cometbft version)"

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist

# --- set-up ------------------------------------------------------------------------------------------------------

# pip 25.1 is the first that reads dependency groups.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed, but $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo missing); install one, or name it: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Setting up $(VENV); the first time takes a few minutes."
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade "pip>=25.1"
	touch $@

$(VENV)/.installed-demo: $(VENV)/.created pyproject.toml
	$(PIP) install -e ".[demo]"
	touch $@

$(VENV)/.installed-demo-torch: $(VENV)/.created pyproject.toml
	$(PIP) install -e ".[demo,torch]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml
	$(PIP) install -e . --group dev
	touch $@

$(VENV)/.installed-docs: $(VENV)/.created pyproject.toml
	$(PIP) install --group docs
	touch $@

$(VENV)/.installed-all: $(VENV)/.created pyproject.toml
	$(PIP) install -e ".[all]" --group dev
	touch $@
