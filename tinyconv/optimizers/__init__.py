"""Optimisers: how gradients become steps. Configuration, and which kernel does the work.

Numerics are Keras': Adam's epsilon is the paper's epsilon-hat, and SGD's velocity includes the learning rate.
"""

import copy
import weakref
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np

from tinyconv import checking
from tinyconv.checking.configuration import Configured
from tinyconv.checking.lookup import look_up
from tinyconv.checking.messages import refuse
from tinyconv.optimizers import schedules
from tinyconv.optimizers.schedules import LearningRateSchedule, checked_rate
from tinyconv.plan.state import State

MOST_STEPS = 2**62  # a counter of the kernels is an int64


class Optimizer(Configured):
    """Base class.

    ``learning_rate`` is a number, or a schedule (:mod:`tinyconv.optimizers.schedules`) that gives one for each step.
    It may be set at any time, also while training (callbacks do). ``iterations`` counts the steps taken.

    Besides its configuration an optimiser has a state: ``iterations``, and the moments of every parameter. Both are
    kept here, together, from its first step on, and belong to the weights of one model. To compile that model again
    with the same object goes on as if nothing had happened; to train another one with it is an error, as in Keras.

    Args:
        learning_rate: a number of at least 0, or a schedule.
        name: by default the class's, as in Keras.
    """

    slots: tuple[str, ...] = ()  # the moments: flat arrays as long as the parameters
    kind = "optimizer"  # the class's name as a string

    def __init__(self, learning_rate: float | LearningRateSchedule, name: str | None = None, **keras: Any) -> None:
        refuse(type(self).__name__, keras, NEUTRAL)
        self._learning_rate = self._checked_rate(learning_rate)
        self._name = checking.optional_name(type(self).__name__, name) or self.kind
        self._iterations = 0
        self._moments: dict[str, dict[str, np.ndarray]] = {slot: {} for slot in self.slots}  # by "layer/weight"
        self._known: dict[str, Any] | None = None  # what each weight belongs to, since the first step
        self._model: weakref.ref[Keeper] | None = None  # whose trainer may hold newer moments than these

    def _why_frozen(self) -> str | None:
        return "a model has been trained with it" if self.built else None

    @property
    def name(self) -> str:
        return self._name

    @property
    def learning_rate(self) -> Any:  # a float to read; a float or a schedule to set
        """The learning rate of the next step; to be set to a number or to a schedule."""
        return self.learning_rate_at(self._iterations)

    @learning_rate.setter
    def learning_rate(self, value: float | LearningRateSchedule) -> None:
        self._learning_rate = self._checked_rate(value)

    def _checked_rate(self, value: Any) -> float | LearningRateSchedule:
        return (
            value
            if isinstance(value, LearningRateSchedule)
            else checking.number(type(self).__name__, "learning_rate", value, at_least=0)
        )

    @property
    def schedule(self) -> LearningRateSchedule | None:
        """The schedule that gives the learning rate, if there is one."""
        return self._learning_rate if isinstance(self._learning_rate, LearningRateSchedule) else None

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step ``step``, counted from 0."""
        rate = self._learning_rate
        return checked_rate(rate, step) if isinstance(rate, LearningRateSchedule) else float(rate)

    @property
    def iterations(self) -> int:
        """The number of steps taken."""
        return self._iterations

    @iterations.setter
    def iterations(self, value: int) -> None:
        self._iterations = checking.integer(type(self).__name__, "iterations", value, at_least=0, at_most=MOST_STEPS)

    # The state

    @property
    def built(self) -> bool:
        """Whether the optimiser has a state, and so belongs to a model."""
        return self._known is not None

    def belong(self, model: "Keeper", identities: Mapping[str, Any], frozen: Mapping[str, Any]) -> None:
        """Become the optimiser of that model, or a ValueError: ``identities`` say what each of its trainable weights
        is, by "layer/weight", and ``frozen`` the same of those that are not trained now."""
        if self._known is None:
            self._known = dict(identities)
        strangers = [name for name, identity in identities.items() if self._known.get(name) is not identity]
        if strangers:
            raise ValueError(
                f"Unknown weight: {strangers[0]!r}. This {type(self).__name__} was built for other weights: an "
                "optimizer belongs to one model, and to the weights that this model had when it was first trained. "
                f"Fix: compile with a new optimizer, {type(self).__name__}(...)."
            )
        mine = {**frozen, **identities}
        self._known = {name: each for name, each in self._known.items() if mine.get(name) is each}
        for moments in self._moments.values():
            for name in moments.keys() - self._known.keys():
                del moments[name]
        self._model = weakref.ref(model)

    def knows(self, weight: str) -> bool:
        """Whether a weight, "layer/weight", is one of those that the optimiser has a state for."""
        return self._known is not None and weight in self._known

    def moments(self) -> dict[str, dict[str, np.ndarray]]:
        """Copies of the moments, by slot ("momentum", "velocity") and by "layer/weight"; none before the first step."""
        self._fetch()
        return {slot: {name: array.copy() for name, array in each.items()} for slot, each in self._moments.items()}

    def _fetch(self) -> None:
        """Take over what the trainer has."""
        model = self._model() if self._model is not None else None
        if model is not None:
            model._hand_over_moments()

    def keep(self, moments: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Take these arrays as the moments of their weights."""
        for slot, each in moments.items():
            self._moments[slot] |= each

    def rename(self, names: Mapping[str, str]) -> None:
        """The weights have been renamed: old names, and new ones."""
        if self._known is not None:
            self._known = {names.get(name, name): each for name, each in self._known.items()}
        for slot, moments in self._moments.items():
            self._moments[slot] = {names.get(name, name): array for name, array in moments.items()}

    def __getstate__(self) -> dict[str, Any]:
        self._fetch()
        return {**self.__dict__, "_model": None}

    def __copy__(self) -> "Optimizer":
        return copy.deepcopy(self)  # two optimisers cannot share moments

    def steps(self, state: State) -> list[tuple[str, dict[str, Any]]]:
        """The kernels that update all parameters of ``state``, with their arguments."""
        raise TypeError(f"{type(self).__name__} does not say how to update: override steps(state).")

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an optimiser like this one."""
        return {"name": self.name, "learning_rate": self._learning_rate}

    def __repr__(self) -> str:
        rate = f"{self.schedule!r}" if self.schedule is not None else f"{self._learning_rate:g}"
        return f"<{type(self).__name__} learning_rate={rate}, iterations={self._iterations}>"


class Keeper(Protocol):
    """What an optimiser needs of the model that it trains."""

    def _hand_over_moments(self) -> None: ...


class Adam(Optimizer):
    """Adam: each parameter's step is its mean gradient divided by its mean gradient size (Kingma and Ba, 2015).

    Args:
        learning_rate: the largest step, roughly, that a parameter takes.
        beta_1: how much of the mean gradient is kept at each step.
        beta_2: how much of the mean squared gradient is kept.
        epsilon: added to the gradient size (the paper's epsilon-hat).
        weight_decay: shrink every parameter by learning_rate * weight_decay first; None: not at all.
    """

    slots, kind = ("momentum", "velocity"), "adam"

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        weight_decay: float | None = None,
        clipnorm: None = None,
        clipvalue: None = None,
        global_clipnorm: None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: None = None,
        loss_scale_factor: None = None,
        gradient_accumulation_steps: None = None,
        name: str | None = None,
        **unsupported: Any,
    ) -> None:
        super().__init__(
            learning_rate,
            name,
            amsgrad=amsgrad,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            **unsupported,
        )
        self.beta_1 = checking.number(type(self).__name__, "beta_1", beta_1, at_least=0, below=1)
        self.beta_2 = checking.number(type(self).__name__, "beta_2", beta_2, at_least=0, below=1)
        self.epsilon = checking.number(type(self).__name__, "epsilon", epsilon, at_least=0)
        if weight_decay is not None:
            weight_decay = checking.number(type(self).__name__, "weight_decay", weight_decay, at_least=0)
        self.weight_decay = weight_decay

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

    kind = "adamw"

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        clipnorm: None = None,
        clipvalue: None = None,
        global_clipnorm: None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: None = None,
        loss_scale_factor: None = None,
        gradient_accumulation_steps: None = None,
        name: str | None = None,
        **unsupported: Any,
    ) -> None:
        if weight_decay is None:
            raise ValueError(
                "Invalid weight_decay of AdamW. Expected a number of at least 0. Received: None. Fix: Adam."
            )
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            amsgrad,
            weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            **unsupported,
        )


class SGD(Optimizer):
    """Gradient descent, with momentum and Nesterov's variant of it (Sutskever et al., 2013).

    Args:
        learning_rate: the step is this times the gradient.
        momentum: how much of the last step is repeated.
        nesterov: look ahead along the momentum before stepping.
    """

    slots, kind = ("momentum",), "sgd"

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: None = None,
        clipnorm: None = None,
        clipvalue: None = None,
        global_clipnorm: None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: None = None,
        loss_scale_factor: None = None,
        gradient_accumulation_steps: None = None,
        name: str | None = None,
        **unsupported: Any,
    ) -> None:
        super().__init__(
            learning_rate,
            name,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            **unsupported,
        )
        self.momentum = checking.number(type(self).__name__, "momentum", momentum, at_least=0, at_most=1)
        self.nesterov = checking.boolean("SGD", "nesterov", nesterov)

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
    "amsgrad": (False,),
    "weight_decay": (None,),
    "clipnorm": (None,),
    "clipvalue": (None,),
    "global_clipnorm": (None,),
    "loss_scale_factor": (None,),
    "gradient_accumulation_steps": (None,),
    "use_ema": (False,),
    "ema_momentum": (0.99,),
    "ema_overwrite_frequency": (None,),
}


NAMES: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": SGD}


OptimizerName = Literal["adam", "adamw", "sgd", "Adam", "AdamW", "SGD"]
OptimizerLike = OptimizerName | Optimizer | dict[str, Any]


def get(identifier: OptimizerLike | str) -> Optimizer:
    """The optimiser of that name, or the given one."""
    if isinstance(identifier, type):
        raise checking.unknown("", "optimizer", identifier, NAMES)
    name = identifier.lower() if isinstance(identifier, str) and identifier.lower() in NAMES else identifier
    return look_up("optimizer", name, Optimizer, NAMES)  # type: ignore[type-abstract]


__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "get", "schedules"]
