"""Parameters of the notebooks: the committed ones, and others to play with, in `notebooks/parameters.yaml`."""

import json

import yaml

from study.paths import PARAMETERS


def read_parameters(path=PARAMETERS):
    """Return `{notebook: {"committed": {name: value}, "others": [{name: value}, ...]}}`."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def is_committed(notebook, variables, path=PARAMETERS):
    """Return whether the parameters of a notebook have the values with which it is committed.

    Args:
        notebook: name of the notebook, without its suffix.
        variables: dictionary in which the parameters are, such as `globals()`.
        path: of the file with the committed values.

    Example:

    >>> committed = read_parameters()["16_your_own_network"]["committed"]
    >>> is_committed("16_your_own_network", committed), is_committed("16_your_own_network", {**committed, "EPOCHS": 1})
    (True, False)
    """
    committed = read_parameters(path)[notebook]["committed"]
    # As JSON, since YAML has no tuples.
    return json.dumps(committed) == json.dumps({name: variables.get(name) for name in committed}, default=repr)
