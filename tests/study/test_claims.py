"""Tests of `study.claims`: by hand, which differences show a claim, which speak against it, and what follows."""

import pandas as pd
import pytest

from study.claims import Claims

pytestmark = pytest.mark.once
SEEDS = [1, 2, 3]


def runs(*values):
    return pd.DataFrame({"seed": SEEDS[: len(values)], "accuracy": values})


def claims(**arguments):
    return Claims(**{"allowed": 1.0, "alone": {"points": 0.5}, **arguments})


@pytest.mark.parametrize(
    "says, difference, shown, against",
    [
        ("higher", 0.6, True, False),
        ("higher", 0.4, False, False),
        ("higher", -0.6, False, True),
        ("lower", -0.6, True, False),
        ("lower", 0.6, False, True),
        ("kept", -0.4, True, False),
        ("kept", -1.2, False, False),
        ("kept", -1.6, False, True),
        ("falls", -1.6, True, False),
        ("falls", -0.4, False, True),
    ],
)
def test_one_seed_has_the_half_width_of_its_unit(says, difference, shown, against):
    found = claims()
    found.compare("claim", "line", says, runs(90 + difference), runs(90.0))
    (row,) = found.evidence("claim").itertuples()
    assert (row.shown, row.against, row.seeds) == (shown, against, 1)
    assert row.difference == pytest.approx(difference) and pd.isna(row.half_width) and "±" not in row.text
    expected = "holds in part" if shown else "does not hold" if against else "not shown"
    assert found.verdict("claim") == expected  # one seed alone never makes a claim hold


def test_interval_is_of_the_pairs_and_decides():
    found = claims()
    found.compare("claim", "line", "higher", runs(91.0, 91.2, 91.4), runs(90.0, 90.3, 90.2))
    (row,) = found.evidence("claim").itertuples()
    # Differences 1.0, 0.9 and 1.2: mean 1.033, deviation 0.1528, t of two degrees of freedom 4.303.
    assert (row.text, row.shown, row.seeds) == ("+1.03 ± 0.38 points", True, 3)
    assert found.verdict("claim") == "holds"
    found.confidence = 0.999
    assert found.verdict("claim") == "not shown"


def test_verdict_weighs_all_lines_in_their_order():
    found = claims()
    found.compare("claim", "second by name", "higher", runs(91.0, 91.1), runs(90.0, 90.1))
    assert found.verdict("claim") == "holds"
    found.compare("claim", "first by name", "higher", runs(89.0, 89.1), runs(90.0, 90.1))
    assert found.evidence("claim")["line"].tolist() == ["second by name", "first by name"]
    assert found.verdict("claim") == "holds in part"


def test_checks_and_what_is_not_tested(capsys):
    found = claims()
    found.check("seen", "line", "5 %", shown=True, seeds=2)
    found.compare("empty", "line", "higher", runs(), runs(90.0))
    found.show("seen", "unknown")
    assert [found.verdict(claim) for claim in ("seen", "empty", "unknown")] == ["holds", "not tested", "not tested"]
    assert "5 %" in (printed := capsys.readouterr().out) and printed.endswith("seen: holds\n\nunknown: not tested\n\n")
    found.check("seen", "other", "7 %", shown=False, seeds=2)
    assert found.verdict("seen") == "holds in part"


@pytest.mark.parametrize("arguments, name", [({"says": "better"}, "says"), ({"says": "kept", "unit": "feet"}, "unit")])
def test_unknown_words(arguments, name):
    with pytest.raises(ValueError, match=f"Argument `{name}` must be one of"):
        claims().compare("claim", "line", tested=runs(), reference=runs(), **arguments)
