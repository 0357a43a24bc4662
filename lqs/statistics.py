"""Statistics of the integers and scales of a quantized model."""

import io
import zipfile

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


def histogram(integers, max_bins=512):
    """Return a histogram of an integer array as `{"start", "width", "counts"}`.

    Bin `i` counts the integers from `start + i * width` up to, not including, `start + (i + 1) * width`. The
    width is 1, that is the histogram is exact, if the range has at most `max_bins` integers.

    Example:

    >>> histogram(np.array([-1, 0, 0, 2]))
    {'start': -1, 'width': 1, 'counts': [1, 2, 0, 1]}
    """
    start, stop = int(integers.min()), int(integers.max()) + 1
    width = -(-(stop - start) // max_bins)
    counts = np.bincount((np.ravel(integers).astype("int64") - start) // width)
    return {"start": start, "width": width, "counts": counts.tolist()}


def zipped_bytes(arrays):
    """Return the size in bytes of a deflated zip archive with one member per array, and their dtype.

    This is the thesis's accounting: int8 codes, no scales. Integers that int8 does not hold are stored in the
    smallest type that holds them all (the thesis's cast wraps around); float arrays as they are.

    Example:

    >>> zipped_bytes([np.zeros(1000, "int32")])[1], zipped_bytes([np.array([0, 200])])[1]
    ('int8', 'int16')
    """
    buffer, dtype = zip_archive(arrays)
    return buffer.getbuffer().nbytes, dtype.name


def zip_archive(arrays):
    """Return the archive of `zipped_bytes` as an `io.BytesIO`, and the `numpy.dtype` of its members."""
    dtype = np.result_type(*arrays)
    if dtype.kind == "i":
        lowest, highest = min(a.min() for a in arrays), max(a.max() for a in arrays)
        dtype = np.min_scalar_type(min(int(lowest), -int(highest) - 1))  # the smallest signed type for both
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for index, array in enumerate(arrays):
            archive.writestr(str(index), array.astype(dtype).tobytes())
    return buffer, dtype


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

    >>> from lqs.wrapping import quantize
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
