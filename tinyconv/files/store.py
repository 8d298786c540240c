"""A model into files, and its weights back out of them."""

from collections.abc import Sequence

import numpy as np

from tinyconv.checking.messages import warn
from tinyconv.files import atomic, hdf5, keras_archive, keras_weights, safetensors
from tinyconv.files.targets import KERAS_ARCHIVE, KERAS_H5, SAFETENSORS, check_target, kind_of, read
from tinyconv.layers import Layer
from tinyconv.network import Network


def save_weights(model: Network, path: atomic.AnyPath, overwrite: bool = True) -> None:
    """Write a model's weights: ".safetensors", or ".weights.h5" for Keras."""
    kind = check_target(path, SAFETENSORS, KERAS_H5, overwrite=overwrite)
    model._need_built()
    atomic.write(path, safetensors.dumps(named_weights(model)) if kind == SAFETENSORS else keras_weights.dumps(model))


def load_weights(model: Network, path: atomic.AnyPath, skip_mismatch: bool = False) -> None:
    """Read weights into a model of the same layers.

    A ".weights.h5" also brings the state (the step count and the moments) of an optimiser that has trained this model
    before; the learning rate stays what ``compile`` was given.

    ``skip_mismatch``: layers that do not fit keep the weights they have, with a warning that names them.
    """
    kind = kind_of(path, SAFETENSORS, KERAS_H5)
    model._need_built()
    content, where = read(path)
    skipped: dict[str, str] | None = {} if skip_mismatch else None
    if kind == SAFETENSORS:
        weights = fitting_layers(model._leaves, safetensors.loads(content, where)[0], where, skipped)
        groups: hdf5.Groups = {}
    else:
        groups = hdf5.by_group(hdf5.loads(content, where))
        weights = keras_weights.fitting_weights(keras_weights.leaves_of(model.layers), groups, where, skipped)
    if skipped:
        reasons = "; ".join(f"{name!r}: {reason}" for name, reason in skipped.items())
        warn(f"{where}: {len(skipped)} layers were skipped, since they do not fit. {reasons}")
    keras_weights.load_optimizer(model, groups, where)  # first, since it may find damage
    model.set_weights(weights)


def save_model(model: Network, path: atomic.AnyPath, overwrite: bool = True) -> None:
    """Write a whole model as a ".keras" archive."""
    check_target(path, KERAS_ARCHIVE, overwrite=overwrite)
    model._need_built()
    atomic.write(path, keras_archive.dumps(model))


def named_weights(model: Network) -> dict[str, np.ndarray]:
    """All weights, by "layer/weight"."""
    return {name: array for leaf in model._leaves for name, array in _named(*leaf).items()}


def _named(path: str, layer: Layer) -> dict[str, np.ndarray]:
    return {f"{path}/{name}": array for name, array in layer.arrays.items()}


def fitting_layers(
    leaves: Sequence[tuple[str, Layer]],
    found: dict[str, np.ndarray],
    where: str,
    skipped: dict[str, str] | None = None,
) -> list[np.ndarray]:
    """The arrays ``found`` in the order of the layers' weights, which they must fit. If there is a dict ``skipped``,
    layers that they do not fit keep their own, and go there with the reason."""
    if skipped is None:
        return fitting({name: array for leaf in leaves for name, array in _named(*leaf).items()}, found, where)
    groups, weights = hdf5.by_group(found), []
    for path, layer in leaves:
        theirs = {f"{path}/{name}": array for name, array in groups.pop(path, {}).items()}
        try:
            weights += fitting(_named(path, layer), theirs, where)
        except ValueError as error:
            weights += layer.get_weights()
            skipped[path] = str(error)
    skipped |= dict.fromkeys(groups, "is not a layer of this model.")
    return weights


def fitting(expected: dict[str, np.ndarray], found: dict[str, np.ndarray], where: str) -> list[np.ndarray]:
    """The arrays ``found`` in the order of the expected ones, whose names, shapes and types they must have."""
    for name in sorted(found.keys() ^ expected.keys()):
        problem = "is missing" if name in expected else "is not a weight of this model"
        raise ValueError(f"{where} does not fit the model: {name!r} {problem}. Fix: build the model it was saved from.")
    for name, array in expected.items():
        if (found[name].shape, found[name].dtype) != (array.shape, array.dtype):
            raise ValueError(
                f"{where} does not fit the model: {name!r} differs. Expected {array.dtype} of shape {array.shape}. "
                f"Received: {found[name].dtype} of shape {found[name].shape}."
            )
    return [found[name] for name in expected]
