"""Measures of a scale by hand, initial scales, and what becomes of a scale that is measured."""

import math
import warnings

import keras
import numpy as np
import pytest
from keras import ops

import lqs
import lqs.methods
from lqs.inspection import quantized_parameters
from lqs.rules import Measured
from lqs.scales import (
    MEASURES,
    MIN_SCALE,
    MinValue,
    is_large,
    log_of,
    max_scale,
    validate_initial_scale,
    validate_measure,
)

# Magnitudes by row: 6, 0, 3, 3, of mean 3 and threshold 2.1, and 8, 2, 1, 1, of mean 3 too. Highest level 4, root 2.
PARAMETER = np.array([[6.0, 0.0, -3.0, 3.0], [-8.0, 2.0, 1.0, -1.0]], "float32")
BY_HAND = {"max": [1.5, 2.0], "mean": [3.0, 3.0], "lsq": [3.0, 3.0], "ternary": [4.0, 8.0]}
BY_HAND["spread"] = [13.5**0.5 / 16, 17.5**0.5 / 16]  # means of squares of 54 / 4 and 70 / 4


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("name", MEASURES)
def test_by_hand(name):
    scale = MEASURES[name](ops.convert_to_tensor(PARAMETER), (1,), (-4, 4))
    np.testing.assert_allclose(numbers(scale), np.array(BY_HAND[name])[:, None], rtol=1e-6)
    zero = MEASURES[name](ops.zeros((3,)), (0,), (-4, 4))
    np.testing.assert_array_equal(numbers(zero), [0.0])


def test_large_elements():
    expected = [[True, False, True, True], [True, False, False, False]]
    assert numbers(is_large(ops.convert_to_tensor(PARAMETER), (1,))).tolist() == expected


def test_threshold_of_large_elements_is_seven_tenths_of_the_mean():
    """The mean magnitude is 10: 7 itself is not large, 7.01 is, next to 12.99."""
    assert numbers(is_large(np.array([7.0, 10.0, -13.0], "float32"), (0,))).tolist() == [False, True, True]
    assert numbers(is_large(np.array([-7.01, 10.0, 12.99], "float32"), (0,))).tolist() == [True, True, True]
    assert numbers(is_large(np.array([6.99, 10.0, 13.01], "float32"), (0,))).tolist() == [False, True, True]


def test_least_value():
    constraint = MinValue(0.5)
    assert numbers(constraint(np.array([-1.0, 0.5, 2.0], "float32"))).tolist() == [0.5, 0.5, 2.0]
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(constraint))
    assert again.minimum == 0.5
    half = constraint(ops.cast(np.array([-1.0]), "bfloat16"))
    assert keras.backend.standardize_dtype(half.dtype) == "bfloat16"


def test_logarithms_have_the_scales_as_exponentials(rng):
    scale = numbers(ops.exp(rng.uniform(-80, 80, (4, 5)).astype("float32")))
    assert log_of(scale).dtype == "float32" and log_of(scale).shape == (4, 5)
    np.testing.assert_array_equal(numbers(ops.exp(log_of(scale))), scale)


# Initial scales.


def test_default_is_the_least_scale_without_levels_and_the_largest_element_with():
    assert MIN_SCALE == 100 * 2.0**-23
    assert (validate_initial_scale(None, None), validate_initial_scale(None, (-2, 1))) == (MIN_SCALE, "max")
    assert lqs.NestedQuantization().initial_scale == MIN_SCALE
    assert lqs.NestedQuantization(bits=4).initial_scale == "max"


@pytest.mark.parametrize("value", [MIN_SCALE, 1, 0.25, "mean", "ternary", "spread"])
def test_good_initial_scale(value):
    assert validate_initial_scale(value, None) == value


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-6, 0.999 * MIN_SCALE, math.nan, math.inf, True, "1", [1.0], max])
def test_bad_initial_scale(value):
    message = r"^Argument `initial_scale` must be a finite number of at least 1.192e-05, or one of \('max', 'mean', "
    with pytest.raises(ValueError, match=message + r"'lsq', 'ternary', 'spread'\). Received: initial_scale="):
        lqs.NestedQuantization(initial_scale=value)


@pytest.mark.parametrize("value", ["exp", "Log", True, ["log"], math.log])
def test_bad_parametrization(value):
    message = r"Argument `parametrization` must be one of \('linear', 'log'\). Received: parametrization="
    with pytest.raises(ValueError, match=message):
        lqs.NestedQuantization(parametrization=value)


@pytest.mark.parametrize("bits", [None, 2])
def test_parametrization_by_default(bits):
    """As the thesis has it for unbounded integers; by the logarithm with `bits`, unless something else is said."""
    layer = lqs.NestedQuantization(bits=bits)
    assert layer.parametrization == ("linear" if bits is None else "log") == layer.copy().parametrization
    assert lqs.NestedQuantization(bits=bits, parametrization="linear").copy().parametrization == "linear"
    config = {key: value for key, value in layer.get_config().items() if key != "parametrization"}
    assert lqs.NestedQuantization.from_config(config).parametrization == "linear"  # of before there was another one


@pytest.mark.parametrize("seed", range(8))
def test_few_bits_do_not_fall_to_the_least_scale(seed):
    """With a learning rate above the scale; a linear scale is lost for half of these seeds, and for good."""
    rng = np.random.default_rng(seed)
    layer = lqs.NestedQuantization("row", lqs.StraightThrough(), rounding="nearest", bits=2)
    layer.build_for(keras.Variable(0.05 * rng.normal(size=(4, 4)).astype("float32")))
    optimizer = keras.optimizers.Adam(0.2)
    optimizer.build([layer.scale_weight])
    for _ in range(5):
        gradient = rng.normal(size=layer.scale_weight.shape).astype("float32")
        optimizer.apply_gradients([(keras.ops.convert_to_tensor(gradient), layer.scale_weight)])
    assert numbers(layer.scale).min() > 100 * MIN_SCALE


def test_measured_scale_is_no_logarithm():
    """By the exponential of a logarithm the largest element could lie beyond the highest level: without a gradient."""
    parameter = np.random.default_rng(0).uniform(-1, 1, (64, 9)).astype("float32")
    layer = built_for(parameter, initial_scale=None, granularity="row", rule=Measured("max"), parametrization="log")
    np.testing.assert_array_equal(numbers(layer.scale), numbers(max_scale(parameter, (1,), (-4, 3))))


@pytest.mark.parametrize("rounding", ["nearest", "floor"])
def test_largest_element_is_not_clipped_by_the_rounding_of_its_logarithm(rounding):
    parameter = np.random.default_rng(0).uniform(-1, 1, (256, 4)).astype("float32")
    layer = built_for(parameter, initial_scale="max", granularity="row", rounding=rounding)
    assert layer.parametrization == "log" and (np.abs(parameter / numbers(layer.scale)) <= 3).all()


def test_scale_that_was_assigned_before_the_first_call_stays():
    for parametrization in ("linear", "log"):
        layer = lqs.NestedQuantization(initial_scale="mean", parametrization=parametrization)
        layer.build((2,))
        layer.scale_weight.assign(layer.scale_weight_of(np.array([0.25], "float32")))
        assert numbers(layer(np.array([1.1, 2.1], "float32"))).tolist() == [1.0, 2.0]


def test_a_scale_that_no_logarithm_gives_is_stored_as_it_was_until_it_changes():
    """Of neighbouring float32 numbers near 0.01, few are the exponential of one: files keep their bytes."""
    layer = lqs.NestedQuantization("row", parametrization="log")
    layer.build((64, 2))
    scale = (np.float32(0.01) + np.arange(64, dtype="float32") * np.spacing(np.float32(0.01)))[:, None]
    layer.scale_weight.assign(layer.scale_weight_of(scale))
    assert np.any(ops.convert_to_numpy(layer.scale) != scale)
    np.testing.assert_array_equal(layer.exact_scale, scale)
    weight = np.array(ops.convert_to_numpy(layer.scale_weight))
    weight[::2] += 1
    layer.scale_weight.assign(weight)
    np.testing.assert_array_equal(layer.exact_scale[::2], ops.convert_to_numpy(layer.scale)[::2])
    np.testing.assert_array_equal(layer.exact_scale[1::2], scale[1::2])


# Weight decay.


@pytest.mark.parametrize("parametrization", ["linear", "log"])
@pytest.mark.parametrize("name", ["AdamW", "SGD", "Muon", "Lion"])
def test_weight_decay_leaves_scales_alone(name, parametrization):
    """In `fit`; the kernel decays."""
    prototype = lqs.NestedQuantization(rule=lqs.Frozen(), initial_scale=0.25, parametrization=parametrization)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_initializer="ones", use_bias=False)])
    model = lqs.quantize(model, prototype)
    decays = {"adam_weight_decay": 0.5} if name == "Muon" else {}
    model.compile(getattr(keras.optimizers, name)(0.1, weight_decay=0.5, **decays), lambda y, out: 0.0 * out)
    x = np.zeros((8, 4), "float32")
    model.fit(x, x[:, :3], batch_size=4, epochs=3, verbose=0)
    assert numbers(model.layers[0].kernel).max() < 0.9
    np.testing.assert_allclose(numbers(quantized_parameters(model)[0][1].scale), 0.25, rtol=1e-6)


def test_weight_decay_keeps_the_exclusions_of_the_user():
    layer = built_for(np.ones((2, 2), "float32"))
    excluded, decayed = keras.Variable(np.ones(2), name="mine"), keras.Variable(np.ones(2), name="other")
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["mine"])
    variables = [layer.scale_weight, excluded, decayed]
    optimizer.build(variables)
    optimizer.apply_gradients([(keras.ops.zeros(v.shape), v) for v in variables])
    assert [float(numbers(v).min()) for v in variables[1:]] == pytest.approx([1.0, 0.95])
    np.testing.assert_allclose(numbers(layer.scale), 0.5)


@pytest.mark.parametrize("name", ["max", "lsq"])
def test_measures_that_need_levels(name):
    message = f"^Argument `bits` must be given, for a scale by the measure '{name}'. Received: bits=None"
    for arguments in ({"rule": Measured(name)}, {"initial_scale": name}):
        with pytest.raises(ValueError, match=message):
            lqs.NestedQuantization(**arguments)
    validate_measure("measure", name, (-2, 1))


@pytest.mark.parametrize("name", ["mean", "ternary", "spread"])
def test_measures_that_do_not(name):
    validate_measure("measure", name, None)
    assert lqs.NestedQuantization(rule=Measured(name)).levels is None


@pytest.mark.parametrize("make", ["quantize", "layer", "by hand"])
@pytest.mark.parametrize("parametrization", ["linear", "log"])
def test_initial_scale_from_the_initial_values(make, parametrization):
    """LSQ's with 3 bits, of sixteen ones: 2 / sqrt(3)."""
    arguments = {"rule": lqs.StraightThrough(normalize=True), "rounding": "nearest", "bits": 3}
    quantizer = lqs.NestedQuantization(**arguments, initial_scale="lsq", parametrization=parametrization)
    if make == "quantize":
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, kernel_initializer="ones")])
        (_, quantizer), *_ = quantized_parameters(lqs.quantize(model, quantizer, None))
    elif make == "layer":
        layer = lqs.QuantDense(4, kernel_quantizer=quantizer, kernel_initializer="ones")
        layer.build((None, 4))
        quantizer = layer.kernel_quantizer
    else:
        quantizer(np.ones((4, 4), "float32"))
    assert quantizer.initial_scale == "lsq" and len(quantizer.trainable_variables) == 1
    np.testing.assert_allclose(numbers(quantizer.scale), [[2 / 3**0.5]], rtol=1e-6)


ZEROS = [("nearest", 4, "max", 0.25 / 7), ("floor", 2, "lsq", 0.25), ("nearest", None, "mean", 0.25)]


@pytest.mark.parametrize("parametrization", ["linear", "log"])
@pytest.mark.parametrize("rounding, bits, initial_scale, expected", ZEROS)
def test_learned_scale_of_zeros_reaches_a_quarter(rounding, bits, initial_scale, expected, parametrization):
    """Row 1 is not zero, and has its own scale."""
    arguments = {"rounding": rounding, "bits": bits, "initial_scale": initial_scale}
    layer = lqs.NestedQuantization("row", **arguments, parametrization=parametrization)
    parameter = np.array([[0.0, 0.0], [1.0, -1.0]], "float32")
    assert not numbers(layer(parameter))[0].any()
    highest = 1 if bits is None else 2 ** (bits - 1) - 1
    own = {"max": 1 / highest, "mean": 1, "lsq": 2 / highest**0.5}[initial_scale]
    np.testing.assert_allclose(numbers(layer.scale), [[expected], [own]], rtol=1e-6)


def test_least_scale_is_not_taken_for_one_of_zeros():
    layer = lqs.NestedQuantization(initial_scale="mean")
    layer(np.full(2, np.float32(MIN_SCALE)))
    assert float(numbers(layer.scale)[0]) == np.float32(MIN_SCALE)


def test_bias_of_zeros_can_grow(rng):
    """In training, under clipping: it has a gradient, and room to grow into."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = lqs.quantize(model, None, lqs.NestedQuantization(rule=lqs.StraightThrough(), rounding="nearest", bits=4))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = rng.normal(size=(16, 4)).astype("float32")
    model.fit(x, x[:, :3] + 2.0, batch_size=4, epochs=4, verbose=0)
    ((bias, quantizer),) = quantized_parameters(model)
    assert (numbers(bias) > 0.3).all() and (numbers(quantizer(bias.value)) > 0.1).all()


# Clipping.


def values(clipped, at, size=20):
    """Return elements, the first of which are at the given quotient of the scale 0.5, and the others at 1."""
    return np.where(np.arange(size) < clipped, 0.5 * at, 0.5).astype("float32")


def built_for(parameter, bits=3, initial_scale=0.5, **arguments):
    layer = lqs.NestedQuantization(bits=bits, initial_scale=initial_scale, **arguments)
    layer.build_for(keras.Variable(parameter))
    return layer


# Levels -4 to 3: what is beyond -4.5 or 4, the end of the highest bin of the floor, counts.
@pytest.mark.parametrize("at", [4.1, -4.6])
def test_much_that_is_clipped_is_warned_of(at):
    message = (
        r"^10% of a parameter of the shape \(20,\) lie beyond the levels -4 to 3 at the scale 0.5, and are clipped. "
    )
    with pytest.warns(UserWarning, match=message + "Give another `initial_scale`, such as 'spread', or leave"):
        built_for(values(2, at))


@pytest.mark.parametrize("bits", [None, 3])
def test_parameter_that_becomes_zero_is_warned_of(bits):
    message = r"^All elements of a parameter of the shape \(4,\) are at most a tenth of their scale, and become"
    with pytest.warns(UserWarning, match=message):
        built_for(np.full(4, 1e-6, "float32"), bits)
    with warnings.catch_warnings(action="error", category=UserWarning):
        built_for(np.zeros(4, "float32"), bits)
        built_for(np.array([0.01, 0.1], "float32"), bits)


def test_much_is_more_than_a_twentieth():
    with pytest.warns(UserWarning, match="^5% of a parameter"):
        built_for(values(1, 4.1, size=19))
    with warnings.catch_warnings(action="error", category=UserWarning):
        built_for(values(1, 4.1, size=21))


@pytest.mark.parametrize("clipped, at", [(20, 4.0), (20, -4.5)])
@pytest.mark.parametrize("parametrization", ["linear", "log"])
def test_little_that_is_clipped_is_not(clipped, at, parametrization):
    with warnings.catch_warnings(action="error", category=UserWarning):
        built_for(values(clipped, at * (1 - 1e-6)), parametrization=parametrization)


@pytest.mark.parametrize(
    "name, arguments", [("lq_nets", {"bits": 2}), ("twn", {"rule": lqs.Frozen()}), ("dorefa", {"bits": 2})]
)
def test_nothing_is_clipped_where_the_scale_is_a_unit(name, arguments):
    layer = lqs.methods.get(name)(**arguments, initial_scale=0.01)
    with warnings.catch_warnings(action="error", category=UserWarning):
        layer.build_for(keras.Variable(values(9, 9.0)))


def test_nothing_is_clipped_without_levels_or_with_a_measure():
    with warnings.catch_warnings(action="error", category=UserWarning):
        built_for(values(20, 9.0), bits=None)
        built_for(values(20, 9.0), initial_scale="mean", rule=Measured("mean"))


@pytest.mark.parametrize("rounding, error", [("floor", 1.0), ("nearest", 0.5)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_bits_alone_give_a_scale_that_fits(bits, rounding, error, rng):
    """Right after `quantize`, parameters differ from those of the float network by a step at most."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)])
    quantizer = lqs.NestedQuantization("row", rounding=rounding, bits=bits)
    for variable, layer in quantized_parameters(lqs.quantize(model, quantizer, None)):
        kernel, scale = numbers(variable), numbers(layer.scale)
        np.testing.assert_allclose(scale, np.abs(kernel).max(1, keepdims=True) / (2 ** (bits - 1) - 1), rtol=2e-6)
        assert np.all(np.abs(numbers(layer(variable.value)) - kernel) <= scale * (error + 1e-5))


# Scales that are measured.


@pytest.mark.parametrize("parametrization", ["linear", "log"])
def test_scale_is_measured_in_training_alone(parametrization):
    """With 3 bits the highest integer is 3: scales 2 and 8/3; half of the parameter has half of the scales."""
    layer = lqs.NestedQuantization("row", Measured("max"), None, "nearest", 3, parametrization=parametrization)
    layer.build_for(keras.Variable(PARAMETER))
    assert not layer.trainable_variables and not layer.is_scale_learned
    expected = np.array([[2.0], [8 / 3]])
    np.testing.assert_allclose(numbers(layer.scale), expected, rtol=1e-6)
    output = numbers(layer(PARAMETER / 2, training=True))
    np.testing.assert_allclose(numbers(layer.scale), expected / 2, rtol=1e-6)
    np.testing.assert_allclose(output[0], [3, 0, -2, 2], rtol=1e-6)  # 1.5 to 2, the even one
    layer(PARAMETER)
    layer.integers(PARAMETER)
    np.testing.assert_allclose(numbers(layer.scale), expected / 2, rtol=1e-6)


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras.layers.Dense(3)

    def build(self, input_shape):
        self.inner.build(input_shape)

    def call(self, inputs, training=None):
        return self.inner(inputs)


def sequential():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])


@pytest.mark.parametrize("make", [sequential, Subclassed])
def test_scale_is_measured_by_fit(make, rng):
    """Before the last step, of whose update it knows nothing; so it is with the whole of the training."""
    model, x = make(), rng.normal(size=(8, 4)).astype("float32")
    model.build((None, 4))
    model = lqs.quantize(model, lqs.NestedQuantization(rule=Measured("max"), rounding="nearest", bits=4), None)
    model.compile(keras.optimizers.SGD(0.3), "mse")
    ((kernel, quantizer),) = quantized_parameters(model)
    model.fit(x, 1 + x[:, :3], batch_size=8, verbose=0)
    before = np.abs(numbers(kernel)).max()
    model.fit(x, 1 + x[:, :3], batch_size=8, verbose=0)
    np.testing.assert_allclose(numbers(quantizer.scale), [[before / 7]], rtol=1e-6)


def test_learned_scale_is_not_measured_in_training():
    layer = lqs.NestedQuantization("row", lqs.Frozen(), bits=3)
    layer.build_for(keras.Variable(PARAMETER))
    layer(PARAMETER / 2, training=True)
    np.testing.assert_allclose(numbers(layer.scale), [[2.0], [8 / 3]], rtol=2e-6)
    assert layer.is_scale_learned


@pytest.mark.parametrize("parametrization", ["linear", "log"])
def test_measured_scale_is_a_constant_to_the_penalty(parametrization, gradients):
    """The term 1 / s would have the gradient of the largest element otherwise."""
    arguments = {"bits": 3, "parametrization": parametrization}
    layer = lqs.NestedQuantization("row", Measured("max"), lqs.InversePenalty(1.0), "nearest", **arguments)
    layer.build_for(keras.Variable(PARAMETER))
    (gradient,) = gradients(layer, PARAMETER, np.ones_like(PARAMETER), [], training=True)
    np.testing.assert_array_equal(gradient, np.ones_like(PARAMETER))


def test_measured_scale_of_zeros_is_the_least():
    layer = lqs.NestedQuantization(rule=Measured("mean"))
    layer.build_for(keras.Variable(np.zeros(3, "float32")))
    assert float(numbers(layer.scale)[0]) == np.float32(MIN_SCALE)


def test_configuration_round_trip():
    layer = lqs.NestedQuantization(rule=Measured("ternary"), initial_scale="mean")
    copy = layer.copy()
    assert copy.rule.measure == "ternary" and copy.rule is not layer.rule and copy.initial_scale == "mean"


# Parameters that are small, but not 0.


@pytest.mark.parametrize("size, scale", [(1e-2, 1e-2 / 127), (1e-3, MIN_SCALE), (2e-4, MIN_SCALE)])
def test_scale_of_a_small_parameter_is_not_that_of_zeros(size, scale):
    """Down to the least scale it follows from the parameter, and the parameter stays within a step."""
    parameter = np.full(4, size, "float32")
    layer = built_for(parameter, bits=8, initial_scale=None, rounding="nearest")
    np.testing.assert_allclose(numbers(layer.scale), [scale], rtol=1e-5)
    assert np.abs(numbers(layer(parameter)) - parameter).max() <= scale


@pytest.mark.parametrize("arguments", [{"bits": 8, "initial_scale": None}, {"bits": None, "initial_scale": "spread"}])
def test_parameter_that_no_scale_holds_is_warned_of(arguments):
    with pytest.warns(
        UserWarning, match=r"^All elements of a parameter of the shape \(4,\) are at most a tenth of their"
    ):
        built_for(np.full(4, 1e-6, "float32"), rounding="nearest", **arguments)
