"""Tests of rounding a matrix for its error and its rate."""

import itertools

import numpy as np
import pytest

from lqs.compression.rounding import (
    code_lengths,
    damped,
    feedback_factors,
    refitted,
    rounded,
    rounded_alone,
    rounded_matrix,
)

pytestmark = pytest.mark.once


def positive_definite(rng, groups, n):
    x = rng.normal(size=(groups, 3 * n, n)) @ rng.normal(size=(n, n))
    return x.swapaxes(1, 2) @ x / (3 * n)


def error(weights, integers, step, moments, sensitivities):
    difference = integers * step - weights
    return 0.5 * np.einsum("gni,gnm,gmi,gi->", difference, moments, difference, sensitivities)


def test_shares_of_the_rows_are_the_error(rng):
    moments, weights = positive_definite(rng, 2, 70), rng.normal(size=(2, 70, 3))
    sensitivities = rng.uniform(0.5, 2, (2, 3))
    order, factors = feedback_factors(moments)
    ordered = np.take_along_axis(weights, order[:, :, None], 1)
    integers = rounded(ordered, factors, sensitivities, 0.4, np.zeros(9), 0.0)  # more rows than a block
    # Row by row: once a row is rounded, the others take their optimum.
    group, left, expected = 0, ordered[0].copy(), np.zeros((70, 3))
    inverse_of = np.take_along_axis(np.take_along_axis(moments, order[:, :, None], 1), order[:, None, :], 2)[group]
    for row in range(70):
        expected[row] = np.rint(left[row] / 0.4)
        change = expected[row] * 0.4 - left[row]
        inverse = np.linalg.inv(inverse_of[row:, row:])
        left[row:] += np.outer(inverse[:, 0] / inverse[0, 0], change)
    np.testing.assert_array_equal(integers[group], expected)


def test_last_row_is_the_best_one_after_the_others(rng):
    moments, weights = positive_definite(rng, 1, 3), rng.normal(size=(1, 3, 1))
    order, factors = feedback_factors(moments)
    ordered = np.take_along_axis(weights, order[:, :, None], 1)
    sorted_moments = moments[:, order[0]][:, :, order[0]]
    sensitivities, bits = np.ones((1, 1)), np.arange(1.0, 30)
    integers = rounded(ordered, factors, sensitivities, 0.3, bits, 0.01)

    def cost(last):
        tried = integers.copy()
        tried[0, 2, 0] = last
        return error(ordered, tried, 0.3, sorted_moments, sensitivities) + 0.01 * bits[np.abs(tried)].sum()

    assert min(range(-9, 10), key=cost) == integers[0, 2, 0]


def test_feedback_is_near_brute_force_and_better_than_nearest(rng):
    ratios = []
    for _ in range(20):
        moments, weights = positive_definite(rng, 1, 4), rng.normal(size=(1, 4, 1))
        order, factors = feedback_factors(moments)
        ordered = np.take_along_axis(weights, order[:, :, None], 1)
        sorted_moments = moments[:, order[0]][:, :, order[0]]

        def cost(integers, ordered=ordered, moments=sorted_moments):
            return error(ordered, np.reshape(integers, (1, 4, 1)), 0.5, moments, np.ones((1, 1)))

        found = cost(rounded(ordered, factors, np.ones((1, 1)), 0.5, np.zeros(20), 0.0))
        nearest = np.rint(ordered / 0.5).ravel().astype(int)
        best = min(cost(nearest + np.array(change)) for change in itertools.product((-2, -1, 0, 1, 2), repeat=4))
        assert found >= best - 1e-12
        ratios.append((found / best, cost(nearest) / best))
    with_feedback, without = np.median(ratios, axis=0)
    assert with_feedback < 1.5 < without


def test_more_rate_takes_fewer_bits(rng):
    moments, weights = positive_definite(rng, 3, 20), rng.normal(size=(3, 20, 5))
    moments = damped(moments, np.trace(moments, axis1=1, axis2=2), 300)
    bits, errors = [], []
    for rate in (1e-4, 1e-3, 1e-2, 1e-1):
        integers, scale = rounded_matrix(weights, moments, np.ones((3, 5)), rate)
        bits.append(code_lengths(integers)[np.abs(integers)].sum())
        errors.append(error(weights, integers, scale, moments, np.ones((3, 5))))
    assert bits == sorted(bits, reverse=True) and errors == sorted(errors)


def test_few_inputs_leave_no_direction_free(rng):
    """By forty inputs of eighty numbers, others keep most of their outputs; with the damping of many it was none."""
    inputs = rng.normal(size=(540, 80)) * np.linspace(2, 0.2, 80)
    few, others, weights = inputs[:40], inputs[40:], rng.normal(size=(1, 80, 20))
    moments = few.T[None] @ few[None] / 40
    regular = damped(moments, np.trace(moments, axis1=1, axis2=2), 40)
    integers, scale = rounded_matrix(weights, regular, np.ones((1, 20)), 0.1)
    outputs, changes = others @ weights[0], others @ (scale * integers - weights)[0]
    assert np.square(changes).sum() < 0.3 * np.square(outputs).sum()


def test_moments_of_nothing_can_be_inverted():
    moments = damped(np.zeros((2, 3, 3)), np.array([0.0, 5.0]), 10)
    integers, scale = rounded_matrix(np.ones((2, 3, 1)), moments, np.ones((2, 1)), 1e-9)
    assert np.isfinite(scale) and integers.shape == (2, 3, 1)


@pytest.mark.parametrize("values", [np.zeros(4), np.array([3.0]), np.array([1e-30, -1e-30])])
def test_rounding_alone(values):
    integers, scale = rounded_alone(values, np.ones_like(values), 1e-70)
    np.testing.assert_allclose(integers * scale, values, rtol=1e-3)


def test_refitted_scale_is_the_least_squares_one():
    values, integers = np.array([1.0, 2.2]), np.array([1, 2])
    assert refitted(1.0, integers @ values, integers @ integers) == pytest.approx(5.4 / 5)
    assert refitted(0.7, 0.0, 0.0) == 0.7
