"""Tests of `study.nulls`: each rule against NumPy, and that it differs from the thesis's in one thing alone."""

import keras
import numpy as np
import pytest
from keras import ops

import lqs
from study import nulls
from study.methods import make_preset
from study.statistics import VoteHistory

LAM, EPS = np.float32(0.5), 2.0**-23
#  r =       0     0.25   2      |  4      2     8      |  0      0     0       |  0.25  0     0.125
UPSTREAM = [[0.0, 0.5, -4.0], [4.0, -2.0, 8.0], [0.0, 0.0, 0.0], [0.25, 0.0, -0.25]]
INTEGERS = [[3.0, 2.0, -2.0], [1.0, 1.0, -1.0], [4.0, 0.0, 1.0], [-1.0, 5.0, 2.0]]
UPSTREAM, INTEGERS = np.array(UPSTREAM, "float32"), np.array(INTEGERS, "float32")
SCALE = np.ones((4, 1), "float32")
RATIO = np.abs(UPSTREAM) / np.maximum(EPS, np.abs(INTEGERS))
LARGEST = np.abs(INTEGERS).max(axis=1, keepdims=True)
VOTES = np.where(RATIO >= LAM, 0, -np.tanh(LAM - RATIO))
RULES = sorted(nulls.RULES)


def make_rule(name, update_stalled=True, shape=(4, 3), axes=(1,), threshold=float(LAM)):
    rule = nulls.RULES[name](threshold, update_stalled)
    rule.build(shape, axes, None)
    return rule


def gradient(rule, upstream=UPSTREAM, integers=INTEGERS, scale=SCALE):
    found = rule.scale_gradient(*map(ops.convert_to_tensor, (upstream, integers, integers, scale)))
    return ops.convert_to_numpy(found)


def stalled(mean):
    return np.where(mean == 0, -np.tanh(LAM), mean)


def mean(votes):
    return votes.mean(axis=1, keepdims=True)


BY_HAND = {
    "votes_ratio": stalled(mean(VOTES)) * LARGEST,
    "votes_constant": -LAM * LARGEST,
    "votes_inverted": stalled(mean(np.where(RATIO > LAM, -np.tanh(LAM), 0))) * LARGEST,
    # Of the four rows, 2, 3, 0 and 2 elements have a gradient; 1, 0, 0 and 2 of these vote.
    "votes_live": -np.tanh([[0.25], [0.5], [0.5], [0.0]]) * LARGEST
    + [[0.5 * np.tanh(0.25) * 3], [0], [0], [-(np.tanh(0.25) + np.tanh(0.375)) / 2 * 5]],
    "votes_without_range": stalled(mean(VOTES)),
    "votes_without_tanh": stalled(mean(np.minimum(RATIO - LAM, 0))) * LARGEST,
    "votes_epsilon": stalled(mean(VOTES)) * LARGEST,
}


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_rule_is_its_equation(name):
    np.testing.assert_allclose(gradient(make_rule(name)), BY_HAND[name], rtol=1e-6)


def test_general_form_is_the_thesis_s_rule():
    for update_stalled in (False, True):
        general = nulls.Votes(float(LAM), update_stalled)
        general.build((4, 3), (1,), None)
        np.testing.assert_array_equal(gradient(general), gradient(make_rule("votes_ratio", update_stalled)))


@pytest.mark.parametrize("name", RULES)
def test_scales_without_any_vote_are_stalled_in_all_rules(name):
    """All elements are sensitive: no one votes, but for the rules that let the sensitive ones vote."""
    upstream = np.full((4, 3), 100, "float32")
    found = gradient(make_rule(name, update_stalled=False), upstream)
    votes_all_the_same = name in ("votes_constant", "votes_inverted")
    assert np.all(found < 0 if votes_all_the_same else found == 0)
    full = np.ones_like(LARGEST) if name == "votes_without_range" else LARGEST
    expected = -LAM if name == "votes_constant" else -np.tanh(LAM)
    np.testing.assert_allclose(gradient(make_rule(name), upstream), expected * full, rtol=1e-6)


def test_epsilon_decides_on_parameters_near_zero():
    """The parameter is 0 and its gradient 1e-4: r = 839 by the thesis's epsilon, 0.1 by the larger one."""
    zero, upstream = np.zeros((1, 1), "float32"), np.full((1, 1), 1e-4, "float32")
    for name, vote in (("votes_ratio", 0.0), ("votes_epsilon", -np.tanh(0.4))):
        votes = nulls.votes_of(make_rule(name, shape=(1, 1)), ops.convert_to_tensor(upstream), zero)
        np.testing.assert_allclose(ops.convert_to_numpy(votes), [[vote]], rtol=1e-6)


# The shuffled votes.


def shuffled(reconstructed, seed=0):
    rule = nulls.ShuffledVotes(float(LAM), True, seed)
    rule.build((4, 3), (1,), None)
    return ops.convert_to_numpy(rule.votes(ops.convert_to_tensor(UPSTREAM), ops.convert_to_tensor(reconstructed)))


def test_shuffled_votes_are_the_same_votes_of_other_elements():
    votes = shuffled(INTEGERS)
    np.testing.assert_allclose(np.sort(votes, axis=None), np.sort(VOTES, axis=None), rtol=1e-6)
    assert not np.allclose(votes, VOTES)
    np.testing.assert_array_equal(votes, shuffled(INTEGERS))
    assert np.any(votes != shuffled(INTEGERS, seed=1))


def test_shuffled_votes_are_in_another_order_when_the_parameter_is_another():
    moved = INTEGERS.copy()
    moved[0, 0] += 2.0**-10  # 4 places, and the same votes: its gradient is 0
    assert np.any(shuffled(moved) != shuffled(INTEGERS))


def test_shuffled_votes_of_one_scale_are_the_thesis_s_rule():
    one = np.ones((1, 1), "float32")
    found = [gradient(make_rule(name, axes=(0, 1)), scale=one) for name in ("votes_shuffled", "votes_ratio")]
    np.testing.assert_allclose(*found, rtol=1e-6)


# In a layer, a method and a record.


@pytest.mark.parametrize("name", RULES)
def test_layer_of_a_rule_is_copied_with_it(name):
    from study.configs import make_config

    layer = make_preset(make_config("mnist", name, 1e-10, "row").quantizer)("row")
    rule = layer.copy().rule
    assert type(rule) is nulls.RULES[name] and rule.get_config() == layer.rule.get_config()
    assert rule.update_stalled is True and float(rule.threshold) == np.float32(1e-10)


def test_history_of_votes():
    """One kernel of two inputs, of which the second is 0 in both images: half of the gradients are 0."""
    images, labels = np.array([[1.0, 0.0], [2.0, 0.0]], "float32"), np.array([0, 1])
    rules = {name: nulls.RULES[f"votes_{name}"](1e-9, True) for name in ("ratio", "constant", "inverted")}
    histories = {}
    for name, rule in rules.items():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, kernel_initializer="ones", name="dense")])
        model = lqs.quantize(model, lqs.NestedQuantization("row", rule), None)
        model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        shares = VoteHistory(images, labels)
        model.fit(images, labels, epochs=2, batch_size=2, verbose=0, callbacks=[shares])
        histories[name] = shares.history
    dead = {"dead/dense/kernel": [0.5, 0.5]}
    assert histories["ratio"] == {"voters/dense/kernel": [0.5, 0.5], **dead}
    assert histories["constant"] == {"voters/dense/kernel": [1.0, 1.0], **dead}
    assert histories["inverted"] == {"voters/dense/kernel": [0.5, 0.5], **dead}
