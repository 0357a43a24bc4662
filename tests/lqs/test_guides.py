"""The code of README and of the guides: every block of a text runs, one after the other, on a small model."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs/guides").glob("*.md"))]
GUIDES = {path: re.findall(r"(?ms)^```python\n(.*?)^```$", path.read_text(encoding="utf-8")) for path in TEXTS}
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="`lqs.export` needs TensorFlow")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=on_tensorflow if path.stem == "export" else pytest.mark.once)
        for path, blocks in GUIDES.items()
        if blocks
    ],
)
@pytest.mark.filterwarnings("ignore:32 predictions are held out")
@pytest.mark.filterwarnings("ignore:The file takes")  # so short a training misses the size
@pytest.mark.filterwarnings("ignore:In the future `np.object` will be defined:FutureWarning")  # in tf2onnx
def test_code_runs(path, tmp_path, monkeypatch, rng):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    monkeypatch.chdir(tmp_path)
    layers = [keras.Input((64,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(3, "softmax")]
    keras.Sequential(layers).save("mine.keras")
    x = rng.normal(size=(96, 64)).astype("float32")
    names = {"x_train": x, "y_train": np.arange(96) % 3, "x_test": x}
    for block in GUIDES[path]:
        short = re.sub(r"(epochs=|decay_steps=)20", r"\g<1>2", block.replace("bytes=20_000", "bytes=2_000"))
        exec(compile(short, path.name, "exec"), names)
    plt.close("all")
    assert path.stem not in ("README", "compress") or Path("mine.lqs").exists()
