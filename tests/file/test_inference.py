"""Tests of `lqs.file.inference`: a file without what training needs predicts the same."""

import warnings

import keras
import models
import numpy as np
import pytest
from keras import layers

import lqs
from lqs.file.reader import read
from lqs.file.saving import load, pack_model, save
from lqs.inspection import model_integers, quantized_parameters, to_numpy
from lqs.rules import Frozen

LEARNED = lqs.NestedQuantization(
    "output", lqs.GradientRatio(1e-9), lqs.CodeLengthPenalty(0.1), "nearest", initial_scale=0.1, parametrization="log"
)


def scrambled(model, rng):
    """Return a model whose normalizations have seen examples, and all of whose scales are different."""
    for layer in model._flatten_layers():
        if type(layer) is layers.BatchNormalization:
            for variable in layer.variables:
                variable.assign(np.exp(rng.normal(size=variable.shape)))
    for _, quantizer in quantized_parameters(model):
        scale = to_numpy(quantizer.scale)
        quantizer.scale_weight.assign(quantizer.scale_weight_of((scale * rng.uniform(1, 2, scale.shape)).astype("f4")))
    return model


def saved(model, path, **arguments):
    save(model, path, inference_only=True, **arguments)
    return load(path)


@pytest.mark.once
@pytest.mark.parametrize("kind", ["custom", "convolution", "stateful"])
def test_every_kind_of_layer_predicts_the_same_and_is_frozen(kind, rng, tmp_path):
    model = scrambled(lqs.quantize(models.build(kind), LEARNED, LEARNED), rng)
    inputs = models.inputs_of(model, rng)
    expected, before = models.predict(model, inputs), models.values(model)
    loaded = saved(model, tmp_path / "model.lqs")
    np.testing.assert_allclose(models.predict(loaded, inputs), expected, rtol=1e-4, atol=1e-5)
    models.assert_equal(models.values(model), before)
    models.assert_equal(model_integers(loaded).values(), model_integers(model).values())
    assert not loaded.trainable_variables and not loaded.losses
    for (_, ours), (_, theirs) in zip(quantized_parameters(loaded), quantized_parameters(model), strict=True):
        assert isinstance(ours.rule, Frozen) and ours.penalty is None
        np.testing.assert_array_equal(to_numpy(ours.scale), theirs.exact_scale)
    assert (tmp_path / "model.lqs").stat().st_size < 0.9 * len(pack_model(model))


@pytest.mark.once
@pytest.mark.parametrize(
    ("method", "arguments"),
    [("xnor", {}), ("lq_nets", {"bits": 3}), ("waveq", {"rate": 0.1}), ("qil", {"bits": 3})],
)
def test_scales_that_are_measured_and_levels_stay(method, arguments, rng, tmp_path):
    model = lqs.quantize(models.build("Dense"), method, None, **arguments)
    inputs = models.inputs_of(model, rng)
    expected = models.predict(model, inputs)
    np.testing.assert_array_equal(models.predict(saved(model, tmp_path / "model.lqs"), inputs), expected)


def normalized(**arguments):
    parts = layers.BatchNormalization(**arguments), layers.Dense(3)
    return keras.Sequential([keras.Input((4,)), layers.Dense(4), *parts])


@pytest.mark.parametrize(
    ("arguments", "num_folded"),
    [({}, 2), ({"scale": False}, 1), ({"center": False}, 1), ({"scale": False, "center": False}, 0)],
)
def test_normalization_is_folded(arguments, num_folded, rng, tmp_path):
    """By hand: `gamma (x - mean) / sqrt(variance + epsilon) + beta` with the numbers in the file and those before."""
    model = scrambled(normalized(**arguments), rng)
    names = ("gamma", "beta", "moving_mean", "moving_variance")

    def function(values, x):
        gamma, beta, mean, variance = (
            values.get(name, default) for name, default in zip(names, (1, 0, 0, 1), strict=True)
        )
        return gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta

    save(model, tmp_path / "model.lqs", inference_only=True)
    stored = {t.name.rpartition("/")[2]: t.values for t in read(tmp_path / "model.lqs").tensors}
    before = {v.name: to_numpy(v.value) for v in model.layers[1].variables}
    x = rng.normal(size=(50, 4))
    np.testing.assert_allclose(function(stored, x), function(before, x), rtol=1e-5, atol=1e-5)
    constants = [name for name in ("moving_mean", "moving_variance") if np.ptp(stored[name]) == 0]
    assert len(constants) == num_folded


@pytest.mark.once
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rest_in_half_precision(dtype, rng, tmp_path):
    model = scrambled(normalized(), rng)
    inputs = models.inputs_of(model, rng)
    loaded = saved(model, tmp_path / "model.lqs", float_dtype=dtype)
    np.testing.assert_allclose(models.predict(loaded, inputs), models.predict(model, inputs), rtol=0.05, atol=0.05)


@pytest.mark.once
def test_other_normalizations_stay(rng, tmp_path):
    """Quantized ones, and those of classes of one's own, which may use their statistics in another way."""
    everywhere = lqs.quantize(normalized(), LEARNED, LEARNED, lambda *_: True)
    save(scrambled(everywhere, rng), tmp_path / "model.lqs", inference_only=True)
    mean = next(t for t in read(tmp_path / "model.lqs").tensors if t.name.endswith("moving_mean"))
    np.testing.assert_array_equal(mean.values, to_numpy(everywhere.layers[1].moving_mean.value))


@keras.saving.register_keras_serializable("tests")
class Normalizes(layers.Layer):
    """Calls its batch normalization as it is told to."""

    def __init__(self, as_in_training=True, **kwargs):
        super().__init__(**kwargs)
        self.as_in_training, self.normalization = as_in_training, layers.BatchNormalization()

    def build(self, shape):
        self.normalization.build(shape)

    def call(self, inputs):
        return self.normalization(inputs, training=self.as_in_training)

    def compute_output_shape(self, shape):
        return shape


@keras.saving.register_keras_serializable("tests")
class OfCode(keras.Model):
    """A model without a graph, in whose configuration there is no `trainable`."""

    def __init__(self, as_in_training=None):
        super().__init__(name="of_code")
        self.as_in_training, self.normalizes = as_in_training, Normalizes(as_in_training)

    def build(self, shape):
        self.normalizes.build(shape)

    def call(self, inputs):
        return self.normalizes(inputs)

    def get_config(self):
        return {"as_in_training": self.as_in_training}


def graph(normalize, **arguments):
    inputs = keras.Input((4,))
    return keras.Model(inputs, normalize(layers.Dense(4)(inputs), **arguments))


@pytest.mark.parametrize("kind", ["argument", "layer", "inner", "code"])
def test_normalization_as_in_training_is_refused(kind, rng, tmp_path):
    model = {
        "argument": lambda: graph(layers.BatchNormalization(), training=True),
        "layer": lambda: graph(Normalizes()),
        "inner": lambda: graph(graph(layers.BatchNormalization()), training=True),
        "code": lambda: OfCode(as_in_training=True),
    }[kind]()
    model(np.ones((2, 4), "float32"))
    model = scrambled(model, rng)
    before = models.values(model)
    with pytest.raises(ValueError, match="`inference_only` must be False .* Received: layer '.*batch_normalization"):
        save(model, tmp_path / "model.lqs", inference_only=True)
    models.assert_equal(models.values(model), before)
    model.trainable = False  # from here on, Keras takes the statistics that are kept
    x = rng.normal(size=(8, 4)).astype("float32")
    expected = models.predict(model, x)
    np.testing.assert_allclose(models.predict(saved(model, tmp_path / "model.lqs"), x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.once
def test_model_without_trainable_in_its_configuration_is_frozen(rng, tmp_path):
    model = OfCode()
    x = rng.normal(size=(8, 4)).astype("float32")
    model(x)
    loaded = saved(scrambled(model, rng), tmp_path / "model.lqs")
    assert not loaded.trainable and not loaded.trainable_variables
    np.testing.assert_allclose(models.predict(loaded, x), models.predict(model, x), rtol=1e-4, atol=1e-5)
    save(model, tmp_path / "model.lqs")
    assert load(tmp_path / "model.lqs").trainable_variables


@pytest.mark.once
def test_only_training_keys_are_left_out(rng, tmp_path):
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, kernel_regularizer="l2", bias_constraint="non_neg", name="dense")]
    )
    loaded = saved(model, tmp_path / "model.lqs")
    before, after = model.layers[0].get_config(), loaded.layers[0].get_config()
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"trainable", "kernel_regularizer", "bias_constraint"} and loaded.layers[0].name == "dense"


def test_fit_changes_nothing(rng, tmp_path):
    model = scrambled(lqs.quantize(normalized(), LEARNED, LEARNED), rng)
    loaded = saved(model, tmp_path / "model.lqs")
    before = models.values(loaded)
    loaded.compile("sgd", "mse", **models.UNTRACED)
    x = models.inputs_of(loaded, rng)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "The model does not have any trainable weights"
        )  # Keras says so on TensorFlow
        loaded.fit(x, np.zeros((len(x), 3)), verbose=0)
    models.assert_equal(models.values(loaded), before)
