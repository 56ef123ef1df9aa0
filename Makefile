# Everything here does its own set-up; see CONTRIBUTING.md.
# PYTHON=python3.13 makes and uses an environment of its own beside .venv.

ifdef PYTHON
VENV := .venv-$(notdir $(PYTHON))
export PYTHON
else
VENV := .venv
endif
BIN := $(VENV)/bin

.PHONY: help run test check bench measure venv dev peers clean

help:
	@echo "make run    a gateway, an agent and a sample service; prints the public URL"
	@echo "make test   all tests, with the peers they need"
	@echo "make check  format, lint, types, layers, dependencies"
	@echo "make bench  side by side with nginx, HAProxy and OpenSSH"
	@echo "make venv   only $(BIN)/moongate"

run: venv
	@exec $(BIN)/moongate demo

test: dev peers
	@$(BIN)/python -m pytest $(ARGS)

check: dev
	@$(BIN)/nox --session format lint types layers audit

# The peers are the distribution's builds, so its Python is measured too, unless PYTHON says otherwise.
bench:
	@$(MAKE) --no-print-directory measure PYTHON=$(firstword $(PYTHON) $(wildcard /usr/bin/python3) python3)

measure: dev peers
	@cd tests && ../$(BIN)/python -m bench $(ARGS)

venv: $(BIN)/moongate

dev: $(VENV)/.dev-ready

$(BIN)/moongate: uv.lock pyproject.toml
	@scripts/set-up $(VENV)

$(VENV)/.dev-ready: uv.lock pyproject.toml
	@scripts/set-up $(VENV) --dev

peers:
	@scripts/install-peers

clean:
	rm -rf .venv .venv-* .nox .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
