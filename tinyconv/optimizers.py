"""Optimisers: how gradients become steps. Configuration, and which kernel does the work.

Numerics are Keras': Adam's epsilon is the paper's epsilon-hat, and SGD's velocity includes the learning rate.
"""

import math
from typing import Any

from tinyconv import schedules
from tinyconv.messages import refuse, suggest
from tinyconv.schedules import LearningRateSchedule
from tinyconv.state import State


class Optimizer:
    """Base class.

    ``learning_rate`` is a number, or a :class:`~tinyconv.schedules.LearningRateSchedule` that gives one for each step.
    It may be set at any time, also while training (callbacks do). ``iterations`` counts the steps taken.
    """

    slots: tuple[str, ...] = ()  # the moments: flat arrays as long as the parameters
    name: str

    def __init__(self, learning_rate: float | LearningRateSchedule) -> None:
        self.learning_rate = learning_rate  # type: ignore[assignment]
        self.iterations = 0

    @property
    def learning_rate(self) -> float | LearningRateSchedule:
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float | LearningRateSchedule) -> None:
        if not isinstance(value, LearningRateSchedule):
            value = _number(self, "learning_rate", value, at_least=0.0)
        self._learning_rate = value

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step ``step``, counted from 0."""
        rate = self._learning_rate
        return rate(step) if isinstance(rate, LearningRateSchedule) else float(rate)

    def steps(self, state: State) -> list[tuple[str, dict[str, Any]]]:
        """The kernels that update all parameters of ``state``, with their arguments."""
        raise TypeError(f"{type(self).__name__} does not say how to update: override steps(state).")

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an optimiser like this one."""
        rate = self._learning_rate
        return {"learning_rate": rate if isinstance(rate, LearningRateSchedule) else float(rate)}


class Adam(Optimizer):
    """Adam: each parameter's step is its mean gradient over its mean gradient size (Kingma and Ba, 2015).

    Args:
        learning_rate: the largest step, roughly, that a parameter takes.
        beta_1: how much of the mean gradient is kept at each step.
        beta_2: how much of the mean squared gradient is kept.
        epsilon: added to the gradient size (the paper's epsilon-hat).
        weight_decay: shrink every parameter by learning_rate * weight_decay first; None: not at all.
    """

    slots, name = ("momentum", "velocity"), "adam"

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        **unsupported: Any,
    ) -> None:
        _refuse(self, unsupported, amsgrad=(False,))
        super().__init__(learning_rate)
        self.beta_1 = _number(self, "beta_1", beta_1, at_least=0.0, below=1.0)
        self.beta_2 = _number(self, "beta_2", beta_2, at_least=0.0, below=1.0)
        self.epsilon = _number(self, "epsilon", epsilon, at_least=0.0)
        self.weight_decay = None if weight_decay is None else _number(self, "weight_decay", weight_decay, at_least=0.0)

    def steps(self, state: State) -> list[tuple[str, dict[str, Any]]]:
        arguments = {
            "params": state.params.flat,
            "m": state.slots["momentum"],
            "v": state.slots["velocity"],
            "grads": state.grads.flat,
            "counters": state.counters,
            "learning_rate": state.learning_rate,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "weight_decay": self.weight_decay or 0.0,
        }
        return [("adam_update", arguments)]

    def get_config(self) -> dict[str, Any]:
        names = ("beta_1", "beta_2", "epsilon", "weight_decay")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class AdamW(Adam):
    """Adam with weight decay (Loshchilov and Hutter, 2019)."""

    name = "adamw"

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        **unsupported: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, weight_decay, **unsupported)


class SGD(Optimizer):
    """Gradient descent, with momentum and Nesterov's variant of it (Sutskever et al., 2013).

    Args:
        learning_rate: the step is this times the gradient.
        momentum: how much of the last step is repeated.
        nesterov: look ahead along the momentum before stepping.
    """

    slots, name = ("momentum",), "sgd"

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **unsupported: Any,
    ) -> None:
        _refuse(self, unsupported, weight_decay=(None,))
        super().__init__(learning_rate)
        self.momentum = _number(self, "momentum", momentum, at_least=0.0, at_most=1.0)
        self.nesterov = bool(nesterov)

    def steps(self, state: State) -> list[tuple[str, dict[str, Any]]]:
        arguments = {
            "params": state.params.flat,
            "velocity": state.slots["momentum"],
            "grads": state.grads.flat,
            "learning_rate": state.learning_rate,
            "momentum": self.momentum,
            "nesterov": self.nesterov,
        }
        return [("sgd_update", arguments)]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}


# What Keras' further arguments must be for tinyconv to do the same as Keras.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "clipnorm": (None,),
    "clipvalue": (None,),
    "global_clipnorm": (None,),
    "loss_scale_factor": (None,),
    "gradient_accumulation_steps": (None,),
    "use_ema": (False,),
    "ema_momentum": (0.99,),
    "ema_overwrite_frequency": (None,),
}


def _refuse(owner: object, unsupported: dict[str, Any], **neutral: tuple[Any, ...]) -> None:
    """Refuse what only Keras has; a name changes nothing."""
    named = {argument: value for argument, value in unsupported.items() if argument != "name"}
    refuse(type(owner).__name__, named, {**NEUTRAL, **neutral})


def _number(
    owner: object,
    name: str,
    value: Any,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
) -> float:
    """Check a number, and give it as a float."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not at_least <= number <= at_most or (number >= below) or math.isinf(number):
        limit = f"less than {below:g}" if below < math.inf else f"at most {at_most:g}" if at_most < math.inf else ""
        expected = f"a number of at least {at_least:g}" + (f" and {limit}" if limit else "")
        raise ValueError(f"Invalid {name} of {type(owner).__name__}. Expected {expected}. Received: {value!r}.")
    return number


NAMES: dict[str, type[Adam] | type[SGD]] = {"adam": Adam, "adamw": AdamW, "sgd": SGD}


def get(identifier: "str | Optimizer") -> Optimizer:
    """The optimiser of that name, or the given one."""
    if isinstance(identifier, Optimizer):
        return identifier
    if isinstance(identifier, str) and identifier.lower() in NAMES:
        return NAMES[identifier.lower()]()
    raise ValueError(f"Unknown optimizer: {identifier!r}. {suggest(identifier, NAMES)}")


__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "get", "schedules"]
