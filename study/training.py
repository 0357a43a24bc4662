"""Training: from a configuration to its run record."""

import contextlib
import dataclasses
import functools
import operator
import time
import traceback

import keras
import numpy as np
from tqdm import tqdm

from lqs.control import TargetSize
from lqs.conversion import is_not_normalization, quantize
from lqs.inspection import quantized_parameters
from study import methods
from study.configs import float_config
from study.environment import environment
from study.examples import VALIDATION_BATCH_SIZE, batches, load_dataset
from study.networks import NETWORKS
from study.paths import RUNS, WEIGHTS
from study.protocols import scheduled_learning_rate
from study.records import read_current_record, write_record
from study.statistics import IntegerHistory, VoteHistory, final_statistics, parameter_statistics
from study.weights import is_kept, read_weights, write_weights

STEPS_PER_EXECUTION = 25  # after which callbacks of batches are called, so that a target's runs depend on it
STEPS_OF_A_SCAN = 375  # a fifth of an epoch of MNIST under the thesis's protocol
DISTILLATION_TEMPERATURE = 3.0
NOT_KEPT = ("learning_rate", "file_bytes", "file_ratio", "asked_ratio", "val_loss_at_size")  # of the logs, in a record


def run_all(configs, root=RUNS, weights=WEIGHTS):
    """Return the records of `configs` in order, training those that have not been run yet.

    Each record is written as soon as its run ends, so that an interrupted batch resumes. A run that fails is
    reported and does not keep the others from being run.

    Args:
        configs: list of `study.configs.Config`.
        root: folder of the records.
        weights: folder of the trained weights; pretrained runs start from those of their float baseline.

    Raises:
        ValueError: before any training, if a method cannot have the settings of its configuration.
        RuntimeError: at the end, naming the runs that failed, if any did.
    """
    for config in configs:
        methods.validate_quantizer(config.quantizer)
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
    record = read_current_record(config, root)
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
    if config.training.distillation:
        dataset = with_soft_labels(config, dataset, root, weights)
    model = make_model(config, dataset.input_shape, dataset.num_classes, root, weights)
    history = fit(config, model, dataset)
    write_weights(config, model, weights)
    return describe(config, model, history, {**versions, "seconds": round(time.perf_counter() - start, 1)})


def describe(config, model, history, environment):
    """Return the record of a run: its configuration, and what is known of the trained `model`."""
    last = {key: values[-1] for key, values in history.items()}
    return {
        "config": config.flat(),
        "environment": environment,
        "history": history,
        "final": {**last, **_on_the_test_set(config, model), **final_statistics(model)},
        "parameters": [parameter_statistics(*pair) for pair in quantized_parameters(model)],
    }


def _on_the_test_set(config, model):
    """Return the loss and the metrics of a trained model on the test set, `{}` if this was what validated."""
    if config.data.holdout is None:
        return {}
    dataset = load_dataset(config.replace(holdout=None))
    if config.training.distillation:
        dataset = dataclasses.replace(dataset, y_test=_one_hot(dataset.y_test, dataset.num_classes))
    examples = batches(config, dataset)["validation_data"]
    if isinstance(examples, tuple):
        values = model.evaluate(*examples, VALIDATION_BATCH_SIZE, verbose=0, return_dict=True)
    else:
        values = model.evaluate(examples, verbose=0, return_dict=True)
    values.setdefault("cross_entropy", values["loss"])
    return {f"test_{name}": float(f"{value:.6g}") for name, value in values.items()}


def with_soft_labels(config, dataset, root=RUNS, weights=WEIGHTS):
    """Return the data set with probabilities as labels, `(examples, classes)`.

    Those of training are mixed with the answers of the float network of the same seed, which is trained if need be:

        (1 - distillation) * one_hot + distillation * softmax(logits / 3)
    """
    share = config.training.distillation
    teacher = NETWORKS[config.network][0](dataset.input_shape, dataset.num_classes)
    teacher.set_weights(_baseline_weights(config, root, weights))
    logits = teacher.predict(batches(config, dataset)["x"], VALIDATION_BATCH_SIZE, verbose=0)
    answers = keras.ops.convert_to_numpy(keras.ops.softmax(logits / DISTILLATION_TEMPERATURE))
    y_train = (1 - share) * _one_hot(dataset.y_train, dataset.num_classes) + share * answers
    y_test = _one_hot(dataset.y_test, dataset.num_classes)
    return dataclasses.replace(dataset, y_train=y_train.astype("float32"), y_test=y_test)


def _one_hot(labels, num_classes):
    return np.eye(num_classes, dtype="float32")[labels]


def make_model(config, input_shape, num_classes, root=RUNS, weights=WEIGHTS):
    """Return the compiled network of `config`, with the initial or the pretrained weights of its seed."""
    initial_weights = _baseline_weights(config, root, weights) if config.regime == "pretrained" else None
    is_float = config.quantizer.method == methods.FLOAT
    preset = None if is_float else methods.make_preset(config.quantizer)
    # Names of layers are numbered from the start, so that the file of a run does not depend on earlier ones.
    keras.utils.clear_session()
    keras.utils.set_random_seed(config.seed)
    model = NETWORKS[config.network][0](input_shape, num_classes)
    if config.training.l2:
        _regularize(model, config.training.l2)
    if initial_weights is not None:
        model.set_weights(initial_weights)
    if preset is not None:
        model = _quantize(config, model, preset)
    _compile(config, model)
    return model


def _regularize(model, rate):
    """Add an L2 term of the kernels of `model` to its loss; a copy of a layer keeps it."""
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            layer.kernel_regularizer = layer.kernel.regularizer = keras.regularizers.L2(rate)


def _quantize(config, model, preset):
    method, where = config.quantizer.method, NETWORKS[config.network][1]
    if methods.quantizes_all_layers(method):
        where = is_not_normalization
    kernel, bias = preset(config.quantizer.granularity), preset("scalar")
    return quantize(model, kernel, bias if methods.quantizes_biases(method) else None, where)


def _compile(config, model):
    prefix = "" if config.training.distillation else "Sparse"  # labels are probabilities, or numbers
    metrics = ["accuracy"]
    has_penalty = any(quantizer.penalty is not None for _, quantizer in quantized_parameters(model))
    if model.losses or has_penalty:  # the loss includes them
        cross_entropy = getattr(keras.metrics, f"{prefix}CategoricalCrossentropy")
        metrics.append(cross_entropy("cross_entropy", from_logits=True))
    is_scanned = keras.backend.backend() == "jax"
    can_be_long = config.quantizer.target_ratio is None and config.data.image_size is None
    model.compile(
        keras.optimizers.Adam(config.training.learning_rate, epsilon=config.training.epsilon),
        getattr(keras.losses, f"{prefix}CategoricalCrossentropy")(from_logits=True),
        metrics=metrics,
        steps_per_execution=STEPS_OF_A_SCAN if is_scanned and can_be_long else STEPS_PER_EXECUTION,
    )
    if is_scanned:
        from study.scan import scan_steps  # needs JAX

        scan_steps(model)


def fit(config, model, dataset):
    """Train `model` and return its history, `{name: one value per epoch}`; see `data/README.md`."""
    keras.utils.set_random_seed(config.seed)
    examples, own, ratio = batches(config, dataset), [IntegerHistory()], config.quantizer.target_ratio
    if config.quantizer.method in methods.NULLS:
        own.append(VoteHistory(*(examples[name][: config.training.batch_size] for name in "xy")))
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, _: scheduled_learning_rate(config.training, epoch))
    target = [] if ratio is None else [TargetSize(ratio=ratio)]
    with _precision(config):
        history = model.fit(
            **examples,
            epochs=config.training.epochs,
            callbacks=[*own, schedule, *target],
            verbose=0,
        ).history
    for name in NOT_KEPT:
        history.pop(name, None)
    return functools.reduce(operator.or_, (callback.history for callback in own), complete(history))


def complete(history):
    """Return the losses and accuracies of a history, to six digits and with the cross entropies.

    Example:

    >>> complete({"loss": [1 / 3], "val_loss": [0.5]})
    {'loss': [0.333333], 'val_loss': [0.5], 'cross_entropy': [0.333333], 'val_cross_entropy': [0.5]}
    """
    if "cross_entropy" not in history:
        history = {**history, "cross_entropy": history["loss"], "val_cross_entropy": history["val_loss"]}
    return {key: [float(f"{value:.6g}") for value in values] for key, values in history.items()}


def _precision(config):
    """Return the context in which JAX multiplies in the configuration's precision, on a GPU too."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.default_matmul_precision(config.training.precision)


def _baseline_weights(config, root, weights):
    """Return the trained weights of the float baseline of `config`, training it first if need be."""
    baseline = float_config(config)
    if not is_kept(baseline, root, weights):
        record = train(baseline, root, weights)
        if read_current_record(baseline, root) is None:
            write_record(record, root)
    return read_weights(baseline, weights)
