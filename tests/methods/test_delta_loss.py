"""The change of the loss by channels: which scales grow, stay and shrink."""

import keras
import numpy as np
from keras import ops

from lqs import methods


def test_by_hand(gradients):
    """At the scale 0.5 the columns change by 0.25, 0 and 0; at 1 the third by 0.5; the others have no gradient.

    The last one has no integer but 0, so that it stays: a scale that grew on would end at infinity.
    """
    parameter = np.array([[0.25, 0.25, 0.5, 0.25], [0.5, 0.75, 1.0, -0.25]], "float32")
    upstream = np.array([[1, 0, 1, 0], [1, 0, 1, 0]], "float32")
    layer = methods.get("delta_loss")(threshold=0.1, granularity="column", initial_scale=0.5)
    of_parameter, of_scale = gradients(layer, parameter, upstream, training=True)
    np.testing.assert_array_equal(of_parameter, upstream)
    np.testing.assert_allclose(of_scale, [[0.5, -0.5, 0, 0]])


def test_scales_settle_where_the_loss_starts_to_change():
    """By the same gradient at every step, the two rows have the same error in the end, at other scales."""
    parameter = np.random.default_rng(0).normal(size=(2, 400)).astype("float32")
    upstream = np.array([[0.001], [0.01]], "float32") * np.ones_like(parameter)
    layer = methods.get("delta_loss")(threshold=0.1, granularity="row")
    layer.build_for(keras.Variable(parameter))
    scale, tensors = layer.scale, [ops.convert_to_tensor(array) for array in (upstream, parameter)]
    for _ in range(100):
        scale = scale - 0.05 * layer.rule.scale_gradient(*tensors, None, scale)
    scale = ops.convert_to_numpy(scale)
    change = np.sum(np.abs(upstream * (parameter - scale * np.round(parameter / scale))), axis=1)
    assert np.all((change > 0.04) & (change < 0.12)) and 5 < scale[0, 0] / scale[1, 0] < 20
