"""The table of related work and the bibliography agree with each other and with the notebooks."""

import collections
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from pybtex.database import parse_file

from lqs.methods import METHODS as PUBLISHED
from study.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = parse_file(ROOT / "data/references.bib").entries  # pybtex refuses two entries with one key
FIELDS = {key: entry.fields for key, entry in ENTRIES.items()}
WORKS = pd.read_csv(ROOT / "data/related_work.csv", dtype=str, keep_default_na=False)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

COLUMNS = ["key", "method", "year", "family", "learned", "target", "granularity", "bits", "differentiability"]
COLUMNS += ["combined", "architecture", "distillation", "harness", "reference"]
WORDS = {
    "target": {"weights", "activations", "gradients"},
    "bits": {"fixed", "variable", "none"},
    "differentiability": {
        *{"straight-through", "regularizer", "noise", "stochastic gates", "stochastic rounding"},
        *{"shared values", "alternating", "search", "reinforcement learning", "smooth approximation", "none"},
    },
    "architecture": {"dense", "convolutional", "recurrent", "transformer"},
    "distillation": {"no", "tried", "yes"},
}


def cells(path, kind):
    """Return the sources of the cells of a notebook that are `"markdown"` or `"code"`."""
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def cited_keys(path):
    """Return the keys in brackets, such as [esser2020] or [esser2020, jung2019], in the prose of a notebook."""
    lists = [
        keys
        for source in cells(path, "markdown")
        for keys in re.findall(r"\[([a-z]+\d{4}(?:, [a-z]+\d{4})*)\]", source)
    ]
    return {key for keys in lists for key in keys.split(", ")}


def listed_keys(path):
    """Return the keys that a notebook passes to `references`."""
    calls = [call for source in cells(path, "code") for call in re.findall(r"(?s)\breferences\((.*?)\)", source)]
    return {key for call in calls for key in re.findall(r'"([a-z]+\d{4})"', call)}


def duplicates(values):
    return sorted(value for value, count in collections.Counter(values).items() if count > 1)


@pytest.mark.parametrize("key", sorted(FIELDS))
def test_entry_has_title_author_and_year_as_in_its_key(key):
    fields = FIELDS[key]
    assert fields["title"] and ENTRIES[key].persons["author"]
    assert re.fullmatch(r"(19|20)\d\d", fields["year"]) and key.endswith(fields["year"])


def test_bibliography_has_no_duplicates():
    assert duplicates(fields["title"].lower() for fields in FIELDS.values()) == []
    assert duplicates(fields["eprint"] for fields in FIELDS.values() if "eprint" in fields) == []


def test_arxiv_numbers_are_not_after_the_year_of_publication():
    numbers = {key: fields["eprint"] for key, fields in FIELDS.items() if "eprint" in fields}
    assert [key for key, number in numbers.items() if not re.fullmatch(r"\d{4}\.\d{4,5}", number)] == []
    assert [key for key, number in numbers.items() if 2000 + int(number[:2]) > int(FIELDS[key]["year"])] == []


def test_table_is_tidy():
    assert list(WORKS.columns) == COLUMNS
    assert duplicates(WORKS["key"]) == [] and duplicates(WORKS["method"]) == []
    assert not (WORKS == "").any().any()
    assert (WORKS.apply(lambda column: column.str.strip()) == WORKS).all().all()


@pytest.mark.parametrize("column", sorted(WORDS))
def test_column_has_known_words_only(column):
    assert set(WORKS[column].str.split("; ").explode()) <= WORDS[column]


def test_every_work_runs_here_or_says_why_not():
    """By names of `study.methods`, the first word a method of a row; all published ones are in the table."""
    named = [word for harness in WORKS["harness"] for word in harness.split("; ") if word in METHODS]
    assert set(PUBLISHED) <= set(named)
    rest = WORKS[~WORKS["harness"].str.split("; ").str[0].isin(METHODS)]
    assert rest["harness"].str.fullmatch(r"no: \w.{9,}").all()


def test_every_work_is_in_the_bibliography():
    assert set(WORKS["reference"]) - set(FIELDS) == set()


def test_published_sizes_agree_with_their_ratios_and_cite_the_bibliography():
    sizes = pd.read_csv(ROOT / "data/published_bytes.csv")
    assert set(sizes["reference"]) <= set(FIELDS)
    assert set(sizes["counted"]) <= {"printed", "ratio"} and set(sizes["checked"]) <= {"yes", "ratio", "no"}
    known = sizes.dropna(subset=["parameters", "ratio"])
    assert (4 * known["parameters"] / known["bytes"] / known["ratio"]).tolist() == pytest.approx(
        [1] * len(known), abs=0.02
    )


def test_years_agree():
    rows = WORKS[["key", "year", "reference"]].itertuples(index=False)
    assert [key for key, year, reference in rows if FIELDS[reference]["year"] != year] == []


def test_only_the_thesis_has_two_rows():
    assert duplicates(WORKS["reference"]) == ["chinbat2025"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_cites_from_the_bibliography(path):
    assert cited_keys(path) - set(FIELDS) == set()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_lists_the_works_that_it_cites(path):
    assert listed_keys(path) == cited_keys(path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_cites_no_paper_by_a_bare_link(path):
    assert [source for source in cells(path, "markdown") if "arxiv.org" in source or "doi.org" in source] == []
