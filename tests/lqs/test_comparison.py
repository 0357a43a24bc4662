"""`lqs.compare`: against numbers worked by hand."""

import keras
import numpy as np
import pytest

import lqs
from lqs.file.sizes import file_bytes


def network(kernel, **arguments):
    kernel = np.array(kernel, "float32")
    model = keras.Sequential([keras.Input((len(kernel),)), keras.layers.Dense(kernel.shape[1], use_bias=False)])
    model.set_weights([kernel])
    return lqs.quantize(model, lqs.NestedQuantization(rounding="nearest", **arguments)) if arguments else model


def test_classes():
    """In halves the kernel is [[1, .5], [.5, .5]], whose second row prefers no class."""
    kernel = [[1.0, 0.7], [0.4, 0.5]]
    model, small = network(kernel), network(kernel, initial_scale=0.5)
    x = np.array([[1, 0], [0, 1], [3, 1], [0, 2]], "float32")
    table = lqs.compare(model, small, x)
    assert table.index.tolist() == ["model", "small"]
    assert table["agreement"].tolist() == pytest.approx([1.0, 0.5])
    assert table["largest_difference"].tolist() == pytest.approx([0.0, 0.6], abs=1e-6)  # 3 * (0.7 - 0.5)
    assert table["bytes"].tolist() == [file_bytes(model), file_bytes(small)]
    assert (table["milliseconds"] > 0).all()


def test_one_output():
    """Of [1, 2] and [1, 2.5], the relative error is half of the root of five."""
    table = lqs.compare(network([[1.0], [2.0]]), network([[1.0], [2.5]]), np.eye(2, dtype="float32"))
    assert table.loc["small", "agreement"] == pytest.approx(1 - 0.5 / 5**0.5)


def test_several_inputs_and_outputs(rng):
    inputs = {name: keras.Input((3,), name=name) for name in ("a", "b")}
    hidden = keras.layers.Concatenate()(list(inputs.values()))
    model = keras.Model(inputs, {"few": keras.layers.Dense(2)(hidden), "many": keras.layers.Dense(5)(hidden)})
    x = {name: rng.normal(size=(40, 3)).astype("float32") for name in inputs}
    table = lqs.compare(model, lqs.quantize(model, "compact"), x)
    assert 0.8 < table.loc["small", "agreement"] <= 1 and 0 < table.loc["small", "largest_difference"] < 1


@pytest.mark.once
def test_batches_and_outputs_of_one_axis(rng):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Reshape(())(keras.layers.Dense(1, use_bias=False)(inputs)))
    model.set_weights([np.array([[3.0], [4.0]])])
    small = keras.models.clone_model(model)
    small.set_weights([np.array([[3.0], [3.5]])])
    table = lqs.compare(model, small, ((row[None], 0) for row in np.eye(2, dtype="float32")))
    assert table["agreement"].tolist() == pytest.approx([1.0, 0.9])


@pytest.mark.once
@pytest.mark.parametrize(
    "change, message",
    [
        ({"model": 3}, "Argument `model` must be a built Keras model. Received: model=3"),
        ({"small": keras.Sequential([])}, "Argument `small` must be a built Keras model. Received: small="),
        ({"x": np.zeros((0, 2))}, "Argument `x` must hold at least 1 examples.* Received: arrays of \\[0\\] examples"),
        ({"x": [np.ones((2, 2)), np.ones((3, 2))]}, "the same number for each input .* arrays of \\[2, 3\\] examples"),
        ({"x": None}, "Argument `x` must be an array, .* Received: x=None"),
        ({"x": 3}, "Argument `x` must be an array, .* Received: x=3"),
        ({"x": [[1.0, 2.0]]}, "Argument `x` must be an array, .* Received: x with 1.0"),
        ({"x": ["a", "b"]}, "Argument `x` must be an array, .* Received: x with 'a'"),
        ({"model": network([[np.nan, 1.0], [0.4, 0.5]])}, "Argument `model` must have finite outputs"),
        ({"small": network([[np.inf, 1.0], [0.4, 0.5]])}, "Argument `small` must have finite outputs"),
        ({"small": network([[1.0], [1.0]])}, "Argument `small` must have outputs of the shapes of those of `model`"),
    ],
)
def test_errors(change, message):
    model = network([[1.0, 0.8], [0.4, 0.5]])
    with pytest.raises(ValueError, match=message):
        lqs.compare(**{"model": model, "small": model, "x": np.ones((2, 2)), **change})
