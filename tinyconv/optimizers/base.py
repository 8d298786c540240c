"""What all optimisers have: a learning rate, clipping, weight decay, and a state that belongs to one model."""

import copy
import inspect
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import numpy as np

from tinyconv import checking
from tinyconv.checking import integer, number
from tinyconv.checking.configuration import Configured
from tinyconv.checking.messages import refuse
from tinyconv.optimizers import schedules
from tinyconv.optimizers.schedules import LearningRateSchedule, checked_rate
from tinyconv.plan.state import State

MOST_STEPS = 2**62  # a counter of the kernels is an int64
CLIPS = ("clipnorm", "clipvalue", "global_clipnorm")
Step = tuple[str, dict[str, Any]]  # a kernel's name, and its arguments

# What Keras' further arguments must be for tinyconv to do the same as Keras.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "amsgrad": (False,),
    "use_ema": (False,),
    "ema_momentum": (0.99,),
    "ema_overwrite_frequency": (None,),
    "loss_scale_factor": (None,),
    "gradient_accumulation_steps": (None,),
}


class _Read:
    """A number that answers as Keras' variables do: ``learning_rate.numpy()``, ``learning_rate.assign(0.1)``."""

    def __new__(cls, value: Any, set_to: Callable[[Any], None]) -> Any:
        read = super().__new__(cls, value)  # type: ignore[call-arg]
        read._set_to = set_to  # type: ignore[attr-defined]
        return read

    def numpy(self) -> Any:
        """The number as NumPy has it."""
        return np.int64(self) if isinstance(self, int) else np.float32(self)  # type: ignore[arg-type]

    value = property(numpy, doc="The same.")

    def assign(self, value: Any) -> None:
        """Set the optimiser's, as an assignment to its attribute does."""
        self._set_to(value)  # type: ignore[attr-defined]

    def __reduce__(self) -> tuple[Any, ...]:  # a copy is a plain number
        return (int, (int(self),)) if isinstance(self, int) else (float, (float(self),))  # type: ignore[arg-type]

    def __deepcopy__(self, memo: Any) -> Any:
        return self.__reduce__()[1][0]


class Rate(_Read, float):
    """A learning rate, as it is read."""


class Count(_Read, int):
    """A number of steps, as it is read."""


class Optimizer(Configured):
    """Base class.

    ``learning_rate`` is a number, or a schedule (:mod:`tinyconv.optimizers.schedules`) that gives one for each step.
    It may be set at any time, also while training (callbacks do); but, as in Keras, a schedule's place is taken by
    another schedule only. ``iterations`` counts the steps taken.

    Besides its configuration an optimiser has a state: ``iterations``, and the moments of every parameter. Both are
    kept here, together, from its first step on, and belong to the weights of one model. To compile that model again
    with the same object goes on as if nothing had happened; to train another one with it is an error, as in Keras.

    A step clips the gradients, then shrinks the parameters, then does what the class is about, as in Keras.

    Args:
        learning_rate: a number of at least 0, or a schedule.
        weight_decay: shrink every parameter by learning_rate * weight_decay first; None: not at all.
        clipnorm: the largest L2 norm that the gradient of one weight (a kernel, a bias) may have; a larger one is
            scaled down to it.
        clipvalue: the largest magnitude that an element of a gradient may have.
        global_clipnorm: the largest L2 norm that all gradients together may have. Only one of the three can be given.
        name: by default the class's, as in Keras.
    """

    _family = "Optimizer"
    keras_module = "keras.optimizers"
    kind = "optimizer"  # the class's name as a string
    saves_by_slot = False  # whether Keras saves one slot of all weights after the other, or weight after weight

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule,
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
        who, given = type(self).__name__, locals()
        neutral = {argument: values for argument, values in NEUTRAL.items() if argument in given}
        known = [argument for argument in self._parameters() if argument != "unsupported"]
        refuse(who, {argument: given[argument] for argument in neutral} | unsupported, neutral, known)
        self._learning_rate = self._checked_rate(learning_rate)
        self.weight_decay = None if weight_decay is None else number(who, "weight_decay", weight_decay, at_least=0)
        limits = {clip: number(who, clip, given[clip], above=0) for clip in CLIPS if given[clip] is not None}
        if len(limits) > 1:
            raise ValueError(
                f"{who} can clip in one way only. Expected one of {', '.join(CLIPS)}. "
                f"Received: {', '.join(f'{clip}={limit:g}' for clip, limit in limits.items())}."
            )
        self.clipnorm, self.clipvalue, self.global_clipnorm = (limits.get(clip) for clip in CLIPS)
        self._name = checking.optional_name(who, name) or self.kind
        self._iterations = 0
        self._moments: dict[str, dict[str, np.ndarray]] = {}  # by slot and by "layer/weight"
        self._known: dict[str, Any] | None = None  # what each weight belongs to, since the first step
        self._model: weakref.ref[Keeper] | None = None  # whose trainer may hold newer moments than these

    def _why_frozen(self) -> str | None:
        return "a model has been trained with it" if self.built else None

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the moments: arrays, one for each parameter, that the optimiser keeps from step to step."""
        return ()

    @property
    def name(self) -> str:
        return self._name

    @property
    def learning_rate(self) -> Any:  # a float to read; a float or a schedule to set
        """The learning rate of the next step; to be set to a number or to a schedule."""
        return Rate(self.learning_rate_at(self._iterations), lambda value: setattr(self, "learning_rate", value))

    @learning_rate.setter
    def learning_rate(self, value: float | LearningRateSchedule) -> None:
        checked = self._checked_rate(value)
        if self.schedule is not None and not isinstance(checked, LearningRateSchedule):
            raise TypeError(
                f"The learning rate of this {type(self).__name__} follows a schedule, {self.schedule!r}. Expected "
                f"another schedule, as in Keras. Received: {value!r:.100}. Fix: an optimizer made with a number as its "
                "learning_rate."
            )
        self._learning_rate = checked

    def _checked_rate(self, value: Any) -> float | LearningRateSchedule:
        return (
            value
            if isinstance(value, LearningRateSchedule)
            else number(type(self).__name__, "learning_rate", value, at_least=0)
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
        return Count(self._iterations, lambda value: setattr(self, "iterations", value))

    @iterations.setter
    def iterations(self, value: int) -> None:
        self._iterations = integer(type(self).__name__, "iterations", value, at_least=0, at_most=MOST_STEPS)

    # The state

    @property
    def built(self) -> bool:
        """Whether the optimiser has a state, and so belongs to a model."""
        return self._known is not None

    def belong(self, model: "Keeper", identities: Mapping[str, Any], frozen: Mapping[str, Any]) -> None:
        """Become the optimiser of that model, or a ValueError: ``identities`` say what each of its trainable weights
        is, by "layer/weight", and ``frozen`` the same of those that are not trained now."""
        if self._known is None and not identities:
            return  # nothing is trained, so that it is nobody's yet, as in Keras
        if self._known is None:
            self._known = dict(identities)
        if strangers := self.strangers(identities):
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

    def strangers(self, identities: Mapping[str, Any]) -> list[str]:
        """Those of the weights that are not among the ones the optimiser was built for."""
        known = self._known or {}
        return [name for name, identity in identities.items() if known.get(name) is not identity]

    def knows(self, weight: str) -> bool:
        """Whether a weight, "layer/weight", is one of those that the optimiser has a state for."""
        return self._known is not None and weight in self._known

    def moments(self) -> dict[str, dict[str, np.ndarray]]:
        """Copies of the moments, by slot ("momentum", "velocity") and by "layer/weight"; none before the first step."""
        self._fetch()
        kept = {slot: self._moments.get(slot, {}) for slot in self.slots}
        return {slot: {name: array.copy() for name, array in each.items()} for slot, each in kept.items()}

    def _fetch(self) -> None:
        """Take over what the trainer has."""
        model = self._model() if self._model is not None else None
        if model is not None:
            model._hand_over_moments()

    def keep(self, moments: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Take these arrays as the moments of their weights."""
        for slot, each in moments.items():
            self._moments[slot] = {**self._moments.get(slot, {}), **each}

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

    # The step

    def steps(self, state: State) -> list[Step]:
        """The kernels that update all parameters of ``state``, with their arguments."""
        return [*self._clip(state), self.update(state)]

    def _clip(self, state: State) -> list[Step]:
        grads = state.grads.flat
        if self.clipvalue is not None:
            return [("clip_values", {"grads": grads, "limit": self.clipvalue})]
        limit = self.clipnorm if self.clipnorm is not None else self.global_clipnorm
        if limit is None or not state.grads.shapes:
            return []
        parts = state.parts(together=self.clipnorm is None)
        sums = state.kernels.allocate((len(parts),), np.float64)
        return [("clip_norms", {"grads": grads, "sums": sums, "parts": parts, "limit": limit})]

    def update(self, state: State) -> Step:
        """The kernel that moves the parameters, with its arguments."""
        raise TypeError(f"{type(self).__name__} does not say how to update: override update(state).")

    def _shared(self, state: State) -> dict[str, Any]:
        """What the kernels of all optimisers take."""
        arrays = {"params": state.params.flat, "grads": state.grads.flat, "learning_rate": state.learning_rate}
        return {**arrays, "weight_decay": self.weight_decay or 0.0}

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an optimiser like this one."""
        rest = {argument: getattr(self, argument) for argument in ("weight_decay", *CLIPS)}
        return {"name": self.name, "learning_rate": self._learning_rate, **rest}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """An optimiser like the one whose ``get_config`` gave this; a schedule may be in its saved form."""
        if isinstance(config, Mapping) and isinstance(config.get("learning_rate"), Mapping):
            config = {**config, "learning_rate": schedules.deserialize(config["learning_rate"])}
        return super().from_config(config)

    def __repr__(self) -> str:
        rate = f"{self.schedule!r}" if self.schedule is not None else f"{self._learning_rate:g}"
        return f"<{type(self).__name__} learning_rate={rate}, iterations={self._iterations}>"


class Keeper(Protocol):
    """What an optimiser needs of the model that it trains."""

    def _hand_over_moments(self) -> None: ...


def passed_on(constructor: Callable[..., None], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a constructor, from its ``locals()``, that the constructor of its base class takes too; with
    those that nobody knows, for an error.

    So the signatures of optimisers stand in full where a reader and a type-checker look, and nowhere else.
    """
    known = inspect.signature(constructor).parameters
    return {name: value for name, value in given.items() if name in known and name != "unsupported"} | given[
        "unsupported"
    ]
