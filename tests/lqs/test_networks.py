"""Networks of the kinds that people bring along: they are quantized whole, and keep what they can do."""

import copy
import pickle

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import several_steps

import lqs
from lqs.inspection import quantized_parameters, to_numpy
from lqs.layers import QuantizedModel

PACKAGE = "networks"
register = keras.saving.register_keras_serializable(PACKAGE)


def fine():
    return lqs.NestedQuantization(rule=lqs.Frozen(), rounding="nearest", initial_scale=2e-5)


def coarse(**arguments):
    arguments = {"rounding": "nearest", "initial_scale": 2**-4, "parametrization": "log", **arguments}
    return lqs.NestedQuantization(**arguments)


def quantize(model, make=coarse, **arguments):
    return lqs.quantize(model, make(**arguments), make(**arguments))


def outputs(model, x):
    return to_numpy(model(ops.convert_to_tensor(x)) if not isinstance(x, list) else model(x))


@register
class SelfCompiled(keras.Model):
    """A functional model as those of model hubs: own arguments, `compile`d when made, with a backbone inside."""

    def __init__(self, units, compile=True, **kwargs):
        tokens = keras.Input((6,), dtype="int32")
        backbone = Backbone(units)
        super().__init__(tokens, backbone.embedding(backbone(tokens), reverse=True), **kwargs)
        self.units, self.backbone = units, backbone
        if compile:
            self.compile()

    def compile(self, optimizer="auto", loss="auto", sampler="greedy", **kwargs):
        self.sampler = sampler
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True) if loss == "auto" else loss
        super().compile(keras.optimizers.Adam(1e-2) if optimizer == "auto" else optimizer, loss, **kwargs)

    def generate(self, tokens):
        """Return the next tokens, by way of the parts of the model."""
        hidden = self.backbone.norm(self.backbone.block(self.backbone.embedding(tokens)))
        return np.argmax(to_numpy(self.backbone.embedding(hidden, reverse=True)), -1)

    def get_config(self):
        return {"name": self.name, "units": self.units}


@register
class Backbone(keras.Model):
    def __init__(self, units, **kwargs):
        embedding = layers.ReversibleEmbedding(20, units)
        block, norm = layers.Dense(units, "gelu"), layers.LayerNormalization()
        tokens = keras.Input((None,), dtype="int32")
        super().__init__(tokens, norm(block(embedding(tokens))), **kwargs)
        self.units, self.embedding, self.block, self.norm = units, embedding, block, norm

    def get_config(self):
        return {"name": self.name, "units": self.units}


@register
class Autoencoder(keras.Model):
    """Encoder and decoder, called one by one in the model's own `compute_loss`; a weight of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encoder = keras.Sequential([keras.Input((8,)), layers.Dense(4, "tanh"), layers.Dense(2)])
        self.decoder = keras.Sequential([keras.Input((2,)), layers.Dense(8)])
        self.shift = self.add_weight(shape=(2,), initializer="ones", name="shift")

    def build(self, input_shape):
        self.built = True

    def call(self, inputs):
        return self.decoder(self.encoder(inputs) + self.shift)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Return the loss of a reconstruction by the parts, with the penalties that these add."""
        return ops.mean(ops.subtract(self.decoder(self.encoder(x)), x) ** 2) + sum(self.losses)


@register
class Block(keras.Model):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.dense = units, layers.Dense(units)

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.gain = self.add_weight(shape=(self.units,), initializer="ones", name="gain")

    def call(self, inputs):
        return self.dense(inputs) * self.gain

    def get_config(self):
        return {"name": self.name, "units": self.units}


@register
class Stack(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = Block(4), Block(3)

    def build(self, input_shape):
        self.first.build(input_shape)
        self.second.build((None, 4))

    def call(self, inputs):
        return self.second(ops.relu(self.first(inputs)))


def stack():
    model = Stack()
    model.build((None, 8))
    return model


def autoencoder():
    model = Autoencoder()
    model.build((None, 8))
    return model


def u_net():
    image = keras.Input((8, 8, 1))
    down = layers.Conv2D(4, 3, padding="same", activation="relu")(image)
    inner = layers.DepthwiseConv2D(3, padding="same")(layers.MaxPooling2D()(down))
    up = layers.Conv2DTranspose(4, 2, strides=2)(layers.BatchNormalization()(inner))
    return keras.Model(image, layers.Conv2D(1, 1)(layers.Concatenate()([down, up])))


def siamese():
    encoder = keras.Sequential([keras.Input((8,)), layers.Dense(4)])
    left, right = keras.Input((8,)), keras.Input((8,))
    return keras.Model([left, right], layers.Dot(-1)([encoder(left), encoder(right)]))


def recurrent():
    words = keras.Input((6,), dtype="int32")
    hidden = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(layers.Embedding(20, 4)(words))
    hidden = layers.TimeDistributed(keras.Sequential([keras.Input((6,)), layers.Dense(3)]))(hidden)
    return keras.Model(words, layers.Dense(2)(layers.GlobalAveragePooling1D()(hidden)))


def language_model():
    return SelfCompiled(4)


KINDS = {
    "U-Net": (u_net, (8, 8, 1), "float32"),
    "siamese": (siamese, (8,), "float32"),
    "recurrent": (recurrent, (6,), "int32"),
    "models in a model": (stack, (8,), "float32"),
    "autoencoder": (autoencoder, (8,), "float32"),
    "language model": (language_model, (6,), "int32"),
}
OWN_COMPILE = pytest.mark.filterwarnings(
    "ignore:.*compile.* own",
    "ignore:`compile\\(\\)` was not called",
    "ignore:Skipping variable loading for optimizer",
    "ignore:Gradients do not exist for variables .'autoencoder.*/shift'",
    "ignore:A total of 1 objects could not be loaded",
)


def made(kind, rng):
    make, shape, dtype = KINDS[kind]
    keras.utils.set_random_seed(1)
    model = make()
    x = rng.integers(0, 20, (6, *shape)) if dtype == "int32" else rng.normal(size=(6, *shape)).astype(dtype)
    return model, [x, x[::-1].copy()] if kind == "siamese" else x


@OWN_COMPILE
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in ("U-Net", "recurrent") else ()) for kind in KINDS]
)
def test_quantize_train_save_load_dequantize(kind, rng, tmp_path):
    model, x = made(kind, rng)
    exact = quantize(model, fine)
    assert isinstance(exact, type(model))
    np.testing.assert_allclose(outputs(exact, x), outputs(model, x), atol=2e-3)
    quantized = quantize(model, penalty=lqs.InversePenalty(1e-3))
    y = np.ones(outputs(model, x).shape[: 2 if kind == "language model" else None])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True) if kind == "language model" else "mse"
    quantized.compile(keras.optimizers.Adam(1e-2), loss)
    before = [to_numpy(variable) for variable in quantized.trainable_variables]
    quantized.fit(x, y, verbose=0)
    moved = [not np.array_equal(a, to_numpy(b)) for a, b in zip(before, quantized.trainable_variables, strict=True)]
    # The autoencoder's loss does not use its shift, nor the scale of this.
    assert sum(moved) >= len(moved) - 2 * (kind == "autoencoder")
    expected = outputs(quantized, x)
    lqs.save(quantized, tmp_path / "model.lqs")
    quantized.save(tmp_path / "model.keras")
    quantized.save_weights(tmp_path / "model.weights.h5")
    again = quantize(model)
    again.load_weights(tmp_path / "model.weights.h5", skip_mismatch=again.compiled)  # its optimizer has not trained
    loaded = [lqs.load(tmp_path / "model.lqs"), keras.models.load_model(tmp_path / "model.keras")]
    for other in [*loaded, again]:
        assert type(other) is type(quantized)
        np.testing.assert_allclose(outputs(other, x), expected, rtol=1e-5, atol=1e-5)
    plain = lqs.dequantize(quantized)
    assert type(plain) is type(model)
    assert [w.shape for w in plain.weights] == [w.shape for w in model.weights]
    np.testing.assert_allclose(outputs(plain, x), expected, rtol=1e-5, atol=1e-5)


@OWN_COMPILE
def test_a_language_model_generates_by_its_parts(rng, tmp_path):
    model, x = made("language model", rng)
    np.testing.assert_array_equal(quantize(model, fine).generate(x), model.generate(x))
    quantized = quantize(model)
    lqs.save(quantized, tmp_path / "model.lqs")
    loaded = lqs.load(tmp_path / "model.lqs")
    np.testing.assert_array_equal(loaded.generate(x), quantized.generate(x))
    np.testing.assert_array_equal(lqs.dequantize(quantized).generate(x), quantized.generate(x))
    assert loaded.backbone.embedding is loaded.layers[-1]  # tied


def test_an_own_compile_is_to_be_called_again(rng):
    model, _ = made("language model", rng)
    with pytest.warns(UserWarning, match="has a `compile` of its own: call it for the copy"):
        quantize(model)


@OWN_COMPILE
@pytest.mark.parametrize("kind, part", [("language model", "backbone"), ("models in a model", "first")])
def test_a_model_inside_stands_alone(kind, part, rng, tmp_path):
    """Its parameters are quantized, those of its own too, when it is called, saved or made again by itself."""
    model, x = made(kind, rng)
    quantized = getattr(quantize(model, initial_scale=0.25), part)
    assert isinstance(quantized, QuantizedModel)
    expected = outputs(quantized, x)
    np.testing.assert_allclose(outputs(getattr(lqs.dequantize(quantize(model, initial_scale=0.25)), part), x), expected)
    lqs.save(quantized, tmp_path / "part.lqs")
    clone = type(quantized).from_config(quantized.get_config())
    clone.set_weights(quantized.get_weights())
    for other in (lqs.load(tmp_path / "part.lqs"), clone):
        np.testing.assert_allclose(outputs(other, x), expected, rtol=1e-6, atol=1e-6)
    assert quantized_parameters(clone)


def test_penalties_of_parts_count_once(rng):
    model, x = made("autoencoder", rng)
    quantized = quantize(model, initial_scale=0.5, penalty=lqs.InversePenalty(1.0))
    plain = lqs.dequantize(quantized)
    # The shares of all parameters add up to one, less that of the shift, which the parts do not use.
    by_parts = float(quantized.compute_loss(x)) - float(plain.compute_loss(x))
    outputs(quantized, x)
    whole = float(sum(quantized.losses))
    size = sum(int(np.prod(variable.shape)) for variable, _ in quantized_parameters(quantized))
    assert by_parts == pytest.approx(whole * (size - 2) / size, rel=1e-4)


@pytest.mark.parametrize("kind", ["siamese", "models in a model"])
def test_copies_by_pickle_and_deepcopy(kind, rng):
    model, x = made(kind, rng)
    quantized = quantize(model)
    for other in (copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized))):
        assert len(quantized_parameters(other)) == len(quantized_parameters(quantized))
        np.testing.assert_array_equal(outputs(other, x), outputs(quantized, x))


@pytest.mark.parametrize("kind", ["siamese", "models in a model"])
def test_clones(kind, rng):
    model, x = made(kind, rng)
    quantized = quantize(model)
    clone = keras.models.clone_model(quantized)
    assert type(clone) is type(quantized)
    clone.set_weights(quantized.get_weights())
    np.testing.assert_array_equal(outputs(clone, x), outputs(quantized, x))


@register
class Tuned(keras.Model):
    """A functional model of a class of its own, which takes what `keras.Model` takes."""

    def train_step(self, *args, **kwargs):
        return super().train_step(*args, **kwargs)


def test_clone_of_a_functional_model_with_its_own_train_step(rng):
    inputs = keras.Input((8,))
    model = Tuned(inputs, layers.Dense(2)(inputs))
    quantized, x = quantize(model), rng.normal(size=(4, 8))
    clone = keras.models.clone_model(quantized)
    assert isinstance(clone, Tuned)
    clone.set_weights(quantized.get_weights())
    np.testing.assert_array_equal(outputs(clone, x), outputs(quantized, x))
    assert len(quantized_parameters(clone)) == 2


def test_penalties_reach_the_loss_of_fit(rng):
    """Also in models whose `call` is quantized as a whole: the loss of `fit` is that of the outputs and the penalty."""
    inputs = keras.Input((8,))
    quantized = quantize(Tuned(inputs, layers.Dense(2)(inputs)), penalty=lqs.InversePenalty(1.0))
    x, y = rng.normal(size=(4, 8)), np.ones((4, 2))
    expected = np.mean((outputs(quantized, x) - y) ** 2) + float(sum(quantized.losses))
    assert expected > 10
    quantized.compile(keras.optimizers.SGD(0.0), "mse")
    assert quantized.fit(x, y, verbose=0).history["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert quantized.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_low_rank_before_and_after(rng, tmp_path):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Dense(6)(inputs))
    x = rng.normal(size=(4, 8)).astype("float32")
    model.layers[1].enable_lora(2)
    model.layers[1].lora_kernel_b.assign(rng.normal(size=(2, 6)))
    quantized = quantize(model, fine)
    np.testing.assert_allclose(outputs(quantized, x), outputs(model, x), atol=1e-2)
    lqs.save(quantized, tmp_path / "model.lqs")
    np.testing.assert_allclose(outputs(lqs.load(tmp_path / "model.lqs"), x), outputs(quantized, x), rtol=1e-5)
    model = keras.Model(inputs, layers.Dense(6)(inputs))
    quantized = quantize(model)
    quantized.layers[1].enable_lora(2)
    with pytest.raises(ValueError, match="such as those of `enable_lora`, before `lqs.quantize`. It had 2 and has 4"):
        outputs(quantized, x)


def test_frozen_stays_frozen_and_is_quantized(rng):
    model, x = made("models in a model", rng)
    model.first.trainable = False
    model.second.gain.trainable = False
    quantized = quantize(model)
    assert len(quantized_parameters(quantized)) == 6
    assert len(quantized.trainable_variables) == 4  # a kernel, a bias and their scales
    quantized.compile("adam", "mse")
    quantized.fit(x, np.ones((6, 3)), verbose=0)


def test_kernels_then_biases(rng):
    model, x = made("models in a model", rng)
    twice = lqs.quantize(lqs.quantize(model, coarse(), None), None, coarse())
    np.testing.assert_array_equal(outputs(twice, x), outputs(quantize(model), x))


@several_steps
@pytest.mark.parametrize("policy", ["mixed_bfloat16"])
def test_mixed_precision_with_several_steps_per_execution(policy, rng):
    keras.config.set_dtype_policy(policy)
    try:
        model, x = made("models in a model", rng)
    finally:
        keras.config.set_dtype_policy("float32")
    quantized = quantize(model)
    quantized.compile("adam", "mse", steps_per_execution=2)
    loss = quantized.fit(x, np.ones((6, 3)), batch_size=2, epochs=2, verbose=0).history["loss"]
    assert loss[1] < loss[0]


def test_checkpoints_to_h5(rng, tmp_path):
    model, x = made("models in a model", rng)
    quantized = quantize(model, initial_scale="max", bits=4)
    quantized.compile("adam", "mse")
    callback = keras.callbacks.ModelCheckpoint(tmp_path / "best.weights.h5", save_weights_only=True)
    quantized.fit(x, np.ones((6, 3)), callbacks=[callback], verbose=0)
    expected = outputs(quantized, x)
    again = quantize(model, initial_scale="max", bits=4)
    again.load_weights(tmp_path / "best.weights.h5")
    np.testing.assert_array_equal(outputs(again, x), expected)


def test_integer_mode_of_keras(rng):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4)])
    with pytest.raises(NotImplementedError, match="QuantizedDense"):
        quantize(model).layers[0].quantize("int8")
    model.layers[0].quantize("int8")
    with pytest.raises(ValueError, match="int8"):
        quantize(model)
