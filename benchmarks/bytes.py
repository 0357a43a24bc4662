"""Bytes of each committed model as it is stored, and as `lqs.save` writes it today.

    KERAS_BACKEND=jax python benchmarks/bytes.py

Reads every file of `data/models`, writes `data/bytes.csv`, and its table into `benchmarks/bytes.md`. Each step comes on
top of the one before: the axes of integers in the order that takes fewer bytes; the coding by mixing, with the bytes
that integers take with it and without it, and the processor time to pack and to read;
`inference_only`, of whose bytes those of the header are given, too; and the rest in float16. Outputs are those for 64
images of noise, before the softmax.
"""

import importlib.metadata
import tempfile
import time
from pathlib import Path
from unittest import mock

import keras
import numpy as np
import pandas as pd

import lqs
from lqs.file import reader, writer
from lqs.file.saving import encode_model, pack_model
from lqs.inspection import to_numpy
from study.environment import environment
from study.paths import DATA

COLUMNS = {
    "model": "model",
    "stored": "as committed",
    "before": "one order of axes",
    "axes": "two orders",
    "mixing": "mixing",
    "integers": "integers, before",
    "mixed_integers": "integers, mixing",
    "pack_seconds": "s to pack, before",
    "mixing_pack_seconds": "s to pack, mixing",
    "read_seconds": "s to read, before",
    "mixing_read_seconds": "s to read, mixing",
    "inference": "`inference_only`",
    "header": "header, before",
    "inference_header": "header, `inference_only`",
    "float16": "and float16",
    "change": "largest change of outputs",
    "float16_change": "in float16",
}
PAGE = Path(__file__).with_suffix(".md")


def header_bytes(content):
    """Return how many bytes of a file are no sections."""
    return len(content) - len(reader.split(content)[1])


def one_order(model):
    """Return the bytes of a file whose integers are coded with their axes in order, without mixing."""
    original = writer._candidates

    def candidates(*arguments):
        return [candidate for candidate in original(*arguments) if "axes" not in candidate.coding]

    with mock.patch.object(writer, "_candidates", candidates):
        return without_mixing(model)


def without_mixing(model):
    """Return the bytes of a file whose integers are coded without mixing."""
    return writer.pack(*encode_model(model, slow=False))


def integer_bytes(content):
    """Return how many bytes of a file are integers and their tables."""
    sections = [tensor.sections for tensor in reader.parse(content).tensors]
    return sum(each.get("codes", 0) + each.get("table", 0) for each in sections)


def timed(function, *arguments):
    """Return the result of a function and the processor time that it took in seconds."""
    start = time.process_time()
    result = function(*arguments)
    return result, time.process_time() - start


def loaded(content):
    """Return the model in the bytes of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.lqs"
        path.write_bytes(content)
        return lqs.load(path)


def row(path):
    """Return the row of a file."""
    model = lqs.load(path)
    without, pack_seconds = timed(without_mixing, model)
    mixed, mixing_pack_seconds = timed(pack_model, model)
    contents = {
        "before": one_order(model),
        "axes": without,
        "mixing": mixed,
        "inference": pack_model(model, inference_only=True),
        "float16": pack_model(model, "float16", inference_only=True),
    }
    x = np.random.default_rng(0).uniform(size=(64, *model.input_shape[1:])).astype("float32")
    outputs = {name: to_numpy(loaded(contents[name])(x)) for name in ("before", "inference", "float16")}
    return {
        "model": str(path.relative_to(DATA / "models").with_suffix("")),
        "stored": path.stat().st_size,
        **{name: len(content) for name, content in contents.items()},
        "integers": integer_bytes(without),
        "mixed_integers": integer_bytes(mixed),
        "pack_seconds": pack_seconds,
        "mixing_pack_seconds": mixing_pack_seconds,
        "read_seconds": timed(reader.parse, without)[1],
        "mixing_read_seconds": timed(reader.parse, mixed)[1],
        "header": header_bytes(mixed),
        "inference_header": header_bytes(contents["inference"]),
        "change": float(np.abs(outputs["inference"] - outputs["before"]).max()),
        "float16_change": float(np.abs(outputs["float16"] - outputs["before"]).max()),
    }


def write_page(table):
    """Write the table of `data/bytes.csv` as a page."""
    made = table.iloc[0]
    shown = table[list(COLUMNS)].copy()
    for name in shown.columns[1:]:
        form = "{:.1e}" if "change" in name else "{:.2f}" if "seconds" in name else "{:,}"
        shown[name] = [form.format(value) for value in shown[name]]
    rows = [COLUMNS.values(), ["---"] * len(COLUMNS), *shown.to_numpy()]
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in rows]
    made_by = f"{made['date']}, lqs {made['lqs_version']}, Keras {made['keras_version']} on {made['backend']}"
    text = (
        "# Bytes of the committed models\n\n"
        "Made of [`data/bytes.csv`](../data/bytes.csv) by `bytes.py`, which says what the columns are: "
        f"{made_by}.\n\n"
    )
    PAGE.write_text(text + "\n".join(lines) + "\n", encoding="utf-8")


def main():
    """Measure every committed model, and write both files."""
    here = {key: value for key, value in environment().items() if key in ("python", "lqs_version", "keras_version")}
    here |= {"backend": keras.backend.backend(), "date": pd.Timestamp.now(tz="UTC").date().isoformat()}
    here["constriction_version"] = importlib.metadata.version("constriction")
    rows = []
    for path in sorted((DATA / "models").rglob("*.lqs")):
        rows.append({**row(path), **here})
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(DATA / "bytes.csv", index=False)
    write_page(table)


if __name__ == "__main__":
    main()
