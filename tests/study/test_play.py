"""Notebooks run with other parameters than the committed ones, and then leave the committed figures alone.

`make test` runs the quick ones, in one process and without writing figures; `make play` runs each, and writes them.
"""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from study.figures import PLAYED
from study.parameters import read_parameters

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = read_parameters()
# They train, or export.
SLOW = (
    "00_why_quantize",
    "02_quantization",
    "04_nested_layer",
    "07_one_curve",
    "11_how_small_is_it",
    "16_your_own_network",
)
DRAWS_NOTHING = ("07_one_curve",)

pytestmark = pytest.mark.once
all_of_them = pytest.mark.skipif("LQS_PLAY" not in os.environ, reason="make play")


def play(folder, names, **variables):
    """Run notebooks in a folder, and return what the process printed."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("KERAS_BACKEND", "LQS_FIGURES")}
    environment = {**inherited, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", **variables}
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests/play.py"), *names]
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def literals(source):
    """Return `{name: value}` of the assignments of a cell whose values are literals."""
    found = {}
    for node in ast.parse(source).body:
        assert isinstance(node, ast.Assign)
        try:
            value = ast.literal_eval(node.value)
        except ValueError:
            continue
        (target,) = node.targets
        names = [element.id for element in target.elts] if isinstance(target, ast.Tuple) else [target.id]
        found.update(zip(names, value if isinstance(target, ast.Tuple) else [value], strict=True))
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_committed_parameters_are_those_of_the_notebook(path):
    cells = json.loads(path.read_text())["cells"]
    (source,) = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    assert json.dumps(PARAMETERS[path.stem]["committed"]) == json.dumps(literals(source))


@pytest.mark.parametrize("notebook", PARAMETERS)
def test_other_parameters_differ_from_the_committed_ones(notebook):
    committed, others = PARAMETERS[notebook]["committed"], PARAMETERS[notebook]["others"]
    assert others and all(set(values) <= set(committed) and values != committed for values in others)


@pytest.mark.slow
def test_quick_notebooks_run_with_other_parameters(tmp_path):
    quick = [name for name in PARAMETERS if name not in SLOW]
    printed = play(tmp_path, quick, LQS_FIGURES="")
    assert len(printed.splitlines()) == sum(len(PARAMETERS[name]["others"]) for name in quick)
    assert not list(tmp_path.iterdir())


@all_of_them
@pytest.mark.parametrize("notebook", PARAMETERS)
def test_every_notebook_draws_with_other_parameters_beside_itself(notebook, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in (ROOT / "figures").iterdir()}
    play(tmp_path, [notebook])
    assert {path: path.stat().st_mtime_ns for path in (ROOT / "figures").iterdir()} == before
    assert bool(list(tmp_path.glob(f"{PLAYED}/*.png"))) == (notebook not in DRAWS_NOTHING)
