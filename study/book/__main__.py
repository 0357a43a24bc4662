"""Writes the sources of the book: `python -m study.book FOLDER`, on the JAX backend."""

import sys
from pathlib import Path

import lqs
from study.book.gallery import methods_page, picture
from study.book.nested import nested_figure
from study.book.pages import PAGES
from study.book.sources import write, write_sources


def main(folder):
    """Write everything that Sphinx reads into a folder."""
    write_sources(folder)
    for name, page in {**PAGES, "methods": methods_page}.items():
        write(folder / "pages" / f"{name}.md", page())
    html, table = nested_figure()
    write(folder / "pages/nested.html", html)
    write(folder / "pages/nested.txt", table)
    for method in lqs.methods.METHODS:
        write(folder / "pages" / f"{method}.svg", picture(method))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
