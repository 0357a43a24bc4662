"""A network at a rate: its parameters in the order of the layers, each for what those before it have become."""

import contextlib
from typing import Any, NamedTuple

import keras
import numpy as np

from lqs.compression.examples import check_outputs, num_examples, symbolic_inputs
from lqs.compression.moments import MAX_ELEMENTS, Moments, Stop, captured, kernels
from lqs.compression.rounding import MAX_INTEGER, damped, rounded_alone, rounded_matrix
from lqs.compression.sensitivities import sensitivities
from lqs.conversion import candidates, is_not_normalization
from lqs.copying import copied
from lqs.inspection import to_numpy

MAX_PASSES = 12  # over the examples, for one network
MAX_MOMENTS = 2**26  # numbers of matrices of moments that are held at once
LEAST_SENSITIVITY = 0.05  # of the mean


class Rounded(NamedTuple):
    """A parameter in integers.

    Attributes:
        integers: of its shape.
        scale: an array of one element, of its rank.
        with_moments: whether its rounding had second moments of inputs.
    """

    integers: Any
    scale: Any
    with_moments: bool


class Network:
    """A copy of a float model, that `at_rate` rounds.

    Attributes:
        model: the copy, with the values that were last asked for.
        outputs: of the float network, for the batches to measure on.
        rounded: `{index of a weight: Rounded}`.
    """

    def __init__(self, model, batches, held_out):
        self.model, self.batches, self.held_out = copied(model), batches, held_out
        weights = self.model.weights
        self.index = {id(variable): index for index, variable in enumerate(weights)}
        self.floats = [to_numpy(variable.value) for variable in weights]
        pairs = candidates(self.model)
        self.parameters = [variable for owner, variable in pairs if is_not_normalization(owner, variable)]
        self.outputs = self._float_outputs(held_out)
        self._measure_sensitivities(model)
        self._find_order()
        self._first = None
        self.rounded = {}

    def _float_outputs(self, batches):
        """Return the outputs of the float network, if it takes the inputs and the outputs are finite."""
        try:
            outputs = self.predict(batches)
        except (ValueError, TypeError) as error:
            inputs = batches[0], symbolic_inputs(self.model)
            found, expected = (keras.tree.map_structure(lambda x: f"{x.dtype} {x.shape}", some) for some in inputs)
            raise ValueError(
                "Argument `x` must hold inputs that the model takes, and a dataset or generator batches of them. "
                f"Received: a batch of {found}" + f", where the model takes {expected}" * bool(expected)
            ) from error
        check_outputs(keras.tree.flatten(outputs), "model", batches)
        return outputs

    def predict(self, batches):
        """Return the outputs for batches, each as a flat list of arrays."""
        return [[to_numpy(keras.ops.cast(o, "float32")) for o in self._call(batch)] for batch in batches]

    def _call(self, batch):
        return keras.tree.flatten(self.model(batch, training=False))

    def _measure_sensitivities(self, model):
        copy = copied(model)
        for layer in copy._flatten_layers():
            layer.trainable = True
        for _, variable in candidates(copy):  # one may be frozen in a layer that is not, as LoRA freezes kernels
            variable.trainable = True
        index = {id(variable): i for i, variable in enumerate(copy.weights)}
        found = sensitivities(copy, self.batches, self._float_outputs(self.batches))
        indices = [index[id(variable)] for variable in copy.trainable_variables]
        self.sensitivities = dict(zip(indices, found, strict=True))

    def _find_order(self):
        """Find in which order the first batch calls the layers, how often, and what they multiply."""
        wanted = {id(variable) for variable in self.parameters}
        self.kernels = {}
        for layer in self.model._flatten_layers():
            known = [kernel for kernel in kernels(layer) if id(kernel.variable) in wanted] if layer.built else []
            if known or isinstance(layer, keras.layers.BatchNormalization):
                self.kernels[id(layer)] = (layer, known)
        calls: list[int] = []
        with captured([layer for layer, _ in self.kernels.values()], lambda layer, x, y: calls.append(id(layer))):
            self._call(self.batches[0])
        self.num_calls = {key: calls.count(key) for key in calls}
        self.order = list(self.num_calls)
        self.groups = self._grouped()

    def _grouped(self):
        """Return lists of layers of which the moments are taken in one pass."""
        sizes = [sum(int(np.prod(_side(k))) * _side(k)[1] for k in self.kernels[key][1]) for key in self.order]
        limit = min(MAX_MOMENTS, max(max(sizes, default=0), -(-sum(sizes) // MAX_PASSES)))
        longest = -(-len(self.order) // MAX_PASSES)
        groups: list[list] = []
        total = 0
        for key, size in zip(self.order, sizes, strict=True):
            if not groups or total + size > limit or len(groups[-1]) >= longest:
                groups.append([])
                total = 0
            groups[-1].append(key)
            total += size
        return groups

    def value(self, variable):
        return self.floats[self.index[id(variable)]]

    def at_rate(self, rate):
        """Round all parameters for the error of the outputs plus `rate` times bits, and return `self.rounded`."""
        self.rounded, self.others = {}, {}
        for number, group in enumerate(self.groups):
            found = self._first if number == 0 and self._first else self._moments(group)
            if number == 0:
                self._first = found
            for key in group:
                self._round_layer(key, found, rate)
        for variable in self.parameters:
            if self.index[id(variable)] not in self.rounded:
                self._round_alone(variable, self.value(variable), rate, with_moments=False)
        self.assign()
        return self.rounded

    def assign(self, with_statistics=True):
        """Give the copy the rounded values; those of normalization as corrected, or as they were."""
        for index, value in {**self._values(), **(self.others if with_statistics else {})}.items():
            self.model.weights[index].assign(value)
        if not with_statistics:
            self._assign_floats(self.others)

    def _values(self):
        return {index: r.integers * r.scale for index, r in self.rounded.items()}

    def _assign_floats(self, indices):
        weights = self.model.weights
        for index in indices:
            weights[index].assign(self.floats[index])

    def _moments(self, group):
        """Return `{key of a layer: moments}` of layers, for the float and the rounded network."""
        found: dict = {}
        changed = {**self._values(), **self.others}
        weights = self.model.weights
        for batch in self.batches:
            self._assign_floats(changed)
            z = self._inputs(group, batch)
            for index, value in changed.items():
                weights[index].assign(value)
            x = self._inputs(group, batch) if changed else z
            size = num_examples([batch])
            for key in group:
                self._add(found, key, zip(x[key], z[key], strict=True), size)
        self._assign_floats(changed)
        return found

    def _inputs(self, group, batch):
        """Return `{key: list of pairs of inputs and states}`, in the order of the calls."""
        inputs: dict = {key: [] for key in group}
        left = {key: self.num_calls[key] for key in group}

        def capture(layer, x, y):
            inputs[id(layer)].append((x, y))
            left[id(layer)] -= 1
            if not any(left.values()):
                raise Stop

        with captured([self.kernels[key][0] for key in group], capture), contextlib.suppress(Stop):
            self._call(batch)
        return inputs

    def _add(self, found, key, calls, size):
        layer, known = self.kernels[key]
        for (x, states), (z, float_states) in calls:
            if not known:  # batch normalization
                found.setdefault(key, _Statistics()).add(layer, x, z)
                continue
            for number, kernel in enumerate(known):
                part = slice(0, max(1, int(len(x) / max(1.0, _expansion(kernel, x) * x.size / MAX_ELEMENTS))))
                of_x = kernel.inputs(x[part], states if states is None else states[part])
                same = x is z
                of_z = of_x if same else kernel.inputs(z[part], states if states is None else float_states[part])
                moments = found.setdefault((key, number), Moments(of_x.shape[1:]))
                num = size * len(x[part]) / len(x)  # of examples, where a layer folds the time into the batch
                moments.add(of_x, of_z, num / self.num_calls[key])

    def _round_layer(self, key, found, rate):
        layer, known = self.kernels[key]
        if not known:
            self.others |= {self.index[id(v)]: value for v, value in found[key].corrected(layer, self.value)}
        for number, kernel in enumerate(known):
            self._round_kernel(kernel, found[key, number], rate)

    def _round_kernel(self, kernel, moments, rate):
        index = self.index[id(kernel.variable)]
        weights = kernel.to_matrix(self.value(kernel.variable)).astype("float64")
        has_bias = kernel.bias is not None
        a, cross = moments.moments, moments.cross
        if has_bias:  # which makes up for what the mean of the inputs gets wrong
            a = a - moments.means[:, :, None] * moments.means[:, None] / moments.num
            cross = cross - moments.means[:, :, None] * moments.float_means[:, None] / moments.num
        a, cross = a / moments.num_examples, cross / moments.num_examples
        total = np.trace(moments.moments, axis1=1, axis2=2) / moments.num_examples
        regular = damped(a, total, moments.num)
        targets = weights if moments.is_exact else np.linalg.solve(regular, (cross + regular - a) @ weights)
        squares = kernel.to_matrix(self.sensitivities[index])
        of_outputs, total = squares.sum(1), total[:, None]
        if kernel.are_blocks:
            of_outputs, total = of_outputs.sum(0, keepdims=True), total.sum(0, keepdims=True)
        of_outputs = of_outputs / np.maximum(total, 1e-12)
        of_outputs = np.maximum(of_outputs, LEAST_SENSITIVITY * of_outputs.mean() + 1e-30)
        of_outputs = np.broadcast_to(of_outputs, (len(weights), weights.shape[-1]))
        largest = _largest_integer(kernel.variable.dtype, targets)
        integers, scale = rounded_matrix(targets, regular, of_outputs, rate, largest)
        self._keep(kernel.variable, kernel.from_matrix(integers), scale, True)
        if has_bias and id(kernel.bias) in {id(variable) for variable in self.parameters}:
            scale = self.rounded[index].scale.item()
            change = moments.float_means[:, None] @ weights - moments.means[:, None] @ (integers * scale)
            change = change.sum(0) if kernel.are_blocks else change
            bias = self.value(kernel.bias)
            self._round_alone(kernel.bias, bias + change.reshape(bias.shape) / moments.num, rate, with_moments=True)

    def _round_alone(self, variable, values, rate, with_moments):
        squares = self.sensitivities[self.index[id(variable)]]
        weights = 0.25 * (squares + squares.mean()) + 1e-30  # what no example needs is not free to change
        largest = _largest_integer(variable.dtype, values)
        integers, scale = rounded_alone(values.astype("float64"), weights, rate, largest)
        self._keep(variable, integers, scale, with_moments)

    def _keep(self, variable, integers, scale, with_moments):
        dtype = np.dtype("float32")
        scale = np.full((1,) * len(variable.shape), scale, dtype)
        self.rounded[self.index[id(variable)]] = Rounded(np.ascontiguousarray(integers, "int32"), scale, with_moments)


class _Statistics:
    """Mean and variance of the inputs of a batch normalization, in the rounded and in the float network."""

    def __init__(self):
        self.sums: Any = None
        self.num = 0

    def add(self, layer, x, z):
        axes = tuple(axis for axis in range(x.ndim) if axis != layer.axis % x.ndim)
        sums = np.stack([f.sum(axes, dtype="float64") for f in (x, x**2, z, z**2)])
        self.sums = sums if self.sums is None else self.sums + sums
        self.num += x.size // x.shape[layer.axis]

    def corrected(self, layer, value):
        """Return pairs of variables and values: changed as the statistics are from network to network."""
        mean, square, float_mean, float_square = self.sums / self.num
        variance, float_variance = square - mean**2, float_square - float_mean**2
        epsilon = 1e-3 * float_variance.mean() + 1e-12
        old_mean, old_variance = value(layer.moving_mean), value(layer.moving_variance)
        new_variance = old_variance * np.clip((variance + epsilon) / (float_variance + epsilon), 0.1, 10)
        return [
            (layer.moving_mean, (old_mean + mean - float_mean).astype("float32")),
            (layer.moving_variance, new_variance.astype("float32")),
        ]


def _largest_integer(dtype, values):
    """Return the largest integer that a dtype gives back from the product with its scale."""
    if dtype == "float16":  # which has steps of 2**-24 at least
        return int(np.clip(2.0**23 * np.abs(values).max(initial=0), 1, 1023))
    return 127 if dtype == "bfloat16" else MAX_INTEGER


def _side(kernel):
    return kernel.to_matrix(np.zeros(kernel.variable.shape, "bool")).shape[:2]


def _expansion(kernel, x):
    """Return about how many times as many elements the inputs of a kernel have, at most."""
    return max(1.0, int(np.prod(_side(kernel))) / x.shape[-1])
