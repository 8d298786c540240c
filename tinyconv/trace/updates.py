"""Explanations of what an optimiser does with a gradient: its moments, the step, and the new weight."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tinyconv.kernels import reference
from tinyconv.kernels.reference.dropout import STEP
from tinyconv.trace.explanation import Explanation, Fact, Place, Rows, reference_to, single
from tinyconv.trace.record import Record, Weight


@dataclass(frozen=True)
class Rule:
    """An optimiser's kernel: the terms of its step and of its moments, with their formulas, and its line."""

    formula: str
    mark: str
    step: Callable[["Update"], list[Rows]]
    moments: Mapping[str, tuple[str, Callable[["Update"], list[Rows]]]]
    facts: Callable[["Update"], list[Fact]] = lambda update: []


class Update:
    """A number of a weight in a step."""

    def __init__(self, record: Record, weight: Weight, place: Place) -> None:
        assert weight.clipped is not None
        self.weight, self.place = weight, place
        *_, (self.kernel, self.numbers) = record.update
        self.clipping = [kernel for kernel, _ in record.update[:-1]]
        self.rate = float(self.numbers["learning_rate"])
        self.t = record.counters[STEP] + 1
        self.value = float(weight.value[place])
        self.raw, self.g = float(weight.gradient[place]), float(weight.clipped[place])  # type: ignore[index]

    def before(self, slot: str) -> float:
        return float(self.weight.moments_before[slot][self.place])

    def after(self, slot: str) -> float:
        return float(self.weight.moments[slot][self.place])

    def __getattr__(self, name: str) -> Any:
        """beta_1, rho, momentum: the kernel's arguments."""
        if name.startswith("_") or name not in self.__dict__.get("numbers", {}):
            raise AttributeError(name)
        return self.numbers[name]

    @property
    def step_size(self) -> float:
        """Adam's alpha_t."""
        return self.rate * math.sqrt(1 - self.beta_2**self.t) / (1 - self.beta_1**self.t)

    def decayed(self, slot: str, keep: float, new: list[tuple[str, Place | None, float]]) -> list[Rows]:
        """keep times what a moment was, and something new."""
        return [single((f"{keep:g}", None, keep), (slot, self.place, self.before(slot))), single(*new)]

    def moving(self, slot: str, keep: float, power: int) -> list[Rows]:
        """A moving mean of the gradient, or of its square."""
        new = [(f"1 − {keep:g}", None, 1 - keep), *[("g", self.place, self.g)] * power]
        return self.decayed(slot, keep, new)  # type: ignore[arg-type]


def _adam(u: Update) -> list[Rows]:
    scale = 1 / (math.sqrt(u.after("velocity")) + u.epsilon) if u.after("momentum") else 0.0
    return [single(("−α_t", None, -u.step_size), ("m", u.place, u.after("momentum")), ("1 / (√v + ε)", None, scale))]


def _rmsprop_scale(u: Update) -> float:
    variance = u.after("velocity")
    if "average_gradient" in u.weight.moments:  # centred
        variance = max(variance - u.after("average_gradient") ** 2, 0.0)
    return 1 / math.sqrt(variance + u.epsilon)


def _rmsprop(u: Update) -> list[Rows]:
    own = single(("−α", None, -u.rate), ("g", u.place, u.g), ("1 / √(v + ε)", None, _rmsprop_scale(u)))
    if not u.momentum:
        return [own]
    return [single((f"−{u.momentum:g}", None, -u.momentum), ("u", u.place, u.before("momentum"))), own]


def _rmsprop_velocity(u: Update) -> list[Rows]:
    new = [("α", None, u.rate), ("g", u.place, u.g), ("1 / √(v + ε)", None, _rmsprop_scale(u))]
    return u.decayed("momentum", u.momentum, new)


def _sgd(u: Update) -> list[Rows]:
    own = single(("−α", None, -u.rate), ("g", u.place, u.g))
    if not u.momentum:
        return [own]
    velocity = u.after("momentum") if u.nesterov else u.before("momentum")
    name = "u, after the step" if u.nesterov else "u"
    return [single((f"{u.momentum:g}", None, u.momentum), (name, u.place, velocity)), own]


RULES: dict[str, Rule] = {
    "adam_update": Rule(
        r"\theta \leftarrow \theta - \alpha_t \cdot \frac{m}{\sqrt{v} + \epsilon}, \quad "
        r"\alpha_t = \alpha \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}",
        "params -= step_size",
        _adam,
        {
            "momentum": (
                r"m \leftarrow \beta_1 \cdot m + (1 - \beta_1) \cdot g",
                lambda u: u.moving("momentum", u.beta_1, 1),
            ),
            "velocity": (
                r"v \leftarrow \beta_2 \cdot v + (1 - \beta_2) \cdot g^2",
                lambda u: u.moving("velocity", u.beta_2, 2),
            ),
        },
        lambda u: [Fact("α_t", u.step_size, f"the learning rate, corrected for step {u.t}, as m and v begin at 0")],
    ),
    "rmsprop_update": Rule(
        r"\theta \leftarrow \theta - u, \quad u \leftarrow \mu \cdot u + \frac{\alpha g}{\sqrt{v - a^2 + \epsilon}}",
        "params -= step",
        _rmsprop,
        {
            "velocity": (
                r"v \leftarrow \rho \cdot v + (1 - \rho) \cdot g^2",
                lambda u: u.moving("velocity", u.rho, 2),
            ),
            "momentum": (
                r"u \leftarrow \mu \cdot u + \frac{\alpha g}{\sqrt{v - a^2 + \epsilon}}",
                _rmsprop_velocity,
            ),
            "average_gradient": (
                r"a \leftarrow \rho \cdot a + (1 - \rho) \cdot g",
                lambda u: u.moving("average_gradient", u.rho, 1),
            ),
        },
    ),
    "sgd_update": Rule(
        r"u \leftarrow \mu \cdot u - \alpha \cdot g, \quad "
        r"\theta \leftarrow \theta + u \text{ (Nesterov: } + \mu u - \alpha g \text{)}",
        "params += step",
        _sgd,
        {
            "momentum": (
                r"u \leftarrow \mu \cdot u - \alpha \cdot g",
                lambda u: u.decayed("momentum", u.momentum, [("−α", None, -u.rate), ("g", u.place, u.g)]),
            )
        },
    ),
}


def explained_update(record: Record, weight: Weight, what: str, place: Place) -> Explanation:
    """The ``what`` of a weight: its "step", the "new" value, or one of the optimiser's moments by its slot."""
    update = Update(record, weight, place)
    rule = RULES[update.kernel]
    layer, _, name = weight.name.rpartition("/")
    if what in weight.moments:
        formula, rows_of = rule.moments[what]
        rows, value, label = rows_of(update), weight.moments[what][place], what
    else:
        formula, rows = rule.formula, rule.step(update)
        if update.weight_decay:
            factor = ("−α · weight decay", None, -update.rate * update.weight_decay)
            rows.insert(0, single(factor, (name, place, update.value)))
        value = weight.step[place] if what == "step" else weight.new[place]
        label = what if what == "step" else f"new_{name}"
        if what == "new":
            rows.insert(0, single((name, place, update.value)))
    facts = [Fact("g", update.raw, "the gradient"), Fact("α", update.rate, "the learning rate"), *rule.facts(update)]
    facts += [Fact(slot, update.after(slot), f"was {update.before(slot):.4g}") for slot in weight.moments]
    facts += [Fact("θ", update.value, f"becomes {float(weight.new[place]):.6g}")]
    if update.clipping:
        facts.insert(1, Fact("g, clipped", update.g, f"by {update.clipping[0]}"))
    said = (
        f"{record.optimizer}'s step {update.t}, for one number of {weight.name}.",
        f"The gradient {update.raw:.4g} says that the loss {'rises' if update.raw > 0 else 'falls'} with it, so it is "
        f"moved {'down' if update.raw > 0 else 'up'}; how far, the optimiser says." if update.raw else
        "The gradient is zero: what moves it is left from earlier steps, if anything is.",
    )  # fmt: skip
    code = reference_to(getattr(reference, update.kernel), rule.mark)
    return Explanation(layer, label, place, float(value), tuple(rows), formula, said, code, facts=tuple(facts))
