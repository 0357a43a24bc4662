"""Protocols: how long, in what batches and at what learning rate a network is trained, by data set."""

import math

NETWORK_OF_DATASET = {"mnist": "dense", "digits": "dense", "cifar10": "cifar10", "imagenette": "imagenette"}
STEPS = ((0.4, 0.5), (0.6, 0.2))  # share of the epochs, factor of the learning rate from then on

# Beyond the thesis: normalized pixels, a decaying learning rate, and scales that are rounded to nearest and learned as
# logarithms.
COMPACT = {
    "schedule": "cosine",
    "input_scale": 1 / 255,
    "rounding": "nearest",
    "parametrization": "log",
    "initial_scale": 0.01,
}
FRONTIER = {**COMPACT, "batch_size": 128, "holdout": 5000}
# Two cores train convolutions on small images, by TensorFlow's kernels, which are faster there.
ON_A_CPU = {"backend": "tensorflow"}
SMALL_IMAGES = {"image_size": 64, "backend": "tensorflow"}

# protocol: data set: the fields that it sets. `laptop` and `smoke` keep the thesis's product of learning rate and
# steps, which bounds how far a scale can travel under Adam.
PROTOCOLS: dict[str, dict[str, dict]] = {
    "thesis": {
        "mnist": {"epochs": 20, "batch_size": 32, "learning_rate": 1e-4},
        "cifar10": {"epochs": 100, "batch_size": 128, "learning_rate": 1e-4},
        "imagenette": {
            "epochs": 100,
            "batch_size": 64,
            "learning_rate": 1e-4,
            "schedule": "steps",
            "image_size": 224,
        },
    },
    "laptop": {
        "mnist": {"epochs": 1, "batch_size": 32, "learning_rate": 2e-3},
        "cifar10": {"epochs": 5, "batch_size": 128, "learning_rate": 2e-3, **ON_A_CPU},
        "imagenette": {
            "epochs": 10,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "schedule": "steps",
            **SMALL_IMAGES,
        },
    },
    "compact": {
        "mnist": {"epochs": 60, "batch_size": 128, "learning_rate": 4e-3, **COMPACT},
        "cifar10": {"epochs": 12, "batch_size": 128, "learning_rate": 2e-3, **ON_A_CPU, **COMPACT},
        "imagenette": {"epochs": 10, "batch_size": 64, "learning_rate": 1e-3, **SMALL_IMAGES, **COMPACT},
        "digits": {"epochs": 40, "batch_size": 32, "learning_rate": 5e-3, **COMPACT, "input_scale": 1 / 16},
    },
    # Networks of the field's tables, each under a protocol of its name; 5,000 training images choose.
    "lenet_300_100": {"mnist": {**FRONTIER, "network": "lenet_300_100", "epochs": 45, "learning_rate": 4e-3}},
    "lenet_5_caffe": {
        "mnist": {
            **FRONTIER,
            **ON_A_CPU,
            "network": "lenet_5_caffe",
            "epochs": 50,
            "learning_rate": 3e-3,
            "batch_size": 512,
        },
    },
    "resnet_20": {
        "cifar10": {**FRONTIER, "network": "resnet_20", "epochs": 100, "learning_rate": 2e-3, "image_size": 32},
    },
    "smoke": {"digits": {"epochs": 10, "batch_size": 32, "learning_rate": 8e-3}},
}


def protocol_fields(protocol, dataset):
    """Return the fields of a configuration that a protocol sets for a data set, `{name: value}`.

    Raises:
        ValueError: if the protocol is unknown, or not defined for the data set.

    Example:

    >>> protocol_fields("laptop", "mnist")
    {'epochs': 1, 'batch_size': 32, 'learning_rate': 0.002}
    """
    if dataset not in PROTOCOLS.get(protocol, {}):
        known = {name: sorted(datasets) for name, datasets in PROTOCOLS.items()}
        raise ValueError(
            f"Arguments `protocol` and `dataset` must be among {known}. "
            f"Received: protocol={protocol!r}, dataset={dataset!r}"
        )
    return PROTOCOLS[protocol][dataset]


def scheduled_learning_rate(training, epoch):
    """Return the learning rate of an epoch, counted from 0.

    Args:
        training: `study.configs.Training`; its `schedule` is `"constant"`, `"steps"` (times 0.5 after 40 % of the
            epochs, and times 0.2 more after 60 %) or `"cosine"` (nearly to zero along half a cosine).
        epoch: number of epochs that are over.

    Example: the thesis's steps for Imagenette, at epochs 40 and 60 of 100.

    >>> from study.configs import make_config
    >>> training = make_config("imagenette", "float").training
    >>> [f"{scheduled_learning_rate(training, epoch):.1e}" for epoch in (39, 40, 59, 60)]
    ['1.0e-04', '5.0e-05', '5.0e-05', '1.0e-05']
    """
    factor = 1.0
    if training.schedule == "steps":
        factor = math.prod(step for share, step in STEPS if epoch >= share * training.epochs)
    elif training.schedule == "cosine":
        factor = 0.5 + 0.5 * math.cos(math.pi * epoch / training.epochs)
    return factor * training.learning_rate
