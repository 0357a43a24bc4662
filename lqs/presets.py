"""Presets: the settings of `lqs.NestedQuantization` that have a name, for `lqs.quantize(model, name)`.

| name | what it is for |
| --- | --- |
| `"compact"` | the smallest file for the accuracy: the task and the code length of the integers learn the scales |
| `"thesis"` | the thesis's rule: scales grow where the loss is not sensitive |
| those of `lqs.methods` | published methods |
"""

from typing import Any

from lqs import methods
from lqs.penalties import CodeLengthPenalty
from lqs.quantizer import NestedQuantization
from lqs.rules import DEFAULT_THRESHOLD, GradientRatio, StraightThrough


def compact(rate: float = 1e-3, **overrides: Any) -> NestedQuantization:
    """Return the layer whose scale the task and the code length of the integers learn, from a sixteenth of the spread.

    At first the network predicts as in float: the error of a parameter is a fiftieth of its spread. `lqs.TargetSize`
    sets the rate by the size that is asked for.

    Args:
        rate: of `lqs.CodeLengthPenalty`.
        overrides: other arguments of `NestedQuantization`.
    """
    settings = {"rule": StraightThrough(), "penalty": CodeLengthPenalty(rate), "rounding": "nearest"}
    return NestedQuantization(**{**settings, "parametrization": "log", "initial_scale": "spread", **overrides})


def thesis(threshold: float = DEFAULT_THRESHOLD, update_stalled: bool = True, **overrides: Any) -> NestedQuantization:
    """Return the thesis's layer (section 3.1).

    Args:
        threshold: `lam`; larger means coarser.
        update_stalled: `True` is the rule of the published experiments, `False` that of the draft; see
            `lqs.GradientRatio`.
        overrides: other arguments of `NestedQuantization`.
    """
    return NestedQuantization(**{"rule": GradientRatio(threshold, update_stalled), **overrides})


PRESETS = {"compact": compact, "thesis": thesis}
NAMES = (*PRESETS, *methods.METHODS)


def kernel_and_bias(name: str, arguments: dict[str, Any]) -> tuple[NestedQuantization, NestedQuantization | None]:
    """Return the prototypes of a preset for kernels and for biases, which published methods leave in float.

    Args:
        name: one of `NAMES`.
        arguments: of the preset. The granularity is that of the kernels; a bias has one scale.

    Raises:
        ValueError: if there is no such preset, or the arguments are not those of the preset.
    """
    if name not in NAMES:
        raise ValueError(f"Argument `kernel` must name a preset, one of {NAMES}. Received: kernel={name!r}")
    preset: Any = PRESETS[name] if name in PRESETS else methods.get(name)
    try:
        kernel = preset(**arguments)
    except TypeError as error:
        raise ValueError(
            f"The arguments must be those of the preset {name!r}. Received: {arguments} ({error})"
        ) from error
    return kernel, preset(**{**arguments, "granularity": "scalar"}) if name in PRESETS else None
