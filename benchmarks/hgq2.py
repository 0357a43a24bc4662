"""HGQ2 (Sun et al., arXiv 2405.00645) on the network and the budget of the leaderboard, in the same file format.

    KERAS_BACKEND=jax python benchmarks/hgq2.py

Trains the MNIST network of HGQ2's layers for each seed and each `beta`, the rate of its loss term, and writes two rows
for each into `data/peers.csv`. The package is not among the dependencies; `benchmarks/README.md` has its settings.

HGQ2 gives each weight a number of bits of its own. All weights of a tensor are then multiples of one power of two, the
scale of the tensor in a `.lqs` file. Accuracy is that of HGQ2's own network, which also quantizes the inputs of its
layers, as its users get it; a second row has that of the weights alone, in the plain network.
"""

import argparse

import keras
import numpy as np
from hgq.config import LayerConfigScope, QuantizerConfigScope
from hgq.layers import QDense
from hgq.utils import trace_minmax
from peers import write_rows

from lqs.conversion import from_integers
from lqs.file.sizes import file_bytes, fp32_bytes
from study import datasets
from study.configs import make_config
from study.networks import dense_network
from study.training import STEPS_PER_EXECUTION, fit

SEEDS = (42, 43)
BETAS = (1e-8, 1e-7, 1e-6, 1e-5)  # the last is HGQ2's default
MANTISSA_BITS = 24  # of float32


def hgq_network(model, beta):
    """Return the dense network `model` with layers of HGQ2, at its defaults, and the same weights."""
    hidden, output = model.layers[1:]
    with QuantizerConfigScope(), LayerConfigScope(beta0=beta):
        layers = [QDense(layer.units, activation=layer.activation, name=layer.name) for layer in (hidden, output)]
    copy = keras.Sequential([keras.Input(model.input_shape[1:]), keras.layers.Flatten(), *layers])
    set_weights(copy, model.get_weights())
    return copy


def trained(config, model, dataset):
    """Train a network of HGQ2 as the run `config` trains the float network, and return its EBOPs.

    The integer bits of its data are then those that the training images need.
    """
    model.compile(
        keras.optimizers.Adam(config.training.learning_rate, epsilon=config.training.epsilon),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=STEPS_PER_EXECUTION,
    )
    fit(config, model, dataset)
    return trace_minmax(model, as_input(config, dataset.x_train))


def as_input(config, images):
    """Return images as a network sees them in a run."""
    return images * np.float32(config.data.input_scale)


def quantized_weights(model):
    """Return the kernels and biases that a network of HGQ2 computes with."""
    tensors = [tensor for layer in model.layers[1:] for tensor in (layer.qkernel, layer.qbias)]
    return [keras.ops.convert_to_numpy(tensor) for tensor in tensors]


def needed_weights(model):
    """Return the same with zeros for those that change no output of the network.

    A pixel or a hidden unit without bits is always zero. The loss hardly reduces the weights that are multiplied by it
    or compute it, and they would be stored for nothing.
    """
    hidden_kernel, hidden_bias, output_kernel, output_bias = quantized_weights(model)
    pixels, units = (keras.ops.convert_to_numpy(layer.iq.bits)[0] > 0 for layer in model.layers[1:])
    hidden_kernel = np.where(pixels[:, None] & units, hidden_kernel, 0)
    return [hidden_kernel, np.where(units, hidden_bias, 0), np.where(units[:, None], output_kernel, 0), output_bias]


def set_weights(model, weights):
    """Give a network of HGQ2 other kernels and biases; its numbers of bits stay."""
    variables = [variable for layer in model.layers[1:] for variable in (layer.kernel, layer.bias)]
    for variable, values in zip(variables, weights, strict=True):
        variable.assign(values)


def power_of_two_step(values):
    """Return the greatest power of two that all values are multiples of, 1 if they are all zero.

    Example: of 0.75 and -0.5, 0.25.
    """
    mantissas, exponents = np.frexp(values[values != 0])
    if not mantissas.size:
        return 1.0
    odd_part = np.ldexp(mantissas, MANTISSA_BITS).astype("int64")
    trailing_zeros = np.frexp(odd_part & -odd_part)[1] - 1
    return 2.0 ** int(np.min(exponents - MANTISSA_BITS + trailing_zeros))


def as_nested(model, weights):
    """Return the network of the nested layer that computes with exactly these weights, for its file."""
    copy = keras.models.clone_model(model)
    copy.set_weights(weights)
    steps = [np.full([1] * values.ndim, power_of_two_step(values), "float32") for values in weights]
    integers = [(values / step).astype("int32") for values, step in zip(weights, steps, strict=True)]
    return from_integers(copy, list(zip(integers, steps, strict=True)))


def outputs(model, images):
    """Return the logits of images."""
    return model.predict(images, batch_size=1000, verbose=0)


def accuracy(logits, labels):
    """Return the share of images whose class has the largest logit."""
    return float(np.mean(logits.argmax(axis=-1) == labels))


def measure(dataset, beta, seed):
    """Train one network; return its rows of the table, and further numbers for `benchmarks/README.md`."""
    config = make_config("mnist", "float", seed=seed, protocol="compact")
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    model = dense_network(dataset.input_shape, dataset.num_classes)
    peer = hgq_network(model, beta)
    ebops = trained(config, peer, dataset)
    images = as_input(config, dataset.x_test)
    logits, stored = outputs(peer, images), quantized_weights(peer)
    set_weights(peer, needed_weights(peer))
    assert np.array_equal(outputs(peer, images), logits)
    nested = as_nested(model, quantized_weights(peer))
    name = np.format_float_scientific(beta, trim="-", exp_digits=1)
    row = {"method": f"HGQ2, beta {name}", "seed": seed, "accuracy": accuracy(logits, dataset.y_test)}
    row |= {"fp32_bytes": fp32_bytes(nested), "file_bytes": file_bytes(nested)}
    alone = accuracy(outputs(nested, images), dataset.y_test)
    rows = [row, {**row, "method": f"HGQ2 weights alone, beta {name}", "accuracy": alone}]
    return rows, {"all_weights_bytes": file_bytes(as_nested(model, stored)), "ebops": ebops}


def main():
    """Write each row into the table as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--betas", type=float, nargs="+", default=BETAS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    arguments = parser.parse_args()
    dataset = datasets.load("mnist")
    for seed in arguments.seeds:
        for beta in arguments.betas:
            rows, further = measure(dataset, beta, seed)
            print(rows, further, flush=True)
            write_rows(rows)


if __name__ == "__main__":
    main()
