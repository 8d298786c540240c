"""Models and weights in files.

    model.save_weights("m.safetensors")     the weights, sealed with their SHA-256
    model.save_weights("m.weights.h5")      the same in Keras' own layout, the optimiser's state included
    model.save("m.keras")                   everything: layers, weights, optimiser; Keras opens it, and the reverse
    model = tinyconv.saving.load_model("m.keras")

A file is read as data and nothing else: nothing in it is executed, imported or turned into a path, what it may take
of memory is bounded by its own size, and whatever does not fit exactly is an error. Files are written atomically
(:mod:`tinyconv.saving.atomic`).
"""

import os
import stat
from typing import TYPE_CHECKING

import numpy as np

from tinyconv.checking import boolean
from tinyconv.checking.extras import need
from tinyconv.checking.messages import explained, refuse, warn
from tinyconv.layers import Layer
from tinyconv.saving import atomic, hdf5, keras_archive, keras_weights, safetensors

if TYPE_CHECKING:
    from tinyconv.models.sequential import Sequential

AnyPath = atomic.AnyPath

SAFETENSORS, KERAS_H5, KERAS_ARCHIVE = ".safetensors", ".weights.h5", ".keras"
WRITERS = {
    KERAS_H5: hdf5.WRITER,
    KERAS_ARCHIVE: hdf5.WRITER,
    ".onnx": ("Exporting needs", "onnx"),
}


def save_weights(model: "Sequential", path: AnyPath, overwrite: bool = True) -> None:
    """Write a model's weights: ".safetensors", or ".weights.h5" for Keras."""
    kind = check_target(path, SAFETENSORS, KERAS_H5, overwrite=overwrite)
    model._need_built()
    atomic.write(path, safetensors.dumps(named_weights(model)) if kind == SAFETENSORS else keras_weights.dumps(model))


def load_weights(model: "Sequential", path: AnyPath, skip_mismatch: bool = False) -> None:
    """Read weights into a model of the same layers.

    A ".weights.h5" also brings the state (the step count and the moments) of an optimiser that has trained this model
    before; the learning rate stays what ``compile`` was given.

    ``skip_mismatch``: layers that do not fit keep the weights they have, with a warning that names them.
    """
    kind = kind_of(path, SAFETENSORS, KERAS_H5)
    model._need_built()
    content, where = _read(path)
    skipped: dict[str, str] | None = {} if skip_mismatch else None
    if kind == SAFETENSORS:
        weights = fitting_layers(model.layers, safetensors.loads(content, where)[0], where, skipped)
        groups: hdf5.Groups = {}
    else:
        groups = hdf5.by_group(hdf5.loads(content, where))
        shape: tuple[int, ...] = model.input_shape[1:]  # type: ignore[assignment]
        weights = keras_weights.fitting_weights(model.layers, shape, groups, where, skipped)
    if skipped:
        reasons = "; ".join(f"{name!r}: {reason}" for name, reason in skipped.items())
        warn(f"{where}: {len(skipped)} layers were skipped, since they do not fit. {reasons}")
    keras_weights.load_optimizer(model, groups, where)  # first, since it may find damage
    model.set_weights(weights)


def save_model(model: "Sequential", path: AnyPath, overwrite: bool = True) -> None:
    """Write a whole model as a ".keras" archive."""
    check_target(path, KERAS_ARCHIVE, overwrite=overwrite)
    model._need_built()
    atomic.write(path, keras_archive.dumps(model))


@explained
def load_model(
    filepath: AnyPath,
    custom_objects: None = None,
    compile: bool = True,
    safe_mode: bool = True,
    *,
    backend: str | None = None,
) -> "Sequential":
    """The model of a ".keras" archive that tinyconv or Keras saved, ready to predict, and to train where it stopped.

    Args:
        filepath: the file.
        custom_objects: must be None: a file can hold tinyconv's own layers only.
        compile: whether to compile it too, with the loss, metrics and optimiser it was saved with.
        safe_mode: must be True: no file is read in any other way.
        backend: which kernels compute, as in :meth:`tinyconv.Sequential.compile`.
    """
    unsupported = {"custom_objects": custom_objects, "safe_mode": safe_mode}
    refuse("load_model()", unsupported, {"custom_objects": (None, {}), "safe_mode": (True,)})
    kind_of(filepath, KERAS_ARCHIVE)
    return keras_archive.loads(*_read(filepath), boolean("load_model", "compile", compile), backend)


def named_weights(model: "Sequential") -> dict[str, np.ndarray]:
    """All weights, by "layer/weight"."""
    return {name: array for layer in model.layers for name, array in _named(layer).items()}


def _named(layer: Layer) -> dict[str, np.ndarray]:
    return {f"{layer.name}/{name}": array for name, array in layer.arrays.items()}


def fitting_layers(
    layers: list[Layer], found: dict[str, np.ndarray], where: str, skipped: dict[str, str] | None = None
) -> list[np.ndarray]:
    """The arrays ``found`` in the order of the layers' weights, which they must fit. If there is a dict ``skipped``,
    layers that they do not fit keep their own, and go there with the reason."""
    if skipped is None:
        return fitting({name: array for layer in layers for name, array in _named(layer).items()}, found, where)
    groups, weights = hdf5.by_group(found), []
    for layer in layers:
        theirs = {f"{layer.name}/{name}": array for name, array in groups.pop(layer.name, {}).items()}
        try:
            weights += fitting(_named(layer), theirs, where)
        except ValueError as error:
            weights += layer.get_weights()
            skipped[layer.name] = str(error)
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


def check_target(path: AnyPath, *suffixes: str, parents: bool = False, overwrite: bool = True) -> str:
    """Raise at once what saving to ``path`` would raise at the end of a run; the suffix that its name has.

    Args:
        path: the file to be written.
        suffixes: what its name may end in; none: anything. For ".keras", ".weights.h5" and ".onnx" the package that
            writes them must be installed.
        parents: whether folders that are missing will be made.
        overwrite: whether there may be such a file already.
    """
    kind = kind_of(path, *suffixes) if suffixes else os.path.splitext(atomic.text_of(path))[1]
    if kind in WRITERS:
        need(*WRITERS[kind])
    atomic.probe(path, parents)
    if not overwrite and os.path.exists(path):
        raise FileExistsError(f"{atomic.text_of(path)!r} exists already. Fix: overwrite=True, or another name.")
    return kind


def kind_of(path: AnyPath, *suffixes: str) -> str:
    """Which of these suffixes a file's name has."""
    name = os.path.basename(atomic.text_of(path))
    for suffix in suffixes:
        if name.endswith(suffix):
            return suffix
    raise ValueError(f"Unknown kind of file. Expected a name that ends in {' or '.join(suffixes)}. Received: {path!r}.")


def _read(path: AnyPath) -> tuple[bytes, str]:
    """The bytes of a file, and its name for error messages."""
    name = atomic.text_of(path)
    try:
        opened = open(path, "rb", opener=_open_without_waiting)  # noqa: SIM115 - closed below
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {name!r} to load. Expected one that was saved there.") from None
    except IsADirectoryError:
        raise IsADirectoryError(f"{name!r} is a folder. Expected a file.") from None
    except PermissionError:
        raise PermissionError(f"{name!r} may not be read by this user. Fix: its permissions.") from None
    with opened as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{name!r} is a device or a pipe. Expected a file.")
        return file.read(), repr(name)


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer would wait for ever
