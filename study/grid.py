"""The parameter grid: from one readable file to the configurations of every run.

A *curve* is all strengths of one method, granularity, regime and seed: what one notebook execution covers. A *family*
of the file stands for the curves of every combination of its granularities, regimes and seeds, a *batch* is a list of
families. `Grid.model_json_schema()` is the schema of the file.
"""

import itertools
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, RootModel, ValidationError

from study.configs import Granularity, Number, Part, Regime, explain, make_config
from study.paths import GRID

_COMBINED = ("granularity", "regime", "seed")


class Family(Part):
    """A family of curves.

    Attributes:
        dataset, protocol, method: of all its runs.
        strengths: of each curve.
        granularity, regime, seed: lists, of which every combination is a curve.
        overrides: further fields of `Config`, in the flat form.
    """

    dataset: str
    protocol: str
    method: str
    strengths: Annotated[list[Number], Field(min_length=1)]
    granularity: list[Granularity] = Field(default=["scalar"])
    regime: list[Regime] = Field(default=["scratch"])
    seed: list[int] = Field(default=[42])
    overrides: dict[str, Any] = Field(default={})

    def curves(self):
        """Return the list of its curves."""
        fields = self.model_dump()
        combinations = itertools.product(*(fields[key] for key in _COMBINED))
        return [{**fields, **dict(zip(_COMBINED, values, strict=True))} for values in combinations]


class Grid(RootModel[dict[str, list[Family]]]):
    """The grid file: `{batch: [family, ...]}`."""


def read_grid(path=GRID):
    """Return `{batch: [curve, ...]}` from the grid file; each curve is a dictionary, the argument of `curve_configs`.

    Raises:
        ValueError: if a family lacks a field, has an unknown one, or stands for no valid configuration. It names
            batch, family and field.

    Example:

    >>> [curve["granularity"] for curve in read_grid()["smoke"]]
    ['scalar', 'row', 'scalar', 'row']
    """
    batches = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    return {
        batch: [curve for number, family in enumerate(families, start=1) for curve in _curves(batch, number, family)]
        for batch, families in batches.items()
    }


def curve_configs(curve, backend=None):
    """Return the list of `Config` of a curve, one per strength.

    Args:
        curve: dictionary with the keys `dataset`, `protocol`, `method`, `granularity`, `regime`, `seed`,
            `strengths` and `overrides`.
        backend: backend of the runs, unless `overrides` names one; `None` for the default of `Config`.
    """
    settings = {key: value for key, value in curve.items() if key not in ("strengths", "overrides")}
    overrides = {**({"backend": backend} if backend else {}), **curve["overrides"]}
    return [make_config(strength=strength, **settings, **overrides) for strength in curve["strengths"]]


def curve_name(curve):
    """Return a readable name of a curve, unique within a grid.

    Example:

    >>> curve_name(read_grid()["smoke"][1])
    'digits-smoke-nested-row-scratch-s42'
    """
    parts = [curve[key] for key in ("dataset", "protocol", "method", "granularity", "regime")]
    overrides = [f"{key}={value}" for key, value in sorted(curve["overrides"].items())]
    return "-".join([*parts, f"s{curve['seed']}", *overrides])


def _curves(batch, number, family):
    """Return the curves of a family of the file, after a look at each of their configurations."""
    try:
        curves = Family.model_validate(family).curves()
        for curve in curves:
            curve_configs(curve)  # reports an invalid entry here, not in the middle of a batch
    except ValidationError as error:
        raise ValueError(f"Batch {batch!r}, family {number}: {explain(error)}") from None
    except ValueError as error:
        raise ValueError(f"Batch {batch!r}, family {number}: {error}") from None
    return curves
