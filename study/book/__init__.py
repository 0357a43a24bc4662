"""The book: a site from the stored notebooks, the texts in `docs` and the docstrings; `make book` builds it."""
