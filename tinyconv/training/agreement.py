"""What the ranks of a job agree on: before a run, that it is the same run; after a hook, what callbacks have changed.

Callbacks are called on rank 0 alone. Elsewhere :class:`Absent` stands for them.
"""

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tinyconv.callbacks import Callback, CallbackList
from tinyconv.callbacks.base import Position
from tinyconv.distribution.parallel import leads, together
from tinyconv.distribution.ranks import RankError
from tinyconv.distribution.receipts import sources, versions
from tinyconv.network import Network


class Absent(Callback):
    """A callback that is called on rank 0, and not here."""

    def __init__(self, other: Callback) -> None:
        self.other = other

    def wants(self, hook: str) -> bool:
        return self.other.wants(hook)


def here(callbacks: Sequence[Callback]) -> list[Callback]:
    """The callbacks as this rank has them."""
    return list(callbacks) if leads() else [Absent(callback) for callback in callbacks]


def told(verbose: Any) -> Any:
    """How much this rank says."""
    return verbose if leads() else 0


class Called(Protocol):
    """What is known of a run, by whoever calls its hooks: the trainer."""

    model: Network
    touched: bool

    def weights_changed(self) -> None: ...


def call_for_all(trainer: Called, callbacks: CallbackList, hook: str, *arguments: Any) -> None:
    """Call a hook; under a distribution on rank 0, whose callbacks may change logs, weights, the learning rate, the
    step count, or end the training: the others take it over."""
    team = together()
    if team is None:
        callbacks.call(hook, *arguments)
        return
    model, logs = trainer.model, arguments[-1]
    optimizer, error = model.optimizer, None
    if team.ranks.rank == 0:
        trainer.touched = False
        try:
            with team.ranks.alone():
                callbacks.call(hook, *arguments)
        except BaseException as raised:
            error = raised
        changed = {
            "logs": {name: float(value) for name, value in logs.items() if isinstance(value, int | float | np.number)},
            "stop": bool(model.stop_training),
            "steps": optimizer and (int(optimizer.iterations), optimizer._learning_rate),
            "weights": model.get_weights() if trainer.touched else None,
            "error": error and (isinstance(error, KeyboardInterrupt), f"{type(error).__name__}: {error}"),
        }
        team.ranks.first(changed)
        if error is not None:
            raise error
        return
    changed = team.ranks.first()
    if changed["error"]:
        interrupted, text = changed["error"]
        raise KeyboardInterrupt if interrupted else RankError(f"On rank 0, in {hook}: {text}")
    if "outputs" not in logs:
        logs.update(changed["logs"])
    if changed["weights"] is not None:
        model.set_weights(changed["weights"])
    model.stop_training = changed["stop"]
    if optimizer is not None:
        optimizer.iterations, optimizer._learning_rate = changed["steps"]
    callbacks.call(hook, *arguments)


def join(model: Network, start: Position, run: Mapping[str, Any]) -> Position:
    """Before a run of all ranks: see that it is the same for all, that all have rank 0's weights, and begin where rank
    0 does. ``run`` is what must be the same, by what a message calls it.

    Raises ValueError, on every rank, if something differs.
    """
    team = together()
    if team is None:
        return start
    ranks, optimizer = team.ranks, model.optimizer
    state = model.get_weights(), model.optimizer_state(), int(model.seed), optimizer and int(optimizer.iterations)
    rate = optimizer and optimizer._learning_rate
    run = {
        **versions(),
        "sources of tinyconv": sources(),
        "number of shards": team.shards,
        **_description(model),
        **run,
    }
    found = ranks.everyone((run, hashlib.sha256(pickle.dumps(state)).digest(), start), "its arguments")
    for name in run:
        values = [others.get(name) for others, _, _ in found]
        if any(other != values[0] for other in values):
            raise ValueError(_differs(name, values))
    if any(other != found[0][1] for _, other, _ in found):
        weights, moments, seed, iterations = ranks.first(state)
        model.set_weights(weights)
        if optimizer is not None:
            model.restart(seed, iterations, moments)
    rate = ranks.first(rate)
    if optimizer is not None:
        optimizer._learning_rate = rate
    return found[0][2]


def _differs(name: str, values: Sequence[Any]) -> str:
    """The message that not all ranks have the same."""
    other = next(rank for rank, value in enumerate(values) if value != values[0])
    return (
        f"The ranks of this job differ in: {name}. Expected the same on all of them. Received: {values[0]} on rank 0, "
        f"{values[other]} on rank {other}. Fix: run the same program, with the same data, in the same environment."
    )


def _description(model: Network) -> dict[str, Any]:
    """The model and how it is compiled, in short."""
    specs = [(name, spec.shape) for name, _, spec in model._specs()]
    optimizer, compiled = model.optimizer, model._compiled or {}
    config = optimizer.get_config() if optimizer else {}
    if optimizer is not None and optimizer.schedule is None:
        del config["learning_rate"]  # which may be that of a backup, on rank 0
    return {
        "weights of the model": str(specs),
        "optimizer": f"{type(optimizer).__name__} {config}",
        "losses and metrics": str(model.log_names),
        "backend": compiled.get("backend"),
    }


def digest(arrays: Sequence[np.ndarray | None]) -> str:
    """What shows whether two ranks have the same data."""
    found = hashlib.sha256()
    for array in arrays:
        if array is not None:
            found.update(f"{array.shape} {array.dtype}".encode())
            found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()[:16]
