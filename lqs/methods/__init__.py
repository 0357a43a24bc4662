"""Published methods, one module a paper: its equations, the departures, and the settings in which it is itself.

A *preset* is a function that returns the `lqs.NestedQuantization` of a method. It takes `bits` where the method has a
width, its one strength by the paper's name for it (`rate`, `probability` or `threshold`), and any other argument of
`NestedQuantization` by name:

    lqs.methods.get("lsq")(bits=4, granularity="filter")

A method is one module, one line in the table below, and one row in `tests/methods/test_common.py`.
"""

import importlib

# name: module, in which a function has this name
_MODULES = {
    "min_max": "min_max",
    "lsq": "lsq",
    "dorefa": "dorefa",
    "stochastic": "stochastic_rounding",
    "quant_noise": "quant_noise",
    "binary_connect": "binary_connect",
    "xnor": "xnor",
    "twn": "twn",
    "tang": "binary_penalty",
    "sinreq": "sinreq",
    "msqe": "msqe",
    "deep_hoyer": "deep_hoyer",
    "ttq": "ttq",
    "lq_nets": "lq_nets",
    "qil": "qil",
    "waveq": "waveq",
    "deep_compression": "deep_compression",
    "lab": "lab",
    "gong": "gong",
    "qnn": "qnn",
    "ott": "ott",
    "value_aware": "value_aware",
    "rdo_q": "rdo_q",
    "aqe": "aqe",
    "sq": "sq",
    "delta_loss": "delta_loss",
    "krishnamoorthi": "krishnamoorthi",
    "polino": "polino",
    "tfc": "tfc",
}
METHODS = tuple(_MODULES)


def get(name):
    """Return the preset of a published method.

    Args:
        name: one of `METHODS`.

    Raises:
        ValueError: if there is no such method.

    Example:

    >>> get("ttq")(granularity="filter").granularity
    'filter'
    """
    if name not in _MODULES:
        raise ValueError(f"Argument `name` must be one of {METHODS}. Received: name={name!r}")
    return getattr(importlib.import_module(f"lqs.methods.{_MODULES[name]}"), name)


def register():
    """Import all modules, so that Keras finds their classes when it loads a model."""
    for module in dict.fromkeys(_MODULES.values()):
        importlib.import_module(f"lqs.methods.{module}")
