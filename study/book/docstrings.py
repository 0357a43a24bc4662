"""Docstrings as reStructuredText: indented blocks are equations or code, tables stay as they are written."""

import re

SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Example|Examples|Yields):$")


def to_rst(lines):
    """Change the lines of a docstring in place: mark indented blocks and tables as text.

    Sections such as `Args:` are indented as well, and stay: Sphinx's napoleon reads them.

    Example:

    >>> lines = ["The term is", "", "    mean(P)", "", "Args:", "    rate: a number."]
    >>> to_rst(lines)
    >>> lines
    ['The term is', '', '.. code-block:: text', '', '    mean(P)', '', 'Args:', '    rate: a number.']
    """
    found: list[str] = []
    in_section = in_block = False
    for line in lines:
        if line and not line.startswith(" "):
            in_section = bool(SECTION.match(line))
        is_table = line.startswith("|")
        is_literal = is_table or (line.startswith("    ") and not in_section and (in_block or not "".join(found[-1:])))
        if line and is_literal and not in_block:
            found += [".. code-block:: text", ""]
        if line:
            in_block = is_literal
        found.append("    " + line if is_table else line)
    lines[:] = found
