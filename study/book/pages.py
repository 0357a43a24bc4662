"""Pages that are written from the notebooks, the tables in `data` and the bibliography."""

import re

import pandas as pd
from pybtex.database import parse_file
from pybtex.style.formatting.unsrt import Style

from study.book.notebooks import (
    alternative_text,
    batches,
    caption_before,
    drawn_figures,
    read_cells,
    section,
    source,
    title,
)
from study.book.sources import notebooks, prepare_text
from study.paths import BIBLIOGRAPHY, DATA, NOTEBOOKS
from study.records import PUBLISHED_QUANTITIES

# Where a notebook says what it has found, in reading order.
CONCLUSIONS = {
    "08_mnist_nested_layer": "Summary",
    "09_mnist_loss_terms": "Summary",
    "10_mnist_what_decides_lambda": "Summary",
    "18_does_the_ratio_matter": "What is left of the claim",
    "11_how_small_is_it": "Summary",
    "12_cifar10": "Summary",
    "13_imagenette": "Summary",
    "14_three_datasets": "Summary",
    "15_beyond_the_thesis": "Summary",
    "17_leaderboard": "What it teaches",
    "19_how_small_can_it_get": "Summary",
    "20_conclusions": "Summary",
}
TABLES = {
    "published": ("Published values", "The thesis's values that ours are laid beside, read from the submitted text and "
        "off its plots, to about two digits. Accuracies are in percent, `zip_megabytes` in 10^6 bytes."),
    "peers": ("Other libraries", "Networks that other tools made, their weights in our file: means over seeds "
        "(notebook 17)."),
    "published_bytes": ("Published sizes", "Bytes that others have published for a whole network (notebook 19)."),
    "peers_bytes": ("Other programs", "The same trained networks in the files of other programs (notebook 19)."),
    "exports": ("Exported networks", "Size and accuracy of trained networks in every format, on all test images "
        "(notebook 11)."),
    "precision": ("Float32 and TensorFloat-32", "MNIST in float32 and in emulated TensorFloat-32, one row per run "
        "(notebook 10)."),
    "related_work": ("Related work", "The methods that notebook 6 draws as a map; `reference` is a key of the "
        "[references](/pages/references.md)."),
}  # fmt: skip


def figures_page():
    """Return the page of all figures: caption, notebook, figure of the thesis, batches of records."""
    lines = [
        "# Figures",
        "",
        "Every figure of the companion, by the notebook that draws it. The link under a figure leads to its place "
        "there. `make figures` draws them all again.",
    ]
    drawn = drawn_figures()
    lines += ["", "| figure of the thesis | notebook | figure here |", "| --- | --- | --- |"]
    for figure, (name, _) in drawn.items():
        number, link = of_thesis(figure), f"[{title(name)}](/notebooks/{name}.ipynb)"
        lines += [f"| {number} | {link} | [`{figure}`](#figure-{figure}) |"] if number else []
    lines += ["", "Those of chapter 4 are drawn by the notebooks of the data sets, section by section."]
    for name in [name for name in notebooks() if name in {notebook for notebook, _ in drawn.values()}]:
        records = ", ".join(f"`{batch}`" for batch in batches(name))
        lines += ["", f"## {title(name)}", ""]
        lines += [f"Records: {records} of `notebooks/grid.yaml`."] if records else []
        for figure in [figure for figure, (notebook, _) in drawn.items() if notebook == name]:
            caption, number = caption_before(*drawn[figure]), of_thesis(figure)
            lines += ["", f"```{{figure}} /figures/{figure}.png", f":alt: {alternative_text(*drawn[figure])}", ""]
            lines += [_of(name, caption), "", f"[`{figure}`](#figure-{figure})", "```"]
            if number:
                lines[-2] += f", Figure {number} of the thesis"
    return "\n".join(lines) + "\n"


def _of(name, text):
    return prepare_text(text, NOTEBOOKS / f"{name}.ipynb")


def of_thesis(figure):
    """Return the number of the thesis's figure that one stands for, by its name.

    Example:

    >>> of_thesis("fig_2_1_network"), of_thesis("fig_losses")
    ('2.1', '')
    """
    number = re.match(r"fig_(\d)_(\d)_", figure)
    return f"{number[1]}.{number[2]}" if number else ""


def summaries_page():
    """Return the page of what each notebook of results concludes, in its own words."""
    lines = [
        "# What each notebook concludes",
        "",
        "In the notebooks' own words. The tables and figures that they speak of are in the notebook that the heading "
        "names.",
    ]
    for name, heading in CONCLUSIONS.items():
        lines += [
            "",
            f"## {title(name)}",
            "",
            f"[Open the notebook](/notebooks/{name}.ipynb).",
            "",
            _of(name, section(name, heading)),
        ]
    return "\n".join(lines) + "\n"


def tables_page():
    """Return the page of the tables in `data`."""
    lines = ["# Tables", "", "The committed tables that notebooks read, beside the run records."]
    lines += ["[Data](/data/README.md) says what each column is."]
    for name, (heading, text) in TABLES.items():
        frame = pd.read_csv(DATA / f"{name}.csv", dtype=str, keep_default_na=False)
        if name == "published":
            keys = [column for column in frame if column not in ("quantity", "value")]
            rows = frame[keys].drop_duplicates()
            wide = frame.pivot(index=keys, columns="quantity", values="value")[list(PUBLISHED_QUANTITIES)]
            frame = rows.merge(wide.fillna(""), on=keys)
        if name == "peers":
            frame = frame.astype({"accuracy": float, "file_bytes": int})
            frame = frame.groupby("method", sort=False).agg(
                seeds=("seed", "nunique"), accuracy=("accuracy", "mean"), file_bytes=("file_bytes", "mean")
            )
            frame = frame.round({"accuracy": 4, "file_bytes": 0}).astype({"file_bytes": int}).reset_index()
        lines += ["", f"## {heading}", "", text, "", table(frame)]
    return "\n".join(lines) + "\n"


def table(frame):
    r"""Return a table in Markdown.

    Example:

    >>> print(table(pd.DataFrame({"bits": [4], "name": ["a|b"]})))
    | bits | name |
    | --- | --- |
    | 4 | a\|b |
    """
    rows = [list(frame), ["---"] * len(frame.columns), *frame.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)


def references_page():
    """Return the bibliography, each work with its key as a target, and the notebooks that cite it."""
    texts = {name: "\n".join(map(source, read_cells(name))) for name in notebooks()}
    bibliography = parse_file(BIBLIOGRAPHY)
    lines = ["# References", "", "The works that notebooks cite, from `data/references.bib`."]
    for work in Style().format_bibliography(bibliography, sorted(bibliography.entries)):
        cited = [name for name, text in texts.items() if re.search(rf"\b{work.key}\b", text)]
        links = ", ".join(f"[{title(name).split()[0].strip('.')}](/notebooks/{name}.ipynb)" for name in cited)
        where = f" Notebook {links}." if links else ""
        lines += ["", f"({work.key})=", f"**[{work.key}]** {' '.join(work.text.render_as('markdown').split())}{where}"]
    return "\n".join(lines) + "\n"


PAGES = {
    "figures": figures_page,
    "summaries": summaries_page,
    "tables": tables_page,
    "references": references_page,
}
