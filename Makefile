# make demo: the whole chain on this machine, no GPU, no root, no model hub.   make test: all tests.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# torch's CPU build; PyPI's own build for Linux brings gigabytes of CUDA. Give TORCH_INDEX= to take PyPI's.
TORCH  ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: demo test lint bench docs clean

demo: $(VENV)/.ready
	PATH="$(abspath $(BIN)):$$PATH" sh examples/demo.sh

test: $(VENV)/.ready-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: $(VENV)/.ready-dev
	for b in bench/*.py; do $(BIN)/python $$b || exit 1; done

docs: $(VENV)/.ready
	$(BIN)/python -m hyb.cli.reference > docs/commands.md

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install -q --retries 1 $(TORCH) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) || $(BIN)/pip install -q $(TORCH)
	touch $@

$(VENV)/.ready: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install -q -e '.[tune,serve]'
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/pip install -q -e '.[tune,serve,dev]'
	touch $@

clean:
	rm -rf $(VENV) .demo
