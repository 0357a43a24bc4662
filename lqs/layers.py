"""Layers with quantized parameters: the thesis's two, and wrappers that fit any Keras layer or model."""

import inspect

import keras
import numpy as np

from lqs._keras import AutocastScope
from lqs.quantizer import NestedQuantization


class _SubstitutionScope(keras.StatelessScope):
    """A stateless scope that remembers which variables were assigned in it."""

    def __init__(self):
        super().__init__(collect_losses=True)
        self.updates = {}

    def add_update(self, update):
        super().add_update(update)
        self.updates[id(update[0])] = update


def call_with_values(layer, call, values):
    """Return `call()`, run while variables of `layer` read as the given tensors instead of their own values.

    Variables assigned (such as moving statistics and seeds) and losses added during the call reach the scope
    outside, on every backend.

    Args:
        layer: layer whose variables `call` reads.
        call: function without arguments.
        values: dictionary from the `id` of a variable to a tensor of its shape and dtype.
    """
    scope = _SubstitutionScope()
    with AutocastScope(None):  # in which the scope's own argument would be cast to float32
        scope.state_mapping.update({id(variable): variable.value for variable in layer.variables})
    scope.state_mapping.update(values)
    with scope:
        outputs = call()
    for variable, value in scope.updates.values():
        if id(variable) in values:
            raise ValueError(
                f"Layer {layer.name!r} assigns its parameter {variable.path!r} itself, so that it cannot be "
                "quantized: leave it in float, in `lqs.quantize` by the argument `where`."
            )
        variable.assign(value)
    outer = scope.original_scope
    if outer is None:
        layer.add_loss(scope.losses)
    elif outer.collect_losses:  # the layers that added these losses have kept their identities
        outer.losses.extend(scope.losses)
    return outputs


def quantize_values(pairs):
    """Return `{id(variable): P_r}` for pairs `(variable, NestedQuantization)`, in the variables' own precision."""
    with AutocastScope(None):
        return {id(variable): quantizer(variable.value) for variable, quantizer in pairs}


def copy_own_variables(source, target):
    """Copy by way of what layers do to save and load, since some derive further state from their weights."""
    values: dict = {}
    source.save_own_variables(values)
    target.load_own_variables({key: np.array(value) for key, value in values.items()})


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
            quantizer.build_for(variable)

    def call(self, inputs):
        values = quantize_values(self.quantized_parameters())
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

    >>> layer = QuantDense(4, kernel_quantizer=NestedQuantization("row"))
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
        # The wrapped layer casts for itself; parameters are read and quantized in their own precision.
        self.autocast = False
        self.dtype_policy = self.variable_dtype
        self.layer = layer
        self.supports_masking = layer.supports_masking
        self.quantizers = [copy_quantizer("quantizers", quantizer) for quantizer in quantizers]

    def build(self, input_shape=None):
        if len(self.quantizers) != len(self.layer.weights):
            raise ValueError(
                f"Argument `quantizers` must have one entry for each of the {len(self.layer.weights)} weights of "
                f"layer {self.layer.name!r}. Received: {len(self.quantizers)} entries"
            )
        for variable, quantizer in self.quantized_parameters():
            quantizer.build_for(variable)
        self.built = True

    def call(self, inputs=None, *args, training=None, **kwargs):
        """Return the wrapped layer's outputs; the arguments are those of its `call`."""
        if inputs is not None:  # otherwise the layer's first argument is among the named ones
            args = (inputs, *args)
        if training is not None and "training" in inspect.signature(self.layer.call).parameters:
            kwargs["training"] = training
        values = quantize_values(self.quantized_parameters())
        return call_with_values(self.layer, lambda: self.layer(*args, **kwargs), values)

    def compute_output_spec(self, *args, **kwargs):
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, *args, **kwargs):
        return self.layer.compute_output_shape(*args, **kwargs)

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


@keras.saving.register_keras_serializable("lqs")
class QuantizedModel(_QuantizedWhole, keras.Model):
    """Any subclassed Keras model, run on quantized values of its parameters. Made by `lqs.quantize`.

    Args:
        layer: a built Keras model.
        quantizers: a `NestedQuantization` or `None` for each of `layer.weights`, in their order.
    """
