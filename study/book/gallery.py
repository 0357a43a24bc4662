"""The gallery: every published method of `lqs.methods`, by its docstrings, its curves and its row of the leaderboard.

It needs the JAX backend, which differentiates the layers.
"""

import importlib
import inspect
import io
import re
from functools import cache

import jax
import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import lqs
from study import figures
from study.book.notebooks import batches
from study.grid import curve_configs, read_grid
from study.methods import strength_name
from study.records import read_record, to_table

LEADERBOARD = "17_leaderboard"
POINTS_LOST = (0.1, 0.5, 1.0)
INTRODUCTION = """\
# Published methods

Each method of `lqs.methods`, with

- its paper, its equations and its departures, from its docstrings;
- one line of code;
- what it does to numbers from −1 to 1 at the setting of that line, with one scale for all: forwards as in evaluation,
  backwards as in training;
- its row of the [leaderboard](/notebooks/17_leaderboard.ipynb): how many times smaller than float32 the whole file of
  the MNIST network is with at most so many points of accuracy lost. The setting is the smallest within half a point, or
  the most accurate where none holds.
"""
PARAMETER = np.linspace(-1, 1, 401, dtype="float32")


@cache
def settings():
    """Return notebook 17's settings on MNIST, one row each: means over seeds, and the points that they lose."""
    names = [name for name in batches(LEADERBOARD) if name.startswith("mnist")]
    configs = [config for name in names for curve in read_grid()[name] for config in curve_configs(curve)]
    runs = to_table(record for record in map(read_record, configs) if record)
    runs["accuracy"], runs["ratio"] = 100 * runs["val_accuracy"], runs["fp32_bytes"] / runs["file_bytes"]
    keys = ["method", "bits", "strength", "target_ratio", "learning_rate"]
    table = figures.seed_statistics(runs, keys, ["accuracy", "ratio"])
    float_network = table[table["method"] == "float"].nlargest(1, "num_seeds").iloc[0]
    return table.assign(points_lost=float_network["accuracy"] - table["accuracy"])


def recorded():
    """Return the published methods that have a run of the leaderboard, in the order of `lqs.methods.METHODS`."""
    return [method for method in lqs.methods.METHODS if method in set(settings()["method"])]


def leaderboard_row(method):
    """Return the greatest ratio of a method within each of `POINTS_LOST`; missing where no setting holds."""
    rows = settings()[settings()["method"] == method]
    return [rows[rows["points_lost"] <= lost]["ratio"].max() for lost in POINTS_LOST]


def best_setting(method):
    """Return the smallest setting of a method within half a point of the float network, or its most accurate one."""
    rows = settings()[settings()["method"] == method]
    holding = rows[rows["points_lost"] <= POINTS_LOST[1]]
    return holding.nlargest(1, "ratio").iloc[0] if len(holding) else rows.nlargest(1, "accuracy").iloc[0]


def arguments(method):
    """Return the arguments of a method's preset at its best setting.

    Example:

    >>> arguments("min_max")
    {'bits': 3}
    """
    setting = best_setting(method)
    known = {"bits": setting["bits"], strength_name(method): setting["strength"]}
    needed = inspect.signature(lqs.methods.get(method)).parameters
    found = {name: known[name] for name in needed if name in known and not pd.isna(known[name])}
    return {name: int(value) if name == "bits" else float(value) for name, value in found.items()}


def curves(quantizer, parameter=PARAMETER):
    """Return what a quantizer does to a parameter: `P_r`, `dP_r/dP` and the gradient of its penalty.

    All gradients are those of training; `P_r` is that of evaluation.
    """
    quantizer.build_for(keras.Variable(parameter))

    def terms(parameter, upstream):
        with keras.StatelessScope(collect_losses=True) as scope:
            reconstructed = quantizer(parameter, training=True)
        return upstream * keras.ops.sum(reconstructed) + (1 - upstream) * sum(scope.losses)

    gradients = [np.asarray(jax.grad(terms)(parameter, upstream)) for upstream in (1.0, 0.0)]
    return np.asarray(quantizer(parameter, training=False)), *gradients


def picture(method):
    """Return a figure of a method's curves as SVG: forwards, backwards and, if it has one, its penalty."""
    keras.utils.set_random_seed(0)
    quantizer = lqs.methods.get(method)(**arguments(method), granularity="scalar")
    forwards, backwards, penalty = curves(quantizer)
    shown = {"forwards: $P_r$": forwards, r"backwards: $\partial P_r / \partial P$": backwards}
    if quantizer.penalty is not None:
        shown["gradient of the penalty"] = penalty
    figures.use_style()
    figure, axes = plt.subplots(1, len(shown), figsize=(2.3 * len(shown), 1.9), squeeze=False)
    for ax, (title, values) in zip(axes[0], shown.items(), strict=True):
        ax.plot(PARAMETER, values)
        ax.set(title=title, xlabel="$P$")
    buffer = io.StringIO()
    with plt.rc_context({"svg.hashsalt": method}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    return buffer.getvalue()


def methods_page():
    """Return the page of the gallery."""
    lines = [INTRODUCTION]
    for method in recorded():
        preset = lqs.methods.get(method)
        module = importlib.import_module(preset.__module__)
        classes = [name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__]
        classes = [name for name in classes if inspect.isclass(vars(module)[name])]
        given = "".join(f", {name}={value:g}" for name, value in arguments(method).items())
        setting, row = best_setting(method), leaderboard_row(method)
        ratios = " | ".join("none" if pd.isna(ratio) else f"{ratio:.1f}" for ratio in row)
        summary = (module.__doc__ or method).splitlines()[0]
        heading = re.split(r": | \(|, |\.", summary)[0]
        lines += ["", f"## {heading}", "", summary, ""]
        lines += ["```python", f'small = lqs.quantize(model, "{method}"{given})', "```", ""]
        lines += [f"![Curves of {method}: what it makes of a parameter, and the gradients](/pages/{method}.svg)", ""]
        lines += ["| " + " | ".join(f"within {lost:g}" for lost in POINTS_LOST) + " | accuracy / % | ratio | seeds |"]
        lines += ["| --- " * 6 + "|"]
        lines += [f"| {ratios} | {setting['accuracy']:.2f} | {setting['ratio']:.1f} | {setting['num_seeds']:.0f} |", ""]
        lines += ["```{eval-rst}", f".. autofunction:: {module.__name__}.{preset.__name__}"]
        lines += [f".. autoclass:: {module.__name__}.{name}" for name in classes]
        lines += ["```"]
    return "\n".join(lines) + "\n"
