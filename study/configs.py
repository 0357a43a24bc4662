"""Configurations: everything that determines one training run, and the identity derived from it.

A `Config` has parts: `data`, `quantizer` and `training`. In a run record, in the grid's `overrides` and in tables all
fields are side by side, under the same names: the *flat* form.
"""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator, field_validator, model_validator

from study.methods import METHODS
from study.protocols import NETWORK_OF_DATASET, protocol_fields

# field of the flat form, in the order of records: the part that it is in
PART_OF_FIELD = {
    "dataset": "data",
    "network": None,
    "method": "quantizer",
    "strength": "quantizer",
    "granularity": "quantizer",
    "regime": None,
    "seed": None,
    "protocol": None,
    "epochs": "training",
    "batch_size": "training",
    "learning_rate": "training",
    "rounding": "quantizer",
    "update_stalled": "quantizer",
    "epsilon": "training",
    "backend": None,
    "schedule": "training",
    "image_size": "data",
    "input_scale": "data",
    "parametrization": "quantizer",
    "initial_scale": "quantizer",
    "code": "quantizer",
    "target_ratio": "quantizer",
    "bits": "quantizer",
    "precision": "training",
    "distillation": "training",
    "holdout": "data",
    "l2": "training",
}


def _as_it_came(value, validate):
    validate(value)
    return value


# An integer stays one: the digest of an id tells 150 from 150.0.
Number = Annotated[float, Field(ge=0, allow_inf_nan=False), WrapValidator(_as_it_came)]
Count = Annotated[int, Field(ge=1)]
Granularity = Literal["scalar", "row", "column", "channel", "filter"]
Regime = Literal["scratch", "pretrained"]


class Part(BaseModel):
    """Base: values are of the type that is asked for, not converted to it; they cannot be changed."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Data(Part):
    """What is trained on.

    Attributes:
        dataset: name of a data set of `study.datasets`.
        image_size: height and width of the images, which are augmented; `None` for the data set's own, as they are.
        input_scale: factor of the pixel values, which are at most 255.
        holdout: how many training examples validate in place of the test set, which is then asked once, at the end;
            `None` for the thesis's way, where the test set validates.
    """

    dataset: str
    image_size: Count | None = None
    input_scale: Number = 1.0
    holdout: Count | None = None


class Quantizer(Part):
    """How parameters are quantized.

    Attributes:
        method: a name of `study.methods`, such as `"nested"`, or `"float"`.
        strength: the number that a curve of the grid sweeps. What it is depends on the method, and
            `study.methods.strength_name` tells it: the threshold (lambda) of `nested`, the rate (gamma) of a loss term,
            the probability of `quant_noise`; 0 if the method has no such number.
        granularity: of the kernels; biases are always `"scalar"`.
        rounding, parametrization, initial_scale: of `lqs.NestedQuantization`.
        bits: width of the integers, `None` for unbounded ones, or where the method has its own.
        update_stalled: whether scales whose elements are all sensitive still grow (`lqs.GradientRatio`).
        code: of `lqs.CodeLengthPenalty`.
        target_ratio: `None`, or how many times smaller than its float32 parameters the file is to be, for
            `lqs.TargetSize`, which then moves the strength.
    """

    method: str = Field(json_schema_extra={"enum": list(METHODS)})
    strength: Number = 0.0
    granularity: Granularity = "scalar"
    rounding: Literal["floor", "nearest"] = "floor"
    bits: Annotated[int, Field(ge=2, le=24)] | None = None
    parametrization: Literal["linear", "log"] = "linear"
    initial_scale: Number = 100 * 2**-23
    update_stalled: bool = True
    code: Literal["geometric", "elias"] = "geometric"
    target_ratio: Number | None = None

    @field_validator("method")
    @classmethod
    def _is_known(cls, method):
        if method not in METHODS:
            raise ValueError(f"must be one of {METHODS}")
        return method


class Training(Part):
    """How the network is trained.

    Attributes:
        epochs, batch_size: as in `keras.Model.fit`.
        learning_rate, epsilon: of Adam.
        schedule: of the learning rate, see `study.protocols.scheduled_learning_rate`.
        precision: of the factors of matrix products and convolutions: `"float32"`, or `"tensorfloat32"`, which lets a
            GPU round them to 10 bits; for the backend JAX.
        distillation: share of the float network's answers in the labels (Hinton et al. 2015, arXiv 1503.02531).
        l2: rate of a further loss term, `l2 * sum(kernel ** 2)` over the real-valued kernels.
    """

    epochs: Count
    batch_size: Count
    learning_rate: Number
    schedule: Literal["constant", "steps", "cosine"] = "constant"
    epsilon: Number = 1e-7
    precision: Literal["float32", "tensorfloat32"] = "float32"
    distillation: Annotated[float, Field(ge=0, le=1), WrapValidator(_as_it_came)] = 0.0
    l2: Number = 0.0


class Config(Part):
    """One training run. Make it by `make_config`, which fills in the protocol's values.

    Attributes:
        data: see `Data`.
        network: name of a network of `study.networks`.
        quantizer: see `Quantizer`.
        training: see `Training`.
        regime: `"scratch"`, or `"pretrained"`: starting from the float network of the same seed.
        seed: of initial weights and batch order.
        protocol: name of the protocol that most fields of `training` come from.
        backend: Keras backend, since the same seed gives other random numbers on another one.
    """

    data: Data
    network: str
    quantizer: Quantizer
    training: Training
    regime: Regime
    seed: int
    protocol: str
    backend: Literal["jax", "tensorflow"] = "jax"

    @model_validator(mode="after")
    def _fits_together(self):
        if self.training.precision != "float32" and self.backend != "jax":
            raise ValueError(
                f"Argument `precision` must be 'float32' on the backend {self.backend!r}. "
                f"Received: precision={self.training.precision!r}"
            )
        if self.training.distillation and self.data.image_size is not None:
            raise ValueError(
                "Argument `distillation` must be 0 where images are augmented. "
                f"Received: distillation={self.training.distillation!r}, image_size={self.data.image_size!r}"
            )
        return self

    @classmethod
    def from_flat(cls, fields):
        """Return the configuration with the given fields, `{name: value}`, those of all parts side by side.

        Raises:
            ValueError: that names each field that is unknown, missing or invalid.
        """
        nested: dict[str, Any] = {"data": {}, "quantizer": {}, "training": {}}
        for name, value in fields.items():
            part = PART_OF_FIELD.get(name)
            (nested[part] if part else nested)[name] = value
        try:
            return cls.model_validate(nested)
        except ValidationError as error:
            raise ValueError(explain(error)) from None

    def flat(self):
        """Return all fields side by side, `{name: value}`, as a run record has them."""
        parts = {None: self, "data": self.data, "quantizer": self.quantizer, "training": self.training}
        return {name: getattr(parts[part], name) for name, part in PART_OF_FIELD.items()}

    def replace(self, **fields):
        """Return a copy with other values of some fields, of whatever part.

        Example:

        >>> make_config("mnist", "nested").replace(epochs=3, bits=8).training.epochs
        3
        """
        return self.from_flat({**self.flat(), **fields})

    @property
    def id(self):
        """Readable name, unique by a digest of the fields.

        Fields at their default are left out of the digest, so that a field added later changes no id.
        """
        fields = {name: value for name, value in self.flat().items() if value != _DEFAULTS.get(name, ...)}
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]
        quantizer = self.quantizer
        parts = [self.protocol, quantizer.method, quantizer.granularity, f"{quantizer.strength:g}", self.regime]
        return "-".join([*parts, f"s{self.seed}", digest])


# Fields that are in every digest, although their parts have a default.
_ALWAYS = ("strength", "granularity")
_DEFAULTS = {
    name: field.default
    for part in (Data, Quantizer, Training, Config)
    for name, field in part.model_fields.items()
    if not field.is_required() and name not in _ALWAYS
}


def explain(error):
    """Return what a pydantic error says, in the form of our own: a line for each argument that is wrong.

    Example:

    >>> try:
    ...     Data.model_validate({"dataset": "mnist", "image_size": 0})
    ... except ValidationError as error:
    ...     print(explain(error))
    Argument `image_size` must be greater than or equal to 1. Received: image_size=0
    """
    return "\n".join(_explain(details) for details in error.errors())


def _explain(details):
    name = next((part for part in reversed(details["loc"]) if isinstance(part, str)), None)
    problem = details["msg"].removeprefix("Value error, ")
    if name is None:  # of the whole: it names its arguments itself
        return problem
    if details["type"] == "missing":
        return f"Argument `{name}` is required."
    if details["type"] == "extra_forbidden":
        problem = "is unknown"
    problem = problem.replace("Input should", "must", 1)
    return f"Argument `{name}` {problem}. Received: {name}={details['input']!r}"


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

    The arguments are fields of `Config` and its parts; `overrides` are any further ones, such as `epsilon`.

    Raises:
        ValueError: if a name is unknown, a number out of range, or the protocol not defined for the dataset.

    Example:

    >>> make_config("mnist", "nested", 1e-10, "row").id
    'thesis-nested-row-1e-10-scratch-s42-...'
    """
    protocol_values = protocol_fields(protocol, dataset)
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
    return Config.from_flat({**fields, **protocol_values, **overrides})


def float_config(config):
    """Return the configuration of the float baseline of `config`: same network, protocol, seed and backend."""
    kept = {"network", "epochs", "batch_size", "learning_rate", "epsilon", "backend", "schedule"}
    kept |= {"image_size", "input_scale", "precision", "l2", "holdout"}
    overrides = {name: value for name, value in config.flat().items() if name in kept}
    return make_config(config.data.dataset, "float", seed=config.seed, protocol=config.protocol, **overrides)
