"""The files around the code: dependencies and lock, commands, notebooks, sizes."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
MAX_BYTES = 2_000_000

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LIBRARY_NEEDS = {"click", "constriction", "keras", "numpy", "pandas"}
LOCK = (ROOT / "requirements.txt").read_text()


def committed_files():
    """Return the files that git tracks or would add; outside a checkout, all but hidden ones and data/raw."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        names = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*")]
        names = [name for name in names if not name.startswith((".", "data/raw/"))]
    return sorted(ROOT / name for name in names if (ROOT / name).is_file())


FILES = committed_files()
NOTEBOOKS = [path for path in FILES if path.suffix == ".ipynb"]


def normalized(requirement):
    """Return the name in a requirement such as `Foo_bar>=1`, spelled as the lock spells it: `foo-bar`."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def lock_entries():
    """Return the entries of the lock, each a string of one requirement line and its hash lines."""
    return re.split(r"\n(?=\S)", LOCK.strip())


EXTRAS = PROJECT["optional-dependencies"]


def test_every_dependency_is_locked():
    requirements = [requirement for extra in ("study", "dev", "export", "book") for requirement in EXTRAS[extra]]
    named = {normalized(requirement) for requirement in PROJECT["dependencies"] + requirements}
    assert named - {"lqs"} - {normalized(entry) for entry in lock_entries()} == set()


def test_the_library_needs_few():
    assert {normalized(requirement) for requirement in PROJECT["dependencies"]} == LIBRARY_NEEDS


def test_what_the_library_imports_is_declared():
    modules = [ast.parse(path.read_text()) for path in (ROOT / "lqs").rglob("*.py")]
    nodes = [node for module in modules for node in ast.walk(module)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    of_export = {"ai_edge_litert", "onnx", "onnxruntime", "tf2onnx"}
    allowed = LIBRARY_NEEDS | {"lqs", "jax", "tensorflow", "torch", "matplotlib"} | of_export | sys.stdlib_module_names
    assert {name.split(".")[0] for name in names} - allowed == set()


def test_every_locked_entry_has_one_version_and_hashes():
    entry = r"[a-z0-9-]+==[\w.+!]+( ; [^\n\\]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+"
    assert [found for found in lock_entries() if not re.fullmatch(entry, found)] == []


def test_study_reads_text_in_the_same_encoding_on_every_system():
    paths = [*(ROOT / "study").rglob("*.py"), ROOT / "tests/play.py"]
    assert [path.name for path in paths if ".read_text()" in path.read_text(encoding="utf-8")] == []


def test_lock_names_no_host():
    assert "://" not in LOCK
    assert not re.search(r"(?m)^\s*(-i|-f|--index|--extra-index|--find-links|--trusted-host)", LOCK)


def test_lock_has_one_tensorflow_and_no_cuda():
    names = {normalized(entry) for entry in lock_entries()}
    assert [name for name in sorted(names) if name.startswith(("tensorflow", "nvidia", "jax-cuda"))] == ["tensorflow"]


def test_conda_environment_installs_the_lock_on_the_oldest_python():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    *packages, pip = environment["dependencies"]
    oldest = re.search(r">=([\d.]+)", PROJECT["requires-python"])[1]
    assert packages == [f"python={oldest}", "pip"]
    assert pip == {"pip": ["-r requirements.txt"]}


def test_conda_environment_gives_a_reason_for_each_line():
    lines = (ROOT / "environment.yml").read_text().splitlines()
    items = [line for line in lines if line.lstrip().startswith("- ") and line != "  - pip:"]
    assert all(" # " in line for line in items)


def test_supported_pythons_agree():
    oldest, newest = re.match(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    assert f"(3, {oldest}) <= sys.version_info < (3, {newest})" in (ROOT / "Makefile").read_text()


def test_citation_has_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assignments = [
        node for node in ast.parse((ROOT / "lqs/__init__.py").read_text()).body if isinstance(node, ast.Assign)
    ]
    versions = [node.value.value for node in assignments if node.targets[0].id == "__version__"]
    assert versions == [citation["version"]]


def test_ci_runs_the_tests():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert "make test SLOW=1" in script.read_text().splitlines()


def test_contributing_is_short():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) < 50


def test_files_are_small():
    large = [path.relative_to(ROOT).as_posix() for path in FILES if path.stat().st_size > MAX_BYTES]
    assert large == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_has_clean_outputs(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert [output for output in outputs if output["output_type"] == "error"] == []
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.name[0].isdigit()], ids=lambda path: path.name)
def test_title_has_the_number_of_the_notebook(path):
    first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    assert re.match(rf"# {int(path.name[:2])}\. [A-Z]", first)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_defines_no_classes(path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in cells]
    assert [source for source in sources if re.search(r"(?m)^\s*class \w+", source)] == []
