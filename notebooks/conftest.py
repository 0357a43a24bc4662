"""A notebook that passed is not run again by `make test` until something changes that it rests on.

One that passes leaves a stamp in `.venv/notebooks`: a hash of the notebook with its stored outputs, of the library, the
study, the records and all else under `data` that is committed. A fresh clone has none, so it runs all; so does
`rm -r .venv/notebooks`. A new lock makes a new `.venv`.
"""

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STAMPS = ROOT / ".venv/notebooks"
COMMON = [
    "lqs/**/*.*",
    "study/**/*.*",
    "data/*.*",
    "data/models/**/*.*",
    "data/runs/**/*.*",
    "notebooks/grid.yaml",
    "tests/*.cfg",
]


def digest(paths):
    """Return one hash of the Python and of the names and contents of files."""
    total = hashlib.sha256(sys.version.encode())
    for path in sorted(paths):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(ROOT)} {content}\n".encode())
    return total.hexdigest()


def common_files():
    """Return the files that any notebook may rest on."""
    found = {path for pattern in COMMON for path in ROOT.glob(pattern)}
    return {path for path in found if path.is_file() and path.suffix != ".pyc"}


class Stamps:
    """Leaves out the notebooks that have a stamp, and gives one to each whose cells all pass."""

    def __init__(self, stamps=STAMPS, notebooks=ROOT / "notebooks"):
        self.stamps, common = stamps, common_files()
        self.digests = {path.stem: digest({*common, path}) for path in notebooks.glob("*.ipynb")}
        self.cells = Counter()

    def _is_stamped(self, name):
        stamp = self.stamps / name
        return stamp.is_file() and stamp.read_text() == self.digests[name]

    def pytest_collection_modifyitems(self, config, items):
        """Leave out the cells of a notebook that passed as it is."""
        left_out = [item for item in items if item.path.suffix == ".ipynb" and self._is_stamped(item.path.stem)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]

    def pytest_runtest_logreport(self, report):
        """Count the cells that passed."""
        if report.when == "call" and report.passed:
            self.cells[Path(report.nodeid.partition("::")[0])] += 1

    def pytest_sessionfinish(self, session):
        """Stamp what passed as a whole; nothing to run is no error."""
        if hasattr(session.config, "workerinput"):
            return
        for path, passed in self.cells.items():
            cells = json.loads((ROOT / path).read_text())["cells"]
            if passed == sum(cell["cell_type"] == "code" for cell in cells):
                self.stamps.mkdir(parents=True, exist_ok=True)
                (self.stamps / path.stem).write_text(self.digests[path.stem])
        if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and any(map(self._is_stamped, self.digests)):
            session.exitstatus = pytest.ExitCode.OK


def pytest_configure(config):
    """Take part in runs of nbval alone."""
    if config.getoption("nbval", default=False):
        config.pluginmanager.register(Stamps())
