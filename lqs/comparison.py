"""`lqs.compare`: a small network beside the one that it was made of."""

import statistics
import time
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from lqs.compression import change_of_outputs
from lqs.compression.examples import arrays_of, check_outputs
from lqs.file.sizes import file_bytes

if TYPE_CHECKING:
    import pandas as pd

BATCH_SIZE, ROUNDS, SECONDS_A_ROUND = 32, 5, 0.02


def compare(model: keras.Model, small: keras.Model, x: Any) -> "pd.DataFrame":
    """Return a table of what a small model keeps of another one, and what it takes.

    | column | what it is |
    | --- | --- |
    | `agreement` | share of the examples whose largest output is the same; for one output, 1 less its relative error |
    | `largest_difference` | of an output |
    | `bytes` | of the file that `lqs.save` writes |
    | `milliseconds` | of a prediction for the first 32 examples, the median of five rounds in turns |

    Of several outputs the least agreement counts. Keras computes with floats, also in a small model, which is therefore
    no faster. What the files of `lqs.export` take, their runtimes tell.

    Args:
        model: a built `keras.Model`, in float or not.
        small: another one, as of `lqs.quantize` or `lqs.compress`, with the same inputs and outputs.
        x: inputs, as `lqs.compress` takes them: an array, a list or dictionary of arrays, or what gives batches, of
            which 4,096 examples are read.

    Returns:
        `pandas.DataFrame` with the rows `model` and `small`.

    Raises:
        ValueError: if `x` does not hold examples, or the outputs are not finite or not of the same shapes; also as
            `lqs.save` does.

    Example:

    >>> from lqs.compression import compress
    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(50)])
    >>> x = np.random.default_rng(0).normal(size=(90, 20))
    >>> table = compare(model, compress(model, x, bytes=1000), x)
    >>> bool(table.loc["small", "bytes"] <= 1000), float(table.loc["model", "agreement"])
    (True, 1.0)
    """
    import pandas as pd

    models = {"model": model, "small": small}
    for name, each in models.items():
        if not isinstance(each, keras.Model) or not each.built:
            raise ValueError(f"Argument `{name}` must be a built Keras model. Received: {name}={each!r}")
    x = arrays_of(x)
    outputs = {name: _outputs(each, x) for name, each in models.items()}
    for name, arrays in outputs.items():
        check_outputs(arrays, name, x)
    shapes = {name: [array.shape for array in arrays] for name, arrays in outputs.items()}
    if shapes["model"] != shapes["small"]:
        raise ValueError(f"Argument `small` must have outputs of the shapes of those of `model`. Received: {shapes}")
    milliseconds = _milliseconds(models, keras.tree.map_structure(lambda array: array[:BATCH_SIZE], x))
    expected = outputs["model"]
    rows = {
        name: {
            "agreement": 1.0 - change_of_outputs([expected], [arrays], "predictions"),
            "largest_difference": max(
                float(np.abs(a - b).max(initial=0.0)) for a, b in zip(expected, arrays, strict=True)
            ),
            "bytes": file_bytes(models[name]),
            "milliseconds": milliseconds[name],
        }
        for name, arrays in outputs.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _outputs(model: keras.Model, x: Any) -> list[np.ndarray]:
    """Return the outputs of a model as float arrays."""
    return [np.asarray(array, "float32") for array in keras.tree.flatten(model.predict(x, BATCH_SIZE, verbose=0))]


def _milliseconds(models: dict[str, keras.Model], x: Any) -> dict[str, float]:
    """Return the median over rounds, in which the models take turns, of the milliseconds of a prediction."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(ROUNDS + 1):  # the first one compiles
        for name, model in models.items():
            start, count = time.perf_counter(), 0
            while not count or (number and time.perf_counter() - start < SECONDS_A_ROUND):
                model.predict_on_batch(x)
                count += 1
            if number:
                times[name].append(1e3 * (time.perf_counter() - start) / count)
    return {name: statistics.median(values) for name, values in times.items()}
