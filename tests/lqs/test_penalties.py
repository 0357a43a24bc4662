"""Penalties: values and gradients by hand, and their mean over the whole model in the reported loss."""

import functools
import math

import keras
import numpy as np
import pytest
from keras import ops
from models import COMPILED
from oracles import BAD_STRENGTHS, grouped

import lqs
from lqs.inspection import quantized_parameters, set_shares
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


@pytest.mark.parametrize("mean", [1e-9, 5e-7, 9.9e-7])
def test_geometric_code_length_of_almost_only_zeros(mean):
    """Its slope, asinh(1 / mean) + 1, does not grow beyond that at a mean of one in a million."""
    length = float(geometric_code_length(ops.full((1,), mean), ops.ones(1), (0,)))
    assert length == pytest.approx(mean * (math.asinh(1e6) + 1) / math.log(2), rel=1e-4)


@pytest.mark.once
@pytest.mark.parametrize("q", [0.01, 0.2, 0.6, 0.9, 0.98])
def test_geometric_code_length_is_that_of_the_best_code_for_integers(q, rng):
    """A search over explicit codes of integers drawn from one: no two-sided geometric code is shorter."""
    integers = rng.geometric(1 - q, 5000) - rng.geometric(1 - q, 5000)
    support = np.abs(np.arange(-20_000, 20_001))
    lengths = []
    for base in 1 / (1 + np.exp(np.linspace(-7, 7, 400))):
        lengths.append(np.mean(-np.log2(base) * np.abs(integers)) + np.log2(np.sum(base**support)))
    length = float(geometric_code_length(integers.astype("float32"), ops.ones((1,)), (0,)))
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


def with_shares(model):
    set_shares(model)
    return model


def two_layers(name):
    layers = [dense(7, name), dense(3, name, granularity="column")]
    return with_shares(keras.Sequential([keras.Input((4,)), *layers]))


def mixed(name):
    """A `QuantDense` beside layers that `lqs.quantize` wraps, one of them without a penalty for its bias."""
    model = keras.Sequential([keras.Input((4,)), dense(7, name), keras.layers.Dense(5), keras.layers.Dense(3)])
    kernel = lqs.NestedQuantization("column", lqs.Frozen(), PENALTIES[name](0.5))
    return lqs.quantize(model, kernel=kernel, bias=lqs.NestedQuantization(rule=lqs.Frozen()))


def nested(name):
    inner = keras.Sequential([keras.Input((7,)), dense(6, name), keras.layers.LayerNormalization()])
    inputs = keras.Input((4,))
    return with_shares(keras.Model(inputs, dense(3, name)(inner(dense(7, name)(inputs)))))


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
    return with_shares(keras.Model(inputs, dense(3, name)(layer(layer(inputs)))))


def expected_penalty(model, name, rate=0.5):
    """Return `rate * sum(#P * term) / sum(#P)` over all quantized parameters; those without penalty add 0."""
    pairs = [
        (ops.convert_to_numpy(v), ops.convert_to_numpy(q.scale), q.penalty) for v, q in quantized_parameters(model)
    ]
    total = sum(value.size * term_by_loops(name, value, scale) for value, scale, penalty in pairs if penalty)
    return rate * total / sum(value.size for value, _, _ in pairs)


def with_random_scales(model, rng):
    for variable, quantizer in quantized_parameters(model):
        quantizer.scale.assign(rng.uniform(0.2, 0.6, quantizer.scale.shape))
        variable.assign(0.4 * rng.normal(size=variable.shape))
    return model


def data(rng):
    return rng.normal(size=(8, 4)).astype("float32"), rng.normal(size=(8, 3)).astype("float32")


def reported_penalty(model, inputs, targets):
    outputs = ops.convert_to_numpy(model(inputs))
    return model.evaluate(inputs, targets, verbose=0) - np.mean((outputs - targets) ** 2)


MAKE = {
    "two": (two_layers, 4),
    "mixed": (mixed, 6),
    "nested": (nested, 6),
    "whole": (subclassed, 4),
    "shared": (shared, 4),
}


def added_penalty(model, inputs):
    model(inputs)
    return float(sum(model.losses))


@pytest.mark.parametrize("kind, name", [*[("two", name) for name in PENALTIES], *[(kind, "MaxBin") for kind in MAKE]])
def test_mean_over_the_whole_model(kind, name, rng, reload):
    make, num_quantizers = MAKE[kind]
    model = with_random_scales(make(name), rng)
    assert len(quantized_parameters(model)) == num_quantizers
    inputs, _ = data(rng)
    expected = expected_penalty(model, name)
    for instance in (model, model, reload(model)):  # losses do not pile up between calls
        assert added_penalty(instance, inputs) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["two", "whole", "shared"])
def test_reported_loss_of_training(kind, rng):
    model = with_random_scales(MAKE[kind][0]("MaxBin"), rng)
    inputs, targets = data(rng)
    # Compiled by XLA: a layer called twice has its scale read twice, and TensorFlow by itself may do so for the second
    # call after the update of the scale, of whose gradient that call is no part here (`NestedQuantization.call`).
    model.compile(keras.optimizers.SGD(1e-3), "mse", **COMPILED)
    expected = expected_penalty(model, "MaxBin")
    task = np.mean((ops.convert_to_numpy(model(inputs)) - targets) ** 2)
    history = model.fit(inputs, targets, batch_size=8, verbose=0).history["loss"]
    assert history[0] == pytest.approx(task + expected, rel=1e-5)
    after = expected_penalty(model, "MaxBin")
    assert after < expected * (1 - 1e-4)  # the penalty has moved the scales
    assert reported_penalty(model, inputs, targets) == pytest.approx(after, rel=1e-3)


def test_parts_called_apart_add_their_own_shares(rng):
    """As in a `train_step` of one's own: their sum is what they add when the model calls them."""
    inputs, code = keras.Input((4,)), keras.Input((7,))
    encoder = keras.Model(inputs, keras.layers.Dense(7)(inputs))
    decoder = keras.Model(code, keras.layers.Dense(3)(code))
    quantizer = lqs.NestedQuantization("row", lqs.Frozen(), lqs.MaxBinPenalty(0.5))
    bias = lqs.NestedQuantization("scalar", lqs.Frozen(), lqs.MaxBinPenalty(0.5))
    whole = lqs.quantize(keras.Model(inputs, decoder(encoder(inputs))), quantizer, bias)
    with_random_scales(whole, rng)
    x, _ = data(rng)
    expected = expected_penalty(whole, "MaxBin")
    first, second = [layer for layer in whole.layers if isinstance(layer, keras.Model)]
    assert added_penalty(whole, x) == pytest.approx(expected, rel=1e-5)
    apart = added_penalty(first, x) + added_penalty(second, first(x))
    assert apart == pytest.approx(expected, rel=1e-5)
    assert added_penalty(whole.layers[1].layers[-1], x) == pytest.approx(added_penalty(first, x), rel=1e-6)
    again = keras.models.clone_model(whole)
    again.set_weights(whole.get_weights())
    assert added_penalty(again.layers[1], x) == pytest.approx(added_penalty(first, x), rel=1e-5)


def test_a_layer_made_by_hand_counts_for_itself_until_shares_are_set(rng):
    layers = [dense(7, "MaxBin"), dense(3, "MaxBin")]
    for layer, size in zip(layers, (4, 7), strict=True):
        layer.build((None, size))
        with_random_scales(layer, rng)
    x, _ = data(rng)
    alone = 0.5 * sum(
        term_by_loops("MaxBin", ops.convert_to_numpy(v), ops.convert_to_numpy(q.scale))
        for v, q in quantized_parameters(layers[0])
    )
    assert added_penalty(layers[0], x) == pytest.approx(alone, rel=1e-5)
    model = keras.Sequential([keras.Input((4,)), *layers])
    set_shares(model)
    expected = expected_penalty(model, "MaxBin")
    assert added_penalty(model, x) == pytest.approx(expected, rel=1e-5)
    assert added_penalty(layers[0], x) + added_penalty(layers[1], layers[0](x)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("time_steps", [1, 5])
def test_inside_time_distributed(time_steps, rng):
    """Keras calls the layer once per time step; its parameters count once all the same."""
    model = keras.Sequential([keras.Input((time_steps, 4)), keras.layers.TimeDistributed(dense(3, "Inverse"))])
    with_random_scales(with_shares(model), rng)
    inputs = rng.normal(size=(8, time_steps, 4)).astype("float32")
    assert added_penalty(model, inputs) == pytest.approx(expected_penalty(model, "Inverse"), rel=1e-5)


def test_scales_learn_from_the_penalty_alone(rng):
    """SGD at rate 1 moves each scale by exactly its share of the gradient of the term."""
    model = with_random_scales(two_layers("Inverse"), rng)
    model.compile(keras.optimizers.SGD(1.0), "mse")
    before = [ops.convert_to_numpy(q.scale).astype("float64") for _, q in quantized_parameters(model)]
    sizes = [int(np.prod(variable.shape)) for variable, _ in quantized_parameters(model)]
    model.fit(*data(rng), batch_size=8, verbose=0)
    for (_, quantizer), scale, size in zip(quantized_parameters(model), before, sizes, strict=True):
        gradient = -0.5 * size / sum(sizes) / scale**2 / scale.size
        moved = ops.convert_to_numpy(quantizer.scale) - scale
        np.testing.assert_allclose(moved, -gradient, rtol=1e-3, atol=1e-6)


def test_assigning_the_rate_takes_effect_without_recompiling(rng):
    model = with_random_scales(two_layers("MaxBin"), rng)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    inputs, targets = data(rng)
    losses, functions = [], []
    for rate in (0.0, 0.5, 2.0):
        for _, quantizer in quantized_parameters(model):
            quantizer.penalty.rate.assign(rate)
        losses += model.fit(inputs, targets, batch_size=8, verbose=0).history["loss"]
        functions.append(model.train_function)
    term = expected_penalty(model, "MaxBin", rate=1.0)
    np.testing.assert_allclose(np.array(losses) - losses[0], [0, 0.5 * term, 2 * term], rtol=1e-4)
    assert functions[0] is functions[1] is functions[2]


@keras.saving.register_keras_serializable("test_penalties")
class CountPenalty(lqs.Penalty):
    """A further term: the constant 3, whose weighted mean over a model is 3 too."""

    def term(self, parameter, scale):
        return 3.0 + 0.0 * ops.mean(scale)


def test_a_further_term(rng, reload):
    prototype = lqs.NestedQuantization(penalty=CountPenalty(0.25))
    inputs, _ = data(rng)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(9), keras.layers.Dense(3)])
    model = lqs.quantize(model, kernel=prototype, bias=prototype)
    for instance in (model, reload(model)):
        assert added_penalty(instance, inputs) == pytest.approx(0.75, rel=1e-5)


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
        lqs.Penalty(0.1).term(None, None)
