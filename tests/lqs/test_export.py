"""Exports to ONNX and LiteRT: read back by their runtimes, integers and scales in the file, what is left in float."""

import contextlib
import functools
import re
import sys

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import build, stack

import lqs
from lqs.export import BITS, export_litert, export_onnx, packed, smallest_type
from lqs.inspection import model_integers, quantized_parameters

REASON = "needs the extra `export`"
IS_TENSORFLOW = keras.backend.backend() == "tensorflow"
EXPORTS = {export_onnx: "model.onnx", export_litert: "model.tflite"}
exporting = pytest.mark.skipif(not IS_TENSORFLOW, reason="Keras exports to these formats on the TensorFlow backend")
pytestmark = [
    # Keras's patch of tf2onnx asks whether `np.object` exists.
    pytest.mark.filterwarnings("ignore:In the future `np.object` will be defined:FutureWarning"),
]


def prototype(granularity="scalar", scale=0.25, **arguments):
    return lqs.NestedQuantization(granularity, initial_scale=scale, **arguments)


def log(granularity="scalar", **arguments):
    return prototype(granularity, parametrization="log", **arguments)


def quantized(model, kernel, bias=None):
    return randomized(lqs.quantize(model, kernel, bias))


def randomized(model):
    """Return a quantized `model`, with normal parameters of deviation 1/2 and scales up to twice the initial ones."""
    rng = np.random.default_rng(5)
    for variable, quantizer in quantized_parameters(model):
        scale = ops.convert_to_numpy(quantizer.scale) * (1 + rng.random(quantizer.scale.shape))
        quantizer.scale_weight.assign(quantizer.scale_weight_of(scale.astype("float32")))
        variable.assign(rng.normal(size=variable.shape) / 2)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_mean.assign(rng.normal(size=layer.moving_mean.shape))
            layer.moving_variance.assign(1 + rng.random(layer.moving_variance.shape))
    return model


def dense(num_inputs=20, units=9):
    return stack((num_inputs,), layers.Dense(units, "relu", name="hidden"), layers.Dense(5, name="output"))


def side_by_side(shape, branches, prototypes):
    """Return branches of one network, each with quantizers of its own, and two layers or more with parameters.

    Args:
        shape: of the input.
        branches: dictionary from a name, with which the names of its layers begin, to layers.
        prototypes: dictionary from the name to the prototypes for kernels and biases.
    """
    inputs, outputs = keras.Input(shape), []
    for name, members in branches.items():
        hidden = inputs
        for index, layer in enumerate(members):
            layer.name = f"{name}_{index}"
            hidden = layer(hidden)
        outputs.append(hidden)
    model = keras.Model(inputs, outputs)
    for name, (kernel, bias) in prototypes.items():
        model = lqs.quantize(model, kernel, bias, where=lambda layer, _, name=name: layer.name[:-2] == name)
    return randomized(model)


def dense_branches():
    prototypes = {
        "row": (prototype("row"), prototype()),
        "column": (prototype("column"), prototype((0,))),
        "scalar_zero_biases": (prototype(scale=0.02), None),
        "row_int8": (prototype("row", scale=0.02), prototype(scale=0.02)),
        "scalar_int16": (prototype(scale=0.001), None),
        "column_int16": (prototype("column", 0.001), None),
        "beyond_int16": (prototype(scale=0.00002), None),
    }
    branches = {name: [layers.Dense(9, "relu"), layers.Dense(5)] for name in prototypes}
    return side_by_side((20,), branches, prototypes)


def convolution_branches():
    """Without a bias before the normalization: an exporter that knew the kernel would fold the two."""
    prototypes = {
        "channel": (prototype("channel"), prototype()),
        "filter": (prototype("filter"), prototype((0,))),
        "logarithm": (log("channel"), log(rounding="nearest")),
        "two_axes": (prototype((0, 1)), None),
    }

    def members():
        norm = [layers.Conv2D(4, 3, padding="same", use_bias=False), layers.BatchNormalization(), layers.ReLU()]
        return [*norm, layers.DepthwiseConv2D(3), layers.Conv2D(5, (2, 3)), layers.Flatten()]

    return side_by_side((8, 7, 2), {name: members() for name in prototypes}, prototypes)


def own_layers():
    kernel, bias = prototype("filter"), prototype()
    inputs, middle = keras.Input((6, 6, 1)), keras.Input((16,))
    inner = keras.Model(middle, lqs.QuantDense(3, kernel_quantizer=prototype("row"), bias_quantizer=bias)(middle))
    first = lqs.QuantConv2D(4, 3, strides=2, kernel_quantizer=kernel, activation="relu")
    return keras.Model(inputs, inner(layers.Flatten()(first(inputs))))


def embedding(recurrent):
    head = layers.LSTM(3) if recurrent else layers.GlobalAveragePooling1D()
    model = stack((6,), layers.Embedding(9, 4, mask_zero=recurrent), head, layers.Dense(2), dtype="int32")
    return quantized(model, prototype("row"), prototype())


INT4 = {"": ("int4", "int4")}
BEYOND = r"integers -\d+…\d+ beyond "
# name: (model, {start of a path: types of the quantized parameters in ONNX and LiteRT, or why they are left in float})
MODELS = {
    "dense": (dense_branches, {
        "row_0": ("int4", "int4"),
        "row_1": ("int4", "int4"),
        "column_0": ("int4", "int4"),
        "column_1": ("int4", "int4"),
        "scalar_zero_biases": ("int8", "int8"),
        "row_int8": ("int8", "int8"),
        "scalar_int16": ("int16", "int16"),
        "column_int16": ("int16", BEYOND + "int8"),
        "beyond_int16": (BEYOND + "int16", BEYOND + "int16"),
    }),
    "convolution": (convolution_branches, {
        "channel": ("int4", "int4"),
        "filter": ("int4", "int4"),
        "logarithm": ("int4", "int4"),
        "two_axes": ("scales vary along 2 axes", "scales vary along 2 axes"),
    }),
    "two inputs": (lambda: quantized(build("two inputs"), prototype("row"), prototype()), INT4),
    "own layers": (own_layers, INT4),
    "Embedding": (lambda: embedding(recurrent=False), INT4),
    "Embedding, LSTM": (lambda: embedding(recurrent=True), INT4),
    "float": (dense, {}),
}  # fmt: skip


@functools.cache
def model_of(kind):
    """Return the network `kind`, of which no test may change a weight."""
    return MODELS[kind][0]()


def expected_of(kind, path, column):
    """Return the type, and the pattern of the reason for float, that are expected of a quantized parameter."""
    entry = next(entry for start, entry in MODELS[kind][1].items() if path.startswith(start))[column]
    return (entry, "") if entry in BITS else ("float32", entry)


def inputs_of(model, rng, num=3):
    return [
        rng.integers(1, 9, (num, *i.shape[1:])).astype("int32")
        if i.dtype == "int32"
        else rng.normal(size=(num, *i.shape[1:])).astype("float32")
        for i in model.inputs
    ]


def predict(model, inputs):
    outputs = model(inputs if len(inputs) > 1 else inputs[0])
    return [ops.convert_to_numpy(output) for output in keras.tree.flatten(outputs)]


def run(path, model, inputs):
    """Return the outputs of a file of either format, in its order; inputs are given by name."""
    named = dict(zip([value.name for value in model.inputs], inputs, strict=True))
    return by_name(path, named).values()


def by_name(path, inputs):
    """Return `{name: output}` of a file of either format for `{name: input}`."""
    if path.suffix == ".onnx":
        session = onnx_session(path)
        names = [value.name for value in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))
    found = interpreter(path)
    outputs = found.get_signature_runner()(**inputs)
    return {name: outputs[name] for name in found.get_signature_list()["serving_default"]["outputs"]}


def onnx_session(path, exact=True):
    runtime = pytest.importorskip("onnxruntime", reason=REASON)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    if exact:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return runtime.InferenceSession(path, options)


def run_onnx(path, inputs, exact=True):
    session = onnx_session(path, exact)
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


def interpreter(path):
    return pytest.importorskip("ai_edge_litert.interpreter", reason=REASON).Interpreter(str(path))


def run_litert(path, inputs):
    found = interpreter(path)
    signature = found.get_signature_list()["serving_default"]
    outputs = found.get_signature_runner()(**dict(zip(signature["inputs"], inputs, strict=True)))
    return [outputs[name] for name in signature["outputs"]]


def assert_close(outputs, expected):
    for output, target in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output, target, rtol=1e-5, atol=2e-6 * np.abs(target).max())


def assert_table(table, kind, column):
    """One row per weight; the quantized ones with the range of their integers and the type, or a reason."""
    model = model_of(kind)
    assert len(table) == len(lqs.dequantize(model).weights)
    integers = model_integers(model)
    for row in table.itertuples():
        array = integers.pop(row.parameter, None)
        if array is None:
            assert (row.stored, row.reason) == ("float32", "not quantized")
            continue
        assert (row.min, row.max, row.shape) == (array.min(), array.max(), array.shape)
        stored, reason = expected_of(kind, row.parameter, column)
        assert row.stored == stored and re.fullmatch(reason, row.reason)
        assert "beyond" not in reason or row.reason.startswith(f"integers {row.min}…{row.max} ")
    assert not integers


@contextlib.contextmanager
def unchanged(model):
    before = [ops.convert_to_numpy(variable) for variable in model.weights]
    yield
    for variable, kept in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), kept)


@exporting
@pytest.mark.parametrize("kind", MODELS)
def test_onnx(kind, rng, tmp_path):
    """Predictions are Keras's; the file holds the integers, in the type that the table says; the network stays."""
    onnx = pytest.importorskip("onnx", reason=REASON)
    pytest.importorskip("tf2onnx", reason=REASON)
    model, path = model_of(kind), tmp_path / "model.onnx"
    inputs = inputs_of(model, rng)
    expected = predict(model, inputs)
    with unchanged(model):
        table = export_onnx(model, path)
    assert_table(table, kind, 0)
    assert_close(run_onnx(path, inputs), expected)
    for output, kept in zip(predict(model, inputs), expected, strict=True):
        np.testing.assert_array_equal(output, kept)
    graph = onnx.load(path).graph
    assert len(graph.input) == len(model.inputs)
    found = [value for value in graph.initializer if value.name.endswith("/integers")]
    integers = model_integers(model)
    integers = {path: array for path, array in integers.items() if expected_of(kind, path, 0)[0] != "float32"}
    assert len(found) == len(integers)
    for name, array in integers.items():
        (value,) = [value for value in found if value.name.startswith(f"{name}/")]
        assert value.data_type == getattr(onnx.TensorProto, expected_of(kind, name, 0)[0].upper())
        content = onnx.numpy_helper.to_array(value).astype("int32")
        np.testing.assert_array_equal(np.sort(content, axis=None), np.sort(array, axis=None))


@exporting
@pytest.mark.parametrize("kind", MODELS)
def test_litert(kind, rng, tmp_path):
    """Predictions are Keras's; the file holds integers of the type that the table says, and the learned scales."""
    model, path = model_of(kind), tmp_path / "model.tflite"
    inputs = inputs_of(model, rng)
    expected = predict(model, inputs)
    with unchanged(model):
        table = export_litert(model, path)
    assert_table(table, kind, 1)
    assert_close(run_litert(path, inputs), expected)
    for output, kept in zip(predict(model, inputs), expected, strict=True):
        np.testing.assert_array_equal(output, kept)
    tensors = {tensor["name"]: tensor for tensor in interpreter(path).get_tensor_details()}
    for variable, quantizer in quantized_parameters(model):
        stored, _ = expected_of(kind, variable.path, 1)
        assert (variable.path in tensors) == (stored != "float32")
        if variable.path in tensors:
            scales = tensors[variable.path]["quantization_parameters"]["scales"]
            np.testing.assert_array_equal(scales, np.ravel(ops.convert_to_numpy(quantizer.scale)))


@exporting
@pytest.mark.parametrize("types, stored", [(["int8"], "int8"), (list(BITS), "int2"), ([], "float32")])
def test_types(types, stored, rng, tmp_path):
    """The smallest of the types that are asked for; two bits hold -2…1."""
    pytest.importorskip("tf2onnx", reason=REASON)
    model = quantized(dense(), prototype("row", scale=0.5, bits=2), prototype(bits=2))
    inputs = inputs_of(model, rng)
    for export, run in ((export_onnx, run_onnx), (export_litert, run_litert)):
        assert set(export(model, tmp_path / "model", types=types).stored) == {stored}
        assert_close(run(tmp_path / "model", inputs), predict(model, inputs))


@exporting
@pytest.mark.parametrize("export", [export_onnx, export_litert])
def test_size(export, tmp_path):
    """Half a byte per integer; per scale 4 bytes, in LiteRT 8 more for its zero point; 5 kB for the rest."""
    pytest.importorskip("tf2onnx", reason=REASON)
    model = quantized(dense(512, 256), prototype("row"))
    export(model, tmp_path / "model")
    num_integers, num_scales = 512 * 256 + 256 * 5, 512 + 256
    per_scale = 4 if export is export_onnx else 12
    assert (tmp_path / "model").stat().st_size < num_integers / 2 + per_scale * num_scales + 5000


@exporting
def test_onnx_runtime_by_default_rounds_activations(rng, tmp_path):
    """To 8 bits, in products with kernels of one scale or one per column: an error of a percent, not of 1e-6."""
    pytest.importorskip("tf2onnx", reason=REASON)
    model, path = quantized(dense(512, 64), prototype("column")), tmp_path / "model.onnx"
    export_onnx(model, path)
    inputs = inputs_of(model, rng, num=50)
    expected = predict(model, inputs)[0]
    errors = [np.abs(run_onnx(path, inputs, exact)[0] - expected).max() / np.abs(expected).max() for exact in (0, 1)]
    assert errors[0] < 2e-2 and errors[1] < 2e-6


# What exporters have no operators or no constants for, or get the order of


@keras.saving.register_keras_serializable("tests.export")
class Sampling(layers.Layer):
    """Adds normal numbers of deviation 1/2 and uniform ones from 0 to 2: mean 1, variance 1/4 + 1/3."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seeds = keras.random.SeedGenerator(3)

    def call(self, inputs):
        uniform = keras.random.uniform(ops.shape(inputs), maxval=2.0, seed=self.seeds)
        return inputs + uniform + keras.random.normal(ops.shape(inputs), stddev=0.5, seed=self.seeds)


def adapted():
    layer = layers.Normalization()
    layer.adapt(np.array([[1.0, 5.0, 2.0], [2.0, 9.0, -2.0]], "float32"))
    return stack((3,), layer, layers.Dense(2))


def temporal():
    inputs = keras.Input((12, 2))
    hidden = layers.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="relu")(inputs)
    return keras.Model(inputs, hidden + layers.Conv1D(4, 3, padding="causal", groups=2)(hidden))


def recurrent():
    inputs = keras.Input((4, 3))
    branches = layers.GRU(2), layers.Bidirectional(layers.LSTM(2)), layers.RNN([layers.SimpleRNNCell(2)])
    return keras.Model(inputs, [branch(inputs) for branch in branches])


OTHERS = {
    "grouped convolution": lambda: stack((6, 6, 4), layers.Conv2D(4, 3, groups=2), layers.Flatten(), layers.Dense(3)),
    "Conv1D, causal, dilated and grouped": temporal,
    "exact GELU": lambda: stack((4,), layers.Dense(3, activation="gelu")),
    "Normalization": adapted,
    "recurrent": recurrent,
    "ConvLSTM": lambda: stack((3, 4, 4, 1), layers.ConvLSTM2D(2, 2), layers.Flatten(), layers.Dense(2)),
    "transposed": lambda: stack((3, 3, 2), layers.Conv2DTranspose(2, 2, strides=2), layers.SeparableConv2D(2, 2)),
    "attention": lambda: build("MultiHeadAttention causal"),
}


def changeable(model):
    """Return what layers keep and an export changes for its time."""
    attributes = [item for layer in model._flatten_layers() for item in vars(layer).items()]
    return [value for name, value in attributes if name in ("unroll", "mean", "variance")]


@exporting
@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("export", EXPORTS)
def test_others(export, kind, rng, tmp_path):
    pytest.importorskip("tf2onnx", reason=REASON)
    model = lqs.quantize(OTHERS[kind](), log(rounding="nearest", bits=7, scale=None), None)
    inputs, path = inputs_of(model, rng), tmp_path / EXPORTS[export]
    expected = predict(model, inputs)
    before = changeable(model)
    table = export(model, path)
    assert all(value is kept for value, kept in zip(changeable(model), before, strict=True))
    assert set(table.stored[table.reason == ""]) <= {"int4", "int8"}
    assert_close(run(path, model, inputs), expected)


@exporting
def test_sampling(rng, tmp_path):
    """ONNX draws numbers of the same distribution; LiteRT has no operator."""
    pytest.importorskip("tf2onnx", reason=REASON)
    model = quantized(stack((3,), layers.Dense(2), Sampling()), log("row"))
    export_onnx(model, tmp_path / "model.onnx")
    inputs = np.repeat(rng.normal(size=(1, 3)).astype("float32"), 4000, axis=0)
    (output,) = run(tmp_path / "model.onnx", model, [inputs])
    mean = ops.convert_to_numpy(model.layers[0](inputs[:1]))[0]
    np.testing.assert_allclose(output.mean(axis=0), mean + 1, atol=0.05)
    np.testing.assert_allclose(output.var(axis=0), 1 / 4 + 1 / 3, atol=0.05)
    assert np.abs(np.corrcoef(output.T)[0, 1]) < 0.06
    with pytest.raises(ValueError, match="operators that LiteRT has: .*'StatelessRandomNormalV2'.*use `export_onnx`"):
        export_litert(model, tmp_path / "model.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@exporting
def test_onnx_lacks_an_operator(tmp_path):
    pytest.importorskip("tf2onnx", reason=REASON)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, ops.erfinv(layers.Dense(3)(inputs)))
    with pytest.raises(
        ValueError, match="operators that ONNX has: leave the layer of .'Erfinv'. out .*`export_litert`"
    ):
        export_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@exporting
def test_recurrent_of_any_length(rng, tmp_path):
    pytest.importorskip("tf2onnx", reason=REASON)
    model = quantized(stack((None, 3), layers.LSTM(2)), log())
    with pytest.raises(ValueError, match="a fixed number of timesteps.*`keras.Input.*or use `export_onnx`"):
        export_litert(model, tmp_path / "model.tflite")
    assert not any(layer.unroll for layer in model.layers)
    export_onnx(model, tmp_path / "model.onnx")
    inputs = [rng.normal(size=(3, 5, 3)).astype("float32")]
    assert_close(run(tmp_path / "model.onnx", model, inputs), predict(model, inputs))


@exporting
@pytest.mark.parametrize("export", EXPORTS)
def test_order_and_names(export, rng, tmp_path):
    """Inputs keep the model's order, although LiteRT lists a signature's inputs by name; so do eleven outputs."""
    pytest.importorskip("tf2onnx", reason=REASON)
    tensors, path = [keras.Input((3,), name=name) for name in ("zeta", "alpha")], tmp_path / EXPORTS[export]
    differences = [tensors[0] - tensors[1] * number for number in range(10)]
    model = quantized(keras.Model(tensors, [layers.Dense(2)(tensors[0]), *differences]), log())
    export(model, path)
    inputs = inputs_of(model, rng)
    assert_close(run(path, model, inputs), predict(model, inputs))
    if export is export_litert:
        names = [entry["name"] for entry in interpreter(path).get_input_details()]
        assert names == ["serving_default_zeta:0", "serving_default_alpha:0"]
    else:
        assert_close(run_onnx(path, inputs), predict(model, inputs))


@exporting
@pytest.mark.parametrize("export", EXPORTS)
def test_dictionaries(export, rng, tmp_path):
    """Their keys are the names; blanks become underscores."""
    pytest.importorskip("tf2onnx", reason=REASON)
    tensors = {"left": keras.Input((3,), name="left"), "a mask": keras.Input((2,), name="a mask")}
    outputs = {"second": layers.Dense(2)(tensors["left"]), "first": {"of both": layers.Dense(2)(tensors["a mask"])}}
    model = quantized(keras.Model(tensors, outputs), log())
    export(model, tmp_path / EXPORTS[export])
    inputs = {name: rng.normal(size=(3, tensor.shape[1])).astype("float32") for name, tensor in tensors.items()}
    outputs = by_name(tmp_path / EXPORTS[export], {name.replace(" ", "_"): array for name, array in inputs.items()})
    expected = model(inputs)
    assert_close([outputs["first_of_both"], outputs["second"]], [expected["first"]["of both"], expected["second"]])


# Models that are no graphs of layers


class Autoencoder(keras.Model):
    """A model of two parts, without a configuration."""

    def __init__(self, encoder, decoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def call(self, inputs):
        return self.decoder(self.encoder(inputs))


@exporting
@pytest.mark.parametrize("export", EXPORTS)
def test_subclassed(export, rng, tmp_path):
    """Such a model is exported as it is: also one whose parts are quantized, and that cannot be copied."""
    pytest.importorskip("tf2onnx", reason=REASON)
    parts = [quantized(stack(shape, layers.Dense(2)), log()) for shape in [(4,), (2,)]]
    inputs = rng.normal(size=(3, 4)).astype("float32")
    for model in (lqs.quantize(build("subclassed"), log(), log()), Autoencoder(*parts)):
        expected = ops.convert_to_numpy(model(inputs))
        path = tmp_path / EXPORTS[export]
        table = export(model, path)
        assert set(table.stored[table.reason == ""]) == {"int4"}
        assert_close(by_name(path, {"input_0": inputs}).values(), [expected])


@exporting
@pytest.mark.parametrize("export", EXPORTS)
def test_subclassed_of_unknown_inputs(export, tmp_path):
    """The two ways that the error names are ways."""
    pytest.importorskip("tf2onnx", reason=REASON)
    inputs = np.ones((2, 4), "float32")
    parts = [quantized(stack(shape, layers.Dense(2)), log()) for shape in [(4,), (2,)]]
    model, path = Autoencoder(*parts), tmp_path / EXPORTS[export]
    model.built = True
    with pytest.raises(ValueError, match="must have known inputs: call it once, `model.inputs.`, or give `keras.Model"):
        export(model, path)
    tensor = keras.Input((4,), name="x")
    export(keras.Model(tensor, model(tensor)), path)
    assert_close(by_name(path, {"x": inputs}).values(), [model(inputs)])
    model = Autoencoder(*parts)
    model(inputs)
    export(model, path)


@exporting
def test_dequantized_model_has_been_called_as_the_model_has(tmp_path):
    """Keras exports what has been called."""
    pytest.importorskip("tf2onnx", reason=REASON)
    model = lqs.quantize(dense())
    model(np.ones((1, 20), "float32"))
    lqs.dequantize(model).export(tmp_path / "model.onnx", format="onnx", verbose=False)


# A file that does not run, or computes something else, is not left behind


@exporting
@pytest.mark.parametrize("export, runtime, name", [
    (export_onnx, "onnxruntime", "InferenceSession"),
    (export_litert, "ai_edge_litert.interpreter", "Interpreter"),
])  # fmt: skip
def test_runtime_refuses(export, runtime, name, tmp_path, monkeypatch):
    pytest.importorskip("tf2onnx", reason=REASON)
    pytest.importorskip(runtime, reason=REASON)

    def refuse(*args, **kwargs):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(f"{runtime}.{name}", refuse)
    with pytest.raises(ValueError, match="file (ONNX Runtime|LiteRT) runs: leave .* Received: no such operator"):
        export(model_of("own layers"), tmp_path / "model")
    assert not list(tmp_path.iterdir())


@exporting
@pytest.mark.parametrize("export, module", [(export_onnx, "lqs.export.onnx"), (export_litert, "lqs.export.litert")])
def test_other_outputs(export, module, tmp_path, monkeypatch):
    """As after an exporter that loses a layer."""
    pytest.importorskip("tf2onnx", reason=REASON)
    shapes = {"output_0": (2, 3)}
    monkeypatch.setattr(f"{module}._runner", lambda content: lambda inputs: {n: np.ones(s) for n, s in shapes.items()})
    with pytest.raises(ValueError, match="gives the model's outputs, but .* gives another 'output_0': .* no file"):
        export(model_of("own layers"), tmp_path / "model")
    assert not list(tmp_path.iterdir())


@exporting
@pytest.mark.parametrize(
    "export, runtime", [(export_onnx, "onnxruntime"), (export_litert, "ai_edge_litert.interpreter")]
)
def test_missing_runtime(export, runtime, tmp_path, monkeypatch):
    pytest.importorskip("tf2onnx", reason=REASON)
    monkeypatch.setitem(sys.modules, runtime, None)
    with pytest.warns(UserWarning, match=r'(ONNX Runtime|LiteRT) has not run the file: pip install "lqs\[export\]"'):
        export(model_of("own layers"), tmp_path / "model")
    assert (tmp_path / "model").exists()


@exporting
def test_inputs_that_are_not_found(tmp_path):
    """Axes without a length are tried at a few lengths."""
    pytest.importorskip("tf2onnx", reason=REASON)
    model = quantized(stack((None,), layers.Reshape((5,)), layers.Dense(2)), log())
    with pytest.warns(
        UserWarning, match="has not run the file: found no lengths for inputs of the shapes .*None, None"
    ):
        export_onnx(model, tmp_path / "model.onnx")
    inputs = [np.ones((2, 5), "float32")]
    assert_close(run(tmp_path / "model.onnx", model, inputs), predict(model, inputs))


@exporting
@pytest.mark.parametrize("export", EXPORTS)
def test_values_that_no_file_holds(export, tmp_path):
    model = quantized(dense(), log())
    model.layers[0].kernel.assign(np.full((20, 9), np.nan))
    with pytest.raises(ValueError, match="must have finite variables.* Received: hidden/kernel with 180 of 180 values"):
        export(model, tmp_path / "model")
    model.layers[0].kernel.assign(np.full((20, 9), 1e10))
    with pytest.raises(ValueError, match="integers within int32.* Received: hidden/kernel of up to"):
        export(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


@exporting
@pytest.mark.parametrize("export, module, name", [
    (export_onnx, "onnx.checker", "check_model"),
    (export_litert, "tensorflow.lite.tools.flatbuffer_utils", "convert_object_to_bytearray"),
])  # fmt: skip
def test_failure_leaves_the_old_file(export, module, name, tmp_path, monkeypatch):
    pytest.importorskip("tf2onnx", reason=REASON)

    def fail(*args, **kwargs):
        raise RuntimeError("in the middle")

    pytest.importorskip(module)
    monkeypatch.setattr(sys.modules[module], name, fail)
    (tmp_path / "model").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="in the middle"):
        export(model_of("own layers"), tmp_path / "model")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@exporting
@pytest.mark.parametrize("missing", ["onnx.version_converter", "tf2onnx"])
def test_missing_package(missing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r'the extra `export`: pip install "lqs\[export\]"'):
        export_onnx(model_of("own layers"), tmp_path / "model.onnx")


@pytest.mark.skipif(IS_TENSORFLOW, reason="the error on other backends")
@pytest.mark.parametrize("export", [export_onnx, export_litert])
def test_other_backend(export, tmp_path):
    with pytest.raises(ValueError, match="KERAS_BACKEND=tensorflow and load it. Received: backend '(jax|torch)'"):
        export(dense(), tmp_path / "model")


class Subclassed(keras.Model):
    """Neither `Sequential` nor functional."""


@pytest.mark.parametrize("export", [export_onnx, export_litert])
def test_bad_arguments(export, tmp_path):
    for model in (None, layers.Dense(3), keras.Sequential([layers.Dense(3)]), Subclassed()):
        with pytest.raises(ValueError, match="`model` must be a built `keras.Model`: call it once. Received: model="):
            export(model, tmp_path / "model")
    for types in ("int8", ["int3"], ["float16"]):
        with pytest.raises(ValueError, match="`types` must be a sequence out of .'int2', .*Received: types="):
            export(dense(), tmp_path / "model", types=types)
    half = stack((4,), layers.Dense(3, dtype="mixed_bfloat16"))
    with pytest.raises(ValueError, match="`model` must compute in float32. Received: layers of .'bfloat16'."):
        export(half, tmp_path / "model")


@pytest.mark.once
@pytest.mark.parametrize("name", BITS)
def test_every_level_is_packed(name):
    """Unpacked by NumPy's bits, least significant first; an odd number of integers is padded by zeros."""
    bits = BITS[name]
    levels = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))[:-1]
    content = np.frombuffer(packed(levels.reshape(1, -1), bits), "uint8")
    assert len(content) == -(-len(levels) * bits // 8)
    places = np.unpackbits(content, bitorder="little")[: len(levels) * bits].reshape(-1, bits).astype("int32")
    weights = 2 ** np.arange(bits)
    weights[-1] *= -1  # two's complement
    np.testing.assert_array_equal(places @ weights, levels)


@pytest.mark.once
@pytest.mark.parametrize("name, wider", [("int2", "int4"), ("int4", "int8"), ("int8", "int16"), ("int16", None)])
def test_smallest_type_at_its_limits(name, wider):
    """int4 holds -8…7, and neither -9 nor 8."""
    limit = 2 ** (BITS[name] - 1)
    assert smallest_type(np.array([-limit, 0, limit - 1]), list(BITS)) == name
    for beyond in (-limit - 1, limit):
        assert smallest_type(np.array([0, beyond]), list(BITS)) == wider
