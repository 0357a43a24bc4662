"""What `make` runs, without make, flock and a POSIX shell: `python -m study figures`, `test` or `book`.

It uses the Python that it is started with, into which `requirements.txt` and the project have been installed.
"""

import os
import subprocess
import sys
from functools import partial

import click

from study.paths import EXECUTED, NOTEBOOKS, ROOT

QUICK_TO_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
BOTH = ("tests/lqs", "tests/file", "tests/methods", "tests/compression")  # the tests that compute on a backend
PYTEST = ("pytest", "-q", "-n", "2", "--dist=worksteal")
NBVAL = ("pytest", "-q", "-n", "2", "--dist=loadfile", "--no-loadscope-reorder", "--nbval", "--nbval-current-env")


@click.group(help="Run what make runs, on any operating system.")
def commands():
    """Group of the commands."""


@commands.command()
def figures():
    """Execute every notebook, one after the other: all figures, from the run records."""
    EXECUTED.mkdir(parents=True, exist_ok=True)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        run("papermill", path, EXECUTED / path.name, "--cwd", NOTEBOOKS, "--no-progress-bar")


@commands.command()
@click.option("--slow", is_flag=True, help="Also what takes many seconds each: make test SLOW=1.")
def test(slow):
    """Run lint, types, tests on TensorFlow and JAX, doctests and every notebook."""
    on_each, on_jax = ("not once", "") if slow else ("not once and not slow", "not slow and not long_on_jax")
    one_core = partial(run, OMP_NUM_THREADS="1", TF_NUM_INTRAOP_THREADS="1")
    one_core("ruff", "check", ".")
    one_core("ruff", "format", "--check", ".")
    one_core("mypy")
    one_core(*PYTEST, "-m", on_each, *BOTH, MPLBACKEND="Agg", KERAS_BACKEND="tensorflow")
    jax = {"MPLBACKEND": "Agg", "KERAS_BACKEND": "jax", "XLA_FLAGS": QUICK_TO_COMPILE}
    one_core(*PYTEST, "-m", on_jax, "--doctest-modules", "tests", "lqs", "study", **jax)
    notebooks = [path.relative_to(ROOT) for path in sorted(NOTEBOOKS.glob("*.ipynb"), reverse=True)]
    one_core(*NBVAL, "--nbval-sanitize-with", "tests/nbval_sanitize.cfg", *notebooks, LQS_FIGURES="")


@commands.command()
def book():
    """Build the site from notebooks, texts and docstrings into build/book/html."""
    one_core = partial(run, KERAS_BACKEND="jax", OMP_NUM_THREADS="1", XLA_FLAGS=QUICK_TO_COMPILE)
    one_core("study.book")
    folders = ("-d", "build/book/doctrees", "build/book/source", "build/book/html")
    one_core("sphinx", "-W", "--keep-going", "--quiet", "-c", "docs", *folders)


def run(module, /, *arguments, **variables):
    """Run a module of this Python in the root of the checkout; end with its exit code if that is not 0."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT), **variables}
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    commands(prog_name="python -m study")
