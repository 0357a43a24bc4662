"""Tests of `study.records`: writing, reading, and every committed record."""

import itertools
import json
import math
import os

import numpy as np
import pytest

from lqs.file import atomic
from study import records
from study.configs import PART_OF_FIELD, Config, make_config
from study.methods import FLOAT, quantizes_all_layers, quantizes_biases
from study.paths import RUNS
from study.records import (
    is_stale,
    read_current_record,
    read_published,
    read_record,
    read_records,
    record_path,
    to_table,
    write_record,
)


def residual_kernels():
    """Return size, inputs and filters of the convolutions of the residual blocks of the Imagenette network."""
    kernels, inputs = [], 64
    for filters in (64, 128, 256, 512):
        shortcut = [(1, inputs, filters)] if inputs != filters else []
        kernels += [(3, inputs, filters), (3, filters, filters), *shortcut, *2 * [(3, filters, filters)]]
        inputs = filters
    return kernels


COMMITTED = sorted(RUNS.glob("*/*.json"))
# By network.
SHAPES = {
    "dense": [[784, 128], [128], [128, 10], [10]],
    "dense_gelu": [[784, 128], [128], [128, 10], [10]],
    "lenet_300_100": [[784, 300], [300], [300, 100], [100], [100, 10], [10]],
    "lenet_5_caffe": [[5, 5, 1, 20], [20], [5, 5, 20, 50], [50], [800, 500], [500], [500, 10], [10]],
    **{
        name: [
            shape
            for inputs, filters in itertools.pairwise((3, *[n for n in (width, 2 * width, 4 * width) for _ in "12"]))
            for shape in ([3, 3, inputs, filters], [filters])
        ]
        for name, width in (("cifar10", 32), ("cifar10_quarter", 8))
    },
    "imagenette": [
        shape
        for size, inputs, filters in ((7, 3, 64), *residual_kernels())
        for shape in ([size, size, inputs, filters], [filters])
    ],
}
# Only the methods that count the whole file quantize these.
HEADS = {"cifar10": [[2048, 128], [128], [128, 10], [10]], "imagenette": [[512, 10], [10]]}


def make_record(strength=0.0, method="nested"):
    config = make_config("digits", method, strength, protocol="smoke")
    return {
        "config": config.flat(),
        "environment": {"keras_version": "3.15.1", "seconds": 1.5},
        "history": {"val_accuracy": [0.25, 0.5]},
        "final": {"val_accuracy": 0.5, "unique": 3},
        "parameters": [{"name": "kernel", "shape": [2, 2]}],
    }


def config_of(record):
    return Config.from_flat(record["config"])


def test_record_is_written_under_its_dataset_and_id_and_read_back(tmp_path):
    record = make_record(1e-8)
    path = write_record(record, tmp_path)
    assert path == tmp_path / "digits" / f"{config_of(record).id}.json" == record_path(config_of(record), tmp_path)
    assert read_record(config_of(record), tmp_path) == record


def test_there_is_no_record_before_the_run(tmp_path):
    assert read_record(make_config("mnist", "float"), tmp_path) is None


def test_crash_while_writing_leaves_the_old_record(tmp_path, monkeypatch):
    old = make_record()
    path = write_record(old, tmp_path)

    def crash(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic.os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        write_record({**old, "history": {}}, tmp_path)
    assert read_record(config_of(old), tmp_path) == old
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "3",
        '{"config": {}}',
        '{"config": {"a": 1}, "environment": {}, "history": {}, "final": {}, "parameters": []}',
        json.dumps(make_record())[:-1],
        json.dumps({**make_record(), "config": {**make_record()["config"], "strength": -1}}),
        json.dumps({key: value for key, value in make_record().items() if key != "history"}),
    ],
    ids=["empty", "list", "number", "no fields", "foreign fields", "truncated", "invalid", "incomplete"],
)
def test_what_is_not_a_record_is_named(tmp_path, content):
    config = config_of(make_record())
    path = write_record(make_record(), tmp_path)
    path.write_text(content)
    for read in (lambda: read_record(config, tmp_path), lambda: read_records(tmp_path)):
        with pytest.raises(ValueError, match=f"{path} is not a run record"):
            read()


def test_binary_file_is_named(tmp_path):
    path = write_record(make_record(), tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=f"{path} is not a run record"):
        read_records(tmp_path)


def test_record_of_another_configuration_is_refused(tmp_path):
    record, other = make_record(), make_record(1e-8)
    path = write_record(record, tmp_path)
    path.write_text(json.dumps(other))
    with pytest.raises(ValueError, match=f"{path} is the record of another configuration: .*'strength': 1e-08"):
        read_record(config_of(record), tmp_path)


def test_record_of_an_earlier_version_is_stale(tmp_path, monkeypatch):
    old, new = make_record(), make_record(1e-8)
    new["environment"]["records_version"] = 1
    for record in (old, new):
        write_record(record, tmp_path)
        assert not is_stale(record) and read_current_record(config_of(record), tmp_path) == record
    monkeypatch.setitem(records.CHANGED_IN, old["config"]["method"], 1)
    assert is_stale(old) and read_current_record(config_of(old), tmp_path) is None
    assert not is_stale(new) and read_current_record(config_of(new), tmp_path) == new
    assert read_record(config_of(old), tmp_path) == old


@pytest.mark.parametrize("target, version, expected", [(None, 6, False), (20, 6, True), (20, 7, False)])
def test_record_of_a_superseded_target_is_stale(target, version, expected):
    record = make_record()
    record["config"]["target_ratio"], record["environment"]["records_version"] = target, version
    assert is_stale(record) == expected


def test_table_has_one_row_per_run(tmp_path):
    written = [make_record(strength, method) for method in ("max_bin", "nested") for strength in (0.0, 1e-8)]
    for record in written:
        write_record(record, tmp_path)
    table = read_records(tmp_path)
    assert table["id"].tolist() == sorted(config_of(record).id for record in written)
    assert table.groupby("method")["strength"].apply(sorted).to_dict() == {"max_bin": [0, 1e-8], "nested": [0, 1e-8]}
    row = table.iloc[0]
    assert (row["unique"], row["keras_version"], row["history"]) == (3, "3.15.1", {"val_accuracy": [0.25, 0.5]})
    assert row["parameters"] == [{"name": "kernel", "shape": [2, 2]}]


def test_table_of_one_dataset(tmp_path):
    write_record(make_record(), tmp_path)
    assert len(read_records(tmp_path, "digits")) == 1
    assert len(read_records(tmp_path, "mnist")) == 0


def test_table_leaves_out_files_still_being_written(tmp_path):
    path = write_record(make_record(), tmp_path)
    with atomic.replacing(path) as partial:
        partial.write_text("{")
        assert len(read_records(tmp_path)) == 1
        path.rename(partial)


def test_no_records_make_an_empty_table(tmp_path):
    assert read_records(tmp_path).empty
    assert read_records(tmp_path / "nowhere").empty
    assert set(read_records(tmp_path)) >= {
        "dataset",
        "image_size",
        "unique",
        "val_accuracy",
        "file_bytes",
        "parameters",
    }


def test_table_has_the_columns_that_its_runs_lack():
    record = make_record(method="float")
    del record["final"]["unique"]
    table = to_table([record])
    assert table["unique"].isna().all() and table["val_accuracy"].tolist() == [0.5]


def test_table_fills_in_fields_that_an_old_record_lacks():
    record = make_record()
    del record["config"]["schedule"], record["config"]["image_size"]
    assert to_table([record])["schedule"].tolist() == ["constant"]


def test_published_values_have_the_same_columns_for_every_dataset():
    tables = [read_published(dataset) for dataset in ("mnist", "cifar10", "imagenette")]
    assert {tuple(table) for table in tables} == {
        ("method", "granularity", "regime", "strength", "accuracy", "unique", "min", "max", "zip_megabytes")
    }
    row = tables[1].query("method == 'nested' and strength == 1e-11 and regime != 'pretrained'").iloc[0]
    assert row[["accuracy", "unique", "min", "max"]].tolist() == [85, 60, -22, 32]


# The committed records.


def entropy(counts):
    """Return the entropy in bits of a list of counts, term by term."""
    total = sum(counts)
    return -sum(count / total * math.log2(count / total) for count in counts if count)


def assert_parameter_agrees_with_its_histogram(parameter):
    bins, size = parameter["histogram"], math.prod(parameter["shape"])
    assert sum(bins["counts"]) == size and min(bins["counts"]) >= 0
    if bins["width"] > 1:
        return
    counts = {bins["start"] + i: count for i, count in enumerate(bins["counts"]) if count}
    assert (parameter["min"], parameter["max"]) == (min(counts), max(counts))
    assert parameter["unique"] == len(counts)
    assert parameter["zeros"] == pytest.approx(counts.get(0, 0) / size, abs=1e-12)
    assert parameter["entropy_bits"] == pytest.approx(entropy(counts.values()), abs=1e-9)


def assert_final_agrees_with_the_parameters(final, parameters):
    sizes = np.array([math.prod(p["shape"]) for p in parameters])
    assert final["min"] == min(p["min"] for p in parameters)
    assert final["max"] == max(p["max"] for p in parameters)
    for name in ("zeros", "entropy_bits"):
        assert final[name] == pytest.approx(sizes @ [p[name] for p in parameters] / sizes.sum(), abs=1e-9)
    histograms = [p["histogram"] for p in parameters]
    if all(bins["width"] == 1 for bins in histograms):
        values = {b["start"] + i for b in histograms for i, count in enumerate(b["counts"]) if count}
        assert final["unique"] == len(values)
    smallest = next(n for n in (8, 16, 32) if -(2 ** (n - 1)) <= final["min"] and final["max"] < 2 ** (n - 1))
    assert final["zip_dtype"] == f"int{smallest}"


def assert_is_complete(path):
    record = json.loads(path.read_text())
    config, history, final, parameters = (record[key] for key in ("config", "history", "final", "parameters"))
    names = set(PART_OF_FIELD)
    # After the first runs, which have their defaults.
    added = {"schedule", "image_size", "input_scale", "parametrization", "initial_scale", "code", "target_ratio"}
    added |= {"bits", "precision", "distillation", "holdout", "l2"}
    assert names - added <= set(config) <= names
    assert path == record_path(Config.from_flat(config))
    assert {len(values) for values in history.values()} == {config["epochs"]}
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "cross_entropy", "val_cross_entropy"} <= set(history)
    assert {key: final[key] for key in history} == {key: values[-1] for key, values in history.items()}
    assert all(np.isfinite(values).all() for values in history.values())
    assert 0.05 < final["val_accuracy"] <= 1
    for parameter in parameters:
        assert_parameter_agrees_with_its_histogram(parameter)
    if config["method"] == FLOAT:
        assert parameters == [] and "unique" not in history and final["zip_dtype"] == "float32"
    else:
        is_whole = quantizes_all_layers(config["method"])
        expected = SHAPES[config["network"]] + (HEADS.get(config["network"], []) if is_whole else [])
        granularities = [config["granularity"] if len(shape) > 1 else "scalar" for shape in expected]
        if not quantizes_biases(config["method"]):
            expected, granularities = expected[::2], granularities[::2]
        assert [p["shape"] for p in parameters] == expected
        assert [p["granularity"] for p in parameters] == granularities
        assert_final_agrees_with_the_parameters(final, parameters)


def test_committed_records_are_complete_and_consistent():
    assert COMMITTED
    failures = []
    for path in COMMITTED:
        try:
            assert_is_complete(path)
        except (AssertionError, KeyError, ValueError) as error:
            failures.append(f"{path.name}: {error!r}")
    assert not failures, "\n".join(failures)


def test_committed_records_are_one_table():
    table = read_records()
    assert set(table["id"]) >= {path.stem for path in COMMITTED}
    assert table["id"].is_unique
