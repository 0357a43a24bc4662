"""Tests of `lqs.file.checks`: what a file could not hold is refused by name, and no file is left behind."""

import keras
import numpy as np
import pytest

from lqs.conversion import quantize
from lqs.file.checks import check_savable
from lqs.file.saving import load, save
from lqs.file.sizes import file_bytes, size_report
from lqs.inspection import quantized_parameters, summary
from lqs.quantizer import NestedQuantization

L = keras.layers
FUNCTIONS = [check_savable, size_report, file_bytes, summary]


def small(**arguments):
    arguments = {"rounding": "nearest", "initial_scale": 0.01, **arguments}
    model = keras.Sequential([keras.Input((3,)), L.Dense(2, name="first"), L.Dense(2, name="last")])
    return quantize(model, *[NestedQuantization("scalar", **arguments)] * 2, lambda layer, _: layer.name == "first")


def assert_refused(model, message, tmp_path):
    for function in FUNCTIONS:
        with pytest.raises(ValueError, match=message):
            function(model)
    with pytest.raises(ValueError, match=message):
        save(model, tmp_path / "model.lqs")
    assert not list(tmp_path.iterdir())


def set_one(variable, value):
    array = np.array(variable)
    array.flat[0] = value
    variable.assign(array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["first/kernel", "first/bias", "last/kernel"])
def test_variables_that_are_not_finite(value, name, tmp_path):
    model = small()
    variable = next(v for v in model.variables if v.path == name)
    set_one(variable, value)
    message = f"must have finite variables.* Received: {name} with 1 of {np.array(variable).size} values"
    assert_refused(model, message, tmp_path)


@pytest.mark.parametrize("parametrization, value", [("linear", np.nan), ("linear", np.inf), ("log", np.nan)])
def test_scale_that_is_not_finite(parametrization, value, tmp_path):
    model = small(parametrization=parametrization)
    (_, quantizer), _ = quantized_parameters(model)
    set_one(quantizer.scale_weight, value)
    assert_refused(model, f"must have finite variables.* Received: {quantizer.scale_weight.path} with 1 of 1", tmp_path)


@pytest.mark.parametrize("parametrization, value", [("linear", 0), ("linear", -1), ("log", 1000), ("log", -1000)])
def test_scale_that_is_not_positive(parametrization, value, tmp_path):
    model = small(parametrization=parametrization)
    (kernel, quantizer), _ = quantized_parameters(model)
    set_one(quantizer.scale_weight, value)
    assert_refused(model, f"must have scales that are positive numbers. Received: {kernel.path}", tmp_path)


@pytest.mark.parametrize("rounding", ["floor", "nearest"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_integers_beyond_int32(rounding, sign, tmp_path):
    """A bias of 1e5 at the default scale of 1.19e-5: 8.4e9 steps, which the backends wrap around or clip."""
    model = small(rounding=rounding, initial_scale=100 * 2**-23)
    bias = quantized_parameters(model)[1][0]
    bias.assign([sign * 1e5, 0])
    assert_refused(model, "integers within int32.* Received: first/bias of up to 8.389e[+]09 times its scale", tmp_path)


@pytest.mark.parametrize("sign", [-1, 1])
def test_largest_integers_of_int32(sign, tmp_path):
    """Float32 has 2**31 - 128 and then 2**31, with a scale of a power of two."""
    model = small(initial_scale=2.0**-10)
    bias = quantized_parameters(model)[1][0]
    bias.assign([sign * (2**31 - 128) * 2.0**-10, 0])
    save(model, tmp_path / "model.lqs")
    x = np.ones((1, 3), "float32")
    np.testing.assert_array_equal(load(tmp_path / "model.lqs").predict(x, verbose=0), model.predict(x, verbose=0))
    bias.assign([sign * 2.0**21, 0])
    with pytest.raises(ValueError, match="first/bias of up to 2.147e[+]09 times its scale"):
        check_savable(model)


def test_clipped_integers_are_never_beyond_int32(tmp_path):
    with pytest.warns(UserWarning, match="lie beyond the levels"):
        model = small(bits=8, initial_scale=100 * 2**-23)
    quantized_parameters(model)[1][0].assign([1e5, 0])
    check_savable(model)
    save(model, tmp_path / "model.lqs")
    load(tmp_path / "model.lqs")


def test_diverged_training_is_not_saved_as_zeros(tmp_path):
    model = small()
    model.compile(keras.optimizers.SGD(1e6), "mse")
    model.fit(np.ones((32, 3), "float32"), np.zeros((32, 2)), epochs=20, verbose=0)
    assert_refused(model, "Argument `model` must have (finite variables|integers within int32)", tmp_path)


def test_parameter_without_elements():
    model = quantize(keras.Sequential([keras.Input((0,)), L.Dense(2)]), NestedQuantization(), None)
    check_savable(model)


def test_layer_in_two_nested_models_is_refused(tmp_path):
    """Keras's configuration has it twice, and so a model made of that has more variables than the file has arrays."""
    shared, inputs = L.Dense(3, name="shared"), [keras.Input((3,)) for _ in range(3)]
    first, second = (keras.Model(x, shared(x)) for x in inputs[:2])
    model = quantize(keras.Model(inputs[2], second(first(inputs[2]))))
    with pytest.raises(ValueError, match="must be one that can be loaded again. .*the model needs"):
        save(model, tmp_path / "model.lqs")
    assert not list(tmp_path.iterdir())


def test_head_tied_to_a_model_inside(tmp_path):
    """As the language models of KerasHub without their class: refused, with a way that works."""
    tokens, again = keras.Input((3,), dtype="int32"), keras.Input((3,), dtype="int32")
    embedding = L.ReversibleEmbedding(5, 4)
    inner = keras.Model(tokens, L.Dense(4)(embedding(tokens)), name="inner")
    refused = quantize(keras.Model(again, embedding(inner(again), reverse=True), name="outer"))
    with pytest.raises(ValueError, match="'reversible_embedding.*' is part of both 'outer' and 'inner': make"):
        save(refused, tmp_path / "model.lqs")
    assert not list(tmp_path.iterdir())
    model = quantize(keras.Model(inner.input, embedding(inner.output, reverse=True)))
    save(model, tmp_path / "model.lqs")
    x = np.array([[0, 1, 2], [3, 4, 0]])
    np.testing.assert_array_equal(load(tmp_path / "model.lqs").predict(x, verbose=0), model.predict(x, verbose=0))


def test_saving_has_no_effect_on_later_layers(tmp_path):
    """What is read back for the check makes layers: neither names nor seeds of later ones move on."""

    def later():
        layers = [L.Dropout(0.5), L.Dense(3)]
        seed = layers[0].seed_generator.state
        return [layer.name for layer in layers], seed.path, np.array(seed)[0]

    model = quantize(keras.Sequential([keras.Input((4,)), L.Dense(3), L.Dropout(0.5)]))
    results = []
    for with_save in (False, True):
        keras.utils.set_random_seed(1)
        keras.backend.clear_session()
        if with_save:
            save(model, tmp_path / "model.lqs")
        results.append(later())
    assert results[0] == results[1]
