"""Tests of `lqs.compress` as a whole."""

import itertools

import keras
import models
import numpy as np
import pandas as pd
import pytest
from keras import layers

import lqs
from lqs.compression import change_of_outputs, compress
from lqs.compression.examples import batches_of, num_examples
from lqs.compression.layerwise import Network
from lqs.compression.search import Search
from lqs.file.saving import pack_model
from lqs.file.sizes import file_bytes, fp32_bytes
from lqs.inspection import model_integers, quantized_parameters

LEFT_OUT = ("Embedding, LSTM", "Bidirectional", "MultiHeadAttention causal")  # slow on JAX; others have the same layers
SLOW = ("Embedding, LSTM functional", "MultiHeadAttention", "transformer", "convolution", "custom", "GRU")


def network(units=60):
    keras.utils.set_random_seed(1)
    return models.stack((20,), layers.Dense(units, "relu"), layers.Dense(5))


def examples(rng, num=300):
    return rng.normal(size=(num, 20)).astype("float32")


def outputs(model, x):
    return [[keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(model(x))]]


@pytest.mark.once
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.slow if kind in SLOW else ())
        for kind in models.MODELS
        if kind not in LEFT_OUT
    ],
)
def test_every_kind_of_layer_goes_through(kind, rng, tmp_path):
    model = models.example(kind).model
    x = models.inputs_of(model, rng, 48)
    held_out = batches_of(x, model)[1]
    before = models.values(model)
    small = compress(model, x, max_change=0.1)
    models.assert_equal(models.values(model), before)
    expected, found = [[outputs(m, batch)[0] for batch in held_out] for m in (model, small)]
    assert change_of_outputs(expected, found) <= 0.1
    quantized = {variable.path for variable, _ in quantized_parameters(small)}
    assert len(quantized) == len(quantized_parameters(lqs.quantize(model)))
    lqs.save(small, tmp_path / "small.lqs")
    loaded = lqs.load(tmp_path / "small.lqs")
    np.testing.assert_allclose(models.predict(loaded, x), models.predict(small, x), rtol=1e-4, atol=1e-5)
    dequantized = lqs.dequantize(small)
    np.testing.assert_allclose(models.predict(dequantized, x), models.predict(small, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ratio", [4, 7])
def test_ratio_is_met(ratio, rng):
    model = network()
    small = compress(model, examples(rng), ratio=ratio)
    assert 0.98 <= fp32_bytes(model) / ratio / file_bytes(small) <= 1 / 0.98
    assert file_bytes(small) <= fp32_bytes(model) / ratio


def test_bytes_are_met_and_twice_the_same(rng):
    x, model = examples(rng), network()
    first, second = (compress(model, x, bytes=1100) for _ in range(2))
    assert 0.98 * 1100 <= file_bytes(first) <= 1100
    models.assert_equal(model_integers(first).values(), model_integers(second).values())


def test_feedback_and_rates_are_better_than_nearest_rounding(rng):
    """At the size that rounding to the nearest gives, the error of the outputs is less than half."""
    model = network()
    x = (rng.normal(size=(600, 4)) @ rng.normal(size=(4, 20)) + 0.1 * rng.normal(size=(600, 20))).astype("float32")
    nearest = lqs.NestedQuantization(rounding="nearest", initial_scale=0.1)
    plain = lqs.quantize(model, nearest, nearest)
    small = compress(model, x[:400], bytes=file_bytes(plain))
    errors = [np.linalg.norm(models.predict(m, x[400:]) - models.predict(model, x[400:])) for m in (plain, small)]
    assert errors[1] < 0.5 * errors[0]


def test_without_examples(rng):
    model = network()
    assert 0.98 * 1300 <= file_bytes(compress(model, bytes=1300)) <= 1300
    words = models.stack((6,), layers.Embedding(9, 40), layers.Flatten(), layers.Dense(9), dtype="int32")
    assert file_bytes(compress(words, bytes=1500)) <= 1500


def test_relative_error_of_one_output(rng):
    model, x = models.stack((20,), layers.Dense(40, "relu"), layers.Dense(1)), examples(rng)
    small = compress(model, x, max_change=0.05)
    error = np.linalg.norm(models.predict(small, x) - models.predict(model, x)) / np.linalg.norm(
        models.predict(model, x)
    )
    assert 0.01 < error < 0.08


@pytest.mark.parametrize(("dtype", "largest", "policy"), [("bfloat16", 127, "float32"), ("float16", 1023, "float16")])
def test_integers_are_those_that_half_precision_gives_back(dtype, largest, policy, rng):
    """Also where the file may have more bytes than these take."""
    keras.config.set_dtype_policy(policy)
    model = models.stack((20,), layers.Dense(9, dtype=dtype), layers.Dense(5))
    x = examples(rng, 40)
    small = compress(model, x, ratio=1)
    assert max(np.abs(integers).max() for integers in list(model_integers(small).values())[:2]) == largest
    expected, found = (models.predict(each, x).astype("float32") for each in (model, small))
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_low_rank_adaptation(rng):
    model, x = models.stack((20,), layers.Dense(30), layers.Dense(9)), examples(rng, 60)
    model.layers[0].enable_lora(2)
    model.layers[0].lora_kernel_b.assign(rng.normal(size=(2, 30)))
    small = compress(model, x, bytes=1500)
    expected, found = (models.predict(each, x) for each in (model, small))
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


def test_measure_of_ones_own(rng):
    seen = []

    def measure(expected, found):
        seen.append(np.abs(expected[0][0] - found[0][0]).max())
        return seen[-1]

    compress(network(), examples(rng), max_change=0.2, measure=measure)
    assert min(seen) <= 0.2


def same_prediction_for_all(rng):
    model = models.stack((8,), layers.Dense(60, "relu"), layers.Dense(3))
    model.layers[-1].bias.assign([10.0, 0.0, 0.0])
    return model, rng.normal(size=(90, 8)).astype("float32")


def test_outputs_whose_largest_is_always_the_same_are_compared_by_their_error(rng):
    """All integers at 0 would change no prediction."""
    model, x = same_prediction_for_all(rng)
    small = compress(model, x, max_change=0.01)
    expected, found = outputs(model, x), outputs(small, x)
    assert np.linalg.norm(found[0][0] - expected[0][0]) < 0.02 * np.linalg.norm(expected[0][0])


def test_measure_by_name(rng):
    model, x = same_prediction_for_all(rng)
    small = compress(model, x, max_change=0.5, measure="predictions")
    assert not any(np.any(integers) for integers in model_integers(small).values())
    expected = [np.array([[1.0, 0.0], [0.0, 1.0]])], [np.array([[1.0, 0.0], [0.0, 0.5]])]
    assert change_of_outputs(expected[:1], expected[1:], "error") == pytest.approx(0.5 / np.sqrt(2))
    with pytest.raises(ValueError, match=r"`measure` must be one of .*'error'.* or a function. Received: measure='ac"):
        compress(model, x, max_change=0.5, measure="accuracy")


def test_few_predictions_measure_no_small_change(rng):
    with pytest.warns(UserWarning, match="30 predictions are held out.*change of 0.001 .*Give 3,000 examples or more"):
        compress(network(), examples(rng, 90), max_change=0.001)


def test_statistics_of_batch_normalization_follow(rng):
    x = rng.normal(size=(300, 20)).astype("float32")
    model = models.stack((20,), layers.Dense(30), layers.BatchNormalization(), layers.ReLU(), layers.Dense(4))
    model(x, training=True)
    small = compress(model, x, ratio=5)
    means = [keras.ops.convert_to_numpy(m.layers[1].moving_mean) for m in (model, small)]
    assert np.isfinite(means[1]).all() and not np.array_equal(*means)


@pytest.mark.once
def test_size_of_a_file_for_inference_is_met(rng):
    x, model = examples(rng), models.stack((20,), layers.Dense(60), layers.BatchNormalization(), layers.Dense(4))
    model(x, training=True)
    for variable in (model.layers[1].gamma, model.layers[1].beta):
        variable.assign(rng.uniform(1, 2, 60))  # all the same, they would take fewer bytes as they are than folded
    small = compress(model, x, bytes=1800, inference_only=True)
    assert 0.95 * 1800 <= len(pack_model(small, inference_only=True)) <= 1800 < file_bytes(small)


@pytest.mark.once
def test_statistics_that_stay_in_a_file_for_inference_count(rng):
    """Those of a normalization without `gamma` and `beta`, which take fewer bytes where they are all the same."""
    normalization = layers.BatchNormalization(scale=False, center=False)
    model = models.stack((20,), layers.Dense(60), normalization, layers.Dense(4))
    model(examples(rng), training=True)
    network = Network(model, *batches_of(examples(rng, 30), model))
    search = Search(network, None, inference_only=True)
    search.trial(search.first)
    network.others = {index: np.ones_like(value) for index, value in network.others.items()}
    network.assign()
    assert search.packed_bytes() == file_bytes(search.model(), inference_only=True)


def test_fit_goes_on(rng):
    model = network()
    model.compile("adam", "mse", **models.UNTRACED)
    small = compress(model, examples(rng), ratio=5)
    kernel = keras.ops.convert_to_numpy(small.layers[0].kernel)
    small.fit(examples(rng, 32), rng.normal(size=(32, 5)), verbose=0)
    assert not np.array_equal(kernel, keras.ops.convert_to_numpy(small.layers[0].kernel))


class Batches(keras.utils.PyDataset):
    def __init__(self, x, **kwargs):
        super().__init__(**kwargs)
        self.x = x

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.x[index::3], np.zeros(len(self.x[index::3]))


@pytest.mark.once
def test_examples_of_all_kinds(rng):
    import tensorflow as tf

    x, model = examples(rng, 90), network()
    expected = np.sort(x.ravel())

    def values(source):
        return np.sort(np.concatenate([batch.ravel() for part in batches_of(source, model) for batch in part]))

    kinds = [x, x.astype("float64"), keras.ops.convert_to_tensor(x), tf.data.Dataset.from_tensor_slices(x).batch(32)]
    kinds += [Batches(x), (x[index::3] for index in range(3)), ((x[index::3], 0) for index in range(3))]
    kinds += [pd.DataFrame(x), (x, np.zeros(90)), (x, np.zeros(90), np.ones(90)), (x,)]
    for kind in kinds:
        np.testing.assert_allclose(values(kind), expected, rtol=1e-6)
    rest, held_out = batches_of({"a": x, "b": x[:, :3]}, model)
    assert num_examples(held_out) == 30 and num_examples(rest) == 60
    assert all((batch["a"][:, :3] == batch["b"]).all() for batch in rest)


def test_endless_examples_end(rng):
    batch = np.zeros((1000, 2), "float32")
    rest, held_out = batches_of(itertools.repeat(batch), network())
    assert num_examples(rest) + num_examples(held_out) == 5000


@pytest.mark.once
def test_equal_outputs_may_take_turns():
    tied, other = [[np.array([[0.0, 0.0], [1.0, 2.0]])]], [[np.array([[1e-9, 0.0], [1.0, 2.0]])]]
    assert change_of_outputs(tied, other) == change_of_outputs(other, tied) == 0
    assert change_of_outputs([[np.array([[2.0]])]], [[np.array([[1.0]])]]) == 0.5


@pytest.mark.once
def test_outputs_of_one_axis(rng):
    """Of `[3, 4]` and `[3, 3.5]`, in batches of one, the relative error is a tenth."""
    batches = [[[np.array([value])] for value in values] for values in ([3.0, 4.0], [3.0, 3.5])]
    assert change_of_outputs(*batches) == change_of_outputs([[np.array([3.0, 4.0])]], [[np.array([3.0, 3.5])]]) == 0.1
    inputs = keras.Input((20,))
    outputs = layers.Reshape(())(layers.Dense(1)(layers.Dense(9, "relu")(inputs)))
    x = examples(rng, 1700)  # so that the last batch is a smaller one
    assert file_bytes(compress(keras.Model(inputs, outputs), x, bytes=1500)) <= 1500


@pytest.mark.once
def test_outputs_must_be_finite(rng):
    some, nan = [[np.ones((2, 3))]], [[np.full((2, 3), np.nan)]]
    assert change_of_outputs(some, nan) == change_of_outputs(nan, some) == np.inf
    model = network()
    model.layers[-1].bias.assign(np.full(5, np.nan))
    with pytest.raises(ValueError, match="Argument `model` must have finite outputs"):
        compress(model, examples(rng, 12), bytes=1500)


def test_report(rng, capsys):
    compress(models.example("custom").model, rng.normal(size=(30, 4)), bytes=2000, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert any("gate" in line and line.endswith("rounded alone") for line in lines)
    assert any("kernel" in line and line.endswith("by second moments of its inputs") for line in lines)


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Exactly one of the arguments `max_change`, `ratio` and `bytes` must be given. Received: none"),
        ({"ratio": 2, "bytes": 9}, "Exactly one"),
        ({"ratio": -1}, "Argument `ratio` must be a number more than 0. Received: ratio=-1"),
        ({"max_change": 1}, "Argument `max_change` must be a number from 0 to less than 1"),
        ({"max_change": 0.1, "x": None}, "Argument `x` must be given for `max_change`"),
        ({"bytes": 50}, "Argument `bytes` asks for 50 bytes, but header, scales and what is not quantized take"),
        ({"ratio": 1e9}, "Received: ratio=1000000000.0"),
        ({"ratio": 2, "x": 3}, "Argument `x` must be an array, a list or dictionary"),
        ({"ratio": 2, "x": [[1.0] * 20] * 4}, "Argument `x` must be an array, .* Received: x with 1.0"),
        ({"ratio": 2, "x": np.ones((1, 20))}, "Argument `x` must hold at least 2 examples"),
        ({"ratio": 2, "x": ()}, "Argument `x` must hold examples"),
        ({"ratio": 2, "x": np.ones((9, 7))}, "x` must hold inputs that the model takes, .*float32 (3, 7), where"),
        ({"ratio": 2, "x": iter(np.ones((9, 20)))}, "float32 (60,), where the model takes .'float32 (None, 20)'"),
        ({"ratio": 2, "x": iter(np.ones(9))}, "or a dataset or generator of batches of these. Received: x with .*1.0"),
        ({"ratio": 2, "x": np.where(np.eye(9, 20) > 0, np.nan, 1)}, "Argument `x` must be finite"),
        ({"ratio": 2, "x": iter([])}, "Argument `x` must hold examples"),
        ({"max_change": 0.1, "measure": lambda *_: 0.5}, "Argument `max_change` must be at least 0.5"),
    ],
)
def test_errors(arguments, message, rng):
    with pytest.raises(ValueError, match=message.replace("(", "\\(").replace(")", "\\)")):
        compress(network(5), **{"x": examples(rng, 12), **arguments})


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras takes strings as inputs on TensorFlow only")
def test_strings():
    import tensorflow as tf

    words = np.array(["a b", "b c", "c a"] * 10)
    parts = layers.TextVectorization(9, output_sequence_length=3), layers.Embedding(9, 50), layers.Flatten()
    parts[0].adapt(words)
    model = models.stack((), *parts, layers.Dense(5), dtype="string")
    for x in (words, words.astype(object), tf.data.Dataset.from_tensor_slices(words).batch(8)):
        assert file_bytes(compress(model, x, bytes=1500)) <= 1500
    with pytest.raises(ValueError, match="Argument `x` must be given for a model with inputs of strings"):
        compress(model, bytes=1500)


@pytest.mark.once
def test_inputs_that_only_code_knows():
    model = models.example("subclassed").model
    with pytest.raises(ValueError, match="Argument `x` must be given for a model whose code alone knows its inputs"):
        compress(model, ratio=2)


@pytest.mark.once
@pytest.mark.parametrize("model", [keras.layers.Dense(3), keras.Sequential([keras.layers.Dense(3)]), 3])
def test_model_must_be_built(model):
    with pytest.raises(ValueError, match="Argument `model` must be a built Keras model"):
        compress(model, np.ones((4, 3)), ratio=2)


@pytest.mark.once
def test_model_must_be_float():
    with pytest.raises(ValueError, match="Argument `model` must have float parameters to quantize"):
        compress(lqs.quantize(network(5)), np.ones((4, 20)), ratio=2)


@pytest.mark.once
@pytest.mark.parametrize("inference_only", [False, True])
def test_what_is_quantized_already_counts_and_stays(inference_only):
    parts = [keras.Input((20,)), layers.Dense(30, name="first"), layers.Dense(25, name="second")]
    model = lqs.quantize(keras.Sequential(parts), "thesis", where=lambda layer, variable: layer.name == "first")
    x = np.random.default_rng(0).normal(size=(100, 20)).astype("float32")
    small = lqs.compress(model, x, bytes=2600, inference_only=inference_only)
    assert file_bytes(small, inference_only) <= 2600
    before, after = (lqs.inspection.model_integers(each) for each in (model, small))
    np.testing.assert_array_equal(after["first/kernel"], before["first/kernel"])
    assert "second/kernel" in after
