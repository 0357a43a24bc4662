"""What a model must be for its file, its sizes and its exports to be right."""

import keras
import numpy as np

from lqs.inspection import quantized_parameters, to_numpy

LARGEST_RATIO = np.nextafter(np.float32(2**31), np.float32(0))  # of which the integer is an int32


def check_savable(model):
    """Raise unless a model can be stored, and what is stored is what it computes with.

    Raises:
        ValueError: if `model` is not a built Keras model, a variable is not finite, a scale is not a positive number,
            or an integer `P_q` is beyond int32.
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"Argument `model` must be a built Keras model. Received: model={model!r}")
    for variable in model.variables:
        if keras.backend.is_float_dtype(variable.dtype):
            _check_finite(variable)
    for variable, quantizer in quantized_parameters(model):
        _check_integers(variable, quantizer)


def _check_finite(variable):
    value = to_numpy(variable.value).astype("float64")
    finite = np.isfinite(value)
    if not finite.all():
        raise ValueError(
            f"Argument `model` must have finite variables; its training may have diverged. Received: {variable.path} "
            f"with {np.count_nonzero(~finite):,} of {value.size:,} values that are not finite"
        )


def _check_integers(variable, quantizer):
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
