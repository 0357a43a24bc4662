"""What a file for inference alone has in place of what a model has: the same outputs, without what training needs."""

import contextlib

import keras
import numpy as np

from lqs._keras import get_input_signature
from lqs.file.configuration import PREFIX, mapped
from lqs.inspection import nested_layers, to_numpy

FOR_TRAINING = ("_initializer", "_regularizer", "_constraint")  # ends of arguments of layers
GRAPHS = ("Functional", "Sequential")
FROZEN = {"class_name": "Frozen", "config": {}, "registered_name": f"{PREFIX}Frozen"}  # it has no arguments


def check_for_inference(model):
    """Raise if a model calls a batch normalization with `training=True` by itself: freezing it changes the outputs.

    What the model calls is found by a call without values, and not where Keras has no such call, as where the shapes of
    its inputs are not known.
    """
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    layers = [layer for layer in layers if layer.built and layer.trainable]  # a frozen one has its statistics anyway
    found: list = []
    for layer in layers:
        layer.call = _noting(layer, layer.call, found)
    try:
        if layers:
            with contextlib.suppress(Exception):  # whatever the code of a layer raises
                _call_without_values(model)
    finally:
        for layer in layers:
            del layer.call
    if found:
        raise ValueError(
            "Argument `inference_only` must be False for a model that calls a batch normalization with "
            f"`training=True`: it takes the statistics of each batch. Received: layer {found[0].path!r}"
        )


class _Prediction(keras.Operation):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def call(self, *inputs):
        return self.model(*inputs)  # `training=False`, as of `predict`, would hide that of a graph


def _call_without_values(model):
    signature = keras.tree.map_structure(
        lambda spec: keras.KerasTensor(spec.shape, spec.dtype), list(get_input_signature(model))
    )
    _Prediction(model).compute_output_spec(*signature)


def _noting(layer, call, found):
    def noting(inputs, training=None, mask=None):
        if training:
            found.append(layer)
        return call(inputs, training=training, mask=mask)

    return noting


def configuration_for_inference(configuration):
    """Return the configuration of a model that has the same outputs and is not trainable.

    Layers of Keras are without initializers, regularizers and constraints, quantized parameters without penalty and
    with frozen scales. The layers of a graph are built by its shapes alone.
    """
    configuration = mapped(configuration, _for_inference)
    if "trainable" in configuration["config"]:  # of a class whose configuration is that of Keras and more
        configuration["config"]["trainable"] = False
    else:
        configuration["frozen"] = True
    return configuration


def is_frozen(configuration):
    """Return whether nothing is trainable of the model that a configuration from a file describes."""
    return configuration.get("frozen") is True or configuration["config"].get("trainable") is False


def left_out(model):
    """Return the `id` of each variable that is for training alone: those of rules and of penalties."""
    parts = [part for layer in nested_layers(model) for part in (layer._rule, layer.penalty) if part is not None]
    return {id(variable) for part in parts for variable in part.variables}


def folded_normalizations(model):
    r"""Return `{id of a variable: array}` with which batch normalizations compute the same from no statistics.

    With the factor `f = gamma / sqrt(variance + epsilon)`, that is

        gamma <- f      beta <- beta - mean * f      mean <- 0      variance <- 1 - epsilon

    as far as there are `gamma` and `beta`. What is equal for all channels takes next to no bytes.
    """
    folded: dict = {}
    for layer in model._flatten_layers():
        if type(layer) is keras.layers.BatchNormalization and layer.built and layer.epsilon < 1:
            folded |= _folded(layer)
    return folded


def _folded(layer):
    mean, variance = (to_numpy(v.value).astype("float64") for v in (layer.moving_mean, layer.moving_variance))
    gamma = to_numpy(layer.gamma.value) if layer.scale else 1.0
    factor = gamma / np.sqrt(variance + layer.epsilon)
    folded: dict = {}
    if layer.scale:
        folded |= {id(layer.gamma): factor, id(layer.moving_variance): np.full_like(variance, 1 - layer.epsilon)}
    if layer.center:
        beta = to_numpy(layer.beta.value) - mean * factor
        folded |= {id(layer.beta): beta, id(layer.moving_mean): np.zeros_like(mean)}
    return folded


def _for_inference(part):
    config = part.get("config")
    if "class_name" not in part or not isinstance(config, dict):
        return part
    name = str(part.get("registered_name"))
    if name == f"{PREFIX}NestedQuantization":
        part = {key: value for key, value in part.items() if key != "build_config"}
        config = {key: value for key, value in config.items() if key != "parametrization"}
        config |= {"name": "nested_quantization", "rule": FROZEN, "penalty": None}
    elif part.get("module") == "keras.layers" or name.startswith(PREFIX):
        config = {key: value for key, value in config.items() if not key.endswith(FOR_TRAINING)}
    elif part["class_name"] in GRAPHS and isinstance(config.get("layers"), list):
        layers = [{key: value for key, value in layer.items() if key != "build_config"} for layer in config["layers"]]
        config = {**config, "layers": layers}
    return {**part, "config": config}
