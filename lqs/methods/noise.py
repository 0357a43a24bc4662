"""What stochastic rounding and Quant-Noise have in common: random numbers in training."""

import keras
from keras import ops

from lqs.rounding import Rounding


class NoisyRounding(Rounding):
    """Base of the roundings that are random in training, and to nearest in evaluation.

    Args:
        seed: of the random numbers; `None` for one by the global seed, another one in every copy.
    """

    def __init__(self, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def uniform(self, parameter):
        """Return random numbers from 0 to 1, of the shape and dtype of the parameter, new ones at each call."""
        return keras.random.uniform(ops.shape(parameter), dtype=parameter.dtype, seed=self.seed_generator)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}
