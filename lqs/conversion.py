"""`lqs.quantize`: nested quantization for the parameters of any Keras layer or model, and `lqs.dequantize` back."""

import tempfile

import keras

from lqs._keras import Functional
from lqs.inspection import quantized_parameters, set_shares
from lqs.layers import (
    QuantConv2D,
    QuantDense,
    QuantizedLayer,
    QuantizedModel,
    QuantizedParameters,
    copy_own_variables,
    quantize_values,
)
from lqs.quantizer import NestedQuantization

NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    keras.layers.UnitNormalization,
)


def is_not_normalization(layer, variable):
    """Return whether `layer`, which owns `variable`, is not a normalization layer: the default of `where`."""
    return not isinstance(layer, NORMALIZATIONS)


def quantize(layer, kernel="default", bias="default", where=is_not_normalization):
    """Return a copy of a Keras layer or model whose parameters pass through nested quantization layers.

    Weights are kept, and so are the names of layers. In a `Sequential` or functional model every layer with
    parameters to quantize is replaced by a `QuantizedLayer` around its copy, also in models nested inside; any
    other model or layer is wrapped as a whole. Trainable float parameters are quantized; layers that already
    own quantized parameters are left as they are. A compiled model gives a compiled copy, its optimizer new.

    Args:
        layer: a built `keras.layers.Layer` or `keras.Model`.
        kernel: prototype for parameters of rank 2 and up, copied for each; `None` leaves them in float.
            `"default"` stands for `NestedQuantization("scalar", GradientRatio(1e-10))`.
        bias: the same for parameters of rank 0 and 1.
        where: function `(layer, variable) -> bool` that says which parameters to quantize; `layer` is the one
            that owns the variable. By default, all but those of normalization layers.

    Returns:
        A layer for a layer, a model for a model.

    Raises:
        ValueError: if `layer` is not a built Keras layer, has no configuration to be copied from, is compiled with
            functions that are not registered, or is a subclassed model with a `train_step` or the like of its own; or
            if a prototype's granularity does not fit the rank of a parameter that it is for.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    >>> quantized = quantize(model, kernel=NestedQuantization("row"), bias=None)
    >>> [tuple(variable.shape) for variable in quantized.layers[0].trainable_variables]
    [(4, 3), (3,), (4, 1)]
    """
    prototypes = {"kernel": _prototype("kernel", kernel), "bias": _prototype("bias", bias)}
    if not callable(where):
        raise ValueError(f"Argument `where` must be a function of a layer and its variable. Received: where={where!r}")
    _validate_layer(layer)
    _validate_steps(layer)
    quantized = _clone(layer, lambda node: _wrap(node, prototypes, where))
    set_shares(quantized)
    return quantized


def dequantize(layer):
    """Return a copy of a Keras layer or model without nested quantization layers: the inverse of `lqs.quantize`.

    Its architecture is that of the float network, its parameters have the values that the quantized network
    computes with,

        P_r = P_q * s

    with integers `P_q`, or what they stand for, and scales `s` as in `NestedQuantization`, so that predictions stay
    the same and nothing of `lqs` is needed to load it. `QuantizedLayer`, `QuantizedModel`, `QuantDense` and
    `QuantConv2D` are undone, also in models nested inside; everything else is copied. A compiled model gives a compiled
    copy, its optimizer new.

    Args:
        layer: a built `keras.layers.Layer` or `keras.Model`.

    Returns:
        A layer for a layer, a model for a model.

    Raises:
        ValueError: if `layer` is not a built Keras layer, has no configuration to be copied from, is compiled with
            functions that are not registered, or is a layer whose own code makes quantized layers.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    >>> quantized = quantize(model, kernel=NestedQuantization(initial_scale=0.75))
    >>> keras.ops.convert_to_numpy(dequantize(quantized).layers[0].kernel).tolist()
    [[0.75]]
    """
    return dequantize_with_pairs(layer)[0]


def dequantize_with_pairs(layer):
    """Return `dequantize(layer)` and the pairs `(variable of layer, its variable in the copy)`."""
    _validate_layer(layer)
    pairs: list = []
    copy = _clone(layer, lambda node: _unwrap(node, pairs))
    values = quantize_values(quantized_parameters(layer))
    for source, target in pairs:
        if id(source) in values:
            target.assign(values[id(source)])
    return copy, pairs


def _clone(layer, copy):
    """Return a clone of `layer`: by `copy`, or with each layer by `copy` if it is a graph of layers."""

    def copy_node(node):
        if isinstance(node, keras.layers.Layer):
            return copy(node)
        return type(node).from_config(node.get_config())  # an operation of the graph, without weights

    if not isinstance(layer, (keras.Sequential, Functional)):
        return copy_node(layer)
    return keras.models.clone_model(layer, clone_function=copy_node, recursive=True)


def _wrap(layer, prototypes, where):
    """Return a copy of `layer` with its weights, wrapped if any of its parameters is to be quantized."""
    copy = _copy(layer)
    chosen = {id(variable) for owner, variable in _candidates(copy) if where(owner, variable)}
    quantizers = [
        prototypes["kernel" if len(variable.shape) > 1 else "bias"] if id(variable) in chosen else None
        for variable in copy.weights
    ]
    if not any(quantizers):
        return copy
    wrapper = QuantizedModel if isinstance(copy, keras.Model) else QuantizedLayer
    wrapped = wrapper(copy, quantizers, name=layer.name)
    wrapped.build()
    if isinstance(copy, keras.Model) and copy.compiled:
        wrapped.compile_from_config(copy.get_compile_config())
    return wrapped


def _unwrap(layer, pairs):
    """Return a plain copy of `layer`, its weights not quantized yet, and append to the `pairs` of variables."""
    if isinstance(layer, (QuantizedLayer, QuantizedModel)):
        copy = _clone(layer.layer, lambda node: _unwrap(node, pairs))
        if isinstance(layer, keras.Model) and layer.compiled:
            copy.compile_from_config(layer.get_compile_config())
        return copy
    copy = _plain_copy(layer) if type(layer) in _PLAIN else _copy(layer)
    if quantized_parameters(copy):
        raise ValueError(
            f"Argument `layer` must consist of layers that can be dequantized, but `{type(layer).__name__}` "
            f"holds quantized layers that its own code makes. Received: layer {layer.name!r}"
        )
    quantizers = [inner for inner in layer._flatten_layers() if isinstance(inner, NestedQuantization)]
    nested = {id(variable) for quantizer in quantizers for variable in quantizer.weights}
    pairs += zip([v for v in layer.weights if id(v) not in nested], copy.weights, strict=True)
    return copy


def _validate_steps(layer):
    """Raise if a model that will be wrapped as a whole trains by methods of its own, which would not be called."""
    if not isinstance(layer, keras.Model) or isinstance(layer, (keras.Sequential, Functional)):
        return
    for name in ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics"):
        if getattr(type(layer), name) is not getattr(keras.Model, name):
            raise ValueError(
                f"Argument `layer` must train as `keras.Model` does, but `{type(layer).__name__}` has a `{name}` of "
                f"its own: quantize the layers or models that it consists of. Received: model {layer.name!r}"
            )


_PLAIN = {QuantDense: keras.layers.Dense, QuantConv2D: keras.layers.Conv2D}


def _plain_copy(layer):
    """Return the `Dense` or `Conv2D` of a `QuantDense` or `QuantConv2D`, with its parameters."""
    config = {key: value for key, value in layer.get_config().items() if not key.endswith("_quantizer")}
    copy = _PLAIN[type(layer)].from_config(config)
    if layer.built:
        copy.build_from_config(layer.get_build_config())
        copy_own_variables(layer, copy)
    return copy


def _validate_layer(layer):
    """Raise unless `layer` is a built Keras layer, whose copy can be compiled if it is."""
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError(f"Argument `layer` must be a Keras layer or model. Received: layer={layer!r}")
    if not layer.built:
        raise ValueError(
            f"Argument `layer` must be built, so that its parameters exist: give the model an `Input` or call "
            f"`build`. Received: unbuilt layer {layer.name!r}"
        )
    if isinstance(layer, keras.Model) and layer.compiled:
        try:
            keras.saving.deserialize_keras_object(layer.get_compile_config())
        except (TypeError, ValueError) as error:
            raise ValueError(
                "Argument `layer` must be compiled with what Keras can find by its name, since its copy is compiled, "
                "too: call `compile` on the copy only, or register losses and metrics of your own by "
                f"`keras.saving.register_keras_serializable`. Received: model {layer.name!r} ({error})"
            ) from error


def _prototype(name, prototype):
    """Return the `NestedQuantization` that the argument `name` of `quantize` stands for, or `None`."""
    if prototype == "default":
        return NestedQuantization()
    if prototype is not None and not isinstance(prototype, NestedQuantization):
        raise ValueError(
            f"Argument `{name}` must be an `lqs.NestedQuantization`, None or 'default'. Received: {name}={prototype!r}"
        )
    return prototype


def _copy(layer):
    """Return a layer of the same class, configuration and weights."""
    if type(layer) is keras.layers.Lambda:  # without weights; Keras would not make its function from a configuration
        parts = {"function": layer.function, "output_shape": layer._output_shape, "mask": layer.mask}
        return type(layer)(**{**keras.layers.Layer.get_config(layer), **parts, "arguments": layer.arguments})
    try:
        copy = type(layer).from_config(layer.get_config())
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            f"Argument `layer` must be copied from its configuration, but `{type(layer).__name__}` does not "
            f"give one that recreates it: implement `get_config`. Received: layer {layer.name!r} ({error})"
        ) from error
    if layer.built and not copy.built:
        copy.build_from_config(layer.get_build_config())
        copy.built = True
    if len(copy.weights) != len(layer.weights):
        raise ValueError(
            f"Argument `layer` must make its weights when it is built, but a copy of `{type(layer).__name__}` has "
            f"{len(copy.weights)} of {len(layer.weights)}: implement `build`. Received: layer {layer.name!r}"
        )
    for source, target in zip(layer._flatten_layers(), copy._flatten_layers(), strict=True):
        copy_own_variables(source, target)
        if hasattr(source, "save_assets"):  # a vocabulary
            with tempfile.TemporaryDirectory() as folder:
                source.save_assets(folder)
                target.load_assets(folder)
    if isinstance(layer, keras.Model) and layer.compiled:
        copy.compile_from_config(layer.get_compile_config())
    return copy


def _candidates(layer):
    """Return pairs `(owner, variable)` of the trainable float parameters that are not quantized yet."""
    layers = layer._flatten_layers()
    seen: set[int] = set()
    for inner in layers:
        if isinstance(inner, QuantizedParameters):
            seen.update(id(variable) for variable, _ in inner.quantized_parameters())
        if isinstance(inner, NestedQuantization):
            seen.update(id(variable) for variable in inner.variables)
    candidates = []
    for owner in reversed(layers):  # inner layers first: the innermost one owns a variable
        for variable in owner.trainable_variables:
            if id(variable) not in seen and keras.backend.is_float_dtype(variable.dtype):
                seen.add(id(variable))
                candidates.append((owner, variable))
    return candidates
