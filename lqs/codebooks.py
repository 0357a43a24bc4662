"""Codebooks: roundings whose integers stand for levels of a small table, where those of others are evenly spaced.

With the integers `P_q` from `lowest` on and the vector `codebook`, one for each parameter,

    P_r = codebook[P_q - lowest] * s

The table is an ordinary weight of the rounding. If it is trainable, a level has the sum of the gradients of its
elements, and `P` has the gradient of `P_r` (or what a subclass says). The scale is a unit; with `rule=Frozen()` and
`initial_scale="max"` the integers stand for about themselves at first. Files hold the table beside the integers.
"""

import keras
import numpy as np
from keras import ops

from lqs.rounding import Rounding, levels_of_one, required_levels, with_gradient
from lqs.rules import FLOAT32_EPSILON, validate_strength

MAX_BITS = 8  # of a table
NUM_STEPS = 20  # of a fit to the initial values
TERNARY_SHARE = 0.05
LEFT_OF_AVERAGE = 0.9
RIDGE = 1e-6


def nearest(numbers, levels):
    """Return the index of the level that is nearest to each number, of the lower one midway.

    Example:

    >>> np.asarray(nearest(np.array([[0.2, 1.9]]), np.array([2.0, -1.0, 1.0]))).tolist()
    [[2, 0]]
    """
    order = ops.argsort(levels)
    ordered = ops.take(levels, order)
    middles = ops.multiply(0.5, ops.add(ordered[1:], ordered[:-1]))
    indices = ops.searchsorted(middles, ops.ravel(numbers), side="left")
    return ops.reshape(ops.take(order, indices), ops.shape(numbers))


class Codebook(Rounding):
    """Base of the roundings with a table of levels. A subclass implements `integers`.

    Until `initialize` gives it other values, the levels are the integers themselves.
    """

    is_trained = True  # by gradients
    is_zero_fixed = False  # whether the integer 0 stands for 0, as it does at first, for good

    def levels(self, bits):
        """Return the lowest and the highest of `2**bits` integers.

        Raises:
            ValueError: if `bits` is not an integer from 2 to 8.
        """
        levels = required_levels(self, bits)
        if bits > MAX_BITS:
            name = type(self).__name__
            raise ValueError(f"Argument `bits` must be at most {MAX_BITS}, for `lqs.{name}`. Received: bits={bits!r}")
        return levels

    def create_weights(self, scale_shape, levels):
        lowest, highest = levels

        def initializer(shape, dtype=None):
            return ops.cast(ops.arange(lowest, highest + 1), dtype)

        self.codebook = self.add_own_weight("codebook", (highest + 1 - lowest,), initializer, trainable=self.is_trained)

    def values(self, integers, parameter, scale, axes, levels):
        codebook = ops.cast(self.codebook, parameter.dtype)
        if self.is_zero_fixed:
            is_zero = ops.equal(ops.arange(levels[0], levels[1] + 1), 0)
            codebook = ops.where(is_zero, ops.stop_gradient(codebook), codebook)
        return ops.take(codebook, ops.subtract(ops.cast(integers, "int32"), levels[0]))

    def parameter_gradient(self, upstream, parameter, scale, axes, levels):
        return upstream

    def parameter_of(self, integers, scale, levels):
        """Return the level of each integer."""
        codebook = ops.convert_to_numpy(self.codebook)
        return codebook[integers - levels[0]].astype(scale.dtype) * scale


@keras.saving.register_keras_serializable("lqs")
class TrainedTernary(Codebook):
    """Trained ternary quantization, TTQ: a trained level for each sign (Zhu et al. 2017, arXiv 1612.01064).

    With the threshold `t = 0.05 max(abs(P))` over the elements that share a scale, the levels are `-W_n`, 0 and `W_p`:

        P_q = sign(P) 1[abs(P) > t]
        dL/dP = dL/dP_r (W_p if P > t, W_n if P < -t, else 1)
        dL/dW_p = s sum(dL/dP_r where P > t)
        dL/dW_n = -s sum(dL/dP_r where P < -t)

    The levels start from the mean magnitudes. The paper divides each parameter by its maximum first, as
    `initial_scale="max"` does:

        NestedQuantization(rule=lqs.Frozen(), rounding=lqs.TrainedTernary(), initial_scale="max")

    Example: the threshold is 0.2.

    >>> rounding, parameter, one = TrainedTernary(), np.array([4.0, 0.1, -1.0, 3.0], "float32"), np.ones(1, "float32")
    >>> rounding.create_weights((1,), (-1, 1))
    >>> rounding.initialize(parameter, one, (0,), (-1, 1))
    >>> np.asarray(rounding.integers(parameter, one, (0,), (-1, 1))).tolist()
    [1.0, 0.0, -1.0, 1.0]
    >>> np.asarray(rounding.codebook).tolist()
    [-1.0, 0.0, 3.5]
    """

    is_zero_fixed = True

    def levels(self, bits):
        return levels_of_one(self, bits)

    def initialize(self, parameter, scale, axes, levels):
        numbers, integers = ops.divide(parameter, scale), self.integers(parameter, scale, axes, levels)
        means = [_mean_where(numbers, ops.equal(integers, sign)) for sign in (-1, 1)]
        self.codebook.assign(ops.stack([means[0], ops.zeros_like(means[0]), means[1]]))

    def integers(self, parameter, scale, axes, levels, noise=None):
        magnitude = ops.abs(parameter)
        threshold = ops.multiply(TERNARY_SHARE, ops.max(magnitude, axis=axes, keepdims=True))
        return ops.multiply(ops.sign(parameter), ops.cast(ops.greater(magnitude, threshold), parameter.dtype))

    def values(self, integers, parameter, scale, axes, levels):
        values = super().values(integers, parameter, scale, axes, levels)
        magnitude = ops.where(ops.equal(integers, 0), ops.ones_like(values), ops.multiply(integers, values))
        return with_gradient(values, ops.multiply(ops.divide(ops.stop_gradient(magnitude), scale), parameter))

    def parameter_gradient(self, upstream, parameter, scale, axes, levels):
        return ops.zeros_like(upstream)  # it is that of `values`

    def parameter_of(self, integers, scale, levels):
        return integers.astype(scale.dtype) * scale


@keras.saving.register_keras_serializable("lqs")
class LQNets(Codebook):
    """LQ-Nets: levels spanned by a basis that follows the parameter (Zhang et al. 2018, arXiv 1807.10029).

    With `K` bits and a basis `v` of `K` numbers, there is a level `v . e` for each `e` of signs, and

        P_q = index of the level nearest to P / s, less 2**(K - 1)
        dL/dP = dL/dP_r

    The basis has no gradient. In every training step it moves to the least squares fit to the levels' elements,

        v = 0.9 v + 0.1 (B B^T)^-1 B (P / s)

    with the signs of all elements as the columns of `B` (the paper's QEM algorithm, one iteration a step). The levels
    are linear in the basis, and move alike: they are the weight, and the basis is not kept. They start from the fit to
    the initial values, by plain iterations from evenly spaced levels.

        NestedQuantization(rule=lqs.Frozen(), rounding=lqs.LQNets(), bits=2, initial_scale="max")

    The paper has a basis for each filter; here there is one for each parameter.

    Example: the basis 2, 1 fits; after a step with 1.5 times the parameter it is 2.1, 1.05.

    >>> rounding, parameter, one = LQNets(), np.array([-3.0, 1.0, 3.0, -1.0], "float32"), np.ones(1, "float32")
    >>> rounding.create_weights((1,), (-2, 1))
    >>> rounding.initialize(parameter, one, (0,), (-2, 1))
    >>> np.asarray(rounding.integers(parameter, one, (0,), (-2, 1))).tolist()
    [-2.0, 0.0, 1.0, -1.0]
    >>> rounding.update(1.5 * parameter, one, (0,), (-2, 1))
    >>> [f"{level:.2f}" for level in np.asarray(rounding.codebook)]
    ['-3.15', '-1.05', '1.05', '3.15']
    """

    is_trained = False

    def initialize(self, parameter, scale, axes, levels):
        numbers = ops.divide(parameter, scale)
        spaced = np.linspace(-1, 1, levels[1] + 1 - levels[0], dtype="float32")
        fit = ops.multiply(ops.max(ops.abs(numbers)), ops.cast(spaced, numbers.dtype))
        for _ in range(NUM_STEPS):
            fit = self._fit(numbers, fit)
        self.codebook.assign(fit)

    def update(self, parameter, scale, axes, levels):
        codebook = ops.cast(self.codebook, parameter.dtype)
        fit = self._fit(ops.divide(parameter, scale), codebook)
        self.codebook.assign(ops.add(ops.multiply(LEFT_OF_AVERAGE, codebook), ops.multiply(1 - LEFT_OF_AVERAGE, fit)))

    def integers(self, parameter, scale, axes, levels, noise=None):
        codebook = ops.cast(self.codebook, parameter.dtype)
        return ops.cast(ops.add(nearest(ops.divide(parameter, scale), codebook), levels[0]), parameter.dtype)

    def _fit(self, numbers, codebook):
        """Return the levels whose basis fits best to the numbers that are nearest to each of the given levels."""
        signs = ops.cast(_signs(codebook.shape[0]), numbers.dtype)
        shares, means = _shares_and_means(numbers, nearest(numbers, codebook), codebook.shape[0])
        gram = ops.matmul(ops.multiply(signs, shares), ops.transpose(signs))
        gram = ops.add(gram, ops.multiply(RIDGE, ops.eye(signs.shape[0], dtype=numbers.dtype)))
        basis = ops.matmul(ops.inv(gram), ops.matmul(signs, ops.expand_dims(means, 1)))
        return ops.squeeze(ops.matmul(ops.transpose(signs), basis), 1)


@keras.saving.register_keras_serializable("lqs")
class DeepCompression(Codebook):
    """Deep Compression: pruning, and shared values for what is left (Han et al. 2016, arXiv 1510.00149).

    Elements below a threshold `t` are 0, the others go to the nearest of `2**bits` centroids:

        P_q = 0                                           if abs(P) < t
        P_q = index of the nearest centroid, without 0    -2**(bits - 1) to 2**(bits - 1) otherwise
        dL/dcentroid_k = s sum(dL/dP_r where P_q = k)
        dL/dP = dL/dP_r

    The threshold is `strength` times the standard deviation of the initial values. From these come the centroids, too:
    evenly spaced from minimum to maximum, then moved by iterations of k-means. Centroids within the threshold count as
    lying on it. The integers are entropy-coded like all others, which takes the place of the paper's Huffman code.

        NestedQuantization(rule=lqs.Frozen(), rounding=lqs.DeepCompression(1.0), bits=4, initial_scale="max")

    The paper trains, prunes, trains what is left, clusters, and trains the centroids alone. Here this begins with the
    parameters that there are, trained or not. Then they are trained along with the centroids, pruned ones as well, and
    may change their cluster.

    Args:
        strength: threshold in standard deviations; 0 prunes nothing.

    Raises:
        ValueError: if the strength is negative, not finite, or not a number.

    Example: the standard deviation is 3.

    >>> parameter, one = np.array([-4.0, -4.0, 1.0, -1.0, 3.0, 5.0], "float32"), np.ones(1, "float32")
    >>> rounding = DeepCompression(0.5)
    >>> rounding.create_weights((1,), rounding.levels(2))
    >>> rounding.initialize(parameter, one, (0,), (-2, 2))
    >>> np.asarray(rounding.integers(parameter, one, (0,), (-2, 2))).tolist()
    [-2.0, -2.0, 0.0, 0.0, 1.0, 2.0]
    """

    is_zero_fixed = True

    def __init__(self, strength=1.0, **kwargs):
        super().__init__(**kwargs)
        self.strength = validate_strength("strength", strength)

    def levels(self, bits):
        lowest, highest = super().levels(bits)
        return lowest, highest + 1

    def create_weights(self, scale_shape, levels):
        super().create_weights(scale_shape, levels)
        self.threshold = self.add_own_weight("threshold", (), "zeros", trainable=False)

    def initialize(self, parameter, scale, axes, levels):
        numbers = ops.divide(parameter, scale)
        self.threshold.assign(ops.multiply(self.strength, ops.std(numbers)))
        kept = self._is_kept(numbers)
        lowest, highest = ops.min(numbers), ops.max(numbers)
        shares = np.linspace(0, 1, 2 * levels[1], dtype="float32")
        centroids = ops.add(lowest, ops.multiply(ops.cast(shares, numbers.dtype), ops.subtract(highest, lowest)))
        for _ in range(NUM_STEPS):
            indices = nearest(numbers, self._positions(centroids))
            shares, means = _shares_and_means(numbers, indices, 2 * levels[1], kept)
            moved = ops.divide(means, ops.maximum(shares, FLOAT32_EPSILON))
            centroids = ops.where(ops.greater(shares, 0), moved, centroids)
        negative, positive = ops.split(centroids, 2)
        self.codebook.assign(ops.concatenate([negative, ops.zeros_like(negative[:1]), positive]))

    def integers(self, parameter, scale, axes, levels, noise=None):
        numbers, codebook = ops.divide(parameter, scale), ops.cast(self.codebook, parameter.dtype)
        centroids = ops.concatenate([codebook[: levels[1]], codebook[levels[1] + 1 :]])
        integers = ops.subtract(nearest(numbers, self._positions(centroids)), levels[1])
        integers = ops.where(ops.less(integers, 0), integers, ops.add(integers, 1))
        return ops.where(self._is_kept(numbers), ops.cast(integers, parameter.dtype), ops.zeros_like(parameter))

    def parameter_of(self, integers, scale, levels):
        positions = np.array(ops.convert_to_numpy(self._positions(ops.convert_to_tensor(self.codebook))))
        positions[levels[1]] = 0
        return positions[integers - levels[0]].astype(scale.dtype) * scale

    def _is_kept(self, numbers):
        return ops.greater_equal(ops.abs(numbers), ops.cast(self.threshold, numbers.dtype))

    def _positions(self, centroids):
        """Return the centroids, those within the threshold moved out to just beyond it, in their order."""
        beyond = ops.multiply(ops.cast(self.threshold, centroids.dtype), 1 + 16 * FLOAT32_EPSILON)
        magnitude = ops.abs(centroids)
        magnitude = ops.maximum(magnitude, ops.add(beyond, ops.multiply(magnitude, 2.0**-10)))
        return ops.multiply(ops.where(ops.less(centroids, 0), -1.0, 1.0), magnitude)

    def get_config(self):
        return {**super().get_config(), "strength": self.strength}


def _signs(num_levels):
    """Return the signs `e` of all levels as columns, the most significant first.

    Example:

    >>> _signs(4).tolist()
    [[-1, -1, 1, 1], [-1, 1, -1, 1]]
    """
    num_bits = num_levels.bit_length() - 1
    return 2 * ((np.arange(num_levels) >> np.arange(num_bits - 1, -1, -1)[:, None]) & 1) - 1


def _shares_and_means(numbers, indices, num_levels, mask=None):
    """Return for each level, over all numbers, the mean of one for its own and the mean of its own."""
    mask = ops.ones_like(numbers) if mask is None else ops.cast(mask, numbers.dtype)
    sums = [ops.segment_sum(ops.ravel(a), ops.ravel(indices), num_levels) for a in (mask, ops.multiply(mask, numbers))]
    return [ops.divide(total, float(np.prod(numbers.shape))) for total in sums]


def _mean_where(numbers, mask):
    mask = ops.cast(mask, numbers.dtype)
    return ops.divide(ops.sum(ops.multiply(numbers, mask)), ops.maximum(ops.sum(mask), 1))
