"""`TargetSize`: ask for the size of the file, not for the rate of a penalty."""

import math
import warnings
from typing import Any

import keras
import numpy as np

from lqs.file.sizes import CountedSize, file_bytes, fp32_bytes
from lqs.inspection import nested_layers, penalties
from lqs.scales import MIN_SCALE
from lqs.strengths import validate_strength

RATE_RANGE = 1e2
SCALES_FROM = 0.5  # share of the training from which on scales are moved, too
SPARSE_BITS = 0.4  # per penalized parameter, below which they are not
LANDINGS = (0.8, 0.85, 0.9, 0.95, 1.0)  # shares of the training at which scales are moved onto the reference
WIDEST, NUM_TRIALS = math.log(4.0), 8  # of a factor of the scales there, and how often one is tried


class TargetSize(keras.callbacks.Callback):
    """Steers the rate of the penalties during `fit`, so that the `.lqs` file gets the size that is asked for.

    The size is that of the file that `lqs.save` would write, counted from the integers and packed now and then; see
    `lqs.file.sizes.CountedSize`. With `t` the share of the training that is over, it follows the reference

        target * exp(bump * sin(pi * t)) * (size at first / target) ** (max(0, 1 - t / ramp) ** 2)

    which comes from above, since files shrink by themselves while the learning rate decays, and what has once become
    zero hardly comes back. With the error `e = log(size / reference)`, every update multiplies all rates by

        exp(integral * e + proportional * (e - e of the update before))

    a proportional-integral controller of the logarithm of the rate. It starts from the rates that the penalties have.
    For `lqs.CodeLengthPenalty` beside cross-entropy, `1e-6 * ratio**2.5` is near where our networks on MNIST end. The
    controller is tuned to sparse networks: notebook 15 has the errors, by what was asked for.

    A rate acts by way of the learning rate, and no longer when that has decayed. In the second half of the training the
    scales of all penalized parameters are therefore multiplied as well, by

        exp(scale_gain * ln(2) * max(b - 0.4, 0) * e)

    with `b` the bits of the file per penalized parameter: integers of a scale `f` times as large take `log2(f)` bits
    less each, as long as few of them are zero. In a sparser network the rate holds out longer, and a scale must not be
    moved: the many elements that lie just where they become zero would do so together.

    Rates stay where `fit` leaves them, so that another `fit` without the callback goes on changing the size. To hold
    it, give that one `TargetSize(bytes, ramp=0, bump=0)`.

    The logs of every epoch get `file_bytes`, and `val_loss_at_size`, or without validation `loss_at_size`: the loss, or
    infinity for an epoch that does not end within `tolerance` of the size. Few of the first ones do. The best epoch
    among the others is kept by callbacks that come after this one:

        EarlyStopping("val_loss_at_size", mode="min", patience=epochs, restore_best_weights=True)
        ModelCheckpoint(path, "val_loss_at_size", mode="min", save_best_only=True)

    Args:
        bytes: size of the file to end at.
        ratio: instead, how many times smaller it is to be than the float32 parameters of the float network.
        num_updates: number of updates over the whole training, evenly spaced.
        ramp: share of the training in which the reference falls.
        integral, proportional: gains of the controller.
        bump: logarithm of how much larger than the target the reference is halfway.
        scale_gain: share of the error that every update of the scales corrects; 0 leaves them to the optimizer.
        tolerance: relative error of the size at the end from which on a warning is given.

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
        ramp: float = 0.5,
        integral: float = 0.3,
        proportional: float = 1.0,
        bump: float = 0.21,
        scale_gain: float = 0.7,
        tolerance: float = 0.03,
    ) -> None:
        super().__init__()
        if (bytes is None) == (ratio is None):
            raise ValueError(f"Give one of `bytes` and `ratio`. Received: bytes={bytes!r}, ratio={ratio!r}")
        numbers = {"bytes": bytes, "ratio": ratio, "num_updates": num_updates, "tolerance": tolerance}
        for name, value in numbers.items():
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (is_number and 0 < value < math.inf):
                raise ValueError(f"Argument `{name}` must be a positive number. Received: {name}={value!r}")
        if isinstance(ramp, bool) or not isinstance(ramp, (int, float)) or not 0 <= ramp < 1:
            raise ValueError(f"Argument `ramp` must be a share, from 0 to less than 1. Received: ramp={ramp!r}")
        if isinstance(bump, bool) or not isinstance(bump, (int, float)) or not math.isfinite(bump):
            raise ValueError(f"Argument `bump` must be a finite number. Received: bump={bump!r}")
        gains = {"integral": integral, "proportional": proportional, "scale_gain": scale_gain}
        integral, proportional, scale_gain = (validate_strength(name, gain) for name, gain in gains.items())
        self.bytes, self.ratio, self.num_updates, self.ramp = bytes, ratio, num_updates, ramp
        self.integral, self.proportional = integral, proportional
        self.bump, self.scale_gain, self.tolerance = bump, scale_gain, tolerance

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self.penalties = penalties(self.model)
        if all(isinstance(p, __import__("lqs").CodeLengthPenalty) for p in self.penalties):
            ratio = fp32_bytes(self.model) / (self.bytes or fp32_bytes(self.model) / self.ratio)
            for p in self.penalties:
                p.rate.assign(1e-6 * ratio**2.5)
        rates = {float(penalty.rate) for penalty in self.penalties}
        if not rates or min(rates) <= 0:
            raise ValueError(
                "Callback `TargetSize` needs a model whose penalties have positive rates to start from. "
                f"Received: rates {sorted(rates)}"
            )
        self.target = self.bytes or fp32_bytes(self.model) / self.ratio
        self.size = CountedSize(self.model)
        fixed = self.size.fixed_bytes
        if self.target <= fixed:
            raise ValueError(
                f"The requested size must be more than the {fixed:,} bytes of what is not integers: header, scales and "
                f"parameters that are not quantized. Received: {self.target:,.0f} bytes"
            )
        self.lowest, self.highest = min(rates) / RATE_RANGE, max(rates) * RATE_RANGE
        self.first_size = self.epoch_size = self.size.packed
        self.error, self.next_update = 0.0, 1
        self.landings = list(LANDINGS)
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
            logs |= {"file_bytes": self.epoch_size, f"{loss}_at_size": at_size}

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self.last is None:
            self._check_size()

    def _check_size(self, logs: dict[str, Any] | None = None) -> None:
        """Warn if the size is not met by the weights that `fit` leaves."""
        if self.last is not None:
            del self.last.on_train_end
        size = file_bytes(self.model)
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
        factor = math.exp(self.integral * error + self.proportional * (error - self.error))
        for penalty in self.penalties:
            penalty.rate.assign(min(max(factor * float(penalty.rate), self.lowest), self.highest))
        if self.landings and share >= self.landings[0]:
            self.landings = [later for later in self.landings if later > share]
            if self.scale_gain:
                self._land(reference)
        elif share > SCALES_FROM and self.scale_gain:
            self._rescale(size, error)
        self.error = error
        self.history.append((share, size, reference, float(self.penalties[0].rate)))

    def _rescale(self, size: int, error: float) -> None:
        layers = [layer for layer in nested_layers(self.model) if layer.penalty is not None]
        bits = 8 * size / sum(layer.size for layer in layers)
        factor = math.exp(self.scale_gain * math.log(2) * max(bits - SPARSE_BITS, 0) * error)
        for layer in (layer for layer in layers if layer.is_scale_learned):
            scale = factor * keras.ops.convert_to_numpy(layer.scale)
            layer.scale_weight.assign(layer.scale_weight_of(np.maximum(scale, MIN_SCALE).astype("float32")))

    def _land(self, wanted):
        """Multiply all scales of penalized parameters by the factor with which the size is the one that is wanted."""
        layers = [q for q in nested_layers(self.model) if q.penalty is not None and q.is_scale_learned]
        scales = [keras.ops.convert_to_numpy(layer.scale) for layer in layers]

        def size_at(log_factor):
            for layer, scale in zip(layers, scales, strict=True):
                new = np.maximum(math.exp(log_factor) * scale, MIN_SCALE).astype("float32")
                layer.scale_weight.assign(layer.scale_weight_of(new))
            return self.size.pack()

        low, high = -WIDEST, WIDEST  # of which the first gives the larger file
        factor, best = 0.0, (math.inf, 0.0)
        guess = 0.0
        for _ in range(NUM_TRIALS):
            error = math.log(size_at(guess) / wanted)
            best = min(best, (abs(error), guess))
            if abs(error) < 0.002:
                break
            low, high = (guess, high) if error > 0 else (low, guess)
            step = guess + error  # as if the size went with the inverse of the scale
            guess = step if low < step < high else (low + high) / 2
        size_at(best[1])

    def _reference(self, share: float) -> float:
        left = max(0.0, 1 - share / self.ramp) ** 2 if self.ramp else 0.0
        above = math.exp(self.bump * math.sin(math.pi * share))
        return self.target * (self.first_size / self.target) ** left * above
