"""Where the companion's files lie: the one place that knows the layout of the checkout."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
GRID = NOTEBOOKS / "grid.yaml"
PARAMETERS = NOTEBOOKS / "parameters.yaml"
FIGURES = ROOT / "figures"
STYLE = Path(__file__).with_name("thesis.mplstyle")
DATA = ROOT / "data"
RUNS = DATA / "runs"
MODELS = DATA / "models"
PUBLISHED = DATA / "published.csv"
BIBLIOGRAPHY = DATA / "references.bib"
RAW = DATA / "raw"  # never committed
WEIGHTS = RAW / "weights"
CHECKPOINTS = RAW / "checkpoints"
EXECUTED = RAW / "executed"
BOOK = ROOT / "build" / "book"  # never committed
