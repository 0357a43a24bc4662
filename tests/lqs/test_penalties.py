"""Penalties: values and gradients by hand, and their mean over the whole model in the reported loss."""

import functools
import math

import keras
import numpy as np
import pytest
from keras import ops
from oracles import BAD_STRENGTHS, grouped

import lqs
from lqs.penalties import CODES, geometric_code_length

PENALTIES = {
    "MaxBin": lqs.MaxBinPenalty,
    "Inverse": lqs.InversePenalty,
    "Difference": lqs.DifferencePenalty,
    "Elias": functools.partial(lqs.CodeLengthPenalty, code="elias"),
    "Geometric": lqs.CodeLengthPenalty,
}


def term_by_loops(name, parameter, scale):
    varying = [axis for axis, size in enumerate(scale.shape) if size > 1]
    groups = grouped(parameter.shape, varying)
    if name == "MaxBin":
        return sum(max(abs(float(parameter[i])) / float(scale[k]) for i in m) for k, m in groups.items()) / len(groups)
    if name == "Inverse":
        return sum(1 / float(scale[k]) for k in groups) / len(groups)
    quotients = [abs(float(parameter[i]) / float(scale[k])) for k, m in groups.items() for i in m]
    if name == "Elias":
        return sum(math.log2(1 + quotient) for quotient in quotients) / len(quotients)
    if name == "Geometric":
        return shortest_two_sided_geometric(sum(quotients) / len(quotients))
    deviations = [
        abs(float(parameter[i]) - float(parameter[i]) / float(scale[k])) for k, m in groups.items() for i in m
    ]
    return sum(deviations) / len(deviations)


def shortest_two_sided_geometric(mean):
    """Return the bits for which `-log2 p(k)`, with `p(k)` proportional to `q**abs(k)`, is least in the mean.

    By a search over `-log(q)`, and with the sum of `q**abs(k)` as the two geometric series that it is made of.
    """
    lowest, highest = -30.0, 10.0
    for _ in range(8):  # 10,000 points over a range that shrinks a thousandfold each time
        grid = np.linspace(lowest, highest, 10_001)
        rate = np.exp(grid)
        bits = (mean * rate + np.log1p(2 * np.exp(-rate) / -np.expm1(-rate))) / math.log(2)
        best, step = grid[bits.argmin()], 5 * (grid[1] - grid[0])
        lowest, highest = best - step, best + step
    return float(bits.min())


# P = [[1, -3], [2, 1]], s = [[0.5], [2]]
#   MaxBin      rows 3 / 0.5 = 6 and 2 / 2 = 1                            mean 3.5
#   Inverse     rows 2 and 0.5                                           mean 1.25
#   Difference  |1 - 2|, |-3 + 6|, |2 - 1|, |1 - 0.5| = 1, 3, 1, 0.5      mean 1.375
# Derivatives with respect to P and s (two scales, four elements):
#   MaxBin      the largest of each row: -1 / 0.5 / 2, 1 / 2 / 2;         -3 / 0.25 / 2, -2 / 4 / 2
#   Inverse     0;                                                       -1 / 0.25 / 2, -1 / 4 / 2
#   Difference  sign(P - P/s) * (1 - 1/s) / 4 = 1/4, -1/4, 1/8, 1/8;      sign * P / s**2 / 4 = -4, 3/16 summed
# The code lengths are of quotients 2, 6, 1, 1/2 in magnitude, whose mean is 19/8:
#   Elias       log2(3 * 7 * 2 * 1.5) / 4                                mean log2(63) / 4
#   Geometric   q solves 2 q / (1 - q**2) = 19/8: q = (sqrt(19**2 + 8**2) - 8) / 19 = (sqrt(425) - 8) / 19, and the bits
#               are -19/8 log2(q) + log2((1 + q) / (1 - q))
# Derivatives, with m = 19/8; that of the shortest code is its own for fixed q, -log2(q) for m:
#   Elias       sign(P) / (s + abs(P)) / log(2) / 4;      -abs(P) / s / (s + abs(P)) / log(2) / 4, summed
#   Geometric   sign(P) / s * -log2(q) / 4;               -abs(P) / s**2 * -log2(q) / 4, summed
LOG_2, Q = math.log(2), (math.sqrt(425) - 8) / 19
BY_HAND = {
    "MaxBin": (3.5, [[0, -1], [0.25, 0]], [[-6], [-0.25]]),
    "Inverse": (1.25, [[0, 0], [0, 0]], [[-2], [-0.125]]),
    "Difference": (1.375, [[0.25, -0.25], [0.125, 0.125]], [[-4], [3 / 16]]),
    "Elias": (
        math.log2(63) / 4,
        np.array([[1 / 1.5, -1 / 3.5], [1 / 4, 1 / 3]]) / LOG_2 / 4,
        np.array([[-2 / 1.5 - 6 / 3.5], [-1 / 4 - 1 / 2 / 3]]) / LOG_2 / 4,
    ),
    "Geometric": (
        -19 / 8 * math.log2(Q) + math.log2((1 + Q) / (1 - Q)),
        -math.log2(Q) / 4 * np.array([[2, -2], [0.5, 0.5]]),
        math.log2(Q) / 4 * np.array([[16], [0.75]]),
    ),
}
PARAMETER, SCALE = np.array([[1.0, -3.0], [2.0, 1.0]], "float32"), np.array([[0.5], [2.0]], "float32")


@pytest.mark.parametrize("name", PENALTIES)
def test_by_hand(name, gradients):
    value, parameter_gradient, scale_gradient = BY_HAND[name]
    assert term_by_loops(name, PARAMETER, SCALE) == pytest.approx(value, rel=1e-12)
    layer = lqs.NestedQuantization("row", lqs.Frozen(), PENALTIES[name](0.5))
    layer.build((2, 2))
    layer.scale.assign(SCALE)
    layer(PARAMETER)
    assert float(sum(layer.losses)) == pytest.approx(0.5 * value, rel=1e-6)
    upstream = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
    result = gradients(layer, PARAMETER, upstream)
    np.testing.assert_allclose(result[0], upstream + 0.5 * np.array(parameter_gradient), rtol=1e-6)
    np.testing.assert_allclose(result[1], 0.5 * np.array(scale_gradient), rtol=1e-6)


@pytest.mark.parametrize("name", PENALTIES)
def test_gradient_of_the_logarithm_is_that_of_the_scale_times_the_scale(name, gradients):
    layer = lqs.NestedQuantization("row", lqs.Frozen(), PENALTIES[name](0.5), parametrization="log")
    layer.build((2, 2))
    layer.scale_weight.assign(np.log(SCALE))
    parameter_gradient, weight_gradient = gradients(layer, PARAMETER, 0 * PARAMETER)
    np.testing.assert_allclose(parameter_gradient, 0.5 * np.array(BY_HAND[name][1]), rtol=1e-5)
    np.testing.assert_allclose(weight_gradient, 0.5 * np.array(BY_HAND[name][2]) * SCALE, rtol=1e-5)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("spread", [1e-3, 0.05, 1, 30, 1e4])
def test_code_lengths_and_their_gradients_by_finite_differences(code, spread, gradients, rng):
    """Of the value by loops, in float64, along a random direction of parameter and scale."""
    name = code.capitalize()
    layer = lqs.NestedQuantization("column", lqs.Frozen(), lqs.CodeLengthPenalty(1.0, code))
    layer.build((5, 4))
    scale = rng.uniform(0.5, 2, (1, 4)).astype("float32")
    parameter = (spread * rng.laplace(size=(5, 4))).astype("float32")
    layer.scale.assign(scale)
    layer(parameter)
    assert float(sum(layer.losses)) == pytest.approx(term_by_loops(name, parameter, scale), rel=2e-5)
    directions = [rng.normal(size=array.shape) * array for array in (parameter, scale)]
    sides = [
        term_by_loops(
            name,
            *[
                array.astype("float64") + sign * 1e-4 * d
                for array, d in zip((parameter, scale), directions, strict=True)
            ],
        )
        for sign in (1, -1)
    ]
    result = gradients(layer, parameter, 0 * parameter)
    slope = sum(np.sum(gradient * direction) for gradient, direction in zip(result, directions, strict=True))
    assert slope == pytest.approx((sides[0] - sides[1]) / 2e-4, rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("granularity", ["scalar", "row"])
def test_code_lengths_of_zeros(code, granularity, gradients):
    """No bits, and finite gradients; one element that is not 0 is drawn towards it."""
    layer = lqs.NestedQuantization(granularity, lqs.Frozen(), lqs.CodeLengthPenalty(1.0, code), initial_scale=0.5)
    layer.build((3, 4))
    parameter = np.zeros((3, 4), "float32")
    layer(parameter)
    assert float(sum(layer.losses)) == pytest.approx(0, abs=1e-6)
    parameter_gradient, scale_gradient = gradients(layer, parameter, parameter)
    assert np.isfinite(parameter_gradient).all() and np.all(scale_gradient == 0)
    for value in (1e-30, 1e-3, -1e-3):
        parameter[1, 2] = value
        parameter_gradient, scale_gradient = gradients(layer, parameter, 0 * parameter)
        assert np.isfinite(parameter_gradient).all() and parameter_gradient[1, 2] * value > 0
        assert np.isfinite(scale_gradient).all() and np.all(scale_gradient <= 0)


@pytest.mark.parametrize("q", [0.01, 0.2, 0.6, 0.9, 0.98])
def test_geometric_code_length_is_that_of_the_best_code_for_integers(q, rng):
    """A search over explicit codes of integers drawn from one: no two-sided geometric code is shorter."""
    integers = rng.geometric(1 - q, 5000) - rng.geometric(1 - q, 5000)
    support = np.abs(np.arange(-20_000, 20_001))
    lengths = []
    for base in 1 / (1 + np.exp(np.linspace(-7, 7, 400))):
        lengths.append(np.mean(-np.log2(base) * np.abs(integers)) + np.log2(np.sum(base**support)))
    length = float(geometric_code_length(integers.astype("float32"), np.ones((1,), "float32"), (0,)))
    assert length == pytest.approx(min(lengths), rel=1e-3) and length <= min(lengths) * (1 + 1e-5)


def test_added_to_the_gradient_of_the_rule(gradients):
    layer = lqs.NestedQuantization("row", lqs.GradientRatio(0.5), lqs.InversePenalty(1.0))
    layer.build((2, 2))
    layer.scale.assign(SCALE)
    _, scale_gradient = gradients(layer, PARAMETER, 0 * PARAMETER)  # all vote -tanh(0.5); ranges 6 and 1
    np.testing.assert_allclose(scale_gradient, [[-2 - 6 * np.tanh(0.5)], [-0.125 - np.tanh(0.5)]], rtol=1e-6)


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("granularity", ["scalar", "row", "column", "channel", "filter", (0, -1)])
def test_terms(name, granularity, rng):
    layer = lqs.NestedQuantization(granularity, lqs.Frozen(), PENALTIES[name](2.0))
    parameter = rng.normal(size=(3, 2, 4, 5)).astype("float32")
    layer.build(parameter.shape)
    scale = rng.uniform(0.1, 2, layer.scale.shape).astype("float32")
    layer.scale.assign(scale)
    layer(parameter)
    assert float(sum(layer.losses)) == pytest.approx(2 * term_by_loops(name, parameter, scale), rel=1e-5)


def dense(units, name, rate=0.5, granularity="row", **arguments):
    quantizer = lqs.NestedQuantization(granularity, lqs.Frozen(), PENALTIES[name](rate))
    bias = lqs.NestedQuantization("scalar", lqs.Frozen(), PENALTIES[name](rate))
    return lqs.QuantDense(units, kernel_quantizer=quantizer, bias_quantizer=bias, **arguments)


def two_layers(name):
    return keras.Sequential([keras.Input((4,)), dense(7, name), dense(3, name, granularity="column")])


def mixed(name):
    """A `QuantDense` beside layers that `lqs.quantize` wraps, one of them without a penalty for its bias."""
    model = keras.Sequential([keras.Input((4,)), dense(7, name), keras.layers.Dense(5), keras.layers.Dense(3)])
    kernel = lqs.NestedQuantization("column", lqs.Frozen(), PENALTIES[name](0.5))
    return lqs.quantize(model, kernel=kernel, bias=lqs.NestedQuantization(rule=lqs.Frozen()))


def nested(name):
    inner = keras.Sequential([keras.Input((7,)), dense(6, name), keras.layers.LayerNormalization()])
    inputs = keras.Input((4,))
    return keras.Model(inputs, dense(3, name)(inner(dense(7, name)(inputs))))


@keras.saving.register_keras_serializable("test_penalties")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = keras.layers.Dense(7), keras.layers.Dense(3)

    def build(self, input_shape):
        self.first.build(input_shape)
        self.second.build((None, 7))

    def call(self, inputs):
        return self.second(self.first(inputs))


def subclassed(name):
    model = Subclassed()
    model.build((None, 4))
    prototype = lqs.NestedQuantization(rule=lqs.Frozen(), penalty=PENALTIES[name](0.5))
    return lqs.quantize(model, kernel=prototype, bias=prototype)


def shared(name):
    """One layer called twice counts once, as its parameters do."""
    inputs, layer = keras.Input((4,)), dense(4, name)
    return keras.Model(inputs, dense(3, name)(layer(layer(inputs))))


def quantizers_of(model):
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, lqs.QuantizedParameters)]
    return [pair for layer in layers for pair in layer.quantized_parameters()]


def expected_penalty(model, name, rate=0.5):
    """Return `rate * sum(#P * term) / sum(#P)` over all quantized parameters; those without penalty add 0."""
    pairs = [(ops.convert_to_numpy(v), ops.convert_to_numpy(q.scale), q.penalty) for v, q in quantizers_of(model)]
    total = sum(value.size * term_by_loops(name, value, scale) for value, scale, penalty in pairs if penalty)
    return rate * total / sum(value.size for value, _, _ in pairs)


def with_random_scales(model, rng):
    for variable, quantizer in quantizers_of(model):
        quantizer.scale.assign(rng.uniform(0.2, 0.6, quantizer.scale.shape))
        variable.assign(0.4 * rng.normal(size=variable.shape))
    return model


def data(rng):
    return rng.normal(size=(8, 4)).astype("float32"), rng.normal(size=(8, 3)).astype("float32")


def reported_penalty(model, inputs, targets):
    outputs = ops.convert_to_numpy(model(inputs))
    return model.evaluate(inputs, targets, verbose=0) - np.mean((outputs - targets) ** 2)


MODELS = {"mixed": (mixed, 6), "nested": (nested, 6), "whole": (subclassed, 4), "shared": (shared, 4)}
MAKE = {"two": (two_layers, 4), **MODELS}


@pytest.mark.parametrize("kind, name", [*[("two", name) for name in PENALTIES], *[(k, "MaxBin") for k in MODELS]])
def test_normalised_over_the_whole_model(kind, name, rng, reload):
    make, num_quantizers = MAKE[kind]
    model = with_random_scales(make(name), rng)
    assert len(quantizers_of(model)) == num_quantizers
    inputs, targets = data(rng)
    # Compiled by XLA: a layer called twice has its scale read twice, and TensorFlow by itself may do so for the second
    # call after the update of the scale, of whose gradient that call is no part here (`NestedQuantization.call`).
    model.compile(keras.optimizers.SGD(1e-3), "mse", jit_compile=True)
    expected = expected_penalty(model, name)
    assert reported_penalty(model, inputs, targets) == pytest.approx(expected, rel=1e-3)
    task = np.mean((ops.convert_to_numpy(model(inputs)) - targets) ** 2)
    history = model.fit(inputs, targets, batch_size=8, verbose=0).history["loss"]
    assert history[0] == pytest.approx(task + expected, rel=1e-5)
    after = expected_penalty(model, name)
    assert after < expected * (1 - 1e-4)  # the penalty has moved the scales
    loaded = reload(model)
    assert reported_penalty(loaded, inputs, targets) == pytest.approx(after, rel=1e-3)


@pytest.mark.parametrize("time_steps", [1, 5])
def test_inside_time_distributed(time_steps, rng):
    """Keras calls the layer once per time step; its parameters count once all the same."""
    model = keras.Sequential([keras.Input((time_steps, 4)), keras.layers.TimeDistributed(dense(3, "Inverse"))])
    with_random_scales(model, rng)
    inputs, targets = rng.normal(size=(8, time_steps, 4)), rng.normal(size=(8, time_steps, 3))
    model.compile("sgd", "mse")
    penalty = reported_penalty(model, inputs, targets)
    assert penalty == pytest.approx(expected_penalty(model, "Inverse"), rel=1e-3)


def test_scales_learn_from_the_penalty_alone(rng):
    """SGD at rate 1 moves each scale by exactly its share of the gradient of the term."""
    model = with_random_scales(two_layers("Inverse"), rng)
    model.compile(keras.optimizers.SGD(1.0), "mse")
    before = [ops.convert_to_numpy(q.scale).astype("float64") for _, q in quantizers_of(model)]
    sizes = [int(np.prod(variable.shape)) for variable, _ in quantizers_of(model)]
    model.fit(*data(rng), batch_size=8, verbose=0)
    for (_, quantizer), scale, size in zip(quantizers_of(model), before, sizes, strict=True):
        gradient = -0.5 * size / sum(sizes) / scale**2 / scale.size
        moved = ops.convert_to_numpy(quantizer.scale) - scale
        np.testing.assert_allclose(moved, -gradient, rtol=1e-3, atol=1e-6)


def test_assigning_the_rate_takes_effect_without_recompiling(rng):
    model = with_random_scales(two_layers("MaxBin"), rng)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    inputs, targets = data(rng)
    losses, functions = [], []
    for rate in (0.0, 0.5, 2.0):
        for _, quantizer in quantizers_of(model):
            quantizer.penalty.rate.assign(rate)
        losses += model.fit(inputs, targets, batch_size=8, verbose=0).history["loss"]
        functions.append(model.train_function)
    term = expected_penalty(model, "MaxBin", rate=1.0)
    np.testing.assert_allclose(np.array(losses) - losses[0], [0, 0.5 * term, 2 * term], rtol=1e-4)
    assert functions[0] is functions[1] is functions[2]


def test_losses_do_not_pile_up_between_calls(rng):
    model = with_random_scales(two_layers("Inverse"), rng)
    inputs, _ = data(rng)
    totals = []
    for _ in range(3):
        model(inputs)
        totals.append(float(sum(model.losses)))
    assert totals == [pytest.approx(expected_penalty(model, "Inverse"), rel=1e-5)] * 3


@keras.saving.register_keras_serializable("test_penalties")
class CountPenalty(lqs.Penalty):
    """A further term: the constant 3, whose weighted mean over a model is 3 too."""

    def term(self, parameter, scale, axes):
        return 3.0 + 0.0 * ops.mean(scale)


def test_a_further_term(rng, reload):
    prototype = lqs.NestedQuantization(penalty=CountPenalty(0.25))
    inputs, targets = data(rng)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(9), keras.layers.Dense(3)])
    model = lqs.quantize(model, kernel=prototype, bias=prototype)
    model.compile("sgd", "mse")
    for instance in (model, reload(model)):
        assert reported_penalty(instance, inputs, targets) == pytest.approx(0.75, rel=1e-4)


@pytest.mark.parametrize("name", PENALTIES)
def test_configuration_round_trip(name):
    penalty = PENALTIES[name](3e-9)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(penalty))
    assert type(again) is type(penalty) and again.get_config() == penalty.get_config()
    assert name not in ("Elias", "Geometric") or again.code == name.lower()
    assert float(ops.convert_to_numpy(again.rate)) == pytest.approx(3e-9)
    assert not again.trainable_variables


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("value", BAD_STRENGTHS)
def test_bad_rate(name, value):
    with pytest.raises(ValueError, match="`rate` must be a finite number >= 0. Received: rate="):
        PENALTIES[name](value)


@pytest.mark.parametrize("code", ["Elias", "huffman", None, 3, ["elias"], geometric_code_length])
def test_bad_code(code):
    with pytest.raises(ValueError, match=r"`code` must be one of \('elias', 'geometric'\). Received: code="):
        lqs.CodeLengthPenalty(0.1, code)


def test_abstract_penalty():
    with pytest.raises(NotImplementedError, match="Penalty must implement `term`"):
        lqs.Penalty(0.1).term(None, None, ())


# Published terms, for P = [3, -1, 1/2, 0] at s = 2 and bits = 2, whose highest integer is 1:
#   SinReQ  sines of pi (3/2, -1/2, 1/4, 0): squares 1, 1, 1/2, 0; d/dP = pi / s sin(2 pi P / s) / 4 = 0, 0, pi / 8, 0
#   MSQE    integers 1, 0 (-1/2 to the even one), 0, 0: errors 1, -1, 1/2, 0; d/dP = 2 error / 4; d/ds = -2 (1) / 4
#   Binary  beyond; 1 - 1/4, 1 - 1/16, 1; d/dP = -2 P / s**2 / 4
#   Hoyer   sum 9/2, of squares 41/4: H = 81/41; with A = 9/2, B = 41/4: d/dP = 2 sign A / B**2 (B - A abs(P)) / 4
PUBLISHED = {
    "SinReQ": (lqs.SinReQPenalty, 5 / 8, [0, 0, math.pi / 8, 0], 0),
    "MSQE": (lqs.MSQEPenalty, 9 / 16, [1 / 2, -1 / 2, 1 / 4, 0], -1 / 2),
    "Binary": (lqs.BinaryPenalty, (12 + 15 + 16) / 64, [0, 1 / 8, -1 / 16, 0], 0),
    "Hoyer": (lqs.HoyerPenalty, 81 / 164, np.array([-13 / 4, -23 / 4, 8, 0]) * 36 / 41**2, 0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_penalties_by_hand(name, gradients):
    penalty, value, parameter_gradient, scale_gradient = PUBLISHED[name]
    layer = lqs.NestedQuantization("scalar", lqs.Frozen(), penalty(0.5), "nearest", bits=2, initial_scale=2.0)
    parameter = np.array([3, -1, 0.5, 0], "float32")
    layer(parameter)
    assert float(sum(layer.losses)) == pytest.approx(0.5 * value, rel=1e-6)
    result = gradients(layer, parameter, np.zeros(4, "float32"))
    np.testing.assert_allclose(result[0], 0.5 * np.array(parameter_gradient), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result[1], [0.5 * scale_gradient], rtol=1e-6)
    zero = [np.asarray(gradient) for gradient in gradients(layer, 0 * parameter, 0 * parameter)]
    assert all(np.isfinite(gradient).all() for gradient in zero)


def test_waveq_by_hand(gradients):
    """At beta = 1 there is one wave to w = P / 2 = 1, -1/4: squares of sines 0, 1/2.

    d/dP = pi sin(2 pi w) / 2 / 2 / 2; d/dbeta = log(2) mean(pi w sin(2 pi w) - square / 2) + bits_rate
    """
    penalty = lqs.WaveQPenalty(0.5, bits_rate=0.25, bits=1)
    layer = lqs.NestedQuantization(rule=lqs.Frozen(), penalty=penalty, rounding="nearest")
    parameter = np.array([2, -0.5], "float32")
    layer(parameter)
    assert float(sum(layer.losses)) == pytest.approx(0.5 * (1 / 8 + 0.25), rel=1e-5)
    result = gradients(layer, parameter, np.zeros(2, "float32"), [penalty.bits])
    np.testing.assert_allclose(result[0], [0, -0.5 * math.pi / 8], atol=1e-6)
    np.testing.assert_allclose(result[1], 0.5 * (math.log(2) * (math.pi / 8 - 1 / 8) + 0.25), rtol=1e-5)


@pytest.mark.parametrize("bits, highest", [(1, 1), (1.5, 3), (2, 3), (2.1, 7)])
def test_waveq_gives_the_scale(bits, highest):
    """From the largest element, at first and in every training step."""
    layer = lqs.NestedQuantization(rule=lqs.Frozen(), penalty=lqs.WaveQPenalty(0.1, bits=bits), rounding="nearest")
    parameter = np.array([2, -0.9, 0.1], "float32")
    layer.build(parameter.shape)
    layer.initialize_scale(parameter)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.scale), [2 / highest], rtol=1e-6)
    layer(2 * parameter, training=True)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.scale), [4 / highest], rtol=1e-6)
    assert ops.convert_to_numpy(layer.integers(2 * parameter)).max() == highest
    assert layer.trainable_variables == [layer.penalty.bits]


def test_waveq_keeps_a_bit():
    penalty = lqs.WaveQPenalty(0.1, bits=1)
    assert float(penalty.bits.constraint(np.float32(0.5))) == 1
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(lqs.WaveQPenalty(0.1, 0.2, 3.5)))
    assert (again.get_config()["rate"], again.bits_rate, float(again.bits)) == (0.1, 0.2, 3.5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"bits": 0.5}, "`bits` must be at least 1. Received: bits=0.5"),
        ({"bits": "8"}, "`bits` must be a finite number >= 0. Received: bits='8'"),
        ({"bits_rate": -1}, "`bits_rate` must be a finite number >= 0. Received: bits_rate=-1"),
    ],
)
def test_waveq_with_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        lqs.WaveQPenalty(0.1, **arguments)


def test_waveq_has_bits_of_its_own():
    with pytest.raises(ValueError, match="`bits` must be None, for an `lqs.WaveQPenalty`. Received: levels"):
        lqs.NestedQuantization(penalty=lqs.WaveQPenalty(0.1), bits=4)


def test_quantization_error_needs_levels():
    with pytest.raises(ValueError, match="`bits` must be given, for an `lqs.MSQEPenalty`. Received: bits=None"):
        lqs.NestedQuantization(penalty=lqs.MSQEPenalty(1.0))
