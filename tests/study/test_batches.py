"""Tests of batches: the Makefile's own recipes, Snakemake and papermill, in a folder made here."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from study.grid import curve_configs, curve_name, read_grid
from study.records import record_path

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 900  # seconds; a batch takes about 20 on an idle computer
CURVE = {"dataset": "digits", "protocol": "smoke", "method": "nested", "overrides": {"epochs": 1, "epsilon": 1e-9}}
GRID = {
    "good": [
        {**CURVE, "granularity": ["row"], "strengths": [0, 1e-9, 1e-8, 1e-7]},
        {**CURVE, "regime": ["pretrained"], "method": "difference", "strengths": [1e-8]},
    ],
    # A dense kernel has no channels: valid by name, impossible for the network.
    "partly": [
        {**CURVE, "granularity": ["channel", "filter"], "strengths": [0]},
        {**CURVE, "granularity": ["column"], "strengths": [0]},
    ],
}

pytestmark = pytest.mark.skipif(
    not (shutil.which("make") and shutil.which("flock")), reason="batches need make and flock"
)


class Checkout:
    """A folder with the repository's Makefile, in which `make` finds everything installed.

    Records, weights and executed notebooks of its batches stay in the folder.
    """

    def __init__(self, folder):
        self.folder, self.processes = folder, []
        for name in ("Makefile", "requirements.txt", "pyproject.toml", "notebooks"):
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").mkdir()
        (folder / ".venv" / ".installed").touch()  # newer than what it depends on
        (folder / "grid.yaml").write_text(yaml.safe_dump(GRID))

    def start(self, target, *options):
        """Start `make` in a process group of its own."""
        places = [f"{name}={self.folder / name}" for name in ("runs", "weights", "executed")]
        config = ["--config", f"grid={self.folder / 'grid.yaml'}", *places]
        snakemake = ["snakemake", "--snakefile", "notebooks/Snakefile", "--directory", ".", *config, *options]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        output = open(self.folder / "output", "w")  # noqa: SIM115
        command = ["make", target, "SNAKEMAKE=" + " ".join([*snakemake, "--cores", "2"])]
        options = {"cwd": self.folder, "env": environment, "stdout": output, "stderr": output}
        self.processes.append(subprocess.Popen(command, **options, start_new_session=True))
        output.close()
        return self.processes[-1]

    def make(self, target, *options):
        """Return exit code and output of `make`."""
        code = self.start(target, *options).wait(TIMEOUT)
        return code, (self.folder / "output").read_text()

    def curves(self, batch):
        return {curve_name(c): self.records(c) for c in read_grid(self.folder / "grid.yaml")[batch]}

    def records(self, curve):
        return [record_path(config, self.folder / "runs") for config in curve_configs(curve)]


def state(paths):
    """Return content and inode of each file: a record written anew has another inode. Snakemake touches files."""
    return {path: (path.read_bytes(), path.stat().st_ino) for path in paths if path.exists()}


def kill(process):
    """Kill a process and its group, as `kill -9` does; kernels have groups of their own and notice later."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(condition, process):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, "make ended before it was killed"
        assert time.monotonic() < deadline, "nothing was trained in time"
        time.sleep(0.005)


@pytest.fixture
def checkout(tmp_path):
    checkout = Checkout(tmp_path)
    yield checkout
    for process in checkout.processes:
        if process.poll() is None:
            kill(process)


def planned(output):
    """Return the names of the curves that Snakemake would execute."""
    return set(re.findall(r"^ +output: .*/executed/(.*)\.done$", output, re.MULTILINE))


def use_batch(checkout, batch):
    """Leave one batch in the grid: `make runs` trains all."""
    (checkout.folder / "grid.yaml").write_text(yaml.safe_dump({batch: GRID[batch]}))
    return checkout.curves(batch)


@pytest.mark.slow
def test_killed_batch_resumes_and_then_has_nothing_to_do(checkout):
    curves = use_batch(checkout, "good")
    paths = [path for records in curves.values() for path in records]
    first, *later = next(records for records in curves.values() if len(records) == 4)

    process = checkout.start("runs")
    wait_for(first.exists, process)
    kill(process)
    kept = state([first])
    assert not all(path.exists() for path in later), "the curve ended before it was killed"
    assert list((checkout.folder / ".snakemake" / "locks").iterdir())  # which the recipe has to remove

    code, output = checkout.make("runs")
    assert code == 0, output
    assert all(path.exists() for path in paths)
    assert state([first]) == kept
    # A pretrained curve makes its baseline beside its own records.
    others = set(checkout.folder.glob("runs/*/*")) - set(paths)
    assert [re.sub("-[^-]*$", "", path.name) for path in others if path.suffix == ".json"] == [
        "smoke-float-scalar-0-scratch-s42"
    ]
    assert {path.stem for path in checkout.folder.glob("executed/*.ipynb")} == set(curves)

    assert list((checkout.folder / "weights").rglob("*smoke-float-*"))  # not among those of other batches

    complete = state(paths)
    code, output = checkout.make("runs")
    assert code == 0 and "Nothing to be done" in output, output
    assert state(paths) == complete

    later[0].unlink()  # the mark of its curve is still there
    code, output = checkout.make("runs", "--dry-run")
    assert code == 0 and planned(output) == {name for name, records in curves.items() if first in records}, output


@pytest.mark.slow
def test_failed_curve_is_reported_and_the_others_are_trained(checkout):
    curves = use_batch(checkout, "partly")
    code, output = checkout.make("runs")
    assert code != 0
    trained = {name for name, records in curves.items() if all(path.exists() for path in records)}
    (good,) = [name for name in curves if "-column-" in name]
    assert trained == {good}, output
    for name in set(curves) - {good}:  # each of the two was tried, and its log is shown
        assert re.search(rf"Error in rule curve:\n(.*\n)+?.*executed/{name}.log", output)
    for granularity in ("channel", "filter"):
        assert f"Granularity '{granularity}' needs a parameter tensor of rank 3 or more." in output


def test_runs_leaves_out_what_is_trained_by_name_only(checkout):
    (checkout.folder / "grid.yaml").write_text(yaml.safe_dump({"imagenette": GRID["good"], "other": GRID["partly"]}))
    code, output = checkout.make("runs", "--dry-run")
    assert code == 0, output
    assert planned(output) == set(checkout.curves("other")), output


def test_figures_executes_every_notebook_again(checkout):
    notebooks = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    (checkout.folder / "executed").mkdir()
    for name in notebooks:
        (checkout.folder / "executed" / f"{name}.ipynb").touch()  # newer than the notebook
    code, output = checkout.make("figures", "--dry-run")
    assert code == 0, output
    executed = re.findall(r"^ +output: .*/executed/(.*)\.ipynb$", output, re.MULTILINE)
    assert sorted(executed) == notebooks
    assert re.search(rf"^notebook +{len(notebooks)}$", output, re.MULTILINE), output
    assert re.search(rf"^total +{len(notebooks) + 1}$", output, re.MULTILINE), output  # and `figures`: no curve


@pytest.mark.slow
@pytest.mark.parametrize("error, num_tries", [("nbclient.exceptions.DeadKernelError", 2), ("ValueError", 1)])
def test_a_kernel_that_dies_is_tried_once_more(checkout, error, num_tries):
    (checkout.folder / ".venv" / "bin").mkdir()
    papermill = checkout.folder / ".venv" / "bin" / "papermill"  # in place of the installed one
    papermill.write_text(f"#!/bin/sh\necho try >> {checkout.folder}/tries\necho {error}\nexit 1\n")
    papermill.chmod(0o755)
    (checkout.folder / "grid.yaml").write_text(yaml.safe_dump({"good": [{**CURVE, "strengths": [0]}]}))
    code, output = checkout.make("runs")
    assert code != 0 and error in output  # the log of what failed is shown
    assert (checkout.folder / "tries").read_text() == num_tries * "try\n"
