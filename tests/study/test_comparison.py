"""Tests of `study.comparison`, by hand and against SciPy's own test."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from study.comparison import at_size, at_sizes, paired_differences, paired_interval


def curve(method, seed, sizes, accuracies):
    return pd.DataFrame({"method": method, "seed": seed, "unique": sizes, "accuracy": accuracies})


RUNS = pd.concat(
    [
        curve("a", 1, [4, 16, 64], [90.0, 94.0, 96.0]),
        curve("a", 2, [4, 16, 64], [91.0, 95.0, 96.0]),
        curve("b", 1, [4, 8, 8], [90.0, 91.0, 92.0]),
        curve("b", 2, [4, 32, 32], [91.0, 94.0, 94.0]),
        curve("b", 3, [4, 32, 32], [91.0, 94.0, 94.0]),
    ]
)


@pytest.mark.parametrize("target, expected", [(4, 90), (8, 92), (16, 94), (32, 95), (64, 96), (3, None), (65, None)])
def test_curve_is_interpolated_in_the_logarithm_of_its_size_and_not_beyond(target, expected):
    found = at_size(RUNS.query("method == 'a' and seed == 1"), "unique", target, ["accuracy"])["accuracy"]
    assert np.isnan(found) if expected is None else found == pytest.approx(expected)


def test_runs_of_the_same_size_count_as_their_mean():
    assert at_size(RUNS.query("method == 'b' and seed == 1"), "unique", 8, ["accuracy"])["accuracy"] == 91.5


def test_every_curve_that_reaches_a_target_has_a_row():
    rows = at_sizes(RUNS, "unique", [8, 16], ["accuracy"])
    found = {(row.target, row.method, row.seed): round(row.accuracy, 6) for row in rows.itertuples()}
    expected = {(8, "a", 1): 92, (8, "a", 2): 93, (8, "b", 1): 91.5, (8, "b", 2): 92, (8, "b", 3): 92}
    assert found == {**expected, (16, "a", 1): 94, (16, "a", 2): 95, (16, "b", 2): 93, (16, "b", 3): 93}


def test_curve_that_lacks_the_size_of_a_run_is_not_read_across_the_gap():
    runs = curve("a", 1, [4, np.nan, 64], [90.0, 94.0, 96.0])
    assert np.isnan(at_size(runs, "unique", 16, ["accuracy"])["accuracy"])


@pytest.mark.parametrize("keys", [(), ("method",)])
def test_incomplete_curves_have_no_rows(keys):
    missing_run = curve("a", 2, [4, 64], [91.0, 96.0])
    missing_size = curve("a", 3, [4, np.nan, 64], [91.0, 95.0, 96.0])
    runs = pd.concat([RUNS.query("method == 'a' and seed == 1"), missing_run, missing_size])
    rows = at_sizes(runs, "unique", [8, 16], ["accuracy"], keys)
    assert rows[["target", "seed"]].values.tolist() == [[8, 1], [16, 1]]


def test_differences_are_paired_by_seed():
    rows = paired_differences(at_sizes(RUNS, "unique", [8, 16], ["accuracy"]), "accuracy", "a", ["target"])
    assert rows[["method", "target", "num_pairs"]].values.tolist() == [["b", 8, 2], ["b", 16, 1]]
    np.testing.assert_allclose(rows["difference"], [-0.75, -2])  # of 8: 91.5 - 92 and 92 - 93
    assert rows["half_width"][0] == pytest.approx(stats.t.ppf(0.975, 1) * 0.25) and np.isnan(rows["half_width"][1])


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_interval_is_that_of_the_paired_t_test(confidence):
    first, second = np.random.default_rng(0).normal(size=(2, 5))
    mean, half_width = paired_interval(first - second, confidence)
    expected = stats.ttest_rel(first, second).confidence_interval(confidence)
    np.testing.assert_allclose([mean - half_width, mean + half_width], [expected.low, expected.high])


def test_without_pairs_nothing_is_known():
    assert np.isnan(paired_interval([])).all()
    assert paired_differences(RUNS.query("method == 'b'"), "accuracy", "a", ["unique"]).empty
