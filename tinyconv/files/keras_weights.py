"""A model's weights and its optimiser's state under the paths that Keras gives them in an HDF5 file.

``layers/<class in snake case>[_<n>]/vars/<i>`` is the i-th weight of the n-th layer of its class. ``optimizer/vars/0``
counts the steps; ``1`` is the learning rate, unless a schedule gives it; after that come the moments: Adam's m and v
weight by weight, RMSprop's one after the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tinyconv.checking.messages import warn
from tinyconv.files import hdf5
from tinyconv.files.keras_config import Leaf, entry_paths
from tinyconv.network import Network
from tinyconv.optimizers import Optimizer

OPTIMIZER = "optimizer/vars"
KERAS_OPTIMIZER_NAMES = {"adam": "adam", "adamw": "adam_w", "rmsprop": "rm_sprop", "sgd": "sgd"}


def leaves_of(entries: Sequence[Any], above: str = "") -> list[Leaf]:
    """Every layer of a model, those of models within too, the path of its weights, and the shape of its input."""
    found: list[Leaf] = []
    for entry, path in zip(entries, entry_paths(entries, above), strict=True):
        found += leaves_of(entry.layers, path) if hasattr(entry, "_entry_calls") else [(entry, path, entry.input_shape)]
    return found


def dumps(model: Network) -> bytes:
    """All of a model's numbers as the bytes of an HDF5 file."""
    arrays: dict[str, np.ndarray] = {}
    names = {}
    for layer, path, _ in leaves_of(model.layers):
        names[path] = layer.name
        arrays |= {f"{path}/{i}": array for i, array in enumerate(layer.arrays.values())}
    if model.optimizer is not None:
        names[OPTIMIZER] = KERAS_OPTIMIZER_NAMES.get(model.optimizer.kind, model.optimizer.kind)
        state = optimizer_arrays(model.optimizer, model.optimizer_state() if model.optimizer.built else {})
        arrays |= {f"{OPTIMIZER}/{i}": array for i, array in enumerate(state)}
    return hdf5.dumps(arrays, {**names, "vars": model.name})


def fitting_weights(
    leaves: Sequence[Leaf], groups: hdf5.Groups, where: str, skipped: dict[str, str] | None = None
) -> list[np.ndarray]:
    """The weights of these layers out of a file's arrays, all of which must fit. Nothing is allocated. If there is a
    dict ``skipped``, layers that they do not fit keep their own, and go there with the reason."""
    weights: list[np.ndarray] = []
    expected: set[str] = set()
    for layer, path, input_shape in leaves:
        try:
            shapes = [spec.shape for spec in layer.weight_specs(input_shape)]
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{where}: {error}") from None
        try:
            weights += _take(groups, path, shapes, f"layer {layer.name!r}", where)
        except ValueError as error:
            if skipped is None:
                raise
            weights += layer.get_weights()
            skipped[layer.name] = str(error)
        expected.add(path)
    for group in groups:
        # A model within that was trained by itself brings its optimiser, which is of no use in this one.
        own = group.startswith("layers/") and group.endswith("/vars") and not group.endswith(f"/{OPTIMIZER}")
        if own and group not in expected:
            name = group[len("layers/") : -len("/vars")]
            if skipped is None:
                raise ValueError(f"{where} has weights for {name!r}, which is not a layer of this model.")
            skipped[name] = "is not a layer of this model."
    return weights


def _take(groups: hdf5.Groups, path: str, shapes: list[tuple[int, ...]], what: str, where: str) -> list[np.ndarray]:
    """The numbered float32 arrays of a group, which must have exactly these shapes."""
    members = groups.get(path, {})
    if set(members) != {str(i) for i in range(len(shapes))}:
        raise ValueError(f"{where}: expected {len(shapes)} arrays for {what}. Received: {len(members)} in {path!r}.")
    for i, shape in enumerate(shapes):
        found = members[str(i)]
        if found.shape != shape or found.dtype != np.float32:
            raise ValueError(
                f"{where}: {path}/{i} does not fit {what}. Expected float32 of shape {shape}. "
                f"Received: {found.dtype} of shape {found.shape}."
            )
    return [members[str(i)] for i in range(len(shapes))]


# The optimiser


def keras_order(optimizer: Optimizer, names: Iterable[str]) -> list[tuple[str, str]]:
    """The slots and the names of the weights of all moments, in Keras' order."""
    if optimizer.saves_by_slot:
        return [(slot, name) for slot in optimizer.slots for name in names]
    return [(slot, name) for name in names for slot in optimizer.slots]


def optimizer_arrays(optimizer: Optimizer, moments: Mapping[str, Mapping[str, np.ndarray]]) -> list[np.ndarray]:
    """An optimiser's state in Keras' order."""
    arrays = [np.array(optimizer.iterations, np.int64)]
    if optimizer.schedule is None:
        arrays.append(np.array(optimizer.learning_rate, np.float32))
    return arrays + [moments[slot][name] for slot, name in keras_order(optimizer, next(iter(moments.values()), {}))]


def load_optimizer(model: Network, groups: hdf5.Groups, where: str, same: bool = False) -> None:
    """Set the optimiser's state from a file's arrays; with a warning, as in Keras, leave it if it does not fit.

    ``same``: the file has the optimiser too, so that its learning rate comes from there, and the moments may be
    missing: Keras saves none before the first step. Otherwise the optimiser keeps the learning rate that it was given,
    and has a state only if it has trained.
    """
    optimizer, found = model.optimizer, groups.get(OPTIMIZER, {})
    if optimizer is None or not found:
        return
    first = 1 if optimizer.schedule is not None else 2  # the first of the moments
    moments = model.optimizer_state()
    order = keras_order(optimizer, next(iter(moments.values()), {}))
    numbers = [found[str(i)] for i in range(len(found)) if str(i) in found]
    ready = same or optimizer.built
    if len(numbers) == first and not ready:
        return  # neither has made a step
    wanted = [moments[slot][name].shape for slot, name in order] if ready else []
    if not (ready and _fits(numbers, first, [wanted, []] if same else [wanted])):
        ours, theirs = first + len(wanted), len(found)
        reason = f"it has {ours} variables whereas the saved optimizer has {theirs} variables"
        if ours == theirs:
            reason = "its variables have other shapes than those of the saved optimizer"
        warn(f"{where}: Skipping variable loading for optimizer {optimizer.name!r}, because {reason}.")
        return
    if numbers[0] < 0 or not all(np.isfinite(array) and array >= 0 for array in numbers[1:first]):
        raise ValueError(f"{where} is damaged: the optimiser's state is not possible.")
    try:
        optimizer.iterations = int(numbers[0])
    except ValueError as error:
        raise ValueError(f"{where} is damaged: {error}") from None
    if same and optimizer.schedule is None and np.float32(optimizer.learning_rate) != numbers[1]:
        optimizer.learning_rate = float(numbers[1])
    if len(numbers) == first and (wanted or not numbers[0]):
        return
    state: dict[str, dict[str, np.ndarray]] = {slot: {} for slot in optimizer.slots}
    for (slot, name), array in zip(order, numbers[first:], strict=True):
        state[slot][name] = array
    model.set_optimizer_state(state)


def _fits(numbers: list[np.ndarray], first: int, moments: list[list[tuple[int, ...]]]) -> bool:
    """Whether a file's arrays are this optimiser's: a counter, ``first`` - 1 numbers, then moments of these shapes."""
    shapes = [array.shape for array in numbers]
    types = [array.dtype.kind for array in numbers]
    right = shapes[:first] == [()] * first and shapes[first:] in moments
    return right and types == ["i"] + ["f"] * (len(types) - 1)
