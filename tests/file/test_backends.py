"""Files go from one backend to another and back: `make test` has every pair, since it runs this on each backend."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from models import UNTRACED

from lqs.conversion import quantize
from lqs.file.saving import load, save
from lqs.inspection import model_integers, quantized_parameters, to_numpy
from lqs.methods.min_max import min_max
from lqs.methods.stochastic_rounding import StochasticRounding
from lqs.penalties import CodeLengthPenalty
from lqs.quantizer import NestedQuantization
from lqs.rules import StraightThrough

L = keras.layers
ROOT = Path(__file__).resolve().parents[2]
BACKENDS = ["tensorflow", "jax", "torch"]
KINDS = ["bare", "compiled"]
# Python with the backends that this one lacks.
OTHER_PYTHON = os.environ.get("LQS_OTHER_PYTHON")

# Run in a folder with files: loads them, saves them again, trains, and saves what has been trained.
PROGRAM = f"""
import keras, numpy as np, lqs
from lqs.inspection import model_integers

x = np.load("x.npy")
for kind in {KINDS}:
    model = lqs.load(kind + ".lqs")
    np.savez(kind + ".npz", model.predict(x, verbose=0), *model_integers(model).values())
    lqs.save(model, kind + "-again.lqs")
    if kind == "compiled":
        model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=keras.backend.backend() != "jax")
        model.fit(x, np.ones((len(x), 3)), verbose=0)
        lqs.save(model, kind + "-trained.lqs")
        np.savez(kind + "-trained.npz", model.predict(x, verbose=0), *model_integers(model).values())
"""


def python_with(backend):
    """Return the path of a Python that has a backend, or skip the test."""
    if importlib.util.find_spec(backend):
        return sys.executable
    if OTHER_PYTHON is None:
        pytest.skip(f"this Python has no {backend}: set LQS_OTHER_PYTHON to the path of one that has")
    return OTHER_PYTHON


def network():
    """Return a network with scales learned by their logarithms, measured ones, moving statistics and random numbers."""
    prototype = NestedQuantization(
        "row", StraightThrough(), CodeLengthPenalty(1e-3), "nearest", initial_scale=0.05, parametrization="log"
    )
    inputs = keras.Input((12,))
    hidden = L.BatchNormalization()(L.Dense(8, activation="relu")(inputs))
    model = quantize(keras.Model(inputs, L.Dense(3)(L.Dropout(0.1)(hidden))), prototype, min_max(4))
    model.compile("sgd", "mse")  # also the one inside
    last = NestedQuantization(rounding=StochasticRounding(), initial_scale=0.02)
    return quantize(keras.Sequential([model, L.Dense(3)]), last, None)


def trained(model, x):
    model.compile(keras.optimizers.Adam(0.01), "mse", **UNTRACED)
    model.fit(x, np.ones((len(x), 3)), verbose=0)
    return model


def assert_is_as_found(model, x, path):
    """Assert that integers are those that another process found, and predictions are within rounding."""
    with np.load(path) as archive:
        predictions, *integers = archive.values()
    np.testing.assert_allclose(model.predict(x, verbose=0), predictions, rtol=1e-5, atol=2e-6)
    for ours, theirs in zip(model_integers(model).values(), integers, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("other", [backend for backend in BACKENDS if backend != keras.backend.backend()])
def test_there_and_back(other, rng, tmp_path):
    """Also a model that is compiled, whose `.keras` file names a module of the backend, has the same bytes there."""
    python, x = python_with(other), rng.normal(size=(64, 12)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    models = {"bare": network(), "compiled": trained(network(), x)}
    for kind, model in models.items():
        save(model, tmp_path / f"{kind}.lqs")
    environment = {**os.environ, "KERAS_BACKEND": other, "PYTHONPATH": str(ROOT)}
    environment.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # quicker to compile
    done = subprocess.run([python, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for kind, model in models.items():
        assert_is_as_found(model, x, tmp_path / f"{kind}.npz")
        assert (tmp_path / f"{kind}-again.lqs").read_bytes() == (tmp_path / f"{kind}.lqs").read_bytes()
    back = load(tmp_path / "compiled-trained.lqs")
    assert_is_as_found(back, x, tmp_path / "compiled-trained.npz")
    trained(back, x)
    scales = [to_numpy(quantizer.scale) for _, quantizer in quantized_parameters(back)]
    assert all(np.all(np.isfinite(scale) & (scale > 0)) for scale in scales)
