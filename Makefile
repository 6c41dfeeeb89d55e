# Every target works on a bare machine with Python 3.11+ and make: it makes .venv first.
PYTHON ?= python3
BIN := .venv/bin
ENV := $(BIN)/.installed
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(ENV): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[demo,dev]"
	@touch $@

install: $(ENV)  ## make .venv with everything in it

demo: $(ENV)  ## run the flights pipeline on all 336,776 flights
	@$(BIN)/mlw run flights

test: $(ENV)  ## everything that is tested: notebooks, package with coverage, integration, import rule
	@$(BIN)/nbdev-test
	@rm -f .coverage .coverage.*
	@COVERAGE_PROCESS_START=pyproject.toml $(BIN)/coverage run -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report
	@$(BIN)/lint-imports --no-cache

chaos: $(ENV)  ## 100 kills at random instants, 20 pairs of runs at once, 10 killed workers
	@CHAOS_ROUNDS=100 $(BIN)/python -m pytest -q -s tests/integration/test_chaos.py tests/integration/test_cluster.py

soak-serving: $(ENV)  ## 30 kills under load, 100,000 requests while the champion changes 20 times, 10,000 broken requests, KServe's clients
	@KSERVE=1 PYTHONPATH=benchmarks KILLS=30 SWAPS=20 REQUESTS=100000 CONNECTIONS=16 MUTATIONS=10000 EXAMPLES=500 $(BIN)/python -m pytest -q -s tests/integration/test_serving.py

bench-engine: $(ENV)  ## how fast the engine is beside papermill, ploomber and dagstermill
	@$(BIN)/python benchmarks/engine.py

bench-data: $(ENV)  ## how fast tables are checked, profiled and joined beside other tools
	@$(BIN)/python benchmarks/data.py

bench-tuning: $(ENV)  ## whether a search beats a default model on flights, and how long it takes
	@$(BIN)/python benchmarks/tuning.py

bench-serving: $(ENV)  ## how fast models are served, beside MLflow and a bare server
	@$(BIN)/python benchmarks/serving.py

pictures: $(ENV)  ## pictures of every page, for the README
	@$(BIN)/python docs/pictures.py

bench-dashboards: $(ENV)  ## how soon dashboards show something, beside plain Voila
	@$(BIN)/python benchmarks/dashboards.py

bench-monitoring: $(ENV)  ## how fast drift is found and performance estimated, beside Evidently and NannyML
	@$(BIN)/python benchmarks/monitoring.py

check: $(ENV)  ## what a commit must pass: clean, export without a diff, lint, test
	@$(BIN)/nbdev-clean
	@$(BIN)/nbdev-export
	@git diff --exit-code -- mlworkbench tests nbs || { echo "nbdev-clean or nbdev-export changed files: look, and commit them."; exit 1; }
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory test

lab: $(ENV)  ## open JupyterLab
	@$(BIN)/mlw lab

dashboards: $(ENV)  ## open the Voila pages
	@$(BIN)/mlw dashboards

.PHONY: help install demo test chaos soak-serving bench-engine bench-data bench-tuning bench-serving bench-dashboards bench-monitoring pictures check lab dashboards
