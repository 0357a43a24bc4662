"""Deep Compression (Han et al. 2016, arXiv 1510.00149)."""

import keras
import numpy as np
from keras import ops

from lqs.methods.codebook import NUM_STEPS, Codebook, nearest, shares_and_means
from lqs.parts import Levels
from lqs.quantizer import NestedQuantization
from lqs.rules import Frozen
from lqs.scales import FLOAT32_EPSILON
from lqs.strengths import validate_strength


@keras.saving.register_keras_serializable("lqs")
class DeepCompression(Codebook):
    """Pruning, and shared values for what is left.

    Elements below a threshold `t` are 0, the others go to the nearest of `2**bits` centroids:

        P_q = 0                                           if abs(P) < t
        P_q = index of the nearest centroid, without 0    -2**(bits - 1) to 2**(bits - 1) otherwise
        dL/dcentroid_k = s sum(dL/dP_r where P_q = k)
        dL/dP = dL/dP_r

    The threshold is `strength` times the standard deviation of the initial values. From these come the centroids, too:
    evenly spaced from minimum to maximum, then moved by iterations of k-means. Centroids within the threshold count as
    lying on it. The integers are entropy-coded like all others, which takes the place of the paper's Huffman code.

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
    >>> rounding.build((6,), (0,), rounding.levels_of(2))
    >>> rounding.initialize(parameter, one)
    >>> np.asarray(rounding.integers(parameter, one)).tolist()
    [-2.0, -2.0, 0.0, 0.0, 1.0, 2.0]
    """

    is_zero_fixed = True

    def __init__(self, strength=1.0, **kwargs):
        super().__init__(**kwargs)
        self.strength = validate_strength("strength", strength)

    def levels_of(self, bits):
        lowest, highest = super().levels_of(bits)
        return Levels(lowest, highest + 1)

    def build(self, shape, axes, levels):
        super().build(shape, axes, levels)
        self.threshold = self.add_weight(name="threshold", shape=(), initializer="zeros", trainable=False)

    def initialize(self, parameter, scale):
        numbers, num_centroids = parameter / scale, 2 * self.levels.highest
        self.threshold.assign(self.strength * ops.std(numbers))
        kept = self._is_kept(numbers)
        lowest, highest = ops.min(numbers), ops.max(numbers)
        places = ops.cast(np.linspace(0, 1, num_centroids, dtype="float32"), numbers.dtype)
        centroids = lowest + places * (highest - lowest)
        for _ in range(NUM_STEPS):
            indices = nearest(numbers, self._positions(centroids))
            shares, means = shares_and_means(numbers, indices, num_centroids, kept)
            centroids = ops.where(shares > 0, means / ops.maximum(shares, FLOAT32_EPSILON), centroids)
        negative, positive = ops.split(centroids, 2)
        self.codebook.assign(ops.concatenate([negative, ops.zeros_like(negative[:1]), positive]))

    def integers(self, parameter, scale):
        numbers, codebook, highest = parameter / scale, ops.cast(self.codebook, parameter.dtype), self.levels.highest
        centroids = ops.concatenate([codebook[:highest], codebook[highest + 1 :]])
        integers = nearest(numbers, self._positions(centroids)) - highest
        integers = ops.where(integers < 0, integers, integers + 1)
        return ops.where(self._is_kept(numbers), ops.cast(integers, parameter.dtype), ops.zeros_like(parameter))

    def parameter_of(self, integers, scale):
        positions = np.array(ops.convert_to_numpy(self._positions(ops.convert_to_tensor(self.codebook))))
        positions[self.levels.highest] = 0
        return positions[integers - self.levels.lowest].astype(scale.dtype) * scale

    def _is_kept(self, numbers):
        return ops.abs(numbers) >= ops.cast(self.threshold, numbers.dtype)

    def _positions(self, centroids):
        """Return the centroids, those within the threshold moved out to just beyond it, in their order."""
        beyond = ops.cast(self.threshold, centroids.dtype) * (1 + 16 * FLOAT32_EPSILON)
        magnitude = ops.abs(centroids)
        magnitude = ops.maximum(magnitude, beyond + magnitude * 2.0**-10)
        return ops.where(centroids < 0, -1.0, 1.0) * magnitude

    def get_config(self):
        return {**super().get_config(), "strength": self.strength}


def deep_compression(bits, threshold=1.0, **overrides):
    """Return the `NestedQuantization` of Deep Compression.

    Args:
        bits: there are `2**bits` centroids.
        threshold: `strength` of `DeepCompression`.
        overrides: other arguments of `NestedQuantization`.
    """
    settings = {"rule": Frozen(), "rounding": DeepCompression(threshold), "bits": bits, "initial_scale": "max"}
    return NestedQuantization(**{**settings, **overrides})
