"""The nested layer as a figure that moves: one small training for each threshold, kept as what the page draws.

The network, the digits and the protocol are those of notebook 4, with one scale for each parameter.
"""

import json

import keras
import numpy as np
import pandas as pd

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


def histories(thresholds, epochs):
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
        scale = float(np.ravel(pairs[0][1].scale)[0])
        numbers = {"scale": float(f"{scale:.4g}"), "accuracy": round(100 * accuracy, 1)}
        counts = {name: int(statistics[name]) for name in ("unique", "min", "max")}
        return {**numbers, **counts, **histogram(integers, MAX_BINS)}

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


FIGURE = """\
<div class="moving">
  <div class="moving-controls">
    <label for="nested-threshold">Threshold λ</label>
    <input type="range" id="nested-threshold" min="0" max="{last_threshold}" step="1" value="{threshold}">
    <label for="nested-epoch">Epoch</label>
    <input type="range" id="nested-epoch" min="0" max="{last_epoch}" step="1" value="{last_epoch}">
  </div>
  <p id="nested-reading" role="status" aria-live="polite"></p>
  <svg id="nested-picture" role="img" viewBox="0 0 640 430" aria-describedby="nested-reading"></svg>
  <noscript>The figure needs JavaScript; the table below has its last epoch.</noscript>
</div>
<script type="application/json" id="nested-data">{data}</script>
<script src="../_static/nested.js"></script>
"""


def nested_figure(thresholds=THRESHOLDS, epochs=EPOCHS):
    """Return the figure as HTML, and a table of its last epoch; it trains the network once for each threshold."""
    found = histories(thresholds, epochs)
    names = [f"{threshold:g}" for threshold in thresholds]
    last = pd.DataFrame([states[-1] for states in found])[["scale", "unique", "min", "max", "accuracy"]]
    last = last.rename(columns={"unique": "unique integers", "accuracy": "accuracy / %"}).astype(object)
    last.insert(0, "λ", names)
    data = json.dumps({"thresholds": names, "states": found}, separators=(",", ":"))
    middle = (len(found) - 1) // 2
    html = FIGURE.format(data=data, last_threshold=len(found) - 1, threshold=middle, last_epoch=epochs)
    return html, table(last)
