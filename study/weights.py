"""Trained weights of runs: an `.npz` of a float network, a `.lqs` file of a quantized one."""

import io
from pathlib import Path

import numpy as np

from lqs.file.atomic import write_atomically
from lqs.file.saving import save
from study.methods import FLOAT
from study.paths import RUNS, WEIGHTS
from study.records import read_current_record


def weights_path(config, weights=WEIGHTS):
    """Return where the trained weights of a run are kept: `weights/<dataset>/<id>.npz`, or `.lqs` if quantized."""
    suffix = ".npz" if config.quantizer.method == FLOAT else ".lqs"
    return Path(weights) / config.data.dataset / f"{config.id}{suffix}"


def write_weights(config, model, weights=WEIGHTS):
    """Write what was trained to `weights_path`: the weights of a float network, or a `.lqs` file."""
    path = weights_path(config, weights)
    if path.suffix == ".npz":
        write_arrays(path, *model.get_weights())
    else:
        save(model, path)


def is_kept(config, root=RUNS, weights=WEIGHTS):
    """Return whether both record and weights of a run are there; one that was killed may have left one of them."""
    return read_current_record(config, root) is not None and weights_path(config, weights).exists()


def write_arrays(path, *arrays, **named):
    """Write arrays as `numpy.savez` does, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, *arrays, **named)
    write_atomically(path, buffer.getvalue())


def read_weights(config, weights=WEIGHTS):
    """Return the weights of a trained float network, in the order of `get_weights`."""
    with np.load(weights_path(config, weights)) as archive:
        return [archive[name] for name in archive.files]
