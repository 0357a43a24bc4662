"""Copies of layers and models, of their class, configuration and weights."""

import tempfile
import warnings

import keras
import numpy as np

from lqs.inspection import to_numpy
from lqs.layers import GRAPHS, QuantConv2D, QuantDense, QuantizedLayer, QuantizedParameters, as_float

_PLAIN = {QuantDense: keras.layers.Dense, QuantConv2D: keras.layers.Conv2D}


def copied(layer, change=lambda copy, original: copy):
    """Return a copy of a layer or model, in which each copy of a layer goes through `change`.

    A graph of layers is copied layer by layer; so are graphs within it. All others are copied by their configuration,
    as a whole. A layer that stands in several places is copied once.

    Args:
        layer: a built Keras layer or model.
        change: function of a copied layer and its original, which returns the copy.

    Raises:
        ValueError: if a layer cannot be made from its configuration, or comes back with other weights.
    """
    owners: dict = {}

    def copy(node):
        made = _copy(node)
        for source, target in zip(node.weights, made.weights, strict=True):
            other, known = owners.setdefault(id(source), (node, target))
            if known is not target:
                raise ValueError(
                    "Argument `layer` must not share weights between layers by reference, which come apart in a copy: "
                    f"{other.name!r} and {node.name!r} share {source.path!r}. Hand what is shared from layer to layer "
                    "as an input, or put both layers into one model with a `get_config` of its own."
                )
        return _compile(change(made, node), node)

    return _clone(layer, copy, {})


def copied_as_float(layer):
    """Return a copy without quantized parameters, and the pairs `(variable of layer, its variable in the copy)`."""
    pairs: list = []

    def copy(node):
        float_copy = _float_copy(node)
        own = {id(weight) for inner in _nested_layers(node) for weight in inner.weights}
        pairs.extend(zip([w for w in node.weights if id(w) not in own], float_copy.weights, strict=True))
        return _compile(float_copy, node)

    return _clone(layer, copy, {}), pairs


def copy_own_variables(source, target):
    """Copy by way of what layers do to save and load, since some derive further state from their weights."""
    values: dict = {}
    source.save_own_variables(values)
    target.load_own_variables({key: np.array(to_numpy(value)) for key, value in values.items()})


def cause_of(error):
    """Return the first line of an error, of the innermost one where Keras quotes it behind a configuration."""
    return str(error).rsplit("Exception encountered: ", 1)[-1].split("\n")[0]


def _clone(layer, copy, known):
    """Return a copy of `layer`: by `copy`, or with each of its layers by `copy` if it is a graph."""

    def copy_node(node):
        if id(node) not in known:
            known[id(node)] = _clone(node, copy, known)
        return known[id(node)]

    if not isinstance(layer, keras.layers.Layer):
        return type(layer).from_config(layer.get_config())  # an operation of the graph, without weights
    is_graph = type(layer) in GRAPHS
    made = keras.models.clone_model(layer, clone_function=copy_node) if is_graph else copy(layer)
    made._called = layer._called  # Keras's own exports ask for it
    return made


def _copy(layer):
    """Return a layer of the same class, configuration and weights."""
    copy = _made_again(layer, lambda: type(layer).from_config(layer.get_config()))
    _copy_state(layer, layer._flatten_layers(), layer.weights, copy)
    for source, target in zip(layer.weights, copy.weights, strict=True):
        target.trainable = source.trainable
    return copy


def _float_copy(layer):
    """Return a copy of a layer, of its former class if it was converted."""
    if type(layer) in _PLAIN:
        config = {key: value for key, value in layer.get_config().items() if not key.endswith("_quantizer")}
        copy = _made_again(layer, lambda: _PLAIN[type(layer)].from_config(config))
    elif isinstance(layer, QuantizedLayer):
        with as_float(layer):
            copy = _made_again(layer, lambda: type(layer).from_config(layer.get_config()))
    else:
        return _refuse_quantized(_copy(layer), layer)
    nested = _nested_layers(layer)
    of_nested = {id(inner) for inner in nested} | {id(weight) for inner in nested for weight in inner.weights}
    layers, weights = (
        [x for x in found if id(x) not in of_nested] for found in (layer._flatten_layers(), layer.weights)
    )
    _copy_state(layer, layers, weights, copy)
    return _refuse_quantized(copy, layer)


def _refuse_quantized(copy, layer):
    if any(isinstance(inner, QuantizedParameters) for inner in copy._flatten_layers()):
        raise ValueError(
            f"Argument `layer` must consist of layers that can be dequantized, but `{type(layer).__name__}` holds "
            "quantized layers that its own code or configuration makes: dequantize these one by one, and make it of "
            f"the results. Received: layer {layer.name!r}"
        )
    return copy


def _made_again(layer, make):
    """Return what `make` makes of a layer's configuration, built as the layer is."""
    if type(layer) is keras.layers.Lambda:  # without weights; Keras would not make its function from a configuration
        parts = {"function": layer.function, "output_shape": layer._output_shape, "mask": layer.mask}
        return type(layer)(**{**keras.layers.Layer.get_config(layer), **parts, "arguments": layer.arguments})
    try:
        copy = make()
    except NotImplementedError as error:
        raise ValueError(
            f"Argument `layer` must be copied from its configuration, but `{type(layer).__name__}` has none: implement "
            f"`get_config`. Received: layer {layer.name!r} ({error})"
        ) from error
    except TypeError as error:
        raise ValueError(
            f"Argument `layer` must be copied from its configuration, but the constructor of `{type(layer).__name__}` "
            f"does not take what its `get_config` gives. Received: layer {layer.name!r} ({cause_of(error)})"
        ) from error
    if layer.built and not copy.built:
        with as_float(layer):
            copy.build_from_config(layer.get_build_config() or {})
        copy.built = True
    return copy


def _compile(copy, layer):
    """Compile a copy as the layer is: last, since the optimizer takes note of the weights.

    Not by a `compile` of the layer's own, whose arguments Keras does not keep.
    """
    if isinstance(layer, keras.Model) and layer.compiled:
        if type(layer).compile is keras.Model.compile or _restores_compile(layer):
            copy.compile_from_config(layer.get_compile_config())
        else:
            warnings.warn(f"Model {layer.name!r} has a `compile` of its own: call it for the copy.", stacklevel=2)
    return copy


def _restores_compile(model):
    return type(model).compile_from_config is not keras.Model.compile_from_config


def _copy_state(layer, layers, weights, copy):
    """Give a copy the values of those weights and the vocabularies of those layers inside a layer."""
    if len(copy.weights) != len(weights):
        raise ValueError(
            f"Argument `layer` must make its weights when it is built, and share none with other layers by reference, "
            f"but a copy of `{type(layer).__name__}` has {len(copy.weights)} of {len(weights)}: implement `build`, or "
            f"hand what is shared from layer to layer as an input. Received: layer {layer.name!r}"
        )
    # A preprocessor makes layers of its own when it is first called, so that others have another place in the copy.
    vocabularies = [[x for x in found if hasattr(x, "save_assets")] for found in (layers, copy._flatten_layers())]
    for source, target in zip(*vocabularies, strict=True):
        with tempfile.TemporaryDirectory() as folder:
            source.save_assets(folder)
            target.load_assets(folder)
    for source, target in zip(weights, copy.weights, strict=True):
        target.assign(source)
    for target in copy._flatten_layers():  # some derive further state from their variables when these are loaded
        copy_own_variables(target, target)


def _nested_layers(layer):
    """Return the nested quantization layers of converted layers, with what they consist of."""
    found = []
    for inner in layer._flatten_layers():
        if isinstance(inner, QuantizedParameters):
            for _, quantizer in inner.quantized_parameters():
                found += quantizer._flatten_layers()
    return found
