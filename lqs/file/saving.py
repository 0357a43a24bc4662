"""`lqs.save` and `lqs.load`: a quantized Keras model as a small file."""

import contextlib
import functools
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras.src.backend.common import global_state  # has no public name

from lqs.file import reader, writer
from lqs.file.atomic import write_atomically
from lqs.file.reader import MAX_BYTES, FileFormatError
from lqs.inspection import nested_layers, quantized_parameters, to_numpy
from lqs.layers import copy_own_variables

SUFFIX = ".lqs"
# Their configurations hold code, or the path of a file to be loaded.
UNSAFE_CLASSES = ("__lambda__", "Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")


def save(model, path, float_dtype="float32"):
    """Write a Keras model to a `.lqs` file: entropy-coded integers and scales in place of quantized parameters.

    What is kept: the architecture, the integers and the scale of every quantized parameter, and every other variable.
    What is not: where within its bin a quantized parameter was (further training starts from the middle), and
    what `compile` was given. The file is written whole or not at all.

    Args:
        model: a built `keras.Model`, quantized or not.
        path: path of the file, which ends in `.lqs`.
        float_dtype: what to store float parameters in that are not quantized: `"float32"`, `"float16"` or
            `"bfloat16"`. The latter two round them. Scales always stay as they are.

    Raises:
        ValueError: if an argument is not as above, the model has no configuration to be rebuilt from, this has code in
            it, such as a `Lambda` layer, or a layer has learned a vocabulary.

    Example:

    >>> import tempfile
    >>> from lqs.conversion import quantize
    >>> model = quantize(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))
    >>> path = Path(tempfile.mkdtemp()) / "model.lqs"
    >>> save(model, path)
    >>> x = np.ones((1, 4), "float32")
    >>> bool(np.all(load(path).predict(x, verbose=0) == model.predict(x, verbose=0)))
    True
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise ValueError(f"Argument `path` must end in {SUFFIX!r}. Received: path={str(path)!r}")
    write_atomically(path, pack_model(model, float_dtype))


def load(path, max_bytes=MAX_BYTES):
    """Return the Keras model in a `.lqs` file, with the integers, scales and predictions of the saved one.

    Nothing in the file is run: layers are Keras's own or registered in this process by
    `keras.saving.register_keras_serializable`. Custom ones must be imported before.

    Args:
        path: path of the file.
        max_bytes: limit of the size of all arrays in memory, 8 bytes counted for each element.

    Raises:
        FileFormatError: a `ValueError`, if the file is damaged, not well-formed, larger than `max_bytes`, or its
            configuration and arrays do not fit together.
        OSError: if the file cannot be read.
    """
    configuration, tensors = reader.read(path, max_bytes, writer.Decoder)
    _check_safe(configuration, FileFormatError)
    with _as_format_errors(), _forgetting_failed_variables():
        # Without values at first, so that a configuration cannot ask for more memory than the arrays take.
        with keras.StatelessScope(initialize_variables=False):
            model = keras.saving.deserialize_keras_object(configuration)
            pairs = _match(model, tensors)
        with keras.StatelessScope():
            pass  # at its end, Keras gives values to the variables that have none
    for variable, value in pairs:
        variable.assign(value() if callable(value) else value)
    with _as_format_errors():
        for layer in model._flatten_layers():  # some derive further state from their variables when these are loaded
            copy_own_variables(layer, layer)
    return model


def pack_model(model, float_dtype="float32"):
    """Return the bytes of the `.lqs` file of a model; the arguments are those of `save`."""
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"Argument `model` must be a built Keras model. Received: model={model!r}")
    if float_dtype not in reader.FLOATS[:3]:
        raise ValueError(
            f"Argument `float_dtype` must be one of {reader.FLOATS[:3]}. Received: float_dtype={float_dtype!r}"
        )
    _check_no_assets(model)
    configuration = _configuration(model)
    tensors = [({"name": name, **entry}, sections) for name, entry, sections in _encoded(model, float_dtype)]
    return writer.pack(configuration, tensors)


@contextlib.contextmanager
def _as_format_errors():
    """Turn every error of the block into a `FileFormatError`: a configuration can make any layer raise anything."""
    try:
        yield
    except FileFormatError:
        raise
    except Exception as error:
        raise FileFormatError(f"The model cannot be rebuilt: {_one_line(error)}") from error


@contextlib.contextmanager
def _forgetting_failed_variables():
    """Remove the variables made in the block from those that Keras is to give values to, if the block fails."""
    name = "uninitialized_variables"
    known = list(global_state.get_global_attribute(name, []))
    try:
        yield
    except BaseException:
        global_state.set_global_attribute(name, known)
        raise


def _one_line(error):
    lines = str(error).split("\n")
    return f"{type(error).__name__}: {lines[0]}"


def _configuration(model):
    try:
        configuration = keras.saving.serialize_keras_object(model)
    except NotImplementedError as error:
        raise ValueError(
            f"Argument `model` must be rebuilt from its configuration: implement `get_config` of "
            f"`{type(model).__name__}`. ({error})"
        ) from error
    configuration.pop("compile_config", None)
    _check_safe(configuration, ValueError)
    return configuration


def _check_no_assets(model):
    """Raise if a layer has state that is neither in its variables nor in its configuration: a learned vocabulary."""
    for layer in model._flatten_layers():
        if not hasattr(layer, "save_assets"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            if any(Path(folder).iterdir()):
                raise ValueError(
                    f"Layer {layer.name!r} has learned a vocabulary, which a {SUFFIX} file does not keep: "
                    "give it to the layer's constructor, or leave the layer out of the model."
                )


def _check_safe(configuration, error):
    """Raise the exception class `error` if a part of a configuration has code in it."""
    parts = [configuration]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            if part.get("class_name") in UNSAFE_CLASSES:
                raise error(f"The configuration of a model must not have code in it. Received: {part['class_name']}")
            parts.extend(part.values())
        elif isinstance(part, list | tuple):
            parts.extend(part)


def plain_variables(model):
    """Return the variables of a model in their order, without the scales of quantized parameters."""
    scales = {id(quantizer.scale_weight) for _, quantizer in quantized_parameters(model)}
    return [variable for variable in model.variables if id(variable) not in scales]


def _encoded(model, float_dtype):
    """Yield `(name, entry, sections)` of all variables: first those without scales, then scales of the rest."""
    quantizers = {id(variable): quantizer for variable, quantizer in quantized_parameters(model)}
    exact = {id(variable) for layer in nested_layers(model) for variable in layer.variables}  # also thresholds
    names: dict[str, int] = {}
    left, plain = [], plain_variables(model)
    name_of = {id(variable): _unique(variable.path, names) for variable in plain}
    for variable in plain:
        value, quantizer = to_numpy(variable.value), quantizers.get(id(variable))
        name = name_of[id(variable)]
        integers = None if quantizer is None else to_numpy(quantizer.integers(variable.value))
        if quantizer is not None and _is_recoverable(integers, quantizer, variable):
            entry, sections = writer.encode_integers(integers, to_numpy(quantizer.scale), variable.dtype)
            if quantizer.codebook is not None:
                entry |= {"levels": name_of[id(quantizer.codebook)], "lowest": quantizer.levels[0]}
            yield name, entry, sections
            continue
        if quantizer is not None:
            left.append((f"{name}/scale", to_numpy(quantizer.scale)))
        kept = quantizer is not None or id(variable) in exact or variable.dtype not in ("float32", "float64")
        yield name, *writer.encode_numbers(value, variable.dtype, None if kept else float_dtype)
    for name, value in left:
        yield _unique(name, names), *writer.encode_numbers(value)


def _unique(name, names):
    """Return `name`, with a number after it if it has been returned before."""
    names[name] = names.get(name, 0) + 1
    return name if names[name] == 1 else _unique(f"{name}#{names[name]}", names)


def _is_recoverable(integers, quantizer, variable):
    """Return whether the quantizer gives the same integers again, as it may not beyond the precision of floats."""
    middle = quantizer.parameter_of(integers, to_numpy(quantizer.scale))
    again = quantizer.integers(keras.ops.convert_to_tensor(middle, variable.dtype))
    return np.array_equal(to_numpy(again), integers)


def _match(model, tensors):
    """Return pairs `(variable, value)` for all variables of a model and the arrays of a file.

    Quantized parameters come last, as functions that return their values: these may depend on other variables.
    """
    quantizers = {id(variable): quantizer for variable, quantizer in quantized_parameters(model)}
    plain = plain_variables(model)
    pairs: list = []
    left, quantized = [], []
    for variable, tensor in zip(plain, tensors, strict=False):
        quantizer = quantizers.get(id(variable))
        if tensor.integers is not None:
            if quantizer is None:
                raise FileFormatError(f"{tensor.name} has integers, but the model does not quantize it")
            _check_levels(quantizer, tensor)
            pairs.append(_scale_pair(quantizer, tensor.name, tensor.scale))
            quantized.append((variable, tensor.integers.shape, functools.partial(_middle, quantizer, tensor)))
            continue
        pairs.append((variable, tensor.values))
        if quantizer is not None:
            left.append(quantizer)
    expected = len(plain) + len(left)
    reader.check(len(tensors) == expected, f"it has {len(tensors)} arrays, and the model needs {expected}")
    for quantizer, tensor in zip(left, tensors[len(plain) :], strict=True):
        pairs.append(_scale_pair(quantizer, tensor.name, tensor.values))
    for variable, shape in [(v, value.shape) for v, value in pairs] + [(v, shape) for v, shape, _ in quantized]:
        reader.check(
            tuple(variable.shape) == shape,
            f"{variable.path} has the shape {tuple(variable.shape)} in the model and {shape} in the file",
        )
    return pairs + [(variable, value) for variable, _, value in quantized]


def _middle(quantizer, tensor):
    """Return the parameter of which a file has the integers."""
    return quantizer.parameter_of(tensor.integers, tensor.scale)


def _check_levels(quantizer, tensor):
    if quantizer.codebook is not None and tensor.integers.size:
        lowest, highest = quantizer.levels
        in_range = lowest <= tensor.integers.min() and tensor.integers.max() <= highest
        reader.check(in_range, f"{tensor.name} has integers without a level in the model")


def _scale_pair(quantizer, name, scale):
    reader.check(bool(np.all((scale > 0) & (scale < np.inf))), f"{name} has a scale that is not a positive number")
    return quantizer.scale_weight, quantizer.scale_weight_of(scale)
