"""The pages of the benchmarks: what their scripts write of the committed tables."""

import runpy

import pandas as pd
import pytest

from study.paths import DATA, ROOT


@pytest.mark.once
@pytest.mark.parametrize("name", ["bytes", "compress", "pretrained"])
def test_page_is_that_of_its_table(name, tmp_path, monkeypatch):
    path = ROOT / "benchmarks" / f"{name}.py"
    write_page = runpy.run_path(str(path))["write_page"]
    monkeypatch.setitem(write_page.__globals__, "PAGE", tmp_path / "page.md")
    write_page(pd.read_csv(DATA / f"{name}.csv"))
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == path.with_suffix(".md").read_text(encoding="utf-8")
