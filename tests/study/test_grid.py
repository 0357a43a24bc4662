"""Tests of `study.grid`: the grid that the repository comes with, and mistakes in others."""

from collections import Counter

import pytest
import yaml

from study.grid import Grid, curve_configs, curve_name, read_grid
from study.methods import validate_quantizer

FAMILY = {"dataset": "digits", "protocol": "smoke", "method": "nested", "strengths": [0, 1e-8]}


def values(config, names):
    """Return the values of some fields, whatever their part."""
    flat = config.flat()
    return tuple(flat[name] for name in names.split())


@pytest.fixture(scope="module")
def grid():
    return read_grid()


@pytest.fixture
def read(tmp_path):
    """Function that writes a family as a grid of one batch and returns its curves."""

    def run(family):
        (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"batch": [family]}))
        return read_grid(tmp_path / "grid.yaml")["batch"]

    return run


def test_curves_have_unique_names(grid):
    names = Counter(curve_name(curve) for curves in grid.values() for curve in curves)
    assert len(names) > 40 and max(names.values()) == 1


def test_no_run_is_in_two_curves(grid):
    ids = Counter(config.id for curves in grid.values() for curve in curves for config in curve_configs(curve))
    assert max(ids.values()) == 1


def test_mnist_grid_is_that_of_the_thesis(grid):
    configs = [config for curve in grid["mnist"] for config in curve_configs(curve)]
    assert {values(c, "dataset protocol epochs backend") for c in configs} == {("mnist", "thesis", 20, "jax")}
    settings = Counter(values(c, "method granularity regime seed") for c in configs)
    granularities, regimes = ("row", "column", "scalar"), ("scratch", "pretrained")
    nested = {("nested", g, r, seed): 5 for g in granularities for r in regimes for seed in (42, 43, 44)}
    terms = ("max_bin", "inverse", "difference")
    penalties = {(term, g, r, 42): 10 for term in terms for g in granularities for r in regimes}
    floats = {("float", "scalar", "scratch", seed): 1 for seed in (42, 43, 44)}
    assert settings == {**nested, **penalties, **floats}
    assert len(configs) == 3 * 5 * 2 * 3 + 3 * 3 * 10 * 2 + 3
    strengths = {
        method: {c.quantizer.strength for c in configs if c.quantizer.method == method} for method in ("nested", *terms)
    }
    assert strengths["nested"] == {0, 1e-11, 1e-10, 1e-9, 1e-8}
    gammas = {0, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4}
    assert all(strengths[term] == gammas for term in terms)


@pytest.mark.parametrize(
    "dataset, gammas",
    [
        ("cifar10", {0, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7}),
        ("imagenette", {0, 1e-11, 1e-10, 1e-9, 1e-8, 1}),
    ],
)
def test_grids_of_the_convolutional_networks_are_those_of_the_thesis(grid, dataset, gammas):
    configs = [config for curve in grid[dataset] for config in curve_configs(curve)]
    assert {values(c, "dataset protocol epochs seed") for c in configs} == {(dataset, "thesis", 100, 42)}
    strengths = {"float": {0}, "nested": {0, 1e-11, 1e-10, 1e-9, 1e-8}}
    strengths |= dict.fromkeys(("max_bin", "inverse", "difference"), gammas)
    granularities, regimes = ("channel", "row", "column", "scalar"), ("scratch", "pretrained")
    settings = {(m, g, r) for m in strengths for g in granularities for r in regimes if m != "float"}
    expected = {(*setting, s) for setting in settings for s in strengths[setting[0]]}
    expected.add(("float", "scalar", "scratch", 0))
    assert Counter(values(c, "method granularity regime strength") for c in configs) == Counter(expected)


@pytest.mark.parametrize("dataset", ["cifar10", "imagenette"])
def test_laptop_batch_is_part_of_the_grid_of_the_thesis(grid, dataset):
    batches = {
        name: [c for curve in grid[name] for c in curve_configs(curve)] for name in (dataset, f"{dataset}-laptop")
    }
    settings = {
        name: {values(c, "dataset method granularity regime seed strength") for c in configs}
        for name, configs in batches.items()
    }
    assert settings[f"{dataset}-laptop"] < settings[dataset]
    laptop = batches[f"{dataset}-laptop"]
    assert {values(c, "protocol backend") for c in laptop} == {("laptop", "tensorflow")}  # XLA's convolutions are slow


def test_shorter_protocol_on_mnist_has_the_seeds_of_the_long_one(grid):
    batches = {name: [c for curve in grid[name] for c in curve_configs(curve)] for name in ("mnist", "mnist-ablations")}
    settings = {
        protocol: {values(c, "method granularity regime strength seed") for c in configs if c.protocol == protocol}
        for protocol, configs in (("thesis", batches["mnist"]), ("laptop", batches["mnist-ablations"]))
    }
    assert settings["laptop"] < settings["thesis"] and len(settings["laptop"]) == 3 + 2 * 5 * 3 + 10


@pytest.mark.parametrize(
    "batch, network, ratios, seeds",
    [
        ("lenet-300-100", "lenet_300_100", (200, 250, 300, 350), range(42, 47)),
        ("lenet-5", "lenet_5_caffe", (600, 900), range(42, 45)),
    ],
)
def test_batches_of_the_fields_networks_ask_for_sizes(grid, batch, network, ratios, seeds):
    configs = [config for curve in grid[batch] for config in curve_configs(curve)]
    settings = {values(c, "network holdout method target_ratio seed") for c in configs}
    asked = [("float", None), *(("code_length", ratio) for ratio in ratios)]
    assert settings == {(network, 5000, *what, seed) for what in asked for seed in seeds}


def test_smoke_batch_needs_no_download(grid):
    assert {curve["dataset"] for curve in grid["smoke"]} == {"digits"}
    assert {curve["regime"] for curve in grid["smoke"]} == {"scratch", "pretrained"}


def test_family_stands_for_every_combination(read):
    curves = read({**FAMILY, "granularity": ["row", "scalar"], "regime": ["scratch", "pretrained"], "seed": [1, 2, 3]})
    combinations = {(curve["granularity"], curve["regime"], curve["seed"]) for curve in curves}
    assert len(curves) == len(combinations) == 12
    assert all(curve["strengths"] == [0, 1e-8] and curve["overrides"] == {} for curve in curves)


def test_defaults(read):
    (curve,) = read(FAMILY)
    assert curve_name(curve) == "digits-smoke-nested-scalar-scratch-s42"


def test_overrides_are_in_the_name_and_in_every_configuration(read):
    (curve,) = read({**FAMILY, "overrides": {"rounding": "nearest", "epochs": 1}})
    assert curve_name(curve) == "digits-smoke-nested-scalar-scratch-s42-epochs=1-rounding=nearest"
    configs = curve_configs(curve)
    assert [values(c, "strength epochs rounding") for c in configs] == [
        (0, 1, "nearest"),
        (1e-8, 1, "nearest"),
    ]


def test_backend_of_the_overrides_wins(read):
    (plain,) = read(FAMILY)
    (fixed,) = read({**FAMILY, "overrides": {"backend": "tensorflow"}})
    assert curve_configs(plain)[0].backend == "jax"
    assert curve_configs(plain, backend="tensorflow")[0].backend == "tensorflow"
    assert curve_configs(fixed, backend="jax")[0].backend == "tensorflow"


@pytest.mark.parametrize("key", FAMILY)
def test_missing_field(read, key):
    with pytest.raises(ValueError, match=f"^Batch 'batch', family 1: Argument `{key}` is required.$"):
        read({name: value for name, value in FAMILY.items() if name != key})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"granularities": ["row"]}, r"Argument `granularities` is unknown. Received: granularities=\['row'\]"),
        ({"granularity": ["rows"]}, "Argument `granularity` must be 'scalar'.* Received: granularity='rows'"),
        ({"granularity": "row"}, "Argument `granularity` must be a valid list. Received: granularity='row'"),
        ({"strengths": [0, -1]}, "Argument `strengths` must be greater than or equal to 0. Received: strengths=-1"),
        ({"strengths": []}, "Argument `strengths` .* at least 1 item"),
        ({"seed": ["42"]}, "Argument `seed` must be a valid integer. Received: seed='42'"),
        ({"method": "neted"}, "Argument `method` must be one of .* Received: method='neted'"),
        ({"protocol": "thesis"}, ".* Received: protocol='thesis', dataset='digits'"),
        # What YAML makes of 1e-9.
        ({"overrides": {"epsilon": "1e-9"}}, "Argument `epsilon` must be a valid number. Received: epsilon='1e-9'"),
        ({"overrides": {"momentum": 1}}, "Argument `momentum` is unknown. Received: momentum=1"),
    ],
)
def test_invalid_setting_is_reported_on_reading_with_its_place(read, change, message):
    with pytest.raises(ValueError, match=f"^Batch 'batch', family 1: {message}"):
        read({**FAMILY, **change})


def test_schema_is_that_of_the_file():
    schema = Grid.model_json_schema()
    assert schema["additionalProperties"]["items"] == {"$ref": "#/$defs/Family"}
    family = schema["$defs"]["Family"]
    assert family["required"] == list(FAMILY) and family["additionalProperties"] is False


def test_methods_have_what_they_need(grid):
    for curves in grid.values():
        for curve in curves:
            validate_quantizer(curve_configs(curve)[0].quantizer)
