"""Runs notebooks with other parameters than the committed ones, in this process and this folder: see test_play.py.

    python tests/play.py 01_networks_and_losses 02_quantization

Each set of `others` in notebooks/parameters.yaml is a run. The names of those that pass are printed.
"""

import contextlib
import io
import json
import sys

import matplotlib.pyplot as plt

from study.parameters import read_parameters
from study.paths import NOTEBOOKS


def play(notebook, parameters):
    """Run the code cells of a notebook; what they print is dropped, an error is raised."""
    variables = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{notebook}, cell {number}", "exec"), variables)
            if "parameters" in cell["metadata"].get("tags", []):
                assert set(parameters) <= set(variables), f"{notebook} has no parameters {set(parameters)}"
                variables.update(parameters)
    plt.close("all")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        for number, others in enumerate(read_parameters()[name]["others"]):
            with contextlib.redirect_stdout(io.StringIO()):
                play(name, others)
            print(f"{name}, others {number}: passed", flush=True)
