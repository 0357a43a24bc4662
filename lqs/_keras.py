"""Every private name of Keras that `lqs` needs, and nothing else: none of them has a public one.

Keras may move them without notice: `tests/lqs/test_keras.py` holds each to what lqs needs of it.
"""

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.common.variables import AutocastScope
from keras.src.export.export_utils import get_input_signature
from keras.src.models.functional import Functional

__all__ = [
    "AutocastScope",
    "Functional",
    "get_input_signature",
    "get_stateless_scope",
    "global_state",
    "is_concrete",
    "set_sublayers",
]


def is_concrete(tensor):
    """Return whether a tensor has a value, and does not merely stand for one in a function that is being compiled."""
    try:
        keras.ops.convert_to_numpy(tensor)
    except Exception:  # each backend has its own
        return False
    return True


def set_sublayers(layer, name, sublayers):
    """Set the attribute `name` of a layer that is built already to a list of layers and `None`."""
    layer._tracker.unlock()
    for known in getattr(layer, name, []):
        if known is not None:
            layer._tracker.untrack(known)
    setattr(layer, name, sublayers)
    layer._tracker.lock()
