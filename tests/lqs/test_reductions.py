"""Sum and maximum in one pass, against NumPy in float64, and the rule that uses it against its plain form."""

import keras
import numpy as np
import pytest
from keras import ops
from oracles import ratio_by_loops

import lqs
from lqs.reductions import TANH_IS_IDENTITY_BELOW, is_for_one_pass, maximum, sum_and_max_of_tanh
from lqs.rules import gradient_ratio

IS_JAX = keras.backend.backend() == "jax"
jax_only = pytest.mark.skipif(not IS_JAX, reason="the way of JAX alone")
SHAPES = [(784, 128), (256, 32), (16, 1024), (3, 90, 96)]


@pytest.mark.parametrize(
    "shape, axes, dtype, expected",
    [
        ((784, 128), (1,), "float32", True),
        ((3, 3, 64, 64), (3,), "float32", True),
        ((784, 128), (0,), "float32", False),  # columns
        ((784, 128), (0, 1), "float32", True),  # one scale
        ((3, 3, 32, 64), (0, 1, 3), "float32", True),  # channels
        ((3, 3, 32, 64), (0, 1, 2), "float32", False),  # filters
        ((128, 10), (1,), "float32", False),  # small
        ((784, 100), (1,), "float32", False),  # no windows of 32
        ((8192,), (0,), "float32", False),
        ((784, 128), (1,), "bfloat16", False),
    ],
)
def test_what_it_is_for(shape, axes, dtype, expected):
    assert is_for_one_pass(ops.zeros(shape, dtype), axes) is (expected and IS_JAX)


@jax_only
@pytest.mark.parametrize("bound", [2.0**-30, 0.5])  # without tanh and with it
@pytest.mark.parametrize("shape", SHAPES)
def test_sum_and_max_of_tanh(shape, bound):
    rng = np.random.default_rng(0)
    values = -bound * rng.uniform(size=shape).astype("float32")
    magnitudes = rng.uniform(size=shape).astype("float32")
    terms = ops.convert_to_tensor(values), ops.convert_to_tensor(magnitudes)
    total, largest = sum_and_max_of_tanh(lambda: terms, bound)
    np.testing.assert_array_equal(ops.convert_to_numpy(largest), magnitudes.max(-1, keepdims=True))
    expected = np.tanh(values.astype("float64")).sum(-1, keepdims=True)
    np.testing.assert_allclose(ops.convert_to_numpy(total), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "shape, axes", [((256, 96), (1,)), ((256, 96), (0, 1)), ((256, 96), (0,)), ((9, 3, 1024), (0, 2))]
)
def test_maximum(shape, axes):
    values = np.random.default_rng(0).normal(size=shape).astype("float32")
    found = ops.convert_to_numpy(maximum(ops.convert_to_tensor(values), axes))
    np.testing.assert_array_equal(found, values.max(axes, keepdims=True))


@jax_only
def test_tanh_is_the_identity_below_the_bound():
    """As XLA compiles the old form, with its sum: every exponent from the bound down, and numbers between."""
    import jax

    numbers = np.exp2(np.linspace(-25, -60, 2**13)).astype("float32")
    assert numbers.max() == TANH_IS_IDENTITY_BELOW
    alone = np.zeros((len(numbers), 64), "float32")  # each in a row of zeros
    alone[:, 0] = -numbers
    sums = jax.jit(lambda rows: ops.sum(ops.tanh(ops.minimum(rows, 0.0)), axis=1))(alone)
    np.testing.assert_array_equal(ops.convert_to_numpy(sums), -numbers)


def rule_inputs(shape, rng, codebook=None, axes=(-1,)):
    """Return `upstream, values, scale` where a third of the votes is 0 and another third of no gradient at all."""
    shared = [axis % len(shape) for axis in axes]
    of_scale = [1 if axis in shared else size for axis, size in enumerate(shape)]
    scale = rng.uniform(1e-5, 1e-2, of_scale).astype("float32")
    values = rng.integers(-3000, 3001, shape).astype("float32") if codebook is None else rng.choice(codebook, shape)
    upstream = rng.choice(np.array([0.0, 1.0, 1e-9], "float32"), shape)
    return upstream, values.astype("float32"), scale


@pytest.mark.parametrize("stalled", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 1e-10, 1e-8, 1e-5, 0.7])
@pytest.mark.parametrize("codebook", [None, [-1.37, 0.0, 0.61]], ids=["integers", "codebook"])
@pytest.mark.parametrize("shape, varying", [((257, 32), (0,)), ((257, 32), ()), ((3, 3, 32, 32), (2,))])
def test_rule_against_loops(shape, varying, codebook, threshold, stalled):
    axes = tuple(axis for axis in range(len(shape)) if axis not in varying)
    upstream, values, scale = rule_inputs(shape, np.random.default_rng(1), codebook, axes)
    arrays = [ops.convert_to_tensor(array) for array in (upstream, values, values, scale)]
    result = ops.convert_to_numpy(gradient_ratio(*arrays, axes, np.float32(threshold), stalled))
    expected = ratio_by_loops(upstream, values, scale, varying, threshold, stalled)
    np.testing.assert_allclose(result, expected, rtol=2e-5, atol=1e-20)


@jax_only
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_largest_integer_is_exact(shape):
    """Votes of -2**-30 or 0, and their mean over 2**n, are exact in any order: what is left is the largest integer."""
    import jax

    upstream, integers, scale = rule_inputs(shape, np.random.default_rng(2))
    upstream, threshold = np.where(upstream > 0, 1.0, 0.0).astype("float32"), np.float32(2.0**-30)
    axes = (len(shape) - 1,)
    result = jax.jit(gradient_ratio, static_argnums=4)(upstream, integers, integers, scale, axes, threshold)
    votes = np.mean(np.where(upstream > 0, 0, -threshold), axis=-1, keepdims=True, dtype="float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(result), votes * np.abs(integers).max(-1, keepdims=True))


@jax_only
def test_members_of_a_population_may_differ_in_threshold():
    """Under `vmap` the condition is one for each member."""
    import jax

    upstream, integers, scale = rule_inputs((256, 32), np.random.default_rng(3))

    def gradient(threshold):
        return gradient_ratio(upstream, integers, integers, scale, (1,), threshold)

    thresholds = np.array([1e-10, 1e-3], "float32")
    each = [ops.convert_to_numpy(gradient(threshold)) for threshold in thresholds]
    np.testing.assert_allclose(ops.convert_to_numpy(jax.vmap(gradient)(thresholds)), each, rtol=1e-5)


def test_layer_trains_with_it(gradients):
    """A layer of rows gives the same gradient as a plug-in rule of the plain form's numbers."""
    rng = np.random.default_rng(4)
    parameter = rng.normal(0, 0.05, (256, 32)).astype("float32")
    upstream = rng.choice(np.array([0.0, 1.0], "float32"), parameter.shape)
    layer = lqs.NestedQuantization("row", lqs.GradientRatio(1e-10), initial_scale=1e-3)
    _, scale_gradient = gradients(layer, parameter, upstream)
    largest = np.abs(np.floor(parameter / np.float32(1e-3))).max(1, keepdims=True)
    expected = -1e-10 * (upstream == 0).mean(1, keepdims=True) * largest
    np.testing.assert_allclose(scale_gradient, expected, rtol=1e-5)
