"""LiteRT: integers with `DEQUANTIZE`."""

from pathlib import Path

import keras
import numpy as np

from lqs.export.graphs import Graph, input_name, validate
from lqs.export.parameters import BITS, packed, parameters_of, table
from lqs.file.atomic import write_atomically

_DEQUANTIZE_VERSION = 6  # the first with int4


def export_litert(model, path, types=("int4", "int8", "int16")):
    """Write a quantized model as LiteRT (`.tflite`), quantized parameters as integers with `DEQUANTIZE`.

    Weights are exact; activations are float. The interpreter dequantizes the parameters once: the file is small,
    the memory that it needs is the float network's. Recurrent layers are unrolled: they need a fixed number of
    timesteps, each of which adds to the file (about 3 kB for an LSTM).

    Names are those of `export_onnx`. Give arrays by name: the interpreter lists the inputs of a signature
    alphabetically, in `get_signature_list`; `get_input_details` has them in the model's order. The interpreter of
    `ai-edge-litert` runs the file once before it is written, and its outputs are compared with the model's; if it is
    not installed, a warning says that the file was not run.

    Args:
        model: as of `export_onnx`.
        path: file to write, whole or not at all.
        types: integer types that the runtime has, of `lqs.export.BITS`; the smallest that fits is taken.

    Returns:
        Table as of `export_onnx`.

    Raises:
        ValueError: as `export_onnx` does.
    """
    validate(model, types)
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils as flatbuffers

    graph, parameters = Graph(model), parameters_of(model, types, one_scale=("int16",))
    inputs = [parameter for parameter in parameters if keras.backend.is_float_dtype(parameter.variable.dtype)]
    # All of them: with variable kernels but constant biases, the converter drops the ReLU after a bias of zeros.
    file = flatbuffers.convert_bytearray_to_object(_export(graph, inputs))
    _check_operators(file)
    for index, parameter in enumerate(inputs):
        _fill_in(schema, file, input_name(index), parameter)
    indices = {entry.name.decode(): entry.tensorIndex for entry in file.signatureDefs[0].inputs}
    file.subgraphs[0].inputs = [indices[name] for name in graph.specs if name in indices]
    content = bytes(flatbuffers.convert_object_to_bytearray(file))
    graph.check("LiteRT", _runner(content))
    write_atomically(Path(path), content)
    return table(parameters)


def _export(graph, parameters):
    try:
        return graph.export(parameters, "litert", unroll=True)
    except ValueError as error:
        if "Cannot unroll" not in str(error):
            raise
        raise ValueError(
            "Argument `model` must have recurrent layers with a fixed number of timesteps, since LiteRT has no loop "
            "for them: give the model a `keras.Input((timesteps, ...))`, or use `export_onnx`, which has one. "
            f"Received: model {graph.model.name!r} with inputs of {[spec.shape for spec in graph.specs.values()]}"
        ) from error


def _runner(content):
    """Return the function that runs a file on `{name: array}`, or the error if there is no runtime."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        return error

    def run(inputs):
        runner = Interpreter(model_content=content).get_signature_runner()
        names = runner.get_input_details()
        return runner(**{name: array for name, array in inputs.items() if name in names})

    return run


def _check_operators(file):
    """Raise if a file has operators of TensorFlow for which there are none in LiteRT."""
    names = [(code.customCode or b"").decode() for code in file.operatorCodes]
    missing = sorted(name.removeprefix("Flex") for name in names if name)
    if missing:
        raise ValueError(
            f"Argument `model` must have operators that LiteRT has: leave the layer of {missing} out of the model, or "
            f"use `export_onnx`. Received: a graph with {missing} of TensorFlow"
        )


def _fill_in(schema, model, name, parameter):
    """Replace the input `name` of the LiteRT graph, and transpositions of it, by constants, dequantized or float."""
    graph, signature = model.subgraphs[0], model.signatureDefs[0]
    entry = next(entry for entry in signature.inputs if entry.name.decode() == name)
    signature.inputs.remove(entry)
    graph.inputs = [index for index in graph.inputs if index != entry.tensorIndex]
    reading = [operator for operator in graph.operators if entry.tensorIndex in operator.inputs]
    transposes = [operator for operator in reading if _is_transpose(schema, model, operator)]
    outputs = {o.outputs[0]: _constant(model, graph.tensors[o.inputs[1]], "<i4").tolist() for o in transposes}
    graph.operators = [operator for operator in graph.operators if operator not in transposes]
    if len(reading) > len(transposes):
        outputs[entry.tensorIndex] = None
    for output, permutation in outputs.items():
        array, axis = parameter.content(permutation)
        if parameter.scale is None:
            graph.tensors[output].buffer = _add_buffer(schema, model, array.astype("<f4").tobytes())
            continue
        operator = schema.OperatorT()
        operator.opcodeIndex = _dequantize_code(schema, model)
        operator.inputs = [_add_integers(schema, model, parameter, array, axis)]
        operator.outputs = [output]
        graph.operators.insert(0, operator)


def _is_transpose(schema, model, operator):
    return model.operatorCodes[operator.opcodeIndex].builtinCode == schema.BuiltinOperator.TRANSPOSE


def _add_integers(schema, model, parameter, integers, axis):
    """Add a constant tensor of a parameter's integers, with its scales, and return its index."""
    quantization = schema.QuantizationParametersT()
    quantization.scale = np.atleast_1d(parameter.scale)
    quantization.zeroPoint = np.zeros(len(quantization.scale), "int64")
    quantization.quantizedDimension = axis or 0
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.hasRank = parameter.name.encode(), list(integers.shape), True
    tensor.type = getattr(schema.TensorType, parameter.stored.upper())
    tensor.quantization = quantization
    tensor.buffer = _add_buffer(schema, model, packed(integers, BITS[parameter.stored]))
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def _add_buffer(schema, model, content):
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(content, "uint8")
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def _dequantize_code(schema, model):
    """Return the index of the operator `DEQUANTIZE` among the model's operator codes, added if it is not there."""
    builtin = schema.BuiltinOperator.DEQUANTIZE
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin and code.version == _DEQUANTIZE_VERSION:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = _DEQUANTIZE_VERSION
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _constant(model, tensor, dtype):
    return np.frombuffer(np.asarray(model.buffers[tensor.buffer].data, "uint8").tobytes(), dtype)
