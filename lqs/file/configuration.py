"""Configurations of Keras models as `.lqs` files have them: without code, and without names of this package's modules.

A class of `lqs` is found by the name that it is registered under, such as `"lqs>NestedQuantization"`, so that files
do not depend on the module where it stands.
"""

import importlib
import json
import pkgutil
import zipfile

import keras

import lqs.layers
import lqs.methods
import lqs.penalties
import lqs.rounding
import lqs.rules
from lqs.file.known import check_known
from lqs.file.layout import MAX_HEADER_BYTES, FileFormatError

PREFIX = "lqs>"  # of registered names


def configuration_of(model):
    """Return the configuration of a model for a file.

    Raises:
        ValueError: if the model has none, or there is code in it, or what is neither known nor registered.
    """
    try:
        configuration = keras.saving.serialize_keras_object(model)
    except NotImplementedError as error:
        raise ValueError(
            f"Argument `model` must be rebuilt from its configuration: implement `get_config` of "
            f"`{type(model).__name__}`. ({error})"
        ) from error
    configuration = mapped(mapped(configuration, _without_compilation), _without_module)
    register_classes()
    check_known(configuration, ValueError)
    return configuration


def model_of(configuration):
    """Return the model that a configuration from a file describes; it may have names of modules, old ones too.

    Raises:
        FileFormatError: if there is code in it, or what is neither known nor registered.
    """
    configuration = mapped(mapped(configuration, _without_compilation), _with_module)
    register_classes()
    check_known(configuration, FileFormatError)
    return keras.saving.deserialize_keras_object(configuration)


def read_keras(path):
    """Return the model in a `.keras` file, not compiled; what `.lqs` files may not name, it may not either.

    Raises:
        ValueError: if the file is no `.keras` file, or there is code in its configuration, or what is neither known
            nor registered.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open("config.json") as config:
            configuration = json.loads(config.read(MAX_HEADER_BYTES))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{path} is not a .keras file: {error}") from error
    register_classes()
    check_known({**configuration, "compile_config": None}, ValueError)
    return keras.models.load_model(path, compile=False)


def register_classes():
    """Import every module of this package that has classes for Keras to find."""
    for module in pkgutil.iter_modules(lqs.methods.__path__, f"{lqs.methods.__name__}."):
        importlib.import_module(module.name)


def mapped(part, change):
    """Return a copy of a configuration in which every dictionary is changed."""
    if isinstance(part, dict):
        return change({key: mapped(value, change) for key, value in part.items()})
    return [mapped(value, change) for value in part] if isinstance(part, list | tuple) else part


def _is_ours(part):
    return "class_name" in part and str(part.get("registered_name")).startswith(PREFIX)


def _without_module(part):
    """Leave out what follows from the registered name, and shares, which follow from the sizes of all parameters."""
    if not _is_ours(part):
        return part
    name = part["registered_name"].removeprefix(PREFIX)
    config = {key: value for key, value in part["config"].items() if (name, key) != ("NestedQuantization", "share")}
    return {key: value for key, value in part.items() if key != "module"} | {"class_name": name, "config": config}


def _with_module(part):
    """Add a module where there is none: Keras takes a layer without one for that of an HDF5 file."""
    return {"module": "lqs", **part} if _is_ours(part) else part


def _without_compilation(part):
    """Leave out what `compile` was given, also to models inside."""
    if "class_name" in part and "config" in part:
        return {key: value for key, value in part.items() if key != "compile_config"}
    return part
