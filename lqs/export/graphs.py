"""Graphs: what Keras's exporters make of a model, its parameters as inputs; and a run of the file beside the model."""

import contextlib
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from lqs._keras import get_input_signature
from lqs.export.parameters import BITS
from lqs.inspection import check_values, to_numpy
from lqs.substitution import call_with_values

TOLERANCE = 0.05  # of the largest output: another graph differs by more, roundings within a network by less
_LENGTHS = (32, 8, 128)  # of axes without a length, tried in this order


class Graph:
    """A model as one function of named tensors.

    Attributes:
        specs: `{name: keras.InputSpec}` of the inputs, in the model's order; keys of a dictionary are the names.
    """

    def __init__(self, model):
        self.model = model
        self.signature = _signature(model)
        leaves = keras.tree.flatten_with_path(self.signature)
        names = [_name(path[1:], spec.name or f"input_{index}") for index, (path, spec) in enumerate(leaves)]
        self.specs = dict(zip(names, [spec for _, spec in leaves], strict=True))

    def call(self, inputs):
        """Return the outputs of the model, `{name: tensor}`, for a list of its inputs."""
        outputs = self.model(*keras.tree.pack_sequence_as(self.signature, list(inputs)), training=False)
        leaves = keras.tree.flatten_with_path(outputs)
        digits = len(str(len(leaves) - 1))  # names in the outputs' order, although LiteRT sorts them
        return {_name(path, f"output_{index:0{digits}}"): output for index, (path, output) in enumerate(leaves)}

    def export(self, parameters, format, unroll=False, **options):
        """Return the bytes of a file of Keras's exporter, with the `parameters` as further inputs of the graph."""
        of_parameters = [
            keras.InputSpec(shape=tuple(parameter.variable.shape), dtype="float32", name=input_name(index))
            for index, parameter in enumerate(parameters)
        ]
        inputs = [keras.InputSpec(shape=s.shape, dtype=s.dtype, name=name) for name, s in self.specs.items()]
        function = _ParametersAsInputs(self, [parameter.variable for parameter in parameters])
        with tempfile.TemporaryDirectory() as folder, _constants(self.model, unroll):
            path = Path(folder) / ("model.tflite" if format == "litert" else "model.onnx")
            signature = [[*inputs, *of_parameters]]
            function.export(path, format=format, verbose=False, input_signature=signature, **options)
            return path.read_bytes()

    def check(self, runtime, run):
        """Run a file once, and raise unless its outputs are the model's.

        Args:
            runtime: its name, for messages.
            run: function from `{name: array}` of the inputs to `{name: array}` of the outputs; or an `ImportError`.
        """
        if isinstance(run, ImportError):
            warnings.warn(f'{runtime} has not run the file: pip install "lqs[export]". ({run})', stacklevel=3)
            return
        example = self._example()
        if example is None:
            warnings.warn(
                f"{runtime} has not run the file: found no lengths for inputs of the shapes "
                f"{[spec.shape for spec in self.specs.values()]} that the model takes.",
                stacklevel=3,
            )
            return
        inputs, expected, again = example
        try:
            outputs = run(inputs)
        except Exception as error:
            raise ValueError(
                f"Argument `model` must be one whose file {runtime} runs: leave the layer that it names out of the "
                f"model, or export to the other format; no file is left. Received: {' '.join(str(error).split())}"
            ) from error
        for name, target in expected.items():
            is_random = not np.array_equal(target, again[name], equal_nan=True)
            if name not in outputs or not _is_close(outputs[name], target, is_random):
                raise ValueError(
                    f"Argument `model` must be one whose file gives the model's outputs, but {runtime} gives another "
                    f"{name!r}: export to the other format; no file is left. Received: model {self.model.name!r}"
                )

    def _example(self):
        """Return inputs of a batch of two and the model's outputs, computed twice; `None` if there are none."""
        rng = np.random.default_rng(0)
        for length in _LENGTHS:
            shapes = [(2, *[size or length for size in spec.shape[1:]]) for spec in self.specs.values()]
            draws = [
                rng.normal(size=shape).astype(spec.dtype)
                if keras.backend.is_float_dtype(spec.dtype)
                else np.zeros(shape, spec.dtype)
                for shape, spec in zip(shapes, self.specs.values(), strict=True)
            ]
            try:
                with keras.StatelessScope():  # leaves no penalties, states and seeds behind in the model
                    first, second = ({k: to_numpy(v) for k, v in self.call(draws).items()} for _ in range(2))
            except Exception:  # each layer and backend has its own for a length that it does not take
                continue
            return dict(zip(self.specs, draws, strict=True)), first, second
        return None


class _ParametersAsInputs(keras.Model):
    """A model whose call takes, after its own inputs, values for some of its variables: its outputs, by name.

    They stand for the quantized values, so that no quantizer is called.
    """

    def __init__(self, graph, variables):
        super().__init__(name="network")  # the class name, with its underscore, is none for TensorFlow
        self.graph, self.network, self.built = graph, graph.model, True
        self.ids = [id(variable) for variable in variables]

    def call(self, inputs):
        number = len(inputs) - len(self.ids)
        values = dict(zip(self.ids, inputs[number:], strict=True))
        return call_with_values(self, lambda: self.graph.call(inputs[:number]), values)


def input_name(index):
    """Return the name of the input that stands for a parameter."""
    return f"lqs_parameter_{index}"


def validate(model, types):
    """Raise unless the arguments of an export are right."""
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(f"Argument `model` must be a built `keras.Model`: call it once. Received: model={model!r}")
    dtypes = {layer.compute_dtype for layer in model._flatten_layers()} & {"float16", "bfloat16", "float64"}
    if dtypes:
        raise ValueError(f"Argument `model` must compute in float32. Received: layers of {sorted(dtypes)}")
    if isinstance(types, str) or not set(types) <= set(BITS):
        raise ValueError(f"Argument `types` must be a sequence out of {tuple(BITS)}. Received: types={types!r}")
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Keras exports to this format on the TensorFlow backend: save the model, set KERAS_BACKEND=tensorflow "
            f"and load it. Received: backend {keras.backend.backend()!r}"
        )
    check_values(model)


def _signature(model):
    """Return a list of the arguments of a model's call, structures of `keras.InputSpec`."""
    try:
        return list(get_input_signature(model))
    except ValueError as error:
        raise ValueError(
            "Argument `model` must have known inputs: call it once, `model(inputs)`, or give "
            f"`keras.Model(inputs, model(inputs))` with `inputs = keras.Input(...)`. Received: model={model!r}"
        ) from error


def _name(path, default):
    """Return the name of a tensor at a path of keys and indices: the keys, if there are any.

    TensorFlow takes letters, digits, `_`, `.` and `-`.
    """
    name = "_".join(map(str, path)) if any(isinstance(key, str) for key in path) else default
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)


@contextlib.contextmanager
def _constants(model, unroll):
    """Let tensors that layers keep (`Normalization`) be constants of a graph; unroll recurrent layers if asked for."""
    changed: list[tuple[dict, str, Any, Any]] = []
    for layer in model._flatten_layers():
        for name, value in vars(layer).items():
            if keras.ops.is_tensor(value) and not isinstance(value, keras.Variable):
                changed.append((vars(layer), name, value, to_numpy(value)))
            elif unroll and name == "unroll":
                changed.append((vars(layer), name, value, True))
    try:
        for attributes, name, _, value in changed:
            attributes[name] = value
        yield
    finally:
        for attributes, name, value, _ in changed:
            attributes[name] = value


def _is_close(output, target, is_random):
    if is_random or output.shape != target.shape or not target.size:
        return output.shape == target.shape
    target = target.astype("float64")
    largest = np.abs(target[np.isfinite(target)]).max(initial=0)
    return np.allclose(output, target, rtol=0, atol=TOLERANCE * largest + 1e-6, equal_nan=True)
