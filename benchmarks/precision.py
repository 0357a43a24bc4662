"""What TensorFloat-32 does to the integers: the thesis's MNIST curve with it, emulated on a CPU.

    KERAS_BACKEND=jax python benchmarks/precision.py

A GPU that multiplies in TensorFloat-32 rounds both factors of a matrix product, forward and backward, to 10 bits after
the point, and adds in float32. `jax.lax.reduce_precision` does the rounding here, for every product of the dense
network; all else stays. Writes `data/precision.csv`, one row per run; those in float32 are the committed records of
the same seeds.
"""

import tempfile
from pathlib import Path

import jax
import pandas as pd
from keras.src import ops  # what Keras's layers call

from study import training
from study.configs import make_config
from study.paths import DATA
from study.records import read_record

TABLE = DATA / "precision.csv"
STRENGTHS = (0.0, 1e-11, 1e-10, 1e-9, 1e-8)
SEEDS = (42, 43, 44)
EXPONENT_BITS, SIGNIFICAND_BITS = 8, 10


def rounded(factor):
    """Return a float32 tensor rounded to the precision of TensorFloat-32."""
    return jax.lax.reduce_precision(factor, EXPONENT_BITS, SIGNIFICAND_BITS)


@jax.custom_vjp
def product(left, right):
    """Return the product of two matrices, its factors rounded; so are those of its gradients."""
    return rounded(left) @ rounded(right)


def product_forward(left, right):
    """Return the product, and what its gradient needs."""
    return product(left, right), (left, right)


def product_backward(factors, upstream):
    """Return the gradients of both factors."""
    left, right = factors
    return product(upstream, right.T), product(left.T, upstream)


product.defvjp(product_forward, product_backward)


def matmul(left, right):
    """Stand in for `keras.ops.matmul`, which takes variables, too."""
    return product(ops.convert_to_tensor(left), ops.convert_to_tensor(right))


def row_of(record, precision):
    """Return the row of a record."""
    config, final = record["config"], record["final"]
    named = {"precision": precision, "granularity": config["granularity"], "strength": config["strength"]}
    return {**named, "seed": config["seed"], **{name: final[name] for name in ("unique", "min", "max", "val_accuracy")}}


def main():
    """Train the curve in emulated precision and write the table."""
    ops.matmul = matmul
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for strength in STRENGTHS:
            for seed in SEEDS:
                config = make_config("mnist", "nested", strength, "row", seed=seed)
                rows.append(row_of(read_record(config), "float32"))
                rows.append(row_of(training.train(config, folder, Path(folder)), "tensorfloat32, emulated"))
                print(rows[-2], rows[-1], sep="\n", flush=True)
    pd.DataFrame(rows).sort_values(["strength", "precision", "seed"]).to_csv(TABLE, index=False)


if __name__ == "__main__":
    main()
