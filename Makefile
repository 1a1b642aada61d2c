# The targets people meet; `make help` lists them.
VENV   := .venv
PYTHON := $(VENV)/bin/python
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := $(VENV)

.PHONY: help setup test check
help:   ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready   ## a virtual environment from the lock file, with the system's Python

$(VENV)/.ready: uv.lock pyproject.toml
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv sync --quiet --frozen --all-groups --inexact --python $(VENV)/bin/python
	touch $@

check: setup   ## format, lint, types, import contracts
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

test: check   ## everything that shows the project works
	$(PYTHON) -m pytest -q -n 2
