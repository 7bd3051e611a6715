# Revisit. `make` prints the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := libs/chassis libs/events services/booking services/engagement services/feedback services/scoring deploy/standalone
ARGS ?=
CLINIC ?=
ROLE ?= clinic_system
PORT ?= 8080
DATA_DIR ?= .run
# Without bytecode on disk each run would compile every module and every test anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-fast test-data test-kafka chaos bench check generate token env lock format clean

help: ## Print the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## Create the virtual environment with the pinned requirements

$(VENV)/.ready: requirements.txt $(addsuffix /pyproject.toml,$(PACKAGES))
	@echo "Setting up the virtual environment (about a minute the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Revisit needs Python 3.11 or newer")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(addprefix -e ,$(PACKAGES))
	@touch $@

demo: setup ## Run three months of a clinic, print what came of it, keep serving (ARGS="--exit --report FILE --data FILE")
	@$(BIN)/python -m standalone demo $(ARGS)

serve: setup ## Serve the embedded default (PORT=8080, DATA_DIR=.run, ARGS="--kafka HOST:PORT")
	@$(BIN)/python -m standalone serve --port $(PORT) --data-dir $(DATA_DIR) --ready-file $(DATA_DIR)/ready.json $(ARGS)

token: setup ## Print a token: make token CLINIC=<uuid> ROLE=<role>
	@$(BIN)/python -m standalone token --data-dir $(DATA_DIR) $(if $(CLINIC),--clinic $(CLINIC)) --role $(ROLE) $(ARGS)

test: setup ## Run every test but test-data on the embedded default
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not data" $(ARGS)

test-fast: setup ## Run the pure tests (ten seconds)
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "pure" $(ARGS)

test-data: setup ## Run the tests that read ../shared/data
	@$(BIN)/python -m pytest -m data $(ARGS)

test-kafka: setup ## Run the broker tests, the way from event to care and the quick chaos set on Apache Kafka 4 (Java 17 and Maven)
	@$(BIN)/python -m deploy.kafka.run -- $(BIN)/python -m pytest -m broker $(ARGS)

chaos: setup ## Run the long chaos set with every mutant on both brokers (ARGS="--rounds N")
	@$(BIN)/python -m tests.chaos $(ARGS)

bench: setup ## Measure against the bare scripts (ARGS="--json FILE --only NAME")
	@$(BIN)/python -m bench $(ARGS)

check: setup ## Format, lint, types, import rules, generated documents
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m revisit_events.generate --check

generate: setup ## Write the generated schemas and documents again
	@$(BIN)/python -m revisit_events.generate

format: setup ## Format and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

env: setup ## Write .env and deploy/secrets for docker-compose
	@$(BIN)/python -m deploy.make_env

lock: setup ## Resolve requirements.in into requirements.txt with hashes
	@$(BIN)/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --strip-extras --allow-unsafe --no-header --output-file requirements.txt requirements.in
	@$(BIN)/python -m deploy.split_requirements

clean: ## Remove the virtual environment, caches and the data of make serve (.run)
	@rm -rf $(VENV) .run .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
