"""Tests of `lqs.file.assets`: learned vocabularies come back with the model."""

import copy
import pathlib

import keras
import numpy as np
import pytest
from models import text_layers

from lqs.conversion import quantize
from lqs.file import writer
from lqs.file.reader import FileFormatError, read
from lqs.file.saving import encode_model, load, save
from lqs.file.sizes import size_report

L = keras.layers
WORDS = np.array([["a"], ["b"], ["b"]])


@keras.saving.register_keras_serializable("tests.assets")
class Tokenizer(L.Layer):
    """A vocabulary in a file and out of the configuration, as the tokenizers of KerasHub have it."""

    def __init__(self, words=(), **kwargs):
        super().__init__(**kwargs)
        self.words = list(words)

    def save_assets(self, folder):
        (pathlib.Path(folder) / "words.txt").write_text("\n".join(self.words))

    def load_assets(self, folder):
        self.words = (pathlib.Path(folder) / "words.txt").read_text().split("\n")


@keras.saving.register_keras_serializable("tests.assets")
class Task(keras.Model):
    """A network with a preprocessor of its own, which makes a layer when it is first called: one before others."""

    def __init__(self, tokenizer, **kwargs):
        super().__init__(**kwargs)
        self.preprocessor = Preprocessor(tokenizer)
        self.dense = L.Dense(2)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, inputs):
        return self.dense(inputs)

    def get_config(self):
        return {"tokenizer": keras.saving.serialize_keras_object(self.preprocessor.tokenizer)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["tokenizer"]))


class Preprocessor(L.Layer):
    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer = tokenizer

    def process(self, inputs):
        self.packer = L.Identity()
        return self.packer(inputs)


def task():
    model = Task(Tokenizer(["the", "cat"]))
    model.build((None, 3))
    return model


def lookup():
    lookup = L.StringLookup(output_mode="one_hot", name="words")
    lookup.adapt(WORDS)
    return keras.Sequential([keras.Input((1,), dtype="string"), lookup, L.Dense(2)])


def test_preprocessor_that_was_called_is_copied():
    model = task()
    model.preprocessor.process(np.ones((2, 3)))
    assert quantize(model).preprocessor.tokenizer.words == ["the", "cat"]


def test_tokenizer_comes_back(tmp_path):
    model = quantize(task())
    model.preprocessor.process(np.ones((2, 3)))
    save(model, tmp_path / "model.lqs")
    loaded = load(tmp_path / "model.lqs")
    assert loaded.preprocessor.tokenizer.words == ["the", "cat"]


@text_layers
def test_learned_vocabulary_comes_back(tmp_path):
    model = quantize(lookup())
    save(model, tmp_path / "model.lqs")
    loaded = load(tmp_path / "model.lqs")
    assert loaded.layers[0].get_vocabulary() == ["[UNK]", "b", "a"]
    report = size_report(model)
    assert report.loc["total", "file_bytes"] == (tmp_path / "model.lqs").stat().st_size
    assert report.loc["other variables", "elements"] == len("[UNK]\nb\na") + 2  # strengths


@text_layers
def test_vocabulary_in_two_layers_of_which_one_is_inside_is_stored_once(tmp_path):
    vectorization = L.TextVectorization(output_mode="binary")
    vectorization.adapt(WORDS)
    model = keras.Sequential([keras.Input((1,), dtype="string"), vectorization, L.Dense(2)])
    save(model, tmp_path / "model.lqs")
    names = [tensor.name for tensor in read(tmp_path / "model.lqs").tensors]
    assert sum(name.startswith("assets/") for name in names) == 1
    assert load(tmp_path / "model.lqs").layers[0].get_vocabulary() == vectorization.get_vocabulary()


def test_layer_that_keeps_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(Tokenizer, "save_assets", lambda self, folder: (pathlib.Path(folder) / "inner").mkdir())
    with pytest.raises(ValueError, match="must keep files without folders. Received: 'inner'"):
        save(task(), tmp_path / "model.lqs")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name, message",
    [
        ("assets/0/../words.txt", "it has 3 arrays, and the model needs 2"),
        ("assets/0//etc/passwd", "it has 3 arrays, and the model needs 2"),
        ("assets/0/.profile", "it has 3 arrays, and the model needs 2"),
        ("assets/7/words.txt", "files of a layer that is not there"),
        ("assets/0/others.txt", "cannot be rebuilt: FileNotFoundError"),
    ],
)
def test_forged_names(name, message, tmp_path):
    configuration, tensors = copy.deepcopy(encode_model(task()))
    tensors[-1][0]["name"] = name
    writer.write(tmp_path / "model.lqs", configuration, tensors)
    with pytest.raises(FileFormatError, match=message):
        load(tmp_path / "model.lqs")


def test_forged_type(tmp_path):
    configuration, tensors = encode_model(task())
    entry, sections = writer.encode_numbers(np.zeros(2, "float32"))
    writer.write(tmp_path / "model.lqs", configuration, [*tensors[:-1], ({**entry, "name": "assets/0/a"}, sections)])
    with pytest.raises(FileFormatError, match="assets/0/a is not the bytes of a file"):
        load(tmp_path / "model.lqs")
