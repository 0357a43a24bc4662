"""Tests of `lqs.file.sizes`."""

import math
import os
import zlib

import keras
import numpy as np
import pytest

from lqs.conversion import quantize
from lqs.file.reader import FLOATS
from lqs.file.saving import pack_model, save
from lqs.file.sizes import COLUMNS, CountedSize, file_bytes, fp32_bytes, size_report
from lqs.inspection import entropy_bits, model_integers, quantized_parameters, to_numpy
from lqs.quantizer import NestedQuantization
from study.networks import NETWORKS
from study.statistics import zipped_bytes

L = keras.layers


@pytest.fixture(params=["linear", "log"])
def model(rng, request):
    """Return a network of 4·30 + 30 quantized parameters, 120 of BatchNormalization and 30·2 + 2 in float."""
    layers = [
        keras.Input((4,)),
        L.Dense(30, name="first"),
        L.BatchNormalization(),
        L.Dropout(0.5),
        L.Dense(2, name="last"),
    ]
    model = keras.Sequential(layers)
    prototypes = [NestedQuantization(granularity, parametrization=request.param) for granularity in ("row", "scalar")]
    model = quantize(model, *prototypes, lambda layer, _: layer.name == "first")
    for variable, quantizer in quantized_parameters(model):
        scale = np.full(quantizer.scale.shape, 0.5, "float32")
        quantizer.scale_weight.assign(quantizer.scale_weight_of(scale))
        variable.assign(rng.normal(0, 5, variable.shape))
    return model


def test_rows_and_elements(model):
    report = size_report(model)
    kernel, bias = (variable.path for variable, _ in quantized_parameters(model))
    assert report["elements"].to_dict() == {
        kernel: 120,
        bias: 30,
        "tables": 0,
        "scales": 4 + 1,
        "other variables": 120 + 62 + 2 + 2,  # two states of the seed, two thresholds
        "header": 0,
        "total": 120 + 30 + 5 + 186,
    }


def test_columns_add_up(model, tmp_path):
    report = size_report(model)
    for column in COLUMNS:
        assert report[column].iloc[:-1].sum() == report.loc["total", column], column
    save(model, tmp_path / "model.lqs")
    assert report.loc["total", "file_bytes"] == os.path.getsize(tmp_path / "model.lqs") == file_bytes(model)


@pytest.mark.once
def test_file_for_inference(model):
    report, whole = size_report(model, inference_only=True), size_report(model)
    assert report.loc["total", "file_bytes"] == file_bytes(model, True) == len(pack_model(model, inference_only=True))
    assert report.loc["total", "file_bytes"] < whole.loc["total", "file_bytes"]
    assert (report["file_bytes"].iloc[:-1].sum() == report["file_bytes"].iloc[-1]) and (report["file_bytes"] >= 0).all()
    assert report["fp32_bytes"].equals(whole["fp32_bytes"])


def test_each_way_to_count(model):
    report = size_report(model)
    integers = model_integers(model)
    for name, array in integers.items():
        num_bits = int(array.max() - array.min()).bit_length()
        assert report.loc[name, "fp32_bytes"] == 4 * array.size
        assert report.loc[name, "fixed_bytes"] == -(-num_bits * array.size // 8)
        assert report.loc[name, "entropy_bytes"] == math.ceil(entropy_bits(array) * array.size / 8)
        stream = zlib.compressobj(wbits=-15)
        assert report.loc[name, "zip_bytes"] == len(stream.compress(array.astype("int8").tobytes()) + stream.flush())
    seed = next(to_numpy(v.value) for v in model.variables if v.dtype not in FLOATS)  # of other types on each backend
    for column in ("fixed_bytes", "entropy_bytes"):
        assert report.loc["scales", column] == 4 * 5
        assert report.loc["other variables", column] == 4 * 184 + seed.nbytes
    assert report.loc[["scales", "other variables"], "zip_bytes"].tolist() == [0, 0]
    assert report.loc["total", "zip_bytes"] == zipped_bytes(list(integers.values()))[0]
    # The float network: no scales, no thresholds, no seed.
    assert report.loc["total", "fp32_bytes"] == fp32_bytes(model) == 4 * (150 + 120 + 62)


def test_zip_of_the_float_network_is_that_of_its_weights(tmp_path):
    model = NETWORKS["dense"][0]((8, 8, 1), 10)
    report = size_report(model)
    assert report.loc["total", "fp32_zip_bytes"] == zipped_bytes([np.asarray(w) for w in model.get_weights()])[0]
    assert report.loc["total", "zip_bytes"] == 0
    assert "tables" in report.index and report.loc["tables", "file_bytes"] == 0


def test_integers_that_the_thesis_would_have_wrapped_are_named(model):
    (kernel, _), _ = quantized_parameters(model)
    assert not size_report(model)["beyond_int8"].any()
    kernel.assign(np.full(kernel.shape, 64.0))  # the integer 128
    beyond = size_report(model)["beyond_int8"]
    assert beyond[beyond].index.tolist() == [kernel.path, "total"]


@pytest.mark.once  # the same integers are coded on every backend
@pytest.mark.parametrize("network", ["dense", pytest.param("cifar10", marks=pytest.mark.slow)])
@pytest.mark.parametrize("spread", [0.5, 30, 3000])
def test_file_is_as_small_as_entropy_allows(network, spread, rng):
    shape = {"dense": (28, 28, 1), "cifar10": (32, 32, 3)}[network]
    make_network, where = NETWORKS[network]
    model = quantize(make_network(shape, 10), NestedQuantization("row"), NestedQuantization(), where)
    for variable, quantizer in quantized_parameters(model):
        scale = rng.uniform(0.001, 0.1, quantizer.scale.shape)
        quantizer.scale.assign(scale)
        variable.assign(rng.laplace(0, spread, variable.shape) * scale)
    total = size_report(model).loc["total"]
    assert total["file_bytes"] <= 1.02 * total["entropy_bytes"] + 1024


@pytest.mark.parametrize("count", [size_report, file_bytes])
def test_nothing_is_decoded_and_nothing_coded_twice(count, model, monkeypatch):
    from lqs.file import compiled, reader

    monkeypatch.setattr(reader, "parse", None)
    coded = []
    for name in ("encode_symbols", "encode_flags"):
        encode = getattr(compiled, name)
        monkeypatch.setattr(compiled, name, lambda *args, f=encode: coded.append(args[0].tobytes()) or f(*args))
    count(model)
    assert len(coded) == len(set(coded))


@pytest.mark.slow
def test_counted_size_follows_the_packed_one(rng):
    """Within half a percent, over a range of sizes, of which it packs few; exactly that of what has not changed."""
    network = keras.Sequential([keras.Input((64,)), keras.layers.Dense(128), keras.layers.Dense(10)])
    model = quantize(network, *2 * [NestedQuantization(rounding="nearest", initial_scale=0.001)])
    for variable, _ in quantized_parameters(model):
        variable.assign(rng.laplace(scale=0.05, size=variable.shape))
    size = CountedSize(model)
    report = size_report(model)["file_bytes"]
    assert size.fixed_bytes == report[["scales", "other variables", "header"]].sum()
    assert size.count() == size.packed == report["total"]
    num_packed = 0
    for step, scale in enumerate(0.001 * 1.05 ** np.arange(100)):
        for _, quantizer in quantized_parameters(model):
            quantizer.scale_weight.assign(quantizer.scale_weight_of(np.full(quantizer.scale.shape, scale, "float32")))
        before, counted = size.packed, size.count()
        if step % 4 == 0:
            assert counted == pytest.approx(file_bytes(model), rel=0.005)
        num_packed += size.packed != before
    assert 15 < num_packed < 30


def test_counted_size_of_one_integer_and_of_what_is_not_finite():
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_initializer="zeros")])
    model = quantize(network)
    size = CountedSize(model)
    assert [size.count() for _ in range(22)] == 22 * [file_bytes(model)]
    model.layers[0].kernel.assign(np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match="must have finite variables"):
        size.count()
