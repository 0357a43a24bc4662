"""Each figure of a notebook has a text for those who do not see it, where myst-nb looks for it."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.once
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_figures_have_an_alternative_text(path):
    for number, cell in enumerate(json.loads(path.read_text())["cells"]):
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
            text = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(text.split()) >= 8 and text.endswith("."), f"cell {number} of {path.name}"
