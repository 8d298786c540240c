"""Optimisers: how gradients become steps. Configuration, and which kernel does the work.

Numerics are Keras': Adam's epsilon is the paper's epsilon-hat, RMSprop's stands under the root, and SGD's velocity
includes the learning rate.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from tinyconv.checking import boolean, number, unknown
from tinyconv.checking.absent import getter
from tinyconv.checking.lookup import look_up, saved
from tinyconv.checking.messages import refuse
from tinyconv.optimizers import schedules
from tinyconv.optimizers.base import NEUTRAL, Optimizer, Step, passed_on
from tinyconv.optimizers.schedules import LearningRateSchedule
from tinyconv.plan.state import State


class Adam(Optimizer):
    """Adam: each parameter's step is its mean gradient divided by its mean gradient size (Kingma and Ba, 2015).

    Args:
        learning_rate: the largest step, roughly, that a parameter takes.
        beta_1: how much of the mean gradient is kept at each step.
        beta_2: how much of the mean squared gradient is kept.
        epsilon: added to the gradient size (the paper's epsilon-hat).
        weight_decay, clipnorm, clipvalue, global_clipnorm: see :class:`Optimizer`.
    """

    kind = "adam"

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: None = None,
        loss_scale_factor: None = None,
        gradient_accumulation_steps: None = None,
        name: str | None = None,
        **unsupported: Any,
    ) -> None:
        super().__init__(**passed_on(super().__init__, locals()))
        refuse(type(self).__name__, {"amsgrad": amsgrad}, NEUTRAL)
        self.beta_1 = number(type(self).__name__, "beta_1", beta_1, at_least=0, below=1)
        self.beta_2 = number(type(self).__name__, "beta_2", beta_2, at_least=0, below=1)
        self.epsilon = number(type(self).__name__, "epsilon", epsilon, at_least=0)

    @property
    def slots(self) -> tuple[str, ...]:
        return "momentum", "velocity"

    def update(self, state: State) -> Step:
        arguments = {
            "m": state.slots["momentum"],
            "v": state.slots["velocity"],
            "counters": state.counters,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }
        return "adam_update", {**self._shared(state), **arguments}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


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
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
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
        super().__init__(**passed_on(super().__init__, locals()))


class RMSprop(Optimizer):
    """RMSprop: each parameter's gradient is divided by the root of its mean square (Tieleman and Hinton, 2012).

    Args:
        learning_rate: the step of a gradient of usual size.
        rho: how much of the mean square is kept at each step.
        momentum: how much of the last step is repeated.
        epsilon: added to the mean square.
        centered: divide by the standard deviation of the gradient instead, that is, take its mean away first.
        weight_decay, clipnorm, clipvalue, global_clipnorm: see :class:`Optimizer`.
    """

    kind = "rmsprop"
    saves_by_slot = True

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: None = None,
        loss_scale_factor: None = None,
        gradient_accumulation_steps: None = None,
        name: str | None = None,
        **unsupported: Any,
    ) -> None:
        super().__init__(**passed_on(super().__init__, locals()))
        self.rho = number(type(self).__name__, "rho", rho, at_least=0, at_most=1)
        self.momentum = number(type(self).__name__, "momentum", momentum, at_least=0, at_most=1)
        self.epsilon = number(type(self).__name__, "epsilon", epsilon, at_least=0)
        self.centered = boolean(type(self).__name__, "centered", centered)

    @property
    def slots(self) -> tuple[str, ...]:
        moving = ("momentum",) if self.momentum else ()
        return "velocity", *moving, *(("average_gradient",) if self.centered else ())

    def update(self, state: State) -> Step:
        arguments = {
            "mean_squares": state.slots["velocity"],
            "velocity": state.slot("momentum"),
            "means": state.slot("average_gradient"),
            "rho": self.rho,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
        }
        return "rmsprop_update", {**self._shared(state), **arguments}

    def get_config(self) -> dict[str, Any]:
        own = {"rho": self.rho, "momentum": self.momentum, "epsilon": self.epsilon, "centered": self.centered}
        return {**super().get_config(), **own}


class SGD(Optimizer):
    """Gradient descent, with momentum and Nesterov's variant of it (Sutskever et al., 2013).

    Args:
        learning_rate: the step is this times the gradient.
        momentum: how much of the last step is repeated.
        nesterov: look ahead along the momentum before stepping.
        weight_decay, clipnorm, clipvalue, global_clipnorm: see :class:`Optimizer`.
    """

    kind = "sgd"

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: None = None,
        loss_scale_factor: None = None,
        gradient_accumulation_steps: None = None,
        name: str | None = None,
        **unsupported: Any,
    ) -> None:
        super().__init__(**passed_on(super().__init__, locals()))
        self.momentum = number(type(self).__name__, "momentum", momentum, at_least=0, at_most=1)
        self.nesterov = boolean("SGD", "nesterov", nesterov)

    @property
    def slots(self) -> tuple[str, ...]:
        return ("momentum",) if self.momentum else ()

    def update(self, state: State) -> Step:
        arguments = {"velocity": state.slot("momentum"), "momentum": self.momentum, "nesterov": self.nesterov}
        return "sgd_update", {**self._shared(state), **arguments}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "momentum": self.momentum, "nesterov": self.nesterov}


NAMES: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "sgd": SGD}


OptimizerName = Literal["adam", "adamw", "rmsprop", "sgd", "Adam", "AdamW", "RMSprop", "SGD"]
OptimizerLike = OptimizerName | Optimizer | dict[str, Any]


def get(identifier: OptimizerLike | str) -> Optimizer:
    """The optimiser of that name, or the given one."""
    if isinstance(identifier, type):
        raise unknown("", "optimizer", identifier, NAMES)
    name = identifier.lower() if isinstance(identifier, str) and identifier.lower() in NAMES else identifier
    return look_up("optimizer", name, Optimizer, NAMES)  # type: ignore[type-abstract]


def serialize(optimizer: Optimizer) -> dict[str, Any]:
    """An optimiser as a dictionary, in Keras' notation, without its state."""
    return saved(look_up("optimizer", optimizer, Optimizer, {}))  # type: ignore[type-abstract]


def deserialize(config: Mapping[str, Any], custom_objects: None = None) -> Optimizer:
    """The optimiser that :func:`serialize` made a dictionary of."""
    refuse("deserialize()", {"custom_objects": custom_objects}, {"custom_objects": (None,)})
    return look_up("config", config, Optimizer, NAMES)  # type: ignore[type-abstract]


__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "deserialize", "get", "schedules", "serialize"]

if not TYPE_CHECKING:
    __getattr__ = getter("optimizers", __all__)
