"""Docstrings as reStructuredText: indented blocks are equations or code, tables stay as they are written."""

import inspect
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


def class_signature(what, thing):
    """Return the arguments of a class as Sphinx shows them, those of `__init__`; `None` for what is no class.

    Keras's classes have a `__new__` as well, which takes anything.

    Example:

    >>> import lqs
    >>> class_signature("class", lqs.CodeLengthPenalty)
    ("(rate, code='geometric', **kwargs)", None)
    """
    if what != "class":
        return None
    _, *parameters = inspect.signature(thing.__init__).parameters.values()
    return f"({', '.join(str(one.replace(annotation=inspect.Parameter.empty)) for one in parameters)})", None
