# `make` alone lists what there is. Needs python3 (3.11 or newer) with venv, and make; everything else goes into .venv.

PYTHON ?= $(shell for name in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done)
VENV := .venv
BIN := $(VENV)/bin
ROUTES ?= routes.toml
PIP := -m pip install -qq --disable-pip-version-check
# Every file is known by its hash, and none of them runs a script of its own to be installed.
LOCKED := --require-hashes --only-binary :all: -r requirements
TOOLS := $(VENV)/tools/bin

.DEFAULT_GOAL := help
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*\#\# .*/\1/p' Makefile)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# -- the virtual environment: once, and again when a dependency changes -------------------------------------------

$(BIN)/python:
	@[ -n "$(PYTHON)" ] && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, and $(or $(PYTHON),python3) is `$(or $(PYTHON),python3) --version 2>&1 | tail -n 1`." ; \
		echo "Install it, or name one: make PYTHON=/path/to/python3" ; exit 1 ; } >&2
	@echo "Making $(VENV) with `$(PYTHON) --version`."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV) ; \
		echo "$(PYTHON) cannot make virtual environments here; on Debian: apt install python3-venv" >&2 ; exit 1 ; }

$(VENV)/.run: requirements/run.txt setup.cfg pyproject.toml | $(BIN)/python
	@echo "Installing what pointsman needs into $(VENV); half a minute the first time."
	@$(BIN)/python $(PIP) $(LOCKED)/run.txt
	@$(BIN)/python $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.test: requirements/test.txt setup.cfg pyproject.toml | $(BIN)/python
	@echo "Installing what pointsman and its tests need into $(VENV); a minute the first time."
	@$(BIN)/python $(PIP) $(LOCKED)/test.txt
	@$(BIN)/python $(PIP) --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.run

# A quarter of a gigabyte: a model and its server. Where they cannot be installed, what needs them is left out.
$(VENV)/.local: requirements/local.txt | $(VENV)/.run
	@echo "Installing a small language model and its server into $(VENV); a minute the first time."
	@$(BIN)/python $(PIP) $(LOCKED)/local.txt || echo "They cannot be installed here: what needs them is left out." >&2
	@touch $@

venv: $(VENV)/.test ## make .venv with everything that tests need

# -- use ----------------------------------------------------------------------------------------------------------

run: $(VENV)/.run ## serve routes.toml on 127.0.0.1:8080; state in ./.state; stop with Ctrl-C
	@mkdir -p .state
	@STATE_DIRECTORY="$(CURDIR)/.state" exec $(BIN)/python -m proxy serve --config $(ROUTES)

run-local: $(VENV)/.run $(VENV)/.local ## serve a small language model of this machine's own on 127.0.0.1:8080; stop with Ctrl-C
	@mkdir -p .state
	@STATE_DIRECTORY="$(CURDIR)/.state" exec $(BIN)/python scripts/local_model.py -- \
		$(BIN)/python -m proxy serve --config local.toml

# -- test ---------------------------------------------------------------------------------------------------------

# Without bytecode, hundreds of processes would compile what they import, each for itself.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -q

# Three at a time on two cores: some wait for what the clock has to bring. In the order of tests/conftest.py: by the number
# of their tests, a file whose one test takes a minute would come last.
test: $(VENV)/.test ## the fast tests: two minutes on two quick cores, four on slow ones
	@$(PYTEST) -n 3 --dist loadfile --no-loadscope-reorder -m "not slow"

# Libraries that docs/clients.md shows, in an environment of their own: they want other versions of the SDKs.
$(VENV)/.clients: requirements/clients.txt | $(BIN)/python
	@echo "Installing libraries that docs/clients.md shows into $(VENV)/clients."
	@$(BIN)/python -m venv $(VENV)/clients && \
		$(VENV)/clients/bin/python $(PIP) $(LOCKED)/clients.txt || \
		echo "They cannot be installed here: what needs them is left out." >&2
	@touch $@

# Property tests are among the fast ones, too, with a quarter of their examples: tests/fuzz.py.
test-slow: $(VENV)/.test $(VENV)/.local $(VENV)/.clients ## the tests that `make test` leaves out: eight to fourteen minutes on two cores
	@$(PYTEST) -n 3 --dist loadfile --no-loadscope-reorder -m "slow or hypothesis"

# By what .venv has installed. No process is started by its name in these.
READERS := tests/wire tests/dialects $(addprefix tests/test_,streams.py familiar_frames.py giant_frames.py fuzz.py)
test-oldest: $(VENV)/.test ## what reads bytes, by an older Python of .venv's minor version, where there is one; half a minute
	@other=`$(BIN)/python scripts/oldest_python.py` ; \
	if [ -z "$$other" ] ; then echo "No Python here is older than .venv's, of the same minor version." ; exit ; fi ; \
	echo "By $$other, `$$other --version`." ; \
	export PYTHONPATH="$(CURDIR):`$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'`" ; \
	env -u PYTHONDONTWRITEBYTECODE "$$other" -m pytest -q -n 2 --dist loadfile -m "not slow" $(READERS)

test-all: ## every test: `make test` and `make test-slow`
	@$(MAKE) --no-print-directory test
	@$(MAKE) --no-print-directory test-slow

conformance: $(VENV)/.test ## checks against recorded traffic by surface and dialect; needs ../shared
	@$(BIN)/python scripts/conformance_report.py

bench: $(VENV)/.test ## CPU, latency and memory beside nginx, written to docs/performance.md; 15 minutes, needs ../shared
	@$(BIN)/python scripts/bench.py

bench-check: $(VENV)/.test ## what got a fifth worse than docs/performance.md says; writes nothing, needs ../shared
	@$(BIN)/python scripts/bench.py --check

.PHONY: faults fuzz soak
faults: $(VENV)/.test ## run every fault of the catalogue and write docs/faults.md from what came of it
	@rm -rf .faults && mkdir .faults
	@POINTSMAN_FAULTS_TABLE="$(CURDIR)/.faults" $(PYTEST) -n 2 --dist loadfile tests/faults tests/server/test_killed.py
	@cd tests && ../$(BIN)/python -m faults.table "$(CURDIR)/.faults" && rm -rf ../.faults

fuzz: $(VENV)/.test ## bytes and shapes of any kind through all that reads them, new ones in each round; ten minutes
	@$(BIN)/python tests/fuzz.py 10

MINUTES ?= 30
soak: $(VENV)/.test ## MINUTES of mixed load with faults and reloads on one process, once its caches are full; nothing may grow or be left
	@cd tests && PYTHONPATH=. ../$(BIN)/python -m faults.soak $(MINUTES)

lint: $(VENV)/.test ## format, lint and types, without changing anything
	@$(BIN)/ruff format --check proxy tests scripts
	@$(BIN)/ruff check proxy tests scripts
	@$(BIN)/mypy --strict proxy tests scripts

check: lint test ## what a change has to pass: lint and the fast tests

fix: $(VENV)/.test ## format, and mend what ruff can mend
	@$(BIN)/ruff format proxy tests scripts
	@$(BIN)/ruff check --fix proxy tests scripts

# -- data ---------------------------------------------------------------------------------------------------------

bench-routing: $(VENV)/.test ## how long one routing decision takes, with 300 models
	@$(BIN)/python scripts/bench_routing.py

bench-admission: $(VENV)/.test ## what a key, its budgets and limits, and a log line take, with 100,000 keys
	@$(BIN)/python scripts/bench_admission.py

classifier-report: $(VENV)/.test ## how well `auto` tells the classes apart; more rows: ../shared/prompts/tasks.jsonl
	@$(BIN)/python scripts/classifier_report.py $(wildcard ../shared/prompts/tasks.jsonl) \
		--unseen training/probe.jsonl --held-out

goldens: $(VENV)/.test ## write what every dialect makes of each feature, tests/data/features; then read the diff
	@$(BIN)/python tests/features.py

prices: $(VENV)/.test ## write proxy/data/prices.json from the newest price library
	@$(BIN)/python $(PIP) --upgrade genai-prices
	@$(BIN)/python scripts/build_prices.py

# -- supply -------------------------------------------------------------------------------------------------------

$(VENV)/.tools: requirements/tools.txt | $(BIN)/python
	@$(BIN)/python -m venv $(VENV)/tools
	@$(TOOLS)/python $(PIP) $(LOCKED)/tools.txt
	@touch $@

COMPILE = $(TOOLS)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-emit-package pointsman --custom-compile-command "make lock"

lock: $(VENV)/.tools ## write requirements/*.txt anew: the newest versions that setup.cfg allows, with their hashes
	@$(COMPILE) setup.cfg requirements/build.in -o requirements/run.txt
	@$(COMPILE) setup.cfg requirements/build.in --extra test -o requirements/test.txt
	@$(COMPILE) setup.cfg requirements/build.in --extra local -o requirements/local.txt
	@$(COMPILE) requirements/clients.in -o requirements/clients.txt
	@$(COMPILE) requirements/tools.in -o requirements/tools.txt

audit: $(VENV)/.tools $(VENV)/.run ## look all that is locked up in the advisories for Python packages
	@$(BIN)/python scripts/audit.py $(TOOLS)/pip-audit \
		requirements/test.txt requirements/local.txt requirements/clients.txt requirements/tools.txt

clean: ## remove .venv, caches and build leftovers; ./.state with its ledger stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find proxy tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
