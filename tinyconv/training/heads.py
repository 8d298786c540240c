"""What ``compile`` asks of each output of a model: a loss, its weight, metrics; and what a run reports of them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinyconv import losses, metrics
from tinyconv.checking import invalid, number
from tinyconv.checking.arguments import Shape
from tinyconv.checking.messages import received
from tinyconv.losses import Loss
from tinyconv.metrics import Metric
from tinyconv.plan import ops
from tinyconv.plan.state import LOSSES, PENALTY


@dataclass(frozen=True)
class Watched:
    """A metric of an output: its name in reports, whether samples count by their weights, where its totals begin."""

    name: str
    metric: Metric
    weighted: bool
    slot: int = 0


@dataclass(frozen=True)
class Head:
    """One output that has a loss: its number, its name, the shape of a sample of it, and what is computed there.
    ``slot``: where the totals of the loss begin."""

    output: int
    name: str
    shape: Shape
    loss: Loss
    weight: float
    watched: tuple[Watched, ...]
    slot: int = LOSSES

    def op(self, weighted: bool) -> ops.Loss:
        """The loss and the metrics in a plan; ``weighted``: whether samples have weights."""
        measures = tuple(each.metric.measure(each.slot, weighted and each.weighted) for each in self.watched)
        op = self.loss.op(self.shape, measures, weighted)
        name = "loss" if self.slot == LOSSES else f"{self.name}_loss"
        return replace(op, name=name, weight=self.weight, slot=self.slot)


def heads(
    names: Sequence[str], shapes: Sequence[Shape], loss: Any, weights: Any, wanted: Any, weighted: Any = None
) -> list[Head]:
    """The outputs that have a loss. Each argument of ``compile`` is for the only output, or a list with an entry for
    each, or a dict by the outputs' names; one loss can be for all."""
    several = len(names) > 1
    each = per_output("loss", loss, names, one_for_all=True)
    factors = per_output("loss_weights", weights, names)
    plain = _metrics("metrics", wanted, names, shapes)
    counted = _metrics("weighted_metrics", weighted, names, shapes)
    found = []
    for number_, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        if each[number_] is None:
            if plain[number_] or counted[number_]:
                raise ValueError(f"Output {name!r} has metrics, and no loss. Expected a loss for it in compile().")
            continue
        factor = factors[number_]
        weight = 1.0 if factor is None else number("compile", "loss_weights", factor)
        prefix = f"{name}_" if several else ""
        watched = [Watched(prefix + metric.name, metric, False) for metric in plain[number_]]
        watched += [Watched(prefix + metric.name, metric, True) for metric in counted[number_]]
        found.append(Head(number_, name, shape, losses.get(each[number_]), weight, tuple(watched)))
    return _laid_out(found, several)


def _metrics(argument: str, wanted: Any, names: Sequence[str], shapes: Sequence[Shape]) -> list[list[Metric]]:
    given = per_output(argument, wanted, names) if len(names) > 1 else [wanted]
    listed = [each if isinstance(each, list | tuple) else [each] for each in given]
    return [
        [metrics.get(metric, shape) for metric in each if metric is not None]
        for each, shape in zip(listed, shapes, strict=True)
    ]


def _laid_out(found: Sequence[Head], several: bool) -> list[Head]:
    """The heads with places in the totals for losses and metrics, whose names are numbered where one is taken, as in
    Keras, which calls a weighted metric "weighted" then."""
    taken: dict[str, int] = {}
    named: dict[tuple[int, int], str] = {}
    for weighted in (False, True):
        for i, head in enumerate(found):
            for j, each in enumerate(head.watched):
                if each.weighted is weighted:
                    name, prefix = each.name, f"{head.name}_" if several else ""
                    if weighted and name in taken:
                        name = f"{prefix}weighted_{each.metric.name}"
                    taken[name] = taken.get(name, -1) + 1
                    named[i, j] = f"{name}_{taken[name]}" if taken[name] else name
    slot, result = LOSSES + 2 * len(found), []
    for i, head in enumerate(found):
        watched = []
        for j, each in enumerate(head.watched):
            watched.append(replace(each, name=named[i, j], slot=slot))
            slot += each.metric.size
        result.append(replace(head, watched=tuple(watched), slot=LOSSES + 2 * i))
    return result


def reported(found: Iterable[Head]) -> list[Watched]:
    """The metrics in the order of reports: those that count all samples alike, then the weighted ones."""
    return sorted((each for head in found for each in head.watched), key=lambda each: each.weighted)


def log_names(found: Sequence[Head]) -> list[str]:
    """What a run reports: the whole loss; of several losses each; metrics."""
    losses_ = [f"{head.name}_loss" for head in found] if len(found) > 1 else []
    return ["loss", *losses_, *(each.name for each in reported(found))]


def totals_of(found: Sequence[Head]) -> int:
    """The number of totals of all of it."""
    return LOSSES + 2 * len(found) + sum(each.metric.size for each in reported(found))


def loss_of(found: Sequence[Head], totals: np.ndarray) -> tuple[float, list[float]]:
    """The whole loss that totals stand for, and each output's."""
    samples = max(totals[LOSSES + 1], 1)
    means = [float(totals[head.slot] / samples) for head in found]
    weighted = sum(head.weight * mean for head, mean in zip(found, means, strict=True))
    return float(totals[PENALTY] / samples) + weighted, means


def report(found: Sequence[Head], totals: np.ndarray) -> dict[str, float]:
    """The means and the metrics that totals stand for, by name. The metrics know them from then on too."""
    whole, means = loss_of(found, totals)
    values = [whole, *(means if len(found) > 1 else ())]
    for each in reported(found):
        each.metric.take(totals[each.slot : each.slot + each.metric.size])
        values.append(each.metric.result())
    return dict(zip(log_names(found), values, strict=True))


def as_list(found: Sequence[Head], logs: Mapping[str, float]) -> Any:
    """The values of a report in Keras' order, a number if there is only one. What is not called by the loss's or a
    metric's own name stands at the end by its name; a name that two metrics share, Keras has twice."""
    losses_ = log_names(found)[1 : 1 + len(found)] if len(found) > 1 else []
    names = ["loss", *(each.metric.name for each in reported(found)), *losses_]
    values = [logs[name] for name in (*names, *sorted(set(logs) - set(names))) if name in logs]
    return values if len(values) > 1 else values[0]


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
    if isinstance(value, list | tuple) and not (len(names) == 1 and "metrics" in argument):
        if len(value) != len(names):
            expected = f"one entry for each of {', '.join(map(repr, names))}"
            raise invalid("", argument, expected, value)
        return list(value)
    if value is None or len(names) == 1 or one_for_all:
        return [value] * len(names)
    raise invalid("", argument, f"a list or a dict, with an entry for each of {', '.join(map(repr, names))}", value)
