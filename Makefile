# Every target makes the virtual environment it needs and installs into it; a second run starts at once.
#
#   make setup SYSTEM_TORCH=1          use the torch already installed for $(PYTHON), install none
#   make setup TORCH_ARGS="..."        more arguments for `pip install torch`: on a machine without a
#                                      GPU, the index of PyTorch's CPU builds saves several GB
#   make setup PYTHON=python3.12       another interpreter (3.11 or newer)

PYTHON ?= python3
VENV ?= .venv
PINNED_TORCH := torch==2.13.0
TORCH ?= $(PINNED_TORCH)
TORCH_ARGS ?=
SYSTEM_TORCH ?= 0
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
CODE := megabert data_tools launch tests benchmarks setup.py

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench clean

help:
	@echo "make setup   make $(VENV) and install megabert"
	@echo "make demo    the whole pipeline on a generated sample: dump, shards, pretraining, SQuAD score"
	@echo "make test    the test suite (no slow and no GPU tests)"
	@echo "make lint    ruff and mypy"
	@echo "make bench   the benchmarks, at a size that fits this machine"

$(VENV)/.torch:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "megabert needs Python 3.11 or newer: make PYTHON=...")'
ifeq ($(SYSTEM_TORCH),1)
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/python -c 'import torch; print("using torch", torch.__version__, "of the system")'
else
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH_ARGS) "$(TORCH)"
endif
	$(PIP) "setuptools>=68,<81" wheel packaging ninja
	@touch $@

# DeepSpeed's own set-up looks at the installed torch, so nothing is built in isolation.
$(VENV)/.installed: $(VENV)/.torch setup.py constraints.txt
ifneq ($(SYSTEM_TORCH)$(TORCH),0$(PINNED_TORCH))
	grep -vE '^(torch|triton)==' constraints.txt > $(VENV)/constraints.txt
else
	cp constraints.txt $(VENV)/constraints.txt
endif
	$(PIP) --no-build-isolation -c $(VENV)/constraints.txt -e .
	@touch $@

$(VENV)/.test: $(VENV)/.installed
	$(PIP) --no-build-isolation -c $(VENV)/constraints.txt -e '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) --no-build-isolation -c $(VENV)/constraints.txt -e '.[test,dev]'
	@touch $@

setup: $(VENV)/.installed

demo: $(VENV)/.installed
	PATH="$(abspath $(BIN)):$$PATH" bash launch/wiki_to_squad.sh

test: $(VENV)/.test
	PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu" --durations 15 $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy megabert data_tools

bench: $(VENV)/.test
	PATH="$(abspath $(BIN)):$$PATH" bash benchmarks/run.sh

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
