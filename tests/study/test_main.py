"""The commands without make: they run what the Makefile runs."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from study import __main__ as main
from study.paths import NOTEBOOKS, ROOT

pytestmark = pytest.mark.once
TOOLS = ("ruff", "mypy", "pytest", "python", "sphinx-build")
VARIABLES = {"KERAS_BACKEND", "LQS_FIGURES", "MPLBACKEND", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "XLA_FLAGS"}
# Stands for a tool of the Makefile: appends its arguments and its variables to the file beside it.
RECORDER = f"""#!{sys.executable} -IS
import json, os, sys
with open(os.path.join(os.path.dirname(sys.argv[0]), "log"), "a") as log:
    print(json.dumps([[os.path.basename(sys.argv[0]), *sys.argv[1:]], dict(os.environ)]), file=log)
"""


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """The commands that are run, of which none is."""
    found = []
    monkeypatch.setattr(main, "run", lambda *arguments, **variables: found.append((arguments, variables)))
    monkeypatch.setattr(main, "EXECUTED", tmp_path)
    return found


def invoke(*arguments):
    result = CliRunner().invoke(main.commands, arguments)
    assert result.exit_code == 0, result.output


def test_figures_executes_every_notebook(runs):
    invoke("figures")
    assert [arguments[1] for arguments, _ in runs] == sorted(NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture
def made(tmp_path):
    """Lists what make runs for a target, as `runs` does; the tools only note their arguments."""
    if not shutil.which("make"):
        pytest.skip("It compares with make.")
    for tool in TOOLS:
        (tmp_path / tool).write_text(RECORDER)
        (tmp_path / tool).chmod(0o755)

    def found(*targets):
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        options = ["-o", ".venv/.installed", f"PATH={path}", "BACKENDS=tensorflow jax"]
        subprocess.run(["make", *options, *targets], cwd=ROOT, env={"PATH": path}, check=True, capture_output=True)
        lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        return [
            (
                {"python": arguments[2:], "sphinx-build": ["sphinx", *arguments[1:]]}.get(arguments[0], arguments),
                {name: value for name, value in variables.items() if name in VARIABLES},
            )
            for arguments, variables in lines
        ]

    return found


@pytest.mark.parametrize("ours, theirs", [(["test"],) * 2, (["test", "--slow"], ["test", "SLOW=1"]), (["book"],) * 2])
def test_they_are_the_lines_of_make(runs, made, ours, theirs):
    invoke(*ours)
    assert [([*map(str, arguments)], variables) for arguments, variables in runs] == made(*theirs)


def test_it_ends_with_the_code_of_what_failed(monkeypatch, tmp_path):
    (tmp_path / "three.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(main, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="3"):
        main.run("three")
    assert main.run("platform") is None
