# One command per purpose. `make install` prepares .venv; every other target prepares it by itself when needed.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Python to build .venv from; the first of these that is 3.11 or newer.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
# Arguments for the command behind a target: make run ARGS="--source stdin", make test ARGS="-k queue".
ARGS ?=

.PHONY: install run test check bench bench-remote soak clean
.DEFAULT_GOAL := install

install: $(STAMP)

# Built again only when pyproject.toml changes; the package itself is installed editable, so its code needs nothing.
$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo "audisp needs Python 3.11 or newer; on Debian 12: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "python3-venv is missing; installing it: apt-get install -y python3-venv"; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv; \
		else \
			echo "$(PYTHON) cannot make a virtual environment; run: sudo apt-get install python3-venv" >&2; exit 1; \
		fi; }
	@$(BIN)/python -c 'import pip' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing audisp and its tools into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,dev,tls]'
	@touch $@

# Shows events as they pass, and forwards them to a collector on loopback; leaves nothing behind.
run: $(STAMP)
	$(BIN)/audispd --observe --collector $(ARGS)

test: $(STAMP)
	$(BIN)/pytest $(ARGS)

# Rooms without I/O, which can be tested to the last branch, and the share of branches and lines that must be.
SANS_IO := $(foreach room,parse buffer wire shapes,$(if $(wildcard tests/$(room)/test_*.py),$(room)))
COVERED := 90
# The process table and the labels are pure, and tested with what they serve.
COVERING := $(SANS_IO:%=tests/%) $(wildcard tests/enrich)

# Style, types, layers, documentation, coverage of the rooms without I/O, and that what is built from here installs and runs.
check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_layers.py tests/test_docs.py
	$(BIN)/pytest -q -n auto --dist loadfile --cov-branch --cov-fail-under=$(COVERED) --cov-report=term $(SANS_IO:%=--cov=audisp.%) --cov=audisp.event $(COVERING)
	$(BIN)/pytest -q -m 'build or not build' tests/test_package.py

# Need root and the audit stream; they put the kernel's audit state back as they found it.
bench: $(STAMP)
	$(BIN)/python -m tests.bench.run $(ARGS)

# Forwarding beside Debian's audisp-remote and auditd; ends with a line `ratio N`. Leaves the kernel's audit alone.
bench-remote: $(STAMP)
	$(BIN)/python -m tests.bench.run remote $(ARGS)

soak: $(STAMP)
	$(BIN)/python -m tests.soak.run $(ARGS)

clean:
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find audisp plugins tests tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
