"""What ``compile`` asks of each output of a model: a loss, its weight, metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinyconv import losses, metrics
from tinyconv.checking import invalid, number
from tinyconv.checking.arguments import Shape
from tinyconv.checking.messages import received
from tinyconv.losses import Loss
from tinyconv.metrics import Metric


@dataclass(frozen=True)
class Head:
    """One output that has a loss: its number, its name, the shape of a sample of it, and what is computed there."""

    output: int
    name: str
    shape: Shape
    loss: Loss
    weight: float
    metrics: tuple[Metric, ...]


def heads(names: Sequence[str], shapes: Sequence[Shape], loss: Any, weights: Any, wanted: Any) -> list[Head]:
    """The outputs that have a loss. Each argument of ``compile`` is for the only output, or a list with an entry for
    each, or a dict by the outputs' names; one loss can be for all."""
    each = per_output("loss", loss, names, one_for_all=True)
    factors = per_output("loss_weights", weights, names)
    measured = per_output("metrics", wanted, names) if len(names) > 1 else [wanted]
    found = []
    for number_, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        listed = measured[number_] if isinstance(measured[number_], list | tuple) else [measured[number_]]
        listed = [metric for metric in listed if metric is not None]
        if each[number_] is None:
            if listed:
                raise ValueError(f"Output {name!r} has metrics, and no loss. Expected a loss for it in compile().")
            continue
        factor = factors[number_]
        weight = 1.0 if factor is None else number("compile", "loss_weights", factor)
        computed = tuple(metrics.get(metric, shape) for metric in listed)
        found.append(Head(number_, name, shape, losses.get(each[number_]), weight, computed))
    return found


def log_names(found: Sequence[Head], outputs: int) -> list[str]:
    """What a run reports, in the order of its totals: the whole loss; of several outputs each one's loss; metrics."""
    if outputs == 1:
        return ["loss", *(metric.name for head in found for metric in head.metrics)]
    losses_ = [f"{head.name}_loss" for head in found] if len(found) > 1 else []
    return ["loss", *losses_, *(f"{head.name}_{metric.name}" for head in found for metric in head.metrics)]


def per_output(argument: str, value: Any, names: Sequence[str], one_for_all: bool = False) -> list[Any]:
    """``value`` as a list with an entry, or None, for each of the outputs (or inputs) of these names."""
    if isinstance(value, Mapping) and not ("class_name" in value and "config" in value):
        strangers = [name for name in value if name not in names]
        if strangers:
            raise ValueError(
                f"Unknown name in {argument}. Expected some of {', '.join(map(repr, names))}. "
                f"Received: {received(strangers[0])}."
            )
        return [value.get(name) for name in names]
    if isinstance(value, list | tuple) and not (len(names) == 1 and argument == "metrics"):
        if len(value) != len(names):
            expected = f"one entry for each of {', '.join(map(repr, names))}"
            raise invalid("", argument, expected, value)
        return list(value)
    if value is None or len(names) == 1 or one_for_all:
        return [value] * len(names)
    raise invalid("", argument, f"a list or a dict, with an entry for each of {', '.join(map(repr, names))}", value)
