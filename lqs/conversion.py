"""`lqs.quantize`: nested quantization for the parameters of any Keras layer or model, and `lqs.dequantize` back."""

import warnings

import keras
import numpy as np

from lqs._keras import number_paths
from lqs.copying import copied, copied_as_float
from lqs.inspection import quantized_parameters, set_shares, to_numpy
from lqs.layers import QuantizedLayer, QuantizedParameters, convert
from lqs.outputs import output_axes
from lqs.presets import kernel_and_bias
from lqs.quantizer import NestedQuantization
from lqs.rules import Frozen
from lqs.scales import MIN_SCALE, SPREAD_STEPS
from lqs.substitution import quantize_values

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


def quantize(layer, kernel="default", bias="default", where=is_not_normalization, **arguments):
    """Return a copy of a Keras layer or model whose parameters pass through nested quantization layers.

    Weights are kept, and so are the names and classes of layers and models, with their methods: each layer with
    parameters to quantize becomes a `lqs.layers.QuantizedLayer` that is still an instance of its class. Float
    parameters are quantized; what is frozen is quantized and stays frozen, its scales too. Parameters that are
    quantized already, `QuantDense` and `QuantConv2D` are left as they are. A compiled model gives a
    compiled copy, its optimizer new.

    Args:
        layer: a built `keras.layers.Layer` or `keras.Model`.
        kernel: prototype for parameters of rank 2 and up, copied for each; or the name of a preset, `"compact"`,
            `"thesis"` or that of a published method, see `lqs.presets`; `None` leaves them in float. `"default"` stands
            for `NestedQuantization("scalar", GradientRatio(1e-10))`.
        bias: the same for parameters of rank 0 and 1; by default, those of a preset for biases.
        where: function `(layer, variable) -> bool` that says which parameters to quantize; `layer` is the one
            that owns the variable. By default, all but those of normalization layers.
        arguments: of the preset: `lqs.quantize(model, "lsq", bits=4)`.

    Returns:
        A layer for a layer, a model for a model.

    Raises:
        ValueError: if `layer` is not a built Keras layer, has no configuration to be copied from, shares weights in a
            way that its configuration does not tell, or is compiled with functions that are not registered; or if a
            prototype's granularity does not fit the rank of a parameter that it is for.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    >>> quantized = quantize(model, kernel=NestedQuantization("row"), bias=None)
    >>> [tuple(variable.shape) for variable in quantized.layers[0].trainable_variables]
    [(4, 3), (3,), (4, 1)]
    """
    if isinstance(kernel, str) and kernel != "default":
        kernel, bias_of_preset = kernel_and_bias(kernel, arguments)
        bias = bias_of_preset if bias == "default" else bias
    elif arguments:
        raise ValueError(f"Argument `kernel` must name a preset, to have arguments of its own. Received: {arguments}")
    prototypes = {"kernel": _prototype("kernel", kernel), "bias": _prototype("bias", bias)}
    if not callable(where):
        raise ValueError(f"Argument `where` must be a function of a layer and its variable. Received: where={where!r}")
    _validate_layer(layer)

    def prototype_of(owner, variable):
        prototype = prototypes["kernel" if len(variable.shape) > 1 else "bias"] if where(owner, variable) else None
        if prototype is not None and prototype.initial_scale == "spread" and _is_small(variable):
            return None
        if prototype is None or prototype.granularity != "output":
            return prototype
        axes = output_axes(owner, variable)
        return prototype if axes == (len(variable.shape) - 1,) else prototype.copy(granularity=axes)

    quantized = copied(layer, lambda copy, _: _convert(copy, prototype_of))
    set_shares(quantized)
    number_paths(quantized.variables)
    return quantized


def from_integers(layer, parameters):
    """Return a copy of a Keras layer or model some of whose parameters have given integers and scales.

    It computes with `P_q * s`, and its file holds the integers. What another program has quantized becomes a `.lqs`
    file this way. The scales are frozen; the rounding is `"nearest"`.

    Args:
        layer: a built float `keras.layers.Layer` or `keras.Model`.
        parameters: for each of `layer.weights` a pair `(P_q, s)`, arrays of its shape and of one of the same rank that
            broadcasts to it; or `None`, to leave it in float.

    Raises:
        ValueError: as `quantize` does; or if there are more or fewer pairs, a weight is no float parameter, a shape
            does not fit, or float32 does not give the integers back at their scales.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> quantized = from_integers(model, [(np.array([[3], [-1]]), np.full((1, 1), 0.5)), None])
    >>> keras.ops.convert_to_numpy(dequantize(quantized).layers[0].kernel).tolist()
    [[1.5], [-0.5]]
    """
    _validate_layer(layer)
    if len(parameters) != len(layer.weights):
        raise ValueError(
            f"Argument `parameters` must have an entry for each of {len(layer.weights)} weights. "
            f"Received: {len(parameters)} entries"
        )
    given = {id(w): tuple(map(np.asarray, p)) for w, p in zip(layer.weights, parameters, strict=True) if p is not None}

    def change(copy, original):
        pairs = [given.pop(id(weight), None) for weight in original.weights]
        return _with_integers(copy, pairs) if any(pairs) else copy

    quantized = copied(layer, change)
    set_shares(quantized)
    return quantized


def _with_integers(copy, pairs):
    """Convert a copy of a layer whose weights have pairs of integers and a scale, or `None`."""
    for variable, pair in zip(copy.weights, pairs, strict=True):
        if pair is not None:
            _validate_integers(variable, *pair)
    axes = [pair and tuple(axis for axis, size in enumerate(pair[1].shape) if size > 1) for pair in pairs]
    prototypes = [a if a is None else _frozen(a) for a in axes]
    variables = copy.weights
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All elements of a parameter")  # by the scale before the given one
        convert(copy, prototypes)
    found = {id(variable): quantizer for variable, quantizer in quantized_parameters(copy)}
    for variable, pair in zip(variables, pairs, strict=True):
        if pair is None:
            continue
        (integers, scale), quantizer = pair, found[id(variable)]
        quantizer.scale_weight.assign(scale)
        own_scale = to_numpy(quantizer.scale).astype(np.promote_types("float32", variable.dtype))
        variable.assign(quantizer.parameter_of(integers, own_scale))
        if not np.array_equal(to_numpy(quantizer.integers(variable.value)), integers):
            raise ValueError(
                f"Argument `parameters` must have integers that {variable.dtype} gives back at their scales. "
                f"Received: {variable.path!r} with integers from {integers.min()} to {integers.max()} and scales from "
                f"{scale.min():.4g}"
            )
    return copy


def _frozen(axes):
    """Return a configuration, with the same names each time: numbered ones would be more bytes of the file."""
    rule = Frozen(name="frozen")
    return keras.saving.serialize_keras_object(
        NestedQuantization(axes, rule, rounding="nearest", name="nested_quantization")
    )


def _validate_integers(variable, integers, scale):
    shape = tuple(variable.shape)
    fits = shape == integers.shape and len(shape) == scale.ndim and keras.backend.is_float_dtype(variable.dtype)
    if not fits or any(size not in (1, full) for size, full in zip(scale.shape, shape, strict=True)):
        raise ValueError(
            "Argument `parameters` must have integers of the shape of a float weight, and scales of the same rank that "
            f"broadcast to it. Received: shapes {integers.shape} and {scale.shape} for {variable.path!r} of {shape}"
        )


def dequantize(layer):
    """Return a copy of a Keras layer or model without nested quantization layers: the inverse of `lqs.quantize`.

    Its architecture is that of the float network, its parameters have the values that the quantized network
    computes with,

        P_r = P_q * s

    with integers `P_q`, or what they stand for, and scales `s` as in `NestedQuantization`, so that predictions stay
    the same and nothing of `lqs` is needed to load it. What `lqs.quantize` made, `QuantDense` and `QuantConv2D` are
    undone, also in models nested inside; everything else is copied. A compiled model gives a compiled copy, its
    optimizer new.

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
    _validate_layer(layer)
    copy, pairs = copied_as_float(layer)
    with keras.StatelessScope():  # leaves no penalties behind in the layer
        values = quantize_values(quantized_parameters(layer))
    for source, target in pairs:
        if id(source) in values:
            target.assign(values[id(source)])
    return copy


def _is_small(variable):
    """Return whether the least scale would be too coarse for a parameter that is not 0, such as a factor of 1e-6."""
    largest = float(np.max(np.abs(to_numpy(variable)), initial=0.0))
    return 0 < largest < SPREAD_STEPS * MIN_SCALE


def _convert(layer, prototype_of):
    """Convert a copy of a layer if any of its parameters is to be quantized."""
    chosen = {id(variable): prototype_of(owner, variable) for owner, variable in candidates(layer)}
    quantizers = [chosen.get(id(variable)) for variable in layer.weights]
    return convert(layer, quantizers) if any(quantizers) else layer


def _validate_layer(layer):
    """Raise unless `layer` is a built Keras layer, whose copy can be compiled if it is."""
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError(f"Argument `layer` must be a Keras layer or model. Received: layer={layer!r}")
    if not layer.built:
        raise ValueError(
            f"Argument `layer` must be built, so that its parameters exist: give the model an `Input` or call "
            f"`build`. Received: unbuilt layer {layer.name!r}"
        )
    modes = {inner.name: inner.quantization_mode for inner in layer._flatten_layers() if inner.quantization_mode}
    if modes:
        raise ValueError(
            "Argument `layer` must be in float, not in a quantization mode of Keras's own: give the model from before "
            f"its method `quantize`. Received: layer {layer.name!r} with the modes {modes}"
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


def candidates(layer):
    """Return pairs `(owner, variable)` of the float parameters that are not quantized yet, also of frozen ones."""
    layers = layer._flatten_layers()
    seen: set[int] = set()
    for inner in layers:
        if isinstance(inner, QuantizedLayer):
            seen.update(id(variable) for variable, _ in inner.quantized_parameters())
        elif isinstance(inner, (QuantizedParameters, NestedQuantization)):
            seen.update(id(variable) for variable in inner.variables)
    candidates = []
    for owner in reversed(layers):  # inner layers first: the innermost one owns a variable
        for variable in owner._trainable_variables:
            if id(variable) not in seen and keras.backend.is_float_dtype(variable.dtype):
                seen.add(id(variable))
                candidates.append((owner, variable))
    return candidates
