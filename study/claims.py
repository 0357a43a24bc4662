"""Claims, the comparisons and checks that bear on them, and the verdicts that follow from these by one rule."""

import numpy as np
import pandas as pd

from study.comparison import paired_differences

UPWARDS = ("higher", "kept")  # what a claim may say of a quantity, and is shown by an interval above its limit
SAYS = (*UPWARDS, "falls", "lower")  # the others by one below it


class Claims:
    """The evidence on claims, which are called by any names.

    A claim says of a quantity that the tested runs have it `"higher"` or `"lower"` than the reference, that it is
    `"kept"`, or that it `"falls"` by more than is allowed. A comparison shows that if the confidence interval of the
    difference lies beyond the limit, and speaks against it if the interval lies on the limit's other side.

    Args:
        allowed: what a quantity that is kept may lose. The limit is minus this for `"kept"` and `"falls"`, otherwise 0.
        alone: `{unit: half width}` of the interval of a difference with one seed, which has none of its own.
        confidence: of the intervals, of paired t-tests.

    Example:

    >>> claims = Claims(allowed=0.5, alone={"points": 0.7})
    >>> runs = pd.DataFrame({"seed": [1, 2], "accuracy": [97.0, 96.0]})
    >>> claims.compare("best", "ours", "kept", runs, runs.assign(accuracy=[97.1, 96.2]))
    >>> claims.verdict("best")
    'not shown'
    >>> claims.evidence("best")["text"].tolist()
    ['−0.15 ± 0.64 points']
    >>> claims.allowed = 1.0
    >>> claims.verdict("best")
    'holds'
    """

    def __init__(self, allowed, alone, confidence=0.95):
        self.allowed, self.alone, self.confidence = allowed, alone, confidence
        self.pairs, self.checks = {}, {}

    def compare(self, claim, line, says, tested, reference, quantity="accuracy", unit="points"):
        """Add a comparison of two tables of runs, which are paired by their column `seed`.

        Raises:
            ValueError: if `says` is unknown, or the unit has no half width for one seed.
        """
        if says not in SAYS:
            raise ValueError(f"Argument `says` must be one of {SAYS}. Received: says={says!r}")
        if unit not in self.alone:
            raise ValueError(f"Argument `unit` must be one of {tuple(self.alone)}. Received: unit={unit!r}")
        for method, runs in (("tested", tested), ("reference", reference)):
            names = {"line": line, "says": says, "unit": unit, "method": method}
            self.pairs.setdefault(claim, []).append(runs[["seed"]].assign(value=runs[quantity].astype(float), **names))

    def check(self, claim, line, text, shown, seeds):
        """Add evidence that is no difference: what a line of text says shows the claim, or speaks against it."""
        row = {"line": line, "text": text, "shown": bool(shown), "against": not shown, "seeds": seeds}
        self.checks.setdefault(claim, []).append(row)

    def evidence(self, claim):
        """Return the table of all that bears on a claim, one row for each comparison or check, in their order.

        Its columns are `line`, `text`, `shown`, `against` and `seeds`; of comparisons also `says`, `unit`, `difference`
        and `half_width`, which is missing with one seed. Without evidence it is empty.
        """
        tables = [table for table in self.pairs.get(claim, []) if len(table)]
        if not tables:
            return pd.DataFrame(self.checks.get(claim, []))
        values = pd.concat(tables)
        rows = paired_differences(values, "value", "reference", ["line", "says", "unit"], self.confidence)
        rows = rows.rename(columns={"num_pairs": "seeds"}).drop(columns="method")
        half_widths = rows["half_width"].fillna(rows["unit"].map(self.alone))
        limits = rows["says"].map({"kept": -self.allowed, "falls": -self.allowed}).fillna(0.0)
        above = rows["difference"] - half_widths > limits
        below = rows["difference"] + half_widths < limits
        upwards = rows["says"].isin(UPWARDS)
        rows["shown"], rows["against"] = above.where(upwards, below), below.where(upwards, above)
        rows["text"] = [_text(row) for row in rows.itertuples()]
        order = list(values["line"].unique())
        return rows.sort_values("line", key=lambda lines: lines.map(order.index), ignore_index=True)

    def verdict(self, claim):
        """Return the verdict on a claim.

        | verdict | if |
        | --- | --- |
        | `holds` | all evidence shows the claim, each with two seeds or more |
        | `holds in part` | some of it shows the claim |
        | `does not hold` | none shows it, and some speaks against it |
        | `not shown` | none shows it, and none speaks against it |
        | `not tested` | there is none |
        """
        rows = self.evidence(claim)
        if rows.empty:
            return "not tested"
        if not rows["shown"].any():
            return "does not hold" if rows["against"].any() else "not shown"
        return "holds" if rows["shown"].all() and (rows["seeds"] > 1).all() else "holds in part"

    def show(self, *claims):
        """Print the evidence on claims, and the verdicts."""
        for claim in claims:
            rows = self.evidence(claim)
            if len(rows):
                print(rows[["line", "text", "shown", "against", "seeds"]].to_string(index=False))
            print(f"{claim}: {self.verdict(claim)}\n")


def _text(row):
    """Return a difference, and half the width of its interval."""
    digits = 2 if row.unit == "points" else 0
    half_width = "" if np.isnan(row.half_width) else f" ± {row.half_width:.{digits}f}"
    return f"{row.difference:+.{digits}f}{half_width} {row.unit}".replace("-", "−")
