"""Tests of `study.protocols`: what the thesis and its short versions say, and the schedules of the learning rate."""

import math

import pytest

from study.configs import make_config
from study.networks import NETWORKS
from study.protocols import PROTOCOLS, protocol_fields, scheduled_learning_rate


@pytest.mark.parametrize(
    "protocol, dataset, values",
    [
        ("thesis", "mnist", {"epochs": 20, "batch_size": 32, "learning_rate": 1e-4}),
        ("thesis", "cifar10", {"epochs": 100, "batch_size": 128, "learning_rate": 1e-4}),
        (
            "thesis",
            "imagenette",
            {"epochs": 100, "batch_size": 64, "learning_rate": 1e-4, "schedule": "steps", "image_size": 224},
        ),
        ("laptop", "mnist", {"epochs": 1, "batch_size": 32, "learning_rate": 2e-3, "backend": "jax"}),
        ("laptop", "cifar10", {"epochs": 5, "batch_size": 128, "learning_rate": 2e-3, "backend": "tensorflow"}),
        (
            "laptop",
            "imagenette",
            {"epochs": 10, "batch_size": 64, "learning_rate": 1e-3, "schedule": "steps", "image_size": 64},
        ),
        ("smoke", "digits", {"epochs": 10, "batch_size": 32, "learning_rate": 8e-3}),
        ("lenet_300_100", "mnist", {"epochs": 45, "batch_size": 128, "learning_rate": 4e-3, "schedule": "cosine"}),
        ("lenet_5_caffe", "mnist", {"epochs": 50, "batch_size": 512, "learning_rate": 3e-3, "schedule": "cosine"}),
        ("resnet_20", "cifar10", {"epochs": 100, "batch_size": 128, "learning_rate": 2e-3, "image_size": 32}),
    ],
)
def test_protocol_fills_in_its_values(protocol, dataset, values):
    config = make_config(dataset, "float", protocol=protocol)
    assert {name: config.flat()[name] for name in values} == values
    own = {"mnist": "dense", "digits": "dense"}.get(dataset, dataset)
    network = protocol if protocol in NETWORKS else own
    assert (config.network, config.protocol) == (network, protocol)


@pytest.mark.parametrize("protocol, dataset", [(p, d) for p in NETWORKS for d in PROTOCOLS.get(p, ())])
def test_protocol_of_a_network_holds_images_out_and_scales_pixels(protocol, dataset):
    data = make_config(dataset, "float", protocol=protocol).data
    assert (data.holdout, data.input_scale) == (5000, 1 / 255)


@pytest.mark.parametrize("dataset", PROTOCOLS["laptop"])
def test_laptop_protocol_keeps_the_product_of_learning_rate_and_epochs(dataset):
    thesis, laptop = (make_config(dataset, "float", protocol=name).training for name in ("thesis", "laptop"))
    assert laptop.epochs * laptop.learning_rate == pytest.approx(thesis.epochs * thesis.learning_rate)
    assert (laptop.batch_size, laptop.schedule) == (thesis.batch_size, thesis.schedule)  # so steps are as epochs


@pytest.mark.parametrize("dataset, protocol", [("digits", "thesis"), ("imagenette", "smoke"), ("mnist", "quick")])
def test_protocol_without_the_dataset(dataset, protocol):
    message = f"must be among .*'thesis'.* Received: protocol='{protocol}', dataset='{dataset}'"
    with pytest.raises(ValueError, match=message):
        protocol_fields(protocol, dataset)


@pytest.mark.parametrize("protocol, steps", [("thesis", (40, 60)), ("laptop", (4, 6))])
def test_learning_rate_falls_at_two_fifths_and_three_fifths_of_the_epochs(protocol, steps):
    training = make_config("imagenette", "float", protocol=protocol).training
    rates = [scheduled_learning_rate(training, epoch) for epoch in range(training.epochs)]
    first, second = steps
    factors = [1.0] * first + [0.5] * (second - first) + [0.1] * (training.epochs - second)
    assert rates == pytest.approx([training.learning_rate * factor for factor in factors])


def test_learning_rate_is_constant_without_a_schedule():
    training = make_config("mnist", "float").training
    assert {scheduled_learning_rate(training, epoch) for epoch in range(training.epochs)} == {1e-4}


def test_learning_rate_falls_along_half_a_cosine():
    training = make_config("mnist", "float", schedule="cosine", epochs=4, learning_rate=1.0).training
    expected = [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]
    assert [scheduled_learning_rate(training, epoch) for epoch in range(4)] == pytest.approx(expected)
