"""Layers with quantized parameters: the thesis's two, and wrappers that fit any Keras layer or model."""

import keras
from keras import ops

from lqs.nested import NestedQuantization


def call_with_values(layer, call, values):
    """Return `call()`, run while variables of `layer` read as the given tensors instead of their own values.

    Updates of non-trainable variables (such as moving statistics and seeds) and losses added during the call
    reach the scope outside, on every backend.

    Args:
        layer: layer whose variables `call` reads.
        call: function without arguments.
        values: list of pairs `(variable, tensor)`, each tensor of its variable's shape.
    """
    scope = keras.StatelessScope([(v, v.value) for v in layer.variables], collect_losses=True)
    for update in values:
        scope.add_update(update)
    before = {id(v): scope.get_current_value(v) for v in layer.variables}
    with scope:
        outputs = call()
    for variable in layer.variables:
        value = scope.get_current_value(variable)
        if value is not before[id(variable)]:
            variable.assign(value)
    outer = scope.original_scope
    if outer is None:
        layer.add_loss(scope.losses)
    elif outer.collect_losses:  # the layers that added these losses have kept their identities
        outer.losses.extend(scope.losses)
    return outputs


def quantize_values(pairs):
    """Return `(variable, P_r)` for each pair `(variable, NestedQuantization)`."""
    return [(variable, quantizer(variable.value)) for variable, quantizer in pairs]


def copy_quantizer(name, quantizer):
    """Return an unbuilt copy of the prototype `quantizer`, or `None`; `name` is for the error message."""
    if quantizer is None or isinstance(quantizer, NestedQuantization):
        return quantizer and quantizer.copy()
    if isinstance(quantizer, dict):
        # Without what Keras adds to build it: the owner does that, from the parameter's shape.
        return keras.saving.deserialize_keras_object({**quantizer, "build_config": None})
    raise ValueError(f"Argument `{name}` must be an `lqs.NestedQuantization` or None. Received: {quantizer!r}")


class QuantizedParameters(keras.layers.Layer):
    """Base of the layers that own nested quantization layers for some of their parameters."""

    def quantized_parameters(self):
        """Return a list of pairs `(variable, NestedQuantization)`; empty before the layer is built."""
        raise NotImplementedError(f"{type(self).__name__} must implement `quantized_parameters`.")


class _QuantizedKernelAndBias(QuantizedParameters):
    """Mixin over a Keras layer with the weights `_kernel` and `bias`."""

    def __init__(self, *args, kernel_quantizer=None, bias_quantizer=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.kernel_quantizer = copy_quantizer("kernel_quantizer", kernel_quantizer)
        self.bias_quantizer = copy_quantizer("bias_quantizer", bias_quantizer)

    def build(self, input_shape):
        super().build(input_shape)
        for variable, quantizer in self.quantized_parameters():
            quantizer.build(variable.shape)

    def add_weight(self, *args, **kwargs):
        # Quantized in full precision, cast to the compute dtype afterwards.
        return super().add_weight(*args, **{**kwargs, "autocast": False})

    def call(self, inputs):
        values = {id(v): value for v, value in quantize_values(self.quantized_parameters())}
        weights = [v for v in (self._kernel, self.bias) if v is not None]
        values = [(v, ops.cast(values.get(id(v), v.value), self.compute_dtype)) for v in weights]
        return call_with_values(self, lambda: super(_QuantizedKernelAndBias, self).call(inputs), values)

    def quantized_parameters(self):
        if not self.built:
            return []
        pairs = [(self._kernel, self.kernel_quantizer), (self.bias, self.bias_quantizer)]
        return [(v, quantizer) for v, quantizer in pairs if v is not None and quantizer is not None]

    def get_config(self):
        quantizers = {name: getattr(self, name) for name in ("kernel_quantizer", "bias_quantizer")}
        config = {name: keras.saving.serialize_keras_object(value) for name, value in quantizers.items()}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("lqs")
class QuantDense(_QuantizedKernelAndBias, keras.layers.Dense):
    """`keras.layers.Dense` whose kernel and bias pass through nested quantization layers.

    Args:
        kernel_quantizer: `NestedQuantization` for the kernel `(in, out)`, or `None` to leave it in float.
        bias_quantizer: the same for the bias `(out,)`.

    Both are prototypes, of which the layer keeps copies. All other arguments are those of `keras.layers.Dense`.

    Example:

    >>> from lqs.rules import GradientRatio
    >>> layer = QuantDense(4, kernel_quantizer=NestedQuantization("row", GradientRatio(1e-10)))
    >>> layer.build((None, 3))
    >>> tuple(layer.kernel_quantizer.scale.shape)
    (3, 1)
    """


@keras.saving.register_keras_serializable("lqs")
class QuantConv2D(_QuantizedKernelAndBias, keras.layers.Conv2D):
    """`keras.layers.Conv2D` whose kernel and bias pass through nested quantization layers.

    Args:
        kernel_quantizer: `NestedQuantization` for the kernel `(height, width, in, out)`, or `None`.
        bias_quantizer: the same for the bias `(out,)`.

    Both are prototypes, of which the layer keeps copies. All other arguments are those of
    `keras.layers.Conv2D`.

    Example:

    >>> layer = QuantConv2D(8, 3, kernel_quantizer=NestedQuantization("channel"))
    >>> layer.build((None, 28, 28, 2))
    >>> tuple(layer.kernel_quantizer.scale.shape)
    (1, 1, 2, 1)
    """


class _QuantizedWhole(QuantizedParameters):
    """Mixin that runs a wrapped layer or model on quantized values of its variables.

    Args:
        layer: a built Keras layer.
        quantizers: a `NestedQuantization` or `None` for each of `layer.weights`, in their order.
    """

    def __init__(self, layer, quantizers, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer
        self.supports_masking = layer.supports_masking
        self.quantizers = [copy_quantizer("quantizers", quantizer) for quantizer in quantizers]

    def build(self, *args, **kwargs):
        if not self.layer.built:
            self.layer.build(*args, **kwargs)
        if len(self.quantizers) != len(self.layer.weights):
            raise ValueError(
                f"Argument `quantizers` must have one entry for each of the {len(self.layer.weights)} weights of "
                f"layer {self.layer.name!r}. Received: {len(self.quantizers)} entries"
            )
        for variable, quantizer in self.quantized_parameters():
            quantizer.build(variable.shape)
        self.built = True

    def call(self, inputs, *args, **kwargs):
        values = quantize_values(self.quantized_parameters())
        return call_with_values(self.layer, lambda: self.layer(inputs, *args, **kwargs), values)

    def quantized_parameters(self):
        pairs = zip(self.layer.weights, self.quantizers, strict=True)
        return [(variable, quantizer) for variable, quantizer in pairs if quantizer is not None]

    def compute_mask(self, inputs, previous_mask):
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self):
        config = {
            "layer": keras.saving.serialize_keras_object(self.layer),
            "quantizers": [keras.saving.serialize_keras_object(quantizer) for quantizer in self.quantizers],
        }
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "layer": keras.saving.deserialize_keras_object(config["layer"])})

    def get_build_config(self):
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config):
        if not self.layer.built:
            self.layer.build_from_config(config["layer"])
        self.build()


@keras.saving.register_keras_serializable("lqs")
class QuantizedLayer(_QuantizedWhole):
    """Any Keras layer, run on quantized values of its parameters. Made by `lqs.quantize`.

    Args:
        layer: a built Keras layer of any class, also a composite one.
        quantizers: a `NestedQuantization` or `None` for each of `layer.weights`, in their order.
    """

    def __init__(self, layer, quantizers, **kwargs):
        # The wrapped layer casts for itself; parameters are read and quantized in their own precision.
        super().__init__(layer, quantizers, autocast=False, **kwargs)


@keras.saving.register_keras_serializable("lqs")
class QuantizedModel(_QuantizedWhole, keras.Model):
    """Any subclassed Keras model, run on quantized values of its parameters. Made by `lqs.quantize`.

    Args:
        layer: a built Keras model.
        quantizers: a `NestedQuantization` or `None` for each of `layer.weights`, in their order.
    """

    def __init__(self, layer, quantizers, **kwargs):
        super().__init__(layer, quantizers, **kwargs)
        self.autocast = False
