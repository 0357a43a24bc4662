"""The table of `lqs.summary` as it is displayed: nothing in it is wider than a terminal."""

import keras
import numpy as np
import pandas as pd
import pytest

import lqs

pytestmark = pytest.mark.once


@pytest.fixture
def table():
    """Two kernels of a scale of 1/2, [[1, -3], [0, 2]] and zeros; the second one of a long name."""
    second = keras.layers.Dense(1, name="a_layer_whose_name_is_long_second")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="first"), second])
    model.set_weights([np.array([[0.5, -1.5], [0.1, 1.0]]), np.zeros(2), np.zeros((2, 1)), np.zeros(1)])
    return lqs.summary(lqs.quantize(model, lqs.NestedQuantization("row", rounding="nearest", initial_scale=0.5), None))


def test_display(table, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    assert repr(table).splitlines() == [
        "parameter                                shape scale integers unique bits zeros     note",
        "first/kernel                               2×2   0.5     -3…2      4 2.00   25%         ",
        "a_layer_whose_name_is_long_second/kernel   2×1   0.5        0      1 0.00  100% all zero",
        "6 parameters in 2 tensors, 1.33 bits each, 50% zeros",
    ]


@pytest.mark.parametrize("width", [65, 72])
def test_paths_give_way(table, width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    *lines, _ = repr(table).splitlines()
    assert {len(line) for line in lines} == {width}
    assert "second/kernel" in lines[-1] and "…" in lines[-1]


def test_html(table):
    html = table._repr_html_()
    assert "<td>a_layer_whose_name_is_long_second/kernel</td>" in html and "<td>all zero</td>" in html
    assert html.endswith("<p>6 parameters in 2 tensors, 1.33 bits each, 50% zeros</p>")


def test_no_column_of_notes_without_any(table):
    first = repr(lqs.tables.Summary(table.iloc[:1]))
    assert "note" not in first and first.endswith("4 parameters in 1 tensor, 2.00 bits each, 25% zeros")


@pytest.mark.parametrize("num, num_displayed", [(30, 60), (40, 10)])
def test_many_rows_are_cut_as_pandas_cuts_them(table, num, num_displayed):
    long = lqs.tables.Summary(pd.concat([table] * num))
    for displayed in (repr(long), long._repr_html_()):
        assert displayed.count("/kernel") == repr(pd.DataFrame(long)).count("/kernel") == num_displayed
        assert f"{6 * num} parameters in {2 * num} tensors" in displayed


def test_changed_in_place(table):
    table.pop("note")
    assert repr(table) == repr(pd.DataFrame(table)) and table._repr_html_() == pd.DataFrame(table)._repr_html_()
    del table["shape"]
    assert repr(table) == repr(pd.DataFrame(table))


def test_empty():
    table = lqs.summary(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]))
    assert repr(table) == "Nothing is quantized." and table._repr_html_() == "<p>Nothing is quantized.</p>"
    assert list(table) == lqs.tables.COLUMNS


def test_parts_are_plain_tables(table):
    assert type(table[["shape"]]) is type(table.round(2)) is pd.DataFrame
    assert "entropy_bits" in table.to_string()
