"""Sources of the book: the texts and notebooks of the checkout, in its layout, with the links of a site."""

import json
import os
import re
import tomllib
from pathlib import Path

from study.book.notebooks import drawn_figures
from study.paths import ROOT

# Caption and pages, in reading order: their paths in the checkout without suffix. `study.book` writes `pages/`.
CONTENTS = {
    "Begin": ["docs/install", "docs/reading", "docs/notation", "docs/nested", "docs/experiments"],
    "The thesis": [
        "notebooks/00_why_quantize",
        "notebooks/01_networks_and_losses",
        "notebooks/02_quantization",
        "notebooks/03_learned_quantization",
        "notebooks/04_nested_layer",
        "notebooks/05_loss_terms",
        "notebooks/06_related_work",
        "notebooks/07_one_curve",
        "notebooks/08_mnist_nested_layer",
        "notebooks/09_mnist_loss_terms",
        "notebooks/10_mnist_what_decides_lambda",
        "notebooks/18_does_the_ratio_matter",
        "notebooks/11_how_small_is_it",
        "notebooks/12_cifar10",
        "notebooks/13_imagenette",
        "notebooks/14_three_datasets",
    ],
    "Beyond the thesis": [
        "notebooks/15_beyond_the_thesis",
        "notebooks/16_your_own_network",
        "notebooks/17_leaderboard",
        "notebooks/19_how_small_can_it_get",
    ],
    "Results": [
        "notebooks/20_conclusions",
        "docs/claims",
        "pages/summaries",
        "pages/figures",
        "pages/tables",
        "pages/methods",
    ],
    "Guides": [
        "docs/guides/compress",
        "docs/guides/target_size",
        "docs/guides/export",
        "docs/guides/rule",
        "docs/guides/method",
        "docs/guides/batches",
        "notebooks/README",
    ],
    "Reference": [
        "docs/api",
        "docs/format",
        "docs/design",
        "data/README",
        "benchmarks/README",
        "benchmarks/compress",
        "benchmarks/pretrained",
        "benchmarks/results",
        "benchmarks/bytes",
    ],
    "About": ["docs/citing", "pages/references", "CONTRIBUTING", "CHANGELOG"],
}
START = "README"  # the first page is what one reads first everywhere else
IMAGES = {".png", ".svg"}

LINK = re.compile(r"(!?)\[((?:[^][]|\[[^][]*\])*)\]\(([^()\s]+)\)")
CITATION = re.compile(r"\[([a-z_]+\d{4}[a-z]?(?:, [a-z_]+\d{4}[a-z]?)*)\](?![(\]])")
BLOCK = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"(`[^`]+`)")


def address():
    """Return where the repository is published, from `project.urls` of `pyproject.toml`; nothing if it is not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


def pages():
    """Return the paths of all pages but the first, without suffix, in the order of the book."""
    return [page for group in CONTENTS.values() for page in group]


def notebooks():
    """Return the names of the notebooks in reading order."""
    return [Path(page).name for page in pages() if (ROOT / f"{page}.ipynb").exists()]


def write_sources(folder):
    """Write the book's sources, but for what is generated, into a folder."""
    for page in [START, *pages()]:
        found = [ROOT / f"{page}{suffix}" for suffix in (".md", ".ipynb") if (ROOT / f"{page}{suffix}").exists()]
        for path in found:
            target = folder / (f"index{path.suffix}" if page == START else path.relative_to(ROOT))
            text = path.read_text(encoding="utf-8")
            text = prepare_notebook(text, path) if path.suffix == ".ipynb" else prepare_text(text, path)
            write(target, text + contents() if page == START else text)
    for path in (ROOT / "figures").glob("*.png"):
        write(folder / "figures" / path.name, path.read_bytes())


def write(path, content):
    """Write a file, and the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def contents():
    """Return the table of contents in MyST's syntax, for the end of the first page."""
    trees = (
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(group) + "\n```\n"
        for caption, group in CONTENTS.items()
    )
    return "".join(trees)


def prepare_notebook(text, path):
    """Return a notebook's JSON, prepared: links and citations, set-up and drawing folded away."""
    notebook = json.loads(text)
    cells = []
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            cell["source"] = prepare_text(source, path)
        elif cell["cell_type"] == "code":
            names = [name for name, place in drawn_figures().items() if place == (path.stem, number)]
            if names or "os.environ" in source:
                cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "hide-input"]
            if names:
                targets = "\n".join(f"(figure-{name})=" for name in names)
                cells.append({"cell_type": "markdown", "id": f"figures-{number}", "metadata": {}, "source": targets})
        cells.append(cell)
    return json.dumps({**notebook, "cells": cells}, ensure_ascii=False, indent=1)


def prepare_text(text, path):
    """Return Markdown with its links and citations as those of a page; `path` is the file that it is from.

    Raises:
        ValueError: a link leads to a file that is not there.
    """
    parts = BLOCK.split(text)
    return "".join(part if BLOCK.fullmatch(part) else _linked(part, path) for part in parts)


def _linked(text, path):
    parts = CODE.split(text)
    text = "".join(part if CODE.fullmatch(part) else CITATION.sub(_cited, part) for part in parts)
    return LINK.sub(lambda found: _link(found[1], found[2], found[3], path), text)


def _cited(found):
    return ", ".join(f"[\\[{key}\\]](#{key})" for key in found[1].split(", "))


def _link(mark, text, target, path):
    """Return a link of the site: to a page or an image; else to the published file, or without an address its name."""
    name, _, anchor = target.partition("#")
    if re.match(r"[a-z]+:", target) or not name:
        return f"{mark}[{text}]({target})"
    file = Path(os.path.normpath(path.parent / name))
    if not file.exists():
        raise ValueError(f"{path.relative_to(ROOT)}: a link must lead to a file. Received: {target}")
    place = file.relative_to(ROOT).as_posix()
    page = place.removesuffix(file.suffix)
    if page == START or page in pages():
        place = "index" if page == START else page
        suffix = ".md" if file.suffix == ".md" else ".ipynb"
        anchor = f"#{anchor}" if anchor else ""
        return f"{mark}[{text}](/{place}{suffix}{anchor})"
    if mark and file.suffix in IMAGES:
        return f"![{text}](/{place})"
    return f"[{text}]({address()}/blob/main/{place})" if address() else text
