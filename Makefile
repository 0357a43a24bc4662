# Everything that the README asks for. Needs Python 3.11 to 3.13, make and flock; the rest goes into .venv.

PYTHON ?= python3
CORES ?= 2

STAMP := .venv/.installed
# Those that train are not among the first few: begun in reverse, two processes end together.
NOTEBOOKS := $(shell ls -r notebooks/*.ipynb 2>/dev/null)
PYTEST := pytest -q -n 2 --dist=worksteal
# The rooms that compute on a backend. What does not depend on it, or takes long, has the mark `once`: it runs on JAX alone.
BOTH := tests/lqs tests/file tests/methods tests/compression
# `make test SLOW=1`, as continuous integration does, runs those with the mark `slow` too: batches that are killed, a browser,
# other processes, other devices; and on JAX those with `long_on_jax`, which compile for seconds there.
ON_EACH := $(if $(SLOW),not once,not once and not slow)
ON_JAX := $(if $(SLOW),,not slow and not long_on_jax)
# PyTorch is not among the locked packages: it has its part where it is installed in .venv.
BACKENDS ?= tensorflow jax $(shell .venv/bin/python -c 'import importlib.util as u; print("torch" * bool(u.find_spec("torch")))')
# On JAX the tests spend most of their time compiling what runs for milliseconds: less of LLVM takes a quarter off.
QUICK_TO_COMPILE := --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true
# Its other options: notebooks/profiles/default. After kill -9 Snakemake's own lock stays, and so do the jobs, which hold
# .run.lock until they end: only then may the next run unlock.
SNAKEMAKE := snakemake --snakefile notebooks/Snakefile --directory . --cores $(CORES)

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export TF_CPP_MIN_LOG_LEVEL = 3
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_USE_PEP517 = 1
# Where HOME is read-only: pip, Snakemake, Jupyter and matplotlib keep their caches here.
ifeq ($(shell [ -w "$${HOME:-/}" ] && echo yes),)
export HOME := $(CURDIR)/.venv/home
endif

.PHONY: help figures runs test play book mutants bench lab clean
.DELETE_ON_ERROR:

help:  ## print this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

figures: AGAIN := --forcerun notebook  # after the target, which it would take for one more rule
figures: $(STAMP)  ## execute every notebook: all figures, from the run records
runs: $(STAMP)  ## train what the grid lacks, but the batches for a GPU
figures runs:
	@flock --nonblock .run.lock true || echo "Another run holds .run.lock; waiting for it to end."
	@flock .run.lock sh -c 'ls .snakemake/locks/* >/dev/null 2>&1 && $(SNAKEMAKE) --unlock >/dev/null 2>&1; exec $(SNAKEMAKE) $@ $(AGAIN)'

test: export OMP_NUM_THREADS = 1
test: export TF_NUM_INTRAOP_THREADS = 1
test: $(STAMP)  ## lint, types, tests on TensorFlow, JAX and, if installed, PyTorch, doctests, every notebook; SLOW=1: all tests
	ruff check .
	ruff format --check .
	mypy
	$(if $(filter tensorflow,$(BACKENDS)),MPLBACKEND=Agg KERAS_BACKEND=tensorflow $(PYTEST) -m "$(ON_EACH)" $(BOTH))
	$(if $(filter torch,$(BACKENDS)),MPLBACKEND=Agg KERAS_BACKEND=torch $(PYTEST) -m "$(ON_EACH)" $(BOTH), \
	    @echo "Left out: tests on PyTorch. Install it into .venv, or choose by make test BACKENDS=\"tensorflow jax torch\".")
	$(if $(filter jax,$(BACKENDS)),MPLBACKEND=Agg KERAS_BACKEND=jax XLA_FLAGS="$(QUICK_TO_COMPILE)" $(PYTEST) -m "$(ON_JAX)" --doctest-modules tests lqs study)
	LQS_FIGURES= pytest -q -n 2 --dist=loadfile --no-loadscope-reorder --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg $(NOTEBOOKS)

play: $(STAMP)  ## run every notebook with other parameters than its own, in a scratch folder
	LQS_PLAY=1 pytest -q -n 2 --dist=worksteal tests/study/test_play.py

book: export KERAS_BACKEND = jax
book: export OMP_NUM_THREADS = 1
book: export XLA_FLAGS = $(QUICK_TO_COMPILE)
book: $(STAMP)  ## build the site from notebooks, texts and docstrings, without a network: build/book/html/index.html
	python -m study.book
	PYTHONPATH=. sphinx-build -W --keep-going --quiet -c docs -d build/book/doctrees build/book/source build/book/html

mutants: export OMP_NUM_THREADS = 1
mutants: $(STAMP)  ## change the library here and there: which changes do its tests not notice?
	python benchmarks/mutants.py

bench: $(STAMP)  ## measure speed into benchmarks/results.md, which is committed: on an idle machine, seven minutes
	sh benchmarks/all.sh > benchmarks/results.tmp && mv benchmarks/results.tmp benchmarks/results.md

lab: $(STAMP)  ## open the notebooks in JupyterLab
	jupyter lab notebooks

clean:  ## remove .venv and all caches; data and figures stay
	rm -rf .venv .snakemake .run.lock .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info build
	find . -name __pycache__ -prune -exec rm -rf {} +

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	    { echo "lqs needs Python 3.11 to 3.13 as $(PYTHON); name another: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$(PYTHON) cannot make virtual environments: on Debian and Ubuntu, apt install python3-venv"; exit 1; }
	@echo "Installing into .venv (once: nearly 1 GB to download, some minutes)"
	@$(PYTHON) -m venv --clear .venv
	@.venv/bin/pip install --quiet --require-hashes -r requirements.txt
	@.venv/bin/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
