"""`TargetSize`: ask for the size of the file, not for the rate of a penalty."""

import math
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from lqs.file.sizes import CountedSize, file_bytes, fp32_bytes
from lqs.inspection import nested_layers, penalties, quantized_parameters
from lqs.penalties import CodeLengthPenalty
from lqs.scales import MIN_SCALE

RAMP_STEPS, LONGEST_RAMP = 1400, 0.5  # in which the reference falls, and the largest share of the training that may be
ABOVE = 0.42  # logarithm of how much larger than the target the reference would be at first
LONG_RAMP = 0.1  # share of a ramp from which on a training counts as short
INTEGRAL, PROPORTIONAL = 0.3, 1.0  # gains of the controller
SPARSE_BITS = 0.4  # of the file per penalized parameter, below which scales are not made larger
FINE_BITS = 2.0  # the same, below which they are not made smaller
FIRST_RATE, FIRST_EXPONENT = 1e-6, 2.5  # of the rate that training starts from, by the ratio
LARGEST_FIRST_RATE = 0.3  # more of it makes too much zero in the first epoch, before the size can tell
RATE_RANGE = 100.0  # how far from where it starts a rate may go, either way
LANDINGS = (0.8, 0.85, 0.9, 0.95, 1.0)  # shares of the training at which scales are moved
LARGEST_LAG = 0.05  # of the logarithm of the size behind the reference, from which on scales are moved before that
LARGEST_MOVE, NUM_TRIALS, CLOSE = math.log(4.0), 8, 0.002  # of the logarithm of a factor; and of the size
LARGEST_ZERO = 0.5  # share of the elements other than zero that are set to it at most
LAST_TOLERANCE = 0.95  # of the tolerance, to which a sparse file that is larger at the end is brought


class TargetSize(keras.callbacks.Callback):
    """Steers the rate of the penalties during `fit`, so that the `.lqs` file gets the size that is asked for.

    The size is that of the file that `lqs.save` would write, counted from the integers and packed now and then; see
    `lqs.file.sizes.CountedSize`. With `t` the share of the training that is over, it follows the reference

        goal * (size at first / goal) ** (max(0, 1 - t / ramp) ** 2),    goal = target * exp(b max(0, 1 - t / (1 - c)))

    whose ramp is 1,400 steps, or the first half of a short training. A file shrinks by itself while the learning rate
    decays, and what has once become zero hardly comes back, so that the size comes from above, as it does at a constant
    rate. The shorter the training, the less, and the sooner it has the size: with `c = max(0, ramp - 0.1)`,
    `b = 0.42 (1 - 2.5 c)`. With the error `e = log(size / reference)`, every update multiplies all rates by

        exp(0.3 e + e - e of the update before)

    a proportional-integral controller of the logarithm of the rate. The rates of `lqs.CodeLengthPenalty` start from
    `min(0.3, 1e-6 * ratio**2.5)`, near which our networks on MNIST end beside cross-entropy, in the proportions that
    they have; those of other penalties from what they are. Where the ratio is in the hundreds they end above 0.3, but a
    network that started there could become zero as a whole.

    A rate acts by way of the learning rate: not at all when that has decayed, and too slowly in a short training. Where
    the size lags behind the reference by 5 % in two updates in a row, the scales of all penalized parameters are
    therefore multiplied by the one factor with which the file has the size of the reference; at 80, 85, 90, 95 and
    100 % of the training they always are. With a smaller scale, elements would leave zero that the loss never saw
    elsewhere: a file of less than 2 bits for each of these parameters that is smaller than asked for stays so. Where it
    has less than 0.4, or the target has and the ramp is over, too many others would become zero at once with a larger
    scale. There no scale is moved; if the file is too large at the end by more than the tolerance, the elements nearest
    to zero are set to it, as few as that takes.

    Moved scales change what batch normalization sees, and its moving averages follow in some hundreds of steps only.
    In a short training, scales therefore go most of their way in its first half.

    Rates stay where `fit` leaves them, so that another `fit` without the callback goes on changing the size. With it, a
    network that has the size keeps it.

    The logs of every epoch, and so the progress bar of `fit`, get `file_bytes`, `file_ratio` (how many times smaller
    than the float32 parameters that is), `asked_ratio`, and `val_loss_at_size`, or without validation `loss_at_size`:
    the loss, or infinity for an epoch that does not end within `tolerance` of the size. Few of the first ones do. The
    best epoch among the others is kept by callbacks that come after this one:

        EarlyStopping("val_loss_at_size", mode="min", patience=epochs, restore_best_weights=True)
        ModelCheckpoint(path, "val_loss_at_size", mode="min", save_best_only=True)

    Args:
        bytes: size of the file to end at.
        ratio: instead, how many times smaller it is to be than the float32 parameters of the float network.
        num_updates: number of updates over the whole training, evenly spaced.
        tolerance: relative error of the size at the end from which on a warning is given.
        inference_only: the argument of `lqs.save`, of the file whose size is meant.

    Attributes:
        history: list of `(share of the training, size, reference, rate)`, one for each update.

    Raises:
        ValueError: if not exactly one of `bytes` and `ratio` is given, or an argument is out of range; when training
            starts, if the model has no penalty with a positive rate, or what is not integers alone takes more; at an
            update, if the model cannot be saved, as after training has diverged.

    Example:

    >>> TargetSize(bytes=3000).bytes
    3000
    """

    def __init__(
        self,
        bytes: float | None = None,
        ratio: float | None = None,
        num_updates: int = 100,
        tolerance: float = 0.03,
        inference_only: bool = False,
    ) -> None:
        super().__init__()
        if (bytes is None) == (ratio is None):
            raise ValueError(f"Give one of `bytes` and `ratio`. Received: bytes={bytes!r}, ratio={ratio!r}")
        numbers = {"bytes": bytes, "ratio": ratio, "num_updates": num_updates, "tolerance": tolerance}
        for name, value in numbers.items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 < value < math.inf):
                raise ValueError(f"Argument `{name}` must be a positive number. Received: {name}={value!r}")
        self.bytes, self.ratio, self.num_updates, self.tolerance = bytes, ratio, num_updates, tolerance
        self.inference_only = inference_only

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.penalties, self.float_bytes = penalties(self.model), fp32_bytes(self.model)
        rates = [float(penalty.rate) for penalty in self.penalties]
        if not rates or min(rates) <= 0:
            raise ValueError(
                "Callback `TargetSize` needs a model whose penalties have positive rates to start from, as by "
                f"`lqs.quantize(model, 'compact')`. Received: rates {sorted(set(rates))}"
            )
        self.target = self.bytes or self.float_bytes / self.ratio
        self.size = CountedSize(self.model, self.inference_only)
        fixed = self.size.fixed_bytes
        if self.target <= fixed:
            raise ValueError(
                f"The requested size must be more than the {fixed:,} bytes of what is not integers: header, scales and "
                f"parameters that are not quantized; that is a ratio below {self.float_bytes / fixed:.1f}. "
                f"Received: {self.target:,.0f} bytes"
            )
        self.first_size = self.epoch_size = self.size.packed
        self.is_held = self._is_met(self.first_size)  # with the rates that the model has
        if not self.is_held and all(isinstance(penalty, CodeLengthPenalty) for penalty in self.penalties):
            first = min(FIRST_RATE * (self.float_bytes / self.target) ** FIRST_EXPONENT, LARGEST_FIRST_RATE)
            factor = first / math.exp(statistics.fmean(map(math.log, rates)))
            rates = [factor * rate for rate in rates]
            for penalty, rate in zip(self.penalties, rates, strict=True):
                penalty.rate.assign(rate)
        self.lowest, self.highest = min(rates) / RATE_RANGE, max(rates) * RATE_RANGE
        num_steps = self.params["epochs"] * (self.params["steps"] or 0)
        self.ramp = min(LONGEST_RAMP, RAMP_STEPS / max(num_steps, 1))
        self.short = max(0.0, self.ramp - LONG_RAMP)
        self.above = ABOVE * (1 - self.short / (LONGEST_RAMP - LONG_RAMP))
        self.error, self.next_update, self.landings = 0.0, 1, list(LANDINGS)
        self.history: list[tuple[float, int, float, float]] = []
        # Keras calls its own `History` after all callbacks that it is given: what these restore has been restored then.
        last = getattr(self.model, "history", None)
        self.last = last if last is not None and last.params is self.params else None
        if self.last is not None:
            self.last.on_train_end = self._check_size

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._update_if_due((self.epoch + (batch + 1) / (self.params["steps"] or math.inf)) / self.params["epochs"])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._update_if_due((epoch + 1) / self.params["epochs"])
        size = self.size.count()
        is_near = abs(size / self.target - 1) <= 2 * self.tolerance
        self.epoch_size = self.size.pack() if is_near else size
        if logs:
            loss = "val_loss" if "val_loss" in logs else "loss"
            at_size = logs.get(loss, math.inf) if self._is_met(self.epoch_size) else math.inf
            size, ratio = self.epoch_size, self.float_bytes / self.epoch_size
            logs |= {"file_bytes": size, "file_ratio": ratio, "asked_ratio": self.float_bytes / self.target}
            logs[f"{loss}_at_size"] = at_size

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self.last is None:
            self._check_size()

    def _check_size(self, logs: dict[str, Any] | None = None) -> None:
        """Warn if the size is not met by the weights that `fit` leaves."""
        if self.last is not None:
            del self.last.on_train_end
        size = file_bytes(self.model, self.inference_only)
        if self._is_met(size):
            return
        if self._is_met(self.epoch_size):
            advice = (
                f"the last epoch ended at {self.epoch_size:,} bytes, but other weights were brought back. Let what "
                "does so monitor 'val_loss_at_size' or 'loss_at_size' with mode='min', and the optimizer have no "
                "`use_ema`."
            )
        elif size > self.target:
            advice = "train longer, or ask for a size that this network and task admit."
        else:
            advice = "start from a smaller `initial_scale` and lower rates, or ask for a smaller file."
        warnings.warn(f"The file takes {size:,} bytes, and {self.target:,.0f} were asked for: {advice}", stacklevel=2)

    def _is_met(self, size: int) -> bool:
        return abs(size / self.target - 1) <= self.tolerance

    def _update_if_due(self, share: float) -> None:
        if share * self.num_updates >= self.next_update:  # one, even if several would have been due
            self.next_update = math.floor(share * self.num_updates) + 1
            self._update(share)

    def _update(self, share: float) -> None:
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # during an epoch the variables lag behind
        size = self.size.count() if share < 1 else self.size.pack()
        reference = self._reference(min(share, 1.0))
        error = math.log(size / reference)
        factor = math.exp(INTEGRAL * error + PROPORTIONAL * (error - self.error))
        for penalty in self.penalties:
            penalty.rate.assign(min(max(factor * float(penalty.rate), self.lowest), self.highest))
        if share >= self.landings[0]:
            self.landings = [later for later in self.landings if later > share] or [math.inf]
            if self._has_bits(size, SPARSE_BITS if error > 0 else FINE_BITS):
                self._land(reference, is_last=share >= 1)
            elif share >= 1 and error > LAST_TOLERANCE * self.tolerance:
                self._set_to_zero(reference * math.exp(LAST_TOLERANCE * self.tolerance))
        elif min(error, self.error) > LARGEST_LAG and self._has_bits(
            size if share <= self.ramp else self.target, SPARSE_BITS
        ):
            self._land(reference, is_last=False)
        self.error = error
        self.history.append((share, size, reference, float(self.penalties[0].rate)))

    def _has_bits(self, size: float, bits: float) -> bool:
        """Return whether a file has more bits for each penalized parameter."""
        return 8 * size > bits * sum(layer.size for layer in nested_layers(self.model) if layer.penalty)

    def _land(self, reference: float, is_last: bool) -> None:
        """Multiply the scales of all penalized parameters by the one factor with which the file has the size."""
        layers = [q for q in nested_layers(self.model) if q.penalty is not None and q.is_scale_learned]
        scales = [keras.ops.convert_to_numpy(layer.scale) for layer in layers]

        def size_at(move: float) -> int:
            for layer, scale in zip(layers, scales, strict=True):
                moved = np.maximum(math.exp(move) * scale, MIN_SCALE).astype(scale.dtype)
                layer.scale_weight.assign(layer.scale_weight_of(moved))
            return self.size.pack() if is_last else self.size.count()

        _reach(reference, size_at, -LARGEST_MOVE, LARGEST_MOVE, 0.0)

    def _set_to_zero(self, reference: float) -> None:
        """Set the elements of penalized parameters that are nearest to zero to it, until the file has the size.

        Which ones is decided by their magnitude in units of their scale. Where half of those other than zero would not
        be enough, all stay as they are.
        """
        pairs = [(p, q) for p, q in quantized_parameters(self.model) if q.penalty is not None and q.is_scale_learned]
        values = [keras.ops.convert_to_numpy(parameter) for parameter, _ in pairs]
        units, used = [], []
        for value, (parameter, quantizer) in zip(values, pairs, strict=True):
            integers, scale = (keras.ops.convert_to_numpy(x) for x in (quantizer.integers(parameter), quantizer.scale))
            units.append(np.abs(value) / scale)
            used.append(units[-1][integers != 0])
        nearest = np.sort(np.concatenate(used))

        def size_at(share: float) -> int:
            threshold = nearest[int(share * len(nearest))] if len(nearest) else 0.0
            for (parameter, _), value, unit in zip(pairs, values, units, strict=True):
                parameter.assign(np.where(unit < threshold, 0, value).astype(value.dtype))
            return self.size.pack()

        if _reach(reference, size_at, 0.0, LARGEST_ZERO, 0.0) > LAST_TOLERANCE * self.tolerance:
            for (parameter, _), value in zip(pairs, values, strict=True):
                parameter.assign(value)

    def _reference(self, share: float) -> float:
        if self.is_held:
            return self.target
        goal = self.target * math.exp(self.above * max(0.0, 1 - share / (1 - self.short)))
        return goal * (self.first_size / goal) ** (max(0.0, 1 - share / self.ramp) ** 2)


def _reach(reference: float, size_at: Callable[[float], int], low: float, high: float, first: float) -> float:
    """Call `size_at`, which falls with its argument, until it returns `reference`, or last where it came nearest.

    By the secant method, or by bisection where that leaves the interval. Returns the magnitude of the logarithm of the
    size there over the reference.
    """
    move, slope = first, -1.0
    tried: list[tuple[float, float, float]] = []
    while len(tried) < NUM_TRIALS:
        error = math.log(size_at(move) / reference)
        if tried and (change := error - tried[-1][2]) * (move - tried[-1][1]) < 0:
            slope = change / (move - tried[-1][1])
        tried.append((abs(error), move, error))
        if abs(error) < CLOSE:
            return abs(error)
        low, high = (move, high) if error > 0 else (low, move)
        secant = move - error / slope
        move = secant if low < secant < high else (low + high) / 2
    nearest, move, _ = min(tried)
    size_at(move)
    return nearest
