"""Closed forms by loops in float64, and the inputs that tests of several modules draw."""

import math

import numpy as np

BAD_STRENGTHS = [-1e-12, math.nan, math.inf, -math.inf, True, "1", None, 1j]

# tensor shape, axes along which the scale varies, axes along which elements share one
CASES = [
    ((5,), (), (0,)),
    ((5,), (0,), ()),
    ((4, 3), (), (0, 1)),
    ((4, 3), (0,), (1,)),
    ((4, 3), (1,), (0,)),
    ((4, 3), (0, 1), ()),
    ((3, 2, 4, 5), (2,), (0, 1, 3)),
    ((3, 2, 4, 5), (0, 3), (1, 2)),
]


def grouped(shape, varying):
    """Return `{index of a scale: [indices of its elements]}`."""
    groups = {}
    for index in np.ndindex(*shape):
        groups.setdefault(tuple(i if axis in varying else 0 for axis, i in enumerate(index)), []).append(index)
    return groups


def drawn(shape, varying, seed=0, spread=6):
    """Return `upstream, parameter, integers, scale`; no quotient is near an integer or a half."""
    rng = np.random.default_rng(seed)
    scale_shape = [size if axis in varying else 1 for axis, size in enumerate(shape)]
    scale = rng.uniform(0.05, 0.4, scale_shape).astype("float32")
    integers = rng.integers(-spread, spread + 1, shape).astype("float32")
    parameter = ((integers + rng.uniform(0.1, 0.9, shape)) * scale).astype("float32")
    upstream = (rng.normal(size=shape) * 10.0 ** rng.integers(-3, 1, shape)).astype("float32")
    return upstream, parameter, integers, scale


def ratio_by_loops(upstream, integers, scale, varying, threshold, stalled):
    gradient = np.zeros(scale.shape)
    for key, members in grouped(upstream.shape, varying).items():
        s = float(scale[key])
        ratios = [abs(float(upstream[i])) / max(2.0**-23, abs(float(integers[i]) * s)) for i in members]
        votes = [-math.tanh(threshold - ratio) for ratio in ratios if ratio < threshold]
        mean = math.fsum(votes) / len(ratios)
        if stalled and not votes:
            mean = -math.tanh(threshold)
        gradient[key] = mean * max(abs(float(integers[i])) for i in members)
    return gradient


def fisher_by_loops(upstream, parameter, integers, scale, varying, threshold):
    gradient = np.zeros(scale.shape)
    for key, members in grouped(upstream.shape, varying).items():
        s, own = float(scale[key]), [float(integers[i]) for i in members]
        costs = [(float(upstream[i]) * (float(parameter[i]) - s * float(integers[i]))) ** 2 for i in members]
        saved = threshold if max(own) - min(own) > 1 else 0.0
        gradient[key] = (np.mean(costs) - saved) / s
    return gradient


def straight_by_loops(upstream, parameter, integers, scale, varying, levels=None):
    gradient = np.zeros(scale.shape)
    for key, members in grouped(upstream.shape, varying).items():
        for i in members:
            quotient = float(parameter[i]) / float(scale[key])
            slope = float(integers[i]) - quotient
            if levels is not None and quotient >= levels[1]:
                slope = levels[1]
            if levels is not None and quotient <= levels[0]:
                slope = levels[0]
            gradient[key] += float(upstream[i]) * slope
    return gradient
