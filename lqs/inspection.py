"""Statistics of the integers and scales of a quantized model."""

import keras
import numpy as np
import pandas as pd

from lqs.layers import QuantizedParameters


def quantized_parameters(model):
    """Return pairs `(variable, NestedQuantization)` for every quantized parameter of a built layer or model."""
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, QuantizedParameters)]
    pairs = [pair for layer in layers for pair in layer.quantized_parameters()]
    return list({id(variable): (variable, quantizer) for variable, quantizer in pairs}.values())


def model_integers(model):
    """Return `{path of the variable: int32 array}` for every quantized parameter of `model`."""
    pairs = quantized_parameters(model)
    return {variable.path: to_numpy(quantizer.integers(variable.value)) for variable, quantizer in pairs}


def entropy_bits(integers):
    """Return the empirical entropy of an integer array, in bits per element.

    Example:

    >>> entropy_bits(np.array([0, 0, 1, 2]))
    1.5
    """
    counts = np.unique(integers, return_counts=True)[1]
    probabilities = counts / counts.sum()
    return float(-np.sum(probabilities * np.log2(probabilities))) + 0.0


def integer_statistics(arrays):
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


def summary(model):
    """Return a table with one row per quantized parameter of a built layer or model.

    Columns: `parameter` (path), `shape`, `granularity`, `scale_min`, `scale_max`, `unique`, `min`, `max` (of the
    integers), `entropy_bits` (per element) and `zeros` (share of zeros).

    Args:
        model: a built layer or model, made of `lqs` layers or by `lqs.quantize`.

    Returns:
        `pandas.DataFrame`, empty if nothing is quantized.

    Raises:
        ValueError: if `model` is not a Keras layer.

    Example:

    >>> from lqs.conversion import quantize
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_initializer="ones")])
    >>> summary(quantize(model, bias=None))[["shape", "granularity", "unique", "entropy_bits"]]
        shape granularity  unique  entropy_bits
    0  (4, 3)      scalar       1           0.0
    """
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(f"Argument `model` must be a Keras layer or model. Received: model={model!r}")
    rows = [_summary_row(variable, quantizer) for variable, quantizer in quantized_parameters(model)]
    return pd.DataFrame(rows)


def _summary_row(variable, quantizer):
    integers, scale = to_numpy(quantizer.integers(variable.value)), to_numpy(quantizer.scale)
    return {
        "parameter": variable.path,
        "shape": tuple(variable.shape),
        "granularity": quantizer.granularity,
        "scale_min": float(scale.min()),
        "scale_max": float(scale.max()),
        **integer_statistics([integers]),
    }


def to_numpy(tensor):
    """Return the NumPy array of a backend tensor or variable."""
    return np.asarray(keras.ops.convert_to_numpy(tensor))
