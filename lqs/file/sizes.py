"""Size of a quantized model, every byte counted, beside the thesis's accounting."""

import io
import math
import zipfile

import numpy as np
import pandas as pd

from lqs.file.assets import ASSET
from lqs.file.layout import FLOATS
from lqs.file.reader import section_sizes
from lqs.file.saving import encode_model, plain_variables
from lqs.file.writer import packed_bytes
from lqs.inspection import check_finite, entropy_bits, nested_layers, quantized_parameters, to_numpy

COLUMNS = ["elements", "fp32_bytes", "fp32_zip_bytes", "zip_bytes", "fixed_bytes", "entropy_bytes", "file_bytes"]
LAST_PARTS = ["tables", "scales", "other variables", "header"]
# When a `CountedSize` packs the file: after this change of the logarithm of the entropy, or so many counts; of the
# first twenty, while networks change most, every other one.
MAX_CHANGE, COUNTS_PER_PACKING, FIRST_COUNTS, FIRST_COUNTS_PER_PACKING = 0.2, 10, 20, 2
FAST_PER_SLOW = 3  # of these packings, how many without mixing come after one with it


def size_report(model, float_dtype="float32", inference_only=False):
    """Return a table of where the bytes of a model go, by five ways to count; its columns add up.

    | row | what it is |
    | --- | --- |
    | one per quantized parameter | its integers |
    | `tables` | how probable the integers are, for the entropy coder |
    | `scales` | of all quantized parameters |
    | `other variables` | what is not quantized, the strengths of rules and penalties, and learned vocabularies |
    | `header` | architecture, names, shapes, checksum; for a zip, its directory |
    | `total` | the sum |

    | column | how the bytes are counted |
    | --- | --- |
    | `fp32_bytes` | four for each parameter of the float network, which has no scales and no strengths |
    | `fp32_zip_bytes` | the same as a zip |
    | `zip_bytes` | the thesis's accounting: a zip of the integers, nothing else |
    | `fixed_bytes` | integers in as many bits as their range needs, the rest as it is |
    | `entropy_bytes` | integers by the empirical entropy of their parameter, the rest as it is |
    | `file_bytes` | what `lqs.save` writes |

    `elements` is the number of elements, and `beyond_int8` says whether int8 does not hold a parameter's integers: the
    thesis's cast would have wrapped around; the zip counted here has a wider type then.

    Args:
        model: a built `keras.Model`. One read from a `.lqs` file has parameters that zip better than before.
        float_dtype: the argument of `lqs.save`.
        inference_only: the argument of `lqs.save`.

    Returns:
        `pandas.DataFrame` with the parts as index.

    Raises:
        ValueError: as `lqs.save` does.

    Example:

    >>> import keras
    >>> from lqs.conversion import quantize
    >>> report = size_report(quantize(keras.Sequential([keras.Input((9,)), keras.layers.Dense(50)])))
    >>> report.loc["total", ["elements", "fp32_bytes"]].tolist()
    [504, 2000]
    """
    configuration, tensors = encode_model(model, float_dtype, inference_only)
    all_sections = [section_sizes(entry) for entry, _ in tensors]
    variables = plain_variables(model, inference_only)
    quantizers = {id(variable): quantizer for variable, quantizer in quantized_parameters(model)}
    parameters = {id(variable) for variable in float_parameters(model)}
    rows: list[dict] = [{"part": part, "file_bytes": 0} for part in LAST_PARTS]
    for variable, sections in zip(variables, all_sections, strict=False):
        value, quantizer = to_numpy(variable.value), quantizers.get(id(variable))
        row = {"elements": value.size, "file_bytes": sections.get("values", 0) + sections.get("codes", 0)}
        row["floats"] = value.astype("float32") if id(variable) in parameters else None
        if quantizer is None:
            rows.append({"part": "other variables", **row, **_as_it_is(value)})
            continue
        scale = to_numpy(quantizer.scale)
        rows.append({"part": variable.path, **row, **_as_integers(to_numpy(quantizer.integers(variable.value)))})
        rows.append({"part": "tables", "file_bytes": sections.get("table", 0)})
        sizes = {"elements": scale.size, "file_bytes": sections.get("scale", 0)}
        rows.append({"part": "scales", **sizes, **_as_it_is(scale)})
    for (entry, _), sections in list(zip(tensors, all_sections, strict=True))[len(variables) :]:
        row = {"part": "scales", "file_bytes": sections["values"]}
        if ASSET.fullmatch(entry["name"]):
            row |= {"part": "other variables", "elements": entry["shape"][0]}
            row |= dict.fromkeys(("fixed_bytes", "entropy_bytes"), entry["shape"][0])
        rows.append(row)
    num_bytes = packed_bytes(configuration, tensors)
    rows.append({"part": "header", "file_bytes": num_bytes - sum(row["file_bytes"] for row in rows)})
    return _joined(rows)


def file_bytes(model, inference_only=False):
    """Return the number of bytes that `lqs.save` writes for a model."""
    return packed_bytes(*encode_model(model, inference_only=inference_only))


class CountedSize:
    """The size of the file of a model while it trains, at a small part of what packing the file takes.

    With `H` the sum of the entropies of all integers, each parameter by its own distribution, it is

        fixed_bytes + factor * H

    with the factor with which that was the size when the file was last packed. It is packed when `H` has
    changed by about a fifth since, and every tenth time; of the first twenty times, every other one. Three of four
    times it is packed without mixing, which takes most of the time; what that had saved the last time is counted.

    Args:
        model: a built `keras.Model`.
        inference_only: the argument of `lqs.save`.

    Attributes:
        packed: the size when the file was last packed.
        fixed_bytes: what of it is not integers: header, scales, and parameters that are not quantized.

    Raises:
        ValueError: as `lqs.save` does; if it is counted, for quantized parameters that are not finite alone.

    Example:

    >>> import keras
    >>> from lqs.conversion import quantize
    >>> model = quantize(keras.Sequential([keras.Input((9,)), keras.layers.Dense(50)]))
    >>> size = CountedSize(model)
    >>> size.pack() == size.count() == file_bytes(model)
    True
    """

    def __init__(self, model, inference_only=False):
        self.model, self.inference_only, self.num_counts = model, inference_only, 0
        self.pack()

    def pack(self):
        """Return the size exactly."""
        _, fast = self._packed_parts(slow=False)
        self.fixed_bytes, integers = self._packed_parts(slow=True)
        self.share, self.num_fast = integers / max(fast, 1), 0
        return self._calibrate(integers)

    def _pack_fast(self):
        """Return the size, nearly exactly, except for every fourth time."""
        if self.num_fast == FAST_PER_SLOW:
            return self.pack()
        self.fixed_bytes, fast = self._packed_parts(slow=False)
        self.num_fast += 1
        return self._calibrate(self.share * fast)

    def _packed_parts(self, slow):
        """Return how many bytes are not integers, and how many are."""
        configuration, tensors = encode_model(self.model, inference_only=self.inference_only, slow=slow)
        sections = [section_sizes(entry) for entry, _ in tensors]
        integers = sum(each.get("codes", 0) + each.get("table", 0) for each in sections)
        return packed_bytes(configuration, tensors) - integers, integers

    def _calibrate(self, integers):
        self.entropy = self._entropy_bytes()
        self.packed, self.factor, self.num_since = round(self.fixed_bytes + integers), integers / self.entropy, 0
        return self.packed

    def count(self):
        """Return the size, counted where that will do."""
        self.num_counts += 1
        self.num_since += 1
        is_first = self.num_counts <= FIRST_COUNTS
        if self.num_since >= (FIRST_COUNTS_PER_PACKING if is_first else COUNTS_PER_PACKING):
            return self._pack_fast()
        entropy = self._entropy_bytes()
        if abs(math.log(entropy / self.entropy)) > MAX_CHANGE:
            return self._pack_fast()
        return round(self.fixed_bytes + self.factor * entropy)

    def _entropy_bytes(self):
        """Return at least 1, so that there is a logarithm."""
        bits = 0.0
        for variable, quantizer in quantized_parameters(self.model):
            check_finite(variable)
            integers = to_numpy(quantizer.integers(variable.value))
            bits += entropy_bits(integers) * integers.size
        return max(bits / 8, 1.0)


def fp32_bytes(model):
    """Return four bytes for each parameter of the float network that a model is made of."""
    return 4 * sum(math.prod(variable.shape) for variable in float_parameters(model))


def float_parameters(model):
    """Return the variables of a model that the float network has: no scales, no strengths, no states of seeds."""
    nested = {id(variable) for layer in nested_layers(model) for variable in layer.variables}
    return [v for v in plain_variables(model) if v.dtype in FLOATS and id(v) not in nested]


def zip_archive(arrays):
    """Return the archive of `zipped_bytes` as an `io.BytesIO`, and the `numpy.dtype` of its members."""
    dtype = np.result_type(*arrays)
    if dtype.kind == "i":
        lowest, highest = min(a.min() for a in arrays), max(a.max() for a in arrays)
        dtype = np.min_scalar_type(min(int(lowest), -int(highest) - 1))  # the smallest signed type for both
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for index, array in enumerate(arrays):
            archive.writestr(str(index), array.astype(dtype).tobytes())
    return buffer, dtype


def _as_it_is(value):
    return {"fixed_bytes": value.nbytes, "entropy_bytes": value.nbytes}


def _as_integers(integers):
    lowest, highest = (int(integers.min()), int(integers.max())) if integers.size else (0, 0)
    return {
        "integers": integers,
        "beyond_int8": lowest < -128 or highest > 127,
        "fixed_bytes": -(-(highest - lowest).bit_length() * integers.size // 8),
        "entropy_bytes": math.ceil(entropy_bits(integers) * integers.size / 8),
    }


def _joined(rows):
    """Return the table of rows, with the two zips of all of them, equal parts joined and the total."""
    for column, of in (("zip_bytes", "integers"), ("fp32_zip_bytes", "floats")):
        zipped = [row for row in rows if row.get(of) is not None]
        num_bytes = 0
        if zipped:
            buffer, _ = zip_archive([row[of] for row in zipped])
            members = zipfile.ZipFile(buffer).infolist()
            for row, member in zip(zipped, members, strict=True):
                row[column] = member.compress_size
            num_bytes = buffer.getbuffer().nbytes - sum(member.compress_size for member in members)
        rows[-1][column] = num_bytes
    for row in rows:
        row["fp32_bytes"] = 0 if row.get("floats") is None else 4 * row["floats"].size
    table = pd.DataFrame(rows).reindex(columns=["part", *COLUMNS, "beyond_int8"])
    table["beyond_int8"] = table["beyond_int8"].eq(True)
    table = table.groupby("part", sort=False).agg({**dict.fromkeys(COLUMNS, "sum"), "beyond_int8": "any"})
    table = table.loc[[*table.index.difference(LAST_PARTS, sort=False), *LAST_PARTS]]
    table.loc["total"] = table.agg({**dict.fromkeys(COLUMNS, "sum"), "beyond_int8": "any"})
    return table.astype({**dict.fromkeys(COLUMNS, int), "beyond_int8": bool})
