"""Models and weights in files.

    model.save_weights("m.safetensors")     the weights, sealed with their SHA-256
    model.save_weights("m.weights.h5")      the same in Keras' own layout, the optimiser's state included
    model.save("m.keras")                   everything: layers, weights, optimiser; Keras opens it, and the reverse
    model = tinyconv.saving.load_model("m.keras")

A file is read as data and nothing else: nothing in it is executed, imported or turned into a path, what it may take
of memory is bounded by its own size, and whatever does not fit exactly is an error. Files are written atomically
(:mod:`tinyconv.files.atomic`).
"""

from tinyconv.checking import boolean
from tinyconv.checking.messages import explained, refuse
from tinyconv.files import atomic, keras_archive, keras_weights
from tinyconv.files.keras_config import SavedModel
from tinyconv.files.store import load_weights, save_model, save_weights
from tinyconv.files.targets import KERAS_ARCHIVE, check_target, kind_of, read
from tinyconv.layers.symbolic import Tensor
from tinyconv.models.model import Model
from tinyconv.models.sequential import Sequential

__all__ = ["check_target", "load_model", "load_weights", "save_model", "save_weights"]


@explained
def load_model(
    filepath: atomic.AnyPath,
    custom_objects: None = None,
    compile: bool = True,
    safe_mode: bool = True,
    *,
    backend: str | None = None,
) -> Model:
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
    return model_of(*read(filepath), boolean("load_model", "compile", compile), backend)


def model_of(content: bytes, where: str, compile: bool = True, backend: str | None = None) -> Model:
    """The model that an archive's bytes hold; ``where`` they come from."""
    with keras_archive.reading(where):
        saved = keras_archive.loads(content, where, compile)
        model = _made(saved.model)
        model.seed = model.seed if saved.seed is None else saved.seed
        if isinstance(model, Sequential):
            model.build((None, *saved.model.input_shape))
        model.set_weights(saved.weights)
        if saved.compilation is not None:
            model.compile(**saved.compilation, backend=backend)
            keras_weights.load_optimizer(model, saved.groups, where, same=True)
    return model


def _made(saved: SavedModel) -> Model:
    """The model that a file describes."""
    entries = [_made(entry) if isinstance(entry, SavedModel) else entry for entry in saved.entries]
    if not saved.sources:
        return Sequential(entries, name=saved.name)
    values: dict[tuple[int, int, int], Tensor] = {(each, 0, 0): entries[each].output for each in saved.sources}
    counts: dict[int, int] = {}
    for number, reads in saved.calls:
        given = [values[read] for read in reads]
        found = entries[number](given[0] if len(given) == 1 else given)
        for output, tensor in enumerate(found if isinstance(found, list) else [found]):
            values[number, counts.get(number, 0), output] = tensor
        counts[number] = counts.get(number, 0) + 1
    return Model(
        [values[each, 0, 0] for each in saved.sources], [values[each] for each in saved.outputs], name=saved.name
    )
