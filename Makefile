# make demo and make test do all their set-up themselves, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# what the tests need beside the package, at any version
LOWEST_TOOLS := 'hypothesis>=6' import-linter psutil 'pytest>=8' pytest-cov pytest-xdist 'setuptools>=77' 'SimpleITK>=2.4'

# one process of tests a core: more threads would only wait for each other
test coverage faults lowest: export OMP_NUM_THREADS := 1

.PHONY: demo test test-ui coverage faults lowest lint bench docs setup clean
demo: $(READY)  ## simulate, train, fit, evaluate, report: in nine minutes
	$(BIN)/alan demo
test: $(READY)  ## the test suite
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)
test-ui: $(READY)  ## the page of alan ui in Chromium
	$(BIN)/python -m pytest -m ui $(PYTEST_ARGS) tests/app
coverage: $(READY)  ## the test suite, with the share of lines that it runs
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered $(PYTEST_ARGS)
faults: $(READY)  ## the long campaign of damaged files, kills and other faults
	$(BIN)/python -m pytest -m faults -n auto --dist loadgroup $(PYTEST_ARGS) tests/faults tests/cli/test_resume.py tests/cli/test_distributed.py
lowest: $(READY)  ## the test suite with the lowest versions that pyproject.toml allows
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-lowest
	$(BIN)/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable '.[dicom,onnx,search,postgresql,supervised,tensorboard,ui]'
	$(BIN)/uv pip install --quiet --python .venv-lowest/bin/python $(LOWEST_TOOLS)
	.venv-lowest/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)
lint: $(READY)  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
bench: $(READY)  ## benchmarks: ratios against a named reference
	for f in tests/benchmarks/bench_*.py; do $(BIN)/python $$f || exit 1; done
docs: $(READY)  ## HTML documentation into docs/_build/html, warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html
setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -q alan
	touch $@
clean:
	rm -rf $(VENV) .venv-lowest docs/_build .mypy_cache .ruff_cache .import_linter_cache
