"""Trains networks on one device and on two, and fails unless their integers are the same: see test_distribution.py."""
# ruff: noqa: E402

import os

BACKEND = os.environ["KERAS_BACKEND"]
if BACKEND == "tensorflow":  # before Keras uses the devices
    import tensorflow as tf

    devices = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    STRATEGY = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

import keras
import numpy as np

import lqs
from lqs.inspection import model_integers
from lqs.rules import FisherInformation

QUANTIZERS = {
    "GradientRatio": {"rule": lqs.GradientRatio(0.3)},
    "FisherInformation": {"rule": FisherInformation(1e-3), "initial_scale": 0.05},
    "StraightThrough": {"rule": lqs.StraightThrough(), "rounding": "nearest", "bits": 4},
    "CodeLengthPenalty": {
        "rule": lqs.StraightThrough(),
        "penalty": lqs.CodeLengthPenalty(0.05),
        "rounding": "nearest",
        "parametrization": "log",
        "initial_scale": 0.05,
    },
}


def trained(name):
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 8)).astype("float32")
    prototype = lqs.NestedQuantization(**QUANTIZERS[name])
    network = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(2)])
    model = lqs.quantize(network, prototype, prototype)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    before = scales(model)
    model.fit(x, x[:, :2] - x[:, 2:4], batch_size=16, epochs=3, shuffle=False, verbose=0)
    assert np.any(scales(model) != before)
    return model


def trained_on_two_devices(name):
    if BACKEND == "tensorflow":
        with STRATEGY.scope():
            return trained(name)
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=["cpu:0", "cpu:1"]))
    try:
        return trained(name)
    finally:
        keras.distribution.set_distribution(None)


def scales(model):
    return lqs.summary(model)["scale_max"].to_numpy()


if __name__ == "__main__":
    for name in QUANTIZERS:
        one, two = trained(name), trained_on_two_devices(name)
        for ours, theirs in zip(model_integers(two).values(), model_integers(one).values(), strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
        np.testing.assert_allclose(scales(two), scales(one), rtol=1e-5, err_msg=name)
