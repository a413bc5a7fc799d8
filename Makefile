# Every target builds its own virtual environment from nothing and is quick when it is there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEVELOP := $(VENV)/.develop
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test integrations lint types check perf bench clean

help: ## List the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(READY) ## Index the example documents and answer three questions
	@$(BIN)/python examples/demo.py

test: $(DEVELOP) ## Run the test suite
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

integrations: $(VENV)-integrations/.ready ## Test the retrievers for LangChain and LlamaIndex
	@$(VENV)-integrations/bin/python -m pytest tests/test_langchain.py tests/test_llamaindex.py

lint: $(DEVELOP) ## Check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(DEVELOP) ## Check types
	@$(BIN)/mypy

check: test integrations lint types ## All that CI runs

perf: $(DEVELOP) ## Measure speed as ratios against the raw engine and peers (minutes)
	@$(BIN)/python -m pytest tests/perf -o addopts="" -s --benchmark-disable-gc

bench: $(READY) $(VENV)-peers/.ready ## Compare ragkit with its peers in one table (minutes; SIZE=100000x768)
	@PYTHONPATH=tests $(BIN)/python -m perf.yardstick --peers $(VENV)-peers/bin/python $(if $(SIZE),--size $(SIZE))

clean: ## Remove the environment and what tools left
	rm -rf $(VENV) $(VENV)-integrations $(VENV)-peers .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks build dist

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ragkit needs Python 3.11 or later, $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing ragkit and what it needs into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --editable ".[files,local]"
	@touch $@

$(DEVELOP): $(READY)
	@echo "Installing what the tests need ..."
	@$(BIN)/python -m pip install --quiet --editable ".[files,local,dev]"
	@touch $@

$(VENV)-integrations/.ready: pyproject.toml
	@test -x $(VENV)-integrations/bin/python || $(PYTHON) -m venv $(VENV)-integrations
	@echo "Installing ragkit, LangChain and LlamaIndex into $(VENV)-integrations ..."
	@$(VENV)-integrations/bin/python -m pip install --quiet --editable ".[integrations]"
	@touch $@

# One that does not install, for want of a compiler, say, is left out of the table with a line.
$(VENV)-peers/.ready:
	@test -x $(VENV)-peers/bin/python || $(PYTHON) -m venv $(VENV)-peers
	@echo "Installing faiss, hnswlib and LangChain's store for Qdrant into $(VENV)-peers ..." >&2
	@for peer in faiss-cpu hnswlib langchain-qdrant; do \
		$(VENV)-peers/bin/python -m pip install --quiet $$peer || echo "$$peer does not install" >&2; \
	done
	@touch $@
