"""The nested layer: forward and gradients against NumPy, constraint, training step, save and load, errors."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import ops
from models import IS_JAX
from oracles import drawn, fisher_by_loops, grouped, ratio_by_loops, straight_by_loops

import lqs
from lqs.inspection import quantized_parameters
from lqs.rules import FisherInformation
from lqs.scales import MIN_SCALE

GRANULARITIES = [
    ("scalar", (5,), ()),
    ("scalar", (4, 3), ()),
    ("row", (4, 3), (0,)),
    ("column", (4, 3), (1,)),
    ((0, -1), (4, 3), (0, 1)),
    ("row", (3, 2, 4, 5), (0,)),
    ("column", (3, 2, 4, 5), (1,)),
    ("channel", (3, 2, 4, 5), (2,)),
    ("filter", (3, 2, 4, 5), (3,)),
    ((-2, -1), (3, 2, 4, 5), (2, 3)),
]
THRESHOLD = 0.2
RULES = {
    "ratio": lqs.GradientRatio(THRESHOLD),
    "ratio stalled": lqs.GradientRatio(THRESHOLD, update_stalled=True),
    "fisher": FisherInformation(THRESHOLD),
    "straight": lqs.StraightThrough(),
    "straight normalized": lqs.StraightThrough(normalize=True),
    "frozen": lqs.Frozen(),
}


def built(shape, scale, granularity="scalar", **arguments):
    """Return a copy of a layer, so that rules may be shared, with a scale or its logarithm."""
    layer = lqs.NestedQuantization(granularity, **{"initial_scale": 5.0, **arguments}).copy()
    layer.build(shape)
    layer.scale_weight.assign(np.broadcast_to(scale, layer.scale_weight.shape))
    return layer


def rounded(parameter, scale, rounding):
    quotient = parameter.astype("float64") / scale
    return np.floor(quotient) if rounding == "floor" else np.floor(quotient + 0.5)


def expected_scale_gradient(rule, upstream, parameter, integers, scale, varying, levels):
    if rule.startswith("ratio"):
        return ratio_by_loops(upstream, integers, scale, varying, THRESHOLD, rule.endswith("stalled"))
    if rule == "fisher":
        return fisher_by_loops(upstream, parameter, integers, scale, varying, THRESHOLD)
    if rule == "frozen":
        return np.zeros(scale.shape)
    gradient = straight_by_loops(upstream, parameter, integers, scale, varying, levels)
    num_sharing = len(grouped(upstream.shape, varying)[(0,) * upstream.ndim])
    highest = 1 if levels is None else levels[1]
    return gradient / math.sqrt(num_sharing * highest) if rule.endswith("normalized") else gradient


def check(gradients, shape, granularity, varying, rounding, rule, bits=None, seed=0, parametrization="linear"):
    upstream, parameter, _, scale = drawn(shape, varying, seed)
    parameter += np.where(np.abs(parameter / scale % 1 - 0.5) < 0.05, 0.1 * scale, 0).astype("float32")  # no half
    levels = None if bits is None else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    integers, inside = rounded(parameter, scale, rounding), np.ones(shape, bool)
    if bits is not None:
        quotient = parameter / scale
        inside = (levels[0] <= quotient) & (quotient <= levels[1] + (rounding == "floor"))
        integers = np.clip(integers, *levels)
    is_log = parametrization == "log"
    arguments = {"rounding": rounding, "bits": bits, "parametrization": parametrization}
    layer = built(shape, np.log(scale) if is_log else scale, granularity, rule=RULES[rule], **arguments)
    np.testing.assert_allclose(ops.convert_to_numpy(layer(parameter)), integers * scale, rtol=1e-5)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.integers(parameter)), integers)
    parameter_gradient, scale_gradient = gradients(layer, parameter, upstream)
    np.testing.assert_array_equal(parameter_gradient, np.where(inside, upstream, 0))
    assert scale_gradient.shape == scale.shape
    expected = expected_scale_gradient(rule, upstream, parameter, integers, scale, varying, levels)
    expected *= scale if is_log else 1  # ds / dlog(s) = s
    np.testing.assert_allclose(scale_gradient, expected, rtol=1e-3, atol=1e-5)


# Rules of all granularities are in `test_rules.py`; here each of both is there once.
@pytest.mark.parametrize("granularity, shape, varying", GRANULARITIES)
def test_gradients(granularity, shape, varying, gradients):
    rounding = "nearest" if granularity == "channel" else "floor"
    check(gradients, shape, granularity, varying, rounding, "straight normalized")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("rounding", ["floor", "nearest"])
def test_gradients_of_any_rule(rounding, rule, gradients):
    check(gradients, (4, 6), "row", (0,), rounding, rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bits, rounding", [(2, "nearest"), (3, "nearest"), (3, "floor")])
def test_gradients_where_clipped(bits, rounding, rule, gradients):
    check(gradients, (4, 6), "row", (0,), rounding, rule, bits)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("rounding, bits", [("floor", None), ("nearest", 3)])
def test_gradients_of_the_logarithm(rounding, bits, rule, gradients):
    check(gradients, (4, 6), "row", (0,), rounding, rule, bits, parametrization="log")


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
    rounding=st.sampled_from(["floor", "nearest"]),
    rule=st.sampled_from(sorted(RULES)),
    bits=st.sampled_from([None, 3]),
    parametrization=st.sampled_from(["linear", "log"]),
    data=st.data(),
)
def test_gradients_of_any_shape(shape, rounding, rule, bits, parametrization, data, gradients):
    varying = tuple(data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True)))
    granularity = tuple(data.draw(st.sampled_from([axis, axis - len(shape)])) for axis in varying)
    check(gradients, shape, granularity, varying, rounding, rule, bits, data.draw(st.integers(0, 99)), parametrization)


@pytest.mark.parametrize("parametrization", ["linear", "log"])
@pytest.mark.parametrize("rule", RULES)
def test_integers_after_a_step_of_training_are_the_same_on_every_backend(rule, parametrization, rng):
    """They are those of a step by NumPy, but next to a bound between two, where the last bit decides."""
    _, parameter, integers, scale = drawn((12, 8), (0,))
    x, y, is_log, rate = rng.normal(size=(32, 12)), rng.normal(size=(32, 8)), parametrization == "log", 0.1
    model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(8, use_bias=False)])
    model = lqs.quantize(model, lqs.NestedQuantization("row", RULES[rule], parametrization=parametrization), None)
    ((kernel, quantizer),) = quantized_parameters(model)
    kernel.assign(parameter)
    quantizer.scale_weight.assign(np.log(scale) if is_log else scale)
    model.compile(keras.optimizers.SGD(rate), "mse", jit_compile=IS_JAX)
    model.fit(x, y, batch_size=32, verbose=0)

    upstream = x.T @ (2 * (x @ (integers * scale) - y) / y.size)
    gradient = expected_scale_gradient(rule, upstream, parameter, integers, scale, (0,), None)
    stepped = scale * np.exp(-rate * gradient * scale) if is_log else np.maximum(scale - rate * gradient, MIN_SCALE)
    ratio = (parameter - rate * upstream) / stepped
    is_clear = np.abs(ratio - np.round(ratio)) > 1e-4 * np.maximum(1, np.abs(ratio))
    assert is_clear.mean() > 0.9 and np.any(np.floor(ratio) != integers)
    found = ops.convert_to_numpy(quantizer.integers(kernel.value))
    np.testing.assert_array_equal(found[is_clear], np.floor(ratio)[is_clear])
    np.testing.assert_allclose(ops.convert_to_numpy(quantizer.scale), stepped, rtol=1e-5)


@pytest.mark.parametrize("parametrization, expected", [("linear", 2 * (1 - 1.5)), ("log", 0.5 * 2 * (1 - 1.5))])
def test_rank_zero(parametrization, expected, gradients):
    layer = lqs.NestedQuantization(rule=lqs.StraightThrough(), initial_scale=0.5, parametrization=parametrization)
    layer.build(())
    parameter_gradient, scale_gradient = gradients(layer, np.float32(0.75) + np.zeros((), "float32"), np.float32(2))
    assert parameter_gradient == 2 and scale_gradient == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_zero_parameters(rule, gradients):
    layer = built((3, 2), 0.3, rule=RULES[rule])
    zero, upstream = np.zeros((3, 2), "float32"), np.arange(6, dtype="float32").reshape(3, 2)
    np.testing.assert_array_equal(ops.convert_to_numpy(layer(zero)), zero)
    parameter_gradient, scale_gradient = gradients(layer, zero, upstream)
    np.testing.assert_array_equal(parameter_gradient, upstream)
    np.testing.assert_array_equal(scale_gradient, [[0.0]])


def test_initial_scale_and_constraint():
    """After a step that would make scales negative they stand at 100 * 2**-23; others move freely."""
    layer = built((2, 2), [[1e-3], [0.5]], "row")
    assert lqs.NestedQuantization().copy().initial_scale == 100 * 2.0**-23
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.build([layer.scale])
    optimizer.apply([ops.convert_to_tensor(np.array([[1.0], [0.125]], "float32"))], [layer.scale])
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.scale), np.array([[100 * 2.0**-23], [0.375]], "float32"))


def test_constraint_of_the_logarithm():
    """A step of any size leaves a scale of 100 * 2**-23; another changes a scale by a factor."""
    layer = lqs.NestedQuantization("row", initial_scale=0.5, parametrization="log")
    layer.build((2, 2))
    assert [weight.name for weight in layer.trainable_weights] == ["log_scale"]
    np.testing.assert_allclose(ops.convert_to_numpy(layer.scale), [[0.5], [0.5]], rtol=1e-6)
    optimizer = keras.optimizers.SGD(1.0)
    optimizer.build(layer.trainable_variables)
    step = ops.convert_to_tensor(np.array([[1e9], [math.log(4)]], "float32"))
    optimizer.apply([step], layer.trainable_variables)
    np.testing.assert_allclose(ops.convert_to_numpy(layer.scale), [[100 * 2.0**-23], [0.125]], rtol=2e-6)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    shape=st.sampled_from([(), (5,), (4, 3), (2, 3, 2, 4)]),
    rounding=st.sampled_from(["floor", "nearest"]),
    bits=st.sampled_from([None, 4]),
    data=st.data(),
)
def test_logarithm_has_the_same_output_at_the_same_scale(shape, rounding, bits, data):
    granularity = tuple(range(data.draw(st.integers(0, len(shape)))))
    layers = [
        built(shape, 1.0, granularity, rounding=rounding, bits=bits, parametrization=parametrization)
        for parametrization in ("log", "linear")
    ]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    layers[0].scale_weight.assign(rng.uniform(-11, 3, layers[0].scale_weight.shape))
    layers[1].scale.assign(layers[0].scale)
    parameter = rng.normal(size=shape).astype("float32")
    for call in (lambda layer: layer(parameter), lambda layer: layer.integers(parameter)):
        np.testing.assert_array_equal(*[ops.convert_to_numpy(call(layer)) for layer in layers])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    weights=arrays(
        "float32",
        st.sampled_from([(), (16,), (4, 4)]),
        elements=st.floats(-87, 88, width=32) | st.floats(-1, 1, width=32) | st.floats(-(2**-20), 2**-20, width=32),
    )
)
def test_weight_of_a_scale_gives_it_back_bit_for_bit(weights):
    """For every scale that some weight has; 87 is about where float32 ends."""
    layer = lqs.NestedQuantization(tuple(range(weights.ndim)), parametrization="log")
    layer.build(weights.shape)
    layer.scale_weight.assign(weights)
    scale = np.asarray(ops.convert_to_numpy(layer.scale))
    layer.scale_weight.assign(np.zeros(weights.shape))
    layer.scale_weight.assign(layer.scale_weight_of(scale))
    np.testing.assert_array_equal(ops.convert_to_numpy(layer.scale), scale)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(scale=arrays("float32", (7,), elements=st.floats(2**-120, 2.0**120, width=32)))
def test_weight_of_any_scale(scale):
    """A step of `log s` changes `s` by a factor: the nearest one is within half of it, and a bit of `exp`."""
    layer = lqs.NestedQuantization((0,), parametrization="log")
    layer.build(scale.shape)
    weight = layer.scale_weight_of(scale)
    assert weight.dtype == "float32" and weight.shape == scale.shape
    layer.scale_weight.assign(weight)
    step = np.spacing(np.abs(weight)).astype("float64")
    error = np.abs(ops.convert_to_numpy(layer.scale) / scale.astype("float64") - 1)
    assert np.all(error <= step / 2 + 1.5 * 2.0**-23)


def test_weight_of_a_scale_is_the_scale_itself_by_default(rng):
    scale = rng.uniform(0.1, 1, (3, 1)).astype("float32")
    layer = lqs.NestedQuantization("row")
    layer.build((3, 2))
    assert layer.scale_weight_of(scale) is scale and layer.scale is layer.scale_weight


def network(**arguments):
    quantizer = lqs.NestedQuantization(**arguments)
    model = keras.Sequential([keras.Input((4,)), lqs.QuantDense(3, kernel_quantizer=quantizer)])
    return model, model.layers[0].kernel_quantizer


def data(rng):
    return rng.normal(size=(16, 4)).astype("float32"), rng.normal(size=(16, 3)).astype("float32")


@pytest.mark.parametrize("granularity", ["scalar", "row", "column", (0, 1)])
def test_one_training_step_moves_the_scale_up(granularity, rng):
    model, quantizer = network(granularity=granularity, rule=lqs.GradientRatio(10.0))
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    before = ops.convert_to_numpy(quantizer.scale)
    model.fit(*data(rng), batch_size=16, verbose=0)
    # Adam's first step is the learning rate wherever the gradient is not 0.
    np.testing.assert_allclose(ops.convert_to_numpy(quantizer.scale) - before, 1e-3, rtol=0.01)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_one_training_step_moves_the_logarithm_up(policy, rng):
    keras.config.set_dtype_policy(policy)
    arguments = {"rule": lqs.GradientRatio(10.0), "initial_scale": 0.01, "parametrization": "log"}
    model, quantizer = network(granularity="row", **arguments)
    model.compile(keras.optimizers.Adam(0.125), "mse")
    model.fit(*data(rng), batch_size=16, verbose=0)
    assert quantizer.scale_weight.dtype == "float32"
    np.testing.assert_allclose(ops.convert_to_numpy(quantizer.scale), 0.01 * math.exp(0.125), rtol=1e-4)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="reads are operations of TensorFlow's graphs")
@pytest.mark.parametrize(
    "parametrization, penalty",
    [("linear", None), ("log", lqs.CodeLengthPenalty(1)), ("linear", lqs.DifferencePenalty(1))],
)
@pytest.mark.parametrize("rule", RULES)
def test_variables_are_read_once(rule, parametrization, penalty):
    """A second read, used by the backward pass alone, may come after the optimizer's update of the variable."""
    import tensorflow as tf

    layer = lqs.NestedQuantization("row", RULES[rule], penalty, initial_scale=0.5, parametrization=parametrization)
    layer.build((4, 3))
    parameter = keras.Variable(np.ones((4, 3), "float32"))
    variables = [parameter.value, layer.scale_weight.value]

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(variables[0]) ** 2) + sum(layer.losses)
        return tape.gradient(loss, variables)

    graph = gradients.get_concrete_function().graph
    reads = [id(op.inputs[0]) for op in graph.get_operations() if op.type == "ReadVariableOp"]
    captures = {id(outer): id(inner) for outer, inner in graph.captures}
    assert [reads.count(captures[id(variable.handle)]) for variable in variables] == [1, 1]


def test_assigning_the_threshold_takes_effect_without_recompiling(rng):
    model, quantizer = network(rule=lqs.GradientRatio(0.0))
    model.compile(keras.optimizers.Adam(1e-3, beta_1=0.0), "mse")
    scales = [float(ops.convert_to_numpy(quantizer.scale).squeeze())]
    functions = []
    for threshold in (0.0, 10.0, 0.0):
        quantizer.rule.threshold.assign(threshold)
        model.fit(*data(rng), batch_size=16, verbose=0)
        scales.append(float(ops.convert_to_numpy(quantizer.scale).squeeze()))
        functions.append(model.train_function)
    assert scales[0] == scales[1] < scales[2] == scales[3]
    assert functions[0] is functions[1] is functions[2]


@pytest.mark.parametrize(
    "rule, rounding, bits", [(rule, *[("floor", None), ("nearest", 4)][i % 2]) for i, rule in enumerate(RULES)]
)
def test_save_and_load(rule, rounding, bits, rng, reload):
    model, quantizer = network(granularity="row", rule=RULES[rule], rounding=rounding, bits=bits)
    quantizer.scale_weight.assign(quantizer.scale_weight_of(rng.uniform(0.05, 0.3, (4, 1)).astype("float32")))
    if rule.startswith("ratio"):
        quantizer.rule.threshold.assign(0.125)
    again = reload(model)
    loaded = again.layers[0].kernel_quantizer
    assert (loaded.granularity, loaded.rounding, loaded.bits) == ("row", rounding, bits)
    assert type(loaded.rule) is type(RULES[rule])
    for before, after in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(after), ops.convert_to_numpy(before))
    inputs, _ = data(rng)
    np.testing.assert_array_equal(ops.convert_to_numpy(again(inputs)), ops.convert_to_numpy(model(inputs)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_save_and_load_the_logarithm(dtype, rng, reload):
    keras.config.set_dtype_policy(dtype)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = lqs.quantize(model, lqs.NestedQuantization("row", rounding="nearest", parametrization="log"))
    (_, quantizer), _ = quantized_parameters(model)
    quantizer.scale_weight.assign(rng.uniform(-9, 1, (4, 1)))
    again = reload(model)
    (_, loaded), _ = quantized_parameters(again)
    assert loaded.parametrization == "log"
    for before, after in ((quantizer.scale_weight, loaded.scale_weight), (quantizer.scale, loaded.scale)):
        np.testing.assert_array_equal(*[ops.convert_to_numpy(ops.cast(value, "float32")) for value in (before, after)])
    inputs, _ = data(rng)
    outputs = [ops.convert_to_numpy(ops.cast(instance(inputs), "float32")) for instance in (again, model)]
    np.testing.assert_array_equal(*outputs)


def test_configuration_names_the_parametrization_only_where_it_is_not_linear():
    assert "parametrization" not in lqs.NestedQuantization().get_config()
    assert "parametrization" not in lqs.NestedQuantization(parametrization="linear").get_config()
    layer = lqs.NestedQuantization(parametrization="log")
    assert layer.get_config()["parametrization"] == "log" == layer.copy().parametrization
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()


def test_configuration_round_trip():
    layer = lqs.NestedQuantization(
        (0, -1), lqs.GradientRatio(0.5, True), lqs.InversePenalty(0.25), "nearest", 5, 0.125, name="nested"
    )
    config = layer.get_config()
    again = lqs.NestedQuantization.from_config(config)
    assert again.get_config() == config and again.granularity == (0, -1) and again.levels == (-16, 15)
    assert again.rule is not layer.rule and again.penalty is not layer.penalty
    copy = layer.copy()
    assert not copy.built and copy.rule is not layer.rule
    assert {**copy.get_config(), "name": 0} == {**config, "name": 0}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_other_precisions(dtype, rng):
    """Output and integers agree, in the precision of the parameter."""
    parameter = ops.cast(rng.normal(size=(4, 3)).astype("float32"), dtype)
    layer = built((4, 3), 0.0123, rounding="nearest", dtype=dtype)
    output = layer(parameter)
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    integers, scale = ops.cast(layer.integers(parameter), dtype), ops.cast(layer.scale, dtype)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(ops.cast(output, "float32")), ops.convert_to_numpy(ops.cast(integers * scale, "float32"))
    )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_full_precision(policy, rng):
    parameter = rng.normal(size=(4, 3)).astype("float32")
    outputs = [
        ops.convert_to_numpy(built((4, 3), 0.0123, rounding="nearest", dtype=dtype)(parameter))
        for dtype in (policy, "float32")
    ]
    assert outputs[0].dtype == "float32"
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("dtype", ["int32", "bool", "uint8"])
def test_parameter_must_be_float(dtype):
    layer = lqs.NestedQuantization()
    for call in (layer, layer.integers):
        with pytest.raises(ValueError, match=f"`parameter` must be of a float dtype. Received: dtype={dtype}"):
            call(np.ones((2, 2), dtype))


# Initial values, from those of the parameter.

BY_MAXIMUM = {"rule": lqs.Frozen(), "rounding": "nearest", "bits": 4, "initial_scale": "max"}


def by_maximum(**changes):
    return lqs.NestedQuantization(**{**BY_MAXIMUM, **changes}).copy()


def has_scale_of(quantizer, parameter):
    """Return whether the highest of 7 levels is the largest element."""
    largest = np.abs(ops.convert_to_numpy(parameter)).max()
    return np.allclose(ops.convert_to_numpy(quantizer.scale), largest / 7, rtol=2e-6, atol=0)


@pytest.mark.parametrize("first", ["__call__", "integers"])
@pytest.mark.parametrize("parametrization", ["linear", "log"])
def test_first_call_by_hand_gives_the_scale_and_others_leave_it(parametrization, first, rng):
    parameter = rng.normal(0, 0.5, (6, 4)).astype("float32")
    layer = by_maximum(parametrization=parametrization)
    getattr(layer, first)(parameter)
    assert has_scale_of(layer, parameter)
    assert np.abs(ops.convert_to_numpy(layer(parameter)) - parameter).max() <= np.abs(parameter).max() / 14 + 1e-6
    layer(2 * parameter)
    layer.integers(2 * parameter)
    assert has_scale_of(layer, parameter)


def test_build_for_a_variable_gives_the_scale(rng):
    variable = keras.Variable(rng.normal(size=(6, 4)).astype("float32"))
    layer = by_maximum()
    layer.build_for(variable)
    assert layer.built and has_scale_of(layer, variable)
    layer(2 * variable.value)
    assert has_scale_of(layer, variable)


def test_scale_that_was_loaded_stays(rng):
    source, target = by_maximum(), by_maximum()
    parameter, store = rng.normal(size=(6, 4)).astype("float32"), {}
    source(parameter)
    source.save_own_variables(store)
    target.build((6, 4))
    target.load_own_variables({key: ops.convert_to_numpy(value) for key, value in store.items()})
    target(2 * parameter)
    assert has_scale_of(target, parameter)


def test_in_a_stateless_call_there_is_no_initial_value_yet(rng):
    """The layer is built, and takes the scale of the first values that it sees after it."""
    parameter = rng.normal(size=(6, 4)).astype("float32")
    layer = by_maximum()
    with keras.StatelessScope():
        variable = keras.Variable(keras.initializers.Constant(3.0), shape=(6, 4))
        layer.build_for(variable)
    assert layer.built and layer.scale.shape == (1, 1)
    layer(parameter)
    assert has_scale_of(layer, parameter)


class Outer(keras.layers.Layer):
    """Has no `build`: Keras makes the variables of the layer inside in a stateless call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = lqs.QuantDense(3, kernel_quantizer=by_maximum())

    def call(self, inputs):
        return self.inner(inputs)


@pytest.mark.parametrize("in_model", [False, True])
def test_layers_inside_of_those_without_build(in_model, rng):
    outer, (x, y) = Outer(), data(rng)
    model = keras.Sequential([keras.Input((4,)), outer]) if in_model else outer
    model(x)
    assert has_scale_of(outer.inner.kernel_quantizer, outer.inner.kernel)
    if in_model:
        model.compile(keras.optimizers.SGD(1e-3), "mse")
        model.fit(x, y, verbose=0)  # it goes on


@pytest.mark.once
def test_training_before_the_first_call_is_refused(rng):
    """But on PyTorch, where the first step is no trace, and its scale is that of the parameter."""
    model = keras.Sequential([keras.Input((4,)), Outer()])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    if keras.backend.backend() == "torch":
        model.fit(*data(rng), verbose=0)
        inner = model.layers[0].inner
        largest = np.abs(ops.convert_to_numpy(inner.kernel)).max()
        assert ops.convert_to_numpy(inner.kernel_quantizer.scale).item() == pytest.approx(largest / 7)
        return
    with pytest.raises(ValueError, match="computes its first scale from the values of its parameter, of the shape"):
        model.fit(*data(rng), verbose=0)


@pytest.mark.parametrize("initial_scale", ["max", "lsq", 0.25])
def test_clone_has_scales_that_fit_its_own_weights(initial_scale, rng):
    """As tuners and cross-validation make it: weights are drawn anew, and scales follow."""
    layers = [keras.layers.Dense(50, "relu"), keras.layers.Dense(2)]
    prototype = by_maximum(initial_scale=initial_scale)
    model = lqs.quantize(keras.Sequential([keras.Input((4,)), *layers]), prototype, None)
    clone = keras.models.clone_model(model)
    for (variable, quantizer), (ours, _) in zip(quantized_parameters(clone), quantized_parameters(model), strict=True):
        assert np.any(ops.convert_to_numpy(variable) != ops.convert_to_numpy(ours))
        fresh = by_maximum(initial_scale=initial_scale)
        fresh.build_for(variable)
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (quantizer.scale, fresh.scale)))
    assert 0.1 < float(ops.std(clone(data(rng)[0])) / ops.std(model(data(rng)[0]))) < 10


class Unrounded(lqs.Rounding):
    """Leaves the quotients as they are, and these have a gradient."""

    def integers(self, parameter, scale):
        return parameter / scale


@pytest.mark.parametrize("training", [False, True])
def test_integers_are_constants(training, gradients):
    """The parameter has the gradient of the rounding alone, and the scale that of the rule."""
    layer = lqs.NestedQuantization(rule=lqs.Frozen(), rounding=Unrounded(), initial_scale=0.5)
    upstream = np.array([1.0, 2.0, 4.0], "float32")
    of_parameter, of_scale = gradients(layer, np.array([0.1, -0.7, 3.0], "float32"), upstream, training=training)
    assert of_parameter.tolist() == upstream.tolist() and of_scale.tolist() == [0]


# Files.


# The kernel is within 0.29 of 0.
@pytest.mark.parametrize("rounding, scale", [("floor", 0.16), ("floor", "max"), ("nearest", "lsq"), ("nearest", "max")])
def test_loading_freezes_nothing(rounding, scale, gradients, tmp_path):
    """What `load` puts on the outermost levels has a gradient, as it had before."""
    prototype = lqs.NestedQuantization(rule=lqs.StraightThrough(), rounding=rounding, bits=2, initial_scale=scale)
    model = lqs.quantize(keras.Sequential([keras.Input((20,)), keras.layers.Dense(50)]), prototype, None)
    lqs.save(model, tmp_path / "model.lqs")
    integers = []
    for instance in (model, lqs.load(tmp_path / "model.lqs")):
        ((variable, quantizer),) = quantized_parameters(instance)
        parameter = ops.convert_to_numpy(variable)
        gradient, _ = gradients(quantizer, parameter, np.ones_like(parameter))
        assert (gradient == 1).all()
        integers.append(ops.convert_to_numpy(quantizer.integers(parameter)))
    np.testing.assert_array_equal(*integers)
    assert scale == "max" or {-1, 1} <= set(integers[0].ravel()) <= {-2, -1, 0, 1}


# Shares.


@pytest.mark.parametrize("share, expected", [(None, 1.0), (0.25, 0.25), (0.0, 0.0)])
def test_share_of_the_penalty(share, expected):
    layer = built((2, 2), 0.5, penalty=lqs.InversePenalty(0.5), share=share)
    layer(np.ones((2, 2), "float32"))
    assert float(sum(layer.losses)) == expected  # 0.5 / 0.5, times the share
    assert layer.get_config().get("share") == share == layer.copy().share
    assert ("share" in layer.get_config()) == (share is not None)
    assert layer.copy(share=0.75).share == 0.75


def test_a_layer_without_penalty_has_no_loss():
    layer = built((2, 2), 0.5)
    layer(np.ones((2, 2), "float32"))
    assert layer.losses == []


def test_number_of_elements_and_output_shape():
    layer = built((3, 2, 4), 0.5)
    assert layer.size == 24 and layer.compute_output_shape((3, 2, 4)) == (3, 2, 4)
    assert built((), 0.5).size == 1


# Errors.


def test_bad_penalty():
    with pytest.raises(ValueError, match="`penalty` must be None or an `lqs.Penalty`.*Received: penalty=0.1"):
        lqs.NestedQuantization(penalty=0.1)


@pytest.mark.parametrize("granularity, message", [("channel", "'channel' needs .* rank 3"), ((0, 2), "distinct axes")])
def test_granularity_that_does_not_fit(granularity, message):
    with pytest.raises(ValueError, match=message):
        lqs.NestedQuantization(granularity).build((4, 3))
