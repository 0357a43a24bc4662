"""QIL, by hand, and that every interval gives the integers back."""

import keras
import numpy as np
import pytest
from keras import ops

import lqs
from lqs import methods
from lqs.methods.qil import QIL


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


def built(shape, bits, scale, center, half_width):
    layer = lqs.NestedQuantization(rule=lqs.Frozen(), rounding=QIL(), bits=bits, initial_scale=scale)
    layer.build(shape)
    layer.rounding.center.assign([center])
    layer.rounding.half_width.assign([half_width])
    return layer


@pytest.mark.parametrize("training", [False, True])
def test_by_hand(training, gradients):
    """With 3 bits s n = 6; of the interval from 1/4 to 3/4, magnitudes 0.2, 0.4, 0.6, 0.9 are at 0, 0.3, 0.7 and 1.

    dc = -(-1 * -1 + 2) * 6 * 0.5 / 0.25, and dd with -0.1 and 0.1 more, over 0.25**2
    """
    layer = built((4,), 3, 2.0, 0.5, 0.25)
    parameter, upstream = np.array([1.2, -2.4, 3.6, 5.4], "float32"), np.array([1, -1, 2, -1], "float32")
    assert numbers(layer.integers(parameter)).tolist() == [0, -1, 2, 3]
    assert numbers(layer(parameter)).tolist() == [0, -2, 4, 6]
    weights = [layer.rounding.center, layer.rounding.half_width, layer.scale_weight]
    of_parameter, *others = gradients(layer, parameter, upstream, weights, training=training)
    np.testing.assert_allclose(of_parameter, [0, -2, 4, 0], rtol=1e-6)
    np.testing.assert_allclose(others[0], [-36], rtol=1e-5)
    np.testing.assert_allclose(others[1], [-48 * (-0.1 + 2 * 0.1)], rtol=1e-4)
    assert others[2].tolist() == [0]


def test_interval_begins_with_all_magnitudes_and_keeps_a_width():
    layer = methods.get("qil")(bits=3, granularity="row")
    layer.build_for(keras.Variable(np.array([[3.0, -1.0], [6.0, 2.0]], "float32")))
    rounding = layer.rounding
    assert numbers(rounding.center).tolist() == numbers(rounding.half_width).tolist() == [[0.5], [0.5]]
    assert numbers(layer.scale).tolist() == [[1], [2]]
    constrained = numbers(rounding.half_width.constraint(np.array([[-1.0], [0.5]], "float32")))
    np.testing.assert_allclose(constrained, [[1e-3], [0.5]], rtol=1e-6)


@pytest.mark.parametrize("center, half_width", [(0.5, 0.5), (0.5, 0.2), (0.1, 0.4), (-0.2, 0.5), (2.0, 0.001)])
def test_parameter_of_integers_has_these_integers(center, half_width, rng):
    """Also where the interval begins below 0, and some bins are cut or out of reach."""
    layer = built((400,), 4, 0.3, center, half_width)
    integers = numbers(layer.integers(rng.normal(scale=2, size=400).astype("float32")))
    again = layer.parameter_of(integers, numbers(layer.scale))
    assert again.dtype == "float32"
    np.testing.assert_array_equal(numbers(layer.integers(again)), integers)


def test_parameter_of_integers_is_the_middle_of_the_bin():
    """At s n = 6, of the interval from 1/4 to 3/4: those of 1 to 3 are around 5/12, 7/12 and 3/4, each 1/6 wide."""
    again = built((4,), 3, 2.0, 0.5, 0.25).parameter_of(np.array([0, 1, -2, 3]), np.array([2.0], "float32"))
    np.testing.assert_allclose(again, [0, 6 * 5 / 12, -6 * 7 / 12, 6 * 3 / 4], rtol=1e-6)


def test_bin_that_is_cut_has_the_middle_of_what_is_left():
    """The interval from -1/6 to 1/2: the bin of 1 would be from -1/18 to 1/6, and begins at 0."""
    again = built((4,), 3, 2.0, 1 / 6, 1 / 3).parameter_of(np.array([1, 2, 3, -1]), np.array([2.0], "float32"))
    np.testing.assert_allclose(again, [6 / 12, 6 * 5 / 18, 6 / 2, -6 / 12], rtol=1e-5)
