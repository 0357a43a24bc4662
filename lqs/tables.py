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
        if not self._is_whole():
            return super().__repr__()
        if not len(self):
            return self._total()
        table = self._narrow()
        num_others = max(len(line) for line in table.drop(columns="parameter").to_string(index=False).splitlines())
        width = max(shutil.get_terminal_size().columns - num_others - 1, LEAST_WIDTH)
        paths = [shortened(path, width) for path in ["parameter", *table["parameter"]]]
        width = max(map(len, paths))
        heading, *table["parameter"] = [path.ljust(width) for path in paths]
        table = table.rename(columns={"parameter": heading})
        return f"{table.to_string(index=False, max_rows=self._max_rows())}\n{self._total()}"

    def _repr_html_(self) -> str | None:
        if not self._is_whole():
            return super()._repr_html_()  # type: ignore[misc]
        rows = self._narrow().to_html(index=False, max_rows=self._max_rows(), border=0)
        return f"{rows * bool(len(self))}<p>{self._total()}</p>"

    def _is_whole(self) -> bool:
        """Return whether all columns are still there, which methods of pandas may change in place."""
        return set(COLUMNS) <= set(self)

    def _max_rows(self) -> int:
        """Return how many rows are displayed: of more than 60, ten, as pandas does by default."""
        most, least = pd.get_option("display.max_rows"), pd.get_option("display.min_rows")
        return len(self) if most is None or len(self) <= most else min(least or most, most)

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
        counts = f"{_counted(sum(sizes), 'parameter')} in {_counted(len(sizes), 'tensor')}"
        return f"{counts}, {bits:.2f} bits each, {zeros:.0%} zeros"


def _counted(num: int, noun: str) -> str:
    return f"{num:,} {noun}{'s' * (num != 1)}"


def _range(low: Any, high: Any) -> str:
    return f"{low}" if low == high else f"{low}…{high}"


def shortened(path: str, width: int) -> str:
    """Return the end of a path, which says most."""
    return path if len(path) <= width else f"…{path[1 - width :]}"
