"""The zoo: small networks, one for each kind of layer and model; built once a session, except where a test changes one.

Shapes are shared on purpose, `(4, 4)` and `(4, 3)` wherever a kernel may have them: outside of a compiled function JAX
compiles every operation once for each shape. A loop it compiles anew in every call, so that some recurrent layers are
unrolled.
"""

import functools
from typing import NamedTuple

import keras
import numpy as np
import pytest
from keras import layers, ops

registered = keras.saving.register_keras_serializable("tests.models")
BATCH_SIZE = 8
IS_JAX, IS_TORCH = (keras.backend.backend() == name for name in ("jax", "torch"))
# For `compile` where a compiled step is not what is tested: TensorFlow takes its time to trace one, whereas JAX would
# compile each operation of the step for itself.
UNTRACED = {"run_eagerly": not IS_JAX}
COMPILED = {"jit_compile": not IS_TORCH}  # torch.compile takes half a minute for each
several_steps = pytest.mark.skipif(IS_TORCH, reason="Keras refuses `steps_per_execution` above 1 on torch")
text_layers = pytest.mark.skipif(IS_TORCH, reason="text layers need TensorFlow")
SEQUENCE, IMAGE = (3, 4), (5, 4, 2)


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
        self.first = layers.Dense(4, activation="relu")
        self.norm, self.drop = layers.BatchNormalization(), layers.Dropout(0.5, seed=3)
        self.second = layers.Dense(units)

    def build(self, input_shape):
        self.first.build(input_shape)
        self.norm.build((None, 4))
        self.second.build((None, 4))

    def call(self, inputs, training=False):
        hidden = self.norm(self.first(inputs), training=training)
        return self.second(self.drop(hidden, training=training))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "explicit": self.explicit}


@registered
class Lazy(keras.Model):
    """A subclassed model without `build`: its weights are made by the first call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = layers.Dense(4, activation="relu"), layers.Dense(3)

    def call(self, inputs):
        return self.second(self.first(inputs))


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

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 3)


def stack(shape, *stacked, dtype="float32"):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *stacked])


def attention(**keywords):
    query, value = keras.Input(SEQUENCE), keras.Input((6, 4))
    layer = layers.MultiHeadAttention(2, 3, bias_initializer="random_normal")
    outputs = layer(query=query, value=value) if keywords else layer(query, value)
    return keras.Model([query, value], outputs)


def causal():
    inputs = keras.Input(SEQUENCE)
    return keras.Model(inputs, layers.MultiHeadAttention(2, 3)(inputs, inputs, use_causal_mask=True))


def transformer():
    inputs = keras.Input(SEQUENCE)
    hidden = layers.LayerNormalization()(inputs + layers.MultiHeadAttention(2, 3)(inputs, inputs))
    return keras.Model(inputs, hidden + layers.Dense(4, activation="gelu")(hidden))


def nested():
    inputs, middle = keras.Input((4,)), keras.Input((4,))
    functional = keras.Model(middle, layers.Dense(4, name="inside")(middle) + middle, name="functional")
    sequential = stack((4,), layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5, seed=1))
    return keras.Model(inputs, layers.Dense(3)(functional(sequential(functional(layers.Dense(4)(inputs))))))


def shared():
    inputs, layer = keras.Input((4,)), layers.Dense(4, activation="tanh")
    return keras.Model(inputs, layers.Dense(3)(layer(layer(inputs))))


def two_inputs():
    """Two inputs, two outputs, a shared layer."""
    inputs, layer = [keras.Input((4,), name="a"), keras.Input((3,), name="b")], layers.Dense(4, activation="tanh")
    hidden = layers.Concatenate()([layer(inputs[0]), inputs[1]])
    return keras.Model(inputs, [layers.Dense(3)(layer(hidden[:, 3:])), 2 * hidden])


def operations():
    inputs = keras.Input((4,))
    return keras.Model(inputs, ops.relu(layers.Dense(3)(inputs)) * 2 + 1)


def masked(functional):
    parts = [layers.Embedding(9, 4, mask_zero=True), layers.LSTM(3, unroll=functional)]
    if not functional:
        return stack((6,), *parts, dtype="int32")
    inputs = keras.Input((6,), dtype="int32")
    return keras.Model(inputs, parts[1](parts[0](inputs)))


def called(model):
    model(np.zeros((BATCH_SIZE, 4), "float32"))
    return model


def convolution():
    convolutions = [layers.Conv2D(4, 2, padding="same", use_bias=False), layers.Conv2D(4, 2)]
    norms = [layers.BatchNormalization(), layers.GroupNormalization(2)]
    return stack(IMAGE, convolutions[0], norms[0], layers.ReLU(), convolutions[1], norms[1], layers.Flatten())


def stateful():
    """Moving statistics and dropout in a graph of layers, in a subclassed model, and in a layer around one."""
    inputs = keras.Input((4,))
    parts = layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5, seed=3), layers.Dense(3)
    return keras.Model(inputs, Composite()(Block(4)(stack((4,), *parts[:-1])(inputs))) + parts[-1](inputs))


BRANCHES = {
    "Embedding, LSTM": lambda inputs: layers.LSTM(3)(layers.Embedding(9, 4, mask_zero=True)(inputs["words"])),
    "Bidirectional": lambda inputs: layers.Bidirectional(layers.GRU(2, return_sequences=True))(inputs["sequence"]),
    "TimeDistributed": lambda inputs: layers.TimeDistributed(layers.Dense(3))(inputs["sequence"]),
    "MultiHeadAttention": lambda inputs: layers.MultiHeadAttention(2, 3)(inputs["sequence"], inputs["sequence"]),
    "custom": lambda inputs: layers.Dense(3)(Gated()(inputs["vector"])),
    "shared": lambda inputs: shared()(inputs["vector"]),
    "subclassed": lambda inputs: Block()(inputs["vector"]),
    "nested": lambda inputs: nested()(inputs["vector"]),
    "convolution": lambda inputs: convolution()(inputs["image"]),
}


def joined(kinds=tuple(BRANCHES)):
    """Return one network with a branch for each of several kinds, so that a backend compiles them once."""
    shapes = {"sequence": SEQUENCE, "vector": (4,), "image": IMAGE}
    inputs = {"words": keras.Input((6,), dtype="int32"), **{name: keras.Input(shape) for name, shape in shapes.items()}}
    outputs = [layers.Flatten()(BRANCHES[kind](inputs)) for kind in kinds]
    return keras.Model(list(inputs.values()), layers.Concatenate()(outputs))


MODELS = {
    "Dense": lambda: stack((4,), layers.Dense(3, bias_initializer="random_normal")),
    "Conv1D": lambda: stack(SEQUENCE, layers.Conv1D(4, 2)),
    "Conv2D": lambda: stack(IMAGE, layers.Conv2D(4, 2)),
    "Conv3D": lambda: stack((3, 4, 3, 2), layers.Conv3D(4, 2)),
    "DepthwiseConv2D": lambda: stack(IMAGE, layers.DepthwiseConv2D(2)),
    "SeparableConv2D": lambda: stack(IMAGE, layers.SeparableConv2D(4, 2)),
    "Conv2DTranspose": lambda: stack(IMAGE, layers.Conv2DTranspose(4, 2)),
    "EinsumDense": lambda: stack(SEQUENCE, layers.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d")),
    "Embedding, LSTM": lambda: masked(functional=False),
    "Embedding, LSTM functional": lambda: masked(functional=True),
    "LSTM": lambda: stack(SEQUENCE, layers.LSTM(3, unroll=True)),
    "GRU": lambda: stack(SEQUENCE, layers.GRU(3, return_sequences=True, unroll=True)),
    "Bidirectional": lambda: stack(SEQUENCE, layers.Bidirectional(layers.GRU(2))),
    "TimeDistributed": lambda: stack(SEQUENCE, layers.TimeDistributed(layers.Dense(3))),
    "MultiHeadAttention": attention,
    "MultiHeadAttention by keyword": lambda: attention(by_keyword=True),
    "MultiHeadAttention causal": causal,
    "transformer": transformer,
    "custom": lambda: stack((4,), Gated(), layers.Dense(3)),
    "subclassed": lambda: called(Block()),
    "subclassed, no build": lambda: called(Lazy()),
    "subclassed in Sequential": lambda: stack((4,), Block(4), layers.Dense(3)),
    "nested": nested,
    "shared": shared,
    "two inputs": two_inputs,
    "operations": operations,
    "convolution": convolution,
    "stateful": stateful,
}


class Example(NamedTuple):
    """A float network with inputs, and what it makes of them."""

    model: keras.Model
    inputs: np.ndarray | list[np.ndarray]
    outputs: np.ndarray


@functools.cache
def example(kind):
    """Return the network `kind` of the zoo, of which no test may change a weight: for that, `build` makes another."""
    model = build(kind)
    inputs = inputs_of(model, np.random.default_rng(42))
    return Example(model, inputs, predict(model, inputs))


def build(kind):
    """Return a new network; the seeds before and after do not depend on which test comes first."""
    keras.utils.set_random_seed(42)
    model = MODELS[kind]()
    keras.utils.set_random_seed(42)
    return model


def inputs_of(model, rng, num=BATCH_SIZE):
    """Return an array for the input of a model, or a list of arrays for several inputs."""
    if isinstance(model, (Block, Lazy)):
        return rng.normal(size=(num, 4)).astype("float32")
    draws = [
        np.sort(rng.integers(0, 9, (num, *i.shape[1:])))[:, ::-1].astype("int32")  # zeros, the mask, at the end
        if i.dtype == "int32"
        else rng.normal(size=(num, *i.shape[1:])).astype("float32")
        for i in model.inputs
    ]
    return draws if len(draws) > 1 else draws[0]


def predict(model, inputs):
    """Return the outputs of a call, outside of any compiled function: an array, of several outputs side by side."""
    outputs = keras.tree.flatten(model(inputs))
    return np.concatenate([ops.convert_to_numpy(ops.cast(output, "float32")) for output in outputs], axis=-1)


def values(model):
    """Return the values of all weights of a layer or model."""
    return [ops.convert_to_numpy(variable) for variable in model.weights]


def assert_equal(results, expected):
    """Two lists of arrays are the same bit for bit."""
    for result, array in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, array)
