# `make demo` and `make test` set everything up on a machine that has Python >= 3.11, pip and g++.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
WORKERS ?= 2

.PHONY: help demo test check lint format install bench coverage fuzz clean

help:            ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: $(VENV)/.installed   ## optimise a real network, lower it to ONNX Runtime, print the report
	$(BIN)/graphopt optimize torchvision:resnet50 --passes lossless --target onnxruntime --bench --output out/resnet50

test: $(VENV)/.installed   ## run the tests
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup

check: lint test           ## everything that CI runs

lint: $(VENV)/.installed   ## format, lint, types, import direction
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports --config .importlinter

format: $(VENV)/.installed ## rewrite the files as ruff wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml .ci/constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint .ci/constraints.txt --editable '.[dev,bench]'
	touch $@

bench: $(VENV)/.installed  ## compare with onnxslim and onnxsim on 20 models (about five minutes)
	$(BIN)/python -m tools.bench_lossless

coverage: $(VENV)/.installed ## all models of the zoo through the whole pipeline (about 40 minutes)
	$(BIN)/python -m tools.coverage

fuzz: $(VENV)/.installed   ## malformed IR text, 100,000 mutants
	$(BIN)/python -m tools.fuzz_text --count 100000

clean:
	rm -rf $(VENV) out build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
