"""Writes the sources of the book: `python -m study.book FOLDER`."""

import sys
from pathlib import Path

from study.book.sources import write_sources

if __name__ == "__main__":
    write_sources(Path(sys.argv[1]))
