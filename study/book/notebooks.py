"""What the stored notebooks say, read as files: titles, sections, the batches they read and the figures they draw."""

import ast
import json
import re
from functools import cache

from study.paths import FIGURES, GRID, NOTEBOOKS

SAVE = re.compile(r"\bsave\(figure, f?\"([^\"]+)\"\)")
DATASETS = ("mnist", "cifar10", "imagenette")


@cache
def read_cells(name):
    """Return the cells of the notebook `notebooks/<name>.ipynb`."""
    return json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def source(cell):
    """Return the text of a cell."""
    return "".join(cell["source"])


def title(name):
    """Return a notebook's title.

    Example:

    >>> title("16_your_own_network")
    '16. Your own network, at the size that you ask for'
    """
    return source(read_cells(name)[0]).splitlines()[0].removeprefix("# ")


def section(name, heading):
    """Return the text under a heading of the second level of a notebook, without what follows the next one.

    Raises:
        ValueError: the notebook has no such heading.
    """
    text = "\n\n".join(source(cell) for cell in read_cells(name) if cell["cell_type"] == "markdown")
    sections = re.split(r"(?m)^## (.+)$", text)
    found = dict(zip(sections[1::2], sections[2::2], strict=True))
    if heading not in found:
        raise ValueError(f"Notebook {name} must have one of the headings {list(found)}. Received: {heading!r}")
    return found[heading].strip()


def batches(name):
    """Return the batches of the grid that a notebook's parameters name."""
    parameters = [cell for cell in read_cells(name) if "parameters" in cell["metadata"].get("tags", [])]
    strings = {
        node.value
        for cell in parameters
        for node in ast.walk(ast.parse(source(cell)))
        if isinstance(node, ast.Constant)
    }
    return [batch for batch in re.findall(r"(?m)^([\w-]+):", GRID.read_text(encoding="utf-8")) if batch in strings]


@cache
def drawn_figures():
    """Return `{figure: (notebook, number of the cell)}` of the files in `figures`, in the order of the notebooks.

    A notebook names a figure by a string, or by one with gaps such as `f"{dataset}_terms_pareto"`. A first gap stands
    for the dataset in the notebook's name, others for anything; where several fit, that with the most letters counts.
    """
    patterns = []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        (own,) = [name for name in DATASETS if name in path.stem.split("_")] or [r"\w+"]
        for number, cell in enumerate(read_cells(path.stem)):
            for found in SAVE.findall(source(cell)) if cell["cell_type"] == "code" else ():
                literals = re.split(r"\{[^}]+\}", found)
                first = own if not literals[0] else ""
                pattern = re.compile(first + r"\w+".join(map(re.escape, literals[bool(first) :])))
                patterns.append((sum(map(len, literals)), pattern, path.stem, number))
    drawn = {}
    for figure in sorted(path.stem for path in FIGURES.glob("*.png")):
        fitting = [(letters, name, place) for letters, pattern, name, place in patterns if pattern.fullmatch(figure)]
        if not fitting:
            raise ValueError(f"Every figure must be drawn by a notebook. Received: {figure}")
        drawn[figure] = max(fitting)[1:]
    return dict(sorted(drawn.items(), key=lambda item: item[1]))


def caption_before(name, number):
    """Return what introduces the output of a cell: the section's heading and the last paragraph of text before it.

    Lists, equations and tables are no text.
    """
    heading, texts = "", []
    for cell in read_cells(name)[:number]:
        if cell["cell_type"] == "markdown":
            paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", source(cell).strip())]
            heading = next((part.strip("# ") for part in reversed(paragraphs) if part.startswith("#")), heading)
            texts += [part for part in paragraphs if not re.match(r"[#<|$]|- |\d+\. ", part)]
    last = texts[-1] if texts else ""
    return last if last.startswith("**") else f"**{heading}.** {last}"


def alternative_text(name, number):
    """Return the text that a cell's metadata has for those who do not see its figures, where myst-nb looks for it.

    Example:

    >>> alternative_text("04_nested_layer", 10)
    'A four by three matrix with one scale for all, one per row, one per column and one per weight.'
    """
    return read_cells(name)[number]["metadata"]["mystnb"]["image"]["alt"]
