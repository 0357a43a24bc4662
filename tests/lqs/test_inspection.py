"""Tests of `lqs.inspection`: worked by hand; what it finds in a model is what the model trains with."""

import contextlib

import keras
import numpy as np
import pytest
from models import UNTRACED, example, joined

import lqs
from lqs.inspection import (
    entropy_bits,
    integer_statistics,
    model_integers,
    nested_layers,
    penalties,
    quantized_parameters,
    rules,
    set_shares,
    summary,
    to_numpy,
)
from lqs.scales import MIN_SCALE

# With scale 1/2: floor(P / s) is [[1, 2], [-1, 4]] and [-1, 0].
KERNEL = np.array([[0.7, 1.0], [-0.1, 2.4]], "float32")
BIAS = np.array([-0.5, 0.2], "float32")


@pytest.fixture
def layer():
    halves = {"granularity": "scalar", "initial_scale": 0.5}
    layer = lqs.QuantDense(
        2,
        kernel_quantizer=lqs.NestedQuantization(**{**halves, "granularity": "row"}),
        bias_quantizer=lqs.NestedQuantization(**halves),
    )
    layer.build((None, 2))
    layer.set_weights([KERNEL, BIAS, *layer.get_weights()[2:]])
    return layer


@pytest.mark.once
@pytest.mark.parametrize(
    "integers, bits",
    [
        ([7, 7, 7], 0),
        ([0, 1], 1),
        ([[0, 0], [1, 2]], 1.5),  # 1/2 * 1 + 2 * 1/4 * 2
        ([-4, -3, -2, -1, 0, 1, 2, 3], 3),
        ([0, 0, 0, 1], 2 - 0.75 * np.log2(3)),  # 3/4 * log2(4/3) + 1/4 * 2
    ],
)
def test_entropy(integers, bits):
    assert entropy_bits(np.array(integers)) == pytest.approx(bits, abs=1e-12)


@pytest.mark.once
def test_entropy_of_one_value_is_not_minus_zero():
    assert str(entropy_bits(np.array([5]))) == "0.0"


@pytest.mark.once
def test_integer_statistics():
    # Entropies 1.5, 0 and 1 bits of 4, 4 and 2 elements: (4 * 1.5 + 0 + 2 * 1) / 10.
    arrays = [np.array([[0, 0], [1, 2]]), np.array([2, 2, 2, 2]), np.array([-5, 0])]
    expected = {"unique": 4, "min": -5, "max": 2, "zeros": 0.3, "entropy_bits": 0.8}
    assert integer_statistics(arrays) == pytest.approx(expected)


@pytest.mark.once
def test_quantized_parameters_of_the_layer(layer):
    pairs = quantized_parameters(layer)
    assert [variable.path for variable, _ in pairs] == [f"{layer.name}/kernel", f"{layer.name}/bias"]
    assert [quantizer.granularity for _, quantizer in pairs] == ["row", "scalar"]


def test_model_integers(layer):
    integers = model_integers(keras.Sequential([keras.Input((2,)), layer]))
    assert {name.split("/")[-1]: array.tolist() for name, array in integers.items()} == {
        "kernel": [[1, 2], [-1, 4]],
        "bias": [-1, 0],
    }
    assert {array.dtype.name for array in integers.values()} == {"int32"}


@pytest.mark.once
def test_summary_of_the_thesis_layer(layer):
    layer.kernel_quantizer.scale.assign([[0.5], [0.25]])  # the second row becomes [-1, 9]
    table = summary(layer).set_index("parameter")
    kernel, bias = table.loc[f"{layer.name}/kernel"], table.loc[f"{layer.name}/bias"]
    assert kernel.to_dict() == {
        "shape": (2, 2),
        "granularity": "row",
        "scale_min": 0.25,
        "scale_max": 0.5,
        "unique": 4,
        "min": -1,
        "max": 9,
        "zeros": 0,
        "entropy_bits": 2,
        "note": "",
    }
    assert (bias["shape"], bias["zeros"], bias["entropy_bits"], bias["scale_max"]) == ((2,), 0.5, 1, 0.5)


@pytest.mark.once
def test_summary_of_scales_by_their_logarithm(rng):
    quantizer = lqs.NestedQuantization("row", initial_scale=0.25, parametrization="log")
    layer = lqs.QuantDense(3, kernel_quantizer=quantizer)
    layer.build((None, 2))
    layer.kernel.assign([[0.3, -0.1, 0.6], [5, 7, 9]])
    layer.kernel_quantizer.scale_weight.assign(np.log([[0.25], [2.0]]))
    (row,) = summary(layer).to_dict("records")
    assert (row["scale_min"], row["scale_max"]) == (pytest.approx(0.25), pytest.approx(2.0))
    assert (row["unique"], row["min"], row["max"]) == (5, -1, 4)  # 1, -1, 2 and 2, 3, 4


@pytest.mark.once
def test_summary_of_a_quantized_model():
    inputs = keras.Input((2,))
    shared = keras.layers.Dense(2, name="shared")
    model = keras.Model(inputs, keras.layers.Dense(3, name="last")(shared(shared(inputs))))
    shared.set_weights([KERNEL, BIAS])
    half = lqs.NestedQuantization(initial_scale=0.5)
    table = summary(lqs.quantize(model, half, half))
    assert table["shape"].tolist() == [(2, 2), (2,), (2, 3), (3,)]  # a layer called twice is one row each
    assert table["unique"].tolist()[:2] == [4, 2] and table["unique"].tolist()[3] == 1
    assert table["zeros"].tolist()[3] == 1  # the bias begins as zeros
    assert (table["scale_min"] == 0.5).all() and (table["scale_max"] == 0.5).all()


@pytest.mark.once
def test_summary_marks_what_is_all_zero_or_at_full_range():
    """With a scale of one and three bits: -4 and 3 are the outermost integers."""
    kernels = {"zero": [0.2, -0.3], "full": [-9.0, 3.0], "inside": [-3.0, 3.0]}
    layers = [keras.layers.Dense(1, use_bias=False) for _ in kernels]
    inputs = keras.Input((2,))
    model = keras.Model(inputs, [layer(inputs) for layer in layers])
    model.set_weights([np.reshape(kernel, (2, 1)) for kernel in kernels.values()])
    quantized = lqs.quantize(model, lqs.NestedQuantization(rounding="nearest", bits=3, initial_scale="max"))
    for quantizer in nested_layers(quantized):
        quantizer.scale_weight.assign([[0.0]])  # a logarithm
    assert summary(quantized)["note"].tolist() == ["all zero", "full range", ""]


@pytest.mark.once
def test_summary_of_a_float_model_is_empty():
    assert summary(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])).empty


@pytest.mark.once
@pytest.mark.parametrize("value", [3, "model", None])
def test_summary_of_what_is_not_a_layer(value):
    with pytest.raises(ValueError, match="Argument `model` must be a Keras layer or model. Received: model="):
        lqs.summary(value)


def penalized(kind="nested", rate=0.5):
    """Return a quantized network of the zoo: a penalty on kernels, and a rule with a threshold everywhere."""
    kernel = lqs.NestedQuantization("row", lqs.GradientRatio(0.25), lqs.InversePenalty(rate), initial_scale=0.125)
    bias = lqs.NestedQuantization(rule=lqs.GradientRatio(0.75), initial_scale=0.125)
    return lqs.quantize(example(kind).model, kernel, bias)


def loss_terms(model, inputs):
    """Return the sum of the loss terms of one call."""
    model(inputs)
    return sum(float(loss) for loss in model.losses)


def in_a_file(model, tmp_path):
    lqs.save(model, tmp_path / "model.lqs")
    return lqs.load(tmp_path / "model.lqs")


def cloned(model, tmp_path):
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    return clone


def reloaded(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.models.load_model(tmp_path / "model.keras")


COPIES = {"itself": lambda model, _: model, "lqs.load": in_a_file, "load_model": reloaded, "clone_model": cloned}


@pytest.mark.parametrize("copy", COPIES)
def test_penalties_are_those_that_training_uses(copy, tmp_path):
    """Rates that are assigned show in the loss: 1/s is 8 everywhere, and shares add up to those of the kernels."""
    model, inputs = COPIES[copy](penalized(), tmp_path), example("nested").inputs
    found = penalties(model)
    assert len(found) == 4 and {type(penalty) for penalty in found} == {lqs.InversePenalty}
    sizes = [len(np.ravel(variable)) for variable, _ in quantized_parameters(model)]
    kernels = sum(sizes[::2]) / sum(sizes)
    assert loss_terms(model, inputs) == pytest.approx(0.5 * 8 * kernels, rel=1e-5)
    for penalty in found:
        penalty.rate.assign(0.125)
    assert loss_terms(model, inputs) == pytest.approx(0.125 * 8 * kernels, rel=1e-5)
    found[0].rate.assign(0.0)
    assert loss_terms(model, inputs) == pytest.approx(0.125 * 8 * (kernels - sizes[0] / sum(sizes)), rel=1e-5)


def test_rates_take_effect_in_a_compiled_model():
    model, (_, inputs, outputs) = penalized("Dense"), example("Dense")
    model.compile("sgd", lambda targets, outputs: 0.0 * keras.ops.sum(outputs))
    losses = []
    for rate in (0.5, 0.25):
        penalties(model)[0].rate.assign(rate)
        losses.append(model.evaluate(inputs, outputs, verbose=0))
    assert losses == pytest.approx([0.5 * 8 * 12 / 15, 0.25 * 8 * 12 / 15], rel=1e-5)


@pytest.mark.parametrize("copy", COPIES)
def test_rules_are_those_that_training_uses(copy, tmp_path):
    """With a threshold of zero no scale moves, with a large one each does."""
    model, (_, inputs, outputs) = COPIES[copy](penalized("Dense", 0.0), tmp_path), example("Dense")
    kernel, bias = rules(model)
    assert [float(to_numpy(rule.threshold)) for rule in (kernel, bias)] == [0.25, 0.75]
    model.compile(keras.optimizers.SGD(1e-3), "mse", **UNTRACED)
    moved = []
    for thresholds in ((0.0, 0.0), (1e4, 0.0), (0.0, 1e4)):
        kernel.threshold.assign(thresholds[0])
        bias.threshold.assign(thresholds[1])
        before = [to_numpy(layer.scale).copy() for layer in nested_layers(model)]
        model.fit(inputs, outputs + 1, verbose=0)
        scales = [to_numpy(layer.scale) for layer in nested_layers(model)]
        moved.append([bool((scale != start).all()) for scale, start in zip(scales, before, strict=True)])
    assert moved == [[False, False], [True, False], [False, True]]


@pytest.mark.once
def test_handles_are_no_prototypes():
    penalty, rule = lqs.InversePenalty(0.5), lqs.GradientRatio(0.25)
    model = lqs.quantize(example("Dense").model, lqs.NestedQuantization("row", rule, penalty), None)
    assert penalties(model)[0] is not penalty and rules(model)[0] is not rule


@pytest.mark.once
@pytest.mark.parametrize("find", [penalties, rules, nested_layers, quantized_parameters])
def test_a_float_network_has_none(find):
    assert find(example("nested").model) == []


@pytest.mark.once
def test_unbuilt_layers_are_not_listed():
    layer = lqs.QuantDense(2, kernel_quantizer=lqs.NestedQuantization(penalty=lqs.InversePenalty(0.5)))
    assert nested_layers(layer) == penalties(layer) == rules(layer) == []
    layer.build((None, 3))
    assert nested_layers(layer) == [layer.kernel_quantizer]
    assert penalties(layer) == [layer.kernel_quantizer.penalty]


@pytest.mark.once
def test_nested_layers_are_in_the_order_of_the_parameters():
    """In every kind of layer, each once: also of a layer that is called twice."""
    model = lqs.quantize(joined())
    assert nested_layers(model) == [quantizer for _, quantizer in quantized_parameters(model)]


def test_shares_are_those_of_elements():
    """Of 6 + 2 + 4 elements, before and after a part of the model becomes another one."""
    quantizers = {"kernel_quantizer": lqs.NestedQuantization(), "bias_quantizer": lqs.NestedQuantization()}
    first = lqs.QuantDense(2, **quantizers)
    model = keras.Sequential([keras.Input((3,)), first, lqs.QuantDense(2, use_bias=False, **quantizers)])
    assert [layer.share for layer in nested_layers(model)] == [None] * 3
    set_shares(model)
    assert [layer.share for layer in nested_layers(model)] == pytest.approx([6 / 12, 2 / 12, 4 / 12])
    part = keras.Sequential([keras.Input((3,)), first])
    set_shares(part)
    assert [layer.share for layer in nested_layers(part)] == pytest.approx([6 / 8, 2 / 8])
    set_shares(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))  # nothing to divide by


@pytest.mark.parametrize("copy", COPIES)
def test_shares_after(copy, tmp_path):
    model = COPIES[copy](penalized("Dense"), tmp_path)
    assert [layer.share for layer in nested_layers(model)] == pytest.approx([12 / 15, 3 / 15])


@pytest.mark.parametrize("look", [lqs.summary, lqs.save])
def test_scales_that_have_not_changed_in_training(look, tmp_path):
    """Under plain SGD and the thesis's rule; no word before training, nor of scales that are to stay, nor of others."""
    arguments = [tmp_path / "model.lqs"] if look is lqs.save else []
    x = np.ones((4, 4), "float32")
    frozen = lqs.NestedQuantization(rule=lqs.Frozen())
    moving = lqs.NestedQuantization(rule=lqs.StraightThrough(), initial_scale=0.1, parametrization="log")
    for prototype, is_warned in [(None, True), (frozen, False), (moving, False)]:
        network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        model = lqs.quantize(network, prototype or lqs.NestedQuantization(), None)
        model.compile(keras.optimizers.SGD(0.01), "mse", **UNTRACED)
        look(model, *arguments)
        model.fit(x, x[:, :3], epochs=2, verbose=0)
        with pytest.warns(UserWarning, match="No scale has changed") if is_warned else contextlib.nullcontext():
            look(model, *arguments)


@pytest.mark.parametrize("look", [lqs.summary, lqs.save])
def test_integers_that_are_as_fine_as_float16(look, tmp_path):
    """With 10,000 distinct integers, 13.3 bits each; none with a scale that is a hundred times as large."""
    arguments = [tmp_path / "model.lqs"] if look is lqs.save else []
    network = keras.Sequential([keras.Input((100,)), keras.layers.Dense(100)])
    network.set_weights([np.linspace(-1, 1, 10_000).reshape(100, 100), np.zeros(100)])
    x = np.ones((4, 100), "float32")
    for initial_scale, is_warned in [(1e-4, True), (1e-2, False)]:
        settings = {"initial_scale": initial_scale, "parametrization": "log"}
        model = lqs.quantize(network, lqs.NestedQuantization(rule=lqs.StraightThrough(), **settings), None)
        model.compile(keras.optimizers.SGD(1e-3), "mse", **UNTRACED)
        look(model, *arguments)
        model.fit(x, x, verbose=0)
        with pytest.warns(UserWarning, match=r"take 13\.\d bits for each") if is_warned else contextlib.nullcontext():
            look(model, *arguments)


@pytest.mark.parametrize("look", [lqs.summary, lqs.save])
def test_scales_that_have_fallen_to_the_least(look, tmp_path):
    """Of two columns that are clipped there and one of zeros; no word before training, nor without clipping."""
    arguments = [tmp_path / "model.lqs"] if look is lqs.save else []
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="only")])
    network.set_weights([np.array([[1.0, 0.9, 0.0], [0.8, 0.7, 0.0]]), np.zeros(3)])
    for bits, is_warned in [(3, True), (None, False)]:
        settings = {"rounding": "nearest", "bits": bits, "initial_scale": 0.5, "parametrization": "linear"}
        model = lqs.quantize(network, lqs.NestedQuantization("column", lqs.StraightThrough(), **settings), None)
        model.compile(keras.optimizers.SGD(0.0), "mse", **UNTRACED)
        quantizer = nested_layers(model)[0]
        quantizer.scale_weight.assign([[MIN_SCALE] * 3])
        look(model, *arguments)
        model.fit(np.ones((4, 2)), np.ones((4, 3)), verbose=0)
        message = "Of only/kernel, 2 of 3 scales have fallen to the least one in training, and nearly all"
        with pytest.warns(UserWarning, match=message) if is_warned else contextlib.nullcontext():
            look(model, *arguments)
