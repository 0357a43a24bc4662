"""Tests of `lqs.file.known`: what is not known is refused, and so is what runs code or reads files."""

import copy
import inspect

import keras
import pytest

from lqs.conversion import quantize
from lqs.file import writer
from lqs.file.known import LAYERS, UNSAFE_CLASSES, check_known
from lqs.file.reader import FileFormatError
from lqs.file.saving import encode_model, load, save
from lqs.quantizer import NestedQuantization

L = keras.layers


@pytest.fixture
def model():
    return quantize(keras.Sequential([keras.Input((4,)), L.Dense(3), L.Dense(2)]), NestedQuantization(), None)


def layer(module, name, config=None, registered_name=None):
    return {"module": module, "class_name": name, "config": config or {}, "registered_name": registered_name}


def function(module, name):
    return layer(module, "function", name, "function")


def write_with(path, model, part):
    """Write a file in which a part stands for the last layer, or for its activation if it is a function."""
    configuration, tensors = encode_model(model)
    configuration = copy.deepcopy(configuration)
    layers = configuration["config"]["layers"]
    if part["class_name"] == "function":
        layers[-1] = layer("keras.layers", "Activation", {"activation": part})
    else:
        layers[-1] = part
    writer.write(path, configuration, tensors)


VOCABULARY = {"vocabulary": "/etc/passwd"}
ATTACKS = {
    "code": layer(
        "keras.layers", "Lambda", {"function": {"class_name": "__lambda__", "config": {"value": "4wEAAA=="}}}
    ),
    "code by another module": layer("keras.src.layers.core.lambda_layer", "Lambda"),
    "code without a module": {"class_name": "Lambda", "config": {}},
    "pickle of a torch module": layer("keras.layers", "TorchModuleWrapper", {"module": "gASVAAAA"}),
    "saved model": layer("keras.layers", "TFSMLayer", {"filepath": "somewhere"}),
    "function of JAX": layer("keras.layers", "JaxLayer"),
    "function of Flax": layer("keras.layers", "FlaxLayer"),
    "file of a vocabulary": layer("keras.layers", "StringLookup", VOCABULARY),
    "file of integers": layer("keras.layers", "IntegerLookup", VOCABULARY),
    "file of words": layer("keras.layers", "TextVectorization", VOCABULARY),
    "file of frequencies": layer("keras.layers", "StringLookup", {"vocabulary": ["a"], "idf_weights": "/etc/passwd"}),
    "download": function("keras.utils", "get_file"),
    "download by another module": function("keras.src.utils.file_utils", "get_file"),
    "download in place of a layer": layer("keras.utils", "get_file", {"fname": "a", "origin": "http://localhost/"}),
    "model at a path": function("keras.models", "load_model"),
    "safe mode off": function("keras.config", "enable_unsafe_deserialization"),
    "helper of Keras": function("keras.activations", "deserialize"),
    "helper of Keras by its name": function("builtins", "deserialize"),
    "function that is nowhere": function("builtins", "nowhere"),
    "module of Python": layer("os", "system", {"command": "true"}),
    "function of Python": function("os", "system"),
    "module of a class unknown": layer("keras.callbacks", "BackupAndRestore", {"backup_dir": "somewhere"}),
    "module of another package": layer("keras_hub.src.models.task", "Task"),
    "network with weights to download": function("keras.applications", "MobileNet"),
    "class of TensorFlow": {**layer("tensorflow", "__typespec__"), "spec_name": "TensorSpec"},
    "layer without a module": {"class_name": "Dense", "config": {"units": 2}},
    "layer of tomorrow": layer("keras.layers", "Tomorrow"),
    "base of all layers": layer("keras.layers", "Layer"),
    "name that is no text": layer("keras.layers", ["Dense"]),
    "module that is no text": layer(["keras.layers"], "Dense"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused_before_anything_is_made(attack, model, tmp_path, monkeypatch):
    write_with(tmp_path / "model.lqs", model, ATTACKS[attack])

    def made(*args, **kwargs):
        raise AssertionError("something was made of the configuration")

    monkeypatch.setattr(keras.saving, "deserialize_keras_object", made)
    with pytest.raises(FileFormatError, match="must (not have code|not name files|name what lqs knows)"):
        load(tmp_path / "model.lqs")


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("depth", [1, 3])
def test_attacks_are_refused_at_any_depth(attack, depth):
    part = ATTACKS[attack]
    for _ in range(depth):
        part = layer("keras", "Sequential", {"layers": [layer("keras.layers", "Dense"), (part,)]})
    with pytest.raises((ValueError, TypeError)):
        check_known(part, ValueError)


def test_attacks_by_the_configuration_of_compile_are_left_out(model, tmp_path):
    configuration, tensors = encode_model(model)
    configuration = {**configuration, "compile_config": {"loss": ATTACKS["download"]}}
    writer.write(tmp_path / "model.lqs", configuration, tensors)
    assert not load(tmp_path / "model.lqs").compiled


@pytest.mark.once
def test_every_layer_of_keras_is_known_or_known_to_be_unsafe():
    """A new version of Keras fails here: look at its new layers, and put them where they belong."""
    found = {name for name in dir(L) if inspect.isclass(getattr(L, name))}
    classes = {getattr(L, name) for name in found} - {L.Layer, L.InputSpec}
    unsafe = {getattr(L, name) for name in UNSAFE_CLASSES if hasattr(L, name)}
    assert {getattr(L, name) for name in LAYERS & found} == classes - unsafe
    assert not LAYERS & set(UNSAFE_CLASSES)


def test_registered_classes_and_functions_are_known(model, tmp_path):
    @keras.saving.register_keras_serializable("tests.known")
    class Mine(L.Dense):
        pass

    @keras.saving.register_keras_serializable("tests.known")
    def twice(x):
        return 2 * x

    model = keras.Sequential([keras.Input((4,)), Mine(3, activation=twice)])
    save(model, tmp_path / "model.lqs")
    assert type(load(tmp_path / "model.lqs").layers[0]) is Mine


def test_class_that_is_not_registered_is_refused_by_name(tmp_path):
    class Mine(L.Dense):
        pass

    with pytest.raises(ValueError, match="must name what lqs knows .* Received: 'Mine' of module"):
        save(keras.Sequential([keras.Input((3,)), Mine(2)]), tmp_path / "model.lqs")
    assert not list(tmp_path.iterdir())


def test_custom_objects_are_known(tmp_path):
    class Mine(L.Dense):
        pass

    model = keras.Sequential([keras.Input((4,)), Mine(3)])
    with keras.saving.custom_object_scope({"Mine": Mine}):
        save(model, tmp_path / "model.lqs")
        assert type(load(tmp_path / "model.lqs").layers[0]) is Mine
    with pytest.raises(FileFormatError, match="register_keras_serializable` and imported here. Received: 'Mine' of"):
        load(tmp_path / "model.lqs")


@pytest.mark.parametrize("what", ["rule", "activation"])
def test_function_that_is_not_registered_is_refused_by_name(what, tmp_path):
    def grow(*arguments):
        return arguments[0]

    model = keras.Sequential([keras.Input((4,)), L.Dense(3, activation=grow if what == "activation" else None)])
    if what == "rule":
        model = quantize(model, NestedQuantization(rule=grow), None)
    with pytest.raises(ValueError, match="must name what lqs knows .* Received: 'grow' of module"):
        save(model, tmp_path / "model.lqs")
    assert not list(tmp_path.iterdir())
