"""Calls of layers on quantized values of their variables."""

import keras

from lqs._keras import AutocastScope, get_stateless_scope


class _SubstitutionScope(keras.StatelessScope):
    """A stateless scope in which some variables read as other tensors, and that remembers which ones were assigned."""

    def __init__(self, values):
        super().__init__(collect_losses=True)
        self.values, self.updates = values, {}
        self.state_mapping.update(values)

    def add_update(self, update):
        super().add_update(update)
        self.updates[id(update[0])] = update


def call_with_values(layer, call, values):
    """Return `call()`, run while variables of `layer` read as the given tensors instead of their own values.

    Variables assigned (such as moving statistics and seeds) and losses added during the call reach the scope
    outside, on every backend.

    Args:
        layer: layer whose variables `call` reads.
        call: function without arguments.
        values: dictionary from the `id` of a variable to a tensor of its shape and dtype.
    """
    with AutocastScope(None):  # in which the scope's own argument would be cast to float32
        own = {id(variable): variable.value for variable in layer.variables}
    scope = _SubstitutionScope({**own, **values})
    scope.values = values
    with scope:
        outputs = call()
    for variable, value in scope.updates.values():
        if id(variable) in values:
            raise ValueError(
                f"Layer {layer.name!r} assigns its parameter {variable.path!r} itself, so that it cannot be "
                "quantized: leave it in float, in `lqs.quantize` by the argument `where`."
            )
        variable.assign(value)
    outer = scope.original_scope
    if outer is None:
        keras.layers.Layer.add_loss(layer, scope.losses)  # functional models refuse it
    elif outer.collect_losses:  # the layers that added these losses have kept their identities
        outer.losses.extend(scope.losses)
    return outputs


def is_substituted(variable):
    """Return whether a call in progress runs on a quantized value of the variable already."""
    scope = get_stateless_scope()
    while scope is not None:
        if isinstance(scope, _SubstitutionScope) and id(variable) in scope.values:
            return True
        scope = scope.original_scope
    return False


def quantize_values(pairs):
    """Return `{id(variable): P_r}` for pairs `(variable, NestedQuantization)`, in the variables' own precision."""
    with AutocastScope(None):
        return {id(variable): quantizer(variable.value) for variable, quantizer in pairs}
