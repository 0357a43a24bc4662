"""What stochastic rounding and Quant-Noise have in common: random numbers in training."""

import keras
import numpy as np
from keras import ops

from lqs.rounding import Rounding

STATE = "seed_generator_state"  # its name in `.keras` files


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

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store[STATE] = ops.convert_to_numpy(self.seed_generator.state)  # which Keras leaves out

    def load_own_variables(self, store):
        super().load_own_variables({key: store[key] for key in store.keys() if key != STATE})  # noqa: SIM118
        if STATE in store.keys():  # noqa: SIM118
            self.seed_generator.state.assign(np.array(store[STATE]))

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}
