"""Product vector quantization: short vectors of weights share centroids (Gong et al. 2014, arXiv 1412.6115)."""

import math

import keras
import numpy as np
from keras import ops

from lqs.methods.codebook import NUM_STEPS, Codebook
from lqs.quantizer import NestedQuantization
from lqs.rules import Frozen


@keras.saving.register_keras_serializable("lqs")
class ProductQuantization(Codebook):
    """The nearest of `2**bits` centroids for each vector of `length` elements that follow one another.

    The elements of a parameter in their order, the last axis first, are cut into vectors `p`; zeros fill up the last.

        k = index of the centroid c of least sum((p / s - c_k)**2)
        P_q = (k - 2**(bits - 1), 0, ..., 0)                one index for a vector
        P_r = s c_k
        dL/dc_k = s sum(dL/dP_r of the vectors with k)
        dL/dP = dL/dP_r

    An index costs about `bits / length` bits an element: the entropy coder learns where the zeros are. The centroids
    start from k-means of the initial vectors.

    The paper cuts the rows of a dense layer, has a codebook for each place of the cut, and quantizes after training.
    Here all places share a codebook, as its bytes are part of the file, and it is trained along with the parameter.
    With `length=1` it is the paper's k-means.

    Args:
        length: number of elements in a vector.

    Raises:
        ValueError: if the length is not an integer of at least 1.

    Example: of three vectors, two are alike.

    >>> rounding, one = ProductQuantization(2), np.ones(1, "float32")
    >>> parameter = np.array([1.0, 2.0, -3.0, 0.0, 1.0, 2.0], "float32")
    >>> rounding.build((6,), (0,), rounding.levels_of(2))
    >>> rounding.initialize(parameter, one)
    >>> integers = rounding.integers(parameter, one)
    >>> np.asarray(rounding.values(integers, parameter, one)).tolist()
    [1.0, 2.0, -3.0, 0.0, 1.0, 2.0]
    >>> np.asarray(integers).tolist()
    [-2.0, 0.0, -1.0, 0.0, -2.0, 0.0]
    """

    def __init__(self, length=2, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise ValueError(f"Argument `length` must be a whole number of at least 1. Received: length={length!r}")
        self.length = length

    def first_levels(self):
        return np.repeat(super().first_levels()[:, None], self.length, axis=1)

    def initialize(self, parameter, scale):
        vectors, num_centroids = self._vectors(parameter / scale), self.codebook.shape[0]
        places = np.linspace(0, vectors.shape[0] - 1, num_centroids).round().astype("int32")
        centroids = ops.take(vectors, places, axis=0)
        for _ in range(NUM_STEPS):
            members = ops.one_hot(_nearest(vectors, centroids), num_centroids, dtype=vectors.dtype)
            counts = ops.expand_dims(ops.sum(members, axis=0), 1)
            sums = ops.matmul(ops.transpose(members), vectors)
            centroids = ops.where(counts > 0, sums / ops.maximum(counts, 1), centroids)
        self.codebook.assign(centroids)

    def integers(self, parameter, scale):
        centroids = ops.cast(self.codebook, parameter.dtype)
        indices = ops.expand_dims(_nearest(self._vectors(parameter / scale), centroids) + self.levels.lowest, 1)
        integers = ops.where(ops.arange(self.length) == 0, indices, ops.zeros_like(indices))
        return _elements(ops.cast(integers, parameter.dtype), parameter.shape)

    def values(self, integers, parameter, scale):
        indices = ops.cast(self._vectors(integers)[:, 0], "int32") - self.levels.lowest
        return _elements(ops.take(ops.cast(self.codebook, parameter.dtype), indices, axis=0), parameter.shape)

    def parameter_of(self, integers, scale):
        """Return the centroids of the vectors."""
        centroids = ops.convert_to_numpy(self.codebook)[integers.ravel()[:: self.length] - self.levels.lowest]
        return centroids.ravel()[: integers.size].reshape(integers.shape).astype(scale.dtype) * scale

    def get_config(self):
        return {**super().get_config(), "length": self.length}

    def _vectors(self, numbers):
        flat = ops.ravel(numbers)
        return ops.reshape(ops.pad(flat, [[0, -flat.shape[0] % self.length]]), (-1, self.length))


def gong(bits, length=2, **overrides):
    """Return the `NestedQuantization` of product quantization.

    Args:
        bits: there are `2**bits` centroids, of all elements of the parameter.
        length: number of elements in a vector.
        overrides: other arguments of `NestedQuantization`.
    """
    settings = {"rule": Frozen(), "rounding": ProductQuantization(length), "bits": bits, "initial_scale": "max"}
    return NestedQuantization(**{**settings, **overrides})


def _nearest(vectors, centroids):
    """Return the index of the centroid that is nearest to each vector, the first one if several are."""
    distances = 0.0
    for place in range(vectors.shape[1]):  # without a tensor of all differences, which is slow
        distances = distances + ops.square(vectors[:, place, None] - centroids[None, :, place])
    return ops.cast(ops.argmin(distances, axis=1), "int32")


def _elements(vectors, shape):
    """Return a tensor of the shape whose elements are those of the vectors, without what fills up the last."""
    return ops.reshape(ops.ravel(vectors)[: math.prod(shape)], shape)
