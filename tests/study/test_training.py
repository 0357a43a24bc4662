"""Tests of `study.training`: short runs on scikit-learn's digits, on the backend in use."""

import json
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from lqs.file.saving import load
from lqs.inspection import model_integers, quantized_parameters
from study import datasets, protocols, training
from study.configs import float_config, make_config
from study.examples import batches, load_dataset
from study.networks import dense_network
from study.records import read_record, read_records, record_path
from study.statistics import zipped_bytes
from study.training import fit, make_model, run, run_all
from study.weights import weights_path, write_weights

BACKEND = keras.backend.backend()
OTHER_BACKEND = {"jax": "tensorflow", "tensorflow": "jax"}[BACKEND]
# What is said of training holds on either backend, and a run takes seconds: one of two epochs, of which several tests
# speak, is on both; others are on one, where images are augmented by TensorFlow on that.
on_jax = pytest.mark.skipif(BACKEND != "jax", reason="on one backend: JAX")
on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="on one backend: TensorFlow")


@pytest.fixture(scope="module", autouse=True)
def _one_step_per_execution():
    """Compile one step instead of 25: the arithmetic of a step is the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "STEPS_PER_EXECUTION", 1)
        yield


def digits_config(method="nested", strength=0.0, granularity="row", **settings):
    settings = {"protocol": "smoke", "epochs": 1, "backend": BACKEND, **settings}
    return make_config("digits", method, strength, granularity, **settings)


def without_time(record):
    return {**record, "environment": {**record["environment"], "seconds": None}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of records and weights that a whole module shares."""
    return tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def nested(folders):
    """Return configuration and record of a run of two epochs."""
    config = digits_config(strength=1e-9, epochs=2)
    return config, run(config, *folders)


@pytest.fixture(scope="module")
def pretrained(folders):
    """Return configuration and record of a pretrained run, whose baseline was not there before."""
    config = digits_config(strength=1e-9, regime="pretrained")
    assert not record_path(float_config(config), folders[0]).exists()
    return config, run(config, *folders)


@pytest.fixture
def no_training(monkeypatch):
    def fail(config, *folders):
        raise AssertionError(f"trained {config.id}")

    monkeypatch.setattr(training, "train", fail)


@pytest.fixture
def pretend(monkeypatch):
    """Function that replaces training: it notes the strengths, and raises the error given for one."""
    strengths = []

    def run(errors):
        def train(config, root, weights):
            strengths.append(config.quantizer.strength)
            if config.quantizer.strength in errors:
                raise errors[config.quantizer.strength]
            keys = ("environment", "history", "final", "parameters")
            return {"config": config.flat(), **{key: {} for key in keys}}

        monkeypatch.setattr(training, "train", train)
        return strengths

    return run


# A record.


def test_record_is_complete(nested, folders):
    config, record = nested
    assert record["config"] == config.flat()
    assert record == read_record(config, folders[0])  # what is returned is what is written
    losses = {"loss", "val_loss", "cross_entropy", "val_cross_entropy", "accuracy", "val_accuracy"}
    assert set(record["history"]) == {*losses, "unique", "min", "max"}
    assert {len(values) for values in record["history"].values()} == {2}
    sizes = {"zip_bytes", "zip_dtype", "fp32_bytes", "file_bytes", "inference_bytes"}
    assert set(record["final"]) == {*record["history"], "zeros", "entropy_bits", *sizes}
    assert {key: values[-1] for key, values in record["history"].items()}.items() <= record["final"].items()
    assert [p["shape"] for p in record["parameters"]] == [[64, 128], [128], [128, 10], [10]]
    assert [p["granularity"] for p in record["parameters"]] == ["row", "scalar", "row", "scalar"]
    for parameter in record["parameters"]:
        assert sum(parameter["histogram"]["counts"]) == np.prod(parameter["shape"])
        scale = parameter["scale"]
        assert 100 * 2**-23 * (1 - 1e-5) <= scale["min"] <= scale["median"] <= scale["max"]  # six digits are kept
        assert scale["min"] <= scale["mean"] <= scale["max"]


def test_run_learns(nested):
    final = nested[1]["final"]
    assert final["val_accuracy"] > 0.7
    assert 1 < final["unique"] <= final["max"] - final["min"] + 1


@pytest.mark.slow
def test_shares_of_votes_are_recorded_and_change_nothing_else(nested, folders):
    """The thesis's rule, once as a method whose shares are recorded: all other fields are the same, bit for bit."""
    watched = run(digits_config("votes_ratio", 1e-9, epochs=2), *folders)
    names = {f"{share}/{layer}/kernel" for share in ("voters", "dead") for layer in ("hidden", "output")}
    shares = {name: values for name, values in watched["history"].items() if name in names}
    assert set(watched["history"]) - set(nested[1]["history"]) == set(shares) == names
    assert all(len(values) == 2 and 0 <= min(values) <= max(values) <= 1 for values in shares.values())
    assert shares["voters/hidden/kernel"][-1] >= shares["dead/hidden/kernel"][-1] > 0
    assert watched["parameters"] == nested[1]["parameters"]
    assert watched["history"].items() >= nested[1]["history"].items()


def test_losses_agree_without_a_penalty(nested):
    history = nested[1]["history"]
    assert history["loss"] == history["cross_entropy"] and history["val_loss"] == history["val_cross_entropy"]


def test_parameters_have_the_same_names_in_every_run(nested, folders):
    names = [parameter["name"] for parameter in nested[1]["parameters"]]
    model = make_model(digits_config(seed=43), (8, 8, 1), 10, *folders)
    assert [variable.path for variable, _ in quantized_parameters(model)] == names
    assert not any(character.isdigit() for name in names for character in name)


def test_history_ends_with_the_integers_of_the_network_that_is_kept(nested, folders):
    config, record = nested
    kept = model_integers(load(weights_path(config, folders[1])))
    integers = np.concatenate([array.ravel() for array in kept.values()])
    history = {name: record["history"][name][-1] for name in ("unique", "min", "max")}
    assert history == {"unique": len(set(integers.tolist())), "min": integers.min(), "max": integers.max()}


@on_jax
def test_same_seed_gives_the_same_record(nested, folders, tmp_path):
    config, record = nested
    again = run(config, tmp_path / "runs", folders[1])
    assert without_time(again) == without_time(record)


def test_record_is_not_trained_again(nested, folders, no_training):
    config, record = nested
    before = record_path(config, folders[0]).stat().st_mtime_ns
    assert run_all([config], *folders) == [record]
    assert record_path(config, folders[0]).stat().st_mtime_ns == before


def test_other_backend_is_refused(tmp_path, no_training):
    config = digits_config(backend=OTHER_BACKEND)
    message = f"{config.id} needs KERAS_BACKEND={OTHER_BACKEND}.* Received: backend '{BACKEND}'"
    with pytest.raises(ValueError, match=message):
        run(config, tmp_path, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_record_of_the_other_backend_is_read(tmp_path, pretend, monkeypatch):
    config = digits_config(backend=OTHER_BACKEND)
    pretend({})
    monkeypatch.setattr(keras.backend, "backend", lambda: OTHER_BACKEND)
    run(config, tmp_path, tmp_path)
    monkeypatch.undo()
    assert run(config, tmp_path, tmp_path)["config"]["backend"] == OTHER_BACKEND


# Regimes.


def baseline_weights(config, folders):
    with np.load(folders[1] / "digits" / f"{float_config(config).id}.npz") as archive:
        return [archive[f"arr_{i}"] for i in range(4)]


def parameters_of(model):
    """Return the values of the quantized parameters, in the order of the float network's weights."""
    return [keras.ops.convert_to_numpy(variable) for variable, _ in quantized_parameters(model)]


@on_jax
def test_pretrained_run_makes_its_baseline(pretrained, folders):
    config, _ = pretrained
    record = read_record(float_config(config), folders[0])
    assert record["config"]["method"] == "float" and record["parameters"] == []
    # The weights that are kept are those that the record describes.
    network = dense_network((8, 8, 1), 10)
    network.set_weights(baseline_weights(config, folders))
    digits = datasets.load("digits")
    predicted = network.predict(digits.x_test.astype("float32"), verbose=0).argmax(axis=-1)
    assert np.mean(predicted == digits.y_test) == pytest.approx(record["final"]["val_accuracy"], abs=1e-5)
    assert record["final"]["zip_dtype"] == "float32"
    assert record["final"]["zip_bytes"] == zipped_bytes(baseline_weights(config, folders))[0]
    assert "unique" not in record["final"]


@on_jax
def test_pretrained_run_starts_from_exactly_the_weights_of_its_baseline(pretrained, folders):
    config, record = pretrained
    model = make_model(config, (8, 8, 1), 10, *folders)
    for ours, theirs in zip(parameters_of(model), baseline_weights(config, folders), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    scratch = make_model(config.replace(regime="scratch"), (8, 8, 1), 10, *folders)
    assert any(np.any(a != b) for a, b in zip(model.get_weights(), scratch.get_weights(), strict=True))
    assert record["final"]["val_accuracy"] > 0.8


@on_jax
def test_labels_are_mixed_with_the_answers_of_the_baseline(pretrained, folders):
    config, _ = pretrained
    digits = datasets.load("digits")
    soft = training.with_soft_labels(config.replace(distillation=0.25), digits, *folders)
    w1, b1, w2, b2 = baseline_weights(config, folders)
    logits = np.maximum(digits.x_train.reshape(-1, 64) @ w1 + b1, 0) @ w2 + b2
    powers = np.exp((logits - logits.max(axis=1, keepdims=True)) / 3)
    answers = powers / powers.sum(axis=1, keepdims=True)
    expected = 0.75 * np.eye(10)[digits.y_train] + 0.25 * answers
    np.testing.assert_allclose(soft.y_train, expected, atol=1e-4)
    np.testing.assert_array_equal(soft.y_test.argmax(axis=1), digits.y_test)
    assert soft.x_train is digits.x_train


IN_ANOTHER_PROCESS = """
import os, pathlib, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
from study.configs import make_config
from study.training import run
run(make_config("digits", "nested", 1e-9, "row", protocol="smoke", epochs=2), *map(pathlib.Path, sys.argv[1:]))
"""


@pytest.mark.slow
@on_jax
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are chosen on Linux alone")
def test_same_seed_gives_the_same_integers_in_another_process(nested, folders, tmp_path):
    """With another seed of hashes and on one core."""
    config, record = nested
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    places = tmp_path / "runs", tmp_path / "weights"
    subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS, *places], env=environment, check=True)
    other = read_record(config, places[0])
    assert {**other, "environment": None} == {**record, "environment": None}
    assert weights_path(config, places[1]).read_bytes() == weights_path(config, folders[1]).read_bytes()


@on_jax
def test_run_with_a_hold_out(tmp_path):
    config = digits_config(strength=1e-9, holdout=300)
    record = training.train(config, weights=tmp_path)
    digits, held_out = load_dataset(config.replace(holdout=None)), load_dataset(config)
    assert len(held_out.x_train) == len(digits.x_train) - 300
    model, final = load(weights_path(config, tmp_path)), record["final"]
    for data, name in ((held_out, "val_accuracy"), (digits, "test_accuracy")):
        logits = model.predict(data.x_test.astype("float32"), verbose=0)
        assert final[name] == pytest.approx(np.mean(logits.argmax(axis=1) == data.y_test), abs=1e-6)
    assert "test_accuracy" not in record["history"] and final["test_cross_entropy"] == final["test_loss"]


@pytest.mark.slow
@on_jax
def test_run_with_soft_labels(pretrained, folders, tmp_path):
    config = pretrained[0].replace(method="difference", strength=1e-8, regime="scratch", distillation=0.5)
    record = training.train(config, tmp_path, folders[1])
    assert record["final"]["val_accuracy"] > 0.8
    assert (
        record["history"]["cross_entropy"][-1] > record["history"]["val_cross_entropy"][-1]
    )  # soft labels have entropy


@pytest.mark.slow
@on_jax
def test_run_with_soft_labels_and_a_hold_out(tmp_path):
    config = digits_config(method="difference", strength=1e-8, holdout=300, distillation=0.5)
    record = training.train(config, tmp_path, tmp_path)
    digits, model = load_dataset(config.replace(holdout=None)), load(weights_path(config, tmp_path))
    logits = model.predict(digits.x_test.astype("float32"), verbose=0)
    expected = np.mean(logits.argmax(axis=1) == digits.y_test)
    assert record["final"]["test_accuracy"] == pytest.approx(expected, abs=1e-6)


@on_jax
def test_baseline_is_used_again(pretrained, folders, monkeypatch):
    config, _ = pretrained
    monkeypatch.setattr(training, "fit", None)  # what training a baseline would call
    make_model(config.replace(strength=1e-8), (8, 8, 1), 10, *folders)


@on_jax
def test_lost_weights_are_trained_again_and_the_record_stays(pretrained, folders, tmp_path):
    config, _ = pretrained
    path = record_path(float_config(config), folders[0])
    before = path.read_bytes()
    make_model(config, (8, 8, 1), 10, folders[0], tmp_path)
    assert path.read_bytes() == before
    for ours, theirs in zip(baseline_weights(config, (None, tmp_path)), baseline_weights(config, folders), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@on_jax
def test_record_that_a_killed_run_did_not_write_is_made_from_a_new_baseline(pretrained, folders, tmp_path):
    config, _ = pretrained
    expected = read_record(float_config(config), folders[0])
    shutil.copytree(folders[1], tmp_path / "weights")  # written before the record
    make_model(config, (8, 8, 1), 10, tmp_path / "runs", tmp_path / "weights")
    assert read_record(float_config(config), tmp_path / "runs")["final"] == expected["final"]


def test_scratch_run_starts_from_the_initial_weights_of_the_float_network(tmp_path):
    float_model = make_model(digits_config("float", granularity="scalar"), (8, 8, 1), 10, tmp_path, tmp_path)
    model = make_model(digits_config(), (8, 8, 1), 10, tmp_path, tmp_path)
    for ours, theirs in zip(parameters_of(model), float_model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# Methods.


def mean_term(method, pairs):
    """Return the term of the thesis, section 3.2: the mean over all elements of the model."""
    terms, sizes = [], []
    for variable, quantizer in pairs:
        parameter, scale = (keras.ops.convert_to_numpy(v).astype("float64") for v in (variable, quantizer.scale))
        quotients = parameter / scale
        sharing = 1 if quantizer.granularity == "row" else None
        term = {
            "max_bin": np.abs(quotients).max(axis=sharing),
            "inverse": 1 / scale,
            "difference": np.abs(parameter - quotients),
        }[method]
        terms.append(term.mean())
        sizes.append(parameter.size)
    return np.average(terms, weights=sizes)


@pytest.mark.parametrize("method", ["max_bin", "inverse", "difference"])
def test_penalty_is_in_the_loss_and_not_in_the_cross_entropy(method, tmp_path):
    model = make_model(digits_config(method, 1e-3), (8, 8, 1), 10, tmp_path, tmp_path)
    model.run_eagerly = True  # quicker than to compile for one batch
    digits = datasets.load("digits")
    x = digits.x_test.astype("float32")
    found = model.evaluate(x, digits.y_test, len(x), verbose=0, return_dict=True)
    logits = keras.ops.convert_to_numpy(model(x)).astype("float64")
    log_sums = np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)) + logits.max(axis=1)
    expected = np.mean(log_sums - logits[np.arange(len(logits)), digits.y_test])
    assert found["cross_entropy"] == pytest.approx(expected, rel=1e-3)
    penalty = 1e-3 * mean_term(method, quantized_parameters(model))
    assert penalty > 1e-6
    assert found["loss"] - found["cross_entropy"] == pytest.approx(penalty, rel=1e-2, abs=1e-5)


def test_setting_reaches_the_layers(tmp_path):
    config = digits_config(strength=1e-8, update_stalled=False, rounding="nearest", epsilon=1e-5)
    model = make_model(config, (8, 8, 1), 10, tmp_path, tmp_path)
    quantizers = [quantizer for _, quantizer in quantized_parameters(model)]
    assert [q.granularity for q in quantizers] == ["row", "scalar", "row", "scalar"]
    assert {q.rounding for q in quantizers} == {"nearest"}
    assert [float(q.rule.threshold) for q in quantizers] == [pytest.approx(1e-8)] * 4
    assert {q.rule.update_stalled for q in quantizers} == {False}
    assert float(model.optimizer.epsilon) == 1e-5
    assert float(model.optimizer.learning_rate) == pytest.approx(config.training.learning_rate)


# Schedule, images and compilation.


@pytest.mark.parametrize("method", ["float", "nested"])
def test_l2_term_is_that_of_the_kernels(method, tmp_path):
    config = digits_config(method, l2=0.01)
    model = make_model(config, (8, 8, 1), 10, tmp_path, tmp_path)
    kernels = [w for w in model.trainable_variables if tuple(w.shape) in ((64, 128), (128, 10))]
    assert len(kernels) == 2 and float_config(config).training.l2 == 0.01
    expected = 0.01 * sum(np.sum(np.asarray(kernel, "float64") ** 2) for kernel in kernels)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-4)
    logs = model.evaluate(np.zeros((1, 8, 8, 1)), np.zeros(1), verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(logs["cross_entropy"] + expected, rel=1e-4)


@on_jax
def test_schedule_reaches_the_optimizer(tmp_path, monkeypatch):
    monkeypatch.setattr(protocols, "STEPS", ((0.5, 0.0),))  # nothing is learned in the second of two epochs
    config = digits_config("float", granularity="scalar", epochs=2, schedule="steps")
    model = make_model(config, (8, 8, 1), 10, tmp_path, tmp_path)
    history = fit(config, model, datasets.load("digits"))
    assert history["val_loss"][0] == history["val_loss"][1]
    assert float(model.optimizer.learning_rate) == 0
    assert "learning_rate" not in history  # the configuration has it


@pytest.mark.parametrize(
    "dataset, sizes", [("mnist", {}), ("cifar10", {}), ("imagenette", {"size": 64, "train_size": 73})]
)
@pytest.mark.parametrize("holdout", [None, 100])
def test_images_are_loaded_as_the_configuration_says(monkeypatch, dataset, sizes, holdout):
    monkeypatch.setattr(datasets, "load", lambda name, **arguments: (name, arguments))
    config = make_config(dataset, "float", protocol="laptop", holdout=holdout)
    assert load_dataset(config) == (dataset, {**sizes, "holdout": holdout})


@on_tensorflow
@pytest.mark.parametrize("method", ["float", "nested"])
def test_convolutions_are_not_compiled_by_xla_on_tensorflow_without_a_gpu(tmp_path, method):
    import tensorflow

    if tensorflow.config.list_physical_devices("GPU"):
        pytest.skip("has a GPU")
    config = make_config("cifar10", method, protocol="laptop", backend=BACKEND)
    assert not make_model(config, (32, 32, 3), 10, tmp_path, tmp_path).jit_compile  # they take several times as long


def test_convolutions_alone_are_quantized_by_the_granularity(tmp_path):
    config = make_config("cifar10", "nested", 1e-11, "channel", protocol="laptop", backend=BACKEND)
    pairs = quantized_parameters(make_model(config, (32, 32, 3), 10, tmp_path, tmp_path))
    assert len(pairs) == 12
    for variable, quantizer in pairs:
        expected = (1, 1, variable.shape[2], 1) if len(variable.shape) == 4 else (1,)
        assert tuple(quantizer.scale.shape) == expected


def test_bigger_network_gets_float_images_as_they_are():
    dataset = datasets.Dataset("made", *(make_images(4, 32) * 2), 10, "made here")
    arguments = batches(make_config("cifar10", "float"), dataset)
    assert arguments["x"].dtype == "float32" and arguments["batch_size"] == 128
    np.testing.assert_array_equal(arguments["x"], dataset.x_train)
    np.testing.assert_array_equal(arguments["validation_data"][0], dataset.x_test)


@on_tensorflow
def test_input_scale_applies_to_augmented_images_too(small_imagenette):
    """Else the field of the configuration, and the digest in its name, would tell of something that was not done."""
    for input_scale in (1.0, 1 / 255):
        config = small_config("float", 0.0, input_scale=input_scale)
        arguments = batches(config, load_dataset(config))
        for examples in (arguments["x"], arguments["validation_data"]):
            images, _ = next(iter(examples))
            highest = float(images.numpy().max()) / input_scale
            assert 128 < highest <= 255.01


def make_images(number, size):
    """Return images of noise, dark or bright by their class of two, and their labels."""
    generator = np.random.default_rng(size)
    labels = np.arange(number, dtype="int32") % 2
    noise = generator.integers(0, 64, (number, size, size, 3)) + 128 * labels[:, None, None, None]
    return noise.astype("uint8"), labels


@pytest.fixture
def small_imagenette(monkeypatch):
    """Replace Imagenette by a few images of the configuration's size, and its network by two convolutions."""

    def load(name, size, train_size, holdout):
        assert holdout is None
        return datasets.Dataset(name, *make_images(96, train_size), *make_images(32, size), 2, "made here")

    def network(input_shape, num_classes):
        layers, regularizer = keras.layers, keras.regularizers.L2(1e-2)
        convolution = layers.Conv2D(4, 3, strides=2, kernel_regularizer=regularizer, name="convolution")
        features = [convolution, layers.BatchNormalization(), layers.ReLU(), layers.GlobalAveragePooling2D()]
        return keras.Sequential([keras.Input(input_shape), *features, layers.Dense(num_classes, name="output")])

    monkeypatch.setattr(datasets, "load", load)
    monkeypatch.setitem(training.NETWORKS, "imagenette", (network, training.NETWORKS["imagenette"][1]))


def small_config(method="nested", strength=1e-9, **settings):
    settings = {"protocol": "laptop", "epochs": 2, "batch_size": 32, "image_size": 16, "backend": BACKEND, **settings}
    return make_config("imagenette", method, strength, "channel", **settings)


@on_tensorflow
def test_augmented_images_are_trained_on_and_the_l2_term_is_not_in_the_cross_entropy(small_imagenette, tmp_path):
    record = run(small_config(), tmp_path, tmp_path)
    assert [p["shape"] for p in record["parameters"]] == [[3, 3, 3, 4], [4]]
    assert [p["granularity"] for p in record["parameters"]] == ["channel", "scalar"]
    model = make_model(small_config(), (16, 16, 3), 2, tmp_path, tmp_path)
    history = fit(small_config(), model, load_dataset(small_config()))
    assert history["val_loss"] == record["history"]["val_loss"]  # augmentation is seeded, too
    kernel = keras.ops.convert_to_numpy(model.get_layer("convolution").kernel).astype("float64")
    difference = history["val_loss"][-1] - history["val_cross_entropy"][-1]
    assert difference == pytest.approx(1e-2 * np.sum(kernel**2), rel=1e-3)


@on_tensorflow
def test_pretrained_run_starts_from_the_statistics_of_its_baseline_too(small_imagenette, tmp_path):
    config = small_config(regime="pretrained")
    model = make_model(config, (16, 16, 3), 2, tmp_path, tmp_path)
    with np.load(weights_path(float_config(config), tmp_path)) as archive:
        mean, variance = archive["arr_4"], archive["arr_5"]  # after kernel, bias, gamma and beta
    assert np.any(mean != 0) and np.any(variance != 1)
    (normalization,) = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    np.testing.assert_array_equal(normalization.moving_mean, mean)
    np.testing.assert_array_equal(normalization.moving_variance, variance)


# Several runs.


def test_failed_run_is_reported_and_the_others_are_run(tmp_path, pretend, capsys):
    configs = [digits_config(strength=strength) for strength in (0.0, 1e-9, 1e-8)]
    assert pretend({1e-9: RuntimeError("no memory")}) == []
    with pytest.raises(RuntimeError, match=rf"1 of 3 runs failed:\n{configs[1].id}: no memory"):
        run_all(configs, tmp_path, tmp_path)
    assert sorted(read_records(tmp_path)["strength"]) == [0, 1e-8]
    assert "RuntimeError: no memory" in capsys.readouterr().err


def test_damaged_record_is_reported_and_the_others_are_run(tmp_path, pretend):
    configs = [digits_config(strength=strength) for strength in (0.0, 1e-9)]
    strengths = pretend({})
    damaged = record_path(configs[0], tmp_path)
    damaged.parent.mkdir()
    damaged.write_text("{")
    with pytest.raises(RuntimeError, match=f"{damaged} is not a run record"):
        run_all(configs, tmp_path, tmp_path)
    assert strengths == [1e-9] and damaged.read_text() == "{"


def test_interrupted_batch_resumes(tmp_path, pretend):
    configs = [digits_config(strength=strength) for strength in (0.0, 1e-9, 1e-8)]
    pretend({1e-9: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        run_all(configs, tmp_path, tmp_path)
    assert record_path(configs[0], tmp_path).exists()
    strengths = pretend({})
    strengths.clear()
    records = run_all(configs, tmp_path, tmp_path)
    assert strengths == [1e-9, 1e-8]
    assert [record["config"]["strength"] for record in records] == [0, 1e-9, 1e-8]


def test_progress_is_shown_on_a_terminal_only(tmp_path, pretend, monkeypatch, capsys):
    pretend({})
    configs = [digits_config(strength=strength) for strength in (0.0, 1e-9)]
    run_all(configs, tmp_path, tmp_path)
    assert capsys.readouterr() == ("", "")  # a notebook's stored outputs would differ from run to run
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    run_all(configs, tmp_path, tmp_path)
    assert "training: 100%" in capsys.readouterr().err


def test_records_are_valid_json(nested, folders):
    def refuse(constant):
        raise AssertionError(constant)

    json.loads(record_path(nested[0], folders[0]).read_text(), parse_constant=refuse)


# Published methods.

# A penalty, and a codebook that is learned; the tests of `lqs.methods` have all.
PUBLISHED = {"msqe": (10.0, 4), "ttq": (0.0, None)}


@on_jax
@pytest.mark.parametrize("method", PUBLISHED)
def test_published_method_trains_and_its_file_comes_back(method, tmp_path):
    """Five epochs on digits give more than 80 %, and the file has its integers, scales and outputs, bit for bit."""
    strength, bits = PUBLISHED[method]
    settings = {"protocol": "compact", "epochs": 5, "batch_size": 100, "learning_rate": 1e-2, "bits": bits}
    config = digits_config(method, strength, "scalar", **settings)
    digits = datasets.load("digits")
    model = make_model(config, digits.input_shape, digits.num_classes, tmp_path, tmp_path)
    assert fit(config, model, digits)["val_accuracy"][-1] > 0.8
    write_weights(config, model, tmp_path)
    loaded = load(weights_path(config, tmp_path))
    quantizers = [[quantizer for _, quantizer in quantized_parameters(network)] for network in (model, loaded)]
    assert [quantizer.granularity for quantizer in quantizers[0]] == ["scalar", "scalar"]  # the kernels'
    for ours, theirs in zip(*quantizers, strict=True):
        np.testing.assert_array_equal(*[keras.ops.convert_to_numpy(q.scale) for q in (ours, theirs)])
    for ours, theirs in zip(*[model_integers(network).values() for network in (model, loaded)], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    x = digits.x_test[:100].astype("float32") / 16
    np.testing.assert_array_equal(*[keras.ops.convert_to_numpy(network(x)) for network in (model, loaded)])
