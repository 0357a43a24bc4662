"""`lqs.save` and `lqs.load`: a quantized Keras model as a small file."""

import contextlib
import functools
import random
from pathlib import Path

import keras
import numpy as np

from lqs._keras import Functional, global_state, variables_from_values
from lqs.copying import cause_of, copy_own_variables
from lqs.file import reader, writer
from lqs.file.assets import ASSET, assets_of, load_assets
from lqs.file.atomic import write_atomically
from lqs.file.checks import check_savable
from lqs.file.configuration import configuration_of, model_of
from lqs.file.inference import (
    check_for_inference,
    configuration_for_inference,
    folded_normalizations,
    is_frozen,
    left_out,
)
from lqs.file.reader import MAX_BYTES, FileFormatError, Tensor
from lqs.inspection import nested_layers, quantized_parameters, set_shares, to_numpy, warn_of_training

SUFFIX = ".lqs"
SEED_DTYPE = "uint32"  # of the state of a seed, which has another dtype on each backend


def save(model, path, float_dtype="float32", inference_only=False):
    """Write a Keras model to a `.lqs` file: entropy-coded integers and scales in place of quantized parameters.

    What is kept: the architecture, the integers and the scale of every quantized parameter, and every other variable.
    What is not: where within its bin a quantized parameter was (further training starts from the middle), and
    what `compile` was given. The file is written whole or not at all, and only if a model can be made of it again.

    Args:
        model: a built `keras.Model`, quantized or not.
        path: path of the file, which ends in `.lqs`.
        float_dtype: what to store float parameters in that are not quantized: `"float32"`, `"float16"` or
            `"bfloat16"`. The latter two round them. Scales always stay as they are.
        inference_only: whether to leave out what training alone needs, for a smaller file: penalties, rules of scales,
            initializers, regularizers and constraints, and the statistics of batch normalizations, which its `gamma`
            and `beta` take in. The model in the file predicts the same, up to rounding of float32, and comes back with
            nothing trainable. Do not train it on: its batch normalizations have no statistics to go on from. A model
            that calls a batch normalization with `training=True` by itself is refused, where a call of Keras without
            values finds that; other code that asks for `trainable` is not looked into.

    Raises:
        ValueError: if an argument is not as above, a variable is not finite, an integer is beyond int32, or the model
            cannot be rebuilt from its configuration, or this has code in it, such as a `Lambda` layer.

    Warns:
        UserWarning: if the model has been trained, and no scale has changed, or integers take 12 bits or more.

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
    content = pack_model(model, float_dtype, inference_only)
    _check_loads(content, model)
    warn_of_training(model)
    write_atomically(path, content)


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
    configuration, tensors = reader.read(path, max_bytes)
    with _as_format_errors(), _forgetting_variables(only_if_failed=True):
        model, pairs, assets = _rebuild(configuration, tensors)
        with keras.StatelessScope():
            pass  # at its end, Keras gives values to the variables that have none
    for variable, value in pairs:
        variable.assign(value() if callable(value) else value)
    with _as_format_errors():
        for layer in model._flatten_layers():  # some derive further state from their variables when these are loaded
            copy_own_variables(layer, layer)
        load_assets(model, assets)
    set_shares(model)
    if is_frozen(configuration):  # which a Sequential does not keep
        for layer in model._flatten_layers():  # each, as Keras may not tell those inside of a frozen one
            layer.trainable = False
    return model


def pack_model(model, float_dtype="float32", inference_only=False):
    """Return the bytes of the `.lqs` file of a model; the arguments are those of `save`."""
    return writer.pack(*encode_model(model, float_dtype, inference_only))


def encode_model(model, float_dtype="float32", inference_only=False, slow=True):
    """Return what `writer.pack` takes, the configuration of a model and its encoded tensors.

    The tensors are in the order of `plain_variables`, after which come the scales of those that are stored as floats,
    and the files that layers keep. The arguments are those of `save`, and `slow` of `writer.encode_integers`.
    """
    check_savable(model)
    if float_dtype not in reader.FLOATS[:3]:
        raise ValueError(
            f"Argument `float_dtype` must be one of {reader.FLOATS[:3]}. Received: float_dtype={float_dtype!r}"
        )
    configuration = configuration_of(model)
    if inference_only:
        check_for_inference(model)
        configuration = configuration_for_inference(configuration)
    encoded = _encoded(model, float_dtype, inference_only, slow)
    return configuration, [({"name": name, **entry}, sections) for name, entry, sections in encoded]


def _rebuild(configuration, tensors):
    """Return the model of a file, without values, pairs `(variable, value)`, and the tensors that are files."""
    # Without values at first, so that a configuration cannot ask for more memory than the arrays take.
    with keras.StatelessScope(initialize_variables=False), variables_from_values():
        model = model_of(configuration)
        return model, *_match(model, tensors)


def _check_loads(content, saved):
    """Raise unless the saved model can be made of a file that was just packed, by everything in it but the codes."""
    try:
        with _as_format_errors(), _forgetting_variables(), _restoring_global_state():
            configuration, entries = reader.parse_header(content, max_bytes=np.inf)
            _rebuild(configuration, [_without_values(entry) for entry in entries])
    except FileFormatError as error:
        raise ValueError(f"Argument `model` must be one that can be loaded again. {error}{_hint(saved)}") from error


def _hint(model):
    """Return what to do about a layer that stands in several graphs: by its configuration, Keras makes it for each."""
    graphs = [inner for inner in model._flatten_layers() if isinstance(inner, Functional)]
    places = [(layer, graph) for graph in graphs for layer in graph.layers if layer.weights]
    for layer, graph in places:
        for other, second in places:
            if other is layer and second is not graph:
                return (
                    f". Layer {layer.name!r} is part of both {graph.name!r} and {second.name!r}: make one graph of "
                    "them, by the tensors `model.input` and `model.output` of the one inside instead of a call of it, "
                    "or give the model a class of its own with a `get_config`"
                )
    return ""


def _without_values(entry):
    """Return the `Tensor` of an entry, with constants, that take no memory, for its arrays."""
    name, dtype, shape = entry["name"], entry["dtype"], tuple(entry["shape"])
    if "scale" not in entry:
        return Tensor(name, dtype, values=np.broadcast_to(np.float32(1), shape))
    integers = np.broadcast_to(np.int32(entry["min"]), shape)
    return Tensor(name, dtype, integers=integers, scale=np.ones(entry["scale"]["shape"], "float32"))


@contextlib.contextmanager
def _as_format_errors():
    """Turn every error of the block into a `FileFormatError`: a configuration can make any layer raise anything."""
    try:
        yield
    except FileFormatError:
        raise
    except Exception as error:
        raise FileFormatError(f"The model cannot be rebuilt: {type(error).__name__}: {cause_of(error)}") from error


@contextlib.contextmanager
def _forgetting_variables(only_if_failed=False):
    """Remove the variables made in the block from those that Keras is to give values to."""
    name = "uninitialized_variables"
    known = list(global_state.get_global_attribute(name, []))
    succeeded = False
    try:
        yield
        succeeded = True
    finally:
        if not (succeeded and only_if_failed):
            global_state.set_global_attribute(name, known)


@contextlib.contextmanager
def _restoring_global_state():
    """Let the block make layers without an effect on the names and seeds of later ones."""
    name = "object_name_uids"
    names, state = dict(global_state.get_global_attribute(name, {})), random.getstate()
    try:
        yield
    finally:
        random.setstate(state)
        uids = global_state.get_global_attribute(name)
        if uids is not None:
            uids.clear()
            uids.update(names)


def plain_variables(model, inference_only=False):
    """Return the variables that a file has, in their order, without the scales of quantized parameters."""
    absent = left_out(model) if inference_only else set()
    absent |= {id(quantizer.scale_weight) for _, quantizer in quantized_parameters(model)}
    return [variable for variable in model.variables if id(variable) not in absent]


def _encoded(model, float_dtype, inference_only, slow):
    """Yield `(name, entry, sections)` of all variables: first those without scales, then scales of the rest."""
    quantizers = {id(variable): quantizer for variable, quantizer in quantized_parameters(model)}
    exact = {id(variable) for layer in nested_layers(model) for variable in layer.variables}  # also thresholds
    names: dict[str, int] = {}
    left, plain = [], plain_variables(model, inference_only)
    values = folded_normalizations(model) if inference_only else {}  # of variables that are stored with other ones
    name_of = {id(variable): _unique(_name(variable), names) for variable in plain}
    for variable in plain:
        value, quantizer = to_numpy(variable.value), quantizers.get(id(variable))
        value = values.get(id(variable), value).astype(value.dtype)
        name = name_of[id(variable)]
        integers = None if quantizer is None else to_numpy(quantizer.integers(variable.value))
        if quantizer is not None and _is_recoverable(integers, quantizer, variable):
            entry, sections = writer.encode_integers(integers, quantizer.exact_scale, variable.dtype, slow)
            if quantizer.codebook is not None:
                entry |= {"levels": name_of[id(quantizer.codebook)], "lowest": quantizer.levels[0]}
            yield name, entry, sections
            continue
        if quantizer is not None:
            left.append((f"{name}/scale", quantizer.exact_scale))
        kept = quantizer is not None or id(variable) in exact or variable.dtype not in ("float32", "float64")
        dtype = SEED_DTYPE if _is_seed(variable) and value.max() <= np.iinfo(SEED_DTYPE).max else variable.dtype
        yield name, *_encode_numbers(name, value, dtype, None if kept else float_dtype)
    for name, value in left:
        yield _unique(name, names), *writer.encode_numbers(value)
    for name, value in assets_of(model):
        yield _unique(name, names), *writer.encode_numbers(value)


def _encode_numbers(name, value, dtype, stored):
    try:
        return writer.encode_numbers(value, dtype, stored)
    except ValueError as error:
        raise ValueError(f"Argument `float_dtype` must hold {name}. {error}") from error


def _is_seed(variable):
    return variable.name == "seed_generator_state"


def _name(variable):
    """Return the path of a variable, without numbers that set it apart, or that Keras counts for states of seeds."""
    folder = "seed_generator" if _is_seed(variable) else variable.path.rpartition("/")[0]
    return f"{folder}/{variable.name}" if folder else variable.name


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
    """Return pairs `(variable, value)` for all variables of a model and the arrays of a file, and the arrays left.

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
    assets = [tensor for tensor in tensors[expected:] if ASSET.fullmatch(tensor.name)]
    num_arrays = len(tensors) - len(assets)
    reader.check(num_arrays == expected, f"it has {num_arrays} arrays, and the model needs {expected}")
    for quantizer, tensor in zip(left, tensors[len(plain) : expected], strict=True):
        pairs.append(_scale_pair(quantizer, tensor.name, tensor.values))
    for variable, shape in [(v, value.shape) for v, value in pairs] + [(v, shape) for v, shape, _ in quantized]:
        reader.check(
            tuple(variable.shape) == shape,
            f"{variable.path} has the shape {tuple(variable.shape)} in the model and {shape} in the file",
        )
    return pairs + [(variable, value) for variable, _, value in quantized], assets


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
