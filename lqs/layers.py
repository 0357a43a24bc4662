"""Layers with quantized parameters: the thesis's two, and what `lqs.quantize` makes of any Keras layer or model."""

import contextlib
import functools
from typing import Any

import keras

from lqs._keras import ForgetsLosses, Functional, is_within_call, number_paths, set_sublayers
from lqs.quantizer import NestedQuantization
from lqs.substitution import call_with_values, is_substituted, quantize_values

GRAPHS = (keras.Sequential, Functional)  # models that are nothing but the graph of their layers


def copy_quantizer(name, quantizer):
    """Return an unbuilt copy of the prototype `quantizer`, or `None`; `name` is for the error message."""
    if quantizer is None or isinstance(quantizer, NestedQuantization):
        return quantizer and quantizer.copy()
    if isinstance(quantizer, dict):
        # Without what Keras adds to build it: the owner does that, from the parameter's shape.
        return keras.saving.deserialize_keras_object({**quantizer, "build_config": None})
    raise ValueError(f"Argument `{name}` must be an `lqs.NestedQuantization` or None. Received: {quantizer!r}")


class QuantizedParameters(ForgetsLosses):
    """Base of the layers whose parameters pass through nested quantization layers."""

    def quantized_parameters(self):
        """Return a list of pairs `(variable, NestedQuantization)`; empty before the layer is built."""
        raise NotImplementedError(f"{type(self).__name__} must implement `quantized_parameters`.")

    def call_quantized(self, call):
        """Return `call()`, in which the quantized parameters read as `P_r`."""
        values = quantize_values(pair for pair in self.quantized_parameters() if not is_substituted(pair[0]))
        return call_with_values(self, call, values) if values else call()


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
        number_paths(self.variables)

    def call(self, inputs):
        return self.call_quantized(lambda: super(_QuantizedKernelAndBias, self).call(inputs))

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


@keras.saving.register_keras_serializable("lqs")
class QuantizedLayer(QuantizedParameters):
    """Base of the classes of converted layers: any Keras layer, run on quantized values of its parameters.

    `lqs.quantize` converts a copy of a layer: it gives the copy a class of its own, made of this one and of its former
    class, `float_class`. The layer keeps everything else: attributes, methods, and its place in the models that hold
    it. Its `call` runs while the quantized parameters read as `P_r`. It is saved and loaded by the configuration of its
    former class and those of the quantizers.

    Attributes:
        quantizers: a `NestedQuantization` or `None` for each of `float_weights()`, in their order.
    """

    float_class: type

    def float_weights(self):
        """Return the weights that the layer had before it was converted, in their order."""
        layers = [layer for layer in self._flatten_layers() if isinstance(layer, NestedQuantization)]
        nested = {id(weight) for layer in layers for weight in layer.weights}
        return [weight for weight in self.weights if id(weight) not in nested]

    def quantized_parameters(self):
        return self._pairs(self.float_weights(), self.quantizers)

    def _pairs(self, weights, quantizers):
        if len(weights) != len(quantizers):
            raise ValueError(
                f"Layer {self.name!r} must keep the weights that it had when it was quantized: make others, such as "
                f"those of `enable_lora`, before `lqs.quantize`. It had {len(quantizers)} and has {len(weights)}."
            )
        return [(w, quantizer) for w, quantizer in zip(weights, quantizers, strict=True) if quantizer is not None]

    def get_config(self):
        with as_float(self):
            layer = keras.saving.serialize_keras_object(self)
        layer.pop("compile_config", None)  # the converted model has it, too
        return {"layer": layer, "quantizers": list(map(keras.saving.serialize_keras_object, self.quantizers))}

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config["layer"])
        layer.built = True  # also one that makes its weights when it is constructed
        return convert(layer, config["quantizers"])

    def get_build_config(self):
        """Return `None`: the configuration of the former class builds the layer."""

    def __reduce__(self):
        function, arguments = super().__reduce__()  # a method of a class that pickle cannot find by its name
        return getattr(QuantizedLayer, function.__name__), arguments


@keras.saving.register_keras_serializable("lqs")
class QuantizedModel(QuantizedLayer):
    """The same for models: the layers and models inside are converted, and may be called one by one.

    In a call of the whole model the parameters read as `P_r` everywhere, also where its code reads them directly.
    """

    own_quantizers: Any = ()  # for the weights of `_own_weights`; none in what `clone_model` makes by a constructor

    @property
    def quantizers(self):
        """A `NestedQuantization` or `None` for each of `float_weights()`, in their order."""
        found = {id(variable): quantizer for variable, quantizer in self.quantized_parameters()}
        return [found.get(id(weight)) for weight in self.float_weights()]

    def quantized_parameters(self):
        pairs = self._pairs(_own_weights(self), self.own_quantizers)
        converted = [part for part in parts(self) if isinstance(part, QuantizedLayer)]
        pairs += [pair for part in converted for pair in part.quantized_parameters()]
        return list({id(variable): (variable, quantizer) for variable, quantizer in pairs}.values())


def convert(layer, quantizers):
    """Convert a built layer or model in place, see `QuantizedLayer`, and return it.

    Args:
        layer: a `keras.layers.Layer` or `keras.Model`. If it has been converted before, its quantizers stay.
        quantizers: a prototype `NestedQuantization`, its configuration, or `None`, for each of `layer.weights`.

    Raises:
        ValueError: if there are not as many quantizers as weights.
    """
    if len(quantizers) != len(layer.weights):
        raise ValueError(
            f"Argument `quantizers` must have one entry for each of the {len(layer.weights)} weights of "
            f"layer {layer.name!r}. Received: {len(quantizers)} entries"
        )
    copies = {id(w): copy_quantizer("quantizers", q) for w, q in zip(layer.weights, quantizers, strict=True)}
    for variable in layer.weights:
        if (quantizer := copies[id(variable)]) is not None:
            quantizer.build_for(variable)
            quantizer.trainable = variable.trainable
    for part in [*(parts(layer) if isinstance(layer, keras.Model) else []), layer]:
        if isinstance(part, QuantizedLayer) or not isinstance(part, QuantizedParameters):
            _give(part, copies)
    number_paths(layer.variables)
    return layer


def _give(layer, quantizers):
    """Convert a layer, or a model whose parts have been, if there are quantizers for its weights, by their `id`."""
    weights = layer.float_weights() if isinstance(layer, QuantizedLayer) else layer.weights
    if not any(quantizers[id(weight)] for weight in weights):
        return
    base, attribute = QuantizedLayer, "quantizers"
    if isinstance(layer, keras.Model):
        base, attribute, weights = QuantizedModel, "own_quantizers", _own_weights(layer)
    own = [quantizers[id(weight)] for weight in weights]
    if isinstance(layer, QuantizedLayer):
        own = [known or new for known, new in zip(getattr(layer, attribute), own, strict=True)]
    else:
        layer.__class__ = quantized_class(base, type(layer))  # type: ignore[arg-type]
    set_sublayers(layer, attribute, own)


def _own_weights(model):
    """Return the weights of a model that no layer or model inside has."""
    inside = {id(weight) for layer in _inside(model) for weight in layer.weights}
    return [weight for weight in model.weights if id(weight) not in inside]


def parts(model):
    """Return what a model consists of, inner ones first: its layers, the models inside and their parts.

    Models inside that are nothing but the graph of their layers are left out, and their parts are not.
    """
    found: dict[int, keras.layers.Layer] = {}
    for layer in _inside(model):
        if isinstance(layer, keras.Model):
            found |= {id(part): part for part in parts(layer)}
        if type(layer) not in GRAPHS:
            found[id(layer)] = layer
    return [part for part in found.values() if not isinstance(part, NestedQuantization)]


def _inside(model):
    return model._flatten_layers(include_self=False, recursive=False)


@functools.cache
def quantized_class(base: Any, float_class: Any) -> type:
    """Return the class of converted layers of a class.

    Keras saves it under the registered name of its base, which finds the former class in the configuration.
    """

    @functools.wraps(float_class.call)
    def call(self, *args, **kwargs):
        if not is_within_call():  # but in `stateless_call`: inner layers would clear penalties, and not know `training`
            return self(*args, **kwargs)
        return self.call_quantized(lambda: float_class.call(self, *args, **kwargs))

    doc = f"`{float_class.__name__}` whose parameters pass through nested quantization layers."
    body = {"float_class": float_class, "call": call, "__doc__": doc, "__module__": __name__}
    made = type(f"Quantized{float_class.__name__}", (base, float_class), body)
    for class_ in (made, base):  # under this name, Keras is to find the last one, the base
        keras.saving.register_keras_serializable("lqs", base.__name__)(class_)
    return made


@contextlib.contextmanager
def as_float(layer):
    """Give converted layers their former class within the block, so that they are configured as these are."""
    converted = [inner for inner in layer._flatten_layers() if isinstance(inner, QuantizedLayer)]
    classes = [type(inner) for inner in converted]
    for inner in converted:
        inner.__class__ = inner.float_class
    try:
        yield
    finally:
        for inner, class_ in zip(converted, classes, strict=True):
            inner.__class__ = class_
