"""Populations: many strengths and seeds of one setting trained at once, on one device, with the Keras JAX backend.

    KERAS_BACKEND=jax python -m study.gpu.population cifar10 --minutes 9

`study.gpu.epochs` tells how. Arithmetic is float32 throughout; the factors of matrix products are of the
configuration's `precision`. Each command goes on from the records and the checkpoints that earlier ones left.
"""

import contextlib
import dataclasses
import math
import sys
import time
from pathlib import Path

import click
import jax
import keras
import numpy as np
from jax import numpy as jnp

from study import training
from study.configs import float_config
from study.environment import environment
from study.examples import load_dataset
from study.gpu.epochs import assign_state, initial_state, make_epoch
from study.grid import curve_configs, read_grid
from study.methods import validate_quantizer
from study.paths import CHECKPOINTS, GRID, RUNS, WEIGHTS
from study.records import read_current_record, record_path, write_record
from study.weights import is_kept, write_arrays, write_weights

SECONDS_BETWEEN_CHECKPOINTS = 60
EXIT_CODE_LEFT = 3


class Clock:
    """Tells whether a piece of work fits into the minutes that a command may take; the first one always does."""

    def __init__(self, minutes=math.inf):
        self.end = time.monotonic() + 60 * minutes
        self.longest: dict[str, float] = {}  # seconds of a piece of work, by kind

    def fits(self, kind):
        """Return whether a piece of work as long as the longest of its kind so far would end in time."""
        return not self.longest or time.monotonic() + self.longest.get(kind, 0.0) <= self.end

    @contextlib.contextmanager
    def timed(self, kind):
        """Take note of how long the block takes."""
        start = time.monotonic()
        yield
        self.longest[kind] = max(time.monotonic() - start, self.longest.get(kind, 0.0))


@dataclasses.dataclass
class Progress:
    """What a population is after some epochs: all that a checkpoint holds.

    Args:
        state: as in `study.gpu.epochs`.
        num_members: number of members trained at once.
        history: `{name: (members, epochs)}`.
        seconds: that training took so far.
    """

    state: tuple
    num_members: int
    history: dict = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    @property
    def num_epochs(self):
        """Number of epochs trained."""
        return max((values.shape[1] for values in self.history.values()), default=0)


def train_population(configs, root=RUNS, weights=WEIGHTS, checkpoints=CHECKPOINTS, clock=None):
    """Train the members of a population at once, write their records and return them.

    Float baselines that pretrained members need are trained first, as a population.

    Args:
        configs: list of `study.configs.Config` that differ in `strength` and `seed` alone.
        root: folder of the records.
        weights: folder of the trained weights.
        checkpoints: folder of the checkpoints, from which the next call goes on.
        clock: `Clock` that limits the time, `None` for no limit.

    Returns:
        List of records in the order of `configs`, or `None` if time was up.

    Raises:
        ValueError: if the backend is not JAX, or members differ in more than strength and seed.
    """
    _validate(configs)
    clock = clock or Clock()
    if configs[0].regime == "pretrained":
        baselines = dict.fromkeys(float_config(config) for config in configs)
        missing = [baseline for baseline in baselines if not is_kept(baseline, root, weights)]
        if missing and train_population(missing, root, weights, checkpoints, clock) is None:
            return None
    start, versions = time.monotonic(), environment()
    dataset = load_dataset(configs[0])
    models = [training.make_model(c, dataset.input_shape, dataset.num_classes, root, weights) for c in configs]
    path = checkpoint_path(configs[0], checkpoints)
    progress = read_checkpoint(path, configs, Progress(initial_state(models), len(models)))
    _train_epochs(configs, models[0], dataset, progress, path, clock, start)
    made_by = {**versions, "population": progress.num_members, "seconds": round(progress.seconds, 1)}
    records = []
    for index, (config, model) in enumerate(zip(configs, models, strict=True)):
        if progress.num_epochs < config.training.epochs or not clock.fits("record"):
            return None
        with clock.timed("record"):
            assign_state(model, progress.state, index)
            write_weights(config, model, weights)
            records.append(training.describe(config, model, _history(progress, index), made_by))
            if read_current_record(config, root) is None:  # that of a baseline may be there, and its weights lost
                write_record(records[-1], root)
    path.unlink(missing_ok=True)  # another command may have trained another part of the population
    return records


def setting(config):
    """Return what the members of a population share: `config` without strength and seed."""
    return config.replace(strength=0.0, seed=0)


def checkpoint_path(config, checkpoints=CHECKPOINTS):
    """Return where the checkpoint of a population with the member `config` lies."""
    return Path(checkpoints) / config.data.dataset / f"{setting(config).id}.npz"


def write_checkpoint(path, configs, progress):
    """Write `progress` whole or not at all."""
    named = {"members": [config.id for config in configs], "seconds": progress.seconds}
    histories = {f"history {name}": values for name, values in progress.history.items()}
    write_arrays(path, *jax.tree.leaves(progress.state), **named, **histories)


def read_checkpoint(path, configs, progress):
    """Return the `Progress` of `configs` in a checkpoint, or the given one if there is none of all of them."""
    if not path.exists():
        return progress
    with np.load(path) as archive:
        members = archive["members"].tolist()
        if not {config.id for config in configs} <= set(members):
            return progress
        rows = [members.index(config.id) for config in configs]
        leaves, structure = jax.tree.flatten(progress.state)
        leaves = [jnp.asarray(archive[f"arr_{i}"][rows]) for i in range(len(leaves))]
        names = [name for name in archive.files if name.startswith("history ")]
        history = {name.removeprefix("history "): archive[name][rows] for name in names}
        return Progress(jax.tree.unflatten(structure, leaves), len(members), history, float(archive["seconds"]))


def _train_epochs(configs, model, dataset, progress, path, clock, start):
    """Train `progress` for as many epochs as fit, and leave a checkpoint."""
    run_epoch = make_epoch(configs, model, dataset)
    before, kind = progress.seconds, "first epoch"  # which compiles
    last_write, num_written = time.monotonic(), progress.num_epochs
    while progress.num_epochs < configs[0].training.epochs and clock.fits(kind):
        with clock.timed(kind), jax.default_matmul_precision(configs[0].training.precision):
            progress.state, values = run_epoch(progress.state, progress.num_epochs)
        for name, value in values.items():
            known = progress.history.get(name, value[:, None][:, :0])
            progress.history[name] = np.column_stack([known, value])
        progress.seconds, kind = before + time.monotonic() - start, "epoch"
        if time.monotonic() - last_write > SECONDS_BETWEEN_CHECKPOINTS:
            write_checkpoint(path, configs, progress)
            last_write, num_written = time.monotonic(), progress.num_epochs
    if progress.num_epochs > num_written:
        write_checkpoint(path, configs, progress)


def _history(progress, index):
    """Return the history of one member, as in its record."""
    history = {name: values[index].tolist() for name, values in progress.history.items()}
    counts = {name: history.pop(name) for name in ("unique", "min", "max") if name in history}
    return training.complete(history) | counts


def _validate(configs):
    backend = keras.backend.backend()
    if backend != "jax":
        raise ValueError(f"Populations need KERAS_BACKEND=jax, set before Keras is imported. Received: {backend!r}")
    if not configs:
        raise ValueError("Argument `configs` must have a member. Received: configs=[]")
    fields = [setting(config).flat() for config in configs]
    for name in fields[0]:
        received = list(dict.fromkeys(values[name] for values in fields))
        if len(received) > 1:
            raise ValueError(
                f"Members of a population may differ in strength and seed alone. Received: {name} in {received}"
            )
    shared = configs[0]
    validate_quantizer(shared.quantizer)
    if shared.quantizer.target_ratio is not None:
        received = shared.quantizer.target_ratio
        raise ValueError(f"A population keeps its strengths. Received: target_ratio={received!r}")
    if shared.training.distillation:
        raise ValueError(f"A population has no teacher. Received: distillation={shared.training.distillation!r}")
    if shared.backend != "jax":
        raise ValueError(f"Members of a population must be of backend 'jax'. Received: {shared.backend!r}")


@click.command()
@click.argument("batch")
@click.option("--minutes", type=click.FloatRange(min=0), default=math.inf, help="Stop before; by default, at the end.")
@click.option("--max-members", type=click.IntRange(min=1), help="Train at most so many at once; by default, all.")
@click.option("--grid", type=click.Path(exists=True, path_type=Path), default=GRID, help="Another grid file.")
@click.option("--runs", type=click.Path(path_type=Path), default=RUNS, help="Another folder of records.")
@click.option("--weights", type=click.Path(path_type=Path), default=WEIGHTS, help="Another folder of trained weights.")
@click.option("--checkpoints", type=click.Path(path_type=Path), default=CHECKPOINTS, help="Another folder of those.")
def main(batch, minutes, max_members, grid, runs, weights, checkpoints):
    """Train what BATCH of the grid lacks, all strengths and seeds of one setting at once.

    Exit code 0: no record is missing; 3: time was up, call again.
    """
    batches, clock = read_grid(grid), Clock(minutes)
    if batch not in batches:
        raise click.BadParameter(f"{batch!r} is not among {list(batches)}", param_hint="BATCH")
    configs = [config for curve in batches[batch] for config in curve_configs(curve)]

    def missing(shared):
        return [config for config in configs if setting(config) == shared and read_current_record(config, runs) is None]

    for shared in dict.fromkeys(map(setting, configs)):
        while members := missing(shared)[:max_members]:
            is_complete = (
                clock.fits("first epoch") and train_population(members, runs, weights, checkpoints, clock) is not None
            )
            records = {record_path(config, runs): read_current_record(config, runs) for config in members}
            for path, record in records.items():
                if record is not None:
                    click.echo(f"{path}: accuracy {record['final']['val_accuracy']:.4f}")
            if not is_complete:
                sys.exit(EXIT_CODE_LEFT)


if __name__ == "__main__":
    main()
