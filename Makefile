# make repro      set up the environment and run the pipeline
# make test       set up the environment and run the tests
# make ui         MLflow's UI on http://127.0.0.1:5000
# make dashboard  Optuna's dashboard on http://127.0.0.1:8080
# make experiments  metrics and changed parameters of the DVC experiments
# make clean      remove everything that the stages and tools can regenerate
# make distclean  make clean, and remove .venv
# GPU=1 installs TensorFlow with its CUDA libraries.

PYTHON ?= python3
VENV := .venv
LOCK := $(if $(GPU),requirements-gpu.lock,requirements.lock)
PORT ?= 5000
DASHBOARD_PORT ?= 8080

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION := false

.PHONY: repro install test test-all lint ui dashboard experiments clean distclean lock

# Check params.yaml first: our error messages are better than DVC's.
repro: install
	@cyclegan params > /dev/null
	dvc repro

# Each lock file has its own stamp, so that GPU=1 after a setup without it installs the missing packages.
install: $(VENV)/installed-$(LOCK)

$(VENV)/installed-$(LOCK): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else \
	    f"Python {v[0]}.{v[1]} is not supported, only 3.11 to 3.13; run make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	pip install --quiet --require-hashes --requirement $(LOCK)
	pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

test: install
	pytest

test-all: install
	pytest -m ""

lint: install
	ruff check
	ruff format --check
	mypy

ui: install
	@test -f mlruns/mlflow.db || { echo "mlruns/mlflow.db: no runs yet; run make repro first"; exit 2; }
	@cyclegan runs --link http://127.0.0.1:$(PORT) | sed 's/^/Open /'
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --host 127.0.0.1 --port $(PORT) --workers 1 \
	    --backend-store-uri sqlite:///mlruns/mlflow.db \
	    --default-artifact-root "$$(python -c 'from pathlib import Path; print(Path("mlruns/artifacts").absolute().as_uri())')"

# STORAGE=URL shows the studies of a database. The dashboard has no login, so it serves this machine only.
dashboard: install
	@test -n "$(STORAGE)" -o -f .search/journal.log || { echo ".search/journal.log: no search yet; run dvc exp run -S search.trials=20 first"; exit 2; }
	optuna-dashboard --host 127.0.0.1 --port $(DASHBOARD_PORT) "$(or $(STORAGE),.search/journal.log)"

# Metrics, and parameters that differ. Names with a slash are files, and the metrics of the baseline are always equal.
experiments: install
	dvc exp show --no-pager --only-changed --keep '(AtoB|BtoA)\.(psnr|kid|acc)$$' --drop 'Created|.*/|.*_se$$|.*ssim$$'

clean:
	git clean -fdXq -- models reports data/raw data/split .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "kept: tracked files, .venv, checkpoints, mlruns, .search, data/downloads, .dvc/cache (dvc checkout restores outputs)"

distclean: clean
	rm -rf $(VENV)

# Regenerate the lock files (needs uv). The container image needs no tools for tests, so it has lock files of its own.
# On a CPU it takes tensorflow-cpu, the same code in half the size. It provides what `tensorflow` does under another name.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-header --generate-hashes pyproject.toml
lock:
	$(COMPILE) --extra dev --output-file requirements.lock
	$(COMPILE) --extra dev --extra gpu --output-file requirements-gpu.lock
	echo 'tensorflow-cpu==$(shell sed -n "s/^tensorflow==\([^ ;]*\).*/\1/p" requirements.lock)' | $(COMPILE) - --extra build --extra team --constraint requirements.lock --no-emit-package tensorflow --output-file requirements-runtime.lock
	$(COMPILE) --extra build --extra team --extra gpu --constraint requirements-gpu.lock --output-file requirements-runtime-gpu.lock
