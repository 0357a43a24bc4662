"""Configurations: everything that determines one training run, and the identity derived from it."""

import dataclasses
import hashlib
import json
import math
from typing import NamedTuple

from lqs.granularity import GRANULARITIES
from lqs.penalties import CODES
from lqs.quantizer import MIN_SCALE, PARAMETRIZATIONS
from lqs.rounding import signed_levels

COMPACT = {
    "schedule": "cosine",
    "input_scale": 1 / 255,
    "rounding": "nearest",
    "parametrization": "log",
    "initial_scale": 0.01,
}
# protocol: dataset: the fields that it fixes. `laptop` and `smoke` keep the thesis's product of learning rate and
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
        "cifar10": {"epochs": 5, "batch_size": 128, "learning_rate": 2e-3, "backend": "tensorflow"},
        "imagenette": {
            "epochs": 10,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "schedule": "steps",
            "image_size": 64,
            "backend": "tensorflow",
        },
    },
    # Beyond the thesis: normalized pixels, a decaying learning rate, and scales that
    # are rounded to nearest and learned as logarithms.
    "compact": {
        "mnist": {"epochs": 60, "batch_size": 128, "learning_rate": 4e-3, **COMPACT},
        "cifar10": {"epochs": 12, "batch_size": 128, "learning_rate": 2e-3, "backend": "tensorflow", **COMPACT},
        "imagenette": {
            "epochs": 10,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "image_size": 64,
            "backend": "tensorflow",
            **COMPACT,
        },
        "digits": {"epochs": 40, "batch_size": 32, "learning_rate": 5e-3, **COMPACT, "input_scale": 1 / 16},
    },
    "smoke": {"digits": {"epochs": 10, "batch_size": 32, "learning_rate": 8e-3}},
}
NETWORK_OF_DATASET = {"mnist": "dense", "digits": "dense", "cifar10": "cifar10", "imagenette": "imagenette"}
SCHEDULES = ("constant", "steps", "cosine")
REGIMES = ("scratch", "pretrained")
PRECISIONS = ("float32", "tensorfloat32")


class Method(NamedTuple):
    """How the quantizer of a method is made, by names among those of `study.training`.

    Attributes:
        rule: of the scale, `None` for a float network.
        penalty: the loss term, or `None`.
        rounding: `None` for that of the configuration.
        initial_scale: a name of `lqs.scales`, `None` for the number of the configuration.
        bits: whether the configuration must have `bits`: `"optional"`, `"required"` or `"none"`.
        biases: whether the biases are quantized too.
    """

    rule: str | None
    penalty: str | None = None
    rounding: str | None = None
    initial_scale: str | None = None
    bits: str = "optional"
    biases: bool = True


# The thesis's methods and ours. The strength is the rule's threshold for `nested`, the penalty's rate otherwise.
METHODS = {
    "float": Method(None, bits="none"),
    "nested": Method("gradient_ratio"),
    "max_bin": Method("frozen", "max_bin"),
    "inverse": Method("frozen", "inverse"),
    "difference": Method("frozen", "difference"),
    "code_length": Method("straight_through", "code_length"),
}
# Published methods, for the weights of every layer; biases stay in float, as in the papers. The strength is a penalty's
# rate, the probability of `quant_noise`, or the threshold of `deep_compression`. `binary_connect`, `dorefa` and `qil`
# have a fixed scale: in the papers 1, before batch normalization; here, where there is none, that of the initial
# weights. Most penalties were published for float weights that are rounded at the end; here the network is trained as
# it will be used, with rounded weights.
_BITS: dict = {"bits": "required", "biases": False}
_NO_BITS: dict = {"bits": "none", "biases": False}
FIELD = {
    "min_max": Method("measured_max", **_BITS),
    "lsq": Method("lsq", initial_scale="lsq", **_BITS),
    "dorefa": Method("frozen", None, "dorefa", "max", **_BITS),
    "stochastic": Method("measured_max", None, "stochastic", **_BITS),
    "quant_noise": Method("measured_max", None, "quant_noise", **_BITS),
    "binary_connect": Method("frozen", None, "binary_connect", "max", **_NO_BITS),
    "xnor": Method("measured_mean", None, "xnor", **_NO_BITS),
    "twn": Method("measured_ternary", None, "twn", **_NO_BITS),
    "tang": Method("frozen", "tang", "binary_connect", "max", **_NO_BITS),
    "sinreq": Method("measured_max", "sinreq", **_BITS),
    "msqe": Method("frozen", "msqe", initial_scale="lsq", **_BITS),
    "deep_hoyer": Method("measured_max", "deep_hoyer", **_BITS),
    "ttq": Method("frozen", None, "ttq", "max", **_NO_BITS),
    "lq_nets": Method("frozen", None, "lq_nets", "max", **_BITS),
    "qil": Method("frozen", None, "qil", "max", **_BITS),
    "waveq": Method("frozen", "waveq", **_NO_BITS),
    "deep_compression": Method("frozen", None, "deep_compression", "max", **_BITS),
}
QUANTIZERS = {**METHODS, **FIELD}


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run. Make it by `make_config`, which fills in the protocol's values.

    Attributes:
        dataset: name of a dataset of `study.datasets`.
        network: name of a network of `study.networks`.
        method: a name among `METHODS`, such as `"nested"`, or `FIELD`, such as `"lsq"`.
        strength: threshold `lam` of `nested`, rate `gamma` of a penalty, probability of `quant_noise`, threshold of
            `deep_compression` in standard deviations, otherwise 0.
        granularity: of the kernels; biases are always `"scalar"`.
        regime: `"scratch"`, or `"pretrained"`: starting from the float network of the same seed.
        seed: of initial weights and batch order.
        protocol: name of the protocol that `epochs`, `batch_size` and `learning_rate` come from.
        rounding: `"floor"` or `"nearest"`.
        update_stalled: whether scales whose elements are all sensitive still grow (`lqs.GradientRatio`).
        epsilon: Adam's.
        backend: Keras backend, since the same seed gives other random numbers on another one.
        schedule: of the learning rate: `"constant"`, or `"steps"`: times 0.5 after 40 % of the epochs and times 0.2
            more after 60 %, or `"cosine"`: down to nearly zero along half a cosine, epoch by epoch.
        image_size: height and width of the images, `None` for the data set's own.
        input_scale: factor of the pixel values, which are at most 255.
        parametrization, initial_scale: of `lqs.NestedQuantization`.
        code: of `lqs.CodeLengthPenalty`.
        target_ratio: `None`, or how many times smaller than its float32 parameters the file is to be, for
            `lqs.TargetSize`, which then moves the strength.
        bits: width of the integers, `None` for unbounded ones, or where the method has its own.
        precision: of the factors of matrix products and convolutions: `"float32"`, or `"tensorfloat32"`, which lets a
            GPU round them to 10 bits; for the backend JAX.
        distillation: share of the float network's answers in the labels (Hinton et al. 2015, arXiv 1503.02531).
    """

    dataset: str
    network: str
    method: str
    strength: float
    granularity: str
    regime: str
    seed: int
    protocol: str
    epochs: int
    batch_size: int
    learning_rate: float
    rounding: str = "floor"
    update_stalled: bool = True
    epsilon: float = 1e-7
    backend: str = "jax"
    schedule: str = "constant"
    image_size: int | None = None
    input_scale: float = 1.0
    parametrization: str = "linear"
    initial_scale: float = MIN_SCALE
    code: str = "geometric"
    target_ratio: float | None = None
    bits: int | None = None
    precision: str = "float32"
    distillation: float = 0.0

    def __post_init__(self):
        choices = {
            "method": tuple(QUANTIZERS),
            "granularity": GRANULARITIES,
            "regime": REGIMES,
            "rounding": ("floor", "nearest"),
            "backend": ("jax", "tensorflow"),
            "schedule": SCHEDULES,
            "parametrization": PARAMETRIZATIONS,
            "code": tuple(CODES),
            "precision": PRECISIONS if self.backend == "jax" else PRECISIONS[:1],
        }
        for name, known in choices.items():
            received = getattr(self, name)
            if received not in known:
                raise ValueError(f"Argument `{name}` must be one of {known}. Received: {name}={received!r}")
        for name in ("strength", "learning_rate", "epsilon", "input_scale", "initial_scale", "target_ratio"):
            received = getattr(self, name)
            if name == "target_ratio" and received is None:
                continue
            if not isinstance(received, (int, float)) or not (math.isfinite(received) and received >= 0):
                raise ValueError(f"Argument `{name}` must be finite and >= 0. Received: {name}={received!r}")
        for name in ("epochs", "batch_size", "image_size"):
            received = getattr(self, name)
            if name == "image_size" and received is None:
                continue
            if not isinstance(received, int) or isinstance(received, bool) or received < 1:
                raise ValueError(f"Argument `{name}` must be a positive integer. Received: {name}={received!r}")
        if not (isinstance(self.distillation, (int, float)) and 0 <= self.distillation <= (self.image_size is None)):
            raise ValueError(
                "Argument `distillation` must be a share from 0 to 1, and 0 where images are augmented. "
                f"Received: distillation={self.distillation!r}, image_size={self.image_size!r}"
            )
        signed_levels(self.bits)  # raises an error of its own
        expected = self.quantizer.bits
        if expected != "optional" and (self.bits is not None) != (expected == "required"):
            wanted = "an integer" if expected == "required" else "None"
            raise ValueError(
                f"Argument `bits` must be {wanted} for the method {self.method!r}. Received: bits={self.bits!r}"
            )

    @property
    def quantizer(self):
        """The `Method`: how the quantizer is made."""
        return QUANTIZERS[self.method]

    @property
    def rule(self):
        """Name of the scale-update rule, `None` for a float network."""
        return self.quantizer.rule

    @property
    def penalty(self):
        """Name of the loss term, or `None`."""
        return self.quantizer.penalty

    @property
    def id(self):
        """Readable name, unique by a digest of the fields.

        Fields at their default are left out of the digest, so that a field added later changes no id.
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields = {f.name: fields[f.name] for f in dataclasses.fields(self) if fields[f.name] != f.default}
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]
        parts = [self.protocol, self.method, self.granularity, f"{self.strength:g}", self.regime]
        return "-".join([*parts, f"s{self.seed}", digest])


def make_config(
    dataset,
    method,
    strength=0.0,
    granularity="scalar",
    regime="scratch",
    seed=42,
    protocol="thesis",
    **overrides,
):
    """Return a `Config` with the values of its protocol.

    The arguments are fields of `Config`; `overrides` are any further ones, such as `epsilon` or `backend`.

    Raises:
        ValueError: if a name is unknown, a number out of range, or the protocol not defined for the dataset.

    Example:

    >>> make_config("mnist", "nested", 1e-10, "row").id
    'thesis-nested-row-1e-10-scratch-s42-...'
    """
    if dataset not in PROTOCOLS.get(protocol, {}):
        known = {name: sorted(datasets) for name, datasets in PROTOCOLS.items()}
        raise ValueError(
            f"Arguments `protocol` and `dataset` must be among {known}. "
            f"Received: protocol={protocol!r}, dataset={dataset!r}"
        )
    fields = {
        "dataset": dataset,
        "network": NETWORK_OF_DATASET[dataset],
        "method": method,
        "strength": float(strength),
        "granularity": granularity,
        "regime": regime,
        "seed": seed,
        "protocol": protocol,
    }
    return Config(**{**fields, **PROTOCOLS[protocol][dataset], **overrides})


def float_config(config):
    """Return the configuration of the float baseline of `config`: same network, protocol, seed and backend."""
    kept = ("epochs", "batch_size", "learning_rate", "epsilon", "backend", "schedule", "image_size", "input_scale")
    overrides = {name: getattr(config, name) for name in (*kept, "precision")}
    return make_config(config.dataset, "float", seed=config.seed, protocol=config.protocol, **overrides)
