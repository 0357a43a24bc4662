"""Quant-Noise: by given noise, its share, and the gradient of all elements."""

import numpy as np
import pytest
from keras import ops

import lqs
from lqs import methods
from lqs.methods.quant_noise import QuantNoise
from lqs.parts import Levels


@pytest.mark.parametrize("noise, expected", [(0.2, [2, -1, 3]), (0.25, [1.75, -1.25, 9]), (0.3, [1.75, -1.25, 9])])
def test_given_noise(noise, expected):
    """With the probability 1/4 and at the scale 2: quotients 1.75, -1.25 and 9."""
    rounding = QuantNoise(0.25)
    rounding.build((3,), (0,), Levels(-4, 3))
    rounding.uniform = lambda parameter: ops.full_like(parameter, noise)
    parameter, scale = ops.convert_to_tensor(np.array([3.5, -2.5, 18.0], "float32")), ops.full((1,), 2.0)
    assert ops.convert_to_numpy(rounding.training_integers(parameter, scale)).tolist() == expected
    assert ops.convert_to_numpy(rounding.integers(parameter, scale)).tolist() == [2, -1, 3]


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_share_of_the_elements(probability):
    """Of 10,000 of 0.3, within five standard deviations; in evaluation, all are rounded."""
    parameter = np.full(10_000, 0.3, "float32")
    layer = lqs.NestedQuantization(rounding=QuantNoise(probability), initial_scale=1.0)
    rounded = ops.convert_to_numpy(layer(parameter, training=True)) == 0
    assert abs(rounded.mean() - probability) <= 5 * (probability * (1 - probability) / 10_000) ** 0.5
    assert not ops.convert_to_numpy(layer(parameter)).any()


@pytest.mark.parametrize("training", [False, True])
def test_all_elements_have_the_gradient_once(training, gradients):
    """Also those that keep their value, and those that are clipped."""
    layer = methods.get("quant_noise")(bits=3, probability=0.5, rule=lqs.Frozen(), initial_scale=2.0)
    parameter, upstream = np.array([9, -1.8, 3.2, -9, 1, 2], "float32"), np.array([1, -1, 2, -2, 3, -3], "float32")
    layer.build(parameter.shape)
    of_parameter, of_scale = gradients(layer, parameter, upstream, training=training)
    assert of_parameter.tolist() == upstream.tolist() and of_scale.tolist() == [0]


@pytest.mark.parametrize("value", [-0.1, 1.5, "1", None])
def test_bad_probability(value):
    with pytest.raises(ValueError, match="`probability` must be a number from 0 to 1. Received: probability="):
        QuantNoise(value)


def test_default():
    assert methods.get("quant_noise")(bits=2).rounding.get_config()["probability"] == 0.5
    assert QuantNoise().get_config()["probability"] == 0.5
