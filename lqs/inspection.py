"""Inspection: what a quantized model consists of, and tables of its integers and scales."""

import math
import warnings
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from lqs.layers import QuantizedParameters
from lqs.parts import Tensor
from lqs.penalties import Penalty
from lqs.quantizer import NestedQuantization
from lqs.scales import MIN_SCALE

if TYPE_CHECKING:
    from lqs.tables import Summary

HARDLY_SMALLER = 12.0  # bits per integer, where a float16 has 16
LARGEST_RATIO = np.nextafter(np.float32(2**31), np.float32(0))  # of which the integer is an int32


def quantized_parameters(model: keras.layers.Layer) -> list[tuple[keras.Variable, NestedQuantization]]:
    """Return pairs `(variable, NestedQuantization)` for every quantized parameter of a built layer or model."""
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, QuantizedParameters)]
    pairs = [pair for layer in layers for pair in layer.quantized_parameters()]
    return list({id(variable): (variable, quantizer) for variable, quantizer in pairs}.values())


def nested_layers(model: keras.layers.Layer) -> list[NestedQuantization]:
    """Return every built `NestedQuantization` inside a layer or model, in the order of `quantized_parameters`."""
    listed = [quantizer for _, quantizer in quantized_parameters(model)]
    found = [inner for inner in model._flatten_layers() if isinstance(inner, NestedQuantization) and inner.built]
    return list({id(layer): layer for layer in [*listed, *found]}.values())


def penalties(model: keras.layers.Layer) -> list[Penalty]:
    """Return the penalties of a model that has been quantized: those that training uses, not their prototype.

    Example: the rate of all parameters, twice as large from here on.

    >>> from lqs.conversion import quantize
    >>> from lqs.penalties import InversePenalty
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> quantized = quantize(model, kernel=NestedQuantization(penalty=InversePenalty(1e-8)), bias=None)
    >>> for penalty in penalties(quantized):
    ...     _ = penalty.rate.assign(2 * penalty.rate)
    >>> penalties(quantized)[0].get_config()["rate"]
    2e-08
    """
    return [layer.penalty for layer in nested_layers(model) if layer.penalty is not None]


def rules(model: keras.layers.Layer) -> list[Any]:
    """Return the rules of a model that has been quantized: those that training uses, not their prototype."""
    return [layer.rule for layer in nested_layers(model)]


def set_shares(model: keras.layers.Layer) -> None:
    """Give every quantized parameter its share in the terms of the penalties: that of its elements.

    `lqs.quantize` and `lqs.load` do it. It is needed for models that are put together of `lqs.QuantDense` and the like,
    whose parameters count for 1 each until then, and for parts of a model that become another one.

    Example:

    >>> from lqs.layers import QuantDense
    >>> layers = [QuantDense(2, kernel_quantizer=NestedQuantization()) for _ in range(2)]
    >>> set_shares(keras.Sequential([keras.Input((6,)), *layers]))
    >>> [layer.kernel_quantizer.share for layer in layers]
    [0.75, 0.25]
    """
    layers = nested_layers(model)
    total = sum(layer.size for layer in layers)
    for layer in layers:
        layer.share = layer.size / max(total, 1)


def warn_of_training(model: keras.layers.Layer) -> None:
    """Warn if training has changed no scale that it should, or left integers too fine, or scales that clip for good.

    Integers of 12 bits or more take hardly less than a float16. Below a scale that has fallen to its least one, nearly
    all elements lie beyond the levels, where neither they nor the scale learn any more.
    """
    optimizer = getattr(model, "optimizer", None)
    trained = [layer for layer in nested_layers(model) if layer.is_scale_trained]
    if optimizer is None or int(to_numpy(optimizer.iterations)) == 0 or not trained:
        return
    if all(layer.is_scale_initial for layer in trained):
        warnings.warn(
            "No scale has changed in training, so that nothing has become smaller. Plain SGD moves scales too little: "
            "train by Adam, longer, with a larger threshold or rate, or from a larger `initial_scale`; or use "
            "`lqs.CodeLengthPenalty`.",
            stacklevel=3,
        )
    elif (bits := _mean_bits(model)) >= HARDLY_SMALLER:
        warnings.warn(
            f"The integers take {bits:.1f} bits for each parameter, hardly less than a float16. Train longer, with a "
            "larger threshold or rate, or from a larger `initial_scale`; or use `lqs.quantize(model, 'compact')` with "
            "`lqs.TargetSize`.",
            stacklevel=3,
        )
    for variable, quantizer in quantized_parameters(model):
        if num_lost := _num_lost_scales(variable, quantizer):
            warnings.warn(
                f"Of {variable.path}, {num_lost:,} of {math.prod(quantizer.scale.shape):,} scales have fallen to the "
                f"least one in training, and nearly all of their elements are clipped. Train with "
                "`parametrization='log'`, or with a smaller learning rate.",
                stacklevel=3,
            )


def _mean_bits(model: keras.layers.Layer) -> float:
    """Return the entropy of all integers, each parameter by its own distribution, in bits for each of them."""
    arrays = list(model_integers(model).values())
    return sum(integers.size * entropy_bits(integers) for integers in arrays) / max(sum(map(np.size, arrays)), 1)


def _num_lost_scales(variable: keras.Variable, quantizer: NestedQuantization) -> int:
    """Return how many scales are the least one, with more than half of their elements beyond the levels."""
    if quantizer.levels is None or not quantizer.is_scale_trained:
        return 0
    scale, highest = to_numpy(quantizer.scale), quantizer.levels[1]
    is_beyond = np.abs(to_numpy(variable.value)) > (highest + 1) * scale
    share = np.mean(is_beyond, axis=quantizer.sharing_axes, keepdims=True)
    return int(np.count_nonzero((share > 0.5) & (scale < 1.01 * MIN_SCALE)))


def model_integers(model: keras.layers.Layer) -> dict[str, np.ndarray]:
    """Return `{path of the variable: int32 array}` for every quantized parameter of `model`."""
    pairs = quantized_parameters(model)
    return {variable.path: to_numpy(quantizer.integers(variable.value)) for variable, quantizer in pairs}


def entropy_bits(integers: np.ndarray) -> float:
    """Return the empirical entropy of an integer array, in bits per element.

    Example:

    >>> entropy_bits(np.array([0, 0, 1, 2]))
    1.5
    """
    counts = _counts(integers)
    probabilities = counts / counts.sum()
    return float(-np.sum(probabilities * np.log2(probabilities))) + 0.0


def _counts(integers: np.ndarray) -> np.ndarray:
    """Return how often each distinct integer of an array is there, in their order."""
    lowest, highest = (int(integers.min()), int(integers.max())) if integers.size else (0, 0)
    if highest - lowest < 8 * integers.size:  # many times as fast as sorting
        counts = np.bincount(integers.ravel() - lowest)
        return counts[counts > 0]
    return np.unique(integers, return_counts=True)[1]


def integer_statistics(arrays: list[np.ndarray]) -> dict[str, float]:
    """Return statistics over several integer arrays taken together.

    Args:
        arrays: non-empty list of integer arrays, one per quantized parameter.

    Returns:
        Dictionary of `unique` (number of distinct integers over all arrays), `min`, `max`, `zeros` (share of
        zeros) and `entropy_bits` (mean per element, each array coded by its own distribution).

    Example:

    >>> integer_statistics([np.array([0, 0, 1, 2]), np.array([2, 2, 2, 2])])
    {'unique': 3, 'min': 0, 'max': 2, 'zeros': 0.25, 'entropy_bits': 0.75}
    """
    together = np.concatenate([np.ravel(array) for array in arrays])
    return {
        "unique": len(np.unique(together)),
        "min": int(together.min()),
        "max": int(together.max()),
        "zeros": float(np.mean(together == 0)),
        "entropy_bits": sum(entropy_bits(array) * array.size for array in arrays) / together.size,
    }


def summary(model: keras.layers.Layer) -> "Summary":
    """Return a table with one row per quantized parameter of a built layer or model.

    Columns: `parameter` (path), `shape`, `granularity`, `scale_min`, `scale_max`, `unique`, `min`, `max` (of the
    integers), `zeros` (share of zeros), `entropy_bits` (per element) and `note`: `"all zero"`, or `"full range"` where
    the integers have `bits` and reach both ends, so that elements may be clipped.

    What is displayed, in a terminal or a notebook, is shorter than what the table holds.

    Args:
        model: a built layer or model, made of `lqs` layers or by `lqs.quantize`.

    Returns:
        `lqs.tables.Summary`, a `pandas.DataFrame`, empty if nothing is quantized.

    Raises:
        ValueError: if `model` is not a Keras layer, or its integers are not those that it computes with: variables that
            are not finite, scales that are not positive, integers beyond int32.

    Warns:
        UserWarning: if the model has been trained, and no scale has changed, or integers take 12 bits or more.

    Example:

    >>> from lqs.conversion import quantize
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_initializer="ones")])
    >>> summary(quantize(model, bias=None))[["shape", "granularity", "unique", "entropy_bits"]]
        shape granularity  unique  entropy_bits
    0  (4, 3)      scalar       1           0.0
    """
    from lqs.tables import COLUMNS, Summary

    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"Argument `model` must be a Keras layer or model. Received: model={model!r}")
    check_values(model)
    warn_of_training(model)
    rows = [_summary_row(variable, quantizer) for variable, quantizer in quantized_parameters(model)]
    return Summary(rows, columns=COLUMNS)


def _summary_row(variable: keras.Variable, quantizer: NestedQuantization) -> dict[str, Any]:
    integers, scale = to_numpy(quantizer.integers(variable.value)), to_numpy(quantizer.scale)
    statistics, levels = integer_statistics([integers]), quantizer.levels
    is_full = levels is not None and (statistics["min"], statistics["max"]) == tuple(levels)
    return {
        "parameter": variable.path,
        "shape": tuple(variable.shape),
        "granularity": quantizer.granularity,
        "scale_min": float(scale.min()),
        "scale_max": float(scale.max()),
        **statistics,
        "note": "all zero" if statistics["zeros"] == 1 else "full range" * is_full,
    }


def check_values(model: keras.layers.Layer) -> None:
    """Raise unless the values of a layer or model are such that its integers are those that it computes with.

    Raises:
        ValueError: if a variable is not finite, a scale is not a positive number, or an integer `P_q` is beyond int32.
    """
    for variable in model.variables:
        if keras.backend.is_float_dtype(variable.dtype):
            check_finite(variable)
    for variable, quantizer in quantized_parameters(model):
        _check_integers(variable, quantizer)


def check_finite(variable: keras.Variable) -> None:
    """Raise a `ValueError` unless all elements of a variable are finite."""
    value = to_numpy(variable.value).astype("float64")
    finite = np.isfinite(value)
    if not finite.all():
        raise ValueError(
            f"Argument `model` must have finite variables; its training may have diverged. Received: {variable.path} "
            f"with {np.count_nonzero(~finite):,} of {value.size:,} values that are not finite"
        )


def _check_integers(variable: keras.Variable, quantizer: NestedQuantization) -> None:
    """Raise unless the scale is a positive number and all integers fit into int32, by the ratios in float64."""
    scale = to_numpy(quantizer.scale).astype("float64")
    if not np.all((scale > 0) & np.isfinite(scale)):
        raise ValueError(
            f"Argument `model` must have scales that are positive numbers. Received: {variable.path} with scales from "
            f"{scale.min():.4g} to {scale.max():.4g}"
        )
    if quantizer.levels is not None:
        return  # clipped
    ratio = np.abs(to_numpy(variable.value).astype("float64") / scale).max(initial=0)
    if ratio > LARGEST_RATIO:
        raise ValueError(
            f"Argument `model` must have integers within int32: give the parameter a larger scale, or leave it in "
            f"float by the argument `where` of `lqs.quantize`. Received: {variable.path} of up to {ratio:.4g} times "
            "its scale"
        )


def to_numpy(tensor: Tensor) -> np.ndarray:
    """Return the NumPy array of a backend tensor or variable, also of one with a copy on each of several devices."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.copy(tensor)))
