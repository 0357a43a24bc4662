"""Tests of `lqs.control`: the file gets the size that is asked for, and training is not disturbed by looking at it."""

import functools
import math
import warnings

import keras
import numpy as np
import pytest
from models import several_steps

import lqs
from lqs import control
from lqs.file import sizes
from lqs.file.sizes import file_bytes, fp32_bytes, size_report
from lqs.inspection import penalties, quantized_parameters, to_numpy

IS_JAX = keras.backend.backend() == "jax"
NUM_STEPS, BATCH_SIZE = 16, 64


def data():
    """Return inputs and targets of a linear map: the finer the integers, the smaller the error, without an end."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(NUM_STEPS * BATCH_SIZE, 48)).astype("float32")
    return x, (x @ rng.normal(size=(48, 32)) / 7).astype("float32")


def prototype(penalty, **arguments):
    arguments = {"parametrization": "log", **arguments}
    return lqs.NestedQuantization("scalar", lqs.StraightThrough(), penalty, "nearest", initial_scale=0.02, **arguments)


def new_network(kernel="default", bias="default", **arguments):
    """Return a compiled network of 48·32 + 32 parameters."""
    keras.utils.set_random_seed(1)
    default = prototype(lqs.CodeLengthPenalty(0.01))
    kernel, bias = (default if choice == "default" else choice for choice in (kernel, bias))
    model = lqs.quantize(keras.Sequential([keras.Input((48,)), keras.layers.Dense(32, name="only")]), kernel, bias)
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=IS_JAX, **arguments)
    model.optimizer.build(model.trainable_variables)
    return model


@functools.cache
def compiled_once(parametrization, **arguments):
    """Return a network and the values of all of its variables."""
    code_length = prototype(lqs.CodeLengthPenalty(0.01), parametrization=parametrization)
    model = new_network(code_length, **arguments)
    return model, [to_numpy(variable.value).copy() for variable in all_variables(model)]


def all_variables(model):
    return [*model.variables, *model.optimizer.variables]


def network(parametrization="log", **arguments):
    """Return such a network as it begins: always the same one, so that its training step is compiled once."""
    model, initial = compiled_once(parametrization, **arguments)
    for variable, value in zip(all_variables(model), initial, strict=True):
        variable.assign(value)
    return model


def fit(model, *callbacks, epochs=1, **arguments):
    x, y = data()
    arguments = {"batch_size": BATCH_SIZE, "shuffle": False, "verbose": 0, **arguments}
    model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **arguments)


def values(model):
    return [to_numpy(variable.value) for variable in model.variables]


def rates(model):
    return [float(to_numpy(quantizer.penalty.rate.value)) for _, quantizer in quantized_parameters(model)]


@pytest.mark.parametrize("size, argument", [(1000, "bytes"), (1080, "ratio")])
def test_file_gets_the_size_that_is_asked_for(size, argument):
    """Within 3 %: a warning would be an error here."""
    model = network()
    assert file_bytes(model) > 1080
    request = {"bytes": size} if argument == "bytes" else {"ratio": fp32_bytes(model) / size}
    fit(model, lqs.TargetSize(**request), epochs=20)
    assert file_bytes(model) == pytest.approx(size, rel=0.03)


def test_file_for_inference_gets_the_size_that_is_asked_for():
    model, callback = network(), lqs.TargetSize(bytes=900, inference_only=True)
    fit(model, callback, epochs=10)
    assert file_bytes(model, inference_only=True) == pytest.approx(900, rel=0.03)
    assert callback.epoch_size == file_bytes(model, inference_only=True)


@pytest.mark.parametrize("size", [900, 1300])
@pytest.mark.parametrize("parametrization", ["log", "linear"])
def test_scales_reach_the_size_where_rates_cannot(size, parametrization):
    """With a learning rate of zero. An update that sees the size right leaves every scale as it is."""
    model = network(parametrization)
    model.optimizer.learning_rate = 0.0
    before = values(model)
    assert abs(file_bytes(model) / size - 1) > 0.05
    fit(model, lqs.TargetSize(bytes=size), epochs=2)
    np.testing.assert_array_equal(before[0], values(model)[0])
    assert file_bytes(model) == pytest.approx(size, rel=0.03)
    kernel, bias = (float(to_numpy(quantizer.scale).squeeze()) for _, quantizer in quantized_parameters(model))
    assert kernel / bias == pytest.approx(1, rel=1e-5) and (kernel > 0.02) == (size == 900)


def test_scales_are_moved_at_the_landings_alone_where_rates_can(monkeypatch):
    monkeypatch.setattr(control, "LARGEST_LAG", math.inf)
    model, recorder = network(), Recorder()
    model.optimizer.learning_rate = 0.0
    fit(model, lqs.TargetSize(bytes=900, num_updates=1000), recorder, epochs=5)
    moved = 1 + np.flatnonzero(np.diff(recorder.scales))  # of 80 steps; the callback before the recorder moves them
    assert {64} <= set(moved + 1) <= {64, 68, 72, 76, 80}


def test_size_follows_the_reference_where_rates_cannot():
    """With a learning rate of zero, from the second update on, and at the size itself after half of the training."""
    model, callback = network(), lqs.TargetSize(bytes=900)
    model.optimizer.learning_rate = 0.0
    fit(model, callback, epochs=5)
    shares, sizes, references, _ = np.transpose(callback.history)
    assert np.all(np.log(sizes / references) < 0.2)  # as they are seen before scales are moved
    np.testing.assert_allclose(sizes[shares > 0.65], 900, rtol=0.06)


@pytest.mark.slow
def test_normalization_is_evaluated_nearly_as_it_was_trained(monkeypatch):
    """After a short training in which only scales move: moving averages have had half of it to follow."""
    x = np.random.default_rng(0).normal(size=(64, 48)).astype("float32") + 1
    errors = []
    for lag in (math.inf, control.LARGEST_LAG):
        monkeypatch.setattr(control, "LARGEST_LAG", lag)
        keras.utils.set_random_seed(1)
        normalization = keras.layers.BatchNormalization(momentum=0.9)
        network = keras.Sequential([keras.Input((48,)), keras.layers.Dense(32), normalization])
        model = lqs.quantize(network, "compact", initial_scale=0.02)
        model.compile(keras.optimizers.Adam(0.0), "mse")
        callback = lqs.TargetSize(bytes=0.5 * file_bytes(model))
        model.fit(x, x[:, :32], batch_size=64, epochs=60, verbose=0, callbacks=[callback])
        mean = to_numpy(model.layers[0](x)).mean(axis=0)
        errors.append(np.abs(to_numpy(model.layers[1].moving_mean) - mean).mean())
    assert errors[1] < errors[0] / 2


class Recorder(keras.callbacks.Callback):
    """Keeps the scale of the first parameter after every step."""

    def on_train_begin(self, logs=None):
        self.scales = []

    def on_train_batch_end(self, batch, logs=None):
        if IS_JAX:
            self.model.jax_state_sync()
        self.scales.append(float(to_numpy(quantized_parameters(self.model)[0][1].scale).squeeze()))


def test_floor_of_the_scales_holds():
    model = network()
    model.optimizer.learning_rate = 0.0
    with pytest.warns(UserWarning, match="start from a smaller `initial_scale`"):
        fit(model, lqs.TargetSize(bytes=10**6))
    scale = float(to_numpy(quantized_parameters(model)[0][1].scale).squeeze())
    assert lqs.MIN_SCALE * 0.999 <= scale < 0.02 / 4**3


def bytes_with_rate(model, rate):
    """Return the bytes of a file; the digits of its rates are in the header, and the last update changes them."""
    for penalty in penalties(model):
        penalty.rate.assign(rate)
    return file_bytes(model)


def test_history_follows_from_sizes_alone(monkeypatch):
    """References by their formula, and rates by those of the controller, from one update to the next."""
    monkeypatch.setattr(control, "LANDINGS", (math.inf,))
    monkeypatch.setattr(control, "LARGEST_LAG", math.inf)
    model = network()
    first, ratio = file_bytes(model), fp32_bytes(model) / 900
    callback = lqs.TargetSize(bytes=900, num_updates=20, tolerance=9.0)
    callback._is_met = lambda size: False  # at once, by this tolerance
    with pytest.warns(UserWarning, match="The file takes"):
        fit(model, callback, epochs=4)
    shares, sizes, references, found = np.transpose(callback.history)
    # Of 64 steps, the first at or after each twentieth: 3.2, 6.4, 9.6, ... So short a training aims at the target.
    np.testing.assert_allclose(shares, np.ceil(3.2 * np.arange(1, 21) - 1e-9) / 64)
    expected = 900 * (first / 900) ** (np.maximum(1 - shares / 0.5, 0) ** 2)
    np.testing.assert_allclose(references, expected, rtol=1e-3)  # digits of rates are in the header
    rate, before = 1e-6 * ratio**2.5, 0.0
    for size, reference, after in zip(sizes, references, found, strict=True):
        error = math.log(size / reference)
        rate *= math.exp(0.3 * error + error - before)
        before = error
        assert after == pytest.approx(rate, rel=1e-5)
    assert rates(model) == [found[-1]] * 2
    assert len(set(sizes)) > 5
    assert sizes[-1] == bytes_with_rate(model, found[-2])  # of the network as it is, not as it was


def test_rates_start_from_the_ratio_in_the_proportions_that_they_have():
    model = new_network(prototype(lqs.CodeLengthPenalty(0.02)), prototype(lqs.CodeLengthPenalty(0.005)))
    callback = lqs.TargetSize(ratio=7)
    callback.set_model(model)
    callback.set_params({"epochs": 1, "steps": 1})
    callback.on_train_begin()
    np.testing.assert_allclose(rates(model), np.array([2, 0.5]) * 1e-6 * 7**2.5, rtol=1e-5)


def test_rates_do_not_start_from_more_than_a_training_survives(monkeypatch):
    """By the ratio alone, a file 1,200 times smaller would have begun at a rate of 50."""
    monkeypatch.setattr(control, "LARGEST_FIRST_RATE", 1e-5)
    model, callback = network(), lqs.TargetSize(ratio=7)
    callback.set_model(model)
    callback.set_params({"epochs": 1, "steps": 1})
    callback.on_train_begin()
    np.testing.assert_allclose(rates(model), 1e-5, rtol=1e-5)


def test_rates_of_all_penalties_change_together():
    model = new_network(
        prototype(lqs.CodeLengthPenalty(0.02)), prototype(lqs.InversePenalty(0.0001), parametrization="linear")
    )
    callback = lqs.TargetSize(bytes=900, num_updates=8)
    fit(model, callback)
    kernel, bias = rates(model)
    assert kernel != pytest.approx(0.02) and kernel / bias == pytest.approx(200, rel=1e-5)
    assert callback.history[-1][3] in (kernel, bias)


@pytest.mark.parametrize("num_updates", [1, 4, 1000])
def test_one_epoch(num_updates):
    """At most one update a step."""
    callback = lqs.TargetSize(bytes=1000, num_updates=num_updates, tolerance=9.0)
    fit(network(), callback)
    expected = {1: [1], 4: [0.25, 0.5, 0.75, 1], 1000: np.arange(1, 17) / 16}[num_updates]
    np.testing.assert_allclose([share for share, _, _, _ in callback.history], expected)


@several_steps
@pytest.mark.parametrize("epochs", [1, 3])
def test_several_steps_per_execution(epochs):
    model = network(steps_per_execution=4)
    callback = lqs.TargetSize(bytes=1000, num_updates=1000, tolerance=9.0)
    x, y = data()
    fit(model, callback, epochs=epochs, validation_data=(x[:100], y[:100]))
    shares = [share for share, _, _, _ in callback.history]
    np.testing.assert_allclose(shares, np.arange(1, 4 * epochs + 1) / 4 / epochs)


def test_unknown_number_of_steps_is_an_update_an_epoch():
    model, callback = network(), lqs.TargetSize(bytes=1000, tolerance=9.0)
    callback.set_model(model)
    callback.set_params({"epochs": 4, "steps": None})
    callback.on_train_begin()
    for epoch in range(4):
        callback.on_epoch_begin(epoch)
        callback.on_train_batch_end(0)
        callback.on_epoch_end(epoch)
    callback.on_train_end()
    assert [share for share, _, _, _ in callback.history] == [0.25, 0.5, 0.75, 1]


def test_training_that_is_resumed_has_no_updates_to_catch_up_with():
    callback = lqs.TargetSize(bytes=1000, num_updates=8, tolerance=9.0)
    fit(network(), callback, epochs=2, initial_epoch=1)
    shares = [share for share, _, _, _ in callback.history]
    np.testing.assert_allclose(shares, [17 / 32, 20 / 32, 24 / 32, 28 / 32, 1])


def test_second_fit_of_the_same_size_starts_from_the_rate_of_the_first():
    model, callback = network(), lqs.TargetSize(bytes=900, num_updates=20)
    fit(model, callback, epochs=5)
    rate = callback.history[-1][3]
    fit(model, callback)
    (_, size, reference, after), *_ = callback.history
    assert reference == 900 and after == pytest.approx(rate * (size / reference) ** 1.3, rel=1e-5)


@keras.saving.register_keras_serializable("test_control")
class CountingPenalty(lqs.CodeLengthPenalty):
    """Counts how often its term is traced."""

    calls = 0

    def term(self, parameter, scale):
        CountingPenalty.calls += 1
        return super().term(parameter, scale)


def test_looking_at_the_size_changes_nothing_and_retraces_nothing(monkeypatch):
    """With gains of zero the rates stay, and training ends where it ends without the callback, bit for bit."""
    results, calls = [], []
    for name, value in {"INTEGRAL": 0, "PROPORTIONAL": 0, "LANDINGS": (math.inf,), "LARGEST_LAG": math.inf}.items():
        monkeypatch.setattr(control, name, value)
    for callbacks in ([], [lqs.TargetSize(bytes=1000, num_updates=7, tolerance=9.0)]):
        model = new_network(prototype(CountingPenalty(0.01)), prototype(CountingPenalty(0.01)))
        before = CountingPenalty.calls
        fit(model, *callbacks, epochs=3)
        results.append(values(model))
        calls.append(CountingPenalty.calls - before)
    assert calls[0] == calls[1] > 0
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_rate_takes_effect():
    """A request further away drives the rate up, and the file down."""
    sizes = []
    for request in (700, 1100):
        callback = lqs.TargetSize(bytes=request)
        with warnings.catch_warnings(action="ignore"):  # one does not get there
            fit(network(), callback, epochs=8)
        sizes += [size for share, size, _, _ in callback.history if share == 0.75]  # before scales are moved
    assert sizes[0] < 0.95 * sizes[1]


@pytest.mark.parametrize("request_, advice", [(700, "train longer"), (10_000, "start from a smaller `initial_scale`")])
def test_size_that_is_not_reached_is_warned_of(request_, advice):
    model = network()
    with pytest.warns(UserWarning, match=f"The file takes .* bytes, and {request_:,} were asked for: {advice}"):
        fit(model, lqs.TargetSize(bytes=request_, num_updates=2))


OTHER_WEIGHTS = "The file takes .* bytes, and 1,000 were asked for: the last epoch ended at .* bytes, but other weights"


class Restoring(keras.callbacks.Callback):
    """Brings weights back when training ends, as `EarlyStopping(restore_best_weights=True)` does."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.weights = self.model.get_weights()

    def on_train_end(self, logs=None):
        self.model.set_weights(self.weights)


@pytest.mark.parametrize("is_before", [False, True])
def test_weights_that_other_callbacks_bring_back(is_before):
    """Whether they come before `TargetSize` or after it."""
    model, callbacks = network(), [lqs.TargetSize(bytes=1000), Restoring()]
    with pytest.warns(UserWarning, match=OTHER_WEIGHTS) as warned:
        fit(model, *(callbacks[::-1] if is_before else callbacks), epochs=20)
    assert sum("The file takes" in str(warning.message) for warning in warned) == 1
    assert "on_train_end" not in vars(model.history)


def test_weights_that_the_optimizer_averages():
    model = new_network()
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.999)
    model.compile(optimizer, "mse", jit_compile=IS_JAX)
    with pytest.warns(UserWarning, match=OTHER_WEIGHTS):
        fit(model, lqs.TargetSize(bytes=1000), epochs=20)


@pytest.mark.parametrize("validation", [False, True])
def test_best_epoch_among_those_that_meet_the_size(validation, tmp_path):
    x, y = data()
    name, arguments = ("val_loss", {"validation_data": (x[:64], y[:64])}) if validation else ("loss", {})
    monitored, path = f"{name}_at_size", tmp_path / "best.weights.h5"
    stopping = keras.callbacks.EarlyStopping(monitored, mode="min", patience=20, restore_best_weights=True)
    checkpoint = keras.callbacks.ModelCheckpoint(
        path, monitored, mode="min", save_best_only=True, save_weights_only=True
    )
    model = network()
    fit(model, lqs.TargetSize(bytes=1000), stopping, checkpoint, epochs=20, **arguments)
    logs = model.history.history
    is_met = np.abs(np.array(logs["file_bytes"]) / 1000 - 1) <= 0.03
    assert not is_met[0] and is_met[-1]
    np.testing.assert_allclose(logs["file_ratio"], fp32_bytes(model) / np.array(logs["file_bytes"]))
    np.testing.assert_allclose(logs["asked_ratio"], fp32_bytes(model) / 1000)
    np.testing.assert_array_equal(logs[monitored], np.where(is_met, logs[name], np.inf))
    assert file_bytes(model) == logs["file_bytes"][np.argmin(logs[monitored])]
    expected = values(model)
    model.load_weights(path)
    for ours, theirs in zip(values(model), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_another_fit_holds_the_size_with_the_callback_alone():
    model, callback = network(), lqs.TargetSize(bytes=1000)
    fit(model, callback, epochs=20)
    fit(model, lqs.TargetSize(bytes=1000), epochs=5)
    assert file_bytes(model) == pytest.approx(1000, rel=0.03)
    fit(model, epochs=5)


def test_few_updates_pack_the_file(monkeypatch):
    """Of 100 updates and 20 ends of epochs; and fewer with the slow coding."""
    is_slow, encode_model = [], sizes.encode_model

    def encode(*args, **options):
        is_slow.append(options.get("slow", True))
        return encode_model(*args, **options)

    monkeypatch.setattr(sizes, "encode_model", encode)
    callback = lqs.TargetSize(bytes=1000)
    fit(network(), callback, epochs=20)
    assert len(callback.history) == 100 and len(is_slow) - sum(is_slow) < 50 and sum(is_slow) < 30


def test_training_that_diverges_is_stopped():
    model = network()
    x, y = data()
    with pytest.raises(ValueError, match="must have finite variables; its training may have diverged. Received: only/"):
        model.fit(np.nan * x, y, batch_size=BATCH_SIZE, verbose=0, callbacks=[lqs.TargetSize(bytes=1000)])


def test_size_that_cannot_be():
    """Less than the header, the scales, and what is not quantized take alone."""
    model = new_network(bias=None)
    report = size_report(model)["file_bytes"]
    fixed = report[["header", "scales", "other variables"]].sum()
    assert fixed > 32 * 4
    callback = lqs.TargetSize(bytes=int(fixed))
    with pytest.raises(ValueError, match=f"must be more than the {fixed} bytes.*Received: {fixed} bytes"):
        fit(model, callback)
    with pytest.raises(ValueError, match=r"must be more than .* a ratio below \d+\.\d\. Received: 6 bytes"):
        fit(model, lqs.TargetSize(ratio=1000))


def test_model_without_rates_to_start_from():
    float_network = keras.Sequential([keras.Input((48,)), keras.layers.Dense(32)])
    float_network.compile("sgd", "mse")
    some, none = (prototype(lqs.CodeLengthPenalty(rate)) for rate in (0.5, 0))
    for model, found in [(float_network, r"\[\]"), (new_network(none, some), r"\[0.0, 0.5\]")]:
        with pytest.raises(
            ValueError, match=f"penalties have positive rates to start from, as by .*. Received: rates {found}"
        ):
            fit(model, lqs.TargetSize(bytes=1000))


def test_parameter_without_a_penalty_is_left_alone():
    """Its scale is neither trained nor moved by the callback."""
    model = new_network(bias=lqs.NestedQuantization(rule=lqs.Frozen(), initial_scale=0.5))
    fit(model, lqs.TargetSize(bytes=1000, tolerance=9.0))
    assert float(to_numpy(quantized_parameters(model)[1][1].scale).squeeze()) == 0.5


@pytest.mark.once
@pytest.mark.parametrize("arguments", [{}, {"bytes": 1000, "ratio": 10}])
def test_not_exactly_one_request(arguments):
    with pytest.raises(ValueError, match="Give one of `bytes` and `ratio`. Received: bytes="):
        lqs.TargetSize(**arguments)


@pytest.mark.once
@pytest.mark.parametrize("name", ["bytes", "ratio", "num_updates", "tolerance"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "1000", [1000]])
def test_bad_number(name, value):
    arguments = {name: value} if name in ("bytes", "ratio") else {"bytes": 1000, name: value}
    with pytest.raises(ValueError, match=f"Argument `{name}` must be a positive number. Received: {name}="):
        lqs.TargetSize(**arguments)


def test_ramp_is_a_number_of_steps_or_half_of_a_short_training():
    for steps, expected in ((100, 0.5), (1400, 0.1), (None, 0.5)):
        callback = lqs.TargetSize(bytes=1000)
        callback.set_model(network())
        callback.set_params({"epochs": 10, "steps": steps})
        callback.on_train_begin()
        assert callback.ramp == pytest.approx(expected)


@pytest.mark.parametrize("epochs, expected", [(1000, 0.21), (10, 0.0)])
def test_size_comes_from_above_in_a_long_training(epochs, expected):
    """Halfway, by exp(0.21), where the ramp is 1,400 of 16,000 steps; not in the longest ramp, of 80 of 160 steps."""
    callback = lqs.TargetSize(bytes=700)
    callback.set_model(network())
    callback.set_params({"epochs": epochs, "steps": NUM_STEPS})
    callback.on_train_begin()
    left = max(0, 1 - 0.5 / callback.ramp) ** 2 * math.log(callback.first_size / 700)
    assert math.log(callback._reference(0.5) / 700) - left == pytest.approx(expected, abs=1e-12)
    assert callback._reference(0.0) == pytest.approx(callback.first_size)
    assert callback._reference(1.0) == pytest.approx(700)


def test_a_file_that_is_smaller_than_asked_for_stays_so_where_most_elements_are_zero(monkeypatch):
    """Smaller scales would take elements out of zero that the loss never saw elsewhere."""
    model = network()
    model.optimizer.learning_rate = 0.0
    size, before = file_bytes(model), values(model)
    monkeypatch.setattr(control, "FINE_BITS", 99.0)
    callback = lqs.TargetSize(bytes=1.2 * size)
    with pytest.warns(UserWarning, match="The file takes .* and .* were asked for: start from a smaller"):
        fit(model, callback)
    scales = [to_numpy(quantizer.scale) for _, quantizer in quantized_parameters(model)]
    np.testing.assert_allclose([float(scale.squeeze()) for scale in scales], 0.02, rtol=1e-6)
    np.testing.assert_array_equal(before[0], values(model)[0])


@pytest.mark.parametrize("threshold", [0.0, 99.0], ids=["dense", "sparse"])
def test_scales_of_a_sparse_network_are_not_moved(threshold, monkeypatch):
    moves, zeroed = [], []
    monkeypatch.setattr(control, "SPARSE_BITS", threshold)
    monkeypatch.setattr(lqs.TargetSize, "_land", lambda self, reference, is_last: moves.append(is_last))
    monkeypatch.setattr(lqs.TargetSize, "_set_to_zero", lambda self, reference: zeroed.append(reference))
    callback = lqs.TargetSize(bytes=700)
    with pytest.warns(UserWarning, match="The file takes"):
        fit(network(), callback, epochs=5)
    assert bool(moves) == (threshold == 0) and bool(zeroed) == (threshold > 0)


def held(model, ratio):
    """A callback of a model that does not train, for a file so many times as large as it is."""
    callback = lqs.TargetSize(bytes=ratio * file_bytes(model))
    callback.set_model(model)
    callback.set_params({"epochs": 1, "steps": NUM_STEPS})
    callback.on_train_begin()
    return callback


def parameters(model):
    return [to_numpy(parameter) for parameter, _ in quantized_parameters(model)]


def test_elements_nearest_to_zero_are_set_to_it():
    model = network()
    before, callback = parameters(model), held(model, 0.9)
    callback._set_to_zero(callback.target)
    assert abs(callback.size.pack() / callback.target - 1) < 0.02
    gone, kept = [], []
    for (_, quantizer), old, new in zip(quantized_parameters(model), before, parameters(model), strict=True):
        unit, is_same = np.abs(old) / to_numpy(quantizer.scale), old == new
        assert np.all(new[~is_same] == 0)
        gone.append(unit[~is_same])
        kept.append(unit[is_same & (np.round(unit) > 0)])
    assert np.concatenate(gone).max() <= np.concatenate(kept).min()


def test_elements_stay_where_half_of_them_would_not_be_enough():
    model = network()
    before, callback = parameters(model), held(model, 0.9)
    callback._set_to_zero(0.3 * callback.target)
    for old, new in zip(before, parameters(model), strict=True):
        np.testing.assert_array_equal(old, new)
