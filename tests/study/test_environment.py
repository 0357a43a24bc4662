"""Tests of `study.environment`: what a record names, and what asking for it takes."""

import os
import shutil
import subprocess
import sys

import keras
import numpy as np

import lqs
from study import environment as module
from study.environment import RECORDS_VERSION, environment


def test_environment_names_what_it_ran_on():
    found = environment()
    assert found["keras_version"] == keras.__version__ and found["numpy_version"] == np.__version__
    assert found["lqs_version"] == lqs.__version__ and found["records_version"] == RECORDS_VERSION
    assert found["device"].endswith("cpu")
    assert 1 <= found["cpus"] <= os.cpu_count()
    assert found["commit"] is None or len(found["commit"].removesuffix("-dirty")) == 40


def test_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(module, "PACKAGES", ("keras", "no-such-package"))
    assert environment()["no-such-package_version"] is None


def test_no_commit_without_git(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    module._commit.cache_clear()
    assert environment()["commit"] is None
    module._commit.cache_clear()


def test_paths_of_records_need_no_backend():
    """Snakemake asks for them before every command, and once more for each job on a cluster."""
    heavy = ("keras", "tensorflow", "jax", "pandas")
    code = "import sys, study.configs, study.grid, study.records, study.environment; study.grid.read_grid(); "
    code += f"print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
