"""References: works of the bibliography `data/references.bib`, formatted for the end of a notebook."""

from IPython.display import Markdown
from pybtex.database import parse_file
from pybtex.style.formatting.unsrt import Style

from study.paths import BIBLIOGRAPHY


def references(*keys):
    """Return the works with these keys as a list that a notebook displays.

    Args:
        keys: keys of the bibliography, such as `"esser2020"`.

    Raises:
        ValueError: a key is not in the bibliography.

    Example:

    >>> print(references("bengio2013").data.split("**")[1])
    [bengio2013]
    """
    bibliography = parse_file(BIBLIOGRAPHY)
    missing = sorted(set(keys) - set(bibliography.entries))
    if missing:
        raise ValueError(f"Every key must be in {BIBLIOGRAPHY.name}. Received: {', '.join(missing)}")
    works = Style().format_bibliography(bibliography, sorted(keys))
    lines = [f"- **[{work.key}]** {work.text.render_as('markdown')}" for work in works]
    return Markdown("\n".join(" ".join(line.split()) for line in lines))
