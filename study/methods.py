"""Methods: the nested quantization layers of a run, by the name of its method.

One table: a name stands for a *preset*, a function that returns a `lqs.NestedQuantization`. The thesis's methods and
ours are here, those that test the thesis's in `study.nulls`, and the published ones are all those of `lqs.methods`. The
signature of a preset says what a configuration may ask of it:

| parameter | in the configuration |
| --- | --- |
| `threshold`, `rate` or `probability` | `strength`, the number that a curve of the grid sweeps |
| `bits` | must be an integer, or may be if the parameter has a default; without the parameter it must be `None` |
| any other field of `study.configs.Quantizer` | that field |
| `**overrides` | granularity, rounding, initial scale and parametrization |
"""

import functools
import inspect

import lqs
from lqs import methods as published

STRENGTHS = ("threshold", "rate", "probability")


def nested(threshold, update_stalled=True, bits=None, **overrides):
    """Return the thesis's nested quantization layer (section 3.1): the scale grows where the loss is not sensitive."""
    return lqs.NestedQuantization(rule=lqs.GradientRatio(threshold, update_stalled), bits=bits, **overrides)


def max_bin(rate, bits=None, **overrides):
    """Return the layer with the thesis's loss term MaxBin (section 3.2)."""
    return lqs.NestedQuantization(rule=lqs.Frozen(), penalty=lqs.MaxBinPenalty(rate), bits=bits, **overrides)


def inverse(rate, bits=None, **overrides):
    """Return the layer with the thesis's loss term Inverse (section 3.2)."""
    return lqs.NestedQuantization(rule=lqs.Frozen(), penalty=lqs.InversePenalty(rate), bits=bits, **overrides)


def difference(rate, bits=None, **overrides):
    """Return the layer with the thesis's loss term Difference (section 3.2)."""
    return lqs.NestedQuantization(rule=lqs.Frozen(), penalty=lqs.DifferencePenalty(rate), bits=bits, **overrides)


def code_length(rate, code="geometric", bits=None, **overrides):
    """Return the layer with our loss term: the bits per parameter, with a straight-through gradient of the scale."""
    penalty = lqs.CodeLengthPenalty(rate, code)
    return lqs.NestedQuantization(rule=lqs.StraightThrough(), penalty=penalty, bits=bits, **overrides)


def fisher_information(threshold, bits=None, **overrides):
    """Return the layer with our rule: the scale grows until the loss feels its rounding errors."""
    return lqs.NestedQuantization(rule=lqs.rules.FisherInformation(threshold), bits=bits, **overrides)


def null(name, threshold, update_stalled=True, bits=None, **overrides):
    """Return the thesis's nested quantization layer with a rule of `study.nulls` in the place of its own."""
    from study import nulls  # imports Keras, which names and configurations do without

    return lqs.NestedQuantization(rule=nulls.RULES[name](threshold, update_stalled), bits=bits, **overrides)


THESIS = {preset.__name__: preset for preset in (nested, max_bin, inverse, difference)}
OURS = {preset.__name__: preset for preset in (code_length, fisher_information)}
CHANGES = ("ratio", "constant", "shuffled", "inverted", "live", "without_range", "without_tanh", "epsilon")
NULLS = {name: functools.partial(null, name) for name in (f"votes_{change}" for change in CHANGES)}
FLOAT = "float"  # no quantization
METHODS = (FLOAT, *THESIS, *OURS, *NULLS, *published.METHODS)


def get_preset(method):
    """Return the preset of a method, `None` for `"float"`.

    Raises:
        ValueError: if the method is unknown.
    """
    if method == FLOAT:
        return None
    return {**THESIS, **OURS, **NULLS}.get(method) or published.get(method)


def strength_name(method):
    """Return what the strength of a run is for its method, `None` if it is nothing.

    Example:

    >>> [strength_name(method) for method in ("nested", "max_bin", "quant_noise", "lsq", "float")]
    ['threshold', 'rate', 'probability', None, None]
    """
    names = [name for name in STRENGTHS if name in _parameters(method)]
    return names[0] if names else None


def quantizes_biases(method):
    """Return whether the biases are quantized too: by the thesis's methods and ours; not by published ones."""
    return method in {**THESIS, **OURS, **NULLS}


def quantizes_all_layers(method):
    """Return whether all layers are quantized, since the whole file counts, or those that the thesis quantizes."""
    return method not in (FLOAT, *THESIS, *NULLS)


def validate_quantizer(quantizer):
    """Check that the fields of a configuration's quantizer fit its method.

    It is no part of the configuration's own checks, since it needs the presets, and these Keras.

    Args:
        quantizer: `study.configs.Quantizer`.

    Raises:
        ValueError: if `bits` is missing, or if the method has no use for `bits` or for the strength.
    """
    bits = _parameters(quantizer.method).get("bits")
    is_required = bits is not None and bits.default is inspect.Parameter.empty
    if (bits is None and quantizer.bits is not None) or (is_required and quantizer.bits is None):
        raise ValueError(
            f"Argument `bits` must be {'an integer' if is_required else None} for the method {quantizer.method!r}. "
            f"Received: bits={quantizer.bits!r}"
        )
    if quantizer.strength and strength_name(quantizer.method) is None:
        raise ValueError(
            f"Argument `strength` must be 0 for the method {quantizer.method!r}, which has none. "
            f"Received: strength={quantizer.strength!r}"
        )


def make_preset(quantizer):
    """Return the function `granularity -> NestedQuantization` of a configuration.

    A method keeps a rounding of its own (a `lqs.Rounding`) and an initial scale of its own (a name); otherwise both are
    those of the configuration.

    Args:
        quantizer: `study.configs.Quantizer` of any method but `"float"`.

    Raises:
        ValueError: as `validate_quantizer`.

    Example:

    >>> from study.configs import make_config
    >>> make = make_preset(make_config("mnist", "lsq", bits=4, rounding="nearest", initial_scale=0.5).quantizer)
    >>> make("row").rounding, make("row").initial_scale
    ('nearest', 'lsq')
    """
    validate_quantizer(quantizer)
    fields = {**dict(quantizer), strength_name(quantizer.method): quantizer.strength}
    arguments = {name: fields[name] for name in _parameters(quantizer.method) if name in fields}
    preset = functools.partial(get_preset(quantizer.method), **arguments, parametrization=quantizer.parametrization)
    own = preset()
    if isinstance(own.rounding, str):
        preset = functools.partial(preset, rounding=quantizer.rounding)
    if not isinstance(own.initial_scale, str):
        preset = functools.partial(preset, initial_scale=quantizer.initial_scale)
    return lambda granularity: preset(granularity=granularity)


def _parameters(method):
    preset = get_preset(method)
    return inspect.signature(preset).parameters if preset else {}
