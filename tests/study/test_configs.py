"""Tests of `study.configs`: identities are stable, protocols filled in, mistakes named."""

import dataclasses

import pytest

from study.configs import FIELD, METHODS, PROTOCOLS, Config, float_config, make_config

# A value other than the one that `make_config("mnist", "nested", 1e-10, "row")` has, for every field.
OTHER_VALUES = {
    "dataset": "digits",
    "network": "other",
    "method": "max_bin",
    "strength": 1e-9,
    "granularity": "column",
    "regime": "pretrained",
    "seed": 43,
    "protocol": "laptop",
    "epochs": 4,
    "batch_size": 64,
    "learning_rate": 5e-4,
    "rounding": "nearest",
    "update_stalled": False,
    "epsilon": 1e-8,
    "backend": "tensorflow",
    "schedule": "steps",
    "image_size": 64,
    "input_scale": 1 / 255,
    "parametrization": "log",
    "initial_scale": 0.01,
    "code": "elias",
    "target_ratio": 20,
    "bits": 4,
    "precision": "tensorfloat32",
    "distillation": 0.5,
}


@pytest.fixture
def config():
    return make_config("mnist", "nested", 1e-10, "row")


@pytest.mark.parametrize(
    "arguments, known_id",
    [
        (("mnist", "nested", 1e-10, "row"), "thesis-nested-row-1e-10-scratch-s42-a677496b"),
        (("mnist", "float"), "thesis-float-scalar-0-scratch-s42-5fe8b495"),
    ],
)
def test_ids_are_those_of_committed_records(arguments, known_id):
    assert make_config(*arguments).id == known_id


def test_field_at_its_default_leaves_the_id(config):
    defaults = {"rounding": "floor", "update_stalled": True, "epsilon": 1e-7, "backend": "jax"}
    defaults |= {"schedule": "constant", "image_size": None, "input_scale": 1.0, "parametrization": "linear"}
    defaults |= {"initial_scale": 100 * 2**-23, "code": "geometric", "target_ratio": None, "bits": None}
    defaults |= {"precision": "float32", "distillation": 0.0}
    assert {f.name for f in dataclasses.fields(Config) if f.default is not dataclasses.MISSING} == set(defaults)
    assert make_config("mnist", "nested", 1e-10, "row", **defaults).id == config.id


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Config)])
def test_every_field_changes_the_id(config, name):
    assert getattr(config, name) != OTHER_VALUES[name]
    assert dataclasses.replace(config, **{name: OTHER_VALUES[name]}).id != config.id


def test_strengths_that_look_alike_have_different_ids():
    first, second = (make_config("mnist", "nested", strength).id for strength in (1e-10, 1.00000001e-10))
    assert first.rsplit("-", 1)[0] == second.rsplit("-", 1)[0] and first != second


def test_whole_number_is_the_same_strength():
    assert make_config("mnist", "nested", 0).id == make_config("mnist", "nested", 0.0).id


@pytest.mark.parametrize(
    "protocol, dataset, values",
    [
        ("thesis", "mnist", {"epochs": 20, "batch_size": 32, "learning_rate": 1e-4}),
        ("thesis", "cifar10", {"epochs": 100, "batch_size": 128, "learning_rate": 1e-4}),
        (
            "thesis",
            "imagenette",
            {"epochs": 100, "batch_size": 64, "learning_rate": 1e-4, "schedule": "steps", "image_size": 224},
        ),
        ("laptop", "mnist", {"epochs": 1, "batch_size": 32, "learning_rate": 2e-3, "backend": "jax"}),
        ("laptop", "cifar10", {"epochs": 5, "batch_size": 128, "learning_rate": 2e-3, "backend": "tensorflow"}),
        (
            "laptop",
            "imagenette",
            {"epochs": 10, "batch_size": 64, "learning_rate": 1e-3, "schedule": "steps", "image_size": 64},
        ),
        ("smoke", "digits", {"epochs": 10, "batch_size": 32, "learning_rate": 8e-3}),
    ],
)
def test_protocol_fills_in_its_values(protocol, dataset, values):
    config = make_config(dataset, "float", protocol=protocol)
    assert {name: getattr(config, name) for name in values} == values
    network = {"mnist": "dense", "digits": "dense"}.get(dataset, dataset)
    assert (config.network, config.protocol) == (network, protocol)


@pytest.mark.parametrize("dataset", PROTOCOLS["laptop"])
def test_laptop_protocol_keeps_the_product_of_learning_rate_and_epochs(dataset):
    thesis, laptop = (make_config(dataset, "float", protocol=protocol) for protocol in ("thesis", "laptop"))
    assert laptop.epochs * laptop.learning_rate == pytest.approx(thesis.epochs * thesis.learning_rate)
    assert (laptop.batch_size, laptop.schedule) == (thesis.batch_size, thesis.schedule)  # so steps are as epochs


def test_overrides_win():
    config = make_config("digits", "nested", protocol="smoke", epochs=1, epsilon=1e-9)
    assert (config.epochs, config.epsilon, config.batch_size) == (1, 1e-9, 32)


@pytest.mark.parametrize(
    "method, rule, penalty",
    [
        ("float", None, None),
        ("nested", "gradient_ratio", None),
        ("max_bin", "frozen", "max_bin"),
        ("inverse", "frozen", "inverse"),
        ("difference", "frozen", "difference"),
    ],
)
def test_method_stands_for_rule_and_penalty(method, rule, penalty):
    assert method in METHODS
    config = make_config("mnist", method)
    assert (config.rule, config.penalty) == (rule, penalty)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("method", "ternary", "`method` must be one of .*'nested'.* Received: method='ternary'"),
        ("granularity", "rows", "`granularity` must be one of .*'row'.* Received: granularity='rows'"),
        ("regime", "warm", "`regime` must be one of .*'pretrained'.* Received: regime='warm'"),
        ("rounding", "up", "`rounding` must be one of .*'nearest'.* Received: rounding='up'"),
        ("backend", "torch", "`backend` must be one of .*'jax'.* Received: backend='torch'"),
        ("strength", -1e-9, "`strength` must be finite and >= 0. Received: strength=-1e-09"),
        ("strength", float("nan"), "`strength` must be finite and >= 0. Received: strength=nan"),
        ("epsilon", "1e-9", "`epsilon` must be finite and >= 0. Received: epsilon='1e-9'"),
        ("learning_rate", float("inf"), "`learning_rate` must be finite and >= 0. Received: learning_rate=inf"),
        ("epochs", 0, "`epochs` must be a positive integer. Received: epochs=0"),
        ("epochs", True, "`epochs` must be a positive integer. Received: epochs=True"),
        ("schedule", "linear", "`schedule` must be one of .*'steps'.* Received: schedule='linear'"),
        ("parametrization", "exp", "`parametrization` must be one of .*'log'.* Received: parametrization='exp'"),
        ("code", "huffman", "`code` must be one of .*'elias'.* Received: code='huffman'"),
        ("input_scale", "1/255", "`input_scale` must be finite and >= 0. Received: input_scale='1/255'"),
        ("initial_scale", -0.01, "`initial_scale` must be finite and >= 0. Received: initial_scale=-0.01"),
        ("target_ratio", float("inf"), "`target_ratio` must be finite and >= 0. Received: target_ratio=inf"),
        ("image_size", 0, "`image_size` must be a positive integer. Received: image_size=0"),
        ("image_size", "64", "`image_size` must be a positive integer. Received: image_size='64'"),
        ("batch_size", 32.0, "`batch_size` must be a positive integer. Received: batch_size=32.0"),
    ],
)
def test_wrong_value_is_named(config, field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **{field: value})


@pytest.mark.parametrize("dataset, protocol", [("digits", "thesis"), ("imagenette", "smoke"), ("mnist", "quick")])
def test_protocol_without_the_dataset(dataset, protocol):
    message = f"must be among .*'thesis'.* Received: protocol='{protocol}', dataset='{dataset}'"
    with pytest.raises(ValueError, match=message):
        make_config(dataset, "nested", protocol=protocol)


def test_unknown_override():
    with pytest.raises(TypeError, match="momentum"):
        make_config("mnist", "nested", momentum=0.9)


def test_float_config_keeps_what_the_float_network_depends_on():
    settings = {
        "seed": 43,
        "protocol": "laptop",
        "epochs": 2,
        "batch_size": 16,
        "learning_rate": 0.5,
        "epsilon": 1e-8,
        "backend": "tensorflow",
        "schedule": "steps",
        "image_size": 32,
    }
    config = make_config(
        "mnist", "nested", 1e-9, "row", "pretrained", rounding="nearest", update_stalled=False, **settings
    )
    assert float_config(config) == make_config("mnist", "float", **settings)


@pytest.mark.parametrize(
    "method, bits, message",
    [
        ("lsq", None, "`bits` must be an integer for the method 'lsq'. Received: bits=None"),
        ("xnor", 2, "`bits` must be None for the method 'xnor'. Received: bits=2"),
        ("float", 2, "`bits` must be None for the method 'float'. Received: bits=2"),
        ("nested", 1, "`bits` must be None or an integer from 2 to 24. Received: bits=1"),
    ],
)
def test_bits_fit_the_method(method, bits, message):
    with pytest.raises(ValueError, match=message):
        make_config("mnist", method, bits=bits)


def test_published_methods_are_apart_from_the_others():
    assert set(METHODS) & set(FIELD) == set() and {method.bits for method in FIELD.values()} == {"required", "none"}


def test_precision_of_a_gpu_is_for_jax():
    with pytest.raises(
        ValueError, match="`precision` must be one of .'float32',.. Received: precision='tensorfloat32'"
    ):
        make_config("mnist", "float", backend="tensorflow", precision="tensorfloat32")


@pytest.mark.parametrize("share, size", [(1.5, None), (-0.1, None), ("half", None), (0.5, 32)])
def test_distillation_is_a_share(share, size):
    message = f"`distillation` must be a share from 0 to 1, .*Received: distillation={share!r}, image_size={size}"
    with pytest.raises(ValueError, match=message):
        make_config("mnist", "float", distillation=share, image_size=size)


def test_float_config_is_its_own():
    config = make_config("mnist", "float", seed=44)
    assert float_config(config) == config


def test_config_cannot_be_changed(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
