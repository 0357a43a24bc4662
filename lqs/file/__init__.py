"""The `.lqs` file: `docs/format.md` describes it. This package imports nothing, so that `reader` needs NumPy alone."""
