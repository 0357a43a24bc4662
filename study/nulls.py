"""Null rules: the thesis's gradient of the scale with one thing changed, to see what its ratio is worth.

The thesis's rule (`lqs.GradientRatio`, published form) is, per element and per scale,

    r = abs(dL/dP_r) / max(2**-23, abs(P_r))        ratio
    g = 0 if r >= lam else -tanh(lam - r)           vote
    gradient = mean(g) * max(abs(P_q))              -tanh(lam) in place of a mean that is 0

Each class below changes one of these lines. All have the arguments of `lqs.GradientRatio`. As they serve runs on
one device, no votes are gathered from replicas.
"""

import math

import keras
import numpy as np
from keras import ops

import lqs
from lqs.rules import sensitivity_ratio


@keras.saving.register_keras_serializable("study")
class Votes(lqs.GradientRatio):
    """The thesis's rule, written so that each part of it can be changed."""

    def votes(self, upstream, reconstructed):
        """Return the vote of each element: `g`."""
        return ops.tanh(ops.minimum(sensitivity_ratio(upstream, reconstructed) - self.threshold, 0.0))

    def mean_vote(self, votes, upstream):
        """Return the mean over the elements that share a scale."""
        return ops.mean(votes, axis=self.axes, keepdims=True)

    def factor(self, integers):
        """Return what the mean vote is multiplied by: `max(abs(P_q))`."""
        return ops.max(ops.abs(integers), axis=self.axes, keepdims=True)

    def scale_gradient(self, upstream, parameter, integers, scale):
        mean = self.mean_vote(self.votes(upstream, integers * scale), upstream)
        if self.update_stalled:
            mean = ops.where(mean == 0.0, -ops.tanh(self.threshold), mean)
        return mean * self.factor(integers)


@keras.saving.register_keras_serializable("study")
class ConstantVotes(Votes):
    """Every element votes, whatever its gradient: `g = -lam`. The rule sees no gradient at all."""

    def votes(self, upstream, reconstructed):
        return -self.threshold * ops.ones_like(reconstructed)


@keras.saving.register_keras_serializable("study")
class ShuffledVotes(Votes):
    """The votes of the thesis's rule, each given to some other element of the parameter.

    As many elements vote, but not those that the ratio chose. One order of the elements is drawn at first; at every
    step it begins at another place, which follows from the sum of the parameter: in a backward pass JAX has no state
    that a random number generator could change. With one scale for all elements the mean stays, and so does the rule.

    Args:
        threshold, update_stalled: as in `lqs.GradientRatio`.
        seed: of the order.
    """

    def __init__(self, threshold, update_stalled=False, seed=0, **kwargs):
        super().__init__(threshold, update_stalled, **kwargs)
        self.seed = seed

    def build(self, shape, axes, levels):
        super().build(shape, axes, levels)
        self.order = np.random.default_rng(self.seed).permutation(math.prod(shape)).astype("int32")

    def votes(self, upstream, reconstructed):
        start = ops.cast(4096.0 * ops.abs(ops.sum(reconstructed)), "int32")
        votes = ops.reshape(super().votes(upstream, reconstructed), (-1,))
        return ops.reshape(ops.take(votes, (self.order + start) % len(self.order)), self.shape)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable("study")
class InvertedVotes(Votes):
    """The other elements vote, those that the thesis's test spares: `g = -tanh(lam) if r > lam else 0`."""

    def votes(self, upstream, reconstructed):
        is_sensitive = sensitivity_ratio(upstream, reconstructed) > self.threshold
        return ops.where(is_sensitive, -ops.tanh(self.threshold), 0.0)


@keras.saving.register_keras_serializable("study")
class LiveVotes(Votes):
    """Elements whose gradient is exactly 0 are left out: they do not vote, and the mean is over the others."""

    def votes(self, upstream, reconstructed):
        return ops.where(upstream == 0.0, 0.0, super().votes(upstream, reconstructed))

    def mean_vote(self, votes, upstream):
        num_live = ops.sum(ops.cast(upstream != 0.0, votes.dtype), axis=self.axes, keepdims=True)
        return ops.sum(votes, axis=self.axes, keepdims=True) / ops.maximum(num_live, 1.0)


@keras.saving.register_keras_serializable("study")
class VotesWithoutRange(Votes):
    """The mean vote alone, not times `max(abs(P_q))`."""

    def factor(self, integers):
        return ops.ones_like(super().factor(integers))


@keras.saving.register_keras_serializable("study")
class VotesWithoutTanh(Votes):
    """The vote is the difference itself: `g = 0 if r >= lam else -(lam - r)`."""

    def votes(self, upstream, reconstructed):
        return ops.minimum(sensitivity_ratio(upstream, reconstructed) - self.threshold, 0.0)


@keras.saving.register_keras_serializable("study")
class VotesOfLargerEpsilon(Votes):
    """The ratio is `abs(dL/dP_r) / max(1e-3, abs(P_r))`: small parameters are no longer the most sensitive ones."""

    epsilon = 1e-3

    def votes(self, upstream, reconstructed):
        ratio = ops.abs(upstream) / ops.maximum(ops.abs(reconstructed), self.epsilon)
        return ops.tanh(ops.minimum(ratio - self.threshold, 0.0))


RULES = {
    "votes_ratio": lqs.GradientRatio,  # the thesis's rule itself, whose record has the shares of votes, too
    "votes_constant": ConstantVotes,
    "votes_shuffled": ShuffledVotes,
    "votes_inverted": InvertedVotes,
    "votes_live": LiveVotes,
    "votes_without_range": VotesWithoutRange,
    "votes_without_tanh": VotesWithoutTanh,
    "votes_epsilon": VotesOfLargerEpsilon,
}


def votes_of(rule, upstream, reconstructed):
    """Return the vote of each element of a parameter, by one of these rules or by `lqs.GradientRatio`."""
    if not isinstance(rule, Votes):
        return Votes.votes(rule, upstream, reconstructed)
    return rule.votes(upstream, reconstructed)
