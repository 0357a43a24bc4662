"""The parameter grid: from one readable file to the configurations of every run.

A *curve* is all strengths of one method, granularity, regime and seed: what one notebook execution covers.
"""

import itertools
from pathlib import Path

import yaml

from study.configs import make_config
from study.paths import GRID

_DEFAULTS = {"granularity": ["scalar"], "regime": ["scratch"], "seed": [42], "overrides": {}}
_REQUIRED = ("dataset", "protocol", "method", "strengths")


def read_grid(path=GRID):
    """Return `{batch: [curve, ...]}` from the grid file; each curve is a dictionary, the argument of `curve_configs`.

    Raises:
        ValueError: if a family lacks a key, has an unknown one, or stands for no valid configuration.

    Example:

    >>> [curve["granularity"] for curve in read_grid()["smoke"]]
    ['scalar', 'row', 'scalar', 'row']
    """
    families = yaml.safe_load(Path(path).read_text())
    return {batch: [c for family in members for c in _curves(family)] for batch, members in families.items()}


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


def _curves(family):
    missing = set(_REQUIRED) - set(family)
    unknown = set(family) - set(_REQUIRED) - set(_DEFAULTS)
    if missing or unknown:
        raise ValueError(
            f"A family needs {_REQUIRED} and may have {tuple(_DEFAULTS)}. Received: missing {sorted(missing)}, "
            f"unknown {sorted(unknown)} in {family}"
        )
    family = {**_DEFAULTS, **family}
    keys = ("granularity", "regime", "seed")
    curves = []
    for values in itertools.product(*(family[key] for key in keys)):
        curves.append({**family, **dict(zip(keys, values, strict=True))})
        curve_configs(curves[-1])  # reports an invalid entry here, not in the middle of a batch
    return curves
