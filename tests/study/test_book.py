"""The sources of the book, and one small site of them in a real browser."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from study.book import notebooks, pages, sources
from study.paths import BIBLIOGRAPHY, FIGURES, NOTEBOOKS, ROOT

pytestmark = pytest.mark.once
HERE = ROOT / "docs" / "text.md"


# Links, citations, contents


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("[layer](../notebooks/04_nested_layer.ipynb)", "[layer](/notebooks/04_nested_layer.ipynb)"),
        ("[start](../README.md#install)", "[start](/index.md#install)"),
        ("![map](../figures/related_work_map.png)", "![map](/figures/related_work_map.png)"),
        ("[`bins.py`](../lqs/file/bins.py)", "`bins.py`"),
        ("[Keras](https://keras.io)", "[Keras](https://keras.io)"),
        ("[below](#install)", "[below](#install)"),
        ("as in [esser2020], and `[jung2019]`", r"as in [\[esser2020\]](#esser2020), and `[jung2019]`"),
        ("```\n[gone](gone.md) [esser2020]\n```", "```\n[gone](gone.md) [esser2020]\n```"),
    ],
)
def test_links_and_citations(text, prepared):
    assert sources.prepare_text(text, HERE) == prepared


def test_a_link_to_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"docs/text.md: a link must lead to a file. Received: gone.md"):
        sources.prepare_text("[gone](gone.md)", HERE)


def test_a_link_to_code_leads_to_where_the_repository_is_published(monkeypatch):
    monkeypatch.setattr(sources, "address", lambda: "https://example.org/lqs")
    linked = sources.prepare_text("[`bins.py`](../lqs/file/bins.py)", HERE)
    assert linked == "[`bins.py`](https://example.org/lqs/blob/main/lqs/file/bins.py)"


def test_no_link_is_dead(tmp_path):
    sources.write_sources(tmp_path)
    found = {path.relative_to(tmp_path).with_suffix("") for path in tmp_path.rglob("*.*") if path.suffix != ".png"}
    assert found == {Path(page) for page in ["index", *sources.pages()] if not page.startswith("pages/")}


def test_every_page_is_in_the_contents_and_every_key_in_the_bibliography():
    listed = sources.pages()
    for folder, suffix in (("docs", "md"), ("docs/guides", "md"), ("benchmarks", "md"), ("notebooks", "ipynb")):
        found = {path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / folder).glob(f"*.{suffix}")}
        assert found - set(listed) == set()
    keys = set(re.findall(r"(?m)^@\w+\{(\w+),", BIBLIOGRAPHY.read_text()))
    for page in listed:
        path = ROOT / f"{page}.md"
        texts = [path.read_text()] if path.exists() else []
        if page.startswith("notebooks/") and not texts:
            cells = notebooks.read_cells(Path(page).name)
            texts = [notebooks.source(cell) for cell in cells if cell["cell_type"] == "markdown"]
        cited = {key for text in texts for found in sources.CITATION.findall(text) for key in found.split(", ")}
        assert cited - keys == set(), page


def test_the_list_of_notebooks_has_the_order_of_the_book():
    table = (ROOT / "docs/reading.md").read_text().split("## The notebooks")[1].split("\n## ")[0]
    rows = [re.search(r"notebooks/(\w+)\.ipynb", line)[1] for line in table.splitlines() if ".ipynb" in line]
    assert rows == sources.notebooks()


# Notebooks and figures


def test_every_figure_has_its_notebook():
    drawn = notebooks.drawn_figures()
    assert set(drawn) == {path.stem for path in FIGURES.glob("*.png")}
    assert drawn["fig_2_4_scale"][0] == "02_quantization"
    assert drawn["cifar10_nested_pareto"][0] == "12_cifar10"
    assert drawn["mnist_nested_epochs_scratch"][0] == "08_mnist_nested_layer"
    laptop, thesis = (drawn[f"cifar10_{name}nested_epochs_scratch"] for name in ("laptop_", ""))
    assert laptop > thesis


def test_a_notebook_is_prepared_and_not_executed():
    path = NOTEBOOKS / "02_quantization.ipynb"
    before = json.loads(path.read_text())["cells"]
    cells = json.loads(sources.prepare_notebook(path.read_text(), path))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in code] == [c["outputs"] for c in before if c["cell_type"] == "code"]
    (drawing,) = [cell for cell in code if "fig_2_5_min_max" in "".join(cell["source"])]
    assert "hide-input" in drawing["metadata"]["tags"]
    written = [cell["metadata"].get("mystnb") for cell in before if cell["cell_type"] == "code"]
    assert [cell["metadata"].get("mystnb") for cell in code] == written
    assert any(written)
    assert cells[cells.index(drawing) - 1]["source"] == "(figure-fig_2_5_min_max)="


def test_generated_pages():
    figures = pages.figures_page()
    assert all(f"/figures/{path.stem}.png" in figures for path in FIGURES.glob("*.png"))
    assert "[`fig_2_4_scale`](#figure-fig_2_4_scale), Figure 2.4 of the thesis" in figures
    assert "/figures/fig_2_4_scale.png\n:alt: A weight matrix, divided by one scale and rounded" in figures
    assert "| mnist | nested | row | scratch | 1e-10 | 96 | 21 |" in pages.tables_page()
    assert "(esser2020)=\n**[esser2020]** Steven" in pages.references_page()
    summaries = pages.summaries_page()
    assert all(f"## {notebooks.title(name)}\n" in summaries for name in pages.CONCLUSIONS)


# The gallery and the figure that moves


def test_gallery_has_the_leaderboard_of_the_notebook():
    gallery = pytest.importorskip("study.book.gallery")
    (board,) = [
        "".join(output["text"])
        for cell in notebooks.read_cells(gallery.LEADERBOARD)
        if "board = pd.DataFrame" in notebooks.source(cell)
        for output in cell["outputs"]
    ]
    for method in gallery.recorded():
        shown = re.search(rf"(?m)^{gallery.figures.METHOD_LABELS[method]}  (.*)$", board)[1].split()[:-1]
        assert [f"{ratio:.1f}" for ratio in gallery.leaderboard_row(method) if ratio > 0] == shown


def test_curves_of_a_method():
    import numpy as np

    import lqs
    from study.book.gallery import curves

    parameter = np.array([-1.0, -0.3, 0.2, 1.0], "float32")
    forwards, backwards, penalty = curves(lqs.methods.get("sinreq")(bits=2, rate=1.0, initial_scale=1.0), parameter)
    assert forwards.tolist() == [-1, 0, 0, 1]
    assert backwards.tolist() == [1, 1, 1, 1]
    np.testing.assert_allclose(penalty, np.pi * np.sin(2 * np.pi * parameter) / 4, atol=1e-5)


@pytest.fixture(scope="module")
def figure():
    from study.book.nested import nested_figure

    return nested_figure((0.0, 1e-9), epochs=1)


def test_a_larger_threshold_leaves_fewer_integers(figure):
    html, table = figure
    (data,) = re.findall(r'id="nested-data">(.*)</script>', html)
    (none, _), (first, last) = ((json.loads(data)["states"][row][epoch] for epoch in (0, 1)) for row in (0, 1))
    assert none == first
    assert last["unique"] < first["unique"]
    assert last["scale"] > first["scale"]
    assert sum(last["counts"]) == sum(first["counts"])
    assert f"| 1e-09 | {last['scale']} | {last['unique']} |" in table


@pytest.fixture
def site(tmp_path, figure):
    """Folder of a site that has one page beside its first one, built as `make book` builds."""
    pytest.importorskip("sphinx")
    source, site = tmp_path / "source", tmp_path / "html"
    for name, text in zip(("nested.html", "nested.txt"), figure, strict=True):
        sources.write(source / "pages" / name, text)
    page = (ROOT / "docs/nested.md").read_text().replace("../notebooks/04_nested_layer.ipynb", "/index.md")
    sources.write(source / "docs/nested.md", page)
    sources.write(source / "index.md", "# Start\n\n```{toctree}\ndocs/nested\n```\n")
    options = ["-W", "-q", "-c", str(ROOT / "docs"), str(source), str(site)]
    subprocess.run([sys.executable, "-m", "sphinx", *options], cwd=ROOT, check=True)
    return site


def test_sliders_move_the_figure(browser, site):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.wait import WebDriverWait

    device = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
    browser.get((site / "docs/nested.html").as_uri())
    wait = WebDriverWait(browser, 60)
    wait.until(lambda _: browser.find_elements("css selector", "mjx-container"))
    picture, reading, slider = (
        browser.find_element("id", f"nested-{name}") for name in ("picture", "reading", "threshold")
    )
    assert browser.execute_script("return arguments[0].labels[0].textContent", slider) == "Threshold λ"
    before = picture.get_attribute("innerHTML")
    assert "λ = 0, after epoch 1" in reading.text
    slider.send_keys(Keys.ARROW_RIGHT)
    wait.until(lambda _: picture.get_attribute("innerHTML") != before)
    assert "λ = 1e-09, after epoch 1" in reading.text
    assert slider.get_attribute("aria-valuetext") == "λ = 1e-09"
    assert browser.execute_script("return document.documentElement.scrollWidth") <= device["width"]

    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert any(url.endswith("nested.js") for url in asked)
    assert [url for url in asked if re.match(r"http|ws|//", url)] == []
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
