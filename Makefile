# The one entry: people, git hooks and CI call these targets. `make` alone lists them.

PYTHON ?= python3
VENV ?= .venv
MINUTES ?= 10
INPUTS ?= 1000000
QUICK_FAULTS := $(wildcard tests/faults/test_quick_*.py)
BIN := $(VENV)/bin
.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: venv
venv: $(VENV)/.installed-dev ## create .venv with the locked versions of all that development needs

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# One stamp for each extra of pyproject.toml: demo, dev and bench.
$(VENV)/.installed-%: pyproject.toml requirements.lock | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[$*]'
	@touch $@

.PHONY: run
run: $(VENV)/.installed-demo ## run the service with an embedded Kafka and Redis and simulated devices (WEB_PORT=6070 make run: another port)
	@$(BIN)/python -m stream_cache demo

.PHONY: test
test: $(VENV)/.installed-dev ## run the unit tests, then the tests against a real Kafka and a real Redis
	$(BIN)/python -m pytest tests/unit tests/integration $(QUICK_FAULTS)

.PHONY: test-unit
test-unit: $(VENV)/.installed-dev ## run the unit tests
	$(BIN)/python -m pytest tests/unit

.PHONY: test-pythons
test-pythons: ## run the unit tests on every other Python that this machine has, of those that are claimed
	@for version in 3.12 3.13; do \
		python$$version --version 2>/dev/null || { echo "Python $$version is not here"; continue; }; \
		$(MAKE) --no-print-directory test-unit PYTHON=python$$version VENV=.venv-$$version || exit 1; \
	done

.PHONY: coverage
coverage: $(VENV)/.installed-dev ## run the tests, and show which lines they miss
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run --parallel-mode -m pytest tests/unit tests/integration $(QUICK_FAULTS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --show-missing --skip-covered

.PHONY: lint
lint: $(VENV)/.installed-dev ## check style, types and which module may import which
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

.PHONY: format
format: $(VENV)/.installed-dev ## format the code, and fix what ruff can fix
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

.PHONY: docs
docs: $(VENV)/.installed-dev ## write README's table of settings, .env.example and compose's list from stream_cache/settings.py
	$(BIN)/python docs/generate.py

.PHONY: faults
faults: $(VENV)/.installed-dev ## kill, freeze and cut the worker, Kafka and Redis (minutes)
	$(BIN)/python -m pytest tests/faults

.PHONY: soak
soak: $(VENV)/.installed-dev ## run under faults for MINUTES=10
	$(BIN)/python -m tests.faults.soak --minutes $(MINUTES)

.PHONY: fuzz
fuzz: $(VENV)/.installed-dev ## throw INPUTS=1000000 odd records at the decoder
	$(BIN)/python -m tests.fuzz --inputs $(INPUTS)

.PHONY: bench
bench: $(VENV)/.installed-bench ## measure, beside other libraries (BENCH=--quick for a short run)
	$(BIN)/python -m bench $(BENCH)

.PHONY: clean
clean: ## remove what was built and cached, but not .venv and Kafka's jars
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
	find stream_cache tests -name __pycache__ -prune -exec rm -rf {} +
