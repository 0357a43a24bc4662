"""Figures: from tables of run records to matplotlib axes, and to files in `figures/`.

The same colour and marker mean the same method in every figure (`study.styles`); published values are black crosses.
"""

import io
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from lqs.file.atomic import write_atomically
from study.parameters import is_committed
from study.paths import FIGURES, STYLE
from study.records import PUBLISHED_QUANTITIES
from study.styles import DATASET_LABELS as DATASET_LABELS  # notebooks take these from here, too
from study.styles import MARKERS
from study.styles import METHOD_LABELS as METHOD_LABELS
from study.styles import method_style as method_style

PLAYED = "played_figures"
FRONT = {"color": "0.5", "linewidth": 0.8, "label": "Pareto front"}
PUBLISHED = {"color": "black", "marker": "x", "markersize": 5, "linestyle": "none", "label": "published", "zorder": 5}
QUANTITY_LABELS = {
    "unique": "unique integers",
    "range": "integer range (max - min + 1)",
    "val_accuracy": "validation accuracy / %",
    "val_cross_entropy": "validation cross-entropy",
}
ERROR_SCALE = "\n(axis: log of the error)"


def use_style():
    """Apply the project's style to every figure made from here on."""
    plt.style.use(STYLE)


def save(figure, name, folder=None):
    """Write a figure as `<folder>/<name>.pdf` and `.png`, byte for byte the same for the same figure.

    Args:
        figure: `matplotlib.figure.Figure`.
        name: of the files.
        folder: by default the environment variable `LQS_FIGURES`, which may be empty: then nothing is written, as in
            the tests of the notebooks; else `figures`.

    Returns:
        The two paths.
    """
    folder = os.environ.get("LQS_FIGURES", FIGURES) if folder is None else folder
    if not str(folder):
        return []
    dates = {"pdf": {"CreationDate": None}, "png": {"Software": None}}
    paths = []
    for suffix, metadata in dates.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, metadata=metadata)
        paths.append(Path(folder) / f"{name}.{suffix}")
        write_atomically(paths[-1], buffer.getvalue())
    return paths


def saver(notebook, variables):
    """Return the function `save` of a notebook, which writes to `figures` with its committed parameters only.

    With others, the figure goes to the folder `played_figures` of the current folder, and the place is printed.

    Args:
        notebook: name of the notebook, without its suffix.
        variables: `globals()` of the notebook, where its parameters are looked up whenever a figure is saved.

    Returns:
        Function of a figure and its name.
    """

    def save_figure(figure, name):
        if "LQS_FIGURES" in os.environ or is_committed(notebook, variables):
            return save(figure, name)
        paths = save(figure, name, Path.cwd() / PLAYED)
        print(f"other parameters than the committed ones: {paths[-1]}")
        return paths

    return save_figure


def add_range(runs):
    """Return the table with the column `range`, the number of integers from the least to the greatest."""
    return runs.assign(range=runs["max"] - runs["min"] + 1)


def add_last_epochs(runs, num_last=10):
    """Return the table with the accuracy of the last epochs, in percent, by the histories.

    The columns are `last`, that of the last epoch, and `mean`, `least` and `greatest` of the last `num_last` epochs, or
    of all if there are fewer.

    Example:

    >>> runs = pd.DataFrame({"history": [{"val_accuracy": [0.5, 0.875, 1.0, 0.75]}]})
    >>> add_last_epochs(runs, num_last=3)[["last", "mean", "least", "greatest"]].values.tolist()
    [[75.0, 87.5, 75.0, 100.0]]
    """
    tails = [100 * np.array(history["val_accuracy"][-num_last:]) for history in runs["history"]]
    rows = [(tail[-1], tail.mean(), tail.min(), tail.max()) for tail in tails]
    columns = ["last", "mean", "least", "greatest"]
    return runs.join(pd.DataFrame(rows, index=runs.index, columns=columns, dtype=float))


def pareto_front(sizes, scores):
    """Return the indices of the points that no other point beats, by increasing size.

    A point is beaten by one that is no larger and scores higher, or is smaller and scores no lower.

    Args:
        sizes: array `(n,)`, less is better.
        scores: array `(n,)`, more is better.

    Example:

    >>> pareto_front([1, 2, 3, 3], [0.5, 0.4, 0.9, 0.8]).tolist()
    [0, 2]
    """
    order = np.lexsort((-np.asarray(scores), np.asarray(sizes)))
    best = np.maximum.accumulate(np.asarray(scores)[order])
    is_first = np.concatenate([[True], best[1:] > best[:-1]])
    return order[is_first]


def seed_statistics(runs, keys, quantities):
    """Return mean, standard deviation and count over seeds, one row per combination of `keys`.

    Args:
        runs: table of records.
        keys: columns that tell settings apart.
        quantities: columns to average.

    Returns:
        Table with the keys, `<quantity>` (mean), `<quantity>_std` (0 for one seed) and `num_seeds`.

    Example:

    >>> runs = pd.DataFrame({"strength": [0.0, 0.0, 1.0], "seed": [1, 2, 1], "unique": [4, 6, 3]})
    >>> seed_statistics(runs, ["strength"], ["unique"]).values.tolist()
    [[0.0, 5.0, 1.4142135623730951, 2.0], [1.0, 3.0, 0.0, 1.0]]
    """
    groups = runs.groupby(keys, sort=True, dropna=False)
    columns = {}
    for quantity in quantities:
        columns[quantity] = groups[quantity].mean()
        columns[f"{quantity}_std"] = groups[quantity].std().fillna(0.0)
    return pd.DataFrame({**columns, "num_seeds": groups["seed"].nunique()}).reset_index()


def settings_table(runs, keys, digits):
    """Return one row per combination of `keys`: means over seeds as text, `mean ± deviation` where there are several.

    Args:
        runs: table of records.
        keys: columns that tell settings apart.
        digits: `{column: number of decimals}`.

    Example:

    >>> runs = pd.DataFrame({"strength": [0.0, 0.0, 1e-9], "seed": [1, 2, 1], "unique": [4, 6, 3]})
    >>> settings_table(runs, ["strength"], {"unique": 1}).values.tolist()
    [['0', '5.0 ± 1.4'], ['1e-09', '3.0']]
    """
    statistics = seed_statistics(runs, keys, list(digits))
    table = statistics[keys].copy()
    if "strength" in keys:
        table["strength"] = table["strength"].map("{:g}".format)
    for name, places in digits.items():
        columns = (statistics[name], statistics[f"{name}_std"], statistics["num_seeds"])
        rows = zip(*columns, strict=True)
        table[name] = [f"{mean:.{places}f}" + f" ± {std:.{places}f}" * (seeds > 1) for mean, std, seeds in rows]
    return table


def named(table):
    """Return a table in which methods and data sets have their labels, in its cells, its index and its columns.

    Example:

    >>> named(pd.DataFrame({"method": ["max_bin"], "unique": [4]})).values.tolist()
    [['MaxBin', 4]]
    """
    labels = {**METHOD_LABELS, **DATASET_LABELS}
    return table.replace(labels).rename(index=labels, columns=labels)


def beside_published(runs, published):
    """Return the published values, one per row, and ours of the same method and strength, whatever the granularity.

    Args:
        runs: table of records of one dataset.
        published: table of `study.records.read_published`; values whose strength is not named are left out.

    Returns:
        Table with the keys of the published value, `quantity`, `published`, and a column of means over seeds for each
        granularity and regime of ours, such as `channel, scratch`.
    """
    quantities = list(PUBLISHED_QUANTITIES)
    keys, shared = ["method", "granularity", "regime", "strength"], ["method", "strength", "quantity"]
    ours = runs.assign(accuracy=100 * runs["val_accuracy"], zip_megabytes=runs["zip_bytes"] / 1e6)
    ours = ours.melt(keys, quantities, "quantity").astype({"value": float}).dropna(subset="value")
    ours = ours.groupby([*shared, "granularity", "regime"])["value"].mean().unstack(["granularity", "regime"])
    ours.columns = [", ".join(column) for column in ours.columns]
    theirs = published.melt(keys, quantities, "quantity", "published").dropna(subset=["strength", "published"])
    return theirs.merge(ours.reset_index(), "left", shared).sort_values([*keys, "quantity"], ignore_index=True)


def draw_pareto(axes, runs, size="unique", published=None, label_strengths=False):
    """Draw accuracy against integers: one point per strength and method, its seeds' spread, and each front.

    Filled points are runs from scratch, hollow ones pretrained. The line joins each method's Pareto front
    over both. The accuracy axis is that of `set_accuracy_scale`.

    Args:
        axes: matplotlib axes.
        runs: table of records of one dataset and granularity, several methods, strengths, regimes and seeds.
        size: `"unique"` or `"range"`.
        published: table with the columns `size` and `accuracy` in percent, or `None`; others may be missing.
        label_strengths: whether to write the strength beside the points of the runs from scratch.
    """
    runs = add_range(runs).assign(accuracy=100 * runs["val_accuracy"])
    for method, rows in runs.groupby("method"):
        style = method_style(method)
        points = seed_statistics(rows, ["strength", "regime"], [size, "accuracy"])
        for regime, part in points.groupby("regime"):
            axes.errorbar(
                part[size],
                part["accuracy"],
                xerr=part[f"{size}_std"],
                yerr=part["accuracy_std"],
                fmt=style["marker"],
                color=style["color"],
                markerfacecolor=style["color"] if regime == "scratch" else "white",
                elinewidth=0.6,
                label=f"{style['label']}, {regime}",
            )
            if label_strengths and regime == "scratch":
                for point in part.itertuples():
                    label = {"text": f"{point.strength:g}", "xy": (getattr(point, size), point.accuracy)}
                    axes.annotate(**label, xytext=(4, -7), textcoords="offset points", fontsize=5, color="0.35")
        front = points.iloc[pareto_front(points[size], points["accuracy"])]
        axes.plot(front[size], front["accuracy"], color=style["color"], linewidth=0.8, alpha=0.7)
    axes.plot([], [], **FRONT)  # one entry of the legend for the lines of all methods
    if published is not None and len(published):
        axes.plot(published[size], published["accuracy"], **PUBLISHED)
    axes.set(xscale="log", xlabel=QUANTITY_LABELS[size], ylabel=QUANTITY_LABELS["val_accuracy"])
    set_accuracy_scale(axes)


def set_accuracy_scale(axes, ticks=(20, 50, 80, 90, 95, 97)):
    """Scale the y axis, an accuracy in percent, by the logarithm of the error, so that its upper end is legible.

    The label of the axis, if it has one, is completed by what the scale is.
    """
    functions = (lambda accuracy: -np.log10(np.maximum(100 - accuracy, 1e-3)), lambda score: 100 - 10**-score)
    axes.set_yscale("function", functions=functions)
    axes.set_yticks(ticks, labels=[str(tick) for tick in ticks])
    label = axes.get_ylabel().removesuffix(ERROR_SCALE)
    axes.set_ylabel(label + ERROR_SCALE if label else "")


def set_linear_accuracy_scale(axes):
    """Undo `set_accuracy_scale`, also on the axes that share theirs: for networks far from 100 percent."""
    axes.set_yscale("linear")
    axes.autoscale(axis="y")
    for ax in axes.get_shared_y_axes().get_siblings(axes):
        ax.set_ylabel(ax.get_ylabel().removesuffix(ERROR_SCALE))


def set_log_ticks(axis):
    """Give a logarithmic axis of less than three decades several ticks, with plain numbers; others stay as they are.

    Args:
        axis: `axes.xaxis` or `axes.yaxis`, when everything has been drawn.

    Example:

    >>> figure, axes = plt.subplots()
    >>> axes.set(yscale="log", ylim=(4, 90)) and set_log_ticks(axes.yaxis)
    >>> [f"{tick:g}" for tick in axes.get_yticks() if 4 <= tick <= 90]
    ['5', '10', '20', '50']
    >>> plt.close(figure)
    """
    low, high = sorted(axis.get_view_interval())
    if high / low >= 1000:
        return
    axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]) if high / low < 6 else LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def draw_history(axes, runs, quantity, baseline=None, scale=1.0, strengths=None):
    """Draw a quantity over epochs, one line per strength, its mean over seeds, from light to dark, with its own marker.

    Args:
        axes: matplotlib axes.
        runs: table of records that differ in strength and seed only.
        quantity: key of `history`.
        baseline: table of records of the float network, drawn dashed, or `None`.
        scale: factor of the quantity.
        strengths: those that get a shade, a marker and a place in the legend, or `None` for those of `runs`.
    """
    strengths = sorted(runs["strength"].unique()) if strengths is None else strengths
    shades = plt.get_cmap("viridis_r")(np.linspace(0.08, 1.0, len(strengths)))
    for number, (strength, shade) in enumerate(zip(strengths, shades, strict=True)):
        part = runs[runs["strength"] == strength]
        epochs, values = _mean_history(part, quantity, scale) if len(part) else ([], [])
        places = {"marker": MARKERS[number % len(MARKERS)], "markevery": (number % 3, max(1, len(epochs) // 5))}
        axes.plot(epochs, values, color=shade, markersize=2.5, **places, label=f"{strength:g}")
    if baseline is not None and len(baseline):
        axes.plot(*_mean_history(baseline, quantity, scale), color="black", linestyle="--", label="float")
    axes.set(xlabel="epoch", ylabel=QUANTITY_LABELS[quantity])
    axes.xaxis.get_major_locator().set_params(integer=True)


def pareto_figure(runs, granularities, published=None, label_strengths=False):
    """Return a figure of `draw_pareto`, a column per granularity: unique integers above, their range below.

    Args:
        runs: table of records of one dataset.
        granularities: list of granularities.
        published: table of `study.records.read_published`, or `None`.
        label_strengths: see `draw_pareto`.
    """
    figure, axes = plt.subplots(2, len(granularities), figsize=(5.9, 4.3), sharey=True, squeeze=False)
    for column, granularity in enumerate(granularities):
        part = runs[runs["granularity"] == granularity]
        values = None if published is None else published[published["granularity"] == granularity]
        draw_pareto(axes[0, column], part, "unique", values, label_strengths)
        draw_pareto(axes[1, column], part, "range", None if published is None else add_range(values))
        axes[0, column].set_title(granularity)
    _label_outside(figure, axes, ncols=3)
    return figure


def history_figure(runs, granularities, baseline, strength_name):
    """Return a figure of `draw_history`, a column per granularity: accuracy above, cross-entropy below.

    Args:
        runs: table of records that differ in granularity, strength and seed only.
        granularities: list of granularities.
        baseline: table of records of the float network.
        strength_name: title of the legend.
    """
    shape = (2, len(granularities))
    figure, axes = plt.subplots(*shape, figsize=(5.9, 3.9), sharex=True, sharey="row", squeeze=False)
    strengths = sorted(runs["strength"].unique())  # the same shades in all columns
    for column, granularity in enumerate(granularities):
        part = runs[runs["granularity"] == granularity]
        draw_history(axes[0, column], part, "val_accuracy", baseline, scale=100, strengths=strengths)
        draw_history(axes[1, column], part, "val_cross_entropy", baseline, strengths=strengths)
        axes[0, column].set(title=granularity, xlabel="")
    set_accuracy_scale(axes[0, 0])
    axes[1, 0].set_yscale("log")
    set_log_ticks(axes[1, 0].yaxis)
    _label_outside(figure, axes, title=strength_name, ncols=6)
    return figure


def draw_histograms(axes, parameters, color):
    """Draw the integer histogram of each quantized parameter of one record.

    Args:
        axes: sequence of matplotlib axes, one per parameter.
        parameters: the list `parameters` of a record.
        color: colour of the bars.
    """
    for ax, parameter in zip(axes, parameters, strict=True):
        bins = parameter["histogram"]
        edges = bins["start"] + bins["width"] * np.arange(len(bins["counts"]) + 1) - 0.5
        ax.stairs(bins["counts"], edges, fill=True, color=color)
        size = " x ".join(str(length) for length in parameter["shape"])
        ax.set(title=f"{parameter['name']}\n{size}", xlabel="integer", ylabel="count", yscale="log")
        set_log_ticks(ax.yaxis)


def histogram_figure(parameters, color, num_columns):
    """Return a figure of `draw_histograms`, of the parameters of rank 2 and up: biases are left out."""
    kernels = [parameter for parameter in parameters if len(parameter["shape"]) > 1]
    num_rows = -(-len(kernels) // num_columns)
    figure, axes = plt.subplots(num_rows, num_columns, figsize=(5.9, 1.5 * num_rows), squeeze=False)
    draw_histograms(axes.flat[: len(kernels)], kernels, color)
    for ax in axes.flat[len(kernels) :]:
        ax.remove()
    for ax in axes[:, 1:].flat:
        ax.set_ylabel("")
    for ax in axes[:-1].flat:
        ax.set_xlabel("")
    return figure


def _mean_history(runs, quantity, scale):
    values = scale * np.mean([history[quantity] for history in runs["history"]], axis=0)
    return np.arange(1, len(values) + 1), values


def _label_outside(figure, axes, **legend):
    """Keep the y labels of the first column only, and put one legend for all axes below them."""
    for ax in axes[:, 1:].flat:
        ax.set_ylabel("")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", **legend)
