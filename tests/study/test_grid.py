"""Tests of `study.grid`: the grid that the repository comes with, and mistakes in others."""

from collections import Counter

import pytest
import yaml

from study.grid import curve_configs, curve_name, read_grid

FAMILY = {"dataset": "digits", "protocol": "smoke", "method": "nested", "strengths": [0, 1e-8]}


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
    assert {(c.dataset, c.protocol, c.epochs, c.backend) for c in configs} == {("mnist", "thesis", 20, "jax")}
    settings = Counter((c.method, c.granularity, c.regime, c.seed) for c in configs)
    granularities, regimes = ("row", "column", "scalar"), ("scratch", "pretrained")
    nested = {("nested", g, r, seed): 5 for g in granularities for r in regimes for seed in (42, 43, 44)}
    terms = ("max_bin", "inverse", "difference")
    penalties = {(term, g, r, 42): 10 for term in terms for g in granularities for r in regimes}
    floats = {("float", "scalar", "scratch", seed): 1 for seed in (42, 43, 44)}
    assert settings == {**nested, **penalties, **floats}
    assert len(configs) == 3 * 5 * 2 * 3 + 3 * 3 * 10 * 2 + 3
    strengths = {method: {c.strength for c in configs if c.method == method} for method in ("nested", *terms)}
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
    assert {(c.dataset, c.protocol, c.epochs, c.seed) for c in configs} == {(dataset, "thesis", 100, 42)}
    strengths = {"float": {0}, "nested": {0, 1e-11, 1e-10, 1e-9, 1e-8}}
    strengths |= dict.fromkeys(("max_bin", "inverse", "difference"), gammas)
    granularities, regimes = ("channel", "row", "column", "scalar"), ("scratch", "pretrained")
    settings = {(m, g, r) for m in strengths for g in granularities for r in regimes if m != "float"}
    expected = {(*setting, s) for setting in settings for s in strengths[setting[0]]}
    expected.add(("float", "scalar", "scratch", 0))
    assert Counter((c.method, c.granularity, c.regime, c.strength) for c in configs) == Counter(expected)


@pytest.mark.parametrize("dataset", ["cifar10", "imagenette"])
def test_laptop_batch_is_part_of_the_grid_of_the_thesis(grid, dataset):
    batches = {
        name: [c for curve in grid[name] for c in curve_configs(curve)] for name in (dataset, f"{dataset}-laptop")
    }
    settings = {
        name: {(c.dataset, c.method, c.granularity, c.regime, c.seed, c.strength) for c in configs}
        for name, configs in batches.items()
    }
    assert settings[f"{dataset}-laptop"] < settings[dataset]
    laptop = batches[f"{dataset}-laptop"]
    assert {(c.protocol, c.backend) for c in laptop} == {("laptop", "tensorflow")}  # XLA's convolutions are slow


def test_shorter_protocol_on_mnist_has_the_seeds_of_the_long_one(grid):
    batches = {name: [c for curve in grid[name] for c in curve_configs(curve)] for name in ("mnist", "mnist-ablations")}
    settings = {
        protocol: {(c.method, c.granularity, c.regime, c.strength, c.seed) for c in configs if c.protocol == protocol}
        for protocol, configs in (("thesis", batches["mnist"]), ("laptop", batches["mnist-ablations"]))
    }
    assert settings["laptop"] < settings["thesis"] and len(settings["laptop"]) == 3 + 2 * 5 * 3 + 10


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
    assert [(c.strength, c.epochs, c.rounding) for c in configs] == [(0, 1, "nearest"), (1e-8, 1, "nearest")]


def test_backend_of_the_overrides_wins(read):
    (plain,) = read(FAMILY)
    (fixed,) = read({**FAMILY, "overrides": {"backend": "tensorflow"}})
    assert curve_configs(plain)[0].backend == "jax"
    assert curve_configs(plain, backend="tensorflow")[0].backend == "tensorflow"
    assert curve_configs(fixed, backend="jax")[0].backend == "tensorflow"


@pytest.mark.parametrize("key", FAMILY)
def test_missing_key(read, key):
    with pytest.raises(ValueError, match=rf"A family needs .*missing \['{key}'\], unknown \[\]"):
        read({name: value for name, value in FAMILY.items() if name != key})


def test_unknown_key(read):
    with pytest.raises(ValueError, match=r"A family needs .*missing \[\], unknown \['granularities'\]"):
        read({**FAMILY, "granularities": ["row"]})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"granularity": ["rows"]}, "Received: granularity='rows'"),
        ({"strengths": [0, -1]}, "Received: strength=-1.0"),
        ({"protocol": "thesis"}, "Received: protocol='thesis', dataset='digits'"),
        ({"overrides": {"epsilon": "1e-9"}}, "Received: epsilon='1e-9'"),  # what YAML makes of 1e-9
    ],
)
def test_invalid_setting_is_reported_on_reading(read, change, message):
    with pytest.raises(ValueError, match=message):
        read({**FAMILY, **change})
