"""Measures: scales that are computed from the parameter, where the thesis learns them by gradients.

A measure is a pure function of a tensor, axes and levels,

    measure(parameter, axes, levels) -> scale, with size 1 on the `axes` along which elements share one

where `levels` is the pair of the lowest and the highest integer. `lqs.Measured` takes it at every training step, and
`NestedQuantization(initial_scale=...)` once, from the initial values.
"""

import functools
import math

from keras import ops

TERNARY_THRESHOLD = 0.7


def max_scale(parameter, axes, levels):
    """Return `max(abs(P)) / highest`: the highest integer stands for the largest element.

    This is min-max quantization (Jacob 2018, arXiv 1712.05877) in its symmetric form, that of weights.

    Example:

    >>> import numpy as np
    >>> np.asarray(max_scale(np.array([[1.0, -3.5], [7.0, 0.0]]), (1,), (-8, 7))).tolist()
    [[0.5], [1.0]]
    """
    return ops.divide(ops.max(ops.abs(parameter), axis=axes, keepdims=True), levels[1])


def mean_scale(parameter, axes, levels):
    """Return `mean(abs(P))`, with which signs are nearest to `P` (XNOR-Net, Rastegari 2016, arXiv 1603.05279).

    Example:

    >>> import numpy as np
    >>> np.asarray(mean_scale(np.array([1.0, -3.0]), (0,), (-1, 1))).tolist()
    [2.0]
    """
    return ops.mean(ops.abs(parameter), axis=axes, keepdims=True)


def lsq_scale(parameter, axes, levels):
    """Return `2 mean(abs(P)) / sqrt(highest)`, from which LSQ starts (Esser 2020, arXiv 1902.08153).

    Example:

    >>> import numpy as np
    >>> np.asarray(lsq_scale(np.array([1.0, -3.0]), (0,), (-4, 4))).tolist()
    [2.0]
    """
    return ops.multiply(mean_scale(parameter, axes, levels), 2 / math.sqrt(levels[1]))


def ternary_scale(parameter, axes, levels):
    """Return the mean of `abs(P)` over the elements that `is_large` (TWN, Li 2016, arXiv 1605.04711).

    Example: of 4, 0 and 2 in magnitude, the mean is 2 and the threshold 1.4.

    >>> import numpy as np
    >>> np.asarray(ternary_scale(np.array([4.0, 0.0, -2.0], "float32"), (0,), (-1, 1))).tolist()
    [3.0]
    """
    large = ops.cast(is_large(parameter, axes), parameter.dtype)
    total = ops.sum(ops.multiply(ops.abs(parameter), large), axis=axes, keepdims=True)
    return ops.divide(total, ops.maximum(ops.sum(large, axis=axes, keepdims=True), 1))


def is_large(parameter, axes):
    """Return the mask of the elements that TWN does not round to zero: `abs(P) > 0.7 mean(abs(P))`."""
    magnitude = ops.abs(parameter)
    return ops.greater(magnitude, TERNARY_THRESHOLD * ops.mean(magnitude, axis=axes, keepdims=True))


MEASURES = {"max": max_scale, "mean": mean_scale, "lsq": lsq_scale, "ternary": ternary_scale}
_NEED_LEVELS = ("max", "lsq")


def get_measure(name, levels):
    """Return the function `(parameter, axes) -> scale` of a name among `MEASURES`.

    Raises:
        ValueError: if the measure depends on `levels`, and there are none.
    """
    if levels is None and name in _NEED_LEVELS:
        raise ValueError(f"Argument `bits` must be given, for a scale by the measure {name!r}. Received: bits=None")
    return functools.partial(MEASURES[name], levels=levels)
