"""`lqs.compress`: a small network from a float one, without labels and without training."""

import functools
import warnings

import keras
import numpy as np

from lqs.compression.examples import batches_of
from lqs.compression.layerwise import Network
from lqs.compression.search import Search
from lqs.file.sizes import file_bytes, fp32_bytes

MEASURES = ("predictions", "error")


def compress(model, x=None, max_change=None, ratio=None, bytes=None, measure=None, verbose=False, inference_only=False):
    """Return a quantized copy of a trained model, without labels and without training.

    Each kernel is rounded for the error of the model's outputs plus a rate times the bits of its integers, row by row,
    so that later rows make up for the error of earlier ones; each layer for the inputs that it has once the layers
    before it have been rounded. The rate is found by bisection. The idea is that of CERWU (Conzelmann and Bamler 2025,
    arXiv 2505.18758), after GPTQ (Frantar et al. 2022, arXiv 2210.17323) and optimal brain quantization (Frantar and
    Alistarh 2022, arXiv 2208.11580). How sensitive the outputs are to each unit is Hutchinson's estimate.

    This is for dense, einsum, recurrent and all kinds of convolutional layers, and so for attention. Other parameters,
    as those of embeddings and of custom layers, are rounded one by one, for how sensitive the outputs are to them.
    Those of normalization layers stay in float; of batch normalization, mean and variance are changed as they change in
    the examples, where that is nearer to the float network.

    What is returned has integers and frozen scales: it can be saved, dequantized and exported; `fit` goes on training
    parameters.

    Args:
        model: a built `keras.Model` in float.
        x: inputs like those that the model is for, some hundreds at least: an array, a list or dictionary of arrays, a
            `keras.utils.PyDataset`, `tf.data.Dataset` or generator of batches (of which 4,096 examples are read; labels
            in `(x, y)` are left out). A third is held out to measure the change. `None` takes random inputs, for
            `ratio` and `bytes` only: with convolutions that may be worse than to round to evenly spaced values.
        max_change: the largest change of the outputs, between 0 and 1, as `measure` says.
        ratio: how many times smaller than the parameters in float32 the `.lqs` file is to be.
        bytes: how many bytes the file is to have at most. It will have at least 98 % of them, if any rounding has.
        measure: what `max_change` is of. `"predictions"`: the share of examples whose largest output is another one,
            for scores of classes. `"error"`: the norm of the difference of the outputs over that of the outputs, for
            regression and embeddings, and always for outputs of one unit. `None` takes the first, but the second where
            the float model has the same largest output for all examples. Or a function of two lists of batches of
            arrays, the outputs of the float and of the quantized model, that returns a number.
        verbose: whether to print a line for each trial, and for each parameter of the result.
        inference_only: whether sizes are those of `lqs.save(..., inference_only=True)`. The result is the same kind of
            model either way.

    Returns:
        A model like those of `lqs.quantize`.

    Warns:
        UserWarning: if so few examples are held out that a single one which changes is more than `max_change`.

    Raises:
        ValueError: if not exactly one of `max_change`, `ratio` and `bytes` is given, or no model meets it; the message
            says what one does. Also as `lqs.quantize` and `lqs.save` do.

    Example:

    >>> from lqs.file.sizes import file_bytes
    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(50)])
    >>> small = compress(model, np.random.default_rng(0).normal(size=(90, 20)), bytes=1000)
    >>> file_bytes(small) <= 1000
    True
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"Argument `model` must be a built Keras model. Received: model={model!r}")
    name, value = _request(max_change, ratio, bytes)
    if measure is not None and measure not in MEASURES and not callable(measure):
        raise ValueError(f"Argument `measure` must be one of {MEASURES} or a function. Received: measure={measure!r}")
    if x is None and name == "max_change":
        raise ValueError("Argument `x` must be given for `max_change`, to measure it on. Received: x=None")
    batches, held_out = batches_of(x, model)
    network = Network(model, batches, held_out)
    if not network.parameters:
        raise ValueError(f"Argument `model` must have float parameters to quantize. Received: model {model.name!r}")
    if x is not None and not callable(measure):
        measure = functools.partial(change_of_outputs, measure=measure)
    search = Search(network, measure if x is not None else None, verbose, inference_only)
    if name == "max_change":
        _warn_if_too_few(network.outputs, measure, value)
        small = search.model_of(search.for_change(value))
    else:
        limit = int(value if name == "bytes" else fp32_bytes(model) / value)
        small = _of_size(search, limit, (name, value))
    if verbose:
        _report(network, small, file_bytes(small, inference_only))
    return small


def change_of_outputs(expected, outputs, measure=None):
    """Return how much the outputs of a model change: the share of other predictions, or the relative error.

    Args:
        expected: a list of batches, each a list of the arrays of the outputs.
        outputs: the same of the other model. Of several outputs, the largest change counts. NaN and infinity in one of
            the two make it infinite.
        measure: `"predictions"`, `"error"` or `None`, as in `compress`.

    Example:

    >>> change_of_outputs([[np.array([[1, 2], [2, 1]])]], [[np.array([[1, 3], [1, 2]])]])
    0.5
    >>> change_of_outputs([[np.array([[0, 3], [0, 4]])]], [[np.array([[0, 3], [0, 3]])]])  # always the second unit
    0.2
    """
    changes: list = []
    for some, others in zip(zip(*expected, strict=True), zip(*outputs, strict=True), strict=True):
        a, b = (np.concatenate([_in_rows(array) for array in arrays]) for arrays in (some, others))
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            changes.append(float("inf"))
        elif _are_scores(a, measure):  # equal ones, as those of dead units, take turns
            largest = np.take_along_axis(a, b.argmax(-1)[:, None], -1)[:, 0]
            changes.append(np.mean(a.max(-1) - largest > 1e-5 * a.std()))
        else:
            changes.append(np.linalg.norm(a - b) / (np.linalg.norm(a) + 1e-30))
    return float(max(changes))


def _are_scores(rows, measure):
    """Return whether outputs, `(examples, units)`, are compared by their largest unit."""
    if measure == "error" or rows.shape[-1] == 1:
        return False
    return measure == "predictions" or np.ptp(rows.argmax(-1)) > 0


def _warn_if_too_few(outputs, measure, max_change):
    """Warn if one held-out prediction is more than `max_change` of all."""
    if not isinstance(measure, functools.partial):
        return
    outputs = [np.concatenate([_in_rows(array) for array in arrays]) for arrays in zip(*outputs, strict=True)]
    counts = [len(rows) for rows in outputs if _are_scores(rows, measure.keywords["measure"])]
    if counts and 0 < max_change < 1 / min(counts):
        warnings.warn(
            f"{min(counts)} predictions are held out, so that a change of {max_change:g} means none of them. "
            f"Give {3 / max_change:,.0f} examples or more to measure it.",
            stacklevel=3,
        )


def _in_rows(array):
    """Return an array of two axes: the last one is that of the units, of which an output of one axis has one."""
    return array.reshape(-1, array.shape[-1] if array.ndim > 1 else 1)


def _request(max_change, ratio, bytes):
    """Return name and value of the one argument that is given."""
    given = {"max_change": max_change, "ratio": ratio, "bytes": bytes}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) != 1:
        raise ValueError(
            f"Exactly one of the arguments `max_change`, `ratio` and `bytes` must be given. Received: {given or 'none'}"
        )
    ((name, value),) = given.items()
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not is_number or not (0 <= value < 1 if name == "max_change" else 0 < value < np.inf):
        range_ = "from 0 to less than 1" if name == "max_change" else "more than 0"
        raise ValueError(f"Argument `{name}` must be a number {range_}. Received: {name}={value!r}")
    return name, value


def _of_size(search, limit, argument):
    """Return a model of at most `limit` bytes; names in the header may have the file differ from what was counted."""
    excess = 0
    while True:
        small = search.model_of(search.for_size(limit - excess, argument))
        if (size := file_bytes(small, search.inference_only)) <= limit:
            return small
        excess += size - limit


def _report(network, small, size):
    weights = network.model.weights
    for index, rounded in network.rounded.items():
        how = "by second moments of its inputs" if rounded.with_moments else "alone"
        integers = rounded.integers
        print(
            f"{weights[index].path} {tuple(integers.shape)}: {integers.min()} to {integers.max()}, "
            f"{np.mean(integers == 0):.0%} zeros, rounded {how}"
        )
    print(f"{size:,} bytes, {fp32_bytes(small) / size:.1f} times smaller")
