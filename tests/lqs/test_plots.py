"""Pictures: what is drawn, by the artists of matplotlib, and where it is not installed."""

import sys

import keras
import numpy as np
import pandas as pd
import pytest

import lqs
from lqs import plots

matplotlib = pytest.importorskip("matplotlib")
pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def _closed(monkeypatch):
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def model():
    """Kernels of the integers [[1, -3], [0, 1]] and [[200], [-200]]."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="a"), keras.layers.Dense(1, name="b")])
    model.set_weights([np.array([[0.5, -1.5], [0.1, 0.5]]), np.zeros(2), np.array([[100], [-100]]), np.zeros(1)])
    return lqs.quantize(model, lqs.NestedQuantization(rounding="nearest", initial_scale=0.5), None)


def test_sizes(model):
    report = lqs.size_report(model)
    axes = lqs.plot_sizes(report)
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == sorted(widths) and sum(widths) == report.loc["total", "file_bytes"]
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == "header"
    assert axes.get_title().startswith(f"{sum(widths):,.0f} bytes, 0.")
    assert any(text.get_text().endswith("bits each)") for text in axes.texts)


def test_sizes_in_given_axes(model):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert lqs.plot_sizes(lqs.size_report(model), axes) is axes and axes.patches


def test_the_smallest_of_many_parts_share_a_bar():
    names = [f"k{n}" for n in range(1, 41)]
    report = pd.DataFrame({"elements": 8, "file_bytes": range(1, 41), "fp32_bytes": 32}, names)
    report.loc["total"] = report.sum()
    axes = lqs.plot_sizes(report)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["17 others", *names[17:]]
    assert axes.patches[0].get_width() == sum(range(1, 18))
    assert axes.texts[0].get_text() == "153 (9.00 bits each)"


def test_long_paths_keep_their_ends(recwarn):
    names = [f"{'block/' * 15}layer_{n}/kernel" for n in range(100, 400)]
    report = pd.DataFrame({"elements": 8, "file_bytes": range(1, 301), "fp32_bytes": 32}, names)
    report.loc["total"] = report.sum()
    axes = lqs.plot_sizes(report)
    axes.figure.canvas.draw()
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == "277 others" and len(labels) == len(set(labels)) == len(axes.patches)
    assert all(label.startswith("…") and label.endswith("/kernel") for label in labels[1:])
    assert axes.get_tightbbox().x0 >= 0 and not recwarn.list


def test_parts_of_the_same_shortened_path_have_a_bar_each():
    report = pd.DataFrame({"elements": 8, "file_bytes": [3, 4], "fp32_bytes": 32}, [n + "/block" * 9 for n in "ab"])
    report.loc["total"] = report.sum()
    axes = lqs.plot_sizes(report)
    assert [bar.get_y() for bar in axes.patches] == [-0.4, 0.6]


def test_integers(model):
    first, second = lqs.plot_integers(model)
    bars = {round(bar.get_x() + bar.get_width() / 2, 6): bar.get_height() for bar in first.patches}
    assert bars == {-3: 0.25, 0: 0.25, 1: 0.5}
    assert first.get_title() == "a/kernel\n1.50 bits"
    assert [bar.get_height() for bar in second.patches] == [0.5, 0.5]  # 401 integers, of which seven share a bar
    assert {round(bar.get_width(), 6) for bar in second.patches} == {0.9 * 7}


def test_integers_of_the_largest_parameters():
    layers = [keras.layers.Dense(units) for units in (3, 2, *[4] * 12)]
    drawn = lqs.plot_integers(lqs.quantize(keras.Sequential([keras.Input((4,)), *layers]), bias=None))
    assert len(drawn) == plots.MAX_PARAMETERS and len(drawn[0].figure.axes) == len(drawn)


def test_integers_at_both_ends_of_int32():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="ends")])
    model = lqs.quantize(model, lqs.NestedQuantization(rounding="nearest", initial_scale=1.0), None)
    model.set_weights([np.array([[2.0**31 - 128], [-(2.0**31)]]), *model.get_weights()[1:]])
    (axes,) = lqs.plot_integers(model)
    assert [bar.get_height() for bar in axes.patches] == [0.5, 0.5]
    assert [bar.get_x() > 0 for bar in axes.patches] == [False, True]


@pytest.mark.parametrize("draw, name", [(lqs.plot_sizes, "report"), (lqs.plot_integers, "model")])
def test_what_cannot_be_drawn(draw, name):
    with pytest.raises(ValueError, match=f"Argument `{name}` must .* Received: {name}=3"):
        draw(3)
    with pytest.raises(ValueError, match="Argument `report` must be a table"):
        lqs.plot_sizes(pd.DataFrame({"file_bytes": [1]}, ["total"]))
    with pytest.raises(ValueError, match="Argument `model` must have quantized parameters"):
        lqs.plot_integers(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]))


def test_matplotlib_is_asked_for(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ModuleNotFoundError, match="`lqs.plot_integers` needs the package matplotlib: pip install"):
        lqs.plot_integers(model)
    with pytest.raises(ModuleNotFoundError, match="`lqs.plot_sizes` needs the package matplotlib: pip install"):
        lqs.plot_sizes(lqs.size_report(model))
