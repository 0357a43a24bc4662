"""MathJax from a package, so that the book's mathematics need no network: one script and its fonts."""

import shutil
from importlib import resources
from pathlib import Path

PACKAGE = "sphinx-mathjax-offline"  # its module has this name, too; of its 24 MB the book needs two
PARTS = ("tex-chtml.js", "output/chtml/fonts")


def copy_mathjax(folder):
    """Copy what `tex-chtml.js` loads into `_static/mathjax` of a site."""
    source = Path(str(resources.files(PACKAGE))) / "static/mathjax"
    for part in PARTS:
        target = Path(folder) / "_static/mathjax" / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target, dirs_exist_ok=True)
        else:
            shutil.copy(source / part, target)
