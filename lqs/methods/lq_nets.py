"""LQ-Nets (Zhang et al. 2018, arXiv 1807.10029)."""

import keras
import numpy as np
from keras import ops

from lqs.methods.codebook import NUM_STEPS, Codebook, nearest, shares_and_means
from lqs.quantizer import NestedQuantization
from lqs.rules import Frozen

LEFT_OF_AVERAGE = 0.9
RIDGE = 1e-6


@keras.saving.register_keras_serializable("lqs")
class LQNets(Codebook):
    """Levels spanned by a basis that follows the parameter.

    With `K` bits and a basis `v` of `K` numbers, there is a level `v . e` for each `e` of signs, and

        P_q = index of the level nearest to P / s, less 2**(K - 1)
        dL/dP = dL/dP_r

    The basis has no gradient. In every training step it moves to the least squares fit to the levels' elements,

        v = 0.9 v + 0.1 (B B^T)^-1 B (P / s)

    with the signs of all elements as the columns of `B` (the paper's QEM algorithm, one iteration a step). The levels
    are linear in the basis, and move alike: they are the weight, and the basis is not kept. They start from the fit to
    the initial values, by plain iterations from evenly spaced levels.

    The paper has a basis for each filter; here there is one for each parameter.

    Example: the basis 2, 1 fits; after a step with 1.5 times the parameter it is 2.1, 1.05.

    >>> rounding, parameter, one = LQNets(), np.array([-3.0, 1.0, 3.0, -1.0], "float32"), np.ones(1, "float32")
    >>> rounding.build((4,), (0,), rounding.levels_of(2))
    >>> rounding.initialize(parameter, one)
    >>> np.asarray(rounding.integers(parameter, one)).tolist()
    [-2.0, 0.0, 1.0, -1.0]
    >>> _ = rounding.training_integers(1.5 * parameter, one)
    >>> [f"{level:.2f}" for level in np.asarray(rounding.codebook)]
    ['-3.15', '-1.05', '1.05', '3.15']
    """

    is_trained = False

    def initialize(self, parameter, scale):
        numbers, (lowest, highest) = parameter / scale, self.levels
        spaced = np.linspace(-1, 1, highest + 1 - lowest, dtype="float32")
        fit = ops.max(ops.abs(numbers)) * ops.cast(spaced, numbers.dtype)
        for _ in range(NUM_STEPS):
            fit = self._fit(numbers, fit)
        self.codebook.assign(fit)

    def integers(self, parameter, scale):
        codebook = ops.cast(self.codebook, parameter.dtype)
        return ops.cast(nearest(parameter / scale, codebook) + self.levels.lowest, parameter.dtype)

    def training_integers(self, parameter, scale):
        parameter, scale = ops.stop_gradient(parameter), ops.stop_gradient(scale)
        codebook = ops.cast(self.codebook, parameter.dtype)
        fit = self._fit(parameter / scale, codebook)
        self.codebook.assign(LEFT_OF_AVERAGE * codebook + (1 - LEFT_OF_AVERAGE) * fit)
        return self.integers(parameter, scale)

    def _fit(self, numbers, codebook):
        """Return the levels whose basis fits best to the numbers that are nearest to each of the given levels."""
        signs = ops.cast(_signs(codebook.shape[0]), numbers.dtype)
        shares, means = shares_and_means(numbers, nearest(numbers, codebook), codebook.shape[0])
        gram = ops.matmul(signs * shares, ops.transpose(signs))
        gram = gram + RIDGE * ops.eye(signs.shape[0], dtype=numbers.dtype)
        basis = ops.matmul(ops.inv(gram), ops.matmul(signs, ops.expand_dims(means, 1)))
        return ops.squeeze(ops.matmul(ops.transpose(signs), basis), 1)


def lq_nets(bits, **overrides):
    """Return the `NestedQuantization` of LQ-Nets; the paper has a basis for each filter, here each parameter has one.

    Args:
        bits: number of bits, and of the basis's elements.
        overrides: other arguments of `NestedQuantization`.
    """
    settings = {"rule": Frozen(), "rounding": LQNets(), "bits": bits, "initial_scale": "max"}
    return NestedQuantization(**{**settings, **overrides})


def _signs(num_levels):
    """Return the signs `e` of all levels as columns, the most significant first.

    Example:

    >>> _signs(4).tolist()
    [[-1, -1, 1, 1], [-1, 1, -1, 1]]
    """
    num_bits = num_levels.bit_length() - 1
    return 2 * ((np.arange(num_levels) >> np.arange(num_bits - 1, -1, -1)[:, None]) & 1) - 1
