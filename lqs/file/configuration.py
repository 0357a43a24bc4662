"""Configurations of Keras models as `.lqs` files have them: without code, and without names of this package's modules.

A class of `lqs` is found by the name that it is registered under, such as `"lqs>NestedQuantization"`, so that files
do not depend on the module where it stands.
"""

import importlib
import pkgutil

import keras

import lqs.layers
import lqs.methods
import lqs.penalties
import lqs.rounding
import lqs.rules

PREFIX = "lqs>"  # of registered names
# Their configurations hold code, or the path of a file to be loaded.
UNSAFE_CLASSES = ("__lambda__", "Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")


def configuration_of(model):
    """Return the configuration of a model for a file.

    Raises:
        ValueError: if the model has none, or there is code in it.
    """
    try:
        configuration = keras.saving.serialize_keras_object(model)
    except NotImplementedError as error:
        raise ValueError(
            f"Argument `model` must be rebuilt from its configuration: implement `get_config` of "
            f"`{type(model).__name__}`. ({error})"
        ) from error
    configuration.pop("compile_config", None)
    check_safe(configuration, ValueError)
    return _mapped(configuration, _without_module)


def model_of(configuration):
    """Return the model that a configuration from a file describes; it may have names of modules, old ones too."""
    register_classes()
    return keras.saving.deserialize_keras_object(_mapped(configuration, _with_module))


def check_safe(configuration, error):
    """Raise the exception class `error` if a part of a configuration has code in it."""
    parts = [configuration]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            if part.get("class_name") in UNSAFE_CLASSES:
                raise error(f"The configuration of a model must not have code in it. Received: {part['class_name']}")
            parts.extend(part.values())
        elif isinstance(part, list | tuple):
            parts.extend(part)


def register_classes():
    """Import every module of this package that has classes for Keras to find."""
    for module in pkgutil.iter_modules(lqs.methods.__path__, f"{lqs.methods.__name__}."):
        importlib.import_module(module.name)


def _mapped(part, change):
    """Return a copy of a configuration in which every dictionary is changed."""
    if isinstance(part, dict):
        return change({key: _mapped(value, change) for key, value in part.items()})
    return [_mapped(value, change) for value in part] if isinstance(part, list | tuple) else part


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
