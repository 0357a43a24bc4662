"""Random numbers of roundings: new ones at each call, by a seed, and none in evaluation."""

import keras
import numpy as np
import pytest
from keras import ops

import lqs
from lqs.methods.noise import NoisyRounding
from lqs.methods.quant_noise import QuantNoise
from lqs.methods.stochastic_rounding import StochasticRounding

HALVES = np.full(100, 0.5, "float32")


def drawn(rounding):
    layer = lqs.NestedQuantization(rounding=rounding, initial_scale=1.0).copy()
    return [ops.convert_to_numpy(layer(HALVES, training=True)) for _ in range(2)]


@pytest.mark.parametrize("make", [lambda seed: StochasticRounding(seed), lambda seed: QuantNoise(0.5, seed)])
def test_seed_decides(make):
    (first, second), (same, _), (other, _) = (drawn(make(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, same) and np.any(first != second) and np.any(first != other)


def test_without_a_seed_each_copy_has_another():
    rounding = StochasticRounding()
    assert np.any(drawn(rounding)[0] != drawn(rounding)[0]) and rounding.get_config()["seed"] is None


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_numbers_are_from_zero_to_one_in_the_dtype_of_the_parameter(dtype):
    found = NoisyRounding(3).uniform(ops.zeros((50, 40), dtype))
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    values = ops.convert_to_numpy(found).astype("float64")
    assert values.shape == (50, 40) and values.min() >= 0 and values.max() <= 1
    assert abs(values.mean() - 0.5) < 5 / (12 * 2000) ** 0.5


@pytest.mark.parametrize("rounding", [StochasticRounding(5), QuantNoise(0.5, 5)])
@pytest.mark.parametrize("suffix", ["keras", "weights.h5", "lqs"])
def test_files_keep_the_state_of_the_seed(rounding, suffix, tmp_path):
    def drawn_by(model):
        return ops.convert_to_numpy(model.layers[0].kernel_quantizer(HALVES.reshape(10, 10), training=True))

    quantizer = lqs.NestedQuantization(rounding=rounding, initial_scale=1.0)
    model, other = (
        keras.Sequential([keras.Input((10,)), lqs.QuantDense(10, kernel_quantizer=quantizer)]) for _ in range(2)
    )
    drawn_by(model)
    path = tmp_path / f"model.{suffix}"
    if suffix == "weights.h5":
        model.save_weights(path)
        other.load_weights(path)
    else:
        (lqs.save if suffix == "lqs" else keras.Model.save)(model, path)
        other = (lqs.load if suffix == "lqs" else keras.models.load_model)(path)
    np.testing.assert_array_equal(drawn_by(other), drawn_by(model))
