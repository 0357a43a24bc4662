"""The nested layer as a figure that moves: one small training for each threshold, kept as what the page draws.

The network, the digits and the protocol are those of notebook 4, with one scale for each parameter.
"""

import json

import keras
import numpy as np

import lqs
from lqs.inspection import integer_statistics, model_integers, quantized_parameters
from study import networks
from study.book.pages import table
from study.datasets import load
from study.statistics import histogram

THRESHOLDS = (0.0, 1e-11, 3e-11, 1e-10, 3e-10, 1e-9, 3e-9, 1e-8)
EPOCHS = 10
BATCH_SIZE = 32
LEARNING_RATE = 8e-3
SEED = 42
MAX_BINS = 100


def histories(thresholds=THRESHOLDS, epochs=EPOCHS):
    """Return the states of the first kernel, `[threshold][epoch]`, from before the first epoch to after the last."""
    digits = load("digits")
    x_train, x_test = (images.astype("float32") for images in (digits.x_train, digits.x_test))
    keras.utils.set_random_seed(SEED)
    network = networks.dense_network(digits.input_shape, digits.num_classes)
    quantizer = lqs.NestedQuantization("scalar", lqs.GradientRatio(update_stalled=True))
    model = lqs.quantize(network, quantizer, quantizer)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(LEARNING_RATE), loss, metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    pairs = quantized_parameters(model)
    variables = [*model.weights, *model.optimizer.variables]
    initial = [variable.numpy() for variable in variables]

    def state():
        integers = next(iter(model_integers(model).values()))
        statistics = integer_statistics([integers])
        accuracy = model.evaluate(x_test, digits.y_test, batch_size=len(x_test), verbose=0)[1]
        numbers = {"scale": float(f"{float(np.ravel(pairs[0][1].scale)[0]):.4g}"), "accuracy": round(100 * accuracy, 1)}
        return {**numbers, **{name: int(statistics[name]) for name in ("unique", "min", "max")}, **histogram(integers, MAX_BINS)}

    found = []
    for threshold in thresholds:
        for variable, value in zip(variables, initial, strict=True):
            variable.assign(value)
        for _, each in pairs:
            each.rule.threshold.assign(threshold)
        np.random.seed(SEED)  # noqa: NPY002 - Keras shuffles by NumPy's global generator
        states = [state()]
        for _ in range(epochs):
            model.fit(x_train, digits.y_train, BATCH_SIZE, verbose=0)
            states.append(state())
        found.append(states)
    return found


TEXT = """\
# The nested layer, moved by hand

The layer replaces a parameter $P$ by $s \\lfloor P / s \\rfloor$: its elements fall to the steps of a staircase. Training
moves the parameter and the scale $s$ at once. The threshold $\\lambda$ of the thesis's rule says how small the gradient of
an element must be, measured by the element, so that it votes for a larger scale.

Below is the first kernel of the network of [notebook 4](/notebooks/04_nested_layer.ipynb), trained on scikit-learn's digits:
one training for each $\\lambda$, with one scale for each parameter. Move the two sliders, by hand or with the arrow keys.

```{{raw}} html
<div id="nested-figure" class="moving">
  <div class="moving-controls">
    <label for="nested-threshold">Threshold λ</label>
    <input type="range" id="nested-threshold" min="0" max="{last_threshold}" step="1" value="{threshold}">
    <label for="nested-epoch">Epoch</label>
    <input type="range" id="nested-epoch" min="0" max="{last_epoch}" step="1" value="{last_epoch}">
  </div>
  <p id="nested-reading" role="status" aria-live="polite"></p>
  <svg id="nested-picture" role="img" viewBox="0 0 640 430" aria-describedby="nested-reading">
    <title>The layer as a staircase, and the elements of the kernel on each step</title>
  </svg>
  <noscript>The figure needs JavaScript; the table below has its last epoch.</noscript>
</div>
<script type="application/json" id="nested-data">{data}</script>
<script src="../_static/nested.js"></script>
```

Above, the layer: where $P$ comes in, $P_r = s \\lfloor P / s \\rfloor$ goes out. Below, how many elements lie on each step. With
$\\lambda = 0$ no element votes, and the steps are too fine to be seen.

What to look for:

- From epoch to epoch, the steps widen quickly at first and then slowly: the layer never stops, it slows down.
- A larger $\\lambda$ widens them further. How many integers are left, and what does it cost?
- The accuracy is that of 297 test images, so that a few tenths of a point are one image.

## After the last epoch

{table}
"""


def nested_page(found=None):
    """Return the page, from the histories that are given, or that are trained here."""
    import pandas as pd

    found = found or histories()
    thresholds = [f"{threshold:g}" for threshold in THRESHOLDS[: len(found)]]
    last = pd.DataFrame([states[-1] for states in found])[["scale", "unique", "min", "max", "accuracy"]]
    last = last.rename(columns={"unique": "unique integers", "accuracy": "accuracy / %"})
    last.insert(0, "λ", thresholds)
    data = json.dumps({"thresholds": thresholds, "states": found}, separators=(",", ":"))
    ends = {"last_threshold": len(found) - 1, "threshold": (len(found) - 1) // 2, "last_epoch": len(found[0]) - 1}
    return TEXT.format(data=data, table=table(last.astype(object)), **ends)
