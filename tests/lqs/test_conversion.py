"""`lqs.quantize` on every kind of layer and model: predictions, fit, state, losses, precision, save and load; back."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import (
    BATCH_SIZE,
    BRANCHES,
    COMPILED,
    IMAGE,
    IS_JAX,
    MODELS,
    SEQUENCE,
    UNTRACED,
    Block,
    Composite,
    Gated,
    Lazy,
    assert_equal,
    build,
    called,
    example,
    inputs_of,
    joined,
    predict,
    registered,
    stack,
    stateful,
    values,
)

import lqs
from lqs.conversion import NORMALIZATIONS, from_integers
from lqs.inspection import quantized_parameters

COARSE = 0.125  # a power of two: quotients and products are exact
TRACED = {"jit_compile": IS_JAX}  # TensorFlow without XLA, which takes twice as long to compile


def chosen(model):
    """Return `id`s of the float weights to quantize: trainable, and owned by no normalization layer."""
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, NORMALIZATIONS)]
    excluded = {id(variable) for norm in norms for variable in norm.weights}
    return {id(variable) for variable in model.trainable_weights} - excluded


def floored_values(model, scale, selected):
    """Return the values of all weights, those with the selected `id`s as `floor(w / s) * s`, by NumPy."""
    pairs = zip(model.weights, values(model), strict=True)
    return [np.floor(value / scale) * scale if id(variable) in selected else value for variable, value in pairs]


def predict_floored(model, inputs, selected):
    """Return the outputs of a float network, `selected` weights floored while it is called."""
    before = values(model)
    model.set_weights(floored_values(model, COARSE, selected))
    outputs = predict(model, inputs)
    model.set_weights(before)
    return outputs


def all_quantizers(model):
    return [quantizer for _, quantizer in lqs.inspection.quantized_parameters(model)]


def scales_of(layer):
    return [ops.convert_to_numpy(quantizer.scale) for quantizer in all_quantizers(layer)]


def coarse(**arguments):
    return lqs.NestedQuantization(initial_scale=COARSE, **arguments)


# TensorFlow is the one that runs the whole zoo: JAX would compile the operations of each kind. `lqs` knows no kinds.
KINDS = ["Dense", "Conv2D", "Embedding, LSTM", "Bidirectional", "MultiHeadAttention", "custom", "subclassed"]
KINDS += ["subclassed, no build", "nested", "shared", "two inputs", "stateful"]


@pytest.mark.parametrize("kind", KINDS if IS_JAX else MODELS)
def test_there_and_back(kind, reload):
    """Within the initial scale of the float network; with a coarse scale, those of floored float weights.

    Dequantized, it is the float network's architecture with values P_q * s; predictions are equal bit for bit. All of
    it holds for loaded files, too.
    """
    model, inputs, exact = example(kind)
    before, selected = values(model), chosen(model)
    fine = lqs.quantize(model)
    assert 0 < np.abs(predict(fine, inputs) - exact).max() < 1e-3
    assert len(all_quantizers(fine)) == len(selected)
    quantized = lqs.quantize(model, kernel=coarse(), bias=coarse())
    result, quantized_values = predict(quantized, inputs), values(quantized)
    assert np.abs(result - exact).max() > 1e-3
    np.testing.assert_array_equal(predict(reload(quantized), inputs), result)
    plain = lqs.dequantize(quantized)
    assert plain.name == quantized.name == model.name
    if not isinstance(model, (Block, Lazy)):  # a graph of layers; a subclassed model names its own
        names = [[layer.name for layer in network.layers if layer.weights] for network in (model, plain)]
        assert names[0] == names[1]
    assert [type(layer) for layer in plain._flatten_layers()] == [type(layer) for layer in model._flatten_layers()]
    assert_equal(values(plain), floored_values(model, COARSE, selected))
    np.testing.assert_array_equal(predict(plain, inputs), result)
    np.testing.assert_array_equal(predict(reload(plain), inputs), result)
    assert_equal(values(model), before)
    assert_equal(values(quantized), quantized_values)


@pytest.mark.parametrize("kind", ["Dense", "custom", "subclassed", "nested", "convolution", "SeparableConv2D"])
def test_predictions_are_those_of_floored_weights(kind):
    model, inputs, _ = example(kind)
    quantized = lqs.quantize(model, kernel=coarse(), bias=coarse())
    expected = predict_floored(model, inputs, chosen(model))
    np.testing.assert_allclose(predict(quantized, inputs), expected, rtol=1e-4, atol=1e-5)


# The prototypes of the thesis, and those that `CodeLengthPenalty` is meant for. Each scale moves by itself.
LINEAR = {"rule": lqs.GradientRatio(1e4), "penalty": lqs.InversePenalty(1e-9)}
LOG = {"rule": lqs.StraightThrough(), "penalty": lqs.CodeLengthPenalty(1.0), "rounding": "nearest"}
LOG |= {"initial_scale": COARSE, "parametrization": "log"}


@pytest.mark.parametrize(
    "kinds, kernel, bias, compiling",
    [
        pytest.param(BRANCHES, LINEAR, LOG, UNTRACED, id="all", marks=pytest.mark.slow),
        pytest.param(["Embedding, LSTM", "MultiHeadAttention"], LOG, LINEAR, TRACED, id="some"),
    ],
)
def test_fit_save_load_and_dequantize(kinds, kernel, bias, compiling, rng, reload):
    """Four steps of Adam; the later ones are smaller where the range of the integers has become small."""
    model, rate = joined(kinds), 0.01
    inputs, before = inputs_of(model, rng), values(model)
    quantized = lqs.quantize(model, lqs.NestedQuantization(**kernel), lqs.NestedQuantization(**bias))
    quantized.compile(keras.optimizers.Adam(rate), "mse", **compiling)
    targets = np.ones((BATCH_SIZE, model.output_shape[-1]), "float32")
    history = quantized.fit(inputs, targets, batch_size=4, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    moved = {"linear": [], "log": []}
    for quantizer in all_quantizers(quantized):
        start, scale = quantizer.initial_scale, float(ops.convert_to_numpy(quantizer.scale).squeeze())
        moved[quantizer.parametrization].append(scale - start if start < COARSE else abs(np.log(scale / start)))
    for steps in moved.values():
        assert rate < min(steps) < max(steps) < 4.01 * rate
    assert_equal(values(model), before)
    assert int(quantized.optimizer.iterations) == 4
    again, plain = reload(quantized), lqs.dequantize(quantized)
    assert_equal(scales_of(again), scales_of(quantized))
    for copy in (again, plain):
        np.testing.assert_array_equal(predict(copy, inputs), predict(quantized, inputs))


@pytest.mark.parametrize("kind", ["subclassed", "subclassed, no build"])
def test_fit_of_a_subclassed_model(kind, rng, reload):
    model, inputs, outputs = example(kind)
    before = values(model)
    quantized = lqs.quantize(model, lqs.NestedQuantization(**LINEAR), lqs.NestedQuantization(**LINEAR))
    quantized.compile(keras.optimizers.SGD(0.01), "mse", **TRACED)
    start = scales_of(quantized)
    quantized.fit(inputs, np.ones_like(outputs), batch_size=4, verbose=0)
    moved = [(scale - initial).min() for scale, initial in zip(scales_of(quantized), start, strict=True)]
    assert min(moved) >= 0 and min(moved[0], moved[2]) > 0  # kernels always; a bias may be sensitive throughout
    assert_equal(values(model), before)
    again = reload(quantized)
    assert_equal(scales_of(again), scales_of(quantized))
    np.testing.assert_array_equal(predict(again, inputs), predict(quantized, inputs))


@pytest.mark.parametrize("kind", ["Embedding, LSTM", "Embedding, LSTM functional"])
def test_masks_reach_the_recurrent_layer(kind):
    """What follows a masked position does not matter: the embedding's row 0 may be anything."""
    quantized = lqs.quantize(example(kind).model, kernel=coarse(), bias=None)
    padded, whole = np.zeros((2, BATCH_SIZE, 6), "int32")
    padded[:, :3], whole[:] = [3, 1, 2], [3, 1, 2, 4, 4, 4]
    before = predict(quantized, padded)
    table = next(layer for layer in quantized.layers if "embedding" in layer.name).embeddings
    table.assign(ops.convert_to_numpy(table) + 100 * (np.arange(9) == 0)[:, None])
    np.testing.assert_array_equal(predict(quantized, padded), before)
    assert np.abs(predict(quantized, whole) - before).max() > 1e-4


def state_of(model):
    wanted = ("moving_mean", "moving_variance", "seed_generator_state")
    return [ops.convert_to_numpy(v) for v in model.non_trainable_variables if v.path.endswith(wanted)]


@pytest.mark.parametrize("kind, compiling", [("stateful", TRACED), ("subclassed", UNTRACED)])
def test_state_moves_as_in_the_float_network(kind, compiling, rng):
    """Moving statistics and dropout seeds: same data, same seeds, same state after `fit`; inference leaves it alone.

    Dequantized, the network keeps what `fit` needs: the loss and the moving statistics; dropout begins anew.
    """
    inputs, targets = rng.normal(size=(32, 4)).astype("float32"), rng.normal(size=(32, 3)).astype("float32")
    model = build(kind)
    initial, num_norms = state_of(model), 1 if kind == "subclassed" else 3
    networks = [model, lqs.quantize(model), lqs.quantize(model, where=lambda layer, variable: True)]
    assert len(initial) == 3 * num_norms
    num_quantizers = [len(all_quantizers(network)) for network in networks]
    assert num_quantizers == [0, 4 * num_norms, 6 * num_norms]
    for network in networks:
        network.compile(keras.optimizers.SGD(2**-7), "mse", **compiling)
        network.fit(inputs, targets, batch_size=8, epochs=2, shuffle=False, verbose=0)
        network.run_eagerly = not IS_JAX
    expected = state_of(model)
    assert all((start != moved).any() for start, moved in zip(initial, expected, strict=True))
    for network in networks[1:]:
        for _ in range(2):
            for result, state in zip(state_of(network), expected, strict=True):
                np.testing.assert_allclose(result, state, atol=1e-3)
            predict(network, inputs), networks[1].predict(inputs, verbose=0)
        plain = lqs.dequantize(network)
        statistics = [[a for a in state_of(copy) if a.dtype == "float32"] for copy in (network, plain)]
        assert len(statistics[0]) == 2 * num_norms
        assert_equal(*statistics)
        assert plain.compiled and float(ops.convert_to_numpy(plain.optimizer.learning_rate)) == 2**-7
        np.testing.assert_array_equal(predict(plain, inputs), predict(network, inputs))
    plain.run_eagerly = not IS_JAX
    losses = [copy.evaluate(inputs, targets, verbose=0) for copy in (network, plain)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.once
def test_frozen_layers_stay_frozen():
    frozen = lqs.quantize(example("Dense").model)
    frozen.layers[0].trainable = False
    assert not lqs.dequantize(frozen).trainable_weights


def test_recurrent_states_are_carried_over(rng):
    inputs = keras.Input(batch_shape=(2, 3, 4))
    model = keras.Model(inputs, layers.LSTM(3, stateful=True)(inputs))
    quantized, data = lqs.quantize(model), rng.normal(size=(2, 3, 4)).astype("float32")
    calls = [[predict(network, data) for _ in range(2)] for network in (model, quantized)]
    np.testing.assert_allclose(calls[1], calls[0], atol=1e-3)
    assert np.abs(calls[0][1] - calls[0][0]).max() > 0.01


@registered
class Regularized(layers.Layer):
    """A custom layer that adds a loss, around a sublayer that adds two."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(4, kernel_regularizer="l2", activity_regularizer="l1")

    def build(self, input_shape):
        self.inner.build(input_shape)

    def call(self, inputs):
        outputs = self.inner(inputs)
        self.add_loss(0.1 * ops.mean(ops.square(outputs)))
        return outputs

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 4)


def test_losses_count_once(rng):
    """Of layers, of a model inside and of a composite layer: when called, in `evaluate`, and in every step of `fit`."""
    inputs = rng.normal(size=(BATCH_SIZE, 4)).astype("float32")
    dense = layers.Dense(4, kernel_regularizer="l2", activity_regularizer="l1")
    inner = stack((4,), dense, layers.ActivityRegularization(l2=0.1))
    model = stack((4,), inner, Regularized(), layers.Dense(3, bias_regularizer="l1", bias_initializer="ones"))
    called_losses, losses = [], []
    for network in (model, lqs.quantize(model)):
        network(inputs)
        called_losses.append(sorted(float(loss) for loss in network.losses))
        network.compile(keras.optimizers.SGD(0.0), lambda targets, outputs: 0.0 * ops.sum(outputs), **TRACED)
        losses += network.fit(inputs, np.zeros(BATCH_SIZE), batch_size=8, epochs=2, verbose=0).history["loss"]
        network.run_eagerly = not IS_JAX
        losses.append(network.evaluate(inputs, np.zeros(BATCH_SIZE), verbose=0))
    assert len(called_losses[0]) == 7 and min(called_losses[0]) > 0.01 * sum(called_losses[0])
    np.testing.assert_allclose(called_losses[1], called_losses[0], rtol=1e-2)
    np.testing.assert_allclose(losses, sum(called_losses[0]), rtol=2e-3)


@pytest.mark.once
@pytest.mark.parametrize("kind", ["Dense", "custom", "subclassed", "convolution"])
def test_where_reaches_normalization(kind):
    model = example(kind).model
    everything = lqs.quantize(model, where=lambda layer, variable: True)
    assert len(all_quantizers(everything)) == len(model.trainable_weights)


@pytest.mark.once
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
    expected = predict_floored(model, inputs, {id(v) for v in model.weights if v.path.endswith("kernel")})
    np.testing.assert_allclose(predict(quantized, inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.once
@pytest.mark.parametrize("which", ["kernel", "bias"])
def test_none_leaves_parameters_alone(which):
    model, inputs, _ = example("custom")
    quantized = lqs.quantize(model, **{"kernel": None, "bias": None, which: coarse()})
    of_rank = {id(v) for v in model.weights if id(v) in chosen(model) and (len(v.shape) > 1) == (which == "kernel")}
    expected = predict_floored(model, inputs, of_rank)
    np.testing.assert_allclose(predict(quantized, inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.once
@pytest.mark.parametrize(
    "convert", [lambda model: lqs.quantize(model, kernel=None, bias=None), lqs.dequantize], ids=["to", "from"]
)
def test_nothing_to_convert_is_a_copy(convert):
    model, inputs, outputs = example("nested")
    copy = convert(model)
    np.testing.assert_array_equal(predict(copy, inputs), outputs)
    assert not all_quantizers(copy) and copy is not model and copy.weights[0] is not model.weights[0]


@pytest.mark.once
def test_granularity_of_the_prototypes():
    model = stack((4,), layers.Dense(3), layers.Reshape((3, 1)), layers.Conv1D(2, 2))
    quantized = lqs.quantize(model, kernel=coarse(granularity=(-1,)), bias=coarse(granularity=(0,)))
    assert [scale.shape for scale in scales_of(quantized)] == [(1, 3), (3,), (1, 1, 2), (2,)]


@pytest.mark.parametrize("make", [lambda: layers.Dense(3), lambda: Gated()], ids=["Dense", "Gated"])
def test_a_single_layer(make, rng):
    layer = make()
    layer.build((None, 4))
    inputs = rng.normal(size=(BATCH_SIZE, 4)).astype("float32")
    quantized = lqs.quantize(layer, kernel=coarse(), bias=coarse())
    assert isinstance(quantized, layers.Layer) and quantized.name == layer.name
    expected = predict_floored(layer, inputs, chosen(layer))
    np.testing.assert_allclose(predict(quantized, inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: stack((4,), Composite()), lambda: called(Block()), lambda: stateful()])
def test_training_argument_reaches_the_wrapped_layer(make, rng):
    quantized, inputs = lqs.quantize(make()), rng.normal(size=(BATCH_SIZE, 4)).astype("float32")
    inference = predict(quantized, inputs)
    np.testing.assert_array_equal(ops.convert_to_numpy(quantized(inputs, training=False)), inference)
    assert np.abs(ops.convert_to_numpy(quantized(inputs, training=True)) - inference).max() > 0.01


@pytest.mark.parametrize("kind", ["Dense", "custom", "subclassed", "nested", "Bidirectional", "LSTM"])
def test_quantizing_twice(kind):
    """Kernels first, then biases: wrappers around wrappers. What is quantized stays as it is, and so do scales.

    Frozen, it keeps its weights and outputs.
    """
    model, inputs, _ = example(kind)
    kernel, bias = coarse(granularity=(0,)), coarse(rounding="nearest")
    once = lqs.quantize(model, kernel, bias)
    twice, outputs = lqs.quantize(once), predict(once, inputs)
    assert len(twice.weights) == len(once.weights)
    assert_equal(values(twice), values(once))
    twice.trainable = False
    np.testing.assert_allclose(predict(twice, inputs), outputs, rtol=0, atol=1e-7)  # torch has other kernels then
    assert_equal(values(twice), values(once))
    completed = lqs.quantize(lqs.quantize(model, kernel, None), None, bias)
    result = predict(completed, inputs)
    np.testing.assert_allclose(result, outputs, rtol=1e-5, atol=1e-6)
    plain = lqs.dequantize(completed)
    assert len(plain.weights) == len(model.weights)
    np.testing.assert_array_equal(predict(plain, inputs), result)


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


@pytest.mark.once
def test_dequantize_bad_layer():
    with pytest.raises(
        ValueError,
        match="`Holder` holds quantized layers that its own code or configuration makes.*Received: layer 'h'",
    ):
        lqs.dequantize(stack((4,), Holder(name="h")))
    with pytest.raises(ValueError, match="`layer` must be a Keras layer or model. Received: layer=3"):
        lqs.dequantize(3)
    with pytest.raises(ValueError, match="`layer` must be built.*Received: unbuilt layer 'd'"):
        lqs.dequantize(lqs.QuantDense(3, name="d"))


@registered
class Pair(keras.Model):
    """A model whose configuration holds its parts."""

    def __init__(self, first, second, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second, self.built = first, second, True

    def call(self, inputs):
        return self.second(self.first(inputs))

    def get_config(self):
        parts = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in ("first", "second")}
        return {**super().get_config(), **parts}

    @classmethod
    def from_config(cls, config):
        parts = {name: keras.saving.deserialize_keras_object(config.pop(name)) for name in ("first", "second")}
        return cls(**parts, **config)


@pytest.mark.once
def test_dequantize_model_of_quantized_parts(rng):
    """Refused as a whole, and made of dequantized parts, as the error says."""
    parts = [lqs.quantize(stack((4,), layers.Dense(4)), kernel=coarse()) for _ in range(2)]
    with pytest.raises(ValueError, match="dequantize these one by one, and make it of the results"):
        lqs.dequantize(Pair(*parts))
    inputs = rng.normal(size=(2, 4)).astype("float32")
    plain = Pair(*map(lqs.dequantize, parts))
    assert len(plain.weights) == 4
    np.testing.assert_array_equal(predict(plain, inputs), predict(Pair(*parts), inputs))


def test_layers_of_lqs_inside(rng, reload):
    """QuantDense keeps its own quantizers, in a model and in a composite layer."""
    own = lqs.QuantDense(5, kernel_quantizer=coarse(), bias_quantizer=coarse(rule=lqs.Frozen()))
    model = stack((4,), own, layers.Dense(3))
    quantized = lqs.quantize(model, kernel=coarse(granularity="row"), bias=None)
    inputs = inputs_of(model, rng)
    assert [tuple(q.scale.shape) for q in all_quantizers(quantized)] == [(1, 1), (1,), (5, 1)]

    np.testing.assert_array_equal(predict(reload(quantized), inputs), predict(quantized, inputs))
    expected = predict_floored(model, inputs, {id(model.layers[-1].kernel)})
    np.testing.assert_allclose(predict(quantized, inputs), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.once
def test_adapted_preprocessing_is_kept(rng):
    inputs = (5 * rng.normal(size=(32, 4)) + 3).astype("float32")
    normalization = layers.Normalization()
    normalization.adapt(inputs)
    model = stack((4,), normalization, layers.Dense(3))
    np.testing.assert_allclose(predict(lqs.quantize(model), inputs), predict(model, inputs), atol=1e-3)


@pytest.mark.once
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
        model = build(kind)
        model.compile(keras.optimizers.SGD(0.125), "mse", metrics=["mae"], **UNTRACED)
        quantized = lqs.quantize(model)
        assert (
            quantized.compiled
            and quantized.run_eagerly == model.run_eagerly
            and quantized.optimizer is not model.optimizer
        )
        assert float(ops.convert_to_numpy(quantized.optimizer.learning_rate)) == 0.125
        inputs = inputs_of(model, rng)
        quantized.fit(inputs, np.ones((8, 3)), verbose=0)
        assert model.optimizer.iterations == 0 and quantized.optimizer.iterations == 1


@pytest.mark.once
def test_output_shape():
    assert lqs.quantize(example("Dense").model).compute_output_shape((None, 4)) == (None, 3)
    assert lqs.quantize(example("Conv2D").model).layers[0].compute_output_shape((None, *IMAGE)) == (None, 4, 3, 4)


POLICIES = {"float32": 1e-5, "mixed_float16": 2e-3, "mixed_bfloat16": 2e-2}
SCALE = 0.0123  # not a number of half precision


def network():
    """Layers of a graph, and a model in it that is wrapped as a whole."""
    head = [layers.Flatten(), layers.Dropout(0.5, seed=2), layers.Dense(4), Block()]
    return stack(IMAGE, layers.Conv2D(4, 2), layers.BatchNormalization(), layers.ReLU(), *head)


FITS = [("mixed_float16", COMPILED), ("mixed_bfloat16", UNTRACED)]
FITS += [] if IS_JAX else [("mixed_float16", {"jit_compile": False})]


@pytest.mark.parametrize("policy, compiling", FITS)
def test_fit_under_mixed_precision(policy, compiling, rng, reload):
    """Parameters are quantized in float32, outputs are of the compute dtype, statistics stay in float32."""
    keras.config.set_dtype_policy(policy)
    model = network()
    inputs = inputs_of(model, rng)
    arguments = {"rounding": "nearest", "initial_scale": SCALE, "rule": lqs.GradientRatio(1e4)}
    kernel = lqs.NestedQuantization(**arguments)
    bias = lqs.NestedQuantization(**arguments, parametrization="log")
    quantized = lqs.quantize(model, kernel=kernel, bias=bias)
    outputs = quantized(inputs)
    assert keras.backend.standardize_dtype(outputs.dtype) == keras.DTypePolicy(policy).compute_dtype
    quantized.compile(keras.optimizers.Adam(1e-3), "mse", **compiling)
    start = state_of(quantized)
    quantized.fit(inputs, np.ones((8, 3)), batch_size=4, epochs=2, verbose=0)
    assert all((a != b).any() for a, b in zip(start, state_of(quantized), strict=True)) and len(start) == 6
    assert {v.dtype for v in quantized.trainable_variables} == {"float32"}
    for layer in (layer for layer in quantized.layers if all_quantizers(layer)):
        scales = np.concatenate([np.ravel(scale) for scale in scales_of(layer)])
        assert scales.max() > SCALE + 1e-3 and scales.min() >= 0.9 * SCALE
    np.testing.assert_array_equal(predict(reload(quantized), inputs), predict(quantized, inputs))


def rounded_values(model):
    """Return the values of all weights, the chosen ones rounded in float32."""
    selected, scale = chosen(model), np.float32(SCALE)
    pairs = zip(model.weights, values(model), strict=True)
    return [np.round(value / scale) * scale if id(variable) in selected else value for variable, value in pairs]


def record_dtypes(quantized):
    """Return a list to which every quantizer of a model will append the dtype that it is called with."""
    seen = []
    for quantizer in all_quantizers(quantized):
        quantizer.call = lambda value, training=None, call=quantizer.call: seen.append(value.dtype) or call(value)
    return seen


@pytest.mark.parametrize("policy", POLICIES)
def test_quantized_in_full_precision(policy, rng):
    """Equal to the float network on weights rounded in float32, under the same policy."""
    keras.config.set_dtype_policy(policy)
    layer = layers.Dense(3)
    layer.build((None, 4))
    for model in (layer, network(), called(Block())):
        is_image = isinstance(model, keras.Sequential)
        inputs = rng.normal(size=(BATCH_SIZE, *(IMAGE if is_image else (4,)))).astype("float32")
        prototype = lqs.NestedQuantization(rounding="nearest", initial_scale=SCALE)
        quantized = lqs.quantize(model, kernel=prototype, bias=prototype)
        seen = record_dtypes(quantized)
        result = predict(quantized, inputs)
        assert {keras.backend.standardize_dtype(dtype) for dtype in seen} == {"float32"}
        model.set_weights(rounded_values(model))
        np.testing.assert_allclose(result, predict(model, inputs), rtol=0, atol=POLICIES[policy])


LOADING = """
import sys, keras, lqs, numpy
model = keras.models.load_model(sys.argv[1])
data = numpy.load(sys.argv[2])
numpy.savez(sys.argv[3], outputs=model.predict(data["inputs"], verbose=0),
            loss=model.evaluate(data["inputs"], data["targets"], verbose=0))
"""


@pytest.mark.slow
@pytest.mark.once
def test_loads_in_a_fresh_process(rng, tmp_path):
    """`import lqs` is all that a reader of the file needs."""
    own = lqs.QuantDense(5, kernel_quantizer=coarse(granularity="column", penalty=lqs.MaxBinPenalty(0.5)))
    recurrent = layers.Bidirectional(layers.GRU(2))
    model = stack(SEQUENCE, recurrent, own, layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(3))
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

    quantized = lqs.quantize(called(Block()), kernel=coarse(rule=lqs.GradientRatio(1.0)), bias=None)
    inputs, targets = rng.normal(size=(8, 4)).astype("float32"), rng.normal(size=(8, 3)).astype("float32")
    trainable = [v.value for v in quantized.trainable_variables]
    ids = {id(quantizer.rule.threshold) for quantizer in all_quantizers(quantized)}

    def gradient(threshold):
        state = [threshold if id(v) in ids else v.value for v in quantized.non_trainable_variables]

        def loss(trainable):
            outputs, _ = quantized.stateless_call(trainable, state, inputs, training=True)
            return ops.mean(ops.square(outputs - targets))

        return jax.grad(loss)(trainable)

    thresholds, compiled = np.array([0.0, 0.01, 0.3, 5.0], "float32"), jax.jit(gradient)
    batch = jax.jit(jax.vmap(gradient))(thresholds)
    one_by_one = [compiled(threshold) for threshold in thresholds]
    is_scale = [v.path.endswith("scale") for v in quantized.trainable_variables]
    assert sum(is_scale) == 2
    for index, scale in enumerate(is_scale):
        expected = np.stack([np.asarray(gradients[index]) for gradients in one_by_one])
        np.testing.assert_allclose(np.asarray(batch[index]), expected, rtol=1e-4, atol=1e-6)
        if scale:
            assert (expected[0] == 0).all() and (np.diff(expected.ravel()) <= 0).all() and (expected[-1] < 0).all()


@pytest.mark.once
@pytest.mark.parametrize("value", [3, "dense", None, layers.Dense])
def test_not_a_layer(value):
    with pytest.raises(ValueError, match="`layer` must be a Keras layer or model. Received: layer="):
        lqs.quantize(value)


@pytest.mark.once
def test_unbuilt():
    for layer in (layers.Dense(3, name="d"), keras.Sequential([layers.Dense(3)], name="d")):
        with pytest.raises(ValueError, match="`layer` must be built.*Received: unbuilt layer 'd'"):
            lqs.quantize(layer)


@pytest.mark.once
@pytest.mark.parametrize("name", ["kernel", "bias"])
@pytest.mark.parametrize("value", [8, lqs.NestedQuantization, lqs.GradientRatio(0.0)])
def test_bad_prototype(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be an `lqs.NestedQuantization`, None or 'default'. Received"):
        lqs.quantize(stack((4,), layers.Dense(3)), **{name: value})


@pytest.mark.once
@pytest.mark.parametrize("value", [None, "conv"])
def test_bad_where(value):
    with pytest.raises(ValueError, match="Argument `where` must be a function .* Received: where="):
        lqs.quantize(stack((4,), layers.Dense(3)), where=value)


@pytest.mark.once
def test_compiled_with_an_unregistered_loss():
    model = stack((4,), layers.Dense(3))

    def own_loss(labels, outputs):
        return ops.sum((labels - outputs) ** 2)

    model.compile("sgd", own_loss)
    with pytest.raises(ValueError, match="must be compiled with what Keras can find by its name"):
        lqs.quantize(model)


@registered
class OwnStep(Block):
    def train_step(self, *args, **kwargs):
        raise RuntimeError("own train_step")


@pytest.mark.once
def test_model_keeps_its_class_and_its_train_step():
    quantized = lqs.quantize(called(OwnStep()))
    assert isinstance(quantized, OwnStep)
    quantized.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(RuntimeError, match="own train_step"):
        quantized.fit(np.ones((2, 4)), np.ones((2, 3)), verbose=0)


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


@pytest.mark.once
def test_granularity_that_does_not_fit():
    with pytest.raises(ValueError, match="'filter' needs a parameter tensor of rank 3.*tensor of rank 2"):
        lqs.quantize(stack((4,), layers.Dense(3)), kernel=lqs.NestedQuantization("filter"))


class NoConfig(layers.Dense):
    """A layer whose configuration lacks an argument."""

    def __init__(self, units, depth, **kwargs):
        super().__init__(units, **kwargs)


@pytest.mark.once
def test_layer_that_cannot_be_copied():
    layer = NoConfig(3, depth=2)
    layer.build((None, 4))
    with pytest.raises(ValueError, match="the constructor of `NoConfig` does not take what its `get_config` gives"):
        lqs.quantize(layer)


@pytest.mark.once
def test_from_integers(tmp_path):
    model = stack((4,), layers.Dense(3, bias_initializer="ones"), layers.Dense(2))
    rng = np.random.default_rng(0)
    integers = rng.integers(-7, 8, (4, 3)), rng.integers(-1, 2, (3, 2))
    scales = rng.uniform(0.1, 1, (1, 3)).astype("float32"), np.full((1, 1), 0.25, "float32")
    quantized = from_integers(model, [(integers[0], scales[0]), None, (integers[1], scales[1]), None])
    values = [ops.convert_to_numpy(weight) for weight in lqs.dequantize(quantized).weights]
    np.testing.assert_array_equal(values[0], integers[0].astype("float32") * scales[0])
    np.testing.assert_array_equal(values[2], integers[1] * scales[1])
    np.testing.assert_array_equal(values[1], np.ones(3))
    lqs.save(quantized, tmp_path / "model.lqs")
    found = lqs.inspection.model_integers(lqs.load(tmp_path / "model.lqs"))
    for array, expected in zip(found.values(), integers, strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.once
@pytest.mark.parametrize(
    "integers, scale, message",
    [
        (np.zeros((3, 4), int), np.ones((1, 1)), "integers of the shape of a float weight.*shapes .3, 4. and .1, 1."),
        (np.zeros((4, 3), int), np.ones((1, 2)), "integers of the shape of a float weight"),
        (np.zeros((4, 3), int), np.ones(1), "integers of the shape of a float weight"),
        (np.full((4, 3), 2**25 + 1), np.ones((1, 1)), "must have integers that float32 gives back"),
    ],
)
def test_bad_integers(integers, scale, message):
    model = stack((4,), layers.Dense(3))
    with pytest.raises(ValueError, match=message):
        from_integers(model, [(integers, scale), None])
    with pytest.raises(ValueError, match="must have an entry for each of 2 weights. Received: 1 entries"):
        from_integers(model, [(integers, scale)])


# One scale for each output unit.

UNITS = {
    "Dense(5)": ((4,), (1, 5)),
    "Conv1D(5, 2)": ((4, 3), (1, 1, 5)),
    "DepthwiseConv1D(2, depth_multiplier=2)": ((4, 3), (1, 3, 2)),
    "DepthwiseConv2D(2)": ((4, 4, 3), (1, 1, 3, 1)),
    "SeparableConv2D(5, 2)": ((4, 4, 3), (1, 1, 3, 1), (1, 1, 1, 5)),
    "Conv1DTranspose(5, 2)": ((4, 3), (1, 5, 1)),
    "Conv2DTranspose(5, 2)": ((4, 4, 3), (1, 1, 5, 1)),
    "EinsumDense('abc,cde->abde', output_shape=(None, 2, 5))": ((4, 3), (1, 2, 5)),
    "EinsumDense('abc,cd->abd', output_shape=(None, 5))": ((4, 3), (1, 5)),
    "MultiHeadAttention(2, 5)": ((4, 3), (1, 2, 5), (1, 2, 5), (1, 2, 5), (1, 1, 3)),
    "LSTM(5)": ((4, 3), (1, 20), (1, 20)),
    "Bidirectional(keras.layers.GRU(5))": ((4, 3), (1, 15), (1, 15), (1, 15), (1, 15)),
    "Embedding(7, 5)": ((4,), (1, 5)),
}


@pytest.mark.parametrize("kind", UNITS)
def test_one_scale_for_each_output_unit(kind):
    shape, *expected = UNITS[kind]
    layer, inputs = eval(f"keras.layers.{kind}"), keras.Input(shape)
    model = keras.Model(inputs, layer(inputs, inputs) if "Attention" in kind else layer(inputs))
    quantized = lqs.quantize(model, lqs.NestedQuantization("output"), lqs.NestedQuantization())
    kernels = [q for v, q in quantized_parameters(quantized) if v.name != "bias" and len(v.shape) > 1]
    assert sorted(tuple(q.scale.shape) for q in kernels) == sorted(expected)
    clone = lqs.NestedQuantization.from_config(kernels[0].get_config())
    clone.build(kernels[0].parameter_shape)
    assert clone.scale.shape == kernels[0].scale.shape


def test_output_unit_of_a_bias_is_its_element():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    quantized = lqs.quantize(model, None, lqs.NestedQuantization("output"))
    assert [tuple(q.scale.shape) for _, q in quantized_parameters(quantized)] == [(3,)]
