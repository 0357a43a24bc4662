"""Diagrams: matrices, convolution kernels and networks, drawn from arrays.

Every function draws into axes that it is given and turns the axes' frame off. A matrix cell is one unit wide
and high; `corner` is the upper left corner `(x, y)`, and rows go down, towards smaller `y`. Several matrices
can share one pair of axes.
"""

import matplotlib
import numpy as np
from matplotlib.colors import to_rgba_array
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle

from lqs.granularity import scale_shape

EDGE = "0.25"
HIGHLIGHT = "#D55E00"


def scale_groups(granularity, shape):
    """Return which scale each element of a parameter tensor uses, numbered from 0 in the order of the scales.

    Args:
        granularity: see `lqs.granularity.varying_axes`.
        shape: shape of the parameter tensor.

    Returns:
        Array of integers of shape `shape`.

    Example:

    >>> scale_groups("row", (2, 3)).tolist()
    [[0, 0, 0], [1, 1, 1]]
    """
    scales = scale_shape(granularity, shape)
    return np.broadcast_to(np.arange(np.prod(scales)).reshape(scales), shape)


def group_colors(groups, colormap="viridis"):
    """Return one colour per element, the same for the same group; lightness rises with the group's number.

    Args:
        groups: array of integers from 0.
        colormap: name of a matplotlib colour map.

    Returns:
        Array of shape `(*groups.shape, 4)`.

    Example:

    >>> group_colors(np.array([[0, 0], [1, 2]])).shape
    (2, 2, 4)
    """
    groups = np.asarray(groups)
    return _light_end(colormap)(groups / max(1, groups.max()))


def value_colors(values, colormap="RdBu", limit=None):
    """Return one colour per element: white for 0, one hue for positive values, another for negative ones.

    Args:
        values: array of numbers.
        colormap: name of a diverging matplotlib colour map.
        limit: absolute value of the strongest colours; by default the greatest one in `values`.

    Returns:
        Array of shape `(*values.shape, 4)`.

    Example:

    >>> value_colors(np.array([0.0, 2.0])).shape
    (2, 4)
    """
    values = np.asarray(values, dtype="float64")
    limit = limit or np.max(np.abs(values)) or 1.0
    return matplotlib.colormaps[colormap](0.5 + 0.36 * np.clip(values / limit, -1, 1))


def draw_matrix(axes, values, colors=None, title=None, fmt="{:g}", corner=(0.0, 0.0), fontsize=None):
    """Draw a matrix as a grid of cells with their values.

    Args:
        axes: matplotlib axes.
        values: array `(rows, columns)`, of numbers or strings; a vector is drawn as one column.
        colors: colour of the cells: `None` for white, one colour, an array of colours `(rows, columns, 4)`,
            or an array of integers `(rows, columns)` that numbers the groups of `group_colors`.
        title: text above the matrix, or `None`.
        fmt: format of a value, such as `"{:.2f}"`; `""` for empty cells.
        corner: upper left corner `(x, y)`.
        fontsize: size of the values; by default the style's.

    Returns:
        The right and lower end `(x, y)` of the matrix, from which to place the next.

    Example:

    >>> import matplotlib.pyplot as plt
    >>> figure, axes = plt.subplots()
    >>> draw_matrix(axes, [[1, 2], [3, 4]], colors=[[0, 0], [1, 1]], title="$W$")
    (2.0, -2.0)
    >>> [text.get_text() for text in axes.texts]
    ['1', '2', '3', '4', '$W$']
    >>> plt.close(figure)
    """
    values = np.asarray(values)
    values = values[:, None] if values.ndim == 1 else values
    faces = _cell_colors(colors, values.shape)
    left, top = corner
    for (row, column), value in np.ndenumerate(values):
        face = faces[row, column]
        x, y = left + column, top - row - 1
        axes.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor=EDGE, linewidth=0.5))
        text = value if isinstance(value, str) else fmt.format(value)
        _write(axes, (x + 0.5, y + 0.47), text, color=_ink(face), fontsize=fontsize)
    rows, columns = values.shape
    if title is not None:
        _write(axes, (left + columns / 2, top + 0.25), title, verticalalignment="bottom")
    _fit(axes)
    return float(left + columns), float(top - rows)


def draw_kernel(axes, groups, corner=(0.0, 0.0), title=None, offset=0.75, gap=1.6, labels=True):
    """Draw a convolution kernel: its filters side by side, each a stack of slices, coloured by their scales.

    The slice of input channel 0 is in front. A cell shows its group's number unless it is covered.

    Args:
        axes: matplotlib axes.
        groups: array of integers `(height, width, in, out)`, such as `scale_groups` returns.
        corner: upper left corner `(x, y)` of the first front slice.
        title: text above the kernel, or `None`.
        offset: shift of each slice against the one before it, to the right and up, in cells.
        gap: space between two filters, in cells.
        labels: whether to write the groups' numbers.

    Returns:
        The right and lower end `(x, y)` of the kernel.

    Example:

    >>> import matplotlib.pyplot as plt
    >>> figure, axes = plt.subplots()
    >>> draw_kernel(axes, scale_groups("filter", (3, 3, 2, 2)), labels=False)
    (9.1, -3.0)
    >>> plt.close(figure)
    """
    groups = np.asarray(groups)
    faces = group_colors(groups)
    height, width, num_channels, num_filters = groups.shape
    depth = offset * (num_channels - 1)
    step = width + depth + gap
    left, top = corner
    for index in range(num_filters):
        for channel in reversed(range(num_channels)):
            place = (left + index * step + offset * channel, top + offset * channel)
            texts = groups[:, :, channel, index].astype(str) if labels else np.full((height, width), "")
            visible = 1.0 if channel == 0 else offset
            _draw_slice(axes, texts, faces[:, :, channel, index], place, visible)
    right = left + (num_filters - 1) * step + width + depth
    if title is not None:
        _write(axes, ((left + right) / 2, top + depth + 0.3), title, verticalalignment="bottom")
    _fit(axes)
    return float(right), float(top - height)


def draw_network(axes, layer_sizes, weight_labels=None, node_labels=None, layer_labels=None, highlights=(), radius=0.2):
    """Draw a dense network: a column of circles per layer, a line per weight.

    Layers are two units apart, the neurons of a layer one unit.

    Args:
        axes: matplotlib axes.
        layer_sizes: number of neurons of each layer, the inputs first.
        weight_labels: `{(layer, source, target): text}` for the weight from neuron `source` of layer number
            `layer` to neuron `target` of the next; or `None`.
        node_labels: list of lists of texts, one per neuron; or `None`.
        layer_labels: list of texts below the layers; or `None`.
        highlights: the weights `(layer, source, target)` to draw thick and in colour.
        radius: radius of a neuron.

    Returns:
        List of arrays `(size, 2)`, the centres of the neurons of each layer.

    Example:

    >>> import matplotlib.pyplot as plt
    >>> figure, axes = plt.subplots()
    >>> centres = draw_network(axes, [2, 3, 1], {(0, 0, 0): "$w_{11}$"}, highlights=[(0, 0, 0), (1, 0, 0)])
    >>> centres[1].tolist()
    [[2.0, 1.0], [2.0, 0.0], [2.0, -1.0]]
    >>> plt.close(figure)
    """
    centres = [_column(2.0 * layer, size) for layer, size in enumerate(layer_sizes)]
    weights = [
        (layer, source, target)
        for layer in range(len(layer_sizes) - 1)
        for source in range(layer_sizes[layer])
        for target in range(layer_sizes[layer + 1])
    ]
    for weight in weights:
        layer, source, target = weight
        ends = np.stack([centres[layer][source], centres[layer + 1][target]])
        _draw_weight(axes, ends, weight in set(highlights), (weight_labels or {}).get(weight))
    for layer, places in enumerate(centres):
        for index, place in enumerate(places):
            axes.add_patch(Circle(place, radius, facecolor="white", edgecolor=EDGE, linewidth=0.8, zorder=3))
            if node_labels is not None:
                _write(axes, place, node_labels[layer][index], zorder=4)
    lowest = min(places[:, 1].min() for places in centres)
    for places, text in zip(centres, layer_labels or [], strict=False):
        _write(axes, (places[0, 0], lowest - 2 * radius), text, verticalalignment="top")
    _fit(axes)
    return centres


def draw_convolution(axes, image, kernel, output, position, titles, padding=1, corner=(0.0, 0.0)):
    """Draw `image * kernel = output` in a row, and frame one element of the output and the window that it comes from.

    Args:
        axes: matplotlib axes.
        image: array `(rows, columns)`, without its padding of zeros, which is drawn grey.
        kernel: array `(height, width)`.
        output: array `(rows, columns)`.
        position: row and column of the framed element of the output.
        titles: texts above the three matrices.
        padding: width of the border of zeros.
        corner: upper left corner `(x, y)` of the padded input.

    Returns:
        The upper left corner `(x, y)` of the output.

    Example:

    >>> import matplotlib.pyplot as plt
    >>> figure, axes = plt.subplots()
    >>> draw_convolution(axes, np.ones((4, 4)), np.ones((3, 3)), np.ones((4, 4)), (0, 0), "xky")
    (13.0, -1.0)
    >>> plt.close(figure)
    """
    left, top = corner
    padded = np.pad(image, padding)
    shades = np.where(np.pad(np.ones_like(image, dtype=bool), padding), 1.0, 0.85)[..., None] * np.ones(3)
    matrices = [(padded, shades), (kernel, "0.93"), (np.asarray(output), None)]
    corners = []
    for (values, colors), title in zip(matrices, titles, strict=True):
        corners.append((left, top - (len(padded) - len(values)) / 2))
        left = draw_matrix(axes, values, colors, title, corner=corners[-1])[0] + 2
    middle = top - len(padded) / 2
    for sign, (x, _) in zip(["$*$", "$=$"], corners[1:], strict=True):
        _write(axes, (x - 1, middle), sign, fontsize="x-large")
    row, column = position
    draw_outline(axes, (corner[0] + column, top - row), np.shape(kernel))
    draw_outline(axes, (corners[2][0] + column, corners[2][1] - row), (1, 1))
    return corners[2]


def draw_codes(axes, values, codes, scale, zero_point):
    """Draw a line of values above a line of their integers `round(values / scale) + zero_point`.

    Args:
        axes: matplotlib axes.
        values: array `(n,)`.
        codes: array `(n,)` of integers, the greatest of which ends the lines.
        scale: step between two integers.
        zero_point: integer that stands for 0, which is drawn in colour.

    Example:

    >>> import matplotlib.pyplot as plt
    >>> figure, axes = plt.subplots()
    >>> draw_codes(axes, np.array([-0.5, 1.0]), np.array([0, 3]), 0.5, 1)
    >>> [text.get_text() for text in axes.texts]
    ['-0.50', '0', '1.00', '3', '0', '$z = 1$', '$x$', '$x_q$']
    >>> plt.close(figure)
    """
    end = np.max(codes)
    axes.plot([0, end], [[1, 0], [1, 0]], color=EDGE, linewidth=0.8)
    entries = [(f"{value:.2f}", str(code), value, "C1", "o-") for value, code in zip(values, codes, strict=True)]
    for value_text, code_text, value, color, style in [*entries, ("0", f"$z = {zero_point}$", 0.0, "C2", "o--")]:
        axes.plot([zero_point + value / scale] * 2, [1, 0], style, color=color, linewidth=0.8)
        ink = "black" if color == "C1" else color
        _write(axes, (zero_point + value / scale, 1.15), value_text, verticalalignment="bottom", color=ink)
        _write(axes, (zero_point + value / scale, -0.2), code_text, verticalalignment="top", color=ink)
    for height, text in [(1, "$x$"), (0, "$x_q$")]:
        _write(axes, (-0.03 * end, height), text, horizontalalignment="right")
    axes.set(xlim=(-0.08 * end, 1.04 * end), ylim=(-0.8, 1.7))
    axes.set_axis_off()


def draw_numbers(axes, values, title, fmt, corner, color="black"):
    """Draw a column of numbers without cells, each as high as a cell and as wide as it needs.

    Args:
        axes: matplotlib axes.
        values: array `(rows,)`.
        title: text above the column.
        fmt: format of a value.
        corner: middle of the column and its upper end `(x, y)`.
        color: colour of the text.
    """
    x, top = corner
    _write(axes, (x, top + 0.25), title, verticalalignment="bottom", color=color)
    for row, value in enumerate(values):
        _write(axes, (x, top - row - 0.53), fmt.format(value), color=color)


def draw_arrow(axes, start, end, label=None, color=EDGE):
    """Draw an arrow from `start` to `end`, both `(x, y)`, with a text above its middle."""
    style = {"arrowstyle": "-|>", "mutation_scale": 7, "linewidth": 0.8, "color": color}
    axes.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **style))
    axes.update_datalim([start, end])  # which a patch of this kind does not do
    axes.autoscale_view()
    if label is not None:
        middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.15
        _write(axes, middle, label, verticalalignment="bottom")


def draw_outline(axes, corner, shape, color=HIGHLIGHT, **style):
    """Draw a frame around the `shape = (rows, columns)` cells whose upper left corner is `corner`.

    Example:

    >>> import matplotlib.pyplot as plt
    >>> figure, axes = plt.subplots()
    >>> draw_outline(axes, (0, 0), (3, 2))
    >>> axes.patches[0].get_xy(), axes.patches[0].get_width(), axes.patches[0].get_height()
    ((0, -3), 2, 3)
    >>> plt.close(figure)
    """
    (left, top), (rows, columns) = corner, shape
    style = {"linewidth": 1.6, "zorder": 5, **style}
    axes.add_patch(Rectangle((left, top - rows), columns, rows, fill=False, edgecolor=color, **style))


def _light_end(colormap):
    """Return the colour map without its darkest fifth, which in greyscale would look like the lines."""
    return lambda fraction: matplotlib.colormaps[colormap](0.2 + 0.8 * np.asarray(fraction))


def _cell_colors(colors, shape):
    """Return an array of colours `(rows, columns, 4)`; see `draw_matrix`."""
    if colors is None or isinstance(colors, str):
        return np.broadcast_to(to_rgba_array(colors or "white")[0], (*shape, 4))
    colors = np.asarray(colors)
    return group_colors(colors.reshape(shape)) if colors.dtype.kind in "iu" else colors.reshape(*shape, -1)


def _ink(face):
    """Return black or white, whichever is readable on the colour `face`."""
    red, green, blue = face[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def _draw_slice(axes, texts, faces, corner, visible):
    """Draw one slice of a kernel, of whose top row and right column the outer part `visible` can be seen."""
    draw_matrix(axes, np.full(texts.shape, ""), colors=faces, corner=corner)
    x, y = corner
    last = texts.shape[1] - 1
    for (row, column), text in np.ndenumerate(texts):
        if visible < 1 and row > 0 and column < last:
            continue
        right = column + (1 - visible / 2 if column == last else 0.5)
        down = row + (visible / 2 if row == 0 else 0.5)
        _write(axes, (x + right, y - down), text, color=_ink(faces[row, column]), fontsize="small")


def _draw_weight(axes, ends, highlighted, label):
    style = {"color": HIGHLIGHT, "linewidth": 2.0} if highlighted else {"color": "0.7", "linewidth": 0.6}
    axes.plot(*ends.T, **style, zorder=2 if highlighted else 1)
    if label is not None:
        place = ends[0] + 0.34 * (ends[1] - ends[0])
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
        _write(axes, place, label, bbox=box, zorder=2.5)


def _column(x, size):
    return np.stack([np.full(size, x), (size - 1) / 2 - np.arange(size)], axis=1)


def _write(axes, place, text, **style):
    style = {"horizontalalignment": "center", "verticalalignment": "center", **style}
    if text:
        axes.text(*place, text, **style)


def _fit(axes):
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.margins(0.02)
    axes.autoscale_view()
