"""The wheel, as a user gets it: what it holds, and that it works away from the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

SMOKE = """
import keras
import numpy as np

import lqs

rng = np.random.default_rng(0)
x, y = rng.normal(size=(64, 4)).astype("float32"), rng.integers(3, size=64)
prototype = lqs.NestedQuantization("row", lqs.StraightThrough(), initial_scale=0.01)
model = lqs.quantize(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), kernel=prototype)
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(x, y, verbose=0)
lqs.save(model, "model.lqs")
np.testing.assert_array_equal(lqs.load("model.lqs").predict(x, verbose=0), model.predict(x, verbose=0))
print(lqs.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Path of a wheel, built away from the checkout, where an older build may have left its files."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "lqs", folder / "source/lqs")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    options = ["-q", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, folder / "source"], check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Function that runs Python in a fresh environment, which has the wheel, and after it the dependencies of ours."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel]
    subprocess.run(command, check=True)
    # A line of a .pth file adds a folder to the path, but the .pth files in it are not read: one names the checkout.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}

    def run(code, *arguments):
        command = [folder / "bin/python", "-c", code, *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="module")
def installed(run):
    """Path of the package that made `model.lqs` in the fresh environment."""
    return Path(run(SMOKE).strip())


def test_wheel_holds_the_library_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    sources = [path for path in (ROOT / "lqs").rglob("*") if path.suffix in {".py", ".dict", ".typed"}]
    assert {name for name in names if ".dist-info/" not in name} == {str(path.relative_to(ROOT)) for path in sources}


@pytest.mark.slow
def test_quantize_fit_save_load(installed):
    assert installed.name == "__init__.py" and ROOT not in installed.parents


@pytest.mark.slow
def test_info(run, installed):
    assert run("from lqs.cli import main; main()", "info", "model.lqs").startswith("Sequential of ")


def test_study_is_not_installed(run):
    assert run("import importlib.util; print(importlib.util.find_spec('study'))").strip() == "None"


@pytest.mark.slow
def test_reader_needs_numpy_alone(run, installed):
    code = """
import sys

for name in ("click", "constriction", "jax", "keras", "ml_dtypes", "pandas", "tensorflow", "torch"):
    sys.modules[name] = None  # its import fails

from lqs.file.reader import read

print(read("model.lqs")[0]["class_name"])
"""
    assert run(code) == "Sequential\n"
