# Every target sets itself up in .venv; nothing is reinstalled unless pyproject.toml or constraints.txt changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# A worker for each core, a test file at a time. ORDER= shuffles the tests.
ORDER ?= -p no:randomly
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --durations 20 $(ORDER)

.PHONY: demo test test-long test-browser test-notebooks test-all check bench page docs wheel clean

demo: $(READY)
	$(BIN)/fxquant demo

test: $(READY)
	$(PYTEST) -m 'not long and not browser and not notebook'

test-long: $(READY)
	$(PYTEST) -m long

# Needs Chromium and its driver, in Debian the packages chromium and chromium-driver. The pictures in docs/images are made here.
test-browser: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[browser]'
	$(BIN)/python -m pytest -m browser tests/inspection

# The notebooks of examples/, from the first cell to the last. None is skipped: what it imports is installed here.
test-notebooks: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[notebooks,hf,real]'
	$(BIN)/python -m pytest -m notebook --durations 8 tests/examples

test-all: test test-long

# The site, in build/site. A page that is in no menu and a link that leads nowhere are errors.
docs: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m bench.latency

# The script and the style of the pages of fxquant.inspect, which are kept in the repository. Needs Node.js.
page:
	cd web && npm ci --ignore-scripts && npm run build

# dist/fxquant-*.whl, with the kernels for all instruction sets in it: it needs no compiler where it is installed.
wheel: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[wheel]'
	rm -rf build/wheel
	FXQUANT_BUILD_KERNELS=1 $(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/wheel .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist --exclude 'libtorch*.so' --exclude libc10.so build/wheel/*.whl

clean:
	rm -rf $(VENV)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[demo,plot,serve,test,dev]'
	touch $@
