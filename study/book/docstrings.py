"""Docstrings of the project as reStructuredText: what is indented is an equation or code, and not a quotation."""

import re

SECTION = re.compile(r"(Args|Returns|Raises|Example|Examples|Yields):$")


def to_rst(lines):
    """Change the lines of a docstring in place: mark its indented blocks as literal ones.

    Sections such as `Args:` are indented as well, and stay: Sphinx's napoleon reads them.

    Example:

    >>> lines = ["The term is", "", "    mean(P)", "", "Args:", "    rate: a number."]
    >>> to_rst(lines)
    >>> lines
    ['The term is', '', '::', '', '    mean(P)', '', 'Args:', '    rate: a number.']
    """
    found, in_section = [], False
    for line in lines:
        if line and not line.startswith(" "):
            in_section = bool(SECTION.match(line))
        starts_block = line.startswith("    ") and found and not found[-1] and not in_section
        if starts_block and not _in_literal(found):
            found += ["::", ""]
        found.append(line)
    lines[:] = found


def _in_literal(lines):
    """Return whether the block that is not indented any less ended a literal one: a blank line inside of an equation."""
    before = [line for line in lines if line]
    return bool(before) and before[-1].startswith("    ")
