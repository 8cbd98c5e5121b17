# Everything runs in .venv, made from requirements.lock on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test test-all check check-all audit bench docs format lock clean

help:
	@echo "make demo      set up, and run every stage on the built-in dataset"
	@echo "make test      set up, and run the tests"
	@echo "make test-all  the slow tests too"
	@echo "make check     ruff (format, lint) and mypy"
	@echo "make check-all check, and look for known vulnerabilities in both locks (make audit)"
	@echo "make bench     the benchmarks, a table each; make bench FULL=1 at full size"
	@echo "make docs      docs/reference.md, from the code"
	@echo "make format    ruff format, and the lint fixes that are safe"
	@echo "make lock      pin the newest versions that pyproject.toml allows"
	@echo "make clean     remove .venv and work/"

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "raycap needs Python 3.11 or newer; say which with make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)
	$(BIN)/raycap demo

test: $(READY)
	$(BIN)/python -m pytest -m "not slow"

test-all: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks

check-all: check audit

# --strict: a package that could not be looked up is an error
audit: $(READY)
	@$(BIN)/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
		-r requirements.lock -r requirements-gpu.lock || { \
		echo "make audit failed: either packages above have known vulnerabilities, or the vulnerability service did not"; \
		echo "answer for all of them, and then nothing is known. It needs the JSON API of pypi.org, per version."; \
		exit 1; }

bench: $(READY)
	@for each in scores decode train train_workers extract caption_stages caption_listing caption_scale growth; do \
		$(BIN)/python benchmarks/$$each.py $(if $(FULL),--full) || exit 1; done

docs: $(READY)
	$(BIN)/python docs/make_reference.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# needs uv; no index address goes into the locks. A cluster's nodes install the second, held to the versions of the first
COMPILE := uv pip compile pyproject.toml --universal --python-version 3.11 --upgrade --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header -q
lock:
	$(COMPILE) --extra cpu --group dev -o requirements.lock
	$(COMPILE) --extra gpu --extra serve --group cluster --constraints requirements.lock -o requirements-gpu.lock

clean:
	rm -rf $(VENV) work
