"""Deployment: a quantized model as an ONNX or LiteRT file that holds its integers and learned scales.

Both formats have an operator that maps integers to floats,

    P_r = P_q * s        `DequantizeLinear` in ONNX, `DEQUANTIZE` in LiteRT; zero point 0

so the file holds `P_q` in the smallest integer type that fits and `s` in float32, and the network computes with
the parameters that it was trained with. Keras's own exporters write the float network, with these parameters as
inputs of the graph, so that they are not folded into other constants; then integers, scales and the operator take
the place of each input.

| type    | integers     | ONNX                   | LiteRT         |
|---------|--------------|------------------------|----------------|
| `int2`  | -2…1         | opset 25, if asked for | if asked for   |
| `int4`  | -8…7         | opset 21               | yes            |
| `int8`  | -128…127     | yes                    | yes            |
| `int16` | -32768…32767 | opset 21               | one scale only |

Neither format carries scales that vary along two axes or more, integers beyond int16, or integers that stand for the
levels of a codebook (`lqs.codebooks`): those parameters are left in float. Neither carries an entropy code.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from lqs._keras import Functional, get_input_signature
from lqs.conversion import dequantize_with_pairs
from lqs.file.atomic import write_atomically
from lqs.inspection import quantized_parameters, to_numpy
from lqs.layers import call_with_values

BITS = {"int2": 2, "int4": 4, "int8": 8, "int16": 16}
_ONNX_OPSETS = {"int2": 25, "int4": 21, "int8": 21, "int16": 21}
_ONNX_EXPORT_OPSET = 18  # the highest that tf2onnx writes
_ONNX_IR_VERSIONS = {21: 10, 25: 13}  # the first that has the opset's types
_LITERT_DEQUANTIZE_VERSION = 6  # the first with int4


@dataclass(frozen=True)
class Parameter:
    """A parameter of a model, as a file holds it.

    Args:
        name: path of the variable.
        variable: the variable of the dequantized network.
        integers: int32 array of the variable's shape, or `None` if it is not quantized.
        scale: float32 array of shape `()`, or `(n,)` along `axis`; `None` if the parameter is left in float.
        axis: axis along which the scale varies, or `None`.
        stored: type in the file.
        reason: why the parameter is left in float; empty if it is not.
    """

    name: str
    variable: keras.Variable
    integers: np.ndarray | None = None
    scale: np.ndarray | None = None
    axis: int | None = None
    stored: str = "float32"
    reason: str = "not quantized"

    def content(self, permutation):
        """Return what the file holds, integers or floats, and the scale axis; transposed unless `None`."""
        array = to_numpy(self.variable) if self.integers is None or self.scale is None else self.integers
        if permutation is None:
            return array, self.axis
        axis = None if self.axis is None else permutation.index(self.axis)
        return array.transpose(permutation), axis


def export_onnx(model, path, types=("int4", "int8", "int16")):
    """Write a quantized model as ONNX, quantized parameters as integers with `DequantizeLinear`.

    Weights are exact; activations are float. ONNX Runtime, by default, joins `DequantizeLinear` and `MatMul` of
    some parameters into one operator that rounds activations to 8 bits. Its session configuration entry
    `session.qdq_matmulnbits_accuracy_level`, set to `"1"`, keeps them in float; then predictions are Keras's up to
    float rounding.

    Args:
        model: a `Sequential` or functional model in float32, made of `lqs` layers or by `lqs.quantize`.
        path: file to write, whole or not at all.
        types: integer types that the runtime has, of `lqs.export.BITS`; the smallest that fits is taken.

    Returns:
        `pandas.DataFrame` with one row per parameter: `parameter` (path), `shape`, `min`, `max` (of the
        integers), `stored` (type in the file) and `reason` (for a parameter left in float).

    Raises:
        ValueError: if `model` is not such a model, `types` has other types, or the backend is not TensorFlow.
        ImportError: if a package of the extra `export` is missing.
    """
    _validate(model, types)
    onnx = _import_onnx()
    network, parameters = _parameters(model, types)
    stored = [parameter for parameter in parameters if parameter.scale is not None]
    proto = onnx.load_from_string(_export(network, stored, "onnx", opset_version=_ONNX_EXPORT_OPSET))
    opset = max([_ONNX_OPSETS[parameter.stored] for parameter in stored], default=21)
    proto = onnx.version_converter.convert_version(proto, opset)
    proto.ir_version = _ONNX_IR_VERSIONS[opset]
    for index, parameter in enumerate(stored):
        _fill_in_onnx(onnx, proto.graph, _input_name(index), parameter)
    onnx.checker.check_model(proto, full_check=True)
    write_atomically(Path(path), proto.SerializeToString())
    return _table(parameters)


def export_litert(model, path, types=("int4", "int8", "int16")):
    """Write a quantized model as LiteRT (`.tflite`), quantized parameters as integers with `DEQUANTIZE`.

    Weights are exact; activations are float. The interpreter dequantizes the parameters once: the file is small,
    the memory that it needs is the float network's. Recurrent layers need an interpreter that has TensorFlow's own
    operators, as after Keras's export of the float network.

    Args:
        model: a `Sequential` or functional model in float32, made of `lqs` layers or by `lqs.quantize`.
        path: file to write, whole or not at all.
        types: integer types that the runtime has, of `lqs.export.BITS`; the smallest that fits is taken.

    Returns:
        Table as of `export_onnx`.

    Raises:
        ValueError: if `model` is not such a model, `types` has other types, or the backend is not TensorFlow.
    """
    _validate(model, types)
    from tensorflow.lite.python import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils as flatbuffers

    network, parameters = _parameters(model, types, one_scale=("int16",))
    inputs = [parameter for parameter in parameters if keras.backend.is_float_dtype(parameter.variable.dtype)]
    # All of them: with variable kernels but constant biases, the converter drops the ReLU after a bias of zeros.
    content = _export(network, inputs, "litert")
    graph = flatbuffers.convert_bytearray_to_object(content)
    for index, parameter in enumerate(inputs):
        _fill_in_litert(schema, graph, _input_name(index), parameter)
    write_atomically(Path(path), bytes(flatbuffers.convert_object_to_bytearray(graph)))
    return _table(parameters)


def smallest_type(integers, types):
    """Return the smallest of the integer `types` that holds all of `integers`, or `None`.

    Example:

    >>> smallest_type(np.array([-8, 7]), ["int8", "int4"]), smallest_type(np.array([8]), ["int4"])
    ('int4', None)
    """
    lowest, highest = int(integers.min()), int(integers.max())
    fitting = [name for name in types if max(-lowest, highest + 1) <= 2 ** (BITS[name] - 1)]
    return min(fitting, key=BITS.__getitem__, default=None)


def packed(integers, bits):
    """Return the bytes of an integer array, two's complement, little-endian, the first element lowest.

    Example:

    >>> packed(np.array([1, -2, 7]), 4).hex(), packed(np.array([1, -2]), 16).hex()
    ('e107', '0100feff')
    """
    if bits >= 8:
        return integers.astype(f"<i{bits // 8}").tobytes()
    per_byte = 8 // bits
    codes = np.pad(np.ravel(integers) & (2**bits - 1), (0, -integers.size % per_byte)).astype("uint8")
    shifted = codes.reshape(-1, per_byte) << np.arange(0, 8, bits, dtype="uint8")
    return np.bitwise_or.reduce(shifted, axis=1).tobytes()


class _ParametersAsInputs(keras.Model):
    """A network whose call takes, after its own inputs, values for some of its variables."""

    def __init__(self, network, variables):
        super().__init__(name="network")  # the class name, with its underscore, is none for TensorFlow
        self.network, self.ids, self.built = network, [id(variable) for variable in variables], True

    def call(self, inputs):
        *arguments, values = inputs
        values = dict(zip(self.ids, values, strict=True))
        return call_with_values(self, lambda: self.network(*arguments, training=False), values)


def _export(network, parameters, format, **options):
    """Return the bytes of a file of Keras's exporter, with the `parameters` as inputs of the graph."""
    specs = [
        keras.layers.InputSpec(shape=tuple(p.variable.shape), dtype="float32", name=_input_name(i))
        for i, p in enumerate(parameters)
    ]
    signature = get_input_signature(network)
    if parameters:
        signature = [[*signature, specs]]
        network = _ParametersAsInputs(network, [parameter.variable for parameter in parameters])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("model.tflite" if format == "litert" else "model.onnx")
        network.export(path, format=format, verbose=False, input_signature=signature, **options)
        return path.read_bytes()


def _input_name(index):
    return f"lqs_parameter_{index}"


def _parameters(model, types, one_scale=()):
    """Return the dequantized network and a `Parameter` for each of its weights."""
    network, pairs = dequantize_with_pairs(model)
    quantizers = {id(variable): quantizer for variable, quantizer in quantized_parameters(model)}
    found = {}
    for source, variable in pairs:
        quantizer = quantizers.get(id(source))
        found[id(variable)] = (
            _quantized(source, variable, quantizer, types, one_scale) if quantizer else Parameter(source.path, variable)
        )
    return network, list(found.values())


def _quantized(source, variable, quantizer, types, one_scale):
    """Return the `Parameter` of a quantized variable."""
    integers, scale = to_numpy(quantizer.integers(source.value)), to_numpy(quantizer.scale)
    axes = [axis for axis, size in enumerate(scale.shape) if size > 1]
    if quantizer.codebook is not None:
        return Parameter(source.path, variable, integers, reason="levels of a codebook")
    if len(axes) > 1:
        return Parameter(source.path, variable, integers, reason=f"scales vary along {len(axes)} axes")
    types = [name for name in types if not axes or name not in one_scale]
    stored = smallest_type(integers, types)
    if stored is None:
        reason = (
            f"integers {integers.min()}…{integers.max()} beyond {max(types, key=BITS.__getitem__, default='types')}"
        )
        return Parameter(source.path, variable, integers, reason=reason)
    return Parameter(source.path, variable, integers, np.squeeze(scale), axes[0] if axes else None, stored, "")


def _fill_in_onnx(onnx, graph, name, parameter):
    """Replace the input `name` of the graph, and transpositions of it, by dequantized initializers."""
    for value in [value for value in graph.input if value.name == name]:
        graph.input.remove(value)
    transposes = [node for node in graph.node if node.op_type == "Transpose" and node.input[0] == name]
    outputs: dict = {node.output[0]: list(node.attribute[0].ints) for node in transposes}
    for node in transposes:
        graph.node.remove(node)
    if _is_read(graph, name):
        outputs[name] = None
    integer_type = getattr(onnx.TensorProto, parameter.stored.upper())
    for output, permutation in outputs.items():
        integers, axis = parameter.content(permutation)
        prefix = f"{parameter.name}/{output}"  # paths of variables need not be unique
        inputs = [f"{prefix}/integers", f"{prefix}/scale"]
        content = packed(integers, BITS[parameter.stored])
        graph.initializer.append(onnx.helper.make_tensor(inputs[0], integer_type, integers.shape, content, raw=True))
        graph.initializer.append(onnx.numpy_helper.from_array(parameter.scale, inputs[1]))
        attributes = {} if axis is None else {"axis": axis}
        node = onnx.helper.make_node("DequantizeLinear", inputs, [output], f"{prefix}/dequantize", **attributes)
        graph.node.insert(0, node)


def _is_read(graph, name):
    """Return whether a node of an ONNX graph, or of a loop's body inside, has the input `name`."""
    bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return any(name in node.input for node in graph.node) or any(_is_read(body, name) for body in bodies)


def _fill_in_litert(schema, model, name, parameter):
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
            graph.tensors[output].buffer = _add_litert_buffer(schema, model, array.astype("<f4").tobytes())
            continue
        operator = schema.OperatorT()
        operator.opcodeIndex = _litert_dequantize_code(schema, model)
        operator.inputs = [_add_litert_integers(schema, model, parameter, array, axis)]
        operator.outputs = [output]
        graph.operators.insert(0, operator)


def _is_transpose(schema, model, operator):
    return model.operatorCodes[operator.opcodeIndex].builtinCode == schema.BuiltinOperator.TRANSPOSE


def _add_litert_integers(schema, model, parameter, integers, axis):
    """Add a constant tensor of a parameter's integers, with its scales, and return its index."""
    quantization = schema.QuantizationParametersT()
    quantization.scale = np.atleast_1d(parameter.scale)
    quantization.zeroPoint = np.zeros(len(quantization.scale), "int64")
    quantization.quantizedDimension = axis or 0
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.hasRank = parameter.name.encode(), list(integers.shape), True
    tensor.type = getattr(schema.TensorType, parameter.stored.upper())
    tensor.quantization = quantization
    tensor.buffer = _add_litert_buffer(schema, model, packed(integers, BITS[parameter.stored]))
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def _add_litert_buffer(schema, model, content):
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(content, "uint8")
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def _litert_dequantize_code(schema, model):
    """Return the index of the operator `DEQUANTIZE` among the model's operator codes, added if it is not there."""
    builtin = schema.BuiltinOperator.DEQUANTIZE
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin and code.version == _LITERT_DEQUANTIZE_VERSION:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = _LITERT_DEQUANTIZE_VERSION
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _constant(model, tensor, dtype):
    return np.frombuffer(np.asarray(model.buffers[tensor.buffer].data, "uint8").tobytes(), dtype)


def _table(parameters):
    """Return the table of `export_onnx`."""
    rows = [
        {
            "parameter": parameter.name,
            "shape": tuple(parameter.variable.shape),
            "min": None if parameter.integers is None else int(parameter.integers.min()),
            "max": None if parameter.integers is None else int(parameter.integers.max()),
            "stored": parameter.stored,
            "reason": parameter.reason,
        }
        for parameter in parameters
    ]
    table = pd.DataFrame(rows, columns=["parameter", "shape", "min", "max", "stored", "reason"])
    return table.astype({"min": "Int64", "max": "Int64"})


def _validate(model, types):
    if not isinstance(model, (keras.Sequential, Functional)) or not model.built:
        raise ValueError(
            "Argument `model` must be a built `Sequential` or functional model; `keras.Model(inputs, model(inputs))` "
            f"makes one of any other. Received: model={model!r}"
        )
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


def _import_onnx():
    try:
        import onnx.version_converter
        import tf2onnx  # noqa: F401 - what Keras's exporter uses
    except ImportError as error:
        raise ImportError(f'ONNX export needs the extra `export`: pip install "lqs[export]". {error}') from error
    return onnx
