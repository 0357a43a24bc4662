"""Codebooks: the nearest level, what integers stand for, and what files and exports make of a table."""

import keras
import numpy as np
import pytest
from keras import ops

import lqs
from lqs import methods
from lqs.export.parameters import parameters_of
from lqs.file import reader
from lqs.inspection import quantized_parameters
from lqs.methods.codebook import Codebook, nearest, shares_and_means


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


def test_nearest_of_levels_in_any_order():
    """Middles are -0.5, 0.5 and 2; the lower level wins there, and of equal ones there is one for each side."""
    levels = np.array([3.0, 0.0, 1.0, -1.0], "float32")
    found = numbers(nearest(np.array([[-9, -0.5, -0.4, 0.5], [0.6, 2, 2.1, 9]], "float32"), levels))
    assert levels[found].tolist() == [[-1, -1, 0, 0], [1, 1, 3, 3]]


def test_shares_and_means():
    """Of eight numbers, levels 0 to 2 have 3, 1 and none; a mask leaves out the first, of the level 0."""
    values = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], "float32")
    indices = np.array([[0, 0, 0, 1], [3, 3, 3, 3]])
    for mask, share, mean in ((None, 3, 6), (values != 1, 2, 5)):
        found = [numbers(a).tolist() for a in shares_and_means(ops.convert_to_tensor(values), indices, 4, mask)]
        assert found == [[share / 8, 1 / 8, 0, 4 / 8], [mean / 8, 4 / 8, 0, 26 / 8]]


class Nearest(Codebook):
    def integers(self, parameter, scale):
        found = nearest(parameter / scale, ops.cast(self.codebook, parameter.dtype))
        return ops.cast(found + self.levels.lowest, parameter.dtype)


class NearestWithZero(Nearest):
    is_zero_fixed = True


class NearestUntrained(Nearest):
    is_trained = False


def built(rounding, codebook=None):
    layer = lqs.NestedQuantization(rule=lqs.Frozen(), rounding=rounding, bits=2, initial_scale=2.0)
    layer.build((4,))
    if codebook is not None:
        layer.codebook.assign(codebook)
    return layer


def test_integers_stand_for_themselves_at_first():
    layer = built(Nearest())
    assert numbers(layer.codebook).tolist() == [-2, -1, 0, 1]
    assert numbers(layer(np.array([-9, -1.9, 0.1, 2.1], "float32"))).tolist() == [-4, -2, 0, 2]


def test_gradients_by_hand(gradients):
    """At s = 2 a level has the sum of the gradients of its elements, times 2; the integer 0 is the third."""
    parameter, upstream = np.array([-9, 1.0, 3.1, 2.9], "float32"), np.array([1, 2, 4, 8], "float32")
    for rounding, of_zero in ((Nearest(), 2 * 2), (NearestWithZero(), 0)):
        layer = built(rounding, [-3, -1, 0.5, 1.5])
        assert numbers(layer(parameter)).tolist() == [-6, 1, 3, 3]
        of_parameter, of_scale, of_codebook = gradients(
            layer, parameter, upstream, [layer.scale_weight, layer.codebook]
        )
        assert of_parameter.tolist() == upstream.tolist() and of_scale.tolist() == [0]
        assert of_codebook.tolist() == [2, 0, of_zero, 2 * (4 + 8)]


def test_trained_or_not():
    assert built(Nearest()).codebook.trainable and not built(NearestUntrained()).codebook.trainable


def test_parameter_of_integers_is_their_level():
    layer = built(Nearest(), [-3, -1, 0.5, 1.5])
    again = layer.parameter_of(np.array([-2, 0, 1]), np.array([2.0], "float32"))
    assert again.dtype == "float32" and again.tolist() == [-6, 1, 3]


@pytest.mark.parametrize("name", ["lq_nets", "deep_compression", "gong"])
def test_at_most_eight_bits(name):
    assert methods.get(name)(bits=8).levels.lowest == -128
    with pytest.raises(ValueError, match=r"^Argument `bits` must be at most 8, for `\w+`. Received: bits=9"):
        methods.get(name)(bits=9)


# Files and exports.


def quantized(rng, codebook=None):
    model = lqs.quantize(
        keras.Sequential([keras.Input((12,)), keras.layers.Dense(16)]), methods.get("lq_nets")(bits=2), None
    )
    ((variable, quantizer),) = quantized_parameters(model)
    variable.assign(rng.normal(size=variable.shape))
    if codebook is not None:
        quantizer.codebook.assign(codebook)
    return model, variable, quantizer


def test_file_has_the_integers_and_the_table(rng, tmp_path):
    model, variable, quantizer = quantized(rng)
    lqs.save(model, tmp_path / "model.lqs")
    tensors = {tensor.name: tensor for tensor in reader.read(tmp_path / "model.lqs")[1]}
    integers = numbers(quantizer.integers(variable.value))
    np.testing.assert_array_equal(tensors[variable.path].integers, integers)
    np.testing.assert_array_equal(tensors[variable.path].array, numbers(quantizer(variable.value)))


def test_levels_that_are_equal_leave_the_parameter_in_float(rng, tmp_path):
    """An element just above a level that is there twice has another integer than one on it."""
    model, variable, _ = quantized(rng, [-1, -1, 1, 1])
    lqs.save(model, tmp_path / "model.lqs")
    tensors = {tensor.name: tensor for tensor in reader.read(tmp_path / "model.lqs")[1]}
    assert tensors[variable.path].integers is None
    x = rng.normal(size=(9, 12)).astype("float32")
    np.testing.assert_array_equal(numbers(lqs.load(tmp_path / "model.lqs")(x)), numbers(model(x)))


@pytest.mark.once
def test_exports_leave_codebooks_in_float(rng):
    model, variable, quantizer = quantized(rng)
    parameters = parameters_of(model, ("int8",))
    (kernel,) = [parameter for parameter in parameters if parameter.integers is not None]
    assert kernel.scale is None and kernel.reason == "levels of a codebook"
    np.testing.assert_array_equal(kernel.value, numbers(quantizer(variable.value)))
