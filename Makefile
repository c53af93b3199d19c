# Every target makes .venv by itself. PYTHON names the interpreter (3.11 or newer) it is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help venv demo test check matrix gpu-check format wheel data constraints system clean

help: ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## Make .venv with everything in it

# torch goes first and alone: a plain requirement of another package could pull in a build of several gigabytes.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than Python 3.11; run make PYTHON=python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --editable '.[all,dev]' --constraint constraints.txt
	@touch $@

demo: $(STAMP) ## Train, compress, export, verify and bench a small model into runs/demo
	$(BIN)/dmedge demo

# One worker more than cores: a test that waits for a browser, a board or a runtime leaves its core idle.
test: $(STAMP) system ## Run every test, real runtimes included, on all cores
	$(BIN)/python -m pytest -m 'not thorough' --numprocesses $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: $(STAMP) ## Run formatting, lint, types, layers and the fast tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m 'not slow and not thorough' $(PYTEST_ARGS)

matrix: $(STAMP) system ## Run the thorough tests, export every kind of checkpoint for every target, prove each bundle
	$(BIN)/python -m pytest -m thorough
	$(BIN)/python tools/matrix.py --out runs/matrix

gpu-check: $(STAMP) ## Prove mixed precision, sharding and memory on a CUDA GPU
	$(BIN)/python tools/gpu_check.py --out runs/gpu-check.json

format: $(STAMP) ## Rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: $(STAMP) ## Build the wheel into dist/
	rm -rf build # what an earlier build left there would be packed again
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

data: $(STAMP) ## Build the embedded emoji pack again from its pinned sources
	$(BIN)/python tools/build_emoji_pack.py

constraints: $(STAMP) ## Write the installed versions into constraints.txt
	$(BIN)/python tools/constraints.py > constraints.txt.new
	mv constraints.txt.new constraints.txt

system: ## Install the Debian packages that some tests need (as root)
	@sh tools/system_packages.sh

clean: ## Remove what was built; runs/ and .venv stay
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .coverage
	find dmedge training compress export tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
