"""The table of related work and the bibliography agree with each other and with the notebooks."""

import collections
import json
import re
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent
BIBLIOGRAPHY = (ROOT / "data/references.bib").read_text()
WORKS = pd.read_csv(ROOT / "data/related_work.csv", dtype=str, keep_default_na=False)
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

COLUMNS = ["key", "method", "year", "family", "learned", "target", "granularity", "bits", "differentiability"]
COLUMNS += ["combined", "reference"]
WORDS = {
    "target": {"weights", "activations", "gradients"},
    "bits": {"fixed", "variable", "none"},
    "differentiability": {
        *{"straight-through", "regularizer", "noise", "stochastic gates", "stochastic rounding"},
        *{"shared values", "alternating", "search", "reinforcement learning"},
    },
}


def parse(text):
    """Return `[(key, {field: value})]` of the entries of a BibTeX file with one field per line and braces."""
    entries = re.findall(r"^@\w+\{(\w+),\n(.*?)^\}", text, flags=re.MULTILINE | re.DOTALL)
    field = r"^  (\w+) = \{(.*?)\},\n(?=  \w|\Z)"
    return [(key, dict(re.findall(field, body, flags=re.MULTILINE | re.DOTALL))) for key, body in entries]


def cited_keys(path):
    """Return the keys in brackets, such as [esser2020], in the prose of a notebook."""
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "markdown"]
    return {key for cell in cells for key in re.findall(r"\[([a-z]+\d{4})\](?!\()", "".join(cell["source"]))}


ENTRIES = parse(BIBLIOGRAPHY)
FIELDS = dict(ENTRIES)


def duplicates(values):
    return sorted(value for value, count in collections.Counter(values).items() if count > 1)


def test_every_entry_is_parsed():
    assert len(ENTRIES) == len(re.findall(r"(?m)^@", BIBLIOGRAPHY))
    assert BIBLIOGRAPHY.count("{") == BIBLIOGRAPHY.count("}")


@pytest.mark.parametrize("key", sorted(FIELDS))
def test_entry_has_title_author_and_year_as_in_its_key(key):
    fields = FIELDS[key]
    assert fields["title"] and fields["author"]
    assert re.fullmatch(r"(19|20)\d\d", fields["year"]) and key.endswith(fields["year"])


def test_bibliography_has_no_duplicates():
    assert duplicates(key for key, _ in ENTRIES) == []
    assert duplicates(fields["title"].lower() for _, fields in ENTRIES) == []
    assert duplicates(fields["eprint"] for _, fields in ENTRIES if "eprint" in fields) == []


def test_arxiv_numbers_are_not_after_the_year_of_publication():
    numbers = {key: fields["eprint"] for key, fields in ENTRIES if "eprint" in fields}
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


def test_every_work_is_in_the_bibliography():
    assert set(WORKS["reference"]) - set(FIELDS) == set()


def test_years_agree():
    rows = WORKS[["key", "year", "reference"]].itertuples(index=False)
    assert [key for key, year, reference in rows if FIELDS[reference]["year"] != year] == []


def test_only_the_thesis_has_two_rows():
    assert duplicates(WORKS["reference"]) == ["chinbat2025"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_cites_from_the_bibliography(path):
    assert cited_keys(path) - set(FIELDS) == set()
