"""The commands without make: they run what the Makefile runs."""

import pytest
from click.testing import CliRunner

from study import __main__ as main
from study.paths import NOTEBOOKS, ROOT

pytestmark = pytest.mark.once
MAKEFILE = (ROOT / "Makefile").read_text().replace("\\\n", "")


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """The commands that are run, of which none is."""
    found = []
    monkeypatch.setattr(main, "run", lambda *arguments, **variables: found.append((arguments, variables)))
    monkeypatch.setattr(main, "EXECUTED", tmp_path)
    return found


def invoke(command):
    result = CliRunner().invoke(main.commands, [command])
    assert result.exit_code == 0, result.output


def test_figures_executes_every_notebook(runs):
    invoke("figures")
    assert [arguments[1] for arguments, _ in runs] == sorted(NOTEBOOKS.glob("*.ipynb"))


def test_test_and_book_are_those_of_make(runs):
    invoke("test")
    invoke("book")
    for arguments, variables in runs:
        line = " ".join(str(argument) for argument in arguments if not str(argument).endswith(".ipynb"))
        line = line.replace("sphinx -W", "sphinx-build -W").removeprefix(" ".join(main.PYTEST))
        line = line.replace(" ".join(main.BOTH), "$(BOTH)").replace("not once", '"not once"')
        assert line in MAKEFILE
        assert variables.get("XLA_FLAGS", "") in MAKEFILE
    assert f"BOTH := {' '.join(main.BOTH)}\n" in MAKEFILE
    assert f"PYTEST := {' '.join(main.PYTEST)}\n" in MAKEFILE


def test_it_ends_with_the_code_of_what_failed(monkeypatch, tmp_path):
    (tmp_path / "three.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(main, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match="3"):
        main.run("three")
    assert main.run("platform") is None
