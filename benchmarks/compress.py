"""Size and accuracy of `lqs.compress`, beside rounding to the nearest, through the same coder.

    LQS_MIRROR=... python benchmarks/compress.py mnist
    python benchmarks/compress.py MobileNetV2

`mnist` trains the thesis's dense network and a small convolutional one in float for some epochs, and compresses each by
unlabelled training images. The name of a network of `keras.applications` compresses that one at 64 x 64 pixels, with
random weights and statistics of normalization of its own: for time and memory, and how near its outputs stay. Prints a
table.
"""

import resource
import sys
import time

import keras
import numpy as np
from keras import layers

import lqs
from lqs.file.sizes import file_bytes, fp32_bytes
from study import datasets, networks

NUM_EXAMPLES = 6000
REQUESTS = [
    *({"max_change": c} for c in (0.001, 0.002, 0.005, 0.01)),
    *({"ratio": r} for r in (10, 15, 20, 25, 30, 35)),
]
HEADINGS = ("network", "how", "bytes", "times smaller", "accuracy (%)", "to float (points)", "seconds")


def convolutional():
    """Return a convolutional network with batch normalization."""
    convolutions = [
        part
        for filters in (16, 32)
        for part in (
            layers.Conv2D(filters, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
        )
    ]
    head = [layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), *convolutions, *head])


def trained(make, x, y, epochs, seed):
    """Return a float network that has been trained."""
    keras.utils.set_random_seed(seed)
    model = make()
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, epochs * (len(x) // 128))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(schedule), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0)
    return model


def to_nearest(model, bits):
    """Return a model each of whose parameters is rounded to the nearest of evenly spaced values."""
    prototype = lqs.NestedQuantization(rounding="nearest", bits=bits, rule=lqs.Frozen(), initial_scale="max")
    return lqs.quantize(model, prototype, prototype)


def rows_of(name, model, x, x_test, y_test, requests):
    """Yield the rows of the table of a network."""

    def accuracy(some):
        return 100 * float(np.mean(some.predict(x_test, batch_size=1000, verbose=0).argmax(-1) == y_test))

    full = accuracy(model)

    def row(how, make):
        start = time.perf_counter()
        small = make()
        seconds, size, result = time.perf_counter() - start, file_bytes(small), accuracy(small)
        cells = f"{size:,}", f"{fp32_bytes(model) / size:.1f}", f"{result:.2f}", f"{result - full:+.2f}"
        return name, how, *cells, f"{seconds:.0f}"

    yield name, "float", f"{fp32_bytes(model):,}", "1", f"{full:.2f}", "", ""
    for bits in (8, 6, 5, 4, 3):
        yield row(f"nearest, {bits} bits", lambda bits=bits: to_nearest(model, bits))
    for request in requests:
        ((key, value),) = request.items()
        yield row(f"`{key}={value}`", lambda request=request: lqs.compress(model, x, **request))
    yield row("`ratio=10`, 300 examples", lambda: lqs.compress(model, x[:300], ratio=10))
    yield row("`ratio=10`, without examples", lambda: lqs.compress(model, ratio=10))


def mnist(requests):
    """Yield the rows of the two networks."""
    data = datasets.load("mnist")
    x, x_test = (images / np.float32(255) for images in (data.x_train, data.x_test))
    makes = {"dense": (lambda: networks.dense_network((28, 28, 1), 10), 10), "convolutional": (convolutional, 4)}
    for name, (make, epochs) in makes.items():
        model = trained(make, x, data.y_train, epochs, seed=1)
        yield from rows_of(name, model, x[:NUM_EXAMPLES], x_test, data.y_test, requests)


def application(name, ratio):
    """Print time, memory and error of a network of `keras.applications`."""
    keras.utils.set_random_seed(0)
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None)
    x = np.kron(np.random.default_rng(0).normal(size=(384, 8, 8, 3)), np.ones((1, 8, 8, 1))).astype("float32")
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(x[:192], training=True)
    start = time.perf_counter()
    small = lqs.compress(model, x, ratio=ratio, measure=relative_error, verbose=True)
    seconds, size = time.perf_counter() - start, file_bytes(small)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    expected, found = (some.predict(x, verbose=0) for some in (model, small))
    print("| network | parameters | bytes | times smaller | same predictions | seconds | peak memory (GB) |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    agreement = np.mean(expected.argmax(-1) == found.argmax(-1))
    cells = f"{model.count_params():,}", f"{size:,}", f"{fp32_bytes(model) / size:.1f}", f"{agreement:.1%}"
    print(f"| {name} | {' | '.join(cells)} | {seconds:.0f} | {memory:.1f} |")


def relative_error(expected, found):
    """Return the error of outputs relative to their deviation from their mean."""
    a, b = (np.concatenate([arrays[0] for arrays in some]) for some in (expected, found))
    return float(np.linalg.norm(a - b) / np.linalg.norm(a - a.mean(0)))


def main():
    """Print the table that is asked for."""
    name = sys.argv[1]
    if name != "mnist":
        application(name, float(sys.argv[2]) if len(sys.argv) > 2 else 8)
        return
    print(f"| {' | '.join(HEADINGS)} |\n|{' --- |' * len(HEADINGS)}")
    for row in mnist(REQUESTS):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
