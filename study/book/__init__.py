"""The book: a site from the stored notebooks, the texts in `docs` and the docstrings of `lqs`; `make book` builds it."""
