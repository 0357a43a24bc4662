import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgba

from study.diagrams import (
    draw_arrow,
    draw_codes,
    draw_convolution,
    draw_kernel,
    draw_matrix,
    draw_network,
    draw_numbers,
    group_colors,
    scale_groups,
    value_colors,
)


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def lightness(colors):
    return np.asarray(colors)[..., :3] @ [0.299, 0.587, 0.114]


@pytest.mark.parametrize(
    "granularity, num_groups",
    [
        ("scalar", 1),
        ("row", 3),
        ("column", 4),
        ("channel", 2),
        ("filter", 5),
        ((2, 3), 10),
        ((0, 1, 2, 3), 120),
    ],
)
def test_scale_groups_number_every_scale_once(granularity, num_groups):
    groups = scale_groups(granularity, (3, 4, 2, 5))
    assert np.array_equal(np.unique(groups), np.arange(num_groups))


def test_group_colors_get_lighter_with_the_number():
    assert np.all(np.diff(lightness(group_colors(np.arange(6)))) > 0)


def test_value_colors_are_white_at_zero_and_differ_by_sign():
    negative, zero, positive = value_colors([-1.0, 0.0, 1.0])
    assert lightness(zero) > 0.95
    assert negative[0] > negative[2] and positive[2] > positive[0]


def test_value_colors_of_zeros():
    assert np.isfinite(value_colors(np.zeros((2, 2)))).all()


def test_matrix_takes_one_color_and_a_vector(axes):
    assert draw_matrix(axes, [0.125, 2.0], colors="red", fmt="{:.2f}", corner=(3, 1)) == (4.0, -1.0)
    assert texts(axes) == ["0.12", "2.00"]
    assert {patch.get_facecolor() for patch in axes.patches} == {to_rgba("red")}


def test_kernel_writes_the_numbers_that_no_slice_covers(axes):
    groups = scale_groups((0, 1, 2, 3), (3, 3, 2, 1))
    draw_kernel(axes, groups)
    front, back = groups[:, :, 0, 0], groups[:, :, 1, 0]
    visible = [*front.ravel(), *back[0], *back[1:, 2]]
    assert sorted(texts(axes)) == sorted(str(number) for number in visible)


def test_network_draws_every_weight_and_highlights_some(axes):
    draw_network(axes, [2, 3, 2], {(1, 2, 1): "$w$"}, highlights=[(0, 0, 0)], layer_labels=["x", "h", "y"])
    widths = [line.get_linewidth() for line in axes.lines]
    assert len(widths) == 2 * 3 + 3 * 2
    assert np.sum(np.array(widths) > 1) == 1
    assert texts(axes) == ["$w$", "x", "h", "y"]


def test_arrow_writes_its_label(axes):
    draw_arrow(axes, (0, 0), (1, 0), "quantize")
    assert texts(axes) == ["quantize"]


def test_convolution_frames_one_output_and_its_window(axes):
    draw_convolution(axes, np.ones((4, 4)), np.ones((3, 3)), np.ones((4, 4)), (1, 2), "xky", corner=(10, 0))
    window, output = (patch for patch in axes.patches if not patch.get_fill())
    assert (window.get_xy(), window.get_width(), window.get_height()) == ((12, -4), 3, 3)
    assert (output.get_xy(), output.get_width(), output.get_height()) == ((25, -3), 1, 1)


def test_convolution_shades_the_padding_only(axes):
    draw_convolution(axes, np.zeros((2, 3)), np.ones((3, 3)), np.ones((2, 3)), (0, 0), "xky")
    padded = [patch for patch in axes.patches if patch.get_fill()][: 4 * 5]
    assert sum(patch.get_facecolor()[0] < 1 for patch in padded) == 4 * 5 - 2 * 3


def test_codes_stand_below_their_values(axes):
    draw_codes(axes, np.array([-0.5, 0.25, 1.0]), np.array([0, 2, 3]), 0.5, 1)
    lines = {tuple(line.get_xdata()) for line in axes.lines}
    assert lines == {(0, 3), (0.0, 0.0), (1.5, 1.5), (3.0, 3.0), (1.0, 1.0)}


def test_numbers_stand_in_a_column_below_their_title(axes):
    draw_numbers(axes, [1.0, 2.5], "sum", "{:.1f}", (3, 0))
    assert texts(axes) == ["sum", "1.0", "2.5"]
    assert [text.get_position()[0] for text in axes.texts] == [3, 3, 3]
