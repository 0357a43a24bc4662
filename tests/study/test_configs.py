"""Tests of `study.configs`: identities are stable, protocols filled in, mistakes named."""

import json
import typing

import pydantic
import pytest

from lqs.granularity import GRANULARITIES
from lqs.penalties import CODES
from lqs.scales import MIN_SCALE, PARAMETRIZATIONS
from study.configs import PART_OF_FIELD, Config, Data, Quantizer, Training, float_config, make_config
from study.paths import RUNS

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
    "holdout": 300,
    "l2": 1e-4,
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
    defaults |= {"precision": "float32", "distillation": 0.0, "holdout": None, "l2": 0.0}
    fields = {name: field for part in (Data, Quantizer, Training, Config) for name, field in part.model_fields.items()}
    optional = {name for name, field in fields.items() if not field.is_required()}
    assert optional - {"strength", "granularity"} == set(defaults)  # the two are in the digest all the same
    assert make_config("mnist", "nested", 1e-10, "row", **defaults).id == config.id


@pytest.mark.parametrize("name", PART_OF_FIELD)
def test_every_field_changes_the_id(config, name):
    assert config.flat()[name] != OTHER_VALUES[name]
    assert config.replace(**{name: OTHER_VALUES[name]}).id != config.id


def test_strengths_that_look_alike_have_different_ids():
    first, second = (make_config("mnist", "nested", strength).id for strength in (1e-10, 1.00000001e-10))
    assert first.rsplit("-", 1)[0] == second.rsplit("-", 1)[0] and first != second


def test_whole_number_is_the_same_strength():
    assert make_config("mnist", "nested", 0).id == make_config("mnist", "nested", 0.0).id


def test_overrides_win():
    config = make_config("digits", "nested", protocol="smoke", epochs=1, epsilon=1e-9)
    assert (config.training.epochs, config.training.epsilon, config.training.batch_size) == (1, 1e-9, 32)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("method", "ternary", "must be one of .*'nested'.* Received: method='ternary'"),
        ("granularity", "rows", "must be 'scalar', 'row'.* Received: granularity='rows'"),
        ("regime", "warm", "must be 'scratch' or 'pretrained'. Received: regime='warm'"),
        ("rounding", "up", "must be 'floor' or 'nearest'. Received: rounding='up'"),
        ("backend", "torch", "must be 'jax' or 'tensorflow'. Received: backend='torch'"),
        ("strength", -1e-9, "must be greater than or equal to 0. Received: strength=-1e-09"),
        ("strength", float("nan"), "must be a finite number. Received: strength=nan"),
        ("epsilon", "1e-9", "must be a valid number. Received: epsilon='1e-9'"),
        ("learning_rate", float("inf"), "must be a finite number. Received: learning_rate=inf"),
        ("epochs", 0, "must be greater than or equal to 1. Received: epochs=0"),
        ("epochs", True, "must be a valid integer. Received: epochs=True"),
        ("schedule", "linear", "must be 'constant', 'steps' or 'cosine'. Received: schedule='linear'"),
        ("parametrization", "exp", "must be 'linear' or 'log'. Received: parametrization='exp'"),
        ("code", "huffman", "must be 'geometric' or 'elias'. Received: code='huffman'"),
        ("input_scale", "1/255", "must be a valid number. Received: input_scale='1/255'"),
        ("initial_scale", -0.01, "must be greater than or equal to 0. Received: initial_scale=-0.01"),
        ("target_ratio", float("inf"), "must be a finite number. Received: target_ratio=inf"),
        ("image_size", 0, "must be greater than or equal to 1. Received: image_size=0"),
        ("image_size", "64", "must be a valid integer. Received: image_size='64'"),
        ("batch_size", 32.0, "must be a valid integer. Received: batch_size=32.0"),
        ("bits", 1, "must be greater than or equal to 2. Received: bits=1"),
        ("bits", 25, "must be less than or equal to 24. Received: bits=25"),
        ("distillation", 1.5, "must be less than or equal to 1. Received: distillation=1.5"),
        ("distillation", -0.1, "must be greater than or equal to 0. Received: distillation=-0.1"),
        ("distillation", "half", "must be a valid number. Received: distillation='half'"),
        ("momentum", 0.9, "is unknown. Received: momentum=0.9"),
    ],
)
def test_wrong_value_is_named(config, field, value, message):
    with pytest.raises(ValueError, match=f"^Argument `{field}` {message}$"):
        config.replace(**{field: value})


def test_every_wrong_value_is_named_and_every_missing_one():
    fields = make_config("mnist", "float").flat()
    del fields["network"]
    with pytest.raises(ValueError, match="^Argument `network` is required.\nArgument `epochs` must be .*$"):
        Config.from_flat({**fields, "epochs": -1})


def test_choices_are_those_of_the_library():
    def choices(name):
        return set(typing.get_args(Quantizer.model_fields[name].annotation))

    assert choices("granularity") == set(GRANULARITIES) - {"output"}  # the thesis's
    assert choices("parametrization") == set(PARAMETRIZATIONS)
    assert choices("code") == set(CODES)
    assert Quantizer.model_fields["initial_scale"].default == MIN_SCALE


@pytest.mark.parametrize("dataset, protocol", [("digits", "thesis"), ("imagenette", "smoke"), ("mnist", "quick")])
def test_protocol_without_the_dataset(dataset, protocol):
    message = f"must be among .*'thesis'.* Received: protocol='{protocol}', dataset='{dataset}'"
    with pytest.raises(ValueError, match=message):
        make_config(dataset, "nested", protocol=protocol)


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
        "network": "other",
    }
    config = make_config(
        "mnist", "nested", 1e-9, "row", "pretrained", rounding="nearest", update_stalled=False, **settings
    )
    assert float_config(config) == make_config("mnist", "float", **settings)


def test_precision_of_a_gpu_is_for_jax():
    message = "`precision` must be 'float32' on the backend 'tensorflow'. Received: precision='tensorfloat32'"
    with pytest.raises(ValueError, match=message):
        make_config("mnist", "float", backend="tensorflow", precision="tensorfloat32")


def test_augmented_images_have_no_soft_labels():
    message = "`distillation` must be 0 where images are augmented. Received: distillation=0.5, image_size=32"
    with pytest.raises(ValueError, match=message):
        make_config("mnist", "float", distillation=0.5, image_size=32)


def test_the_float_baseline_never_sees_what_is_held_out():
    config = make_config("mnist", "difference", 1e-8, holdout=300, distillation=0.5)
    assert float_config(config).data.holdout == 300


def test_float_config_is_its_own():
    config = make_config("mnist", "float", seed=44)
    assert float_config(config) == config


def test_config_cannot_be_changed(config):
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.training.epochs = 1


# The flat form.


def test_every_field_is_in_the_part_that_the_table_says():
    parts = {"data": Data, "quantizer": Quantizer, "training": Training, None: Config}
    in_parts = {name: key for key, part in parts.items() for name in part.model_fields if name not in parts}
    assert in_parts == PART_OF_FIELD


def test_integer_stays_one():
    """Else the digest of the id, and with it the name of the record, would be another."""
    config = make_config("mnist", "code_length", 0.25, target_ratio=150)
    assert json.dumps(config.flat()["target_ratio"]) == "150"
    assert config.id != config.replace(target_ratio=150.5).id


def test_committed_records_have_the_ids_of_their_files_and_come_back():
    paths = sorted(RUNS.glob("*/*.json"))
    assert len(paths) > 600
    for path in paths:
        fields = json.loads(path.read_text())["config"]
        config = Config.from_flat(fields)
        assert config.id == path.stem
        flat = config.flat()
        # Fields that came later have their defaults, and the others their order.
        assert list(fields.items()) == [(name, value) for name, value in flat.items() if name in fields]


def test_schema_has_the_choices_and_the_limits():
    definitions = Config.model_json_schema()["$defs"]
    assert "lsq" in definitions["Quantizer"]["properties"]["method"]["enum"]
    assert definitions["Training"]["properties"]["epochs"]["minimum"] == 1
    assert definitions["Training"]["required"] == ["epochs", "batch_size", "learning_rate"]
