"""Pictures of a quantized model: `plot_sizes` and `plot_integers`. Nothing else of lqs needs matplotlib."""

import importlib
import math
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from lqs.inspection import entropy_bits, model_integers
from lqs.tables import shortened

if TYPE_CHECKING:
    import pandas as pd

MAX_PARTS, MAX_PARAMETERS, NUM_COLUMNS = 24, 12, 4
COLOR, MUTED = "#0072b2", "#999999"
MAX_BARS = 64  # of a histogram: of more integers several share a bar
LONGEST_PART, LONGEST_TITLE = 40, 32  # characters of a path


def plot_sizes(report: "pd.DataFrame", axes: Any = None) -> Any:
    """Draw where the bytes of a `.lqs` file go: a bar for each part, with its bytes and the bits of an element.

    Of more than 24 parts, the smallest ones share a bar.

    Args:
        report: the table of `lqs.size_report`.
        axes: `matplotlib.axes.Axes` to draw in; `None` makes a figure.

    Returns:
        The `matplotlib.axes.Axes`.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: if `report` is not such a table.
    """
    if "total" not in getattr(report, "index", ()) or not {"elements", "file_bytes", "fp32_bytes"} <= set(report):
        raise ValueError(f"Argument `report` must be a table of `lqs.size_report`. Received: report={report!r}")
    parts = report.drop(index="total")[["elements", "file_bytes"]].sort_values("file_bytes", kind="stable")
    parts = parts[parts["file_bytes"] > 0]
    if len(parts) > MAX_PARTS:
        rest = parts.iloc[: len(parts) - MAX_PARTS + 1]
        parts = parts.iloc[len(rest) :]
        parts.loc[f"{len(rest)} others"] = rest.sum()
        parts = parts.iloc[np.roll(np.arange(len(parts)), 1)]
    if axes is None:
        _, axes = _pyplot("plot_sizes").subplots(figsize=(7, 1 + 0.25 * len(parts)), layout="constrained")
    named = {"tables", "scales", "other variables", "header"}
    colors = [MUTED if part in named or part.endswith(" others") else COLOR for part in parts.index]
    bars = axes.barh(range(len(parts)), parts["file_bytes"], color=colors)
    axes.set_yticks(range(len(parts)), [shortened(part, LONGEST_PART) for part in parts.index])
    labels = [f"{size:,.0f}{_bits(size, elements)}" for elements, size in parts.to_numpy()]
    axes.bar_label(bars, labels, padding=3, fontsize="small")
    axes.margins(x=0.3, y=0.02)
    axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("bytes")
    total = report.loc["total"]
    times = total["fp32_bytes"] / total["file_bytes"]
    axes.set_title(f"{total['file_bytes']:,.0f} bytes, {times:.1f} times smaller than float32", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def plot_integers(model: keras.layers.Layer) -> np.ndarray:
    """Draw how often each integer of a quantized model is there: a histogram for each of its twelve largest parameters.

    Args:
        model: a built layer or model, made of `lqs` layers or by `lqs.quantize`.

    Returns:
        Array of `matplotlib.axes.Axes`, one for each parameter that is drawn, in the order of the model.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: if `model` is not a built Keras layer or model with quantized parameters.
    """
    integers = model_integers(model) if isinstance(model, keras.layers.Layer) else {}
    if not integers:
        raise ValueError(f"Argument `model` must have quantized parameters. Received: model={model!r}")
    largest = sorted(integers, key=lambda path: -integers[path].size)[:MAX_PARAMETERS]
    drawn = {path: array.ravel() for path, array in integers.items() if path in largest}
    num_columns = min(NUM_COLUMNS, len(drawn))
    num_rows = math.ceil(len(drawn) / num_columns)
    figure, grid = _pyplot("plot_integers").subplots(
        num_rows, num_columns, figsize=(2.4 * num_columns, 1.9 * num_rows), squeeze=False, layout="constrained"
    )
    for axes, (path, array) in zip(grid.flat, drawn.items(), strict=False):
        _histogram(axes, array)
        title = shortened("/".join(path.split("/")[-2:]), LONGEST_TITLE)
        axes.set_title(f"{title}\n{entropy_bits(array):.2f} bits", fontsize="small")
    for axes in grid.flat[len(drawn) :]:
        axes.remove()
    figure.supxlabel("integer", fontsize="small")
    figure.supylabel("share of the elements", fontsize="small")
    return grid.ravel()[: len(drawn)]


def _histogram(axes: Any, array: np.ndarray) -> None:
    """Draw a bar for each integer, or for so many next to each other that they fit."""
    array = array.astype("int64")  # in which the range of int32 has room
    lowest, highest = int(array.min()), int(array.max())
    width = math.ceil((highest - lowest + 1) / MAX_BARS)
    bins, counts = np.unique((array - lowest) // width, return_counts=True)
    gap = 0.1 if len(bins) <= MAX_BARS // 4 else 0.0
    axes.bar(lowest + width * bins + (width - 1) / 2, counts / array.size, width=(1 - gap) * width, color=COLOR)
    axes.set_xlim(lowest - width, highest + width)
    axes.tick_params(labelsize="small")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)


def _bits(size: float, elements: float) -> str:
    return f" ({8 * size / elements:.2f} bits each)" if elements else ""


def _pyplot(name: str) -> Any:
    try:
        return importlib.import_module("matplotlib.pyplot")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"`lqs.{name}` needs the package matplotlib: pip install matplotlib") from error
