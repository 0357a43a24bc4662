"""Learned weight quantization for Keras: nested quantization layers with trainable scale factors.

`import lqs` is quick: a public name imports its module, and so Keras with its backend, when it is first used.

Its classes are registered with Keras, so that `keras.models.load_model` finds them in a `.keras` file: at once if Keras
was imported before lqs, else when the first name of lqs is used.

>>> import keras
>>> import lqs
>>> keras.saving.get_registered_object("lqs>QuantDense") is lqs.QuantDense
True
"""

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lqs.comparison import compare as compare
    from lqs.compression import compress as compress
    from lqs.control import TargetSize as TargetSize
    from lqs.conversion import dequantize as dequantize
    from lqs.conversion import quantize as quantize
    from lqs.file.reader import FileFormatError as FileFormatError
    from lqs.file.saving import load as load
    from lqs.file.saving import save as save
    from lqs.file.sizes import size_report as size_report
    from lqs.inspection import summary as summary
    from lqs.layers import QuantConv2D as QuantConv2D
    from lqs.layers import QuantDense as QuantDense
    from lqs.penalties import CodeLengthPenalty as CodeLengthPenalty
    from lqs.penalties import DifferencePenalty as DifferencePenalty
    from lqs.penalties import InversePenalty as InversePenalty
    from lqs.penalties import MaxBinPenalty as MaxBinPenalty
    from lqs.penalties import Penalty as Penalty
    from lqs.plots import plot_integers as plot_integers
    from lqs.plots import plot_sizes as plot_sizes
    from lqs.quantizer import NestedQuantization as NestedQuantization
    from lqs.rounding import Rounding as Rounding
    from lqs.rules import Frozen as Frozen
    from lqs.rules import GradientRatio as GradientRatio
    from lqs.rules import Rule as Rule
    from lqs.rules import StraightThrough as StraightThrough
    from lqs.scales import MIN_SCALE as MIN_SCALE

_MODULES = {
    "lqs.comparison": ["compare"],
    "lqs.compression": ["compress"],
    "lqs.control": ["TargetSize"],
    "lqs.conversion": ["dequantize", "quantize"],
    "lqs.file.reader": ["FileFormatError"],
    "lqs.file.saving": ["load", "save"],
    "lqs.file.sizes": ["size_report"],
    "lqs.inspection": ["summary"],
    "lqs.layers": ["QuantConv2D", "QuantDense"],
    "lqs.penalties": ["CodeLengthPenalty", "DifferencePenalty", "InversePenalty", "MaxBinPenalty", "Penalty"],
    "lqs.plots": ["plot_integers", "plot_sizes"],
    "lqs.quantizer": ["NestedQuantization"],
    "lqs.rounding": ["Rounding"],
    "lqs.rules": ["Frozen", "GradientRatio", "Rule", "StraightThrough"],
    "lqs.scales": ["MIN_SCALE"],
}  # as above, which type checkers read
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]


def _register() -> None:
    """Import what registers classes, if Keras is there: it finds registered classes only, and imports no module."""
    if sys.modules.get("keras"):
        importlib.import_module("lqs.layers")  # imports rules, penalties, roundings and the quantizer
        importlib.import_module("lqs.methods").register()


if not TYPE_CHECKING:  # a checker that saw it would take every name for granted

    def __getattr__(name: str) -> Any:
        if name in _MODULE_OF:
            value = getattr(importlib.import_module(_MODULE_OF[name]), name)
        elif not name.startswith("__") and importlib.util.find_spec(f"lqs.{name}"):
            value = importlib.import_module(f"lqs.{name}")
        else:
            raise AttributeError(f"module 'lqs' has no attribute {name!r}")
        _register()
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_register()
