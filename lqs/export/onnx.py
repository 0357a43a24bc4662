"""ONNX: integers with `DequantizeLinear`."""

import contextlib
import logging
from pathlib import Path

from lqs.export.graphs import Graph, input_name, validate
from lqs.export.operators import register
from lqs.export.parameters import BITS, packed, parameters_of, table
from lqs.file.atomic import write_atomically

_OPSETS = {"int2": 25, "int4": 21, "int8": 21, "int16": 21}
_EXPORT_OPSET = 18  # the highest that tf2onnx writes
_IR_VERSIONS = {21: 10, 25: 13}  # the first that has the opset's types


def export_onnx(model, path, types=("int4", "int8", "int16")):
    """Write a quantized model as ONNX, quantized parameters as integers with `DequantizeLinear`.

    Weights are exact; activations are float. ONNX Runtime, by default, joins `DequantizeLinear` and `MatMul` of
    some parameters into one operator that rounds activations to 8 bits. Its session configuration entry
    `session.qdq_matmulnbits_accuracy_level`, set to `"1"`, keeps them in float; then predictions are Keras's up to
    float rounding. Layers that draw random numbers draw others.

    Inputs have the names of the model's `keras.Input`s and their order, or the keys of a dictionary; outputs are
    `output_0`, `output_1`, …, or have the keys of a dictionary. ONNX Runtime runs the file once before it is written,
    and its outputs are compared with the model's; if the runtime is not installed, a warning says that it was not run.

    Args:
        model: a built model in float32 whose inputs are known: `Sequential`, functional, or called before. It is made
            of `lqs` layers or by `lqs.quantize`; what is not quantized is written in float.
        path: file to write, whole or not at all.
        types: integer types that the runtime has, of `lqs.export.BITS`; the smallest that fits is taken.

    Returns:
        `pandas.DataFrame` with one row per parameter: `parameter` (path), `shape`, `min`, `max` (of the
        integers), `stored` (type in the file) and `reason` (for a parameter left in float).

    Raises:
        ValueError: if `model` is not such a model, has parameters that are not finite or integers beyond int32, or
            operators that ONNX or its runtime does not have; if `types` has other types; or if the backend is not
            TensorFlow.
        ImportError: if a package of the extra `export` is missing.
    """
    validate(model, types)
    onnx = _import_onnx()
    graph, parameters = Graph(model), parameters_of(model, types)
    quantized = [parameter for parameter in parameters if parameter.integers is not None]
    with _converter():
        proto = onnx.load_from_string(graph.export(quantized, "onnx", opset_version=_EXPORT_OPSET))
    _check_operators(onnx, proto.graph)
    opset = max([_OPSETS[parameter.stored] for parameter in quantized if parameter.stored in BITS], default=21)
    proto = onnx.version_converter.convert_version(proto, opset)
    proto.ir_version = _IR_VERSIONS[opset]
    for index, parameter in enumerate(quantized):
        _fill_in(onnx, proto.graph, input_name(index), parameter)
    onnx.checker.check_model(proto, full_check=True)
    content = proto.SerializeToString()
    graph.check("ONNX Runtime", _runner(content))
    write_atomically(Path(path), content)
    return table(parameters)


def _runner(content):
    """Return the function that runs a file on `{name: array}`, or the error if there is no runtime."""
    try:
        import onnxruntime
    except ImportError as error:
        return error

    def run(inputs):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))

    return run


@contextlib.contextmanager
def _converter():
    """Have compiled functions (grouped convolutions) become parts of the graph, and no calls, which ONNX lacks.

    And no errors that tf2onnx only logs: of its patterns that do not match, and of operators that are named below.
    """
    import tensorflow as tf

    logger = logging.getLogger("tf2onnx.tfonnx")
    before = tf.config.functions_run_eagerly(), logger.level
    tf.config.run_functions_eagerly(True)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before[0])
        logger.setLevel(before[1])


def _check_operators(onnx, graph):
    """Raise if a graph has operators of TensorFlow for which there are none in ONNX."""
    missing = {n.op_type for n in _nodes(graph) if not onnx.defs.has(n.op_type, n.domain)}
    if missing:
        raise ValueError(
            f"Argument `model` must have operators that ONNX has: leave the layer of {sorted(missing)} out of the "
            f"model, or use `export_litert`. Received: a graph with {sorted(missing)} of TensorFlow"
        )


def _nodes(graph):
    """Return the nodes of an ONNX graph, and those of loops' bodies inside."""
    bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [*graph.node, *[node for body in bodies for node in _nodes(body)]]


def _fill_in(onnx, graph, name, parameter):
    """Replace the input `name` of the graph, and transpositions of it, by dequantized initializers."""
    for value in [value for value in graph.input if value.name == name]:
        graph.input.remove(value)
    transposes = [node for node in graph.node if node.op_type == "Transpose" and node.input[0] == name]
    outputs: dict = {node.output[0]: list(node.attribute[0].ints) for node in transposes}
    for node in transposes:
        graph.node.remove(node)
    if any(name in node.input for node in _nodes(graph)):
        outputs[name] = None
    for output, permutation in outputs.items():
        array, axis = parameter.content(permutation)
        if parameter.scale is None:
            graph.initializer.append(onnx.numpy_helper.from_array(array, output))
            continue
        prefix = f"{parameter.name}/{output}"  # paths of variables need not be unique
        inputs = [f"{prefix}/integers", f"{prefix}/scale"]
        content = packed(array, BITS[parameter.stored])
        graph.initializer.append(
            onnx.helper.make_tensor(
                inputs[0], getattr(onnx.TensorProto, parameter.stored.upper()), array.shape, content, raw=True
            )
        )
        graph.initializer.append(onnx.numpy_helper.from_array(parameter.scale, inputs[1]))
        attributes = {} if axis is None else {"axis": axis}
        node = onnx.helper.make_node("DequantizeLinear", inputs, [output], f"{prefix}/dequantize", **attributes)
        graph.node.insert(0, node)


def _import_onnx():
    try:
        import onnx.version_converter
        import tf2onnx  # noqa: F401 - what Keras's exporter uses
    except ImportError as error:
        raise ImportError(f'ONNX export needs the extra `export`: pip install "lqs[export]". {error}') from error
    register()
    return onnx
