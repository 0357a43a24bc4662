"""Tests of the command `lqs`."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

from lqs import cli
from lqs.conversion import quantize
from lqs.file.reader import read
from lqs.file.saving import load, save
from lqs.quantizer import NestedQuantization


@pytest.fixture
def model():
    layers = [keras.Input((4,)), keras.layers.Dense(3, name="hidden")]
    return quantize(keras.Sequential(layers), kernel=NestedQuantization("row", initial_scale=0.1))


@pytest.fixture
def run(monkeypatch, capsys):
    """Function that runs `main` with arguments, and returns exit code, output and error output."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["lqs", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code or 0, *capsys.readouterr()

    return run


def test_pack_info_unpack(model, run, tmp_path):
    x = np.ones((2, 4), "float32")
    model.save(tmp_path / "model.keras")
    code, output, _ = run("pack", tmp_path / "model.keras")
    packed = tmp_path / "model.lqs"
    assert code == 0 and f"{packed.stat().st_size:,} bytes" in output

    code, output, _ = run("info", packed)
    assert code == 0 and output.splitlines()[0] == "Sequential of 4 arrays, format 2"
    integers = read(packed)[1][0].integers
    line = next(line.split() for line in output.splitlines() if line.startswith("hidden/kernel"))
    assert line[:4] == ["hidden/kernel", "4×3", f"{integers.min()}…{integers.max()}", str(np.unique(integers).size)]
    header = next(line.split() for line in output.splitlines() if line.startswith("header"))
    sections = sum(sum(tensor.sections.values()) for tensor in read(packed)[1])
    assert int(header[1]) + sections == packed.stat().st_size
    assert output.endswith(f"\n{packed.stat().st_size:,} bytes\n")

    code, output, _ = run("unpack", packed, "-o", tmp_path / "again.keras")
    assert code == 0 and "again.keras" in output
    again = keras.models.load_model(tmp_path / "again.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), load(packed).predict(x, verbose=0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.keras", "model.keras", "model.lqs"]


FILE = next((Path(__file__).parents[2] / "data" / "models" / "mnist").glob("compact-*.lqs"))


def test_info_of_a_committed_file(run):
    code, output, _ = run("info", FILE)
    assert code == 0 and output.splitlines()[0].endswith("arrays, format 4")


@pytest.mark.parametrize("arguments", [["info", str(FILE)], ["--version"], ["--help"], ["pack", "--help"]])
def test_nothing_heavy_is_imported_to_look(arguments, tmp_path):
    """In a package whose own `__init__` imports nothing."""
    source = Path(cli.__file__).parent
    (tmp_path / "lqs").mkdir()
    (tmp_path / "lqs" / "__init__.py").write_text('__version__ = "0.1.0"\n')
    for name in ("cli.py", "file"):
        (tmp_path / "lqs" / name).symlink_to(source / name)
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['lqs', *{arguments}]\n"
        "from lqs.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n    code = end.code or 0\n"
        "print(code, *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    result = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    code, *modules = result.stdout.splitlines()[-1].split()
    assert code == "0" and "lqs" in modules
    assert not {"keras", "tensorflow", "jax", "torch", "pandas", "scipy", "ml_dtypes"} & set(modules)


def test_pack_with_half_precision(model, run, tmp_path):
    model.save(tmp_path / "model.keras")
    code, _, _ = run("pack", tmp_path / "model.keras", "-o", tmp_path / "half.lqs", "--float-dtype", "float16")
    assert code == 0 and read(tmp_path / "half.lqs")


def test_errors_are_one_line(model, run, tmp_path):
    save(model, tmp_path / "model.lqs")
    damaged = tmp_path / "damaged.lqs"
    damaged.write_bytes((tmp_path / "model.lqs").read_bytes()[:-1])
    (tmp_path / "other.keras").write_bytes(b"no zip")
    for arguments in [
        ("info", damaged),
        ("unpack", damaged),
        ("pack", tmp_path / "other.keras"),
        ("pack", tmp_path / "other.keras", "-o", tmp_path / "missing" / "a.txt"),
    ]:
        code, output, error = run(*arguments)
        assert code == 1 and output == ""
        assert error.startswith("error: ") and len(error.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.lqs", "model.lqs", "other.keras"]


def with_configuration(source, target, change):
    """Write a `.keras` file with another configuration."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, json.dumps(change(json.loads(content))) if name == "config.json" else content)


GET_FILE = {"module": "keras.utils", "class_name": "function", "config": "get_file", "registered_name": "get_file"}


@pytest.mark.parametrize("place", ["activation", "compile"])
def test_keras_files_may_name_what_lqs_files_may(place, model, run, tmp_path):
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation="relu")])
    inner.compile("sgd", "mse")
    keras.Sequential([keras.Input((3,)), inner]).save(tmp_path / "model.keras")

    def change(configuration):
        inner = configuration["config"]["layers"][-1]
        if place == "compile":
            inner["compile_config"]["loss"] = GET_FILE
        else:
            inner["config"]["layers"][-1]["config"]["activation"] = GET_FILE
        return configuration

    with_configuration(tmp_path / "model.keras", tmp_path / "other.keras", change)
    code, _, error = run("pack", tmp_path / "other.keras")
    assert code == 1 and "must name what lqs knows of Keras" in error and "'get_file' of module 'keras.utils'" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.keras", "other.keras"]
    with_configuration(tmp_path / "model.keras", tmp_path / "same.keras", lambda configuration: configuration)
    assert run("pack", tmp_path / "same.keras")[0] == 0


def test_loss_of_ones_own_does_not_matter(run, tmp_path):
    def loss(true, predicted):
        return keras.ops.mean(keras.ops.abs(true - predicted))

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", loss)
    model.save(tmp_path / "model.keras")
    assert run("pack", tmp_path / "model.keras")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [(), ("info",), ("info", "missing.lqs"), ("squeeze", "a"), ("pack", "missing.keras"), ("info", "a", "b")],
)
def test_wrong_use_is_exit_code_2(run, arguments):
    code, _, error = run(*arguments)
    assert code == 2 and "Usage: " in error


def test_unpack_to_another_kind_of_file(model, run, tmp_path):
    save(model, tmp_path / "model.lqs")
    code, _, error = run("unpack", tmp_path / "model.lqs", "-o", tmp_path / "model.h5")
    assert code == 2 and "does not end in .keras" in error


def test_version():
    result = CliRunner().invoke(cli.commands, ["--version"])
    assert result.exit_code == 0 and "0.1.0" in result.output


def test_pack_of_a_float_model_names_compress(run, tmp_path):
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save(tmp_path / "model.keras")
    code, _, errors = run("pack", tmp_path / "model.keras")
    assert code == 0 and "quantizes nothing: `lqs compress` does" in errors


def test_compress(run, tmp_path):
    keras.Sequential([keras.Input((9,)), keras.layers.Dense(50)]).save(tmp_path / "model.keras")
    np.savez(tmp_path / "x.npz", np.random.default_rng(0).normal(size=(60, 9)))
    small = tmp_path / "small.lqs"
    code, output, _ = run(
        "compress",
        tmp_path / "model.keras",
        small,
        "--calibration",
        tmp_path / "x.npz",
        "--ratio",
        2,
        "--inference-only",
    )
    assert not load(small).trainable_variables
    assert code == 0 and f"{small}: {small.stat().st_size:,} bytes" in output and small.stat().st_size <= 1000
    assert run("pack", tmp_path / "model.keras", "--inference-only")[0] == 0
    assert not load(tmp_path / "model.lqs").trainable_variables
    code, _, errors = run("compress", tmp_path / "model.keras", small)
    assert code == 1 and "Exactly one of the arguments" in errors


def test_compress_beside_the_model(run, tmp_path):
    """By a .npy file; what does not end in .lqs is refused before anything is read."""
    keras.Sequential([keras.Input((9,)), keras.layers.Dense(50)]).save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 9)))
    arguments = "--calibration", tmp_path / "x.npy", "--max-change", 0.1
    code, output, _ = run("compress", tmp_path / "model.keras", *arguments)
    assert code == 0 and f"{tmp_path / 'model.lqs'}: " in output
    code, output, error = run("compress", tmp_path / "model.keras", tmp_path / "small.bin", *arguments)
    assert code == 2 and output == "" and "small.bin does not end in .lqs" in error


def test_compress_with_arrays_by_name(run, tmp_path):
    inputs = [keras.Input((4,), name="a"), keras.Input((3,), name="b")]
    keras.Model(inputs, keras.layers.Dense(50)(keras.layers.Concatenate()(inputs))).save(tmp_path / "model.keras")
    arrays = {"b": np.ones((9, 3)), "a": np.ones((9, 4))}
    np.savez(tmp_path / "x.npz", **arrays)
    arguments = ["compress", tmp_path / "model.keras", tmp_path / "small.lqs", "--calibration", tmp_path / "x.npz"]
    assert run(*arguments, "--max-change", 0.5)[0] == 0
    np.savez(tmp_path / "x.npz", a=arrays["a"], c=arrays["b"])
    code, _, errors = run(*arguments, "--max-change", 0.5)
    assert code == 1 and "must hold one array, or those of the inputs ['a', 'b']" in errors
