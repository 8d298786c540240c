"""Learning-rate schedules: a learning rate for every step, as in ``keras.optimizers.schedules``."""

import math
from collections.abc import Sequence
from typing import Any


class LearningRateSchedule:
    """Base class: called with a step (from 0), returns the learning rate of that step."""

    def __call__(self, step: int) -> float:
        raise TypeError(f"{type(self).__name__} does not say its learning rates: override __call__(step).")

    def get_config(self) -> dict[str, Any]:
        """The arguments that make a schedule like this one."""
        return dict(vars(self))


class ExponentialDecay(LearningRateSchedule):
    """initial_learning_rate * decay_rate ** (step / decay_steps); in whole powers only if ``staircase``."""

    def __init__(
        self, initial_learning_rate: float, decay_steps: int, decay_rate: float, staircase: bool = False
    ) -> None:
        _positive("decay_steps", decay_steps)
        self.initial_learning_rate, self.decay_steps = initial_learning_rate, decay_steps
        self.decay_rate, self.staircase = decay_rate, staircase

    def __call__(self, step: int) -> float:
        power = step // self.decay_steps if self.staircase else step / self.decay_steps
        return self.initial_learning_rate * self.decay_rate**power


class PiecewiseConstantDecay(LearningRateSchedule):
    """values[0] up to and including step boundaries[0], then values[1] up to boundaries[1], and so on."""

    def __init__(self, boundaries: Sequence[int], values: Sequence[float]) -> None:
        if len(values) != len(boundaries) + 1 or list(boundaries) != sorted(boundaries):
            raise ValueError(
                "Invalid schedule. Expected rising boundaries and one value more than boundaries. "
                f"Received: {len(boundaries)} boundaries {list(boundaries)} and {len(values)} values."
            )
        self.boundaries, self.values = list(boundaries), list(values)

    def __call__(self, step: int) -> float:
        return float(self.values[sum(step > boundary for boundary in self.boundaries)])


class CosineDecay(LearningRateSchedule):
    r"""Half a cosine wave from the initial learning rate down to ``alpha`` times it (Loshchilov and Hutter, 2017).

    With ``warmup_steps`` and ``warmup_target`` the rate first rises on a line to warmup_target and decays from there.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        alpha: float = 0.0,
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ) -> None:
        _positive("decay_steps", decay_steps)
        self.initial_learning_rate, self.decay_steps, self.alpha = initial_learning_rate, decay_steps, alpha
        self.warmup_target, self.warmup_steps = warmup_target, warmup_steps

    def __call__(self, step: int) -> float:
        top = self.initial_learning_rate
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                return top + (self.warmup_target - top) * step / self.warmup_steps
            top, step = self.warmup_target, step - self.warmup_steps
        share = min(step, self.decay_steps) / self.decay_steps
        return top * ((1 - self.alpha) * 0.5 * (1 + math.cos(math.pi * share)) + self.alpha)


class OneCycle(LearningRateSchedule):
    """Up to ``max_learning_rate`` and down again, once, each on half a cosine wave (Smith and Topin, 2018).

    Starts at max / ``div_factor``, peaks after ``warmup_share`` of ``total_steps``, ends at start /
    ``final_div_factor``.
    Keras has no such schedule; names and defaults are those of the original's descendants (fastai, PyTorch).
    """

    def __init__(
        self,
        max_learning_rate: float,
        total_steps: int,
        warmup_share: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        _positive("total_steps", total_steps)
        self.max_learning_rate, self.total_steps, self.warmup_share = max_learning_rate, total_steps, warmup_share
        self.div_factor, self.final_div_factor = div_factor, final_div_factor

    def __call__(self, step: int) -> float:
        start = self.max_learning_rate / self.div_factor
        peak = self.warmup_share * self.total_steps
        if step < peak:
            low, share = start, 1 - step / peak
        else:
            low = start / self.final_div_factor
            share = min((step - peak) / max(self.total_steps - peak, 1e-9), 1.0)
        return low + (self.max_learning_rate - low) * 0.5 * (1 + math.cos(math.pi * share))


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"Invalid {name}. Expected a positive number. Received: {value!r}.")
