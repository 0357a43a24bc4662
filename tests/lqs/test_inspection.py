"""Tests of `lqs.inspection`: worked by hand; sizes by unzipping."""

import io
import itertools
import types
import zipfile

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import lqs
from lqs.file import sizes
from lqs.inspection import entropy_bits, integer_statistics, model_integers, quantized_parameters, summary
from study.statistics import histogram, zipped_bytes

# With scale 1/2: floor(P / s) is [[1, 2], [-1, 4]] and [-1, 0].
KERNEL = np.array([[0.7, 1.0], [-0.1, 2.4]], "float32")
BIAS = np.array([-0.5, 0.2], "float32")


@pytest.fixture
def layer():
    halves = {"granularity": "scalar", "initial_scale": 0.5}
    layer = lqs.QuantDense(
        2,
        kernel_quantizer=lqs.NestedQuantization(**{**halves, "granularity": "row"}),
        bias_quantizer=lqs.NestedQuantization(**halves),
    )
    layer.build((None, 2))
    layer.set_weights([KERNEL, BIAS, *layer.get_weights()[2:]])
    return layer


@pytest.mark.parametrize(
    "integers, bits",
    [
        ([7, 7, 7], 0),
        ([0, 1], 1),
        ([[0, 0], [1, 2]], 1.5),  # 1/2 * 1 + 2 * 1/4 * 2
        ([-4, -3, -2, -1, 0, 1, 2, 3], 3),
        ([0, 0, 0, 1], 2 - 0.75 * np.log2(3)),  # 3/4 * log2(4/3) + 1/4 * 2
    ],
)
def test_entropy(integers, bits):
    assert entropy_bits(np.array(integers)) == pytest.approx(bits, abs=1e-12)


def test_entropy_of_one_value_is_not_minus_zero():
    assert str(entropy_bits(np.array([5]))) == "0.0"


@pytest.mark.parametrize(
    "integers, max_bins, expected",
    [
        ([3], 512, (3, 1, [1])),
        ([-1, 0, 0, 2], 512, (-1, 1, [1, 2, 0, 1])),
        ([0, 511], 512, (0, 1, [1, *[0] * 510, 1])),
        ([0, 512], 512, (0, 2, [1, *[0] * 255, 1])),
        ([-2, -1, 0, 1, 2, 3, 4], 3, (-2, 3, [3, 3, 1])),
        ([-1, 4], 2, (-1, 3, [1, 1])),
    ],
)
def test_histogram(integers, max_bins, expected):
    start, width, counts = expected
    assert histogram(np.array(integers, "int32"), max_bins) == {"start": start, "width": width, "counts": counts}


@settings(deadline=None, derandomize=True)
@given(hnp.arrays("int32", hnp.array_shapes(max_dims=3, max_side=6)), st.integers(1, 600))
def test_histogram_counts_every_integer_in_its_bin(integers, max_bins):
    bins = histogram(integers, max_bins)
    assert len(bins["counts"]) <= max_bins and sum(bins["counts"]) == integers.size
    edges = [bins["start"] + i * bins["width"] for i in range(len(bins["counts"]) + 1)]
    counted = [sum(low <= int(i) < high for i in integers.ravel()) for low, high in itertools.pairwise(edges)]
    assert bins["counts"] == counted
    assert (bins["width"] == 1) == (int(integers.max()) - int(integers.min()) < max_bins)


def test_integer_statistics():
    # Entropies 1.5, 0 and 1 bits of 4, 4 and 2 elements: (4 * 1.5 + 0 + 2 * 1) / 10.
    arrays = [np.array([[0, 0], [1, 2]]), np.array([2, 2, 2, 2]), np.array([-5, 0])]
    expected = {"unique": 4, "min": -5, "max": 2, "zeros": 0.3, "entropy_bits": 0.8}
    assert integer_statistics(arrays) == pytest.approx(expected)


@pytest.fixture
def archive(monkeypatch):
    """Function `arrays -> (bytes, dtype, members)` that opens the archive that `zipped_bytes` measures."""
    buffer = io.BytesIO()
    monkeypatch.setattr(sizes, "io", types.SimpleNamespace(BytesIO=lambda: buffer))

    def run(arrays):
        num_bytes, dtype = zipped_bytes(arrays)
        assert num_bytes == len(buffer.getvalue())
        with zipfile.ZipFile(buffer) as zipped:
            assert {info.compress_type for info in zipped.infolist()} == {zipfile.ZIP_DEFLATED}
            return num_bytes, dtype, [np.frombuffer(zipped.read(name), dtype) for name in zipped.namelist()]

    return run


@pytest.mark.parametrize(
    "values, dtype",
    [
        ([0], "int8"),
        ([-128, 127], "int8"),
        ([-129, 0], "int16"),
        ([0, 128], "int16"),
        ([128, 255], "int16"),
        ([-32768, 32767], "int16"),
        ([-32769], "int32"),
        ([32768, 65535], "int32"),
    ],
)
def test_archive_holds_the_codes_in_the_smallest_type_for_all(archive, values, dtype):
    arrays = [np.array(values, "int32"), np.array([[1, 0], [-1, 5]], "int32")]
    _, found, members = archive(arrays)
    assert found == dtype
    assert [member.tolist() for member in members] == [values, [1, 0, -1, 5]]


def test_float_archive_holds_the_floats(archive, rng):
    arrays = [rng.normal(size=(3, 4)).astype("float32"), np.zeros(5, "float32")]
    _, dtype, members = archive(arrays)
    assert dtype == "float32"
    np.testing.assert_array_equal(members[0], arrays[0].ravel())
    np.testing.assert_array_equal(members[1], arrays[1])


def test_archive_is_compressed(rng):
    varied, constant = rng.integers(-128, 128, 10_000), np.zeros(10_000, "int32")
    assert zipped_bytes([constant])[0] < 200 and 10_000 < zipped_bytes([varied])[0] < 10_300


def test_quantized_parameters_of_the_layer(layer):
    pairs = quantized_parameters(layer)
    assert [variable.path for variable, _ in pairs] == [f"{layer.name}/kernel", f"{layer.name}/bias"]
    assert [quantizer.granularity for _, quantizer in pairs] == ["row", "scalar"]


def test_model_integers(layer):
    integers = model_integers(keras.Sequential([keras.Input((2,)), layer]))
    assert {name.split("/")[-1]: array.tolist() for name, array in integers.items()} == {
        "kernel": [[1, 2], [-1, 4]],
        "bias": [-1, 0],
    }
    assert {array.dtype.name for array in integers.values()} == {"int32"}


def test_summary_of_the_thesis_layer(layer):
    layer.kernel_quantizer.scale.assign([[0.5], [0.25]])  # the second row becomes [-1, 9]
    table = summary(layer).set_index("parameter")
    kernel, bias = table.loc[f"{layer.name}/kernel"], table.loc[f"{layer.name}/bias"]
    assert kernel.to_dict() == {
        "shape": (2, 2),
        "granularity": "row",
        "scale_min": 0.25,
        "scale_max": 0.5,
        "unique": 4,
        "min": -1,
        "max": 9,
        "zeros": 0,
        "entropy_bits": 2,
    }
    assert (bias["shape"], bias["zeros"], bias["entropy_bits"], bias["scale_max"]) == ((2,), 0.5, 1, 0.5)


def test_summary_of_scales_by_their_logarithm(rng):
    quantizer = lqs.NestedQuantization("row", initial_scale=0.25, parametrization="log")
    layer = lqs.QuantDense(3, kernel_quantizer=quantizer)
    layer.build((None, 2))
    layer.kernel.assign([[0.3, -0.1, 0.6], [5, 7, 9]])
    layer.kernel_quantizer.scale_weight.assign(np.log([[0.25], [2.0]]))
    (row,) = summary(layer).to_dict("records")
    assert (row["scale_min"], row["scale_max"]) == (pytest.approx(0.25), pytest.approx(2.0))
    assert (row["unique"], row["min"], row["max"]) == (5, -1, 4)  # 1, -1, 2 and 2, 3, 4


def test_summary_of_a_quantized_model():
    inputs = keras.Input((2,))
    shared = keras.layers.Dense(2, name="shared")
    model = keras.Model(inputs, keras.layers.Dense(3, name="last")(shared(shared(inputs))))
    shared.set_weights([KERNEL, BIAS])
    half = lqs.NestedQuantization(initial_scale=0.5)
    table = summary(lqs.quantize(model, half, half))
    assert table["shape"].tolist() == [(2, 2), (2,), (2, 3), (3,)]  # a layer called twice is one row each
    assert table["unique"].tolist()[:2] == [4, 2] and table["unique"].tolist()[3] == 1
    assert table["zeros"].tolist()[3] == 1  # the bias begins as zeros
    assert (table["scale_min"] == 0.5).all() and (table["scale_max"] == 0.5).all()


def test_summary_of_a_float_model_is_empty():
    assert summary(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])).empty


@pytest.mark.parametrize("value", [3, "model", None])
def test_summary_of_what_is_not_a_layer(value):
    with pytest.raises(ValueError, match="Argument `model` must be a Keras layer or model. Received: model="):
        lqs.summary(value)
