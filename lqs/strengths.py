"""Strengths: thresholds, rates and probabilities, which are checked here and kept as weights.

A strength is a non-trainable float32 weight of shape `()`. It can be assigned between epochs without retracing, is
saved with the model, and can be mapped over by `jax.vmap`.
"""

import math

import keras
import numpy as np


def validate_strength(name: str, value: float, highest: float = math.inf) -> float:
    """Return `value` as a float if it is a finite number from 0 to `highest`; `name` is for the error message.

    Raises:
        ValueError: if it is not.

    Example:

    >>> validate_strength("rate", 1)
    1.0
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value <= highest:
        wanted = "finite number >= 0" if highest == math.inf else f"number from 0 to {highest:g}"
        raise ValueError(f"Argument `{name}` must be a {wanted}. Received: {name}={value!r}")
    return float(value)


def add_strength(layer: keras.layers.Layer, name: str, value: float) -> keras.Variable:
    """Add the scalar `value` to `layer` as a non-trainable float32 weight."""
    initializer = keras.initializers.Constant(value)
    return layer.add_weight(name=name, shape=(), initializer=initializer, dtype="float32", trainable=False)


def strength_value(weight: keras.Variable) -> float:
    """Return the present value of a strength: the shortest decimal number whose float32 it is.

    Example:

    >>> layer = keras.layers.Layer()
    >>> strength_value(add_strength(layer, "rate", 1e-10))
    1e-10
    """
    return float(str(np.float32(keras.ops.convert_to_numpy(keras.ops.copy(weight)))))
