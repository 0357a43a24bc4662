"""Granularity: along which axes of a parameter tensor the scale factor varies.

A *granularity* is the set of axes of a parameter tensor `P` along which the scale `s` varies. Every other
axis of `s` has size 1, so that `s` broadcasts against `P`; the elements of `P` along those other axes share
one scale (thesis, section 3.1, "Granularity").
"""

from typing import Any, TypeAlias

Granularity: TypeAlias = "str | tuple[int, ...]"
GRANULARITIES = ("scalar", "row", "column", "channel", "filter", "output")

# name: (axis along which the scale varies, least rank of a tensor that has such an axis)
_NAMED_AXES = {"row": (0, 2), "column": (1, 2), "channel": (-2, 3), "filter": (-1, 3), "output": (-1, 1)}


def validate_granularity(granularity: Any) -> Granularity:
    """Return `granularity` as a known name or a tuple of integers.

    Raises:
        ValueError: if it is neither.

    Example:

    >>> validate_granularity("row"), validate_granularity([0, 1])
    ('row', (0, 1))
    """
    if isinstance(granularity, str) and granularity in GRANULARITIES:
        return granularity
    is_sequence = isinstance(granularity, (tuple, list))
    if is_sequence and all(isinstance(axis, int) and not isinstance(axis, bool) for axis in granularity):
        return tuple(granularity)
    raise ValueError(
        f"Argument `granularity` must be one of {GRANULARITIES} or a tuple of axes. "
        f"Received: granularity={granularity!r}"
    )


def varying_axes(granularity: Granularity, rank: int) -> tuple[int, ...]:
    """Return the sorted, non-negative axes along which the scale of a rank-`rank` tensor varies.

    | name      | dense kernel `(in, out)` | convolution kernel `(height, width, in, out)` |
    |-----------|--------------------------|-----------------------------------------------|
    | `scalar`  | none                     | none                                          |
    | `row`     | 0                        | 0                                             |
    | `column`  | 1                        | 1                                             |
    | `channel` | error                    | -2 (`in`)                                     |
    | `filter`  | error                    | -1 (`out`)                                    |
    | `output`  | -1 (`out`)               | -1 (`out`)                                    |

    With `output`, `lqs.quantize` asks `lqs.outputs` for the axes, which are others in some layers.

    Args:
        granularity: one of `GRANULARITIES`, or a tuple of axes (negative axes count from the end).
        rank: number of axes of the parameter tensor.

    Raises:
        ValueError: if the granularity is unknown or the tensor has no such axis.

    Example:

    >>> varying_axes("channel", rank=4), varying_axes((0, -1), rank=4)
    ((2,), (0, 3))
    """
    granularity = validate_granularity(granularity)
    if granularity == "scalar":
        return ()
    if isinstance(granularity, str):
        axis, least_rank = _NAMED_AXES[granularity]
        if rank < least_rank:
            raise ValueError(
                f"Granularity {granularity!r} needs a parameter tensor of rank {least_rank} or more. "
                f"Received: granularity={granularity!r} for a tensor of rank {rank}"
            )
        return (axis % rank,)
    axes = tuple(sorted(axis % rank for axis in granularity if -rank <= axis < rank))
    if len(axes) != len(granularity) or len(set(axes)) != len(axes):
        raise ValueError(
            f"Argument `granularity` must name distinct axes of a tensor of rank {rank}. "
            f"Received: granularity={granularity}"
        )
    return axes


def sharing_axes(granularity: Granularity, rank: int) -> tuple[int, ...]:
    """Return the axes along which the elements of a tensor share one scale: all but `varying_axes`.

    Example:

    >>> sharing_axes("row", rank=2), sharing_axes("scalar", rank=3)
    ((1,), (0, 1, 2))
    """
    varying = varying_axes(granularity, rank)
    return tuple(axis for axis in range(rank) if axis not in varying)


def scale_shape(granularity: Granularity, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the scale of a parameter tensor of shape `shape`.

    Example:

    >>> scale_shape("row", (784, 128)), scale_shape("channel", (3, 3, 16, 32))
    ((784, 1), (1, 1, 16, 1))
    """
    varying = varying_axes(granularity, len(shape))
    return tuple(size if axis in varying else 1 for axis, size in enumerate(shape))
