"""Parts: what a nested quantization layer is composed of, a rule, a rounding and perhaps a penalty.

A part belongs to one parameter. The layer calls `build` once, with what is known of the parameter before it has a
value; all other methods of a part then take tensors only.
"""

from typing import Any, NamedTuple, TypeAlias

import keras

Tensor: TypeAlias = Any  # of any backend


class Levels(NamedTuple):
    """The lowest and the highest integer that a parameter is clipped to."""

    lowest: int
    highest: int


class Part(keras.layers.Layer):
    """Base of rules, roundings and penalties.

    It is a Keras layer only so that it can own weights: strengths, and what a published method learns.

    Attributes:
        shape: shape of the parameter.
        axes: axes along which its elements share one scale.
        levels: `Levels`, or `None` if the integers are unbounded.
    """

    # Not typed: methods are called when they are set.
    shape: Any = None
    axes: Any = None
    levels: Any = None

    def build(self, shape: tuple[int, ...], axes: tuple[int, ...], levels: Levels | None) -> None:
        """Take note of the parameter, and make weights for it; called once, by the layer that the part belongs to.

        Raises:
            ValueError: if the part belongs to a layer with another parameter.
        """
        shape, axes = tuple(shape), tuple(axes)
        if self.shape is not None and (self.shape, self.axes, self.levels) != (shape, axes, levels):
            raise ValueError(
                f"Each `lqs.NestedQuantization` needs a `{type(self).__name__}` of its own. Received: one for "
                f"parameters of the shapes {self.shape} and {shape}"
            )
        self.shape, self.axes, self.levels = shape, axes, levels

    def validate_levels(self, levels: Levels | None) -> None:
        """Raise a `ValueError` if the part cannot do with these `Levels`, or without any, `None`."""

    def get_build_config(self) -> None:
        """Return `None`: the layer that the part belongs to builds it."""

    def measured_scale(self, parameter: Tensor) -> Tensor | None:
        """Return `None`, or the scale that this part computes from the parameter at every training step.

        The scale is then a non-trainable weight, as a moving statistic of batch normalization is.
        """
        return None

    @property
    def measures_scale(self) -> bool:
        """Whether `measured_scale` gives a scale."""
        return type(self).measured_scale is not Part.measured_scale


def refuse_levels(part: Part, levels: Levels | None) -> None:
    """Raise a `ValueError` for a part that chooses its own widths, if there are levels."""
    if levels is not None:
        raise ValueError(f"Argument `bits` must be None, for a `{type(part).__name__}`. Received: {levels}")
