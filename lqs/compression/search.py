"""The rate at which a network has a size, or changes by so much: by bisection."""

import math
from typing import Any, NamedTuple

import numpy as np

from lqs.conversion import from_integers
from lqs.file.inference import folded_normalizations
from lqs.file.saving import encode_model, plain_variables
from lqs.file.writer import encode_integers, encode_numbers, packed_bytes
from lqs.inspection import quantized_parameters

FIRST = -7.0  # log2 of the rate times the number of parameters
LOWEST, HIGHEST = -60.0, 30.0
TOLERANCE = 0.02  # of the size
RESOLUTION = 0.1  # of log2 of the rate, about 1 % of the size
LEAST_INTERVAL = 0.001  # of log2 of the rate


class Trial(NamedTuple):
    """A network at a rate.

    Attributes:
        log_rate: log2 of the rate.
        num_bytes: size of its file.
        change: of its outputs, or `None`.
        rounded: `{index of a weight: Rounded}`.
        others: values of weights that are not rounded.
    """

    log_rate: float
    num_bytes: int
    change: Any
    rounded: Any
    others: Any


def _without_scales(model):
    """Return `{index: weight}` of a model's weights that are no scales of quantized parameters."""
    scales = {id(quantizer.scale_weight) for _, quantizer in quantized_parameters(model)}
    return {index: weight for index, weight in enumerate(model.weights) if id(weight) not in scales}


class Search:
    """Tries rates on a `Network`.

    Args:
        network: the network.
        measure: function from the float network's outputs and the rounded one's to a number; `None` measures nothing.
        verbose: whether to print a line for each trial.
        inference_only: the argument of `lqs.save`, for which sizes are.
    """

    def __init__(self, network, measure, verbose=False, inference_only=False):
        self.network, self.measure, self.verbose, self.inference_only = network, measure, verbose, inference_only
        self.first = FIRST - math.log2(max(1, sum(math.prod(variable.shape) for variable in network.parameters)))
        self.encoded = None
        self.trials = []

    def trial(self, log_rate):
        """Round the network at a rate, and return the `Trial`."""
        network = self.network
        rounded = network.at_rate(2.0**log_rate)
        change = self.measure and self.measure(network.outputs, network.predict(network.held_out))
        size = self.packed_bytes()
        self.trials.append(Trial(log_rate, size, change, rounded, network.others))
        if self.verbose:
            of_outputs = "" if change is None else f", outputs change by {change:.3%}"
            print(f"rate 2**{log_rate:.2f}: {size:,} bytes{of_outputs}", flush=True)
        return self.trials[-1]

    def packed_bytes(self):
        """Return the size of the file of the network as it is now, without making its model each time."""
        if self.encoded is None:
            model = self.model()
            self.encoded = configuration, _ = encode_model(model, inference_only=self.inference_only)
            variables = plain_variables(model, self.inference_only)
            places = {id(variable): place for place, variable in enumerate(variables)}
            for weight in folded_normalizations(model) if self.inference_only else ():
                del places[weight]
            weights = zip(_without_scales(self.network.model), _without_scales(model).values(), strict=True)
            self.places = {index: places[id(weight)] for index, weight in weights if id(weight) in places}
        configuration, tensors = self.encoded
        changed = {i: encode_integers(rounded.integers, rounded.scale) for i, rounded in self.network.rounded.items()}
        changed |= {i: encode_numbers(value) for i, value in self.network.others.items() if i in self.places}
        tensors = list(tensors)
        for index, (entry, sections) in changed.items():
            known = tensors[self.places[index]][0]
            tensors[self.places[index]] = {"name": known["name"], **entry, "dtype": known["dtype"]}, sections
        return packed_bytes(configuration, tensors)

    def model(self):
        """Return the model of integers that the network has now."""
        network = self.network
        pairs = [network.rounded.get(index) for index in range(len(network.floats))]
        return from_integers(network.model, [pair and (pair.integers, pair.scale) for pair in pairs])

    def model_of(self, trial):
        """Return the model of a trial, with the statistics of normalization with which its outputs are nearer."""
        network = self.network
        network.rounded, network.others = trial.rounded, trial.others
        network.assign()
        if trial.others:
            error = _error(network.outputs, network.predict(network.held_out))
            network.assign(with_statistics=False)
            if error <= _error(network.outputs, network.predict(network.held_out)):
                network.assign()
        return self.model()

    def for_change(self, limit):
        """Return the smallest trial whose change is at most `limit`."""
        fits, fits_not = self._bracket(lambda trial: trial.change <= limit)
        if fits is None:
            finest = min(self.trials, key=lambda trial: trial.change)
            raise ValueError(
                f"Argument `max_change` must be at least {finest.change:.4g}, which the finest integers of "
                f"{finest.num_bytes:,} bytes change. Received: max_change={limit}"
            )
        while fits_not is not None and fits_not.log_rate - fits.log_rate > RESOLUTION:
            middle = self.trial((fits.log_rate + fits_not.log_rate) / 2)
            if middle.change <= limit:
                fits = middle
            else:
                fits_not = middle
        return min((trial for trial in self.trials if trial.change <= limit), key=lambda trial: trial.num_bytes)

    def for_size(self, limit, argument):
        """Return a trial of at most `limit` bytes, and at least 98 % of them where there is one."""
        large, small = self._bracket(lambda trial: trial.num_bytes > limit)
        if small is None:
            smallest = min(self.trials, key=lambda trial: trial.num_bytes)
            raise ValueError(
                f"Argument `{argument[0]}` asks for {limit:,} bytes, but header, scales and what is not quantized "
                f"take {smallest.num_bytes:,}, with all integers 0. Received: {argument[0]}={argument[1]}"
            )
        while (
            large is not None and small.log_rate - large.log_rate > LEAST_INTERVAL and not self._is_near(small, limit)
        ):
            # Between the two as the logarithm of the size is, but not too close to either of them.
            target, whole = limit * (1 - TOLERANCE / 2), math.log(large.num_bytes / small.num_bytes)
            share = math.log(large.num_bytes / target) / whole
            middle = self.trial(large.log_rate + np.clip(share, 0.1, 0.9) * (small.log_rate - large.log_rate))
            if middle.num_bytes > limit:
                large = middle
            else:
                small = middle
        return max((trial for trial in self.trials if trial.num_bytes <= limit), key=lambda trial: trial.num_bytes)

    @staticmethod
    def _is_near(trial, limit):
        return limit * (1 - TOLERANCE) <= trial.num_bytes <= limit

    def _bracket(self, is_low):
        """Return two trials about the rate from which on `is_low` is false; `None` for one that is not there."""
        first = last = self.trial(self.first)
        low = is_low(first)
        step = 3.0 if low else -3.0
        while LOWEST < last.log_rate < HIGHEST:
            following = self.trial(float(np.clip(last.log_rate + step, LOWEST, HIGHEST)))
            if is_low(following) != low:
                return (last, following) if low else (following, last)
            if low and not any(np.any(r.integers) for r in following.rounded.values()):
                return following, None
            last, step = following, 2 * step
        return (last, None) if low else (None, last)


def _error(expected, outputs):
    pairs = zip(expected, outputs, strict=True)
    return sum(float(np.square(a - b).sum()) for some, others in pairs for a, b in zip(some, others, strict=True))
