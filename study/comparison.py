"""Comparisons of methods at equal size: curves of one seed, interpolated, and differences paired by seed."""

import numpy as np
import pandas as pd


def at_size(runs, size, target, quantities):
    """Return quantities where a curve has a given size, interpolated linearly in the logarithm of the size.

    Args:
        runs: table of records of one curve, that is of runs that differ in their strength alone.
        size: column of the size, such as `"unique"` or `"file_bytes"`. Runs of the same size count as their mean.
        target: the size.
        quantities: columns to interpolate.

    Returns:
        Series of the quantities, missing if the target is beyond the sizes of the curve, or if a run lacks its size:
        else its neighbours would be joined as if it were not there.

    Example: halfway between 10 and 1000 is 100.

    >>> runs = pd.DataFrame({"unique": [1000, 10], "accuracy": [97.0, 95.0]})
    >>> float(at_size(runs, "unique", 100, ["accuracy"])["accuracy"])
    96.0
    """
    if runs[size].isna().any():
        return pd.Series(np.nan, index=quantities)
    curve = runs.groupby(size)[quantities].mean()
    place = np.log(target), np.log(curve.index.to_numpy(float))
    beyond = {"left": np.nan, "right": np.nan}
    return pd.Series({name: np.interp(*place, curve[name].to_numpy(float), **beyond) for name in quantities})


def at_sizes(runs, size, targets, quantities, keys=("method",)):
    """Return `at_size` of each complete curve, one row per target, `keys` and seed; targets beyond it have no row.

    A curve is complete if it has as many runs as any curve with the same `keys`, that is of another seed, and each run
    has its size. Other curves have no rows: where a run is missing, its neighbours would be joined without it.
    """
    num_runs = runs.groupby([*keys, "seed"])["seed"].transform("size")
    most = num_runs.groupby([runs[key] for key in keys]).transform("max") if keys else num_runs.max()
    curves = runs[num_runs == most].groupby([*keys, "seed"])
    tables = [curves[runs.columns].apply(at_size, size, target, quantities).assign(target=target) for target in targets]
    return pd.concat(tables).reset_index().dropna()


def paired_interval(differences, confidence=0.95):
    """Return mean and half width of the interval of a paired t-test: `t * standard deviation / sqrt(n)`.

    It holds the true mean difference with the given probability, if the differences, one per pair, are independent and
    normally distributed. The half width is missing for fewer than two pairs.

    Example: with five pairs, t is 2.776.

    >>> mean, half = paired_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    >>> float(mean), round(float(half), 3)
    (3.0, 1.963)
    """
    from scipy import stats  # not above: it takes a second

    differences = np.asarray(differences, float)
    num_pairs = len(differences)
    if num_pairs < 2:
        return differences.mean() if num_pairs else np.nan, np.nan
    deviation = differences.std(ddof=1) / np.sqrt(num_pairs)
    return differences.mean(), stats.t.ppf(0.5 + confidence / 2, num_pairs - 1) * deviation


def paired_differences(values, quantity, reference, keys, confidence=0.95):
    """Return how methods differ from a reference, by the seeds that both have.

    Args:
        values: table with the columns `method`, `seed`, `keys` and `quantity`.
        quantity: column to compare.
        reference: the method that others are compared with.
        keys: columns in which the pairs agree, besides the seed.
        confidence: of the interval.

    Returns:
        Table with `method`, `keys`, `difference` (method minus reference, its mean), `half_width` of its interval and
        `num_pairs`.

    Example:

    >>> values = pd.DataFrame(
    ...     {"method": ["a", "a", "b", "b"], "seed": [1, 2, 1, 2], "target": 8, "accuracy": [95.0, 96.0, 94.0, 96.0]}
    ... )
    >>> paired_differences(values, "accuracy", "a", ["target"])[["difference", "num_pairs"]].values.tolist()
    [[-0.5, 2.0]]
    """
    own = values.loc[values["method"] == reference, [*keys, "seed", quantity]]
    pairs = values[values["method"] != reference].merge(own, on=[*keys, "seed"], suffixes=("", "_of_reference"))
    pairs["difference"] = pairs[quantity] - pairs[f"{quantity}_of_reference"]
    rows = []
    for names, group in pairs.groupby(["method", *keys]):
        mean, half_width = paired_interval(group["difference"], confidence)
        rows.append([*names, mean, half_width, len(group)])
    return pd.DataFrame(rows, columns=["method", *keys, "difference", "half_width", "num_pairs"])
