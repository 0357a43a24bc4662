"""The nested quantization layer: a layer whose input is a parameter tensor of another layer."""

import math
import weakref

import keras
import numpy as np
from keras import ops
from keras.src.backend.common.stateless_scope import get_stateless_scope  # has no public name

from lqs.granularity import scale_shape, sharing_axes, validate_granularity
from lqs.penalties import validate_penalty
from lqs.rounding import get_rounding, validate_rounding
from lqs.rules import FLOAT32_EPSILON, GradientRatio, Measured, MinValue, Rule, get_rule
from lqs.scales import MEASURES, get_measure

MIN_SCALE = 100 * FLOAT32_EPSILON
PARAMETRIZATIONS = ("linear", "log")


@keras.saving.register_keras_serializable("lqs")
class NestedQuantization(keras.layers.Layer):
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
        granularity: axes along which `s` varies: `"scalar"`, `"row"`, `"column"`, `"channel"`, `"filter"` or a
            tuple of axes. See `lqs.granularity.varying_axes`.
        rule: gradient of the scale: `GradientRatio`, `StraightThrough`, `Frozen` or a function, which has to be
            registered by `keras.saving.register_keras_serializable` if the model is to be loaded; or `Measured`: no
            gradient, but a scale that is computed from the parameter. `None` stands for `GradientRatio()`. A penalty
            that gives the scale, `WaveQPenalty`, comes before.
        penalty: loss term: `MaxBinPenalty`, `InversePenalty`, `DifferencePenalty`, `CodeLengthPenalty`, or another
            `Penalty`, or `None`.
        rounding: `"floor"` (the thesis's), `"nearest"` or a `Rounding`.
        bits: `None` for unbounded integers (the thesis's), or the width of the signed integers to clip to.
        initial_scale: value of `s` before training, at least `100 * 2**-23` (the default); or a name among
            `lqs.scales.MEASURES`, such as `"lsq"`, to compute it from the initial values of the parameter.
        parametrization: `"linear"`, the trainable weight is `s` itself (the thesis's), or `"log"`, it is `log s`: a
            step of the optimizer then changes a scale by a factor, whatever its size.

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
        granularity="scalar",
        rule=None,
        penalty=None,
        rounding="floor",
        bits=None,
        initial_scale=MIN_SCALE,
        parametrization="linear",
        **kwargs,
    ):
        # The arithmetic is in float32 at least, also under a mixed-precision policy.
        super().__init__(autocast=False, **kwargs)
        self.dtype_policy = self.variable_dtype
        self.granularity = validate_granularity(granularity)
        self.rule = GradientRatio() if rule is None else rule
        self.penalty = validate_penalty(penalty)
        self.rounding = validate_rounding(rounding)
        self.bits = bits
        self.levels = get_rounding(rounding).levels(bits)
        self.initial_scale = _validate_initial_scale(initial_scale)
        self.parametrization = _validate_parametrization(parametrization)
        self._scale_gradient = get_rule(self.rule, self.levels)
        self._measure = self.rule.bind_measure(self.levels) if isinstance(self.rule, Measured) else None
        if self.penalty is not None:
            self._penalty_term = self.penalty.bind(self.levels)
            self._measure = self.penalty.bind_measure(self.levels) or self._measure
        named = isinstance(initial_scale, str)
        self._initial_measure = get_measure(initial_scale, self.levels) if named else self._measure

    def build(self, input_shape):
        """Create the weight of the scale, of the shape of `input_shape` with size 1 on the shared axes."""
        self.parameter_shape = tuple(input_shape)
        self.sharing_axes = sharing_axes(self.granularity, len(self.parameter_shape))
        is_log = self.parametrization == "log"
        initial = MIN_SCALE if isinstance(self.initial_scale, str) else self.initial_scale
        self.scale_weight = self.add_weight(
            name="log_scale" if is_log else "scale",
            shape=scale_shape(self.granularity, self.parameter_shape),
            initializer=keras.initializers.Constant(math.log(initial) if is_log else initial),
            constraint=MinValue(math.log(MIN_SCALE) if is_log else MIN_SCALE),
            trainable=self._measure is None,
        )
        get_rounding(self.rounding).create_weights(tuple(self.scale_weight.shape), self.levels)
        _LAYER_OF_SCALE[id(self.scale_weight)] = self

    @property
    def scale(self):
        """The scale `s`, of the rank of the parameter: the trainable weight, or its exponential if that is `log s`."""
        return ops.exp(self.scale_weight) if self.parametrization == "log" else self.scale_weight

    @property
    def codebook(self):
        """What the integers from the lowest on stand for, in units of the scale; `None`: themselves."""
        return get_rounding(self.rounding).codebook

    def scale_weight_of(self, scale):
        """Return the value of `scale_weight` with which `scale` is the given array, bit for bit if there is one."""
        if self.parametrization == "linear":
            return scale
        nearest = np.log(scale.astype("float64")).astype(scale.dtype)
        steps = [nearest + np.spacing(nearest) * step for step in (0, 1, -1, 2, -2)]  # exp may differ by one or two
        errors = [np.abs(np.asarray(ops.convert_to_numpy(ops.exp(value))) - scale) for value in steps]
        return np.take_along_axis(np.stack(steps), np.argmin(errors, axis=0)[None], axis=0)[0]

    def initialize_scale(self, parameter):
        """Compute the scale from the initial values of the parameter, if the rule or `initial_scale` asks for it.

        The weights of the rounding are computed, too. The layers of `lqs` call it where they have these values. Within
        a stateless call, as `lqs.load` makes it, no variable has a value yet, and all stay.
        """
        if get_stateless_scope() is not None:
            return
        parameter = _in_float32_at_least(ops.convert_to_tensor(parameter))
        if self._initial_measure is not None:
            self._assign_scale(self._initial_measure(parameter, self.sharing_axes))
        scale = ops.cast(self.scale, parameter.dtype)
        get_rounding(self.rounding).initialize(parameter, scale, self.sharing_axes, self.levels)

    def _assign_scale(self, scale):
        """Assign a scale, at least the least one, and return it."""
        scale = ops.maximum(ops.cast(scale, self.scale_weight.dtype), MIN_SCALE)
        self.scale_weight.assign(ops.log(scale) if self.parametrization == "log" else scale)
        return scale

    @property
    def size(self):
        """Number of elements of the parameter, `#P`."""
        return math.prod(self.parameter_shape)

    def call(self, parameter, training=None):
        """Return `P_r`, of the shape and dtype of `parameter`; in training, measure the scale and draw noise."""
        _validate_float(parameter)
        # Each variable is read once, for forward and backward. A read for the backward pass alone TensorFlow may carry
        # out after the optimizer's update: its graph optimizer drops the edge between them, since there is a path by
        # way of the `IdentityN` of a custom gradient, which it then removes.
        dtype, parameter = parameter.dtype, _in_float32_at_least(ops.copy(parameter))
        if training and self._measure is not None:
            self._assign_scale(self._measure(ops.stop_gradient(parameter), self.sharing_axes))
        scale, rounding, noise = ops.cast(ops.copy(self.scale), parameter.dtype), get_rounding(self.rounding), None
        if training:
            noise = rounding.noise(parameter)
            rounding.update(*map(ops.stop_gradient, (parameter, scale)), self.sharing_axes, self.levels)
        if self.penalty is not None and not self.losses:  # a layer called twice has its parameters once
            self.add_loss(self._weighted_penalty(parameter, scale))
        return ops.cast(_reconstruct(self, parameter, scale, noise), dtype)

    def integers(self, parameter):
        """Return `P_q` as an int32 tensor of the shape of `parameter`."""
        _validate_float(parameter)
        parameter = _in_float32_at_least(ops.convert_to_tensor(parameter))
        if not self.built:
            self.build(parameter.shape)
        scale, rounding = ops.cast(self.scale, parameter.dtype), get_rounding(self.rounding)
        return ops.cast(rounding.integers(parameter, scale, self.sharing_axes, self.levels), "int32")

    def parameter_of(self, integers, scale):
        """Return NumPy's array of a parameter that has these integers with this scale, far from where others begin."""
        return get_rounding(self.rounding).parameter_of(integers, scale, self.levels)

    def copy(self):
        """Return an unbuilt layer of the same configuration, as `lqs.quantize` makes for each parameter."""
        rule = keras.saving.serialize_keras_object(self.rule) if isinstance(self.rule, Rule) else self.rule
        return type(self).from_config({**self._config(rule), "name": None})

    def get_config(self):
        return self._config(keras.saving.serialize_keras_object(self.rule))

    def _config(self, rule):
        config = {
            # JSON has no tuples.
            "granularity": self.granularity if isinstance(self.granularity, str) else list(self.granularity),
            "rule": rule,
            "penalty": keras.saving.serialize_keras_object(self.penalty),
            "rounding": keras.saving.serialize_keras_object(self.rounding),
            "bits": self.bits,
            "initial_scale": self.initial_scale,
        }
        if self.parametrization != "linear":  # files of models that have always been linear stay as small
            config["parametrization"] = self.parametrization
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config):
        parts = {key: config[key] for key in ("rule", "penalty", "rounding") if not callable(config[key])}
        return cls(**{**config, **{key: keras.saving.deserialize_keras_object(part) for key, part in parts.items()}})

    def compute_output_shape(self, input_shape):
        return input_shape

    def _weighted_penalty(self, parameter, scale):
        share = self.size / sum(layer.size for layer in _whole_model(self))
        term = self._penalty_term(parameter, scale, self.sharing_axes)
        return ops.multiply(ops.multiply(self.penalty.rate, share), ops.cast(term, "float32"))


def nested_layers(layer):
    """Return every built `NestedQuantization` inside `layer`, in the order of its weights."""
    return [inner for inner in layer._flatten_layers() if isinstance(inner, NestedQuantization) and inner.built]


_LAYER_OF_SCALE: weakref.WeakValueDictionary[int, NestedQuantization] = weakref.WeakValueDictionary()


def _whole_model(layer):
    """Return every nested layer of the model whose call is in progress, and in which `layer` is called.

    A layer cannot know the model that it will be part of, and a number stored at construction would be wrong as soon
    as it moves into another model. What is at hand during a call differs by backend, and has no public name:

    | call in progress          | entry layer of the call | outermost stateless scope    |
    |---------------------------|-------------------------|------------------------------|
    | `model(x)`, TensorFlow    | the model               | none, or that of a part      |
    | `model.stateless_call`    | a part of the model     | all variables of the model   |
    """
    scope = outermost = get_stateless_scope()
    while scope is not None:
        scope, outermost = scope.original_scope, scope
    in_scope = [] if outermost is None else map(_LAYER_OF_SCALE.get, list(outermost.state_mapping))
    in_call = nested_layers(layer._get_call_context().entry_layer)
    return {id(found): found for found in (*in_scope, *in_call, layer) if found is not None}.values()


def _reconstruct(layer, parameter, scale, noise):
    """Return `P_r` with the gradients of `NestedQuantization`."""
    rounding, levels, axes = get_rounding(layer.rounding), layer.levels, layer.sharing_axes

    @ops.custom_gradient
    def reconstruct(parameter, scale, values):
        def gradient(*args, upstream=None):
            upstream = args[-1] if upstream is None else upstream
            scale_gradient = layer._scale_gradient(upstream, parameter, values, scale, axes)
            scale_gradient = ops.reshape(ops.cast(scale_gradient, scale.dtype), scale.shape)
            parameter_gradient = rounding.parameter_gradient(upstream, parameter, scale, axes, levels)
            return parameter_gradient, scale_gradient, ops.multiply(upstream, scale)

        return ops.multiply(values, scale), gradient

    integers = ops.stop_gradient(rounding.integers(parameter, scale, axes, levels, noise))
    values = rounding.values(integers, parameter, ops.stop_gradient(scale), axes, levels)
    return reconstruct(parameter, scale, values)


def _in_float32_at_least(parameter):
    """Return the tensor in float32 if it is of half precision, where dividing by a small scale overflows."""
    is_half = keras.backend.standardize_dtype(parameter.dtype) in ("float16", "bfloat16")
    return ops.cast(parameter, "float32") if is_half else parameter


def _validate_float(parameter):
    dtype = keras.backend.standardize_dtype(parameter.dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise ValueError(f"Argument `parameter` must be of a float dtype. Received: dtype={dtype}")


def _validate_initial_scale(initial_scale):
    if isinstance(initial_scale, str) and initial_scale in MEASURES:
        return initial_scale
    is_number = isinstance(initial_scale, (int, float)) and not isinstance(initial_scale, bool)
    if not is_number or not MIN_SCALE <= initial_scale < math.inf:
        raise ValueError(
            f"Argument `initial_scale` must be a finite number of at least {MIN_SCALE:.4g}, or one of "
            f"{tuple(MEASURES)}. Received: initial_scale={initial_scale!r}"
        )
    return float(initial_scale)


def _validate_parametrization(parametrization):
    if not isinstance(parametrization, str) or parametrization not in PARAMETRIZATIONS:
        raise ValueError(
            f"Argument `parametrization` must be one of {PARAMETRIZATIONS}. "
            f"Received: parametrization={parametrization!r}"
        )
    return parametrization
