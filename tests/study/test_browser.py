"""JupyterLab in a real browser: notebook 4 is opened and run to its sliders, and moving one redraws its figure.

Everything happens on a copy of the notebook and of `lqs` (which knows where figures go), with a home of its own.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = "04_nested_layer.ipynb"
SECONDS = 300  # that one step may take on a busy machine
LAB = ["lab", "notebooks"]  # the command of `make lab`
LAB_OPTIONS = [
    "--no-browser",
    "--allow-root",
    "--ServerApp.port=0",  # any free one
    "--LabApp.news_url=None",  # the rest asks other hosts for news
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.extension_manager=readonly",
]
IDLE = "//*[text()='Python 3 (ipykernel) | Idle']"  # in the status bar; without the kernel's name it shows no kernel
FIGURE = ".widget-output img"
HANDLE = ".widget-slider .noUi-handle"


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.fixture
def notebook(tmp_path):
    """Path of a copy of the notebook to its sliders, without outputs, beside copies of `lqs` and of what it reads."""
    content = json.loads((ROOT / "notebooks" / NOTEBOOK).read_text())
    (last,) = (n for n, cell in enumerate(content["cells"]) if "ipywidgets.interact(" in "".join(cell["source"]))
    content["cells"] = content["cells"][: last + 1]
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    for folder in ("notebooks", "figures", "data"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "data/references.bib", tmp_path / "data")
    shutil.copy(ROOT / "notebooks/parameters.yaml", tmp_path / "notebooks")  # which figures are committed ones
    for package in ("lqs", "study"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "notebooks" / NOTEBOOK
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def lab(tmp_path, notebook, environment):
    """Address and token of a JupyterLab that ends with the test."""
    command = [sys.executable, "-m", "jupyter", *LAB, *LAB_OPTIONS]
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + SECONDS
        while not (found := list(tmp_path.glob("home/.local/share/jupyter/runtime/jpserver-*.json"))):
            assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "lab.log").read_text()
            time.sleep(0.2)
        yield json.loads(found[0].read_text())
    finally:
        server.terminate()  # it ends its kernels first
        server.wait(60)


@pytest.fixture
def until(browser):
    """Function that waits until another returns something, and returns it."""
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.wait import WebDriverWait

    wait = WebDriverWait(browser, SECONDS, ignored_exceptions=[StaleElementReferenceException])
    return lambda condition: wait.until(lambda _: condition())


@pytest.fixture
def find(browser, until):
    """Function that waits for the element of a CSS selector, or of an XPath, scrolls to it and returns it."""

    def run(selector):
        by = "xpath" if selector.startswith("//") else "css selector"

        def visible():
            element = next(iter(browser.find_elements(by, selector)), None)
            browser.execute_script("arguments[0]?.scrollIntoView({block: 'center'})", element)
            return element and element.is_displayed() and element

        return until(visible)

    return run


@pytest.fixture
def choose(find):
    """Function that clicks on an item of a menu."""

    def run(menu, item):
        find(f"//div[contains(@class, 'lm-MenuBar-itemLabel') and text()='{menu}']").click()
        find(f"//div[contains(@class, 'lm-Menu-itemLabel') and text()='{item}']").click()

    return run


def test_lab_is_started_as_by_make():
    assert f"jupyter {' '.join(LAB)}" in (ROOT / "Makefile").read_text()


@pytest.mark.slow
def test_moving_a_slider_redraws_the_figure(browser, lab, notebook, find, choose, until, tmp_path):
    from selenium.webdriver import ActionChains

    browser.get(f"{lab['url']}lab/tree/{NOTEBOOK}?token={lab['token']}")
    find(IDLE)
    choose("Run", "Run All Cells")
    before = find(FIGURE).get_attribute("src")
    find(IDLE)
    find(FIGURE)  # the end of the run scrolled to the end of the notebook
    browser.save_screenshot(tmp_path / "before.png")
    ActionChains(browser).drag_and_drop_by_offset(find(HANDLE), -60, 0).perform()
    until(lambda: find(FIGURE).get_attribute("src") != before)
    find(IDLE)
    browser.save_screenshot(tmp_path / "after.png")
    assert len(browser.find_elements("css selector", FIGURE)) == 1

    choose("File", "Save Notebook")
    until(lambda: all(cell["execution_count"] for cell in code_cells(notebook)))
    outputs = [output for cell in code_cells(notebook) for output in cell["outputs"]]
    assert [output for output in outputs if output["output_type"] == "error"] == []
