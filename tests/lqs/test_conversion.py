"""`lqs.quantize` on every kind of layer and model: predictions, fit, state, losses, precision, save and load; back."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops

import lqs
from lqs.conversion import NORMALIZATIONS

registered = keras.saving.register_keras_serializable("test_wrapping")
COARSE = 0.125  # a power of two: quotients and products are exact
IS_JAX = keras.backend.backend() == "jax"


@registered
class Gated(layers.Layer):
    """A custom layer with a weight of its own, a sublayer and a normalization."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner, self.norm = layers.Dense(4, bias_initializer="random_normal"), layers.LayerNormalization()

    def build(self, input_shape):
        self.gate = self.add_weight(name="gate", shape=(4,), initializer="random_normal")
        self.inner.build(input_shape)
        self.norm.build((*input_shape[:-1], 4))

    def call(self, inputs):
        return self.norm(self.inner(inputs)) * self.gate

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 4)


@registered
class Block(keras.Model):
    """A subclassed model, with state in it."""

    def __init__(self, units=3, explicit=True, **kwargs):
        super().__init__(**kwargs)
        self.units, self.explicit = units, explicit
        self.first = layers.Dense(5, activation="relu")
        self.norm, self.drop = layers.BatchNormalization(), layers.Dropout(0.5, seed=3)
        self.second = layers.Dense(units)

    def build(self, input_shape):
        self.first.build(input_shape)
        self.norm.build((None, 5))
        self.second.build((None, 5))

    def call(self, inputs, training=False):
        hidden = self.norm(self.first(inputs), training=training)
        return self.second(self.drop(hidden, training=training))

    def get_config(self):
        return {**super().get_config(), "units": self.units, "explicit": self.explicit}


@registered
class Lazy(keras.Model):
    """A subclassed model without `build`: its weights are made by the first call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = layers.Dense(5, activation="relu"), layers.Dense(3)

    def call(self, inputs):
        return self.second(self.first(inputs))


def stack(shape, *stacked, dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *stacked])


def attention(**keywords):
    query, value = keras.Input((5, 4)), keras.Input((6, 4))
    layer = layers.MultiHeadAttention(2, 3, bias_initializer="random_normal")
    outputs = layer(query=query, value=value) if keywords else layer(query, value)
    return keras.Model([query, value], outputs)


def causal():
    inputs = keras.Input((5, 4))
    return keras.Model(inputs, layers.MultiHeadAttention(2, 3)(inputs, inputs, use_causal_mask=True))


def nested():
    inputs, middle = keras.Input((4,)), keras.Input((5,))
    functional = keras.Model(middle, layers.Dense(5, name="inside")(middle) + middle, name="functional")
    sequential = stack((5,), layers.Dense(5), layers.BatchNormalization(), layers.Dropout(0.5, seed=1))
    return keras.Model(inputs, layers.Dense(3)(functional(sequential(functional(layers.Dense(5)(inputs))))))


def shared():
    inputs, layer = keras.Input((4,)), layers.Dense(4, activation="tanh")
    return keras.Model(inputs, layers.Dense(3)(layer(layer(inputs))))


def operations():
    inputs = keras.Input((4,))
    return keras.Model(inputs, ops.relu(layers.Dense(3)(inputs)) * 2 + 1)


def masked(functional):
    parts = [layers.Embedding(9, 4, mask_zero=True), layers.LSTM(3)]
    if not functional:
        return stack((6,), *parts, dtype="int32")
    inputs = keras.Input((6,), dtype="int32")
    return keras.Model(inputs, parts[1](parts[0](inputs)))


def subclassed(model, shape=(2, 4)):
    model(np.zeros(shape, "float32"))
    return model


def convolution():
    convolutions = [layers.Conv2D(4, 3, padding="same", use_bias=False), layers.Conv2D(3, 3)]
    norms = [layers.BatchNormalization(), layers.GroupNormalization(3)]
    return stack((6, 5, 2), convolutions[0], norms[0], layers.ReLU(), convolutions[1], norms[1], layers.Flatten())


SEQUENCE, IMAGE = (6, 4), (6, 5, 2)
MODELS = {
    "Dense": lambda: stack((4,), layers.Dense(3, bias_initializer="random_normal")),
    "Conv1D": lambda: stack(SEQUENCE, layers.Conv1D(3, 2)),
    "Conv2D": lambda: stack(IMAGE, layers.Conv2D(3, 2)),
    "Conv3D": lambda: stack((3, 4, 3, 2), layers.Conv3D(3, 2)),
    "DepthwiseConv2D": lambda: stack(IMAGE, layers.DepthwiseConv2D(2)),
    "SeparableConv2D": lambda: stack(IMAGE, layers.SeparableConv2D(3, 2)),
    "Conv2DTranspose": lambda: stack(IMAGE, layers.Conv2DTranspose(3, 2)),
    "EinsumDense": lambda: stack(SEQUENCE, layers.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d")),
    "Embedding, LSTM": lambda: masked(functional=False),
    "Embedding, LSTM functional": lambda: masked(functional=True),
    "LSTM": lambda: stack(SEQUENCE, layers.LSTM(3)),
    "GRU": lambda: stack(SEQUENCE, layers.GRU(3, return_sequences=True)),
    "Bidirectional": lambda: stack(SEQUENCE, layers.Bidirectional(layers.GRU(2))),
    "TimeDistributed": lambda: stack(SEQUENCE, layers.TimeDistributed(layers.Dense(3))),
    "MultiHeadAttention": attention,
    "MultiHeadAttention by keyword": lambda: attention(by_keyword=True),
    "MultiHeadAttention causal": causal,
    "custom": lambda: stack((4,), Gated(), layers.Dense(3)),
    "subclassed": lambda: subclassed(Block()),
    "subclassed, no build": lambda: subclassed(Lazy()),
    "subclassed in Sequential": lambda: stack((4,), Block(6), layers.Dense(3)),
    "nested": nested,
    "shared": shared,
    "operations": operations,
    "convolution": convolution,
}


def inputs_of(model, rng, num=8):
    if isinstance(model, (Block, Lazy)):
        return rng.normal(size=(num, 4)).astype("float32")
    draws = [
        np.sort(rng.integers(0, 9, (num, *i.shape[1:])))[:, ::-1].copy()  # zeros, the mask, at the end
        if i.dtype == "int32"
        else rng.normal(size=(num, *i.shape[1:])).astype("float32")
        for i in model.inputs
    ]
    return draws if len(draws) > 1 else draws[0]


def predict(model, inputs):
    return ops.convert_to_numpy(ops.cast(model(inputs), "float32"))


def chosen(model):
    """Return `id`s of the float weights to quantize: trainable, and owned by no normalization layer."""
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, NORMALIZATIONS)]
    excluded = {id(variable) for norm in norms for variable in norm.weights}
    return {id(variable) for variable in model.trainable_weights} - excluded


def floored(model, scale, select=chosen):
    """Set the selected weights of a float model to `floor(w / s) * s`, by NumPy."""
    selected = select(model)
    for variable in model.weights:
        if id(variable) in selected:
            variable.assign(np.floor(ops.convert_to_numpy(variable) / scale) * scale)
    return model


def values(model):
    return [ops.convert_to_numpy(variable) for variable in model.weights]


def all_quantizers(model):
    inner = [layer for layer in model._flatten_layers() if isinstance(layer, lqs.QuantizedParameters)]
    return [quantizer for layer in inner for _, quantizer in layer.quantized_parameters()]


def coarse(**arguments):
    return lqs.NestedQuantization(initial_scale=COARSE, **arguments)


@pytest.mark.parametrize("kind", MODELS)
def test_predictions(kind, rng, reload):
    """Within the initial scale of the float network; with a coarse scale, those of floored float weights."""
    model = MODELS[kind]()
    inputs = inputs_of(model, rng)
    exact, before, num_chosen = predict(model, inputs), values(model), len(chosen(model))
    fine = lqs.quantize(model)
    assert 0 < np.abs(predict(fine, inputs) - exact).max() < 1e-3
    assert len(all_quantizers(fine)) == num_chosen
    quantized = lqs.quantize(model, kernel=coarse(), bias=coarse())
    result = predict(quantized, inputs)
    for value, kept in zip(values(model), before, strict=True):
        np.testing.assert_array_equal(value, kept)
    np.testing.assert_array_equal(predict(reload(quantized), inputs), result)
    expected = predict(floored(model, COARSE), inputs)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(result - exact).max() > 1e-3


FITTED = ["Embedding, LSTM", "GRU", "Bidirectional", "TimeDistributed", "MultiHeadAttention", "custom", "shared"]
FITTED += ["subclassed", "subclassed, no build", "subclassed in Sequential", "nested", "convolution"]


@pytest.mark.parametrize("kind", FITTED)
def test_fit_save_and_load(kind, rng, reload):
    model = MODELS[kind]()
    inputs, before = inputs_of(model, rng), values(model)
    prototype = lqs.NestedQuantization(rule=lqs.GradientRatio(1e4), penalty=lqs.InversePenalty(1e-9))
    quantized = lqs.quantize(model, kernel=prototype, bias=prototype)
    quantized.compile(keras.optimizers.Adam(1e-3), "mse")
    targets = np.ones(predict(model, inputs).shape, "float32")
    history = quantized.fit(inputs, targets, batch_size=4, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    scales = [float(ops.convert_to_numpy(q.scale).squeeze()) for q in all_quantizers(quantized)]
    assert 2e-3 < max(scales) < 4.1e-3  # four steps of Adam upwards, the later ones smaller with the range
    for value, kept in zip(values(model), before, strict=True):
        np.testing.assert_array_equal(value, kept)
    again = reload(quantized)
    np.testing.assert_array_equal(predict(again, inputs), predict(quantized, inputs))
    assert [float(ops.convert_to_numpy(q.scale).squeeze()) for q in all_quantizers(again)] == scales
    assert not IS_JAX or quantized.optimizer.iterations.value == 4


@pytest.mark.parametrize("kind", ["Embedding, LSTM", "MultiHeadAttention", "shared", "subclassed", "convolution"])
def test_fit_save_load_and_dequantize_by_the_logarithm(kind, rng, reload):
    """The arguments that `CodeLengthPenalty` is meant for; each scale starts at `COARSE` and moves by itself."""
    model = MODELS[kind]()
    inputs = inputs_of(model, rng)
    penalty = lqs.CodeLengthPenalty(1.0)
    prototype = coarse(rule=lqs.StraightThrough(), penalty=penalty, rounding="nearest", parametrization="log")
    quantized = lqs.quantize(model, kernel=prototype, bias=prototype)
    assert {q.parametrization for q in all_quantizers(quantized)} == {"log"}
    quantized.compile(keras.optimizers.Adam(0.1), "mse")
    targets = np.ones(predict(model, inputs).shape, "float32")
    history = quantized.fit(inputs, targets, batch_size=4, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    scales = [ops.convert_to_numpy(q.scale) for q in all_quantizers(quantized)]
    factors = np.concatenate([np.ravel(scale) for scale in scales]) / COARSE
    assert factors.min() > np.exp(-0.41) and 1.2 < factors.max() < np.exp(0.41)  # four steps of Adam
    again, plain = reload(quantized), lqs.dequantize(quantized)
    for scale, quantizer in zip(scales, all_quantizers(again), strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(quantizer.scale), scale)
    for copy in (again, plain):
        np.testing.assert_array_equal(predict(copy, inputs), predict(quantized, inputs))


def test_masks_reach_the_recurrent_layer(rng):
    """What follows a masked position does not matter: the embedding's row 0 may be anything."""
    for functional in (False, True):
        quantized = lqs.quantize(masked(functional), kernel=coarse(), bias=None)
        padded = np.array([[3, 1, 2, 0, 0, 0]])
        before = predict(quantized, padded)
        embedding = next(layer for layer in quantized.layers if "embedding" in layer.name)
        table = embedding.embeddings
        table.assign(ops.convert_to_numpy(table) + 100 * (np.arange(9) == 0)[:, None])
        np.testing.assert_array_equal(predict(quantized, padded), before)
        assert np.abs(predict(quantized, np.array([[3, 1, 2, 4, 4, 4]])) - before).max() > 1e-4


def stateful(kind):
    if kind == "subclassed":
        return subclassed(Block())
    if kind == "inside":
        return stack((4,), Composite())
    return stack((4,), layers.Dense(5), layers.BatchNormalization(), layers.Dropout(0.5, seed=3), layers.Dense(3))


@registered
class Composite(layers.Layer):
    """A layer around a stateful model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = Block()

    def build(self, input_shape):
        self.block.build(input_shape)

    def call(self, inputs):
        return self.block(inputs)


def state_of(model):
    wanted = ("moving_mean", "moving_variance", "seed_generator_state")
    return [ops.convert_to_numpy(v) for v in model.non_trainable_variables if v.path.endswith(wanted)]


@pytest.mark.parametrize("where", [None, "everything"])
@pytest.mark.parametrize("kind", ["Sequential", "subclassed", "inside"])
def test_state_moves_as_in_the_float_network(kind, where, rng):
    """Moving statistics and dropout seeds: same data, same seeds, same state after `fit`."""
    inputs, targets = rng.normal(size=(32, 4)).astype("float32"), rng.normal(size=(32, 3)).astype("float32")
    model = stateful(kind)
    arguments = {} if where is None else {"where": lambda layer, variable: True}
    quantized = lqs.quantize(model, **arguments)
    initial = state_of(model)
    for trained in (model, quantized):
        trained.compile(keras.optimizers.SGD(1e-2), "mse")
        trained.fit(inputs, targets, batch_size=8, epochs=2, shuffle=False, verbose=0)
    for start, expected, result in zip(initial, state_of(model), state_of(quantized), strict=True):
        assert (start != expected).any()
        np.testing.assert_allclose(result, expected, atol=1e-3)
    assert len(initial) == 3 and len(all_quantizers(quantized)) == (4 if where is None else 6)
    predict(quantized, inputs), quantized.predict(inputs, verbose=0)
    for expected, result in zip(state_of(model), state_of(quantized), strict=True):
        np.testing.assert_allclose(result, expected, atol=1e-3)  # inference leaves it alone


def test_recurrent_states_are_carried_over(rng):
    inputs = keras.Input(batch_shape=(2, 3, 4))
    model = keras.Model(inputs, layers.LSTM(3, stateful=True)(inputs))
    quantized, data = lqs.quantize(model), rng.normal(size=(2, 3, 4)).astype("float32")
    calls = [[predict(network, data) for _ in range(2)] for network in (model, quantized)]
    np.testing.assert_allclose(calls[1], calls[0], atol=1e-3)
    assert np.abs(calls[0][1] - calls[0][0]).max() > 0.01


def regularized(kind):
    dense = layers.Dense(5, kernel_regularizer="l2", activity_regularizer="l1")
    if kind == "Sequential":
        return stack((4,), dense, layers.Dense(3, bias_regularizer="l1", bias_initializer="ones"))
    return stack((4,), stack((4,), dense, layers.ActivityRegularization(l2=0.1)), layers.Dense(3))


@pytest.mark.parametrize("kind", ["Sequential", "nested"])
def test_losses_count_once(kind, rng):
    inputs = 3 * rng.normal(size=(8, 4)).astype("float32")
    model = regularized(kind)
    quantized = lqs.quantize(model)
    losses = []
    for trained in (model, quantized):
        trained.compile(keras.optimizers.SGD(0.0), loss=lambda targets, outputs: 0.0 * ops.sum(outputs))
        losses.append(trained.evaluate(inputs, np.zeros(8), verbose=0))
        losses += trained.fit(inputs, np.zeros(8), batch_size=8, epochs=2, verbose=0).history["loss"]
    assert losses[0] > 0.1
    np.testing.assert_allclose(losses, losses[0], rtol=1e-2)


@registered
class Regularized(layers.Layer):
    """A custom layer that adds a loss, around a sublayer that adds two."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(3, kernel_regularizer="l2", activity_regularizer="l1")

    def build(self, input_shape):
        self.inner.build(input_shape)

    def call(self, inputs):
        outputs = self.inner(inputs)
        self.add_loss(0.1 * ops.mean(ops.square(outputs)))
        return outputs


@pytest.mark.parametrize("eager", [False, True])
def test_losses_of_a_composite_layer_count_once(eager, rng):
    inputs = 3 * rng.normal(size=(8, 4)).astype("float32")
    model = stack((4,), Regularized())
    quantized = lqs.quantize(model)
    losses = []
    for trained in (model, quantized):
        if eager:
            trained(inputs)
            losses.append([float(loss) for loss in trained.losses])
        else:
            trained.compile("sgd", loss=lambda targets, outputs: 0.0 * ops.sum(outputs))
            losses.append([trained.evaluate(inputs, np.zeros(8), verbose=0)])
    assert sum(losses[0]) > 0.1 and len(losses[0]) == len(losses[1])
    np.testing.assert_allclose(np.sort(losses[1]), np.sort(losses[0]), rtol=1e-2)


@pytest.mark.parametrize("kind", ["Dense", "custom", "subclassed", "convolution"])
def test_where_reaches_normalization(kind, rng):
    model = MODELS[kind]()
    everything = lqs.quantize(model, where=lambda layer, variable: True)
    assert len(all_quantizers(everything)) == len(model.trainable_weights)
    assert len(all_quantizers(lqs.quantize(model))) == len(chosen(model))


def test_where_sees_the_owner_and_the_variable(rng):
    seen = []

    def where(layer, variable):
        seen.append((type(layer).__name__, variable.name))
        return isinstance(layer, layers.Dense) and variable.name == "kernel"

    model = stack((4,), Gated(name="gated"), layers.Dense(3, name="head"))
    inputs = inputs_of(model, rng)
    quantized = lqs.quantize(model, kernel=coarse(), bias=coarse(), where=where)
    owned = [("Dense", "kernel"), ("Dense", "bias")]
    gated = [("Gated", "gate"), ("LayerNormalization", "gamma"), ("LayerNormalization", "beta")]
    assert sorted(seen) == sorted([*owned, *owned, *gated])
    assert [layer.name for layer in quantized.layers] == ["gated", "head"]

    def kernels(model):
        return {id(v) for v in model.weights if v.path.endswith("kernel")}

    expected = predict(floored(model, COARSE, kernels), inputs)
    np.testing.assert_allclose(predict(quantized, inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", ["kernel", "bias"])
def test_none_leaves_parameters_alone(which, rng):
    model = MODELS["custom"]()
    inputs = inputs_of(model, rng)
    arguments = {"kernel": None, "bias": None, which: coarse()}
    quantized = lqs.quantize(model, **arguments)

    def of_rank(model):
        return {id(v) for v in model.weights if id(v) in chosen(model) and (len(v.shape) > 1) == (which == "kernel")}

    expected = predict(floored(model, COARSE, of_rank), inputs)
    np.testing.assert_allclose(predict(quantized, inputs), expected, rtol=1e-4, atol=1e-5)


def test_both_none_is_a_copy(rng):
    model = MODELS["nested"]()
    copy = lqs.quantize(model, kernel=None, bias=None)
    inputs = inputs_of(model, rng)
    np.testing.assert_array_equal(predict(copy, inputs), predict(model, inputs))
    assert not all_quantizers(copy) and copy is not model


def test_granularity_of_the_prototypes():
    model = stack((4,), layers.Dense(3), layers.Reshape((3, 1)), layers.Conv1D(2, 2))
    quantized = lqs.quantize(model, kernel=coarse(granularity=(-1,)), bias=coarse(granularity=(0,)))
    assert [tuple(q.scale.shape) for q in all_quantizers(quantized)] == [(1, 3), (3,), (1, 1, 2), (2,)]


@pytest.mark.parametrize("make", [lambda: layers.Dense(3), lambda: Gated()])
def test_a_single_layer(make, rng):
    layer = make()
    layer.build((None, 4))
    inputs = rng.normal(size=(8, 4)).astype("float32")
    quantized = lqs.quantize(layer, kernel=coarse(), bias=coarse())
    assert isinstance(quantized, layers.Layer) and quantized.name == layer.name
    result = predict(quantized, inputs)
    np.testing.assert_allclose(result, predict(floored(layer, COARSE), inputs), rtol=1e-4, atol=1e-5)


def test_training_argument_reaches_the_wrapped_layer(rng):
    inputs = rng.normal(size=(8, 4)).astype("float32")
    for kind in ("Sequential", "subclassed", "inside"):
        quantized = lqs.quantize(stateful(kind))
        inference = predict(quantized, inputs)
        np.testing.assert_array_equal(ops.convert_to_numpy(quantized(inputs, training=False)), inference)
        assert np.abs(ops.convert_to_numpy(quantized(inputs, training=True)) - inference).max() > 0.01


@pytest.mark.parametrize("kind", ["Dense", "custom", "subclassed", "nested", "LSTM"])
def test_frozen_models_keep_their_weights(kind, rng):
    quantized = lqs.quantize(MODELS[kind](), kernel=coarse(), bias=coarse())
    inputs = inputs_of(MODELS[kind](), rng)
    before, outputs = values(quantized), predict(quantized, inputs)
    quantized.trainable = False
    np.testing.assert_array_equal(predict(quantized, inputs), outputs)
    for value, kept in zip(values(quantized), before, strict=True):
        np.testing.assert_array_equal(value, kept)


@pytest.mark.parametrize("kind", ["Dense", "custom", "subclassed", "nested", "Bidirectional"])
def test_quantizing_twice(kind, rng):
    """Scales are no parameters to quantize, and what is quantized stays as it is."""
    model = MODELS[kind]()
    inputs = inputs_of(model, rng)
    once = lqs.quantize(model, kernel=coarse(), bias=coarse())
    twice = lqs.quantize(once)
    assert len(twice.weights) == len(once.weights)
    np.testing.assert_array_equal(predict(twice, inputs), predict(once, inputs))
    float_bias = lqs.quantize(model, kernel=coarse(), bias=None)
    completed = lqs.quantize(float_bias, kernel=None, bias=coarse())
    np.testing.assert_allclose(predict(completed, inputs), predict(once, inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_dequantize(kind, rng, reload):
    """The float network's architecture with values P_q * s; predictions equal bit for bit, also from a file."""
    model = MODELS[kind]()
    quantized = lqs.quantize(model, kernel=coarse(granularity=(0,)), bias=coarse())
    inputs, before = inputs_of(model, rng), values(quantized)
    plain = lqs.dequantize(quantized)
    assert plain.name == quantized.name
    if not isinstance(model, (Block, Lazy)):  # a graph of layers; a subclassed model names its own
        names = [[layer.name for layer in network.layers if layer.weights] for network in (model, plain)]
        assert names[0] == names[1]
    assert [type(layer) for layer in plain._flatten_layers()] == [type(layer) for layer in model._flatten_layers()]
    for value, expected in zip(values(plain), values(floored(model, COARSE)), strict=True):
        np.testing.assert_array_equal(value, expected)
    np.testing.assert_array_equal(predict(plain, inputs), predict(quantized, inputs))
    np.testing.assert_array_equal(predict(reload(plain), inputs), predict(quantized, inputs))
    for value, kept in zip(values(quantized), before, strict=True):
        np.testing.assert_array_equal(value, kept)


def test_dequantize_layers_of_lqs(rng):
    """QuantDense and QuantConv2D beside wrapped layers, in a nested model, one of them half in float."""
    middle = keras.Input((12,))
    arguments = {"kernel_quantizer": coarse(granularity="row"), "activation": "relu"}
    inner = keras.Model(middle, lqs.QuantDense(4, **arguments)(middle))
    convolution = lqs.QuantConv2D(3, 2, strides=2, bias_quantizer=coarse(), padding="same", name="own")
    model = stack((4, 4, 1), convolution, layers.Flatten(), inner, layers.Dense(2))
    for variable in model.weights:
        if variable.path.endswith("bias"):
            variable.assign(rng.normal(size=variable.shape))
    quantized = lqs.quantize(model, kernel=coarse(), bias=None)
    plain, inputs = lqs.dequantize(quantized), inputs_of(model, rng)
    assert "lqs" not in plain.to_json() and "quantizer" not in plain.to_json()
    assert type(plain.layers[0]) is layers.Conv2D and plain.layers[0].name == "own"
    assert type(plain.layers[2].layers[1]) is layers.Dense
    np.testing.assert_array_equal(predict(plain, inputs), predict(quantized, inputs))
    for layer in (convolution, inner.layers[1]):
        inputs = rng.normal(size=(2, *layer.input.shape[1:])).astype("float32")
        np.testing.assert_array_equal(predict(lqs.dequantize(layer), inputs), predict(layer, inputs))


@pytest.mark.parametrize("kind", ["Dense", "custom", "subclassed", "nested", "Bidirectional"])
def test_dequantize_what_was_quantized_twice(kind, rng):
    """Kernels first, then biases: wrappers around wrappers."""
    model = MODELS[kind]()
    once = lqs.quantize(model, kernel=coarse(), bias=None)
    twice = lqs.quantize(once, kernel=None, bias=coarse(rounding="nearest"))
    plain, inputs = lqs.dequantize(twice), inputs_of(model, rng)
    np.testing.assert_array_equal(predict(plain, inputs), predict(twice, inputs))
    assert len(plain.weights) == len(model.weights)


def test_dequantize_without_quantized_layers_is_a_copy(rng):
    model = MODELS["nested"]()
    copy, inputs = lqs.dequantize(model), inputs_of(model, rng)
    np.testing.assert_array_equal(predict(copy, inputs), predict(model, inputs))
    assert copy is not model and copy.weights[0] is not model.weights[0]


def test_dequantize_keeps_what_fit_needs(rng):
    """The loss, the moving statistics and what is frozen; dropout begins anew, as in `lqs.quantize`."""
    for kind in ("Sequential", "subclassed"):
        model = stateful(kind)
        inputs, targets = rng.normal(size=(32, 4)).astype("float32"), rng.normal(size=(32, 3)).astype("float32")
        quantized = lqs.quantize(model, kernel=coarse(), bias=coarse())
        quantized.compile(keras.optimizers.SGD(0.125), "mse")
        quantized.fit(inputs, targets, verbose=0)
        plain = lqs.dequantize(quantized)
        for expected, result in zip(state_of(quantized)[:2], state_of(plain)[:2], strict=True):
            np.testing.assert_array_equal(result, expected)
        assert plain.compiled and float(ops.convert_to_numpy(plain.optimizer.learning_rate)) == 0.125
        losses = [network.evaluate(inputs, targets, verbose=0) for network in (quantized, plain)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    frozen = lqs.quantize(MODELS["Dense"]())
    frozen.layers[0].trainable = False
    assert not lqs.dequantize(frozen).trainable_weights


@registered
class Holder(layers.Layer):
    """A layer whose own code makes a quantized layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = lqs.QuantDense(3, kernel_quantizer=coarse())

    def build(self, input_shape):
        self.inner.build(input_shape)

    def call(self, inputs):
        return self.inner(inputs)


def test_dequantize_bad_layer():
    with pytest.raises(
        ValueError, match="`Holder` holds quantized layers that its own code makes. Received: layer 'h'"
    ):
        lqs.dequantize(stack((4,), Holder(name="h")))
    with pytest.raises(ValueError, match="`layer` must be a Keras layer or model. Received: layer=3"):
        lqs.dequantize(3)
    with pytest.raises(ValueError, match="`layer` must be built.*Received: unbuilt layer 'd'"):
        lqs.dequantize(lqs.QuantDense(3, name="d"))


def test_layers_of_lqs_inside(rng, reload):
    """QuantDense keeps its own quantizers, in a model and in a composite layer."""
    own = lqs.QuantDense(5, kernel_quantizer=coarse(), bias_quantizer=coarse(rule=lqs.Frozen()))
    model = stack((4,), own, layers.Dense(3))
    quantized = lqs.quantize(model, kernel=coarse(granularity="row"), bias=None)
    inputs = inputs_of(model, rng)
    assert [tuple(q.scale.shape) for q in all_quantizers(quantized)] == [(1, 1), (1,), (5, 1)]

    def head(model):
        return {id(model.layers[-1].kernel)}

    np.testing.assert_array_equal(predict(reload(quantized), inputs), predict(quantized, inputs))
    expected = predict(floored(model, COARSE, head), inputs)
    np.testing.assert_allclose(predict(quantized, inputs), expected, rtol=1e-5, atol=1e-6)


def test_adapted_preprocessing_is_kept(rng):
    inputs = (5 * rng.normal(size=(32, 4)) + 3).astype("float32")
    normalization = layers.Normalization()
    normalization.adapt(inputs)
    model = stack((4,), normalization, layers.Dense(3))
    np.testing.assert_allclose(predict(lqs.quantize(model), inputs), predict(model, inputs), atol=1e-3)


def test_learned_vocabulary_is_kept():
    lookup = layers.StringLookup()
    lookup.adapt(np.array([["a"], ["b"], ["b"]]))
    words = keras.Input((1,), dtype="string")
    model = keras.Model(words, layers.Embedding(4, 2)(lookup(words)))
    assert lqs.quantize(model).layers[1].get_vocabulary() == ["[UNK]", "b", "a"]


def test_functions_of_ones_own(rng):
    """Of a rule, which need not be registered to be copied, and of a `Lambda` layer."""
    rule = lambda upstream, parameter, integers, scale, axes: -ops.ones_like(scale)  # noqa: E731
    model = stack((4,), layers.Lambda(lambda x: 2 * x), layers.Dense(3))
    quantized = lqs.quantize(model, lqs.NestedQuantization(rule=rule, initial_scale=COARSE), None)
    inputs = inputs_of(model, rng)
    kernel = np.floor(model.layers[1].kernel.numpy() / COARSE) * COARSE
    np.testing.assert_allclose(predict(quantized, inputs), 2 * inputs @ kernel, rtol=1e-5)
    quantized.compile(keras.optimizers.SGD(0.5), "mse")
    quantized.fit(inputs, np.ones((8, 3)), batch_size=8, verbose=0)
    assert float(ops.convert_to_numpy(all_quantizers(quantized)[0].scale).squeeze()) == COARSE + 0.5


def test_compiled_models_stay_compiled(rng):
    for kind in ("Dense", "subclassed"):
        model = MODELS[kind]()
        model.compile(keras.optimizers.Adam(0.125), "mse", metrics=["mae"])
        quantized = lqs.quantize(model)
        assert quantized.compiled and quantized.optimizer is not model.optimizer
        assert float(ops.convert_to_numpy(quantized.optimizer.learning_rate)) == 0.125
        inputs = inputs_of(model, rng)
        quantized.fit(inputs, np.ones((8, 3)), verbose=0)
        assert model.optimizer.iterations == 0 and quantized.optimizer.iterations == 1


def test_output_shape():
    assert lqs.quantize(MODELS["Dense"]()).compute_output_shape((None, 4)) == (None, 3)
    assert lqs.quantize(MODELS["Conv2D"]()).layers[0].compute_output_shape((None, 6, 5, 2)) == (None, 5, 4, 3)


POLICIES = {"float32": 1e-5, "mixed_float16": 2e-3, "mixed_bfloat16": 2e-2}
SCALE = 0.0123  # not a number of half precision


def network(whole):
    if whole:
        return subclassed(Block())
    shape = (6, 5, 2)
    head = [layers.Flatten(), layers.Dropout(0.5, seed=2), layers.Dense(3)]
    return stack(shape, layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(), *head)


@pytest.mark.parametrize("policy, jit_compile", [*[(policy, True) for policy in POLICIES], ("mixed_float16", False)])
@pytest.mark.parametrize("whole", [False, True])
def test_fit_under_mixed_precision(policy, whole, jit_compile, rng, reload):
    """Parameters are quantized in float32, outputs are of the compute dtype, statistics stay in float32."""
    if IS_JAX and not jit_compile:
        pytest.skip("JAX compiles")
    keras.config.set_dtype_policy(policy)
    model = network(whole)
    inputs = inputs_of(model, rng)
    arguments = {"rounding": "nearest", "initial_scale": SCALE, "rule": lqs.GradientRatio(1e4)}
    kernel = lqs.NestedQuantization(**arguments)
    bias = lqs.NestedQuantization(**arguments, parametrization="log")
    quantized = lqs.quantize(model, kernel=kernel, bias=bias)
    outputs = quantized(inputs)
    assert keras.backend.standardize_dtype(outputs.dtype) == keras.DTypePolicy(policy).compute_dtype
    quantized.compile(keras.optimizers.Adam(1e-3), "mse", jit_compile=jit_compile)
    start = state_of(quantized)
    quantized.fit(inputs, np.ones((8, 3)), batch_size=4, epochs=2, verbose=0)
    assert all((a != b).any() for a, b in zip(start, state_of(quantized), strict=True)) and len(start) == 3
    assert {v.dtype for v in quantized.trainable_variables} == {"float32"}
    scales = [float(ops.convert_to_numpy(q.scale).squeeze()) for q in all_quantizers(quantized)]
    assert max(scales) > SCALE + 1e-3 and min(scales) >= 0.9 * SCALE
    np.testing.assert_array_equal(predict(reload(quantized), inputs), predict(quantized, inputs))


@pytest.mark.parametrize("kind", ["layer", "Sequential", "subclassed"])
@pytest.mark.parametrize("policy", POLICIES)
def test_quantized_in_full_precision(policy, kind, rng):
    """Equal to the float network on weights rounded in float32, under the same policy."""
    keras.config.set_dtype_policy(policy)
    model = network(kind == "subclassed")
    inputs = inputs_of(model, rng)
    if kind == "layer":
        model = layers.Dense(3)
        model.build((None, 4))
        inputs = rng.normal(size=(8, 4)).astype("float32")
    prototype = lqs.NestedQuantization(rounding="nearest", initial_scale=SCALE)
    quantized = lqs.quantize(model, kernel=prototype, bias=prototype)
    seen = []
    for quantizer in all_quantizers(quantized):
        quantizer.call = lambda value, training=None, call=quantizer.call: seen.append(value.dtype) or call(value)
    result = quantized(inputs)
    assert {keras.backend.standardize_dtype(dtype) for dtype in seen} == {"float32"}
    selected = chosen(model)
    for variable in model.weights:
        if id(variable) in selected:
            scale = np.float32(SCALE)
            variable.assign(np.round(ops.convert_to_numpy(variable) / scale) * scale)
    difference = ops.convert_to_numpy(ops.cast(result - model(inputs), "float32"))
    np.testing.assert_allclose(difference, 0, atol=POLICIES[policy])


LOADING = """
import sys, lqs, keras, numpy
model = keras.models.load_model(sys.argv[1])
data = numpy.load(sys.argv[2])
numpy.savez(sys.argv[3], outputs=model.predict(data["inputs"], verbose=0),
            loss=model.evaluate(data["inputs"], data["targets"], verbose=0))
"""


def test_loads_in_a_fresh_process(rng, tmp_path):
    """`import lqs` is all that a reader of the file needs."""
    own = lqs.QuantDense(5, kernel_quantizer=coarse(granularity="column", penalty=lqs.MaxBinPenalty(0.5)))
    recurrent = layers.Bidirectional(layers.GRU(2))
    model = stack((6, 4), recurrent, own, layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(3))
    prototype = lqs.NestedQuantization("row", lqs.StraightThrough(), lqs.DifferencePenalty(0.25), "nearest", 8, 0.1)
    model = lqs.quantize(model, kernel=prototype, bias=lqs.NestedQuantization(rule=lqs.GradientRatio(0.5, True)))
    inputs, targets = inputs_of(model, rng), rng.normal(size=(8, 3)).astype("float32")
    model.compile("adam", "mse")
    model.fit(inputs, targets, verbose=0)
    files = [str(tmp_path / name) for name in ("model.keras", "data.npz", "result.npz")]
    model.save(files[0])
    np.savez(files[1], inputs=inputs, targets=targets)
    root = os.path.dirname(os.path.dirname(lqs.__file__))
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend(), "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", LOADING, *files], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = np.load(files[2])
    np.testing.assert_array_equal(result["outputs"], model.predict(inputs, verbose=0))
    assert float(result["loss"]) == pytest.approx(model.evaluate(inputs, targets, verbose=0), rel=1e-6)


@pytest.mark.skipif(not IS_JAX, reason="jax.vmap")
def test_vmap_over_thresholds(rng):
    """Gradients for a batch of thresholds at once equal those one by one."""
    import jax

    quantized = lqs.quantize(stateful("Sequential"), kernel=coarse(rule=lqs.GradientRatio(1.0)), bias=None)
    inputs, targets = rng.normal(size=(8, 4)).astype("float32"), rng.normal(size=(8, 3)).astype("float32")
    trainable = [v.value for v in quantized.trainable_variables]
    ids = {id(quantizer.rule.threshold) for quantizer in all_quantizers(quantized)}

    def gradient(threshold):
        state = [threshold if id(v) in ids else v.value for v in quantized.non_trainable_variables]

        def loss(trainable):
            outputs, _ = quantized.stateless_call(trainable, state, inputs, training=True)
            return ops.mean(ops.square(outputs - targets))

        return jax.grad(loss)(trainable)

    thresholds = np.array([0.0, 0.01, 0.3, 5.0], "float32")
    batch = jax.vmap(gradient)(thresholds)
    one_by_one = [gradient(threshold) for threshold in thresholds]
    is_scale = [v.path.endswith("scale") for v in quantized.trainable_variables]
    assert sum(is_scale) == 2
    for index, scale in enumerate(is_scale):
        expected = np.stack([np.asarray(gradients[index]) for gradients in one_by_one])
        np.testing.assert_allclose(np.asarray(batch[index]), expected, rtol=1e-4, atol=1e-6)
        if scale:
            assert (expected[0] == 0).all() and (np.diff(expected.ravel()) <= 0).all() and (expected[-1] < 0).all()


@pytest.mark.parametrize("value", [3, "dense", None, layers.Dense])
def test_not_a_layer(value):
    with pytest.raises(ValueError, match="`layer` must be a Keras layer or model. Received: layer="):
        lqs.quantize(value)


def test_unbuilt():
    for layer in (layers.Dense(3, name="d"), keras.Sequential([layers.Dense(3)], name="d")):
        with pytest.raises(ValueError, match="`layer` must be built.*Received: unbuilt layer 'd'"):
            lqs.quantize(layer)


@pytest.mark.parametrize("name", ["kernel", "bias"])
@pytest.mark.parametrize("value", ["row", 8, lqs.NestedQuantization, lqs.GradientRatio(0.0)])
def test_bad_prototype(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be an `lqs.NestedQuantization`, None or 'default'. Received"):
        lqs.quantize(stack((4,), layers.Dense(3)), **{name: value})


@pytest.mark.parametrize("value", [None, "conv"])
def test_bad_where(value):
    with pytest.raises(ValueError, match="Argument `where` must be a function .* Received: where="):
        lqs.quantize(stack((4,), layers.Dense(3)), where=value)


def test_compiled_with_an_unregistered_loss():
    model = stack((4,), layers.Dense(3))

    def own_loss(labels, outputs):
        return ops.sum((labels - outputs) ** 2)

    model.compile("sgd", own_loss)
    with pytest.raises(ValueError, match="must be compiled with what Keras can find by its name"):
        lqs.quantize(model)


class OwnStep(Block):
    def train_step(self, *args, **kwargs):
        return super().train_step(*args, **kwargs)


def test_model_with_a_train_step_of_its_own():
    with pytest.raises(ValueError, match="but `OwnStep` has a `train_step` of its own: quantize the layers or models"):
        lqs.quantize(subclassed(OwnStep()))


class Unbuilt(keras.Model):
    """A subclassed model whose layers are built by the first call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)

    def call(self, inputs):
        return self.dense(inputs["a"])


@pytest.mark.skipif(not IS_JAX, reason="on TensorFlow, Keras builds it by a call")
def test_model_that_makes_its_weights_when_called(rng):
    model = Unbuilt()
    model({"a": rng.normal(size=(2, 4))})
    with (
        pytest.warns(UserWarning, match="the model cannot be built automatically"),
        pytest.raises(ValueError, match="a copy of `Unbuilt` has 0 of 2: implement `build`"),
    ):
        lqs.quantize(model)


def test_layer_that_assigns_a_quantized_parameter(rng):
    layer = layers.SpectralNormalization(layers.Dense(3), name="spectral")
    layer.build((None, 4))
    quantized = lqs.quantize(layer)
    with pytest.raises(ValueError, match="Layer 'spectral' assigns its parameter '.*kernel' itself.* `where`"):
        quantized(rng.normal(size=(2, 4)).astype("float32"), training=True)


def test_granularity_that_does_not_fit():
    with pytest.raises(ValueError, match="'filter' needs a parameter tensor of rank 3.*tensor of rank 2"):
        lqs.quantize(stack((4,), layers.Dense(3)), kernel=lqs.NestedQuantization("filter"))


class NoConfig(layers.Dense):
    """A layer whose configuration lacks an argument."""

    def __init__(self, units, depth, **kwargs):
        super().__init__(units, **kwargs)


def test_layer_that_cannot_be_copied():
    layer = NoConfig(3, depth=2)
    layer.build((None, 4))
    with pytest.raises(ValueError, match="`NoConfig` does not give one that recreates it: implement `get_config`"):
        lqs.quantize(layer)
