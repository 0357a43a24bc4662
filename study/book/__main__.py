"""Writes the sources of the book anew, on the JAX backend: `python -m study.book`."""

import shutil

from study.book.gallery import methods_page, picture, recorded
from study.book.nested import nested_figure
from study.book.pages import PAGES
from study.book.sources import write, write_sources
from study.paths import BOOK


def main(folder):
    """Write everything that Sphinx reads into a folder."""
    write_sources(folder)
    for name, page in {**PAGES, "methods": methods_page}.items():
        write(folder / "pages" / f"{name}.md", page())
    html, table = nested_figure()
    write(folder / "pages/nested.html", html)
    write(folder / "pages/nested.txt", table)
    for method in recorded():
        write(folder / "pages" / f"{method}.svg", picture(method))


if __name__ == "__main__":
    shutil.rmtree(BOOK, ignore_errors=True)  # a page of an earlier version would be a page too many
    main(BOOK / "source")
