"""The table of `lqs.summary`: a `pandas.DataFrame` that prints itself within the width of a terminal, and as HTML."""

import math
import shutil
from typing import Any

import pandas as pd

COLUMNS = [
    *("parameter", "shape", "granularity", "scale_min", "scale_max"),
    *("unique", "min", "max", "zeros", "entropy_bits", "note"),
]
DISPLAYED = ["parameter", "shape", "scale", "integers", "unique", "bits", "zeros", "note"]
LEAST_WIDTH = 12  # of the paths


class Summary(pd.DataFrame):
    """A table with one row per quantized parameter; see `lqs.summary`.

    Only what is displayed is shortened. A part of the table is a plain `pandas.DataFrame`.
    """

    def __repr__(self) -> str:
        if not len(self):
            return self._total()
        table = self._narrow()
        num_others = max(len(line) for line in table.drop(columns="parameter").to_string(index=False).splitlines())
        width = max(shutil.get_terminal_size().columns - num_others - 1, LEAST_WIDTH)
        paths = [_shortened(path, width) for path in ["parameter", *table["parameter"]]]
        width = max(map(len, paths))
        heading, *table["parameter"] = [path.ljust(width) for path in paths]
        table = table.rename(columns={"parameter": heading})
        return f"{table.to_string(index=False, max_rows=pd.get_option('display.max_rows'))}\n{self._total()}"

    def _repr_html_(self) -> str:
        rows = self._narrow().to_html(index=False, max_rows=pd.get_option("display.max_rows"), border=0)
        return f"{rows * bool(len(self))}<p>{self._total()}</p>"

    def _narrow(self) -> pd.DataFrame:
        """Return what is displayed: few columns of short strings."""
        rows = [
            {
                "parameter": row["parameter"],
                "shape": "×".join(map(str, row["shape"])),
                "scale": _range(f"{row['scale_min']:.2g}", f"{row['scale_max']:.2g}"),
                "integers": _range(row["min"], row["max"]),
                "unique": str(row["unique"]),
                "bits": f"{row['entropy_bits']:.2f}",
                "zeros": f"{row['zeros']:.0%}",
                "note": row["note"],
            }
            for row in self.to_dict("records")
        ]
        table = pd.DataFrame(rows, columns=DISPLAYED)
        return table if self["note"].any() else table.drop(columns="note")

    def _total(self) -> str:
        sizes = [math.prod(shape) for shape in self["shape"]]
        if not sizes:
            return "Nothing is quantized."
        bits, zeros = (sum(self[column] * sizes) / sum(sizes) for column in ("entropy_bits", "zeros"))
        return f"{sum(sizes):,} parameters in {len(sizes)} tensors, {bits:.2f} bits each, {zeros:.0%} zeros"


def _range(low: Any, high: Any) -> str:
    return f"{low}" if low == high else f"{low}…{high}"


def _shortened(path: str, width: int) -> str:
    """Return the end of a path, which says most."""
    return path if len(path) <= width else f"…{path[1 - width :]}"
