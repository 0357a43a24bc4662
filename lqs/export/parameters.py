"""Parameters of a model as ONNX and LiteRT files hold them: integers in the smallest type that fits, with a scale."""

from dataclasses import dataclass

import keras
import numpy as np
import pandas as pd

from lqs.inspection import nested_layers, quantized_parameters, to_numpy
from lqs.substitution import quantize_values

BITS = {"int2": 2, "int4": 4, "int8": 8, "int16": 16}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a model, as a file holds it.

    Args:
        name: path of the variable.
        variable: the variable of the model.
        value: what the model computes with; float32, if the variable is of floats.
        integers: int32 array of the variable's shape, or `None` if it is not quantized.
        scale: float32 array of shape `()`, or `(n,)` along `axis`; `None` if the parameter is left in float.
        axis: axis along which the scale varies, or `None`.
        stored: type in the file.
        reason: why the parameter is left in float; empty if it is not.
    """

    name: str
    variable: keras.Variable
    value: np.ndarray
    integers: np.ndarray | None = None
    scale: np.ndarray | None = None
    axis: int | None = None
    stored: str = "float32"
    reason: str = "not quantized"

    def content(self, permutation):
        """Return what the file holds, integers or floats, and the scale axis; transposed unless `None`."""
        array = self.value if self.integers is None or self.scale is None else self.integers
        if permutation is None:
            return array, self.axis
        axis = None if self.axis is None else permutation.index(self.axis)
        return array.transpose(permutation), axis


def parameters_of(model, types, one_scale=()):
    """Return a `Parameter` for each weight of the float network.

    Args:
        model: a built model.
        types: integer types, of `BITS`.
        one_scale: those of them that take no scales along an axis.
    """
    nested = {id(variable) for layer in nested_layers(model) for variable in layer.variables}
    quantizers = {id(variable): quantizer for variable, quantizer in quantized_parameters(model)}
    with keras.StatelessScope():  # leaves no penalties behind in the layers
        values = quantize_values(quantized_parameters(model))
    found = []
    for variable in model.weights:
        quantizer = quantizers.get(id(variable))
        if quantizer is not None:
            found.append(_quantized(variable, to_numpy(values[id(variable)]), quantizer, types, one_scale))
        elif id(variable) not in nested:
            found.append(Parameter(variable.path, variable, to_numpy(variable.value)))
    return found


def _quantized(variable, value, quantizer, types, one_scale):
    """Return the `Parameter` of a quantized variable."""
    integers, scale = to_numpy(quantizer.integers(variable.value)), to_numpy(quantizer.scale)
    parameter = variable.path, variable, value, integers
    axes = [axis for axis, size in enumerate(scale.shape) if size > 1]
    if quantizer.codebook is not None:
        return Parameter(*parameter, reason="levels of a codebook")
    if len(axes) > 1:
        return Parameter(*parameter, reason=f"scales vary along {len(axes)} axes")
    types = [name for name in types if not axes or name not in one_scale]
    stored = smallest_type(integers, types)
    if stored is None:
        widest = max(types, key=BITS.__getitem__, default="types")
        return Parameter(*parameter, reason=f"integers {integers.min()}…{integers.max()} beyond {widest}")
    return Parameter(*parameter, np.squeeze(scale), axes[0] if axes else None, stored, "")


def smallest_type(integers, types):
    """Return the smallest of the integer `types` that holds all of `integers`, or `None`.

    Example:

    >>> smallest_type(np.array([-8, 7]), ["int8", "int4"]), smallest_type(np.array([8]), ["int4"])
    ('int4', None)
    """
    lowest, highest = int(integers.min()), int(integers.max())
    fitting = [name for name in types if max(-lowest, highest + 1) <= 2 ** (BITS[name] - 1)]
    return min(fitting, key=BITS.__getitem__, default=None)


def packed(integers, bits):
    """Return the bytes of an integer array, two's complement, little-endian, the first element lowest.

    Example:

    >>> packed(np.array([1, -2, 7]), 4).hex(), packed(np.array([1, -2]), 16).hex()
    ('e107', '0100feff')
    """
    if bits >= 8:
        return integers.astype(f"<i{bits // 8}").tobytes()
    per_byte = 8 // bits
    codes = np.pad(np.ravel(integers) & (2**bits - 1), (0, -integers.size % per_byte)).astype("uint8")
    shifted = codes.reshape(-1, per_byte) << np.arange(0, 8, bits, dtype="uint8")
    return np.bitwise_or.reduce(shifted, axis=1).tobytes()


def table(parameters):
    """Return the table of `export_onnx`."""
    rows = [
        {
            "parameter": parameter.name,
            "shape": tuple(parameter.variable.shape),
            "min": None if parameter.integers is None else int(parameter.integers.min()),
            "max": None if parameter.integers is None else int(parameter.integers.max()),
            "stored": parameter.stored,
            "reason": parameter.reason,
        }
        for parameter in parameters
    ]
    found = pd.DataFrame(rows, columns=["parameter", "shape", "min", "max", "stored", "reason"])
    return found.astype({"min": "Int64", "max": "Int64"})
