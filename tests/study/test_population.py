"""Tests of `study.gpu.population`: records, resuming and the command, on scikit-learn's digits."""

import math

import keras
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from lqs.file.saving import load
from lqs.inspection import quantized_parameters
from study import training
from study.configs import float_config, make_config
from study.gpu import population
from study.gpu.epochs import make_epoch
from study.gpu.population import Clock, checkpoint_path, main, train_population
from study.records import read_record, read_records, record_path
from study.statistics import final_statistics
from study.weights import weights_path

IS_JAX = keras.backend.backend() == "jax"
needs_jax = pytest.mark.skipif(not IS_JAX, reason="jax.vmap")
EPOCHS = 2


def digits_config(strength=0.0, seed=42, method="nested", granularity="row", **settings):
    settings = {"protocol": "smoke", "epochs": EPOCHS, "batch_size": 100, "backend": "jax", **settings}
    return make_config("digits", method, strength, granularity, seed=seed, **settings)


def folders(path):
    """Return the folders of records, weights and checkpoints under a path."""
    return path / "runs", path / "weights", path / "checkpoints"


def result(record):
    """Return what a record says of the trained network."""
    return {key: record[key] for key in ("history", "final", "parameters")}


class Fits(Clock):
    """A clock by which a number of pieces of work of a kind fit."""

    def __init__(self, **numbers):
        super().__init__()
        self.left = numbers

    def fits(self, kind):
        self.left[kind] = self.left.get(kind, math.inf) - 1
        return self.left[kind] >= 0


class Killed(Clock):
    """A clock that ends the process before the second epoch."""

    def fits(self, kind):
        if kind == "epoch":
            raise KeyboardInterrupt
        return True


CONFIGS = [digits_config(strength, seed) for strength in (0.0, 1e-8) for seed in (1, 2)]


@pytest.fixture(scope="module", autouse=True)
def _compiled_once():
    """Keep the epoch of a population: it is a function of the state alone, and takes seconds to compile."""
    epochs = {}

    def make_epoch_once(configs, *arguments):
        key = tuple(config.id for config in configs)
        if key not in epochs:
            epochs[key] = make_epoch(configs, *arguments)
        return epochs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(population, "make_epoch", make_epoch_once)
        patch.setattr(training, "STEPS_PER_EXECUTION", 1)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return folder and records of a population of four."""
    path = tmp_path_factory.mktemp("population")
    return path, train_population(CONFIGS, *folders(path))


# Records.


@needs_jax
def test_records_are_written_and_read(trained):
    path, records = trained
    assert [read_record(config, path / "runs") for config in CONFIGS] == records
    table = read_records(path / "runs")
    assert set(table["population"]) == {4} and len(set(table["seconds"])) == 1
    assert sorted(zip(table["strength"], table["seed"], strict=True)) == [(0.0, 1), (0.0, 2), (1e-8, 1), (1e-8, 2)]
    assert list((path / "checkpoints" / "digits").iterdir()) == []


@needs_jax
def test_record_is_that_of_the_run_alone(trained, tmp_path):
    """The examples come in the same order, so that only rounding differs, to the precision of a few integers."""
    ours, alone = trained[1][3], training.run(CONFIGS[3], tmp_path, tmp_path)
    assert ours.keys() == alone.keys() and ours["config"] == alone["config"]
    assert ours["environment"].keys() == {*alone["environment"], "population"}
    assert ours["final"].keys() == alone["final"].keys() and ours["history"].keys() == alone["history"].keys()
    for name, values in alone["history"].items():
        tolerance = {"rel": 0.01, "abs": 1} if name in ("unique", "min", "max") else {"rel": 1e-3, "abs": 1e-3}
        assert ours["history"][name] == pytest.approx(values, **tolerance), name
    assert [parameter["name"] for parameter in ours["parameters"]] == [p["name"] for p in alone["parameters"]]
    for name in ("scale", "entropy_bits"):
        for parameter, expected in zip(ours["parameters"], alone["parameters"], strict=True):
            assert parameter[name] == pytest.approx(expected[name], rel=0.01), parameter["name"]


@needs_jax
def test_population_of_one(trained, tmp_path):
    (record,) = train_population(CONFIGS[2:3], *folders(tmp_path))
    assert record["environment"]["population"] == 1
    expected = trained[1][2]["history"]
    for name, values in record["history"].items():
        assert values == pytest.approx(expected[name], rel=1e-3, abs=1e-3), name


@pytest.mark.slow
@needs_jax
def test_statistics_of_integers_are_by_the_scales_that_were_measured(tmp_path):
    """No integer but those from -7 to 7 if the largest magnitude is 7 times the scale."""
    configs = [digits_config(seed=seed, method="min_max", granularity="scalar", bits=4) for seed in (1, 2)]
    for record in train_population(configs, *folders(tmp_path)):
        for name in ("unique", "min", "max"):
            assert record["history"][name][-1] == record["final"][name]


@needs_jax
def test_kept_network_is_that_of_the_record_and_of_its_own_strength(trained):
    path, records = trained
    for config, record in zip(CONFIGS, records, strict=True):
        model = load(weights_path(config, path / "weights"))
        assert final_statistics(model)["unique"] == record["final"]["unique"]
        rules = [quantizer.rule for _, quantizer in quantized_parameters(model)]
        assert {rule.get_config()["threshold"] for rule in rules} == {config.quantizer.strength}
        assert {float(rule.threshold) for rule in rules} == {np.float32(config.quantizer.strength)}
    assert records[0]["final"]["unique"] > 20 * records[2]["final"]["unique"]


@pytest.mark.slow
@needs_jax
def test_pretrained_members_start_from_the_baseline_of_their_seed(tmp_path):
    configs = [digits_config(0.0, seed, regime="pretrained", epochs=1, learning_rate=1e-3) for seed in (1, 2)]
    records = train_population(configs, *folders(tmp_path))
    baselines = [read_record(float_config(config), tmp_path / "runs") for config in configs]
    assert [baseline["environment"]["population"] for baseline in baselines] == [2, 2]
    for record, baseline in zip(records, baselines, strict=True):
        assert baseline["parameters"] == [] and "unique" not in baseline["history"]
        assert record["final"]["loss"] < 0.7 * baseline["final"]["loss"]
    assert baselines[0]["final"] != baselines[1]["final"]


# Resuming.


@pytest.mark.slow
@needs_jax
def test_interrupted_population_gives_the_same_integers(trained, tmp_path, monkeypatch):
    """Killed after an epoch, and stopped after a record: the others then go on without those that have theirs."""
    path = checkpoint_path(CONFIGS[0], tmp_path / "checkpoints")
    monkeypatch.setattr(population, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    with pytest.raises(KeyboardInterrupt):
        train_population(CONFIGS, *folders(tmp_path), Killed())
    assert read_records(tmp_path / "runs").empty
    with np.load(path) as archive:
        seconds = float(archive["seconds"])
    assert train_population(CONFIGS, *folders(tmp_path), Fits(record=1)) is None
    assert read_records(tmp_path / "runs")["id"].tolist() == [CONFIGS[0].id]
    monkeypatch.setattr(population, "make_epoch", lambda *arguments: None)  # trains no more
    assert train_population(CONFIGS[1:], *folders(tmp_path), Fits(record=1)) is None
    assert len(train_population(CONFIGS[2:], *folders(tmp_path))) == 2 and not path.exists()
    for config, expected in zip(CONFIGS, trained[1], strict=True):
        record = read_record(config, tmp_path / "runs")
        assert result(record) == result(expected)
        assert record["environment"]["population"] == 4 and record["environment"]["seconds"] > seconds > 0
        ours, theirs = (weights_path(config, folder / "weights") for folder in (tmp_path, trained[0]))
        assert ours.read_bytes() == theirs.read_bytes()


@needs_jax
def test_checkpoint_of_other_members_is_not_used(trained, tmp_path):
    others = [config.replace(strength=1e-9) for config in CONFIGS[:2]]
    assert checkpoint_path(others[0], tmp_path) == checkpoint_path(CONFIGS[0], tmp_path)
    start = population.Progress(([], [], []), 2)
    population.write_checkpoint(checkpoint_path(CONFIGS[0], tmp_path), CONFIGS, start)
    assert population.read_checkpoint(checkpoint_path(others[0], tmp_path), others, start) is start


def test_clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(population.time, "monotonic", lambda: now[0])
    clock = Clock(minutes=1)
    now[0] = 200.0
    assert clock.fits("epoch")  # so that each command gets further
    clock = Clock(minutes=1)
    for seconds in (20, 10):
        with clock.timed("epoch"):
            now[0] += seconds
    assert clock.fits("epoch") and clock.fits("record")
    now[0] += 11
    assert not clock.fits("epoch") and clock.fits("record")
    now[0] += 20
    assert not clock.fits("record")


# Errors.


@needs_jax
@pytest.mark.parametrize(
    "field, value",
    [
        ("method", "max_bin"),
        ("granularity", "scalar"),
        ("regime", "pretrained"),
        ("rounding", "nearest"),
        ("epochs", 7),
        ("backend", "tensorflow"),
        ("image_size", 8),
    ],
)
def test_members_that_differ_in_more_than_strength_and_seed(field, value):
    other = CONFIGS[1].replace(**{field: value})
    message = (
        rf"may differ in strength and seed alone. Received: {field} in \[{CONFIGS[0].flat()[field]!r}, {value!r}\]"
    )
    with pytest.raises(ValueError, match=message):
        train_population([CONFIGS[0], other])


@needs_jax
def test_population_has_no_teacher():
    with pytest.raises(ValueError, match="has no teacher. Received: distillation=0.5"):
        train_population([CONFIGS[0].replace(distillation=0.5)])


@needs_jax
def test_no_members():
    with pytest.raises(ValueError, match="must have a member"):
        train_population([])


@needs_jax
def test_configurations_of_another_backend():
    with pytest.raises(ValueError, match="must be of backend 'jax'. Received: 'tensorflow'"):
        train_population([digits_config(backend="tensorflow")])


def test_another_backend(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(ValueError, match="Populations need KERAS_BACKEND=jax.*Received: 'tensorflow'"):
        train_population(CONFIGS)


# The command.


@pytest.fixture
def call(tmp_path):
    """Function that runs the command on a grid of two settings, and returns exit code and output."""
    settings = {"epochs": EPOCHS, "batch_size": 500}
    family = {"dataset": "digits", "protocol": "smoke", "overrides": settings}
    batch = [
        {**family, "method": "nested", "seed": [1, 2], "strengths": [0, 1e-8]},
        {**family, "method": "inverse", "strengths": [1e-4]},
    ]
    tiny = [{**family, "method": "nested", "strengths": [0, 1e-8]}]
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({"small": batch, "tiny": tiny}))
    options = [f"--{name}={tmp_path / name}" for name in ("runs", "weights", "checkpoints")]

    def run(*arguments):
        done = CliRunner().invoke(main, [*arguments, f"--grid={tmp_path / 'grid.yaml'}", *options])
        return done.exit_code, done.output

    return run


@pytest.fixture
def pretend(monkeypatch):
    """Replace training by writing records; return the strengths and seeds of each population."""
    populations = []

    def pretend_training(configs, runs, weights, checkpoints, clock):
        populations.append([(config.quantizer.strength, config.seed) for config in configs])
        for config in configs:
            record = {"config": config.flat(), "environment": {}, "history": {}, "parameters": []}
            record["final"] = {"val_accuracy": 0.5}
            population.write_record(record, runs)
        return [read_record(config, runs) for config in configs]

    monkeypatch.setattr(population, "train_population", pretend_training)
    return populations


@pytest.mark.slow
@needs_jax
def test_command_in_portions(call, tmp_path):
    """Without any time, each command trains one epoch or writes one record."""
    calls = [call("tiny", "--minutes", "0") for _ in range(EPOCHS + 2)]
    assert [code for code, _ in calls] == [3] * (EPOCHS + 1) + [0]
    table = read_records(tmp_path / "runs").sort_values("strength")
    paths = [tmp_path / "runs" / "digits" / f"{name}.json" for name in table["id"]]
    lines = [f"{path}: accuracy {value:.4f}\n" for path, value in zip(paths, table["val_accuracy"], strict=True)]
    assert [output for _, output in calls] == [*[""] * EPOCHS, *lines]
    assert call("tiny") == (0, "")


def test_all_strengths_and_seeds_of_a_setting_are_one_population(call, pretend):
    assert call("small")[0] == 0
    assert pretend == [[(0.0, 1), (1e-8, 1), (0.0, 2), (1e-8, 2)], [(1e-4, 42)]]


def test_at_most_so_many_members(call, pretend):
    assert call("small", "--max-members", "3")[0] == 0
    assert [len(members) for members in pretend] == [3, 1, 1]


def test_what_has_a_record_is_not_trained_again(call, pretend, tmp_path):
    call("small")
    lost = digits_config(1e-8, 2, granularity="scalar", batch_size=500)
    record_path(lost, tmp_path / "runs").unlink()
    pretend.clear()
    code, output = call("small")
    assert code == 0 and pretend == [[(1e-8, 2)]]
    assert output == f"{record_path(lost, tmp_path / 'runs')}: accuracy 0.5000\n"


def test_unknown_batch(call):
    code, output = call("large")
    assert code == 2 and "'large' is not among ['small', 'tiny']" in output
