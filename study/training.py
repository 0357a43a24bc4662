"""Training: from a configuration to its run record."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import io
import math
import os
import platform
import shutil
import subprocess
import time
import traceback
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from lqs import codebooks, penalties, rounding, rules
from lqs.control import TargetSize
from lqs.conversion import quantize
from lqs.file.atomic import write_atomically
from lqs.file.saving import save
from lqs.file.sizes import file_bytes, fp32_bytes
from lqs.inspection import integer_statistics, model_integers, quantized_parameters
from lqs.quantizer import NestedQuantization
from study import datasets
from study.augmentation import size_to_crop_from
from study.configs import FIELD, float_config
from study.networks import NETWORKS, is_not_normalization
from study.paths import ROOT, RUNS, WEIGHTS
from study.records import read_record, write_record
from study.statistics import histogram, zipped_bytes

RULES = {
    "gradient_ratio": lambda config: rules.GradientRatio(config.strength, config.update_stalled),
    "frozen": lambda config: rules.Frozen(),
    "straight_through": lambda config: rules.StraightThrough(),
    "lsq": lambda config: rules.StraightThrough(normalize=True),
    "measured_max": lambda config: rules.Measured("max"),
    "measured_mean": lambda config: rules.Measured("mean"),
    "measured_ternary": lambda config: rules.Measured("ternary"),
}
PENALTIES = {
    "max_bin": lambda config: penalties.MaxBinPenalty(config.strength),
    "inverse": lambda config: penalties.InversePenalty(config.strength),
    "difference": lambda config: penalties.DifferencePenalty(config.strength),
    "code_length": lambda config: penalties.CodeLengthPenalty(config.strength, config.code),
    "sinreq": lambda config: penalties.SinReQPenalty(config.strength),
    "msqe": lambda config: penalties.MSQEPenalty(config.strength),
    "tang": lambda config: penalties.BinaryPenalty(config.strength),
    "deep_hoyer": lambda config: penalties.HoyerPenalty(config.strength),
    "waveq": lambda config: penalties.WaveQPenalty(config.strength),
}
ROUNDINGS = {
    None: lambda config: config.rounding,
    "binary_connect": lambda config: rounding.BinaryConnect(),
    "xnor": lambda config: rounding.XnorNet(),
    "twn": lambda config: rounding.TernaryWeights(),
    "dorefa": lambda config: rounding.DoReFa(),
    "stochastic": lambda config: rounding.StochasticRounding(),
    "quant_noise": lambda config: rounding.QuantNoise(config.strength),
    "ttq": lambda config: codebooks.TrainedTernary(),
    "lq_nets": lambda config: codebooks.LQNets(),
    "qil": lambda config: rounding.QIL(),
    "deep_compression": lambda config: codebooks.DeepCompression(config.strength),
}
STEPS = ((0.4, 0.5), (0.6, 0.2))  # share of the epochs, factor of the learning rate from then on
VALIDATION_BATCH_SIZE = 1000
STEPS_PER_EXECUTION = 25
DISTILLATION_TEMPERATURE = 3.0


def run_all(configs, root=RUNS, weights=WEIGHTS):
    """Return the records of `configs` in order, training those that have not been run yet.

    Each record is written as soon as its run ends, so that an interrupted batch resumes. A run that fails is
    reported and does not keep the others from being run.

    Args:
        configs: list of `lqs.Config`.
        root: folder of the records.
        weights: folder of the trained weights; pretrained runs start from those of their float baseline.

    Raises:
        RuntimeError: at the end, naming the runs that failed, if any did.
    """
    records, failures = [], {}
    for config in tqdm(configs, desc="training", unit="run", disable=None):  # shown on a terminal only
        try:
            records.append(run(config, root, weights))
        except Exception as error:
            traceback.print_exc()
            failures[config.id] = error
    if failures:
        lines = [f"{name}: {error}" for name, error in failures.items()]
        raise RuntimeError(f"{len(failures)} of {len(configs)} runs failed:\n" + "\n".join(lines))
    return records


def run(config, root=RUNS, weights=WEIGHTS):
    """Return the record of one configuration: the one on disk, or that of a new training run, then written.

    Raises:
        ValueError: if the configuration asks for another Keras backend than the one in use.
    """
    record = read_record(config, root)
    if record is not None:
        return record
    if config.backend != keras.backend.backend():
        raise ValueError(
            f"Run {config.id} needs KERAS_BACKEND={config.backend}, set before Keras is imported. "
            f"Received: backend {keras.backend.backend()!r}"
        )
    record = train(config, root, weights)
    write_record(record, root)
    return record


def train(config, root=RUNS, weights=WEIGHTS):
    """Train the network of `config` and return its record.

    What was trained is kept in `weights`: an `.npz` of a float network's weights, a `.lqs` file of a quantized one.
    """
    start, versions = time.perf_counter(), environment()
    dataset = load_dataset(config)
    if config.distillation:
        dataset = with_soft_labels(config, dataset, root, weights)
    model = make_model(config, dataset.input_shape, dataset.num_classes, root, weights)
    history = fit(config, model, dataset)
    keep(config, model, weights)
    return describe(config, model, history, {**versions, "seconds": round(time.perf_counter() - start, 1)})


def keep(config, model, weights=WEIGHTS):
    """Write what was trained to `weights_path`: the weights of a float network, or a `.lqs` file."""
    path = weights_path(config, weights)
    if config.method == "float":
        write_arrays(path, *model.get_weights())
    else:
        save(model, path)


def is_kept(config, root=RUNS, weights=WEIGHTS):
    """Return whether both record and weights of a run are there; one that was killed may have left one of them."""
    return read_record(config, root) is not None and weights_path(config, weights).exists()


def describe(config, model, history, environment):
    """Return the record of a run: its configuration, and what is known of the trained `model`."""
    return {
        "config": dataclasses.asdict(config),
        "environment": environment,
        "history": history,
        "final": {**{key: values[-1] for key, values in history.items()}, **final_statistics(model)},
        "parameters": [_describe_parameter(*pair) for pair in quantized_parameters(model)],
    }


def load_dataset(config):
    """Return the data set of `config`, its images of the size that the configuration asks for."""
    if config.image_size is None:
        return datasets.load(config.dataset)
    return datasets.load(config.dataset, size=config.image_size, train_size=size_to_crop_from(config.image_size))


def with_soft_labels(config, dataset, root=RUNS, weights=WEIGHTS):
    """Return the data set with probabilities as labels, `(examples, classes)`.

    Those of training are mixed with the answers of the float network of the same seed, which is trained if need be:

        (1 - distillation) * one_hot + distillation * softmax(logits / 3)
    """
    teacher = NETWORKS[config.network][0](dataset.input_shape, dataset.num_classes)
    teacher.set_weights(_baseline_weights(config, root, weights))
    logits = teacher.predict(batches(config, dataset)["x"], VALIDATION_BATCH_SIZE, verbose=0)
    answers = keras.ops.convert_to_numpy(keras.ops.softmax(logits / DISTILLATION_TEMPERATURE))
    one_hot = np.eye(dataset.num_classes, dtype="float32")
    y_train = (1 - config.distillation) * one_hot[dataset.y_train] + config.distillation * answers
    return dataclasses.replace(dataset, y_train=y_train.astype("float32"), y_test=one_hot[dataset.y_test])


def make_model(config, input_shape, num_classes, root=RUNS, weights=WEIGHTS):
    """Return the compiled network of `config`, with the initial or the pretrained weights of its seed."""
    make_network, where = NETWORKS[config.network]
    if config.method == "code_length" or config.method in FIELD:  # the whole file counts
        where = is_not_normalization
    initial_weights = _baseline_weights(config, root, weights) if config.regime == "pretrained" else None
    # Names of layers are numbered from the start, so that the file of a run does not depend on earlier ones.
    keras.utils.clear_session()
    keras.utils.set_random_seed(config.seed)
    model = make_network(input_shape, num_classes)
    if initial_weights is not None:
        model.set_weights(initial_weights)
    if config.method != "float":
        kernel, bias = (_quantizer(config, granularity) for granularity in (config.granularity, "scalar"))
        model = quantize(model, kernel, bias if config.quantizer.biases else None, where)
    prefix = "" if config.distillation else "Sparse"  # labels are probabilities, or numbers
    metrics = ["accuracy"]
    if model.losses or config.penalty is not None:  # the loss includes them
        cross_entropy = getattr(keras.metrics, f"{prefix}CategoricalCrossentropy")
        metrics.append(cross_entropy("cross_entropy", from_logits=True))
    model.compile(
        keras.optimizers.Adam(config.learning_rate, epsilon=config.epsilon),
        getattr(keras.losses, f"{prefix}CategoricalCrossentropy")(from_logits=True),
        metrics=metrics,
        steps_per_execution=STEPS_PER_EXECUTION,
    )
    return model


def fit(config, model, dataset):
    """Train `model` and return its history, `{name: one value per epoch}`; see `data/README.md`."""
    keras.utils.set_random_seed(config.seed)
    integers = IntegerHistory()
    schedule = keras.callbacks.LearningRateScheduler(functools.partial(scheduled_learning_rate, config))
    target = [] if config.target_ratio is None else [TargetSize(ratio=config.target_ratio)]
    with _precision(config):
        history = model.fit(
            **batches(config, dataset),
            epochs=config.epochs,
            callbacks=[integers, schedule, *target],
            verbose=0,
        ).history
    del history["learning_rate"]
    return complete(history) | integers.history


def complete(history):
    """Return the losses and accuracies of a history, to six digits and with the cross entropies.

    Example:

    >>> complete({"loss": [1 / 3], "val_loss": [0.5]})
    {'loss': [0.333333], 'val_loss': [0.5], 'cross_entropy': [0.333333], 'val_cross_entropy': [0.5]}
    """
    if "cross_entropy" not in history:
        history = {**history, "cross_entropy": history["loss"], "val_cross_entropy": history["val_loss"]}
    return {key: [float(f"{value:.6g}") for value in values] for key, values in history.items()}


def batches(config, dataset):
    """Return the arguments of `fit` that give it the training and the test examples, as float32 images.

    Images are augmented if the configuration asks for their size, as the thesis's are for Imagenette.
    """
    if config.image_size is not None:
        train, test = dataset.as_tf_data(config.batch_size, config.seed, augment=True)
        if config.input_scale != 1:
            train, test = (_with_scaled_images(examples, config.input_scale) for examples in (train, test))
        return {"x": train, "shuffle": False, "validation_data": test}
    x_train, x_test = (np.asarray(images, "float32") for images in (dataset.x_train, dataset.x_test))
    if config.input_scale != 1:
        x_train, x_test = x_train * np.float32(config.input_scale), x_test * np.float32(config.input_scale)
    return {
        "x": x_train,
        "y": dataset.y_train,
        "batch_size": config.batch_size,
        "validation_data": (x_test, dataset.y_test),
        "validation_batch_size": VALIDATION_BATCH_SIZE,
    }


def _with_scaled_images(examples, factor):
    """Return the `tf.data.Dataset` of batches `(images, labels)` with float32 images, times `factor`."""
    import tensorflow as tf

    return examples.map(lambda images, labels: (factor * tf.cast(images, "float32"), labels))


def scheduled_learning_rate(config, epoch, *_):
    """Return the learning rate of an epoch, counted from 0 (`Config.schedule`).

    Example: the thesis's steps for Imagenette, at epochs 40 and 60 of 100.

    >>> from study.configs import make_config
    >>> config = make_config("imagenette", "float")
    >>> [f"{scheduled_learning_rate(config, epoch):.1e}" for epoch in (39, 40, 59, 60)]
    ['1.0e-04', '5.0e-05', '5.0e-05', '1.0e-05']
    """
    factor = 1.0
    if config.schedule == "steps":
        factor = math.prod(step for share, step in STEPS if epoch >= share * config.epochs)
    elif config.schedule == "cosine":
        factor = 0.5 + 0.5 * math.cos(math.pi * epoch / config.epochs)
    return factor * config.learning_rate


class IntegerHistory(keras.callbacks.Callback):
    """Records the number of unique integers and their extremes after every epoch, in `history`."""

    def __init__(self):
        super().__init__()
        self.history = {}

    def on_epoch_end(self, epoch, logs=None):
        arrays = list(model_integers(self.model).values())
        if arrays:
            statistics = integer_statistics(arrays)
            for key in ("unique", "min", "max"):
                self.history.setdefault(key, []).append(statistics[key])


def final_statistics(model):
    """Return the statistics of all integers together, and sizes: in the thesis's accounting, and of a `.lqs` file.

    For a float network, the former is that of the zipped float32 parameters, the thesis's baseline.
    """
    integers = list(model_integers(model).values())
    statistics = integer_statistics(integers) if integers else {}
    num_bytes, dtype = zipped_bytes(integers or model.get_weights())
    sizes = {
        "zip_bytes": num_bytes,
        "zip_dtype": dtype,
        "fp32_bytes": fp32_bytes(model),
        "file_bytes": file_bytes(model),
    }
    return {**statistics, **sizes}


def environment():
    """Return versions, device and commit of this process."""
    packages = ("keras", "numpy", "jax", "tensorflow")
    return {
        "python": platform.python_version(),
        **{f"{package}_version": _version(package) for package in packages},
        "device": f"{platform.machine()} {_device()}",
        "cpus": _num_cpus(),  # TensorFlow's sums depend on how many threads share them
        "commit": _commit(),
    }


def _num_cpus():
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _quantizer(config, granularity):
    return NestedQuantization(
        granularity,
        RULES[config.rule](config),
        PENALTIES[config.penalty](config) if config.penalty else None,
        ROUNDINGS[config.quantizer.rounding](config),
        config.bits,
        config.quantizer.initial_scale or config.initial_scale,
        config.parametrization,
    )


def _describe_parameter(variable, quantizer):
    """Return the entry of one quantized parameter in the record."""
    integers = keras.ops.convert_to_numpy(quantizer.integers(variable.value))
    scale = keras.ops.convert_to_numpy(quantizer.scale)
    return {
        "name": variable.path,
        "shape": list(variable.shape),
        "granularity": quantizer.granularity,
        **integer_statistics([integers]),
        "histogram": histogram(integers),
        "scale": {name: float(f"{getattr(np, name)(scale):.6g}") for name in ("min", "median", "mean", "max")},
    }


def _baseline_weights(config, root, weights):
    """Return the trained weights of the float baseline of `config`, training it first if need be."""
    baseline = float_config(config)
    if not is_kept(baseline, root, weights):
        record = train(baseline, root, weights)
        if read_record(baseline, root) is None:
            write_record(record, root)
    with np.load(weights_path(baseline, weights)) as archive:
        return [archive[name] for name in archive.files]


def weights_path(config, weights=WEIGHTS):
    """Return where the trained weights of a run are kept: `weights/<dataset>/<id>.npz`, or `.lqs` if quantized."""
    suffix = ".npz" if config.method == "float" else ".lqs"
    return Path(weights) / config.dataset / f"{config.id}{suffix}"


def write_arrays(path, *arrays, **named):
    """Write arrays as `numpy.savez` does, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, *arrays, **named)
    write_atomically(path, buffer.getvalue())


def _precision(config):
    """Return the context in which JAX multiplies in the configuration's precision, on a GPU too."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.default_matmul_precision(config.precision)


def _version(package):
    """Return the version of a package, `None` if it is not installed: JAX trains without TensorFlow."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device():
    """Return the kind of device that the backend computes on, such as `cpu` or `NVIDIA H200`."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.devices()[0].device_kind
    return keras.distribution.list_devices()[0].split(":")[0]


@functools.cache
def _commit():
    """Return the commit of the checkout that this module lies in, `None` outside a checkout or without git."""
    if shutil.which("git") is None:
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or None
