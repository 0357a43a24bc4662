"""Tests of `lqs.file.configuration`: files do not depend on where a class stands, and have no code in them."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from lqs.conversion import quantize
from lqs.file import reader, writer
from lqs.file.configuration import configuration_of, model_of
from lqs.file.layout import FLOATS
from lqs.file.reader import parse_header, read, section_lengths
from lqs.file.saving import encode_model, load, pack_model, save
from lqs.inspection import model_integers
from lqs.methods.stochastic_rounding import StochasticRounding
from lqs.penalties import CodeLengthPenalty, MaxBinPenalty
from lqs.quantizer import NestedQuantization
from lqs.rules import GradientRatio, StraightThrough

L = keras.layers
MODELS = Path(__file__).parents[2] / "data" / "models"
KEPT = ("name", "shape", "dtype", "min", "max", "scale")  # in every order of the axes
FILES = [  # the large ones take seconds each
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stat().st_size > 80_000 else [])
    for path in sorted(MODELS.rglob("*.lqs"))
]


def parts(configuration):
    """Yield every dictionary inside a configuration that describes an object."""
    if isinstance(configuration, dict):
        if "class_name" in configuration:
            yield configuration
        for value in configuration.values():
            yield from parts(value)
    elif isinstance(configuration, list):
        for value in configuration:
            yield from parts(value)


def ours(configuration):
    return [part for part in parts(configuration) if str(part.get("registered_name")).startswith("lqs>")]


@pytest.fixture
def model():
    """Return a functional model with another one inside, layers of `lqs` at every depth."""
    inner = keras.Sequential([keras.Input((4,)), L.Dense(4), L.LeakyReLU()], name="inner")
    x = keras.Input((4,))
    model = keras.Model(x, L.Dense(2)(inner(L.Dense(4, activation="relu")(x))))
    kernel = NestedQuantization("row", StraightThrough(), CodeLengthPenalty(0.1), StochasticRounding(seed=3))
    return quantize(model, kernel, NestedQuantization("scalar", GradientRatio(1e-9), MaxBinPenalty(1e-3)))


def test_modules_of_lqs_are_left_out(model):
    configuration = configuration_of(model)
    assert len(ours(configuration)) >= 12
    assert not any("module" in part for part in ours(configuration))
    keras_layers = [part for part in parts(configuration) if part["class_name"] in ("Functional", "Dense", "LeakyReLU")]
    assert len(keras_layers) == 5 and all(part["module"].startswith("keras") for part in keras_layers)


def test_own_classes_keep_their_module():
    @keras.saving.register_keras_serializable("mine")
    class Mine(L.Dense):
        pass

    configuration = configuration_of(keras.Sequential([keras.Input((3,)), Mine(2)]))
    (part,) = (part for part in parts(configuration) if part["class_name"] == "Mine")
    assert part["module"] == Mine.__module__ or part["module"] is None


@pytest.mark.parametrize("module", [None, "lqs.nested", "lqs.layers", "nowhere.at.all"])
def test_models_come_back_with_any_module_or_none(module, model, rng, tmp_path):
    """Keras would take a layer without a module inside a model for one of an HDF5 file."""
    configuration, tensors = encode_model(model)
    configuration = copy.deepcopy(configuration)
    for part in ours(configuration) if module else []:
        part["module"] = module
    writer.write(tmp_path / "model.lqs", configuration, tensors)
    loaded = load(tmp_path / "model.lqs")
    for ours_, theirs in zip(model_integers(loaded).values(), model_integers(model).values(), strict=True):
        np.testing.assert_array_equal(ours_, theirs)
    x = rng.normal(size=(3, 4)).astype("float32")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


def test_move_of_a_module_changes_no_byte(model, monkeypatch):
    before = pack_model(model)
    for cls in (NestedQuantization, GradientRatio, CodeLengthPenalty, StochasticRounding):
        monkeypatch.setattr(cls, "__module__", "lqs.a_room_with_a_much_longer_name")
    assert pack_model(model) == before


def test_configuration_is_not_changed_by_making_a_model_of_it(model):
    configuration = configuration_of(model)
    before = json.dumps(configuration)
    model_of(configuration)
    assert json.dumps(configuration) == before


@pytest.mark.once
@pytest.mark.parametrize("path", FILES)
def test_committed_files_load_and_are_coded_as_they_are(path):
    """They name modules that are gone, such as `lqs.nested`. Codings and lengths stay; log scales may move a bit.

    But where the integers take fewer bytes with another order of their axes, or by `mixing`: neither was tried before.
    """
    assert ours(read(path).configuration)
    model = load(path)
    packed = pack_model(model)
    before, after = (parse_header(content).entries for content in (path.read_bytes(), packed))
    assert len(before) == len(after)
    for ours_, theirs in zip(after, before, strict=True):
        is_seed = theirs["dtype"] not in FLOATS  # of another type on each backend, and of another name in each process
        if ours_ != theirs and ("axes" in ours_ or ours_["coding"] == "mixing"):
            assert sum(section_lengths(ours_)) < sum(section_lengths(theirs))
            ours_, theirs = ({key: entry[key] for key in KEPT} for entry in (ours_, theirs))
        assert is_seed or ours_ == theirs
    is_recoded = any(entry["coding"] == "mixing" for entry in after)
    if not is_recoded and not any(v.name in ("log_scale", "seed_generator_state") for v in model.variables):
        assert bytes(reader.split(packed)[1]) == bytes(reader.split(path.read_bytes())[1])


def test_classes_are_found_by_load_alone(model, tmp_path):
    """In a process that imports nothing of ours but what `lqs.load` does."""
    save(model, tmp_path / "model.lqs")
    program = "from lqs.file.saving import load; print(len(load('model.lqs').variables))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert int(result.stdout) == len(model.variables)


def test_what_compile_was_given_is_left_out_inside_too():
    inner = keras.Sequential([keras.Input((4,)), L.Dense(4)])
    inner.compile("adam", "mse")
    configuration = configuration_of(keras.Sequential([keras.Input((4,)), inner]))
    assert "compile_config" not in json.dumps(configuration)
