"""Rounding a matrix for its error and its rate, by NumPy.

The error of outputs `y = x W`, to second order and with `A` the second moments of the inputs `x`, is

    1/2 sum_j g_j dW_j' A dW_j          W = P_r + dW, g_j: sensitivity of what counts to output j

Rows are rounded in turn, and what a row gets wrong is made up for in the rows that come after (optimal brain
quantization, arXiv 2208.11580; by Cholesky factors as GPTQ, arXiv 2210.17323). With `U` the upper Cholesky factor of
the inverse of `A`, the error is then exactly

    1/2 sum_ij g_j U_ii**-2 e_ij**2     e_ij: error of row i where it is rounded

so that each integer can be chosen for its share of the error plus `rate` times its bits (CERWU, arXiv 2505.18758).

All matrices have a leading axis, of groups: those of a grouped convolution, or blocks of rows that are taken as
independent.
"""

import numpy as np

DAMPING = 0.01  # of the mean of the diagonal, added to it
PRECISION = 1e-6  # of sums in float32
FACTORS = 2 ** np.arange(-2.0, 2.1, 0.5)  # steps that are tried
MAX_INTEGER = 2**20
NUM_BITS = 1024  # entries of a table of code lengths; larger magnitudes take as many bits as the last one
BLOCK = 64


def damped(moments, raw, num):
    """Return second moments `(groups, n, n)` that have an inverse.

    Of few inputs, more is added: directions that none of them has would seem to be free. With the effective rank
    `r = tr(A)**2 / tr(A A)`, an estimate of `A` is off by about `r / num` of the mean of its diagonal.

    Args:
        moments: perhaps those about the mean.
        raw: the sums of the diagonals of those that they were computed from in float32, `(groups,)`.
        num: number of inputs that they are the mean over.
    """
    n = moments.shape[-1]
    total = np.trace(moments, axis1=1, axis2=2)
    rank = total**2 / np.maximum(np.sum(moments**2, (1, 2)), 1e-30)
    mean, raw = (np.maximum(sums, 1e-3 * sums.mean()) / n for sums in (total, raw))
    extra = (DAMPING + rank / num) * mean + PRECISION * raw + 1e-12
    return moments + extra[:, None, None] * np.eye(n)


def feedback_factors(moments):
    """Return the order of the rows, those with the largest moments first, and the factor `U` in this order."""
    order = np.argsort(-np.diagonal(moments, axis1=1, axis2=2), axis=1, kind="stable")
    ordered = np.take_along_axis(np.take_along_axis(moments, order[:, :, None], 1), order[:, None, :], 2)
    return order, np.linalg.cholesky(np.linalg.inv(ordered)).swapaxes(1, 2)


def code_lengths(integers):
    """Return the bits of each magnitude, by how often it is there.

    Example:

    >>> code_lengths(np.array([0, 0, 1, -1])).round(1)[:2].tolist()
    [1.0, 2.0]
    """
    magnitudes = np.minimum(np.abs(integers), NUM_BITS - 1).ravel()
    counts = np.bincount(magnitudes, minlength=magnitudes.max(initial=0) + 2) + 0.1
    bits = -np.log2(counts / counts.sum())
    bits[1:] += 1  # the sign
    return np.maximum.accumulate(bits)


def rounded(targets, factors, sensitivities, step, bits, rate, largest=MAX_INTEGER):
    """Return the integers of matrices, rows in turn.

    Args:
        targets: `(groups, n, m)`, rows in the order of the factors.
        factors: `(groups, n, n)`, see `feedback_factors`.
        sensitivities: `(groups, m)`.
        step: the scale.
        bits: table of code lengths.
        rate: what a bit costs.
        largest: magnitude of an integer.
    """
    left, n = targets.copy(), targets.shape[1]
    integers = np.zeros(targets.shape, "int32")
    weights = 0.5 * sensitivities * np.diagonal(factors, axis1=1, axis2=2).T[:, :, None] ** -2.0  # (n, groups, m)
    feedback = factors / np.diagonal(factors, axis1=1, axis2=2)[:, :, None]
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        errors = np.empty_like(left[:, start:stop])
        for row in range(start, stop):
            integers[:, row] = chosen(left[:, row], weights[row], step, bits, rate, largest)[0]
            error = errors[:, row - start] = left[:, row] - integers[:, row] * step
            left[:, row + 1 : stop] -= feedback[:, row, row + 1 : stop, None] * error[:, None]
        left[:, stop:] -= feedback[:, start:stop, stop:].swapaxes(1, 2) @ errors
    return integers


def chosen(values, weights, step, bits, rate, largest=MAX_INTEGER):
    """Return the cheapest among the nearest integer, the next one towards zero, and zero, and the sum of the costs."""
    ratio = values / step
    nearest = np.rint(ratio).clip(-largest, largest)
    best = np.full(values.shape, np.inf)
    result = nearest
    scaled = weights * step**2
    for candidate in (nearest, nearest - np.sign(nearest), np.zeros_like(nearest)):
        lengths = bits[np.minimum(np.abs(candidate), len(bits) - 1).astype("int64")]
        cost = scaled * (ratio - candidate) ** 2 + rate * lengths
        better = cost < best
        result, best = np.where(better, candidate, result), np.where(better, cost, best)
    return result.astype("int32"), best.sum()


def rounded_alone(values, weights, rate, largest=MAX_INTEGER):
    """Return integers and the step of an array of which only the weights of square errors are known.

    Args:
        values: the array.
        weights: of its shape; half the second derivatives of what counts.
        rate: what a bit costs.
        largest: magnitude of an integer.
    """
    tried = steps(values, weights, rate, largest)
    costs = [_rounded_at(step, values, weights, rate, largest)[1] for step in tried]
    best = int(np.argmin(costs))
    step = tried[best]
    if 0 < best < len(costs) - 1:  # the lowest point of a parabola, so that it moves gradually with the rate
        below, lowest, above = costs[best - 1 : best + 2]
        curvature = below - 2 * lowest + above
        shift = np.clip((below - above) / (2 * curvature), -0.5, 0.5) if curvature > 0 else 0.0
        step = step * (tried[best + 1] / step) ** shift
    integers, _ = _rounded_at(step, values, weights, rate, largest)
    return integers, refitted(step, np.sum(weights * integers * values), np.sum(weights * integers.astype(float) ** 2))


def _rounded_at(step, values, weights, rate, largest):
    """Return the integers of a step, chosen by their own code lengths, and their cost."""
    bits = code_lengths(np.rint(values / step).clip(-largest, largest).astype("int64"))
    for _ in range(2):
        integers, cost = chosen(values, weights, step, bits, rate, largest)
        bits = code_lengths(integers)
    return integers, cost


def steps(values, weights, rate, largest=MAX_INTEGER):
    """Return the steps to try: about that of which a finer one would save as much error as its bits cost."""
    mean = np.mean(weights)
    step = np.sqrt(6 * rate / mean) if mean > 0 else 1.0
    magnitude = np.abs(values).max(initial=0) or 1.0
    return np.unique(np.clip(step * FACTORS, magnitude / min(largest, 2**15), 2 * magnitude))


def refitted(step, numerator, denominator):
    """Return the scale with the least error for given integers, or `step` if there is none."""
    return float(numerator / denominator) if denominator > 0 and numerator > 0 else float(step)


def rounded_matrix(targets, moments, sensitivities, rate, largest=MAX_INTEGER):
    """Return the integers `(groups, n, m)` of matrices and the scale that they share.

    The step is the cheapest one without feedback; its rounding with feedback then takes the code lengths of the
    integers, twice.

    Args:
        targets: `(groups, n, m)`, what is to be rounded.
        moments: `(groups, n, n)`, damped.
        sensitivities: `(groups, m)`.
        rate: what a bit costs.
        largest: magnitude of an integer.
    """
    order, factors = feedback_factors(moments)
    ordered = np.take_along_axis(targets, order[:, :, None], 1)
    weights = 0.5 * sensitivities[:, None] * np.diagonal(factors, axis1=1, axis2=2)[:, :, None] ** -2.0
    integers, step = rounded_alone(ordered, weights, rate, largest)
    for _ in range(2):
        integers = rounded(ordered, factors, sensitivities, step, code_lengths(integers), rate, largest)
    result = np.empty_like(integers)
    np.put_along_axis(result, order[:, :, None], integers, 1)
    products = (moments @ result) * sensitivities[:, None]
    return result, refitted(step, np.sum(products * targets), np.sum(products * result))
