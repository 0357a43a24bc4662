"""TTQ, by hand: at the scale 2, the threshold 0.05 * 4 = 0.2 of the elements."""

import keras
import numpy as np
import pytest
from keras import ops

from lqs import methods

PARAMETER = np.array([4, 0.1, -1, 3], "float32")


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


def built(parameter, codebook=None):
    layer = methods.get("ttq")(initial_scale=2.0)
    layer.build_for(keras.Variable(np.array(parameter, "float32")))
    if codebook is not None:
        layer.codebook.assign(codebook)
    return layer


def test_by_hand(gradients):
    """With W_p = 1.5 and W_n = 0.5."""
    layer, upstream = built(PARAMETER, [-0.5, 0, 1.5]), np.array([1, -1, 2, -2], "float32")
    assert numbers(layer.integers(PARAMETER)).tolist() == [1, 0, -1, 1]
    assert numbers(layer(PARAMETER)).tolist() == [3, 0, -1, 3]
    of_parameter, of_scale, of_codebook = gradients(
        layer, PARAMETER, upstream, [layer.scale_weight, layer.codebook], training=True
    )
    assert of_parameter.tolist() == [1 * 1.5, -1 * 1, 2 * 0.5, -2 * 1.5]
    assert of_codebook.tolist() == [2 * 2, 0, 2 * (1 - 2)] and of_scale.tolist() == [0]


# 0.05 in float32 times 4 is 0.2 in float32.
@pytest.mark.parametrize("element, integer", [(0.2, 0), (0.201, 1), (-0.2, 0), (-0.201, -1), (0.199, 0), (0, 0)])
def test_threshold_is_a_twentieth_of_the_largest(element, integer):
    parameter = np.array([-4, element, 1], "float32")
    assert numbers(built(parameter).integers(parameter)).tolist() == [-1, integer, 1]


@pytest.mark.parametrize(
    "parameter, levels", [(PARAMETER, [-0.5, 0, 1.75]), ([4, 4, 4, 0], [0, 0, 2]), ([0], [0, 0, 0])]
)
def test_levels_start_from_mean_magnitudes(parameter, levels):
    assert numbers(built(parameter).codebook).tolist() == levels


def test_parameter_of_integers_is_in_units_of_the_scale():
    layer = built(PARAMETER, [-0.5, 0, 1.5])
    assert layer.parameter_of(np.array([-1, 0, 1]), np.array([2.0], "float32")).tolist() == [-2, 0, 2]
