"""Codebooks, and other roundings with weights of their own: by hand, and the way through files and exports."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import lqs
from lqs.codebooks import nearest
from lqs.export import _parameters
from lqs.file import reader, writer
from lqs.file.saving import pack_model
from lqs.inspection import quantized_parameters, to_numpy
from lqs.layers import quantize_values

L = keras.layers
FROZEN = {"rule": lqs.Frozen(), "initial_scale": "max"}
PROTOTYPES = {
    "TrainedTernary": lqs.NestedQuantization(rounding=lqs.TrainedTernary(), **FROZEN),
    "LQNets": lqs.NestedQuantization(rounding=lqs.LQNets(), bits=2, **FROZEN),
    "LQNets 3": lqs.NestedQuantization(rounding=lqs.LQNets(), bits=3, **FROZEN),
    "DeepCompression": lqs.NestedQuantization(rounding=lqs.DeepCompression(0.5), bits=3, **FROZEN),
    "DeepCompression 0": lqs.NestedQuantization("row", rounding=lqs.DeepCompression(0), bits=2, **FROZEN),
    "QIL": lqs.NestedQuantization("column", rounding=lqs.QIL(), bits=3, **FROZEN),
    "WaveQ": lqs.NestedQuantization("row", lqs.Frozen(), lqs.WaveQPenalty(0.1, bits=3), "nearest"),
}
IN_CODEBOOKS = [name for name in PROTOTYPES if name not in ("QIL", "WaveQ")]


def built(rounding, bits=None, codebook=None, scale=2.0, shape=(4,)):
    layer = lqs.NestedQuantization(rule=lqs.Frozen(), rounding=rounding, bits=bits, initial_scale=scale)
    layer.build(shape)
    if codebook is not None:
        layer.codebook.assign(codebook)
    return layer


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


def test_nearest_of_levels_in_any_order():
    """Middles are -0.5, 0.5 and 2; the lower level wins there, and of equal ones there is one for each side."""
    levels = np.array([3.0, 0.0, 1.0, -1.0], "float32")
    found = numbers(nearest(np.array([[-9, -0.5, -0.4, 0.5], [0.6, 2, 2.1, 9]], "float32"), levels))
    assert levels[found].tolist() == [[-1, -1, 0, 0], [1, 1, 3, 3]]


def test_integers_stand_for_themselves_until_there_is_a_parameter():
    layer = built(lqs.LQNets(), 2)
    assert numbers(layer.codebook).tolist() == [-2, -1, 0, 1]
    assert numbers(layer(np.array([-9, -1.9, 0.1, 2.1], "float32"))).tolist() == [-4, -2, 0, 2]


# By hand, at s = 2.


def test_trained_ternary_by_hand(gradients):
    """The threshold is 0.05 * 4 = 0.2; W_p = 1.5, W_n = 0.5."""
    layer = built(lqs.TrainedTernary(), codebook=[-0.5, 0, 1.5])
    parameter, upstream = np.array([4, 0.1, -1, 3], "float32"), np.array([1, -1, 2, -2], "float32")
    assert numbers(layer.integers(parameter)).tolist() == [1, 0, -1, 1]
    assert numbers(layer(parameter)).tolist() == [3, 0, -1, 3]
    of_parameter, of_codebook = gradients(layer, parameter, upstream, [layer.codebook])
    assert of_parameter.tolist() == [1 * 1.5, -1 * 1, 2 * 0.5, -2 * 1.5]
    assert of_codebook.tolist() == [2 * 2, 0, 2 * (1 - 2)]


def test_trained_ternary_starts_from_mean_magnitudes():
    layer = built(lqs.TrainedTernary())
    layer.initialize_scale(np.array([4, 0.1, -1, 3], "float32"))
    assert numbers(layer.codebook).tolist() == [-0.5, 0, 1.75]


def test_trained_ternary_of_one_sign():
    layer = built(lqs.TrainedTernary())
    layer.initialize_scale(np.array([4, 4, 4, 0], "float32"))
    assert numbers(layer.codebook).tolist() == [0, 0, 2]


def test_lq_nets_by_hand(gradients):
    """The levels of the basis 2, 1."""
    layer = built(lqs.LQNets(), 2, [-3, -1, 1, 3])
    parameter, upstream = 2 * np.array([2.5, -0.5, 0.4, -7], "float32"), np.array([1, -1, 2, -2], "float32")
    assert numbers(layer.integers(parameter)).tolist() == [1, -1, 0, -2]
    assert numbers(layer(parameter)).tolist() == [6, -2, 2, -6]
    assert gradients(layer, parameter, upstream)[0].tolist() == upstream.tolist()
    assert layer.trainable_variables == [layer.scale_weight]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_lq_nets_step_is_the_moving_average_of_least_squares(bits, rng):
    signs = np.array([[2 * (code >> bit & 1) - 1 for code in range(2**bits)] for bit in reversed(range(bits))])
    basis = 1.3 ** np.arange(bits)[::-1]
    layer = built(lqs.LQNets(), bits, basis @ signs, shape=(50, 9))
    parameter = rng.normal(scale=4, size=(50, 9)).astype("float32")
    codes = np.abs(parameter[..., None] / 2 - basis @ signs).argmin(-1).ravel()
    best = np.linalg.lstsq(signs[:, codes].T, parameter.ravel() / 2, rcond=None)[0]
    layer(parameter)
    np.testing.assert_allclose(numbers(layer.codebook), basis @ signs, rtol=1e-6)  # in evaluation it stays
    layer(parameter, training=True)
    np.testing.assert_allclose(numbers(layer.codebook), (0.9 * basis + 0.1 * best) @ signs, rtol=1e-4, atol=1e-4)


def test_lq_nets_of_zeros_is_finite():
    layer = built(lqs.LQNets(), 3)
    layer.initialize_scale(np.zeros(4, "float32"))
    assert np.all(np.isfinite(numbers(layer(np.zeros(4, "float32"), training=True))))


def test_deep_compression_by_hand(gradients):
    """The threshold is 0.5, and middles of the centroids are -2, 0 and 2."""
    layer = built(lqs.DeepCompression(), 2, [-3, -1, 0, 1, 3], shape=(6,))
    layer.rounding.threshold.assign(0.5)
    parameter = 2 * np.array([2.5, -0.6, 0.4, -7, 1.2, 1.9], "float32")
    upstream = np.array([1, -1, 5, 2, 3, 1], "float32")
    assert numbers(layer.integers(parameter)).tolist() == [2, -1, 0, -2, 1, 1]
    assert numbers(layer(parameter)).tolist() == [6, -2, 0, -6, 2, 2]
    of_parameter, of_codebook = gradients(layer, parameter, upstream, [layer.codebook])
    assert of_parameter.tolist() == upstream.tolist()
    assert of_codebook.tolist() == [2 * 2, 2 * -1, 0, 2 * (3 + 1), 2 * 1]


def test_deep_compression_starts_from_k_means(rng):
    parameter = rng.normal(size=100).astype("float32")
    parameter = np.concatenate([parameter, -parameter])  # as many centroids to each side
    layer = built(lqs.DeepCompression(1.0), 3, scale=1.0, shape=(200,))
    layer.initialize_scale(parameter)
    threshold = parameter.std()
    assert float(layer.rounding.threshold) == pytest.approx(threshold, rel=1e-5)
    kept = parameter[np.abs(parameter) >= threshold]
    centroids = np.linspace(parameter.min(), parameter.max(), 8)
    for _ in range(20):
        positions = np.where(centroids < 0, -1, 1) * np.maximum(np.abs(centroids), threshold)
        indices = np.abs(kept[:, None] - positions).argmin(1)
        centroids = np.array([kept[indices == k].mean() if np.any(indices == k) else centroids[k] for k in range(8)])
    np.testing.assert_allclose(numbers(layer.codebook), [*centroids[:4], 0, *centroids[4:]], rtol=1e-4)
    assert np.mean(numbers(layer.integers(parameter)) == 0) == np.mean(np.abs(parameter) < threshold)


@pytest.mark.parametrize(
    "codebook, expected", [([-3, -0.1, 0, 0.2, 3], [1, -2, 0, 2]), ([-2, 0.1, 0, 0.3, 0.2], [1, -2, 0, 1])]
)
def test_centroids_within_the_threshold_keep_their_integers(codebook, expected):
    """They lie just beyond it; of several, the largest is nearest to almost all that is beyond."""
    layer = built(lqs.DeepCompression(), 2, codebook)
    layer.rounding.threshold.assign(1 / 3)
    parameter = 2 * np.array([0.4, -2.4, 0.3, 2.9], "float32")
    integers = numbers(layer.integers(parameter))
    assert integers.tolist() == expected
    again = layer.parameter_of(integers, numbers(layer.scale))
    assert numbers(layer.integers(again)).tolist() == integers.tolist()
    np.testing.assert_array_equal(numbers(layer(again)), numbers(layer(parameter)))


def test_qil_by_hand(gradients):
    """With 3 bits s n = 6; of the interval from 1/4 to 3/4, magnitudes 0.2, 0.4, 0.6, 0.9 are at 0, 0.3, 0.7 and 1.

    dc = -(-1 * -1 + 2) * 6 * 0.5 / 0.25, and dd with -0.1 and 0.1 more, over 0.25**2
    """
    layer = built(lqs.QIL(), 3)
    layer.rounding.half_width.assign([0.25])
    parameter, upstream = np.array([1.2, -2.4, 3.6, 5.4], "float32"), np.array([1, -1, 2, -1], "float32")
    assert numbers(layer.integers(parameter)).tolist() == [0, -1, 2, 3]
    assert numbers(layer(parameter)).tolist() == [0, -2, 4, 6]
    weights = [layer.rounding.center, layer.rounding.half_width]
    of_parameter, of_center, of_half_width = gradients(layer, parameter, upstream, weights)
    np.testing.assert_allclose(of_parameter, [0, -2, 4, 0], rtol=1e-6)
    np.testing.assert_allclose(of_center, [-36], rtol=1e-5)
    np.testing.assert_allclose(of_half_width, [-48 * (-0.1 + 2 * 0.1)], rtol=1e-4)


@pytest.mark.parametrize("center, half_width", [(0.5, 0.5), (0.5, 0.2), (0.1, 0.4), (-0.2, 0.5), (2.0, 0.001)])
def test_qil_parameter_of_integers_has_these_integers(center, half_width, rng):
    """Also where the interval begins below 0, and some bins are cut or out of reach."""
    layer = built(lqs.QIL(), 4, scale=0.3, shape=(400,))
    layer.rounding.center.assign([center])
    layer.rounding.half_width.assign([half_width])
    integers = numbers(layer.integers(rng.normal(scale=2, size=400).astype("float32")))
    again = layer.parameter_of(integers, numbers(layer.scale))
    assert again.dtype == "float32"
    np.testing.assert_array_equal(numbers(layer.integers(again)), integers)


# Through training, files and exports.


@functools.cache
def trained(name):
    """Return a trained model, not to be changed, and its inputs."""
    rng = np.random.default_rng(3)
    model = keras.Sequential([keras.Input((12,)), L.Dense(16, activation="relu"), L.Dense(3)])
    model = lqs.quantize(model, PROTOTYPES[name], None)
    model.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = rng.normal(size=(64, 12)).astype("float32")
    model.fit(x, x[:, :3].argmax(1), batch_size=8, epochs=2, verbose=0)
    return model, x


def own_weights(model):
    """Return the values of all variables of nested layers but the scales, by number and name."""
    quantizers = [quantizer for _, quantizer in quantized_parameters(model)]
    variables = [v for q in quantizers for v in q.variables if v is not q.scale_weight]
    return {f"{index} {v.name}": to_numpy(v.value) for index, v in enumerate(variables)}


def weights_in_use(model):
    pairs = quantized_parameters(model)
    return {variable.path: to_numpy(quantize_values(pairs)[id(variable)]) for variable, _ in pairs}


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for path in ours:
        np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)


@pytest.mark.parametrize("name", PROTOTYPES)
def test_own_weights_are_trained_and_kept_in_both_kinds_of_files(name, reload, tmp_path):
    model, x = trained(name)
    lqs.save(model, tmp_path / "model.lqs")
    for again in (reload(model), lqs.load(tmp_path / "model.lqs")):
        assert_same(own_weights(again), own_weights(model))
        assert_same(weights_in_use(again), weights_in_use(model))
        np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
        for ours, theirs in zip(*map(quantized_parameters, (again, model)), strict=True):
            np.testing.assert_array_equal(*[to_numpy(q.integers(v.value)) for v, q in (ours, theirs)])
        again.compile(keras.optimizers.Adam(1e-2), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        again.fit(x, x[:, :3].argmax(1), verbose=0)
        assert any(
            np.any(a != b) for a, b in zip(own_weights(again).values(), own_weights(model).values(), strict=True)
        )


@pytest.mark.parametrize("name", PROTOTYPES)
def test_reader_and_dequantized_network_have_the_weights_in_use(name):
    model, x = trained(name)
    content = pack_model(model)
    assert content[4] == (3 if name in IN_CODEBOOKS else 2)
    tensors = {tensor.name: tensor for tensor in reader.parse(content)[1]}
    for path, values in weights_in_use(model).items():
        assert tensors[path].integers is not None
        np.testing.assert_array_equal(tensors[path].array, values)
    plain = lqs.dequantize(model)
    np.testing.assert_array_equal(plain.predict(x, verbose=0), model.predict(x, verbose=0))
    report = lqs.size_report(model)
    assert report.loc["total", "file_bytes"] == len(content)
    assert report.loc["total", "fp32_bytes"] == 4 * (12 * 16 + 16 + 16 * 3 + 3)


@pytest.mark.parametrize("name", PROTOTYPES)
def test_exports_leave_codebooks_in_float(name):
    model = trained(name)[0]
    kernels = [parameter for parameter in _parameters(model, ("int8",))[1] if parameter.integers is not None]
    for parameter, values in zip(kernels, weights_in_use(model).values(), strict=True):
        is_float = parameter.scale is None
        assert is_float == (name in IN_CODEBOOKS)
        assert parameter.reason == ("levels of a codebook" if is_float else "")
        np.testing.assert_array_equal(to_numpy(parameter.variable), values)


@pytest.mark.parametrize("name", PROTOTYPES)
def test_initial_weights_follow_the_parameter(name, rng):
    """Copies of one prototype are apart, and own weights are those of the parameter of each."""
    model = keras.Sequential([keras.Input((12,)), L.Dense(16), L.Dense(16)])
    model.layers[0].kernel.assign(rng.normal(size=(12, 16)))
    model.layers[1].kernel.assign(rng.uniform(-2, 1, size=(16, 16)))
    model = lqs.quantize(model, PROTOTYPES[name], None)
    codebooks = [quantizer.codebook for _, quantizer in quantized_parameters(model)]
    if name not in IN_CODEBOOKS:
        assert codebooks == [None, None]
    elif not name.endswith(" 0"):
        assert np.any(numbers(codebooks[0]) != numbers(codebooks[1]))
    values = np.concatenate([value.ravel() for value in weights_in_use(model).values()])
    exact = np.concatenate([to_numpy(variable.value).ravel() for variable, _ in quantized_parameters(model)])
    assert np.corrcoef(values, exact)[0, 1] > 0.75


def test_file_with_integers_that_have_no_level(tmp_path):
    model = trained("LQNets")[0]
    configuration, tensors = reader.parse(pack_model(model))
    encoded = []
    for tensor in tensors:
        if tensor.integers is None:
            encoded.append(writer.encode_numbers(tensor.values))
        else:
            encoded.append(writer.encode_integers(tensor.integers - 1, tensor.scale))
    writer.write(
        tmp_path / "model.lqs", configuration, [({"name": str(i), **e}, s) for i, (e, s) in enumerate(encoded)]
    )
    with pytest.raises(reader.FileFormatError, match="0 has integers without a level in the model"):
        lqs.load(tmp_path / "model.lqs")


def test_levels_that_are_equal_leave_the_parameter_in_float(rng, tmp_path):
    """An element just above a level that is there twice has another integer than one on it."""
    model = lqs.quantize(keras.Sequential([keras.Input((12,)), L.Dense(16)]), PROTOTYPES["LQNets"], None)
    variable, quantizer = quantized_parameters(model)[0]
    quantizer.codebook.assign([-1, -1, 1, 1])
    variable.assign(rng.normal(size=variable.shape))
    lqs.save(model, tmp_path / "model.lqs")
    loaded, x = lqs.load(tmp_path / "model.lqs"), rng.normal(size=(9, 12)).astype("float32")
    assert any(
        tensor.integers is None and tensor.name == variable.path for tensor in reader.read(tmp_path / "model.lqs")[1]
    )
    assert_same(weights_in_use(loaded), weights_in_use(model))
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


# Errors.


@pytest.mark.parametrize("rounding", [lqs.LQNets(), lqs.DeepCompression(), lqs.QIL()])
def test_bits_must_be_given(rounding):
    message = f"`bits` must be given, for `lqs.{type(rounding).__name__}`. Received: bits=None"
    with pytest.raises(ValueError, match=message):
        lqs.NestedQuantization(rounding=rounding)


@pytest.mark.parametrize("rounding", [lqs.LQNets(), lqs.DeepCompression()])
def test_too_many_levels(rounding):
    message = f"`bits` must be at most 8, for `lqs.{type(rounding).__name__}`. Received: bits=9"
    with pytest.raises(ValueError, match=message):
        lqs.NestedQuantization(rounding=rounding, bits=9)


def test_trained_ternary_has_no_bits():
    with pytest.raises(ValueError, match="`bits` must be None, for `lqs.TrainedTernary`. Received: bits=2"):
        lqs.NestedQuantization(rounding=lqs.TrainedTernary(), bits=2)


@pytest.mark.parametrize("value", [-1, "1", None, float("nan")])
def test_bad_strength(value):
    with pytest.raises(ValueError, match="`strength` must be a finite number >= 0. Received: strength="):
        lqs.DeepCompression(value)


@pytest.mark.parametrize("make", [lqs.TrainedTernary, lqs.QIL])
def test_one_rounding_for_two_parameters(make):
    rounding = make()
    bits = None if make is lqs.TrainedTernary else 3
    built(rounding, bits)
    with pytest.raises(ValueError, match=f"needs an `lqs.{make.__name__}` of its own. Received: one for two layers"):
        built(rounding, bits)


def test_configuration_of_deep_compression_round_trips():
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(lqs.DeepCompression(1.5)))
    assert again.strength == 1.5 and again.codebook is None
