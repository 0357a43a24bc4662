"""Every private name of Keras that `lqs` needs, and nothing else: none of them has a public one.

Keras may move them without notice: `tests/lqs/test_keras.py` holds each to what lqs needs of it.
"""

import contextlib

import keras
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.common.variables import AutocastScope
from keras.src.backend.common.variables import Variable as AnyVariable
from keras.src.export.export_utils import get_input_signature
from keras.src.models.functional import Functional
from keras.src.optimizers.base_optimizer import BaseOptimizer

__all__ = [
    "AutocastScope",
    "BaseOptimizer",
    "ForgetsLosses",
    "Functional",
    "get_input_signature",
    "get_stateless_scope",
    "global_state",
    "is_concrete",
    "is_within_call",
    "leave_undecayed",
    "number_paths",
    "set_sublayers",
    "variables_from_values",
]


class ForgetsLosses(keras.layers.Layer):
    """A layer whose call cannot remove losses of other layers.

    Within a stateless scope, Keras removes the losses that a layer added in its last call by their `id`. When a step is
    not compiled, a new loss of another layer may have the `id` of one that is gone.
    """

    def _clear_losses(self):
        self._loss_ids.clear()
        super()._clear_losses()


def is_concrete(tensor):
    """Return whether a tensor has a value, and does not merely stand for one in a function that is being compiled."""
    try:
        keras.ops.convert_to_numpy(tensor)
    except Exception:  # each backend has its own
        return False
    return True


def is_within_call():
    """Return whether a layer is being called, by `__call__` and not by `call`."""
    return global_state.get_global_attribute("current_call_ctx") is not None


def leave_undecayed(variable):
    """Exclude a variable from the weight decay of every optimizer that is built for it.

    Keras can exclude variables only one optimizer at a time, before it is built. A layer does not know its optimizer:
    therefore all of them look for this mark when they are built.
    """
    variable.is_left_undecayed = True
    if BaseOptimizer.build is not _build_and_exclude:
        BaseOptimizer.build = _build_and_exclude


_build = BaseOptimizer.build


def _build_and_exclude(self, variables):
    _build(self, variables)
    marked = {self._var_key(variable) for variable in variables if getattr(variable, "is_left_undecayed", False)}
    if marked:
        self._exclude_from_weight_decay = marked | set(getattr(self, "_exclude_from_weight_decay", ()))


def number_paths(variables):
    """Add numbers to paths of variables, so that no two are the same: files in the format HDF5 need it.

    Names of variables stay.
    """
    taken = set()
    for variable in variables:
        path, number = variable.path, 1
        while variable.path in taken:
            number += 1
            variable._path = f"{path}_{number}"
        taken.add(variable.path)


def set_sublayers(layer, name, sublayers):
    """Set the attribute `name` of a layer that is built already to a list of layers and `None`."""
    layer._tracker.unlock()
    for known in getattr(layer, name, []):
        if known is not None:
            layer._tracker.untrack(known)
    setattr(layer, name, sublayers)
    layer._tracker.lock()


@contextlib.contextmanager
def variables_from_values():
    """Let variables be made of values within the block, in a stateless scope too.

    Keras refuses it there, and so a model that compiles itself in its constructor: its optimizer makes such variables.
    """
    original = AnyVariable.__init__

    def made(self, initializer, shape=None, dtype=None, *args, **kwargs):
        if get_stateless_scope() is not None and not callable(initializer) and not isinstance(initializer, str):
            value = keras.ops.convert_to_tensor(initializer, dtype)
            initializer, shape, dtype = lambda *args, **kwargs: value, value.shape, dtype or value.dtype
        original(self, initializer, shape, dtype, *args, **kwargs)

    AnyVariable.__init__ = made
    try:
        yield
    finally:
        AnyVariable.__init__ = original
