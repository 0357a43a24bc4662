"""How sensitive outputs are to each parameter of a model: mean squares of derivatives, by Hutchinson's estimate."""

import warnings

import keras
import numpy as np
from keras import ops

from lqs.inspection import to_numpy

LEAST_PROBABILITY = 1e-3
BATCH_SIZE, MAX_STEPS = 32, 48


class _SumOfSquares(keras.optimizers.Optimizer):
    """Adds up the squares of gradients, and changes nothing."""

    def build(self, variables):
        if not self.built:
            super().build(variables)
            self.squares = [self.add_variable(v.shape, dtype="float32", name="square") for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        self.assign_add(self.squares[self._get_variable_index(variable)], ops.square(ops.cast(gradient, "float32")))


class _Projected(keras.Model):
    """A model whose loss is the sum of its outputs times given numbers."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def call(self, inputs):
        return self.model(inputs, training=False)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        pairs = zip(keras.tree.flatten(y_pred), keras.tree.flatten(y), strict=True)
        # Not by `*`: on PyTorch, `train_on_batch` hands on arrays of NumPy.
        return sum(ops.sum(ops.multiply(ops.cast(outputs, "float32"), signs)) for outputs, signs in pairs)


def sensitivities(model, batches, outputs):
    """Return arrays, for each of `model.trainable_variables`, of `E (dz / dP)**2` summed over the outputs `z`.

    `E` is the mean over examples. Outputs are in units of their standard deviation, probabilities in those of the
    Kullback-Leibler divergence, and divided by the root of the number of outputs.

    Args:
        model: a copy, all of whose weights are trainable.
        batches: list of inputs.
        outputs: list of the model's outputs for them, flat lists of arrays.
    """
    rng = np.random.default_rng(0)
    deviations = [np.std(np.concatenate(arrays)) or 1.0 for arrays in zip(*outputs, strict=True)]
    number = sum(array[0].size for array in outputs[0])
    projected, optimizer = _Projected(model), _SumOfSquares(learning_rate=1.0)
    # JAX would compile each operation for itself, TensorFlow takes its time to trace.
    projected.compile(optimizer, run_eagerly=keras.backend.backend() != "jax")
    size = min(BATCH_SIZE, len(outputs[0][0]))
    parts = [part for batch, arrays in zip(batches, outputs, strict=True) for part in _parts(batch, arrays, size)]
    parts = parts[:: -(-len(parts) // MAX_STEPS)]
    for batch, arrays in parts:
        scales = [_scale(array, deviation) for array, deviation in zip(arrays, deviations, strict=True)]
        signs = [rng.choice([-1.0, 1.0], array.shape) for array in arrays]
        y = [(sign * scale / np.sqrt(number)).astype("float32") for sign, scale in zip(signs, scales, strict=True)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of variables without a gradient
            projected.train_on_batch(batch, y if len(y) > 1 else y[0])
    examples = size * len(parts)
    return [to_numpy(square.value).astype("float64") / examples for square in optimizer.squares]


def _parts(batch, arrays, size):
    """Return pairs of inputs and outputs of `size` examples each, without what is left of a batch."""
    parts = [slice(start, start + size) for start in range(0, len(arrays[0]) - size + 1, size)]
    return [(keras.tree.map_structure(lambda x, p=p: x[p], batch), [a[p] for a in arrays]) for p in parts]


def is_probabilities(array):
    """Return whether an output of a model is that of a softmax."""
    return array.shape[-1] > 1 and array.min() >= 0 and bool(np.allclose(array.sum(-1), 1, atol=1e-2))


def _scale(array, deviation):
    if is_probabilities(array):
        return np.maximum(array, LEAST_PROBABILITY) ** -0.5
    return np.full(array.shape, 1 / deviation)
