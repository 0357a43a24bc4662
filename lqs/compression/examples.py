"""Examples to compress a model by, from whatever holds them: batches of NumPy arrays."""

import itertools

import keras
import numpy as np

from lqs._keras import Functional
from lqs.inspection import to_numpy

MAX_EXAMPLES = 4096  # read from what may have no end
BATCH_NUMBERS, BATCH_SIZES, NUMBERS_OF_A_TOKEN = 2**20, (8, 512), 64
NUM_DRAWN = 256  # where there are no examples
HELD_OUT = 3  # one of so many examples


def batches_of(x, model):
    """Return two lists of batches of inputs: to compress by, and to measure on, every third example.

    Args:
        x: an array, a list or dictionary of arrays, or what gives batches of these: a `keras.utils.PyDataset`, a
            `tf.data.Dataset`, a generator. A tuple, also one that is a batch, is `(x, y)` or `(x, y, sample_weight)`,
            as `fit` takes it, of which the inputs are used. `None` draws inputs: normal numbers, and token numbers.
        model: the model, for inputs to be drawn.

    Raises:
        ValueError: if there are no two examples, or no inputs can be drawn.
    """
    x = arrays_of(_drawn(model) if x is None else x, least=2)
    size = num_examples([x])
    order = np.random.default_rng(0).permutation(size)
    num_held_out = -(-size // HELD_OUT)
    held_out, rest = np.sort(order[:num_held_out]), order[num_held_out:]
    return _batches(x, rest), _batches(x, held_out)


def arrays_of(x, least=1):
    """Return inputs as NumPy arrays.

    Args:
        x: as of `batches_of`, but not `None`.
        least: number of examples that there must be.

    Raises:
        ValueError: if `x` is nothing like that.
    """
    x = _without_labels(x)
    if not isinstance(x, (list, dict)) and not hasattr(x, "__array__"):
        x = _joined(x)
    x = keras.tree.map_structure(_as_array, x)
    sizes = {len(array) for array in keras.tree.flatten(x)}
    if len(sizes) != 1 or min(sizes) < least:
        raise ValueError(
            f"Argument `x` must hold at least {least} examples, the same number for each input of the model. "
            f"Received: arrays of {sorted(sizes)} examples"
        )
    return x


def read_arrays(path, model):
    """Return the inputs of a model in a `.npy` or `.npz` file: its one array, or a dictionary by names of the inputs.

    Raises:
        ValueError: if there are several arrays, and not one for each name.
    """
    loaded = np.load(path)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded as file:
        arrays = dict(file)
    if len(arrays) == 1:
        (array,) = arrays.values()
        return array
    inputs = symbolic_inputs(model)
    names = [tensor.name for tensor in keras.tree.flatten(inputs)]
    if sorted(arrays) != sorted(names):
        raise ValueError(f"{path} must hold one array, or those of the inputs {names}. Received: {sorted(arrays)}")
    return keras.tree.map_structure(lambda tensor: arrays[tensor.name], inputs)


def symbolic_inputs(model):
    """Return the symbolic inputs of a model as its call takes them, an empty list if its code alone knows them."""
    try:
        return model.input if isinstance(model, Functional) else model.inputs
    except (AttributeError, ValueError):  # as a subclassed one, and a Sequential of such layers
        return []


def num_examples(batches):
    """Return how many examples batches hold together."""
    return sum(len(keras.tree.flatten(batch)[0]) for batch in batches)


def check_outputs(arrays, name, x):
    """Raise if outputs of the model that is the argument `name` are not finite, perhaps by its inputs `x`."""
    if all(np.isfinite(array).all() for array in arrays):
        return
    if not all(np.isfinite(array).all() for array in keras.tree.flatten(x) if array.dtype.kind == "f"):
        raise ValueError("Argument `x` must be finite. Received: x with NaN or infinity")
    raise ValueError(f"Argument `{name}` must have finite outputs. Received: outputs with NaN or infinity")


def _batches(x, indices):
    """Return batches that are the smaller the larger an example is."""
    arrays = keras.tree.flatten(x)
    numbers = sum(array[:1].size * (1 if array.dtype.kind == "f" else NUMBERS_OF_A_TOKEN) for array in arrays)
    batch_size = int(np.clip(BATCH_NUMBERS // max(numbers, 1), *BATCH_SIZES))
    parts = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    return [keras.tree.map_structure(lambda array, part=part: array[part], x) for part in parts]


def _without_labels(x):
    """Return the inputs in `(x, y)`; a list is one of inputs."""
    return x[0] if isinstance(x, tuple) and x else x


def _as_array(array):
    if not len(getattr(array, "shape", ())):
        raise _is_no_input(f"x with {array!r}")
    array = to_numpy(array) if keras.ops.is_tensor(array) else np.asarray(array)
    return array.astype("float32") if array.dtype == "float64" else array


def _joined(batches):
    """Return the inputs in batches."""
    if isinstance(batches, keras.utils.PyDataset):
        batches = map(batches.__getitem__, range(batches.num_batches))
    if not hasattr(batches, "__iter__"):
        raise _is_no_input(f"x={batches!r}")
    read, size = [], 0
    for batch in itertools.islice(batches, MAX_EXAMPLES):
        batch = keras.tree.map_structure(_as_array, _without_labels(batch))
        read.append(batch)
        size += len(keras.tree.flatten(batch)[0])
        if size >= MAX_EXAMPLES:
            break
    if not read:
        raise ValueError(f"Argument `x` must hold examples. Received: x={batches!r} without any")
    return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *read)


def _is_no_input(received):
    """Return the error of what is neither an array nor holds any."""
    return ValueError(
        "Argument `x` must be an array, a list or dictionary of arrays, or a dataset or generator of batches of "
        f"these. Received: {received}"
    )


def _drawn(model):
    rng = np.random.default_rng(0)
    tables = [layer.input_dim for layer in model._flatten_layers() if isinstance(layer, keras.layers.Embedding)]

    def draw(tensor):
        shape = (NUM_DRAWN, *tensor.shape[1:])
        if None in shape:
            raise ValueError(f"Argument `x` must be given for a model with inputs of any size. Received: {tensor}")
        if tensor.dtype == "string":
            raise ValueError(f"Argument `x` must be given for a model with inputs of strings. Received: {tensor}")
        if keras.backend.is_float_dtype(tensor.dtype):
            return rng.normal(size=shape).astype("float32")
        return rng.integers(0, min(tables, default=2), shape).astype(tensor.dtype)

    inputs = symbolic_inputs(model)
    if not keras.tree.flatten(inputs):
        raise ValueError("Argument `x` must be given for a model whose code alone knows its inputs. Received: x=None")
    drawn = keras.tree.map_structure(draw, inputs)
    return drawn[0] if isinstance(drawn, list) and len(drawn) == 1 else drawn
