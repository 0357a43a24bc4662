"""The nested quantization layer: a layer whose input is a parameter tensor of another layer."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from lqs._keras import ForgetsLosses, get_stateless_scope, is_concrete, leave_undecayed
from lqs.granularity import Granularity, sharing_axes, validate_granularity
from lqs.parts import Tensor
from lqs.penalties import Penalty, validate_penalty
from lqs.rounding import NamedRounding, Rounding, validate_rounding
from lqs.rules import Frozen, GradientRatio, Rule, as_rule
from lqs.scales import Scale, validate_initial_scale, validate_parametrization
from lqs.strengths import strength_value


@keras.saving.register_keras_serializable("lqs")
class NestedQuantization(ForgetsLosses):
    """Quantizes a parameter tensor with a learned scale (thesis, section 3.1).

    Forward, with `P` the input and `s` the trainable scale:

        P_q = round(P / s)         integers
        P_r = P_q * s              output, what the outer layer computes with

    Backward, with `L` the loss:

        dL/dP := dL/dP_r           straight-through estimator; 0 where clipped, if `bits` is given
                                   (a `Rounding` may have another one)
        dL/ds := rule(...)         see `lqs.rules`

    plus the gradient of the penalty, if there is one, to both. A `Rounding` may have integers stand for other values
    than themselves; these then take their place in the output and the rule.

    Args:
        granularity: axes along which `s` varies: `"scalar"`, `"row"`, `"column"`, `"channel"`, `"filter"`,
            `"output"` or a tuple of axes. See `lqs.granularity.varying_axes`.
        rule: gradient of the scale: `GradientRatio`, `StraightThrough`, `Frozen` or a function, which has to be
            registered by `keras.saving.register_keras_serializable` if the model is to be loaded; or
            `lqs.rules.Measured`: no gradient, but a scale that is computed from the parameter. `None` stands for
            `GradientRatio()`. A penalty that measures the scale, such as WaveQ's, comes before.
        penalty: loss term: `MaxBinPenalty`, `InversePenalty`, `DifferencePenalty`, `CodeLengthPenalty`, or another
            `Penalty`, or `None`.
        rounding: `"floor"` (the thesis's), `"nearest"` or a `Rounding`.
        bits: `None` for unbounded integers (the thesis's), or the width of the signed integers to clip to.
        initial_scale: value of `s` before training, at least `100 * 2**-23`; or a name among `lqs.scales.MEASURES`,
            such as `"lsq"`, to compute it from the initial values of the parameter. `None` stands for `100 * 2**-23`
            (the thesis's), and with `bits`, where that would clip everything, for `"max"`.
        parametrization: `"linear"`, the trainable weight is `s` itself (the thesis's), or `"log"`, it is `log s`: a
            step of the optimizer then changes a scale by a factor, whatever its size. `None` stands for `"log"` with
            `bits` and a rounding that has a name, else for `"linear"`. A scale that is measured is kept as it is.
        share: weight of this parameter among all of a model in the term of the penalty. `lqs.quantize` sets it, to the
            share of the elements; `None` stands for 1, until it is set.

    The weights of this layer are left out of the weight decay of optimizers.

    Attributes:
        scale_weight: the trainable weight, `s` or `log s`.

    Input shape:
        Any; the parameter's, fixed at `build`.

    Raises:
        ValueError: if an argument is not as above, the parameter's rank does not admit the granularity, or the
            parameter is not of a float dtype.

    Example:

    >>> import numpy as np
    >>> layer = NestedQuantization("row", initial_scale=0.5)
    >>> parameter = np.array([[0.7, -0.1], [1.2, 0.2]], "float32")
    >>> np.asarray(layer(parameter)).tolist()
    [[0.5, -0.5], [1.0, 0.0]]
    >>> np.asarray(layer.integers(parameter)).tolist()
    [[1, -1], [2, 0]]
    """

    def __init__(
        self,
        granularity: Granularity = "scalar",
        rule: Any = None,
        penalty: Penalty | None = None,
        rounding: str | Rounding = "floor",
        bits: int | None = None,
        initial_scale: float | str | None = None,
        parametrization: str | None = None,
        share: float | None = None,
        **kwargs: Any,
    ) -> None:
        # The arithmetic is in float32 at least, also under a mixed-precision policy.
        super().__init__(autocast=False, **kwargs)
        self.dtype_policy = self.variable_dtype
        self.granularity = validate_granularity(granularity)
        self.rule = GradientRatio() if rule is None else rule
        self.penalty = validate_penalty(penalty)
        self.rounding = validate_rounding(rounding)
        self.bits = bits
        # Those that stand for a function or a name are not tracked: they have no weights.
        self._parts = _Parts(as_rule(self.rule), NamedRounding(rounding) if isinstance(rounding, str) else rounding)
        self.levels: Any = self._rounding.levels_of(bits)
        for part in (self._rule, self.penalty):
            if part is not None:
                part.validate_levels(self.levels)
        self.initial_scale = validate_initial_scale(initial_scale, self.levels)
        self.parametrization = validate_parametrization(parametrization, bits is not None and isinstance(rounding, str))
        self.share = share
        self._lacks_values = False  # which depend on those of a parameter

    def build(self, input_shape: Any) -> None:
        """Create the weight of the scale, of the shape of `input_shape` with size 1 on the shared axes."""
        shape = self.parameter_shape = tuple(input_shape)
        axes = self.sharing_axes = sharing_axes(self.granularity, len(shape))
        parts = [part for part in (self.penalty, self._rule, self._rounding) if part is not None]
        measure = next((part.measured_scale for part in parts if part.measures_scale), None)
        names = self.granularity, shape, self.levels, self.initial_scale, self.parametrization
        self._scale = Scale(self, *names, measure)
        for part in parts:
            part.build(shape, axes, self.levels)
        for weight in self.weights:
            leave_undecayed(weight)
        self._lacks_values = self._scale.follows_parameter or self._rounding.follows_parameter

    def build_for(self, variable: keras.Variable) -> None:
        """Build for a variable, from whose value the scale and the weights of the rounding get theirs.

        Within a stateless call no variable has a value yet. Those of a layer without a `build` of its own are made in
        such a call: theirs follow at its first call with values. So it is in `lqs.load`, which then loads them.
        """
        self.build(variable.shape)
        if get_stateless_scope() is None:
            self.initialize(variable.value)

    def initialize(self, parameter: Tensor) -> None:
        """Compute initial values of the scale and of the weights of the rounding from those of the parameter."""
        parameter = _in_float32_at_least(ops.convert_to_tensor(parameter))
        self._scale.initialize(parameter, self._rounding.clips)
        self._scale.warn_of_loss(parameter, self._rounding.clips)
        self._rounding.initialize(parameter, ops.cast(self.scale, parameter.dtype))
        self._lacks_values = False

    @property
    def _rule(self) -> Rule:
        return self._parts.rule

    @property
    def _rounding(self) -> Rounding:
        return self._parts.rounding

    @property
    def scale_weight(self) -> keras.Variable:
        """The variable that holds the scale, or its logarithm."""
        return self._scale.weight

    @property
    def scale(self) -> Tensor:
        """The scale `s`, of the rank of the parameter."""
        return self._scale.value

    @property
    def is_scale_learned(self) -> bool:
        """Whether the scale is learned, and not measured on the parameter."""
        return self._scale.measure is None

    @property
    def is_scale_trained(self) -> bool:
        """Whether training is to change the scale."""
        rule, penalty = self._rule, self.penalty
        is_frozen = isinstance(rule, Frozen) or (isinstance(rule, GradientRatio) and not strength_value(rule.threshold))
        is_free = penalty is None or not strength_value(penalty.rate)
        return self.is_scale_learned and self.scale_weight.trainable and not (is_frozen and is_free)

    @property
    def is_scale_initial(self) -> bool:
        """Whether the scale still has the value that it was given; one that was measured is not known to."""
        return self._scale.is_initial

    @property
    def codebook(self) -> Tensor:
        """What the integers from the lowest on stand for, in units of the scale; `None`: themselves."""
        return self._rounding.codebook

    @property
    def size(self) -> int:
        """Number of elements of the parameter, `#P`."""
        return math.prod(self.parameter_shape)

    def scale_weight_of(self, scale: np.ndarray) -> np.ndarray:
        """Return the value of `scale_weight` with which `scale` is the given array, bit for bit if there is one."""
        return self._scale.weight_of(scale)

    @property
    def exact_scale(self) -> np.ndarray:
        """The scale as an array; after `lqs.load` the one in the file, bit for bit, until training changes it."""
        return self._scale.exact

    def call(self, parameter: Tensor, training: bool | None = None) -> Tensor:
        """Return `P_r`, of the shape and dtype of `parameter`; in training, measure the scale and draw noise."""
        _validate_float(parameter)
        dtype, parameter = parameter.dtype, _in_float32_at_least(_read_once(parameter))
        if self._lacks_values:
            self._initialize_at_first_call(parameter)
        if training:
            self._scale.follow(parameter)
        scale, rounding = ops.cast(_read_once(self.scale), parameter.dtype), self._rounding
        if self.penalty is not None and not self.losses:  # a layer called twice has its parameters once
            self.add_loss(self._weighted_penalty(parameter, scale))
        integers = rounding.training_integers(parameter, scale) if training else rounding.integers(parameter, scale)
        integers = ops.stop_gradient(integers)
        values = rounding.values(integers, parameter, ops.stop_gradient(scale))
        return ops.cast(self._reconstruct(parameter, scale, values), dtype)

    def integers(self, parameter: Tensor) -> Tensor:
        """Return `P_q` as an int32 tensor of the shape of `parameter`."""
        _validate_float(parameter)
        parameter = _in_float32_at_least(ops.convert_to_tensor(parameter))
        if not self.built:
            self.build(parameter.shape)
        if self._lacks_values:
            self._initialize_at_first_call(parameter)
        return ops.cast(self._rounding.integers(parameter, ops.cast(self.scale, parameter.dtype)), "int32")

    def parameter_of(self, integers: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return NumPy's array of a parameter that has these integers with this scale, far from where others begin."""
        return self._rounding.parameter_of(integers, scale)

    def copy(self, **changes: Any) -> "NestedQuantization":
        """Return an unbuilt layer of the same configuration but for `changes`, as `lqs.quantize` makes.

        Strengths have their present values.
        """
        rule = keras.saving.serialize_keras_object(self.rule) if isinstance(self.rule, Rule) else self.rule
        return type(self).from_config({**self._config(rule), "name": None, **changes})

    def get_config(self) -> dict[str, Any]:
        return self._config(keras.saving.serialize_keras_object(self.rule))

    def _config(self, rule: Any) -> dict[str, Any]:
        config = {
            # JSON has no tuples.
            "granularity": self.granularity if isinstance(self.granularity, str) else list(self.granularity),
            "rule": rule,
            "penalty": keras.saving.serialize_keras_object(self.penalty),
            "rounding": keras.saving.serialize_keras_object(self.rounding),
            "bits": self.bits,
            "initial_scale": self.initial_scale,
        }
        # Files of models that have the defaults stay as small as they were before there was another value.
        optional = {"parametrization": (self.parametrization, "linear"), "share": (self.share, None)}
        config |= {key: value for key, (value, default) in optional.items() if value != default}
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "NestedQuantization":
        parts = {key: config[key] for key in ("rule", "penalty", "rounding") if not callable(config[key])}
        made = {key: keras.saving.deserialize_keras_object(part) for key, part in parts.items()}
        return cls(**{"parametrization": "linear", **config, **made})

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        self._lacks_values = False

    def _initialize_at_first_call(self, parameter: Tensor) -> None:
        """Give values to what lacks them, at the first call outside of a compiled function."""
        scope = get_stateless_scope()
        if scope is None and is_concrete(parameter):
            self.initialize(parameter)
        elif scope is None or scope.get_current_value(self.scale_weight) is not None:
            raise ValueError(
                f"Layer {self.name!r} computes its first scale from the values of its parameter, of the shape "
                f"{self.parameter_shape}: before training, build it by `build_for(variable)`, or call it once."
            )

    def _weighted_penalty(self, parameter: Tensor, scale: Tensor) -> Tensor:
        assert self.penalty is not None
        share = 1.0 if self.share is None else self.share
        return ops.multiply(self.penalty.rate, share) * ops.cast(self.penalty.term(parameter, scale), "float32")

    def _reconstruct(self, parameter: Tensor, scale: Tensor, values: Tensor) -> Tensor:
        """Return `P_r`, the product of values and scale, with its gradients."""

        @ops.custom_gradient
        def reconstruct(parameter: Tensor, scale: Tensor, values: Tensor) -> Tensor:
            def gradient(*args: Any, upstream: Tensor = None) -> Tensor:
                upstream = args[-1] if upstream is None else upstream
                scale_gradient = self._rule.scale_gradient(upstream, parameter, values, scale)
                scale_gradient = ops.reshape(ops.cast(scale_gradient, scale.dtype), scale.shape)
                return self._rounding.parameter_gradient(upstream, parameter, scale), scale_gradient, upstream * scale

            return values * scale, gradient

        return reconstruct(parameter, scale, values)


@dataclasses.dataclass
class _Parts:
    rule: Rule
    rounding: Rounding


def _read_once(variable: Tensor) -> Tensor:
    """Return the value of a variable, for the forward and the backward pass.

    A read for the backward pass alone TensorFlow may carry out after the optimizer's update: its graph optimizer drops
    the edge between them, since there is a path by way of the `IdentityN` of a custom gradient, which it then removes.
    PyTorch assigns in place: a scale that is measured in a second call of its layer would change under the backward
    pass of the first, which PyTorch refuses.
    """
    return ops.convert_to_tensor(variable) if keras.backend.backend() == "jax" else ops.copy(variable)


def _in_float32_at_least(parameter: Tensor) -> Tensor:
    """Return the tensor in float32 if it is of half precision, where dividing by a small scale overflows."""
    is_half = keras.backend.standardize_dtype(parameter.dtype) in ("float16", "bfloat16")
    return ops.cast(parameter, "float32") if is_half else parameter


def _validate_float(parameter: Tensor) -> None:
    dtype = keras.backend.standardize_dtype(parameter.dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise ValueError(f"Argument `parameter` must be of a float dtype. Received: dtype={dtype}")
