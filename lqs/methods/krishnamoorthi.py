"""One scale for each channel, by its largest element (Krishnamoorthi 2018, arXiv 1806.08342)."""

from lqs.methods.min_max import min_max


def krishnamoorthi(bits, **overrides):
    """Return the `NestedQuantization` of `min_max` with one scale for each output channel.

    It is what the paper advises for weights, in its symmetric form, in training; its quantization after training is
    the same without training, and the paper's activations stay in float here.

    Args:
        bits: width of the integers.
        overrides: other arguments of `NestedQuantization`.
    """
    return min_max(bits, **{"granularity": "output", **overrides})
