"""WaveQ, by hand: term, gradients, and the scale that it gives."""

import math

import keras
import numpy as np
import pytest
from keras import ops

import lqs
from lqs import methods
from lqs.methods.waveq import WaveQPenalty


def built(parameter, penalty, granularity="scalar"):
    layer = lqs.NestedQuantization(granularity, lqs.Frozen(), penalty, "nearest")
    layer.build_for(keras.Variable(parameter))
    return layer


def test_by_hand(gradients):
    """At beta = 1 there is one wave to w = P / 2 = 1, -1/4: squares of sines 0, 1/2.

    d/dP = pi sin(2 pi w) / 2 / 2 / 2; d/dbeta = log(2) mean(pi w sin(2 pi w) - square / 2) + bits_rate
    """
    penalty, parameter = WaveQPenalty(0.5, bits_rate=0.25, bits=1), np.array([2, -0.5], "float32")
    layer = built(parameter, penalty)
    layer(parameter)
    assert float(sum(layer.losses)) == pytest.approx(0.5 * (1 / 8 + 0.25), rel=1e-5)
    of_parameter, of_bits = gradients(layer, parameter, np.zeros(2, "float32"), [penalty.bits])
    np.testing.assert_allclose(of_parameter, [0, -0.5 * math.pi / 8], atol=1e-6)
    np.testing.assert_allclose(of_bits, 0.5 * (math.log(2) * (math.pi / 8 - 1 / 8) + 0.25), rtol=1e-5)


def test_maximum_is_a_constant_of_the_elements_that_share_a_scale(gradients):
    """By rows, 1 and 4; at beta = 2 three waves to each: w = 1/4 and 1/8, whose sines of 3 pi w are squared.

    The largest elements lie on the grid, and have no gradient.
    """
    parameter = np.array([[1.0, 0.25], [-0.5, 4.0]], "float32")
    layer = built(parameter, WaveQPenalty(1.0, bits_rate=0.0, bits=2), "row")
    layer(parameter)
    terms = [math.sin(3 * math.pi * w) ** 2 for w in (1 / 4, 1 / 8)]
    assert float(sum(layer.losses)) == pytest.approx(sum(terms) / 4 / 4, rel=1e-5)
    (of_parameter,) = gradients(layer, parameter, 0 * parameter, [])
    slopes = [3 * math.pi * math.sin(6 * math.pi * w) / 4 / 4 for w in (1 / 4, -1 / 8)]
    np.testing.assert_allclose(of_parameter, [[0, slopes[0]], [slopes[1] / 4, 0]], atol=1e-5)


@pytest.mark.parametrize("bits, highest", [(1, 1), (1.5, 3), (2, 3), (2.1, 7)])
def test_gives_the_scale(bits, highest):
    """From the largest element, at first and in every training step."""
    parameter = np.array([2, -0.9, 0.1], "float32")
    layer = built(parameter, WaveQPenalty(0.1, bits=bits))
    np.testing.assert_allclose(ops.convert_to_numpy(layer.scale), [2 / highest], rtol=1e-6)
    layer(2 * parameter, training=True)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.scale), [4 / highest], rtol=1e-6)
    assert ops.convert_to_numpy(layer.integers(2 * parameter)).max() == highest
    assert layer.trainable_variables == [layer.penalty.bits]


def test_keeps_a_bit_and_its_configuration():
    penalty = WaveQPenalty(0.1, 0.2, 3.5)
    assert float(penalty.bits.constraint(np.float32(0.5))) == 1
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(penalty))
    config = again.get_config()
    assert (config["rate"], config["bits_rate"], config["bits"]) == (0.1, 0.2, 3.5)


def test_defaults():
    config = methods.get("waveq")(rate=0.5).penalty.get_config()
    assert (config["rate"], config["bits_rate"], config["bits"]) == (0.5, 0.05, 8.0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"bits": 0.5}, "`bits` must be at least 1. Received: bits=0.5"),
        ({"bits": "8"}, "`bits` must be a finite number >= 0. Received: bits='8'"),
        ({"bits_rate": -1}, "`bits_rate` must be a finite number >= 0. Received: bits_rate=-1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        WaveQPenalty(0.1, **arguments)
