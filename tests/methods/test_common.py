"""What holds for every published method: one row for each, and the properties that all have in common."""

import functools
import inspect
from collections.abc import Sequence, Set
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import ops

import lqs
from lqs import methods
from lqs.file.reader import Tensor
from lqs.inspection import quantized_parameters, to_numpy
from lqs.strengths import strength_value


class Row(NamedTuple):
    """What is expected of a preset."""

    arguments: dict[str, Any]
    levels: tuple[int, int] | None
    integers: Sequence[int]  # those that occur; of unbounded ones, a few
    learned: Set[str]  # names of the weights with a gradient, besides the parameter
    followed: Set[str] = frozenset()  # names of the weights that training sets without one
    strength: str | None = None  # name of the one strength that is a weight
    bits: str = "given"  # what the argument must be; either if "optional"


SIGNS, TERNARY = (-1, 1), (-1, 0, 1)
ROWS = {
    "min_max": Row({"bits": 4}, (-8, 7), range(-8, 8), set(), {"scale"}),
    "lsq": Row({"bits": 4}, (-8, 7), range(-8, 8), {"scale"}),
    "dorefa": Row({"bits": 3}, (-7, 7), range(-7, 8, 2), set()),
    "stochastic": Row({"bits": 4}, (-8, 7), range(-8, 8), set(), {"scale", "seed_generator_state"}),
    "quant_noise": Row(
        {"bits": 4, "probability": 0.75},
        *((-8, 7), range(-8, 8), set(), {"scale", "seed_generator_state"}, "probability"),
    ),
    "binary_connect": Row({}, (-1, 1), SIGNS, set(), bits="None"),
    "xnor": Row({}, (-1, 1), SIGNS, set(), {"scale"}, bits="None"),
    "twn": Row({}, (-1, 1), TERNARY, set(), {"scale"}, bits="None"),
    "tang": Row({"rate": 0.5}, (-1, 1), SIGNS, set(), strength="rate", bits="None"),
    "sinreq": Row({"bits": 4, "rate": 0.5}, (-8, 7), range(-8, 8), set(), {"scale"}, "rate"),
    "msqe": Row({"bits": 4, "rate": 0.5}, (-8, 7), range(-8, 8), {"scale"}, strength="rate"),
    "deep_hoyer": Row({"bits": 4, "rate": 0.5}, (-8, 7), range(-8, 8), set(), {"scale"}, "rate"),
    "ttq": Row({}, (-1, 1), TERNARY, {"codebook"}, bits="None"),
    "lq_nets": Row({"bits": 3}, (-4, 3), range(-4, 4), set(), {"codebook"}),
    "qil": Row({"bits": 3}, (-3, 3), range(-3, 4), {"center", "half_width"}),
    "waveq": Row({"rate": 0.5}, None, range(-9, 10), {"bits"}, {"scale"}, "rate", "None"),
    "deep_compression": Row({"bits": 2, "threshold": 0.5}, (-2, 2), range(-2, 3), {"codebook"}),
    "lab": Row({}, (-1, 1), SIGNS, {"scale"}, bits="None"),
    "gong": Row({"bits": 2, "length": 2}, (-2, 1), (-2, 0, -1, 0, 0, 0, 1, 0), {"codebook"}),
    "qnn": Row({"bits": 3}, (-4, 3), range(-4, 4), set(), {"scale"}),
    "ott": Row({}, (-1, 1), TERNARY, set(), {"seed_generator_state"}, bits="None"),
    "value_aware": Row({"bits": 3, "ratio": 0.1}, (-(2**15), 2**15 - 1), range(-20, 21), set(), {"scale"}),
    "rdo_q": Row({"rate": 0.01}, None, range(-127, 128), set(), {"scale"}, "rate", "None"),
    "aqe": Row({"bits": 4, "sharpness": 4.0}, (-8, 7), range(-8, 8), set(), {"scale"}),
    "sq": Row({"probability": 0.5}, (-1, 1), TERNARY, set(), {"scale", "seed_generator_state"}, "probability", "None"),
    "delta_loss": Row({"threshold": 0.01}, None, range(-99, 100), {"scale"}, bits="None"),
    "krishnamoorthi": Row({"bits": 4}, (-8, 7), range(-8, 8), set(), {"scale"}),
    "polino": Row({"bits": 2}, (-2, 1), range(-2, 2), {"codebook"}),
    "tfc": Row({"rate": 0.01}, None, range(-99, 100), {"log_scale"}, set(), "rate", "optional"),
}
UNITS = {"dorefa", "binary_connect", "xnor", "twn", "tang", "ttq", "lq_nets", "deep_compression"}  # clip at no scale
UNITS |= {"lab", "gong", "qnn", "sq", "polino"}
SAME = {"krishnamoorthi"}  # as min_max, but for the default of an argument
each = pytest.mark.parametrize("name", [name for name in ROWS if name not in SAME])


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


def preset(name, **overrides):
    return methods.get(name)(**ROWS[name].arguments, **{"granularity": "scalar", **overrides})


def built(name, parameter, **overrides):
    layer = preset(name, **overrides)
    layer.build_for(keras.Variable(parameter))
    return layer


def named(layer):
    """Return the weights of a layer by name."""
    return {weight.name: weight for weight in layer.variables}


@pytest.fixture
def parameter(rng):
    return rng.normal(0, 0.5, (6, 8)).astype("float32")


def test_every_method_has_a_row_and_a_preset():
    assert tuple(ROWS) == methods.METHODS
    with pytest.raises(ValueError, match=r"^Argument `name` must be one of \('min_max', .*Received: name='minmax'"):
        methods.get("minmax")


@pytest.mark.once
@each
def test_signature_of_the_preset(name):
    """Bits, without a default, where they must be given; then the strength; then overrides by name."""
    row, parameters = ROWS[name], list(inspect.signature(methods.get(name)).parameters.values())
    assert parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
    assert [p.name for p in parameters[:-1]] == list(row.arguments)
    assert ("bits" in row.arguments) == (row.bits == "given")
    assert row.bits == "None" or parameters[0].default is inspect.Parameter.empty
    overrides = {"granularity": "row", "initial_scale": 0.25, "parametrization": "log"}
    changed = preset(name, **overrides)
    assert {key: getattr(changed, key) for key in overrides} == overrides


@pytest.mark.once
@each
def test_bits_must_be_given_or_not(name):
    row = ROWS[name]
    if row.bits == "None":
        with pytest.raises(ValueError, match=r"^Argument `bits` must be None, for .*Received: (bits=4|Levels\()"):
            preset(name, bits=4)
        return
    if row.bits == "optional":
        assert preset(name, bits=4).bits == 4
        return
    arguments = {**row.arguments, "bits": None}
    if name == "lsq":
        arguments["initial_scale"] = 0.25
        assert methods.get(name)(**arguments).levels is None  # works without
        return
    with pytest.raises(ValueError, match="^Argument `bits` must be given, for .*Received: bits=None"):
        methods.get(name)(**arguments)


@each
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_output_has_the_shape_and_dtype_of_the_parameter(name, dtype, parameter):
    layer, tensor = built(name, parameter), ops.cast(parameter, dtype)
    row = ROWS[name]
    assert layer.levels == row.levels and layer._rounding.clips == (name not in UNITS)
    for training in (False, True):
        output = layer(tensor, training=training)
        assert (tuple(output.shape), keras.backend.standardize_dtype(output.dtype)) == (parameter.shape, dtype)
    integers = layer.integers(tensor)
    assert (tuple(integers.shape), keras.backend.standardize_dtype(integers.dtype)) == (parameter.shape, "int32")
    found = np.unique(numbers(integers))
    assert len(found) > 1 and set(found) <= set(range(-255, 256) if name == "waveq" else row.integers)


@functools.cache
def built_once(name):
    """Return a layer and its parameter, for tests that change neither."""
    parameter = np.random.default_rng(42).normal(0, 0.5, (6, 8)).astype("float32")
    return built(name, parameter), parameter


@each
def test_output_is_what_the_integers_stand_for(name):
    layer, parameter = built_once(name)
    integers, scale = numbers(layer.integers(parameter)), numbers(layer.scale)
    tensor = Tensor("kernel", "float32", integers=integers, scale=scale)
    if layer.codebook is not None:
        tensor.levels, tensor.lowest = numbers(layer.codebook), layer.levels.lowest
    np.testing.assert_array_equal(numbers(layer(parameter)), tensor.array)


@each
def test_every_level_maps_to_itself(name):
    layer, levels = built_once(name)[0], np.array(ROWS[name].integers)
    again = layer.parameter_of(levels[None], numbers(layer.scale))
    assert again.dtype == "float32" and again.shape == (1, len(levels))
    np.testing.assert_array_equal(numbers(layer.integers(again)), levels[None])


@each
def test_parameter_of_integers_has_these_integers(name):
    layer, parameter = built_once(name)
    integers = numbers(layer.integers(parameter))
    again = layer.parameter_of(integers, numbers(layer.scale))
    np.testing.assert_array_equal(numbers(layer.integers(again)), integers)
    np.testing.assert_array_equal(numbers(layer(again)), numbers(layer(parameter)))


@pytest.mark.long_on_jax
@each
def test_gradients_in_training(name, parameter, gradients):
    """Learned weights have gradients; the scale has none, unless it is learned; zeros give finite ones."""
    row, layer = ROWS[name], built(name, parameter, granularity="row")
    weights = layer.trainable_variables
    upstream = np.random.default_rng(1).normal(size=parameter.shape).astype("float32")
    of_parameter, *others = gradients(layer, parameter, upstream, weights, training=True)
    assert of_parameter.shape == parameter.shape and np.isfinite(of_parameter).all() and of_parameter.any()
    for weight, gradient in zip(weights, others, strict=True):
        assert gradient.shape == tuple(weight.shape) and np.isfinite(gradient).all()
        assert gradient.any() == (weight.name in row.learned), weight.name
    assert {weight.name for weight in weights} - {"scale"} == row.learned - {"scale"}
    for gradient in gradients(layer, 0 * parameter, upstream, weights, training=True):
        assert np.isfinite(gradient).all()


def strengths(layer):
    """Return the strengths of the parts, by name."""
    parts = [part for part in (layer.rule, layer.penalty, layer.rounding) if isinstance(part, keras.layers.Layer)]
    return {weight.name: weight for part in parts for weight in part.weights if weight.name in ("rate", "probability")}


@each
def test_configuration_round_trip(name):
    layer, row = preset(name, granularity="row"), ROWS[name]
    found = strengths(layer)
    assert list(found) == ([row.strength] if row.strength else [])
    if row.strength:
        assert strength_value(found[row.strength]) == row.arguments[row.strength]
        found[row.strength].assign(0.3)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config() and not again.built
    assert [strength_value(weight) for weight in strengths(again).values()] == [0.3] * bool(row.strength)
    copies = layer.copy(), again
    for part in ("rule", "penalty", "rounding"):
        assert all(type(getattr(copy, part)) is type(getattr(layer, part)) for copy in copies)


@pytest.mark.once
@each
def test_bad_strength(name):
    row = ROWS[name]
    for strength in set(row.arguments) - {"bits"}:
        with pytest.raises(ValueError, match=r"^Argument `\w+` must be a .*number.*Received: \w+=-1"):
            methods.get(name)(**{**row.arguments, strength: -1})


# Tiny networks, trained for two steps; not to be changed by the tests.


def data():
    x = np.random.default_rng(3).normal(size=(16, 6)).astype("float32")
    return x, x[:, [0, 1, 2, 3, 4, 5, 0, 1]] - x[:, ::-1][:, [0, 1, 2, 0, 1, 2, 0, 1]]


def compiled(model):
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


@functools.cache
def trained(name):
    """Return the values before training, the model, and the loss of its steps."""
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8)])
    model = compiled(lqs.quantize(model, preset(name), None))
    ((variable, quantizer),) = quantized_parameters(model)
    before = {weight.name: numbers(weight) for weight in [variable, *quantizer.variables]}
    model.fit(*data(), batch_size=4, shuffle=False, verbose=0)
    return before, model


@each
def test_training_changes_what_it_should(name):
    row, (before, model) = ROWS[name], trained(name)
    ((variable, quantizer),) = quantized_parameters(model)
    after = {weight.name: numbers(weight) for weight in [variable, *quantizer.variables]}
    moved = {key for key in before if np.any(before[key] != after[key])}
    assert moved == {"kernel"} | row.learned | row.followed
    assert all(np.isfinite(value.astype("float64")).all() for value in after.values())
    assert quantizer.is_scale_learned == ("scale" not in row.followed)


def assert_equal_models(ours, theirs, but=()):
    """Raise unless predictions, integers and all weights of the nested layers but those of some names are equal."""
    x, _ = data()
    pairs = [quantized_parameters(model)[0] for model in (ours, theirs)]
    np.testing.assert_array_equal(*[to_numpy(quantizer.integers(variable.value)) for variable, quantizer in pairs])
    own = [[weight for weight in quantizer.variables if weight.name not in but] for _, quantizer in pairs]
    for our, their in zip(*own, strict=True):
        assert our.name == their.name
        np.testing.assert_array_equal(numbers(our), numbers(their), err_msg=our.name)
    np.testing.assert_array_equal(numbers(ours(x)), numbers(theirs(x)))


@pytest.mark.long_on_jax
@each
def test_a_layer_that_is_called_twice_trains(name):
    """Within one step, also where each call measures the scale anew."""
    layer, inputs = keras.layers.Dense(4), keras.Input((4,))
    model = lqs.quantize(keras.Model(inputs, layer(layer(inputs))), preset(name), None)
    model.compile("sgd", "mse", run_eagerly=keras.backend.backend() != "jax")
    model.fit(np.ones((4, 4)), np.ones((4, 4)), verbose=0)
    assert all(np.all(np.isfinite(numbers(variable))) for variable in model.variables)


@each
@pytest.mark.parametrize("kind", ["keras", "lqs"])
def test_files_keep_everything(name, kind, reload, tmp_path):
    _, model = trained(name)
    if kind == "lqs":
        lqs.save(model, tmp_path / "model.lqs")
        assert_equal_models(lqs.load(tmp_path / "model.lqs"), model)
    else:  # in which Keras keeps no states of random numbers, not those of its own layers either
        assert_equal_models(reload(model), model, but=["seed_generator_state"])


@pytest.mark.long_on_jax
@each
def test_checkpoints_to_h5(name, tmp_path):
    """With one prototype for kernels and biases, whose weights, and those of the optimizer for them, need own names."""
    prototype = preset(name)
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(4)])
    model = lqs.quantize(network, prototype, prototype)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.h5")
    again = keras.models.load_model(tmp_path / "model.h5", compile=False)  # Keras does not find "mse" in such a file
    for ours, theirs in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(numbers(ours), numbers(theirs))
    again.save(tmp_path / "again.h5")


@each
def test_dequantized_network_computes_the_same(name):
    _, model = trained(name)
    plain, (x, _) = lqs.dequantize(model), data()
    assert not quantized_parameters(plain)
    np.testing.assert_array_equal(numbers(plain(x)), numbers(model(x)))


@each
def test_clone_begins_with_values_of_its_own(name):
    """Its weights are drawn anew; scales and tables are those that a fresh layer has of them."""
    _, model = trained(name)
    ((variable, quantizer),) = quantized_parameters(keras.models.clone_model(model))
    fresh = quantizer.copy()
    fresh.build_for(variable)
    assert np.any(numbers(variable) != numbers(quantized_parameters(model)[0][0]))
    learned_state = {"bits", "seed_generator_state"}  # the bits are in the configuration, seeds are drawn
    for ours, theirs in zip(quantizer.variables, fresh.variables, strict=True):
        assert ours.name in learned_state or np.array_equal(numbers(ours), numbers(theirs)), ours.name
    assert len(np.unique(numbers(quantizer.integers(variable.value)))) > 1


@each
def test_copies_of_one_prototype_are_apart(name, rng):
    """Two parameters of different sizes have different scales or tables."""
    prototype = preset(name)
    layers = []
    for spread in (0.1, 2.0):
        layer = prototype.copy()
        layer.build_for(keras.Variable(rng.normal(0, spread, (6, 8)).astype("float32")))
        layers.append(layer)
    assert numbers(layers[0].scale)[0, 0] < numbers(layers[1].scale)[0, 0]
    assert not {id(weight) for weight in layers[0].variables} & {id(weight) for weight in layers[1].variables}
    assert not prototype.built


@pytest.mark.long_on_jax
@each
@pytest.mark.parametrize(
    "granularity, shape, scale_shape", [("scalar", (5,), (1,)), ("filter", (3, 3, 2, 4), (1, 1, 1, 4))]
)
def test_biases_and_kernels_of_convolutions(name, granularity, shape, scale_shape, rng):
    values = rng.normal(size=shape).astype("float32")
    layer = built(name, values, granularity=granularity)
    output = numbers(layer(values, training=True))
    assert output.shape == shape and np.isfinite(output).all()
    assert numbers(layer.scale).shape == scale_shape
