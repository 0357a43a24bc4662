"""`lqs.compress` on networks that others trained, whose weights come in packages of PyPI.

    pip install --no-deps magika silero-vad zstandard     # into an environment of its own, beside that of lqs
    KERAS_BACKEND=jax python benchmarks/pretrained.py silero magika
    KERAS_BACKEND=tensorflow python benchmarks/pretrained.py silero magika     # LiteRT alone

Writes rows of `data/pretrained.csv`, and their table into `benchmarks/pretrained.md`; what is not measured keeps its
rows. On TensorFlow, which LiteRT's converter needs, these are the rows of LiteRT, and one of rounding to the nearest,
whose agreement tells whether the inputs are those of the other rows. Each network is built in Keras from the weights in
the package's ONNX file, and its outputs are compared with those that ONNX Runtime gives for this file. What compresses
and what tests it are different files, or voices.

`silero`: Silero VAD 6, of speech in windows of 32 ms (16 kHz): convolutions over the magnitudes of a Fourier transform,
which has no weights, and an LSTM. Inputs: sentences that espeak-ng speaks (`apt install espeak-ng`), between pauses, in
noise. Agreement: decisions at a probability of 0.5, which the package takes, too.

`magika`: Magika, of 214 types of files by their first and last kilobyte: an embedding, a convolution, a dense layer.
Inputs: files below the folder of the Python environment, 25 at most of each suffix. Agreement: the most probable type.
"""

import importlib.metadata
import importlib.util
import io
import resource
import subprocess
import sys
import tempfile
import time
import wave
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import onnx
import onnxruntime
import pandas as pd
from keras import layers, ops
from onnx import numpy_helper

import lqs
from lqs.file.saving import pack_model
from lqs.file.sizes import fp32_bytes
from study.environment import environment
from study.paths import DATA

PAGE = Path(__file__).with_suffix(".md")
TABLE = DATA / "pretrained.csv"
WINDOW, CONTEXT, NUM_WINDOWS = 512, 64, 32  # samples; windows of one example, a second
VOICES = ("en-us", "en-gb", "de", "fr", "es", "it", "pl", "en-us+f3", "de+f2", "fr+f4")
TEXTS = (
    "The first rule of the house is that nobody leaves before the music stops.",
    "Seven hundred and twenty four boxes were counted on the morning of the third of May.",
    "Why would anyone walk home in the rain, when there is a train every ten minutes?",
    "A small network fits into a few thousand bytes, and still hears who is speaking.",
)


def package_file(package, *parts):
    """Return the path of a file of an installed package, which is not imported."""
    (folder,) = importlib.util.find_spec(package).submodule_search_locations
    return Path(folder).joinpath(*parts)


def weights_of(path):
    """Return `{name: array}` of the weights in an ONNX file."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


class Silero:
    """Silero VAD, see above."""

    package = "silero-vad"

    def __init__(self):
        self.path = package_file("silero_vad", "data", "silero_vad_16k_sequence.onnx")
        self.weights = weights_of(self.path)

    def model(self):
        """Return the network from the magnitudes of a Fourier transform to probabilities."""
        strides = 1, 2, 2, 1
        x = inputs = keras.Input((NUM_WINDOWS, 4, 129))
        made = []
        for number, stride in enumerate(strides):
            kernel, bias = (self.weights[f"encoder.{number}.{name}"] for name in ("weight", "bias"))
            made.append(
                (
                    layers.Conv2D(len(bias), (1, 3), (1, stride), activation="relu"),
                    kernel.transpose(2, 1, 0)[None],
                    bias,
                )
            )
            x = made[-1][0](layers.ZeroPadding2D((0, 1))(x))
        recurrent, output = layers.LSTM(128, return_sequences=True), layers.Dense(1, "sigmoid")
        model = keras.Model(inputs, output(layers.ReLU()(recurrent(layers.Reshape((NUM_WINDOWS, 128))(x)))))
        for layer, *values in made:
            layer.set_weights(values)
        of_input, of_state, bias = (self.weights[f"onnx::LSTM_{number}"][0] for number in (209, 210, 211))
        gates = np.concatenate([np.arange(128) + 128 * gate for gate in (0, 2, 3, 1)])  # from i o f c to i f c o
        recurrent.set_weights([of_input[gates].T, of_state[gates].T, (bias[:512] + bias[512:])[gates]])
        output.set_weights([self.weights["output.weight"][0], self.weights["output.bias"]])
        return model

    def inputs(self):
        """Return windows of noisy speech with what comes before each, and a number of two for each example."""
        rng = np.random.default_rng(0)
        examples, groups = [], []
        for voice_number, voice in enumerate(VOICES):
            for text in 2 * TEXTS:
                speech = spoken(voice, text, int(rng.integers(120, 220)))
                silence = [np.zeros(int(rng.integers(4_000, 16_000)), "float32") for _ in range(2)]
                audio = np.concatenate([silence[0], speech * rng.uniform(0.2, 1), silence[1]])
                audio += rng.normal(0, 10 ** rng.uniform(-4, -1.5), audio.size)
                found = windows_of(audio.astype("float32"))
                examples.append(found)
                groups += [voice_number % 2] * len(found)
        return np.concatenate(examples), np.array(groups)

    def prepared(self, x):
        """Return magnitudes: a convolution with fixed kernels of samples that are reflected at the end."""
        padded = np.pad(x, [(0, 0), (0, 0), (0, 64)], "reflect")
        frames = np.stack([padded[..., start : start + 256] for start in (0, 128, 256, 384)], 2)
        parts = frames @ self.weights["stft.forward_basis_buffer"][:, 0].T
        return np.hypot(parts[..., :129], parts[..., 129:]).astype("float32")

    def of_package(self, x):
        """Return what ONNX Runtime gives for the package's file."""
        session = onnxruntime.InferenceSession(self.path)
        zeros = np.zeros((1, 1, 128), "float32")
        return np.stack([session.run(None, {"input": example, "h": zeros, "c": zeros})[0] for example in x])[..., None]

    @staticmethod
    def decisions(outputs):
        """Return what is decided in each window."""
        return outputs[..., 0] > 0.5


def spoken(voice, text, speed):
    """Return what espeak-ng speaks, at 16 kHz."""
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "--stdout", text]
    content = subprocess.run(command, capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(content)) as file:
        rate, samples = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2")
    samples = samples.astype("float32") / 2**15
    return np.interp(np.arange(0, samples.size, rate / 16_000), np.arange(samples.size), samples).astype("float32")


def windows_of(audio):
    """Return `(examples, windows, context and samples)` of a second each, as the package cuts them."""
    number = len(audio) // (WINDOW * NUM_WINDOWS)
    windows = audio[: number * WINDOW * NUM_WINDOWS].reshape(number, NUM_WINDOWS, WINDOW)
    context = np.concatenate([np.zeros((number, 1, CONTEXT), "float32"), windows[:, :-1, -CONTEXT:]], 1)
    return np.concatenate([context, windows], -1)


class Magika:
    """Magika, see above."""

    package = "magika"
    prefix = "jax2tf_get_logits_/pjit_get_logits_/MagikaV2/"

    def __init__(self):
        self.path = package_file("magika", "models", "standard_v3_3", "model.onnx")
        self.weights = weights_of(self.path)

    def model(self):
        """Return the network from bytes, with 256 where there are none, to probabilities of types."""

        def named(name):
            return np.squeeze(self.weights[self.prefix + name])

        constants = {name: self.weights[f"jax2tf_get_logits_/Const{name}:0"] for name in ("", "_24")}
        made = {
            "embedding": (layers.Embedding(257, 64), constants[""] + named("Dense_0/Reshape:0")),
            "first": (
                layers.LayerNormalization(1, 1e-6),
                named("LayerNorm_0/Reshape_2:0"),
                named("LayerNorm_0/Reshape_3:0"),
            ),
            "convolution": (
                layers.Conv1D(512, 5),
                self.weights[self.prefix + "Conv_0/transpose_3:0"][..., 0].transpose(2, 1, 0),
                np.squeeze(self.weights["const_fold_opt__209"]),
            ),
            "second": (
                layers.LayerNormalization(-1, 1e-6),
                named("LayerNorm_1/Reshape_2:0"),
                named("LayerNorm_1/Reshape_3:0"),
            ),
            "dense": (layers.Dense(214, "softmax"), constants["_24"], named("Dense_1/Reshape:0")),
        }
        embedding, first, convolution, second, dense = (layer for layer, *_ in made.values())
        inputs = keras.Input((2048,), dtype="int32")
        x = layers.Reshape((512, 256))(ops.gelu(embedding(inputs), approximate=True))
        x = layers.GlobalMaxPooling1D()(ops.gelu(convolution(first(x)), approximate=True))
        model = keras.Model(inputs, dense(second(x)))
        for layer, *values in made.values():
            layer.set_weights(values)
        return model

    def inputs(self):
        """Return the bytes of files, `(files, 2048)`, and a number of two for each."""
        counts: dict[str, int] = {}
        rows = []
        for path in sorted(Path(sys.prefix).rglob("*")):
            suffix = path.suffix.lower()
            if path.is_file() and not path.is_symlink() and path.stat().st_size >= 64 and counts.get(suffix, 0) < 25:
                counts[suffix] = counts.get(suffix, 0) + 1
                rows.append(first_and_last(path.read_bytes()))
        x = np.array(rows, "int32")
        return x, np.random.default_rng(0).permutation(len(x)) % 3 % 2

    @staticmethod
    def prepared(x):
        """Return the inputs as they are."""
        return x

    def of_package(self, x):
        """Return what ONNX Runtime gives for the package's file."""
        session = onnxruntime.InferenceSession(self.path)
        return np.concatenate([session.run(None, {"bytes": part})[0] for part in np.array_split(x, len(x) // 16 + 1)])

    @staticmethod
    def decisions(outputs):
        """Return the most probable type of each file."""
        return outputs.argmax(-1)


def first_and_last(content):
    """Return the first and the last 1,024 bytes of a file without blanks, as the package takes them."""
    blocks = content[:4096], content[-4096:]
    first, last = (block.strip() if len(content) <= 4096 else block for block in blocks)
    first, last = first.lstrip()[:1024], last.rstrip()[-1024:]
    return [*first, *[256] * (1024 - len(first)), *[256] * (1024 - len(last)), *last]


NETWORKS = {"silero": Silero, "magika": Magika}
REQUESTS = {
    "silero": [{"max_change": 0.01}, *({"ratio": ratio} for ratio in (10, 15, 20))],
    "magika": [{"ratio": 8}, {"ratio": 12}],
}
NUM_EXAMPLES = {"silero": 600, "magika": 192}  # to compress by
NUM_TEST = {"silero": 600, "magika": 400}
COLUMNS = {
    "network": "network",
    "how": "how",
    "bytes": "bytes",
    "ratio": "times smaller",
    "agreement": "same decisions (%)",
    "error": "relative error of outputs",
    "seconds": "seconds",
}


def to_nearest(model, bits):
    """Return a model whose parameters are rounded to the nearest of evenly spaced values for each output unit."""
    arguments = {"rounding": "nearest", "bits": bits, "rule": lqs.Frozen(), "initial_scale": "max"}
    kernel, bias = (lqs.NestedQuantization(granularity, **arguments) for granularity in ("output", "scalar"))
    return lqs.quantize(model, kernel, bias)


def in_keras_int8(model):
    """Return a copy that Keras has quantized, where it can, and the bytes of its file as a zip."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.quantize("int8")
    with tempfile.TemporaryDirectory() as folder:
        copy.save(Path(folder) / "int8.keras")
        with zipfile.ZipFile(Path(folder) / "int8.keras") as archive:
            return copy, sum(len(zlib.compress(archive.read(name), 9)) for name in archive.namelist())


def by_litert(model, calibration, test, full):
    """Return the bytes of LiteRT's file and its outputs, one example at a time.

    The loop of an LSTM has no fixed shapes with more than one example, and ends the calibration of integers with a
    segmentation fault, so that it is unrolled for them.
    """
    from peers_bytes import by_litert_converter  # sets Keras's backend

    def copied(layer):
        config = layer.get_config()
        return type(layer).from_config({**config, "unroll": full} if "unroll" in config else config)

    example = keras.Input(batch_shape=(1, *model.input_shape[1:]), dtype=model.input.dtype)
    single = keras.models.clone_model(model, example, copied)
    single.set_weights(model.get_weights())
    with tempfile.TemporaryDirectory() as folder:
        num_bytes, outputs = by_litert_converter(SimpleNamespace(model=single, x=calibration), Path(folder), full)
        return num_bytes, np.concatenate([outputs(test[i : i + 1]) for i in range(len(test))])


def rows_of(name):
    """Yield the rows of a network."""
    from zstandard import ZstdCompressor  # is not locked, and the page is written without it

    network = NETWORKS[name]()
    model = network.model()
    x, groups = network.inputs()
    rng = np.random.default_rng(1)
    parts = [
        x[rng.permutation(np.flatnonzero(groups == g))[:n]] for g, n in ((0, NUM_EXAMPLES[name]), (1, NUM_TEST[name]))
    ]
    calibration, test = (network.prepared(part) for part in parts)
    of_package, expected = network.of_package(parts[1]), predict(model, test)
    difference = float(np.abs(of_package - expected).max())
    print(f"{name}: {model.count_params():,} parameters, {len(calibration)} and {len(test)} examples")
    print(f"largest difference from the package's outputs: {difference:.1e}", flush=True)
    assert difference < 2e-3
    common = {"network": name, "parameters": model.count_params(), "difference": difference}

    def row(how, num_bytes, outputs, seconds=np.nan):
        error = np.linalg.norm(outputs - expected) / np.linalg.norm(expected - expected.mean(0))
        same = np.mean(network.decisions(outputs) == network.decisions(expected))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        found = {"how": how, "bytes": num_bytes, "ratio": fp32_bytes(model) / num_bytes, "agreement": 100 * same}
        return {**common, **found, "error": error, "seconds": seconds, "memory_gb": memory}

    def change(floats, outputs):
        a, b = (network.decisions(np.concatenate([arrays[0] for arrays in some])) for some in (floats, outputs))
        return float(np.mean(a != b))

    def nearest_row(bits, where=""):
        small = to_nearest(model, bits)
        size = len(pack_model(small, inference_only=True))
        return row(f"nearest, {bits} bits, a scale for each unit{where}", size, predict(small, test))

    if keras.backend.backend() == "tensorflow":
        yield nearest_row(8, ", beside LiteRT")
        for how, full in (("LiteRT, dynamic range", False), ("LiteRT, int8", True)):
            yield row(how, *by_litert(model, calibration, test, full))
        return
    yield row("float32", fp32_bytes(model), expected)
    stream, halves = float16_of(model)
    half = keras.models.clone_model(model)
    half.set_weights([value.astype("float32") for value in halves])
    outputs = predict(half, test)
    yield row("float16, deflate", len(zlib.compress(stream, 9)), outputs)
    yield row("float16, zstd 22", len(ZstdCompressor(22).compress(stream)), outputs)
    int8, num_bytes = in_keras_int8(model)
    yield row("Keras int8, its file as a zip", num_bytes, predict(int8, test))
    for bits in (8, 6, 4):
        yield nearest_row(bits)
    for request in REQUESTS[name]:
        ((key, value),) = request.items()
        start = time.perf_counter()
        small = lqs.compress(model, calibration, **request, measure=change, inference_only=True, verbose=True)
        seconds = time.perf_counter() - start
        size = len(pack_model(small, inference_only=True))
        yield row(f"`{key}={value}`", size, predict(small, test), seconds)


def float16_of(model):
    """Return all weights in float16, as bytes and as arrays."""
    values = [value.astype("float16") for value in model.get_weights()]
    return b"".join(value.tobytes() for value in values), values


def predict(model, x):
    """Return the outputs of a model."""
    return model.predict(x, batch_size=64, verbose=0)


TEXT = """# Networks that others trained

Made of [`data/pretrained.csv`](../data/pretrained.csv) by `pretrained.py`, which says what the networks,
inputs and decisions are. Sizes are those of files for inference alone. Seconds are of one run, while
other work may have slowed the machine.

The rows of LiteRT were measured later, on TensorFlow. Silero's sentences were the same then; Magika's inputs are files
of the Python environment, and were others: the rows "beside LiteRT" show what that changes. LiteRT converts the LSTM of
Silero for one example at a time alone ("'tf.TensorListReserve' op requires element_shape to be static"). Its
calibration for int8 ends with a segmentation fault at the loop of the LSTM, so that this row has the loop unrolled: its
32 steps are in the file one by one. By int8 Magika loses its predictions.

"""


def write_page(table):
    """Write the table of `data/pretrained.csv` as a page."""
    formats = {"bytes": "{:,.0f}", "ratio": "{:.1f}", "agreement": "{:.2f}", "error": "{:.3f}", "seconds": "{:.0f}"}
    cells = [[formats.get(key, "{}").format(row[key]) for key in COLUMNS] for row in table.to_dict("records")]
    lines = [
        f"| {' | '.join(row)} |".replace("| nan |", "|  |")
        for row in [COLUMNS.values(), ["---"] * len(COLUMNS), *cells]
    ]
    made = [
        "`{network}`: {package} {package_version}, {parameters:,.0f} parameters, outputs at most {difference:.0e} from "
        "those of the package; {date}, Keras {keras_version} on {backend}, lqs {lqs_version}; peak memory ".format(
            **rows.iloc[0]
        )
        + f"{rows['memory_gb'].max():.1f} GB."
        for _, rows in table.groupby(["network", "backend"], sort=False)
    ]
    PAGE.write_text(TEXT + "\n\n".join(made) + "\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


def main(names):
    """Measure the networks that are named, and write both files."""
    here = {key: value for key, value in environment().items() if key in ("python", "lqs_version", "keras_version")}
    here |= {"backend": keras.backend.backend(), "date": pd.Timestamp.now(tz="UTC").date().isoformat()}
    for name in names:
        package = NETWORKS[name].package
        version = {"package": package, "package_version": importlib.metadata.version(package)}
        rows = []
        for row in rows_of(name):
            rows.append({**row, **version, **here})
            print({key: row[key] for key in COLUMNS}, flush=True)
            others = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=["network", "how"])
            is_new = (others["network"] == name) & others["how"].isin([row["how"] for row in rows])
            table = pd.concat([others[~is_new], pd.DataFrame(rows)])
            table = table.sort_values("network", key=lambda names: names.map(list(NETWORKS).index), kind="stable")
            table.to_csv(TABLE, index=False)
            write_page(table)


if __name__ == "__main__":
    main(sys.argv[1:])
