"""Learning-rate schedules: a learning rate for every step, as in ``keras.optimizers.schedules``."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tinyconv.checking import boolean, integer, number, optional_name, several
from tinyconv.checking.absent import getter
from tinyconv.checking.configuration import Configured
from tinyconv.checking.lookup import look_up, saved
from tinyconv.checking.messages import received, refuse


class LearningRateSchedule(Configured):
    """Base class: called with a step (from 0), returns the learning rate of that step."""

    keras_module = "keras.optimizers.schedules"

    def __call__(self, step: int) -> float:
        raise TypeError(f"{type(self).__name__} does not say its learning rates: override __call__(step).")

    def get_config(self) -> dict[str, Any]:
        """The arguments that make a schedule like this one."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


class _Decay(LearningRateSchedule):
    """What the decays by a rate share: their arguments."""

    def __init__(
        self, initial_learning_rate: float, decay_steps: int, decay_rate: float, staircase: bool, name: str | None
    ) -> None:
        who = type(self).__name__
        self.initial_learning_rate = number(who, "initial_learning_rate", initial_learning_rate, at_least=0.0)
        self.decay_steps = number(who, "decay_steps", decay_steps, above=0.0)
        self.decay_rate = number(who, "decay_rate", decay_rate, at_least=0.0)
        self.staircase = boolean(who, "staircase", staircase)
        self.name = optional_name(who, name)

    def periods(self, step: int) -> float:
        """How many times decay_steps have passed; in whole numbers if ``staircase``."""
        return step // self.decay_steps if self.staircase else step / self.decay_steps


class ExponentialDecay(_Decay):
    """initial_learning_rate * decay_rate ** (step / decay_steps); in whole powers only if ``staircase``."""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
        name: str = "ExponentialDecay",
    ) -> None:
        super().__init__(initial_learning_rate, decay_steps, decay_rate, staircase, name)

    def __call__(self, step: int) -> float:
        return self.initial_learning_rate * self.decay_rate ** self.periods(step)


class InverseTimeDecay(_Decay):
    """initial_learning_rate / (1 + decay_rate * step / decay_steps); in whole steps of decay_steps if ``staircase``."""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        decay_rate: float,
        staircase: bool = False,
        name: str = "InverseTimeDecay",
    ) -> None:
        super().__init__(initial_learning_rate, decay_steps, decay_rate, staircase, name)

    def __call__(self, step: int) -> float:
        return self.initial_learning_rate / (1 + self.decay_rate * self.periods(step))


class PolynomialDecay(LearningRateSchedule):
    """From the initial learning rate to the end's, along (1 - step / decay_steps) ** power; with ``cycle`` decay_steps
    is stretched to the next multiple of it, again and again, instead of staying at the end."""

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        end_learning_rate: float = 0.0001,
        power: float = 1.0,
        cycle: bool = False,
        name: str = "PolynomialDecay",
    ) -> None:
        who = type(self).__name__
        self.initial_learning_rate = number(who, "initial_learning_rate", initial_learning_rate, at_least=0.0)
        self.decay_steps = number(who, "decay_steps", decay_steps, above=0.0)
        self.end_learning_rate = number(who, "end_learning_rate", end_learning_rate, at_least=0.0)
        self.power = number(who, "power", power, at_least=0.0)
        self.cycle = boolean(who, "cycle", cycle)
        self.name = optional_name(who, name)

    def __call__(self, step: int) -> float:
        end = self.decay_steps * (max(math.ceil(step / self.decay_steps), 1) if self.cycle else 1)
        share = min(step / end, 1.0)
        return (self.initial_learning_rate - self.end_learning_rate) * (
            1 - share
        ) ** self.power + self.end_learning_rate


class PiecewiseConstantDecay(LearningRateSchedule):
    """values[0] up to and including step boundaries[0], then values[1] up to boundaries[1], and so on."""

    def __init__(self, boundaries: Sequence[float], values: Sequence[float], name: str = "PiecewiseConstant") -> None:
        who = type(self).__name__
        self.boundaries = several(who, "boundaries", boundaries, number)
        self.values = several(who, "values", values, number, at_least=0.0)
        if len(self.values) != len(self.boundaries) + 1 or self.boundaries != sorted(self.boundaries):
            raise ValueError(
                f"Invalid boundaries of {who}. Expected rising boundaries and one value more than boundaries. "
                f"Received: {len(self.boundaries)} boundaries {received(boundaries)} and {len(self.values)} values."
            )
        self.name = optional_name(who, name)

    def __call__(self, step: int) -> float:
        return self.values[sum(step > boundary for boundary in self.boundaries)]


class CosineDecay(LearningRateSchedule):
    r"""Half a cosine wave from the initial learning rate down to ``alpha`` times it (Loshchilov and Hutter, 2017).

    With ``warmup_steps`` and ``warmup_target`` the rate first rises on a line to warmup_target and decays from there.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        alpha: float = 0.0,
        name: str = "CosineDecay",
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ) -> None:
        who = type(self).__name__
        self.initial_learning_rate = number(who, "initial_learning_rate", initial_learning_rate, at_least=0.0)
        self.decay_steps = number(who, "decay_steps", decay_steps, above=0.0)
        self.alpha = number(who, "alpha", alpha, at_least=0.0)
        self.name = optional_name(who, name)
        self.warmup_target = (
            None if warmup_target is None else number(who, "warmup_target", warmup_target, at_least=0.0)
        )
        self.warmup_steps = integer(who, "warmup_steps", warmup_steps, at_least=0, at_most=2**63)

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

    keras_module = "tinyconv.schedules"

    def __init__(
        self,
        max_learning_rate: float,
        total_steps: int,
        warmup_share: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        who = type(self).__name__
        self.max_learning_rate = number(who, "max_learning_rate", max_learning_rate, at_least=0.0)
        self.total_steps = integer(who, "total_steps", total_steps, at_most=2**63)
        self.warmup_share = number(who, "warmup_share", warmup_share, at_least=0.0, at_most=1.0)
        self.div_factor = number(who, "div_factor", div_factor, above=0.0)
        self.final_div_factor = number(who, "final_div_factor", final_div_factor, above=0.0)

    def __call__(self, step: int) -> float:
        start = self.max_learning_rate / self.div_factor
        peak = self.warmup_share * self.total_steps
        if step < peak:
            low, share = start, 1 - step / peak
        else:
            low = start / self.final_div_factor
            share = min((step - peak) / max(self.total_steps - peak, 1e-9), 1.0)
        return low + (self.max_learning_rate - low) * 0.5 * (1 + math.cos(math.pi * share))


def checked_rate(schedule: LearningRateSchedule, step: int) -> float:
    """What a schedule says for a step, checked: a finite number of at least 0."""
    where = f"{type(schedule).__name__} at step {step}"
    try:
        rate = schedule(step)
    except OverflowError:
        rate = math.inf
    return number(where, "learning rate", rate, at_least=0.0)


NAMES: dict[str, type[LearningRateSchedule]] = {
    kind.__name__: kind
    for kind in (CosineDecay, ExponentialDecay, InverseTimeDecay, OneCycle, PiecewiseConstantDecay, PolynomialDecay)
}


def serialize(learning_rate_schedule: LearningRateSchedule) -> dict[str, Any]:
    """A schedule as a dictionary, in Keras' notation."""
    return saved(look_up("learning_rate_schedule", learning_rate_schedule, LearningRateSchedule, {}))


def deserialize(config: Mapping[str, Any], custom_objects: None = None) -> LearningRateSchedule:
    """The schedule that :func:`serialize` made a dictionary of."""
    refuse("deserialize()", {"custom_objects": custom_objects}, {"custom_objects": (None,)})
    return look_up("config", config, LearningRateSchedule, NAMES)


__all__ = [*NAMES, "LearningRateSchedule", "deserialize", "serialize"]

if not TYPE_CHECKING:
    __getattr__ = getter("optimizers.schedules", __all__)
