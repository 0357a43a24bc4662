"""QuantDense and QuantConv2D: equal to Keras's layers on reconstructed weights, gradients, precision, errors."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import UNTRACED
from oracles import ratio_by_loops

import lqs
from lqs.layers import convert

QUANT = {"dense": lqs.QuantDense, "conv": lqs.QuantConv2D}
FLOAT = {"dense": layers.Dense, "conv": layers.Conv2D}
ARGUMENTS = {
    "dense": {"units": 3, "activation": "relu"},
    "conv": {"filters": 3, "kernel_size": 3, "strides": 2, "padding": "same", "activation": "tanh"},
}
SHAPES = {"dense": (6, 4), "conv": (2, 7, 6, 2)}
KINDS = list(QUANT)


def prototype(scale=0.0123, **arguments):
    return lqs.NestedQuantization(**{"rounding": "nearest", "initial_scale": scale, **arguments})


def inputs_of(kind, rng):
    return rng.normal(size=SHAPES[kind]).astype("float32")


def reconstructed(value, quantizer):
    """Return `nearest(P / s) * s` of a variable, computed in float32 by NumPy."""
    value = ops.convert_to_numpy(value)
    if quantizer is None:
        return value
    scale = ops.convert_to_numpy(quantizer.scale)
    return np.round(value / scale) * scale


def reference(kind, layer, dtype=None, **arguments):
    """Return Keras's own layer, holding the reconstructed weights of `layer`."""
    plain = FLOAT[kind](**{**ARGUMENTS[kind], **arguments}, dtype=dtype)
    plain.build((None, *SHAPES[kind][1:]))
    quantizers = [layer.kernel_quantizer, layer.bias_quantizer]
    variables = [layer.kernel, layer.bias][: len(plain.weights)]
    plain.set_weights([reconstructed(v, q) for v, q in zip(variables, quantizers, strict=False)])
    return plain


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("which", ["both", "kernel", "bias", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_keras_on_reconstructed_weights(kind, which, policy, rng):
    kernel, bias = (prototype() if which in ("both", part) else None for part in ("kernel", "bias"))
    arguments = {"bias_initializer": "random_normal", "dtype": policy}
    layer = QUANT[kind](**ARGUMENTS[kind], kernel_quantizer=kernel, bias_quantizer=bias, **arguments)
    outputs = layer(inputs_of(kind, rng))
    expected = reference(kind, layer, policy)(inputs_of(kind, np.random.default_rng(42)))
    compute = keras.DTypePolicy(policy).compute_dtype
    assert keras.backend.standardize_dtype(outputs.dtype) == compute
    tolerance = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}[compute]
    difference = ops.convert_to_numpy(ops.cast(outputs - expected, "float32"))
    np.testing.assert_allclose(difference, 0, atol=tolerance)
    assert all(variable.dtype == "float32" for variable in layer.weights)
    assert len(layer.quantized_parameters()) == {"both": 2, "none": 0}.get(which, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_quantization_shows(kind, rng):
    """The equality above would not hold with the float weights."""
    inputs = inputs_of(kind, rng)
    layer = QUANT[kind](**ARGUMENTS[kind], kernel_quantizer=prototype(0.3))
    plain = FLOAT[kind](**ARGUMENTS[kind])
    layer(inputs), plain(inputs)
    plain.set_weights([layer.kernel, layer.bias])
    assert ops.max(ops.abs(layer(inputs) - plain(inputs))) > 0.05
    assert ops.max(ops.abs(layer(inputs) - reference(kind, layer)(inputs))) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_without_bias(kind, rng):
    layer = QUANT[kind](**ARGUMENTS[kind], use_bias=False, kernel_quantizer=prototype(), bias_quantizer=prototype())
    inputs = inputs_of(kind, rng)
    outputs = layer(inputs)
    expected = reference(kind, layer, use_bias=False)(inputs)
    np.testing.assert_allclose(ops.convert_to_numpy(outputs), ops.convert_to_numpy(expected), atol=1e-5)
    assert layer.bias is None and len(layer.quantized_parameters()) == 1


@pytest.mark.once
def test_prototypes_are_copied():
    shared = prototype(rule=lqs.GradientRatio(0.25), penalty=lqs.MaxBinPenalty(0.5))
    first, second = (lqs.QuantDense(3, kernel_quantizer=shared, bias_quantizer=shared) for _ in range(2))
    first.build((None, 4)), second.build((None, 5))
    copies = [first.kernel_quantizer, first.bias_quantizer, second.kernel_quantizer, second.bias_quantizer]
    assert len({id(copy) for copy in [*copies, shared]}) == 5 and not shared.built
    assert len({id(copy.rule) for copy in copies} | {id(copy.penalty) for copy in copies}) == 8
    copies[0].rule.threshold.assign(7.0)
    assert float(ops.convert_to_numpy(copies[2].rule.threshold)) == 0.25


@pytest.mark.parametrize("kind, granularity", [("dense", "row"), ("dense", "column"), ("conv", "channel")])
def test_gradients_in_fit(kind, granularity, rng):
    """One SGD step at rate 1 on a linear loss: kernel by the chain rule, scale by the rule, all in NumPy."""
    threshold = 1.0
    quantizer = prototype(0.1, granularity=granularity, rule=lqs.GradientRatio(threshold))
    linear = {**ARGUMENTS[kind], "activation": None, "kernel_quantizer": quantizer}
    if kind == "conv":
        linear |= {"kernel_size": 1, "strides": 1}
    model = keras.Sequential([keras.Input(SHAPES[kind][1:]), QUANT[kind](**linear)])
    layer, inputs = model.layers[0], inputs_of(kind, rng)
    upstream = (0.1 * rng.normal(size=(*inputs.shape[:-1], 3))).astype("float32")
    model.compile(keras.optimizers.SGD(1.0), loss=lambda targets, outputs: ops.sum(targets * outputs))
    kernel, scale = ops.convert_to_numpy(layer.kernel), ops.convert_to_numpy(layer.kernel_quantizer.scale)
    model.fit(inputs, upstream, batch_size=len(inputs), verbose=0)
    kernel_gradient = np.tensordot(inputs, upstream, axes=[list(range(inputs.ndim - 1))] * 2).reshape(kernel.shape)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.kernel), kernel - kernel_gradient, atol=1e-5)
    varying = {"row": (0,), "column": (1,), "channel": (2,)}[granularity]
    gradient = ratio_by_loops(kernel_gradient, np.round(kernel / scale), scale, varying, threshold, False)
    assert (gradient < 0).any()
    moved = scale - ops.convert_to_numpy(layer.kernel_quantizer.scale)
    np.testing.assert_allclose(moved, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_layers_keep_their_weights(kind, rng):
    layer = QUANT[kind](**ARGUMENTS[kind], kernel_quantizer=prototype(0.3), bias_quantizer=prototype(0.3))
    inputs = inputs_of(kind, rng)
    layer(inputs)
    before = layer.get_weights()
    layer.trainable = False
    layer(inputs)
    for value, kept in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, kept)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_regularizers_count_once(kind, rng):
    inputs, regularizers = inputs_of(kind, rng), {"kernel_regularizer": "l2", "activity_regularizer": "l1"}
    losses = []
    for quantizers in ({}, {"kernel_quantizer": prototype(1e-4), "bias_quantizer": prototype(1e-4)}):
        keras.utils.set_random_seed(1)
        layer = (QUANT if quantizers else FLOAT)[kind](**ARGUMENTS[kind], **regularizers, **quantizers)
        model = keras.Sequential([keras.Input(inputs.shape[1:]), layer])
        model.compile("sgd", loss=lambda targets, outputs: 0.0 * ops.sum(outputs))
        losses.append(model.evaluate(inputs, np.zeros(len(inputs)), verbose=0))
    assert losses[0] > 0.01 and losses[1] == pytest.approx(losses[0], rel=1e-2)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(kind, policy, rng, reload):
    keras.config.set_dtype_policy(policy)
    quantizers = {
        "kernel_quantizer": prototype(granularity="row", penalty=lqs.InversePenalty(1e-3)),
        "bias_quantizer": prototype(bits=4, rule=lqs.StraightThrough()),
    }
    model = keras.Sequential([keras.Input(SHAPES[kind][1:]), QUANT[kind](**ARGUMENTS[kind], **quantizers)])
    model.compile("sgd", "mse", **UNTRACED)
    inputs = inputs_of(kind, rng)
    model.fit(inputs, np.zeros(model.compute_output_shape(inputs.shape)), verbose=0)
    again = reload(model)
    outputs = [ops.convert_to_numpy(ops.cast(network(inputs), "float32")) for network in (again, model)]
    np.testing.assert_array_equal(*outputs)
    assert again.layers[0].get_config() == model.layers[0].get_config()
    assert again.layers[0].bias_quantizer.levels == (-8, 7)


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [lqs.NestedQuantization, "row", 4])
def test_bad_prototype(kind, value):
    for name in ("kernel_quantizer", "bias_quantizer"):
        with pytest.raises(ValueError, match=f"`{name}` must be an `lqs.NestedQuantization` or None. Received"):
            QUANT[kind](**ARGUMENTS[kind], **{name: value})


@pytest.mark.once
def test_granularity_that_does_not_fit():
    with pytest.raises(ValueError, match="'filter' needs a parameter tensor of rank 3"):
        lqs.QuantDense(3, kernel_quantizer=lqs.NestedQuantization("filter")).build((None, 4))
    with pytest.raises(ValueError, match="'row' needs a parameter tensor of rank 2"):
        lqs.QuantConv2D(3, 2, bias_quantizer=lqs.NestedQuantization("row")).build((None, 4, 4, 1))


@pytest.mark.once
def test_conversion_needs_a_quantizer_for_each_weight():
    dense = layers.Dense(3)
    dense.build((None, 4))
    with pytest.raises(ValueError, match="`quantizers` must have one entry for each of the 2 weights.*Received: 1"):
        convert(dense, [None])


def test_penalties_in_steps_that_are_not_compiled():
    """On JAX, Keras removes losses of the step before by their `id`, which those of other layers may have by now."""
    x, losses = np.random.default_rng(0).normal(size=(64, 4)).astype("float32"), []
    for run_eagerly in (False, True):
        keras.utils.set_random_seed(1)
        prototype = lqs.NestedQuantization(
            rule=lqs.StraightThrough(), penalty=lqs.InversePenalty(0.1), initial_scale=0.05
        )
        network = keras.Sequential([keras.Input((4,)), *[keras.layers.Dense(4) for _ in range(4)]])
        model = lqs.quantize(network, prototype, prototype)
        model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=run_eagerly)
        model.fit(x, x, batch_size=4, epochs=1, shuffle=False, verbose=0, callbacks=[Batches(losses)])
    np.testing.assert_allclose(losses[16:], losses[:16], rtol=1e-5)


class Batches(keras.callbacks.Callback):
    """Appends the mean loss up to each batch to a list."""

    def __init__(self, losses):
        super().__init__()
        self.losses = losses

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(float(logs["loss"]))
