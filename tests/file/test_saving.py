"""Tests of `lqs.file.saving`: the same network comes back, and nothing in a file is trusted."""

import json
import os

import keras
import numpy as np
import pytest

from lqs.conversion import quantize
from lqs.file import reader, writer
from lqs.file.saving import load, pack_model, save
from lqs.file.sizes import size_report
from lqs.inspection import quantized_parameters, to_numpy
from lqs.layers import QuantConv2D, QuantDense, QuantizedModel
from lqs.methods.stochastic_rounding import StochasticRounding
from lqs.penalties import CodeLengthPenalty, DifferencePenalty
from lqs.quantizer import NestedQuantization
from lqs.rules import Frozen, GradientRatio, StraightThrough

L = keras.layers


def dense():
    return keras.Sequential([keras.Input((12,)), L.Dense(8, activation="relu"), L.Dense(3)])


def convolutional():
    x = keras.Input((8, 8, 2))
    y = L.BatchNormalization()(L.Conv2D(4, 3, padding="same")(x))
    y = L.Add()([y, L.Conv2D(4, 1)(x)])
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling2D()(L.Dropout(0.5)(y))))


def recurrent():
    return keras.Sequential([keras.Input((5,), dtype="int32"), L.Embedding(20, 6), L.LSTM(4), L.Dense(2)])


def attentive():
    x = keras.Input((6, 8))
    return keras.Model(x, L.LayerNormalization()(L.MultiHeadAttention(2, 4)(x, x)))


def shared():
    """Return a model that uses one layer twice, and another model as a layer."""
    layer, inner = L.Dense(4), keras.Sequential([keras.Input((4,)), L.Dense(4)], name="inner")
    x = keras.Input((4,))
    return keras.Model(x, inner(layer(layer(x))))


def layers_of_lqs():
    quantizers = {"kernel_quantizer": NestedQuantization("row"), "bias_quantizer": NestedQuantization()}
    convolution = QuantConv2D(4, 3, kernel_quantizer=NestedQuantization("channel", initial_scale=0.01))
    return keras.Sequential([keras.Input((6, 6, 2)), convolution, L.Flatten(), QuantDense(3, **quantizers)])


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    def __init__(self, units=3, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden, self.output_layer = L.Dense(5, activation="relu"), L.Dense(units)

    def build(self, input_shape):
        self.hidden.build(input_shape)
        self.output_layer.build((*input_shape[:-1], 5))
        self.built = True

    def call(self, inputs):
        return self.output_layer(self.hidden(inputs))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def subclassed():
    model = Subclassed()
    model.build((None, 7))
    return model


def with_random_numbers():
    layers = [L.Dense(3), L.Dropout(0.5), L.GaussianNoise(0.1), L.Dense(2)]
    kernel = NestedQuantization(rounding=StochasticRounding(seed=7), initial_scale=0.1)
    return quantize(keras.Sequential([keras.Input((4,)), *layers]), kernel, None, lambda layer, _: layer.units == 3)


def inputs_of(model, rng):
    if isinstance(model, Subclassed | QuantizedModel):
        return rng.normal(size=(9, 7)).astype("float32")
    shape = model.input_shape
    if model.inputs[0].dtype == "int32":
        return rng.integers(0, 20, (9, *shape[1:])).astype("int32")
    return rng.normal(size=(9, *shape[1:])).astype("float32")


def scramble(model, rng, spread=0.2):
    """Give all float variables but scales and strengths random values, and scales about a tenth of these."""
    for variable in model.variables:
        noise = rng.normal(0, spread, variable.shape)
        if variable.name in ("scale", "log_scale"):
            scale = np.abs(noise) / 5 + spread / 100
            variable.assign(scale if variable.name == "scale" else np.log(scale))
        elif variable.name not in ("threshold", "rate") and variable.dtype == "float32":
            variable.assign(np.abs(noise) if "variance" in variable.name else noise)


def integers_and_scales(model):
    pairs = quantized_parameters(model)
    return [array for v, q in pairs for array in (to_numpy(q.integers(v.value)), to_numpy(q.scale))]


def assert_same(loaded, model, rng):
    """Assert that integers, scales and predictions are the same, bit for bit, and so are all other variables."""
    ours, theirs = integers_and_scales(loaded), integers_and_scales(model)
    assert [a.dtype for a in ours] == [a.dtype for a in theirs]
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    quantized = {id(variable) for pair in quantized_parameters(loaded) for variable in (pair[0], pair[1].scale_weight)}
    for a, b in zip(loaded.variables, model.variables, strict=True):
        assert id(a) in quantized or np.array_equal(to_numpy(a.value), to_numpy(b.value)), a.path
    x = inputs_of(model, rng)
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"bits": 3},
        {"rounding": "nearest"},
        {"rounding": "nearest", "bits": 3},
        {"parametrization": "log"},
        {"rounding": "nearest", "parametrization": "log"},
    ],
)
@pytest.mark.parametrize("make", [dense, convolutional, recurrent, attentive, shared, subclassed])
def test_same_network_comes_back(make, arguments, rng, tmp_path):
    prototype = NestedQuantization("column", GradientRatio(1e-9), **arguments)
    model = quantize(make(), kernel=prototype, bias=NestedQuantization(rounding=prototype.rounding))
    scramble(model, rng)
    save(model, tmp_path / "model.lqs")
    assert_same(load(tmp_path / "model.lqs"), model, rng)


def test_layers_of_lqs_come_back(rng, tmp_path):
    model = layers_of_lqs()
    scramble(model, rng)
    save(model, tmp_path / "model.lqs")
    assert_same(load(tmp_path / "model.lqs"), model, rng)


def test_float_network_comes_back(rng, tmp_path):
    model = convolutional()
    scramble(model, rng)
    save(model, tmp_path / "model.lqs")
    assert_same(load(tmp_path / "model.lqs"), model, rng)


def test_adapted_normalization_comes_back(rng, tmp_path):
    """It computes with what it derives from its variables."""
    inputs = (5 * rng.normal(size=(32, 4)) + 3).astype("float32")
    normalization = L.Normalization()
    normalization.adapt(inputs)
    model = quantize(keras.Sequential([keras.Input((4,)), normalization, L.Dense(3)]))
    save(model, tmp_path / "model.lqs")
    loaded = load(tmp_path / "model.lqs")
    np.testing.assert_array_equal(loaded.predict(inputs, verbose=0), model.predict(inputs, verbose=0))


@pytest.mark.parametrize("parameter_dtype", ["float16", "bfloat16"])
def test_parameters_of_half_precision_come_back(parameter_dtype, rng, tmp_path):
    layer = L.Dense(40, dtype=parameter_dtype)
    prototype = NestedQuantization("row", rounding="nearest", initial_scale=0.0123)
    model = quantize(keras.Sequential([keras.Input((30,), dtype="float32"), layer]), prototype, None)
    save(model, tmp_path / "model.lqs")
    assert_same(load(tmp_path / "model.lqs"), model, rng)


def test_integers_at_the_edges_of_their_bins_come_back(rng, tmp_path):
    model = quantize(dense(), kernel=NestedQuantization("row"))
    for variable, quantizer in quantized_parameters(model):
        quantizer.scale.assign(np.full(quantizer.scale.shape, 0.1))
        integers = rng.integers(-50, 50, variable.shape).astype("float32")
        variable.assign(integers * np.float32(0.1))  # of which floor(P / s) is sometimes one below
    save(model, tmp_path / "model.lqs")
    assert_same(load(tmp_path / "model.lqs"), model, rng)


@pytest.mark.parametrize("parametrization", ["linear", "log"])
def test_integers_beyond_the_precision_of_floats_come_back_with_their_parameter(parametrization, rng, tmp_path):
    model = quantize(dense(), kernel=NestedQuantization("row", parametrization=parametrization))
    kernel = quantized_parameters(model)[0][0]  # its scales are the initial ones, 1e-5
    kernel.assign(rng.normal(0, 500, kernel.shape))  # integers up to 1e8
    save(model, tmp_path / "model.lqs")
    assert_same(load(tmp_path / "model.lqs"), model, rng)
    tensors = reader.read(tmp_path / "model.lqs")[1]
    assert next(tensor.name for tensor in tensors if tensor.integers is None) == kernel.path
    assert tensors[-1].name == f"{kernel.path}/scale"
    assert size_report(model).loc["total", "file_bytes"] == os.path.getsize(tmp_path / "model.lqs")


PROTOTYPES = {
    "linear": NestedQuantization("row", Frozen(), DifferencePenalty(1e-3)),
    "log": NestedQuantization(
        "row", StraightThrough(), CodeLengthPenalty(0.1), "nearest", initial_scale=0.01, parametrization="log"
    ),
}


@pytest.mark.parametrize("parametrization", PROTOTYPES)
def test_trained_model_comes_back_and_trains_on(parametrization, rng, tmp_path):
    model = quantize(dense(), kernel=PROTOTYPES[parametrization], bias=NestedQuantization())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    x, y = rng.normal(size=(64, 12)).astype("float32"), rng.integers(0, 3, 64)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    model.fit(x, y, verbose=0)
    save(model, tmp_path / "model.lqs")
    loaded = load(tmp_path / "model.lqs")
    assert_same(loaded, model, rng)
    assert not loaded.compiled
    loaded.compile(keras.optimizers.Adam(1e-2), loss)
    before = loaded.evaluate(x, y, verbose=0)
    loaded.fit(x, y, epochs=3, verbose=0)
    assert loaded.evaluate(x, y, verbose=0) < before


@pytest.mark.parametrize("float_dtype", ["float16", "bfloat16"])
def test_other_variables_in_half_precision(float_dtype, rng, tmp_path):
    model = quantize(convolutional(), kernel=NestedQuantization("column", GradientRatio(1e-12)))
    scramble(model, rng)
    save(model, tmp_path / "half.lqs", float_dtype)
    loaded = load(tmp_path / "half.lqs")
    for a, b in zip(integers_and_scales(loaded), integers_and_scales(model), strict=True):
        np.testing.assert_array_equal(a, b)
    by_path = {variable.path: to_numpy(variable.value) for variable in loaded.variables}
    for variable in model.variables:
        value = to_numpy(variable.value)
        if "batch_normalization" in variable.path:
            np.testing.assert_allclose(by_path[variable.path], value, rtol=2**-8)
            assert np.any(by_path[variable.path] != value)
    thresholds = [to_numpy(variable.value) for variable in loaded.variables if variable.name == "threshold"]
    assert thresholds and min(thresholds) == np.float32(1e-12)  # would be 0 in half precision
    assert len(pack_model(model, float_dtype)) < len(pack_model(model))


def test_same_model_gives_the_same_bytes(rng):
    model = quantize(dense())
    scramble(model, rng)
    assert pack_model(model) == pack_model(model)


@pytest.mark.parametrize("make", [dense, convolutional, recurrent, attentive, shared])
@pytest.mark.parametrize("parametrization", ["linear", "log"])
def test_loaded_model_gives_the_same_bytes(make, parametrization, rng, tmp_path):
    """But where code of one's own makes layers without a name: Keras counts these in each process."""
    model = quantize(make(), NestedQuantization(parametrization=parametrization))
    scramble(model, rng)
    save(model, tmp_path / "model.lqs")
    assert pack_model(load(tmp_path / "model.lqs")) == (tmp_path / "model.lqs").read_bytes()


def test_states_of_seeds_come_back_and_have_one_name_and_dtype(tmp_path):
    model = with_random_numbers()
    model.compile("sgd", "mse", run_eagerly=keras.backend.backend() == "tensorflow")
    model.fit(np.ones((4, 4)), np.ones((4, 2)), verbose=0)
    model.compile()  # an optimizer that has moved no scale is warned of
    states = [np.array(variable) for variable in model.variables if variable.name == "seed_generator_state"]
    assert len(states) == 3 and any(state[1] for state in states)
    save(model, tmp_path / "model.lqs")
    loaded = load(tmp_path / "model.lqs")
    again = [np.array(variable) for variable in loaded.variables if variable.name == "seed_generator_state"]
    np.testing.assert_array_equal(again, states)
    assert pack_model(loaded) == (tmp_path / "model.lqs").read_bytes()
    stored = [tensor for tensor in reader.read(tmp_path / "model.lqs").tensors if "seed" in tensor.name]
    assert [tensor.name.partition("#")[0] for tensor in stored] == ["seed_generator/seed_generator_state"] * 3
    assert all(tensor.dtype == "uint32" for tensor in stored)


def test_variables_of_one_name_are_told_apart(rng, tmp_path):
    model = keras.Sequential([keras.Input((4,)), L.Dense(4, name="a")])
    model = keras.Sequential([model, keras.Sequential([keras.Input((4,)), L.Dense(4, name="a")])])
    for layer in model.layers:
        layer._name = "same"
    scramble(model, rng)
    names = [tensor.name for tensor in reader.parse(pack_model(model))[1]]
    assert len(set(names)) == len(names) == 4


def test_old_file_stays_if_writing_fails(rng, tmp_path, monkeypatch):
    path = tmp_path / "model.lqs"
    model = quantize(dense())
    save(model, path)
    before = path.read_bytes()
    scramble(model, rng)
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        save(model, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# Wrong arguments.


@pytest.mark.parametrize("path", ["model.keras", "model"])
def test_path_of_another_kind(path, tmp_path):
    with pytest.raises(ValueError, match=r"Argument `path` must end in '.lqs'. Received: path="):
        save(dense(), tmp_path / path)


@pytest.mark.parametrize("model", [None, L.Dense(3), keras.Sequential([L.Dense(3)])])
def test_model_that_is_none_or_not_built(model, tmp_path):
    with pytest.raises(ValueError, match="Argument `model` must be a built Keras model. Received: model="):
        save(model, tmp_path / "model.lqs")


def test_unknown_float_dtype(tmp_path):
    with pytest.raises(ValueError, match=r"Argument `float_dtype` must be one of .* Received: float_dtype='int8'"):
        save(dense(), tmp_path / "model.lqs", "int8")


def test_model_without_a_configuration(tmp_path):
    class Hidden(keras.Model):
        def __init__(self, units):
            super().__init__()
            self.inner = L.Dense(units)

        def call(self, inputs):
            return self.inner(inputs)

    model = Hidden(3)
    model(np.ones((1, 2), "float32"))
    with pytest.raises(ValueError, match="Argument `model` must be rebuilt from its configuration"):
        save(model, tmp_path / "model.lqs")


def test_code_is_not_written(tmp_path):
    model = keras.Sequential([keras.Input((2,)), L.Lambda(lambda x: x), L.Dense(2)])
    with pytest.raises(ValueError, match="must not have code in it. Received: Lambda"):
        save(model, tmp_path / "model.lqs")
    assert not list(tmp_path.iterdir())


# Hostile files; `test_fuzz` has more.


def write_with(path, model, change):
    """Write the file of a model whose configuration and tensors `change` gets to alter, checksum and all."""
    configuration, tensors = reader.parse(pack_model(model))
    configuration = json.loads(json.dumps(configuration))
    tensors = [({"name": t.name}, t) for t in tensors]
    change(configuration, tensors)
    encoded = []
    for entry, tensor in tensors:
        array = tensor.values
        pair = (
            writer.encode_numbers(array) if array is not None else writer.encode_integers(tensor.integers, tensor.scale)
        )
        encoded.append(({**entry, **pair[0]}, pair[1]))
    writer.write(path, configuration, encoded)


def layer_configuration(configuration, index):
    return configuration["config"]["layers"][index]


def too_many_units(configuration, tensors):
    layer_configuration(configuration, 2)["config"]["units"] = 2**40


def code(configuration, tensors):
    layer_configuration(configuration, 1).update(class_name="Lambda", config={"function": {"class_name": "__lambda__"}})


def not_of_keras(configuration, tensors):
    layer_configuration(configuration, 1).update(module="os", class_name="system", config={})


def helper_of_keras(configuration, tensors):
    layer_configuration(configuration, 1).update(module="keras.utils", class_name="get_file", config={})


def one_array_more(configuration, tensors):
    tensors.append(({"name": "more"}, tensors[0][1]))


def one_array_less(configuration, tensors):
    del tensors[-1]


def other_order(configuration, tensors):
    tensors[0], tensors[1] = tensors[1], tensors[0]


def integers_for_a_float_network(configuration, tensors):
    ones = np.ones(tensors[0][1].array.shape)
    tensors[0] = (
        {"name": "a"},
        reader.Tensor("a", "float32", integers=ones.astype("int32"), scale=ones.astype("float32")),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (too_many_units, "has the shape .* in the model and .* in the file"),
        (code, "must not have code in it"),
        (not_of_keras, "must name what lqs knows of Keras"),
        (helper_of_keras, "must name what lqs knows of Keras"),
        (one_array_more, "it has 5 arrays, and the model needs 4"),
        (one_array_less, "it has 3 arrays, and the model needs 4"),
        (other_order, "has the shape .* in the model and .* in the file"),
        (integers_for_a_float_network, "a has integers, but the model does not quantize it"),
    ],
)
def test_configuration_and_arrays_that_do_not_fit_together(change, message, rng, tmp_path):
    path = tmp_path / "model.lqs"
    write_with(path, dense(), change)
    with pytest.raises(reader.FileFormatError, match=message):
        load(path)
    # Nothing of the refused model is left for Keras to give values to.
    save(dense(), path)
    load(path)


@pytest.mark.parametrize("parametrization", ["linear", "log"])
@pytest.mark.parametrize("value", [0, -0.5, np.nan, np.inf])
@pytest.mark.parametrize("is_left", [False, True])
def test_scale_that_is_not_a_positive_number(value, parametrization, is_left, rng, tmp_path):
    """With its integers, or by itself at the end of the file."""
    model = quantize(dense(), kernel=NestedQuantization("row", parametrization=parametrization), bias=None)
    if is_left:
        model.layers[0].kernel.assign(rng.normal(0, 500, (12, 8)))  # integers beyond the precision of floats

    def change(configuration, tensors):
        tensor = tensors[-1 if is_left else 0][1]
        (tensor.values if is_left else tensor.scale)[3] = value

    write_with(tmp_path / "model.lqs", model, lambda *parts: None)
    load(tmp_path / "model.lqs")
    write_with(tmp_path / "model.lqs", model, change)
    with pytest.raises(reader.FileFormatError, match="kernel.* has a scale that is not a positive number"):
        load(tmp_path / "model.lqs")


def test_whole_file_of_the_helper_loads(rng, tmp_path):
    model = dense()
    write_with(tmp_path / "model.lqs", model, lambda *parts: None)
    assert_same(load(tmp_path / "model.lqs"), model, rng)


def test_limit_of_memory(tmp_path):
    save(dense(), tmp_path / "model.lqs")
    with pytest.raises(ValueError, match="its arrays take more than 100 bytes"):
        load(tmp_path / "model.lqs", max_bytes=100)
