"""Files that layers keep beside their variables, such as a learned vocabulary: arrays of bytes in a `.lqs` file."""

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from lqs.file.layout import check

# `assets/1/words.txt` is a file of the second layer that keeps any. Names are those of files in one folder.
ASSET = re.compile(r"assets/(?P<index>\d{1,6})/(?P<file>[A-Za-z0-9_][A-Za-z0-9_.-]{0,99})")


def assets_of(model):
    """Return pairs `(name, uint8 array)` of all files that the layers of a model keep.

    Raises:
        ValueError: if a layer keeps folders.
    """
    found = []
    for index, layer in enumerate(_keepers(model)):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            for path in sorted(Path(folder).iterdir()):
                name = f"assets/{index}/{path.name}"
                if not path.is_file() or not ASSET.fullmatch(name):
                    raise ValueError(f"Layer {layer.name!r} must keep files without folders. Received: {path.name!r}")
                found.append((name, np.frombuffer(path.read_bytes(), "uint8")))
    return found


def load_assets(model, tensors):
    """Give the layers of a model their files, from the tensors of a `.lqs` file."""
    files: dict[int, dict] = {}
    for tensor in tensors:
        match: Any = ASSET.fullmatch(tensor.name)
        check(tensor.dtype == "uint8" and tensor.values is not None, f"{tensor.name} is not the bytes of a file")
        files.setdefault(int(match["index"]), {})[match["file"]] = tensor.values.tobytes()
    keepers = _keepers(model)
    for index, contents in files.items():
        check(index < len(keepers), "it has files of a layer that is not there")
        with tempfile.TemporaryDirectory() as folder:
            for name, content in contents.items():
                (Path(folder) / name).write_bytes(content)
            keepers[index].load_assets(folder)


def _keepers(model):
    """Return the layers that keep files, without those inside of another one, which keeps theirs."""
    found = [layer for layer in model._flatten_layers() if hasattr(layer, "save_assets")]
    inside = {id(inner) for layer in found for inner in layer._flatten_layers(include_self=False)}
    return [layer for layer in found if id(layer) not in inside]
