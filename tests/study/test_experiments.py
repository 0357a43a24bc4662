"""The numbers of docs/experiments.md are those of the networks, the protocols, the grid and the records."""

import math
import re

import keras
import numpy as np
import pytest

from study.configs import make_config
from study.grid import read_grid
from study.methods import THESIS
from study.networks import NETWORKS
from study.paths import ROOT
from study.protocols import PROTOCOLS, STEPS
from study.records import read_records

pytestmark = pytest.mark.once
SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3), "imagenette": (224, 224, 3)}
VERSIONS = {"Keras": ["keras"], "backend": ["jax", "tensorflow"], "NumPy": ["numpy"]}


def tables():
    """Return the tables of the page, each a list of rows `{column: text}` without marks of bold face and code."""
    found, columns = [], None
    for line in (ROOT / "docs/experiments.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in re.sub(r"\*\*|`", "", line).strip("|").split(" | ")]
        if not line.startswith("|"):
            columns = None
        elif columns is None:
            columns = cells
            found.append([])
        elif "---" not in line:
            found[-1].append(dict(zip(columns, cells, strict=True)))
    return found


def numbers(text):
    return [float(number) for number in re.findall(r"\d[\d.]*(?:e-?\d+)?", text.replace(",", ""))]


NETWORK_ROWS, _, *THESIS_TABLES, STEPS_ROWS, VALUES_ROWS, ENVIRONMENT_ROWS = tables()


def test_every_network_has_its_row():
    assert sorted(row["network"] for row in NETWORK_ROWS) == sorted(NETWORKS)


@pytest.fixture
def no_random_numbers(monkeypatch):
    """Leave parameters at 0: to draw them, JAX would compile a program for each shape."""
    for initializer in (keras.initializers.RandomNormal, keras.initializers.VarianceScaling):
        monkeypatch.setattr(initializer, "__call__", lambda self, shape, dtype=None: np.zeros(shape, dtype))


@pytest.mark.usefixtures("no_random_numbers")
@pytest.mark.parametrize("row", NETWORK_ROWS, ids=lambda row: row["network"])
def test_parameters_of_a_network(row):
    make, is_quantized = NETWORKS[row["network"]]
    model = make(SHAPES[row["data set"]], 10)
    owned = [(layer, variable) for layer in model.layers for variable in layer.trainable_variables]
    trained = sum(math.prod(variable.shape) for _, variable in owned)
    quantized = [math.prod(variable.shape) for layer, variable in owned if is_quantized(layer, variable)]
    expected = {
        "parameters": model.count_params(),
        "trained": trained,
        "not trained": model.count_params() - trained,
        "quantized": sum(quantized),
        "in tensors": len(quantized),
    }
    assert {name: row[name] for name in expected} == {name: f"{value:,}" for name, value in expected.items()}


@pytest.mark.parametrize("dataset", SHAPES)
def test_grid_of_a_data_set(dataset):
    rows = {row["setting"]: row for row in THESIS_TABLES[list(SHAPES).index(dataset)]}
    training = make_config(dataset, "float").training
    for name, methods in {"λ": {"nested"}, "γ": set(THESIS) - {"nested"}}.items():
        curves = [curve for curve in read_grid()[dataset] if curve["method"] in methods]
        assert {tuple(curve["strengths"]) for curve in curves} == {tuple(numbers(rows[name]["ours"]))}
        assert {curve["seed"] for curve in curves} == set(numbers(rows[f"seeds, {name}"]["ours"]))
        assert {curve["granularity"] for curve in curves} == set(rows["granularities"]["ours"].split(", "))
    assert [numbers(rows[name]["ours"]) for name in ("epochs", "batch")] == [[training.epochs], [training.batch_size]]
    steps = [value for share, factor in STEPS for value in (factor, share * training.epochs)]
    assert numbers(rows["learning rate"]["ours"]) == [training.learning_rate, *steps * (training.schedule == "steps")]
    same = ["epochs", "batch", "learning rate", "granularities", "λ", "γ"]
    assert [rows[name]["thesis"] for name in same] == [rows[name]["ours"] for name in same]


def test_protocols():
    expected = [(protocol, dataset) for protocol, datasets in PROTOCOLS.items() for dataset in datasets]
    for table in (STEPS_ROWS, VALUES_ROWS):
        assert [(row["protocol"], row["data set"]) for row in table] == expected
    for first, second in zip(STEPS_ROWS, VALUES_ROWS, strict=True):
        row = {**first, **second}
        protocol, dataset = row["protocol"], row["data set"]
        config = make_config(dataset, "float", protocol=protocol)
        assert (row["network"], row["backend"]) == (config.network, config.backend)
        training, data, quantizer = config.training, config.data, config.quantizer
        assert numbers(row["epochs"] + " " + row["batch"]) == [training.epochs, training.batch_size]
        assert float(row["learning rate"]) == training.learning_rate
        assert (row["schedule"], row["rounding"]) == (training.schedule, quantizer.rounding)
        assert row["scales"] == quantizer.parametrization
        assert float(row["initial scale"]) == pytest.approx(quantizer.initial_scale, rel=0.01)
        assert math.prod(1 / number for number in numbers(row["pixels"])) == pytest.approx(data.input_scale)
        assert [numbers(row[name]) for name in ("image", "held out")] == [
            [number] if number else [] for number in (data.image_size, data.holdout)
        ]


def test_versions_and_devices_are_those_of_the_records():
    ours = {row[""]: row["ours"] for row in ENVIRONMENT_ROWS}
    records = read_records()
    for name, packages in VERSIONS.items():
        used = {version for package in packages for version in records[f"{package}_version"].dropna()}
        assert set(re.findall(r"\d+\.\d+", ours[name])) == {".".join(version.split(".")[:2]) for version in used}
    assert set(re.findall(r"3\.\d+", ours["Python"])) == {".".join(text.split(".")[:2]) for text in records["python"]}
    devices = {device.removeprefix("x86_64 ") for device in records["device"]}
    assert set(re.split(", |; ", ours["device"].removeprefix("x86_64 "))) == {
        device.replace("cpu", "CPU") for device in devices
    }
