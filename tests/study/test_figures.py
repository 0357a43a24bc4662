"""Tests of `study.figures`: the numbers on the axes, and files that do not change."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study import figures
from study.methods import METHODS
from study.parameters import read_parameters
from study.styles import SAME_AS, method_style

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=20)


@pytest.fixture(autouse=True)
def own_style():
    with matplotlib.rc_context():
        figures.use_style()
        yield
    plt.close("all")


@pytest.fixture
def axes():
    return plt.subplots()[1]


@pytest.fixture
def runs():
    """Return two strengths of two seeds from scratch, one pretrained run, and one of another method."""
    columns = ["method", "regime", "strength", "seed", "val_accuracy", "unique", "min", "max"]
    rows = [
        ("nested", "scratch", 0.0, 42, 0.90, 100, -60, 59),
        ("nested", "scratch", 0.0, 43, 0.92, 140, -80, 79),
        ("nested", "scratch", 1e-8, 42, 0.50, 4, -1, 2),
        ("nested", "scratch", 1e-8, 43, 0.60, 8, -4, 5),
        ("nested", "pretrained", 1e-8, 42, 0.95, 5, -2, 2),
        ("inverse", "scratch", 1e-6, 42, 0.80, 20, -10, 9),
    ]
    return pd.DataFrame(rows, columns=columns)


def points_of(line):
    """Return the points of a line, `[(x, y), ...]`."""
    return list(zip(*(np.asarray(values, float).tolist() for values in line.get_data()), strict=True))


def lines_of(axes, style="-"):
    """Return the points of each line, but of those that belong to error bars."""
    of_bars = {id(container.lines[0]) for container in axes.containers}
    return [points_of(line) for line in axes.lines if line.get_linestyle() == style and id(line) not in of_bars]


def bars_of(axes):
    """Return `{label: [(x, y), ...]}` of the error bars' centres."""
    return {container.get_label(): points_of(container.lines[0]) for container in axes.containers}


# Files.


def draw():
    figure, axes = plt.subplots()
    axes.plot([1, 2, 3], [1, 4, 9], label="squares")
    axes.legend()
    return figure


def test_saved_files_are_the_same_byte_for_byte(tmp_path, monkeypatch):
    paths = figures.save(draw(), "squares", tmp_path / "first")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")  # another day
    again = figures.save(draw(), "squares", tmp_path / "again")
    assert [path.name for path in paths] == ["squares.pdf", "squares.png"] == [path.name for path in again]
    for first, second in zip(paths, again, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert paths[0].read_bytes().startswith(b"%PDF") and b"CreationDate" not in paths[0].read_bytes()
    assert paths[1].read_bytes().startswith(b"\x89PNG") and b"Software" not in paths[1].read_bytes()


def test_saving_replaces_whole_files(tmp_path):
    old = figures.save(draw(), "squares", tmp_path)[0].read_bytes()
    figure = draw()
    figure.axes[0].set_title("changed")
    assert figures.save(figure, "squares", tmp_path)[0].read_bytes() != old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["squares.pdf", "squares.png"]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Return stand-ins for the folder of the committed figures and for the one in which a notebook is executed."""
    monkeypatch.delenv("LQS_FIGURES", raising=False)
    monkeypatch.setattr(figures, "FIGURES", tmp_path / "figures")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "figures", tmp_path / figures.PLAYED


def test_notebook_writes_committed_figures_with_its_committed_parameters_only(folders, capsys):
    committed, played = folders
    parameters = dict(read_parameters()["16_your_own_network"]["committed"])
    save = figures.saver("16_your_own_network", parameters)
    assert [path.parent for path in save(draw(), "squares")] == [committed] * 2
    old = (committed / "squares.png").read_bytes()
    parameters["EPOCHS"] += 1  # in the cell, after the notebook has begun
    assert [path.parent for path in save(draw(), "squares")] == [played] * 2
    assert str(played / "squares.png") in capsys.readouterr().out
    assert (committed / "squares.png").read_bytes() == old


def test_named_folder_counts_for_all_parameters(folders, monkeypatch, tmp_path):
    monkeypatch.setenv("LQS_FIGURES", str(tmp_path / "named"))
    save = figures.saver("16_your_own_network", {})
    assert [path.parent.name for path in save(draw(), "squares")] == ["named"] * 2


# Style.


def test_every_method_has_a_label_and_no_two_have_the_same_color_and_marker():
    styles = [method_style(method) for method in METHODS if method not in SAME_AS]
    assert len({style["label"] for style in styles}) == len(styles)
    assert len({(style["color"], style["marker"]) for style in styles}) == len(styles)


def test_the_thesiss_rule_looks_like_the_nested_layer():
    assert method_style("votes_ratio") == method_style("nested")


def test_style_is_applied():
    matplotlib.rcdefaults()
    figures.use_style()
    assert matplotlib.rcParams["axes.spines.top"] is False and matplotlib.rcParams["svg.hashsalt"] == "lqs"


# Tables.


def is_beaten(point, other):
    (size, score), (other_size, other_score) = point, other
    return (other_size <= size and other_score > score) or (other_size < size and other_score >= score)


@settings(deadline=None, derandomize=True)
@given(POINTS)
def test_pareto_front_is_what_nothing_beats(points):
    front = figures.pareto_front(*zip(*points, strict=True))
    expected = {point for point in points if not any(is_beaten(point, other) for other in points)}
    found = [points[index] for index in front]
    assert len(found) == len(expected) and set(found) == expected
    assert found == sorted(found)


def test_seed_statistics():
    runs = pd.DataFrame(
        {
            "method": ["a", "a", "a", "b"],
            "strength": [0, 0, 1, 0],
            "seed": [1, 2, 1, 1],
            "unique": [2, 6, 5, 7],
            "accuracy": [0.5, 0.7, 0.1, 0.2],
        }
    )
    table = figures.seed_statistics(runs, ["method", "strength"], ["unique", "accuracy"])
    assert table[["method", "strength"]].values.tolist() == [["a", 0], ["a", 1], ["b", 0]]
    assert table["unique"].tolist() == [4, 5, 7] and table["num_seeds"].tolist() == [2, 1, 1]
    np.testing.assert_allclose(table["unique_std"], [np.sqrt(8), 0, 0])  # ((-2)**2 + 2**2) / (2 - 1)
    np.testing.assert_allclose(table["accuracy"], [0.6, 0.1, 0.2])
    np.testing.assert_allclose(table["accuracy_std"], [np.sqrt(0.02), 0, 0])


def test_settings_table_shows_the_spread_of_several_seeds():
    runs = pd.DataFrame({"method": ["a", "a", "b"], "strength": [0, 0, 1e-9], "seed": [1, 2, 1], "unique": [2, 6, 7]})
    table = figures.settings_table(runs, ["method", "strength"], {"unique": 1})
    assert table.values.tolist() == [["a", "0", "4.0 ± 2.8"], ["b", "1e-09", "7.0"]]


def test_published_values_stand_beside_ours_of_other_granularities(runs):
    runs = runs.assign(granularity="channel", zip_bytes=160_000)
    keys = {"method": "nested", "granularity": ["row", "scalar"], "regime": "scratch", "strength": [1e-8, np.nan]}
    published = pd.DataFrame({**keys, "accuracy": [56.0, 1.0], "unique": 7.0, "min": np.nan, "max": np.nan})
    table = figures.beside_published(runs, published.assign(zip_megabytes=[0.2, np.nan]))
    assert table["quantity"].tolist() == ["accuracy", "unique", "zip_megabytes"]  # without those of unknown strength
    assert table["published"].tolist() == [56, 7, 0.2]
    assert table["channel, scratch"].tolist() == [pytest.approx(55), 6, 0.16]
    assert table["channel, pretrained"].tolist() == [pytest.approx(95), 5, 0.16]
    assert figures.beside_published(runs[:0], published.assign(zip_megabytes=0.2))["published"].tolist() == [56, 7, 0.2]


def test_range_counts_both_ends(runs):
    assert figures.add_range(runs)["range"].tolist() == [120, 160, 4, 10, 5, 20]


# Axes.


def test_pareto_points_are_means_over_seeds(axes, runs):
    figures.draw_pareto(axes, runs)
    bars = bars_of(axes)
    assert bars == {
        "nested layer, scratch": [pytest.approx((120, 91)), pytest.approx((6, 55))],
        "nested layer, pretrained": [pytest.approx((5, 95))],
        "Inverse, scratch": [pytest.approx((20, 80))],
    }
    assert axes.get_xscale() == "log" and axes.get_ylabel() == "validation accuracy / %\n(axis: log of the error)"


def test_pareto_spread_is_the_deviation_over_seeds(axes, runs):
    figures.draw_pareto(axes, runs[runs["regime"] == "scratch"].query("method == 'nested'"))
    (container,) = axes.containers
    lengths = [[np.ptp(segment, axis=0).max() for segment in bars.get_segments()] for bars in container.lines[2]]
    across, upright = np.array(lengths) / 2
    np.testing.assert_allclose(across, [np.sqrt(800), np.sqrt(8)])
    np.testing.assert_allclose(upright, [np.sqrt(2), np.sqrt(50)])


def test_pareto_lines_join_the_front_of_each_method(axes, runs):
    figures.draw_pareto(axes, runs)
    in_legend, *fronts = sorted(lines_of(axes))
    assert in_legend == [] and "Pareto front" in axes.get_legend_handles_labels()[1]
    assert fronts == [[pytest.approx((5, 95))], [pytest.approx((20, 80))]]  # nothing beats 5 at 95 %


def test_pareto_of_ranges(axes, runs):
    figures.draw_pareto(axes, runs, size="range")
    assert bars_of(axes)["nested layer, scratch"] == [pytest.approx((140, 91)), pytest.approx((7, 55))]
    assert axes.get_xlabel() == "integer range (max - min + 1)"


def test_pareto_regimes_differ_by_their_faces_and_methods_by_color_and_marker(axes, runs):
    figures.draw_pareto(axes, runs)
    points = {container.get_label(): container.lines[0] for container in axes.containers}
    nested, inverse = method_style("nested"), method_style("inverse")
    assert points["nested layer, scratch"].get_markerfacecolor() == nested["color"]
    assert points["nested layer, pretrained"].get_markerfacecolor() == "white"
    assert points["nested layer, pretrained"].get_color() == nested["color"]
    assert points["Inverse, scratch"].get_color() == inverse["color"]
    assert [points[f"{name}, scratch"].get_marker() for name in ("nested layer", "Inverse")] == ["o", "v"]


def test_published_points_are_drawn(axes, runs):
    published = pd.DataFrame({"unique": [8, 11], "accuracy": [93.0, 95.5]})
    figures.draw_pareto(axes, runs, published=published)
    (line,) = [line for line in axes.lines if line.get_label() == "published"]
    assert line.get_xdata().tolist() == [8, 11] and line.get_ydata().tolist() == [93.0, 95.5]
    assert (line.get_marker(), line.get_linestyle()) == ("x", "None")


def test_strengths_are_written_beside_the_points_from_scratch(axes, runs):
    figures.draw_pareto(axes, runs.query("method == 'nested'"), label_strengths=True)
    written = {text.get_text(): text.xy for text in axes.texts}
    assert written == {"0": pytest.approx((120, 91)), "1e-08": pytest.approx((6, 55))}


def test_accuracy_scale_gives_every_tenth_of_the_error_the_same_room(axes):
    figures.set_accuracy_scale(axes)
    transform = axes.yaxis.get_transform()
    heights = transform.transform(np.array([0.0, 90.0, 99.0, 99.9, 100.0]))
    np.testing.assert_allclose(np.diff(heights[:4]), 1)
    assert np.isfinite(heights).all()
    np.testing.assert_allclose(transform.inverted().transform(heights[:4]), [0, 90, 99, 99.9])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["20", "50", "80", "90", "95", "97"]


def test_linear_accuracy_scale_fits_the_points(runs):
    figure = figures.pareto_figure(runs.assign(granularity="row"), ["row"])
    figures.set_linear_accuracy_scale(figure.axes[0])
    for axes in figure.axes:  # both share the scale
        low, high = axes.get_ylim()
        assert axes.get_yscale() == "linear" and 40 < low < 50 and 95 < high < 100
        assert axes.get_ylabel() == "validation accuracy / %"


@pytest.mark.parametrize("limits", [(0.55, 0.8), (0.3, 1.7), (4, 30), (15, 180), (3, 2000)])
def test_logarithmic_axes_have_several_ticks_with_plain_numbers(axes, limits):
    axes.set(yscale="log", ylim=limits)
    figures.set_log_ticks(axes.yaxis)
    axes.figure.canvas.draw()
    shown = [tick for tick in axes.get_yticks() if limits[0] <= tick <= limits[1]]
    assert 2 <= len(shown) <= 9
    texts = {text.get_position()[1]: text.get_text() for text in axes.get_yticklabels()}
    assert [texts[tick] for tick in shown] == [f"{tick:g}" for tick in shown]


def test_pareto_figure_has_a_column_per_granularity(runs):
    runs = pd.concat([runs.assign(granularity="row"), runs.iloc[-1:].assign(granularity="scalar")])
    columns = ["granularity", "unique", "min", "max", "accuracy"]
    published = pd.DataFrame([("row", 8, np.nan, np.nan, 93.0), ("scalar", 9, -5, 6, 90.0)], columns=columns)
    figure = figures.pareto_figure(runs, ["row", "scalar"], published)
    above, below = figure.axes[:2], figure.axes[2:]
    assert [axes.get_title() for axes in above] == ["row", "scalar"]
    assert [len(bars_of(axes)) for axes in above] == [3, 1] == [len(bars_of(axes)) for axes in below]
    assert bars_of(above[1])["Inverse, scratch"] == bars_of(below[1])["Inverse, scratch"]  # 20 integers from -10 to 9
    crosses = [[points_of(line) for line in axes.lines if line.get_label() == "published"] for axes in figure.axes]
    assert crosses[:2] + crosses[3:] == [[[(8, 93)]], [[(9, 90)]], [[(12, 90)]]]
    assert np.isnan(crosses[2][0][0][0])  # nobody has published the range


def with_history(strengths, histories):
    return pd.DataFrame({"strength": strengths, "history": [{"val_accuracy": values} for values in histories]})


def test_history_lines_are_means_over_seeds(axes):
    runs = with_history([1e-8, 0, 0], [[0.1, 0.2], [0.5, 0.7], [0.7, 0.9]])
    figures.draw_history(axes, runs, "val_accuracy", scale=100)
    lines = dict(zip((line.get_label() for line in axes.lines), lines_of(axes), strict=True))
    assert lines == {
        "0": [pytest.approx((1, 60)), pytest.approx((2, 80))],
        "1e-08": [pytest.approx((1, 10)), pytest.approx((2, 20))],
    }
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "validation accuracy / %")
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_history_of_the_baseline_is_dashed(axes):
    baseline = with_history([0], [[0.8, 0.9]])
    figures.draw_history(axes, with_history([0], [[0.5, 0.6]]), "val_accuracy", baseline)
    assert lines_of(axes) == [[(1, 0.5), (2, 0.6)]]
    assert lines_of(axes, "--") == [[(1, 0.8), (2, 0.9)]]


def test_history_without_a_baseline_run(axes):
    empty = with_history([], [])
    figures.draw_history(axes, with_history([0], [[0.5, 0.6]]), "val_accuracy", empty)
    assert len(axes.lines) == 1


def test_history_figure_has_a_column_per_granularity():
    histories = [{"val_accuracy": [0.5, level], "val_cross_entropy": [2.0, 1 / level]} for level in (0.6, 0.7, 0.8)]
    runs = pd.DataFrame({"granularity": ["row", "scalar"], "strength": [0.0, 1e-8], "history": histories[:2]})
    baseline = pd.DataFrame({"history": histories[2:]})
    figure = figures.history_figure(runs, ["row", "scalar"], baseline, "strength")
    lines = [(*[points for points in lines_of(axes) if points], *lines_of(axes, "--")) for axes in figure.axes]
    lasts = [[points[-1] for points in pair] for pair in lines]
    expected = [[60, 80], [70, 80], [1 / 0.6, 1 / 0.8], [1 / 0.7, 1 / 0.8]]
    assert lasts == [[(2, pytest.approx(ours)), (2, pytest.approx(base))] for ours, base in expected]
    assert [axes.get_title() for axes in figure.axes] == ["row", "scalar", "", ""]
    shades = [{line.get_label(): line.get_color().tolist() for line in axes.lines[:2]} for axes in figure.axes]
    assert list(shades[0]) == ["0", "1e-08"] and shades.count(shades[0]) == 4  # each strength has its own, everywhere


def test_histograms_have_a_bar_for_each_bin():
    parameters = [
        {"name": "hidden/kernel", "shape": [2, 3], "histogram": {"start": -1, "width": 1, "counts": [1, 3, 2]}},
        {"name": "hidden/bias", "shape": [3], "histogram": {"start": 10, "width": 4, "counts": [2, 1]}},
    ]
    both = plt.subplots(1, 2)[1]
    figures.draw_histograms(both, parameters, "red")
    bars = [axes.patches[0].get_data() for axes in both]
    assert bars[0].values.tolist() == [1, 3, 2] and bars[0].edges.tolist() == [-1.5, -0.5, 0.5, 1.5]
    assert bars[1].values.tolist() == [2, 1] and bars[1].edges.tolist() == [9.5, 13.5, 17.5]
    titles = [axes.get_title() for axes in both]
    assert "hidden/kernel" in titles[0] and "2 x 3" in titles[0] and "hidden/bias" in titles[1]
    assert {axes.get_yscale() for axes in both} == {"log"}


def test_histogram_figure_leaves_out_biases():
    bins = {"start": 0, "width": 1, "counts": [1, 3]}
    shapes = {"a/kernel": [2, 2, 1, 1], "a/bias": [1], "b/kernel": [2, 1], "c/kernel": [1, 2]}
    parameters = [{"name": name, "shape": shape, "histogram": bins} for name, shape in shapes.items()]
    figure = figures.histogram_figure(parameters, "red", num_columns=2)
    assert [axes.get_title().split("\n")[0] for axes in figure.axes] == ["a/kernel", "b/kernel", "c/kernel"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["count", "", "count"]


def test_histograms_need_an_axes_each():
    with pytest.raises(ValueError, match="shorter"):
        figures.draw_histograms(plt.subplots(1, 2)[1], [], "red")
